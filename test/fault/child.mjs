// One hive command in a process of its own, which kills itself at the n-th point that the engine signals:
// node child.mjs DIST '{"path":…,"action":"backfill","killAt":7}'. Prints the points that it passed, or the
// one at which it died.
import { writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const [dist = "", request = "{}"] = process.argv.slice(2);
const { path, action, killAt = 0 } = JSON.parse(request);
const { CONFIG_DEFAULTS, openHive } = await import(pathToFileURL(join(dist, "index.js")).href);

const points = [];
const signal = (point) => {
  points.push(point);
  if (points.length !== killAt) return;
  writeSync(1, JSON.stringify(point));
  process.kill(process.pid, "SIGKILL");
};
const settings = { ...CONFIG_DEFAULTS, database: path, baseDirectory: dirname(path), lockTimeoutSeconds: 0 };
const hive = await openHive(settings, { signal, actor: "child" });
const actions = {
  up: () => hive.migrations.up(),
  down: () => hive.migrations.down({ to: "0", force: true, reason: "test" }),
  backfill: () => hive.backfill(),
  check: () => hive.check(),
  repair: () => hive.check({ repair: true }),
  retry: () => hive.quarantine.retry(),
  discard: () => hive.quarantine.discard(),
  rollback: () => hive.rollback(),
};
try {
  await actions[action]();
} finally {
  await hive[Symbol.asyncDispose]();
}
console.log(JSON.stringify(points));
