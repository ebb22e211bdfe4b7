import { HiveError } from "../errors.ts";
import type { Session, Store, Transaction, Tuple, Value, Writes } from "../storage/port.ts";
import { among, id, join, type Sql, sql } from "../storage/sql.ts";
import { keyText } from "./mapping.ts";
import type { Pace } from "./pace.ts";

/**
 * The change log (hive_changes): what triggers noted and nobody has carried over yet. The protocol that lets several
 * appliers, dual writers and a backfill work at once, whatever is killed:
 *
 * - Whoever projects an aggregate reads the log and the aggregate in one view, and in the transaction that writes
 *   looks whether the log has anything newer about it ({@link Window}): then it does not write.
 * - A change is removed in the transaction that carries it over ({@link consume}). One that is gone by then was
 *   carried over by somebody else: then it does not write either.
 * - What hive writes itself is marked ({@link marked}), so that triggers do not note it; what it wrote otherwise than
 *   by a backfill is in hive_written, for a backfill that read before and would write after it.
 */

/** `state`: neither was changed as far as anybody needs to carry it over, but events may follow from what it is now. */
export type ChangedSide = "legacy" | "unified" | "state";

/** The side of a row that an agent added to a table of events; its source is that table. */
export const EVENT = "event" as const;

/**
 * A point of the log: everything up to it was seen. Where transactions commit in another order than they took their
 * numbers, a number says nothing: there, `seen` is the view itself (a `pg_snapshot`), and `written` the transaction
 * before which all had ended by then.
 */
export interface LogPoint {
  readonly changes: number;
  readonly written: number;
  readonly seen?: string;
}

export const START_OF_LOG: LogPoint = { changes: 0, written: 0, seen: "1:1:" };

/** Nothing is newer: for who reads in the transaction in which he writes. */
export const NOW: LogPoint = { changes: Number.MAX_SAFE_INTEGER, written: Number.MAX_SAFE_INTEGER };

export function older(a: LogPoint, b: LogPoint): LogPoint {
  if (a.seen !== undefined && b.seen !== undefined) return sawLess(a.seen, b.seen) ? a : b;
  return { changes: Math.min(a.changes, b.changes), written: Math.min(a.written, b.written) };
}

/** Of two views of one database, one saw all that the other did: `xmin:xmax:running`. */
function sawLess(a: string, b: string): boolean {
  const [[minA = "", maxA = "", runA = ""], [minB = "", maxB = "", runB = ""]] = [a.split(":"), b.split(":")];
  if (maxA !== maxB) return BigInt(maxA) < BigInt(maxB);
  if (minA !== minB) return BigInt(minA) < BigInt(minB);
  return runA.split(",").length > runB.split(",").length;
}

/** One aggregate that was changed. `source` is the unified root table that it belongs to. */
export interface Change {
  readonly source: string;
  /** Null for a key that is NULL, binary or no whole number: such an aggregate cannot be looked for. */
  readonly key: string | null;
  readonly legacy: boolean;
  readonly unified: boolean;
  /** The rows of the log that say so. */
  readonly seqs: readonly number[];
  /** When the first of them was written, and the last: milliseconds since the epoch. */
  readonly at?: number;
  readonly lastAt?: number;
}

/** A row that an agent added to a table of events. */
export interface AddedEvent {
  readonly seq: number;
  readonly table: string;
  readonly key: Value;
}

type Writable<T> = { -readonly [K in keyof T]: T[K] extends readonly (infer E)[] ? E[] : T[K] };

export interface Batch {
  readonly changes: readonly Change[];
  /** Rows that say nothing (kept so that no number is given twice). */
  readonly empty: readonly number[];
  /** Tables of which a trigger could not note what was changed, by the rows of the log that say so. */
  readonly gaps: ReadonlyMap<string, readonly number[]>;
  readonly events: readonly AddedEvent[];
  readonly point: LogPoint;
  /** The log has more rows. */
  readonly more: boolean;
}

/** Whether this database has a change log at all. */
export async function hasChangeLog(store: Store, session: Session = store.read): Promise<boolean> {
  return (await store.table("hive_changes", session)) !== null;
}

export async function logPoint(session: Session): Promise<LogPoint> {
  if (!session.dialect.singleWriter) {
    const [row] = await session.all(
      sql`SELECT pg_current_snapshot()::text AS seen, pg_snapshot_xmin(pg_current_snapshot()) AS oldest`,
    );
    return { changes: 0, written: Number(row?.oldest), seen: String(row?.seen) };
  }
  const rows = await session.all(
    sql`SELECT (SELECT max(seq) FROM hive_changes) AS changes, (SELECT max(seq) FROM hive_written) AS written`,
  );
  return { changes: Number(rows[0]?.changes ?? 0), written: Number(rows[0]?.written ?? 0) };
}

/** Rows of the log that are read for a batch: an aggregate that is changed again and again has many. */
const MOST_ROWS = 5_000;

/**
 * The oldest changes of at most `limit` aggregates, in the order in which each was first changed. Of an aggregate that
 * is among them, all changes: one that was changed on both sides must not be taken for one that was changed on one.
 * Without the aggregates in `except` (as {@link nameOf} names them), however many of the oldest rows are theirs.
 */
export async function readBatch(session: Session, limit: number, except: ReadonlySet<string> = NONE): Promise<Batch> {
  const point = await logPoint(session);
  const most = Math.max(MOST_ROWS, limit);
  const found = new Map<string, Writable<Change>>();
  const empty: number[] = [];
  const gaps = new Map<string, number[]>();
  const events: AddedEvent[] = [];
  let more = false;
  const note = ([seq, side, source, value = null, at]: Tuple) => {
    if (side === null) {
      empty.push(Number(seq));
      return;
    }
    if (side === GAP) {
      const own = gaps.get(String(source));
      if (own) own.push(Number(seq));
      else gaps.set(String(source), [Number(seq)]);
      return;
    }
    if (side === EVENT) {
      if (events.length < MOST_EVENTS) events.push({ seq: Number(seq), table: String(source), key: value });
      else more = true;
      return;
    }
    const key = keyText(value);
    const name = nameOf(String(source), key);
    if (except.has(name)) return;
    let change = found.get(name);
    if (!change) {
      if (found.size >= limit) {
        more = true;
        return;
      }
      change = { source: String(source), key, legacy: false, unified: false, seqs: [], at: fromJulianDay(Number(at)) };
      found.set(name, change);
    }
    if (side !== "state") change[side === "unified" ? "unified" : "legacy"] = true;
    change.seqs.push(Number(seq));
    change.lastAt = fromJulianDay(Number(at));
  };
  let full = true;
  let last = 0;
  while (full && found.size === 0 && gaps.size === 0 && events.length === 0) {
    const after = last === 0 ? sql`` : sql`WHERE seq > ${last}`;
    const rows = await session.tuples(
      sql`SELECT seq, side, source, key, at FROM hive_changes ${after} ORDER BY seq LIMIT ${most}`,
    );
    for (const row of rows) note(row);
    full = rows.length === most;
    last = Number(rows.at(-1)?.[0] ?? last);
  }
  if (full) {
    more = true;
    // The rows themselves stay for the next time: of an aggregate that is never at rest there may be any number.
    const keys = [...found.values()].map(({ key }) => key).filter((key) => key !== null);
    const later = await session.tuples(
      sql`SELECT DISTINCT side, source, key FROM hive_changes
          WHERE seq > ${last} AND side IN ('legacy', 'unified') AND key IN ${among(bothForms(keys))}`,
    );
    for (const [side, source, value] of later) {
      const change = found.get(nameOf(String(source), keyText(value)));
      if (change) change[side === "unified" ? "unified" : "legacy"] = true;
    }
  }
  return { changes: [...found.values()], empty, gaps, events, point, more };
}

const NONE: ReadonlySet<string> = new Set();

/** The side of a row by which a trigger says that it could not note what was changed; its source is the table. */
const GAP = "gap";

/** Inside a write transaction: each aggregate of this table is to be looked at, from the beginning. */
export async function noteGap(tx: Session, table: string, at: string): Promise<void> {
  await tx.run(sql`INSERT INTO hive_gaps (table_name, noticed_at, cursor) VALUES (${table}, ${at}, NULL)
    ON CONFLICT (table_name) DO UPDATE SET noticed_at = excluded.noticed_at, cursor = NULL`);
}

/** The tables of which something was changed that is not noted, and was not looked for to the end yet. */
export async function unnotedTables(session: Session): Promise<string[]> {
  const rows = await session.all(
    session.dialect.singleWriter
      ? sql`SELECT table_name FROM hive_gaps ORDER BY table_name`
      : sql`SELECT table_name FROM hive_gaps UNION SELECT source FROM hive_changes WHERE side = 'gap' ORDER BY 1`,
  );
  return rows.map((row) => String(row.table_name));
}

/** What identifies an aggregate in the log. */
export function nameOf(source: string, key: string | null): string {
  return key === null ? `${source}\u0000` : `${source}\u0000=${key}`;
}

/** How many changes wait, and for how long the oldest has (milliseconds; null where none waits). */
export async function backlog(session: Session, now: number): Promise<{ changes: number; oldestMs: number | null }> {
  const rows = await session.all(sql`SELECT count(*) AS n, min(at) AS oldest FROM hive_changes WHERE side IS NOT NULL`);
  const changes = Number(rows[0]?.n ?? 0);
  const oldest = rows[0]?.oldest;
  if (changes === 0 || typeof oldest !== "number") return { changes, oldestMs: null };
  return { changes, oldestMs: Math.max(0, Math.round(now - fromJulianDay(oldest))) };
}

const JULIAN_EPOCH = 2_440_587.5;
const DAY_MS = 86_400_000;

/** Milliseconds since the epoch. */
export function fromJulianDay(day: number): number {
  return (day - JULIAN_EPOCH) * DAY_MS;
}

/** Nobody knows how long they are. */
const MOST_EVENTS = 100;

/**
 * Of these aggregates of one unified root table, those that have changes which wait, and on which side. With `states`
 * also those of which nothing is to be carried over.
 */
export async function pendingAmong(
  session: Session,
  source: string,
  keys: readonly string[],
  states = false,
): Promise<Map<string, { legacy: boolean; unified: boolean; seqs: number[] }>> {
  const found = new Map<string, { legacy: boolean; unified: boolean; seqs: number[] }>();
  if (keys.length === 0) return found;
  const rows = await session.tuples(
    sql`SELECT seq, side, key FROM hive_changes WHERE side IS NOT NULL AND source = ${source} AND key IN ${among(bothForms(keys))}
        ${states ? sql`` : sql`AND side <> 'state'`}`,
  );
  const wanted = new Set(keys);
  for (const [seq, side, value] of rows) {
    const key = keyText(value);
    if (key === null || !wanted.has(key)) continue;
    let one = found.get(key);
    if (!one) {
      one = { legacy: false, unified: false, seqs: [] };
      found.set(key, one);
    }
    if (side !== "state") one[side === "unified" ? "unified" : "legacy"] = true;
    one.seqs.push(Number(seq));
  }
  return found;
}

/** The log keeps a key as it is in the table that changed: 7 in one, '7' in the other. */
function bothForms(keys: readonly Value[]): Value[] {
  const values = new Set<Value>(keys);
  for (const key of keys) {
    if (typeof key === "bigint") values.add(key.toString());
    else if (typeof key === "string" && /^(0|-?[1-9]\d{0,18})$/.test(key)) values.add(BigInt(key));
  }
  return [...values];
}

/**
 * The aggregates (as {@link nameOf} names them) that somebody changed after this point, or, with `own`, that hive wrote.
 */
async function movedSince(
  session: Session,
  point: LogPoint,
  own: boolean,
): Promise<{ names: readonly string[]; unnoted: boolean }> {
  const { seen } = point;
  const [changed, written] =
    session.dialect.singleWriter || seen === undefined
      ? [sql`seq > ${point.changes}`, sql`seq > ${point.written}`]
      : [unseen(seen), unseen(seen)];
  const rows = await session.tuples(
    own
      ? sql`SELECT source, key, side FROM hive_changes WHERE ${changed} AND side IS NOT NULL
          UNION ALL SELECT source, key, 'written' FROM hive_written WHERE ${written}`
      : sql`SELECT source, key, side FROM hive_changes WHERE ${changed} AND side IS NOT NULL`,
  );
  return {
    names: rows.map(([source, key]) => nameOf(String(source), keyText(key))),
    unnoted: rows.some(([, , side]) => side === GAP),
  };
}

/** Rows of transactions that this view did not see. The first condition is what the index knows. */
function unseen(view: string): Sql {
  return sql`xid >= pg_snapshot_xmin(${view}::pg_snapshot) AND NOT pg_visible_in_snapshot(xid, ${view}::pg_snapshot)`;
}

/** Rows of hive_written that a check which saw up to `written` did not see, or not for certain. */
export function writtenSince(session: Session, written: number): Sql {
  return session.dialect.singleWriter ? sql`seq > ${written}` : sql`xid >= ${String(written)}::xid8`;
}

/**
 * What has moved since some aggregates were read: looked up outside of the lock as often as one likes, so that under it
 * there is little left to look at.
 */
export class Window {
  private point: LogPoint;
  private readonly names = new Set<string>();
  /** Whether hive's own writes count too: not for who finds out otherwise that somebody was quicker. */
  private readonly own: boolean;
  private gap = false;

  constructor(point: LogPoint, own: boolean) {
    this.point = point;
    this.own = own;
  }

  /** Anything that moved until now. */
  async look(session: Session): Promise<ReadonlySet<string>> {
    if (this.point === NOW) return this.names;
    const point = await logPoint(session);
    const grown =
      point.seen === undefined
        ? point.changes > this.point.changes || (this.own && point.written > this.point.written)
        : point.seen !== this.point.seen;
    if (grown) {
      const { names, unnoted } = await movedSince(session, this.point, this.own);
      for (const name of names) this.names.add(name);
      this.gap ||= unnoted;
      this.point = point;
    }
    return this.names;
  }

  /** Something moved of which nobody knows what: it may be any aggregate. */
  get unnoted(): boolean {
    return this.gap;
  }
}

/** Inside a write transaction: of these rows of the log, those that are still there. */
export async function stillThere(tx: Session, seqs: readonly number[]): Promise<ReadonlySet<number>> {
  const found = new Set<number>();
  for (const some of slices(seqs)) {
    const rows = await tx.all(sql`SELECT seq FROM hive_changes WHERE side IS NOT NULL AND seq IN ${among(some)}`);
    for (const row of rows) found.add(Number(row.seq));
  }
  return found;
}

/** Removes rows of the log, in the transaction that did what they asked for. */
export async function consume(tx: Pick<Session, "run" | "dialect">, seqs: readonly number[]): Promise<void> {
  for (const some of slices(seqs)) {
    if (!tx.dialect.singleWriter) {
      await tx.run(sql`DELETE FROM hive_changes WHERE seq IN ${among(some)}`);
      continue;
    }
    // A number that was given again could be taken for one that a slower reader has already seen.
    await tx.run(
      sql`UPDATE hive_changes SET side = NULL WHERE seq = (SELECT max(seq) FROM hive_changes) AND seq IN ${among(some)}`,
    );
    await tx.run(
      sql`DELETE FROM hive_changes WHERE seq IN ${among(some)} AND seq < (SELECT max(seq) FROM hive_changes)`,
    );
  }
}

/** Removes everything from the log: nobody needs it any more. */
export async function consumeAll(tx: Session): Promise<void> {
  if (!tx.dialect.singleWriter) {
    await tx.run(sql`DELETE FROM hive_changes`);
    return;
  }
  await tx.run(sql`DELETE FROM hive_changes WHERE seq < (SELECT max(seq) FROM hive_changes)`);
  await tx.run(sql`UPDATE hive_changes SET side = NULL`);
}

const SEQS_PER_STATEMENT = 512;

function* slices(seqs: readonly number[]): Generator<readonly number[]> {
  for (let start = 0; start < seqs.length; start += SEQS_PER_STATEMENT) {
    yield seqs.slice(start, start + SEQS_PER_STATEMENT);
  }
}

/** Notes that hive wrote these aggregates, in the same transaction. */
export async function noteWritten(tx: Writes, source: string, keys: readonly string[]): Promise<void> {
  if (keys.length === 0) return;
  await tx.insert(
    "hive_written",
    WRITTEN_COLUMNS,
    keys.map((key) => [source, key]),
  );
}

/** One list: the adapter keeps the texts of its statements. */
const WRITTEN_COLUMNS = ["source", "key"];

/** So many keys are kept for a check that may never come. */
export const MOST_WRITTEN = 200_000;

/**
 * Forgets what hive wrote and every check has seen that got as far as `written` (null: all but the newest
 * {@link MOST_WRITTEN}); the number of rows. Does nothing while a backfill works: it may need any of them. One that froze
 * can write no more afterwards.
 */
export async function pruneWritten(
  store: Store,
  pace: Pace,
  written: number | null,
  abort?: AbortSignal,
): Promise<number> {
  const [row] = await store.read.all(sql`SELECT min(seq) AS first, max(seq) AS last FROM hive_written`);
  const last = Number(row?.last ?? 0);
  if (!store.dialect.singleWriter) {
    return pruneBefore(store, pace, written, last - Number(row?.first ?? 0), abort);
  }
  const upTo = written;
  const to = Math.min(upTo ?? last - MOST_WRITTEN, last - 1);
  // Each lock and each slice is a commit, which can fail an agent's transaction: not for a handful of rows.
  if (to - Number(row?.first ?? 0) < FEW_WRITTEN) return 0;
  try {
    return await store.withLock("backfill", { timeoutMs: 0, purpose: "hive, forgetting what it wrote" }, async () => {
      let gone = 0;
      for (let start = Number(row?.first); start <= to && !abort?.aborted; ) {
        await pace.observe();
        await pace.ready(abort);
        const end = Math.min(start + pace.slice - 1, to);
        gone += await store.transaction("prune", async (tx) => {
          await pace.record(tx);
          return tx.run(sql`DELETE FROM hive_written WHERE seq <= ${end}`);
        });
        pace.done(end - start + 1);
        start = end + 1;
      }
      await pace.finish();
      return gone;
    });
  } catch (error) {
    if (error instanceof HiveError && error.code === "LOCK_HELD") return 0;
    throw error;
  }
}

const FEW_WRITTEN = 500;

/**
 * Where transactions commit in another order than they took their numbers: by transaction, and all that one wrote or
 * nothing. A check that has seen less than what goes can no longer go on from there, and is forgotten with it.
 */
async function pruneBefore(
  store: Store,
  pace: Pace,
  written: number | null,
  span: number,
  abort: AbortSignal | undefined,
): Promise<number> {
  if (written === null && span < MOST_WRITTEN) return 0;
  const [row] = await store.read.all(
    written === null
      ? sql`SELECT xid::text AS xid FROM hive_written ORDER BY ${BY_XID} DESC LIMIT 1 OFFSET ${MOST_WRITTEN}`
      : sql`SELECT xid::text AS xid FROM hive_written WHERE xid < ${String(written)}::xid8 LIMIT 1 OFFSET ${FEW_WRITTEN}`,
  );
  if (row === undefined) return 0;
  const end = written ?? Number(row.xid) + 1;
  const old = sql`xid < ${String(end)}::xid8`;
  try {
    return await store.withLock("backfill", { timeoutMs: 0, purpose: "hive, forgetting what it wrote" }, async () => {
      let gone = 0;
      for (let count = 1; count > 0 && !abort?.aborted; ) {
        await pace.observe();
        await pace.ready(abort);
        const slice = pace.slice;
        count = await store.transaction("prune", async (tx) => {
          await pace.record(tx);
          await tx.run(sql`DELETE FROM hive_checked WHERE written < ${end}`);
          return tx.run(sql`DELETE FROM hive_written WHERE seq IN
            (SELECT seq FROM hive_written WHERE ${old} ORDER BY ${BY_XID} LIMIT ${slice})`);
        });
        pace.done(count);
        gone += count;
      }
      await pace.finish();
      return gone;
    });
  } catch (error) {
    if (error instanceof HiveError && error.code === "LOCK_HELD") return 0;
    throw error;
  }
}

/** Not by the name of a result's column. */
const BY_XID = sql`${id("hive_written", "xid")}`;

/** Adds changes as if triggers had noted them. */
export async function addChanges(
  tx: Transaction,
  side: ChangedSide,
  source: string,
  keys: readonly Value[],
): Promise<void> {
  const rows: Sql[] = keys.map((key) => sql`(${side}, ${source}, ${key}, ${tx.dialect.julianNow})`);
  for (let start = 0; start < rows.length; start += SEQS_PER_STATEMENT) {
    const some = rows.slice(start, start + SEQS_PER_STATEMENT);
    await tx.run(sql`INSERT INTO hive_changes (side, source, key, at) VALUES ${join(some)}`);
  }
}
