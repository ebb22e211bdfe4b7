import type { Sql, Value } from "./sql.ts";

export type { Value } from "./sql.ts";

/** A row of hive's own tables: integers as `number`. */
export type Row = Record<string, Value>;

/** A row of somebody's data, by column position: INTEGER as `bigint`, REAL as `number`, so that nothing is rounded. */
export type Tuple = Value[];

/** The first rows of a query, or all of them. */
export interface Portion {
  readonly rows: Tuple[];
  /** The query has no more. */
  readonly complete: boolean;
}

/** Roughly what a row takes: the characters of its texts, the bytes of its blobs. */
export function tupleSize(row: Tuple): number {
  let size = 0;
  for (const value of row) if (typeof value === "string" || value instanceof Uint8Array) size += value.length;
  return size;
}

export interface Session {
  readonly dialect: Dialect;
  /** All rows. For hive's own tables and for catalogue questions. */
  all(query: Sql): Promise<Row[]>;
  /** All rows with exact values, by position. For the tables that are being migrated. */
  tuples(query: Sql): Promise<Tuple[]>;
  /**
   * As `tuples`, but no further than the row with which they go beyond `maxBytes` (of texts and blobs, roughly): at
   * least one row however long it is.
   */
  tuplesWithin(query: Sql, maxBytes: number): Promise<Portion>;
  /** Runs one statement; the number of rows it changed. */
  run(query: Sql): Promise<number>;
}

/** What can be put together before it is done: see `Transaction.prepared`. */
export type Writes = Pick<Transaction, "dialect" | "run" | "insert" | "upsert">;

/** What a write transaction can do besides. */
export interface Transaction extends Session {
  /**
   * Puts the statements of `work` together; they run, in their order, when the result is called. Here they all give 0.
   * For what would otherwise be put together while others wait for the lock.
   */
  prepared(work: (later: Writes) => Promise<void>): Promise<() => Promise<void>>;
  /** Runs the statements of `text` as they stand: for migration files. */
  script(text: string): Promise<void>;
  /**
   * Adds rows (by position of `columns`) to a table, as fast as the adapter can; the number of rows added. Values are
   * exact, as `tuples` gives them: here a `number` is REAL (an INTEGER column still makes 5.0 an integer).
   */
  insert(table: string, columns: readonly string[], rows: readonly Tuple[]): Promise<number>;
  /** Runs `work`; if it fails, only its own effects are undone (a savepoint), and the error is thrown. */
  attempt<T>(work: () => Promise<T>): Promise<T>;
  /**
   * From here on it writes. To be called, ahead of its first write, where the transaction `readsFirst`; anywhere else it
   * does nothing.
   */
  writes(): Promise<void>;
  /** Runs `work`, whose writes no capture trigger notes. Never nested. */
  marked<T>(work: () => Promise<T>): Promise<T>;
  /**
   * Locks the rows whose `column` is among `values` against every other writer until the transaction ends; gives their
   * values in this column. `patience`: whether it waits for rows that others hold, or leaves them out. Null where nobody
   * else can write before the transaction ends anyway.
   */
  lockRows(table: string, column: string, values: readonly Value[], patience: "wait" | "skip"): Promise<Tuple[] | null>;
  /**
   * From here to its end, this is the only transaction of hive's that has one of these names. False where one is taken
   * and `patience` is "skip".
   */
  serialize(names: readonly string[], patience?: "wait" | "skip"): Promise<boolean>;
  /** As `insert`; where a row has the same `key` already, it gets the values of the columns `set`. */
  upsert(
    table: string,
    columns: readonly string[],
    rows: readonly Tuple[],
    key: string,
    set: readonly string[],
  ): Promise<number>;
}

/**
 * How a column treats what is written to it. On SQLite the affinity. On PostgreSQL `time` is timestamptz, `timestamp` one
 * without a zone; `json` is jsonb, which keeps the value and not the text; whatever else there is counts as `text`.
 */
export type ColumnType =
  | "text"
  | "integer"
  | "real"
  | "numeric"
  | "blob"
  | "uuid"
  | "time"
  | "timestamp"
  | "date"
  | "json";

export interface Column {
  name: string;
  /** As declared. */
  declared: string;
  /** How the database treats it (SQLite: the affinity). */
  type: ColumnType;
  notNull: boolean;
  /** The default as SQL text. */
  default: string | null;
  /** Position in the primary key from 1, or 0. */
  primaryKey: number;
}

export interface ForeignKey {
  columns: string[];
  table: string;
  /** Null: the primary key of `table`. */
  references: (string | null)[];
  onDelete: string;
}

export interface Index {
  name: string;
  columns: (string | null)[];
  unique: boolean;
}

export interface Table {
  name: string;
  columns: Column[];
  foreignKeys: ForeignKey[];
  /** Without those that cover only some of the rows. */
  indexes: Index[];
  /**
   * Sets of columns by which a new row can take the place of another one (INSERT OR REPLACE): the primary key and every
   * unique index, also one over some of the rows; of one over expressions, its plain columns.
   */
  unique: UniqueColumn[][];
  /** Tables that hold some of its rows and can be written by names of their own: partitions, heirs. */
  parts: string[];
}

export interface UniqueColumn {
  name: string;
  /** By which its values are compared there. */
  collation: string;
}

export interface Trigger {
  name: string;
  table: string;
  /** As the database keeps it. */
  definition: string;
}

/** What differs between databases, as data. */
export interface Dialect {
  readonly name: "sqlite" | "postgres";
  /**
   * While a write transaction runs nobody else writes: what it reads stays true until it commits, and others wait for it.
   * Else rows have to be locked before what is read of them can be relied on.
   */
  readonly singleWriter: boolean;
  /** Whether reading sessions can have TEMP tables, and a transaction can fill some before it begins. */
  readonly temporaryTables: boolean;
  /** This moment as a Julian day. */
  readonly julianNow: Sql;
  /** Put before the names of hive's own tables where they are made: where they are. */
  readonly ledger: Sql;
  /** The table whose rows mark hive's own writes; null where something else does. */
  readonly markTable: string | null;
  /** What has to be there before the first of them is made, and goes after the last one. */
  readonly beforeLedger: readonly Sql[];
  readonly afterLedger: readonly Sql[];
  /** Takes away what dropped capture triggers have left behind. */
  readonly tidyCapture: readonly Sql[];
}

/** Who holds a lock, as told to those who wait. */
export interface LockHolder {
  name: string;
  holder: string;
  pid: number;
  host: string;
  since: string;
}

export interface Lease {
  readonly name: string;
  /** Grows with every change of holder; a write transaction under an older token is refused. */
  readonly token: number;
}

export interface LockOptions {
  /** How long to wait for the present holder; 0 fails at once. Default 0. */
  timeoutMs?: number;
  /** Called once when the wait begins. */
  onWait?: (holder: LockHolder) => void;
  /** Ends the wait: INTERRUPTED. */
  abort?: AbortSignal;
  /** Shown to others as the holder, e.g. the command. */
  purpose?: string;
}

/** Lock time of this process's write transactions since the store was opened. */
export interface WriteStats {
  commits: number;
  /** Milliseconds between taking the write lock and giving it back, over all transactions. */
  heldMs: number;
  /** The same for the last transaction. */
  lastHeldMs: number;
  /** The part of it before the COMMIT. */
  lastWorkMs: number;
}

/** Somebody who waits for commits. Each hears of every one, however many wait. */
export interface Waiter {
  /** Where commits cannot be heard, what is looked for in their place: it gives a row while there is something to do. */
  until(): Sql;
}

export interface Store extends AsyncDisposable {
  readonly dialect: Dialect;
  /** The database for people: a file name, or a URL without its password. */
  readonly location: string;
  /** Reads only, never queues behind a writer; each query sees the latest commit. */
  readonly read: Session;
  readonly stats: WriteStats;
  /** One consistent read view for all queries of `work`. It cannot write: the database enforces it. */
  snapshot<T>(work: (session: Session) => Promise<T>): Promise<T>;
  /**
   * One write transaction (BEGIN IMMEDIATE; one client). Waits with jitter for other writers up to the configured
   * time, then fails with DATABASE_BUSY. Any error rolls back. Never nested: a second one inside `work` is refused,
   * naming both labels. `before` runs on the same connection ahead of BEGIN, for TEMP tables: it takes no lock.
   * While a lease is held the transaction fails with LOCK_LOST if somebody else has taken the lock over.
   */
  transaction<T>(label: string, work: (tx: Transaction) => Promise<T>, options?: TransactionOptions): Promise<T>;
  /**
   * Runs `work` as the only holder of `name` among all processes. A holder that was killed or froze is replaced; it
   * cannot commit afterwards. Fails with LOCK_HELD, naming the holder, when `timeoutMs` is over.
   */
  withLock<T>(name: string, options: LockOptions, work: (lease: Lease) => Promise<T>): Promise<T>;
  /** Begins something that outlives its caller: under none of the caller's locks, in none of its transactions. */
  apart<T>(work: () => T): T;
  /** Who holds this lock now; null where nobody does: one that was killed holds nothing. */
  lockHolder(name: string): Promise<LockHolder | null>;
  /** How many processes hold a lock just now; this one counts once, if it does. */
  holders(): Promise<number>;
  /** Null when there is no such table. */
  table(name: string, session?: Session): Promise<Table | null>;
  /** Names of all tables, without the database's own. */
  tables(session?: Session): Promise<string[]>;
  /** All triggers whose name begins with `prefix`. */
  triggers(prefix: string, session?: Session): Promise<Trigger[]>;
  /** How the database file keeps its journal, where hive changes that for good; null where it does not. */
  journalMode(): Promise<string | null>;
  /**
   * Puts that back; no other operation of this store may be running. Gives the mode that the file has then: the old
   * one while another process has it open.
   */
  restoreJournalMode(mode: string): Promise<string | null>;
  /** Equal numbers: nobody, this process included, has committed in between. Takes no lock and writes nothing. */
  version(): Promise<number>;
  /** Changes whenever a table, index or trigger is made, altered or dropped by anybody. */
  schemaVersion(session?: Session): Promise<number>;
  /**
   * Comes back soon (milliseconds) after anybody has committed since the call before, at the latest after `timeoutMs`,
   * and at once when aborted. Only a hint: it may come back for nothing. Several who wait name themselves, each with an
   * object of its own; without one it waits for changes that agents made.
   */
  waitForCommit(timeoutMs: number, abort?: AbortSignal, waiter?: Waiter): Promise<void>;
  /**
   * A number that grows with every look that finds another connection to have committed since the look before: equal
   * numbers, the same data. For writers: it opens the writing connection.
   */
  othersCommitted(): Promise<number>;
}

export interface TransactionOptions {
  before?: (session: Transaction) => Promise<void>;
  /** How long to wait for other writers, in milliseconds; 0: not at all. Default: the configured time. */
  waitMs?: number;
  /**
   * Where others wait for the write lock of the whole database: `work` begins without it and takes it with `writes()`.
   * What it has read until then is still true from there on: where somebody has committed in between, it is run again
   * from its beginning, in the end under the lock.
   */
  readsFirst?: boolean;
  /** Foreign keys are not enforced: for bringing back a row that stood without the one it refers to. */
  looseReferences?: boolean;
  /**
   * No other transaction of hive's runs at the same time, in any process: for what changes flags, triggers or tables.
   * Where it has to wait too long for an agent's lock it is rolled back and begun again, so `work` may run more than once.
   */
  exclusive?: boolean;
  /**
   * `work` does more than what is undone by a rollback: it runs at most once, and each statement waits for others as long
   * as the whole transaction may. Else it may run again where somebody else was in the way.
   */
  once?: boolean;
}
