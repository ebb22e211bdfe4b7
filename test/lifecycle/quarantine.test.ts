import { describe, expect, it } from "vitest";
import { listAudit } from "../../src/rollout/audit.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { check } from "../../src/sync/check.ts";
import { listKept } from "../../src/sync/kept.ts";
import {
  countQuarantine,
  discardQuarantine,
  listQuarantine,
  type Quarantined,
  quarantine,
  REPAIR_LOCK,
  release,
  retryQuarantine,
} from "../../src/sync/quarantine.ts";
import { BACKENDS } from "../support/backends.ts";
import { platformContext } from "../support/legacy-platform.ts";
import { openShop as openShopOn, type Shop, type ShopOptions, START } from "../support/shop.ts";

const entry = (key: string, more: Partial<Quarantined> = {}): Quarantined => ({
  mapping: "customers",
  key,
  agent: "sales",
  direction: "up",
  reason: `the name of ${key} is empty`,
  ...more,
});

async function put(shop: Shop, ...entries: Quarantined[]): Promise<void> {
  await shop.context.store.transaction("test", async (tx) => {
    for (const one of entries) await quarantine(tx, shop.context, one);
  });
}

/** As it is listed afterwards. */
const stored = (shop: Shop, one: Quarantined) => ({
  ...one,
  state: "quarantined",
  at: shop.clock.iso(),
  attempts: 1,
});

const keys = (result: { entries: { key: string }[] }) => result.entries.map((one) => one.key);

describe.each(BACKENDS)("$name", (backend) => {
  const openShop = (options: ShopOptions = {}) => openShopOn({ ...options, backend });
  const hiveTables = (shop: Shop) =>
    shop.all(backend.dialect.tables).flatMap(({ name }) => (String(name).startsWith("hive") ? [String(name)] : []));

  describe("quarantine", () => {
    it("keeps the reason, and counts the attempts", async () => {
      await using shop = await openShop();
      await put(shop, entry("c1"));
      shop.clock.minutes(5);
      await put(shop, entry("c1", { reason: "the name is still empty", direction: "down" }));
      expect((await listQuarantine(shop.context)).entries).toEqual([
        {
          mapping: "customers",
          key: "c1",
          agent: "sales",
          direction: "down",
          reason: "the name is still empty",
          state: "quarantined",
          at: new Date(START + 5 * 60_000).toISOString(),
          attempts: 2,
        },
      ]);
    });

    it("tells the same key of two mappings apart", async () => {
      await using shop = await openShop();
      await put(shop, entry("1"), entry("1", { mapping: "tickets", agent: "support" }));
      expect(await shop.context.store.transaction("test", (tx) => release(tx, "customers", ["1", "2"]))).toBe(1);
      expect((await listQuarantine(shop.context)).entries).toMatchObject([{ mapping: "tickets", key: "1" }]);
    });

    it("releases any number of keys", async () => {
      await using shop = await openShop();
      const many = Array.from({ length: 1_203 }, (_, i) => `k${i}`);
      await put(shop, ...many.map((key) => entry(key)));
      const count = () => shop.context.store.snapshot(countQuarantine);
      expect(await count()).toEqual(new Map([["sales", 1_203]]));
      expect(await shop.context.store.transaction("test", (tx) => release(tx, "customers", many))).toBe(1_203);
      expect(await shop.context.store.transaction("test", (tx) => release(tx, "customers", []))).toBe(0);
      expect(await count()).toEqual(new Map());
    });

    it("goes with the transaction that it is part of", async () => {
      await using shop = await openShop();
      const failing = shop.context.store.transaction("test", async (tx) => {
        await quarantine(tx, shop.context, entry("c1"));
        throw new Error("no");
      });
      await expect(failing).rejects.toThrow("no");
      expect(keys(await listQuarantine(shop.context))).toEqual([]);
    });

    it("is filtered by agent, mapping and key", async () => {
      await using shop = await openShop();
      await put(
        shop,
        entry("a"),
        entry("b", { agent: "support" }),
        entry("c", { mapping: "tickets", agent: "support" }),
      );
      expect(keys(await listQuarantine(shop.context, { agents: ["support"] }))).toEqual(["b", "c"]);
      expect(keys(await listQuarantine(shop.context, { agents: ["sales-1"] }))).toEqual(["a"]);
      expect(keys(await listQuarantine(shop.context, { mapping: "tickets" }))).toEqual(["c"]);
      expect(keys(await listQuarantine(shop.context, { keys: ["a", "c", "z"] }))).toEqual(["a", "c"]);
      expect(keys(await listQuarantine(shop.context, { agents: [], keys: [] }))).toEqual(["a", "b", "c"]);
      await expect(listQuarantine(shop.context, { agents: ["suport"] })).rejects.toMatchObject({
        code: "UNKNOWN_AGENT",
        details: { nearest: "support" },
      });
      await expect(listQuarantine(shop.context, { mapping: "ticket" })).rejects.toMatchObject({
        code: "UNKNOWN_NAME",
        details: { nearest: "tickets" },
      });
    });

    it("is empty on a database that hive has never touched, and cannot be changed there", async () => {
      await using shop = await openShop({ migrated: false });
      expect(await listQuarantine(shop.context, { all: true })).toEqual({ entries: [] });
      await expect(discardQuarantine(shop.context)).rejects.toMatchObject({ code: "NOT_MIGRATED", exitCode: 4 });
      await expect(retryQuarantine(shop.context)).rejects.toMatchObject({ code: "NOT_MIGRATED", exitCode: 4 });
      expect(hiveTables(shop)).toEqual([]);
    });
  });

  describe("discarding", () => {
    it("takes entries out of the count and stays so when they fail again, with an audit entry per agent", async () => {
      await using shop = await openShop();
      await put(shop, entry("a"), entry("b"), entry("c", { agent: "support" }));
      const result = await discardQuarantine(shop.context, { keys: ["a", "c"], reason: "known dirt" });
      const discarded = [
        { ...stored(shop, entry("a")), state: "discarded" },
        { ...stored(shop, entry("c", { agent: "support" })), state: "discarded" },
      ];
      expect(result).toEqual({ discarded: 2, entries: discarded, dryRun: false });
      expect(keys(await listQuarantine(shop.context))).toEqual(["b"]);
      expect(await shop.context.store.snapshot(countQuarantine)).toEqual(new Map([["sales", 1]]));

      await put(shop, entry("a"));
      const all = await listQuarantine(shop.context, { all: true });
      expect(all.entries.map(({ key, state, attempts }) => [key, state, attempts])).toEqual([
        ["a", "discarded", 2],
        ["b", "quarantined", 1],
        ["c", "discarded", 1],
      ]);
      const { entries } = await listAudit(shop.context.store.read, { action: "quarantine discard" });
      expect(entries).toMatchObject([
        {
          agent: "sales",
          reason: "known dirt",
          after: { state: "discarded", entries: [{ mapping: "customers", key: "a" }] },
        },
        { agent: "support", after: { entries: [{ key: "c" }] } },
      ]);
    });

    it("writes nothing on a dry run, and nothing where nothing matches", async () => {
      await using shop = await openShop();
      await put(shop, entry("a"));
      const before = (await listAudit(shop.context.store.read)).entries.length;
      expect(await discardQuarantine(shop.context, { dryRun: true })).toEqual({
        discarded: 1,
        entries: [stored(shop, entry("a"))],
        dryRun: true,
      });
      const nothing = { discarded: 0, entries: [], dryRun: false };
      expect(await discardQuarantine(shop.context, { keys: ["z"] })).toEqual(nothing);
      expect(keys(await listQuarantine(shop.context))).toEqual(["a"]);
      expect((await listAudit(shop.context.store.read)).entries.length).toBe(before);
      expect(await discardQuarantine(shop.context)).toMatchObject({ discarded: 1, entries: [{ key: "a" }] });
      expect(await discardQuarantine(shop.context)).toEqual(nothing);
    });
  });

  describe("retrying", () => {
    it("tells on a dry run what would be tried", async () => {
      await using shop = await openShop();
      await put(shop, entry("c1"), entry("gone"));
      const result = await retryQuarantine(shop.context, { keys: ["c1"], dryRun: true });
      expect(result).toMatchObject({ retried: 1, released: 0, entries: [{ key: "c1", attempts: 1 }] });
    });

    it("leaves what was discarded alone, unless it is asked for all", async () => {
      await using shop = await openShop();
      await put(shop, entry("c1"), entry("c2"));
      await discardQuarantine(shop.context, { keys: ["c1"] });
      expect(await retryQuarantine(shop.context, { dryRun: true })).toMatchObject({ retried: 1, dryRun: true });
      expect(await retryQuarantine(shop.context, { dryRun: true, all: true })).toMatchObject({
        retried: 2,
        entries: [{ key: "c1" }, { key: "c2" }],
      });
      expect(await retryQuarantine(shop.context)).toMatchObject({ retried: 1, released: 1 });
      expect(await retryQuarantine(shop.context, { all: true })).toMatchObject({
        retried: 1,
        released: 1,
        entries: [],
      });
    });

    it("waits for whoever settles aggregates already, as discarding and repairing do, and names him", async () => {
      await using shop = await openShop();
      await put(shop, entry("c1"));
      await using other = shop.open();
      const options = { lockTimeoutMs: 0 };
      await other.store.withLock(REPAIR_LOCK, { purpose: "the other one" }, async () => {
        for (const attempt of [
          () => retryQuarantine(shop.context, options),
          () => discardQuarantine(shop.context, options),
          () => check(shop.context, { ...options, repair: true }),
        ]) {
          await expect(attempt()).rejects.toMatchObject({ code: "LOCK_HELD", details: { holder: "the other one" } });
        }
        // What only looks waits for nobody.
        await retryQuarantine(shop.context, { ...options, dryRun: true });
        await discardQuarantine(shop.context, { ...options, dryRun: true });
        await check(shop.context, { ...options, repair: true, dryRun: true });
        await check(shop.context, options);
      });
      expect(await discardQuarantine(shop.context, options)).toMatchObject({ discarded: 1 });
    });

    it("has nothing to do where nothing matches", async () => {
      await using shop = await openShop();
      expect(await retryQuarantine(shop.context)).toEqual({ retried: 0, released: 0, entries: [], dryRun: false });
    });
  });

  describe("what was kept", () => {
    const keep = (shop: Shop, key: string, aggregate: string, agent = "sales") =>
      shop.sql(`INSERT INTO hive_kept (at, mapping, key, agent, side, reason, aggregate)
        VALUES ('${shop.clock.iso()}', 'customers', '${key}', '${agent}', 'unified', 'because of ${key}', '${aggregate}')`);

    it("is listed page by page, the oldest first, and filtered", async () => {
      await using shop = await openShop();
      for (const key of ["a", "b", "c"]) keep(shop, key, `{"parties":[{"id":"${key}"}]}`);
      keep(shop, "lost", "no JSON", "");
      const first = await listKept(shop.context, { limit: 2 });
      expect(first).toEqual({
        entries: ["a", "b"].map((key, i) => ({
          seq: i + 1,
          at: shop.clock.iso(),
          mapping: "customers",
          key,
          agent: "sales",
          side: "unified",
          reason: `because of ${key}`,
          aggregate: { parties: [{ id: key }] },
        })),
        total: 4,
        next: 2,
      });
      const second = await listKept(shop.context, { limit: 2, after: first.next ?? 0 });
      expect(second).toMatchObject({
        entries: [{ key: "c" }, { key: "lost", aggregate: "no JSON" }],
        total: 4,
        next: null,
      });
      expect(await listKept(shop.context, { agents: ["sales-1"], keys: ["b", "lost"] })).toMatchObject({
        entries: [{ key: "b" }],
        total: 1,
      });
      await expect(listKept(shop.context, { mapping: "customer" })).rejects.toMatchObject({
        code: "UNKNOWN_NAME",
        details: { nearest: "customers" },
      });
      await expect(listKept(shop.context, { agents: ["sals"] })).rejects.toMatchObject({ code: "UNKNOWN_AGENT" });
    });

    it("is nothing on a database that hive has never touched", async () => {
      await using shop = await openShop({ migrated: false });
      expect(await listKept(shop.context)).toEqual({ entries: [], total: 0, next: null });
    });
  });

  it("keeps what the database refuses again, also when a neighbour of it can be written now", async () => {
    const { create, dialect } = backend;
    const task = (key: string) => `INSERT INTO tasks (id, title, task_type) VALUES ('${key}', '${key}', 'backend');`;
    const place = await create({ legacy: "text", rows: `${task("a")} ${task("b")}` });
    await using context = platformContext(place.url);
    await migrateUp(context);
    place.execute(dialect.refuse("unified_tasks", "INSERT", "NEW.id = 'a'", "not this one"));
    expect((await backfill(context)).aggregates).toMatchObject({ written: 1, quarantined: 1 });
    place.execute("DELETE FROM unified_tasks WHERE id = 'b'");
    expect((await backfill(context)).aggregates).toMatchObject({ written: 1, quarantined: 1 });
    expect(keys(await listQuarantine(context))).toEqual(["a"]);
    expect(await check(context)).toMatchObject({ consistent: true, quarantined: 1, missing: 0 });
  });
});
