import { executionPlans, planningQueue } from "../../src/presets/hive/plans.ts";
import { tasks } from "../../src/presets/hive/tasks.ts";
import type { Aggregate, AggregateMapping, DataRow, Value } from "../../src/sync/mapping.ts";

/** Legacy rows of the preset `hive` and what becomes of them, for its unit tests. */

export interface Columns {
  [column: string]: Value;
}

/** A plain task with `columns` set. */
export function task(columns: Columns = {}): DataRow {
  return {
    id: "t1",
    title: "Title",
    description: "What to do",
    task_type: "backend",
    priority: 5n,
    status: "queued",
    current_phase: "start",
    workflow: null,
    payload: '{"a": 1}',
    created_at: "2025-09-21 08:45:28",
    updated_at: "2025-09-21 09:00:00",
    started_at: null,
    failure_reason: null,
    retry_count: 0n,
    max_retries: 3n,
    tags: null,
    ...columns,
  };
}

export function run(number: number, columns: Columns = {}): DataRow {
  return {
    id: `r${number}`,
    run_number: BigInt(number),
    phase: "apply",
    status: "success",
    started_at: `2025-09-22 0${number}:00:00`,
    completed_at: `2025-09-22 0${number}:30:00`,
    result_data: `{"run": ${number}}`,
    error_message: null,
    ...columns,
  };
}

export function queueItem(columns: Columns = {}): DataRow {
  return {
    id: "q1",
    task_description: "Plan this",
    priority: 50n,
    requestor: "user",
    context_data: '{"files": 3}',
    status: "pending",
    complexity_estimate: null,
    created_at: "2025-09-21 08:45:28",
    assigned_at: null,
    completed_at: null,
    assigned_agent: null,
    ...columns,
  };
}

export function plan(columns: Columns = {}): DataRow {
  return {
    id: "p1",
    planning_task_id: "q1",
    plan_data: '{"sub_tasks": []}',
    estimated_duration: 430n,
    estimated_complexity: "medium",
    generated_workflow: null,
    subtask_count: 7n,
    dependency_count: 0n,
    generated_at: "2025-09-23T19:37:40.545367+00:00",
    status: "draft",
    ...columns,
  };
}

export function aggregate(row: DataRow, runs: readonly DataRow[] = [], events: readonly DataRow[] = []): Aggregate {
  return { tasks: [row], runs, deployment_events: events };
}

/** The one row that `table` has in `unified`. */
export function only(unified: Aggregate, table: string): DataRow {
  const rows = unified[table] ?? [];
  const [row] = rows;
  if (row === undefined || rows.length !== 1) throw new Error(`${rows.length} rows in ${table}`);
  return row;
}

export function json(value: Value | undefined): unknown {
  if (typeof value !== "string") throw new Error("not a JSON column");
  return JSON.parse(value);
}

/** The unified_tasks row of a task. */
export function upTask(columns: Columns = {}, runs: readonly DataRow[] = []): DataRow {
  return only(tasks.up(aggregate(task(columns), runs)), "unified_tasks");
}

/** The row of a child table, or undefined. */
export function child(
  table: "review" | "workflow" | "deployment",
  columns: Columns = {},
  runs: readonly DataRow[] = [],
  events: readonly DataRow[] = [],
): DataRow | undefined {
  return tasks.up(aggregate(task(columns), runs, events))[`unified_${table}_tasks`]?.[0];
}

export function flags(row: DataRow): unknown {
  const metadata: { flags?: unknown } = JSON.parse(String(row.task_metadata));
  return metadata.flags;
}

/** The unified aggregate of a legacy one with columns of its unified_tasks row changed by an agent. */
export function edited(
  mapping: AggregateMapping,
  legacy: Aggregate,
  change: Columns,
  workflow: Columns = {},
): Aggregate {
  const unified = mapping.up(legacy);
  return {
    ...unified,
    unified_tasks: (unified.unified_tasks ?? []).map((row) => ({ ...row, ...change })),
    unified_workflow_tasks: (unified.unified_workflow_tasks ?? []).map((row) => ({ ...row, ...workflow })),
  };
}

/** The tasks row after an agent changed `change` on the unified side. */
export function downTask(columns: Columns, change: Columns, workflow: Columns = {}): DataRow {
  return only(tasks.down(edited(tasks, aggregate(task(columns)), change, workflow), null), "tasks");
}

/** A tasks row for a unified one that was made on the unified side. */
export function downNew(columns: Columns, current: Aggregate | null = null, children: Aggregate = {}): DataRow {
  const row: DataRow = {
    id: "new",
    correlation_id: "new",
    task_type: "code",
    status: "queued",
    agent_type: "hive-coder",
    priority: 3n,
    input_data: '{"title":"T","description":null,"payload":{"x":1}}',
    output_data: null,
    task_metadata: null,
    created_at: "2025-01-02T03:04:05.000Z",
    updated_at: "2025-01-02T03:04:05.000Z",
    started_at: null,
    completed_at: null,
    error_message: null,
    retry_count: null,
    max_retries: null,
    ...columns,
  };
  return only(tasks.down({ unified_tasks: [row], ...children }, current), "tasks");
}

export function downQueue(columns: Columns, change: Columns): DataRow {
  const legacy = { planning_queue: [queueItem(columns)] };
  return only(planningQueue.down(edited(planningQueue, legacy, change), null), "planning_queue");
}

export function downPlan(columns: Columns, change: Columns, workflow: Columns = {}): DataRow {
  const legacy = { execution_plans: [plan(columns)] };
  return only(executionPlans.down(edited(executionPlans, legacy, change, workflow), null), "execution_plans");
}
