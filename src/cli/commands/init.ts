import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { HiveError, type InitResult, initConfig, suggestConfig } from "../../index.ts";
import { defineCommand, flag, text } from "../command.ts";

const overwrite = flag("--force", "replace a config that is there already");
const mappingPath = text("--mapping <name>", "hive, or the path of your own mapping module");

export const init = defineCommand<InitResult>({
  name: "init",
  summary: "write a config file",
  description:
    "Writes hive.config.json here, or the file that --config names. Asks for the database and the mapping; --yes " +
    "takes the defaults. A file that is there already is only replaced after asking, or with --force.",
  parameters: [mappingPath, overwrite],
  examples: ["hive init", "hive init --yes --database sqlite:./hive.db"],
  async run(input, scope) {
    const { io, sources, yes, interactive } = scope;
    const file = resolve(io.cwd, sources.flags?.config ?? "hive.config.json");
    const guess = suggestConfig(io.cwd);
    const answers = {
      database: sources.flags?.database ?? (io.env.HIVE_DATABASE || guess.database),
      mapping: input.get(mappingPath) ?? (io.env.HIVE_MAPPING || guess.mapping),
    };
    let replace = input.get(overwrite);
    if (!yes && !interactive) {
      throw new HiveError("CONFIRMATION_NEEDED", "There is nobody to ask for the database and the mapping.", {
        hint: "`hive init --yes` takes the defaults; --database and --mapping change them.",
        details: { file, ...answers },
      });
    }
    if (interactive && !yes) {
      const prompt = await import("../prompt.ts");
      if (existsSync(file) && !replace) {
        replace = await prompt.confirm(io, `${file} exists already. Replace it?`);
        if (!replace) return { file, written: false };
      }
      const said = (value: string) => value.trim() !== "" || "A value is needed.";
      answers.database = await prompt.input(io, "Database (sqlite:PATH or postgres://…)", answers.database, said);
      answers.mapping = await prompt.input(io, "Mapping (hive, or a module's path)", answers.mapping, said);
    }
    return initConfig({ ...answers, file, cwd: io.cwd, overwrite: replace });
  },
  human: (result, ui) =>
    result.written ? `Wrote ${ui.text(result.file)}\n→ hive status` : `${ui.text(result.file)} was left as it is.`,
});
