import { describe, expect, test } from "vitest";
import { EVENT_TYPES, EXTENSION_EVENT_TYPES, hivePreset, LEGACY_EVENT_NAMES } from "../../src/presets/hive/index.ts";
import { executionPlans, planningQueue } from "../../src/presets/hive/plans.ts";
import type { Value } from "../../src/sync/mapping.ts";
import { type Columns, downPlan, downQueue, flags, json, only, plan, queueItem } from "../support/preset-rows.ts";

const queue = (columns: Columns = {}) =>
  only(planningQueue.up({ planning_queue: [queueItem(columns)] }), "unified_tasks");
const plans = (columns: Columns = {}) => executionPlans.up({ execution_plans: [plan(columns)] });

describe("planning_queue up", () => {
  test("type, agent, ids and what is NULL", () => {
    expect(queue()).toMatchObject({
      id: "q1",
      correlation_id: "q1",
      task_type: "plan",
      agent_type: "ai-planner",
      output_data: null,
      error_message: null,
      retry_count: null,
      max_retries: null,
    });
    expect(planningQueue.agent({ planning_queue: [queueItem()] })).toBe("ai-planner");
    expect(planningQueue.up({ planning_queue: [queueItem()] }).unified_workflow_tasks ?? []).toEqual([]);
  });
  test.each<[Value, bigint]>([
    [50n, 5n],
    [55n, 5n],
    [59.9, 5n],
    [60n, 4n],
    [90n, 1n],
    [100n, 1n],
    [1000n, 1n],
    [9n, 10n],
    [0n, 10n],
    [-5n, 10n],
    [-(2n ** 62n), 10n],
    [Number.POSITIVE_INFINITY, 1n],
    [null, 5n],
    ["50", 5n],
    ["80", 5n],
  ])("priority %s is %s", (priority, expected) => {
    expect(queue({ priority }).priority).toBe(expected);
  });
  test.each([
    ["pending", "pending", false],
    ["assigned", "running", false],
    ["in_progress", "running", false],
    ["planned", "completed", false],
    ["completed", "completed", false],
    ["failed", "failed", false],
    ["cancelled", "cancelled", false],
    [" Planned ", "completed", false],
    ["PlanStatus.FAILED", "failed", false],
    ["queued", "pending", true],
    [null, "pending", true],
  ])("status %s is %s", (status, expected, flagged) => {
    const row = queue({ status });
    expect(row.status).toBe(expected);
    expect(flags(row)).toEqual(flagged ? ["status_unknown"] : undefined);
  });
  test("input_data", () => {
    expect(queue().input_data).toBe('{"description":"Plan this","requestor":"user","context":{"files": 3}}');
    expect(json(queue({ context_data: "x", requestor: null }).input_data)).toEqual({
      description: "Plan this",
      requestor: null,
      context: { _raw: "x" },
    });
  });
  test("times", () => {
    const created_at = "2025-09-21 08:00:00";
    const assigned_at = "2025-09-21T09:00:00.5+00:00";
    const completed_at = "2025-09-21T10:00:00Z";
    expect(queue({ created_at })).toMatchObject({
      created_at: "2025-09-21T08:00:00.000Z",
      updated_at: "2025-09-21T08:00:00.000Z",
      started_at: null,
      completed_at: null,
    });
    expect(queue({ created_at, assigned_at })).toMatchObject({
      updated_at: "2025-09-21T09:00:00.500Z",
      started_at: "2025-09-21T09:00:00.500Z",
    });
    expect(queue({ created_at, assigned_at, completed_at })).toMatchObject({
      updated_at: "2025-09-21T10:00:00.000Z",
      completed_at: "2025-09-21T10:00:00.000Z",
    });
    expect(flags(queue({ created_at: "", assigned_at: "?", completed_at: "?" }))).toEqual([
      "created_at_unreadable",
      "started_at_unreadable",
      "completed_at_unreadable",
      "updated_at_unreadable",
    ]);
    expect(flags(queue({ created_at: "", assigned_at }))).toEqual(["created_at_unreadable"]);
    expect(flags(queue({ created_at: null }))).toEqual(["created_at_unreadable", "updated_at_unreadable"]);
  });
});

describe("planning_queue down", () => {
  test.each([
    ["pending", "pending"],
    ["running", "assigned"],
    ["completed", "planned"],
    ["failed", "failed"],
  ])("a changed status %s is %s", (unified, legacy) => {
    const before = unified === "failed" ? "planned" : "failed";
    expect(downQueue({ status: before }, { status: unified }).status).toBe(legacy);
  });
  test.each([["queued"], ["review_pending"], ["cancelled"], ["review_approved"]])(
    "%s leaves the raw one",
    (unified) => {
      expect(downQueue({ status: "in_progress" }, { status: unified }).status).toBe("in_progress");
    },
  );
  test("the other columns", () => {
    const input_data = '{"description":"New","requestor":null,"context":{"_raw":"x"}}';
    const change = { input_data, priority: 2n, started_at: "2025-12-01T00:00:00.000Z", completed_at: null };
    expect(downQueue({ completed_at: "2025-01-01" }, change)).toEqual(
      queueItem({
        task_description: "New",
        requestor: null,
        context_data: "x",
        priority: 80n,
        assigned_at: "2025-12-01T00:00:00.000Z",
        completed_at: null,
      }),
    );
    expect(downQueue({ priority: 55n }, {})).toEqual(queueItem({ priority: 55n }));
  });
});

describe("execution_plans up", () => {
  test("the task", () => {
    const row = only(plans(), "unified_tasks");
    expect(row).toMatchObject({
      id: "p1",
      correlation_id: "q1",
      task_type: "workflow",
      agent_type: "orchestrator",
      priority: 5n,
      input_data: '{"plan":{"sub_tasks": []}}',
      output_data: null,
      error_message: null,
      created_at: "2025-09-23T19:37:40.545Z",
      updated_at: "2025-09-23T19:37:40.545Z",
      started_at: null,
      completed_at: null,
      retry_count: null,
      max_retries: null,
    });
    expect(executionPlans.agent({ execution_plans: [plan()] })).toBe("orchestrator");
    expect(only(plans({ plan_data: "x" }), "unified_tasks").input_data).toBe('{"plan":{"_raw":"x"}}');
    const orphan = only(plans({ planning_task_id: null }), "unified_tasks");
    expect([orphan.correlation_id, flags(orphan)]).toEqual(["", ["correlation_id_missing"]]);
  });
  test("the workflow row", () => {
    expect(only(plans({ status: "Draft ", generated_workflow: '{"a": 1.0}' }), "unified_workflow_tasks")).toMatchObject(
      {
        task_id: "p1",
        correlation_id: "q1",
        workflow_type: "plan",
        current_phase: "Draft ",
        total_phases: 7n,
        workflow_config: '{"a": 1.0}',
        phase_history: null,
        created_at: "2025-09-23T19:37:40.545Z",
      },
    );
    expect(only(plans({ subtask_count: null }), "unified_workflow_tasks").total_phases).toBe(0n);
    const dirty = plans({ subtask_count: "many", status: null });
    expect(only(dirty, "unified_workflow_tasks")).toMatchObject({ total_phases: 0n, current_phase: "" });
    expect(flags(only(dirty, "unified_tasks"))).toEqual([
      "status_unknown",
      "current_phase_missing",
      "total_phases_missing",
    ]);
  });
  test.each([
    ["draft", "review_pending", false],
    ["generated", "review_pending", false],
    ["approved", "queued", false],
    ["executing", "running", false],
    ["in_progress", "running", false],
    ["pending", "pending", false],
    ["completed", "completed", false],
    ["failed", "failed", false],
    ["cancelled", "cancelled", false],
    ["planned", "pending", true],
  ])("status %s is %s", (status, expected, flagged) => {
    const row = only(plans({ status }), "unified_tasks");
    expect(row.status).toBe(expected);
    expect(flags(row)).toEqual(flagged ? ["status_unknown"] : undefined);
  });
});

describe("execution_plans down", () => {
  test.each([
    ["review_pending", "draft"],
    ["queued", "approved"],
    ["running", "executing"],
    ["completed", "completed"],
    ["failed", "failed"],
  ])("a changed status %s is %s", (unified, legacy) => {
    const before = unified === "failed" ? "completed" : "failed";
    expect(downPlan({ status: before }, { status: unified }).status).toBe(legacy);
  });
  test.each([["pending"], ["cancelled"], ["rework_needed"]])("%s leaves the raw one", (unified) => {
    expect(downPlan({ status: "generated" }, { status: unified }).status).toBe("generated");
  });
  test("an unchanged status keeps its text", () => {
    expect(downPlan({ status: "generated" }, { status: "review_pending" }).status).toBe("generated");
  });
  test("the other columns", () => {
    const change = { input_data: '{"plan":{"n":1.0}}', created_at: "2025-12-01T00:00:00.000Z", priority: 1n };
    expect(downPlan({}, change, { total_phases: 9n, workflow_config: "{}" })).toEqual(
      plan({
        plan_data: '{"n":1.0}',
        generated_at: "2025-12-01T00:00:00.000Z",
        subtask_count: 9n,
        generated_workflow: "{}",
      }),
    );
    expect(downPlan({ subtask_count: null, plan_data: "raw" }, {})).toEqual(
      plan({ subtask_count: null, plan_data: "raw" }),
    );
  });
});

test("each unified row has one owner", () => {
  const rows = [
    { aggregate: planningQueue.up({ planning_queue: [queueItem()] }), owner: "planning_queue" },
    { aggregate: plans(), owner: "execution_plans" },
    { aggregate: { unified_tasks: [{ id: "x", task_metadata: null }] }, owner: "tasks" },
  ];
  for (const { aggregate, owner } of rows) {
    expect(hivePreset.aggregates.filter((mapping) => mapping.owns(aggregate)).map((mapping) => mapping.name)).toEqual([
      owner,
    ]);
  }
});

test("the preset: agents, events, adoption", () => {
  expect(hivePreset.aggregates.map((mapping) => mapping.name)).toEqual(["tasks", "planning_queue", "execution_plans"]);
  const registered = hivePreset.agents.filter((agent) => agent.registration !== undefined);
  expect(registered.map((agent) => [agent.registration?.agentId, agent.registration?.capabilities[0]])).toEqual([
    ["ai-reviewer-adapter", "review"],
    ["ai-planner-adapter", "plan"],
    ["ai-deployer-adapter", "deploy"],
    ["hive-coder-adapter", "code"],
    ["guardian-adapter", "monitor"],
  ]);
  expect(hivePreset.agents.slice(5)).toEqual([{ name: "orchestrator" }, { name: "qa-agent" }]);
  expect(new Set(EVENT_TYPES).size).toBe(28);
  expect(hivePreset.eventTypes).toBe(EVENT_TYPES);
  for (const agent of registered)
    expect(EVENT_TYPES).toEqual(expect.arrayContaining([...(agent.registration?.emits ?? [])]));
  expect(EXTENSION_EVENT_TYPES.filter((type) => EVENT_TYPES.includes(type))).toEqual([]);
  for (const { type } of Object.values(LEGACY_EVENT_NAMES)) expect(EVENT_TYPES).toContain(type);
  expect(hivePreset.adopts?.[0]).toMatchObject({ migration: "0002_unified_schema", version: "f97f94fd1a27" });
});
