import { AsyncLocalStorage } from "node:async_hooks";
import { existsSync, readFileSync, statSync } from "node:fs";
import { hostname } from "node:os";
import { type Clock, isoTime, type Signal } from "../clock.ts";
import { HiveError } from "../errors.ts";
import type {
  Column,
  ColumnType,
  Dialect,
  Lease,
  LockHolder,
  LockOptions,
  Row,
  Session,
  Store,
  Table,
  Transaction,
  TransactionOptions,
  WriteStats,
} from "./port.ts";
import { sql } from "./sql.ts";
import { Connection } from "./sqlite-connection.ts";

export interface SqliteOptions {
  /** How long a write transaction waits for other writers. */
  busyTimeoutMs: number;
  /** How long a lock outlives its holder's last sign of life. */
  leaseMs: number;
  clock: Clock;
  signal?: Signal | undefined;
}

const dialect: Dialect = { name: "sqlite" };

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

  constructor(path: string, options: SqliteOptions) {
    this.location = path;
    this.options = options;
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
    const { clock, signal } = this.options;
    if (options.before) await options.before(connection);
    await this.beginImmediate(connection, label);
    const begun = clock.monotonic();
    let result: T;
    try {
      await signal?.(`tx:${label}:begun`);
      for (const lease of leases) this.assertHeld(connection, lease);
      result = await work(connection);
      // A long transaction may have outlasted the lease: those who wait would take the lock over at the commit.
      for (const lease of leases) this.renew(connection, lease);
      await signal?.(`tx:${label}:before-commit`);
      this.stats.lastWorkMs = clock.monotonic() - begun;
      connection.exec("COMMIT");
    } catch (error) {
      connection.rollback();
      throw error;
    } finally {
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
  private async beginImmediate(connection: Connection, label: string): Promise<void> {
    const { clock, busyTimeoutMs } = this.options;
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
    const lease = await this.acquire(name, options);
    const context: Context = { ...outer, leases: [...(outer?.leases ?? []), lease] };
    const beat = setInterval(() => {
      void this.exclusive(async () => {
        await this.beginImmediate(this.writeConnection(), "heartbeat");
        try {
          this.assertHeld(this.writeConnection(), lease);
          this.writeConnection().exec("COMMIT");
        } catch {
          // The next transaction of the holder finds out for itself and reports it.
          this.writeConnection().rollback();
        }
      }).catch(() => undefined);
    }, this.options.leaseMs / 3);
    try {
      return await this.context.run(context, () => work(lease));
    } finally {
      clearInterval(beat);
      // The work is done, or its own error is the one to report; a lock that cannot be given back runs out.
      await this.release(lease).catch(() => undefined);
    }
  }

  private async acquire(name: string, options: LockOptions): Promise<Lease> {
    const { clock } = this.options;
    const deadline = clock.monotonic() + (options.timeoutMs ?? 0);
    let told = false;
    for (;;) {
      const holder = await this.holderOf(name);
      if (holder === null || !this.isAlive(holder)) {
        try {
          const lease = await this.take(name, options.purpose ?? "hive");
          if (lease) return lease;
        } catch (error) {
          // A holder whose lease ran out during one long transaction: it is renewed when that commits.
          const waiting = holder !== null && clock.monotonic() < deadline;
          if (!waiting || !(error instanceof HiveError) || error.code !== "DATABASE_BUSY") throw error;
        }
        continue;
      }
      if (clock.monotonic() >= deadline) {
        throw new HiveError(
          "LOCK_HELD",
          `${holder.holder} (process ${holder.pid} on ${holder.host}) holds the lock "${name}" since ${holder.since}.`,
          {
            hint: "Wait for it to end, or give it longer with --lock-timeout SECONDS.",
            details: { lock: name, holder: holder.holder, pid: holder.pid, host: holder.host, since: holder.since },
          },
        );
      }
      if (!told) {
        told = true;
        options.onWait?.({ name, holder: holder.holder, pid: holder.pid, host: holder.host, since: holder.since });
      }
      if (options.abort?.aborted) {
        throw new HiveError("INTERRUPTED", `Interrupted while waiting for the lock "${name}".`, {
          hint: "Nothing was done. Run the command again.",
        });
      }
      await clock.sleep(20 + clock.random() * 80);
    }
  }

  private async holderOf(name: string): Promise<(LockHolder & { expiresAt: number; started: string }) | null> {
    const session = this.readConnection();
    if ((await this.table("hive_locks", session)) === null) return null;
    let row: Row | undefined;
    try {
      row = session.allSync(sql`SELECT * FROM hive_locks WHERE name = ${name} AND holder IS NOT NULL`)[0];
    } catch (error) {
      // Migrating all the way down drops the table, perhaps just now.
      if (this.hasTable(session, "hive_locks")) throw error;
    }
    if (!row) return null;
    return {
      name,
      holder: String(row.holder),
      pid: Number(row.pid),
      host: String(row.host),
      since: String(row.since),
      started: String(row.process_started),
      expiresAt: Number(row.expires_at),
    };
  }

  /** A killed process on this machine is known at once; one that froze, or is elsewhere, when its lease is over. */
  private isAlive(holder: { pid: number; host: string; started: string; expiresAt: number }): boolean {
    if (holder.host === hostname() && processStart(holder.pid) !== holder.started) return false;
    return holder.expiresAt > this.options.clock.now();
  }

  /** Null when another process was quicker. */
  private take(name: string, purpose: string): Promise<Lease | null> {
    const { clock, leaseMs } = this.options;
    return this.exclusive(async () => {
      const connection = this.writeConnection();
      await this.beginImmediate(connection, `lock ${name}`);
      try {
        connection.runSync(sql`CREATE TABLE IF NOT EXISTS hive_locks (
          name TEXT PRIMARY KEY NOT NULL, token INTEGER NOT NULL, holder TEXT, pid INTEGER, host TEXT,
          process_started TEXT, since TEXT, expires_at INTEGER NOT NULL)`);
        const row = connection.allSync(sql`SELECT * FROM hive_locks WHERE name = ${name}`)[0];
        if (row && row.holder !== null) {
          const alive = this.isAlive({
            pid: Number(row.pid),
            host: String(row.host),
            started: String(row.process_started),
            expiresAt: Number(row.expires_at),
          });
          if (alive) {
            connection.rollback();
            return null;
          }
        }
        // Starts at the time, not at 1: the table may have been dropped since an older holder froze.
        const token = row ? Number(row.token) + 1 : clock.now();
        connection.runSync(sql`INSERT INTO hive_locks (name, token, holder, pid, host, process_started, since, expires_at)
          VALUES (${name}, ${token}, ${purpose}, ${process.pid}, ${hostname()}, ${processStart(process.pid)}, ${isoTime(clock)}, ${clock.now() + leaseMs})
          ON CONFLICT (name) DO UPDATE SET token = excluded.token, holder = excluded.holder, pid = excluded.pid,
            host = excluded.host, process_started = excluded.process_started, since = excluded.since, expires_at = excluded.expires_at`);
        connection.exec("COMMIT");
        return { name, token };
      } catch (error) {
        connection.rollback();
        throw error;
      }
    });
  }

  /** Inside a write transaction: the fence. Nobody else can take the lock over before this transaction ends. */
  private assertHeld(connection: Connection, lease: Lease): void {
    if (this.renew(connection, lease) === 0) {
      throw new HiveError("LOCK_LOST", `Another process has taken over the lock "${lease.name}" from this one.`, {
        hint: "This process was stopped for too long. Nothing of its last step was written; run the command again.",
        details: { lock: lease.name },
      });
    }
  }

  /** 0 if somebody else holds it, or if the table is gone: migrating all the way down drops it. */
  private renew(connection: Connection, lease: Lease): number {
    if (!this.hasTable(connection, "hive_locks")) return 0;
    const expiresAt = this.options.clock.now() + this.options.leaseMs;
    return connection.runSync(
      sql`UPDATE hive_locks SET expires_at = ${expiresAt} WHERE name = ${lease.name} AND token = ${lease.token}`,
    );
  }

  private async release(lease: Lease): Promise<void> {
    await this.exclusive(async () => {
      const connection = this.writeConnection();
      await this.beginImmediate(connection, `unlock ${lease.name}`);
      try {
        // Migrating all the way down drops the table together with the lock.
        if (this.hasTable(connection, "hive_locks")) {
          connection.runSync(
            sql`UPDATE hive_locks SET holder = NULL, expires_at = 0 WHERE name = ${lease.name} AND token = ${lease.token}`,
          );
        }
        connection.exec("COMMIT");
      } catch (error) {
        connection.rollback();
        throw error;
      }
    });
  }

  private hasTable(connection: Connection, name: string): boolean {
    return connection.allSync(sql`SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ${name}`).length > 0;
  }

  async table(name: string, session: Session = this.read): Promise<Table | null> {
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
    };
  }

  async tables(session: Session = this.read): Promise<string[]> {
    const rows = await session.all(
      sql`SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name`,
    );
    return rows.map((row) => String(row.name));
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
    for (const connection of this.opened) connection.close();
    this.opened.clear();
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

function groupBy(rows: readonly Row[], key: (row: Row) => string): Row[][] {
  const groups = new Map<string, Row[]>();
  for (const row of rows) {
    const group = groups.get(key(row));
    if (group) group.push(row);
    else groups.set(key(row), [row]);
  }
  return [...groups.values()];
}

/** When the process began, in the kernel's ticks: a process id alone may belong to a later process. "" if unknown. */
function processStart(pid: number): string | null {
  try {
    // Field 22; the second field may itself hold spaces and brackets.
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    // A killed process whose parent has not looked yet holds nothing any more.
    return fields[0] === "Z" || fields[0] === "X" ? null : (fields[19] ?? "");
  } catch {
    if (existsSync("/proc/self/stat")) return null;
  }
  try {
    process.kill(pid, 0);
    return "";
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM" ? "" : null;
  }
}
