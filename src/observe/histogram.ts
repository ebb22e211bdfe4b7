/** Percentiles of durations, in milliseconds. */
export interface Percentiles {
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
}

/** Buckets for each doubling: a percentile is at most 9 % above the true one. */
const PER_DOUBLING = 8;
const SMALLEST_MS = 0.001;
const BUCKETS = 32 * PER_DOUBLING;

/** Counts durations in buckets that grow by a fixed factor: constant memory, however many there are. */
export class Histogram {
  count = 0;
  /** In doubles: sums over many processes stay exact up to 2^53. */
  private readonly buckets = new Float64Array(BUCKETS);

  /** What {@link toText} wrote. What is no such text counts as nothing. */
  static parse(text: string): Histogram {
    const histogram = new Histogram();
    for (const [at, count] of entriesOf(text)) histogram.put(at, count);
    return histogram;
  }

  add(ms: number): void {
    const bucket = Math.ceil(Math.log2(Math.max(ms, SMALLEST_MS) / SMALLEST_MS) * PER_DOUBLING);
    this.put(Math.min(BUCKETS - 1, bucket), 1);
  }

  merge(other: Histogram): void {
    other.buckets.forEach((count, at) => {
      if (count > 0) this.put(at, count);
    });
  }

  /** JSON: counts by the number of the bucket, without those that are empty. */
  toText(): string {
    const counts: [number, number][] = [];
    this.buckets.forEach((count, at) => {
      if (count > 0) counts.push([at, count]);
    });
    return JSON.stringify(Object.fromEntries(counts));
  }

  /** All 0 where nothing was counted. */
  percentiles(): Percentiles {
    return { p50: this.at(0.5), p95: this.at(0.95), p99: this.at(0.99) };
  }

  private put(at: number, count: number): void {
    this.buckets[at] = (this.buckets[at] ?? 0) + count;
    this.count += count;
  }

  private at(share: number): number {
    if (this.count === 0) return 0;
    let left = Math.ceil(this.count * share);
    for (let i = 0; i < BUCKETS; i++) {
      left -= this.buckets[i] ?? 0;
      if (left <= 0) return Math.round(SMALLEST_MS * 2 ** (i / PER_DOUBLING) * 1_000) / 1_000;
    }
    return Number.POSITIVE_INFINITY;
  }
}

function entriesOf(text: string): [number, number][] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    return [];
  }
  if (typeof parsed !== "object" || parsed === null) return [];
  return Object.entries(parsed).flatMap(([name, count]): [number, number][] => {
    const at = Number(name);
    const good = Number.isInteger(at) && at >= 0 && at < BUCKETS && Number.isSafeInteger(count) && count > 0;
    return good ? [[at, Number(count)]] : [];
  });
}
