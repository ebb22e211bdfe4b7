import type { KeptListResult } from "../../index.ts";
import { agentOption, defineCommand, keys, mappingOption, number, some } from "../command.ts";
import { thousands } from "../render.ts";

const limit = number("--limit <n>", "at most so many (default 100)", { integer: true, min: 1 });
const after = number("--after <seq>", "those that come after this one: the next page", { integer: true });

export const list = defineCommand<KeptListResult>({
  name: "kept list",
  summary: "show what hive kept before it took it away",
  description:
    "Shows the whole aggregates that hive kept before it wrote over them or took them away, because the other side " +
    "cannot hold them; the oldest come first. With --json also their rows.",
  parameters: [keys, agentOption, mappingOption, limit, after],
  examples: ["hive kept list", "hive kept list --key task-17 --json"],
  run: async (input, scope) =>
    (await scope.hive()).kept.list({
      keys: some(input.get(keys)),
      agents: some(input.get(agentOption)),
      mapping: input.get(mappingOption),
      limit: input.get(limit),
      after: input.get(after),
    }),
  human(result, ui) {
    if (result.entries.length === 0) return result.total === 0 ? "Nothing was kept." : "No more was kept.";
    const lines = result.entries.map((one) => {
      const where = [one.agent, `${one.side} side`, one.at.replace(/\.\d+Z$/, "Z")].filter((word) => word !== "");
      const name = ui.paint("strong", `${one.mapping} ${one.key}`);
      return `${name}  ${ui.paint("quiet", where.join(", "))}\n${ui.wrap(`  ${ui.text(one.reason)}`, 2)}`;
    });
    const more = result.next === null ? "" : `; hive kept list --after ${result.next} shows the next`;
    lines.push("", ui.wrap(`${thousands(result.total)} kept${more}. → Their rows: hive kept list --json`, 2));
    return lines.join("\n");
  },
});
