import { describe, expect, test } from "vitest";
import { verifyAudit } from "../../src/rollout/audit.ts";
import { sync } from "../../src/sync/sync.ts";
import { BACKENDS } from "../support/backends.ts";
import { integrity, select } from "../support/legacy-platform.ts";
import {
  DIST,
  expectClean,
  expectKept,
  expectProjected,
  isBuilt,
  platformAt,
  startAgents,
  startHive,
} from "../support/live.ts";

/**
 * Going back while agents write on both sides: some only know the legacy schema, some read the flags in the transaction
 * in which they write, and write the side that leads.
 */

const OWNERS = ["ai-reviewer", "ai-planner", "ai-deployer", "hive-coder"];
const LOCK_BUDGET = 0.5;

const stages = (path: string) =>
  select(path, "SELECT DISTINCT flag || '=' || value AS one FROM hive_flags WHERE flag IN ('dual-write', 'reads')")
    .map(({ one }) => String(one))
    .sort();
const count = (path: string, text: string) => Number(select(path, `SELECT count(*) AS n FROM ${text}`)[0]?.n);

test("the built hive is there", () => {
  expect(isBuilt(), `${DIST} is not built: npm run build`).toBe(true);
});

describe.each(BACKENDS)("hive rollback on $name while agents write", (backend) => {
  const onSqlite = backend.name === "sqlite";

  test.each([
    ["dualwrite", "off"],
    ["shadow", "off"],
    ["live", "off"],
    ["rampdown", "off"],
    ["complete", "off"],
    ["live", "shadow"],
    ["complete", "dualwrite"],
    ["complete", "shadow"],
    ["complete", "live"],
  ] as const)(
    "from %s to %s: every acknowledged write is on the legacy side",
    { timeout: 120_000 },
    async (from, to) => {
      const { path, context } = await platformAt(from, {
        ...{ backend, tables: onSqlite ? "text" : "natural", tasks: 30 },
        dirt: true,
        agents: OWNERS,
        settings: { lockBudget: LOCK_BUDGET },
      });
      await using _ = context;
      const leads = from === "live" || from === "rampdown" || from === "complete";
      // On PostgreSQL they all work in this process.
      const processes = await Promise.all(
        (onSqlite ? [0, 1] : [0]).map((i) =>
          startAgents(path, [
            { name: `plain${i}`, seed: i, everyMs: 30, keys: 24 },
            { name: `led${i}`, seed: 10 + i, everyMs: 30, keys: 24, led: true },
          ]),
        ),
      );
      // Something of each kind is there, whatever becomes of it, before anyone goes back.
      await expect
        .poll(() => count(path, `${leads ? "unified_tasks" : "tasks"} WHERE id LIKE 'w-led%'`))
        .toBeGreaterThan(8);
      await sync(context);
      const behind = count(path, "hive_behind");
      if (from === "complete") expect(behind).toBeGreaterThan(0);
      await expect.poll(() => count(path, "tasks WHERE id LIKE 'w-plain%'")).toBeGreaterThan(8);

      const hive = startHive({ path, action: "rollback", options: { to }, budget: LOCK_BUDGET });
      const { result } = await hive.next("done");
      expect(result).toMatchObject({ stage: to });
      if (to === "off")
        expect(stages(path).filter((one) => !["dual-write=off", "reads=legacy"].includes(one))).toEqual([]);
      // They go on as if nothing had happened.
      const before = count(path, "tasks WHERE title LIKE 'v%'");
      expect(before).toBeGreaterThan(0);
      await sync(context);

      const written = (await Promise.all(processes.map((agents) => agents.stop()))).flat();
      await sync(context);
      expectKept(path, "legacy", written);
      if (onSqlite) expect(integrity(path)).toBe("ok");
      expect(await verifyAudit(context.store.read)).toMatchObject({ ok: true });
      const [, led] = written;
      if (leads) expect(led?.sides.unified).toBeGreaterThan(0);
      if (to === "off") {
        expect(select(path, backend.dialect.triggers)).toEqual([]);
        expect(count(path, "hive_changes WHERE side NOTNULL") + count(path, "hive_behind")).toBe(0);
        return;
      }
      expectKept(path, "unified", written);
      await expectClean(context);
      if (to !== "live") await expectProjected(path);
    },
  );
});
