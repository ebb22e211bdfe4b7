// `npm run build && node bench/live.js [--agents 8] [--rate 15] [--seconds 40] [--runs 3] [--seed N] [--think MS]
// [--limit SECONDS] [--json]`: the platform's agents, as processes, on its real database, without hive and beside it on
// its way to `unified` and back. The same seeds and rate in both, one run after the other in turn, since machines are
// noisy and absolute times mean nothing. A command that takes longer than the limit is killed, and a fault.
// HIVE_BENCH_DIR says where the files go, HIVE_BENCH_LAUNCHER which hive is run.
import { spawnSync } from "node:child_process";
import { closeSync, copyFileSync, mkdirSync, openSync, symlinkSync, writeFileSync } from "node:fs";
import { loadavg } from "node:os";
import { dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import Database from "better-sqlite3";
import { workFolder } from "./support.js";

const { values } = parseArgs({
  options: {
    agents: { type: "string", default: "8" },
    rate: { type: "string", default: "15" },
    seconds: { type: "string", default: "40" },
    runs: { type: "string", default: "3" },
    seed: { type: "string", default: "1" },
    think: { type: "string", default: "1" },
    limit: { type: "string", default: "300" },
    json: { type: "boolean", default: false },
  },
});
const file = (path) => fileURLToPath(new URL(path, import.meta.url));
const LAUNCHER = resolve(process.env.HIVE_BENCH_LAUNCHER ?? file("../bin/hive.js"));
const PACKED = file("../../shared/data/legacy-hive.db.xz");
const SECONDS = Number(values.seconds);
const RUNS = Number(values.runs);
/** By how much more often a read-then-write may fail beside hive. */
const GOAL_POINTS = 1.5;

const folder = workFolder();
const { agentsMissing, differencesBetween, failuresOf, figuresOf, KINDS, lostOrChanged, startAgents, unexpectedOf } =
  await harness("agents");
const { hiveProcesses, journey } = await harness("journey");
const { hivePreset } = await import(pathToFileURL(join(dirname(LAUNCHER), "../dist/presets/hive/index.js")).href);
const say = (text) => process.stderr.write(`${text}\n`);

/** The tests' own harness, which node of this version does not read as it is. */
async function harness(name) {
  const compiled = join(folder, "harness");
  const tsc = [file("../node_modules/typescript/bin/tsc"), "--ignoreConfig", "--noCheck", "--target", "es2023"];
  const words = [...tsc, "--module", "nodenext", "--outDir", compiled, file(`../test/live/${name}.ts`)];
  const { status, stdout } = spawnSync(process.execPath, words, { encoding: "utf8" });
  if (status !== 0) throw new Error(`tsc ended with ${status}: ${stdout}`);
  try {
    symlinkSync(file("../node_modules"), join(compiled, "node_modules"));
    writeFileSync(join(compiled, "package.json"), '{"type":"module"}');
  } catch (error) {
    if (error.code !== "EEXIST") throw error;
  }
  return import(pathToFileURL(join(compiled, `${name}.js`)).href);
}

function unpack() {
  const path = join(folder, "legacy.db");
  const output = openSync(path, "w");
  const { status, stderr } = spawnSync("xz", ["--decompress", "--stdout", PACKED], {
    stdio: ["ignore", output, "pipe"],
  });
  closeSync(output);
  if (status !== 0) throw new Error(`${PACKED} cannot be unpacked: ${stderr}`);
  return path;
}

const legacy = unpack();

function fresh(name) {
  const place = join(folder, name);
  mkdirSync(place);
  const path = join(place, "platform.db");
  copyFileSync(legacy, path);
  const db = new Database(path);
  db.pragma("journal_mode = WAL");
  db.close();
  return { place, path };
}

function start({ path, place }, run) {
  return startAgents({
    database: path,
    folder: place,
    agents: Number(values.agents),
    rate: Number(values.rate),
    think: Number(values.think),
    seed: Number(values.seed) + run,
    script: file("../test/support/agents/agent.py"),
  });
}

async function without(run) {
  const at = fresh(`without-${run}`);
  const agents = await start(at, run);
  agents.go();
  await sleep(SECONDS * 1000);
  const logs = await agents.stop();
  return { path: at.path, logs, faults: faultsOf(at.path, logs) };
}

async function beside(run) {
  const at = fresh(`beside-${run}`);
  const agents = await start(at, run);
  const hive = hiveProcesses(LAUNCHER, at.path, Number(values.limit));
  const began = performance.now();
  const spent = () => (performance.now() - began) / 1000;
  const steps = [];
  const faults = [];
  let work = null;
  let logs;
  try {
    agents.go();
    await journey({
      hive,
      agents: hivePreset.agents.map(({ name }) => name),
      onStep: (answer) => {
        const { command, code, seconds, result } = answer;
        steps.push({ command, code, from: spent() - seconds, to: spent(), result });
        say(`  ${spent().toFixed(1).padStart(6)} s  ${command}  ${seconds.toFixed(2)} s  ${summary(result)}`);
      },
      atStage: async (stage, settle) => {
        if (stage !== "rampdown") return;
        await sleep(Math.max(3, SECONDS - 4 - spent()) * 1000);
        work = { status: (await hive.run("status")).result?.work ?? null, ...recorded(at.path), seconds: spent() };
        await agents.pause();
        const { result } = await settle();
        const { missing, extra, different, inFlight } = result;
        const off = { missing, extra, different, inFlight };
        if (missing + extra + different + inFlight > 0) faults.push(`not clean at ${stage}: ${JSON.stringify(off)}`);
        agents.go();
      },
    });
    await sleep(1000);
    logs = await agents.stop();
  } catch (error) {
    // What came of the statements until then is still worth knowing.
    faults.push(error.message.slice(0, 1000));
    work ??= { status: null, ...recorded(at.path), seconds: spent() };
    logs = await agents.stop();
  }
  return { path: at.path, logs, steps, work, seconds: spent(), faults: [...faults, ...faultsOf(at.path, logs)] };
}

function summary(result) {
  if (result === null || typeof result !== "object") return "";
  const wanted = [
    "consistent",
    "missing",
    "extra",
    "different",
    "inFlight",
    "applied",
    "conflicts",
    "remaining",
    "lagMs",
  ];
  const parts = wanted.flatMap((name) =>
    typeof result[name] === "object" || !(name in result) ? [] : [`${name} ${result[name]}`],
  );
  if (result.aggregates) parts.push(...Object.entries(result.aggregates).map(([name, count]) => `${name} ${count}`));
  return parts.join(", ");
}

function faultsOf(path, logs) {
  return [
    ...failuresOf(logs, ["write", "read"]),
    ...unexpectedOf(logs),
    ...lostOrChanged(path, logs).map((text) => `after the run: ${text}`),
  ];
}

/** What hive recorded of its write transactions, by operation. */
function recorded(path) {
  const db = new Database(path, { readonly: true });
  try {
    return {
      operations: db
        .prepare(
          `SELECT operation, sum(commits) AS commits, sum(held_ms) AS heldMs, max(longest_ms) AS longestMs,
             sum(aggregates) AS aggregates FROM hive_work GROUP BY operation ORDER BY operation`,
        )
        .all(),
    };
  } catch (error) {
    return { operations: [], unreadable: error.message };
  } finally {
    db.close();
  }
}

/** How often read-then-writes failed while each command ran. */
function bySteps({ logs, steps }) {
  const claims = logs.flatMap((log) => log.operations.filter((one) => one.kind === "read-then-write"));
  const groups = new Map();
  const groupOf = (command) => command.replace(/^(flags set) \S+/, "$1").replace(/ --reason.*/, "");
  const during = ({ at }) =>
    steps.filter((step) => !step.command.includes("--watch") && step.from <= at && at < step.to);
  for (const claim of claims) {
    const found = during(claim).map((step) => groupOf(step.command));
    for (const name of found.length === 0 ? ["between commands"] : found) {
      const group = groups.get(name) ?? { count: 0, failed: 0 };
      group.count += 1;
      group.failed += claim.error ? 1 : 0;
      groups.set(name, group);
    }
  }
  return Object.fromEntries(groups);
}

const missing = agentsMissing();
if (missing !== null) throw new Error(missing);
const runs = [];
for (let run = 0; run < RUNS; run++) {
  const loads = [loadavg()[0]];
  say(`run ${run + 1} of ${RUNS}, without hive: ${SECONDS} s`);
  const a = await without(run);
  loads.push(loadavg()[0]);
  say(`run ${run + 1} of ${RUNS}, beside hive`);
  const b = await beside(run);
  loads.push(loadavg()[0]);
  const differences = differencesBetween(a.logs, b.logs);
  runs.push({ a, b, differences, loads });
  for (const fault of [...a.faults, ...b.faults, ...differences].slice(0, 20)) say(`  FAULT ${fault}`);
}

const figures = {
  without: figuresOf(runs.flatMap(({ a }) => a.logs)),
  beside: figuresOf(runs.flatMap(({ b }) => b.logs)),
};
const points = (a, b) => 100 * (b["read-then-write"].failureRate - a["read-then-write"].failureRate);
const each = runs.map(({ a, b }) => points(figuresOf(a.logs), figuresOf(b.logs)));
const total = points(figures.without, figures.beside);
/** One standard error of the difference of the two rates. */
const error =
  100 *
  Math.sqrt(
    [figures.without, figures.beside].reduce((sum, { "read-then-write": { failureRate, count } }) => {
      return sum + (failureRate * (1 - failureRate)) / Math.max(1, count);
    }, 0),
  );
const faults = runs.flatMap(({ a, b, differences }) => [...a.faults, ...b.faults, ...differences]);
const report = {
  ...{ agents: Number(values.agents), rate: Number(values.rate), seconds: SECONDS, thinkMs: Number(values.think) },
  figures,
  failurePoints: { total, each, standardError: error, goal: GOAL_POINTS, met: total <= GOAL_POINTS },
  work: runs.map(({ b }) => b.work),
  seconds: runs.map(({ b }) => b.seconds),
  /** Of the machine, before, between and after the two: what else runs on it is in every figure. */
  loads: runs.map(({ loads }) => loads),
  failuresByStep: runs.map(({ b }) => bySteps(b)),
  faults,
};

if (values.json) console.log(JSON.stringify(report, null, 2));
else {
  const ms = (number) => number.toFixed(2).padStart(9);
  console.log(
    `${values.agents} agents, ${values.rate} operations a second each, ${RUNS} runs of ${SECONDS} s without hive, and ` +
      `${report.seconds.map((one) => one.toFixed(0)).join(", ")} s beside it\nload of the machine before, between and after: ` +
      `${report.loads.map((some) => some.map((one) => one.toFixed(1)).join(" ")).join(" · ")}\n`,
  );
  console.log(`${" ".repeat(28)}    count   failed   p50 ms    p95 ms    p99 ms    max ms`);
  for (const kind of KINDS) {
    for (const [name, side] of Object.entries(figures)) {
      const { count, failed, p50Ms, p95Ms, p99Ms, maxMs } = side[kind];
      const times = [p50Ms, p95Ms, p99Ms, maxMs].map(ms).join(" ");
      const heading =
        `${name === "without" ? kind : ""}`.padEnd(18) + (name === "without" ? "without   " : "with hive ");
      console.log(`${heading} ${String(count).padStart(8)} ${String(failed).padStart(8)} ${times}`);
    }
  }
  const percent = (rate) => `${(100 * rate).toFixed(2)} %`;
  const [a, b] = [figures.without["read-then-write"], figures.beside["read-then-write"]];
  console.log(
    `\nread-then-write: ${percent(a.failureRate)} fail without hive, ${percent(b.failureRate)} beside it: ` +
      `${total.toFixed(2)} ± ${error.toFixed(2)} points (goal ≤ ${GOAL_POINTS}: ${report.failurePoints.met ? "met" : "missed"}; ` +
      `by run ${each.map((one) => one.toFixed(2)).join(", ")})`,
  );
  for (const [run, groups] of report.failuresByStep.entries()) {
    const parts = Object.entries(groups).map(([name, { count, failed }]) => `${name} ${failed}/${count}`);
    console.log(`  run ${run + 1}, failed while it ran: ${parts.join(" · ")}`);
  }
  for (const [run, work] of report.work.entries()) {
    if (!work) continue;
    const { operations, seconds, status } = work;
    const held = operations.reduce((sum, one) => sum + one.heldMs, 0);
    const commits = operations.reduce((sum, one) => sum + one.commits, 0);
    console.log(
      `hive, run ${run + 1}: held the lock ${percent(held / 1000 / seconds)} of ${seconds.toFixed(0)} s, ` +
        `${(commits / seconds).toFixed(1)} commits/s`,
    );
    for (const one of operations) {
      console.log(
        `  ${one.operation}: ${one.commits} commits, ${one.heldMs.toFixed(0)} ms, longest ${one.longestMs.toFixed(1)} ms, ` +
          `${one.aggregates} aggregates`,
      );
    }
    console.log(`  hive status says: ${JSON.stringify(status)}`);
  }
  console.log(
    faults.length === 0
      ? "\nno plain write or read failed, no statement returned anything else, every acknowledged write is there"
      : `\n${faults.length} FAULTS, the first: ${faults[0]}`,
  );
}
process.exitCode = faults.length === 0 && report.failurePoints.met ? 0 : 1;
