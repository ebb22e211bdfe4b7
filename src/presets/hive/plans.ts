import type { Aggregate, AggregateMapping, DataRow, Value } from "../../sync/mapping.ts";
import {
  embedded,
  encode,
  inputMembers,
  integerOf,
  jsonDown,
  legacyId,
  legacyJson,
  type MutableRow,
  optionalInteger,
  optionalText,
  rawColumns,
  readNote,
  requiredText,
  rootRow,
  textDown,
  unchangedInput,
  unifiedId,
} from "./legacy-values.ts";
import { timeDown, UNREADABLE_TIME, utc } from "./timestamps.ts";
import { UNIFIED_TASKS, UNIFIED_WORKFLOW_TASKS } from "./unified-tables.ts";
import { cleanWord, ownerOf, PLAN_STATUS_DOWN, QUEUE_STATUS_DOWN, STATUS_UP } from "./vocabulary.ts";

/** The planner's two tables: what it is asked to plan, and the plans it made of it. */

const TABLE = "unified_tasks";
const NOTHING: DataRow = {};

const QUEUE_COLUMNS = [
  "id",
  "task_description",
  "priority",
  "requestor",
  "context_data",
  "status",
  "created_at",
  "assigned_at",
  "completed_at",
] as const;
const QUEUE_INPUT = ["description", "requestor", "context"] as const;
const QUEUE_INPUT_COLUMNS = ["task_description", "requestor", "context_data"] as const;
const IN_QUEUE_INPUT = ["task_description", "requestor"] as const;

/** Tens of the legacy scale (0 to 100, higher is more urgent), counted down from 10. */
function queuePriorityUp(value: Value | undefined): bigint {
  if (typeof value === "bigint") return value >= 90n ? 1n : value < 10n ? 10n : 10n - value / 10n;
  if (typeof value !== "number" || Number.isNaN(value)) return 5n;
  return BigInt(Math.min(10, Math.max(1, 10 - Math.floor(value / 10))));
}

function queueUp(legacy: Aggregate): Aggregate {
  const row = rootRow(legacy, "planning_queue");
  const id = unifiedId("planning_queue", row.id);
  const status = STATUS_UP.queue.get(cleanWord(row.status));
  let flags = status === undefined ? ',"status_unknown"' : "";
  const created = utc(row.created_at);
  if (created === null) flags += ',"created_at_unreadable"';
  const assigned = utc(row.assigned_at);
  if (assigned === null && (row.assigned_at ?? null) !== null) flags += ',"started_at_unreadable"';
  const completed = utc(row.completed_at);
  if (completed === null && (row.completed_at ?? null) !== null) flags += ',"completed_at_unreadable"';
  if ((completed ?? assigned ?? created) === null) flags += ',"updated_at_unreadable"';
  const createdAt = created ?? UNREADABLE_TIME;

  return {
    unified_tasks: [
      {
        id,
        correlation_id: id,
        task_type: "plan",
        status: status ?? "pending",
        agent_type: "ai-planner",
        priority: queuePriorityUp(row.priority),
        input_data:
          `{"description":${encode(row.task_description)},"requestor":${encode(row.requestor)},` +
          `"context":${embedded(row.context_data) ?? "null"}}`,
        output_data: null,
        task_metadata: metadata("planning_queue", row, IN_QUEUE_INPUT, flags),
        created_at: createdAt,
        updated_at: completed ?? assigned ?? createdAt,
        started_at: assigned,
        completed_at: completed,
        error_message: null,
        retry_count: null,
        max_retries: null,
      },
    ],
  };
}

function metadata(
  schema: string,
  row: DataRow,
  inInput: readonly [string, string] | readonly [],
  flags: string,
): string {
  const list = flags === "" ? "" : `,"flags":[${flags.slice(1)}]`;
  return `{"legacy":${legacyJson(schema, row, inInput)}${list}}`;
}

function queueDown(unified: Aggregate, current: Aggregate | null): Aggregate {
  const row = rootRow(unified, TABLE);
  const id = requiredText(row, TABLE, "id");
  const note = readNote(row);
  const noted = note.schema === "planning_queue";
  const raw = rawColumns(note, "planning_queue", current?.planning_queue?.[0], QUEUE_COLUMNS);
  const priority = optionalInteger(row, TABLE, "priority");
  const [description, requestor, context] = queueInputDown(
    requiredText(row, TABLE, "input_data"),
    id,
    noted ? note.legacy : NOTHING,
    raw,
  );

  // `raw` may be this very object: each column is read before it is set.
  const legacy: MutableRow = noted ? note.legacy : {};
  legacy.id = legacyId(id, raw.id);
  legacy.task_description = description;
  if (raw.priority !== undefined && queuePriorityUp(raw.priority) === priority) legacy.priority = raw.priority;
  else if (priority !== null) legacy.priority = (10n - priority) * 10n;
  else if (noted) legacy.priority = null;
  legacy.requestor = requestor;
  legacy.context_data = context;
  legacy.status = statusDown(
    requiredText(row, TABLE, "status"),
    raw.status,
    STATUS_UP.queue,
    QUEUE_STATUS_DOWN,
    "pending",
  );
  legacy.created_at = timeDown(
    optionalText(row, TABLE, "created_at"),
    raw.created_at,
    utc(raw.created_at) ?? UNREADABLE_TIME,
  );
  legacy.assigned_at = timeDown(optionalText(row, TABLE, "started_at"), raw.assigned_at, utc(raw.assigned_at));
  legacy.completed_at = timeDown(optionalText(row, TABLE, "completed_at"), raw.completed_at, utc(raw.completed_at));
  return { planning_queue: [legacy] };
}

function queueInputDown(text: string, id: string, kept: DataRow, raw: DataRow): readonly [Value, Value, Value] {
  const unchanged = unchangedInput(text, QUEUE_INPUT, kept, QUEUE_INPUT_COLUMNS);
  if (unchanged !== null) return unchanged;
  const found = inputMembers(text, id);
  let context = found?.get("context");
  if (context === undefined) {
    const onlyOurs =
      found !== null && [...found.keys()].every((name) => name === "description" || name === "requestor");
    context = onlyOurs ? "null" : text;
  }
  const description = textDown(found?.get("description"), raw.task_description);
  const requestor = textDown(found?.get("requestor"), raw.requestor);
  // The description is NOT NULL: NULL only where it was NULL all the same.
  const fallback = raw.task_description === null ? null : "";
  return [description ?? fallback, requestor ?? null, jsonDown(context, raw.context_data)];
}

/** The raw status while the unified one says the same, or has no word on the legacy side. */
function statusDown(
  unified: string,
  raw: Value | undefined,
  up: ReadonlyMap<string, string>,
  down: ReadonlyMap<string, string>,
  initial: string,
): Value {
  const changed = raw === undefined || (up.get(cleanWord(raw)) ?? "pending") !== unified;
  const word = changed ? down.get(unified) : undefined;
  return word ?? (raw === undefined ? initial : raw);
}

/** What the planner is asked to plan. */
export const planningQueue: AggregateMapping = {
  name: "planning_queue",
  legacy: { root: { table: "planning_queue", key: "id", columns: QUEUE_COLUMNS }, related: [] },
  unified: { root: UNIFIED_TASKS, related: [] },
  agent: () => "ai-planner",
  unifiedAgent: (unified) => owner(unified, "ai-planner"),
  owns: (unified) => readNote(unified.unified_tasks?.[0]).schema === "planning_queue",
  up: queueUp,
  down: queueDown,
};

function owner(unified: Aggregate, otherwise: string): string {
  const row = unified.unified_tasks?.[0];
  return row === undefined ? otherwise : ownerOf(row.agent_type, row.task_type);
}

const PLAN_COLUMNS = [
  "id",
  "planning_task_id",
  "plan_data",
  "generated_workflow",
  "subtask_count",
  "generated_at",
  "status",
] as const;

/** The text that refers to a planning_queue row: its id, also where that is an integer. */
function referenceText(value: Value | undefined): string {
  if (typeof value === "string") return value;
  return integerOf(value)?.toString() ?? "";
}

function planUp(legacy: Aggregate): Aggregate {
  const row = rootRow(legacy, "execution_plans");
  const id = unifiedId("execution_plans", row.id);
  const known = STATUS_UP.plan.get(cleanWord(row.status));
  let flags = known === undefined ? ',"status_unknown"' : "";
  const generated = utc(row.generated_at);
  if (generated === null) flags += ',"created_at_unreadable","updated_at_unreadable"';
  const createdAt = generated ?? UNREADABLE_TIME;
  const correlationId = referenceText(row.planning_task_id);
  if (correlationId === "") flags += ',"correlation_id_missing"';
  const phase = typeof row.status === "string" ? row.status : "";
  if (phase === "") flags += ',"current_phase_missing"';
  const phases = integerOf(row.subtask_count);
  if (phases === null && (row.subtask_count ?? null) !== null) flags += ',"total_phases_missing"';

  return {
    unified_tasks: [
      {
        id,
        correlation_id: correlationId,
        task_type: "workflow",
        status: known ?? "pending",
        agent_type: "orchestrator",
        priority: 5n,
        input_data: `{"plan":${embedded(row.plan_data) ?? "null"}}`,
        output_data: null,
        task_metadata: metadata("execution_plans", row, [], flags),
        created_at: createdAt,
        updated_at: createdAt,
        started_at: null,
        completed_at: null,
        error_message: null,
        retry_count: null,
        max_retries: null,
      },
    ],
    unified_workflow_tasks: [
      {
        task_id: id,
        correlation_id: correlationId,
        workflow_type: "plan",
        current_phase: phase,
        total_phases: phases ?? 0n,
        phases_completed: null,
        phase_history: null,
        workflow_config: embedded(row.generated_workflow),
        workflow_result: null,
        created_at: createdAt,
        workflow_started_at: null,
        workflow_completed_at: null,
      },
    ],
  };
}

function planDown(unified: Aggregate, current: Aggregate | null): Aggregate {
  const row = rootRow(unified, TABLE);
  const id = requiredText(row, TABLE, "id");
  const note = readNote(row);
  const noted = note.schema === "execution_plans";
  const raw = rawColumns(note, "execution_plans", current?.execution_plans?.[0], PLAN_COLUMNS);
  const child = unified.unified_workflow_tasks?.[0];

  // `raw` may be this very object: each column is read before it is set.
  const legacy: MutableRow = noted ? note.legacy : {};
  const planData = planDataDown(requiredText(row, TABLE, "input_data"), id, raw.plan_data);
  const status = statusDown(requiredText(row, TABLE, "status"), raw.status, STATUS_UP.plan, PLAN_STATUS_DOWN, "draft");
  legacy.id = legacyId(id, raw.id);
  legacy.planning_task_id =
    raw.planning_task_id === undefined ? requiredText(row, TABLE, "correlation_id") : raw.planning_task_id;
  legacy.plan_data = planData;
  legacy.generated_at = timeDown(
    optionalText(row, TABLE, "created_at"),
    raw.generated_at,
    utc(raw.generated_at) ?? UNREADABLE_TIME,
  );
  legacy.status = status;
  if (child === undefined) {
    if (raw.generated_workflow !== undefined) legacy.generated_workflow = raw.generated_workflow;
    if (raw.subtask_count !== undefined) legacy.subtask_count = raw.subtask_count;
    return { execution_plans: [legacy] };
  }
  const workflow = UNIFIED_WORKFLOW_TASKS.table;
  legacy.generated_workflow = jsonDown(optionalText(child, workflow, "workflow_config"), raw.generated_workflow);
  const phases = optionalInteger(child, workflow, "total_phases") ?? 0n;
  const samePhases = raw.subtask_count !== undefined && (integerOf(raw.subtask_count) ?? 0n) === phases;
  legacy.subtask_count = samePhases ? (raw.subtask_count ?? null) : phases;
  return { execution_plans: [legacy] };
}

function planDataDown(text: string, id: string, raw: Value | undefined): Value {
  if (typeof raw === "string" && text.length === raw.length + 9 && text === `{"plan":${raw}}`) return raw;
  // An input without a plan is one as a whole: the column is NOT NULL, and nothing of it may be lost.
  const plan = jsonDown(inputMembers(text, id)?.get("plan") ?? text, raw);
  return plan ?? (raw === null ? null : "null");
}

/** The plans that the planner made. */
export const executionPlans: AggregateMapping = {
  name: "execution_plans",
  legacy: { root: { table: "execution_plans", key: "id", columns: PLAN_COLUMNS }, related: [] },
  unified: { root: UNIFIED_TASKS, related: [UNIFIED_WORKFLOW_TASKS] },
  agent: () => "orchestrator",
  unifiedAgent: (unified) => owner(unified, "orchestrator"),
  owns: (unified) => readNote(unified.unified_tasks?.[0]).schema === "execution_plans",
  up: planUp,
  down: planDown,
};
