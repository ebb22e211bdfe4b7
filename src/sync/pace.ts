import { type Clock, isoTime } from "../clock.ts";
import type { Session, Store } from "../storage/port.ts";
import { sql } from "../storage/sql.ts";

/** The longest that one slice may hold the write lock while others write. DESIGN.md, Storage. */
const SLICE_MS = 5;
/** The same while nobody else writes: short enough for a writer that arrives. */
const QUIET_SLICE_MS = 25;
const MIN_COMMIT_INTERVAL_MS = 100;
/** How long after somebody else's last commit others still count as writing. */
const CONTENDED_FOR_MS = 3_000;
/** A slow commit is made up for over this time; so long is unused lock time remembered. */
const SAVED_MS = 2_000;
const SHARED_EVERY_MS = 1_000;
const RECORD_EVERY_MS = 1_000;
/** What is older says nothing about now. */
const KEEP_WORK_MS = 24 * 3_600_000;
const FIRST_SLICE = 32;
const MAX_SLICE = 2_000;

/**
 * Keeps hive's writes within the lock budget: says how many aggregates the next slice may hold, and waits between
 * slices. While others write: slices of at most 5 ms, at most 10 commits a second, at most `budget` of the time. When
 * nobody else does: full speed.
 */
export class Pace {
  private readonly store: Pick<Store, "dialect" | "stats" | "othersCommitted" | "holders" | "transaction">;
  private readonly clock: Clock;
  private readonly budget: number;
  private readonly operation: string;
  private readonly unrecorded = { commits: 0, heldMs: 0, longestMs: 0, aggregates: 0 };
  private recordedAt = Number.NEGATIVE_INFINITY;
  private contendedUntil = 0;
  private lastSliceAt = Number.NEGATIVE_INFINITY;
  /** Lock time that may be used now; below 0 it has to be earned first. */
  private creditMs = 0;
  private share = 1;
  private sharedAt = Number.NEGATIVE_INFINITY;
  private earnedAt: number;
  private size = FIRST_SLICE;
  private seen: number | undefined;
  private aggregateMs = 0.1;
  private fixedMs = 0;
  private commitMs = 0.5;

  /** `operation`: under what its work is recorded in hive_work. */
  constructor(
    store: Pick<Store, "dialect" | "stats" | "othersCommitted" | "holders" | "transaction">,
    clock: Clock,
    budget: number,
    operation = "",
  ) {
    this.store = store;
    this.clock = clock;
    this.budget = budget;
    this.operation = operation;
    this.earnedAt = clock.monotonic();
  }

  /** Inside a write transaction, which then carries it along: what was done so far, at most once a second. */
  async record(tx: Session, now = false): Promise<void> {
    const { commits, heldMs, longestMs, aggregates } = this.unrecorded;
    const time = this.clock.monotonic();
    if (this.operation === "" || commits === 0 || (!now && time - this.recordedAt < RECORD_EVERY_MS)) return;
    this.recordedAt = time;
    const minute = `${isoTime(this.clock).slice(0, 16)}Z`;
    await tx.run(sql`INSERT INTO hive_work (minute, operation, commits, held_ms, longest_ms, aggregates)
      VALUES (${minute}, ${this.operation}, ${commits}, ${heldMs}, ${longestMs}, ${aggregates})
      ON CONFLICT (minute, operation) DO UPDATE SET commits = hive_work.commits + excluded.commits,
        held_ms = hive_work.held_ms + excluded.held_ms, longest_ms = CASE WHEN hive_work.longest_ms > excluded.longest_ms THEN hive_work.longest_ms ELSE excluded.longest_ms END,
        aggregates = hive_work.aggregates + excluded.aggregates`);
    const oldest = `${new Date(this.clock.now() - KEEP_WORK_MS).toISOString().slice(0, 16)}Z`;
    await tx.run(sql`DELETE FROM hive_work WHERE minute < ${oldest}`);
    Object.assign(this.unrecorded, { commits: 0, heldMs: 0, longestMs: 0, aggregates: 0 });
  }

  /** Records the rest, in a transaction of its own. */
  async finish(): Promise<void> {
    if (this.operation === "" || this.unrecorded.commits === 0) return;
    await this.store.transaction("work", (tx) => this.record(tx, true));
  }

  /** How many aggregates the next slice should have. */
  get slice(): number {
    return this.size;
  }

  get contended(): boolean {
    return this.clock.monotonic() < this.contendedUntil;
  }

  /** Looks for commits of others. Equal numbers: the same data. */
  async observe(): Promise<number> {
    // Others wait for single rows only, and may commit at any time.
    if (!this.store.dialect.singleWriter) {
      this.seen = (this.seen ?? 0) + 1;
      return this.seen;
    }
    const seen = await this.store.othersCommitted();
    if (this.seen !== undefined && seen !== this.seen) {
      if (!this.contended) this.size = Math.min(this.size, FIRST_SLICE);
      this.contendedUntil = this.clock.monotonic() + CONTENDED_FOR_MS;
    }
    this.seen = seen;
    if (this.contended && this.clock.monotonic() - this.sharedAt >= SHARED_EVERY_MS) {
      this.sharedAt = this.clock.monotonic();
      // Several at work have one budget between them, and one number of commits.
      this.share = 1 / Math.max(1, await this.store.holders());
    }
    return seen;
  }

  /** Waits until the next slice may take the lock. */
  async ready(abort?: AbortSignal): Promise<void> {
    while (this.contended && !abort?.aborted) {
      this.earn();
      const left = Math.max(
        -this.creditMs / (this.budget * this.share),
        this.lastSliceAt + MIN_COMMIT_INTERVAL_MS / this.share - this.clock.monotonic(),
      );
      // Less than a timer can tell; rounding must not make it wait for ever.
      if (left < 0.1) return;
      await this.clock.sleep(Math.min(left, 250));
    }
  }

  /** The lock time that the budget has allowed since the last look; what is not used is kept only so far. */
  private earn(): void {
    const now = this.clock.monotonic();
    const budget = this.budget * this.share;
    this.creditMs = Math.min(this.creditMs + (now - this.earnedAt) * budget, SAVED_MS * budget);
    this.earnedAt = now;
  }

  /** After a slice of `count` aggregates was committed. */
  done(count: number): void {
    const { lastHeldMs, lastWorkMs } = this.store.stats;
    this.lastSliceAt = this.clock.monotonic();
    this.earn();
    this.creditMs = this.contended ? this.creditMs - lastHeldMs : 0;
    this.unrecorded.commits += 1;
    this.unrecorded.heldMs += lastHeldMs;
    this.unrecorded.longestMs = Math.max(this.unrecorded.longestMs, lastHeldMs);
    this.unrecorded.aggregates += count;
    // What each aggregate, each transaction and each commit costs, apart: neither a busy disk nor what a transaction costs
    // however little it does must make slices small for ever.
    this.learnWork(lastWorkMs, count);
    this.commitMs = learn(this.commitMs, Math.max(lastHeldMs - lastWorkMs, 0));
    const target = this.contended ? SLICE_MS : QUIET_SLICE_MS;
    const fits = Math.max(target - this.commitMs - this.fixedMs, target / 4) / this.aggregateMs;
    const wanted = Math.min(fits * 0.9, this.size * 2, MAX_SLICE);
    this.size = Math.max(this.contended ? 1 : FIRST_SLICE, Math.floor(wanted));
  }

  /** Fits work = fixed + aggregate · count to what is measured: normalised least mean squares. */
  private learnWork(workMs: number, count: number): void {
    const expected = this.fixedMs + this.aggregateMs * count;
    const error = Math.min(workMs - expected, expected * 3 + 0.01) / (1 + count * count);
    this.fixedMs = Math.max(0, this.fixedMs + 0.3 * error);
    this.aggregateMs = Math.max(0.001, this.aggregateMs + 0.3 * error * count);
  }
}

/** Follows what is measured, but an outlier only so far. */
function learn(known: number, measured: number): number {
  return known + (Math.min(measured, known * 4 + 0.01) - known) * 0.3;
}
