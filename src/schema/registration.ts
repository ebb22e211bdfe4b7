import { isoTime } from "../clock.ts";
import type { Context } from "../context.ts";
import type { Session, Store } from "../storage/port.ts";
import { sql } from "../storage/sql.ts";
import type { AgentSpec, PlatformMapping } from "../sync/mapping.ts";

type Registration = NonNullable<AgentSpec["registration"]>;

/** What the mapping says and the ledger does not, or says differently. */
export interface Unregistered {
  agents: { name: string; registration: Registration }[];
  eventTypes: string[];
  /** Agents whose flags programs in other languages cannot read yet: those that hive_rollout lacks. */
  rollout: string[];
}

/** Nothing while the ledger's tables are not there. */
export async function unregistered(store: Store, session: Session, mapping: PlatformMapping): Promise<Unregistered> {
  const nothing = { agents: [], eventTypes: [], rollout: [] };
  if ((await store.table("hive_agents", session)) === null) return nothing;
  if ((await store.table("hive_event_types", session)) === null) return nothing;
  const agents = new Map(
    (await session.all(sql`SELECT agent, agent_id, agent_type, capabilities, emits FROM hive_agents`)).map((row) => [
      String(row.agent),
      JSON.stringify([row.agent_id, row.agent_type, row.capabilities, row.emits]),
    ]),
  );
  const eventTypes = new Set(
    (await session.all(sql`SELECT event_type FROM hive_event_types`)).map((row) => String(row.event_type)),
  );
  const listed =
    (await store.table("hive_rollout", session)) === null
      ? null
      : new Set((await session.all(sql`SELECT agent FROM hive_rollout`)).map((row) => String(row.agent)));
  return {
    agents: mapping.agents.flatMap(({ name, registration }) =>
      registration && agents.get(name) !== JSON.stringify(Object.values(columnsOf(registration)))
        ? [{ name, registration }]
        : [],
    ),
    eventTypes: [...new Set(mapping.eventTypes)].filter((type) => !eventTypes.has(type)),
    rollout: listed === null ? [] : mapping.agents.map(({ name }) => name).filter((name) => !listed.has(name)),
  };
}

export function isRegistered(missing: Unregistered): boolean {
  return missing.agents.length === 0 && missing.eventTypes.length === 0 && missing.rollout.length === 0;
}

/** Adds and corrects; takes nothing away, since others may register agents and event types of their own. */
export async function register(tx: Session, context: Context, missing: Unregistered): Promise<void> {
  const now = isoTime(context.clock);
  for (const { name, registration } of missing.agents) {
    const row = columnsOf(registration);
    await tx.run(sql`INSERT INTO hive_agents (agent, agent_id, agent_type, capabilities, emits, registered_at)
      VALUES (${name}, ${row.agentId}, ${row.agentType}, ${row.capabilities}, ${row.emits}, ${now})
      ON CONFLICT (agent) DO UPDATE SET agent_id = excluded.agent_id, agent_type = excluded.agent_type,
        capabilities = excluded.capabilities, emits = excluded.emits`);
  }
  for (const type of missing.eventTypes) {
    await tx.run(sql`INSERT INTO hive_event_types (event_type, registered_at) VALUES (${type}, ${now})`);
  }
  for (const agent of missing.rollout) await tx.run(sql`INSERT INTO hive_rollout (agent) VALUES (${agent})`);
}

/** For the audit log. */
export function summary(missing: Unregistered): { agents: string[]; eventTypes: number; rollout?: string[] } {
  return {
    agents: missing.agents.map((agent) => agent.name),
    eventTypes: missing.eventTypes.length,
    ...(missing.rollout.length > 0 && { rollout: missing.rollout }),
  };
}

function columnsOf(registration: Registration) {
  return {
    agentId: registration.agentId,
    agentType: registration.agentType,
    capabilities: JSON.stringify(registration.capabilities),
    emits: JSON.stringify(registration.emits),
  };
}
