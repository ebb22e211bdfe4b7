import { AsyncLocalStorage } from "node:async_hooks";
import type { Clock } from "../clock.ts";
import type { Context } from "../context.ts";
import { ERROR_CODES, HiveError } from "../errors.ts";
import type { MeasuredResult } from "../results.ts";
import type { Session, Store, Transaction, TransactionOptions } from "../storage/port.ts";
import { among, join, sql } from "../storage/sql.ts";
import { Histogram, type Percentiles } from "./histogram.ts";

/**
 * What is measured, and by what it is told apart.
 * `write`: one side of a write of the dual writer; `legacy` or `unified`, ms.
 * `writer`: a call of the dual writer that was committed; the operation, ms.
 * `rollback`: one that was rolled back; the code of the error, or `caller` for an error of the caller's own.
 * `emit`: an event that was emitted; its type and its agent, separated by a space.
 * `delivery`: an event that a subscriber was given; the subscriber, ms since it was recorded.
 * `delivery error`: one that it could not deal with; the subscriber.
 * `task`: a task that an agent's adapter executed; the agent, ms. `task error`: one that failed; the agent.
 * `health`: a health check; `healthy`, `unhealthy` or `unknown`, ms.
 */
export type Metric =
  | "write"
  | "writer"
  | "rollback"
  | "emit"
  | "delivery"
  | "delivery error"
  | "task"
  | "task error"
  | "health";

/** What was measured in one minute by all processes. */
export interface Measured {
  /** `2026-11-23T03:00Z` */
  readonly minute: string;
  readonly metric: string;
  readonly label: string;
  readonly count: number;
  /** Milliseconds; 0 for what has no duration. */
  readonly sum: number;
  readonly histogram: Histogram;
}

interface Cell extends Measured {
  count: number;
  sum: number;
}
type Cells = Map<string, Cell>;

const FLUSH_AFTER_MS = 10_000;
const KEEP_MS = 24 * 3_600_000;
/** What does not fit any more is not measured: a database that cannot be written to must not cost the memory. */
const MOST_CELLS = 5_000;
/** How long figures may wait for other writers: they are only figures. */
const PATIENCE_MS = 1_000;
const LOCK = "hive_metrics";

/** A timer keeps the context of whoever set it, a running transaction included: this one has none. */
const outside = AsyncLocalStorage.snapshot();

const collectors = new WeakMap<Store, Metrics>();

/** What measures for this database: one collector, whoever asks. */
export function metricsOf({ store, clock }: Pick<Context, "store" | "clock">): Metrics {
  let metrics = collectors.get(store);
  if (!metrics) {
    metrics = new Metrics(store, clock);
    collectors.set(store, metrics);
  }
  return metrics;
}

/**
 * Counts in memory, and adds to the ledger what has gathered by the minute: every ten seconds at most, in a write
 * transaction that is made anyway ({@link transaction}) or in one of its own. Measuring never fails: where the ledger
 * has no place for figures they are dropped, and a process that is killed loses those of its last ten seconds.
 */
export class Metrics {
  private readonly store: Store;
  private readonly clock: Clock;
  private cells: Cells = new Map();
  private flushedAt: number;
  private timer: NodeJS.Timeout | undefined;
  private finished = false;
  private running: Promise<void> = Promise.resolve();

  constructor(store: Store, clock: Clock) {
    this.store = store;
    this.clock = clock;
    this.flushedAt = clock.monotonic();
  }

  /** One more of these; `ms`: how long it took. */
  add(metric: Metric, label: string, ms?: number): void {
    const minute = minuteOf(this.clock.now());
    // A text has no U+0000 on PostgreSQL.
    const name = label.replaceAll("\u0000", "\ufffd");
    const key = `${minute}\u0000${metric}\u0000${name}`;
    let cell = this.cells.get(key);
    if (!cell) {
      if (this.cells.size >= MOST_CELLS) return;
      cell = { minute, metric, label: name, count: 0, sum: 0, histogram: new Histogram() };
      this.cells.set(key, cell);
    }
    cell.count += 1;
    if (ms !== undefined) {
      cell.sum += ms;
      cell.histogram.add(ms);
    }
    if (this.timer !== undefined || this.finished) return;
    this.timer = outside(() => setTimeout(() => void this.flush(), FLUSH_AFTER_MS)).unref();
  }

  wrote(side: "legacy" | "unified", ms: number): void {
    this.add("write", side, ms);
  }
  committed(operation: string, ms: number): void {
    this.add("writer", operation, ms);
  }
  rolledBack(error: unknown): void {
    this.add("rollback", error instanceof HiveError ? error.code : "caller");
  }
  /** To be called when the transaction has committed. */
  emitted(type: string, agent: string): void {
    this.add("emit", `${type} ${agent}`);
  }
  /** `ms`: from when the event was recorded to when the subscriber was done with it. */
  delivered(subscriber: string, ms: number): void {
    this.add("delivery", subscriber, Math.max(0, ms));
  }
  deliveryFailed(subscriber: string): void {
    this.add("delivery error", subscriber);
  }
  taskDone(agent: string, ms: number): void {
    this.add("task", agent, ms);
  }
  taskFailed(agent: string): void {
    this.add("task error", agent);
  }
  healthChecked(status: "healthy" | "unhealthy" | "unknown", ms: number): void {
    this.add("health", status, ms);
  }

  /** As the store's; carries along what has gathered, if that is due. */
  async transaction<T>(
    label: string,
    work: (tx: Transaction) => Promise<T>,
    options: TransactionOptions = {},
  ): Promise<T> {
    const due = this.clock.monotonic() - this.flushedAt >= FLUSH_AFTER_MS && this.cells.size > 0;
    if (!due) return this.store.transaction(label, work, options);
    this.flushedAt = this.clock.monotonic();
    let taken: Cells = new Map();
    try {
      return await this.store.transaction(
        label,
        async (tx) => {
          this.giveBack(taken);
          taken = new Map();
          const result = await work(tx);
          // At the end, and only where nobody else is at it: whoever waits here holds rows that others wait for.
          taken = this.take();
          if (!(await this.carried(tx, taken))) {
            this.giveBack(taken);
            taken = new Map();
          }
          return result;
        },
        options,
      );
    } catch (error) {
      this.giveBack(taken);
      throw error;
    }
  }

  /** Adds what has gathered to the ledger now, in a transaction of its own. Never fails. */
  flush(): Promise<void> {
    this.running = this.running.then(() => this.flushNow());
    return this.running;
  }

  private async flushNow(): Promise<void> {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.cells.size === 0) return;
    this.flushedAt = this.clock.monotonic();
    const taken = this.take();
    try {
      // Most databases that lack the table are not to be written to at all.
      if ((await this.store.table("hive_metrics")) === null) return;
      await outside(() =>
        this.store.transaction(
          "metrics",
          async (tx) => {
            await tx.serialize([LOCK]);
            await addCells(tx, [...taken.values()], this.clock.now());
          },
          { waitMs: PATIENCE_MS },
        ),
      );
    } catch (error) {
      if (error instanceof HiveError && error.retryable) this.giveBack(taken);
    }
  }

  /** The last figures; nothing is measured any more. */
  async finish(): Promise<void> {
    this.finished = true;
    await this.flush();
    this.cells.clear();
  }

  private async carried(tx: Transaction, cells: Cells): Promise<boolean> {
    try {
      if ((await this.store.table("hive_metrics", tx)) === null) return true;
      return await tx.attempt(async () => {
        if (!(await tx.serialize([LOCK], "skip"))) return false;
        await addCells(tx, [...cells.values()], this.clock.now());
        return true;
      });
    } catch (error) {
      return !(error instanceof HiveError && error.retryable);
    }
  }

  private take(): Cells {
    const taken = this.cells;
    this.cells = new Map();
    return taken;
  }

  private giveBack(cells: Cells): void {
    for (const [key, cell] of cells) {
      const now = this.cells.get(key);
      if (now) addTo(now, cell);
      else this.cells.set(key, cell);
    }
  }
}

/** The minute of a time, as the ledger has it. */
function minuteOf(time: number): string {
  return `${new Date(time).toISOString().slice(0, 16)}Z`;
}

function addTo(cell: Cell, more: Measured): void {
  cell.count += more.count;
  cell.sum += more.sum;
  cell.histogram.merge(more.histogram);
}

/** What others have added is read here: nobody else may be at it until the transaction ends. */
async function addCells(tx: Session, cells: readonly Cell[], now: number): Promise<void> {
  const [first, ...more] = new Set(cells.map(({ minute }) => minute));
  if (first === undefined) return;
  const rows = await tx.all(sql`SELECT minute, metric, label, count, sum, buckets FROM hive_metrics
    WHERE minute IN ${among([first, ...more])}`);
  const known = new Map(rows.map((row) => [`${row.minute}\u0000${row.metric}\u0000${row.label}`, row]));
  const values = cells.map((cell) => {
    const row = known.get(`${cell.minute}\u0000${cell.metric}\u0000${cell.label}`);
    const total: Cell = {
      ...cell,
      count: Number(row?.count ?? 0),
      sum: Number(row?.sum ?? 0),
      histogram: new Histogram(),
    };
    if (row) total.histogram.merge(Histogram.parse(String(row.buckets)));
    addTo(total, cell);
    return sql`(${total.minute}, ${total.metric}, ${total.label}, ${total.count}, ${total.sum}, ${total.histogram.toText()})`;
  });
  await tx.run(sql`INSERT INTO hive_metrics (minute, metric, label, count, sum, buckets) VALUES ${join(values)}
    ON CONFLICT (minute, metric, label)
    DO UPDATE SET count = excluded.count, sum = excluded.sum, buckets = excluded.buckets`);
  await tx.run(sql`DELETE FROM hive_metrics WHERE minute < ${minuteOf(now - KEEP_MS)}`);
}

/** What was measured from this minute on (milliseconds since the epoch), oldest first. Nothing without the ledger. */
export async function readMetrics(store: Store, session: Session, since: number): Promise<Measured[]> {
  if ((await store.table("hive_metrics", session)) === null) return [];
  const rows = await session.all(sql`SELECT minute, metric, label, count, sum, buckets FROM hive_metrics
    WHERE minute >= ${minuteOf(since)} ORDER BY minute, metric, label`);
  return rows.map((row) => ({
    minute: String(row.minute),
    metric: String(row.metric),
    label: String(row.label),
    count: Number(row.count),
    sum: Number(row.sum),
    histogram: Histogram.parse(String(row.buckets)),
  }));
}

export interface Total {
  readonly count: number;
  /** Milliseconds. */
  readonly sum: number;
  readonly percentiles: Percentiles;
}

/** All of this metric together, or those of one label. */
export function totalOf(measured: readonly Measured[], metric: Metric, label?: string): Total {
  const histogram = new Histogram();
  let [count, sum] = [0, 0];
  for (const one of measured) {
    if (one.metric !== metric || (label !== undefined && one.label !== label)) continue;
    count += one.count;
    sum += one.sum;
    histogram.merge(one.histogram);
  }
  return { count, sum, percentiles: histogram.percentiles() };
}

/** The same, label by label. */
export function byLabel(measured: readonly Measured[], metric: Metric): Map<string, Total> {
  const labels = new Set(measured.filter((one) => one.metric === metric).map(({ label }) => label));
  return new Map([...labels].sort().map((label) => [label, totalOf(measured, metric, label)]));
}

/** Rolled back because the caller asked for what could not be: nothing that the database or hive is to blame for. */
function isRefusal(rollback: string): boolean {
  const known = Object.entries(ERROR_CODES).find(([code]) => code === rollback)?.[1];
  return known !== undefined && (known.exit === 2 || known.exit === 4);
}

const MINUTE_MS = 60_000;

/** What was measured in the last hour, for people. Null where nothing was. */
export async function recentlyMeasured(store: Store, session: Session, now: number): Promise<MeasuredResult | null> {
  const measured = await readMetrics(store, session, now - 60 * MINUTE_MS);
  if (measured.length === 0) return null;
  const rollbacks = [...byLabel(measured, "rollback")];
  const refused = sum(rollbacks.filter(([code]) => isRefusal(code)));
  const rolledBack = sum(rollbacks) - refused;
  const committed = totalOf(measured, "writer").count;
  const emits = [...byLabel(measured, "emit")];
  const emitted = sum(emits);
  const delivery = totalOf(measured, "delivery");
  const errors = totalOf(measured, "delivery error").count;
  const tasks = totalOf(measured, "task");
  const failed = totalOf(measured, "task error").count;
  const checks = totalOf(measured, "health").count;
  const first = measured.find(({ metric }) => metric === "emit")?.minute;
  return {
    writes:
      committed + rolledBack + refused === 0
        ? null
        : {
            committed,
            rolledBack,
            refused,
            rollbackRate: rolledBack === 0 ? 0 : rolledBack / (committed + rolledBack),
            legacy: latency(totalOf(measured, "write", "legacy")),
            unified: latency(totalOf(measured, "write", "unified")),
          },
    events:
      first === undefined
        ? null
        : {
            emitted,
            // The minute that runs counts as a whole: a second after it began, a rate would be sixty times too high.
            perMinute: emitted / (Math.floor(now / MINUTE_MS) - Math.floor(Date.parse(first) / MINUTE_MS) + 1),
            byAgent: emits.map(([label, { count }]) => {
              const [type = "", ...agent] = label.split(" ");
              return { type, agent: agent.join(" "), emitted: count };
            }),
          },
    delivery: delivery.count + errors === 0 ? null : { ...(latency(delivery) ?? NO_LATENCY), errors },
    tasks: tasks.count + failed === 0 ? null : { ...(latency(tasks) ?? NO_LATENCY), failed },
    health: checks === 0 ? null : { checks, healthyRate: totalOf(measured, "health", "healthy").count / checks },
  };
}

const NO_LATENCY = { count: 0, p50Ms: 0, p99Ms: 0 };

function latency({ count, percentiles: { p50, p99 } }: Total): { count: number; p50Ms: number; p99Ms: number } | null {
  return count === 0 ? null : { count, p50Ms: p50, p99Ms: p99 };
}

function sum(totals: readonly (readonly [string, Total])[]): number {
  return totals.reduce((total, [, { count }]) => total + count, 0);
}
