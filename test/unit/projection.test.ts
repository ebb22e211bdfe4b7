import Database from "better-sqlite3";
import { describe, expect, test } from "vitest";
import { introspect, type Layout, type Loaded, loadKeys } from "../../src/sync/aggregates.ts";
import { writeLegacy } from "../../src/sync/apply.ts";
import type { Aggregate, AggregateMapping, DataRow, PlatformMapping } from "../../src/sync/mapping.ts";
import { compareDown, compareUp, differencesDown, differencesUp, projectUp } from "../../src/sync/projection.ts";
import { temporaryDirectory, testContext } from "../support/context.ts";

/** Carts with lines on both sides, whose `line` tells them apart within their cart only. */
const LEGACY = `
  CREATE TABLE carts (id INTEGER PRIMARY KEY, owner TEXT);
  CREATE TABLE lines (cart INTEGER, line INTEGER, what TEXT);
  INSERT INTO carts VALUES (1, 'Ada'), (2, 'Bob');
  INSERT INTO lines VALUES (1, 1, 'pen'), (1, 2, 'ink'), (2, 1, 'cup'), (2, 2, 'tea'), (NULL, 1, 'lost');
`;
const UNIFIED = `
  CREATE TABLE new_carts (id INTEGER PRIMARY KEY, owner TEXT);
  CREATE TABLE new_lines (cart_id INTEGER NOT NULL, line INTEGER, what TEXT COLLATE NOCASE, PRIMARY KEY (cart_id, what));
  INSERT INTO new_carts VALUES (1, 'Ada'), (2, 'Bob');
  INSERT INTO new_lines VALUES (1, 1, 'pen'), (1, 2, 'ink'), (2, 1, 'cup'), (2, 2, 'tea');
`;

function moved(rows: readonly DataRow[] = [], from: string, to: string): DataRow[] {
  return rows.map(({ [from]: key, ...row }) => ({ ...row, [to]: key ?? null }));
}

const carts: AggregateMapping = {
  name: "carts",
  legacy: {
    root: { table: "carts", key: "id", columns: ["owner"] },
    related: [{ table: "lines", foreignKey: "cart", key: ["line"], columns: ["what"], orderBy: ["line"] }],
  },
  unified: {
    root: { table: "new_carts", key: "id", columns: { id: "integer", owner: "text" } },
    related: [
      {
        table: "new_lines",
        foreignKey: "cart_id",
        key: ["what"],
        columns: { cart_id: "integer", line: "integer", what: "text" },
      },
    ],
  },
  agent: () => "shop",
  unifiedAgent: () => "shop",
  owns: () => true,
  up: (legacy) => ({ new_carts: legacy.carts ?? [], new_lines: moved(legacy.lines, "cart", "cart_id") }),
  down: (unified) => ({ carts: unified.new_carts ?? [], lines: moved(unified.new_lines, "cart_id", "cart") }),
};

interface Sides {
  layout: Layout;
  legacy: Loaded;
  unified: Loaded;
}

async function load(change = "", options: { mapping?: AggregateMapping; key?: string } = {}): Promise<Sides> {
  const mapping = options.mapping ?? carts;
  const path = `${temporaryDirectory()}/carts.db`;
  const db = new Database(path);
  db.exec(LEGACY + UNIFIED + change);
  db.close();
  const platform: PlatformMapping = { name: "t", aggregates: [mapping], agents: [{ name: "shop" }], eventTypes: [] };
  await using context = testContext(path, { mapping: platform });
  const { read } = context.store;
  const layout = await introspect(context.store, mapping, read);
  const key = options.key ?? "1";
  const [legacy] = await loadKeys(read, layout.legacy, [key]);
  const [unified] = await loadKeys(read, layout.unified, [key]);
  if (!legacy || !unified) throw new Error("no such cart");
  return { layout, legacy, unified };
}

function upOf({ layout, legacy, unified }: Sides) {
  const aggregate: Aggregate = {
    carts: [{ id: 1n, owner: legacy.root[1] ?? null }],
    lines: (legacy.related[0] ?? []).map((row) => ({
      cart: row[0] ?? null,
      line: row[1] ?? null,
      what: row[2] ?? null,
    })),
  };
  const verdict = compareUp(layout, legacy, aggregate, unified);
  return verdict.kind === "write" ? differencesUp(layout, verdict.rows, unified) : verdict;
}

describe("several related rows", () => {
  test("are compared by what identifies them, not by their place", async () => {
    const sides = await load(
      "DELETE FROM new_lines WHERE what = 'ink'; UPDATE lines SET what = 'Zeta' WHERE what = 'pen'",
    );
    expect(upOf(sides)).toEqual([
      { table: "new_lines", column: "what", legacy: "Zeta", unified: null },
      { table: "new_lines", column: "what", legacy: "ink", unified: null },
      { table: "new_lines", column: "what", legacy: null, unified: "pen" },
    ]);
  });

  test("say which of them differs", async () => {
    expect(upOf(await load("UPDATE new_lines SET line = 9 WHERE what = 'pen'"))).toEqual([
      { table: "new_lines", column: "line", row: "what=pen", legacy: 1n, unified: 9n },
    ]);
  });

  test("are the same in any order that the database gives them", async () => {
    const rename = (table: string) => `UPDATE ${table} SET what = 'Zeta' WHERE what = 'pen';`;
    // NOCASE puts ink before Zeta, JavaScript Zeta before ink.
    expect(upOf(await load(rename("lines") + rename("new_lines")))).toEqual({ kind: "same" });
  });
});

describe("the way down", () => {
  test("touches the lines of its own cart only", async () => {
    const change = "UPDATE new_lines SET line = 3 WHERE what = 'ink'; UPDATE new_carts SET owner = 'Eve' WHERE id = 1";
    const { layout, legacy, unified } = await load(change);
    const verdict = compareDown(layout, unified, legacy);
    if (verdict.kind !== "write") throw new Error(verdict.kind);
    expect(differencesDown(verdict.changes, legacy, layout.legacy)).toEqual([
      { table: "carts", column: "owner", legacy: "Ada", unified: "Eve" },
      { table: "lines", column: "line", legacy: 2n, unified: null },
      { table: "lines", column: "line", legacy: null, unified: 3n },
    ]);
    const path = `${temporaryDirectory()}/carts.db`;
    const db = new Database(path);
    db.exec(LEGACY);
    await using context = testContext(path);
    await context.store.transaction("test", (tx) => writeLegacy(tx, verdict.changes));
    expect(db.prepare("SELECT * FROM lines ORDER BY cart, line").raw().all()).toEqual([
      [null, 1, "lost"],
      [1, 1, "pen"],
      [1, 3, "ink"],
      [2, 1, "cup"],
      [2, 2, "tea"],
    ]);
    db.close();
  });

  test("names the row in which a value differs", async () => {
    const { layout, legacy, unified } = await load("UPDATE lines SET what = 'red ink' WHERE what = 'ink'");
    const verdict = compareDown(layout, unified, legacy);
    if (verdict.kind !== "write") throw new Error(verdict.kind);
    expect(verdict.changes[0]?.where).toEqual({ cart: 1n, line: 2n });
    expect(differencesDown(verdict.changes, legacy, layout.legacy)).toEqual([
      { table: "lines", column: "what", row: "line=2", legacy: "red ink", unified: "ink" },
    ]);
  });

  test.each([
    [{ carts: [{ id: 2n }] }, "the mapping changed its key to 2"],
    [{ carts: [] }, "the mapping gave no row for carts"],
    [{ carts: [{ id: 1n }, { id: 1n }] }, "the mapping gave several rows for carts"],
    [{ carts: [{ id: 1n }], lines: [{ cart: 2n, line: 1n }] }, /lines whose cart is 2: not the aggregate's own key/],
    [
      {
        carts: [{ id: 1n }],
        lines: [
          { cart: 1n, line: 1n },
          { cart: 1n, line: 1n },
        ],
      },
      /two rows for lines/,
    ],
    [{ carts: [{ id: 1n, owner: Object(true) }] }, /gave an object for carts.owner/],
  ])("a result that no row can be made of is refused: %#", async (result: Aggregate, reason) => {
    const { layout, legacy, unified } = await load("", { mapping: { ...carts, down: () => result } });
    const verdict = compareDown(layout, unified, legacy);
    expect(verdict).toMatchObject({ kind: "quarantined", reason: expect.stringMatching(reason) });
  });

  test("a key may be given as a number", async () => {
    const mapping = { ...carts, down: () => ({ carts: [{ id: 1, owner: "Ada" }] }) };
    const { layout, legacy, unified } = await load("", { mapping });
    expect(compareDown(layout, unified, legacy)).toEqual({ kind: "same" });
  });
});

describe("what a mapping may not give", () => {
  const root: DataRow = { id: 1n, owner: "Ada" };
  // Untyped, as what a mapping in JavaScript gives.
  const yes = JSON.parse("true");
  test.each<[string, Aggregate, RegExp]>([
    ["true", { new_carts: [{ ...root, owner: yes }] }, /^the mapping gave true for new_carts.owner: a column/],
    ["a Date", { new_carts: [{ ...root, owner: Object(new Date(0)) }] }, /^the mapping gave an object for new_carts/],
    ["NaN", { new_carts: [{ ...root, owner: Number.NaN }] }, /^the mapping gave NaN for new_carts.owner/],
    ["too large", { new_carts: [{ ...root, owner: 2n ** 63n }] }, /^the mapping gave 9223372036854775808 for/],
    ["another column", { new_carts: [{ ...root, onwer: "Ada" }] }, /new_carts.onwer, which it does not declare/],
    ["another table", { new_carts: [root], new_line: [{ cart_id: 1n }] }, /rows for new_line, which is none of its/],
    ["several roots", { new_carts: [root, root] }, /^the mapping gave several rows for new_carts/],
    ["no root", {}, /^the mapping gave no row for new_carts/],
    ["nothing", JSON.parse("null"), /^the mapping gave null: `up` has to give an object of rows by table/],
    ["a stray row", { new_carts: [root], new_lines: [{ cart_id: 2n, what: "x" }] }, /new_lines whose cart_id is 2/],
    ["a row without key", { new_carts: [root], new_lines: [{ what: "x" }] }, /new_lines whose cart_id is null/],
  ])("%s", async (_, result, reason) => {
    const { layout, legacy } = await load("", { mapping: { ...carts, up: () => result } });
    expect(projectUp(layout, legacy, {})).toEqual({ reason: expect.stringMatching(reason) });
  });

  test("undefined stands for NULL", async () => {
    const up = () => ({ new_carts: [{ id: 1n, owner: JSON.parse("{}").missing, more: null }] });
    const { layout, legacy } = await load("", { mapping: { ...carts, up } });
    expect(projectUp(layout, legacy, {})).toEqual({ rows: { root: [1n, null], related: [[]] } });
  });
});

describe("introspection", () => {
  test.each([
    ["carts", "DROP TABLE carts; CREATE TABLE carts (id INTEGER, owner TEXT); INSERT INTO carts VALUES (1, 'Ada')"],
    ["new_carts", "DROP TABLE new_carts; CREATE TABLE new_carts (id INTEGER, owner TEXT)"],
    ["new_carts", "DROP TABLE new_carts; CREATE TABLE new_carts (id INTEGER, owner TEXT, PRIMARY KEY (id, owner))"],
  ])("refuses %s without a unique key", async (table, change) => {
    await expect(load(change)).rejects.toMatchObject({
      code: "SCHEMA_MISMATCH",
      message: `Nothing makes ${table}.id, which identifies its rows, unique.`,
    });
  });

  test("refuses a key without a type, and finds the rows of a foreign key without one", async () => {
    const untyped = "DROP TABLE carts; CREATE TABLE carts (id PRIMARY KEY, owner TEXT)";
    await expect(load(untyped)).rejects.toMatchObject({
      code: "SCHEMA_MISMATCH",
      message: "carts.id, which identifies its rows, has no type.",
    });
    const { legacy } = await load(
      "DROP TABLE lines; CREATE TABLE lines (cart, line, what); INSERT INTO lines VALUES (1, 1, 'pen'), ('1', 2, 'ink')",
    );
    expect(legacy.related).toEqual([
      [
        [1n, 1n, "pen"],
        ["1", 2n, "ink"],
      ],
    ]);
  });

  test("a unique index does", async () => {
    await load(`DROP TABLE carts; CREATE TABLE carts (id INTEGER, owner TEXT); CREATE UNIQUE INDEX u ON carts (id);
      INSERT INTO carts VALUES (1, 'Ada')`);
  });
});
