import type { BackfillResult } from "../../index.ts";
import { agents, change, changing, defineCommand, some } from "../command.ts";
import { type Cell, duration, plural, thousands } from "../render.ts";

export const backfill = defineCommand<BackfillResult>({
  name: "backfill",
  summary: "bring what existed before into the unified schema",
  description:
    "Brings what existed before into the unified schema, of all agents or of those named. It continues where it was " +
    "interrupted, leaves alone what is already right, and yields to other writers. What cannot be mapped is " +
    "quarantined with its reason; the rest goes on.",
  parameters: [agents, ...changing],
  examples: ["hive backfill", "hive backfill ai-reviewer --dry-run"],
  abortable: true,
  run: async (input, scope) =>
    (await scope.hive()).backfill({ ...change(input, scope), agents: some(input.get(agents)) }),
  async human(result, ui) {
    const { written, unchanged, quarantined, total } = result.aggregates;
    const rows: Cell[][] = [
      [result.dryRun ? "would be written" : "written", written],
      ["already right", unchanged],
      ["quarantined", quarantined],
      ["total", total],
    ];
    const lines = [await ui.table(rows)];
    const rate = `${plural(result.agents.length, "agent")}, ${duration(result.seconds * 1000)}, ${thousands(Math.round(result.perSecond))}/s`;
    lines.push(result.resumed ? `${rate}, resumed` : rate);
    if (result.missingColumns.length > 0) {
      lines.push(
        ui.wrap(
          `Columns that the legacy tables lack (read as NULL): ${result.missingColumns.map(ui.text).join(", ")}`,
          2,
        ),
      );
    }
    if (result.dryRun) lines.push("Nothing was written.");
    else lines.push(quarantined > 0 ? "→ hive quarantine list shows what was left out, and why" : "→ hive check");
    return lines.join("\n");
  },
});
