import { existsSync, readFileSync } from "node:fs";
import { basename, dirname, extname, join, resolve } from "node:path";
import type { ConfigFile, ConfigValues } from "./config-schema.ts";
import { HiveError } from "./errors.ts";
import type { ConfigResult } from "./results.ts";

export type { ConfigFile } from "./config-schema.ts";

/** What an opened hive works with. */
export type Settings = Omit<ConfigValues, "$schema" | "database"> & {
  database: string;
  /** Relative paths of the settings are relative to this folder. */
  baseDirectory: string;
};

type Values = Omit<ConfigValues, "$schema">;
export type SettingKey = keyof Values;

/** The defaults of `configSchema`: loading zod costs as much as starting node does, so the common path goes without. */
export const CONFIG_DEFAULTS: Readonly<Values> = {
  database: undefined,
  mapping: "hive",
  migrations: [],
  agents: {},
  lockBudget: 0.01,
  busyTimeoutMs: 10_000,
  lockTimeoutSeconds: 60,
  checkMaxAgeMinutes: 60,
  events: { retentionDays: 30, subscriberTimeoutHours: 168 },
};

const KEYS: readonly SettingKey[] = [
  "database",
  "mapping",
  "migrations",
  "agents",
  "lockBudget",
  "busyTimeoutMs",
  "lockTimeoutSeconds",
  "checkMaxAgeMinutes",
  "events",
];

/** The settings that an environment variable can give. `HIVE_CONFIG` names the file, `HIVE_ACTOR` who acts. */
export const ENVIRONMENT: Readonly<Partial<Record<SettingKey, string>>> = {
  database: "HIVE_DATABASE",
  mapping: "HIVE_MAPPING",
  lockBudget: "HIVE_LOCK_BUDGET",
  busyTimeoutMs: "HIVE_BUSY_TIMEOUT_MS",
  lockTimeoutSeconds: "HIVE_LOCK_TIMEOUT_SECONDS",
  checkMaxAgeMinutes: "HIVE_CHECK_MAX_AGE_MINUTES",
};

/** Where a config is looked for, in each folder from the working folder upwards; the first one found counts. */
export const CONFIG_PLACES: readonly string[] = [
  "hive.config.json",
  ".hiverc",
  ".hiverc.json",
  ".hiverc.yaml",
  ".hiverc.yml",
  "package.json",
];

export interface ConfigSources {
  /** `--config` and `--database`. */
  flags?: { config?: string | undefined; database?: string | undefined };
  env?: Readonly<Record<string, string | undefined>>;
  /** The working folder: where the search begins, and what paths in flags and environment are relative to. */
  cwd?: string;
}

export interface Config {
  readonly file: string | null;
  readonly values: Readonly<Values>;
  /** Of each value: `flag --database`, `environment HIVE_…`, the path of the file, or `default`. */
  readonly origins: Readonly<Record<SettingKey, string>>;
  readonly baseDirectory: string;
}

export interface LoadedConfig {
  readonly settings: Settings;
  readonly origins: Readonly<Record<SettingKey, string>>;
  readonly file: string | null;
}

/**
 * The settings from flags, environment, config file and defaults, in this order of precedence.
 * @throws CONFIG_INVALID, also where no database is named
 */
export async function loadConfig(sources: ConfigSources = {}): Promise<LoadedConfig> {
  const { file, values, origins, baseDirectory } = await readConfig(sources);
  const { database, ...others } = values;
  if (database === undefined) {
    throw new HiveError("CONFIG_INVALID", "No database is named.", {
      hint: "Name one with --database sqlite:PATH, --database postgres://… or HIVE_DATABASE, or write a config with `hive init`.",
      details: { file },
    });
  }
  return { settings: { ...others, database, baseDirectory }, origins, file };
}

/**
 * As {@link loadConfig}, but a database need not be named: for showing what there is.
 * @throws CONFIG_INVALID
 */
export async function readConfig(sources: ConfigSources = {}): Promise<Config> {
  const env = sources.env ?? process.env;
  const cwd = resolve(sources.cwd ?? process.cwd());
  const found = await findConfig(sources.flags?.config, env, cwd);
  const file = found?.file ?? null;
  const baseDirectory = file === null ? cwd : dirname(file);

  const fromEnv: Partial<ConfigFile> = {};
  for (const key of KEYS) {
    const name = ENVIRONMENT[key];
    const text = name === undefined ? undefined : env[name];
    if (name === undefined || text === undefined || text === "") continue;
    const given = { [key]: typeof CONFIG_DEFAULTS[key] === "number" ? numberOrText(text) : text };
    await validate(given, `environment ${name}`);
    Object.assign(fromEnv, given);
  }
  const fromFlags: Partial<ConfigFile> = {};
  if (sources.flags?.database !== undefined) {
    await validate({ database: sources.flags.database }, "flag --database");
    fromFlags.database = sources.flags.database;
  }
  for (const given of [fromEnv, fromFlags]) {
    if (given.database !== undefined) given.database = databaseFrom(given.database, cwd, baseDirectory);
    if (given.mapping !== undefined) given.mapping = mappingFrom(given.mapping, cwd, baseDirectory);
  }

  const { $schema: _, ...fromFile } = found?.content ?? {};
  const origins = { ...blankOrigins };
  for (const key of KEYS) {
    if (fromFlags[key] !== undefined) origins[key] = `flag --${key}`;
    else if (fromEnv[key] !== undefined) origins[key] = `environment ${ENVIRONMENT[key]}`;
    else if (file !== null && fromFile[key] !== undefined) origins[key] = file;
  }
  const events = { ...CONFIG_DEFAULTS.events, ...withoutUndefined(fromFile.events ?? {}) };
  return {
    file,
    values: { ...CONFIG_DEFAULTS, ...fromFile, ...fromEnv, ...fromFlags, events },
    origins,
    baseDirectory,
  };
}

/** The result of `hive config`: every value and where it came from. A password in the database's URL is left out. */
export function describeConfig(config: Config): ConfigResult {
  return {
    file: config.file,
    values: KEYS.map((key) => {
      const value = key === "database" ? (withoutPassword(config.values.database) ?? null) : config.values[key];
      return { key, value, origin: config.origins[key] };
    }),
  };
}

const blankOrigins: Readonly<Record<SettingKey, string>> = {
  database: "default",
  mapping: "default",
  migrations: "default",
  agents: "default",
  lockBudget: "default",
  busyTimeoutMs: "default",
  lockTimeoutSeconds: "default",
  checkMaxAgeMinutes: "default",
  events: "default",
};

interface FoundConfig {
  file: string;
  content: ConfigFile;
}

async function findConfig(
  flag: string | undefined,
  env: Readonly<Record<string, string | undefined>>,
  cwd: string,
): Promise<FoundConfig | null> {
  const named = flag ?? (env.HIVE_CONFIG === "" ? undefined : env.HIVE_CONFIG);
  if (named !== undefined) {
    const file = resolve(cwd, named);
    if (!existsSync(file)) {
      throw new HiveError("CONFIG_INVALID", `There is no config file at ${file}.`, {
        hint: `It was named by ${flag === undefined ? "HIVE_CONFIG" : "--config"}; \`hive init\` writes one.`,
        details: { file },
      });
    }
    const raw = await parseConfigFile(file);
    if (raw === undefined) {
      throw new HiveError("CONFIG_INVALID", `${file} has no key "hive".`, {
        hint: 'Put the settings under the key "hive" or name another file.',
        details: { file },
      });
    }
    return { file, content: await validate(raw, file) };
  }
  for (let folder = cwd; ; folder = dirname(folder)) {
    for (const place of CONFIG_PLACES) {
      const file = join(folder, place);
      if (!existsSync(file)) continue;
      const raw = await parseConfigFile(file);
      if (raw !== undefined) return { file, content: await validate(raw, file) };
    }
    if (dirname(folder) === folder) return null;
  }
}

/** The content of a config file; undefined for a package.json without the key. Data only: nothing is executed. */
async function parseConfigFile(file: string): Promise<unknown> {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new HiveError("CONFIG_INVALID", `${file} cannot be read: ${messageOf(error)}.`, {
      hint: "A config is a file; check its path and its permissions.",
      details: { file },
      cause: error,
    });
  }
  const extension = extname(file);
  let raw: unknown;
  try {
    // JSON is what `hive init` writes, and needs no library.
    raw = extension === ".json" ? JSON.parse(text) : await parseYaml(file, extension, text);
  } catch (error) {
    const why =
      extension === ".json"
        ? placeInJson(text, messageOf(error))
        : messageOf(error).replace(/^YAML Error in .*:\n/, "");
    throw new HiveError("CONFIG_INVALID", `${file}: ${why}`, {
      hint: PARSED.includes(extension)
        ? `Mend the ${extension === ".json" ? "JSON" : "YAML"}; \`hive config\` shows what hive understands.`
        : "Name another file, or write one with `hive init`.",
      details: { file },
      cause: error,
    });
  }
  if (basename(file) !== "package.json") return raw ?? {};
  return typeof raw === "object" && raw !== null && "hive" in raw ? raw.hive : undefined;
}

/** Files that are read, by extension: `.hiverc` has none. */
const PARSED: readonly string[] = [".json", ".yaml", ".yml", ""];

async function parseYaml(file: string, extension: string, text: string): Promise<unknown> {
  if (!PARSED.includes(extension)) throw new Error(`a config is JSON or YAML, not ${extension}`);
  const { defaultLoadersSync } = await import("cosmiconfig");
  return defaultLoadersSync[".yaml"](file, text);
}

/** V8 tells the offset, people look for a line. Where it tells none, it quotes what it stumbled over. */
function placeInJson(text: string, message: string): string {
  const offset = /at position (\d+)/.exec(message)?.[1] ?? (/end of JSON/.test(message) ? text.length : undefined);
  if (offset === undefined) return message;
  const before = text.slice(0, Number(offset)).split("\n");
  return `line ${before.length}, column ${(before.at(-1)?.length ?? 0) + 1}: ${message}`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The value as a config. Only a bad one costs loading the schema, which then says what is wrong. */
async function validate(value: unknown, origin: string): Promise<ConfigFile> {
  if (isConfigFile(value)) return value;
  const { configProblems } = await import("./config-schema.ts");
  const problems = configProblems(value);
  const [first] = problems;
  if (!first) throw new HiveError("INTERNAL", `The config in ${origin} was refused for no reason.`);
  const place = first.key === "" ? origin : `${origin}: ${first.key}`;
  const guess = first.nearest === null ? "" : `; did you mean "${first.nearest}"?`;
  throw new HiveError("CONFIG_INVALID", `${place}: ${first.what}${guess}`, {
    hint:
      first.what === "there is no such setting"
        ? `The settings are: ${KEYS.join(", ")}.`
        : "hive.config.schema.json describes every setting; `hive config` shows the values in effect.",
    details: { origin, key: first.key, nearest: first.nearest, problems },
  });
}

const isText = (value: unknown): boolean => typeof value === "string" && value !== "";
const isNumber = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);
const isObject = (value: unknown): value is object =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const RULES: { readonly [K in keyof Required<ConfigFile>]: (value: unknown) => boolean } = {
  $schema: (value) => typeof value === "string",
  database: isText,
  mapping: isText,
  migrations: (value) => Array.isArray(value) && value.every(isText),
  agents: (value) => isObject(value) && Object.values(value).every(isAgentSettings),
  lockBudget: (value) => isNumber(value) && value > 0 && value <= 1,
  busyTimeoutMs: (value) => Number.isSafeInteger(value) && isNumber(value) && value >= 0,
  lockTimeoutSeconds: (value) => isNumber(value) && value >= 0,
  checkMaxAgeMinutes: (value) => isNumber(value) && value > 0,
  events: isEventSettings,
};

/** A day: what takes longer does not answer. */
export const LONGEST_MS = 86_400_000;

const isMs = (value: unknown): boolean =>
  Number.isSafeInteger(value) && isNumber(value) && value >= 1 && value <= LONGEST_MS;

const PLACE: { readonly [key: string]: (value: unknown) => boolean } = {
  command: (value) =>
    Array.isArray(value) &&
    value.length > 0 &&
    value.every((one) => isText(one) && typeof one === "string" && isArgument(one)),
  url: (value) => typeof value === "string" && isAgentUrl(value),
  timeoutMs: isMs,
};
const HEALTH = { ...PLACE, heartbeatTimeoutMs: isMs };
const AGENT = {
  ...PLACE,
  wave: (value: unknown) => Number.isSafeInteger(value) && isNumber(value) && value >= 1,
  health: (value: unknown) => isPlace(value, HEALTH),
  events: (value: unknown) => value === "bridge",
};

/** No program takes an argument that holds U+0000. */
export function isArgument(value: string): boolean {
  return !value.includes("\u0000");
}

/** A password belongs in no config that is shown. */
export function isAgentUrl(value: string): boolean {
  if (!URL.canParse(value)) return false;
  const { protocol, username, password } = new URL(value);
  return /^https?:$/.test(protocol) && username === "" && password === "";
}

function isEventSettings(value: unknown): boolean {
  if (!isObject(value)) return false;
  return Object.entries(value).every(
    ([key, item]) => Object.hasOwn(CONFIG_DEFAULTS.events, key) && (item === undefined || (isNumber(item) && item > 0)),
  );
}

function withoutUndefined<T extends object>(value: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, item]) => item !== undefined)) as never;
}

function isAgentSettings(value: unknown): boolean {
  return isPlace(value, AGENT);
}

function isPlace(value: unknown, rules: Readonly<Record<string, (value: unknown) => boolean>>): boolean {
  if (!isObject(value)) return false;
  const given = Object.entries(value).filter(([, item]) => item !== undefined);
  // A key that nobody knows is refused with any value.
  if (Object.keys(value).some((key) => !Object.hasOwn(rules, key))) return false;
  if (given.some(([key]) => key === "command") && given.some(([key]) => key === "url")) return false;
  return given.every(([key, item]) => rules[key]?.(item) === true);
}

/** What `configSchema` accepts, decided without it. A test holds the two against each other. */
export function isConfigFile(value: unknown): value is ConfigFile {
  if (!isObject(value)) return false;
  return Object.entries(value).every(([key, item]) => {
    const rule = Object.entries(RULES).find(([name]) => name === key)?.[1];
    return rule !== undefined && (item === undefined || rule(item));
  });
}

function numberOrText(text: string): number | string {
  const number = Number(text);
  return text.trim() === "" || Number.isNaN(number) ? text : number;
}

/** A relative path is relative to where it was written: made absolute where that is not the folder of the config. */
function databaseFrom(database: string, cwd: string, base: string): string {
  if (cwd === base || /^postgres(ql)?:/.test(database) || database.startsWith("sqlite:///")) return database;
  const path = database.startsWith("sqlite:") ? database.slice("sqlite:".length) : database;
  return `sqlite:${resolve(cwd, path)}`;
}

/** A preset's name is no path: it has neither a folder nor an extension. */
function mappingFrom(mapping: string, cwd: string, base: string): string {
  return cwd === base || mapping.startsWith("file:") || !/[\\/.]/.test(mapping) ? mapping : resolve(cwd, mapping);
}

/** Of a URL that cannot be read nothing is shown: nobody knows where its password is. */
function withoutPassword(database: string | undefined): string | undefined {
  if (database === undefined || !/^[a-z][a-z0-9+.-]+:\/\//i.test(database) || database.startsWith("sqlite:")) {
    return database;
  }
  try {
    const url = new URL(database);
    // What follows such a character in a password would be taken for something that may be shown.
    if (url.hash !== "" || `${url.pathname}${url.search}`.includes("@")) throw new TypeError("unreadable");
    url.password = "";
    for (const name of ["password", "sslpassword"]) url.searchParams.delete(name);
    return url.href;
  } catch {
    return `${database.slice(0, database.indexOf(":"))}://…`;
  }
}
