import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { loadSchemas, type Presenter, runDemo } from "../../src/index.ts";
import { hiveInProcess, plain } from "../support/cli.ts";
import { temporaryDirectory } from "../support/context.ts";
import { execute } from "../support/legacy-platform.ts";
import { DIST, isBuilt } from "../support/live.ts";
import { postgresDatabase } from "../support/postgres.ts";
import { executeSync, selectSync } from "../support/sync-postgres.ts";

const PATH = process.env.PATH ?? "";
const hasPython = spawnSync("python3", ["-c", "import sqlite3"]).status === 0;
const FULL = { timeout: 300_000 };

/** A process that has ended and was not waited for yet is none. */
function alive(pid: number): boolean {
  const { stdout } = spawnSync("ps", ["-o", "stat=", "-p", String(pid)], { encoding: "utf8" });
  return stdout.trim() !== "" && !stdout.trim().startsWith("Z");
}

const pidsIn = (text: string) => [...text.matchAll(/\(process (\d+)\)/g)].map(([, pid]) => Number(pid));

/** Of a progress line, what stays is what follows its last clearing. */
function screenOf(stdout: string): string {
  const lines = stdout.split("\n").map((line) => line.split("\r\u001b[2K").at(-1));
  return plain(lines.join("\n"));
}

const wordsOf = (line: string): string[] =>
  [...line.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].map((word) => word[1] ?? word[2] ?? word[3] ?? "");

/** A presenter that shows nothing and keeps what is said. */
function quiet(hive: Presenter["hive"]): Presenter & { readonly said: string[] } {
  const said: string[] = [];
  const note = (text: string) => void said.push(text);
  return {
    said,
    title: note,
    say: note,
    agents: note,
    shell: () => undefined,
    sql: async () => undefined,
    pause: async () => undefined,
    hive,
    watch: async () => ({
      ended: new Promise(() => undefined),
      stop: async () => ({ exit: 0, result: null }),
    }),
  };
}

/** Shows nothing and runs hive's commands, each after somebody had the opportunity to do harm. */
function sabotaged(directory: string, harm: (argv: readonly string[]) => void) {
  return quiet(async (argv) => {
    harm(argv);
    // What the agents notice is not the matter here: no need to wait for the lock budget.
    const { code, stdout } = await hiveInProcess([...argv, "--json"], {
      cwd: directory,
      env: { HIVE_LOCK_BUDGET: "1" },
    });
    return { exit: code, result: JSON.parse(stdout).result };
  });
}

test(
  "demo --fast --json, without python3 and without a folder: one object, every step as it should be",
  FULL,
  async () => {
    const cwd = temporaryDirectory();
    const empty = join(cwd, "empty");
    mkdirSync(empty);
    const run = await hiveInProcess(["demo", "--fast", "--json"], {
      cwd,
      // The first two would lead every command of the demo somewhere else.
      env: { HIVE_DATABASE: "sqlite:./nowhere.db", HIVE_CONFIG: "nothing.json", PATH: empty },
    });
    expect(run).toMatchObject({ code: 0, stderr: "" });
    const answer = JSON.parse(run.stdout);
    expect(answer).toMatchObject({ ok: true, command: "demo" });
    const { results } = await loadSchemas();
    const result = results.demo.strict().parse(answer.result);
    onTestFinished(() => rmSync(result.directory, { recursive: true }));
    expect(result.steps.filter(({ ok }) => !ok)).toEqual([]);
    expect(result.steps.length).toBeGreaterThan(20);
    expect(dirname(result.database)).toBe(result.directory);
    expect(readdirSync(result.directory)).toEqual(expect.arrayContaining(["hive.config.json", "platform.db"]));

    const { agents } = result;
    expect(agents).toMatchObject({ language: "node", before: { failures: 0 }, during: { failures: 0 } });
    const pids = agents?.processes.map(({ pid }) => pid) ?? [];
    expect(new Set([...pids, process.pid]).size).toBe(5);
    expect(pids.filter(alive)).toEqual([]);
    // They worked through everything between their start and their end.
    const steps = result.steps.map(({ step }) => step);
    const working = result.steps.filter((one) => one.agents !== null).map(({ step }) => step);
    expect(working).toEqual(
      steps.slice(steps.indexOf("agents at work"), steps.indexOf("every write of the agents is there")),
    );
    const done = result.steps.reduce((sum, one) => sum + (one.agents?.statements ?? 0), 0);
    expect(agents?.rows).toBeGreaterThan(20);
    expect(done).toBeGreaterThan(200);

    // In the folder, and from elsewhere with its path, as the demo says.
    expect(await hiveInProcess(["verify"], { cwd: result.directory })).toMatchObject({ code: 0 });
    const status = await hiveInProcess(["status", "--json", "--database", result.database], { cwd });
    expect(JSON.parse(status.stdout)).toMatchObject({ ok: true, result: { migrations: { head: true } } });
  },
);

test("what it prints are commands with their output, on 80 columns, and what to try next works", FULL, async () => {
  const cwd = temporaryDirectory();
  const run = await hiveInProcess(["demo", "try", "--fast"], { cwd, tty: true, env: { PATH } });
  const screen = screenOf(run.stdout);
  expect({ code: run.code, screen }).toMatchObject({ code: 0 });
  for (const command of [
    "status",
    "migrate up",
    "verify",
    "flags enable ai-reviewer",
    "flags enable ai-reviewer --flag dual-write",
    "sync --watch",
    "flags enable --all --flag dual-write",
    "backfill",
    "quarantine list",
    "check",
    "check --repair",
    "flags set ai-reviewer reads=shadow",
    "flags set ai-reviewer reads=live",
    'rollback --yes --reason "in doubt about the scores"',
    "audit verify",
  ]) {
    expect(screen).toContain(`\n$ hive ${command}\n`);
  }
  expect(screen).toContain("its backfill was never run");
  expect(screen).toContain("Consistent.");
  expect(screen.includes("Python 3")).toBe(hasPython);
  expect(screen).toMatch(/\nagents: \d+ statements\/s, 0 failed, p50 [\d.]+ ms, p95 [\d.]+ ms \(before hive\)\n/);
  const fared = [...screen.matchAll(/\nagents: \d+ statements\/s, 0 failed, [^(]*\(before: [\d.]+, [\d.]+\)\n/g)];
  expect(fared.length).toBeGreaterThan(15);
  expect(pidsIn(screen)).toHaveLength(4);
  expect(pidsIn(screen).filter(alive)).toEqual([]);
  // A path is not broken: it would not be a path any more.
  const long = screen.split("\n").filter((line) => [...line].length > 80 && !line.includes(cwd));
  expect(long).toEqual([]);

  const next = [...screen.slice(screen.indexOf("What to try next")).matchAll(/^ {2}hive (.*)$/gm)];
  expect(next.length).toBeGreaterThan(3);
  for (const [, line = ""] of next) {
    const tried = await hiveInProcess(wordsOf(line), { cwd });
    expect({ line, ...tried }).toMatchObject({ code: 0, stderr: "" });
  }
});

test(
  "on PostgreSQL: the same journey, on 80 columns, no password anywhere, and what to try next works",
  FULL,
  async () => {
    const cwd = temporaryDirectory();
    const url = new URL(await postgresDatabase());
    // Whoever the server trusts may send any password.
    url.password = url.password || "se%2Fcret";
    const run = await hiveInProcess(["demo", "try", "--fast", "--database", url.href], {
      cwd,
      tty: true,
      // Would lead every command of the demo somewhere else.
      env: { HIVE_DATABASE: "sqlite:./nowhere.db", PATH },
    });
    const screen = screenOf(run.stdout);
    expect({ code: run.code, screen }).toMatchObject({ code: 0 });
    expect(run.stdout + run.stderr).not.toContain(`:${url.password}@`);
    expect(screen).toMatch(/\(Node\.js [\d.]+, PostgreSQL [\d.]+\)/);
    expect(screen).toMatch(/they refused\s+\d+ more/);
    expect(screen).toContain("Consistent.");
    expect(pidsIn(screen)).toHaveLength(4);
    expect(pidsIn(screen).filter(alive)).toEqual([]);
    expect(readdirSync(join(cwd, "try")).sort()).toEqual(["agents.json", "hive.config.json"]);
    expect(statSync(join(cwd, "try", "hive.config.json")).mode & 0o077).toBe(0);
    const location = `${url.host}${url.pathname}`;
    const long = screen.split("\n").filter((line) => [...line].length > 80);
    expect(long.filter((line) => !line.includes(cwd) && !line.includes(location))).toEqual([]);

    const next = [...screen.slice(screen.indexOf("What to try next")).matchAll(/^ {2}hive (.*)$/gm)];
    expect(next.length).toBeGreaterThan(3);
    for (const [, line = ""] of next) {
      const tried = await hiveInProcess(wordsOf(line), { cwd });
      expect({ line, ...tried }).toMatchObject({ code: 0, stderr: "" });
    }
    const left =
      "SELECT schemaname, tablename FROM pg_tables WHERE tablename LIKE 'hive%' OR tablename LIKE 'unified%'";
    expect(selectSync(url.href, left)).toEqual([]);
  },
);

test("a PostgreSQL database that has tables is refused and left as it is, and so is any other database", async () => {
  const cwd = temporaryDirectory();
  const url = await postgresDatabase();
  executeSync(url, "CREATE SCHEMA mine; CREATE TABLE mine.notes (id int)");
  const run = await hiveInProcess(["demo", "try", "--json", "--database", url], { cwd });
  expect(run.code).toBe(4);
  expect(JSON.parse(run.stdout)).toMatchObject({
    ok: false,
    error: { code: "GUARD_REFUSED", details: { tables: ["mine.notes"] } },
  });
  expect(readdirSync(cwd)).toEqual([]);
  const tables =
    "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
  expect(selectSync(url, tables)).toEqual([{ schemaname: "mine", tablename: "notes" }]);
  const file = await hiveInProcess(["demo", "--json", "--database", "sqlite:./mine.db"], { cwd });
  expect(JSON.parse(file.stdout)).toMatchObject({ ok: false, error: { code: "USAGE" } });
  expect(readdirSync(cwd)).toEqual([]);
});

test("a folder that holds something is refused and left as it is", async () => {
  const cwd = temporaryDirectory();
  writeFileSync(join(cwd, "mine.txt"), "mine");
  const run = await hiveInProcess(["demo", ".", "--fast", "--json"], { cwd });
  expect(run.code).toBe(2);
  expect(JSON.parse(run.stdout)).toMatchObject({ ok: false, error: { code: "USAGE" } });
  expect(readdirSync(cwd)).toEqual(["mine.txt"]);
  const file = await hiveInProcess(["demo", "mine.txt", "--fast", "--json"], { cwd });
  expect(JSON.parse(file.stdout)).toMatchObject({ ok: false, error: { code: "USAGE" } });
});

test("interrupted, it says where the data is, and its agents are gone", async () => {
  const abort = new AbortController();
  const directory = join(temporaryDirectory(), "try");
  const presenter = quiet(async () => {
    abort.abort();
    return { exit: 130, result: null };
  });
  const result = runDemo({ directory, tasks: 200, abort: abort.signal, presenter });
  await expect(result).rejects.toMatchObject({ code: "INTERRUPTED", exitCode: 130 });
  await expect(result).rejects.toThrow(join(directory, "platform.db"));
  const pids = pidsIn(presenter.said.join("\n"));
  expect(pids).toHaveLength(4);
  expect(pids.filter(alive)).toEqual([]);
});

test("a step that comes out otherwise ends the journey, and is said to have failed", async () => {
  const presenter = quiet(async () => ({ exit: 1, result: null }));
  const result = await runDemo({ directory: join(temporaryDirectory(), "try"), tasks: 200, presenter });
  expect(result.steps.map(({ ok }) => ok)).toEqual([true, true, false]);
  expect(result.steps.at(-1)?.detail).toBe("hive status ended with 1, not 0");
  expect(presenter.said.at(-1)).toContain("not what should have come out");
  expect(result.agents?.processes.map(({ pid }) => pid).filter(alive)).toEqual([]);
});

test("one statement of an agent that fails is a step that fails", async () => {
  const directory = join(temporaryDirectory(), "try");
  const spoil = "BEFORE UPDATE ON workers BEGIN SELECT RAISE(ABORT, 'spoilt'); END";
  const presenter = sabotaged(directory, () =>
    execute(join(directory, "platform.db"), `CREATE TRIGGER IF NOT EXISTS spoil ${spoil}`),
  );
  const result = await runDemo({ directory, tasks: 200, presenter });
  const failed = result.steps.filter(({ ok }) => !ok);
  expect(failed).toMatchObject([{ detail: expect.stringContaining("spoilt") }]);
  expect(result.agents?.during.failures).toBeGreaterThan(0);
});

test("an agent that dies is a step that fails", async () => {
  const directory = join(temporaryDirectory(), "try");
  const presenter = sabotaged(directory, () => {
    process.kill(pidsIn(presenter.said.join("\n"))[1] ?? 0, "SIGKILL");
  });
  const result = await runDemo({ directory, tasks: 200, presenter });
  expect(result.steps.map(({ ok }) => ok)).toEqual([true, true, false]);
  expect(result.steps.at(-1)?.detail).toContain("the agent planner ended by itself");
});

test("a sync that ends by itself is a step that fails", async () => {
  const directory = join(temporaryDirectory(), "try");
  const presenter = sabotaged(directory, () => undefined);
  const ended = Promise.resolve({ exit: 5, result: null });
  const result = await runDemo({
    directory,
    tasks: 200,
    presenter: { ...presenter, watch: async () => ({ ended, stop: () => ended }) },
  });
  expect(result.steps.at(-1)).toMatchObject({ step: "sync --watch", ok: false });
});

test("a write that was acknowledged and is gone is a step that fails", FULL, async () => {
  const directory = join(temporaryDirectory(), "try");
  const presenter = sabotaged(directory, (argv) => {
    if (argv.includes("reads=live")) {
      execute(join(directory, "platform.db"), "DELETE FROM events WHERE event_id GLOB 'live-*'");
    }
  });
  const result = await runDemo({ directory, tasks: 200, presenter });
  expect(result.steps.filter(({ ok }) => !ok)).toMatchObject([
    { step: "the agents' writes are on both sides", detail: "an acknowledged write is not on the legacy side" },
  ]);
});

test.skipIf(!isBuilt())("killed, it leaves no agent behind", async () => {
  const program = `
    import { runDemo } from ${JSON.stringify(join(DIST, "index.js"))};
    const nothing = () => undefined;
    await runDemo({
      directory: ${JSON.stringify(join(temporaryDirectory(), "try"))},
      tasks: 200,
      presenter: {
        title: nothing, shell: nothing, agents: nothing, sql: nothing, pause: nothing,
        say: (text) => console.log(text),
        hive: () => new Promise(nothing),
      },
    });`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  let said = "";
  for await (const text of child.stdout.setEncoding("utf8")) {
    said += text;
    if (pidsIn(said).length === 4) break;
  }
  const pids = pidsIn(said);
  expect(pids.filter(alive)).toEqual(pids);
  child.kill("SIGKILL");
  await expect.poll(() => pids.filter(alive), { timeout: 30_000 }).toEqual([]);
});
