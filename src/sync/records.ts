import { asStored, type Layout, type Loaded, type SideLayout, type TableLayout, toTuple } from "./aggregates.ts";
import {
  type Aggregate,
  type AggregateMapping,
  type ColumnKind,
  type DataRow,
  keyText,
  MappingError,
  type RecordCodec,
  sameValue,
  setColumn,
  type UnifiedRelated,
  type Value,
} from "./mapping.ts";
import { differencesUp } from "./projection.ts";

/**
 * The dual writer's records: what an agent reads and writes, against the rows that are stored. Pure.
 */

/** A value of a record without a codec: whole numbers as `number` where they are exact, else as `bigint`. */
export type PlainValue = null | string | number | bigint | Uint8Array;
export interface PlainRow {
  readonly [column: string]: PlainValue;
}
/** A record of a mapping without a codec: the rows of the unified aggregate by table; JSON columns as text. */
export interface RowsRecord {
  readonly [table: string]: readonly PlainRow[];
}

/** Records as rows by table, of the aggregates that these mappings keep in one unified root table. */
export function rowsCodec(mappings: readonly AggregateMapping[], table: string): RecordCodec {
  const root = mappings.find(({ unified }) => unified.root.table === table)?.unified.root;
  if (!root) throw new Error(`no mapping has the unified root table ${table}`);
  const related = new Map<string, UnifiedRelated>();
  for (const { unified } of mappings) {
    if (unified.root.table === table) for (const one of unified.related) related.set(one.table, one);
  }
  const toAggregate = (changes: object, current: Aggregate | null, key: string): Aggregate => {
    const aggregate: Record<string, readonly DataRow[]> = { ...current };
    const rootRow: Record<string, Value> = { ...current?.[table]?.[0] };
    setColumn(rootRow, root.key, key);
    for (const [name, rows] of Object.entries(changes)) {
      if (rows === undefined) continue;
      const other = related.get(name);
      if (name !== table && !other) throw new MappingError(`${name} is none of the tables of ${table}`);
      if (!Array.isArray(rows)) throw new MappingError(`${name} has to be a list of rows`);
      if (!other) {
        if (rows.length > 1) throw new MappingError(`${table} has one row in a record, not ${rows.length}`);
        merge(rootRow, rows[0] ?? {}, table, root.columns);
        continue;
      }
      const columns = other.key.filter((column) => column !== other.foreignKey);
      const identify = (row: DataRow) => JSON.stringify(columns.map((column) => keyText(row[column])));
      const present = new Map((current?.[name] ?? []).map((row) => [identify(row), row]));
      aggregate[name] = rows.map((row: unknown) => {
        const given: Record<string, Value> = {};
        merge(given, row, name, other.columns);
        const merged: Record<string, Value> = { ...present.get(identify(given)), ...given };
        if ((merged[other.foreignKey] ?? null) === null) setColumn(merged, other.foreignKey, key);
        return merged;
      });
    }
    return { ...aggregate, [table]: [rootRow] };
  };
  return {
    table,
    filters: Object.fromEntries(Object.keys(root.columns).map((column) => [column, column])),
    key: (record) => {
      const rows: unknown = Reflect.get(record, table);
      const row: unknown = Array.isArray(rows) ? rows[0] : undefined;
      const key: unknown = isObject(row) ? Reflect.get(row, root.key) : undefined;
      if (typeof key === "string" || typeof key === "bigint" || typeof key === "number") return keyText(key);
      return null;
    },
    fromAggregate: (unified) =>
      Object.fromEntries(
        [table, ...related.keys()].map((name) => [
          name,
          (unified[name] ?? []).map((row) =>
            Object.fromEntries(Object.entries(row).map(([column, value]) => [column, plain(value)])),
          ),
        ]),
      ),
    toAggregate,
  };
}

function plain(value: Value): PlainValue {
  if (typeof value !== "bigint") return value;
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

function merge(
  into: Record<string, Value>,
  row: unknown,
  table: string,
  kinds: Readonly<Record<string, ColumnKind>>,
): void {
  if (!isObject(row)) throw new MappingError(`a row of ${table} has to be an object`);
  for (const [column, value] of Object.entries(row)) {
    if (value === undefined) continue;
    if (!Object.hasOwn(kinds, column)) throw new MappingError(`${table} has no column ${column}`);
    if (!isPlain(value)) throw new MappingError(`${table}.${column} has to be null, a text, a number or bytes`);
    const whole = typeof value === "number" && Number.isInteger(value) && kinds[column] === "integer";
    setColumn(into, column, whole ? BigInt(value) : value);
  }
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isPlain(value: unknown): value is PlainValue {
  return value === null || ["string", "number", "bigint"].includes(typeof value) || value instanceof Uint8Array;
}

/**
 * The rows of a unified aggregate that a codec gave, by position.
 * @throws MappingError for rows that this aggregate cannot have
 */
export function toLoaded(side: SideLayout, aggregate: Aggregate, key: string): Loaded {
  const tuple = (table: TableLayout, row: DataRow) => {
    for (const [column, value] of Object.entries(row)) {
      if ((value ?? null) === null) continue;
      if (!table.columns.includes(column)) throw new MappingError(`${table.table} has no column ${column}`);
      if (typeof value === "number" && Number.isNaN(value)) throw unstorable(table, column, "NaN");
      if (typeof value === "bigint" && BigInt.asIntN(64, value) !== value) throw unstorable(table, column, `${value}`);
      if (typeof value === "string" && LONE_SURROGATE.test(value))
        throw unstorable(table, column, "a text with half a character (a lone surrogate)");
    }
    const values = toTuple(table, row);
    for (const [column, type] of table.loose) {
      const at = table.columns.indexOf(column);
      if (at >= 0) values[at] = asStored(type, values[at] ?? null);
    }
    return values;
  };
  const [rootRow, ...more] = aggregate[side.root.table] ?? [];
  if (!rootRow || more.length > 0) throw new MappingError(`it needs exactly one row of ${side.root.table}`);
  if (keyText(rootRow[side.root.key]) !== key) {
    throw new MappingError(`${side.root.table}.${side.root.key} is its key, which cannot be changed`);
  }
  const known = new Set([side.root.table, ...side.related.map(({ table }) => table)]);
  for (const [table, rows] of Object.entries(aggregate)) {
    if (rows.length > 0 && !known.has(table)) throw new MappingError(`a record of this kind has no ${table}`);
  }
  const root = tuple(side.root, rootRow);
  const related = side.related.map((table) => {
    const rows = aggregate[table.table] ?? [];
    const names = new Set(rows.map((row) => JSON.stringify(table.identity.map((column) => keyText(row[column])))));
    if (names.size < rows.length) throw new MappingError(`two rows of ${table.table} are called alike`);
    for (const row of rows) {
      if (keyText(row[table.key]) !== key) throw new MappingError(`${table.table}.${table.key} has to be its key`);
    }
    return rows.map((row) => tuple(table, row));
  });
  return { key, keyValue: root[side.root.keyAt] ?? null, root, related };
}

// Would be stored as something else without a word.
const LONE_SURROGATE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;

function unstorable(table: TableLayout, column: string, what: string): MappingError {
  return new MappingError(`${table.table}.${column} cannot hold ${what}`);
}

/** An aggregate that is not there. */
export function nothing(layout: Layout): Loaded {
  const { root, related } = layout.unified;
  return { key: null, keyValue: null, root: root.columns.map(() => null), related: related.map(() => []) };
}

/**
 * Unified columns, as `table.column`, that were to change and are not stored as they were wanted: what the legacy side
 * cannot hold while it leads. `own`: root columns that nobody asked for.
 */
export function columnsNotStored(
  layout: Layout,
  before: Loaded,
  wanted: Loaded,
  stored: Loaded,
  own: readonly (string | undefined)[],
): string[] {
  if (sameTuples(wanted, stored)) return [];
  const name = (one: { table: string; column: string; row?: string }) =>
    JSON.stringify([one.table, one.column, one.row]);
  const asked = new Set(differencesUp(layout, before, wanted).map(name));
  const lost = differencesUp(layout, stored, wanted).filter((one) => asked.has(name(one)));
  const root = layout.unified.root.table;
  const notes = layout.mapping.unified.root.notes ?? {};
  const columns = lost.filter(({ table, column, legacy, unified }) => {
    if (table !== root) return true;
    const keys = notes[column];
    return !own.includes(column) && !(keys && withoutKeys(legacy, keys) === withoutKeys(unified, keys));
  });
  return [...new Set(columns.map(({ table, column }) => `${table}.${column}`))].sort();
}

/** A JSON object without the mapping's notes, as a text that is equal for equal ones. */
function withoutKeys(value: Value, keys: readonly string[]): string {
  if (value === null) return "{}";
  try {
    const parsed: unknown = typeof value === "string" ? JSON.parse(value) : null;
    if (!isObject(parsed)) return String(value);
    const entries = Object.entries(parsed).filter(([key]) => !keys.includes(key));
    return JSON.stringify(Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1))));
  } catch {
    return String(value);
  }
}

function sameTuples(a: Loaded, b: Loaded): boolean {
  const same = (left: readonly Value[], right: readonly Value[]) =>
    left.length === right.length && left.every((value, i) => sameValue(value, right[i]));
  return (
    same(a.root, b.root) &&
    a.related.every((rows, i) => {
      const others = b.related[i] ?? [];
      return rows.length === others.length && rows.every((row, at) => same(row, others[at] ?? []));
    })
  );
}

/** The time to write as the newest: later than `previous` even within one millisecond, or with a clock that went back. */
export function laterTime(now: number, previous: Value | undefined): string {
  const before = typeof previous === "string" ? Date.parse(previous) : Number.NaN;
  return new Date(Number.isNaN(before) ? now : Math.max(now, before + 1)).toISOString();
}

export function sameTime(a: string, b: Value | undefined): boolean {
  if (a === b || typeof b !== "string") return a === b;
  return !Number.isNaN(Date.parse(a)) && Date.parse(a) === Date.parse(b) && beyondMillis(a) === beyondMillis(b);
}

/** The digits of a time that a Date has no room for. */
function beyondMillis(time: string): string {
  return (/\.\d{3}(\d+)/.exec(time)?.[1] ?? "").replace(/0+$/, "");
}
