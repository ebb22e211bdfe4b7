import type { VerifyResult } from "../../index.ts";
import { defineCommand } from "../command.ts";
import { type Cell, plural } from "../render.ts";

export const verify = defineCommand<VerifyResult>({
  name: "verify",
  summary: "check that hive's tables, agents and event types are all there",
  description:
    "Checks that everything is there that the migration needs: tables and columns, hive's own tables, agents, " +
    "event types, the config. Exits with 3 if something is not.",
  run: async (_, scope) => (await scope.hive()).verify(),
  async human(result, ui) {
    const rows = result.checks.map((one): Cell[] => [
      one.ok ? { text: "ok", style: "good" } : { text: "FAILED", style: "bad" },
      one.name,
      one.detail,
    ]);
    const failed = result.checks.filter((one) => !one.ok);
    const own = result.tables.filter((table) => table.startsWith("hive_"));
    const counts = [
      plural(result.agents, "agent"),
      plural(result.agentTypes, "agent type"),
      plural(result.capabilities, "capability", "capabilities"),
      plural(result.eventTypes, "event type"),
      plural(own.length, "table of hive's own", "tables of hive's own"),
      plural(result.tables.length - own.length, "unified table"),
    ];
    return [
      await ui.table(rows),
      // The table may have cut what is wrong.
      ...failed.map((one) => ui.wrap(`${ui.paint("bad", `${one.name}:`)} ${ui.text(one.detail)}`, 2)),
      "",
      ui.wrap(counts.join(" · ")),
      result.ok
        ? ui.paint("good", "Everything is in place.")
        : `${ui.paint("bad", `${plural(failed.length, "check")} failed.`)} → hive status says what to do next.`,
    ].join("\n");
  },
  exit: (result) => (result.ok ? 0 : 3),
});
