import { HiveError } from "../errors.ts";
import type { Column, Dialect, Session, Store, Table } from "../storage/port.ts";
import { id, sql } from "../storage/sql.ts";
import type { Adoption } from "../sync/mapping.ts";
import type { MigrationFile, Sections } from "./migration-files.ts";
import { is, type Statement, type Token } from "./statements.ts";

/**
 * Adoption: another migration tool has already made the tables of a migration of ours. The shape they must have is read
 * from the CREATE TABLE and CREATE INDEX statements of the migration itself, so that it is written down once, can be
 * compared by a read-only connection, and needs no scratch database.
 */

export interface ExpectedColumn {
  name: string;
  type: string;
  notNull: boolean;
  /** Position in the primary key from 1, or 0. */
  primaryKey: number;
}

export interface ExpectedTable {
  name: string;
  columns: ExpectedColumn[];
  indexes: { name: string; columns: (string | null)[]; unique: boolean; statement: string }[];
}

/** A column of null means the table as a whole. */
export interface Difference {
  table: string;
  column: string | null;
  expected: string;
  actual: string;
}

/** What is to be done with a migration that another tool may have applied. */
export type AdoptionDecision =
  | { kind: "run" }
  | {
      kind: "adopt";
      /** Those the other tool did not make; adopting makes them. */
      missingIndexes: { name: string; statement: string }[];
      /** Tables that have rows already. */
      filled: string[];
    };

/**
 * How the database at hand answers. None of the tables: run the migration. All of them in the expected shape, and the
 * other tool's version says so: adopt. Reads only.
 * @throws SCHEMA_MISMATCH with `details.differences` for anything in between; MAPPING_INVALID when the migration makes
 * no such table
 */
export async function decideAdoption(
  store: Store,
  session: Session,
  adoption: Adoption,
  file: MigrationFile,
  sections: Sections,
): Promise<AdoptionDecision> {
  const expected = expectedTables(sections.upStatements);
  const differences: Difference[] = [];
  const missingIndexes: { name: string; statement: string }[] = [];
  const found: Table[] = [];
  for (const name of adoption.tables) {
    const wanted = expected.get(name);
    if (!wanted) {
      throw new HiveError("MAPPING_INVALID", `The mapping adopts table ${name}, which ${file.path} does not make.`, {
        hint: "List in `adopts` only tables that the migration makes with a plain CREATE TABLE statement.",
        details: { table: name, migration: file.name },
      });
    }
    const table = await store.table(name, session);
    if (!table) {
      differences.push({ table: name, column: null, expected: "the table", actual: "no such table" });
      continue;
    }
    found.push(table);
    differences.push(...compareTable(wanted, table, store.dialect.name));
    for (const index of wanted.indexes) {
      const same = table.indexes.some((one) => one.columns.join("\0") === index.columns.join("\0"));
      if (!same && !table.indexes.some((one) => one.name === index.name)) missingIndexes.push(index);
    }
  }
  if (found.length === 0) return { kind: "run" };
  const known = await versionIsKnown(store, session, adoption);
  if (!known || differences.length > 0) throw mismatch(adoption, file, found, known, differences);
  const filled: string[] = [];
  for (const { name } of found) {
    if ((await session.all(sql`SELECT 1 AS one FROM ${id(name)} LIMIT 1`)).length > 0) filled.push(name);
  }
  return { kind: "adopt", missingIndexes, filled };
}

async function versionIsKnown(store: Store, session: Session, adoption: Adoption): Promise<boolean> {
  const table = await store.table(adoption.table, session);
  if (!table?.columns.some((column) => column.name === adoption.column)) return false;
  const rows = await session.all(
    sql`SELECT 1 AS one FROM ${id(adoption.table)} WHERE ${id(adoption.column)} = ${adoption.version} LIMIT 1`,
  );
  return rows.length > 0;
}

function mismatch(
  adoption: Adoption,
  file: MigrationFile,
  found: readonly Table[],
  known: boolean,
  differences: Difference[],
): HiveError {
  const tables = found.map((table) => table.name).join(", ");
  const list = differences.map(
    (one) =>
      `\n  ${one.table}${one.column === null ? "" : `.${one.column}`}: expected ${one.expected}, found ${one.actual}`,
  );
  const source = `${adoption.table}.${adoption.column}`;
  const why = known
    ? `${source} says that ${file.name} (${adoption.version}) was applied by another tool, but the tables differ from it:`
    : `${tables} exist already, and ${source} does not say that another tool made them as ${adoption.version}${differences.length > 0 ? "; they also differ from it:" : "."}`;
  return new HiveError("SCHEMA_MISMATCH", `${file.name} can be neither applied nor adopted: ${why}${list.join("")}`, {
    hint: known
      ? `Bring the tables to this shape with the tool that made them, or, if nobody needs them, drop ${tables}; then run the command again.`
      : `If nobody needs them, drop or rename ${tables}; if the other tool made them, let it record ${adoption.version}; then run the command again.`,
    details: {
      migration: file.name,
      version: adoption.version,
      versionRecorded: known,
      tables: found.map((t) => t.name),
      differences,
    },
  });
}

/** Where `actual` could not hold the rows that are written for `expected`. Additional nullable columns are fine. */
export function compareTable(expected: ExpectedTable, actual: Table, dialect: Dialect["name"]): Difference[] {
  const differences: Difference[] = [];
  const differs = (column: string | null, wanted: string, found: string) =>
    differences.push({ table: expected.name, column, expected: wanted, actual: found });
  const columns = new Map(actual.columns.map((column) => [column.name, column]));
  for (const column of expected.columns) {
    const other = columns.get(column.name);
    const wanted = describe(column.type, column);
    if (!other) differs(column.name, wanted, "no such column");
    else if (
      typeClass(column.type, dialect) !== typeClass(other.declared, dialect) ||
      column.notNull !== other.notNull ||
      column.primaryKey !== other.primaryKey
    ) {
      differs(column.name, wanted, describe(other.declared, other));
    }
    columns.delete(column.name);
  }
  for (const extra of columns.values()) {
    if (extra.primaryKey > 0 || (extra.notNull && extra.default === null)) {
      differs(extra.name, "no such column", describe(extra.declared, extra));
    }
  }
  const primaryKey = expected.columns.filter((column) => column.primaryKey > 0).map((column) => column.name);
  for (const index of actual.indexes) {
    const allowed = [primaryKey, ...expected.indexes.filter((one) => one.unique).map((one) => one.columns)];
    if (index.unique && !allowed.some((one) => [...one].sort().join("\0") === [...index.columns].sort().join("\0"))) {
      differs(null, "no further unique index", `unique ${index.name} (${index.columns.join(", ")})`);
    }
  }
  return differences;
}

function describe(type: string, column: Pick<Column, "notNull" | "primaryKey">): string {
  const words = [type === "" ? "no type" : type.toUpperCase()];
  if (column.notNull) words.push("NOT NULL");
  if (column.primaryKey > 0) words.push("PRIMARY KEY");
  return words.join(" ");
}

/**
 * Declared types that count as the same. SQLite keeps a value that is text as text under any of CHAR to TIME, also where
 * the affinity is NUMERIC (JSON, DATETIME), unless it reads as a number. PostgreSQL keeps what Alembic makes of
 * `sa.JSON` and `sa.DateTime` as well as what hive makes: json holds the text itself, and a timestamp without a zone is
 * taken for UTC. A smaller integer or an enum would refuse values, so they differ.
 */
const TYPE_CLASSES: { readonly [dialect in Dialect["name"]]: readonly (readonly [RegExp, string])[] } = {
  sqlite: [
    [/INT/, "integer"],
    [/CHAR|TEXT|CLOB|JSON|DATE|TIME/, "text"],
    [/REAL|FLOA|DOUB/, "real"],
    [/BLOB/, "blob"],
    [/NUMERIC|DECIMAL/, "numeric"],
  ],
  postgres: [
    [/^(INTEGER|INT|INT4|BIGINT|INT8)$/, "integer"],
    [/^(TEXT|VARCHAR|CHARACTER VARYING)\b/, "text"],
    [/^JSONB?$/, "json"],
    [/^TIMESTAMP(TZ)?\b/, "time"],
    [/^(DOUBLE PRECISION|FLOAT8)$/, "real"],
    [/^(NUMERIC|DECIMAL)\b/, "numeric"],
  ],
};

function typeClass(declared: string, dialect: Dialect["name"]): string {
  const type = declared.toUpperCase();
  return TYPE_CLASSES[dialect].find(([pattern]) => pattern.test(type))?.[1] ?? type;
}

/** The tables that plain CREATE TABLE and CREATE INDEX statements make; all other statements are passed over. */
export function expectedTables(found: readonly Statement[]): Map<string, ExpectedTable> {
  const tables = new Map<string, ExpectedTable>();
  for (const { tokens, text } of found) {
    if (!is(tokens[0], "CREATE")) continue;
    const unique = is(tokens[1], "UNIQUE");
    const at = unique ? 2 : 1;
    if (is(tokens[at], "TABLE")) {
      const { name, next } = nameAt(tokens, at + 1);
      const definitions = listAt(tokens, next);
      if (definitions) tables.set(name, { name, columns: columnsOf(definitions), indexes: [] });
    } else if (is(tokens[at], "INDEX")) {
      const { name, next } = nameAt(tokens, at + 1);
      const target = nameAt(tokens, next + 1);
      const columns = (listAt(tokens, target.next) ?? []).map((column) =>
        column.length === 1 ? (column[0]?.text ?? null) : null,
      );
      tables.get(target.name)?.indexes.push({ name, columns, unique, statement: text });
    }
  }
  return tables;
}

/** The last part of a name that may follow IF NOT EXISTS and be qualified. */
function nameAt(tokens: readonly Token[], start: number): { name: string; next: number } {
  let at = is(tokens[start], "IF") ? start + 3 : start;
  while (is(tokens[at + 1], ".")) at += 2;
  return { name: tokens[at]?.text ?? "", next: at + 1 };
}

/** What stands between the brackets that open at `start`, split at its own commas. */
function listAt(tokens: readonly Token[], start: number): Token[][] | undefined {
  if (!is(tokens[start], "(")) return undefined;
  const items: Token[][] = [[]];
  let depth = 1;
  for (const token of tokens.slice(start + 1)) {
    if (is(token, "(")) depth += 1;
    if (is(token, ")")) depth -= 1;
    if (depth === 0) return items;
    if (depth === 1 && is(token, ",")) items.push([]);
    else items.at(-1)?.push(token);
  }
  return undefined;
}

const TABLE_CONSTRAINTS = ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"];
const COLUMN_CONSTRAINTS = [
  ...["CONSTRAINT", "PRIMARY", "NOT", "NULL", "UNIQUE", "CHECK", "DEFAULT"],
  ...["COLLATE", "REFERENCES", "GENERATED", "AS"],
];

function columnsOf(definitions: readonly Token[][]): ExpectedColumn[] {
  const columns: ExpectedColumn[] = [];
  for (const tokens of definitions) {
    const keyAt = tokens.findIndex((token, i) => is(token, "PRIMARY") && is(tokens[i + 1], "KEY"));
    if (is(tokens[0], ...TABLE_CONSTRAINTS)) {
      const key = keyAt < 0 ? [] : (listAt(tokens, keyAt + 2) ?? []);
      key.forEach(([first], i) => {
        const column = columns.find((one) => one.name === first?.text);
        if (column) column.primaryKey = i + 1;
      });
      continue;
    }
    const end = tokens.findIndex((token, i) => i > 0 && is(token, ...COLUMN_CONSTRAINTS));
    const type = tokens.slice(1, end < 0 ? undefined : end).map((token) => token.text);
    columns.push({
      name: tokens[0]?.text ?? "",
      type: type.join(" "),
      notNull: tokens.some((token, i) => is(token, "NOT") && is(tokens[i + 1], "NULL")),
      primaryKey: keyAt < 0 ? 0 : 1,
    });
  }
  return columns;
}
