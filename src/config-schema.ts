import { z } from "zod";
import { isAgentUrl, isArgument, LONGEST_MS } from "./config.ts";
import { nearest } from "./errors.ts";

const ONE_PLACE = "has both a `command` and a `url`: give one of them";

/** Where an agent is reached: by one of the two. */
const place = {
  command: z
    .array(z.string().min(1).refine(isArgument, "is no argument: it holds U+0000"))
    .min(1)
    .optional()
    .describe("A program and its arguments, run in the folder of this file; no shell is in between."),
  url: z
    .string()
    .refine(isAgentUrl, "is no http:// or https:// address without user and password")
    .optional()
    .describe("An HTTP endpoint."),
  timeoutMs: z.number().int().min(1).max(LONGEST_MS).optional(),
};

const hasOnePlace = ({ command, url }: { command?: unknown; url?: unknown }) =>
  command === undefined || url === undefined;

const healthSettings = z
  .strictObject({
    ...place,
    timeoutMs: place.timeoutMs.describe("How long the agent may take to say how it is, in milliseconds: 5000."),
    heartbeatTimeoutMs: z
      .number()
      .int()
      .min(1)
      .max(LONGEST_MS)
      .optional()
      .describe("How long after its last heartbeat or check an agent counts as alive, in milliseconds: 120000."),
  })
  .refine(hasOnePlace, ONE_PLACE)
  .describe("How hive asks the agent how it is: a `command` that ends with 0, or a `url` that answers 2xx to a GET.");

const agentSettings = z
  .strictObject({
    wave: z
      .number()
      .int()
      .min(1)
      .optional()
      .describe("Agents of wave 1 are advanced first, then wave 2, and so on. `hive status` suggests in this order."),
    command: place.command.describe(
      "The agent as a program: takes a task as JSON from stdin, gives its answer as JSON to stdout. " +
        "Run in the folder of this file; no shell is in between.",
    ),
    url: place.url.describe("The agent as an HTTP endpoint: takes a task as JSON by POST, answers with JSON."),
    timeoutMs: place.timeoutMs.describe("How long a task may take, in milliseconds: 600000."),
    health: healthSettings.optional(),
    events: z
      .literal("bridge")
      .optional()
      .describe(
        "With agent-adapters on, hive derives this agent's events from its rows. `bridge`: the agent writes the platform's " +
          "own table of events, and hive takes them from there instead.",
      ),
  })
  .refine(hasOnePlace, ONE_PLACE)
  .describe("Settings of one agent.");

/** The defaults stand in `CONFIG_DEFAULTS` too. */
const eventSettings = z
  .strictObject({
    retentionDays: z
      .number()
      .gt(0)
      .default(30)
      .describe("How long events are kept, in days; longer where a live subscriber has not read them yet."),
    subscriberTimeoutHours: z
      .number()
      .gt(0)
      .default(168)
      .describe("How long nobody may run a subscriber before it expires and keeps no events any more, in hours."),
  })
  .describe("Settings of events.");

/** The config file. `hive.config.schema.json` is generated from this; `src/config.ts` has its defaults without zod. */
export const configSchema = z
  .strictObject({
    $schema: z.string().optional().describe("The JSON Schema of this file, for editors."),
    database: z
      .string()
      .min(1)
      .optional()
      .describe(
        "The database that is migrated: `sqlite:./path.db` (relative to this file), a plain path, or " +
          "`postgres://USER@HOST:PORT/DATABASE`. A password is better kept in PGPASSWORD or HIVE_DATABASE.",
      ),
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
      .describe(
        "The largest share of time that hive holds SQLite's write lock while others write: 0.01 is 1 %. Not for PostgreSQL.",
      ),
    busyTimeoutMs: z
      .number()
      .int()
      .min(0)
      .default(10_000)
      .describe(
        "How long a write of hive's waits for others, in milliseconds; on PostgreSQL, all its attempts together.",
      ),
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
    events: eventSettings.prefault({}),
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
      const { shape } = configSchema;
      const inside =
        path[0] === "events" ? eventSettings.shape : path.length === 2 ? agentSettings.shape : healthSettings.shape;
      const known = Object.keys(path.length === 0 ? shape : inside);
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
