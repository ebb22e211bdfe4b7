import { isoTime } from "../clock.ts";
import type { ChangeOptions, Context } from "../context.ts";
import { HiveError } from "../errors.ts";
import { audit } from "../rollout/audit.ts";
import type { Session, Transaction, Tuple, Value } from "../storage/port.ts";
import { among, id, ids, sql } from "../storage/sql.ts";
import { aggregateJson, keyValues, type Layout, type Loaded, type TableLayout, toAggregate } from "./aggregates.ts";
import { deleteUnified, hold, moveStaged, stage, type UnifiedWrite, writeLegacy } from "./apply.ts";
import { baseOf, writeBase } from "./bases.ts";
import { addChanges, noteWritten, pendingAmong } from "./changes.ts";
import { type DataRow, keyText, resolveAgents } from "./mapping.ts";
import { Pace } from "./pace.ts";
import { introspectAll, isUnnamed, type Judgement, type Page, type Pager, pagersOf, Who } from "./page.ts";
import { type LegacyChange, wayBack, withChanges } from "./projection.ts";
import { type Quarantined, quarantine, release } from "./quarantine.ts";
import { readAdapters } from "./telling.ts";

export interface Settled {
  /** Keys that were written on one of the sides. */
  readonly mended: readonly string[];
  /** Keys that needed nothing any more. */
  readonly same: readonly string[];
  /** Keys that only the legacy side has, while the unified side leads: left alone. */
  readonly spared: readonly string[];
  /** Keys with changes that wait to be carried over: left to a sync. */
  readonly awaiting: readonly string[];
  readonly quarantined: readonly Quarantined[];
  /** Whole aggregates that were put into hive_kept. */
  readonly kept: number;
  readonly released: number;
}

export interface SettleOptions {
  /** The transaction's label, and the action in the audit log. */
  readonly label: string;
  readonly reason?: string | undefined;
  /** Also keep unified aggregates that hold what the legacy side cannot. */
  readonly keepLosses?: boolean;
  /** Do not enforce foreign keys. */
  readonly looseReferences?: boolean;
  /** Inside each transaction, before anything is read: throws where nothing may be written. */
  readonly guard?: (tx: Transaction) => Promise<void>;
}

const NONE: Settled = { mended: [], same: [], spared: [], awaiting: [], quarantined: [], kept: 0, released: 0 };

/**
 * Looks at these aggregates again inside one write transaction and makes the side that follows equal to the one that
 * leads, as both are then: so nothing newer is ever overwritten. What is taken away is kept in hive_kept; what cannot
 * be mapped or written is quarantined.
 *
 * @throws GUARD_REFUSED when flags were changed meanwhile
 */
export async function settle(
  context: Context,
  pager: Pager,
  who: Who,
  keys: readonly string[],
  options: SettleOptions,
): Promise<Settled> {
  if (keys.length === 0) return NONE;
  try {
    return await context.store.transaction(
      options.label,
      async (tx) => {
        await who.assertUnchanged(tx, context);
        await options.guard?.(tx);
        return tx.marked(() => settleIn(tx, context, pager, keys, options));
      },
      { looseReferences: options.looseReferences === true },
    );
  } catch (error) {
    if (!(error instanceof HiveError) || error.code !== "CONSTRAINT") throw error;
    return settleApart(context, pager, who, keys, options, error);
  }
}

/** One row that the database refuses must not keep back the others: halves, until it stands alone. */
async function settleApart(
  context: Context,
  pager: Pager,
  who: Who,
  keys: readonly string[],
  options: SettleOptions,
  error: HiveError,
): Promise<Settled> {
  const [only] = keys;
  if (keys.length === 1 && only !== undefined) {
    if (!options.looseReferences) {
      const view = await context.store.snapshot((session) => pager.some(session, keys));
      // Agents that write with foreign keys off leave orphans; and what it refers to may come down after it.
      if (judgeKey(pager, view, only)?.kind === "down") {
        return settle(context, pager, who, keys, { ...options, looseReferences: true });
      }
    }
    return context.store.transaction(options.label, async (tx) => {
      const page = await pager.some(tx, keys);
      const judgement = judgeKey(pager, page, only);
      if (judgement === null || judgement.kind === "same") return { ...NONE, same: [only] };
      const entry: Quarantined = {
        mapping: pager.layout.mapping.name,
        key: only,
        agent: judgement.agent,
        direction: judgement.kind === "down" ? "down" : "up",
        reason: `the database refuses the row: ${error.message}`,
      };
      await quarantine(tx, context, entry);
      const unified = page.unified.get(only);
      // It leads no longer in a moment, and would then be written over.
      const kept =
        options.keepLosses && unified && judgement.kind === "down"
          ? await keep(tx, context, pager, unified, judgement.agent, "unified", entry.reason)
          : 0;
      return { ...NONE, quarantined: [entry], kept };
    });
  }
  const half = Math.ceil(keys.length / 2);
  const first = await settle(context, pager, who, keys.slice(0, half), options);
  const second = await settle(context, pager, who, keys.slice(half), options);
  return addSettled(first, second);
}

export function addSettled(a: Settled, b: Settled): Settled {
  return {
    mended: [...a.mended, ...b.mended],
    same: [...a.same, ...b.same],
    spared: [...a.spared, ...b.spared],
    awaiting: [...a.awaiting, ...b.awaiting],
    quarantined: [...a.quarantined, ...b.quarantined],
    kept: a.kept + b.kept,
    released: a.released + b.released,
  };
}

/** What both sides say about one key. Null for an agent that is not asked about, and where neither side has it. */
function judgeKey(pager: Pager, page: Page, key: string): Judgement | null {
  const legacy = page.legacy.find((one) => one.key === key);
  if (legacy) return pager.judge(page, legacy);
  const unified = ownAlone(pager, page.unified.get(key));
  return unified ? pager.judgeAlone(unified) : null;
}

/** A unified aggregate that no legacy row of this mapping has, if it is this mapping's at all. */
function ownAlone({ layout }: Pager, unified: Loaded | undefined): Loaded | undefined {
  return unified && layout.mapping.owns(toAggregate(layout.unified, unified)) ? unified : undefined;
}

async function settleIn(
  tx: Transaction,
  context: Context,
  pager: Pager,
  all: readonly string[],
  options: SettleOptions,
): Promise<Settled> {
  const { layout } = pager;
  await hold(
    tx,
    layout,
    all.filter((key) => !isUnnamed(key)),
    "wait",
    true,
  );
  const pending = await pendingAmong(tx, layout.unified.root.table, all);
  const keys = all.filter((key) => !pending.has(key));
  const page = await pager.some(tx, keys);
  const legacyByKey = new Map(page.legacy.map((one) => [one.key, one]));
  const writes: UnifiedWrite[] = [];
  const mended: string[] = [];
  const same: string[] = [];
  const quarantined: Quarantined[] = [];
  const downward: string[] = [];
  const gone: string[] = [];
  const spared: string[] = [];
  let kept = 0;
  for (const key of keys) {
    const legacy = legacyByKey.get(key);
    const unified = legacy ? page.unified.get(key) : ownAlone(pager, page.unified.get(key));
    const judgement = legacy ? pager.judge(page, legacy) : unified ? pager.judgeAlone(unified) : null;
    if (judgement === null) {
      if (!legacy && !unified && !isUnnamed(key)) gone.push(key);
      continue;
    }
    const { agent } = judgement;
    switch (judgement.kind) {
      case "same":
        same.push(key);
        if (unified) downward.push(key);
        break;
      case "quarantined":
        quarantined.push(judgement.entry);
        if (options.keepLosses && unified) {
          // It leads no longer in a moment, and what cannot go down would then be written over.
          kept += await keep(tx, context, pager, unified, agent, "unified", judgement.entry.reason);
        }
        break;
      case "up":
        // Related rows can outlive their root when somebody deletes it by hand: they would be in the way for ever.
        writes.push({ key, ...judgement.write, ...(unified ? {} : replacing(layout)) });
        mended.push(key);
        break;
      case "down":
        if (legacy && (options.label === "repair" || page.inQuarantine.get(key) === "up")) {
          kept += await keep(
            tx,
            context,
            pager,
            legacy,
            agent,
            "legacy",
            "the unified side leads, and says something else",
          );
        }
        await writeDown(tx, context, pager, key, agent, judgement.write.changes);
        if (unified) {
          const after = withChanges(layout.legacy, key, legacy, judgement.write.changes);
          await writeBase(tx, layout.unified.root.table, key, agent, baseOf(layout, after, unified));
        }
        mended.push(key);
        downward.push(key);
        break;
      case "extra":
        // Never taken away on the legacy side: it may be the newest there is, and others may refer to it.
        if (judgement.side === "legacy" || !unified) {
          spared.push(key);
          break;
        }
        kept += await keep(tx, context, pager, unified, agent, "unified", "only the unified side had it");
        await deleteUnified(tx, layout, [key]);
        mended.push(key);
        break;
    }
  }
  if (writes.length > 0) {
    await stage(tx, layout, writes);
    await moveStaged(tx, layout, writes, new Set());
  }
  await context.signal?.(`${options.label}:moved`);
  if (options.keepLosses) kept += await afterDown(tx, context, pager, downward);
  for (const entry of quarantined) await quarantine(tx, context, entry);
  const solved = [...mended, ...same, ...gone].filter((key) => page.inQuarantine.has(key));
  const released = solved.length > 0 ? await release(tx, layout.mapping.name, solved) : 0;
  if (mended.length > 0) {
    await audit(tx, context, {
      action: options.label,
      reason: options.reason,
      after: { mapping: layout.mapping.name, keys: mended },
    });
  }
  await noteWritten(tx, layout.unified.root.table, mended);
  // What could not be expressed so far may be another one by now.
  if (mended.length > 0 && (await readAdapters(context, tx)).states !== null) {
    await addChanges(
      tx,
      "state",
      layout.unified.root.table,
      mended.filter((key) => !isUnnamed(key)),
    );
  }
  // The legacy side is no longer behind: the flip out of `complete` need not put them into the log.
  const level = [...mended, ...same];
  if (options.keepLosses && level.length > 0) {
    await tx.run(sql`DELETE FROM hive_behind WHERE source = ${layout.unified.root.table} AND key IN ${among(level)}`);
  }
  return { mended, same, spared, awaiting: [...pending.keys()], quarantined, kept, released };
}

function replacing(layout: Layout): Pick<UnifiedWrite, "exists" | "related"> {
  return { exists: true, related: layout.unified.related.map(() => true) };
}

/**
 * Keeps unified aggregates with values that the legacy rows, as they are now, would not give back. Where the mapping's
 * notes alone are no longer those of the legacy rows, they are renewed: else the first check after the legacy side
 * leads again would find drift.
 */
async function afterDown(tx: Transaction, context: Context, pager: Pager, keys: readonly string[]): Promise<number> {
  const renewals: UnifiedWrite[] = [];
  const kept = await keepLosses(tx, context, pager, keys, renewals);
  if (renewals.length > 0) {
    await stage(tx, pager.layout, renewals);
    await moveStaged(tx, pager.layout, renewals, new Set());
  }
  return kept;
}

/**
 * Keeps unified aggregates with values that the legacy rows, as they are now, would not give back: before they are
 * written over. The number of them; `renewals` gets those whose notes alone differ.
 */
export async function keepLosses(
  tx: Transaction,
  context: Context,
  pager: Pager,
  keys: readonly string[],
  renewals: UnifiedWrite[] = [],
): Promise<number> {
  if (keys.length === 0) return 0;
  const { layout } = pager;
  const page = await pager.some(tx, keys);
  let kept = 0;
  for (const legacy of page.legacy) {
    const unified = legacy.key === null ? undefined : page.unified.get(legacy.key);
    if (!unified) continue;
    const { losses, renewed } = wayBack(layout, legacy, unified);
    if (renewed && legacy.key !== null) {
      renewals.push({ key: legacy.key, rows: renewed, exists: true, related: layout.unified.related.map(() => false) });
    }
    if (losses.length === 0) continue;
    const agent = layout.mapping.unifiedAgent(toAggregate(layout.unified, unified));
    const reason = `the legacy tables cannot hold ${losses.join(", ")}`;
    kept += await keep(tx, context, pager, unified, agent, "unified", reason);
  }
  await tx.run(
    sql`UPDATE hive_bases SET kept = 1 WHERE source = ${layout.unified.root.table} AND key IN ${among(keys)}`,
  );
  return kept;
}

/** Puts a whole aggregate into hive_kept. 0 where the same was kept before. */
export async function keep(
  tx: Transaction,
  context: Context,
  { layout }: Pick<Pager, "layout">,
  loaded: Loaded,
  agent: string,
  side: "legacy" | "unified",
  reason: string,
): Promise<number> {
  const mapping = layout.mapping.name;
  const key = loaded.key ?? "";
  const json = aggregateJson(toAggregate(side === "legacy" ? layout.legacy : layout.unified, loaded));
  if (await isKept(tx, mapping, key, side, json)) return 0;
  await tx.run(sql`INSERT INTO hive_kept (at, mapping, key, agent, side, reason, aggregate)
    VALUES (${isoTime(context.clock)}, ${mapping}, ${key}, ${agent}, ${side}, ${reason}, ${json})`);
  return 1;
}

/** Whether this is what was last kept of it. */
async function isKept(
  session: Session,
  mapping: string,
  key: string,
  side: "legacy" | "unified",
  json: string,
): Promise<boolean> {
  const last = await session.all(
    sql`SELECT side, aggregate FROM hive_kept WHERE mapping = ${mapping} AND key = ${key} ORDER BY seq DESC LIMIT 1`,
  );
  return last[0]?.side === side && last[0]?.aggregate === json;
}

/** Whether {@link keepLosses} would keep this unified aggregate once these changes have been made on the legacy side. */
export async function wouldKeep(
  session: Session,
  { layout }: Pager,
  unified: Loaded,
  legacy: Loaded | undefined,
  changes: readonly LegacyChange[],
): Promise<boolean> {
  const key = unified.key ?? "";
  const { losses } = wayBack(layout, withChanges(layout.legacy, key, legacy, changes), unified);
  if (losses.length === 0) return false;
  const json = aggregateJson(toAggregate(layout.unified, unified));
  return !(await isKept(session, layout.mapping.name, key, "unified", json));
}

/**
 * Writes on the legacy side. Where the root row was gone, rows that outlived it would be in the way of those that come:
 * they go, and a copy is kept. Of a table that the mapping does not write they stay, and are the aggregate's again.
 */
export async function writeDown(
  tx: Transaction,
  context: Context,
  { layout }: Pick<Pager, "layout">,
  key: string,
  agent: string,
  changes: readonly LegacyChange[],
): Promise<void> {
  const { root, related } = layout.legacy;
  if (changes.some(({ table, action }) => table === root.table && action === "insert")) {
    const orphans: [string, readonly DataRow[]][] = [];
    for (const table of related) {
      const values = keyValues([key], table.keyType);
      if (values.length === 0 || !changes.some((change) => change.table === table.table)) continue;
      const its = sql`${id(table.table)} WHERE ${id(table.key)} IN ${among(values)}`;
      const rows = await tx.tuples(sql`SELECT ${ids(table.columns)} FROM ${its}`);
      if (rows.length === 0) continue;
      const named = rows.map((row) => Object.fromEntries(table.columns.map((column, i) => [column, row[i] ?? null])));
      orphans.push([table.table, named]);
      await tx.run(sql`DELETE FROM ${its}`);
    }
    if (orphans.length > 0) {
      await tx.run(sql`INSERT INTO hive_kept (at, mapping, key, agent, side, reason, aggregate)
        VALUES (${isoTime(context.clock)}, ${layout.mapping.name}, ${key}, ${agent}, 'legacy', 'their root row was gone',
                ${aggregateJson(Object.fromEntries(orphans))})`);
    }
  }
  await writeLegacy(tx, changes);
}

/** Keeps rows of a related unified table that belong to no aggregate any more, each by itself. */
export async function keepRows(
  tx: Transaction,
  context: Context,
  mapping: string,
  table: TableLayout,
  rows: readonly Tuple[],
): Promise<void> {
  for (const row of rows) {
    const key = keyText(row[table.keyAt]) ?? "(NULL key)";
    const named = Object.fromEntries(table.columns.map((column, i) => [column, row[i] ?? null]));
    await tx.run(sql`INSERT INTO hive_kept (at, mapping, key, agent, side, reason, aggregate)
      VALUES (${isoTime(context.clock)}, ${mapping}, ${key}, '', 'unified', 'its root row was gone',
              ${aggregateJson({ [table.table]: [named] })})`);
  }
}

/** A value as JSON can hold it, for results: what JSON has no number for is shown as text. */
export function jsonValue(value: Value): null | string | number {
  if (typeof value === "bigint") {
    const small = Number(value);
    return Number.isSafeInteger(small) ? small : value.toString();
  }
  if (typeof value === "number" && !Number.isFinite(value)) return String(value);
  if (value instanceof Uint8Array) return `x'${Buffer.from(value).toString("hex")}'`;
  return value;
}

/**
 * Tries the aggregates of these keys again, in the direction of the side that leads; the number that left the
 * quarantine: also those that are gone by now. A row whose key is NULL or binary stays in it until a backfill finds it
 * changed.
 */
export async function retryAggregates(
  context: Context,
  entries: readonly { mapping: string; key: string }[],
  options: ChangeOptions = {},
): Promise<{ released: number }> {
  const who = await Who.of(context, resolveAgents(context.mapping));
  const layouts = await introspectAll(context);
  let released = 0;
  for (const pager of pagersOf(layouts, who, true)) {
    const keys = entries.filter((entry) => entry.mapping === pager.layout.mapping.name).map((entry) => entry.key);
    const pace = new Pace(context.store, context.clock, context.settings.lockBudget, "quarantine retry");
    for (let done = 0; done < keys.length; ) {
      if (options.abort?.aborted) {
        throw new HiveError("INTERRUPTED", "The retry was interrupted.", { hint: "Run it again to go on." });
      }
      await pace.observe();
      await pace.ready(options.abort);
      const slice = keys.slice(done, done + pace.slice);
      const settled = await settle(context, pager, who, slice, { label: "quarantine retry", reason: options.reason });
      pace.done(slice.length);
      released += settled.released;
      done += slice.length;
    }
  }
  return { released };
}
