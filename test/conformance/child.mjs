// A process of its own for the conformance suite: node child.mjs DIST '{"path":…,"steps":[…],"leaseMs":…}'
// Holds locks and transactions on demand: each line on stdin releases one wait. Prints a line for each thing that happens.

import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [dist = "", request = "{}"] = process.argv.slice(2);
const { path, action, name = "work", leaseMs = 15_000, timeoutMs = 0, busyTimeoutMs = 10_000 } = JSON.parse(request);
const load = (file) => import(pathToFileURL(join(dist, file)).href);
const remote = /^postgres(ql)?:/.test(path);
const { openSqlite } = remote ? {} : await load("storage/sqlite.js");
const { postgresAt } = remote ? await load("storage/postgres.js") : {};
const { sql } = await load("storage/sql.js");
const { systemClock } = await load("clock.js");

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (event, more = {}) => console.log(JSON.stringify({ event, pid: process.pid, ...more }));
const told = () => lines.next();
const store = (remote ? postgresAt : openSqlite)(path, { busyTimeoutMs, leaseMs, clock: systemClock });
const add = (text) => store.transaction("add", (tx) => tx.run(sql`INSERT INTO notes (body) VALUES (${text})`));
const actions = {
  /** Keeps the write lock until it is told to commit. */
  transaction: () =>
    store.transaction("hold", async (tx) => {
      await tx.run(sql`INSERT INTO notes (body) VALUES ('held')`);
      say("begun");
      await told();
    }),
  /** Keeps a named lock; writes before and after it is told to go on. */
  lock: () =>
    store.withLock(
      name,
      { purpose: "child", timeoutMs, onWait: (holder) => say("waiting", { holder }) },
      async (lease) => {
        say("locked", { token: lease.token });
        await told();
        await add("after");
      },
    ),
  /** Keeps a named lock, and within it a transaction that has written. */
  lockedTransaction: () =>
    store.withLock(name, { purpose: "child", timeoutMs }, () =>
      store.transaction("hold", async (tx) => {
        await tx.run(sql`INSERT INTO notes (body) VALUES ('held')`);
        say("begun");
        await told();
        await tx.run(sql`INSERT INTO notes (body) VALUES ('held as well')`);
      }),
    ),
  /** Keeps a row locked until it is told to commit. */
  row: () =>
    store.transaction("hold", async (tx) => {
      await tx.run(sql`UPDATE notes SET body = 'held' WHERE id = 1`);
      say("begun");
      await told();
    }),
  /** Counts up without ever being alone, if locks do not exclude. */
  count: () =>
    store.withLock(name, { timeoutMs: 60_000 }, async () => {
      const read = async () => Number((await store.read.all(sql`SELECT n FROM counter`))[0]?.n);
      const n = await read();
      await systemClock.sleep(5);
      await store.transaction("count", (tx) => tx.run(sql`UPDATE counter SET n = ${n + 1}`));
    }),
};
try {
  await actions[action]();
  say("done");
} catch (error) {
  say("failed", { code: error.code, message: error.message });
} finally {
  await store[Symbol.asyncDispose]();
  process.stdin.destroy();
}
