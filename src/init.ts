import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, isAbsolute, join, relative, resolve, sep } from "node:path";
import { HiveError } from "./errors.ts";
import type { InitResult } from "./results.ts";

export interface ConfigSuggestion {
  /** As it would stand in the config. */
  database: string;
  mapping: string;
  /** The database files that the folder holds: the suggestion is the only one of them, or a name to begin with. */
  found: string[];
}

/** What a config in this folder would most likely say. */
export function suggestConfig(folder: string): ConfigSuggestion {
  const found = readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.(db|sqlite|sqlite3)$/i.test(entry.name))
    .map((entry) => entry.name)
    .sort();
  const [only] = found;
  return { database: `sqlite:./${found.length === 1 && only ? only : "hive.db"}`, mapping: "hive", found };
}

export interface InitOptions {
  /** Where to write; its folder is created if need be. */
  file: string;
  /** A path is relative to `cwd` here, and relative to the file in what is written. */
  database: string;
  mapping: string;
  cwd: string;
  /** Replace a file that is there. */
  overwrite?: boolean;
}

/**
 * Writes a config file.
 * @throws CONFIRMATION_NEEDED where there is one already and `overwrite` was not given
 */
export async function initConfig(options: InitOptions): Promise<InitResult> {
  const file = resolve(options.cwd, options.file);
  if (!/\.json$/.test(file)) {
    throw new HiveError("USAGE", `The config is written as JSON, so its name ends in .json: not ${file}.`);
  }
  const folder = dirname(file);
  const schema = "./node_modules/hive-migrate/hive.config.schema.json";
  const content = {
    ...(existsSync(join(folder, schema)) ? { $schema: schema } : {}),
    database: relocate(options.database, options.cwd, folder),
    mapping: /[\\/.]/.test(options.mapping) ? relocate(options.mapping, options.cwd, folder) : options.mapping,
  };
  try {
    mkdirSync(folder, { recursive: true });
    writeFileSync(file, `${JSON.stringify(content, null, 2)}\n`, { flag: options.overwrite ? "w" : "wx" });
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EEXIST") throw alreadyThere(file);
    const why = error instanceof Error ? error.message : String(error);
    throw new HiveError("CONFIG_INVALID", `${file} cannot be written: ${why}.`, {
      hint: "Check the folder's permissions or name another file with --config FILE.",
      cause: error,
    });
  }
  return { file, written: true };
}

function alreadyThere(file: string): HiveError {
  return new HiveError("CONFIRMATION_NEEDED", `${file} exists already; it was left as it is.`, {
    hint: "Run `hive init --force` to replace it.",
    details: { file },
  });
}

/** A path relative to `from`, written as one that is relative to `to`. URLs and absolute paths stay. */
function relocate(value: string, from: string, to: string): string {
  const [, scheme = "", path = value] = /^(sqlite:)?(.*)$/s.exec(value) ?? [];
  if (/^[a-z]+:\/\//.test(value) || isAbsolute(path)) return value;
  const moved = relative(to, resolve(from, path)).split(sep).join("/");
  return `${scheme}${moved.startsWith("../") ? moved : `./${moved}`}`;
}
