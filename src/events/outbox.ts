import { isoTime } from "../clock.ts";
import type { Context } from "../context.ts";
import { HiveError } from "../errors.ts";
import { requireLedger } from "../schema/ledger.ts";
import type { Session, Store, Transaction, Tuple, Value, Writes } from "../storage/port.ts";
import { among, id, join, type Sql, sql } from "../storage/sql.ts";
import { resolveAgents } from "../sync/mapping.ts";
import {
  decodeEvent,
  type EventRow,
  type EventRules,
  eventRules,
  type HiveEvent,
  type InvalidEvent,
  isInvalid,
  MOST_CHARACTERS,
  MOST_PAYLOAD_BYTES,
  type NewEvent,
  type ReadyEvent,
  readyEvent,
} from "./event.ts";
import { matchesAny } from "./topics.ts";

/**
 * The outbox: events are appended in the transaction of what they tell of, and read in the order of their numbers. On
 * SQLite an event has its number when it is inserted; on PostgreSQL, where transactions commit in any order, `sequence`
 * gives numbers to those that can be seen.
 */

/** An event that was appended. Its number is given by the database. */
export interface EmittedEvent extends Omit<HiveEvent, "seq" | "payload" | "metadata"> {
  /** JSON text, as it is stored. */
  readonly payload: string;
  readonly metadata: string | null;
}

/** How old an agent's `unified-events` flag may be when it is acted upon, in milliseconds. */
const FLAGS_MS = 1_000;
const flagsKnown = new WeakMap<Store, { at: number; emitting: ReadonlySet<string> }>();
/** Where the table of events was seen: asking again costs round trips. */
const withEvents = new WeakSet<Store>();

/**
 * The agents whose `unified-events` flag is on, as of at most a second ago: asking costs next to nothing. None on a
 * database that hive has never touched.
 */
export async function emittingAgents({ store, clock }: Context): Promise<ReadonlySet<string>> {
  const last = flagsKnown.get(store);
  const now = clock.monotonic();
  if (last && now - last.at < FLAGS_MS) return last.emitting;
  let emitting: ReadonlySet<string>;
  try {
    const rows = await store.read.all(sql`SELECT agent FROM hive_flags WHERE flag = 'unified-events' AND value = 'on'`);
    emitting = new Set(rows.map(({ agent }) => String(agent)));
  } catch (error) {
    if ((await store.table("hive_flags")) !== null) throw error;
    emitting = new Set();
  }
  flagsKnown.set(store, { at: now, emitting });
  return emitting;
}

/** @throws NOT_MIGRATED, LEDGER_TOO_NEW */
export async function requireEvents(store: Store): Promise<void> {
  await requireLedger(store);
  if ((await store.table("hive_events")) !== null) return;
  throw new HiveError("NOT_MIGRATED", `hive's own tables in ${store.location} are those of an older hive.`, {
    hint: "Run `hive migrate up` first: it adds the tables for events and changes nothing else.",
  });
}

/**
 * Judges events, so that nothing but the writing is left for the transaction.
 * @throws UNKNOWN_NAME (type), UNKNOWN_AGENT (source), RECORD_INVALID, NOT_MIGRATED
 */
export async function prepareEvents(context: Context, events: readonly NewEvent[]): Promise<readonly ReadyEvent[]> {
  const { mapping, clock, store } = context;
  if (events.length === 0) return [];
  if (!withEvents.has(store)) await requireEvents(store);
  withEvents.add(store);
  const rules = await eventRules(mapping);
  return events.map((event) => {
    const [agent = event.sourceAgent] = resolveAgents(mapping, [event.sourceAgent]);
    return readyEvent(event, rules, agent, clock.now(), clock.id());
  });
}

const COLUMNS = [
  ...["id", "event_type", "source_agent", "correlation_id", "causation_id", "subject"],
  ...["payload", "metadata", "occurred_at", "recorded_at"],
] as const;

/** Appends what was judged, whatever the flags of its agents. */
export async function appendEvents(
  tx: Transaction,
  context: Context,
  events: readonly ReadyEvent[],
): Promise<readonly EmittedEvent[]> {
  if (events.length === 0) return [];
  const recordedAt = isoTime(context.clock);
  await appendReady(tx, events, recordedAt);
  return events.map((one) => ({ ...one, recordedAt }));
}

/** The writing part of {@link appendEvents}: it can be put together ahead of the lock. */
export async function appendReady(tx: Writes, events: readonly ReadyEvent[], recordedAt: string): Promise<void> {
  if (events.length === 0) return;
  const rows = events.map(
    (one): Tuple => [
      one.id,
      one.type,
      one.sourceAgent,
      one.correlationId,
      one.causationId,
      one.subject,
      one.payload,
      one.metadata,
      one.occurredAt,
      recordedAt,
    ],
  );
  const [first] = rows;
  if (rows.length === 1 && first) {
    await tx.run(sql`INSERT INTO hive_events (id, event_type, source_agent, correlation_id, causation_id, subject, payload,
      metadata, occurred_at, recorded_at) VALUES (${join(first.map((value) => sql`${value}`))})`);
  } else await tx.insert("hive_events", COLUMNS, rows);
}

/**
 * Appends events in the caller's transaction: they are there if it commits, and leave no gap if it does not. Those of an
 * agent whose `unified-events` flag is off are left out, which costs next to nothing; a flag counts within a second of
 * its change.
 * @returns the events that were appended
 * @throws UNKNOWN_NAME (type), UNKNOWN_AGENT (source), RECORD_INVALID, CONSTRAINT (an id that there is already)
 */
export async function emit(
  tx: Transaction,
  context: Context,
  events: NewEvent | readonly NewEvent[],
): Promise<readonly EmittedEvent[]> {
  const wanted = await ofEmittingAgents(context, events);
  if (wanted.length === 0) return [];
  return appendEvents(tx, context, await prepareEvents(context, wanted));
}

/** As {@link emit}, in a transaction of its own that is only begun where there is something to write. */
export async function emitAlone(
  context: Context,
  events: NewEvent | readonly NewEvent[],
): Promise<readonly EmittedEvent[]> {
  const wanted = await ofEmittingAgents(context, events);
  if (wanted.length === 0) return [];
  const ready = await prepareEvents(context, wanted);
  return context.store.transaction("emit", (tx) => appendEvents(tx, context, ready));
}

/** What {@link emit} would append. */
export async function emitNothing(
  context: Context,
  events: NewEvent | readonly NewEvent[],
): Promise<readonly EmittedEvent[]> {
  const ready = await prepareEvents(context, await ofEmittingAgents(context, events));
  return ready.map((one) => ({ ...one, recordedAt: isoTime(context.clock) }));
}

async function ofEmittingAgents(
  context: Context,
  events: NewEvent | readonly NewEvent[],
): Promise<readonly NewEvent[]> {
  const emitting = await emittingAgents(context);
  return listOf(events).filter(({ sourceAgent }) => {
    if (emitting.has(sourceAgent)) return true;
    const { agents } = context.mapping;
    if (agents.some(({ name }) => name === sourceAgent)) return false;
    // By its id in the registry, or a name that there is none of: told even while nobody emits.
    const [name = ""] = resolveAgents(context.mapping, [sourceAgent]);
    return emitting.has(name);
  });
}

export function listOf(events: NewEvent | readonly NewEvent[]): readonly NewEvent[] {
  return isList(events) ? events : [events];
}

function isList(events: NewEvent | readonly NewEvent[]): events is readonly NewEvent[] {
  return Array.isArray(events);
}

const NUMBERED_AT_ONCE = 1_000;

/**
 * Numbers the events that were committed since the last time, without gaps: readers see an event once it has a number.
 * Whoever reads by number calls it first. Cheap where there are none. Not inside a transaction.
 */
export async function sequence(store: Store): Promise<void> {
  if (store.dialect.singleWriter) return;
  for (;;) {
    const waiting = await store.read.all(sql`SELECT 1 AS one FROM hive_events WHERE seq IS NULL LIMIT 1`);
    if (waiting.length === 0) return;
    const numbered = await store.transaction("number events", async (tx) => {
      // Held to the end: the next one begins where this one ends. Only a statement of its own sees what was numbered meanwhile.
      const [row] = await tx.all(sql`SELECT last FROM hive_event_numbers FOR UPDATE`);
      const last = Number(row?.last ?? 0);
      const count = await tx.run(sql`UPDATE hive_events AS e SET seq = ${last} + fresh.place
        FROM (SELECT n, row_number() OVER (ORDER BY n) AS place FROM hive_events WHERE seq IS NULL
              ORDER BY n LIMIT ${NUMBERED_AT_ONCE}) AS fresh WHERE e.n = fresh.n`);
      if (count > 0) await tx.run(sql`UPDATE hive_event_numbers SET last = ${last + count}`);
      return count;
    });
    if (numbered < NUMBERED_AT_ONCE) return;
  }
}

/** For `store.waitForCommit`: rows while there are events beyond this number, numbered or not. */
export function eventsBeyond(seq: number): Sql {
  return sql`SELECT 1 AS one WHERE EXISTS (SELECT 1 FROM hive_events WHERE seq > ${seq})
    OR EXISTS (SELECT 1 FROM hive_events WHERE seq IS NULL)`;
}

/** The number of the newest event that has one; 0 where there is none. Whoever prunes leaves the newest event. */
export async function lastSeq(session: Session): Promise<number> {
  const [row] = await session.all(sql`SELECT coalesce(max(seq), 0) AS last FROM hive_events`);
  return Number(row?.last ?? 0);
}

export interface EventFilter {
  /** Topic patterns; an event has to fit one. Default: any type. */
  readonly types?: readonly string[] | undefined;
  /** Its source: by name, or by its id in the registry. */
  readonly agent?: string | undefined;
  readonly correlationId?: string | undefined;
  readonly subject?: string | undefined;
}

export interface EventRange extends EventFilter {
  /** Events with a greater number. Default 0. */
  readonly after?: number;
  /** Events with a smaller number. */
  readonly before?: number;
  /** At most so many rows, invalid ones included. Default 500. */
  readonly limit?: number;
  /** From the newest down. Default: from the oldest up. */
  readonly descending?: boolean;
}

export interface EventPage {
  readonly events: readonly HiveEvent[];
  /** Of the rows looked at. To be put aside, with {@link putAside}. */
  readonly invalid: readonly InvalidEvent[];
  /** The number of the last row that was looked at: where the next page begins. Null where there was none. */
  readonly last: number | null;
  /** There are no more rows in this direction. */
  readonly complete: boolean;
}

const PAGE_ROWS = 500;
/** What a page of rows may take, in characters: then it ends before its limit. */
const PAGE_SIZE = 16_000_000;

/**
 * Some events in the order of their numbers, as this session sees them. Rows that are no valid event come apart, with
 * the reason. Memory is bounded whatever the payloads are.
 * @throws UNKNOWN_AGENT
 */
export async function readEvents(session: Session, context: Context, range: EventRange = {}): Promise<EventPage> {
  const rules = await eventRules(context.mapping);
  const { types, limit = PAGE_ROWS } = range;
  const where = [...conditions(context, rules, range), sql`seq > ${range.after ?? 0}`];
  if (range.before !== undefined) where.push(sql`seq < ${range.before}`);
  const direction = range.descending ? sql`DESC` : sql`ASC`;
  const { rows, complete } = await session.tuplesWithin(
    sql`SELECT ${WHOLE_ROW} FROM hive_events WHERE ${join(where, " AND ")} ORDER BY seq ${direction} LIMIT ${limit}`,
    PAGE_SIZE,
  );
  const events: HiveEvent[] = [];
  const invalid: InvalidEvent[] = [];
  for (const row of rows) {
    const event = decodeEvent(await rowOf(session, row), rules);
    if (isInvalid(event)) invalid.push(event);
    // The names of other spellings were only found possible.
    else if (!types || matchesAny(types, event.type)) events.push(event);
  }
  const last = rows.at(-1)?.[0];
  return {
    events,
    invalid,
    last: last === undefined ? null : Number(last),
    complete: complete && rows.length < limit,
  };
}

/** What the database can tell by itself; what is left is found by the caller. */
function conditions({ mapping }: Context, rules: EventRules, filter: EventFilter): Sql[] {
  const where: Sql[] = [];
  const { types, agent, correlationId, subject } = filter;
  if (types) {
    const wanted = rules.types.filter((type) => matchesAny(types, type));
    where.push(sql`(event_type IN ${among(wanted)} OR event_type NOT IN ${among(rules.types)} OR event_type IS NULL)`);
  }
  if (agent !== undefined) {
    const [name = agent] = resolveAgents(mapping, [agent]);
    const id = mapping.agents.find((one) => one.name === name)?.registration?.agentId;
    where.push(sql`source_agent IN ${among(id === undefined ? [name] : [name, id])}`);
  }
  if (correlationId !== undefined) {
    // Both by an index of their own, whatever the planner makes of an order by number.
    where.push(sql`seq IN (SELECT seq FROM hive_events WHERE correlation_id = ${correlationId}
      UNION ALL SELECT seq FROM hive_events WHERE id = ${correlationId} AND coalesce(correlation_id, '') = '')`);
  }
  if (subject !== undefined) where.push(sql`subject = ${subject}`);
  return where;
}

const TEXTS = [
  ...["id", "event_type", "source_agent", "correlation_id", "causation_id", "subject"],
  ...["occurred_at", "recorded_at"],
];

/** No column of a row is read whose size nobody knows. */
const WHOLE_ROW = sql`seq, ${join(TEXTS.map((column) => sql`substr(${id(column)}, 1, ${MOST_CHARACTERS + 1})`))},
  octet_length(payload), CASE WHEN octet_length(payload) <= ${MOST_PAYLOAD_BYTES} THEN payload END,
  octet_length(metadata), CASE WHEN octet_length(metadata) <= ${MOST_PAYLOAD_BYTES} THEN metadata END`;

async function rowOf(session: Session, row: Tuple): Promise<EventRow> {
  const [seq, ...values] = row;
  const whole = values.some(doubtful) ? await exactTexts(session, seq ?? null, values) : values;
  const [eventId, type, sourceAgent, correlationId, causationId, subject, occurredAt, recordedAt, ...json] = whole;
  const [payloadBytes, payload, metadataBytes, metadata] = json;
  return {
    seq: Number(seq),
    ...{ id: eventId, type, sourceAgent, correlationId, causationId, subject, occurredAt, recordedAt },
    ...{ payload, payloadBytes: sizeOf(payloadBytes), metadata, metadataBytes: sizeOf(metadataBytes) },
  };
}

const sizeOf = (value: Value | undefined) => (value === null || value === undefined ? null : Number(value));

/** The driver shows bytes that are no UTF-8 as this character, which may also stand there by right. */
const doubtful = (value: Value) => typeof value === "string" && value.includes("\ufffd");

/** With the bytes, in place of a text that they do not make. Only SQLite keeps such texts. */
async function exactTexts(session: Session, seq: Value, values: readonly Value[]): Promise<Value[]> {
  if (session.dialect.name !== "sqlite") return [...values];
  const columns = [...TEXTS, null, "payload", null, "metadata"];
  const exact: Value[] = [];
  for (const [i, value] of values.entries()) {
    const column = columns[i];
    if (!doubtful(value) || column === undefined || column === null) {
      exact.push(value);
      continue;
    }
    const [bytes] = await session.tuples(sql`SELECT CAST(${id(column)} AS BLOB) FROM hive_events WHERE seq = ${seq}`);
    const found = bytes?.[0];
    exact.push(found instanceof Uint8Array && !isUtf8(found) ? found : value);
  }
  return exact;
}

function isUtf8(bytes: Uint8Array): boolean {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return true;
  } catch {
    return false;
  }
}

/** The subscriber in whose name rows are put aside that are no valid events at all. */
export const NO_SUBSCRIBER = "";

/** Notes in the dead letters, once, rows that are no valid events; the number of those that were not there yet. */
export async function putAside(tx: Transaction, context: Context, invalid: readonly InvalidEvent[]): Promise<number> {
  let added = 0;
  for (const { seq, reason, row } of invalid) {
    added += await tx.run(sql`INSERT INTO hive_dead_letters (subscriber, seq, state, at, reason, attempts, event)
      VALUES (${NO_SUBSCRIBER}, ${seq}, 'dead', ${isoTime(context.clock)}, ${reason}, 0, ${JSON.stringify(row)})
      ON CONFLICT DO NOTHING`);
  }
  return added;
}

/**
 * As {@link putAside}, for those who only read: in a transaction of its own, and only where something is to be noted. A
 * database that cannot be written just now is left as it is: the next one who meets them notes them.
 */
export async function putAsideAlone(context: Context, invalid: readonly InvalidEvent[]): Promise<void> {
  if (invalid.length === 0) return;
  const { store } = context;
  const numbers = invalid.map(({ seq }) => seq);
  const there = await store.read.all(
    sql`SELECT seq FROM hive_dead_letters WHERE subscriber = ${NO_SUBSCRIBER} AND seq IN ${among(numbers)}`,
  );
  const noted = new Set(there.map(({ seq }) => Number(seq)));
  const fresh = invalid.filter(({ seq }) => !noted.has(seq));
  if (fresh.length === 0) return;
  await unlessReadOnly(() => store.transaction("put aside", (tx) => putAside(tx, context, fresh)));
}

/** What a reader would like to write, and need not. */
export async function unlessReadOnly(work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof HiveError) || !["DATABASE_READ_ONLY", "DATABASE_BUSY"].includes(error.code)) throw error;
  }
}
