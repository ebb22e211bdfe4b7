import { randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import { postgresDatabase, postgresServer, postgresTemplate, withDatabase } from "../support/postgres.ts";
import { executeSync, insertSync, selectSync } from "../support/sync-postgres.ts";

/** The server that the tests start for themselves is one on which wrong assumptions show. */

const failure = (code: string) => expect.objectContaining({ code });

test("the version, and settings that nobody takes for granted", async () => {
  const url = await postgresDatabase();
  const [server] = selectSync(
    url,
    `SELECT current_setting('server_version') AS version, current_setting('TimeZone') AS zone,
       current_setting('fsync') AS fsync, 'a' < 'B' AS natural_order`,
  );
  console.log(`PostgreSQL ${server?.version}`);
  expect(Number.parseInt(String(server?.version), 10)).toBeGreaterThanOrEqual(15);
  if (process.env.HIVE_TEST_POSTGRES !== undefined) return;
  expect(server).toMatchObject({ zone: "America/New_York", fsync: "off", natural_order: true });
});

test("two databases are apart, and gone when their test is over", async () => {
  const first = await postgresDatabase();
  const second = await postgresDatabase();
  executeSync(first, "CREATE TABLE notes (id int); INSERT INTO notes VALUES (1)");
  expect(() => selectSync(second, "SELECT * FROM notes")).toThrow(failure("42P01"));
  executeSync(second, "CREATE TABLE notes (id int)");
  expect([selectSync(first, "SELECT * FROM notes"), selectSync(second, "SELECT * FROM notes")]).toEqual([
    [{ id: 1 }],
    [],
  ]);
  earlier = first;
});

let earlier = "";

test("what an earlier test used is gone", async () => {
  expect(() => selectSync(earlier, "SELECT 1")).toThrow(failure("3D000"));
  const { url, prefix } = await postgresServer();
  expect(
    selectSync(url, `SELECT datname FROM pg_database WHERE datname = '${new URL(earlier).pathname.slice(1)}'`),
  ).toEqual([]);
  expect(earlier).toContain(prefix);
});

test("values as SQLite would give them", async () => {
  const url = await postgresDatabase();
  expect(
    selectSync(
      url,
      `SELECT 1::int2 AS small, 2 AS n, count(*) AS counted, 9007199254740993 AS big, sum(5::int8) AS summed, 1.5::float8 AS half,
         '{"b": 1.0, "a": 2}'::json AS json, '{"b":1,"a":[]}'::jsonb AS jsonb, true AS yes, NULL AS none, ''::text AS empty,
         '2026-07-01 12:00:00.120+02'::timestamptz AS at, '2026-07-01 12:00:00'::timestamp AS local, '2026-07-01'::date AS day`,
    ),
  ).toEqual([
    {
      ...{ small: 1, n: 2, counted: 1, big: 9007199254740993n, summed: 5, half: 1.5, yes: true, none: null, empty: "" },
      ...{ json: '{"b": 1.0, "a": 2}', jsonb: '{"a": [], "b": 1}' },
      ...{ at: "2026-07-01T10:00:00.12Z", local: "2026-07-01 12:00:00", day: "2026-07-01" },
    },
  ]);
});

test("each call is a session of its own", async () => {
  const url = await postgresDatabase();
  executeSync(
    url,
    "CREATE TABLE notes (id int PRIMARY KEY); SET search_path = nowhere; CREATE TEMP TABLE mine (id int)",
  );
  executeSync(url, "BEGIN; INSERT INTO notes VALUES (1)");
  expect(selectSync(url, "SELECT * FROM notes")).toEqual([]);
  expect(() => executeSync(url, "BEGIN; INSERT INTO notes VALUES (2); INSERT INTO notes VALUES (2); COMMIT")).toThrow(
    failure("23505"),
  );
  expect(selectSync(url, "SELECT * FROM notes")).toEqual([]);
  expect(() => selectSync(url, "SELECT * FROM mine")).toThrow(failure("42P01"));
  executeSync(url, "INSERT INTO notes VALUES (3)");
  expect(selectSync(url, "DELETE FROM notes; SELECT count(*) AS n FROM notes")).toEqual([{ n: 0 }]);
});

test("a connection that the server ends is replaced", async () => {
  const url = await postgresDatabase();
  expect(() => selectSync(url, "SELECT pg_terminate_backend(pg_backend_pid())")).toThrow(failure("57P01"));
  expect(selectSync(url, "SELECT 1 AS one")).toEqual([{ one: 1 }]);
});

test("rows that PostgreSQL does not take are named", async () => {
  const url = await postgresDatabase();
  executeSync(url, "CREATE TABLE notes (id text PRIMARY KEY, at timestamptz, n int, data jsonb)");
  const left = insertSync(
    url,
    "notes",
    ["id", "at", "n", "data"],
    [
      ["a", "2026-01-01 00:00:00", 1, '{"a":1}'],
      [null, null, null, null],
      ["b", "", null, null],
      ["c", null, "high", null],
      ["d", null, null, "{'a'}"],
      [new Uint8Array([1]), null, null, null],
      ["a", null, null, null],
      ["z", null, null, "3"],
    ],
  );
  expect(left.map(({ row: [id], reason }) => [id, reason.slice(0, 12)])).toEqual([
    [new Uint8Array([1]), "bytes in a t"],
    [null, "null value i"],
    ["b", "invalid inpu"],
    ["c", "invalid inpu"],
    ["d", "invalid inpu"],
    ["a", "duplicate ke"],
  ]);
  expect(selectSync(url, "SELECT id, at, data FROM notes ORDER BY id")).toEqual([
    { id: "a", at: "2026-01-01T00:00:00Z", data: '{"a": 1}' },
    { id: "z", at: null, data: "3" },
  ]);
});

test("a template is made once, and copied", async () => {
  const name = randomUUID().slice(0, 8);
  let made = 0;
  const make = (url: string) => {
    made += 1;
    executeSync(url, "CREATE TABLE notes (id int); INSERT INTO notes VALUES (1)");
  };
  const templates = await Promise.all([1, 2, 3].map(() => postgresTemplate(name, make)));
  expect([made, new Set(templates).size]).toEqual([1, 1]);
  const [first = "", second = ""] = await Promise.all(
    templates.slice(1).map((template) => postgresDatabase({ template })),
  );
  executeSync(first, "INSERT INTO notes VALUES (2)");
  expect([first, second].map((url) => selectSync(url, "SELECT count(*) AS n FROM notes"))).toEqual([
    [{ n: 2 }],
    [{ n: 1 }],
  ]);
  expect(withDatabase(first, "x")).toBe(withDatabase(second, "x"));
});
