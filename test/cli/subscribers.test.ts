import { describe, expect, test } from "vitest";
import { listSubscribers } from "../../src/events/subscribers.ts";
import { subscribe } from "../../src/events/subscriptions.ts";
import { loadSchemas } from "../../src/index.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { BACKENDS } from "../support/backends.ts";
import { hiveInProcess } from "../support/cli.ts";
import { temporaryDirectory } from "../support/context.ts";
import { until } from "../support/events.ts";
import { platformContext } from "../support/legacy-platform.ts";

describe.each(BACKENDS)("on $name", (backend) => {
  test("subscribers, dead letters, replay and prune, as people and programs see them", async () => {
    const { results } = await loadSchemas();
    const { url, execute } = await backend.create({ legacy: "text" });
    await using context = platformContext(url);
    await migrateUp(context);
    const cwd = temporaryDirectory();
    const hive = (...args: string[]) => hiveInProcess(["--database", url, ...args], { cwd });
    const json = async (name: keyof typeof results, ...args: string[]) => {
      const run = await hive(...name.split(" "), ...args, "--json");
      expect([run.stderr, run.code], run.stdout).toEqual(["", 0]);
      const { ok, command, result } = JSON.parse(run.stdout);
      expect([ok, command]).toEqual([true, name]);
      return results[name].parse(result);
    };
    expect((await hive("events", "subscribers")).stdout).toBe("There is no subscriber.\n");
    for (const [n, type] of [
      [1, "task.completed"],
      [2, "task.exploded"],
      [3, "task.completed"],
    ]) {
      execute(`INSERT INTO hive_events (event_type, source_agent, subject, payload, recorded_at)
        VALUES ('${type}', 'hive-coder', 'a', '{"n":${n}}', '2020-01-01T00:00:00.000Z')`);
    }
    const handler = () => {
      throw new Error("out of ink");
    };
    const subscription = await subscribe(context, {
      name: "billing",
      patterns: ["*"],
      from: "start",
      maxAttempts: 1,
      handler,
    });
    await until(async () => (await listSubscribers(context)).subscribers[0]?.checkpoint === 3);
    await subscription.stop();

    expect(await json("events subscribers")).toMatchObject({
      subscribers: [{ name: "billing", checkpoint: 3, behind: 0, deadLetters: 2, failed: 2, running: false }],
    });
    expect((await hive("events", "subscribers")).stdout).toMatch(/billing +not running/);
    expect(await json("events dead-letters list")).toMatchObject({ total: 3 });
    expect(await json("events dead-letters list", "--invalid")).toMatchObject({
      entries: [{ seq: 2, subscriber: "" }],
    });
    expect((await hive("events", "dead-letters", "list")).stdout).toContain("out of ink");
    expect(await json("events dead-letters show", "--seq", "3")).toMatchObject({ event: { payload: { n: 3 } } });
    expect((await hive("events", "dead-letters", "redrive")).code).toBe(2);
    expect((await hive("events", "dead-letters", "redrive", "--seq", "x")).code).toBe(2);
    expect((await hive("events", "dead-letters", "drop", "--all")).code).toBe(2);
    const which = ["--subscriber", "billing", "--seq", "1"];
    expect(await json("events dead-letters redrive", ...which, "--dry-run")).toMatchObject({
      redriven: 1,
      dryRun: true,
    });
    expect(await json("events dead-letters redrive", ...which, "--reason", "ink")).toMatchObject({ redriven: 1 });
    expect(await json("events dead-letters drop", "--invalid", "--yes")).toMatchObject({ dropped: 1 });
    expect((await hive("events", "replay", "billing", "--from", "2")).code).toBe(2);
    expect((await hive("events", "replay", "biling", "--from", "2", "--yes")).stderr).toContain(
      'did you mean "billing"?',
    );
    expect((await hive("events", "replay", "billing", "--yes")).stderr).toContain(
      "neither an event's number nor a time",
    );
    const again = await json("events replay", "billing", "--from", "start", "--yes");
    expect(again).toEqual({ subscriber: "billing", from: 1, checkpoint: 3, events: 3, dryRun: false });
    expect(await json("events prune", "--dry-run")).toMatchObject({
      deleted: 0,
      heldBy: { name: "billing", checkpoint: 0 },
    });
    expect((await hive("events", "prune")).stdout).toContain("kept for billing");
    expect((await hive("events", "unsubscribe", "billing")).code).toBe(2);
    expect(await json("events unsubscribe", "billing", "--yes")).toMatchObject({ unread: 3, deadLetters: 0 });
    expect(await json("events prune")).toMatchObject({ deleted: 2, heldBy: null });
    const log = (await hive("audit", "list", "--json")).stdout;
    for (const action of ["dead letters redrive", "dead letters drop", "events replay", "events unsubscribe"]) {
      expect(log).toContain(`"${action}"`);
    }
  });

  test("a group within a group lists its commands", async () => {
    const cwd = temporaryDirectory();
    const run = await hiveInProcess(["events", "dead-letters", "--help"], { cwd });
    expect(run.stdout).toContain("events dead-letters drop");
    expect(run.stdout).not.toContain("events prune");
    expect((await hiveInProcess(["help", "events", "dead-letters"], { cwd })).stdout).toBe(run.stdout);
    expect((await hiveInProcess(["events", "dead-letters"], { cwd })).stderr).toContain("needs a subcommand");
    expect((await hiveInProcess(["events", "dead-letters", "lst"], { cwd })).stderr).toContain("dead-letters list");
  });
});
