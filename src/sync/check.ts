import { isoTime } from "../clock.ts";
import { type Context, lockOptions, type SecondThread } from "../context.ts";
import { HiveError } from "../errors.ts";
import { listFlags } from "../flags/facts.ts";
import type { CheckOptions } from "../hive.ts";
import type { CheckResult } from "../results.ts";
import { audit } from "../rollout/audit.ts";
import { assertLedgerKnown, hasLedger, requireLedger } from "../schema/ledger.ts";
import type { Session, Transaction, Value } from "../storage/port.ts";
import { among, id, ids, sql } from "../storage/sql.ts";
import { existingKeys, type Layout, middleKey } from "./aggregates.ts";
import { captureState } from "./capture.ts";
import { hasChangeLog, writtenSince } from "./changes.ts";
import {
  type Compared,
  Comparison,
  type Counts,
  type Drifting,
  driftOf,
  type Found,
  KEYS_PER_PAGE,
  NO_COUNTS,
  rootless,
  type SharedTable,
  type Step,
  total,
} from "./compare.ts";
import { keyText, resolveAgents } from "./mapping.ts";
import { Meter } from "./meter.ts";
import { Pace } from "./pace.ts";
import { countRoots, introspectAll, type Pager, pagersOf, SECOND_THREAD_FROM, Who } from "./page.ts";
import { REPAIR_LOCK } from "./quarantine.ts";
import { keepRows, settle } from "./settle.ts";
import { advancePoint, type Point, pointBefore, readPoint, recordVerdict } from "./verdict.ts";

/**
 * Compares both sides in one snapshot on a read-only connection, aggregate by aggregate, with memory that does not
 * grow with their number. Agents: those named; for named keys all; else those with dual-write on; else all. What differs
 * and awaits a sync in that same snapshot is in flight, and no drift.
 *
 * With `repair`, what differs is looked at again under the write lock and, if it still differs, made equal to the
 * side that leads. The verdict (not the comparison) is noted in hive_checks, for the guards of the stages: not with
 * `dryRun`, not for single keys, and not where the database cannot be written.
 *
 * With `changed`, only what was written since the last full check without drift: see {@link pointBefore}. It opens no
 * gate. With `watch`, see {@link watchCheck}.
 *
 * @throws UNKNOWN_AGENT, UNKNOWN_NAME (a key that neither side has), SCHEMA_MISMATCH, INTERRUPTED (not with `watch`),
 * USAGE; with repair and changed also NOT_MIGRATED, GUARD_REFUSED; with repair also LOCK_HELD
 */
export async function check(context: Context, options: CheckOptions = {}): Promise<CheckResult> {
  const { store } = context;
  assertFitting(options);
  const ledger = await hasLedger(store);
  await assertLedgerKnown(store);
  if (!ledger && options.repair) {
    throw new HiveError("NOT_MIGRATED", `${store.location} has no hive tables yet: there is nothing to repair.`, {
      hint: "Run `hive migrate up` first.",
    });
  }
  if (options.repair || options.changed) await requireLedger(store);
  const { agents, note } = await agentsToCheck(context, options.agents ?? [], options.keys ?? []);
  if (!(await hasUnifiedTables(context))) {
    const why = "the unified tables do not exist: run `hive migrate up` first";
    return { ...emptyResult(agents), consistent: false, note: why, dryRun: options.dryRun === true };
  }
  if (options.watch) return (await import("./watch-check.ts")).watchCheck(context, options);
  const who = await Who.of(context, agents);
  const compare = async () => {
    const run = new Check(context, who, ledger, await hasChangeLog(store), options);
    const result = await run.run(note);
    const unrecorded = await run.record(result.consistent);
    return { ...result, recorded: unrecorded === null, unrecorded };
  };
  if (!options.repair || options.dryRun) return compare();
  return store.withLock(REPAIR_LOCK, lockOptions(context, options, "hive check --repair"), compare);
}

function assertFitting({ keys, changed, watch, repair }: CheckOptions): void {
  const given = [keys && keys.length > 0 && "--key", changed && "--changed", watch && "--watch"].filter(Boolean);
  if (watch && repair) given.push("--repair");
  if (given.length < 2) return;
  throw new HiveError("USAGE", `${given.join(" and ")} do not go together.`, {
    hint: watch && repair ? "Let --watch find it, then run `hive check --repair`." : "Choose one of them.",
  });
}

export function emptyResult(agents: readonly string[]): CheckResult {
  return {
    ...NO_COUNTS,
    consistent: true,
    agents: [...agents],
    drift: [],
    repaired: 0,
    unrepaired: [],
    recorded: false,
    unrecorded: "nothing was compared",
    since: null,
    rounds: null,
    note: null,
    dryRun: false,
  };
}

export async function agentsToCheck(
  context: Context,
  names: readonly string[],
  keys: readonly string[],
): Promise<{ agents: string[]; note: string | null }> {
  const all = resolveAgents(context.mapping, names);
  if (names.length > 0 || keys.length > 0) return { agents: all, note: null };
  const { agents } = await listFlags(context);
  const on = agents.filter((agent) => agent.flags["dual-write"]).map((agent) => agent.agent);
  if (on.length > 0) return { agents: on, note: null };
  return { agents: all, note: "no agent has dual-write on: all agents were compared" };
}

async function hasUnifiedTables(context: Context): Promise<boolean> {
  for (const { unified } of context.mapping.aggregates) {
    for (const { table } of [unified.root, ...unified.related]) {
      if ((await context.store.table(table)) === null) return false;
    }
  }
  return true;
}

const SPARED =
  "only the legacy side has it, while the unified side leads: a late write there, or a row that was deleted on the unified side. hive never deletes legacy rows; delete it yourself, or write it on the unified side too";

/** How often two threads try to get the same view. */
const MOST_ATTEMPTS = 20;

/** In one view, nobody commits. */
const ONE_VIEW = 0;

/** The other end of {@link SecondThread}: compares in a read view that stays open from one question to the next. */
export async function comparer(context: Context, agents: readonly string[]) {
  const { store } = context;
  const who = await Who.of(context, agents);
  const ledger = await hasLedger(store);
  const log = await hasChangeLog(store);
  const pagers = pagersOf(await introspectAll(context), who, ledger);
  let session: Session | undefined;
  let end = () => {};
  let ended: Promise<void> = Promise.resolve();
  const open = async () => {
    end();
    await ended;
    session = await new Promise<Session>((resolve, reject) => {
      ended = store.snapshot((opened) => {
        resolve(opened);
        return new Promise<void>((done) => {
          end = done;
        });
      });
      ended.catch(reject);
    });
  };
  const compare = async (mapping: string, from: Value): Promise<Compared> => {
    const pager = pagers.find((one) => one.layout.mapping.name === mapping);
    if (!session || !pager) throw new HiveError("INTERNAL", `Nothing was opened to compare "${mapping}" in.`);
    const comparison = new Comparison(context, who, log);
    for (const step of comparison.legacySide(pager, from, null)) await step(session, ONE_VIEW);
    return comparison.compared();
  };
  return { open, compare };
}

class Check {
  private readonly context: Context;
  private readonly who: Who;
  private readonly ledger: boolean;
  private readonly options: CheckOptions;
  private readonly meter: Meter;
  private readonly pace: Pace;
  private readonly comparison: Comparison;
  private readonly unrepaired: CheckResult["unrepaired"] = [];
  private readonly wanted: readonly string[] | null;
  private repaired = 0;
  /** The version of the schema at which all triggers were there. */
  private capturedAt: number | undefined;
  private attempts = 0;
  /** When the view was taken: what was written later is no part of the verdict. */
  private at = "";
  private point: Point | null = null;
  private since: string | null = null;

  constructor(context: Context, who: Who, ledger: boolean, log: boolean, options: CheckOptions) {
    this.context = context;
    this.who = who;
    this.ledger = ledger;
    this.options = options;
    this.meter = new Meter("check", context.clock, options.onProgress);
    this.pace = new Pace(context.store, context.clock, context.settings.lockBudget, "repair");
    this.comparison = new Comparison(context, who, log, {
      onCompared: (count) => this.meter.add(count),
      onFound: (pager, found) => this.repair(pager, found),
      onOrphans: (table, keys) => this.removeOrphans(table, keys),
    });
    this.wanted = options.keys && options.keys.length > 0 ? options.keys : null;
  }

  async run(note: string | null): Promise<CheckResult> {
    const layouts = await introspectAll(this.context);
    const everything = !this.wanted && !this.options.changed;
    const roots = everything ? await countRoots(this.context, layouts) : 0;
    this.meter.total = everything ? roots : null;
    const pagers = pagersOf(layouts, this.who, this.ledger);
    const thread =
      roots >= SECOND_THREAD_FROM && !this.options.repair
        ? await this.context.startSecondThread?.(this.who.agents)
        : undefined;
    try {
      while (!(await this.runOnce(layouts, pagers, thread))) this.assertNotAborted();
    } finally {
      await thread?.close();
    }
    const sum = total(this.comparison.counts.values());
    return {
      ...emptyResult(this.who.agents),
      ...sum,
      consistent: driftOf(sum) - this.repaired === 0,
      drift: this.comparison.drift,
      repaired: this.repaired,
      unrepaired: this.unrepaired,
      since: this.since,
      note: this.wanted && sum.inFlight > 0 ? awaiting(this.comparison.keysInFlight) : note,
      dryRun: this.options.dryRun === true,
    };
  }

  /** False where the two threads could not get the same view of the database, and nothing was done. */
  private async runOnce(
    layouts: readonly Layout[],
    pagers: readonly Pager[],
    thread: SecondThread | undefined,
  ): Promise<boolean> {
    const { context } = this;
    const { store } = context;
    // While others commit without a pause, two views taken one after the other are never the same: do it alone.
    const helper = this.attempts < MOST_ATTEMPTS ? thread : undefined;
    this.attempts += 1;
    this.at = isoTime(context.clock);
    const version = await store.version();
    return store.snapshot(async (session) => {
      if (helper) {
        await helper.openView();
        if ((await store.version()) !== version) return false;
      }
      if (this.wanted) {
        const left = new Set(this.wanted);
        for (const root of rootsOf(layouts)) {
          await this.comparison.some(session, layouts, pagers, root, [...this.wanted], false);
        }
        for (const { legacy, unified } of layouts) {
          for (const { root } of [legacy, unified]) {
            for (const key of await existingKeys(session, root, [...left])) left.delete(key);
          }
        }
        assertNone([...left]);
        return true;
      }
      if (this.ledger) this.point = await readPoint(context, session, this.who);
      if (this.options.changed) {
        await this.changedSince(session, layouts, pagers);
        return true;
      }
      for (const pager of pagers) await this.bothHalves(session, pager, helper);
      await this.go(session, this.comparison.unifiedOnly(layouts, pagers));
      await this.go(session, this.comparison.orphans(layouts, null));
      return true;
    });
  }

  private async go(session: Session, steps: Iterable<Step>): Promise<void> {
    for (const step of steps) {
      this.assertNotAborted();
      await step(session, ONE_VIEW);
    }
  }

  /** Every legacy aggregate against its unified one: the lower keys here, the upper ones on the other thread. */
  private async bothHalves(session: Session, pager: Pager, thread: SecondThread | undefined): Promise<void> {
    const { comparison } = this;
    await this.go(session, [comparison.withoutKey(pager)]);
    const middle = thread ? await middleKey(session, pager.layout.legacy.root) : null;
    const upper = thread && middle !== null ? thread.compare(pager.layout.mapping.name, middle) : undefined;
    // A failure is met below, not as an unhandled rejection.
    upper?.catch(() => undefined);
    await this.go(session, comparison.legacySide(pager, null, middle));
    if (upper) comparison.add((await upper) as Compared);
  }

  /** What was written since, and what waits: from a table on disk, so that memory does not grow with it. */
  private async changedSince(session: Session, layouts: readonly Layout[], pagers: readonly Pager[]): Promise<void> {
    const { written, since } = await pointBefore(this.context, session, this.who.agents, this.point);
    this.since = since;
    const { temporaryTables } = session.dialect;
    const usable = session.dialect.singleWriter ? sql`typeof(key) IN ('text', 'integer')` : sql`key IS NOT NULL`;
    const those = sql`SELECT source, key FROM hive_written WHERE ${writtenSince(session, written)}
      UNION SELECT source, CAST(key AS TEXT) FROM hive_changes WHERE side IS NOT NULL AND ${usable}`;
    const changed = temporaryTables ? id("temp", "hive_changed") : sql`(${those}) AS hive_changed`;
    if (temporaryTables) {
      await session.run(sql`DROP TABLE IF EXISTS ${changed}`);
      await session.run(sql`CREATE TEMP TABLE hive_changed AS ${those} ORDER BY 1, 2`);
      await session.run(sql`CREATE INDEX ${id("temp", "hive_changed_key")} ON hive_changed (source, key)`);
    }
    const counted = await session.all(sql`SELECT count(*) AS n FROM ${changed}`);
    this.meter.total = Number(counted[0]?.n);
    for (const root of rootsOf(layouts)) {
      let after = sql``;
      for (;;) {
        this.assertNotAborted();
        const rows = await session.all(
          sql`SELECT key FROM ${changed} WHERE source = ${root} ${after} ORDER BY key LIMIT ${KEYS_PER_PAGE}`,
        );
        const keys = rows.map((row) => String(row.key));
        await this.comparison.some(session, layouts, pagers, root, keys, true);
        const last = keys.at(-1);
        if (last === undefined || keys.length < KEYS_PER_PAGE) break;
        after = sql`AND key > ${last}`;
      }
    }
    if (temporaryTables) await session.run(sql`DROP TABLE ${changed}`);
  }

  private async removeOrphans(shared: SharedTable, values: readonly Value[]): Promise<void> {
    if (!this.options.repair || this.options.dryRun) return;
    const { mapping, table } = shared;
    const name = id(table.table);
    const key = id(table.table, table.key);
    await this.pace.observe();
    await this.pace.ready(this.options.abort);
    this.repaired += await this.context.store.transaction("repair", async (tx) => {
      await this.who.assertUnchanged(tx, this.context);
      // A foreign key that is NULL is not IN anything.
      const or = values.includes(null) ? sql`OR ${key} IS NULL` : sql``;
      const which = sql`(${key} IN ${among(values)} ${or}) AND ${rootless(shared)}`;
      const gone = await tx.tuples(sql`SELECT ${ids(table.columns)} FROM ${name} WHERE ${which}`);
      await keepRows(tx, this.context, mapping, table, gone);
      await tx.marked(() => tx.run(sql`DELETE FROM ${name} WHERE ${which}`));
      const keys = values.map((value) => keyText(value));
      const after = { mapping, table: table.table, keys };
      await audit(tx, this.context, { action: "repair", reason: this.options.reason, after });
      return values.length;
    });
    this.pace.done(values.length);
  }

  private async repair(pager: Pager, { drifting, unlisted }: Found): Promise<void> {
    if (!this.options.repair || this.options.dryRun) return;
    await this.settle(pager, drifting, true);
    await this.settle(
      pager,
      unlisted.map((key) => ({ key })),
      false,
    );
  }

  private async settle(pager: Pager, found: readonly (Drifting | { key: string })[], count: boolean): Promise<void> {
    const mapping = pager.layout.mapping.name;
    await this.context.signal?.("check:judged");
    let done = 0;
    while (done < found.length) {
      this.assertNotAborted();
      await this.pace.observe();
      await this.pace.ready(this.options.abort);
      const slice = found.slice(done, done + this.pace.slice);
      const keys = slice.map(({ key }) => key);
      const settled = await settle(this.context, pager, this.who, keys, {
        label: "repair",
        reason: this.options.reason,
        guard: (tx) => this.assertCaptured(tx),
      });
      this.pace.done(slice.length);
      done += slice.length;
      if (!count) continue;
      // What was the same when it was looked at again was mended by somebody else in the meantime.
      this.repaired += settled.mended.length + settled.same.length;
      for (const { mapping: name, key, reason } of settled.quarantined) {
        this.unrepaired.push({ mapping: name, key, reason });
      }
      for (const key of settled.spared) this.unrepaired.push({ mapping, key, reason: SPARED });
      const awaits = new Set(settled.awaiting);
      for (const one of slice) if ("kind" in one && awaits.has(one.key)) this.comparison.awaits(mapping, one);
    }
  }

  /**
   * Where no trigger noted what agents wrote, a difference may be a write that waits to be carried over: a repair would
   * undo it.
   */
  private async assertCaptured(tx: Transaction): Promise<void> {
    const { context } = this;
    if (!(await hasChangeLog(context.store, tx))) return;
    const version = await context.store.schemaVersion(tx);
    const { broken, blind } =
      version === this.capturedAt ? { broken: [], blind: false } : await captureState(context, tx);
    const gaps = await tx.all(sql`SELECT table_name FROM hive_gaps ORDER BY table_name`);
    const unnoted = [...new Set([...broken, ...gaps.map((row) => String(row.table_name))])];
    if (unnoted.length + Number(blind) > 0) {
      const what = unnoted.length > 0 ? `to ${unnoted.join(", ")}` : "while a mark was left in hive_applying";
      throw new HiveError("GUARD_REFUSED", `What agents wrote ${what} was not all noted: a repair could undo it.`, {
        hint: "Run `hive sync` first: it looks at every aggregate of these tables. Then run this command again.",
        details: { tables: unnoted },
      });
    }
    this.capturedAt = version;
  }

  /** Notes the verdict; else why it could not or should not be noted. */
  async record(consistent: boolean): Promise<string | null> {
    if (!this.ledger) return "hive's own tables are not there yet";
    if (this.wanted) return "only some keys were compared";
    if (this.options.dryRun) return "this was a dry run";
    if (this.options.changed) {
      const failed = consistent && this.point ? await advancePoint(this.context, this.who, this.point) : null;
      return failed ?? "only what was written since the last full check was compared";
    }
    const mended = this.repaired > 0 && this.unrepaired.length === 0;
    const counts = new Map<string, Counts>();
    for (const [agent, found] of this.comparison.counts) counts.set(agent, mended ? afterRepair(found) : found);
    return recordVerdict(this.context, this.who, { at: this.at, counts, point: this.point });
  }

  private assertNotAborted(): void {
    if (!this.options.abort?.aborted) return;
    throw new HiveError("INTERRUPTED", "The check was interrupted; it says nothing.", {
      hint: this.options.repair ? "What was repaired is kept. Run it again." : "Run it again.",
    });
  }
}

function rootsOf(layouts: readonly Layout[]): string[] {
  return [...new Set(layouts.map(({ unified }) => unified.root.table))];
}

function awaiting(keys: readonly string[]): string {
  const names = keys.map((key) => `"${key}"`).join(", ");
  return `${names} ${keys.length === 1 ? "differs and awaits" : "differ and await"} sync, which is no drift`;
}

/** A key that was mistyped must not be called consistent. */
function assertNone(unknown: readonly string[]): void {
  if (unknown.length === 0) return;
  const names = unknown.map((key) => `"${key}"`).join(", ");
  throw new HiveError("UNKNOWN_NAME", `Neither side has an aggregate with the key ${names}.`, {
    hint: "Keys are compared as they are written; look one up with SQL or `hive mapping test --key KEY`.",
    details: { keys: unknown },
  });
}

/** What the check would have counted had it come after the repair. */
function afterRepair(counts: Counts): Counts {
  const { compared, identical, missing, extra, different } = counts;
  const now = { compared: compared - extra, identical: identical + missing + different };
  return { ...counts, ...now, missing: 0, extra: 0, different: 0 };
}
