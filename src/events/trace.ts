import type { Context } from "../context.ts";
import { HiveError } from "../errors.ts";
import type { TraceResult } from "../results.ts";
import type { Session } from "../storage/port.ts";
import { among, sql } from "../storage/sql.ts";
import { causalTree, type Span, spansOf } from "./causal-tree.ts";
import { chunks, type Gathered, gather, type Loaded } from "./gather.ts";
import { requireEvents, sequence, unlessReadOnly } from "./outbox.ts";
import { matchesAny } from "./topics.ts";
import { type WorkRow, workOf } from "./work-rows.ts";

export interface TraceOptions {
  /** At most so many events. Default 1,000, at most 100,000. */
  readonly limit?: number | undefined;
  /** How many times work is followed to the work that it led to. Default 16, at most 100. */
  readonly depth?: number | undefined;
}

type Event = TraceResult["events"][number];

const MOST_EVENTS = 100_000;
const MOST_DEPTH = 100;
const MOST_ROWS = 1_000;

/**
 * What happened to a piece of work, across all agents: its events as a tree of causes, with the work that it led to, how
 * long things took, and what is still running. One snapshot; only look-ups in indexes; memory is bounded by `limit`.
 * Where the database can be written it gives events numbers that have none yet (PostgreSQL).
 * @throws NOT_MIGRATED, USAGE, UNKNOWN_NAME (nothing has this correlation id; the hint says what has this id, if anything)
 */
export async function trace(context: Context, correlationId: string, options: TraceOptions = {}): Promise<TraceResult> {
  const { store, clock } = context;
  const limit = within("limit", options.limit ?? 1_000, 1, MOST_EVENTS);
  const depth = within("depth", options.depth ?? 16, 0, MOST_DEPTH);
  if (correlationId === "") {
    throw new HiveError("USAGE", "A correlation id cannot be empty.", { hint: "`hive events list` shows events." });
  }
  await requireEvents(store);
  await unlessReadOnly(() => sequence(store));
  return store.snapshot(async (session) => {
    const gathered = await gather(session, context, correlationId, { limit, depth });
    const subjects = gathered.events.flatMap(({ subject }) => subject ?? []);
    const ids = gathered.works.map((one) => one.correlationId);
    const about = [correlationId, ...subjects];
    const rows = await workOf(session, context, [...new Set([correlationId, ...ids])], about, MOST_ROWS + 1);
    // The row of this very name tells what it is a part of, and is not by itself a part of it.
    const own = rows.find((row) => row.key === correlationId && row.correlationId !== correlationId);
    if (gathered.events.length === 0 && rows.every((row) => row === own)) {
      throw await unknown(session, context, correlationId);
    }
    const partOf = await parents(session, correlationId, gathered.events, own);
    const dead = await deadLetters(session, gathered.events);
    return result(context, correlationId, clock.now(), gathered, rows, partOf, dead);
  });
}

function within(name: string, value: number, least: number, most: number): number {
  if (Number.isSafeInteger(value) && value >= least && value <= most) return value;
  throw new HiveError("USAGE", `The ${name} of a trace cannot be ${value}.`, {
    hint: `Give a whole number from ${least} to ${most}.`,
  });
}

function result(
  context: Context,
  correlationId: string,
  now: number,
  gathered: Gathered,
  rows: readonly WorkRow[],
  partOf: TraceResult["partOf"],
  dead: ReadonlyMap<number, Event["deadLetters"]>,
): TraceResult {
  const { events, works } = gathered;
  const { spans: specs = [], alarming = [] } = context.mapping.events?.trace ?? {};
  const cutOff = [...gathered.cutOff];
  const leaders = new Map(works.flatMap((one) => (one.from === null ? [] : [[one.correlationId, one.from] as const])));
  const bySeq = new Map(events.map((event) => [event.seq, event]));
  const statuses = new Map(rows.map((row) => [row.key, row]));
  const spans = new Map<number, Event["spans"]>();
  let running = 0;
  let failed = 0;
  for (const span of spansOf(events, specs)) {
    const opened = bySeq.get(span.opened);
    if (!opened) continue;
    const judged = spanResult(span, opened, bySeq, statuses, now, gathered.cutOff.length > 0);
    if (judged.state === "running") running += 1;
    if (judged.state === "failed") failed += 1;
    const known = spans.get(span.opened);
    if (known) known.push(judged);
    else spans.set(span.opened, [judged]);
  }
  const counts = new Map<string, number>();
  let [firstAt, lastAt]: [string | null, string | null] = [null, null];
  for (const event of events) {
    counts.set(event.correlationId, (counts.get(event.correlationId) ?? 0) + 1);
    const at = event.occurredAt;
    if (at !== null && (firstAt === null || at < firstAt)) firstAt = at;
    if (at !== null && (lastAt === null || at > lastAt)) lastAt = at;
  }
  if (rows.length > MOST_ROWS) cutOff.push(`more than ${MOST_ROWS} tasks: not all of them are shown`);
  return {
    correlationId,
    at: new Date(now).toISOString(),
    agents: [...new Set(events.map(({ sourceAgent }) => sourceAgent))].sort(),
    firstAt,
    lastAt,
    durationMs: firstAt === null || lastAt === null ? null : Date.parse(lastAt) - Date.parse(firstAt),
    running,
    failed,
    partOf,
    works: works
      .map((one) => ({ ...one, events: counts.get(one.correlationId) ?? 0 }))
      .filter((one) => one.events > 0 || one.correlationId === correlationId),
    events: causalTree(events, leaders).map(({ event, parent, depth, link }) => ({
      seq: event.seq,
      parent,
      depth,
      link,
      id: event.id,
      type: event.type,
      sourceAgent: event.sourceAgent,
      correlationId: event.correlationId,
      causationId: event.causationId,
      subject: event.subject,
      occurredAt: event.occurredAt,
      recordedAt: event.recordedAt,
      says: event.says,
      payloadBytes: event.payloadBytes,
      alarm: matchesAny(alarming, event.type),
      spans: spans.get(event.seq) ?? [],
      deadLetters: dead.get(event.seq) ?? [],
    })),
    work: rows.slice(0, MOST_ROWS).map((row) => ({
      ...row,
      ageMs: row.changedAt === null ? null : Math.max(0, now - Date.parse(row.changedAt)),
    })),
    cutOff,
  };
}

function spanResult(
  { name, waits, state, opened: _, closed }: Span,
  opened: Loaded,
  bySeq: ReadonlyMap<number, Loaded>,
  rows: ReadonlyMap<string, WorkRow>,
  now: number,
  cut: boolean,
): Event["spans"][number] {
  const end = closed === null ? undefined : bySeq.get(closed);
  if (end && state !== "open") {
    return { name, waits, state, closedBy: end.seq, durationMs: between(opened, end) };
  }
  const over = opened.subject !== null && rows.get(opened.subject)?.final === true;
  const began = opened.occurredAt ?? opened.recordedAt;
  const elapsed = began === null ? null : Math.max(0, now - Date.parse(began));
  const open = over ? "ended" : cut ? "unknown" : "running";
  return { name, waits, state: open, closedBy: null, durationMs: open === "running" ? elapsed : null };
}

/** By the clocks of those who told it; where these disagree, by when it was written down. */
function between(from: Loaded, to: Loaded): number | null {
  const told = difference(from.occurredAt, to.occurredAt);
  return told !== null && told >= 0 ? told : Math.max(0, difference(from.recordedAt, to.recordedAt) ?? 0);
}

function difference(from: string | null, to: string | null): number | null {
  return from === null || to === null ? null : Date.parse(to) - Date.parse(from);
}

/** What this work is a part of: what its row says, and where the causes of its events belong that are not among them. */
async function parents(
  session: Session,
  correlationId: string,
  events: readonly Loaded[],
  own: WorkRow | undefined,
): Promise<TraceResult["partOf"]> {
  const found: TraceResult["partOf"] = [];
  if (own && own.correlationId !== null && own.correlationId !== "") {
    found.push({ correlationId: own.correlationId, by: "work", name: own.table });
  }
  const ids = new Set(events.map(({ id }) => id));
  const strangers = events.flatMap(({ causationId }) =>
    causationId !== null && !ids.has(causationId) ? [causationId] : [],
  );
  const [few = []] = chunks([...new Set(strangers)], 64);
  const rows = await session.tuples(sql`SELECT substr(coalesce(nullif(correlation_id, ''), id), 1, 1024),
    substr(event_type, 1, 1024) FROM hive_events WHERE id IN ${among(few)}`);
  for (const [correlation, type] of rows) {
    const name = String(correlation);
    if (name === correlationId || found.some((one) => one.correlationId === name)) continue;
    found.push({ correlationId: name, by: "cause", name: String(type) });
  }
  return found;
}

/** Those that could not be delivered, or are no valid events at all, as far as anybody has met them. */
async function deadLetters(
  session: Session,
  events: readonly Loaded[],
): Promise<ReadonlyMap<number, Event["deadLetters"]>> {
  const found = new Map<number, Event["deadLetters"]>();
  const names = await session.tuples(sql`SELECT name FROM hive_subscribers`);
  const subscribers = ["", ...names.map(([name]) => String(name))];
  for (const part of chunks(events, 256)) {
    const rows = await session.tuples(sql`SELECT seq, subscriber, substr(reason, 1, 200) FROM hive_dead_letters
      WHERE subscriber IN ${among(subscribers)} AND seq IN ${among(part.map(({ seq }) => seq))} AND state = 'dead'`);
    for (const [seq, subscriber, reason] of rows) {
      const letter = { subscriber: String(subscriber), reason: String(reason) };
      const known = found.get(Number(seq));
      if (known) known.push(letter);
      else found.set(Number(seq), [letter]);
    }
  }
  return found;
}

/** Many an id is that of a task or of an event, and not of the work it belongs to. */
async function unknown(session: Session, context: Context, correlationId: string): Promise<HiveError> {
  const [row] = await workOf(session, context, [], [correlationId], 1);
  const [event] = await session.tuples(
    sql`SELECT substr(correlation_id, 1, 1024) FROM hive_events WHERE id = ${correlationId} AND correlation_id <> ''`,
  );
  const belongs = row?.correlationId ?? (event ? String(event[0]) : null);
  const what = row ? `a key of ${row.table}, and belongs to` : "the id of an event, which belongs to";
  const known = belongs !== null && belongs !== "" && belongs !== correlationId;
  return new HiveError(
    "UNKNOWN_NAME",
    `Nothing has the correlation id ${JSON.stringify(correlationId.slice(0, 200))}.`,
    {
      hint: known
        ? `It is ${what} ${JSON.stringify(belongs)}: run \`hive trace ${belongs}\`.`
        : "`hive events list` shows the newest events; with --json it shows their correlation ids.",
      details: { correlationId, belongsTo: known ? belongs : null },
    },
  );
}
