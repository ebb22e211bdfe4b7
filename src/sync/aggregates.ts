import { HiveError } from "../errors.ts";
import type { Column, ColumnType, Session, Store, Table, Tuple, Value } from "../storage/port.ts";
import { among, id, ids, join, type Sql, sql } from "../storage/sql.ts";
import {
  type Aggregate,
  type AggregateMapping,
  type ColumnKind,
  type DataRow,
  keyText,
  keyValue,
  setColumn,
} from "./mapping.ts";

/** One side of a mapping as it is in this database: which columns are read, in which order, and their types. */
export interface SideLayout {
  readonly root: TableLayout;
  readonly related: readonly RelatedLayout[];
}

export interface TableLayout {
  readonly table: string;
  /** The key column (of a related table: the foreign key), its position in `columns`, and its type. */
  readonly key: string;
  readonly keyAt: number;
  readonly keyType: ColumnType;
  /** What is read, by name. */
  readonly columns: readonly string[];
  /** Columns that the mapping reads and the table lacks: given to it as NULL. */
  readonly missing: readonly string[];
  /** Types by column name, of all columns of the table. */
  readonly types: ReadonlyMap<string, ColumnType>;
  /** Columns for JSON whose type makes a number of a text that is one. */
  readonly loose: ReadonlyMap<string, ColumnType>;
  /** Columns of which another text may be read than was written, for the same value. */
  readonly forming: ReadonlyMap<string, ColumnType>;
}

export interface RelatedLayout extends TableLayout {
  /** Whether an index finds the rows of an aggregate. */
  readonly indexed: boolean;
  readonly orderBy: readonly string[];
  /** Columns that identify a row within its aggregate. */
  readonly identity: readonly string[];
}

export interface Layout {
  readonly mapping: AggregateMapping;
  readonly legacy: SideLayout;
  readonly unified: SideLayout;
}

/** One aggregate as it was read. */
export interface Loaded {
  /** Null for a root row whose key is NULL or binary. */
  readonly key: string | null;
  readonly keyValue: Value;
  readonly root: Tuple;
  /** By position of the layout's related tables. */
  readonly related: readonly (readonly Tuple[])[];
}

/**
 * The mapping's tables as they are in this database. With `unifiedMayBeMissing`, unified tables that do not exist yet
 * are taken as the mapping declares them.
 * @throws SCHEMA_MISMATCH where a root table is missing, NOT_MIGRATED where a unified one is
 */
export async function introspect(
  store: Pick<Store, "table">,
  mapping: AggregateMapping,
  session: Session,
  options: { unifiedMayBeMissing?: boolean } = {},
): Promise<Layout> {
  const { legacy, unified } = mapping;
  const legacyRoot = await requireTable(store, session, legacy.root.table, mapping, "legacy");
  const legacyRelated: RelatedLayout[] = [];
  for (const related of legacy.related) {
    const table = await store.table(related.table, session);
    if (table === null && related.optional === true) continue;
    if (table === null) throw missingTable(related.table, mapping, "legacy");
    const columns = [...new Set([related.foreignKey, ...related.key, ...related.columns, ...related.orderBy])];
    legacyRelated.push({
      ...tableLayout(table, related.foreignKey, columns),
      indexed: isIndexed(table, related.foreignKey),
      orderBy: related.orderBy,
      identity: related.key,
    });
  }
  const unifiedTable = async (name: string, columns: Readonly<Record<string, ColumnKind>>): Promise<Table> =>
    options.unifiedMayBeMissing
      ? ((await store.table(name, session)) ?? declaredTable(name, columns))
      : requireTable(store, session, name, mapping, "unified");
  const unifiedRoot = await unifiedTable(unified.root.table, unified.root.columns);
  const unifiedRelated: RelatedLayout[] = [];
  for (const related of unified.related) {
    const table = await unifiedTable(related.table, related.columns);
    unifiedRelated.push({
      ...tableLayout(table, related.foreignKey, Object.keys(related.columns), related.columns),
      indexed: isIndexed(table, related.foreignKey),
      orderBy: related.key,
      identity: related.key,
    });
  }
  requireKey(legacyRoot, legacy.root.key);
  if (unifiedRoot.columns.some((column) => column.primaryKey > 0) || !options.unifiedMayBeMissing) {
    requireKey(unifiedRoot, unified.root.key);
  }
  const everyLegacyColumn = [
    ...new Set([legacy.root.key, ...legacy.root.columns, ...legacyRoot.columns.map((column) => column.name)]),
  ];
  return {
    mapping,
    legacy: { root: tableLayout(legacyRoot, legacy.root.key, everyLegacyColumn), related: legacyRelated },
    unified: {
      root: tableLayout(unifiedRoot, unified.root.key, Object.keys(unified.root.columns), unified.root.columns),
      related: unifiedRelated,
    },
  };
}

/** The columns that the mapping reads and the legacy tables lack, as `table.column`. */
export function missingColumns(layout: Layout): string[] {
  return [layout.legacy.root, ...layout.legacy.related].flatMap((table) =>
    table.missing.map((column) => `${table.table}.${column}`),
  );
}

function declaredTable(name: string, kinds: Readonly<Record<string, ColumnKind>>): Table {
  const columns = Object.entries(kinds).map(
    ([column, kind]): Column => ({
      name: column,
      declared: kind,
      type: kind === "integer" || kind === "real" ? kind : "text",
      notNull: false,
      default: null,
      primaryKey: 0,
    }),
  );
  return { name, columns, foreignKeys: [], indexes: [], unique: [], parts: [] };
}

async function requireTable(
  store: Pick<Store, "table">,
  session: Session,
  name: string,
  mapping: AggregateMapping,
  side: "legacy" | "unified",
): Promise<Table> {
  const table = await store.table(name, session);
  if (table === null) throw missingTable(name, mapping, side);
  return table;
}

/** Where two root rows could have one key, one of them would be written over the other, or passed over. */
function requireKey(table: Table, key: string): void {
  const primary = table.columns.filter((column) => column.primaryKey > 0).map((column) => column.name);
  const unique = [primary, ...table.indexes.filter((index) => index.unique).map((index) => index.columns)];
  // A key that is not there at all is reported as such.
  const known = table.columns.find((column) => column.name === key);
  if (known?.type === "blob") {
    throw new HiveError("SCHEMA_MISMATCH", `${table.name}.${key}, which identifies its rows, has no type.`, {
      hint: "In such a column, 7 and '7' are two keys. Make the table anew with INTEGER or TEXT, or name another column.",
      details: { table: table.name, column: key, declared: known.declared },
    });
  }
  if (!known || unique.some((columns) => columns.length === 1 && columns[0] === key)) return;
  throw new HiveError("SCHEMA_MISMATCH", `Nothing makes ${table.name}.${key}, which identifies its rows, unique.`, {
    hint: `Name a column that is the primary key or has a unique index, or make one: CREATE UNIQUE INDEX … ON ${table.name} (${key}).`,
    details: { table: table.name, column: key },
  });
}

function missingTable(name: string, mapping: AggregateMapping, side: "legacy" | "unified"): HiveError {
  if (side === "unified") {
    return new HiveError("NOT_MIGRATED", `The unified table ${name} does not exist yet.`, {
      hint: "Run `hive migrate up` first.",
      details: { table: name, mapping: mapping.name },
    });
  }
  return new HiveError(
    "SCHEMA_MISMATCH",
    `The legacy table ${name}, which the mapping "${mapping.name}" reads, does not exist.`,
    {
      hint: "Check that --database names the right database, and that the mapping is the one for it.",
      details: { table: name, mapping: mapping.name },
    },
  );
}

function tableLayout(
  table: Table,
  key: string,
  wanted: readonly string[],
  kinds: Readonly<Record<string, ColumnKind>> = {},
): TableLayout {
  const types = new Map(table.columns.map((column) => [column.name, column.type]));
  if (!types.has(key)) {
    throw new HiveError("SCHEMA_MISMATCH", `The table ${table.name} has no column ${key}, which identifies its rows.`, {
      hint: "Check the mapping against the table.",
      details: { table: table.name, column: key },
    });
  }
  const columns = wanted.filter((column) => types.has(column));
  return {
    table: table.name,
    key,
    keyAt: columns.indexOf(key),
    keyType: types.get(key) ?? "text",
    columns,
    missing: wanted.filter((column) => !types.has(column)),
    types,
    loose: new Map([...types].filter(([column, type]) => kinds[column] === "json" && NUMBERS.has(type))),
    forming: new Map([...types].filter(([, type]) => FORMING.has(type))),
  };
}

const NUMBERS: ReadonlySet<ColumnType> = new Set(["integer", "real", "numeric", "blob"]);
const FORMING: ReadonlySet<ColumnType> = new Set(["time", "timestamp", "date", "json"]);

function isIndexed(table: Table, column: string): boolean {
  return (
    table.indexes.some((index) => index.columns[0] === column) ||
    table.columns.some((one) => one.name === column && one.primaryKey === 1)
  );
}

/**
 * Copies of related tables that have no index on their foreign key, sorted, in TEMP tables of the reading session:
 * without them, every page would read such a table from end to end. A copy serves only as long as nobody commits:
 * the caller's `stamp` says so.
 */
export class SortedCopies {
  private readonly known = new WeakMap<Session, Map<string, number>>();
  private stamp = Number.NaN;
  private steady = 0;

  /** To be called before each page. */
  page(stamp: number): void {
    this.steady = stamp === this.stamp ? this.steady + 1 : 0;
    this.stamp = stamp;
  }

  /** The table to read instead; the table itself while others keep committing. */
  async nameFor(session: Session, table: RelatedLayout): Promise<string> {
    let copies = this.known.get(session);
    if (!copies) {
      copies = new Map();
      this.known.set(session, copies);
    }
    const copy = `hive_sorted_${table.table}`;
    if (copies.get(table.table) === this.stamp) return copy;
    if (this.steady < STEADY_PAGES || !session.dialect.temporaryTables) return table.table;
    copies.delete(table.table);
    await session.run(sql`DROP TABLE IF EXISTS ${id("temp", copy)}`);
    await session.run(
      sql`CREATE TEMP TABLE ${id(copy)} AS SELECT ${ids(table.columns)} FROM ${id(table.table)} ORDER BY ${id(table.key)}`,
    );
    await session.run(sql`CREATE INDEX ${id("temp", `${copy}_key`)} ON ${id(copy)} (${id(table.key)})`);
    copies.set(table.table, this.stamp);
    return copy;
  }
}

/** A copy is worth its cost only when it can serve many pages. */
const STEADY_PAGES = 3;

function selectFrom(table: TableLayout, name = table.table): Sql {
  return sql`SELECT ${ids(table.columns)} FROM ${id(name)}`;
}

/**
 * How much text is read at once, however long the rows are; an aggregate that has more by itself is read alone. Root
 * rows of a page stop at the first, what belongs to them at the second: where that is beyond it, the page is cut.
 */
export const PAGE_BYTES = 500_000;
const MOST_BYTES = 4 * PAGE_BYTES;

/** Aggregates that follow one another, and whether there are more after them. */
export interface LoadedPage {
  readonly loaded: readonly Loaded[];
  readonly more: boolean;
}

/**
 * The next aggregates after `after` (up to and with `to`) in the order of the key: at most `limit`, and no more than
 * memory should hold at once. Rows without a key are not among them: see {@link loadWithoutKey}.
 */
export async function loadPage(
  session: Session,
  side: SideLayout,
  after: Value,
  limit: number,
  options: { to?: Value; copies?: SortedCopies } = {},
): Promise<LoadedPage> {
  const { root } = side;
  const { to, copies } = options;
  const key = id(root.key);
  const from = after === null ? sql`${key} IS NOT NULL` : sql`${key} > ${after}`;
  const range = to === undefined || to === null ? from : sql`${from} AND ${key} <= ${to}`;
  const query = sql`${selectFrom(root)} WHERE ${range} ORDER BY ${key} LIMIT ${limit}`;
  const { rows, complete } = await session.tuplesWithin(query, PAGE_BYTES);
  for (let count = rows.length; ; count = Math.ceil(count / 2)) {
    const some = count < rows.length ? rows.slice(0, count) : rows;
    const loaded = await withRelated(session, side, some, { contiguous: true, copies, bounded: count > 1 });
    if (loaded) return { loaded, more: !complete || rows.length === limit || count < rows.length };
  }
}

/** The aggregates of these keys, those that exist, in no particular order. */
export async function loadKeys(session: Session, side: SideLayout, keys: readonly string[]): Promise<Loaded[]> {
  return (await loadSome(session, side, keys, false)) ?? [];
}

/** As {@link loadKeys}, of aggregates that are known to have no related rows. */
export async function loadRoots(session: Session, side: SideLayout, keys: readonly string[]): Promise<Loaded[]> {
  const roots = (await loadSome(session, { ...side, related: [] }, keys, false)) ?? [];
  return roots.map((root) => ({ ...root, related: side.related.map(() => []) }));
}

/** As {@link loadKeys}; null where they are more than memory should hold at once. A single one never is. */
export async function loadKeysWithin(
  session: Session,
  side: SideLayout,
  keys: readonly string[],
): Promise<Loaded[] | null> {
  return loadSome(session, side, keys, keys.length > 1);
}

async function loadSome(
  session: Session,
  side: SideLayout,
  keys: readonly string[],
  bounded: boolean,
): Promise<Loaded[] | null> {
  const { root } = side;
  const values = keyValues(keys, root.keyType);
  if (values.length === 0) return [];
  const query = sql`${selectFrom(root)} WHERE ${id(root.key)} IN ${among(values)}`;
  const rows = await tuplesOf(session, query, bounded);
  if (rows === null) return null;
  // An INTEGER column also finds 7 when '07' is looked for.
  const wanted = new Set(keys);
  const exact = rows.filter((row) => wanted.has(keyText(row[root.keyAt]) ?? ""));
  return withRelated(session, side, exact, { contiguous: false, bounded });
}

/** Null where they are more than memory should hold at once. */
async function tuplesOf(session: Session, query: Sql, bounded: boolean): Promise<Tuple[] | null> {
  if (!bounded) return session.tuples(query);
  const { rows, complete } = await session.tuplesWithin(query, MOST_BYTES);
  return complete ? rows : null;
}

/** Root rows whose key is NULL: they cannot be told apart, so only the first `limit` are looked at. */
export async function loadWithoutKey(session: Session, side: SideLayout, limit: number): Promise<Loaded[]> {
  const { root } = side;
  if (root.types.get(root.key) === undefined) return [];
  const rows = await session.tuples(sql`${selectFrom(root)} WHERE ${id(root.key)} IS NULL LIMIT ${limit}`);
  return rows.map((row) => ({ key: null, keyValue: null, root: row, related: side.related.map(() => []) }));
}

export async function countWithoutKey(session: Session, side: SideLayout): Promise<number> {
  const { root } = side;
  const rows = await session.all(sql`SELECT count(*) AS n FROM ${id(root.table)} WHERE ${id(root.key)} IS NULL`);
  return Number(rows[0]?.n);
}

/** Which of these keys the root table has. */
export async function existingKeys(session: Session, root: TableLayout, keys: readonly string[]): Promise<Set<string>> {
  const values = keyValues(keys, root.keyType);
  if (values.length === 0) return new Set();
  const rows = await session.tuples(
    sql`SELECT ${id(root.key)} FROM ${id(root.table)} WHERE ${id(root.key)} IN ${among(values)}`,
  );
  const wanted = new Set(keys);
  const found = new Set<string>();
  for (const row of rows) {
    const key = keyText(row[0]);
    if (key !== null && wanted.has(key)) found.add(key);
  }
  return found;
}

/** A key with about as many before as after it; null where there are none. */
export async function middleKey(session: Session, root: TableLayout): Promise<Value> {
  const key = id(root.key);
  const count = await session.all(sql`SELECT count(*) AS n FROM ${id(root.table)}`);
  const offset = Math.floor(Number(count[0]?.n) / 2);
  const rows = await session.tuples(
    sql`SELECT ${key} FROM ${id(root.table)} WHERE ${key} IS NOT NULL ORDER BY ${key} LIMIT 1 OFFSET ${offset}`,
  );
  return rows[0]?.[0] ?? null;
}

/** The next keys of a root table after `after`, in the order of the key. */
export async function pageOfKeys(session: Session, root: TableLayout, after: Value, limit: number): Promise<Value[]> {
  const key = id(root.key);
  const from = after === null ? sql`${key} IS NOT NULL` : sql`${key} > ${after}`;
  const rows = await session.tuples(
    sql`SELECT ${key} FROM ${id(root.table)} WHERE ${from} ORDER BY ${key} LIMIT ${limit}`,
  );
  return rows.map((row) => row[0] ?? null);
}

/** Values to look for in a column of this type; keys that no value of the type can have are left out. */
export function keyValues(keys: readonly string[], type: ColumnType): Value[] {
  const values: Value[] = [];
  for (const key of keys) {
    const value = keyValue(key, type);
    if (value !== null) values.push(value);
    // A column without a type keeps 7 and '7' apart.
    if (type === "blob" && typeof value === "string" && /^(0|-?[1-9]\d{0,18})$/.test(value)) values.push(BigInt(value));
  }
  return values;
}

/** Null where what belongs to them is more than memory should hold at once; never so unless `bounded`. */
async function withRelated(
  session: Session,
  side: SideLayout,
  rows: readonly Tuple[],
  options: { contiguous: boolean; bounded: boolean; copies?: SortedCopies | undefined },
): Promise<Loaded[] | null> {
  const { root } = side;
  const { contiguous, bounded, copies } = options;
  const loaded = rows.map((row) => {
    const value = row[root.keyAt] ?? null;
    const related: Tuple[][] = side.related.map(() => []);
    return { key: keyText(value), keyValue: value, root: row, related };
  });
  const byKey = new Map<string, Tuple[][]>();
  for (const one of loaded) if (one.key !== null) byKey.set(one.key, one.related);
  if (byKey.size === 0) return loaded;
  for (const [position, table] of side.related.entries()) {
    const name = copies && !table.indexed ? await copies.nameFor(session, table) : table.table;
    const found = await tuplesOf(session, relatedQuery(root, table, name, loaded, contiguous), bounded);
    if (found === null) return null;
    for (const row of found) {
      const key = keyText(row[table.keyAt]);
      if (key !== null) byKey.get(key)?.[position]?.push(row);
    }
  }
  return loaded;
}

function relatedQuery(
  root: TableLayout,
  table: RelatedLayout,
  name: string,
  loaded: readonly Loaded[],
  contiguous: boolean,
): Sql {
  const foreignKey = id(table.key);
  const order = join(
    [table.key, ...table.orderBy].filter((column) => table.types.has(column)).map((column) => id(column)),
  );
  const first = loaded[0]?.keyValue ?? null;
  const last = loaded.at(-1)?.keyValue ?? null;
  if (contiguous && table.keyType === root.keyType && isPlain(first) && isPlain(last)) {
    return sql`${selectFrom(table, name)} WHERE ${foreignKey} >= ${first} AND ${foreignKey} <= ${last} ORDER BY ${order}`;
  }
  const keys: string[] = [];
  for (const one of loaded) if (one.key !== null) keys.push(one.key);
  return sql`${selectFrom(table, name)} WHERE ${foreignKey} IN ${among(keyValues(keys, table.keyType))} ORDER BY ${order}`;
}

function isPlain(value: Value): boolean {
  return typeof value === "string" || typeof value === "bigint";
}

/**
 * As the mapping sees it: rows by column name, with NULL for columns that the table lacks, and JSON always as text.
 */
export function toAggregate(side: SideLayout, loaded: Loaded): Aggregate {
  const aggregate: Record<string, readonly DataRow[]> = { [side.root.table]: [toRow(side.root, loaded.root)] };
  side.related.forEach((table, i) => {
    aggregate[table.table] = (loaded.related[i] ?? []).map((row) => toRow(table, row));
  });
  return aggregate;
}

function toRow(table: TableLayout, tuple: Tuple): DataRow {
  const row: Record<string, Value> = {};
  table.columns.forEach((column, i) => {
    setColumn(row, column, tuple[i] ?? null);
  });
  for (const column of table.missing) row[column] = null;
  for (const column of table.loose.keys()) {
    const value = row[column];
    if (typeof value === "bigint") row[column] = value.toString();
    else if (typeof value === "number") row[column] = jsonNumber(value);
  }
  return row;
}

function jsonNumber(value: number): string {
  // JSON has no infinity: a number beyond all that can be stored, as which it is read again.
  return Number.isFinite(value) ? String(value) : value > 0 ? "1e999" : "-1e999";
}

const NUMBER = /^[ \t\n\v\f\r]*[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?[ \t\n\v\f\r]*$/i;
const INTEGER = /^[+-]?\d+$/;

/**
 * A value as this column for JSON will give it back. A numeric type makes a number of every text that is one (what
 * another tool declared JSON is such a column on SQLite): so it is made one here, the same one every time.
 */
export function asStored(type: ColumnType, value: Value): Value {
  if (type === "time" || type === "timestamp" || type === "date") return storedTime(type, value);
  if (!NUMBERS.has(type) || type === "blob" || typeof value !== "string" || !NUMBER.test(value)) return value;
  const text = value.trim();
  const whole = type !== "real" && INTEGER.test(text) ? BigInt(text.replace("+", "")) : null;
  return whole !== null && BigInt.asIntN(64, whole) === whole ? whole : Number(text);
}

const TIME =
  /^\s*(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?)?\s*(Z|[+-]\d\d(?::?\d\d)?)?\s*$/i;

/** A time as text, as a column of this type gives it back: without an offset it is UTC. What is none stays as it is. */
function storedTime(type: ColumnType, value: Value): Value {
  const match = typeof value === "string" ? TIME.exec(value) : null;
  if (!match) return value;
  const [, year, month, day, hour = "00", minute = "00", second = "00", fraction = "", zone = "Z"] = match;
  if (type === "date") return `${year}-${month}-${day}`;
  // A column without a zone takes no notice of one.
  const minutes = type === "timestamp" ? 0 : offsetMinutes(zone);
  const ms = Date.UTC(Number(year), Number(month) - 1, Number(day), Number(hour), Number(minute), Number(second));
  const micros = Math.round(Number(`0.${fraction || "0"}`) * 1_000_000);
  const at = new Date(ms - minutes * 60_000 + (micros >= 1_000_000 ? 1_000 : 0));
  const rest = String(micros % 1_000_000).padStart(6, "0");
  if (Number.isNaN(at.getTime()) || Number(month) > 12 || Number(day) > 31) return value;
  const text = at.toISOString().slice(0, 19);
  if (type === "timestamp") return `${text.replace("T", " ")}${rest === "000000" ? "" : `.${rest.replace(/0+$/, "")}`}`;
  return `${text}.${rest.endsWith("000") ? rest.slice(0, 3) : rest}Z`;
}

function offsetMinutes(zone: string): number {
  if (/^z$/i.test(zone)) return 0;
  const sign = zone.startsWith("-") ? -1 : 1;
  return sign * (Number(zone.slice(1, 3)) * 60 + Number(zone.slice(3).replace(":", "") || "0"));
}

/** By position of the layout's columns; columns that the row does not have are NULL. */
export function toTuple(table: TableLayout, row: DataRow): Tuple {
  return table.columns.map((column) => row[column] ?? null);
}

/** A key as the value to look for in this table. */
export function keyIn(table: TableLayout, key: string): Value {
  return keyValue(key, table.keyType);
}

/** An aggregate as JSON that gives every value back: text, small numbers and NULL as they are, the rest tagged. */
export function aggregateJson(aggregate: Aggregate): string {
  const tables = Object.entries(aggregate).map(([table, rows]) => [
    table,
    rows.map((row) => Object.fromEntries(Object.entries(row).map(([column, value]) => [column, taggedValue(value)]))),
  ]);
  return JSON.stringify(Object.fromEntries(tables));
}

function taggedValue(value: Value): unknown {
  if (value instanceof Uint8Array) return { $blob: Buffer.from(value).toString("base64") };
  if (typeof value === "bigint") {
    const small = Number(value);
    return Number.isSafeInteger(small) ? small : { $int: value.toString() };
  }
  if (typeof value === "number" && (Number.isInteger(value) || !Number.isFinite(value)))
    return { $real: String(value) };
  return value;
}
