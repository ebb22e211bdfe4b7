import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Clock } from "../../src/clock.ts";
import { dialect } from "../../src/storage/sqlite-connection.ts";
import { Pace } from "../../src/sync/pace.ts";

/** A database whose write lock costs `fixedMs` a commit and `perRowMs` a row, on a clock that only it moves. */
function simulate(options: {
  fixedMs: number;
  perRowMs: number;
  othersEveryMs: number | null;
  rows: number;
  holders?: number;
}) {
  let now = 0;
  let commits = 0;
  let othersAt = options.othersEveryMs === null ? Number.POSITIVE_INFINITY : 0.01;
  const clock: Clock = {
    now: () => now,
    monotonic: () => now,
    random: () => 0.5,
    id: () => "id",
    sleep: async (ms) => {
      now += ms;
    },
  };
  const store = {
    stats: { commits: 0, heldMs: 0, lastHeldMs: 0, lastWorkMs: 0 },
    holders: async () => options.holders ?? 1,
    transaction: () => Promise.reject(new Error("nothing is recorded here")),
    dialect,
    othersCommitted: async () => {
      if (now >= othersAt) {
        othersAt = now + (options.othersEveryMs ?? Number.POSITIVE_INFINITY);
        commits += 1;
      }
      return commits;
    },
  };
  const pace = new Pace(store, clock, 0.01);
  const slices: { at: number; held: number; contended: boolean; rows: number }[] = [];
  const run = async () => {
    for (let left = options.rows; left > 0; ) {
      await pace.observe();
      await pace.ready();
      const contended = pace.contended;
      const rows = Math.min(left, pace.slice);
      const held = options.fixedMs + rows * options.perRowMs;
      slices.push({ at: now, held, contended, rows });
      now += held;
      store.stats.lastHeldMs = held;
      store.stats.lastWorkMs = held - options.fixedMs;
      pace.done(rows);
      left -= rows;
      // Reading and mapping need no lock.
      now += rows * options.perRowMs;
    }
  };
  return { run, slices, end: () => now };
}

describe("the lock budget", () => {
  test("keeps slices short and pauses while others write", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          fixedMs: fc.double({ min: 0.05, max: 1, noNaN: true }),
          perRowMs: fc.double({ min: 0.005, max: 0.5, noNaN: true }),
          othersEveryMs: fc.integer({ min: 1, max: 1_000 }),
          rows: fc.constant(3_000),
        }),
        async (options) => {
          const { run, slices } = simulate(options);
          await run();
          const contended = slices.filter((slice) => slice.contended);
          expect(contended.length).toBeGreaterThan(0);
          // The first ones of a contended stretch are sized by what was measured before it.
          const settled = contended.slice(8);
          for (const slice of settled) expect(slice.held).toBeLessThanOrEqual(5 + options.fixedMs);
          for (const [i, slice] of settled.entries()) {
            const next = settled[i + 1];
            if (!next) continue;
            const gap = next.at - slice.at;
            expect(gap).toBeGreaterThanOrEqual(99.8);
          }
          // Over any stretch: what was saved up before it (2 s of the budget), and at most one slice ahead of the budget.
          let held = 0;
          for (const [i, slice] of settled.entries()) {
            held += slice.held;
            const elapsed = slice.at + slice.held - (settled[0]?.at ?? 0);
            expect(held, `slice ${i}`).toBeLessThanOrEqual(0.01 * (2_000 + elapsed) + slice.held + 0.1);
          }
        },
      ),
      { numRuns: 100 },
    );
  });

  test("those that are at work at the same time commit ten times a second together", async () => {
    const { run, slices } = simulate({ fixedMs: 0.05, perRowMs: 0.0001, othersEveryMs: 10, rows: 20_000, holders: 2 });
    await run();
    const settled = slices.filter((slice) => slice.contended).slice(2);
    expect(settled.length).toBeGreaterThan(3);
    for (const [i, slice] of settled.slice(1).entries()) {
      expect(slice.at - (settled[i]?.at ?? 0)).toBeGreaterThanOrEqual(199.8);
    }
  });

  test("goes at full speed when nobody else writes", async () => {
    const { run, slices, end } = simulate({ fixedMs: 0.3, perRowMs: 0.02, othersEveryMs: null, rows: 100_000 });
    await run();
    expect(slices.every((slice) => !slice.contended)).toBe(true);
    // Nothing but the work itself: the lock for each row, each commit, and as much again for reading.
    expect(end()).toBeCloseTo(100_000 * 0.02 * 2 + slices.length * 0.3, 3);
    expect(Math.max(...slices.map((slice) => slice.held))).toBeLessThan(30);
  });

  test("one slow commit does not make many small ones of all that follows", async () => {
    let now = 0;
    const clock = { now: () => now, monotonic: () => now, random: () => 0, id: () => "", sleep: async () => {} };
    const store = {
      stats: { commits: 0, heldMs: 0, lastHeldMs: 10, lastWorkMs: 9 },
      dialect,
      othersCommitted: async () => 0,
      holders: async () => 1,
      transaction: () => Promise.reject(new Error("nothing is recorded here")),
    };
    const pace = new Pace(store, clock, 0.01);
    for (let i = 0; i < 20; i++) pace.done(pace.slice);
    const before = pace.slice;
    store.stats.lastHeldMs = 5_000;
    now += 5_000;
    pace.done(before);
    expect(pace.slice).toBeGreaterThan(before / 3);
  });

  test("a slow spell while others write, and what each transaction costs, do not make slices small for ever", async () => {
    let now = 0;
    let commits = 0;
    const sleep = async (ms: number) => {
      now += ms;
    };
    const clock = { now: () => now, monotonic: () => now, random: () => 0, id: () => "", sleep };
    const store = {
      stats: { commits: 0, heldMs: 0, lastHeldMs: 0, lastWorkMs: 0 },
      dialect,
      othersCommitted: async () => ++commits,
      holders: async () => 1,
      transaction: () => Promise.reject(new Error("nothing is recorded here")),
    };
    const pace = new Pace(store, clock, 0.01);
    const work = async (times: number, cost: (rows: number) => number) => {
      for (let i = 0; i < times; i++) {
        await pace.observe();
        await pace.ready();
        const ms = cost(pace.slice);
        Object.assign(store.stats, { lastWorkMs: ms, lastHeldMs: ms + 0.3 });
        now += ms;
        pace.done(pace.slice);
      }
    };
    await work(20, () => 60);
    expect(pace.slice).toBeLessThan(4);
    await work(100, (rows) => 2.5 + 0.05 * rows);
    expect(pace.slice).toBeGreaterThan(15);
  });
});
