import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import Database from "better-sqlite3";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Context } from "../../src/context.ts";
import type { ErrorCode } from "../../src/errors.ts";
import { hivePreset } from "../../src/presets/hive/index.ts";
import { listAudit, verifyAudit } from "../../src/rollout/audit.ts";
import { assertLedgerKnown, requireLedger } from "../../src/schema/ledger.ts";
import { migrateCreate, migrateDown, migrateStatus, migrateUp } from "../../src/schema/migrator.ts";
import { script, sql } from "../../src/storage/sql.ts";
import { type TestContextOptions, temporaryDirectory, testContext, tinyMapping } from "../support/context.ts";
import { legacyDatabase } from "../support/legacy-db.ts";
import { LEDGER, OWN, PLATFORM, UNIFIED } from "../support/migrations.ts";

const ADOPTED_TABLES = ["unified_tasks", "unified_review_tasks", "unified_workflow_tasks", "unified_deployment_tasks"];

const failure = (code: ErrorCode, message: RegExp = /./, details?: object) =>
  expect.objectContaining({
    code,
    message: expect.stringMatching(message),
    ...(details ? { details: expect.objectContaining(details) } : {}),
  });

/** A small database with what going up and down could disturb. */
function database(extra = ""): string {
  const path = join(temporaryDirectory(), "platform.db");
  const db = new Database(path);
  db.pragma("journal_mode = WAL");
  db.exec(`
    CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT, n INT DEFAULT 1);
    CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, note TEXT REFERENCES notes ON DELETE CASCADE);
    CREATE INDEX ix_log ON log (note);
    CREATE TRIGGER tr AFTER INSERT ON notes BEGIN INSERT INTO log (note) VALUES (new.id); END;
    CREATE VIEW v AS SELECT * FROM notes;
    INSERT INTO notes VALUES ('a', 'x', 1), (NULL, x'00ff', 1.5), ('ä', NULL, 'text');
    DELETE FROM log WHERE id = 3;
    ${extra}`);
  db.close();
  return path;
}

/** The schema and every row of every table. */
function fingerprint(path: string): string {
  const db = new Database(path, { readonly: true });
  const hash = createHash("sha256");
  const schema = db.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").all();
  hash.update(JSON.stringify(schema));
  for (const name of db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").pluck().all()) {
    const rows = db.prepare(`SELECT * FROM "${name}" ORDER BY rowid`).raw(true).safeIntegers(true);
    for (const row of rows.iterate()) {
      hash.update(JSON.stringify(row, (_, value) => (typeof value === "bigint" ? `${value}n` : value)));
    }
  }
  db.close();
  return hash.digest("hex");
}

function schemaOf(path: string): unknown[] {
  const db = new Database(path, { readonly: true });
  const rows = db.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").all();
  db.close();
  return rows;
}

function execute(path: string, text: string): void {
  const db = new Database(path);
  db.exec(text);
  db.close();
}

/** A folder with migrations beside the database. */
function migrations(path: string, files: Record<string, string>, folder = "own"): string {
  const directory = join(dirname(path), folder);
  mkdirSync(directory, { recursive: true });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, `${name}.sql`), text);
  return folder;
}

const makes = (table: string, down = `DROP TABLE ${table};`) =>
  `-- migrate:up\nCREATE TABLE ${table} (id TEXT);\n-- migrate:down\n${down}\n`;

const hiveContext = (path: string, options: TestContextOptions = {}) =>
  testContext(path, { mapping: hivePreset, ...options });

const names = (items: readonly { name: string }[]) => items.map((item) => item.name);

describe("a database that hive has never touched", () => {
  test("status, dry runs and down write nothing", async () => {
    const path = database();
    const before = readFileSync(path);
    await using context = hiveContext(path);
    expect(await migrateStatus(context)).toEqual({
      ...{ current: null, head: false, applied: [], outOfOrder: [], newer: [] },
      pending: PLATFORM,
    });
    const { sql: planned, ...result } = await migrateUp(context, { dryRun: true });
    expect(result).toEqual({ applied: [], adopted: [], pending: PLATFORM });
    expect(planned?.map((one) => one.name)).toEqual(PLATFORM);
    expect(planned?.at(-1)?.sql).toContain("CREATE TABLE unified_tasks");
    expect(planned?.at(-1)?.sql).not.toContain("DROP");
    expect(await migrateDown(context, { to: "0" })).toEqual({ reverted: [], current: null });
    expect(await migrateDown(context, { dryRun: true })).toEqual({ reverted: [], current: null, sql: [] });
    expect(context.store.stats.commits).toBe(0);
    expect(readFileSync(path).equals(before)).toBe(true);
    await expect(requireLedger(context.store)).rejects.toEqual(failure("NOT_MIGRATED"));
  });

  test("what is refused leaves no trace either", async () => {
    const path = database("CREATE TABLE unified_tasks (id INTEGER);");
    const before = fingerprint(path);
    await using context = hiveContext(path);
    await expect(migrateUp(context)).rejects.toEqual(failure("SCHEMA_MISMATCH"));
    await expect(migrateUp(context, { to: "0002_unifed_schema" })).rejects.toEqual(
      failure("UNKNOWN_NAME", /did you mean "0002_unified_schema"/),
    );
    await expect(migrateUp(context, { step: 0 })).rejects.toEqual(failure("USAGE"));
    await expect(migrateUp(context, { step: 1, to: LEDGER })).rejects.toEqual(failure("USAGE"));
    expect(fingerprint(path)).toBe(before);
  });
});

describe("up and down", () => {
  test("up applies everything once, in order, with records and an unbroken audit log", async () => {
    const path = database();
    await using context = hiveContext(path);
    const notes: (string | undefined)[] = [];
    const result = await migrateUp(context, { reason: "go", onProgress: (progress) => notes.push(progress.note) });
    expect(names(result.applied)).toEqual(PLATFORM);
    expect(result).toMatchObject({ adopted: [], pending: [] });
    expect(notes).toEqual(PLATFORM);
    const status = await migrateStatus(context);
    expect(status).toMatchObject({ current: UNIFIED, head: true, pending: [], outOfOrder: [] });
    expect(status.applied.map((one) => [one.name, one.state, one.adopted])).toEqual(
      PLATFORM.map((name) => [name, "ok", false]),
    );
    expect(new Date(status.applied[0]?.appliedAt ?? "").toISOString()).toBe(status.applied[0]?.appliedAt);
    const { entries } = await listAudit(context.store.read);
    expect(entries.map((entry) => [entry.action, entry.reason, entry.before])).toEqual(
      PLATFORM.map((_, at) => ["migrate up", "go", { current: PLATFORM[at - 1] ?? null }]),
    );
    expect(entries[0]?.after).toMatchObject({ current: LEDGER, registered: { eventTypes: 28 } });
    expect(await verifyAudit(context.store.read)).toMatchObject({ ok: true, entries: PLATFORM.length });
    const count = async (table: string) =>
      (await context.store.read.all(script(`SELECT count(*) AS n FROM ${table}`)))[0]?.n;
    expect([await count("hive_agents"), await count("hive_event_types")]).toEqual([5, 28]);
    const commits = context.store.stats.commits;
    expect(await migrateUp(context)).toEqual({ applied: [], adopted: [], pending: [] });
    expect(context.store.stats.commits).toBe(commits);
    await requireLedger(context.store);
  });

  test("the unified tables are as the platform's page has them", async () => {
    const path = database();
    await using context = hiveContext(path);
    await migrateUp(context);
    const { aggregates } = hivePreset;
    for (const { unified } of aggregates) {
      for (const { table, columns } of [unified.root, ...unified.related]) {
        const found = await context.store.table(table);
        expect(found?.columns.map((column) => column.name).sort()).toEqual(Object.keys(columns).sort());
        for (const column of found?.columns ?? []) {
          expect(column.default).toBeNull();
          expect(column.type).toBe(columns[column.name] === "integer" ? "integer" : "text");
          if (column.primaryKey > 0) expect(column.notNull).toBe(true);
        }
        expect(found?.indexes.some((index) => index.name === `ix_${table}_correlation_id`)).toBe(true);
      }
    }
    const tasks = await context.store.table("unified_tasks");
    expect(tasks?.indexes.map((index) => index.name).sort()).toEqual([
      ...["ix_unified_tasks_correlation_id", "ix_unified_tasks_status", "ix_unified_tasks_task_type"],
      "sqlite_autoindex_unified_tasks_1",
    ]);
  });

  test("up --to and --step, down by one, to a name and to nothing", async () => {
    const path = database();
    const own = migrations(path, { "0001_a": makes("a"), "0002_b": makes("b"), "0003_c": makes("c") });
    await using context = hiveContext(path, { settings: { migrations: [own] } });
    expect(names((await migrateUp(context, { to: UNIFIED })).applied)).toEqual(PLATFORM);
    expect(await migrateUp(context, { to: LEDGER })).toMatchObject({ applied: [] });
    const step = await migrateUp(context, { step: 1 });
    expect(names(step.applied)).toEqual(["0001_a"]);
    expect(step.pending).toEqual(["0002_b", "0003_c"]);
    expect(await migrateStatus(context)).toMatchObject({ current: "0001_a", head: false });
    await migrateUp(context);
    const { sql: planned, ...dry } = await migrateDown(context, { dryRun: true, step: 2 });
    expect(dry).toEqual({ reverted: [], current: "0003_c" });
    expect(planned).toEqual([
      { name: "0003_c", sql: "DROP TABLE c;" },
      { name: "0002_b", sql: "DROP TABLE b;" },
    ]);
    expect(await migrateDown(context)).toMatchObject({ reverted: [{ name: "0003_c" }], current: "0002_b" });
    const down = await migrateDown(context, { to: UNIFIED });
    expect(names(down.reverted)).toEqual(["0002_b", "0001_a", UNIFIED]);
    expect(down).toMatchObject({ current: OWN.at(-1) });
    expect(down.auditSavedTo).toBeUndefined();
    expect(await migrateDown(context, { to: UNIFIED })).toEqual({ reverted: [], current: OWN.at(-1) });
    await expect(migrateDown(context, { to: "0002_unified" })).rejects.toEqual(failure("UNKNOWN_NAME"));
    expect(names((await migrateDown(context, { to: LEDGER })).reverted)).toEqual(OWN.toReversed());
    expect(await migrateStatus(context)).toMatchObject({ current: null });
  });

  test("down to nothing leaves the database as it was before hive came, and saves the audit log", async () => {
    const path = database();
    const before = fingerprint(path);
    await using context = hiveContext(path);
    await migrateUp(context);
    const result = await migrateDown(context, { to: "0", reason: "enough" });
    expect(names(result.reverted)).toEqual(PLATFORM.toReversed());
    expect(result.current).toBeNull();
    expect(fingerprint(path)).toBe(before);
    const saved = result.auditSavedTo ?? "";
    expect(basename(saved)).toMatch(/^platform\.db\.hive-audit-\d{8}T\d{6}Z\.jsonl$/);
    const lines = readFileSync(saved, "utf8").trimEnd().split("\n");
    const entries = lines.map((line) => JSON.parse(line));
    expect(entries.map((entry) => [entry.seq, entry.action, entry.reason])).toEqual([
      ...PLATFORM.map((_, at) => [at + 1, "migrate up", null]),
      ...PLATFORM.map((_, at) => [PLATFORM.length + at + 1, "migrate down", "enough"]),
    ]);
    expect(entries.at(-1).previous_hash).toBe(entries.at(-2).hash);
    // A second life in the same second gets a file of its own.
    await migrateUp(context);
    expect((await migrateDown(context, { to: "0" })).auditSavedTo).not.toBe(saved);
    expect(fingerprint(path)).toBe(before);
  });

  test("an abort between two migrations keeps the finished ones and can be continued", async () => {
    const path = database();
    await using context = hiveContext(path);
    const controller = new AbortController();
    const options = { abort: controller.signal, onProgress: () => controller.abort() };
    await expect(migrateUp(context, options)).rejects.toEqual(
      failure("INTERRUPTED", new RegExp(`before ${PLATFORM[1]}`), { applied: [LEDGER], pending: PLATFORM.slice(1) }),
    );
    expect(await migrateStatus(context)).toMatchObject({ current: LEDGER, pending: PLATFORM.slice(1) });
    expect(names((await migrateUp(context)).applied)).toEqual(PLATFORM.slice(1));
  });

  test("a migration that fails leaves nothing of itself and names what was done", async () => {
    const path = database();
    const own = migrations(path, {
      "0001_a": makes("a"),
      "0002_b": "-- migrate:up\nCREATE TABLE b (id TEXT);\nINSERT INTO nowhere VALUES (1);\n",
      "0003_c": makes("c"),
    });
    await using context = testContext(path, { settings: { migrations: [own] } });
    await expect(migrateUp(context)).rejects.toEqual(
      failure("MIGRATION_FAILED", /0002_b failed on the way up: .*nowhere/, {
        ...{ migration: "0002_b", applied: [...OWN, "0001_a"], pending: ["0002_b", "0003_c"] },
      }),
    );
    expect(await migrateStatus(context)).toMatchObject({ current: "0001_a", pending: ["0002_b", "0003_c"] });
    expect(await context.store.table("b")).toBeNull();
    migrations(path, { "0002_b": makes("b") });
    expect(names((await migrateUp(context)).applied)).toEqual(["0002_b", "0003_c"]);
  });

  test("a bad file is refused before anything is applied", async () => {
    const path = database();
    const before = fingerprint(path);
    const own = migrations(path, { "0001_a": makes("a"), "0002_b": "-- migrate:up\nBEGIN;" });
    await using context = testContext(path, { settings: { migrations: [own] } });
    await expect(migrateUp(context)).rejects.toEqual(failure("MIGRATION_INVALID", /0002_b\.sql, line 2: BEGIN/));
    expect(fingerprint(path)).toBe(before);
  });

  test("a mapping that has grown is registered by the next up, and only then written", async () => {
    const path = database();
    const open = (mapping: typeof tinyMapping) => testContext(path, { mapping });
    const agents = async (context: Context) =>
      (await context.store.read.all(sql`SELECT agent, capabilities FROM hive_agents ORDER BY agent`)).map(
        Object.values,
      );
    {
      await using context = open(tinyMapping);
      await migrateUp(context);
      expect(await agents(context)).toEqual([["writer", '["write"]']]);
    }
    const registration = { agentId: "reader-1", agentType: "reader", capabilities: [], emits: [] };
    const [writer] = tinyMapping.agents;
    const grown = {
      ...tinyMapping,
      agents: [
        { name: "reader", registration },
        ...(writer?.registration
          ? [{ name: "writer", registration: { ...writer.registration, capabilities: ["x"] } }]
          : []),
      ],
      eventTypes: [...tinyMapping.eventTypes, "note.lost"],
    };
    await using context = open(grown);
    expect(await migrateUp(context, { dryRun: true })).toMatchObject({ sql: [] });
    expect(await migrateUp(context)).toEqual({ applied: [], adopted: [], pending: [] });
    expect(await agents(context)).toEqual([
      ["reader", "[]"],
      ["writer", '["x"]'],
    ]);
    const last = (await listAudit(context.store.read)).entries.at(-1);
    expect([last?.action, last?.after]).toEqual(["register", { agents: ["reader", "writer"], eventTypes: 1 }]);
    const { commits } = context.store.stats;
    await migrateUp(context);
    expect(context.store.stats.commits).toBe(commits);
  });
});

describe("the platform's database", () => {
  const legacy = legacyDatabase();

  test.skipIf(legacy === null)("is as before after up and down to nothing", async () => {
    const path = join(temporaryDirectory(), "legacy.db");
    copyFileSync(legacy ?? "", path);
    const before = fingerprint(path);
    await using context = hiveContext(path);
    expect(names((await migrateUp(context)).applied)).toEqual(PLATFORM);
    expect(fingerprint(path)).not.toBe(before);
    await migrateDown(context, { to: "0" });
    expect(fingerprint(path)).toBe(before);
  });
});

describe("history", () => {
  test("altered and missing migrations are shown, and refused both ways", async () => {
    const path = database();
    const own = migrations(path, { "0001_a": makes("a"), "0002_b": makes("b") });
    await using context = testContext(path, { settings: { migrations: [own] } });
    await migrateUp(context);
    const states = async () => (await migrateStatus(context)).applied.map((one) => one.state);
    const ok = OWN.map(() => "ok");
    migrations(path, { "0001_a": `${makes("a").replaceAll("\n", "\r\n")}\r\n  \r\n` });
    expect(await states()).toEqual([...ok, "ok", "ok"]);
    migrations(path, { "0001_a": makes("a", "DROP TABLE a; -- changed") });
    rmSync(join(dirname(path), own, "0002_b.sql"));
    expect(await states()).toEqual([...ok, "altered", "missing"]);
    const before = fingerprint(path);
    for (const refused of [migrateUp(context), migrateUp(context, { dryRun: true }), migrateDown(context)]) {
      await expect(refused).rejects.toEqual(
        failure("HISTORY_ALTERED", /0001_a was altered .*; 0002_b .* missing/, {
          altered: ["0001_a"],
          missing: ["0002_b"],
        }),
      );
    }
    expect(fingerprint(path)).toBe(before);
  });

  test("out of order is refused unless it is allowed", async () => {
    const path = database();
    const own = migrations(path, { "0002_b": makes("b") });
    await using context = testContext(path, { settings: { migrations: [own] } });
    await migrateUp(context);
    migrations(path, { "0001_a": makes("a"), "0003_c": makes("c") });
    expect(await migrateStatus(context)).toMatchObject({ pending: ["0001_a", "0003_c"], outOfOrder: ["0001_a"] });
    await expect(migrateUp(context)).rejects.toEqual(failure("HISTORY_ALTERED", /0001_a/, { outOfOrder: ["0001_a"] }));
    expect(names((await migrateUp(context, { allowOutOfOrder: true })).applied)).toEqual(["0001_a", "0003_c"]);
    expect(names((await migrateDown(context, { step: 2 })).reverted)).toEqual(["0003_c", "0001_a"]);
  });

  test("a newer hive's ledger is left alone", async () => {
    const path = database();
    await using context = testContext(path);
    await migrateUp(context);
    execute(
      path,
      `INSERT INTO hive_migrations VALUES ('9999_future', 'hive', 'x', '2030-01-01T00:00:00.000Z', 1, 0, 99, NULL)`,
    );
    const before = fingerprint(path);
    for (const refused of [
      migrateUp(context),
      migrateDown(context, { to: "0" }),
      assertLedgerKnown(context.store),
      requireLedger(context.store),
    ]) {
      await expect(refused).rejects.toEqual(failure("LEDGER_TOO_NEW", /9999_future/, { migrations: ["9999_future"] }));
    }
    expect((await migrateStatus(context)).applied.at(-1)).toMatchObject({ name: "9999_future", state: "missing" });
    expect(fingerprint(path)).toBe(before);
  });
});

describe("down is refused", () => {
  test("without a down section, and then reverts nothing", async () => {
    const path = database();
    const own = migrations(path, { "0001_a": "-- migrate:up\nCREATE TABLE a (id TEXT);", "0002_b": makes("b") });
    await using context = testContext(path, { settings: { migrations: [own] } });
    await migrateUp(context);
    const before = fingerprint(path);
    await expect(migrateDown(context, { to: "0" })).rejects.toEqual(failure("NO_DOWN", /0001_a/));
    expect(fingerprint(path)).toBe(before);
    expect(names((await migrateDown(context)).reverted)).toEqual(["0002_b"]);
  });

  test("while an agent is not at stage off, except for the user's own migrations", async () => {
    const path = database();
    const own = migrations(path, { "0001_a": makes("a") });
    await using context = testContext(path, { settings: { migrations: [own] } });
    await migrateUp(context);
    const set = (agent: string, flag: string, value: string) =>
      execute(
        path,
        `INSERT INTO hive_flags VALUES ('${agent}', '${flag}', '${value}', '') ON CONFLICT DO UPDATE SET value = excluded.value`,
      );
    set("writer", "dual-write", "on");
    set("writer", "reads", "shadow");
    set("reader", "reads", "unified");
    set("other", "unified-events", "on");
    await expect(migrateDown(context, { to: "0", force: true, reason: "x" })).rejects.toEqual(
      failure("STILL_IN_USE", /reader \(reads unified\); writer \(dual-write on, reads shadow\)/, {
        agents: ["reader", "writer"],
      }),
    );
    expect(names((await migrateDown(context)).reverted)).toEqual(["0001_a"]);
    await expect(migrateDown(context)).rejects.toEqual(failure("STILL_IN_USE"));
    for (const agent of ["writer", "reader"]) {
      set(agent, "dual-write", "off");
      set(agent, "reads", "legacy");
    }
    await migrateDown(context, { to: "0" });
    expect(schemaOf(path).filter((row) => JSON.stringify(row).includes("hive_"))).toEqual([]);
  });

  test.each(PLATFORM.slice(0, -1))("also when a flag is set only when %s is the next", async (next) => {
    const path = database();
    await using context = hiveContext(path);
    await migrateUp(context);
    const down = PLATFORM.toReversed();
    const at = down.indexOf(next);
    const onProgress = ({ note }: { note?: string | undefined }) => {
      if (note === down[at - 1]) execute(path, `INSERT INTO hive_flags VALUES ('guardian', 'dual-write', 'on', '')`);
    };
    await expect(migrateDown(context, { to: "0", onProgress })).rejects.toEqual(
      failure("STILL_IN_USE", /guardian/, { reverted: down.slice(0, at), remaining: down.slice(at) }),
    );
    expect(await migrateStatus(context)).toMatchObject({ current: next });
    expect(readdirSync(dirname(path)).filter((file) => file.includes("hive-audit"))).toEqual([]);
  });

  test("a file that was not in WAL mode is put into it, told and audited, and comes back at the end", async () => {
    const path = database();
    const mode = () => {
      const db = new Database(path);
      const found = db.pragma("journal_mode", { simple: true });
      db.close();
      return found;
    };
    execute(path, "PRAGMA journal_mode = DELETE");
    expect(mode()).toBe("delete");
    const before = fingerprint(path);
    await using context = hiveContext(path);
    expect(await migrateUp(context, { step: 1 })).toMatchObject({ journalMode: { from: "delete", to: "wal" } });
    expect(mode()).toBe("wal");
    expect((await migrateUp(context)).journalMode).toBeUndefined();
    expect((await listAudit(context.store.read)).entries.map(({ after }) => after)).toEqual([
      expect.objectContaining({ journalMode: { from: "delete", to: "wal" } }),
      ...PLATFORM.slice(1).map(() => expect.not.objectContaining({ journalMode: expect.anything() })),
    ]);
    expect((await migrateDown(context)).journalMode).toBeUndefined();
    expect(await migrateDown(context, { to: "0" })).toMatchObject({ journalMode: { from: "wal", to: "delete" } });
    expect(mode()).toBe("delete");
    expect(fingerprint(path)).toBe(before);
    expect(readdirSync(dirname(path)).filter((file) => /-(wal|shm)$/.test(file))).toEqual([]);

    // While somebody else has it open it stays, and the way up and down works as before.
    expect(await migrateUp(context)).toMatchObject({ journalMode: { from: "delete", to: "wal" } });
    const other = new Database(path);
    other.prepare("SELECT count(*) FROM notes").get();
    expect(await migrateDown(context, { to: "0" })).toMatchObject({ journalMode: { from: "wal", to: "wal" } });
    other.close();
    expect((await migrateUp(context)).journalMode).toBeUndefined();
    expect((await migrateDown(context, { to: "0" })).journalMode).toBeUndefined();
    expect(mode()).toBe("wal");
  });

  test("while hive_kept has rows; forced, they are saved to a file", async () => {
    const path = database();
    const before = fingerprint(path);
    await using context = testContext(path);
    await migrateUp(context);
    execute(path, `INSERT INTO hive_kept VALUES (1, '', 'notes', 'a', 'writer', 'unified', 'because', '{"a":1}')`);
    const down = { to: "0" };
    await expect(migrateDown(context, down)).rejects.toEqual(failure("GUARD_REFUSED", /1 aggregate that/, { kept: 1 }));
    await expect(migrateDown(context, { ...down, force: true })).rejects.toEqual(failure("USAGE", /reason/));
    expect(await migrateStatus(context)).toMatchObject({ head: true });
    const { keptSavedTo } = await migrateDown(context, { ...down, force: true, reason: "known" });
    expect(JSON.parse(readFileSync(keptSavedTo ?? "", "utf8"))).toMatchObject({ key: "a", aggregate: '{"a":1}' });
    expect(fingerprint(path)).toBe(before);
  });
});

describe("adoption", () => {
  /** As Alembic makes them. */
  const alembic = (change: (text: string) => string = (text) => text) => {
    const file = readFileSync(new URL("../../migrations/hive/0002_unified_schema.sqlite.sql", import.meta.url), "utf8");
    const up = file.slice(file.indexOf("CREATE"), file.indexOf("-- migrate:down"));
    const text = up
      .replaceAll(/(id|task_id) TEXT NOT NULL PRIMARY KEY,/g, "$1 VARCHAR NOT NULL,")
      .replaceAll(/(input_data|output_data|task_metadata) TEXT/g, "$1 JSON")
      .replaceAll(/(\w+_at) TEXT/g, "$1 DATETIME")
      .replaceAll(/status TEXT/g, "status VARCHAR(50)")
      .replaceAll(/CREATE TABLE (\w+) \(([^;]*)\n\);/g, (_, name, body) => {
        return `CREATE TABLE ${name} (${body},\n PRIMARY KEY (${name === "unified_tasks" ? "id" : "task_id"})\n);`;
      });
    return change(`CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, PRIMARY KEY (version_num));
      INSERT INTO alembic_version VALUES ('f97f94fd1a27');\n${text}`);
  };

  test("tables of the same shape are adopted; going down empties them and leaves the schema as it was", async () => {
    const path = database(alembic((text) => text.replace(/CREATE INDEX ix_unified_tasks_status.*/, "")));
    const before = fingerprint(path);
    await using context = hiveContext(path);
    const dry = await migrateUp(context, { dryRun: true });
    expect(dry).toMatchObject({ adopted: [UNIFIED], pending: PLATFORM });
    expect(dry.sql?.at(-1)?.sql).toMatch(
      /^-- adopted.*\nCREATE INDEX ix_unified_tasks_status ON unified_tasks \(status\);$/,
    );
    expect(fingerprint(path)).toBe(before);
    const result = await migrateUp(context);
    expect(names(result.applied)).toEqual(OWN);
    expect(result.adopted).toEqual([UNIFIED]);
    expect((await migrateStatus(context)).applied.at(-1)).toMatchObject({ name: UNIFIED, adopted: true, state: "ok" });
    expect((await context.store.table("unified_tasks"))?.indexes.map((one) => one.name)).toContain(
      "ix_unified_tasks_status",
    );
    const detail = { tables: ADOPTED_TABLES, indexes: ["ix_unified_tasks_status"], filled: [] };
    expect((await listAudit(context.store.read)).entries.at(-1)?.after).toMatchObject({ adopted: detail });
    execute(
      path,
      `INSERT INTO unified_review_tasks (task_id, correlation_id, code_path, created_at) VALUES ('a', 'a', '', '')`,
    );
    const plan = await migrateDown(context, { dryRun: true });
    expect(plan.sql?.[0]?.sql).toContain("DELETE FROM unified_review_tasks;");
    expect(plan.sql?.[0]?.sql).toContain("DROP INDEX ix_unified_tasks_status;");
    await migrateDown(context);
    expect((await listAudit(context.store.read)).entries.at(-1)?.after).toMatchObject({ emptied: ADOPTED_TABLES });
    await migrateUp(context);
    await migrateDown(context, { to: "0" });
    expect(fingerprint(path)).toBe(before);
  });

  test("rows that were there before are not deleted without force", async () => {
    const path = database(
      alembic(
        (text) => `${text}
      INSERT INTO unified_review_tasks (task_id, correlation_id, code_path, created_at) VALUES ('a', 'a', '', '');`,
      ),
    );
    await using context = hiveContext(path);
    expect((await migrateUp(context)).adopted).toEqual([UNIFIED]);
    await expect(migrateDown(context)).rejects.toEqual(
      failure("GUARD_REFUSED", /unified_review_tasks/, { tables: [`unified_review_tasks (${UNIFIED})`] }),
    );
    await migrateDown(context, { force: true, reason: "known" });
    expect(await context.store.read.all(sql`SELECT * FROM unified_review_tasks`)).toEqual([]);
  });

  test("differences of shape are listed column by column, and nothing is written", async () => {
    const path = database(
      alembic((text) =>
        text
          .replace("priority INTEGER", "priority TEXT")
          .replace("agent_type TEXT NOT NULL,", "")
          .replace("pr_id TEXT", "pr_id TEXT NOT NULL")
          .replace("health_status VARCHAR(50),", "health_status VARCHAR(50), extra TEXT NOT NULL, fine TEXT,"),
      ),
    );
    const before = fingerprint(path);
    await using context = hiveContext(path);
    const differences = [
      { table: "unified_tasks", column: "agent_type", expected: "TEXT NOT NULL", actual: "no such column" },
      { table: "unified_tasks", column: "priority", expected: "INTEGER", actual: "TEXT" },
      { table: "unified_review_tasks", column: "pr_id", expected: "TEXT", actual: "TEXT NOT NULL" },
      { table: "unified_deployment_tasks", column: "extra", expected: "no such column", actual: "TEXT NOT NULL" },
    ];
    await expect(migrateUp(context)).rejects.toEqual(
      failure("SCHEMA_MISMATCH", /unified_tasks\.priority: expected INTEGER, found TEXT/, { differences }),
    );
    expect(fingerprint(path)).toBe(before);
  });

  test.each([
    ["no version table", (text: string) => text.replace(/CREATE TABLE alembic_version[^;]*;\s*INSERT[^;]*;/, "")],
    ["another version", (text: string) => text.replace("f97f94fd1a27", "aaaaaaaaaaaa")],
    [
      "only some of the tables",
      (text: string) => text.replace(/CREATE TABLE unified_review_tasks[^;]*;\s*CREATE INDEX[^;]*;/, ""),
    ],
  ])("%s: refused", async (_, change) => {
    const path = database(alembic(change));
    const before = fingerprint(path);
    await using context = hiveContext(path);
    await expect(migrateUp(context)).rejects.toEqual(failure("SCHEMA_MISMATCH", /neither applied nor adopted/));
    expect(fingerprint(path)).toBe(before);
  });

  test("a version without the tables: the migration runs", async () => {
    const path = database(alembic((text) => text.slice(0, text.indexOf("CREATE TABLE unified_tasks"))));
    await using context = hiveContext(path);
    expect(names((await migrateUp(context)).applied)).toEqual(PLATFORM);
  });
});

describe("create", () => {
  test("writes a numbered file with both sections and overwrites none", async () => {
    const path = database();
    const own = migrations(path, { "0007_a": makes("a") });
    await using context = testContext(path, { settings: { migrations: [own] } });
    const { files } = await migrateCreate(context, "add_more");
    expect(files).toEqual([join(dirname(path), own, "0008_add_more.sqlite.sql")]);
    expect((await migrateCreate(context, "add_more")).files[0]).toContain("0009_add_more");
    const text = readFileSync(files[0] ?? "", "utf8");
    expect(text).toMatch(/^-- migrate:up$[\s\S]*^-- migrate:down$/m);
    await expect(migrateUp(context)).rejects.toEqual(failure("MIGRATION_INVALID", /no statement under/));
    expect((await migrateCreate(context, "first", "some/folder")).files[0]).toBe(
      join(dirname(path), "some/folder/0001_first.sqlite.sql"),
    );
    for (const name of ["Add", "a-b", "", "../x", "1a"]) {
      await expect(migrateCreate(context, name)).rejects.toEqual(failure("USAGE"));
    }
  });

  test("goes to ./migrations where the config names no folder", async () => {
    const path = database();
    await using context = testContext(path);
    expect((await migrateCreate(context, "a")).files).toEqual([join(dirname(path), "migrations/0001_a.sqlite.sql")]);
  });
});

describe("property", () => {
  const column = fc.constantFrom("a TEXT", "b INTEGER DEFAULT 3", "c", "d REAL CHECK (d > 0)");
  const object = fc.record({
    columns: fc.uniqueArray(column, { minLength: 1 }),
    index: fc.boolean(),
    trigger: fc.boolean(),
    view: fc.boolean(),
    autoincrement: fc.boolean(),
  });

  test("up, down to anywhere and up again gives the same schema; down to nothing the first one", async () => {
    const run = async (objects: (typeof object extends fc.Arbitrary<infer T> ? T : never)[], downTo: number) => {
      const path = database();
      const files = objects.map(({ columns, index, trigger, view, autoincrement }, i) => {
        const t = `t${i}`;
        const key = autoincrement ? "id INTEGER PRIMARY KEY AUTOINCREMENT" : "id TEXT PRIMARY KEY";
        const up = [`CREATE TABLE ${t} (${[key, ...columns].join(", ")});`, `INSERT INTO ${t} DEFAULT VALUES;`];
        const down = [`DROP TABLE ${t};`];
        if (index) up.push(`CREATE INDEX ix_${t} ON ${t} (id) WHERE id IS NOT NULL;`);
        if (trigger) up.push(`CREATE TRIGGER tr_${t} AFTER DELETE ON ${t} BEGIN SELECT CASE WHEN 1 THEN 2 END; END;`);
        if (view) {
          up.push(`CREATE VIEW v_${t} AS SELECT * FROM ${t};`);
          down.unshift(`DROP VIEW v_${t};`);
        }
        return [
          `${String(i + 1).padStart(4, "0")}_${t}`,
          `-- migrate:up\n${up.join("\n")}\n-- migrate:down\n${down.join("\n")}`,
        ];
      });
      const own = migrations(path, Object.fromEntries(files));
      await using context = hiveContext(path, { settings: { migrations: [own] } });
      const untouched = fingerprint(path);
      await migrateUp(context);
      const full = schemaOf(path);
      await migrateDown(context, { step: Math.min(downTo, files.length + PLATFORM.length) });
      await migrateUp(context);
      expect(schemaOf(path)).toEqual(full);
      await migrateDown(context, { to: "0" });
      expect(fingerprint(path)).toBe(untouched);
    };
    await fc.assert(
      fc.asyncProperty(fc.array(object, { maxLength: 4 }), fc.integer({ min: 1, max: 4 + PLATFORM.length }), run),
      {
        numRuns: 25,
      },
    );
  });
});

// ------------------------------------------------------------------------------------------------- several processes

const DIST = resolve(process.env.HIVE_TEST_DIST ?? fileURLToPath(new URL("../../dist", import.meta.url)));
const CHILD = fileURLToPath(new URL("../support/migrate-child.mjs", import.meta.url));

interface ChildRequest {
  path: string;
  action: "up" | "down" | "status";
  killAt?: string;
  stopAt?: string;
  leaseMs?: number;
  to?: string;
}
type ChildAnswer =
  | {
      ok: true;
      result: { applied: { name: string }[] };
      waitedFor: { holder: string; pid: number } | null;
      umzugLoaded: boolean;
    }
  | { ok: false; code: string; message: string }
  | { killed: true };

function child(request: ChildRequest): Promise<ChildAnswer> {
  return new Promise((done, fail) => {
    execFile(process.execPath, [CHILD, DIST, JSON.stringify(request)], (error, stdout, stderr) => {
      if (error?.signal === "SIGKILL") done({ killed: true });
      else if (error || stderr) fail(new Error(`${error?.message ?? ""}\n${stderr}\n${stdout}`));
      else done(JSON.parse(stdout));
    });
  });
}

describe("several processes", () => {
  test("the built hive is there", () => {
    expect(existsSync(join(DIST, "schema/migrator.js")), `${DIST} is not built: npm run build`).toBe(true);
  });

  test("status does without umzug", async () => {
    const path = database();
    expect(await child({ path, action: "status" })).toMatchObject({ ok: true, umzugLoaded: false });
    expect(await child({ path, action: "up" })).toMatchObject({ ok: true, umzugLoaded: true });
  });

  test.each(["WAL", "DELETE"])(
    "50 at once apply everything once (journal mode %s)",
    { timeout: 120_000 },
    async (mode) => {
      const path = database();
      execute(path, `PRAGMA journal_mode = ${mode}`);
      const answers = await Promise.all(Array.from({ length: 50 }, () => child({ path, action: "up" })));
      const failed = answers.filter((answer) => !("ok" in answer && answer.ok));
      expect(failed).toEqual([]);
      const applied = answers.flatMap((answer) => ("result" in answer ? names(answer.result.applied) : []));
      expect(applied.sort()).toEqual(PLATFORM.toSorted());
      await using context = hiveContext(path);
      expect(await migrateStatus(context)).toMatchObject({ current: UNIFIED, head: true });
      expect(await verifyAudit(context.store.read)).toMatchObject({ ok: true, entries: PLATFORM.length });
    },
  );

  test("who waits is told the holder's name, and gives up after the lock timeout", async () => {
    const path = database();
    let release: (() => void) | undefined;
    const held = new Promise<void>((done) => {
      release = done;
    });
    let reached: (() => void) | undefined;
    const begun = new Promise<void>((done) => {
      reached = done;
    });
    await using holder = hiveContext(path, {
      signal: async (point) => {
        // Between two migrations: the lock is held, the database is not.
        if (point !== `tx:migrate up ${LEDGER}:committed`) return;
        reached?.();
        await held;
      },
    });
    const first = migrateUp(holder);
    await begun;
    await using other = hiveContext(path);
    await expect(migrateUp(other, { lockTimeoutMs: 0 })).rejects.toEqual(
      failure("LOCK_HELD", /hive migrate up \(process \d+ /, { pid: process.pid }),
    );
    const waited: string[] = [];
    const second = migrateUp(other, { onWait: (one) => waited.push(`${one.holder} ${one.pid}`) });
    const third = child({ path, action: "up" });
    await expect.poll(() => waited).toEqual([`hive migrate up ${process.pid}`]);
    release?.();
    expect(names((await first).applied)).toEqual(PLATFORM);
    expect(await second).toEqual({ applied: [], adopted: [], pending: [] });
    expect(await third).toMatchObject({ ok: true, result: { applied: [] } });
  });

  test("a transaction that outlasts the lease keeps the lock", async () => {
    const path = database();
    const own = migrations(path, {
      "0001_slow": `-- migrate:up
        CREATE TABLE slow AS WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 8000000)
        SELECT count(*) AS n FROM c;`,
      "0002_b": makes("b"),
    });
    const settings = { migrations: [own] };
    // Time for the other one to look at the lock while it is held and nothing is being written.
    const signal = async (point: string) => {
      if (point === "tx:migrate up 0001_slow:committed") await delay(250);
    };
    await using holder = testContext(path, { leaseMs: 400, signal, settings });
    await using other = testContext(path, { leaseMs: 400, settings });
    const first = migrateUp(holder);
    await delay(50);
    const second = migrateUp(other);
    expect(names((await first).applied)).toEqual([...OWN, "0001_slow", "0002_b"]);
    expect((await second).applied).toEqual([]);
  });

  test("a lock whose lease runs out during a transaction is waited for, longer than for the database", async () => {
    const path = database();
    const signal = async (point: string) => {
      if (point === `tx:migrate up ${LEDGER}:begun`) await delay(900);
    };
    await using holder = hiveContext(path, { leaseMs: 300, signal });
    await using other = hiveContext(path, { leaseMs: 300, settings: { busyTimeoutMs: 50 } });
    const first = migrateUp(holder);
    await delay(100);
    const second = migrateUp(other);
    expect(names((await first).applied)).toEqual(PLATFORM);
    expect((await second).applied).toEqual([]);
  });

  test("a process that was frozen is replaced, and cannot write afterwards", async () => {
    const path = database();
    const frozen = child({ path, action: "up", stopAt: `tx:migrate up ${LEDGER}:committed`, leaseMs: 600 });
    await using context = hiveContext(path, { leaseMs: 600 });
    const locks = async () =>
      (await context.store.table("hive_audit")) === null
        ? []
        : context.store.read.all(sql`SELECT pid FROM hive_locks WHERE holder IS NOT NULL`);
    await expect.poll(locks, { timeout: 20_000 }).toHaveLength(1);
    const pid = Number((await locks())[0]?.pid);
    expect(names((await migrateUp(context)).applied)).toEqual(PLATFORM.slice(1));
    process.kill(pid, "SIGCONT");
    expect(await frozen).toMatchObject({ ok: false, code: "LOCK_LOST" });
    expect(await migrateStatus(context)).toMatchObject({ current: UNIFIED, head: true });
  });

  /** The points that an undisturbed run passes. */
  async function points(path: string, action: "up" | "down"): Promise<string[]> {
    const passed: string[] = [];
    await using context = hiveContext(path, { signal: (point) => void passed.push(point) });
    await (action === "up" ? migrateUp(context) : migrateDown(context, { to: "0" }));
    return passed;
  }

  test("killed at any point on the way up, the next run ends as if nothing had happened", {
    timeout: 120_000,
  }, async () => {
    const reference = database();
    const all = await points(reference, "up");
    expect(all.length).toBeGreaterThanOrEqual(3 * PLATFORM.length);
    for (const killAt of all) {
      const path = database();
      expect(await child({ path, action: "up", killAt }), killAt).toEqual({ killed: true });
      await using context = hiveContext(path);
      const again = await migrateUp(context, { lockTimeoutMs: 0 });
      expect(await migrateStatus(context), killAt).toMatchObject({ current: UNIFIED, head: true });
      const during = PLATFORM.findIndex((name) => killAt.includes(name));
      expect(during, killAt).toBeGreaterThanOrEqual(0);
      const done = killAt.endsWith(":committed") ? during + 1 : during;
      expect(names(again.applied), killAt).toEqual(PLATFORM.slice(done));
      expect(schemaOf(path), killAt).toEqual(schemaOf(reference));
      expect(await verifyAudit(context.store.read)).toMatchObject({ ok: true, entries: PLATFORM.length });
    }
  });

  test("killed at any point on the way down, the next run leaves nothing of hive's", { timeout: 120_000 }, async () => {
    const reference = database();
    await points(reference, "up");
    const all = await points(reference, "down");
    expect(all.length).toBeGreaterThanOrEqual(3 * PLATFORM.length);
    for (const killAt of all) {
      const path = database();
      const before = fingerprint(path);
      await points(path, "up");
      expect(await child({ path, action: "down", to: "0", killAt }), killAt).toEqual({ killed: true });
      await using context = hiveContext(path);
      await migrateDown(context, { to: "0", lockTimeoutMs: 0 });
      expect(fingerprint(path), killAt).toBe(before);
      const saved = readdirSync(dirname(path)).filter((file) => file.includes("hive-audit"));
      expect(saved.length, killAt).toBeGreaterThanOrEqual(1);
    }
  });

  test("what a process left that died before its first migration is cleared away by down", async () => {
    const path = database();
    const before = fingerprint(path);
    expect(await child({ path, action: "up", killAt: `tx:migrate up ${LEDGER}:begun` })).toEqual({ killed: true });
    expect(fingerprint(path)).not.toBe(before);
    await using context = hiveContext(path);
    expect(await migrateDown(context)).toEqual({ reverted: [], current: null });
    expect(fingerprint(path)).toBe(before);
  });
});
