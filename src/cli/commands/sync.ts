import type { SyncEvent, SyncResult } from "../../index.ts";
import { change, changing, defineCommand, flag } from "../command.ts";
import { type Cell, duration } from "../render.ts";

const watch = flag("--watch", "stay, and carry over what changes as it changes");

export const sync = defineCommand<SyncResult>({
  name: "sync",
  summary: "carry over what agents have changed since",
  description:
    "Carries what agents wrote since the backfill to the other schema, each change in the transaction that takes it off " +
    "the list. With --watch it stays: exactly one works, others stand by and take over. It yields to the agents, and " +
    "ends cleanly on Ctrl-C or SIGTERM. Where both sides of one aggregate were changed, the side that leads wins and " +
    "both versions are kept (hive kept list).",
  parameters: [watch, ...changing],
  examples: ["hive sync", "hive sync --watch"],
  abortable: true,
  run: async (input, scope) =>
    (await scope.hive()).sync({
      ...change(input, scope),
      watch: input.get(watch),
      onEvent: (event) => scope.io.stderr.write(`${sentence(event)}\n`),
    }),
  async human(result, ui) {
    const rows: Cell[][] = [
      ["carried over", result.applied],
      ["of these, changed on both sides", result.conflicts],
      ["quarantined", result.quarantined],
      ["still waiting", result.remaining],
    ];
    const lines = [await ui.table(rows)];
    if (result.dryRun) lines.push("Nothing was written.");
    if (result.renewed.length > 0) {
      lines.push(
        ui.wrap(`Triggers that were missing were put up again on: ${result.renewed.map(ui.text).join(", ")}`, 2),
      );
    }
    if (result.remaining > 0) lines.push(`The oldest that waits is ${duration(result.lagMs)} old.`);
    if (result.conflicts > 0) lines.push("→ hive kept list shows both versions of what was changed on both sides");
    else if (result.quarantined > 0) lines.push("→ hive quarantine list shows what was left out, and why");
    return lines.join("\n");
  },
});

function sentence(event: SyncEvent): string {
  switch (event.kind) {
    case "working":
      return "Watching: changes are carried over as they come. Ctrl-C ends it.";
    case "standing by":
      return `Standing by: ${event.holder} is at work.`;
    case "waiting":
      return `It has to wait: ${event.reason} It tries again.`;
    case "capture renewed":
      return `Triggers were missing and were put up again on: ${event.tables.join(", ")}.`;
  }
}
