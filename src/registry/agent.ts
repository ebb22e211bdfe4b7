import type { Clock } from "../clock.ts";
import { asHiveError, HiveError } from "../errors.ts";
import type { Metrics } from "../observe/metrics.ts";
import type { AgentSpec, TaskMoment, TaskSchema, TaskSpec } from "../sync/mapping.ts";
import type { Adapter, HealthAnswer, HealthProbe, HealthStatus } from "./adapters.ts";

export type { HealthStatus } from "./adapters.ts";

/** An event as an agent tells it; who keeps it gives it an id, times and a number. */
export interface AgentEvent {
  readonly type: string;
  readonly sourceAgent: string;
  readonly correlationId: string | null;
  readonly causationId: string | null;
  readonly subject: string | null;
  readonly payload: object;
}

/** Keeps an event; gives its id, or null where the agent's events are switched off. */
export type Emit = (event: AgentEvent) => Promise<{ readonly id: string } | null>;

export interface AgentTask {
  /** JSON, as the agent's schema asks for it. */
  readonly input: unknown;
  /** Default: a new one. */
  readonly id?: string;
  /** The work that it belongs to. Default: the task's id. */
  readonly correlationId?: string;
  /** The event that led to it. */
  readonly causationId?: string;
  /** Milliseconds; default: the agent's. */
  readonly timeoutMs?: number;
  readonly abort?: AbortSignal;
}

export interface TaskResult {
  readonly taskId: string;
  readonly correlationId: string;
  /** JSON. */
  readonly output: unknown;
  readonly durationMs: number;
  /** Why the event of its end could not be kept; null where it was, or where there is none to tell. */
  readonly untold: string | null;
}

export interface HealthReport {
  readonly status: HealthStatus;
  /** Why it is not healthy. */
  readonly detail: string | null;
  /** Null where nothing was asked. */
  readonly latencyMs: number | null;
}

export interface AgentOptions {
  /** The agent's name, its registration and how its tasks look. */
  readonly spec: AgentSpec & Required<Pick<AgentSpec, "registration">>;
  /** Without: it can be asked how it is, and executes nothing. */
  readonly adapter?: Adapter | undefined;
  readonly probe?: HealthProbe | undefined;
  readonly emit: Emit;
  readonly clock: Clock;
  readonly metrics?: Metrics | undefined;
  /** How long a task may take. Default: 600,000. */
  readonly timeoutMs?: number | undefined;
  /** How long a health check may take. Default: 5,000. */
  readonly healthTimeoutMs?: number | undefined;
}

export const TASK_TIMEOUT_MS = 600_000;
export const HEALTH_TIMEOUT_MS = 5_000;
const PROBLEMS_SHOWN = 5;
/** A program that is ended gets this long: who asks again must not find it still at work. */
const ENDING_MS = 2_500;

/** One agent of the registry, whatever is behind it. Ends what still runs when it is disposed of. */
export class StandardAgent implements AsyncDisposable {
  readonly name: string;
  readonly agentId: string;
  readonly agentType: string;
  readonly capabilities: readonly string[];
  private readonly options: AgentOptions;
  private readonly running = new Map<AbortController, Promise<unknown>>();
  private schemas: Promise<{ input: TaskSchema; output: TaskSchema } | undefined> | undefined;

  constructor(options: AgentOptions) {
    const { name, registration } = options.spec;
    this.name = name;
    this.agentId = registration.agentId;
    this.agentType = registration.agentType;
    this.capabilities = registration.capabilities;
    this.options = options;
  }

  get adapter(): Adapter["kind"] | null {
    return this.options.adapter?.kind ?? null;
  }

  get healthCheckKind(): HealthProbe["kind"] | null {
    return this.options.probe?.kind ?? null;
  }

  /**
   * Lets the agent do this task, and tells of it as the mapping says: when it begins, and when it ends well or fails.
   * The second event is caused by the first. An input that does not fit is refused before anything is told. Done again
   * after a failure, it is done again: nothing here knows what the agent did before it failed.
   * @throws TASK_INVALID, AGENT_FAILED, AGENT_UNAVAILABLE (not reached, or no answer in time), INTERRUPTED; USAGE where
   * it has no adapter. Where the task failed, `details.untold` says why that could not be told, if it could not.
   */
  async execute(task: AgentTask): Promise<TaskResult> {
    const { adapter, clock, metrics, spec } = this.options;
    if (!adapter) {
      throw new HiveError("USAGE", `Nothing says how to reach ${this.name}.`, {
        hint: `Give it a \`command\` or a \`url\` in the config, under agents.${this.name}.`,
        details: { agent: this.name },
      });
    }
    const schemas = await this.loadSchemas();
    const wrong = problems(schemas?.input, task.input);
    if (wrong !== null) {
      throw new HiveError("TASK_INVALID", `The task for ${this.name} is refused: ${wrong}`, {
        hint: "Nothing was done. Correct its input.",
        details: { agent: this.name, reason: wrong },
      });
    }
    const taskId = task.id ?? clock.id();
    const correlationId = task.correlationId ?? taskId;
    const { input } = task;
    const tell = (moment: TaskMoment, causationId: string | null, more: { output?: unknown; error?: string } = {}) =>
      this.tell(spec.tasks, moment, { taskId, correlationId, causationId }, { input, ...more });
    const asked = task.causationId ?? null;
    const started = await tell("started", asked);
    const cause = started?.id ?? asked;
    const begun = clock.monotonic();
    let output: unknown;
    try {
      const timeoutMs = task.timeoutMs ?? this.options.timeoutMs ?? TASK_TIMEOUT_MS;
      const request = { agentId: this.agentId, taskId, correlationId, input };
      output = await this.limited(adapter.kind, timeoutMs, task.abort, (abort) => adapter.call({ ...request, abort }));
      const bad = problems(schemas?.output, output);
      if (bad !== null) {
        throw new HiveError("AGENT_FAILED", `The agent ${this.agentId} answered what is no answer: ${bad}`, {
          hint: "See what the agent itself says of it.",
          details: { agentId: this.agentId, reason: bad },
        });
      }
    } catch (thrown) {
      metrics?.taskFailed(this.name);
      const error = asHiveError(thrown);
      const untold = await reasonOf(() => tell("failed", cause, { error: error.message }));
      if (untold === null) throw error;
      const { code, message, hint, details } = error;
      throw new HiveError(code, message, { hint, details: { ...details, untold }, cause: error });
    }
    const durationMs = clock.monotonic() - begun;
    metrics?.taskDone(this.name, durationMs);
    // The task is done: not being able to say so must not make anybody do it again.
    const untold = await reasonOf(() => tell("completed", cause, { output }));
    return { taskId, correlationId, output, durationMs, untold };
  }

  /** How the agent is, within the time that a check may take. Never fails; `unknown` where nothing can be asked. */
  async healthCheck(timeoutMs = this.options.healthTimeoutMs ?? HEALTH_TIMEOUT_MS): Promise<HealthReport> {
    const { probe, clock, metrics } = this.options;
    if (!probe) return { status: "unknown", detail: "nothing says how to ask it", latencyMs: null };
    const begun = clock.monotonic();
    let report: HealthAnswer;
    try {
      report = await this.limited(probe.kind, timeoutMs, undefined, (abort) => probe.ask(abort));
    } catch (error) {
      const said = error instanceof Error ? error.message : String(error);
      const late = error instanceof HiveError && error.code === "AGENT_UNAVAILABLE" && "timeoutMs" in error.details;
      const detail = late ? `no answer within ${timeoutMs} ms` : said.replace(`The agent ${this.agentId} failed: `, "");
      report = { status: "unhealthy", detail };
    }
    const latencyMs = clock.monotonic() - begun;
    metrics?.healthChecked(report.status, latencyMs);
    return { status: report.status, detail: report.status === "healthy" ? null : report.detail, latencyMs };
  }

  /** Keeps an event of this agent's; null where its events are switched off. */
  emit(event: Partial<AgentEvent> & Pick<AgentEvent, "type">): Promise<{ readonly id: string } | null> {
    return this.options.emit({
      correlationId: null,
      causationId: null,
      subject: null,
      payload: {},
      ...event,
      sourceAgent: this.name,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const gone = new HiveError("INTERRUPTED", `The agent ${this.agentId} was closed while it was at work.`);
    const left = [...this.running];
    for (const [controller] of left) controller.abort(gone);
    await Promise.allSettled(left.map(([, ended]) => ended));
  }

  private async tell(
    tasks: TaskSpec | undefined,
    moment: TaskMoment,
    ids: { taskId: string; correlationId: string; causationId: string | null },
    more: { input: unknown; output?: unknown; error?: string },
  ): Promise<{ readonly id: string } | null> {
    if (!tasks) return null;
    const { taskId, correlationId, causationId } = ids;
    const facts = { taskId, agentId: this.agentId, ...more };
    const plain = more.error === undefined ? { task_id: taskId } : { task_id: taskId, error: more.error };
    const payload = tasks.payload?.(moment, facts) ?? plain;
    return this.emit({ type: tasks.events[moment], correlationId, causationId, subject: taskId, payload });
  }

  private loadSchemas(): Promise<{ input: TaskSchema; output: TaskSchema } | undefined> {
    this.schemas ??= Promise.resolve(this.options.spec.tasks?.schemas?.()).catch((error: unknown) => {
      this.schemas = undefined;
      throw error;
    });
    return this.schemas;
  }

  /** Ends when the time is over or somebody aborts, whether `work` heeds it or not. */
  private async limited<T>(
    kind: Adapter["kind"],
    timeoutMs: number,
    outer: AbortSignal | undefined,
    work: (abort: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const controller = new AbortController();
    const { signal } = controller;
    const interrupt = () =>
      controller.abort(
        new HiveError("INTERRUPTED", `The agent ${this.agentId} was interrupted.`, { cause: outer?.reason }),
      );
    const late = () =>
      controller.abort(
        new HiveError("AGENT_UNAVAILABLE", `The agent ${this.agentId} did not answer within ${timeoutMs} ms.`, {
          hint: "See what it is doing, or raise its `timeoutMs` in the config.",
          details: { agentId: this.agentId, timeoutMs },
        }),
      );
    const timer = setTimeout(late, timeoutMs);
    if (outer?.aborted) interrupt();
    outer?.addEventListener("abort", interrupt);
    let ending: NodeJS.Timeout | undefined;
    const aborted = new Promise<never>((_, reject) => {
      const tell = () => {
        if (kind !== "command") reject(signal.reason);
        else ending = setTimeout(() => reject(signal.reason), ENDING_MS);
      };
      if (signal.aborted) tell();
      else signal.addEventListener("abort", tell);
    });
    // One that does not heed the signal is not waited for either.
    const ended = Promise.race([work(signal), aborted]);
    this.running.set(controller, ended);
    try {
      return await ended;
    } finally {
      this.running.delete(controller);
      clearTimeout(timer);
      clearTimeout(ending);
      outer?.removeEventListener("abort", interrupt);
    }
  }
}

/** What is wrong with a value; null where nothing is. */
function problems(schema: TaskSchema | undefined, value: unknown): string | null {
  const result = schema?.safeParse(value);
  if (!result || result.success) return null;
  const { issues } = result.error;
  const told = issues
    .slice(0, PROBLEMS_SHOWN)
    .map(({ path, message }) => (path.length === 0 ? message : `${path.map(String).join(".")}: ${message}`));
  return `${told.join("; ")}${issues.length > PROBLEMS_SHOWN ? `; and ${issues.length - PROBLEMS_SHOWN} more` : ""}`;
}

async function reasonOf(work: () => Promise<unknown>): Promise<string | null> {
  try {
    await work();
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
