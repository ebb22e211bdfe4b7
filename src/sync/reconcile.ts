import type { Context } from "../context.ts";
import { HiveError } from "../errors.ts";
import { audit } from "../rollout/audit.ts";
import type { Session, Transaction, Writes } from "../storage/port.ts";
import { among, sql } from "../storage/sql.ts";
import { existingKeys, type Layout, type Loaded, toAggregate } from "./aggregates.ts";

import { deleteLegacy, deleteUnified, hold, moveStaged, readAhead, stage, type UnifiedWrite } from "./apply.ts";
import { baseOf, parseBase, readBases, saysStill, writeBase } from "./bases.ts";

import {
  addChanges,
  type Change,
  consume,
  type LogPoint,
  NOW,
  nameOf,
  noteWritten,
  pendingAmong,
  stillThere,
  Window,
} from "./changes.ts";
import { introspectAll, type Page, type Pager, pagersOf, sizeOf, takenReason, Who } from "./page.ts";
import {
  compareDown,
  compareUp,
  type LegacyChange,
  mergeUp,
  projectUp,
  type Rows,
  wayBack,
  withChanges,
} from "./projection.ts";
import { type Quarantined, quarantine, release } from "./quarantine.ts";
import { keep, keepLosses, writeDown } from "./settle.ts";
import { type Known, Teller, type Told, type Truth, tellAll } from "./telling.ts";

/** What is to be done about an aggregate that changed. */
type Action =
  /** Both sides say the same. */
  | { readonly kind: "same" }
  /** Nothing was changed: what it is now is to be looked at, for the events that follow from it. */
  | { readonly kind: "look" }
  /** Neither side has it. */
  | { readonly kind: "gone" }
  /** Of an agent whose flags ask for nothing. */
  | { readonly kind: "discard" }
  /** Of an agent that no longer writes the legacy side: for when it goes back. */
  | { readonly kind: "behind" }
  | { readonly kind: "up"; readonly write: UnifiedWrite }
  | { readonly kind: "down"; readonly changes: readonly LegacyChange[] }
  | { readonly kind: "remove unified" }
  | { readonly kind: "remove legacy" }
  | { readonly kind: "quarantine"; readonly entry: Quarantined };

interface Keeping {
  readonly side: "legacy" | "unified";
  readonly loaded: Loaded;
  readonly reason: string;
}

/** One changed aggregate, as both sides were when it was looked at, and what follows from it. */
export interface Decision {
  readonly change: Change;
  readonly pager: Pager;
  readonly agent: string;
  readonly action: Action;
  /** Both sides were changed since they were equal, and say different things. */
  readonly conflict: boolean;
  /** Copies to keep before anything is written. */
  readonly keeping: readonly Keeping[];
  /** Mappings under which it is in quarantine. */
  readonly listed: readonly string[];
  /** It belongs to an agent now whose legacy side leads: what only the unified side can hold has to go. */
  readonly handedOver: boolean;
  /**
   * What the legacy rows say once this is done, where the unified side leads and holds more than they can; null where
   * nothing is to be remembered, undefined where that stays as it is.
   */
  readonly base?: string | null | undefined;
  /** Other mappings that have the same key and come after this one. */
  readonly shadowed: readonly Quarantined[];
  /** The events that follow from it. */
  readonly told?: Told | undefined;
}

export interface Applied extends Reconciled {
  /** Changes that another process had carried over already, or that have to be looked at again. */
  leftOver: Change[];
  /** Aggregates whose rows an agent's transaction holds: they stay in the log until it has ended. */
  held: Change[];
}

export interface Reconciled {
  applied: number;
  /** Of these, those that were written on the legacy side. */
  down: number;
  conflicts: number;
  quarantined: number;
}

export const NOTHING: Reconciled = { applied: 0, down: 0, conflicts: 0, quarantined: 0 };

/** What was decided about a batch of changes. */
export interface Plan {
  readonly decisions: readonly Decision[];
  /** Rows of the log that ask for nothing. */
  readonly settled: readonly number[];
  /** Rows without a usable key: they cannot be carried over, and are listed. */
  readonly unnamed: readonly Quarantined[];
  /** What has moved since it was decided. */
  readonly window: Window;
  /** Whether it was decided in the transaction that does it, with everything locked. */
  readonly held: boolean;
}

const MOST_BYTES = 4_000_000;

/**
 * Decides what follows from changes on either side, and does it. The side that leads for an agent's rows wins; a change
 * of the other one alone is carried over too, so that programs that only know one schema lose nothing; where both have
 * changed and differ, both versions are kept in hive_kept.
 */
export class Reconciler {
  readonly who: Who;
  private readonly context: Context;
  private readonly pagers: readonly Pager[];
  private readonly teller: Teller;

  private constructor(context: Context, who: Who, pagers: readonly Pager[], teller: Teller) {
    this.context = context;
    this.who = who;
    this.pagers = pagers;
    this.teller = teller;
  }

  /** With the tables and flags as they are now; {@link isCurrent} tells whether the flags still are. */
  static async of(
    context: Context,
    session: Session = context.store.read,
    layouts?: readonly Layout[],
  ): Promise<Reconciler> {
    const who = await Who.of(
      context,
      context.mapping.agents.map((agent) => agent.name),
      session,
    );
    const teller = await Teller.of(context, session);
    return new Reconciler(
      context,
      who,
      pagersOf(layouts ?? (await introspectAll(context, session)), who, true),
      teller,
    );
  }

  async isCurrent(session: Session): Promise<boolean> {
    return (await this.who.isUnchanged(session, this.context)) && (await this.teller.isCurrent(session));
  }

  /** What is to be done about these changes, as far as memory should hold it: the rest is for the next time. */
  async decide(session: Session, changes: readonly Change[], point: LogPoint): Promise<Plan> {
    const decisions: Decision[] = [];
    const settled: number[] = [];
    const unnamed: Quarantined[] = [];
    const sources = new Map<string, Change[]>();
    for (const change of changes) {
      const some = sources.get(change.source);
      if (some) some.push(change);
      else sources.set(change.source, [change]);
    }
    for (const [source, some] of sources) {
      const pagers = this.pagers.filter((pager) => pager.layout.unified.root.table === source);
      // A mapping that is no longer there: nobody else will ever ask for these.
      if (pagers.length === 0) settled.push(...some.flatMap(({ seqs }) => seqs));
      else await this.decideSome(session, source, pagers, some, { decisions, settled, unnamed });
    }
    // Whatever hive itself writes besides, it takes off the log first: see `stillThere`.
    return { decisions, settled, unnamed, window: new Window(point, false), held: point === NOW };
  }

  private async decideSome(
    session: Session,
    source: string,
    pagers: readonly Pager[],
    changes: readonly Change[],
    { decisions, settled, unnamed }: { decisions: Decision[]; settled: number[]; unnamed: Quarantined[] },
  ): Promise<void> {
    const byKey = new Map<string, Change>();
    for (const change of changes) {
      if (change.key === null) {
        for (const pager of pagers) unnamed.push(...(await pager.withoutKey(session)));
        settled.push(...change.seqs);
      } else byKey.set(change.key, change);
    }
    const behind = await behindAmong(session, source, [...byKey.keys()]);
    const bases = this.who.someLeadUnified ? await readBases(session, source, [...byKey.keys()]) : NO_BASES;
    const stuck = await stuckAmong(session, pagers, [...byKey.keys()]);
    const states = await this.teller.states(session, source, [...byKey.keys()]);
    const left = new Set(byKey.keys());
    const knownOf = (key: string): KnownOf => ({
      behind: behind.has(key),
      stuck: stuck.get(key) ?? [],
      base: bases.get(key),
      state: states.get(key),
    });
    let size = 0;
    for (const [position, pager] of pagers.entries()) {
      const later = pagers.slice(position + 1);
      for await (const page of pager.portions(session, [...left])) {
        const keys = page.legacy.flatMap(({ key }) => (key !== null && left.has(key) ? [key] : []));
        const others = await mappingsWith(session, later, keys);
        for (const legacy of page.legacy) {
          const change = legacy.key === null ? undefined : byKey.get(legacy.key);
          if (!change || legacy.key === null || !left.delete(legacy.key)) continue;
          const unified = page.unified.get(legacy.key);
          const decision = this.decideOne(pager, page, change, legacy, unified, knownOf(legacy.key));
          const { key } = legacy;
          const shadowed = (others.get(key) ?? []).map((mapping): Quarantined => {
            const reason = takenReason(key, pager.layout.mapping.name);
            return { mapping, key, agent: decision.agent, direction: "up", reason };
          });
          decisions.push({ ...decision, shadowed });
        }
        const { layout } = pager;
        const alone = [...page.unified].filter(
          ([key, unified]) => left.has(key) && layout.mapping.owns(toAggregate(layout.unified, unified)),
        );
        const elsewhere = await mappingsWith(
          session,
          later,
          alone.map(([key]) => key),
        );
        for (const [key, unified] of alone) {
          const change = byKey.get(key);
          if (!change || elsewhere.has(key)) continue;
          left.delete(key);
          const decision = this.decideOne(pager, page, change, undefined, unified, knownOf(key));
          decisions.push({ ...decision, shadowed: [] });
        }
        size += sizeOf(page);
        // Whatever is left waits in the log.
        if (size > MOST_BYTES && decisions.length > 0) return;
      }
    }
    const [first] = pagers;
    for (const key of left) {
      const change = byKey.get(key);
      if (!change || !first) continue;
      const nothing = {
        agent: "",
        conflict: false,
        keeping: [],
        listed: [],
        handedOver: false,
        shadowed: [],
      };
      const told = this.told(first, change, { agent: "", unified: null }, states.get(key));
      decisions.push({ ...nothing, change, pager: first, action: { kind: "gone" }, told });
    }
  }

  private decideOne(
    pager: Pager,
    page: Page,
    change: Change,
    legacy: Loaded | undefined,
    unified: Loaded | undefined,
    known: KnownOf,
  ): Omit<Decision, "shadowed"> {
    const decision = this.carry(pager, page, change, legacy, unified, known);
    if (!this.teller.keeps) return decision;
    const truth = this.truth(pager, decision.action, legacy, unified);
    return { ...decision, told: this.told(pager, change, truth, known.state) };
  }

  /** The aggregate as the side that leads has it, once this is done. */
  private truth({ layout }: Pager, action: Action, legacy: Loaded | undefined, unified: Loaded | undefined): Truth {
    const { mapping } = layout;
    const aggregate = legacy && toAggregate(layout.legacy, legacy);
    const other = unified && toAggregate(layout.unified, unified);
    const owner = aggregate && mapping.agent(aggregate);
    const unifiedOwner = other && mapping.unifiedAgent(other);
    const leads = [owner, unifiedOwner].some((agent) => agent !== undefined && this.who.leads(agent) === "unified");
    const agent = (leads ? (unifiedOwner ?? owner) : (owner ?? unifiedOwner)) ?? "";
    if (action.kind === "quarantine") return { agent, unified: undefined };
    if (action.kind === "gone" || action.kind === "remove unified" || action.kind === "remove legacy") {
      return { agent, unified: null };
    }
    const projected = (rows: Rows): Truth => {
      const made = toAggregate(layout.unified, { key: legacy?.key ?? null, keyValue: null, ...rows });
      return { agent: leads ? mapping.unifiedAgent(made) : agent, unified: made };
    };
    if (action.kind === "up") return projected(action.write.rows);
    // A legacy row that was given away, or is brought back, from what the unified side says.
    if (leads || action.kind === "down") return { agent, unified: other ?? null };
    if (!legacy || !aggregate) return { agent, unified: null };
    if (action.kind === "same" && other) return { agent, unified: other };
    const verdict = projectUp(layout, legacy, aggregate);
    return "reason" in verdict ? { agent, unified: undefined } : projected(verdict.rows);
  }

  private told({ layout }: Pager, change: Change, truth: Truth, before: Known | undefined): Told | undefined {
    const { source, key, seqs, lastAt } = change;
    const occasion = { rows: seqs.length, at: lastAt };
    return this.teller.tell(layout.mapping.name, source, key ?? "", truth, before, occasion);
  }

  /** What is to be written, on either side. */
  private carry(
    pager: Pager,
    page: Page,
    change: Change,
    legacy: Loaded | undefined,
    unified: Loaded | undefined,
    { behind, stuck, base: known }: KnownOf,
  ): Omit<Decision, "shadowed"> {
    const { layout } = pager;
    const { mapping } = layout;
    const { who } = this;
    const key = change.key ?? "";
    const aggregate = legacy && toAggregate(layout.legacy, legacy);
    const owners: string[] = [];
    if (aggregate) owners.push(mapping.agent(aggregate));
    if (unified) owners.push(mapping.unifiedAgent(toAggregate(layout.unified, unified)));
    const leading = owners.filter((agent) => who.leads(agent) === "unified");
    const agent = leading.at(-1) ?? owners[0] ?? "";
    const listed = [...new Set([...(page.inQuarantine.has(key) ? [mapping.name] : []), ...stuck])];
    // After gaps on both sides, everything counts as changed on both.
    const untouched =
      change.legacy && change.unified && legacy && known !== undefined && saysStill(layout, legacy, known);
    // What could not be carried over when it was written is no less new than what waits in the log: whichever of the
    // mappings that share the table could not.
    const changed = {
      legacy: (change.legacy && !untouched) || page.inQuarantine.get(key) === "up",
      unified: change.unified || behind || stuck.length > 0,
    };
    /** To be remembered of these rows; nothing is written where nothing was, and is. */
    const basis = (from: Loaded | undefined, to: Loaded | undefined): string | null | undefined => {
      const base = from && to ? baseOf(layout, from, to) : null;
      return base === (known ?? null) ? undefined : base;
    };
    const decided = (
      action: Action,
      conflict = false,
      keeping: readonly Keeping[] = [],
      handedOver = false,
      base?: string | null,
    ) => ({
      base: action.kind === "remove unified" || action.kind === "remove legacy" ? basis(undefined, undefined) : base,
      change,
      pager,
      agent,
      action,
      conflict,
      keeping,
      listed,
      handedOver,
    });
    if (!change.legacy && !change.unified) return decided({ kind: "look" });
    const refuse = (direction: "up" | "down", reason: string, conflict = false, keeping: readonly Keeping[] = []) =>
      decided(
        { kind: "quarantine", entry: { mapping: mapping.name, key, agent, direction, reason } },
        conflict,
        keeping,
      );
    /** A copy of what an agent whose legacy side leads would not get when it is given the aggregate. */
    const lostTo = (down: Loaded, from: Loaded): Keeping[] => {
      const { losses } = wayBack(layout, down, from);
      const reason = `handed over to an agent whose legacy side leads, which cannot hold ${losses.join(", ")}`;
      return losses.length > 0 ? [{ side: "unified", loaded: from, reason }] : [];
    };
    const stranger = owners.find((one) => !who.isKnown(one));
    if (stranger !== undefined && legacy) {
      return refuse("up", `it belongs to the agent "${stranger}", which the mapping does not list`);
    }
    // Written on the unified side while that led, and given away before it was carried over.
    const givenAway = leading.length === 0 && !legacy && change.unified && !changed.legacy;
    if (unified && givenAway) {
      const verdict = compareDown(layout, unified, undefined);
      if (verdict.kind === "quarantined") return refuse("down", verdict.reason);
      const changes = verdict.kind === "write" ? verdict.changes : [];
      const copies = lostTo(withChanges(layout.legacy, key, undefined, changes), unified);
      return decided({ kind: "down", changes }, false, copies, true);
    }
    if (owners.every((one) => who.stage(one) === "off")) {
      const reason = "given to an agent that is off before it was carried over";
      return decided(
        { kind: "discard" },
        false,
        change.unified && unified ? [{ side: "unified", loaded: unified, reason }] : [],
      );
    }
    const both = (loser: "legacy" | "unified"): Keeping[] => {
      const reason = `changed on both sides between two syncs: the ${loser === "legacy" ? "unified" : "legacy"} side leads`;
      const copies: Keeping[] = [];
      if (legacy) copies.push({ side: "legacy", loaded: legacy, reason });
      if (unified) copies.push({ side: "unified", loaded: unified, reason });
      return copies;
    };

    if (leading.length === 0) {
      if (aggregate && legacy) {
        const verdict = compareUp(layout, legacy, aggregate, unified);
        if (verdict.kind === "same") return decided({ kind: "same" });
        const conflict = changed.unified;
        const copies = conflict ? both("unified") : [];
        if (verdict.kind === "quarantined") return refuse("up", verdict.reason, conflict, copies);
        const write = { key, ...verdict };
        return decided({ kind: "up", write: unified ? write : replacing(layout, write) }, conflict, copies);
      }
      if (!changed.legacy || !unified) return decided({ kind: "same" });
      return decided({ kind: "remove unified" }, changed.unified, changed.unified ? both("unified") : []);
    }

    const owner = unified && mapping.unifiedAgent(toAggregate(layout.unified, unified));
    // Handed over to an agent that reads the legacy side: it has to get there.
    const complete = [...leading, ...(owner === undefined ? [] : [owner])].every(
      (one) => who.stage(one) === "complete",
    );
    const isOthers = unified !== undefined && !mapping.owns(toAggregate(layout.unified, unified));
    if (isOthers && legacy && aggregate && !changed.unified) {
      const verdict = compareUp(layout, legacy, aggregate, unified);
      if (verdict.kind === "quarantined") return refuse("up", verdict.reason);
      if (verdict.kind === "same") return decided({ kind: "same" });
      const reason = `${mapping.name}, which comes first, has a row with its key now`;
      return decided({ kind: "up", write: { key, ...verdict } }, false, [{ side: "unified", loaded: unified, reason }]);
    }
    if (changed.unified) {
      const verdict = unified ? compareDown(layout, unified, legacy) : null;
      if (verdict?.kind === "same" && !behind)
        return decided({ kind: "same" }, false, [], false, basis(legacy, unified));
      // A legacy row of an agent whose legacy side leads: whoever wrote that key on the unified side has not seen it.
      const unseen = aggregate !== undefined && who.leads(mapping.agent(aggregate)) === "legacy";
      const conflict = (changed.legacy || unseen) && verdict?.kind !== "same";
      const copies = conflict ? both("legacy") : [];
      if (complete) return decided({ kind: "behind" }, conflict, copies);
      if (!unified) {
        if (!legacy) return decided({ kind: "gone" });
        // What belongs to it and has no unified home goes with it.
        const reason = "it was deleted on the unified side, which leads";
        return decided(
          { kind: "remove legacy" },
          conflict,
          conflict ? copies : [{ side: "legacy", loaded: legacy, reason }],
        );
      }
      if (verdict?.kind === "quarantined") return refuse("down", verdict.reason, conflict, copies);
      const changes = verdict?.kind === "write" ? verdict.changes : [];
      const handedOver = who.leads(owner ?? "") === "legacy";
      return decided(
        changes.length > 0 ? { kind: "down", changes } : { kind: "same" },
        conflict,
        handedOver && !conflict ? lostTo(withChanges(layout.legacy, key, legacy, changes), unified) : copies,
        handedOver,
        handedOver ? null : basis(withChanges(layout.legacy, key, legacy, changes), unified),
      );
    }
    if (!legacy || !aggregate) {
      if (!unified) return decided({ kind: "gone" });
      // What only the unified side held is nowhere else.
      const reason = "it was deleted on the legacy side, which could not have held all of it";
      const copies: Keeping[] = known === undefined ? [] : [{ side: "unified", loaded: unified, reason }];
      return decided({ kind: "remove unified" }, false, copies);
    }
    if (!unified) {
      const verdict = compareUp(layout, legacy, aggregate, undefined);
      if (verdict.kind === "quarantined") return refuse("up", verdict.reason);
      return decided(
        verdict.kind === "write" ? { kind: "up", write: replacing(layout, { key, ...verdict }) } : { kind: "same" },
        false,
        [],
        false,
        basis(undefined, undefined),
      );
    }
    const handedOver = who.leads(mapping.agent(aggregate)) === "legacy";
    const merge = mergeUp(layout, legacy, unified, known === undefined ? null : parseBase(layout, known));
    // Whatever the reason: what could not be carried over is the legacy change.
    if (merge.kind === "quarantined") return refuse("up", merge.reason);
    if (merge.kind === "same") return decided({ kind: "same" }, false, [], false, basis(legacy, unified));
    if (handedOver) {
      const write = { key, rows: merge.rows, exists: true, related: merge.related };
      return decided({ kind: "up", write }, false, lostTo(legacy, unified), true);
    }
    const reason = "a legacy write replaced values that the legacy side could not have held";
    return decided(
      { kind: "up", write: { key, rows: merge.rows, exists: true, related: merge.related } },
      false,
      merge.lossy ? [{ side: "unified", loaded: unified, reason }] : [],
      false,
      basis(legacy, { ...unified, ...merge.rows }),
    );
  }

  /** Prepares what can be prepared without the lock. */
  async stage(tx: Transaction, decisions: readonly Decision[]): Promise<void> {
    for (const [pager, writes] of writesByPager(decisions)) await stage(tx, pager.layout, writes);
  }

  /**
   * Inside a write transaction, after {@link stage}: does what was decided and removes the changes from the log. What
   * has changed again since it was decided, or was carried over by somebody else, is left.
   */
  async apply(tx: Transaction, plan: Plan): Promise<Applied> {
    const { context } = this;
    const taken = plan.held ? NONE : await this.hold(tx, plan.decisions, "skip");
    const moved = await plan.window.look(tx);
    const there = await stillThere(
      tx,
      plan.decisions.flatMap(({ change }) => change.seqs),
    );
    const valid: Decision[] = [];
    const except = new Set<string>();
    for (const decision of plan.decisions) {
      const { source, key, seqs } = decision.change;
      const still = !moved.has(nameOf(source, key)) && !plan.window.unnoted;
      const free = still && !taken.has(nameOf(source, key));
      if (free && seqs.every((seq) => there.has(seq))) valid.push(decision);
      else if (key !== null) except.add(nameOf(source, key));
    }
    const sound = new Set<Decision | undefined>(valid);
    const left = plan.decisions.map(({ change }) => change);
    const result: Applied = {
      ...NOTHING,
      leftOver: left.filter(
        (change, i) => !sound.has(plan.decisions[i]) && !taken.has(nameOf(change.source, change.key)),
      ),
      held: left.filter(({ source, key }) => taken.has(nameOf(source, key))),
    };
    const uncommon = valid.filter(isUncommon);
    const move = await tx.prepared(async (later) => {
      for (const [pager, writes] of writesByPager(plan.decisions)) {
        const source = pager.layout.unified.root.table;
        const left = new Set(writes.map(({ key }) => key).filter((key) => except.has(nameOf(source, key))));
        await moveStaged(later, pager.layout, writes, left);
      }
    });
    const events = valid.flatMap(({ told }) => (told ? [told] : []));
    const settle = await tx.prepared(async (later) => {
      await noteAll(later, valid);
      await tellAll(later, context, events);
      await consume(later, [...valid.flatMap(({ change }) => change.seqs), ...plan.settled]);
    });
    for (const [pager, writes] of writesByPager(valid)) await readAhead(tx, pager.layout, writes);
    await tx.writes();
    await tx.marked(async () => {
      for (const { pager, agent, keeping } of uncommon) {
        for (const { side, loaded, reason } of keeping) await keep(tx, context, pager, loaded, agent, side, reason);
      }
      // What gives room comes first: a row that goes may hold a value that has to be unique.
      for (const { pager, action, change } of uncommon) {
        if (action.kind === "remove unified") await deleteUnified(tx, pager.layout, [change.key ?? ""]);
        if (action.kind === "remove legacy") await deleteLegacy(tx, pager.layout, [change.key ?? ""]);
      }
      await move();
      for (const { pager, agent, action, change } of uncommon) {
        if (action.kind === "down") await writeDown(tx, context, pager, change.key ?? "", agent, action.changes);
      }
    });
    await context.signal?.("sync:moved");
    await this.account(tx, uncommon, plan.unnamed, result);
    result.applied += valid.length - uncommon.length;
    // Looked at again: as a row of an agent whose legacy side leads, or for the mapping that comes next.
    for (const { action, change, handedOver, shadowed } of uncommon) {
      const uncovered = action.kind === "remove legacy" && shadowed.length > 0;
      if (handedOver || uncovered) await addChanges(tx, "legacy", change.source, [change.key]);
    }
    await settle();
    return result;
  }

  /** What this transaction is about, for itself alone; gives what others hold, as {@link nameOf} names it. */
  private async hold(
    tx: Transaction,
    decisions: readonly Decision[],
    patience: "wait" | "skip",
  ): Promise<ReadonlySet<string>> {
    const taken = new Set<string>();
    if (tx.dialect.singleWriter) return taken;
    for (const pager of this.pagers) {
      const { layout } = pager;
      const own = decisions.filter((decision) => decision.pager === pager);
      const keys = own.flatMap(({ change }) => (change.key === null ? [] : [change.key]));
      for (const key of await hold(tx, layout, keys, patience, this.who.someLeadUnified)) {
        taken.add(nameOf(layout.unified.root.table, key));
      }
    }
    return taken;
  }

  private async account(
    tx: Transaction,
    valid: readonly Decision[],
    unnamed: readonly Quarantined[],
    result: Reconciled,
  ): Promise<void> {
    const { context } = this;
    for (const entry of unnamed) {
      await quarantine(tx, context, entry);
      result.quarantined += 1;
    }
    for (const { change, pager, agent, action, conflict, listed, shadowed, base } of valid) {
      const key = change.key ?? "";
      if (action.kind === "discard" || action.kind === "look") continue;
      if (base !== undefined) await writeBase(tx, change.source, key, agent, base);
      if (action.kind === "gone") {
        const same = this.pagers.filter((one) => one.layout.unified.root.table === change.source);
        for (const { layout } of same) await release(tx, layout.mapping.name, [key]);
      }
      if (action.kind === "behind") {
        await tx.run(
          sql`INSERT INTO hive_behind (source, key) VALUES (${change.source}, ${key}) ON CONFLICT DO NOTHING`,
        );
      }
      if (action.kind === "quarantine") {
        await quarantine(tx, context, action.entry);
        result.quarantined += 1;
      } else {
        for (const name of listed) {
          if (!shadowed.some(({ mapping }) => mapping === name)) await release(tx, name, [key]);
        }
        result.applied += 1;
        if (action.kind === "down" || action.kind === "remove legacy") result.down += 1;
      }
      for (const entry of shadowed) {
        await quarantine(tx, context, entry);
        result.quarantined += 1;
      }
      if (!conflict) continue;
      result.conflicts += 1;
      const after = { mapping: pager.layout.mapping.name, key, leads: this.who.leads(agent) };
      await audit(tx, context, {
        action: "conflict",
        agent,
        reason: "both sides were changed between two syncs",
        after,
      });
    }
  }

  /**
   * Inside a write transaction: carries over the changes that wait for these aggregates, so that both sides are equal
   * (as far as they can be) when the caller goes on. Nothing else can come in between.
   */
  async settleNow(tx: Transaction, source: string, keys: readonly string[]): Promise<Reconciled> {
    const pending = await pendingAmong(tx, source, keys, true);
    const changes = [...pending].map(([key, one]): Change => ({ source, key, ...one }));
    return this.applyNow(tx, changes);
  }

  /** The same for changes that were read in this transaction. */
  async applyNow(tx: Transaction, changes: readonly Change[]): Promise<Reconciled> {
    const sum: Reconciled = { ...NOTHING };
    let rest = changes;
    for (const { layout } of tx.dialect.singleWriter ? [] : this.pagers) {
      const own = changes.filter(({ source }) => source === layout.unified.root.table);
      const keys = own.flatMap(({ key }) => (key === null ? [] : [key]));
      await hold(tx, layout, keys, "wait", this.who.someLeadUnified);
    }
    while (rest.length > 0) {
      const plan = await this.decide(tx, rest, NOW);
      if (plan.decisions.length + plan.settled.length === 0) break;
      const done = new Set(plan.decisions.map(({ change }) => change));
      const settled = new Set(plan.settled);
      rest = rest.filter((change) => !done.has(change) && !change.seqs.some((seq) => settled.has(seq)));
      for (const [i, decision] of plan.decisions.entries()) {
        const first = i === 0 ? {} : { settled: [], unnamed: [] };
        const only: Plan = { ...plan, decisions: [decision], ...first };
        add(sum, await this.applyOne(tx, only, decision));
      }
      if (plan.decisions.length === 0) await consume(tx, plan.settled);
    }
    return sum;
  }

  /** Before the legacy side leads again: keeps copies of what it cannot hold of aggregates that were carried down just now. */
  async keepLosses(tx: Transaction, changes: readonly Pick<Change, "source" | "key">[]): Promise<void> {
    for (const pager of this.pagers) {
      // Also of legacy changes: what was merged with them was not yet looked at.
      const own = changes.filter(({ source }) => source === pager.layout.unified.root.table);
      const keys = own.flatMap(({ key }) => (key === null ? [] : [key]));
      await keepLosses(tx, this.context, pager, keys);
    }
  }

  /** One row that the database refuses must not keep back the others. */
  private async applyOne(tx: Transaction, plan: Plan, decision: Decision): Promise<Reconciled> {
    try {
      return await tx.attempt(async () => {
        await this.stage(tx, [decision]);
        return this.apply(tx, plan);
      });
    } catch (error) {
      if (!(error instanceof HiveError) || error.code !== "CONSTRAINT") throw error;
      return this.apply(tx, { ...plan, decisions: [refused(decision, error)] });
    }
  }
}

/** Whether there is more to it than unified rows that are written, or nothing at all. */
function isUncommon({ action, conflict, keeping, listed, handedOver, base, shadowed }: Decision): boolean {
  const common = action.kind === "up" || action.kind === "same";
  const more = keeping.length + listed.length + shadowed.length;
  return !common || conflict || handedOver || more > 0 || base !== undefined;
}

/** What was dealt with is new to a backfill and to a check of what has changed. */
async function noteAll(tx: Writes, decisions: readonly Decision[]): Promise<void> {
  const written = new Map<string, string[]>();
  for (const { change, action } of decisions) {
    if (action.kind === "discard" || action.kind === "look") continue;
    const some = written.get(change.source);
    if (some) some.push(change.key ?? "");
    else written.set(change.source, [change.key ?? ""]);
  }
  for (const [source, keys] of written) await noteWritten(tx, source, keys);
}

/** By key: the mappings among these whose legacy root tables have it, too. */
async function mappingsWith(
  session: Session,
  pagers: readonly Pager[],
  keys: readonly string[],
): Promise<ReadonlyMap<string, string[]>> {
  const found = new Map<string, string[]>();
  for (const { layout } of pagers) {
    for (const key of await existingKeys(session, layout.legacy.root, keys)) {
      found.set(key, [...(found.get(key) ?? []), layout.mapping.name]);
    }
  }
  return found;
}

const NO_BASES: ReadonlyMap<string, string> = new Map();
const NONE: ReadonlySet<string> = new Set();

/** What hive's tables say of one aggregate. */
interface KnownOf {
  readonly behind: boolean;
  /** Mappings under which it is in quarantine, since what the unified side says could not be carried down. */
  readonly stuck: readonly string[];
  readonly base: string | undefined;
  /** Where events are derived from it: what it looked like before. */
  readonly state: Known | undefined;
}

/** Of these aggregates, those whose unified rows could not be carried down, and under which of the mappings. */
async function stuckAmong(
  session: Session,
  pagers: readonly Pager[],
  keys: readonly string[],
): Promise<ReadonlyMap<string, string[]>> {
  const found = new Map<string, string[]>();
  if (keys.length === 0) return found;
  const names = pagers.map(({ layout }) => layout.mapping.name);
  const rows = await session.all(sql`SELECT key, mapping FROM hive_quarantine
    WHERE mapping IN ${among(names)} AND key IN ${among(keys)} AND direction = 'down'`);
  for (const { key, mapping } of rows) {
    const some = found.get(String(key));
    if (some) some.push(String(mapping));
    else found.set(String(key), [String(mapping)]);
  }
  return found;
}

/** The same aggregate, put into quarantine for what the database said of it. */
export function refused(decision: Decision, error: HiveError): Decision {
  const { pager, change, agent, action } = decision;
  const direction = action.kind === "down" || action.kind === "remove legacy" ? "down" : "up";
  const reason = `the database refuses the row: ${error.message}`;
  const entry = { mapping: pager.layout.mapping.name, key: change.key ?? "", agent, direction, reason } as const;
  const keeping = decision.conflict ? decision.keeping : [];
  return { ...decision, action: { kind: "quarantine", entry }, keeping, handedOver: false };
}

export function add(sum: Reconciled, more: Reconciled): void {
  sum.applied += more.applied;
  sum.down += more.down;
  sum.conflicts += more.conflicts;
  sum.quarantined += more.quarantined;
}

/** Related rows can outlive their root when somebody deletes it by hand: they would be in the way for ever. */
function replacing(layout: Layout, write: UnifiedWrite): UnifiedWrite {
  const { key, rows } = write;
  return { key, rows, exists: true, related: layout.unified.related.map(() => true) };
}

function writesByPager(decisions: readonly Decision[]): Map<Pager, UnifiedWrite[]> {
  const writes = new Map<Pager, UnifiedWrite[]>();
  for (const { pager, action } of decisions) {
    if (action.kind !== "up") continue;
    const some = writes.get(pager);
    if (some) some.push(action.write);
    else writes.set(pager, [action.write]);
  }
  return writes;
}

/** Of these aggregates, those that were written on the unified side only. */
export async function behindAmong(
  session: Session,
  source: string,
  keys: readonly string[],
): Promise<ReadonlySet<string>> {
  if (keys.length === 0) return new Set();
  const rows = await session.all(sql`SELECT key FROM hive_behind WHERE source = ${source} AND key IN ${among(keys)}`);
  return new Set(rows.map((row) => String(row.key)));
}

/** Inside the transaction in which agents leave `complete`: what was written meanwhile is to be carried down. */
export async function requeueBehind(tx: Transaction): Promise<void> {
  await tx.run(sql`INSERT INTO hive_changes (side, source, key, at)
    SELECT 'unified', source, key, ${tx.dialect.julianNow} FROM hive_behind`);
  await tx.run(sql`DELETE FROM hive_behind`);
}
