import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { setTimeout as delay } from "node:timers/promises";
import fc from "fast-check";
import { describe, expect, onTestFinished, test } from "vitest";
import type { Store, Value } from "../../src/storage/port.ts";
import { among, id, ids, join, type Sql, script, sql } from "../../src/storage/sql.ts";

/**
 * What every adapter of the storage port has to do, written once: an adapter's own test file gives a factory and calls
 * {@link describeStore}. What one of them cannot do is skipped with its reason.
 */
export interface StoreFactory {
  readonly name: string;
  /** An empty database for the running test. */
  create(): Promise<TestDatabase>;
  /** Skipped tests by title, with the reason. */
  readonly skips?: Readonly<Record<string, string>>;
}

export interface TestDatabase {
  open(options?: { busyTimeoutMs?: number; leaseMs?: number }): Store;
  /** As another process would: past every store. */
  execute(text: string): Promise<void>;
  /** A process of its own that does one thing of child.mjs. */
  child(request: { action: "transaction" | "lock" | "count"; [option: string]: unknown }): [string, ...string[]];
}

export interface Child {
  readonly process: ChildProcessWithoutNullStreams;
  /** The next event of this name. */
  next(event: string): Promise<Record<string, unknown>>;
  tell(): void;
}

/** Its events in order; killed when the test ends. */
export function run([command, ...args]: [string, ...string[]]): Child {
  const child = spawn(command, args);
  const events: Record<string, unknown>[] = [];
  let partial = "";
  let errors = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    const lines = (partial + text).split("\n");
    partial = lines.pop() ?? "";
    for (const line of lines) events.push(JSON.parse(line));
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors += text;
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  return {
    process: child,
    next: async (event) => {
      for (const deadline = Date.now() + 20_000; Date.now() < deadline; await delay(5)) {
        const at = events.findIndex((one) => one.event === event);
        const found = at < 0 ? undefined : events.splice(0, at + 1).at(-1);
        if (found) return found;
        if (child.exitCode !== null && events.length === 0) break;
      }
      throw new Error(`no event "${event}" of the child: ${JSON.stringify(events)} ${errors}`);
    },
    tell: () => void child.stdin.write("\n"),
  };
}

const failure = (code: string, message: RegExp = /./) =>
  expect.objectContaining({ name: "HiveError", code, message: expect.stringMatching(message) });

const NOTES = "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)";

export function describeStore(factory: StoreFactory): void {
  const it = (title: string, work: (database: TestDatabase) => Promise<void>, timeout = 60_000) => {
    const reason = factory.skips?.[title];
    test.skipIf(reason !== undefined)(
      reason === undefined ? title : `${title} (skipped: ${reason})`,
      { timeout },
      async () => {
        await work(await factory.create());
      },
    );
  };
  const bodies = async (store: Store) =>
    (await store.read.all(sql`SELECT body FROM notes ORDER BY id`)).map((row) => row.body);
  const insert = (store: Store, body: Value, label = "insert") =>
    store.transaction(label, (tx) => tx.run(sql`INSERT INTO notes (body) VALUES (${body})`));

  describe(`store: ${factory.name}`, () => {
    describe("queries", () => {
      it("any string is data as a value", async (database) => {
        await database.execute(NOTES);
        await using store = database.open();
        const text = fc.oneof(
          fc.string({ unit: "binary" }).map((one) => one.replaceAll(/\p{Cs}/gu, "")),
          fc.constantFrom(
            "'",
            "''",
            '"',
            "'; DROP TABLE notes; --",
            "?",
            "$1",
            ":a",
            "\\",
            "/*",
            "\u0000",
            "%",
            "[x]",
            "`",
          ),
        );
        await fc.assert(
          fc.asyncProperty(text, text, async (one, two) => {
            const rows = await store.read.all(
              sql`SELECT ${one} AS a, ${two} AS b WHERE ${one} IN ${among([two, one])}`,
            );
            expect(rows).toEqual([{ a: one, b: two }]);
          }),
          { numRuns: 200 },
        );
        expect(await store.table("notes")).not.toBeNull();
      });

      it("any string is data as a name", async (database) => {
        await using store = database.open();
        const name = fc
          .oneof(
            fc.string({ unit: "binary", minLength: 1, maxLength: 20 }),
            fc.constantFrom(
              '"',
              '""',
              'a"b',
              "a'b",
              "select",
              "a.b",
              "a b",
              "; DROP TABLE x",
              "--",
              "é",
              "?",
              "$1",
              "__proto__",
            ),
          )
          .map((one) => one.replaceAll(/\p{Cs}/gu, "").replaceAll("\u0000", ""))
          .filter((one) => one !== "" && !one.toLowerCase().startsWith("sqlite_") && Buffer.byteLength(one) < 60);
        await fc.assert(
          fc.asyncProperty(name, name, async (table, column) => {
            await store.transaction("names", async (tx) => {
              await tx.run(sql`CREATE TABLE ${id(table)} (${id(column)} TEXT)`);
              await tx.insert(table, [column], [["x"]]);
              expect(await tx.tuples(sql`SELECT ${id(table, column)} FROM ${id(table)}`)).toEqual([["x"]]);
              expect((await store.table(table, tx))?.columns.map((one) => one.name)).toEqual([column]);
              expect(await store.tables(tx)).toEqual([table]);
              await tx.run(sql`DROP TABLE ${id(table)}`);
            });
          }),
          { numRuns: 100 },
        );
        expect(await store.tables()).toEqual([]);
      });

      it("pieces are put together without becoming text", async (database) => {
        await database.execute("CREATE TABLE t (a INTEGER, b TEXT)");
        await using store = database.open();
        await store.transaction("rows", (tx) =>
          tx.insert(
            "t",
            ["a", "b"],
            [
              [1n, "x"],
              [2n, "y"],
              [3n, "?"],
            ],
          ),
        );
        const conditions: Sql[] = [sql`a > ${1}`, sql`b <> ${"'"}`, sql`b IN ${among(["?", "y"])}`];
        const query = sql`SELECT ${ids(["a", "b"])} FROM ${id("t")} WHERE ${join(conditions, " AND ")} ORDER BY a`;
        expect(await store.read.all(query)).toEqual([
          { a: 2, b: "y" },
          { a: 3, b: "?" },
        ]);
        expect(await store.read.all(sql`SELECT a FROM t WHERE a IN ${among([])}`)).toEqual([]);
        const many = Array.from({ length: 5_000 }, (_, i) => i);
        expect(await store.read.all(sql`SELECT count(*) AS n FROM t WHERE a IN ${among(many)}`)).toEqual([{ n: 3 }]);
        expect(await store.read.all(sql`SELECT ${true} AS yes, ${false} AS no`)).toEqual([{ yes: 1, no: 0 }]);
      });

      it("values come back exactly, and of the kind they were", async (database) => {
        await database.execute("CREATE TABLE v (n INTEGER PRIMARY KEY, x)");
        await using store = database.open();
        const values: Value[] = [
          ...[null, "", "text", "a\u0000b", "\u{1F41D}é", "5", "x".repeat(100_000)],
          ...[0n, -1n, 2n ** 53n + 1n, 2n ** 63n - 1n, -(2n ** 63n)],
          ...[0.1, 5, -2.5, 1e308, 5e-324, Number.POSITIVE_INFINITY, 2 ** 53],
          ...[new Uint8Array(), Uint8Array.of(0, 255, 39)],
        ];
        const rows = values.map((value, i) => [BigInt(i), value]);
        const added = await store.transaction("insert", (tx) => tx.insert("v", ["n", "x"], rows));
        expect(added).toBe(values.length);
        const found = await store.read.tuples(sql`SELECT x FROM v ORDER BY n`);
        for (const [i, value] of values.entries()) {
          const back = found[i]?.[0];
          if (value instanceof Uint8Array)
            expect(Buffer.from(back as Uint8Array).equals(Buffer.from(value))).toBe(true);
          else expect(back, String(value).slice(0, 40)).toBe(value);
        }
        // In hive's own statements a whole number is an INTEGER.
        await store.transaction("own", (tx) => tx.run(sql`UPDATE v SET x = ${7} WHERE n = ${0}`));
        expect(await store.read.tuples(sql`SELECT x FROM v WHERE n = ${0n}`)).toEqual([[7n]]);
        expect(await store.read.all(sql`SELECT x FROM v WHERE n = ${0}`)).toEqual([{ x: 7 }]);
      });

      it("rows up to a size, at least one, and whether these are all", async (database) => {
        await database.execute("CREATE TABLE v (n INTEGER PRIMARY KEY, x TEXT)");
        await using store = database.open();
        const rows = [10, 10, 10_000, 10].map((length, i) => [BigInt(i), "x".repeat(length)]);
        await store.transaction("insert", (tx) => tx.insert("v", ["n", "x"], rows));
        await store.snapshot(async (session) => {
          const within = (bytes: number) => session.tuplesWithin(sql`SELECT n, x FROM v ORDER BY n`, bytes);
          expect(await within(0)).toEqual({ rows: rows.slice(0, 1), complete: false });
          expect(await within(15)).toEqual({ rows: rows.slice(0, 2), complete: false });
          expect(await within(100)).toEqual({ rows: rows.slice(0, 3), complete: false });
          expect(await within(20_000)).toEqual({ rows, complete: true });
          // What was left unread is in nobody's way.
          expect(await session.tuples(sql`SELECT count(*) FROM v`)).toEqual([[4n]]);
        });
      });

      it("more rows than one statement takes", async (database) => {
        await database.execute("CREATE TABLE wide (a INTEGER, b TEXT, c TEXT)");
        await using store = database.open();
        const rows = Array.from({ length: 7_001 }, (_, i) => [BigInt(i), `b${i}`, null]);
        expect(await store.transaction("many", (tx) => tx.insert("wide", ["a", "b", "c"], rows))).toBe(7_001);
        expect(await store.read.tuples(sql`SELECT count(*), sum(a), count(c) FROM wide`)).toEqual([
          [7001n, 24503500n, 0n],
        ]);
        expect(await store.transaction("none", (tx) => tx.insert("wide", ["a"], []))).toBe(0);
      });

      it("a table is described", async (database) => {
        await database.execute(`CREATE TABLE parent (id TEXT PRIMARY KEY);
          CREATE TABLE child (n INTEGER NOT NULL DEFAULT 5, p TEXT REFERENCES parent ON DELETE CASCADE, PRIMARY KEY (p, n));
          CREATE UNIQUE INDEX ix_child ON child (n)`);
        await using store = database.open();
        expect(await store.table("child")).toMatchObject({
          columns: [
            { name: "n", type: "integer", notNull: true, default: "5", primaryKey: 2 },
            { name: "p", type: "text", default: null, primaryKey: 1 },
          ],
          foreignKeys: [{ columns: ["p"], table: "parent", onDelete: "CASCADE" }],
          indexes: expect.arrayContaining([{ name: "ix_child", columns: ["n"], unique: true }]),
        });
        expect(await store.table("nothing")).toBeNull();
        expect(await store.tables()).toEqual(["child", "parent"]);
      });
    });

    describe("reading", () => {
      it("a snapshot stays as it was when it began", async (database) => {
        await database.execute(NOTES);
        await using store = database.open();
        await insert(store, "before");
        await store.snapshot(async (session) => {
          // Before its first query too.
          await insert(store, "own");
          await database.execute("INSERT INTO notes (body) VALUES ('other')");
          expect(await session.all(sql`SELECT body FROM notes`)).toEqual([{ body: "before" }]);
          await store.snapshot(async (later) => {
            expect(await later.all(sql`SELECT count(*) AS n FROM notes`)).toEqual([{ n: 3 }]);
          });
          expect(await session.all(sql`SELECT count(*) AS n FROM notes`)).toEqual([{ n: 1 }]);
        });
        expect(await bodies(store)).toEqual(["before", "own", "other"]);
      });

      it("a snapshot that fails is over", async (database) => {
        await database.execute(NOTES);
        await using store = database.open();
        const failing = store.snapshot(async () => {
          throw new Error("no");
        });
        await expect(failing).rejects.toThrow("no");
        await insert(store, "x");
        expect(await store.snapshot((session) => session.all(sql`SELECT body FROM notes`))).toEqual([{ body: "x" }]);
      });

      it("read sessions cannot write: the database refuses it", async (database) => {
        await database.execute(`${NOTES}; INSERT INTO notes (body) VALUES ('x')`);
        await using store = database.open();
        const writes = [
          sql`INSERT INTO notes (body) VALUES (${"y"})`,
          sql`UPDATE notes SET body = ${"y"}`,
          sql`DELETE FROM notes`,
          sql`CREATE TABLE other (id TEXT)`,
          sql`DROP TABLE notes`,
        ];
        for (const write of writes) {
          await expect(store.read.run(write)).rejects.toEqual(failure("DATABASE_READ_ONLY"));
          await expect(store.snapshot((session) => session.run(write))).rejects.toEqual(failure("DATABASE_READ_ONLY"));
        }
        expect(await bodies(store)).toEqual(["x"]);
        expect(await store.tables()).toEqual(["notes"]);
      });

      it("reading does not queue behind a writer", async (database) => {
        await database.execute(`${NOTES}; INSERT INTO notes (body) VALUES ('x')`);
        const holder = run(database.child({ action: "transaction" }));
        await holder.next("begun");
        await using store = database.open({ busyTimeoutMs: 50 });
        expect(await bodies(store)).toEqual(["x"]);
        expect(await store.snapshot((session) => session.all(sql`SELECT body FROM notes`))).toEqual([{ body: "x" }]);
        holder.tell();
        await holder.next("done");
        expect(await bodies(store)).toEqual(["x", "held"]);
      });

      it("a reader sees what others committed, and the number for it grows once", async (database) => {
        await database.execute(NOTES);
        await using store = database.open();
        const before = await store.othersCommitted();
        expect(await store.othersCommitted()).toBe(before);
        await insert(store, "own");
        expect(await store.othersCommitted()).toBe(before);
        await store.read.all(sql`SELECT 1 AS one`);
        await store.snapshot(async () => undefined);
        expect(await store.othersCommitted()).toBe(before);
        await database.execute("INSERT INTO notes (body) VALUES ('other')");
        // Reading it elsewhere in this process does not take the news away.
        expect(await bodies(store)).toEqual(["own", "other"]);
        await insert(store, "own again");
        const after = await store.othersCommitted();
        expect(after).toBeGreaterThan(before);
        expect(await store.othersCommitted()).toBe(after);
        await using another = database.open();
        await insert(another, "another store");
        await store.transaction("inside", async () => {
          expect(await store.othersCommitted()).toBeGreaterThan(after);
          expect(await store.othersCommitted()).toBe(await store.othersCommitted());
        });
      });
    });

    describe("writing", () => {
      it("all of a transaction or nothing", async (database) => {
        await database.execute(NOTES);
        await using store = database.open();
        const failing = store.transaction("half", async (tx) => {
          await tx.run(sql`INSERT INTO notes (body) VALUES (${"a"})`);
          await tx.script("CREATE TABLE other (id TEXT); INSERT INTO other VALUES ('x');");
          expect(await tx.all(sql`SELECT body FROM notes`)).toEqual([{ body: "a" }]);
          throw new Error("no");
        });
        await expect(failing).rejects.toThrow("no");
        expect(await bodies(store)).toEqual([]);
        expect(await store.tables()).toEqual(["notes"]);
        const { commits } = store.stats;
        await insert(store, "b");
        expect(store.stats.commits).toBe(commits + 1);
        expect(await bodies(store)).toEqual(["b"]);
        expect(await store.transaction("count", (tx) => tx.run(sql`UPDATE notes SET body = ${"c"}`))).toBe(1);
      });

      it("transactions of one store come one after the other", async (database) => {
        await database.execute(NOTES);
        await using store = database.open();
        const order: string[] = [];
        await Promise.all(
          ["a", "b", "c"].map((name) =>
            store.transaction(name, async (tx) => {
              order.push(`${name} begins`);
              await delay(5);
              await tx.run(sql`INSERT INTO notes (body) VALUES (${name})`);
              order.push(`${name} ends`);
            }),
          ),
        );
        expect(order).toEqual(["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]);
      });

      it("a transaction inside another is refused, naming both", async (database) => {
        await database.execute(NOTES);
        await using store = database.open();
        const nested = store.transaction("outer work", async (tx) => {
          await tx.run(sql`INSERT INTO notes (body) VALUES (${"outer"})`);
          await insert(store, "inner", "inner work");
        });
        await expect(nested).rejects.toEqual(failure("INTERNAL", /"inner work".*"outer work"/));
        expect(await bodies(store)).toEqual([]);
        const deeper = store.transaction("outer work", () => store.snapshot(() => insert(store, "x", "inner work")));
        await expect(deeper).rejects.toEqual(failure("INTERNAL", /"inner work".*"outer work"/));
        await insert(store, "after");
        expect(await bodies(store)).toEqual(["after"]);
      });

      it("what runs before the transaction takes no lock and cannot be seen by others", async (database) => {
        await database.execute(NOTES);
        const holder = run(database.child({ action: "transaction" }));
        await holder.next("begun");
        await using store = database.open();
        let staged = false;
        const working = store.transaction(
          "staged",
          async (tx) => {
            await tx.run(sql`INSERT INTO notes (body) SELECT body FROM stage`);
          },
          {
            before: async (session) => {
              await session.run(sql`CREATE TEMP TABLE stage (body TEXT)`);
              await session.insert("stage", ["body"], [["staged"]]);
              staged = true;
            },
          },
        );
        await expect.poll(() => staged).toBe(true);
        expect(await store.tables()).toEqual(["notes"]);
        holder.tell();
        await working;
        expect(await bodies(store)).toEqual(["held", "staged"]);
      });

      it("references are enforced, except where a transaction says so", async (database) => {
        await database.execute(
          "CREATE TABLE p (id TEXT PRIMARY KEY); CREATE TABLE c (p TEXT REFERENCES p ON DELETE CASCADE)",
        );
        await using store = database.open();
        const orphan = sql`INSERT INTO c VALUES (${"nowhere"})`;
        await expect(store.transaction("strict", (tx) => tx.run(orphan))).rejects.toEqual(failure("CONSTRAINT"));
        await store.transaction("loose", (tx) => tx.run(orphan), { looseReferences: true });
        await expect(store.transaction("strict", (tx) => tx.run(orphan))).rejects.toEqual(failure("CONSTRAINT"));
        const failing = store.transaction("loose", () => Promise.reject(new Error("no")), { looseReferences: true });
        await expect(failing).rejects.toThrow("no");
        await expect(store.transaction("strict", (tx) => tx.run(orphan))).rejects.toEqual(failure("CONSTRAINT"));
      });

      it("waits for another process's transaction, up to its time", async (database) => {
        await database.execute(NOTES);
        const holder = run(database.child({ action: "transaction" }));
        await holder.next("begun");
        await using impatient = database.open({ busyTimeoutMs: 120 });
        const begun = performance.now();
        await expect(insert(impatient, "late", "too late")).rejects.toEqual(failure("DATABASE_BUSY"));
        const waited = performance.now() - begun;
        expect(waited).toBeGreaterThanOrEqual(110);
        expect(waited).toBeLessThan(2_000);
        await using patient = database.open({ busyTimeoutMs: 20_000 });
        let done = false;
        const waiting = insert(patient, "patient").then(() => {
          done = true;
        });
        await delay(60);
        expect(done).toBe(false);
        holder.tell();
        await waiting;
        expect(await bodies(patient)).toEqual(["held", "patient"]);
        await expect(insert(impatient, "now")).resolves.toBe(1);
      });

      it("the time that the lock was held is told", async (database) => {
        await database.execute(NOTES);
        await using store = database.open();
        await insert(store, "warm");
        const before = store.stats.heldMs;
        await store.transaction("slow", () => delay(40));
        expect(store.stats.lastHeldMs).toBeGreaterThanOrEqual(35);
        expect(store.stats.heldMs - before).toBeCloseTo(store.stats.lastHeldMs, 3);
      });
    });

    describe("errors are translated", () => {
      it("constraints, and statements that are wrong", async (database) => {
        await database.execute(
          "CREATE TABLE u (id TEXT PRIMARY KEY NOT NULL, n INTEGER CHECK (n > 0)); INSERT INTO u VALUES ('a', 1)",
        );
        await using store = database.open();
        for (const wrong of [
          sql`INSERT INTO u VALUES (${"a"}, ${1})`,
          sql`INSERT INTO u VALUES (${null}, ${1})`,
          sql`INSERT INTO u VALUES (${"b"}, ${-1})`,
        ]) {
          await expect(store.transaction("wrong", (tx) => tx.run(wrong))).rejects.toEqual(failure("CONSTRAINT"));
        }
        await expect(store.read.all(sql`SELECT * FROM nowhere`)).rejects.toEqual(failure("DATABASE_FAILED", /nowhere/));
        await expect(store.read.all(script("SELEC 1"))).rejects.toEqual(failure("DATABASE_FAILED"));
        await expect(store.transaction("wrong", (tx) => tx.script("CREATE TABLE u (id)"))).rejects.toEqual(
          failure("DATABASE_FAILED", /already exists/),
        );
        expect(await store.read.all(sql`SELECT * FROM u`)).toEqual([{ id: "a", n: 1 }]);
      });
    });

    describe("locks", () => {
      it("exclude each other among processes", async (database) => {
        await database.execute("CREATE TABLE counter (n INTEGER); INSERT INTO counter VALUES (0)");
        const children = Array.from({ length: 8 }, () => run(database.child({ action: "count" })));
        for (const child of children) await child.next("done");
        await using store = database.open();
        expect(await store.read.all(sql`SELECT n FROM counter`)).toEqual([{ n: 8 }]);
      });

      it("of different names do not, and the same one is not taken twice by one call", async (database) => {
        await using store = database.open();
        await store.withLock("a", {}, async () => {
          await store.withLock("b", {}, async () => undefined);
          await expect(store.withLock("a", {}, async () => undefined)).rejects.toEqual(failure("INTERNAL", /"a"/));
        });
        await store.withLock("a", {}, async () => undefined);
      });

      it("the holder is named at once or after the wait, and told of once", async (database) => {
        await database.execute(NOTES);
        const holder = run(database.child({ action: "lock" }));
        await holder.next("locked");
        await using store = database.open();
        await expect(store.withLock("work", {}, async () => undefined)).rejects.toMatchObject({
          code: "LOCK_HELD",
          message: expect.stringMatching(/^child \(process \d+ on .*\) holds the lock "work" since /),
          details: { pid: holder.process.pid, holder: "child" },
        });
        const begun = performance.now();
        const waited: unknown[] = [];
        const onWait = (one: unknown) => void waited.push(one);
        await expect(store.withLock("work", { timeoutMs: 150, onWait }, async () => undefined)).rejects.toEqual(
          failure("LOCK_HELD"),
        );
        expect(performance.now() - begun).toBeGreaterThanOrEqual(140);
        expect(waited).toEqual([expect.objectContaining({ pid: holder.process.pid, holder: "child", name: "work" })]);
        const waiting = store.withLock("work", { timeoutMs: 20_000 }, () => bodies(store));
        holder.tell();
        // Only when the other one is through.
        expect(await waiting).toEqual(["after"]);
      });

      it("a killed holder is replaced at once", async (database) => {
        await database.execute(NOTES);
        const holder = run(database.child({ action: "lock", leaseMs: 60_000 }));
        const { token } = await holder.next("locked");
        const gone = new Promise((done) => holder.process.once("exit", done));
        holder.process.kill("SIGKILL");
        await gone;
        await using store = database.open({ leaseMs: 60_000 });
        await store.withLock("work", { timeoutMs: 0 }, async (lease) => {
          expect(lease.token).toBeGreaterThan(Number(token));
        });
      });

      it("a frozen holder is replaced, and cannot write when it wakes up", async (database) => {
        await database.execute(NOTES);
        const holder = run(database.child({ action: "lock", leaseMs: 300 }));
        await holder.next("locked");
        await using store = database.open({ leaseMs: 300 });
        holder.process.kill("SIGSTOP");
        await expect(store.withLock("work", { timeoutMs: 0 }, async () => undefined)).rejects.toEqual(
          failure("LOCK_HELD"),
        );
        await store.withLock("work", { timeoutMs: 10_000 }, async () => {
          holder.process.kill("SIGCONT");
          holder.tell();
          expect(await holder.next("failed")).toMatchObject({ code: "LOCK_LOST" });
          await insert(store, "mine");
        });
        expect(await bodies(store)).toEqual(["mine"]);
      });

      it("a frozen holder cannot write either when its successor is through", async (database) => {
        await database.execute(NOTES);
        const holder = run(database.child({ action: "lock", leaseMs: 300 }));
        await holder.next("locked");
        holder.process.kill("SIGSTOP");
        await using store = database.open({ leaseMs: 300 });
        await store.withLock("work", { timeoutMs: 10_000 }, () => insert(store, "mine"));
        holder.process.kill("SIGCONT");
        holder.tell();
        expect(await holder.next("failed")).toMatchObject({ code: "LOCK_LOST" });
        expect(await bodies(store)).toEqual(["mine"]);
      });

      it("a holder that works on keeps its lock beyond the lease", async (database) => {
        await database.execute(NOTES);
        await using holder = database.open({ leaseMs: 200 });
        await using other = database.open({ leaseMs: 200 });
        const working = holder.withLock("work", {}, async () => {
          await delay(700);
          await insert(holder, "kept");
        });
        await delay(30);
        await expect(other.withLock("work", { timeoutMs: 500 }, async () => undefined)).rejects.toEqual(
          failure("LOCK_HELD"),
        );
        await working;
        expect(await bodies(other)).toEqual(["kept"]);
      });

      it("is given back when the work fails", async (database) => {
        await using store = database.open();
        const failing = store.withLock("work", {}, async () => {
          throw new Error("no");
        });
        await expect(failing).rejects.toThrow("no");
        await using other = database.open();
        await expect(other.withLock("work", { timeoutMs: 0 }, async () => "mine")).resolves.toBe("mine");
      });
    });

    it("a closed store is closed", async (database) => {
      await database.execute(NOTES);
      const store = database.open();
      await insert(store, "x");
      await store[Symbol.asyncDispose]();
      await expect(insert(store, "y")).rejects.toThrow();
    });
  });
}
