import { createHash, type Hash } from "node:crypto";
import Database from "better-sqlite3";
import { isPostgres } from "./postgres.ts";
import { selectSync } from "./sync-postgres.ts";

/**
 * What is in a SQLite file, as hashes that nothing escapes: the storage class and the bytes of every value, the rowid
 * and the order of the rows, and the text of the schema.
 */

/** hive's tables and the unified ones; everything else is legacy. */
export const isOurs = (name: string) => /^(hive_|unified_|sqlite_autoindex_(hive|unified)_)/.test(name);

/** `CREATE` statements by name, of everything that `wanted` says yes to (by the name of the table it belongs to). */
export function schemaOf(path: string, wanted: (table: string) => boolean = () => true): Record<string, string> {
  return reading(path, (db) => {
    const rows = db.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid").raw().all();
    const schema: Record<string, string> = {};
    for (const row of rows as (string | null)[][]) {
      const [type, name, table, text] = row;
      if (wanted(String(table))) schema[`${type} ${name}`] = text ?? "";
    }
    return schema;
  });
}

/** A hash by table. */
export function tableHashes(path: string, wanted: (table: string) => boolean = () => true): Record<string, string> {
  // Where a row is, and of which transaction: one that was written again with the same values is another one.
  if (isPostgres(path)) return hashesOnPostgres(path, "t.ctid::text || t.xmin::text || t::text", wanted);
  return reading(path, (db) => {
    const hashes: Record<string, string> = {};
    for (const table of tablesOf(db).filter(wanted)) {
      const hash = createHash("sha256");
      for (const row of rowsOf(db, table)) hashRow(hash, row);
      hashes[table] = hash.digest("hex");
    }
    return hashes;
  });
}

/** A hash by table of what the rows say, in whichever order they were written. */
export function contentHashes(path: string, wanted: (table: string) => boolean): Record<string, string> {
  if (isPostgres(path)) return hashesOnPostgres(path, "t::text", wanted);
  return reading(path, (db) => {
    const hashes: Record<string, string> = {};
    for (const table of tablesOf(db).filter(wanted)) {
      const lines: string[] = [];
      for (const row of rowsOf(db, table)) {
        const hash = createHash("sha256");
        hashRow(hash, row.slice(1));
        lines.push(hash.digest("hex"));
      }
      hashes[table] = `${lines.length} rows ${createHash("sha256").update(lines.sort().join()).digest("hex")}`;
    }
    return hashes;
  });
}

/** All rows and the schema of the legacy side. */
export function legacySide(path: string): { schema: Record<string, string>; tables: Record<string, string> } {
  const legacy = (name: string) => !isOurs(name);
  if (isPostgres(path)) return { schema: schemaOnPostgres(path, legacy), tables: contentHashes(path, legacy) };
  // The sequence table also counts for hive's own tables, if they had an AUTOINCREMENT.
  return { schema: schemaOf(path, legacy), tables: tableHashes(path, legacy) };
}

/** A hash by rowid, for telling which rows of a table were changed. */
export function rowHashes(path: string, table: string): Map<bigint, string> {
  return reading(path, (db) => {
    const hashes = new Map<bigint, string>();
    for (const row of rowsOf(db, table)) {
      const hash = createHash("sha256");
      hashRow(hash, row);
      hashes.set(row[0] as bigint, hash.digest("hex"));
    }
    return hashes;
  });
}

/** The rowids of the rows that one of the two has not, or has otherwise. */
export function changedRows(before: Map<bigint, string>, after: Map<bigint, string>): bigint[] {
  const ids = new Set([...before.keys(), ...after.keys()]);
  return [...ids].filter((id) => before.get(id) !== after.get(id)).sort((a, b) => (a < b ? -1 : 1));
}

/** A hash by table of this expression over each row, `t`, whatever the order. */
function hashesOnPostgres(url: string, expression: string, wanted: (table: string) => boolean): Record<string, string> {
  const tables = selectSync(
    url,
    `SELECT schemaname AS schema, tablename AS name FROM pg_tables
     WHERE schemaname IN ('public', 'hive') ORDER BY tablename COLLATE "C"`,
  );
  const hashes: Record<string, string> = {};
  for (const { schema, name } of tables) {
    if (!wanted(String(name))) continue;
    const rows = `SELECT md5(${expression}) AS line FROM "${schema}"."${name}" AS t`;
    const [found] = selectSync(
      url,
      `SELECT count(*) || ' rows ' || md5(coalesce(string_agg(line, ',' ORDER BY line), '')) AS hash FROM (${rows}) AS lines`,
    );
    hashes[String(name)] = String(found?.hash);
  }
  return hashes;
}

/** What there is of each table: columns, constraints, indexes, triggers. */
function schemaOnPostgres(url: string, wanted: (table: string) => boolean): Record<string, string> {
  const rows = selectSync(
    url,
    `WITH tables AS (SELECT pg_class.oid, relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')),
       parts AS (
         SELECT tables.oid, format('column %s %s', attname, concat_ws(' ', format_type(atttypid, atttypmod),
             CASE WHEN attnotnull THEN 'NOT NULL' END, attidentity, pg_get_expr(adbin, adrelid))) AS text
           FROM tables JOIN pg_attribute ON attrelid = tables.oid AND attnum > 0 AND NOT attisdropped
           LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
         UNION ALL SELECT conrelid, pg_get_constraintdef(pg_constraint.oid) FROM pg_constraint
         UNION ALL SELECT indrelid, pg_get_indexdef(indexrelid) FROM pg_index
         UNION ALL SELECT tgrelid, pg_get_triggerdef(pg_trigger.oid) FROM pg_trigger WHERE NOT tgisinternal)
     SELECT relname AS name, string_agg(text, E'\n' ORDER BY text COLLATE "C") AS text
     FROM tables JOIN parts USING (oid) GROUP BY relname`,
  );
  return Object.fromEntries(
    rows.filter(({ name }) => wanted(String(name))).map((row) => [`table ${row.name}`, String(row.text)]),
  );
}

function reading<T>(path: string, work: (db: Database.Database) => T): T {
  const db = new Database(path, { readonly: true });
  try {
    return work(db);
  } finally {
    db.close();
  }
}

function tablesOf(db: Database.Database): string[] {
  const names = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").pluck().all();
  return names.map(String);
}

function rowsOf(db: Database.Database, table: string): IterableIterator<unknown[]> {
  const columns = db
    .prepare("SELECT name FROM pragma_table_info(?) ORDER BY cid")
    .pluck()
    .all(table)
    .map((name) => `"${String(name).replaceAll('"', '""')}"`);
  // Text as its bytes: the driver would replace what is no UTF-8, and quote() ends at a NUL.
  const values = columns.flatMap((name) => [
    `typeof(${name})`,
    `CASE typeof(${name}) WHEN 'text' THEN CAST(${name} AS BLOB) ELSE ${name} END`,
  ]);
  const rows = db.prepare(`SELECT rowid, ${values.join(", ")} FROM "${table.replaceAll('"', '""')}" ORDER BY rowid`);
  return rows.raw(true).safeIntegers(true).iterate() as IterableIterator<unknown[]>;
}

function hashRow(hash: Hash, row: readonly unknown[]): void {
  for (const value of row) {
    let bytes: Buffer;
    if (Buffer.isBuffer(value)) bytes = value;
    else if (typeof value === "number") {
      bytes = Buffer.alloc(8);
      bytes.writeDoubleBE(value);
    } else bytes = Buffer.from(String(value));
    hash.update(`${bytes.length}:`).update(bytes);
  }
  hash.update("\n");
}
