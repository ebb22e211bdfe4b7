import pg from "pg";
import { expect, test } from "vitest";
import type { Context } from "../../src/context.ts";
import { HiveError } from "../../src/errors.ts";
import { changeFlags } from "../../src/flags/flags.ts";
import type { Stage } from "../../src/flags/stages.ts";
import { verifyAudit } from "../../src/rollout/audit.ts";
import { rollback } from "../../src/rollout/rollback.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { check } from "../../src/sync/check.ts";
import { sync } from "../../src/sync/sync.ts";
import { postgres } from "../support/backends.ts";
import { advance, platformContext } from "../support/legacy-platform.ts";
import { DIST, type HiveRequest, isBuilt, startHive } from "../support/live.ts";
import { databaseOf, dropDatabase, postgresDatabase } from "../support/postgres.ts";
import { type Model, PostgresAgent, randomFrom } from "../support/postgres-agents.ts";
import { closeSync } from "../support/sync-postgres.ts";

/**
 * Backfill, sync and rollback on PostgreSQL, killed (SIGKILL) at points which the engine names, or robbed of their
 * connections by the server, while agents write to both sides on connections of their own. What was killed leaves no
 * lock and no transaction; the command is run again and ends; then every acknowledged write is where it belongs.
 */

const SEED = Number(process.env.HIVE_FAULT_SEED ?? Date.now() % 1_000_000);
/** Of each command: twenty take minutes of a processor. */
const KILLS = Number(process.env.HIVE_FAULT_POSTGRES_KILLS ?? 6);
const CUTS = Math.ceil(KILLS / 2);
const AT_ONCE = 2;
const OWNERS = ["ai-reviewer", "ai-planner", "ai-deployer", "hive-coder"];
/** Whatever a killed process leaves behind then stays for longer than the test: nothing may need a lease to run out. */
const LEASE_MS = 3_600_000;

/** For a lock whose holder lost its connection as it was taken: for a moment it counts as alive. */
const PATIENT = { lockTimeoutMs: 30_000 };

const STAGES = ["live", "rampdown", "complete"] as const;
type From = "captured" | "behind" | (typeof STAGES)[number];

interface Scenario {
  readonly from: From;
  readonly request: Pick<HiveRequest, "action" | "options">;
  /** The same in this process. */
  readonly run: (context: Context) => Promise<unknown>;
  /** Where the agents are afterwards. */
  readonly ends: Stage;
}

const syncing = (from: From, ends: Stage): Scenario => ({
  from,
  request: { action: "sync" },
  run: (c) => sync(c, PATIENT),
  ends,
});
const back = (from: From, to: "off" | "dualwrite" | "shadow"): Scenario => ({
  from,
  request: { action: "rollback", options: { to } },
  run: (context) => rollback(context, { to, ...PATIENT }),
  ends: to,
});

const COMMANDS: Readonly<Record<string, readonly Scenario[]>> = {
  backfill: [
    { from: "captured", request: { action: "backfill" }, run: (c) => backfill(c, PATIENT), ends: "dualwrite" },
  ],
  sync: [syncing("behind", "dualwrite"), syncing("live", "live")],
  rollback: [back("live", "shadow"), back("rampdown", "dualwrite"), back("complete", "off")],
};

/** A database to copy, and what the agents that wrote to it remember. */
interface Start {
  readonly template: string;
  readonly models: readonly Model[];
  /** A hash of the legacy rows that no agent writes. */
  readonly others: unknown;
}

type Query = (text: string) => Promise<Record<string, unknown>[]>;

async function connected<T>(url: string, work: (query: Query) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url, application_name: "test" });
  await client.connect();
  try {
    return await work(async (text) => (await client.query(text)).rows);
  } finally {
    await client.end();
  }
}

function agentsOn(url: string, seed: number, models: readonly Model[] = []): Promise<PostgresAgent[]> {
  const kinds = [{ name: "plain" }, { name: "other" }, { name: "led", led: true }];
  return Promise.all(
    kinds.map((kind, i) => PostgresAgent.start(url, { ...kind, seed: seed * 3 + i, model: models[i] ?? {} })),
  );
}

async function stopped(agents: readonly PostgresAgent[]): Promise<readonly Model[]> {
  await Promise.all(agents.map((agent) => agent.stop()));
  return agents.map(({ model }) => model);
}

async function written(url: string, seed: number, models?: readonly Model[]): Promise<readonly Model[]> {
  const agents = await agentsOn(url, seed, models);
  await Promise.all(agents.map((agent) => agent.more(12)));
  return stopped(agents);
}

const OTHERS = ["tasks", "runs", "planning_queue", "execution_plans", "deployment_events"].map(
  (table) =>
    `SELECT md5(string_agg(t::text, ',' ORDER BY t.id)) AS rows FROM ${table} AS t WHERE t::text NOT LIKE '%w-%'`,
);

async function prepare(): Promise<Record<From, Start>> {
  const starts = {} as Record<From, Start>;
  const save = async (from: From, url: string, models: readonly Model[]): Promise<Start> => {
    closeSync(url);
    const template = await postgresDatabase({ template: databaseOf(url) });
    const others = await connected(template, (query) => query(OTHERS.join(" UNION ALL ")));
    starts[from] = { template: databaseOf(template), models, others };
    return starts[from];
  };
  const place = await postgres.create({
    legacy: "natural",
    sample: { tasks: 30 },
    rows: "INSERT INTO workers (id, role) VALUES ('w-worker', 'test')",
  });
  const { url } = place;
  let models: readonly Model[];
  {
    await using context = platformContext(url);
    await migrateUp(context);
    await advance(context, OWNERS, "dualwrite");
    models = await written(url, 1);
  }
  await save("captured", url, models);
  {
    await using context = platformContext(url);
    await backfill(context);
    await sync(context);
    models = await written(url, 2, models);
  }
  await save("behind", url, models);
  for (const stage of STAGES) {
    {
      await using context = platformContext(url);
      await check(context);
      await (stage === "live" ? advance(context, OWNERS, "live", () => check(context)) : step(context, stage));
      models = await written(url, 3 + STAGES.indexOf(stage), models);
    }
    await save(stage, url, models);
  }
  return starts;
}

/** From live to one of the stages beyond it. */
async function step(context: Context, stage: Stage): Promise<void> {
  const setting =
    stage === "rampdown"
      ? ({ flag: "reads", value: "unified" } as const)
      : ({ flag: "dual-write", value: "off" } as const);
  await changeFlags(
    context,
    OWNERS.map((agent) => ({ agent, ...setting })),
  );
}

/** Ends when nothing of hive's is left on the server: no connection, no lock. */
async function expectGone(url: string, what: string): Promise<void> {
  const left = `SELECT 'connection' AS kind, state AS what FROM pg_stat_activity
      WHERE datname = current_database() AND application_name LIKE 'hive%'
    UNION ALL SELECT 'advisory lock', mode FROM pg_locks
      WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION ALL SELECT 'prepared transaction', gid FROM pg_prepared_xacts WHERE database = current_database()`;
  await connected(url, (query) => expect.poll(() => query(left), { timeout: 20_000, message: what }).toEqual([]));
}

/** As `SELECT` gives the versions of all agents' aggregates on one side. */
const VERSIONS = {
  legacy: "SELECT id, title FROM tasks WHERE id LIKE 'w-%' ORDER BY id COLLATE \"C\"",
  unified: `SELECT id, input_data ->> 'title' AS title FROM unified_tasks WHERE id LIKE 'w-%' ORDER BY id COLLATE "C"`,
} as const;

async function expectWhole(
  context: Context,
  url: string,
  { agents, ends, others, what }: { agents: readonly PostgresAgent[]; ends: Stage; others: unknown; what: string },
): Promise<void> {
  const expected = agents
    .flatMap(({ model }) => Object.entries(model))
    .filter(([, { gone }]) => !gone)
    .map(([id, { version }]) => ({ id, title: `v${version}` }))
    .sort((a, b) => (a.id < b.id ? -1 : 1));
  expect(
    agents.flatMap(({ anomalies }) => anomalies),
    what,
  ).toEqual([]);
  await connected(url, async (query) => {
    expect(await query(VERSIONS.legacy), `legacy ${what}`).toEqual(expected);
    expect(await query(OTHERS.join(" UNION ALL ")), `legacy rows that nobody wrote ${what}`).toEqual(others);
    if (ends === "off") return;
    expect(await query(VERSIONS.unified), `unified ${what}`).toEqual(expected);
    const result = await check(context);
    expect({ ...result, seconds: 0 }, what).toMatchObject({ consistent: true, inFlight: 0, quarantined: 0 });
    expect(await query("SELECT count(*)::int AS waiting FROM hive.hive_changes"), what).toEqual([{ waiting: 0 }]);
  });
  expect(await verifyAudit(context.store.read), what).toMatchObject({ ok: true });
}

interface Fault {
  readonly name: string;
  readonly scenario: Scenario;
  readonly number: number;
  /** Where in the run, from 0 to 1. */
  readonly at: number;
}

/** One after the other of each command, spread over the whole run. */
function faults(count: number, random: () => number): Fault[] {
  return Object.entries(COMMANDS).flatMap(([name, scenarios]) =>
    Array.from({ length: count }, (_, i): Fault => {
      const scenario = scenarios[i % scenarios.length];
      if (scenario === undefined) throw new Error(`no scenario of ${name}`);
      // Each of the scenarios over its own run.
      const slot = Math.floor(i / scenarios.length);
      const slots = Math.ceil((count - (i % scenarios.length)) / scenarios.length);
      return { name, scenario, number: i + 1, at: (slot + random()) / slots };
    }),
  );
}

async function inTurns(all: readonly Fault[], work: (fault: Fault) => Promise<void>): Promise<void> {
  const queue = [...all];
  const worker = async () => {
    for (let next = queue.shift(); next; next = queue.shift()) await work(next);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

/** How many points a run passes where no agent writes. */
type Points = ReadonlyMap<Scenario, number>;

async function countPoints(starts: Record<From, Start>): Promise<Points> {
  const counts = new Map<Scenario, number>();
  for (const scenario of Object.values(COMMANDS).flat()) {
    const url = await postgresDatabase({ template: starts[scenario.from].template });
    let points = 0;
    await using context = platformContext(url, {
      signal: async () => {
        points += 1;
      },
    });
    await scenario.run(context);
    counts.set(scenario, points);
  }
  return counts;
}

async function kill(starts: Record<From, Start>, most: Points): Promise<void> {
  const perished: string[] = [];
  await inTurns(faults(KILLS, randomFrom(SEED)), async ({ name, scenario, number, at }) => {
    const { from, request, run, ends } = scenario;
    const { template, models, others } = starts[from];
    for (let attempt = 1, killed = false; !killed; attempt++) {
      const url = await postgresDatabase({ template });
      const agents = await agentsOn(url, SEED + number, models);
      const killAt = 1 + Math.floor((at * (most.get(scenario) ?? 40)) / attempt);
      const child = startHive({ path: url, ...request, killAt, leaseMs: LEASE_MS });
      const message = await child.next("killed", "done");
      killed = message.event === "killed";
      await child.exited;
      const what = `${number}: ${name} from ${from}, killed at ${message.point} (${message.points})`;
      await expectGone(url, what);
      if (killed) {
        perished.push(String(message.point));
        await Promise.all(agents.map((agent) => agent.more()));
        await using context = platformContext(url);
        await run(context);
        await Promise.all(agents.map((agent) => agent.more()));
        await stopped(agents);
        await sync(context);
        await expectWhole(context, url, { agents, ends, others, what });
      } else {
        // It ended before: how far it goes depends on the agents.
        await stopped(agents);
      }
      await dropDatabase(databaseOf(url));
    }
  });
  expect(perished).toHaveLength(KILLS * Object.keys(COMMANDS).length);
  if (KILLS < 20) return;
  const kinds = new Set(perished.map((point) => point.slice(point.lastIndexOf(":"))));
  const expected = [":before-commit", ":begun", ":committed", ":judged", ":moved"];
  expect([...kinds].sort()).toEqual(expect.arrayContaining(expected));
}

async function cut(starts: Record<From, Start>, most: Points): Promise<void> {
  const random = randomFrom(SEED + 1);
  const ended = { failed: 0, gone: 0 };
  await inTurns(faults(CUTS, random), async ({ name, scenario, number, at }) => {
    const { from, run, ends } = scenario;
    const { template, models, others } = starts[from];
    const url = await postgresDatabase({ template });
    const agents = await agentsOn(url, SEED + number, models);
    const cutAt = 1 + Math.floor(at * (most.get(scenario) ?? 40));
    const [all, awaited] = [random() < 0.3, random() < 0.5];
    // Those in a transaction first: it is what the point is about.
    const victims = `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'hive%'
      ORDER BY (state LIKE '%in transaction') DESC, random() ${all ? "" : "LIMIT 1"}`;
    let points = 0;
    let strike: { readonly point: string; readonly done: Promise<unknown> } | undefined;
    const signal = async (point: string) => {
      points += 1;
      if (points !== cutAt) return;
      const kill = `SELECT pg_terminate_backend(pid, 5000) FROM (${victims}) AS victims`;
      strike = { point, done: connected(url, (query) => query(kill)) };
      // Not awaited: it meets whatever comes next, a COMMIT for one.
      if (awaited) await strike.done;
    };
    let error: unknown;
    {
      // The process lives on: a lock that it could not give back for want of a connection runs out.
      await using context = platformContext(url, { signal });
      await run(context).catch((thrown: unknown) => {
        error = thrown;
      });
      await strike?.done;
    }
    const what = `${number}: ${name} from ${from}, ${all ? "all connections" : "one connection"} cut at ${strike?.point} (${cutAt}): ${error}`;
    if (error !== undefined) expect(error, what).toBeInstanceOf(HiveError);
    ended[error === undefined ? "gone" : "failed"] += 1;
    await expectGone(url, what);
    await using context = platformContext(url);
    await run(context);
    await stopped(agents);
    await sync(context, PATIENT);
    await expectWhole(context, url, { agents, ends, others, what });
  });
  // Where it was robbed of a connection that it did not need any more, it goes on.
  if (CUTS >= 5) expect(ended.failed).toBeGreaterThan(0);
}

test(`on PostgreSQL, ${KILLS} times each killed with SIGKILL at any named point, and ${CUTS} times robbed of connections, while agents write (HIVE_FAULT_SEED=${SEED})`, {
  timeout: 600_000,
}, async () => {
  expect(isBuilt(), `${DIST} is not built: npm run build`).toBe(true);
  const starts = await prepare();
  const points = await countPoints(starts);
  await kill(starts, points);
  await cut(starts, points);
});
