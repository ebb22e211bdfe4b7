// The same ratios on PostgreSQL as the other files measure on SQLite: everything on one server, in one run, on copies of
// one database.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { CONFIG_DEFAULTS, openHive } from "../dist/index.js";
import { connect, createPlatform, legacyTables, startServer } from "./postgres.js";
import { median, operation } from "./support.js";

const HIVE = fileURLToPath(new URL("../bin/hive.js", import.meta.url));
const UNIFIED = ["unified_tasks", "unified_review_tasks", "unified_workflow_tasks", "unified_deployment_tasks"];
/** What the preset's mappings read. */
const LEGACY = ["tasks", "runs", "deployment_events", "planning_queue", "execution_plans"];
const WRITERS = 8;

const ms = (number) => `${number.toFixed(2)} ms`;

function percentile(numbers, share) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

async function timed(work) {
  const began = performance.now();
  await work();
  return (performance.now() - began) / 1000;
}

/** As hive reads: in portions through a cursor, each value as it is sent. */
async function readAll(client, tables) {
  for (const table of tables) {
    await client.query(`BEGIN; DECLARE every NO SCROLL CURSOR FOR SELECT * FROM ${table}`);
    for (let rows = 1; rows > 0; ) {
      rows = (await client.query({ text: "FETCH FORWARD 512 FROM every", rowMode: "array" })).rowCount;
    }
    await client.query("COMMIT");
  }
}

export async function onPostgres({ folder, figure, say, tasks, rounds, operations, seconds, given, wanted }) {
  const server = await startServer(given);
  try {
    const where = server.own ? "started for this run, data in memory where there is room" : "the one given";
    say(`PostgreSQL ${server.version}, ${where}; fsync ${server.fsync}, synchronous_commit ${server.commit}`);
    const schema = await legacyTables(folder);
    const legacy = await server.create("legacy");
    const rows = await createPlatform(legacy, schema, tasks);
    say(`${tasks} tasks, ${rows} legacy rows in all, ${rounds} rounds, medians`);
    const migrated = await server.create("migrated", legacy);
    await operation(migrated, "up");
    const captured = await server.create("captured", migrated);
    await operation(captured, "dualWriteOn");
    if (wanted("data")) await data({ server, captured, figure, rounds });
    if (wanted("capture")) await capture({ server, migrated, captured, figure, operations });
    if (wanted("writer")) await dualWriter({ server, captured, migrated, figure, operations });
    if (wanted("events")) {
      const { events } = await import("./events.js");
      const create = (name) => server.create(name, migrated);
      await events({ create, figure, where: " (PostgreSQL)", operations, seconds });
    }
    if (wanted("sync")) await throughput({ server, captured, figure, seconds });
  } finally {
    await server.stop();
  }
}

async function data({ server, captured, figure, rounds }) {
  const times = { backfill: [], insert: [], read: [], check: [], both: [] };
  for (let round = 0; round < rounds; round++) {
    const filled = await server.create("filled", captured);
    times.backfill.push((await operation(filled, "backfill")).seconds);
    const check = await operation(filled, "check");
    if (!check.result.consistent) throw new Error("the check found drift");
    times.check.push(check.seconds);
    const client = await connect(filled);
    times.read.push(await timed(() => readAll(client, LEGACY)));
    times.both.push(await timed(() => readAll(client, [...LEGACY, ...UNIFIED])));
    // The same rows once more into tables that are alike, with the same indexes.
    for (const table of UNIFIED) await client.query(`CREATE TABLE copy_${table} (LIKE ${table} INCLUDING ALL)`);
    times.insert.push(
      await timed(async () => {
        for (const table of UNIFIED) await client.query(`INSERT INTO copy_${table} SELECT * FROM ${table}`);
      }),
    );
    await client.end();
  }
  const [backfill, insert, read, check, both] = Object.values(times).map(median);
  const s = (number) => `${number.toFixed(2)} s`;
  figure(
    "PostgreSQL: backfill against its limit (rate)",
    (read + insert) / backfill,
    null,
    "higher",
    `hive ${s(backfill)}, reading once ${s(read)} + INSERT … SELECT of the same rows ${s(insert)}`,
  );
  figure("PostgreSQL: backfill against INSERT … SELECT (rate)", insert / backfill, null, "higher", `${s(insert)}`);
  figure("PostgreSQL: backfill against nothing but reading (rate)", read / backfill, null, "higher", `${s(read)}`);
  figure(
    "PostgreSQL: check against merely reading both sides (rate)",
    both / check,
    null,
    "higher",
    `hive ${s(check)}, reading ${s(both)}`,
  );
}

/** An agent's insert and update with triggers against without, in turns. */
async function capture({ server, migrated, captured, figure, operations }) {
  const urls = [await server.create("bare", migrated), await server.create("noted", captured)];
  const sides = await Promise.all(urls.map((url) => connect(url)));
  const keys = (await sides[0].query("SELECT id FROM tasks ORDER BY id LIMIT 4000")).rows.map(({ id }) => id);
  const found = await sides[0].query(
    "SELECT attname AS name FROM pg_attribute WHERE attrelid = 'tasks'::regclass AND attnum > 0 AND attname <> 'id'",
  );
  const columns = found.rows.map(({ name }) => name);
  const insert = `INSERT INTO tasks (id, ${columns}) SELECT $1, ${columns} FROM tasks WHERE id = $2`;
  const update = "UPDATE tasks SET status = $1, updated_at = now() WHERE id = $2";
  const times = { insert: [[], []], update: [[], []] };
  for (let i = -50; i < operations; i++) {
    const kind = i % 2 ? "insert" : "update";
    const key = keys[Math.abs(i * 7919) % keys.length];
    // In turns, so that neither always finds the caches as the other one left them.
    for (const side of i % 4 < 2 ? [0, 1] : [1, 0]) {
      const began = performance.now();
      if (kind === "insert") await sides[side].query({ name: kind, text: insert, values: [`bench-${i}`, key] });
      else await sides[side].query({ name: kind, text: update, values: [i % 4 ? "running" : "completed", key] });
      if (i >= 0) times[kind][side].push(performance.now() - began);
    }
  }
  for (const kind of ["insert", "update"]) {
    for (const [name, share] of [
      ["p50", 0.5],
      ["p99", 0.99],
    ]) {
      const [a, b] = times[kind].map((some) => percentile(some, share));
      const detail = `${ms(b)} against ${ms(a)}, ${times[kind][0].length} pairs`;
      figure(`PostgreSQL: an agent's ${kind} with capture, ${name}`, b / a, null, "lower", detail);
    }
  }
  for (const client of sides) await client.end();
}

/** The dual writer's create against two bare inserts of the same rows in one transaction. */
async function dualWriter({ server, captured, migrated, figure, operations }) {
  const url = await server.create("dual", captured);
  await operation(url, "backfill");
  const client = await connect(url);
  const bare = await connect(await server.create("dual bare", migrated));
  const hive = await openHive({ ...CONFIG_DEFAULTS, database: url, baseDirectory: "/" });
  const writer = await hive.writer("hive-coder");
  const times = { dual: [], bare: [] };
  const statements = new Map();
  for (const table of ["tasks", "unified_tasks"]) {
    const text = `INSERT INTO ${table} SELECT * FROM jsonb_populate_record(NULL::${table}, $1)`;
    statements.set(table, { name: table, text });
  }
  for (let i = -50; i < operations; i++) {
    const began = performance.now();
    const { record } = await writer.create({
      taskType: "code",
      status: "queued",
      priority: 6,
      inputData: { title: `task ${i}`, description: "d", payload: { files: ["a.py"], note: "x".repeat(200) } },
    });
    const took = performance.now() - began;
    const rows = [];
    for (const [table, statement] of statements) {
      const { rows: found } = await client.query(`SELECT to_jsonb(t)::text AS row FROM ${table} AS t WHERE id = $1`, [
        record.id,
      ]);
      rows.push({ ...statement, values: [found[0].row] });
    }
    const bareBegan = performance.now();
    await bare.query("BEGIN");
    for (const row of rows) await bare.query(row);
    await bare.query("COMMIT");
    if (i < 0) continue;
    times.dual.push(took);
    times.bare.push(performance.now() - bareBegan);
  }
  await hive[Symbol.asyncDispose]();
  await client.end();
  await bare.end();
  for (const [name, share] of [
    ["p50", 0.5],
    ["p99", 0.99],
  ]) {
    const [a, b] = [times.bare, times.dual].map((some) => percentile(some, share));
    const detail = `${ms(b)} against ${ms(a)}, ${times.dual.length} pairs, BEGIN and COMMIT of their own`;
    figure(`PostgreSQL: the dual writer's create against two bare inserts, ${name}`, b / a, null, "lower", detail);
  }
}

/** What a watching sync carries over while eight agents write as fast as they can, and how long after they wrote. */
async function throughput({ server, captured, figure, seconds }) {
  const url = await server.create("sync", captured);
  await operation(url, "backfill");
  const sync = spawn(process.execPath, [HIVE, "--database", url, "--json", "sync", "--watch"], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  await once(sync.stderr, "data");
  const writers = await Promise.all(Array.from({ length: WRITERS }, () => connect(url)));
  const watcher = await connect(url);
  const keys = (await watcher.query("SELECT id FROM tasks ORDER BY id")).rows.map(({ id }) => id);
  const began = performance.now();
  const until = began + seconds * 1000;
  let written = 0;
  const write = async (client, number) => {
    for (let i = number; performance.now() < until; i += WRITERS) {
      const values = [i % 3 ? "running" : "completed", keys[(i * 7919) % keys.length]];
      await client.query({ name: "w", text: "UPDATE tasks SET status = $1, updated_at = now() WHERE id = $2", values });
      written += 1;
    }
  };
  const lags = [];
  const watch = async () => {
    const waiting = new Map();
    let first = true;
    for (let over = false; !over; first = false) {
      const now = Date.now();
      const { rows } = await watcher.query(
        "SELECT seq, (at - 2440587.5) * 86400000 AS at FROM hive.hive_changes WHERE side IS NOT NULL ORDER BY seq",
      );
      const there = new Set(rows.map(({ seq }) => seq));
      for (const [seq, at] of waiting) {
        if (there.has(seq)) continue;
        lags.push(now - at);
        waiting.delete(seq);
      }
      for (const { seq, at } of rows) waiting.set(seq, at);
      over = !first && performance.now() >= until && waiting.size === 0;
      await delay(10);
    }
  };
  const watching = watch();
  await Promise.all(writers.map(write));
  const spent = (performance.now() - began) / 1000;
  await watching;
  const drained = (performance.now() - began) / 1000;
  sync.kill("SIGTERM");
  await once(sync, "exit");
  for (const client of [...writers, watcher]) await client.end();
  const [asked, done] = [written / spent, written / drained];
  figure(
    `PostgreSQL: changes that sync applied a second against those that ${WRITERS} agents wrote`,
    done / asked,
    null,
    "higher",
    `${Math.round(done)}/s against ${Math.round(asked)}/s; lag p50 ${ms(percentile(lags, 0.5))}, p99 ${ms(percentile(lags, 0.99))} of ${lags.length} changes that were seen waiting`,
  );
}
