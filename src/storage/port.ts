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

/** What a write transaction can do besides. */
export interface Transaction extends Session {
  /** Runs the statements of `text` as they stand: for migration files. */
  script(text: string): Promise<void>;
  /**
   * Adds rows (by position of `columns`) to a table, as fast as the adapter can; the number of rows added. Values are
   * exact, as `tuples` gives them: here a `number` is REAL (an INTEGER column still makes 5.0 an integer).
   */
  insert(table: string, columns: readonly string[], rows: readonly Tuple[]): Promise<number>;
}

export type ColumnType = "text" | "integer" | "real" | "numeric" | "blob";

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
  indexes: Index[];
}

export interface Dialect {
  readonly name: "sqlite" | "postgres";
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
  /** Null when there is no such table. */
  table(name: string, session?: Session): Promise<Table | null>;
  /** Names of all tables, without the database's own. */
  tables(session?: Session): Promise<string[]>;
  /** How the database file keeps its journal, where hive changes that for good; null where it does not. */
  journalMode(): Promise<string | null>;
  /**
   * Puts that back; no other operation of this store may be running. Gives the mode that the file has then: the old
   * one while another process has it open.
   */
  restoreJournalMode(mode: string): Promise<string | null>;
  /** Equal numbers: nobody, this process included, has committed in between. Takes no lock and writes nothing. */
  version(): Promise<number>;
  /**
   * A number that grows with every look that finds another connection to have committed since the look before: equal
   * numbers, the same data. For writers: it opens the writing connection.
   */
  othersCommitted(): Promise<number>;
}

export interface TransactionOptions {
  before?: (session: Transaction) => Promise<void>;
  /** Foreign keys are not enforced: for bringing back a row that stood without the one it refers to. */
  looseReferences?: boolean;
}
