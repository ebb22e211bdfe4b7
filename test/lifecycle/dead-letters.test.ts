import { describe, expect, test } from "vitest";
import { dropDeadLetters, listDeadLetters, redriveDeadLetters, showDeadLetter } from "../../src/events/dead-letters.ts";
import type { HiveEvent } from "../../src/events/event.ts";
import { prune } from "../../src/events/retention.ts";
import { listSubscribers } from "../../src/events/subscribers.ts";
import { listAudit, verifyAudit } from "../../src/rollout/audit.ts";
import { BACKENDS } from "../support/backends.ts";
import { tinyMapping } from "../support/context.ts";
import { type EventPlace, eventPlace, numberOf, until } from "../support/events.ts";

describe.each(BACKENDS)("dead letters on $name", (backend) => {
  /** A subscriber to whom some events are poison, for as long as they are among these. */
  async function poisoned(p: EventPlace, poison: Set<number>) {
    const seen: number[] = [];
    const subscription = await p.subscribe({
      maxAttempts: 1,
      handler: (event: HiveEvent) => {
        if (poison.has(numberOf(event))) throw new Error(`poison ${numberOf(event)}`);
        seen.push(numberOf(event));
      },
    });
    return { seen, subscription };
  }

  const settled = (p: EventPlace) =>
    until(async () =>
      (await listSubscribers(p.context)).subscribers.every(
        ({ behind, retrying, waiting }) => behind + retrying + waiting === 0,
      ),
    );

  test("are listed and shown, redriven to a subscriber that runs, in the order of their subject", async () => {
    await using p = await eventPlace(backend);
    p.emit({ n: 1, subject: "a" }, { n: 2, subject: "a" }, { n: 3, subject: "b" }, { n: 4, subject: "a" });
    const poison = new Set([1, 4]);
    const { seen } = await poisoned(p, poison);
    await settled(p);
    expect(seen).toEqual([2, 3]);
    expect(await listDeadLetters(p.context)).toEqual({
      total: 2,
      entries: [1, 4].map((n) => ({
        ...{ subscriber: "s", seq: n, state: "dead", at: expect.any(String), reason: `poison ${n}`, attempts: 1 },
        ...{ type: "note.written", subject: "a" },
      })),
    });
    expect((await showDeadLetter(p.context, "s", 4)).event).toMatchObject({ seq: 4, payload: { n: 4 } });
    await expect(showDeadLetter(p.context, "s", 3)).rejects.toMatchObject({ code: "UNKNOWN_NAME" });
    await expect(redriveDeadLetters(p.context, { subscriber: "z" })).rejects.toMatchObject({ code: "UNKNOWN_NAME" });
    const dry = await redriveDeadLetters(p.context, { dryRun: true });
    expect(dry).toEqual({ redriven: 2, left: [], dryRun: true });
    expect((await listDeadLetters(p.context)).total).toBe(2);
    poison.clear();
    expect(await redriveDeadLetters(p.context, { reason: "mended" })).toEqual({ redriven: 2, left: [], dryRun: false });
    await until(() => seen.length === 4);
    await settled(p);
    expect(seen).toEqual([2, 3, 1, 4]);
    expect(await listDeadLetters(p.context)).toEqual({ total: 0, entries: [] });
    const { entries } = await listAudit(p.context.store.read, { action: "dead letters redrive" });
    expect(entries).toMatchObject([{ reason: "mended", after: [{ seq: 1 }, { seq: 4 }] }]);
    expect(await verifyAudit(p.context.store.read)).toMatchObject({ ok: true });
  });

  test("a redriven one goes before what waits of its subject", async () => {
    await using p = await eventPlace(backend);
    p.emit({ n: 1, subject: "a" });
    const poison = new Set([1]);
    const { seen, subscription } = await poisoned(p, poison);
    await until(async () => (await listDeadLetters(p.context)).total === 1);
    await subscription.stop();
    p.emit({ n: 2, subject: "a" }, { n: 3, subject: "a" });
    await redriveDeadLetters(p.context, { subscriber: "s", seqs: [1] });
    poison.clear();
    const again = await poisoned(p, poison);
    await until(() => again.seen.length === 3);
    expect([...seen, ...again.seen]).toEqual([1, 2, 3]);
  });

  test("are put back where retention took the event away; dropped, they stay", async () => {
    await using p = await eventPlace(backend);
    const old = "2020-01-01T00:00:00.000Z";
    p.emit({ n: 1, subject: "a", at: old }, { n: 2, at: old }, { n: 3, at: old });
    const poison = new Set([1, 2]);
    const { seen } = await poisoned(p, poison);
    await settled(p);
    expect(await prune(p.context)).toMatchObject({ deleted: 2 });
    expect(p.place.select("SELECT * FROM hive_events")).toHaveLength(1);
    expect(await dropDeadLetters(p.context, { seqs: [2], dryRun: true })).toEqual({ dropped: 1, dryRun: true });
    expect(await dropDeadLetters(p.context, { seqs: [2] })).toEqual({ dropped: 1, dryRun: false });
    expect((await listDeadLetters(p.context, { all: true })).entries.map(({ state }) => state)).toEqual([
      "dead",
      "dropped",
    ]);
    poison.clear();
    expect(await redriveDeadLetters(p.context)).toMatchObject({ redriven: 1 });
    await until(() => seen.length === 2);
    expect(seen).toEqual([3, 1]);
    // The next event has a new number all the same.
    p.emit({ n: 4 });
    await until(() => seen.length === 3);
    expect(p.place.select("SELECT max(seq) AS seq FROM hive_events").map(({ seq }) => Number(seq))).toEqual([4]);
  });

  test("what is no valid event is judged again, and delivered to those who have passed it", async () => {
    await using p = await eventPlace(backend);
    p.emit({ n: 1, type: "note.burnt", subject: "a" }, { n: 2 }, { n: 3, type: "note.lost" });
    const seen: string[] = [];
    const handlerOf = (name: string) => (event: HiveEvent) => seen.push(`${name} ${numberOf(event)}`);
    await p.subscribe({ name: "all", handler: handlerOf("all") });
    await p.subscribe({ name: "read", patterns: ["*.read"], handler: handlerOf("read") });
    await until(async () => (await listDeadLetters(p.context, { subscriber: "" })).total === 2);
    await settled(p);
    // A newer hive, whose mapping knows one of the types. Who reads with the old one must not be given it before.
    const eventTypes = [...tinyMapping.eventTypes, "note.burnt"];
    const newer = p.other({ mapping: { ...tinyMapping, eventTypes } });
    expect(await redriveDeadLetters(newer, { subscriber: "" })).toEqual({
      redriven: 1,
      left: [expect.objectContaining({ seq: 3, reason: expect.stringContaining("note.lost") })],
      dryRun: false,
    });
    // This one does not know it, still: it puts it aside once more.
    await until(async () => (await listDeadLetters(p.context, { subscriber: "" })).total === 2);
    await settled(p);
    expect(seen).toEqual(["all 2"]);
  });

  test("an event that was put aside is not delivered before it is redriven, whoever reads it", async () => {
    await using p = await eventPlace(backend);
    p.emit({ n: 1, type: "note.burnt" }, { n: 2 });
    const first = await p.subscribe({ name: "old", handler: () => undefined });
    await until(async () => (await listDeadLetters(p.context)).total === 1);
    await settled(p);
    await first.stop();
    await using newer = p.other({ mapping: { ...tinyMapping, eventTypes: [...tinyMapping.eventTypes, "note.burnt"] } });
    const { subscribe } = await import("../../src/events/subscriptions.ts");
    const seen: number[] = [];
    const handler = (event: HiveEvent) => seen.push(numberOf(event));
    await using _ = await subscribe(newer, { name: "new", patterns: ["*"], from: "start", handler });
    await until(() => seen.length === 1);
    expect(seen).toEqual([2]);
    // Else it would get again what it had not acknowledged.
    await settled(p);
    await redriveDeadLetters(newer);
    await until(() => seen.length === 2);
    expect(seen).toEqual([2, 1]);
  });
});
