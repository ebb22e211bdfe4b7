import type { Context } from "../context.ts";
import type { Session, Tuple, Value } from "../storage/port.ts";
import { among, join, sql } from "../storage/sql.ts";
import type { TraceSpec } from "../sync/mapping.ts";
import type { TreeEvent } from "./causal-tree.ts";
import { canonicalType, MOST_CHARACTERS, readTime } from "./event.ts";
import { matchesAny } from "./topics.ts";
import { keysOfWork } from "./work-rows.ts";

/**
 * The events of one piece of work and of all that it led to. Only by look-ups in indexes, so that it costs what is found
 * and not what there is. Nothing is kept of a payload but what says most.
 */

export interface Loaded extends TreeEvent {
  readonly sourceAgent: string;
  readonly occurredAt: string | null;
  readonly recordedAt: string | null;
  readonly says: { readonly member: string; readonly text: string } | null;
  readonly payloadBytes: number;
}

/** Work that was followed. */
export interface Followed {
  readonly correlationId: string;
  readonly depth: number;
  readonly from: number | null;
}

export interface Gathered {
  /** In no order. */
  readonly events: readonly Loaded[];
  readonly works: readonly Followed[];
  readonly cutOff: readonly string[];
}

export interface Bounds {
  /** Events. */
  readonly limit: number;
  /** How many times work is followed to the work that it led to. */
  readonly depth: number;
}

const MOST_WORKS = 10_000;
/** Values of one query. */
const AT_ONCE = 256;
/** Longer payloads are not looked into, but for those that lead on to other work. */
const SHORT_PAYLOAD = 16_384;
const LONG_PAYLOAD = 1_048_576;
/** Of the long payloads, so many are looked into. */
const MOST_LONG = 20;
const SAID = 200;

/** A work that is named: by an event, or by the row of a task. */
interface Named {
  readonly correlationId: string;
  readonly from: number | null;
  /** It is only followed where it began with an event that was found: else this one is a part of it. */
  readonly caused: boolean;
}

export async function gather(
  session: Session,
  context: Context,
  correlationId: string,
  { limit, depth }: Bounds,
): Promise<Gathered> {
  const spec = context.mapping.events?.trace;
  const found = new Map<number, Loaded>();
  const works: Followed[] = [];
  const seen = new Set<string>();
  /** The event that each of these began with, as far as it is known: also of those without events of their own. */
  const origins = new Map<string, number>();
  /** Numbers whose effects were looked for. */
  const asked = new Set<number>();
  const cutOff = new Set<string>();
  const tooMany = () => cutOff.add(`more than ${limit} events: --limit shows more`);
  const reader = new Reader(session, context, spec);

  const load = async (numbers: readonly number[]): Promise<Loaded[]> => {
    const fresh = [...new Set(numbers)].filter((seq) => !found.has(seq)).sort((a, b) => a - b);
    const room = limit - found.size;
    if (fresh.length > room) tooMany();
    const events = await reader.events(fresh.slice(0, room));
    for (const event of events) found.set(event.seq, event);
    return events;
  };

  let level: Named[] = [{ correlationId, from: null, caused: false }];
  for (let at = 0; level.length > 0; at++) {
    if (at > depth) {
      if (await reader.any(names(level), found)) {
        cutOff.add(`work is nested deeper than ${depth} levels: --depth shows more`);
      }
      break;
    }
    const next = new Map<string, Named>();
    const followed: string[] = [];
    const fresh: Loaded[] = [];
    for (const part of chunks(level, AT_ONCE)) {
      for (const { correlationId: name } of part) seen.add(name);
      const room = limit - found.size + 1;
      const numbers = await reader.numbers(names(part.filter((one) => !one.caused)), room, at === 0);
      for (const { correlationId: name, from, caused } of part) {
        const own = caused ? await reader.numbersOf(name, room) : (numbers.get(name) ?? []);
        if (caused && !found.has(own[0] ?? 0)) continue;
        followed.push(name);
        if (from !== null) origins.set(name, from);
        // Ids of single tasks are looked for as well: most of them are no work with events of its own.
        if (own.length === 0 && at > 0) continue;
        works.push({ correlationId: name, depth: at, from });
        await load(own);
        // Also those that were found before, as the effect of something: now they count as a part of it.
        for (const seq of own) {
          const event = found.get(seq);
          if (event) fresh.push(event);
        }
      }
    }
    const name = (one: Named) => {
      if (seen.has(one.correlationId)) return;
      const before = next.get(one.correlationId);
      // What says that it leads there counts for more than what merely caused an event there.
      if (!before || (before.caused && !one.caused)) next.set(one.correlationId, one);
    };
    for (let causes = fresh.filter(({ seq }) => !asked.has(seq)); causes.length > 0; ) {
      for (const { seq } of causes) asked.add(seq);
      const effects = await reader.effects(causes, limit + 1);
      causes = (await load(effects)).sort((a, b) => a.seq - b.seq);
      for (const { seq, correlationId: other } of causes) {
        if (!next.has(other)) name({ correlationId: other, from: seq, caused: true });
      }
    }
    const about = new Map<string, number>();
    const starts = new Map<string, number>();
    for (const event of fresh.sort((a, b) => a.seq - b.seq)) {
      if (event.subject !== null && !about.has(event.subject)) about.set(event.subject, event.seq);
      if (!starts.has(event.correlationId)) starts.set(event.correlationId, event.seq);
      for (const one of reader.leads(event)) name({ correlationId: one, from: event.seq, caused: false });
    }
    for (const { key, from } of await keysOfWork(session, context, followed, MOST_WORKS)) {
      const start = about.get(key) ?? (from === null ? undefined : (starts.get(from) ?? origins.get(from)));
      if (!next.has(key)) name({ correlationId: key, from: start ?? null, caused: false });
    }
    level = [...next.values()];
    if (seen.size + level.length > MOST_WORKS) {
      cutOff.add(`more than ${MOST_WORKS} pieces of work: the others were not looked for`);
      level = level.slice(0, Math.max(0, MOST_WORKS - seen.size));
    }
    if (found.size >= limit) {
      if (await reader.any(names(level), found)) tooMany();
      break;
    }
  }
  if (reader.cut) tooMany();
  return { events: [...found.values()], works, cutOff: [...cutOff] };
}

const names = (works: readonly Named[]) => works.map((one) => one.correlationId);

const TEXTS = join(
  [sql`id`, sql`event_type`, sql`source_agent`, sql`correlation_id`, sql`causation_id`, sql`subject`].map(
    (column) => sql`substr(${column}, 1, ${MOST_CHARACTERS + 1})`,
  ),
);

class Reader {
  private readonly session: Session;
  private readonly context: Context;
  private readonly spec: TraceSpec | undefined;
  /** By event: what its payload names. */
  private readonly named = new Map<number, string[]>();
  private long = 0;
  /** There were more than were looked at. */
  cut = false;

  constructor(session: Session, context: Context, spec: TraceSpec | undefined) {
    this.session = session;
    this.context = context;
    this.spec = spec;
  }

  /** The numbers of events with these correlation ids; of each id some, and more than `wanted` in all if there are. */
  async numbers(ids: readonly string[], wanted: number, orId: boolean): Promise<Map<string, number[]>> {
    const found = new Map<string, number[]>();
    const add = (rows: readonly Tuple[]) => {
      for (const [correlation, seq] of rows) {
        const name = String(correlation);
        const numbers = found.get(name);
        if (numbers) numbers.push(Number(seq));
        else found.set(name, [Number(seq)]);
      }
    };
    const most = this.most(Math.max(wanted, ids.length));
    for (const part of chunks(ids, AT_ONCE)) {
      const rows = await this.session.tuples(sql`SELECT correlation_id, seq FROM hive_events
        WHERE correlation_id IN ${among(part)} AND seq IS NOT NULL LIMIT ${most}`);
      if (rows.length === most) this.cut = true;
      add(rows);
    }
    if (orId) {
      for (const name of ids) {
        add(
          await this.session.tuples(sql`SELECT id, seq FROM hive_events
            WHERE id = ${name} AND coalesce(correlation_id, '') = '' AND seq IS NOT NULL`),
        );
      }
    }
    for (const numbers of found.values()) numbers.sort((a, b) => a - b);
    return found;
  }

  /** The numbers of events with this correlation id, the first ones; none where there are so many that nobody can tell. */
  async numbersOf(id: string, wanted: number): Promise<number[]> {
    const most = this.most(wanted);
    const rows = await this.session.tuples(
      sql`SELECT seq FROM hive_events WHERE correlation_id = ${id} AND seq IS NOT NULL LIMIT ${most}`,
    );
    if (!this.session.dialect.singleWriter && rows.length === most) return [];
    return rows.map(([seq]) => Number(seq)).sort((a, b) => a - b);
  }

  /** An index by correlation id has no order on PostgreSQL. What is beyond this is never looked at. */
  private most(wanted: number): number {
    return this.session.dialect.singleWriter ? wanted : 4 * wanted + 1_000;
  }

  /** Whether there are events with these correlation ids that were not found yet. */
  async any(ids: readonly string[], found: ReadonlyMap<number, unknown>): Promise<boolean> {
    for (const part of chunks(ids, AT_ONCE)) {
      const rows = await this.session.tuples(sql`SELECT seq FROM hive_events
        WHERE correlation_id IN ${among(part)} AND seq IS NOT NULL LIMIT ${found.size + 1}`);
      if (rows.some(([seq]) => !found.has(Number(seq)))) return true;
    }
    return false;
  }

  /** The numbers of events that name one of these as their cause. */
  async effects(causes: readonly Loaded[], wanted: number): Promise<number[]> {
    const found: number[] = [];
    for (const part of chunks([...new Set(causes.map(({ id }) => id))], AT_ONCE)) {
      const rows = await this.session.tuples(sql`SELECT seq FROM hive_events
        WHERE causation_id IN ${among(part)} AND causation_id IS NOT NULL AND seq IS NOT NULL LIMIT ${wanted}`);
      if (rows.length === wanted) this.cut = true;
      for (const [seq] of rows) found.push(Number(seq));
    }
    return found;
  }

  async events(numbers: readonly number[]): Promise<Loaded[]> {
    const loaded: Loaded[] = [];
    for (const part of chunks(numbers, AT_ONCE)) {
      const rows =
        await this.session.tuples(sql`SELECT seq, ${TEXTS}, substr(occurred_at, 1, 40), substr(recorded_at, 1, 40),
        octet_length(payload), CASE WHEN octet_length(payload) <= ${SHORT_PAYLOAD} THEN payload END
        FROM hive_events WHERE seq IN ${among(part)}`);
      for (const row of rows) loaded.push(await this.decoded(row));
    }
    return loaded;
  }

  private async decoded(row: Tuple): Promise<Loaded> {
    const [seq, id, type, agent, correlation, causation, subject, occurred, recorded, bytes, payload] = row;
    const number = Number(seq);
    const own = text(id) ?? `#${number}`;
    const written = text(type) ?? "(no type)";
    const meant = canonicalType(this.context.mapping, written)?.type ?? written;
    const payloadBytes = Number(bytes ?? 0);
    const object = objectOf(payload) ?? (await this.longPayload(number, meant, payloadBytes));
    const members = this.spec?.leadsTo?.flatMap((one) => (matchesAny(one.types, meant) ? (one.members ?? []) : []));
    const names = (members ?? []).flatMap((member) => idText(object?.[member]) ?? []);
    if (names.length > 0) this.named.set(number, names);
    return {
      seq: number,
      id: own,
      type: meant,
      sourceAgent: text(agent) ?? "",
      correlationId: text(correlation) ?? own,
      causationId: text(causation),
      subject: text(subject),
      occurredAt: readTime(occurred ?? recorded),
      recordedAt: readTime(recorded ?? occurred),
      says: this.said(object),
      payloadBytes,
    };
  }

  private async longPayload(seq: number, type: string, bytes: number): Promise<{ [member: string]: unknown } | null> {
    const leads = this.spec?.leadsTo?.some((one) => one.members && matchesAny(one.types, type)) === true;
    if (!leads || bytes <= SHORT_PAYLOAD || bytes > LONG_PAYLOAD || this.long >= MOST_LONG) return null;
    this.long += 1;
    const [row] = await this.session.tuples(sql`SELECT payload FROM hive_events WHERE seq = ${seq}`);
    return objectOf(row?.[0]);
  }

  private said(object: { [member: string]: unknown } | null): Loaded["says"] {
    for (const member of this.spec?.tells ?? []) {
      const value = object?.[member];
      const said = typeof value === "string" ? value.trim() : typeof value === "number" ? String(value) : "";
      if (said !== "") return { member, text: said.length > SAID ? `${said.slice(0, SAID)}…` : said };
    }
    return null;
  }

  /** The work that this event leads to, by what the mapping says of it. */
  leads(event: Loaded): string[] {
    const specs = this.spec?.leadsTo?.filter(({ types }) => matchesAny(types, event.type)) ?? [];
    const subject = event.subject !== null && specs.some((one) => one.subject) ? [event.subject] : [];
    return [...subject, ...(this.named.get(event.seq) ?? [])];
  }
}

function text(value: Value | undefined): string | null {
  if (value instanceof Uint8Array) return `(${value.length} bytes)`;
  return value === null || value === undefined || value === "" ? null : String(value);
}

function idText(value: unknown): string | null {
  if (typeof value === "string") return value !== "" && value.length <= MOST_CHARACTERS ? value : null;
  return typeof value === "number" && Number.isSafeInteger(value) ? String(value) : null;
}

function objectOf(value: Value | undefined): { [member: string]: unknown } | null {
  if (typeof value !== "string") return null;
  try {
    const parsed: unknown = JSON.parse(value);
    return typeof parsed === "object" && parsed !== null && !Array.isArray(parsed)
      ? Object.fromEntries(Object.entries(parsed))
      : null;
  } catch {
    return null;
  }
}

export function* chunks<T>(items: readonly T[], size: number): Generator<T[]> {
  for (let at = 0; at < items.length; at += size) yield items.slice(at, at + size);
}
