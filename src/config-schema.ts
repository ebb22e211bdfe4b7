import { z } from "zod";
import { nearest } from "./errors.ts";

const agentSettings = z
  .strictObject({
    wave: z
      .number()
      .int()
      .min(1)
      .optional()
      .describe("Agents of wave 1 are advanced first, then wave 2, and so on. `hive status` suggests in this order."),
  })
  .describe("Settings of one agent.");

/** The config file. `hive.config.schema.json` is generated from this; `src/config.ts` has its defaults without zod. */
export const configSchema = z
  .strictObject({
    $schema: z.string().optional().describe("The JSON Schema of this file, for editors."),
    database: z
      .string()
      .min(1)
      .optional()
      .describe("The database that is migrated: `sqlite:./path.db` (relative to this file) or a plain path."),
    mapping: z
      .string()
      .min(1)
      .default("hive")
      .describe("`hive`, or the path of a module (relative to this file) whose default export is a mapping."),
    migrations: z
      .array(z.string().min(1))
      .default([])
      .describe("Folders with your own schema migrations, applied after hive's and the mapping's."),
    agents: z.record(z.string(), agentSettings).default({}).describe("Settings by agent name."),
    lockBudget: z
      .number()
      .gt(0)
      .max(1)
      .default(0.01)
      .describe("The largest share of time that hive holds the write lock while others write: 0.01 is 1 %."),
    busyTimeoutMs: z
      .number()
      .int()
      .min(0)
      .default(10_000)
      .describe("How long a write of hive's waits for the write lock, in milliseconds."),
    lockTimeoutSeconds: z
      .number()
      .min(0)
      .default(60)
      .describe("How long a command waits for another hive that is doing the same, in seconds."),
    checkMaxAgeMinutes: z
      .number()
      .gt(0)
      .default(60)
      .describe("How old a consistent check may be for a stage to be entered that needs one, in minutes."),
  })
  .describe("Configuration of hive: hive.config.json, .hiverc, or the key `hive` in package.json.");

export type ConfigFile = z.input<typeof configSchema>;
export type ConfigValues = z.output<typeof configSchema>;

export interface ConfigProblem {
  /** The setting, e.g. `agents.ai-reviewer.wave`; empty for the file as a whole. */
  key: string;
  what: string;
  /** For an unknown key: the known one that was probably meant. */
  nearest: string | null;
}

/** A person writes JSON or YAML, and knows no records and no ints. */
const WORDS: Readonly<Record<string, string>> = {
  record: "an object",
  object: "an object",
  array: "a list",
  string: "a text",
  number: "a number",
  int: "a whole number",
  boolean: "true or false",
};
const WORD = new RegExp(`\\b(${Object.keys(WORDS).join("|")})\\b`, "g");

/** What is wrong with a value that should be a config, worst first; empty for a good one. */
export function configProblems(value: unknown): ConfigProblem[] {
  const parsed = configSchema.safeParse(value);
  if (parsed.success) return [];
  return parsed.error.issues.flatMap((issue): ConfigProblem[] => {
    const path = issue.path.map(String);
    if (issue.code === "unrecognized_keys") {
      const known = Object.keys(path.length === 0 ? configSchema.shape : agentSettings.shape);
      return issue.keys.map((key) => ({
        key: [...path, key].join("."),
        what: "there is no such setting",
        nearest: nearest(key, known) ?? null,
      }));
    }
    const what = issue.message
      .replace(/^Invalid input: |^Too (small|big): /, "")
      .replace(WORD, (word) => WORDS[word] ?? word);
    return [{ key: path.join("."), what, nearest: null }];
  });
}
