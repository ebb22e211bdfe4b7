import { HiveError, nearest } from "../errors.ts";
import type { ColumnType, Value } from "../storage/port.ts";

export type { Value } from "../storage/port.ts";

/**
 * The types of a mapping: how one legacy aggregate (a root row and its related rows) becomes one unified aggregate,
 * and back. A mapping is pure and deterministic: no clock, no randomness, no I/O. The same functions serve backfill,
 * sync, check, repair and the dual writer, on every database.
 */

/** A row by column name. INTEGER is a `bigint`, REAL a `number`, TEXT a `string`, BLOB a `Uint8Array`. */
export type DataRow = { readonly [column: string]: Value };

/** The rows of one aggregate by table name; the root table has exactly one row. */
export type Aggregate = { readonly [table: string]: readonly DataRow[] };

/** What a unified column holds: how it is compared and, on PostgreSQL, which type it has. */
export type ColumnKind = "text" | "integer" | "real" | "json" | "time";

export interface RootTable {
  readonly table: string;
  /** The column that identifies the aggregate. It has the same text on both sides. */
  readonly key: string;
}

export interface RelatedTable {
  readonly table: string;
  /** The column that holds the root's key. */
  readonly foreignKey: string;
  /** Columns that identify a row among those of one aggregate, for comparing and updating. */
  readonly key: readonly string[];
}

export interface LegacyRoot extends RootTable {
  /**
   * Columns the mapping reads by name: one that the table lacks reads as NULL (and is reported once). All other
   * columns of the table are handed over as well.
   */
  readonly columns: readonly string[];
}

export interface LegacyRelated extends RelatedTable {
  /** The columns the mapping reads; no others are read. A missing one reads as NULL. */
  readonly columns: readonly string[];
  /** Rows arrive ordered by these columns. */
  readonly orderBy: readonly string[];
  /** The table itself may be missing: then there are no such rows. */
  readonly optional?: boolean;
}

export interface UnifiedRoot extends RootTable {
  /** All columns that the mapping writes, and what they hold. */
  readonly columns: { readonly [column: string]: ColumnKind };
  /**
   * By JSON column: the top-level keys in which the mapping keeps its own notes. When values are looked for that the
   * legacy side could not hold, these do not count.
   */
  readonly notes?: { readonly [column: string]: readonly string[] };
}

export interface UnifiedRelated extends RelatedTable {
  readonly columns: { readonly [column: string]: ColumnKind };
}

export interface AggregateMapping {
  /** The name used in results, e.g. `tasks`. */
  readonly name: string;
  readonly legacy: { readonly root: LegacyRoot; readonly related: readonly LegacyRelated[] };
  readonly unified: { readonly root: UnifiedRoot; readonly related: readonly UnifiedRelated[] };
  /** The agent that owns a legacy aggregate. Must not throw. */
  agent(legacy: Aggregate): string;
  /** The agent that owns a unified aggregate. Must not throw. */
  unifiedAgent(unified: Aggregate): string;
  /**
   * Whether a unified aggregate without a legacy row belongs to this mapping. Asked only where several mappings
   * share a unified root table, in their order; the first that says yes owns it.
   */
  owns(unified: Aggregate): boolean;
  /**
   * Legacy to unified. Gives rows for every unified table (an absent table means no rows there).
   * @throws MappingError for what cannot be expressed; the aggregate is quarantined with its message.
   */
  up(legacy: Aggregate): Aggregate;
  /**
   * Unified to legacy. `current` is what the legacy side holds now, or null. Tables that are absent from the result
   * are left as they are; columns that are absent keep their value (or take the table's default in a new row).
   * @throws MappingError
   */
  down(unified: Aggregate, current: Aggregate | null): Aggregate;
}

export interface AgentSpec {
  /** The unit of rollout: what commands take, e.g. `ai-reviewer`. */
  readonly name: string;
  /** Its registration in the platform's registry, if it has one. */
  readonly registration?: {
    readonly agentId: string;
    readonly agentType: string;
    readonly capabilities: readonly string[];
    readonly emits: readonly string[];
  };
}

/** A whole platform: what a preset or a user's mapping module exports as its default. */
export interface PlatformMapping {
  readonly name: string;
  /** In the order of precedence for a key that several of them have. */
  readonly aggregates: readonly AggregateMapping[];
  readonly agents: readonly AgentSpec[];
  /** Event types that are registered; may be empty. */
  readonly eventTypes: readonly string[];
  /** Folder with the migrations that make the unified tables: absolute, or relative to the module. */
  readonly migrations?: string;
  /** A migration of that folder which another tool may already have applied. */
  readonly adopts?: readonly Adoption[];
}

/** A migration known to another migration tool by a version in a table of its own. */
export interface Adoption {
  /** The name of the migration of ours. */
  readonly migration: string;
  readonly table: string;
  readonly column: string;
  readonly version: string;
  /** Tables whose shape has to match. */
  readonly tables: readonly string[];
}

/** An aggregate that the mapping cannot express. The message is for people: what is wrong with which value. */
export class MappingError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "MappingError";
  }
}

/** Identity, with the types checked: `export default defineMapping({…})`. */
export function defineMapping(mapping: PlatformMapping): PlatformMapping {
  return mapping;
}

/** Sets a column whatever its name: assigning `__proto__` would set the prototype and lose the value. */
export function setColumn(row: { [column: string]: Value }, column: string, value: Value): void {
  if (column === "__proto__") {
    Object.defineProperty(row, column, { value, enumerable: true, configurable: true, writable: true });
  } else row[column] = value;
}

/** The text of an aggregate's key: equal on both sides. Null for what cannot be a key. */
export function keyText(value: Value | undefined): string | null {
  if (typeof value === "string") return value;
  if (typeof value === "bigint") return value.toString();
  if (typeof value === "number" && Number.isSafeInteger(value)) return String(value);
  return null;
}

/** A key's text as the value to look for in a column of this type; null where no value of that type has this text. */
export function keyValue(text: string, type: ColumnType): Value {
  if (type !== "integer" && type !== "numeric") return text;
  return /^(0|-?[1-9]\d{0,18})$/.test(text) ? BigInt(text) : null;
}

/** Equal as the database stores them: `5` and `5n` are one integer, text is never a number. */
export function sameValue(a: Value | undefined, b: Value | undefined): boolean {
  if (a === b) return true;
  if (a === undefined || b === undefined || a === null || b === null) return (a ?? null) === (b ?? null);
  if (typeof a === "bigint" && typeof b === "number") return Number.isInteger(b) && BigInt(b) === a;
  if (typeof a === "number" && typeof b === "bigint") return sameValue(b, a);
  if (a instanceof Uint8Array && b instanceof Uint8Array) {
    return a.length === b.length && a.every((byte, i) => byte === b[i]);
  }
  return false;
}

/**
 * The aggregate mapping of this name.
 * @throws UNKNOWN_NAME with the nearest name
 */
export function resolveAggregate(mapping: PlatformMapping, name: string): AggregateMapping {
  const found = mapping.aggregates.find((one) => one.name === name);
  if (found) return found;
  const known = mapping.aggregates.map((one) => one.name);
  const guess = nearest(name, known);
  throw new HiveError("UNKNOWN_NAME", `There is no mapping "${name}"${guess ? `; did you mean "${guess}"?` : "."}`, {
    hint: `The mappings are: ${known.join(", ")}.`,
    details: { mapping: name, nearest: guess ?? null, known },
  });
}

/**
 * The agents of these names in the mapping's order; all of them where none is named. An agent may also be named by
 * its id in the platform's registry.
 * @throws UNKNOWN_AGENT with the nearest name
 */
export function resolveAgents(mapping: PlatformMapping, names: readonly string[] = []): string[] {
  const known = mapping.agents.map((agent) => agent.name);
  if (names.length === 0) return known;
  const wanted = new Set<string>();
  for (const name of names) {
    const agent = mapping.agents.find((one) => one.name === name || one.registration?.agentId === name);
    if (!agent) {
      const guess = nearest(name, known);
      throw new HiveError("UNKNOWN_AGENT", `There is no agent "${name}"${guess ? `; did you mean "${guess}"?` : "."}`, {
        hint: `The agents are: ${known.join(", ")}.`,
        details: { agent: name, nearest: guess ?? null, known },
      });
    }
    wanted.add(agent.name);
  }
  return known.filter((name) => wanted.has(name));
}
