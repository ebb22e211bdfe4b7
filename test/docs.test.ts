import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { openHive } from "../src/hive.ts";
import { CONFIG_DEFAULTS, type Hive, loadConfig } from "../src/index.ts";
import { execute, select } from "./support/legacy-platform.ts";
import { smallPlatform } from "./support/small-platform.ts";

/** What docs/ shows runs as it stands there. */

const root = fileURLToPath(new URL("..", import.meta.url));
const DIST = resolve(process.env.HIVE_TEST_DIST ?? join(root, "dist"));
const read = (name: string) => readFileSync(join(root, name), "utf8");
const pages = [
  "README.md",
  "CONTRIBUTING.md",
  "examples/customers/README.md",
  ...readdirSync(join(root, "docs"))
    .filter((name) => name.endsWith(".md"))
    .map((name) => `docs/${name}`),
];

function example(language: string, page = "docs/for-agent-developers.md"): string {
  const [, text] = read(page).match(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, "ms")) ?? [];
  if (text === undefined) throw new Error(`${page} has no example in ${language}`);
  return text;
}

const AGENTS = ["ai-reviewer", "hive-coder"];
type Reads = "legacy" | "shadow" | "live";

async function toStage(hive: Hive, agent: string, ...stages: readonly Reads[]): Promise<void> {
  for (const reads of stages) {
    await hive.check({ agents: [agent] });
    await hive.flags.change([{ agent, flag: "reads", value: reads }]);
  }
}

const python = spawnSync("python3", ["--version"]).status === 0;
if (!python) process.stderr.write("skipped: the example for Python agents cannot run: there is no python3\n");

describe("docs/for-agent-developers.md", () => {
  test.skipIf(!python)("the agent in Python writes the schema that leads, for the agent whose row it is", async () => {
    const cwd = smallPlatform();
    const database = join(cwd, "hive.db");
    const program = join(cwd, "agent.py");
    writeFileSync(program, example("python"));
    const approve = (task: string) => {
      const run = spawnSync("python3", [program, database, task, "96"], { encoding: "utf8" });
      expect(run.status, run.stderr).toBe(0);
      return run.stdout.trim();
    };
    const legacy = (task: string) => select(database, `SELECT status FROM tasks WHERE id = '${task}'`)[0]?.status;
    const unified = (task: string) =>
      select(
        database,
        `SELECT status, review_score FROM unified_tasks JOIN unified_review_tasks ON task_id = id WHERE id = '${task}'`,
      )[0];

    // Tasks 0, 3, 6, … are reviews; task 1 is the coder's.
    expect(approve("task-0")).toBe("legacy");
    expect(legacy("task-0")).toBe("approved");

    await using hive = await openHive({ ...CONFIG_DEFAULTS, database, baseDirectory: cwd });
    await hive.migrations.up();
    await hive.flags.change(AGENTS.map((agent) => ({ agent, flag: "dual-write", value: "on" })));
    await hive.backfill();
    expect(approve("task-3")).toBe("legacy");
    await hive.sync();
    expect(unified("task-3")).toEqual({ status: "review_approved", review_score: null });

    await toStage(hive, "ai-reviewer", "shadow", "live");
    expect(approve("task-6")).toBe("unified");
    expect(unified("task-6")).toEqual({ status: "review_approved", review_score: 96 });
    expect(legacy("task-6")).toBe("queued");
    expect(approve("task-1")).toBe("legacy");
    expect(await hive.sync()).toMatchObject({ applied: 2, conflicts: 0, quarantined: 0, remaining: 0 });
    expect(legacy("task-6")).toBe("approved");
    expect(await hive.check()).toMatchObject({ consistent: true, inFlight: 0, drift: [] });

    await toStage(hive, "ai-reviewer", "shadow");
    expect(approve("task-9")).toBe("legacy");
  });

  test("the agent in TypeScript compiles, and runs at every stage", { timeout: 120_000 }, async () => {
    expect(existsSync(join(DIST, "index.js")), "npm run build").toBe(true);
    const cwd = smallPlatform();
    const database = join(cwd, "hive.db");
    execute(database, "INSERT INTO workers (id, role) VALUES ('worker-1', 'none')");
    project(cwd);
    writeFileSync(join(cwd, "agent.ts"), example("ts"));
    const tsc = join(root, "node_modules/typescript/bin/tsc");
    const compiled = spawnSync(process.execPath, [tsc, "-p", cwd], { encoding: "utf8" });
    expect(compiled.stdout).toBe("");
    const agent = () => {
      const run = spawnSync(process.execPath, [join(cwd, "agent.js")], { cwd, encoding: "utf8" });
      expect(run.stderr).toBe("");
      expect(run.status).toBe(0);
      return run.stdout;
    };
    const written = "SELECT status, count(*) AS tasks FROM tasks WHERE title = 'Review the parser' GROUP BY status";

    expect(agent()).toContain(" off [");
    await using hive = await openHive({ ...CONFIG_DEFAULTS, database, baseDirectory: cwd });
    await hive.migrations.up();
    await hive.flags.change([{ agent: "ai-reviewer", flag: "dual-write", value: "on" }]);
    await hive.backfill();
    expect(agent()).toContain(" dualwrite [");
    await toStage(hive, "ai-reviewer", "shadow", "live");
    expect(agent()).toContain(" live []");
    expect(select(database, written)).toEqual([{ status: "completed", tasks: 3 }]);
    expect(select(database, "SELECT role FROM workers")).toEqual([{ role: "reviewer" }]);
    expect(await hive.check()).toMatchObject({ consistent: true, inFlight: 0, drift: [] });
  });
});

describe("docs/agents.md", () => {
  test.skipIf(!python)("the agent in Python does the task, and says that it is well", async () => {
    const page = "docs/agents.md";
    const cwd = smallPlatform({ config: false });
    project(cwd);
    writeFileSync(join(cwd, "hive.config.json"), example("json", page));
    writeFileSync(join(cwd, "reviewer.py"), example("python", page));
    writeFileSync(join(cwd, "agent.ts"), example("ts", page));
    const { settings } = await loadConfig({ cwd, env: {} });
    await using hive = await openHive(settings);
    await hive.migrations.up();
    const compiled = spawnSync(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", cwd], {
      encoding: "utf8",
    });
    expect(compiled.stdout).toBe("");
    const run = spawnSync(process.execPath, [join(cwd, "agent.js")], { cwd, encoding: "utf8" });
    expect([run.stderr, run.stdout]).toEqual(["", '{"review_score":95,"violations":[],"suggestions":[]}\n']);
    expect(await hive.agents.health({ agents: ["ai-reviewer"] })).toMatchObject({ healthy: true });
    expect((await hive.status()).measured).toMatchObject({ tasks: { count: 1, failed: 0 } });
    await hive.agents.register({ agentId: "translator-1", agentType: "translator", capabilities: ["translate"] });
    expect((await hive.agents.list({ capability: "translate" })).agents).toMatchObject([{ agent: "translator-1" }]);
  });
});

/** A TypeScript project that has this hive installed. */
function project(cwd: string): void {
  const installed = join(cwd, "node_modules/hive-migrate");
  mkdirSync(join(cwd, "node_modules/@types"), { recursive: true });
  mkdirSync(installed);
  symlinkSync(join(root, "package.json"), join(installed, "package.json"));
  symlinkSync(DIST, join(installed, "dist"), "dir");
  symlinkSync(join(root, "migrations"), join(installed, "migrations"), "dir");
  symlinkSync(join(root, "node_modules/@types/node"), join(cwd, "node_modules/@types/node"), "dir");
  writeFileSync(join(cwd, "package.json"), '{"private":true,"type":"module"}');
  const compilerOptions = {
    ...{ target: "es2022", module: "nodenext", lib: ["es2023", "esnext.disposable"], types: ["node"] },
    ...{ strict: true, noUncheckedIndexedAccess: true, skipLibCheck: true, noEmitOnError: true },
  };
  writeFileSync(join(cwd, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["agent.ts"] }));
}

describe("links", () => {
  test.each(pages)("of %s lead somewhere, headings included", (page) => {
    expect(brokenLinks(page, read(page))).toEqual([]);
  });

  test("that lead nowhere would be noticed", () => {
    const text = "[a](nowhere.md) [b](README.md#nothing) [c](#here)\n\n## Here\n";
    expect(brokenLinks("some.md", text)).toEqual(["nowhere.md", "README.md#nothing"]);
  });
});

function brokenLinks(page: string, text: string): string[] {
  const prose = text.replaceAll(/^```.*?^```/gms, "");
  return [...prose.matchAll(/\]\(([^)]+)\)/g)]
    .map(([, target = ""]) => target)
    .filter((target) => {
      const [path = "", heading] = target.split("#");
      const file = path === "" ? page : join(dirname(page), path);
      if (!existsSync(join(root, file)) && path !== "") return true;
      return heading !== undefined && !headings(path === "" ? prose : read(file)).includes(heading);
    });
}

/** As GitHub names them. */
function headings(text: string): string[] {
  return [...text.matchAll(/^#+ (.+)$/gm)].map(([, title = ""]) =>
    title
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N} _-]/gu, "")
      .replaceAll(" ", "-"),
  );
}
