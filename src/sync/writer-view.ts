import type { Context } from "../context.ts";
import { HiveError } from "../errors.ts";
import { type StoredFlag, stateOf } from "../flags/facts.ts";
import { authorityOf, effectiveStage, type Stage } from "../flags/stages.ts";
import type { Session, Transaction, Tuple, Value } from "../storage/port.ts";
import { among, id, join, type Sql, sql } from "../storage/sql.ts";
import { PREFIX } from "../storage/triggers.ts";
import {
  introspect,
  keyIn,
  keyValues,
  type Layout,
  type Loaded,
  loadKeys,
  type TableLayout,
  toAggregate,
} from "./aggregates.ts";
import { absentName } from "./apply.ts";
import { pendingAmong } from "./changes.ts";
import { keyText, type RecordCodec, sameValue } from "./mapping.ts";
import { compareDown, differencesDown, differencesUp, projectUp, type Rows } from "./projection.ts";
import { jsonValue } from "./settle.ts";
import type { Comparison } from "./shadow-reads.ts";
import { tellsAnything } from "./telling.ts";
import type { RecordFilter } from "./writer.ts";

/** The tables as they are. `ledger`, `unifiedRoot`: whether hive's own, and the writer's unified root table, are there. */
export interface Schema {
  readonly version: number;
  readonly ledger: boolean;
  /** Whether events may be derived from what is written. */
  readonly states: boolean;
  readonly unifiedRoot: boolean;
  readonly all: readonly Layout[];
  /** Of the writer's root table, in the order of precedence. */
  readonly layouts: readonly Layout[];
  /** Whether any table has triggers that are not hive's: they may write whatever they like. */
  readonly triggered: boolean;
}

/** The stages as one view of the database has them. */
export class Stages {
  private readonly stages: ReadonlyMap<string, Stage>;
  private readonly emitting: ReadonlySet<string>;
  /** Events are derived from what becomes of aggregates. */
  readonly tells: boolean;
  readonly someLeadUnified: boolean;
  readonly allLeadUnified: boolean;

  constructor(stages: ReadonlyMap<string, Stage>, emitting: ReadonlySet<string> = new Set(), tells = false) {
    this.stages = stages;
    this.tells = tells;
    this.emitting = emitting;
    const all = [...stages.values()];
    this.someLeadUnified = all.some((stage) => authorityOf(stage) === "unified");
    this.allLeadUnified = all.every((stage) => authorityOf(stage) === "unified");
  }

  of(agent: string): Stage {
    return this.stages.get(agent) ?? "off";
  }
  isKnown(agent: string): boolean {
    return this.stages.has(agent);
  }
  leadsUnified(agent: string): boolean {
    return authorityOf(this.of(agent)) === "unified";
  }
  /** Its flag `unified-events` is on. */
  emits(agent: string): boolean {
    return this.emitting.has(agent);
  }
}

/** One aggregate as far as it had to be read. */
export interface Found {
  /** Undefined where neither side has it. */
  readonly layout: Layout | undefined;
  readonly legacy: Loaded | undefined;
  readonly unified: Loaded | undefined;
  readonly owners: readonly string[];
  readonly lead: "legacy" | "unified";
}

/** What hive's tables say of one key. */
export interface Standing {
  readonly pending: boolean;
  readonly behind: boolean;
  /** Mappings under which it is in quarantine. */
  readonly quarantined: readonly string[];
  /** False where neither side has anything of this key: known only where a new record is asked for. */
  readonly taken: boolean;
}

const NO_STANDING: Standing = { pending: false, behind: false, quarantined: [], taken: true };
/** Neither side has it, and nothing is known of it. */
export const NEW: Standing = { ...NO_STANDING, taken: false };
export const NOT_FOUND: Found = {
  layout: undefined,
  legacy: undefined,
  unified: undefined,
  owners: [],
  lead: "legacy",
};

const LIST_KEYS = 128;

/** What the dual writer reads: tables and flags as they are, and each aggregate from the sides that matter. */
export class View {
  private readonly context: Context;
  private readonly codec: RecordCodec;
  private schema: Schema | undefined;
  private flags: { text: string; stages: Stages } | undefined;

  constructor(context: Context, codec: RecordCodec) {
    this.context = context;
    this.codec = codec;
  }

  async currentSchema(session: Session): Promise<Schema> {
    const { store, mapping } = this.context;
    const version = await store.schemaVersion(session);
    if (this.schema?.version === version) return this.schema;
    const all: Layout[] = [];
    for (const aggregate of mapping.aggregates) {
      all.push(await introspect(store, aggregate, session, { unifiedMayBeMissing: true }));
    }
    const ledger =
      (await store.table("hive_flags", session)) !== null && (await store.table("hive_changes", session)) !== null;
    const layouts = all.filter(({ unified }) => unified.root.table === this.codec.table);
    const unifiedRoot = (await store.table(this.codec.table, session)) !== null;
    const triggered = (await store.triggers("", session)).some(({ name }) => !name.startsWith(PREFIX));
    const states = tellsAnything(mapping) && (await store.table("hive_event_states", session)) !== null;
    this.schema = { version, ledger, states, unifiedRoot, all, layouts, triggered };
    return this.schema;
  }

  async readStages(session: Session, schema: Schema): Promise<Stages> {
    const rows = schema.ledger
      ? await session.tuples(sql`SELECT agent, flag, value FROM hive_flags WHERE flag <> 'agent-adapters'
          ${schema.states ? sql`UNION ALL SELECT '', 'states', 'kept' FROM hive_event_states WHERE source = ''` : sql``}`)
      : [];
    let text = "";
    for (const [agent, flag, value] of rows) text += `${agent}\u0000${flag}\u0000${value}\u0001`;
    if (this.flags?.text === text) return this.flags.stages;
    const stored = rows.map(
      ([agent, flag, value]): StoredFlag => ({
        agent: String(agent),
        flag: String(flag),
        value: String(value),
        changedAt: Number.NaN,
        valid: true,
      }),
    );
    const agents = this.context.mapping.agents.map(({ name }) => name);
    const states = agents.map((agent) => [agent, stateOf(stored, agent)] as const);
    const stages = new Stages(
      new Map(states.map(([agent, state]) => [agent, effectiveStage(state)])),
      new Set(states.filter(([, state]) => state["unified-events"]).map(([agent]) => agent)),
      stored.some(({ agent, flag }) => agent === "" && flag === "states"),
    );
    this.flags = { text, stages };
    return stages;
  }

  /**
   * Locks an aggregate against every other writer until the transaction ends: what is read of it from here on stays true,
   * but for related rows that are added. One that neither side has is locked against hive's other writers only. The
   * unified side of a legacy row is left alone where it leads for nobody: whoever writes it holds the legacy row.
   */
  async hold(tx: Transaction, schema: Schema, stages: Stages, key: string): Promise<void> {
    if (tx.dialect.singleWriter) return;
    const [first] = schema.layouts;
    if (!first) return;
    const lock = async (table: TableLayout) => {
      const rows = await tx.lockRows(table.table, table.key, keyValues([key], table.keyType), "wait");
      return (rows ?? []).some(([value]) => keyText(value) === key);
    };
    for (let alone = false; ; alone = true) {
      const owner = await firstOf(schema.layouts, ({ legacy }) => lock(legacy.root));
      for (const table of owner?.legacy.related ?? []) await lock(table);
      if (owner && !stages.someLeadUnified) return;
      const unified = schema.unifiedRoot && (await lock(first.unified.root));
      for (const table of unified && stages.someLeadUnified ? relatedOf(schema.layouts) : []) await lock(table);
      if (owner || unified || alone) return;
      // Whoever had this before may have written it: looked for once more.
      await tx.serialize([absentName(this.codec.table, key)]);
    }
  }

  /** What waits for this aggregate, and where else it is known. One statement. */
  async standing(tx: Session, schema: Schema, key: string, isNew = false): Promise<Standing> {
    if (!schema.ledger) return NO_STANDING;
    const { table } = this.codec;
    const names = schema.layouts.map(({ mapping }) => mapping.name);
    const number = /^(0|-?[1-9]\d{0,18})$/.test(key) ? [key, BigInt(key)] : [key];
    const has = ({ table, key: column, keyType }: TableLayout) =>
      sql` UNION ALL SELECT 'taken', '' FROM ${id(table)} WHERE ${id(column)} IN ${among(keyValues([key], keyType))}`;
    const roots = isNew ? schema.layouts.map(({ legacy }) => has(legacy.root)) : [];
    const [first] = schema.layouts;
    if (isNew && first && schema.unifiedRoot) roots.push(has(first.unified.root));
    const rows = await tx.tuples(sql`
      SELECT 'pending', '' FROM hive_changes WHERE side IN ('legacy', 'unified') AND source = ${table} AND key IN ${among(number)}
      UNION ALL SELECT 'behind', '' FROM hive_behind WHERE source = ${table} AND key = ${key}
      UNION ALL SELECT 'quarantined', mapping FROM hive_quarantine WHERE mapping IN ${among(names)} AND key = ${key}
      ${join(roots, "")}`);
    if (rows.length === 0) return isNew ? NEW : NO_STANDING;
    return {
      pending: rows.some(([kind]) => kind === "pending"),
      behind: rows.some(([kind]) => kind === "behind"),
      quarantined: rows.filter(([kind]) => kind === "quarantined").map(([, mapping]) => String(mapping)),
      taken: !isNew || rows.some(([kind]) => kind === "taken"),
    };
  }

  /** Both sides of an aggregate; the unified one only where it is asked for, or where it leads for anybody. */
  async find(session: Session, schema: Schema, stages: Stages, key: string, purpose: "read" | "write"): Promise<Found> {
    let alone: { layout: Layout; unified: Loaded } | undefined;
    if (purpose === "read" && stages.someLeadUnified) {
      alone = await this.findUnified(session, schema, key);
      if (alone) {
        const owner = ownerOf(alone.layout, alone.unified);
        if (stages.leadsUnified(owner)) {
          return { ...alone, legacy: undefined, owners: [owner], lead: "unified" };
        }
      }
    }
    for (const layout of schema.layouts) {
      const [legacy] = await loadKeys(session, layout.legacy, [key]);
      if (!legacy) continue;
      const owners = [layout.mapping.agent(toAggregate(layout.legacy, legacy))];
      let unified: Loaded | undefined;
      if (stages.someLeadUnified) {
        unified = alone?.layout === layout ? alone.unified : (await loadKeys(session, layout.unified, [key]))[0];
        if (unified) owners.push(ownerOf(layout, unified));
      }
      const lead = owners.some((owner) => stages.leadsUnified(owner)) ? "unified" : "legacy";
      return { layout, legacy, unified, owners, lead };
    }
    if (!alone && purpose === "write" && stages.someLeadUnified) alone = await this.findUnified(session, schema, key);
    if (!alone) return NOT_FOUND;
    const owner = ownerOf(alone.layout, alone.unified);
    return { ...alone, legacy: undefined, owners: [owner], lead: stages.leadsUnified(owner) ? "unified" : "legacy" };
  }

  private async findUnified(session: Session, schema: Schema, key: string) {
    for (const layout of schema.layouts) {
      const [unified] = await loadKeys(session, layout.unified, [key]);
      if (!unified) return undefined;
      if (layout.mapping.owns(toAggregate(layout.unified, unified))) return { layout, unified };
    }
    return undefined;
  }

  /** The record as the side that leads has it. */
  async read(
    session: Session,
    key: string,
    known?: { schema: Schema; stages: Stages },
  ): Promise<{ record: object; stage: Stage } | null> {
    const schema = known?.schema ?? (await this.currentSchema(session));
    const stages = known?.stages ?? (await this.readStages(session, schema));
    const found = await this.find(session, schema, stages, key, "read");
    const current = currentOf(found, key);
    if (!current || !found.layout) return null;
    const record = this.codec.fromAggregate(toAggregate(found.layout.unified, current));
    return { record, stage: stages.of(ruling(found, stages)) };
  }

  conditions(filter: RecordFilter): { column: string; value: Value }[] {
    return Object.entries(filter)
      .filter(([, value]) => value !== undefined)
      .map(([field, value]) => {
        const column = Object.hasOwn(this.codec.filters, field) ? this.codec.filters[field] : undefined;
        if (column === undefined) {
          throw new HiveError("RECORD_INVALID", `Records cannot be listed by "${field}".`, {
            hint: `They can be by: ${Object.keys(this.codec.filters).join(", ")}.`,
            details: { field },
          });
        }
        const exact = typeof value === "number" && Number.isInteger(value) ? BigInt(value) : value;
        return { column, value: typeof exact === "boolean" ? (exact ? 1n : 0n) : exact };
      });
  }

  /** The next keys in order, and what the side that leads has under each, if it meets the conditions. */
  async part(
    session: Session,
    conditions: readonly { column: string; value: Value }[],
    after: Value,
  ): Promise<{ items: readonly Item[]; more: boolean; last: Value }> {
    const schema = await this.currentSchema(session);
    const stages = await this.readStages(session, schema);
    const [first] = schema.layouts;
    if (!first) return { items: [], more: false, last: null };
    const { root } = first.unified;
    const range = (table: TableLayout) =>
      after === null ? sql`${id(table.key)} IS NOT NULL` : sql`${id(table.key)} > ${after}`;
    const select = (table: TableLayout, where: Sql) =>
      sql`SELECT ${id(table.key)} AS key FROM ${id(table.table)} WHERE ${where}`;
    const matching = conditions.map(({ column, value }) =>
      value === null ? sql`${id(column)} IS NULL` : sql`${id(column)} = ${value}`,
    );
    // Where nothing else leads, the database can look for them.
    const sources = stages.allLeadUnified
      ? [select(root, join([range(root), ...matching], " AND "))]
      : [
          ...schema.layouts.map(({ legacy }) => select(legacy.root, range(legacy.root))),
          ...(stages.someLeadUnified ? [select(root, range(root))] : []),
        ];
    const rows: Tuple[] = await session.tuples(sql`${join(sources, " UNION ")} ORDER BY 1 LIMIT ${LIST_KEYS}`);
    const items: Item[] = [];
    for (const [at = null] of rows) {
      const key = keyText(at);
      if (key === null) continue;
      const found = await this.find(session, schema, stages, key, "read");
      const side = found.lead === "legacy" ? found.legacy : found.unified;
      // 7 and '7' are one key in two tables: it comes where the side that leads has it.
      if (!found.layout || !side || !sameValue(side.keyValue, at)) continue;
      const current = attempted(() => currentOf(found, key));
      if ("reason" in current) {
        items.push({ at, key, reason: current.reason });
        continue;
      }
      const row = current.value && toAggregate(found.layout.unified, current.value)[this.codec.table]?.[0];
      const meets = row && conditions.every(({ column, value }) => sameValue(row[column], value));
      const record =
        meets && current.value ? this.codec.fromAggregate(toAggregate(found.layout.unified, current.value)) : null;
      items.push({ at, key, record, stage: stages.of(ruling(found, stages)) });
    }
    return { items, more: rows.length === LIST_KEYS, last: rows.at(-1)?.[0] ?? null };
  }

  /** Both sides of one aggregate in one snapshot. */
  compare(key: string): Promise<Comparison> {
    const { store } = this.context;
    return store.snapshot(async (session): Promise<Comparison> => {
      const schema = await this.currentSchema(session);
      const stages = await this.readStages(session, schema);
      await this.context.signal?.("writer:compare");
      if (!schema.ledger) return "skipped";
      if ((await pendingAmong(session, this.codec.table, [key])).size > 0) return "skipped";
      const { layout, legacy, unified: other, ...found } = await this.find(session, schema, stages, key, "write");
      if (!layout) return "skipped";
      const agent = ruling(found, stages);
      const stage = stages.of(agent);
      if (stage !== "shadow" && stage !== "live") return "skipped";
      const { quarantined } = await this.standing(session, schema, key);
      if (quarantined.includes(layout.mapping.name)) return "skipped";
      const unified = other ?? (await loadKeys(session, layout.unified, [key]))[0];
      const mismatch = (columns: readonly string[], values: [unknown, unknown]): Comparison => ({
        mapping: layout.mapping.name,
        agent,
        difference: [...new Set(columns)].sort().join(", "),
        key,
        legacy: values[0] === null ? null : JSON.stringify(values[0]),
        unified: values[1] === null ? null : JSON.stringify(values[1]),
      });
      if (!legacy || !unified) {
        const side = legacy ? layout.unified : layout.legacy;
        const root = (loaded: Loaded | undefined, { root }: Layout["legacy"]): unknown =>
          loaded ? Object.fromEntries(root.columns.map((name, i) => [name, jsonValue(loaded.root[i] ?? null)])) : null;
        return mismatch([side.root.table], [root(legacy, layout.legacy), root(unified, layout.unified)]);
      }
      let differences: ReturnType<typeof differencesUp>;
      if (found.lead === "legacy") {
        const projected = projectUp(layout, legacy, toAggregate(layout.legacy, legacy));
        // What cannot be projected is the business of sync and check.
        if ("reason" in projected) return "skipped";
        differences = differencesUp(layout, projected.rows, unified);
      } else {
        const verdict = compareDown(layout, unified, legacy);
        if (verdict.kind === "quarantined") return "skipped";
        differences = verdict.kind === "same" ? [] : differencesDown(verdict.changes, legacy, layout.legacy);
      }
      if (differences.length === 0) return "same";
      const names = differences.map(({ table, column }) => `${table}.${column}`);
      const values = (side: "legacy" | "unified") =>
        Object.fromEntries(differences.map((one, i) => [names[i] ?? "", jsonValue(one[side])]));
      return mismatch(names, [values("legacy"), values("unified")]);
    });
  }
}

async function firstOf<T>(all: readonly T[], test: (one: T) => Promise<boolean>): Promise<T | undefined> {
  for (const one of all) if (await test(one)) return one;
  return undefined;
}

/** The related unified tables of these mappings, each once. */
function relatedOf(layouts: readonly Layout[]): readonly TableLayout[] {
  return [...new Map(layouts.flatMap(({ unified }) => unified.related.map((table) => [table.table, table]))).values()];
}

export function ownerOf(layout: Layout, unified: Loaded): string {
  return layout.mapping.unifiedAgent(toAggregate(layout.unified, unified));
}

/** The owner by whose stage the row is routed: one for whom the unified side leads comes first. */
export function ruling({ owners }: Pick<Found, "owners">, stages: Stages): string {
  return owners.findLast((owner) => stages.leadsUnified(owner)) ?? owners[0] ?? "";
}

/**
 * The unified rows that the side which leads has, or gives.
 * @throws RECORD_UNREADABLE
 */
export function currentOf({ layout, legacy, unified, lead }: Found, key: string): Loaded | null {
  if (!layout) return null;
  if (lead === "unified") return unified ?? null;
  if (!legacy) return null;
  const projected = projectUp(layout, legacy, toAggregate(layout.legacy, legacy));
  if ("rows" in projected) return loadedOf(layout, key, projected.rows);
  throw new HiveError("RECORD_UNREADABLE", `The legacy row "${key}" cannot be expressed: ${projected.reason}`, {
    hint: "Mend the row; `hive quarantine list` names all such rows.",
    details: { key, mapping: layout.mapping.name, reason: projected.reason },
  });
}

function attempted<T>(work: () => T): { value: T } | { reason: string } {
  try {
    return { value: work() };
  } catch (error) {
    if (error instanceof HiveError && error.code === "RECORD_UNREADABLE")
      return { reason: String(error.details.reason) };
    throw error;
  }
}

export function loadedOf(layout: Layout, key: string, rows: Rows): Loaded {
  return { key, keyValue: rows.root[layout.unified.root.keyAt] ?? keyIn(layout.unified.root, key), ...rows };
}

export type Item =
  | { readonly at: Value; readonly key: string; readonly reason: string }
  | { readonly at: Value; readonly key: string; readonly record: object | null; readonly stage: Stage };
