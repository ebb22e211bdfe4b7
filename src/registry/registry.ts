import { isoTime } from "../clock.ts";
import type { Context } from "../context.ts";
import { HiveError, nearest } from "../errors.ts";
import type { AgentsListResult, AgentsStatsResult } from "../results.ts";
import { audit } from "../rollout/audit.ts";
import { requireLedger } from "../schema/ledger.ts";
import type { Row, Session } from "../storage/port.ts";
import { sql } from "../storage/sql.ts";
import { type StoredHealth, standingOf } from "./health.ts";
import { settingsOf } from "./open.ts";

export interface Registration {
  /** The unit of rollout that it belongs to. Default: the agent id. */
  readonly agent?: string;
  /** Nobody else's. */
  readonly agentId: string;
  readonly agentType: string;
  readonly capabilities: readonly string[];
  /** Types of the events that it emits. */
  readonly emits?: readonly string[];
}

/** An agent of the registry, and how it is. */
export interface RegisteredAgent extends Required<Registration> {
  readonly registeredAt: string;
  readonly status: "healthy" | "unhealthy" | "unknown";
  /** Why it is not healthy. */
  readonly detail: string | null;
  readonly checkedAt: string | null;
  readonly latencyMs: number | null;
  readonly lastHeartbeatAt: string | null;
}

export interface AgentFilter {
  readonly agentType?: string;
  readonly capability?: string;
}

export interface RegistryOptions {
  /** Goes into the audit log. */
  readonly reason?: string;
}

/**
 * The agents of the platform, in the ledger: every process sees the same ones, and they outlive all of them. Those of
 * the mapping are registered by `hive migrate up`. An agent may be named by its name or its id.
 * Errors: NOT_MIGRATED, UNKNOWN_AGENT with the nearest name.
 */
export class AgentRegistry {
  private readonly context: Context;

  constructor(context: Context) {
    this.context = context;
  }

  /**
   * Adds an agent, or makes a registered one what this says; one that is so already is left alone. The mapping's own are
   * put back to what the mapping says by the next `hive migrate up`.
   * @throws USAGE (a text that is empty), RECORD_EXISTS (the id is another agent's)
   */
  async register(registration: Registration, options: RegistryOptions = {}): Promise<RegisteredAgent> {
    const { context } = this;
    const row = rowOf(registration);
    await this.ready();
    await context.store.transaction("register", async (tx) => {
      await tx.serialize(["hive_agents"]);
      const known = await storedAgent(tx, row.agent);
      if (JSON.stringify(known) === JSON.stringify(row)) return;
      const [other] = await tx.all(sql`SELECT agent FROM hive_agents
        WHERE agent_id = ${row.agentId} AND agent <> ${row.agent}`);
      if (other) {
        throw new HiveError("RECORD_EXISTS", `The id "${row.agentId}" is that of the agent ${other.agent}.`, {
          hint: "Nothing was written. Give it another id, or unregister that agent first.",
          details: { agentId: row.agentId, agent: String(other.agent) },
        });
      }
      await tx.run(sql`INSERT INTO hive_agents (agent, agent_id, agent_type, capabilities, emits, registered_at)
        VALUES (${row.agent}, ${row.agentId}, ${row.agentType}, ${row.capabilities}, ${row.emits}, ${isoTime(context.clock)})
        ON CONFLICT (agent) DO UPDATE SET agent_id = excluded.agent_id, agent_type = excluded.agent_type,
          capabilities = excluded.capabilities, emits = excluded.emits`);
      // How an agent of another id was says nothing about this one.
      if (known && known.agentId !== row.agentId) {
        await tx.run(sql`DELETE FROM hive_agent_health WHERE agent_id = ${known.agentId}`);
      }
      const { reason } = options;
      const before = known ? { before: plain(known) } : {};
      await audit(tx, context, { action: "register agent", agent: row.agent, reason, ...before, after: plain(row) });
    });
    return this.get(row.agent);
  }

  /** Takes an agent out of the registry, and what is known of its health; its rows and flags stay as they are. */
  async unregister(name: string, options: RegistryOptions = {}): Promise<void> {
    const { context } = this;
    await this.ready();
    const { agent } = await this.get(name);
    await context.store.transaction("unregister", async (tx) => {
      await tx.serialize(["hive_agents"]);
      const known = await storedAgent(tx, agent);
      if (!known) return;
      await tx.run(sql`DELETE FROM hive_agents WHERE agent = ${agent}`);
      await tx.run(sql`DELETE FROM hive_agent_health WHERE agent_id = ${known.agentId}`);
      const { reason } = options;
      await audit(tx, context, { action: "unregister agent", agent, reason, before: plain(known) });
    });
  }

  /** @throws UNKNOWN_AGENT */
  async get(name: string): Promise<RegisteredAgent> {
    const agents = await this.list();
    const found = agents.find(({ agent }) => agent === name) ?? agents.find(({ agentId }) => agentId === name);
    if (found) return found;
    throw unknownAgent(name, agents);
  }

  byType(agentType: string): Promise<RegisteredAgent[]> {
    return this.list({ agentType });
  }

  byCapability(capability: string): Promise<RegisteredAgent[]> {
    return this.list({ capability });
  }

  /** In the mapping's order, then those that others have registered, by name. */
  async list(filter: AgentFilter = {}): Promise<RegisteredAgent[]> {
    await this.ready();
    return (await readAgents(this.context, this.context.store.read)).filter(
      ({ agentType, capabilities }) =>
        (filter.agentType === undefined || agentType === filter.agentType) &&
        (filter.capability === undefined || capabilities.includes(filter.capability)),
    );
  }

  async stats(): Promise<AgentsStatsResult> {
    const agents = await this.list();
    const of = (status: RegisteredAgent["status"]) => agents.filter((one) => one.status === status).length;
    return {
      agents: agents.length,
      healthy: of("healthy"),
      unhealthy: of("unhealthy"),
      unknown: of("unknown"),
      byType: counts(agents.map(({ agentType }) => agentType)),
      byCapability: counts(agents.flatMap(({ capabilities }) => [...new Set(capabilities)])),
    };
  }

  /** This agent is alive now. */
  async heartbeat(name: string): Promise<void> {
    await this.ready();
    const at = isoTime(this.context.clock);
    const beat = await this.context.store.transaction("heartbeat", (tx) =>
      noteHeartbeats(tx, [{ agent: name, at }], at),
    );
    if (beat === 0) throw unknownAgent(name, await this.list());
  }

  /** @throws NOT_MIGRATED, LEDGER_TOO_NEW */
  private async ready(): Promise<void> {
    const { store } = this.context;
    await requireLedger(store);
    if ((await store.table("hive_agent_health")) !== null) return;
    throw new HiveError("NOT_MIGRATED", `hive's own tables in ${store.location} are those of an older hive.`, {
      hint: "Run `hive migrate up` first: it adds what is missing and changes nothing else.",
    });
  }
}

/** As commands show it. */
export function summaryOf(one: RegisteredAgent): AgentsListResult["agents"][number] {
  const { agent, agentId, agentType, capabilities, status, detail, lastHeartbeatAt } = one;
  return { agent, agentId, agentType, capabilities: [...capabilities], status, detail, lastHeartbeatAt };
}

async function readAgents(context: Context, session: Session): Promise<RegisteredAgent[]> {
  const rows = await session.all(sql`SELECT a.agent, a.agent_id, a.agent_type, a.capabilities, a.emits, a.registered_at,
      h.status, h.detail, h.checked_at, h.latency_ms, h.last_heartbeat_at
    FROM hive_agents AS a LEFT JOIN hive_agent_health AS h ON h.agent_id = a.agent_id ORDER BY a.agent`);
  const order = context.mapping.agents.map(({ name }) => name);
  const place = (agent: string) => (order.includes(agent) ? order.indexOf(agent) : order.length);
  return rows.map((row) => agentOf(context, row)).sort((a, b) => place(a.agent) - place(b.agent));
}

function agentOf(context: Context, row: Row): RegisteredAgent {
  const { agent, agentId, agentType } = stored(row);
  const health: StoredHealth = {
    status: textOf(row.status),
    detail: textOf(row.detail),
    checkedAt: textOf(row.checked_at),
    lastHeartbeatAt: textOf(row.last_heartbeat_at),
  };
  const { heartbeatTimeoutMs } = settingsOf(context, { agent, agentId }).health;
  return {
    agent,
    agentId,
    agentType,
    capabilities: textsOf(row.capabilities),
    emits: textsOf(row.emits),
    registeredAt: String(row.registered_at),
    ...standingOf(health, context.clock.now(), heartbeatTimeoutMs),
    checkedAt: health.checkedAt,
    latencyMs: row.latency_ms === null || row.latency_ms === undefined ? null : Number(row.latency_ms),
    lastHeartbeatAt: health.lastHeartbeatAt,
  };
}

/** An agent that said that it is alive, and when that was noted. */
export interface Heartbeat {
  /** Its name or its id. */
  readonly agent: string;
  /** ISO UTC. */
  readonly at: string;
}

/**
 * Those of these events that are heartbeats, as the mapping calls them; the last one of each agent. For whoever takes in
 * events: `noteHeartbeats(tx, heartbeatsOf(mapping, events), now)`.
 */
export function heartbeatsOf(
  { heartbeatEvent }: Pick<Context["mapping"], "heartbeatEvent">,
  events: readonly { readonly type: string; readonly sourceAgent: string; readonly recordedAt: string }[],
): Heartbeat[] {
  const last = new Map<string, string>();
  if (heartbeatEvent === undefined) return [];
  for (const { type, sourceAgent, recordedAt } of events) {
    if (type !== heartbeatEvent) continue;
    const known = last.get(sourceAgent);
    if (known === undefined || known < recordedAt) last.set(sourceAgent, recordedAt);
  }
  return [...last].map(([agent, at]) => ({ agent, at }));
}

/**
 * Writes down when agents were last heard of; the number of those that are registered. An older heartbeat changes
 * nothing, and one of the future counts as one of `now`: it must not keep an agent alive that is dead.
 */
export async function noteHeartbeats(tx: Session, heartbeats: readonly Heartbeat[], now: string): Promise<number> {
  let noted = 0;
  // In one order everywhere: two that note the same ones must not wait for each other.
  for (const { agent, at } of [...heartbeats].sort((a, b) => (a.agent < b.agent ? -1 : 1))) {
    const time = isTime(at) && at < now ? at : now;
    noted += await tx.run(sql`INSERT INTO hive_agent_health (agent_id, status, last_heartbeat_at)
      SELECT agent_id, 'unknown', ${time} FROM hive_agents WHERE agent = ${agent} OR agent_id = ${agent}
      ON CONFLICT (agent_id) DO UPDATE SET last_heartbeat_at = CASE
        WHEN hive_agent_health.last_heartbeat_at > excluded.last_heartbeat_at THEN hive_agent_health.last_heartbeat_at
        ELSE excluded.last_heartbeat_at END`);
  }
  return noted;
}

/** As the ledger has them: only these can be compared as text. */
function isTime(text: string): boolean {
  return /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(text);
}

interface StoredRegistration {
  agent: string;
  agentId: string;
  agentType: string;
  capabilities: string;
  emits: string;
}

function rowOf({ agentId, agent = agentId, agentType, capabilities, emits = [] }: Registration): StoredRegistration {
  for (const [what, text] of Object.entries({ agentId, agent, agentType })) {
    if (typeof text === "string" && text.trim() !== "") continue;
    throw new HiveError("USAGE", `An agent cannot be registered without its ${what}.`, {
      hint: "Give its agentId, agentType and capabilities.",
    });
  }
  return { agent, agentId, agentType, capabilities: JSON.stringify(capabilities), emits: JSON.stringify(emits) };
}

async function storedAgent(tx: Session, agent: string): Promise<StoredRegistration | undefined> {
  const [row] = await tx.all(sql`SELECT agent, agent_id, agent_type, capabilities, emits FROM hive_agents
    WHERE agent = ${agent}`);
  return row && stored(row);
}

function stored(row: Row): StoredRegistration {
  return {
    agent: String(row.agent),
    agentId: String(row.agent_id),
    agentType: String(row.agent_type),
    capabilities: String(row.capabilities),
    emits: String(row.emits),
  };
}

function plain(row: StoredRegistration): object {
  return { ...row, capabilities: textsOf(row.capabilities), emits: textsOf(row.emits) };
}

function textOf(value: unknown): string | null {
  return value === null || value === undefined ? null : String(value);
}

/** What somebody made of it by hand is no list. */
function textsOf(value: unknown): string[] {
  try {
    const parsed: unknown = JSON.parse(String(value));
    return Array.isArray(parsed) ? parsed.map(String) : [];
  } catch {
    return [];
  }
}

function counts(names: readonly string[]): Record<string, number> {
  const found = new Map<string, number>();
  for (const name of names) found.set(name, (found.get(name) ?? 0) + 1);
  return Object.fromEntries([...found].sort(([a], [b]) => (a < b ? -1 : 1)));
}

function unknownAgent(name: string, agents: readonly RegisteredAgent[]): HiveError {
  const known = agents.map(({ agent }) => agent);
  const guess = nearest(name, known);
  const more = guess ? `; did you mean "${guess}"?` : ".";
  return new HiveError("UNKNOWN_AGENT", `No agent "${name}" is registered${more}`, {
    hint:
      known.length === 0
        ? "None is: `hive migrate up` registers the mapping's."
        : `Registered are: ${known.join(", ")}.`,
    details: { agent: name, nearest: guess ?? null, known },
  });
}
