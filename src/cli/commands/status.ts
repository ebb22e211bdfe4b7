import type { StatusResult } from "../../index.ts";
import { defineCommand } from "../command.ts";
import { type Cell, duration, plural, thousands, type Ui } from "../render.ts";

export const status = defineCommand<StatusResult>({
  name: "status",
  summary: "where the migration stands, and what to do next",
  run: async (_, scope) => (await scope.hive()).status(),
  async human(result, ui) {
    const { database, migrations } = result;
    const phase = result.phase === "none" ? result.phaseName : `${result.phase} (${result.phaseName})`;
    const schema = [
      migrations.current ?? "none",
      migrations.head ? " (head)" : "",
      migrations.pending > 0 ? `, ${plural(migrations.pending, "migration")} pending` : "",
    ].join("");
    const facts: Cell[][] = [
      ["database", database.touched ? database.location : `${database.location} (hive has never touched it)`],
      ["phase", { text: phase, style: "strong" }],
      ["schema", schema],
      ...(result.quarantine > 0
        ? [["quarantine", { text: thousands(result.quarantine), style: "warn" as const }]]
        : []),
    ];
    const sections = [await ui.table(facts)];
    if (result.agents.length > 0) sections.push(await agentTable(result, ui));
    const problems = [...migrations.problems.filter((one) => !result.problems.includes(one)), ...result.problems];
    if (problems.length > 0) {
      sections.push(
        list(
          "Problems",
          problems.map((one) => `${ui.paint("bad", "!")} ${ui.text(one)}`),
          ui,
        ),
      );
    }
    if (result.next.length > 0) {
      const steps = result.next.map(
        (one) => `  → ${ui.paint("strong", one.command)}\n${ui.wrap(`    ${ui.text(one.why)}`, 4)}`,
      );
      sections.push(["Next", ...steps].join("\n"));
    }
    return sections.join("\n\n");
  },
});

function list(title: string, items: readonly string[], ui: Ui): string {
  return [title, ...items.map((item) => ui.wrap(`  ${item}`, 4))].join("\n");
}

function agentTable(result: StatusResult, ui: Ui): Promise<string> {
  const quarantine = result.quarantine > 0;
  return ui.table(
    result.agents.map((one): Cell[] => [
      one.agent,
      { text: one.stage, style: one.stage === "off" ? "quiet" : "strong" },
      one.authority,
      one.events ? { text: "on", style: "good" } : { text: "off", style: "quiet" },
      { text: one.backfill, style: BACKFILL[one.backfill] },
      lastCheck(one.lastCheck),
      ...(quarantine
        ? [{ text: thousands(one.quarantined), style: one.quarantined > 0 ? "warn" : "quiet" } as const]
        : []),
    ]),
    {
      head: ["agent", "stage", "authority", "events", "backfill", "check", ...(quarantine ? ["quarantined"] : [])],
      shrink: 0,
    },
  );
}

const BACKFILL = { none: "quiet", running: "warn", finished: "good", stale: "bad" } as const;

/** In one unit: the table is wide enough as it is. */
function ago(ms: number): string {
  if (ms < 1_000) return "just now";
  const unit = [3_600_000, 60_000, 1_000].find((one) => ms >= one) ?? 1;
  return `${duration(Math.floor(ms / unit) * unit)} ago`;
}

function lastCheck(check: StatusResult["agents"][number]["lastCheck"]): Cell {
  if (check === null) return { text: "never", style: "quiet" };
  const age = ago(check.ageMs);
  if (!check.consistent) return { text: `${thousands(check.drift)} drifted, ${age}`, style: "bad" };
  return check.fresh ? { text: `ok, ${age}`, style: "good" } : { text: `ok but old, ${age}`, style: "warn" };
}
