import type { Session, Transaction, Tuple, Value } from "../storage/port.ts";
import { among, sql } from "../storage/sql.ts";
import { aggregateJson, type Layout, type Loaded, type TableLayout, toAggregate, toTuple } from "./aggregates.ts";
import type { DataRow } from "./mapping.ts";
import { differencesUp, projectUp, type Rows, wayBack } from "./projection.ts";

/**
 * What the legacy rows said of aggregates whose unified side leads and holds more than they can. Kept in hive_bases only
 * for those: of all others, they said what the unified rows say.
 */

/** For {@link writeBase}: what these legacy rows say of these unified ones; null where that is what the latter are. */
export function baseOf(layout: Layout, legacy: Loaded, unified: Loaded): string | null {
  if (wayBack(layout, legacy, unified).losses.length === 0) return null;
  const projected = projectUp(layout, legacy, toAggregate(layout.legacy, legacy));
  if ("reason" in projected) return null;
  const { root, related } = projected.rows;
  return aggregateJson(toAggregate(layout.unified, { key: unified.key, keyValue: unified.keyValue, root, related }));
}

/** Those that are known of these aggregates, as JSON. */
export async function readBases(
  session: Session,
  source: string,
  keys: readonly string[],
): Promise<ReadonlyMap<string, string>> {
  if (keys.length === 0) return new Map();
  const rows = await session.all(
    sql`SELECT key, base FROM hive_bases WHERE source = ${source} AND key IN ${among(keys)}`,
  );
  return new Map(rows.map((row) => [String(row.key), String(row.base)]));
}

export function parseBase(layout: Layout, base: string): Rows {
  const tables: Record<string, unknown> = JSON.parse(base);
  const rowsOf = (table: TableLayout): Tuple[] => {
    const rows = tables[table.table];
    return Array.isArray(rows) ? rows.map((row) => toTuple(table, untagged(row))) : [];
  };
  const { root, related } = layout.unified;
  return { root: rowsOf(root)[0] ?? [], related: related.map(rowsOf) };
}

/** Whether legacy rows say what they said when this was remembered: then nobody has changed them since. */
export function saysStill(layout: Layout, legacy: Loaded, base: string): boolean {
  const projected = projectUp(layout, legacy, toAggregate(layout.legacy, legacy));
  return (
    "rows" in projected && differencesUp(layout, projected.rows, { ...legacy, ...parseBase(layout, base) }).length === 0
  );
}

/** In the transaction that wrote the aggregate. Null: both sides say the same. */
export async function writeBase(
  tx: Transaction,
  source: string,
  key: string,
  agent: string,
  base: string | null,
): Promise<void> {
  if (base === null) {
    await tx.run(sql`DELETE FROM hive_bases WHERE source = ${source} AND key = ${key}`);
    return;
  }
  await tx.run(sql`INSERT INTO hive_bases (source, key, agent, base, kept)
    VALUES (${source}, ${key}, ${agent}, ${base}, 0)
    ON CONFLICT (source, key) DO UPDATE SET agent = excluded.agent, base = excluded.base, kept = 0`);
}

/** Aggregates with values that only the unified side holds and of which no copy was kept yet. */
export async function unkeptBases(session: Session): Promise<{ source: string; key: string }[]> {
  const rows = await session.all(sql`SELECT source, key FROM hive_bases WHERE kept = 0`);
  return rows.map((row) => ({ source: String(row.source), key: String(row.key) }));
}

function untagged(row: unknown): DataRow {
  if (typeof row !== "object" || row === null) return {};
  return Object.fromEntries(Object.entries(row).map(([column, value]) => [column, valueFrom(value)]));
}

function valueFrom(value: unknown): Value {
  if (typeof value === "string" || value === null || value === undefined) return value ?? null;
  if (typeof value === "number") return Number.isInteger(value) ? BigInt(value) : value;
  if (typeof value === "object") {
    const { $int, $real, $blob } = Object.assign({ $int: null, $real: null, $blob: null }, value);
    if (typeof $int === "string") return BigInt($int);
    if (typeof $real === "string") return Number($real);
    if (typeof $blob === "string") return new Uint8Array(Buffer.from($blob, "base64"));
  }
  return null;
}
