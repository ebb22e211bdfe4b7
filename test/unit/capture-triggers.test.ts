import Database from "better-sqlite3";
import { describe, expect, test } from "vitest";
import type { UniqueColumn } from "../../src/storage/port.ts";
import { sqliteTriggers } from "../../src/sync/capture-sqlite.ts";

const NOCASE = (name: string): UniqueColumn => ({ name, collation: "NOCASE" });
const BINARY = (name: string): UniqueColumn => ({ name, collation: "BINARY" });

/** The keys that are noted when these statements run on a captured table. */
function noted(create: string, key: string, unique: readonly UniqueColumn[][], before: string, statement: string) {
  const db = new Database(":memory:");
  db.exec("CREATE TABLE hive_changes (seq INTEGER PRIMARY KEY, side, source, key, at); CREATE TABLE hive_applying (x)");
  db.exec(`${create}; ${before}`);
  const table = { name: "t", side: "legacy" as const, keys: [{ source: "u", column: key, root: false }], shape: "*/" };
  for (const { definition } of sqliteTriggers({ ...table, unique })) db.exec(definition);
  db.exec(statement);
  const keys = db.prepare("SELECT DISTINCT key FROM hive_changes ORDER BY key").pluck().all();
  db.close();
  return keys;
}

describe("a row that takes the place of another one", () => {
  test("by a value that is the same only in the index's collation", () => {
    const create =
      "CREATE TABLE t (id TEXT PRIMARY KEY, owner TEXT, name TEXT); CREATE UNIQUE INDEX n ON t (name COLLATE NOCASE)";
    const before = "INSERT INTO t VALUES ('1', 'old', 'Ada')";
    const unique = [[BINARY("id")], [NOCASE("name")]];
    expect(noted(create, "owner", unique, before, "INSERT OR REPLACE INTO t VALUES ('2', 'new', 'ADA')")).toEqual([
      "new",
      "old",
    ]);
    expect(noted(create, "owner", unique, before, "INSERT INTO t VALUES ('2', 'new', 'Eve')")).toEqual(["new"]);
  });

  test("by a key that is the same only in its collation", () => {
    const create = "CREATE TABLE t (id TEXT PRIMARY KEY COLLATE NOCASE, body TEXT)";
    const before = "INSERT INTO t VALUES ('a', '')";
    expect(noted(create, "id", [[NOCASE("id")]], before, "INSERT OR REPLACE INTO t VALUES ('A', '')")).toEqual([
      "A",
      "a",
    ]);
  });
});

test("no two tables have triggers of one name", () => {
  const names = ["t", "t_replace", "t_moved", "t_update"].flatMap((name) =>
    sqliteTriggers({
      ...{ name, side: "legacy", shape: "", unique: [[BINARY("id")]] },
      keys: [{ source: "u", column: "owner", root: false }],
    }).map((one) => one.name),
  );
  expect(names).toHaveLength(20);
  expect(new Set(names).size).toBe(20);
});
