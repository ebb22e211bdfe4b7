import type { Aggregate, AggregateMapping, DataRow, Value } from "../../sync/mapping.ts";
import { asObject, type Json, type JsonObject, members, parseJson, quote, textOf } from "./json.ts";
import {
  embedded,
  encode,
  inputMembers,
  integerOf,
  jsonDown,
  legacyId,
  legacyJson,
  type MutableRow,
  NO_ROWS,
  optionalInteger,
  optionalText,
  parseColumn,
  rawColumns,
  readNote,
  requiredText,
  rootRow,
  spliced,
  textDown,
  unchangedInput,
  unifiedId,
} from "./legacy-values.ts";
import { timeDown, UNREADABLE_TIME, utc } from "./timestamps.ts";
import {
  UNIFIED_DEPLOYMENT_TASKS,
  UNIFIED_REVIEW_TASKS,
  UNIFIED_TASKS,
  UNIFIED_WORKFLOW_TASKS,
} from "./unified-tables.ts";
import {
  AGENT_OF_TYPE,
  cleanWord,
  DEPLOYER_STATUSES,
  ENDED,
  ownerOf,
  REVIEW_STATUSES,
  STATUS_UP,
  taskStatusDown,
  taskTypeDown,
  taskTypeUp,
  UNFINISHED_RUN,
} from "./vocabulary.ts";

const INPUT = ["title", "description", "payload"] as const;
const IN_INPUT = ["title", "description"] as const;
const COUNTS = ["retry_count", "max_retries"] as const;
const TABLE = "unified_tasks";
const NOTHING: DataRow = {};
const COLUMNS = [
  "id",
  "title",
  "description",
  "task_type",
  "priority",
  "status",
  "current_phase",
  "workflow",
  "payload",
  "created_at",
  "updated_at",
  "started_at",
  "failure_reason",
  "retry_count",
  "max_retries",
] as const;

/** Priorities by their number, so that no bigint is made for each row. */
const PRIORITIES: readonly bigint[] = [0n, 1n, 2n, 3n, 4n, 5n, 6n, 7n, 8n, 9n, 10n];

/** Legacy: higher is more urgent; unified: 1 is most urgent. */
function priorityUp(value: Value | undefined): bigint {
  let unified = 10;
  if (typeof value === "bigint") unified = value >= 10n ? 1 : value <= 1n ? 10 : 11 - Number(value);
  else if (typeof value === "number" && !Number.isNaN(value)) unified = Math.floor(11 - value + 0.5);
  return PRIORITIES[Math.min(10, Math.max(1, unified))] ?? 10n;
}

function nonEmpty(value: Value | undefined): string | null {
  return typeof value === "string" && value !== "" ? value : null;
}

/** The last run that is neither pending nor running. */
function lastFinished(runs: readonly DataRow[]): DataRow | undefined {
  for (let i = runs.length - 1; i >= 0; i--) {
    const run = runs[i];
    if (run !== undefined && !UNFINISHED_RUN.has(cleanWord(run.status))) return run;
  }
  return undefined;
}

function phaseHistory(runs: readonly DataRow[]): string | null {
  if (runs.length === 0) return null;
  let text = "[";
  for (let i = 0; i < runs.length; i++) {
    const run = runs[i];
    if (run === undefined) continue;
    text +=
      `${i === 0 ? "" : ","}{"run_number":${encode(run.run_number)},"phase":${encode(run.phase)},` +
      `"status":${encode(run.status)},"started_at":${encode(run.started_at)},` +
      `"completed_at":${encode(run.completed_at)}}`;
  }
  return `${text}]`;
}

function deploymentLogs(events: readonly DataRow[]): string | null {
  if (events.length === 0) return null;
  let text = "[";
  for (let i = 0; i < events.length; i++) {
    const event = events[i];
    if (event === undefined) continue;
    text +=
      `${i === 0 ? "" : ","}{"event_type":${encode(event.event_type)},` +
      `"timestamp":${encode(event.timestamp)},"details":${embedded(event.details) ?? "null"}}`;
  }
  return `${text}]`;
}

/** The first element or key of payload.files that is text. */
function firstFile(files: Json | undefined, payloadText: string): string | null {
  if (Array.isArray(files)) return textOf(files[0]);
  const object = asObject(files);
  if (object === null) return null;
  const key = Object.keys(object)[0];
  // JavaScript moves integer-like keys to the front; the first is the one that stands first.
  if (key !== undefined && /^\d/.test(key)) {
    const text = members(payloadText).get("files");
    return textOf(text === undefined ? undefined : members(text).keys().next().value);
  }
  return textOf(key);
}

/** Rounded, .5 up; null for what is no number. */
function scoreOf(result: JsonObject | null): number | null {
  const score = asObject(asObject(result?.inspection_report)?.summary)?.quality_score;
  return typeof score === "number" ? Math.floor(score + 0.5) : null;
}

/** The issues of an inspection report as they stand in the run's result. */
function issuesOf(result: JsonObject | null, resultText: string): string | null {
  const issues = asObject(result?.inspection_report)?.issues;
  if (issues === undefined || issues === null) return null;
  if (Array.isArray(issues) && issues.length === 0) return "[]";
  return members(members(resultText).get("inspection_report") ?? "").get("issues") ?? null;
}

function correlationOf(payload: JsonObject | null): string | null {
  if (payload === null) return null;
  return textOf(payload.correlation_id) ?? textOf(payload.parent_plan_id) ?? textOf(payload.plan_id);
}

/** The first run's start, for a task whose own cannot be read. */
function runsStart(ownStart: string | null, runs: readonly DataRow[]): string | null {
  return ownStart === null ? utc(runs[0]?.started_at) : null;
}

/** The last run's error, for a task that has none of its own. */
function runsError(ownError: string | null, runs: readonly DataRow[]): string | null {
  return ownError === null ? nonEmpty(runs[runs.length - 1]?.error_message) : null;
}

function up(legacy: Aggregate): Aggregate {
  const row = rootRow(legacy, "tasks");
  const id = unifiedId("tasks", row.id);
  const runs = legacy.runs ?? NO_ROWS;
  const lastRun = runs[runs.length - 1];

  const typeWord = cleanWord(row.task_type);
  const statusWord = cleanWord(row.status);
  const type = taskTypeUp(typeWord, statusWord);
  const knownStatus = STATUS_UP.task.get(statusWord);
  const status = knownStatus ?? "pending";
  let flags = knownStatus === undefined ? ',"status_unknown"' : "";

  const payloadValue = parseColumn(row.payload);
  const payloadText = spliced(row.payload, payloadValue) ?? "null";
  const payload = asObject(payloadValue);
  const workflowValue = parseColumn(row.workflow);
  const workflow = asObject(workflowValue);
  const finished = lastFinished(runs);
  const resultValue = parseColumn(finished?.result_data);

  const created = utc(row.created_at);
  if (created === null) flags += ',"created_at_unreadable"';
  const createdAt = created ?? UNREADABLE_TIME;
  const updated = utc(row.updated_at);
  if (updated === null) flags += ',"updated_at_unreadable"';

  const ownStart = utc(row.started_at);
  const runStart = runsStart(ownStart, runs);
  const ownError = nonEmpty(row.failure_reason);
  const runError = runsError(ownError, runs);
  if (ownStart === null) {
    const silent = (runs[0]?.started_at ?? null) === null || runStart !== null;
    if ((row.started_at ?? null) !== null || !silent) {
      flags += ',"started_at_unreadable"';
    }
  }
  let completedAt: string | null = null;
  if (ENDED.has(status)) {
    const ended = lastRun?.completed_at ?? null;
    completedAt = utc(ended);
    if (completedAt === null) {
      if (ended !== null) flags += ',"completed_at_unreadable"';
      completedAt = updated;
    }
  }

  const retryCount = integerOf(row.retry_count);
  if (retryCount === null && (row.retry_count ?? null) !== null) flags += ',"retry_count_not_integer"';
  const maxRetries = integerOf(row.max_retries);
  if (maxRetries === null && (row.max_retries ?? null) !== null) flags += ',"max_retries_not_integer"';

  const correlationId = correlationOf(payload) ?? id;

  let reviewRows = NO_ROWS;
  if (type === "review" || REVIEW_STATUSES.has(statusWord)) {
    const codePath = textOf(payload?.code_path) ?? firstFile(payload?.files, payloadText);
    if (codePath === null) flags += ',"code_path_missing"';
    const lastText = lastRun?.result_data;
    const report = asObject(lastRun === finished ? resultValue : parseColumn(lastText));
    let score = scoreOf(report);
    if (score !== null && (score < 0 || score > 100)) {
      flags += ',"review_score_out_of_range"';
      score = Math.min(100, Math.max(0, score));
    }
    const prId = payload?.pr_id;
    reviewRows = [
      {
        task_id: id,
        correlation_id: correlationId,
        code_path: codePath ?? "",
        pr_id: typeof prId === "number" && Number.isSafeInteger(prId) ? String(prId) : textOf(prId),
        review_score: score === null ? null : BigInt(score),
        review_result: null,
        violations: typeof lastText === "string" ? issuesOf(report, lastText) : null,
        suggestions: null,
        auto_fix_enabled: null,
        auto_fix_attempts: null,
        auto_fix_result: null,
        created_at: createdAt,
        reviewed_at: null,
      },
    ];
  }

  let workflowRows = NO_ROWS;
  const kind = typeWord === "chimera_workflow" ? "chimera" : typeWord === "qa_workflow" ? "qa" : "queen";
  const phases = workflow === null ? 0 : Object.keys(workflow).length;
  if (kind !== "queen" || phases > 0) {
    const ownPhase = kind === "queen" ? null : textOf(workflow?.current_phase);
    const phase = ownPhase ?? (typeof row.current_phase === "string" ? row.current_phase : "");
    if (phase === "") flags += ',"current_phase_missing"';
    workflowRows = [
      {
        task_id: id,
        correlation_id: correlationId,
        workflow_type: kind,
        current_phase: phase,
        total_phases: kind === "chimera" ? 5n : kind === "qa" ? 4n : BigInt(phases),
        phases_completed: null,
        phase_history: phaseHistory(runs),
        workflow_config: spliced(row.workflow, workflowValue),
        workflow_result: null,
        created_at: createdAt,
        workflow_started_at: null,
        workflow_completed_at: null,
      },
    ];
  }

  let deploymentRows = NO_ROWS;
  if (type === "deploy") {
    const service =
      textOf(payload?.service_name) ??
      textOf(payload?.app_name) ??
      textOf(payload?.project_name) ??
      nonEmpty(row.title) ??
      "";
    if (service === "") flags += ',"service_name_missing"';
    const environment = payload?.environment;
    const target = asObject(environment);
    deploymentRows = [
      {
        task_id: id,
        correlation_id: correlationId,
        service_name: service,
        environment: textOf(environment) ?? textOf(target?.platform) ?? "unknown",
        commit_sha: textOf(payload?.commit_sha),
        strategy: textOf(payload?.deployment_strategy) ?? "direct",
        deployment_config: target === null ? null : (members(payloadText).get("environment") ?? null),
        deployment_url: null,
        deployment_status: typeof row.status === "string" ? row.status : null,
        deployment_logs: deploymentLogs(legacy.deployment_events ?? NO_ROWS),
        health_check_url: null,
        health_status: null,
        created_at: createdAt,
        deployed_at: null,
        validated_at: null,
      },
    ];
  }

  let metadata = `{"legacy":${legacyJson("tasks", row, IN_INPUT)}`;
  if (runStart !== null || runError !== null) {
    const start = runStart === null ? "" : `"started_at":"${runStart}"`;
    const error = runError === null ? "" : `"error_message":${quote(runError)}`;
    metadata += `,"from_runs":{${start}${start !== "" && error !== "" ? "," : ""}${error}}`;
  }
  if (flags !== "") metadata += `,"flags":[${flags.slice(1)}]`;
  metadata += statusWord === "escalated" ? ',"requires_human":true}' : "}";

  return {
    unified_tasks: [
      {
        id,
        correlation_id: correlationId,
        task_type: type,
        status,
        agent_type: AGENT_OF_TYPE[type],
        priority: priorityUp(row.priority),
        input_data: `{"title":${encode(row.title)},"description":${encode(row.description)},"payload":${payloadText}}`,
        output_data: spliced(finished?.result_data, resultValue),
        task_metadata: metadata,
        created_at: createdAt,
        updated_at: updated ?? UNREADABLE_TIME,
        started_at: ownStart ?? runStart,
        completed_at: completedAt,
        error_message: ownError ?? runError,
        retry_count: retryCount,
        max_retries: maxRetries,
      },
    ],
    unified_review_tasks: reviewRows,
    unified_workflow_tasks: workflowRows,
    unified_deployment_tasks: deploymentRows,
  };
}

/** title, description and payload of a unified row; the raw values where it says the same. */
function inputDown(text: string, id: string, kept: DataRow, raw: DataRow): readonly [Value, Value, Value] {
  const unchanged = unchangedInput(text, INPUT, kept, INPUT);
  if (unchanged !== null) return unchanged;
  const found = inputMembers(text, id);
  // An agent's own input has no `payload`: all of it is the payload then, so that nothing of it is lost.
  let payload = found?.get("payload");
  if (payload === undefined) {
    const onlyOurs = found !== null && [...found.keys()].every((name) => name === "title" || name === "description");
    payload = onlyOurs ? "null" : text;
  }
  const title = textDown(found?.get("title"), raw.title);
  const description = textDown(found?.get("description"), raw.description);
  // The title is NOT NULL: NULL only where it was NULL all the same.
  return [title ?? (raw.title === null ? null : ""), description ?? null, jsonDown(payload, raw.payload)];
}

/** `payload` with the correlation id of a row that was made on the unified side: the only place legacy has for it. */
function withCorrelation(payload: Value, correlationId: Value | undefined, id: string): Value {
  const wanted = nonEmpty(correlationId);
  if (wanted === null) return payload;
  if (payload === null) return wanted === id ? null : `{"correlation_id":${quote(wanted)}}`;
  const object = typeof payload === "string" ? asObject(parseJson(payload)) : null;
  if (object === null || typeof payload !== "string" || (correlationOf(object) ?? id) === wanted) return payload;
  if (object.correlation_id !== undefined) return payload;
  const open = payload.indexOf("{") + 1;
  const rest = Object.keys(object).length === 0 ? "" : ",";
  return `${payload.slice(0, open)}"correlation_id":${quote(wanted)}${rest}${payload.slice(open)}`;
}

/** The legacy type that goes with what the workflow row says, for a task that has none of its own. */
function defaultType(type: string, workflowType: Value | undefined): string {
  if (type === "workflow" && workflowType === "qa") return "qa_workflow";
  if (type === "workflow" && workflowType === "queen") return "workflow";
  return taskTypeDown(type);
}

/** The legacy status and type. */
function statusAndType(
  type: string,
  status: string,
  requiresHuman: boolean | null,
  raw: DataRow,
  workflowType: Value | undefined,
): readonly [Value, Value] {
  const rawWord = cleanWord(raw.status);
  const wanted = status === "review_pending" && requiresHuman === true ? "escalated" : taskStatusDown(status, type);
  const sameStatus =
    raw.status !== undefined &&
    (STATUS_UP.task.get(rawWord) ?? "pending") === status &&
    (requiresHuman === null || status !== "review_pending" || requiresHuman === (rawWord === "escalated"));
  // A deployer's status would make a deploy task again of one whose unified type has been changed.
  const typeBound = DEPLOYER_STATUSES.has(rawWord) && type !== "deploy" && type !== "workflow";
  const chosen = raw.status !== undefined && sameStatus && !typeBound ? raw.status : wanted;
  const keepsType = raw.task_type !== undefined && taskTypeUp(cleanWord(raw.task_type), cleanWord(chosen)) === type;
  return [chosen, keepsType ? (raw.task_type ?? null) : defaultType(type, workflowType)];
}

/** current_phase and workflow, which only the workflow row can have changed. */
function workflowDown(child: DataRow | undefined, raw: DataRow, taskType: Value): readonly [Value, Value] {
  const rawPhase = raw.current_phase;
  const keptPhase = rawPhase === undefined ? "start" : rawPhase;
  if (child === undefined) return [keptPhase, raw.workflow ?? null];
  const phase = requiredText(child, UNIFIED_WORKFLOW_TASKS.table, "current_phase");
  const workflow = jsonDown(optionalText(child, UNIFIED_WORKFLOW_TASKS.table, "workflow_config"), raw.workflow);
  const word = cleanWord(taskType);
  if (word === "chimera_workflow" || word === "qa_workflow") {
    const own = textOf(asObject(parseColumn(workflow))?.current_phase);
    if (own !== null && typeof workflow === "string") {
      const changed = phase !== own && phase !== "";
      return [keptPhase, changed ? withMember(workflow, "current_phase", quote(phase)) : workflow];
    }
  }
  const unchanged = rawPhase !== undefined && phase === (typeof rawPhase === "string" ? rawPhase : "");
  return [unchanged || phase === "" ? keptPhase : phase, workflow];
}

/** `text` (a JSON object) with one member replaced; the others keep their text. */
function withMember(text: string, name: string, value: string): string {
  const found = members(text);
  found.set(name, value);
  return `{${[...found].map(([key, json]) => `${quote(key)}: ${json}`).join(", ")}}`;
}

function down(unified: Aggregate, current: Aggregate | null): Aggregate {
  const row = rootRow(unified, TABLE);
  const id = requiredText(row, TABLE, "id");
  const note = readNote(row);
  const noted = note.schema === "tasks";
  const present = current?.tasks?.[0];
  const raw = rawColumns(note, "tasks", present, COLUMNS);
  const runs = current?.runs ?? NO_ROWS;

  const child = unified.unified_workflow_tasks?.[0];
  const human = noted ? note.requiresHuman === true : note.requiresHuman;
  const [status, taskType] = statusAndType(
    requiredText(row, TABLE, "task_type"),
    requiredText(row, TABLE, "status"),
    human,
    raw,
    child?.workflow_type,
  );
  const [currentPhase, workflow] = workflowDown(child, raw, taskType);
  const kept = noted ? note.legacy : NOTHING;
  const [title, description, payload] = inputDown(requiredText(row, TABLE, "input_data"), id, kept, raw);

  const ownStart = utc(raw.started_at);
  const runStart = noted ? textOf(note.fromRuns.started_at) : runsStart(ownStart, runs);
  const ownError = nonEmpty(raw.failure_reason);
  const runError = noted ? textOf(note.fromRuns.error_message) : runsError(ownError, runs);
  const error = optionalText(row, TABLE, "error_message");
  const sameError = raw.failure_reason !== undefined && (ownError ?? runError) === error;
  const priority = optionalInteger(row, TABLE, "priority");

  // `raw` may be this very object: each column is read before it is set.
  const legacy: MutableRow = noted ? note.legacy : {};
  legacy.id = legacyId(id, raw.id);
  legacy.title = title;
  legacy.description = description;
  legacy.task_type = taskType;
  // A row made on the unified side says nothing with NULL: there, the table's default is meant.
  if (raw.priority !== undefined && priorityUp(raw.priority) === priority) legacy.priority = raw.priority;
  else if (priority !== null) legacy.priority = 11n - priority;
  else if (noted) legacy.priority = null;
  legacy.status = status;
  legacy.current_phase = currentPhase;
  legacy.workflow = workflow;
  legacy.payload = noted ? payload : withCorrelation(payload, row.correlation_id, id);
  legacy.created_at = timeDown(
    optionalText(row, TABLE, "created_at"),
    raw.created_at,
    utc(raw.created_at) ?? UNREADABLE_TIME,
  );
  legacy.updated_at = timeDown(
    optionalText(row, TABLE, "updated_at"),
    raw.updated_at,
    utc(raw.updated_at) ?? UNREADABLE_TIME,
  );
  legacy.started_at = timeDown(optionalText(row, TABLE, "started_at"), raw.started_at, ownStart ?? runStart);
  legacy.failure_reason = sameError ? (raw.failure_reason ?? null) : error;
  for (const column of COUNTS) {
    const count = optionalInteger(row, TABLE, column);
    const old = raw[column];
    if (old !== undefined && integerOf(old) === count) legacy[column] = old;
    else if (count !== null || noted) legacy[column] = count;
  }
  return { tasks: [legacy] };
}

/** Root tasks with their runs and deployment events; everything in unified_tasks that is nobody else's is one. */
export const tasks: AggregateMapping = {
  name: "tasks",
  legacy: {
    root: {
      table: "tasks",
      key: "id",
      columns: COLUMNS,
    },
    related: [
      {
        table: "runs",
        foreignKey: "task_id",
        key: ["id"],
        columns: ["id", "run_number", "phase", "status", "started_at", "completed_at", "result_data", "error_message"],
        orderBy: ["run_number", "id"],
      },
      {
        table: "deployment_events",
        foreignKey: "task_id",
        key: ["id"],
        columns: ["id", "event_type", "details", "timestamp"],
        orderBy: ["id"],
        optional: true,
      },
    ],
  },
  unified: {
    root: UNIFIED_TASKS,
    related: [UNIFIED_REVIEW_TASKS, UNIFIED_WORKFLOW_TASKS, UNIFIED_DEPLOYMENT_TASKS],
  },
  agent(legacy) {
    const row = legacy.tasks?.[0];
    return AGENT_OF_TYPE[taskTypeUp(cleanWord(row?.task_type), cleanWord(row?.status))];
  },
  unifiedAgent(unified) {
    const row = unified.unified_tasks?.[0];
    return ownerOf(row?.agent_type, row?.task_type);
  },
  owns(unified) {
    const { schema } = readNote(unified.unified_tasks?.[0]);
    return schema !== "planning_queue" && schema !== "execution_plans";
  },
  up,
  down,
};
