import { spawn } from "node:child_process";
import { statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import Database from "better-sqlite3";
import { describe, expect, onTestFinished, test } from "vitest";
import type { Stage } from "../../src/flags/stages.ts";
import { verifyAudit } from "../../src/rollout/audit.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { check } from "../../src/sync/check.ts";
import { listKept } from "../../src/sync/kept.ts";
import { listQuarantine } from "../../src/sync/quarantine.ts";
import { sync } from "../../src/sync/sync.ts";
import { BACKENDS } from "../support/backends.ts";
import { temporaryDirectory } from "../support/context.ts";
import { tableHashes } from "../support/fingerprint.ts";
import { execute, platformContext, select } from "../support/legacy-platform.ts";
import {
  AGENTS,
  DIST,
  expectClean,
  expectKept,
  expectProjected,
  isBuilt,
  type LiveOptions,
  platformAt as platformOn,
  startAgents,
  startHive,
} from "../support/live.ts";

/** What sync carries over, in one process and among several: with real databases, agents and signals. */

const one = (path: string, text: string) => select(path, text)[0] ?? {};
const count = (path: string, text: string) => Number(one(path, `SELECT count(*) AS n FROM ${text}`).n);
const insertTask = (id: string, type = "backend", text = "new") =>
  `INSERT INTO tasks (id, title, task_type) VALUES ('${id}', '${text}', '${type}')`;
const waiting = (path: string) => count(path, "hive_changes WHERE side NOTNULL");

/** Waits for the fact, however long the machine takes. */
const until = (fact: () => unknown) => expect.poll(fact, { timeout: 30_000, interval: 20 });

test("the built hive is there", () => {
  expect(isBuilt(), `${DIST} is not built: npm run build`).toBe(true);
});

describe.each(BACKENDS)("on $name", (backend) => {
  const { create, dialect } = backend;
  const onSqlite = backend.name === "sqlite";

  const platformAt = (stage: Stage, options: LiveOptions = {}) => platformOn(stage, { backend, ...options });
  const title = (path: string, id: string) =>
    one(path, `SELECT ${dialect.at("input_data", "title")} AS title FROM unified_tasks WHERE id = '${id}'`).title;
  /** Of rows of unified_tasks. */
  const setTitle = (text: string, where: string) =>
    `UPDATE unified_tasks SET input_data = ${dialect.put("input_data", "title", text)} WHERE ${where}`;

  describe("what was captured", () => {
    test("is carried over: rows that came, changed, moved and went", async () => {
      const { path, context } = await platformAt("dualwrite");
      await using _ = context;
      const [first, second, third] = select(path, "SELECT id FROM tasks ORDER BY id LIMIT 3").map(({ id }) =>
        String(id),
      );
      execute(
        path,
        `${insertTask("n1")}; ${insertTask("n2", "deployment")};
       UPDATE tasks SET title = 'changed' WHERE id = '${first}';
       UPDATE tasks SET id = 'moved' WHERE id = '${second}';
       DELETE FROM runs WHERE task_id = '${third}'; DELETE FROM tasks WHERE id = '${third}';
       INSERT INTO planning_queue (id, task_description) VALUES ('p-new', 'plan');`,
      );
      const result = await sync(context);
      expect(result).toMatchObject({ applied: 7, conflicts: 0, quarantined: 0, remaining: 0, renewed: [] });
      expect(title(path, "n1")).toBe("new");
      expect(title(path, first ?? "")).toBe("changed");
      expect(count(path, "unified_deployment_tasks WHERE task_id = 'n2'")).toBe(1);
      for (const gone of [second, third]) expect(count(path, `unified_tasks WHERE id = '${gone}'`), gone).toBe(0);
      await expectClean(context);
      await expectProjected(path);
      expect(await sync(context)).toMatchObject({ applied: 0, remaining: 0 });
    });

    test("costs one projection for each aggregate, however often it changed", async () => {
      const { path, context } = await platformAt("dualwrite");
      await using _ = context;
      execute(path, insertTask("often"));
      await sync(context);
      for (let i = 0; i < 100; i++) execute(path, `UPDATE tasks SET title = 'v${i}' WHERE id = 'often'`);
      expect(waiting(path)).toBe(100);
      expect(await sync(context, { dryRun: true })).toMatchObject({ remaining: 100, dryRun: true });
      expect(await sync(context)).toMatchObject({ applied: 1, remaining: 0 });
      expect(title(path, "often")).toBe("v99");
    });

    test("never goes back to an older version while somebody keeps writing", async () => {
      let version = 0;
      const seen: number[] = [];
      let path = "";
      const write = () => {
        version += 1;
        execute(path, `UPDATE tasks SET title = '${version}' WHERE id = 'busy'`);
      };
      // Between the look at it and the write, and right after the commit: each time a newer one is there.
      const signal = (point: string) => {
        if (path === "" || version >= 30) return;
        if (point === "sync:judged") write();
        if (point === "tx:sync:committed") {
          seen.push(Number(title(path, "busy")));
          write();
        }
      };
      const made = await platformAt("dualwrite", { signal });
      await using context = made.context;
      execute(made.path, insertTask("busy", "backend", "0"));
      await sync(context);
      path = made.path;
      write();
      while ((await sync(context)).remaining > 0 || version < 30);
      expect(title(path, "busy")).toBe("30");
      expect(seen).toEqual([...seen].sort((a, b) => a - b));
      await expectClean(context);
    });

    test("is gone from the log afterwards, and no number is given twice", async () => {
      const { path, context } = await platformAt("dualwrite");
      await using _ = context;
      const given = new Set<number>();
      for (let round = 0; round < 6; round++) {
        const last = Math.max(0, ...given);
        for (let i = 0; i <= round; i++) execute(path, insertTask(`r${round}-${i}`));
        const seqs = select(path, "SELECT seq FROM hive_changes WHERE side NOTNULL").map(({ seq }) => Number(seq));
        expect(seqs).toHaveLength(round + 1);
        expect(Math.min(...seqs)).toBeGreaterThan(last);
        for (const seq of seqs) given.add(seq);
        await sync(context);
        // The last row stays where the next number would be given again without it.
        expect(count(path, "hive_changes")).toBe(onSqlite ? 1 : 0);
      }
    });

    test("of an agent at off is left alone", async () => {
      const { path, context } = await platformAt("dualwrite", { agents: ["ai-deployer"] });
      await using _ = context;
      execute(
        path,
        `${insertTask("mine", "deployment")}; ${insertTask("not-mine")}; UPDATE tasks SET title = 'x';
       DELETE FROM tasks WHERE task_type = 'backend' AND id <> 'not-mine'`,
      );
      await sync(context);
      expect(waiting(path)).toBe(0);
      expect(select(path, "SELECT id FROM unified_tasks WHERE id IN ('mine', 'not-mine')")).toEqual([{ id: "mine" }]);
      const seen = `SELECT DISTINCT agent_type FROM unified_tasks WHERE ${dialect.at("input_data", "title")} = 'x'`;
      expect(select(path, seen)).toEqual([{ agent_type: "ai-deployer" }]);
      expect(count(path, "unified_tasks WHERE agent_type = 'hive-coder'")).toBeGreaterThan(0);
    });

    test("that the unified side refuses goes to quarantine, one by one, and comes back when it can", async () => {
      const { path, context } = await platformAt("dualwrite");
      await using _ = context;
      execute(
        path,
        `${dialect.refuse("unified_tasks", "INSERT", "NEW.id LIKE 'bad%'", "not here")};
       ${Array.from({ length: 12 }, (_, i) => insertTask(i % 4 === 1 ? `bad${i}` : `good${i}`)).join(";")}`,
      );
      expect(await sync(context)).toMatchObject({ applied: 9, quarantined: 3, remaining: 0 });
      expect(count(path, "unified_tasks WHERE id LIKE 'good%'")).toBe(9);
      const { entries } = await listQuarantine(context);
      expect(entries.map(({ key }) => key).sort()).toEqual(["bad1", "bad5", "bad9"]);
      expect(entries[0]?.reason).toContain("not here");
      expect(await check(context)).toMatchObject({ consistent: true, quarantined: 3, inFlight: 0 });
      execute(path, `${dialect.accept("unified_tasks")}; UPDATE tasks SET title = 'again' WHERE id = 'bad1'`);
      expect(await sync(context)).toMatchObject({ applied: 1, quarantined: 0 });
      expect((await listQuarantine(context)).entries.map(({ key }) => key).sort()).toEqual(["bad5", "bad9"]);
    });
  });

  describe("where the unified side leads", () => {
    test("its changes come down, and deletes go in both directions", async () => {
      const { path, context } = await platformAt("live");
      await using _ = context;
      execute(path, [insertTask("a"), insertTask("b"), insertTask("c", "review")].join(";"));
      await sync(context);
      execute(
        path,
        `${setTitle("from above", "id = 'a'")};
       DELETE FROM unified_review_tasks WHERE task_id = 'c'; DELETE FROM unified_tasks WHERE id = 'c';
       DELETE FROM tasks WHERE id = 'b';`,
      );
      expect(await sync(context)).toMatchObject({ applied: 3, conflicts: 0, quarantined: 0, remaining: 0 });
      expect(one(path, "SELECT title FROM tasks WHERE id = 'a'")).toEqual({ title: "from above" });
      expect(count(path, "tasks WHERE id IN ('b', 'c')")).toBe(0);
      expect(count(path, "unified_tasks WHERE id IN ('b', 'c')")).toBe(0);
      // A legacy row that goes because of the other side is kept whole.
      expect((await listKept(context, { keys: ["c"] })).entries).toMatchObject([{ key: "c", side: "legacy" }]);
      await expectClean(context);
    });

    test.each(["live", "rampdown"] as const)(
      "a legacy write alone goes up at %s, and what only the unified side holds stays",
      async (stage) => {
        const { path, context } = await platformAt(stage);
        await using _ = context;
        execute(path, insertTask("d", "deployment"));
        await sync(context);
        execute(
          path,
          `UPDATE unified_deployment_tasks SET health_status = 'good', health_check_url = 'http://x' WHERE task_id = 'd';
       UPDATE unified_tasks SET task_metadata = ${onSqlite ? "json_set(coalesce(task_metadata, '{}'), '$.own', 7)" : `coalesce(task_metadata, '{}') || '{"own": 7}'`} WHERE id = 'd'`,
        );
        await sync(context);
        execute(path, "UPDATE tasks SET title = 'from below', status = 'deploying' WHERE id = 'd'");
        expect(await sync(context)).toMatchObject({ applied: 1, conflicts: 0, remaining: 0 });
        expect(title(path, "d")).toBe("from below");
        expect(
          one(path, `SELECT status, ${dialect.at("task_metadata", "own")} AS own FROM unified_tasks WHERE id = 'd'`),
        ).toEqual({
          status: "running",
          own: onSqlite ? 7 : "7",
        });
        expect(
          one(path, "SELECT health_status, health_check_url FROM unified_deployment_tasks WHERE task_id = 'd'"),
        ).toEqual({
          health_status: "good",
          health_check_url: "http://x",
        });
        await expectClean(context);
      },
    );

    test("after gaps on both sides, a legacy row that says what it said is none of two versions", async () => {
      const { path, context } = await platformAt("live");
      await using _ = context;
      const above = (values: string) => `UPDATE unified_tasks SET ${values} WHERE id = 'g'`;
      execute(path, insertTask("g"));
      await sync(context);
      execute(path, above("error_message = 'mine', output_data = '{\"mine\":1}'"));
      await sync(context);
      execute(
        path,
        `${dialect.uncapture("tasks", "update")}; ${dialect.uncapture("unified_tasks", "update")};
       ${setTitle("unnoted", "id = 'g'")}`,
      );
      const synced = await sync(context);
      expect(synced).toMatchObject({ conflicts: 0, remaining: 0 });
      expect(synced.renewed.toSorted()).toEqual(["tasks", "unified_tasks"]);
      expect(one(path, "SELECT title FROM tasks WHERE id = 'g'")).toEqual({ title: "unnoted" });
      expect((await listKept(context, { keys: ["g"] })).entries).toEqual([]);
      await expectClean(context);
    });

    test("what was stuck under one mapping of a key is no less new when another one has the key", async () => {
      const { path, context } = await platformAt("live");
      await using _ = context;
      const above = (text: string) => setTitle(text, "id = 'k'");
      execute(path, insertTask("k"));
      await sync(context);
      execute(path, "INSERT INTO planning_queue (id, task_description) VALUES ('k', 'a plan')");
      expect(await sync(context)).toMatchObject({ quarantined: 1 });
      execute(
        path,
        `${dialect.refuse("planning_queue", "UPDATE", "NEW.id IS NOT NULL", "not here")};
       DELETE FROM tasks WHERE id = 'k'; ${above("first")}`,
      );
      expect(await sync(context)).toMatchObject({ quarantined: 1, remaining: 0 });
      execute(path, above("second"));
      expect(await sync(context)).toMatchObject({ quarantined: 1, remaining: 0 });
      expect((await listQuarantine(context)).entries).toMatchObject([{ mapping: "planning_queue", key: "k" }]);
      execute(path, insertTask("k", "backend", "below"));
      expect(await sync(context)).toMatchObject({ conflicts: 1, remaining: 0 });
      expect(title(path, "k")).toBe("second");
      expect(one(path, "SELECT title FROM tasks WHERE id = 'k'")).toEqual({ title: "second" });
      expect(JSON.stringify((await listKept(context, { keys: ["k"] })).entries)).toContain("below");
      // Nothing is left of it that would make a conflict of a lone change.
      execute(path, "DELETE FROM planning_queue WHERE id = 'k'; UPDATE tasks SET title = 'alone' WHERE id = 'k'");
      expect(await sync(context)).toMatchObject({ conflicts: 0, quarantined: 0 });
      expect(title(path, "k")).toBe("alone");
      await expectClean(context);
    });

    test("what was changed on both sides is decided for it, and both versions are kept", async () => {
      const { path, context } = await platformAt("live");
      await using _ = context;
      execute(path, [insertTask("e"), insertTask("f"), insertTask("same")].join(";"));
      await sync(context);
      execute(
        path,
        `UPDATE tasks SET title = 'below' WHERE id IN ('e', 'f');
       ${setTitle("above", "id = 'e'")};
       DELETE FROM unified_tasks WHERE id = 'f';
       UPDATE tasks SET title = 'equal' WHERE id = 'same';
       ${setTitle("equal", "id = 'same'")}`,
      );
      expect(await sync(context)).toMatchObject({ applied: 3, conflicts: 2, remaining: 0 });
      expect(one(path, "SELECT title FROM tasks WHERE id = 'e'")).toEqual({ title: "above" });
      expect(title(path, "e")).toBe("above");
      expect(count(path, "tasks WHERE id = 'f'")).toBe(0);
      const kept = (await listKept(context, { keys: ["e", "f"] })).entries;
      expect(kept.map(({ key, side }) => `${key} ${side}`).sort()).toEqual(["e legacy", "e unified", "f legacy"]);
      expect(JSON.stringify(kept)).toContain("below");
      const noted = select(path, "SELECT agent, after FROM hive_audit WHERE action = 'conflict' ORDER BY seq");
      expect(noted.map(({ after }) => JSON.parse(String(after)))).toEqual([
        { mapping: "tasks", key: "e", leads: "unified" },
        { mapping: "tasks", key: "f", leads: "unified" },
      ]);
      expect(await verifyAudit(context.store.read)).toMatchObject({ ok: true });
      await expectClean(context);
    });

    test("what the legacy side refuses goes to quarantine, and keeps back nobody else", async () => {
      const { path, context } = await platformAt("live");
      await using _ = context;
      execute(path, [insertTask("g"), insertTask("h"), insertTask("i")].join(";"));
      await sync(context);
      execute(
        path,
        `${dialect.refuse("tasks", "UPDATE", "NEW.title = 'bad'", "not here")};
       ${setTitle("bad", "id = 'h'")}; ${setTitle("good", "id IN ('g', 'i')")};`,
      );
      expect(await sync(context)).toMatchObject({ applied: 2, quarantined: 1, remaining: 0 });
      expect(count(path, "tasks WHERE title = 'good' AND id IN ('g', 'i')")).toBe(2);
      expect((await listQuarantine(context)).entries).toMatchObject([{ key: "h", direction: "down" }]);
    });
  });

  /** What any commit changes. */
  function commitsOf(path: string): () => unknown {
    const db = new Database(path, { readonly: true });
    onTestFinished(() => void db.close());
    return () => [
      db.pragma("data_version", { simple: true }),
      ...[path, `${path}-wal`].map((file) => statSync(file).mtimeMs),
    ];
  }

  describe("watching", () => {
    const watch = (path: string, more: { leaseMs?: number; holdAt?: string } = {}) =>
      startHive({ path, action: "sync", options: { watch: true }, ...more });

    test("notices what another process commits, and ends with what it did when it is told to", async () => {
      const { path, context } = await platformAt("dualwrite");
      await using _ = context;
      const worker = watch(path);
      await worker.next("working");
      for (let i = 0; i < 5; i++) {
        execute(path, insertTask(`w${i}`));
        await until(() => title(path, `w${i}`)).toBe("new");
      }
      execute(path, "UPDATE tasks SET title = 'last' WHERE id = 'w3'");
      await until(() => title(path, "w3")).toBe("last");
      worker.process.kill("SIGTERM");
      expect(await worker.next("done")).toMatchObject({ result: { applied: 6, conflicts: 0, remaining: 0 } });
      expect(await worker.exited).toEqual({ code: 0, signal: null });
      await expectClean(context);
    });

    test("of the command line ends with exit code 0 and one JSON object", async () => {
      const { path, context } = await platformAt("dualwrite");
      await using _ = context;
      const cwd = temporaryDirectory();
      writeFileSync(join(cwd, "hive.config.json"), JSON.stringify({ database: path }));
      const launcher = join(dirname(DIST), "bin/hive.js");
      const child = spawn(process.execPath, [launcher, "sync", "--watch", "--json"], { cwd });
      onTestFinished(() => void child.kill("SIGKILL"));
      let [stdout, stderr] = ["", ""];
      child.stdout.setEncoding("utf8").on("data", (text: string) => {
        stdout += text;
      });
      child.stderr.setEncoding("utf8").on("data", (text: string) => {
        stderr += text;
      });
      const ended = new Promise((done) => child.on("close", (code, signal) => done({ code, signal })));
      await until(() => stderr).toContain("Watching");
      execute(path, insertTask("cli"));
      await until(() => title(path, "cli")).toBe("new");
      child.kill("SIGTERM");
      expect(await ended, stderr).toEqual({ code: 0, signal: null });
      expect(JSON.parse(stdout)).toMatchObject({ ok: true, command: "sync", result: { applied: 1, remaining: 0 } });
    });

    test("one works and the other stands by, until the first is killed", async () => {
      const { path, context } = await platformAt("dualwrite");
      await using _ = context;
      const first = watch(path);
      await first.next("working");
      const second = watch(path);
      expect(await second.next("standing by")).toMatchObject({
        of: { holder: expect.stringContaining(`process ${first.process.pid}`) },
      });
      await expect(sync(context, { lockTimeoutMs: 0 })).rejects.toMatchObject({ code: "LOCK_HELD" });
      execute(path, insertTask("one"));
      await until(() => title(path, "one")).toBe("new");
      first.process.kill("SIGKILL");
      execute(path, insertTask("two"));
      await second.next("working");
      await until(() => title(path, "two")).toBe("new");
      second.process.kill("SIGTERM");
      expect(await second.next("done")).toMatchObject({ result: { applied: 1 } });
      await expectClean(context);
    });

    test("one that froze is replaced; when it wakes up it writes nothing and stands by", async () => {
      const { path, context } = await platformAt("dualwrite");
      await using _ = context;
      execute(path, insertTask("frozen", "backend", "1"));
      await sync(context);
      execute(path, "UPDATE tasks SET title = '2' WHERE id = 'frozen'");
      const lock = () => one(path, "SELECT token, pid FROM hive_locks WHERE name = 'sync'");
      // It has looked at the second version, and has not written it yet.
      const first = watch(path, { leaseMs: 600, holdAt: "sync:judged" });
      await first.next("held");
      const { token, pid } = lock();
      expect(pid).toBe(first.process.pid);
      first.process.kill("SIGSTOP");
      const second = watch(path, { leaseMs: 600 });
      await second.next("working");
      await until(() => title(path, "frozen")).toBe("2");
      execute(path, "UPDATE tasks SET title = '3' WHERE id = 'frozen'");
      await until(() => title(path, "frozen")).toBe("3");
      expect(lock().pid).toBe(second.process.pid);
      expect(Number(lock().token)).toBeGreaterThan(Number(token));
      // A version that the log says nothing of: only the token keeps the first one from writing over it.
      execute(path, setTitle("kept", "id = 'frozen'"));
      first.process.kill("SIGCONT");
      first.tell({});
      expect(await first.next("standing by")).toMatchObject({
        of: { holder: expect.stringContaining(`process ${second.process.pid}`) },
      });
      expect(title(path, "frozen")).toBe("kept");
      second.process.kill("SIGTERM");
      await second.next("done");
      await first.next("working");
      execute(path, "UPDATE tasks SET title = '4' WHERE id = 'frozen'");
      await until(() => title(path, "frozen")).toBe("4");
      first.process.kill("SIGTERM");
      expect(await first.next("done")).toMatchObject({ result: { applied: 1 } });
      await expectClean(context);
    });

    test("goes on while an agent alters, and makes anew, its tables", async () => {
      const { path, context } = await platformAt("dualwrite");
      await using _ = context;
      const worker = watch(path);
      await worker.next("working");
      execute(path, "ALTER TABLE tasks ADD COLUMN failure_note TEXT DEFAULT 'n'");
      execute(path, insertTask("altered"));
      await until(() => title(path, "altered")).toBe("new");
      const schema = onSqlite
        ? String(one(path, "SELECT sql FROM sqlite_schema WHERE name = 'tasks'").sql).replace(
            /^CREATE TABLE \S+/,
            "CREATE TABLE tasks_new",
          )
        : "CREATE TABLE tasks_new (LIKE tasks INCLUDING ALL)";
      execute(
        path,
        `BEGIN; ${schema}; INSERT INTO tasks_new SELECT * FROM tasks;
       DROP TABLE tasks; ALTER TABLE tasks_new RENAME TO tasks;
       UPDATE tasks SET title = 'unseen' WHERE id = 'altered'; COMMIT;`,
      );
      expect(await worker.next("capture renewed")).toMatchObject({ of: { tables: ["tasks"] } });
      await until(() => title(path, "altered")).toBe("unseen");
      await until(() => count(path, "hive_gaps") + waiting(path)).toBe(0);
      execute(path, insertTask("seen"));
      await until(() => title(path, "seen")).toBe("new");
      worker.process.kill("SIGTERM");
      await worker.next("done");
      await expectClean(context);
    });

    test("writes nothing while nothing happens", async () => {
      const { path, context } = await platformAt("dualwrite");
      await using _ = context;
      const worker = watch(path, { leaseMs: 3_600_000 });
      await worker.next("working");
      execute(path, insertTask("last"));
      await until(() => title(path, "last")).toBe("new");
      await until(() => waiting(path)).toBe(0);
      const stateOf = onSqlite ? commitsOf(path) : () => tableHashes(path);
      // What it still notes about its own work comes with its next transaction, or at the end.
      const before = stateOf();
      await delay(1_500);
      expect(stateOf()).toEqual(before);
    });
  });

  describe("beside a backfill, with agents writing", () => {
    test("both end with both sides equal, and nothing lost", { timeout: 120_000 }, async () => {
      const { path, context } = await platformAt("off", {
        ...{
          tables: onSqlite ? "text" : "natural",
          tasks: onSqlite ? 600 : 300,
          dirt: true,
          settings: { lockBudget: 0.3 },
        },
      });
      await using _ = context;
      const writers = await startAgents(path, [
        { name: "a", seed: 1, everyMs: 10, keys: 24 },
        { name: "b", seed: 2, everyMs: 10, keys: 24, led: true },
      ]);
      const hive = startHive({
        path,
        action: "flags",
        options: { changes: AGENTS.map((agent) => ({ agent, flag: "dual-write", value: "on" })) },
      });
      await hive.next("done");
      const worker = startHive({ path, action: "sync", options: { watch: true }, budget: 0.2 });
      await worker.next("working");
      await backfill(context);
      const written = await writers.stop();
      await until(() => waiting(path)).toBe(0);
      worker.process.kill("SIGTERM");
      await worker.next("done");
      await sync(context);
      for (const side of ["legacy", "unified"] as const) expectKept(path, side, written);
      await expectClean(context);
      await expectProjected(path);
    });

    test("a platform of another shape is left as it was when nothing is asked for", async () => {
      const { url: path } = await create({ legacy: "text", sample: { tasks: 3 } });
      await using context = platformContext(path);
      await expect(sync(context)).rejects.toMatchObject({ code: "NOT_MIGRATED" });
    });
  });
});
