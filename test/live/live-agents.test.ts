import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, onTestFinished, test } from "vitest";
import { loadSchemas } from "../../src/index.ts";
import { hivePreset } from "../../src/presets/hive/index.ts";
import { LAUNCHER } from "../support/cli.ts";
import { legacyDatabase } from "../support/legacy-db.ts";
import { copyOf, execute } from "../support/legacy-platform.ts";
import {
  type AgentLog,
  agentsMissing,
  differencesBetween,
  failuresOf,
  figuresOf,
  lostOrChanged,
  startAgents,
  unexpectedOf,
} from "./agents.ts";
import { type Answer, hiveProcesses, journey } from "./journey.ts";

/**
 * The platform's real database, with Python agents that know nothing of hive writing to it from before the first step to
 * after the last one: to every stage up to `unified`, and back.
 */

const DIST = process.env.HIVE_TEST_DIST;
const BIN = DIST === undefined ? LAUNCHER : resolve(DIST, "../bin/hive.js");
const SEED = Number(process.env.HIVE_LIVE_SEED ?? Date.now() % 1_000_000);
const PLATFORM = { agents: 4, rate: 15, seed: SEED };

const database = legacyDatabase();
const missing = agentsMissing();
if (missing !== null) process.stderr.write(`skipped: the tests with live agents cannot run: ${missing}\n`);

/** What has to hold of the statements, whatever hive does. */
function expectUndisturbed(logs: readonly AgentLog[], path: string): void {
  expect(failuresOf(logs, ["write", "read"])).toEqual([]);
  expect(unexpectedOf(logs)).toEqual([]);
  expect(lostOrChanged(path, logs)).toEqual([]);
}

describe.skipIf(database === null || missing !== null)(`live agents (HIVE_LIVE_SEED=${SEED})`, () => {
  test("the built hive is there", () => {
    const built = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
    expect(existsSync(DIST === undefined ? built : join(DIST, "cli/main.js")), "npm run build").toBe(true);
  });

  test("never notice the way to unified and back: nothing fails, returns anything else or is lost", {
    timeout: 300_000,
  }, async () => {
    const path = copyOf(database ?? "");
    const agents = await startAgents({ database: path, folder: dirname(path), ...PLATFORM });
    onTestFinished(() => agents.kill());
    agents.go();
    const settled: Record<string, Answer["result"]> = {};
    const answers = await journey({
      // Ten times the usual budget: what is asserted holds under any, and the backfill is the longest part by far.
      hive: hiveProcesses(BIN, path, 120, 0.1),
      agents: hivePreset.agents.map((agent) => agent.name),
      atStage: async (stage, settle) => {
        await agents.pause();
        settled[stage] = (await settle()).result;
        agents.go();
      },
    });
    const logs = await agents.stop();
    expectUndisturbed(logs, path);

    // With everything that was captured carried over and nobody writing, nothing is in flight and nothing differs.
    const clean = { consistent: true, missing: 0, extra: 0, different: 0, inFlight: 0 };
    expect(settled).toMatchObject({ dualwrite: clean, shadow: clean, live: clean, rampdown: clean });
    // Nobody but hive wrote to the unified side.
    const { results } = await loadSchemas();
    const syncs = answers.filter(({ command }) => command.startsWith("sync"));
    const carried = syncs.map(({ result }) => results.sync.parse(result));
    expect(carried.map(({ conflicts }) => conflicts)).toEqual(carried.map(() => 0));
    expect(carried.reduce((sum, { applied }) => sum + applied, 0)).toBeGreaterThan(0);

    // The same agents once more, without hive.
    const bare = copyOf(database ?? "");
    const operations = Math.min(...logs.map((log) => log.operations.length));
    const others = await startAgents({ database: bare, folder: dirname(bare), ...PLATFORM, rate: 200, operations });
    onTestFinished(() => others.kill());
    others.go();
    const alone = await others.done();
    expectUndisturbed(alone, bare);
    expect(differencesBetween(alone, logs)).toEqual([]);
    expect(figuresOf(logs).write.count).toBeGreaterThan(100);
  });

  test("the comparison notices what is lost, and what is returned otherwise", async () => {
    const path = copyOf(database ?? "");
    const folder = dirname(path);
    const agents = await startAgents({ database: path, folder, ...PLATFORM, rate: 500, operations: 40 });
    onTestFinished(() => agents.kill());
    agents.go();
    const logs = await agents.done();
    expectUndisturbed(logs, path);

    execute(path, "UPDATE tasks SET priority = '3' || char(0) WHERE id = 'agent1-claim-2'");
    execute(path, "DELETE FROM planning_queue WHERE id = (SELECT max(id) FROM planning_queue)");
    execute(path, "UPDATE workers SET last_heartbeat = '2001-01-01 00:00:00' WHERE id = 'agent0-claimer'");
    const found = lostOrChanged(path, logs);
    expect(found.map((one) => one.split(" ")[0]).sort()).toEqual([
      "planning_queue",
      "planning_queue",
      "tasks",
      "tasks",
      "workers",
      "workers",
    ]);
    const changed = logs.map((log) => ({
      ...log,
      operations: log.operations.map((one) => (one.op === 7 ? { ...one, returned: [{ rowcount: 99 }] } : one)),
    }));
    expect(differencesBetween(logs, changed).length).toBe(
      logs.filter((log) => log.operations.some((one) => one.op === 7 && !one.error)).length,
    );
  });
});
