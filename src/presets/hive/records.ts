import { type Aggregate, type DataRow, MappingError, type RecordCodec, type Value } from "../../sync/mapping.ts";
import { asObject, parseJson } from "./json.ts";
import { utc } from "./timestamps.ts";
import {
  UNIFIED_DEPLOYMENT_TASKS,
  UNIFIED_REVIEW_TASKS,
  UNIFIED_TASKS,
  UNIFIED_WORKFLOW_TASKS,
} from "./unified-tables.ts";
import {
  AGENT_OF_TYPE,
  UNIFIED_STATUSES,
  UNIFIED_TASK_TYPES,
  type UnifiedStatus,
  type UnifiedTaskType,
} from "./vocabulary.ts";

/** What a JSON column holds. Whole numbers beyond 2^53 are rounded when it is read; what is not written keeps its text. */
export type JsonValue = null | boolean | number | string | JsonValue[] | { [key: string]: JsonValue };

/** The result of a review. */
export interface HiveReview {
  codePath: string;
  prId: string | null;
  /** 0 to 100. */
  reviewScore: number | null;
  reviewResult: JsonValue;
  violations: JsonValue;
  suggestions: JsonValue;
  autoFixEnabled: boolean | null;
  autoFixAttempts: number | null;
  autoFixResult: JsonValue;
  reviewedAt: string | null;
}

export interface HiveWorkflow {
  workflowType: string;
  currentPhase: string;
  totalPhases: number;
  phasesCompleted: number | null;
  phaseHistory: JsonValue;
  workflowConfig: JsonValue;
  workflowResult: JsonValue;
  workflowStartedAt: string | null;
  workflowCompletedAt: string | null;
}

export interface HiveDeployment {
  serviceName: string;
  environment: string;
  commitSha: string | null;
  strategy: string;
  deploymentConfig: JsonValue;
  deploymentUrl: string | null;
  deploymentStatus: string | null;
  deploymentLogs: JsonValue;
  healthCheckUrl: string | null;
  healthStatus: string | null;
  deployedAt: string | null;
  validatedAt: string | null;
}

/** A unified task with its parts, as the dual writer gives and takes it. Times are `YYYY-MM-DDTHH:MM:SS.sssZ`. */
export interface HiveTask {
  id: string;
  correlationId: string;
  taskType: UnifiedTaskType;
  status: UnifiedStatus;
  agentType: string;
  /** 1 (most urgent) to 10. */
  priority: number | null;
  inputData: JsonValue;
  outputData: JsonValue;
  /** Without what hive itself keeps there. */
  taskMetadata: JsonValue;
  createdAt: string;
  updatedAt: string;
  startedAt: string | null;
  completedAt: string | null;
  errorMessage: string | null;
  retryCount: number | null;
  maxRetries: number | null;
  /** Null in a change removes the part. */
  review?: HiveReview;
  workflow?: HiveWorkflow;
  deployment?: HiveDeployment;
}

/** Between a column and a field. */
interface Kind {
  /** Of a value of the record; throws a text that says what is wrong. */
  write(value: unknown, current: Value | undefined): Value;
  read(value: Value): unknown;
}

class Wrong extends Error {}

const text = (check?: (value: string) => string | null): Kind => ({
  write: (value) => {
    if (typeof value !== "string") throw new Wrong("has to be a text");
    const problem = check?.(value) ?? null;
    if (problem !== null) throw new Wrong(problem);
    return value;
  },
  read: (value) => (typeof value === "bigint" ? value.toString() : value),
});

const oneOf = (words: readonly string[]) =>
  text((value) => (words.includes(value) ? null : `has to be one of ${words.join(", ")}, is ${JSON.stringify(value)}`));

const integer = (least: number, most: number): Kind => ({
  write: (value) => {
    if (typeof value === "number" && Number.isInteger(value) && value >= least && value <= most) return BigInt(value);
    const range = most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `from ${least} to ${most}`;
    throw new Wrong(`has to be a whole number ${range}`);
  },
  read: (value) => (typeof value === "bigint" ? Number(value) : value),
});

const count = integer(0, Number.MAX_SAFE_INTEGER);

const flag: Kind = {
  write: (value, current) => {
    if (typeof value !== "boolean") throw new Wrong("has to be true or false");
    const same = current !== undefined && current !== null && flag.read(current) === value;
    return same ? current : value ? 1n : 0n;
  },
  read: (value) => value !== 0n && value !== 0 && value !== "0",
};

const time: Kind = {
  write: (value, current) => {
    if (value === current && typeof value === "string") return value;
    const read = typeof value === "string" ? utc(value) : null;
    if (read === null) throw new Wrong("has to be a time such as 2026-11-23T12:00:00.000Z");
    return read;
  },
  read: (value) => value,
};

const json: Kind = {
  write: (value, current) => {
    const problem = jsonProblem(value, 0);
    if (problem !== null) throw new Wrong(problem);
    const written = JSON.stringify(value);
    // Read and written back unchanged: the text that is there may hold more than was read.
    if (typeof current === "string" && JSON.stringify(json.read(current)) === written) return current;
    return written;
  },
  read: (value) => {
    if (typeof value !== "string") return typeof value === "bigint" ? Number(value) : value;
    const parsed = parseJson(value);
    return parsed === undefined ? { _raw: value } : parsed;
  },
};

const MOST_LEVELS = 1_000;

function jsonProblem(value: unknown, level: number): string | null {
  if (value === null || typeof value === "boolean" || typeof value === "string") return null;
  if (typeof value === "number") return Number.isFinite(value) ? null : `cannot hold ${value}: JSON has no such number`;
  if (typeof value !== "object") return `cannot hold a ${typeof value}: it has to be JSON`;
  if (level > MOST_LEVELS) return `is nested more than ${MOST_LEVELS} levels deep, or contains itself`;
  const prototype: unknown = Object.getPrototypeOf(value);
  if (!Array.isArray(value) && prototype !== Object.prototype && prototype !== null) {
    return "holds an object that is more than JSON (a Date, a Map, …)";
  }
  for (const one of Object.values(value)) {
    if (one === undefined && !Array.isArray(value)) continue;
    const problem = jsonProblem(one, level + 1);
    if (problem !== null) return problem;
  }
  return null;
}

interface Field {
  readonly column: string;
  readonly kind: Kind;
  /** May be NULL. */
  readonly optional?: true;
  /** For a new row that does not give it. */
  readonly initial?: Value;
}

type Fields = { readonly [field: string]: Field };

const METADATA = "task_metadata";
/** What the mapping keeps there for the way back; `requires_human` is an agent's business too. */
const OWN_NOTES = (UNIFIED_TASKS.notes?.[METADATA] ?? []).filter((note) => note !== "requires_human");

const metadata: Kind = {
  write: (value, current) => {
    const kept = typeof current === "string" ? asObject(parseJson(current)) : null;
    const notes = Object.entries(kept ?? {}).filter(([key]) => OWN_NOTES.includes(key));
    if (jsonOf(metadata.read(current ?? null)) === jsonOf(value)) return current ?? null;
    const given = value === null ? {} : value;
    if (typeof given !== "object" || Array.isArray(given)) throw new Wrong("has to be an object");
    const own = OWN_NOTES.find((note) => Object.hasOwn(given, note));
    if (own !== undefined) throw new Wrong(`cannot set ${own}: that is hive's own`);
    const problem = jsonProblem(given, 0);
    if (problem !== null) throw new Wrong(problem);
    return value === null && notes.length === 0 ? null : JSON.stringify({ ...Object.fromEntries(notes), ...given });
  },
  read: (value) => {
    const all = json.read(value);
    if (typeof all !== "object" || all === null || Array.isArray(all)) return all;
    const shown = Object.entries(all).filter(([key]) => !OWN_NOTES.includes(key));
    return shown.length === 0 ? null : Object.fromEntries(shown);
  },
};

function jsonOf(value: unknown): string | undefined {
  try {
    return JSON.stringify(value);
  } catch {
    return undefined;
  }
}

const named = text((value) => (value === "" ? "must not be empty" : null));

const TASK: Fields = {
  id: { column: "id", kind: named },
  correlationId: { column: "correlation_id", kind: named },
  taskType: { column: "task_type", kind: oneOf(UNIFIED_TASK_TYPES) },
  status: { column: "status", kind: oneOf(UNIFIED_STATUSES), initial: "pending" },
  agentType: { column: "agent_type", kind: named },
  priority: { column: "priority", kind: integer(1, 10), optional: true },
  inputData: { column: "input_data", kind: json, initial: "{}" },
  outputData: { column: "output_data", kind: json, optional: true },
  taskMetadata: { column: METADATA, kind: metadata, optional: true },
  createdAt: { column: "created_at", kind: time },
  updatedAt: { column: "updated_at", kind: time },
  startedAt: { column: "started_at", kind: time, optional: true },
  completedAt: { column: "completed_at", kind: time, optional: true },
  errorMessage: { column: "error_message", kind: text(), optional: true },
  retryCount: { column: "retry_count", kind: count, optional: true },
  maxRetries: { column: "max_retries", kind: count, optional: true },
};

interface Part {
  readonly table: string;
  readonly fields: Fields;
}

const PARTS: { readonly [part: string]: Part } = {
  review: {
    table: UNIFIED_REVIEW_TASKS.table,
    fields: {
      codePath: { column: "code_path", kind: text(), initial: "" },
      prId: { column: "pr_id", kind: text(), optional: true },
      reviewScore: { column: "review_score", kind: integer(0, 100), optional: true },
      reviewResult: { column: "review_result", kind: json, optional: true },
      violations: { column: "violations", kind: json, optional: true },
      suggestions: { column: "suggestions", kind: json, optional: true },
      autoFixEnabled: { column: "auto_fix_enabled", kind: flag, optional: true },
      autoFixAttempts: { column: "auto_fix_attempts", kind: count, optional: true },
      autoFixResult: { column: "auto_fix_result", kind: json, optional: true },
      reviewedAt: { column: "reviewed_at", kind: time, optional: true },
    },
  },
  workflow: {
    table: UNIFIED_WORKFLOW_TASKS.table,
    fields: {
      workflowType: { column: "workflow_type", kind: named, initial: "chimera" },
      currentPhase: { column: "current_phase", kind: text(), initial: "start" },
      totalPhases: { column: "total_phases", kind: count, initial: 0n },
      phasesCompleted: { column: "phases_completed", kind: count, optional: true },
      phaseHistory: { column: "phase_history", kind: json, optional: true },
      workflowConfig: { column: "workflow_config", kind: json, optional: true },
      workflowResult: { column: "workflow_result", kind: json, optional: true },
      workflowStartedAt: { column: "workflow_started_at", kind: time, optional: true },
      workflowCompletedAt: { column: "workflow_completed_at", kind: time, optional: true },
    },
  },
  deployment: {
    table: UNIFIED_DEPLOYMENT_TASKS.table,
    fields: {
      serviceName: { column: "service_name", kind: text(), initial: "" },
      environment: { column: "environment", kind: text(), initial: "unknown" },
      commitSha: { column: "commit_sha", kind: text(), optional: true },
      strategy: { column: "strategy", kind: text(), initial: "direct" },
      deploymentConfig: { column: "deployment_config", kind: json, optional: true },
      deploymentUrl: { column: "deployment_url", kind: text(), optional: true },
      deploymentStatus: { column: "deployment_status", kind: text(), optional: true },
      deploymentLogs: { column: "deployment_logs", kind: json, optional: true },
      healthCheckUrl: { column: "health_check_url", kind: text(), optional: true },
      healthStatus: { column: "health_status", kind: text(), optional: true },
      deployedAt: { column: "deployed_at", kind: time, optional: true },
      validatedAt: { column: "validated_at", kind: time, optional: true },
    },
  },
};

function read(fields: Fields, row: DataRow): Record<string, unknown> {
  const record: Record<string, unknown> = {};
  for (const field in fields) {
    const { column, kind } = fields[field] ?? {};
    if (column === undefined || kind === undefined) continue;
    const value = row[column] ?? null;
    record[field] = value === null ? null : kind.read(value);
  }
  return record;
}

function write(
  fields: Fields,
  changes: object,
  current: DataRow | undefined,
  place: string,
): { [column: string]: Value } {
  const row: { [column: string]: Value } = { ...current };
  for (const [field, value] of Object.entries(changes)) {
    if (value === undefined || (place === "" && Object.hasOwn(PARTS, field))) continue;
    const known = Object.hasOwn(fields, field) ? fields[field] : undefined;
    if (!known) throw new MappingError(`there is no field ${place}${field}`);
    const { column, kind, optional } = known;
    // In metadata, null takes away the agent's part only.
    if (value === null && kind !== metadata) {
      // As a JSON column that must not be NULL says it.
      if (kind === json && optional === undefined) row[column] = "null";
      else if (optional === undefined) throw new MappingError(`${place}${field} must not be null`);
      else row[column] = null;
      continue;
    }
    try {
      row[column] = kind.write(value, current?.[column]);
    } catch (error) {
      if (!(error instanceof Wrong)) throw error;
      throw new MappingError(`${place}${field} ${error.message}`);
    }
  }
  if (current) return row;
  for (const { column, initial } of Object.values(fields)) {
    if (initial !== undefined) row[column] ??= initial;
    else row[column] ??= null;
  }
  return row;
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function fromAggregate(unified: Aggregate): object {
  const record = read(TASK, unified[UNIFIED_TASKS.table]?.[0] ?? {});
  for (const name in PARTS) {
    const part = PARTS[name];
    const row = part && unified[part.table]?.[0];
    if (row) record[name] = read(part.fields, row);
  }
  return record;
}

function toAggregate(changes: object, current: Aggregate | null, key: string, now: string): Aggregate {
  const before = current?.[UNIFIED_TASKS.table]?.[0];
  const task = write(TASK, changes, before, "");
  task.id ??= key;
  if (task.id !== key) throw new MappingError("id is the key of the task, which cannot be changed");
  task.created_at ??= now;
  task.updated_at = now;
  if (task.task_type === null) throw new MappingError("taskType is missing");
  if (!before) {
    task.correlation_id ??= key;
    const type = UNIFIED_TASK_TYPES.find((one) => one === task.task_type);
    if (type) task.agent_type ??= AGENT_OF_TYPE[type];
  }
  const aggregate: { [table: string]: readonly DataRow[] } = { ...current, [UNIFIED_TASKS.table]: [task] };
  for (const [name, { table, fields }] of Object.entries(PARTS)) {
    const given: unknown = Reflect.get(changes, name);
    const present = current?.[table]?.[0];
    if (given === null) aggregate[table] = [];
    if (given === null || (given === undefined && !present)) continue;
    if (given !== undefined && !isObject(given)) throw new MappingError(`${name} has to be an object`);
    const row = write(fields, given ?? {}, present, `${name}.`);
    // Those of a part are its task's.
    const own: DataRow = { task_id: key, correlation_id: task.correlation_id ?? null };
    aggregate[table] = [{ ...row, ...own, created_at: present?.created_at ?? task.created_at }];
  }
  return aggregate;
}

/** Tasks as typed objects: {@link HiveTask}. */
export const records: RecordCodec = {
  table: UNIFIED_TASKS.table,
  filters: Object.fromEntries(
    ["id", "correlationId", "taskType", "status", "agentType", "priority", "retryCount", "maxRetries"].map((field) => [
      field,
      TASK[field]?.column ?? field,
    ]),
  ),
  createdAt: "created_at",
  updatedAt: "updated_at",
  key: (record) => {
    const key: unknown = Reflect.get(record, "id");
    if (key === undefined || key === null) return null;
    if (typeof key !== "string" || key === "") throw new MappingError("id has to be a text that is not empty");
    return key;
  },
  fromAggregate,
  toAggregate,
};
