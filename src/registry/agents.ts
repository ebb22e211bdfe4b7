import { isoTime } from "../clock.ts";
import type { Context } from "../context.ts";
import type { AgentsHealthResult, AgentsListResult, AgentsShowResult, AgentsStatsResult } from "../results.ts";
import type { Emit, StandardAgent } from "./agent.ts";
import { healthCheckAll, standingOf } from "./health.ts";
import { type OpenAgentOptions, openAgent, settingsOf } from "./open.ts";
import { type AgentFilter, AgentRegistry, type RegisteredAgent, summaryOf } from "./registry.ts";

export interface AgentHealthOptions {
  /** By name or id. Default: all that are registered. */
  readonly agents?: readonly string[];
  /** How long each check may take, in milliseconds. Default: as the config says of each agent. */
  readonly timeoutMs?: number;
  /** Ask, and write nothing. */
  readonly dryRun?: boolean;
}

/** The registry of one opened hive, and the agents that were opened with it: they are closed with it. */
export class Agents implements AsyncDisposable {
  readonly registry: AgentRegistry;
  private readonly context: Context;
  private readonly emit: Emit;
  private readonly opened = new Map<string, StandardAgent>();
  private readonly all = new Set<StandardAgent>();

  constructor(context: Context, emit: Emit) {
    this.context = context;
    this.emit = emit;
    this.registry = new AgentRegistry(context);
  }

  async list(filter?: AgentFilter): Promise<AgentsListResult> {
    return { agents: (await this.registry.list(filter)).map(summaryOf) };
  }

  async show(name: string): Promise<AgentsShowResult> {
    const found = await this.registry.get(name);
    const { adapter, healthCheckKind } = this.of(found);
    const { registeredAt, checkedAt, latencyMs, emits } = found;
    return {
      ...summaryOf(found),
      emits: [...emits],
      registeredAt,
      checkedAt,
      latencyMs,
      adapter,
      healthCheck: healthCheckKind,
    };
  }

  stats(): Promise<AgentsStatsResult> {
    return this.registry.stats();
  }

  /** @throws UNKNOWN_AGENT */
  async open<I = never>(name: string, options: OpenAgentOptions<I> = {}): Promise<StandardAgent> {
    const found = await this.registry.get(name);
    const agent = openAgent(this.context, found, this.emit, options);
    this.opened.set(agent.agentId, agent);
    this.all.add(agent);
    return agent;
  }

  /** @throws UNKNOWN_AGENT */
  async health({ agents: names, timeoutMs, dryRun = false }: AgentHealthOptions = {}): Promise<AgentsHealthResult> {
    const { context, registry } = this;
    const wanted: RegisteredAgent[] = [];
    if (names === undefined) wanted.push(...(await registry.list()));
    else for (const name of names) wanted.push(await registry.get(name));
    const checkable = new Map(wanted.map((one) => [one.agentId, this.of(one)]));
    const reports = await healthCheckAll(context, [...checkable.values()], { timeoutMs, dryRun });
    const at = isoTime(context.clock);
    // Heartbeats may have come while others were asked.
    const latest = new Map((await registry.list()).map((one) => [one.agentId, one.lastHeartbeatAt]));
    const agents = wanted.map((one) => {
      const report = reports.get(one.agentId);
      const asked = report !== undefined && report.latencyMs !== null;
      const lastHeartbeatAt = latest.get(one.agentId) ?? one.lastHeartbeatAt;
      const check = asked ? { status: report.status, detail: report.detail, checkedAt: at } : null;
      const { heartbeatTimeoutMs } = settingsOf(context, one).health;
      const now = check
        ? standingOf({ ...check, lastHeartbeatAt }, context.clock.now(), heartbeatTimeoutMs)
        : { status: one.status, detail: one.detail };
      return {
        ...summaryOf({ ...one, ...now, lastHeartbeatAt }),
        checked: asked,
        latencyMs: report?.latencyMs ?? null,
      };
    });
    return { healthy: agents.length > 0 && agents.every(({ status }) => status === "healthy"), at, agents, dryRun };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const agent of this.all) await agent[Symbol.asyncDispose]();
  }

  /** One that was opened answers for itself. */
  private of(registered: RegisteredAgent): StandardAgent {
    return this.opened.get(registered.agentId) ?? openAgent(this.context, registered, this.emit);
  }
}
