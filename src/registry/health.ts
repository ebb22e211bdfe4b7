import { isoTime } from "../clock.ts";
import type { Context } from "../context.ts";
import { sql } from "../storage/sql.ts";
import type { HealthReport, HealthStatus, StandardAgent } from "./agent.ts";

/** What the ledger knows of an agent's health. */
export interface StoredHealth {
  /** As the last check found it. */
  readonly status: string | null;
  readonly detail: string | null;
  readonly checkedAt: string | null;
  readonly lastHeartbeatAt: string | null;
}

/**
 * How an agent is, by what is known of it now. Unhealthy: its last heartbeat is older than `timeoutMs`, or its last
 * check said so. Healthy: a check or a heartbeat that is not older. Else nobody knows: what is missing, old or
 * unreadable is never a good sign.
 */
export function standingOf(
  { status, detail, checkedAt, lastHeartbeatAt }: StoredHealth,
  now: number,
  timeoutMs: number,
): { status: HealthStatus; detail: string | null } {
  const heartbeat = ageOf(lastHeartbeatAt, now, timeoutMs);
  const check = ageOf(checkedAt, now, timeoutMs);
  if (heartbeat !== null && heartbeat > timeoutMs) {
    return { status: "unhealthy", detail: `no heartbeat for ${seconds(heartbeat)}` };
  }
  if (check !== null && status === "unhealthy") return { status, detail: detail ?? "its health check failed" };
  if (heartbeat !== null) return { status: "healthy", detail: null };
  if (check === null) return { status: "unknown", detail: "no health check and no heartbeat yet" };
  if (status !== "healthy") return { status: "unknown", detail: detail ?? "its health check said nothing" };
  if (check <= timeoutMs) return { status, detail: null };
  return { status: "unknown", detail: `last checked ${seconds(check)} ago` };
}

/** Null for none, for one that cannot be read, and for one that is to come: a clock that is a little ahead is now. */
function ageOf(time: string | null, now: number, timeoutMs: number): number | null {
  const at = time === null ? Number.NaN : Date.parse(time);
  if (Number.isNaN(at) || at - now > timeoutMs) return null;
  return Math.max(0, now - at);
}

function seconds(ms: number): string {
  return `${Math.round(ms / 1_000)} s`;
}

export interface HealthCheckOptions {
  /** How long each check may take, in milliseconds. Default: as the agent's settings say. */
  readonly timeoutMs?: number | undefined;
  /** So many at a time. Default: 8. */
  readonly concurrency?: number;
  /** Ask, and write nothing. */
  readonly dryRun?: boolean | undefined;
}

const CONCURRENCY = 8;
const DETAIL_KEPT = 1_000;

/**
 * Asks all of these agents how they are, several at a time: one that is sick or silent holds up none of the others
 * longer than a check may take. Writes down what they said in one short transaction, and gives it by agent id.
 * An agent that cannot be asked is `unknown`, and nothing is written of it.
 */
export async function healthCheckAll(
  context: Context,
  agents: readonly Pick<StandardAgent, "agentId" | "healthCheck">[],
  options: HealthCheckOptions = {},
): Promise<Map<string, HealthReport>> {
  const reports = new Map<string, HealthReport>();
  const waiting = [...agents];
  const work = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      reports.set(next.agentId, await next.healthCheck(options.timeoutMs));
    }
  };
  const workers = Math.max(1, Math.min(options.concurrency ?? CONCURRENCY, agents.length));
  await Promise.all(Array.from({ length: workers }, work));
  // In one order everywhere: two that note the same ones must not wait for each other.
  const asked = [...reports].filter(([, { latencyMs }]) => latencyMs !== null).sort(([a], [b]) => (a < b ? -1 : 1));
  if (options.dryRun || asked.length === 0) return reports;
  const at = isoTime(context.clock);
  await context.store.transaction("health", async (tx) => {
    for (const [agentId, { status, detail, latencyMs }] of asked) {
      // Not of one that was unregistered meanwhile.
      await tx.run(sql`INSERT INTO hive_agent_health (agent_id, status, checked_at, latency_ms, detail)
        SELECT agent_id, ${status}, ${at}, ${latencyMs}, ${detail?.slice(0, DETAIL_KEPT).replaceAll("\u0000", "") ?? null}
        FROM hive_agents WHERE agent_id = ${agentId}
        ON CONFLICT (agent_id) DO UPDATE SET status = excluded.status, checked_at = excluded.checked_at,
          latency_ms = excluded.latency_ms, detail = excluded.detail`);
    }
  });
  return reports;
}
