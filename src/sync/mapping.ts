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
  /** What its adapter does with a task. Without: it tells nothing, and takes and gives any JSON. */
  readonly tasks?: TaskSpec;
}

/** How a task of an agent looks to others. Pure. */
export interface TaskSpec {
  /** The types of the events that tell of it: when it begins, when it ends well, when it fails. Among `emits`. */
  readonly events: { readonly [moment in TaskMoment]: string };
  /** What these events say. Without: `{ task_id }`, and when it fails its `error`. */
  payload?(moment: TaskMoment, task: TaskFacts): object;
  /** Loaded with the first task. What they refuse is refused, with the problems that they name. */
  schemas?(): Promise<{ readonly input: TaskSchema; readonly output: TaskSchema }>;
}

export type TaskMoment = "started" | "completed" | "failed";

export interface TaskFacts {
  readonly taskId: string;
  readonly agentId: string;
  readonly input: unknown;
  /** Undefined until it is completed. */
  readonly output?: unknown;
  /** Undefined unless it failed. */
  readonly error?: string;
}

/** As zod's: says whether a value is good, and if not, what is wrong where. */
export interface TaskSchema {
  safeParse(value: unknown):
    | { readonly success: true }
    | {
        readonly success: false;
        readonly error: { readonly issues: readonly { path: readonly PropertyKey[]; message: string }[] };
      };
}

/**
 * How the dual writer's records look to an agent, in place of rows by table. Pure, like the mappings. What it refuses,
 * it refuses with a {@link MappingError} that names the field.
 */
export interface RecordCodec {
  /** The unified root table whose aggregates these records are. */
  readonly table: string;
  /** Fields that a list can be filtered by, and the root columns behind them. */
  readonly filters: { readonly [field: string]: string };
  /** Root columns for when a record was made and when it was last changed: `toAggregate` sets them to `now`. */
  readonly createdAt?: string;
  readonly updatedAt?: string;
  /** The key that a new record names; null where it names none. */
  key(record: object): string | null;
  fromAggregate(unified: Aggregate): object;
  /**
   * The whole unified aggregate once `changes` are made to `current` (null: a new record with this key) at `now` (ISO
   * UTC, later than what `current` has as updatedAt). What the changes do not name stays as it is, to the byte.
   */
  toAggregate(changes: object, current: Aggregate | null, key: string, now: string): Aggregate;
}

/** What a payload schema has to be able to do: those of zod can. */
export interface PayloadSchema {
  safeParse(payload: unknown):
    | { readonly success: true }
    | {
        readonly success: false;
        readonly error: {
          readonly issues: readonly { readonly path: readonly PropertyKey[]; readonly message: string }[];
        };
      };
}

/** What takes time: from the event that opens it to the one, of the same subject or caused by it, that closes it. */
export interface SpanSpec {
  readonly name: string;
  readonly opens: readonly string[];
  /** By type: how it ended. */
  readonly closes: { readonly [type: string]: "done" | "failed" | "cancelled" };
  /** Nobody works meanwhile: something waits to be begun. */
  readonly waits?: boolean;
}

/** A unified root table, as far as it tells how a piece of work stands. */
export interface WorkTable {
  readonly table: string;
  /** The column that says what the work belongs to. Has to be indexed. */
  readonly correlation: string;
  readonly status: string;
  /** Statuses after which nothing more happens. */
  readonly final: readonly string[];
  readonly agent?: string;
  readonly kind?: string;
  readonly changedAt?: string;
}

/** How the events of one piece of work hang together. */
export interface TraceSpec {
  readonly spans: readonly SpanSpec[];
  readonly work?: readonly WorkTable[];
  /**
   * Events that name other work which they lead to: by their subject, or by members of their payload. What is named is
   * looked for as a correlation id.
   */
  readonly leadsTo?: readonly {
    /** Topic patterns. */
    readonly types: readonly string[];
    readonly subject?: boolean;
    readonly members?: readonly string[];
  }[];
  /** Topic patterns of events that tell of something that went wrong. */
  readonly alarming?: readonly string[];
  /** Members of a payload that say most to people; the first one that is there. */
  readonly tells?: readonly string[];
}

/** More about events than the names of their types. Pure, but for `payloads`, which may load a module. */
export interface EventSpec {
  /** Types that are accepted besides `eventTypes`, and counted apart. */
  readonly extensionTypes?: readonly string[];
  /**
   * By type: what its payload has to be. Asked for once, when the first event has to be judged: what is heavy is to be
   * loaded here. A type without a schema takes any JSON object.
   */
  payloads?(): Promise<{ readonly [type: string]: PayloadSchema }>;
  /** A name that some agents spell otherwise, as it is usually spelled; others as they are. Must not throw. */
  spelling?(name: string): string;
  /** Names, in their usual spelling, that mean a type of another name, and what they say besides. */
  readonly names?: {
    readonly [name: string]: {
      readonly type: string;
      readonly payload?: { readonly [member: string]: null | boolean | number | string };
    };
  };
  /** For `hive trace`. Without it there are no durations, and only causes lead on to other work. */
  readonly trace?: TraceSpec;
  /** By the name of an aggregate mapping: what changes of its aggregates tell, of agents that do not tell it themselves. */
  readonly derived?: { readonly [mapping: string]: DerivationRules };
  /** The events that agents write themselves, in a table of the platform's own. */
  readonly bridge?: EventBridge;
}

/** How events are made of an aggregate that has changed. Pure, like the mappings. */
export interface DerivationRules {
  /** What counts of it, as short text: where that is equal before and after, nothing has happened. */
  state(unified: Aggregate): string;
  /**
   * What has happened between two states: null is an aggregate that was not there, or is not any more. `unified` is what
   * it is afterwards.
   */
  transitions(before: string | null, after: string | null, unified: Aggregate | null): readonly DerivedEvent[];
}

/** An event without what the one who tells it knows: its id and its times. */
export interface DerivedEvent {
  readonly type: string;
  /** The agent that did it. Default: the one whose aggregate it is. */
  readonly sourceAgent?: string;
  readonly correlationId?: string;
  /** Default: the aggregate's key. */
  readonly subject?: string;
  readonly payload?: { readonly [member: string]: unknown };
}

/** A table of events that agents write, each row once. */
export interface EventBridge {
  readonly table: string;
  /** The column that identifies a row: of an integer or a text. */
  readonly key: string;
  /** The columns that are read; one that the table lacks reads as NULL. */
  readonly columns: readonly string[];
  /** The agent that wrote it: a name among `agents`; null where it is none of them. Must not throw. */
  agent(row: DataRow): string | null;
  /** The row as columns of an event, unjudged: whatever does not fit is put aside, with the reason. Must not throw. */
  event(row: DataRow): BridgedEvent;
}

/** Types may have any spelling of the mapping's; payload and metadata are JSON text. */
export interface BridgedEvent {
  readonly type: Value;
  readonly correlationId: Value;
  readonly subject: Value;
  readonly payload: Value;
  readonly metadata: Value;
  readonly occurredAt: Value;
}

/** A whole platform: what a preset or a user's mapping module exports as its default. */
export interface PlatformMapping {
  readonly name: string;
  /** In the order of precedence for a key that several of them have. */
  readonly aggregates: readonly AggregateMapping[];
  readonly agents: readonly AgentSpec[];
  /** Event types that are registered; may be empty. */
  readonly eventTypes: readonly string[];
  /** Without it, events of `eventTypes` are accepted with any JSON object as their payload. */
  readonly events?: EventSpec;
  /** The type of the event by which an agent says that it is alive, if there is one: among `eventTypes`. */
  readonly heartbeatEvent?: string;
  /** Folder with the migrations that make the unified tables: absolute, or relative to the module. */
  readonly migrations?: string;
  /** A migration of that folder which another tool may already have applied. */
  readonly adopts?: readonly Adoption[];
  /** Typed records for the dual writer. Without it, a record is the rows of a unified aggregate by table. */
  readonly records?: RecordCodec;
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
  if (type === "uuid") return UUID.test(text) ? text : null;
  if (type !== "integer" && type !== "numeric") return text;
  return /^(0|-?[1-9]\d{0,18})$/.test(text) ? BigInt(text) : null;
}

/** As the database writes it: another spelling of it is another key. */
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

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
