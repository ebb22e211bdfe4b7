import { HTTP, CloudEvent as SdkEvent, ValidationError } from "cloudevents";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { fromCloudEvent, toCloudEvent } from "../../src/events/cloudevents.ts";
import type { HiveEvent, JsonObject } from "../../src/events/event.ts";
import { EVENT_TYPES } from "../../src/presets/hive/index.ts";

const json = <T>(value: T): T => JSON.parse(JSON.stringify(value));

const object = fc
  .dictionary(fc.string({ maxLength: 8 }), fc.jsonValue(), { maxKeys: 4 })
  .map((value): JsonObject => JSON.parse(JSON.stringify(value)));
const text = fc.string({ unit: "grapheme", minLength: 1, maxLength: 40 });
const extensions = fc.dictionary(
  fc.stringMatching(/^x[a-z0-9]{0,18}$/),
  fc.oneof(text, fc.boolean(), fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 })),
  { maxKeys: 3 },
);
const metadata = fc.oneof(
  fc.constant(null),
  object,
  fc.tuple(object, extensions).map(([one, cloudevents]) => json<JsonObject>({ ...one, cloudevents })),
);
const time = fc
  .date({ min: new Date("0001-01-01T00:00:00Z"), max: new Date("9999-12-31T23:59:59Z"), noInvalidDate: true })
  .map((date) => date.toISOString());

const event: fc.Arbitrary<HiveEvent> = fc.record({
  seq: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
  id: text,
  type: fc.constantFrom(...EVENT_TYPES),
  sourceAgent: text,
  correlationId: text,
  causationId: fc.option(text),
  subject: fc.option(text),
  payload: object,
  metadata,
  occurredAt: time,
  recordedAt: time,
});

const example: HiveEvent = {
  seq: 12,
  id: "0198f1c2-0000-7000-8000-000000000001",
  type: "task.completed",
  sourceAgent: "hive-coder",
  correlationId: "plan-1",
  causationId: "0198f1c2-0000-7000-8000-000000000000",
  subject: "task-17",
  payload: { task_id: "task-17", status: "done" },
  metadata: { host: "a", cloudevents: { traceparent: "00-1", sampled: true } },
  occurredAt: "2026-11-23T03:00:00.000Z",
  recordedAt: "2026-11-23T03:00:00.123Z",
};

describe("an event as a CloudEvent", () => {
  test("looks like this", () => {
    expect(toCloudEvent(example)).toEqual({
      specversion: "1.0",
      id: "0198f1c2-0000-7000-8000-000000000001",
      source: "/agents/hive-coder",
      type: "dev.hive.task.completed",
      subject: "task-17",
      time: "2026-11-23T03:00:00.000Z",
      datacontenttype: "application/json",
      data: { task_id: "task-17", status: "done" },
      correlationid: "plan-1",
      causationid: "0198f1c2-0000-7000-8000-000000000000",
      partitionkey: "task-17",
      recordedtime: "2026-11-23T03:00:00.123Z",
      sequence: "0000000000000012",
      traceparent: "00-1",
      sampled: true,
      hivemetadata: '{"host":"a"}',
    });
  });

  test("and back is the same event", () => {
    fc.assert(
      fc.property(event, (one) => {
        expect(fromCloudEvent(JSON.parse(JSON.stringify(toCloudEvent(one))))).toEqual(one);
      }),
      { numRuns: 1_000 },
    );
  });

  test("is accepted by the SDK's strict validation, and comes back through it", () => {
    fc.assert(
      fc.property(event, (one) => {
        const sdk = new SdkEvent(json(toCloudEvent(one)) as ConstructorParameters<typeof SdkEvent>[0], true);
        expect(sdk.validate()).toBe(true);
        expect(fromCloudEvent(sdk)).toEqual(one);
      }),
      { numRuns: 200 },
    );
  });

  test("travels in the SDK's HTTP messages, structured and binary", () => {
    const sdk = new SdkEvent(json(toCloudEvent(example)) as ConstructorParameters<typeof SdkEvent>[0], true);
    for (const message of [HTTP.structured(sdk), HTTP.binary(sdk)]) {
      const [received] = [HTTP.toEvent(message)].flat();
      // Headers are text: in a binary message true has become "true".
      expect(fromCloudEvent(received)).toMatchObject({ ...example, metadata: { host: "a" } });
    }
  });
});

describe("a CloudEvent from elsewhere", () => {
  test("of the SDK is read, with its extensions", () => {
    const sdk = new SdkEvent({
      type: "dev.hive.review.completed",
      source: "https://ci.example.org/reviews",
      data: { review_score: 90 },
      traceparent: "00-2",
    });
    expect(fromCloudEvent(sdk)).toEqual({
      id: sdk.id,
      type: "review.completed",
      sourceAgent: "https://ci.example.org/reviews",
      correlationId: sdk.id,
      causationId: null,
      subject: null,
      payload: { review_score: 90 },
      metadata: { cloudevents: { traceparent: "00-2" } },
      occurredAt: sdk.time,
    });
  });

  const minimal = { specversion: "1.0", id: "1", source: "/agents/a", type: "dev.hive.task.created" };

  test("may lack its data, or bring it as bytes", () => {
    expect(fromCloudEvent(minimal).payload).toEqual({});
    const bytes = Buffer.from('{"title":"ä"}').toString("base64");
    expect(fromCloudEvent({ ...minimal, data_base64: bytes }).payload).toEqual({ title: "ä" });
  });

  test.each([
    ["nothing", null, /no JSON object/],
    ["a list", [], /no JSON object/],
    ["an older version", { ...minimal, specversion: "0.3" }, /specversion/],
    ["no id", { ...minimal, id: undefined }, /id is missing/],
    ["an empty id", { ...minimal, id: "" }, /id has to be a text/],
    ["a foreign type", { ...minimal, type: "com.github.push" }, /type has to begin with dev\.hive\./],
    ["no time", { ...minimal, time: "yesterday" }, /time is no time/],
    ["text as data", { ...minimal, data: "text" }, /data has to be/],
    ["a list as data", { ...minimal, data: [1] }, /data has to be/],
    ["bytes that are no JSON", { ...minimal, data_base64: "%" }, /data has to be/],
    ["another content type", { ...minimal, datacontenttype: "text/xml", data: "<a/>" }, /datacontenttype/],
    ["metadata that is none", { ...minimal, hivemetadata: "[" }, /hivemetadata/],
  ])("%s is refused", (_, given, message) => {
    expect(() => fromCloudEvent(given)).toThrow(
      expect.objectContaining({ code: "RECORD_INVALID", message: expect.stringMatching(message) }),
    );
  });

  test("the SDK's validation would refuse what is none", () => {
    expect(() => new SdkEvent({ ...minimal, correlation_id: "1" }, true)).toThrow(ValidationError);
  });
});
