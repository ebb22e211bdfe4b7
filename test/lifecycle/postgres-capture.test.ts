import pg from "pg";
import { describe, expect, onTestFinished, test } from "vitest";
import { migrateUp } from "../../src/schema/migrator.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { captureState, renewCapture } from "../../src/sync/capture.ts";
import { check } from "../../src/sync/check.ts";
import type { AggregateMapping, PlatformMapping } from "../../src/sync/mapping.ts";
import { sync } from "../../src/sync/sync.ts";
import { BACKENDS } from "../support/backends.ts";
import { testContext } from "../support/context.ts";
import { advance } from "../support/legacy-platform.ts";

/** What the statement triggers note, and that an agent is told what it is told without them. */

const [postgres] = BACKENDS.filter(({ name }) => name === "postgres");

const LEGACY = `
  CREATE TABLE items (id text PRIMARY KEY, name text, body text);
  CREATE TABLE parts (id text PRIMARY KEY, item_id text REFERENCES items ON DELETE CASCADE ON UPDATE CASCADE, slot integer);
  CREATE TABLE days (id integer PRIMARY KEY, body text) PARTITION BY RANGE (id);
  CREATE TABLE days_low PARTITION OF days FOR VALUES FROM (0) TO (10);
  CREATE TABLE days_high PARTITION OF days FOR VALUES FROM (10) TO (100);
  CREATE TABLE others (id integer PRIMARY KEY, note text);
  INSERT INTO items VALUES ('a', 'A', ''), ('b', 'B', ''), ('c', 'C', '');
  INSERT INTO parts VALUES ('p1', 'a', 1), ('p2', 'a', 2), ('p3', 'b', 1), ('p4', NULL, 1);
  INSERT INTO days VALUES (1, 'x'), (20, 'y');`;

const aggregate = (table: string, columns: string[], related: AggregateMapping["legacy"]["related"] = []) => ({
  name: table,
  legacy: { root: { table, key: "id", columns }, related },
  unified: {
    root: { table: `unified_${table}`, key: "id", columns: { id: "text", body: "text" } as const },
    related: [],
  },
  agent: () => "keeper",
  unifiedAgent: () => "keeper",
  owns: () => true,
  up: (legacy: Parameters<AggregateMapping["up"]>[0]) => ({
    [`unified_${table}`]: (legacy[table] ?? []).map((row) => ({
      id: String(row.id),
      body: `${row.body} ${(legacy.parts ?? []).length}`,
    })),
  }),
  down: () => ({}),
});

const mapping: PlatformMapping = {
  name: "captured",
  aggregates: [
    aggregate(
      "items",
      ["name", "body"],
      [{ table: "parts", foreignKey: "item_id", key: ["id"], columns: ["slot"], orderBy: ["id"] }],
    ),
    aggregate("days", ["body"]),
  ],
  agents: [{ name: "keeper" }],
  eventTypes: [],
};

const UNIFIED = ["items", "days"]
  .map((name) => `CREATE TABLE unified_${name} (id text PRIMARY KEY, body text)`)
  .join(";");

async function captured() {
  if (!postgres) throw new Error("PostgreSQL was left out");
  const { url } = await postgres.create({ rows: `${LEGACY} ${UNIFIED}` });
  const context = testContext(url, { mapping });
  onTestFinished(() => context.store[Symbol.asyncDispose]());
  await migrateUp(context);
  await advance(context, ["keeper"], "dualwrite");
  await backfill(context);
  const agent = new pg.Client({ connectionString: url });
  await agent.connect();
  onTestFinished(() => agent.end().catch(() => undefined));
  const rows = async (text: string) => (await agent.query({ text, rowMode: "array" })).rows.flat();
  /** What the statements note, by aggregate; and takes it off again. */
  const noted = async (text: string): Promise<string[]> => {
    await agent.query("DELETE FROM hive.hive_changes");
    await agent.query(text);
    return logged();
  };
  const logged = () =>
    rows(`SELECT DISTINCT coalesce(side || ' ', '') || replace(source, 'unified_', '') || ' ' || coalesce(key, '-')
      FROM hive.hive_changes ORDER BY 1`).then((found) => found.map((one) => String(one).replace("legacy ", "")));
  /** After a sync both sides are equal. */
  const expectEqual = async () => {
    await sync(context);
    expect(await check(context)).toMatchObject({ consistent: true, inFlight: 0, missing: 0, extra: 0, different: 0 });
    expect(await logged()).toEqual([]);
  };
  return { url, context, agent, rows, noted, logged, expectEqual };
}

/** COPY FROM STDIN, which the driver leaves to others; the tag that the server gives. */
function copyInto(client: pg.Client, table: string, lines: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let tag = "";
    const copy = {
      submit: (connection: pg.Connection) => connection.query(`COPY ${table} FROM STDIN`),
      handleCopyInResponse: (connection: { sendCopyFromChunk(chunk: Buffer): void; endCopyFrom(): void }) => {
        connection.sendCopyFromChunk(Buffer.from(lines));
        connection.endCopyFrom();
      },
      handleCommandComplete: ({ text }: { text: string }) => {
        tag = text;
      },
      handleReadyForQuery: () => resolve(tag),
      handleError: reject,
    };
    client.query(copy as unknown as pg.Submittable);
  });
}

describe.skipIf(!postgres)("PostgreSQL only: statement triggers", () => {
  const statements: [string, string, string[]][] = [
    ["INSERT", "INSERT INTO items VALUES ('d', 'D', ''), ('e', 'E', '')", ["items d", "items e"]],
    [
      "an UPDATE of several keys",
      "UPDATE items SET id = id || '2' WHERE id < 'c'",
      ["items a", "items a2", "items b", "items b2"],
    ],
    [
      "a swap of keys",
      "UPDATE items SET id = CASE id WHEN 'c' THEN 'z' ELSE id END",
      ["items a", "items b", "items c", "items z"],
    ],
    ["a DELETE that cascades", "DELETE FROM items WHERE id = 'a'", ["items a"]],
    ["a related row that moves", "UPDATE parts SET item_id = 'c' WHERE id = 'p3'", ["items b", "items c"]],
    ["a related row of nothing", "UPDATE parts SET slot = 9 WHERE id = 'p4'", []],
    [
      "ON CONFLICT DO UPDATE",
      "INSERT INTO items VALUES ('a', 'x', ''), ('n', 'x', '') ON CONFLICT (id) DO UPDATE SET name = excluded.name",
      ["items a", "items n"],
    ],
    ["ON CONFLICT DO NOTHING", "INSERT INTO items VALUES ('a', 'x', '') ON CONFLICT DO NOTHING", []],
    [
      "MERGE",
      `MERGE INTO items AS i USING (VALUES ('a'), ('b'), ('m')) AS s (id) ON i.id = s.id
       WHEN MATCHED AND i.id = 'a' THEN DELETE WHEN MATCHED THEN UPDATE SET name = 'm' WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'm', '')`,
      ["items a", "items b", "items m"],
    ],
    [
      "a statement that writes in WITH",
      "WITH gone AS (DELETE FROM parts WHERE id = 'p3' RETURNING item_id) INSERT INTO items SELECT 'w', item_id, '' FROM gone",
      ["items b", "items w"],
    ],
    ["TRUNCATE CASCADE", "TRUNCATE items CASCADE", ["items a", "items b", "items c"]],
    ["TRUNCATE of related rows", "TRUNCATE parts", ["items a", "items b"]],
    ["rows of partitions by the whole's name", "UPDATE days SET body = 'z'", ["days 1", "days 20"]],
    ["a row that moves to another partition", "UPDATE days SET id = id + 10 WHERE id = 1", ["days 1", "days 11"]],
    [
      "a partition by its own name",
      "INSERT INTO days_low VALUES (7, ''); UPDATE days_high SET body = 'q'",
      ["days 20", "days 7"],
    ],
    ["TRUNCATE of a partition", "TRUNCATE days_low", ["days 1"]],
    ["a statement that is rolled back", "BEGIN; DELETE FROM items; ROLLBACK", []],
    [
      "a savepoint that is rolled back",
      "BEGIN; SAVEPOINT s; DELETE FROM parts; ROLLBACK TO s; UPDATE items SET name = 'k' WHERE id = 'c'; COMMIT",
      ["items c"],
    ],
  ];

  test.each(statements)("%s", async (_name, text, expected) => {
    const { noted, expectEqual } = await captured();
    expect(await noted(text)).toEqual(expected);
    await expectEqual();
  });

  test("COPY", async () => {
    const { agent, logged, expectEqual } = await captured();
    const lines = Array.from({ length: 300 }, (_, i) => `k${i}\tname\tbody\n`).join("");
    expect(await copyInto(agent, "items", lines)).toBe("COPY 300");
    expect(await logged()).toHaveLength(300);
    await expectEqual();
  });

  test("from inside an agent's own trigger, function and procedure", async () => {
    const { agent, noted, expectEqual } = await captured();
    await agent.query(`
      CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE items SET name = NEW.note WHERE id = 'b'; RETURN NULL; END $$;
      CREATE TRIGGER touch AFTER INSERT ON others FOR EACH ROW EXECUTE FUNCTION touch();
      CREATE FUNCTION prefix() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id := 'x-' || NEW.id; RETURN NEW; END $$;
      CREATE TRIGGER prefix BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION prefix();
      CREATE PROCEDURE twice() LANGUAGE plpgsql AS $$ BEGIN UPDATE items SET body = '1' WHERE id = 'a'; COMMIT; UPDATE items SET body = '2' WHERE id = 'c'; END $$`);
    expect(await noted("INSERT INTO others VALUES (1, 'by a trigger')")).toEqual(["items b"]);
    await expectEqual();
    expect(await noted("INSERT INTO items VALUES ('new', '', '')")).toEqual(["items x-new"]);
    await expectEqual();
    expect(await noted("CALL twice()")).toEqual(["items a", "items c"]);
    await expectEqual();
  });

  test("tags, counts and rows are what they are without hive", async () => {
    const { agent } = await captured();
    const plainUrl = (await postgres?.create({ rows: LEGACY }))?.url;
    const plain = new pg.Client({ connectionString: plainUrl });
    await plain.connect();
    for (const [, text] of statements) {
      const answers = [];
      for (const client of [plain, agent]) {
        const ran = await client.query(
          `BEGIN; ${text.replace(/^BEGIN; |; COMMIT$|; ROLLBACK$/g, "")}; SELECT * FROM items, days ORDER BY 1, 2, 3, 4, 5; ROLLBACK`,
        );
        answers.push([ran].flat().map(({ command, rowCount, rows }) => ({ command, rowCount, rows })));
      }
      expect(answers[1]).toEqual(answers[0]);
    }
    await plain.end();
  });

  test("a role without any right on hive's schema writes, and is captured", async () => {
    const { agent, noted, expectEqual } = await captured();
    const role = `hive_test_agent_${process.pid}`;
    await agent.query(
      `CREATE ROLE ${role}; GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO ${role}`,
    );
    try {
      const as = (text: string) => `SET ROLE ${role}; ${text}; RESET ROLE`;
      expect(await noted(as("INSERT INTO items VALUES ('r', '', '')"))).toEqual(["items r"]);
      await expectEqual();
      expect(await noted(as("UPDATE parts SET slot = 5"))).toEqual(["items a", "items b"]);
      await expectEqual();
      expect(await noted(as("TRUNCATE parts"))).toEqual(["items a", "items b"]);
      await expectEqual();
      await expect(agent.query(`SET ROLE ${role}; SELECT * FROM hive.hive_changes`)).rejects.toMatchObject({
        code: "42501",
      });
      await agent.query("RESET ROLE");
    } finally {
      await agent.query(`RESET ROLE; DROP OWNED BY ${role}; DROP ROLE ${role}`);
    }
  });

  test("a key column that is renamed or dropped never fails a statement; every aggregate is looked at", async () => {
    const { agent, context, rows, noted, logged, expectEqual } = await captured();
    await agent.query("ALTER TABLE parts RENAME COLUMN item_id TO item");
    expect(await noted("UPDATE parts SET slot = slot + 1; DELETE FROM parts WHERE id = 'p1'")).toEqual(["gap parts -"]);
    await agent.query("ALTER TABLE parts RENAME COLUMN item TO item_id");
    // What nobody noted is awaiting a sync, and no drift: only a full check would be wrong to say otherwise.
    expect(await check(context, { dryRun: true })).toMatchObject({ consistent: true, inFlight: 1 });
    await expect(check(context, { changed: true })).rejects.toMatchObject({ code: "GUARD_REFUSED" });
    await expectEqual();
    expect(await rows("SELECT body FROM unified_items ORDER BY id")).toEqual([" 1", " 1", " 0"]);
    expect(await logged()).toEqual([]);
  });

  test("a gap that is found again while it is filled is filled from the beginning", async () => {
    const { agent, rows, expectEqual } = await captured();
    await agent.query(`SET hive.applying = 'on'; UPDATE items SET body = 'unseen' WHERE id = 'a'; RESET hive.applying;
      INSERT INTO hive.hive_gaps VALUES ('items', '', '{"position":0,"after":"b"}');
      INSERT INTO hive.hive_changes (side, source) VALUES ('gap', 'items')`);
    await expectEqual();
    expect(await rows("SELECT count(*)::int FROM hive.hive_gaps")).toEqual([0]);
  });

  test("without a log that can be written the agent's statement works", async () => {
    const { agent, rows } = await captured();
    await agent.query("ALTER TABLE hive.hive_changes ADD CONSTRAINT nothing CHECK (false) NOT VALID");
    await agent.query("UPDATE items SET name = 'x'");
    await agent.query("ALTER TABLE hive.hive_changes RENAME TO away");
    await agent.query("UPDATE items SET name = 'y'; DELETE FROM parts; TRUNCATE parts");
    expect(await rows("SELECT DISTINCT name FROM items")).toEqual(["y"]);
    await agent.query("ALTER SCHEMA hive RENAME TO elsewhere; UPDATE items SET name = 'z'");
    expect(await rows("SELECT DISTINCT name FROM items")).toEqual(["z"]);
  });

  test("triggers that were switched off are noticed, and what was written meanwhile is looked for", async () => {
    const { agent, context, expectEqual } = await captured();
    await agent.query("ALTER TABLE items DISABLE TRIGGER ALL; UPDATE items SET body = 'unseen'");
    expect((await captureState(context, context.store.read)).broken).toEqual(["items"]);
    expect(await renewCapture(context)).toEqual(["items"]);
    await expectEqual();
  });

  test("the limit: what is written with session_replication_role = replica is drift", async () => {
    const { noted, context } = await captured();
    const unseen =
      "SET session_replication_role = replica; UPDATE items SET body = 'unseen'; RESET session_replication_role";
    expect(await noted(unseen)).toEqual([]);
    expect(await check(context)).toMatchObject({ consistent: false, different: 3 });
    expect(await check(context, { repair: true })).toMatchObject({ consistent: true, repaired: 3 });
  });

  test("a partition that is added later, with what was written to it before it was seen", async () => {
    const { agent, context, expectEqual, noted } = await captured();
    await agent.query(`CREATE TABLE days_top PARTITION OF days FOR VALUES FROM (100) TO (200);
      INSERT INTO days_top VALUES (127, 'early')`);
    await expectEqual();
    expect((await captureState(context, context.store.read)).broken).toEqual([]);
    expect(await noted("INSERT INTO days_top VALUES (128, '')")).toEqual(["days 128"]);
    await expectEqual();
  });

  test("TRUNCATE in a transaction whose view is older than what it takes", async () => {
    const { agent, url, context, expectEqual, logged } = await captured();
    const old = new pg.Client({ connectionString: url });
    await old.connect();
    await old.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM others");
    await agent.query("INSERT INTO items VALUES ('unseen', '', '')");
    await sync(context);
    await old.query("TRUNCATE items CASCADE; COMMIT");
    expect(await logged()).toContain("gap items -");
    await old.end();
    await expectEqual();
    expect(await agent.query("SELECT FROM unified_items")).toMatchObject({ rowCount: 0 });
  });
});
