import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Context } from "../../src/context.ts";
import { type HiveEvent, MOST_PAYLOAD_BYTES } from "../../src/events/event.ts";
import { listEvents, listEventTypes, tailEvents } from "../../src/events/listing.ts";
import { emit, emitAlone, emitNothing, lastSeq, readEvents, sequence } from "../../src/events/outbox.ts";
import { changeFlags } from "../../src/flags/flags.ts";
import { createTaskEvent } from "../../src/presets/hive/create-events.ts";
import type { HiveTask } from "../../src/presets/hive/records.ts";
import { migrateDown, migrateUp } from "../../src/schema/migrator.ts";
import { openWriter } from "../../src/sync/writer.ts";
import { BACKENDS, type Place } from "../support/backends.ts";
import { type TestContextOptions, temporaryDirectory } from "../support/context.ts";
import { hastyClock, platformContext } from "../support/legacy-platform.ts";
import { LEDGER, OWN } from "../support/migrations.ts";

const completed = (taskId: string, payload: object = {}) =>
  createTaskEvent({ type: "task.completed", taskId, sourceAgent: "hive-coder", payload });

const turn = (place: Place, agent: string, value: "on" | "off") =>
  place.execute(`INSERT INTO hive_flags VALUES ('${agent}', 'unified-events', '${value}', '')
    ON CONFLICT (agent, flag) DO UPDATE SET value = excluded.value`);

const subjects = async (context: Context) =>
  (await listEvents(context)).events.map(({ seq, subject }) => [seq, subject]);

describe.each(BACKENDS)("events on $name", (backend) => {
  async function platform(on: readonly string[] = ["hive-coder", "ai-reviewer"], options: TestContextOptions = {}) {
    const place = await backend.create({ legacy: "text" });
    const context = platformContext(place.url, options);
    await migrateUp(context);
    for (const agent of on) turn(place, agent, "on");
    return { place, context, [Symbol.asyncDispose]: () => context[Symbol.asyncDispose]() };
  }

  describe("emitted", () => {
    test("are there in order once they are committed, and leave no gap where they are not", async () => {
      await using p = await platform();
      const { context } = p;
      const [first] = await emitAlone(context, [completed("a", { status: "done" }), completed("b")]);
      const undone = context.store.transaction("t", async (tx) => {
        expect(await emit(tx, context, [completed("c"), completed("c")])).toHaveLength(2);
        throw new Error("undone");
      });
      await expect(undone).rejects.toThrow("undone");
      await context.store.transaction("t", async (tx) => {
        const attempt = tx.attempt(async () => {
          await emit(tx, context, completed("c"));
          throw new Error("undone");
        });
        await expect(attempt).rejects.toThrow("undone");
        await emit(tx, context, completed("d"));
      });
      await expect(emitAlone(context, { ...completed("e"), id: first?.id })).rejects.toMatchObject({
        code: "CONSTRAINT",
      });
      await emitAlone(context, completed("f"));
      expect(await subjects(context)).toEqual([
        [1, "a"],
        [2, "b"],
        [3, "d"],
        [4, "f"],
      ]);
      const [event] = (await listEvents(context)).events;
      expect(event).toEqual({ ...first, seq: 1, payload: { task_id: "a", status: "done" } });
    });

    test("by an agent whose flag is off are left out, and no transaction is begun", async () => {
      await using p = await platform([], { clock: hastyClock() });
      const { context, place } = p;
      const { commits } = context.store.stats;
      expect(await emitAlone(context, [completed("a"), { ...completed("a"), payload: { status: 1 } }])).toEqual([]);
      expect(await emitNothing(context, completed("a"))).toEqual([]);
      await context.store.transaction("t", async (tx) => {
        expect(await emit(tx, context, completed("a"))).toEqual([]);
      });
      expect(context.store.stats.commits).toBe(commits + 1);
      turn(place, "hive-coder", "on");
      await context.clock.sleep(1_001);
      expect(await emitAlone(context, completed("b"))).toHaveLength(1);
      // Of another agent, whose flag is still off.
      expect(await emitAlone(context, { ...completed("b"), sourceAgent: "guardian" })).toEqual([]);
      turn(place, "hive-coder", "off");
      await context.clock.sleep(1_001);
      expect(await emitAlone(context, completed("c"))).toEqual([]);
      expect(await subjects(context)).toEqual([[1, "b"]]);
    });

    test("are refused as a whole where one does not fit, or nobody knows its agent", async () => {
      await using p = await platform();
      const { context } = p;
      const refused = async (event: object, error: object) =>
        expect(emitAlone(context, [completed("a"), { ...completed("b"), ...event }])).rejects.toMatchObject(error);
      await refused({ payload: { status: 1 } }, { code: "RECORD_INVALID", details: { type: "task.completed" } });
      await refused({ type: "task.complete" }, { code: "UNKNOWN_NAME", details: { nearest: "task.completed" } });
      await refused({ sourceAgent: "hive-codr" }, { code: "UNKNOWN_AGENT", details: { nearest: "hive-coder" } });
      await refused({ payload: { a: "x".repeat(MOST_PAYLOAD_BYTES) } }, { code: "RECORD_INVALID" });
      expect(await subjects(context)).toEqual([]);
    });

    test("keep a time in the future, an agent named by its id, a payload of a megabyte", async () => {
      await using p = await platform();
      const { context } = p;
      const payload = { summary: "ü".repeat(MOST_PAYLOAD_BYTES / 2 - 20) };
      await emitAlone(context, {
        ...{ type: "TaskEventType.COMPLETED", sourceAgent: "hive-coder-adapter", payload },
        occurredAt: "2999-01-01T00:00:00Z",
      });
      await emitAlone(context, completed("b"));
      const [far, near] = (await listEvents(context)).events;
      expect(far).toMatchObject({ type: "task.completed", sourceAgent: "hive-coder", payload });
      expect(far?.occurredAt).toBe("2999-01-01T00:00:00.000Z");
      expect([far?.seq, near?.seq]).toEqual([1, 2]);
    });

    test("on a ledger of an older hive: nothing while the flag is off, then it says what to run", async () => {
      const place = await backend.create({ legacy: "text" });
      await using context = platformContext(place.url, { clock: hastyClock() });
      expect(await emitAlone(context, completed("a"))).toEqual([]);
      await migrateUp(context, { to: OWN[1] });
      await context.clock.sleep(1_001);
      expect(await emitAlone(context, completed("a"))).toEqual([]);
      turn(place, "hive-coder", "on");
      await context.clock.sleep(1_001);
      await expect(emitAlone(context, completed("a"))).rejects.toMatchObject({ code: "NOT_MIGRATED" });
      await expect(listEvents(context)).rejects.toMatchObject({ code: "NOT_MIGRATED" });
    });
  });

  describe("of a writer", () => {
    test("stand with what was written, or not at all", async () => {
      await using p = await platform(["hive-coder"]);
      const { context } = p;
      await using writer = openWriter<HiveTask>(context, "hive-coder");
      const { key } = await writer.transaction(async (tx) => {
        const written = await tx.create({ taskType: "code", status: "queued", inputData: { title: "Write it" } });
        expect(await tx.emit({ type: "task.created", subject: written.key })).toHaveLength(1);
        return written;
      });
      const undone = writer.transaction(async (tx) => {
        await tx.update(key, { status: "failed" });
        await tx.emit({ type: "task.completed", subject: key });
        throw new Error("undone");
      });
      await expect(undone).rejects.toThrow("undone");
      // The caller may catch what is refused, and go on.
      await writer.transaction(async (tx) => {
        await expect(tx.emit({ type: "task.completed", payload: { status: 1 } })).rejects.toMatchObject({
          code: "RECORD_INVALID",
        });
        await tx.update(key, { status: "completed" });
        await tx.emit([{ type: "task.started" }, { type: "task.completed", payload: { status: "done" } }]);
      });
      expect(await writer.emit({ type: "task.progress" })).toMatchObject([{ sourceAgent: "hive-coder" }]);
      expect((await writer.get(key))?.status).toBe("completed");
      const { events } = await listEvents(context);
      expect(events.map(({ seq, type }) => [seq, type])).toEqual([
        [1, "task.created"],
        [2, "task.started"],
        [3, "task.completed"],
        [4, "task.progress"],
      ]);
    });

    test("are nothing while its flag is off, and a flip needs no restart", async () => {
      await using p = await platform([], { clock: hastyClock() });
      const { context, place } = p;
      await using writer = openWriter<HiveTask>(context, "hive-coder");
      const write = () =>
        writer.transaction(async (tx) => {
          await tx.create({ taskType: "code", status: "queued", inputData: { title: "Write it" } });
          return (await tx.emit({ type: "task.created" })).length;
        });
      expect([await write(), (await writer.emit({ type: "no type at all" })).length]).toEqual([0, 0]);
      turn(place, "hive-coder", "on");
      // In a transaction at once; else within a second.
      expect(await write()).toBe(1);
      await context.clock.sleep(1_001);
      expect(await writer.emit({ type: "task.created" })).toHaveLength(1);
      turn(place, "hive-coder", "off");
      expect(await write()).toBe(0);
    });
  });

  describe("by SQL alone", () => {
    test("the least that an agent has to say is enough", async () => {
      await using p = await platform([]);
      const { context, place } = p;
      const before = Date.now() - 1;
      place.execute(`INSERT INTO hive_events (event_type, source_agent, correlation_id, subject, payload)
        VALUES ('TaskEventType.COMPLETED', 'legacy-worker', 'plan-1', 'task-1', '{"task_id":"task-1"}')`);
      place.execute("INSERT INTO hive_events (event_type, source_agent) VALUES ('task.started', 'hive-coder')");
      const { events, invalid } = await listEvents(context);
      expect(invalid).toEqual([]);
      const uuid = expect.stringMatching(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
      expect(events).toMatchObject([
        { seq: 1, id: uuid, type: "task.completed", sourceAgent: "legacy-worker", correlationId: "plan-1" },
        { seq: 2, id: uuid, type: "task.started", correlationId: events[1]?.id, subject: null, payload: {} },
      ]);
      for (const { id, occurredAt, recordedAt } of events) {
        const times = [Number.parseInt(id.replaceAll("-", "").slice(0, 12), 16), occurredAt, recordedAt];
        for (const time of times.map((one) => new Date(one).getTime())) {
          expect(time).toBeGreaterThanOrEqual(before);
          expect(time).toBeLessThanOrEqual(Date.now() + 1);
        }
      }
    });

    test("an id that there is already is taken once, and leaves no gap", async () => {
      await using p = await platform([]);
      const { context, place } = p;
      for (const id of ["a", "a", "b", "a"]) {
        place.execute(`INSERT INTO hive_events (id, event_type, source_agent, subject)
          VALUES ('${id}', 'task.created', 'x', '${id}') ON CONFLICT (id) DO NOTHING`);
      }
      expect(await subjects(context)).toEqual([
        [1, "a"],
        [2, "b"],
      ]);
    });

    const INVALID: readonly (readonly [string, string, RegExp])[] = [
      ["an unknown type", "event_type = 'task.vanished'", /unknown event_type "task.vanished"/],
      ["no type", "event_type = NULL", /event_type is missing/],
      ["no source", "source_agent = NULL", /source_agent is missing/],
      ["no id", "id = NULL", /id is missing/],
      ["no JSON", "payload = '{''a'': None}'", /payload is no JSON/],
      ["a wrong payload", `payload = '{"status":7}'`, /payload\.status/],
      ["no payload", "payload = NULL", /payload is missing/],
      ["no time", "occurred_at = 'soon'", /occurred_at is no time/],
    ];

    test("what is no valid event is stored, told apart with its reason, and put aside once", async () => {
      await using p = await platform([]);
      const { context, place } = p;
      const good = "INSERT INTO hive_events (event_type, source_agent) VALUES ('task.started', 'hive-coder')";
      place.execute(good);
      for (const [name, assignment] of INVALID) {
        place.execute(
          `INSERT INTO hive_events (event_type, source_agent, subject) VALUES ('task.created', 'a', '${name}')`,
        );
        place.execute(`UPDATE hive_events SET ${assignment} WHERE subject = '${name}'`);
      }
      const long =
        backend.name === "sqlite"
          ? `'{"a":"' || hex(zeroblob(600000)) || '"}'`
          : `'{"a":"' || repeat('x', 1200000) || '"}'`;
      place.execute(
        `INSERT INTO hive_events (event_type, source_agent, payload) VALUES ('task.created', 'a', ${long})`,
      );
      place.execute(good);
      const { events, invalid } = await listEvents(context);
      expect(events.map(({ type }) => type)).toEqual(["task.started", "task.started"]);
      expect(events.map(({ seq }) => seq)).toEqual([1, INVALID.length + 3]);
      expect(invalid.map(({ seq }) => seq)).toEqual(Array.from({ length: INVALID.length + 1 }, (_, i) => i + 2));
      for (const [i, [, , reason]] of INVALID.entries()) expect(invalid[i]?.reason).toMatch(reason);
      expect(invalid.at(-1)?.reason).toMatch(/payload takes 1200008 bytes/);
      const letters = "SELECT seq, subscriber, state, reason, attempts, event FROM hive_dead_letters ORDER BY seq";
      const kept = place.select(letters);
      expect(kept.map(({ seq, reason }) => ({ seq: Number(seq), reason }))).toEqual(invalid);
      expect(kept[4]).toMatchObject({ subscriber: "", state: "dead" });
      expect(JSON.parse(String(kept[4]?.event))).toMatchObject({ payload: "{'a': None}", event_type: "task.created" });
      expect(JSON.parse(String(kept.at(-1)?.event))).toMatchObject({ payload: null, payload_bytes: 1_200_008 });
      const { commits } = context.store.stats;
      expect((await listEvents(context)).invalid).toEqual(invalid);
      expect(context.store.stats.commits).toBe(commits);
      expect(place.select(letters)).toEqual(kept);
    });

    test.skipIf(backend.name !== "sqlite")(
      "bytes that are no UTF-8 are found out, and U+FFFD by right is none",
      async () => {
        await using p = await platform([]);
        const { context, place } = p;
        place.execute(`INSERT INTO hive_events (event_type, source_agent, subject, payload) VALUES
        ('task.created', 'a', 's', CAST(x'7b2261223a22ff227d' AS TEXT)),
        ('task.created', 'a', CAST(x'61ff' AS TEXT), '{}'),
        ('task.created', 'a', 's', x'7b7d'),
        ('task.created', 'a', 'right \ufffd', '{"a":"\ufffd"}')`);
        const { events, invalid } = await listEvents(context);
        expect(invalid).toEqual([
          { seq: 1, reason: "payload is no valid UTF-8 text" },
          { seq: 2, reason: "subject is no valid UTF-8 text" },
          { seq: 3, reason: "payload is no valid UTF-8 text" },
        ]);
        expect(events).toMatchObject([{ seq: 4, subject: "right \ufffd", payload: { a: "\ufffd" } }]);
      },
    );

    test("every agent's flags can be read, also those of agents without a registration", async () => {
      await using p = await platform(["guardian"]);
      const { context, place } = p;
      await changeFlags(context, [{ agent: "qa-agent", flag: "agent-adapters", value: "on" }]);
      const rows = place.select("SELECT agent, flag, value FROM hive_flag_values WHERE value NOT IN ('off', 'legacy')");
      expect(rows).toEqual(
        expect.arrayContaining([
          { agent: "guardian", flag: "unified-events", value: "on" },
          { agent: "qa-agent", flag: "agent-adapters", value: "on" },
        ]),
      );
      expect(place.select("SELECT count(*) AS n FROM hive_flag_values").map(({ n }) => Number(n))).toEqual([28]);
      expect(place.select("SELECT value FROM hive_flag_values WHERE agent = 'ai-planner' AND flag = 'reads'")).toEqual([
        { value: "legacy" },
      ]);
    });
  });

  describe("listed", () => {
    async function filled() {
      const p = await platform(["hive-coder", "ai-reviewer", "ai-planner"]);
      const by = (sourceAgent: string, type: string, subject: string, correlationId?: string) => ({
        ...{ sourceAgent, type, subject, correlationId },
      });
      await emitAlone(p.context, [
        by("ai-planner", "plan.requested", "p", "work-1"),
        by("ai-planner", "plan.generated", "p", "work-1"),
        by("hive-coder", "task.started", "t1", "work-1"),
        by("ai-reviewer", "review.requested", "t1", "work-1"),
        by("hive-coder", "task.completed", "t2"),
      ]);
      p.place.execute(`INSERT INTO hive_events (event_type, source_agent, subject) VALUES
        ('TaskEventType.COMPLETED', 'hive-coder-adapter', 't3'), ('task.review_requested', 'ai-reviewer', 't3')`);
      return p;
    }
    const seqs = async (context: Context, filter: Parameters<typeof listEvents>[1]) =>
      (await listEvents(context, filter)).events.map(({ seq }) => seq);

    test("by type, agent, correlation, place and number", async () => {
      await using p = await filled();
      const { context } = p;
      expect(await seqs(context, {})).toEqual([1, 2, 3, 4, 5, 6, 7]);
      expect(await seqs(context, { types: ["task.*"] })).toEqual([3, 5, 6]);
      expect(await seqs(context, { types: ["*.requested"] })).toEqual([1, 4, 7]);
      expect(await seqs(context, { types: ["task.started", "plan.*"] })).toEqual([1, 2, 3]);
      expect(await seqs(context, { types: ["TaskEventType.COMPLETED"] })).toEqual([5, 6]);
      expect(await seqs(context, { types: ["task.*"], limit: 2 })).toEqual([5, 6]);
      expect(await seqs(context, { types: ["task.*"], limit: 2, after: 0 })).toEqual([3, 5]);
      expect(await seqs(context, { agent: "hive-coder" })).toEqual([3, 5, 6]);
      expect(await seqs(context, { agent: "hive-coder-adapter" })).toEqual([3, 5, 6]);
      expect(await seqs(context, { correlationId: "work-1", types: ["*ed"] })).toEqual([1, 2, 3, 4]);
      expect(await seqs(context, { subject: "t3" })).toEqual([6, 7]);
      expect(await seqs(context, { limit: 2 })).toEqual([6, 7]);
      expect(await seqs(context, { limit: 2, after: 2 })).toEqual([3, 4]);
      expect(await seqs(context, { after: 7 })).toEqual([]);
      const [own] = (await listEvents(context, { after: 4, limit: 1 })).events;
      expect(await seqs(context, { correlationId: own?.id ?? "" })).toEqual([5]);
      await expect(listEvents(context, { agent: "nobody" })).rejects.toMatchObject({ code: "UNKNOWN_AGENT" });
      await expect(listEvents(context, { types: ["tsk.*"] })).rejects.toMatchObject({ code: "UNKNOWN_NAME" });
      await expect(listEvents(context, { limit: 0 })).rejects.toMatchObject({ code: "USAGE" });
    });

    test("page by page, none is read twice or left out, however few are read at once", async () => {
      await using p = await filled();
      const { context } = p;
      await sequence(context.store);
      for (const descending of [false, true]) {
        const found: number[] = [];
        for (let at: number | undefined; ; ) {
          const range = descending ? { before: at } : { after: at };
          const page = await readEvents(context.store.read, context, { ...range, limit: 2, descending });
          found.push(...page.events.map(({ seq }) => seq));
          if (page.complete) break;
          at = page.last ?? undefined;
        }
        expect(found).toEqual(descending ? [7, 6, 5, 4, 3, 2, 1] : [1, 2, 3, 4, 5, 6, 7]);
      }
      expect(await lastSeq(context.store.read)).toBe(7);
      p.place.execute("DELETE FROM hive_events WHERE seq < 7");
      expect(await lastSeq(context.store.read)).toBe(7);
      await emitAlone(context, completed("next"));
      expect(await subjects(context)).toEqual([
        [7, "t3"],
        [8, "next"],
      ]);
    });

    test("types, with who emits them", async () => {
      await using p = await platform([]);
      const types = listEventTypes(p.context);
      expect(types).toMatchObject({ standard: 28, extensions: 5 });
      expect(types.types.find(({ type }) => type === "task.failed")).toEqual({
        ...{ type: "task.failed", extension: false },
        agents: ["hive-coder", "guardian"],
      });
      expect(types.names).toContainEqual({ name: "task.escalated", type: "review.requested" });
    });
  });

  describe("followed", () => {
    test("come as they are committed by anybody, each once, to each who follows", async () => {
      await using p = await platform();
      const { context, place } = p;
      await emitAlone(context, completed("before"));
      const stop = new AbortController();
      const follow = async (options: object, ready: () => void) => {
        const seen: HiveEvent[] = [];
        const events = tailEvents(context, { ...options, abort: stop.signal });
        const first = events.next();
        ready();
        for (let next = await first; !next.done; next = await events.next()) seen.push(next.value);
        return seen.map(({ subject }) => subject);
      };
      const all = follow({ after: 0, limit: 5 }, () => undefined);
      const failed = follow({ after: 0, types: ["*.failed"], limit: 2 }, () => undefined);
      const insert = (type: string, subject: string) =>
        place.execute(
          `INSERT INTO hive_events (event_type, source_agent, subject) VALUES ('${type}', 'hive-coder', '${subject}')`,
        );
      insert("task.failed", "one");
      await emitAlone(context, completed("two"));
      insert("no type", "invalid");
      insert("task.created", "three");
      insert("task.failed", "four");
      expect(await all).toEqual(["before", "one", "two", "three", "four"]);
      expect(await failed).toEqual(["one", "four"]);
      expect(place.select("SELECT seq FROM hive_dead_letters").map(({ seq }) => Number(seq))).toEqual([4]);
      const later = follow({}, () => stop.abort());
      expect(await later).toEqual([]);
    });

    test("nothing is asked for while nothing matches", async () => {
      let sleeps = 0;
      const clock = hastyClock();
      const counting = {
        ...clock,
        sleep: (ms: number, abort?: AbortSignal) => {
          sleeps += 1;
          if (sleeps > 200) stop.abort();
          return clock.sleep(ms, abort);
        },
      };
      const stop = new AbortController();
      await using p = await platform(["hive-coder"], { clock: counting });
      await emitAlone(p.context, [completed("a"), completed("b")]);
      let reads = 0;
      const { store } = p.context;
      const snapshot = store.snapshot.bind(store);
      store.snapshot = (work) => {
        reads += 1;
        return snapshot(work);
      };
      sleeps = 0;
      const begun = clock.now();
      for await (const _ of tailEvents(p.context, { after: 0, types: ["plan.*"], abort: stop.signal }))
        throw new Error();
      // Besides the looks after a hint, one every ten seconds at most.
      expect(reads).toBeLessThan(25 + (clock.now() - begun) / 10_000);
    });
  });

  test("numbers only grow, without gaps, whoever commits or gives up", async () => {
    await using p = await platform();
    const { context, place } = p;
    let expected = 0;
    let seen: readonly string[] = [];
    const step = fc.record({
      events: fc.integer({ min: 0, max: 4 }),
      commits: fc.boolean(),
      by: fc.constantFrom("library", "sql", "writer"),
      read: fc.boolean(),
    });
    await using writer = openWriter<HiveTask>(context, "hive-coder");
    const once = async ({
      events,
      commits,
      by,
      read,
    }: {
      events: number;
      commits: boolean;
      by: string;
      read: boolean;
    }) => {
      const some = Array.from({ length: events }, (_, i) => completed(`${i}`));
      if (by === "sql") {
        const rows = some.map(({ subject }) => `('task.started', 'hive-coder', '${subject}')`).join(", ");
        const insert = rows && `INSERT INTO hive_events (event_type, source_agent, subject) VALUES ${rows};`;
        place.execute(`BEGIN; ${insert} ${commits ? "COMMIT" : "ROLLBACK"};`);
      } else {
        const work = async (emitSome: () => Promise<unknown>) => {
          await emitSome();
          if (!commits) throw new Error("given up");
        };
        const done =
          by === "library"
            ? context.store.transaction("t", (tx) => work(() => emit(tx, context, some)))
            : writer.transaction((tx) => work(() => tx.emit(some)));
        await done.catch((error: Error) => expect(error.message).toBe("given up"));
      }
      if (commits) expected += events;
      if (!read) return;
      const { events: all } = await listEvents(context, { limit: 1_000 });
      expect(all.map(({ seq }) => seq)).toEqual(Array.from({ length: expected }, (_, i) => i + 1));
      // What has a number keeps it.
      expect(all.slice(0, seen.length).map(({ id }) => id)).toEqual(seen);
      seen = all.map(({ id }) => id);
    };
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 6 }), async (steps) => {
        for (const one of steps) await once(one);
        await once({ events: 1, commits: true, by: "library", read: true });
      }),
      { numRuns: 12, endOnFailure: true },
    );
  });

  test("going down past them asks before it drops any", async () => {
    await using p = await platform();
    const { context, place } = p;
    await emitAlone(context, completed("a"));
    turn(place, "hive-coder", "off");
    const refused = { code: "GUARD_REFUSED", message: expect.stringMatching(/hive_events holds 1 event /) };
    await expect(migrateDown(context, { to: OWN[2] })).rejects.toMatchObject(refused);
    await expect(migrateDown(context, { to: OWN[2], dryRun: true })).rejects.toMatchObject(refused);
    expect(await subjects(context)).toEqual([[1, "a"]]);
    const down = await migrateDown(context, { to: OWN[2], force: true, reason: "a test" });
    expect(down.reverted.at(-1)?.name).toBe(OWN[2]);
    await expect(listEvents(context)).rejects.toMatchObject({ code: "NOT_MIGRATED" });
    await migrateUp(context);
    expect(await subjects(context)).toEqual([]);
    expect((await migrateDown(context, { to: LEDGER })).reverted.at(-1)?.name).toBe(LEDGER);
  });

  test.skipIf(backend.name !== "sqlite")(
    "a real Python agent reads its flag and tells what it did with it",
    async () => {
      await using p = await platform([]);
      const { context, place } = p;
      const file = join(temporaryDirectory(), "agent.py");
      const [, program = ""] = readFileSync("docs/events.md", "utf8").match(/^```python\n(.*?)^```/ms) ?? [];
      writeFileSync(file, program);
      const run = (task: string) => spawnSync("python3", [file, place.url, task], { encoding: "utf8" });
      place.execute("INSERT INTO tasks (id, title, task_type) VALUES ('t1', 'x', 'backend'), ('t2', 'x', 'backend')");
      expect(run("t1")).toMatchObject({ stdout: "off legacy\n", stderr: "", status: 0 });
      turn(place, "hive-coder", "on");
      expect(run("t1")).toMatchObject({ stdout: "on legacy\n", stderr: "", status: 0 });
      // It fails after it has told: neither is there.
      place.execute("CREATE TRIGGER refuse AFTER INSERT ON hive_events BEGIN SELECT RAISE(ABORT, 'no'); END");
      expect(run("t2")).toMatchObject({ stderr: expect.stringMatching(/IntegrityError: no/), status: 1 });
      expect(place.select("SELECT status FROM tasks WHERE id = 't2'")).toEqual([{ status: "queued" }]);
      place.execute("DROP TRIGGER refuse");
      expect(run("t2")).toMatchObject({ stdout: "on legacy\n", stderr: "", status: 0 });
      expect(await listEvents(context)).toMatchObject({
        events: [
          { seq: 1, subject: "t1", correlationId: "plan-9", payload: { task_id: "t1", status: "done", note: "ü" } },
          { seq: 2, subject: "t2" },
        ],
        invalid: [],
      });
    },
  );

  test.skipIf(backend.name !== "postgres")(
    "a role with the grants of the docs can do no more than it has to",
    async () => {
      await using p = await platform(["hive-coder"]);
      const { context, place } = p;
      const role = `agent_${process.pid}_${Math.random().toString(36).slice(2)}`;
      place.execute(`CREATE ROLE ${role}; GRANT USAGE ON SCHEMA hive TO ${role};
      GRANT INSERT ON hive.hive_events TO ${role}; GRANT SELECT ON hive.hive_flag_values TO ${role}`);
      try {
        const as = (text: string) => place.execute(`SET ROLE ${role}; ${text}; RESET ROLE`);
        as(
          "INSERT INTO hive.hive_events (event_type, source_agent, subject) VALUES ('task.started', 'hive-coder', 's')",
        );
        as("DO $$ BEGIN ASSERT (SELECT count(*) = 28 FROM hive.hive_flag_values); END $$");
        expect(() => as("DELETE FROM hive.hive_events")).toThrow(/permission denied/);
        expect(() => as("SELECT * FROM hive.hive_flags")).toThrow(/permission denied/);
        expect(await subjects(context)).toEqual([[1, "s"]]);
      } finally {
        place.execute(`RESET ROLE; DROP OWNED BY ${role}; DROP ROLE ${role}`);
      }
    },
  );
});
