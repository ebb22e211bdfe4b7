import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { HiveError } from "../../src/errors.ts";
import { changeFlags } from "../../src/flags/flags.ts";
import { nextStage, previousStage, STAGES, type Stage, settingBetween, valueText } from "../../src/flags/stages.ts";
import type { HiveTask } from "../../src/presets/hive/records.ts";
import { UNIFIED_STATUSES, UNIFIED_TASK_TYPES } from "../../src/presets/hive/vocabulary.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { renewCapture } from "../../src/sync/capture.ts";
import { check } from "../../src/sync/check.ts";
import { sync } from "../../src/sync/sync.ts";
import { type Changes, openWriter } from "../../src/sync/writer.ts";
import { BACKENDS } from "../support/backends.ts";
import { hastyClock, place, platformContext } from "../support/legacy-platform.ts";

const KEYS = ["a", "b", "c", "7"] as const;
const key = fc.constantFrom(...KEYS);
const agent = fc.constantFrom("hive-coder", "ai-reviewer", "ai-deployer", "orchestrator", "qa-agent", "ai-planner");

const changes: fc.Arbitrary<Changes<HiveTask>> = fc.record(
  {
    taskType: fc.constantFrom(...UNIFIED_TASK_TYPES),
    status: fc.constantFrom(...UNIFIED_STATUSES),
    priority: fc.integer({ min: 1, max: 10 }),
    errorMessage: fc.option(fc.string({ unit: "grapheme" })),
    inputData: fc.record({ title: fc.string(), payload: fc.jsonValue() }) as fc.Arbitrary<HiveTask["inputData"]>,
    outputData: fc.jsonValue() as fc.Arbitrary<HiveTask["outputData"]>,
    review: fc.option(fc.record({ reviewScore: fc.integer({ min: 0, max: 100 }) })),
    deployment: fc.option(fc.record({ serviceName: fc.string() })),
  },
  { requiredKeys: [] },
);

const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("create" as const), key, changes }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("update" as const), key, changes }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("delete" as const), key }) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("legacy" as const),
      key,
      status: fc.constantFrom("queued", "in_progress", "approved", "deployed", "escalated", "QUEUED"),
      how: fc.constantFrom("insert", "update", "delete"),
    }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("flip" as const), agent, forward: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("sync" as const) }) },
);

/** What hive refuses in this state is no failure of the run. */
const REFUSALS = ["RECORD_EXISTS", "RECORD_MISSING", "RECORD_INVALID", "RECORD_UNREADABLE", "GUARD_REFUSED"];

async function attempt<T>(work: Promise<T>): Promise<T | null> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof HiveError && REFUSALS.includes(error.code)) return null;
    throw error;
  }
}

function stageOf(stages: ReadonlyMap<string, Stage>, agent: string): Stage {
  return stages.get(agent) ?? "off";
}

describe.each(BACKENDS)("on $name", ({ name, create }) => {
  test("whatever the writer, plain SQL, flips and syncs do in whichever order: both sides are equal, nothing is lost", async () => {
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...STAGES.slice(1)), fc.array(step, { maxLength: 25 }), async (first, steps) => {
        const { url: path, execute, select } = await create({ legacy: "text" });
        await using context = platformContext(path, { clock: hastyClock() });
        await migrateUp(context);
        const agents = context.mapping.agents.map((one) => one.name);
        place(path, agents, "dualwrite");
        await renewCapture(context);
        await backfill(context);
        place(path, agents, first);
        await renewCapture(context);
        const stages = new Map<string, Stage>(agents.map((one) => [one, first]));
        await using writer = openWriter<HiveTask>(context, "guardian");
        // The last acknowledged state of each key; not known any more once plain SQL has touched it.
        const known = new Map<string, HiveTask | null>();

        for (const one of steps) {
          if (one.kind === "create") {
            const made = await attempt(writer.create({ taskType: "code", ...one.changes, id: one.key }));
            if (made) known.set(one.key, made.record);
          } else if (one.kind === "update") {
            const made = await attempt(writer.update(one.key, one.changes));
            if (made) {
              known.set(one.key, made.record);
              expect(await writer.get(one.key)).toEqual(made.record);
            }
          } else if (one.kind === "delete") {
            if (await attempt(writer.delete(one.key))) known.set(one.key, null);
          } else if (one.kind === "legacy") {
            known.delete(one.key);
            const id = `'${one.key}'`;
            if (one.how === "delete") execute(`DELETE FROM tasks WHERE id = ${id}`);
            else if (one.how === "update") execute(`UPDATE tasks SET status = '${one.status}' WHERE id = ${id}`);
            else {
              const values = `(id, title, task_type, status) VALUES (${id}, 't', 'backend', '${one.status}')`;
              execute(
                name === "sqlite"
                  ? `INSERT OR REPLACE INTO tasks ${values}`
                  : `DELETE FROM tasks WHERE id = ${id}; INSERT INTO tasks ${values}`,
              );
            }
          } else if (one.kind === "sync") {
            await sync(context);
          } else {
            const now = stageOf(stages, one.agent);
            const next = one.forward ? nextStage(now) : previousStage(now);
            if (next === null || next === "off") continue;
            const { flag, value } = settingBetween(now, next);
            const change = { agent: one.agent, flag, value: valueText(value) };
            if (await attempt(changeFlags(context, [change], { force: true, reason: "test" }))) {
              stages.set(one.agent, next);
              // Going back to where the legacy side leads gives up what only the unified side could hold.
              if (next === "shadow") known.clear();
            }
          }
        }
        await sync(context);
        for (const [key, record] of known) {
          // Another aggregate's flip may have changed who leads; what was acknowledged is there all the same.
          const stored = await writer.get(key);
          if (record === null) expect(stored, key).toBeNull();
          else expect(stored, key).toEqual(record);
        }
        if (name === "sqlite") expect(select("SELECT * FROM hive_applying")).toEqual([]);
        const both = agents.filter((one) => stageOf(stages, one) !== "complete");
        if (both.length > 0) {
          const found = await check(context, { agents: both });
          expect(found).toMatchObject({ drift: [], consistent: true, inFlight: 0 });
        }
      }),
      { numRuns: name === "sqlite" ? 20 : 12 },
    );
  }, 180_000);
});
