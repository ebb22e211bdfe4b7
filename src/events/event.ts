import { HiveError, nearest } from "../errors.ts";
import type { EventSpec, PlatformMapping } from "../sync/mapping.ts";

/**
 * What an event is, and what makes one valid. Pure: the clock and the ids come from the caller, payload schemas from the
 * mapping.
 */

export type Json = null | boolean | number | string | Json[] | { [member: string]: Json };
export type JsonObject = { [member: string]: Json };

/** An event as it is read: whole, valid, and at its place in the order of all events. */
export interface HiveEvent {
  /** From 1, without gaps, in the order in which events could be seen. */
  readonly seq: number;
  readonly id: string;
  readonly type: string;
  /** Who tells it. As it was told: an agent's name, or its id in the platform's registry. */
  readonly sourceAgent: string;
  /** The work that it belongs to; its own id where none was named. */
  readonly correlationId: string;
  /** The id of the event that led to it. */
  readonly causationId: string | null;
  /** What it is about: events of one subject are delivered in order. */
  readonly subject: string | null;
  readonly payload: JsonObject;
  readonly metadata: JsonObject | null;
  /** ISO UTC: when it happened, by whoever tells it; may lie in the future. */
  readonly occurredAt: string;
  /** ISO UTC: when it was written down. */
  readonly recordedAt: string;
}

/** An event to be emitted. What is left out: a new id, no subject, no payload, the moment at which it is emitted. */
export interface NewEvent {
  readonly type: string;
  /** An agent of the mapping, by its name or its id in the registry. */
  readonly sourceAgent: string;
  readonly id?: string | undefined;
  /** Default: the event's own id. */
  readonly correlationId?: string | null | undefined;
  readonly causationId?: string | null | undefined;
  readonly subject?: string | null | undefined;
  /** A JSON object, at most {@link MOST_PAYLOAD_BYTES} as UTF-8. */
  readonly payload?: object | undefined;
  readonly metadata?: object | null | undefined;
  readonly occurredAt?: string | Date | undefined;
}

/** A row that is no valid event. It is delivered to nobody. */
export interface InvalidEvent {
  readonly seq: number;
  /** For people: what is wrong with which column. */
  readonly reason: string;
  /** The row, as far as JSON can hold it. A payload that is too long is left out; `payload_bytes` tells how long it is. */
  readonly row: { readonly [column: string]: string | number | null };
}

/** As UTF-8. Longer payloads, and metadata, are refused. */
export const MOST_PAYLOAD_BYTES = 1_048_576;
/** Characters of an id, a type, a subject, the name of a source. */
export const MOST_CHARACTERS = 1_024;
/** Deeper JSON cannot be written again without running out of stack. */
const MOST_LEVELS = 1_000;

/** What the mapping says of events, ready to be asked. */
export interface EventRules {
  /** The standard types, then the extension types. */
  readonly types: readonly string[];
  /** The type that this name means, and what it says besides; null for a name that means none. */
  canonical(name: string): CanonicalType | null;
  /** Why a payload of this type is refused; null if it is not. */
  problem(type: string, payload: JsonObject): string | null;
}

export interface CanonicalType {
  readonly type: string;
  /** Members that the name itself stands for. */
  readonly payload?: JsonObject | undefined;
}

const known = new WeakMap<PlatformMapping, Promise<EventRules>>();

/**
 * The rules of this mapping; its payload schemas are loaded once, when they are first asked for.
 * @throws MAPPING_INVALID for schemas that are none
 */
export function eventRules(mapping: PlatformMapping): Promise<EventRules> {
  let rules = known.get(mapping);
  if (!rules) {
    rules = loadRules(mapping);
    known.set(mapping, rules);
    // Not kept: the next one may have more luck.
    rules.catch(() => known.delete(mapping));
  }
  return rules;
}

async function loadRules(mapping: PlatformMapping): Promise<EventRules> {
  const { events } = mapping;
  const types = eventTypes(mapping);
  const schemas = (await events?.payloads?.()) ?? {};
  for (const [type, schema] of Object.entries(schemas)) {
    const problem = !types.includes(type)
      ? "is no event type of the mapping"
      : typeof schema?.safeParse !== "function"
        ? "has to be a schema with `safeParse`, as zod's are"
        : null;
    if (problem === null) continue;
    throw new HiveError(
      "MAPPING_INVALID",
      `The mapping "${mapping.name}" has payload schemas that are none: "${type}" ${problem}.`,
      {
        hint: "Correct what `events.payloads` of the mapping gives.",
        details: { type },
      },
    );
  }
  return {
    types,
    canonical: (name) => canonicalType(mapping, name),
    problem: (type, payload) => {
      const schema = Object.hasOwn(schemas, type) ? schemas[type] : undefined;
      const answer = schema?.safeParse(payload);
      if (answer === undefined || answer.success) return null;
      const { issues } = answer.error;
      const told = issues.slice(0, 3).map(({ path, message }) => `payload${path.map(member).join("")}: ${message}`);
      return [...told, ...(issues.length > 3 ? [`and ${issues.length - 3} more`] : [])].join("; ");
    },
  };
}

function member(name: PropertyKey): string {
  return typeof name === "number" ? `[${name}]` : `.${String(name)}`;
}

/** The standard types, then the extension types. */
export function eventTypes(mapping: PlatformMapping): readonly string[] {
  return [...new Set([...mapping.eventTypes, ...(mapping.events?.extensionTypes ?? [])])];
}

/** The type that a name means; platforms also write names of their own, and in other spellings. */
export function canonicalType(mapping: PlatformMapping, name: string): CanonicalType | null {
  const { eventTypes, events } = mapping;
  const is = (type: string) => eventTypes.includes(type) || events?.extensionTypes?.includes(type) === true;
  if (is(name)) return { type: name };
  if (events === undefined) return null;
  const spelled = events.spelling?.(name) ?? name;
  const names: NonNullable<EventSpec["names"]> = events.names ?? {};
  for (const one of [name, spelled]) {
    const meant = Object.hasOwn(names, one) ? names[one] : undefined;
    if (meant) return { type: meant.type, payload: meant.payload };
  }
  return is(spelled) ? { type: spelled } : null;
}

/** A UUIDv7 (RFC 9562): its first 48 bits are the milliseconds since the epoch, the rest is taken from a random UUID. */
export function uuid7(now: number, random: string): string {
  const time = Math.max(0, Math.floor(now)).toString(16).padStart(12, "0");
  return `${time.slice(0, 8)}-${time.slice(8, 12)}-7${random.slice(15, 18)}-${random.slice(19)}`;
}

/** An event that was found valid and only has to be written. */
export interface ReadyEvent {
  readonly id: string;
  readonly type: string;
  readonly sourceAgent: string;
  readonly correlationId: string;
  readonly causationId: string | null;
  readonly subject: string | null;
  /** JSON text. */
  readonly payload: string;
  readonly metadata: string | null;
  readonly occurredAt: string;
}

/**
 * Makes an event ready to be written.
 * @param agent the name of its source, which is an agent of the mapping
 * @param now milliseconds since the epoch
 * @param random a random UUID
 * @throws UNKNOWN_NAME (no such type, with the nearest), RECORD_INVALID (with the member that is refused)
 */
export function readyEvent(event: NewEvent, rules: EventRules, agent: string, now: number, random: string): ReadyEvent {
  const meant = typeof event.type === "string" ? rules.canonical(event.type) : null;
  if (!meant) {
    const guess = nearest(String(event.type), rules.types);
    throw new HiveError(
      "UNKNOWN_NAME",
      `There is no event type "${event.type}"${guess ? `; did you mean "${guess}"?` : "."}`,
      {
        hint: "Nothing was written. `hive events types` lists them.",
        details: { type: String(event.type), nearest: guess ?? null },
      },
    );
  }
  const refuse = (reason: string) =>
    new HiveError("RECORD_INVALID", `The event ${meant.type} is refused: ${reason}.`, {
      hint: "Nothing was written. Correct the event.",
      details: { type: meant.type, reason },
    });
  const text = (name: string, value: string | null | undefined): string | null => {
    if (value === undefined || value === null) return null;
    const problem = textProblem(value);
    if (problem !== null) throw refuse(`${name} ${problem}`);
    return value;
  };
  const json = (name: string, value: object): string => {
    const problem = jsonProblem(value, name);
    if (problem !== null) throw refuse(problem);
    const written = JSON.stringify(value);
    const bytes = utf8Length(written);
    if (bytes > MOST_PAYLOAD_BYTES) throw refuse(tooLong(name, bytes));
    return written;
  };
  const given = event.payload ?? {};
  const whole = meant.payload === undefined || Array.isArray(given) ? given : { ...meant.payload, ...given };
  const payload = json("payload", whole);
  const problem = rules.problem(meant.type, asObject(whole));
  if (problem !== null) throw refuse(problem);
  const metadata = event.metadata === undefined || event.metadata === null ? null : json("metadata", event.metadata);
  const occurred = event.occurredAt === undefined ? new Date(now).toISOString() : readTime(event.occurredAt);
  if (occurred === null) throw refuse(`occurredAt is no time: ${shown(String(event.occurredAt))}`);
  const id = text("id", event.id) ?? uuid7(now, random);
  return {
    id,
    type: meant.type,
    sourceAgent: agent,
    correlationId: text("correlationId", event.correlationId) ?? id,
    causationId: text("causationId", event.causationId),
    subject: text("subject", event.subject),
    payload,
    metadata,
    occurredAt: occurred,
  };
}

/** A row of hive_events: anything may stand in it. */
export interface EventRow {
  readonly seq: number;
  readonly id: unknown;
  readonly type: unknown;
  readonly sourceAgent: unknown;
  readonly correlationId: unknown;
  readonly causationId: unknown;
  readonly subject: unknown;
  /** Null where it is too long to be read, or absent. */
  readonly payload: unknown;
  readonly payloadBytes: number | null;
  readonly metadata: unknown;
  readonly metadataBytes: number | null;
  readonly occurredAt: unknown;
  readonly recordedAt: unknown;
}

/** The event that a row holds, or why it holds none. */
export function decodeEvent(row: EventRow, rules: EventRules): HiveEvent | InvalidEvent {
  const invalid = (reason: string): InvalidEvent => ({ seq: row.seq, reason, row: copyOf(row) });
  const meant = typeof row.type === "string" ? rules.canonical(row.type) : null;
  if (!meant) return invalid(row.type === null ? "event_type is missing" : `unknown event_type ${shown(row.type)}`);
  const texts = { id: row.id, source_agent: row.sourceAgent };
  for (const [column, value] of Object.entries(texts)) {
    if (value === null || value === "") return invalid(`${column} is missing`);
  }
  const others = { correlation_id: row.correlationId, causation_id: row.causationId, subject: row.subject };
  for (const [column, value] of Object.entries({ ...texts, ...others })) {
    const problem = value === null || value === "" ? null : textProblem(value);
    if (problem !== null) return invalid(`${column} ${problem}`);
  }
  const payload = jsonObject("payload", row.payload, row.payloadBytes);
  if (typeof payload === "string") return invalid(payload);
  if (payload === null) return invalid("payload is missing");
  const metadata = row.metadata === "" ? null : jsonObject("metadata", row.metadata, row.metadataBytes);
  if (typeof metadata === "string") return invalid(metadata);
  const whole = meant.payload === undefined ? payload : { ...meant.payload, ...payload };
  const problem = rules.problem(meant.type, whole);
  if (problem !== null) return invalid(problem);
  const occurredAt = readTime(row.occurredAt ?? row.recordedAt);
  if (occurredAt === null) return invalid(`occurred_at is no time: ${shown(row.occurredAt)}`);
  const recordedAt = readTime(row.recordedAt ?? row.occurredAt);
  if (recordedAt === null) return invalid(`recorded_at is no time: ${shown(row.recordedAt)}`);
  const id = String(row.id);
  return {
    seq: row.seq,
    id,
    type: meant.type,
    sourceAgent: String(row.sourceAgent),
    correlationId: filled(row.correlationId) ?? id,
    causationId: filled(row.causationId),
    subject: filled(row.subject),
    payload: whole,
    metadata,
    occurredAt,
    recordedAt,
  };
}

export function isInvalid(event: HiveEvent | InvalidEvent): event is InvalidEvent {
  return "reason" in event;
}

function filled(value: unknown): string | null {
  return typeof value === "string" && value !== "" ? value : null;
}

function copyOf(row: EventRow): InvalidEvent["row"] {
  const plain = (value: unknown): string | number | null => {
    if (value === null || value === undefined) return null;
    if (typeof value === "number") return value;
    return value instanceof Uint8Array ? `(${value.length} bytes)` : String(value);
  };
  return {
    seq: row.seq,
    id: plain(row.id),
    event_type: plain(row.type),
    source_agent: plain(row.sourceAgent),
    correlation_id: plain(row.correlationId),
    causation_id: plain(row.causationId),
    subject: plain(row.subject),
    payload: plain(row.payload),
    payload_bytes: row.payloadBytes,
    metadata: plain(row.metadata),
    occurred_at: plain(row.occurredAt),
    recorded_at: plain(row.recordedAt),
  };
}

/** Why this cannot be the text of an id, a subject or a name; null if it can. */
function textProblem(value: unknown): string | null {
  if (value instanceof Uint8Array) return "is no valid UTF-8 text";
  if (typeof value !== "string") return "has to be a text";
  if (value === "") return "is empty";
  if (value.length > MOST_CHARACTERS) return `is longer than ${MOST_CHARACTERS} characters`;
  if (value.includes("\u0000")) return "holds a NUL character";
  return LONE_SURROGATE.test(value) ? "holds half a character (a lone surrogate)" : null;
}

const LONE_SURROGATE = /\p{Surrogate}/u;

/** The object that a column's JSON text gives; null where there is none; a reason where it is none. */
function jsonObject(column: string, value: unknown, bytes: number | null): JsonObject | string | null {
  if (bytes !== null && bytes > MOST_PAYLOAD_BYTES) return tooLong(column, bytes);
  if (value === null || value === undefined) return null;
  if (typeof value !== "string") return `${column} is no valid UTF-8 text`;
  if (tooDeep(value)) return `${column} is nested deeper than ${MOST_LEVELS} levels`;
  let parsed: unknown;
  try {
    parsed = JSON.parse(value);
  } catch {
    return `${column} is no JSON: ${shown(value)}`;
  }
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) {
    return `${column} has to be a JSON object, is ${Array.isArray(parsed) ? "a list" : shown(value)}`;
  }
  return asObject(parsed);
}

/** What JSON.parse gives for an object, or what was found to be as good. */
function asObject(value: object): JsonObject {
  return value as JsonObject;
}

/** Whether the brackets of a JSON text are nested deeper than can be written again. */
function tooDeep(text: string): boolean {
  if (text.length < 2 * MOST_LEVELS) return false;
  let level = 0;
  for (let i = 0; i < text.length; i++) {
    switch (text.charCodeAt(i)) {
      case 0x22: // A string, to its end.
        for (i += 1; i < text.length && text.charCodeAt(i) !== 0x22; i++) if (text.charCodeAt(i) === 0x5c) i += 1;
        break;
      case 0x5b:
      case 0x7b:
        level += 1;
        if (level > MOST_LEVELS) return true;
        break;
      case 0x5d:
      case 0x7d:
        level -= 1;
    }
  }
  return false;
}

/** Why JSON would not hold this value as it is; null if it would. Members that are undefined count as absent. */
function jsonProblem(value: unknown, name: string, level = 0): string | null {
  switch (typeof value) {
    case "string":
    case "boolean":
      return null;
    case "number":
      return Number.isFinite(value) ? null : `${name} is ${value}, which JSON does not have`;
    case "object": {
      if (value === null && level > 0) return null;
      if (level > MOST_LEVELS) return `${name.slice(0, 80)}… is nested deeper than ${MOST_LEVELS} levels`;
      if (Array.isArray(value) && level > 0) {
        for (const [i, item] of value.entries()) {
          const problem = jsonProblem(item, `${name}[${i}]`, level + 1);
          if (problem !== null) return problem;
        }
        return null;
      }
      const prototype: unknown = value === null ? undefined : Object.getPrototypeOf(value);
      if (value === null || Array.isArray(value) || (prototype !== null && !isPlain(prototype))) {
        return `${name} has to be ${level > 0 ? "JSON: an object of a class is not" : "a JSON object"}`;
      }
      for (const [key, item] of Object.entries(value)) {
        const problem = item === undefined ? null : jsonProblem(item, `${name}.${key}`, level + 1);
        if (problem !== null) return problem;
      }
      return null;
    }
    default:
      return `${name} is a ${typeof value}, which JSON does not have`;
  }
}

/** The prototype of `{…}`, of this or of another realm. */
function isPlain(prototype: unknown): boolean {
  return typeof prototype === "object" && prototype !== null && Object.getPrototypeOf(prototype) === null;
}

function tooLong(name: string, bytes: number): string {
  return `${name} takes ${bytes} bytes, more than the ${MOST_PAYLOAD_BYTES} that are allowed`;
}

/** Most texts are ASCII or short: only where it matters are they really measured. */
function utf8Length(text: string): number {
  if (text.length * 3 <= MOST_PAYLOAD_BYTES) return text.length;
  return new TextEncoder().encode(text).length;
}

function shown(value: unknown): string {
  if (value === null || value === undefined) return "NULL";
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  const text = String(value);
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text);
}

const TIME =
  /^(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)? ?(?:Z|([+-])(\d\d)(?::?(\d\d))?)?$/i;

/**
 * A time as agents write it (ISO 8601, with a T or a space; without an offset it means UTC), as `2026-11-23T03:00:00.000Z`:
 * fractions beyond milliseconds are cut. Null for what is none.
 */
export function readTime(value: unknown): string | null {
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : readTime(value.toISOString());
  const parts = typeof value === "string" ? TIME.exec(value.trim()) : null;
  if (!parts) return null;
  const at = (i: number) => Number(parts[i] ?? 0);
  const [year, month, day, hour, minute, second] = [at(1), at(2), at(3), at(4), at(5), at(6)];
  const ms = Number((parts[7] ?? "").padEnd(3, "0").slice(0, 3));
  const offset = (parts[8] === "-" ? -1 : 1) * (at(9) * 60 + at(10));
  if (hour > 23 || minute > 59 || second > 59 || at(9) > 23 || at(10) > 59) return null;
  const time = new Date(0);
  time.setUTCFullYear(year, month - 1, day);
  if (time.getUTCMonth() !== month - 1 || time.getUTCDate() !== day) return null;
  time.setUTCHours(hour, minute - offset, second, ms);
  const written = time.toISOString();
  // Beyond the years that four digits can tell.
  return written.length === 24 ? written : null;
}
