import { createHash } from "node:crypto";
import { PREFIX, triggerDefinition } from "../storage/triggers.ts";
import type { CapturedTable, TriggerSpec } from "./capture-triggers.ts";

const JULIAN_NOW = "(extract(epoch FROM clock_timestamp()) / 86400 + 2440587.5)::double precision";

/**
 * The triggers of a table on PostgreSQL: one for each kind of statement, whose rows it gets as a table, so that a COPY
 * of many rows costs one call. They must not fail the agent's statement, whatever becomes of the table or of hive's own
 * ones: what cannot be noted row by row is noted as a gap of the whole table, and a sync looks at each of its aggregates.
 *
 * They run with the rights of hive's role: agents need none on hive's tables. They notify nobody: NOTIFY makes commits
 * wait for each other, cannot be prepared (PREPARE TRANSACTION), and fails the commit when its queue is full.
 */
export function postgresTriggers(table: CapturedTable): TriggerSpec[] {
  const { name, side, keys, shape } = table;
  const hash = createHash("sha256").update(name).digest("hex").slice(0, 16);
  const routine = `hive."${PREFIX}${hash}"`;
  const into = "INSERT INTO hive.hive_changes (side, source, key, at)";
  const rows = (from: readonly string[]) =>
    keys.map(({ source, column, root }) => {
      const some = from.map((one) => {
        const where = root ? "" : ` WHERE ${quoted(column)} IS NOT NULL`;
        return `SELECT ${quoted(column)}::text AS key FROM ${one}${where}`;
      });
      return `${into} SELECT ${literal(side)}, ${literal(source)}, key, ${JULIAN_NOW} FROM (${some.join(" UNION ")}) AS touched;`;
    });
  const branch = (from: readonly string[]) =>
    rows(from)
      .map((one) => `    ${one}\n`)
      .join("");
  const body = `
BEGIN
  IF TG_OP = 'INSERT' THEN
${branch(["hive_new"])}  ELSIF TG_OP = 'UPDATE' THEN
${branch(["hive_new", "hive_old"])}  ELSIF TG_OP = 'DELETE' THEN
${branch(["hive_old"])}  ELSE
    -- It also takes rows that an older view does not have.
    IF current_setting('transaction_isolation') NOT LIKE 'read %' THEN
      RAISE EXCEPTION 'a view that may be older';
    END IF;
    EXECUTE format(${literal(
      keys
        .map(({ source, column, root }) => {
          const where = root ? "" : ` WHERE ${quoted(column)} IS NOT NULL`;
          return `${into} SELECT DISTINCT ${literal(side)}, ${literal(source)}, ${quoted(column)}::text, ${JULIAN_NOW} FROM %1$I.%2$I${where}`;
        })
        .join("; "),
    )}, TG_TABLE_SCHEMA, TG_TABLE_NAME);
  END IF;
  RETURN NULL;
EXCEPTION WHEN OTHERS THEN
  BEGIN
    INSERT INTO hive.hive_changes (side, source, key, at) VALUES ('gap', ${literal(table.partOf ?? name)}, NULL, ${JULIAN_NOW});
  EXCEPTION WHEN OTHERS THEN
    RAISE LOG 'hive: a change of % was not noted: %', TG_TABLE_NAME, SQLERRM;
  END;
  RETURN NULL;
END
`;
  const create = `CREATE OR REPLACE FUNCTION ${routine}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS ${dollar(body)}`;
  const unmarked = "WHEN (current_setting('hive.applying', true) IS DISTINCT FROM 'on')";
  const kinds = [
    ["insert", "AFTER INSERT", " REFERENCING NEW TABLE AS hive_new"],
    ["update", "AFTER UPDATE", " REFERENCING OLD TABLE AS hive_old NEW TABLE AS hive_new"],
    ["delete", "AFTER DELETE", " REFERENCING OLD TABLE AS hive_old"],
    ["truncate", "BEFORE TRUNCATE", ""],
  ] as const;
  const wanted = side === "event" ? kinds.slice(0, 1) : kinds;
  return wanted.map(([kind, event, referencing]) => {
    const trigger = `${PREFIX}${kind}`;
    const text = `CREATE TRIGGER ${trigger} ${event} ON ${quoted(name)}${referencing} FOR EACH STATEMENT ${unmarked} EXECUTE FUNCTION ${routine}()`;
    // The columns as they were: an altered table is told from one that was not.
    const comment = `${text} /* ${shape} */`;
    return {
      name: trigger,
      table: name,
      definition: triggerDefinition(comment, body, true),
      create: [
        create,
        `REVOKE ALL ON FUNCTION ${routine}() FROM PUBLIC`,
        text,
        `COMMENT ON TRIGGER ${trigger} ON ${quoted(name)} IS ${literal(comment)}`,
      ],
      drop: `DROP TRIGGER ${trigger} ON ${quoted(name)}`,
    };
  });
}

/** The text between marks that do not occur in it. */
function dollar(text: string): string {
  let mark = "$hive$";
  for (let i = 0; text.includes(mark); i++) mark = `$hive${i}$`;
  return `${mark}${text}${mark}`;
}

function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

function literal(text: string): string {
  const plain = `'${text.replaceAll("'", "''")}'`;
  return text.includes("\\") ? ` E${plain.replaceAll("\\", "\\\\")}` : plain;
}
