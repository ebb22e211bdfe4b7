import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { causalTree, spansOf, type TreeEvent } from "../../src/events/causal-tree.ts";
import { trace } from "../../src/presets/hive/trace.ts";

const event = (seq: number, given: Partial<TreeEvent> = {}): TreeEvent => ({
  seq,
  id: `e${seq}`,
  type: "task.progress",
  correlationId: "c",
  causationId: null,
  subject: null,
  ...given,
});

const shape = (events: readonly TreeEvent[], leaders?: ReadonlyMap<string, number>) =>
  causalTree(events, leaders).map(({ event: { seq }, parent, depth, link }) => [seq, parent, depth, link]);

describe("the causal tree", () => {
  test("has an event below its cause, else below the first one of its subject", () => {
    const events = [
      event(1, { subject: "a" }),
      event(2, { subject: "b", causationId: "e1" }),
      event(3, { subject: "a" }),
      event(4, { subject: "b" }),
      event(5),
      event(6, { subject: "a", causationId: "nobody" }),
    ];
    expect(shape(events)).toEqual([
      [1, null, 0, null],
      [2, 1, 1, "cause"],
      [4, 2, 2, "subject"],
      [3, 1, 1, "subject"],
      [6, 1, 1, "subject"],
      [5, null, 0, null],
    ]);
  });

  test("has the work that an event led to below that event", () => {
    const events = [event(1, { subject: "plan" }), event(2, { correlationId: "plan", subject: "t" })];
    expect(shape(events, new Map([["plan", 1]]))).toEqual([
      [1, null, 0, null],
      [2, 1, 1, "work"],
    ]);
  });

  test("puts up with causes that come later, are the event itself, or go round in a circle", () => {
    expect(shape([event(1, { causationId: "e2" }), event(2)])).toEqual([
      [2, null, 0, null],
      [1, 2, 1, "cause"],
    ]);
    expect(shape([event(1, { causationId: "e1", subject: "a" })])).toEqual([[1, null, 0, null]]);
    expect(shape([event(1, { causationId: "e2" }), event(2, { causationId: "e1" })])).toEqual([
      [1, null, 0, null],
      [2, 1, 1, "cause"],
    ]);
    // Each rule for itself would be right; together they are a circle.
    const both = [event(1, { subject: "a", causationId: "e2" }), event(2, { subject: "a" })];
    expect(shape(both).map(([seq]) => seq)).toEqual([2, 1]);
  });

  test("is made of a chain of 20,000 causes", () => {
    const chain = Array.from({ length: 20_000 }, (_, i) => event(i + 1, { causationId: `e${i}` }));
    expect(causalTree(chain).at(-1)).toMatchObject({ depth: 19_999 });
    const backwards = Array.from({ length: 20_000 }, (_, i) => event(i + 1, { causationId: `e${i + 2}` }));
    expect(new Set(causalTree(backwards).map((one) => one.event.seq)).size).toBe(20_000);
  });

  const some = fc.integer({ min: 1, max: 12 });
  const id = some.map((n) => `e${n}`);
  const anyEvent = fc.record({
    id,
    causationId: fc.option(id),
    correlationId: fc.constantFrom("c", "d"),
    subject: fc.option(fc.constantFrom("a", "b")),
    type: fc.constantFrom("task.started", "task.completed", "review.requested"),
  });

  test("has every event exactly once, after the one it hangs below, whatever the ids say", () => {
    const anyLeaders = fc.array(fc.tuple(fc.constantFrom("c", "d"), some));
    fc.assert(
      fc.property(fc.array(anyEvent, { maxLength: 14 }), anyLeaders, (list, leaders) => {
        const events = list.map((one, i) => ({ ...one, seq: i + 1 }));
        const placed = causalTree(events, new Map(leaders));
        expect(placed.map((one) => one.event.seq).sort((a, b) => a - b)).toEqual(events.map(({ seq }) => seq));
        const depths = new Map<number, number>();
        for (const {
          event: { seq },
          parent,
          depth,
          link,
        } of placed) {
          expect(depth).toBe(parent === null ? 0 : (depths.get(parent) ?? Number.NaN) + 1);
          expect(link === null).toBe(parent === null);
          depths.set(seq, depth);
        }
      }),
      { numRuns: 2_000 },
    );
  });

  test("spans are closed at most once, by an event that comes later", () => {
    fc.assert(
      fc.property(fc.array(anyEvent, { maxLength: 14 }), (list) => {
        const events = list.map((one, i) => ({ ...one, seq: i + 1 }));
        const spans = spansOf(events, trace.spans);
        expect(spans).toHaveLength(events.filter(({ type }) => type !== "task.completed").length);
        for (const { opened, closed, state } of spans) {
          expect(closed === null).toBe(state === "open");
          if (closed !== null) expect(closed).toBeGreaterThan(opened);
        }
      }),
      { numRuns: 1_000 },
    );
  });
});

describe("spans", () => {
  const of = (...events: TreeEvent[]) =>
    spansOf(events, trace.spans).map(({ name, opened, closed, state }) => [name, opened, closed, state]);
  const on = (seq: number, type: string, subject: string | null = "t", causationId: string | null = null) =>
    event(seq, { type, subject, causationId });

  test("go from what opens them to what closes them, by subject", () => {
    const created = [on(1, "task.created"), on(2, "task.created", "u"), on(3, "task.started")];
    expect(of(...created, on(4, "task.failed"), on(5, "task.completed", "u"))).toEqual([
      ["queue", 1, 3, "done"],
      ["queue", 2, 5, "done"],
      ["task", 3, 4, "failed"],
    ]);
  });

  test("are closed by what they caused, whatever that is about", () => {
    expect(of(on(1, "plan.requested", "queue-1"), on(2, "plan.generated", "plan-1", "e1"))).toEqual([
      ["planning", 1, 2, "done"],
    ]);
  });

  test("that are opened anew were not closed", () => {
    expect(of(on(1, "task.started"), on(2, "task.started"), on(3, "task.completed"))).toEqual([
      ["task", 1, 2, "again"],
      ["task", 2, 3, "done"],
    ]);
    expect(of(on(1, "task.started", null), on(2, "task.completed", null))).toEqual([["task", 1, 2, "done"]]);
    expect(of(on(1, "task.started"), on(2, "task.completed", "other"))).toEqual([["task", 1, null, "open"]]);
  });
});
