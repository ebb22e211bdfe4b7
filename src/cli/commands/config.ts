import { type ConfigResult, describeConfig, readConfig } from "../../index.ts";
import { defineCommand } from "../command.ts";
import type { Cell } from "../render.ts";

export const config = defineCommand<ConfigResult>({
  name: "config",
  summary: "show every setting and where it comes from",
  description: "Shows every setting and where it comes from: a flag, the environment, the config file, or the default.",
  run: async (_, scope) => describeConfig(await readConfig(scope.sources)),
  async human(result, ui) {
    const rows = result.values.map(({ key, value, origin }): Cell[] => [
      key,
      value === null ? { text: "not set", style: "warn" } : typeof value === "string" ? value : JSON.stringify(value),
      { text: origin === result.file ? "file" : origin, style: origin === "default" ? "quiet" : "strong" },
    ]);
    const file = result.file === null ? "no config file" : `file: ${ui.text(result.file)}`;
    return [await ui.table(rows, { head: ["setting", "value", "from"], shrink: 1 }), "", ui.wrap(file)].join("\n");
  },
});
