import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type Database from "better-sqlite3";
import type { Aggregate, AggregateMapping, DataRow, PlatformMapping } from "../../src/sync/mapping.ts";

/**
 * A small platform with all that is hard: two aggregates that share one unified table and can have the same key, related
 * tables with and without a cascade, a unique column by which rows replace each other, a value that only the unified
 * side can hold and one that it cannot, owners that change.
 *
 * Every value that somebody writes is a number never written before (a mark): in an owner, the number after the colon.
 */

export const AGENTS = ["ann", "bob", "cy"] as const;
export type Agent = (typeof AGENTS)[number];

export const LEGACY_SCHEMA = `
  CREATE TABLE items (id TEXT PRIMARY KEY, owner TEXT NOT NULL, a INTEGER, b INTEGER, tag TEXT UNIQUE, misc);
  CREATE TABLE item_parts (
    id INTEGER PRIMARY KEY,
    item_id TEXT NOT NULL REFERENCES items (id) ON DELETE CASCADE ON UPDATE CASCADE,
    pos INTEGER NOT NULL,
    v INTEGER NOT NULL
  );
  CREATE INDEX item_parts_item ON item_parts (item_id);
  CREATE TABLE item_notes (item_id TEXT NOT NULL, no INTEGER NOT NULL, v INTEGER NOT NULL, PRIMARY KEY (item_id, no));
  CREATE TABLE jobs (id TEXT PRIMARY KEY, owner TEXT NOT NULL, a INTEGER, misc);
`;

const UNIFIED_SCHEMA = `-- migrate:up
CREATE TABLE things (
  id TEXT PRIMARY KEY NOT NULL, kind TEXT NOT NULL, owner TEXT NOT NULL, a INTEGER, b INTEGER, tag TEXT, extra INTEGER
);
CREATE TABLE thing_parts (
  thing_id TEXT NOT NULL REFERENCES things (id) ON DELETE CASCADE, pos INTEGER NOT NULL, v INTEGER NOT NULL,
  PRIMARY KEY (thing_id, pos)
);
CREATE TABLE thing_notes (thing_id TEXT NOT NULL, no INTEGER NOT NULL, v INTEGER NOT NULL, PRIMARY KEY (thing_id, no));
-- migrate:down
DROP TABLE thing_notes;
DROP TABLE thing_parts;
DROP TABLE things;
`;

/** Before and besides everything else; `misc` is no business of the mapping and must stay as it is. */
export const LEGACY_ROWS = `
  INSERT INTO items VALUES
    ('k1', 'ann:1', 2, 3, 't1', NULL), ('k2', 'ann:4', 5, 6, 't2', 1.0), ('k3', 'bob:7', 8, 9, NULL, x'00ff'),
    ('k4', 'bob:10', 11, 12, 't3', '7'), ('k5', 'cy:13', 14, 15, NULL, 7), ('k6', 'cy:16', 17, 18, 't4', 1e300),
    ('s1', 'ann:19', 20, 21, NULL, 0.1), ('s2', 'bob:22', 23, 24, 't9', 9223372036854775807);
  INSERT INTO item_parts VALUES
    (1, 'k1', 1, 25), (2, 'k1', 2, 26), (3, 'k3', 1, 27), (4, 'k5', 1, 28), (5, 's1', 1, 29), (6, 'k6', 3, 30);
  INSERT INTO item_notes VALUES ('k1', 1, 31), ('k4', 1, 32), ('k5', 1, 33), ('s2', 2, 34);
  INSERT INTO jobs VALUES
    ('k6', 'ann:35', 36, NULL), ('k7', 'ann:37', 38, 'x'), ('k8', 'bob:39', 40, NULL), ('j1', 'cy:41', 42, 2.50),
    ('s3', 'cy:43', 44, '');
`;

export const FIRST_MARK = 100;
/** Rows with these keys are touched by nobody. */
export const STILL_KEYS = ["s1", "s2", "s3"] as const;
export const ITEM_KEYS = ["k1", "k2", "k3", "k4", "k5", "k6", "k7", "k9"] as const;
export const JOB_KEYS = ["k5", "k6", "k7", "k8", "j1", "j2"] as const;
export const TAGS = ["t1", "t2", "t3", "t4"] as const;

const RELATED_UNIFIED = [
  { table: "thing_parts", foreignKey: "thing_id", key: ["pos"], columns: integers("thing_id", "pos", "v") },
  { table: "thing_notes", foreignKey: "thing_id", key: ["no"], columns: integers("thing_id", "no", "v") },
] as const;

function integers(id: string, ...others: string[]): { [column: string]: "text" | "integer" } {
  return { [id]: "text", ...Object.fromEntries(others.map((name) => [name, "integer" as const])) };
}

/** As a mapping module of a user would throw it: known by its name. */
class MappingError extends Error {
  override readonly name = "MappingError";
}

const unifiedRoot = {
  table: "things",
  key: "id",
  columns: {
    id: "text",
    kind: "text",
    owner: "text",
    a: "integer",
    b: "integer",
    tag: "text",
    extra: "integer",
  },
} as const;

function ownerOf(rows: readonly DataRow[] | undefined): string {
  return String(rows?.[0]?.owner ?? "").split(":")[0] ?? "";
}

function rows(aggregate: Aggregate, table: string): readonly DataRow[] {
  return aggregate[table] ?? [];
}

function value(row: DataRow | undefined, column: string) {
  return row?.[column] ?? null;
}

function refuseNegative(row: DataRow | undefined): void {
  const a = value(row, "a");
  if (typeof a === "bigint" && a < 0n) throw new MappingError(`a is ${a}: the unified side holds none below 0`);
}

const items: AggregateMapping = {
  name: "items",
  legacy: {
    root: { table: "items", key: "id", columns: ["owner", "a", "b", "tag"] },
    related: [
      { table: "item_parts", foreignKey: "item_id", key: ["pos"], columns: ["pos", "v"], orderBy: ["pos"] },
      { table: "item_notes", foreignKey: "item_id", key: ["no"], columns: ["no", "v"], orderBy: ["no"] },
    ],
  },
  unified: { root: unifiedRoot, related: RELATED_UNIFIED },
  agent: (legacy) => ownerOf(legacy.items),
  unifiedAgent: (unified) => ownerOf(unified.things),
  owns: (unified) => unified.things?.[0]?.kind === "item",
  up: (legacy) => {
    const [row] = rows(legacy, "items");
    refuseNegative(row);
    const id = value(row, "id");
    return {
      things: [
        {
          id,
          kind: "item",
          owner: value(row, "owner"),
          a: value(row, "a"),
          b: value(row, "b"),
          tag: value(row, "tag"),
          extra: null,
        },
      ],
      thing_parts: rows(legacy, "item_parts").map((part) => ({
        thing_id: id,
        pos: value(part, "pos"),
        v: value(part, "v"),
      })),
      thing_notes: rows(legacy, "item_notes").map((note) => ({
        thing_id: id,
        no: value(note, "no"),
        v: value(note, "v"),
      })),
    };
  },
  down: (unified) => {
    const [row] = rows(unified, "things");
    if (value(row, "kind") !== "item") throw new MappingError("it is no item");
    const id = value(row, "id");
    return {
      items: [{ id, owner: value(row, "owner"), a: value(row, "a"), b: value(row, "b"), tag: value(row, "tag") }],
      item_parts: rows(unified, "thing_parts").map((part) => ({
        item_id: id,
        pos: value(part, "pos"),
        v: value(part, "v"),
      })),
      item_notes: rows(unified, "thing_notes").map((note) => ({
        item_id: id,
        no: value(note, "no"),
        v: value(note, "v"),
      })),
    };
  },
};

const jobs: AggregateMapping = {
  name: "jobs",
  legacy: { root: { table: "jobs", key: "id", columns: ["owner", "a"] }, related: [] },
  unified: { root: unifiedRoot, related: RELATED_UNIFIED },
  agent: (legacy) => ownerOf(legacy.jobs),
  unifiedAgent: (unified) => ownerOf(unified.things),
  owns: (unified) => unified.things?.[0]?.kind === "job",
  up: (legacy) => {
    const [row] = rows(legacy, "jobs");
    refuseNegative(row);
    const common = { owner: value(row, "owner"), a: value(row, "a"), b: null, tag: null, extra: null };
    return { things: [{ id: value(row, "id"), kind: "job", ...common }] };
  },
  down: (unified) => {
    const [row] = rows(unified, "things");
    if (value(row, "kind") !== "job") throw new MappingError("it is no job");
    return { jobs: [{ id: value(row, "id"), owner: value(row, "owner"), a: value(row, "a") }] };
  },
};

/** The mapping, with its migrations in a folder that is made for it. */
export function makeMapping(folder: string): PlatformMapping {
  const migrations = join(folder, "migrations");
  mkdirSync(migrations, { recursive: true });
  writeFileSync(join(migrations, "0001_things.sqlite.sql"), UNIFIED_SCHEMA);
  return {
    name: "simulated",
    aggregates: [items, jobs],
    agents: AGENTS.map((name) => ({ name })),
    eventTypes: [],
    migrations,
  };
}

/** What a side says, value by value: `items|k1|a` → 2, `items|k1|part 2` → 26. NULLs are left out. */
export type Registers = ReadonlyMap<string, string | number>;

const LEGACY_REGISTERS = `
  SELECT 'items|' || id || '|owner', owner FROM items
  UNION ALL SELECT 'items|' || id || '|a', a FROM items
  UNION ALL SELECT 'items|' || id || '|b', b FROM items
  UNION ALL SELECT 'items|' || id || '|tag', tag FROM items
  UNION ALL SELECT 'items|' || item_id || '|part ' || pos, v FROM item_parts
  UNION ALL SELECT 'items|' || item_id || '|note ' || no, v FROM item_notes
  UNION ALL SELECT 'jobs|' || id || '|owner', owner FROM jobs
  UNION ALL SELECT 'jobs|' || id || '|a', a FROM jobs`;

const UNIFIED_REGISTERS = `
  SELECT kind || 's|' || id || '|owner', owner FROM things
  UNION ALL SELECT kind || 's|' || id || '|a', a FROM things
  UNION ALL SELECT kind || 's|' || id || '|b', b FROM things
  UNION ALL SELECT kind || 's|' || id || '|tag', tag FROM things
  UNION ALL SELECT kind || 's|' || id || '|extra', extra FROM things
  UNION ALL SELECT coalesce((SELECT kind || 's|' FROM things WHERE id = thing_id), '(none)|') || thing_id || '|part ' || pos, v
    FROM thing_parts
  UNION ALL SELECT coalesce((SELECT kind || 's|' FROM things WHERE id = thing_id), '(none)|') || thing_id || '|note ' || no, v
    FROM thing_notes`;

/** Reads one side through a connection, within its transaction where it has one. */
export class RegisterReader {
  private readonly statements: { readonly legacy: Database.Statement; readonly unified: Database.Statement };

  constructor(db: Database.Database) {
    this.statements = {
      legacy: db.prepare(LEGACY_REGISTERS).raw(),
      unified: db.prepare(UNIFIED_REGISTERS).raw(),
    };
  }

  /** @throws where one side has two values of one thing: the row was doubled. */
  read(side: "legacy" | "unified"): Registers {
    const found = new Map<string, string | number>();
    for (const row of this.statements[side].all()) {
      if (!Array.isArray(row)) continue;
      const [name, now]: unknown[] = row;
      if (typeof name !== "string" || (typeof now !== "string" && typeof now !== "number")) continue;
      if (found.has(name)) throw new Error(`The ${side} side has ${name} twice: ${found.get(name)} and ${now}.`);
      found.set(name, now);
    }
    return found;
  }
}

/** What is written into a register is known by this number. */
export function markOf(content: string | number): number {
  return typeof content === "number" ? Math.abs(content) : Number(content.slice(content.indexOf(":") + 1));
}

export function splitRegister(name: string): { kind: string; key: string; column: string } {
  const [kind = "", key = "", column = ""] = name.split("|");
  return { kind, key, column };
}
