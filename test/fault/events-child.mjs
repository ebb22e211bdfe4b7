// Emits or reads events in a process of its own: node events-child.mjs DIST '{"path":…,"role":"emit","name":"a","killAt":7}'.
// Kills itself at the n-th point that the engine signals, stops itself (SIGSTOP) at the n-th "subscriber:delivered".
import { writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const [dist = "", request = "{}"] = process.argv.slice(2);
const { path, role, name, killAt = 0, stopAt = 0, leaseMs } = JSON.parse(request);
const { CONFIG_DEFAULTS, openHive, sql } = await import(pathToFileURL(join(dist, "index.js")).href);

const counts = { points: 0, delivered: 0 };
const tell = (message) => writeSync(1, `${JSON.stringify(message)}\n`);
const signal = (point) => {
  counts.points += 1;
  if (counts.points === killAt) {
    tell({ event: "killed", point });
    process.kill(process.pid, "SIGKILL");
  }
  if (point !== "subscriber:delivered") return;
  counts.delivered += 1;
  if (counts.delivered === stopAt) {
    tell({ event: "stopping" });
    process.kill(process.pid, "SIGSTOP");
  }
};
const settings = { ...CONFIG_DEFAULTS, database: path, baseDirectory: path.includes("://") ? "/" : dirname(path) };
const hive = await openHive(settings, { signal, actor: name, leaseMs });
const onEvent = (event) => tell({ ...event, event: event.kind });
const options = { from: "start", batch: 20, maxAttempts: 1_000, backoff: { firstMs: 5, mostMs: 20 }, onEvent };
const roles = {
  async emit() {
    for (let n = 1; ; n++) {
      const event = {
        type: "task.completed",
        sourceAgent: "hive-coder",
        subject: `library-${n % 5}`,
        payload: { name, n },
      };
      const done = await hive.events.emit({ ...event, correlationId: name });
      if (done.length !== 1) throw new Error("not emitted");
      tell({ event: "acknowledged", name, n });
      await delay(2);
    }
  },
  /** Each effect is a row; some fail at first. */
  async effects() {
    const handler = async (event, tx, { attempt }) => {
      await tx.run(sql`INSERT INTO effects (seq, subject) VALUES (${event.seq}, ${event.subject})`);
      if (event.seq % 7 === 0 && attempt === 1) throw new Error("not at once");
    };
    await hive.events.subscribe({ ...options, name: "effects", patterns: ["task.*"], handler });
  },
  async told() {
    const handler = (event, _tx, { attempt, token }) => {
      if (event.seq % 11 === 0 && attempt === 1) throw new Error("not at once");
      tell({ event: "handled", seq: event.seq, subject: event.subject, token });
    };
    await hive.events.subscribe({ ...options, name: "told", patterns: ["*.completed"], transactional: false, handler });
  },
};
await roles[role]();
