import { resolve } from "node:path";
import {
  HiveError,
  type MigrateCreateResult,
  type MigrateDownResult,
  type MigrateStatusResult,
  type MigrateUpResult,
} from "../../index.ts";
import {
  change,
  changing,
  defineCommand,
  dryRun,
  flag,
  force,
  forced,
  number,
  type Question,
  reason,
  required,
  text,
} from "../command.ts";
import { type Cell, duration, plural, type Ui } from "../render.ts";

const step = number("--step <n>", "at most so many migrations", { integer: true, min: 1 });
const upTo = text("--to <name>", "up to and including this migration");
const downTo = text("--to <name>", "down to and including this migration; 0 is everything");
const allowOutOfOrder = flag("--allow-out-of-order", "also apply migrations older than the newest applied one");
const migrationName = required("<name>", "what it does, e.g. add_customer_index");
const folder = text("--folder <dir>", "where to write it (default: the first folder of the config's migrations)");

export const up = defineCommand<MigrateUpResult>({
  name: "migrate up",
  summary: "apply pending schema migrations",
  description:
    "Applies pending schema migrations: hive's own tables, the unified schema, and yours. Each is one transaction. " +
    "The legacy tables are not touched. Several at once is safe: one applies, the others wait. A SQLite file that is " +
    "not in WAL mode is put into it, for good; the last `hive migrate down` puts it back.",
  parameters: [upTo, step, allowOutOfOrder, ...changing],
  examples: ["hive migrate up --dry-run", "hive migrate up --to 0001_hive_ledger"],
  abortable: true,
  run: async (input, scope) =>
    (await scope.hive()).migrations.up({
      ...change(input, scope),
      to: input.get(upTo),
      step: input.get(step),
      allowOutOfOrder: input.get(allowOutOfOrder),
    }),
  async human(result, ui) {
    if (result.sql) return sqlText(result.sql, ui, "apply");
    const done = [
      ...result.adopted.map((name): Cell[] => [name, { text: "adopted", style: "good" }, "was there already"]),
      ...result.applied.map((one): Cell[] => [one.name, { text: "applied", style: "good" }, duration(one.durationMs)]),
    ];
    const pending = result.pending.length;
    if (done.length === 0 && pending === 0) return "Nothing to apply: the schema is up to date.";
    const journal = result.journalMode
      ? [
          ui.wrap(
            `The file's journal mode was ${result.journalMode.from} and is ${result.journalMode.to} now, for everyone who ` +
              "opens it: readers and writers no longer wait for each other. hive migrate down --to 0 puts it back.",
          ),
        ]
      : [];
    const rest = pending > 0 ? [`${plural(pending, "migration")} still pending. → hive migrate up`] : [];
    return [...(done.length > 0 ? [await ui.table(done, { shrink: 0 })] : []), ...journal, ...rest].join("\n");
  },
});

export const down = defineCommand<MigrateDownResult>({
  name: "migrate down",
  summary: "revert schema migrations",
  description:
    "Reverts schema migrations, the newest one unless told otherwise. Every legacy row stays. It is refused while an " +
    "agent still depends on the unified tables. Before hive's own tables go, the audit log is saved to a file; so " +
    "that needs no confirmation. --force also reverts where rows would be lost that exist nowhere else, and asks.",
  parameters: [downTo, step, force, ...changing],
  examples: ["hive migrate down", "hive migrate down --to 0"],
  abortable: true,
  async confirm(input, scope): Promise<Question | null> {
    if (!forced(input) || input.get(dryRun)) return null;
    const { migrations } = await scope.hive();
    const which = { to: input.get(downTo), step: input.get(step), dryRun: true };
    try {
      await migrations.down(which);
      return null;
    } catch (error) {
      // What only force overrides is what cannot be undone.
      if (!(error instanceof HiveError) || error.code !== "GUARD_REFUSED") throw error;
      const { sql = [] } = await migrations.down({ ...which, force: true, reason: input.get(reason) });
      const names = sql.map(({ name }) => name).join(", ");
      return {
        plan: scope.ui.wrap(scope.ui.text(error.message)),
        question: `Revert ${names} all the same?`,
        details: error.details,
      };
    }
  },
  run: async (input, scope) => {
    const override = forced(input);
    return (await scope.hive()).migrations.down({
      ...change(input, scope),
      to: input.get(downTo),
      step: input.get(step),
      force: override,
    });
  },
  async human(result, ui) {
    if (result.sql) return sqlText(result.sql, ui, "revert");
    if (result.reverted.length === 0) return "Nothing to revert.";
    const rows = result.reverted.map((one): Cell[] => [
      one.name,
      { text: "reverted", style: "good" },
      duration(one.durationMs),
    ]);
    const lines = [await ui.table(rows, { shrink: 0 })];
    if (result.auditSavedTo !== undefined)
      lines.push(ui.wrap(`The audit log was saved to ${ui.text(result.auditSavedTo)}`));
    if (result.keptSavedTo !== undefined)
      lines.push(ui.wrap(`What hive_kept held was saved to ${ui.text(result.keptSavedTo)}`));
    if (result.journalMode) {
      const { from, to } = result.journalMode;
      lines.push(
        from === to
          ? ui.wrap(
              `${ui.paint("warn", `The file's journal mode is still ${from}:`)} somebody else has the file open. Once ` +
                "nobody has, PRAGMA journal_mode = DELETE puts back what it was.",
              2,
            )
          : `The file's journal mode is ${to} again.`,
      );
    }
    lines.push(result.current === null ? "No migration is applied any more." : `Now at ${ui.text(result.current)}.`);
    return lines.join("\n");
  },
});

function sqlText(statements: readonly { name: string; sql: string }[], ui: Ui, verb: string): string {
  if (statements.length === 0) return `Nothing to ${verb}.`;
  // A migration file is the user's own text: its lines stay lines, everything else is made visible.
  return statements
    .map(({ name, sql }) =>
      [ui.paint("quiet", `-- ${name}`), ...sql.trim().split(/\r?\n/).map(codeLine(ui))].join("\n"),
    )
    .join("\n\n");
}

const codeLine = (ui: Ui) => (line: string) => line.split("\t").map(ui.text).join("  ");

export const status = defineCommand<MigrateStatusResult>({
  name: "migrate status",
  summary: "list applied and pending migrations",
  run: async (_, scope) => (await scope.hive()).migrations.status(),
  async human(result, ui) {
    const applied = result.applied.map((one): Cell[] => [
      one.name === result.current && result.head ? `${one.name} (head)` : one.name,
      one.state === "ok"
        ? { text: one.adopted ? "adopted" : "applied", style: "good" }
        : { text: result.newer.includes(one.name) ? "newer" : one.state, style: "bad" },
      one.appliedAt,
    ]);
    const pending = result.pending.map((name): Cell[] => {
      const late = result.outOfOrder.includes(name);
      return [name, late ? { text: "out of order", style: "bad" } : { text: "pending", style: "warn" }, ""];
    });
    const rows = [...applied, ...pending];
    const lines =
      rows.length === 0 ? [] : [await ui.table(rows, { head: ["migration", "state", "applied at"], shrink: 0 })];
    if (result.applied.length === 0) lines.unshift("hive has never touched this database.");
    if (result.applied.some((one) => one.state === "altered")) {
      lines.push(
        ui.wrap("altered: the file is no longer what was applied. Restore it; changes belong in a new migration."),
      );
    }
    if (result.newer.length > 0) {
      lines.push(ui.wrap("newer: a newer hive has been here. Upgrade this one: npm install hive-migrate@latest"));
    }
    if (result.applied.some((one) => one.state === "missing" && !result.newer.includes(one.name))) {
      lines.push(ui.wrap("missing: applied, but its file is gone. Bring it back before migrating further."));
    }
    if (result.outOfOrder.length > 0) lines.push("→ hive migrate up --allow-out-of-order");
    else if (result.pending.length > 0) lines.push("→ hive migrate up");
    return lines.join("\n");
  },
});

export const create = defineCommand<MigrateCreateResult>({
  name: "migrate create",
  summary: "write an empty migration of your own",
  description: "Writes an empty migration of your own, numbered after the ones that exist.",
  parameters: [migrationName, folder],
  run: async (input, scope) => {
    const given = input.get(folder);
    const target = given === undefined ? undefined : resolve(scope.io.cwd, given);
    return (await scope.hive()).migrations.create(input.get(migrationName), target);
  },
  human: (result, ui) =>
    [
      ...result.files.map(ui.text),
      ...(result.addFolder === null
        ? []
        : [
            ui.wrap(
              ui.paint("warn", "The config does not name this folder, so `hive migrate up` does not read it yet. Add:"),
            ),
            `  "migrations": [${ui.text(JSON.stringify(result.addFolder))}]`,
          ]),
      "→ Fill in both sections, then: hive migrate up --dry-run",
    ].join("\n"),
});
