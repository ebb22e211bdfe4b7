import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { matches, TopicRegistry } from "../../src/events/topics.ts";
import { EVENT_TYPES } from "../../src/presets/hive/index.ts";

describe("a pattern", () => {
  test.each([
    ["task.completed", "task.completed", true],
    ["task.completed", "task.completed2", false],
    ["task.*", "task.completed", true],
    ["task.*", "review.completed", false],
    ["task.*", "task.sub.completed", true],
    ["task.*", "task.", true],
    ["task.*", "task", false],
    ["*.completed", "deployment.completed", true],
    ["*.completed", "a.b.completed", true],
    ["*.completed", "a.completed.b", false],
    ["*", "anything.at.all", true],
    ["*", "", true],
    ["review.*_fix_*", "review.auto_fix_applied", true],
    ["task.completed", "taskxcompleted", false],
    ["", "task.created", false],
  ])("%s and %s: %s", (pattern, type, expected) => {
    expect(matches(pattern, type)).toBe(expected);
  });

  test("says what the same pattern with .* says", () => {
    const alphabet = fc.string({ unit: fc.constantFrom("a", "b", ".", "*", "+", "(", "\n"), maxLength: 8 });
    fc.assert(
      fc.property(alphabet, alphabet, (pattern, type) => {
        const regular = new RegExp(
          `^${pattern
            .split("*")
            .map((part) => part.replace(/[.+(]/g, "\\$&"))
            .join(".*")}$`,
          "s",
        );
        expect(matches(pattern, type)).toBe(regular.test(type));
      }),
      { numRuns: 3_000 },
    );
  });

  test("takes no time to speak of, however many stars it has", () => {
    expect(matches(`${"*a".repeat(5_000)}b`, "a".repeat(10_000))).toBe(false);
  });
});

describe("the registry", () => {
  test("calls a handler once, however many of its patterns fit, until it is unregistered", async () => {
    const pattern = fc.oneof(
      fc.constantFrom("*", "task.*", "*.completed", "review.*", "*.*"),
      fc.constantFrom(...EVENT_TYPES),
    );
    const registrations = fc.array(fc.record({ pattern, handler: fc.nat({ max: 3 }), unregistered: fc.boolean() }), {
      maxLength: 12,
    });
    await fc.assert(
      fc.asyncProperty(registrations, fc.constantFrom(...EVENT_TYPES), async (all, type) => {
        const calls = [0, 0, 0, 0];
        const handlers = calls.map((_, i) => () => {
          calls[i] = (calls[i] ?? 0) + 1;
        });
        const registry = new TopicRegistry();
        for (const one of all) {
          const handler = handlers[one.handler];
          if (handler && one.unregistered) registry.register(one.pattern, handler)();
          else if (handler) registry.register(one.pattern, handler);
        }
        const called = await registry.dispatch({ type });
        const expected = handlers.map((_, i) =>
          all.some((one) => one.handler === i && !one.unregistered && matches(one.pattern, type)) ? 1 : 0,
        );
        expect(calls).toEqual(expected);
        expect(called).toBe(expected.filter((one) => one === 1).length);
      }),
    );
  });

  test("gives up one registration and leaves the others of the same handler", () => {
    const registry = new TopicRegistry();
    const handler = () => undefined;
    const first = registry.register("task.*", handler);
    registry.register("task.*", handler);
    first();
    first();
    expect(registry.handlers("task.created")).toEqual([handler]);
  });

  test("goes on where a handler fails, in order, and tells of every failure", async () => {
    const registry = new TopicRegistry();
    const seen: string[] = [];
    registry.register("*", async () => {
      await Promise.resolve();
      seen.push("first");
      throw new Error("one");
    });
    registry.register("task.created", () => {
      seen.push("second");
    });
    await expect(registry.dispatch({ type: "task.created" })).rejects.toThrow("one");
    registry.register("*.created", () => {
      throw new Error("two");
    });
    await expect(registry.dispatch({ type: "task.created" })).rejects.toMatchObject({
      errors: [expect.objectContaining({ message: "one" }), expect.objectContaining({ message: "two" })],
    });
    expect(seen).toEqual(["first", "second", "first", "second"]);
  });

  test("takes no empty pattern", () => {
    expect(() => new TopicRegistry().register("", () => undefined)).toThrow(expect.objectContaining({ code: "USAGE" }));
  });
});
