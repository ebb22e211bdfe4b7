import { describe, expect, test } from "vitest";
import type { Context } from "../../src/context.ts";
import { changeFlags } from "../../src/flags/flags.ts";
import { rollback } from "../../src/rollout/rollback.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { check } from "../../src/sync/check.ts";
import { listQuarantine, retryQuarantine } from "../../src/sync/quarantine.ts";
import { BACKENDS, sqlite } from "../support/backends.ts";
import { advance, execute, platformContext, select } from "../support/legacy-platform.ts";

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

/** A task of the reviewer's other than the one with the loss. */
const lastReview = (path: string) =>
  select(path, `SELECT max(id) AS id FROM unified_tasks WHERE agent_type = '${AGENT}'`)[0];

const kept = (path: string) => select(path, "SELECT reason FROM hive_kept");

test("SQLite only, which alone has a journal mode: dry runs do not open the database for writing: a journal mode that hive would change stays", async () => {
  const path = (await sqlite.create({ sample: { tasks: 50 } })).url;
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

describe.each(BACKENDS)("on $name", ({ name, create, dialect }) => {
  const sampled = async (tasks: number) => (await create({ legacy: "text", sample: { tasks } })).url;

  describe("back to a stage where both sides are written and the legacy side leads", () => {
    test("by flags: what the legacy side cannot hold is kept, and both sides are equal", async () => {
      const path = await sampled(300);
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
      const path = await sampled(300);
      await using context = platformContext(path);
      await liveWithALoss(context, path);
      await advance(context, ["hive-coder"], "shadow", async (stage) => {
        if (stage === "shadow") await backfill(context, { agents: ["hive-coder"] });
      });
      const of = (agent: string) => select(path, `SELECT started_at FROM hive_backfill WHERE agent = '${agent}'`);
      const coder = of("hive-coder");
      const dry = await rollback(context, { agents: [AGENT], to: "dualwrite", dryRun: true });
      expect(dry).toMatchObject({ kept: 1, projectedDown: 0 });
      expect(await rollback(context, { agents: [AGENT], to: "dualwrite" })).toMatchObject({
        stage: "dualwrite",
        kept: 1,
      });
      expect(await check(context, { agents: [AGENT] })).toMatchObject({ consistent: true });
      expect(of("hive-coder")).toEqual(coder);
      expect(kept(path)).toHaveLength(1);
    });

    test("killed before the sides were equal: the backfill is stale, and running it makes them so", async () => {
      const path = await sampled(300);
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

  describe("what an agent wrote on the unified side is never lost", () => {
    test("not by a rollback of what cannot go down: kept whole, and listed", async () => {
      const path = await sampled(300);
      await using context = platformContext(path);
      await liveWithALoss(context, path);
      const row = lastReview(path);
      // PostgreSQL's own type keeps out what is no JSON.
      const beyond = name === "sqlite" ? ", input_data = 'not json'" : "";
      if (name === "postgres")
        execute(path, dialect.refuse("tasks", "UPDATE", "NEW.failure_reason = 'NEW WORK'", "no"));
      execute(path, `UPDATE unified_tasks SET error_message = 'NEW WORK'${beyond} WHERE id = '${row?.id}'`);
      expect(await rollback(context, { to: "shadow" })).toMatchObject({ stage: "shadow", quarantined: 1, kept: 2 });
      const [copy] = select(path, `SELECT aggregate FROM hive_kept WHERE key = '${row?.id}'`);
      expect(String(copy?.aggregate)).toContain("NEW WORK");
      expect((await listQuarantine(context)).entries).toMatchObject([{ key: row?.id, direction: "down" }]);
    });

    test("not when it comes between the carrying and the flip", async () => {
      const path = await sampled(300);
      {
        await using context = platformContext(path);
        await liveWithALoss(context, path);
      }
      const row = lastReview(path);
      let late = 0;
      const signal = (point: string) => {
        if (point !== "tx:project down:committed" || late > 0) return;
        late += 1;
        execute(
          path,
          `UPDATE unified_tasks SET error_message = 'LATE', updated_at = '2031-01-01T00:00:00.000Z' WHERE id = '${row?.id}'`,
        );
      };
      await using context = platformContext(path, { signal });
      await rollback(context, { to: "shadow" });
      expect(late).toBe(1);
      expect(select(path, `SELECT failure_reason FROM tasks WHERE id = '${row?.id}'`)).toEqual([
        { failure_reason: "LATE" },
      ]);
      expect(await check(context, { agents: [AGENT] })).toMatchObject({ consistent: true });
    });

    test("not by a retry of what never went up: it is written up, not taken away", async () => {
      const path = await sampled(60);
      await using context = platformContext(path);
      await migrateUp(context);
      const [row] = select(path, "SELECT min(id) AS id FROM planning_queue");
      // The same key as a task's: quarantined until the task gets another one.
      execute(
        path,
        `UPDATE tasks SET id = '${row?.id}' WHERE id = (SELECT max(id) FROM tasks WHERE task_type = 'backend')`,
      );
      await advance(context, ["ai-planner"], "live", async (stage) => {
        if (stage === "shadow") await backfill(context, { agents: ["ai-planner"] });
        if (stage === "live") await check(context, { agents: ["ai-planner"] });
      });
      execute(path, `UPDATE tasks SET id = 'renamed' WHERE id = '${row?.id}'`);
      expect(await retryQuarantine(context, { mapping: "planning_queue" })).toMatchObject({ retried: 1, released: 1 });
      expect(select(path, `SELECT count(*) AS n FROM planning_queue WHERE id = '${row?.id}'`)).toEqual([{ n: 1 }]);
      expect(select(path, `SELECT agent_type FROM unified_tasks WHERE id = '${row?.id}'`)).toEqual([
        { agent_type: "ai-planner" },
      ]);
    });

    test("not when it hands a row over to an agent that is still led by the legacy side", async () => {
      const path = await sampled(300);
      await using context = platformContext(path);
      await liveWithALoss(context, path);
      const row = lastReview(path);
      execute(
        path,
        `UPDATE unified_tasks SET task_type = 'code', agent_type = 'hive-coder', error_message = 'HANDED OVER' WHERE id = '${row?.id}'`,
      );
      expect(await check(context, { agents: [AGENT] })).toMatchObject({ consistent: true, inFlight: 1, different: 0 });
      expect(await check(context, { agents: ["hive-coder"] })).toMatchObject({ different: expect.any(Number) });
      await backfill(context, { agents: ["hive-coder"] });
      expect(select(path, `SELECT error_message FROM unified_tasks WHERE id = '${row?.id}'`)).toEqual([
        { error_message: "HANDED OVER" },
      ]);
      await rollback(context, { agents: [AGENT] });
      expect(select(path, `SELECT failure_reason FROM tasks WHERE id = '${row?.id}'`)).toEqual([
        { failure_reason: "HANDED OVER" },
      ]);
    });
  });

  test("a repair of related rows whose root is gone keeps them and is on record", async () => {
    const path = await sampled(60);
    await using context = platformContext(path);
    await migrateUp(context);
    await backfill(context);
    execute(
      path,
      "INSERT INTO unified_review_tasks (task_id, correlation_id, code_path, created_at) VALUES ('ghost', 'c', 'a.py', '2026-01-01T00:00:00.000Z')",
    );
    expect(await check(context, { repair: true })).toMatchObject({ extra: 1, repaired: 1, consistent: true });
    expect(select(path, "SELECT key, side FROM hive_kept")).toEqual([{ key: "ghost", side: "unified" }]);
    expect(select(path, "SELECT after FROM hive_audit WHERE action = 'repair'")).toEqual([
      { after: expect.stringContaining("ghost") },
    ]);
  });

  test("a flag of another agent does not stop a backfill; the side that leads for it does", async () => {
    const path = await sampled(60);
    {
      await using context = platformContext(path);
      await migrateUp(context);
    }
    const during = (statement: string) => {
      let done = false;
      return platformContext(path, {
        signal: (point) => {
          if (point !== "backfill:judged" || done) return;
          done = true;
          execute(path, statement);
        },
      });
    };
    {
      await using context = during("INSERT INTO hive_flags VALUES ('guardian', 'dual-write', 'on', '')");
      expect(await backfill(context, { agents: [AGENT] })).toMatchObject({ resumed: false });
    }
    await using context = during("INSERT INTO hive_flags VALUES ('guardian', 'reads', 'live', '')");
    await expect(backfill(context, { agents: [AGENT] })).rejects.toMatchObject({ code: "GUARD_REFUSED" });
  });
});
