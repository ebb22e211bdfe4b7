import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { copyFileSync, existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished } from "vitest";
import type { Context } from "../../src/context.ts";
import type { Stage } from "../../src/flags/stages.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { backfill } from "../../src/sync/backfill.ts";
import { check } from "../../src/sync/check.ts";
import { type Backend, postgres, sqlite } from "./backends.ts";
import type { TestContextOptions } from "./context.ts";
import { contentHashes } from "./fingerprint.ts";
import { advance, execute, fillSample, integrity, platformContext, select } from "./legacy-platform.ts";
import { databaseOf, isPostgres, postgresDatabase } from "./postgres.ts";
import { PostgresAgent } from "./postgres-agents.ts";

/** The platform while it is written to: hive, and agents that know nothing of it, as processes of their own. */

export const DIST = resolve(process.env.HIVE_TEST_DIST ?? fileURLToPath(new URL("../../dist", import.meta.url)));
const HIVE = fileURLToPath(new URL("./writers/hive-child.mjs", import.meta.url));
const WRITER = fileURLToPath(new URL("./writers/writer.mjs", import.meta.url));

export const isBuilt = () => existsSync(join(DIST, "index.js"));

interface Message {
  readonly event: string;
  readonly [field: string]: unknown;
}

/** A process that says what it does in lines of JSON. Killed when the test ends. */
export class Talker {
  readonly process: ChildProcessWithoutNullStreams;
  readonly exited: Promise<{ code: number | null; signal: string | null }>;
  private readonly messages: Message[] = [];
  private errors = "";
  private over = false;
  private wake: (() => void) | undefined;

  constructor(script: string, args: readonly string[]) {
    this.process = spawn(process.execPath, [script, ...args]);
    let partial = "";
    this.process.stdout.setEncoding("utf8").on("data", (text: string) => {
      const lines = (partial + text).split("\n");
      partial = lines.pop() ?? "";
      for (const line of lines) this.messages.push(JSON.parse(line));
      this.wake?.();
    });
    this.process.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.errors += text;
    });
    // A line for a process that has just been killed.
    this.process.stdin.on("error", () => undefined);
    this.exited = new Promise((done) => {
      this.process.on("close", (code, signal) => {
        this.over = true;
        this.wake?.();
        done({ code, signal });
      });
    });
  }

  tell(message: unknown): void {
    this.process.stdin.write(`${JSON.stringify(message)}\n`);
  }

  /** The next of these events, with those before it thrown away; an error where the process ends, or fails, before. */
  async next(...events: string[]): Promise<Message> {
    for (;;) {
      const at = this.messages.findIndex(({ event }) => events.includes(event) || event === "failed");
      const [found] = at < 0 ? [] : this.messages.splice(0, at + 1).slice(-1);
      if (found && events.includes(found.event)) return found;
      if (found || this.over) {
        throw new Error(`no "${events.join('" or "')}": ${JSON.stringify(found ?? this.messages)} ${this.errors}`);
      }
      await new Promise<void>((done) => {
        this.wake = done;
      });
    }
  }
}

export interface HiveRequest {
  readonly path: string;
  readonly action: "backfill" | "sync" | "check" | "flags" | "rollback" | "writer";
  readonly options?: object;
  readonly leaseMs?: number;
  readonly killAt?: number;
  readonly holdAt?: string;
  /** The share of the time that it may hold the lock, while others write. */
  readonly budget?: number;
}

/** An operation of the built hive. */
export function startHive(request: HiveRequest): Talker {
  const child = new Talker(HIVE, [DIST, JSON.stringify(request)]);
  onTestFinished(() => void child.process.kill("SIGKILL"));
  return child;
}

export interface WriterStart {
  readonly path: string;
  /** Its keys begin with `w-NAME-`. */
  readonly name: string;
  readonly seed: number;
  /** Reads the flags and writes the side that leads; else: the legacy side, whatever the flags say. */
  readonly led?: boolean;
  readonly everyMs?: number;
  readonly keys?: number;
  /** What it wrote before. */
  readonly model?: Model;
}

/** By key: the last version that was acknowledged, and whether it was a DELETE. */
export type Model = Readonly<Record<string, { readonly version: number; readonly gone: boolean }>>;

export interface Written {
  readonly model: Model;
  /** Keys that were not as they had been left. */
  readonly anomalies: readonly unknown[];
  readonly statements: number;
  readonly sides: { readonly legacy: number; readonly unified: number };
}

/** A process with agents in it: {@link start} comes back when each has written, {@link stop} when all is acknowledged. */
export class Writers {
  private readonly talker = new Talker(WRITER, []);
  private running = 0;

  constructor() {
    onTestFinished(() => void this.talker.process.kill("SIGKILL"));
  }

  async start(agents: readonly WriterStart[]): Promise<void> {
    this.running = agents.length;
    this.talker.tell({ start: agents });
    for (const _ of agents) await this.talker.next("writing");
  }

  async stop(): Promise<Written[]> {
    this.talker.tell({ stop: true });
    const written: Written[] = [];
    for (; this.running > 0; this.running--) {
      const { model, anomalies, statements, sides } = await this.talker.next("stopped");
      written.push({ model, anomalies, statements, sides } as Written);
    }
    return written;
  }
}

export const AGENTS = [
  "ai-reviewer",
  "ai-planner",
  "ai-deployer",
  "hive-coder",
  "guardian",
  "orchestrator",
  "qa-agent",
];

/** The tables there: with PostgreSQL's own types and foreign keys, as its agents write them, or as on SQLite. */
type LiveTables = "natural" | "text";

export interface LiveOptions extends TestContextOptions {
  /** Default: SQLite. */
  readonly backend?: Backend;
  /** SQLite: the file that is made. */
  readonly path?: string;
  readonly tables?: LiveTables;
  readonly tasks?: number;
  readonly dirt?: boolean;
  readonly agents?: readonly string[];
}

/** A platform with all agents at this stage, backfilled and checked. */
export async function platformAt(
  stage: Stage,
  { backend = sqlite, tables = "text", tasks = 40, dirt = false, agents = AGENTS, ...options }: LiveOptions = {},
): Promise<{ path: string; context: Context & AsyncDisposable }> {
  const sample = { tasks, dirt };
  // A payload of a megabyte: it takes longer than all the others, each time, and is moved like any of them.
  const rows = `DELETE FROM tasks WHERE id = 'edge-json-huge';
    ${tables === "natural" ? "INSERT INTO workers (id, role) VALUES ('w-worker', 'test')" : ""}`;
  const reach = async (context: Context) => {
    await migrateUp(context);
    await advance(context, agents, stage, async (next) => {
      if (next === "dualwrite") return;
      await backfill(context);
      await check(context);
    });
    if (stage === "dualwrite") await backfill(context);
  };
  if (backend.name === "sqlite") {
    const path = options.path ?? (await backend.create()).url;
    fillSample(path, sample);
    execute(path, rows);
    const context = platformContext(path, options);
    await reach(context);
    return { path, context };
  }
  const prepare = {
    name: `live ${JSON.stringify([stage, tables, sample, agents])}`,
    make: async (url: string) => {
      await using context = platformContext(url);
      await reach(context);
    },
  };
  const { url: path } = await backend.create({ legacy: tables, sample, rows, prepare });
  return { path, context: platformContext(path, options) };
}

/** Agents that write: on SQLite in a process of their own, on PostgreSQL each on a connection of its own. */
export async function startAgents(
  path: string,
  agents: readonly Omit<WriterStart, "path">[],
): Promise<{ stop(): Promise<Written[]> }> {
  if (!isPostgres(path)) {
    const writers = new Writers();
    await writers.start(agents.map((one) => ({ path, ...one })));
    return writers;
  }
  const started = await Promise.all(agents.map((one) => PostgresAgent.start(path, one)));
  return {
    stop: async () => {
      await Promise.all(started.map((one) => one.stop()));
      return started.map(({ model, anomalies, statements, sides }) => ({ model, anomalies, statements, sides }));
    },
  };
}

/** As the two databases say it. */
const dialectOf = (path: string) => (isPostgres(path) ? postgres : sqlite).dialect;

const byId = (a: Record<string, unknown>, b: Record<string, unknown>) => (String(a.id) < String(b.id) ? -1 : 1);

function versions(path: string, side: "legacy" | "unified"): Record<string, unknown>[] {
  const [title, table] =
    side === "legacy" ? ["title", "tasks"] : [dialectOf(path).at("input_data", "title"), "unified_tasks"];
  return select(path, `SELECT id, ${title} AS title FROM ${table} WHERE substr(id, 1, 2) = 'w-'`).sort(byId);
}

/** Every write that was acknowledged, and nothing else, is on this side; no writer ever met another version. */
export function expectKept(path: string, side: "legacy" | "unified", written: readonly Written[], what = ""): void {
  const expected = written
    .flatMap(({ model }) => Object.entries(model))
    .filter(([, { gone }]) => !gone)
    .map(([id, { version }]) => ({ id, title: `v${version}` }))
    .sort(byId);
  expect(versions(path, side), `${side} ${what}`).toEqual(expected);
  expect(
    written.flatMap(({ anomalies }) => anomalies),
    what,
  ).toEqual([]);
}

/** What a killed dual writer had written: the call that had not come back may be there or not, but wholly. */
export function writtenBy(killed: { readonly [field: string]: unknown }, path: string): Written {
  const { model, inFlight } = killed as {
    model: Model;
    inFlight: { key: string; version: number; gone: boolean } | null;
  };
  const none = { anomalies: [], statements: 0, sides: { legacy: 0, unified: 0 } };
  if (inFlight === null) return { model, ...none };
  const { key, version, gone } = inFlight;
  const [row] = select(path, `SELECT title FROM tasks WHERE id = '${key}'`);
  const isThere = gone ? row === undefined : row?.title === `v${version}`;
  return { model: isThere ? { ...model, [key]: { version, gone } } : model, ...none };
}

/** The unified side is what a backfill of the legacy side into an empty one gives. */
export async function expectProjected(path: string, what = ""): Promise<void> {
  const copy = await copyOf(path);
  const unified = (table: string) => table.startsWith("unified_");
  const found = contentHashes(path, unified);
  const capture = select(copy, dialectOf(path).captureTriggers);
  const tables = [...Object.keys(found), "hive_backfill", "hive_quarantine", "hive_changes"];
  execute(
    copy,
    [...capture.map(({ statement }) => String(statement)), ...tables.map((name) => `DELETE FROM ${name}`)].join(";"),
  );
  await using context = platformContext(copy);
  await backfill(context, { agents: AGENTS });
  expect(found, what).toEqual(contentHashes(copy, unified));
}

/** As the database is now. On PostgreSQL whoever is connected is disconnected: a pool connects again. */
export async function copyOf(path: string): Promise<string> {
  if (isPostgres(path)) return postgresDatabase({ template: databaseOf(path), disconnect: true });
  const copy = join(dirname(path), `again-${Math.random().toString(36).slice(2)}.db`);
  execute(path, "PRAGMA wal_checkpoint(TRUNCATE)");
  copyFileSync(path, copy);
  return copy;
}

/** Whole, equal on both sides, and nothing left to do. */
export async function expectClean(context: Context, what = ""): Promise<void> {
  const path = context.store.location;
  if (!isPostgres(path)) expect(integrity(path), what).toBe("ok");
  const result = await check(context);
  expect({ ...result, seconds: 0 }, what).toMatchObject({ consistent: true, inFlight: 0 });
  const log = select(path, "SELECT count(*) AS n, count(side) AS waiting FROM hive_changes");
  expect(Number(log[0]?.n), what).toBeLessThanOrEqual(1);
  expect(log[0]?.waiting, what).toBe(0);
}
