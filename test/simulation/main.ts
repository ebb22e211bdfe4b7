import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { loadEngine } from "./engine.ts";
import { type Outcome, Simulation } from "./run.ts";

/**
 * Runs seeds and prints what failed. Options: --engine FOLDER (of the built or source modules), --seed N, --seeds N,
 * --from N, --stop (at the first that fails), --json, --trace, --watch KEY.
 */
const { values } = parseArgs({
  options: {
    engine: { type: "string" },
    seed: { type: "string" },
    seeds: { type: "string", default: "200" },
    from: { type: "string", default: "1" },
    stop: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
    trace: { type: "boolean", default: false },
    watch: { type: "string" },
  },
});

const engine = await loadEngine(
  values.engine === undefined ? fileURLToPath(new URL("../../src", import.meta.url)) : resolve(values.engine),
);
const memory = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
const folder = mkdtempSync(join(memory, "hive-simulation-"));
const first = Number(values.seed ?? values.from);
const last = values.seed === undefined ? first + Number(values.seeds) - 1 : first;

const begun = performance.now();
const failed: Outcome[] = [];
const simulation = await Simulation.prepare(engine, folder).catch((error: unknown) => {
  // An engine that does not even get agents, alone and one after the other, to where runs begin.
  const problem = `The beginnings could not be made: ${error instanceof Error ? error.stack : String(error)}`;
  failed.push({ seed: first, turns: 0, acknowledged: 0, hash: "", problem, trace: [], database: null, seen: {} });
});
const seen: Record<string, number> = {};
let turns = 0;
let acknowledged = 0;
let ran = 0;
let hash = "";
for (let seed = first; simulation && seed <= last; seed++) {
  const outcome = await simulation.run(seed, values.watch);
  ran += 1;
  turns += outcome.turns;
  acknowledged += outcome.acknowledged;
  hash = outcome.hash;
  for (const [what, count] of Object.entries(outcome.seen)) seen[what] = (seen[what] ?? 0) + count;
  if (outcome.problem === null) {
    if (values.trace) console.log(outcome.trace.join("\n"));
    continue;
  }
  failed.push(outcome);
  if (!values.json) report(outcome);
  if (values.stop || failed.length >= 10) break;
}
const seconds = (performance.now() - begun) / 1000;
const cpu = process.cpuUsage();
const cpuSeconds = (cpu.user + cpu.system) / 1e6;
if (values.json) {
  const problems = failed.map(({ seed, problem, database }) => ({ seed, problem, database }));
  console.log(JSON.stringify({ ran, turns, acknowledged, seconds, cpuSeconds, hash, seen, failed: problems }));
} else {
  const each = ((seconds / Math.max(ran, 1)) * 1000).toFixed(1);
  console.log(
    `${ran} seeds, ${turns} turns, ${acknowledged} commits, ${seconds.toFixed(1)} s (${each} ms each; CPU ${cpuSeconds.toFixed(1)} s): ${failed.length} failed`,
  );
  if (last === first) console.log(`trace ${hash}`);
  console.log(JSON.stringify(seen));
}
if (failed.length === 0) rmSync(folder, { recursive: true, force: true });
process.exitCode = failed.length === 0 ? 0 : 1;

function report({ seed, problem, trace, database }: Outcome): void {
  const file = join(folder, `seed-${seed}.trace`);
  writeFileSync(file, `${trace.join("\n")}\n`);
  if (values.trace) console.log(trace.join("\n"));
  console.log(
    `seed ${seed}: ${problem}\n  database: ${database}\n  trace: ${file} (${trace.length} lines)\n  again: npm run simulate -- --seed ${seed}\n`,
  );
}
