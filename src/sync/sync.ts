import { isoTime } from "../clock.ts";
import { type ChangeOptions, type Context, lockOptions } from "../context.ts";
import { HiveError } from "../errors.ts";
import { tidyEvents } from "../events/retention.ts";
import type { SyncResult } from "../results.ts";
import { requireLedger } from "../schema/ledger.ts";
import type { Transaction, Value } from "../storage/port.ts";
import { id, sql } from "../storage/sql.ts";
import { type Layout, pageOfKeys } from "./aggregates.ts";
import { unkeptBases } from "./bases.ts";
import { crossOver, judgeAdded, putInvalidAside } from "./bridge.ts";
import { renewCapture } from "./capture.ts";
import {
  addChanges,
  type Batch,
  backlog,
  type Change,
  type ChangedSide,
  consume,
  nameOf,
  noteGap,
  pruneWritten,
  readBatch,
} from "./changes.ts";
import { Intake } from "./intake.ts";
import { Meter } from "./meter.ts";
import { Pace } from "./pace.ts";
import { introspectAll } from "./page.ts";
import { add, type Decision, NOTHING, type Plan, type Reconciled, Reconciler, refused } from "./reconcile.ts";

export interface SyncOptions extends ChangeOptions {
  /** Stay, and carry over what changes as it changes, until aborted. */
  watch?: boolean;
  /** Told whenever a watching sync begins to work, stands by for another one, or finds triggers missing. */
  onEvent?: (event: SyncEvent) => void;
}

export type SyncEvent =
  | { readonly kind: "working" }
  | { readonly kind: "standing by"; readonly holder: string }
  /** It cannot go on for now, and tries again. */
  | { readonly kind: "waiting"; readonly reason: string }
  | { readonly kind: "capture renewed"; readonly tables: readonly string[] };

export const SYNC_LOCK = "sync";

/** Aggregates that are looked at at once while nobody else writes; else no more than fit into one transaction. */
const BATCH = 1_000;
/** So often an aggregate may change between the look and the transaction before both are one. */
const MOST_LEFT = 3;
const MOST_INSISTED = 2;
/** Without a hint of a commit the log is looked at all the same. */
const LOOK_EVERY_MS = 5_000;
const LOOK_AT_HELD_EVERY_MS = 500;
const TIDY_EVENTS_EVERY_MS = 600_000;
const GAP_KEYS = 500;
/** How often the events that came are looked at, at most. */
const INTAKE_EVERY_MS = 1_000;

/**
 * Carries over what was captured: every change that was noted before it was called, within the lock budget, each in the
 * transaction that removes it from the log. With `watch` it stays, is the only one that works (another one stands by and
 * takes over when this one is killed or frozen), and ends when aborted. Several changes of one aggregate cost one
 * projection.
 *
 * @throws NOT_MIGRATED, LOCK_HELD (another sync works, and this one does not watch), INTERRUPTED (not with `watch`)
 */
export async function sync(context: Context, options: SyncOptions = {}): Promise<SyncResult> {
  const { store, clock } = context;
  await requireLedger(store);
  if (options.dryRun && options.watch) {
    throw new HiveError("USAGE", "A dry run does not watch: it tells what waits now.", {
      hint: "Leave out --watch or --dry-run.",
    });
  }
  if (options.dryRun) {
    const { changes, oldestMs } = await store.snapshot((session) => backlog(session, clock.now()));
    return { ...none(), remaining: changes, lagMs: oldestMs ?? 0, dryRun: true };
  }
  const worker = new Worker(context, options);
  if (!options.watch) {
    await store.withLock(SYNC_LOCK, lockOptions(context, options, "hive sync"), () => worker.drain());
    return worker.result();
  }
  while (!options.abort?.aborted) {
    try {
      await store.withLock(
        SYNC_LOCK,
        {
          ...lockOptions(context, options, "hive sync --watch"),
          timeoutMs: Number.POSITIVE_INFINITY,
          onWait: (holder) =>
            options.onEvent?.({ kind: "standing by", holder: `${holder.holder} (process ${holder.pid})` }),
        },
        () => worker.watch(),
      );
    } catch (error) {
      const code = error instanceof HiveError ? error.code : null;
      // Frozen for too long: another one works by now, and this one is the next in line.
      if (code === "LOCK_LOST" || (code === "INTERRUPTED" && options.abort?.aborted)) continue;
      throw error;
    }
  }
  return worker.result();
}

function none(): SyncResult {
  return { applied: 0, conflicts: 0, quarantined: 0, remaining: 0, lagMs: 0, renewed: [], dryRun: false };
}

/** What an agent that remakes a table, or holds the lock for long, does to a watching sync: it passes. */
const PASSING: ReadonlySet<string> = new Set([
  "DATABASE_BUSY",
  "DATABASE_UNREACHABLE",
  "DISK_FULL",
  "SCHEMA_MISMATCH",
  "NOT_MIGRATED",
]);

class Worker {
  private readonly context: Context;
  private readonly options: SyncOptions;
  private readonly pace: Pace;
  private readonly meter: Meter;
  readonly sum: Reconciled = { ...NOTHING };
  private readonly renewed = new Set<string>();
  private reconciler: Reconciler | undefined;
  private layouts: readonly Layout[] = [];
  private schemaVersion: number | undefined;
  private lastLagMs = 0;
  /** Aggregates that agents' transactions held when they were looked at, by name: the others go first. */
  private readonly held = new Map<string, Change>();
  /** When they are looked at again, whatever else waits, and since when nothing else was to be done. */
  private retryAt = 0;
  private stuckSince: number | undefined;
  /** How often in a row an aggregate had changed again when its turn came. */
  private leftOver = new Map<string, number>();

  constructor(context: Context, options: SyncOptions) {
    this.context = context;
    this.options = options;
    this.pace = new Pace(context.store, context.clock, context.settings.lockBudget, "sync");
    this.meter = new Meter("sync", context.clock, options.onProgress);
  }

  async result(): Promise<SyncResult> {
    const { store, clock } = this.context;
    const { changes, oldestMs } = await store.snapshot((session) => backlog(session, clock.now()));
    const { applied, conflicts, quarantined } = this.sum;
    const lagMs = oldestMs ?? Math.round(this.lastLagMs);
    return { applied, conflicts, quarantined, remaining: changes, lagMs, renewed: [...this.renewed], dryRun: false };
  }

  /** Everything that was noted before this call. */
  async drain(): Promise<void> {
    const { store } = this.context;
    await this.adoptGaps();
    await this.fillGaps();
    const rows = await store.read.all(sql`SELECT max(seq) AS last FROM hive_changes`);
    const last = Number(rows[0]?.last ?? 0);
    for (;;) {
      this.assertNotAborted();
      const first = await this.round();
      if (first === null || first > last) break;
    }
    await this.pace.finish();
    const { clock, settings } = this.context;
    await pruneWritten(store, new Pace(store, clock, settings.lockBudget, "prune"), null, this.options.abort);
  }

  async watch(): Promise<void> {
    const { store } = this.context;
    const { abort } = this.options;
    this.options.onEvent?.({ kind: "working" });
    const { clock, settings } = this.context;
    const prune = new Pace(store, clock, settings.lockBudget, "prune");
    let lookedAt = clock.monotonic();
    let tidiedAt = Number.NEGATIVE_INFINITY;
    const intake = new Intake(this.context);
    let tookAt = Number.NEGATIVE_INFINITY;
    let waiting: string | undefined;
    while (!abort?.aborted) {
      let idle = true;
      try {
        if (clock.monotonic() - lookedAt >= LOOK_EVERY_MS) {
          lookedAt = clock.monotonic();
          // A mark that was left behind blinds the triggers without altering them.
          this.schemaVersion = undefined;
          await pruneWritten(store, prune, null, abort);
          if (clock.monotonic() - tidiedAt >= TIDY_EVENTS_EVERY_MS) {
            tidiedAt = clock.monotonic();
            await tidyEvents(this.context, abort);
          }
        }
        if (clock.monotonic() - tookAt >= INTAKE_EVERY_MS) {
          tookAt = clock.monotonic();
          await intake.take();
        }
        await this.fillGapsBeside();
        idle = (await this.round()) === null;
        waiting = undefined;
      } catch (error) {
        if (!(error instanceof HiveError) || !PASSING.has(error.code)) throw error;
        if (waiting !== error.message) this.options.onEvent?.({ kind: "waiting", reason: error.message });
        waiting = error.message;
        this.schemaVersion = undefined;
        await clock.sleep(1_000, abort);
        continue;
      }
      // A gap that was found in the round is filled first.
      if (idle && this.schemaVersion !== undefined && !(await this.hasGaps()) && !abort?.aborted) {
        await store.waitForCommit(LOOK_EVERY_MS, abort);
      }
    }
    await this.pace.finish();
  }

  /** One batch; the number of its first change, or null where there was nothing to do. */
  private async round(): Promise<number | null> {
    const { store } = this.context;
    await this.pace.observe();
    await this.pace.ready(this.options.abort);
    await this.refresh();
    const reconciler = await this.current();
    // What is looked at long before its turn is old by then.
    const limit = this.pace.contended ? this.pace.slice : BATCH;
    const began = this.context.clock.monotonic();
    if (began >= this.retryAt) this.held.clear();
    const except = new Set(this.held.keys());
    const found = await store.snapshot(async (session) => {
      const batch = await readBatch(session, limit, except);
      // A single empty row only keeps the numbers growing.
      const nothing = batch.changes.length === 0 && batch.empty.length < 2 && batch.gaps.size === 0;
      if (nothing && batch.events.length === 0) return null;
      const added = await judgeAdded(this.context, session, batch.events);
      return { batch, added, plan: await reconciler.decide(session, batch.changes, batch.point) };
    });
    if (found === null) return this.waitForHeld();
    const { batch, added, plan } = found;
    await this.context.signal?.("sync:judged");
    if (batch.gaps.size > 0) await this.adoptGaps();
    await this.bridge(reconciler, added);
    const before = this.held.size;
    const settled = [...plan.settled, ...batch.empty];
    if (plan.decisions.length + plan.unnamed.length + settled.length > 0) {
      await this.applyAll(reconciler, { ...plan, settled }, batch);
    }
    // Not before all that it holds was passed over, however long that takes: the others come after it.
    if (this.held.size > before) {
      const now = this.context.clock.monotonic();
      this.retryAt = now + Math.max(LOOK_AT_HELD_EVERY_MS, 2 * (now - began));
    }
    if (this.held.size - before < plan.decisions.length) this.stuckSince = undefined;
    const changes = [...batch.changes, ...this.held.values()];
    return Math.min(
      ...batch.empty,
      ...[...batch.gaps.values()].flat(),
      ...batch.events.map(({ seq }) => seq),
      ...changes.map(({ seqs }) => seqs[0] ?? Number.POSITIVE_INFINITY),
    );
  }

  /** Events that agents wrote themselves. */
  private async bridge(reconciler: Reconciler, added: Awaited<ReturnType<typeof judgeAdded>>): Promise<void> {
    if (added.length === 0) return;
    const invalid = await this.context.store.transaction("sync events", async (tx) => {
      // What was judged under other flags is judged again.
      if (!(await reconciler.isCurrent(tx))) return [];
      await this.pace.record(tx);
      return crossOver(tx, this.context, added);
    });
    this.pace.done(added.length);
    await putInvalidAside(this.context, invalid);
  }

  /**
   * Where all that is left waits for agents' transactions to end: looked at again in a moment, but not for ever. The
   * number of the first of these changes; null where nothing waits.
   */
  private async waitForHeld(): Promise<number | null> {
    if (this.held.size === 0) {
      this.stuckSince = undefined;
      return null;
    }
    const { clock, settings } = this.context;
    this.stuckSince ??= clock.monotonic();
    const stuckMs = clock.monotonic() - this.stuckSince;
    const held = [...this.held.values()];
    if (!this.options.watch && stuckMs >= settings.busyTimeoutMs) {
      const names = held.slice(0, 3).map(({ source, key }) => `${source} ${key}`);
      throw new HiveError("DATABASE_BUSY", `An agent's transaction holds ${names.join(", ")}.`, {
        hint: "Everything else was carried over. Run it again once that transaction has ended.",
        details: { held: held.length },
      });
    }
    await clock.sleep(Math.min(500, 10 + stuckMs / 4), this.options.abort);
    this.held.clear();
    return Math.min(...held.map(({ seqs }) => seqs[0] ?? Number.POSITIVE_INFINITY));
  }

  private async applyAll(reconciler: Reconciler, plan: Plan, batch: Batch): Promise<void> {
    const { store } = this.context;
    let { settled, unnamed } = plan;
    let done = 0;
    do {
      const decisions = plan.decisions.slice(done, done + this.pace.slice);
      done += decisions.length;
      // Outside of the lock, so that little is left to look through under it.
      if (done > decisions.length) await store.snapshot((session) => plan.window.look(session));
      // The rest stays in the log: what was decided under other flags must not be done.
      if (!(await this.applySlice(reconciler, { ...plan, decisions, settled, unnamed }))) return;
      settled = [];
      unnamed = [];
      const now = this.context.clock.now();
      for (const { change } of decisions) this.lastLagMs = Math.max(0, now - (change.at ?? now));
      this.meter.add(decisions.length, batch.more ? undefined : "caught up");
      if (done < plan.decisions.length) {
        await this.pace.observe();
        await this.pace.ready(this.options.abort);
      }
    } while (done < plan.decisions.length && !this.options.abort?.aborted);
  }

  /** False where flags were changed in the meantime, and nothing was done. */
  private async applySlice(reconciler: Reconciler, plan: Plan, looseReferences = false): Promise<boolean> {
    const { store } = this.context;
    const { decisions } = plan;
    try {
      const done = await store.transaction(
        "sync",
        async (tx) => {
          if (!(await reconciler.isCurrent(tx))) return null;
          const result = await reconciler.apply(tx, plan);
          // Counted once it is committed.
          add(result, await this.insist(tx, reconciler, result.leftOver));
          await this.pace.record(tx);
          return result;
        },
        { before: (tx: Transaction) => reconciler.stage(tx, decisions), looseReferences, readsFirst: true },
      );
      if (done === null) {
        this.reconciler = undefined;
        return false;
      }
      add(this.sum, done);
      for (const change of done.held) this.held.set(nameOf(change.source, change.key), change);
      this.pace.done(decisions.length);
      return true;
    } catch (error) {
      if (!(error instanceof HiveError) || error.code !== "CONSTRAINT" || decisions.length === 0) throw error;
      return this.applyApart(reconciler, plan, error, looseReferences);
    }
  }

  /** An aggregate that is never at rest is carried over under the lock, where it is: a few at a time. */
  private async insist(tx: Transaction, reconciler: Reconciler, leftOver: readonly Change[]): Promise<Reconciled> {
    const sum = { ...NOTHING };
    const before = this.leftOver;
    this.leftOver = new Map();
    let done = 0;
    for (const { source, key } of leftOver) {
      if (key === null) continue;
      const name = nameOf(source, key);
      const times = (before.get(name) ?? 0) + 1;
      if (times < MOST_LEFT || done >= MOST_INSISTED) this.leftOver.set(name, times);
      else {
        done += 1;
        const settled = await settleUnlessHeld(tx, reconciler, source, key);
        if (settled) add(sum, settled);
        else this.leftOver.set(name, times);
      }
    }
    return sum;
  }

  /** One row that the database refuses must not keep back the others: halves, until it stands alone. */
  private async applyApart(reconciler: Reconciler, plan: Plan, error: HiveError, loose: boolean): Promise<boolean> {
    const { decisions } = plan;
    const [only] = decisions;
    // Not about this row: it would be refused for ever.
    if (only?.action.kind === "quarantine" && decisions.length === 1) throw error;
    if (decisions.length === 1 && only) {
      // Agents that write with foreign keys off leave orphans; and what it refers to may come down after it.
      if (!loose && only.action.kind === "down") return this.applySlice(reconciler, plan, true);
      return this.applySlice(reconciler, { ...plan, decisions: [refused(only, error)] });
    }
    const half = Math.ceil(decisions.length / 2);
    const rest: readonly Decision[] = decisions.slice(half);
    if (!(await this.applySlice(reconciler, { ...plan, decisions: decisions.slice(0, half) }))) return false;
    await this.pace.ready(this.options.abort);
    if (this.options.abort?.aborted) return false;
    return this.applySlice(reconciler, { ...plan, decisions: rest, settled: [], unnamed: [] });
  }

  private async current(): Promise<Reconciler> {
    const { store } = this.context;
    if (this.reconciler && (await this.reconciler.isCurrent(store.read))) return this.reconciler;
    this.reconciler = await Reconciler.of(this.context, store.read, this.layouts);
    return this.reconciler;
  }

  /** Where somebody altered or made a table: new layouts, and triggers that went with the old table. */
  private async refresh(): Promise<void> {
    const { store } = this.context;
    const version = await store.schemaVersion();
    if (version === this.schemaVersion) return;
    const renewed = await renewCapture(this.context);
    if (renewed.length > 0) {
      for (const table of renewed) this.renewed.add(table);
      this.options.onEvent?.({ kind: "capture renewed", tables: renewed });
    }
    this.layouts = await introspectAll(this.context);
    this.reconciler = undefined;
    // Not what it is now: if somebody came in between, it is looked at again.
    this.schemaVersion = renewed.length > 0 ? undefined : version;
  }

  /**
   * After triggers were missing for a while: puts every aggregate of their tables into the log, as if it had changed on
   * that side. Goes on where an interrupted run ended.
   */
  private async fillGaps(): Promise<void> {
    await this.refresh();
    while (await this.fillGapPage()) this.assertNotAborted();
  }

  /** Beside live changes: a page at a time, and none while many of those before it wait, so that they do not wait too. */
  private async fillGapsBeside(): Promise<void> {
    await this.refresh();
    const waiting = await this.context.store.read.all(
      sql`SELECT 1 AS one FROM hive_changes LIMIT 1 OFFSET ${GAP_KEYS}`,
    );
    if (waiting.length === 0 && !this.options.abort?.aborted) await this.fillGapPage();
  }

  /** What triggers could not note row by row is to be looked for like what was written without triggers. */
  private async adoptGaps(): Promise<void> {
    const { store, clock } = this.context;
    if (store.dialect.singleWriter) return;
    const rows = await store.read.all(sql`SELECT 1 AS one FROM hive_changes WHERE side = 'gap' LIMIT 1`);
    if (rows.length === 0) return;
    await store.transaction("sync gap", async (tx) => {
      const gone = await tx.all(sql`DELETE FROM hive_changes WHERE side = 'gap' RETURNING source`);
      for (const table of new Set(gone.map((row) => String(row.source)))) await noteGap(tx, table, isoTime(clock));
    });
  }

  private async hasGaps(): Promise<boolean> {
    return (await this.context.store.read.all(sql`SELECT 1 AS one FROM hive_gaps LIMIT 1`)).length > 0;
  }

  /** False where there is no gap. */
  private async fillGapPage(): Promise<boolean> {
    const { store } = this.context;
    const [gap] = await store.read.all(sql`SELECT table_name, noticed_at, cursor FROM hive_gaps LIMIT 1`);
    if (!gap) return false;
    const name = String(gap.table_name);
    // Another process may have found it to begin anew in the meantime.
    const same = sql`table_name = ${name} AND noticed_at = ${String(gap.noticed_at)}
      AND coalesce(cursor, '') = ${typeof gap.cursor === "string" ? gap.cursor : ""}`;
    const { position, after } =
      typeof gap.cursor === "string" ? parseCursor(gap.cursor) : { position: 0, after: null as Value };
    const table = keyTables(this.layouts, name)[position];
    await this.pace.observe();
    await this.pace.ready(this.options.abort);
    if (this.options.abort?.aborted) return false;
    if (!table) {
      await store.transaction("sync gap", async (tx) => {
        await tx.run(sql`DELETE FROM hive_gaps WHERE ${same}`);
      });
      return true;
    }
    const keys = await store.snapshot((session) => pageOfKeys(session, table.root, after, GAP_KEYS));
    const next =
      keys.length < GAP_KEYS ? { position: position + 1, after: null } : { position, after: keys.at(-1) ?? null };
    await store.transaction("sync gap", async (tx) => {
      await addChanges(tx, table.side, table.source, keys);
      const cursor = JSON.stringify({ position: next.position, after: cursorValue(next.after) });
      await tx.run(sql`UPDATE hive_gaps SET cursor = ${cursor} WHERE ${same}`);
    });
    this.pace.done(keys.length);
    return true;
  }

  private assertNotAborted(): void {
    if (!this.options.abort?.aborted || this.options.watch) return;
    throw new HiveError("INTERRUPTED", "The sync was interrupted.", {
      hint: "What was carried over is kept, the rest waits. Run it again, or leave it to `hive sync --watch`.",
    });
  }
}

/** Null where an agent's transaction holds something of it. */
async function settleUnlessHeld(
  tx: Transaction,
  reconciler: Reconciler,
  source: string,
  key: string,
): Promise<Reconciled | null> {
  if (tx.dialect.singleWriter) return reconciler.settleNow(tx, source, [key]);
  try {
    return await tx.attempt(() => reconciler.settleNow(tx, source, [key]));
  } catch (error) {
    if (error instanceof HiveError && error.code === "DATABASE_BUSY") return null;
    throw error;
  }
}

/** The root tables, of both sides, whose keys have to be looked at when this table had no triggers for a while. */
function keyTables(layouts: readonly Layout[], name: string) {
  const found: { side: ChangedSide; source: string; root: Layout["legacy"]["root"] }[] = [];
  for (const { legacy, unified } of layouts) {
    const isLegacy = [legacy.root, ...legacy.related].some(({ table }) => table === name);
    const isUnified = [unified.root, ...unified.related].some(({ table }) => table === name);
    if (!isLegacy && !isUnified) continue;
    const side = isLegacy ? "legacy" : "unified";
    for (const root of [legacy.root, unified.root]) {
      if (!found.some((one) => one.root.table === root.table)) found.push({ side, source: unified.root.table, root });
    }
  }
  return found;
}

function cursorValue(value: Value): unknown {
  return typeof value === "bigint" ? { int: value.toString() } : value;
}

function parseCursor(saved: string): { position: number; after: Value } {
  const { position, after } = JSON.parse(saved) as { position: number; after: Value | { int: string } };
  const isInt = typeof after === "object" && after !== null && "int" in after;
  return { position, after: isInt ? BigInt(after.int) : (after as Value) };
}

/**
 * Carries over everything that waits, without the lock of a sync: for a step that must not begin before. Others may be
 * at it too. Gives up while agents write faster than it can follow; the caller settles what is left.
 */
export async function drainBefore(
  context: Context,
  options: Pick<SyncOptions, "abort" | "onProgress">,
): Promise<Reconciled> {
  const worker = new Worker(context, { ...options });
  for (let round = 0; round < MOST_ROUNDS; round++) {
    await worker.drain();
    const rows = await context.store.read.all(sql`SELECT count(*) AS n FROM hive_changes WHERE side IS NOT NULL`);
    if (Number(rows[0]?.n) <= FEW_CHANGES) break;
  }
  return worker.sum;
}

const MOST_ROUNDS = 20;

/** So few can be settled inside the transaction that flips a flag. */
const FEW_CHANGES = 15;
/** Of a few aggregates there may be more rows. */
const MOST_ROWS = 500;

/** What a flip needs to know of the tables: read ahead of its transaction, and again inside where it is old by then. */
export interface Known {
  readonly version: number;
  readonly layouts: readonly Layout[];
}

export async function knowTables(context: Context): Promise<Known> {
  const { store } = context;
  return store.snapshot(async (session) => ({
    version: await store.schemaVersion(session),
    layouts: await introspectAll(context, session),
  }));
}

/**
 * Inside a write transaction: carries over whatever still waits; null, and nothing done, where that is more than
 * others should have to wait for. `givesBack`: the legacy side leads afterwards; what it cannot hold is kept.
 */
export async function settleRest(
  tx: Transaction,
  context: Context,
  known: Known,
  givesBack: boolean,
): Promise<Reconciled | null> {
  const { markTable } = tx.dialect;
  const marks = markTable === null ? sql`` : sql`UNION ALL SELECT 1 FROM ${id(markTable)}`;
  const unknown = await tx.all(sql`SELECT 1 AS one FROM hive_gaps ${marks}
    UNION ALL SELECT 1 FROM (SELECT 1 AS one FROM hive_changes LIMIT 1 OFFSET ${MOST_ROWS}) AS many LIMIT 1`);
  // What no trigger noted has to be looked for first, and a long log is not read under the lock.
  if (unknown.length > 0) return null;
  const batch = await readBatch(tx, FEW_CHANGES + 1);
  if (batch.more || batch.gaps.size > 0 || batch.changes.length > FEW_CHANGES) return null;
  const sum = { ...NOTHING };
  // Also what others carried over since every aggregate was looked at.
  const losing = givesBack ? await unkeptBases(tx) : [];
  if (batch.changes.length + losing.length > 0) {
    const current = (await context.store.schemaVersion(tx)) === known.version;
    const reconciler = await Reconciler.of(context, tx, current ? known.layouts : undefined);
    add(sum, await reconciler.applyNow(tx, batch.changes));
    if (givesBack) await reconciler.keepLosses(tx, [...batch.changes, ...losing]);
  }
  await crossOver(tx, context, await judgeAdded(context, tx, batch.events));
  if (batch.empty.length > 1) await consume(tx, batch.empty);
  return sum;
}
