import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Context } from "../../src/context.ts";
import { listEvents } from "../../src/events/listing.ts";
import { changeFlags } from "../../src/flags/flags.ts";
import { type Stage, settingBetween, valueText } from "../../src/flags/stages.ts";
import { hivePreset } from "../../src/presets/hive/index.ts";
import { STATUS_UP } from "../../src/presets/hive/vocabulary.ts";
import { rollback } from "../../src/rollout/rollback.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { eventId } from "../../src/sync/bridge.ts";
import { check } from "../../src/sync/check.ts";
import { sync } from "../../src/sync/sync.ts";
import { openWriter } from "../../src/sync/writer.ts";
import { BACKENDS, type Backend, type Place } from "../support/backends.ts";
import { advance, platformContext } from "../support/legacy-platform.ts";

const OWNERS = ["ai-reviewer", "ai-planner", "ai-deployer", "hive-coder", "orchestrator", "qa-agent"];

interface Platform extends AsyncDisposable {
  readonly place: Place;
  readonly context: Context;
  /** All events so far, as `subject type source`, and forgets them. */
  told(): Promise<string[]>;
}

async function platform(
  backend: Backend,
  options: { stage?: Stage; on?: readonly string[]; bridge?: readonly string[] } = {},
) {
  const place = await backend.create({
    legacy: "text",
    rows: "INSERT INTO tasks (id, title, task_type) VALUES ('old', 't', 'backend')",
  });
  const agents = Object.fromEntries((options.bridge ?? []).map((name) => [name, { events: "bridge" as const }]));
  const context = platformContext(place.url, { settings: { agents } });
  await migrateUp(context);
  const { stage = "off", on = OWNERS } = options;
  if (stage !== "off")
    await advance(context, OWNERS, stage, async (next) => {
      if (next === "shadow") await backfill(context);
      if (next === "live" || next === "rampdown" || next === "complete") await check(context);
    });
  if (on.length > 0) await adapters(context, on, "on");
  let after = 0;
  const told = async () => {
    const { events, invalid } = await listEvents(context, { after, limit: 1_000 });
    expect(invalid).toEqual([]);
    after = events.at(-1)?.seq ?? after;
    return events.map(({ subject, type, sourceAgent }) => `${subject} ${type} ${sourceAgent}`);
  };
  return { place, context, told, [Symbol.asyncDispose]: () => context[Symbol.asyncDispose]() };
}

const adapters = (context: Context, agents: readonly string[], value: "on" | "off") =>
  changeFlags(
    context,
    agents.map((agent) => ({ agent, flag: "agent-adapters" as const, value })),
  );

const STAGES_ALL: readonly Stage[] = ["off", "dualwrite", "shadow", "live", "rampdown", "complete"];

describe.each(BACKENDS)("events of agents that don't change, on $name", (backend) => {
  const insert = (id: string, type = "backend", status = "queued") =>
    `INSERT INTO tasks (id, title, task_type, status) VALUES ('${id}', 't', '${type}', '${status}')`;

  test.each<[string, string, readonly string[], readonly string[]]>([
    [
      "a task",
      "backend",
      ["queued", "assigned", "in_progress", "completed"],
      ["task.created C", "task.assigned C", "task.started C", "task.completed C"],
    ],
    [
      "one that fails",
      "backend",
      ["queued", "in_progress", "failed"],
      ["task.created C", "task.started C", "task.failed C"],
    ],
    [
      "one whose agents have two words for one thing",
      "backend",
      ["in_progress", "running", "approved", "review_approved"],
      ["task.created C", "task.started C", "review.completed R", "review.approved R"],
    ],
    [
      "one that fails for one agent, then for another",
      "backend",
      ["planning_failed", "review_failed"],
      ["task.created C", "task.failed P", "task.failed R"],
    ],
    ["one that is cancelled", "backend", ["queued", "cancelled"], ["task.created C", "task.cancelled C"]],
    [
      "one that is tried again",
      "backend",
      ["queued", "in_progress", "queued", "in_progress"],
      ["task.created C", "task.started C", "task.progress C", "task.started C"],
    ],
    [
      "a review",
      "backend",
      ["in_progress", "review_pending", "approved"],
      ["task.created C", "task.started C", "review.requested R", "review.completed R", "review.approved R"],
    ],
    [
      "a review that rejects",
      "backend",
      ["review_pending", "TaskStatus.REJECTED"],
      ["task.created C", "review.requested R", "review.completed R", "review.rejected R"],
    ],
    [
      "a review that asks people, then for more work",
      "backend",
      ["review_pending", "escalated", "rework_needed"],
      ["task.created C", "review.requested R", "review.requested R", "review.completed R", "review.rejected R"],
    ],
    [
      "a deployment",
      "deployment",
      ["deployment_pending", "deploying", "deployed"],
      ["task.created D", "deployment.requested D", "deployment.in_progress D", "deployment.completed D"],
    ],
    [
      "one that fails",
      "deployment",
      ["deploying", "deployment_failed"],
      ["task.created D", "deployment.in_progress D", "deployment.failed D"],
    ],
    [
      "one that is taken back, of a task of another agent",
      "backend",
      ["completed", "deployment_pending", "rolled_back"],
      ["task.created C", "task.completed C", "deployment.requested D", "deployment.rolled_back D"],
    ],
    [
      "a workflow",
      "chimera_workflow",
      ["queued", "in_progress", "completed"],
      ["task.created O", "workflow.started O", "workflow.completed O"],
    ],
    [
      "a workflow that fails",
      "qa_workflow",
      ["in_progress", "failed"],
      ["task.created O", "workflow.started O", "workflow.failed O"],
    ],
    [
      "a plan",
      "analysis",
      ["planning_in_progress", "planned"],
      ["task.created P", "plan.requested P", "plan.generated P"],
    ],
  ])("the flow of %s (%s: %j)", async (_, type, statuses, expected) => {
    await using p = await platform(backend);
    const [first = "", ...rest] = statuses;
    p.place.execute(insert("a", type, first));
    await sync(p.context);
    for (const status of rest) {
      p.place.execute(`UPDATE tasks SET status = '${status}' WHERE id = 'a'`);
      await sync(p.context);
    }
    const names = { C: "hive-coder", R: "ai-reviewer", D: "ai-deployer", O: "orchestrator", P: "ai-planner" };
    const full = expected.map((one) => one.replace(/ ([CRDOP])$/, (_all, key: keyof typeof names) => ` ${names[key]}`));
    expect(await p.told()).toEqual(full.map((one) => `a ${one}`));
    expect(await statesOf(p)).toMatchObject({ a: expect.any(String) });
  });

  test("phases, requests for plans and plans, with their correlation", async () => {
    await using p = await platform(backend);
    p.place.execute(`${insert("w", "chimera_workflow", "in_progress")};
      INSERT INTO planning_queue (id, task_description, requestor) VALUES ('q', 'do it', 'me')`);
    await sync(p.context);
    p.place.execute(`UPDATE tasks SET current_phase = 'build' WHERE id = 'w';
      UPDATE planning_queue SET status = 'assigned' WHERE id = 'q'`);
    await sync(p.context);
    p.place.execute(`UPDATE planning_queue SET status = 'planned' WHERE id = 'q';
      INSERT INTO execution_plans (id, planning_task_id, plan_data, status) VALUES ('p', 'q', '{}', 'generated')`);
    await sync(p.context);
    for (const status of ["approved", "executing", "completed"]) {
      p.place.execute(`UPDATE execution_plans SET status = '${status}' WHERE id = 'p'`);
      await sync(p.context);
    }
    const { events } = await listEvents(p.context, { limit: 100 });
    expect(
      events.map(({ correlationId, ...one }) => `${one.subject} ${one.type} ${one.sourceAgent} ${correlationId}`),
    ).toEqual([
      "w task.created orchestrator w",
      "w workflow.started orchestrator w",
      "q plan.requested ai-planner q",
      "w workflow.phase_completed orchestrator w",
      "q task.assigned ai-planner q",
      "q task.completed ai-planner q",
      "p plan.generated ai-planner q",
      "p plan.approved orchestrator q",
      "p plan.execution_started orchestrator q",
      "p plan.execution_completed orchestrator q",
    ]);
    expect(events[3]?.payload).toMatchObject({ phase: "start", current_phase: "build", total_phases: 5 });
    expect(events[2]?.payload).toMatchObject({ description: "do it", requestor: "me", status: "pending" });
  });

  test("what passed between two syncs is told as the last of it", async () => {
    await using p = await platform(backend);
    p.place.execute(insert("a"));
    await sync(p.context);
    for (const status of ["assigned", "in_progress", "completed"]) {
      p.place.execute(`UPDATE tasks SET status = '${status}' WHERE id = 'a'`);
    }
    await sync(p.context);
    const { events } = await listEvents(p.context, { limit: 100 });
    expect(events.map(({ type, metadata }) => [type, metadata])).toEqual([
      ["task.created", { derived: true }],
      ["task.completed", { derived: true, coalesced: true, skipped: 2 }],
    ]);
    p.place.execute(
      "UPDATE tasks SET status = 'queued' WHERE id = 'a'; UPDATE tasks SET status = 'completed' WHERE id = 'a'",
    );
    await sync(p.context);
    expect((await p.told()).slice(2)).toEqual([]);
  });

  test("nothing that was before is told, and everything after it", async () => {
    await using p = await platform(backend, { on: [] });
    p.place.execute(insert("before", "backend", "assigned"));
    await sync(p.context);
    await adapters(p.context, ["hive-coder"], "on");
    await sync(p.context);
    expect(await p.told()).toEqual([]);
    expect(Object.keys(await statesOf(p)).sort()).toEqual(["before", "old"]);
    p.place.execute(
      `UPDATE tasks SET status = 'in_progress' WHERE id = 'before'; ${insert("new")}; ${insert("theirs", "deployment")}`,
    );
    // What waits by now is told under the flags that it was written under.
    await adapters(p.context, ["ai-deployer"], "on");
    expect(await p.told()).toEqual(["before task.started hive-coder", "new task.created hive-coder"]);
    p.place.execute("UPDATE tasks SET status = 'deploying' WHERE id IN ('old', 'theirs')");
    await sync(p.context);
    expect(await p.told()).toEqual([
      "old deployment.in_progress ai-deployer",
      "theirs deployment.in_progress ai-deployer",
    ]);
    await adapters(p.context, ["hive-coder"], "off");
    p.place.execute(
      "UPDATE tasks SET status = 'failed' WHERE id = 'before'; UPDATE tasks SET status = 'deployed' WHERE id = 'old'",
    );
    await sync(p.context);
    expect(await p.told()).toEqual(["old deployment.completed ai-deployer"]);
    await adapters(p.context, ["ai-deployer"], "off");
    expect(await statesOf(p)).toEqual({});
    expect(p.place.select(backend.dialect.triggers)).toEqual([]);
    p.place.execute(insert("unheard"));
    await sync(p.context);
    await adapters(p.context, ["hive-coder"], "on");
    expect(await p.told()).toEqual([]);
    p.place.execute("UPDATE tasks SET status = 'assigned' WHERE id = 'unheard'");
    await sync(p.context);
    expect(await p.told()).toEqual(["unheard task.assigned hive-coder"]);
  });

  test.each(STAGES_ALL)("once at the stage %s, whoever writes", async (stage) => {
    await using p = await platform(backend, { stage });
    p.place.execute(insert("a"));
    await sync(p.context);
    p.place.execute("UPDATE tasks SET status = 'in_progress' WHERE id = 'a'");
    await sync(p.context);
    const writer = openWriter<{ status: string; taskType: string }>(p.context, "hive-coder");
    const { key } = await writer.create({ status: "queued", taskType: "code" });
    await sync(p.context);
    await writer.update(key, { status: "running" });
    await backfillUnlessLed(p.context, stage);
    await check(p.context, { repair: true });
    await sync(p.context);
    await writer.update(key, { status: "review_pending" });
    await writer.update(key, { status: "completed" });
    await sync(p.context);
    await writer.delete(key);
    await sync(p.context);
    await writer[Symbol.asyncDispose]();
    const told = (await p.told()).map((one) => one.replace(key, "w").replace(" hive-coder", ""));
    // Where nobody asks for both sides, the writer finds what it wrote just before in the log, and sees to it first.
    const between = stage === "off" ? ["w review.requested ai-reviewer"] : [];
    const ofWriter = ["w task.created", "w task.started", ...between, "w task.completed"];
    expect(told).toEqual(["a task.created", "a task.started", ...ofWriter]);
    expect(Object.keys(await statesOf(p)).sort()).toEqual(["a", "old"]);
  });

  test("stages change in between, and back", async () => {
    await using p = await platform(backend);
    p.place.execute(insert("a"));
    const next: Record<string, string> = {};
    let before: Stage = "off";
    for (const stage of STAGES_ALL.slice(1)) {
      const { flag, value } = settingBetween(before, stage);
      if (stage === "shadow") await backfill(p.context);
      if (stage === "live" || stage === "rampdown" || stage === "complete") await check(p.context);
      await changeFlags(
        p.context,
        OWNERS.map((agent) => ({ agent, flag, value: valueText(value) })),
      );
      before = stage;
      next[stage] = stage;
    }
    p.place.execute("UPDATE unified_tasks SET status = 'running' WHERE id = 'a'");
    await rollback(p.context, { to: "off" });
    p.place.execute("UPDATE tasks SET status = 'completed' WHERE id = 'a'");
    await sync(p.context);
    expect(await p.told()).toEqual([
      "a task.created hive-coder",
      "a task.started hive-coder",
      "a task.completed hive-coder",
    ]);
    expect(Object.keys(next)).toHaveLength(5);
  });

  test("deleted is forgotten; what cannot be expressed waits; what a rule gets wrong is put aside", async () => {
    await using p = await platform(backend);
    p.place.execute(insert("a"));
    await sync(p.context);
    p.place.execute("DELETE FROM tasks WHERE id = 'a'");
    await sync(p.context);
    expect(await statesOf(p)).not.toHaveProperty("a");
    p.place.execute(insert("a", "backend", "completed"));
    await sync(p.context);
    expect(await p.told()).toEqual([
      "a task.created hive-coder",
      "a task.created hive-coder",
      "a task.completed hive-coder",
    ]);
    const events = {
      ...hivePreset.events,
      derived: {
        tasks: {
          state: () => "x",
          transitions: () => {
            throw new Error("broken");
          },
        },
      },
    };
    await using broken = platformContext(p.place.url, { mapping: { ...hivePreset, events } });
    p.place.execute("UPDATE tasks SET status = 'failed' WHERE id = 'a'");
    await sync(broken);
    expect((await listEvents(broken, { limit: 100 })).events).toHaveLength(3);
    const [letter] = p.place.select("SELECT reason FROM hive_dead_letters");
    expect(letter?.reason).toContain('events.derived of \\"tasks\\" failed: broken');
  });

  test("whatever the rows hold, their events are valid", async () => {
    const place = await backend.create({ sample: { tasks: 120, dirt: true, seed: 3 } });
    await using context = platformContext(place.url);
    await migrateUp(context);
    await adapters(context, OWNERS, "on");
    for (const status of ["review_pending", "approved", "deployment_pending", "rolled_back", "completed", "failed"]) {
      place.execute(`UPDATE tasks SET status = '${status}', current_phase = '${status}'`);
      await sync(context);
    }
    place.execute("UPDATE planning_queue SET status = 'assigned'; UPDATE execution_plans SET status = 'executing'");
    await sync(context);
    place.execute("UPDATE planning_queue SET status = 'failed'; UPDATE execution_plans SET status = 'completed'");
    await sync(context);
    const { invalid, events } = await listEvents(context, { limit: 5_000 });
    expect(invalid).toEqual([]);
    expect(place.select("SELECT count(*) AS n FROM hive_dead_letters")).toEqual([{ n: 0 }]);
    expect(events.length).toBeGreaterThan(500);
    const types = new Set(events.map(({ type }) => type));
    for (const type of ["plan.execution_started", "deployment.rolled_back", "review.approved", "workflow.failed"]) {
      expect([...types]).toContain(type);
    }
  });

  test("legacy events cross over the bridge once, in order; nothing is derived for their agents", async () => {
    await using p = await platform(backend, { bridge: ["orchestrator", "ai-reviewer"], on: [] });
    p.place.execute(EVENTS_TABLE);
    const add = (
      id: string,
      type: string,
      source: string,
      payload = '{"task_id": "a"}',
      at = "2026-01-02T03:04:05+01:00",
    ) =>
      p.place.execute(`INSERT INTO events (event_id, event_type, timestamp, source_agent, correlation_id, payload, metadata)
        VALUES ('${id}', '${type}', '${at}', '${source}', 'wf-1', '${payload}', '{}')`);
    add("before", "task.completed", "queen");
    await adapters(p.context, OWNERS, "on");
    add("1", "TaskEventType.STARTED", "queen");
    add("2", "task.completed", "queen");
    add("3", "task.escalated", "ai-reviewer");
    add("4", "task.completed", "hive-coder");
    add("5", "no.such", "queen");
    add("6", "task.failed", "queen", "{bad");
    p.place.execute(`${insert("a", "backend", "review_pending")}; ${insert("w", "chimera_workflow", "in_progress")}`);
    await sync(p.context);
    await sync(p.context);
    const { events } = await listEvents(p.context, { limit: 100 });
    const bridged = events.filter(({ metadata }) => metadata?.derived !== true);
    expect(
      bridged.map(({ type, sourceAgent, correlationId, subject, occurredAt }) => [
        type,
        sourceAgent,
        correlationId,
        subject,
        occurredAt,
      ]),
    ).toEqual([
      ["task.started", "orchestrator", "wf-1", "a", "2026-01-02T02:04:05.000Z"],
      ["task.completed", "orchestrator", "wf-1", "a", "2026-01-02T02:04:05.000Z"],
      ["review.requested", "ai-reviewer", "wf-1", "a", "2026-01-02T02:04:05.000Z"],
    ]);
    expect(bridged[2]?.payload).toEqual({ task_id: "a", requires_human: true });
    expect(bridged[0]?.id).toBe(eventId("events", "1"));
    // The review is the reviewer's to tell, the workflow the orchestrator's.
    expect(events.filter(({ metadata }) => metadata?.derived === true).map(({ type }) => type)).toEqual([
      "task.created",
    ]);
    const letters = p.place.select("SELECT reason FROM hive_dead_letters ORDER BY seq");
    expect(letters.map(({ reason }) => String(reason))).toEqual([
      expect.stringContaining("unknown event_type"),
      expect.stringContaining("payload is no JSON"),
    ]);
    p.place.execute("DELETE FROM events WHERE event_id = '1'");
    add("1", "task.started", "queen");
    await adapters(p.context, OWNERS, "off");
    add("7", "task.completed", "queen");
    await sync(p.context);
    expect((await listEvents(p.context, { limit: 100 })).events).toHaveLength(events.length);
    expect(p.place.select(backend.dialect.triggers)).toEqual([]);
  });

  test("whatever is written between syncs, the events end with what is", { timeout: 60_000 }, async () => {
    await using p = await platform(backend);
    const statuses = [...STATUS_UP.task.keys(), "blocked"];
    const step = fc.oneof(
      {
        weight: 5,
        arbitrary: fc.record({
          kind: fc.constant("set" as const),
          task: fc.nat(3),
          status: fc.constantFrom(...statuses),
        }),
      },
      {
        weight: 1,
        arbitrary: fc.record({ kind: fc.constant("delete" as const), task: fc.nat(3), status: fc.constant("") }),
      },
      {
        weight: 3,
        arbitrary: fc.record({ kind: fc.constant("sync" as const), task: fc.nat(3), status: fc.constant("") }),
      },
    );
    let run = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 14 }), async (steps) => {
        run += 1;
        const name = (task: number) => `r${run}-${task}`;
        for (const { kind, task, status } of steps) {
          const key = name(task);
          if (kind === "sync") await sync(p.context);
          else if (kind === "delete") p.place.execute(`DELETE FROM tasks WHERE id = '${key}'`);
          else
            p.place.execute(`INSERT INTO tasks (id, title, task_type, status) VALUES ('${key}', 't', 'backend', '${status}')
              ON CONFLICT (id) DO UPDATE SET status = excluded.status`);
        }
        await sync(p.context);
        for (const row of p.place.select(`SELECT id, status FROM tasks WHERE id LIKE 'r${run}-%'`)) {
          const { events } = await listEvents(p.context, { subject: String(row.id), limit: 100 });
          const expected = STATUS_UP.task.get(String(row.status)) ?? "pending";
          expect(events.at(-1)?.payload.status).toBe(expected);
          expect(events[0]?.type).toBe("task.created");
          // No event tells what was so already.
          const states = events.map(
            ({ type, sourceAgent, payload }) => `${type} of ${sourceAgent} ${payload.status} ${payload.requires_human}`,
          );
          for (const [i, one] of states.entries()) if (i > 0) expect(one).not.toBe(states[i - 1]);
        }
      }),
      { numRuns: backend.name === "sqlite" ? 30 : 10 },
    );
  });
});

const EVENTS_TABLE = `CREATE TABLE IF NOT EXISTS events (event_id TEXT PRIMARY KEY, event_type TEXT NOT NULL,
  timestamp TEXT NOT NULL, source_agent TEXT NOT NULL, correlation_id TEXT, payload TEXT NOT NULL, metadata TEXT NOT NULL,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)`;

async function statesOf({ place }: Pick<Platform, "place">): Promise<Record<string, unknown>> {
  const rows = place.select("SELECT key, state FROM hive_event_states WHERE source <> ''");
  return Object.fromEntries(rows.map((row) => [String(row.key), row.state]));
}

async function backfillUnlessLed(context: Context, stage: Stage): Promise<void> {
  if (stage === "dualwrite" || stage === "shadow") await backfill(context);
}
