import { describe, expect, test } from "vitest";
import { type Signal, systemClock } from "../../src/clock.ts";
import type { Context } from "../../src/context.ts";
import { HiveError } from "../../src/errors.ts";
import { changeFlags } from "../../src/flags/flags.ts";
import { STAGES, type Stage } from "../../src/flags/stages.ts";
import type { HiveTask } from "../../src/presets/hive/records.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { sql } from "../../src/storage/sql.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { renewCapture } from "../../src/sync/capture.ts";
import { check } from "../../src/sync/check.ts";
import { MappingError } from "../../src/sync/mapping.ts";
import type { RowsRecord } from "../../src/sync/records.ts";
import { sync } from "../../src/sync/sync.ts";
import { type Changes, openWriter, type Writer } from "../../src/sync/writer.ts";
import { BACKENDS, type PlaceOptions } from "../support/backends.ts";
import type { TestContextOptions } from "../support/context.ts";
import { executeUnseen, hastyClock, place, platformContext } from "../support/legacy-platform.ts";
import { openShop } from "../support/shop.ts";

const AGENTS = ["ai-reviewer", "ai-planner", "ai-deployer", "hive-coder", "guardian", "orchestrator", "qa-agent"];

const ROWS = `
  INSERT INTO tasks (id, title, task_type, status, payload, created_at, updated_at, priority) VALUES
    ('r1', 'Review it', 'review', 'review_pending', '{"code_path":"a.py","big":12345678901234567890}', '2026-01-01 10:00:00', '2026-01-01 10:00:00', 5),
    ('c1', 'Write it', 'backend', 'queued', NULL, '2026-01-02 10:00:00', '2026-01-02 10:00:00', 1);
`;

describe.each(BACKENDS)("on $name", (backend) => {
  const { dialect } = backend;

  interface Platform extends AsyncDisposable {
    path: string;
    context: Context;
    writer: Writer<HiveTask>;
    execute(text: string): void;
    rows(text: string): Record<string, unknown>[];
    /** Carries over what waits, and finds both sides equal. */
    consistent(): Promise<void>;
  }

  /** Migrated, filled, captured, with every agent at this stage. */
  async function platform(
    stage: Stage,
    { given, ...options }: TestContextOptions & { given?: PlaceOptions } = {},
  ): Promise<Platform> {
    const { url: path, execute, select } = await backend.create(given ?? { legacy: "text", rows: ROWS });
    const context = platformContext(path, { clock: hastyClock(), ...options });
    await migrateUp(context);
    place(path, AGENTS, "dualwrite");
    await renewCapture(context);
    await backfill(context);
    if (stage === "off") execute("DELETE FROM hive_flags");
    else place(path, AGENTS, stage);
    await renewCapture(context);
    const writer = openWriter<HiveTask>(context, "ai-reviewer");
    return {
      path,
      context,
      writer,
      execute,
      rows: select,
      consistent: async () => {
        await sync(context);
        const found = await check(context, { agents: AGENTS });
        expect({ ...found, drift: found.drift }).toMatchObject({ drift: [], consistent: true, inFlight: 0 });
      },
      [Symbol.asyncDispose]: async () => {
        await writer[Symbol.asyncDispose]();
        await context.store[Symbol.asyncDispose]();
      },
    };
  }

  /** No mark of hive's own writes is left behind: on PostgreSQL it is a setting, which ends with the transaction. */
  function noMark(on: Platform): void {
    if (backend.name === "sqlite") expect(on.rows("SELECT * FROM hive_applying")).toEqual([]);
  }

  /** Something to wait for until it is told. */
  function gate(): { promise: Promise<void>; resolve: () => void } {
    let open = (): void => undefined;
    const promise = new Promise<void>((resolve) => {
      open = resolve;
    });
    return { promise, resolve: () => open() };
  }

  const waiting = "SELECT key, side FROM hive_changes WHERE side IS NOT NULL";

  async function refused(work: Promise<unknown>): Promise<HiveError> {
    const error: unknown = await work.then(
      () => null,
      (reason: unknown) => reason,
    );
    if (!(error instanceof HiveError)) throw new Error(`not refused as it should be: ${String(error)}`);
    return error;
  }

  describe.each(STAGES)("at %s", (stage) => {
    const unifiedToo = stage !== "off";
    const legacyToo = stage !== "complete";

    test("create, get, update, list, delete: both sides as the stage asks for, nothing captured twice", async () => {
      await using on = await platform(stage);
      const { writer } = on;
      const created = await writer.create({
        taskType: "review",
        status: "review_pending",
        priority: 2,
        inputData: { title: "New", description: null, payload: { code_path: "b.py" } },
      });
      expect(created).toMatchObject({ agent: "ai-reviewer", stage, quarantined: null, notStored: [] });
      const { key } = created;
      expect(created.record).toMatchObject({ id: key, taskType: "review", status: "review_pending", priority: 2 });
      expect(on.rows(`SELECT title, status FROM tasks WHERE id = '${key}'`)).toEqual(
        legacyToo ? [{ title: "New", status: "review_pending" }] : [],
      );
      expect(on.rows(`SELECT status FROM unified_tasks WHERE id = '${key}'`)).toEqual(
        unifiedToo ? [{ status: "review_pending" }] : [],
      );
      expect(await writer.get(key)).toEqual(created.record);

      const updated = await writer.update(key, { status: "review_approved", priority: 1 });
      expect(updated.record).toMatchObject({ status: "review_approved", priority: 1 });
      expect(updated.record.updatedAt > created.record.updatedAt).toBe(true);
      if (legacyToo) {
        expect(on.rows(`SELECT status, priority FROM tasks WHERE id = '${key}'`)).toEqual([
          { status: "approved", priority: 10 },
        ]);
      }
      expect(await writer.get(key)).toEqual(updated.record);
      const old = await writer.update("c1", { errorMessage: "x" });
      expect(old.record.errorMessage).toBe("x");

      const page = await writer.list({ taskType: "review", status: "review_approved" });
      expect(page.records).toEqual([updated.record]);
      const all = await writer.list({}, { limit: 2 });
      const rest = await writer.list({}, { limit: 2, after: all.next ?? "" });
      expect([...all.records, ...rest.records].map(({ id }) => id)).toEqual([key, "c1", "r1"].sort());
      expect(rest.next).toBeNull();

      if (stage === "complete") {
        expect(on.rows("SELECT key FROM hive_behind ORDER BY key")).toEqual(
          [{ key: "c1" }, { key }].sort((a, b) => (a.key < b.key ? -1 : 1)),
        );
      }
      expect(await writer.delete("r1")).toMatchObject({ key: "r1", stage, quarantined: null });
      expect(await writer.delete(key)).toMatchObject({ quarantined: null });
      expect(await writer.get(key)).toBeNull();
      expect(on.rows("SELECT id FROM tasks WHERE id <> 'c1'")).toEqual(legacyToo ? [] : [{ id: "r1" }]);
      expect(on.rows("SELECT id FROM unified_tasks WHERE id <> 'c1'")).toEqual(unifiedToo ? [] : [{ id: "r1" }]);
      expect(on.rows("SELECT task_id FROM unified_review_tasks")).toEqual(unifiedToo ? [] : [{ task_id: "r1" }]);
      expect(on.rows(waiting)).toEqual([]);
      noMark(on);
      if (unifiedToo && legacyToo) await on.consistent();
    });

    test("what is wrong is refused before anything is written", async () => {
      await using on = await platform(stage);
      const { writer } = on;
      const state = () => [on.rows("SELECT * FROM tasks"), on.rows("SELECT * FROM unified_tasks")];
      const before = state();
      const bad: [() => Promise<unknown>, string, RegExp][] = [
        [
          () => writer.create({ taskType: "review", colour: "red" } as never),
          "RECORD_INVALID",
          /there is no field colour/,
        ],
        [() => writer.create({ status: "queued" }), "RECORD_INVALID", /taskType is missing/],
        [() => writer.create({ taskType: "paint" as never }), "RECORD_INVALID", /taskType has to be one of/],
        [() => writer.create({ taskType: "code", id: "c1" }), "RECORD_EXISTS", /"c1"/],
        [() => writer.update("c1", { status: "done" as never }), "RECORD_INVALID", /status has to be one of/],
        [
          () => writer.update("c1", { priority: 11 }),
          "RECORD_INVALID",
          /priority has to be a whole number from 1 to 10/,
        ],
        [() => writer.update("c1", { id: "other" }), "RECORD_INVALID", /cannot be changed/],
        [() => writer.update("c1", { inputData: { at: new Date(0) } as never }), "RECORD_INVALID", /more than JSON/],
        [() => writer.update("c1", { review: { reviewScore: 101 } }), "RECORD_INVALID", /review\.reviewScore/],
        [() => writer.update("c1", { taskMetadata: { legacy: {} } }), "RECORD_INVALID", /hive's own/],
        [() => writer.update("c1", { errorMessage: "half \ud83d" }), "RECORD_INVALID", /surrogate/],
        [() => writer.update("none", { status: "queued" }), "RECORD_MISSING", /"none"/],
        [() => writer.delete("none"), "RECORD_MISSING", /"none"/],
        [
          () => writer.update("c1", { priority: 3 }, { expectedUpdatedAt: "2020-01-01T00:00:00.000Z" }),
          "RECORD_CHANGED",
          /c1/,
        ],
        [() => writer.delete("c1", { expectedUpdatedAt: "2020-01-01T00:00:00.000Z" }), "RECORD_CHANGED", /c1/],
      ];
      for (const [work, code, message] of bad) {
        const error = await refused(work());
        expect([error.code, error.message]).toEqual([code, expect.stringMatching(message)]);
      }
      expect(await writer.get("none")).toBeNull();
      expect(state()).toEqual(before);
    });

    test("a transaction holds both sides and the caller's own statements, or nothing", async () => {
      await using on = await platform(stage);
      const { writer } = on;
      const lost = new Error("changed my mind");
      const work = (fail: boolean) =>
        writer.transaction(async (tx) => {
          const { key } = await tx.create({ taskType: "code", id: "t1" });
          await tx.run(sql`INSERT INTO workers (id, role) VALUES ('w1', 'tester')`);
          await tx.update(key, { status: "running" });
          // Refused, caught, gone on: nothing of it is left behind.
          expect((await refused(tx.update(key, { priority: 99 }))).code).toBe("RECORD_INVALID");
          expect((await tx.get(key))?.status).toBe("running");
          if (fail) throw lost;
          return key;
        });
      await expect(work(true)).rejects.toBe(lost);
      expect(
        on.rows(
          "SELECT 1 FROM workers UNION SELECT 1 FROM tasks WHERE id = 't1' UNION SELECT 1 FROM unified_tasks WHERE id = 't1'",
        ),
      ).toEqual([]);
      expect(await work(false)).toBe("t1");
      expect(on.rows("SELECT id FROM workers")).toEqual([{ id: "w1" }]);
      expect((await writer.get("t1"))?.status).toBe("running");
      noMark(on);
      if (unifiedToo && legacyToo) await on.consistent();
    });
  });

  test.skipIf(backend.name !== "sqlite")(
    "unknown agents and ambiguous records are refused (the shop is a SQLite file)",
    async () => {
      await using shop = await openShop();
      expect(() => openWriter(shop.context, "saels")).toThrow(expect.objectContaining({ code: "UNKNOWN_AGENT" }));
      expect(() => openWriter(shop.context, "sales")).toThrow(expect.objectContaining({ code: "USAGE" }));
      expect(() => openWriter(shop.context, "sales", { table: "x" })).toThrow(
        expect.objectContaining({ code: "UNKNOWN_NAME" }),
      );
      expect(openWriter(shop.context, "sales-1", { table: "parties" }).agent).toBe("sales");
    },
  );

  describe.skipIf(backend.name !== "sqlite")(
    "records without a codec are rows by table (the shop is a SQLite file)",
    () => {
      test.each(STAGES)("at %s", async (stage) => {
        await using shop = await openShop();
        const { context } = shop;
        shop.place("sales", "dualwrite");
        await renewCapture(context);
        await backfill(context);
        if (stage === "off") shop.sql("DELETE FROM hive_flags");
        else shop.place("sales", stage);
        await using writer = openWriter<RowsRecord>(context, "sales", { table: "parties" });
        const created = await writer.create({
          parties: [{ name: "Eve", kind: "sales" }],
          party_orders: [{ id: 7, amount: 70 }],
        });
        expect(created.key).toBe("id-1");
        const leads = stage === "live" || stage === "rampdown" || stage === "complete" ? "unified" : "legacy";
        // Orders are not carried down: nobody gets to hear that they were stored when they were not.
        expect(created.notStored).toEqual(leads === "legacy" ? ["party_orders.id"] : []);
        const orders = leads === "legacy" ? [] : [{ id: 7, party_id: "id-1", amount: 70 }];
        expect(created.record).toEqual({ parties: [{ id: "id-1", name: "Eve", kind: "sales" }], party_orders: orders });
        expect(await writer.get("id-1")).toEqual(created.record);
        const updated = await writer.update("c1", { parties: [{ name: "Ada L." }] });
        expect(updated.record).toEqual({
          parties: [{ id: "c1", name: "Ada L.", kind: "sales" }],
          party_orders: [
            { id: 1, party_id: "c1", amount: 10 },
            { id: 2, party_id: "c1", amount: 20 },
          ],
        });
        expect((await refused(writer.update("c1", {}, { expectedUpdatedAt: "x" }))).code).toBe("USAGE");
        expect((await refused(writer.create({ parties: [{ nam: "x" }] }))).message).toMatch(/no column nam/);
        expect((await writer.list({ name: "Ada L." })).records).toEqual([updated.record]);
        await writer.delete("c1");
        expect(
          shop.all("SELECT id FROM customers WHERE id = 'c1' UNION ALL SELECT CAST(id AS TEXT) FROM orders"),
        ).toEqual(stage === "complete" ? [{ id: "c1" }, { id: "1" }, { id: "2" }] : []);
        expect(shop.all("SELECT reason FROM hive_kept")).toHaveLength(stage === "live" || stage === "rampdown" ? 1 : 0);
        if (stage !== "off" && stage !== "complete") {
          await sync(context);
          expect(await check(context, { agents: ["sales"] })).toMatchObject({ consistent: true, drift: [] });
        }
      });
    },
  );

  describe("a flip is fenced", () => {
    test("the next call goes by the new stage, without a restart", async () => {
      await using on = await platform("rampdown");
      expect((await on.writer.update("c1", { priority: 2 })).stage).toBe("rampdown");
      await using other = platformContext(on.path);
      await changeFlags(other, [{ agent: "hive-coder", flag: "dual-write", value: "off" }], {
        force: true,
        reason: "test",
      });
      expect((await on.writer.update("c1", { priority: 3 })).stage).toBe("complete");
      expect(on.rows("SELECT key FROM hive_behind")).toEqual([{ key: "c1" }]);
      await changeFlags(other, [{ agent: "hive-coder", flag: "dual-write", value: "on" }]);
      expect((await on.writer.update("c1", { priority: 4 })).stage).toBe("rampdown");
      expect(on.rows("SELECT * FROM hive_behind")).toEqual([]);
      expect(on.rows("SELECT priority FROM tasks WHERE id = 'c1'")).toEqual([{ priority: 7 }]);
      await on.consistent();
    });

    test("a flip waits for the transaction that runs, and the one after it goes by the new stage", async () => {
      const held = gate();
      const reached = gate();
      const signal: Signal = async (point) => {
        if (point !== "tx:write:before-commit") return;
        reached.resolve();
        await held.promise;
      };
      await using on = await platform("dualwrite", { signal });
      await using other = platformContext(on.path);
      const running = on.writer.update("c1", { priority: 2 });
      await reached.promise;
      let flipped = false;
      const flip = changeFlags(other, [{ agent: "hive-coder", flag: "dual-write", value: "off" }]).then(() => {
        flipped = true;
      });
      const next = on.writer.update("c1", { priority: 3 });
      await new Promise((resolve) => setImmediate(resolve));
      expect(flipped).toBe(false);
      held.resolve();
      expect((await running).stage).toBe("dualwrite");
      await flip;
      await next;
      expect((await on.writer.update("c1", { priority: 4 })).stage).toBe("off");
      expect(on.rows("SELECT priority FROM tasks WHERE id = 'c1'")).toEqual([{ priority: 7 }]);
    });
  });

  test("a writer waits for the flip that runs, and goes by the new stage", async () => {
    const held = gate();
    const reached = gate();
    const signal: Signal = async (point) => {
      if (point !== "tx:flags:before-commit") return;
      reached.resolve();
      await held.promise;
    };
    await using on = await platform("dualwrite");
    await using other = platformContext(on.path, { signal });
    // Whatever waits is carried over in transactions of its own, before the one that flips.
    await on.consistent();
    const flip = changeFlags(other, [{ agent: "hive-coder", flag: "dual-write", value: "off" }]);
    await reached.promise;
    let written = false;
    const writing = on.writer.update("c1", { priority: 3 }).then((result) => {
      written = true;
      return result;
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(written).toBe(false);
    held.resolve();
    await flip;
    expect((await writing).stage).toBe("off");
    expect(on.rows("SELECT priority FROM unified_tasks WHERE id = 'c1'")).toEqual([{ priority: 10 }]);
  });

  test("two transactions that wait for each other: the caller's work runs once, and one of them is told", async () => {
    await using on = await platform("dualwrite");
    await using context = platformContext(on.path);
    await using other = openWriter<HiveTask>(context, "hive-coder");
    const runs = { "c1 r1": 0, "r1 c1": 0 };
    const [first, second] = [gate(), gate()];
    const both = (writer: Writer<HiveTask>, keys: keyof typeof runs, mine: typeof first, others: typeof first) =>
      writer.transaction(async (tx) => {
        runs[keys] += 1;
        const [one = "", two = ""] = keys.split(" ");
        await tx.update(one, { priority: 2 });
        mine.resolve();
        // Where a transaction is the only writer, the other one has not begun.
        if (backend.name !== "sqlite") await others.promise;
        await tx.update(two, { priority: 3 });
      });
    const ended = await Promise.allSettled([
      both(on.writer, "c1 r1", first, second),
      both(other, "r1 c1", second, first),
    ]);
    const failed = ended.filter((one) => one.status === "rejected");
    expect(failed).toHaveLength(backend.name === "sqlite" ? 0 : 1);
    for (const one of failed) expect(one.reason).toMatchObject({ code: "DATABASE_BUSY" });
    expect(runs).toEqual({ "c1 r1": 1, "r1 c1": 1 });
    await on.consistent();
  });

  test("a statement of the caller's own that fails undoes itself alone", async () => {
    await using on = await platform("dualwrite");
    await on.writer.transaction(async (tx) => {
      await tx.update("c1", { priority: 2 });
      expect((await refused(tx.run(sql`INSERT INTO workers (id) VALUES ('w1')`))).code).toBe("CONSTRAINT");
      expect((await refused(tx.all(sql`SELECT * FROM nowhere`))).code).toBe("DATABASE_FAILED");
      await tx.update("r1", { priority: 3 });
    });
    expect(on.rows("SELECT id, priority FROM unified_tasks ORDER BY id")).toEqual([
      { id: "c1", priority: 2 },
      { id: "r1", priority: 3 },
    ]);
    await on.consistent();
  });

  describe("beside programs that write plain SQL", () => {
    test.each(["dualwrite", "shadow", "live", "rampdown"] as const)(
      "at %s: what waits in the log is not written over unseen",
      async (stage) => {
        await using on = await platform(stage);
        on.execute("UPDATE tasks SET status = 'in_progress', payload = '{\"by\":\"python\"}' WHERE id = 'c1'");
        expect(on.rows(waiting)).toHaveLength(1);
        const { record } = await on.writer.update("c1", { priority: 1 });
        expect(record).toMatchObject({ status: "running", priority: 1, inputData: { payload: { by: "python" } } });
        expect(on.rows("SELECT status, priority, payload FROM tasks WHERE id = 'c1'")).toEqual([
          { status: "in_progress", priority: 10, payload: '{"by":"python"}' },
        ]);
        expect(on.rows(waiting)).toEqual([]);
        await on.consistent();
      },
    );

    test("expectedUpdatedAt: of two that read the same, one is told; also against plain SQL, also in one millisecond", async () => {
      await using on = await platform("dualwrite", {
        clock: { ...hastyClock(), now: () => Date.parse("2026-03-01T00:00:00.000Z") },
      });
      const before = await on.writer.get("c1");
      const condition = { expectedUpdatedAt: before?.updatedAt ?? "" };
      const both = await Promise.allSettled([
        on.writer.update("c1", { priority: 2 }, condition),
        on.writer.update("c1", { priority: 3 }, condition),
      ]);
      expect(both.map(({ status }) => status)).toEqual(["fulfilled", "rejected"]);
      const now = await on.writer.get("c1");
      const error = await refused(on.writer.update("c1", { priority: 4 }, condition));
      expect(error).toMatchObject({ code: "RECORD_CHANGED", details: { key: "c1", updatedAt: now?.updatedAt } });
      const again = await on.writer.update("c1", { priority: 5 }, { expectedUpdatedAt: now?.updatedAt ?? "" });
      expect(again.record.updatedAt > (now?.updatedAt ?? "")).toBe(true);
      on.execute("UPDATE tasks SET updated_at = '2026-04-01 00:00:00' WHERE id = 'c1'");
      const late = on.writer.update("c1", { priority: 6 }, { expectedUpdatedAt: again.record.updatedAt });
      expect((await refused(late)).code).toBe("RECORD_CHANGED");
      await on.consistent();
    });

    test("the caller's own SQL in the same transaction is noted, and its next change builds on it", async () => {
      await using on = await platform("shadow");
      await on.writer.transaction(async (tx) => {
        await tx.run(sql`UPDATE tasks SET status = 'failed', failure_reason = 'by hand' WHERE id = 'c1'`);
        const { record } = await tx.update("c1", { priority: 1 });
        expect(record).toMatchObject({ status: "failed", errorMessage: "by hand", priority: 1 });
        await tx.run(sql`UPDATE tasks SET title = 'late' WHERE id = 'c1'`);
      });
      expect(on.rows(waiting)).toHaveLength(1);
      await on.consistent();
    });

    test("what was not changed keeps its text, to the byte", async () => {
      await using on = await platform("live");
      const { record } = await on.writer.update("r1", { status: "review_approved" });
      await on.writer.update("r1", { ...record, priority: 1 });
      expect(on.rows("SELECT payload FROM tasks WHERE id = 'r1'")).toEqual([
        { payload: '{"code_path":"a.py","big":12345678901234567890}' },
      ]);
      expect(on.rows("SELECT input_data FROM unified_tasks WHERE id = 'r1'")[0]?.input_data).toContain(
        "12345678901234567890",
      );
      await on.consistent();
    });
  });

  describe("what the legacy side cannot hold", () => {
    test("is named while it leads, and stored once the unified side does", async () => {
      await using on = await platform("shadow");
      const change: Changes<HiveTask> = {
        review: { reviewScore: 90, suggestions: ["shorter"] },
        taskMetadata: { mine: 1 },
        status: "review_approved",
      };
      const first = await on.writer.update("r1", change);
      expect(first.notStored).toEqual([
        "unified_review_tasks.review_score",
        "unified_review_tasks.suggestions",
        "unified_tasks.task_metadata",
      ]);
      expect(first.record).toMatchObject({
        status: "review_approved",
        taskMetadata: null,
        review: { reviewScore: null },
      });
      expect(await on.writer.get("r1")).toEqual(first.record);
      place(on.path, AGENTS, "live");
      const second = await on.writer.update("r1", change);
      expect(second.notStored).toEqual([]);
      expect(second.record).toMatchObject({
        taskMetadata: { mine: 1 },
        review: { reviewScore: 90, suggestions: ["shorter"] },
      });
      expect(await on.writer.get("r1")).toEqual(second.record);
      await on.consistent();
    });
  });

  test("rows that a trigger of the platform's own adds to a new record are on both sides", async () => {
    await using on = await platform("dualwrite");
    const added =
      "INSERT INTO deployment_events (task_id, event_type, timestamp) VALUES (NEW.id, 'made', '2026-01-01T00:00:00Z');";
    on.execute(
      backend.name === "sqlite"
        ? `CREATE TRIGGER mine AFTER INSERT ON tasks BEGIN ${added} END`
        : `CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ${added} RETURN NULL; END $$;
           CREATE TRIGGER mine AFTER INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION mine()`,
    );
    const { record } = await on.writer.create({ taskType: "deploy", inputData: { title: "x", payload: {} } });
    expect(JSON.stringify(record.deployment)).toContain("made");
    await on.consistent();
    expect(on.rows(`SELECT event_type FROM deployment_events WHERE task_id = '${record.id}'`)).toHaveLength(1);
  });

  // jsonb gives JSON back with other spaces and in another order.
  test("what was written while the legacy side led is the same on both sides once an agent has it whose unified side leads", async () => {
    await using on = await platform("rampdown");
    for (const value of ["live", "shadow"]) {
      await changeFlags(on.context, [{ agent: "hive-coder", flag: "reads", value }], { force: true, reason: "test" });
    }
    await on.writer.create({ id: "n1", taskType: "code" });
    const inputData = { title: "x", payload: { longer: 1, a: 2e30 } };
    const { stage } = await on.writer.update("n1", { taskType: "plan", inputData });
    expect(stage).toBe("rampdown");
    await on.consistent();
    expect((await on.writer.get("n1"))?.inputData).toEqual(expect.objectContaining(inputData));
  });

  describe("a side that follows and fails never fails the call", () => {
    const refuse = (table: string) =>
      dialect.refuse(
        table,
        "UPDATE",
        `NEW.${table === "tasks" ? "priority > 8" : "priority < 3"}`,
        "no such priority here",
      );

    test.each([
      ["dualwrite", "unified_tasks", "up"],
      ["shadow", "unified_tasks", "up"],
      ["live", "tasks", "down"],
      ["rampdown", "tasks", "down"],
    ] as const)("at %s: %s refuses", async (stage, table, direction) => {
      await using on = await platform(stage);
      on.execute(refuse(table));
      const failed = await on.writer.update("c1", { priority: 1 });
      expect(failed.record.priority).toBe(1);
      expect(failed.quarantined).toMatch(/no such priority here/);
      expect(on.rows("SELECT key, direction, agent FROM hive_quarantine")).toEqual([
        { key: "c1", direction, agent: "hive-coder" },
      ]);
      const led = direction === "up" ? "SELECT priority FROM tasks" : "SELECT priority FROM unified_tasks";
      expect(on.rows(`${led} WHERE id = 'c1'`)).toEqual([{ priority: direction === "up" ? 10 : 1 }]);
      expect((await on.writer.get("c1"))?.priority).toBe(1);
      noMark(on);
      // The next one that goes through takes it out of quarantine.
      expect((await on.writer.update("c1", { priority: 5 })).quarantined).toBeNull();
      expect(on.rows("SELECT * FROM hive_quarantine")).toEqual([]);
      await on.consistent();
    });

    test.each(["dualwrite", "live"] as const)(
      "at %s: the side that leads refuses: nothing is written",
      async (stage) => {
        await using on = await platform(stage);
        on.execute(refuse(stage === "live" ? "unified_tasks" : "tasks"));
        const before = [on.rows("SELECT * FROM tasks"), on.rows("SELECT * FROM unified_tasks")];
        expect((await refused(on.writer.update("c1", { priority: 1 }))).code).toBe("CONSTRAINT");
        expect([on.rows("SELECT * FROM tasks"), on.rows("SELECT * FROM unified_tasks")]).toEqual(before);
        noMark(on);
      },
    );

    test("what it had written by then is undone", async () => {
      await using on = await platform("dualwrite");
      on.execute(dialect.refuse("unified_deployment_tasks", "INSERT", "NEW.task_id IS NOT NULL", "no deployments"));
      const before = on.rows("SELECT * FROM unified_tasks WHERE id = 'c1'");
      expect((await on.writer.update("c1", { taskType: "deploy" })).quarantined).toMatch(/no deployments/);
      expect(on.rows("SELECT * FROM unified_tasks WHERE id = 'c1'")).toEqual(before);
      expect(on.rows("SELECT task_type FROM tasks WHERE id = 'c1'")).toEqual([{ task_type: "deployment" }]);
    });

    test("the unified tables are broken: the call succeeds all the same", async () => {
      await using on = await platform("dualwrite");
      on.execute(`DROP TABLE unified_tasks${backend.name === "sqlite" ? "" : " CASCADE"}`);
      const { quarantined } = await on.writer.update("c1", { priority: 1 });
      expect(quarantined).toMatch(/no such table|does not exist/);
      expect((await on.writer.get("c1"))?.priority).toBe(1);
    });
  });

  describe("both sides are compared after the answer", () => {
    const recorded = "SELECT mapping, agent, difference, times, key FROM hive_mismatches ORDER BY difference";

    test.each(["shadow", "live"] as const)("at %s: each kind of difference is recorded once", async (stage) => {
      // A hasty clock would let every comparison time out.
      await using on = await platform(stage, { clock: systemClock });
      const { writer } = on;
      await writer.get("c1");
      await writer[Symbol.asyncDispose]();
      // Drift: past the triggers.
      executeUnseen(on.path, "UPDATE unified_tasks SET error_message = 'x'; DELETE FROM unified_tasks WHERE id = 'r1'");
      const answer = await writer.get("c1");
      expect(answer?.errorMessage).toBe(stage === "shadow" ? null : "x");
      await writer.get("c1");
      await writer.list({ taskType: "code" });
      await writer[Symbol.asyncDispose]();
      expect(on.rows(recorded)).toEqual([
        {
          mapping: "tasks",
          agent: "hive-coder",
          difference: stage === "shadow" ? "unified_tasks.error_message" : "tasks.failure_reason",
          times: 3,
          key: "c1",
        },
      ]);
      expect(on.rows("SELECT legacy, unified FROM hive_mismatches")[0]?.unified).toContain('"x"');
      expect(writer.stats().comparisons).toMatchObject({
        compared: 4,
        mismatches: 3,
        dropped: 0,
        timedOut: 0,
        failed: 0,
      });
      if (stage === "live") return;
      await writer.get("r1");
      await writer[Symbol.asyncDispose]();
      expect(on.rows(recorded)).toHaveLength(2);
    });

    test("what waits to be carried over is no mismatch; at other stages nothing is compared", async () => {
      await using on = await platform("shadow", { clock: systemClock });
      on.execute("UPDATE tasks SET status = 'failed' WHERE id = 'c1'");
      await on.writer.get("c1");
      await on.writer[Symbol.asyncDispose]();
      expect(on.writer.stats().comparisons).toMatchObject({ compared: 0, skipped: 1, mismatches: 0 });
      place(on.path, AGENTS, "rampdown");
      await on.writer.get("c1");
      await on.writer[Symbol.asyncDispose]();
      expect(on.writer.stats().comparisons).toMatchObject({ compared: 0, skipped: 1 });
    });

    test("comparisons that take too long are given up, those that come too thick are dropped; dispose waits", async () => {
      const held = gate();
      let ended = 0;
      const signal: Signal = async (point) => {
        if (point !== "writer:compare") return;
        await held.promise;
        ended += 1;
      };
      await using on = await platform("shadow", { signal });
      await using writer = openWriter<HiveTask>(on.context, "hive-coder", {
        comparisonsWaiting: 3,
        compareTimeoutMs: 60_000,
      });
      for (let i = 0; i < 8; i++) await writer.get("c1");
      expect(writer.stats().operations.get).toMatchObject({ count: 8, failed: 0 });
      const disposed = writer[Symbol.asyncDispose]();
      held.resolve();
      await disposed;
      const { compared, dropped, timedOut } = writer.stats().comparisons;
      expect(dropped).toBeGreaterThanOrEqual(1);
      expect(compared + dropped + timedOut).toBe(8);
      expect(ended).toBeGreaterThanOrEqual(1);
      expect(on.rows("SELECT * FROM hive_mismatches")).toEqual([]);
    });

    test("another process holds the lock: reads answer, and the mismatch is recorded later", async () => {
      await using on = await platform("shadow", { clock: systemClock });
      executeUnseen(on.path, "UPDATE unified_tasks SET error_message = 'x'");
      await using other = platformContext(on.path);
      await other.store.transaction("holder", async () => {
        expect((await on.writer.get("c1"))?.errorMessage).toBeNull();
        while (on.writer.stats().comparisons.mismatches === 0) await new Promise((resolve) => setImmediate(resolve));
      });
      await on.writer[Symbol.asyncDispose]();
      expect(on.rows(recorded)).toHaveLength(1);
    });
  });

  test("a legacy row that cannot be expressed: reading says why, a list goes on, both name it", async () => {
    await using on = await platform("shadow");
    // PostgreSQL holds no bytes in a column of texts.
    const unnamed = backend.name === "sqlite" ? "UPDATE tasks SET id = X'00'" : "DELETE FROM tasks";
    on.execute(`INSERT INTO planning_queue (id, task_description) VALUES ('q1', 'x'); ${unnamed} WHERE id = 'r1'`);
    await using broken = platformContext(on.path, {
      mapping: {
        ...on.context.mapping,
        aggregates: on.context.mapping.aggregates.map((one) => ({
          ...one,
          up: (legacy) => {
            if (legacy.tasks?.[0]?.id === "c1") throw new MappingError("no such task");
            return one.up(legacy);
          },
        })),
      },
    });
    await using writer = openWriter<HiveTask>(broken, "ai-reviewer");
    for (const work of [() => writer.get("c1"), () => writer.update("c1", { priority: 1 })]) {
      expect(await refused(work())).toMatchObject({
        code: "RECORD_UNREADABLE",
        details: { key: "c1", reason: "no such task" },
      });
    }
    const page = await writer.list();
    expect(page.unreadable).toEqual([{ key: "c1", reason: "no such task" }]);
    expect(page.records.map(({ id }) => id)).toEqual(["q1"]);
    // Deleting it is what mends it.
    expect((await writer.delete("c1")).quarantined).toBeNull();
  });

  test("rows of the planner's tables are changed where they are; a key that a later table has too comes up once it is free", async () => {
    await using on = await platform("dualwrite");
    on.execute(
      "INSERT INTO planning_queue (id, task_description, status) VALUES ('q1', 'plan it', 'pending'), ('c1', 'shadowed', 'pending')",
    );
    const { record, notStored } = await on.writer.update("q1", {
      status: "running",
      inputData: { description: "plan that", requestor: null, context: null },
    });
    expect(record).toMatchObject({ taskType: "plan", status: "running" });
    expect(notStored).toEqual([]);
    expect(on.rows("SELECT task_description, status FROM planning_queue WHERE id = 'q1'")).toEqual([
      { task_description: "plan that", status: "assigned" },
    ]);
    await sync(on.context);
    expect((await on.writer.get("c1"))?.taskType).toBe("code");
    await on.writer.delete("c1");
    await on.consistent();
    expect((await on.writer.get("c1"))?.taskType).toBe("plan");
  });

  test("stats: every call counts, with the time of each side", async () => {
    await using on = await platform("dualwrite");
    await on.writer.update("c1", { priority: 2 });
    await refused(on.writer.update("none", {}));
    const { update, create } = on.writer.stats().operations;
    expect([update.count, update.failed, create.count]).toEqual([2, 1, 0]);
    expect(update.leading.p50).toBeGreaterThan(0);
    expect(update.following.p50).toBeGreaterThan(0);
    expect(update.total.p99).toBeGreaterThanOrEqual(update.leading.p50);
  });

  test("a database that hive has never touched: the writer is a plain writer", async () => {
    const { url: path, select } = await backend.create({ legacy: "text", rows: ROWS });
    await using context = platformContext(path);
    await using writer = openWriter<HiveTask>(context, "ai-reviewer");
    const { key, stage } = await writer.create({ taskType: "test", inputData: { title: "t" } });
    expect(stage).toBe("off");
    await writer.update(key, { status: "completed" });
    expect((await writer.list({ status: "completed" })).records.map(({ id }) => id)).toEqual([key]);
    expect(select(`SELECT status FROM tasks WHERE id = '${key}'`)).toEqual([{ status: "completed" }]);
    expect((await refused(writer.create({ taskType: "test", id: key }))).code).toBe("RECORD_EXISTS");
  });

  test("agents at different stages: a list takes each row from the side that leads", async () => {
    await using on = await platform("shadow", { given: { sample: { tasks: 300 } } });
    place(on.path, "hive-coder", "live");
    const wanted = on.rows("SELECT id FROM unified_tasks ORDER BY id").map(({ id }) => id);
    const ids: string[] = [];
    const unreadable: string[] = [];
    for (let after: string | undefined; ; ) {
      const page = await on.writer.list({}, { limit: 37, ...(after === undefined ? {} : { after }) });
      ids.push(...page.records.map(({ id }) => id));
      unreadable.push(...page.unreadable.map(({ key }) => key));
      if (page.next === null) break;
      after = page.next;
    }
    expect(ids).toEqual(wanted);
    expect(unreadable).toEqual([]);
    const done = await on.writer.list({ status: "completed", taskType: "code" }, { limit: 1000 });
    const expected = on.rows(
      "SELECT id FROM unified_tasks WHERE status = 'completed' AND task_type = 'code' ORDER BY id",
    );
    expect(done.records.map(({ id }) => ({ id }))).toEqual(expected);
  });
});
