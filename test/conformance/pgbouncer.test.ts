import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmodSync, chownSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import { postgresAt } from "../../src/storage/postgres.ts";
import { sql } from "../../src/storage/sql.ts";
import { postgresDatabase, postgresServer } from "../support/postgres.ts";
import { executeSync, selectSync } from "../support/sync-postgres.ts";
import { POSTGRES_SKIPS } from "./postgres-skips.ts";
import { describeStore } from "./store.ts";

/** hive behind a pooler that gives each transaction another connection: the whole suite of the port through PgBouncer. */

const DIST = resolve(process.env.HIVE_TEST_DIST ?? fileURLToPath(new URL("../../dist", import.meta.url)));
const CHILD = fileURLToPath(new URL("./child.mjs", import.meta.url));
const PROGRAM = ["pgbouncer", "/usr/sbin/pgbouncer"].find((program) => spawnSync(program, ["--version"]).status === 0);
if (PROGRAM === undefined) console.warn("skipped: ?pooler=transaction, since PgBouncer is not installed here");

let port = 0;

async function start(program: string): Promise<() => Promise<void>> {
  const server = new URL((await postgresServer()).url);
  const listener = createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const address = listener.address();
  if (address !== null && typeof address === "object") port = address.port;
  listener.close();
  await once(listener, "close");
  const root = process.getuid?.() === 0;
  const folder = join(tmpdir(), `hive-pgbouncer-${port}`);
  mkdirSync(folder);
  const users = join(folder, "users.txt");
  const config = join(folder, "pgbouncer.ini");
  writeFileSync(users, `"${decodeURIComponent(server.username)}" "${decodeURIComponent(server.password)}"\n`);
  writeFileSync(
    config,
    `[databases]
* = host=${server.hostname} port=${server.port || 5432} user=${decodeURIComponent(server.username)}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
auth_file = ${users}
pool_mode = transaction
default_pool_size = 20
max_client_conn = 500
server_round_robin = 1
`,
  );
  chmodSync(folder, 0o755);
  // It refuses to run as root.
  const account = root ? { uid: 65534, gid: 65534 } : {};
  if (root) chownSync(folder, 65534, 65534);
  const child = spawn(program, [config], { ...account, stdio: ["ignore", "ignore", "pipe"] });
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors += text;
  });
  for (let tries = 0; ; tries++) {
    const socket = connect(port, "127.0.0.1");
    const up = await new Promise((done) => {
      socket.once("connect", () => done(true)).once("error", () => done(false));
    });
    socket.destroy();
    if (up) break;
    if (child.exitCode !== null || tries > 200) throw new Error(errors);
    await systemClock.sleep(20);
  }
  return async () => {
    child.kill("SIGKILL");
    await once(child, "close");
    rmSync(folder, { recursive: true });
  };
}

describe.skipIf(PROGRAM === undefined)("?pooler=transaction, through PgBouncer", () => {
  let stop: (() => Promise<void>) | undefined;
  beforeAll(async () => {
    stop = await start(PROGRAM ?? "");
  });
  afterAll(() => stop?.());

  const through = (url: string) => {
    const pooled = new URL(url);
    pooled.hostname = "127.0.0.1";
    pooled.port = String(port);
    pooled.searchParams.set("pooler", "transaction");
    return pooled.href;
  };

  describeStore({
    name: "postgres behind a pooler",
    dialect: "postgres",
    skips: POSTGRES_SKIPS,
    create: async () => {
      const url = await postgresDatabase();
      const path = through(url);
      return {
        open: (options) => postgresAt(path, { busyTimeoutMs: 10_000, leaseMs: 15_000, clock: systemClock, ...options }),
        execute: async (text) => executeSync(url, text),
        child: (request) => [process.execPath, CHILD, DIST, JSON.stringify({ path, ...request })],
      };
    },
  });

  test("nothing of a transaction is left on its connection", async () => {
    const url = await postgresDatabase();
    await using store = postgresAt(through(url), { busyTimeoutMs: 10_000, leaseMs: 15_000, clock: systemClock });
    await store.withLock("work", {}, async () => {
      for (let i = 0; i < 10; i++) {
        await store.transaction("work", async (tx) => {
          await tx.marked(() => tx.all(sql`SELECT 1 AS one`));
          expect(await tx.serialize(["a"])).toBe(true);
        });
        await store.read.tuplesWithin(sql`SELECT generate_series(1, 1000)`, 10);
      }
    });
    expect(
      selectSync(
        url,
        "SELECT 1 AS one FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
      ),
    ).toEqual([]);
    // The same connections, given to another client.
    const plain = new URL(through(url));
    plain.searchParams.delete("pooler");
    for (let i = 0; i < 5; i++) {
      const client = new pg.Client({ connectionString: plain.href });
      await client.connect();
      const { rows } = await client.query(
        `SELECT count(*)::int AS prepared, coalesce(current_setting('hive.applying', true), '') AS mark,
           current_setting('lock_timeout') AS lock_timeout, current_setting('default_transaction_read_only') AS read_only,
           current_setting('search_path') AS path FROM pg_prepared_statements`,
      );
      expect(rows).toEqual([{ prepared: 0, mark: "", lock_timeout: "0", read_only: "off", path: '"$user", public' }]);
      await client.end();
    }
  });

  test("without the option it is found out, and said how to mend it", async () => {
    const url = await postgresDatabase();
    const plain = new URL(through(url));
    plain.searchParams.delete("pooler");
    await using store = postgresAt(plain.href, { busyTimeoutMs: 1_000, leaseMs: 15_000, clock: systemClock });
    const read = () => store.read.all(sql`SELECT 1 AS one`);
    await read();
    // Somebody else has that connection of the server just now.
    const other = new pg.Client({ connectionString: plain.href });
    await other.connect();
    await other.query("BEGIN");
    await expect(read()).rejects.toMatchObject({
      code: "CONFIG_INVALID",
      hint: expect.stringContaining("pooler=transaction"),
    });
    await other.end();
  });
});
