// A dual writer in a process of its own: node writer-child.mjs DIST '{"path":…,"name":"a","count":20,"killAt":7}'. It makes
// and changes `count` tasks, prints the key and status of each one that was acknowledged, and kills itself at the n-th
// point that the engine signals, if told to. With the action "race" it makes keys that others make as well, and says of
// each whether it was first; and it counts up the record "counter", `count` times.
import { writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const [dist = "", request = "{}"] = process.argv.slice(2);
const { path, name, count, killAt = 0, action = "write" } = JSON.parse(request);
const { CONFIG_DEFAULTS, openHive } = await import(pathToFileURL(join(dist, "index.js")).href);

let points = 0;
const signal = (point) => {
  if (!/^(tx:write|writer):/.test(point)) return;
  points += 1;
  if (points === killAt) process.kill(process.pid, "SIGKILL");
};
const settings = { ...CONFIG_DEFAULTS, database: path, baseDirectory: path.includes("://") ? "/" : dirname(path) };
const hive = await openHive(settings, { signal, actor: "child" });
const writer = await hive.writer("ai-reviewer");
const tell = (key, status) => writeSync(1, `${JSON.stringify({ key, status })}\n`);
async function write() {
  for (let i = 0; i < count; i++) {
    const id = `${name}-${i}`;
    await writer.create({ id, taskType: i % 2 === 0 ? "review" : "code", status: "queued", inputData: { title: id } });
    tell(id, "queued");
    await writer.update(id, { status: "running" });
    tell(id, "running");
    if (i % 3 === 2) {
      await writer.delete(id);
      tell(id, null);
    }
  }
}
async function race() {
  const code = (error) => error.code;
  for (let i = 0; i < count; i++) {
    const id = `race-${i}`;
    const made = writer.create({ id, taskType: "code", inputData: { title: name } });
    tell(id, await made.then(() => "made", code));
    // An agent has something else to do, too.
    await delay(20);
    for (let done = false; !done; ) {
      const { errorMessage, updatedAt } = await writer.get("counter");
      const changes = { errorMessage: String(Number(errorMessage ?? 0) + 1) };
      const failed = await writer.update("counter", changes, { expectedUpdatedAt: updatedAt }).then(() => null, code);
      if (failed !== null && failed !== "RECORD_CHANGED") throw new Error(failed);
      done = failed === null;
    }
  }
}
await { write, race }[action]();
await hive[Symbol.asyncDispose]();
