import type { Context } from "../context.ts";
import type { KeptFilter } from "../hive.ts";
import type { KeptListResult } from "../results.ts";
import { parsed } from "../rollout/audit.ts";
import { hasLedger } from "../schema/ledger.ts";
import { among, join, type Sql, sql } from "../storage/sql.ts";
import { resolveAgents, resolveAggregate } from "./mapping.ts";

const PAGE = 100;

/**
 * Whole aggregates that hive kept before it took them away or wrote over them, since the other side cannot hold them:
 * the oldest first, a page at a time. Empty on a database that hive has never touched.
 * @throws UNKNOWN_AGENT, UNKNOWN_NAME (no such mapping)
 */
export async function listKept(context: Context, filter: KeptFilter = {}): Promise<KeptListResult> {
  const { store } = context;
  const where = conditionOf(context, filter);
  const limit = filter.limit ?? PAGE;
  return store.snapshot(async (session) => {
    if (!(await hasLedger(store, session))) return { entries: [], total: 0, next: null };
    const counted = await session.all(sql`SELECT count(*) AS n FROM hive_kept WHERE ${where}`);
    const rows = await session.all(sql`SELECT seq, at, mapping, key, agent, side, reason, aggregate FROM hive_kept
      WHERE ${where} AND seq > ${filter.after ?? 0} ORDER BY seq LIMIT ${limit + 1}`);
    const entries = rows.slice(0, limit).map((row) => ({
      seq: Number(row.seq),
      at: String(row.at),
      mapping: String(row.mapping),
      key: String(row.key),
      agent: String(row.agent),
      side: row.side === "legacy" ? ("legacy" as const) : ("unified" as const),
      reason: String(row.reason),
      aggregate: parsed(row.aggregate),
    }));
    const next = rows.length > limit ? (entries.at(-1)?.seq ?? null) : null;
    return { entries, total: Number(counted[0]?.n ?? 0), next };
  });
}

/** An empty list filters nothing, as everywhere on the command line. */
function conditionOf({ mapping }: Context, filter: KeptFilter): Sql {
  const conditions: Sql[] = [sql`1 = 1`];
  if (filter.agents && filter.agents.length > 0) {
    conditions.push(sql`agent IN ${among(resolveAgents(mapping, filter.agents))}`);
  }
  if (filter.mapping !== undefined) conditions.push(sql`mapping = ${resolveAggregate(mapping, filter.mapping).name}`);
  if (filter.keys && filter.keys.length > 0) conditions.push(sql`key IN ${among(filter.keys)}`);
  return join(conditions, " AND ");
}
