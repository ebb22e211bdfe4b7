import type { Context } from "../context.ts";
import { HiveError } from "../errors.ts";
import { readFlagStates } from "../flags/facts.ts";
import { ALL_OFF, authorityOf, effectiveStage, type Stage } from "../flags/stages.ts";
import { tablesIn } from "../schema/tables.ts";
import { type Session, tupleSize, type Value } from "../storage/port.ts";
import { among, id, sql } from "../storage/sql.ts";
import {
  countWithoutKey,
  existingKeys,
  introspect,
  type Layout,
  type Loaded,
  loadKeys,
  loadKeysWithin,
  loadPage,
  loadWithoutKey,
  PAGE_BYTES,
  SortedCopies,
  toAggregate,
} from "./aggregates.ts";
import { compareDown, compareUp, type DownVerdict, projectUp, type UpVerdict } from "./projection.ts";
import type { Quarantined } from "./quarantine.ts";

/** Some aggregates of one mapping as both sides hold them in one view. */
export interface Page {
  readonly legacy: readonly Loaded[];
  readonly unified: ReadonlyMap<string, Loaded>;
  /** Keys of the page that a mapping of higher precedence has already given, and its name. */
  readonly taken: ReadonlyMap<string, string>;
  /** In which direction each key that is in quarantine failed. */
  readonly inQuarantine: ReadonlyMap<string, "up" | "down">;
}

/** Legacy aggregates that follow one another, and whether there are more after them. */
export interface NextPage extends Page {
  readonly more: boolean;
}

/** What is to be done about one aggregate, and whose it is. */
export type Judgement =
  | { readonly kind: "same"; readonly key: string; readonly agent: string }
  | { readonly kind: "quarantined"; readonly key: string; readonly agent: string; readonly entry: Quarantined }
  | {
      readonly kind: "up";
      readonly key: string;
      readonly agent: string;
      readonly write: Extract<UpVerdict, { kind: "write" }>;
    }
  | {
      readonly kind: "down";
      readonly key: string;
      readonly agent: string;
      readonly write: Extract<DownVerdict, { kind: "write" }>;
    }
  /** On the side that follows, and not on the one that leads. */
  | { readonly kind: "extra"; readonly key: string; readonly agent: string; readonly side: "legacy" | "unified" };

/** All mappings as they are in this database, in their order. */
export async function introspectAll(context: Context, session: Session = context.store.read): Promise<Layout[]> {
  const tables = await tablesIn(context.store, session);
  const layouts: Layout[] = [];
  for (const aggregate of context.mapping.aggregates) layouts.push(await introspect(tables, aggregate, session));
  return layouts;
}

/** How many legacy aggregates there are. */
export async function countRoots(context: Context, layouts: readonly Layout[]): Promise<number> {
  let total = 0;
  for (const { legacy } of layouts) {
    const rows = await context.store.read.all(sql`SELECT count(*) AS n FROM ${id(legacy.root.table)}`);
    total += Number(rows[0]?.n);
  }
  return total;
}

/** The agents that an operation is about, and which side leads for each agent. As they were when it was made. */
export class Who {
  readonly agents: readonly string[];
  private readonly selected: ReadonlySet<string>;
  private readonly stages: ReadonlyMap<string, Stage>;
  private readonly unified: ReadonlySet<string>;
  private readonly flags: string;

  private constructor(agents: readonly string[], stages: ReadonlyMap<string, Stage>, flags: string) {
    this.agents = agents;
    this.selected = new Set(agents);
    this.stages = stages;
    this.unified = new Set([...stages].filter(([, stage]) => authorityOf(stage) === "unified").map(([name]) => name));
    this.flags = flags;
  }

  static async of(context: Context, agents: readonly string[], session: Session = context.store.read): Promise<Who> {
    // First: a flag that changes in between is then found changed.
    const flags = await readFlags(context, session, agents);
    const all = context.mapping.agents.map((agent) => agent.name);
    const states = await readFlagStates(context, session, all);
    return new Who(agents, new Map(all.map((agent) => [agent, effectiveStage(states.get(agent) ?? ALL_OFF)])), flags);
  }

  /**
   * Inside a write transaction: refuses to go on when a flag of these agents was changed since this was made, or
   * another side leads for any agent: what was decided would write old values over new ones.
   */
  async assertUnchanged(tx: Session, context: Context): Promise<void> {
    if (!(await this.isUnchanged(tx, context))) throw flagsChanged();
  }

  async isUnchanged(tx: Session, context: Context): Promise<boolean> {
    return (await readFlags(context, tx, this.agents, this.flags !== "")) === this.flags;
  }

  stage(agent: string): Stage {
    return this.stages.get(agent) ?? "off";
  }

  leads(agent: string): "legacy" | "unified" {
    return this.unified.has(agent) ? "unified" : "legacy";
  }

  isKnown(agent: string): boolean {
    return this.stages.has(agent);
  }

  /** An agent that the mapping does not list is everybody's business: it must not be passed over in silence. */
  includes(agent: string): boolean {
    return this.selected.has(agent) || (!this.isKnown(agent) && this.everyone);
  }

  /** Whether the unified side leads for any agent at all. */
  get someLeadUnified(): boolean {
    return this.unified.size > 0;
  }

  get everyone(): boolean {
    return this.selected.size === this.stages.size;
  }
}

export function flagsChanged(): HiveError {
  return new HiveError("GUARD_REFUSED", "The flags of an agent were changed while this command was running.", {
    hint: "What was written before is right and kept. Run the command again.",
  });
}

/** The flags of these agents, and of all others only which side leads. */
async function readFlags(
  context: Context,
  session: Session,
  agents: readonly string[],
  known = false,
): Promise<string> {
  // Under the lock, where every question counts, not asked again of a table that was there.
  if (!known && (await context.store.table("hive_flags", session)) === null) return "";
  const rows = await session.all(
    sql`SELECT agent, flag, value FROM hive_flags WHERE flag IN ('dual-write', 'reads') ORDER BY agent, flag`,
  );
  const asked = new Set(agents);
  return JSON.stringify(
    rows.filter((row) => asked.has(String(row.agent)) || row.value === "live" || row.value === "unified"),
  );
}

/** Reads aggregates of one mapping from both sides and judges them. */
export class Pager {
  readonly layout: Layout;
  private readonly who: Who;
  private readonly earlier: readonly Layout[];
  private readonly ledger: boolean;
  private readonly copies = new SortedCopies();

  /** `earlier`: the mappings of higher precedence. `ledger`: whether hive's tables are there. */
  constructor(layout: Layout, earlier: readonly Layout[], who: Who, ledger: boolean) {
    this.layout = layout;
    this.who = who;
    this.earlier = earlier.filter((other) => other.unified.root.table === layout.unified.root.table);
    this.ledger = ledger;
  }

  /**
   * At most `limit`, and no more of either side than memory should hold at once. `stamp`: equal ones promise that
   * nobody has committed in between.
   */
  async next(session: Session, after: Value, limit: number, stamp: number, to: Value = null): Promise<NextPage> {
    this.copies.page(stamp);
    const { loaded, more } = await loadPage(session, this.layout.legacy, after, limit, { to, copies: this.copies });
    for (let count = loaded.length; ; count = Math.ceil(count / 2)) {
      const legacy = count < loaded.length ? loaded.slice(0, count) : loaded;
      const keys: string[] = [];
      for (const one of legacy) if (one.key !== null) keys.push(one.key);
      const unified = await loadKeysWithin(session, this.layout.unified, keys);
      if (unified) {
        return { ...(await this.around(session, legacy, unified, keys)), more: more || count < loaded.length };
      }
    }
  }

  /** The aggregates of these keys, from both sides, also those that only one side has. */
  async some(session: Session, keys: readonly string[]): Promise<Page> {
    const { legacy, unified } = this.layout;
    return this.around(session, await loadKeys(session, legacy, keys), await loadKeys(session, unified, keys), keys);
  }

  /** As {@link some}, in as many pages as it takes to hold no more than memory should at once. */
  async *portions(session: Session, keys: readonly string[]): AsyncGenerator<Page> {
    const { layout } = this;
    const size = new PageSize();
    for (let start = 0; start < keys.length; ) {
      const some = keys.slice(start, start + size.rows);
      const legacy = await loadKeysWithin(session, layout.legacy, some);
      const unified = legacy && (await loadKeysWithin(session, layout.unified, some));
      if (!legacy || !unified) {
        size.tooMany(some.length);
        continue;
      }
      start += some.length;
      const page = await this.around(session, legacy, unified, some);
      size.learn(page, some.length);
      yield page;
    }
  }

  private async around(
    session: Session,
    legacy: readonly Loaded[],
    loaded: readonly Loaded[],
    keys: readonly string[],
  ): Promise<Page> {
    const unified = new Map<string, Loaded>();
    for (const one of loaded) if (one.key !== null) unified.set(one.key, one);
    const taken = await takenKeys(session, this.earlier, keys);
    return { legacy, unified, taken, inQuarantine: await this.quarantinedAmong(session, keys) };
  }

  private async quarantinedAmong(session: Session, keys: readonly string[]): Promise<Map<string, "up" | "down">> {
    if (!this.ledger || keys.length === 0) return new Map();
    const rows = await session.all(
      sql`SELECT key, direction FROM hive_quarantine WHERE mapping = ${this.layout.mapping.name} AND key IN ${among(keys)}`,
    );
    return new Map(rows.map((row) => [String(row.key), row.direction === "down" ? "down" : "up"]));
  }

  /**
   * Null for an aggregate of an agent that is not asked about. Where the sides name different owners, it is looked at
   * for either of them, and the unified side leads if it does for one: what was handed over there is not lost.
   */
  judge(page: Page, one: Loaded): Judgement | null {
    const { layout, who } = this;
    const aggregate = toAggregate(layout.legacy, one);
    const key = one.key ?? unnamed(one.keyValue);
    const unified = page.unified.get(key);
    let agent = layout.mapping.agent(aggregate);
    let leads = who.leads(agent);
    // Also where the legacy row has gone to another agent: what the unified side still says would lead some day.
    if (unified && (who.someLeadUnified || !who.includes(agent))) {
      const owner = layout.mapping.unifiedAgent(toAggregate(layout.unified, unified));
      if (who.leads(owner) === "unified") leads = "unified";
      if (!who.includes(agent) || (leads === "unified" && who.includes(owner))) agent = owner;
    }
    if (!who.includes(agent)) return null;
    const refuse = (direction: "up" | "down", reason: string): Judgement => ({
      kind: "quarantined",
      key,
      agent,
      entry: { mapping: layout.mapping.name, key, agent, direction, reason },
    });
    if (!who.isKnown(agent)) return refuse("up", `it belongs to the agent "${agent}", which the mapping does not list`);
    const other = page.taken.get(key);
    if (other !== undefined) return refuse("up", takenReason(key, other));
    // What could never go up is no row that the unified side has deleted, also where that leads by now.
    if (leads === "legacy" || (unified === undefined && page.inQuarantine.get(key) === "up")) {
      const verdict = compareUp(layout, one, aggregate, unified);
      if (verdict.kind === "quarantined") return refuse("up", verdict.reason);
      return verdict.kind === "same" ? { kind: "same", key, agent } : { kind: "up", key, agent, write: verdict };
    }
    if (unified === undefined) return { kind: "extra", key, agent, side: "legacy" };
    return this.judgeDown(unified, one, agent);
  }

  /** Null for an aggregate of an agent that is not asked about. For one that has no legacy row. */
  judgeAlone(unified: Loaded): Judgement | null {
    const agent = this.layout.mapping.unifiedAgent(toAggregate(this.layout.unified, unified));
    if (!this.who.includes(agent)) return null;
    if (this.who.leads(agent) === "unified") return this.judgeDown(unified, undefined, agent);
    return { kind: "extra", key: unified.key ?? unnamed(unified.keyValue), agent, side: "unified" };
  }

  private judgeDown(unified: Loaded, legacy: Loaded | undefined, agent: string): Judgement {
    const key = unified.key ?? unnamed(unified.keyValue);
    const verdict = compareDown(this.layout, unified, legacy);
    if (verdict.kind === "quarantined") {
      const mapping = this.layout.mapping.name;
      return {
        kind: "quarantined",
        key,
        agent,
        entry: { mapping, key, agent, direction: "down", reason: verdict.reason },
      };
    }
    return verdict.kind === "same" ? { kind: "same", key, agent } : { kind: "down", key, agent, write: verdict };
  }

  /** Of these keys, those whose aggregates are no longer as they were read; also those that were not read here. */
  async changedSince(tx: Session, read: readonly Loaded[], keys: ReadonlySet<string>): Promise<ReadonlySet<string>> {
    if (read.length === 0) return keys;
    const now = new Map((await loadKeys(tx, this.layout.legacy, [...keys])).map((one) => [one.key, one]));
    const changed = new Set<string>();
    for (const one of read) {
      if (one.key !== null && keys.has(one.key) && fingerprint(one) !== fingerprint(now.get(one.key))) {
        changed.add(one.key);
      }
    }
    return changed;
  }

  /** The legacy rows whose key is NULL, an entry each: they can never be moved, and must not go unnoticed. */
  async withoutKey(session: Session): Promise<Quarantined[]> {
    const { layout } = this;
    const count = await countWithoutKey(session, layout.legacy);
    if (count === 0) return [];
    const rows = await loadWithoutKey(session, layout.legacy, MOST_WITHOUT_KEY);
    const entries = rows.map((one, i): Quarantined => {
      const projected = projectUp(layout, one, toAggregate(layout.legacy, one));
      return {
        mapping: layout.mapping.name,
        key: count === 1 ? "(NULL key)" : `(NULL key ${i + 1})`,
        agent: layout.mapping.agent(toAggregate(layout.legacy, one)),
        direction: "up",
        reason: "reason" in projected ? projected.reason : `its key (${layout.legacy.root.key}) is NULL`,
      };
    });
    return entries.filter((entry) => this.who.includes(entry.agent));
  }
}

/** Keys that mappings of higher precedence have already given, and the name of the one that did. */
export async function takenKeys(
  session: Session,
  earlier: readonly Layout[],
  keys: readonly string[],
): Promise<Map<string, string>> {
  const taken = new Map<string, string>();
  for (const other of earlier) {
    for (const key of await existingKeys(session, other.legacy.root, keys)) taken.set(key, other.mapping.name);
  }
  return taken;
}

export function takenReason(key: string, mapping: string): string {
  return `the key "${key}" is already given by ${mapping}, which comes first`;
}

const MOST_WITHOUT_KEY = 1_000;

function fingerprint(loaded: Loaded | undefined): string {
  if (loaded === undefined) return "gone";
  return JSON.stringify([loaded.root, loaded.related], (_, value) =>
    typeof value === "bigint" ? { integer: value.toString() } : value,
  );
}

/** Whether an entry of the quarantine is called so because its key cannot be looked for. */
export function isUnnamed(key: string): boolean {
  return /^\((NULL|binary)? ?key\b/.test(key);
}

/** How a row is called whose key is no text and no whole number. */
function unnamed(key: Value): string {
  return key instanceof Uint8Array ? `(binary key ${Buffer.from(key).toString("hex")})` : `(key ${String(key)})`;
}

const MOST_ROWS = 512;

/**
 * How many aggregates to ask for next, so that a page stays near {@link PAGE_BYTES}: what is asked for in vain has to
 * be read again. Only a guess: how much a page really holds is bounded where it is read.
 */
export class PageSize {
  rows = 128;

  /** `count`: how many were asked for, where that is not what the legacy side has. */
  learn(page: Page, count = page.legacy.length): void {
    // Unified rows hold some of it twice; what is allowed for them is more as well.
    const size = Math.max(bytes(page.legacy), bytes(page.unified.values()) / 2);
    const wanted = (PAGE_BYTES * count) / Math.max(size, 1);
    this.rows = Math.max(1, Math.min(Math.floor(wanted), this.rows * 2, MOST_ROWS));
  }

  tooMany(count: number): void {
    this.rows = Math.ceil(count / 2);
  }
}

/** Roughly what a page takes: the characters of its texts, the bytes of its blobs. */
export function sizeOf(page: Page): number {
  return bytes(page.legacy) + bytes(page.unified.values());
}

function bytes(all: Iterable<Loaded>): number {
  let size = 0;
  for (const one of all) {
    size += tupleSize(one.root);
    for (const rows of one.related) for (const row of rows) size += tupleSize(row);
  }
  return size;
}

/** One for each mapping; those before it in their order take precedence. */
export function pagersOf(layouts: readonly Layout[], who: Who, ledger: boolean): Pager[] {
  return layouts.map((layout, i) => new Pager(layout, layouts.slice(0, i), who, ledger));
}

/** Below this many aggregates another thread costs more than it saves. */
export const SECOND_THREAD_FROM = 2_000;
