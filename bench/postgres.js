// PostgreSQL for the bench: the server of `--database`, in which it makes databases of its own, or one that is started.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath, pathToFileURL } from "node:url";
import pg from "pg";
import { samplePlatform } from "../dist/presets/hive/sample.js";

const file = (path) => fileURLToPath(new URL(path, import.meta.url));

/** `{url, version, own}`; `stop` drops what was made, and ends a server that was started. */
export async function startServer(given) {
  const child = given === undefined ? spawn(process.execPath, [file("../test/support/postgres-server.mjs")]) : null;
  child?.stderr.pipe(process.stderr);
  const [line] = child ? await once(createInterface({ input: child.stdout }), "line") : [];
  const url = given ?? JSON.parse(line).url;
  const prefix = `hive_bench_${process.pid}_`;
  const made = new Set();
  const main = await connect(url);
  const [server] = (
    await main.query(
      "SELECT current_setting('server_version') AS version, current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS commit",
    )
  ).rows;
  return {
    ...server,
    own: child !== null,
    /** An empty database, or a copy of one. */
    create: async (name, from) => {
      const full = `${prefix}${name.replaceAll(/\W/g, "_")}`;
      await main.query(`DROP DATABASE IF EXISTS ${full} WITH (FORCE)`);
      const template = from === undefined ? "template0" : new URL(from).pathname.slice(1);
      await main.query(`CREATE DATABASE ${full} TEMPLATE ${template}`);
      made.add(full);
      const other = new URL(url);
      other.pathname = `/${full}`;
      return other.href;
    },
    stop: async () => {
      for (const name of made) await main.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
      await main.end();
      child?.stdin.end();
      if (child) await once(child, "close");
    },
  };
}

export async function connect(url) {
  const client = new pg.Client({ connectionString: url });
  // An agent of the platform finds hive's tables nowhere on its path.
  client.on("error", () => undefined);
  await client.connect();
  return client;
}

/** The tests' own tables, which node of this version does not read as they are. */
export async function legacyTables(folder) {
  const compiled = join(folder, "tables");
  const words = ["--ignoreConfig", "--noCheck", "--target", "es2023", "--module", "nodenext", "--skipLibCheck"];
  const paths = ["--rewriteRelativeImportExtensions", "--rootDir", file(".."), "--outDir", compiled];
  const tsc = [file("../node_modules/typescript/bin/tsc"), ...words, ...paths];
  const { status, stdout } = spawnSync(process.execPath, [...tsc, file("../test/support/legacy-postgres.ts")], {
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`tsc ended with ${status}: ${stdout}`);
  symlinkSync(file("../node_modules"), join(compiled, "node_modules"));
  writeFileSync(join(compiled, "package.json"), '{"type":"module"}');
  const { naturalLegacySchema } = await import(pathToFileURL(join(compiled, "test/support/legacy-postgres.js")).href);
  return naturalLegacySchema;
}

/** As `createPlatform` of support.js makes it; the number of rows. */
export async function createPlatform(url, schema, tasks) {
  const client = await connect(url);
  await client.query("SET session_replication_role = replica; SET timezone = 'UTC'; SET synchronous_commit = off");
  for (const statement of schema) await client.query(statement);
  let rows = 0;
  for (const { table, columns, chunks } of samplePlatform({ tasks }).tables) {
    const found = await client.query(
      "SELECT attname AS name, format_type(atttypid, NULL) AS type FROM pg_attribute WHERE attrelid = $1::regclass",
      [table],
    );
    const types = new Map(found.rows.map(({ name, type }) => [name, type]));
    const values = columns.map((column, i) => `c${i}::${types.get(column)}`);
    const arrays = columns.map((_, i) => `$${i + 1}::text[]`);
    const text = `INSERT INTO ${table} (${columns}) SELECT ${values} FROM unnest(${arrays}) AS given (${columns.map((_, i) => `c${i}`)})`;
    for (const chunk of chunks()) {
      const given = columns.map((_, i) => chunk.map((row) => (row[i] === null ? null : String(row[i]))));
      rows += (await client.query(text, given)).rowCount;
    }
  }
  await client.query(
    "SELECT setval(pg_get_serial_sequence('deployment_events', 'id'), max(id)) FROM deployment_events",
  );
  await client.query("RESET session_replication_role");
  await client.query("VACUUM ANALYZE");
  await client.end();
  return rows;
}
