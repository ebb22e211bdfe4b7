import type { Dialect, Trigger } from "./port.ts";

/** Capture triggers as databases keep them: what those who make them and those who read them have to agree on. */

/** With which the names of all of them begin. */
export const PREFIX = "hive_capture_";

/** What takes this trigger away. */
export function dropTrigger(dialect: Pick<Dialect, "name">, { name, table }: Pick<Trigger, "name" | "table">): string {
  const quoted = (text: string) => `"${text.replaceAll('"', '""')}"`;
  return `DROP TRIGGER ${quoted(name)}${dialect.name === "postgres" ? ` ON ${quoted(table)}` : ""}`;
}

/** What PostgreSQL's triggers are compared by: their comment, the body of their function, and whether they fire. */
export function triggerDefinition(comment: string, body: string, enabled: boolean): string {
  return `${comment}\n${body}${enabled ? "" : "\n(disabled)"}`;
}
