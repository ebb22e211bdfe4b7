import { execFile } from "node:child_process";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import type { Signal } from "../../src/clock.ts";
import type { Context } from "../../src/context.ts";
import { changeFlags } from "../../src/flags/flags.ts";
import { hivePreset } from "../../src/presets/hive/index.ts";
import { listAudit } from "../../src/rollout/audit.ts";
import { rollback } from "../../src/rollout/rollback.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { adjustCapture, NO_SIDES } from "../../src/sync/capture.ts";
import { check } from "../../src/sync/check.ts";
import { type AggregateMapping, MappingError, type PlatformMapping } from "../../src/sync/mapping.ts";
import { Pace } from "../../src/sync/pace.ts";
import { testMapping } from "../../src/sync/preview.ts";
import { listQuarantine, retryQuarantine } from "../../src/sync/quarantine.ts";
import { BACKENDS } from "../support/backends.ts";
import { temporaryDirectory } from "../support/context.ts";
import { contentHashes, legacySide, tableHashes } from "../support/fingerprint.ts";
import { execute, executeUnseen, hastyClock, place, platformContext, select } from "../support/legacy-platform.ts";
import { AS_TEXT } from "../support/legacy-postgres.ts";
import { copyOf } from "../support/live.ts";
import { openShop, type Shop, shopMapping } from "../support/shop.ts";

/** `count` tasks t001…, of type backend, reviews, deployments and workflows in turn. */
const tasks = (count: number) => `
  INSERT INTO tasks (id, title, task_type, status, payload, workflow)
  WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${count})
  SELECT 't' || substr(CAST(1000 + i AS text), 2), 'Task ' || i,
    CASE i % 4 WHEN 0 THEN 'deployment' WHEN 1 THEN 'backend' WHEN 2 THEN 'review' ELSE 'chimera_workflow' END,
    'queued', '{"n": ' || i || '}', CASE WHEN i % 4 = 3 THEN '{"a": 1}' END FROM n;`;

const RUNS = `INSERT INTO runs (id, task_id, worker_id, run_number, status, result_data)
  SELECT 'r' || id, id, 'w', 1, 'success', '{"ok": true}' FROM tasks;`;

const unified = (path: string) => contentHashes(path, (table) => table.startsWith("unified_"));

describe.each(BACKENDS)("on $name", (backend) => {
  const { dialect } = backend;
  const onSqlite = backend.name === "sqlite";

  const titleOf = dialect.at("input_data", "title");

  /** The platform with these rows. On PostgreSQL hive's tables are there already. */
  async function platform(rows: string): Promise<string> {
    const make = async (path: string) => {
      if (onSqlite) return;
      await using context = platformContext(path);
      await migrateUp(context);
    };
    return (await backend.create({ legacy: "text", rows, prepare: { name: `check: ${rows}`, make } })).url;
  }

  /** Migrated and backfilled. */
  async function filled(rows: string, unique: "PRIMARY KEY" | "UNIQUE" = "PRIMARY KEY"): Promise<string> {
    const make = async (path: string) => {
      await using context = platformContext(path);
      await migrateUp(context);
      await backfill(context);
    };
    const prepare = { name: `check, filled: ${rows}`, make };
    return (await backend.create({ legacy: { ...AS_TEXT, unique }, rows, prepare })).url;
  }

  /** What a backfill from nothing makes of the legacy side as it is now. */
  async function fromNothing(path: string): Promise<Record<string, string>> {
    const copy = onSqlite ? join(temporaryDirectory(), "again.db") : await copyOf(path);
    if (onSqlite) execute(path, `VACUUM INTO '${copy}'`);
    for (const table of [
      "unified_tasks",
      "unified_review_tasks",
      "unified_workflow_tasks",
      "unified_deployment_tasks",
    ]) {
      execute(copy, `DELETE FROM ${table}`);
    }
    execute(copy, "DELETE FROM hive_backfill; DELETE FROM hive_quarantine");
    await using context = platformContext(copy);
    await backfill(context);
    return unified(copy);
  }

  /** Puts up the triggers that flags written by SQL ask for, as if a flip had: with nothing to look for. */
  async function capture(path: string): Promise<void> {
    await using context = platformContext(path);
    await context.store.transaction("test", (tx) => adjustCapture(tx, context, NO_SIDES));
  }

  /** A signal that acts at one point, each time or the n-th time it is passed. */
  function at(point: string, act: () => void | Promise<void>, nth?: number): Signal {
    let passed = 0;
    return async (now) => {
      if (now !== point) return;
      passed += 1;
      if (nth === undefined || passed === nth) await act();
    };
  }

  const column = (result: { drift: { key: string; columns: { table: string; column: string }[] }[] }) =>
    Object.fromEntries(result.drift.map((one) => [one.key, one.columns.map((c) => `${c.table}.${c.column}`)]));

  describe("what is told apart", () => {
    test("missing, extra and different with their columns, by agent", async () => {
      // PostgreSQL's integer ends before numbers of JavaScript do.
      const beyond = onSqlite ? "9007199254740993" : "2147483647";
      const path = await filled(`${tasks(20)} ${RUNS}`);
      execute(
        path,
        `DELETE FROM unified_tasks WHERE id = 't001';
       UPDATE unified_tasks SET status = 'running', priority = ${beyond} WHERE id = 't005';
       UPDATE unified_review_tasks SET review_score = 1.5, code_path = 'x' WHERE task_id = 't002';
       DELETE FROM unified_deployment_tasks WHERE task_id = 't004';
       INSERT INTO unified_review_tasks (task_id, correlation_id, code_path, created_at) VALUES ('t009', 'c', '', '2026-01-01 00:00:00Z');
       UPDATE tasks SET payload = '{"n": 99}' WHERE id = 't013';
       UPDATE runs SET result_data = '{"ok": false}' WHERE task_id = 't017';
       INSERT INTO unified_tasks SELECT 'extra', correlation_id, task_type, status, agent_type, priority, input_data,
         output_data, NULL, created_at, updated_at, NULL, NULL, NULL, NULL, NULL FROM unified_tasks WHERE id = 't002';`,
      );
      await using context = platformContext(path);
      const result = await check(context);
      expect(result).toMatchObject({
        ...{ consistent: false, compared: 21, identical: 13, missing: 1, extra: 1, different: 6, quarantined: 0 },
        ...{ inFlight: 0, repaired: 0, unrepaired: [], recorded: true, note: expect.stringMatching(/all agents/) },
      });
      expect(result.drift.map(({ key, kind, agent }) => [key, kind, agent]).sort()).toEqual([
        ["extra", "extra", "ai-reviewer"],
        ["t001", "missing", "hive-coder"],
        ["t002", "different", "ai-reviewer"],
        ["t004", "different", "ai-deployer"],
        ["t005", "different", "hive-coder"],
        ["t009", "different", "hive-coder"],
        ["t013", "different", "hive-coder"],
        ["t017", "different", "hive-coder"],
      ]);
      expect(column(result)).toEqual({
        extra: [],
        t001: [],
        t002: ["unified_review_tasks.code_path", "unified_review_tasks.review_score"],
        t004: ["unified_deployment_tasks.task_id"],
        t005: ["unified_tasks.status", "unified_tasks.priority"],
        t009: ["unified_review_tasks.task_id"],
        t013: ["unified_tasks.input_data", "unified_tasks.task_metadata"],
        t017: ["unified_tasks.output_data"],
      });
      const values = result.drift.find((one) => one.key === "t005")?.columns;
      expect(values?.map(({ legacy, unified: found }) => [legacy, found])).toEqual([
        ["queued", "running"],
        [10, onSqlite ? beyond : Number(beyond)],
      ]);

      const coder = await check(context, { agents: ["hive-coder"] });
      expect(coder).toMatchObject({
        agents: ["hive-coder"],
        compared: 5,
        identical: 0,
        missing: 1,
        different: 4,
        extra: 0,
      });
      const reviewer = await check(context, { agents: ["ai-reviewer"] });
      expect(reviewer).toMatchObject({ compared: 6, identical: 4, missing: 0, different: 1, extra: 1 });
      expect(select(path, "SELECT agent, compared, missing, extra, different FROM hive_checks ORDER BY agent")).toEqual(
        expect.arrayContaining([
          { agent: "hive-coder", compared: 5, missing: 1, extra: 0, different: 4 },
          { agent: "ai-reviewer", compared: 6, missing: 0, extra: 1, different: 1 },
        ]),
      );
    });

    test("only the agents with dual-write on where there are any", async () => {
      const path = await filled(tasks(8));
      place(path, "ai-deployer", "dualwrite");
      execute(path, "DELETE FROM unified_tasks");
      await using context = platformContext(path);
      expect(await check(context)).toMatchObject({ agents: ["ai-deployer"], compared: 2, missing: 2, note: null });
    });

    test("single keys, of which nothing is noted", async () => {
      const path = await filled(tasks(8));
      execute(path, "DELETE FROM unified_tasks WHERE id IN ('t001', 't002')");
      execute(path, "UPDATE unified_tasks SET id = 'alone' WHERE id = 't003'");
      const before = tableHashes(path);
      await using context = platformContext(path);
      await expect(check(context, { keys: ["t005", "nowhere"] })).rejects.toMatchObject({
        code: "UNKNOWN_NAME",
        details: { keys: ["nowhere"] },
      });
      const result = await check(context, { keys: ["t001", "t005", "alone"] });
      expect(result).toMatchObject({
        compared: 3,
        missing: 1,
        identical: 1,
        extra: 1,
        consistent: false,
        recorded: false,
        unrecorded: "only some keys were compared",
      });
      expect(await check(context, { keys: ["t001"], agents: ["ai-reviewer"] })).toMatchObject({ compared: 0 });
      expect(tableHashes(path)).toEqual(before);
      expect(await check(context, { keys: ["t001"], repair: true })).toMatchObject({ missing: 1, repaired: 1 });
      expect(select(path, "SELECT id FROM unified_tasks WHERE id IN ('t001', 't002')")).toEqual([{ id: "t001" }]);
    });

    test("all are counted, the first hundred are listed", async () => {
      const path = await filled(tasks(300));
      execute(path, "DELETE FROM unified_tasks WHERE id <= 't150'; UPDATE unified_tasks SET status = 'x'");
      await using context = platformContext(path);
      const result = await check(context);
      // Half of those that are gone have left a row in one of the related tables, or more.
      const orphans = select(
        path,
        `SELECT (SELECT count(*) FROM unified_review_tasks WHERE task_id NOT IN (SELECT id FROM unified_tasks)) +
        (SELECT count(*) FROM unified_workflow_tasks WHERE task_id NOT IN (SELECT id FROM unified_tasks)) +
        (SELECT count(*) FROM unified_deployment_tasks WHERE task_id NOT IN (SELECT id FROM unified_tasks)) AS n`,
      )[0]?.n;
      expect(result).toMatchObject({ missing: 150, different: 150, identical: 0, compared: 300 + Number(orphans) });
      expect(result.drift).toHaveLength(100);
    });

    test("rows of a related table that belong to nothing, each once, and gone after a repair", async () => {
      const path = await filled(tasks(8));
      const before = unified(path);
      execute(
        path,
        `INSERT INTO unified_workflow_tasks (task_id, correlation_id, workflow_type, current_phase, total_phases, created_at)
         VALUES ('lost', 'c', 'plan', '', 0, '2026-01-01 00:00:00Z');
       INSERT INTO unified_review_tasks (task_id, correlation_id, code_path, created_at) VALUES ('lost', 'c', '', '2026-01-01 00:00:00Z')`,
      );
      await using context = platformContext(path);
      const result = await check(context);
      expect(result).toMatchObject({ consistent: false, extra: 2, identical: 8, compared: 10 });
      expect(result.drift.map(({ key, kind, columns }) => [key, kind, columns[0]?.table])).toEqual([
        ["lost", "extra", "unified_review_tasks"],
        ["lost", "extra", "unified_workflow_tasks"],
      ]);
      expect(await check(context, { repair: true, dryRun: true })).toMatchObject({ extra: 2, repaired: 0 });
      expect(await check(context, { repair: true })).toMatchObject({ extra: 2, repaired: 2, consistent: true });
      expect(unified(path)).toEqual(before);
      expect(await check(context)).toMatchObject({ consistent: true, compared: 8 });
    });

    test("the same JSON with other spaces and order is the same; another number is not", async () => {
      const path = await filled(tasks(4));
      execute(
        path,
        `UPDATE unified_tasks SET input_data = '{ "payload": {"n":1}, "description":null, "title":"Task 1" }' WHERE id = 't001';
       UPDATE unified_tasks SET input_data = ${onSqlite ? "json_set(input_data, '$.payload.n', '2')" : `jsonb_set(input_data, '{payload,n}', '"2"')`} WHERE id = 't002'`,
      );
      await using context = platformContext(path);
      expect(column(await check(context))).toEqual({ t002: ["unified_tasks.input_data"] });
    });

    test("a database that hive has never touched is compared too, and nothing is written", async () => {
      const { url: path } = await backend.create({ legacy: "text", rows: tasks(3) });
      const before = tableHashes(path);
      await using context = platformContext(path);
      expect(await check(context)).toMatchObject({
        consistent: false,
        recorded: false,
        note: expect.stringMatching(/hive migrate up/),
      });
      await expect(check(context, { repair: true })).rejects.toMatchObject({ code: "NOT_MIGRATED" });
      expect(tableHashes(path)).toEqual(before);
    });
  });

  describe("repair", () => {
    const DRIFT = `DELETE FROM unified_tasks WHERE id < 't020';
    UPDATE unified_tasks SET status = 'failed', input_data = '{}' WHERE id BETWEEN 't030' AND 't050';
    DELETE FROM unified_review_tasks WHERE task_id > 't060';
    UPDATE unified_tasks SET id = 'extra-' || id WHERE id > 't090';`;

    test("makes the unified side what a backfill from nothing would make it", async () => {
      const path = await filled(`${tasks(100)} ${RUNS}`);
      const good = unified(path);
      const before = legacySide(path);
      execute(path, DRIFT);
      await using context = platformContext(path);
      const found = await check(context);
      const repaired = await check(context, { repair: true, reason: "drill" });
      expect(repaired).toMatchObject({
        ...{ consistent: true, unrepaired: [], recorded: true },
        ...{ missing: found.missing, extra: found.extra, different: found.different },
      });
      expect(repaired.repaired).toBe(found.missing + found.extra + found.different);
      expect(unified(path)).toEqual(good);
      expect(legacySide(path)).toEqual(before);
      expect(await check(context)).toMatchObject({ consistent: true, identical: 100, compared: 100 });
      const { entries } = await listAudit(context.store.read, { action: "repair" });
      expect(entries.length).toBeGreaterThan(0);
      expect(entries.every((entry) => entry.reason === "drill")).toBe(true);
    });

    test("looks again: leaves alone what somebody mended, and takes over what became newer", async () => {
      const path = await filled(tasks(10));
      const good = select(path, "SELECT * FROM unified_tasks WHERE id = 't001'");
      execute(path, "UPDATE unified_tasks SET status = 'failed' WHERE id IN ('t001', 't002', 't003', 't004')");
      const signal = at("check:judged", () =>
        execute(
          path,
          `UPDATE unified_tasks SET status = 'queued' WHERE id = 't001';
         UPDATE tasks SET title = 'newer' WHERE id = 't002';
         DELETE FROM tasks WHERE id = 't003';
         UPDATE tasks SET status = 'failed' WHERE id = 't005'`,
        ),
      );
      await using context = platformContext(path, { signal });
      expect(await check(context, { repair: true })).toMatchObject({ different: 4, missing: 0, repaired: 4 });
      expect(select(path, "SELECT * FROM unified_tasks WHERE id = 't001'")).toEqual(good);
      expect(select(path, `SELECT ${titleOf} AS title, status FROM unified_tasks WHERE id = 't002'`)).toEqual([
        { title: "newer", status: "queued" },
      ]);
      expect(select(path, "SELECT id FROM unified_tasks WHERE id = 't003'")).toEqual([]);
      const { entries } = await listAudit(context.store.read, { action: "repair" });
      expect(entries.map((entry) => entry.after)).toEqual([{ mapping: "tasks", keys: ["t002", "t003", "t004"] }]);
      // What changed elsewhere in the meantime was not part of what it looked at.
      expect(await check(context)).toMatchObject({ different: 1, drift: [{ key: "t005" }] });
    });

    test("mends from the unified side where that leads, and takes nothing away on the legacy side", async () => {
      const path = await filled(tasks(12));
      place(path, ["hive-coder", "ai-reviewer"], "live");
      await using context = platformContext(path);
      await context.store.transaction("capture", (tx) => adjustCapture(tx, context, NO_SIDES));
      executeUnseen(
        path,
        `UPDATE unified_tasks SET status = 'running' WHERE id IN ('t001', 't004');
       UPDATE tasks SET status = 'completed', assignee = 'me' WHERE id = 't005';
       DELETE FROM tasks WHERE id = 't009';
       INSERT INTO tasks (id, title, task_type, payload) VALUES ('late', 'Late', 'backend', ${onSqlite ? "x'00ff'" : "'{}'"});
       INSERT INTO runs (id, task_id, worker_id, run_number) VALUES ('late-run', 'late', 'w', 1);
       DELETE FROM unified_tasks WHERE id = 't002'; DELETE FROM unified_review_tasks WHERE task_id = 't002'`,
      );
      const found = await check(context, { agents: ["hive-coder", "ai-reviewer", "ai-deployer"] });
      expect(found.drift.map(({ key, kind }) => [key, kind]).sort()).toEqual([
        ["late", "extra"],
        ["t001", "different"],
        ["t002", "extra"],
        ["t004", "different"],
        ["t005", "different"],
        ["t009", "missing"],
      ]);
      const result = await check(context, { agents: ["hive-coder", "ai-reviewer", "ai-deployer"], repair: true });
      expect(result).toMatchObject({ repaired: 4, consistent: false });
      expect(result.unrepaired.map(({ key }) => key).sort()).toEqual(["late", "t002"]);
      expect(
        select(path, "SELECT id, status, assignee FROM tasks WHERE id IN ('t001', 't004', 't005', 't009') ORDER BY id"),
      ).toEqual([
        { id: "t001", status: "in_progress", assignee: null },
        // The legacy side leads for deployments.
        { id: "t004", status: "queued", assignee: null },
        { id: "t005", status: "queued", assignee: null },
        { id: "t009", status: "queued", assignee: null },
      ]);
      expect(select(path, "SELECT status FROM unified_tasks WHERE id = 't004'")).toEqual([{ status: "queued" }]);
      expect(select(path, "SELECT id FROM tasks WHERE id IN ('t002', 'late') ORDER BY id")).toEqual([
        { id: "late" },
        { id: "t002" },
      ]);
      expect(select(path, "SELECT id FROM runs WHERE task_id = 'late'")).toEqual([{ id: "late-run" }]);
      // What was written over is kept: nobody knows whether an agent had meant it.
      expect(select(path, "SELECT key, side FROM hive_kept ORDER BY key")).toEqual([
        { key: "t001", side: "legacy" },
        { key: "t005", side: "legacy" },
      ]);
    });

    test("keeps what only the unified side had, once", async () => {
      const path = await filled(tasks(4));
      const extra =
        "INSERT INTO unified_tasks SELECT 'extra', correlation_id, task_type, status, agent_type, 5, input_data, '1.0', NULL, created_at, updated_at, NULL, NULL, NULL, NULL, NULL FROM unified_tasks WHERE id = 't001'";
      await using context = platformContext(path);
      for (let round = 0; round < 2; round++) {
        execute(path, extra);
        expect(await check(context, { repair: true })).toMatchObject({ extra: 1, repaired: 1 });
      }
      const kept = select(path, "SELECT key, side, reason, aggregate FROM hive_kept");
      expect(kept).toMatchObject([
        { key: "extra", side: "unified", reason: expect.stringMatching(/only the unified side/) },
      ]);
      expect(JSON.parse(String(kept[0]?.aggregate)).unified_tasks[0]).toMatchObject({
        id: "extra",
        output_data: "1.0",
      });
    });

    test("is refused when a flag changes under it", async () => {
      const path = await filled(tasks(10));
      execute(path, DRIFT);
      const broken = unified(path);
      const signal = at("check:judged", () => place(path, "hive-coder", "live"), 1);
      await using context = platformContext(path, { signal });
      await expect(check(context, { repair: true })).rejects.toMatchObject({ code: "GUARD_REFUSED" });
      expect(unified(path)).toEqual(broken);
    });

    test("a verdict reached under other flags is not noted", async () => {
      const path = await filled(tasks(10));
      execute(path, "DELETE FROM hive_checks");
      const signal = at("tx:check record:begun", () => undefined);
      await using context = platformContext(path, { signal });
      const running = check(context, { onProgress: () => place(path, "hive-coder", "live") });
      expect(await running).toMatchObject({
        consistent: true,
        recorded: false,
        unrecorded: "flags were changed meanwhile",
      });
      expect(select(path, "SELECT * FROM hive_checks")).toEqual([]);
    });

    test("is interrupted cleanly, and goes on", async () => {
      const path = await filled(tasks(300));
      const good = unified(path);
      execute(path, "UPDATE unified_tasks SET status = 'failed'");
      const controller = new AbortController();
      {
        const signal = at("tx:repair:committed", () => controller.abort(), 2);
        await using context = platformContext(path, { signal });
        await expect(check(context, { repair: true, abort: controller.signal })).rejects.toMatchObject({
          code: "INTERRUPTED",
        });
      }
      const left = Number(select(path, "SELECT count(*) AS n FROM unified_tasks WHERE status = 'failed'")[0]?.n);
      expect(left).toBeGreaterThan(0);
      expect(left).toBeLessThan(300);
      await using context = platformContext(path);
      expect(await check(context, { repair: true })).toMatchObject({ different: left, repaired: left });
      expect(unified(path)).toEqual(good);
    });
  });

  describe("backfill among others who write", () => {
    /** All of it on rows that were read and not yet written: columns, related rows, rows that go and rows that come. */
    const number = (id: string) => (onSqlite ? "rowid" : `CAST(substr(${id}, 2) AS integer)`);
    const CHANGES = (round: number) => `
    UPDATE tasks SET status = 'failed', title = title || '!' WHERE ${number("id")} % 40 = ${round} AND id NOT IN (SELECT id FROM unified_tasks);
    UPDATE runs SET result_data = '{"later": ${round}}'
      WHERE ${number("task_id")} % 40 = ${round + 7} AND task_id NOT IN (SELECT id FROM unified_tasks);
    INSERT INTO runs (id, task_id, worker_id, run_number) SELECT id || '-${round}', id, 'w', ${round + 1} FROM tasks
      WHERE ${number("id")} % 40 = ${round + 14} AND id NOT IN (SELECT id FROM unified_tasks);
    DELETE FROM runs WHERE ${number("task_id")} % 40 = ${round + 21} AND task_id NOT IN (SELECT id FROM unified_tasks);
    DELETE FROM tasks WHERE ${number("id")} % 40 = ${round + 28} AND id NOT IN (SELECT id FROM unified_tasks);
    UPDATE tasks SET task_type = 'review' WHERE ${number("id")} % 40 = ${round + 33} AND id NOT IN (SELECT id FROM unified_tasks);`;

    test.each(["backfill:judged", "tx:backfill:committed"])(
      "what changed after it was read and before it was written is read again (%s)",
      async (point) => {
        const path = await platform(`${tasks(300)} ${RUNS}`);
        let rounds = 0;
        const signal = at(point, () => {
          rounds += 1;
          if (rounds <= 6) execute(path, CHANGES(rounds));
        });
        await using context = platformContext(path, { signal, clock: hastyClock() });
        await migrateUp(context);
        const { aggregates } = await backfill(context);
        expect(rounds).toBeGreaterThan(1);
        const left = Number(select(path, "SELECT count(*) AS n FROM tasks")[0]?.n);
        expect(left).toBeLessThan(300);
        expect(aggregates).toEqual({ written: left, unchanged: 0, quarantined: 0, total: left });
        expect(await check(context)).toMatchObject({ consistent: true, compared: left, identical: left });
      },
    );

    test("a newer unified row, brought by somebody else with the newer legacy row, is not overwritten", async () => {
      const path = await filled(tasks(60));
      execute(path, "UPDATE tasks SET priority = 2 WHERE id < 't050'");
      const signal = at(
        "backfill:judged",
        async () => {
          execute(path, "UPDATE tasks SET title = 'newest' WHERE id IN ('t003', 't040')");
          await using other = platformContext(path);
          await check(other, { keys: ["t003", "t040"], repair: true });
        },
        1,
      );
      await using context = platformContext(path, { signal });
      expect((await backfill(context)).aggregates).toEqual({ written: 47, unchanged: 13, quarantined: 0, total: 60 });
      expect(select(path, `SELECT count(*) AS n FROM unified_tasks WHERE ${titleOf} = 'newest'`)).toEqual([{ n: 2 }]);
      expect(unified(path)).toEqual(await fromNothing(path));
    });

    test("another operation of the same process does not take the news away", async () => {
      const path = await filled(tasks(8));
      execute(path, "UPDATE tasks SET priority = 2");
      let context: ReturnType<typeof platformContext> | undefined;
      const signal = at(
        "backfill:judged",
        async () => {
          if (!context) return;
          execute(path, "UPDATE tasks SET title = 'newest'");
          await new Pace(context.store, context.clock, 0.01).observe();
        },
        1,
      );
      context = platformContext(path, { signal });
      await backfill(context);
      expect(await check(context)).toMatchObject({ consistent: true, identical: 8 });
      await context[Symbol.asyncDispose]();
    });

    test("what was mended or broken after it was read is in quarantine, or not, as it is when that is written", async () => {
      const aggregates = hivePreset.aggregates.map((one): AggregateMapping => {
        const up: AggregateMapping["up"] = (legacy) => {
          if (legacy.tasks?.[0]?.title === "bad") throw new MappingError("the title is bad");
          return one.up(legacy);
        };
        return { ...one, up };
      });
      const mapping = { ...hivePreset, aggregates };
      const path = await platform(`INSERT INTO tasks (id, title, task_type)
      VALUES ('mended', 'bad', 'backend'), ('gone', 'bad', 'backend'), ('relapsed', 'good', 'backend')`);
      {
        await using context = platformContext(path, { mapping });
        await migrateUp(context);
        await backfill(context);
        execute(path, "UPDATE tasks SET title = 'bad' WHERE id = 'relapsed'");
        expect((await backfill(context)).aggregates).toMatchObject({ quarantined: 3 });
      }
      execute(path, "UPDATE tasks SET title = 'good' WHERE id = 'relapsed'");
      const change = `UPDATE tasks SET title = CASE id WHEN 'mended' THEN 'good' ELSE 'bad' END; DELETE FROM tasks WHERE id = 'gone'`;
      await using context = platformContext(path, {
        mapping,
        signal: at("backfill:judged", () => execute(path, change), 1),
      });
      expect((await backfill(context)).aggregates).toEqual({ written: 1, unchanged: 0, quarantined: 1, total: 2 });
      const { entries } = await listQuarantine(context);
      expect(entries).toMatchObject([{ mapping: "tasks", key: "relapsed", reason: "the title is bad" }]);
      expect(entries).toHaveLength(1);
      expect(select(path, "SELECT id FROM unified_tasks ORDER BY id")).toEqual([{ id: "mended" }, { id: "relapsed" }]);
    });

    test("a flag that changes while it runs stops it; what it has written stays", async () => {
      const path = await platform(tasks(200));
      const signal = at(
        "tx:backfill:committed",
        async () => {
          await using other = platformContext(path);
          await changeFlags(other, [{ agent: "hive-coder", flag: "dual-write", value: "on" }]);
        },
        2,
      );
      await using context = platformContext(path, { signal });
      await migrateUp(context);
      await expect(backfill(context)).rejects.toMatchObject({ code: "GUARD_REFUSED" });
      expect(select(path, "SELECT DISTINCT state FROM hive_backfill WHERE agent = 'hive-coder'")).toEqual([
        { state: "stale" },
      ]);
      const again = await backfill(context);
      expect(again).toMatchObject({ resumed: false, aggregates: { total: 200 } });
      expect(again.aggregates.unchanged).toBeGreaterThan(0);
      expect(select(path, "SELECT DISTINCT state FROM hive_backfill")).toEqual([{ state: "finished" }]);
    });

    test("a flag that changes after the last write: a stale backfill does not become a finished one", async () => {
      const path = await platform(tasks(10));
      // Between the last write of a mapping and the note that it is finished.
      const signal = at("tx:backfill:committed", () => {
        if (select(path, "SELECT id FROM unified_tasks").length < 10) return;
        execute(
          path,
          `INSERT INTO hive_flags VALUES ('ai-planner', 'dual-write', 'on', '')
           ON CONFLICT (agent, flag) DO UPDATE SET value = excluded.value, changed_at = excluded.changed_at;
         UPDATE hive_backfill SET state = 'stale', cursor = NULL WHERE agent = 'ai-planner'`,
        );
      });
      await using context = platformContext(path, { signal });
      await migrateUp(context);
      await expect(backfill(context)).rejects.toMatchObject({ code: "GUARD_REFUSED" });
      const states = select(path, "SELECT DISTINCT state FROM hive_backfill WHERE agent = 'ai-planner'");
      expect(states).toEqual([{ state: "stale" }]);
      expect(select(path, "SELECT * FROM hive_backfill WHERE state = 'finished'")).toEqual([]);
      expect(select(path, "SELECT * FROM hive_audit WHERE action = 'backfill'")).toEqual([]);
    });

    test("an agent whose unified side leads is refused by name, and left out otherwise", async () => {
      const path = await filled(tasks(8));
      place(path, "hive-coder", "live");
      execute(path, "UPDATE unified_tasks SET status = 'completed'");
      await using context = platformContext(path);
      await expect(backfill(context, { agents: ["hive-coder"] })).rejects.toMatchObject({ code: "GUARD_REFUSED" });
      expect(await backfill(context)).toMatchObject({ aggregates: { written: 6, total: 6 } });
      expect(select(path, "SELECT id FROM unified_tasks WHERE status = 'completed'")).toEqual([
        { id: "t001" },
        { id: "t005" },
      ]);
    });

    test("an interrupted run leaves a clean state and is gone on with", async () => {
      const path = await platform(tasks(600));
      const controller = new AbortController();
      let before = 0;
      {
        const signal = at("tx:backfill:committed", () => controller.abort(), 4);
        await using context = platformContext(path, { signal });
        await migrateUp(context);
        await expect(backfill(context, { abort: controller.signal })).rejects.toMatchObject({
          code: "INTERRUPTED",
          exitCode: 130,
        });
        before = Number(select(path, "SELECT count(*) AS n FROM unified_tasks")[0]?.n);
        expect(before).toBeGreaterThan(0);
        expect(before).toBeLessThan(600);
        expect(select(path, "SELECT holder FROM hive_locks WHERE name = 'backfill'")).toEqual([{ holder: null }]);
      }
      const cursor = String(select(path, "SELECT cursor FROM hive_backfill WHERE mapping = 'tasks'")[0]?.cursor);
      expect(cursor).toMatch(/^t\d{3}$/);
      // What was dealt with is not looked at again, what comes after it is.
      execute(path, "UPDATE tasks SET title = 'changed' WHERE id IN ('t001', 't600')");
      await using context = platformContext(path);
      const result = await backfill(context);
      const rest = 600 - Number(cursor.slice(1));
      expect(result.resumed).toBe(true);
      expect(result.aggregates).toEqual({
        written: 600 - before,
        unchanged: rest - (600 - before),
        quarantined: 0,
        total: rest,
      });
      expect(await check(context)).toMatchObject({ different: 1, drift: [{ key: "t001" }] });
      expect(await backfill(context)).toMatchObject({ resumed: false, aggregates: { written: 1, total: 600 } });
    });

    test("a run of other agents, or of fewer, starts over where they did not stop together", async () => {
      const path = await platform(tasks(400));
      const controller = new AbortController();
      const signal = at("tx:backfill:committed", () => controller.abort(), 5);
      await using context = platformContext(path, { signal });
      await migrateUp(context);
      await backfill(context, { agents: ["hive-coder"], abort: controller.signal }).catch(() => undefined);
      const result = await backfill(context, { agents: ["hive-coder", "ai-reviewer"] });
      expect(result).toMatchObject({ resumed: false, aggregates: { total: 200 } });
      expect(await check(context, { agents: ["hive-coder", "ai-reviewer"] })).toMatchObject({
        identical: 200,
        consistent: true,
      });
      expect(select(path, "SELECT count(*) AS n FROM unified_tasks")).toEqual([{ n: 200 }]);
    });

    test("a dry run says what would be written and writes nothing", async () => {
      const path = await filled(tasks(40));
      execute(path, "UPDATE tasks SET priority = 9 WHERE id < 't011'; DELETE FROM hive_backfill");
      const before = tableHashes(path);
      await using context = platformContext(path);
      expect(await backfill(context, { dryRun: true })).toMatchObject({
        dryRun: true,
        aggregates: { written: 10, unchanged: 30, total: 40 },
      });
      expect(tableHashes(path)).toEqual(before);
      expect(context.store.stats.commits).toBe(0);
    });

    test("an aggregate that shrinks loses its related rows", async () => {
      const path = await filled(tasks(8));
      execute(path, "UPDATE tasks SET task_type = 'backend', workflow = NULL");
      await using context = platformContext(path);
      expect((await backfill(context)).aggregates.written).toBe(6);
      expect(unified(path)).toEqual(await fromNothing(path));
      for (const table of ["unified_workflow_tasks", "unified_review_tasks"]) {
        expect(select(path, `SELECT * FROM ${table}`)).toEqual([]);
      }
    });
  });

  describe("what cannot be moved", () => {
    const reasons = async (context: Context) =>
      Object.fromEntries(
        (await listQuarantine(context)).entries.map((one) => [`${one.mapping} ${one.key}`, one.reason]),
      );

    test("ids that another table gave first, NULL ids and binary ones", async () => {
      // PostgreSQL holds no bytes in a column of texts.
      const bytes = (some: string) => (onSqlite ? some : "");
      const path = await filled(
        `${tasks(3)}
      INSERT INTO tasks (id, title, task_type) VALUES (NULL, 'nobody', 'backend'), ${bytes("(x'0001', 'bytes', 'backend'),")}
        ('', 'empty', 'backend');
      INSERT INTO planning_queue (id, task_description) VALUES ('t001', 'same id'), ('q1', 'own'), (NULL, 'no id'), (NULL, 'nor here');
      INSERT INTO execution_plans (id, planning_task_id, plan_data) VALUES ('t002', 'q1', '{}'), ('q1', 'q1', '{}'), ('p1', 'q1', '{}');`,
        "UNIQUE",
      );
      await using context = platformContext(path);
      const found = await reasons(context);
      expect(Object.keys(found).sort()).toEqual([
        "execution_plans q1",
        "execution_plans t002",
        "planning_queue (NULL key 1)",
        "planning_queue (NULL key 2)",
        "planning_queue t001",
        "tasks (NULL key)",
        ...(onSqlite ? ["tasks (binary key 0001)"] : []),
      ]);
      expect(found["planning_queue t001"]).toMatch(/"t001" is already given by tasks/);
      const { samples } = await testMapping(context, { keys: ["t001", "q1", "p1"] });
      expect(samples.map(({ mapping, key, reason }) => [`${mapping} ${key}`, reason])).toEqual([
        ["tasks t001", null],
        ["planning_queue q1", null],
        ["planning_queue t001", found["planning_queue t001"]],
        ["execution_plans p1", null],
        ["execution_plans q1", found["execution_plans q1"]],
      ]);
      expect((await testMapping(context, { mapping: "execution_plans" })).samples).toMatchObject([
        { key: "p1", outcome: "mapped" },
        { key: "q1", outcome: "quarantined", reason: found["execution_plans q1"] },
        { key: "t002", outcome: "quarantined", reason: found["execution_plans t002"] },
      ]);
      expect(found["execution_plans q1"]).toMatch(/"q1" is already given by planning_queue/);
      expect(found["tasks (NULL key)"]).toMatch(/NULL/);
      if (onSqlite) expect(found["tasks (binary key 0001)"]).toMatch(/BLOB of 2 bytes/);
      expect(select(path, "SELECT id FROM unified_tasks ORDER BY id")).toEqual(
        ["", "p1", "q1", "t001", "t002", "t003"].map((id) => ({ id })),
      );
      expect(await check(context)).toMatchObject({
        consistent: true,
        compared: onSqlite ? 13 : 12,
        ...{ identical: 6, quarantined: onSqlite ? 7 : 6 },
      });
      expect(await check(context, { repair: true })).toMatchObject({ consistent: true, repaired: 0 });
      // Mended by hand: the next backfill, or a retry, takes them out again.
      execute(
        path,
        `UPDATE tasks SET id = 'named' WHERE id IS NULL; DELETE FROM planning_queue WHERE id IS NULL;
       ${bytes("UPDATE tasks SET id = 'bytes' WHERE id = x'0001';")} DELETE FROM planning_queue WHERE id = 't001';
       UPDATE execution_plans SET id = 'p2' WHERE id = 't002'`,
      );
      await backfill(context);
      const retried = await retryQuarantine(context);
      expect(Object.keys(await reasons(context))).toEqual(["execution_plans q1"]);
      expect(retried.entries.map((one) => one.key)).toEqual(["q1"]);
      expect(await check(context)).toMatchObject({ consistent: true, identical: onSqlite ? 9 : 8, quarantined: 1 });
    });

    test("a retry takes out what was mended, counts what was not, and leaves the rest of the row's neighbours alone", async () => {
      const path = await filled(`${tasks(3)}
      INSERT INTO planning_queue (id, task_description) VALUES ('t001', 'a'), ('t002', 'b'), ('t003', 'c');`);
      await using context = platformContext(path);
      execute(
        path,
        "DELETE FROM tasks WHERE id IN ('t001', 't002'); UPDATE tasks SET title = 'late' WHERE id = 't003'",
      );
      const result = await retryQuarantine(context, { keys: ["t001", "t003"], reason: "again" });
      expect(result).toMatchObject({ retried: 2, released: 1, entries: [{ key: "t003", attempts: 2 }] });
      expect(
        select(
          path,
          `SELECT task_type, ${dialect.at("input_data", "description")} AS d FROM unified_tasks WHERE id = 't001'`,
        ),
      ).toEqual([{ task_type: "plan", d: "a" }]);
      expect(select(path, `SELECT ${titleOf} AS t FROM unified_tasks WHERE id = 't003'`)).toEqual([{ t: "Task 3" }]);
      expect((await listQuarantine(context)).entries.map((one) => one.key).sort()).toEqual(["t002", "t003"]);
    });

    const customers = (change: Partial<AggregateMapping>): PlatformMapping => {
      const [first, ...rest] = shopMapping.aggregates;
      if (!first) throw new Error("the shop has no customers");
      return { ...shopMapping, aggregates: [{ ...first, ...change }, ...rest] };
    };
    const [shopCustomers] = shopMapping.aggregates;
    const open = (shop: Shop, change: Partial<AggregateMapping>) => {
      const mapping = customers(change);
      return shop.open({ mapping: { ...mapping, migrations: join(shop.directory, "migrations") } });
    };

    test("a row of an agent that the mapping does not list", async () => {
      await using shop = await openShop({ backend });
      await using context = open(shop, { agent: (legacy) => (legacy.customers?.[0]?.id === "c2" ? "ghost" : "sales") });
      expect((await backfill(context)).aggregates).toEqual({ written: 2, unchanged: 0, quarantined: 1, total: 3 });
      expect((await listQuarantine(context)).entries).toMatchObject([
        { key: "c2", agent: "ghost", reason: expect.stringMatching(/"ghost", which the mapping does not list/) },
      ]);
      // Asked about one agent only, it is nobody's.
      expect((await backfill(context, { agents: ["sales"] })).aggregates.quarantined).toBe(0);
      expect(await check(context)).toMatchObject({ quarantined: 1, identical: 2, consistent: true });
    });

    test.each([
      [
        "throws a TypeError",
        (): never => (null as never as { x: { y: never } }).x.y,
        /mapping "customers" failed on it: TypeError/,
      ],
      ["gives no row", () => ({ parties: [] }), /gave no row for parties/],
      ["gives another key", () => ({ parties: [{ id: "c9" }] }), /changed its key to c9/],
      [
        "throws a number",
        (): never => {
          throw 7;
        },
        /failed on it: 7/,
      ],
    ])("a mapping that %s on one row", async (_, wrong, reason) => {
      await using shop = await openShop({ backend });
      const up: AggregateMapping["up"] = (legacy) =>
        legacy.customers?.[0]?.id === "c2" ? wrong() : (shopCustomers?.up(legacy) ?? {});
      {
        await using context = open(shop, { up });
        expect((await backfill(context)).aggregates).toEqual({ written: 2, unchanged: 0, quarantined: 1, total: 3 });
        expect((await listQuarantine(context)).entries).toMatchObject([
          { key: "c2", reason: expect.stringMatching(reason) },
        ]);
        expect(await check(context)).toMatchObject({ quarantined: 1, identical: 2 });
      }
      // The mapping was mended.
      expect(await retryQuarantine(shop.context)).toMatchObject({ retried: 1, released: 1, entries: [] });
      expect(await check(shop.context)).toMatchObject({ quarantined: 0, identical: 3 });
    });

    test("rows that the database refuses stand in quarantine alone; their neighbours are written", async () => {
      await using shop = await openShop({ backend });
      shop.sql(`INSERT INTO customers
      WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) SELECT 'k' || substr(CAST(1000 + i AS text), 2), CASE WHEN i IN (1, 77, 78, 200) THEN 'bad' ELSE 'good' END, 'sales' FROM n;
      ${dialect.refuse("parties", "INSERT", "new.name = 'bad'", "no bad ones")};`);
      expect((await backfill(shop.context)).aggregates).toEqual({
        written: 199,
        unchanged: 0,
        quarantined: 4,
        total: 203,
      });
      const { entries } = await listQuarantine(shop.context);
      expect(entries.map((one) => one.key)).toEqual(["k001", "k077", "k078", "k200"]);
      expect(entries[0]?.reason).toMatch(/the database refuses the unified row: .*no bad ones/);
      expect(await check(shop.context)).toMatchObject({ quarantined: 4, identical: 199, consistent: true });
      shop.sql(`${dialect.accept("parties")}; ${dialect.refuse("parties", "INSERT", "new.id = 'k077'", "not this")};`);
      const retried = await retryQuarantine(shop.context);
      expect(retried).toMatchObject({ retried: 4, released: 3, entries: [{ key: "k077", attempts: 2 }] });
      expect(retried.entries[0]?.reason).toMatch(/not this/);
      shop.sql(dialect.accept("parties"));
      shop.sql("DELETE FROM hive_quarantine");
      expect(await check(shop.context, { repair: true })).toMatchObject({ missing: 1, repaired: 1, consistent: true });
    });

    test("a repair that the database refuses says so, and stays drift", async () => {
      await using shop = await openShop({ backend });
      await backfill(shop.context);
      shop.sql(
        `UPDATE parties SET name = 'x'; ${dialect.refuse("parties", "UPDATE", "new.id = 'c1'", "not that one")};`,
      );
      const result = await check(shop.context, { repair: true });
      expect(result).toMatchObject({
        ...{ different: 2, repaired: 1, consistent: false },
        unrepaired: [{ key: "c1", reason: expect.stringMatching(/not that one/) }],
      });
      expect(shop.all("SELECT id, name FROM parties ORDER BY id")).toEqual([
        { id: "c1", name: "x" },
        { id: "c2", name: "Bob" },
      ]);
      expect(shop.all("SELECT sum(different) AS n FROM hive_checks")).toEqual([{ n: 2 }]);
    });
  });

  describe("what the legacy tables cannot hold", () => {
    test("is kept whole on the way down, once, and named", async () => {
      const path = await filled(tasks(8));
      place(path, ["ai-reviewer", "hive-coder"], "complete");
      await capture(path);
      execute(
        path,
        `UPDATE unified_review_tasks SET review_result = '{"verdict": 9007199254740993}' WHERE task_id = 't002';
       UPDATE unified_tasks SET output_data = '[1]', status = 'completed' WHERE id = 't001'`,
      );
      await using context = platformContext(path);
      expect(await rollback(context, { dryRun: true })).toMatchObject({ dryRun: true, projectedDown: 1 });
      expect(select(path, "SELECT * FROM hive_kept")).toEqual([]);
      expect(await rollback(context)).toMatchObject({ projectedDown: 1, kept: 2, quarantined: 0 });
      const kept = select(path, "SELECT key, side, reason, aggregate FROM hive_kept ORDER BY key");
      expect(kept).toMatchObject([
        { key: "t001", side: "unified", reason: expect.stringMatching(/cannot hold unified_tasks\.output_data/) },
        { key: "t002", side: "unified", reason: expect.stringMatching(/unified_review_tasks\.review_result/) },
      ]);
      expect(JSON.parse(String(kept[1]?.aggregate)).unified_review_tasks[0].review_result).toBe(
        '{"verdict": 9007199254740993}',
      );
      expect(select(path, "SELECT status FROM tasks WHERE id = 't001'")).toEqual([{ status: "completed" }]);
    });

    test("an aggregate that cannot go down is quarantined with its reason; the others go", async () => {
      const path = await filled(tasks(8));
      place(path, ["ai-reviewer", "hive-coder"], "live");
      execute(
        path,
        `UPDATE unified_tasks SET status = 'completed';
       ${onSqlite ? "UPDATE unified_tasks SET input_data = '{' WHERE id = 't002'" : dialect.refuse("tasks", "UPDATE", "NEW.id = 't002'", "not this one")}`,
      );
      await using context = platformContext(path);
      expect(await rollback(context)).toMatchObject({ projectedDown: 3, quarantined: 1 });
      expect((await listQuarantine(context)).entries).toMatchObject([
        {
          key: "t002",
          direction: "down",
          agent: "ai-reviewer",
          reason: expect.stringMatching(onSqlite ? /input_data .* is not JSON/ : /not this one/),
        },
      ]);
      expect(select(path, "SELECT id, status FROM tasks WHERE id IN ('t001', 't002', 't004') ORDER BY id")).toEqual([
        { id: "t001", status: "completed" },
        { id: "t002", status: "queued" },
        { id: "t004", status: "queued" },
      ]);
    });
  });

  describe("memory", () => {
    const DIST = resolve(process.env.HIVE_TEST_DIST ?? fileURLToPath(new URL("../../dist", import.meta.url)));
    const CHILD = fileURLToPath(new URL("../fault/child.mjs", import.meta.url));

    const run = (path: string, action: string, heap: number) =>
      new Promise<void>((done, fail) => {
        const request = JSON.stringify({ path, action });
        execFile(process.execPath, [`--max-old-space-size=${heap}`, CHILD, DIST, request], (error, _, stderr) => {
          if (error) fail(new Error(`${action}: ${error.message}\n${stderr.slice(0, 2_000)}`));
          else done();
        });
      });

    // A server takes longer for as many.
    const count = onSqlite ? 20_000 : 4_000;
    test(`does not grow with the rows: ${count} with 60 MB of text in a heap of 48 MB`, {
      timeout: 120_000,
    }, async () => {
      const path = await platform(`INSERT INTO tasks (id, title, task_type, payload)
      WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${count})
      SELECT 't' || i, 'Task', 'backend', '{"text": "' || ${onSqlite ? "hex(randomblob(1500))" : "repeat(md5(CAST(i AS text)), 470)"} || '"}' FROM n;`);
      {
        await using context = platformContext(path);
        await migrateUp(context);
      }
      await run(path, "backfill", 48);
      await run(path, "check", 48);
      const number = onSqlite ? "rowid" : "CAST(substr(id, 2) AS integer)";
      execute(
        path,
        `UPDATE unified_tasks SET priority = 7 WHERE ${number} % 2 = 0; DELETE FROM unified_tasks WHERE ${number} % 3 = 0`,
      );
      await run(path, "repair", 48);
      await using context = platformContext(path);
      expect(await check(context)).toMatchObject({ consistent: true, identical: count });
    });

    // Takes minutes of a server; the portions are the same there.
    test.runIf(onSqlite)(
      "SQLite only: nor with their length: 120 of 1 MiB after 2,000 short ones in a heap of 96 MB",
      {
        timeout: 240_000,
      },
      async () => {
        const path = await platform(`INSERT INTO tasks (id, title, task_type, payload)
      WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2120)
      SELECT printf('t%04d', i), 'Task', 'backend',
        '{"text": "' || CASE WHEN i > 2000 THEN hex(zeroblob(524288)) ELSE '' END || '"}' FROM n;`);
        {
          await using context = platformContext(path);
          await migrateUp(context);
        }
        await run(path, "backfill", 96);
        await run(path, "check", 96);
        execute(
          path,
          "UPDATE unified_tasks SET priority = 7 WHERE rowid % 2 = 0; DELETE FROM unified_tasks WHERE rowid % 3 = 0",
        );
        await run(path, "repair", 96);
        // Only the unified side has them now: found by their keys, which tell nothing of their length.
        execute(path, "CREATE TABLE away AS SELECT * FROM tasks; DELETE FROM tasks");
        await run(path, "check", 96);
        place(path, "hive-coder", "live");
        await capture(path);
        await run(path, "rollback", 96);
        expect(
          select(path, "SELECT count(*) AS n FROM tasks JOIN away USING (id) WHERE tasks.payload = away.payload"),
        ).toEqual([{ n: 2120 }]);
      },
    );

    test.runIf(onSqlite)(
      "SQLite only: nor with the rows that belong to one: short tasks with long runs",
      { timeout: 120_000 },
      async () => {
        const path = await platform(`INSERT INTO tasks (id, title, task_type)
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1700)
        SELECT printf('t%04d', i), 'Task', 'backend' FROM n;
      INSERT INTO runs (id, task_id, worker_id, run_number, result_data)
        SELECT 'r' || id, id, 'w', 1, '{"text": "' || hex(zeroblob(524288)) || '"}' FROM tasks WHERE id > 't1500';`);
        {
          await using context = platformContext(path);
          await migrateUp(context);
        }
        await run(path, "backfill", 96);
        await run(path, "check", 96);
        await using context = platformContext(path);
        expect(await backfill(context)).toMatchObject({ aggregates: { written: 0, unchanged: 1_700 } });
      },
    );
  });
});
