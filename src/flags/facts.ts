import type { Context } from "../context.ts";
import type { FlagsListResult } from "../results.ts";
import { tablesIn } from "../schema/tables.ts";
import type { Row, Session } from "../storage/port.ts";
import { among, sql } from "../storage/sql.ts";
import { type AggregateMapping, resolveAgents } from "../sync/mapping.ts";
import {
  ALL_OFF,
  authorityOf,
  type BackfillFact,
  type CheckFact,
  effectiveStage,
  type Facts,
  FLAGS,
  type FlagSetting,
  type FlagState,
  isPossible,
  readSetting,
  valueText,
} from "./stages.ts";

/** What the guards look at, read in one session. Everything here works on a database that hive has never touched. */
export interface Standing {
  /** By agent: every agent that was asked for has an entry. */
  readonly states: ReadonlyMap<string, FlagState>;
  readonly facts: ReadonlyMap<string, Facts>;
}

/** Flags and facts of these agents. */
export async function readStanding(context: Context, session: Session, agents: readonly string[]): Promise<Standing> {
  const { store, mapping, settings, clock } = context;
  const ledger = (await store.table("hive_flags", session)) !== null;
  const stored = ledger ? await readFlags(session) : [];
  const tables = await mappingTables(context, session);
  const backfills = await rowsOf(context, session, "hive_backfill");
  const checks = await rowsOf(context, session, "hive_checks");
  const states = new Map<string, FlagState>();
  const facts = new Map<string, Facts>();
  for (const agent of agents) {
    states.set(agent, stateOf(stored, agent));
    facts.set(agent, {
      ledger,
      missingUnified: tables.missingUnified,
      missingLegacy: tables.missingLegacy,
      backfill: backfillFact(
        backfills.filter((row) => row.agent === agent),
        mapping.aggregates,
      ),
      check: checkFact(checks.find((row) => row.agent === agent)),
      stageSince: stageSince(stored, agent),
      now: clock.now(),
      checkMaxAgeMs: settings.checkMaxAgeMinutes * 60_000,
    });
  }
  return { states, facts };
}

/** The flags of these agents; what the ledger does not say, or says in a way that no flag has, is off. */
export async function readFlagStates(
  context: Context,
  session: Session,
  agents: readonly string[],
): Promise<Map<string, FlagState>> {
  const stored = (await context.store.table("hive_flags", session)) === null ? [] : await readFlags(session);
  return new Map(agents.map((agent) => [agent, stateOf(stored, agent)]));
}

/** A flag as it stands in the ledger, where agents may have written it by SQL. */
export interface StoredFlag {
  readonly agent: string;
  readonly flag: string;
  readonly value: string;
  /** Milliseconds since the epoch; NaN where it cannot be read. */
  readonly changedAt: number;
  /** False for a flag or a value that does not exist, e.g. `reads` = `on`. It counts as off. */
  readonly valid: boolean;
}

export async function readFlags(session: Session): Promise<StoredFlag[]> {
  const rows = await session.all(sql`SELECT agent, flag, value, changed_at FROM hive_flags ORDER BY agent, flag`);
  return rows.map((row) => {
    const flag = FLAGS.find((one) => one === row.flag);
    const value = String(row.value);
    const valid = flag !== undefined && readSetting(flag, value) !== null;
    return { agent: String(row.agent), flag: String(row.flag), value, changedAt: timeOf(row.changed_at), valid };
  });
}

/** An agent's flags out of those in the ledger. */
export function stateOf(stored: readonly StoredFlag[], agent: string): FlagState {
  let state = ALL_OFF;
  for (const { flag, value } of stored.filter((one) => one.agent === agent)) {
    const known = FLAGS.find((one) => one === flag);
    const setting = known === undefined ? null : readSetting(known, value);
    if (setting) state = { ...state, [setting.flag]: setting.value };
  }
  return state;
}

/** When the flags that make its stage last changed. */
function stageSince(stored: readonly StoredFlag[], agent: string): number {
  const making = stored.filter((one) => one.agent === agent && (one.flag === "dual-write" || one.flag === "reads"));
  return Math.max(...making.map((one) => one.changedAt));
}

/** Flags that only SQL can have written: values that do not exist, and pairs that are no stage. */
export function wrongFlags(context: Context, stored: readonly StoredFlag[]): { agent: string; problem: string }[] {
  const wrong = stored
    .filter((flag) => !flag.valid)
    .map(({ agent, flag, value }) => ({ agent, problem: `${agent} has ${flag}=${value}, which counts as off` }));
  for (const { name } of context.mapping.agents) {
    const state = stateOf(stored, name);
    if (isPossible(state)) continue;
    wrong.push({ agent: name, problem: `${name} has dual-write=off with reads=${state.reads}, which is no stage` });
  }
  return wrong;
}

export async function writeFlag(tx: Session, agent: string, setting: FlagSetting, at: string): Promise<void> {
  await tx.run(sql`INSERT INTO hive_flags (agent, flag, value, changed_at)
    VALUES (${agent}, ${setting.flag}, ${valueText(setting.value)}, ${at})
    ON CONFLICT (agent, flag) DO UPDATE SET value = excluded.value, changed_at = excluded.changed_at`);
}

/**
 * Notes that these agents' backfills cover their rows no longer. Running ones too: a backfill that began before
 * dual-write was switched must not finish as if it had seen everything.
 */
export async function markBackfillStale(tx: Session, agents: readonly string[]): Promise<void> {
  if (agents.length === 0) return;
  await tx.run(sql`UPDATE hive_backfill SET state = 'stale', cursor = NULL WHERE agent IN ${among(agents)}`);
}

async function rowsOf(context: Context, session: Session, table: "hive_backfill" | "hive_checks"): Promise<Row[]> {
  if ((await context.store.table(table, session)) === null) return [];
  return session.all(
    table === "hive_backfill"
      ? sql`SELECT agent, mapping, state, finished_at FROM hive_backfill`
      : sql`SELECT agent, at, missing, extra, different FROM hive_checks`,
  );
}

function backfillFact(rows: readonly Row[], aggregates: readonly AggregateMapping[]): BackfillFact {
  const ours = aggregates.map(({ name }) => rows.find((row) => row.mapping === name));
  const states = ours.map((row) => row?.state);
  if (states.length > 0 && states.every((state) => state === "finished")) {
    return { state: "finished", finishedAt: Math.max(...ours.map((row) => timeOf(row?.finished_at))) };
  }
  if (states.includes("running")) return { state: "running" };
  if (states.includes("stale")) return { state: "stale" };
  return { state: states.includes("finished") ? "running" : "none" };
}

function checkFact(row: Row | undefined): CheckFact | null {
  if (!row) return null;
  return { at: timeOf(row.at), drift: Number(row.missing) + Number(row.extra) + Number(row.different) };
}

/** NaN for what cannot be read: every comparison with it fails, so that the gate stays closed. */
function timeOf(value: unknown): number {
  if (typeof value !== "string") return Number.NaN;
  // As SQLite's CURRENT_TIMESTAMP writes it, which is UTC.
  const zoneless = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d+)?)$/.exec(value);
  return Date.parse(zoneless ? `${zoneless[1]}T${zoneless[2]}Z` : value);
}

export interface MappingTables {
  /** Those that exist. */
  readonly unified: readonly string[];
  readonly legacy: readonly string[];
  /** Tables, and columns of them as `table.column`. */
  readonly missingUnified: readonly string[];
  /** Tables that have to be there, and the columns that identify their rows. */
  readonly missingLegacy: readonly string[];
  /** Columns that the mapping reads and the table lacks: they read as NULL. */
  readonly nullLegacy: readonly string[];
  /** Tables that may be missing, and are. */
  readonly absentLegacy: readonly string[];
}

/** The tables of the mapping as they are in this database. */
export async function mappingTables(context: Context, session: Session): Promise<MappingTables> {
  const tables = await tablesIn(context.store, session);
  const found = new Map<string, ReadonlySet<string> | null>();
  const columnsOf = async (table: string): Promise<ReadonlySet<string> | null> => {
    const known = found.get(table);
    if (known !== undefined) return known;
    const existing = await tables.table(table, session);
    const columns = existing && new Set(existing.columns.map((column) => column.name));
    found.set(table, columns);
    return columns;
  };
  const unified = new Set<string>();
  const legacy = new Set<string>();
  const missingUnified = new Set<string>();
  const missingLegacy = new Set<string>();
  const nullLegacy = new Set<string>();
  const absentLegacy = new Set<string>();
  for (const aggregate of context.mapping.aggregates) {
    for (const { table, columns } of [aggregate.unified.root, ...aggregate.unified.related]) {
      const existing = await columnsOf(table);
      if (existing === null) missingUnified.add(table);
      else unified.add(table);
      for (const column of Object.keys(columns)) {
        if (existing && !existing.has(column)) missingUnified.add(`${table}.${column}`);
      }
    }
    const { root, related } = aggregate.legacy;
    const sources = [
      { table: root.table, columns: root.columns, identity: root.key, optional: false },
      ...related.map((one) => ({ ...one, identity: one.foreignKey, optional: one.optional === true })),
    ];
    for (const { table, columns, identity, optional } of sources) {
      const existing = await columnsOf(table);
      if (existing === null) (optional ? absentLegacy : missingLegacy).add(table);
      else legacy.add(table);
      if (existing && !existing.has(identity)) missingLegacy.add(`${table}.${identity}`);
      for (const column of columns) {
        if (existing && column !== identity && !existing.has(column)) nullLegacy.add(`${table}.${column}`);
      }
    }
  }
  return {
    unified: [...unified],
    legacy: [...legacy],
    missingUnified: [...missingUnified],
    missingLegacy: [...missingLegacy],
    nullLegacy: [...nullLegacy],
    absentLegacy: [...absentLegacy].filter((name) => !missingLegacy.has(name)),
  };
}

/**
 * The flags of these agents, or of all, in the mapping's order. On a database that hive has never touched all are off.
 * @throws UNKNOWN_AGENT
 */
export async function listFlags(context: Context, agents?: readonly string[]): Promise<FlagsListResult> {
  const names = resolveAgents(context.mapping, agents);
  const states = await context.store.snapshot((session) => readFlagStates(context, session, names));
  return {
    agents: names.map((agent) => {
      const flags = states.get(agent) ?? ALL_OFF;
      const stage = effectiveStage(flags);
      return { agent, stage, authority: authorityOf(stage), flags: { ...flags } };
    }),
  };
}
