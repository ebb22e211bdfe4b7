import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { describe, expect, test } from "vitest";
import { cells } from "../../src/cli/render.ts";
import { type ErrorCode, loadConfig, loadSchemas, openHive } from "../../src/index.ts";
import { hiveInProcess, hiveOnTerminal, LAUNCHER, plain, type Run, runHive } from "../support/cli.ts";
import { smallPlatform } from "../support/small-platform.ts";

const { results } = await loadSchemas();

const words = (command: string) => command.split(" ");

async function json(cwd: string, command: string, more: string[] = []): Promise<{ run: Run; answer: Answer }> {
  const run = await hiveInProcess([...words(command), ...more, "--json"], { cwd });
  expect(run.stdout.endsWith("\n")).toBe(true);
  const answer: Answer = JSON.parse(run.stdout);
  expect(run.stdout.trimEnd().split("\n")).toHaveLength(1);
  return { run, answer };
}

interface Answer {
  ok: boolean;
  command: string | null;
  result?: unknown;
  error?: { code: ErrorCode; message: string; hint: string | null; details: Record<string, unknown> };
}

test("the whole way there and back: every answer is as its schema says, and fits a terminal", async () => {
  const cwd = smallPlatform();
  const journey: readonly [command: string, args: string[], code: number][] = [
    ["status", [], 0],
    ["migrate status", [], 0],
    ["flags list", [], 0],
    ["check", ["hive-coder"], -1],
    ["verify", [], 3],
    ["migrate up", ["--dry-run"], 0],
    ["migrate up", [], 0],
    ["migrate up", [], 0],
    ["verify", [], 0],
    ["mapping test", ["--sample", "3"], 0],
    ["flags enable", ["--all", "--reason", "a\u001b[2Jb"], 0],
    ["backfill", ["--dry-run"], 0],
    ["flags set", ["hive-coder", "dual-write=on"], 0],
    ["flags enable", ["ai-reviewer", "--flag", "dual-write"], 0],
    ["backfill", [], 0],
    ["backfill", [], 0],
    ["check", [], 0],
    ["check", ["--key", "task-1"], 0],
    ["quarantine list", [], 0],
    ["quarantine retry", [], 0],
    ["quarantine discard", ["--all", "--dry-run"], 0],
    ["quarantine discard", ["--all", "--yes"], 0],
    ["quarantine list", ["--all"], 0],
    ["quarantine retry", ["--all", "--dry-run"], 0],
    ["kept list", [], 0],
    ["flags set", ["hive-coder", "reads=shadow"], 0],
    ["flags history", ["hive-coder"], 0],
    ["flags disable", ["ai-reviewer"], 0],
    ["status", [], 0],
    ["agents list", [], 0],
    ["agents list", ["--capability", "review"], 0],
    ["agents show", ["ai-reviewer"], 0],
    ["agents health", ["--dry-run"], 3],
    ["agents health", [], 3],
    ["rollback", ["--dry-run"], 0],
    ["rollback", ["--yes", "--reason", "enough"], 0],
    ["audit list", ["--limit", "5"], 0],
    ["audit verify", [], 0],
    ["migrate down", [], 0],
    ["migrate down", ["--to", "0"], 0],
    ["status", [], 0],
  ];
  for (const [command, args, code] of journey) {
    const { run, answer } = await json(cwd, command, args);
    const told = `${command} ${args.join(" ")}: ${run.stdout}`;
    if (code >= 0) expect(run.code, told).toBe(code);
    expect(run.stderr, told).toBe("");
    expect([answer.ok, answer.command], told).toEqual([true, command]);
    const schema = Object.entries(results).find(([name]) => name === command)?.[1];
    expect(schema?.strict().safeParse(answer.result).error, told).toBeUndefined();

    // Again for people: whatever writes has nothing left to do now, or says what it did.
    const human = await hiveInProcess([...words(command), ...args], { cwd, tty: true, env: { NO_COLOR: "1" } });
    expect(human.stdout, told).not.toBe("");
    expect(human.stdout, told).not.toContain("\u001b");
    if (args.includes("--dry-run") && command === "migrate up") continue;
    for (const line of human.stdout.split("\n")) expect(cells(line), line).toBeLessThanOrEqual(80);
  }
});

test("check says when its verdict opens no gate, and why", async () => {
  const cwd = smallPlatform();
  for (const command of ["migrate up", "backfill"]) expect((await json(cwd, command)).run.code).toBe(0);
  const said = async (args: string[]) =>
    (await hiveInProcess(["check", ...args], { cwd })).stdout.split("\n").filter((line) => line.includes("recorded"));
  expect(await said(["hive-coder"])).toEqual([]);
  expect((await json(cwd, "check")).answer.result).toMatchObject({ recorded: true, unrecorded: null });
  expect(await said(["hive-coder", "--dry-run"])).toEqual([expect.stringMatching(/not recorded.*a dry run\.$/)]);
  expect(await said(["--key", "task-1"])).toEqual([expect.stringMatching(/not recorded.*only some keys/)]);
});

describe("what hive kept", () => {
  async function kept(): Promise<string> {
    const cwd = smallPlatform();
    expect((await json(cwd, "migrate up")).run.code).toBe(0);
    const database = new Database(join(cwd, "hive.db"));
    const insert = database.prepare(
      "INSERT INTO hive_kept VALUES (?, '2026-01-01T00:00:00.000Z', 'tasks', ?, ?, ?, ?, ?)",
    );
    insert.run(1, "task-1", "hive-coder", "unified", "it has \u001b[2J", '{"unified_tasks":[{"id":"task-1"}]}');
    insert.run(2, "task-2", "", "unified", "its root row was gone", "{}");
    database.close();
    return cwd;
  }

  test("can be looked at, page by page", async () => {
    const cwd = await kept();
    expect((await hiveInProcess(["kept", "list", "--limit", "1"], { cwd })).stdout).toBe(
      "tasks task-1  hive-coder, unified side, 2026-01-01T00:00:00Z\n  it has \\x1b[2J\n\n" +
        "2 kept; hive kept list --after 1 shows the next. → Their rows: hive kept list --json\n",
    );
    const { answer } = await json(cwd, "kept list", ["--after", "1"]);
    expect(results["kept list"].strict().safeParse(answer.result).error).toBeUndefined();
    expect(answer.result).toMatchObject({ entries: [{ seq: 2, agent: "" }], total: 2, next: null });
  });

  test("is not dropped without a yes: migrate down asks where --force would lose what nobody else has", async () => {
    const cwd = await kept();
    const refused = await hiveInProcess(["migrate", "down", "--to", "0"], { cwd });
    expect(refused.code).toBe(4);
    expect(refused.stderr).toContain("hive_kept holds 2 aggregates");
    expect(refused.stderr).toContain("hive kept list");
    const forced = ["--to", "0", "--force", "--reason", "looked at"];
    const { run, answer } = await json(cwd, "migrate down", forced);
    expect(run.code).toBe(2);
    expect(answer.error).toMatchObject({ code: "CONFIRMATION_NEEDED", details: { kept: 2 } });
    const no = await hiveOnTerminal(["migrate", "down", ...forced], [{ expect: "same?", type: "n\r" }], { cwd });
    expect(no.code).toBe(2);
    expect(plain(no.screen)).toContain("hive_kept holds 2 aggregates");
    expect((await json(cwd, "migrate down", [...forced, "--dry-run"])).run.code).toBe(0);
    expect((await json(cwd, "migrate status")).answer.result).toMatchObject({ head: true });

    // Where nothing would be lost, force overrides nothing, and there is nothing to ask.
    const fewer = ["--force", "--reason", "x"];
    expect((await json(cwd, "migrate down", fewer)).run.code).toBe(0);
    const done = await json(cwd, "migrate down", [...forced, "--yes"]);
    expect(done.answer.result).toMatchObject({
      current: null,
      keptSavedTo: expect.stringContaining("hive-kept"),
      journalMode: { from: "wal", to: "delete" },
    });
    const again = await hiveInProcess(["migrate", "up"], { cwd });
    expect(again.stdout).toMatch(/journal mode was delete and is wal now/);
    expect((await hiveInProcess(["migrate", "down", "--to", "0"], { cwd })).stdout).toMatch(
      /journal mode is delete again/,
    );
  });
});

test("drift is a verdict, not an error: ok, exit 3; repaired, exit 0", async () => {
  const cwd = smallPlatform();
  for (const command of ["migrate up", "backfill", "flags set hive-coder dual-write=on"]) {
    expect((await json(cwd, command)).run.code).toBe(0);
  }
  const database = new Database(join(cwd, "hive.db"));
  database.exec("UPDATE unified_tasks SET status = 'completed' WHERE id = 'task-1'");
  database.close();
  const { run, answer } = await json(cwd, "check");
  expect(run.code).toBe(3);
  expect(answer).toMatchObject({ ok: true, result: { consistent: false, different: 1, drift: [{ key: "task-1" }] } });
  const human = await hiveInProcess(["check"], { cwd });
  expect(human.code).toBe(3);
  expect(human.stdout).toContain("task-1");
  expect(human.stdout).toContain("hive check --repair");
  expect((await hiveInProcess(["check", "--repair"], { cwd })).code).toBe(0);
  expect((await json(cwd, "check")).run.code).toBe(0);
});

describe("every kind of refusal has its code, its exit code and says what to do", () => {
  const cases: readonly [ErrorCode, number, string, string[], ((cwd: string) => void | Promise<void>)?][] = [
    ["DATABASE_NOT_FOUND", 2, "status", ["--database", "nowhere.db"]],
    ["NOT_A_DATABASE", 2, "status", ["--database", "hive.config.json"]],
    ["CONFIG_INVALID", 2, "status", ["--config", "nowhere.json"]],
    [
      "CONFIG_INVALID",
      2,
      "status",
      [],
      (cwd) => writeFileSync(join(cwd, "hive.config.json"), '{"database":"hive.db","agents":{"ai-reviwer":{}}}'),
    ],
    [
      "MAPPING_INVALID",
      2,
      "status",
      [],
      (cwd) => {
        writeFileSync(join(cwd, "mapping.js"), "throw new Error('from the module')");
        writeFileSync(join(cwd, "hive.config.json"), '{"database":"hive.db","mapping":"./mapping.js"}');
      },
    ],
    ["UNKNOWN_AGENT", 2, "backfill", ["ai-reviwer"], migrated],
    ["CONFIRMATION_NEEDED", 2, "quarantine discard", ["--all"], quarantined],
    ["CONFIRMATION_NEEDED", 2, "rollback", ["--no-input"], dualWriting],
    ["NOT_MIGRATED", 4, "backfill", []],
    ["NOT_MIGRATED", 4, "audit list", []],
    ["GUARD_REFUSED", 4, "flags set", ["hive-coder", "reads=shadow"], dualWriting],
    ["STAGE_IMPOSSIBLE", 4, "flags set", ["hive-coder", "reads=live", "--force", "--reason", "x"], migrated],
  ];

  test.each(cases)("%s (%i): hive %s %j", async (code, exit, command, args, prepare) => {
    const cwd = smallPlatform();
    await prepare?.(cwd);
    const { run, answer } = await json(cwd, command, args);
    expect(answer).toMatchObject({ ok: false, command, error: { code } });
    expect(run).toMatchObject({ code: exit, stderr: "" });
    expect(answer.error?.hint).toBeTruthy();
    const human = await hiveInProcess([...words(command), ...args], { cwd });
    expect(human).toMatchObject({ code: exit, stdout: "" });
    expect(human.stderr).toMatch(/^error: .*\n(.*\n)*→ /);
    expect(existsSync(join(cwd, "nowhere.db"))).toBe(false);
  });

  async function migrated(cwd: string): Promise<void> {
    expect((await json(cwd, "migrate up")).run.code).toBe(0);
  }
  async function quarantined(cwd: string): Promise<void> {
    await migrated(cwd);
    expect((await json(cwd, "backfill")).run.code).toBe(0);
  }
  async function dualWriting(cwd: string): Promise<void> {
    await migrated(cwd);
    expect((await json(cwd, "flags set", ["hive-coder", "dual-write=on"])).run.code).toBe(0);
  }

  test("the agent that was meant is suggested, also for one in the config", async () => {
    const cwd = smallPlatform();
    writeFileSync(join(cwd, "hive.config.json"), '{"database":"hive.db","agents":{"ai-reviwer":{}}}');
    const { answer } = await json(cwd, "status");
    expect(answer.error?.message).toContain('did you mean "ai-reviewer"?');
    expect(answer.error?.message).toContain("config");
  });

  test("--verbose shows the stack, and where it came from", async () => {
    const cwd = smallPlatform();
    writeFileSync(join(cwd, "mapping.js"), "throw new Error('from the module')");
    const run = await hiveInProcess(["status", "--verbose", "--json"], { cwd, env: { HIVE_MAPPING: "./mapping.js" } });
    expect(JSON.parse(run.stdout)).toMatchObject({ ok: false, error: { code: "MAPPING_INVALID" } });
    expect(run.stderr).toMatch(/HiveError: .*\n +at /);
    expect(run.stderr).toContain("caused by: Error: from the module");
  });

  test("LOCK_HELD (5) names the holder", async () => {
    const cwd = smallPlatform();
    const { settings } = await loadConfig({ cwd, env: {} });
    await using hive = await openHive(settings, { actor: "somebody" });
    await hive.migrations.up();
    await hive.context.store.withLock("migrate", { purpose: "the other one" }, async () => {
      const { run, answer } = await json(cwd, "migrate down", ["--lock-timeout", "0"]);
      expect(run.code).toBe(5);
      expect(answer.error).toMatchObject({ code: "LOCK_HELD" });
      const human = await hiveInProcess(["migrate", "down", "--lock-timeout", "0.2"], { cwd });
      expect(human.code).toBe(5);
      expect(human.stderr).toContain(`process ${process.pid}`);
    });
  });

  // bad-input.test.ts has the same case for root, through a read-only mount.
  const asRoot = process.getuid?.() === 0;
  if (asRoot) console.warn("skipped: DATABASE_READ_ONLY by file permissions, since root may write any file");
  test.skipIf(asRoot)("DATABASE_READ_ONLY (1)", async () => {
    const cwd = smallPlatform();
    chmodSync(join(cwd, "hive.db"), 0o444);
    expect((await json(cwd, "migrate up")).answer.error?.code).toBe("DATABASE_READ_ONLY");
  });

  test("INTERRUPTED (130), whether the command reads or writes", async () => {
    const cwd = smallPlatform();
    for (const command of ["status", "migrate up"]) {
      const run = await hiveInProcess([...words(command), "--json"], { cwd, abort: AbortSignal.abort() });
      expect(run.code).toBe(130);
      expect(JSON.parse(run.stdout).error.code).toBe("INTERRUPTED");
    }
    expect(readdirSync(cwd).sort()).toEqual(["hive.config.json", "hive.db"]);
  });
});

describe("the process", () => {
  test("prints what main prints, and exits with its code", async () => {
    const cwd = smallPlatform();
    const [child, here] = [
      await runHive(["status", "--json"], { cwd }),
      await hiveInProcess(["status", "--json"], { cwd }),
    ];
    expect(child).toMatchObject({ code: 0, stderr: "", signal: null });
    expect(JSON.parse(child.stdout)).toEqual(JSON.parse(here.stdout));
    expect((await runHive(["nonsense"], { cwd })).code).toBe(2);
    expect((await runHive(["--version"], { cwd })).stdout).toMatch(/^hive \d/);
  });

  test("a reader that goes away is no failure", async () => {
    const cwd = smallPlatform();
    const child = spawn(process.execPath, [LAUNCHER, "status"], { cwd, stdio: ["ignore", "pipe", "pipe"] });
    child.stdout.destroy();
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    const [code] = await once(child, "close");
    expect([code, stderr]).toEqual([0, ""]);
  });

  test("the first SIGINT lets it end cleanly, a second one kills", async () => {
    const cwd = smallPlatform();
    const { settings } = await loadConfig({ cwd, env: {} });
    await using hive = await openHive(settings, { actor: "somebody" });
    await hive.migrations.up();
    await hive.context.store.withLock("migrate", { purpose: "the other one" }, async () => {
      let signals = 0;
      const run = await runHive(["migrate", "down", "--lock-timeout", "30"], {
        cwd,
        onStderr: (_, kill) => {
          signals += 1;
          kill("SIGINT");
          setTimeout(() => kill("SIGINT"), 300);
        },
      });
      expect(signals).toBeGreaterThan(0);
      expect(run.stderr).toContain("waiting for");
      expect(run.code === 130 || run.signal === "SIGINT").toBe(true);
    });
    expect((await hive.migrations.status()).head).toBe(true);
  });

  test("on a terminal: colours, the plan, the question; no changes nothing", async () => {
    const cwd = smallPlatform();
    for (const command of ["migrate up", "flags set hive-coder dual-write=on"]) {
      expect((await json(cwd, command)).run.code).toBe(0);
    }
    const status = await hiveOnTerminal(["status"], [], { cwd });
    expect(status.screen).toContain("\u001b[1m");
    expect((await hiveOnTerminal(["status"], [], { cwd, env: { NO_COLOR: "1" } })).screen).not.toContain("\u001b[");

    const no = await hiveOnTerminal(["rollback"], [{ expect: "back to off?", type: "n\r" }], { cwd });
    expect(no.code).toBe(2);
    expect(plain(no.screen)).toMatch(/Plan:\n +hive-coder .*off/);
    const stage = async () => (await json(cwd, "flags list", ["hive-coder"])).answer.result;
    expect(await stage()).toMatchObject({ agents: [{ stage: "dualwrite" }] });
    const yes = await hiveOnTerminal(["rollback"], [{ expect: "back to off?", type: "y\r" }], { cwd });
    expect(yes.code).toBe(0);
    expect(await stage()).toMatchObject({ agents: [{ stage: "off" }] });
  });
});
