import { describe, expect, test } from "vitest";
import { Histogram } from "../../src/observe/histogram.ts";
import { hivePreset } from "../../src/presets/hive/index.ts";
import { records } from "../../src/presets/hive/records.ts";
import { mappingProblems } from "../../src/sync/load-mapping.ts";
import { type Aggregate, MappingError } from "../../src/sync/mapping.ts";
import { laterTime, rowsCodec, sameTime } from "../../src/sync/records.ts";
import { shopMapping } from "../support/shop.ts";

const NOW = "2026-11-23T12:00:00.000Z";
const codec = hivePreset.records ?? records;

const current: Aggregate = {
  unified_tasks: [
    {
      id: "t",
      correlation_id: "t",
      task_type: "review",
      status: "queued",
      agent_type: "ai-reviewer",
      priority: 5n,
      input_data: '{"n": 12345678901234567890, "1": 1.0}',
      output_data: null,
      task_metadata: '{"legacy":{"schema":"tasks"},"requires_human":true,"mine":1}',
      created_at: "2026-01-01T00:00:00.000Z",
      updated_at: "2026-01-01T00:00:00.000Z",
      started_at: null,
      completed_at: null,
      error_message: null,
      retry_count: 0n,
      max_retries: 3n,
    },
  ],
  unified_review_tasks: [
    {
      task_id: "t",
      correlation_id: "t",
      code_path: "a.py",
      auto_fix_enabled: 1n,
      created_at: "2026-01-01T00:00:00.000Z",
    },
  ],
  unified_workflow_tasks: [],
  unified_deployment_tasks: [],
};
const task = (aggregate: Aggregate) => aggregate.unified_tasks?.[0];

describe("tasks as typed objects", () => {
  test("read: JSON as values, booleans, and nothing of hive's own notes", () => {
    const record = codec.fromAggregate(current);
    expect(record).toMatchObject({
      id: "t",
      priority: 5,
      outputData: null,
      taskMetadata: { requires_human: true, mine: 1 },
      review: { codePath: "a.py", autoFixEnabled: true, reviewScore: null },
    });
    expect(record).not.toHaveProperty("workflow");
    expect(record).not.toHaveProperty("deployment");
  });

  test("read and written back, nothing but the time of the change is another", () => {
    const record = codec.fromAggregate(current);
    const written = codec.toAggregate(record, current, "t", NOW);
    const before = task(current) ?? {};
    expect(task(written)).toEqual({ ...before, updated_at: NOW });
    expect(written.unified_review_tasks?.[0]).toMatchObject(current.unified_review_tasks?.[0] ?? {});
  });

  test("only what is named changes; hive's notes stay; a part can be added and removed", () => {
    const changed = codec.toAggregate(
      { taskMetadata: { other: [1] }, review: null, deployment: { serviceName: "api" }, correlationId: "c" },
      current,
      "t",
      NOW,
    );
    expect(task(changed)?.task_metadata).toBe('{"legacy":{"schema":"tasks"},"other":[1]}');
    expect(task(changed)?.input_data).toBe(task(current)?.input_data);
    expect(changed.unified_review_tasks).toEqual([]);
    expect(changed.unified_deployment_tasks).toEqual([
      expect.objectContaining({ task_id: "t", correlation_id: "c", service_name: "api", environment: "unknown" }),
    ]);
    expect(task(codec.toAggregate({ taskMetadata: null }, current, "t", NOW))?.task_metadata).toBe(
      '{"legacy":{"schema":"tasks"}}',
    );
  });

  test("a new task gets what it does not name", () => {
    expect(task(codec.toAggregate({ taskType: "deploy" }, null, "n", NOW))).toEqual({
      id: "n",
      correlation_id: "n",
      task_type: "deploy",
      status: "pending",
      agent_type: "ai-deployer",
      priority: null,
      input_data: "{}",
      output_data: null,
      task_metadata: null,
      created_at: NOW,
      updated_at: NOW,
      started_at: null,
      completed_at: null,
      error_message: null,
      retry_count: null,
      max_retries: null,
    });
  });

  const loop: Record<string, unknown> = {};
  loop.self = loop;
  test.each<[object, RegExp]>([
    [{ status: null }, /status must not be null/],
    [{ inputData: Number.NaN }, /JSON has no such number/],
    [{ inputData: { a: () => 1 } }, /cannot hold a function/],
    [{ inputData: loop }, /contains itself/],
    [{ outputData: 1n }, /cannot hold a bigint/],
    [{ startedAt: "yesterday" }, /has to be a time/],
    [{ startedAt: new Date() }, /has to be a time/],
    [{ priority: "5" }, /priority has to be a whole number/],
    [{ retryCount: -1 }, /retryCount has to be a whole number of at least 0/],
    [{ review: 5 }, /review has to be an object/],
    [{ review: { score: 5 } }, /no field review\.score/],
    [{ workflow: { workflowType: "" } }, /workflow\.workflowType must not be empty/],
    [{ taskMetadata: [] }, /taskMetadata has to be an object/],
    [{ __proto__: null, constructor: 1 }, /no field constructor/],
  ])("a bad value is refused (%#)", (changes, message) => {
    expect(() => codec.toAggregate(changes, current, "t", NOW)).toThrow(MappingError);
    expect(() => codec.toAggregate(changes, current, "t", NOW)).toThrow(message);
  });

  test("times are stored in one form", () => {
    const row = task(codec.toAggregate({ startedAt: "2026-01-01 10:00:00+02:00" }, current, "t", NOW));
    expect(row?.started_at).toBe("2026-01-01T08:00:00.000Z");
  });
});

describe("rows by table", () => {
  const rows = rowsCodec(shopMapping.aggregates, "parties");
  const party: Aggregate = {
    parties: [{ id: "p", name: "Ada", kind: "sales" }],
    party_orders: [
      { id: 1n, party_id: "p", amount: 10n },
      { id: 2n, party_id: "p", amount: 2n ** 60n },
    ],
  };

  test("read with plain numbers, and with a bigint where those would round", () => {
    expect(rows.fromAggregate(party)).toEqual({
      parties: [{ id: "p", name: "Ada", kind: "sales" }],
      party_orders: [
        { id: 1, party_id: "p", amount: 10 },
        { id: 2, party_id: "p", amount: 2n ** 60n },
      ],
    });
    expect(rows.key({ parties: [{ id: 7 }] })).toBe("7");
    expect(rows.key({})).toBeNull();
  });

  test("a table that is named has these rows and no others; columns that a row does not name stay", () => {
    expect(rows.toAggregate({ party_orders: [{ id: 2 }, { id: 3, amount: 5 }] }, party, "p", NOW)).toEqual({
      parties: party.parties,
      party_orders: [
        { id: 2n, party_id: "p", amount: 2n ** 60n },
        { id: 3n, party_id: "p", amount: 5n },
      ],
    });
    expect(() => rows.toAggregate({ cases: [] }, party, "p", NOW)).toThrow(/none of the tables/);
    expect(() => rows.toAggregate({ parties: [{}, {}] }, party, "p", NOW)).toThrow(/one row/);
    expect(() => rows.toAggregate({ parties: [{ name: {} }] }, party, "p", NOW)).toThrow(/has to be null, a text/);
  });
});

test("a codec is checked with the mapping", () => {
  const wrong = { ...records, table: "tasks", filters: { a: "b" }, key: 5 };
  expect(mappingProblems({ ...hivePreset, records: wrong }).map(({ field }) => field)).toEqual([
    "records.table",
    "records.key",
  ]);
  const column = { ...records, filters: { a: "b" }, updatedAt: "changed" };
  expect(mappingProblems({ ...hivePreset, records: column }).map(({ field }) => field)).toEqual([
    "records.filters.a",
    "records.updatedAt",
  ]);
  expect(mappingProblems(hivePreset)).toEqual([]);
});

test("the time of a change is later than the one before, whatever the clock says", () => {
  expect(laterTime(Date.parse(NOW), NOW)).toBe("2026-11-23T12:00:00.001Z");
  expect(laterTime(0, NOW)).toBe("2026-11-23T12:00:00.001Z");
  expect(laterTime(Date.parse(NOW), undefined)).toBe(NOW);
  expect(sameTime(NOW, "2026-11-23T12:00:00Z")).toBe(true);
  expect(sameTime("x", "y")).toBe(false);
});

test("percentiles are at most a tenth above the true ones", () => {
  const histogram = new Histogram();
  expect(histogram.percentiles()).toEqual({ p50: 0, p95: 0, p99: 0 });
  for (let i = 1; i <= 1000; i++) histogram.add(i / 10);
  const { p50, p95, p99 } = histogram.percentiles();
  for (const [found, exact] of [
    [p50, 50],
    [p95, 95],
    [p99, 99],
  ] as const) {
    expect(found).toBeGreaterThanOrEqual(exact * 0.99);
    expect(found).toBeLessThanOrEqual(exact * 1.1);
  }
});
