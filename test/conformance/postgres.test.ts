import { inspect } from "node:util";
import { describe, expect, onTestFinished, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import type { Store, Tuple, Value } from "../../src/storage/port.ts";
import { openPostgres, postgresAt } from "../../src/storage/postgres.ts";
import { HIVE_TABLES } from "../../src/storage/postgres-catalog.ts";
import { unsupported } from "../../src/storage/postgres-engines.ts";
import { script, sql } from "../../src/storage/sql.ts";
import { postgresDatabase } from "../support/postgres.ts";
import { executeSync, selectSync } from "../support/sync-postgres.ts";
import { proxyTo } from "./proxy.ts";

/** What only PostgreSQL has: types, row locks, connections that break. */

const failure = (code: string, message: RegExp = /./) =>
  expect.objectContaining({ name: "HiveError", code, message: expect.stringMatching(message) });

const OPTIONS = { busyTimeoutMs: 10_000, leaseMs: 15_000, clock: systemClock };

async function place(text = ""): Promise<string> {
  const url = await postgresDatabase();
  if (text !== "") executeSync(url, text);
  return url;
}

function open(url: string, options: Partial<typeof OPTIONS> = {}): Store {
  const store = postgresAt(url, { ...OPTIONS, ...options });
  onTestFinished(() => store[Symbol.asyncDispose]());
  return store;
}

/** A promise to be kept from outside. */
function latch(): { passed: Promise<void>; pass(): void } {
  let pass = () => {};
  const passed = new Promise<void>((done) => {
    pass = done;
  });
  return { passed, pass };
}

describe("values", () => {
  const TYPES: Record<string, Value[]> = {
    text: ["", "a'b\\c{}\",NULL", "NULL", "\u{1F41D}é", "x".repeat(100_000)],
    "varchar(5)": ["abcde", "é", ""],
    bigint: [0n, 2n ** 53n + 1n, 2n ** 63n - 1n, -(2n ** 63n)],
    smallint: [-32768n],
    "double precision": [0.1, -2.5, 1e308, 5e-324, Number.POSITIVE_INFINITY, -0, Number.NaN, 2 ** 53],
    real: [0.1, 16777216],
    boolean: [1n, 0n],
    bytea: [new Uint8Array(), Uint8Array.of(0, 255, 39, 92)],
    uuid: ["0b0e7c1e-9f0a-4c58-8f26-2a1f6a0f7f00"],
    timestamptz: ["2025-10-02T10:11:12.500Z", "2025-10-02T10:11:12.123456Z", "infinity", "-infinity"],
    timestamp: ["2025-10-02 10:11:12.5"],
    date: ["2024-02-29"],
    jsonb: ['{"a": [1, 1.0, null], "b": "\\n"}', "null", '"x"', "12345678901234567890.5"],
    json: ['{"b":1.0, "a":2,"a":3}'],
    numeric: [5n, 0.5, 2n ** 62n, "123456789012345678901234567890", "0.12345678901234567890"],
    "numeric(10,2)": [12.25],
    "text[]": ['{a,"b c",NULL}', "{}"],
    "integer[]": ["{1,2,NULL}"],
    interval: ["1 day 02:03:04"],
    inet: ["10.0.0.1/8"],
    mood: ["so so"],
    "odd domain": ["abc"],
    nested: ["abc"],
  };

  test("of every type come back exactly, through insert and upsert", async () => {
    const names = Object.keys(TYPES);
    const declared = (type: string) => (type === "odd domain" ? '"odd domain"' : type);
    const url = await place(`CREATE TYPE mood AS ENUM ('so so', 'well');
      CREATE DOMAIN "odd domain" AS varchar(3); CREATE DOMAIN nested AS "odd domain" CHECK (value <> 'no');
      CREATE TABLE v (n bigint PRIMARY KEY, ${names.map((type, i) => `c${i} ${declared(type)}`).join(", ")})`);
    const store = open(url);
    const columns = ["n", ...names.map((_, i) => `c${i}`)];
    const most = Math.max(...Object.values(TYPES).map((values) => values.length));
    const rows: Tuple[] = Array.from({ length: most + 1 }, (_, n) => [
      BigInt(n),
      ...names.map((name) => TYPES[name]?.[n] ?? null),
    ]);
    expect(await store.transaction("insert", (tx) => tx.insert("v", columns, rows))).toBe(rows.length);
    const read = () => store.read.tuples(sql`SELECT * FROM v ORDER BY n`);
    expect(await read()).toEqual(rows);
    const again = (await read()).map((row, i) => [row[0] ?? null, ...(rows[(i + 1) % rows.length] ?? []).slice(1)]);
    await store.transaction("upsert", (tx) => tx.upsert("v", columns, again, "n", columns.slice(1)));
    expect(await read()).toEqual(again);
    // As parameters they are the same.
    for (const [i, name] of names.entries()) {
      for (const value of TYPES[name] ?? []) {
        if (name === "json") continue;
        const found = await store.read.all(sql`SELECT count(*) AS n FROM v WHERE ${script(`c${i}`)} = ${value}`);
        expect(found, `${name} ${String(value).slice(0, 40)}`).toEqual([{ n: 1 }]);
      }
    }
  });

  test("what a column cannot hold is refused, never cut off", async () => {
    const store = open(
      await place(`CREATE DOMAIN short AS varchar(3); CREATE DOMAIN shorter AS short CHECK (value <> 'no');
        CREATE TYPE mood AS ENUM ('well');
        CREATE TABLE v (id text PRIMARY KEY, a varchar(3), b short, c shorter, d char(3), e mood, f smallint, g uuid, h jsonb, i bytea)`),
    );
    const wrong: [string, Value][] = [
      ...(["a", "b", "c", "d"] as const).map((column): [string, Value] => [column, "abcd"]),
      ...([
        ["c", "no"],
        ["e", "bad"],
        ["f", 40_000n],
        ["f", 0.5],
        ["g", "x"],
        ["h", "{"],
        ["h", '"\\u0000"'],
      ] as [string, Value][]),
    ];
    for (const [column, value] of wrong) {
      await store.transaction("wrong", async (tx) => {
        const add = () => tx.insert("v", ["id", column], [["x", value]]);
        await expect(tx.attempt(add), `${column} ${value}`).rejects.toEqual(failure("CONSTRAINT"));
        const put = () => tx.upsert("v", ["id", column], [["x", value]], "id", [column]);
        await expect(tx.attempt(put), `${column} ${value}`).rejects.toEqual(failure("CONSTRAINT"));
      });
    }
    expect(await store.read.all(sql`SELECT * FROM v`)).toEqual([]);
  });

  test("U+0000 and half of a surrogate pair are refused wherever they stand", async () => {
    const store = open(await place("CREATE TABLE v (id text PRIMARY KEY)"));
    for (const text of ["a\u0000b", "\ud800", "x\udc00y", "\udc00\ud800"]) {
      const refused = (work: () => Promise<unknown>) => expect(work()).rejects.toEqual(failure("CONSTRAINT"));
      await refused(() => store.read.all(sql`SELECT ${text} AS a`));
      await refused(() => store.transaction("x", (tx) => tx.insert("v", ["id"], [[text]])));
      await refused(() => store.transaction("x", (tx) => tx.upsert("v", ["id"], [[text]], "id", [])));
      await refused(() => store.transaction("x", (tx) => tx.lockRows("v", "id", [text], "wait")));
    }
    await expect(store.table("a\u0000b")).rejects.toEqual(failure("CONSTRAINT"));
    await expect(store.transaction("x", (tx) => tx.script("SELECT 1 -- \u0000"))).rejects.toEqual(
      failure("CONSTRAINT"),
    );
    await store.transaction("x", (tx) => tx.insert("v", ["id"], [["\u{1F41D}"]]));
    expect(await store.read.all(sql`SELECT id FROM v`)).toEqual([{ id: "\u{1F41D}" }]);
  });
});

describe("the catalogue", () => {
  test("triggers by the beginning of their name, and a version that changes with every change", async () => {
    const store = open(
      await place(`CREATE TABLE notes (id int, body text); CREATE TABLE other (id text);
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$`),
    );
    const versions = [await store.schemaVersion()];
    const trigger = "CREATE TRIGGER cap_one AFTER INSERT ON notes EXECUTE FUNCTION f()";
    const changes = [
      trigger,
      "CREATE TRIGGER capxone AFTER DELETE ON notes EXECUTE FUNCTION f()",
      ...["ADD COLUMN more text", "RENAME more TO less", "ALTER less SET NOT NULL", "ALTER less TYPE varchar(5)"].map(
        (change) => `ALTER TABLE notes ${change}`,
      ),
      ...["ALTER TABLE notes RENAME less TO more", "ALTER TABLE notes RENAME more TO less"],
      "CREATE INDEX ix_less ON notes (less)",
      "ALTER TABLE notes DROP COLUMN less",
      "DROP TRIGGER capxone ON notes",
      "DROP TABLE other",
    ];
    const inside: number[] = [];
    for (const change of changes) {
      await store.transaction("change", async (tx) => {
        await tx.script(change);
        inside.push(await store.schemaVersion(tx));
      });
      versions.push(await store.schemaVersion());
    }
    expect(new Set(versions).size).toBe(versions.length);
    expect(inside).toEqual(versions.slice(1));
    await store.transaction("rows", (tx) => tx.run(sql`INSERT INTO notes VALUES (1, ${"x"})`));
    await store.transaction("rows", (tx) => tx.script("ANALYZE notes"));
    expect(await store.schemaVersion()).toBe(versions.at(-1));
    expect((await store.triggers("cap_")).map(({ name, table }) => [name, table])).toEqual([["cap_one", "notes"]]);
    // Twice in one transaction, which has one number.
    await store.transaction("twice", async (tx) => {
      const seen: number[] = [];
      for (const name of ["a", "b", "a"]) {
        const from = seen.length === 0 ? "body" : seen.length === 1 ? "a" : "b";
        await tx.script(`ALTER TABLE notes RENAME ${from} TO ${name}`);
        seen.push(await store.schemaVersion(tx));
      }
      expect(new Set(seen).size).toBe(3);
    });
  });

  test("two tables of one name: a trigger on the one that is not meant is refused", async () => {
    const url = await place(`CREATE TABLE tasks (id text); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN RETURN NULL; END $$; CREATE TRIGGER hive_capture_insert AFTER INSERT ON tasks EXECUTE FUNCTION f()`);
    const store = open(url);
    expect(await store.triggers("hive_capture_")).toHaveLength(1);
    executeSync(url, "CREATE SCHEMA old; ALTER TABLE tasks SET SCHEMA old; CREATE TABLE tasks (id text)");
    await expect(store.triggers("hive_capture_")).rejects.toEqual(failure("SCHEMA_MISMATCH", /old\.tasks/));
  });

  test("a user's table that is called like one of hive's is refused", async () => {
    const url = await place("CREATE TABLE hive_flags (id text); CREATE TABLE hive_own_things (id text)");
    await expect(openPostgres(url, OPTIONS)).rejects.toEqual(failure("CONFIG_INVALID", /own: public\.hive_flags\.$/));
    executeSync(url, "ALTER TABLE hive_flags RENAME TO flags");
    await (await openPostgres(url, OPTIONS))[Symbol.asyncDispose]();
  });

  test("tables that a user of the name hive makes are not in hive's schema", async () => {
    const url = await place("CREATE SCHEMA hive");
    const store = open(`${url}?options=-c%20search_path%3Dhive,public`);
    await store.transaction("make", (tx) => tx.script("CREATE TABLE mine (id text)"));
    expect(selectSync(url, "SELECT schemaname AS s FROM pg_tables WHERE tablename = 'mine'")).toEqual([
      { s: "public" },
    ]);
  });

  test("the names that are refused are those of the migrations", async () => {
    const { readFileSync, readdirSync } = await import("node:fs");
    const folder = new URL("../../migrations/", import.meta.url);
    const made = readdirSync(folder)
      .filter((name) => name.endsWith(".postgres.sql"))
      .flatMap((name) => [
        ...readFileSync(new URL(name, folder), "utf8").matchAll(/CREATE TABLE (?:hive\.)?(hive_\w+)/g),
      ])
      .map(([, name]) => String(name));
    expect(made.length).toBeGreaterThan(10);
    expect([...new Set([...made, "hive_locks", "hive_migrations"])].sort()).toEqual([...HIVE_TABLES].sort());
  });
});

describe("transactions", () => {
  const NOTES =
    "CREATE TABLE notes (id int PRIMARY KEY, body text); INSERT INTO notes VALUES (1, 'a'), (2, 'b'), (3, 'c')";
  const set = (id: number, body: string) => sql`UPDATE notes SET body = ${body} WHERE id = ${id}`;

  test("what is marked is seen as such within, and not after it or in another transaction", async () => {
    const store = open(await place());
    const mark = sql`SELECT coalesce(current_setting('hive.applying', true), '') AS mark`;
    await store.transaction("marks", async (tx) => {
      expect(await tx.marked(() => tx.all(mark))).toEqual([{ mark: "on" }]);
      expect(await tx.all(mark)).toEqual([{ mark: "" }]);
      await expect(tx.attempt(() => tx.marked(() => tx.all(script("SELECT 1/0"))))).rejects.toEqual(
        failure("CONSTRAINT"),
      );
      expect(await tx.all(mark)).toEqual([{ mark: "" }]);
    });
    const failing = store.transaction("fails", (tx) => tx.marked(() => Promise.reject(new Error("no"))));
    await expect(failing).rejects.toThrow("no");
    for (let i = 0; i < 5; i++) expect(await store.transaction("next", (tx) => tx.all(mark))).toEqual([{ mark: "" }]);
  });

  test("rows that another holds are left out, or waited for; agents may still refer to them", async () => {
    const url = await place(`${NOTES}; CREATE TABLE c (note int REFERENCES notes)`);
    const [holder, store] = [open(url), open(url, { busyTimeoutMs: 300 })];
    await holder.transaction("hold", async (tx) => {
      const all = Array.from({ length: 70_000 }, (_, i) => BigInt(i + 2));
      expect(await tx.lockRows("notes", "id", all, "wait")).toEqual([[2n], [3n]]);
      expect(await tx.lockRows("notes", "id", [], "wait")).toEqual([]);
      executeSync(url, "INSERT INTO c VALUES (2)");
      const skipped = await store.transaction("skip", (other) => other.lockRows("notes", "id", [3n, 2n, 1n], "skip"));
      expect(skipped).toEqual([[1n]]);
      const waiting = store.transaction("wait", (other) => other.lockRows("notes", "id", [2n], "wait"));
      await expect(waiting).rejects.toEqual(failure("DATABASE_BUSY"));
    });
    expect(await store.transaction("wait", (tx) => tx.lockRows("notes", "id", [2n], "wait"))).toEqual([[2n]]);
  });

  test("one name at a time, and any others beside it", async () => {
    const url = await place();
    const [one, two] = [open(url), open(url, { busyTimeoutMs: 100 })];
    await one.transaction("one", async (tx) => {
      expect(await tx.serialize(["a", "b", "a"])).toBe(true);
      expect(await tx.serialize(["a"], "skip")).toBe(true);
      expect(await tx.serialize([])).toBe(true);
      const others = (names: string[], patience?: "skip") =>
        two.transaction("two", (tx2) => tx2.serialize(names, patience));
      expect(await others(["c", "d"], "skip")).toBe(true);
      expect(await others(["c", "b"], "skip")).toBe(false);
      await expect(others(["b"])).rejects.toEqual(failure("DATABASE_BUSY"));
    });
    expect(await two.transaction("two", (tx) => tx.serialize(["a", "b"]))).toBe(true);
  });

  test("a row that an agent holds is waited for, up to the time", async () => {
    const url = await place(NOTES);
    const [agent, store] = [open(url), open(url, { busyTimeoutMs: 250 })];
    const { passed, pass } = latch();
    const begun = latch();
    const holding = agent.transaction("hold", async (tx) => {
      await tx.run(set(1, "held"));
      begun.pass();
      await passed;
    });
    await begun.passed;
    const late = store.transaction("late", (tx) => tx.run(set(1, "late")));
    await expect(late).rejects.toMatchObject({
      code: "DATABASE_BUSY",
      retryable: true,
      details: { label: "late", waitedMs: 250 },
    });
    let runs = 0;
    const patient = open(url).transaction("patient", async (tx) => {
      runs += 1;
      if (runs === 2) pass();
      await tx.run(set(1, "patient"));
    });
    await patient;
    await holding;
    // It was begun again: what it had done was undone, and the agent could go on meanwhile.
    expect(runs).toBeGreaterThan(1);
    expect(selectSync(url, "SELECT body FROM notes WHERE id = 1")).toEqual([{ body: "patient" }]);
  });

  test("two that wait for each other both come through", async () => {
    const url = await place(NOTES);
    const store = open(url);
    const first = [latch(), latch()];
    let runs = 0;
    const crossing = (mine: number, other: number) =>
      store.transaction(`crossing ${mine}`, async (tx) => {
        runs += 1;
        await tx.run(sql`UPDATE notes SET body = body || ${"x"} WHERE id = ${mine + 1}`);
        first[mine]?.pass();
        await first[other]?.passed;
        await tx.run(sql`UPDATE notes SET body = body || ${"y"} WHERE id = ${other + 1}`);
      });
    await Promise.all([crossing(0, 1), crossing(1, 0)]);
    expect(runs).toBeGreaterThan(2);
    const rows = selectSync(url, "SELECT body FROM notes WHERE id < 3 ORDER BY id").map(({ body }) =>
      [...String(body)].sort().join(""),
    );
    expect(rows).toEqual(["axy", "bxy"]);
  });

  test("an altered table: what was prepared for it is prepared again", async () => {
    const url = await place(NOTES);
    const store = open(url);
    const read = () => store.read.tuples(sql`SELECT * FROM notes WHERE id = ${1}`);
    const add = (id: bigint) => store.transaction("add", (tx) => tx.insert("notes", ["id", "body"], [[id, "5"]]));
    await add(10n);
    expect(await read()).toEqual([[1n, "a"]]);
    executeSync(url, "UPDATE notes SET body = '7'; ALTER TABLE notes ALTER body TYPE int USING body::int");
    await add(11n);
    expect(await read()).toEqual([[1n, 7n]]);
  });

  test("a query's rows do not depend on the settings of the role", async () => {
    const url = await place("CREATE TABLE v (at timestamptz, b bytea, r real)");
    executeSync(
      url,
      `INSERT INTO v VALUES ('2025-01-01 00:00:00+00', '\\x00ff', 0.1);
      ALTER DATABASE ${new URL(url).pathname.slice(1)} SET timezone = 'Asia/Tokyo';
      ALTER DATABASE ${new URL(url).pathname.slice(1)} SET datestyle = 'SQL, DMY';
      ALTER DATABASE ${new URL(url).pathname.slice(1)} SET bytea_output = 'escape';
      ALTER DATABASE ${new URL(url).pathname.slice(1)} SET extra_float_digits = -5`,
    );
    for (const pooled of ["", "?pooler=transaction"]) {
      const store = open(url + pooled);
      expect(await store.read.tuples(sql`SELECT at, b, r FROM v`)).toEqual([
        ["2025-01-01T00:00:00.000Z", Uint8Array.of(0, 255), 0.1],
      ]);
    }
  });
});

describe("connections", () => {
  /** Ends connections of hive's with this in their application_name; how many there were. */
  const terminate = (url: string, name: string) =>
    selectSync(
      url,
      `SELECT pg_terminate_backend(pid) AS t FROM pg_stat_activity
       WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE '${name}'`,
    ).length;

  test("one that is ended in the middle of something ends it like a kill, and the next one is another", async () => {
    const url = await place("CREATE TABLE notes (id int)");
    const store = open(url);
    const working = store.transaction("long work", async (tx) => {
      await tx.run(sql`INSERT INTO notes VALUES (1)`);
      expect(terminate(url, "hive: long work")).toBe(1);
      await tx.run(sql`INSERT INTO notes VALUES (2)`);
    });
    await expect(working).rejects.toMatchObject({
      code: "DATABASE_UNREACHABLE",
      retryable: true,
    });
    const idle = store.transaction("at the end", async (tx) => {
      await tx.run(sql`INSERT INTO notes VALUES (1)`);
      terminate(url, "hive: at the end");
    });
    await expect(idle).rejects.toEqual(failure("DATABASE_UNREACHABLE"));
    const running = store.transaction("sleeping", (tx) => tx.run(sql`SELECT pg_sleep(60)`));
    await expect.poll(() => terminate(url, "hive: sleeping")).toBe(1);
    await expect(running).rejects.toEqual(failure("DATABASE_UNREACHABLE"));
    const reading = store.snapshot(async (session) => {
      terminate(url, "hive (reading)");
      await session.all(sql`SELECT 1`);
    });
    await expect(reading).rejects.toEqual(failure("DATABASE_UNREACHABLE"));
    // While nobody uses them.
    await store.read.all(sql`SELECT 1`);
    terminate(url, "hive%");
    await expect.poll(() => store.read.all(sql`SELECT count(*) AS n FROM notes`).catch(() => null)).toEqual([{ n: 0 }]);
    await store.transaction("again", (tx) => tx.run(sql`INSERT INTO notes VALUES (3)`));
    expect(selectSync(url, "SELECT id FROM notes")).toEqual([{ id: 3 }]);
  });

  test("a lock whose sign of life is lost: the holder cannot write once another has it", async () => {
    const url = await place("CREATE TABLE notes (id int)");
    const [holder, other] = [open(url, { leaseMs: 2_000 }), open(url, { leaseMs: 2_000 })];
    const lost = holder.withLock("work", {}, async () => {
      expect(terminate(url, "hive (lock)")).toBe(1);
      await other.withLock("work", { timeoutMs: 20_000 }, async () => {
        await holder.transaction("late", (tx) => tx.run(sql`INSERT INTO notes VALUES (1)`));
      });
    });
    await expect(lost).rejects.toEqual(failure("LOCK_LOST"));
    expect(selectSync(url, "SELECT id FROM notes")).toEqual([]);
  });

  test("one transaction that waits for too long within is ended, and says so", async () => {
    const url = await place();
    const store = open(url, { leaseMs: 1_000 });
    const idle = store.transaction("idle", async (tx) => {
      const [row] = await tx.all(sql`SELECT pg_backend_pid() AS pid`);
      await expect
        .poll(() => selectSync(url, `SELECT 1 AS one FROM pg_stat_activity WHERE pid = ${row?.pid}`), {
          timeout: 20_000,
        })
        .toEqual([]);
      await tx.run(sql`SELECT 1`);
    });
    await expect(idle).rejects.toEqual(failure("DATABASE_UNREACHABLE", /idle-in-transaction/));
  });

  test("a server that is away for a moment is waited for; one that was never there is not", async () => {
    const url = await place();
    const proxy = await proxyTo(url);
    const store = await openPostgres(proxy.url, OPTIONS);
    onTestFinished(() => store[Symbol.asyncDispose]());
    await proxy.close();
    const reading = store.read.all(sql`SELECT 1 AS one`).catch(() => store.read.all(sql`SELECT 1 AS one`));
    const writing = store.transaction("w", (tx) => tx.all(sql`SELECT 2 AS two`));
    await systemClock.sleep(100);
    await proxy.open();
    expect([await reading, await writing]).toEqual([[{ one: 1 }], [{ two: 2 }]]);
    await proxy.close();
    const begun = performance.now();
    await expect(openPostgres(proxy.url, OPTIONS)).rejects.toMatchObject({
      code: "DATABASE_UNREACHABLE",
      retryable: true,
      exitCode: 1,
    });
    expect(performance.now() - begun).toBeLessThan(5_000);
  });

  test("closing does not wait for those who are still at work", async () => {
    const url = await place("CREATE TABLE notes (id int)");
    const store = open(url);
    const begun = latch();
    const working = store.withLock("a", {}, () =>
      store.transaction("long", async (tx) => {
        await tx.run(sql`INSERT INTO notes VALUES (1)`);
        begun.pass();
        await tx.run(sql`SELECT pg_sleep(600)`);
      }),
    );
    const ended = expect(working).rejects.toEqual(failure("INTERNAL", /closed/));
    const forever = store.snapshot(() => new Promise(() => undefined));
    void forever.catch(() => undefined);
    await begun.passed;
    await store[Symbol.asyncDispose]();
    await ended;
    await expect(store.read.all(sql`SELECT 1`)).rejects.toEqual(failure("INTERNAL", /closed/));
    expect(selectSync(url, "SELECT id FROM notes")).toEqual([]);
  });

  test("hive's own connections say what they are for, and its short statements do not run for long", async () => {
    const url = await place();
    const store = open(`${url}?application_name=mine`);
    const [row] = await store.transaction("it's; a \\ label", (tx) =>
      tx.all(sql`SELECT current_setting('application_name') AS name`),
    );
    expect(row).toEqual({ name: "mine: it?s? a ? label" });
    expect(await store.read.all(sql`SELECT current_setting('application_name') AS name`)).toEqual([
      { name: "mine (reading)" },
    ]);
    const names = () =>
      selectSync(
        url,
        "SELECT DISTINCT application_name AS a FROM pg_stat_activity WHERE application_name LIKE 'mine%' ORDER BY 1",
      );
    await store.withLock("x", {}, async () => {
      expect(names().map(({ a }) => a)).toEqual(["mine (lock)", "mine (reading)", "mine (writing)"]);
    });
  });
});

describe("the URL", () => {
  const SECRET = "s3cret-Pa55";

  test("a password is shown nowhere, however the URL is wrong", async () => {
    const { host } = new URL(await place());
    const wrong = [
      `postgres://u:${SECRET}@${host}/no_such_database`,
      `postgres://u:${SECRET}@127.0.0.1:1/x`,
      `postgres://u:${SECRET}@no-such-host.invalid/x`,
      `postgres://u:${SECRET}@${host}/x?sslmode=require`,
      `postgres://u:${SECRET}@${host}/x?sslmode=verify-full&sslrootcert=/no/such/file`,
      `postgres://u:${SECRET}@${host}/x?sslmode=verify-ca`,
      `postgres://u@${host}/x?password=${SECRET}`,
      `postgres://u:1${"#"}${SECRET}@${host}/x`,
      `postgres://u:1?${SECRET}@${host}/x`,
      `postgres://u:1/${SECRET}@${host}/x`,
      `postgres://u:${SECRET}#x@${host}/x`,
      `postgres://u:${SECRET}@${host}:x/x`,
      `postgres://u:${SECRET}@${host}/x?pooler=bad`,
      `postgres://u:%zz${SECRET}@${host}/x`,
    ];
    const codes: string[] = [];
    for (const url of wrong) {
      const error = await openPostgres(url, { ...OPTIONS, busyTimeoutMs: 100 }).catch((one) => one);
      expect(error).toMatchObject({ name: "HiveError", hint: expect.any(String) });
      codes.push(`${error.code} ${error.exitCode}`);
      const shown =
        inspect(error, { depth: 20, showHidden: true }) +
        JSON.stringify({ ...error, cause: error.cause }) +
        error.stack;
      expect(shown).not.toContain(SECRET);
    }
    const config = "CONFIG_INVALID 2";
    const away = "DATABASE_UNREACHABLE 1";
    // Without a role of this name the server says so before it looks for the database.
    expect(codes.slice(0, 3)).toEqual([config, away, away]);
    expect(new Set(codes.slice(3))).toEqual(new Set([config]));
    const store = open(`postgres://postgres:${SECRET}@${host}/x?password=${SECRET}&sslmode=disable&pooler=transaction`);
    expect(store.location).toBe(`postgres://postgres@${host}/x`);
  });

  test("a database that is not there", async () => {
    const url = new URL(await place());
    url.pathname = "/no_such_database";
    await expect(openPostgres(url.href, OPTIONS)).rejects.toMatchObject({ code: "DATABASE_NOT_FOUND", exitCode: 2 });
  });
});

describe("servers that are not PostgreSQL, or too old", () => {
  const facts = (version: string, serverVersion: string, number: number, extensions: string[] = []) =>
    unsupported({ version, serverVersion, number, extensions }, "postgres://h/d");

  // As their documentation and their servers print them.
  test.each([
    [
      "CockroachDB",
      facts("CockroachDB CCL v23.1.0 (x86_64-pc-linux-gnu, built 2023/05/15 10:00:00, go1.19.4)", "13.0.0", 130_000),
    ],
    [
      "YugabyteDB",
      facts(
        "PostgreSQL 11.2-YB-2.2.0.0-b0 on x86_64-pc-linux-gnu, compiled by gcc, 64-bit",
        "11.2-YB-2.2.0.0-b0",
        110_002,
      ),
    ],
    ["YugabyteDB", facts("PostgreSQL 15.2 on x86_64-pc-linux-gnu", "15.2-YB-2.25.1.0-b0", 150_002)],
    ["Citus", facts("PostgreSQL 16.3 (Debian 16.3-1.pgdg120+1) on x86_64-pc-linux-gnu", "16.3", 160_003, ["citus"])],
    ["PostgreSQL before 13", facts("PostgreSQL 12.19 on x86_64-pc-linux-gnu", "12.19", 120_019)],
  ])("%s is refused, and what it lacks is named", (engine, error) => {
    expect(error).toMatchObject({
      code: "CONFIG_INVALID",
      exitCode: 2,
      message: expect.stringMatching(new RegExp(`is ${engine} .*lacks .*pg_current_snapshot`)),
      details: { engine, lacks: expect.arrayContaining(["snapshotFunctions"]) },
    });
  });

  test("any other is not", () => {
    expect(
      facts("PostgreSQL 15.20 (Debian 15.20-0+deb12u1) on x86_64-pc-linux-gnu", "15.20 (Debian)", 150_020),
    ).toBeNull();
    expect(facts("PostgreSQL 13.0 on x86_64-pc-linux-gnu", "13.0", 130_000, [])).toBeNull();
    expect(facts("PostgreSQL 18.1 on x86_64-pc-linux-gnu", "18.1", 180_001)).toBeNull();
  });

  test("a database with the extension is refused when it is opened", async () => {
    const url = await place();
    // What hive asks for is there, though nothing of it works.
    executeSync(
      url,
      `CREATE SCHEMA fake; CREATE TABLE fake.pg_extension (extname name); INSERT INTO fake.pg_extension VALUES ('citus')`,
    );
    const faked = `${url}?options=-c%20search_path%3Dfake,pg_catalog,public`;
    await expect(openPostgres(faked, OPTIONS)).rejects.toEqual(failure("CONFIG_INVALID", /Citus/));
  });
});
