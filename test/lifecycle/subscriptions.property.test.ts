import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { HiveEvent } from "../../src/events/event.ts";
import { lastSeq, sequence } from "../../src/events/outbox.ts";
import { listSubscribers } from "../../src/events/subscribers.ts";
import { type Delivery, type Subscription, subscribe } from "../../src/events/subscriptions.ts";
import { sql } from "../../src/storage/sql.ts";
import { BACKENDS } from "../support/backends.ts";
import { type EventPlace, eventPlace, numberOf, until } from "../support/events.ts";

/** What a subscriber may be given: events by subject, how often each one fails, and when it is stopped. */
const runs = fc.record({
  transactional: fc.boolean(),
  maxAttempts: fc.integer({ min: 1, max: 3 }),
  batch: fc.integer({ min: 1, max: 8 }),
  events: fc.array(
    fc.record({
      subject: fc.constantFrom("a", "b", "c", null),
      failures: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.integer({ min: 1, max: 4 })),
    }),
    { minLength: 1, maxLength: 25 },
  ),
  /** After how many calls of the handler it is stopped and begun again. */
  stops: fc.array(fc.integer({ min: 1, max: 10 }), { maxLength: 3 }),
  /** So many events come while it runs. */
  later: fc.integer({ min: 0, max: 10 }),
});

type Run = typeof runs extends fc.Arbitrary<infer T> ? T : never;

describe.each(BACKENDS)("on $name", (backend) => {
  let number = 0;

  /** The numbers of the events that were handled without an error, in their order. */
  async function play(p: EventPlace, run: Run): Promise<{ handled: number[]; dead: number[]; name: string }> {
    number += 1;
    const name = `s${number}`;
    const { events, transactional, maxAttempts, batch } = run;
    const first = events.length - Math.min(run.later, events.length);
    const numbered = events.map((event, i) => ({ ...event, n: number * 1_000 + i }));
    await sequence(p.context.store);
    const from = await lastSeq(p.context.store.read);
    if (first > 0) p.emit(...numbered.slice(0, first));
    const tried = new Map<number, number>();
    const handled: number[] = [];
    let calls = 0;
    const stops = [...run.stops];
    let stop = () => {};
    const handle = async (event: HiveEvent, { abort }: Delivery) => {
      const n = numberOf(event);
      calls += 1;
      if (stops[0] === calls) {
        stops.shift();
        calls = 0;
        stop();
      }
      const failed = tried.get(n) ?? 0;
      if (failed < (numbered[n % 1_000]?.failures ?? 0)) {
        // Of one that was asked to stop, a failure does not count.
        if (!abort.aborted) tried.set(n, failed + 1);
        throw new Error("told to fail");
      }
      if (!transactional) handled.push(n);
    };
    let subscription: Subscription | undefined;
    const begin = async () => {
      const common = { name, patterns: ["*"], from, maxAttempts, batch, backoff: { firstMs: 2 } };
      subscription = await subscribe(
        p.context,
        transactional
          ? {
              ...common,
              handler: async (event, tx, delivery) => {
                await tx.run(sql`INSERT INTO effects (name, n) VALUES (${name}, ${numberOf(event)})`);
                await handle(event, delivery);
              },
            }
          : { ...common, transactional, handler: (event, _, delivery) => handle(event, delivery) },
      );
    };
    let stopping: Promise<void> | undefined;
    stop = () => {
      stopping = subscription?.stop().then(begin);
    };
    await begin();
    if (first < numbered.length) p.emit(...numbered.slice(first));
    await until(async () => {
      await stopping;
      const { subscribers } = await listSubscribers(p.context);
      const own = subscribers.find((one) => one.name === name);
      return own?.behind === 0 && own.retrying === 0 && own.waiting === 0;
    });
    await stopping;
    await subscription?.stop();
    const all = async (query: Parameters<typeof p.context.store.read.all>[0]) =>
      (await p.context.store.read.all(query)).map((one) => Number(one.n));
    const dead = await all(
      sql`SELECT seq - ${from} + ${number * 1_000 - 1} AS n FROM hive_dead_letters WHERE subscriber = ${name} ORDER BY seq`,
    );
    return {
      name,
      handled: transactional ? await all(sql`SELECT n FROM effects WHERE name = ${name} ORDER BY place`) : handled,
      dead,
    };
  }

  test("each event is handled once, in the order of its subject, or given up", async () => {
    await using p = await eventPlace(backend);
    const key = backend.name === "sqlite" ? "INTEGER PRIMARY KEY" : "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY";
    p.place.execute(`CREATE TABLE effects (place ${key}, name TEXT, n INTEGER)`);
    await fc.assert(
      fc.asyncProperty(runs, async (run) => {
        const { handled, dead } = await play(p, run);
        const of = (n: number) => run.events[n % 1_000];
        const givenUp = run.events.flatMap(({ failures }, i) =>
          failures >= run.maxAttempts ? [number * 1_000 + i] : [],
        );
        expect(dead).toEqual(givenUp);
        const expected = run.events.map((_, i) => number * 1_000 + i).filter((n) => !givenUp.includes(n));
        // Nothing was killed: stopped in good order, nothing is given twice either.
        expect([...handled].sort((a, b) => a - b)).toEqual(expected);
        for (const subject of ["a", "b", "c"]) {
          const own = handled.filter((n) => of(n)?.subject === subject);
          expect(own).toEqual([...own].sort((a, b) => a - b));
        }
      }),
      { numRuns: backend.name === "sqlite" ? 60 : 30 },
    );
  }, 120_000);
});
