import { describe, expect, test } from "vitest";
import type { Clock } from "../../src/clock.ts";
import { systemClock } from "../../src/clock.ts";
import { prune, tidyEvents } from "../../src/events/retention.ts";
import { listSubscribers, replay, unsubscribe } from "../../src/events/subscribers.ts";
import { subscribe } from "../../src/events/subscriptions.ts";
import { status } from "../../src/observe/status.ts";
import { verify } from "../../src/observe/verify.ts";
import { listAudit } from "../../src/rollout/audit.ts";
import { BACKENDS } from "../support/backends.ts";
import { testContext } from "../support/context.ts";
import { type EventPlace, eventPlace, gate, numberOf, until } from "../support/events.ts";

const OLD = "2020-01-01T00:00:00.000Z";
const DAY_MS = 24 * 3_600_000;

describe.each(BACKENDS)("on $name", (backend) => {
  const numbers = (p: EventPlace) =>
    p.place.select("SELECT seq FROM hive_events WHERE seq IS NOT NULL ORDER BY seq").map(({ seq }) => Number(seq));
  const checkpoints = async (p: EventPlace) =>
    Object.fromEntries(
      (await listSubscribers(p.context)).subscribers.map(({ name, checkpoint }) => [name, checkpoint]),
    );
  const later = (days: number): Clock => ({ ...systemClock, now: () => Date.now() + days * DAY_MS });

  async function read(p: EventPlace, name: string, upTo: number): Promise<void> {
    const subscription = await p.subscribe({ name, handler: () => undefined });
    await until(async () => (await checkpoints(p))[name] === upTo);
    await subscription.stop();
  }

  test("old events go, new ones stay; what cannot be read as a time goes with its neighbours", async () => {
    await using p = await eventPlace(backend);
    p.emit({ n: 1, at: OLD }, { n: 2, at: "" }, { n: 3, at: "9999-01-01T00:00:00.000Z" }, { n: 4, at: OLD }, { n: 5 });
    expect(await prune(p.context, { dryRun: true })).toEqual({
      ...{ deleted: 3, letters: 0, expired: [], heldBy: null, dryRun: true },
    });
    expect(numbers(p)).toEqual([1, 2, 3, 4, 5]);
    expect(await prune(p.context)).toMatchObject({ deleted: 3, dryRun: false });
    expect(numbers(p)).toEqual([3, 5]);
    p.emit({ n: 6 });
    const seen: number[] = [];
    await p.subscribe({ handler: (event) => seen.push(event.seq) });
    await until(() => seen.length === 3);
    expect(seen).toEqual([3, 5, 6]);
  });

  test("never what a live subscriber has not read, nor what it tries again", async () => {
    await using p = await eventPlace(backend);
    p.emit({ n: 1, at: OLD, subject: "a" }, { n: 2, at: OLD }, { n: 3, at: OLD });
    await read(p, "behind", 3);
    p.emit({ n: 4, at: OLD }, { n: 5, at: OLD });
    await read(p, "ahead", 5);
    const failed = gate();
    const retrying = await p.subscribe({
      name: "retrying",
      backoff: { firstMs: 600_000 },
      onEvent: ({ kind }) => kind === "failed" && failed.open(),
      handler: (event) => {
        if (numberOf(event) === 1) throw new Error("later");
      },
    });
    await failed.promise;
    await until(async () => (await checkpoints(p)).retrying === 5);
    await retrying.stop();
    expect(await prune(p.context)).toMatchObject({
      deleted: 2,
      heldBy: { name: "behind", checkpoint: 3 },
      expired: [],
    });
    expect(numbers(p)).toEqual([1, 4, 5]);
  });

  test("a subscriber that nobody runs expires aloud; it comes back only where it has missed nothing", async () => {
    await using p = await eventPlace(backend);
    p.emit({ n: 1 });
    await read(p, "gone", 1);
    p.emit({ n: 2 }, { n: 3 });
    await using soon = p.other({
      clock: later(8),
      settings: { events: { retentionDays: 30, subscriberTimeoutHours: 168 } },
    });
    expect(await prune(soon, { dryRun: true })).toMatchObject({ expired: [{ name: "gone", unread: 2 }] });
    expect(await prune(soon)).toMatchObject({ deleted: 0, expired: [{ name: "gone", unread: 2 }] });
    expect(await prune(soon)).toMatchObject({ expired: [] });
    const { entries } = await listAudit(p.context.store.read, { action: "subscriber expired" });
    expect(entries).toMatchObject([{ before: { subscriber: "gone", unread: 2 }, after: { state: "expired" } }]);
    expect((await status(p.context)).problems).toContainEqual(
      expect.stringContaining("events are no longer kept for them: gone"),
    );
    const check = (await verify(p.context)).checks.find(({ name }) => name === "subscribers");
    expect(check).toMatchObject({ ok: false, detail: expect.stringContaining("gone") });
    // All is there yet.
    await read(p, "gone", 3);
    expect((await listAudit(p.context.store.read, { action: "subscriber back" })).entries).toHaveLength(1);

    p.emit({ n: 4 }, { n: 5 }, { n: 6 });
    await using late = p.other({ clock: later(40) });
    expect(await prune(late)).toMatchObject({ deleted: 5, expired: [{ name: "gone", unread: 3 }] });
    const handler = () => undefined;
    await expect(subscribe(p.context, { name: "gone", patterns: ["*"], handler })).rejects.toMatchObject({
      code: "GUARD_REFUSED",
      message: expect.stringContaining("2 events"),
    });
    p.emit({ n: 7 });
    expect(await replay(p.context, "gone", { from: "start", reason: "seen to" })).toMatchObject({ from: 6, events: 2 });
    await read(p, "gone", 7);
  });

  test("one that is taken away holds nothing back; one that runs ends", async () => {
    await using p = await eventPlace(backend);
    p.emit({ n: 1, at: OLD }, { n: 2, at: OLD });
    const working = gate();
    const subscription = await p.subscribe({
      from: "now",
      onEvent: ({ kind }) => kind === "working" && working.open(),
      handler: () => undefined,
    });
    const ended = expect(subscription.ended).rejects.toMatchObject({ code: "UNKNOWN_NAME" });
    await working.promise;
    expect(await unsubscribe(p.context, "s", { dryRun: true })).toMatchObject({ unread: 0, dryRun: true });
    await unsubscribe(p.context, "s", { reason: "not needed" });
    await ended;
    expect(await listSubscribers(p.context)).toEqual({ subscribers: [] });
    await expect(unsubscribe(p.context, "s")).rejects.toMatchObject({ code: "UNKNOWN_NAME" });
    expect(await prune(p.context)).toMatchObject({ deleted: 1 });
    // The newest stays: the next one's number comes after it.
    expect(numbers(p)).toEqual([2]);
  });

  test("a subscriber that runs is replayed: from a number, from a time", async () => {
    await using p = await eventPlace(backend);
    p.emit({ n: 1, at: OLD, subject: "a" }, { n: 2, at: "2030-01-01T00:00:00.000Z" }, { n: 3, subject: "a" });
    const seen: number[] = [];
    await p.subscribe({
      maxAttempts: 1,
      handler: (event) => {
        seen.push(numberOf(event));
        if (numberOf(event) === 3) throw new Error("poison");
      },
    });
    await until(async () => (await checkpoints(p)).s === 3);
    expect(await replay(p.context, "s", { from: 2, dryRun: true })).toEqual({
      ...{ subscriber: "s", from: 2, checkpoint: 3, events: 2, dryRun: true },
    });
    await replay(p.context, "s", { from: 2, reason: "again" });
    await until(() => seen.length === 5);
    expect(seen).toEqual([1, 2, 3, 2, 3]);
    await until(async () => (await checkpoints(p)).s === 3);
    await replay(p.context, "s", { from: "2026-01-01" });
    await until(() => seen.length === 7);
    expect(seen.slice(5)).toEqual([2, 3]);
    await until(async () => (await checkpoints(p)).s === 3);
    for (const from of [5, "yesterday", "", 0, 1.5]) {
      await expect(replay(p.context, "s", { from }), String(from)).rejects.toMatchObject({ code: "USAGE" });
    }
    await expect(replay(p.context, "t", { from: 1 })).rejects.toMatchObject({ code: "UNKNOWN_NAME" });
    const { entries } = await listAudit(p.context.store.read, { action: "events replay" });
    expect(entries.map(({ reason }) => reason)).toEqual(["again", null]);
  });

  test("an agent's database without events is left alone", async () => {
    const place = await backend.create();
    await using context = testContext(place.url);
    await tidyEvents(context);
    await expect(prune(context)).rejects.toMatchObject({ code: "NOT_MIGRATED" });
    expect(await listSubscribers(context)).toEqual({ subscribers: [] });
  });
});
