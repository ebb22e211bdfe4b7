// Emits or reads events in a process of its own: node events-child.js DATABASE ROLE JSON. Says "ready", goes on at a line
// on stdin, and prints its result as JSON.
import { once } from "node:events";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { CONFIG_DEFAULTS, openHive } from "../dist/index.js";

const [database, role, json] = process.argv.slice(2);
const given = JSON.parse(json);
const hive = await openHive({ ...CONFIG_DEFAULTS, database, baseDirectory: "/" });
const now = () => performance.timeOrigin + performance.now();
const told = once(createInterface({ input: process.stdin }), "line");

const roles = {
  /** So many events a second, each with the moment at which it is emitted. */
  async emit({ rate, seconds, quiet }) {
    console.log("ready");
    await told;
    const began = performance.now();
    let n = 0;
    for (;;) {
      const elapsed = (performance.now() - began) / 1000;
      if (elapsed >= seconds) return { emitted: n };
      for (const due = Math.floor(elapsed * rate); n < due; n++) {
        const payload = n < quiet ? { n, warm: true } : { at: now(), n };
        await hive.events.emit({ type: "task.progress", sourceAgent: "hive-coder", subject: `s${n % 50}`, payload });
      }
      await delay(1);
    }
  },
  /** Until each of these subscribers has had so many events. */
  async read({ names, count, transactional, from }) {
    const latencies = [];
    const counts = new Map(names.map((name) => [name, 0]));
    let all;
    const done = new Promise((resolve) => {
      all = resolve;
    });
    const start = () =>
      Promise.all(
        names.map((name) => {
          const handler = ({ payload }) => {
            if (payload.warm) return;
            if (payload.at) latencies.push(now() - payload.at);
            counts.set(name, counts.get(name) + 1);
            if ([...counts.values()].every((seen) => seen >= count)) all();
          };
          return hive.events.subscribe({ name, patterns: ["*"], from, transactional, handler });
        }),
      );
    if (from === "now") await start();
    console.log("ready");
    await told;
    const began = now();
    if (from !== "now") await start();
    await done;
    return { began, ended: now(), latencies };
  },
  /** As one would without hive: look, and sleep. */
  async poll({ count, everyMs }) {
    const latencies = [];
    let { last: after } = { last: 0, ...(await newest()) };
    console.log("ready");
    await told;
    while (latencies.length < count) {
      const { events } = await hive.events.list({ after, limit: 1000 });
      for (const { seq, payload } of events) {
        if (payload.at) latencies.push(now() - payload.at);
        after = seq;
      }
      await delay(everyMs);
    }
    return { latencies };
  },
  /** Subscribers to which nothing comes. */
  async idle({ names, seconds }) {
    for (const name of names) await hive.events.subscribe({ name, patterns: ["*"], handler: () => undefined });
    console.log("ready");
    await told;
    await delay(2_000);
    const before = process.cpuUsage();
    const began = performance.now();
    await delay(seconds * 1000);
    const { user, system } = process.cpuUsage(before);
    return { share: (user + system) / 1000 / (performance.now() - began) };
  },
};

async function newest() {
  const { events } = await hive.events.list({ limit: 1 });
  return events.length === 0 ? {} : { last: events[0].seq };
}

const result = await roles[role](given);
await hive[Symbol.asyncDispose]();
console.log(JSON.stringify(result));
process.stdin.destroy();
