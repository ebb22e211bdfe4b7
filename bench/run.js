// `npm run bench [-- --rows N] [-- --rounds N] [-- --only NAME] [-- --database postgres://…]`: every figure is a ratio of
// two things measured in this run on the same data, since machines are noisy and absolute times mean nothing.
// `--database postgres` starts a PostgreSQL; the URL of one makes databases of its own there. Beside the figures of
// SQLite; with `--without-sqlite` instead of them.
import { spawnSync } from "node:child_process";
import { copyFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { backfillLimit, byHand, checkLimit } from "./limits.js";
import { createPlatform, median, operation, workFolder } from "./support.js";
import * as live from "./while-live.js";

const { values } = parseArgs({
  options: {
    rows: { type: "string", default: "100000" },
    rounds: { type: "string", default: "3" },
    only: { type: "string" },
    database: { type: "string" },
    operations: { type: "string", default: "2000" },
    seconds: { type: "string", default: "15" },
    events: { type: "string", default: "10000000" },
    "without-sqlite": { type: "boolean", default: false },
    json: { type: "boolean", default: false },
  },
});
const TASKS = Number(values.rows);
const ROUNDS = Number(values.rounds);
const HIVE = fileURLToPath(new URL("../bin/hive.js", import.meta.url));
const folder = workFolder();
const figures = [];

function figure(name, ratio, goal, better, detail) {
  const met = goal === null ? null : better === "higher" ? ratio >= goal : ratio <= goal;
  figures.push({ name, ratio: Number(ratio.toFixed(4)), goal, better, met, detail });
  if (!values.json) {
    const verdict = met === null ? "      " : met ? "met   " : "missed";
    const aim = goal === null ? "no goal" : `goal ${better === "higher" ? "≥" : "≤"} ${goal}`;
    console.log(`${verdict} ${name}: ${ratio < 0.1 ? ratio.toFixed(4) : ratio.toFixed(2)} (${aim})\n       ${detail}`);
  }
}

function fresh(path, from) {
  for (const suffix of ["", "-wal", "-shm"]) rmSync(path + suffix, { force: true });
  if (from) copyFileSync(from, path);
  return path;
}

const wanted = (name) => values.only === undefined || values.only === name;
const seconds = (number) => `${number.toFixed(2)} s`;

async function backfillAndCheck() {
  const legacy = join(folder, "legacy.db");
  const rows = createPlatform(legacy, TASKS);
  if (!values.json) console.log(`${TASKS} tasks, ${rows} legacy rows in all, ${ROUNDS} rounds, medians\n`);
  const backfills = [];
  const limits = [];
  const hands = [];
  const checks = [];
  const reads = [];
  let rates = {};
  for (let round = 0; round < ROUNDS; round++) {
    const filled = fresh(join(folder, "filled.db"), legacy);
    await operation(filled, "up");
    const backfill = await operation(filled, "backfill");
    backfills.push(backfill.seconds);
    const limit = backfillLimit(legacy, filled, fresh(join(folder, "limit.db")));
    limits.push(limit.seconds);
    const hand = byHand(legacy, filled, fresh(join(folder, "hand.db")), Math.max(1, Math.round(TASKS / 10_000)));
    hands.push(hand.rows / hand.seconds);
    const check = await operation(filled, "check");
    if (!check.result.consistent) throw new Error("the check found drift");
    checks.push(check.seconds);
    reads.push(checkLimit(filled).seconds);
    rates = { aggregates: backfill.result.aggregates.total };
  }
  const backfill = median(backfills);
  figure(
    "backfill against its limit (rate)",
    median(limits) / backfill,
    0.6,
    "higher",
    `hive ${seconds(backfill)}, read once + INSERT … SELECT of the same bytes ${seconds(median(limits))}`,
  );
  const rate = rates.aggregates / backfill;
  figure(
    "backfill against a script by hand, row by row (rate)",
    rate / median(hands),
    5,
    "higher",
    `hive ${Math.round(rate)} aggregates/s, by hand ${Math.round(median(hands))}/s (some 10,000 of them)`,
  );
  figure(
    "check against merely reading both sides (rate)",
    median(reads) / median(checks),
    0.6,
    "higher",
    `hive ${seconds(median(checks))}, reading ${seconds(median(reads))}`,
  );
}

async function memory() {
  const sizes = [3_000, Math.max(300_000, 3 * TASKS)];
  const peaks = { backfill: [], check: [] };
  const rows = [];
  for (const tasks of sizes) {
    const path = fresh(join(folder, `memory-${tasks}.db`));
    rows.push(createPlatform(path, tasks));
    await operation(path, "up");
    for (const name of ["backfill", "check"]) peaks[name].push((await operation(path, name)).maxRssMb);
    fresh(path);
  }
  for (const [name, [small, large]] of Object.entries(peaks)) {
    figure(
      `peak memory of ${name}, ${rows[1]} legacy rows against ${rows[0]}`,
      large / small,
      1.1,
      "lower",
      `${large.toFixed(0)} MB against ${small.toFixed(0)} MB`,
    );
  }
}

function startup() {
  const path = fresh(join(folder, "startup.db"));
  createPlatform(path, 1_000);
  const run = (args) => {
    const began = performance.now();
    const { status } = spawnSync(process.execPath, args, { env: { ...process.env, NO_COLOR: "1" } });
    if (status !== 0) throw new Error(`node ${args.join(" ")} ended with code ${status}`);
    return performance.now() - began;
  };
  run([HIVE, "--database", path, "migrate", "up"]);
  const node = [];
  const version = [];
  const status = [];
  for (let round = 0; round < Math.max(15, ROUNDS); round++) {
    node.push(run(["-e", "0"]));
    version.push(run([HIVE, "--version"]));
    status.push(run([HIVE, "--database", path, "status"]));
  }
  const base = median(node);
  const ms = (number) => `${number.toFixed(0)} ms`;
  figure(
    "hive --version against node -e 0",
    median(version) / base,
    1.5,
    "lower",
    `${ms(median(version))}, ${ms(base)}`,
  );
  figure("hive status against node -e 0", median(status) / base, 3, "lower", `${ms(median(status))}, ${ms(base)}`);
}

if (!values["without-sqlite"]) {
  if (wanted("startup")) startup();
  if (wanted("data")) await backfillAndCheck();
  if (wanted("memory")) await memory();
  if (wanted("capture")) await live.capture({ folder, figure, operations: Number(values.operations) });
  if (wanted("writer")) await live.dualWriter({ folder, figure, operations: Number(values.operations) });
  if (wanted("lag")) await live.lag({ folder, figure, seconds: Number(values.seconds) });
  if (wanted("drain")) await live.drain({ folder, figure, tasks: TASKS });
  // Takes minutes to fill: only where it is asked for by name.
  if (values.only === "trace") {
    const { trace } = await import("./trace.js");
    await trace({ folder, figure, events: Number(values.events) });
  }
  if (wanted("events")) {
    const { events } = await import("./events.js");
    const create = async (name) => {
      const path = fresh(join(folder, `${name}.db`));
      createPlatform(path, 100);
      await operation(path, "up");
      return path;
    };
    await events({ create, figure, operations: Number(values.operations), seconds: Number(values.seconds) });
  }
  if (wanted("changed")) await live.changed({ folder, figure, tasks: 2 * TASKS });
}
if (values.database !== undefined) {
  const { onPostgres } = await import("./on-postgres.js");
  await onPostgres({
    ...{ folder, figure, wanted, rounds: ROUNDS },
    tasks: TASKS,
    operations: Number(values.operations),
    seconds: Number(values.seconds),
    given: values.database === "postgres" ? undefined : values.database,
    say: (text) => values.json || console.log(text),
  });
}
if (values.json) console.log(JSON.stringify({ tasks: TASKS, rounds: ROUNDS, figures }, null, 2));
else {
  const judged = figures.filter((one) => one.met !== null);
  console.log(`\n${judged.filter((one) => one.met).length} of ${judged.length} goals met`);
}
