import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import Database from "better-sqlite3";
import { describe, expect, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import { sql } from "../../src/storage/sql.ts";
import { openSqlite } from "../../src/storage/sqlite.ts";
import { temporaryDirectory } from "../support/context.ts";
import { describeStore } from "./store.ts";

const DIST = resolve(process.env.HIVE_TEST_DIST ?? fileURLToPath(new URL("../../dist", import.meta.url)));
const CHILD = fileURLToPath(new URL("./child.mjs", import.meta.url));

const open = (path: string, options: { busyTimeoutMs?: number; leaseMs?: number } = {}) =>
  openSqlite(path, { busyTimeoutMs: 10_000, leaseMs: 15_000, clock: systemClock, ...options });

function execute(path: string, text: string): void {
  const db = new Database(path);
  db.exec(text);
  db.close();
}

for (const mode of ["WAL", "DELETE"]) {
  describeStore({
    name: `sqlite, found in journal mode ${mode}`,
    dialect: "sqlite",
    skips: {
      "a holder that froze within a transaction keeps nothing, and what it had written is undone":
        "nobody can take a file's lock from a process that lives",
    },
    create: async () => {
      const path = join(temporaryDirectory(), "store.db");
      execute(path, `PRAGMA journal_mode = ${mode}; CREATE TABLE first (id); DROP TABLE first`);
      return {
        open: (options) => open(path, options),
        execute: async (text) => execute(path, text),
        child: (request) => [process.execPath, CHILD, DIST, JSON.stringify({ path, ...request })],
      };
    },
  });
}

describe("sqlite: files that are none, or that cannot be written", () => {
  const database = () => {
    const path = join(temporaryDirectory(), "some.db");
    execute(path, "PRAGMA journal_mode = WAL; CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)");
    return path;
  };

  test("no such file: nothing is created", () => {
    const directory = temporaryDirectory();
    expect(() => open(join(directory, "none.db"))).toThrow(
      expect.objectContaining({ code: "DATABASE_NOT_FOUND", exitCode: 2 }),
    );
    expect(() => open(join(directory, "no/folder.db"))).toThrow(
      expect.objectContaining({ code: "DATABASE_NOT_FOUND" }),
    );
    expect(() => open(directory)).toThrow(expect.objectContaining({ code: "NOT_A_DATABASE" }));
    expect(readdirSync(directory)).toEqual([]);
  });

  test("text, and a picture", () => {
    const path = join(temporaryDirectory(), "text.db");
    writeFileSync(path, "this is no database, but it is long enough to have a header of a hundred bytes".repeat(20));
    expect(() => open(path)).toThrow(expect.objectContaining({ code: "NOT_A_DATABASE", exitCode: 2 }));
    expect(readdirSync(join(path, ".."))).toEqual(["text.db"]);
  });

  test("an empty file is an empty database", async () => {
    const path = join(temporaryDirectory(), "empty.db");
    writeFileSync(path, "");
    await using store = open(path);
    expect(await store.tables()).toEqual([]);
  });

  test("a damaged one", async () => {
    const path = database();
    execute(
      path,
      "INSERT INTO notes (body) SELECT hex(randomblob(2000)) FROM (SELECT 1 UNION SELECT 2 UNION SELECT 3)",
    );
    execute(path, "PRAGMA wal_checkpoint(TRUNCATE)");
    truncateSync(path, 8_192);
    const run = async () => {
      await using store = open(path);
      await store.read.all(sql`SELECT * FROM notes`);
    };
    await expect(run()).rejects.toMatchObject({ code: "DATABASE_CORRUPT" });
  });

  const asRoot = process.getuid?.() === 0;
  if (asRoot) console.warn("skipped: a file without the right to write, since root may write any file");
  test.skipIf(asRoot)("without the right to write", async () => {
    const path = database();
    chmodSync(path, 0o444);
    await using store = open(path);
    await expect(store.transaction("write", (tx) => tx.run(sql`DELETE FROM notes`))).rejects.toMatchObject({
      code: "DATABASE_READ_ONLY",
    });
  });

  test("a full disk: nothing of the transaction is there, and it goes on when there is room", async () => {
    const path = database();
    await using store = open(path);
    await store.transaction("first", (tx) => tx.run(sql`INSERT INTO notes (body) VALUES (${"first"})`));
    const pages = Number((await store.read.all(sql`SELECT page_count AS n FROM pragma_page_count`))[0]?.n);
    // What SQLite says when the file must not grow is what it says when the disk is full.
    const fill = store.transaction("fill", async (tx) => {
      await tx.script(`PRAGMA max_page_count = ${pages + 2}`);
      await tx.insert("notes", ["body"], [["x".repeat(100_000)]]);
    });
    await expect(fill).rejects.toMatchObject({ code: "DISK_FULL", exitCode: 1 });
    await store.transaction("room", (tx) => tx.script("PRAGMA max_page_count = 1000000"));
    await store.transaction("again", (tx) => tx.insert("notes", ["body"], [["y".repeat(100_000)]]));
    expect(await store.read.all(sql`SELECT substr(body, 1, 1) AS a FROM notes ORDER BY id`)).toEqual([
      { a: "f" },
      { a: "y" },
    ]);
  });

  test("reading writes nothing, not even beside the file", async () => {
    const directory = temporaryDirectory();
    const path = join(directory, "still.db");
    execute(path, "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT); INSERT INTO notes VALUES (1, 'x')");
    const before = readFileSync(path);
    {
      await using store = open(path);
      expect(await store.read.all(sql`SELECT body FROM notes`)).toEqual([{ body: "x" }]);
      await store.snapshot((session) => session.all(sql`SELECT body FROM notes`));
      expect(await store.table("notes")).not.toBeNull();
    }
    expect(readFileSync(path).equals(before)).toBe(true);
    expect(readdirSync(directory)).toEqual(["still.db"]);
  });

  test("the log of a process that was killed is taken over", async () => {
    const path = database();
    const db = new Database(path);
    db.exec("INSERT INTO notes (body) VALUES ('in the log')");
    const copy = join(temporaryDirectory(), "copy.db");
    mkdirSync(join(copy, ".."), { recursive: true });
    for (const end of ["", "-wal"]) copyFileSync(path + end, copy + end);
    db.close();
    expect(existsSync(`${copy}-shm`)).toBe(false);
    await using store = open(copy);
    expect(await store.read.all(sql`SELECT body FROM notes`)).toEqual([{ body: "in the log" }]);
    await store.transaction("more", (tx) => tx.run(sql`INSERT INTO notes (body) VALUES (${"more"})`));
  });
});
