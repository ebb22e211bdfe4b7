import { isoTime } from "../clock.ts";
import type { Context } from "../context.ts";
import { readFlags, stateOf } from "../flags/facts.ts";
import { authorityOf, effectiveStage } from "../flags/stages.ts";
import { audit } from "../rollout/audit.ts";
import { tablesIn } from "../schema/tables.ts";
import type { Session, Table, Transaction, Trigger } from "../storage/port.ts";
import { id, sql } from "../storage/sql.ts";
import { dropTrigger, PREFIX } from "../storage/triggers.ts";
import { postgresTriggers } from "./capture-postgres.ts";
import { sqliteTriggers } from "./capture-sqlite.ts";
import { type CapturedKey, type CapturedTable, sameButShape, type TriggerSpec } from "./capture-triggers.ts";
import { consumeAll, EVENT, noteGap } from "./changes.ts";
import { bridgedAgents, readAdapters } from "./telling.ts";

/** Which sides have to be captured. */
export interface Sides {
  readonly legacy: boolean;
  readonly unified: boolean;
  /** The table of events that agents write themselves. */
  readonly events: boolean;
}

export const NO_SIDES: Sides = { legacy: false, unified: false, events: false };

/** Whether anything at all has to be captured. */
export function areAny({ legacy, unified, events }: Sides): boolean {
  return legacy || unified || events;
}

/** What the triggers are, and what they should be. */
export interface CaptureState {
  readonly needed: Sides;
  /** Tables that are captured as they should be. */
  readonly captured: readonly string[];
  /** Tables whose triggers are missing or not as they should be. */
  readonly broken: readonly string[];
  /** Of these, tables that were altered, and whose triggers note every write all the same. */
  readonly altered: readonly string[];
  /** Triggers that nobody needs. */
  readonly needless: readonly string[];
  /** A mark of hive's own writes was committed: no trigger notes anything. */
  readonly blind: boolean;
}

/**
 * The sides that the flags of all agents ask for: the legacy one while any agent is beyond `off` or events are derived
 * (also while hive first looks at what there is), the unified one while it leads for any agent.
 */
export async function neededSides(context: Context, session: Session): Promise<Sides> {
  if ((await context.store.table("hive_flags", session)) === null) return NO_SIDES;
  const stored = await readFlags(session);
  const stages = context.mapping.agents.map(({ name }) => effectiveStage(stateOf(stored, name)));
  const adapters = await readAdapters(context, session);
  return {
    legacy: adapters.states !== null || stages.some((stage) => stage !== "off"),
    unified: stages.some((stage) => authorityOf(stage) === "unified"),
    events: [...bridgedAgents(context)].some((agent) => adapters.on.has(agent)),
  };
}

/**
 * All tables of the mapping that exist, and those that hold rows of them, with what is to be noted when one of their rows
 * changes.
 */
export async function capturedTables(
  context: Context,
  session: Session,
  sides: Sides,
): Promise<{ side: keyof Sides; table: CapturedTable }[]> {
  const found = new Map<string, { side: "legacy" | "unified"; keys: CapturedKey[] }>();
  const add = (side: "legacy" | "unified", table: string, source: string, column: string, root: boolean) => {
    const known = found.get(table) ?? { side, keys: [] };
    if (!known.keys.some((one) => one.source === source && one.column === column))
      known.keys.push({ source, column, root });
    found.set(table, known);
  };
  for (const { legacy, unified } of context.mapping.aggregates) {
    const source = unified.root.table;
    for (const [side, { root, related }] of [["legacy", legacy] as const, ["unified", unified] as const]) {
      if (!sides[side]) continue;
      add(side, root.table, source, root.key, true);
      for (const one of related) add(side, one.table, source, one.foreignKey, false);
    }
  }
  const existing = await tablesIn(context.store, session);
  const tables: { side: keyof Sides; table: CapturedTable }[] = [];
  for (const [name, { side, keys }] of found) {
    const table = await existing.table(name, session);
    // One that may be missing, or that verify reports.
    if (table === null) continue;
    tables.push({ side, table: { name, side, ...captured(table, keys) } });
    // What is written to a part by its own name fires no trigger of the whole.
    for (const one of table.parts) {
      const part = await context.store.table(one, session);
      if (part !== null && !found.has(one)) {
        tables.push({ side, table: { name: one, partOf: name, side, ...captured(part, keys) } });
      }
    }
  }
  const bridge = sides.events ? context.mapping.events?.bridge : undefined;
  const events = bridge && !found.has(bridge.table) ? await existing.table(bridge.table, session) : null;
  if (bridge && events) {
    const keys = [{ source: bridge.table, column: bridge.key, root: true }];
    tables.push({ side: "events", table: { name: bridge.table, side: EVENT, ...captured(events, keys) } });
  }
  return tables;
}

function captured(table: Table, keys: readonly CapturedKey[]): Pick<CapturedTable, "keys" | "shape" | "unique"> {
  const shape = table.columns.map((column) => `${column.name} ${column.declared}`.trim()).join(", ");
  return { keys: known(table, keys), shape, unique: table.unique };
}

function triggersOf(context: Context, table: CapturedTable): TriggerSpec[] {
  return context.store.dialect.name === "postgres" ? postgresTriggers(table) : sqliteTriggers(table);
}

/** One table's triggers may be called like another one's. */
function nameOf({ table, name }: Pick<Trigger, "table" | "name">): string {
  return JSON.stringify([table, name]);
}

function known(table: Table, keys: readonly CapturedKey[]): CapturedKey[] {
  return keys.filter((key) => table.columns.some((column) => column.name === key.column));
}

/** The triggers as they are, against those that `needed` asks for (default: what the flags ask for). */
export async function captureState(context: Context, session: Session, needed?: Sides): Promise<CaptureState> {
  const sides = needed ?? (await neededSides(context, session));
  const existing = await context.store.triggers(PREFIX, session);
  const captured: string[] = [];
  const broken: string[] = [];
  const altered: string[] = [];
  const wanted = new Set<string>();
  for (const { table } of await capturedTables(context, session, sides)) {
    const expected = triggersOf(context, table);
    for (const one of expected) wanted.add(nameOf(one));
    const all = (fits: (is: string, definition: string) => boolean) =>
      expected.every((one) =>
        existing.some((other) => nameOf(other) === nameOf(one) && fits(other.definition, one.definition)),
      );
    const right = all((is, definition) => is === definition);
    (right ? captured : broken).push(table.name);
    if (!right && all(sameButShape)) altered.push(table.name);
  }
  const needless = existing.filter((one) => !wanted.has(nameOf(one))).map(({ name }) => name);
  return { needed: sides, captured, broken, altered, needless, blind: await isBlind(context, session) };
}

async function isBlind(context: Context, session: Session): Promise<boolean> {
  const { markTable } = context.store.dialect;
  if (markTable === null || (await context.store.table(markTable, session)) === null) return false;
  return (await session.all(sql`SELECT 1 AS one FROM ${id(markTable)} LIMIT 1`)).length > 0;
}

/**
 * Inside a write transaction: puts up the triggers that the flags ask for and takes down all others. `before`: what was
 * asked for up to now; a table of those that is not captured as it should be has a gap, which is noted: a sync then
 * looks at each of its aggregates. Gives the tables with a gap.
 */
export async function adjustCapture(tx: Transaction, context: Context, before: Sides): Promise<string[]> {
  const { store } = context;
  const after = await neededSides(context, tx);
  const existing = new Map((await store.triggers(PREFIX, tx)).map((one) => [nameOf(one), one]));
  const gaps: string[] = [];
  let unnoted = false;
  const keep = new Set<string>();
  const blind = await isBlind(context, tx);
  if (blind && store.dialect.markTable !== null) await tx.run(sql`DELETE FROM ${id(store.dialect.markTable)}`);
  for (const { side, table } of await capturedTables(context, tx, after)) {
    let gap = blind;
    for (const trigger of triggersOf(context, table)) {
      const name = nameOf(trigger);
      keep.add(name);
      const other = existing.get(name);
      if (other?.definition === trigger.definition) continue;
      gap = true;
      unnoted ||= other === undefined || !sameButShape(other.definition, trigger.definition);
      if (other) await tx.script(trigger.drop);
      for (const statement of trigger.create) await tx.script(statement);
    }
    const whole = table.partOf ?? table.name;
    if (gap && before[side] && !gaps.includes(whole)) gaps.push(whole);
  }
  for (const [name, one] of existing) if (!keep.has(name)) await tx.script(dropTrigger(store.dialect, one));
  for (const statement of store.dialect.tidyCapture) await tx.run(statement);
  for (const table of gaps) {
    await noteGap(tx, table, isoTime(context.clock));
  }
  if (gaps.length > 0) {
    await audit(tx, context, {
      action: "capture renewed",
      reason: unnoted
        ? "triggers were missing or had been changed"
        : blind
          ? "a mark was left in hive_applying"
          : "tables were altered",
      after: { tables: gaps },
    });
  }
  if (!areAny(after)) {
    await consumeAll(tx);
    await tx.run(sql`DELETE FROM hive_gaps`);
    await tx.run(sql`DELETE FROM hive_behind`);
  }
  return gaps;
}

/** Puts triggers back that went missing, if any did. Takes no lock where all is well. Gives the tables with a gap. */
export async function renewCapture(context: Context): Promise<string[]> {
  const state = await context.store.snapshot((session) => captureState(context, session));
  if (state.broken.length === 0 && state.needless.length === 0 && !state.blind) return [];
  return context.store.transaction(
    "capture",
    async (tx) => adjustCapture(tx, context, await neededSides(context, tx)),
    { exclusive: true },
  );
}
