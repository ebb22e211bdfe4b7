import { readFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { describe, expect, test } from "vitest";
import { rollback } from "../../src/rollout/rollback.ts";
import { migrateDown, migrateUp } from "../../src/schema/migrator.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { check } from "../../src/sync/check.ts";
import { listQuarantine } from "../../src/sync/quarantine.ts";
import { temporaryDirectory } from "../support/context.ts";
import { changedRows, legacySide, rowHashes, tableHashes } from "../support/fingerprint.ts";
import { legacyDatabase } from "../support/legacy-db.ts";
import {
  advance,
  copyOf,
  execute,
  executeUnseen,
  fillSample,
  integrity,
  platformContext,
  select,
} from "../support/legacy-platform.ts";

const legacy = legacyDatabase();
const AGENTS = ["ai-reviewer", "ai-planner", "ai-deployer", "hive-coder", "orchestrator", "qa-agent"];
const ROOTS = ["tasks", "planning_queue", "execution_plans"];

const rowCount = (path: string, tables: readonly string[]) =>
  tables.reduce((sum, table) => sum + Number(select(path, `SELECT count(*) AS n FROM ${table}`)[0]?.n), 0);

/** A sentence that a person can act on, not a stack trace or a value that slipped through. */
function expectReadable(reason: string): void {
  expect(reason.length).toBeGreaterThan(25);
  expect(reason.split(" ").length).toBeGreaterThan(5);
  expect(reason).not.toMatch(/undefined|\[object|TypeError|\bat \/|failed on it|SQLITE_|NaN/);
  expect(reason).toMatch(/[\w).'"]$/);
}

/** Up, backfill, check, and down to nothing: what every file of the platform has to pass. */
async function journey(path: string, quarantined: number): Promise<void> {
  const before = legacySide(path);
  const total = rowCount(path, ROOTS);
  await using context = platformContext(path);
  await migrateUp(context);
  const first = await backfill(context);
  expect(first.aggregates).toEqual({ written: total - quarantined, unchanged: 0, quarantined, total });

  const filled = tableHashes(path);
  const verdict = await check(context);
  expect(verdict).toMatchObject({
    ...{ consistent: true, compared: total, identical: total - quarantined, quarantined, recorded: true, drift: [] },
    ...{ missing: 0, extra: 0, different: 0 },
  });
  const checked = tableHashes(path);
  expect(checked.hive_checks).not.toBe(filled.hive_checks);
  expect({ ...checked, hive_checks: "" }).toEqual({ ...filled, hive_checks: "" });

  const { entries } = await listQuarantine(context);
  expect(entries).toHaveLength(quarantined);
  for (const { reason } of entries) expectReadable(reason);

  const second = await backfill(context);
  expect(second.aggregates).toEqual({ written: 0, unchanged: total - quarantined, quarantined, total });
  const ours = (table: string) => table.startsWith("unified_");
  expect(tableHashes(path, ours)).toEqual(Object.fromEntries(Object.entries(filled).filter(([table]) => ours(table))));

  expect(await rollback(context)).toMatchObject({ steps: [], stage: "off" });
  expect(legacySide(path)).toEqual(before);
  await migrateDown(context, { to: "0" });
  expect(legacySide(path)).toEqual(before);
  expect(integrity(path)).toBe("ok");
}

describe.skipIf(legacy === null)("the platform's database", { timeout: 180_000 }, () => {
  test("goes up and back down, every aggregate identical or quarantined, every legacy byte as it was", async () => {
    await journey(copyOf(legacy ?? ""), 1);
  });

  test("is back byte for byte after all agents went to complete and nobody changed anything", async () => {
    const path = copyOf(legacy ?? "");
    const before = legacySide(path);
    await using context = platformContext(path);
    await migrateUp(context);
    await toComplete(context);
    const result = await rollback(context);
    expect(result).toMatchObject({ stage: "off", projectedDown: 0, kept: 0, quarantined: 0 });
    await migrateDown(context, { to: "0" });
    expect(legacySide(path)).toEqual(before);
  });

  test("what was written on the unified side goes down, and nothing else changes", async () => {
    const path = copyOf(legacy ?? "");
    await using context = platformContext(path);
    await migrateUp(context);
    await toComplete(context);
    const before = legacySide(path);
    const rows = Object.fromEntries(ROOTS.map((table) => [table, rowHashes(path, table)]));
    const firstOf = (where: string, n = 0) =>
      String(
        select(
          path,
          `SELECT t.id FROM unified_tasks t WHERE ${where} AND t.id NOT LIKE 'edge-%' ORDER BY t.id LIMIT 1 OFFSET ${n}`,
        )[0]?.id,
      );
    const task = "json_extract(t.task_metadata, '$.legacy.schema') = 'tasks'";
    const queue = "json_extract(t.task_metadata, '$.legacy.schema') = 'planning_queue'";
    const plan = "json_extract(t.task_metadata, '$.legacy.schema') = 'execution_plans'";

    /** What an agent does to a unified row, and what the legacy row has to say afterwards. */
    const changes: { table: string; id: string; set: string; becomes: Record<string, unknown> }[] = [];
    const add = (table: string, id: string, set: string, becomes: Record<string, unknown>) =>
      changes.push({ table, id, set, becomes });
    const code = `${task} AND t.task_type = 'code' AND t.status = 'queued'`;
    add("tasks", firstOf(code, 0), "status = 'running'", { status: "in_progress" });
    // Both words are queued on the legacy side: nothing to write there, and what it cannot hold is kept.
    add("tasks", firstOf(code, 1), "status = 'pending'", {});
    add("tasks", firstOf(code, 2), "status = 'review_approved'", { status: "approved" });
    add("tasks", firstOf(code, 3), "status = 'review_rejected'", { status: "rejected" });
    add("tasks", firstOf(code, 4), "status = 'rework_needed'", { status: "rework_needed" });
    add("tasks", firstOf(code, 5), "status = 'completed', completed_at = '2026-11-23T10:00:00.000Z'", {
      status: "completed",
    });
    add("tasks", firstOf(code, 6), "priority = 3", { priority: 8 });
    add("tasks", firstOf(code, 7), "error_message = 'out of memory', status = 'failed', retry_count = 2", {
      ...{ failure_reason: "out of memory", status: "failed", retry_count: 2 },
    });
    add("tasks", firstOf(code, 8), `input_data = json_set(input_data, '$.title', 'New title', '$.payload.x', 7)`, {
      title: "New title",
    });
    const deploy = `${task} AND t.task_type = 'deploy' AND t.status = 'queued'`;
    add("tasks", firstOf(deploy, 0), "status = 'running'", { status: "deploying" });
    add("tasks", firstOf(deploy, 1), "status = 'completed'", { status: "deployed" });
    add("tasks", firstOf(deploy, 2), "status = 'failed'", { status: "deployment_failed" });
    const deployed = `${task} AND t.task_type = 'deploy' AND t.status = 'completed'`;
    add("tasks", firstOf(deployed, 0), "status = 'queued'", { status: "deployment_pending" });
    add("planning_queue", firstOf(`${queue} AND t.status = 'pending'`), "status = 'running'", { status: "assigned" });
    add("planning_queue", firstOf(`${queue} AND t.status = 'completed'`), "status = 'failed'", { status: "failed" });
    add("planning_queue", firstOf(`${queue} AND t.status = 'pending'`, 1), "status = 'completed'", {
      status: "planned",
    });
    add("execution_plans", firstOf(`${plan} AND t.status = 'review_pending'`), "status = 'queued'", {
      status: "approved",
    });
    add("execution_plans", firstOf(`${plan} AND t.status = 'review_pending'`, 1), "status = 'running'", {
      status: "executing",
    });
    expect(new Set(changes.map((one) => one.id)).size).toBe(changes.length);
    const untouched = new Map(
      changes.map(({ table, id }) => [id, select(path, `SELECT rowid, * FROM ${table} WHERE id = '${id}'`)[0] ?? {}]),
    );
    for (const { id, set } of changes) execute(path, `UPDATE unified_tasks SET ${set} WHERE id = '${id}'`);
    execute(
      path,
      `INSERT INTO unified_tasks VALUES ('made-above', 'corr-1', 'deploy', 'running', 'ai-deployer', 2,
        '{"title":"Ship it","description":null,"payload":{"service_name":"api"}}', NULL, NULL,
        '2026-11-23T09:00:00.000Z', '2026-11-23T09:30:00.000Z', '2026-11-23T09:10:00.000Z', NULL, NULL, 1, 3);
       INSERT INTO unified_deployment_tasks (task_id, correlation_id, service_name, environment, strategy, created_at)
        VALUES ('made-above', 'corr-1', 'api', 'unknown', 'direct', '2026-11-23T09:00:00.000Z')`,
    );

    const dry = await rollback(context, { dryRun: true });
    expect(legacySide(path)).toEqual(before);
    const result = await rollback(context);
    expect(result).toMatchObject({ stage: "off", quarantined: 0 });
    expect(dry.projectedDown).toBe(result.projectedDown);
    expect(result.projectedDown).toBe(changes.length);
    expect(result.kept).toBeGreaterThan(0);
    expect(dry.kept).toBe(result.kept);

    for (const { table, id, becomes } of changes) {
      const row = select(path, `SELECT rowid, * FROM ${table} WHERE id = '${id}'`)[0] ?? {};
      // Only what the agent changed is another now, and the row is still the same one.
      const expected: Record<string, unknown> = { ...untouched.get(id), ...becomes };
      if (becomes.title) expected.payload = row.payload;
      expect(row, `${table} ${id}`).toEqual(expected);
      if (becomes.title) expect(JSON.parse(String(row.payload))).toMatchObject({ x: 7 });
    }
    expect(select(path, "SELECT * FROM tasks WHERE id = 'made-above'")[0]).toMatchObject({
      ...{ title: "Ship it", description: null, task_type: "deployment", status: "deploying", priority: 9 },
      ...{ created_at: "2026-11-23T09:00:00.000Z", started_at: "2026-11-23T09:10:00.000Z", failure_reason: null },
      ...{ payload: '{"correlation_id":"corr-1","service_name":"api"}', retry_count: 1, max_retries: 3 },
    });

    const written = changes.filter(({ becomes }) => Object.keys(becomes).length > 0);
    const changed = new Set(written.map(({ table, id }) => `${table} ${id}`)).add("tasks made-above");
    for (const table of ROOTS) {
      const rowids = changedRows(rows[table] ?? new Map(), rowHashes(path, table));
      const ids = rowids.map((rowid) => select(path, `SELECT id FROM ${table} WHERE rowid = ${rowid}`)[0]?.id);
      expect(ids.map((id) => `${table} ${id}`).sort()).toEqual(
        [...changed].filter((one) => one.startsWith(`${table} `)).sort(),
      );
    }
    const after = legacySide(path);
    expect(after.schema).toEqual(
      Object.fromEntries(Object.entries(before.schema).filter(([name]) => !name.startsWith("trigger hive_capture_"))),
    );
    const others = (tables: Record<string, string>) =>
      Object.entries(tables).filter(([table]) => !ROOTS.includes(table));
    expect(others(after.tables)).toEqual(others(before.tables));
    expect(integrity(path)).toBe("ok");

    // Both sides agree again: going forward once more writes nothing that is there already.
    const again = await backfill(context);
    expect(again.aggregates.quarantined).toBe(1);
    expect(await check(context)).toMatchObject({ consistent: true, missing: 0, extra: 0, different: 0 });
    await expect(migrateDown(context, { to: "0" })).rejects.toMatchObject({ code: "GUARD_REFUSED" });
    await migrateDown(context, { to: "0", force: true, reason: "looked at" });
    expect(legacySide(path)).toEqual(after);
  });
});

async function toComplete(context: ReturnType<typeof platformContext>): Promise<void> {
  await advance(context, AGENTS, "complete", async (stage) => {
    if (stage === "shadow") await backfill(context, { agents: AGENTS });
    if (["live", "rampdown", "complete"].includes(stage)) {
      expect(await check(context)).toMatchObject({ consistent: true });
    }
  });
}

describe("files of another shape", () => {
  /** As one of the platform's deployments has it: integer keys, columns missing, unknown ones there, in another order. */
  function deployedVariant(): string {
    const path = join(temporaryDirectory(), "deployed.db");
    const db = new Database(path);
    db.pragma("journal_mode = WAL");
    db.exec(`
      CREATE TABLE workers (id TEXT PRIMARY KEY, role TEXT NOT NULL, status TEXT DEFAULT 'active', current_task_id INTEGER,
        FOREIGN KEY (current_task_id) REFERENCES tasks (id));
      CREATE TABLE tasks (
        id INTEGER PRIMARY KEY AUTOINCREMENT, task_type TEXT NOT NULL, title TEXT NOT NULL, worker_id TEXT,
        status TEXT NOT NULL DEFAULT 'pending', task_data TEXT, metadata, estimated_duration REAL,
        priority INTEGER DEFAULT 5, description TEXT, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
        updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, started_at TIMESTAMP, failure_reason TEXT,
        "schema" TEXT, "__proto__" TEXT, "odd ""name""" BLOB);
      CREATE TABLE runs (
        id TEXT PRIMARY KEY, task_id INTEGER NOT NULL, worker_id TEXT NOT NULL, run_number INTEGER NOT NULL,
        status TEXT DEFAULT 'pending', phase TEXT, started_at TIMESTAMP, completed_at TIMESTAMP, result_data TEXT,
        error_message TEXT, FOREIGN KEY (task_id) REFERENCES tasks (id) ON DELETE CASCADE);
      CREATE TABLE planning_queue (id TEXT PRIMARY KEY, task_description TEXT NOT NULL, priority INTEGER DEFAULT 50,
        requestor TEXT, context_data TEXT, status TEXT DEFAULT 'pending', created_at TIMESTAMP, assigned_at TIMESTAMP,
        completed_at TIMESTAMP);
      CREATE TABLE execution_plans (id TEXT PRIMARY KEY, planning_task_id TEXT NOT NULL, plan_data TEXT NOT NULL,
        generated_workflow TEXT, subtask_count INTEGER, generated_at TIMESTAMP, status TEXT DEFAULT 'draft');
      CREATE TABLE deployment_events (id INTEGER PRIMARY KEY AUTOINCREMENT, task_id INTEGER NOT NULL,
        event_type TEXT NOT NULL, details TEXT, timestamp TEXT NOT NULL, FOREIGN KEY (task_id) REFERENCES tasks (id));
      INSERT INTO tasks (id, task_type, title, status, task_data, metadata, estimated_duration, priority, "schema",
          "__proto__", "odd ""name""")
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 700)
        SELECT i, CASE i % 4 WHEN 0 THEN 'deployment' WHEN 1 THEN 'review' WHEN 2 THEN 'chimera_workflow' ELSE 'backend' END,
          'Task ' || i, CASE i % 3 WHEN 0 THEN 'pending' WHEN 1 THEN 'completed' ELSE 'QUEUED' END, '{"n": ' || i || '}',
          CASE i % 5 WHEN 0 THEN 5.0 WHEN 1 THEN i WHEN 2 THEN x'00ff' WHEN 3 THEN 'text' END, i / 2.0,
          CASE i % 7 WHEN 0 THEN NULL WHEN 1 THEN 'high' WHEN 2 THEN 2.5 ELSE i % 10 END, 'own', 'p' || i, x'27'
        FROM n;
      INSERT INTO tasks (id, task_type, title) VALUES (9223372036854775807, 'test', 'last'), (-5, 'test', 'below zero'),
        (9007199254740993, 'test', 'beyond 2^53');
      DELETE FROM tasks WHERE id IN (13, 14);
      INSERT INTO workers VALUES ('w1', 'coder', 'active', 3);
      INSERT INTO runs (id, task_id, worker_id, run_number, status, result_data, completed_at)
        SELECT 'r' || id || '-' || n, id, 'w1', n, 'success', '{"run": ' || n || '}', '2025-01-01 00:00:0' || n
        FROM tasks, (SELECT 1 AS n UNION SELECT 2) WHERE id % 2 = 0 AND id > 0;
      INSERT INTO deployment_events (task_id, event_type, details, timestamp)
        SELECT id, 'started', 'not json', '2025-01-01' FROM tasks WHERE task_type = 'deployment';
      INSERT INTO planning_queue (id, task_description) VALUES ('q1', 'plan it'), ('700', 'a key that tasks gave');
      INSERT INTO execution_plans (id, planning_task_id, plan_data) VALUES ('p1', 'q1', '{}'), ('7', 'q1', '{}');`);
    db.close();
    return path;
  }

  test("integer keys and missing columns: the deployed variant", async () => {
    const path = deployedVariant();
    {
      await using context = platformContext(path);
      await migrateUp(context);
      const dry = await backfill(context, { dryRun: true });
      expect(dry.missingColumns.sort()).toEqual(
        ["tasks.current_phase", "tasks.max_retries", "tasks.payload", "tasks.retry_count", "tasks.workflow"].sort(),
      );
      await migrateDown(context, { to: "0" });
    }
    await journey(path, 2);
  });

  test("integer keys survive being written back: changes, and rows that the legacy side lost", async () => {
    const path = deployedVariant();
    await using context = platformContext(path);
    await migrateUp(context);
    await toComplete(context);
    const before = legacySide(path);
    const row = (id: string) =>
      select(path, `SELECT rowid, *, typeof(metadata) AS kind FROM tasks WHERE id = ${id}`)[0];
    const lost = ["3", "5", "9007199254740993"];
    const originals = lost.map((id) => row(id));
    const rows = rowHashes(path, "tasks");
    executeUnseen(path, `DELETE FROM tasks WHERE id IN (${lost.join(", ")})`);
    execute(path, "UPDATE unified_tasks SET status = 'running' WHERE id = '4'");
    const result = await rollback(context);
    expect(result).toMatchObject({ projectedDown: lost.length + 1, quarantined: 0 });
    expect(lost.map((id) => row(id))).toEqual(originals);
    expect(row("4")).toMatchObject({ status: "deploying" });
    expect(changedRows(rows, rowHashes(path, "tasks"))).toEqual([4n]);
    expect({ ...legacySide(path).tables, tasks: "" }).toEqual({ ...before.tables, tasks: "" });
  });

  /** With the unified tables as another tool made them: JSON columns, which SQLite takes for numeric ones. */
  function alembicFile(path: string): void {
    const file = readFileSync(new URL("../../migrations/hive/0002_unified_schema.sqlite.sql", import.meta.url), "utf8");
    const tables = file
      .slice(file.indexOf("CREATE"), file.indexOf("-- migrate:down"))
      .replaceAll(/(id|task_id) TEXT NOT NULL PRIMARY KEY,/g, "$1 VARCHAR(255) NOT NULL,")
      .replaceAll(
        /(\w+_data|\w+_metadata|\w+_result|\w+_config|\w+_history|violations|suggestions|\w+_logs) TEXT/g,
        "$1 JSON",
      )
      .replaceAll(/(\w+_at) TEXT/g, "$1 DATETIME")
      .replaceAll(/(status|task_type|agent_type|correlation_id|environment|strategy) TEXT/g, "$1 VARCHAR(50)")
      .replaceAll(/CREATE TABLE (\w+) \(([^;]*)\n\);/g, (_, name, body) => {
        return `CREATE TABLE ${name} (${body},\n PRIMARY KEY (${name === "unified_tasks" ? "id" : "task_id"})\n);`;
      });
    execute(
      path,
      `CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, PRIMARY KEY (version_num));
       INSERT INTO alembic_version VALUES ('f97f94fd1a27');\n${tables}`,
    );
  }

  /** JSON that is a bare number, as texts; each is stored as a number, not all of them as the number they say. */
  const NUMBERS = [
    ...[
      "5",
      "-7",
      "12345678901234567890",
      "-96123066892238061398844e57",
      "80181025565996014897566",
      "5.0",
      "-0",
      "1e3",
    ],
    ...["9223372036854775807", "9223372036854775808", "9007199254740993.0", "1e400", "1.5", "0.1234567890123456789"],
  ];

  test("a file that Alembic knows: bare numbers as JSON stay what they are", async () => {
    const path = join(temporaryDirectory(), "numbers.db");
    fillSample(path, { tasks: 0 });
    alembicFile(path);
    for (const [i, number] of NUMBERS.entries()) {
      execute(
        path,
        `INSERT INTO tasks (id, title, task_type, workflow) VALUES ('w${i}', 'Task', 'chimera_workflow', '${number}');
         INSERT INTO tasks (id, title, task_type, status) VALUES ('r${i}', 'Task', 'backend', 'completed');
         INSERT INTO runs (id, task_id, worker_id, run_number, status, result_data)
           VALUES ('run${i}', 'r${i}', 'w', 1, 'success', '${number}')`,
      );
    }
    const before = legacySide(path);
    await journey(path, 0);
    await using context = platformContext(path);
    await migrateUp(context);
    await toComplete(context);
    expect(select(path, "SELECT DISTINCT typeof(output_data) AS t FROM unified_tasks WHERE id LIKE 'r%'")).not.toEqual([
      { t: "text" },
    ]);
    expect(await rollback(context, { dryRun: true })).toMatchObject({ projectedDown: 0, kept: 0, quarantined: 0 });
    expect(await rollback(context)).toMatchObject({ stage: "off", projectedDown: 0, kept: 0, quarantined: 0 });
    expect(legacySide(path).tables.tasks).toBe(before.tables.tasks);
    expect(legacySide(path).tables.runs).toBe(before.tables.runs);
  });

  test("a file that Alembic knows: extra indexes, and the unified tables there already", async () => {
    const path = join(temporaryDirectory(), "alembic.db");
    fillSample(path, { tasks: 300, dirt: true });
    // An index on json_extract takes well-formed payloads only.
    execute(path, "DELETE FROM tasks WHERE payload IS NOT NULL AND NOT json_valid(payload)");
    alembicFile(path);
    const columns = ["status", "priority", "task_type", "created_at", "assigned_worker", "updated_at", "current_phase"];
    const indexes = [
      ...columns.map((column) => `CREATE INDEX ax_tasks_${column} ON tasks (${column});`),
      ...["status", "started_at", "completed_at", "run_number"].map((c) => `CREATE INDEX ax_runs_${c} ON runs (${c});`),
      "CREATE INDEX ax_tasks_open ON tasks (status, priority) WHERE status NOT IN ('completed', 'failed');",
      ...["correlation_id", "parent_plan_id", "service_name"].map(
        (member) => `CREATE INDEX ax_tasks_payload_${member} ON tasks (json_extract(payload, '$.${member}'));`,
      ),
      ...["status", "priority", "requestor"].map((c) => `CREATE INDEX ax_queue_${c} ON planning_queue (${c});`),
      "CREATE INDEX ax_plans ON execution_plans (status, generated_at DESC);",
    ];
    expect(indexes).toHaveLength(19);
    execute(path, indexes.join("\n"));
    const unified = tableHashes(path, (table) => table.startsWith("unified_"));
    const collisions = select(path, "SELECT id FROM tasks WHERE id IS NULL OR typeof(id) = 'blob'").length;
    const taken =
      select(path, "SELECT id FROM planning_queue WHERE id IN (SELECT id FROM tasks) OR id IS NULL").length +
      select(
        path,
        `SELECT id FROM execution_plans WHERE id IN (SELECT id FROM tasks UNION SELECT id FROM planning_queue) OR id IS NULL`,
      ).length;
    await journey(path, collisions + taken);
    expect(tableHashes(path, (table) => table.startsWith("unified_"))).toEqual(unified);
  });
});
