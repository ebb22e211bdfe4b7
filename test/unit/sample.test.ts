import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import Database from "better-sqlite3";
import { describe, expect, test } from "vitest";
import { hivePreset } from "../../src/presets/hive/index.ts";
import { type SampleOptions, samplePlatform } from "../../src/presets/hive/sample.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { check } from "../../src/sync/check.ts";
import type { Value } from "../../src/sync/mapping.ts";
import { listQuarantine } from "../../src/sync/quarantine.ts";
import { temporaryDirectory, testContext } from "../support/context.ts";
import { legacyDatabase } from "../support/legacy-db.ts";

type Row = Record<string, Value>;

function rowsOf(options: SampleOptions, wanted: string): Row[] {
  const found = samplePlatform(options).tables.find(({ table }) => table === wanted);
  if (!found) throw new Error(`There is no ${wanted}.`);
  return [...found.chunks()]
    .flat()
    .map((row) => Object.fromEntries(found.columns.map((name, i) => [name, row[i] ?? null])));
}

/** The sample in a database, in one transaction, as the bench and the demo write it. */
function filled(path: string, options: SampleOptions, foreignKeys: boolean): Database.Database {
  const { schema, setup, tables } = samplePlatform(options);
  const database = new Database(path);
  if (foreignKeys) database.pragma("foreign_keys = ON");
  else database.exec(setup);
  database.transaction(() => {
    for (const statement of schema) database.exec(statement);
    for (const { table, columns, chunks } of tables) {
      const insert = database.prepare(
        `INSERT INTO ${table} (${columns.join(", ")}) VALUES (${columns.map(() => "?").join(", ")})`,
      );
      for (const rows of chunks()) for (const row of rows) insert.run(...row);
    }
  })();
  return database;
}

/** Digits by 9 and letters by nothing but T and Z: the form of a time. */
const form = (time: Value | undefined) => (typeof time === "string" ? time.replace(/\d/g, "9") : null);

/** Long texts by their hash: a megabyte is no use in a failure's message. */
function shortened(row: Row): Row {
  const short = (value: Value) =>
    typeof value === "string" && value.length > 5_000 ? createHash("sha256").update(value).digest("hex") : value;
  return Object.fromEntries(Object.entries(row).map(([name, value]) => [name, short(value)]));
}

const words = (rows: readonly Row[], column: string) => new Set(rows.map((row) => row[column]));

describe("the sample platform", () => {
  test("the same options give the same rows, another seed others", () => {
    const all = (seed: number) =>
      samplePlatform({ tasks: 300, seed, dirt: true }).tables.map(({ chunks }) => [...chunks()].flat());
    expect(all(1)).toEqual(all(1));
    expect(all(2)).not.toEqual(all(1));
    const [tasks] = samplePlatform({ tasks: 300 }).tables;
    expect([...(tasks?.chunks() ?? [])]).toEqual([...(tasks?.chunks() ?? [])]);
  });

  test("rows come in pieces, so that a million need no more memory than a thousand", () => {
    for (const { chunks } of samplePlatform({ tasks: 5_000, dirt: true }).tables) {
      for (const rows of chunks()) expect(rows.length).toBeLessThan(1_000);
    }
  });

  test("its clean rows keep every constraint, foreign keys included", () => {
    const database = filled(":memory:", { tasks: 20_000 }, true);
    const count = (table: string) => Number(database.prepare(`SELECT count(*) FROM ${table}`).pluck().get());
    expect(count("tasks")).toBe(20_000);
    expect(count("workers")).toBe(12);
    const perTask = (table: string) => count(table) / 20_000;
    expect(perTask("runs")).toBeGreaterThan(1.9);
    expect(perTask("runs")).toBeLessThan(2.6);
    expect(perTask("planning_queue")).toBeCloseTo(0.15, 2);
    expect(perTask("execution_plans")).toBeCloseTo(0.13, 1);
    expect(perTask("deployment_events")).toBeCloseTo(0.085, 1);
    expect(perTask("events")).toBeGreaterThan(1);
    const shared = database
      .prepare(
        "SELECT count(*) FROM tasks JOIN (SELECT id FROM planning_queue UNION ALL SELECT id FROM execution_plans) USING (id)",
      )
      .pluck()
      .get();
    expect(shared).toBe(0);
    database.close();
  });

  test("has every status, type and form of a time that the platform has", () => {
    const tasks = rowsOf({ tasks: 6_000 }, "tasks");
    const statuses =
      "queued assigned in_progress review_pending approved rejected rework_needed escalated completed failed cancelled " +
      "review_in_progress review_approved review_rejected review_failed planning_in_progress planned planning_failed " +
      "deployment_pending deploying deployed deployment_failed rolled_back running pending";
    expect([...words(tasks, "status")].sort()).toEqual(statuses.split(" ").sort());
    expect(words(tasks, "task_type").size).toBe(25);
    const times = new Set(tasks.flatMap((row) => [form(row.created_at), form(row.updated_at), form(row.assigned_at)]));
    expect([...times].sort()).toEqual([
      "9999-99-99 99:99:99",
      "9999-99-99T99:99:99+99:99",
      "9999-99-99T99:99:99.999999",
      "9999-99-99T99:99:99.999999+99:99",
      null,
    ]);
    const runs = rowsOf({ tasks: 6_000 }, "runs");
    expect([...words(runs, "status")].sort()).toEqual(
      "blocked cancelled completed error failed failure pending running success timeout".split(" "),
    );
    expect([...words(rowsOf({ tasks: 6_000 }, "planning_queue"), "status")].sort()).toEqual(
      "assigned completed failed in_progress pending planned".split(" "),
    );
  });

  test("its JSON is written as Python writes it", () => {
    const rows = [
      ...rowsOf({ tasks: 2_000 }, "tasks"),
      ...rowsOf({ tasks: 2_000 }, "runs"),
      ...rowsOf({ tasks: 2_000 }, "execution_plans"),
    ];
    const texts = rows.flatMap(({ payload, workflow, tags, result_data, plan_data }) =>
      [payload, workflow, tags, result_data, plan_data].filter((text) => typeof text === "string"),
    );
    expect(texts.length).toBeGreaterThan(6_000);
    for (const text of texts) {
      expect(text).toMatch(/^[\x20-\x7e]*$/);
      const compact = JSON.stringify(JSON.parse(text)).replace(/[^\x20-\x7e]/gu, "");
      // Strings apart, only the separators differ; 1.0 stays 1.0.
      expect(text.length).toBeGreaterThan(compact.length - 1);
      expect(text).not.toMatch(/[^\\]":\S/);
    }
    const mean = (column: string, among: readonly Row[]) => {
      const lengths = among.flatMap((row) => (typeof row[column] === "string" ? [row[column].length] : []));
      return lengths.reduce((sum, length) => sum + length, 0) / lengths.length;
    };
    expect(mean("result_data", rows)).toBeGreaterThan(450);
    expect(mean("payload", rows)).toBeGreaterThan(150);
    expect(mean("payload", rows)).toBeLessThan(300);
    expect(mean("workflow", rows)).toBeGreaterThan(800);
    expect(mean("plan_data", rows)).toBeGreaterThan(2_000);
  });
});

const packed = legacyDatabase();

describe.skipIf(packed === null)("against the platform's own database", () => {
  const own = () => new Database(packed ?? "", { readonly: true });

  test("has the same tables, columns and indexes", () => {
    const shape = (database: Database.Database) => ({
      columns: database
        .prepare(
          `SELECT m.name AS tbl, c.name, c.type, c."notnull", c.dflt_value, c.pk FROM sqlite_schema AS m
           JOIN pragma_table_info(m.name) AS c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%' ORDER BY m.name, c.cid`,
        )
        .all(),
      indexes: database
        .prepare(
          `SELECT m.tbl_name, m.name, x.name AS column_name, x."desc" FROM sqlite_schema AS m
           JOIN pragma_index_xinfo(m.name) AS x WHERE m.type = 'index' AND x.key ORDER BY m.name, x.seqno`,
        )
        .all(),
      references: database
        .prepare(
          `SELECT m.name AS tbl, f."table", f."from", f."to", f.on_delete FROM sqlite_schema AS m
           JOIN pragma_foreign_key_list(m.name) AS f WHERE m.type = 'table' ORDER BY m.name, f.id`,
        )
        .all(),
    });
    const sample = filled(":memory:", { tasks: 1 }, true);
    const real = own();
    expect(shape(sample)).toEqual(shape(real));
    sample.close();
    real.close();
  });

  test("has every edge case of the manifest, as it is there", () => {
    const file = fileURLToPath(new URL("../../../shared/data/legacy-hive.manifest.json", import.meta.url));
    expect(existsSync(file)).toBe(true);
    const manifest: { edge_cases: Record<string, string> } = JSON.parse(readFileSync(file, "utf8"));
    const kinds = Object.keys(manifest.edge_cases);
    expect(kinds.length).toBe(69);
    const planted = new Map(rowsOf({ tasks: 0, dirt: true }, "tasks").map((row) => [row.id ?? "(NULL id)", row]));
    const real = own();
    for (const kind of kinds) {
      const there = real
        .prepare<[string | null], Row>("SELECT * FROM tasks WHERE id IS ?")
        .get(kind === "(NULL id)" ? null : kind);
      const { title: _, ...row } = planted.get(kind) ?? {};
      expect({ kind, ...shortened(there ?? {}) }).toMatchObject({ kind, ...shortened(row) });
    }
    real.close();
  });
});

test("a backfill of it leaves every aggregate identical or quarantined with a reason", async () => {
  const path = join(temporaryDirectory(), "platform.db");
  const legacy = filled(path, { tasks: 400, seed: 7, dirt: true }, false);
  legacy.close();
  await using context = testContext(path, { mapping: hivePreset });
  await migrateUp(context);
  const { aggregates, missingColumns } = await backfill(context);
  const { entries } = await listQuarantine(context);
  expect(missingColumns).toEqual([]);
  expect(aggregates.written + aggregates.quarantined).toBe(aggregates.total);
  expect(entries.map(({ mapping }) => mapping).sort()).toEqual(["planning_queue", "tasks"]);
  expect(entries.map(({ key }) => key)).toContain("edge-id-twice");
  for (const { reason } of entries) expect(reason).toMatch(/NULL as its id|already given by tasks/);
  const names = hivePreset.agents.map(({ name }) => name);
  const found = await check(context, { agents: names });
  expect(found.drift).toEqual([]);
  expect(found).toMatchObject({ consistent: true, quarantined: 2, compared: aggregates.total });
});

test("roots that somebody deleted by hand are written again, though their related rows are in the way", async () => {
  const path = join(temporaryDirectory(), "platform.db");
  filled(path, { tasks: 200 }, true).close();
  await using context = testContext(path, { mapping: hivePreset });
  await migrateUp(context);
  const { aggregates } = await backfill(context);
  const byHand = new Database(path);
  byHand.exec("DELETE FROM unified_tasks WHERE id IN (SELECT task_id FROM unified_workflow_tasks ORDER BY 1 LIMIT 10)");
  const deleted = byHand.prepare("SELECT total_changes()").pluck().get();
  byHand.close();
  expect(deleted).toBe(10);
  expect(await backfill(context)).toMatchObject({ aggregates: { written: 10, quarantined: 0 } });
  const names = hivePreset.agents.map(({ name }) => name);
  expect(await check(context, { agents: names })).toMatchObject({ consistent: true, identical: aggregates.total });
});
