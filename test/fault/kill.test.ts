import { execFile } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import type { Context } from "../../src/context.ts";
import { verifyAudit } from "../../src/rollout/audit.ts";
import { rollback } from "../../src/rollout/rollback.ts";
import { migrateDown, migrateUp } from "../../src/schema/migrator.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { adjustCapture, NO_SIDES } from "../../src/sync/capture.ts";
import { check } from "../../src/sync/check.ts";
import { discardQuarantine, retryQuarantine } from "../../src/sync/quarantine.ts";
import { temporaryDirectory } from "../support/context.ts";
import { contentHashes, isOurs, legacySide, schemaOf } from "../support/fingerprint.ts";
import {
  execute,
  fillSample,
  hastyClock,
  integrity,
  place,
  platformContext,
  select,
} from "../support/legacy-platform.ts";

/**
 * Commands that are killed (SIGKILL) at points which the engine names, again and again; after each the file is whole,
 * and running the command again ends where one that was never disturbed ends: nothing lost, nothing doubled.
 */

const DIST = resolve(process.env.HIVE_TEST_DIST ?? fileURLToPath(new URL("../../dist", import.meta.url)));
const CHILD = fileURLToPath(new URL("./child.mjs", import.meta.url));
const SEED = Number(process.env.HIVE_FAULT_SEED ?? Date.now() % 1_000_000);
/** The other half: live-kill.test.ts. */
const KILLS = Math.ceil(Number(process.env.HIVE_FAULT_KILLS ?? 200) / 2);
const AT_ONCE = 2;

const ACTIONS = {
  up: (context: Context) => migrateUp(context),
  backfill: (context: Context) => backfill(context),
  repair: (context: Context) => check(context, { repair: true }),
  retry: (context: Context) => retryQuarantine(context),
  discard: (context: Context) => discardQuarantine(context),
  rollback: (context: Context) => rollback(context),
  down: (context: Context) => migrateDown(context, { to: "0", force: true, reason: "test" }),
};
type Action = keyof typeof ACTIONS;
const ORDER = Object.keys(ACTIONS) as Action[];

/** Mulberry32: the same kills for the same seed. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The points that the command passed, or the one at which it was killed. */
function child(path: string, action: Action, killAt = 0): Promise<string[] | string> {
  return new Promise((done, fail) => {
    execFile(process.execPath, [CHILD, DIST, JSON.stringify({ path, action, killAt })], (error, stdout, stderr) => {
      if (error?.signal === "SIGKILL") done(JSON.parse(stdout));
      else if (error || stderr) fail(new Error(`${action}: ${error?.message ?? ""}\n${stderr}\n${stdout}`));
      else done(JSON.parse(stdout));
    });
  });
}

/** Everything that has to be the same in the end; times, counts of attempts and the like are not. */
const LEDGER: Readonly<Record<string, string>> = {
  hive_flags: "agent, flag, value",
  hive_quarantine: "mapping, key, agent, direction, reason, state",
  hive_backfill: "agent, mapping, state",
  hive_checks: "agent, compared, identical, missing, extra, different, quarantined",
  hive_kept: "mapping, key, agent, side, reason, aggregate",
  hive_agents: "agent, agent_id, agent_type, capabilities, emits",
  hive_event_types: "event_type",
  hive_migrations: "name, set_name, checksum, adopted, seq",
};

function stateOf(path: string): unknown {
  const schema = schemaOf(path, isOurs);
  const parts = Object.entries(LEDGER).filter(([table]) => schema[`table ${table}`] !== undefined);
  const rows = parts.map(([table, columns]) => {
    return `SELECT '${table}' AS part, json_array(${columns}) AS row FROM ${table}`;
  });
  return {
    legacy: legacySide(path),
    schema,
    unified: contentHashes(path, (table) => table.startsWith("unified_")),
    ledger: rows.length > 0 ? select(path, `${rows.join(" UNION ALL ")} ORDER BY part, row`) : [],
  };
}

/** Databases as they are just before each command. */
async function prepare(folder: string): Promise<Record<Action, string>> {
  mkdirSync(folder, { recursive: true });
  const path = join(folder, "journey.db");
  fillSample(path, { tasks: 60, dirt: true });
  // A payload of a megabyte takes longer than all the others, each time, and is moved like any of them.
  execute(path, "DELETE FROM tasks WHERE id = 'edge-json-huge'");
  const starts: Partial<Record<Action, string>> = {};
  const save = (action: Action) => {
    execute(path, "PRAGMA wal_checkpoint(TRUNCATE)");
    const copy = join(folder, `${action}.db`);
    copyFileSync(path, copy);
    starts[action] = copy;
  };
  save("up");
  await using context = platformContext(path, { clock: hastyClock() });
  await migrateUp(context);
  const agents = context.mapping.agents.map((agent) => agent.name);
  place(path, agents, "dualwrite");
  // The key of two rows of the queue is taken by a task; a third of them is mended before the retry.
  execute(
    path,
    "INSERT INTO planning_queue (id, task_description) SELECT id, 'taken' FROM tasks WHERE id LIKE 't%' LIMIT 3",
  );
  execute(
    path,
    "INSERT INTO planning_queue (id, task_description) SELECT id, 'taken' FROM tasks WHERE id NOTNULL LIMIT 40",
  );
  save("backfill");
  await backfill(context);

  const intact = join(folder, "intact.db");
  execute(path, `VACUUM INTO '${intact}'`);
  execute(
    path,
    `UPDATE unified_tasks SET status = 'rework_needed', priority = 9 WHERE rowid % 5 = 0;
     UPDATE unified_tasks SET input_data = '{}' WHERE rowid % 7 = 0;
     DELETE FROM unified_tasks WHERE rowid % 6 = 1;
     UPDATE unified_workflow_tasks SET total_phases = 99 WHERE rowid % 3 = 0;
     DELETE FROM unified_deployment_tasks WHERE rowid % 2 = 0;
     UPDATE tasks SET status = 'failed' WHERE rowid % 9 = 0;
     DELETE FROM tasks WHERE rowid % 11 = 0;
     INSERT INTO unified_tasks SELECT 'extra-' || rowid, correlation_id, task_type, status, agent_type, priority, input_data,
       output_data, NULL, created_at, updated_at, started_at, completed_at, error_message, retry_count, max_retries
       FROM unified_tasks WHERE rowid % 8 = 0;
     INSERT INTO unified_review_tasks (task_id, correlation_id, code_path, created_at) VALUES ('orphan', 'x', '', '');`,
  );
  // A repair refuses where triggers are missing: from here on they are there, as if nothing had gone unnoted.
  await context.store.transaction("capture", (tx) => adjustCapture(tx, context, NO_SIDES));
  save("repair");

  await restore(path, intact);
  execute(
    path,
    "DELETE FROM tasks WHERE id IN (SELECT id FROM planning_queue WHERE task_description = 'taken' AND rowid % 3 > 0)",
  );
  save("retry");
  save("discard");

  await restore(path, intact);
  place(path, agents, "complete");
  execute(
    path,
    `UPDATE unified_tasks SET status = 'completed', updated_at = '2026-11-23T10:00:00.000Z' WHERE rowid % 3 = 0;
     UPDATE unified_tasks SET priority = 2, error_message = 'late' WHERE rowid % 4 = 0;
     UPDATE unified_review_tasks SET review_score = 77;
     DELETE FROM tasks WHERE rowid % 13 = 0;
     INSERT INTO unified_tasks SELECT 'new-' || rowid, correlation_id, task_type, status, agent_type, priority, input_data,
       NULL, NULL, created_at, updated_at, NULL, NULL, NULL, NULL, NULL FROM unified_tasks WHERE rowid % 6 = 0;`,
  );
  save("rollback");
  await rollback(context);
  save("down");
  return starts as Record<Action, string>;
}

/** Row by row, so that the open connections of the journey go on. */
async function restore(path: string, from: string): Promise<void> {
  const tables = select(from, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'");
  const copy = tables.map(
    ({ name }) => `DELETE FROM main.${name}; INSERT INTO main.${name} SELECT * FROM old.${name};`,
  );
  execute(path, `ATTACH '${from}' AS old; BEGIN; ${copy.join("\n")} COMMIT; DETACH old;`);
}

describe(`killed with SIGKILL (HIVE_FAULT_SEED=${SEED})`, () => {
  test("the built hive is there", () => {
    expect(existsSync(join(DIST, "index.js")), `${DIST} is not built: npm run build`).toBe(true);
  });

  test(`${KILLS} times at any named point, every command ends as if nothing had happened`, {
    timeout: 300_000,
  }, async () => {
    const folder = temporaryDirectory();
    const starts = await prepare(folder);
    const random = randomFrom(SEED);
    let copies = 0;
    const copyOf = (action: Action) => {
      copies += 1;
      const path = join(folder, `${action}-${copies}.db`);
      copyFileSync(starts[action], path);
      return path;
    };

    const references = {} as Record<Action, { points: string[]; state: unknown }>;
    for (const action of ORDER) {
      const path = copyOf(action);
      const points = await child(path, action);
      references[action] = { points: [...points], state: stateOf(path) };
    }
    const counts = ORDER.map((action) => `${action} ${references[action].points.length}`);
    // Each command is killed at its first and its last point, then at random ones, more often where there are more: a
    // rollback has ten times as many as the others, of the same few kinds.
    const kills: { action: Action; at: number }[] = ORDER.flatMap((action) => [
      { action, at: 1 },
      { action, at: references[action].points.length },
    ]);
    const weights = ORDER.flatMap((action) =>
      new Array<Action>(Math.ceil(Math.sqrt(references[action].points.length))).fill(action),
    );
    while (kills.length < KILLS) {
      const action = weights[Math.floor(random() * weights.length)] ?? "backfill";
      kills.push({ action, at: 1 + Math.floor(random() * references[action].points.length) });
    }

    const perished: string[] = [];
    const one = async ({ action, at }: { action: Action; at: number }) => {
      const { state } = references[action];
      let path = copyOf(action);
      let point = await child(path, action, at);
      // How many transactions there are depends on how quick the machine is just now: this run had fewer.
      for (let sooner = at - 1; typeof point !== "string"; sooner = Math.min(point.length, sooner - 1)) {
        path = copyOf(action);
        point = await child(path, action, Math.max(1, sooner));
      }
      const what = `${action}, killed at ${point} (${at})`;
      perished.push(point);
      expect(integrity(path), what).toBe("ok");
      {
        await using context = platformContext(path, { settings: { lockTimeoutSeconds: 0 } });
        await ACTIONS[action](context);
        if (action !== "down") expect(await verifyAudit(context.store.read), what).toMatchObject({ ok: true });
      }
      expect(stateOf(path), what).toEqual(state);
      for (const suffix of ["", "-wal", "-shm"]) rmSync(path + suffix, { force: true });
    };
    const queue = [...kills];
    const work = async () => {
      for (let kill = queue.shift(); kill; kill = queue.shift()) await one(kill);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    expect(perished).toHaveLength(kills.length);
    // The points are where they are meant to be: before anything, in the middle, before and after each commit.
    const kinds = new Set(perished.map((point) => point.slice(point.lastIndexOf(":"))));
    expect([...kinds].sort(), counts.join(", ")).toEqual(
      expect.arrayContaining([":before-commit", ":begun", ":committed", ":judged", ":moved"]),
    );
  });
});
