// The thread of sync-postgres.ts: one connection per URL, one request at a time.

import { workerData } from "node:worker_threads";
import pg from "pg";

const { port, flag } = workerData;
const clients = new Map();

const { builtins } = pg.types;
const asText = (text) => text;
const PARSERS = new Map([
  [builtins.INT8, (text) => (Number.isSafeInteger(Number(text)) ? Number(text) : BigInt(text))],
  [builtins.NUMERIC, Number],
  [builtins.JSON, asText],
  [builtins.JSONB, asText],
  [builtins.DATE, asText],
  [builtins.TIMESTAMP, asText],
  [builtins.TIMESTAMPTZ, inUtc],
]);
const types = { getTypeParser: (oid, format) => PARSERS.get(oid) ?? pg.types.getTypeParser(oid, format) };

/** "2026-11-23 07:00:00.123456-05" → "2026-11-23T12:00:00.123456Z" */
function inUtc(text) {
  const [, day, time, fraction = "", zone] =
    /^(\d+-\d\d-\d\d) (\d\d:\d\d:\d\d)(\.\d+)?([+-]\d\d(?::\d\d)?)$/.exec(text) ?? [];
  if (day === undefined) return text;
  const moment = new Date(`${day}T${time}${zone.length === 3 ? `${zone}:00` : zone}`);
  return `${moment.toISOString().slice(0, 19)}${fraction}Z`;
}

/** A property test makes a database for each of its runs, and a server takes a hundred connections. */
const MOST_CLIENTS = 8;

async function connected(url) {
  const found = clients.get(url);
  if (found) return found;
  if (clients.size >= MOST_CLIENTS) await close({ url: clients.keys().next().value });
  const client = new pg.Client({
    connectionString: url,
    application_name: "hive-test",
    options: "-c lock_timeout=5s -c statement_timeout=60s",
    types,
  });
  const forget = () => {
    if (clients.get(url) === client) clients.delete(url);
  };
  client.on("error", forget);
  client.on("end", forget);
  await client.connect();
  clients.set(url, client);
  return client;
}

/** What the work leaves of a session is gone with it, as if the connection had been one of its own. */
async function session(url, work) {
  const client = await connected(url);
  try {
    const result = await work(client);
    if (client.getTransactionStatus() !== "I") await client.query("ROLLBACK");
    await client.query("DISCARD ALL");
    return result;
  } catch (error) {
    clients.delete(url);
    await client.end().catch(() => undefined);
    throw error;
  }
}

const query = ({ url, text }) =>
  session(url, async (client) => {
    const result = await client.query(text);
    return { rows: [result].flat().at(-1)?.rows ?? [], leftOut: [] };
  });

const insert = ({ url, ...request }) => session(url, (client) => insertOn(client, request));

async function insertOn(client, { table, columns, rows }) {
  const leftOut = [];
  const names = columns.map((name) => pg.escapeIdentifier(name)).join(", ");
  const put = async (some) => {
    const tuples = some.map((_, row) => `(${columns.map((_, at) => `$${row * columns.length + at + 1}`).join(", ")})`);
    await client.query("SAVEPOINT here");
    try {
      await client.query(
        `INSERT INTO ${pg.escapeIdentifier(table)} (${names}) VALUES ${tuples.join(", ")}`,
        some.flat(),
      );
      await client.query("RELEASE here");
    } catch (error) {
      if (error.code === undefined) throw error;
      await client.query("ROLLBACK TO here");
      if (some.length === 1) leftOut.push({ table, row: some[0], reason: error.message });
      else for (const one of some) await put([one]);
    }
  };
  await client.query("BEGIN; SET LOCAL session_replication_role = replica; SET LOCAL timezone = 'UTC'");
  const held = [];
  for (const row of rows) {
    // PostgreSQL would take the bytes for the text of their hexadecimal digits.
    if (row.some((value) => value instanceof Uint8Array))
      leftOut.push({ table, row, reason: "bytes in a text column" });
    else held.push(row);
  }
  for (let at = 0; at < held.length; at += 200) await put(held.slice(at, at + 200));
  await client.query("COMMIT");
  return { rows: [], leftOut };
}

async function close({ url }) {
  const client = clients.get(url);
  clients.delete(url);
  await client?.end();
  return { rows: [], leftOut: [] };
}

const ACTIONS = { query, insert, close };

port.on("message", async (request) => {
  let answer;
  try {
    answer = await ACTIONS[request.do](request);
  } catch (error) {
    answer = { error: { message: error.message, code: error.code, detail: error.detail } };
  }
  port.postMessage(answer);
  Atomics.store(flag, 0, 1);
  Atomics.notify(flag, 0);
});
