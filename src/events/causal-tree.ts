import type { SpanSpec } from "../sync/mapping.ts";

/** The events of one piece of work as a tree of what led to what, and how long things took. Pure. */

export interface TreeEvent {
  readonly seq: number;
  readonly id: string;
  readonly type: string;
  readonly correlationId: string;
  readonly causationId: string | null;
  readonly subject: string | null;
}

export interface Placed<E> {
  readonly event: E;
  /** The event that it hangs below. */
  readonly parent: number | null;
  /** 0 for one that hangs below none. */
  readonly depth: number;
  /** Why it hangs there: it was caused by it, it is about the same subject, or its work began with it. */
  readonly link: "cause" | "subject" | "work" | null;
}

/** Ancestors that are looked at before an event is rather hung elsewhere: only hostile causes need as many. */
const MOST_ANCESTORS = 10_000;

/**
 * Every event exactly once, each after the one that it hangs below: its cause; else the first event of its subject; else
 * the one that led to its work (by correlation id, as numbers in `leaders`). Causes that are unknown, come later or go
 * round in a circle are put up with. Those below one event are in the order of their numbers.
 */
export function causalTree<E extends TreeEvent>(
  given: readonly E[],
  leaders: ReadonlyMap<string, number> = new Map(),
): Placed<E>[] {
  const events = [...given].sort((a, b) => a.seq - b.seq);
  const bySeq = new Map(events.map((event) => [event.seq, event]));
  const byId = new Map<string, E>();
  const starts = new Map<string, E>();
  for (const event of events) {
    if (!byId.has(event.id)) byId.set(event.id, event);
    const subject = subjectOf(event);
    if (subject !== null && !starts.has(subject)) starts.set(subject, event);
  }
  const above = new Map<E, { readonly parent: E; readonly link: "cause" | "subject" | "work" }>();
  // While all hang below an earlier one there can be no circle.
  let ordered = true;
  const hang = (event: E, parent: E | undefined, link: "cause" | "subject" | "work"): boolean => {
    if (!parent || parent === event) return false;
    const forward = parent.seq < event.seq;
    if (!(ordered && forward)) {
      let at: E | undefined = parent;
      for (let steps = 0; at !== undefined; steps++) {
        if (at === event || steps > MOST_ANCESTORS) return false;
        at = above.get(at)?.parent;
      }
    }
    if (!forward) ordered = false;
    above.set(event, { parent, link });
    return true;
  };
  const later: E[] = [];
  for (const event of events) {
    const cause = event.causationId === null ? undefined : byId.get(event.causationId);
    if (cause && cause.seq > event.seq) later.push(event);
    else hang(event, cause, "cause");
  }
  // Last, so that they cannot take the place of those that are in order.
  for (const event of later) hang(event, byId.get(event.causationId ?? ""), "cause");
  for (const event of events) {
    if (above.has(event)) continue;
    const subject = subjectOf(event);
    if (subject !== null && hang(event, starts.get(subject), "subject")) continue;
    const leader = leaders.get(event.correlationId);
    if (leader !== undefined) hang(event, bySeq.get(leader), "work");
  }

  const below = new Map<E | null, E[]>();
  for (const event of events) {
    const parent = above.get(event)?.parent ?? null;
    const siblings = below.get(parent);
    if (siblings) siblings.push(event);
    else below.set(parent, [event]);
  }
  const placed: Placed<E>[] = [];
  // No recursion: a chain of causes may be as long as the list.
  const open = (below.get(null) ?? []).map((event) => ({ event, depth: 0 })).reverse();
  for (let next = open.pop(); next; next = open.pop()) {
    const { event, depth } = next;
    const up = above.get(event);
    placed.push({ event, parent: up?.parent.seq ?? null, depth, link: up?.link ?? null });
    for (const child of (below.get(event) ?? []).reverse()) open.push({ event: child, depth: depth + 1 });
  }
  return placed;
}

/** Subjects mean something within one piece of work. */
function subjectOf({ subject, correlationId }: TreeEvent): string | null {
  return subject === null ? null : `${correlationId}\u0000${subject}`;
}

export interface Span {
  readonly name: string;
  readonly waits: boolean;
  /** The event that opened it. */
  readonly opened: number;
  /** `open`: nothing closed it. `again`: it was opened anew before it was closed. */
  readonly state: "done" | "failed" | "cancelled" | "open" | "again";
  /** The event that closed it, or opened it anew. */
  readonly closed: number | null;
}

/** What was opened and closed, in the order of the openings. An event may open some spans and close others. */
export function spansOf(events: readonly TreeEvent[], specs: readonly SpanSpec[]): Span[] {
  const ordered = [...events].sort((a, b) => a.seq - b.seq);
  const spans: { -readonly [member in keyof Span]: Span[member] }[] = [];
  for (const { name, opens, closes, waits = false } of specs) {
    const open = new Map<string, (typeof spans)[number]>();
    const byId = new Map<string, string>();
    for (const event of ordered) {
      const own = event.subject ?? `\u0000${event.correlationId}`;
      const outcome = Object.hasOwn(closes, event.type) ? closes[event.type] : undefined;
      if (outcome) {
        const caused = event.causationId === null ? undefined : byId.get(event.causationId);
        const key = caused !== undefined && open.has(caused) ? caused : own;
        const span = open.get(key);
        if (span) {
          span.state = outcome;
          span.closed = event.seq;
          open.delete(key);
        }
      }
      if (!opens.includes(event.type)) continue;
      const before = open.get(own);
      if (before) {
        before.state = "again";
        before.closed = event.seq;
      }
      const span = { name, waits, opened: event.seq, state: "open" as const, closed: null };
      spans.push(span);
      open.set(own, span);
      byId.set(event.id, own);
    }
  }
  return spans.sort((a, b) => a.opened - b.opened);
}
