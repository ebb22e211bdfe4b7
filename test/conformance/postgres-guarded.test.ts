import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmodSync, chownSync, existsSync, readFileSync, realpathSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { inspect } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import { openPostgres } from "../../src/storage/postgres.ts";
import { sql } from "../../src/storage/sql.ts";
import { hiveInProcess } from "../support/cli.ts";
import { temporaryDirectory } from "../support/context.ts";
import { legacySchema, NATURAL } from "../support/legacy-postgres.ts";
import { closeSync, executeSync, selectSync } from "../support/sync-postgres.ts";
import { proxyTo } from "./proxy.ts";

/** A server of its own that asks for passwords and speaks TLS, and that is stopped and started again. */

const SERVER = fileURLToPath(new URL("../support/postgres-server.mjs", import.meta.url));
const SECRET = "s3cret-Pa55";
const OPTIONS = { busyTimeoutMs: 30_000, leaseMs: 15_000, clock: systemClock };

let child: ChildProcess | undefined;
let folder = "";
let admin = "";
let certificate = "";

async function start(): Promise<void> {
  child = spawn(process.execPath, folder === "" ? [SERVER] : [SERVER, folder], { stdio: ["pipe", "pipe", "inherit"] });
  if (child.stdout === null) throw new Error("no output");
  const [line] = await once(createInterface({ input: child.stdout }), "line");
  ({ url: admin, folder } = JSON.parse(String(line)));
}

/** In an orderly way; its folder stays. */
async function stop(): Promise<void> {
  if (child === undefined) return;
  closeSync(admin);
  child.stdin?.end("keep\n");
  await once(child, "close");
  child = undefined;
}

const user = (password: string, options = "") => {
  const url = new URL(admin);
  url.username = "alice";
  url.password = password;
  return `${url.href}${options}`;
};

const tls = spawnSync("openssl", ["version"]).status === 0;
if (!tls) console.warn("skipped: TLS with PostgreSQL, since there is no openssl here to make a certificate with");

beforeAll(async () => {
  await start();
  executeSync(admin, `CREATE ROLE alice LOGIN SUPERUSER PASSWORD '${SECRET}'`);
  await stop();
  const data = realpathSync(join(folder, "data"));
  writeFileSync(
    join(data, "pg_hba.conf"),
    "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n",
  );
  if (tls) {
    certificate = join(data, "server.crt");
    const key = join(data, "server.key");
    spawnSync("openssl", [
      ...["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"],
      ...["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
    ]);
    const { uid, gid } = statSync(data);
    chmodSync(key, 0o600);
    for (const file of [key, certificate]) chownSync(file, uid, gid);
    writeFileSync(join(data, "postgresql.auto.conf"), "ssl = on\n");
  }
  await start();
});

afterAll(async () => {
  await stop();
  const data = join(folder, "data");
  for (const path of [...(existsSync(data) ? [realpathSync(data)] : []), folder]) rmSync(path, { recursive: true });
});

async function opens(url: string): Promise<string> {
  const error = await openPostgres(url, OPTIONS).then(
    (store) => store[Symbol.asyncDispose](),
    (one) => one,
  );
  if (error === undefined) return "opens";
  expect(inspect(error, { depth: 20, showHidden: true }) + error.stack).not.toContain(SECRET);
  return `${error.code} ${error.exitCode}`;
}

test("the right password, a wrong one, and none", async () => {
  expect(await opens(user(SECRET))).toBe("opens");
  expect(await opens(user(`not ${SECRET}`))).toBe("CONFIG_INVALID 2");
  expect(await opens(user(""))).toBe("CONFIG_INVALID 2");
});

test.skipIf(!tls)("TLS as the URL asks for it, with psql's meaning", async () => {
  const trusted = `&sslrootcert=${certificate}`;
  const asked: [string, string][] = [
    ["?sslmode=disable", "opens"],
    ["?sslmode=require", "opens"],
    [`?sslmode=verify-ca${trusted}`, "opens"],
    [`?sslmode=verify-full${trusted}`, "opens"],
    ["?sslmode=verify-full", "CONFIG_INVALID 2"],
    ["?sslmode=verify-ca", "CONFIG_INVALID 2"],
    ["?sslmode=verify-full&sslrootcert=/no/such/file", "CONFIG_INVALID 2"],
  ];
  for (const [options, outcome] of asked) expect(await opens(user(SECRET, options)), options).toBe(outcome);
  await using store = await openPostgres(user(SECRET, `?sslmode=verify-full${trusted}`), OPTIONS);
  expect(await store.read.all(sql`SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()`)).toEqual([{ ssl: 1 }]);
});

test("no command shows the password, and no table of hive's keeps it", async () => {
  executeSync(admin, "CREATE DATABASE platform");
  const platform = new URL(admin);
  platform.pathname = "/platform";
  executeSync(platform.href, legacySchema(NATURAL).join(";\n"));
  const at = (password: string, database: string) => {
    const url = new URL(user(password));
    url.pathname = `/${database}`;
    return url.href;
  };
  const cwd = temporaryDirectory();
  let shown = "";
  const codes: number[] = [];
  const run = async (database: string, ...args: string[]) => {
    for (const how of [["--json"], ["--verbose"]]) {
      for (const inEnvironment of [false, true]) {
        const env: Record<string, string> = inEnvironment ? { HIVE_DATABASE: database } : {};
        const named = inEnvironment ? [] : ["--database", database];
        const { code, stdout, stderr } = await hiveInProcess([...named, ...how, "--no-input", ...args], { cwd, env });
        shown += `${stdout}\n${stderr}\n`;
        codes.push(code);
      }
    }
  };
  const right = at(SECRET, "platform");
  await run(right, "migrate", "up");
  expect(codes, shown).toEqual([0, 0, 0, 0]);
  for (const args of [["verify"], ["status"], ["config"], ["flags", "list"], ["audit", "list"]])
    await run(right, ...args);
  const before = codes.length;
  await run(at(SECRET, "nowhere"), "status");
  await run(`${right}?sslmode=verify-ca`, "status");
  await run(right.replace(SECRET, `${SECRET}#`), "status");
  await run(right.replace(SECRET, `1/${SECRET}`), "config");
  await run(at(`${SECRET}!`, "platform"), "migrate", "up");
  const refused = codes.slice(before);
  expect(shown).toContain("alice@127.0.0.1");
  expect(shown).not.toContain(SECRET);
  expect(refused.filter((code) => code === 2).length).toBeGreaterThanOrEqual(refused.length - 4);
  const tables = selectSync(platform.href, "SELECT tablename AS t FROM pg_tables WHERE schemaname = 'hive'");
  expect(tables.length).toBeGreaterThan(10);
  for (const { t } of tables) {
    const rows = selectSync(platform.href, `SELECT * FROM hive."${t}"`);
    expect(inspect(rows, { depth: 5, maxStringLength: null, maxArrayLength: null })).not.toContain(SECRET);
  }
  closeSync(platform.href);
  const log = join(folder, "postgres.log");
  expect(readFileSync(log, "utf8")).not.toContain(SECRET);
});

test("a restart: what was running ends like a kill, and the next call goes on", async () => {
  const proxy = await proxyTo(admin);
  await using store = await openPostgres(proxy.url, OPTIONS);
  await store.transaction("make", (tx) => tx.script("CREATE TABLE notes (id int)"));
  const before = statSync(join(folder, "postgres.log")).size;
  await store.withLock("work", {}, async () => {
    const running = store.transaction("running", async (tx) => {
      await tx.run(sql`INSERT INTO notes VALUES (1)`);
      await stop();
      await proxy.close();
      await tx.run(sql`INSERT INTO notes VALUES (2)`);
    });
    await expect(running).rejects.toMatchObject({ code: "DATABASE_UNREACHABLE", retryable: true });
    const next = store.transaction("next", (tx) => tx.run(sql`INSERT INTO notes VALUES (3)`));
    await start();
    await proxy.open(admin);
    // Its lock outlives the restart: it is a row, and nobody has taken it.
    expect(await next).toBe(1);
  });
  expect(statSync(join(folder, "postgres.log")).size).toBeGreaterThan(before);
  expect(await store.read.all(sql`SELECT id FROM notes`)).toEqual([{ id: 3 }]);
});
