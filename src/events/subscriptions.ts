import type { Context } from "../context.ts";
import { HiveError } from "../errors.ts";
import { type Metrics, metricsOf } from "../observe/metrics.ts";
import type { Lease, Transaction } from "../storage/port.ts";
import { sql } from "../storage/sql.ts";
import { Pace } from "../sync/pace.ts";
import { type Head, lane, Moved, Outcome, readHeads, readLane } from "./deliveries.ts";
import type { HiveEvent } from "./event.ts";
import { eventsBeyond, requireEvents } from "./outbox.ts";
import { type Met, missing, readNext, readUndone } from "./reading.ts";
import { enter, lockOf, readSubscriber, takeUp } from "./subscribers.ts";

/** What a handler is told besides the event. */
export interface Delivery {
  /** From 1: how often this event was given to this subscriber, as far as it is known. */
  readonly attempt: number;
  /** Grows whenever another process takes over: for fencing effects elsewhere. */
  readonly token: number;
  /** Aborted when the subscription is asked to stop. */
  readonly abort: AbortSignal;
}

export interface Backoff {
  /** Milliseconds before the second attempt; doubled for each further one, with jitter of ±50 %. Default: 500. */
  readonly firstMs?: number;
  /** Milliseconds, at most. Default: 300,000. */
  readonly mostMs?: number;
}

interface CommonOptions {
  /** Durable: whoever subscribes under this name goes on where the last one stopped. One process delivers at a time. */
  readonly name: string;
  /** Event types: exact, `task.*`, `*.completed`, `*`. */
  readonly patterns: readonly string[];
  /** Where a new subscriber begins: after what there is now, with the oldest event there is, or after this number. Default: "now". */
  readonly from?: "now" | "start" | number;
  /** After so many failed attempts an event becomes a dead letter. Default: 10. */
  readonly maxAttempts?: number;
  readonly backoff?: Backoff;
  /** So many events at most are acknowledged, or dealt with in one transaction, at once. Default: 1,000. */
  readonly batch?: number;
  /** Ends it, as {@link Subscription.stop} does. */
  readonly abort?: AbortSignal;
  readonly onEvent?: (event: SubscriptionEvent) => void;
}

/**
 * Transactional: what the handler writes through `tx`, and that it was delivered, are one transaction, rolled back
 * together. It may call nothing that begins a transaction of its own, and should wait for nothing but the database.
 */
export type SubscribeOptions = CommonOptions &
  (
    | {
        /** Default: whether the handler declares a second parameter. */
        readonly transactional?: true;
        readonly handler: (event: HiveEvent, tx: Transaction, delivery: Delivery) => unknown;
      }
    | {
        readonly transactional: false;
        readonly handler: (event: HiveEvent, tx: undefined, delivery: Delivery) => unknown;
      }
  );

export type SubscriptionEvent =
  /** It delivers. */
  | { readonly kind: "working" }
  /** Another process delivers; this one takes over when that ends. */
  | { readonly kind: "standing by"; readonly holder: string }
  /** The database cannot be used for now; it tries again. */
  | { readonly kind: "waiting"; readonly reason: string }
  /** It was replayed or redriven, and looks anew. */
  | { readonly kind: "moved" }
  | {
      readonly kind: "failed";
      readonly seq: number;
      readonly attempt: number;
      readonly reason: string;
      readonly retryInMs: number;
    }
  | { readonly kind: "dead-lettered"; readonly seq: number; readonly attempts: number; readonly reason: string };

export interface Subscription extends AsyncDisposable {
  readonly name: string;
  /** Settles when it has ended: after `stop`, or with the error that it cannot go on with. */
  readonly ended: Promise<void>;
  /** Lets the handler that runs finish, acknowledges what was delivered, and gives the place to others. As `ended`. */
  stop(): Promise<void>;
}

const DEFAULTS = { maxAttempts: 10, batch: 1_000, firstMs: 500, mostMs: 300_000 };
/** Acknowledgements of this time are one commit. */
const ACKNOWLEDGE_AFTER_MS = 50;
/** What was passed since it concerns nobody is noted so often at most. */
const NOTE_PASSED_MS = 1_000;
const NOTE_SEEN_MS = 60_000;
/** Without a hint of a commit it is looked all the same. */
const LOOK_EVERY_MS = 5_000;
/** With so many subjects that wait for a further attempt, something is wrong with more than an event: the rest waits. */
const MOST_BLOCKED = 1_000;
const LANES_AT_ONCE = 100;
/** After this time without a proof that the lock is still held it is looked for, before the next event is delivered. */
const PROOF_MS = 100;
const MOST_REASON = 2_000;

/** They pass, and say nothing about an event. */
const PASSING: ReadonlySet<string> = new Set(["DATABASE_BUSY", "DATABASE_UNREACHABLE", "DISK_FULL"]);
/** What a handler is not blamed for where it writes in the subscription's transaction. */
const NOT_ITS_OWN: ReadonlySet<string> = new Set([...PASSING, "DATABASE_READ_ONLY", "DATABASE_CORRUPT"]);

const codeOf = (error: unknown) => (error instanceof HiveError ? error.code : null);

/** The handler was asked to stop, and did. */
class Stopped extends Error {}

/** An event as it is to be delivered. */
interface Item {
  readonly met: Met;
  readonly subject: string | null;
  readonly attempts: number;
  /** It waits among the undone: what stands first in its lane when it is done. Undefined: it is new. */
  readonly then?: Head | null;
}

/**
 * Delivers events to `handler` in the order of their numbers, each at least once; with `transactional`, its effects in
 * this database exactly once. Events of one subject never overtake each other: where one fails it is tried again with
 * growing pauses, the others of its subject wait behind it, and all else goes on; after `maxAttempts` it becomes a dead
 * letter, and its subject goes on. Comes back when the subscriber is known: what is emitted from then on reaches it.
 * @throws NOT_MIGRATED, USAGE, GUARD_REFUSED (expired, and events that it had not read are gone)
 */
export async function subscribe(context: Context, options: SubscribeOptions): Promise<Subscription> {
  await enter(context, options);
  const stop = new AbortController();
  const abort = options.abort ? AbortSignal.any([options.abort, stop.signal]) : stop.signal;
  const deliverer = new Deliverer(context, options, abort);
  // Perhaps it was another one's handler that called.
  const ended = context.store.apart(() => deliverer.run());
  const end = () => {
    stop.abort();
    return ended;
  };
  return { name: options.name, ended, stop: end, [Symbol.asyncDispose]: end };
}

class Deliverer {
  private readonly context: Context;
  private readonly options: SubscribeOptions;
  private readonly abort: AbortSignal;
  private readonly transactional: boolean;
  private readonly batch: number;
  private readonly pace: Pace;
  private readonly metrics: Metrics;
  private lease: Lease | undefined;
  private epoch = 0;
  /** Up to here everything was read. */
  private position = 0;
  /** What blocks a lane, by lane. */
  private heads = new Map<string, Head>();
  /** Lanes in which one failed while they were tried again. */
  private readonly stopped = new Set<string>();
  /** What was delivered and is not acknowledged yet. */
  private outcome: Outcome;
  private acknowledging: Promise<void> | undefined;
  private hurry = new AbortController();
  /** Why acknowledging failed: for the next who looks. */
  private broken: unknown;
  /** Aborted when it cannot go on as it is. */
  private alarm = new AbortController();
  private notedAt = 0;
  private noted = 0;
  private provenAt = 0;
  private readonly waiter = { until: () => this.until() };

  constructor(context: Context, options: SubscribeOptions, abort: AbortSignal) {
    this.context = context;
    this.options = options;
    this.abort = abort;
    this.transactional = options.transactional ?? options.handler.length >= 2;
    this.batch = options.batch ?? DEFAULTS.batch;
    this.pace = new Pace(context.store, context.clock, context.settings.lockBudget, "deliver");
    this.metrics = metricsOf(context);
    this.outcome = new Outcome(this.heads, 0);
  }

  async run(): Promise<void> {
    const { store } = this.context;
    const { name, onEvent } = this.options;
    while (!this.abort.aborted) {
      try {
        await store.withLock(
          lockOf(name),
          {
            timeoutMs: Number.POSITIVE_INFINITY,
            purpose: `subscriber ${name}`,
            abort: this.abort,
            onWait: ({ holder, pid }) => onEvent?.({ kind: "standing by", holder: `${holder} (process ${pid})` }),
          },
          (lease) => this.hold(lease),
        );
      } catch (error) {
        if (codeOf(error) === "INTERRUPTED" && this.abort.aborted) return;
        // Stopped for too long: another one delivers by now, and this one is the next in line.
        if (codeOf(error) === "LOCK_LOST") continue;
        if (!PASSING.has(codeOf(error) ?? "")) throw error;
        await this.wait(error);
      }
    }
  }

  /** The only one that delivers. */
  private async hold(lease: Lease): Promise<void> {
    const { onEvent } = this.options;
    this.lease = lease;
    onEvent?.({ kind: "working" });
    while (!this.abort.aborted) {
      try {
        await this.load();
        await this.deliverAll();
      } catch (error) {
        if (error instanceof Moved) onEvent?.({ kind: "moved" });
        else if (PASSING.has(codeOf(error) ?? "")) await this.wait(error);
        else {
          // Says so where that is why: everything was migrated down.
          if (codeOf(error) === "DATABASE_FAILED") await requireEvents(this.context.store);
          throw error;
        }
      } finally {
        this.alarm.abort();
        this.hurry.abort();
        await this.acknowledging;
      }
    }
  }

  private async wait(error: unknown): Promise<void> {
    this.options.onEvent?.({ kind: "waiting", reason: error instanceof Error ? error.message : String(error) });
    await this.context.clock.sleep(1_000, this.abort);
  }

  private async load(): Promise<void> {
    const { store, clock } = this.context;
    const { name, patterns } = this.options;
    await takeUp(this.context, name, patterns);
    const row = await store.snapshot(async (session) => {
      this.heads = await readHeads(session, name);
      return readSubscriber(session, name);
    });
    if (row === null) throw new Moved();
    this.epoch = row.epoch;
    this.position = row.checkpoint;
    this.note(row.checkpoint);
    this.outcome = new Outcome(this.heads, this.position);
    this.broken = undefined;
    const alarm = new AbortController();
    this.abort.addEventListener("abort", () => alarm.abort(), { once: true, signal: alarm.signal });
    this.alarm = alarm;
    this.provenAt = clock.monotonic();
  }

  private async deliverAll(): Promise<void> {
    while (!this.abort.aborted) {
      this.check();
      const retried = await this.retryDue();
      const found = this.heads.size < MOST_BLOCKED && (await this.deliverNew());
      if (!retried && !found) await this.rest();
    }
    await this.acknowledge();
  }

  /** The next events; false where there are none. */
  private async deliverNew(): Promise<boolean> {
    const { context } = this;
    const { met, position } = await readNext(context, this.options.patterns, this.position, this.batch);
    await this.deliver(met.map((one) => ({ met: one, subject: one.valid ? one.event.subject : null, attempts: 0 })));
    if (this.abort.aborted) return true;
    this.position = Math.max(this.position, position);
    return met.length > 0;
  }

  /** Those whose time has come, each with what waits behind it; false where there are none. */
  private async retryDue(): Promise<boolean> {
    const now = this.context.clock.now();
    const due = [...this.heads.entries()].filter(([, head]) => head.nextAt <= now);
    if (due.length === 0) return false;
    // What waits has to be in the table.
    if (!this.transactional) await this.acknowledge();
    this.stopped.clear();
    due.sort(([, a], [, b]) => a.seq - b.seq);
    let items: Item[] = [];
    for (const [key, head] of due.slice(0, LANES_AT_ONCE)) {
      items.push(...(await this.itemsOf(key, head)));
      if (items.length < this.batch) continue;
      await this.deliver(items);
      items = [];
    }
    await this.deliver(items);
    return true;
  }

  private async itemsOf(key: string, head: Head): Promise<Item[]> {
    const { subject } = head;
    const rows = await readLane(this.context.store.read, this.options.name, head, this.batch);
    const found = await readUndone(
      this.context,
      head,
      rows.map(({ seq }) => seq),
    );
    if (rows.length === 0) this.heads.delete(key);
    return rows.map(({ seq, attempts }, i): Item => {
      const next = rows[i + 1]?.seq ?? (rows.length < this.batch ? null : seq + 1);
      const then = next === null ? null : { subject, seq: next, nextAt: 0 };
      return { met: found.get(seq) ?? missing(seq), subject, attempts, then };
    });
  }

  private async deliver(items: readonly Item[]): Promise<void> {
    if (items.length === 0) return;
    await this.context.signal?.("subscriber:read");
    if (this.transactional) return this.deliverWithin(items);
    for (const item of items) {
      this.check();
      if (this.abort.aborted) return;
      await this.prove();
      try {
        await this.settle(item, () => this.outcome);
      } catch (error) {
        if (error instanceof Stopped) return;
        throw error;
      }
      await this.context.signal?.("subscriber:delivered");
      this.acknowledgeSoon();
      if (this.outcome.passed >= this.batch) await this.acknowledge();
    }
  }

  /** One event. `outcome`: the one to add to, which may be another one after the handler than before. */
  private async settle(item: Item, outcome: () => Outcome, tx?: Transaction): Promise<void> {
    const { met, subject, then } = item;
    const { seq } = met;
    const key = lane(subject, seq);
    if (then !== undefined && (this.stopped.has(key) || outcome().stopped.has(key))) return;
    let settled = true;
    if (!met.valid) outcome().refuse(met.invalid);
    else if (then === undefined && outcome().isBlocked(key)) outcome().wait(seq, subject);
    else settled = await this.attempt(item, met.event, outcome, tx);
    // From here on without a pause: all of it is of one outcome.
    if (then === undefined) outcome().pass(seq);
    else if (settled) outcome().settle(seq, key, then);
  }

  /** False where it failed and is tried again. */
  private async attempt(
    item: Item,
    event: HiveEvent,
    outcome: () => Outcome,
    tx: Transaction | undefined,
  ): Promise<boolean> {
    try {
      const delivery: Delivery = { attempt: item.attempts + 1, token: this.lease?.token ?? 0, abort: this.abort };
      if (tx) await tx.attempt(async () => this.call(event, tx, delivery));
      else await this.call(event, undefined, delivery);
    } catch (error) {
      const code = codeOf(error);
      if (code === "LOCK_LOST" || (tx && NOT_ITS_OWN.has(code ?? ""))) throw error;
      // Not a failure of the event: it is delivered again.
      if (this.abort.aborted) throw new Stopped();
      return this.fail(item, event, outcome(), error);
    }
    outcome().done();
    this.metrics.delivered(this.options.name, this.context.clock.now() - Date.parse(event.recordedAt));
    return true;
  }

  private call(event: HiveEvent, tx: Transaction | undefined, delivery: Delivery): unknown {
    // Where it says nothing, a handler that declares no transaction does not ask for one.
    const handler: (event: HiveEvent, tx: never, delivery: Delivery) => unknown = this.options.handler;
    return handler(event, tx as never, delivery);
  }

  private fail({ attempts, subject }: Item, event: HiveEvent, outcome: Outcome, error: unknown): boolean {
    const { clock } = this.context;
    const { onEvent, backoff, maxAttempts = DEFAULTS.maxAttempts } = this.options;
    const { seq } = event;
    const attempt = attempts + 1;
    const reason = reasonOf(error);
    this.metrics.deliveryFailed(this.options.name);
    if (attempt >= maxAttempts) {
      outcome.bury({ seq, reason, attempts: attempt, event: JSON.stringify(event) });
      onEvent?.({ kind: "dead-lettered", seq, attempts: attempt, reason });
      return true;
    }
    const { firstMs = DEFAULTS.firstMs, mostMs = DEFAULTS.mostMs } = backoff ?? {};
    const retryInMs = Math.round(Math.min(mostMs, firstMs * 2 ** attempts) * (0.5 + clock.random()));
    outcome.retry({ seq, subject, attempts: attempt, nextAt: clock.now() + retryInMs, error: reason });
    onEvent?.({ kind: "failed", seq, attempt, reason, retryInMs });
    return false;
  }

  // Transactional: the effects, and that they were had, in one.

  private async deliverWithin(items: readonly Item[]): Promise<void> {
    const { pace } = this;
    let singly = 0;
    for (let at = 0; at < items.length && !this.abort.aborted; ) {
      await pace.observe();
      await pace.ready(this.abort);
      const slice = items.slice(at, at + (singly > 0 ? 1 : Math.min(pace.slice, this.batch)));
      try {
        await this.commit(slice.length, async (outcome, tx) => {
          for (const item of slice) {
            if (this.abort.aborted || !(await this.settledWithin(item, outcome, tx))) return;
          }
        });
      } catch (error) {
        const code = codeOf(error);
        if (
          error instanceof Moved ||
          code === "LOCK_LOST" ||
          (NOT_ITS_OWN.has(code ?? "") && code !== "DATABASE_BUSY")
        ) {
          throw error;
        }
        if (slice.length > 1) {
          // One by one, until it is found.
          singly = slice.length;
          continue;
        }
        // The transaction failed as a whole: at its COMMIT, or since others were in its way for too long.
        await this.commit(1, (outcome) => this.blame(slice, outcome, error));
      }
      at += slice.length;
      singly = Math.max(0, singly - 1);
    }
  }

  /** False where it was asked to stop: what was done before is kept. */
  private async settledWithin(item: Item, outcome: Outcome, tx: Transaction): Promise<boolean> {
    try {
      await this.settle(item, () => outcome, tx);
      return true;
    } catch (error) {
      if (error instanceof Stopped) return false;
      throw error;
    }
  }

  private blame([item]: readonly Item[], outcome: Outcome, error: unknown): void {
    if (!item?.met.valid) throw error;
    const { event } = item.met;
    const settled = this.fail(item, event, outcome, error);
    if (item.then === undefined) outcome.pass(event.seq);
    else if (settled) outcome.settle(event.seq, lane(item.subject, event.seq), item.then);
  }

  private async commit(
    count: number,
    work: (outcome: Outcome, tx: Transaction) => Promise<void> | void,
  ): Promise<void> {
    const { store } = this.context;
    const done = await store.transaction("deliver", async (tx) => {
      // Anew for each time that the transaction is begun.
      const outcome = new Outcome(this.heads, this.position);
      await work(outcome, tx);
      await outcome.write(tx, this.context, this.options.name, this.epoch);
      await this.pace.record(tx);
      return outcome;
    });
    this.pace.done(Math.max(1, count));
    done.mergeInto(this.heads, this.stopped);
    this.position = Math.max(this.position, done.checkpoint);
    this.note(done.checkpoint);
  }

  // Else: acknowledged afterwards, several at once.

  private acknowledgeSoon(): void {
    this.acknowledging ??= this.acknowledgeInTime();
  }

  private async acknowledgeInTime(): Promise<void> {
    const { clock } = this.context;
    try {
      this.hurry = new AbortController();
      await clock.sleep(ACKNOWLEDGE_AFTER_MS, this.hurry.signal);
      await this.pace.observe();
      await this.pace.ready(this.abort);
      await this.writeOutcome();
    } catch (error) {
      this.broken = error;
      this.alarm.abort();
    } finally {
      this.acknowledging = undefined;
    }
  }

  private async writeOutcome(): Promise<void> {
    const { store } = this.context;
    const { outcome } = this;
    outcome.mergeInto(this.heads, this.stopped);
    this.position = Math.max(this.position, outcome.checkpoint);
    outcome.checkpoint = this.position;
    this.outcome = new Outcome(this.heads, this.position);
    for (;;) {
      try {
        await store.transaction("acknowledge", async (tx) => {
          await outcome.write(tx, this.context, this.options.name, this.epoch);
          await this.pace.record(tx);
        });
        break;
      } catch (error) {
        // What was delivered need not be delivered again because of that.
        if (!PASSING.has(codeOf(error) ?? "") || this.abort.aborted) throw error;
        await this.wait(error);
      }
    }
    this.pace.done(Math.max(1, outcome.passed));
    this.note(outcome.checkpoint);
  }

  /** Comes back when all that was delivered is acknowledged. */
  private async acknowledge(): Promise<void> {
    this.check();
    while (this.acknowledging || !this.outcome.isEmpty) {
      this.acknowledgeSoon();
      this.hurry.abort();
      await this.acknowledging;
      this.check();
    }
  }

  private note(checkpoint: number): void {
    const { clock } = this.context;
    this.noted = checkpoint;
    this.notedAt = clock.monotonic();
    this.provenAt = clock.monotonic();
  }

  private check(): void {
    const { broken } = this;
    this.broken = undefined;
    if (broken !== undefined) throw broken;
  }

  /** A process that was stopped for a while may deliver nothing after another one has taken over. */
  private async prove(): Promise<void> {
    const { store, clock } = this.context;
    const { lease } = this;
    if (!lease || clock.monotonic() - this.provenAt < PROOF_MS) return;
    const held = await store.read.all(
      sql`SELECT 1 AS one FROM hive_locks WHERE name = ${lease.name} AND token = ${lease.token}`,
    );
    if (held.length === 0) {
      throw new HiveError("LOCK_LOST", `Another process delivers to subscriber "${this.options.name}" by now.`, {
        hint: "This process was stopped for too long. What it had not acknowledged is delivered again, by the other one.",
      });
    }
    this.provenAt = clock.monotonic();
  }

  /** Nothing is to be done for now. */
  private async rest(): Promise<void> {
    const { store, clock } = this.context;
    const row = await readSubscriber(store.read, this.options.name);
    if (row === null || row.epoch !== this.epoch || row.state !== "active") throw new Moved();
    const quietMs = clock.monotonic() - this.notedAt;
    const passed = this.position > this.noted;
    if (!this.acknowledging && quietMs >= (passed ? NOTE_PASSED_MS : NOTE_SEEN_MS)) {
      if (this.transactional) await this.commit(0, () => undefined);
      else await this.writeOutcome();
      return;
    }
    let next = clock.now() + LOOK_EVERY_MS;
    for (const { nextAt } of this.heads.values()) next = Math.min(next, nextAt);
    const most = passed ? Math.max(1, NOTE_PASSED_MS - quietMs) : LOOK_EVERY_MS;
    const waitMs = Math.min(most, Math.max(1, next - clock.now()));
    if (!this.alarm.signal.aborted) await store.waitForCommit(waitMs, this.alarm.signal, this.waiter);
  }

  private until() {
    const { name } = this.options;
    const news = this.heads.size < MOST_BLOCKED;
    const moved = sql`NOT EXISTS (SELECT 1 FROM hive_subscribers WHERE name = ${name} AND epoch = ${this.epoch})`;
    return news ? sql`${eventsBeyond(this.position)} OR ${moved}` : sql`SELECT 1 AS one WHERE ${moved}`;
  }
}

function reasonOf(error: unknown): string {
  const text =
    error instanceof Error ? `${error.name === "Error" ? "" : `${error.name}: `}${error.message}` : String(error);
  return text.length > MOST_REASON ? `${text.slice(0, MOST_REASON - 1)}…` : text;
}
