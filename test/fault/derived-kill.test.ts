import { describe, expect, test } from "vitest";
import { listEvents } from "../../src/events/listing.ts";
import { changeFlags } from "../../src/flags/flags.ts";
import type { Stage } from "../../src/flags/stages.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { check } from "../../src/sync/check.ts";
import { sync } from "../../src/sync/sync.ts";
import { BACKENDS } from "../support/backends.ts";
import { advance, platformContext } from "../support/legacy-platform.ts";
import { DIST, isBuilt, startHive } from "../support/live.ts";
import { randomFrom } from "../support/postgres-agents.ts";

/**
 * Sync with `agent-adapters` on, killed (SIGKILL) at points which the engine names while tasks move on; and the command
 * that switches it on. Each write moves a task to a phase that it never had, so that every one is accounted for: by the
 * event that tells it, or by the number that an event skipped.
 */

const SEED = Number(process.env.HIVE_FAULT_SEED ?? Date.now() % 1_000_000);
const MORE = Number(process.env.HIVE_FAULT_KILLS ?? 0);
const KILLS = { sqlite: Math.max(8, MORE), postgres: Math.max(4, MORE / 4) };
const TASKS = 5;
const ON = { changes: [{ agent: "hive-coder", flag: "agent-adapters" as const, value: "on" }] };

describe.each(BACKENDS)(`derived events on $name, killed (HIVE_FAULT_SEED=${SEED})`, ({ name, create }) => {
  test.each<Stage>(["off", "dualwrite", "live"])(
    "exactly once, at the stage %s",
    { timeout: 60_000 + MORE * 5_000 },
    async (stage) => {
      expect(isBuilt(), `${DIST} is not built: npm run build`).toBe(true);
      const random = randomFrom(SEED + stage.length);
      const before = Array.from({ length: 40 }, (_, i) => `('before-${i}', 't', 'backend', 'queued')`);
      const place = await create({
        legacy: "text",
        rows: `INSERT INTO tasks (id, title, task_type, status) VALUES ${before.join(", ")}`,
      });
      await using context = platformContext(place.url, { settings: { lockBudget: 1 } });
      await migrateUp(context);
      if (stage !== "off") {
        await advance(context, ["hive-coder"], stage, async (next) => {
          if (next === "shadow") await backfill(context);
          if (next === "live") await check(context);
        });
      }
      const most = { sync: 8, flags: 16 };
      const kill = async (action: "sync" | "flags", beside: () => void) => {
        // As many points as a run was last seen to pass.
        const killAt = 1 + Math.floor(random() * most[action]);
        const child = startHive({ path: place.url, action, options: action === "flags" ? ON : {}, killAt, budget: 1 });
        beside();
        const { event, point, points } = await child.next("killed", "done");
        if (event === "done") most[action] = Number(points);
        await child.exited;
        return event === "killed" ? String(point) : "";
      };

      // The first look at all that is there, killed a few times: nothing of it is told.
      for (let i = 0; i < KILLS[name] / 4; i++) await kill("flags", () => undefined);
      await changeFlags(context, ON.changes);
      await sync(context);
      expect((await listEvents(context, { limit: 1_000 })).events).toEqual([]);
      expect(place.select("SELECT count(*) AS n FROM hive_event_states WHERE source <> ''")).toEqual([{ n: 40 }]);

      const writes = new Array<number>(TASKS).fill(0);
      const write = () => {
        const task = Math.floor(random() * TASKS);
        const done = writes[task] ?? 0;
        place.execute(
          done === 0
            ? `INSERT INTO tasks (id, title, task_type, status, current_phase) VALUES ('t-${task}', 't', 'backend', 'queued', 'p0')`
            : `UPDATE tasks SET current_phase = 'p${done}' WHERE id = 't-${task}'`,
        );
        writes[task] = done + 1;
      };
      const perished: string[] = [];
      for (let i = 0; i < KILLS[name]; i++) {
        for (let n = 0; n < 6; n++) write();
        perished.push(
          await kill("sync", () => {
            for (let n = 0; n < 4; n++) write();
          }),
        );
        if (i % 5 === 4) await sync(context);
      }
      await sync(context);
      for (let task = 0; task < TASKS; task++) {
        const { events, invalid } = await listEvents(context, { subject: `t-${task}`, limit: 1_000 });
        expect(invalid).toEqual([]);
        const total = writes[task] ?? 0;
        if (total === 0) continue;
        expect(events[0]?.type).toBe("task.created");
        let at = -1;
        for (const { type, payload, metadata } of events) {
          const phase = Number(String(payload.phase).slice(1));
          const skipped = metadata?.coalesced === true ? Number(metadata.skipped) : 0;
          expect(type).toBe(at < 0 ? "task.created" : "task.progress");
          // This one, and those that it skipped: none is missing, none is told twice.
          expect(phase).toBe(at + 1 + skipped);
          at = phase;
        }
        expect(at).toBe(total - 1);
      }
      expect(perished.filter((point) => point !== "").length).toBeGreaterThan(KILLS[name] / 3);
    },
  );
});
