import { describe, expect, it } from "vitest";
import { listFlags } from "../../src/flags/facts.ts";
import { changeFlags, type FlagChange, flagHistory } from "../../src/flags/flags.ts";
import { STAGES, type Stage } from "../../src/flags/stages.ts";
import type { FlagOptions } from "../../src/hive.ts";
import { listAudit, verifyAudit } from "../../src/rollout/audit.ts";
import { rollback } from "../../src/rollout/rollback.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { BACKENDS } from "../support/backends.ts";
import { openShop as openShopOn, type Shop, type ShopOptions } from "../support/shop.ts";

function change(shop: Shop, agent: string, text: string, options: FlagOptions = {}) {
  return changeFlags(shop.context, changesOf(agent, text), options);
}

function changesOf(agent: string, text: string): FlagChange[] {
  return text.split(" ").map((one) => {
    const [flag, value = ""] = one.split("=");
    if (flag === "unified-events" || flag === "dual-write" || flag === "agent-adapters" || flag === "reads") {
      return { agent, flag, value };
    }
    throw new Error(`not a flag: ${flag}`);
  });
}

const stages = async (shop: Shop) =>
  Object.fromEntries((await listFlags(shop.context)).agents.map(({ agent, stage }) => [agent, stage]));
const backfillStates = (shop: Shop, agent: string) =>
  shop.all(`SELECT state, cursor FROM hive_backfill WHERE agent = '${agent}'`);
const flagEntries = async (shop: Shop, action = "flag") =>
  (await listAudit(shop.context.store.read, { action })).entries;

describe.each(BACKENDS)("$name", (backend) => {
  const openShop = (options: ShopOptions = {}) => openShopOn({ ...options, backend });
  const hiveTables = (shop: Shop) =>
    shop.all(backend.dialect.tables).flatMap(({ name }) => (String(name).startsWith("hive") ? [String(name)] : []));

  describe("listing", () => {
    it("says that all is off on a database that hive has never touched, and leaves it so", async () => {
      await using shop = await openShop({ migrated: false });
      const { agents } = await listFlags(shop.context);
      const off = { "unified-events": false, "dual-write": false, "agent-adapters": false, reads: "legacy" };
      expect(agents).toEqual(
        ["sales", "support", "auditor"].map((agent) => ({ agent, stage: "off", authority: "legacy", flags: off })),
      );
      expect(hiveTables(shop)).toEqual([]);
    });

    it("takes an agent by its name or its id in the registry", async () => {
      await using shop = await openShop();
      shop.place("support", "live");
      const { agents } = await listFlags(shop.context, ["support-1", "support"]);
      expect(agents).toMatchObject([{ agent: "support", stage: "live", authority: "unified" }]);
      await expect(listFlags(shop.context, ["sale"])).rejects.toMatchObject({ code: "UNKNOWN_AGENT" });
    });

    it("does not stumble over flags that SQL wrote", async () => {
      await using shop = await openShop();
      shop.sql(`INSERT INTO hive_flags VALUES ('sales', 'reads', 'on', 'x'), ('sales', 'unified-events', 'live', 'x'),
        ('support', 'reads', 'live', 'x'), ('nobody', 'reads', 'live', 'x')`);
      expect(await stages(shop)).toEqual({ sales: "off", support: "live", auditor: "off" });
    });
  });

  describe("changing", () => {
    it("is refused before the migration, naming it", async () => {
      await using shop = await openShop({ migrated: false });
      for (const force of [false, true]) {
        await expect(change(shop, "sales", "dual-write=on", { force, reason: "r" })).rejects.toMatchObject({
          code: "GUARD_REFUSED",
          exitCode: 4,
          hint: expect.stringContaining("hive migrate up"),
          details: { refusals: [{ agent: "sales", kind: "hard", remedy: "hive migrate up" }] },
        });
      }
      await expect(change(shop, "sales", "unified-events=on")).rejects.toMatchObject({ code: "GUARD_REFUSED" });
      expect(await change(shop, "sales", "dual-write=off")).toEqual({ changed: [], forced: [], dryRun: false });
    });

    it("is refused while unified tables or columns are missing, naming them", async () => {
      await using shop = await openShop();
      shop.sql("DROP TABLE cases; ALTER TABLE parties DROP COLUMN kind");
      await expect(change(shop, "sales", "dual-write=on", { force: true, reason: "r" })).rejects.toThrow(
        /missing: parties.kind, cases/,
      );
      expect((await change(shop, "sales", "unified-events=on agent-adapters=on")).changed).toHaveLength(2);
    });

    it("goes through all stages and back, each gate opened by its facts", async () => {
      await using shop = await openShop();
      expect((await change(shop, "sales", "dual-write=on")).changed).toEqual([
        { agent: "sales", flag: "dual-write", from: "off", to: "on" },
      ]);
      await expect(change(shop, "sales", "reads=shadow")).rejects.toThrow(/backfill was never run/);
      shop.finishBackfill("sales");
      await change(shop, "sales", "reads=shadow");
      await expect(change(shop, "sales", "reads=live")).rejects.toThrow(/never checked/);
      shop.check("sales");
      await change(shop, "sales", "reads=live");
      shop.clock.minutes(61);
      await expect(change(shop, "sales", "reads=unified")).rejects.toThrow(/61 minutes old/);
      shop.check("sales", 2);
      await expect(change(shop, "sales", "reads=unified")).rejects.toMatchObject({
        details: { refusals: [{ agent: "sales", remedy: "hive check sales --repair" }] },
      });
      shop.check("sales");
      await change(shop, "sales", "reads=unified");
      shop.clock.minutes(1);
      shop.check("sales");
      await change(shop, "sales", "dual-write=off");
      expect(await stages(shop)).toMatchObject({ sales: "complete" });
      for (const text of ["dual-write=on", "reads=live", "reads=shadow", "reads=legacy", "dual-write=off"]) {
        await change(shop, "sales", text);
      }
      expect(await stages(shop)).toMatchObject({ sales: "off" });
      expect(await verifyAudit(shop.context.store.read)).toMatchObject({ ok: true });
    });

    it("wants a check at each stage from shadow on: the one that opened a gate does not open the next", async () => {
      await using shop = await openShop();
      await change(shop, "sales", "dual-write=on");
      shop.finishBackfill("sales");
      shop.check("sales");
      shop.clock.minutes(1);
      await change(shop, "sales", "reads=shadow");
      for (const text of ["reads=live", "reads=unified", "dual-write=off"]) {
        await expect(change(shop, "sales", text)).rejects.toMatchObject({
          message: expect.stringMatching(/its last check is from an earlier stage/),
          details: { refusals: [{ agent: "sales", kind: "soft", remedy: "hive check sales" }] },
        });
        // The other flags are no part of a stage.
        shop.check("sales");
        shop.clock.minutes(1);
        await change(shop, "sales", `unified-events=${text === "reads=unified" ? "off" : "on"}`);
        await change(shop, "sales", text);
        shop.clock.minutes(1);
      }
      expect(await stages(shop)).toMatchObject({ sales: "complete" });
    });

    it("stays closed where it is not known since when the agent is at its stage", async () => {
      await using shop = await openShop();
      shop.place("sales", "shadow");
      shop.finishBackfill("sales");
      shop.clock.minutes(1);
      shop.check("sales");
      // As SQL would write a time.
      const seconds = (more: number) =>
        new Date(shop.clock.time + more * 1000).toISOString().slice(0, 19).replace("T", " ");
      shop.sql("UPDATE hive_flags SET changed_at = 'lately' WHERE flag = 'reads'");
      await expect(change(shop, "sales", "reads=live")).rejects.toThrow(/earlier stage/);
      shop.sql(`UPDATE hive_flags SET changed_at = '${seconds(1)}' WHERE flag = 'reads'`);
      await expect(change(shop, "sales", "reads=live")).rejects.toThrow(/earlier stage/);
      shop.sql(`UPDATE hive_flags SET changed_at = '${seconds(-1)}' WHERE flag = 'reads'`);
      await change(shop, "sales", "reads=live");
    });

    it("takes an agent that owns nothing through the stages as well", async () => {
      await using shop = await openShop();
      await change(shop, "auditor", "dual-write=on");
      await expect(change(shop, "auditor", "reads=shadow")).rejects.toMatchObject({
        details: { refusals: [{ remedy: "hive backfill auditor" }] },
      });
      shop.finishBackfill("auditor");
      await change(shop, "auditor", "reads=shadow");
    });

    it("wants the backfill of every mapping", async () => {
      await using shop = await openShop();
      await change(shop, "support", "dual-write=on");
      shop.finishBackfill("support");
      shop.sql("DELETE FROM hive_backfill WHERE mapping = 'tickets'");
      await expect(change(shop, "support", "reads=shadow")).rejects.toThrow(/not finished/);
    });

    it("keeps time by the setting", async () => {
      await using shop = await openShop();
      shop.place("sales", "shadow");
      shop.finishBackfill("sales");
      shop.check("sales");
      shop.clock.minutes(6);
      await using strict = shop.open({ settings: { checkMaxAgeMinutes: 5 } });
      await expect(changeFlags(strict, changesOf("sales", "reads=live"))).rejects.toThrow(/at most 5/);
      await change(shop, "sales", "reads=live");
    });

    it("does all of a command or nothing, and tells of every refusal", async () => {
      await using shop = await openShop();
      shop.place("sales", "dualwrite");
      shop.place("support", "dualwrite");
      shop.finishBackfill("sales");
      const both = [...changesOf("sales", "reads=shadow"), ...changesOf("support", "reads=shadow unified-events=on")];
      await expect(changeFlags(shop.context, [...both, ...changesOf("auditor", "reads=shadow")])).rejects.toMatchObject(
        {
          code: "STAGE_IMPOSSIBLE",
          details: { refusals: [{ agent: "support" }, { agent: "auditor" }] },
        },
      );
      expect(await stages(shop)).toEqual({ sales: "dualwrite", support: "dualwrite", auditor: "off" });
      expect(await flagEntries(shop)).toEqual([]);
    });

    it("makes several changes of one agent in the order that the stages ask for", async () => {
      await using shop = await openShop();
      shop.place("sales", "live");
      shop.finishBackfill("sales");
      shop.check("sales");
      const both = "dual-write=off reads=unified";
      await expect(change(shop, "sales", both)).rejects.toThrow(/earlier stage/);
      const { changed } = await change(shop, "sales", both, { force: true, reason: "nothing came in between" });
      expect(changed.map(({ flag }) => flag)).toEqual(["reads", "dual-write"]);
      expect(await stages(shop)).toMatchObject({ sales: "complete" });
      expect((await flagEntries(shop)).map(({ before, after }) => [before, after])).toMatchObject([
        [{ stage: "live" }, { stage: "rampdown" }],
        [{ stage: "rampdown" }, { stage: "complete" }],
      ]);
    });

    it("changes nothing and writes nothing where all is so already", async () => {
      await using shop = await openShop();
      shop.place("sales", "dualwrite");
      const before = shop.all("SELECT * FROM hive_audit").length;
      expect(await change(shop, "sales", "dual-write=on reads=legacy")).toEqual({
        changed: [],
        forced: [],
        dryRun: false,
      });
      expect(shop.all("SELECT * FROM hive_audit").length).toBe(before);
    });

    it("writes nothing on a dry run, which refuses what would be refused", async () => {
      await using shop = await openShop();
      const planned = await change(shop, "sales", "dual-write=on", { dryRun: true });
      expect(planned).toEqual({
        changed: [{ agent: "sales", flag: "dual-write", from: "off", to: "on" }],
        forced: [],
        dryRun: true,
      });
      expect(shop.all("SELECT * FROM hive_flags")).toEqual([]);
      await expect(change(shop, "sales", "reads=unified", { dryRun: true })).rejects.toMatchObject({
        code: "GUARD_REFUSED",
      });
    });

    it("refuses what makes no sense", async () => {
      await using shop = await openShop();
      await expect(change(shop, "sales", "reads=on")).rejects.toMatchObject({ code: "USAGE" });
      await expect(change(shop, "sales", "reads=shadow reads=live")).rejects.toThrow(/two values of reads/);
      await expect(change(shop, "sals", "reads=shadow")).rejects.toMatchObject({ code: "UNKNOWN_AGENT" });
      await expect(changeFlags(shop.context, [])).rejects.toMatchObject({ code: "USAGE" });
    });
  });

  describe("force", () => {
    it("needs a reason", async () => {
      await using shop = await openShop();
      shop.place("sales", "dualwrite");
      for (const reason of [undefined, "  "]) {
        await expect(change(shop, "sales", "reads=shadow", { force: true, reason })).rejects.toMatchObject({
          code: "USAGE",
          exitCode: 2,
        });
      }
    });

    it("overrides soft guards and is audited with them", async () => {
      await using shop = await openShop();
      shop.place("sales", "dualwrite");
      const { forced } = await change(shop, "sales", "reads=shadow", { force: true, reason: "a rehearsal" });
      expect(forced).toEqual([{ agent: "sales", missing: "its backfill was never run" }]);
      expect(await flagEntries(shop)).toMatchObject([
        {
          agent: "sales",
          actor: "test@localhost",
          reason: "a rehearsal",
          before: { flag: "reads", value: "legacy", stage: "dualwrite" },
          after: { flag: "reads", value: "shadow", stage: "shadow", forced: ["its backfill was never run"] },
        },
      ]);
    });

    it("never makes an impossible pair, and never skips a stage", async () => {
      await using shop = await openShop();
      const forced = { force: true, reason: "r" };
      await expect(change(shop, "sales", "reads=live", forced)).rejects.toMatchObject({
        code: "STAGE_IMPOSSIBLE",
        exitCode: 4,
      });
      await expect(change(shop, "sales", "reads=unified", forced)).rejects.toMatchObject({ code: "GUARD_REFUSED" });
      shop.place("sales", "shadow");
      await expect(change(shop, "sales", "dual-write=off", forced)).rejects.toMatchObject({
        code: "STAGE_IMPOSSIBLE",
        hint: expect.stringContaining("hive flags set sales reads=legacy"),
      });
      expect(await stages(shop)).toMatchObject({ sales: "shadow" });
    });
  });

  describe("the backfill", () => {
    it("of before dual-write does not count", async () => {
      await using shop = await openShop();
      shop.finishBackfill("sales");
      shop.finishBackfill("support");
      await change(shop, "sales", "dual-write=on");
      expect(backfillStates(shop, "sales")).toEqual([
        { state: "stale", cursor: null },
        { state: "stale", cursor: null },
      ]);
      expect(backfillStates(shop, "support")[0]).toMatchObject({ state: "finished" });
      await expect(change(shop, "sales", "reads=shadow")).rejects.toThrow(/writes only what differs/);
      await expect(change(shop, "support", "dual-write=on reads=shadow")).rejects.toThrow(/stale/);
      expect(await stages(shop)).toMatchObject({ support: "off" });
    });

    it("that is running when dual-write is switched must not count either", async () => {
      await using shop = await openShop();
      shop.finishBackfill("sales", "running");
      await change(shop, "sales", "dual-write=on");
      expect(backfillStates(shop, "sales")[0]).toMatchObject({ state: "stale" });
    });

    it("becomes stale when dual-write is disabled", async () => {
      await using shop = await openShop();
      shop.place("sales", "dualwrite");
      shop.finishBackfill("sales");
      await change(shop, "sales", "dual-write=off");
      expect(backfillStates(shop, "sales")[0]).toMatchObject({ state: "stale" });
    });

    it("stays good between rampdown and complete", async () => {
      await using shop = await openShop();
      shop.place("sales", "rampdown");
      shop.finishBackfill("sales");
      shop.check("sales");
      await change(shop, "sales", "dual-write=off");
      await change(shop, "sales", "dual-write=on");
      expect(backfillStates(shop, "sales")[0]).toMatchObject({ state: "finished" });
    });
  });

  /** The unified side as a finished backfill leaves it, and then a write that only it has. */
  function writeUnifiedOnly(shop: Shop): void {
    shop.sql(`DELETE FROM parties; DELETE FROM party_orders;
      INSERT INTO parties SELECT id, name, kind FROM customers;
      INSERT INTO party_orders SELECT id, customer_id, amount FROM orders;
      UPDATE parties SET name = 'Ada the second' WHERE id = 'c1';
      INSERT INTO parties VALUES ('c9', 'Eve', 'sales')`);
  }
  const names = (shop: Shop) => shop.all("SELECT name FROM customers ORDER BY id").map((row) => row.name);

  describe("giving the authority back", () => {
    it.each([
      ["live", "reads=shadow", "shadow"],
      ["complete", "dual-write=on", "rampdown"],
    ] as const)("from %s carries down first what only the unified side has", async (from, text, to) => {
      await using shop = await openShop();
      shop.place("sales", from);
      writeUnifiedOnly(shop);
      await change(shop, "sales", text, { reason: "back" });
      expect(await stages(shop)).toMatchObject({ sales: to });
      expect(names(shop)).toEqual(["Ada the second", "Bob", "Eve"]);
      expect(await flagEntries(shop)).toMatchObject([{ after: { stage: to, projectedDown: { projected: 2 } } }]);
    });

    it("carries nothing on a dry run", async () => {
      await using shop = await openShop();
      shop.place("sales", "live");
      writeUnifiedOnly(shop);
      await change(shop, "sales", "reads=shadow", { dryRun: true });
      expect(names(shop)).toEqual(["Ada", "Bob"]);
      expect(await stages(shop)).toMatchObject({ sales: "live" });
    });

    it("is refused when somebody moves the agent while its rows are carried down", async () => {
      await using shop = await openShop();
      shop.place("sales", "live");
      shop.place("support", "live");
      writeUnifiedOnly(shop);
      shop.finishBackfill("sales");
      shop.check("sales");
      await using other = shop.open({
        signal: (point) => {
          if (point === "sync:judged") shop.place("sales", "rampdown");
        },
      });
      const back = changeFlags(other, [...changesOf("sales", "reads=shadow"), ...changesOf("support", "reads=shadow")]);
      await expect(back).rejects.toMatchObject({ code: "GUARD_REFUSED" });
      expect(await stages(shop)).toMatchObject({ sales: "rampdown", support: "live" });
    });

    it("is refused while the legacy tables do not stand", async () => {
      await using shop = await openShop();
      shop.place("sales", "complete");
      shop.sql("DROP TABLE tickets");
      await expect(change(shop, "sales", "dual-write=on")).rejects.toThrow(/do not stand \(missing: tickets\)/);
      await expect(rollback(shop.context)).rejects.toMatchObject({ code: "GUARD_REFUSED" });
    });

    it("waits for the one who is doing the same, and names it", async () => {
      await using shop = await openShop();
      shop.place("sales", "live");
      await using other = shop.open();
      await other.store.withLock("rollout", { purpose: "somebody else" }, async () => {
        await expect(change(shop, "sales", "reads=shadow", { lockTimeoutMs: 0 })).rejects.toMatchObject({
          code: "LOCK_HELD",
          exitCode: 5,
          details: { holder: "somebody else" },
        });
      });
      await change(shop, "sales", "reads=shadow");
    });
  });

  describe("history", () => {
    it("is what the audit log says", async () => {
      await using shop = await openShop();
      await change(shop, "sales", "dual-write=on", { reason: "wave 1" });
      shop.clock.minutes(1);
      await change(shop, "support", "unified-events=on");
      await rollback(shop.context, { agents: ["sales"], reason: "too early" });
      const at = (minutes: number) => new Date(shop.clock.time + (minutes - 1) * 60_000).toISOString();
      const { entries } = await flagHistory(shop.context);
      const actor = "test@localhost";
      expect(entries).toEqual([
        { at: at(0), actor, agent: "sales", flag: "dual-write", from: "off", to: "on", reason: "wave 1" },
        { at: at(1), actor, agent: "support", flag: "unified-events", from: "off", to: "on", reason: null },
        { at: at(1), actor, agent: "sales", flag: "dual-write", from: "on", to: "off", reason: "too early" },
      ]);
      expect((await flagHistory(shop.context, "support-1")).entries).toEqual([entries[1]]);
      await expect(flagHistory(shop.context, "nobody")).rejects.toMatchObject({ code: "UNKNOWN_AGENT" });
    });

    it("is empty on a database that hive has never touched", async () => {
      await using shop = await openShop({ migrated: false });
      expect(await flagHistory(shop.context, "sales")).toEqual({ entries: [] });
    });
  });

  describe("rollback", () => {
    it("has nothing to do on a database that hive has never touched", async () => {
      await using shop = await openShop({ migrated: false });
      expect(await rollback(shop.context)).toMatchObject({ steps: [], stage: "off", projectedDown: 0 });
      expect(hiveTables(shop)).toEqual([]);
    });

    it.each(STAGES.slice(1))("leads from %s to off, one audited step per stage, and loses nothing", async (from) => {
      await using shop = await openShop();
      shop.place("sales", from);
      shop.finishBackfill("sales");
      shop.sql("INSERT INTO hive_flags VALUES ('sales', 'unified-events', 'on', 'x')");
      const unified = STAGES.indexOf(from) >= STAGES.indexOf("live");
      if (unified) writeUnifiedOnly(shop);
      const result = await rollback(shop.context, { reason: "incident 7" });
      const path = STAGES.slice(0, STAGES.indexOf(from) + 1).reverse();
      expect(result).toMatchObject({ stage: "off", projectedDown: unified ? 2 : 0, dryRun: false });
      expect(result.steps.map((step) => [step.from, step.to])).toEqual(path.slice(1).map((to, i) => [path[i], to]));
      expect(await stages(shop)).toEqual({ sales: "off", support: "off", auditor: "off" });
      expect(names(shop)).toEqual(unified ? ["Ada the second", "Bob", "Eve"] : ["Ada", "Bob"]);
      expect(backfillStates(shop, "sales")[0]).toMatchObject({ state: "stale" });
      expect((await listFlags(shop.context, ["sales"])).agents[0]?.flags["unified-events"]).toBe(true);
      const entries = await flagEntries(shop, "rollback");
      expect(entries).toHaveLength(path.length - 1);
      expect(entries.every((entry) => entry.agent === "sales" && entry.reason === "incident 7")).toBe(true);
      expect(await rollback(shop.context)).toMatchObject({ steps: [], stage: "off" });
    });

    it("shows the plan first and writes nothing on a dry run", async () => {
      await using shop = await openShop();
      shop.place("sales", "rampdown");
      shop.place("support", "shadow");
      writeUnifiedOnly(shop);
      const before = shop.all("SELECT * FROM hive_audit").length;
      expect(await rollback(shop.context, { to: "dualwrite", dryRun: true })).toMatchObject({
        steps: [
          { action: "reads=live", agent: "sales", from: "rampdown", to: "live" },
          { action: "project down, reads=shadow", agent: "sales", from: "live", to: "shadow" },
          { action: "reads=legacy", agent: "sales", from: "shadow", to: "dualwrite" },
          { action: "reads=legacy", agent: "support", from: "shadow", to: "dualwrite" },
        ],
        stage: "dualwrite",
        projectedDown: 2,
        dryRun: true,
      });
      expect(await stages(shop)).toMatchObject({ sales: "rampdown", support: "shadow" });
      expect(names(shop)).toEqual(["Ada", "Bob"]);
      expect(shop.all("SELECT * FROM hive_audit").length).toBe(before);
    });

    it("takes agents at several stages to one, and leaves those alone that are behind", async () => {
      await using shop = await openShop();
      shop.place("sales", "complete");
      shop.place("support", "live");
      expect(await rollback(shop.context, { to: "shadow" })).toMatchObject({ stage: "shadow" });
      expect(await stages(shop)).toEqual({ sales: "shadow", support: "shadow", auditor: "off" });
    });

    it("takes only the agents that are named", async () => {
      await using shop = await openShop();
      shop.place("sales", "dualwrite");
      shop.place("support", "dualwrite");
      await rollback(shop.context, { agents: ["support-1"] });
      expect(await stages(shop)).toMatchObject({ sales: "dualwrite", support: "off" });
    });

    it("never goes forward", async () => {
      await using shop = await openShop();
      shop.place("sales", "live");
      await expect(rollback(shop.context, { agents: ["sales", "support"], to: "shadow" })).rejects.toMatchObject({
        code: "USAGE",
        exitCode: 2,
        details: { agents: [{ agent: "support", stage: "off" }] },
      });
      expect(await stages(shop)).toMatchObject({ sales: "live" });
    });

    it.each(["shadow", "live"] as const)(
      "puts an agent right whose flags SQL made impossible (reads %s)",
      async (value) => {
        await using shop = await openShop();
        shop.sql(`INSERT INTO hive_flags VALUES ('sales', 'reads', '${value}', 'x')`);
        writeUnifiedOnly(shop);
        shop.place("support", "live");
        expect(await rollback(shop.context, { to: "dualwrite" })).toMatchObject({ stage: "dualwrite" });
        expect(await stages(shop)).toMatchObject({ sales: "off", support: "dualwrite" });
        expect(names(shop)).toEqual(value === "live" ? ["Ada the second", "Bob", "Eve"] : ["Ada", "Bob"]);
      },
    );

    it("killed anywhere, goes on when it is run again, and ends as if nothing had happened", async () => {
      const points: string[] = [];
      const run = async (killAt: number) => {
        await using shop = await openShop();
        shop.place("sales", "complete");
        shop.place("support", "dualwrite");
        writeUnifiedOnly(shop);
        let seen = 0;
        await using victim = shop.open({
          signal: (point) => {
            if (killAt < 0) points.push(point);
            else if (seen++ === killAt) throw new Error(`killed at ${point}`);
          },
        });
        if (killAt < 0) await rollback(victim);
        else await expect(rollback(victim)).rejects.toThrow("killed");
        await rollback(shop.context);
        expect(await stages(shop)).toEqual({ sales: "off", support: "off", auditor: "off" });
        expect(names(shop)).toEqual(["Ada the second", "Bob", "Eve"]);
        expect(await flagEntries(shop, "rollback")).toHaveLength(6);
        expect(await verifyAudit(shop.context.store.read)).toMatchObject({ ok: true });
      };
      await run(-1);
      expect(points.length).toBeGreaterThan(20);
      // A server takes longer for each of them: there, some.
      const stride = backend.name === "postgres" ? 9 : 1;
      for (let i = 0; i < points.length; i += stride) await run(i);
    }, 240_000);

    it("stops between two steps when it is asked to", async () => {
      await using shop = await openShop();
      shop.place("sales", "shadow");
      const abort = new AbortController();
      await using slow = shop.open({
        signal: (point) => {
          if (point === "tx:rollback:committed") abort.abort();
        },
      });
      await expect(rollback(slow, { abort: abort.signal })).rejects.toMatchObject({
        code: "INTERRUPTED",
        exitCode: 130,
      });
      expect(await stages(shop)).toMatchObject({ sales: "dualwrite" });
    });
  });

  describe("many at once", () => {
    it("leave a legal stage and an unbroken log, whoever wins", async () => {
      await using shop = await openShop();
      shop.finishBackfill("sales");
      const texts = ["dual-write=on", "dual-write=off", "reads=shadow", "reads=legacy", "dual-write=on", "reads=live"];
      const contexts = texts.map(() => shop.open());
      const outcomes = await Promise.allSettled(
        contexts.map((context, i) =>
          changeFlags(context, changesOf("sales", texts[i] ?? ""), { force: true, reason: "race" }),
        ),
      );
      for (const context of contexts) await context.store[Symbol.asyncDispose]();
      for (const outcome of outcomes) {
        if (outcome.status === "rejected") expect(["GUARD_REFUSED", "STAGE_IMPOSSIBLE"]).toContain(outcome.reason.code);
      }
      const entries = await flagEntries(shop);
      let stage: unknown = "off";
      for (const { before, after } of entries) {
        expect(before).toMatchObject({ stage });
        stage = Object.entries(after ?? {}).find(([name]) => name === "stage")?.[1];
      }
      const reached: Stage | undefined = STAGES.find((one) => one === stage);
      expect(await stages(shop)).toMatchObject({ sales: reached });
      expect(await verifyAudit(shop.context.store.read)).toMatchObject({ ok: true });
    });
  });

  describe("after migrate up is run again", () => {
    it("flags are what they were", async () => {
      await using shop = await openShop();
      await change(shop, "sales", "dual-write=on");
      await migrateUp(shop.context);
      expect(await stages(shop)).toMatchObject({ sales: "dualwrite" });
    });
  });
});
