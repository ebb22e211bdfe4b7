// One operation of hive in a process of its own: node hive-child.mjs DIST '{"path", "action", "options", …}'.
// `killAt`: it kills itself at the n-th point that the engine signals. `holdAt`: it stops at the first such point,
// says so, and goes on when a line comes in. SIGTERM aborts. Each line on stdout is one JSON object.
import { once } from "node:events";
import { writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const [dist = "", request = "{}"] = process.argv.slice(2);
const { path, action, options = {}, leaseMs, killAt = 0, holdAt, budget } = JSON.parse(request);
const { CONFIG_DEFAULTS, openHive } = await import(pathToFileURL(join(dist, "index.js")).href);

const say = (message) => writeSync(1, `${JSON.stringify(message)}\n`);
const abort = new AbortController();
process.on("SIGTERM", () => abort.abort());

/** What the dual writer was told is written, and what it had asked for and not been told yet. */
const model = {};
let inFlight = null;
let points = 0;
let held = false;
const signal = async (point) => {
  points += 1;
  if (points === killAt) {
    say({ event: "killed", point, points, model, inFlight });
    process.kill(process.pid, "SIGKILL");
  }
  if (holdAt !== undefined && point.startsWith(holdAt) && !held) {
    held = true;
    say({ event: "held", point });
    process.stdin.resume();
    await once(process.stdin, "data");
    process.stdin.pause();
  }
};
const settings = {
  ...CONFIG_DEFAULTS,
  database: path,
  baseDirectory: dirname(path),
  lockTimeoutSeconds: 20,
  ...(budget && { lockBudget: budget }),
};
const hive = await openHive(settings, { signal, actor: "child", ...(leaseMs && { leaseMs }) });
const all = { ...options, abort: abort.signal };
const actions = {
  backfill: () => hive.backfill(all),
  sync: () => hive.sync({ ...all, onEvent: (event) => say({ event: event.kind, of: event }) }),
  check: () => hive.check(all),
  flags: () => hive.flags.change(options.changes, all),
  rollback: () => hive.rollback(all),
  writer: () => dualWrite(),
};

/** Creates, changes and deletes a few tasks through the dual writer, again and again. */
async function dualWrite() {
  const writer = await hive.writer("hive-coder");
  for (let i = 0; i < 400 && !abort.signal.aborted; i++) {
    const key = `w-dual-${i % 9}`;
    const known = model[key] ?? { version: 0, gone: true };
    const version = known.version + 1;
    const inputData = { title: `v${version}`, description: null, payload: null };
    const gone = !known.gone && i % 5 === 4;
    inFlight = { key, version, gone };
    if (known.gone) await writer.create({ id: key, taskType: "code", status: "queued", inputData });
    else if (gone) await writer.delete(key);
    else await writer.update(key, { inputData });
    model[key] = { version, gone };
    inFlight = null;
  }
}

try {
  const result = await actions[action]();
  say({ event: "done", result, points });
} catch (error) {
  say({ event: "failed", code: error?.code, message: error?.message, stack: error?.stack, points });
  process.exitCode = 1;
} finally {
  await hive[Symbol.asyncDispose]();
}
