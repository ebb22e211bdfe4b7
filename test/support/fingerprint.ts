import { createHash, type Hash } from "node:crypto";
import Database from "better-sqlite3";

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
