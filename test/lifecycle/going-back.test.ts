import { describe, expect, test } from "vitest";
import type { Context } from "../../src/context.ts";
import { changeFlags } from "../../src/flags/flags.ts";
import { rollback } from "../../src/rollout/rollback.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { check } from "../../src/sync/check.ts";
import { advance, execute, platformContext, sampleDatabase, select } from "../support/legacy-platform.ts";

const AGENT = "ai-reviewer";

/** The reviewer at live, with a score on the unified side that no legacy column holds. */
async function liveWithALoss(context: Context, path: string): Promise<void> {
  await migrateUp(context);
  await advance(context, [AGENT], "live", async (stage) => {
    if (stage === "shadow") await backfill(context, { agents: [AGENT] });
    if (stage === "live") await check(context, { agents: [AGENT] });
  });
  execute(
    path,
    `UPDATE unified_review_tasks SET suggestions = '["split it"]' WHERE task_id =
     (SELECT min(task_id) FROM unified_review_tasks JOIN unified_tasks ON id = task_id WHERE agent_type = '${AGENT}')`,
  );
}

const kept = (path: string) => select(path, "SELECT reason FROM hive_kept");

describe("back to a stage where both sides are written and the legacy side leads", () => {
  test("by flags: what the legacy side cannot hold is kept, and both sides are equal", async () => {
    const path = sampleDatabase({ tasks: 300 });
    await using context = platformContext(path);
    await liveWithALoss(context, path);
    await changeFlags(context, [{ agent: AGENT, flag: "reads", value: "shadow" }]);
    expect(kept(path)).toEqual([{ reason: expect.stringMatching(/unified_review_tasks\.suggestions/) }]);
    expect(await check(context)).toMatchObject({ agents: [AGENT], consistent: true, quarantined: 0 });
    expect(select(path, `SELECT DISTINCT state FROM hive_backfill WHERE agent = '${AGENT}'`)).toEqual([
      { state: "finished" },
    ]);
  });

  test("by rollback; other agents at such a stage are left alone", async () => {
    const path = sampleDatabase({ tasks: 300 });
    await using context = platformContext(path);
    await liveWithALoss(context, path);
    await advance(context, ["hive-coder"], "shadow", async (stage) => {
      if (stage === "shadow") await backfill(context, { agents: ["hive-coder"] });
    });
    const of = (agent: string) => select(path, `SELECT started_at FROM hive_backfill WHERE agent = '${agent}'`);
    const coder = of("hive-coder");
    expect(await rollback(context, { agents: [AGENT], to: "dualwrite" })).toMatchObject({
      stage: "dualwrite",
      kept: 1,
    });
    expect(await check(context, { agents: [AGENT] })).toMatchObject({ consistent: true });
    expect(of("hive-coder")).toEqual(coder);
    expect(kept(path)).toHaveLength(1);
  });

  test("killed before the sides were equal: the backfill is stale, and running it makes them so", async () => {
    const path = sampleDatabase({ tasks: 300 });
    await using context = platformContext(path);
    await liveWithALoss(context, path);
    const stop = new Error("stopped");
    const signal = (point: string) => {
      if (point === "tx:backfill begin:begun") throw stop;
    };
    {
      await using dying = platformContext(path, { signal });
      await expect(changeFlags(dying, [{ agent: AGENT, flag: "reads", value: "shadow" }])).rejects.toThrow(
        stop.message,
      );
    }
    expect(await check(context, { agents: [AGENT] })).toMatchObject({ consistent: false, different: 1 });
    expect(select(path, `SELECT DISTINCT state FROM hive_backfill WHERE agent = '${AGENT}'`)).toEqual([
      { state: "stale" },
    ]);
    await backfill(context, { agents: [AGENT] });
    expect(await check(context, { agents: [AGENT] })).toMatchObject({ consistent: true });
  });
});

test("dry runs do not open the database for writing: a journal mode that hive would change stays", async () => {
  const path = sampleDatabase({ tasks: 50 });
  {
    await using context = platformContext(path);
    await migrateUp(context);
  }
  execute(path, "PRAGMA journal_mode = DELETE");
  {
    await using context = platformContext(path);
    await backfill(context, { dryRun: true });
    await check(context, { dryRun: true, repair: true });
    await rollback(context, { dryRun: true });
    await changeFlags(context, [{ agent: AGENT, flag: "dual-write", value: "on" }], { dryRun: true });
    await migrateUp(context, { dryRun: true });
  }
  expect(select(path, "PRAGMA journal_mode")).toEqual([{ journal_mode: "delete" }]);
});
