import type { UniqueColumn } from "../storage/port.ts";
import { PREFIX } from "../storage/triggers.ts";
import type { CapturedKey, CapturedTable, TriggerSpec } from "./capture-triggers.ts";

/**
 * The triggers of a table on SQLite. They run inside the agents' processes: nothing newer than SQLite 3.40, no function
 * that could fail on a value, and nothing but appending to a table without constraints.
 *
 * INSERT OR REPLACE and UPDATE OR REPLACE fire no DELETE trigger for the row that goes (unless the agent switched
 * recursive triggers on): before it, the aggregates of the rows that have the same unique values are noted.
 */
export function sqliteTriggers(table: CapturedTable): TriggerSpec[] {
  const { name, side, keys, shape, unique } = table;
  const made: TriggerSpec[] = [];
  const add = (kind: string, event: string, statements: readonly string[]) => {
    if (statements.length === 0) return;
    // No kind has an underscore: no two tables can come to the same name.
    const trigger = `${PREFIX}${name}_${kind}`;
    const definition = `CREATE TRIGGER ${quoted(trigger)} ${event} ON ${quoted(name)} WHEN NOT EXISTS (SELECT 1 FROM hive_applying) BEGIN ${statements.join(" ")} END`;
    made.push({
      name: trigger,
      table: name,
      definition,
      create: [definition],
      drop: `DROP TRIGGER ${quoted(trigger)}`,
    });
  };
  const into = "INSERT INTO hive_changes (side, source, key, at) SELECT";
  const note = ({ source, root }: CapturedKey, value: string, from: string, conditions: readonly string[]) => {
    const all = root ? conditions : [...conditions, `${value} IS NOT NULL`];
    const where = all.length > 0 ? ` WHERE ${all.join(" AND ")}` : "";
    return `${into} ${literal(side)}, ${literal(source)}, ${value}, julianday('now')${from}${where};`;
  };

  add("insert", "AFTER INSERT", [
    `/* ${shape.replaceAll("*/", "* /")} */`,
    ...keys.map((key) => note(key, `NEW.${quoted(key.column)}`, "", [])),
  ]);
  if (side === "event") return made;
  add(
    "delete",
    "AFTER DELETE",
    keys.map((key) => note(key, `OLD.${quoted(key.column)}`, "", [])),
  );
  add(
    "update",
    "AFTER UPDATE",
    keys.flatMap((key) => {
      const [before, after] = [`OLD.${quoted(key.column)}`, `NEW.${quoted(key.column)}`];
      return [note(key, after, "", []), note(key, before, "", [`${before} COLLATE BINARY IS NOT ${after}`])];
    }),
  );
  const replaced = (moved: (columns: readonly UniqueColumn[]) => readonly string[]) =>
    keys.flatMap((key) => {
      const own = quoted(key.column);
      return unique
        .filter((columns) => !columns.some((one) => one.name === key.column && one.collation === "BINARY"))
        .map((columns) => {
          const same = columns.map((one) => `${quoted(one.name)} COLLATE ${one.collation} = NEW.${quoted(one.name)}`);
          const other = columns.some((one) => one.name === key.column)
            ? [`${own} COLLATE BINARY IS NOT NEW.${own}`]
            : [];
          return note(key, own, ` FROM ${quoted(name)}`, [...moved(columns), ...same, ...other]);
        });
    });
  add(
    "replace",
    "BEFORE INSERT",
    replaced(() => []),
  );
  add(
    "moved",
    "BEFORE UPDATE",
    replaced((columns) => {
      const moved = columns.map((one) => `NEW.${quoted(one.name)} IS NOT OLD.${quoted(one.name)}`).join(" OR ");
      return [`(${moved})`];
    }),
  );
  return made;
}

function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

function literal(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}
