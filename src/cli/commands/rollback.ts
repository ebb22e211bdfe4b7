import { type RollbackResult, STAGES } from "../../index.ts";
import {
  agentOption,
  change,
  changing,
  choice,
  defineCommand,
  dryRun,
  type Input,
  type Scope,
  some,
} from "../command.ts";
import { type Cell, plural, thousands, type Ui } from "../render.ts";

const to = choice("--to <stage>", "the stage to go back to (default off)", STAGES);

export const rollback = defineCommand<RollbackResult>({
  name: "rollback",
  summary: "take agents back to an earlier stage, losing nothing",
  description:
    "Takes agents back, all of them or those named, to off or to the stage named. What was written on the unified " +
    "side is projected to the legacy tables first, so that nothing is lost. Shows its plan and asks.",
  parameters: [agentOption, to, ...changing],
  examples: ["hive rollback --dry-run", 'hive rollback --agent ai-reviewer --to shadow --reason "wrong scores"'],
  abortable: true,
  async confirm(input, scope) {
    if (input.get(dryRun)) return null;
    const plan = await perform(input, scope, true);
    if (plan.steps.length === 0) return null;
    const names = new Set(plan.steps.map((step) => step.agent));
    return {
      plan: await planText(plan, scope.ui),
      question: `Take ${plural(names.size, "agent")} back to ${plan.stage}?`,
      details: { steps: plan.steps },
    };
  },
  run: (input, scope) => perform(input, scope, input.get(dryRun)),
  async human(result, ui) {
    if (result.steps.length === 0) return `Nothing to take back: at ${result.stage} already.`;
    const lines = [await planText(result, ui)];
    if (!result.dryRun) lines.push(ui.paint("good", `Back at ${result.stage}.`));
    if (result.quarantined > 0) lines.push("→ hive quarantine list");
    if (result.kept > 0 && !result.dryRun) lines.push("→ hive kept list");
    return lines.join("\n");
  },
});

async function perform(input: Input, scope: Scope, plan: boolean): Promise<RollbackResult> {
  const hive = await scope.hive();
  const options = { ...change(input, scope), agents: some(input.get(agentOption)), to: input.get(to) };
  return hive.rollback({ ...options, dryRun: plan });
}

async function planText(result: RollbackResult, ui: Ui): Promise<string> {
  const rows = result.steps.map((step): Cell[] => [
    step.agent,
    step.action,
    step.from,
    "→",
    { text: step.to, style: "strong" },
  ]);
  const will = result.dryRun ? "would be " : "";
  const lines = [result.dryRun ? "Plan:" : "Done:", await ui.table(rows, { indent: 2, shrink: 1 })];
  const counts: [number, string][] = [
    [result.projectedDown, `${will}written back to the legacy tables`],
    [result.kept, `with values that the legacy tables cannot hold: ${will}kept whole in hive_kept`],
    [result.quarantined, `${will}quarantined`],
  ];
  for (const [count, what] of counts) if (count > 0) lines.push(ui.wrap(`${thousands(count)} ${what}`, 2));
  return lines.join("\n");
}
