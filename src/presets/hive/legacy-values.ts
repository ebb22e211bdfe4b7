import { type Aggregate, type DataRow, keyText, MappingError, setColumn, type Value } from "../../sync/mapping.ts";
import { asObject, type Json, type JsonObject, members, parseJson, quote, sameJson, splitThree } from "./json.ts";

/**
 * Legacy values inside unified JSON, exactly: what kind of value it was survives, so that a row that goes up and comes
 * back down is the one it was.
 */

export const NO_ROWS: readonly DataRow[] = [];

export interface MutableRow {
  [column: string]: Value;
}

/** The one row of an aggregate's root table. */
export function rootRow(aggregate: Aggregate, table: string): DataRow {
  const row = aggregate[table]?.[0];
  if (row === undefined) throw new MappingError(`There is no ${table} row in what should be mapped.`);
  return row;
}

/** The unified id of a legacy row: its own text. */
export function unifiedId(table: string, id: Value | undefined): string {
  if (typeof id === "string") return id;
  const text = keyText(id);
  if (text !== null) return text;
  if (id === null || id === undefined) {
    throw new MappingError(
      `A row of ${table} has NULL as its id, so nothing can refer to it and it cannot be moved. ` +
        `Give it an id or delete it; find it with: SELECT rowid, * FROM ${table} WHERE id IS NULL`,
    );
  }
  throw new MappingError(
    `A row of ${table} has ${describe(id)} as its id; only text and integers can be moved. ` +
      `Give it a text id; find it with: SELECT rowid, * FROM ${table} WHERE typeof(id) NOT IN ('text', 'integer')`,
  );
}

function describe(value: Value | undefined): string {
  if (value === null || value === undefined) return "NULL";
  if (value instanceof Uint8Array) return `a BLOB of ${value.length} bytes`;
  return typeof value === "string" ? "text" : `the number ${value}`;
}

/** The text of a unified column that cannot be anything else. */
export function requiredText(row: DataRow, table: string, column: string): string {
  const value = row[column];
  if (typeof value === "string") return value;
  throw new MappingError(
    `${table}.${column} of the row with the id ${keyText(row.id) ?? describe(row.id)} is ${describe(value)} where text belongs.`,
  );
}

/** The same where NULL is allowed. */
export function optionalText(row: DataRow, table: string, column: string): string | null {
  return (row[column] ?? null) === null ? null : requiredText(row, table, column);
}

/** The integer of a unified column, or null. */
export function optionalInteger(row: DataRow, table: string, column: string): bigint | null {
  const value = row[column] ?? null;
  if (value === null) return null;
  const integer = integerOf(value);
  if (integer !== null) return integer;
  throw new MappingError(
    `${table}.${column} of the row with the id ${keyText(row.id) ?? describe(row.id)} is ${describe(value)} where an integer belongs.`,
  );
}

/** The integer that a value is, in whichever kind; null for anything else. */
export function integerOf(value: Value | undefined): bigint | null {
  if (typeof value === "bigint") return value;
  return typeof value === "number" && Number.isSafeInteger(value) ? BigInt(value) : null;
}

/** A value as JSON that {@link decode} turns back into the same value of the same kind. */
export function encode(value: Value | undefined): string {
  if (typeof value === "string") return quote(value);
  if (value === null || value === undefined) return "null";
  if (typeof value === "bigint") {
    const number = Number(value);
    return Number.isSafeInteger(number) ? String(number) : `{"$int":"${value}"}`;
  }
  if (typeof value === "number") {
    // An integral REAL would come back as an INTEGER, and JSON knows neither -0 nor infinity.
    if (Number.isFinite(value) && !Number.isInteger(value)) return String(value);
    return `{"$real":"${Object.is(value, -0) ? "-0" : value}"}`;
  }
  return `{"$blob":"${toBase64(value)}"}`;
}

/** The value that {@link encode} wrote; undefined for what it never writes. */
export function decode(json: Json | undefined): Value | undefined {
  if (json === null || typeof json === "string") return json;
  if (typeof json === "number") return Number.isInteger(json) ? BigInt(json) : json;
  const object = asObject(json);
  if (object === null) return undefined;
  const { $int, $real, $blob } = object;
  if (typeof $int === "string") return /^-?\d+$/.test($int) ? BigInt($int) : undefined;
  if (typeof $real === "string") return Number($real);
  return typeof $blob === "string" ? fromBase64($blob) : undefined;
}

function toBase64(bytes: Uint8Array): string {
  let binary = "";
  // In pieces: a BLOB of some 100 KB spread into arguments overflows the stack.
  for (let i = 0; i < bytes.length; i += 8192) binary += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(binary);
}

function fromBase64(text: string): Uint8Array | undefined {
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch {
    return undefined;
  }
}

/** A legacy value that is no JSON, as JSON. */
export function rawJson(value: Value): string {
  return `{"_raw":${encode(value)}}`;
}

/** What a legacy JSON column parses to; undefined for what is no JSON, NULL included. */
export function parseColumn(value: Value | undefined): Json | undefined {
  return typeof value === "string" ? parseJson(value) : undefined;
}

/** A legacy JSON column as JSON: its own text where it was `parsed`, `{"_raw":…}` where not, null for NULL. */
export function spliced(value: Value | undefined, parsed: Json | undefined): string | null {
  if (value === null || value === undefined) return null;
  return parsed !== undefined && typeof value === "string" ? value : rawJson(value);
}

/** The same for a column that nothing else looks into. */
export function embedded(value: Value | undefined): string | null {
  return spliced(value, parseColumn(value));
}

/**
 * What a legacy JSON column holds after `json` (null: SQL NULL) was found on the unified side: `raw` if that says the
 * same, else the new text; `{"_raw":…}` is unwrapped.
 */
export function jsonDown(json: string | null, raw: Value | undefined): Value {
  const text = json ?? "null";
  if (raw !== undefined && (text === raw || sameJson(text, embedded(raw) ?? "null"))) return raw;
  const value = parseJson(text);
  if (value === null) return null;
  const object = asObject(value);
  if (object !== null && object._raw !== undefined && Object.keys(object).length === 1) {
    const unwrapped = decode(object._raw);
    if (unwrapped !== undefined) return unwrapped;
  }
  return text;
}

/**
 * What a legacy text column holds after `json` (a member of input_data; undefined: there is none) was found: `raw` if
 * that says the same, else the text, or the JSON of what is no text.
 */
export function textDown(json: string | undefined, raw: Value | undefined): Value | undefined {
  if (json === undefined) return raw;
  if (raw !== undefined && sameJson(json, encode(raw))) return raw;
  const value = parseJson(json);
  return value === null || typeof value === "string" ? value : json;
}

/** The members of a unified input_data, each as its own text; null when it holds no object. */
export function inputMembers(text: string, id: string): Map<string, string> | null {
  const value = parseJson(text);
  if (value === undefined) throw new MappingError(`unified_tasks.input_data of the row with the id ${id} is not JSON.`);
  return asObject(value) === null ? null : members(text);
}

/**
 * The raw texts of two members and the JSON column after them, from a unified input_data as `up` composes it; null when
 * anything was changed or the first two are not the plain text (or NULL) they usually are.
 */
export function unchangedInput(
  text: string,
  names: readonly [string, string, string],
  kept: DataRow,
  columns: readonly [string, string, string],
): readonly [Value, Value, Value] | null {
  const parts = splitThree(text, names);
  if (parts === null) return null;
  const json = kept[columns[2]];
  if (json === undefined) return null;
  const unchanged =
    json === parts[2] ||
    (json === null && parts[2] === "null") ||
    (json !== null && parts[2].startsWith('{"_raw":') && parts[2] === rawJson(json));
  if (!unchanged) return null;
  const first = plainText(parts[0], kept[columns[0]]);
  const second = plainText(parts[1], kept[columns[1]]);
  return first === undefined || second === undefined ? null : [first, second, json];
}

/** The value of a member that is text (and so was not kept) or was NULL; undefined for anything else. */
function plainText(json: string, kept: Value | undefined): Value | undefined {
  if (json === "null") return kept === null ? null : undefined;
  const value = kept === undefined ? parseJson(json) : undefined;
  return typeof value === "string" ? value : undefined;
}

/** A column in metadata.legacy: its name with the quotes and the colon, and that with NULL. */
interface Key {
  readonly name: string;
  readonly withNull: string;
}
const KEYS = new Map<string, Key>();

/** `schema` says which table the values are from; a column of that name, or with a dot before it, gets a dot before it. */
function keyOf(column: string): Key {
  let key = KEYS.get(column);
  if (key === undefined) {
    const name = `,${quote(column === "schema" || column.startsWith(".") ? `.${column}` : column)}:`;
    key = { name, withNull: `${name}null` };
    // A table has some thirty columns; whatever else comes must not pile up.
    if (KEYS.size < 1000) KEYS.set(column, key);
  }
  return key;
}

/**
 * The metadata.legacy of a row: every column it has, except `id` and `inInput` (the columns that input_data holds as
 * they are) when they are text.
 */
export function legacyJson(schema: string, row: DataRow, inInput: readonly [string, string] | readonly []): string {
  const [first, second] = inInput;
  let text = `{"schema":"${schema}"`;
  for (const column in row) {
    const value = row[column];
    if (value === null || value === undefined) text += keyOf(column).withNull;
    else if (typeof value !== "string") text += keyOf(column).name + encode(value);
    else if (column !== "id" && column !== first && column !== second) text += keyOf(column).name + quote(value);
  }
  return `${text}}`;
}

/** What a unified row knows of its legacy row. */
export interface Note {
  /** The table its legacy row is in; null when there is no such note. */
  readonly schema: string | null;
  /** The raw columns it kept; a new object for each reading. */
  readonly legacy: MutableRow;
  /** Unified values that came from runs, not from the root row. */
  readonly fromRuns: JsonObject;
  /** Null when the metadata does not say. */
  readonly requiresHuman: boolean | null;
}

/** Reads task_metadata. Never throws: whatever an agent has made of it, what cannot be read is not there. */
export function readNote(row: DataRow | undefined): Note {
  const metadata = row?.task_metadata;
  const object = typeof metadata === "string" ? asObject(parseJson(metadata)) : null;
  const legacy: MutableRow = {};
  const kept = asObject(object?.legacy);
  const schema = typeof kept?.schema === "string" ? kept.schema : null;
  if (kept !== null && schema !== null) {
    for (const key in kept) {
      if (key === "schema") continue;
      const value = decode(kept[key]);
      if (value !== undefined) setColumn(legacy, key.startsWith(".") ? key.slice(1) : key, value);
    }
  }
  return {
    schema,
    legacy,
    fromRuns: asObject(object?.from_runs) ?? {},
    requiresHuman: typeof object?.requires_human === "boolean" ? object.requires_human : null,
  };
}

/**
 * The raw values of `columns`: those that the note of a row of `schema` kept, else those that the legacy side holds now.
 * Undefined is what neither has.
 */
export function rawColumns(
  note: Note,
  schema: string,
  present: DataRow | undefined,
  columns: readonly string[],
): DataRow {
  if (note.schema !== schema) return present ?? {};
  if (present === undefined) return note.legacy;
  const raw: MutableRow = {};
  for (const column of columns) {
    const value = note.legacy[column] ?? (note.legacy[column] === null ? null : present[column]);
    if (value !== undefined) raw[column] = value;
  }
  return raw;
}

/** The legacy id of a unified row: the one noted or present if it has the same text, else the text. */
export function legacyId(id: string, noted: Value | undefined): Value {
  return noted !== undefined && keyText(noted) === id ? noted : id;
}
