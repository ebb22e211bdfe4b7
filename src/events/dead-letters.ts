import { isoTime } from "../clock.ts";
import type { ChangeOptions, Context } from "../context.ts";
import { HiveError } from "../errors.ts";
import type {
  DeadLetterEntry,
  EventsDeadLettersDropResult,
  EventsDeadLettersListResult,
  EventsDeadLettersRedriveResult,
  EventsDeadLettersShowResult,
} from "../results.ts";
import { audit, parsed } from "../rollout/audit.ts";
import type { Row, Session, Transaction } from "../storage/port.ts";
import { among, join, type Sql, sql } from "../storage/sql.ts";
import type { HiveEvent } from "./event.ts";
import { NO_SUBSCRIBER, readEvents, requireEvents } from "./outbox.ts";
import { readSubscribers, requireSubscriber } from "./subscribers.ts";
import { matchesAny } from "./topics.ts";

export interface DeadLetterFilter {
  /** By name; "" for what is no valid event, for any subscriber. Default: all. */
  readonly subscriber?: string | undefined;
  /** Numbers of events. */
  readonly seqs?: readonly number[] | undefined;
  /** Topic patterns for the type. */
  readonly types?: readonly string[] | undefined;
  /** Also those that were dropped. */
  readonly all?: boolean;
  /** At most so many, the oldest first. Default: 100. */
  readonly limit?: number;
}

export type DeadLetterChange = Omit<DeadLetterFilter, "all" | "limit"> & ChangeOptions;

/** So many are dealt with in one transaction. */
const AT_ONCE = 100;
const EVERY = 1_000_000_000;

/** Dead letters in the order of their events. Empty on a database that hive has never touched. */
export async function listDeadLetters(
  context: Context,
  filter: DeadLetterFilter = {},
): Promise<EventsDeadLettersListResult> {
  return context.store.snapshot(async (session) => {
    if ((await context.store.table("hive_dead_letters", session)) === null) return { entries: [], total: 0 };
    const { types, limit = 100 } = filter;
    const where = conditionOf(filter);
    if (types === undefined) {
      const [row] = await session.all(sql`SELECT count(*) AS n FROM hive_dead_letters WHERE ${where}`);
      return { entries: (await entriesOf(session, where, limit)).map(briefly), total: Number(row?.n) };
    }
    const found = (await entriesOf(session, where, EVERY)).filter(({ type }) => matchesAny(types, type ?? ""));
    return { entries: found.slice(0, limit).map(briefly), total: found.length };
  });
}

/**
 * One dead letter with its event, as it was when it was given up; of what is no valid event, the row.
 * @throws NOT_MIGRATED, UNKNOWN_NAME
 */
export async function showDeadLetter(
  context: Context,
  subscriber: string,
  seq: number,
): Promise<EventsDeadLettersShowResult> {
  await requireEvents(context.store);
  const where = conditionOf({ subscriber, seqs: [seq], all: true });
  const [found] = await entriesOf(context.store.read, where, 1);
  if (found) return found;
  throw new HiveError("UNKNOWN_NAME", `There is no dead letter of ${named(subscriber)} with the number ${seq}.`, {
    hint: "`hive events dead-letters list` shows them.",
    details: { subscriber, seq },
  });
}

function named(subscriber: string): string {
  return subscriber === NO_SUBSCRIBER ? "invalid events" : `subscriber "${subscriber}"`;
}

/**
 * Has dead letters delivered again, to the subscriber that gave them up: each before whatever still waits of its subject,
 * but after what was delivered of it since. What is no valid event is judged once more; where it has become one it is
 * delivered to every subscriber that wants it and has passed it. An event that retention took away is put back.
 * @throws NOT_MIGRATED, UNKNOWN_NAME (no such subscriber)
 */
export async function redriveDeadLetters(
  context: Context,
  options: DeadLetterChange = {},
): Promise<EventsDeadLettersRedriveResult> {
  const { store } = context;
  const dryRun = options.dryRun === true;
  let redriven = 0;
  const left: DeadLetterEntry[] = [];
  await changeEach(context, options, async (some) => {
    const judged = await judge(context, some);
    left.push(...judged.invalid.map(({ letter, reason }) => briefly({ ...letter, reason })));
    redriven += judged.valid.length;
    if (dryRun) return;
    await store.transaction("redrive", async (tx) => {
      for (const { letter, event } of judged.valid) await redrive(tx, letter, event);
      for (const { letter, reason } of judged.invalid) {
        await tx.run(sql`UPDATE hive_dead_letters SET reason = ${reason}, at = ${isoTime(context.clock)}
          WHERE ${conditionOf({ subscriber: letter.subscriber, seqs: [letter.seq] })}`);
      }
      const names = new Set(judged.valid.map(({ letter }) => letter.subscriber));
      const woken = names.has(NO_SUBSCRIBER) ? sql`state = 'active'` : sql`name IN ${among([...names])}`;
      await tx.run(sql`UPDATE hive_subscribers SET epoch = epoch + 1 WHERE ${woken}`);
      await tell(
        tx,
        context,
        options,
        "dead letters redrive",
        judged.valid.map(({ letter }) => letter),
      );
    });
  });
  return { redriven, left, dryRun };
}

/**
 * Gives dead letters up: they no longer count as a problem, and go when they are older than the setting
 * `events.retentionDays`.
 * @throws NOT_MIGRATED, UNKNOWN_NAME (no such subscriber)
 */
export async function dropDeadLetters(
  context: Context,
  options: DeadLetterChange = {},
): Promise<EventsDeadLettersDropResult> {
  let dropped = 0;
  await changeEach(context, options, async (some) => {
    dropped += some.length;
    if (options.dryRun) return;
    await context.store.transaction("drop", async (tx) => {
      for (const { subscriber, seq } of some) {
        await tx.run(sql`UPDATE hive_dead_letters SET state = 'dropped', at = ${isoTime(context.clock)}
          WHERE ${conditionOf({ subscriber, seqs: [seq] })}`);
      }
      await tell(tx, context, options, "dead letters drop", some);
    });
  });
  return { dropped, dryRun: options.dryRun === true };
}

async function tell(
  tx: Transaction,
  context: Context,
  { reason }: ChangeOptions,
  action: string,
  letters: readonly EventsDeadLettersShowResult[],
): Promise<void> {
  if (letters.length === 0) return;
  await audit(tx, context, {
    action,
    reason,
    before: { state: "dead" },
    after: letters.map(({ subscriber, seq, type, reason: why }) => ({ subscriber, seq, type, reason: why })),
  });
}

/** What matches, in portions. */
async function changeEach(
  context: Context,
  { subscriber, seqs, types, abort }: DeadLetterChange,
  work: (some: readonly EventsDeadLettersShowResult[]) => Promise<void>,
): Promise<void> {
  const { store } = context;
  await requireEvents(store);
  if (subscriber !== undefined && subscriber !== NO_SUBSCRIBER) await requireSubscriber(store.read, subscriber);
  const where = conditionOf({ subscriber, seqs });
  let after: { seq: number; subscriber: string } = { seq: -1, subscriber: "" };
  while (!abort?.aborted) {
    const { seq, subscriber: name } = after;
    const beyond = sql`(seq > ${seq} OR (seq = ${seq} AND subscriber > ${name}))`;
    const page = await entriesOf(store.read, sql`${where} AND ${beyond}`, AT_ONCE);
    const last = page.at(-1);
    if (!last) return;
    after = last;
    const some = types === undefined ? page : page.filter(({ type }) => matchesAny(types, type ?? ""));
    if (some.length > 0) await work(some);
  }
}

interface Judged {
  readonly valid: { readonly letter: EventsDeadLettersShowResult; readonly event: HiveEvent | null }[];
  readonly invalid: { readonly letter: EventsDeadLettersShowResult; readonly reason: string }[];
}

async function judge(context: Context, letters: readonly EventsDeadLettersShowResult[]): Promise<Judged> {
  const judged: Judged = { valid: [], invalid: [] };
  const { read } = context.store;
  for (const letter of letters) {
    const { subscriber, seq } = letter;
    const { events, invalid } = await readEvents(read, context, { after: seq - 1, before: seq + 1 });
    const [event = null] = events;
    const [refused] = invalid;
    if (event) judged.valid.push({ letter, event });
    else if (refused) judged.invalid.push({ letter, reason: refused.reason });
    else if (subscriber !== NO_SUBSCRIBER && isEvent(letter.event)) judged.valid.push({ letter, event: null });
    else judged.invalid.push({ letter, reason: "The event is gone: retention took it away." });
  }
  return judged;
}

function isEvent(event: unknown): event is HiveEvent {
  return typeof event === "object" && event !== null && "type" in event && "payload" in event && "recordedAt" in event;
}

/** `event`: null where only the letter still has it. */
async function redrive(
  tx: Transaction,
  { subscriber, seq, event: copy }: EventsDeadLettersShowResult,
  event: HiveEvent | null,
): Promise<void> {
  const gone = await tx.run(sql`DELETE FROM hive_dead_letters WHERE ${conditionOf({ subscriber, seqs: [seq] })}`);
  // Somebody else was quicker.
  if (gone === 0) return;
  const whole = event ?? (isEvent(copy) ? copy : null);
  if (!whole) return;
  if (!event) await putBack(tx, whole);
  const all = await readSubscribers(tx);
  const wanting = all.filter(({ name, patterns, checkpoint }) => {
    // One that has not come to it yet will do so.
    if (checkpoint < seq) return false;
    return subscriber === NO_SUBSCRIBER ? matchesAny(patterns, whole.type) : name === subscriber;
  });
  for (const { name } of wanting) {
    await tx.run(sql`INSERT INTO hive_deliveries (subscriber, seq, subject, state, attempts, next_at, error)
      VALUES (${name}, ${seq}, ${whole.subject}, 'waiting', 0, 0, NULL) ON CONFLICT (subscriber, seq) DO NOTHING`);
  }
}

async function putBack(tx: Transaction, event: HiveEvent): Promise<void> {
  // By another one's redrive.
  if ((await tx.all(sql`SELECT 1 AS one FROM hive_events WHERE seq = ${event.seq}`)).length > 0) return;
  const metadata = event.metadata === null ? null : JSON.stringify(event.metadata);
  await tx.run(sql`INSERT INTO hive_events (seq, id, event_type, source_agent, correlation_id, causation_id, subject,
      payload, metadata, occurred_at, recorded_at)
    VALUES (${event.seq}, ${event.id}, ${event.type}, ${event.sourceAgent}, ${event.correlationId}, ${event.causationId},
      ${event.subject}, ${JSON.stringify(event.payload)}, ${metadata}, ${event.occurredAt}, ${event.recordedAt})`);
}

async function entriesOf(session: Session, where: Sql, limit: number): Promise<EventsDeadLettersShowResult[]> {
  const rows = await session.all(sql`SELECT subscriber, seq, state, at, reason, attempts, event FROM hive_dead_letters
    WHERE ${where} ORDER BY seq, subscriber LIMIT ${limit}`);
  return rows.map(toEntry);
}

function toEntry(row: Row): EventsDeadLettersShowResult {
  const event = parsed(row.event);
  const member = (...names: string[]): string | null => {
    if (typeof event !== "object" || event === null) return null;
    for (const [name, value] of Object.entries(event))
      if (names.includes(name) && typeof value === "string") return value;
    return null;
  };
  return {
    subscriber: String(row.subscriber),
    seq: Number(row.seq),
    state: row.state === "dropped" ? "dropped" : "dead",
    at: String(row.at),
    reason: String(row.reason),
    attempts: Number(row.attempts),
    type: member("type", "event_type"),
    subject: member("subject"),
    event,
  };
}

function briefly({ event: _, ...entry }: EventsDeadLettersShowResult): DeadLetterEntry {
  return entry;
}

function conditionOf({ subscriber, seqs, all }: DeadLetterFilter): Sql {
  const conditions: Sql[] = [all ? sql`1 = 1` : sql`state = 'dead'`];
  if (subscriber !== undefined) conditions.push(sql`subscriber = ${subscriber}`);
  if (seqs && seqs.length > 0) conditions.push(sql`seq IN ${among(seqs)}`);
  return join(conditions, " AND ");
}
