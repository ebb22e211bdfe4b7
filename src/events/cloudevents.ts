import { HiveError } from "../errors.ts";
import { type HiveEvent, type JsonObject, type NewEvent, readTime } from "./event.ts";

/**
 * CloudEvents 1.0 in JSON (https://github.com/cloudevents/spec), with these of its documented extensions: correlation
 * (`correlationid`, `causationid`), partitioning (`partitionkey`), recorded time (`recordedtime`) and sequence
 * (`sequence`). What has no place there stands in `hivemetadata`, as JSON text, so that nothing is lost.
 */
export interface CloudEvent {
  readonly specversion: "1.0";
  readonly id: string;
  /** `/agents/hive-coder` */
  readonly source: string;
  /** `dev.hive.task.completed` */
  readonly type: string;
  readonly subject?: string;
  readonly time: string;
  readonly datacontenttype: "application/json";
  readonly data: JsonObject;
  readonly correlationid: string;
  readonly causationid?: string;
  /** Equal for events that have to be kept in their order. */
  readonly partitionkey: string;
  readonly recordedtime: string;
  /** 16 digits, so that texts order as the numbers do. */
  readonly sequence: string;
  readonly hivemetadata?: string;
  /** Extensions that came with an event from elsewhere. */
  readonly [extension: string]: unknown;
}

const TYPE_PREFIX = "dev.hive.";
const SOURCE_PREFIX = "/agents/";
const DIGITS = 16;

/** Attributes that mean something here; all others are kept as they are. */
const OWN: readonly string[] = [
  ...["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "data", "data_base64"],
  ...["correlationid", "causationid", "partitionkey", "recordedtime", "sequence", "sequencetype", "hivemetadata"],
];

/** Under this name in the metadata: the attributes of others, which go out again as they came in. */
const OTHERS = "cloudevents";

/** The event as a CloudEvent. `fromCloudEvent` gives the same event again. */
export function toCloudEvent(event: HiveEvent): CloudEvent {
  const { [OTHERS]: others, ...rest } = event.metadata ?? {};
  const carried = isExtensions(others) ? others : null;
  const metadata = carried ? rest : event.metadata;
  return {
    specversion: "1.0",
    id: event.id,
    source: SOURCE_PREFIX + encodeURIComponent(event.sourceAgent),
    type: TYPE_PREFIX + event.type,
    ...(event.subject !== null && { subject: event.subject }),
    time: event.occurredAt,
    datacontenttype: "application/json",
    data: event.payload,
    correlationid: event.correlationId,
    ...(event.causationId !== null && { causationid: event.causationId }),
    partitionkey: event.subject ?? event.id,
    recordedtime: event.recordedAt,
    sequence: String(event.seq).padStart(DIGITS, "0"),
    ...carried,
    ...(metadata !== null && (!carried || Object.keys(rest).length > 0) && { hivemetadata: JSON.stringify(metadata) }),
  };
}

/** What a CloudEvent says of an event: enough to emit it, and whatever else a {@link HiveEvent} has where it came from hive. */
export type FromCloudEvent = NewEvent & Pick<HiveEvent, "id" | "payload"> & Partial<HiveEvent>;

/**
 * Reads a CloudEvent: parsed JSON, or an object that turns into it. An event of hive's comes back whole; one from
 * elsewhere needs a type that begins with `dev.hive.` and data that is a JSON object, and its extensions are kept in
 * `metadata.cloudevents`. Whether the type and the payload are known is judged when it is emitted.
 * @throws RECORD_INVALID, with the attribute that is wrong
 */
export function fromCloudEvent(cloudEvent: unknown): FromCloudEvent {
  const given = plain(cloudEvent);
  if (given === null) throw refused("it is no JSON object");
  const text = (name: string): string | null => {
    const value = given[name];
    if (value === undefined || value === null) return null;
    if (typeof value !== "string" || value === "") throw refused(`${name} has to be a text that is not empty`);
    return value;
  };
  const needed = (name: string): string => {
    const value = text(name);
    if (value === null) throw refused(`${name} is missing`);
    return value;
  };
  const time = (name: string): string | undefined => {
    const value = text(name);
    if (value === null) return undefined;
    const read = readTime(value);
    if (read === null) throw refused(`${name} is no time`);
    return read;
  };
  if (given.specversion !== "1.0") throw refused('specversion has to be "1.0"');
  const type = needed("type");
  if (!type.startsWith(TYPE_PREFIX)) throw refused(`type has to begin with ${TYPE_PREFIX}, is ${JSON.stringify(type)}`);
  const id = needed("id");
  const occurredAt = time("time");
  const recordedAt = time("recordedtime");
  const sequence = text("sequence");
  const causationId = text("causationid");
  const subject = text("subject");
  return {
    ...(sequence !== null && /^\d{1,16}$/.test(sequence) && { seq: Number(sequence) }),
    id,
    type: type.slice(TYPE_PREFIX.length),
    sourceAgent: agentOf(needed("source")),
    correlationId: text("correlationid") ?? id,
    causationId,
    subject,
    payload: dataOf(given),
    metadata: metadataOf(given, text("hivemetadata")),
    ...(occurredAt !== undefined && { occurredAt }),
    ...(recordedAt !== undefined && { recordedAt }),
  };
}

function dataOf(given: JsonObject): JsonObject {
  const { data, data_base64: bytes, datacontenttype } = given;
  if (datacontenttype !== undefined && datacontenttype !== null && !isJsonType(datacontenttype)) {
    throw refused(`datacontenttype has to be JSON, is ${JSON.stringify(datacontenttype)}`);
  }
  if (data === undefined && typeof bytes === "string") {
    const decoded = plain(fromBase64(bytes));
    if (decoded !== null) return decoded;
  } else if (data === undefined || data === null) return {};
  else if (isObject(data)) return data;
  throw refused("data has to be a JSON object");
}

function isJsonType(value: unknown): boolean {
  return typeof value === "string" && /^[^;]*\/([^;]*\+)?json\s*(;|$)/i.test(value);
}

function metadataOf(given: JsonObject, own: string | null): JsonObject | null {
  const metadata = own === null ? null : plain(parsed(own));
  if (own !== null && metadata === null) throw refused("hivemetadata is no JSON object");
  const others = Object.entries(given).filter(([name, value]) => !OWN.includes(name) && value !== null);
  if (others.length === 0) return metadata;
  return { ...metadata, [OTHERS]: Object.fromEntries(others) };
}

function agentOf(source: string): string {
  if (!source.startsWith(SOURCE_PREFIX)) return source;
  const name = source.slice(SOURCE_PREFIX.length);
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

/** Whether these can stand in a CloudEvent as attributes of their own. */
function isExtensions(value: unknown): value is JsonObject {
  if (!isObject(value)) return false;
  const all = Object.entries(value);
  return (
    all.length > 0 &&
    all.every(
      ([name, one]) =>
        /^[a-z0-9]{1,20}$/.test(name) &&
        !OWN.includes(name) &&
        (typeof one === "string" ? one !== "" : typeof one === "boolean" || isInt32(one)),
    )
  );
}

const isInt32 = (value: unknown) => typeof value === "number" && Object.is(value | 0, value);

/** As JSON has it: SDKs give objects of their classes. */
function plain(value: unknown): JsonObject | null {
  if (typeof value !== "object" || value === null) return null;
  try {
    const copy: unknown = JSON.parse(JSON.stringify(value));
    return isObject(copy) ? copy : null;
  } catch {
    return null;
  }
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** What JSON in Base64 says; null where it says nothing. */
function fromBase64(text: string): unknown {
  try {
    return parsed(new TextDecoder().decode(Uint8Array.from(atob(text), (character) => character.charCodeAt(0))));
  } catch {
    return null;
  }
}

function refused(reason: string): HiveError {
  return new HiveError("RECORD_INVALID", `The CloudEvent is refused: ${reason}.`, {
    hint: "hive reads CloudEvents 1.0 in JSON whose types begin with dev.hive.",
    details: { reason },
  });
}
