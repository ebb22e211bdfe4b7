import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { changeFlags } from "../../src/flags/flags.ts";
import type { Stage } from "../../src/flags/stages.ts";
import { status } from "../../src/observe/status.ts";
import { ledgerTables, verify } from "../../src/observe/verify.ts";
import * as schemas from "../../src/results.ts";
import { audit } from "../../src/rollout/audit.ts";
import type { Store } from "../../src/storage/port.ts";
import { adjustCapture, NO_SIDES, renewCapture } from "../../src/sync/capture.ts";
import { check } from "../../src/sync/check.ts";
import { quarantine } from "../../src/sync/quarantine.ts";
import { sync } from "../../src/sync/sync.ts";
import { BACKENDS } from "../support/backends.ts";
import { hiveInProcess } from "../support/cli.ts";
import { openShop as openShopOn, type Shop, type ShopOptions, shopMapping } from "../support/shop.ts";
import { smallPlatformOn } from "../support/small-platform.ts";

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

/** Puts up the triggers that flags written by SQL ask for, as if a flip had. */
async function capture({ context }: Shop): Promise<void> {
  await context.store.transaction("test", (tx) => adjustCapture(tx, context, NO_SIDES));
}

const commands = async (shop: Shop) => (await look(shop)).next.map(({ command }) => command);

describe.each(BACKENDS)("$name", (backend) => {
  const openShop = (options: ShopOptions = {}) => openShopOn({ ...options, backend });
  const hiveTables = (shop: Shop) =>
    shop.all(backend.dialect.tables).flatMap(({ name }) => (String(name).startsWith("hive") ? [String(name)] : []));

  const triggerOf = (table: string, kind: string) =>
    backend.name === "postgres" ? `hive_capture_${kind}` : `hive_capture_${table}_${kind}`;
  const dropTrigger = (table: string, kind: string) =>
    `DROP TRIGGER ${triggerOf(table, kind)}${backend.name === "postgres" ? ` ON ${table}` : ""}`;
  /** One of this name that does nothing. */
  const makeTrigger = (table: string, kind: string) =>
    backend.name === "postgres"
      ? `CREATE TRIGGER ${triggerOf(table, kind)} BEFORE ${kind} ON ${table} FOR EACH ROW
           EXECUTE FUNCTION suppress_redundant_updates_trigger()`
      : `CREATE TRIGGER ${triggerOf(table, kind)} AFTER ${kind} ON ${table} BEGIN SELECT 1; END`;

  describe("verify", () => {
    it("finds everything in place after migrate up, counted in the ledger", async () => {
      await using shop = await openShop();
      const result = await verify(shop.context);
      schemas.verify.parse(result);
      expect(result.checks.filter((check) => !check.ok)).toEqual([]);
      expect(result).toMatchObject({ ok: true, agents: 2, agentTypes: 2, capabilities: 2, eventTypes: 2 });
      expect(result.tables).toEqual(["parties", "party_orders", "cases", ...ledgerTables(shop.context.store.dialect)]);
      expect(result.checks.map(({ name }) => name)).toEqual([
        "database",
        "migrations",
        "ledger",
        "unified tables",
        "legacy tables",
        "agents",
        "event types",
        "subscribers",
        "config",
        "flags",
        "capture",
        "audit",
      ]);
    });

    it("knows the tables that the migrations make", async () => {
      await using shop = await openShop();
      const made = hiveTables(shop).filter((name) => name !== "hive_locks");
      expect(made.sort()).toEqual([...ledgerTables(shop.context.store.dialect)].sort());
    });

    it("says what to run on a database that hive has never touched, and leaves it so", async () => {
      await using shop = await openShop({ migrated: false });
      const bad = await failing(shop);
      expect(Object.keys(bad)).toEqual([
        "migrations",
        "ledger",
        "unified tables",
        "agents",
        "event types",
        "capture",
        "audit",
      ]);
      for (const detail of Object.values(bad)) expect(detail).toContain("hive migrate up");
      expect(await verify(shop.context)).toMatchObject({
        agents: 0,
        agentTypes: 0,
        capabilities: 0,
        eventTypes: 0,
        tables: [],
      });
      expect(hiveTables(shop)).toEqual([]);
    });

    it("says when a subscriber has expired, or is silent", async () => {
      await using shop = await openShop();
      const subscriber = (name: string, state: string, seenAt: string) =>
        shop.sql(`INSERT INTO hive_subscribers (name, patterns, checkpoint, state, created_at, seen_at, delivered, failed, epoch)
          VALUES ('${name}', '["*"]', 0, '${state}', '${shop.clock.iso()}', '${seenAt}', 0, 0, 0)`);
      subscriber("alive", "active", shop.clock.iso());
      expect(await failing(shop)).toEqual({});
      subscriber("gone", "expired", shop.clock.iso());
      expect(Object.values(await failing(shop))).toEqual([
        expect.stringMatching(/^1 subscriber has expired \(gone, which nobody has run since/),
      ]);
      shop.sql("DELETE FROM hive_subscribers WHERE name = 'gone'");
      shop.clock.minutes(6);
      expect(Object.values(await failing(shop))).toEqual([expect.stringMatching(/^alive was last seen at 2026/)]);
      shop.sql("UPDATE hive_subscribers SET seen_at = 'no time'");
      expect(await failing(shop)).toHaveProperty("subscribers");
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
        "INSERT INTO hive_migrations SELECT '0099_new', set_name, checksum, applied_at, 0, 0, 99, NULL FROM hive_migrations WHERE set_name = 'hive' LIMIT 1",
        "migrations",
        /0099_new is of a newer hive/,
      ],
    ])("notices %s", async (_, text, check, detail) => {
      await using shop = await openShop();
      shop.sql(text);
      expect(await failing(shop)).toEqual({ [check]: expect.stringMatching(detail) });
    });

    it("notices flags that SQL wrote: a pair that is no stage, and that nothing is captured for it", async () => {
      await using shop = await openShop();
      shop.sql("INSERT INTO hive_flags VALUES ('sales', 'reads', 'live', 'x')");
      expect(await failing(shop)).toEqual({
        flags: expect.stringMatching(/sales has dual-write=off with reads=live/),
        capture: expect.stringMatching(/missing or do not fit the table: customers, orders, parties.*hive sync/),
      });
    });

    it("notices a migration whose file is gone, one that is pending, and one that comes too late", async () => {
      await using shop = await openShop();
      const folder = join(shop.directory, "migrations");
      writeFileSync(join(folder, "0003_more.sql"), "-- migrate:up\nCREATE TABLE more (a);\n");
      expect(await failing(shop)).toEqual({ migrations: expect.stringMatching(/pending: 0003_more.*hive migrate up/) });
      writeFileSync(join(folder, "0000_late.sql"), "-- migrate:up\nCREATE TABLE late (a);\n");
      expect((await failing(shop)).migrations).toMatch(/0000_late is pending and comes before/);
      rmSync(join(folder, "0001_shop.sql"));
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
        database: { location: shop.context.store.location, dialect: backend.name, touched: false },
        migrations: { current: null, head: false, pending: 4, problems: [] },
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
      expect(hiveTables(shop)).toEqual([]);
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
      const next = async () => {
        await capture(shop);
        return (await status(context)).next.at(-1)?.command;
      };
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
        expect.stringMatching(/triggers are missing or do not fit.*customers, orders, tickets may go unnoticed/),
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
        "hive sync",
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
      await capture(shop);
      shop.check("sales", 1);
      expect((await look(shop)).problems).toHaveLength(problems);
    });

    it("does not suggest a backfill where the unified side leads", async () => {
      await using shop = await openShop();
      shop.place("sales", "live");
      await capture(shop);
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
                dialect: session.dialect,
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

  describe("capture, as verify and status see it", () => {
    async function dualwrite(shop: Shop): Promise<void> {
      await changeFlags(shop.context, [{ agent: "sales", flag: "dual-write", value: "on" }]);
      await sync(shop.context);
    }
    const parties = (shop: Shop) => shop.all("SELECT id, name FROM parties ORDER BY id");

    it.each<[string, string]>([
      ["a trigger that was dropped", dropTrigger("customers", "update")],
      [
        "a trigger that was made anew by somebody else",
        `${dropTrigger("customers", "update")}; ${makeTrigger("customers", "update")}`,
      ],
      [
        "a table that was made anew",
        `CREATE TABLE customers_new (id TEXT PRIMARY KEY, name TEXT, kind TEXT, phone TEXT);
         INSERT INTO customers_new SELECT id, name, kind, NULL FROM customers;
         DROP TABLE customers; ALTER TABLE customers_new RENAME TO customers`,
      ],
    ])("%s is noticed; sync puts it right and finds what was written meanwhile", async (_, text) => {
      await using shop = await openShop();
      await dualwrite(shop);
      expect(await failing(shop)).toEqual({});
      shop.sql(text);
      shop.sql("UPDATE customers SET name = 'Eve' WHERE id = 'c1'");
      expect(await look(shop)).toMatchObject({
        capture: { needed: { legacy: true, unified: false }, captured: 2, broken: ["customers"], gaps: [] },
        lag: { changes: 0, oldestMs: null },
        problems: [expect.stringMatching(/writes to customers may go unnoticed/)],
        // Nobody goes forward while writes may go unnoticed.
        next: [{ command: "hive sync" }],
      });
      expect(await failing(shop)).toEqual({
        capture: expect.stringMatching(/do not fit the table: customers: run `hive sync`/),
      });
      expect(await sync(shop.context)).toMatchObject({ renewed: ["customers"], remaining: 0 });
      expect(parties(shop)).toContainEqual({ id: "c1", name: "Eve" });
      expect(await look(shop)).toMatchObject({ capture: { captured: 3, broken: [], gaps: [] }, problems: [] });
      expect(await failing(shop)).toEqual({});
    });

    it("a gap that is not filled yet is named by both", async () => {
      await using shop = await openShop();
      await dualwrite(shop);
      shop.sql(dropTrigger("tickets", "insert"));
      expect(await renewCapture(shop.context)).toEqual(["tickets"]);
      expect(await look(shop)).toMatchObject({
        capture: { captured: 3, broken: [], gaps: ["tickets"] },
        problems: [expect.stringMatching(/tickets had no fitting triggers for a while/)],
        next: [{ command: "hive sync" }],
      });
      expect(await failing(shop)).toEqual({ capture: expect.stringMatching(/for a while: tickets/) });
      await sync(shop.context);
      expect(await failing(shop)).toEqual({});
    });

    it("a column more changes what aggregates become: noticed, nothing is missed, and each is looked at again", async () => {
      await using shop = await openShop();
      await dualwrite(shop);
      shop.sql("ALTER TABLE customers ADD COLUMN phone TEXT; UPDATE customers SET phone = '1', name = 'Eve'");
      expect(Object.keys(await failing(shop))).toEqual(["capture"]);
      expect(await look(shop)).toMatchObject({
        capture: { broken: ["customers"] },
        lag: { changes: 2 },
        problems: [
          expect.stringMatching(/^customers was altered: writes are noted/),
          expect.stringMatching(/2 changes/),
        ],
        next: [{ command: "hive sync" }, { command: "hive sync --watch" }],
      });
      expect(await sync(shop.context)).toMatchObject({ renewed: ["customers"], remaining: 0 });
      expect(parties(shop)).toContainEqual({ id: "c1", name: "Eve" });
      expect(await failing(shop)).toEqual({});
    });

    it.skipIf(backend.name === "postgres")(
      "(no mark of PostgreSQL's outlives its transaction) a mark that was left behind is the first thing to mend, and what was not noted is found",
      async () => {
        await using shop = await openShop();
        await dualwrite(shop);
        shop.sql("INSERT INTO hive_applying VALUES (1); UPDATE customers SET name = 'Eve' WHERE id = 'c1'");
        expect(await look(shop)).toMatchObject({
          lag: { changes: 0 },
          problems: [expect.stringMatching(/mark was left in hive_applying/)],
        });
        expect(await failing(shop)).toEqual({ capture: expect.stringMatching(/hive_applying/) });
        await sync(shop.context);
        expect(parties(shop)).toContainEqual({ id: "c1", name: "Eve" });
        expect(await failing(shop)).toEqual({});
        expect((await look(shop)).problems).toEqual([]);
      },
    );

    it("triggers that nobody needs are named", async () => {
      await using shop = await openShop();
      shop.sql(makeTrigger("tickets", "insert"));
      expect(await failing(shop)).toEqual({ capture: expect.stringMatching(/nobody needs: hive_capture_/) });
      await sync(shop.context);
      expect(await failing(shop)).toEqual({});
    });

    it("a ledger of an older hive: verify says what to run, status and check work", async () => {
      await using shop = await openShop();
      const all = ledgerTables(shop.context.store.dialect);
      const tables = all.slice(all.indexOf("hive_changes"));
      const functions =
        backend.name === "sqlite" ? "" : "DROP FUNCTION hive.hive_uuid7(); DROP FUNCTION hive.hive_now();";
      shop.sql(`DROP VIEW hive_flag_values; ${tables.map((table) => `DROP TABLE ${table}`).join("; ")}; ${functions}
        DELETE FROM hive_migrations WHERE name LIKE '0003%' OR name LIKE '0004%'`);
      shop.place("sales", "dualwrite");
      const bad = await failing(shop);
      expect(Object.keys(bad)).toEqual(["migrations", "ledger", "capture"]);
      expect(bad.capture).toMatch(/without hive_changes, .*hive migrate up/);
      expect(await look(shop)).toMatchObject({
        capture: { needed: { legacy: false, unified: false }, captured: 0, broken: [], gaps: [] },
        lag: { changes: 0, oldestMs: null },
        next: [{ command: "hive migrate up" }],
      });
      expect(await check(shop.context)).toMatchObject({ compared: 1, missing: 1, inFlight: 0, recorded: true });
      await expect(check(shop.context, { changed: true })).rejects.toMatchObject({ code: "NOT_MIGRATED" });
    });
  });

  describe("what status says of the work", () => {
    const julianDay = (at: string) => Date.parse(`${at}Z`) / 86_400_000 + 2_440_587.5;
    const waiting = (shop: Shop, key: string, at: string) =>
      shop.sql(
        `INSERT INTO hive_changes (side, source, key, at) VALUES ('legacy', 'parties', '${key}', ${julianDay(at)})`,
      );

    it("changes wait: for nobody, for a sync that works, for one that lags", async () => {
      await using shop = await openShop();
      await changeFlags(shop.context, [{ agent: "sales", flag: "dual-write", value: "on" }]);
      shop.sql("DELETE FROM hive_changes");
      waiting(shop, "c1", "2026-11-23 11:59:40");
      expect(await look(shop)).toMatchObject({
        lag: { changes: 1, oldestMs: 20_000 },
        sync: { running: false, holder: null, since: null },
        problems: ["1 change waits and no sync is running"],
        next: [{ command: "hive sync --watch" }, { command: "hive backfill sales" }],
      });
      await using other = shop.open();
      await other.store.withLock("sync", { purpose: "hive sync --watch" }, async () => {
        expect(await look(shop)).toMatchObject({
          sync: { running: true, holder: "hive sync --watch", since: shop.clock.iso() },
          problems: [],
        });
        waiting(shop, "c2", "2026-11-23 11:58:00");
        expect(await look(shop)).toMatchObject({
          lag: { changes: 2, oldestMs: 120_000 },
          problems: [expect.stringMatching(/sync is 120 s behind \(2 changes wait\)/)],
        });
      });
      expect(await look(shop)).toMatchObject({ sync: { running: false } });
    });

    it("the lock time of the last ten minutes, in the minutes in which hive wrote", async () => {
      await using shop = await openShop();
      shop.sql("DELETE FROM hive_work");
      expect((await look(shop)).work).toEqual({ lockShare: 0, commitsPerSecond: 0, longestMs: 0, byOperation: [] });
      shop.clock.minutes(0.5);
      shop.sql(`INSERT INTO hive_work VALUES ('2026-11-23T11:49Z', 'sync', 9, 9000.0, 99.0, 9),
        ('2026-11-23T11:55Z', 'sync', 60, 600.0, 12.5, 100), ('2026-11-23T11:55Z', 'backfill', 30, 300.0, 5.0, 1000),
        ('2026-11-23T12:00Z', 'sync', 45, 450.0, 7.0, 50)`);
      const { work } = await look(shop);
      expect(work).toMatchObject({ commitsPerSecond: 1.5, longestMs: 12.5 });
      expect(work.lockShare).toBeCloseTo(0.015, 6);
      expect(work.byOperation).toEqual([
        { operation: "backfill", commits: 30, heldMs: 300, longestMs: 5, aggregates: 1000 },
        { operation: "sync", commits: 105, heldMs: 1050, longestMs: 12.5, aggregates: 150 },
      ]);
    });

    it("conflicts, each aggregate once, of the last day; kinds of mismatches", async () => {
      await using shop = await openShop();
      const conflict = (key: string) =>
        shop.context.store.transaction("test", (tx) =>
          audit(tx, shop.context, { action: "conflict", after: { mapping: "customers", key, leads: "legacy" } }),
        );
      await conflict("old");
      shop.clock.minutes(25 * 60);
      for (const key of ["a", "a", "b"]) await conflict(key);
      shop.sql("INSERT INTO hive_mismatches VALUES ('customers', 'sales', 'name', 7, 'x', 'x', 'c1', NULL, NULL)");
      expect(await look(shop)).toMatchObject({ conflicts: 2, mismatches: 1 });
    });

    it("a backfill that was interrupted before shadow is to be finished; one that runs is not", async () => {
      await using shop = await openShop();
      shop.place("sales", "dualwrite");
      await capture(shop);
      shop.finishBackfill("sales", "running");
      expect(await look(shop)).toMatchObject({
        problems: ["sales is at dualwrite, and its backfill was interrupted"],
        next: [{ command: "hive backfill sales" }],
      });
      await using other = shop.open();
      await other.store.withLock("backfill", {}, async () => expect((await look(shop)).problems).toEqual([]));
    });

    it("fits 80 columns, however much there is to say", async () => {
      const { cwd, place } = await smallPlatformOn(backend);
      const hive = (...args: string[]) => hiveInProcess(["--yes", ...args], { cwd, tty: true, env: { NO_COLOR: "1" } });
      expect(await hive("migrate", "up")).toMatchObject({ code: 0 });
      expect(await hive("flags", "enable", "hive-coder", "--flag", "dual-write")).toMatchObject({ code: 0 });
      const minute = new Date().toISOString().slice(0, 16);
      place.execute(
        `UPDATE tasks SET title = 'x'; ${backend.name === "sqlite" ? "INSERT INTO hive_applying VALUES (1);" : ""}
         ${dropTrigger("tasks", "insert")}; ${dropTrigger("runs", "insert")};
         INSERT INTO hive_gaps VALUES ('planning_queue', 'x', NULL);
         INSERT INTO hive_work VALUES ('${minute}Z', 'sync', 12345, 59999.0, 1234.5678, 999999);
         INSERT INTO hive_mismatches VALUES ('tasks', 'hive-coder', 'x', 7, 'x', 'x', 'c1', NULL, NULL);`,
      );
      const { code, stdout } = await hive("status");
      expect(code).toBe(0);
      for (const line of stdout.split("\n")) expect(line.length, line).toBeLessThanOrEqual(80);
      expect(stdout).toMatch(/capture +\d+ tables \(legacy\), 3 not well/);
      expect(stdout).toMatch(/sync +not running: 31 changes waiting, the oldest for /);
      expect(stdout).toMatch(backend.name === "sqlite" ? /write lock +100.00 % of / : /writing +100.00 % of /);
      expect(await hive("verify")).toMatchObject({ code: 3 });
    });
  });
});
