import { isoTime } from "../clock.ts";
import type { ChangeOptions, Context } from "../context.ts";
import { HiveError, nearest } from "../errors.ts";
import type {
  EventsReplayResult,
  EventsSubscribersResult,
  EventsUnsubscribeResult,
  SubscriberEntry,
} from "../results.ts";
import { audit, parsed } from "../rollout/audit.ts";
import type { Row, Session, Store, Transaction } from "../storage/port.ts";
import { sql } from "../storage/sql.ts";
import { readTime } from "./event.ts";
import { lastSeq, requireEvents, sequence } from "./outbox.ts";

/** Where a subscriber stands. */
export interface Subscriber {
  readonly name: string;
  readonly patterns: readonly string[];
  readonly checkpoint: number;
  readonly epoch: number;
  readonly state: "active" | "expired";
  readonly createdAt: string;
  readonly seenAt: string;
  readonly delivered: number;
  readonly failed: number;
}

/** The lock that whoever delivers to a subscriber holds. */
export function lockOf(name: string): string {
  return `subscriber ${name}`;
}

/** Taken by what moves a subscriber to events that it has read, and by what deletes such events. */
export const RETENTION = "hive_events retention";

export async function hasSubscribers(store: Store, session: Session = store.read): Promise<boolean> {
  return (await store.table("hive_subscribers", session)) !== null;
}

const COLUMNS = sql`name, patterns, checkpoint, epoch, state, created_at, seen_at, delivered, failed`;

export async function readSubscriber(session: Session, name: string): Promise<Subscriber | null> {
  const [row] = await session.all(sql`SELECT ${COLUMNS} FROM hive_subscribers WHERE name = ${name}`);
  return row ? toSubscriber(row) : null;
}

export async function readSubscribers(session: Session): Promise<Subscriber[]> {
  return (await session.all(sql`SELECT ${COLUMNS} FROM hive_subscribers ORDER BY name`)).map(toSubscriber);
}

function toSubscriber(row: Row): Subscriber {
  const patterns = parsed(row.patterns);
  return {
    name: String(row.name),
    patterns: Array.isArray(patterns) ? patterns.map(String) : [],
    checkpoint: Number(row.checkpoint),
    epoch: Number(row.epoch),
    state: row.state === "expired" ? "expired" : "active",
    createdAt: String(row.created_at),
    seenAt: String(row.seen_at),
    delivered: Number(row.delivered),
    failed: Number(row.failed),
  };
}

const MOST_NAME = 200;

interface Entering {
  readonly name: string;
  readonly patterns: readonly string[];
  readonly from?: "now" | "start" | number;
  readonly maxAttempts?: number;
  readonly batch?: number;
}

/**
 * Makes the subscriber where there is none of this name.
 * @throws NOT_MIGRATED, USAGE, GUARD_REFUSED (expired, and events that it had not read are gone)
 */
export async function enter(context: Context, options: Entering): Promise<void> {
  const { store, clock } = context;
  const { name, patterns, from = "now" } = options;
  checkOptions(options);
  await requireEvents(store);
  const known = await readSubscriber(store.read, name);
  if (known) return refuseLost(store.read, known);
  await sequence(store);
  await store.transaction("subscribe", async (tx) => {
    await tx.serialize([RETENTION]);
    const checkpoint = from === "now" ? await lastSeq(tx) : from === "start" ? 0 : from;
    const now = isoTime(clock);
    await tx.run(sql`INSERT INTO hive_subscribers (name, patterns, checkpoint, epoch, state, created_at, seen_at, delivered, failed)
      VALUES (${name}, ${JSON.stringify(patterns)}, ${checkpoint}, 0, 'active', ${now}, ${now}, 0, 0)
      ON CONFLICT (name) DO NOTHING`);
  });
}

function checkOptions({ name, patterns, from, maxAttempts = 1, batch = 1 }: Entering): void {
  const refuse = (message: string) => new HiveError("USAGE", message, { hint: "Correct what `subscribe` is given." });
  const count = (value: number) => Number.isSafeInteger(value) && value >= 1;
  if (typeof name !== "string" || name.trim() === "" || name.length > MOST_NAME) {
    throw refuse(`A subscriber needs a name of 1 to ${MOST_NAME} characters.`);
  }
  if (patterns.length === 0 || patterns.some((pattern) => typeof pattern !== "string" || pattern === "")) {
    throw refuse(`Subscriber "${name}" needs patterns: event types, task.*, *.completed or *.`);
  }
  if (typeof from === "number" && !(Number.isSafeInteger(from) && from >= 0)) {
    throw refuse(`Subscriber "${name}" cannot begin after event ${from}: numbers are whole.`);
  }
  if (!count(maxAttempts) || !count(batch)) throw refuse("`maxAttempts` and `batch` are whole numbers from 1.");
}

/** Events that an expired subscriber had not read may have been deleted since: that is not passed over in silence. */
async function refuseLost(session: Session, { name, state, checkpoint, seenAt }: Subscriber): Promise<void> {
  if (state === "active") return;
  const [next] = await session.all(sql`SELECT min(seq) AS seq FROM hive_events WHERE seq > ${checkpoint}`);
  const first = next?.seq === null ? (await lastSeq(session)) + 1 : Number(next?.seq);
  if (first <= checkpoint + 1) return;
  const lost = first - checkpoint - 1;
  throw new HiveError(
    "GUARD_REFUSED",
    `Subscriber "${name}" was away since ${seenAt} and has expired: ${lost} ${lost === 1 ? "event" : "events"} that it had not read ${lost === 1 ? "is" : "are"} deleted.`,
    {
      hint: `Once you have seen to what it missed: \`hive events replay ${name} --from start\` has it go on with the oldest event there is.`,
      details: { name, checkpoint, first },
    },
  );
}

/**
 * For whoever delivers from now on: notes what it asks for, and that it is back where it had expired.
 * @throws UNKNOWN_NAME (removed), GUARD_REFUSED, NOT_MIGRATED
 */
export async function takeUp(context: Context, name: string, patterns: readonly string[]): Promise<void> {
  const { store, clock } = context;
  await requireEvents(store);
  const known = await readSubscriber(store.read, name);
  if (!known) {
    throw new HiveError("UNKNOWN_NAME", `Subscriber "${name}" was removed.`, {
      hint: "Subscribe again to begin anew.",
    });
  }
  await refuseLost(store.read, known);
  const wanted = JSON.stringify(patterns);
  const same = known.state === "active" && wanted === JSON.stringify(known.patterns);
  if (same && clock.now() - Date.parse(known.seenAt) < FRESH_MS) return;
  await store.transaction("take up", async (tx) => {
    await tx.serialize([RETENTION]);
    const row = await readSubscriber(tx, name);
    if (!row) return;
    await refuseLost(tx, row);
    await tx.run(sql`UPDATE hive_subscribers SET patterns = ${wanted}, state = 'active', seen_at = ${isoTime(clock)}
      WHERE name = ${name}`);
    if (row.state === "active") return;
    await audit(tx, context, {
      action: "subscriber back",
      before: { subscriber: name, state: "expired", checkpoint: row.checkpoint },
      after: { subscriber: name, state: "active", checkpoint: row.checkpoint },
    });
  });
}

const FRESH_MS = 60_000;

/** All subscribers and how far each is. Empty on a database that hive has never touched. */
export async function listSubscribers(context: Context): Promise<EventsSubscribersResult> {
  const { store } = context;
  const found = await store.snapshot(async (session) => {
    if (!(await hasSubscribers(store, session))) return [];
    const last = (await lastSeq(session)) + (await unnumbered(session));
    const undone = await session.all(
      sql`SELECT subscriber, state, count(*) AS n FROM hive_deliveries GROUP BY subscriber, state`,
    );
    const dead = await session.all(
      sql`SELECT subscriber, count(*) AS n FROM hive_dead_letters WHERE state = 'dead' GROUP BY subscriber`,
    );
    const count = (rows: readonly Row[], name: string, state?: string) =>
      Number(rows.find((row) => row.subscriber === name && (!state || row.state === state))?.n ?? 0);
    return (await readSubscribers(session)).map((one) => ({
      ...one,
      behind: Math.max(0, last - one.checkpoint),
      retrying: count(undone, one.name, "failed"),
      waiting: count(undone, one.name, "waiting"),
      deadLetters: count(dead, one.name),
    }));
  });
  const subscribers: SubscriberEntry[] = [];
  for (const { epoch: _, ...one } of found) {
    const holder = await store.lockHolder(lockOf(one.name));
    subscribers.push({
      ...one,
      patterns: [...one.patterns],
      running: holder !== null,
      holder: holder && `process ${holder.pid} on ${holder.host}`,
    });
  }
  return { subscribers };
}

/** Events that have no number yet: they count as well. */
async function unnumbered(session: Session): Promise<number> {
  const [row] = await session.all(sql`SELECT count(*) AS n FROM hive_events WHERE seq IS NULL`);
  return Number(row?.n);
}

/** For `status` and `verify`. */
export function expiredText(expired: readonly Subscriber[]): string {
  const which = expired.map(({ name, seenAt }) => `${name}, which nobody has run since ${seenAt}`);
  return `${expired.length} ${expired.length === 1 ? "subscriber has" : "subscribers have"} expired (${which.join("; ")})`;
}

/** @throws UNKNOWN_NAME with the nearest */
export async function requireSubscriber(session: Session, name: string): Promise<Subscriber> {
  const found = await readSubscriber(session, name);
  if (found) return found;
  const names = (await readSubscribers(session)).map((one) => one.name);
  const guess = nearest(name, names);
  throw new HiveError("UNKNOWN_NAME", `There is no subscriber "${name}"${guess ? `; did you mean "${guess}"?` : "."}`, {
    hint: "`hive events subscribers` lists them.",
    details: { name, nearest: guess ?? null, names },
  });
}

export interface ReplayOptions extends ChangeOptions {
  /** The first event to be delivered again: its number, a time (ISO; the first one that was recorded then or later), or "start". */
  readonly from: "start" | number | string;
}

/**
 * Has a subscriber begin again at an event that it has passed: it sees that one and all later ones once more. What waits
 * for a further attempt, and its dead letters, from there on are delivered in their turn. A subscriber that runs follows
 * at once. An expired one is active again.
 * @throws NOT_MIGRATED, UNKNOWN_NAME, USAGE (no such place, or one that lies ahead of it)
 */
export async function replay(context: Context, name: string, options: ReplayOptions): Promise<EventsReplayResult> {
  const { store, clock } = context;
  await requireEvents(store);
  await sequence(store);
  const from = await placeOf(store.read, options.from);
  const dryRun = options.dryRun === true;
  const look = async (session: Session) => {
    const known = await requireSubscriber(session, name);
    if (known.state === "active" && from > known.checkpoint + 1) {
      throw new HiveError(
        "USAGE",
        `Subscriber "${name}" is at event ${known.checkpoint}: to go on with ${from} would leave out what it has not read.`,
        { hint: `Name an event up to ${known.checkpoint}.`, details: { checkpoint: known.checkpoint, from } },
      );
    }
    const [row] = await session.all(sql`SELECT count(*) AS n FROM hive_events WHERE seq >= ${from}`);
    return { known, events: Number(row?.n) };
  };
  const result = ({ known, events }: Awaited<ReturnType<typeof look>>): EventsReplayResult => ({
    ...{ subscriber: name, from, checkpoint: known.checkpoint, events, dryRun },
  });
  if (dryRun) return result(await store.snapshot(look));
  return store.transaction("replay", async (tx) => {
    await tx.serialize([RETENTION]);
    const found = await look(tx);
    await tx.run(sql`UPDATE hive_subscribers SET checkpoint = ${from - 1}, epoch = epoch + 1, state = 'active',
      seen_at = ${isoTime(clock)} WHERE name = ${name}`);
    await tx.run(sql`DELETE FROM hive_deliveries WHERE subscriber = ${name} AND seq >= ${from}`);
    await tx.run(sql`DELETE FROM hive_dead_letters WHERE subscriber = ${name} AND seq >= ${from} AND state = 'dead'`);
    await audit(tx, context, {
      action: "events replay",
      reason: options.reason,
      before: { subscriber: name, state: found.known.state, checkpoint: found.known.checkpoint },
      after: { subscriber: name, state: "active", checkpoint: from - 1 },
    });
    return result(found);
  });
}

/** The number of the first event that is meant. */
async function placeOf(session: Session, from: ReplayOptions["from"]): Promise<number> {
  const first = async (where = sql`seq > 0`) => {
    const [row] = await session.all(sql`SELECT min(seq) AS seq FROM hive_events WHERE ${where}`);
    return row?.seq === null || row?.seq === undefined ? (await lastSeq(session)) + 1 : Number(row.seq);
  };
  if (from === "start") return first();
  const seq = typeof from === "number" ? from : /^\d+$/.test(from) ? Number(from) : null;
  if (seq !== null && Number.isSafeInteger(seq) && seq >= 1) return seq;
  const time = seq === null ? readTime(from) : null;
  if (time !== null) return first(sql`recorded_at >= ${time}`);
  throw new HiveError("USAGE", `"${from}" is neither an event's number nor a time.`, {
    hint: "Give a number from 1, a time like 2026-11-23T03:00:00Z, or start.",
  });
}

/**
 * Takes a subscriber away, with what waits for it and its dead letters: it holds back no events any more. One that runs
 * ends with UNKNOWN_NAME.
 * @throws NOT_MIGRATED, UNKNOWN_NAME
 */
export async function unsubscribe(
  context: Context,
  name: string,
  options: ChangeOptions = {},
): Promise<EventsUnsubscribeResult> {
  const { store } = context;
  await requireEvents(store);
  const dryRun = options.dryRun === true;
  const look = async (session: Session) => {
    const known = await requireSubscriber(session, name);
    const [row] = await session.all(
      sql`SELECT count(*) AS n FROM hive_dead_letters WHERE subscriber = ${name} AND state = 'dead'`,
    );
    const { state, checkpoint } = known;
    return {
      state,
      checkpoint,
      deadLetters: Number(row?.n),
      unread: Math.max(0, (await lastSeq(session)) - checkpoint),
    };
  };
  const work = async (tx: Transaction) => {
    const found = await look(tx);
    await tx.run(sql`DELETE FROM hive_subscribers WHERE name = ${name}`);
    await tx.run(sql`DELETE FROM hive_deliveries WHERE subscriber = ${name}`);
    await tx.run(sql`DELETE FROM hive_dead_letters WHERE subscriber = ${name}`);
    await audit(tx, context, {
      action: "events unsubscribe",
      reason: options.reason,
      before: { subscriber: name, ...found },
      after: null,
    });
    return found;
  };
  const { unread, deadLetters } = dryRun ? await store.snapshot(look) : await store.transaction("unsubscribe", work);
  return { subscriber: name, unread, deadLetters, dryRun };
}
