// One agent of a platform, for where there is no Python, and for PostgreSQL: agent.py says what it does.
// `node agent.mjs DATABASE WORK NAME`, where DATABASE is a file or postgres://… (a password in PGPASSWORD)
import { readFileSync } from "node:fs";

const EVERY_MS = 80;
const PREFIX = "live-";
const ROWS = ["worker", "task", "run", "request", "plan", "event"];
const NAMED = new RegExp(`:(${[...ROWS, "text", "json"].join("|")})\\b`, "g");

// A Ctrl-C at the terminal is for whoever started this, who then closes stdin.
process.on("SIGINT", () => {});
// Nobody is left to be told.
process.stdout.on("error", () => process.exit());

const [, , database, file, name] = process.argv;
const { title, hello, work } = JSON.parse(readFileSync(file, "utf8"))[name];
const db = await (/^postgres(ql)?:/.test(database) ? openPostgres() : openSqlite());
const texts = new Map();
let job = 1;
let at = 0;
let window = cleared();

function cleared() {
  return { since: performance.now(), statements: 0, failures: 0, errors: [], ms: [], written: {} };
}

function say(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

function keyOf(row, of) {
  return row === "worker" ? PREFIX + name : `${PREFIX}${name}-${row}-${of}`;
}

async function openSqlite() {
  const { default: Database } = await import("better-sqlite3");
  const file = new Database(database, { fileMustExist: true, timeout: 10_000 });
  file.pragma("foreign_keys = ON");
  const prepared = new Map();
  return {
    version: `SQLite ${file.prepare("SELECT sqlite_version()").pluck().get()}`,
    async run(sql, values) {
      const statement = prepared.get(sql) ?? file.prepare(sql);
      prepared.set(sql, statement);
      return statement.reader ? statement.raw().all(values) : statement.run(values);
    },
    close: async () => file.close(),
  };
}

async function openPostgres() {
  const { default: pg } = await import("pg");
  const client = new pg.Client({ connectionString: database, application_name: `agent ${name}` });
  // Whoever sends the next statement is told.
  client.on("error", () => {});
  await client.connect();
  const { rows } = await client.query("SHOW server_version");
  return {
    version: `PostgreSQL ${rows[0].server_version.split(" ")[0]}`,
    async run(sql, values) {
      const given = [];
      const text = sql.replace(NAMED, (_, key) => `$${given.push(values[key])}`);
      return (await client.query({ text, values: given, rowMode: "array" })).rows;
    },
    close: () => client.end(),
  };
}

async function send({ sql, writes, reads, ends }) {
  const of = ends ? job - ends.jobsAgo : job;
  if (of < 1) return;
  const mark = writes?.mark === "job" ? of : writes?.mark;
  const text = `${title} ${of} #${mark}`;
  const values = { text, json: JSON.stringify({ about: text }) };
  for (const row of ROWS) values[row] = keyOf(row, of);
  const begun = performance.now();
  try {
    const rows = await db.run(sql, values);
    if (reads && (rows.length !== 1 || rows[0][0] !== texts.get(keyOf(reads, of)))) {
      throw new Error(`${keyOf(reads, of)} reads ${JSON.stringify(rows)}`);
    }
    if (writes) {
      texts.set(keyOf(writes.row, of), values.text);
      window.written[keyOf(writes.row, of)] = mark;
    }
    for (const row of ends?.rows ?? []) {
      texts.delete(keyOf(row, of));
      window.written[keyOf(row, of)] = null;
    }
  } catch (error) {
    window.failures += 1;
    window.errors.push(`${error.code ?? error.name}: ${error.message}`);
  }
  window.statements += 1;
  window.ms.push(Math.round((performance.now() - begun) * 1000) / 1000);
}

function report() {
  const { since, errors, ...rest } = window;
  say({ seconds: (performance.now() - since) / 1000, errors: errors.slice(0, 3), ...rest });
  window = cleared();
}

for (const statement of hello) await send(statement);
say({ ready: `Node.js ${process.versions.node}, ${db.version}`, pid: process.pid });

let due = performance.now();
let timer;
// An answer waits for the statement that is on its way.
let working = Promise.resolve();
function after(what) {
  working = working.then(what);
}
async function next() {
  await send(work[at]);
  at += 1;
  if (at === work.length) {
    job += 1;
    at = 0;
  }
  due = Math.max(due + EVERY_MS, performance.now());
  if (!ended) timer = setTimeout(after, due - performance.now(), next);
}
let ended = false;
after(next);

process.stdin.on("data", (data) => {
  for (const byte of data) if (byte === 10) after(report);
});
process.stdin.on("end", () => {
  ended = true;
  clearTimeout(timer);
  after(report);
  after(db.close);
});
