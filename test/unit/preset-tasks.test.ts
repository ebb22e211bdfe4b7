import { describe, expect, test } from "vitest";
import { tasks } from "../../src/presets/hive/tasks.ts";
import { MappingError, type Value } from "../../src/sync/mapping.ts";
import {
  aggregate,
  type Columns,
  child,
  downNew,
  downTask,
  edited,
  flags,
  json,
  only,
  run,
  task,
  upTask,
} from "../support/preset-rows.ts";

const blob = new Uint8Array([1, 2, 255]);

describe("up: identity", () => {
  test("the id is the same text", () => {
    for (const id of ["0007", "12345", "", "edge id/with spaces", "tâche-é-1", "x".repeat(300)]) {
      expect(upTask({ id }).id).toBe(id);
    }
  });
  test("an INTEGER id becomes its decimal text and comes back as an INTEGER", () => {
    expect(upTask({ id: 42n }).id).toBe("42");
    expect(downTask({ id: 42n }, {}).id).toBe(42n);
    expect(downTask({ id: 9007199254740993n }, { status: "failed" }).id).toBe(9007199254740993n);
    expect(downTask({ id: "42" }, {}).id).toBe("42");
  });
  test("a NULL or BLOB id is refused in words", () => {
    expect(() => upTask({ id: null })).toThrow(MappingError);
    expect(() => upTask({ id: null })).toThrow(/NULL as its id.*WHERE id IS NULL/s);
    expect(() => upTask({ id: blob })).toThrow(/BLOB of 3 bytes as its id/);
    expect(() => upTask({ id: 1.5 })).toThrow(MappingError);
  });
  test.each([
    ['{"correlation_id":"c","parent_plan_id":"pp","plan_id":"p"}', "c"],
    ['{"parent_plan_id":"pp","plan_id":"p"}', "pp"],
    ['{"plan_id":"p"}', "p"],
    ['{"correlation_id":"","plan_id":"p"}', "p"],
    ['{"correlation_id":7,"plan_id":"p"}', "p"],
    ['{"correlation_id":null}', "t1"],
    ['["correlation_id"]', "t1"],
    ['"{\\"correlation_id\\":\\"c\\"}"', "t1"],
    ["{'correlation_id': 'c'}", "t1"],
    [null, "t1"],
  ])("correlation_id of the payload %s is %s", (payload, expected) => {
    expect(upTask({ payload }).correlation_id).toBe(expected);
  });
});

describe("up: task_type and agent_type", () => {
  test.each([
    ["chimera_workflow", "queued", "workflow", "orchestrator"],
    ["qa_workflow", "queued", "workflow", "orchestrator"],
    ["workflow", "queued", "workflow", "orchestrator"],
    ["workflow", "deployed", "workflow", "orchestrator"],
    ["deployment", "queued", "deploy", "ai-deployer"],
    ["deploy", "queued", "deploy", "ai-deployer"],
    ["review", "queued", "review", "ai-reviewer"],
    ["analysis", "queued", "plan", "ai-planner"],
    ["plan", "queued", "plan", "ai-planner"],
    ["test", "queued", "test", "qa-agent"],
    ["test_suite", "queued", "test", "qa-agent"],
    ["test_", "queued", "test", "qa-agent"],
    ["verification", "queued", "test", "qa-agent"],
    ["qa_golden_rules", "queued", "test", "qa-agent"],
    ["testing", "queued", "code", "hive-coder"],
    ["planned_subtask", "queued", "code", "hive-coder"],
    ["app:ecosystemiser", "queued", "code", "hive-coder"],
    ["", "queued", "code", "hive-coder"],
    [" Review ", "queued", "review", "ai-reviewer"],
    ["TaskType.DEPLOYMENT", "queued", "deploy", "ai-deployer"],
    [null, "queued", "code", "hive-coder"],
    [blob, "queued", "code", "hive-coder"],
    ["backend", "deployment_pending", "deploy", "ai-deployer"],
    ["backend", "deploying", "deploy", "ai-deployer"],
    ["review", "deployed", "deploy", "ai-deployer"],
    ["test", "Status.DEPLOYMENT_FAILED", "deploy", "ai-deployer"],
    ["analysis", "rolled_back", "deploy", "ai-deployer"],
  ])("%s with status %s is %s of %s", (task_type, status, type, agent) => {
    const row = upTask({ task_type, status });
    expect([row.task_type, row.agent_type]).toEqual([type, agent]);
    expect(tasks.agent(aggregate(task({ task_type, status })))).toBe(agent);
  });
});

describe("up: status", () => {
  test.each([
    ["queued", "queued"],
    ["pending", "pending"],
    ["assigned", "running"],
    ["in_progress", "running"],
    ["running", "running"],
    ["deploying", "running"],
    ["planning_in_progress", "running"],
    ["review_pending", "review_pending"],
    ["review_in_progress", "review_pending"],
    ["escalated", "review_pending"],
    ["approved", "review_approved"],
    ["review_approved", "review_approved"],
    ["rejected", "review_rejected"],
    ["review_rejected", "review_rejected"],
    ["rework_needed", "rework_needed"],
    ["deployment_pending", "queued"],
    ["deployed", "completed"],
    ["deployment_failed", "failed"],
    ["rolled_back", "failed"],
    ["planning_failed", "failed"],
    ["review_failed", "failed"],
    ["planned", "pending"],
    ["completed", "completed"],
    ["failed", "failed"],
    ["cancelled", "cancelled"],
    [" queued ", "queued"],
    ["QUEUED", "queued"],
    ["TaskStatus.APPROVED", "review_approved"],
  ])("%s is %s, without a flag", (status, expected) => {
    const row = upTask({ status });
    expect(row.status).toBe(expected);
    expect(JSON.stringify(flags(row) ?? [])).not.toContain("status_unknown");
  });
  test.each([[""], ["blocked"], ["validation_failed"], [null], [blob], [3n]])("%s is pending with a flag", (status) => {
    const row = upTask({ status });
    expect(row.status).toBe("pending");
    expect(flags(row)).toEqual(["status_unknown"]);
  });
  test("escalated requires a human, nothing else does", () => {
    expect(json(upTask({ status: "escalated" }).task_metadata)).toMatchObject({ requires_human: true });
    expect(json(upTask({ status: "review_pending" }).task_metadata)).not.toHaveProperty("requires_human");
  });
});

describe("up: numbers", () => {
  test.each<[Value, bigint]>([
    [1n, 10n],
    [5n, 6n],
    [10n, 1n],
    [11n, 1n],
    [50n, 1n],
    [2147483648n, 1n],
    [0n, 10n],
    [-5n, 10n],
    [-(2n ** 63n), 10n],
    [2n ** 63n - 1n, 1n],
    [2.5, 9n],
    [2.4, 9n],
    [2.6, 8n],
    [9.5, 2n],
    [Number.POSITIVE_INFINITY, 1n],
    [Number.NEGATIVE_INFINITY, 10n],
    [null, 10n],
    ["high", 10n],
    ["7", 10n],
    [blob, 10n],
  ])("priority %s is %s", (priority, expected) => {
    expect(upTask({ priority }).priority).toBe(expected);
  });
  test("retry_count and max_retries are the same; NULL stays NULL; what is no integer is NULL with a flag", () => {
    expect(upTask({ retry_count: 2n, max_retries: 9n })).toMatchObject({ retry_count: 2n, max_retries: 9n });
    const none = upTask({ retry_count: null, max_retries: null });
    expect(none).toMatchObject({ retry_count: null, max_retries: null });
    expect(flags(none)).toBeUndefined();
    const dirty = upTask({ retry_count: "two", max_retries: 2.5 });
    expect(dirty).toMatchObject({ retry_count: null, max_retries: null });
    expect(flags(dirty)).toEqual(["retry_count_not_integer", "max_retries_not_integer"]);
  });
});

describe("up: input_data and output_data", () => {
  test("the payload keeps its text, whatever JSON.parse would make of it", () => {
    const payloads = [
      '{"n": 12345678901234567890, "f": 1.0}',
      '{"a":1,"a":2}',
      '{"2":"b","1":"a"}',
      '{"s":"\\ud800","nul":"\\u0000"}',
      '{"__proto__": {"x": 1}}',
      '{\r\n  "a": [1]\r\n}',
      `${"[".repeat(500)}${"]".repeat(500)}`,
      "null",
      "5",
      '"text"',
      `{"big":"${"x".repeat(1 << 20)}"}`,
    ];
    for (const payload of payloads) {
      const row = upTask({ payload });
      expect(row.input_data).toBe(`{"title":"Title","description":"What to do","payload":${payload}}`);
      expect(downTask({ payload }, {}).payload).toBe(payload);
    }
  });
  test.each([["{'a': 1}"], ['{"a": 1'], ['{"a": NaN}'], ["free text"], [""]])("%s is no JSON: _raw", (payload) => {
    expect(json(upTask({ payload }).input_data)).toMatchObject({ payload: { _raw: payload } });
    expect(downTask({ payload }, {}).payload).toBe(payload);
  });
  test("NULL is null", () => {
    const row = upTask({ description: null, payload: null });
    expect(row.input_data).toBe('{"title":"Title","description":null,"payload":null}');
  });
  test("the result of the last run that is neither pending nor running", () => {
    expect(upTask({}, [run(1), run(2), run(3, { status: "running" })]).output_data).toBe('{"run": 2}');
    expect(upTask({}, [run(1), run(2, { status: "RunStatus.PENDING" })]).output_data).toBe('{"run": 1}');
    expect(upTask({}, [run(1), run(2, { result_data: null })]).output_data).toBeNull();
    expect(upTask({}, [run(1, { result_data: "oops" })]).output_data).toBe('{"_raw":"oops"}');
    expect(upTask({}, [run(1, { id: null })]).output_data).toBe('{"run": 1}');
    expect(upTask().output_data).toBeNull();
  });
});

describe("up: times and errors", () => {
  test("created_at and updated_at are UTC; what cannot be read is 1970 with a flag", () => {
    const row = upTask({ created_at: "2025-10-01T02:00:00.123456+02:00", updated_at: "2025-10-31" });
    expect(row).toMatchObject({ created_at: "2025-10-01T00:00:00.123Z", updated_at: "2025-10-31T00:00:00.000Z" });
    for (const bad of [null, "", "yesterday", "2025-02-30 00:00:00", 5n, blob]) {
      const dirty = upTask({ created_at: bad, updated_at: bad });
      expect(dirty.created_at).toBe("1970-01-01T00:00:00.000Z");
      expect(dirty.updated_at).toBe("1970-01-01T00:00:00.000Z");
      expect(flags(dirty)).toEqual(["created_at_unreadable", "updated_at_unreadable"]);
    }
  });
  test("started_at, else the first run's", () => {
    expect(upTask({ started_at: "2025-09-20T09:54:10+00:00" }, [run(1)]).started_at).toBe("2025-09-20T09:54:10.000Z");
    expect(upTask({}, [run(1), run(2)]).started_at).toBe("2025-09-22T01:00:00.000Z");
    expect(upTask({}, [run(1, { started_at: null }), run(2)]).started_at).toBeNull();
    expect(upTask().started_at).toBeNull();
    const unreadable = upTask({ started_at: "soon" }, [run(1)]);
    expect(unreadable.started_at).toBe("2025-09-22T01:00:00.000Z");
    expect(flags(unreadable)).toEqual(["started_at_unreadable"]);
    expect(flags(upTask({}, [run(1, { started_at: "soon" })]))).toEqual(["started_at_unreadable"]);
  });
  test("completed_at only where the task has ended: the last run's, else updated_at", () => {
    for (const status of ["completed", "failed", "cancelled", "deployed", "rolled_back"]) {
      expect(upTask({ status }, [run(1), run(2)]).completed_at).toBe("2025-09-22T02:30:00.000Z");
      expect(upTask({ status }, [run(1), run(2, { completed_at: null })]).completed_at).toBe(
        "2025-09-21T09:00:00.000Z",
      );
      expect(upTask({ status }).completed_at).toBe("2025-09-21T09:00:00.000Z");
      expect(upTask({ status, updated_at: "?" }).completed_at).toBeNull();
    }
    for (const status of ["queued", "running", "review_pending", "approved", "rejected", "rework_needed", "pending"]) {
      expect(upTask({ status }, [run(1)]).completed_at).toBeNull();
    }
    const unreadable = upTask({ status: "failed" }, [run(1, { completed_at: "late" })]);
    expect(unreadable.completed_at).toBe("2025-09-21T09:00:00.000Z");
    expect(flags(unreadable)).toEqual(["completed_at_unreadable"]);
  });
  test("error_message is failure_reason, else the last run's; empty counts as absent", () => {
    const runs = [run(1, { error_message: "first" }), run(2, { error_message: "last" })];
    expect(upTask({ failure_reason: "own" }, runs).error_message).toBe("own");
    expect(upTask({ failure_reason: "" }, runs).error_message).toBe("last");
    expect(upTask({}, [run(1, { error_message: "first" }), run(2, { error_message: "" })]).error_message).toBeNull();
    expect(upTask().error_message).toBeNull();
  });
});

describe("up: review rows", () => {
  test.each([
    ["review_pending"],
    ["review_in_progress"],
    ["approved"],
    ["review_approved"],
    ["rejected"],
    ["review_rejected"],
    ["rework_needed"],
    ["review_failed"],
    ["escalated"],
    ["TaskStatus.APPROVED"],
  ])("status %s makes one", (status) => {
    expect(child("review", { status })).toMatchObject({ task_id: "t1", correlation_id: "t1" });
  });
  test("type review makes one, other statuses do not", () => {
    expect(child("review", { task_type: "review" })).toBeDefined();
    expect(child("review", { task_type: "review", status: "deployed" })).toBeUndefined();
    for (const status of ["queued", "completed", "failed", "in_progress", "planned"]) {
      expect(child("review", { status })).toBeUndefined();
    }
  });
  test.each([
    ['{"code_path":"src","files":["x.py"]}', "src"],
    ['{"code_path":"","files":["x.py","y.py"]}', "x.py"],
    ['{"files":{"main.py":"print()","b.py":""}}', "main.py"],
    ['{"files":{"b.py":"","1":""}}', "b.py"],
    ['{"files":{"7":"","b.py":""}}', "7"],
    ['{"files":[]}', ""],
    ['{"files":"x.py"}', ""],
    ["[]", ""],
  ])("code_path of %s is '%s'", (payload, expected) => {
    expect(child("review", { task_type: "review", payload })?.code_path).toBe(expected);
    const seen = flags(upTask({ task_type: "review", payload }));
    expect(seen).toEqual(expected === "" ? ["code_path_missing"] : undefined);
  });
  test("pr_id, score and issues", () => {
    const report = '{"inspection_report":{"summary":{"quality_score": 68.5},"issues":[{"n": 12345678901234567890}]}}';
    const row = child("review", { task_type: "review", payload: '{"pr_id":"PR-1"}' }, [
      run(1, { result_data: report }),
    ]);
    expect(row).toMatchObject({
      pr_id: "PR-1",
      review_score: 69n,
      violations: '[{"n": 12345678901234567890}]',
      review_result: null,
      suggestions: null,
      auto_fix_enabled: null,
      created_at: "2025-09-21T08:45:28.000Z",
    });
    const bare = child("review", { task_type: "review", payload: '{"pr_id":null,"auto_fix":true}' }, [run(1)]);
    expect(bare).toMatchObject({ pr_id: null, review_score: null, violations: null, auto_fix_enabled: null });
    const text = '{"inspection_report":{"summary":{"quality_score":"70"},"issues":[]}}';
    const textual = child("review", { task_type: "review" }, [run(1, { result_data: text })]);
    expect(textual).toMatchObject({ review_score: null, violations: "[]" });
  });
  test("the last run's report counts, even of a run that is not finished", () => {
    const score = (n: number) => `{"inspection_report":{"summary":{"quality_score":${n}}}}`;
    const runs = [run(1, { result_data: score(10) }), run(2, { result_data: score(20), status: "running" })];
    expect(child("review", { task_type: "review" }, runs)?.review_score).toBe(20n);
  });
});

describe("up: workflow rows", () => {
  const workflow = '{"current_phase":"e2e","other":1}';
  test.each([
    ["chimera_workflow", workflow, "chimera", "e2e", 5n],
    ["qa_workflow", workflow, "qa", "e2e", 4n],
    ["chimera_workflow", '{"a":1}', "chimera", "start", 5n],
    ["qa_workflow", null, "qa", "start", 4n],
    ["chimera_workflow", "broken", "chimera", "start", 5n],
    ["ChimeraType.CHIMERA_WORKFLOW", workflow, "chimera", "e2e", 5n],
    ["backend", workflow, "queen", "start", 2n],
    ["workflow", workflow, "queen", "start", 2n],
  ])("%s with %s", (task_type, text, type, phase, phases) => {
    const row = child("workflow", { task_type, workflow: text });
    expect(row).toMatchObject({ workflow_type: type, current_phase: phase, total_phases: phases, phase_history: null });
    expect(row?.workflow_config).toBe(text === "broken" ? '{"_raw":"broken"}' : text);
  });
  test.each([["{}"], ["[1]"], ["null"], ["broken"], [null]])("backend with the workflow %s has none", (text) => {
    expect(child("workflow", { workflow: text })).toBeUndefined();
  });
  test("phase_history is made of the runs", () => {
    const history = child("workflow", { workflow }, [
      run(1),
      run(2, { phase: null, completed_at: null }),
    ])?.phase_history;
    expect(json(history)).toEqual([
      {
        run_number: 1,
        phase: "apply",
        status: "success",
        started_at: "2025-09-22 01:00:00",
        completed_at: "2025-09-22 01:30:00",
      },
      { run_number: 2, phase: null, status: "success", started_at: "2025-09-22 02:00:00", completed_at: null },
    ]);
  });
  test("a phase that cannot be had is '' with a flag", () => {
    const columns = { task_type: "qa_workflow", current_phase: null };
    expect(child("workflow", columns)?.current_phase).toBe("");
    expect(flags(upTask(columns))).toEqual(["current_phase_missing"]);
  });
});

describe("up: deployment rows", () => {
  const deploy = (payload: string | null, columns = {}) =>
    child("deployment", { task_type: "deployment", payload, ...columns });
  test.each([
    ['{"service_name":"s","app_name":"a","project_name":"p"}', "s"],
    ['{"service_name":"","app_name":"a","project_name":"p"}', "a"],
    ['{"project_name":"p"}', "p"],
    ["{}", "Title"],
    [null, "Title"],
  ])("service_name of %s is %s", (payload, expected) => {
    expect(deploy(payload)?.service_name).toBe(expected);
  });
  test("a service name that cannot be had is '' with a flag", () => {
    expect(deploy(null, { title: "" })?.service_name).toBe("");
    expect(flags(upTask({ task_type: "deployment", title: "" }))).toEqual(["service_name_missing"]);
  });
  test.each([
    ['{"environment":"staging"}', "staging", null],
    ['{"environment":{"platform":"k8s", "n": 1.0}}', "k8s", '{"platform":"k8s", "n": 1.0}'],
    ['{"environment":{"a":1}}', "unknown", '{"a":1}'],
    ['{"environment":""}', "unknown", null],
    ['{"environment":3}', "unknown", null],
    ["{}", "unknown", null],
  ])("environment of %s is %s", (payload, environment, config) => {
    expect(deploy(payload)).toMatchObject({ environment, deployment_config: config });
  });
  test("strategy, commit and status", () => {
    const payload = '{"deployment_strategy":"canary","commit_sha":"abc"}';
    expect(deploy(payload, { status: " Deployed" })).toMatchObject({
      strategy: "canary",
      commit_sha: "abc",
      deployment_status: " Deployed",
      deployment_logs: null,
    });
    expect(deploy('{"deployment_strategy":""}')).toMatchObject({ strategy: "direct", commit_sha: null });
  });
  test("logs are the deployment events, details as they stand", () => {
    const events = [
      { id: 1n, event_type: "started", details: '{"n": 1.0}', timestamp: "2025-09-21T17:35:25.161654" },
      { id: 2n, event_type: "ended", details: "boom", timestamp: "x" },
      { id: 3n, event_type: "noted", details: null, timestamp: "y" },
    ];
    expect(child("deployment", { task_type: "deploy" }, [], events)?.deployment_logs).toBe(
      '[{"event_type":"started","timestamp":"2025-09-21T17:35:25.161654","details":{"n": 1.0}},' +
        '{"event_type":"ended","timestamp":"x","details":{"_raw":"boom"}},' +
        '{"event_type":"noted","timestamp":"y","details":null}]',
    );
  });
  test("other types have none", () => {
    expect(child("deployment", { task_type: "review" })).toBeUndefined();
    expect(child("deployment", { task_type: "qa_workflow", status: "deployed" })).toBeUndefined();
    expect(child("deployment", { status: "deploying" })).toBeDefined();
  });
});

test("the metadata keeps what input_data does not say", () => {
  expect(json(upTask({ schema: "own", ".schema": "dotted", id: "x" }).task_metadata)).toEqual({
    legacy: {
      schema: "tasks",
      task_type: "backend",
      priority: 5,
      status: "queued",
      current_phase: "start",
      workflow: null,
      payload: '{"a": 1}',
      created_at: "2025-09-21 08:45:28",
      updated_at: "2025-09-21 09:00:00",
      started_at: null,
      failure_reason: null,
      retry_count: 0,
      max_retries: 3,
      tags: null,
      ".schema": "own",
      "..schema": "dotted",
    },
  });
  expect(downTask({ schema: "own", ".schema": "dotted" }, {})).toMatchObject({ schema: "own", ".schema": "dotted" });
});

describe("down: a changed status", () => {
  test.each([
    ["pending", "queued"],
    ["queued", "queued"],
    ["running", "in_progress"],
    ["review_pending", "review_pending"],
    ["review_approved", "approved"],
    ["review_rejected", "rejected"],
    ["rework_needed", "rework_needed"],
    ["completed", "completed"],
    ["failed", "failed"],
    ["cancelled", "cancelled"],
  ])("%s is %s", (unified, legacy) => {
    const before = unified === "completed" ? "failed" : "completed";
    expect(downTask({ status: before }, { status: unified }).status).toBe(legacy);
  });
  test.each([
    ["pending", "queued"],
    ["queued", "deployment_pending"],
    ["running", "deploying"],
    ["completed", "deployed"],
    ["failed", "deployment_failed"],
    ["cancelled", "cancelled"],
  ])("of a deploy task: %s is %s", (unified, legacy) => {
    const row = downTask({ task_type: "deployment", status: "review_pending" }, { status: unified });
    expect(row).toMatchObject({ status: legacy, task_type: "deployment" });
  });
  test("an unchanged status keeps its text", () => {
    for (const status of [" queued ", "blocked", "TaskStatus.APPROVED", "rolled_back", "planned", "", "escalated"]) {
      expect(downTask({ status }, { priority: 2n, error_message: "x" }).status).toBe(status);
    }
  });
  test("a deploy task by its status alone stays one", () => {
    expect(downTask({ status: "deploying" }, { status: "failed" })).toMatchObject({
      status: "deployment_failed",
      task_type: "backend",
    });
    expect(downTask({ status: "deploying" }, { status: "cancelled" })).toMatchObject({
      status: "cancelled",
      task_type: "deployment",
    });
  });
  test("human attention asked for on the unified side is an escalation", () => {
    const metadata = String(upTask().task_metadata).replace(/}$/, ',"requires_human":true}');
    const row = downTask({}, { status: "review_pending", task_metadata: metadata });
    expect(row.status).toBe("escalated");
  });
});

describe("down: other changes", () => {
  test.each([
    ["workflow", "chimera_workflow"],
    ["deploy", "deployment"],
    ["review", "review"],
    ["plan", "analysis"],
    ["test", "test"],
    ["code", "backend"],
  ])("type %s is %s, unless the old one says the same", (type, expected) => {
    const before = type === "code" ? "review" : "frontend";
    expect(downTask({ task_type: before }, { task_type: type }).task_type).toBe(expected);
    expect(downNew({ task_type: type }).task_type).toBe(expected);
  });
  test("an unchanged type keeps its text", () => {
    expect(downTask({ task_type: "test_suite" }, { status: "failed" }).task_type).toBe("test_suite");
  });
  test("a type that is changed on a row with a deployer's status does not stay a deployment", () => {
    const row = downTask({ task_type: "deployment", status: "deployed" }, { task_type: "review" });
    expect(row).toMatchObject({ task_type: "review", status: "completed" });
  });
  test("priority is 11−u when changed, else the raw one", () => {
    expect(downTask({ priority: 50n }, { priority: 4n }).priority).toBe(7n);
    expect(downTask({ priority: 50n }, { priority: 1 }).priority).toBe(50n);
    expect(downTask({ priority: "high" }, {}).priority).toBe("high");
    expect(downTask({ priority: 2.5 }, {}).priority).toBe(2.5);
    expect(() => downTask({}, { priority: "urgent" })).toThrow(MappingError);
  });
  test("title, description and payload", () => {
    const changed = '{"title":"New","description":null,"payload":{"b": 12345678901234567890}}';
    expect(downTask({}, { input_data: changed })).toMatchObject({
      title: "New",
      description: null,
      payload: '{"b": 12345678901234567890}',
    });
    expect(downTask({}, { input_data: '{"title":null,"payload":null}' })).toMatchObject({ title: "", payload: null });
  });
  test("a payload that only looks different keeps its text", () => {
    const input = '{ "payload" : {"a":1.0e0}, "description":"What to do", "title":"Title" }';
    expect(downTask({}, { input_data: input })).toEqual(task());
    const big = { payload: '{"n":9007199254740993}' };
    const reordered = (n: string) => `{"payload":{"n": ${n}},"title":"Title","description":"What to do"}`;
    expect(downTask(big, { input_data: reordered("9007199254740993") }).payload).toBe('{"n":9007199254740993}');
    expect(downTask(big, { input_data: reordered("9007199254740992") }).payload).toBe('{"n": 9007199254740992}');
  });
  test("_raw becomes its text again", () => {
    const input = '{"title":"T","description":null,"payload":{"_raw":"not json"}}';
    expect(downTask({}, { input_data: input }).payload).toBe("not json");
  });
  test("times: the raw text if unchanged, else the unified one", () => {
    const columns = { created_at: "2025-09-21 08:45:28", updated_at: "", started_at: "2025-09-20T09:54:10+00:00" };
    const row = downTask(columns, { updated_at: "2025-12-01T00:00:00.500Z" });
    expect(row).toMatchObject({ ...columns, updated_at: "2025-12-01T00:00:00.500Z" });
    const other = downTask(columns, { created_at: "2025-09-21T08:45:28+00:00", started_at: null });
    expect(other).toMatchObject({ created_at: "2025-09-21 08:45:28", started_at: null });
  });
  test("failure_reason, retry_count, max_retries", () => {
    expect(downTask({ failure_reason: "" }, {}).failure_reason).toBe("");
    expect(downTask({}, { error_message: "boom", retry_count: 2n, max_retries: null })).toMatchObject({
      failure_reason: "boom",
      retry_count: 2n,
      max_retries: null,
    });
  });
  test("what came from runs does not go into the row", () => {
    const legacy = aggregate(task({ status: "failed" }), [run(1, { error_message: "run failed" })]);
    const unified = tasks.up(legacy);
    expect(only(unified, "unified_tasks")).toMatchObject({ error_message: "run failed" });
    expect(tasks.down(unified, null)).toEqual({ tasks: legacy.tasks });
    expect(tasks.down(edited(tasks, legacy, { task_metadata: null }), legacy).tasks?.[0]).toMatchObject({
      failure_reason: null,
      started_at: null,
    });
    const changed = edited(tasks, legacy, { error_message: "seen by me", started_at: "2025-09-30T00:00:00.000Z" });
    expect(tasks.down(changed, null).tasks?.[0]).toMatchObject({
      failure_reason: "seen by me",
      started_at: "2025-09-30T00:00:00.000Z",
    });
  });
  test("the workflow row: phase and configuration", () => {
    const workflow = '{"start":{}}';
    expect(downTask({ workflow }, {}, { current_phase: "apply" })).toMatchObject({ current_phase: "apply", workflow });
    expect(downTask({ workflow }, {}, { workflow_config: '{"x":1.0}' }).workflow).toBe('{"x":1.0}');
    const chimera = { task_type: "chimera_workflow", workflow: '{"current_phase": "a", "n": 1.0}' };
    expect(downTask(chimera, {}, { current_phase: "b" })).toMatchObject({
      current_phase: "start",
      workflow: '{"current_phase": "b", "n": 1.0}',
    });
  });
});

describe("down: what has no note of a legacy row", () => {
  test("a row made on the unified side takes the platform's defaults", () => {
    expect(downNew({})).toEqual({
      id: "new",
      title: "T",
      description: null,
      task_type: "backend",
      priority: 8n,
      status: "queued",
      current_phase: "start",
      workflow: null,
      payload: '{"x":1}',
      created_at: "2025-01-02T03:04:05.000Z",
      updated_at: "2025-01-02T03:04:05.000Z",
      started_at: null,
      failure_reason: null,
    });
  });
  test("an agent's own input is the payload", () => {
    const row = downNew({ task_type: "review", input_data: '{"code_path":"src","pr_id":"1"}' });
    expect(row).toMatchObject({ title: "", description: null, payload: '{"code_path":"src","pr_id":"1"}' });
  });
  test("its correlation id goes where `up` finds it again", () => {
    for (const input of ['{"title":"T","payload":{"x":1}}', '{"title":"T","payload":{}}', '{"title":"T"}']) {
      const row = downNew({ correlation_id: "chain-1", input_data: input });
      expect(only(tasks.up(aggregate(row)), "unified_tasks").correlation_id).toBe("chain-1");
    }
    expect(downNew({ correlation_id: "c", input_data: '{"payload":[1]}' }).payload).toBe("[1]");
  });
  test("going down twice changes nothing the second time", () => {
    const rows: Columns[] = [
      { correlation_id: "chain-1" },
      { status: "pending", priority: null, retry_count: 4n },
      { status: "review_pending", task_metadata: '{"requires_human":true}' },
      { task_type: "deploy", status: "completed" },
      { task_type: "workflow" },
      { input_data: "[1]", error_message: "" },
    ];
    for (const columns of rows) {
      const first = downNew(columns);
      expect(downNew(columns, aggregate(first))).toEqual(first);
    }
  });
  test("metadata that an agent removed is made up for by what legacy holds", () => {
    const row = task({ status: " QUEUED", priority: 50n, payload: '{"a" : 1}', worktree: "w", id: "t1" });
    for (const metadata of [null, "{}", "broken", '{"legacy":5}', "[]"]) {
      const unified = edited(tasks, aggregate(row), { task_metadata: metadata, error_message: "new" });
      const down = only(tasks.down(unified, aggregate(row)), "tasks");
      // Columns that are absent keep their value.
      expect({ ...row, ...down }).toEqual({ ...row, failure_reason: "new" });
    }
  });
  test("a note that lost a column takes it from legacy", () => {
    const metadata = String(upTask({ priority: 50n }).task_metadata).replace('"priority":50,', "");
    const unified = edited(tasks, aggregate(task({ priority: 50n })), { task_metadata: metadata });
    expect(only(tasks.down(unified, aggregate(task({ priority: 50n }))), "tasks").priority).toBe(50n);
  });
  test("values that no column can hold are refused in words", () => {
    expect(() => downNew({ id: null })).toThrow(/unified_tasks.id .* is NULL where text belongs/);
    expect(() => downNew({ input_data: "{" })).toThrow(/input_data of the row with the id new is not JSON/);
    expect(() => downNew({ status: 5n })).toThrow(MappingError);
  });
});

test("a unified row belongs to tasks unless it says otherwise", () => {
  const owns = (metadata: string | null) => tasks.owns({ unified_tasks: [{ id: "x", task_metadata: metadata }] });
  expect(owns(null)).toBe(true);
  expect(owns('{"legacy":{"schema":"tasks"}}')).toBe(true);
  expect(owns('{"legacy":{"schema":"planning_queue"}}')).toBe(false);
  expect(owns('{"legacy":{"schema":"execution_plans"}}')).toBe(false);
  expect(owns("broken")).toBe(true);
});

test("a unified row's agent is the one it names, else that of its type", () => {
  const agent = (agent_type: Value, task_type: Value) =>
    tasks.unifiedAgent({ unified_tasks: [{ agent_type, task_type }] });
  expect(agent("guardian", "code")).toBe("guardian");
  expect(agent("someone", "review")).toBe("ai-reviewer");
  expect(agent(null, null)).toBe("hive-coder");
  expect(tasks.unifiedAgent({})).toBe("hive-coder");
  expect(tasks.agent({})).toBe("hive-coder");
});
