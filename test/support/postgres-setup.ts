import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import pg from "pg";
import type { TestProject } from "vitest/node";

declare module "vitest" {
  interface ProvidedContext {
    /** Where the run's processes ask for the PostgreSQL that they share. */
    postgresDesk: string;
  }
}

/** What the desk answers: a URL for making databases in, and the beginning of their names. */
export interface PostgresServer {
  readonly url: string;
  readonly prefix: string;
}

const SERVER = fileURLToPath(new URL("./postgres-server.mjs", import.meta.url));

/**
 * One PostgreSQL for all test files of a run, started when the first of them asks for it: `HIVE_TEST_POSTGRES`, or one
 * of its own. When the run is over that one is removed, also when this process is killed; from the other, all databases
 * of this run are dropped. Those of failed tests are kept.
 */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const prefix = `hive_test_${randomBytes(3).toString("hex")}_`;
  const given = process.env.HIVE_TEST_POSTGRES;
  const kept: string[] = [];
  let own: Promise<OwnServer> | undefined;
  let asked = false;

  const desk = createServer((request, response) => {
    const answer = async () => {
      const name = request.url?.slice(1) ?? "";
      if (request.method === "POST") kept.push(name);
      asked = true;
      if (given === undefined) own ??= startOwn();
      const server: PostgresServer = { url: given ?? (await own)?.url ?? "", prefix };
      return JSON.stringify(server);
    };
    answer().then(
      (text) => response.end(text),
      (error) => response.writeHead(500).end(error.message),
    );
  });
  desk.listen(0, "127.0.0.1");
  await once(desk, "listening");
  desk.unref();
  project.provide("postgresDesk", `http://127.0.0.1:${(desk.address() as AddressInfo).port}`);

  return async () => {
    desk.close();
    desk.closeAllConnections();
    if (given !== undefined && asked) await dropAll(given, prefix, kept);
    // One that could not be started has said so to the tests.
    const server = await own?.catch(() => undefined);
    await server?.stop(kept);
  };
}

interface OwnServer {
  readonly url: string;
  stop(kept: readonly string[]): Promise<void>;
}

async function startOwn(): Promise<OwnServer> {
  // A session of its own, so that what kills this process and its group leaves someone to clean up.
  const child: ChildProcessWithoutNullStreams = spawn(process.execPath, [SERVER], { detached: true });
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors += text;
  });
  child.stdin.on("error", () => undefined);
  const ended = once(child, "close");
  const line = await Promise.race([once(createInterface({ input: child.stdout }), "line"), ended]);
  if (child.exitCode !== null || typeof line[0] !== "string") throw new Error(errors);
  const { url, folder }: { url: string; folder: string } = JSON.parse(line[0]);
  return {
    url,
    stop: async (kept) => {
      if (kept.length > 0) {
        child.stdin.write("keep\n");
        console.error(`The databases of failed tests (${kept.join(", ")}) are kept in ${folder}:`);
        console.error(`  node test/support/postgres-server.mjs ${folder}`);
      }
      child.stdin.end();
      await ended;
      if (errors !== "") console.error(errors);
    },
  };
}

async function dropAll(url: string, prefix: string, kept: readonly string[]): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const all = await client.query("SELECT datname FROM pg_database WHERE starts_with(datname, $1)", [prefix]);
    for (const { datname } of all.rows) {
      if (!kept.includes(datname)) await client.query(`DROP DATABASE ${pg.escapeIdentifier(datname)} WITH (FORCE)`);
    }
  } finally {
    await client.end();
  }
}
