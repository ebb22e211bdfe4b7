import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import Database from "better-sqlite3";

/**
 * The platform's agents as processes (agent.py), and what became of their statements: failures, latencies, whether
 * two runs returned the same, and whether every acknowledged write is in the legacy tables. Knows nothing of hive.
 */

export const AGENT_SCRIPT = fileURLToPath(new URL("../support/agents/agent.py", import.meta.url));

export const KINDS = ["write", "read", "read-then-write"] as const;
export type Kind = (typeof KINDS)[number];

/** A line of an agent's log: an operation that ended. */
export interface Operation {
  op: number;
  kind: Kind;
  name: string;
  /** From its first statement to its commit, without the time that the agent itself spends in between. */
  ms: number;
  /** Seconds since the agents were let go. */
  at: number;
  error?: { text: string; code: string };
  /** Where a statement returned something else than by the agent's own copy it has to. */
  unexpected?: { got: string; expected: string };
  returned?: unknown[];
}

export interface AgentLog {
  agent: number;
  operations: Operation[];
  /** UTC, `YYYY-MM-DD HH:MM:SS`; what CURRENT_TIMESTAMP wrote lies between the two. */
  since: string;
  until: string;
  /** The file with what the database has to hold of this agent's share. */
  expected: string;
}

export interface AgentOptions {
  database: string;
  /** Gets the logs. */
  folder: string;
  agents: number;
  /** Operations per second of each. */
  rate: number;
  seed: number;
  /** How many operations each does at most; without it, they go on until they are stopped. */
  operations?: number;
  /** How long a read-then-write thinks between the two at most, in milliseconds; default 1. */
  think?: number;
  script?: string;
}

export interface Agents {
  /** Lets all of them begin, or go on. */
  go(): void;
  /** Returns when none of them is within an operation any more, and none begins another. */
  pause(): Promise<void>;
  /** Waits until each has done its operations. Rejects if one failed. */
  done(): Promise<AgentLog[]>;
  /** Ends each of them after the operation that it is at, and waits for that. */
  stop(): Promise<AgentLog[]>;
  /** For when something else failed. */
  kill(): void;
}

/** Why the agents cannot run here; null where they can. */
export function agentsMissing(): string | null {
  const { status, error } = spawnSync("python3", ["-c", "import sqlite3"]);
  return status === 0 ? null : `python3 with sqlite3 is not there (${error?.message ?? `exit code ${status}`})`;
}

/** Starts the agents on a database in WAL mode that nobody writes to, and waits until each has read its share. */
export async function startAgents(options: AgentOptions): Promise<Agents> {
  const logs = Array.from({ length: options.agents }, (_, id) => join(options.folder, `agent-${id}.jsonl`));
  const children: ChildProcess[] = [];
  const kill = () => {
    for (const child of children) child.kill("SIGKILL");
  };
  const ended: Promise<void>[] = [];
  const ready: Promise<void>[] = [];
  for (const [id, log] of logs.entries()) {
    const given = {
      database: options.database,
      id,
      agents: options.agents,
      rate: options.rate,
      seed: options.seed,
      log,
    };
    const optional = Object.entries({ operations: options.operations, think: options.think });
    const limits = optional.flatMap(([name, value]) => (value === undefined ? [] : [`--${name}`, String(value)]));
    const words = Object.entries(given).flatMap(([name, value]) => [`--${name}`, String(value)]);
    const child = spawn("python3", [options.script ?? AGENT_SCRIPT, ...words, ...limits], {
      stdio: ["pipe", "pipe", "pipe"],
    });
    children.push(child);
    let errors = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      errors += text;
    });
    // One that has ended by itself need not be told anything.
    child.stdin.on("error", () => undefined);
    const end = new Promise<void>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", (code, signal) => {
        if (code === 0) resolve();
        else reject(new Error(`agent ${id} ended with ${signal ?? `code ${code}`}\n${errors}`));
      });
    });
    end.catch(() => undefined);
    ended.push(end);
    ready.push(Promise.race([new Promise<void>((resolve) => child.stdout.once("data", () => resolve())), end]));
  }
  const collect = async () => {
    await Promise.all(ended);
    return logs.map(readLog);
  };
  try {
    await Promise.all(ready);
  } catch (error) {
    kill();
    throw error;
  }
  return {
    go: () => {
      for (const child of children) child.stdin?.write("go\n");
    },
    pause: async () => {
      const paused = children.map(
        (child) => new Promise<void>((resolve) => child.stdout?.once("data", () => resolve())),
      );
      for (const child of children) child.stdin?.write("pause\n");
      // One that has done all its operations ends instead.
      await Promise.all(paused.map((one, id) => Promise.race([one, ended[id]])));
    },
    done: collect,
    stop: () => {
      for (const child of children) child.stdin?.end();
      return collect();
    },
    kill,
  };
}

function readLog(path: string): AgentLog {
  const lines = readFileSync(path, "utf8").trimEnd().split("\n");
  const first = JSON.parse(lines.shift() ?? "{}");
  const last = JSON.parse(lines.pop() ?? "{}");
  if (last.end === undefined) throw new Error(`${path} has no end`);
  return {
    agent: first.agent,
    operations: lines.map((line): Operation => JSON.parse(line)),
    since: last.since,
    until: last.until,
    expected: `${path}.db`,
  };
}

export interface KindFigures {
  count: number;
  failed: number;
  /** 0 to 1; 0 where there were none. */
  failureRate: number;
  p50Ms: number;
  p95Ms: number;
  p99Ms: number;
  maxMs: number;
}

/** Per kind; the latencies are of those that did not fail. */
export function figuresOf(logs: readonly AgentLog[]): Record<Kind, KindFigures> {
  const figures = KINDS.map((kind) => {
    const all = logs.flatMap((log) => log.operations.filter((one) => one.kind === kind));
    const times = all.flatMap((one) => (one.error ? [] : [one.ms])).sort((a, b) => a - b);
    const at = (share: number) => times[Math.min(times.length - 1, Math.floor(times.length * share))] ?? 0;
    const failed = all.length - times.length;
    return [
      kind,
      {
        count: all.length,
        failed,
        failureRate: all.length === 0 ? 0 : failed / all.length,
        p50Ms: at(0.5),
        p95Ms: at(0.95),
        p99Ms: at(0.99),
        maxMs: times.at(-1) ?? 0,
      },
    ];
  });
  return Object.fromEntries(figures);
}

/** The operations of these kinds that failed, with what was said. */
export function failuresOf(logs: readonly AgentLog[], kinds: readonly Kind[] = KINDS): string[] {
  return logs.flatMap(({ agent, operations }) =>
    operations
      .filter((one) => one.error && kinds.includes(one.kind))
      .map(
        ({ op, kind, name, at, error }) =>
          `agent ${agent} op ${op} at ${at} s: ${kind} (${name}): ${error?.code} ${error?.text}`,
      ),
  );
}

/** Statements that returned something else than the agent's own writes make them return. */
export function unexpectedOf(logs: readonly AgentLog[]): string[] {
  return logs.flatMap(({ agent, operations }) =>
    operations.flatMap(({ op, name, unexpected, returned }) => {
      const what = `agent ${agent} op ${op} (${name})`;
      if (unexpected) return [`${what}: ${unexpected.got} instead of ${unexpected.expected}`];
      return JSON.stringify(returned)?.includes('"lastrowid":"wrong') ? [`${what}: ${JSON.stringify(returned)}`] : [];
    }),
  );
}

/**
 * Where the second run's statements returned something else than the first one's, as far as both went. Of operations
 * that failed in one of them nothing is said.
 */
export function differencesBetween(first: readonly AgentLog[], second: readonly AgentLog[]): string[] {
  return first.flatMap((log, index) => {
    const other = second[index];
    if (!other) return [`agent ${log.agent} ran once only`];
    const both = Math.min(log.operations.length, other.operations.length);
    return log.operations.slice(0, both).flatMap((a, position) => {
      const b = other.operations[position];
      const same = b?.op === a.op && b.kind === a.kind && b.name === a.name;
      const what = `agent ${log.agent} op ${a.op} (${a.name})`;
      if (!same) return [`${what}: another operation, ${b?.name}`];
      if (a.error || b.error) return [];
      const [one, two] = [JSON.stringify(a.returned), JSON.stringify(b.returned)];
      return one === two ? [] : [`${what}: ${two} instead of ${one}`];
    });
  });
}

/** The columns that CURRENT_TIMESTAMP may write. */
const TIMED: Readonly<Record<string, readonly string[]>> = {
  tasks: ["created_at", "updated_at"],
  runs: ["started_at"],
  workers: ["last_heartbeat", "registered_at"],
  planning_queue: ["created_at"],
  execution_plans: ["generated_at"],
  events: ["created_at"],
};

/**
 * Compares the legacy tables with what the agents' acknowledged writes, and nobody else's, make of the file that they
 * began with: every row that is missing, changed or too many, as text (the first 20 of a table). Each value with its
 * storage class and bytes; of what CURRENT_TIMESTAMP wrote, only that it lies within the run.
 */
export function lostOrChanged(database: string, logs: readonly AgentLog[]): string[] {
  const db = new Database(database, { readonly: true });
  try {
    const since = logs.map((log) => log.since).sort()[0] ?? "";
    const until =
      logs
        .map((log) => log.until)
        .sort()
        .at(-1) ?? "";
    for (const [index, log] of logs.entries()) db.prepare(`ATTACH ? AS agent${index}`).run(log.expected);
    const tables = db.prepare("SELECT name FROM agent0.sqlite_schema WHERE type = 'table' ORDER BY name").pluck().all();
    return tables
      .map(String)
      .filter((name) => !name.startsWith("sqlite_"))
      .flatMap((table) => {
        const columns = db.prepare("SELECT name FROM pragma_table_info(?) ORDER BY cid").pluck().all(table).map(String);
        const values = columns.map((name) => {
          const column = `"${name}"`;
          const now = `${column} BETWEEN '${since}' AND '${until}' AND length(${column}) = 19`;
          const text = `typeof(${column}) || ':' || ${column}`;
          const value = `CASE WHEN typeof(${column}) IN ('text', 'blob') THEN CAST(${column} AS BLOB) ELSE ${text} END`;
          return TIMED[table]?.includes(name) ? `CASE WHEN ${now} THEN '<now>' ELSE ${value} END` : value;
        });
        const select = `SELECT ${columns.map((name) => `typeof("${name}")`).join(", ")}, ${values.join(", ")}, 1 FROM`;
        const expected = logs.map((_, index) => `${select} agent${index}."${table}"`).join(" UNION ALL ");
        const actual = `${select} main."${table}"`;
        const difference = (a: string, b: string) =>
          db.prepare(`SELECT * FROM (${a}) EXCEPT SELECT * FROM (${b}) LIMIT 20`).raw(true).all().map(rowText);
        const count = (rows: string) => Number(db.prepare(`SELECT count(*) FROM (${rows})`).pluck().get());
        const found = [
          ...difference(expected, actual).map((row) => `${table} lacks ${row}`),
          ...difference(actual, expected).map((row) => `${table} has, and should not: ${row}`),
        ];
        const counts = [count(actual), count(expected)];
        if (counts[0] !== counts[1]) found.push(`${table} has ${counts[0]} rows instead of ${counts[1]}`);
        return found;
      });
  } finally {
    db.close();
  }
}

function rowText(row: unknown): string {
  const values = Array.isArray(row) ? row.slice((row.length - 1) / 2, -1) : [row];
  return values
    .map((value) => (Buffer.isBuffer(value) ? JSON.stringify(value.toString("utf8").slice(0, 60)) : String(value)))
    .join(", ");
}
