import { writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { BACKENDS, postgres } from "../support/backends.ts";
import { hiveInProcess } from "../support/cli.ts";
import { temporaryDirectory } from "../support/context.ts";
import { postgresDatabase } from "../support/postgres.ts";
import { smallPlatformOn } from "../support/small-platform.ts";

/** The commands on PostgreSQL: what they say there, and what they say of a URL that leads nowhere. */

const only = BACKENDS.includes(postgres) ? describe : describe.skip;
const SECRET = "s3cr3t-pa55";

async function closedPort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const address = server.address();
  await new Promise((done) => server.close(done));
  return typeof address === "object" && address !== null ? address.port : 0;
}

/** The URL with a password; what the server does not ask for it does not look at. */
function withPassword(url: string, change: (url: URL) => void = () => undefined): string {
  const secret = new URL(url);
  secret.password = SECRET;
  change(secret);
  return secret.href;
}

only("every command", () => {
  test("works by --database and by HIVE_DATABASE, and shows no password", { timeout: 240_000 }, async () => {
    const { cwd, place } = await smallPlatformOn(postgres);
    const url = withPassword(place.url);
    writeFileSync(join(cwd, "hive.config.json"), JSON.stringify({ database: url }));
    const said: string[] = [];
    const hive = async (code: number, ...args: string[]) => {
      const ways: { args: string[]; env: Record<string, string> }[] = [
        { args: ["--database", url], env: {} },
        { args: ["--json"], env: { HIVE_DATABASE: url } },
      ];
      for (const how of ways) {
        const run = await hiveInProcess([...how.args, "--yes", ...args], { cwd, env: how.env });
        said.push(run.stdout, run.stderr);
        expect([0, code], `${args.join(" ")}: ${run.stdout}${run.stderr}`).toContain(run.code);
      }
    };
    await hive(0, "status");
    await hive(3, "verify");
    await hive(0, "migrate", "status");
    await hive(0, "migrate", "up", "--dry-run");
    await hive(0, "migrate", "up");
    await hive(0, "verify");
    await hive(0, "mapping", "test", "--sample", "3");
    await hive(0, "flags", "enable", "hive-coder", "--flag", "dual-write");
    await hive(0, "backfill");
    place.execute("UPDATE tasks SET title = 'another' WHERE id = 'task-1'");
    await hive(0, "sync");
    await hive(0, "check");
    await hive(0, "flags", "list");
    await hive(0, "flags", "history");
    await hive(0, "quarantine", "list");
    await hive(0, "quarantine", "retry");
    await hive(0, "kept", "list");
    await hive(0, "audit", "list");
    await hive(0, "audit", "verify");
    await hive(0, "status");
    await hive(0, "config");
    await hive(0, "rollback");
    await hive(0, "migrate", "down", "--to", "0");
    const text = said.join("\n");
    expect(text).not.toContain(SECRET);
    expect(text).not.toMatch(/\bWAL\b|journal mode|database file|write lock/);
    expect(text).toContain(new URL(place.url).pathname);
  });

  test("`config` shows where the URL is from, without its password", async () => {
    const cwd = temporaryDirectory();
    const url = `postgres://me:${SECRET}@db.example/shop?password=${SECRET}&sslmode=require`;
    const shown = "postgres://me@db.example/shop?sslmode=require";
    const json = async (args: string[], env: Record<string, string> = {}) => {
      const { stdout } = await hiveInProcess(["--json", ...args, "config"], { cwd, env });
      expect(stdout).not.toContain(SECRET);
      return JSON.parse(stdout).result.values[0];
    };
    expect(await json(["--database", url])).toEqual({ key: "database", value: shown, origin: "flag --database" });
    expect(await json([], { HIVE_DATABASE: url })).toMatchObject({ value: shown, origin: "environment HIVE_DATABASE" });
    writeFileSync(join(cwd, "hive.config.json"), JSON.stringify({ database: url }));
    expect(await json([])).toMatchObject({ value: shown, origin: join(cwd, "hive.config.json") });
    for (const broken of [`postgres://me:${SECRET}/@/#x:y@db`, `postgres://me:${SECRET}@db:port/x`]) {
      expect(await json(["--database", broken])).toMatchObject({ value: expect.stringMatching(/^postgres:\/\//) });
    }
  });
});

only("a URL that leads nowhere", () => {
  const cases: readonly [string, (url: string) => string | Promise<string>, string, number, RegExp][] = [
    [
      "another host",
      (url) => withPassword(url, (u) => (u.hostname = "no-such-host.invalid")),
      "DATABASE_UNREACHABLE",
      1,
      /no-such-host\.invalid.* cannot be reached/,
    ],
    [
      "another port",
      async (url) => {
        const port = String(await closedPort());
        return withPassword(url, (u) => (u.port = port));
      },
      "DATABASE_UNREACHABLE",
      1,
      /ECONNREFUSED/,
    ],
    [
      "no such database",
      (url) => withPassword(url, (u) => (u.pathname = "/no_such_database")),
      "DATABASE_NOT_FOUND",
      2,
      /no_such_database/,
    ],
    [
      "no such role",
      (url) => withPassword(url, (u) => (u.username = "no_such_role")),
      "CONFIG_INVALID",
      2,
      /refuses the login/,
    ],
    ["no port", () => `postgres://me:${SECRET}@host:port/db`, "CONFIG_INVALID", 2, /cannot be read/],
    [
      "a password that is not encoded",
      () => `postgres://me:${SECRET}%zz@localhost/db`,
      "CONFIG_INVALID",
      2,
      /cannot be read/,
    ],
    ["no slashes", () => `postgres:me:${SECRET}@localhost/db`, "CONFIG_INVALID", 2, /cannot be read/],
    [
      "another database's",
      () => `mysql://me:${SECRET}@localhost/db`,
      "CONFIG_INVALID",
      2,
      /mysql: databases are not supported/,
    ],
    [
      "an unknown parameter",
      (url) => `${withPassword(url)}?poler=transaction`,
      "CONFIG_INVALID",
      2,
      /"poler", which hive does not know; did you mean "pooler"/,
    ],
    ["an unknown pooler", (url) => `${withPassword(url)}?pooler=statement`, "CONFIG_INVALID", 2, /pooler=statement/],
    ["an unknown sslmode", (url) => `${withPassword(url)}?sslmode=on`, "CONFIG_INVALID", 2, /sslmode=on/],
    [
      "a certificate that is not there",
      (url) => `${withPassword(url)}?sslmode=verify-full&sslrootcert=/no/such.pem`,
      "CONFIG_INVALID",
      2,
      /\/no\/such\.pem/,
    ],
  ];

  test.each(cases)("%s", async (_, make, code, exit, message) => {
    const cwd = temporaryDirectory();
    const url = await make(await postgresDatabase());
    for (const args of [["status"], ["--verbose", "migrate", "up"]]) {
      const human = await hiveInProcess(["--database", url, ...args], { cwd });
      const json = await hiveInProcess(["--database", url, "--json", ...args], { cwd });
      expect([human.code, json.code], human.stderr).toEqual([exit, exit]);
      const { error } = JSON.parse(json.stdout);
      expect(error).toMatchObject({ code, message: expect.stringMatching(message), hint: expect.stringMatching(/./) });
      expect([human.stdout, human.stderr, json.stdout, json.stderr].join("\n")).not.toContain(SECRET);
    }
  });
});
