import type { ChangeOptions, Context } from "../context.ts";
import type { EventsPruneResult } from "../results.ts";
import { audit } from "../rollout/audit.ts";
import type { Session } from "../storage/port.ts";
import { among, type Sql, sql } from "../storage/sql.ts";
import { Pace } from "../sync/pace.ts";
import { lastSeq, requireEvents, sequence } from "./outbox.ts";
import { hasSubscribers, lockOf, RETENTION, readSubscribers, type Subscriber } from "./subscribers.ts";

const HOUR_MS = 3_600_000;
/** Rows that are looked at to find old ones. */
const LOOKED_AT = 1_000;

/**
 * Deletes events that were recorded longer ago than the setting `events.retentionDays` says, as far as every live
 * subscriber is done with them, but for the newest one, after which the next is numbered; and dead letters that were
 * dropped as long ago. A subscriber that nobody has run for
 * `events.subscriberTimeoutHours` expires first: it is marked, told in the audit log and by `status` and `verify`, and
 * holds nothing back any more. Within the lock budget. Running it again goes on where it was interrupted.
 * @throws NOT_MIGRATED
 */
export async function prune(context: Context, options: ChangeOptions = {}): Promise<EventsPruneResult> {
  const { store } = context;
  await requireEvents(store);
  await sequence(store);
  const dryRun = options.dryRun === true;
  const expired = await expireSubscribers(context, options);
  const deleted = await deleteOld(context, options, expired);
  return { ...deleted, expired: expired.map(({ name, seenAt, unread }) => ({ name, seenAt, unread })), dryRun };
}

/**
 * What has to be done about events now and then, by whoever runs all the time (`hive sync --watch`): as {@link prune},
 * and nothing on a database that has no events yet.
 */
export async function tidyEvents(context: Context, abort?: AbortSignal): Promise<void> {
  if (await hasSubscribers(context.store)) await prune(context, abort ? { abort } : {});
}

interface Expired extends Pick<Subscriber, "name" | "seenAt" | "checkpoint"> {
  readonly unread: number;
}

async function expireSubscribers(context: Context, options: ChangeOptions): Promise<Expired[]> {
  const { store, clock, settings } = context;
  const oldest = new Date(clock.now() - settings.events.subscriberTimeoutHours * HOUR_MS).toISOString();
  const gone: Expired[] = [];
  for (const { name, seenAt, checkpoint, state } of await readSubscribers(store.read)) {
    if (state !== "active" || seenAt >= oldest || (await store.lockHolder(lockOf(name))) !== null) continue;
    const unread = Math.max(0, (await lastSeq(store.read)) - checkpoint);
    const expired = { name, seenAt, checkpoint, unread };
    if (options.dryRun || (await expire(context, options, expired))) gone.push(expired);
  }
  return gone;
}

/** False where it has come back in the meantime. */
function expire(context: Context, { reason }: ChangeOptions, { name, seenAt, ...rest }: Expired): Promise<boolean> {
  return context.store.transaction("expire", async (tx) => {
    await tx.serialize([RETENTION]);
    const done = await tx.run(sql`UPDATE hive_subscribers SET state = 'expired', epoch = epoch + 1
      WHERE name = ${name} AND state = 'active' AND seen_at = ${seenAt} AND checkpoint = ${rest.checkpoint}`);
    if (done === 0) return false;
    await audit(tx, context, {
      action: "subscriber expired",
      reason: reason ?? `Nobody has run it since ${seenAt}.`,
      before: { subscriber: name, state: "active", seenAt, ...rest },
      after: { subscriber: name, state: "expired" },
    });
    return true;
  });
}

type Deleted = Pick<EventsPruneResult, "deleted" | "letters" | "heldBy">;

async function deleteOld(context: Context, options: ChangeOptions, expired: readonly Expired[]): Promise<Deleted> {
  const { store, clock, settings } = context;
  const oldest = new Date(clock.now() - settings.events.retentionDays * 24 * HOUR_MS).toISOString();
  const pace = new Pace(store, clock, settings.lockBudget, "events prune");
  const except = expired.map(({ name }) => name);
  let deleted = 0;
  let heldBy: Deleted["heldBy"] = null;
  for (let after = 0; !options.abort?.aborted; ) {
    const floor = await floorOf(store.read, except);
    // What cannot be read as a time is as old as its neighbours.
    const rows = await store.read.all(sql`SELECT seq, recorded_at FROM hive_events
      WHERE seq > ${after} ORDER BY seq LIMIT ${LOOKED_AT}`);
    const last = Number(rows.at(-1)?.seq ?? 0);
    const old = rows.filter(({ recorded_at: at }) => String(at ?? "") < oldest).map(({ seq }) => Number(seq));
    if (old.length === 0) break;
    const [first = 0] = old.filter((seq) => floor !== null && seq > floor.checkpoint);
    if (first > 0 && floor) heldBy = { name: floor.name, checkpoint: floor.checkpoint };
    const free = first > 0 ? old.filter((seq) => seq < first) : old;
    deleted += await deleteSome(context, pace, options, free, except);
    if (first > 0 || rows.length < LOOKED_AT) break;
    after = last;
  }
  const dropped = sql`state = 'dropped' AND at < ${oldest}`;
  const [row] = await store.read.all(sql`SELECT count(*) AS n FROM hive_dead_letters WHERE ${dropped}`);
  const letters = Number(row?.n);
  if (letters > 0 && !options.dryRun) {
    await store.transaction("prune", (tx) => tx.run(sql`DELETE FROM hive_dead_letters WHERE ${dropped}`));
  }
  await pace.finish();
  return { deleted, letters, heldBy };
}

/** Of hive_subscribers. A list that is empty is left out: to databases, nothing can be said of what is not in it. */
function live(except: readonly string[]): Sql {
  return except.length === 0 ? sql`state = 'active'` : sql`state = 'active' AND name NOT IN ${among(except)}`;
}

/** The live subscriber that is furthest behind. */
async function floorOf(
  session: Session,
  except: readonly string[],
): Promise<{ name: string; checkpoint: number } | null> {
  const [row] = await session.all(sql`SELECT name, checkpoint FROM hive_subscribers
    WHERE ${live(except)} ORDER BY checkpoint, name LIMIT 1`);
  return row ? { name: String(row.name), checkpoint: Number(row.checkpoint) } : null;
}

async function deleteSome(
  context: Context,
  pace: Pace,
  { dryRun, abort }: ChangeOptions,
  seqs: readonly number[],
  except: readonly string[],
): Promise<number> {
  const { store } = context;
  /** Asked again where it is done: a subscriber may have been replayed in between. */
  const free = (some: readonly number[]) => sql`seq IN ${among(some)} AND seq < (SELECT max(seq) FROM hive_events)
    AND NOT EXISTS (SELECT 1 FROM hive_subscribers WHERE checkpoint < hive_events.seq AND ${live(except)})
    AND NOT EXISTS (SELECT 1 FROM hive_deliveries AS d WHERE d.seq = hive_events.seq
                    AND d.subscriber IN (SELECT name FROM hive_subscribers WHERE ${live(except)}))`;
  let done = 0;
  for (let at = 0; at < seqs.length && !abort?.aborted; ) {
    if (dryRun) {
      const some = seqs.slice(at, at + LOOKED_AT);
      at += some.length;
      const [row] = await store.read.all(sql`SELECT count(*) AS n FROM hive_events WHERE ${free(some)}`);
      done += Number(row?.n);
      continue;
    }
    await pace.observe();
    await pace.ready(abort);
    const some = seqs.slice(at, at + pace.slice);
    done += await store.transaction("prune", async (tx) => {
      await tx.serialize([RETENTION]);
      await pace.record(tx);
      return tx.run(sql`DELETE FROM hive_events WHERE ${free(some)}`);
    });
    pace.done(some.length);
    at += some.length;
  }
  return done;
}
