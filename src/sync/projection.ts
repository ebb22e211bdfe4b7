import type { ColumnType, Tuple, Value } from "../storage/port.ts";
import type { Layout, RelatedLayout } from "./aggregates.ts";
import { asStored, keyIn, type Loaded, type SideLayout, type TableLayout, toAggregate, toTuple } from "./aggregates.ts";
import {
  type Aggregate,
  type ColumnKind,
  type DataRow,
  keyText,
  MappingError,
  sameValue,
  setColumn,
} from "./mapping.ts";

/**
 * What one aggregate should be on the other side, against what is there. Pure: reading and writing are elsewhere, and
 * backfill, check, repair and rollback all decide with these functions.
 */

/** Rows of one side by position of a layout's columns. */
export interface Rows {
  readonly root: Tuple;
  readonly related: readonly (readonly Tuple[])[];
}

export interface ColumnDifference {
  readonly table: string;
  readonly column: string;
  /** Which row of a related table that can have several: `order_no=A-1002`. */
  readonly row?: string;
  readonly legacy: Value;
  readonly unified: Value;
}

export type UpVerdict =
  | { readonly kind: "quarantined"; readonly reason: string }
  | { readonly kind: "same" }
  /**
   * `related` says which related tables have to be written (by position); `exists` whether the root row is there, and
   * `columns` which of its columns differ.
   */
  | {
      readonly kind: "write";
      readonly rows: Rows;
      readonly exists: boolean;
      readonly columns?: readonly string[];
      readonly related: readonly boolean[];
    };

export type DownVerdict =
  | { readonly kind: "quarantined"; readonly reason: string }
  | { readonly kind: "same" }
  /** Only what has to change: rows to add and columns to set, by table. */
  | { readonly kind: "write"; readonly changes: readonly LegacyChange[] };

export interface LegacyChange {
  readonly table: string;
  readonly action: "insert" | "update" | "delete";
  /** Columns that identify the row (update, delete). */
  readonly where: DataRow;
  /** Columns to write (insert: all that are given; update: those that differ). */
  readonly set: DataRow;
}

/** The unified rows of a legacy aggregate (`aggregate` is what was loaded, by name), or why there are none. */
export function projectUp(layout: Layout, legacy: Loaded, aggregate: Aggregate): { rows: Rows } | { reason: string } {
  let result: Aggregate;
  let tuple: Tuple;
  let related: Tuple[][];
  try {
    result = shaped(layout.mapping.up(aggregate), "up");
    const [root, ...more] = result[layout.unified.root.table] ?? [];
    if (root === undefined) return { reason: `the mapping gave no row for ${layout.unified.root.table}` };
    if (more.length > 0) return { reason: `the mapping gave several rows for ${layout.unified.root.table}` };
    tuple = exactTuple(layout.unified.root, root);
    related = layout.unified.related.map((table) =>
      (result[table.table] ?? []).map((row) => exactTuple(table, row)).sort(byIdentity(table)),
    );
    refuseOtherTables(result, layout.unified);
  } catch (error) {
    return { reason: mappingReason(error, layout.mapping.name) };
  }
  if (legacy.key === null || keyText(tuple[layout.unified.root.keyAt]) !== legacy.key) {
    return {
      reason:
        legacy.key === null
          ? `its key (${layout.legacy.root.key}) is ${legacy.keyValue === null ? "NULL" : "not text or a whole number"}, so it cannot be told from other rows`
          : `the mapping changed its key to ${String(tuple[layout.unified.root.keyAt])}`,
    };
  }
  const { root } = layout.unified;
  if (keyIn(root, legacy.key) === null) return { reason: noWholeNumber(root, legacy.key) };
  for (const [i, table] of layout.unified.related.entries()) {
    // It would be written to another aggregate, or to none.
    const stray = related[i]?.find((row) => keyText(row[table.keyAt]) !== legacy.key);
    if (stray) return { reason: strayReason(table, stray[table.keyAt]) };
  }
  return { rows: { root: tuple, related } };
}

/**
 * What a mapping written in JavaScript gave, if it is rows by table.
 * @throws MappingError
 */
export function shaped(result: unknown, method: "up" | "down"): Aggregate {
  if (!isRowsByTable(result)) throw misshapen(result, method);
  return result;
}

function isRowsByTable(result: unknown): result is Aggregate {
  if (!isObject(result) || Array.isArray(result) || typeof Reflect.get(result, "then") === "function") return false;
  for (const table in result) {
    const rows: unknown = Reflect.get(result, table);
    if (rows === undefined) continue;
    if (!Array.isArray(rows)) return false;
    for (const row of rows) if (!isObject(row) || Array.isArray(row)) return false;
  }
  return true;
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}

/** Why it is not rows by table. */
function misshapen(result: unknown, method: "up" | "down"): MappingError {
  if (result instanceof Promise) {
    // Nobody waits for it: if it fails later, that must not end the process.
    result.catch(() => undefined);
    return new MappingError(`the mapping gave a promise: \`${method}\` must not be asynchronous`);
  }
  if (isObject(result) && !Array.isArray(result)) {
    for (const [table, rows] of Object.entries(result)) {
      if (rows === undefined) continue;
      const wrong = Array.isArray(rows) ? rows.find((row) => !isObject(row) || Array.isArray(row)) : rows;
      if (Array.isArray(rows) && rows.every((row) => isObject(row) && !Array.isArray(row))) continue;
      const what = Array.isArray(rows) ? `a row for ${table} that is` : `for ${table}`;
      return new MappingError(`the mapping gave ${what} ${kindOf(wrong)}: \`${method}\` has to give a list of rows`);
    }
  }
  return new MappingError(`the mapping gave ${kindOf(result)}: \`${method}\` has to give an object of rows by table`);
}

function kindOf(value: unknown): string {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}

function noWholeNumber(root: TableLayout, key: string): string {
  return `${root.table}.${root.key} holds whole numbers only, and the key "${key}" is none`;
}

function strayReason(table: TableLayout, key: Value | undefined): string {
  return `the mapping gave a row for ${table.table} whose ${table.key} is ${String(key)}: not the aggregate's own key`;
}

/**
 * A row by position, refusing what would not be stored as it was given: a value that no column can hold, or one for a
 * column that the mapping does not declare or the table lacks, which would be lost without a word.
 */
function exactTuple(table: TableLayout, row: DataRow): Tuple {
  const tuple = toTuple(table, row);
  let given = 0;
  for (let i = 0; i < tuple.length; i++) {
    const column = table.columns[i] ?? "";
    refuseUnstorable(table, column, tuple[i]);
    if (row[column] !== undefined) given += 1;
  }
  for (const columns of [table.loose, table.forming]) {
    for (const [column, type] of columns) {
      const at = table.columns.indexOf(column);
      if (at >= 0) tuple[at] = asStored(type, tuple[at] ?? null);
    }
  }
  if (Object.keys(row).length === given) return tuple;
  for (const column in row) {
    if ((row[column] ?? null) !== null && !table.columns.includes(column)) {
      throw new MappingError(
        `the mapping gave ${table.table}.${column}, which ${
          table.missing.includes(column) ? "the table lacks" : "it does not declare among the columns"
        }`,
      );
    }
  }
  return tuple;
}

/** The types say it, but a mapping may be written in JavaScript. */
function refuseUnstorable(table: TableLayout, column: string, value: unknown): void {
  if (value === null || typeof value === "string") return;
  if (typeof value === "bigint" ? BigInt.asIntN(64, value) === value : typeof value === "number") {
    if (!Number.isNaN(value)) return;
  } else if (value instanceof Uint8Array) return;
  const what = typeof value === "object" ? "an object" : typeof value === "bigint" ? `${value}` : String(value);
  throw new MappingError(
    `the mapping gave ${what} for ${table.table}.${column}: a column holds a text, a bigint of 64 bits, a number, bytes or null`,
  );
}

function refuseOtherTables(result: Aggregate, side: SideLayout): void {
  for (const table in result) {
    if (table === side.root.table || side.related.some((one) => one.table === table)) continue;
    if ((result[table]?.length ?? 0) > 0) {
      throw new MappingError(`the mapping gave rows for ${table}, which is none of its tables`);
    }
  }
}

/** A mapping may only refuse with MappingError; anything else is a defect in it, but must not stop the rest either. */
export function mappingReason(error: unknown, mapping: string): string {
  if (error instanceof MappingError || (error instanceof Error && error.name === "MappingError")) return error.message;
  const message = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return `the mapping "${mapping}" failed on it: ${message}`;
}

/** What has to be written on the unified side so that it is what the legacy side says. */
export function compareUp(
  layout: Layout,
  legacy: Loaded,
  aggregate: Aggregate,
  unified: Loaded | undefined,
): UpVerdict {
  const projected = projectUp(layout, legacy, aggregate);
  if ("reason" in projected) return { kind: "quarantined", reason: projected.reason };
  const { rows } = projected;
  if (unified === undefined) {
    return { kind: "write", rows, exists: false, related: rows.related.map((some) => some.length > 0) };
  }
  const kinds = layout.mapping.unified;
  const rootSame = sameTuple(layout.unified.root, kinds.root.columns, rows.root, unified.root);
  const relatedSame = layout.unified.related.every((table, i) =>
    sameRows(table, kinds.related[i]?.columns ?? {}, rows.related[i] ?? [], unified.related[i] ?? []),
  );
  if (rootSame && relatedSame) return { kind: "same" };
  // All of them or none: a row of one may refer to a row of another.
  const columns = layout.unified.root.columns.filter((_, i) => !sameValue(rows.root[i], unified.root[i]));
  return { kind: "write", rows, exists: true, columns, related: layout.unified.related.map(() => !relatedSame) };
}

function sameRows(
  table: RelatedLayout,
  kinds: Readonly<Record<string, ColumnKind>>,
  expected: readonly Tuple[],
  actual: readonly Tuple[],
): boolean {
  if (expected.length !== actual.length) return false;
  if (expected.every((row, i) => sameTuple(table, kinds, row, actual[i] ?? []))) return true;
  // The database may order them otherwise (its collation, NULL): what counts is which rows there are.
  return pairs(table, expected, actual).every(([a, b]) => a && b && sameTuple(table, kinds, a, b));
}

/** Related rows of both sides by what identifies them; a row without its counterpart stands alone. */
function pairs(
  table: RelatedLayout,
  expected: readonly Tuple[],
  actual: readonly Tuple[],
): [Tuple | undefined, Tuple | undefined][] {
  const positions = table.identity.map((column) => table.columns.indexOf(column));
  const identify = (row: Tuple) => identityText(positions.map((at) => row[at]));
  const there = new Map<string, Tuple[]>();
  for (const row of actual) {
    const same = there.get(identify(row));
    if (same) same.push(row);
    else there.set(identify(row), [row]);
  }
  const found: [Tuple | undefined, Tuple | undefined][] = expected.map((row) => [
    row,
    there.get(identify(row))?.shift(),
  ]);
  for (const rows of there.values()) for (const row of rows) found.push([undefined, row]);
  return found;
}

/** Equal for values that the database takes for the same key; text and whole numbers as {@link keyText} does. */
function identityText(values: readonly (Value | undefined)[]): string {
  return JSON.stringify(
    values.map((value) => {
      if (value instanceof Uint8Array) return { bytes: Array.from(value) };
      return keyText(value) ?? (typeof value === "number" ? { real: String(value) } : null);
    }),
  );
}

function sameTuple(
  table: TableLayout,
  kinds: Readonly<Record<string, ColumnKind>>,
  expected: Tuple,
  actual: Tuple,
): boolean {
  const { columns } = table;
  for (let i = 0; i < columns.length; i++) {
    const a = expected[i];
    const b = actual[i];
    if (a !== b && !sameValue(a, b) && !(kinds[columns[i] ?? ""] === "json" && sameJson(a, b))) return false;
  }
  return true;
}

/** Agents in other languages write the same JSON with other spaces and in another order of keys; so does jsonb. */
function sameJson(a: Value | undefined, b: Value | undefined): boolean {
  const left = jsonText(a);
  const right = jsonText(b);
  if (left === null || right === null) return false;
  try {
    return deepEqual(JSON.parse(withExactNumbers(left)), JSON.parse(withExactNumbers(right)));
  } catch {
    return false;
  }
}

const JSON_TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/** Where there are numbers that JSON.parse would round: all numbers as texts that are equal for equal numbers. */
function withExactNumbers(text: string): string {
  if (!/\d{16}|\d\.\d{15}|[eE]/.test(text)) return text;
  return text.replace(JSON_TOKEN, (token) => (token.startsWith('"') ? token : JSON.stringify(exactNumber(token))));
}

/** `-12.50e3` as `\u0000-125e2`: no text that JSON of an agent is likely to hold. */
function exactNumber(token: string): string {
  const [, sign = "", whole = "", fraction = "", exponent = "0"] =
    /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(token) ?? [];
  const digits = `${whole}${fraction}`.replace(/^0+/, "");
  const kept = digits.replace(/0+$/, "");
  const power = BigInt(exponent) - BigInt(fraction.length) + BigInt(digits.length - kept.length);
  return kept === "" ? "\u00000" : `\u0000${sign}${kept}e${power}`;
}

/** A bare number becomes a number in a column that some other tool declared JSON (SQLite: NUMERIC). */
function jsonText(value: Value | undefined): string | null {
  if (typeof value === "string") return value;
  return typeof value === "bigint" || typeof value === "number" ? String(value) : null;
}

function deepEqual(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const left = Object.entries(a);
  const right = new Map(Object.entries(b));
  return left.length === right.size && left.every(([key, value]) => right.has(key) && deepEqual(value, right.get(key)));
}

/** The columns in which the unified side is not what the legacy side says. */
export function differencesUp(layout: Layout, rows: Rows, unified: Loaded): ColumnDifference[] {
  const kinds = layout.mapping.unified;
  const differences = tupleDifferences(layout.unified.root, kinds.root.columns, rows.root, unified.root);
  layout.unified.related.forEach((table, i) => {
    const expected = rows.related[i] ?? [];
    const actual = unified.related[i] ?? [];
    const columns = kinds.related[i]?.columns ?? {};
    for (const [left, right] of pairs(table, expected, actual)) {
      if (left && right) {
        const row = rowName(table, left);
        for (const one of tupleDifferences(table, columns, left, right)) differences.push(row ? { ...one, row } : one);
      } else {
        for (const column of naming(table)) {
          const at = table.columns.indexOf(column);
          differences.push({ table: table.table, column, legacy: left?.[at] ?? null, unified: right?.[at] ?? null });
        }
      }
    }
  });
  return differences;
}

/** The columns that tell which row it is: of a table that has at most one row for each aggregate, the foreign key. */
function naming(table: RelatedLayout): readonly string[] {
  const own = table.identity.filter((column) => column !== table.key);
  return own.length > 0 ? own : [table.key];
}

function rowName(table: RelatedLayout, row: Tuple): string | undefined {
  const own = naming(table).filter((column) => column !== table.key);
  if (own.length === 0) return undefined;
  return own.map((column) => `${column}=${String(row[table.columns.indexOf(column)] ?? "NULL")}`).join(", ");
}

function tupleDifferences(
  table: TableLayout,
  kinds: Readonly<Record<string, ColumnKind>>,
  legacy: Tuple,
  unified: Tuple,
): ColumnDifference[] {
  const differences: ColumnDifference[] = [];
  table.columns.forEach((column, i) => {
    const a = legacy[i] ?? null;
    const b = unified[i] ?? null;
    if (sameValue(a, b) || (kinds[column] === "json" && sameJson(a, b))) return;
    differences.push({ table: table.table, column, legacy: a, unified: b });
  });
  return differences;
}

/**
 * The unified aggregate for the way down. Where the database made a number of a JSON text, and the legacy rows give a
 * text that is stored as this number, it is that text: `5.0` must not come back as `5`.
 */
function withTexts(layout: Layout, unified: Loaded, current: Aggregate | null): Aggregate {
  const aggregate = toAggregate(layout.unified, unified);
  const { root, related } = layout.unified;
  const all = [{ table: root, rows: [unified.root], identity: [root.key] }].concat(
    related.map((table, i) => ({ table, rows: [...(unified.related[i] ?? [])], identity: [...table.identity] })),
  );
  const numbers = all.filter(({ table, rows }) => rows.some((row) => hasNumbers(table, row)));
  if (current === null || numbers.length === 0) return aggregate;
  let given: Aggregate;
  try {
    given = shaped(layout.mapping.up(current), "up");
  } catch {
    // What the legacy rows are is no obstacle to what they will be.
    return aggregate;
  }
  const exact: Record<string, readonly DataRow[]> = { ...aggregate };
  for (const { table, rows, identity } of numbers) {
    const identify = (row: DataRow) => identityText(identity.map((column) => row[column]));
    const texts = new Map((given[table.table] ?? []).map((row) => [identify(row), row]));
    exact[table.table] = (aggregate[table.table] ?? []).map((row, i) => {
      const named: Record<string, Value> = { ...row };
      for (const [column, type] of table.loose) {
        const text = texts.get(identify(row))?.[column];
        const stored = rows[i]?.[table.columns.indexOf(column)];
        if (typeof text === "string" && typeof stored !== "string" && sameValue(asStored(type, text), stored)) {
          setColumn(named, column, text);
        }
      }
      return named;
    });
  }
  return exact;
}

function hasNumbers(table: TableLayout, row: Tuple): boolean {
  for (const column of table.loose.keys()) {
    const value = row[table.columns.indexOf(column)];
    if (typeof value === "number" || typeof value === "bigint") return true;
  }
  return false;
}

/** What has to be written on the legacy side so that it is what the unified side says. */
export function compareDown(layout: Layout, unified: Loaded, legacy: Loaded | undefined): DownVerdict {
  const current = legacy ? toAggregate(layout.legacy, legacy) : null;
  const refuse = (reason: string): DownVerdict => ({ kind: "quarantined", reason });
  const { root, related } = layout.legacy;
  const changes: LegacyChange[] = [];
  try {
    const result = shaped(layout.mapping.down(withTexts(layout, unified, current), current), "down");
    const [row, ...more] = result[root.table] ?? [];
    if (row === undefined) return refuse(`the mapping gave no row for ${root.table}`);
    if (more.length > 0) return refuse(`the mapping gave several rows for ${root.table}`);
    if (unified.key === null || keyText(row[root.key]) !== unified.key) {
      return refuse(`the mapping changed its key to ${String(row[root.key])}`);
    }
    const key = keyIn(root, unified.key);
    if (key === null) return refuse(noWholeNumber(root, unified.key));
    // Of the same text, but perhaps not of the same type: a text or a number for an INTEGER column.
    const named = { ...row, [root.key]: legacy?.keyValue ?? key };
    rowChanges(root, [root.key], [named], current?.[root.table] ?? [], changes);
    for (const table of related) {
      const rows = result[table.table];
      if (!rows) continue;
      // It would be written to another aggregate, or to none.
      const stray = rows.find((one) => keyText(one[table.key]) !== unified.key);
      if (stray) return refuse(strayReason(table, stray[table.key]));
      // The columns that identify a row need only do so within its aggregate.
      const identity = [...new Set([table.key, ...table.identity])];
      const its = keyIn(table, unified.key);
      // Rows that outlived an older root row are none of the new one's.
      if (!legacy && its !== null)
        changes.push({ table: table.table, action: "delete", where: { [table.key]: its }, set: {} });
      rowChanges(table, identity, rows, current?.[table.table] ?? [], changes);
    }
  } catch (error) {
    return refuse(mappingReason(error, layout.mapping.name));
  }
  return changes.length === 0 ? { kind: "same" } : { kind: "write", changes };
}

function rowChanges(
  table: TableLayout,
  identity: readonly string[],
  expected: readonly DataRow[],
  actual: readonly DataRow[],
  changes: LegacyChange[],
): void {
  const identify = (row: DataRow) => identityText(identity.map((column) => row[column]));
  const there = new Map(actual.map((row) => [identify(row), row]));
  const given = new Set<string>();
  const writes: LegacyChange[] = [];
  for (const row of expected) {
    const name = identify(row);
    if (given.has(name)) throw new MappingError(`the mapping gave two rows for ${table.table} that are called alike`);
    given.add(name);
    const present = there.get(name);
    there.delete(name);
    const set: Record<string, Value> = {};
    for (const [column, value] of Object.entries(row)) {
      // Absent: it keeps its value. A column that this table lacks: it read as NULL on the way up.
      if (value === undefined || !table.types.has(column)) continue;
      refuseUnstorable(table, column, value);
      if (present === undefined || !sameStored(table.forming.get(column), present[column], value))
        setColumn(set, column, value);
    }
    if (present === undefined) writes.push({ table: table.table, action: "insert", where: {}, set });
    else if (Object.keys(set).length > 0) {
      writes.push({ table: table.table, action: "update", where: pick(present, identity), set });
    }
  }
  for (const row of there.values()) {
    changes.push({ table: table.table, action: "delete", where: pick(row, identity), set: {} });
  }
  // After the deletes: a row that is called otherwise now may have values that have to be unique.
  changes.push(...writes);
}

/** Whether a column of this type would give back what it holds if this were written to it. */
function sameStored(type: ColumnType | undefined, is: Value | undefined, value: Value): boolean {
  if (sameValue(is, value) || type === undefined) return sameValue(is, value);
  return type === "json" ? sameJson(is, value) : sameValue(is, asStored(type, value));
}

function pick(row: DataRow, columns: readonly string[]): DataRow {
  return Object.fromEntries(columns.map((column) => [column, row[column] ?? null]));
}

/**
 * The legacy aggregate of this key as it will be read once these changes are made. Where a new row lacks a column, that
 * has its default then: here it is NULL.
 */
export function withChanges(
  side: SideLayout,
  key: string,
  legacy: Loaded | undefined,
  changes: readonly LegacyChange[],
): Loaded {
  const rowsOf = (table: TableLayout, before: readonly Tuple[]): Tuple[] => {
    const rows = [...before];
    for (const { action, where, set } of changes.filter((change) => change.table === table.table)) {
      if (action === "insert") {
        rows.push(toTuple(table, set));
        continue;
      }
      const at = rows.findIndex((row) =>
        Object.entries(where).every(([column, value]) => sameValue(row[table.columns.indexOf(column)], value)),
      );
      const row = rows[at];
      if (row === undefined) continue;
      if (action === "delete") rows.splice(at, 1);
      else
        rows[at] = toTuple(table, {
          ...Object.fromEntries(table.columns.map((column, i) => [column, row[i] ?? null])),
          ...set,
        });
    }
    return rows;
  };
  const [root = toTuple(side.root, { [side.root.key]: keyIn(side.root, key) })] = rowsOf(
    side.root,
    legacy ? [legacy.root] : [],
  );
  const related = side.related.map((table, i) => rowsOf(table, legacy?.related[i] ?? []));
  return { key, keyValue: root[side.root.keyAt] ?? null, root, related };
}

/** Of legacy changes, as columns of a drift report. */
export function differencesDown(
  changes: readonly LegacyChange[],
  legacy: Loaded | undefined,
  side: SideLayout,
): ColumnDifference[] {
  const current = legacy ? toAggregate(side, legacy) : {};
  return changes.flatMap((change): ColumnDifference[] => {
    const table = side.related.find((one) => one.table === change.table);
    const isThis = (row: DataRow) =>
      Object.entries(change.where).every(([column, value]) => sameValue(row[column], value));
    const found = current[change.table]?.find(isThis);
    if (change.action === "delete" && found === undefined) return [];
    const before = change.action === "insert" ? {} : (found ?? {});
    if (table === undefined || change.action === "update") {
      const row = table && rowName(table, toTuple(table, before));
      return Object.entries(change.set).map(([column, unified]) => ({
        table: change.table,
        column,
        legacy: before[column] ?? null,
        unified,
        ...(row ? { row } : {}),
      }));
    }
    return naming(table).map((column) => ({
      table: table.table,
      column,
      legacy: before[column] ?? null,
      unified: change.set[column] ?? null,
    }));
  });
}

function byIdentity(table: RelatedLayout): (a: Tuple, b: Tuple) => number {
  const positions = table.identity.map((column) => table.columns.indexOf(column));
  return (a, b) => {
    for (const position of positions) {
      const x = a[position] ?? null;
      const y = b[position] ?? null;
      if (x === y || x === null || y === null) continue;
      if (x < y) return -1;
      if (x > y) return 1;
    }
    return 0;
  };
}

/** What the legacy rows, as they are, say of unified ones that were carried down to them. */
export interface WayBack {
  /** Unified columns (as `table.column`) whose values they do not give back. Notes that the mapping keeps do not count. */
  readonly losses: readonly string[];
  /** Where the notes are all that differs: the unified rows with new ones. */
  readonly renewed: Rows | null;
}

export function wayBack(layout: Layout, legacy: Loaded, unified: Loaded): WayBack {
  const projected = projectUp(layout, legacy, toAggregate(layout.legacy, legacy));
  if ("reason" in projected) return { losses: [`anything (${projected.reason})`], renewed: null };
  const notes = layout.mapping.unified.root.notes ?? {};
  const differences = differencesUp(layout, projected.rows, unified);
  const lost = differences.filter((difference) => {
    const own = notes[difference.column];
    if (own === undefined || difference.table !== layout.unified.root.table) return true;
    return !sameJson(withoutKeys(difference.legacy, own), withoutKeys(difference.unified, own));
  });
  return {
    losses: [...new Set(lost.map((difference) => `${difference.table}.${difference.column}`))],
    renewed: lost.length === 0 && differences.length > 0 ? projected.rows : null,
  };
}

function withoutKeys(value: Value, keys: readonly string[]): string {
  if (typeof value !== "string") return "{}";
  try {
    const parsed: unknown = JSON.parse(value);
    if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) return value;
    return JSON.stringify(Object.fromEntries(Object.entries(parsed).filter(([key]) => !keys.includes(key))));
  } catch {
    return value;
  }
}

/** What the unified rows are to be once a change of the legacy side is carried to them, while they lead. */
export type Merge =
  | { readonly kind: "quarantined"; readonly direction: "up" | "down"; readonly reason: string }
  | { readonly kind: "same" }
  /** `lossy`: something is written over that the legacy side could not have held. */
  | { readonly kind: "write"; readonly rows: Rows; readonly related: readonly boolean[]; readonly lossy: boolean };

/**
 * Carries what changed on the legacy side to a unified aggregate that leads. `base`: the unified rows that the legacy
 * ones said when both were last carried over; null where they said what the unified ones say now. What they say
 * otherwise since then is taken over; what only the unified side holds stays, as long as both sides are equal then: a
 * value can mean something else beside the new notes, and gives way.
 */
export function mergeUp(layout: Layout, legacy: Loaded, unified: Loaded, base: Rows | null): Merge {
  const target = projectUp(layout, legacy, toAggregate(layout.legacy, legacy));
  if ("reason" in target) return { kind: "quarantined", direction: "up", reason: target.reason };
  const before: Rows = base ?? unified;
  const kinds = layout.mapping.unified;
  let lossy = false;
  const merged = (table: TableLayout, said: Tuple, then: Tuple, is: Tuple, columns: Kinds, own: Notes): Tuple =>
    table.columns.map((column, i) => {
      const [now, was, there] = [said[i] ?? null, then[i] ?? null, is[i] ?? null];
      const same = (a: Value, b: Value) => sameValue(a, b) || (columns[column] === "json" && sameJson(a, b));
      const keys = own[column];
      if (same(now, there)) return there;
      if (keys !== undefined) {
        // The mapping's own notes are those of the legacy rows as they are; the rest is as in any other column.
        const untouched = sameJson(withoutKeys(now, keys), withoutKeys(was, keys));
        return untouched ? withNotesOf(there, now, keys) : now;
      }
      if (same(now, was)) return there;
      lossy ||= !same(was, there);
      return now;
    });
  const root = merged(
    layout.unified.root,
    target.rows.root,
    before.root,
    unified.root,
    kinds.root.columns,
    kinds.root.notes ?? {},
  );
  const related = layout.unified.related.map((table, i) => {
    const columns = kinds.related[i]?.columns ?? {};
    const positions = table.identity.map((column) => table.columns.indexOf(column));
    const identify = (row: Tuple) => identityText(positions.map((at) => row[at]));
    const then = new Map((before.related[i] ?? []).map((row) => [identify(row), row]));
    const rows: Tuple[] = [];
    for (const [said, is] of pairs(table, target.rows.related[i] ?? [], unified.related[i] ?? [])) {
      const was = then.get(identify(said ?? is ?? []));
      if (said && is) rows.push(merged(table, said, was ?? is, is, columns, {}));
      // Removed above, unless it is another one by now.
      else if (said) rows.push(...(was && sameTuple(table, columns, said, was) ? [] : [said]));
      else if (is && !was) rows.push(is);
      else if (is && was) lossy ||= !sameTuple(table, columns, was, is);
    }
    return rows.sort(byIdentity(table));
  });
  const taken: Rows = { root, related };
  const rows = givingWay(layout, legacy, unified, taken, target.rows);
  lossy ||= rows !== taken;
  const sameRelated = layout.unified.related.every((table, i) =>
    sameRows(table, kinds.related[i]?.columns ?? {}, rows.related[i] ?? [], unified.related[i] ?? []),
  );
  if (sameRelated && sameTuple(layout.unified.root, kinds.root.columns, rows.root, unified.root)) {
    return { kind: "same" };
  }
  return { kind: "write", rows, related: layout.unified.related.map(() => !sameRelated), lossy };
}

/**
 * `merged`, with what the legacy rows say in as few places as it takes for both sides to be equal. As it is where not
 * even what they say is carried back to them as they are.
 */
function givingWay(layout: Layout, legacy: Loaded, unified: Loaded, merged: Rows, said: Rows): Rows {
  const toCarryDown = (rows: Rows) => {
    const verdict = compareDown(layout, { ...unified, ...rows }, legacy);
    if (verdict.kind === "quarantined") return Number.POSITIVE_INFINITY;
    if (verdict.kind === "same") return 0;
    return verdict.changes.reduce((sum, { set }) => sum + 1 + Object.keys(set).length, 0);
  };
  let best = merged;
  let left = toCarryDown(merged);
  for (const [i, value] of said.root.entries()) {
    if (left === 0) break;
    if (sameValue(best.root[i], value)) continue;
    const tried = { ...best, root: best.root.with(i, value) };
    const then = toCarryDown(tried);
    if (then < left) [best, left] = [tried, then];
  }
  if (left === 0) return best;
  return toCarryDown(said) === 0 ? said : merged;
}

type Kinds = Readonly<Record<string, ColumnKind>>;
type Notes = { readonly [column: string]: readonly string[] };

/** The JSON object of one side with the mapping's own keys of the other. */
function withNotesOf(value: Value, source: Value, keys: readonly string[]): Value {
  const [own, other] = [objectOf(value), objectOf(source)];
  if (own === null || other === null) return source;
  const kept = Object.entries(own).filter(([key]) => !keys.includes(key));
  const taken = Object.entries(other).filter(([key]) => keys.includes(key) || !Object.hasOwn(own, key));
  return JSON.stringify(Object.fromEntries([...taken, ...kept]));
}

function objectOf(value: Value): object | null {
  if (typeof value !== "string") return null;
  try {
    const parsed: unknown = JSON.parse(value);
    return isObject(parsed) && !Array.isArray(parsed) ? parsed : null;
  } catch {
    return null;
  }
}
