import { describe, expect, test } from "vitest";
import { changeFlags } from "../../src/flags/flags.ts";
import { rollback } from "../../src/rollout/rollback.ts";
import { migrateDown, migrateUp } from "../../src/schema/migrator.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { check } from "../../src/sync/check.ts";
import { sync } from "../../src/sync/sync.ts";
import { BACKENDS } from "../support/backends.ts";
import { advance, execute, platformContext, select } from "../support/legacy-platform.ts";

const AGENT = "hive-coder";
const tasks = (count: number) =>
  `INSERT INTO tasks (id, title, task_type) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${count})
   SELECT 't' || substr(CAST(10000 + i AS text), 2), 'a title', 'backend' FROM n;`;

/** What each stage asks for before it can be entered. */
const prepare = (context: ReturnType<typeof platformContext>) => async (stage: string) => {
  if (stage === "shadow") await backfill(context, { agents: [AGENT] });
  if (stage === "live") await check(context, { agents: [AGENT] });
};

describe.each(BACKENDS)("on $name", (backend) => {
  const onSqlite = backend.name === "sqlite";

  /** The platform with so many tasks. On PostgreSQL hive's tables are there already. */
  async function platform(count: number): Promise<string> {
    const make = async (path: string) => {
      if (onSqlite) return;
      await using context = platformContext(path);
      await migrateUp(context);
    };
    const prepare = { name: `hard-cases: ${count} tasks`, make };
    return (await backend.create({ legacy: "text", rows: tasks(count), prepare })).url;
  }

  // On PostgreSQL a mark is a setting, which ends with the transaction.
  describe.runIf(onSqlite)("SQLite only: a mark of hive's own that was left behind", () => {
    test("is noticed although hive itself writes before anybody looks, and what went unseen is found", async () => {
      const path = await platform(3);
      await using context = platformContext(path);
      await migrateUp(context);
      await advance(context, [AGENT], "dualwrite");
      await backfill(context);
      execute(path, "UPDATE tasks SET title = 'seen' WHERE id = 't0001'; INSERT INTO hive_applying VALUES (1)");
      execute(path, "UPDATE tasks SET title = 'unseen' WHERE id = 't0002'");
      await changeFlags(context, [{ agent: "qa-agent", flag: "dual-write", value: "on" }]);
      await sync(context);
      expect(select(path, "SELECT count(*) AS n FROM hive_applying")).toEqual([{ n: 0 }]);
      expect(await check(context)).toMatchObject({ consistent: true, different: 0, inFlight: 0, identical: 3 });
    });
  });

  describe("a table that an agent has made anew", () => {
    test("keeps a repair from undoing what no trigger noted, until a sync has looked", async () => {
      const path = await platform(3);
      await using context = platformContext(path);
      await migrateUp(context);
      await advance(context, [AGENT], "live", prepare(context));
      const remade = onSqlite
        ? String(select(path, "SELECT sql FROM sqlite_schema WHERE name = 'tasks'")[0]?.sql).replace("tasks", "remade")
        : "CREATE TABLE remade (LIKE tasks INCLUDING ALL)";
      execute(
        path,
        `${remade}; INSERT INTO remade SELECT * FROM tasks WHERE id <> 't0002';
       DROP TABLE tasks; ALTER TABLE remade RENAME TO tasks`,
      );
      await expect(check(context, { repair: true })).rejects.toMatchObject({
        code: "GUARD_REFUSED",
        details: { tables: ["tasks"] },
      });
      await sync(context);
      expect(await check(context, { repair: true })).toMatchObject({ consistent: true, repaired: 0, compared: 2 });
      expect(select(path, "SELECT id FROM tasks ORDER BY id")).toEqual([{ id: "t0001" }, { id: "t0003" }]);
    });
  });

  describe("a rollback that was killed", () => {
    test("between the flip and what makes both sides equal again is finished by the next", async () => {
      const path = await platform(3);
      {
        await using context = platformContext(path);
        await migrateUp(context);
        await advance(context, [AGENT], "live", prepare(context));
        execute(path, 'UPDATE unified_tasks SET output_data = \'{"only":"above"}\'');
        await sync(context);
      }
      {
        const signal = (point: string) => {
          if (point === "tx:rollback:committed") throw new Error("killed");
        };
        await using victim = platformContext(path, { signal });
        await expect(rollback(victim, { agents: [AGENT], to: "shadow" })).rejects.toThrow("killed");
      }
      await using context = platformContext(path);
      expect(await check(context)).toMatchObject({ different: 3 });
      expect(await rollback(context, { agents: [AGENT], to: "shadow" })).toMatchObject({ steps: [], stage: "shadow" });
      expect(await check(context)).toMatchObject({ consistent: true, different: 0, identical: 3 });
      expect(select(path, "SELECT count(*) AS n FROM hive_kept")).toEqual([{ n: 3 }]);
      // Nothing is left to be finished.
      expect(await rollback(context, { agents: [AGENT], to: "shadow" })).toMatchObject({ steps: [] });
    });
  });

  describe("an aggregate that is never at rest", () => {
    test("does not keep a sync from ending", async () => {
      const path = await platform(20);
      let writes = 0;
      // Between the look and the transaction, every time.
      const signal = (point: string) => {
        if (point !== "sync:judged" || writes >= 200) return;
        writes += 1;
        execute(path, `UPDATE tasks SET title = 'write ${writes}' WHERE id = 't0001'`);
      };
      await using context = platformContext(path, { signal });
      await migrateUp(context);
      await advance(context, [AGENT], "dualwrite");
      await backfill(context);
      execute(path, "UPDATE tasks SET title = 'before'");
      await sync(context);
      expect(writes).toBeLessThan(20);
      expect(
        select(
          path,
          `SELECT count(*) AS n FROM unified_tasks WHERE ${backend.dialect.at("input_data", "title")} = 'before'`,
        ),
      ).toEqual([{ n: 19 }]);
      writes = 200;
      await sync(context);
      expect(await check(context)).toMatchObject({ consistent: true, inFlight: 0, identical: 20 });
    });
  });

  describe("beside a backfill that has read its page", () => {
    const cases: readonly [string, boolean][] = [
      ["and nobody has synced", false],
      ["and a sync has carried it over", true],
    ];
    test.each(cases)("a delete is not revived, and nothing older written over: %s", async (_, synced) => {
      const path = await platform(5);
      await using other = platformContext(path);
      await migrateUp(other);
      await advance(other, [AGENT], "dualwrite");
      let judged = 0;
      const signal = async (point: string) => {
        if (point !== "backfill:judged" || judged++ > 0) return;
        execute(path, "DELETE FROM tasks WHERE id = 't0002'; UPDATE tasks SET title = 'newer' WHERE id = 't0003'");
        if (synced) await sync(other);
      };
      await using context = platformContext(path, { signal });
      await backfill(context, { agents: [AGENT] });
      expect(judged).toBeGreaterThan(0);
      const ids = select(path, "SELECT id FROM unified_tasks ORDER BY id").map(({ id }) => id);
      expect(ids).toEqual(["t0001", "t0003", "t0004", "t0005"]);
      const [row] = select(path, "SELECT input_data FROM unified_tasks WHERE id = 't0003'");
      expect(String(row?.input_data)).toContain("newer");
      await sync(context);
      expect(await check(context)).toMatchObject({ consistent: true, inFlight: 0, identical: 4 });
    });
  });

  test("triggers go before the tables that they write to, whatever the flags say", async () => {
    const path = await platform(1);
    await using context = platformContext(path);
    await migrateUp(context);
    await advance(context, [AGENT], "dualwrite");
    execute(path, "DELETE FROM hive_flags");
    await migrateDown(context, { to: "0" });
    execute(path, "UPDATE tasks SET title = 'still works'");
    expect(select(path, backend.dialect.triggers)).toEqual([]);
  });
});
