import type { Session, Transaction, Tuple, Value, Writes } from "../storage/port.ts";
import { among, id, ids, join, type Sql, sql } from "../storage/sql.ts";
import { existingKeys, keyValues, type Layout, type TableLayout } from "./aggregates.ts";
import { keyText } from "./mapping.ts";
import type { LegacyChange, Rows } from "./projection.ts";

/** One aggregate that is to be written on the unified side. */
export interface UnifiedWrite {
  readonly key: string;
  readonly rows: Rows;
  /** Whether the root row is there already. */
  readonly exists: boolean;
  /** Of a root row that is there, the columns that differ; undefined where that is not known. */
  readonly columns?: readonly string[];
  /** By position of the related tables: whether their rows have to be replaced. */
  readonly related: readonly boolean[];
}

/** Of a mapping of its own: several that share a table can be staged for one transaction. */
function stageOf(layout: Layout, table: TableLayout): string {
  return `hive_stage_${layout.mapping.name}_${table.table}`;
}

/**
 * Puts the rows into TEMP tables on the writer's connection: it takes no lock. What an earlier attempt left there
 * is thrown away.
 */
export async function stage(tx: Transaction, layout: Layout, writes: readonly UnifiedWrite[]): Promise<void> {
  if (!tx.dialect.temporaryTables) return;
  const { root, related } = layout.unified;
  for (const table of [root, ...related]) {
    await tx.run(
      sql`CREATE TEMP TABLE IF NOT EXISTS ${id(stageOf(layout, table))} AS SELECT ${ids(table.columns)} FROM ${id(table.table)} WHERE 1 = 0`,
    );
    await tx.run(sql`DELETE FROM ${id(stageOf(layout, table))}`);
  }
  await insertAll(
    tx,
    stageOf(layout, root),
    root,
    writes.map((write) => write.rows.root),
  );
  for (const [i, table] of related.entries()) {
    const rows = writes.flatMap((write) => (write.related[i] ? (write.rows.related[i] ?? []) : []));
    await insertAll(tx, stageOf(layout, table), table, rows);
  }
}

/**
 * Reads what {@link moveStaged} will write over, so that it is in memory by then: SQLite forgets its pages with each commit
 * of another process, and would read them again while others wait.
 */
export async function readAhead(tx: Session, layout: Layout, writes: readonly UnifiedWrite[]): Promise<void> {
  if (!tx.dialect.singleWriter) return;
  const { root, related } = layout.unified;
  const some = (keys: readonly string[], table: TableLayout) => {
    const values = keyValues(keys.slice(0, KEYS_PER_STATEMENT), table.keyType);
    // The last column is at the end of all pages of a row.
    const last = id(table.columns.at(-1) ?? table.key);
    return values.length === 0
      ? null
      : tx.tuples(sql`SELECT count(${last}) FROM ${id(table.table)} WHERE ${id(table.key)} IN ${among(values)}`);
  };
  const existing = writes.filter((write) => write.exists);
  await some(
    existing.map((write) => write.key),
    root,
  );
  for (const [i, table] of related.entries()) {
    const keys = existing.filter((write) => write.related[i]).map((write) => write.key);
    await some(keys, table);
  }
}

/** Moves what was staged into the unified tables, without the keys in `except`. Inside the write transaction. */
export async function moveStaged(
  tx: Writes,
  layout: Layout,
  writes: readonly UnifiedWrite[],
  except: ReadonlySet<string>,
): Promise<void> {
  const { root, related } = layout.unified;
  const staged = tx.dialect.temporaryTables;
  if (staged && except.size > 0) {
    for (const table of [root, ...related]) await deleteKeys(tx, stageOf(layout, table), table, [...except]);
  }
  const kept = except.size === 0 ? writes : writes.filter((write) => !except.has(write.key));
  const replaced = kept.some((write) => write.exists);
  const columns = ids(root.columns);
  // An index is written for every column that is set, whether its value changes or not.
  const differing = kept.flatMap((write) => (write.exists ? (write.columns ?? root.columns) : []));
  const set = new Set(kept.every((write) => write.exists) ? differing : root.columns);
  const update = root.columns.filter((column) => column !== root.key && set.has(column));
  if (staged) {
    const otherwise = update.length > 0 ? sql`UPDATE SET ${join(update.map(excluded))}` : sql`NOTHING`;
    await tx.run(sql`INSERT INTO ${id(root.table)} (${columns}) SELECT ${columns} FROM ${id(stageOf(layout, root))} WHERE 1 = 1
      ON CONFLICT (${id(root.key)}) DO ${otherwise}`);
  } else {
    const rows = kept.map((write) => write.rows.root);
    await tx.upsert(root.table, root.columns, rows, root.key, update);
  }
  // Without this, a row that the aggregate no longer has would stay for ever. Last table first: it may refer to others.
  for (const [i, table] of replaced ? [...related.entries()].reverse() : []) {
    const keys = kept.filter((write) => write.exists && write.related[i]).map((write) => write.key);
    await deleteKeys(tx, table.table, table, keys);
  }
  for (const [i, table] of related.entries()) {
    const rows = kept.flatMap((write) => (write.related[i] ? (write.rows.related[i] ?? []) : []));
    if (rows.length === 0) continue;
    const names = ids(table.columns);
    if (!staged) await tx.insert(table.table, table.columns, rows);
    else
      await tx.run(sql`INSERT INTO ${id(table.table)} (${names}) SELECT ${names} FROM ${id(stageOf(layout, table))}`);
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

/** Removes whole aggregates from the legacy side; what else refers to them has a say (CONSTRAINT). */
export async function deleteLegacy(tx: Session, layout: Layout, keys: readonly string[]): Promise<void> {
  for (const table of [layout.legacy.root, ...layout.legacy.related].reverse())
    await deleteKeys(tx, table.table, table, keys);
}

const KEYS_PER_STATEMENT = 500;

async function deleteKeys(
  tx: Pick<Session, "run">,
  name: string,
  table: TableLayout,
  keys: readonly string[],
): Promise<void> {
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
      const assignments = Object.entries(set).map(([column, value]) => sql`${id(column)} = ${exactly(tx, value)}`);
      await tx.run(sql`UPDATE ${id(table)} SET ${join(assignments)} WHERE ${matches(where)}`);
    } else {
      await tx.run(sql`DELETE FROM ${id(table)} WHERE ${matches(where)}`);
    }
  }
}

/** In a statement of hive's a whole number means INTEGER; here it is a REAL, and a column without a type keeps which. */
function exactly(tx: Session, value: Value): Sql {
  return typeof value === "number" && tx.dialect.singleWriter ? sql`CAST(${value} AS REAL)` : sql`${value}`;
}

/**
 * Locks aggregates against every other writer, agents' own statements included, until the transaction ends: what is read
 * of them from here on stays true, but for related rows that are added. With `related`, their related rows too. Gives the
 * keys that somebody else holds: none of them with patience "wait". Nothing to do where a transaction is the only writer.
 */
export async function hold(
  tx: Transaction,
  layout: Layout,
  keys: readonly string[],
  patience: "wait" | "skip",
  related = false,
): Promise<ReadonlySet<string>> {
  const taken = new Set<string>();
  if (tx.dialect.singleWriter || keys.length === 0) return taken;
  const locked = new Set<string>();
  for (const side of [layout.legacy, layout.unified]) {
    const { root } = side;
    const rows = await tx.lockRows(root.table, root.key, keyValues(keys, root.keyType), patience);
    const own = new Set((rows ?? []).map((row) => keyText(row[0])));
    const rest = keys.filter((key) => !own.has(key));
    for (const key of own) if (key !== null) locked.add(key);
    if (patience === "skip") for (const key of await existingKeys(tx, root, rest)) taken.add(key);
    for (const table of related ? side.related : []) {
      const rows = await tx.lockRows(table.table, table.key, keyValues(keys, table.keyType), patience);
      if (patience === "skip") for (const key of await heldAmong(tx, table, keys, rows ?? [])) taken.add(key);
    }
  }
  // What neither side has cannot be locked as a row: at least no other hive is at it.
  const absent = keys.filter((key) => !locked.has(key) && !taken.has(key));
  if (absent.length > 0) {
    const names = absent.map((key) => absentName(layout.unified.root.table, key));
    if (patience === "wait") await tx.serialize(names);
    else {
      for (const [i, key] of absent.entries()) {
        if (!(await tx.serialize([names[i] ?? ""], "skip"))) taken.add(key);
      }
    }
  }
  return taken;
}

/** What whoever works on an aggregate that neither side has takes instead of its rows: see `Transaction.serialize`. */
export function absentName(source: string, key: string): string {
  return `${source}\n${key}`;
}

/** Of these keys, those of which a table has more rows than were locked. */
async function heldAmong(
  tx: Session,
  table: TableLayout,
  keys: readonly string[],
  locked: readonly Tuple[],
): Promise<string[]> {
  const left = new Map<string | null, number>();
  for (const [value] of locked) left.set(keyText(value), (left.get(keyText(value)) ?? 0) + 1);
  const rows = await tx.tuples(
    sql`SELECT ${id(table.key)}, count(*) FROM ${id(table.table)}
      WHERE ${id(table.key)} IN ${among(keyValues(keys, table.keyType))} GROUP BY 1`,
  );
  const held = rows.filter(([value, count]) => Number(count) > (left.get(keyText(value)) ?? 0));
  return held.map(([value]) => keyText(value)).filter((key) => key !== null);
}

function matches(where: Readonly<Record<string, Value>>): Sql {
  const conditions = Object.entries(where).map(([column, value]) =>
    value === null ? sql`${id(column)} IS NULL` : sql`${id(column)} = ${value}`,
  );
  return join(conditions, " AND ");
}
