// A hive of its own for tests with several processes: node migrate-child.mjs DIST '{"path":…,"action":"up"|"down"|"status"}'
// Prints one JSON object. Kills itself with SIGKILL at the signal point `killAt`, stops at `stopAt`.
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const [dist = "", request = "{}"] = process.argv.slice(2);
const { path, action, killAt, stopAt, to, migrations = [], leaseMs = 15_000 } = JSON.parse(request);
const load = (file) => import(pathToFileURL(join(dist, file)).href);

const { CONFIG_DEFAULTS } = await load("config.js");
const { migrateUp, migrateDown, migrateStatus } = await load("schema/migrator.js");
const { openSqlite } = await load("storage/sqlite.js");
const { hivePreset } = await load("presets/hive/index.js");
const { systemClock } = await load("clock.js");

const signal = (point) => {
  if (point === killAt) process.kill(process.pid, "SIGKILL");
  if (point === stopAt) process.kill(process.pid, "SIGSTOP");
};
const settings = { ...CONFIG_DEFAULTS, database: path, baseDirectory: dirname(path), migrations };
const store = openSqlite(path, { busyTimeoutMs: settings.busyTimeoutMs, leaseMs, clock: systemClock, signal });
const context = { store, settings, signal, mapping: hivePreset, clock: systemClock, actor: `child ${process.pid}` };
let waitedFor = null;
const options = { to, onWait: (holder) => (waitedFor = holder) };
try {
  const actions = {
    up: () => migrateUp(context, options),
    down: () => migrateDown(context, options),
    status: () => migrateStatus(context),
  };
  const result = await actions[action]();
  const umzugLoaded = Object.keys(createRequire(import.meta.url).cache).some((file) => file.includes("/umzug/"));
  console.log(JSON.stringify({ ok: true, result, waitedFor, umzugLoaded }));
} catch (error) {
  console.log(JSON.stringify({ ok: false, code: error.code, message: error.message }));
} finally {
  await store[Symbol.asyncDispose]();
}
