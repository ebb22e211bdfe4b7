import type { Settings } from "../config.ts";
import type { Context } from "../context.ts";
import { metricsOf } from "../observe/metrics.ts";
import {
  type Adapter,
  commandAdapter,
  commandProbe,
  functionAdapter,
  functionProbe,
  type HealthProbe,
  type Request,
  urlAdapter,
  urlProbe,
} from "./adapters.ts";
import { type Emit, HEALTH_TIMEOUT_MS, StandardAgent, TASK_TIMEOUT_MS } from "./agent.ts";
import type { RegisteredAgent } from "./registry.ts";

/** Three heartbeats of an agent that sends one every 40 s. */
const HEARTBEAT_TIMEOUT_MS = 120_000;

type AgentSettings = Settings["agents"][string];

export interface OpenAgentOptions<I = never> {
  /** The agent itself, in this process: takes the input, gives the output. Before what the config says. */
  readonly run?: (input: I, request: Request) => unknown;
  /** How it is: true, false, or `{ status, detail }`. Before what the config says. */
  readonly check?: () => unknown;
}

/** What the config says of this agent, which it may name by its name or by its id. */
export function settingsOf(
  { settings }: Pick<Context, "settings">,
  { agent, agentId }: Pick<RegisteredAgent, "agent" | "agentId">,
): AgentSettings & { timeoutMs: number; health: { timeoutMs: number; heartbeatTimeoutMs: number } } {
  const given: AgentSettings = settings.agents[agent] ?? settings.agents[agentId] ?? {};
  return {
    timeoutMs: TASK_TIMEOUT_MS,
    ...given,
    health: { timeoutMs: HEALTH_TIMEOUT_MS, heartbeatTimeoutMs: HEARTBEAT_TIMEOUT_MS, ...given.health },
  };
}

/** A registered agent with what is behind it: what the options give, or what the config names. */
export function openAgent<I>(
  context: Context,
  registered: RegisteredAgent,
  emit: Emit,
  options: OpenAgentOptions<I> = {},
): StandardAgent {
  const { agent, agentId, agentType, capabilities, emits } = registered;
  const settings = settingsOf(context, registered);
  const spec = context.mapping.agents.find(({ name }) => name === agent);
  return new StandardAgent({
    spec: { ...spec, name: agent, registration: { agentId, agentType, capabilities, emits } },
    adapter: options.run ? functionAdapter(options.run) : adapterOf(context, settings),
    probe: options.check ? functionProbe(options.check) : probeOf(context, agentId, settings),
    emit,
    clock: context.clock,
    metrics: metricsOf(context),
    timeoutMs: settings.timeoutMs,
    healthTimeoutMs: settings.health.timeoutMs,
  });
}

function adapterOf({ settings: { baseDirectory } }: Context, { command, url }: AgentSettings): Adapter | undefined {
  if (command) return commandAdapter({ command, cwd: baseDirectory });
  return url === undefined ? undefined : urlAdapter(url);
}

function probeOf(
  { settings: { baseDirectory } }: Context,
  agentId: string,
  { health }: AgentSettings,
): HealthProbe | undefined {
  if (health?.command) return commandProbe(agentId, { command: health.command, cwd: baseDirectory });
  return health?.url === undefined ? undefined : urlProbe(agentId, health.url);
}
