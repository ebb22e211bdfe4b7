import { createHash } from "node:crypto";
import { join } from "node:path";
import { expect } from "vitest";
import { LEGACY_SCHEMA } from "../../src/presets/hive/sample-schema.ts";
import { temporaryDirectory } from "./context.ts";
import { execute, fillSample, select } from "./legacy-platform.ts";
import { AS_TEXT, type LegacyTypes, legacySchema, NATURAL } from "./legacy-postgres.ts";
import { isPostgres, postgresDatabase, postgresTemplate } from "./postgres.ts";
import { executeSync, type LeftOut } from "./sync-postgres.ts";

/**
 * The databases that hive works on, for tests that hold on each of them: `describe.each(BACKENDS)("$name", …)`.
 * `HIVE_TEST_BACKEND=sqlite` or `postgres` leaves one.
 */

export interface PlaceOptions {
  /**
   * The platform's legacy tables: with PostgreSQL's own types and foreign keys ("natural"), or with JSON and times as
   * text and foreign keys off, which is what every place on SQLite has. Without: an empty database.
   */
  readonly legacy?: "natural" | "text" | LegacyTypes;
  /** Generated rows for them. */
  readonly sample?: { readonly tasks: number; readonly dirt?: boolean; readonly seed?: number };
  /** A script that is run then. */
  readonly rows?: string;
  /** What is done to it last. On PostgreSQL once per run, and copied: all of it has to follow from the name. */
  readonly prepare?: { readonly name: string; readonly make: (url: string) => Promise<unknown> };
}

/** A database of the running test. */
export interface Place {
  /** The path of the file, or the URL. */
  readonly url: string;
  /** Rows of the sample that the tables cannot hold. */
  readonly leftOut: readonly LeftOut[];
  /** As any other process would write: plain SQL, past hive. */
  execute(text: string): void;
  select(text: string): Record<string, unknown>[];
  /**
   * Comes back when what was written before can be told from what comes: on PostgreSQL that takes until every
   * transaction has ended which runs now, in whichever database of the server (`check --changed` looks again at what
   * one of them might have written).
   */
  settled(): Promise<void>;
}

/** Where the two have different words for the same thing. */
export interface Dialect {
  /** The text or number at a path of a JSON column. On PostgreSQL always as text. */
  at(column: string, ...path: string[]): string;
  /** A JSON column of hive's with this text at a key. */
  put(column: string, key: string, text: string): string;
  /** A script that makes a table refuse writes; {@link accept} takes it back. `when` may speak of NEW and OLD. */
  refuse(table: string, on: "INSERT" | "UPDATE" | "DELETE", when: string, message: string): string;
  accept(table: string): string;
  /** A statement that takes away the trigger by which hive notes this. */
  uncapture(table: string, on: "insert" | "update" | "delete"): string;
  /** Queries for the column `name`. */
  readonly tables: string;
  readonly triggers: string;
  /** A query for the column `statement`: what takes away hive's triggers. */
  readonly captureTriggers: string;
}

export interface Backend {
  readonly name: "sqlite" | "postgres";
  readonly dialect: Dialect;
  create(options?: PlaceOptions): Promise<Place>;
}

const quoted = (text: string) => `'${text.replaceAll("'", "''")}'`;

export const placeAt = (url: string, leftOut: readonly LeftOut[] = []): Place => ({
  url,
  leftOut,
  execute: (text) => execute(url, text),
  select: (text) => select(url, text),
  settled: async () => {
    if (!isPostgres(url)) return;
    const now = String(select(url, "SELECT pg_current_xact_id()::text AS xid")[0]?.xid);
    const ended = `SELECT pg_snapshot_xmin(pg_current_snapshot()) > '${now}'::xid8 AS ended`;
    await expect.poll(() => select(url, ended), { timeout: 30_000, interval: 10 }).toEqual([{ ended: true }]);
  },
});

export const sqlite: Backend = {
  name: "sqlite",
  dialect: {
    at: (column, ...path) => `json_extract(${column}, ${quoted(["$", ...path].join("."))})`,
    put: (column, key, text) => `json_set(${column}, ${quoted(`$.${key}`)}, ${quoted(text)})`,
    refuse: (table, on, when, message) =>
      `CREATE TRIGGER refuse_${table} BEFORE ${on} ON ${table} WHEN ${when} BEGIN SELECT RAISE(ABORT, ${quoted(message)}); END`,
    accept: (table) => `DROP TRIGGER refuse_${table}`,
    uncapture: (table, on) => `DROP TRIGGER hive_capture_${table}_${on}`,
    tables: "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name",
    triggers: "SELECT name FROM sqlite_schema WHERE type = 'trigger' ORDER BY name",
    captureTriggers: `SELECT 'DROP TRIGGER "' || name || '"' AS statement FROM sqlite_schema
       WHERE type = 'trigger' AND name LIKE 'hive_capture_%'`,
  },
  create: async ({ legacy, sample, rows, prepare } = {}) => {
    const path = join(temporaryDirectory(), "place.db");
    execute(path, "PRAGMA journal_mode = WAL; CREATE TABLE first (id); DROP TABLE first");
    if (sample) fillSample(path, sample);
    else if (legacy) execute(path, LEGACY_SCHEMA.join(";\n"));
    if (rows) execute(path, rows);
    await prepare?.make(path);
    return placeAt(path);
  },
};

export const postgres: Backend = {
  name: "postgres",
  dialect: {
    at: (column, ...path) => `(${column}::jsonb #>> ${quoted(`{${path.join(",")}}`)})`,
    put: (column, key, text) => `jsonb_set(${column}, ${quoted(`{${key}}`)}, to_jsonb(${quoted(text)}::text))`,
    refuse: (table, on, when, message) =>
      `CREATE FUNCTION refuse_${table}() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION USING MESSAGE = ${quoted(message)}; END $$;
       CREATE TRIGGER refuse_${table} BEFORE ${on} ON ${table} FOR EACH ROW WHEN (${when})
         EXECUTE FUNCTION refuse_${table}()`,
    accept: (table) => `DROP TRIGGER refuse_${table} ON ${table}; DROP FUNCTION refuse_${table}()`,
    uncapture: (table, on) => `DROP TRIGGER hive_capture_${on} ON ${table}`,
    tables: `SELECT tablename AS name FROM pg_tables
       WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY tablename COLLATE "C"`,
    triggers: `SELECT tgname AS name FROM pg_trigger WHERE NOT tgisinternal ORDER BY tgname COLLATE "C"`,
    captureTriggers: `SELECT format('DROP TRIGGER %I ON %s', tgname, tgrelid::regclass) AS statement FROM pg_trigger
       WHERE tgname LIKE 'hive_capture_%'`,
  },
  create: async ({ legacy, sample, rows, prepare } = {}) => {
    const types = legacy === "natural" ? NATURAL : typeof legacy === "object" ? legacy : AS_TEXT;
    const tables = (url: string) => executeSync(url, legacySchema(types).join(";\n"));
    const fill = (url: string) => {
      const leftOut = sample ? fillSample(url, sample) : [];
      if (rows) execute(url, rows);
      return leftOut;
    };
    if (prepare) {
      const hash = createHash("sha256")
        .update(`${templateName(types)} ${prepare.name}`)
        .digest("hex")
        .slice(0, 16);
      const template = await postgresTemplate(hash, async (url) => {
        if (legacy || sample) tables(url);
        fill(url);
        await prepare.make(url);
      });
      return placeAt(await postgresDatabase({ template }));
    }
    const template = legacy || sample ? await postgresTemplate(templateName(types), tables) : undefined;
    const url = await postgresDatabase({ template });
    return placeAt(url, fill(url));
  },
};

const templateName = (types: LegacyTypes): string =>
  Object.values(types)
    .map((value) => String(value).slice(0, 4).trim())
    .join("_");

const only = process.env.HIVE_TEST_BACKEND;
const all = [sqlite, postgres];

export const BACKENDS: readonly Backend[] = all.filter(({ name }) => only === undefined || name === only);
if (BACKENDS.length === 0) throw new Error(`HIVE_TEST_BACKEND is sqlite or postgres, not "${only}"`);
