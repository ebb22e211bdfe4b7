import { spawn } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { afterAll, describe, expect, test } from "vitest";
import { ERROR_CODES, type ErrorCode } from "../../src/index.ts";
import { asNobody, disk, ended, filesOf, holdDatabase } from "../support/bad-places.ts";
import { hiveInProcess, LAUNCHER, type ProcessOptions, type Run, runHive } from "../support/cli.ts";
import { temporaryDirectory } from "../support/context.ts";
import { execute, integrity, select } from "../support/legacy-platform.ts";
import { smallPlatform } from "../support/small-platform.ts";

/**
 * Whatever is wrong with what hive is given: what is wrong, why, what to do now, the documented exit code, the same as
 * JSON, and nothing half done. Each error code comes through the built hive as a process, and so does whatever concerns
 * the process itself; further ways to the same code run in this one.
 */

/** Why a code cannot be provoked from outside; the tests below add to it what this machine cannot do. */
const unprovoked = new Map<ErrorCode, string>();
const provoked = new Set<ErrorCode>();

interface Expected {
  code: ErrorCode;
  says: readonly (string | RegExp)[];
}

interface Answer {
  ok: boolean;
  error?: { code: ErrorCode; message: string; hint: string | null; details: Record<string, unknown> };
}

const words = (command: string) => command.split(" ");

interface Options extends ProcessOptions {
  /** It is about the process: what ends it, what reaches it, what it prints while it dies. */
  asProcess?: boolean;
}

function hive(args: readonly string[], options: Options): Promise<Run> {
  return options.asProcess || options.through ? runHive(args, options) : hiveInProcess(args, options);
}

/** Runs it for people and as JSON; both have to be refused alike. `untouched`: a folder that has to stay as it is. */
async function refused(
  command: string | readonly string[],
  options: Options,
  { code, says }: Expected,
  untouched: string | null = options.cwd,
): Promise<Answer["error"]> {
  const args = typeof command === "string" ? words(command) : command;
  const before = untouched === null ? null : filesOf(untouched);
  const how = { ...options, asProcess: options.asProcess || !provoked.has(code) };
  const human = await hive(args, how);
  const told = `hive ${args.join(" ")}\n${human.stdout}${human.stderr}`;
  expect(human.code, told).toBe(ERROR_CODES[code].exit);
  expect(human.stdout, told).toBe("");
  expect(human.stderr, told).toMatch(/^(waiting for .*\n)?error: /);
  expect(human.stderr, told).toMatch(/\n→ \S/);
  expect(human.stderr, told).not.toMatch(/\n {4}at /);
  for (const what of says) {
    if (typeof what === "string") expect(human.stderr, told).toContain(what);
    else expect(human.stderr, told).toMatch(what);
  }
  const json = await hive([...args, "--json"], how);
  const answer = answerOf(json);
  expect(json.code, json.stdout).toBe(ERROR_CODES[code].exit);
  expect(json.stderr).toBe("");
  expect(answer).toMatchObject({ ok: false, error: { code, hint: expect.stringMatching(/\S/) } });
  if (untouched !== null) expect(filesOf(untouched)).toEqual(before);
  provoked.add(code);
  return answer.error;
}

function answerOf(run: Run): Answer {
  expect(run.stdout.trimEnd().split("\n"), run.stdout).toHaveLength(1);
  return JSON.parse(run.stdout);
}

async function done(command: string, options: Options): Promise<Run> {
  const run = await hive(words(command), options);
  expect(run.code, `hive ${command}\n${run.stdout}${run.stderr}`).toBe(0);
  return run;
}

const template = mkdtempSync(join(tmpdir(), "hive-migrated-"));
afterAll(() => rmSync(template, { recursive: true, force: true }));

/** A small platform that was migrated: once, and copied from then on. */
async function migrated(): Promise<string> {
  const cwd = smallPlatform();
  const path = join(template, "hive.db");
  if (!existsSync(path)) {
    await done("migrate up", { cwd, asProcess: true });
    execute(join(cwd, "hive.db"), `VACUUM INTO '${path}'; PRAGMA wal_checkpoint(TRUNCATE)`);
  } else {
    copyFileSync(path, join(cwd, "hive.db"));
    execute(join(cwd, "hive.db"), "PRAGMA journal_mode = WAL");
  }
  return cwd;
}

function addTasks(path: string, count: number): void {
  const db = new Database(path);
  const insert = db.prepare("INSERT INTO tasks (id, title, task_type, status, payload) VALUES (?, ?, ?, 'queued', ?)");
  db.transaction(() => {
    for (let i = 0; i < count; i++) insert.run(`more-${i}`, `title ${i}`, "backend", JSON.stringify({ i }));
  })();
  db.close();
}

/** Backfills what is left and compares: what was interrupted or refused has to converge. */
async function converges(cwd: string, path = join(cwd, "hive.db")): Promise<void> {
  expect(integrity(path)).toBe("ok");
  await done("migrate up", { cwd });
  await done("backfill", { cwd });
  const { stdout } = await done("check ai-reviewer hive-coder --json", { cwd });
  expect(JSON.parse(stdout).result).toMatchObject({ consistent: true, missing: 0, extra: 0, different: 0 });
  const again = JSON.parse((await done("backfill --json", { cwd })).stdout);
  expect(again.result.aggregates.written).toBe(0);
}

describe("what is no database", () => {
  const commands = ["status", "migrate up", "verify"];

  test.each(commands)("hive %s: there is none, and none is made", async (command) => {
    const cwd = smallPlatform();
    const env = { HIVE_DATABASE: "sqlite:./hvie.db" };
    const says = [join(cwd, "hvie.db"), "Nothing was created"];
    await refused(command, { cwd, env }, { code: "DATABASE_NOT_FOUND", says });
    expect(Object.keys(filesOf(cwd)).filter((file) => file.includes("hvie"))).toEqual([]);
  });

  const files: readonly [string, ErrorCode, RegExp, (path: string) => void][] = [
    ["a folder", "NOT_A_DATABASE", /is not a file/, (path) => mkdirSync(path)],
    ["a text", "NOT_A_DATABASE", /is not a SQLite database/, (path) => writeFileSync(path, "a text\n".repeat(1_000))],
    [
      "a picture",
      "NOT_A_DATABASE",
      /is not a SQLite database/,
      (path) => writeFileSync(path, Buffer.concat([Buffer.from("89504e470d0a1a0a", "hex"), Buffer.alloc(9_000, 7)])),
    ],
    [
      "a database cut off within its first page",
      "DATABASE_CORRUPT",
      /is damaged/,
      (path) => {
        copyFileSync(join(path, "../hive.db"), path);
        truncateSync(path, 3_000);
      },
    ],
    [
      "a database cut off within its header",
      "DATABASE_CORRUPT",
      /is damaged/,
      (path) => {
        copyFileSync(join(path, "../hive.db"), path);
        truncateSync(path, 50);
      },
    ],
  ];
  test.each(files)("%s: %s", async (_, code, says, make) => {
    const cwd = smallPlatform();
    make(join(cwd, "other.db"));
    for (const command of commands) {
      await refused(`${command} --database other.db`, { cwd }, { code, says: [says, join(cwd, "other.db")] });
    }
  });

  test("an empty file: status says what is missing, migrate up writes nothing into it", async () => {
    const cwd = smallPlatform();
    writeFileSync(join(cwd, "empty.db"), "");
    const says = ["has no tables", "--database"];
    await refused("migrate up --database empty.db", { cwd }, { code: "SCHEMA_MISMATCH", says });
    const status = await done("status --database empty.db", { cwd });
    expect(status.stdout).toContain("the legacy side is not complete");
    expect(status.stdout).not.toContain("hive migrate up");
    expect(readFileSync(join(cwd, "empty.db"))).toHaveLength(0);
  });

  test("a page in the middle is damaged: what meets it stops; nothing is half done", async () => {
    const cwd = await migrated();
    const path = join(cwd, "hive.db");
    addTasks(path, 2_000);
    execute(path, "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE");
    const [page] = select(
      path,
      "SELECT pageno FROM dbstat WHERE name = 'tasks' AND pagetype = 'leaf' LIMIT 1 OFFSET 20",
    );
    const bytes = readFileSync(path);
    bytes.fill(0xa5, (Number(page?.pageno) - 1) * 4_096, Number(page?.pageno) * 4_096);
    writeFileSync(path, bytes);
    const unified = () => select(path, "SELECT count(*) AS n FROM unified_tasks");
    for (const command of ["backfill", "check hive-coder"]) {
      await refused(command, { cwd }, { code: "DATABASE_CORRUPT", says: ["is damaged", "backup"] }, null);
    }
    // What was moved before is whole: each of them has its row and its place in the ledger.
    expect(Number(unified()[0]?.n)).toBeLessThan(2_030);
    expect((await hive(["status"], { cwd })).code).toBe(0);
  });
});

describe("what cannot be written", () => {
  test("a file system that is read-only", async ({ skip }) => {
    const place = disk(20_000);
    if ("reason" in place) return skip(skipped("DATABASE_READ_ONLY", place.reason));
    const cwd = await migrated();
    execute(join(cwd, "hive.db"), "PRAGMA wal_checkpoint(TRUNCATE)");
    copyFileSync(join(cwd, "hive.db"), join(place.folder, "wal.db"));
    copyFileSync(join(smallPlatform(), "hive.db"), join(place.folder, "legacy.db"));
    place.readOnly();
    const at = (name: string) => ({ cwd, env: { HIVE_DATABASE: join(place.folder, name) } });
    const expected: Expected = { code: "DATABASE_READ_ONLY", says: ["cannot be written", "permissions"] };
    for (const command of ["migrate up", "migrate up --lock-timeout 0"]) {
      await refused(command, at("legacy.db"), expected, place.folder);
    }
    for (const command of ["status", "verify", "check", "migrate up --dry-run", "mapping test"]) {
      expect([0, 3], command).toContain((await hive(words(command), at("legacy.db"))).code);
    }
    // SQLite itself cannot open a database in WAL mode there: the reason is told, with a way out.
    const reading: Expected = { code: "DATABASE_READ_ONLY", says: ["cannot be read", "WAL", "copy"] };
    for (const command of ["status", "backfill"]) await refused(command, at("wal.db"), reading, place.folder);
  });

  test("without the right to write, or to read", async ({ skip }) => {
    const nobody = asNobody();
    if ("reason" in nobody) return skip(skipped("DATABASE_READ_ONLY", nobody.reason));
    const cwd = smallPlatform();
    const path = join(cwd, "hive.db");
    chmodSync(cwd, 0o755);
    chmodSync(path, 0o644);
    const options = { cwd, through: nobody.command };
    await refused("migrate up", options, { code: "DATABASE_READ_ONLY", says: ["cannot be written"] });
    expect((await hive(["status"], options)).code).toBe(0);
    chmodSync(path, 0o600);
    await refused("status", options, { code: "DATABASE_READ_ONLY", says: ["cannot be read", "permissions"] });
  });

  test("a full disk during migrate up: a migration is there or not; afterwards it goes on", async ({ skip }) => {
    const place = disk(20_000);
    if ("reason" in place) return skip(skipped("DISK_FULL", place.reason));
    const cwd = smallPlatform();
    const path = join(place.folder, "hive.db");
    copyFileSync(join(cwd, "hive.db"), path);
    const options = { cwd, env: { HIVE_DATABASE: path } };
    place.resize(200);
    await refused("migrate up", options, { code: "DISK_FULL", says: ["is full", "Free some space"] }, null);
    expect(integrity(path)).toBe("ok");
    const { migrations } = JSON.parse((await done("status --json", options)).stdout).result;
    expect(migrations).toMatchObject({ head: false, problems: [] });
    place.resize(20_000);
    await done("migrate up", options);
    await done("verify", options);
  });

  test("a full disk during backfill: what was committed is kept; afterwards it goes on", async ({ skip }) => {
    const place = disk(60_000);
    if ("reason" in place) return skip(skipped("DISK_FULL", place.reason));
    const cwd = smallPlatform();
    const path = join(place.folder, "hive.db");
    copyFileSync(join(cwd, "hive.db"), path);
    addTasks(path, 5_000);
    const options = { cwd, env: { HIVE_DATABASE: path } };
    await done("migrate up", options);
    place.resize(2_300);
    await refused("backfill", options, { code: "DISK_FULL", says: ["is full", "what was committed is kept"] }, null);
    const { n } = select(path, "SELECT count(*) AS n FROM unified_tasks")[0] ?? {};
    expect(Number(n)).toBeLessThan(5_030);
    place.resize(60_000);
    writeFileSync(join(cwd, "hive.config.json"), JSON.stringify({ database: path }));
    await converges(cwd, path);
  });
});

/** Says it aloud, and lets the table of codes know. */
function skipped(code: ErrorCode, reason: string): string {
  unprovoked.set(code, reason);
  process.stderr.write(`skipped (${code}): ${reason}\n`);
  return reason;
}

describe("what others hold", () => {
  const env = { HIVE_BUSY_TIMEOUT_MS: "300" };

  test("another process writes and does not end: reading works, writing gives up", async () => {
    const cwd = await migrated();
    const holder = await holdDatabase(join(cwd, "hive.db"), "BEGIN IMMEDIATE; UPDATE tasks SET title = 'x'");
    for (const command of ["status", "verify", "flags list", "migrate status", "mapping test", "audit list"]) {
      await done(command, { cwd, env });
    }
    const says = ["kept the write lock", "300 ms", "Nothing was written"];
    for (const command of ["backfill", "flags enable --all", "migrate down"]) {
      await refused(command, { cwd, env }, { code: "DATABASE_BUSY", says });
    }
    await holder.end();
    await converges(cwd);
  });

  test("a database that another process has locked as a whole, before hive has ever been there", async () => {
    const cwd = smallPlatform();
    const holder = await holdDatabase(join(cwd, "hive.db"), "BEGIN EXCLUSIVE");
    for (const command of ["status", "migrate up"]) {
      await refused(command, { cwd, env }, { code: "DATABASE_BUSY", says: ["is locked by another process"] });
    }
    await holder.end();
    await converges(cwd);
  });

  /** A backfill of another hive that is stopped where it stands, with the lock in its hands. */
  async function stoppedBackfill(cwd: string) {
    addTasks(join(cwd, "hive.db"), 20_000);
    const child = spawn(process.execPath, [LAUNCHER, "backfill"], { cwd, stdio: "ignore" });
    const held = () =>
      select(join(cwd, "hive.db"), "SELECT 1 FROM hive_locks WHERE name = 'backfill' AND holder IS NOT NULL");
    const begun = () => select(join(cwd, "hive.db"), "SELECT 1 FROM unified_tasks LIMIT 1");
    while (held().length === 0 || begun().length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
    child.kill("SIGSTOP");
    return child;
  }

  test("another hive holds the lock: its name, and exit code 5; SIGINT ends the wait at once", async () => {
    const cwd = await migrated();
    const other = await stoppedBackfill(cwd);
    try {
      // In the middle of a transaction it would also hold the database.
      const error = await refused(
        "backfill --lock-timeout 0",
        { cwd },
        {
          code: "LOCK_HELD",
          says: ["hive backfill", `process ${other.pid}`, "--lock-timeout"],
        },
        null,
      );
      expect(error?.details).toMatchObject({ pid: other.pid, holder: "hive backfill" });
      const begun = performance.now();
      const waiting = await runHive(["backfill", "--lock-timeout", "600"], {
        cwd,
        onStderr: (text, kill) => {
          if (text.startsWith("waiting for")) kill("SIGINT");
        },
      });
      expect([waiting.code, waiting.signal]).toEqual([130, null]);
      expect(waiting.stderr).toContain("Interrupted while waiting");
      expect(performance.now() - begun).toBeLessThan(10_000);
    } finally {
      other.kill("SIGCONT");
      other.kill("SIGKILL");
      await ended(other);
    }
    await converges(cwd);
  });

  test("the lock was taken over while it worked: its last step is not written", async () => {
    const cwd = await migrated();
    addTasks(join(cwd, "hive.db"), 20_000);
    const takeOver = async () => {
      const db = new Database(join(cwd, "hive.db"), { timeout: 5_000 });
      const taken = db.prepare(
        "UPDATE hive_locks SET token = token + 1 WHERE name = 'backfill' AND holder IS NOT NULL",
      );
      while (taken.run().changes === 0) await new Promise((resolve) => setTimeout(resolve, 5));
      db.close();
    };
    const [run] = await Promise.all([runHive(["backfill", "--json"], { cwd }), takeOver()]);
    expect(run.code).toBe(ERROR_CODES.LOCK_LOST.exit);
    expect(answerOf(run).error).toMatchObject({
      code: "LOCK_LOST",
      hint: expect.stringContaining("run the command again"),
    });
    provoked.add("LOCK_LOST");
    execute(join(cwd, "hive.db"), "UPDATE hive_locks SET holder = NULL, expires_at = 0");
    await converges(cwd);
  });
});

describe("a history that is not this hive's", () => {
  test("a ledger newer than this hive: nothing is written; what only reads says so", async () => {
    const cwd = await migrated();
    execute(
      join(cwd, "hive.db"),
      `INSERT INTO hive_migrations SELECT '9999_later', 'hive', checksum, applied_at, 1, 0, 99, NULL FROM hive_migrations LIMIT 1;
       PRAGMA wal_checkpoint(TRUNCATE)`,
    );
    for (const command of [
      "migrate up",
      "migrate down",
      "backfill",
      "check",
      "check --repair",
      "flags enable --all",
      "flags set ai-reviewer dual-write=on --force --reason x",
      "quarantine retry",
      "quarantine discard --all --yes",
      "rollback --yes",
      "audit list",
    ]) {
      await refused(command, { cwd }, { code: "LEDGER_TOO_NEW", says: ["9999_later", "Upgrade this hive"] });
    }
    for (const command of ["status", "migrate status"]) {
      expect((await done(command, { cwd })).stdout).toMatch(/newer hive/);
    }
    expect((await hive(["verify"], { cwd })).code).toBe(3);
  });

  async function withOwnMigration(sections: string): Promise<string> {
    const cwd = smallPlatform();
    mkdirSync(join(cwd, "migrations"));
    writeFileSync(join(cwd, "migrations/0001_mine.sql"), sections);
    writeFileSync(join(cwd, "hive.config.json"), '{"database":"hive.db","migrations":["./migrations"]}');
    return cwd;
  }

  test("an altered migration", async () => {
    const cwd = await withOwnMigration(
      "-- migrate:up\nCREATE TABLE mine (id TEXT);\n-- migrate:down\nDROP TABLE mine;\n",
    );
    await done("migrate up", { cwd });
    appendFileSync(join(cwd, "migrations/0001_mine.sql"), "-- more\n");
    const expected: Expected = { code: "HISTORY_ALTERED", says: ["0001_mine was altered", "Restore the files"] };
    for (const command of ["migrate up", "migrate down"]) await refused(command, { cwd }, expected);
    expect((await done("migrate status", { cwd })).stdout).toContain("altered");
  });

  test("a migration that fails: those before it stay, nothing of it does", async () => {
    const cwd = await withOwnMigration(
      "-- migrate:up\nCREATE TABLE mine (id TEXT);\nINSERT INTO nowhere VALUES (1);\n",
    );
    const says = ["0001_mine failed", "no such table: nowhere", "Nothing of it was written"];
    await refused("migrate up", { cwd }, { code: "MIGRATION_FAILED", says }, null);
    expect(select(join(cwd, "hive.db"), "SELECT name FROM sqlite_schema WHERE name = 'mine'")).toEqual([]);
    expect((await done("migrate status", { cwd })).stdout).toMatch(/0001_mine +pending/);
  });

  test("a file that is no migration; a migration without a way back; a name that there is not", async () => {
    const cwd = await withOwnMigration("CREATE TABLE mine (id TEXT);\n");
    await refused("migrate up", { cwd }, { code: "MIGRATION_INVALID", says: ["0001_mine.sql", "-- migrate:up"] });
    writeFileSync(join(cwd, "migrations/0001_mine.sql"), "-- migrate:up\nCREATE TABLE mine (id TEXT);\n");
    await done("migrate up", { cwd });
    await refused("migrate down", { cwd }, { code: "NO_DOWN", says: ["0001_mine", "Nothing was reverted"] });
    const unknown: Expected = { code: "UNKNOWN_NAME", says: ["0002_unified_schema"] };
    await refused("migrate up --to 0002_unified", { cwd }, unknown);
    await refused("migrate down --to unified", { cwd }, unknown);
  });

  test("a new migration in a folder that is not in the config: what to add is said", async () => {
    const cwd = smallPlatform();
    const run = await done("migrate create mine", { cwd });
    expect(run.stdout).toContain('"migrations": ["./migrations"]');
    writeFileSync(join(cwd, "hive.config.json"), '{"database":"hive.db","migrations":["./migrations"]}');
    expect((await done("migrate create other", { cwd })).stdout).not.toContain('"migrations"');
  });
});

test("a server that is not there", async () => {
  const cwd = temporaryDirectory();
  // Nobody listens there.
  await refused(
    "status --database postgres://me:secret@127.0.0.1:1/db",
    { cwd },
    {
      code: "DATABASE_UNREACHABLE",
      says: ["postgres://me@127.0.0.1:1/db", "cannot be reached"],
    },
  );
});

describe("a config that is wrong", () => {
  const json = "hive.config.json";
  const cases: readonly [string, string, ...(string | RegExp)[]][] = [
    [json, '{"database":"hive.db","lockBugdet":0.1}', 'did you mean "lockBudget"?'],
    [json, '{"database":"hive.db","agents":{"ai-reviwer":{}}}', 'did you mean "ai-reviewer"?'],
    [json, '{"database":"hive.db","agents":{"ai-reviewer":{"waev":1}}}', 'did you mean "wave"?'],
    [json, '{"database":"hive.db","agents":["ai-reviewer"]}', "agents: expected an object, received a list"],
    [json, '{"database":5}', "database: expected a text, received a number"],
    [json, '{"database":"hive.db","lockBudget":"lots"}', "lockBudget: expected a number, received a text"],
    [json, '{"database":"hive.db","busyTimeoutMs":1.5}', "busyTimeoutMs: expected a whole number"],
    [json, '{"database":"hive.db","lockBudget":2}', "lockBudget"],
    [json, '{"database":"hive.db","mapping":"hvie"}', "hive"],
    [json, '{"database":"hive.db",\n "mapping"', /line 2, column \d+/],
    [json, "[]", "expected an object, received a list"],
    [json, "{}", "No database is named"],
    [json, '{"database":"mysql://somewhere/db"}', "mysql: databases are not supported"],
    [json, '{"database":"postgres://somewhere/db?poller=session"}', 'did you mean "pooler"?'],
    [".hiverc", "database: hive.db\n bad: [1", "Mend the YAML"],
    [".hiverc.yaml", "databse: hive.db", 'did you mean "database"?'],
  ];
  test.each(cases)("%s: %s", async (file, content, ...says) => {
    const cwd = smallPlatform({ config: false });
    writeFileSync(join(cwd, file), content);
    const code = content.includes("hvie") ? "MAPPING_INVALID" : "CONFIG_INVALID";
    await refused("migrate up", { cwd }, { code, says });
  });

  test("a config that is not there, that is a folder, that is something else", async () => {
    const cwd = smallPlatform();
    mkdirSync(join(cwd, "folder"));
    const expected = (...says: string[]): Expected => ({ code: "CONFIG_INVALID", says });
    await refused(
      "status --config nowhere.json",
      { cwd },
      expected("There is no config file", "--config", "hive init"),
    );
    const env = { HIVE_CONFIG: "nowhere.json" };
    await refused("status", { cwd, env }, expected("There is no config file", "HIVE_CONFIG"));
    await refused("status --config folder", { cwd }, expected("cannot be read", "A config is a file"));
    await refused("status --config hive.db", { cwd }, expected("not .db", "hive init"));
    await refused("status", { cwd, env: { HIVE_LOCK_BUDGET: "lots" } }, expected("HIVE_LOCK_BUDGET"));
  });

  test("a problem is said once, and further ones are listed", async () => {
    const cwd = smallPlatform();
    writeFileSync(join(cwd, json), '{"database":"hive.db","lockBugdet":0.1}');
    const one = (await hive(["status"], { cwd })).stderr;
    expect(one.match(/lockBugdet/g)).toHaveLength(1);
    writeFileSync(join(cwd, json), '{"database":5,"migrations":7}');
    expect((await hive(["status"], { cwd })).stderr).toContain("migrations");
  });
});

describe("a mapping that is wrong", () => {
  const GOOD_UP = "({ notes: [note] }) => ({ new_notes: [{ id: note.id, text: note.body }] })";
  const GOOD_DOWN = "({ new_notes: [note] }) => ({ notes: [{ id: note.id, body: note.text }] })";

  function mappingText({ up = GOOD_UP, down = GOOD_DOWN, agent = '() => "writer"' } = {}): string {
    return `export default {
      name: "notes", migrations: "./migrations", agents: [{ name: "writer" }], eventTypes: [],
      aggregates: [{
        name: "notes",
        legacy: { root: { table: "notes", key: "id", columns: ["body"] }, related: [] },
        unified: { root: { table: "new_notes", key: "id", columns: { id: "text", text: "text" } }, related: [] },
        agent: ${agent}, unifiedAgent: () => "writer", owns: () => true, up: ${up}, down: ${down},
      }],
    };`;
  }

  function notes(mapping: string): string {
    const cwd = temporaryDirectory();
    execute(
      join(cwd, "hive.db"),
      "CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT); INSERT INTO notes VALUES ('a', 'x'), ('b', 'y'), ('c', 'z')",
    );
    mkdirSync(join(cwd, "migrations"));
    writeFileSync(
      join(cwd, "migrations/0001_new_notes.sql"),
      "-- migrate:up\nCREATE TABLE new_notes (id TEXT PRIMARY KEY NOT NULL, text TEXT);\n-- migrate:down\nDROP TABLE new_notes;\n",
    );
    mapBy(cwd, "mapping.mjs", mapping);
    return cwd;
  }

  /** A process loads a module once: what is changed has another name. */
  function mapBy(cwd: string, module: string, mapping: string): void {
    writeFileSync(join(cwd, "hive.config.json"), `{"database":"hive.db","mapping":"./${module}"}`);
    writeFileSync(join(cwd, module), mapping);
  }

  const modules: readonly [string, ...string[]][] = [
    ["throw new Error('from the module')", "cannot be loaded", "from the module"],
    ["throw null", "cannot be loaded"],
    ["this is no JavaScript", "SyntaxError"],
    ['import "a-package-that-is-not-there"', "a-package-that-is-not-there"],
    ["export default 5", "is a number"],
    ["export default {}", "aggregates: has to be a list, is missing"],
    ["export default () => ({})", "is a function"],
    ["export const something = 1", "default export"],
    [mappingText().replace('key: "id", columns: ["body"]', 'key: 7, columns: "body"'), "aggregates[0].legacy.root.key"],
  ];
  test.each(modules)("the module: %.60s", async (content, ...says) => {
    const cwd = notes(content);
    // As node loads it: a test runner has a loader of its own.
    await refused("backfill", { cwd, asProcess: true }, { code: "MAPPING_INVALID", says: [...says, "mapping.mjs"] });
  });

  test("a module that is missing", async () => {
    const cwd = notes("");
    const env = { HIVE_MAPPING: "./mappign.mjs" };
    await refused("status", { cwd, env }, { code: "MAPPING_INVALID", says: ["mappign.mjs"] });
  });

  test.each([
    ["exits", "process.exit(0)"],
    ["waits for ever", "await new Promise(() => undefined)"],
  ])("a module that %s is a failure, not silence", async (_, content) => {
    const cwd = notes(content);
    const says = ["The process ended before the command did"];
    for (const command of ["status", "backfill"]) {
      await refused(command, { cwd, asProcess: true }, { code: "INTERNAL", says });
    }
  });

  test("a module that throws later is a failure, and no stack", async () => {
    const cwd = notes(
      `setTimeout(() => { throw new Error("late") }, 0);\nawait new Promise((go) => setTimeout(go, 500));`,
    );
    await refused("status", { cwd, asProcess: true }, { code: "INTERNAL", says: ["late", "--verbose"] });
  });

  const ups: readonly [string, RegExp][] = [
    ["() => undefined", /gave nothing: `up` has to give an object of rows by table/],
    ["() => null", /gave null/],
    ["() => 5", /gave a number/],
    ['() => "rows"', /gave a string/],
    ["() => []", /gave a list/],
    ["() => ({})", /gave no row for new_notes/],
    ["() => ({ new_notes: 5 })", /gave for new_notes a number: `up` has to give a list of rows/],
    ['() => ({ new_notes: "rows" })', /gave for new_notes a string/],
    ["() => ({ new_notes: [null] })", /gave a row for new_notes that is null/],
    ["() => ({ new_notes: [5] })", /gave a row for new_notes that is a number/],
    ["() => ({ new_notes: [{ id: 'same' }] })", /changed its key/],
    ["({ notes: [n] }) => ({ new_notes: [{ id: n.id, text: { a: 1 } }] })", /gave an object for new_notes\.text/],
    ["({ notes: [n] }) => ({ new_notes: [{ id: n.id, txet: 'x' }] })", /new_notes\.txet, which it does not declare/],
    [`async ${GOOD_UP}`, /gave a promise: `up` must not be asynchronous/],
    ["async () => { throw new Error('late') }", /gave a promise/],
    ["() => { throw null }", /failed on it: null/],
  ];
  test.each(ups)("up: %s: quarantined with the reason, legacy untouched", async (up, reason) => {
    const cwd = notes(mappingText({ up }));
    await done("migrate up", { cwd });
    const legacy = select(join(cwd, "hive.db"), "SELECT * FROM notes");
    const run = await done("backfill", { cwd });
    expect(run.stderr).toBe("");
    const listed = JSON.parse((await done("quarantine list --json", { cwd })).stdout).result.entries;
    expect(listed.map((one: { key: string }) => one.key)).toEqual(["a", "b", "c"]);
    for (const one of listed) expect(one.reason).toMatch(reason);
    expect((await hive(["mapping", "test"], { cwd })).stdout.replace(/\s+/g, " ")).toMatch(reason);
    expect(select(join(cwd, "hive.db"), "SELECT * FROM notes")).toEqual(legacy);
    // Mended, it converges.
    mapBy(cwd, "mended.mjs", mappingText());
    await done("quarantine retry", { cwd });
    await done("check writer", { cwd });
  });

  test("a TypeError on one row: that one is quarantined, the others go on", async () => {
    const up = `({ notes: [note] }) => { if (note.id === "b") null.x; return { new_notes: [{ id: note.id, text: note.body }] }; }`;
    const cwd = notes(mappingText({ up }));
    await done("migrate up", { cwd });
    const { aggregates } = JSON.parse((await done("backfill --json", { cwd })).stdout).result;
    expect(aggregates).toMatchObject({ written: 2, quarantined: 1 });
    expect((await done("quarantine list", { cwd })).stdout).toMatch(/notes b .*\n.*failed on it: TypeError/);
  });

  const downs: readonly [string, RegExp][] = [
    ["() => undefined", /gave nothing: `down` has to give/],
    ["() => ({ notes: 5 })", /gave for notes a number/],
    ["() => ({ notes: [null] })", /gave a row for notes that is null/],
    ["async () => { throw new Error('late') }", /gave a promise: `down` must not be asynchronous/],
  ];
  test.each(downs)("down: %s: the way back is quarantined, nothing is written over", async (down, reason) => {
    const cwd = notes(mappingText());
    for (const command of [
      "migrate up",
      "flags set writer dual-write=on",
      "backfill",
      "flags set writer reads=shadow",
      "check",
      "flags set writer reads=live",
    ]) {
      await done(command, { cwd });
    }
    execute(join(cwd, "hive.db"), "UPDATE new_notes SET text = 'newer' WHERE id = 'a'");
    const legacy = select(join(cwd, "hive.db"), "SELECT * FROM notes");
    mapBy(cwd, "worse.mjs", mappingText({ down }));
    await hive(["rollback", "--yes"], { cwd });
    expect((await hive(["quarantine", "list"], { cwd })).stdout.replace(/\s+/g, " ")).toMatch(reason);
    expect(select(join(cwd, "hive.db"), "SELECT * FROM notes")).toEqual(legacy);
    expect(select(join(cwd, "hive.db"), "SELECT text FROM new_notes WHERE id = 'a'")).toEqual([{ text: "newer" }]);
  });

  test.each([
    ["() => undefined", "gave nothing, not the name of an agent"],
    ['async () => "writer"', "gave an object, not the name of an agent"],
    ["async () => { throw new Error('late') }", "not the name of an agent"],
    ["() => { throw new Error('boom') }", "boom"],
  ])("agent: %s: the whole command is refused", async (agent, says) => {
    const cwd = notes(mappingText({ agent }));
    await done("migrate up", { cwd });
    for (const command of ["backfill", "mapping test"]) {
      await refused(command, { cwd }, { code: "MAPPING_INVALID", says: ["`agent`", says] }, null);
    }
    expect(select(join(cwd, "hive.db"), "SELECT * FROM new_notes")).toEqual([]);
  });

  test("what goes wrong on the second thread of a large run is told in full", async () => {
    const agent = `({ notes: [note] }) => { if (note.id === "n15000") throw new Error("boom"); return "writer"; }`;
    const cwd = notes(mappingText({ agent }));
    const db = new Database(join(cwd, "hive.db"));
    const insert = db.prepare("INSERT INTO notes VALUES (?, 'x')");
    db.transaction(() => {
      for (let i = 0; i < 20_000; i++) insert.run(`n${i}`);
    })();
    db.close();
    await done("migrate up", { cwd });
    for (const command of ["backfill", "check writer"]) {
      const says = ["`agent`", "boom", "has to answer"];
      await refused(command, { cwd, asProcess: true }, { code: "MAPPING_INVALID", says }, null);
    }
  });

  test("a mapping for other tables than the database has: nothing is made in it", async () => {
    const cwd = notes("");
    const env = { HIVE_MAPPING: "hive" };
    const says = ["none of the tables", "--database"];
    await refused("migrate up", { cwd, env }, { code: "SCHEMA_MISMATCH", says });
    await refused("mapping test", { cwd, env }, { code: "SCHEMA_MISMATCH", says: ["tasks", "does not exist"] });
    expect((await done("status", { cwd, env })).stdout).toContain("the database and the mapping do not fit together");
    expect((await hive(["verify"], { cwd, env })).code).toBe(3);
  });
});

describe("what was typed wrong", () => {
  const cases: readonly [string, ErrorCode, ...string[]][] = [
    ["statsu", "USAGE", 'did you mean "hive status"?'],
    ["migrate upp", "USAGE", 'did you mean "hive migrate up"?'],
    ["migrate", "USAGE", "needs a subcommand"],
    ["status --verbos", "USAGE", "Did you mean --verbose?"],
    ["status extra", "USAGE", "Too many arguments"],
    ["flags set ai-reviewer", "USAGE", "Missing required argument"],
    ["backfill --lock-timeout abc", "USAGE", "--lock-timeout", '"abc"'],
    ["backfill --lock-timeout -1", "USAGE", "at least 0"],
    ["migrate up --step -1", "USAGE", "at least 1"],
    ["migrate up --step 1 --to 0001_hive_ledger", "USAGE", "either --to or --step"],
    ["mapping test --sample 0", "USAGE", "at least 1"],
    ["mapping test --mapping taks", "UNKNOWN_NAME", 'did you mean "tasks"?'],
    ["mapping test --key nowhere", "UNKNOWN_NAME", "nowhere"],
    ["flags enable ai-reviewer --force", "USAGE", "needs a reason"],
    ["migrate down --force", "USAGE", "needs a reason"],
    ["flags set ai-reviewer reads=bogus", "USAGE", "legacy, shadow, live, unified"],
    ["flags set ai-reviwer reads=shadow", "UNKNOWN_AGENT", 'did you mean "ai-reviewer"?'],
    ["flags list ai-reviwer", "UNKNOWN_AGENT", 'did you mean "ai-reviewer"?'],
    ["backfill ai-reviwer", "UNKNOWN_AGENT", 'did you mean "ai-reviewer"?'],
    ["check ai-reviwer", "UNKNOWN_AGENT", 'did you mean "ai-reviewer"?'],
    ["rollback --agent ai-reviwer --yes", "UNKNOWN_AGENT", 'did you mean "ai-reviewer"?'],
    ["quarantine list --agent ai-reviwer", "UNKNOWN_AGENT", 'did you mean "ai-reviewer"?'],
    ["audit list --agent ai-reviwer", "UNKNOWN_AGENT", 'did you mean "ai-reviewer"?'],
    ["rollback --to shadwo", "USAGE", 'did you mean "shadow"?'],
    ["init", "CONFIRMATION_NEEDED", "nobody to ask"],
    ["quarantine discard", "USAGE", "Nothing to discard was named"],
    ["audit list --limit 0", "USAGE", "at least 1"],
  ];
  test("each is refused before anything is done", { timeout: 120_000 }, async () => {
    const cwd = await migrated();
    for (const [command, code, ...says] of cases) await refused(command, { cwd }, { code, says });
  });
});

describe("refused in this state", () => {
  test("each says which fact is missing, once, and which command provides it", async () => {
    const untouched = smallPlatform();
    await refused("backfill", { cwd: untouched }, { code: "NOT_MIGRATED", says: ["hive migrate up"] });
    await refused("check --repair", { cwd: untouched }, { code: "NOT_MIGRATED", says: ["hive migrate up"] });
    const compared = await hive(["check"], { cwd: untouched });
    expect([compared.code, compared.stdout]).toEqual([3, expect.stringContaining("run `hive migrate up` first")]);

    const cwd = await migrated();
    const live: Expected = { code: "STAGE_IMPOSSIBLE", says: ["dual-write has to be on first"] };
    await refused("flags set ai-reviewer reads=live --force --reason x", { cwd }, live);
    await done("flags set ai-reviewer dual-write=on", { cwd });
    await refused(
      "flags set ai-reviewer reads=shadow",
      { cwd },
      {
        code: "GUARD_REFUSED",
        says: ["hive backfill ai-reviewer", "--force --reason"],
      },
    );
    const { stderr } = await hive(words("flags set ai-reviewer reads=shadow"), { cwd });
    expect(stderr.match(/backfill/g)?.length).toBe(2);
    expect(stderr).not.toContain("refusals");
    await refused("migrate down", { cwd }, { code: "STILL_IN_USE", says: ["ai-reviewer", "hive rollback"] });
    await refused("rollback", { cwd }, { code: "CONFIRMATION_NEEDED", says: ["--yes", "Nothing was changed"] });
  });

  test("what the database itself refuses, and a table that somebody changed", async () => {
    const cwd = await migrated();
    const path = join(cwd, "hive.db");
    execute(path, "CREATE TRIGGER no BEFORE INSERT ON hive_flags BEGIN SELECT RAISE(ABORT, 'not today'); END");
    await refused("flags enable ai-reviewer", { cwd }, { code: "CONSTRAINT", says: ["not today"] }, null);
    expect(select(path, "SELECT * FROM hive_flags")).toEqual([]);
    execute(path, "ALTER TABLE hive_quarantine RENAME COLUMN reason TO why");
    await refused(
      "quarantine list",
      { cwd },
      { code: "DATABASE_FAILED", says: ["no such column", "hive verify"] },
      null,
    );
  });
});

describe("interrupted", () => {
  test("SIGINT during a backfill: exit 130; a second run goes on and converges", async () => {
    const cwd = await migrated();
    const path = join(cwd, "hive.db");
    addTasks(path, 20_000);
    let timer: NodeJS.Timeout | undefined;
    const run = await runHive(["backfill", "--json"], {
      cwd,
      onStart: (child) => {
        timer = setInterval(() => {
          if (select(path, "SELECT 1 FROM unified_tasks LIMIT 1").length > 0) child.kill("SIGINT");
        }, 20);
        child.on("exit", () => clearInterval(timer));
      },
    });
    clearInterval(timer);
    // Signals that come after the first one kill: whichever it was, the database is whole.
    expect(run.code === 130 || run.signal === "SIGINT").toBe(true);
    if (run.code === 130) expect(answerOf(run).error?.code).toBe("INTERRUPTED");
    expect(Number(select(path, "SELECT count(*) AS n FROM unified_tasks")[0]?.n)).toBeLessThan(20_030);
    const resumed = JSON.parse((await done("backfill --json", { cwd })).stdout).result;
    expect(resumed.resumed).toBe(true);
    await converges(cwd);
  });

  test("one SIGINT: a clean answer", async () => {
    const cwd = await migrated();
    const path = join(cwd, "hive.db");
    addTasks(path, 20_000);
    let sent = false;
    let timer: NodeJS.Timeout | undefined;
    const run = await runHive(["backfill"], {
      cwd,
      onStart: (child) => {
        timer = setInterval(() => {
          if (sent || select(path, "SELECT 1 FROM unified_tasks LIMIT 1").length === 0) return;
          sent = child.kill("SIGINT");
        }, 10);
      },
    });
    clearInterval(timer);
    expect([run.code, run.stdout]).toEqual([130, ""]);
    expect(run.stderr).toMatch(/error: The backfill was interrupted\.\n→ What was written is kept/);
    provoked.add("INTERRUPTED");
    await converges(cwd);
  });

  test("a reader that went away is no failure; an output that cannot be written is one", async () => {
    const cwd = await migrated();
    const shell = async (line: string): Promise<[number, string]> => {
      const child = spawn("bash", ["-c", `set -o pipefail; ${line}`], { cwd, stdio: ["ignore", "ignore", "pipe"] });
      let stderr = "";
      child.stderr.setEncoding("utf8").on("data", (text: string) => {
        stderr += text;
      });
      return [Number(await ended(child)), stderr];
    };
    const hive = `"${process.execPath}" "${LAUNCHER}"`;
    expect(await shell(`${hive} audit list | head -1`)).toEqual([0, ""]);
    expect(await shell(`${hive} migrate up --dry-run --json | true`)).toEqual([0, ""]);
    const [code, stderr] = await shell(`${hive} audit list > /dev/full`);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: The output cannot be written: ENOSPC/);
    expect(stderr).not.toMatch(/\n {4}at /);
  });
});

/** The dual writer's, which no command uses: test/lifecycle/writer.test.ts provokes them. */
for (const code of [
  "RECORD_INVALID",
  "RECORD_UNREADABLE",
  "RECORD_EXISTS",
  "RECORD_MISSING",
  "RECORD_CHANGED",
] as const)
  unprovoked.set(code, "only the library's dual writer gives it");

/** Of tasks, which no command executes: test/unit/agent-adapters.test.ts provokes them. */
for (const code of ["TASK_INVALID", "AGENT_FAILED", "AGENT_UNAVAILABLE"] as const)
  unprovoked.set(code, "only the library executes tasks");

test("every error code was provoked above, or it is written down why it cannot be", () => {
  const left = Object.keys(ERROR_CODES).filter((code) => !provoked.has(code as ErrorCode));
  expect(left.filter((code) => !unprovoked.has(code as ErrorCode))).toEqual([]);
});
