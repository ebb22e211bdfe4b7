import type { Clock } from "../clock.ts";
import type { Store } from "../storage/port.ts";

/** The longest that one slice may hold the write lock while others write. DESIGN.md, Storage. */
const SLICE_MS = 5;
/** The same while nobody else writes: short enough for a writer that arrives. */
const QUIET_SLICE_MS = 25;
const MIN_COMMIT_INTERVAL_MS = 100;
/** How long after somebody else's last commit others still count as writing. */
const CONTENDED_FOR_MS = 3_000;
const FIRST_SLICE = 32;
const MAX_SLICE = 2_000;

/**
 * Keeps hive's writes within the lock budget: says how many aggregates the next slice may hold, and waits between
 * slices. While others write: slices of at most 5 ms, at most 10 commits a second, at most `budget` of the time. When
 * nobody else does: full speed.
 */
export class Pace {
  private readonly store: Pick<Store, "stats" | "othersCommitted">;
  private readonly clock: Clock;
  private readonly budget: number;
  private contendedUntil = 0;
  private lastSliceAt = Number.NEGATIVE_INFINITY;
  private lastHeldMs = 0;
  private size = FIRST_SLICE;
  private seen: number | undefined;
  private aggregateMs = 0.1;
  private commitMs = 0.5;

  constructor(store: Pick<Store, "stats" | "othersCommitted">, clock: Clock, budget: number) {
    this.store = store;
    this.clock = clock;
    this.budget = budget;
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
    const seen = await this.store.othersCommitted();
    if (this.seen !== undefined && seen !== this.seen) {
      if (!this.contended) this.size = Math.min(this.size, FIRST_SLICE);
      this.contendedUntil = this.clock.monotonic() + CONTENDED_FOR_MS;
    }
    this.seen = seen;
    return seen;
  }

  /** Waits until the next slice may take the lock. */
  async ready(abort?: AbortSignal): Promise<void> {
    while (this.contended && !abort?.aborted) {
      const pause = Math.max(this.lastHeldMs / this.budget, MIN_COMMIT_INTERVAL_MS);
      const left = this.lastSliceAt + pause - this.clock.monotonic();
      if (left <= 0) return;
      await this.clock.sleep(Math.min(left, 250));
    }
  }

  /** After a slice of `count` aggregates was committed. */
  done(count: number): void {
    const { lastHeldMs, lastWorkMs } = this.store.stats;
    this.lastSliceAt = this.clock.monotonic();
    this.lastHeldMs = lastHeldMs;
    // What each aggregate costs and what each commit costs, apart: a busy disk must not make slices small for ever.
    this.aggregateMs = learn(this.aggregateMs, Math.max(lastWorkMs, 0.001) / Math.max(count, 1));
    this.commitMs = learn(this.commitMs, Math.max(lastHeldMs - lastWorkMs, 0));
    const target = this.contended ? SLICE_MS : QUIET_SLICE_MS;
    const fits = Math.max(target - this.commitMs, target / 4) / this.aggregateMs;
    const wanted = Math.min(fits, this.size * 2, MAX_SLICE);
    this.size = Math.max(this.contended ? 1 : FIRST_SLICE, Math.floor(wanted * 0.9));
  }
}

/** Follows what is measured, but an outlier only so far. */
function learn(known: number, measured: number): number {
  return known + (Math.min(measured, known * 4 + 0.01) - known) * 0.3;
}
