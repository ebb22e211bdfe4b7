import type { Aggregate, BridgedEvent, DataRow, DerivationRules, DerivedEvent, Value } from "../../sync/mapping.ts";
import { asObject, parseJson } from "./json.ts";
import { readNote } from "./legacy-values.ts";
import { cleanWord, QUEUE_STATUS_DOWN, STATUS_UP, taskStatusDown } from "./vocabulary.ts";

/**
 * The platform's flows as events, for agents that tell none themselves: what became of a task, of a request for a plan,
 * of a plan. A status that has no event of its own is told as `task.progress`, so that the events of a task always end
 * with the status that it has. Two words of the agents for one thing (running, in_progress) are told once.
 */

const REVIEWER = "ai-reviewer";
const PLANNER = "ai-planner";
const DEPLOYER = "ai-deployer";

type Payload = { readonly [member: string]: unknown };
/** The parts of the payload that an event has besides what all have. */
type Part = "review" | "deployment" | "workflow" | "failure" | "phase" | "reason" | "plan";

interface Telling {
  readonly type: string;
  /** Default: the agent whose aggregate it is. */
  readonly by?: string;
  readonly parts?: readonly Part[];
  readonly more?: Payload;
}

/** What is told when a status is entered. Equal texts are the same news. */
class News {
  readonly text: string;
  readonly tellings: readonly Telling[];

  constructor(...tellings: readonly Telling[]) {
    this.tellings = tellings;
    this.text = tellings.map(({ type, by = "", more }) => `${type}@${by}${more ? JSON.stringify(more) : ""}`).join();
  }
}

const NOTHING = new News();

function deployment(type: string, ...parts: readonly Part[]): Telling {
  return { type: `deployment.${type}`, by: DEPLOYER, parts: ["deployment", ...parts] };
}

function review(type: string, more?: Payload): Telling {
  return { type: `review.${type}`, by: REVIEWER, parts: ["review"], ...(more && { more }) };
}

const REJECTED = new News(review("completed"), review("rejected"));
const APPROVED = new News(review("completed"), review("approved"));
const STARTED = new Map([
  ["workflow", new News({ type: "workflow.started", parts: ["workflow"] })],
  ["deploy", new News(deployment("in_progress"))],
  ["", new News({ type: "task.started", parts: ["phase"] })],
]);
const COMPLETED = new Map([
  ["workflow", new News({ type: "workflow.completed", parts: ["workflow"] })],
  ["deploy", new News(deployment("completed"))],
  ["review", new News(review("completed"))],
  ["plan", new News({ type: "plan.generated", by: PLANNER })],
  ["", new News({ type: "task.completed" })],
]);
const FAILED = new Map([
  ["workflow", new News({ type: "workflow.failed", parts: ["workflow", "failure"] })],
  ["deploy", new News(deployment("failed", "failure"))],
  ["", new News({ type: "task.failed", parts: ["failure"] })],
]);

/** By the agents' word and, where that matters, by the task's type; "" is any other type. */
const TASK_NEWS: ReadonlyMap<string, ReadonlyMap<string, News> | News> = new Map<
  string,
  ReadonlyMap<string, News> | News
>([
  ["assigned", new News({ type: "task.assigned" })],
  ["in_progress", STARTED],
  ["running", STARTED],
  ["deploying", STARTED],
  ["planning_in_progress", new News({ type: "plan.requested", by: PLANNER })],
  ["planned", new News({ type: "plan.generated", by: PLANNER })],
  ["planning_failed", new News({ type: "task.failed", by: PLANNER, parts: ["failure"] })],
  ["review_pending", new News(review("requested"))],
  ["escalated", new News(review("requested", { requires_human: true }))],
  ["review_in_progress", new News(review("in_progress"))],
  ["approved", APPROVED],
  ["review_approved", APPROVED],
  ["rejected", REJECTED],
  ["review_rejected", REJECTED],
  [
    "rework_needed",
    new News(review("completed", { reason: "rework needed" }), review("rejected", { reason: "rework needed" })),
  ],
  ["review_failed", new News({ type: "task.failed", by: REVIEWER, parts: ["failure"] })],
  ["deployment_pending", new News(deployment("requested"))],
  ["deployed", new News(deployment("completed"))],
  ["deployment_failed", new News(deployment("failed", "failure"))],
  ["rolled_back", new News(deployment("rolled_back", "reason"))],
  ["completed", COMPLETED],
  ["failed", FAILED],
  ["cancelled", new News({ type: "task.cancelled" })],
]);

function taskNews(word: string, type: string): News {
  const news = TASK_NEWS.get(word) ?? NOTHING;
  return news instanceof News ? news : (news.get(type) ?? news.get("") ?? NOTHING);
}

const QUEUE_ASSIGNED = new News({ type: "task.assigned" });
/** Of a request for a plan, by its unified status. */
const QUEUE_NEWS: ReadonlyMap<string, News> = new Map([
  ["running", new News({ type: "task.started" })],
  ["completed", new News({ type: "task.completed" })],
  ["failed", new News({ type: "task.failed" })],
  ["cancelled", new News({ type: "task.cancelled" })],
]);

/** Of a plan, by its unified status. */
const PLAN_NEWS: ReadonlyMap<string, News> = new Map([
  ["queued", new News({ type: "plan.approved", parts: ["plan"] })],
  ["running", new News({ type: "plan.execution_started", parts: ["plan"] })],
  ["completed", new News({ type: "plan.execution_completed", parts: ["plan"] })],
  ["failed", new News({ type: "workflow.failed", parts: ["plan"] })],
  ["cancelled", new News({ type: "task.cancelled", parts: ["plan"] })],
]);

/** What counts of an aggregate, and what its text is made of. */
interface Seen {
  /** The unified one. */
  readonly status: string;
  readonly phase: string;
  readonly news: string;
}

const stateText = ({ status, phase, news }: Seen) => JSON.stringify([status, phase, news]);

function seenIn(state: string): Seen {
  const [status, phase, news]: unknown[] = JSON.parse(state);
  return { status: String(status), phase: String(phase), news: String(news) };
}

/**
 * The status in the agents' own word where that still holds, else the word for the unified one, which does not say what was
 * assigned or rolled back.
 */
function wordOf(row: DataRow, words: ReadonlyMap<string, string>, down: (status: string) => string): string {
  const own = cleanWord(readNote(row).legacy.status);
  const status = text(row.status) ?? "";
  return own !== "" && (words.get(own) ?? "pending") === status ? own : down(status);
}

function rootOf(unified: Aggregate | null): DataRow {
  return unified?.unified_tasks?.[0] ?? {};
}

function text(value: Value | undefined): string | null {
  return typeof value === "string" && value !== "" ? value : null;
}

function numberOf(value: Value | undefined): number | null {
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : null;
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/** The events that an aggregate gets, with what it is afterwards. */
class Story {
  readonly events: DerivedEvent[] = [];
  readonly row: DataRow;
  private readonly unified: Aggregate;
  private readonly phase: string;

  constructor(unified: Aggregate, phase = "") {
    this.unified = unified;
    this.row = rootOf(unified);
    this.phase = phase;
  }

  tell({ type, by, parts = [], more }: Telling): void {
    const { row } = this;
    const correlationId = text(row.correlation_id);
    const payload = {
      task_id: text(row.id),
      task_type: text(row.task_type),
      agent_type: text(row.agent_type),
      status: text(row.status),
      ...Object.assign({}, ...parts.map((part) => this.part(part))),
      ...more,
    };
    this.events.push({
      type,
      payload,
      ...(by !== undefined && { sourceAgent: by }),
      ...(correlationId !== null && { correlationId }),
    });
  }

  /** What is told on entering a status; what has no event of its own is told as progress. */
  enter(news: News, otherwise: Telling): void {
    for (const telling of news.tellings) this.tell(telling);
    if (news.tellings.length === 0) this.tell(otherwise);
  }

  private part(part: Part): Payload {
    const { row, unified, phase } = this;
    switch (part) {
      case "review": {
        const own = unified.unified_review_tasks?.[0];
        return { code_path: text(own?.code_path), pr_id: text(own?.pr_id), review_score: numberOf(own?.review_score) };
      }
      case "deployment": {
        const own = unified.unified_deployment_tasks?.[0];
        return {
          service_name: text(own?.service_name),
          environment: text(own?.environment),
          strategy: text(own?.strategy),
        };
      }
      case "workflow": {
        const own = unified.unified_workflow_tasks?.[0];
        return {
          workflow_type: text(own?.workflow_type),
          current_phase: phase,
          total_phases: numberOf(own?.total_phases),
        };
      }
      case "failure":
        return { error: text(row.error_message), retry_count: numberOf(row.retry_count) };
      case "phase":
        return { phase };
      case "reason":
        return { reason: text(row.error_message) };
      case "plan":
        return { plan_id: text(row.id) };
    }
  }
}

/** What a task that appears, and waits, asks for besides. */
const REQUESTED: ReadonlyMap<string, Telling> = new Map([
  ["review", review("requested")],
  ["deploy", deployment("requested")],
  ["plan", { type: "plan.requested", by: PLANNER }],
]);

function taskSeen(unified: Aggregate): Seen {
  const row = rootOf(unified);
  const type = text(row.task_type) ?? "";
  const word = wordOf(row, STATUS_UP.task, (status) => taskStatusDown(status, type));
  const phase = unified.unified_workflow_tasks?.[0]?.current_phase ?? readNote(row).legacy.current_phase;
  return { status: text(row.status) ?? "", phase: text(phase) ?? "", news: taskNews(word, type).text };
}

export const taskEvents: DerivationRules = {
  state: (unified) => stateText(taskSeen(unified)),
  transitions(before, after, unified) {
    if (after === null || unified?.unified_tasks?.[0] === undefined) return [];
    const row = rootOf(unified);
    const was = before === null ? null : seenIn(before);
    const is = seenIn(after);
    const type = text(row.task_type) ?? "";
    const news = taskNews(
      wordOf(row, STATUS_UP.task, (status) => taskStatusDown(status, type)),
      type,
    );
    const story = new Story(unified, is.phase);
    if (was === null) {
      const title = asObject(parseJson(text(row.input_data) ?? "null"))?.title;
      const said = { title: typeof title === "string" ? title : null, priority: numberOf(row.priority) };
      story.tell({ type: "task.created", parts: ["phase"], more: said });
      const waits = news === NOTHING && (is.status === "queued" || is.status === "pending");
      const request = waits ? REQUESTED.get(type) : undefined;
      for (const telling of request ? [request] : news.tellings) story.tell(telling);
      return story.events;
    }
    const phased = was.phase !== is.phase;
    if (phased && type === "workflow") {
      story.tell({ type: "workflow.phase_completed", parts: ["workflow"], more: { phase: was.phase } });
    }
    // Back to the queue, with the next phase or for another try; or a status that nobody knows.
    const progress: Telling = { type: "task.progress", parts: ["phase"] };
    if (was.status !== is.status || was.news !== is.news) story.enter(news, progress);
    else if (phased && type !== "workflow") story.tell(progress);
    return story.events;
  },
};

function queueNews(row: DataRow): News {
  const word = wordOf(row, STATUS_UP.queue, (status) => QUEUE_STATUS_DOWN.get(status) ?? status);
  return word === "assigned" ? QUEUE_ASSIGNED : (QUEUE_NEWS.get(text(row.status) ?? "") ?? NOTHING);
}

/** What the planner is asked to plan: the plan itself, once there is one, tells that it was made. */
export const queueEvents: DerivationRules = {
  state(unified) {
    const row = rootOf(unified);
    return stateText({ status: text(row.status) ?? "", phase: "", news: queueNews(row).text });
  },
  transitions(before, after, unified) {
    if (after === null || unified?.unified_tasks?.[0] === undefined) return [];
    const row = rootOf(unified);
    const story = new Story(unified);
    if (before === null) {
      const input = asObject(parseJson(text(row.input_data) ?? "null"));
      const said = (value: unknown) => (typeof value === "string" ? value : null);
      const more = { description: said(input?.description), requestor: said(input?.requestor) };
      story.tell({ type: "plan.requested", by: PLANNER, more });
      if (row.status === "pending") return story.events;
    }
    story.enter(queueNews(row), { type: "task.progress" });
    return story.events;
  },
};

function planNews(row: DataRow): News {
  return PLAN_NEWS.get(text(row.status) ?? "") ?? NOTHING;
}

export const planEvents: DerivationRules = {
  state(unified) {
    const row = rootOf(unified);
    return stateText({ status: text(row.status) ?? "", phase: "", news: planNews(row).text });
  },
  transitions(before, after, unified) {
    if (after === null || unified?.unified_tasks?.[0] === undefined) return [];
    const row = rootOf(unified);
    const story = new Story(unified);
    if (before === null) {
      const subtasks = numberOf(unified.unified_workflow_tasks?.[0]?.total_phases);
      story.tell({ type: "plan.generated", by: PLANNER, parts: ["plan"], more: { subtask_count: subtasks } });
      if (row.status === "review_pending" || row.status === "pending") return story.events;
    }
    story.enter(planNews(row), { type: "task.progress", parts: ["plan"] });
    return story.events;
  },
};

/** Agents as the legacy table names them. */
const NAMES: ReadonlyMap<string, string> = new Map([["queen", "orchestrator"]]);

/** The agent that a row of the legacy events names, whichever of its names that is. */
export function legacySource(value: Value | undefined, agents: ReadonlySet<string>): string | null {
  if (typeof value !== "string") return null;
  const name = value
    .trim()
    .toLowerCase()
    .replaceAll("_", "-")
    .replace(/-adapter$/, "");
  return NAMES.get(name) ?? (agents.has(name) ? name : null);
}

/** A row of the legacy events as an event. */
export function legacyEvent(row: DataRow): BridgedEvent {
  const payload = typeof row.payload === "string" ? asObject(parseJson(row.payload)) : null;
  const task = payload?.task_id ?? payload?.plan_id;
  const subject = typeof task === "number" ? String(task) : typeof task === "string" && task !== "" ? task : null;
  return {
    type: row.event_type ?? null,
    correlationId: row.correlation_id ?? null,
    subject,
    payload: row.payload ?? null,
    metadata: row.metadata ?? null,
    occurredAt: text(row.timestamp) ?? row.created_at ?? null,
  };
}
