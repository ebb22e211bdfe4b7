import type { Tuple, Value } from "../storage/port.ts";
import type { Layout, RelatedLayout } from "./aggregates.ts";
import { type Loaded, type SideLayout, type TableLayout, toAggregate, toTuple } from "./aggregates.ts";
import { type Aggregate, type ColumnKind, type DataRow, keyText, MappingError, sameValue } from "./mapping.ts";

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
  readonly legacy: Value;
  readonly unified: Value;
}

export type UpVerdict =
  | { readonly kind: "quarantined"; readonly reason: string }
  | { readonly kind: "same" }
  /** `related` says for which related tables rows differ (by position); `exists` whether the root row is there. */
  | { readonly kind: "write"; readonly rows: Rows; readonly exists: boolean; readonly related: readonly boolean[] };

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
  try {
    result = layout.mapping.up(aggregate);
  } catch (error) {
    return { reason: mappingReason(error, layout.mapping.name) };
  }
  const root = result[layout.unified.root.table]?.[0];
  if (root === undefined) return { reason: `the mapping gave no row for ${layout.unified.root.table}` };
  const tuple = toTuple(layout.unified.root, root);
  if (keyText(tuple[layout.unified.root.keyAt]) !== legacy.key) {
    return {
      reason:
        legacy.key === null
          ? `its key (${layout.legacy.root.key}) is ${legacy.keyValue === null ? "NULL" : "not text or a whole number"}, so it cannot be told from other rows`
          : `the mapping changed its key to ${String(tuple[layout.unified.root.keyAt])}`,
    };
  }
  const related = layout.unified.related.map((table) =>
    (result[table.table] ?? []).map((row) => toTuple(table, row)).sort(byIdentity(table)),
  );
  return { rows: { root: tuple, related } };
}

/** A mapping may only refuse with MappingError; anything else is a defect in it, but must not stop the rest either. */
function mappingReason(error: unknown, mapping: string): string {
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
  const related = layout.unified.related.map(
    (table, i) => !sameRows(table, kinds.related[i]?.columns ?? {}, rows.related[i] ?? [], unified.related[i] ?? []),
  );
  if (rootSame && !related.includes(true)) return { kind: "same" };
  return { kind: "write", rows, exists: true, related };
}

function sameRows(
  table: TableLayout,
  kinds: Readonly<Record<string, ColumnKind>>,
  expected: readonly Tuple[],
  actual: readonly Tuple[],
): boolean {
  return expected.length === actual.length && expected.every((row, i) => sameTuple(table, kinds, row, actual[i] ?? []));
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

/** Agents in other languages write the same JSON with other spaces and in another order of keys. */
function sameJson(a: Value | undefined, b: Value | undefined): boolean {
  if (typeof a !== "string" || typeof b !== "string") return false;
  try {
    return deepEqual(JSON.parse(a), JSON.parse(b)) && !/\d{16}/.test(a);
  } catch {
    return false;
  }
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
    const count = Math.max(expected.length, actual.length);
    for (let at = 0; at < count; at++) {
      const left = expected[at];
      const right = actual[at];
      if (left && right) differences.push(...tupleDifferences(table, columns, left, right));
      else {
        const key = (left ?? right)?.[table.keyAt] ?? null;
        differences.push({
          table: table.table,
          column: table.key,
          legacy: left ? key : null,
          unified: right ? key : null,
        });
      }
    }
  });
  return differences;
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

/** What has to be written on the legacy side so that it is what the unified side says. */
export function compareDown(layout: Layout, unified: Loaded, legacy: Loaded | undefined): DownVerdict {
  const current = legacy ? toAggregate(layout.legacy, legacy) : null;
  let result: Aggregate;
  try {
    result = layout.mapping.down(toAggregate(layout.unified, unified), current);
  } catch (error) {
    return { kind: "quarantined", reason: mappingReason(error, layout.mapping.name) };
  }
  const root = result[layout.legacy.root.table]?.[0];
  if (root === undefined)
    return { kind: "quarantined", reason: `the mapping gave no row for ${layout.legacy.root.table}` };
  if (keyText(root[layout.legacy.root.key]) !== unified.key) {
    return { kind: "quarantined", reason: `the mapping changed its key to ${String(root[layout.legacy.root.key])}` };
  }
  if (layout.legacy.root.keyType === "integer" && typeof root[layout.legacy.root.key] !== "bigint") {
    return {
      kind: "quarantined",
      reason: `${layout.legacy.root.table}.${layout.legacy.root.key} holds whole numbers only, and the key "${unified.key}" is none`,
    };
  }
  const changes: LegacyChange[] = [];
  rowChanges(layout.legacy.root, [layout.legacy.root.key], [root], current?.[layout.legacy.root.table] ?? [], changes);
  for (const table of layout.legacy.related) {
    const rows = result[table.table];
    if (rows) rowChanges(table, table.identity, rows, current?.[table.table] ?? [], changes);
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
  const identify = (row: DataRow) => JSON.stringify(identity.map((column) => keyText(row[column])));
  const there = new Map(actual.map((row) => [identify(row), row]));
  for (const row of expected) {
    const present = there.get(identify(row));
    there.delete(identify(row));
    const set: Record<string, Value> = {};
    for (const [column, value] of Object.entries(row)) {
      // A column that this table lacks: it read as NULL on the way up.
      if (!table.types.has(column)) continue;
      if (present === undefined || !sameValue(present[column], value)) set[column] = value;
    }
    if (present === undefined) changes.push({ table: table.table, action: "insert", where: {}, set });
    else if (Object.keys(set).length > 0) {
      changes.push({ table: table.table, action: "update", where: pick(present, identity), set });
    }
  }
  for (const row of there.values()) {
    changes.push({ table: table.table, action: "delete", where: pick(row, identity), set: {} });
  }
}

function pick(row: DataRow, columns: readonly string[]): DataRow {
  return Object.fromEntries(columns.map((column) => [column, row[column] ?? null]));
}

/** Of legacy changes, as columns of a drift report. */
export function differencesDown(
  changes: readonly LegacyChange[],
  legacy: Loaded | undefined,
  side: SideLayout,
): ColumnDifference[] {
  const current = legacy ? (toAggregate(side, legacy)[side.root.table]?.[0] ?? {}) : {};
  return changes.flatMap((change) =>
    Object.entries(change.set).map(([column, unified]) => ({
      table: change.table,
      column,
      legacy: change.table === side.root.table ? (current[column] ?? null) : null,
      unified,
    })),
  );
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

/**
 * The unified columns (as `table.column`) whose values the legacy rows do not give back: what would be lost on the way
 * down. Notes that the mapping keeps for itself do not count.
 */
export function lossesOf(layout: Layout, legacy: Loaded, unified: Loaded): string[] {
  const projected = projectUp(layout, legacy, toAggregate(layout.legacy, legacy));
  if ("reason" in projected) return [`anything (${projected.reason})`];
  const notes = layout.mapping.unified.root.notes ?? {};
  const columns = differencesUp(layout, projected.rows, unified).filter((difference) => {
    const own = notes[difference.column];
    if (own === undefined || difference.table !== layout.unified.root.table) return true;
    return !sameJson(withoutKeys(difference.legacy, own), withoutKeys(difference.unified, own));
  });
  return [...new Set(columns.map((difference) => `${difference.table}.${difference.column}`))];
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
