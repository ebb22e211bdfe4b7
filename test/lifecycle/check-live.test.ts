import { setImmediate as nextTurn } from "node:timers/promises";
import Database from "better-sqlite3";
import pg from "pg";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import type { Clock, Signal } from "../../src/clock.ts";
import type { Context } from "../../src/context.ts";
import { changeFlags } from "../../src/flags/flags.ts";
import { hivePreset } from "../../src/presets/hive/index.ts";
import * as schemas from "../../src/results.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { adjustCapture, NO_SIDES } from "../../src/sync/capture.ts";
import { MOST_WRITTEN, pruneWritten } from "../../src/sync/changes.ts";
import { check, comparer } from "../../src/sync/check.ts";
import { Pace } from "../../src/sync/pace.ts";
import { sync } from "../../src/sync/sync.ts";
import type { CheckEvent } from "../../src/sync/watch-check.ts";
import { BACKENDS, type Place } from "../support/backends.ts";
import { hiveInProcess } from "../support/cli.ts";
import { hastyClock, platformContext } from "../support/legacy-platform.ts";
import { openShop, type Shop } from "../support/shop.ts";
import { smallPlatformOn } from "../support/small-platform.ts";

const EVERYONE = hivePreset.agents.map(({ name }) => name);

const tasks = (count: number) => `
  INSERT INTO tasks (id, title, task_type, status, payload)
  WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${count})
  SELECT 't' || substr(CAST(10000 + i AS text), 2), 'Task ' || i, CASE i % 2 WHEN 0 THEN 'review' ELSE 'backend' END, 'queued', '{}' FROM n;`;

describe.each(BACKENDS)("on $name", (backend) => {
  const { name, dialect } = backend;
  const onSqlite = name === "sqlite";

  /** With dual-write on for these agents, backfilled, nothing waiting, and found free of drift. */
  async function dualWriting(count: number, agents: readonly string[] = EVERYONE): Promise<Place> {
    const make = async (path: string) => {
      await using context = platformContext(path);
      await migrateUp(context);
      await changeFlags(
        context,
        agents.map((agent) => ({ agent, flag: "dual-write", value: "on" })),
      );
      await backfill(context);
      await sync(context);
      expect(await check(context)).toMatchObject({ consistent: true, inFlight: 0, recorded: true });
    };
    const prepare = { name: `check-live: ${count} tasks of ${agents}`, make };
    return backend.create({ legacy: "text", rows: tasks(count), prepare });
  }

  /** A connection of an agent's own. It does not keep this process from working where it waits. */
  async function agentOn({ url }: Place): Promise<(text: string) => Promise<unknown>> {
    if (onSqlite) {
      const db = new Database(url);
      onTestFinished(() => void db.close());
      return async (text) => db.exec(text);
    }
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    onTestFinished(() => client.end());
    return (text) => client.query(text);
  }

  const found = ({ drift }: { drift: readonly { key: string; kind: string }[] }) =>
    drift.map(({ key, kind }) => [key, kind]).sort();

  describe("in flight and drift", () => {
    test("are told apart in one check, exactly", async () => {
      const { url: path, execute, select } = await dualWriting(300);
      execute(
        `UPDATE tasks SET title = 'other' WHERE id <= 't0003';
       DELETE FROM tasks WHERE id = 't0007';
       INSERT INTO tasks (id, title, task_type, payload) VALUES ('new', 'new', 'backend', '{}');
       UPDATE tasks SET title = title WHERE id = 't0011';
       UPDATE unified_tasks SET status = 'running' WHERE id IN ('t0001', 't0005');
       DELETE FROM unified_tasks WHERE id IN ('t0002', 't0009');
       INSERT INTO unified_tasks SELECT 'extra', correlation_id, task_type, status, agent_type, priority, input_data,
         output_data, NULL, created_at, updated_at, NULL, NULL, NULL, NULL, NULL FROM unified_tasks WHERE id = 't0004';
       DELETE FROM unified_tasks WHERE id = 't0012'`,
      );
      execute(
        "INSERT INTO unified_review_tasks (task_id, correlation_id, code_path, created_at) VALUES ('gone', 'c', '', '2026-01-01 00:00:00Z')",
      );
      await using context = platformContext(path);
      const first = await check(context);
      schemas.check.parse(first);
      // t0001 to t0003 (and the review of t0002, whose root is gone), t0007 and the new one wait; t0011 is the same.
      expect(first).toMatchObject({
        consistent: false,
        inFlight: 6,
        different: 1,
        missing: 2,
        extra: 3,
        quarantined: 0,
      });
      const drift = [
        ["extra", "extra"],
        ["gone", "extra"],
        ["t0005", "different"],
        ["t0009", "missing"],
        ["t0012", "extra"],
        ["t0012", "missing"],
      ];
      expect(found(first)).toEqual(drift);
      expect(select("SELECT sum(in_flight) AS n FROM hive_checks")).toEqual([{ n: 5 }]);

      expect(await check(context, { keys: ["t0002"] })).toMatchObject({
        ...{ consistent: true, compared: 1, inFlight: 1, missing: 0, drift: [] },
        note: '"t0002" differs and awaits sync, which is no drift',
      });
      expect(await check(context, { keys: ["t0005"] })).toMatchObject({ consistent: false, inFlight: 0, note: null });

      const repaired = await check(context, { repair: true });
      expect(repaired).toMatchObject({ consistent: true, inFlight: 6, unrepaired: [] });
      expect(select("SELECT status FROM unified_tasks WHERE id = 't0001'")).toEqual([{ status: "running" }]);
      await sync(context);
      expect(await check(context)).toMatchObject({ consistent: true, inFlight: 0, compared: 300, identical: 300 });
    });

    test("the other thread tells them apart in its own view", async () => {
      const { url: path, execute } = await dualWriting(20);
      execute("UPDATE tasks SET title = 'other' WHERE id = 't0019'; DELETE FROM unified_tasks WHERE id = 't0020'");
      await using context = platformContext(path);
      const view = await comparer(context, EVERYONE);
      await view.open();
      const { counts, drift } = await view.compare("tasks", "t0010");
      const sum = (what: "compared" | "inFlight" | "missing") =>
        [...counts.values()].reduce((n, one) => n + one[what], 0);
      expect([sum("compared"), sum("inFlight"), sum("missing")]).toEqual([10, 1, 1]);
      expect(drift.map(({ key }) => key)).toEqual(["t0020"]);
    });

    test("what nobody carries over is drift: changes of an agent that is off", async () => {
      const { url: path, execute } = await dualWriting(20, ["ai-reviewer"]);
      execute("UPDATE tasks SET title = 'other' WHERE id IN ('t0001', 't0002')");
      await using context = platformContext(path);
      expect(await check(context, { agents: EVERYONE })).toMatchObject({
        consistent: false,
        inFlight: 1,
        different: 1,
      });
      expect(found(await check(context, { agents: ["hive-coder"] }))).toEqual([["t0001", "different"]]);
    });

    test("where the unified side leads, its changes are in flight; at complete for as long as they stay behind", async () => {
      await using shop = await openShop({ backend });
      await backfill(shop.context);
      shop.place("sales", "live");
      await shop.context.store.transaction("test", (tx) => adjustCapture(tx, shop.context, NO_SIDES));
      shop.sql("UPDATE parties SET name = 'Eve' WHERE id = 'c1'; INSERT INTO parties VALUES ('c9', 'New', 'sales')");
      expect(await check(shop.context)).toMatchObject({ consistent: true, compared: 2, inFlight: 2 });
      await sync(shop.context);
      expect(await check(shop.context)).toMatchObject({ consistent: true, identical: 2, inFlight: 0 });

      shop.place("sales", "complete");
      shop.sql("UPDATE parties SET name = 'Zoe' WHERE id = 'c1'");
      expect(await check(shop.context, { agents: ["sales"] })).toMatchObject({ consistent: true, inFlight: 1 });
      await sync(shop.context);
      expect(shop.all("SELECT count(*) AS n FROM hive_changes WHERE side IS NOT NULL")).toEqual([{ n: 0 }]);
      expect(await check(shop.context, { agents: ["sales"] })).toMatchObject({
        consistent: true,
        inFlight: 1,
        drift: [],
      });
      shop.sql("DELETE FROM hive_behind");
      expect(await check(shop.context, { agents: ["sales"] })).toMatchObject({ consistent: false, different: 1 });
    });

    test("a repair leaves what was written meanwhile to sync, and does not call it drift", async () => {
      const { url: path, execute, select } = await dualWriting(20);
      execute("DELETE FROM unified_tasks WHERE id IN ('t0001', 't0003')");
      let done = false;
      const signal: Signal = (point) => {
        if (point !== "check:judged" || done) return;
        done = true;
        execute("UPDATE tasks SET title = 'newer' WHERE id = 't0001'");
      };
      await using context = platformContext(path, { signal });
      const result = await check(context, { repair: true });
      expect(result).toMatchObject({ consistent: true, missing: 1, inFlight: 1, repaired: 1, unrepaired: [] });
      expect(found(result)).toEqual([["t0003", "missing"]]);
      expect(select("SELECT count(*) AS n FROM unified_tasks WHERE id = 't0001'")).toEqual([{ n: 0 }]);
      await sync(context);
      expect(await check(context)).toMatchObject({ consistent: true, inFlight: 0, identical: 20 });
    });

    test("no check is misled while agents write and a sync works", async () => {
      const place = await dualWriting(200);
      const path = place.url;
      await using syncing = platformContext(path);
      await using checking = platformContext(path);
      const ended = new AbortController();
      const run = await agentOn(place);
      let writes = 0;
      const writing = (async () => {
        while (!ended.signal.aborted) {
          const key = `t${String((writes % 200) + 1).padStart(4, "0")}`;
          const row = `INTO tasks (id, title, task_type, payload) VALUES ('${key}', 'title ${writes}', 'backend', '{}')`;
          if (writes % 7 === 6) await run(`DELETE FROM tasks WHERE id = '${key}'`);
          else if (onSqlite) await run(`INSERT OR REPLACE ${row}`);
          else await run(`INSERT ${row} ON CONFLICT (id) DO UPDATE SET title = excluded.title, task_type = 'backend'`);
          writes += 1;
          await nextTurn();
        }
      })();
      const watching = sync(syncing, { watch: true, abort: ended.signal });
      let inFlight = 0;
      for (let i = 0; i < (onSqlite ? 30 : 10); i++) {
        const result = await check(checking);
        expect(found(result)).toEqual([]);
        inFlight += result.inFlight;
      }
      ended.abort();
      await Promise.all([writing, watching]);
      expect(inFlight).toBeGreaterThan(0);
      await sync(checking);
      expect(await check(checking)).toMatchObject({ consistent: true, inFlight: 0 });
    });
  });

  describe("check --changed", () => {
    test("looks at what was written, and at nothing else", async () => {
      const { url: path, execute, select, settled } = await dualWriting(1_500);
      await using context = platformContext(path);
      const [full] = select("SELECT at FROM hive_checks LIMIT 1");
      execute("UPDATE tasks SET title = 'other' WHERE id <= 't1000'");
      await sync(context);
      execute("UPDATE unified_tasks SET status = 'running' WHERE id IN ('t0500', 't1400')");
      await settled();
      const first = await check(context, { changed: true });
      schemas.check.parse(first);
      expect(first).toMatchObject({
        ...{ consistent: false, compared: 1_000, identical: 999, different: 1, since: full?.at, recorded: false },
        unrecorded: expect.stringMatching(/since the last full check/),
      });
      expect(found(first)).toEqual([["t0500", "different"]]);
      // It goes on from the same point until what was found is mended.
      expect(await check(context, { changed: true, repair: true })).toMatchObject({ compared: 1_000, repaired: 1 });
      await settled();
      expect(await check(context, { changed: true })).toMatchObject({ consistent: true, compared: 1 });
      expect(select("SELECT count(*) AS n FROM hive_written")).toEqual([{ n: 1 }]);
      expect(await check(context, { changed: true })).toMatchObject({ consistent: true, compared: 0, since: full?.at });
      // What waits is looked at too, and stays in flight.
      execute("UPDATE tasks SET title = 'waits' WHERE id = 't1200'; DELETE FROM tasks WHERE id = 't1201'");
      expect(await check(context, { changed: true })).toMatchObject({ consistent: true, compared: 2, inFlight: 2 });
      expect(select("SELECT DISTINCT at FROM hive_checks")).toEqual([{ at: full?.at }]);
      // What nobody noted is for a full check; after it, there is nothing to go on from.
      expect(found(await check(context))).toEqual([["t1400", "different"]]);
      await expect(check(context, { changed: true })).rejects.toMatchObject({ code: "GUARD_REFUSED" });
    });

    test("sees deletions on the unified side, and what is left of them", async () => {
      await using shop = await openShop({ backend });
      await backfill(shop.context);
      for (const agent of ["sales", "support", "auditor"]) shop.place(agent, "live");
      await shop.context.store.transaction("test", (tx) => adjustCapture(tx, shop.context, NO_SIDES));
      shop.clock.minutes(1);
      expect(await check(shop.context)).toMatchObject({ consistent: true });
      shop.sql("DELETE FROM parties WHERE id = 'c1'");
      expect(await check(shop.context, { changed: true })).toMatchObject({
        consistent: true,
        compared: 2,
        inFlight: 2,
      });
      await sync(shop.context);
      expect(shop.all("SELECT id FROM customers")).toEqual([{ id: "c2" }]);
      shop.sql("DELETE FROM hive_changes WHERE side IS NOT NULL");
      shop.sql(
        "INSERT INTO party_orders VALUES (1, 'c1', 10) ON CONFLICT DO NOTHING; DELETE FROM hive_changes WHERE side IS NOT NULL",
      );
      expect(await check(shop.context, { changed: true })).toMatchObject({ consistent: false, extra: 1 });
    });

    const sales = { agents: ["sales"], changed: true };
    const ready = async (shop: Shop) => {
      await changeFlags(shop.context, [{ agent: "sales", flag: "dual-write", value: "on" }]);
      await backfill(shop.context, { agents: ["sales"] });
      await sync(shop.context);
      shop.clock.minutes(1);
      expect(await check(shop.context)).toMatchObject({ consistent: true, recorded: true });
      shop.clock.minutes(1);
      expect(await check(shop.context, sales)).toMatchObject({ consistent: true });
    };

    type Case = [string, RegExp, (shop: Shop) => unknown];
    test.each<Case>([
      ["an agent that is off", /nothing|not captured while it is off/, (shop) => shop.sql("DELETE FROM hive_flags")],
      ["no full check", /no full check of sales/, (shop) => shop.sql("DELETE FROM hive_checked")],
      [
        "other flags",
        /flags of sales/,
        (shop) => changeFlags(shop.context, [{ agent: "sales", flag: "reads", value: "shadow" }]),
      ],
      [
        "triggers that went missing",
        /orders was not all noted/,
        (shop) => shop.sql(dialect.uncapture("orders", "insert")),
      ],
      ["a gap", /tickets was not all noted/, (shop) => shop.sql("INSERT INTO hive_gaps VALUES ('tickets', 'x', NULL)")],
      [
        "another column, whose gap was filled",
        /the tables were changed/,
        async (shop) => {
          shop.sql("ALTER TABLE customers ADD COLUMN phone TEXT");
          await sync(shop.context);
        },
      ],
      ["a backfill since", /sales was backfilled/, (shop) => backfill(shop.context, { agents: ["sales"] })],
      // What is forgotten on PostgreSQL takes the checks along that need it: see postgres-concurrency.test.ts. There, a
      // mark is a setting, which ends with the transaction.
      ...(onSqlite
        ? ([
            ["a mark left behind", /hive_applying/, (shop) => shop.sql("INSERT INTO hive_applying VALUES (1)")],
            [
              "keys that were forgotten",
              /too much was written/,
              (shop) => shop.sql("INSERT INTO hive_written (seq, source, key) VALUES (900, 'parties', 'c1')"),
            ],
          ] satisfies Case[])
        : []),
    ])("claims nothing after %s", async (_, why, act) => {
      await using shop = await openShop({ backend });
      await ready(shop);
      await act(shop);
      await expect(check(shop.context, sales)).rejects.toMatchObject({
        code: "GUARD_REFUSED",
        message: expect.stringMatching(why),
      });
    });

    test("after a gap was filled, everything that could have been written is looked at", async () => {
      await using shop = await openShop({ backend });
      await ready(shop);
      shop.sql(`${dialect.uncapture("customers", "update")}; UPDATE customers SET name = 'Eve'`);
      await expect(check(shop.context, sales)).rejects.toMatchObject({ code: "GUARD_REFUSED" });
      await sync(shop.context);
      // Every aggregate of the table was looked at by the sync, so every one is looked at here.
      shop.sql("UPDATE parties SET name = 'drift' WHERE id = 'c1'");
      expect(await check(shop.context, sales)).toMatchObject({ consistent: false, compared: 1, different: 1 });
      expect(await check(shop.context, { ...sales, repair: true })).toMatchObject({ consistent: true, repaired: 1 });
    });
  });

  // By its numbers; on PostgreSQL by transaction: see postgres-concurrency.test.ts.
  describe.runIf(onSqlite)("SQLite only: what was written is forgotten", () => {
    const rows = ({ select }: Place) => Number(select("SELECT count(*) AS n FROM hive_written")[0]?.n);
    const fill = ({ execute }: Place, count: number) =>
      execute(
        `INSERT INTO hive_written (source, key) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n
        WHERE i < ${count}) SELECT 'unified_tasks', 'k' || i FROM n`,
      );
    const pace = (context: Context) => new Pace(context.store, context.clock, 0.01, "prune");

    test("up to the last check; never while a backfill works; never the newest row; few not at all", async () => {
      const place = await dualWriting(2);
      const { execute, select } = place;
      await using context = platformContext(place.url);
      execute("DELETE FROM hive_written");
      fill(place, 100);
      await check(context);
      expect(rows(place)).toBe(100);
      fill(place, 900);
      await using other = platformContext(place.url);
      await other.store.withLock("backfill", {}, () => check(context));
      expect(rows(place)).toBe(1_000);
      await check(context);
      expect(select("SELECT min(seq) AS first, max(seq) AS last FROM hive_written")).toEqual([
        { first: 1_000, last: 1_000 },
      ]);
    });

    test("beyond the most that is kept, where no check ever comes", async () => {
      const place = await dualWriting(2);
      const { execute } = place;
      await using context = platformContext(place.url);
      execute("DELETE FROM hive_written");
      fill(place, MOST_WRITTEN + 1_000);
      // As a sync calls it, which holds its own lock.
      const prune = () => pruneWritten(context.store, pace(context), null);
      expect(await context.store.withLock("sync", {}, prune)).toBe(1_000);
      expect(await prune()).toBe(0);
      expect(rows(place)).toBe(MOST_WRITTEN);
      await expect(check(context, { changed: true })).rejects.toMatchObject({
        message: expect.stringMatching(/too much/),
      });
    });
  });

  describe("check --watch", () => {
    interface Watched {
      events: CheckEvent[];
      /** Ended after so many rounds. */
      rounds: number;
      onPoint?: (point: string, steps: number) => unknown;
      clock?: Clock;
      options?: Parameters<typeof check>[1];
    }

    async function watch(path: string, { events, rounds, onPoint, clock, options }: Watched) {
      const ended = new AbortController();
      let steps = 0;
      let finished = 0;
      const signal: Signal = async (point) => {
        if (point === "check:compared") steps += 1;
        await onPoint?.(point, steps);
        if (point === "check:round") finished += 1;
        if (finished === rounds) ended.abort();
      };
      await using context = platformContext(path, { signal, clock: clock ?? hastyClock() });
      return await check(context, {
        watch: true,
        abort: ended.signal,
        onEvent: (event) => events.push(event),
        ...options,
      });
    }
    const roundsOf = (events: readonly CheckEvent[]) => events.filter((event) => event.kind === "round");
    const driftOf = (events: readonly CheckEvent[]) =>
      events.flatMap((event) => (event.kind === "drift" ? [event.drift.key] : []));

    test("drift that comes behind it is found in the next round; the verdict is as of the round's beginning", async () => {
      const { url: path, execute, select } = await dualWriting(300);
      const events: CheckEvent[] = [];
      let planted = 0;
      const result = await watch(path, {
        events,
        rounds: 2,
        onPoint: (_, steps) => {
          // The first page has been compared, others have not.
          if (steps !== 3 || planted > 0) return;
          planted = Date.now();
          execute("UPDATE unified_tasks SET status = 'running' WHERE id = 't0001'");
        },
      });
      schemas.check.parse(result);
      const [first, second] = roundsOf(events);
      expect(first).toMatchObject({ compared: 300, drift: 0, unrecorded: null });
      expect(Date.parse(String(first?.at))).toBeLessThanOrEqual(planted);
      expect(second).toMatchObject({ compared: 300, drift: 1, unrecorded: null });
      expect(driftOf(events)).toEqual(["t0001"]);
      expect(result).toMatchObject({ consistent: false, compared: 300, different: 1, rounds: 2, recorded: true });
      expect(found(result)).toEqual([["t0001", "different"]]);
      expect(select("SELECT DISTINCT at FROM hive_checks")).toEqual([{ at: second?.at }]);
      expect(select("SELECT agent, different FROM hive_checks WHERE different > 0")).toHaveLength(1);
    });

    test("drift that was found since the last round counts; drift that is gone by the next does not", async () => {
      const { url: path, execute } = await dualWriting(300);
      const ended = new AbortController();
      const events: CheckEvent[] = [];
      execute("UPDATE unified_tasks SET status = 'running' WHERE id = 't0001'");
      const gone = await watch(path, {
        events,
        rounds: 2,
        onPoint: (point) => {
          if (point === "check:round") execute("UPDATE unified_tasks SET status = 'queued' WHERE id = 't0001'");
        },
      });
      expect(roundsOf(events).map((event) => event.drift)).toEqual([1, 0]);
      expect(gone).toMatchObject({ consistent: true, different: 0, drift: [], rounds: 2 });
      const since = await watch(path, {
        events,
        rounds: 9,
        onPoint: (point, steps) => {
          if (point === "check:round") execute("UPDATE unified_tasks SET status = 'running' WHERE id = 't0001'");
          if (driftOf(events).length > 1 && steps > 0) ended.abort();
        },
        options: { watch: true, abort: ended.signal, onEvent: (event) => events.push(event) },
      });
      expect(since).toMatchObject({ consistent: false, rounds: 1, drift: [{ key: "t0001" }] });
    });

    test("covers what only the unified side has and what belongs to nothing, and tells what is in flight", async () => {
      const { url: path, execute } = await dualWriting(20);
      execute(
        `INSERT INTO unified_tasks SELECT 'extra', correlation_id, task_type, status, agent_type, priority, input_data,
         output_data, NULL, created_at, updated_at, NULL, NULL, NULL, NULL, NULL FROM unified_tasks WHERE id = 't0004';
       INSERT INTO unified_review_tasks (task_id, correlation_id, code_path, created_at) VALUES ('gone', 'c', '', '2026-01-01 00:00:00Z');
       UPDATE tasks SET title = 'waits' WHERE id <= 't0002'; DELETE FROM tasks WHERE id = 't0005'`,
      );
      const events: CheckEvent[] = [];
      const result = await watch(path, { events, rounds: 1 });
      expect(result).toMatchObject({ consistent: false, inFlight: 3, extra: 2, missing: 0, different: 0 });
      expect(found(result)).toEqual([
        ["extra", "extra"],
        ["gone", "extra"],
      ]);
      await using context = platformContext(path);
      const full = await check(context);
      for (const key of ["compared", "identical", "inFlight", "extra", "quarantined"] as const) {
        expect([key, result[key]]).toEqual([key, full[key]]);
      }
    });

    test("starts over when flags or tables change under it, and notes nothing of that round", async () => {
      const { url: path, execute, select } = await dualWriting(300);
      const [before] = select("SELECT max(at) AS at FROM hive_checks");
      const events: CheckEvent[] = [];
      await watch(path, {
        events,
        rounds: 1,
        onPoint: async (point, steps) => {
          if (point !== "check:compared") return;
          if (steps === 2) execute("ALTER TABLE tasks ADD COLUMN seen TEXT");
          if (steps === 5) execute("UPDATE hive_flags SET value = 'shadow', changed_at = 'x' WHERE flag = 'reads'");
          if (steps === 5)
            execute("INSERT INTO hive_flags VALUES ('ai-reviewer', 'reads', 'shadow', 'x') ON CONFLICT DO NOTHING");
          expect(select("SELECT max(at) AS at FROM hive_checks")).toEqual([before]);
        },
      });
      expect(events.filter((event) => event.kind === "started over").map((event) => event.why)).toEqual([
        "a table was altered",
        "flags were changed",
      ]);
      expect(roundsOf(events)).toHaveLength(1);
    });

    test("keeps to its share of a processor, to its rate and to its interval", async () => {
      const { url: path } = await dualWriting(300);
      const run = async (options: Parameters<typeof check>[1]) => {
        // Every look at the clock costs a millisecond, and only sleeping costs more.
        let now = 0;
        let slept = 0;
        const starts: number[] = [];
        const clock: Clock = {
          ...hastyClock(),
          monotonic: () => ++now,
          sleep: async (ms) => {
            now += ms;
            slept += ms;
          },
        };
        await watch(path, {
          events: [],
          rounds: 3,
          clock,
          options,
          onPoint: (p) => p === "check:round" && starts.push(now),
        });
        return { now, slept, starts };
      };
      const share = await run({ watch: true, cpuShare: 0.05, intervalMs: 0 });
      expect(share.slept / share.now).toBeGreaterThan(0.8);
      const rate = await run({ watch: true, cpuShare: 1, rate: 100, intervalMs: 0 });
      expect(rate.slept).toBeGreaterThan(3 * 2_900);
      const interval = await run({ watch: true, cpuShare: 1, intervalMs: 60_000 });
      expect(Number(interval.starts[2]) - Number(interval.starts[1])).toBeGreaterThanOrEqual(60_000);
    });

    test("holds no view between two portions: what they would keep can be taken away", async () => {
      const place = await dualWriting(300);
      const agent = await agentOn(place);
      const db = onSqlite ? new Database(place.url) : undefined;
      onTestFinished(() => void db?.close());
      // The journal can be emptied; dead rows can be taken away.
      const views = `SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database()
      AND application_name LIKE 'hive%' AND application_name <> 'hive-test'
      AND (backend_xmin IS NOT NULL OR state LIKE 'idle in transaction%')`;
      const busy: unknown[] = [];
      await watch(place.url, {
        events: [],
        rounds: 1,
        onPoint: async (point) => {
          if (point !== "check:compared") return;
          await agent("UPDATE tasks SET title = title || 'x' WHERE id = 't0001'");
          busy.push(db ? db.prepare("PRAGMA wal_checkpoint(TRUNCATE)").pluck().get() : place.select(views)[0]?.n);
        },
      });
      expect(busy.length).toBeGreaterThan(5);
      expect(new Set(busy)).toEqual(new Set([0]));
    });

    test("a round without drift lets --changed go on from its beginning", async () => {
      const { url: path, execute } = await dualWriting(300);
      execute("DELETE FROM hive_checked");
      await watch(path, {
        events: [],
        rounds: 1,
        onPoint: async (_, steps) => {
          if (steps !== 3) return;
          execute("UPDATE tasks SET title = 'meanwhile' WHERE id = 't0001'");
          await using syncing = platformContext(path);
          await sync(syncing);
          execute("UPDATE unified_tasks SET status = 'running' WHERE id = 't0001'");
        },
      });
      await using context = platformContext(path);
      expect(found(await check(context, { changed: true }))).toEqual([["t0001", "different"]]);
    });
  });

  describe("on the command line", () => {
    test("refuses what does not go together, and says when only a full check can tell", async () => {
      const { cwd } = await smallPlatformOn(backend);
      const hive = (...args: string[]) => hiveInProcess(args, { cwd });
      for (const args of [
        ["--watch", "--repair"],
        ["--watch", "--changed"],
        ["--changed", "--key", "x"],
        ["--rate", "5"],
        ["--watch", "--cpu", "101"],
      ]) {
        expect(await hive("check", ...args), args.join(" ")).toMatchObject({ code: 2 });
      }
      expect(await hive("check", "--changed")).toMatchObject({
        code: 4,
        stderr: expect.stringContaining("migrate up"),
      });
      await hive("migrate", "up");
      expect(await hive("check", "--changed")).toMatchObject({
        code: 4,
        stderr: expect.stringContaining("`hive check`"),
      });
    });

    test("--watch tells each round, ends when it is asked to, and exits with 3 for drift", async () => {
      const { cwd, place } = await smallPlatformOn(backend);
      const { execute, select } = place;
      const hive = (...args: string[]) => hiveInProcess(args, { cwd });
      await hive("migrate", "up");
      await hive("flags", "enable", "hive-coder", "--flag", "dual-write");
      await hive("backfill", "hive-coder");
      await hive("sync");
      const stay = async () => {
        execute("DELETE FROM hive_checks");
        const ended = new AbortController();
        const running = hiveInProcess(["check", "--watch", "--cpu", "100", "--json"], { cwd, abort: ended.signal });
        await vi.waitFor(() => expect(select("SELECT * FROM hive_checks")).toHaveLength(1), { timeout: 20_000 });
        ended.abort();
        return running;
      };
      const clean = await stay();
      expect(clean).toMatchObject({
        code: 0,
        stderr: expect.stringMatching(/Round: 21 aggregates, no drift, 0 awaiting sync/),
      });
      expect(JSON.parse(clean.stdout).result).toMatchObject({ consistent: true, rounds: 1, recorded: true });
      execute("UPDATE unified_tasks SET status = 'running' WHERE id = 'task-1'");
      const drifted = await stay();
      expect(drifted).toMatchObject({ code: 3, stderr: expect.stringMatching(/Drift: tasks task-1 is different/) });
    });
  });
});
