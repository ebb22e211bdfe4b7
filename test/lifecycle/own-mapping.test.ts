import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import Database from "better-sqlite3";
import { expect, test } from "vitest";
import { CONFIG_DEFAULTS } from "../../src/config.ts";
import { openHive } from "../../src/hive.ts";
import { temporaryDirectory } from "../support/context.ts";

/** What a user's mapping may look like, and do wrong: `docs/your-own-tables.md`. */

const DIST = new URL("../../dist/index.js", import.meta.url).href;
const DOCUMENT = fileURLToPath(new URL("../../docs/your-own-tables.md", import.meta.url));

const MIGRATION = `-- migrate:up
CREATE TABLE people (id TEXT PRIMARY KEY NOT NULL, name TEXT);
CREATE TABLE places (person TEXT NOT NULL REFERENCES people (id), kind TEXT, street TEXT, PRIMARY KEY (person, kind));
CREATE TABLE parcels (person TEXT NOT NULL REFERENCES people (id), no TEXT, kind TEXT, PRIMARY KEY (person, no),
  FOREIGN KEY (person, kind) REFERENCES places (person, kind));
-- migrate:down
DROP TABLE parcels; DROP TABLE places; DROP TABLE people;
`;

const LEGACY = `CREATE TABLE old (id INT PRIMARY KEY, name TEXT, street TEXT, no TEXT);
  INSERT INTO old VALUES (1, 'Ada', 'A Street', 'n1'), (2, 'Bob', 'B Street', 'n2');`;

/** The mapping as a module of its own; `change` replaces pieces of it. */
function mappingOf(change: Readonly<Record<string, string>> = {}): string {
  const methods = {
    agent: `() => "post"`,
    unifiedAgent: `() => "post"`,
    owns: "() => true",
    up: `({ old: [row] }) => ({
      people: [{ id: String(row.id), name: row.name }],
      places: [{ person: String(row.id), kind: "home", street: row.street }],
      parcels: [{ person: String(row.id), no: row.no, kind: "home" }],
    })`,
    down: `({ people: [person], places: [place], parcels: [parcel] }) => ({
      old: [{ id: person.id, name: person.name, street: place?.street ?? null, no: parcel?.no ?? null }],
    })`,
    ...change,
  };
  return `import { defineMapping } from ${JSON.stringify(DIST)};
    export default defineMapping({
      name: "post", migrations: "./migrations", agents: [{ name: "post" }], eventTypes: [],
      aggregates: [{
        name: "people",
        legacy: { root: { table: "old", key: "id", columns: ["name", "street", "no"] }, related: [] },
        unified: {
          root: { table: "people", key: "id", columns: { id: "text", name: "text" } },
          related: [
            { table: "places", foreignKey: "person", key: ["kind"], columns: { person: "text", kind: "text", street: "text" } },
            { table: "parcels", foreignKey: "person", key: ["no"], columns: { person: "text", no: "text", kind: "text" } },
          ],
        },
        ${Object.entries(methods)
          .map(([name, text]) => `${name}: ${text},`)
          .join("\n")}
      }],
    });`;
}

async function open(change: Readonly<Record<string, string>> = {}, migration = MIGRATION) {
  const directory = temporaryDirectory();
  const db = new Database(join(directory, "post.db"));
  db.pragma("journal_mode = WAL");
  db.exec(LEGACY);
  writeFileSync(join(directory, "mapping.mjs"), mappingOf(change).replace("./migrations", "."));
  writeFileSync(join(directory, "0001_post.sql"), migration);
  const settings = { ...CONFIG_DEFAULTS, database: "post.db", mapping: "./mapping.mjs", baseDirectory: directory };
  const hive = await openHive(settings, { actor: "test@localhost" });
  await hive.migrations.up();
  await hive.flags.change([{ agent: "post", flag: "dual-write", value: "on" }]);
  return {
    hive,
    db,
    async live() {
      await hive.backfill();
      await hive.flags.change([{ agent: "post", flag: "reads", value: "shadow" }]);
      await hive.check();
      await hive.flags.change([{ agent: "post", flag: "reads", value: "live" }]);
    },
    async [Symbol.asyncDispose]() {
      db.close();
      await hive[Symbol.asyncDispose]();
    },
  };
}

test("related tables may refer to each other, and a key may be a text on one side and an integer on the other", async () => {
  await using post = await open();
  const { hive, db } = post;
  expect(await hive.backfill()).toMatchObject({ aggregates: { written: 2, quarantined: 0 } });
  db.exec("UPDATE old SET street = 'C Street' WHERE id = 1; DELETE FROM old WHERE id = 2");
  expect(await hive.backfill()).toMatchObject({ aggregates: { written: 1, quarantined: 0 } });
  expect(await hive.sync()).toMatchObject({ applied: 2, remaining: 0 });
  expect(await hive.check()).toMatchObject({ consistent: true, extra: 0, identical: 1 });
  expect(db.prepare("SELECT person, street FROM places").raw().all()).toEqual([["1", "C Street"]]);
});

test("a text for an INTEGER key on the way down is that key; a key that is no whole number is quarantined", async () => {
  await using post = await open();
  const { hive, db } = post;
  await post.live();
  db.exec(`BEGIN; INSERT INTO hive_applying VALUES (1);
    INSERT INTO people VALUES ('3', 'Eve'), ('abc', 'Mallory'), ('07', 'James'); UPDATE people SET name = 'Al' WHERE id = '1';
    DELETE FROM hive_applying; COMMIT`);
  expect(await hive.check({ repair: true })).toMatchObject({ different: 1, missing: 1, quarantined: 2, repaired: 2 });
  expect(db.prepare("SELECT id, typeof(id), name FROM old ORDER BY id").raw().all()).toEqual([
    [1, "integer", "Al"],
    [2, "integer", "Bob"],
    [3, "integer", "Eve"],
  ]);
  expect((await hive.quarantine.list()).entries.map(({ key, reason }) => [key, reason])).toEqual([
    ["07", 'old.id holds whole numbers only, and the key "07" is none'],
    ["abc", 'old.id holds whole numbers only, and the key "abc" is none'],
  ]);
});

test("a text key in an INTEGER column is quarantined where the unified column takes none, and stops nobody", async () => {
  const migration = MIGRATION.replace("people (id TEXT PRIMARY KEY", "people (id INTEGER PRIMARY KEY");
  await using post = await open({}, migration);
  post.db.exec("INSERT INTO old VALUES ('abc', 'Mallory', 'X', 'n3')");
  expect(await post.hive.backfill()).toMatchObject({ aggregates: { written: 2, quarantined: 1 } });
  const { entries } = await post.hive.quarantine.list();
  expect(entries).toMatchObject([
    { key: "abc", reason: 'people.id holds whole numbers only, and the key "abc" is none' },
  ]);
});

test.each(["agent", "unifiedAgent", "owns"])(
  "%s that throws is an error of the mapping, not of hive",
  async (method) => {
    await using post = await open({ [method]: `() => { throw new TypeError("no such thing"); }` });
    post.db.exec("INSERT INTO people VALUES ('9', 'Eve')");
    await expect(post.hive.check({ repair: true })).rejects.toMatchObject({
      code: "MAPPING_INVALID",
      message: `\`${method}\` of the mapping "people" failed: TypeError: no such thing`,
    });
  },
);

test.each([
  ["async ({ old: [row] }) => ({ people: [row] })", "the mapping gave a promise: `up` must not be asynchronous"],
  ["() => ({ people: [{ id: '1', name: true }] })", /^the mapping gave true for people.name: a column holds a text/],
  ["() => { throw new RangeError('x') }", 'the mapping "people" failed on it: RangeError: x'],
])("up as %s quarantines, and `mapping test` says why", async (up, reason) => {
  await using post = await open({ up });
  const { hive } = post;
  const expected = typeof reason === "string" ? reason : expect.stringMatching(reason);
  expect(await hive.backfill()).toMatchObject({ aggregates: { written: 0, quarantined: 2 } });
  expect((await hive.quarantine.list({ keys: ["1"] })).entries).toMatchObject([{ reason: expected }]);
  expect((await hive.testMapping({ keys: ["1"] })).samples).toMatchObject([
    { outcome: "quarantined", reason: expected },
  ]);
});

test("`mapping test` shows the rows as they will be read again", async () => {
  const up = `({ old: [row] }) => ({ people: [{ id: row.id, name: row.name }],
    places: ["work", "home"].map((kind) => ({ person: String(row.id), kind, street: row.street })) })`;
  // Takes the first place, which is another one once they come from the database.
  const down =
    "({ people: [person], places: [place] }) => ({ old: [{ id: person.id, name: place.kind, street: null, no: null }] })";
  await using post = await open({ up, down });
  const [sample] = (await post.hive.testMapping({ keys: ["1"] })).samples;
  expect(sample).toMatchObject({ outcome: "mapped", roundTrip: false, back: { old: [{ name: "home" }] } });
});

test("the mapping and the migration of the document work as they stand", async () => {
  const text = readFileSync(DOCUMENT, "utf8");
  const block = (kind: string) => new RegExp(`^\`\`\`${kind}\\n(.*?)^\`\`\``, "ms").exec(text)?.[1] ?? "";
  const directory = temporaryDirectory();
  const db = new Database(join(directory, "shop.db"));
  db.exec("CREATE TABLE clients (id INTEGER PRIMARY KEY, full_name TEXT)");
  db.exec("INSERT INTO clients VALUES (1, ' Ada Lovelace'), (2, 'Plato'), (3, NULL), (4, '  ')");
  writeFileSync(
    join(directory, "mapping.mjs"),
    block("js").replace('"hive-migrate"', JSON.stringify(DIST)).replace("./migrations", "."),
  );
  writeFileSync(join(directory, "0001_customers.sql"), block("sql"));
  const config = JSON.parse(block("json"));
  await using hive = await openHive({
    ...CONFIG_DEFAULTS,
    ...config,
    mapping: "mapping.mjs",
    baseDirectory: directory,
  });
  const { samples } = await hive.testMapping({ sample: 10 });
  expect(samples.map(({ key, roundTrip }) => [key, roundTrip])).toEqual([
    ["1", true],
    ["2", true],
    ["3", false],
    ["4", false],
  ]);
  await hive.migrations.up();
  await hive.flags.change([{ agent: "shop", flag: "dual-write", value: "on" }]);
  expect(await hive.backfill()).toMatchObject({ aggregates: { written: 2, quarantined: 2 } });
  expect(await hive.check()).toMatchObject({ consistent: true, identical: 2, quarantined: 2 });
  db.close();
});
