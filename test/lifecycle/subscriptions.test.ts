import { describe, expect, test } from "vitest";
import type { HiveEvent } from "../../src/events/event.ts";
import { listSubscribers } from "../../src/events/subscribers.ts";
import type { SubscriptionEvent } from "../../src/events/subscriptions.ts";
import { sql } from "../../src/storage/sql.ts";
import { BACKENDS } from "../support/backends.ts";
import { eventPlace, gate, numberOf, until } from "../support/events.ts";

describe.each(BACKENDS)("subscriptions on $name", (backend) => {
  test("deliver what there is and what comes, in order", async () => {
    await using p = await eventPlace(backend);
    p.emit({ n: 1, subject: "a" }, { n: 2, subject: "b" });
    const seen: number[] = [];
    const subscription = await p.subscribe({ handler: (event) => seen.push(numberOf(event)) });
    await until(() => seen.length === 2);
    p.emit({ n: 3, subject: "a" });
    await until(() => seen.length === 3);
    await subscription.stop();
    expect(seen).toEqual([1, 2, 3]);
    expect(await listSubscribers(p.context)).toEqual({
      subscribers: [
        expect.objectContaining({ name: "s", checkpoint: 3, behind: 0, delivered: 3, failed: 0, running: false }),
      ],
    });
  });

  test("begin after what there is, unless told otherwise; go on where they stopped", async () => {
    await using p = await eventPlace(backend);
    p.emit({ n: 1 }, { n: 2 });
    const seen: number[] = [];
    const handler = (event: HiveEvent) => seen.push(numberOf(event));
    const first = await p.subscribe({ from: "now", handler });
    p.emit({ n: 3 });
    await until(() => seen.length === 1);
    await first.stop();
    p.emit({ n: 4 }, { n: 5 });
    await p.subscribe({ from: "now", handler });
    await until(() => seen.length === 3);
    await p.subscribe({ name: "later", from: 4, handler: (event) => seen.push(-numberOf(event)) });
    await until(() => seen.length === 4);
    expect(seen).toEqual([3, 4, 5, -5]);
  });

  test("only what the patterns name; the rest is passed over, and noted", async () => {
    await using p = await eventPlace(backend);
    p.emit({ n: 1 }, { n: 2, type: "note.read" }, { n: 3 }, { n: 4, type: "note.read" });
    const seen: number[] = [];
    await p.subscribe({ patterns: ["*.read", "note.read"], handler: (event) => seen.push(numberOf(event)) });
    await until(() => seen.length === 2);
    p.emit({ n: 5 }, { n: 6 });
    await until(async () => (await listSubscribers(p.context)).subscribers[0]?.checkpoint === 6);
    expect(seen).toEqual([2, 4]);
  });

  test("transactional: effects, checkpoint and deliveries are one", async () => {
    await using p = await eventPlace(backend);
    p.place.execute("CREATE TABLE effects (n INTEGER PRIMARY KEY)");
    p.emit({ n: 1, subject: "a" }, { n: 2, subject: "b" }, { n: 3, subject: "a" });
    let failures = 1;
    await p.subscribe({
      backoff: { firstMs: 1 },
      handler: async (event, tx) => {
        await tx.run(sql`INSERT INTO effects VALUES (${numberOf(event)})`);
        if (numberOf(event) === 1 && failures-- > 0) throw new Error("not yet");
      },
    });
    await until(() => p.place.select("SELECT n FROM effects").length === 3);
    const [subscriber] = (await listSubscribers(p.context)).subscribers;
    expect(subscriber).toMatchObject({ checkpoint: 3, delivered: 3, failed: 1, retrying: 0, waiting: 0 });
  });

  test.each([true, false])(
    "a poison event blocks only its own subject, until it is given up (transactional: %s)",
    async (transactional) => {
      await using p = await eventPlace(backend);
      const seen: number[] = [];
      const told: SubscriptionEvent[] = [];
      const blocked = gate();
      await p.subscribe({
        transactional: transactional as true,
        maxAttempts: 3,
        backoff: { firstMs: 200 },
        onEvent: (event) => {
          told.push(event);
          if (event.kind === "failed") blocked.open();
        },
        handler: (event: HiveEvent) => {
          if (numberOf(event) === 1) throw new TypeError("poison");
          seen.push(numberOf(event));
        },
      });
      p.emit({ n: 1, subject: "a" }, { n: 2, subject: "b" }, { n: 3, subject: "a" }, { n: 4 });
      await blocked.promise;
      await until(() => seen.length === 2);
      expect(seen).toEqual([2, 4]);
      p.emit({ n: 5, subject: "b" }, { n: 6, subject: "a" });
      await until(() => seen.length === 5);
      expect(seen).toEqual([2, 4, 5, 3, 6]);
      expect(told.filter(({ kind }) => kind === "failed")).toHaveLength(2);
      await until(() => p.place.select("SELECT * FROM hive_deliveries").length === 0);
      expect(
        p.place
          .select("SELECT subscriber, seq, state, reason, attempts FROM hive_dead_letters")
          .map((row) => ({ ...row, seq: Number(row.seq) })),
      ).toEqual([{ subscriber: "s", seq: 1, state: "dead", reason: "TypeError: poison", attempts: 3 }]);
    },
  );

  test("what is no valid event is put aside once, and delivered to nobody", async () => {
    await using p = await eventPlace(backend);
    p.emit({ n: 1 }, { n: 2, type: "note.burnt" }, { n: 3 });
    const seen: string[] = [];
    for (const name of ["one", "two"]) {
      await p.subscribe({ name, handler: (event) => seen.push(`${name} ${numberOf(event)}`) });
    }
    await until(async () => (await listSubscribers(p.context)).subscribers.every(({ checkpoint }) => checkpoint === 3));
    expect(seen.sort()).toEqual(["one 1", "one 3", "two 1", "two 3"]);
    const letters = p.place.select("SELECT subscriber, reason FROM hive_dead_letters");
    expect(letters).toEqual([{ subscriber: "", reason: expect.stringContaining("note.burnt") }]);
  });

  test("one of a name delivers; the next takes over when it stops", async () => {
    await using p = await eventPlace(backend);
    const seen: string[] = [];
    const waiting = gate();
    const first = await p.subscribe({ handler: (event) => seen.push(`first ${numberOf(event)}`) });
    p.emit({ n: 1 });
    await until(() => seen.length === 1);
    await p.subscribe({
      handler: (event) => seen.push(`second ${numberOf(event)}`),
      onEvent: ({ kind }) => kind === "standing by" && waiting.open(),
    });
    await waiting.promise;
    await first.stop();
    p.emit({ n: 2 });
    await until(() => seen.length === 2);
    expect(seen).toEqual(["first 1", "second 2"]);
  });

  test("a handler that is asked to stop is not blamed", async () => {
    await using p = await eventPlace(backend);
    p.emit({ n: 1 });
    const begun = gate();
    const first = await p.subscribe({
      transactional: false,
      handler: async (_event, _tx, { abort }) => {
        begun.open();
        await new Promise((resolve) => abort.addEventListener("abort", resolve));
        throw new Error("stopped");
      },
    });
    await begun.promise;
    await first.stop();
    const seen: number[] = [];
    await p.subscribe({ handler: (event) => seen.push(numberOf(event)) });
    await until(() => seen.length === 1);
    expect((await listSubscribers(p.context)).subscribers[0]).toMatchObject({ failed: 0 });
  });

  test("an error that says nothing of the event ends it, and is told", async () => {
    await using p = await eventPlace(backend);
    const subscription = await p.subscribe({ handler: () => undefined });
    p.place.execute("DROP TABLE hive_events");
    await expect(subscription.ended).rejects.toMatchObject({ code: "NOT_MIGRATED" });
  });
});
