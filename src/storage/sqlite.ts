import { AsyncLocalStorage } from "node:async_hooks";
import { existsSync, statSync } from "node:fs";
import type { Clock, Signal } from "../clock.ts";
import { HiveError } from "../errors.ts";
import { type LeaseStorage, Leases } from "./leases.ts";
import type {
  Column,
  ColumnType,
  Lease,
  LockHolder,
  LockOptions,
  Row,
  Session,
  Store,
  Table,
  Transaction,
  TransactionOptions,
  Trigger,
  Waiter,
  WriteStats,
} from "./port.ts";
import { groupBy } from "./rows.ts";
import { id, sql } from "./sql.ts";
import { CommitHints } from "./sqlite-commits.ts";
import { Connection, dialect } from "./sqlite-connection.ts";

export interface SqliteOptions {
  /** How long a write transaction waits for other writers. */
  busyTimeoutMs: number;
  /** How long a lock outlives its holder's last sign of life. */
  leaseMs: number;
  clock: Clock;
  signal?: Signal | undefined;
}

const LOCKS_TABLE = sql`CREATE TABLE IF NOT EXISTS hive_locks (
  name TEXT PRIMARY KEY NOT NULL, token INTEGER NOT NULL, holder TEXT, pid INTEGER, host TEXT,
  process_started TEXT, since TEXT, expires_at INTEGER NOT NULL)`;

/**
 * Opens an existing SQLite database. Nothing is created, and no lock is taken, before the first write.
 * @throws DATABASE_NOT_FOUND, NOT_A_DATABASE
 */
export function openSqlite(path: string, options: SqliteOptions): Store {
  if (!existsSync(path)) {
    throw new HiveError("DATABASE_NOT_FOUND", `There is no database at ${path}.`, {
      hint: "Name an existing file with --database sqlite:PATH, HIVE_DATABASE or the config. Nothing was created.",
      details: { path },
    });
  }
  if (!statSync(path).isFile()) {
    throw new HiveError("NOT_A_DATABASE", `${path} is not a file.`, {
      hint: "Name the database file itself with --database sqlite:PATH, HIVE_DATABASE or the config.",
      details: { path },
    });
  }
  const store = new SqliteStore(path, options);
  store.probe();
  return store;
}

/** So often a transaction that reads first tries to take the lock before it begins with it. */
const READS_FIRST = 3;

/** Between a transaction's reads and its first write somebody else came: nothing was done. */
class Overtaken extends Error {
  /** Somebody holds the lock at the moment. */
  readonly locked: boolean;
  constructor(locked: boolean) {
    super("somebody else has written");
    this.locked = locked;
  }
}

/** Turns a transaction that has only read into one that writes; what it has read is the newest there is. */
function takeWriteLock(connection: Connection): void {
  try {
    // It takes the lock, and changes nothing.
    connection.runSync(sql`DELETE FROM ${id(dialect.markTable ?? "")} WHERE 0`);
  } catch (error) {
    if (!(error instanceof HiveError) || error.code !== "DATABASE_BUSY") throw error;
    throw new Overtaken(error.details?.sqlite !== "SQLITE_BUSY_SNAPSHOT");
  }
}

/** The context of the running call chain: which transaction it is in and which locks it holds. */
interface Context {
  transaction?: string;
  leases: readonly Lease[];
}

class SqliteStore implements Store {
  readonly dialect = dialect;
  readonly stats: WriteStats = { commits: 0, heldMs: 0, lastHeldMs: 0, lastWorkMs: 0 };
  readonly location: string;
  private readonly options: SqliteOptions;
  private readonly context = new AsyncLocalStorage<Context>();
  private readonly idle: Connection[] = [];
  private readonly opened = new Set<Connection>();
  private reader: Connection | undefined;
  private writer: Connection | undefined;
  private queue: Promise<unknown> = Promise.resolve();
  private dataVersion: number | undefined;
  private othersSeen = 0;
  private closed = false;
  private hints: CommitHints | undefined;
  /** As they are at this version of the schema. */
  private shapes: { version: number; tables: Map<string, Table | null> } = { version: Number.NaN, tables: new Map() };
  private readonly leases: Leases;

  constructor(path: string, options: SqliteOptions) {
    this.location = path;
    this.options = options;
    this.leases = new Leases(this.leaseStorage, options.clock, options.leaseMs);
  }

  /** Reads the header, so that a file that is no database is refused before anything is tried on it. */
  probe(): void {
    this.readConnection().allSync(sql`SELECT count(*) AS n FROM sqlite_schema`);
  }

  get read(): Session {
    return this.readConnection();
  }

  private readConnection(): Connection {
    this.reader ??= this.open(true);
    return this.reader;
  }

  private writeConnection(): Connection {
    if (this.writer) return this.writer;
    const writer = this.open(false);
    try {
      // Recovering the log of a killed process, and the change to WAL, need the file for themselves for a moment.
      writer.pragma(`busy_timeout = ${this.blockingMs}`);
      if (writer.pragma("journal_mode") !== "wal") writer.pragma("journal_mode = WAL");
      writer.pragma("synchronous = NORMAL");
      // What refers to a legacy row that hive removes goes with it, or refuses aloud, as the schema says.
      writer.pragma("foreign_keys = ON");
      writer.pragma("temp_store = MEMORY");
      writer.pragma("cache_size = -16384");
      writer.pragma("wal_autocheckpoint = 4000");
      writer.pragma("busy_timeout = 0");
    } catch (error) {
      writer.close();
      this.opened.delete(writer);
      throw error;
    }
    this.writer = writer;
    return writer;
  }

  /** How long a call of the driver may wait, and block everything else meanwhile. */
  private get blockingMs(): number {
    return Math.min(this.options.busyTimeoutMs, 5_000);
  }

  private open(readonly: boolean): Connection {
    if (this.closed) throw new HiveError("INTERNAL", "The database was closed.");
    const connection = new Connection(this.location, readonly, this.blockingMs);
    this.opened.add(connection);
    return connection;
  }

  async snapshot<T>(work: (session: Session) => Promise<T>): Promise<T> {
    const connection = this.idle.pop() ?? this.open(true);
    connection.exec("BEGIN");
    try {
      // A deferred transaction has no view before its first read: without this, the view would begin at some later query.
      connection.allSync(sql`SELECT 1 FROM sqlite_schema LIMIT 1`);
      return await work(connection);
    } finally {
      // Not ROLLBACK: it would take away the TEMP tables that the next page still needs.
      connection.endRead();
      this.idle.push(connection);
    }
  }

  async transaction<T>(
    label: string,
    work: (tx: Transaction) => Promise<T>,
    options: TransactionOptions = {},
  ): Promise<T> {
    const outer = this.context.getStore();
    if (outer?.transaction !== undefined) {
      throw new HiveError("INTERNAL", `Transaction "${label}" was started inside transaction "${outer.transaction}".`, {
        hint: "Pass the running transaction on instead of opening another one.",
      });
    }
    const context: Context = { transaction: label, leases: outer?.leases ?? [] };
    return this.exclusive(() =>
      this.context.run(context, async () => {
        if (!options.looseReferences) return this.transact(label, context.leases, work, options);
        // Between two transactions: inside one, SQLite ignores it.
        const connection = this.writeConnection();
        connection.pragma("foreign_keys = OFF");
        try {
          return await this.transact(label, context.leases, work, options);
        } finally {
          connection.pragma("foreign_keys = ON");
        }
      }),
    );
  }

  /** One after the other: the writer connection can only be in one transaction. */
  private exclusive<T>(work: () => Promise<T>): Promise<T> {
    const result = this.queue.then(work);
    this.queue = result.catch(() => undefined);
    return result;
  }

  private async transact<T>(
    label: string,
    leases: readonly Lease[],
    work: (tx: Transaction) => Promise<T>,
    options: TransactionOptions,
  ): Promise<T> {
    const connection = this.writeConnection();
    const { clock } = this.options;
    if (options.before) await options.before(connection);
    const readsFirst = options.readsFirst ? READS_FIRST : 0;
    for (let attempt = 0; attempt < readsFirst; attempt++) {
      connection.exec("BEGIN");
      try {
        return await this.transacting(connection, label, leases, work, true);
      } catch (error) {
        if (!(error instanceof Overtaken)) throw error;
        if (error.locked) await clock.sleep(1 + clock.random() * 4);
      }
    }
    await this.beginImmediate(connection, label, options.waitMs);
    return this.transacting(connection, label, leases, work, false);
  }

  /** What follows BEGIN. @throws Overtaken where others have committed, or hold the lock, when it is to be taken */
  private async transacting<T>(
    connection: Connection,
    label: string,
    leases: readonly Lease[],
    work: (tx: Transaction) => Promise<T>,
    readsFirst: boolean,
  ): Promise<T> {
    const { clock, signal } = this.options;
    let begun = clock.monotonic();
    const held: number[] = [];
    const fence = async () => {
      for (const lease of leases) held.push(await this.leases.held(connection, lease));
    };
    let result: T;
    try {
      if (readsFirst) {
        await fence();
        connection.takeLock = async () => {
          connection.takeLock = null;
          await signal?.(`tx:${label}:read`);
          takeWriteLock(connection);
          begun = clock.monotonic();
          await signal?.(`tx:${label}:begun`);
        };
      } else {
        await signal?.(`tx:${label}:begun`);
        await fence();
      }
      result = await work(connection);
      // A long transaction may have outlasted the lease: those who wait would take the lock over at the commit.
      if (connection.takeLock === null) {
        for (const [i, lease] of leases.entries()) await this.leases.keep(connection, lease, held[i] ?? 0);
      }
      await signal?.(`tx:${label}:before-commit`);
      this.stats.lastWorkMs = clock.monotonic() - begun;
      connection.exec("COMMIT");
    } catch (error) {
      connection.rollback();
      throw error;
    } finally {
      connection.takeLock = null;
      this.stats.lastHeldMs = clock.monotonic() - begun;
      this.stats.heldMs += this.stats.lastHeldMs;
    }
    this.stats.commits += 1;
    await signal?.(`tx:${label}:committed`);
    connection.checkpoint();
    return result;
  }

  /**
   * SQLite's own busy handler would block the event loop and polls in lockstep with every other waiter, so the
   * waiting is done here: with jitter, capped at 50 ms.
   */
  private async beginImmediate(
    connection: Connection,
    label: string,
    busyTimeoutMs: number = this.options.busyTimeoutMs,
  ): Promise<void> {
    const { clock } = this.options;
    const deadline = clock.monotonic() + busyTimeoutMs;
    for (let attempt = 0; ; attempt++) {
      try {
        connection.exec("BEGIN IMMEDIATE");
        return;
      } catch (error) {
        if (!(error instanceof HiveError) || error.code !== "DATABASE_BUSY") throw error;
        if (clock.monotonic() >= deadline) {
          throw new HiveError(
            "DATABASE_BUSY",
            `Another process kept the write lock of ${this.location} for too long.`,
            {
              hint: `hive waited ${busyTimeoutMs} ms to begin "${label}". Nothing was written; run the command again, or raise busyTimeoutMs.`,
              details: { label, waitedMs: busyTimeoutMs },
              cause: error,
            },
          );
        }
        await clock.sleep(1 + clock.random() * Math.min(50, 2 ** attempt));
      }
    }
  }

  async withLock<T>(name: string, options: LockOptions, work: (lease: Lease) => Promise<T>): Promise<T> {
    const outer = this.context.getStore();
    if (outer?.leases.some((lease) => lease.name === name)) {
      throw new HiveError("INTERNAL", `Lock "${name}" is already held by this call.`);
    }
    return this.leases.withLock(name, options, (lease) =>
      this.context.run({ ...outer, leases: [...(outer?.leases ?? []), lease] }, () => work(lease)),
    );
  }

  apart<T>(work: () => T): T {
    return this.context.run({ leases: [] }, work);
  }

  lockHolder(name: string): Promise<LockHolder | null> {
    return this.leases.lockHolder(name);
  }

  holders(): Promise<number> {
    return this.leases.holders();
  }

  private get leaseStorage(): LeaseStorage {
    const store = this;
    return {
      get read() {
        return store.readConnection();
      },
      write: (label, work) =>
        this.exclusive(async () => {
          const connection = this.writeConnection();
          await this.beginImmediate(connection, label);
          try {
            const result = await work(connection);
            connection.exec("COMMIT");
            return result;
          } catch (error) {
            connection.rollback();
            throw error;
          }
        }),
      hasTable: async (session) =>
        (await session.all(sql`SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'hive_locks'`)).length > 0,
      createTable: [LOCKS_TABLE],
    };
  }

  async table(name: string, session: Session = this.read): Promise<Table | null> {
    const version = await this.schemaVersion(session);
    if (this.shapes.version !== version) this.shapes = { version, tables: new Map() };
    const { tables } = this.shapes;
    const known = tables.get(name);
    if (known !== undefined) return known;
    const table = await this.readTable(name, session);
    // Not what a transaction has made itself: if it is rolled back, its version will be another's.
    if (session !== this.writer) tables.set(name, table);
    return table;
  }

  private async readTable(name: string, session: Session): Promise<Table | null> {
    const columns = await session.all(
      sql`SELECT name, type, "notnull" AS not_null, dflt_value, pk FROM pragma_table_info(${name}) ORDER BY cid`,
    );
    if (columns.length === 0) return null;
    const foreign = await session.all(
      sql`SELECT id, "table" AS target, "from" AS source, "to" AS reference, on_delete FROM pragma_foreign_key_list(${name}) ORDER BY id, seq`,
    );
    const indexes = await session.all(
      sql`SELECT l.name AS name, l."unique" AS uniq, i.name AS column_name FROM pragma_index_list(${name}) AS l
          JOIN pragma_index_info(l.name) AS i WHERE l.partial = 0 ORDER BY l.seq, i.seqno`,
    );
    const unique = await session.all(
      sql`SELECT l.name AS name, l.origin AS origin, i.name AS column_name, i.coll AS collation FROM pragma_index_list(${name}) AS l
          JOIN pragma_index_xinfo(l.name) AS i WHERE l."unique" = 1 AND i.key = 1 AND i.name IS NOT NULL ORDER BY l.seq, i.seqno`,
    );
    const sets = groupBy(unique, (row) => String(row.name)).map((rows) =>
      rows.map((row) => ({ name: String(row.column_name), collation: String(row.collation) })),
    );
    // A primary key that is the rowid has no index of its own.
    const primary = unique.some((row) => row.origin === "pk") ? [] : columns.filter((row) => Number(row.pk) > 0);
    if (primary.length > 0) sets.unshift(primary.map((row) => ({ name: String(row.name), collation: "BINARY" })));
    return {
      name,
      columns: columns.map(toColumn),
      foreignKeys: groupBy(foreign, (row) => String(row.id)).map((rows) => ({
        columns: rows.map((row) => String(row.source)),
        table: String(rows[0]?.target),
        references: rows.map((row) => (row.reference === null ? null : String(row.reference))),
        onDelete: String(rows[0]?.on_delete),
      })),
      indexes: groupBy(indexes, (row) => String(row.name)).map((rows) => ({
        name: String(rows[0]?.name),
        columns: rows.map((row) => (row.column_name === null ? null : String(row.column_name))),
        unique: Number(rows[0]?.uniq) === 1,
      })),
      unique: sets,
      parts: [],
    };
  }

  async tables(session: Session = this.read): Promise<string[]> {
    const rows = await session.all(
      sql`SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name`,
    );
    return rows.map((row) => String(row.name));
  }

  async triggers(prefix: string, session: Session = this.read): Promise<Trigger[]> {
    const rows = await session.all(
      sql`SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'trigger' AND substr(name, 1, ${prefix.length}) = ${prefix} ORDER BY name`,
    );
    return rows.map((row) => ({
      name: String(row.name),
      table: String(row.tbl_name),
      definition: String(row.sql),
    }));
  }

  async journalMode(): Promise<string> {
    const session = this.readConnection();
    // A connection that was open before the mode changed sees the change when it reads.
    session.allSync(sql`SELECT 1 FROM sqlite_schema LIMIT 1`);
    return String(session.pragma("journal_mode"));
  }

  async restoreJournalMode(mode: string): Promise<string> {
    // Of the modes without WAL, a file only remembers that it is one of them.
    if (mode === "delete") await this.exclusive(async () => this.leaveWal());
    return this.journalMode();
  }

  /** Possible only while nobody else has the file open: not even another connection of this process. */
  private leaveWal(): void {
    for (const connection of [this.reader, this.writer, ...this.idle.splice(0)]) {
      if (!connection) continue;
      connection.close();
      this.opened.delete(connection);
    }
    this.reader = undefined;
    this.writer = undefined;
    this.dataVersion = undefined;
    const alone = this.open(false);
    try {
      alone.pragma("journal_mode = DELETE");
    } catch (error) {
      if (!(error instanceof HiveError) || error.code !== "DATABASE_BUSY") throw error;
    } finally {
      alone.close();
      this.opened.delete(alone);
    }
  }

  async version(): Promise<number> {
    return Number(this.readConnection().pragma("data_version"));
  }

  async schemaVersion(session: Session = this.read): Promise<number> {
    const rows = await session.all(sql`SELECT schema_version AS version FROM pragma_schema_version`);
    return Number(rows[0]?.version);
  }

  async waitForCommit(timeoutMs: number, abort?: AbortSignal, waiter?: Waiter): Promise<void> {
    this.hints ??= new CommitHints(this.location);
    await this.hints.wait(timeoutMs, this.options.clock, abort, waiter);
  }

  async othersCommitted(): Promise<number> {
    // Asked on the writer: for any other connection of ours, our own commits would count as somebody else's.
    const version = Number(this.writeConnection().pragma("data_version"));
    if (this.dataVersion !== undefined && version !== this.dataVersion) this.othersSeen += 1;
    this.dataVersion = version;
    return this.othersSeen;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.queue;
    this.closed = true;
    this.hints?.close();
    for (const connection of this.opened) connection.close();
    this.opened.clear();
    // Each one that is left enabled slows down every promise of the process.
    this.context.disable();
  }
}

function toColumn(row: Row): Column {
  return {
    name: String(row.name),
    declared: String(row.type),
    type: affinity(String(row.type)),
    notNull: Number(row.not_null) === 1,
    default: row.dflt_value === null ? null : String(row.dflt_value),
    primaryKey: Number(row.pk),
  };
}

/** The rules of https://sqlite.org/datatype3.html#determination_of_column_affinity, in their order. */
function affinity(declared: string): ColumnType {
  const type = declared.toUpperCase();
  if (type.includes("INT")) return "integer";
  if (/CHAR|CLOB|TEXT/.test(type)) return "text";
  if (type === "" || type.includes("BLOB")) return "blob";
  if (/REAL|FLOA|DOUB/.test(type)) return "real";
  return "numeric";
}
