import type pg from "pg";
import { HiveError } from "../errors.ts";
import type { Column, Session, Table, Trigger } from "./port.ts";
import { columnType, LEDGER_SCHEMA, quoted } from "./postgres-connection.ts";
import { groupBy } from "./rows.ts";
import { type Sql, sql } from "./sql.ts";
import { triggerDefinition } from "./triggers.ts";

/** What the server's catalogue says of tables. */

/** hive's own tables. */
export const HIVE_TABLES: readonly string[] = [
  ...["hive_agent_health", "hive_agents", "hive_audit", "hive_backfill", "hive_bases", "hive_behind", "hive_changes"],
  ...["hive_checked", "hive_checks", "hive_dead_letters", "hive_deliveries", "hive_event_numbers"],
  ...["hive_event_states", "hive_event_types", "hive_events", "hive_flags", "hive_gaps", "hive_kept", "hive_locks"],
  ...["hive_metrics", "hive_migrations", "hive_mismatches", "hive_quarantine", "hive_rollout", "hive_subscribers"],
  ...["hive_work", "hive_written"],
];

/** A table of the user's that is called like one of hive's would be taken for it: his schemas come first. */
export async function refuseShadows(client: pg.ClientBase, location: string): Promise<void> {
  const { rows } = await client.query<{ name: string }>(
    `SELECT n.nspname || '.' || c.relname AS name FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relname = ANY ($1) AND n.nspname = ANY (current_schemas(false)) AND n.nspname <> $2 ORDER BY name`,
    [HIVE_TABLES, LEDGER_SCHEMA],
  );
  if (rows.length === 0) return;
  const tables = rows.map(({ name }) => name);
  throw new HiveError("CONFIG_INVALID", `${location} has what hive would take for its own: ${tables.join(", ")}.`, {
    hint: `hive's tables stand in the schema "${LEDGER_SCHEMA}". Rename these, or leave their schema out of the search_path of hive's role.`,
    details: { tables },
  });
}

export async function readTable(session: Session, name: string): Promise<Table | null> {
  const relation = sql`to_regclass(${quoted(name)})`;
  const columns = sql`SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS declared,
      coalesce(b.typname, t.typname) AS type, a.attnotnull AS "notNull", pg_get_expr(d.adbin, d.adrelid) AS "default",
      coalesce(array_position(p.conkey, a.attnum), 0) AS "primaryKey"
    FROM pg_attribute AS a
    JOIN pg_class AS c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'f')
    JOIN pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN pg_type AS b ON b.oid = t.typbasetype
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    LEFT JOIN pg_constraint AS p ON p.conrelid = a.attrelid AND p.contype = 'p'
    WHERE a.attrelid = ${relation} AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    ORDER BY a.attnum`;
  const foreign = sql`SELECT o.conname AS name, a.attname AS source, f.relname AS target, r.attname AS reference,
      o.confdeltype AS "onDelete"
    FROM pg_constraint AS o
    CROSS JOIN LATERAL unnest(o.conkey, o.confkey) WITH ORDINALITY AS k (source, reference, place)
    JOIN pg_attribute AS a ON a.attrelid = o.conrelid AND a.attnum = k.source
    JOIN pg_class AS f ON f.oid = o.confrelid
    JOIN pg_attribute AS r ON r.attrelid = o.confrelid AND r.attnum = k.reference
    WHERE o.conrelid = ${relation} AND o.contype = 'f' ORDER BY o.conname, k.place`;
  const indexes = sql`SELECT c.relname AS name, i.indisunique AS "unique", i.indpred IS NOT NULL AS partial,
      a.attname AS "column"
    FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
    CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attribute, place)
    LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attribute AND k.attribute > 0
    WHERE i.indrelid = ${relation} AND i.indisvalid AND k.place <= i.indnkeyatts ORDER BY c.relname, k.place`;
  const parts = sql`WITH RECURSIVE heirs AS (
      SELECT inhrelid AS oid FROM pg_inherits WHERE inhparent = ${relation}
      UNION SELECT i.inhrelid FROM pg_inherits AS i JOIN heirs ON i.inhparent = heirs.oid)
    SELECT c.relname AS name FROM heirs JOIN pg_class AS c ON c.oid = heirs.oid
    WHERE c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) ORDER BY c.relname`;
  const list = (query: Sql) => sql`(SELECT json_agg(to_json(one)) FROM (${query}) AS one)`;
  const [row] = await session.tuples(sql`SELECT ${list(columns)}, ${list(foreign)}, ${list(indexes)}, ${list(parts)}`);
  const [found, references, keys, heirs] = (row ?? []).map((text) =>
    JSON.parse(typeof text === "string" ? text : "[]"),
  );
  return found.length === 0 ? null : described(name, found, references, keys, heirs);
}

interface ColumnRow extends Omit<Column, "type"> {
  readonly type: string;
}

interface ForeignRow {
  readonly name: string;
  readonly source: string;
  readonly target: string;
  readonly reference: string;
  readonly onDelete: string;
}

interface IndexRow {
  readonly name: string;
  readonly unique: boolean;
  readonly partial: boolean;
  readonly column: string | null;
}

function described(
  name: string,
  columns: readonly ColumnRow[],
  foreign: readonly ForeignRow[],
  indexes: readonly IndexRow[],
  parts: readonly { readonly name: string }[],
): Table {
  return {
    name,
    columns: columns.map((column) => ({ ...column, type: columnType(column.type) })),
    foreignKeys: groupBy(foreign, (row) => row.name).map((rows) => ({
      columns: rows.map((row) => row.source),
      table: String(rows[0]?.target),
      references: rows.map((row) => row.reference),
      onDelete: ON_DELETE.get(String(rows[0]?.onDelete)) ?? "NO ACTION",
    })),
    indexes: groupBy(indexes, (row) => row.name)
      .filter((rows) => rows[0]?.partial === false)
      .map((rows) => ({
        name: String(rows[0]?.name),
        columns: rows.map((row) => row.column),
        unique: rows[0]?.unique === true,
      })),
    // No statement of PostgreSQL puts a row in the place of another one: an upsert updates it.
    unique: [],
    parts: parts.map((row) => String(row.name)),
  };
}

const ON_DELETE: ReadonlyMap<string, string> = new Map([
  ["a", "NO ACTION"],
  ["r", "RESTRICT"],
  ["c", "CASCADE"],
  ["n", "SET NULL"],
  ["d", "SET DEFAULT"],
]);

/** Of the schemas that a name is looked for in. */
export async function readTables(session: Session): Promise<string[]> {
  const rows = await session.all(
    sql`SELECT DISTINCT c.relname AS name FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND n.nspname = ANY (current_schemas(false)) AND pg_table_is_visible(c.oid)`,
  );
  return rows.map((row) => String(row.name)).sort();
}

/**
 * The definition is the comment that hive gives a trigger, with the body of its function as it is: whoever alters either
 * is found out.
 */
export async function readTriggers(session: Session, prefix: string): Promise<Trigger[]> {
  const rows = await session.all(
    sql`SELECT t.tgname AS name, c.relname AS table_name, t.tgenabled AS enabled, f.prosrc AS body,
          obj_description(t.oid, 'pg_trigger') AS comment, n.nspname AS schema, pg_table_is_visible(c.oid) AS visible
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_proc AS f ON f.oid = t.tgfoid
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND starts_with(t.tgname, ${prefix})
        ORDER BY c.relname, t.tgname`,
  );
  for (const { name, table_name, schema, visible } of rows) {
    if (visible === 1) continue;
    // Its notes would be taken for those of the table that this name means now.
    const table = `${schema}.${table_name}`;
    throw new HiveError(
      "SCHEMA_MISMATCH",
      `The trigger ${name} stands on ${table}, which the search_path does not lead to.`,
      {
        hint: `Two tables of one name, or one that was moved? Mend the search_path of hive's role, or DROP TRIGGER ${name} ON ${table}.`,
        details: { trigger: String(name), table },
      },
    );
  }
  return rows.map((row) => ({
    name: String(row.name),
    table: String(row.table_name),
    definition: triggerDefinition(String(row.comment), String(row.body), row.enabled === "O"),
  }));
}

export interface Fingerprint {
  /** What the one who looked could see. */
  readonly snapshot: string;
  readonly print: string;
}

/**
 * Differs after any change of a table, a column, an index or a trigger in the schemas of the search_path. `last`: the
 * result of an earlier look, which still holds while nobody has committed anything.
 */
export async function schemaFingerprint(session: Session, last?: Fingerprint): Promise<Fingerprint> {
  // Each row of the catalogue by what it is and the transaction that wrote it; the place, since one may write it twice.
  const print = (what: Sql) =>
    sql`count(*) || ' ' || sum(hash_array_extended(ARRAY[one.xmin], ${what}) # hashtid(one.ctid))`;
  const [row] = await session.all(
    sql`SELECT pg_current_snapshot()::text AS snapshot, pg_current_xact_id_if_assigned() IS NULL AS unwritten,
        CASE WHEN pg_current_snapshot()::text = ${last?.snapshot ?? ""} AND pg_current_xact_id_if_assigned() IS NULL THEN NULL
        ELSE (
          WITH relation AS MATERIALIZED (
            SELECT c.oid, c.relkind, c.xmin, c.ctid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p', 'i', 'I') AND n.nspname = ANY (current_schemas(false)))
          SELECT concat_ws(' ',
            (SELECT ${print(sql`one.oid::int8`)} FROM relation AS one),
            (SELECT ${print(sql`one.attrelid::int8 * 4096 + one.attnum`)} FROM pg_attribute AS one
              JOIN relation ON relation.oid = one.attrelid AND relation.relkind IN ('r', 'p') WHERE one.attnum > 0),
            (SELECT ${print(sql`one.oid::int8`)} FROM pg_trigger AS one JOIN relation ON relation.oid = one.tgrelid))
        ) END AS print`,
  );
  if (last !== undefined && row?.print === null) return last;
  // One's own changes are not told from each other by what others can be seen to have done.
  return { snapshot: row?.unwritten === 1 ? String(row.snapshot) : "", print: String(row?.print) };
}
