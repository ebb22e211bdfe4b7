import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { Settings } from "../config.ts";
import { HiveError } from "../errors.ts";
import type { Dialect } from "../storage/port.ts";
import type { PlatformMapping } from "../sync/mapping.ts";
import { invalid, is, lineAt, type Statement, statements, tokenize } from "./statements.ts";

/** hive's own tables · what the mapping's unified tables need · what the user added. They are applied in this order. */
export type SetKind = "hive" | "mapping" | "user";

export interface MigrationFile {
  /** `0002_unified_schema`: unique over all sets. */
  name: string;
  set: string;
  kind: SetKind;
  path: string;
  text: string;
  checksum: string;
}

export interface MigrationSet {
  /** As it is recorded: `hive`, `mapping:NAME` or `user:FOLDER`. */
  name: string;
  kind: SetKind;
  folder: string;
  /** In the order of their numbers. */
  migrations: MigrationFile[];
}

/** What a migration does, by direction. */
export interface Sections {
  up: string;
  /** Null when there is nothing to run. */
  down: string | null;
  upStatements: Statement[];
}

/** What decides which migrations there are: a Context has it. */
export interface MigrationSources {
  readonly store: { readonly dialect: Pick<Dialect, "name"> };
  readonly mapping: Pick<PlatformMapping, "name" | "migrations">;
  readonly settings: Pick<Settings, "baseDirectory" | "migrations">;
}

export const LEDGER_SET = "hive";

/** The same from src/, from dist/ and in an installed package. */
const LEDGER_FOLDER = fileURLToPath(new URL("../../migrations/", import.meta.url));

const FILE_NAME = /^(\d{4,}_[A-Za-z0-9_-]+)(?:\.(sqlite|postgres))?\.sql$/;

/**
 * All migrations that this hive, the mapping and the config know for the database's dialect, set by set. Reads the
 * files and looks no further into them.
 * @throws CONFIG_INVALID, MAPPING_INVALID for a folder that is not there; MIGRATION_INVALID for a bad file name, a
 * file that is not UTF-8 text, a name used twice
 */
export function loadMigrations(context: MigrationSources): MigrationSet[] {
  const { settings, mapping } = context;
  const dialect = context.store.dialect.name;
  const sets = [loadSet({ name: LEDGER_SET, kind: "hive", folder: LEDGER_FOLDER }, dialect)];
  if (mapping.migrations !== undefined) {
    const folder = folderPath(mapping.migrations, settings.baseDirectory);
    sets.push(loadSet({ name: `mapping:${mapping.name}`, kind: "mapping", folder }, dialect));
  }
  for (const folder of settings.migrations) {
    const path = folderPath(folder, settings.baseDirectory);
    sets.push(loadSet({ name: `user:${folder}`, kind: "user", folder: path }, dialect));
  }
  const seen = new Map<string, MigrationFile>();
  for (const file of sets.flatMap((set) => set.migrations)) {
    const other = seen.get(file.name);
    if (other) {
      throw new HiveError(
        "MIGRATION_INVALID",
        `Two migrations are called ${file.name}: ${other.path} and ${file.path}.`,
        {
          hint: "Rename the one that has not been applied anywhere yet.",
          details: { name: file.name, files: [other.path, file.path] },
        },
      );
    }
    seen.set(file.name, file);
  }
  return sets;
}

/** A folder as the config or a mapping names it: a path, or a file URL. */
export function folderPath(folder: string, base: string): string {
  return resolve(base, folder.startsWith("file:") ? fileURLToPath(folder) : folder);
}

const ledgerNamesByDialect = new Map<Dialect["name"], readonly string[]>();

/** The names of hive's own migrations, without reading the files. */
export function ledgerNames(dialect: Dialect["name"]): readonly string[] {
  let names = ledgerNamesByDialect.get(dialect);
  if (!names) {
    names = listFiles({ name: LEDGER_SET, kind: "hive", folder: LEDGER_FOLDER }, dialect).map((file) => file.name);
    ledgerNamesByDialect.set(dialect, names);
  }
  return names;
}

/** The number of a migration's name: `12` of `0012_more`. */
export function migrationNumber(name: string): number {
  return Number.parseInt(name, 10);
}

/** Where a name stands in its set: by number, then by name. */
export function byNumber(a: string, b: string): number {
  return migrationNumber(a) - migrationNumber(b) || (a < b ? -1 : a > b ? 1 : 0);
}

type Folder = Omit<MigrationSet, "migrations">;

function loadSet(folder: Folder, dialect: Dialect["name"]): MigrationSet {
  const migrations = listFiles(folder, dialect).map(({ name, path }) => {
    const text = readText(path);
    return { name, set: folder.name, kind: folder.kind, path, text, checksum: checksum(text) };
  });
  return { ...folder, migrations };
}

function listFiles(folder: Folder, dialect: Dialect["name"]): { name: string; path: string }[] {
  const files = new Map<string, string>();
  for (const entry of readFolder(folder)) {
    if (!entry.endsWith(".sql")) continue;
    const path = join(folder.folder, entry);
    const match = FILE_NAME.exec(entry);
    const name = match?.[1];
    if (name === undefined) {
      throw new HiveError("MIGRATION_INVALID", `${path} is not called what a migration has to be called.`, {
        hint: "Use NNNN_name.sql, NNNN_name.sqlite.sql or NNNN_name.postgres.sql, with letters, digits, _ and - in the name.",
        details: { file: path },
      });
    }
    if (match?.[2] !== undefined && match[2] !== dialect) continue;
    const other = files.get(name);
    if (other !== undefined) {
      throw new HiveError("MIGRATION_INVALID", `Both ${other} and ${path} are migration ${name}.`, {
        hint: "Keep one of the two.",
        details: { name, files: [other, path] },
      });
    }
    files.set(name, path);
  }
  return [...files].map(([name, path]) => ({ name, path })).sort((a, b) => byNumber(a.name, b.name));
}

function readFolder(folder: Folder): string[] {
  try {
    return readdirSync(folder.folder);
  } catch (cause) {
    const options = { details: { folder: folder.folder }, cause };
    if (folder.kind === "mapping") {
      throw new HiveError("MAPPING_INVALID", `The mapping's migrations folder ${folder.folder} cannot be read.`, {
        hint: "Correct the field `migrations` of the mapping: it is relative to the mapping's module.",
        ...options,
      });
    }
    if (folder.kind === "user") {
      throw new HiveError("CONFIG_INVALID", `The migrations folder ${folder.folder} cannot be read.`, {
        hint: "Correct `migrations` in the config, or make the folder with `hive migrate create NAME`.",
        ...options,
      });
    }
    throw new HiveError("INTERNAL", `hive's own migrations are not at ${folder.folder}.`, {
      hint: "The installation is incomplete: install hive again.",
      ...options,
    });
  }
}

function readText(path: string): string {
  try {
    // Leaves out a byte order mark.
    return new TextDecoder("utf-8", { fatal: true }).decode(readFileSync(path));
  } catch (cause) {
    throw new HiveError("MIGRATION_INVALID", `${path} cannot be read as UTF-8 text.`, {
      hint: "Save it as UTF-8, and check that it may be read.",
      details: { file: path },
      cause,
    });
  }
}

/** SHA-256 of a migration file, the same whatever its line endings and however many blank lines end it. */
export function checksum(text: string): string {
  return createHash("sha256")
    .update(`${text.replaceAll("\r\n", "\n").trimEnd()}\n`)
    .digest("hex");
}

/** Statements that would end or escape the transaction in which a migration and its record are written together. */
const OUTSIDE_A_TRANSACTION: readonly string[] = [
  "BEGIN",
  "START",
  "COMMIT",
  "END",
  "ROLLBACK",
  "ABORT",
  "SAVEPOINT",
  "RELEASE",
  "VACUUM",
  "ATTACH",
  "DETACH",
];

/**
 * The sections of a migration file, their SQL as it stands.
 * @throws MIGRATION_INVALID, naming file and line: no `-- migrate:up` or nothing under it, SQL ahead of it, unknown or
 * repeated sections, an unfinished string, a statement that cannot run in a transaction
 */
export function parseSections(text: string, file: string): Sections {
  interface Marker {
    name: string;
    start: number;
    end: number;
  }
  const markers: Marker[] = [];
  for (const token of tokenize(text, file)) {
    const name = token.kind === "comment" ? /^--\s*migrate:(.*)$/.exec(token.text.trimEnd())?.[1] : undefined;
    if (name !== undefined) {
      const expected = markers.length === 0 ? "up" : "down";
      if (name.trim() !== expected || markers.length === 2) {
        throw invalid(
          file,
          lineAt(text, token.start),
          `"${token.text.trim()}" ${markers.length === 2 ? "is one section too many" : `where \`-- migrate:${expected}\` has to come`}`,
          "A migration has one section `-- migrate:up` and after it at most one `-- migrate:down`.",
        );
      }
      if (text.slice(text.lastIndexOf("\n", token.start - 1) + 1, token.start).trim() !== "") {
        throw invalid(file, lineAt(text, token.start), `"${token.text.trim()}" has to stand on a line of its own`);
      }
      markers.push({ name: expected, start: token.start, end: token.end });
    } else if (markers.length === 0 && token.kind !== "comment") {
      throw invalid(
        file,
        lineAt(text, token.start),
        "there is SQL ahead of `-- migrate:up`",
        "Put it under `-- migrate:up`, or under `-- migrate:down`.",
      );
    }
  }
  const [upMarker, downMarker] = markers;
  if (!upMarker) {
    throw invalid(
      file,
      1,
      "there is no section `-- migrate:up`",
      "`hive migrate create NAME` writes a file that has both sections.",
    );
  }
  const up = text.slice(upMarker.end, downMarker?.start);
  const down = downMarker ? text.slice(downMarker.end) : "";
  const upStatements = allowed(statements(up, file, lineAt(text, upMarker.end)), file);
  if (upStatements.length === 0) {
    throw invalid(
      file,
      lineAt(text, upMarker.start),
      "there is no statement under `-- migrate:up`",
      "Write what the migration does there, or delete the file.",
    );
  }
  const downStatements = downMarker ? allowed(statements(down, file, lineAt(text, downMarker.end)), file) : [];
  // An empty down section says nothing about how to go back: it must not be recorded as having done so.
  return { up: up.trim(), down: downStatements.length > 0 ? down.trim() : null, upStatements };
}

function allowed(found: Statement[], file: string): Statement[] {
  for (const { tokens, line } of found) {
    const first = tokens[0];
    if (is(first, ...OUTSIDE_A_TRANSACTION)) {
      throw invalid(
        file,
        line,
        `${first?.text.toUpperCase()} cannot be part of a migration`,
        "hive runs each migration in one transaction together with its record, and begins and ends it itself.",
      );
    }
    // REFRESH MATERIALIZED VIEW CONCURRENTLY is like any other statement.
    const escapes = tokens.findIndex((token, i) => is(token, "CONCURRENTLY") && is(tokens[i - 1], "INDEX", "TABLE"));
    const concurrent = escapes > 0 && is(first, "CREATE", "DROP", "REINDEX");
    const ofServer = is(first, "CREATE", "DROP", "ALTER") && is(tokens[1], "DATABASE", "TABLESPACE", "SYSTEM");
    if (concurrent || ofServer) {
      const name = ofServer ? `${first?.text} ${tokens[1]?.text}` : `${first?.text} … ${tokens[escapes]?.text}`;
      throw invalid(
        file,
        line,
        `${name.toUpperCase()} cannot run in a transaction`,
        concurrent
          ? "hive runs each migration in one transaction together with its record. Build or drop the index past hive with CONCURRENTLY, and have the migration say CREATE INDEX IF NOT EXISTS or DROP INDEX IF EXISTS."
          : "hive runs each migration in one transaction together with its record: run this statement past hive.",
      );
    }
    if (is(first, "PRAGMA") && tokens.some((token) => is(token, "FOREIGN_KEYS"))) {
      throw invalid(
        file,
        line,
        "PRAGMA foreign_keys does nothing inside a transaction",
        "Each migration runs in one transaction. Use PRAGMA defer_foreign_keys = ON, or order the statements so that no key is broken.",
      );
    }
  }
  return found;
}

/** The sections of a loaded file. */
export function sectionsOf(file: MigrationFile): Sections {
  return parseSections(file.text, file.path);
}

/** `0004` after `0003_more`: the next number of a folder, in which there may be no migration yet. */
export function nextNumber(folder: string): string {
  let highest = 0;
  for (const entry of readdirSync(folder)) {
    const name = FILE_NAME.exec(basename(entry))?.[1];
    if (name !== undefined) highest = Math.max(highest, migrationNumber(name));
  }
  return String(highest + 1).padStart(4, "0");
}
