import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { Context } from "../../src/context.ts";
import { changeFlags } from "../../src/flags/flags.ts";
import type { Stage } from "../../src/flags/stages.ts";
import { verifyAudit } from "../../src/rollout/audit.ts";
import { rollback } from "../../src/rollout/rollback.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { check } from "../../src/sync/check.ts";
import { sync } from "../../src/sync/sync.ts";
import { temporaryDirectory } from "../support/context.ts";
import { execute, integrity, platformContext } from "../support/legacy-platform.ts";
import {
  AGENTS,
  DIST,
  expectClean,
  expectKept,
  expectProjected,
  type HiveRequest,
  isBuilt,
  type Model,
  platformAt,
  startHive,
  Writers,
  writtenBy,
} from "../support/live.ts";

/**
 * Commands that are killed (SIGKILL) at points which the engine names, while other processes write to both sides. After
 * each, the command is run again and ends; then every acknowledged write is where it belongs: nothing lost, doubled,
 * revived or written over by something older, and both sides are equal.
 */

const SEED = Number(process.env.HIVE_FAULT_SEED ?? Date.now() % 1_000_000);
const KILLS = Math.ceil(Number(process.env.HIVE_FAULT_KILLS ?? 200) / 2);
const AT_ONCE = 2;
/** Beside writers that never rest, the usual budget would make each run take a minute. */
const LOCK_BUDGET = 0.5;
const OWNERS = ["ai-reviewer", "ai-planner", "ai-deployer", "hive-coder"];

interface Scenario {
  readonly name: string;
  /** Which of the prepared databases it begins with. */
  readonly from: "captured" | "captured, large" | "behind" | "drifted" | "shadow" | "live" | "rampdown" | "complete";
  readonly request: Pick<HiveRequest, "action" | "options">;
  /** The same in this process, as often as it takes. */
  readonly again: (context: Context) => Promise<unknown>;
  /** Where the agents are afterwards. */
  readonly ends: Stage;
  /** How often, against the others. */
  readonly weight: number;
}

const reads = (value: string) => OWNERS.map((agent) => ({ agent, flag: "reads" as const, value }));
const flags = (name: string, from: Scenario["from"], value: string, ends: Stage): Scenario => {
  const options = { changes: reads(value), force: true, reason: "test" };
  return {
    name,
    from,
    request: { action: "flags", options },
    again: (context) => changeFlags(context, options.changes, options),
    ends,
    weight: 3,
  };
};
const back = (from: "live" | "rampdown" | "complete", to: "off" | "dualwrite" | "shadow"): Scenario => ({
  name: `rollback from ${from} to ${to}`,
  from,
  request: { action: "rollback", options: { to } },
  again: (context) => rollback(context, { to }),
  ends: to,
  weight: 3,
});

const SCENARIOS: readonly Scenario[] = [
  {
    name: "backfill",
    from: "captured",
    request: { action: "backfill" },
    again: (c) => backfill(c),
    ends: "dualwrite",
    weight: 6,
  },
  {
    name: "backfill of many",
    from: "captured, large",
    request: { action: "backfill" },
    again: (c) => backfill(c),
    ends: "dualwrite",
    weight: 1,
  },
  { name: "sync", from: "behind", request: { action: "sync" }, again: (c) => sync(c), ends: "dualwrite", weight: 6 },
  {
    name: "sync --watch",
    from: "behind",
    request: { action: "sync", options: { watch: true } },
    again: (c) => sync(c),
    ends: "dualwrite",
    weight: 6,
  },
  {
    name: "sync where the unified side leads",
    from: "live",
    request: { action: "sync" },
    again: (c) => sync(c),
    ends: "live",
    weight: 4,
  },
  {
    name: "check --repair",
    from: "drifted",
    request: { action: "check", options: { repair: true, agents: AGENTS } },
    again: (c) => check(c, { repair: true, agents: AGENTS }),
    ends: "dualwrite",
    weight: 4,
  },
  ...(["behind", "shadow", "live", "rampdown"] as const).map(
    (from): Scenario => ({
      name: `dual writer, from ${from}`,
      from,
      request: { action: "writer" },
      again: (c) => sync(c),
      ends: from === "behind" ? "dualwrite" : from,
      weight: 2,
    }),
  ),
  flags("dualwrite to shadow", "behind", "shadow", "shadow"),
  flags("shadow to live", "shadow", "live", "live"),
  flags("live to rampdown", "live", "unified", "rampdown"),
  flags("live to shadow", "live", "shadow", "shadow"),
  flags("rampdown to live", "rampdown", "live", "live"),
  back("live", "off"),
  back("live", "shadow"),
  back("rampdown", "dualwrite"),
  back("complete", "off"),
  back("complete", "dualwrite"),
  back("complete", "shadow"),
];

/** A database, and what the agents that wrote to it remember. */
interface Start {
  readonly path: string;
  readonly models: readonly [Model, Model];
}

/** Mulberry32: the same kills for the same seed, as far as the machine lets them. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const agentsOn = (path: string, seed: number, everyMs: number, models: readonly [Model, Model] = [{}, {}]) => [
  { path, name: "plain", seed, everyMs, model: models[0] },
  { path, name: "led", seed: seed + 1, everyMs, led: true, model: models[1] },
];

/** Lets the agents write for a while: until they are through with so many statements, roughly. */
async function write(writers: Writers, path: string, seed: number, models?: readonly [Model, Model]) {
  await writers.start(agentsOn(path, seed, 1, models));
  await new Promise((done) => setTimeout(done, 150));
  const [plain, led] = await writers.stop();
  return [plain?.model ?? {}, led?.model ?? {}] as const;
}

async function prepare(folder: string, writers: Writers): Promise<Record<Scenario["from"], Start>> {
  const starts = {} as Record<Scenario["from"], Start>;
  const save = (from: Scenario["from"], path: string, models: readonly [Model, Model]) => {
    execute(path, "PRAGMA wal_checkpoint(TRUNCATE)");
    const copy = join(folder, `${from.replace(/\W+/g, "-")}.start.db`);
    copyFileSync(path, copy);
    starts[from] = { path: copy, models };
  };
  const settings = { lockBudget: LOCK_BUDGET };
  for (const [from, tasks] of [
    ["captured", 60],
    ["captured, large", 2_000],
  ] as const) {
    const path = join(folder, `up-${tasks}.db`);
    const { context } = await platformAt("dualwrite", { path, tasks, dirt: true, agents: OWNERS, settings });
    await using _ = context;
    const models = await write(writers, path, tasks);
    execute(path, "DELETE FROM unified_tasks; DELETE FROM unified_review_tasks; DELETE FROM unified_workflow_tasks");
    execute(path, "DELETE FROM unified_deployment_tasks; DELETE FROM hive_backfill; DELETE FROM hive_checks");
    save(from, path, models);
  }
  for (const stage of ["dualwrite", "shadow", "live", "rampdown", "complete"] as const) {
    const path = join(folder, `${stage}.db`);
    const { context } = await platformAt(stage, {
      path,
      tasks: 60,
      dirt: stage === "dualwrite",
      agents: OWNERS,
      settings,
    });
    await using _ = context;
    let models = await write(writers, path, 3);
    await sync(context);
    if (stage === "dualwrite") {
      execute(
        path,
        `UPDATE unified_tasks SET status = 'rework_needed' WHERE rowid % 5 = 0;
         UPDATE unified_tasks SET input_data = '{}' WHERE rowid % 7 = 0 AND id NOT LIKE 'w-%';
         DELETE FROM unified_tasks WHERE rowid % 6 = 1 AND id NOT LIKE 'w-%';
         UPDATE unified_workflow_tasks SET total_phases = 99 WHERE rowid % 3 = 0;
         DELETE FROM unified_deployment_tasks WHERE rowid % 2 = 0;`,
      );
      save("drifted", path, models);
      await check(context, { repair: true, agents: AGENTS });
    }
    models = await write(writers, path, 5, models);
    save(stage === "dualwrite" ? "behind" : stage, path, models);
  }
  return starts;
}

describe(`killed with SIGKILL while agents write (HIVE_FAULT_SEED=${SEED})`, () => {
  test("the built hive is there", () => {
    expect(isBuilt(), `${DIST} is not built: npm run build`).toBe(true);
  });

  test(`${KILLS} times at any named point, and nothing is lost`, { timeout: 600_000 }, async () => {
    const folder = temporaryDirectory();
    const starts = await prepare(folder, new Writers());
    const random = randomFrom(SEED);
    const weighted = SCENARIOS.flatMap((one) => new Array<Scenario>(one.weight).fill(one));
    // Each scenario at least once, then more often where there is more to it.
    const queue = Array.from({ length: KILLS }, (_, i) => ({
      number: i + 1,
      scenario: SCENARIOS[i] ?? weighted[Math.floor(random() * weighted.length)] ?? SCENARIOS[0],
      at: random(),
    }));
    /** How many points a run passes: as many as were ever seen. */
    const most = new Map<string, number>();
    const perished: string[] = [];

    const one = async (writers: Writers, number: number, scenario: Scenario, at: number) => {
      const { name, from, request, again, ends } = scenario;
      const start = starts[from];
      let killed: { readonly [field: string]: unknown } | undefined;
      let path = "";
      for (let attempt = 0; !killed; attempt++) {
        if (attempt > 0) await writers.stop();
        path = join(folder, `${number}-${attempt}.db`);
        copyFileSync(start.path, path);
        // As fast as a platform of some size; where there is much to do, it would take minutes.
        await writers.start(agentsOn(path, SEED + number, from === "captured, large" ? 100 : 25, start.models));
        // How many points there are depends on the agents: where it ended before, it is killed sooner.
        const killAt = 1 + Math.floor((at * (most.get(name) ?? 40)) / (attempt + 1));
        const child = startHive({ path, ...request, killAt, budget: LOCK_BUDGET });
        const message = await child.next("killed", "done");
        const points = Number(message.points);
        if (message.event === "killed") killed = message;
        most.set(name, message.event === "done" ? points : Math.max(most.get(name) ?? 40, points));
        await child.exited;
      }
      const what = `${number}: ${name}, killed at ${killed.point} (${killed.points})`;
      perished.push(String(killed.point));
      await using context = platformContext(path, { settings: { lockBudget: LOCK_BUDGET } });
      await again(context);
      const written = await writers.stop();
      expect(integrity(path), what).toBe("ok");
      expect(await verifyAudit(context.store.read), what).toMatchObject({ ok: true });
      await sync(context);
      if (request.action === "writer") written.push(writtenBy(killed, path));
      expectKept(path, "legacy", written, what);
      if (ends === "off") return;
      expectKept(path, "unified", written, what);
      await expectClean(context, what);
      const isProjected = ends === "dualwrite" || ends === "shadow";
      if (isProjected && (number % 3 === 0 || number <= SCENARIOS.length)) await expectProjected(path, what);
    };
    const work = async () => {
      const writers = new Writers();
      for (let next = queue.shift(); next; next = queue.shift()) {
        if (next.scenario) await one(writers, next.number, next.scenario, next.at);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    expect(perished).toHaveLength(KILLS);
    if (KILLS < 50) return;
    // Before anything, in the middle, before and after each commit.
    const kinds = new Set(perished.map((point) => point.slice(point.lastIndexOf(":"))));
    const expected = [":before-commit", ":begun", ":committed", ":judged", ":moved"];
    expect([...kinds].sort()).toEqual(expect.arrayContaining(expected));
  });
});
