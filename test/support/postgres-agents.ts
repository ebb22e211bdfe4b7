import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { onTestFinished } from "vitest";

/**
 * Agents that know nothing of hive, on PostgreSQL: plain SQL through the driver, each on a connection of its own, one
 * short transaction after the other. Each has keys of its own (`w-NAME-N`), and each write raises the version in the
 * title by one: a version that is not the last one acknowledged was lost, revived or written over by something older.
 */

/** By key: the last version that was acknowledged, and whether it was a DELETE. */
export type Model = Record<string, { readonly version: number; readonly gone: boolean }>;

export interface AgentOptions {
  readonly name: string;
  readonly seed: number;
  /** Reads the flag in the transaction in which it writes, and writes the side that leads; else: the legacy side. */
  readonly led?: boolean;
  readonly everyMs?: number;
  readonly keys?: number;
  readonly model?: Model;
}

const KINDS = [
  { type: "backend", agent: "hive-coder", unified: "code" },
  { type: "review", agent: "ai-reviewer", unified: "review" },
  { type: "deployment", agent: "ai-deployer", unified: "deploy" },
  { type: "analysis", agent: "ai-planner", unified: "plan" },
] as const;
type Kind = (typeof KINDS)[number];

/** Mulberry32: the same numbers for the same seed. */
export function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class PostgresAgent {
  readonly model: Model;
  /** Keys that were not as they had been left, and statements that failed: hive's doing. */
  readonly anomalies: unknown[] = [];
  statements = 0;
  readonly sides = { legacy: 0, unified: 0 };
  private readonly options: AgentOptions;
  private readonly random: () => number;
  private readonly client: pg.Client;
  private stopping = false;
  private running: Promise<void> | undefined;
  private waiting: (() => void)[] = [];

  private constructor(url: string, options: AgentOptions) {
    this.options = options;
    this.model = { ...options.model };
    this.random = randomFrom(options.seed);
    this.client = new pg.Client({ connectionString: url, application_name: `agent ${options.name}` });
    this.client.on("error", () => undefined);
  }

  /** One that has written once. */
  static async start(url: string, options: AgentOptions): Promise<PostgresAgent> {
    const agent = new PostgresAgent(url, options);
    onTestFinished(() => agent.stop());
    await agent.client.connect();
    agent.running = agent.run();
    await agent.more();
    return agent;
  }

  /** Resolves when `count` more writes were acknowledged. */
  async more(count = 1): Promise<void> {
    for (const until = this.statements + count; this.statements < until && !this.stopping; ) {
      await new Promise<void>((done) => this.waiting.push(done));
    }
  }

  /** Everything is acknowledged then. */
  async stop(): Promise<void> {
    this.stopping = true;
    await this.running;
    await this.client.end();
  }

  private async run(): Promise<void> {
    while (!this.stopping) {
      try {
        await this.write();
      } catch (error) {
        this.anomalies.push({ after: this.statements, error: String(error) });
        this.stopping = true;
      }
      for (const done of this.waiting.splice(0)) done();
      await delay(this.options.everyMs ?? 40);
    }
  }

  private async write(): Promise<void> {
    const { name, keys = 8, led = false } = this.options;
    const number = Math.floor(this.random() * keys);
    const kind = KINDS[number % KINDS.length] ?? KINDS[0];
    const key = `w-${name}-${number}`;
    await this.client.query("BEGIN");
    const side = led && (await this.unifiedLeads(kind.agent)) ? "unified" : "legacy";
    const before = this.model[key];
    const found = await this.version(side, key);
    const expected = before === undefined || before.gone ? null : before.version;
    if (found !== expected) this.anomalies.push({ key, side, expected, found, after: this.statements });
    const version = (before?.version ?? 0) + 1;
    const gone = found !== null && this.random() < 0.12;
    await this[side](key, kind, version, found !== null, gone);
    await this.client.query("COMMIT");
    // Only now was it acknowledged.
    this.model[key] = { version, gone };
    this.sides[side] += 1;
    this.statements += 1;
  }

  /** FOR SHARE: no flip can come in between this and the commit. */
  private async unifiedLeads(agent: string): Promise<boolean> {
    const text = "SELECT value FROM hive.hive_flags WHERE agent = $1 AND flag = 'reads' FOR SHARE";
    const { rows } = await this.client.query(text, [agent]);
    return rows[0]?.value === "live" || rows[0]?.value === "unified";
  }

  private async version(side: "legacy" | "unified", key: string): Promise<number | null> {
    const text =
      side === "legacy"
        ? "SELECT title FROM tasks WHERE id = $1"
        : "SELECT input_data ->> 'title' AS title FROM unified_tasks WHERE id = $1";
    const { rows } = await this.client.query(text, [key]);
    const match = /^v(\d+)$/.exec(rows[0]?.title ?? "");
    return match ? Number(match[1]) : null;
  }

  private async legacy(key: string, { type }: Kind, version: number, exists: boolean, gone: boolean): Promise<void> {
    const run = (text: string, values: unknown[]) => this.client.query(text, values);
    const title = `v${version}`;
    if (gone) {
      await run("DELETE FROM deployment_events WHERE task_id = $1", [key]);
      // What belongs to it goes by the foreign keys.
      await run("DELETE FROM tasks WHERE id = $1", [key]);
      return;
    }
    const way = this.random();
    if (!exists || way < 0.2) {
      const insert = `INSERT INTO tasks (id, title, task_type, status, payload) VALUES ($1, $2, $3, 'queued', '{"files":["a.py"]}')`;
      await run(`${insert} ON CONFLICT (id) DO UPDATE SET title = excluded.title`, [key, title, type]);
    } else {
      const status = ["in_progress", "completed", "failed", "queued"][Math.floor(way * 40) % 4];
      await run("UPDATE tasks SET title = $1, status = $2, updated_at = now() WHERE id = $3", [title, status, key]);
    }
    if (this.random() >= 0.3) return;
    const id = `${this.options.name}-${key}-${version % 3}`;
    await run(
      `INSERT INTO runs (id, task_id, worker_id, run_number, status, result_data)
       VALUES ($1, $2, 'w-worker', $3, 'success', $4)
       ON CONFLICT (id) DO UPDATE SET run_number = excluded.run_number, result_data = excluded.result_data`,
      [id, key, version, JSON.stringify({ title })],
    );
  }

  private async unified(
    key: string,
    { unified, agent }: Kind,
    version: number,
    exists: boolean,
    gone: boolean,
  ): Promise<void> {
    const run = (text: string, values: unknown[]) => this.client.query(text, values);
    const title = `v${version}`;
    if (gone) {
      for (const table of ["unified_review_tasks", "unified_workflow_tasks", "unified_deployment_tasks"]) {
        await run(`DELETE FROM ${table} WHERE task_id = $1`, [key]);
      }
      await run("DELETE FROM unified_tasks WHERE id = $1", [key]);
    } else if (exists) {
      await run(
        "UPDATE unified_tasks SET input_data = jsonb_set(input_data, '{title}', to_jsonb($1::text)), updated_at = now() WHERE id = $2",
        [title, key],
      );
    } else {
      await run(
        `INSERT INTO unified_tasks (id, correlation_id, task_type, status, agent_type, priority, input_data, created_at, updated_at)
         VALUES ($1, $1, $2, 'queued', $3, 5, $4, now(), now())`,
        [key, unified, agent, JSON.stringify({ title, description: null, payload: null })],
      );
    }
  }
}
