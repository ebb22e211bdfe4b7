import type { Value } from "../../sync/mapping.ts";
import { DIRT, type DirtyRow } from "./sample-dirt.ts";
import { LEGACY_SCHEMA } from "./sample-schema.ts";
import { legacySchema, NATURAL } from "./sample-schema-postgres.ts";

/**
 * A made-up platform in its legacy shape, for the demo, the tests and the bench. Every row follows from the seed and
 * its own number alone: the same options give the same bytes, and no table has to be kept while the next is made.
 * Texts, proportions and formats are those of the platform's own database.
 */

export interface SampleOptions {
  /** Rows of `tasks`, without the dirty ones. Everything else grows with it. */
  tasks: number;
  /** Default 1. */
  seed?: number;
  /** Also plant a row of every kind that a migration stumbles over (their ids mostly start with `edge-`). */
  dirt?: boolean;
  /** On PostgreSQL the tables have its own types, which refuse most of the dirt. Default: sqlite. */
  database?: "sqlite" | "postgres";
}

export interface SampleTable {
  readonly table: string;
  /** What the rows hold, by position; other columns keep their default. */
  readonly columns: readonly string[];
  /** The rows in pieces of some hundred. Can be asked for again: the same rows come. */
  chunks(): Generator<Value[][], void>;
}

export interface SamplePlatform {
  /** To be run on the connection before the transaction (empty: nothing): some rows refer to nothing, as on the platform. */
  readonly setup: string;
  /** Tables and indexes, statement by statement. */
  readonly schema: readonly string[];
  /** In an order in which every row comes after those it refers to. */
  readonly tables: readonly SampleTable[];
}

const CHUNK = 400;

/** Constant memory at any size. */
export function samplePlatform(options: SampleOptions): SamplePlatform {
  const platform = new Platform(options.tasks, options.seed ?? 1);
  const dirt = options.dirt === true ? DIRT : {};
  const table = (
    name: string,
    columns: string,
    count: number,
    row: (index: number, emit: Emit) => void,
  ): SampleTable => {
    const names = columns.split(" ");
    return { table: name, columns: names, chunks: () => chunksOf(names, count, row, dirt[name] ?? []) };
  };
  const onPostgres = options.database === "postgres";
  return {
    setup: onPostgres ? "" : "PRAGMA foreign_keys = OFF",
    schema: onPostgres ? legacySchema(NATURAL) : LEGACY_SCHEMA,
    tables: [
      table("tasks", TASK_COLUMNS, platform.tasks, (i, emit) => emit(platform.taskRow(i))),
      table("workers", WORKER_COLUMNS, WORKERS.length, (i, emit) => emit(platform.workerRow(i))),
      table("runs", RUN_COLUMNS, platform.tasks, (i, emit) => platform.runRows(i, emit)),
      table("planning_queue", QUEUE_COLUMNS, platform.queue, (i, emit) => emit(platform.queueRow(i))),
      table("execution_plans", PLAN_COLUMNS, platform.queue, (i, emit) => platform.planRows(i, emit)),
      table("plan_execution", EXECUTION_COLUMNS, platform.queue, (i, emit) => platform.executionRows(i, emit)),
      table("events", EVENT_COLUMNS, platform.tasks, (i, emit) => platform.eventRows(i, emit)),
      table("event_subscriptions", "subscription_id event_pattern subscriber_agent", 0, () => undefined),
      table("deployment_events", DEPLOYMENT_COLUMNS, platform.tasks, (i, emit) => platform.deploymentRows(i, emit)),
    ],
  };
}

type Emit = (row: Value[]) => void;

function* chunksOf(
  columns: readonly string[],
  count: number,
  make: (index: number, emit: Emit) => void,
  dirt: readonly DirtyRow[],
): Generator<Value[][], void> {
  let chunk: Value[][] = [];
  const emit = (row: Value[]) => {
    chunk.push(row);
  };
  for (let index = 0; index < count; index++) {
    make(index, emit);
    if (chunk.length < CHUNK) continue;
    yield chunk;
    chunk = [];
  }
  for (const row of dirt) chunk.push(columns.map((name) => row[name] ?? null));
  if (chunk.length > 0) yield chunk;
}

const TASK_COLUMNS =
  "id title description task_type priority status current_phase workflow payload created_at updated_at assigned_worker " +
  "due_date max_retries tags summary generated_artifacts related_document_ids knowledge_fragments assignee assigned_at " +
  "started_at failure_reason retry_count worktree workspace_type depends_on";
const WORKER_COLUMNS = "id role status last_heartbeat capabilities current_task_id metadata registered_at";
const RUN_COLUMNS =
  "id task_id worker_id run_number status phase started_at completed_at result_data error_message output_log transcript";
const QUEUE_COLUMNS =
  "id task_description priority requestor context_data status complexity_estimate created_at assigned_at completed_at " +
  "assigned_agent";
const PLAN_COLUMNS =
  "id planning_task_id plan_data estimated_duration estimated_complexity subtask_count dependency_count generated_at status";
const EXECUTION_COLUMNS =
  "id plan_id current_phase progress_percent active_subtasks completed_subtasks failed_subtasks blocked_subtasks " +
  "execution_notes started_at updated_at completed_at";
const EVENT_COLUMNS = "event_id event_type timestamp source_agent correlation_id payload metadata created_at";
const DEPLOYMENT_COLUMNS = "task_id event_type details timestamp";

/** `"a 3, b"` → a, a, a, b: drawing from it evenly gives the weights. */
function weighted(words: string): string[] {
  return words.split(", ").flatMap((entry) => {
    const [word = "", count = "1"] = entry.split(" ");
    return Array.from({ length: Number(count) }, () => (word === "''" ? "" : word));
  });
}

const SUBTASK = "planned_subtask";
const TYPES = weighted(
  "planned_subtask 1451, backend 906, frontend 330, app 330, qa_workflow 320, deployment 320, chimera_workflow 300, " +
    "infra 260, review 150, test 127, user_request 123, general 90, development 72, analysis 70, test_suite 50, " +
    "feature_development 50, documentation 45, scaffold 40, qa_golden_rules 40, ecosystemiser 30, api_endpoint 30, " +
    "simple 25, service_logic 25, database_model 25, verification 16",
);

/** How the statuses and the numbers of runs of a kind of task are spread. */
interface Flow {
  readonly statuses: readonly string[];
  readonly runs: readonly number[];
}

function flow(statuses: string, runs: readonly number[]): Flow {
  // The n-th number says how many hundredths of the tasks have n runs.
  return {
    statuses: weighted(statuses),
    runs: runs.flatMap((share, count) => Array.from({ length: share }, () => count)),
  };
}

const CODE = flow(
  "completed 428, queued 144, failed 83, review_pending 69, in_progress 48, approved 41, rework_needed 32, " +
    "cancelled 30, assigned 22, escalated 21, rejected 17, running 6, review_approved 5, review_failed 4, " +
    "review_in_progress 3, review_rejected 3, pending 2",
  [14, 7, 11, 17, 24, 15, 8, 3, 1],
);
const FLOWS: ReadonlyMap<string, Flow> = new Map([
  [
    "app",
    flow("completed 234, queued 37, failed 35, in_progress 16, assigned 6, cancelled 2", [12, 24, 28, 20, 10, 4, 2]),
  ],
  [
    SUBTASK,
    flow("queued 673, completed 638, in_progress 78, review_pending 43, failed 19", [37, 14, 4, 12, 14, 10, 6, 3]),
  ],
  ["qa_workflow", flow("completed 177, failed 67, queued 60, in_progress 16", [47, 32, 14, 5, 2])],
  ["chimera_workflow", flow("completed 138, failed 66, queued 49, in_progress 47", [58, 25, 13, 4])],
  [
    "deployment",
    flow(
      "deployed 145, deployment_pending 88, rolled_back 34, deployment_failed 23, deploying 17, failed 9, queued 4",
      [98, 2],
    ),
  ],
  [
    "review",
    flow(
      "review_pending 30, approved 28, completed 26, rejected 20, queued 18, rework_needed 15, escalated 13, " +
        "review_in_progress 2, review_approved 2, review_rejected 1, review_failed 1",
      [62, 22, 13, 3],
    ),
  ],
  [
    "test",
    flow(
      "completed 97, queued 71, planned 19, in_progress 12, failed 12, planning_failed 5, planning_in_progress 4",
      [49, 11, 9, 12, 11, 8],
    ),
  ],
]);
const flowOf = (type: string): Flow => FLOWS.get(type === "user_request" ? "test" : type) ?? CODE;

const NOT_BEGUN = new Set(["queued", "pending", "deployment_pending", "planned", "planning_in_progress"]);
const UNFINISHED = new Set(["in_progress", "running", "assigned", "deploying"]);
const RUN_STATUSES = weighted(
  "success 806, failed 188, timeout 68, failure 58, completed 28, cancelled 13, error 10, blocked 4, pending 1",
);
const QUEUE_STATUSES = weighted("planned 686, pending 52, failed 34, assigned 15, completed 7, in_progress 6");
const PLAN_STATUSES = weighted(
  "generated 253, executing 165, completed 158, failed 61, approved 30, draft 21, pending 3, in_progress 2",
);

const WORDS =
  "scheduler billing cache ingest climate-service timeline webhook geocoder tokenizer rate-limit heat-pump thermal " +
  "dashboard battery pareto notifier exporter inverter schema solver retry search forecast authentication migration";
const NOUNS = WORDS.split(" ");
const VERBS = ["Implement", "Add tests for", "Optimise", "Refactor", "Document", "Fix"];
const FRAMEWORKS = ["FastAPI", "Flask", "React", "Python"];
const QUALITIES = ["high", "borderline", "low"];
const STRATEGIES = ["docker", "ssh", "blue-green", "kubernetes", "direct"];
const FOREIGN_TITLES = [
  "Überprüfung der Wärmepumpe",
  "Améliorer la résilience",
  "Zażółć gęślą jaźń",
  "नया एपीआई",
  "Добавить тесты",
  "\u{1f680} Ship the dashboard",
  "naïve café déjà-vu — “quotes” & <tags>",
];
const REQUIREMENT =
  "Create a production-quality implementation with type hints, docstrings, input validation and a test suite. Edge " +
  "cases: empty input, unicode, very large values, timeouts.\n";
const COMPLEXITIES = ["simple", "medium", "complex"];
const PHASES = ["analysis", "design", "implementation", "testing", "validation"];
const PREFIXES = ["auth", "ui", "api", "mock"];
const ISSUES = ["No docstring", "Function too long", "Missing tests", "na\\u00efve datetime"];
const ERRORS = [
  "Claude exit code 1",
  "Claude exit code 1",
  "Execution timed out after 5 minutes",
  "Traceback (most recent call last):\n  File \"x.py\", line 3\nUnicodeDecodeError: 'charmap' codec can't decode byte 0x9d",
];
const PRIORITIES = [1, 1, 1, 2, 2, 3, 3, 5, 5, 4, 6, 7, 8, 9, 10, 0, 85];

interface Worker {
  readonly id: string;
  readonly role: string;
  readonly status: string;
  readonly capabilities: string | null;
  readonly metadata: string | null;
  readonly busy?: boolean;
}

const WORKERS: readonly Worker[] = [
  {
    id: "queen-orchestrator",
    role: "orchestrator",
    status: "active",
    capabilities: '["task_orchestration", "workflow_management", "worker_coordination"]',
    metadata: '{"version": "2.0.0", "type": "QueenLite", "features": ["stateful_workflows", "parallel_execution"]}',
  },
  {
    id: "async-queen-orchestrator",
    role: "orchestrator",
    status: "active",
    capabilities: '["async_orchestration"]',
    metadata: '{"version": "4.1.0", "type": "AsyncQueen"}',
  },
  { id: "backend", role: "backend", status: "active", capabilities: '["python", "bash"]', metadata: null, busy: true },
  { id: "frontend", role: "frontend", status: "active", capabilities: '["javascript"]', metadata: null, busy: true },
  { id: "infra", role: "infra", status: "idle", capabilities: '["docker", "kubernetes"]', metadata: null },
  { id: "app-worker-1", role: "app", status: "active", capabilities: null, metadata: null },
  { id: "test-worker", role: "backend", status: "offline", capabilities: null, metadata: null },
  {
    id: "async-ai-reviewer-3abd73fe",
    role: "ai_reviewer",
    status: "active",
    capabilities: '["code_review", "quality_assessment"]',
    metadata: '{"version": "4.1.0"}',
  },
  {
    id: "async-ai-planner-6da51c70",
    role: "ai_planner",
    status: "active",
    capabilities: '["planning", "task_decomposition"]',
    metadata: '{"version": "4.1.0"}',
  },
  {
    id: "qa-worker-1",
    role: "qa",
    status: "error",
    capabilities: '["ruff", "golden_rules"]',
    metadata: '{"workspace": "C:\\\\git\\\\hive", "pid": 4242}',
  },
  {
    id: "async-backend-0090dc75-e14f-4320-a696-2bc7084cabd1",
    role: "backend",
    status: "active",
    capabilities: '["python"]',
    metadata: '{"phase": "apply"}',
  },
  {
    id: "worker-überall",
    role: "executor",
    status: "active",
    capabilities: '["python", "bash", "docker"]',
    metadata: '{"note": "\\u00fcn\\u00efcode"}',
  },
];
const RUNNERS = weighted(
  "queen-orchestrator 52, backend 21, frontend 12, infra 11, test-worker 10, async-queen-orchestrator 8, " +
    "async-backend-0090dc75-e14f-4320-a696-2bc7084cabd1 4, app-worker-1 1",
);
const WORKFLOW_WORKERS = ["qa-worker-1", "backend", "worker-überall"];

/** Which rows of one index the dice are thrown for, so that the tables do not repeat one another's numbers. */
const TASK = 1;
const TASK_DETAIL = 2;
const RUN = 3;
const QUEUE = 4;
const PLAN = 5;
const EXECUTION = 6;
const EVENT = 7;
const DEPLOYMENT = 8;

/** 2025-09-20T00:00:00Z, and the fifteen days after it, in seconds. */
const BEGINNING = 1_758_326_400;
const SPAN = 15 * 86_400;

/** What the other tables have to know of a task. */
interface TaskCore {
  readonly id: string;
  readonly type: string;
  readonly status: string;
  readonly runs: number;
  /** Seconds since the epoch. */
  readonly created: number;
  /** Of the first run. */
  readonly begun: number;
  readonly updated: number;
  readonly micros: number;
  /** For a part of a plan. */
  readonly plan: QueueCore | null;
}

/** What the other tables have to know of a row of the planning queue. */
interface QueueCore {
  readonly id: string;
  readonly status: string;
  /** Null where it was not planned. */
  readonly planId: string | null;
  readonly created: number;
  readonly assigned: number;
  readonly generated: number;
}

class Platform {
  readonly tasks: number;
  readonly queue: number;
  private readonly dice: Dice;

  constructor(tasks: number, seed: number) {
    this.tasks = Math.max(0, Math.floor(tasks));
    this.queue = Math.ceil(this.tasks * 0.15);
    this.dice = new Dice(seed);
  }

  private task(index: number): TaskCore {
    const { dice } = this;
    dice.reset(index, TASK);
    const type = dice.pick(TYPES);
    const { statuses, runs: shares } = flowOf(type);
    const status = dice.pick(statuses);
    const uuid = dice.uuid();
    const micros = dice.below(1_000_000);
    const created = BEGINNING + Math.floor((index / this.tasks) * SPAN) + dice.below(900);
    const begun = created + 5 + dice.below(1200);
    const updated = NOT_BEGUN.has(status) ? created + dice.below(400) : begun + 120 + dice.below(7200);
    const part = dice.below(40) + 1;
    const drawn = dice.pick(shares);
    const runs = NOT_BEGUN.has(status) && dice.chance(0.3) ? 0 : UNFINISHED.has(status) ? Math.max(1, drawn) : drawn;
    const shape = dice.below(PREFIXES.length * 2);
    if (type !== SUBTASK) {
      return { id: uuid, type, status, runs, created, begun, updated, micros, plan: null };
    }
    const plan = this.planned(Math.floor((index / this.tasks) * this.queue));
    const prefix = PREFIXES[shape];
    const name = prefix === undefined ? String(part) : `${prefix}-${String(part).padStart(3, "0")}`;
    // Its own number keeps the id apart from those of the plan's other parts.
    const id = plan?.planId ? `subtask_${plan.planId}_${name}-${index.toString(36)}` : uuid;
    return { id, type, status, runs, created, begun, updated, micros, plan };
  }

  /** The nearest row of the queue, downwards, that has a plan. */
  private planned(index: number): QueueCore | null {
    for (let i = index; i >= 0; i--) {
      const core = this.queued(i);
      if (core.planId !== null) return core;
    }
    return null;
  }

  taskRow(index: number): Value[] {
    const { dice } = this;
    const core = this.task(index);
    const { id, type, status } = core;
    dice.reset(index, TASK_DETAIL);
    const detail = this.taskDetail(core, index);
    const notBegun = NOT_BEGUN.has(status);
    const isWorkflow = type === "chimera_workflow" || type === "qa_workflow";
    const routed = !isWorkflow && type !== "review" && type !== "deployment";
    const role = type === "frontend" || type === "infra" ? type : "backend";
    const assignee = !routed || (notBegun && type !== SUBTASK) ? null : this.assignee(type, role);
    const assigned = assignee === null || notBegun ? null : isoTime(core.begun - 4, core.micros);
    const began =
      assigned === null || status === "assigned" ? null : isoTime(core.begun, (core.micros * 7) % 1_000_000);
    const failed = status === "failed" || status === "planning_failed";
    const worktree = routed && !notBegun && dice.chance(0.13);
    return [
      id,
      detail.title,
      detail.description,
      type,
      type === SUBTASK ? 50 : dice.pick(PRIORITIES),
      status,
      this.phase(core),
      detail.workflow,
      detail.payload,
      dice.chance(0.03) ? isoTime(core.created, core.micros) : sqlTime(core.created),
      this.updatedAt(core),
      isWorkflow && dice.chance(0.8) ? dice.pick(WORKFLOW_WORKERS) : null,
      null,
      dice.chance(0.85) ? 3 : dice.below(3),
      detail.tags,
      null,
      null,
      null,
      null,
      assignee,
      assigned,
      began,
      failed && dice.chance(0.2) ? "Failed to spawn TEST phase" : null,
      core.runs > 3 ? 1 + dice.below(2) : 0,
      worktree ? `.worktrees/${role}/${id}` : null,
      worktree || type === "user_request" ? "repo" : null,
      null,
    ];
  }

  private assignee(type: string, role: string): string {
    const { dice } = this;
    if (type === "app") return dice.chance(0.6) ? "app:ecosystemiser:health-check" : "app-worker-1";
    if (type === "user_request") return "test-agent";
    if (type === SUBTASK && dice.chance(0.2)) return "app:ecosystemiser";
    return dice.chance(0.7) ? role : `worker:${role}`;
  }

  private phase({ type, status, runs }: TaskCore): string {
    if (type === "app") return runs === 0 ? "start" : "execute";
    if (type === "chimera_workflow")
      return status === "completed" ? "complete" : status === "failed" ? "failed" : "start";
    if (NOT_BEGUN.has(status) || type === "deployment" || type === "qa_workflow") return "start";
    if (status === "completed") return "test";
    if (status === "failed") return "failed";
    return status.startsWith("re") || status === "approved" || status === "escalated" ? "inspect" : "apply";
  }

  /** The deployer writes its local time without an offset, others UTC with one; most go by the database's clock. */
  private updatedAt({ updated, micros, type, status }: TaskCore): string {
    if (type === "deployment" && status !== "deployment_pending" && status !== "queued") {
      return isoTime(updated + 7200, micros, "");
    }
    if (status === "escalated" && micros % 3 === 0) return isoTime(updated, micros, "");
    if (status === "rework_needed" || micros % 25 === 0) return isoTime(updated, micros % 7 === 0 ? 0 : micros);
    return sqlTime(updated);
  }

  private taskDetail(core: TaskCore, index: number): Detail {
    const { dice } = this;
    const { id, type, status, plan } = core;
    const noun = dice.pick(NOUNS);
    const other = dice.pick(NOUNS);
    const foreign = dice.chance(0.04) ? dice.pick(FOREIGN_TITLES) : null;
    const title = foreign === null ? `${dice.pick(VERBS)} ${noun} ${other}` : `${foreign} #${index}`;
    const description = this.description(title);
    switch (type) {
      case SUBTASK: {
        const payload =
          `{"parent_plan_id": "${plan?.planId ?? ""}", "subtask_id": "${id.slice(id.lastIndexOf("_") + 1)}", ` +
          `"assignee": "worker:backend", "complexity": "${dice.pick(COMPLEXITIES)}", ` +
          `"estimated_duration": ${20 + dice.below(240)}, "workflow_phase": "${dice.pick(PHASES)}", ` +
          `"required_skills": ["${noun}", "${other}"], "deliverables": ["${noun}.md"], ` +
          `"dependencies": ${dice.chance(0.5) ? "[]" : `["${dice.pick(PREFIXES)}-001"]`}}`;
        return { title, description, workflow: null, payload, tags: null };
      }
      case "deployment": {
        const payload = this.deployment(`${noun}-service`);
        return { title: `Deploy ${noun}-service`, description, workflow: null, payload, tags: '["deployment"]' };
      }
      case "review": {
        const pr = dice.chance(0.7) ? `"PR#${100 + dice.below(900)}"` : "null";
        const payload =
          `{"code_path": "apps/${noun}/src", "pr_id": ${pr}, "auto_fix": ${dice.chance(0.5)}, ` +
          `"files": {"main.py": "print('h\\u00e9')\\n", "${other}.py": "import ${noun.replaceAll("-", "_")}\\n"}}`;
        return {
          title: `Review PR #${100 + dice.below(900)}`,
          description,
          workflow: null,
          payload,
          tags: '["review"]',
        };
      }
      case "chimera_workflow":
        return this.chimera(foreign ?? `User can see the ${noun} ${other}`, noun, status);
      case "qa_workflow":
        return this.qa(noun, other);
      case "app": {
        const payload =
          `{"app_name": "ecosystemiser", "task_name": "fetch-${noun}-data", "location": "51.5074,-0.1278", ` +
          `"variables": ["temp_air", "ghi"], "period": {"start": "2025-01-01", "end": "2025-12-${10 + dice.below(20)}"}}`;
        return { title, description, workflow: null, payload, tags: '["ecosystemiser", "app"]' };
      }
      case "test":
      case "user_request": {
        const payload =
          `{"context_data": {"complexity": "${dice.pick(COMPLEXITIES)}"}, "depends_on": [], "metadata": {}, ` +
          `"requestor": "${dice.chance(0.1) ? "fl\\u00f6raldo" : "unknown"}"}`;
        return { title: description.slice(0, 50), description, workflow: null, payload, tags: '["async"]' };
      }
      default: {
        const named = type === "backend" || type === "frontend" || type === "infra";
        const role = type === "frontend" || type === "infra" ? type : "backend";
        return {
          title,
          description,
          workflow: named || dice.chance(0.4) ? phases(role) : null,
          payload: this.code(noun, other),
          tags: dice.chance(0.75) ? `["${role}", "${noun}"]` : null,
        };
      }
    }
  }

  private description(title: string): string {
    const { dice } = this;
    const kind = dice.below(100);
    if (kind < 3) return "";
    if (kind < 7) return title;
    if (kind < 30) {
      const nouns = [dice.pick(NOUNS), dice.pick(NOUNS), dice.pick(NOUNS), dice.pick(NOUNS)];
      return `Requirements:\n1. ${nouns[0]}\n2. ${nouns[1]}\n2. ${nouns[2]}\n2. ${nouns[3]}`;
    }
    return kind < 96 ? REQUIREMENT : REQUIREMENT.repeat(3 + dice.below(8));
  }

  private code(noun: string, other: string): string | null {
    const { dice } = this;
    if (dice.chance(0.12)) return null;
    if (dice.chance(0.5)) {
      return (
        `{"requirements": ["${noun}", "${other}", "${dice.pick(NOUNS)}"], "framework": "${dice.pick(FRAMEWORKS)}", ` +
        `"expected_quality": "${dice.pick(QUALITIES)}", "notes": "${REQUIREMENT.trim()}"}`
      );
    }
    return (
      `{"files": {"${noun}.py": "def f(x):\\n    return x  # \\u00fc\\n", "tests/test_${other}.py": ` +
      `"def test_f():\\n    assert f(1) == 1\\n"}, "test_results": {"passed": ${dice.below(42)}, ` +
      `"failed": ${dice.below(4)}}, "coverage": ${(dice.below(9999) / 100).toFixed(1)}}`
    );
  }

  private deployment(service: string): string {
    const { dice } = this;
    const strategy = dice.pick(STRATEGIES);
    switch (dice.below(4)) {
      case 0:
        return (
          `{"service_name": "${service}", "environment": "${dice.chance(0.5) ? "production" : "test"}", ` +
          `"deployment_strategy": "${strategy}", "commit_sha": "${dice.hex(40)}", "health_endpoint": "/health", ` +
          `"run_smoke_tests": true}`
        );
      case 1:
        return (
          `{"app_name": "${service}", "environment": {"platform": "kubernetes", "has_load_balancer": true}, ` +
          `"deployment_strategy": "${strategy}", "docker_image": {"name": "${service}", "tag": "1.2.3"}, ` +
          `"k8s_namespace": "default"}`
        );
      case 2:
        return (
          `{"project_name": "${service}", "requirements": {"framework": "Flask"}, "deployment": {"strategy": ` +
          `"${strategy}", "environment": "test", "port": 5000, "auto_deploy": true}}`
        );
      default:
        return `{"ssh_config": {"host": "10.0.0.${dice.below(250)}", "username": "deploy"}, "source_path": "/srv/${service}"}`;
    }
  }

  private chimera(feature: string, noun: string, status: string): Detail {
    const { dice } = this;
    const quoted = python(feature);
    const url = `"https://myapp.dev/${noun}"`;
    const done = status === "completed";
    const phase = done ? "complete" : status === "failed" ? "failed" : "e2e_test_generation";
    const workflow =
      `{"feature_description": ${quoted}, "target_url": ${url}, "staging_url": null, "current_phase": "${phase}", ` +
      `"test_path": "tests/e2e/test_${noun}.py", "test_generation_result": {"status": "success", "lines_of_code": ` +
      `${150 + dice.below(50)}}, "code_pr_id": ${done ? `"PR#${dice.below(999)}"` : "null"}, "code_commit_sha": ` +
      `${done ? `"${dice.hex(40)}"` : "null"}, "code_implementation_result": {"files_modified": ["app.py", "${noun}.py"]}, ` +
      `"review_decision": ${done ? '"approved"' : "null"}, "review_result": ${done ? '{"decision": "approved", "score": 1.0}' : "null"}, ` +
      `"deployment_url": ${done ? '"https://staging.myapp.dev"' : "null"}, "deployment_result": null, "validation_status": ` +
      `null, "validation_result": null, "retry_count": 0, "max_retries": 3, "error_message": ` +
      `${status === "failed" ? '"Phase timed out"' : "null"}}`;
    return {
      title: `Chimera: ${feature}`,
      description: feature,
      workflow,
      payload: `{"feature_description": ${quoted}, "target_url": ${url}, "staging_url": null}`,
      tags: null,
    };
  }

  private qa(noun: string, other: string): Detail {
    const { dice } = this;
    const count = 1 + dice.below(5);
    const found: string[] = [];
    for (let i = 0; i < count; i++) {
      found.push(
        `{"type": "${dice.chance(0.5) ? "E501" : "GR35"}", "file": "apps/${i % 2 === 0 ? noun : other}/main.py", ` +
          `"line": ${1 + dice.below(900)}, "message": "line too long (121 > 120)"}`,
      );
    }
    const violations = `[${found.join(", ")}]`;
    const workflow =
      `{"workflow_type": "qa_workflow", "current_phase": "detect_violations", "violations": ${violations}, ` +
      `"rag_context": [], "qa_type": "golden_rules", "scope": ".", "severity_level": "ERROR", "detection_result": null, ` +
      `"fix_result": null, "validation_result": null, "commit_result": null, "error_message": null, "escalated": false}`;
    return {
      title: `QA Workflow: golden_rules (${count} violations)`,
      description: `Auto-fix ${count} golden_rules violations in .`,
      workflow,
      payload: `{"violations": ${violations}, "qa_type": "golden_rules", "scope": "."}`,
      tags: null,
    };
  }

  workerRow(index: number): Value[] {
    const worker = WORKERS[index];
    if (worker === undefined) throw new RangeError(`There is no worker ${index}.`);
    const task = worker.busy && this.tasks > index ? this.task(index).id : null;
    const { id, role, status, capabilities, metadata } = worker;
    const heartbeat = sqlTime(BEGINNING + SPAN - index * 90);
    return [id, role, status, heartbeat, capabilities, task, metadata, sqlTime(BEGINNING + index * 3600)];
  }

  runRows(index: number, emit: Emit): void {
    const core = this.task(index);
    if (core.runs === 0) return;
    const { dice } = this;
    const { id: taskId, status: taskStatus, type } = core;
    const step = Math.max(60, Math.floor((core.updated - core.begun) / core.runs));
    dice.reset(index, RUN);
    const worker = type === "app" ? "app-worker-1" : dice.pick(RUNNERS);
    for (let number = 1; number <= core.runs; number++) {
      const id = dice.uuid();
      const last = number === core.runs;
      const running = last && (taskStatus === "in_progress" || taskStatus === "running");
      const drawn = dice.pick(RUN_STATUSES);
      const status = running ? "running" : last && taskStatus === "completed" ? "success" : drawn;
      const waiting = running || status === "pending";
      const phase =
        number === 1 && dice.chance(0.1) ? "init" : number % 3 === 2 ? "inspect" : number % 3 === 0 ? "test" : "apply";
      const started = core.begun + (number - 1) * step;
      const ended = started + Math.floor(step * 0.8);
      const failed = status !== "success" && status !== "completed" && !waiting;
      const output = dice.below(100);
      emit([
        id,
        taskId,
        worker,
        number,
        status,
        phase,
        sqlTime(started),
        waiting || dice.chance(0.2) ? null : sqlTime(ended),
        waiting ? null : phase === "inspect" ? this.inspection() : this.result(core, id, worker, phase, status, ended),
        failed && dice.chance(0.8) ? dice.pick(ERRORS) : null,
        output < 20 ? "ok\n".repeat(5 + output) : null,
        output >= 97 ? '{"type":"system","subtype":"init"}\n'.repeat(10 + dice.below(60)) : null,
      ]);
    }
  }

  private inspection(): string {
    const { dice } = this;
    const score = 40 + dice.below(60);
    const issues = dice.below(5);
    const named: string[] = [];
    for (let i = 0; i < Math.min(issues, 3); i++) named.push(`"${dice.pick(ISSUES)}"`);
    return (
      `{"inspection_report": {"summary": {"quality_score": ${dice.chance(0.1) ? `${score}.5` : score}, "recommendation": ` +
      `"${score < 70 ? "rework" : "approve"}", "total_issues": ${issues}}, "issues": [${named.join(", ")}]}}`
    );
  }

  private result(task: TaskCore, id: string, worker: string, phase: string, status: string, ended: number): string {
    const { dice } = this;
    const good = status === "success" || status === "completed";
    const name = python(worker).slice(1, -1);
    const created = `"src/${dice.pick(NOUNS)}.py", "src/${dice.pick(NOUNS)}.py"`;
    return (
      `{"task_id": "${task.id}", "run_id": "${id}", "worker": "${name}", "phase": "${phase}", "workspace": ` +
      `"C:\\\\git\\\\hive\\\\.worktrees\\\\${name}\\\\${task.id}", "timestamp": "${isoTime(ended, task.micros)}", ` +
      `"status": "${status}", "notes": "${good ? "Claude completed successfully" : "Claude exit code 1"}", "next_state": ` +
      `"${good ? "completed" : "failed"}", "files": {"created": [${dice.chance(0.6) ? created : ""}], "modified": ` +
      `["tests/test_${dice.pick(NOUNS)}.py"]}, "git": {"branch": "agent/${name}/${phase}", "commit_sha": "${dice.hex(40)}"}, ` +
      `"claude_completed": ${good}, "exit_code": ${good ? 0 : 1}, "output_lines": ${dice.below(1000)}, "duration": ` +
      `${dice.below(300)}.0, "summary": "Geb\\u00e4ude: ${dice.pick(VERBS)} ${dice.pick(NOUNS)} \\u2014 ok", "tokens": {"input": ${dice.below(90_000)}, ` +
      `"output": ${dice.below(9_000)}}}`
    );
  }

  private queued(index: number): QueueCore {
    const { dice } = this;
    dice.reset(index, QUEUE);
    const created = BEGINNING + Math.floor((index / this.queue) * SPAN) + dice.below(600);
    const assigned = created + 60 + dice.below(600);
    const kind = dice.below(100);
    const id =
      kind < 45
        ? dice.uuid()
        : kind < 75
          ? `integration-test-${dice.hex(8)}-${index.toString(36)}`
          : `master-todo-app-${sqlTime(created).replace(/[-:]/g, "").replace(" ", "-")}-${index}`;
    const status = dice.pick(QUEUE_STATUSES);
    const planId =
      status !== "planned" ? null : kind < 30 ? dice.uuid() : kind < 40 ? `mock-plan-${dice.hex(8)}` : `plan_${id}`;
    return { id, status, planId, created, assigned, generated: assigned + 60 + dice.below(900) };
  }

  queueRow(index: number): Value[] {
    const { dice } = this;
    const core = this.queued(index);
    const waiting = core.status === "pending";
    const open = waiting || core.status === "assigned" || core.status === "in_progress";
    const micros = dice.below(1_000_000);
    const requestor = dice.below(10);
    const context = dice.chance(0.8)
      ? `{"files_affected": ${dice.below(30)}, "dependencies": ["${dice.pick(NOUNS)}", "${dice.pick(NOUNS)}"], ` +
        `"tech_stack": ["python", "sqlite"]}`
      : `{"constraints": [${python(dice.pick(FOREIGN_TITLES))}], "team_size": ${dice.below(9)}}`;
    return [
      core.id,
      `${dice.pick(VERBS)} ${dice.pick(NOUNS)} ${dice.pick(NOUNS)} — ${dice.pick(NOUNS)} ${dice.pick(NOUNS)}`,
      dice.chance(0.45) ? 50 : dice.chance(0.01) ? null : dice.below(101),
      requestor < 5 ? "user" : requestor < 8 ? "integration-test" : requestor < 9 ? null : "flöraldo",
      context,
      core.status,
      dice.chance(0.4) ? null : dice.pick(COMPLEXITIES),
      dice.chance(0.25) ? isoTime(core.created, micros) : sqlTime(core.created),
      waiting ? null : isoTime(core.assigned, micros),
      open ? null : isoTime(core.generated + 300, (micros * 3) % 1_000_000),
      waiting ? null : "ai-planner-6da51c70",
    ];
  }

  planRows(index: number, emit: Emit): void {
    const core = this.queued(index);
    if (core.planId === null) return;
    const { dice } = this;
    dice.reset(index, PLAN);
    const count = dice.chance(0.05) ? 15 + dice.below(26) : 3 + dice.below(6);
    const status = dice.pick(PLAN_STATUSES);
    const generated = isoTime(core.generated, dice.below(1_000_000));
    let total = 0;
    let parts = "";
    let edges = "";
    const prefix = dice.pick(PREFIXES);
    for (let i = 1; i <= count; i++) {
      const minutes = 20 + dice.below(240);
      total += minutes;
      const name = `${prefix}-${String(i).padStart(3, "0")}`;
      const before = i === 1 ? "" : `"${prefix}-${String(i - 1).padStart(3, "0")}"`;
      parts +=
        `${i === 1 ? "" : ", "}{"id": "${name}", "title": "${dice.pick(VERBS)} ${dice.pick(NOUNS)} ${dice.pick(NOUNS)}", ` +
        `"description": "${REQUIREMENT.trim()}\\n", "assignee": "worker:backend", "estimated_duration": ${minutes}, ` +
        `"complexity": "${dice.pick(COMPLEXITIES)}", "dependencies": [${before}], "workflow_phase": "${dice.pick(PHASES)}", ` +
        `"required_skills": ["${dice.pick(NOUNS)}"], "deliverables": ["${dice.pick(NOUNS)}.md"]}`;
      if (i > 1) edges += `${i === 2 ? "" : ", "}"${name}": [${before}]`;
    }
    const planName = dice.chance(0.1)
      ? python(`${dice.pick(FOREIGN_TITLES)} #${index}`)
      : `"${dice.pick(VERBS)} ${dice.pick(NOUNS)}"`;
    const data =
      `{"plan_id": "${core.planId}", "plan_name": ${planName}, "plan_summary": "Executive summary", "sub_tasks": [${parts}], ` +
      `"dependencies": {"graph": {${edges}}}, "workflow": {"lifecycle_phases": ["analysis", "design", "implementation", ` +
      `"testing", "validation"], "validation_gates": {"testing": ["tests_pass"]}, "rollback_strategy": "git revert"}, ` +
      `"metrics": {"total_estimated_duration": ${total}, "critical_path_duration": 60, "confidence_score": 0.9, ` +
      `"risk_factors": []}, "recommendations": [], "task_id": "${core.id}", "created_at": "${generated}", "status": ` +
      `"generated", "metadata": {"generator": "ai-planner-v2-claude", "generation_method": "claude-powered", ` +
      `"claude_confidence": 0.0}}`;
    emit([core.planId, core.id, data, total, dice.chance(0.7) ? "complex" : "medium", 0, 0, generated, status]);
  }

  executionRows(index: number, emit: Emit): void {
    const core = this.queued(index);
    if (core.planId === null) return;
    const { dice } = this;
    dice.reset(index, EXECUTION);
    if (!dice.chance(0.44)) return;
    const progress = dice.chance(0.6) ? 100 : dice.below(100);
    const note = `[{"at": "${isoTime(core.generated, 0)}", "note": ${python(dice.pick(FOREIGN_TITLES))}}]`;
    emit([
      dice.uuid(),
      core.planId,
      dice.pick(PHASES),
      progress,
      progress === 100 ? "[]" : '["2"]',
      '["1"]',
      "[]",
      "[]",
      dice.chance(0.3) ? note : null,
      sqlTime(core.generated + 1),
      sqlTime(core.generated + 300),
      progress === 100 ? sqlTime(core.generated + 600) : null,
    ]);
  }

  eventRows(index: number, emit: Emit): void {
    const core = this.task(index);
    if (core.runs === 0) return;
    const { dice } = this;
    const { id, status } = core;
    dice.reset(index, EVENT);
    const event = (name: string, agent: string, at: number, payload: string) => {
      const type = dice.chance(0.7) ? `TaskEventType.${name.toUpperCase()}` : `task.${name}`;
      emit([dice.uuid(), type, isoTime(at, core.micros), agent, `workflow_${id}`, payload, "{}", sqlTime(at)]);
    };
    const ending = ENDINGS.get(status);
    event("assigned", "queen", core.begun - 4, `{"phase": "apply", "task_id": "${id}", "task_status": "assigned"}`);
    if (dice.chance(0.6)) event("started", "queen", core.begun, `{"task_id": "${id}", "task_status": "in_progress"}`);
    if (ending === undefined) return;
    if (ending === "review_completed") {
      const score = (40 + dice.below(6000) / 100).toFixed(2);
      event("review_requested", "queen", core.updated - 60, `{"current_phase": "inspect", "task_id": "${id}"}`);
      const payload = `{"review_score": ${score}, "review_summary": "Solid work.", "new_status": "${status}", "task_id": "${id}"}`;
      event(status === "escalated" ? "escalated" : ending, "ai-reviewer", core.updated, payload);
      return;
    }
    event(ending, "queen", core.updated, `{"current_phase": "test", "task_id": "${id}", "assignee": null}`);
  }

  deploymentRows(index: number, emit: Emit): void {
    const core = this.task(index);
    if (core.type !== "deployment" || NOT_BEGUN.has(core.status)) return;
    const { dice } = this;
    dice.reset(index, DEPLOYMENT);
    const deployment = `"deployment_id": "deploy-${core.id}-${dice.below(1_000_000)}"`;
    const at = (seconds: number) => isoTime(seconds + 7200, core.micros, "");
    emit([core.id, "deployment_started", `{${deployment}, "strategy": "${dice.pick(STRATEGIES)}"}`, at(core.begun)]);
    if (core.status === "deploying") return;
    const good = core.status === "deployed";
    const outcome = good ? "completed" : core.status === "rolled_back" ? "rolled_back" : "failed";
    const details = `{${deployment}, "duration": ${(dice.below(40_000) / 100).toFixed(2)}, "error": ${good ? "null" : '"health check failed"'}}`;
    emit([core.id, `deployment_${outcome}`, details, at(core.updated)]);
  }
}

interface Detail {
  readonly title: string;
  readonly description: string;
  readonly workflow: string | null;
  readonly payload: string | null;
  readonly tags: string | null;
}

/** The last event of a task in this status; none while it is on its way. */
const ENDINGS: ReadonlyMap<string, string> = new Map([
  ["completed", "completed"],
  ["failed", "failed"],
  ["review_pending", "review_requested"],
  ["approved", "review_completed"],
  ["rejected", "review_completed"],
  ["rework_needed", "review_completed"],
  ["escalated", "review_completed"],
]);

const WORKFLOWS = new Map<string, string>();

/** The queen's workflow, which says how each phase is run and what follows it. */
function phases(role: string): string {
  let text = WORKFLOWS.get(role);
  if (text === undefined) {
    const command = (phase: string) =>
      `"command_template": "python -m hive_orchestrator.worker ${role} --task-id {task_id} --run-id {run_id} --phase ${phase} --one-shot"`;
    text =
      `{"start": {"next_phase_on_success": "plan"}, "plan": {${command("plan")}, "next_phase_on_success": "apply"}, ` +
      `"apply": {${command("apply")}, "next_phase_on_success": "inspect", "next_phase_on_failure": "failed"}, ` +
      `"inspect": {"command_template": "python scripts/inspect_run.py --run-id {run_id}", "next_phase_on_success": ` +
      `"review_pending", "next_phase_on_failure": "review_pending"}, "rework": {${command("rework")}, ` +
      `"next_phase_on_success": "inspect", "next_phase_on_failure": "failed"}, "test": {${command("test")}, ` +
      `"next_phase_on_success": "completed", "next_phase_on_failure": "apply"}}`;
    WORKFLOWS.set(role, text);
  }
  return text;
}

/** A text as Python's json.dumps writes it: everything beyond ASCII escaped. */
function python(text: string): string {
  const quoted = JSON.stringify(text);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the whole of ASCII is meant
  if (/^[\u0000-\u007f]*$/.test(quoted)) return quoted;
  return quoted.replace(/[\u0080-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

const TWO = Array.from({ length: 100 }, (_, i) => String(i).padStart(2, "0"));
const HEX = Array.from({ length: 256 }, (_, i) => i.toString(16).padStart(2, "0"));

/** 32 bits as eight digits. */
function eight(bits: number): string {
  return `${HEX[bits >>> 24]}${HEX[(bits >>> 16) & 255]}${HEX[(bits >>> 8) & 255]}${HEX[bits & 255]}`;
}

const DAYS = new Map<number, string>();

function day(seconds: number): string {
  const number = Math.floor(seconds / 86_400);
  let text = DAYS.get(number);
  if (text === undefined) {
    text = new Date(number * 86_400_000).toISOString().slice(0, 10);
    DAYS.set(number, text);
  }
  return text;
}

function clock(seconds: number): string {
  const left = seconds % 86_400;
  return `${TWO[Math.floor(left / 3600)]}:${TWO[Math.floor(left / 60) % 60]}:${TWO[left % 60]}`;
}

/** `YYYY-MM-DD HH:MM:SS`, as SQLite's CURRENT_TIMESTAMP. */
function sqlTime(seconds: number): string {
  return `${day(seconds)} ${clock(seconds)}`;
}

/** As Python's isoformat(): no fraction where there is none. */
function isoTime(seconds: number, micros: number, offset = "+00:00"): string {
  const fraction = micros === 0 ? "" : `.${String(micros).padStart(6, "0")}`;
  return `${day(seconds)}T${clock(seconds)}${fraction}${offset}`;
}

/**
 * Numbers that look random and follow from the seed and what they are thrown for: mulberry32 (Tommy Ettinger, 2017,
 * public domain), started from a mix of both.
 */
class Dice {
  private readonly seed: number;
  private state = 0;
  private start = 0;

  constructor(seed: number) {
    this.seed = Math.imul(Math.floor(seed) | 0, 0x9e3779b1);
  }

  reset(index: number, purpose: number): void {
    let mixed = this.seed ^ Math.imul(index + 1, 0x85ebca6b) ^ Math.imul(purpose, 0xc2b2ae35);
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x7feb352d);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x846ca68b);
    this.start = mixed ^ (mixed >>> 16);
    this.state = this.start;
  }

  private bits(): number {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.state ^ (this.state >>> 15), this.state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  }

  /** 0 … count − 1 */
  below(count: number): number {
    return Math.floor((this.bits() / 4_294_967_296) * count);
  }

  chance(share: number): boolean {
    return this.bits() < share * 4_294_967_296;
  }

  pick<T>(list: readonly T[]): T {
    const found = list[this.below(list.length)];
    if (found === undefined) throw new RangeError("There is nothing to pick from.");
    return found;
  }

  private eight(): string {
    return eight(this.bits());
  }

  hex(digits: number): string {
    let text = "";
    while (text.length < digits) text += this.eight();
    return text.slice(0, digits);
  }

  /**
   * Version 4, variant 8. Ends with where the dice started, which no other row of the same purpose has: with 32 bits of
   * state alone, some of a million rows would meet.
   */
  uuid(): string {
    const a = this.eight();
    const b = this.eight();
    const c = this.eight();
    return `${a}-${b.slice(0, 4)}-4${b.slice(5)}-8${c.slice(1, 4)}-${c.slice(4)}${eight(this.start)}`;
  }
}
