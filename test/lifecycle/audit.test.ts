import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { changeFlags, flagHistory } from "../../src/flags/flags.ts";
import { type AuditRecord, audit, listAudit, verifyAudit } from "../../src/rollout/audit.ts";
import { BACKENDS } from "../support/backends.ts";
import { openShop as openShopOn, type Shop, type ShopOptions } from "../support/shop.ts";

async function write(shop: Shop, ...records: AuditRecord[]): Promise<void> {
  await shop.context.store.transaction("test", async (tx) => {
    for (const record of records) await audit(tx, shop.context, record);
  });
}

const note = (text: string): AuditRecord => ({ action: "note", agent: "sales", reason: text, after: { text } });
const verified = (shop: Shop) => verifyAudit(shop.context.store.read);
const length = (shop: Shop) => shop.all("SELECT * FROM hive_audit").length;

describe.each(BACKENDS)("$name", (backend) => {
  const openShop = (options: ShopOptions = {}) => openShopOn({ ...options, backend });

  describe("the audit log", () => {
    it("is unbroken from the migrations on, and says who, when, why, before and after", async () => {
      await using shop = await openShop();
      const first = length(shop);
      shop.clock.minutes(1);
      await write(shop, {
        action: "flag",
        agent: "sales",
        reason: "wave 1",
        before: { a: 1 },
        after: { a: [2, null] },
      });
      const { entries } = await listAudit(shop.context.store.read, { limit: 1 });
      expect(entries).toEqual([
        {
          seq: first + 1,
          at: shop.clock.iso(),
          actor: "test@localhost",
          action: "flag",
          agent: "sales",
          reason: "wave 1",
          before: { a: 1 },
          after: { a: [2, null] },
          hash: expect.stringMatching(/^[0-9a-f]{64}$/),
        },
      ]);
      expect(await verified(shop)).toEqual({
        ok: true,
        entries: first + 1,
        brokenAt: null,
        detail: `${first + 1} entries, unbroken`,
      });
    });

    it("is filtered by agent and action, the newest last", async () => {
      await using shop = await openShop();
      await write(shop, note("1"), { action: "other", agent: "support" }, note("2"), note("3"));
      const reasons = async (filter: Parameters<typeof listAudit>[1]) =>
        (await listAudit(shop.context.store.read, filter)).entries.map((entry) => entry.reason);
      expect(await reasons({ action: "note" })).toEqual(["1", "2", "3"]);
      expect(await reasons({ agent: "sales", limit: 2 })).toEqual(["2", "3"]);
      expect(await reasons({ agent: "support" })).toEqual([null]);
    });

    it("shows what somebody changed by hand, also where it is no JSON any more", async () => {
      await using shop = await openShop();
      await changeFlags(shop.context, [{ agent: "sales", flag: "unified-events", value: "on" }]);
      shop.sql("UPDATE hive_audit SET before = '{cut', after = '' WHERE action = 'flag'");
      const { entries } = await listAudit(shop.context.store.read, { action: "flag" });
      expect(entries).toMatchObject([{ agent: "sales", before: "{cut", after: "" }]);
      expect((await flagHistory(shop.context)).entries).toMatchObject([{ agent: "sales", flag: "", from: "", to: "" }]);
      expect(await verified(shop)).toMatchObject({ ok: false });
    });

    it("has no entry of a change that was not made", async () => {
      const points: string[] = [];
      await using shop = await openShop();
      await using failing = shop.open({
        signal: (point) => {
          points.push(point);
          if (point === "tx:flags:before-commit") throw new Error("killed");
        },
      });
      const before = length(shop);
      await expect(changeFlags(failing, [{ agent: "sales", flag: "unified-events", value: "on" }])).rejects.toThrow(
        "killed",
      );
      expect(points).toContain("tx:flags:before-commit");
      expect(length(shop)).toBe(before);
      expect(shop.all("SELECT * FROM hive_flags")).toEqual([]);
    });
  });

  describe("tampering is noticed:", () => {
    const columns = ["at", "actor", "action", "agent", "reason", "before", "after", "previous_hash", "hash"];

    it.each(columns)("a changed %s", async (column) => {
      await using shop = await openShop();
      await write(shop, note("1"), note("2"), note("3"));
      const target = length(shop) - 1;
      shop.sql(`UPDATE hive_audit SET ${column} = 'x' WHERE seq = ${target}`);
      expect(await verified(shop)).toMatchObject({ ok: false, brokenAt: target });
    });

    it("a text that became NULL", async () => {
      await using shop = await openShop();
      await write(shop, note("1"));
      shop.sql("UPDATE hive_audit SET reason = NULL WHERE reason = '1'");
      expect(await verified(shop)).toMatchObject({ ok: false, detail: expect.stringMatching(/was changed/) });
    });

    it("a deleted entry, also the first", async () => {
      await using shop = await openShop();
      await write(shop, note("1"), note("2"), note("3"));
      const middle = length(shop) - 1;
      shop.sql(`DELETE FROM hive_audit WHERE seq = ${middle}`);
      expect(await verified(shop)).toMatchObject({ ok: false, brokenAt: middle, detail: `entry ${middle} is missing` });
      shop.sql("DELETE FROM hive_audit WHERE seq = 1");
      expect(await verified(shop)).toMatchObject({ ok: false, brokenAt: 1 });
    });

    it("a deleted entry whose place was closed up", async () => {
      await using shop = await openShop();
      await write(shop, note("1"), note("2"), note("3"));
      const middle = length(shop) - 1;
      shop.sql(
        `DELETE FROM hive_audit WHERE seq = ${middle}; UPDATE hive_audit SET seq = ${middle} WHERE seq = ${middle + 1}`,
      );
      expect(await verified(shop)).toMatchObject({ ok: false, brokenAt: middle });
    });

    it("entries that changed places", async () => {
      await using shop = await openShop();
      await write(shop, note("1"), note("2"), note("3"));
      const last = length(shop);
      shop.sql(`UPDATE hive_audit SET seq = 999 WHERE seq = ${last};
        UPDATE hive_audit SET seq = ${last} WHERE seq = ${last - 1};
        UPDATE hive_audit SET seq = ${last - 1} WHERE seq = 999`);
      expect(await verified(shop)).toMatchObject({ ok: false, brokenAt: last - 1 });
    });

    it("an entry that was put in", async () => {
      await using shop = await openShop();
      await write(shop, note("1"));
      const next = length(shop) + 1;
      shop.sql(`INSERT INTO hive_audit SELECT ${next}, at, actor, action, agent, reason, before, after, previous_hash, hash
        FROM hive_audit WHERE seq = ${next - 1}`);
      expect(await verified(shop)).toMatchObject({ ok: false, brokenAt: next });
    });
  });

  describe("for any entries", () => {
    // No text of PostgreSQL has a NUL in it.
    const held = (text: fc.Arbitrary<string>) =>
      backend.name === "postgres" ? text.map((one) => one.replaceAll("\0", "")) : text;
    const record: fc.Arbitrary<AuditRecord> = fc.record(
      {
        action: held(fc.string({ unit: "binary", maxLength: 12 })),
        agent: held(fc.string({ maxLength: 8 })),
        reason: held(fc.string({ unit: "grapheme", maxLength: 20 })),
        before: fc.jsonValue({ maxDepth: 2 }),
        after: fc.jsonValue({ maxDepth: 2 }),
      },
      { requiredKeys: ["action"] },
    );

    it("the chain holds, over pages, until any one byte of it changes", async () => {
      await using shop = await openShop();
      const { store } = shop.context;
      const start = length(shop);
      await fc.assert(
        fc.asyncProperty(fc.array(record, { minLength: 1, maxLength: 8 }), fc.nat(), async (records, pick) => {
          shop.sql(`DELETE FROM hive_audit WHERE seq > ${start}`);
          await write(shop, ...records);
          expect(await verifyAudit(store.read)).toMatchObject({ ok: true, entries: start + records.length });
          const target = 1 + (pick % (start + records.length));
          shop.sql(`UPDATE hive_audit SET actor = actor || ' ' WHERE seq = ${target}`);
          expect(await verifyAudit(store.read)).toMatchObject({ ok: false, brokenAt: target });
          shop.sql(`UPDATE hive_audit SET actor = rtrim(actor) WHERE seq = ${target}`);
          expect(await verifyAudit(store.read)).toMatchObject({ ok: true });
        }),
        { numRuns: 60 },
      );
    });

    it("the chain holds over many pages, whose end and middle are looked at", async () => {
      await using shop = await openShop();
      await write(shop, ...Array.from({ length: 2_500 }, (_, i) => note(String(i))));
      expect(await verified(shop)).toMatchObject({ ok: true });
      shop.sql("UPDATE hive_audit SET reason = 'x' WHERE seq = 2001");
      expect(await verified(shop)).toMatchObject({ ok: false, brokenAt: 2_001 });
    });
  });
});
