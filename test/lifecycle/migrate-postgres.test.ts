import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import pg from "pg";
import { describe, expect, onTestFinished, test } from "vitest";
import type { Context } from "../../src/context.ts";
import type { ErrorCode } from "../../src/errors.ts";
import { changeFlags } from "../../src/flags/flags.ts";
import { hivePreset } from "../../src/presets/hive/index.ts";
import { verifyAudit } from "../../src/rollout/audit.ts";
import { migrateCreate, migrateDown, migrateStatus, migrateUp } from "../../src/schema/migrator.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { check } from "../../src/sync/check.ts";
import { sync } from "../../src/sync/sync.ts";
import { BACKENDS, postgres } from "../support/backends.ts";
import { type TestContextOptions, temporaryDirectory, testContext } from "../support/context.ts";
import { OWN, PLATFORM, UNIFIED } from "../support/migrations.ts";

/** What of schema migrations only PostgreSQL has. */

const only = BACKENDS.includes(postgres) ? describe : describe.skip;

const failure = (code: ErrorCode, message: RegExp, details?: object) =>
  expect.objectContaining({
    code,
    message: expect.stringMatching(message),
    ...(details ? { details: expect.objectContaining(details) } : {}),
  });

async function client(url: string, name: string): Promise<pg.Client> {
  const one = new pg.Client({ connectionString: url, application_name: name });
  one.on("error", () => undefined);
  await one.connect();
  onTestFinished(() => one.end());
  return one;
}

/** A folder with one migration of the user's. */
function migration(text: string): Pick<TestContextOptions, "settings"> & { folder: string } {
  const baseDirectory = temporaryDirectory();
  mkdirSync(join(baseDirectory, "own"));
  writeFileSync(join(baseDirectory, "own/0001_change.sql"), text);
  return { settings: { baseDirectory, migrations: ["own"] }, folder: baseDirectory };
}

/** Every object of the schemas that are not the server's own, and its comment. */
const OBJECTS = `
  SELECT 'schema' AS kind, nspname AS name FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)'
  UNION ALL SELECT 'relation', n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname !~ '^(pg_|information_schema)'
  UNION ALL SELECT 'function', p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname !~ '^(pg_|information_schema)'
  UNION ALL SELECT 'trigger', tgname FROM pg_trigger WHERE NOT tgisinternal
  ORDER BY kind, name`;

only("down to nothing", () => {
  test("leaves nothing of hive's, and its log is saved beside the config", async () => {
    const place = await postgres.create({ legacy: "natural", sample: { tasks: 3 } });
    const before = place.select(OBJECTS);
    await using context = testContext(place.url, { mapping: hivePreset });
    await migrateUp(context);
    await changeFlags(context, [{ agent: "hive-coder", flag: "dual-write", value: "on" }]);
    await sync(context);
    await changeFlags(context, [{ agent: "hive-coder", flag: "dual-write", value: "off" }]);
    const { auditSavedTo = "" } = await migrateDown(context, { to: "0" });
    expect(place.select(OBJECTS)).toEqual(before);
    const base = join(context.settings.baseDirectory, new URL(place.url).pathname);
    expect(auditSavedTo.replace(/\d{8}T\d{6}Z/, "")).toBe(`${base}.hive-audit-.jsonl`);
    expect(readFileSync(auditSavedTo, "utf8")).toContain('"action":"migrate down"');
  });

  test("leaves what others have put into hive's schema", async () => {
    const place = await postgres.create();
    await using context = testContext(place.url);
    await migrateUp(context);
    place.execute("CREATE TABLE hive.mine (a int); CREATE FUNCTION hive.own() RETURNS int LANGUAGE sql AS 'SELECT 1'");
    await migrateDown(context, { to: "0" });
    expect(place.select(OBJECTS).map(({ name }) => name)).toEqual(["hive.own()", "hive.mine", "hive", "public"]);
    await migrateUp(context);
    expect(await migrateStatus(context)).toMatchObject({ head: true });
  });

  test("a last step that is begun again saves no entry twice, and the saved log is unbroken", async () => {
    const place = await postgres.create();
    let first = true;
    await using context = testContext(place.url, {
      signal: async (point) => {
        if (point !== `tx:migrate down ${OWN[0]}:before-commit` || !first) return;
        first = false;
        // As the server would end it, after everything was done.
        await Promise.reject(
          Object.assign(new (await import("../../src/errors.ts")).HiveError("DATABASE_BUSY", "deadlock"), {}),
        );
      },
    });
    await migrateUp(context);
    const { auditSavedTo = "" } = await migrateDown(context, { to: "0" });
    expect(first).toBe(false);
    const entries = readFileSync(auditSavedTo, "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(entries.map(({ seq }) => seq)).toEqual(entries.map((_, i) => i + 1));
    await migrateUp(context);
    for (const entry of entries.slice(1)) expect(entry.previous_hash).toBe(entries[entry.seq - 2].hash);
    expect(await verifyAudit(context.store.read)).toMatchObject({ ok: true });
  });
});

only("DDL that waits for an agent's long transaction", () => {
  const ADD =
    "-- migrate:up\nALTER TABLE notes ADD COLUMN more text;\n-- migrate:down\nALTER TABLE notes DROP COLUMN more;\n";
  const place = () => postgres.create({ rows: "CREATE TABLE notes (id int PRIMARY KEY, body text)" });

  /** Writes one row after the other until the work is done: how long each of them took, in milliseconds. */
  async function writing(url: string, work: Promise<unknown>): Promise<number[]> {
    const agent = await client(url, "busy-agent");
    let done = false;
    const end = work.then(
      () => {
        done = true;
      },
      () => {
        done = true;
      },
    );
    const took: number[] = [];
    for (let id = 1000; !done; id++) {
      const begun = performance.now();
      await agent.query("INSERT INTO notes (id, body) VALUES ($1, 'x')", [id]);
      took.push(performance.now() - begun);
      await new Promise((next) => setTimeout(next, 5));
    }
    await end;
    return took;
  }

  test("is given up in the end, naming who is in the way, and keeps no other agent waiting for long", async () => {
    const { url } = await place();
    const { settings } = migration(ADD);
    await using context = testContext(url, { settings: { ...settings, busyTimeoutMs: 2_000 } });
    await migrateUp(context, { to: OWN[2] });
    const slow = await client(url, "slow-agent");
    await slow.query("BEGIN; INSERT INTO notes VALUES (1, 'a')");
    const work = migrateUp(context);
    const refused = expect(work).rejects.toEqual(
      failure("DATABASE_BUSY", /kept waiting by slow-agent \(process \d+, idle in transaction, .* runs for/, {
        migration: "0001_change",
        pending: ["0001_change"],
        blockers: [{ pid: expect.any(Number), name: "slow-agent" }],
      }),
    );
    const took = await writing(url, work);
    await refused;
    // It went on between the attempts, and in an attempt it waited for no longer than hive itself did.
    expect(took.length).toBeGreaterThan(10);
    expect(took.filter((ms) => ms > 200 + 300)).toEqual([]);
    expect(await migrateStatus(context)).toMatchObject({ pending: ["0001_change"] });
    await slow.query("ROLLBACK");
    expect((await migrateUp(context)).applied).toMatchObject([{ name: "0001_change" }]);
  });

  test("is done as soon as that has ended", async () => {
    const { url, select } = await place();
    const { settings } = migration(ADD);
    await using context = testContext(url, { settings });
    await migrateUp(context, { to: OWN[2] });
    const slow = await client(url, "slow-agent");
    await slow.query("BEGIN; INSERT INTO notes VALUES (1, 'a')");
    const work = migrateUp(context);
    const waits = `SELECT count(*)::int AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%ALTER TABLE%'`;
    await expect.poll(() => select(waits), { timeout: 8_000, interval: 20 }).toEqual([{ n: 1 }]);
    await slow.query("COMMIT");
    expect((await work).applied).toMatchObject([{ name: "0001_change" }]);
    expect(select("SELECT id, more FROM notes")).toEqual([{ id: 1, more: null }]);
  });
});

only("a migration file", () => {
  test.each([
    ["CREATE INDEX CONCURRENTLY ix ON notes (body);", /line 2: CREATE … CONCURRENTLY cannot run in a transaction/],
    ["DROP INDEX CONCURRENTLY ix;", /DROP … CONCURRENTLY cannot/],
    ["ALTER SYSTEM SET work_mem = '1GB';", /ALTER SYSTEM cannot/],
    ["VACUUM notes;", /VACUUM cannot be part/],
  ])("%s is refused before anything is written", async (statement, message) => {
    const place = await postgres.create({ rows: "CREATE TABLE notes (id int PRIMARY KEY, body text)" });
    const { settings } = migration(`-- migrate:up\n${statement}`);
    await using context = testContext(place.url, { settings });
    await expect(migrateUp(context)).rejects.toEqual(failure("MIGRATION_INVALID", message));
    expect(await migrateStatus(context)).toMatchObject({ current: null });
  });

  test("may have functions of either form and strings with escapes; made by `create`, it is PostgreSQL's", async () => {
    const place = await postgres.create();
    const { settings, folder } = migration(String.raw`-- migrate:up
      CREATE FUNCTION one() RETURNS int LANGUAGE plpgsql AS $body$ BEGIN RETURN 1; END; $body$;
      CREATE FUNCTION two() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 2 END; END;
      CREATE TABLE said (words text[] DEFAULT ARRAY[E'it\'s; \\', 'x''y']);
      -- migrate:down
      DROP TABLE said; DROP FUNCTION two(); DROP FUNCTION one();
    `);
    await using context = testContext(place.url, { settings });
    await migrateUp(context);
    expect(place.select("SELECT one() + two() AS n")).toEqual([{ n: 3 }]);
    const { files } = await migrateCreate(context, "more");
    expect(files).toEqual([join(folder, "own/0002_more.postgres.sql")]);
  });
});

only("adoption", () => {
  /** As Alembic makes them: `sa.String`, `sa.JSON` and `sa.DateTime`, with or without a time zone. */
  const alembic = (json: string, time: string, change = (text: string) => text) => {
    const file = readFileSync(
      new URL("../../migrations/hive/0002_unified_schema.postgres.sql", import.meta.url),
      "utf8",
    );
    const up = file
      .slice(file.indexOf("CREATE"), file.indexOf("-- migrate:down"))
      .replaceAll(/(id|task_id) TEXT NOT NULL PRIMARY KEY,/g, "$1 VARCHAR PRIMARY KEY,")
      .replaceAll(/status TEXT/g, "status VARCHAR(50)")
      .replaceAll("JSONB", json)
      .replaceAll("TIMESTAMPTZ", time);
    return change(`CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY);
      INSERT INTO alembic_version VALUES ('f97f94fd1a27'); ${up}`);
  };

  async function carried(context: Context): Promise<unknown> {
    await changeFlags(context, [{ agent: "hive-coder", flag: "dual-write", value: "on" }]);
    await backfill(context);
    return check(context);
  }

  test.each([
    ["JSONB", "TIMESTAMPTZ"],
    ["JSON", "TIMESTAMP"],
    ["JSON", "TIMESTAMP WITH TIME ZONE"],
  ])("of %s and %s: adopted, carried over without a difference, and left empty by down", async (json, time) => {
    const rows = alembic(json, time, (text) => text.replace(/CREATE INDEX ix_unified_tasks_status.*/, ""));
    const place = await postgres.create({ legacy: "natural", sample: { tasks: 40, dirt: true }, rows });
    const before = place.select(OBJECTS);
    await using context = testContext(place.url, { mapping: hivePreset });
    expect(await migrateUp(context)).toMatchObject({ adopted: [UNIFIED] });
    expect(await carried(context)).toMatchObject({ consistent: true, different: 0, missing: 0 });
    expect(Number(place.select("SELECT count(*) AS n FROM unified_tasks")[0]?.n)).toBeGreaterThan(10);
    await changeFlags(context, [{ agent: "hive-coder", flag: "dual-write", value: "off" }]);
    await migrateDown(context, { to: "0" });
    expect(place.select(OBJECTS)).toEqual(before);
    expect(place.select("SELECT * FROM unified_tasks")).toEqual([]);
  });

  test("differences of shape are listed column by column, and nothing is written", async () => {
    const change = (text: string) =>
      text
        .replace("priority INTEGER", "priority SMALLINT")
        .replace("task_metadata JSONB", "task_metadata TEXT")
        .replace("health_url TEXT", "health_url UUID")
        .replace("deployed_at TIMESTAMPTZ", "deployed_at DATE");
    const place = await postgres.create({ rows: alembic("JSONB", "TIMESTAMPTZ", change) });
    const before = place.select(OBJECTS);
    await using context = testContext(place.url, { mapping: hivePreset });
    await expect(migrateUp(context)).rejects.toEqual(
      failure("SCHEMA_MISMATCH", /priority: expected INTEGER, found SMALLINT/, {
        differences: [
          { table: "unified_tasks", column: "priority", expected: "INTEGER", actual: "SMALLINT" },
          { table: "unified_tasks", column: "task_metadata", expected: "JSONB", actual: "TEXT" },
          { table: "unified_deployment_tasks", column: "deployed_at", expected: "TIMESTAMPTZ", actual: "DATE" },
        ],
      }),
    );
    expect(place.select(OBJECTS)).toEqual(before);
  });

  test("another version is refused", async () => {
    const rows = alembic("JSONB", "TIMESTAMPTZ", (text) => text.replace("f97f94fd1a27", "aaaaaaaaaaaa"));
    const place = await postgres.create({ rows });
    await using context = testContext(place.url, { mapping: hivePreset });
    await expect(migrateUp(context)).rejects.toEqual(failure("SCHEMA_MISMATCH", /does not say that another tool/));
    expect(PLATFORM).toContain(UNIFIED);
  });
});
