import { existsSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { loadSchemas, runDemo } from "../../src/index.ts";
import { hiveInProcess, plain } from "../support/cli.ts";
import { temporaryDirectory } from "../support/context.ts";

test("demo --fast --json: one object, every step as it should be; the database it leaves verifies", async () => {
  const cwd = temporaryDirectory();
  const run = await hiveInProcess(["demo", "try", "--fast", "--json"], {
    cwd,
    // Would lead every command of the demo somewhere else.
    env: { HIVE_DATABASE: "sqlite:./nowhere.db", HIVE_CONFIG: "nothing.json" },
  });
  expect(run).toMatchObject({ code: 0, stderr: "" });
  const answer = JSON.parse(run.stdout);
  expect(answer).toMatchObject({ ok: true, command: "demo" });
  const { results } = await loadSchemas();
  const result = results.demo.parse(answer.result);
  expect(result.steps.filter(({ ok }) => !ok)).toEqual([]);
  expect(result.steps.length).toBeGreaterThan(15);
  expect(result.database).toBe(join(cwd, "try", "platform.db"));
  expect(readdirSync(join(cwd, "try"))).toEqual(expect.arrayContaining(["hive.config.json", "platform.db"]));

  // In the folder, and from elsewhere with its path, as the demo says.
  expect(await hiveInProcess(["verify"], { cwd: result.directory })).toMatchObject({ code: 0 });
  const status = await hiveInProcess(["status", "--json", "--database", result.database], { cwd });
  expect(JSON.parse(status.stdout)).toMatchObject({ ok: true, result: { migrations: { head: true } } });
});

test("what it prints are commands with their output, on 80 columns, and what to try next works", async () => {
  const cwd = temporaryDirectory();
  let now = 0;
  const clock = {
    now: () => Date.now(),
    monotonic: () => performance.now() + now,
    random: () => 0.5,
    id: () => "id",
    sleep: async (ms: number) => {
      now += ms;
    },
  };
  const run = await hiveInProcess(["demo", "try", "--fast"], { cwd, tty: true, clock });
  expect(run.code).toBe(0);
  // Of a progress line, what stays is what follows its last clearing.
  const screen = plain(
    run.stdout
      .split("\n")
      .map((line) => line.split("\r\u001b[2K").at(-1))
      .join("\n"),
  );
  for (const command of [
    "status",
    "migrate up",
    "verify",
    "flags enable ai-reviewer",
    "flags enable ai-reviewer --flag dual-write",
    "backfill",
    "quarantine list",
    "check",
    "check --repair",
    "flags set ai-reviewer reads=shadow",
    "flags set ai-reviewer reads=live",
    'rollback --agent ai-reviewer --yes --reason "in doubt about the scores"',
    "audit verify",
  ]) {
    expect(screen).toContain(`\n$ hive ${command}\n`);
  }
  expect(screen).toContain("its backfill was never run");
  expect(screen).toContain("Consistent.");
  // A path is not broken: it would not be a path any more.
  const long = screen.split("\n").filter((line) => [...line].length > 80 && !line.includes(cwd));
  expect(long).toEqual([]);

  const next = [...screen.slice(screen.indexOf("What to try next")).matchAll(/^ {2}hive (.*)$/gm)];
  expect(next.length).toBeGreaterThan(3);
  for (const [, line = ""] of next) {
    const words = [...line.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].map((word) => word[1] ?? word[2] ?? word[3] ?? "");
    const tried = await hiveInProcess(words, { cwd });
    expect({ line, ...tried }).toMatchObject({ code: 0, stderr: "" });
  }
});

test("without a folder it makes a temporary one", async () => {
  const run = await hiveInProcess(["demo", "--fast", "--json"], { cwd: temporaryDirectory() });
  expect(run.code).toBe(0);
  const { directory, database } = JSON.parse(run.stdout).result;
  onTestFinished(() => rmSync(directory, { recursive: true }));
  expect(dirname(database)).toBe(directory);
  expect(existsSync(database)).toBe(true);
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

test("interrupted, it says where the data is", async () => {
  const cwd = temporaryDirectory();
  const abort = new AbortController();
  const directory = join(cwd, "try");
  const result = runDemo({
    directory,
    tasks: 500,
    abort: abort.signal,
    presenter: {
      title: () => undefined,
      say: () => undefined,
      shell: () => undefined,
      sql: async () => undefined,
      pause: async () => undefined,
      hive: async () => {
        abort.abort();
        return { exit: 130, result: null };
      },
    },
  });
  await expect(result).rejects.toMatchObject({ code: "INTERRUPTED", exitCode: 130 });
  await expect(result).rejects.toThrow(join(directory, "platform.db"));
});

test("a step that comes out otherwise ends the journey, and is said to have failed", async () => {
  const said: string[] = [];
  const result = await runDemo({
    directory: join(temporaryDirectory(), "try"),
    tasks: 500,
    presenter: {
      title: () => undefined,
      say: (text) => {
        said.push(text);
      },
      shell: () => undefined,
      sql: async () => undefined,
      pause: async () => undefined,
      hive: async () => ({ exit: 1, result: null }),
    },
  });
  expect(result.steps.map(({ ok }) => ok)).toEqual([true, false]);
  expect(result.steps.at(-1)?.detail).toBe("hive status ended with 1, not 0");
  expect(said.at(-1)).toContain("not what should have come out");
});
