import { createHash } from "node:crypto";
import pg from "pg";
import { describe, expect, onTestFinished, test } from "vitest";
import type { Signal } from "../../src/clock.ts";
import type { Context } from "../../src/context.ts";
import type { Stage } from "../../src/flags/stages.ts";
import { rollback } from "../../src/rollout/rollback.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { MOST_WRITTEN } from "../../src/sync/changes.ts";
import { check } from "../../src/sync/check.ts";
import { sync } from "../../src/sync/sync.ts";
import { BACKENDS } from "../support/backends.ts";
import type { TestContextOptions } from "../support/context.ts";
import { advance, platformContext } from "../support/legacy-platform.ts";
import { naturalLegacySchema } from "../support/legacy-postgres.ts";
import { isBuilt, startHive } from "../support/live.ts";
import { postgresDatabase, postgresTemplate } from "../support/postgres.ts";
import { executeSync } from "../support/sync-postgres.ts";

/**
 * What PostgreSQL alone can do to hive: several connections write at the same time, and any may commit first. On SQLite
 * a transaction of hive's is the only writer.
 */

const AGENT = "hive-coder";
const [postgres] = BACKENDS.filter(({ name }) => name === "postgres");

/** What agents do to a task each, in a transaction each; `done`: how it then stands on the side that they write. */
const ACTS = ["update", "delete", "replace", "add run", "change run", "remove run", "rekey"] as const;
type Act = (typeof ACTS)[number];
const keyOf = (act: Act) => `t-${act.replace(" ", "-")}`;

const task = (id: string, title: string) =>
  `INSERT INTO tasks (id, title, task_type, status) VALUES ('${id}', '${title}', 'backend', 'running');`;
const run = (id: string, of: string, number: number, error = "") =>
  `INSERT INTO runs (id, task_id, worker_id, run_number, status, error_message)
     VALUES ('${id}', '${of}', 'w', ${number}, 'failed', '${error}');`;

const ROWS = [
  "INSERT INTO workers (id, role) VALUES ('w', 'backend');",
  ...ACTS.map((act) => task(keyOf(act), "first") + run(`r-${keyOf(act)}`, keyOf(act), 1, "first")),
].join("\n");

const legacyAct = (act: Act): string => {
  const key = keyOf(act);
  switch (act) {
    case "update":
      return `UPDATE tasks SET title = 'newest' WHERE id = '${key}'`;
    case "delete":
      return `DELETE FROM tasks WHERE id = '${key}'`;
    case "replace":
      return `DELETE FROM tasks WHERE id = '${key}'; ${task(key, "newest")}`;
    case "add run":
      return run(`r2-${key}`, key, 2, "newest");
    case "change run":
      return `UPDATE runs SET error_message = 'newest' WHERE task_id = '${key}'`;
    case "remove run":
      return `DELETE FROM runs WHERE task_id = '${key}'`;
    case "rekey":
      return `DELETE FROM runs WHERE task_id = '${key}'; UPDATE tasks SET id = '${key}-new' WHERE id = '${key}'`;
  }
};

const unifiedAct = (act: Act): string => {
  const key = keyOf(act);
  const titled = (title: string) =>
    `UPDATE unified_tasks SET input_data = jsonb_set(input_data, '{title}', '"${title}"') WHERE id = '${key}'`;
  switch (act) {
    case "delete":
      return `DELETE FROM unified_tasks WHERE id = '${key}'`;
    case "replace":
      return `CREATE TEMP TABLE mine ON COMMIT DROP AS SELECT * FROM unified_tasks WHERE id = '${key}';
        DELETE FROM unified_tasks WHERE id = '${key}'; INSERT INTO unified_tasks SELECT * FROM mine; ${titled("newest")}`;
    case "rekey":
      return `UPDATE unified_tasks SET id = '${key}-new' WHERE id = '${key}'`;
    default:
      return titled("newest");
  }
};

/** How the tasks stand after the acts. */
const TITLES: Record<"legacy" | "unified", (rest: string) => Record<string, string>> = {
  legacy: (rest) => ({
    "t-update": "newest",
    "t-replace": "newest",
    "t-add-run": rest,
    "t-change-run": rest,
    "t-remove-run": rest,
    "t-rekey-new": rest,
  }),
  unified: (rest) => ({
    "t-update": "newest",
    "t-replace": "newest",
    "t-add-run": "newest",
    "t-change-run": "newest",
    "t-remove-run": "newest",
    "t-rekey-new": rest,
  }),
};

/** A connection of an agent's: no path to hive's schema, nothing of hive's known. */
async function agentOn(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url, application_name: "agent" });
  client.on("error", () => undefined);
  await client.connect();
  onTestFinished(() => client.end().catch(() => undefined));
  return client;
}

/** An agent's transaction: what it said, and whether it waits for somebody at the moment. */
class AgentTransaction {
  readonly client: pg.Client;
  readonly said: Promise<unknown>;
  readonly committed: Promise<void>;
  isDone = false;
  private tellCommitted = () => {};

  constructor(client: pg.Client, statements: string) {
    this.client = client;
    this.committed = new Promise((done) => {
      this.tellCommitted = done;
    });
    this.said = client.query(`BEGIN; ${statements}`).finally(() => {
      this.isDone = true;
    });
    this.said.catch(() => undefined);
  }

  /** Comes back when its statements are done, or wait for a lock of somebody else's. */
  async begun(watcher: pg.Client): Promise<void> {
    const { processID } = this.client as pg.Client & { processID: number };
    while (!this.isDone) {
      const { rows } = await watcher.query("SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'", [
        processID,
      ]);
      if (rows.length > 0) return;
    }
  }

  async commit(): Promise<void> {
    await this.said;
    await this.client.query("COMMIT");
    this.tellCommitted();
  }
}

interface Platform {
  readonly url: string;
  readonly context: Context & AsyncDisposable;
  readonly agent: pg.Client;
  /** Rows as arrays of their columns. */
  rows(text: string): Promise<unknown[][]>;
}

async function platform(stage: Stage, options: TestContextOptions & { rows?: string } = {}): Promise<Platform> {
  if (!postgres) throw new Error("PostgreSQL was left out");
  const data = options.rows ?? ROWS;
  const hash = createHash("sha256").update(data).digest("hex").slice(0, 8);
  const template = await postgresTemplate(`at_${stage}_${hash}`, async (made) => {
    executeSync(made, [...naturalLegacySchema, data].join(";\n"));
    await using context = platformContext(made);
    await migrateUp(context);
    await advance(context, [AGENT], stage, async (next) => {
      if (next === "shadow") await backfill(context, { agents: [AGENT] });
      if (next === "live" || next === "rampdown") await check(context, { agents: [AGENT] });
    });
    if (stage === "dualwrite") await backfill(context, { agents: [AGENT] });
  });
  const url = await postgresDatabase({ template });
  const context = platformContext(url, options);
  onTestFinished(() => context.store[Symbol.asyncDispose]());
  const agent = await agentOn(url);
  const rows = async (text: string) => (await agent.query({ text, rowMode: "array" })).rows;
  return { url, context, agent, rows };
}

const legacyTitles = ({ rows }: Platform) => rows("SELECT id, title FROM tasks ORDER BY id");
const unifiedTitles = ({ rows }: Platform) => rows("SELECT id, input_data->>'title' FROM unified_tasks ORDER BY id");
const sorted = (titles: Record<string, string>) => Object.entries(titles).sort(([a], [b]) => (a < b ? -1 : 1));

interface Operation {
  readonly stage: Stage;
  readonly acts: "legacy" | "unified";
  /** What there is to do, and the title that leaves where no agent comes in between. */
  readonly before: string;
  readonly rest: string;
  readonly points: readonly string[];
  run(context: Context): Promise<unknown>;
}

const OPERATIONS: Record<string, Operation> = {
  "backfill without capture": {
    stage: "off",
    acts: "legacy",
    before: "SELECT 1",
    rest: "first",
    points: ["backfill:judged", "tx:backfill:begun", "backfill:moved"],
    run: (context) => backfill(context, { agents: [AGENT] }),
  },
  "backfill with capture": {
    stage: "dualwrite",
    acts: "legacy",
    before: "DELETE FROM hive.hive_backfill; SET hive.applying = 'on'; DELETE FROM unified_tasks; RESET hive.applying",
    rest: "first",
    points: ["backfill:judged", "tx:backfill:begun", "backfill:moved", "tx:backfill:before-commit"],
    run: (context) => backfill(context, { agents: [AGENT] }),
  },
  "sync up": {
    stage: "dualwrite",
    acts: "legacy",
    before: "UPDATE tasks SET title = 'second'",
    rest: "second",
    points: ["sync:judged", "tx:sync:begun", "sync:moved", "tx:sync:before-commit"],
    run: (context) => sync(context),
  },
  "sync down, unified written": {
    stage: "live",
    acts: "unified",
    before: `UPDATE unified_tasks SET input_data = jsonb_set(input_data, '{title}', '"second"')`,
    rest: "second",
    points: ["sync:judged", "tx:sync:begun", "sync:moved", "tx:sync:before-commit"],
    run: (context) => sync(context),
  },
  "sync of lone legacy changes, legacy written": {
    stage: "live",
    acts: "legacy",
    before: "UPDATE tasks SET title = 'second'",
    rest: "second",
    points: ["sync:judged", "tx:sync:begun", "sync:moved", "tx:sync:before-commit"],
    run: (context) => sync(context),
  },
  repair: {
    stage: "dualwrite",
    acts: "legacy",
    before: `SET hive.applying = 'on'; UPDATE unified_tasks SET status = 'drifted'; RESET hive.applying`,
    rest: "first",
    points: ["check:judged", "tx:repair:begun", "tx:repair:before-commit"],
    run: (context) => check(context, { repair: true, agents: [AGENT] }),
  },
  rollback: {
    stage: "live",
    acts: "unified",
    before: `UPDATE unified_tasks SET input_data = jsonb_set(input_data, '{title}', '"second"')`,
    rest: "second",
    points: ["sync:judged", "tx:sync:begun", "sync:moved"],
    run: (context) => rollback(context, { agents: [AGENT], to: "shadow" }),
  },
};

const CASES = Object.entries(OPERATIONS).flatMap(([name, { points }]) =>
  points.flatMap((point) => (["at once", "after hive"] as const).map((commits) => ({ name, point, commits }))),
);

describe.skipIf(!postgres)("PostgreSQL only, since several may write at once", () => {
  describe("nothing is revived, and nothing older overwrites what is newer", () => {
    test.each(CASES)("$name: agents write at $point and commit $commits", async ({ name, point, commits }) => {
      const operation = OPERATIONS[name];
      if (!operation) throw new Error(name);
      let transactions: AgentTransaction[] = [];
      let committed: Promise<unknown> = Promise.resolve();
      let passed = 0;
      let act: (() => Promise<void>) | undefined;
      const signal: Signal = async (at) => {
        if (at === point && act) {
          const once = act;
          act = undefined;
          await once();
        } else if (at.endsWith(":begun") && transactions.length > 0 && ++passed >= 3) {
          // Whoever waits for them has tried again: it goes on as soon as they are out of the way.
          await commitAll();
        }
      };
      const commitAll = async () => {
        const mine = transactions;
        transactions = [];
        await Promise.all(mine.map((one) => one.commit()));
      };
      const platformed = await platform(operation.stage, { signal });
      const { context, agent, url } = platformed;
      await agent.query(operation.before);
      const clients = await Promise.all(ACTS.map(() => agentOn(url)));
      const statement = operation.acts === "legacy" ? legacyAct : unifiedAct;
      act = async () => {
        transactions = ACTS.map((one, i) => new AgentTransaction(clients[i] ?? agent, statement(one)));
        for (const one of transactions) await one.begun(agent);
        if (commits === "at once") {
          const waiting = transactions;
          transactions = [];
          // Those that wait for hive's own locks come after it.
          committed = Promise.all(waiting.map((one) => one.commit()));
          await Promise.all(waiting.filter((one) => one.isDone).map((one) => one.committed));
        }
      };
      await operation.run(context);
      await commitAll();
      await committed;
      expect(act).toBeUndefined();
      // At "off" nothing notes what came too late for a backfill: the next one does it.
      if (operation.stage === "off") {
        await backfill(context, { agents: [AGENT] });
        await check(context, { agents: [AGENT], repair: true });
      } else await sync(context);
      const result = await check(context, { agents: [AGENT] });
      expect(result).toMatchObject({ consistent: true, inFlight: 0, quarantined: 0 });
      const titles = sorted(TITLES[operation.acts](operation.rest));
      expect(await legacyTitles(platformed)).toEqual(titles);
      expect(await unifiedTitles(platformed)).toEqual(titles);
      if (operation.acts === "legacy") {
        const runs = await platformed.rows("SELECT task_id, count(*)::int FROM runs GROUP BY 1 ORDER BY 1");
        expect(runs).toEqual([
          ["t-add-run", 2],
          ["t-change-run", 1],
          ["t-update", 1],
        ]);
      }
    });
  });

  describe("a transaction that began earlier and commits later", () => {
    test("is carried over by a later sync, and told by check --changed", async () => {
      const late = await platform("dualwrite");
      const { context, agent, url } = late;
      expect(await check(context)).toMatchObject({ consistent: true, recorded: true });
      const slow = await agentOn(url);
      await slow.query(`BEGIN; ${legacyAct("update")}`);
      await agent.query(legacyAct("add run"));
      expect(await sync(context)).toMatchObject({ applied: 1 });
      expect(await check(context, { changed: true })).toMatchObject({ consistent: true, compared: 1, inFlight: 0 });
      await slow.query("COMMIT");
      expect(await check(context, { changed: true })).toMatchObject({ consistent: true, inFlight: 1 });
      expect(await sync(context)).toMatchObject({ applied: 1, remaining: 0 });
      await agent.query("SET hive.applying = 'on'; UPDATE unified_tasks SET status = 'drifted' WHERE id = 't-update'");
      expect(await check(context, { changed: true })).toMatchObject({ consistent: false, different: 1 });
    });

    test("is looked at by check --changed when it is hive's own", async () => {
      let checked: (() => Promise<void>) | undefined;
      const held = await platform("dualwrite", {
        signal: async (at) => {
          if (at !== "tx:sync:before-commit" || !checked) return;
          const once = checked;
          checked = undefined;
          await once();
        },
      });
      const { context, agent, url } = held;
      const other = platformContext(url);
      await agent.query(legacyAct("update"));
      checked = async () => {
        // Its row of hive_written is older than what this check has seen, and not to be seen yet.
        expect(await check(other)).toMatchObject({ consistent: true, inFlight: 1, recorded: true });
      };
      await sync(context);
      expect(checked).toBeUndefined();
      await agent.query("SET hive.applying = 'on'; UPDATE unified_tasks SET status = 'drifted' WHERE id = 't-update'");
      expect(await check(other, { changed: true })).toMatchObject({ consistent: false, different: 1 });
      await other.store[Symbol.asyncDispose]();
    });

    test.each(["backfill:judged", "tx:backfill:begun"])(
      "is in the window of a backfill that it meets at %s",
      async (at) => {
        let slow: pg.Client | undefined;
        const { context, agent, url, rows } = await platform("dualwrite", {
          signal: async (point) => {
            const once = point === at ? slow : undefined;
            if (once) slow = undefined;
            await once?.query("COMMIT");
          },
        });
        await agent.query(OPERATIONS["backfill with capture"]?.before ?? "");
        slow = await agentOn(url);
        await slow.query(`BEGIN; ${legacyAct("update")}`);
        await agent.query("UPDATE tasks SET title = 'second' WHERE id = 't-replace'");
        await backfill(context, { agents: [AGENT] });
        expect(slow).toBeUndefined();
        expect(
          await rows(
            "SELECT input_data->>'title' FROM unified_tasks WHERE id IN ('t-update', 't-replace') ORDER BY id",
          ),
        ).toEqual([["second"], ["newest"]]);
      },
    );

    test("is carried over when it was prepared, and committed from elsewhere", async () => {
      const { context, agent, url, rows } = await platform("dualwrite", { settings: { busyTimeoutMs: 200 } });
      const [[most]] = (await rows("SELECT current_setting('max_prepared_transactions')")) as [[string]];
      if (most === "0") {
        console.warn("Not tested: this server has max_prepared_transactions = 0.");
        return;
      }
      await agent.query(`UPDATE tasks SET title = 'second' WHERE id = 't-update'`);
      await agent.query(`BEGIN; ${legacyAct("update")}; PREPARE TRANSACTION 'agent'`);
      await expect(sync(context)).rejects.toMatchObject({ code: "DATABASE_BUSY", details: { held: 1 } });
      const elsewhere = await agentOn(url);
      await elsewhere.query("COMMIT PREPARED 'agent'");
      await sync(context);
      expect(await rows("SELECT input_data->>'title' FROM unified_tasks WHERE id = 't-update'")).toEqual([["newest"]]);
      expect(await check(context)).toMatchObject({ consistent: true, inFlight: 0 });
    });
  });

  describe("an agent's transaction that holds rows for long", () => {
    const holding = async (url: string, statement: string) => {
      const slow = await agentOn(url);
      await slow.query(`BEGIN; ${statement}`);
      return slow;
    };
    const carried = ({ rows }: Platform) =>
      rows("SELECT input_data->>'title', count(*)::int FROM unified_tasks GROUP BY 1 ORDER BY 1");

    test("keeps back nothing else, and is named in the end", async () => {
      const stuck = await platform("dualwrite", { settings: { busyTimeoutMs: 300 } });
      const { context, agent, url } = stuck;
      await agent.query("UPDATE tasks SET title = 'second'");
      const slow = await holding(url, legacyAct("update"));
      const error = sync(context);
      await expect(error).rejects.toMatchObject({ code: "DATABASE_BUSY", details: { held: 1 } });
      await expect(error).rejects.toThrow("unified_tasks t-update");
      expect(await carried(stuck)).toEqual([
        ["first", 1],
        ["second", ACTS.length - 1],
      ]);
      await slow.query("COMMIT");
      expect(await sync(context)).toMatchObject({ applied: 1, remaining: 0 });
      expect(await check(context)).toMatchObject({ consistent: true, inFlight: 0 });
    });

    test("keeps back nothing else where it holds more than is looked at at once", async () => {
      const many = Array.from({ length: 1_500 }, (_, i) => task(`held-${i}`, "first")).join("\n");
      const stuck = await platform("dualwrite", { rows: ROWS + many, settings: { busyTimeoutMs: 300 } });
      const { context, agent, url, rows } = stuck;
      await agent.query("UPDATE tasks SET title = 'second' WHERE id LIKE 'held-%'");
      const slow = await holding(url, "SELECT FROM tasks WHERE id LIKE 'held-%' FOR UPDATE");
      await agent.query("UPDATE tasks SET title = 'second' WHERE id LIKE 't-%'");
      await expect(sync(context)).rejects.toMatchObject({ code: "DATABASE_BUSY", details: { held: 1_500 } });
      expect(await rows("SELECT DISTINCT input_data->>'title' FROM unified_tasks WHERE id LIKE 't-%'")).toEqual([
        ["second"],
      ]);
      await slow.query("ROLLBACK");
      expect(await sync(context)).toMatchObject({ applied: 1_500, remaining: 0 });
      expect(await carried(stuck)).toEqual([["second", 1_500 + ACTS.length]]);
    });

    test("keeps back nothing else where it holds a related row and the unified side leads", async () => {
      const stuck = await platform("live", { settings: { busyTimeoutMs: 300 } });
      const { context, agent, url } = stuck;
      await agent.query("UPDATE tasks SET title = 'second'");
      const slow = await holding(url, "SELECT FROM runs WHERE task_id = 't-update' FOR UPDATE");
      await expect(sync(context)).rejects.toMatchObject({ code: "DATABASE_BUSY", details: { held: 1 } });
      expect(await carried(stuck)).toEqual([
        ["first", 1],
        ["second", ACTS.length - 1],
      ]);
      await slow.query("ROLLBACK");
      expect(await sync(context)).toMatchObject({ applied: 1, remaining: 0 });
    });

    test("is what a backfill comes back for", async () => {
      let slow: pg.Client | undefined;
      let begun = 0;
      const stuck = await platform("dualwrite", {
        signal: async (at) => {
          if (at !== "tx:backfill:begun" || !slow || ++begun < 3) return;
          const once = slow;
          slow = undefined;
          await once.query("COMMIT");
        },
      });
      await stuck.agent.query(OPERATIONS["backfill with capture"]?.before ?? "");
      slow = await holding(stuck.url, `${legacyAct("update")}; ${legacyAct("delete")}`);
      expect(await backfill(stuck.context, { agents: [AGENT] })).toMatchObject({
        aggregates: { written: ACTS.length - 1, quarantined: 0 },
      });
      expect(slow).toBeUndefined();
      expect(await carried(stuck)).toEqual([
        ["first", ACTS.length - 2],
        ["newest", 1],
      ]);
    });

    test("makes no other agent wait for a hive that waits for it", async () => {
      const waiting = new AbortController();
      const { context, agent, url } = await platform("dualwrite");
      await agent.query(OPERATIONS.repair?.before ?? "");
      const slow = await holding(url, legacyAct("update"));
      const other = await agentOn(url);
      const repaired = check(context, { repair: true, agents: [AGENT] });
      repaired.finally(() => waiting.abort()).catch(() => undefined);
      const waits =
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND starts_with(application_name, 'hive') AND wait_event_type = 'Lock'";
      while ((await agent.query(waits)).rows.length === 0) expect(waiting.signal.aborted).toBe(false);
      // Held by hive, or about to be: it lets go while the first agent still holds on.
      await other.query(legacyAct("change run"));
      await other.query("UPDATE tasks SET title = 'newest' WHERE id = 't-add-run'");
      expect(waiting.signal.aborted).toBe(false);
      await slow.query("COMMIT");
      expect(await repaired).toMatchObject({ unrepaired: [] });
      await sync(context);
      expect(await check(context)).toMatchObject({ consistent: true, inFlight: 0 });
    });
  });

  test.skipIf(!isBuilt())(
    "of several that watch one works; others take over from one that is killed or stopped",
    async () => {
      const { agent, url, rows } = await platform("dualwrite");
      const start = () => startHive({ path: url, action: "sync", options: { watch: true }, leaseMs: 4_000 });
      const first = start();
      await first.next("working");
      const [second, third] = [start(), start()];
      await Promise.all([second.next("standing by"), third.next("standing by")]);
      const carried = async (title: string) => {
        await agent.query(`UPDATE tasks SET title = '${title}'`);
        const text = "SELECT DISTINCT input_data->>'title' FROM unified_tasks";
        let found: unknown;
        while (found !== title) found = (await rows(text)).flat().at(0);
      };
      await carried("by the first");
      first.process.kill("SIGKILL");
      const works = new Map([second, third].map((one) => [one, one.next("working").then(() => one)]));
      const next = await Promise.race(works.values());
      await carried("by the next");
      next.process.kill("SIGSTOP");
      const last = next === second ? third : second;
      await works.get(last);
      await carried("by the last");
      next.process.kill("SIGCONT");
      // It learns of it as soon as it would write something.
      let stood = false;
      const stands = next.next("standing by").then(() => {
        stood = true;
      });
      for (let i = 0; !stood; i++) await carried(`by the last, again ${i}`);
      await stands;
      for (const one of [next, last]) one.process.kill("SIGTERM");
      await Promise.all([next.next("done"), last.next("done")]);
    },
  );

  describe("what hive wrote is forgotten", () => {
    const remembered = ({ rows }: Platform) =>
      rows("SELECT key, count(*)::int FROM hive.hive_written GROUP BY 1 ORDER BY 1");
    const write = (key: string, count: number) =>
      `INSERT INTO hive.hive_written (source, key) SELECT 'unified_tasks', '${key}' FROM generate_series(1, ${count})`;

    test("by transaction, once every check has seen it", async () => {
      const written = await platform("dualwrite");
      const { context, agent, url } = written;
      await agent.query("DELETE FROM hive.hive_written");
      const slow = await agentOn(url);
      await slow.query(`BEGIN; ${write("t-update", 2)}`);
      await agent.query(write("t-delete", 700));
      expect(await check(context)).toMatchObject({ recorded: true });
      // The first is older, and not to be seen yet.
      expect(await remembered(written)).toEqual([["t-delete", 700]]);
      await slow.query("COMMIT");
      expect(await check(context, { changed: true })).toMatchObject({ consistent: true, compared: 2 });
      expect(await remembered(written)).toEqual([]);
      expect(await check(context, { changed: true })).toMatchObject({ consistent: true, compared: 0 });
    });

    test("where it is too much, with the checks that would need it", async () => {
      const written = await platform("dualwrite");
      const { context, agent } = written;
      expect(await check(context)).toMatchObject({ recorded: true });
      await agent.query("DELETE FROM hive.hive_written");
      await agent.query(write("t-update", 600));
      await agent.query(write("t-delete", MOST_WRITTEN));
      await sync(context);
      expect(await remembered(written)).toEqual([["t-delete", MOST_WRITTEN]]);
      await expect(check(context, { changed: true })).rejects.toMatchObject({ code: "GUARD_REFUSED" });
      expect(await check(context)).toMatchObject({ recorded: true });
      expect(await check(context, { changed: true })).toMatchObject({ consistent: true });
    });
  });
});
