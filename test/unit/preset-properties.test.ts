import { deepStrictEqual } from "node:assert";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { hivePreset, UNIFIED_STATUSES, UNIFIED_TASK_TYPES } from "../../src/presets/hive/index.ts";
import { executionPlans, planningQueue } from "../../src/presets/hive/plans.ts";
import { tasks } from "../../src/presets/hive/tasks.ts";
import {
  type Aggregate,
  type AggregateMapping,
  type DataRow,
  MappingError,
  type Value,
} from "../../src/sync/mapping.ts";

/** Rows as dirty as a database without constraints can hold them. */

const NOT_NULL: { readonly [table: string]: readonly string[] } = {
  unified_tasks: [
    "id",
    "correlation_id",
    "task_type",
    "status",
    "agent_type",
    "input_data",
    "created_at",
    "updated_at",
  ],
  unified_review_tasks: ["task_id", "correlation_id", "code_path", "created_at"],
  unified_workflow_tasks: ["task_id", "correlation_id", "workflow_type", "current_phase", "total_phases", "created_at"],
  unified_deployment_tasks: ["task_id", "correlation_id", "service_name", "environment", "strategy", "created_at"],
};

const STATUSES =
  "queued assigned in_progress review_pending approved rejected rework_needed escalated completed failed cancelled " +
  "review_in_progress review_approved review_rejected review_failed planning_in_progress planned planning_failed " +
  "deployment_pending deploying deployed deployment_failed rolled_back running pending blocked draft generated " +
  "executing QUEUED TaskStatus.APPROVED";
const TYPES =
  "chimera_workflow qa_workflow workflow deployment deploy review analysis plan test test_x verification backend";

const number = fc.oneof(
  fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  fc.bigInt({ min: -3n, max: 120n }),
  fc.double({ noNaN: true }),
  fc.constantFrom<Value>(-0, 5, 2.5, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY),
);
const anything: fc.Arbitrary<Value> = fc.oneof(
  fc.constant(null),
  fc.string({ unit: "binary", maxLength: 20 }),
  number,
  fc.uint8Array({ maxLength: 8 }),
);

const lookedUp = fc.dictionary(
  fc.constantFrom(
    "correlation_id",
    "parent_plan_id",
    "plan_id",
    "code_path",
    "files",
    "pr_id",
    "environment",
    "platform",
    "service_name",
    "deployment_strategy",
    "commit_sha",
    "current_phase",
    "inspection_report",
    "_raw",
    "__proto__",
    "1",
  ),
  fc.oneof(fc.string(), fc.jsonValue({ maxDepth: 2 })),
);
const jsonText: fc.Arbitrary<Value> = fc.oneof(
  lookedUp.map((object) => JSON.stringify(object)),
  fc.jsonValue().map((value) => JSON.stringify(value, null, 1)),
  lookedUp.map((object) => JSON.stringify(object).slice(0, -1)),
  fc.constantFrom<Value>(
    '{"a":1,"a":2}',
    '{"n":9007199254740993,"f":1.0}',
    '{"s":"\\ud800\\u0000"}',
    '{"__proto__":{"plan_id":"x"}}',
    `${'{"a":'.repeat(500)}1${"}".repeat(500)}`,
    "{'a': None}",
    "NaN",
    " null ",
    "",
    '"{}"',
    '{"_raw":"x"}',
    '{"files":{"9":1,"0":2}}',
    '1,"x":2',
    '{"inspection_report":{"summary":{"quality_score":150.5},"issues":[1.0]}}',
  ),
  anything,
);
const time: fc.Arbitrary<Value> = fc.oneof(
  fc.date({ noInvalidDate: true, min: new Date(0), max: new Date("2100-01-01") }).map((date) => date.toISOString()),
  fc.constantFrom<Value>(
    "2025-09-21 08:45:28",
    "2025-09-21T08:45:28.123456+02:00",
    "2025-10-31",
    "2025-02-30",
    "1970-01-01T00:00:00.000Z",
    "",
    null,
  ),
  anything,
);
const word = (words: string): fc.Arbitrary<Value> =>
  fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom(...words.split(" ")) },
    { weight: 1, arbitrary: fc.constantFrom(...words.split(" ")).map((text) => ` ${text.toUpperCase()} `) },
    { weight: 1, arbitrary: anything },
  );
const idValue: fc.Arbitrary<Value> = fc.oneof(
  { weight: 3, arbitrary: fc.string({ unit: "binary" }) },
  { weight: 2, arbitrary: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }) },
  { weight: 1, arbitrary: anything },
);
const text = fc.oneof(fc.string({ unit: "binary", maxLength: 80 }), anything);

const COLUMNS: { readonly [column: string]: fc.Arbitrary<Value> } = {
  id: idValue,
  title: text,
  description: text,
  task_description: text,
  requestor: text,
  planning_task_id: idValue,
  task_type: word(TYPES),
  status: word(STATUSES),
  priority: number,
  workflow: jsonText,
  payload: jsonText,
  context_data: jsonText,
  plan_data: jsonText,
  generated_workflow: jsonText,
  created_at: time,
  updated_at: time,
  started_at: time,
  assigned_at: time,
  completed_at: time,
  generated_at: time,
};

const extraName = fc.oneof(
  fc.constantFrom(
    "__proto__",
    "legacy",
    "schema",
    ".schema",
    "constructor",
    "toString",
    "1",
    "",
    'a"b',
    "$int",
    "flags",
  ),
  fc.string({ unit: "binary", maxLength: 10 }),
);

/** A row with every column that the mapping reads, and columns that it does not know. */
function rowOf(columns: readonly string[]): fc.Arbitrary<DataRow> {
  const known = columns.map((column) => COLUMNS[column] ?? anything);
  return fc
    .tuple(fc.tuple(...known), fc.array(fc.tuple(extraName, anything), { maxLength: 4 }))
    .map(([values, extra]) => {
      const row: { [column: string]: Value } = {};
      columns.forEach((column, i) => {
        row[column] = values[i] ?? null;
      });
      for (const [name, value] of extra) {
        if (columns.includes(name)) continue;
        Object.defineProperty(row, name, { value, enumerable: true, configurable: true, writable: true });
      }
      return row;
    });
}

const runs = fc.array(
  fc.record<DataRow>({
    id: anything,
    run_number: number,
    phase: anything,
    status: word("pending running success failed"),
    started_at: time,
    completed_at: time,
    result_data: jsonText,
    error_message: text,
  }),
  { maxLength: 3 },
);
const events = fc.array(fc.record<DataRow>({ id: number, event_type: text, details: jsonText, timestamp: time }), {
  maxLength: 2,
});

const aggregateOf = (mapping: AggregateMapping): fc.Arbitrary<Aggregate> => {
  const { root } = mapping.legacy;
  return fc
    .tuple(rowOf(root.columns), runs, events)
    .map(([row, ran, deployed]) =>
      mapping === tasks ? { [root.table]: [row], runs: ran, deployment_events: deployed } : { [root.table]: [row] },
    );
};

/** What `work` gives, or null where it refuses; anything but a MappingError fails the test. */
function unlessRefused<T>(work: () => T): T | null {
  try {
    return work();
  } catch (error) {
    if (error instanceof MappingError && error.message.length > 20) return null;
    throw error;
  }
}

function check(unified: Aggregate, mapping: AggregateMapping): void {
  const tables = [mapping.unified.root, ...mapping.unified.related];
  expect(Object.keys(unified).filter((name) => !tables.some(({ table }) => table === name))).toEqual([]);
  for (const { table, columns } of tables) {
    for (const row of unified[table] ?? []) {
      deepStrictEqual(Object.keys(row), Object.keys(columns));
      for (const column of NOT_NULL[table] ?? []) expect(row[column], `${table}.${column}`).not.toBeNull();
      for (const [column, kind] of Object.entries(columns)) {
        const value = row[column] ?? null;
        if (value === null) continue;
        expect(typeof value, `${table}.${column}`).toBe(kind === "integer" ? "bigint" : "string");
        if (kind === "json") JSON.parse(String(value));
        if (kind === "time") expect(value).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
      }
    }
  }
  const row = unified.unified_tasks?.[0];
  expect(row?.priority).toBeGreaterThanOrEqual(1n);
  expect(row?.priority).toBeLessThanOrEqual(10n);
  expect(UNIFIED_STATUSES).toContain(row?.status);
  expect(UNIFIED_TASK_TYPES).toContain(row?.task_type);
  for (const { table } of mapping.unified.related) {
    for (const child of unified[table] ?? []) {
      expect(child).toMatchObject({
        task_id: row?.id,
        correlation_id: row?.correlation_id,
        created_at: row?.created_at,
      });
    }
  }
  expect(mapping.owns(unified)).toBe(true);
}

/** JSON as `jsonb` gives it back: other spacing, keys in its own order, no duplicates. */
function asJsonb(unified: Aggregate, mapping: AggregateMapping): Aggregate {
  const result: { [table: string]: DataRow[] } = {};
  for (const { table, columns } of [mapping.unified.root, ...mapping.unified.related]) {
    result[table] = (unified[table] ?? []).map((row) => {
      const copy: { [column: string]: Value } = { ...row };
      for (const [column, kind] of Object.entries(columns)) {
        const value = copy[column];
        if (kind === "json" && typeof value === "string" && !/\d{16}/.test(value)) copy[column] = reordered(value);
      }
      return copy;
    });
  }
  return result;
}

function reordered(json: string): string {
  const sorted: unknown = JSON.parse(json, (_, value) =>
    typeof value === "object" && value !== null && !Array.isArray(value) && !Object.hasOwn(value, "__proto__")
      ? Object.fromEntries(Object.entries(value).reverse())
      : value,
  );
  return JSON.stringify(sorted, null, 1);
}

describe.each([tasks, planningQueue, executionPlans])("$name", (mapping) => {
  const { root } = mapping.legacy;
  test("what goes up is well formed, and comes back down as it was", () => {
    fc.assert(
      fc.property(aggregateOf(mapping), (legacy) => {
        expect(hivePreset.agents.map(({ name }) => name)).toContain(mapping.agent(legacy));
        const unified = unlessRefused(() => mapping.up(legacy));
        if (unified === null) return;
        check(unified, mapping);
        deepStrictEqual(mapping.up(legacy), unified);
        expect(mapping.unifiedAgent(unified)).toBe(mapping.agent(legacy));
        const expected = { [root.table]: legacy[root.table] };
        deepStrictEqual(mapping.down(unified, null), expected);
        deepStrictEqual(mapping.down(unified, legacy), expected);
        deepStrictEqual(mapping.down(asJsonb(unified, mapping), null), expected);
      }),
      { numRuns: 1500 },
    );
  });
  test("without its metadata, it still comes down to what legacy holds", () => {
    fc.assert(
      fc.property(aggregateOf(mapping), fc.constantFrom(null, "{}", "oops", '{"x":1}'), (legacy, task_metadata) => {
        const unified = unlessRefused(() => mapping.up(legacy));
        if (unified === null) return;
        const stripped = {
          ...unified,
          unified_tasks: (unified.unified_tasks ?? []).map((row) => ({ ...row, task_metadata })),
        };
        const row = legacy[root.table]?.[0] ?? {};
        const down = mapping.down(stripped, legacy)[root.table]?.[0] ?? {};
        deepStrictEqual({ ...row, ...down }, { ...row });
      }),
      { numRuns: 1000 },
    );
  });
  test("going down refuses with a MappingError only, and a second time changes nothing", () => {
    const change = fc.record<DataRow>(
      {
        status: fc.oneof(fc.constantFrom(...UNIFIED_STATUSES), anything),
        task_type: fc.oneof(fc.constantFrom(...UNIFIED_TASK_TYPES), anything),
        priority: fc.oneof(fc.bigInt({ min: 1n, max: 10n }), anything),
        input_data: jsonText,
        task_metadata: jsonText,
        created_at: time,
        started_at: time,
        error_message: text,
        retry_count: anything,
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(aggregateOf(mapping), change, (legacy, changes) => {
        const before = unlessRefused(() => mapping.up(legacy));
        if (before === null) return;
        const unified = {
          ...before,
          unified_tasks: (before.unified_tasks ?? []).map((row) => ({ ...row, ...changes })),
        };
        const first = unlessRefused(() => mapping.down(unified, legacy));
        if (first === null) return;
        const merged = { ...legacy, [root.table]: [{ ...legacy[root.table]?.[0], ...first[root.table]?.[0] }] };
        deepStrictEqual(mapping.down(unified, merged), first);
      }),
      { numRuns: 1000 },
    );
  });
});

test("a change of status or type on the unified side survives going down and up again", () => {
  // Except pending, which the platform takes down to queued.
  const statuses = UNIFIED_STATUSES.filter((status) => status !== "pending");
  fc.assert(
    fc.property(
      aggregateOf(tasks),
      fc.constantFrom(...statuses),
      fc.constantFrom(...UNIFIED_TASK_TYPES),
      fc.bigInt({ min: 1n, max: 10n }),
      (legacy, status, task_type, priority) => {
        const unified = unlessRefused(() => tasks.up(legacy));
        if (unified === null) return;
        const changed = {
          ...unified,
          unified_tasks: (unified.unified_tasks ?? []).map((row) => ({ ...row, status, task_type, priority })),
        };
        const again = tasks.up({ ...legacy, ...tasks.down(changed, legacy) });
        expect(again.unified_tasks?.[0]).toMatchObject({ status, task_type, priority });
      },
    ),
    { numRuns: 1000 },
  );
});
