import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { changeFlags } from "../../src/flags/flags.ts";
import type { Stage } from "../../src/flags/stages.ts";
import { status } from "../../src/observe/status.ts";
import { LEDGER_TABLES, verify } from "../../src/observe/verify.ts";
import * as schemas from "../../src/results.ts";
import type { Store } from "../../src/storage/port.ts";
import { quarantine } from "../../src/sync/quarantine.ts";
import { openShop, type Shop, shopMapping } from "../support/shop.ts";

async function failing(shop: Shop): Promise<Record<string, string>> {
  const result = await verify(shop.context);
  schemas.verify.parse(result);
  const bad = result.checks.filter((check) => !check.ok);
  expect(result.ok).toBe(bad.length === 0);
  return Object.fromEntries(bad.map(({ name, detail }) => [name, detail]));
}

async function look(shop: Shop) {
  const result = await status(shop.context);
  schemas.status.parse(result);
  return result;
}

const commands = async (shop: Shop) => (await look(shop)).next.map(({ command }) => command);

describe("verify", () => {
  it("finds everything in place after migrate up, counted in the ledger", async () => {
    await using shop = await openShop();
    const result = await verify(shop.context);
    schemas.verify.parse(result);
    expect(result.checks.filter((check) => !check.ok)).toEqual([]);
    expect(result).toMatchObject({ ok: true, agents: 2, agentTypes: 2, capabilities: 2, eventTypes: 2 });
    expect(result.tables).toEqual(["parties", "party_orders", "cases", ...LEDGER_TABLES]);
    expect(result.checks.map(({ name }) => name)).toEqual([
      "database",
      "migrations",
      "ledger",
      "unified tables",
      "legacy tables",
      "agents",
      "event types",
      "config",
      "flags",
      "audit",
    ]);
  });

  it("knows the tables that the migrations make", async () => {
    await using shop = await openShop();
    const made = shop.all("SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'hive%'");
    expect(
      made
        .map((row) => row.name)
        .filter((name) => name !== "hive_locks")
        .sort(),
    ).toEqual([...LEDGER_TABLES].sort());
  });

  it("says what to run on a database that hive has never touched, and leaves it so", async () => {
    await using shop = await openShop({ migrated: false });
    const bad = await failing(shop);
    expect(Object.keys(bad)).toEqual(["migrations", "ledger", "unified tables", "agents", "event types", "audit"]);
    for (const detail of Object.values(bad)) expect(detail).toContain("hive migrate up");
    expect(await verify(shop.context)).toMatchObject({
      agents: 0,
      agentTypes: 0,
      capabilities: 0,
      eventTypes: 0,
      tables: [],
    });
    expect(shop.all("SELECT name FROM sqlite_schema WHERE name LIKE 'hive%'")).toEqual([]);
  });

  it("reports columns that read as NULL and tables that may be missing, without failing", async () => {
    await using shop = await openShop();
    const { checks } = await verify(shop.context);
    const detail = checks.find(({ name }) => name === "legacy tables")?.detail;
    expect(detail).toMatch(/not there, which is allowed: wishes/);
    expect(detail).toMatch(/read as NULL: customers.score$/);
  });

  it.each<[string, string, string, RegExp]>([
    ["a missing unified table", "DROP TABLE cases", "unified tables", /missing: cases/],
    ["a missing unified column", "ALTER TABLE parties DROP COLUMN kind", "unified tables", /missing: parties.kind/],
    ["a missing legacy table", "DROP TABLE tickets", "legacy tables", /missing: tickets/],
    [
      "a missing legacy key",
      "ALTER TABLE orders RENAME COLUMN customer_id TO buyer",
      "legacy tables",
      /missing: orders.customer_id/,
    ],
    ["a missing ledger table", "DROP TABLE hive_kept", "ledger", /missing: hive_kept/],
    ["an unregistered agent", "DELETE FROM hive_agents WHERE agent = 'sales'", "agents", /sales/],
    [
      "a changed registration",
      "UPDATE hive_agents SET capabilities = '[]' WHERE agent = 'support'",
      "agents",
      /support/,
    ],
    ["an unregistered event type", "DELETE FROM hive_event_types WHERE event_type = 'sold'", "event types", /sold/],
    [
      "flags of a stranger",
      "INSERT INTO hive_flags VALUES ('stranger', 'dual-write', 'on', 'x')",
      "config",
      /stranger/,
    ],
    [
      "an impossible pair",
      "INSERT INTO hive_flags VALUES ('sales', 'reads', 'live', 'x')",
      "flags",
      /sales has dual-write=off with reads=live/,
    ],
    [
      "a value that no flag has",
      "INSERT INTO hive_flags VALUES ('sales', 'reads', 'on', 'x')",
      "flags",
      /sales has reads=on/,
    ],
    ["a changed audit entry", "UPDATE hive_audit SET actor = 'x' WHERE seq = 1", "audit", /entry 1 was changed/],
    [
      "an altered migration",
      "UPDATE hive_migrations SET checksum = 'x' WHERE name = '0001_shop'",
      "migrations",
      /0001_shop was altered/,
    ],
    [
      "a newer ledger",
      "INSERT INTO hive_migrations SELECT '0099_new', set_name, checksum, applied_at, 0, 0, 99, NULL FROM hive_migrations WHERE set_name = 'hive'",
      "migrations",
      /0099_new is of a newer hive/,
    ],
  ])("notices %s", async (_, text, check, detail) => {
    await using shop = await openShop();
    shop.sql(text);
    expect(await failing(shop)).toEqual({ [check]: expect.stringMatching(detail) });
  });

  it("notices a migration whose file is gone, one that is pending, and one that comes too late", async () => {
    await using shop = await openShop();
    const folder = join(shop.directory, "migrations");
    writeFileSync(join(folder, "0003_more.sql"), "-- migrate:up\nCREATE TABLE more (a);\n");
    expect(await failing(shop)).toEqual({ migrations: expect.stringMatching(/pending: 0003_more.*hive migrate up/) });
    writeFileSync(join(folder, "0000_late.sql"), "-- migrate:up\nCREATE TABLE late (a);\n");
    expect((await failing(shop)).migrations).toMatch(/0000_late is pending and comes before/);
    rmSync(join(folder, "0001_shop.sqlite.sql"));
    expect((await failing(shop)).migrations).toMatch(/0001_shop was applied and its file is missing/);
    rmSync(folder, { recursive: true });
    expect(Object.keys(await failing(shop))).toEqual(["migrations"]);
  });

  it("notices an agent in the config that nobody knows", async () => {
    await using shop = await openShop();
    await using context = shop.open({ settings: { agents: { sails: { wave: 1 } } } });
    const { checks } = await verify(context);
    expect(checks.find(({ name }) => name === "config")).toMatchObject({
      ok: false,
      detail: expect.stringContaining("sails"),
    });
  });

  it("lets others register agents of their own", async () => {
    await using shop = await openShop();
    shop.sql("INSERT INTO hive_agents VALUES ('other', 'other-1', 'other', '[\"x\"]', '[]', 'x')");
    expect(await failing(shop)).toEqual({});
    expect(await verify(shop.context)).toMatchObject({ agents: 3, capabilities: 3 });
  });
});

describe("status", () => {
  it("of a database that hive has never touched: migrate", async () => {
    await using shop = await openShop({ migrated: false });
    expect(await look(shop)).toMatchObject({
      phase: "none",
      database: { location: shop.path, dialect: "sqlite", touched: false },
      migrations: { current: null, head: false, pending: 2, problems: [] },
      agents: [
        {
          agent: "sales",
          stage: "off",
          authority: "legacy",
          events: false,
          backfill: "none",
          lastCheck: null,
          quarantined: 0,
        },
        { agent: "support", stage: "off" },
        { agent: "auditor", stage: "off" },
      ],
      quarantine: 0,
      problems: [],
      next: [{ command: "hive migrate up" }],
    });
    expect(shop.all("SELECT name FROM sqlite_schema WHERE name LIKE 'hive%'")).toEqual([]);
  });

  it("of a database that is no database of this mapping says so", async () => {
    await using shop = await openShop({ migrated: false });
    shop.sql("DROP TABLE customers");
    expect(await look(shop)).toMatchObject({
      problems: [expect.stringMatching(/customers/)],
      next: [{ command: "hive verify" }, { command: "hive migrate up" }],
    });
  });

  it("leads one agent at a time through the whole journey, and the guards agree", async () => {
    await using shop = await openShop();
    expect(await look(shop)).toMatchObject({
      phase: "A",
      migrations: { current: "0001_shop", head: true, pending: 0 },
    });
    expect(await commands(shop)).toEqual(["hive verify", "hive flags enable sales --flag dual-write"]);
    await changeFlags(shop.context, [{ agent: "auditor", flag: "unified-events", value: "on" }]);
    expect(await look(shop)).toMatchObject({ phase: "B" });
    for (const agent of ["sales", "support", "auditor"]) {
      const follow = async (flag: "dual-write" | "reads", value: string, command: string) => {
        expect((await commands(shop)).at(-1)).toBe(command);
        shop.clock.minutes(1);
        await changeFlags(shop.context, [{ agent, flag, value }]);
      };
      const checked = async () => {
        expect(await commands(shop)).toEqual([`hive check ${agent}`]);
        shop.check(agent);
      };
      await follow("dual-write", "on", `hive flags enable ${agent} --flag dual-write`);
      expect(await look(shop)).toMatchObject({ phase: "C" });
      expect(await commands(shop)).toEqual([`hive backfill ${agent}`]);
      shop.finishBackfill(agent);
      await checked();
      await follow("reads", "shadow", `hive flags set ${agent} reads=shadow`);
      await checked();
      shop.clock.minutes(90);
      await checked();
      await follow("reads", "live", `hive flags set ${agent} reads=live`);
      await checked();
      await follow("reads", "unified", `hive flags set ${agent} reads=unified`);
      await checked();
      await follow("dual-write", "off", `hive flags disable ${agent} --flag dual-write`);
    }
    expect(await look(shop)).toMatchObject({ phase: "D", problems: [], next: [{ command: "hive verify" }] });
  });

  it("follows the waves: together within one, the others after it", async () => {
    await using shop = await openShop();
    await using context = shop.open({
      settings: { agents: { auditor: { wave: 1 }, support: { wave: 1 }, sales: { wave: 2 } } },
    });
    const next = async () => (await status(context)).next.at(-1)?.command;
    expect(await next()).toBe("hive flags enable support --flag dual-write");
    shop.place("support", "dualwrite");
    expect(await next()).toBe("hive flags enable auditor --flag dual-write");
    shop.place("support", "complete");
    shop.place("auditor", "complete");
    expect(await next()).toBe("hive flags enable sales --flag dual-write");
  });

  it("tells of every problem, the worst first, and what mends it", async () => {
    await using shop = await openShop();
    shop.sql("UPDATE hive_migrations SET checksum = 'x' WHERE name = '0001_shop'; DROP TABLE cases");
    shop.sql("INSERT INTO hive_flags VALUES ('sales', 'reads', 'shadow', 'x'), ('stranger', 'reads', 'live', 'x')");
    shop.place("support", "shadow");
    shop.finishBackfill("support", "stale");
    shop.check("support", 3);
    await shop.context.store.transaction("test", async (tx) => {
      const entry = { mapping: "customers", agent: "support", direction: "up", reason: "r" } as const;
      await quarantine(tx, shop.context, { ...entry, key: "a" });
      await quarantine(tx, shop.context, { ...entry, key: "b" });
    });
    const result = await look(shop);
    expect(result.problems).toEqual([
      expect.stringMatching(/0001_shop was altered/),
      expect.stringMatching(/unified side is not complete: cases/),
      expect.stringMatching(/sales has dual-write=off with reads=shadow/),
      expect.stringMatching(/flags of stranger/),
      expect.stringMatching(/support has drifted: 3 aggregates differ/),
      expect.stringMatching(/support is at shadow, and its backfill is stale/),
      expect.stringMatching(/2 aggregates are in quarantine \(support 2\)/),
    ]);
    expect(result).toMatchObject({ phase: "none", quarantine: 2 });
    expect(result.agents[1]).toMatchObject({
      agent: "support",
      backfill: "stale",
      quarantined: 2,
      lastCheck: { at: shop.clock.iso(), consistent: false, drift: 3, ageMs: 0, fresh: true },
    });
    expect(result.next.map(({ command }) => command)).toEqual([
      "hive migrate status",
      "hive verify",
      "hive rollback --agent sales",
      "hive check support --repair",
      "hive backfill support",
      "hive quarantine list",
    ]);
  });

  it.each<[Stage, number]>([
    ["off", 0],
    ["dualwrite", 1],
    ["live", 1],
    ["complete", 0],
  ])("takes drift at %s for a problem only while both sides are written", async (stage, problems) => {
    await using shop = await openShop();
    shop.place("sales", stage);
    shop.check("sales", 1);
    expect((await look(shop)).problems).toHaveLength(problems);
  });

  it("does not suggest a backfill where the unified side leads", async () => {
    await using shop = await openShop();
    shop.place("sales", "live");
    shop.finishBackfill("sales", "stale");
    expect(await commands(shop)).toEqual(["hive check sales"]);
  });

  it("shows what a broken folder of migrations leaves to show", async () => {
    await using shop = await openShop();
    rmSync(join(shop.directory, "migrations"), { recursive: true });
    expect(await look(shop)).toMatchObject({
      migrations: { current: "0001_shop", head: false, problems: [expect.stringContaining("migrations")] },
      agents: shopMapping.agents.map(({ name }) => ({ agent: name })),
    });
  });

  it("reads no row of the tables that are migrated", async () => {
    await using shop = await openShop();
    const seen: string[] = [];
    const { store } = shop.context;
    const spying: Store = Object.create(store, {
      snapshot: {
        value: <T>(work: Parameters<typeof store.snapshot<T>>[0]) =>
          store.snapshot<T>((session) =>
            work({
              all: (query) => {
                seen.push(query.parts.map((part) => (typeof part === "string" ? part : "?")).join(""));
                return session.all(query);
              },
              tuples: session.tuples.bind(session),
              tuplesWithin: session.tuplesWithin.bind(session),
              run: session.run.bind(session),
            }),
          ),
      },
    });
    await status({ ...shop.context, store: spying });
    expect(seen.length).toBeGreaterThan(5);
    for (const text of seen) expect(text).not.toMatch(/FROM (customers|orders|tickets|parties|cases)/);
  });
});
