import type { Context } from "../context.ts";
import type { Drift } from "../results.ts";
import type { Session, Value } from "../storage/port.ts";
import { among, id, join, type Sql, sql } from "../storage/sql.ts";
import {
  existingKeys,
  keyValues,
  type Layout,
  type Loaded,
  pageOfKeys,
  type RelatedLayout,
  type TableLayout,
  toAggregate,
} from "./aggregates.ts";
import { pendingAmong, unnotedTables } from "./changes.ts";
import { keyText } from "./mapping.ts";
import { type Judgement, type Page, type Pager, PageSize, type Who } from "./page.ts";
import { differencesDown, differencesUp } from "./projection.ts";
import { behindAmong } from "./reconcile.ts";
import { jsonValue } from "./settle.ts";

const MOST_DRIFT = 100;
export const KEYS_PER_PAGE = 500;

export interface Counts {
  compared: number;
  identical: number;
  missing: number;
  extra: number;
  different: number;
  inFlight: number;
  quarantined: number;
}

export const NO_COUNTS: Counts = {
  compared: 0,
  identical: 0,
  missing: 0,
  extra: 0,
  different: 0,
  inFlight: 0,
  quarantined: 0,
};

export function total(all: Iterable<Counts>): Counts {
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

export function driftOf({ missing, extra, different }: Counts): number {
  return missing + extra + different;
}

/** What another thread found. */
export interface Compared {
  readonly counts: ReadonlyMap<string, Counts>;
  readonly drift: readonly Drift[];
}

/** An aggregate that differs and awaits nothing. */
export interface Drifting {
  readonly key: string;
  readonly agent: string;
  readonly kind: Drift["kind"];
}

/** What a page came to, for a repair. */
export interface Found {
  readonly drifting: readonly Drifting[];
  /** Keys of what was judged to be beyond mapping and is not in quarantine yet. */
  readonly unlisted: readonly string[];
}

/** A related unified table, and the root tables that its rows may belong to. */
export interface SharedTable {
  /** The first mapping that has it. */
  readonly mapping: string;
  readonly table: RelatedLayout;
  readonly roots: TableLayout[];
}

export function relatedTables(layouts: readonly Layout[]): SharedTable[] {
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

/** True for a row of a related table whose root row is gone. */
export function rootless({ table, roots }: SharedTable): Sql {
  const key = id(table.table, table.key);
  return join(
    roots.map((root) => sql`NOT EXISTS (SELECT 1 FROM ${id(root.table)} WHERE ${id(root.table, root.key)} = ${key})`),
    " AND ",
  );
}

/**
 * One portion of a comparison, exact in the view of the session that it is given. `stamp`: equal ones promise that
 * nobody has committed in between.
 */
export type Step = (session: Session, stamp: number) => Promise<void>;

export interface Handlers {
  /** The first hundred. */
  onDrift?(drift: Drift): void;
  onCompared?(count: number): void;
  onFound?(pager: Pager, found: Found): Promise<void>;
  onOrphans?(table: SharedTable, keys: readonly Value[]): Promise<void>;
}

interface Differing {
  readonly judgement: Exclude<Judgement, { kind: "same" | "quarantined" }>;
  readonly legacy: Loaded | undefined;
  readonly unified: Loaded | undefined;
}

/**
 * Compares both sides, portion by portion, and counts by agent. What differs and has a change that waits in the change
 * log of the same view is in flight; so is what was written on the unified side only for an agent at `complete`. All else
 * that differs is drift.
 */
export class Comparison {
  readonly counts = new Map<string, Counts>();
  readonly drift: Drift[] = [];
  readonly keysInFlight: string[] = [];
  private readonly context: Context;
  private readonly who: Who;
  private readonly log: boolean;
  private readonly handlers: Handlers;

  /** `log`: whether there is a change log. */
  constructor(context: Context, who: Who, log: boolean, handlers: Handlers = {}) {
    this.context = context;
    this.who = who;
    this.log = log;
    this.handlers = handlers;
  }

  compared(): Compared {
    return { counts: this.counts, drift: this.drift };
  }

  add({ counts, drift }: Compared): void {
    for (const [agent, some] of counts) {
      this.counts.set(agent, total([this.counts.get(agent) ?? NO_COUNTS, some]));
      this.handlers.onCompared?.(some.compared);
    }
    for (const one of drift) this.report(one);
  }

  /** It was counted as drift, and has a change that waits by now. */
  awaits(mapping: string, { key, agent, kind }: Drifting): void {
    const counts = this.counts.get(agent);
    if (!counts) return;
    counts[kind] -= 1;
    counts.inFlight += 1;
    const at = this.drift.findIndex((one) => one.mapping === mapping && one.key === key);
    if (at >= 0) this.drift.splice(at, 1);
  }

  /** Everything that both sides have, each part a step. `pageRows`: no step looks at more rows of a related table. */
  *everything(layouts: readonly Layout[], pagers: readonly Pager[], pageRows: number | null): Generator<Step> {
    for (const pager of pagers) {
      yield this.withoutKey(pager);
      yield* this.legacySide(pager, null, null);
    }
    yield* this.unifiedOnly(layouts, pagers);
    yield* this.orphans(layouts, pageRows);
  }

  /** Legacy rows without a key: they can never be moved. */
  withoutKey(pager: Pager): Step {
    return async (session) => {
      const entries = await pager.withoutKey(session);
      for (const entry of entries) this.count(entry.agent, "quarantined");
      this.handlers.onCompared?.(entries.length);
    };
  }

  /** Legacy aggregates whose key is beyond `from`, up to and with `to`, against their unified ones. */
  *legacySide(pager: Pager, from: Value, to: Value): Generator<Step> {
    const size = new PageSize();
    let after = from;
    let more = true;
    const step: Step = async (session, stamp) => {
      const page = await pager.next(session, after, size.rows, stamp, to);
      await this.judgePage(session, pager, page);
      this.handlers.onCompared?.(page.legacy.length);
      const last = page.legacy.at(-1);
      more = last !== undefined && page.more;
      if (last === undefined) return;
      after = last.keyValue;
      size.learn(page);
    };
    while (more) yield step;
  }

  /** Unified aggregates that have no legacy row. */
  *unifiedOnly(layouts: readonly Layout[], pagers: readonly Pager[]): Generator<Step> {
    const roots = new Map(layouts.map(({ unified }) => [unified.root.table, unified.root]));
    for (const root of roots.values()) {
      const some = pagers.filter((pager) => pager.layout.unified.root.table === root.table);
      let after: Value = null;
      let more = true;
      const step: Step = async (session) => {
        const values = await pageOfKeys(session, root, after, KEYS_PER_PAGE);
        const keys = values.map((value) => keyText(value));
        await this.judgeUnifiedOnly(
          session,
          some,
          keys.filter((key) => key !== null),
        );
        more = values.length === KEYS_PER_PAGE;
        after = values.at(-1) ?? null;
      };
      while (more) yield step;
    }
  }

  /**
   * The aggregates of these keys that belong to this unified root table, from both sides; with `orphans` also what is left
   * of those whose root row is gone.
   */
  async some(
    session: Session,
    layouts: readonly Layout[],
    pagers: readonly Pager[],
    root: string,
    keys: readonly string[],
    orphans: boolean,
  ): Promise<void> {
    const ours = pagers.filter((pager) => pager.layout.unified.root.table === root);
    for (const pager of ours) {
      for await (const page of pager.portions(session, keys)) await this.judgePage(session, pager, page);
    }
    await this.judgeUnifiedOnly(session, ours, keys);
    this.handlers.onCompared?.(keys.length);
    if (!orphans || !this.who.everyone) return;
    for (const table of relatedTables(layouts)) {
      if (table.roots.some((one) => one.table === root)) await this.judgeOrphans(session, table, keys);
    }
  }

  /** Rows of related unified tables whose root row is gone: they belong to no agent any more. */
  *orphans(layouts: readonly Layout[], pageRows: number | null): Generator<Step> {
    if (!this.who.everyone) return;
    for (const table of relatedTables(layouts)) {
      const name = id(table.table.table);
      const key = id(table.table.table, table.table.key);
      let after: Value = null;
      let more = true;
      const step: Step = async (session) => {
        const beyond = after === null ? sql`` : sql`${key} > ${after} AND `;
        let upTo = sql``;
        let last: Value = null;
        if (pageRows !== null) {
          const found = await session.tuples(
            sql`SELECT ${key} FROM ${name} WHERE ${beyond}${key} IS NOT NULL ORDER BY ${key} LIMIT 1 OFFSET ${pageRows}`,
          );
          last = found[0]?.[0] ?? null;
          if (last !== null) upTo = sql`(${key} IS NULL OR ${key} <= ${last}) AND `;
        }
        const rows = await session.tuples(
          sql`SELECT DISTINCT ${key} FROM ${name} WHERE ${beyond}${upTo}${rootless(table)} ORDER BY 1 LIMIT ${KEYS_PER_PAGE}`,
        );
        const values = rows.map((row) => row[0] ?? null);
        await this.noteOrphans(session, table, values);
        const full = values.length === KEYS_PER_PAGE;
        more = full || last !== null;
        after = full ? (values.at(-1) ?? null) : last;
      };
      while (more) yield step;
    }
  }

  private async judgeOrphans(session: Session, table: SharedTable, keys: readonly string[]): Promise<void> {
    const { table: related } = table;
    const key = id(related.table, related.key);
    const values = keyValues(keys, related.keyType);
    if (values.length === 0) return;
    const rows = await session.tuples(
      sql`SELECT DISTINCT ${key} FROM ${id(related.table)} WHERE ${key} IN ${among(values)} AND ${rootless(table)}`,
    );
    await this.noteOrphans(
      session,
      table,
      rows.map((row) => row[0] ?? null),
    );
  }

  private async noteOrphans(session: Session, shared: SharedTable, values: readonly Value[]): Promise<void> {
    const { mapping, table, roots } = shared;
    const waiting = new Set<string>();
    const someoneMoves = this.context.mapping.agents.some(({ name }) => this.who.stage(name) !== "off");
    if (this.log && someoneMoves) {
      const keys = values.map((value) => keyText(value)).filter((key) => key !== null);
      for (const root of roots) {
        for (const key of (await pendingAmong(session, root.table, keys)).keys()) waiting.add(key);
      }
    }
    const gone: Value[] = [];
    for (const value of values) {
      const text = keyText(value);
      if (text !== null && waiting.has(text)) {
        this.count("", "inFlight");
        continue;
      }
      gone.push(value);
      const key = value === null ? "(NULL key)" : (text ?? `(key ${String(value)})`);
      const column = { table: table.table, column: table.key, legacy: null, unified: jsonValue(value) };
      this.count("", "extra");
      this.report({ mapping, key, agent: "", kind: "extra", columns: [column] });
    }
    if (gone.length > 0) await this.handlers.onOrphans?.(shared, gone);
  }

  private async judgePage(session: Session, pager: Pager, page: Page): Promise<void> {
    const differing: Differing[] = [];
    const unlisted: string[] = [];
    for (const legacy of page.legacy) {
      const judgement = pager.judge(page, legacy);
      if (judgement === null) continue;
      this.sort(page, judgement, legacy, page.unified.get(judgement.key), differing, unlisted);
    }
    await this.conclude(session, pager, differing, unlisted);
  }

  private async judgeUnifiedOnly(session: Session, pagers: readonly Pager[], keys: readonly string[]): Promise<void> {
    const left = new Set(keys);
    for (const pager of pagers) {
      for (const key of await existingKeys(session, pager.layout.legacy.root, [...left])) left.delete(key);
    }
    for (const pager of pagers) {
      if (left.size === 0) return;
      for await (const page of pager.portions(session, [...left])) {
        const differing: Differing[] = [];
        const unlisted: string[] = [];
        for (const unified of page.unified.values()) {
          if (!pager.layout.mapping.owns(toAggregate(pager.layout.unified, unified))) continue;
          if (unified.key !== null) left.delete(unified.key);
          const judgement = pager.judgeAlone(unified);
          if (judgement !== null) this.sort(page, judgement, undefined, unified, differing, unlisted);
        }
        await this.conclude(session, pager, differing, unlisted);
      }
    }
  }

  private sort(
    page: Page,
    judgement: Judgement,
    legacy: Loaded | undefined,
    unified: Loaded | undefined,
    differing: Differing[],
    unlisted: string[],
  ): void {
    const inQuarantine = page.inQuarantine.has(judgement.key);
    if (judgement.kind === "same") this.count(judgement.agent, "identical");
    else if (judgement.kind === "quarantined" || inQuarantine) {
      if (!inQuarantine) unlisted.push(judgement.key);
      this.count(judgement.agent, "quarantined");
    } else differing.push({ judgement, legacy, unified });
  }

  private async conclude(
    session: Session,
    pager: Pager,
    differing: readonly Differing[],
    unlisted: readonly string[],
  ): Promise<void> {
    const { layout } = pager;
    const inFlight = await this.inFlightAmong(session, layout, differing);
    const drifting: Drifting[] = [];
    for (const { judgement, legacy, unified } of differing) {
      const { agent, key } = judgement;
      if (inFlight.has(key)) {
        this.count(agent, "inFlight");
        if (this.keysInFlight.length < MOST_DRIFT) this.keysInFlight.push(key);
        continue;
      }
      const kind = driftKind(judgement, legacy, unified);
      this.count(agent, kind);
      drifting.push({ key, agent, kind });
      if (this.drift.length >= MOST_DRIFT) continue;
      const columns = differences(layout, judgement, legacy, unified);
      this.report({ mapping: layout.mapping.name, key, agent, kind, columns });
    }
    if (drifting.length > 0 || unlisted.length > 0) await this.handlers.onFound?.(pager, { drifting, unlisted });
  }

  /** Of these, those that a sync will look at, and those that are not to be carried over before their agent goes back. */
  private async inFlightAmong(
    session: Session,
    layout: Layout,
    differing: readonly Differing[],
  ): Promise<ReadonlySet<string>> {
    const source = layout.unified.root.table;
    const moving: string[] = [];
    const complete: string[] = [];
    if (this.log) {
      for (const { judgement, legacy, unified } of differing) {
        const owners = [judgement.agent];
        if (legacy) owners.push(layout.mapping.agent(toAggregate(layout.legacy, legacy)));
        if (unified) owners.push(layout.mapping.unifiedAgent(toAggregate(layout.unified, unified)));
        // What agents change that use none of hive is not carried over.
        if (owners.some((owner) => this.who.stage(owner) !== "off")) moving.push(judgement.key);
        if (owners.some((owner) => this.who.stage(owner) === "complete")) complete.push(judgement.key);
      }
    }
    if (moving.length > 0 && (await awaitsUnnoted(session, layout))) return new Set(moving);
    const pending = await pendingAmong(session, source, moving);
    const behind = await behindAmong(session, source, complete);
    return new Set([...pending.keys(), ...behind]);
  }

  private report(drift: Drift): void {
    if (this.drift.length >= MOST_DRIFT) return;
    this.drift.push(drift);
    this.handlers.onDrift?.(drift);
  }

  private count(agent: string, what: Exclude<keyof Counts, "compared">): void {
    let counts = this.counts.get(agent);
    if (!counts) {
      counts = { ...NO_COUNTS };
      this.counts.set(agent, counts);
    }
    counts.compared += 1;
    counts[what] += 1;
  }
}

/** Whether triggers could not note what was changed in a table of these: a sync will look at each aggregate. */
async function awaitsUnnoted(session: Session, { legacy, unified }: Layout): Promise<boolean> {
  if (session.dialect.singleWriter) return false;
  const unnoted = new Set(await unnotedTables(session));
  return [legacy, unified].some(({ root, related }) => [root, ...related].some(({ table }) => unnoted.has(table)));
}

function differences(
  layout: Layout,
  judgement: Differing["judgement"],
  legacy: Loaded | undefined,
  unified: Loaded | undefined,
): Drift["columns"] {
  const found =
    judgement.kind === "up" && unified
      ? differencesUp(layout, judgement.write.rows, unified)
      : judgement.kind === "down" && legacy
        ? differencesDown(judgement.write.changes, legacy, layout.legacy)
        : [];
  return found.map((one) => ({ ...one, legacy: jsonValue(one.legacy), unified: jsonValue(one.unified) }));
}

/** Seen from the side that leads: what the other one lacks is missing there, what it has besides is extra. */
function driftKind(
  judgement: Differing["judgement"],
  legacy: Loaded | undefined,
  unified: Loaded | undefined,
): Drift["kind"] {
  if (judgement.kind === "extra") return "extra";
  return (judgement.kind === "up" ? unified : legacy) === undefined ? "missing" : "different";
}
