// As emitter.py, for PostgreSQL, and where there is no Python: node emitter.mjs DATABASE NAME
import { writeSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

const [url = "", name = ""] = process.argv.slice(2);
const insert = "(event_type, source_agent, correlation_id, subject, payload)";

async function postgres() {
  const { default: pg } = await import("pg");
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  return async (values) => {
    await client.query("BEGIN");
    await client.query(`INSERT INTO hive.hive_events ${insert} VALUES ($1, $2, $3, $4, $5)`, values);
    await client.query("COMMIT");
  };
}

async function sqlite() {
  const { default: Database } = await import("better-sqlite3");
  const statement = new Database(url, { timeout: 30_000 }).prepare(
    `INSERT INTO hive_events ${insert} VALUES (?, ?, ?, ?, ?)`,
  );
  return async (values) => statement.run(values);
}

const emit = await (/^postgres/.test(url) ? postgres() : sqlite());
for (let n = 1; ; n++) {
  await emit(["task.completed", "hive-coder", name, `sql-${n % 5}`, JSON.stringify({ name, n })]);
  writeSync(1, `${JSON.stringify({ name, n })}\n`);
  await delay(5);
}
