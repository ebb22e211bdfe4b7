import { randomBytes } from "node:crypto";
import pg from "pg";
import { inject, onTestFinished } from "vitest";
import type { PostgresServer } from "./postgres-setup.ts";
import { closeSync } from "./sync-postgres.ts";

/** PostgreSQL databases for tests, all of them in the one server of the run. */

let server: Promise<PostgresServer> | undefined;

/** A database of this server for its own statements, and the beginning of the names of the run's databases. */
export function postgresServer(): Promise<PostgresServer> {
  server ??= ask("GET", "");
  return server;
}

async function ask(method: string, name: string): Promise<PostgresServer> {
  const response = await fetch(`${inject("postgresDesk")}/${name}`, { method });
  if (!response.ok) throw new Error(await response.text());
  return (await response.json()) as PostgresServer;
}

export const isPostgres = (url: string): boolean => /^postgres(ql)?:\/\//.test(url);

/** The same server's URL with another database. */
export function withDatabase(url: string, name: string): string {
  const other = new URL(url);
  other.pathname = `/${name}`;
  return other.href;
}

export const databaseOf = (url: string): string => decodeURIComponent(new URL(url).pathname.slice(1));

/**
 * The URL of an empty database for the running test, or of a copy of `template`, from which everybody has to be
 * disconnected for it; with `disconnect` they are. Dropped when the test has passed,
 * whoever is still connected; when it failed, its URL is printed and it is kept.
 */
export async function postgresDatabase(options: { template?: string; disconnect?: boolean } = {}): Promise<string> {
  const { url: own, prefix } = await postgresServer();
  const name = `${prefix}${randomBytes(4).toString("hex")}`;
  const template = options.template ?? "template0";
  if (options.disconnect) {
    closeSync(withDatabase(own, template));
    await onServer(
      `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = ${pg.escapeLiteral(template)}`,
    );
  }
  await onServer(`CREATE DATABASE ${pg.escapeIdentifier(name)} TEMPLATE ${pg.escapeIdentifier(template)}`);
  const url = withDatabase(own, name);
  onTestFinished(async ({ task }) => {
    closeSync(url);
    if (task.result?.state !== "fail") return dropDatabase(name);
    console.error(`The database of "${task.name}" is kept: ${url}`);
    await ask("POST", name);
  });
  return url;
}

/**
 * The name of a template that `make` has filled: by the first who asks for it, once per run. What it says must follow
 * from `name`.
 */
export async function postgresTemplate(name: string, make: (url: string) => Promise<void> | void): Promise<string> {
  const { url, prefix } = await postgresServer();
  const template = `${prefix}template_${name}`;
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query("SELECT pg_advisory_lock(hashtext($1))", [template]);
    const found = await client.query("SELECT FROM pg_database WHERE datname = $1 AND NOT datallowconn", [template]);
    if (found.rowCount === 1) return template;
    const quoted = pg.escapeIdentifier(template);
    // One that was begun by a process that is gone.
    await client.query(`DROP DATABASE IF EXISTS ${quoted} WITH (FORCE)`);
    await client.query(`CREATE DATABASE ${quoted} TEMPLATE template0`);
    await make(withDatabase(url, template));
    closeSync(withDatabase(url, template));
    await client.query(`ALTER DATABASE ${quoted} ALLOW_CONNECTIONS false`);
    await client.query("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", [template]);
    return template;
  } finally {
    await client.end();
  }
}

/** Whoever is connected. */
export const dropDatabase = (name: string): Promise<void> =>
  onServer(`DROP DATABASE IF EXISTS ${pg.escapeIdentifier(name)} WITH (FORCE)`);

async function onServer(statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: (await postgresServer()).url });
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}
