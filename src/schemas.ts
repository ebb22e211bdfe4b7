import { z } from "zod";
import { configSchema } from "./config-schema.ts";
import { RESULTS } from "./results.ts";

export { configSchema, RESULTS };

/** The JSON Schemas that are kept in the repository, by file. `npm run schemas` writes them, a test compares them. */
export function jsonSchemas(): { [file: string]: object } {
  const files: { [file: string]: object } = {
    "hive.config.schema.json": { title: "hive config", ...z.toJSONSchema(configSchema, { io: "input" }) },
  };
  for (const [command, schema] of Object.entries(RESULTS)) {
    const file = `docs/schemas/${command.replaceAll(" ", "-")}.json`;
    files[file] = { title: `result of hive ${command}`, ...z.toJSONSchema(schema) };
  }
  return files;
}
