import { fork } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { HiveError } from "../../src/errors.ts";
import { Histogram } from "../../src/observe/histogram.ts";
import { byLabel, Metrics, metricsOf, readMetrics, totalOf } from "../../src/observe/metrics.ts";
import { status } from "../../src/observe/status.ts";
import { functionAdapter, functionProbe } from "../../src/registry/adapters.ts";
import { StandardAgent } from "../../src/registry/agent.ts";
import * as schemas from "../../src/results.ts";
import { sql } from "../../src/storage/sql.ts";
import { openWriter } from "../../src/sync/writer.ts";
import { BACKENDS } from "../support/backends.ts";
import { ManualClock, openShop, type Shop } from "../support/shop.ts";

const DIST = resolve(process.env.HIVE_TEST_DIST ?? fileURLToPath(new URL("../../dist", import.meta.url)));
const CHILD = fileURLToPath(new URL("../support/agents-child.mjs", import.meta.url));

const measured = ({ context }: Shop, since = 0) => readMetrics(context.store, context.store.read, since);
const counts = async (shop: Shop, metric: Parameters<typeof byLabel>[1]) =>
  Object.fromEntries([...byLabel(await measured(shop), metric)].map(([label, { count }]) => [label, count]));

/** A clock whose durations are this. */
const ticking = (monotonic: () => number) => Object.assign(new ManualClock(), { monotonic });

describe.each(BACKENDS)("$name", (backend) => {
  const open = (migrated = true) => openShop({ backend, migrated });

  test("several processes add to the same figures, and nothing is lost or counted twice", async () => {
    await using shop = await open();
    expect(existsSync(join(DIST, "index.js")), "npm run build").toBe(true);
    const run = async (ms: number) => {
      const request = { database: shop.url, directory: shop.directory, action: "measure", rounds: 20, each: 5, ms };
      const child = fork(CHILD, [DIST, JSON.stringify(request)]);
      const [answer] = await once(child, "message");
      await once(child, "exit");
      expect(answer).toEqual({ result: null });
    };
    await Promise.all([run(1), run(10), run(100)]);
    const all = await measured(shop);
    const delivery = totalOf(all, "delivery", "reader");
    expect(delivery).toMatchObject({ count: 300, sum: 20 * 5 * 111 });
    expect(delivery.percentiles.p50).toBeGreaterThanOrEqual(10);
    expect(delivery.percentiles.p50).toBeLessThan(11);
    expect(delivery.percentiles.p99).toBeGreaterThanOrEqual(100);
    expect(totalOf(all, "emit", "sold sales").count).toBe(60);
    // Each of them had one left when it ended.
    expect(totalOf(all, "delivery error").count).toBe(3);
  });

  test("figures wait for a write that is made anyway, and for no commit of their own, for ten seconds at most", async () => {
    await using shop = await open();
    const { store } = shop.context;
    let time = 0;
    const clock = ticking(() => time);
    const metrics = new Metrics(store, clock);
    const write = () => metrics.transaction("test", (tx) => tx.all(sql`SELECT 1 AS one`));
    metrics.delivered("reader", 5);
    await write();
    expect(await measured(shop)).toEqual([]);
    time += 10_000;
    const { commits } = store.stats;
    expect(await write()).toEqual([{ one: 1 }]);
    expect(store.stats.commits).toBe(commits + 1);
    expect(await counts(shop, "delivery")).toEqual({ reader: 1 });

    // With nothing to add, nothing is added; then again after ten seconds.
    time += 60_000;
    await write();
    metrics.delivered("reader", 5);
    await write();
    expect(await counts(shop, "delivery")).toEqual({ reader: 2 });
    await metrics.finish();
  });

  test("figures of a transaction that fails are kept for the next one", async () => {
    await using shop = await open();
    let time = 0;
    const metrics = new Metrics(
      shop.context.store,
      ticking(() => time),
    );
    metrics.delivered("reader", 5);
    time += 10_000;
    const failing = metrics.transaction("test", async () => {
      throw new HiveError("GUARD_REFUSED", "no");
    });
    await expect(failing).rejects.toThrow("no");
    metrics.delivered("reader", 5);
    await metrics.finish();
    expect(await counts(shop, "delivery")).toEqual({ reader: 2 });
  });

  test("measuring never fails: not without its table, and not where it cannot be written to", async () => {
    await using bare = await open(false);
    const { store } = bare.context;
    let time = 0;
    const metrics = new Metrics(
      store,
      ticking(() => time),
    );
    metrics.emitted("sold", "sales");
    time += 10_000;
    expect(await metrics.transaction("test", async () => 7)).toBe(7);
    metrics.emitted("sold", "sales");
    await metrics.finish();
    expect(await measured(bare)).toEqual([]);

    await using shop = await open();
    shop.sql(backend.dialect.refuse("hive_metrics", "INSERT", "1 = 1", "no room"));
    const refused = new Metrics(
      shop.context.store,
      ticking(() => time),
    );
    refused.emitted("sold", "sales");
    time += 10_000;
    const written = refused.transaction("test", (tx) =>
      tx.run(sql`INSERT INTO hive_rollout (agent) VALUES ('from the transaction')`),
    );
    expect(await written).toBe(1);
    expect(shop.all("SELECT agent FROM hive_rollout WHERE agent = 'from the transaction'").length).toBe(1);
    await refused.finish();
  });

  test("what is older than a day is forgotten; what is no histogram counts as nothing", async () => {
    await using shop = await open();
    const { context, clock } = shop;
    const metrics = new Metrics(context.store, clock);
    metrics.delivered("old", 1);
    await metrics.flush();
    clock.minutes(24 * 60 - 1);
    metrics.delivered("new", 1);
    await metrics.flush();
    expect(await counts(shop, "delivery")).toEqual({ new: 1, old: 1 });
    shop.sql("UPDATE hive_metrics SET buckets = 'none' WHERE label = 'new'");
    clock.minutes(2);
    metrics.delivered("new", 1);
    await metrics.finish();
    expect(await counts(shop, "delivery")).toEqual({ new: 2 });
    expect((await measured(shop, clock.now() - 60_000)).length).toBe(1);
  });

  test("the writer: each side of what it writes, what it commits and what is rolled back; status shows it", async () => {
    await using shop = await open();
    const { context } = shop;
    expect((await status(context)).measured).toBeNull();
    const writer = openWriter(context, "sales", { table: "parties" });
    const make = (id: string) => writer.create({ parties: [{ id, name: "x", kind: "sales" }] });
    await make("a");
    shop.place("sales", "dualwrite");
    await make("b");
    shop.place("sales", "live");
    await make("c");
    await writer.delete("c");
    shop.place("sales", "complete");
    await make("d");
    await expect(make("d")).rejects.toMatchObject({ code: "RECORD_EXISTS" });
    await expect(writer.transaction(() => Promise.reject(new Error("mine")))).rejects.toThrow("mine");
    const slow = new StandardAgent({
      spec: { name: "sales", registration: { agentId: "sales-1", agentType: "x", capabilities: [], emits: [] } },
      emit: async () => null,
      clock: context.clock,
      metrics: metricsOf(context),
      adapter: functionAdapter((input: { fail?: boolean }) => (input.fail ? Promise.reject(new Error("x")) : 1)),
      probe: functionProbe(() => false),
    });
    await slow.execute({ input: {} });
    await slow.execute({ input: { fail: true } }).catch(() => undefined);
    await slow.healthCheck();
    const metrics = metricsOf(context);
    metrics.emitted("sold", "sales");
    metrics.delivered("reader", 12);
    metrics.deliveryFailed("reader");
    await metrics.finish();

    // Off: the legacy side only. Dualwrite and live: both. Complete: the unified side only.
    expect(await counts(shop, "write")).toEqual({ legacy: 4, unified: 4 });
    expect(await counts(shop, "writer")).toEqual({ create: 4, delete: 1 });
    expect(await counts(shop, "rollback")).toEqual({ RECORD_EXISTS: 1, caller: 1 });
    shop.clock.minutes(9);
    const result = await status(context);
    schemas.status.parse(result);
    expect(result.measured).toMatchObject({
      writes: {
        committed: 5,
        rolledBack: 1,
        refused: 1,
        rollbackRate: 1 / 6,
        legacy: { count: 4 },
        unified: { count: 4 },
      },
      events: { emitted: 1, perMinute: 0.1, byAgent: [{ type: "sold", agent: "sales", emitted: 1 }] },
      delivery: { count: 1, errors: 1 },
      tasks: { count: 1, failed: 1 },
      health: { checks: 1, healthyRate: 0 },
    });
    shop.clock.minutes(60);
    expect((await status(context)).measured).toBeNull();
  });
});

describe("a histogram", () => {
  const durations = fc.array(fc.double({ min: 0, max: 1e9, noNaN: true }), { maxLength: 50 });
  const of = (values: readonly number[]) => {
    const histogram = new Histogram();
    for (const value of values) histogram.add(value);
    return histogram;
  };

  test("comes back from its text, and several together are what one would have been", () => {
    fc.assert(
      fc.property(durations, durations, (some, more) => {
        const merged = Histogram.parse(of(some).toText());
        merged.merge(Histogram.parse(of(more).toText()));
        expect(merged).toEqual(of([...some, ...more]));
        expect(merged.percentiles()).toEqual(of([...some, ...more]).percentiles());
      }),
    );
  });

  test("of what is no text of one is empty", () => {
    for (const text of [
      "",
      "null",
      "[]",
      "7",
      '{"x":1}',
      '{"-1":1}',
      '{"1":-1}',
      '{"1":1.5}',
      '{"9999":1}',
      '{"1":"1"}',
    ]) {
      expect([text, Histogram.parse(text).count]).toEqual([text, 0]);
    }
  });
});
