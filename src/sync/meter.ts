import type { Clock } from "../clock.ts";
import type { Progress } from "../context.ts";

const REPORT_EVERY_MS = 100;

/** What the first rows took says little about the rest: no time is foretold before this much is done, or has gone by. */
const FORETELL_AFTER_MS = 2_000;
const FORETELL_FROM = 0.02;

/** Counts what is done and tells it, at most ten times a second. */
export class Meter {
  total: number | null = null;
  private readonly operation: string;
  private readonly clock: Clock;
  private readonly report: ((progress: Progress) => void) | undefined;
  private readonly startedAt: number;
  private reportedAt = Number.NEGATIVE_INFINITY;
  private done = 0;

  constructor(operation: string, clock: Clock, report: ((progress: Progress) => void) | undefined) {
    this.operation = operation;
    this.clock = clock;
    this.report = report;
    this.startedAt = clock.monotonic();
  }

  seconds(): number {
    return Math.round(this.clock.monotonic() - this.startedAt) / 1000;
  }

  add(count: number, note?: string): void {
    this.done += count;
    if (!this.report) return;
    const now = this.clock.monotonic();
    const last = this.total !== null && this.done >= this.total;
    if (now - this.reportedAt < REPORT_EVERY_MS && !last) return;
    this.reportedAt = now;
    const seconds = (now - this.startedAt) / 1000;
    const perSecond = seconds > 0 ? this.done / seconds : 0;
    const early = now - this.startedAt < FORETELL_AFTER_MS && this.done < (this.total ?? 0) * FORETELL_FROM;
    const left =
      this.total === null || perSecond === 0 || early ? null : Math.max(0, this.total - this.done) / perSecond;
    this.report({
      operation: this.operation,
      done: this.done,
      total: this.total,
      perSecond: Math.round(perSecond),
      etaSeconds: left === null ? null : Math.round(left),
      ...(note === undefined ? {} : { note }),
    });
  }
}
