import { describe, expect, test } from "vitest";
import type { Context } from "../../src/context.ts";
import { rollback } from "../../src/rollout/rollback.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { check } from "../../src/sync/check.ts";
import { sync } from "../../src/sync/sync.ts";
import { BACKENDS } from "../support/backends.ts";
import { advance, execute, platformContext, select } from "../support/legacy-platform.ts";

const AGENT = "hive-coder";

describe.each(BACKENDS)("on $name: a legacy write while the unified side leads", ({ create, dialect }) => {
  /** One task of this agent, whose last run failed, at a stage where the unified side leads. */
  async function led(more = ""): Promise<{ path: string; context: Context }> {
    const rows = `
    INSERT INTO tasks (id, title, task_type, status, priority, payload) VALUES ('t', 'a title', 'backend', 'running', 5, '{"a":1}');
    INSERT INTO workers (id, role) VALUES ('w', 'backend');
    INSERT INTO runs (id, task_id, worker_id, run_number, status, error_message, result_data)
      VALUES ('r1', 't', 'w', 1, 'failed', 'timed out', '{"tries":1}');
    ${more}`;
    const { url: path } = await create({ legacy: "natural", rows });
    const context = platformContext(path);
    await migrateUp(context);
    await advance(context, [AGENT], "live", async (stage) => {
      if (stage === "shadow") await backfill(context, { agents: [AGENT] });
      if (stage === "live") await check(context, { agents: [AGENT] });
    });
    return { path, context };
  }

  const unified = (path: string, key = "t"): Record<string, unknown> => {
    const [row = {}] = select(path, `SELECT * FROM unified_tasks WHERE id = '${key}'`);
    return { ...row, output_data: JSON.parse(String(row.output_data ?? null)) };
  };
  const clean = { consistent: true, different: 0, missing: 0, extra: 0, inFlight: 0 };

  test("takes away what was derived from rows that say something else now", async () => {
    const { path, context } = await led();
    expect(unified(path)).toMatchObject({ error_message: "timed out", output_data: { tries: 1 } });
    execute(
      path,
      "INSERT INTO runs (id, task_id, worker_id, run_number, status) VALUES ('r2', 't', 'w', 2, 'running')",
    );
    await sync(context);
    expect(unified(path)).toMatchObject({ error_message: null, output_data: { tries: 1 } });
    expect(await check(context)).toMatchObject(clean);
    await rollback(context);
    // No agent ever wrote it there.
    expect(select(path, "SELECT failure_reason FROM tasks")).toEqual([{ failure_reason: null }]);
    await context.store[Symbol.asyncDispose]();
  });

  test("leaves what only the unified side holds, until it says something else itself", async () => {
    const { path, context } = await led();
    execute(
      path,
      `UPDATE unified_tasks SET output_data = '{"mine":1}', task_metadata = ${dialect.put("task_metadata", "custom", "7")} WHERE id = 't'`,
    );
    await sync(context);
    execute(path, "UPDATE tasks SET title = 'another title', status = 'review_pending' WHERE id = 't'");
    await sync(context);
    const after = unified(path);
    expect(after).toMatchObject({ status: "review_pending", output_data: { mine: 1 } });
    expect(JSON.parse(String(after.task_metadata))).toMatchObject({ custom: "7" });
    expect(JSON.parse(String(after.input_data))).toMatchObject({ title: "another title" });
    expect(await check(context)).toMatchObject(clean);
    expect(select(path, "SELECT count(*) AS n FROM hive_kept")).toEqual([{ n: 0 }]);

    execute(path, `UPDATE runs SET result_data = '{"tries":9}' WHERE id = 'r1'`);
    await sync(context);
    expect(unified(path)).toMatchObject({ output_data: { tries: 9 } });
    // What was written over there is nowhere else.
    const [copy] = select(path, "SELECT side, aggregate FROM hive_kept");
    expect(copy?.side).toBe("unified");
    expect(String(copy?.aggregate)).toContain("mine");
    expect(JSON.parse(String(unified(path).task_metadata))).toMatchObject({ custom: "7" });
    await context.store[Symbol.asyncDispose]();
  });

  test("makes a value give way that means something else beside it, and both sides are equal", async () => {
    const { path, context } = await led();
    execute(
      path,
      `INSERT INTO unified_tasks (id, correlation_id, task_type, status, agent_type, input_data, output_data, created_at, updated_at)
         SELECT 'n', 'n', task_type, status, agent_type, '{"title":"as it was","description":null,"payload":null}', '{"mine":1}', created_at, updated_at
         FROM unified_tasks WHERE id = 't'`,
    );
    await sync(context);
    // NULL said nothing up to now: the table's default stands on the legacy side. Beside the notes of that row, it says NULL.
    const columns = "title, priority, retry_count, max_retries";
    execute(path, "UPDATE tasks SET title = 'another title' WHERE id = 'n'");
    await sync(context);
    expect(await check(context)).toMatchObject(clean);
    expect(select(path, `SELECT ${columns} FROM tasks WHERE id = 'n'`)).toEqual([
      { title: "another title", priority: 1, retry_count: 0, max_retries: 3 },
    ]);
    const after = { priority: 10, retry_count: 0, max_retries: 3, output_data: { mine: 1 } };
    expect(unified(path, "n")).toMatchObject(after);
    expect(select(path, "SELECT side FROM hive_kept WHERE key = 'n'")).toEqual([{ side: "unified" }]);
    await context.store[Symbol.asyncDispose]();
  });

  test("what is remembered of that goes when the authority goes back", async () => {
    const { path, context } = await led();
    execute(path, `UPDATE unified_tasks SET output_data = '{"mine":1}' WHERE id = 't'`);
    await sync(context);
    expect(select(path, "SELECT key FROM hive_bases")).toEqual([{ key: "t" }]);
    await rollback(context, { to: "shadow" });
    expect(select(path, "SELECT key FROM hive_bases")).toEqual([]);
    expect(String(select(path, "SELECT aggregate FROM hive_kept")[0]?.aggregate)).toContain("mine");
    await context.store[Symbol.asyncDispose]();
  });

  test("that deletes the aggregate leaves a copy of what only the unified side held", async () => {
    const { path, context } = await led("INSERT INTO tasks (id, title, task_type) VALUES ('plain', '', 'backend');");
    execute(path, `UPDATE unified_tasks SET output_data = '{"mine":1}' WHERE id = 't'`);
    await sync(context);
    execute(path, "DELETE FROM runs; DELETE FROM tasks");
    await sync(context);
    expect(select(path, "SELECT id FROM unified_tasks")).toEqual([]);
    expect(select(path, "SELECT key, side FROM hive_kept")).toEqual([{ key: "t", side: "unified" }]);
    expect(select(path, "SELECT key FROM hive_bases")).toEqual([]);
    await context.store[Symbol.asyncDispose]();
  });
});
