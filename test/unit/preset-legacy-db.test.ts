import { deepStrictEqual } from "node:assert";
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hivePreset } from "../../src/presets/hive/index.ts";
import { type Aggregate, type AggregateMapping, type DataRow, MappingError } from "../../src/sync/mapping.ts";
import { legacyDatabase } from "../support/legacy-db.ts";

const packed = legacyDatabase();

describe.skipIf(packed === null)("every aggregate of the real legacy database", () => {
  const folder = mkdtempSync(join(tmpdir(), "hive-preset-"));
  const path = join(folder, "legacy.db");
  let database: Database.Database;
  beforeAll(() => {
    copyFileSync(packed ?? "", path);
    database = new Database(path, { readonly: true });
    database.defaultSafeIntegers(true);
  });
  afterAll(() => {
    database.close();
    rmSync(folder, { recursive: true });
  });

  function rows(query: string): DataRow[] {
    return database.prepare<[], DataRow>(query).all();
  }

  function aggregates(mapping: AggregateMapping): Aggregate[] {
    const { root, related } = mapping.legacy;
    const children = related.map(({ table, foreignKey, columns, orderBy }) => {
      const byKey = new Map<unknown, DataRow[]>();
      for (const row of rows(
        `SELECT ${foreignKey}, ${columns.join(", ")} FROM ${table} ORDER BY ${orderBy.join(", ")}`,
      )) {
        const { [foreignKey]: key, ...rest } = row;
        byKey.set(key, [...(byKey.get(key) ?? []), rest]);
      }
      return { table, byKey };
    });
    return rows(`SELECT * FROM ${root.table}`).map((row) => {
      const aggregate: { [table: string]: DataRow[] } = { [root.table]: [row] };
      for (const { table, byKey } of children) aggregate[table] = byKey.get(row[root.key]) ?? [];
      return aggregate;
    });
  }

  test.each(hivePreset.aggregates)("$name goes up and comes back down as it was", (mapping) => {
    const { table } = mapping.legacy.root;
    const refused: string[] = [];
    let mapped = 0;
    for (const legacy of aggregates(mapping)) {
      try {
        const unified = mapping.up(legacy);
        deepStrictEqual(mapping.down(unified, null), { [table]: legacy[table] });
        deepStrictEqual(mapping.down(unified, legacy), { [table]: legacy[table] });
        expect(mapping.unifiedAgent(unified)).toBe(mapping.agent(legacy));
        mapped++;
      } catch (error) {
        if (!(error instanceof MappingError)) throw error;
        refused.push(error.message);
      }
    }
    expect({ mapped, refused: refused.length }).toEqual(
      { tasks: { mapped: 5287, refused: 1 }, planning_queue: { mapped: 800, refused: 0 } }[mapping.name] ?? {
        mapped: 693,
        refused: 0,
      },
    );
    // The one planted row that cannot be moved.
    if (mapping.name === "tasks") expect(refused[0]).toMatch(/NULL as its id/);
  });
});
