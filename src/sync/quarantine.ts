import { isoTime } from "../clock.ts";
import { type ChangeOptions, type Context, lockOptions } from "../context.ts";
import type { QuarantineFilter } from "../hive.ts";
import type {
  QuarantineDiscardResult,
  QuarantineEntry,
  QuarantineListResult,
  QuarantineRetryResult,
} from "../results.ts";
import { audit } from "../rollout/audit.ts";
import { hasLedger, requireLedger } from "../schema/ledger.ts";
import type { Row, Session } from "../storage/port.ts";
import { among, join, type Sql, sql } from "../storage/sql.ts";
import { resolveAgents, resolveAggregate } from "./mapping.ts";

/** An aggregate that could not be mapped or written, and why: a sentence for people. */
export interface Quarantined {
  readonly mapping: string;
  readonly key: string;
  readonly agent: string;
  readonly direction: "up" | "down";
  readonly reason: string;
}

/**
 * Puts an aggregate into quarantine, in the transaction that deals with its neighbours. One that is there already is
 * tried once more and gets the new reason; one that was discarded stays discarded.
 */
export async function quarantine(tx: Session, context: Context, entry: Quarantined): Promise<void> {
  await tx.run(sql`INSERT INTO hive_quarantine (mapping, key, agent, direction, reason, state, at, attempts)
    VALUES (${entry.mapping}, ${entry.key}, ${entry.agent}, ${entry.direction}, ${entry.reason}, 'quarantined',
            ${isoTime(context.clock)}, 1)
    ON CONFLICT (mapping, key) DO UPDATE SET agent = excluded.agent, direction = excluded.direction,
      reason = excluded.reason, at = excluded.at, attempts = hive_quarantine.attempts + 1`);
}

/** Held by what settles single aggregates again: repairs, retries and discards come one after the other. */
export const REPAIR_LOCK = "repair";

const KEYS_PER_STATEMENT = 500;

/** Takes aggregates out of quarantine that could be written after all; the number of those that were in it. */
export async function release(tx: Session, mapping: string, keys: readonly string[]): Promise<number> {
  let released = 0;
  for (let start = 0; start < keys.length; start += KEYS_PER_STATEMENT) {
    const some = keys.slice(start, start + KEYS_PER_STATEMENT);
    released += await tx.run(sql`DELETE FROM hive_quarantine WHERE mapping = ${mapping} AND key IN ${among(some)}`);
  }
  return released;
}

/** How many aggregates of each agent are in quarantine, without those that were discarded. Needs the ledger. */
export async function countQuarantine(session: Session): Promise<Map<string, number>> {
  const rows = await session.all(
    sql`SELECT agent, count(*) AS n FROM hive_quarantine WHERE state = 'quarantined' GROUP BY agent`,
  );
  return new Map(rows.map((row) => [String(row.agent), Number(row.n)]));
}

/**
 * What is in quarantine, the oldest first; with `all` also what was discarded. Empty on a database that hive has
 * never touched.
 * @throws UNKNOWN_AGENT, UNKNOWN_NAME (no such mapping)
 */
export async function listQuarantine(context: Context, filter: QuarantineFilter = {}): Promise<QuarantineListResult> {
  const where = conditionOf(context, filter);
  return context.store.snapshot(async (session) => {
    if (!(await hasLedger(context.store, session))) return { entries: [] };
    return { entries: await entriesOf(session, where) };
  });
}

/**
 * Tries the matching aggregates again, e.g. after the mapping or the row was mended; with `all` also those that were
 * discarded. `entries` are those that are still in quarantine afterwards (with dryRun: those that would be tried).
 * @throws NOT_MIGRATED, UNKNOWN_AGENT, UNKNOWN_NAME, LOCK_HELD, INTERRUPTED
 */
export async function retryQuarantine(
  context: Context,
  options: QuarantineFilter & ChangeOptions = {},
): Promise<QuarantineRetryResult> {
  const { store } = context;
  await requireLedger(store);
  const dryRun = options.dryRun === true;
  const found = await listQuarantine(context, options);
  if (dryRun || found.entries.length === 0) {
    return { retried: found.entries.length, released: 0, entries: found.entries, dryRun };
  }
  return store.withLock(REPAIR_LOCK, lockOptions(context, options, "hive quarantine retry"), async () => {
    // Another hive may have released some of them while this one waited.
    const { entries } = await listQuarantine(context, options);
    // Not loaded above: settle.ts needs the functions of this file.
    const { retryAggregates } = await import("./settle.ts");
    // What was written since may be what they wait for.
    const { drainBefore } = await import("./sync.ts");
    await drainBefore(context, options);
    await retryAggregates(context, entries, options);
    const tried = new Set(entries.map(identity));
    const left = (await listQuarantine(context, { all: true })).entries.filter((entry) => tried.has(identity(entry)));
    return { retried: entries.length, released: entries.length - left.length, entries: left, dryRun };
  });
}

/**
 * Marks the matching aggregates (all, without a filter) as known and given up: they no longer count as a problem, and
 * stay out of the other schema. The audit log names each of them.
 * @throws NOT_MIGRATED, UNKNOWN_AGENT, UNKNOWN_NAME, LOCK_HELD, INTERRUPTED
 */
export async function discardQuarantine(
  context: Context,
  options: QuarantineFilter & ChangeOptions = {},
): Promise<QuarantineDiscardResult> {
  const { store } = context;
  const where = conditionOf(context, { ...options, all: false });
  await requireLedger(store);
  const found = await store.snapshot((session) => entriesOf(session, where));
  const dryRun = options.dryRun === true;
  if (dryRun || found.length === 0) return { discarded: found.length, entries: found, dryRun };
  const discard = () =>
    store.transaction("quarantine discard", async (tx) => {
      const entries = await entriesOf(tx, where);
      const discarded = await tx.run(sql`UPDATE hive_quarantine SET state = 'discarded' WHERE ${where}`);
      for (const agent of new Set(entries.map((entry) => entry.agent))) {
        const own = entries.filter((entry) => entry.agent === agent);
        await audit(tx, context, {
          action: "quarantine discard",
          agent,
          reason: options.reason,
          before: { state: "quarantined" },
          after: {
            state: "discarded",
            entries: own.map(({ mapping, key, reason }) => ({ mapping, key, reason })),
          },
        });
      }
      return { discarded, entries: entries.map((entry) => ({ ...entry, state: "discarded" as const })), dryRun };
    });
  return store.withLock(REPAIR_LOCK, lockOptions(context, options, "hive quarantine discard"), discard);
}

function identity(entry: { mapping: string; key: string }): string {
  return JSON.stringify([entry.mapping, entry.key]);
}

async function entriesOf(session: Session, where: Sql): Promise<QuarantineEntry[]> {
  const rows = await session.all(sql`SELECT mapping, key, agent, direction, reason, state, at, attempts
    FROM hive_quarantine WHERE ${where} ORDER BY at, mapping, key`);
  return rows.map(toEntry);
}

function toEntry(row: Row): QuarantineEntry {
  return {
    mapping: String(row.mapping),
    key: String(row.key),
    agent: String(row.agent),
    direction: row.direction === "down" ? "down" : "up",
    reason: String(row.reason),
    state: row.state === "discarded" ? "discarded" : "quarantined",
    at: String(row.at),
    attempts: Number(row.attempts),
  };
}

/** An empty list filters nothing, as everywhere on the command line. */
function conditionOf(context: Context, filter: QuarantineFilter): Sql {
  const { mapping } = filter;
  const conditions: Sql[] = [sql`1 = 1`];
  if (!filter.all) conditions.push(sql`state = 'quarantined'`);
  if (filter.agents && filter.agents.length > 0) {
    conditions.push(sql`agent IN ${among(resolveAgents(context.mapping, filter.agents))}`);
  }
  if (mapping !== undefined) {
    conditions.push(sql`mapping = ${resolveAggregate(context.mapping, mapping).name}`);
  }
  if (filter.keys && filter.keys.length > 0) conditions.push(sql`key IN ${among(filter.keys)}`);
  return join(conditions, " AND ");
}
