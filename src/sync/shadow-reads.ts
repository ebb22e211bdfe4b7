import { isoTime } from "../clock.ts";
import type { Context } from "../context.ts";
import { HiveError } from "../errors.ts";
import { sql } from "../storage/sql.ts";

/** What a comparison of both sides of one aggregate found. */
export interface Mismatch {
  readonly mapping: string;
  readonly agent: string;
  /** Columns, as `table.column`, sorted. */
  readonly difference: string;
  readonly key: string;
  /** The values of those columns as JSON: an example. */
  readonly legacy: string | null;
  readonly unified: string | null;
}

/** `skipped`: waits to be carried over, is in quarantine, or is no longer at a stage at which both are compared. */
export type Comparison = "same" | "skipped" | Mismatch;

export interface ComparisonStats {
  readonly compared: number;
  readonly mismatches: number;
  readonly skipped: number;
  /** Not begun, because too many were waiting. */
  readonly dropped: number;
  readonly timedOut: number;
  readonly failed: number;
}

export interface ShadowReadOptions {
  /** After so many milliseconds a comparison is given up. Default 1000. */
  compareTimeoutMs?: number;
  /** So many comparisons wait at most; more are dropped. Default 100. */
  comparisonsWaiting?: number;
}

const AT_ONCE = 2;
const EXAMPLE_CHARACTERS = 2_000;
/** A difference that is known already is counted in memory and written down this often. */
const WRITE_EVERY_MS = 5_000;
const MOST_DIFFERENCES = 200;

/**
 * Compares both sides after the answer was given, and records what differs in hive_mismatches: once for each distinct
 * difference, with how often it was met. Never throws, never waits for a lock that somebody else holds.
 */
export class ShadowReads {
  private readonly context: Context;
  private readonly compare: (key: string) => Promise<Comparison>;
  private readonly timeoutMs: number;
  private readonly most: number;
  private readonly waiting: { key: string; since: number }[] = [];
  private readonly running = new Set<Promise<void>>();
  private readonly found = new Map<string, { mismatch: Mismatch; times: number }>();
  private readonly recorded = new Set<string>();
  private readonly counts = { compared: 0, mismatches: 0, skipped: 0, dropped: 0, timedOut: 0, failed: 0 };
  private writtenAt = Number.NEGATIVE_INFINITY;
  private writing: Promise<void> | undefined;
  private begins: NodeJS.Immediate | undefined;

  constructor(context: Context, compare: (key: string) => Promise<Comparison>, options: ShadowReadOptions) {
    this.context = context;
    this.compare = compare;
    this.timeoutMs = options.compareTimeoutMs ?? 1_000;
    this.most = options.comparisonsWaiting ?? 100;
  }

  stats(): ComparisonStats {
    return { ...this.counts };
  }

  offer(key: string): void {
    if (this.waiting.length >= this.most) {
      this.counts.dropped += 1;
      return;
    }
    this.waiting.push({ key, since: this.context.clock.monotonic() });
    // Not before the caller has gone on with the answer.
    this.begins ??= setImmediate(() => {
      this.begins = undefined;
      this.begin();
    });
  }

  /** When everything that was offered has been compared and recorded. */
  async finish(): Promise<void> {
    while (this.waiting.length > 0 || this.running.size > 0 || this.writing) {
      this.begin();
      await Promise.all([...this.running, this.writing]);
    }
    await this.record(undefined).catch(() => {
      this.counts.failed += 1;
    });
  }

  private begin(): void {
    while (this.running.size < AT_ONCE) {
      const next = this.waiting.shift();
      if (!next) return;
      const left = next.since + this.timeoutMs - this.context.clock.monotonic();
      if (left <= 0) {
        this.counts.timedOut += 1;
        continue;
      }
      const one: Promise<void> = this.compareOne(next.key, left).finally(() => {
        this.running.delete(one);
        if (this.waiting.length > 0)
          this.begins ??= setImmediate(() => {
            this.begins = undefined;
            this.begin();
          });
      });
      this.running.add(one);
    }
  }

  private async compareOne(key: string, timeoutMs: number): Promise<void> {
    const done = new AbortController();
    let late = false;
    const timer = this.context.clock.sleep(timeoutMs, done.signal).then(() => {
      if (done.signal.aborted) return;
      late = true;
      this.counts.timedOut += 1;
    });
    try {
      const result = await this.compare(key);
      done.abort();
      await timer;
      if (!late) this.note(result);
    } catch {
      if (!late) this.counts.failed += 1;
    } finally {
      done.abort();
    }
  }

  private note(result: Comparison): void {
    if (result === "skipped") {
      this.counts.skipped += 1;
      return;
    }
    this.counts.compared += 1;
    if (result === "same") return;
    this.counts.mismatches += 1;
    const name = JSON.stringify([result.mapping, result.agent, result.difference]);
    const known = this.found.get(name);
    if (known) known.times += 1;
    else if (this.found.size < MOST_DIFFERENCES) this.found.set(name, { mismatch: result, times: 1 });
    const due = !this.recorded.has(name) || this.context.clock.monotonic() - this.writtenAt > WRITE_EVERY_MS;
    if (!due || this.writing) return;
    // What cannot be written now is written with the next one, or at the end.
    this.writing = this.record(0)
      .catch(() => undefined)
      .finally(() => {
        this.writing = undefined;
      });
  }

  private async record(waitMs: number | undefined): Promise<void> {
    const { context } = this;
    if (this.found.size === 0) return;
    this.writtenAt = context.clock.monotonic();
    const all = [...this.found];
    this.found.clear();
    try {
      await context.store.transaction(
        "mismatches",
        async (tx) => {
          const at = isoTime(context.clock);
          for (const [, { mismatch, times }] of all) {
            const { mapping, agent, difference, key, legacy, unified } = mismatch;
            await tx.run(sql`INSERT INTO hive_mismatches
                (mapping, agent, difference, times, first_at, last_at, key, legacy, unified)
              VALUES (${mapping}, ${agent}, ${difference}, ${times}, ${at}, ${at}, ${key}, ${bounded(legacy)}, ${bounded(unified)})
              ON CONFLICT (mapping, agent, difference) DO UPDATE SET times = hive_mismatches.times + excluded.times,
                last_at = excluded.last_at`);
          }
        },
        waitMs === undefined ? {} : { waitMs },
      );
      for (const [name] of all) this.recorded.add(name);
    } catch (error) {
      for (const [name, { mismatch, times }] of all) {
        const newer = this.found.get(name);
        this.found.set(name, { mismatch, times: times + (newer?.times ?? 0) });
      }
      if (!(error instanceof HiveError) || error.code !== "DATABASE_BUSY") throw error;
      if (waitMs === undefined) throw error;
    }
  }
}

function bounded(text: string | null): string | null {
  return text !== null && text.length > EXAMPLE_CHARACTERS ? `${text.slice(0, EXAMPLE_CHARACTERS)}…` : text;
}
