// What events cost those who write, and how fast they come to those who read: on either database.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { CONFIG_DEFAULTS, openHive, sql } from "../dist/index.js";
import { median } from "./support.js";

const CHILD = fileURLToPath(new URL("./events-child.js", import.meta.url));
const PAYLOAD = JSON.stringify({ files: ["a.py"], note: "x".repeat(200) });
const ms = (number) => `${number.toFixed(2)} ms`;

function percentile(numbers, share) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

const open = (database) => openHive({ ...CONFIG_DEFAULTS, database, baseDirectory: "/" });

/** A process that waits for its start. */
async function child(database, role, given) {
  const process_ = spawn(process.execPath, [CHILD, database, role, JSON.stringify(given)], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const lines = createInterface({ input: process_.stdout });
  const heard = [];
  lines.on("line", (line) => heard.push(line));
  const ended = once(process_, "close");
  await Promise.race([once(lines, "line"), ended]);
  if (heard[0] !== "ready") throw new Error(`${role} did not begin`);
  return async () => {
    process_.stdin.write("go\n");
    const [code] = await ended;
    if (code !== 0) throw new Error(`${role} ended with code ${code}`);
    return JSON.parse(heard.at(-1));
  };
}

async function together(children) {
  return Promise.all((await Promise.all(children)).map((go) => go()));
}

/** `create(name)`: a migrated database of the platform, of its own. */
export async function events({ create, figure, where = "", operations, seconds, count = 20_000 }) {
  const database = await create("events");
  const hive = await open(database);
  await hive.flags.change([{ agent: "hive-coder", flag: "unified-events", value: "on" }]);
  await cost({ hive, figure, where, operations });
  await throughput({ hive, database, figure, where, count });
  await hive[Symbol.asyncDispose]();
  await latency({ database, figure, where, seconds });
  await idle({ database, figure, where, seconds });
}

/** A task in a transaction, with its event and without: in turns. */
async function cost({ hive, figure, where, operations }) {
  const { store } = hive.context;
  const times = [[], []];
  for (let i = -100; i < operations; i++) {
    for (const withEvent of i % 2 === 0 ? [0, 1] : [1, 0]) {
      const began = performance.now();
      await store.transaction("bench", async (tx) => {
        await tx.run(sql`INSERT INTO tasks (id, title, description, task_type, status, payload)
          VALUES (${`bench-${i}-${withEvent}`}, 'a task', 'as agents make them', 'backend', 'queued', ${PAYLOAD})`);
        if (withEvent === 0) return;
        const payload = { task_id: `t${i}`, status: "running" };
        await hive.events.emit({ type: "task.started", sourceAgent: "hive-coder", subject: `t${i}`, payload }, { tx });
      });
      if (i >= 0) times[withEvent].push(performance.now() - began);
    }
  }
  const [bare, whole] = times.map(median);
  figure(
    `a write with its event against the bare write${where}`,
    whole / bare,
    2,
    "lower",
    `median ${ms(whole)} against ${ms(bare)}; p99 ${ms(percentile(times[1], 0.99))} against ${ms(percentile(times[0], 0.99))}`,
  );
}

/** Many events that are there, through 3 subscribers, against reading them 3 times and no more. */
async function throughput({ hive, database, figure, where, count }) {
  const events = Array.from({ length: 500 }, (_, n) => ({
    ...{ type: "task.started", sourceAgent: "hive-coder", subject: `s${n % 50}` },
    payload: { task_id: `t${n}`, status: "running" },
  }));
  const { events: before } = await hive.events.list({ limit: 1 });
  const from = before[0]?.seq ?? 0;
  for (let n = 0; n < count; n += events.length) await hive.events.emit(events);
  await hive.events.list({ after: from, limit: 1 });
  const began = performance.now();
  for (let reader = 0; reader < 3; reader++) {
    let read = 0;
    for (let after = from; read < count; ) {
      const page = await hive.events.list({ after, limit: 500 });
      after = page.events.at(-1).seq;
      read += page.events.length;
    }
  }
  const reading = (performance.now() - began) / 1000;
  const names = ["a", "b", "c"];
  const span = (results) =>
    (Math.max(...results.map((r) => r.ended)) - Math.min(...results.map((r) => r.began))) / 1000;
  const rate = (took) => `${Math.round((3 * count) / took)} events/s`;
  const runs = [
    ["3 subscribers in one process", false, [names]],
    ["3 subscribers, a process each", false, names.map((name) => [name])],
    ["3 transactional subscribers in one process", true, [names]],
  ];
  for (const [title, transactional, groups] of runs) {
    const prefix = title.replaceAll(/\W/g, "");
    const children = groups.map((group) =>
      child(database, "read", { names: group.map((name) => prefix + name), count, transactional, from }),
    );
    const took = span(await together(children));
    figure(
      `${title} against reading the events 3 times (rate)${where}`,
      reading / took,
      transactional ? null : 0.4,
      "higher",
      `${rate(took)}, merely read ${rate(reading)}; ${count} events`,
    );
    for (const name of names) await hive.events.unsubscribe(prefix + name);
  }
}

/** From emitting to the handler, in another process, at a quiet pace; against one that looks every 100 ms. */
async function latency({ database, figure, where, seconds }) {
  const rate = 100;
  // Without the first second, in which each process loads what it needs.
  const count = Math.floor(rate * (seconds - 1) * 0.95);
  const emit = { rate, seconds, quiet: rate };
  const groups = [
    ["one process", [["la", "lb", "lc"]]],
    ["several processes", [["lg"], ["lh"], ["li"]]],
  ];
  const [polled] = await together([child(database, "poll", { count, everyMs: 100 }), child(database, "emit", emit)]);
  for (const [title, names] of groups) {
    const readers = names.map((group) =>
      child(database, "read", { names: group, count, transactional: false, from: "now" }),
    );
    const results = (await together([...readers, child(database, "emit", emit)])).slice(0, -1);
    const latencies = results.flatMap((result) => result.latencies);
    const [p50, p99] = [0.5, 0.99].map((share) => percentile(latencies, share));
    figure(
      `emit to delivery through 3 subscribers in ${title} against looking every 100 ms (p50)${where}`,
      p50 / percentile(polled.latencies, 0.5),
      0.25,
      "lower",
      `p50 ${ms(p50)}, p99 ${ms(p99)} at ${rate} events/s; looking every 100 ms: p50 ${ms(percentile(polled.latencies, 0.5))}`,
    );
  }
}

async function idle({ database, figure, where, seconds }) {
  for (const names of [["ia"], ["ib", "ic", "id"]]) {
    const [{ share }] = await together([child(database, "idle", { names, seconds })]);
    figure(
      `processor of ${names.length === 1 ? "a watching subscriber" : "3 watching subscribers"} to which nothing comes${where}`,
      share,
      names.length === 1 ? 0.02 : 0.05,
      "lower",
      `${(share * 100).toFixed(2)} % of one processor`,
    );
  }
}
