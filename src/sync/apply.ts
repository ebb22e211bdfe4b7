import type { Session, Transaction, Tuple, Value } from "../storage/port.ts";
import { among, id, ids, join, type Sql, sql } from "../storage/sql.ts";
import { keyValues, type Layout, type TableLayout } from "./aggregates.ts";
import type { LegacyChange, Rows } from "./projection.ts";

/** One aggregate that is to be written on the unified side. */
export interface UnifiedWrite {
  readonly key: string;
  readonly rows: Rows;
  /** Whether the root row is there already. */
  readonly exists: boolean;
  /** By position of the related tables: whether their rows have to be replaced. */
  readonly related: readonly boolean[];
}

function stageOf(table: TableLayout): string {
  return `hive_stage_${table.table}`;
}

/**
 * Puts the rows into TEMP tables on the writer's connection: it takes no lock. What an earlier attempt left there
 * is thrown away.
 */
export async function stage(tx: Transaction, layout: Layout, writes: readonly UnifiedWrite[]): Promise<void> {
  const { root, related } = layout.unified;
  for (const table of [root, ...related]) {
    await tx.run(
      sql`CREATE TEMP TABLE IF NOT EXISTS ${id(stageOf(table))} AS SELECT ${ids(table.columns)} FROM ${id(table.table)} WHERE 1 = 0`,
    );
    await tx.run(sql`DELETE FROM ${id(stageOf(table))}`);
  }
  await insertAll(
    tx,
    stageOf(root),
    root,
    writes.map((write) => write.rows.root),
  );
  for (const [i, table] of related.entries()) {
    const rows = writes.flatMap((write) => (write.related[i] ? (write.rows.related[i] ?? []) : []));
    await insertAll(tx, stageOf(table), table, rows);
  }
}

/** Moves what was staged into the unified tables, without the keys in `except`. Inside the write transaction. */
export async function moveStaged(
  tx: Transaction,
  layout: Layout,
  writes: readonly UnifiedWrite[],
  except: ReadonlySet<string>,
): Promise<void> {
  const { root, related } = layout.unified;
  if (except.size > 0) {
    for (const table of [root, ...related]) await deleteKeys(tx, stageOf(table), table, [...except]);
  }
  const kept = except.size === 0 ? writes : writes.filter((write) => !except.has(write.key));
  const replaced = kept.some((write) => write.exists);
  const columns = ids(root.columns);
  const update = root.columns.filter((column) => column !== root.key).map(excluded);
  const otherwise = update.length > 0 ? sql`UPDATE SET ${join(update)}` : sql`NOTHING`;
  await tx.run(sql`INSERT INTO ${id(root.table)} (${columns}) SELECT ${columns} FROM ${id(stageOf(root))} WHERE 1 = 1
    ON CONFLICT (${id(root.key)}) DO ${otherwise}`);
  // Without this, a row that the aggregate no longer has would stay for ever. Last table first: it may refer to others.
  for (const [i, table] of replaced ? [...related.entries()].reverse() : []) {
    const keys = kept.filter((write) => write.exists && write.related[i]).map((write) => write.key);
    await deleteKeys(tx, table.table, table, keys);
  }
  for (const [i, table] of related.entries()) {
    if (!kept.some((write) => write.related[i] && (write.rows.related[i]?.length ?? 0) > 0)) continue;
    const names = ids(table.columns);
    await tx.run(sql`INSERT INTO ${id(table.table)} (${names}) SELECT ${names} FROM ${id(stageOf(table))}`);
  }
}

/**
 * Writes aggregates that are not there yet, without the detour over TEMP tables: only where nobody has committed since
 * they were looked for.
 */
export async function insertNew(tx: Transaction, layout: Layout, writes: readonly UnifiedWrite[]): Promise<void> {
  const { root, related } = layout.unified;
  await insertAll(
    tx,
    root.table,
    root,
    writes.map((write) => write.rows.root),
  );
  for (const [i, table] of related.entries()) {
    await insertAll(
      tx,
      table.table,
      table,
      writes.flatMap((write) => write.rows.related[i] ?? []),
    );
  }
}

function excluded(column: string): Sql {
  return sql`${id(column)} = ${id("excluded", column)}`;
}

/** Removes whole aggregates from the unified side. */
export async function deleteUnified(tx: Session, layout: Layout, keys: readonly string[]): Promise<void> {
  for (const table of [layout.unified.root, ...layout.unified.related].reverse())
    await deleteKeys(tx, table.table, table, keys);
}

const KEYS_PER_STATEMENT = 500;

async function deleteKeys(tx: Session, name: string, table: TableLayout, keys: readonly string[]): Promise<void> {
  for (let start = 0; start < keys.length; start += KEYS_PER_STATEMENT) {
    const values = keyValues(keys.slice(start, start + KEYS_PER_STATEMENT), table.keyType);
    if (values.length > 0) await tx.run(sql`DELETE FROM ${id(name)} WHERE ${id(table.key)} IN ${among(values)}`);
  }
}

async function insertAll(tx: Transaction, name: string, table: TableLayout, rows: readonly Tuple[]): Promise<void> {
  if (rows.length > 0) await tx.insert(name, table.columns, rows);
}

/** Writes on the legacy side only what differs, so that everything else stays as it is, byte for byte. */
export async function writeLegacy(tx: Transaction, changes: readonly LegacyChange[]): Promise<void> {
  for (const { table, action, where, set } of changes) {
    if (action === "insert") {
      await tx.insert(table, Object.keys(set), [Object.values(set)]);
    } else if (action === "update") {
      const assignments = Object.entries(set).map(([column, value]) => sql`${id(column)} = ${exactly(value)}`);
      await tx.run(sql`UPDATE ${id(table)} SET ${join(assignments)} WHERE ${matches(where)}`);
    } else {
      await tx.run(sql`DELETE FROM ${id(table)} WHERE ${matches(where)}`);
    }
  }
}

/** In a statement of hive's a whole number means INTEGER; here it is a REAL, and a column without a type keeps which. */
function exactly(value: Value): Sql {
  return typeof value === "number" ? sql`CAST(${value} AS REAL)` : sql`${value}`;
}

function matches(where: Readonly<Record<string, Value>>): Sql {
  const conditions = Object.entries(where).map(([column, value]) =>
    value === null ? sql`${id(column)} IS NULL` : sql`${id(column)} = ${value}`,
  );
  return join(conditions, " AND ");
}
