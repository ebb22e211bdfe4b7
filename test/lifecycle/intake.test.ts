import { describe, expect, test } from "vitest";
import { metricsOf, readMetrics } from "../../src/observe/metrics.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { Intake } from "../../src/sync/intake.ts";
import { BACKENDS } from "../support/backends.ts";
import { platformContext } from "../support/legacy-platform.ts";

describe.each(BACKENDS)("$name", (backend) => {
  const ledger = backend.name === "sqlite" ? "" : "hive.";

  test("whoever wrote an event: it is counted once, its heartbeat is noted, and what is no event is put aside", async () => {
    const { url, execute, select } = await backend.create({ legacy: "text" });
    await using context = platformContext(url);
    await migrateUp(context);
    const intake = new Intake(context);
    const write = (type: string, payload = "{}") =>
      execute(`INSERT INTO ${ledger}hive_events (event_type, source_agent, payload)
        VALUES ('${type}', 'ai-planner', '${payload}')`);
    // From before it began: not counted, but a sign of life.
    write("agent.heartbeat");
    await intake.take();
    await intake.take();
    const heard = () => select(`SELECT agent_id, last_heartbeat_at FROM ${ledger}hive_agent_health`);
    const [first] = heard();
    expect(first).toMatchObject({ agent_id: "ai-planner-adapter" });
    write("agent.heartbeat");
    write("plan.requested");
    write("plan.requested");
    write("no.such.type");
    write("plan.generated", "no JSON");
    await intake.take();
    await intake.take();
    expect(String(heard()[0]?.last_heartbeat_at) >= String(first?.last_heartbeat_at)).toBe(true);
    expect(select(`SELECT subscriber, reason FROM ${ledger}hive_dead_letters ORDER BY seq`)).toEqual([
      { subscriber: "", reason: expect.stringContaining("no.such.type") },
      { subscriber: "", reason: expect.stringContaining("JSON") },
    ]);
    await metricsOf(context).flush();
    const measured = await readMetrics(context.store, context.store.read, 0);
    expect(measured.filter(({ metric }) => metric === "emit").map(({ label, count }) => [label, count])).toEqual([
      ["agent.heartbeat ai-planner", 1],
      ["plan.requested ai-planner", 2],
    ]);
  });

  test("nothing on a database without events", async () => {
    const { url } = await backend.create({ legacy: "text" });
    await using context = platformContext(url);
    await new Intake(context).take();
    expect(await context.store.table("hive_metrics")).toBeNull();
  });
});
