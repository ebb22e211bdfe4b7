import type { Value } from "../../sync/mapping.ts";

/** A row by column; what is left out is NULL. */
export type DirtyRow = Readonly<Record<string, Value>>;

const AT = "2025-10-01 00:00:00";

function task(id: string | null, more: DirtyRow = {}): DirtyRow {
  return {
    id,
    title: `edge ${id ?? "null id"}`,
    task_type: "backend",
    priority: 1,
    status: "queued",
    current_phase: "start",
    created_at: AT,
    updated_at: AT,
    max_retries: 3,
    retry_count: 0,
    ...more,
  };
}

const PAYLOADS: Readonly<Record<string, string>> = {
  truncated: '{"requirements": ["a", "b"',
  "single-quotes": "{'files_affected': 5, 'ok': True}",
  "trailing-comma": '{"a": 1,}',
  "plain-text": "see ticket 42",
  nan: '{"score": NaN, "max": Infinity}',
  array: '[1, 2, "drei"]',
  scalar: "42",
  string: '"just text"',
  "double-encoded": '"{\\"a\\": 1}"',
  "dup-keys": '{"a": 1, "a": 2}',
  bigint: '{"snowflake": 9223372036854775807, "f": 1.0, "e": 1e+16, "tiny": 5e-324}',
  "int-keys": '{"10": "x", "9": "y", "a": 1, "1": 2}',
  surrogate: '{"s": "\\ud83d", "ok": "\\ud83d\\ude80"}',
  "nul-escape": '{"s": "a\\u0000b"}',
  deep: `${'{"a":'.repeat(500)}1${"}".repeat(500)}`,
  huge: `{"blob": "${"x".repeat(1_000_000)}", "rows": [${Array.from({ length: 8_000 }, (_, i) => i).join(", ")}]}`,
  proto: '{"__proto__": {"polluted": true}, "constructor": 1}',
  whitespace: '{\r\n  "a" : 1\r\n}\r\n',
};

const STATUSES: Readonly<Record<string, string>> = {
  pending: "pending",
  running: "running",
  blocked: "blocked",
  uppercase: "QUEUED",
  padded: " queued ",
  empty: "",
  "deployment-pending": "deployment_pending",
  planned: "planned",
  "enum-repr": "TaskStatus.APPROVED",
  "validation-failed": "validation_failed",
};

/** The tasks that have been seen on the platform and that a migration stumbles over: one of each kind. */
export const DIRTY_TASKS: readonly DirtyRow[] = [
  ...Object.entries(PAYLOADS).map(([name, payload]) => task(`edge-json-${name}`, { payload })),
  task("edge-json-empty-string", { payload: "", workflow: "", tags: "" }),
  task("edge-json-null-literal", { payload: "null", workflow: "null", tags: "null" }),
  task("edge-tags-csv", { tags: "python,simple" }),
  task("edge-tags-object", { tags: '{"tags": ["x"]}' }),
  task("edge-tags-mixed", { tags: '["a", null, 3]' }),
  task("edge-workflow-malformed", { workflow: '{"start": {' }),
  task("edge-prio-null", { priority: null }),
  task("edge-prio-zero", { priority: 0 }),
  task("edge-prio-negative", { priority: -5 }),
  task("edge-prio-huge", { priority: 2 ** 31 }),
  task("edge-prio-text", { priority: "high" }),
  task("edge-prio-real", { priority: 2.5 }),
  task("edge-title-empty", { title: "" }),
  task("edge-title-long", { title: "T".repeat(2000) }),
  task("edge-title-emoji", {
    title: "\u{1f469}\u200d\u{1f469}\u200d\u{1f467}\u200d\u{1f466} \u202eRTL e\u0301",
    description: "\ufeffBOM first\nline\r\nline\ttab",
  }),
  task("edge-title-quotes", { title: 'Robert\'); DROP TABLE tasks;-- "x" <b>&amp;</b>, =1+1' }),
  task("edge-desc-long", { description: "\u00e4".repeat(100_000) }),
  task("edge-ts-null", { created_at: null, updated_at: null }),
  task("edge-ts-empty", { created_at: "", updated_at: "" }),
  task("edge-ts-iso-z", { created_at: "2025-10-01T00:00:00Z", updated_at: "2025-10-01T00:00:00.5Z" }),
  task("edge-ts-iso-utc", {
    created_at: "2025-10-01T00:00:00.123456+00:00",
    updated_at: "2025-10-01T02:00:00.123456+02:00",
  }),
  task("edge-ts-naive", { created_at: "2025-10-01T02:00:00.123456", updated_at: "2025-10-01T02:00:00" }),
  task("edge-ts-date", { due_date: "2025-10-31" }),
  task("edge-ts-updated-before-created", { updated_at: "2025-09-30 23:59:59" }),
  ...Object.entries(STATUSES).map(([name, status]) => task(`edge-status-${name}`, { status })),
  task("edge-type-empty", { task_type: "" }),
  task("edge-type-backend", { task_type: "Backend" }),
  task("edge-type-unknown_type", { task_type: "unknown_type" }),
  task("edge-type-deploy", { task_type: "deploy" }),
  task("edge-type-app-ecosystemiser", { task_type: "app:ecosystemiser" }),
  task("12345"),
  task("0007"),
  task("edge id/with spaces"),
  task("t\u00e2che-\u00e9-1"),
  task("L".repeat(300)),
  task("6F1C0000-ABCD-4EF0-8000-0000000000AA"),
  task(""),
  task(null),
  task("edge-deps", {
    depends_on: '["12345", "missing-task"]',
    assigned_worker: "backend",
    assignee: "worker:backend",
  }),
  task("edge-memory", {
    summary: "R\u00e9sum\u00e9",
    generated_artifacts: '["a.py"]',
    related_document_ids: '["vec-1"]',
    knowledge_fragments: '{"summaries": []}',
  }),
  task("edge-retry-null", { retry_count: null, max_retries: null }),
  task("edge-self-conflict", { status: "in_progress", assigned_worker: "backend", assignee: "worker:frontend" }),
  task("edge-id-twice"),
];

const ten = Array.from({ length: 10 }, (_, i) => i);

/** Rows without the row that they refer to, from agents that work with foreign keys off; and what is odd by itself. */
export const DIRT: Readonly<Record<string, readonly DirtyRow[]>> = {
  tasks: DIRTY_TASKS,
  workers: [
    {
      id: "edge-worker-orphan",
      role: "backend",
      status: "offline",
      last_heartbeat: AT,
      current_task_id: "deleted-task-1",
      registered_at: AT,
    },
  ],
  runs: [
    ...ten.map((i) => ({
      id: `edge-run-orphan-${i}`,
      task_id: `deleted-task-${i}`,
      worker_id: "backend",
      run_number: 1,
      status: "success",
      phase: "apply",
      started_at: AT,
    })),
    ...ten.map((i) => ({
      id: `edge-run-worker-${i}`,
      task_id: "12345",
      worker_id: `gone-worker-${i % 3}`,
      run_number: i + 1,
      status: "failed",
      started_at: AT,
      result_data: [null, "", "{not json", '{"n": NaN}'][i % 4] ?? null,
    })),
    // A TEXT PRIMARY KEY lets NULL in here too; such a run counts.
    {
      id: null,
      task_id: "edge-deps",
      worker_id: "backend",
      run_number: 1,
      status: "success",
      phase: "apply",
      started_at: AT,
      completed_at: AT,
      result_data: '{"status": "success", "ratio": 1.0}',
    },
  ],
  planning_queue: [
    // An id that a task has already: the later one is quarantined.
    { id: "edge-id-twice", task_description: "the same id as a task", priority: 50, status: "pending", created_at: AT },
    {
      id: "edge-queue-odd",
      task_description: "",
      priority: "urgent",
      context_data: "{not json",
      status: "In Progress",
      created_at: "yesterday",
      assigned_at: "",
    },
  ],
  execution_plans: ten.slice(0, 5).map((i) => ({
    id: `orphan-plan-${i}`,
    planning_task_id: `gone-${i}`,
    plan_data: ["", '{"sub_tasks": []}', "{not json"][i % 3] ?? "",
    estimated_complexity: "medium",
    subtask_count: 0,
    dependency_count: 0,
    generated_at: AT,
    status: i % 2 === 0 ? "in_progress" : "pending",
  })),
  plan_execution: ten.slice(0, 4).map((i) => ({
    id: `edge-execution-${i}`,
    plan_id: `gone-plan-${i}`,
    progress_percent: 0,
    started_at: AT,
    updated_at: AT,
  })),
  events: [
    {
      event_id: "edge-event-1",
      event_type: "task.completed",
      timestamp: "2025-10-01T00:00:00+00:00",
      source_agent: "queen",
      payload: "{bad",
      metadata: "{}",
      created_at: AT,
    },
  ],
  deployment_events: ten.slice(0, 6).map((i) => ({
    task_id: `deleted-task-${i}`,
    event_type: "deployment_started",
    details: i < 2 ? "{bad" : "{}",
    timestamp: "2025-10-01T02:00:00.520748",
  })),
};
