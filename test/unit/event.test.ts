import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  canonicalType,
  decodeEvent,
  type EventRow,
  eventRules,
  eventTypes,
  isInvalid,
  MOST_PAYLOAD_BYTES,
  type NewEvent,
  readTime,
  readyEvent,
  uuid7,
} from "../../src/events/event.ts";
import { createDeploymentEvent, createTaskEvent, createWorkflowEvent } from "../../src/presets/hive/create-events.ts";
import { PAYLOADS } from "../../src/presets/hive/event-payloads.ts";
import { EVENT_TYPES, EXTENSION_EVENT_TYPES, hivePreset } from "../../src/presets/hive/index.ts";
import { tinyMapping } from "../support/context.ts";

const RANDOM = "f47ac10b-58cc-4372-a567-0e02b2c3d479";
const NOW = Date.UTC(2026, 10, 23, 3);
const rules = await eventRules(hivePreset);

const ready = (event: Partial<NewEvent>) =>
  readyEvent({ type: "task.completed", sourceAgent: "hive-coder", ...event }, rules, "hive-coder", NOW, RANDOM);
const refused = (reason: RegExp) =>
  expect.objectContaining({ code: "RECORD_INVALID", message: expect.stringMatching(reason) });

const row = (columns: Partial<EventRow>): EventRow => {
  const bytes = (text: unknown) => (typeof text === "string" ? Buffer.byteLength(text) : null);
  const whole = {
    ...{ seq: 1, id: "i", type: "task.completed", sourceAgent: "hive-coder", correlationId: null, causationId: null },
    ...{ subject: null, payload: "{}", metadata: null },
    ...{ occurredAt: "2026-11-23T03:00:00.000Z", recordedAt: "2026-11-23T03:00:00.000Z" },
    ...columns,
  };
  return { payloadBytes: bytes(whole.payload), metadataBytes: bytes(whole.metadata), ...whole };
};

describe("the types of the platform", () => {
  test("28 standard ones and 5 extensions, each with a schema for its payload", () => {
    expect([EVENT_TYPES.length, EXTENSION_EVENT_TYPES.length]).toEqual([28, 5]);
    expect(Object.keys(PAYLOADS).sort()).toEqual([...eventTypes(hivePreset)].sort());
  });

  test.each([
    ["task.completed", "task.completed", undefined],
    ["TaskEventType.COMPLETED", "task.completed", undefined],
    ["WorkflowEventType.PHASE_COMPLETED", "workflow.phase_completed", undefined],
    ["task.review_requested", "review.requested", undefined],
    ["TaskEventType.REVIEW_COMPLETED", "review.completed", undefined],
    ["task.escalated", "review.requested", { requires_human: true }],
    ["TaskEventType.ESCALATED", "review.requested", { requires_human: true }],
    ["workflow.plan_generated", "plan.generated", undefined],
    ["system.error", "system.error", undefined],
  ])("%s means %s", (name, type, payload) => {
    expect(canonicalType(hivePreset, name)).toEqual(payload ? { type, payload } : { type });
  });

  test.each(["task.complete", "TASK.COMPLETED", "TaskEventType.", "constructor", "__proto__", ""])(
    "%s means none",
    (name) => {
      expect(canonicalType(hivePreset, name)).toBeNull();
    },
  );

  test("of a mapping without more are its eventTypes, with any object as payload", async () => {
    const tiny = await eventRules(tinyMapping);
    expect(tiny.types).toEqual(["note.written", "note.read"]);
    expect(tiny.problem("note.read", { any: [1] })).toBeNull();
    expect(tiny.canonical("task.completed")).toBeNull();
  });

  test("schemas that are none are told of, each time until they are corrected", async () => {
    const wrong = (payloads: object) => ({ ...tinyMapping, events: { payloads: async () => payloads as never } });
    const problem = (text: RegExp) =>
      expect.objectContaining({ code: "MAPPING_INVALID", message: expect.stringMatching(text) });
    await expect(eventRules(wrong({ "note.red": { safeParse: () => ({ success: true }) } }))).rejects.toEqual(
      problem(/"note.red" is no event type/),
    );
    await expect(eventRules(wrong({ "note.read": {} }))).rejects.toEqual(problem(/"note.read" has to be a schema/));
  });
});

describe("payloads", () => {
  const fits = (type: string, payload: object) => rules.problem(type, { ...payload });

  test("may be empty, say more, or null, whatever the type", () => {
    for (const type of rules.types) {
      expect(fits(type, {})).toBeNull();
      expect(fits(type, { task_id: null, status: null, whatever: { it: ["is"] } })).toBeNull();
    }
  });

  test.each([
    ["review.completed", { review_score: 90, violations: [{ line: 1 }], suggestions: [], auto_fix_result: {} }],
    ["review.requested", { code_path: "a.py", pr_id: 7, auto_fix: false, task_id: 12 }],
    ["plan.generated", { plan: { a: 1 }, phases: ["one"], description: "d" }],
    ["plan.generated", { plan: [1], estimated_duration: 1.5 }],
    ["deployment.requested", { service_name: "s", environment: { platform: "k8s" } }],
    ["deployment.completed", { deployment_id: "d-1", status: "deployed", environment: "prod" }],
    ["task.completed", { files_modified: ["a.ts"], status: "done" }],
    ["task.completed", { target: "db", status: "ok", alerts: [] }],
  ])("%s takes %j", (type, payload) => {
    expect(fits(type, payload)).toBeNull();
  });

  test.each([
    ["review.completed", { review_score: "90" }, /payload\.review_score: /],
    ["review.completed", { review_score: 101 }, /payload\.review_score: /],
    ["review.completed", { violations: "none" }, /payload\.violations: /],
    ["review.requested", { auto_fix: 1 }, /payload\.auto_fix: /],
    ["plan.generated", { phases: 3 }, /payload\.phases: /],
    ["deployment.requested", { environment: 3 }, /payload\.environment: /],
    ["task.completed", { files_modified: ["a", 1] }, /payload\.files_modified\[1\]: /],
    ["task.created", { task_id: {} }, /payload\.task_id: /],
    ["agent.error", { retry_count: 1.5 }, /payload\.retry_count: /],
  ])("%s refuses %j", (type, payload, reason) => {
    expect(fits(type, payload)).toMatch(reason);
  });

  test("many problems are told briefly", () => {
    const payload = { status: 1, task_type: 1, agent_type: 1, summary: 1, alerts: 1 };
    expect(fits("task.completed", payload)).toMatch(/^payload\.\w+: .*; and 2 more$/);
  });
});

describe("an event that is emitted", () => {
  test("gets an id, a time and a correlation of its own", () => {
    expect(ready({})).toEqual({
      id: uuid7(NOW, RANDOM),
      type: "task.completed",
      sourceAgent: "hive-coder",
      correlationId: uuid7(NOW, RANDOM),
      causationId: null,
      subject: null,
      payload: "{}",
      metadata: null,
      occurredAt: "2026-11-23T03:00:00.000Z",
    });
  });

  test("keeps what it brings, and what its name says besides", () => {
    const event = ready({
      type: "TaskEventType.ESCALATED",
      id: "mine",
      payload: { task_id: "t", gone: undefined },
      metadata: { a: [1] },
      occurredAt: "2031-01-01 00:00:00+01:00",
    });
    expect(event).toMatchObject({
      id: "mine",
      type: "review.requested",
      correlationId: "mine",
      payload: '{"requires_human":true,"task_id":"t"}',
      metadata: '{"a":[1]}',
      occurredAt: "2030-12-31T23:00:00.000Z",
    });
  });

  test("of a type that there is none of is refused, with the nearest", () => {
    expect(() => ready({ type: "task.complete" })).toThrow(
      expect.objectContaining({
        code: "UNKNOWN_NAME",
        message: expect.stringContaining('did you mean "task.completed"'),
      }),
    );
  });

  const cyclic: { [name: string]: unknown } = {};
  cyclic.self = cyclic;
  const deep = (levels: number) => JSON.parse(`${'{"a":'.repeat(levels)}1${"}".repeat(levels)}`);
  test.each<[string, Partial<NewEvent>, RegExp]>([
    ["a payload that does not fit", { payload: { status: 1 } }, /payload\.status: /],
    ["a list", { payload: [1] }, /payload has to be a JSON object/],
    ["NaN", { payload: { a: [Number.NaN] } }, /payload\.a\[0\] is NaN/],
    ["a big integer", { payload: { a: 1n } }, /payload\.a is a bigint/],
    ["a function", { payload: { a: () => 1 } }, /payload\.a is a function/],
    ["a Date", { payload: { a: new Date() } }, /payload\.a has to be JSON/],
    ["a Map", { payload: new Map() }, /payload has to be a JSON object/],
    ["undefined in a list", { payload: { a: [undefined] } }, /payload\.a\[0\] is a undefined/],
    ["a cycle", { payload: cyclic }, /nested deeper/],
    ["too many levels", { payload: deep(1_002) }, /nested deeper/],
    ["too much", { payload: { a: "x".repeat(MOST_PAYLOAD_BYTES) } }, /payload takes 1048584 bytes/],
    ["too many bytes of few characters", { payload: { a: "€".repeat(400_000) } }, /payload takes 1200008 bytes/],
    ["too much metadata", { metadata: { a: "x".repeat(MOST_PAYLOAD_BYTES) } }, /metadata takes/],
    ["a NUL in the subject", { subject: "a\u0000b" }, /subject holds a NUL/],
    ["half a character", { correlationId: "a\ud800" }, /correlationId holds half/],
    ["an empty id", { id: "" }, /id is empty/],
    ["a long subject", { subject: "x".repeat(1_025) }, /subject is longer/],
    ["no time", { occurredAt: "tomorrow" }, /occurredAt is no time/],
    ["an invalid date", { occurredAt: new Date(Number.NaN) }, /occurredAt is no time/],
  ])("is refused with %s", (_, event, reason) => {
    expect(() => ready(event)).toThrow(refused(reason));
  });

  test("may be as long, as deep and as strange as the limits allow", () => {
    expect(ready({ payload: { a: "x".repeat(MOST_PAYLOAD_BYTES - 8) } }).payload).toHaveLength(MOST_PAYLOAD_BYTES);
    expect(ready({ payload: deep(1_000) }).payload).toContain("1");
    expect(ready({ payload: { a: "\u0000\ud800" } }).payload).toBe('{"a":"\\u0000\\ud800"}');
    expect(ready({ subject: "x".repeat(1_024), occurredAt: "9999-12-31" }).occurredAt).toBe("9999-12-31T00:00:00.000Z");
  });

  test("is read back as it was, whatever its payload", () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (anything) => {
        const payload = { more: anything };
        const written = ready({ payload, metadata: payload });
        const read = decodeEvent(row({ payload: written.payload, metadata: written.metadata }), rules);
        const plain = JSON.parse(JSON.stringify(payload));
        expect(read).toMatchObject({ payload: plain, metadata: plain });
      }),
    );
  });
});

describe("a row that came by SQL", () => {
  test("with the least there can be is an event", () => {
    expect(decodeEvent(row({}), rules)).toEqual({
      ...{ seq: 1, id: "i", type: "task.completed", sourceAgent: "hive-coder", correlationId: "i", causationId: null },
      ...{ subject: null, payload: {}, metadata: null },
      ...{ occurredAt: "2026-11-23T03:00:00.000Z", recordedAt: "2026-11-23T03:00:00.000Z" },
    });
  });

  test("empty texts count as absent, a missing time as the other one, names as what they mean", () => {
    const read = decodeEvent(
      row({ type: "TaskEventType.ESCALATED", correlationId: "", subject: "", metadata: "", occurredAt: null }),
      rules,
    );
    expect(read).toMatchObject({
      ...{ type: "review.requested", payload: { requires_human: true }, correlationId: "i", subject: null },
      ...{ metadata: null, occurredAt: "2026-11-23T03:00:00.000Z" },
    });
  });

  test.each<[string, Partial<EventRow>, RegExp]>([
    ["no type", { type: null }, /event_type is missing/],
    ["an unknown type", { type: "task.vanished" }, /unknown event_type "task.vanished"/],
    ["bytes as its type", { type: new Uint8Array([0xff]) }, /unknown event_type 1 bytes/],
    ["no source", { sourceAgent: null }, /source_agent is missing/],
    ["an empty source", { sourceAgent: "" }, /source_agent is missing/],
    ["no id", { id: null }, /^id is missing/],
    ["no payload", { payload: null }, /payload is missing/],
    ["free text as payload", { payload: "hello" }, /payload is no JSON: "hello"/],
    ["a Python dict", { payload: "{'a': None}" }, /payload is no JSON/],
    ["NaN", { payload: '{"a":NaN}' }, /payload is no JSON/],
    ["a list as payload", { payload: "[1]" }, /payload has to be a JSON object, is a list/],
    ["null as payload", { payload: "null" }, /payload has to be a JSON object, is "null"/],
    ["bytes as payload", { payload: new Uint8Array([0x7b, 0xff]) }, /payload is no valid UTF-8/],
    ["a payload that does not fit", { payload: '{"status":7}' }, /payload\.status: /],
    ["a long payload", { payload: null, payloadBytes: 2_000_000 }, /payload takes 2000000 bytes/],
    ["many levels", { payload: `{"a":${"[".repeat(1_000)}${"]".repeat(1_000)}}` }, /payload is nested deeper/],
    ["metadata that is none", { metadata: "x" }, /metadata is no JSON/],
    ["a long subject", { subject: "s".repeat(1_025) }, /subject is longer/],
    ["a NUL", { correlationId: "a\u0000" }, /correlation_id holds a NUL/],
    ["no time", { occurredAt: "soon" }, /occurred_at is no time: "soon"/],
    ["no times", { occurredAt: null, recordedAt: null }, /occurred_at is no time: NULL/],
    ["a wrong day", { recordedAt: "2026-02-30T00:00:00Z" }, /recorded_at is no time/],
  ])("is no event with %s", (_, columns, reason) => {
    const read = decodeEvent(row(columns), rules);
    expect(isInvalid(read) && read.reason).toMatch(reason);
    expect(() => JSON.stringify(read)).not.toThrow();
  });

  test("is an event or has a reason, whatever stands in it", () => {
    const anything = fc.oneof(fc.constant(null), fc.string(), fc.json(), fc.uint8Array({ maxLength: 4 }));
    const columns = {
      ...{ id: anything, type: fc.oneof(anything, fc.constantFrom(...EVENT_TYPES)), sourceAgent: anything },
      ...{ correlationId: anything, causationId: anything, subject: anything, payload: anything, metadata: anything },
      ...{ occurredAt: anything, recordedAt: anything },
    };
    fc.assert(
      fc.property(fc.record(columns), (one) => {
        const read = decodeEvent(row(one), rules);
        if (isInvalid(read)) expect(read.reason).not.toBe("");
        else expect(rules.types).toContain(read.type);
      }),
    );
  });

  test("brackets in texts are no levels", () => {
    const payload = JSON.stringify({ a: `${"[".repeat(3_000)}\\"{` });
    expect(decodeEvent(row({ payload }), rules)).toMatchObject({ payload: JSON.parse(payload) });
  });
});

test.each([
  ["2026-11-23T03:00:00.123456", "2026-11-23T03:00:00.123Z"],
  ["2026-11-23 03:00:00", "2026-11-23T03:00:00.000Z"],
  ["2026-11-23 03:00:00.5 +05:30", "2026-11-22T21:30:00.500Z"],
  ["2026-11-23T03:00-0130", "2026-11-23T04:30:00.000Z"],
  [" 2026-11-23 ", "2026-11-23T00:00:00.000Z"],
  ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"],
  ["2024-02-29T23:59:59z", "2024-02-29T23:59:59.000Z"],
  ["2026-02-29", null],
  ["2026-11-23T24:00:00Z", null],
  ["9999-12-31T23:59:59-01:00", null],
  ["0000-01-01T00:00:00+01:00", null],
  ["23.11.2026", null],
  ["1763866800", null],
  ["", null],
])("the time %s is %s", (text, expected) => {
  expect(readTime(text)).toBe(expected);
});

test("a UUIDv7 begins with its time, and so orders by it", () => {
  expect(uuid7(NOW, RANDOM)).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  expect(Number.parseInt(uuid7(NOW, RANDOM).replaceAll("-", "").slice(0, 12), 16)).toBe(NOW);
  expect(uuid7(NOW, RANDOM) < uuid7(NOW + 1, RANDOM)).toBe(true);
});

test("events of a task, its workflow and its deployment are about the task", () => {
  const of = { taskId: "t-1", sourceAgent: "hive-coder", payload: { status: "x" } };
  const expected = { subject: "t-1", correlationId: "t-1", payload: { task_id: "t-1", status: "x" } };
  expect(createTaskEvent({ ...of, type: "review.requested" })).toMatchObject({ ...expected, type: "review.requested" });
  expect(createWorkflowEvent({ ...of, type: "workflow.started" })).toMatchObject(expected);
  expect(createDeploymentEvent({ ...of, type: "deployment.failed", correlationId: "plan-1" })).toMatchObject({
    ...expected,
    correlationId: "plan-1",
  });
});
