import { isoTime } from "../clock.ts";
import { type Context, lockOptions, type SecondThread } from "../context.ts";
import { HiveError } from "../errors.ts";
import { listFlags } from "../flags/facts.ts";
import type { CheckOptions } from "../hive.ts";
import type { CheckResult, Drift } from "../results.ts";
import { audit } from "../rollout/audit.ts";
import { assertLedgerKnown, hasLedger } from "../schema/ledger.ts";
import type { Session, Value } from "../storage/port.ts";
import { among, id, ids, join, sql } from "../storage/sql.ts";
import {
  existingKeys,
  type Layout,
  type Loaded,
  middleKey,
  pageOfKeys,
  type RelatedLayout,
  type TableLayout,
  toAggregate,
} from "./aggregates.ts";
import { keyText, resolveAgents } from "./mapping.ts";
import { Meter } from "./meter.ts";
import { Pace } from "./pace.ts";
import {
  countRoots,
  introspectAll,
  type Judgement,
  type NextPage,
  type Page,
  type Pager,
  PageSize,
  pagersOf,
  SECOND_THREAD_FROM,
  Who,
} from "./page.ts";
import { differencesDown, differencesUp } from "./projection.ts";
import { REPAIR_LOCK } from "./quarantine.ts";
import { jsonValue, keepRows, type Settled, settle } from "./settle.ts";

const MOST_DRIFT = 100;
const KEYS_PER_PAGE = 500;

interface Counts {
  compared: number;
  identical: number;
  missing: number;
  extra: number;
  different: number;
  inFlight: number;
  quarantined: number;
}

const NO_COUNTS: Counts = {
  compared: 0,
  identical: 0,
  missing: 0,
  extra: 0,
  different: 0,
  inFlight: 0,
  quarantined: 0,
};

/**
 * Compares both sides in one snapshot on a read-only connection, aggregate by aggregate, with memory that does not
 * grow with their number. Agents: those named; for named keys all; else those with dual-write on; else all.
 *
 * With `repair`, what differs is looked at again under the write lock and, if it still differs, made equal to the
 * side that leads. The verdict (not the comparison) is noted in hive_checks, for the guards of the stages: not with
 * `dryRun`, not for single keys, and not where the database cannot be written.
 *
 * @throws UNKNOWN_AGENT, UNKNOWN_NAME (a key that neither side has), SCHEMA_MISMATCH, INTERRUPTED; with repair also
 * NOT_MIGRATED, GUARD_REFUSED, LOCK_HELD
 */
export async function check(context: Context, options: CheckOptions = {}): Promise<CheckResult> {
  const { store } = context;
  const ledger = await hasLedger(store);
  await assertLedgerKnown(store);
  if (!ledger && options.repair) {
    throw new HiveError("NOT_MIGRATED", `${store.location} has no hive tables yet: there is nothing to repair.`, {
      hint: "Run `hive migrate up` first.",
    });
  }
  const { agents, note } = await agentsToCheck(context, options.agents ?? [], options.keys ?? []);
  if (!(await hasUnifiedTables(context))) {
    const why = "the unified tables do not exist: run `hive migrate up` first";
    return { ...emptyResult(agents), consistent: false, note: why, dryRun: options.dryRun === true };
  }
  const who = await Who.of(context, agents);
  const compare = async () => {
    const run = new Check(context, who, ledger, options);
    const result = await run.run(note);
    const unrecorded = await run.record();
    return { ...result, recorded: unrecorded === null, unrecorded };
  };
  if (!options.repair || options.dryRun) return compare();
  return store.withLock(REPAIR_LOCK, lockOptions(context, options, "hive check --repair"), compare);
}

function emptyResult(agents: readonly string[]): CheckResult {
  return {
    ...NO_COUNTS,
    consistent: true,
    agents: [...agents],
    drift: [],
    repaired: 0,
    unrepaired: [],
    recorded: false,
    unrecorded: "nothing was compared",
    note: null,
    dryRun: false,
  };
}

async function agentsToCheck(
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

/** A related unified table, and the root tables that its rows may belong to. */
interface SharedTable {
  /** The first mapping that has it. */
  readonly mapping: string;
  readonly table: RelatedLayout;
  readonly roots: TableLayout[];
}

function relatedTables(layouts: readonly Layout[]): SharedTable[] {
  const tables = new Map<string, SharedTable>();
  for (const { mapping, unified } of layouts) {
    for (const table of unified.related) {
      const known = tables.get(table.table);
      if (!known) tables.set(table.table, { mapping: mapping.name, table, roots: [unified.root] });
      else if (!known.roots.some((root) => root.table === unified.root.table)) known.roots.push(unified.root);
    }
  }
  return [...tables.values()];
}

/** What the other thread found. */
interface Compared {
  readonly counts: ReadonlyMap<string, Counts>;
  readonly drift: readonly Drift[];
}

const SPARED =
  "only the legacy side has it, while the unified side leads: a late write there, or a row that was deleted on the unified side. hive never deletes legacy rows; delete it yourself, or write it on the unified side too";

/** How often two threads try to get the same view. */
const MOST_ATTEMPTS = 20;

/** The other end of {@link SecondThread}: compares in a read view that stays open from one question to the next. */
export async function comparer(context: Context, agents: readonly string[]) {
  const { store } = context;
  const who = await Who.of(context, agents);
  const ledger = await hasLedger(store);
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
    const check = new Check(context, who, ledger, {});
    await check.legacyPass(session, pager, from, null);
    return check.compared();
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
  private readonly counts = new Map<string, Counts>();
  private readonly drift: Drift[] = [];
  private readonly unrepaired: CheckResult["unrepaired"] = [];
  /** What was judged to be beyond mapping and is not in quarantine yet: a repair puts it there. */
  private readonly unlisted: string[] = [];
  private readonly wanted: readonly string[] | null;
  private readonly found = new Set<string>();
  private repaired = 0;
  private attempts = 0;
  /** When the view was taken: what was written later is no part of the verdict. */
  private at = "";

  constructor(context: Context, who: Who, ledger: boolean, options: CheckOptions) {
    this.context = context;
    this.who = who;
    this.ledger = ledger;
    this.options = options;
    this.meter = new Meter("check", context.clock, options.onProgress);
    this.pace = new Pace(context.store, context.clock, context.settings.lockBudget);
    this.wanted = options.keys && options.keys.length > 0 ? options.keys : null;
  }

  async run(note: string | null): Promise<CheckResult> {
    const layouts = await introspectAll(this.context);
    const roots = this.wanted ? 0 : await countRoots(this.context, layouts);
    this.meter.total = this.wanted ? null : roots;
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
    this.assertFound();
    const sum = total(this.counts.values());
    const drifting = sum.missing + sum.extra + sum.different;
    return {
      ...emptyResult(this.who.agents),
      ...sum,
      consistent: drifting - this.repaired === 0,
      drift: this.drift,
      repaired: this.repaired,
      unrepaired: this.unrepaired,
      note,
      dryRun: this.options.dryRun === true,
    };
  }

  /** A key that was mistyped must not be called consistent. */
  private assertFound(): void {
    const unknown = (this.wanted ?? []).filter((key) => !this.found.has(key));
    if (unknown.length === 0) return;
    const names = unknown.map((key) => `"${key}"`).join(", ");
    throw new HiveError("UNKNOWN_NAME", `Neither side has an aggregate with the key ${names}.`, {
      hint: "Keys are compared as they are written; look one up with SQL or `hive mapping test --key KEY`.",
      details: { keys: unknown },
    });
  }

  /** False where the two threads could not get the same view of the database, and nothing was done. */
  private async runOnce(
    layouts: readonly Layout[],
    pagers: readonly Pager[],
    thread: SecondThread | undefined,
  ): Promise<boolean> {
    const { store } = this.context;
    // While others commit without a pause, two views taken one after the other are never the same: do it alone.
    const helper = this.attempts < MOST_ATTEMPTS ? thread : undefined;
    this.attempts += 1;
    this.at = isoTime(this.context.clock);
    const version = await store.version();
    return store.snapshot(async (session) => {
      if (helper) {
        await helper.openView();
        if ((await store.version()) !== version) return false;
      }
      for (const pager of pagers) await this.bothHalves(session, pager, helper);
      for (const root of new Set(layouts.map((layout) => layout.unified.root.table))) {
        await this.unifiedPass(
          session,
          pagers.filter((pager) => pager.layout.unified.root.table === root),
        );
      }
      if (!this.wanted && this.who.everyone) {
        for (const one of relatedTables(layouts)) await this.orphanPass(session, one);
      }
      return true;
    });
  }

  /** Every legacy aggregate against its unified one: the lower keys here, the upper ones on the other thread. */
  private async bothHalves(session: Session, pager: Pager, thread: SecondThread | undefined): Promise<void> {
    if (this.wanted) {
      for await (const page of pager.portions(session, this.wanted)) await this.judgePage(pager, page);
      return;
    }
    for (const entry of await pager.withoutKey(session)) {
      this.add(entry.agent, "quarantined");
      this.meter.add(1);
    }
    const middle = thread ? await middleKey(session, pager.layout.legacy.root) : null;
    const upper = thread && middle !== null ? thread.compare(pager.layout.mapping.name, middle) : undefined;
    // A failure is met below, not as an unhandled rejection.
    upper?.catch(() => undefined);
    await this.legacyPass(session, pager, null, middle);
    if (upper) this.addCompared((await upper) as Compared);
  }

  private addCompared({ counts, drift }: Compared): void {
    for (const [agent, some] of counts) {
      const sum = total([this.counts.get(agent) ?? NO_COUNTS, some]);
      this.counts.set(agent, sum);
      this.meter.add(some.compared);
    }
    for (const one of drift) this.report(one);
  }

  async legacyPass(session: Session, pager: Pager, from: Value, to: Value): Promise<void> {
    const size = new PageSize();
    let after = from;
    for (;;) {
      this.assertNotAborted();
      const limit = size.rows;
      const page: NextPage = await pager.next(session, after, limit, 0, to);
      await this.judgePage(pager, page);
      this.meter.add(page.legacy.length);
      const last = page.legacy.at(-1);
      if (last === undefined || !page.more) return;
      after = last.keyValue;
      size.learn(page);
    }
  }

  compared(): Compared {
    return { counts: this.counts, drift: this.drift };
  }

  private async judgePage(pager: Pager, page: Page): Promise<void> {
    const broken: string[] = [];
    if (this.wanted) for (const one of [...page.legacy, ...page.unified.values()]) this.found.add(one.key ?? "");
    for (const one of page.legacy) {
      const judgement = pager.judge(page, one);
      if (judgement === null) continue;
      const unified = page.unified.get(judgement.key);
      if (this.note(pager, judgement, one, unified, page.inQuarantine.has(judgement.key))) broken.push(judgement.key);
    }
    await this.repair(pager, broken);
  }

  /** Unified aggregates that have no legacy row. */
  private async unifiedPass(session: Session, pagers: readonly Pager[]): Promise<void> {
    const [first] = pagers;
    if (!first) return;
    const { root } = first.layout.unified;
    let after: Value = null;
    for (;;) {
      this.assertNotAborted();
      const values: readonly Value[] = this.wanted ?? (await pageOfKeys(session, root, after, KEYS_PER_PAGE));
      const alone = new Set<string>();
      for (const value of values) {
        const key = keyText(value);
        if (key !== null) alone.add(key);
      }
      for (const pager of pagers) {
        for (const key of await existingKeys(session, pager.layout.legacy.root, [...alone])) alone.delete(key);
      }
      await this.judgeAlone(session, pagers, [...alone]);
      if (this.wanted || values.length < KEYS_PER_PAGE) return;
      after = values.at(-1) ?? null;
    }
  }

  private async judgeAlone(session: Session, pagers: readonly Pager[], keys: readonly string[]): Promise<void> {
    const left = new Set(keys);
    for (const pager of pagers) {
      if (left.size === 0) return;
      for await (const page of pager.portions(session, [...left])) {
        const broken: string[] = [];
        for (const unified of page.unified.values()) {
          if (!pager.layout.mapping.owns(toAggregate(pager.layout.unified, unified))) continue;
          if (unified.key !== null) left.delete(unified.key);
          const judgement = pager.judgeAlone(unified);
          if (judgement === null) continue;
          const { key } = judgement;
          if (this.note(pager, judgement, undefined, unified, page.inQuarantine.has(key))) broken.push(key);
        }
        await this.repair(pager, broken);
      }
    }
  }

  /** Rows of a related unified table whose root row is gone: they belong to no agent any more. */
  private async orphanPass(session: Session, { mapping, table, roots }: SharedTable): Promise<void> {
    const name = id(table.table);
    const key = id(table.table, table.key);
    const rootless = join(
      roots.map((root) => sql`NOT EXISTS (SELECT 1 FROM ${id(root.table)} WHERE ${id(root.table, root.key)} = ${key})`),
      " AND ",
    );
    let after: Value = null;
    for (;;) {
      this.assertNotAborted();
      const beyond = after === null ? sql`` : sql`${key} > ${after} AND `;
      const rows = await session.tuples(
        sql`SELECT DISTINCT ${key} FROM ${name} WHERE ${beyond}${rootless} ORDER BY 1 LIMIT ${KEYS_PER_PAGE}`,
      );
      const values = rows.map((row) => row[0] ?? null);
      for (const value of values) {
        const text = value === null ? "(NULL key)" : (keyText(value) ?? `(key ${String(value)})`);
        const column = { table: table.table, column: table.key, legacy: null, unified: jsonValue(value) };
        this.add("", "extra");
        this.report({ mapping, key: text, agent: "", kind: "extra", columns: [column] });
      }
      if (this.options.repair && !this.options.dryRun && values.length > 0) {
        await this.pace.observe();
        await this.pace.ready(this.options.abort);
        this.repaired += await this.context.store.transaction("repair", async (tx) => {
          await this.who.assertUnchanged(tx, this.context);
          // A foreign key that is NULL is not IN anything.
          const or = values.includes(null) ? sql`OR ${key} IS NULL` : sql``;
          const which = sql`(${key} IN ${among(values)} ${or}) AND ${rootless}`;
          const gone = await tx.tuples(sql`SELECT ${ids(table.columns)} FROM ${name} WHERE ${which}`);
          await keepRows(tx, this.context, mapping, table, gone);
          await tx.run(sql`DELETE FROM ${name} WHERE ${which}`);
          const keys = values.map((value) => keyText(value));
          const after = { mapping, table: table.table, keys };
          await audit(tx, this.context, { action: "repair", reason: this.options.reason, after });
          return values.length;
        });
        this.pace.done(values.length);
      }
      if (values.length < KEYS_PER_PAGE) return;
      after = values.at(-1) ?? null;
    }
  }

  /** Counts it; whether it is drift. */
  private note(
    pager: Pager,
    judgement: Judgement,
    legacy: Loaded | undefined,
    unified: Loaded | undefined,
    inQuarantine: boolean,
  ): boolean {
    const { agent, key } = judgement;
    if (judgement.kind === "same") {
      this.add(agent, "identical");
      return false;
    }
    if (judgement.kind === "quarantined" || inQuarantine) {
      if (!inQuarantine) this.unlisted.push(key);
      this.add(agent, "quarantined");
      return false;
    }
    const { layout } = pager;
    const kind = driftKind(judgement, legacy, unified);
    this.add(agent, kind);
    if (this.drift.length < MOST_DRIFT) {
      const differences =
        judgement.kind === "up" && unified
          ? differencesUp(layout, judgement.write.rows, unified)
          : judgement.kind === "down" && legacy
            ? differencesDown(judgement.write.changes, legacy, layout.legacy)
            : [];
      const columns = differences.map((one) => ({
        ...one,
        legacy: jsonValue(one.legacy),
        unified: jsonValue(one.unified),
      }));
      this.report({ mapping: layout.mapping.name, key, agent, kind, columns });
    }
    return true;
  }

  private report(drift: Drift): void {
    if (this.drift.length < MOST_DRIFT) this.drift.push(drift);
  }

  private add(agent: string, what: Exclude<keyof Counts, "compared">): void {
    let counts = this.counts.get(agent);
    if (!counts) {
      counts = { ...NO_COUNTS };
      this.counts.set(agent, counts);
    }
    counts.compared += 1;
    counts[what] += 1;
  }

  private async repair(pager: Pager, keys: readonly string[]): Promise<void> {
    const unlisted = this.unlisted.splice(0);
    if (!this.options.repair || this.options.dryRun) return;
    await this.settle(pager, keys, (settled) => {
      this.settled(settled);
      for (const key of settled.spared) {
        this.unrepaired.push({ mapping: pager.layout.mapping.name, key, reason: SPARED });
      }
    });
    await this.settle(pager, unlisted);
  }

  private async settle(pager: Pager, keys: readonly string[], note?: (settled: Settled) => void): Promise<void> {
    await this.context.signal?.("check:judged");
    let done = 0;
    while (done < keys.length) {
      this.assertNotAborted();
      await this.pace.observe();
      await this.pace.ready(this.options.abort);
      const slice = keys.slice(done, done + this.pace.slice);
      const settled = await settle(this.context, pager, this.who, slice, {
        label: "repair",
        reason: this.options.reason,
      });
      this.pace.done(slice.length);
      note?.(settled);
      done += slice.length;
    }
  }

  private settled(settled: Settled): void {
    // What was the same when it was looked at again was mended by somebody else in the meantime.
    this.repaired += settled.mended.length + settled.same.length;
    for (const { mapping, key, reason } of settled.quarantined) this.unrepaired.push({ mapping, key, reason });
  }

  /** Notes the verdict for the guards of the stages; else why it could not or should not be noted. */
  async record(): Promise<string | null> {
    if (!this.ledger) return "hive's own tables are not there yet";
    if (this.wanted) return "only some keys were compared";
    if (this.options.dryRun) return "this was a dry run";
    const { at } = this;
    try {
      await this.context.store.transaction("check record", async (tx) => {
        // A verdict that was reached under other flags says nothing about the agent as it is now.
        await this.who.assertUnchanged(tx, this.context);
        for (const agent of this.who.agents) {
          const counts = this.counts.get(agent) ?? NO_COUNTS;
          const mended = this.repaired > 0 && this.unrepaired.length === 0;
          const found = mended ? afterRepair(counts) : counts;
          await tx.run(sql`INSERT INTO hive_checks
              (agent, at, compared, identical, missing, extra, different, in_flight, quarantined)
            VALUES (${agent}, ${at}, ${found.compared}, ${found.identical}, ${found.missing}, ${found.extra},
              ${found.different}, ${found.inFlight}, ${found.quarantined})
            ON CONFLICT (agent) DO UPDATE SET at = excluded.at, compared = excluded.compared,
              identical = excluded.identical, missing = excluded.missing, extra = excluded.extra,
              different = excluded.different, in_flight = excluded.in_flight, quarantined = excluded.quarantined`);
        }
      });
      return null;
    } catch (error) {
      // The comparison stands by itself; the result says that it was not noted.
      const why = error instanceof HiveError ? UNRECORDABLE.get(error.code) : undefined;
      if (why === undefined) throw error;
      return why;
    }
  }

  private assertNotAborted(): void {
    if (!this.options.abort?.aborted) return;
    throw new HiveError("INTERRUPTED", "The check was interrupted; it says nothing.", {
      hint: this.options.repair ? "What was repaired is kept. Run it again." : "Run it again.",
    });
  }
}

const UNRECORDABLE: ReadonlyMap<string, string> = new Map([
  ["DATABASE_READ_ONLY", "the database cannot be written"],
  ["DATABASE_BUSY", "somebody else kept the database locked"],
  ["DISK_FULL", "the disk is full"],
  ["GUARD_REFUSED", "flags were changed meanwhile"],
]);

/** What the check would have counted had it come after the repair. */
function afterRepair(counts: Counts): Counts {
  const { compared, identical, missing, extra, different } = counts;
  const now = { compared: compared - extra, identical: identical + missing + different };
  return { ...counts, ...now, missing: 0, extra: 0, different: 0 };
}

/** Seen from the side that leads: what the other one lacks is missing there, what it has besides is extra. */
function driftKind(
  judgement: Judgement,
  legacy: Loaded | undefined,
  unified: Loaded | undefined,
): "missing" | "extra" | "different" {
  if (judgement.kind === "extra") return "extra";
  return (judgement.kind === "up" ? unified : legacy) === undefined ? "missing" : "different";
}

function total(all: Iterable<Counts>): Counts {
  const sum = { ...NO_COUNTS };
  for (const counts of all) {
    sum.compared += counts.compared;
    sum.identical += counts.identical;
    sum.missing += counts.missing;
    sum.extra += counts.extra;
    sum.different += counts.different;
    sum.inFlight += counts.inFlight;
    sum.quarantined += counts.quarantined;
  }
  return sum;
}
