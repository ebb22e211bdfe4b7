// What hive costs while agents write, and how far it is behind them. Each figure is measured against its counterpart in
// the same run, on files that are alike.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import Database from "better-sqlite3";
import { createPlatform, median, open, operation } from "./support.js";

const HIVE = fileURLToPath(new URL("../bin/hive.js", import.meta.url));
const WRITER = fileURLToPath(new URL("./writer.js", import.meta.url));

function fresh(path, from) {
  for (const suffix of ["", "-wal", "-shm"]) rmSync(path + suffix, { force: true });
  if (from) copyFileSync(from, path);
  return path;
}

function percentile(numbers, share) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

const ms = (number) => `${number.toFixed(2)} ms`;

/** As Python's sqlite3 opens a file: every commit is synced. */
function agent(path) {
  const db = new Database(path, { timeout: 10_000 });
  db.pragma("synchronous = FULL");
  const columns = db
    .prepare("SELECT name FROM pragma_table_info('tasks')")
    .pluck()
    .all()
    .filter((name) => name !== "id");
  const insert = db.prepare(`INSERT INTO tasks (id, ${columns}) SELECT ?, ${columns} FROM tasks WHERE id = ?`);
  const update = db.prepare("UPDATE tasks SET status = ?, updated_at = CURRENT_TIMESTAMP WHERE id = ?");
  return { db, insert, update };
}

/** An agent's insert and update with triggers against without: in turns, at the platform's rate and as fast as it goes. */
export async function capture({ folder, figure, operations }) {
  const bare = fresh(join(folder, "bare.db"));
  createPlatform(bare, 5_000);
  await operation(bare, "up");
  const captured = fresh(join(folder, "captured.db"), bare);
  await operation(captured, "dualWriteOn");
  const sides = [agent(bare), agent(captured)];
  const keys = sides[0].db.prepare("SELECT id FROM tasks ORDER BY id LIMIT 4000").pluck().all();
  const times = { insert: [[], []], update: [[], []] };
  const perform = (side, kind, i) => {
    const key = keys[(i * 7919) % keys.length];
    const began = performance.now();
    if (kind === "insert") sides[side].insert.run(`bench-${i}`, key);
    else sides[side].update.run(i % 2 ? "running" : "completed", key);
    return performance.now() - began;
  };
  for (let i = 0; i < operations; i++) {
    const kind = i % 2 ? "insert" : "update";
    // In turns, so that neither always finds the caches as the other one left them.
    for (const side of i % 4 < 2 ? [0, 1] : [1, 0]) times[kind][side].push(perform(side, kind, i));
    await delay(4);
  }
  for (const kind of ["insert", "update"]) {
    const [without, withTriggers] = times[kind];
    for (const [name, share, goal] of [
      ["p50", 0.5, 1.05],
      ["p99", 0.99, 1.1],
    ]) {
      const [a, b] = [percentile(without, share), percentile(withTriggers, share)];
      const detail = `${ms(b)} against ${ms(a)}, ${without.length} pairs`;
      figure(`an agent's ${kind} with capture, ${name}, at the platform's rate`, b / a, goal, "lower", detail);
    }
  }
  const BLOCK = 500;
  const rates = [[], []];
  for (let block = 0; block < 8; block++) {
    const side = block % 2;
    const began = performance.now();
    for (let i = 0; i < BLOCK; i++) perform(side, i % 2 ? "insert" : "update", 1_000_000 + block * BLOCK + i);
    rates[side].push(BLOCK / ((performance.now() - began) / 1000));
  }
  const [a, b] = rates.map(median);
  const detail = `${Math.round(b)} statements/s against ${Math.round(a)}/s`;
  figure("an agent's statements with capture, as fast as one can (rate)", b / a, null, "higher", detail);
  for (const { db } of sides) db.close();
}

/** The dual writer's create against two bare inserts of the same rows in one transaction. */
export async function dualWriter({ folder, figure, operations }) {
  const path = fresh(join(folder, "dual.db"));
  createPlatform(path, 2_000);
  await operation(path, "up");
  await operation(path, "dualWriteOn");
  await operation(path, "backfill");
  const { dual, bare } = (await operation(path, "dualWriter", { operations })).result;
  const detail = `p50 ${ms(median(dual))} against ${ms(median(bare))}, ${dual.length} pairs, synchronous NORMAL`;
  figure("the dual writer's create against two bare inserts", median(dual) / median(bare), 1.2, "lower", detail);
}

/** How long after an agent's commit a change is on the other side, while agents go on. */
export async function lag({ folder, figure, seconds }) {
  for (const rate of [100, 1_000]) {
    const path = fresh(join(folder, `lag-${rate}.db`));
    createPlatform(path, 20_000);
    await operation(path, "up");
    await operation(path, "dualWriteOn");
    await operation(path, "backfill");
    const sync = spawn(process.execPath, [HIVE, "--database", path, "--json", "sync", "--watch"], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    await once(sync.stderr, "data");
    const writer = spawn(process.execPath, [WRITER, path, String(rate), String(seconds)], { stdio: "inherit" });
    const lags = [];
    const waiting = new Map();
    const db = new Database(path, { readonly: true });
    const pending = db.prepare("SELECT seq, at FROM hive_changes WHERE side IS NOT NULL AND seq > ?").raw();
    const lowest = db.prepare("SELECT min(seq) FROM hive_changes WHERE side IS NOT NULL").pluck();
    const still = db.prepare("SELECT seq FROM hive_changes WHERE side IS NOT NULL").pluck();
    let last = 0;
    let over = false;
    writer.once("exit", () => {
      over = true;
    });
    while (!over || waiting.size > 0) {
      for (const [seq, at] of pending.all(last)) {
        waiting.set(seq, (at - 2_440_587.5) * 86_400_000);
        last = seq;
      }
      const now = Date.now();
      if (waiting.size > 0 && lowest.get() !== waiting.keys().next().value) {
        const there = new Set(still.all());
        for (const [seq, at] of waiting) {
          if (there.has(seq)) continue;
          lags.push(now - at);
          waiting.delete(seq);
        }
      }
      await delay(2);
      if (over && Date.now() - now > 60_000) break;
    }
    const work = db.prepare(
      "SELECT sum(held_ms) AS held, sum(commits) AS commits FROM hive_work WHERE operation = 'sync'",
    );
    sync.kill("SIGTERM");
    await once(sync, "exit");
    const { held, commits } = work.get();
    db.close();
    const share = `lock held ${((held / (seconds * 1000)) * 100).toFixed(2)} % of the time, ${(commits / seconds).toFixed(1)} commits/s`;
    figure(
      `sync lag p99 at ${rate} changed aggregates a second, against 150 ms`,
      percentile(lags, 0.99) / 150,
      1,
      "lower",
      `p50 ${ms(percentile(lags, 0.5))}, p99 ${ms(percentile(lags, 0.99))} of ${lags.length} changes; ${share}`,
    );
  }
}

/** A hundred thousand changes that came while nobody synced, against moving as many in a backfill. */
export async function drain({ folder, figure, tasks }) {
  const path = fresh(join(folder, "drain.db"));
  createPlatform(path, tasks);
  await operation(path, "up");
  await operation(path, "dualWriteOn");
  const backfill = await operation(path, "backfill");
  const db = open(path);
  db.exec("UPDATE tasks SET status = CASE status WHEN 'completed' THEN 'in_progress' ELSE 'completed' END");
  db.close();
  const sync = await operation(path, "sync");
  const rates = [sync.result.applied / sync.seconds, backfill.result.aggregates.total / backfill.seconds];
  const detail = `${sync.result.applied} changes in ${sync.seconds.toFixed(1)} s (${Math.round(rates[0])}/s), backfill ${Math.round(rates[1])}/s`;
  figure("draining 100,000 changes against a backfill (rate)", rates[0] / rates[1], null, "higher", detail);
}

/** `check --changed` after 1,000 changes in a million rows, and the log of a check of all of them under writes. */
export async function changed({ folder, figure, tasks }) {
  const path = fresh(join(folder, "changed.db"));
  const rows = createPlatform(path, tasks);
  await operation(path, "up");
  await operation(path, "dualWriteOn");
  await operation(path, "backfill");
  const quiet = statSync(path).size;
  const writer = spawn(process.execPath, [WRITER, path, "120", "600"], { stdio: "inherit" });
  let largest = 0;
  const watching = setInterval(() => {
    largest = Math.max(largest, statSync(`${path}-wal`, { throwIfNoEntry: false })?.size ?? 0);
  }, 100);
  const full = await operation(path, "check");
  clearInterval(watching);
  writer.kill();
  await once(writer, "exit");
  figure(
    `the log's largest size while a check of ${rows} rows runs under 120 writes a second, against the file`,
    largest / quiet,
    null,
    "lower",
    `${(largest / 1e6).toFixed(0)} MB beside ${(quiet / 1e6).toFixed(0)} MB, in ${full.seconds.toFixed(1)} s`,
  );
  await operation(path, "sync");
  const base = await operation(path, "check");
  if (!base.result.consistent) throw new Error("the check found drift");
  const db = open(path);
  db.exec("UPDATE tasks SET status = 'running' WHERE id IN (SELECT id FROM tasks ORDER BY id LIMIT 1000)");
  db.close();
  await operation(path, "sync");
  const some = await operation(path, "check", { changed: true });
  figure(
    `check --changed after 1,000 changes in ${rows} rows, against a full check`,
    some.seconds / base.seconds,
    0.01,
    "lower",
    `${(some.seconds * 1000).toFixed(0)} ms for ${some.result.compared} aggregates, ${base.seconds.toFixed(1)} s for ${base.result.compared}`,
  );
}
