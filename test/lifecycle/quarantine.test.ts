import { describe, expect, it } from "vitest";
import { listAudit } from "../../src/rollout/audit.ts";
import {
  countQuarantine,
  discardQuarantine,
  listQuarantine,
  type Quarantined,
  quarantine,
  release,
  retryQuarantine,
} from "../../src/sync/quarantine.ts";
import { openShop, type Shop, START } from "../support/shop.ts";

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

const keys = (result: { entries: { key: string }[] }) => result.entries.map((one) => one.key);

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
    await put(shop, entry("a"), entry("b", { agent: "support" }), entry("c", { mapping: "tickets", agent: "support" }));
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
    expect(shop.all("SELECT name FROM sqlite_schema WHERE name LIKE 'hive%'")).toEqual([]);
  });
});

describe("discarding", () => {
  it("takes entries out of the count and stays so when they fail again, with an audit entry per agent", async () => {
    await using shop = await openShop();
    await put(shop, entry("a"), entry("b"), entry("c", { agent: "support" }));
    const result = await discardQuarantine(shop.context, { keys: ["a", "c"], reason: "known dirt" });
    expect(result).toEqual({ discarded: 2, dryRun: false });
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
    expect(await discardQuarantine(shop.context, { dryRun: true })).toEqual({ discarded: 1, dryRun: true });
    expect(await discardQuarantine(shop.context, { keys: ["z"] })).toEqual({ discarded: 0, dryRun: false });
    expect(keys(await listQuarantine(shop.context))).toEqual(["a"]);
    expect((await listAudit(shop.context.store.read)).entries.length).toBe(before);
    expect(await discardQuarantine(shop.context)).toEqual({ discarded: 1, dryRun: false });
    expect(await discardQuarantine(shop.context)).toEqual({ discarded: 0, dryRun: false });
  });
});

describe("retrying", () => {
  it("tells on a dry run what would be tried", async () => {
    await using shop = await openShop();
    await put(shop, entry("c1"), entry("gone"));
    const result = await retryQuarantine(shop.context, { keys: ["c1"], dryRun: true });
    expect(result).toMatchObject({ retried: 1, released: 0, entries: [{ key: "c1", attempts: 1 }] });
  });

  it("has nothing to do where nothing matches", async () => {
    await using shop = await openShop();
    expect(await retryQuarantine(shop.context)).toEqual({ retried: 0, released: 0, entries: [] });
  });
});
