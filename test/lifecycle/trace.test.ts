import { describe, expect, test } from "vitest";
import type { NewEvent } from "../../src/events/event.ts";
import { emitAlone, sequence } from "../../src/events/outbox.ts";
import { trace } from "../../src/events/trace.ts";
import { status } from "../../src/observe/status.ts";
import { hivePreset } from "../../src/presets/hive/index.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { BACKENDS } from "../support/backends.ts";
import { platformContext } from "../support/legacy-platform.ts";

const AGENTS = hivePreset.agents.map(({ name }) => name);

describe.each(BACKENDS)("trace on $name", (backend) => {
  async function platform() {
    const place = await backend.create({ legacy: "text" });
    const context = platformContext(place.url);
    await migrateUp(context);
    for (const agent of AGENTS) place.execute(`INSERT INTO hive_flags VALUES ('${agent}', 'unified-events', 'on', '')`);
    const tell = (
      sourceAgent: string,
      type: string,
      subject: string,
      correlationId: string,
      more: Partial<NewEvent> = {},
    ) => emitAlone(context, { type, sourceAgent, subject, correlationId, ...more });
    const task = (id: string, correlation: string, status: string, type = "code") =>
      place.execute(`INSERT INTO unified_tasks (id, correlation_id, task_type, status, agent_type, input_data, created_at, updated_at)
        VALUES ('${id}', '${correlation}', '${type}', '${status}', 'hive-coder', '{}', '2026-11-24T00:00:00.000Z',
          '2026-11-24T00:01:00.000Z')`);
    return { place, context, tell, task, [Symbol.asyncDispose]: () => context[Symbol.asyncDispose]() };
  }
  type Platform = Awaited<ReturnType<typeof platform>>;

  const at = (second: number) => ({ occurredAt: `2026-11-24T00:00:${String(second).padStart(2, "0")}.000Z` });

  /** queue-1 became plan-1, which became two tasks: one failed, one is running. */
  async function aPlan({ tell }: Platform) {
    await tell("ai-planner", "plan.requested", "queue-1", "queue-1", at(0));
    await tell("ai-planner", "plan.generated", "queue-1", "queue-1", { ...at(10), payload: { plan_id: "plan-1" } });
    await tell("hive-coder", "task.created", "t-1", "plan-1", at(11));
    await tell("hive-coder", "task.created", "t-2", "plan-1", at(12));
    await tell("hive-coder", "task.started", "t-1", "plan-1", at(13));
    await tell("hive-coder", "task.failed", "t-1", "plan-1", {
      ...at(33),
      payload: { error: "no space\u001b[2J left" },
    });
    await tell("hive-coder", "task.started", "t-2", "plan-1", at(14));
    // Who tells this does not know that it is a part of the plan.
    await tell("ai-reviewer", "review.requested", "t-1", "t-1", at(40));
    await tell("guardian", "task.progress", "other", "other", at(41));
  }

  const briefly = (result: Awaited<ReturnType<typeof trace>>) =>
    result.events.map(({ depth, type, subject }) => `${"  ".repeat(depth)}${type} ${subject}`);

  test("follows a plan into its tasks, and tells what takes how long, failed, and is running", async () => {
    await using p = await platform();
    await aPlan(p);
    const result = await trace(p.context, "queue-1");
    expect(briefly(result)).toEqual([
      "plan.requested queue-1",
      "  plan.generated queue-1",
      "    task.created t-1",
      "      task.started t-1",
      "      task.failed t-1",
      "      review.requested t-1",
      "    task.created t-2",
      "      task.started t-2",
    ]);
    expect(result.works.map(({ correlationId, depth, events }) => [correlationId, depth, events])).toEqual([
      ["queue-1", 0, 2],
      ["plan-1", 1, 5],
      ["t-1", 2, 1],
    ]);
    const spans = result.events.flatMap(({ subject, spans }) =>
      spans.map(({ name, state, durationMs }) => [subject, name, state, state === "running" ? null : durationMs]),
    );
    expect(spans).toEqual([
      ["queue-1", "planning", "done", 10_000],
      ["t-1", "queue", "done", 2_000],
      ["t-1", "task", "failed", 20_000],
      ["t-1", "review", "running", null],
      ["t-2", "queue", "done", 2_000],
      ["t-2", "task", "running", null],
    ]);
    expect(result).toMatchObject({ running: 2, failed: 1, durationMs: 40_000, cutOff: [], partOf: [] });
    expect(result.agents).toEqual(["ai-planner", "ai-reviewer", "hive-coder"]);
    // A part of it, asked for by itself.
    expect((await trace(p.context, "t-1")).events).toHaveLength(1);
  });

  test("finds tasks by the rows of a plan, and believes the row of a task that is over", async () => {
    await using p = await platform();
    const { tell, task, context } = p;
    await tell("ai-planner", "plan.requested", "queue-1", "queue-1");
    task("queue-1", "queue-1", "completed", "plan");
    task("plan-1", "queue-1", "running", "workflow");
    task("t-1", "plan-1", "completed");
    task("t-2", "plan-1", "running");
    for (const id of ["t-1", "t-2"]) await tell("hive-coder", "task.started", id, id);
    const result = await trace(context, "queue-1");
    expect(result.events.map(({ subject, depth, spans }) => [subject, depth, spans[0]?.state])).toEqual([
      ["queue-1", 0, "ended"],
      ["t-1", 1, "ended"],
      ["t-2", 1, "running"],
    ]);
    expect(result.work.map(({ key, status, final }) => [key, status, final]).sort()).toEqual([
      ["plan-1", "running", false],
      ["queue-1", "completed", true],
      ["t-1", "completed", true],
      ["t-2", "running", false],
    ]);
    expect(result.work[0]).toMatchObject({
      kind: expect.any(String),
      agent: "hive-coder",
      changedAt: "2026-11-24T00:01:00.000Z",
    });
    expect((await trace(context, "plan-1")).partOf).toEqual([
      { correlationId: "queue-1", by: "work", name: "unified_tasks" },
    ]);
  });

  test("goes with a cause into other work that began with it, and not into work that it is a part of", async () => {
    await using p = await platform();
    const { tell, context } = p;
    await tell("ai-planner", "plan.requested", "big", "big", { id: "old" });
    await tell("hive-coder", "task.started", "x", "small", { id: "began", causationId: "old" });
    await tell("hive-coder", "agent.error", "y", "new", { id: "error", causationId: "began" });
    await tell("guardian", "agent.heartbeat", "z", "new");
    await tell("ai-planner", "plan.generated", "big", "big", { causationId: "began" });
    await tell("ai-planner", "plan.approved", "big", "big");
    const small = await trace(context, "small");
    expect(small.events.map(({ type, depth, link }) => [type, depth, link])).toEqual([
      ["task.started", 0, null],
      ["agent.error", 1, "cause"],
      ["agent.heartbeat", 2, "work"],
      ["plan.generated", 1, "cause"],
    ]);
    expect(small.partOf).toEqual([{ correlationId: "big", by: "cause", name: "plan.requested" }]);
    expect((await trace(context, "big")).events).toHaveLength(6);
  });

  test("puts up with circles, strangers, and whatever SQL has written", async () => {
    await using p = await platform();
    const { place, tell, context } = p;
    const insert = (
      id: string,
      type: string,
      correlation: string,
      cause: string | null,
      payload: string,
      subject = "NULL",
    ) =>
      place.execute(`INSERT INTO hive_events (id, event_type, source_agent, correlation_id, causation_id, subject, payload)
        VALUES ('${id}', ${type}, 'x', '${correlation}', ${cause === null ? "NULL" : `'${cause}'`}, ${subject}, ${payload})`);
    insert("a", "'task.started'", "c", "b", "'{}'");
    insert("b", "'task.started'", "d", "a", "'[not json'");
    insert(
      "big",
      "'task.failed'",
      "c",
      "big",
      `'{"error":"' || replace(substr('${"x".repeat(64)}', 1), 'x', '${"y".repeat(20_000)}') || '"}'`,
    );
    insert("odd", "'no.such.type'", "c", "nobody", "NULL");
    insert("none", "NULL", "c", null, "'{}'");
    insert("self", "'task.progress'", "", null, "'{}'");
    // Work that names itself, by way of others.
    await tell("ai-planner", "plan.requested", "r-2", "r-1");
    await tell("ai-planner", "plan.requested", "r-1", "r-2");
    await tell("ai-planner", "task.started", "long", "l".repeat(1_024), { causationId: "a" });
    const result = await trace(context, "c");
    expect(
      result.events
        .map(({ id }) => id)
        .sort()
        .slice(0, 5),
    ).toContain("a");
    expect(result.events).toHaveLength(6);
    expect(new Set(result.events.map(({ seq }) => seq)).size).toBe(6);
    const big = result.events.find(({ id }) => id === "big");
    expect(big).toMatchObject({ payloadBytes: 1_280_012, says: null });
    expect(result.events.map(({ type }) => type)).toEqual(expect.arrayContaining(["no.such.type", "(no type)"]));
    expect(JSON.stringify(result).length).toBeLessThan(10_000);
    expect((await trace(context, "r-1")).events).toHaveLength(2);
    // One that belongs only to itself.
    expect((await trace(context, "self")).events).toHaveLength(1);
    expect((await trace(context, "l".repeat(1_024))).partOf).toMatchObject([{ correlationId: "c" }]);
  });

  test("says aloud where it was cut off", async () => {
    await using p = await platform();
    const { context } = p;
    const told = (n: number, correlationId: string, of = 5): NewEvent => ({
      type: n === 0 ? "plan.requested" : "task.progress",
      sourceAgent: "hive-coder",
      correlationId,
      subject: n === 0 ? `w-${of + 1}` : "t",
    });
    await emitAlone(
      context,
      [0, 1, 2, 3, 4].map((n) => told(n, "w-5")),
    );
    await emitAlone(
      context,
      Array.from({ length: 30 }, (_, i) => told(0, `w-${i + 6}`, i + 6)),
    );
    const few = await trace(context, "w-5", { limit: 3 });
    expect(few.events.map(({ seq }) => seq)).toEqual([1, 2, 3]);
    expect(few.cutOff).toEqual(["more than 3 events: --limit shows more"]);
    expect(few.events[0]?.spans[0]?.state).toBe("unknown");
    expect((await trace(context, "w-5", { limit: 5 })).cutOff).toEqual(["more than 5 events: --limit shows more"]);
    expect(await trace(context, "w-5", { limit: 35, depth: 100 })).toMatchObject({
      cutOff: [],
      events: { length: 35 },
    });
    const shallow = await trace(context, "w-5", { depth: 2 });
    expect(shallow.events).toHaveLength(7);
    expect(shallow.cutOff).toEqual(["work is nested deeper than 2 levels: --depth shows more"]);
    expect((await trace(context, "w-5")).cutOff).toHaveLength(1);
  });

  test("an id that is no correlation id is told what it is", async () => {
    await using p = await platform();
    const { tell, task, context } = p;
    await tell("hive-coder", "task.started", "t-1", "plan-1", { id: "event-1" });
    task("t-1", "plan-1", "running");
    const refused = (id: string) => trace(context, id).catch((error) => error);
    expect(await refused("nothing")).toMatchObject({
      code: "UNKNOWN_NAME",
      hint: expect.stringContaining("events list"),
    });
    expect(await refused("t-1")).toMatchObject({
      code: "UNKNOWN_NAME",
      hint: expect.stringMatching(/key of.*hive trace plan-1/),
    });
    expect(await refused("event-1")).toMatchObject({
      code: "UNKNOWN_NAME",
      hint: expect.stringContaining("hive trace plan-1"),
    });
    expect(await refused("")).toMatchObject({ code: "USAGE" });
    await expect(trace(context, "plan-1", { limit: 0 })).rejects.toMatchObject({ code: "USAGE" });
    await using untouched = platformContext((await backend.create({ legacy: "text" })).url);
    await expect(trace(untouched, "x")).rejects.toMatchObject({ code: "NOT_MIGRATED" });
  });

  test("status says what matters of events, also of those that nobody has numbered", async () => {
    await using p = await platform();
    const { tell, context, place } = p;
    expect((await status(context)).events).toBeNull();
    place.execute(
      `INSERT INTO hive_events (event_type, source_agent, recorded_at) VALUES ('task.failed', 'x', '2026-11-01T00:00:00.000Z')`,
    );
    for (let i = 0; i < 30; i++) await tell("hive-coder", "task.started", `t-${i}`, "plan-1");
    place.execute("INSERT INTO hive_subscribers VALUES ('mail', '[\"*\"]', 0, 0, 'active', '', '', 0, 0)");
    const before = await status(context);
    expect(before.events).toMatchObject({ newest: { type: "task.started" }, perMinute: 3, deadLetters: 0 });
    expect(before.problems).toEqual([expect.stringContaining("behind with events: mail")]);
    await sequence(context.store);
    expect((await status(context)).events).toMatchObject({ last: 31, subscribers: [{ name: "mail", behind: 31 }] });
  });

  test("what could not be delivered is marked", async () => {
    await using p = await platform();
    const { tell, context, place } = p;
    await tell("hive-coder", "task.started", "t-1", "plan-1");
    place.execute(`INSERT INTO hive_subscribers VALUES ('mail', '["*"]', 1, 0, 'active', '', '', 0, 1);
      INSERT INTO hive_dead_letters VALUES ('mail', 1, 'dead', '', 'no route', 5, '{}')`);
    const { events } = await trace(context, "plan-1");
    expect(events[0]?.deadLetters).toEqual([{ subscriber: "mail", reason: "no route" }]);
  });
});
