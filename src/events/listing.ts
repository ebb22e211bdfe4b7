import type { Context } from "../context.ts";
import { HiveError, nearest } from "../errors.ts";
import type { EventsListResult, EventsTypesResult } from "../results.ts";
import { canonicalType, eventTypes, type HiveEvent, type InvalidEvent } from "./event.ts";
import {
  type EventFilter,
  eventsBeyond,
  lastSeq,
  putAsideAlone,
  readEvents,
  requireEvents,
  sequence,
  unlessReadOnly,
} from "./outbox.ts";
import { matches } from "./topics.ts";

/** Events for people and programs that look at them: a list, or as they come. */

export interface EventListFilter extends EventFilter {
  /** The first so many after this number. Default: the newest so many. */
  readonly after?: number | undefined;
  /** Default 100. */
  readonly limit?: number | undefined;
}

/**
 * Valid events in the order of their numbers. Notes rows that are none in the dead letters, and gives events numbers
 * that have none yet, where the database can be written.
 * @throws NOT_MIGRATED, UNKNOWN_AGENT, USAGE
 */
export async function listEvents(context: Context, filter: EventListFilter = {}): Promise<EventsListResult> {
  const { store } = context;
  const { after, limit = 100 } = filter;
  if (!Number.isSafeInteger(limit) || limit < 1) {
    throw new HiveError("USAGE", `A list cannot have ${limit} events.`, { hint: "Give a limit of 1 or more." });
  }
  const wanted = withKnownTypes(context, filter);
  await requireEvents(store);
  await unlessReadOnly(() => sequence(store));
  const events: HiveEvent[] = [];
  const invalid: InvalidEvent[] = [];
  await store.snapshot(async (session) => {
    const descending = after === undefined;
    for (let at = after; events.length < limit; ) {
      const page = await readEvents(session, context, {
        ...wanted,
        after: descending ? 0 : at,
        before: descending ? at : undefined,
        // Enough to find some where the filter only finds out afterwards.
        limit: Math.min(limit - events.length + 20, 500),
        descending,
      });
      events.push(...page.events);
      invalid.push(...page.invalid);
      if (page.complete || page.last === null) break;
      at = page.last;
    }
    if (descending) events.reverse();
  });
  await putAsideAlone(context, invalid);
  const shown = after === undefined ? events.slice(-limit) : events.slice(0, limit);
  return {
    events: shown.map((event) => ({ ...event })),
    invalid: invalid.map(({ seq, reason }) => ({ seq, reason })).sort((a, b) => a.seq - b.seq),
  };
}

export interface TailOptions extends EventFilter {
  /** Begin after this number. Default: after the newest event at the first `next()`. */
  readonly after?: number | undefined;
  /** End after so many. */
  readonly limit?: number | undefined;
  /** Ends the iteration, without an error. */
  readonly abort?: AbortSignal | undefined;
}

/** Nobody has to be woken for longer than this: only so that a hint that was lost costs no more. */
const LONGEST_WAIT_MS = 10_000;

/**
 * Events as they come, each once, in the order of their numbers, until aborted. Sleeps until somebody commits.
 * @throws NOT_MIGRATED, UNKNOWN_AGENT
 */
export async function* tailEvents(context: Context, options: TailOptions = {}): AsyncGenerator<HiveEvent, void> {
  const { store } = context;
  const { abort, limit = Number.POSITIVE_INFINITY } = options;
  const wanted = withKnownTypes(context, options);
  await requireEvents(store);
  await sequence(store);
  let at = options.after ?? (await lastSeq(store.read));
  const waiter = { until: () => eventsBeyond(at) };
  for (let given = 0; given < limit && !abort?.aborted; ) {
    await sequence(store);
    const { page, end } = await store.snapshot(async (session) => ({
      page: await readEvents(session, context, { ...wanted, after: at, limit: 500 }),
      end: await lastSeq(session),
    }));
    await putAsideAlone(context, page.invalid);
    for (const event of page.events) {
      if (abort?.aborted || given >= limit) return;
      given += 1;
      yield event;
    }
    // Those that do not fit the filter are done with, too.
    at = page.complete ? Math.max(at, end) : (page.last ?? at);
    if (page.complete && given < limit) {
      await store.waitForCommit(LONGEST_WAIT_MS, abort, waiter);
    }
  }
}

/**
 * The same filter, with the usual name of a type where it was given another one.
 * @throws UNKNOWN_NAME for a pattern that names no type, with the nearest
 */
function withKnownTypes({ mapping }: Context, { types, agent, correlationId, subject }: EventFilter): EventFilter {
  const known = eventTypes(mapping);
  const patterns = types?.map((pattern) => {
    if (known.some((type) => matches(pattern, type))) return pattern;
    const meant = canonicalType(mapping, pattern);
    if (meant) return meant.type;
    const guess = nearest(pattern, known);
    throw new HiveError(
      "UNKNOWN_NAME",
      `No event type fits "${pattern}"${guess ? `; did you mean "${guess}"?` : "."}`,
      {
        hint: "`hive events types` lists them; a pattern is like task.*, *.completed or *.",
        details: { pattern, nearest: guess ?? null },
      },
    );
  });
  return { types: patterns, agent, correlationId, subject };
}

/** The event types of the mapping, who emits them, and the other names that mean them. Reads no database. */
export function listEventTypes({ mapping }: Context): EventsTypesResult {
  const { events } = mapping;
  const types = eventTypes(mapping).map((type) => ({
    type,
    extension: !mapping.eventTypes.includes(type),
    agents: mapping.agents.filter(({ registration }) => registration?.emits.includes(type)).map(({ name }) => name),
  }));
  const extensions = types.filter(({ extension }) => extension).length;
  return {
    types,
    standard: types.length - extensions,
    extensions,
    names: Object.entries(events?.names ?? {}).map(([name, { type }]) => ({ name, type })),
  };
}
