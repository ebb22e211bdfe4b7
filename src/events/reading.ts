import type { Context } from "../context.ts";
import { sql } from "../storage/sql.ts";
import type { Head } from "./deliveries.ts";
import type { HiveEvent, InvalidEvent } from "./event.ts";
import { lastSeq, NO_SUBSCRIBER, readEvents, sequence } from "./outbox.ts";

/** An event as a subscriber meets it. */
export type Met =
  | { readonly valid: true; readonly seq: number; readonly event: HiveEvent }
  | { readonly valid: false; readonly seq: number; readonly invalid: InvalidEvent };

export interface Page {
  /** In their order. Those that were put aside before are left out. */
  readonly met: readonly Met[];
  /** All events up to here were looked at. */
  readonly position: number;
}

/** The next events of these types after this number. */
export async function readNext(
  context: Context,
  types: readonly string[],
  after: number,
  limit: number,
): Promise<Page> {
  const { store } = context;
  await sequence(store);
  // Read before the page: what comes in between is for the next one.
  const last = await lastSeq(store.read);
  if (last <= after) return { met: [], position: after };
  const page = await readEvents(store.read, context, { types, after, limit });
  const position = page.complete ? Math.max(last, page.last ?? 0) : (page.last ?? after);
  if (page.events.length === 0 && page.invalid.length === 0) return { met: [], position };
  const aside = await putAsideBefore(context, after, position);
  const met = inOrder(page.events, page.invalid).filter(({ seq }) => !aside.has(seq));
  return { met, position };
}

/** Events that were found invalid stay so until they are redriven, whatever has become valid since. */
async function putAsideBefore({ store }: Context, after: number, to: number): Promise<ReadonlySet<number>> {
  const rows = await store.read.all(
    sql`SELECT seq FROM hive_dead_letters WHERE subscriber = ${NO_SUBSCRIBER} AND seq > ${after} AND seq <= ${to}`,
  );
  return new Set(rows.map(({ seq }) => Number(seq)));
}

/** The events with these numbers, all of the subject of `head`. */
export async function readUndone(
  context: Context,
  { subject }: Head,
  seqs: readonly number[],
): Promise<ReadonlyMap<number, Met>> {
  const [first] = seqs;
  const last = seqs.at(-1);
  const found = new Map<number, Met>();
  if (first === undefined || last === undefined) return found;
  const wanted = new Set(seqs);
  for (let after = first - 1; ; ) {
    const range = { after, before: last + 1, ...(subject === null ? {} : { subject }) };
    const page = await readEvents(context.store.read, context, range);
    for (const one of inOrder(page.events, page.invalid)) if (wanted.has(one.seq)) found.set(one.seq, one);
    if (page.complete || page.last === null) return found;
    after = page.last;
  }
}

function inOrder(events: readonly HiveEvent[], invalid: readonly InvalidEvent[]): Met[] {
  const met: Met[] = events.map((event) => ({ valid: true, seq: event.seq, event }));
  if (invalid.length === 0) return met;
  for (const one of invalid) met.push({ valid: false, seq: one.seq, invalid: one });
  return met.sort((a, b) => a.seq - b.seq);
}

/** For an event that somebody has deleted past hive. */
export function missing(seq: number): Met {
  return { valid: false, seq, invalid: { seq, reason: "The event is gone: it was deleted.", row: { seq } } };
}
