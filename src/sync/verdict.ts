import { createHash } from "node:crypto";
import type { Context } from "../context.ts";
import { HiveError } from "../errors.ts";
import type { Session } from "../storage/port.ts";
import { sql } from "../storage/sql.ts";
import { captureState } from "./capture.ts";
import { hasChangeLog, logPoint, pruneWritten, unnotedTables } from "./changes.ts";
import { type Counts, driftOf, NO_COUNTS } from "./compare.ts";
import { Pace } from "./pace.ts";
import { introspectAll, type Who } from "./page.ts";

/** Up to where a check saw what was written, and for which agents and under what that says something later. */
export interface Point {
  readonly written: number;
  /** By agent: its flags and the tables as they were. Agents of which nothing is captured have none. */
  readonly basis: ReadonlyMap<string, string>;
}

/** What a check of everything came to. */
export interface Verdict {
  /** What was written later than this is no part of it. */
  readonly at: string;
  readonly counts: ReadonlyMap<string, Counts>;
  readonly point: Point | null;
}

/** Null where what is written is not noted. */
export async function readPoint(context: Context, session: Session, who: Who): Promise<Point | null> {
  if (!(await hasChangeLog(context.store, session)) || (await captureState(context, session)).blind) return null;
  const tables = createHash("sha256")
    .update(JSON.stringify(await shapes(context, session)))
    .digest("hex");
  const basis = new Map<string, string>();
  for (const agent of who.agents) {
    if (who.stage(agent) === "off") continue;
    const flags = await session.all(sql`SELECT flag, value, changed_at FROM hive_flags
      WHERE agent = ${agent} AND flag IN ('dual-write', 'reads') ORDER BY flag`);
    basis.set(agent, JSON.stringify([flags.map((row) => [row.flag, row.value, row.changed_at]), tables]));
  }
  return { written: (await logPoint(session)).written, basis };
}

/** A column more or less can change what every aggregate becomes. */
async function shapes(context: Context, session: Session): Promise<unknown> {
  const layouts = await introspectAll(context, session);
  return layouts.map(({ mapping, legacy, unified }) => [
    mapping.name,
    [legacy.root, ...legacy.related, unified.root, ...unified.related].map(({ table, types }) => [table, [...types]]),
  ]);
}

/**
 * From where on `check --changed` has to look, and when the check was that looked at everything before.
 * @throws GUARD_REFUSED where only a full check can say anything
 */
export async function pointBefore(
  context: Context,
  session: Session,
  agents: readonly string[],
  now: Point | null,
): Promise<{ written: number; since: string }> {
  const { broken } = await captureState(context, session);
  const unseen = [...new Set([...broken, ...(await unnotedTables(session))])];
  if (now === null) throw needsFullCheck("a mark was left in hive_applying, so that nothing was noted", "hive sync");
  if (unseen.length > 0) {
    throw needsFullCheck(`what was written to ${unseen.join(", ")} was not all noted`, "hive sync");
  }
  const first = await session.all(sql`SELECT min(seq) AS seq FROM hive_written`);
  const oldest = Number(first[0]?.seq ?? 0);
  let point: { written: number; since: string } | undefined;
  for (const agent of agents) {
    const [row] = await session.all(sql`SELECT at, basis, written FROM hive_checked WHERE agent = ${agent}`);
    const basis = now.basis.get(agent);
    if (basis === undefined) throw needsFullCheck(`what is written by ${agent} is not captured while it is off`);
    if (!row) throw needsFullCheck(`no full check of ${agent} has found it free of drift since`);
    if (row.basis !== basis)
      throw needsFullCheck(`the flags of ${agent} or the tables were changed since its last one`);
    const since = String(row.at);
    const backfills = await session.all(sql`SELECT 1 FROM hive_backfill WHERE agent = ${agent}
      AND (state = 'running' OR coalesce(finished_at, started_at) >= ${since}) LIMIT 1`);
    if (backfills.length > 0) throw needsFullCheck(`${agent} was backfilled since its last one`);
    const written = Number(row.written);
    // The numbers have no holes: what comes before the oldest row was forgotten.
    if (session.dialect.singleWriter && oldest > written + 1)
      throw needsFullCheck("too much was written since the last one");
    point = {
      written: Math.min(written, point?.written ?? written),
      since: point && point.since < since ? point.since : since,
    };
  }
  if (!point) throw needsFullCheck("no agent was asked about");
  return point;
}

function needsFullCheck(why: string, first?: string): HiveError {
  const run = first === undefined ? "Run `hive check`" : `Run \`${first}\`, then \`hive check\``;
  return new HiveError("GUARD_REFUSED", `A full check is needed: ${why}.`, {
    hint: `${run} without --changed.`,
    details: { why },
  });
}

/**
 * Notes what a check of everything found, for the guards of the stages, and up to where it saw what was written; null, or
 * why it could not be noted. Then forgets what no check needs any more.
 */
export async function recordVerdict(context: Context, who: Who, verdict: Verdict): Promise<string | null> {
  const { at, point } = verdict;
  const { store } = context;
  const remembers = await hasChangeLog(store);
  return noting(async () => {
    await store.transaction("check record", async (tx) => {
      // A verdict that was reached under other flags says nothing about the agent as it is now.
      await who.assertUnchanged(tx, context);
      for (const agent of who.agents) {
        const found = verdict.counts.get(agent) ?? NO_COUNTS;
        await tx.run(sql`INSERT INTO hive_checks
            (agent, at, compared, identical, missing, extra, different, in_flight, quarantined)
          VALUES (${agent}, ${at}, ${found.compared}, ${found.identical}, ${found.missing}, ${found.extra},
            ${found.different}, ${found.inFlight}, ${found.quarantined})
          ON CONFLICT (agent) DO UPDATE SET at = excluded.at, compared = excluded.compared,
            identical = excluded.identical, missing = excluded.missing, extra = excluded.extra,
            different = excluded.different, in_flight = excluded.in_flight, quarantined = excluded.quarantined`);
        if (!remembers) continue;
        const basis = driftOf(found) === 0 ? point?.basis.get(agent) : undefined;
        await tx.run(sql`DELETE FROM hive_checked WHERE agent = ${agent}`);
        if (basis === undefined || point === null) continue;
        await tx.run(sql`INSERT INTO hive_checked (agent, at, basis, written)
          VALUES (${agent}, ${at}, ${basis}, ${point.written})`);
      }
    });
    if (remembers) await forget(context);
  });
}

/** After a check of what was changed found no drift: the next one goes on from here. */
export async function advancePoint(context: Context, who: Who, point: Point): Promise<string | null> {
  return noting(async () => {
    await context.store.transaction("check record", async (tx) => {
      await who.assertUnchanged(tx, context);
      for (const [agent, basis] of point.basis) {
        await tx.run(sql`UPDATE hive_checked SET written = ${point.written}
          WHERE agent = ${agent} AND basis = ${basis} AND written < ${point.written}`);
      }
    });
    await forget(context);
  });
}

async function forget(context: Context): Promise<void> {
  const { store, clock, settings } = context;
  const [row] = await store.read.all(sql`SELECT min(written) AS written FROM hive_checked`);
  if (typeof row?.written !== "number") return;
  await pruneWritten(store, new Pace(store, clock, settings.lockBudget, "prune"), row.written);
}

/** The comparison stands by itself; the result says that it was not noted. */
async function noting(work: () => Promise<void>): Promise<string | null> {
  try {
    await work();
    return null;
  } catch (error) {
    const why = error instanceof HiveError ? UNRECORDABLE.get(error.code) : undefined;
    if (why === undefined) throw error;
    return why;
  }
}

const UNRECORDABLE: ReadonlyMap<string, string> = new Map([
  ["DATABASE_READ_ONLY", "the database cannot be written"],
  ["DATABASE_BUSY", "somebody else kept the database locked"],
  ["DISK_FULL", "the disk is full"],
  ["GUARD_REFUSED", "flags were changed meanwhile"],
]);
