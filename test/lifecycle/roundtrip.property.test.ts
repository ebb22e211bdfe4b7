import { rmSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { LEGACY_SCHEMA } from "../../src/presets/hive/sample-schema.ts";
import { rollback } from "../../src/rollout/rollback.ts";
import { migrateDown, migrateUp } from "../../src/schema/migrator.ts";
import type { Value } from "../../src/storage/port.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { check } from "../../src/sync/check.ts";
import { BACKENDS } from "../support/backends.ts";
import { temporaryDirectory } from "../support/context.ts";
import { contentHashes, isOurs, legacySide, schemaOf } from "../support/fingerprint.ts";
import { execute, hastyClock, legacyFile, place, platformContext, select } from "../support/legacy-platform.ts";

/** Databases that nobody would make on purpose, there and back. */

const ODD_TEXT = [
  ...["", " ", "0", "1", "1.0", "-0", "1e3", "NULL", "null", "true", "'", '"', "\\", "a\u0000b", "\uFEFF", "e\u0301"],
  ...["line\nbreak", "\u{1F41D}", "x".repeat(300), "$int", '{"$int":"1"}', "__proto__", "constructor", "%s", "\u2028"],
];
const ODD_JSON = [
  ...[
    "{}",
    "[]",
    "null",
    "1",
    "1.0",
    "-0",
    "1e400",
    '"text"',
    '"{\\"a\\": 1}"',
    "{'a': 1}",
    "{",
    '{"a":',
    "NaN",
    "[NaN]",
  ],
  ...[
    '{"a": 1, "a": 2}',
    '{"n": 9007199254740993}',
    '{"n": 1.0, "m": 1e2}',
    '{"10": 1, "9": 2, "a": 3}',
    '{"__proto__": 1}',
  ],
  ...[
    '{"s": "\\ud800"}',
    ' { "spaces" : 1 } ',
    '{"_raw": "x"}',
    '{"_raw": {"$blob": "AA=="}}',
    "[".repeat(500) + "]".repeat(500),
  ],
  ...[
    '{"correlation_id": "c1"}',
    '{"correlation_id": 7, "plan_id": "p"}',
    '{"files": {"2": 1, "b": 2}}',
    '{"files": ["x.py"]}',
  ],
  ...[
    '{"environment": {"platform": "k8s"}}',
    '{"environment": 5, "service_name": ""}',
    '{"code_path": "a", "pr_id": 12}',
  ],
  ...[
    '{"current_phase": "x"}',
    '{"current_phase": ""}',
    '{"inspection_report": {"summary": {"quality_score": 88.5}, "issues": [1.0]}}',
  ],
];
const ODD_TIMES = [
  ...["2025-09-21 08:45:28", "2025-09-23T19:37:40.545367+00:00", "2025-09-23T19:37:40Z", "2025-09-23", "yesterday", ""],
  ...["2025-02-30 00:00:00", "2025-09-23T19:37:40.999999999-11:30", "0000-00-00", "9999-12-31 23:59:59", "20250923"],
];
const STATUSES = [
  ...["queued", "assigned", "in_progress", "review_pending", "approved", "rejected", "rework_needed", "escalated"],
  ...["completed", "failed", "cancelled", "review_failed", "planned", "deployment_pending", "deploying", "deployed"],
  ...[
    "deployment_failed",
    "rolled_back",
    "running",
    "pending",
    "",
    " queued ",
    "QUEUED",
    "TaskStatus.APPROVED",
    "blocked",
  ],
  ...["draft", "generated", "executing"],
];
const TYPES = [
  ...["backend", "review", "deployment", "deploy", "chimera_workflow", "qa_workflow", "workflow", "analysis", "plan"],
  ...["test", "test_suite", "verification", "qa_golden_rules", "", " Deployment ", "Type.REVIEW", "planned_subtask"],
];

const text = fc.oneof(
  fc.constantFrom(...ODD_TEXT),
  fc.string({ unit: "binary", maxLength: 12 }).map((s) => s.replaceAll(/\p{Cs}/gu, "")),
);
const json = fc.oneof(
  fc.constantFrom(...ODD_JSON),
  fc.json({ maxDepth: 3 }).map((s) => s.replaceAll(/\p{Cs}/gu, "")),
  text,
);
const integer = fc.oneof(
  fc.bigInt({ min: -3n, max: 12n }),
  fc.constantFrom(2n ** 63n - 1n, -(2n ** 63n), 2n ** 53n, 2n ** 53n + 1n, -1n, 0n, 50n, 85n),
);
const real = fc.oneof(
  fc.constantFrom(0.1, -0.5, 5, 2 ** 53, 1e308, 5e-324, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 9.5, 1e21),
  fc.double({ noNaN: true }),
);
const blob = fc.oneof(
  fc.constantFrom(
    new Uint8Array(),
    Uint8Array.of(0),
    Uint8Array.from("{}", (c) => c.charCodeAt(0)),
  ),
  fc.uint8Array({ maxLength: 6 }),
);
/** Mostly what belongs there; sometimes anything. */
const mostly = (usual: fc.Arbitrary<Value>): fc.Arbitrary<Value> =>
  fc.oneof({ weight: 6, arbitrary: usual }, { weight: 1, arbitrary: fc.oneof(text, integer, real, blob) });
const nullable = (usual: fc.Arbitrary<Value>): fc.Arbitrary<Value> =>
  fc.oneof({ weight: 4, arbitrary: mostly(usual) }, { weight: 1, arbitrary: fc.constant(null) });

const oneOf = (...values: string[]) => fc.constantFrom<Value>(...values);
const time = nullable(oneOf(...ODD_TIMES));
const someText = nullable(text);
/** Few, so that the tables collide with each other, and some of them only nearly. */
const IDS = [
  "a",
  "A",
  "a ",
  " a",
  "b",
  "1",
  "01",
  "1.0",
  "",
  "\u00e9",
  "e\u0301",
  "a\u0000",
  "long".repeat(75),
  "(NULL key)",
];
const cleanId = oneOf(...IDS, ...Array.from({ length: 12 }, (_, i) => `k${i}`));
const dirtyId: fc.Arbitrary<Value> = fc.oneof(
  { weight: 8, arbitrary: cleanId },
  { weight: 1, arbitrary: fc.oneof(fc.constant(null), blob, integer, real) },
);

type Generated = Record<string, Value>;
interface Platform {
  tasks: Generated[];
  runs: Generated[];
  planning_queue: Generated[];
  execution_plans: Generated[];
  deployment_events: Generated[];
}

const platform = (id: fc.Arbitrary<Value>): fc.Arbitrary<Platform> =>
  fc.record({
    tasks: fc.array(
      fc.record({
        ...{ id, title: mostly(text), description: someText, task_type: mostly(oneOf(...TYPES)) },
        ...{ status: mostly(oneOf(...STATUSES)), priority: nullable(integer), current_phase: mostly(text) },
        ...{
          workflow: nullable(json),
          payload: nullable(json),
          tags: nullable(json),
          created_at: time,
          updated_at: time,
        },
        ...{ started_at: time, due_date: time, failure_reason: someText, retry_count: nullable(integer) },
        ...{ max_retries: nullable(integer), summary: someText, depends_on: someText, anything: nullable(real) },
      }),
      { maxLength: 14 },
    ),
    runs: fc.array(
      fc.record({
        ...{ id: dirtyId, task_id: mostly(cleanId), worker_id: mostly(text), run_number: mostly(integer) },
        ...{
          status: mostly(oneOf("success", "failed", "pending", " Running ", "")),
          phase: someText,
          started_at: time,
        },
        ...{ completed_at: time, result_data: nullable(json), error_message: someText },
      }),
      { maxLength: 12 },
    ),
    planning_queue: fc.array(
      fc.record({
        ...{ id, task_description: mostly(text), priority: nullable(integer), requestor: someText },
        ...{ context_data: nullable(json), status: nullable(oneOf(...STATUSES)), complexity_estimate: someText },
        ...{ created_at: time, assigned_at: time, completed_at: time, assigned_agent: someText },
      }),
      { maxLength: 6 },
    ),
    execution_plans: fc.array(
      fc.record({
        ...{ id, planning_task_id: mostly(cleanId), plan_data: mostly(json), estimated_duration: nullable(integer) },
        ...{ estimated_complexity: someText, generated_workflow: nullable(json), subtask_count: nullable(integer) },
        ...{ dependency_count: nullable(real), generated_at: time, status: nullable(oneOf(...STATUSES)) },
      }),
      { maxLength: 6 },
    ),
    deployment_events: fc.array(
      fc.record({
        task_id: mostly(cleanId),
        event_type: mostly(text),
        details: nullable(json),
        timestamp: mostly(text),
      }),
      { maxLength: 5 },
    ),
  });

const AGENTS = ["ai-reviewer", "ai-planner", "ai-deployer", "hive-coder", "guardian", "orchestrator", "qa-agent"];
const ROOTS = ["tasks", "planning_queue", "execution_plans"];

/** Writes the rows that the tables take; keys that are there already are left out, as are NULLs where none may be. */
function fill(path: string, rows: Platform): void {
  const db = new Database(path);
  db.pragma("journal_mode = WAL");
  db.pragma("synchronous = OFF");
  db.pragma("foreign_keys = OFF");
  for (const statement of LEGACY_SCHEMA) db.exec(statement);
  // A column without a type keeps every kind of value as it is.
  db.exec('ALTER TABLE tasks ADD COLUMN anything; ALTER TABLE planning_queue ADD COLUMN "odd ""name""" DEFAULT 5.0');
  db.transaction(() => {
    for (const [table, some] of Object.entries(rows)) {
      for (const row of some as Generated[]) {
        const names = Object.keys(row);
        db.prepare(
          `INSERT OR IGNORE INTO ${table} (${names.join(", ")}) VALUES (${names.map(() => "?").join(", ")})`,
        ).run(Object.values(row));
      }
    }
    // Bytes that are no UTF-8 where text belongs.
    db.exec("UPDATE tasks SET description = CAST(x'c328ff' AS TEXT) WHERE rowid % 5 = 2 AND typeof(id) = 'text'");
  })();
  db.close();
}

describe("a generated database", () => {
  test("is byte for byte as before after going all the way up and back down", { timeout: 180_000 }, async () => {
    const folder = temporaryDirectory();
    let moved = 0;
    let quarantined = 0;
    await fc.assert(
      fc.asyncProperty(platform(dirtyId), async (rows) => {
        const path = join(folder, "dirty.db");
        for (const end of ["", "-wal", "-shm"]) rmSync(path + end, { force: true });
        fill(path, rows);
        const before = legacySide(path);
        const total = ROOTS.reduce(
          (sum, table) => sum + Number(select(path, `SELECT count(*) AS n FROM ${table}`)[0]?.n),
          0,
        );
        await using context = platformContext(path, { clock: hastyClock() });
        await migrateUp(context);
        const { aggregates } = await backfill(context);
        expect(aggregates.written + aggregates.quarantined).toBe(total);
        moved += aggregates.written;
        quarantined += aggregates.quarantined;
        expect(await check(context)).toMatchObject({
          ...{ consistent: true, compared: total, identical: aggregates.written, quarantined: aggregates.quarantined },
          drift: [],
        });
        expect((await backfill(context)).aggregates.written).toBe(0);
        place(path, AGENTS, "complete");
        const asUnified = await check(context);
        expect(asUnified.drift.filter((one) => one.kind !== "extra")).toEqual([]);
        expect(await rollback(context)).toMatchObject({ stage: "off", projectedDown: 0, kept: 0, quarantined: 0 });
        expect(legacySide(path)).toEqual(before);
        await migrateDown(context, { to: "0" });
        expect(legacySide(path)).toEqual(before);
        expect(schemaOf(path, isOurs)).toEqual({});
      }),
      { numRuns: 40 },
    );
    // The generator makes what it is meant to make.
    expect(moved).toBeGreaterThan(150);
    expect(quarantined).toBeGreaterThan(5);
  });

  test("gets its root rows back, every value of its own kind, when the legacy side lost them all", {
    timeout: 180_000,
  }, async () => {
    const folder = temporaryDirectory();
    await fc.assert(
      fc.asyncProperty(platform(cleanId), async (rows) => {
        const path = join(folder, "lost.db");
        for (const end of ["", "-wal", "-shm"]) rmSync(path + end, { force: true });
        fill(path, rows);
        // What is no text cannot be written again by its bytes.
        execute(path, "UPDATE tasks SET description = 'text' WHERE description = CAST(x'c328ff' AS TEXT)");
        await using context = platformContext(path, { clock: hastyClock() });
        await migrateUp(context);
        await backfill(context);
        for (const table of ROOTS) {
          execute(
            path,
            `DELETE FROM ${table} WHERE id IN (SELECT key FROM hive_quarantine WHERE mapping = '${table}')`,
          );
        }
        execute(path, "DELETE FROM hive_quarantine");
        const legacyRoots = (table: string) => ROOTS.includes(table);
        const before = contentHashes(path, legacyRoots);
        place(path, AGENTS, "complete");
        for (const table of ROOTS) execute(path, `DELETE FROM ${table}`);
        const result = await rollback(context);
        expect(select(path, "SELECT mapping, key, reason FROM hive_quarantine")).toEqual([]);
        expect(contentHashes(path, legacyRoots)).toEqual(before);
        expect(result).toMatchObject({ quarantined: 0, kept: 0 });
        expect(await check(context)).toMatchObject({ consistent: true, drift: [] });
      }),
      { numRuns: 25 },
    );
  });
});

describe.each(BACKENDS)("rows that refer to each other on $name", ({ create }) => {
  test("come back whatever the order of their keys is", async () => {
    const rows = `
      INSERT INTO planning_queue (id, task_description)
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
        SELECT 'z' || substr(CAST(1000 + i AS text), 2), 'q' FROM n;
      INSERT INTO execution_plans (id, planning_task_id, plan_data)
        SELECT 'a' || id, id, '{}' FROM planning_queue;`;
    const { url: path } = await create({ legacy: "text", rows });
    await using context = platformContext(path, { clock: hastyClock() });
    await migrateUp(context);
    await backfill(context);
    const before = contentHashes(path, (table) => ROOTS.includes(table));
    place(path, AGENTS, "complete");
    execute(path, "DELETE FROM planning_queue; DELETE FROM execution_plans");
    expect(await rollback(context)).toMatchObject({ projectedDown: 600, quarantined: 0 });
    expect(contentHashes(path, (table) => ROOTS.includes(table))).toEqual(before);
  });

  test("an orphan comes back as the orphan it was", async () => {
    const rows = "INSERT INTO execution_plans (id, planning_task_id, plan_data) VALUES ('p', 'nowhere', '{}')";
    const { url: path } = await create({ legacy: "text", rows });
    await using context = platformContext(path, { clock: hastyClock() });
    await migrateUp(context);
    await backfill(context);
    const before = contentHashes(path, (table) => ROOTS.includes(table));
    place(path, "orchestrator", "complete");
    execute(path, "DELETE FROM execution_plans");
    expect(await rollback(context)).toMatchObject({ projectedDown: 1, quarantined: 0 });
    expect(contentHashes(path, (table) => ROOTS.includes(table))).toEqual(before);
  });
});

// A column of PostgreSQL has one kind of values.
describe("SQLite only: values of several kinds in one column", () => {
  test("a value that was written over on the side that follows comes back as the kind that it was", async () => {
    const path = legacyFile(`ALTER TABLE tasks ADD COLUMN anything;
      INSERT INTO tasks (id, title, task_type, anything) VALUES ('real', '', 'backend', 5.0), ('integer', '', 'backend', 5),
        ('text', '', 'backend', '5'), ('blob', '', 'backend', x'35'), ('nothing', '', 'backend', NULL), ('large', '', 'backend', 1e300)`);
    await using context = platformContext(path, { clock: hastyClock() });
    await migrateUp(context);
    await backfill(context);
    const before = legacySide(path);
    place(path, AGENTS, "live");
    execute(path, "UPDATE tasks SET anything = 'changed', tags = x'00', priority = 'high'");
    expect(await rollback(context)).toMatchObject({ projectedDown: 6, quarantined: 0 });
    expect(legacySide(path)).toEqual(before);
  });
});
