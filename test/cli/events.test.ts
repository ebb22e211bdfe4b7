import { spawn } from "node:child_process";
import { describe, expect, test } from "vitest";
import { RESULTS } from "../../src/schemas.ts";
import { BACKENDS } from "../support/backends.ts";
import { hiveInProcess, LAUNCHER } from "../support/cli.ts";
import { smallPlatformOn } from "../support/small-platform.ts";

describe.each(BACKENDS)("hive events on $name", (backend) => {
  async function platform() {
    const { cwd, place } = await smallPlatformOn(backend);
    const hive = (...args: string[]) => hiveInProcess(args, { cwd });
    expect((await hive("migrate", "up")).code).toBe(0);
    expect((await hive("flags", "enable", "hive-coder")).code).toBe(0);
    return { cwd, place, hive };
  }
  const json = (run: { stdout: string }) => JSON.parse(run.stdout);

  test("emit, list and types, for programs and for people", async () => {
    const { place, hive } = await platform();
    const emit = ["events", "emit", "task.completed", "--agent", "hive-coder", "--subject", "task-17"];
    const dry = json(await hive(...emit, "--dry-run", "--json"));
    expect(dry.result).toMatchObject({ emitted: true, dryRun: true, event: { type: "task.completed" } });
    const told = await hive(...emit, "--correlation", "plan-1", "--payload", '{"status":"done"}', "--json");
    expect(told.code).toBe(0);
    const { event } = RESULTS["events emit"].parse(json(told).result);
    expect(event).toMatchObject({ subject: "task-17", correlationId: "plan-1", payload: { status: "done" } });
    place.execute(`INSERT INTO hive_events (event_type, source_agent, subject, payload) VALUES
      ('task.failed', 'hive-coder', 'title \u001b[2J', '{"error":"${"long ".repeat(60)}"}'), ('nothing', 'x', NULL, '{}')`);

    const listed = await hive("events", "list", "--json");
    const { events, invalid } = RESULTS["events list"].parse(json(listed).result);
    expect(events).toMatchObject([
      { ...event, seq: 1 },
      { seq: 2, type: "task.failed" },
    ]);
    expect(invalid).toEqual([{ seq: 3, reason: 'unknown event_type "nothing"' }]);
    const only = json(await hive("events", "list", "--type", "*.failed", "--agent", "hive-coder", "--json"));
    expect(only.result.events.map(({ seq }: { seq: number }) => seq)).toEqual([2]);
    const work = json(
      await hive("events", "list", "--correlation", "plan-1", "--after", "0", "--limit", "1", "--json"),
    );
    expect(work.result.events).toHaveLength(1);

    for (const args of [["list"], ["types"], ["list", "--type", "plan.*"]]) {
      const { code, stdout } = await hive("events", ...args);
      expect(code).toBe(0);
      expect(stdout.split("\n").filter((line) => line.length > 80)).toEqual([]);
      // biome-ignore lint/suspicious/noControlCharactersInRegex: what must not reach the terminal
      expect(stdout).not.toMatch(/[\u0000-\u0009\u001b]/);
    }
    expect((await hive("events", "list")).stdout).toMatch(/3 is no valid event: unknown event_type/);
    expect((await hive("events", "list", "--type", "plan.*")).stdout).toContain("There is no such event.");
    expect((await hive("events", "types")).stdout).toContain("28 standard, 5 extensions");
    RESULTS["events types"].parse(json(await hive("events", "types", "--json")).result);
  });

  test("what cannot be done says why, with its exit code", async () => {
    const { hive } = await platform();
    const failing = async (code: number, error: string, ...args: string[]) => {
      const run = await hive("events", ...args, "--json");
      expect([run.code, json(run).error?.code]).toEqual([code, error]);
      return json(run).error;
    };
    const off = await hive("events", "emit", "task.completed", "--agent", "guardian", "--json");
    expect([off.code, json(off)]).toMatchObject([3, { ok: true, result: { emitted: false, event: null } }]);
    expect((await hive("events", "emit", "task.completed", "--agent", "guardian")).stdout).toMatch(/flags enable/);
    await failing(2, "USAGE", "emit", "task.completed");
    await failing(2, "USAGE", "emit", "task.completed", "--agent", "hive-coder", "--payload", "{");
    await failing(2, "RECORD_INVALID", "emit", "task.completed", "--agent", "hive-coder", "--payload", '{"status":1}');
    await failing(2, "RECORD_INVALID", "emit", "task.completed", "--agent", "hive-coder", "--payload", "[]");
    const unknown = await failing(2, "UNKNOWN_NAME", "emit", "task.complete", "--agent", "hive-coder");
    expect(unknown.details.nearest).toBe("task.completed");
    await failing(2, "UNKNOWN_AGENT", "emit", "task.completed", "--agent", "hive-codr");
    await failing(2, "UNKNOWN_NAME", "list", "--type", "taks.*");
    await failing(2, "UNKNOWN_AGENT", "list", "--agent", "nobody");
    await failing(2, "USAGE", "list", "--limit", "0");
    await failing(2, "UNKNOWN_NAME", "tail", "--type", "taks.*");
    const { cwd } = await smallPlatformOn(backend);
    const untouched = await hiveInProcess(["events", "list", "--json"], { cwd });
    expect([untouched.code, json(untouched).error.code]).toEqual([4, "NOT_MIGRATED"]);
  });

  test("tail writes one object per line and nothing else, and ends at a limit or when it is told to", async () => {
    const { cwd, place, hive } = await platform();
    const tell = (subject: string) =>
      place.execute(
        `INSERT INTO hive_events (event_type, source_agent, subject) VALUES ('task.started', 'hive-coder', '${subject}')`,
      );
    tell("one");
    tell("two");
    const lines = (text: string) => text.split("\n").filter((line) => line !== "");
    const first = await hive("events", "tail", "--after", "0", "--limit", "2", "--json");
    expect(first.code).toBe(0);
    expect(lines(first.stdout).map((line) => JSON.parse(line))).toMatchObject([
      { seq: 1, subject: "one", type: "task.started" },
      { seq: 2, subject: "two" },
    ]);
    const people = await hive("events", "tail", "--after", "1", "--limit", "1");
    expect(people.stdout).toMatch(/^ +2 {2}\d\d:\d\d:\d\d {2}task\.started +hive-coder +two {2}\{\}\n$/);

    const child = spawn(process.execPath, [LAUNCHER, "events", "tail", "--after", "1", "--json"], { cwd });
    const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
    let seen = "";
    const subjects = () => lines(seen).map((line): unknown => JSON.parse(line).subject);
    for await (const chunk of child.stdout.setEncoding("utf8")) {
      seen += chunk;
      if (!seen.endsWith("\n")) continue;
      if (subjects().length === 1) tell("three");
      if (subjects().length === 2) child.kill("SIGTERM");
    }
    expect(await ended).toBe(0);
    expect(subjects()).toEqual(["two", "three"]);
  });

  test("tail ends when nobody reads it any more", async () => {
    const { cwd, place } = await platform();
    place.execute("INSERT INTO hive_events (event_type, source_agent) VALUES ('task.started', 'hive-coder')");
    const child = spawn(process.execPath, [LAUNCHER, "events", "tail", "--after", "0", "--json"], { cwd });
    const ended = new Promise<number | null>((resolve) => child.on("exit", resolve));
    await new Promise<void>((resolve) => child.stdout.once("data", () => resolve()));
    child.stdout.destroy();
    place.execute("INSERT INTO hive_events (event_type, source_agent) VALUES ('task.started', 'hive-coder')");
    expect(await ended).toBe(0);
  });
});
