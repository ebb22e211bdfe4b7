import { execFile } from "node:child_process";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import type { Stage } from "../../src/flags/stages.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { renewCapture } from "../../src/sync/capture.ts";
import { check } from "../../src/sync/check.ts";
import { sync } from "../../src/sync/sync.ts";
import { BACKENDS, type Place } from "../support/backends.ts";
import { integrity, place, platformContext } from "../support/legacy-platform.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const DIST = process.env.HIVE_TEST_DIST ?? join(root, "dist");
const CHILD = fileURLToPath(new URL("writer-child.mjs", import.meta.url));

interface Ended {
  signal: string | null;
  stderr: string;
  /** The last status that was acknowledged for each key; null for one that was deleted. */
  acknowledged: Map<string, string | null>;
  /** Of a race: what became of each attempt to make a key, by its code. */
  told: readonly Told[];
}

interface Told {
  key: string;
  status: string | null;
}

function runChild(request: {
  path: string;
  name: string;
  count: number;
  killAt?: number;
  action?: "race";
}): Promise<Ended> {
  return new Promise((resolve) => {
    execFile(process.execPath, [CHILD, DIST, JSON.stringify(request)], (error, stdout, stderr) => {
      const lines = stdout.split("\n").filter((line) => line !== "");
      const told = lines.map((line): Told => JSON.parse(line));
      resolve({
        signal: error?.signal ?? (error ? `exit ${error.code}` : null),
        stderr,
        told,
        acknowledged: new Map(told.map(({ key, status }) => [key, status])),
      });
    });
  });
}

describe.each(BACKENDS)("on $name", (backend) => {
  async function prepared(stage: Stage): Promise<Place> {
    const made = await backend.create({ legacy: "text" });
    const path = made.url;
    await using context = platformContext(path);
    await migrateUp(context);
    place(
      path,
      context.mapping.agents.map(({ name }) => name),
      stage,
    );
    await renewCapture(context);
    return made;
  }

  /** Both sides of what was killed in the middle are as before it or after it, and nothing waits. */
  async function both({ url, select }: Place, waiting = false): Promise<void> {
    await using context = platformContext(url);
    if (backend.name === "sqlite") expect(select("SELECT * FROM hive_applying")).toEqual([]);
    if (!waiting) expect(select("SELECT * FROM hive_changes WHERE side IS NOT NULL")).toEqual([]);
    await sync(context);
    expect(await check(context)).toMatchObject({ consistent: true, drift: [], inFlight: 0, quarantined: 0 });
    expect(select("SELECT id FROM tasks ORDER BY id")).toEqual(select("SELECT id FROM unified_tasks ORDER BY id"));
    if (backend.name === "sqlite") expect(integrity(url)).toBe("ok");
  }

  function kept({ select }: Place, { acknowledged }: Ended): void {
    const stored = new Map(select("SELECT id, status FROM unified_tasks").map((row) => [row.id, row.status]));
    for (const [key, status] of acknowledged) {
      const now = stored.get(key);
      // The one write after the last that was acknowledged may have come through.
      const later = [...acknowledged.keys()].at(-1) === key;
      if (status === null) expect(now, key).toBeUndefined();
      else if (!later) expect(now, key).toBe(status);
      else expect([status, "running", undefined], key).toContain(now);
    }
  }

  test.each(["dualwrite", "live"] as const)(
    "at %s: killed at any point, both sides have it or neither",
    async (stage) => {
      // The points of one create, one update and one delete, and into the next create.
      const points = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 27, 28, 29, 30];
      // To make a database on a server takes longer: there, every other one.
      for (const killAt of backend.name === "postgres" ? points.filter((_, i) => i % 2 === 0) : points) {
        const made = await prepared(stage);
        const ended = await runChild({ path: made.url, name: "k", count: 4, killAt });
        expect([killAt, ended.signal, ended.stderr]).toEqual([killAt, "SIGKILL", ""]);
        kept(made, ended);
        await both(made);
      }
    },
  );

  test("two writers in two processes, on one database: nothing is lost", async () => {
    const made = await prepared("shadow");
    const ended = await Promise.all(["a", "b"].map((name) => runChild({ path: made.url, name, count: 30 })));
    expect(ended.map(({ signal, stderr }) => [signal, stderr])).toEqual([
      [null, ""],
      [null, ""],
    ]);
    for (const one of ended) kept(made, one);
    expect(made.select("SELECT id FROM tasks")).toHaveLength(40);
    await both(made);
  });

  // Plain SQL beside them, on the side that leads: it changes another column, with and without a new time.
  test.each([
    ["shadow", "tasks"],
    ["live", "unified_tasks"],
    ["live", "tasks"],
  ] as const)(
    "at %s: three processes make the same keys and count up one record, while an agent writes %s",
    async (stage, table) => {
      const made = await prepared(stage);
      const names = ["a", "b", "c"];
      const count = 6;
      // Of tables whose triggers are new, every key counts as changed on both sides.
      await both(made, true);
      made.execute("INSERT INTO tasks (id, title, task_type, retry_count) VALUES ('counter', 'count', 'backend', 0)");
      await both(made, true);
      const running = names.map((name) => runChild({ path: made.url, name, count, action: "race" }));
      let over = false;
      const ended = Promise.all(running).finally(() => {
        over = true;
      });
      let added = 0;
      for (; !over; added++) {
        const time = added % 5 > 0 ? "" : `, updated_at = '2026-01-01T00:00:${String(10 + (added % 50))}.000Z'`;
        made.execute(`UPDATE ${table} SET retry_count = retry_count + 1${time} WHERE id = 'counter'`);
        await delay(250);
      }
      const told = (await ended).flatMap((one) => {
        expect([one.signal, one.stderr]).toEqual([null, ""]);
        return one.told;
      });
      for (let i = 0; i < count; i++) {
        const codes = told.filter(({ key }) => key === `race-${i}`).map(({ status }) => status);
        expect(codes.sort()).toEqual(["RECORD_EXISTS", "RECORD_EXISTS", "made"]);
      }
      await both(made, true);
      expect(made.select("SELECT failure_reason, retry_count FROM tasks WHERE id = 'counter'")).toEqual([
        { failure_reason: String(names.length * count), retry_count: added },
      ]);
      expect(made.select("SELECT key FROM hive_kept")).toEqual([]);
    },
    180_000,
  );
});
