import { AsyncLocalStorage } from "node:async_hooks";
import { createHash } from "node:crypto";
import pg from "pg";
import type { Clock, Signal } from "../clock.ts";
import { HiveError, nearest } from "../errors.ts";
import { type LeaseStorage, Leases } from "./leases.ts";
import type {
  Lease,
  LockHolder,
  LockOptions,
  Portion,
  Row,
  Session,
  Store,
  Table,
  Transaction,
  TransactionOptions,
  Trigger,
  Tuple,
  Waiter,
  WriteStats,
} from "./port.ts";
import {
  type Fingerprint,
  readTable,
  readTables,
  readTriggers,
  refuseShadows,
  schemaFingerprint,
} from "./postgres-catalog.ts";
import { ADVISORY, Connection, dialect, LEDGER_SCHEMA, OUTDATED, Shapes, translated } from "./postgres-connection.ts";
import { unsupported } from "./postgres-engines.ts";
import { type Sql, sql } from "./sql.ts";

export interface PostgresOptions {
  /** How long a transaction may wait for others, all its attempts together. */
  busyTimeoutMs: number;
  /** How long a lock outlives its holder's last sign of life. */
  leaseMs: number;
  clock: Clock;
  signal?: Signal | undefined;
}

/** How long a statement of hive's waits for an agent's lock, and keeps those that wait for hive waiting as well. */
const LOCK_WAIT_MS = 200;
const MOST_CONNECTIONS = 10;
const MOST_LOCKS = 100;
const CONNECT_TIMEOUT_MS = 10_000;
/** How long a statement may take that only looks something up, or touches one row. */
const SHORT_STATEMENT_MS = 5_000;
/** How long those that are connected have for saying goodbye. */
const GOODBYE_MS = 2_000;
/** How often the change log is looked at: the only way to hear of an agent's commit that costs the agent nothing. */
const LOOK_MS = [5, 5, 10, 10, 20, 20, 40];
const CHANGES: Waiter = { until: () => sql`SELECT 1 AS one FROM hive_changes ORDER BY seq LIMIT 1` };

/**
 * Opens an existing PostgreSQL database by its URL. Nothing is created before the first write. With `?pooler=transaction`
 * nothing outlives a transaction on a connection: for a pooler that gives each transaction another one.
 * @throws CONFIG_INVALID, DATABASE_NOT_FOUND, DATABASE_UNREACHABLE
 */
export async function openPostgres(url: string, options: PostgresOptions): Promise<Store> {
  const store = postgresAt(url, options);
  try {
    await store.probe();
  } catch (error) {
    await store[Symbol.asyncDispose]();
    throw error;
  }
  return store;
}

/** As {@link openPostgres}, but the server is not asked for anything before it is needed. */
export function postgresAt(url: string, options: PostgresOptions): PostgresStore {
  return new PostgresStore(parse(url), options);
}

/** What the driver takes from a URL, and `pooler`. */
const PARAMETERS: readonly string[] = [
  ...["pooler", "application_name", "options", "host", "port", "user", "password"],
  ...["sslmode", "sslrootcert", "sslcert", "sslkey", "sslnegotiation", "uselibpqcompat"],
  ...["statement_timeout", "query_timeout"],
  // What providers put into their URLs; the driver decides by itself.
  ...["connect_timeout", "channel_binding", "target_session_attrs"],
];
const SSL_MODES: readonly string[] = ["disable", "prefer", "require", "verify-ca", "verify-full", "no-verify"];

interface Target {
  /** For the driver: without what is hive's own. */
  readonly url: string;
  /** For people: nothing that could be secret. */
  readonly location: string;
  readonly pooled: boolean;
  readonly application: string;
}

function parse(text: string): Target {
  const unreadable = new HiveError("CONFIG_INVALID", "The database URL cannot be read.", {
    hint: "Write postgres://USER:PASSWORD@HOST:PORT/DATABASE; characters like @ # ? and / in a password as %40 %23 %3F and %2F.",
  });
  let url: URL;
  try {
    url = new URL(/^postgres(ql)?:\/\//.test(text) ? text : "");
    for (const part of [url.username, url.password, url.pathname]) decodeURIComponent(part);
  } catch {
    throw unreadable;
  }
  // What follows such a character in a password would be taken for something that may be shown.
  if (url.hash !== "" || `${url.pathname}${url.search}`.includes("@")) throw unreadable;
  const { searchParams } = url;
  for (const name of searchParams.keys()) {
    if (PARAMETERS.includes(name)) continue;
    const guess = nearest(name, PARAMETERS);
    throw new HiveError(
      "CONFIG_INVALID",
      `The database URL has a parameter "${name}", which hive does not know${guess ? `; did you mean "${guess}"?` : "."}`,
      { hint: `It would have no effect: leave it out. The parameters are: ${PARAMETERS.join(", ")}.` },
    );
  }
  const sslmode = searchParams.get("sslmode");
  if (sslmode !== null && !SSL_MODES.includes(sslmode)) {
    throw new HiveError("CONFIG_INVALID", `The database URL has sslmode=${sslmode}.`, {
      hint: `Use one of: ${SSL_MODES.join(", ")}.`,
    });
  }
  const pooler = searchParams.get("pooler");
  if (pooler !== null && pooler !== "transaction" && pooler !== "session") {
    throw new HiveError("CONFIG_INVALID", `The database URL has pooler=${pooler}.`, {
      hint: "Use ?pooler=transaction for a pooler between transactions, ?pooler=session or nothing otherwise.",
    });
  }
  searchParams.delete("pooler");
  const application = searchParams.get("application_name") ?? "hive";
  // Else it would take the place of the names that tell the connections apart.
  searchParams.delete("application_name");
  // The meaning that sslmode has for psql, and will have in the driver's next version.
  if (searchParams.has("sslmode")) searchParams.set("uselibpqcompat", "true");
  const shown = new URL(url);
  shown.password = "";
  shown.search = "";
  const host = searchParams.get("host");
  if (host !== null) shown.searchParams.set("host", host);
  try {
    // Reads the files with certificates.
    new pg.Client({ connectionString: url.href });
  } catch (error) {
    if (error instanceof Error && "input" in error) throw unreadable;
    throw new HiveError("CONFIG_INVALID", `The database URL asks for what cannot be had: ${messageOf(error)}`, {
      hint: "Look at sslmode, sslrootcert, sslcert and sslkey: they mean what they mean for psql.",
    });
  }
  return { url: url.href, location: shown.href, pooled: pooler === "transaction", application };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The context of the running call chain: which transaction it is in and which locks it holds. */
interface Context {
  transaction?: string;
  leases: readonly Lease[];
}

export class PostgresStore implements Store {
  readonly dialect = dialect;
  readonly stats: WriteStats = { commits: 0, heldMs: 0, lastHeldMs: 0, lastWorkMs: 0 };
  readonly location: string;
  readonly read: Session;
  private readonly target: Target;
  private readonly options: PostgresOptions;
  private readonly context = new AsyncLocalStorage<Context>();
  private readonly readers: pg.Pool;
  private readonly writers: pg.Pool;
  /** For signs of life: they keep a connection for as long as a lock. */
  private readonly signs: pg.Pool;
  private readonly out = new Set<Checkout>();
  private readonly shapes: Shapes;
  private readonly leases: Leases;
  private recognised = false;
  private schema: Fingerprint | undefined;
  private readonly looks = new WeakMap<Waiter, number>();
  private closed = false;

  constructor(target: Target, options: PostgresOptions) {
    this.target = target;
    this.location = target.location;
    this.options = options;
    this.shapes = new Shapes(!target.pooled);
    this.readers = this.pool("reading", MOST_CONNECTIONS);
    this.writers = this.pool("writing", MOST_CONNECTIONS);
    this.signs = this.pool("lock", MOST_LOCKS);
    this.read = new Reading(this);
    this.leases = new Leases(this.leaseStorage, options.clock, options.leaseMs);
  }

  private pool(purpose: "reading" | "writing" | "lock", max: number): pg.Pool {
    const { application, pooled, url } = this.target;
    const pool = new pg.Pool({
      connectionString: url,
      application_name: `${application} (${purpose})`,
      max,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      allowExitOnIdle: true,
      keepAlive: true,
      keepAliveInitialDelayMillis: 10_000,
      onConnect: async (client) => {
        if (!this.recognised) await this.recognise(client);
        if (!pooled) await client.query(this.settings(false, purpose === "reading"));
      },
    });
    // A connection that breaks while nobody uses it: the next one who asks gets another.
    pool.on("error", () => undefined);
    return pool;
  }

  /** Before anything else is asked of a server that may be none of those that hive works on. */
  private async recognise(client: pg.ClientBase): Promise<void> {
    const { rows } = await client.query({
      text: `SELECT version() AS version, current_setting('server_version') AS server_version,
        current_setting('server_version_num') AS number,
        (SELECT count(*) FROM pg_extension WHERE extname = 'citus') AS citus`,
      query_timeout: CONNECT_TIMEOUT_MS,
    } as pg.QueryConfig);
    const [row] = rows;
    const facts = {
      version: String(row.version),
      serverVersion: String(row.server_version),
      number: Number(row.number),
      extensions: Number(row.citus) > 0 ? ["citus"] : [],
    };
    const refusal = unsupported(facts, this.location);
    if (refusal) throw refusal;
    await refuseShadows(client, this.location);
    this.recognised = true;
  }

  /** What hive relies on, for a connection or for one transaction of it. */
  private settings(local: boolean, readonly: boolean): string {
    const { leaseMs } = this.options;
    const settings: readonly (readonly [string, string])[] = [
      ["timezone", "UTC"],
      ["datestyle", "ISO, YMD"],
      ["intervalstyle", "postgres"],
      ["bytea_output", "hex"],
      ["extra_float_digits", "1"],
      ["client_min_messages", "warning"],
      // A process that was stopped keeps no locks for longer than its lease.
      ["idle_in_transaction_session_timeout", String(Math.max(leaseMs, 1_000))],
      ...(local ? [] : SESSION_SETTINGS),
      ...(local || !readonly ? [] : [["default_transaction_read_only", "on"] as const]),
    ];
    const calls = settings.map(([name, value]) => `set_config('${name}', '${value}', ${local})`);
    // Last, also for a role called hive, whose own schema it would be: what a migration makes without naming a schema
    // belongs to the user.
    calls.push(`set_config('search_path', coalesce((SELECT string_agg(quote_ident(name), ', ' ORDER BY place)
      FROM unnest(current_schemas(false)) WITH ORDINALITY AS path (name, place) WHERE name <> '${LEDGER_SCHEMA}')
      || ', ', '') || '${LEDGER_SCHEMA}', ${local})`);
    return `SELECT ${calls.join(", ")}`;
  }

  async probe(): Promise<void> {
    await this.read.all(sql`SELECT 1 AS one`);
  }

  /** A connection; after the first one, it is waited for while the server is away for a moment. */
  private async connect(pool: pg.Pool): Promise<pg.PoolClient> {
    const { clock, busyTimeoutMs } = this.options;
    const deadline = clock.monotonic() + busyTimeoutMs;
    for (let attempt = 0; ; attempt++) {
      if (this.closed) throw new HiveError("INTERNAL", "The database was closed.");
      try {
        const client = await pool.connect();
        if (!this.closed) return client;
        client.release(true);
      } catch (error) {
        const known = translated(error, this.location);
        const passing = known instanceof HiveError && known.code === "DATABASE_UNREACHABLE" && this.recognised;
        if (!passing || clock.monotonic() >= deadline) throw known;
        await clock.sleep(clock.random() * Math.min(1_000, 20 * 2 ** attempt));
      }
    }
  }

  private async checkout(pool: pg.Pool): Promise<Checkout> {
    const client = await this.connect(pool);
    const lost = (error: Error) => {
      checkout.broken ??= error;
    };
    const checkout: Checkout = {
      client,
      broken: undefined,
      release: () => {
        if (!this.out.delete(checkout)) return;
        client.removeListener("error", lost);
        client.release(checkout.broken);
      },
    };
    // Without it, a connection that breaks between two statements would end the process.
    client.on("error", lost);
    this.out.add(checkout);
    return checkout;
  }

  /** Runs `work` on a connection of its own. Never leaves one behind that is broken. */
  private async using<T>(pool: pg.Pool, work: (connection: Connection, checkout: Checkout) => Promise<T>): Promise<T> {
    const checkout = await this.checkout(pool);
    try {
      return await work(new Connection(checkout.client, this.shapes, this.location), checkout);
    } catch (error) {
      // Statements that were prepared for another table would fail again.
      if (known(error) === OUTDATED) checkout.broken ??= new Error("outdated");
      if (this.closed) throw new HiveError("INTERNAL", "The database was closed.", { cause: error });
      // Says why the server ended the connection, and not just that it is gone.
      const gone = error instanceof HiveError && error.code === "DATABASE_UNREACHABLE";
      throw gone && checkout.broken ? translated(checkout.broken, this.location) : error;
    } finally {
      checkout.release();
    }
  }

  /** Runs `work` between BEGIN and the end of it. */
  private within<T>(
    pool: pg.Pool,
    begin: string,
    work: (connection: Connection) => Promise<T>,
    end = "COMMIT",
  ): Promise<T> {
    const local = this.target.pooled ? `; ${this.settings(true, pool === this.readers)}` : "";
    return this.using(pool, async (connection, checkout) => {
      try {
        await connection.exec(`${begin}${local}`);
        const result = await work(connection);
        await connection.finish(end);
        return result;
      } catch (error) {
        try {
          if (checkout.broken === undefined) await checkout.client.query("ROLLBACK");
        } catch (failure) {
          checkout.broken ??= failure instanceof Error ? failure : new Error(String(failure));
        }
        throw error;
      }
    });
  }

  /** A query by itself. */
  async reading<T>(work: (connection: Connection) => Promise<T>, inTransaction = false): Promise<T> {
    if (inTransaction || this.target.pooled) return this.within(this.readers, "BEGIN READ ONLY", work);
    // Where a table was altered, each connection that prepared the statement before is given up.
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.using(this.readers, work);
      } catch (error) {
        if (known(error) !== OUTDATED || attempt >= MOST_CONNECTIONS) throw error;
      }
    }
  }

  snapshot<T>(work: (session: Session) => Promise<T>): Promise<T> {
    // The view begins with the first query, not with BEGIN.
    const begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1";
    return this.within(this.readers, begin, work);
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
    const leases = outer?.leases ?? [];
    let runs = 0;
    const counted = (tx: Transaction) => {
      runs += 1;
      return work(tx);
    };
    const isFinal = () => options.once === true && runs > 0;
    return this.context.run({ transaction: label, leases }, () =>
      this.retrying(label, options, () => this.transact(label, leases, counted, options), isFinal),
    );
  }

  /** What was rolled back since somebody else was in the way is begun again. */
  private async retrying<T>(
    label: string,
    options: TransactionOptions,
    work: () => Promise<T>,
    isFinal: () => boolean = () => false,
  ): Promise<T> {
    const { clock } = this.options;
    const patience = options.waitMs ?? this.options.busyTimeoutMs;
    const deadline = clock.monotonic() + patience;
    for (let attempt = 0; ; attempt++) {
      try {
        return await work();
      } catch (error) {
        if (!(error instanceof HiveError) || error.code !== "DATABASE_BUSY" || isFinal()) throw error;
        if (clock.monotonic() >= deadline) {
          throw new HiveError("DATABASE_BUSY", error.message, {
            hint: `hive tried "${label}" for ${patience} ms. Nothing was written; run the command again, or raise busyTimeoutMs.`,
            details: { ...error.details, label, waitedMs: patience },
            cause: error,
          });
        }
        // Agents that waited for what this one asked for go first.
        await clock.sleep(5 + clock.random() * Math.min(500, 10 * 2 ** attempt));
      }
    }
  }

  private async transact<T>(
    label: string,
    leases: readonly Lease[],
    work: (tx: Transaction) => Promise<T>,
    options: TransactionOptions,
  ): Promise<T> {
    const { clock, signal, busyTimeoutMs, leaseMs } = this.options;
    const patience = options.waitMs ?? busyTimeoutMs;
    const wait = Math.max(1, options.once ? patience : Math.min(LOCK_WAIT_MS, patience));
    const gate = options.exclusive ? "pg_advisory_xact_lock" : "pg_advisory_xact_lock_shared";
    const begin = `BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = ${Math.round(wait)};
      SELECT ${this.named(label)}, ${gate}(${ADVISORY}, 0)`;
    let begun = clock.monotonic();
    try {
      const result = await this.within(this.writers, begin, async (connection) => {
        begun = clock.monotonic();
        if (options.before) await options.before(connection);
        await signal?.(`tx:${label}:begun`);
        for (const lease of leases) await this.leases.fence(connection, lease);
        const done = await (options.exclusive ? this.watched(connection, () => work(connection)) : work(connection));
        // A long transaction may have outlasted the lease: those who wait would take the lock over at the commit.
        if (clock.monotonic() - begun > leaseMs / 4) {
          for (const lease of leases) await this.leases.renew(connection, lease);
        }
        await signal?.(`tx:${label}:before-commit`);
        this.stats.lastWorkMs = clock.monotonic() - begun;
        return done;
      });
      this.stats.commits += 1;
      await signal?.(`tx:${label}:committed`);
      return result;
    } finally {
      this.stats.lastHeldMs = clock.monotonic() - begun;
      this.stats.heldMs += this.stats.lastHeldMs;
    }
  }

  /** Runs `work`; where it fails since it waited too long, the error names who was in its way. */
  private async watched<T>(connection: Connection, work: () => Promise<T>): Promise<T> {
    const [self] = await connection.all(sql`SELECT pg_backend_pid() AS pid`);
    let blockers: Row[] = [];
    const look = async () => {
      const found = await this.read.all(
        sql`SELECT pid, application_name, state, extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds
            FROM pg_stat_activity WHERE pid = ANY (pg_blocking_pids(${Number(self?.pid)}))`,
      );
      if (found.length > 0) blockers = found;
    };
    // Once it has failed it waits for nobody any more: looked for often enough to be seen while it does.
    const timer = setInterval(() => void look().catch(() => undefined), LOCK_WAIT_MS / 4);
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof HiveError) || error.code !== "DATABASE_BUSY" || blockers.length === 0) throw error;
      const who = blockers.map(
        ({ pid, application_name: name, state, seconds }) =>
          `${name || "a program without an application_name"} (process ${pid}, ${state ?? "state unknown"}${typeof seconds === "number" ? `, its transaction runs for ${seconds.toFixed(1)} s` : ""})`,
      );
      throw new HiveError("DATABASE_BUSY", `${this.location} is kept waiting by ${who.join(", ")}.`, {
        hint: error.hint ?? "",
        details: { ...error.details, blockers: blockers.map(({ pid, application_name: name }) => ({ pid, name })) },
        cause: error,
      });
    } finally {
      clearInterval(timer);
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

  /** Shown in pg_stat_activity while a transaction runs. */
  private named(label: string): string {
    const name = `${this.target.application}: ${label}`.replace(/[^\w .:()-]/g, "?");
    return `set_config('application_name', '${name}', true)`;
  }

  private get leaseStorage(): LeaseStorage {
    const store = this;
    const begin = (label: string) => `BEGIN; SET LOCAL lock_timeout = ${LOCK_WAIT_MS};
      SET LOCAL statement_timeout = ${SHORT_STATEMENT_MS}; SELECT ${this.named(label)}, pg_advisory_xact_lock(${ADVISORY}, 1)`;
    return {
      get read() {
        return store.read;
      },
      // One after the other: two that find a lock free must not both take it.
      write: (label, work) =>
        store.retrying(label, {}, () => store.within(store.writers, begin(label), (connection) => work(connection))),
      hasTable: async (session) =>
        (await session.all(sql`SELECT 1 AS one WHERE to_regclass('hive_locks') IS NOT NULL`)).length > 0,
      createTable: [
        ...dialect.beforeLedger,
        sql`CREATE TABLE IF NOT EXISTS ${dialect.ledger}hive_locks (
          name TEXT PRIMARY KEY NOT NULL, token BIGINT NOT NULL, holder TEXT, pid INTEGER, host TEXT,
          process_started TEXT, since TEXT, expires_at BIGINT NOT NULL)`,
      ],
      // Nobody can take the lock over while a transaction of its holder runs.
      share: sql` FOR SHARE`,
      unshared: (name) =>
        sql` AND name IN (SELECT name FROM hive_locks WHERE name = ${name} FOR NO KEY UPDATE SKIP LOCKED)`,
      ...(this.target.pooled ? {} : { signOfLife: this.signOfLife }),
    };
  }

  /** An advisory lock on a connection that does nothing else: the server lets it go when that ends. */
  private readonly signOfLife: LeaseStorage["signOfLife"] = {
    show: async (lease) => {
      const sign = await this.checkout(this.signs);
      // Shared: another lock of the same number shows the same, and must not wait for this one.
      await new Connection(sign.client, this.shapes, this.location).exec(
        `SELECT pg_advisory_lock_shared(${ADVISORY}, ${lifeOf(lease)})`,
      );
      return async () => {
        sign.broken ??= new Error("not needed any more");
        sign.release();
      };
    },
    isShown: async (lease) => {
      const rows = await this.read.all(
        sql`SELECT 1 AS one FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND classid = ${ADVISORY} AND objid = ${lifeOf(lease)}`,
      );
      return rows.length > 0;
    },
  };

  table(name: string, session: Session = this.read): Promise<Table | null> {
    this.shapes.forget(name);
    return readTable(session, name);
  }

  tables(session: Session = this.read): Promise<string[]> {
    return readTables(session);
  }

  triggers(prefix: string, session: Session = this.read): Promise<Trigger[]> {
    return readTriggers(session, prefix);
  }

  async journalMode(): Promise<null> {
    return null;
  }

  async restoreJournalMode(): Promise<null> {
    return null;
  }

  async version(): Promise<number> {
    const rows = await this.read.all(sql`SELECT pg_current_snapshot()::text AS seen`);
    return numberOf(String(rows[0]?.seen));
  }

  async schemaVersion(session: Session = this.read): Promise<number> {
    const found = await schemaFingerprint(session, this.schema);
    if (found.snapshot !== "") this.schema = found;
    return numberOf(found.print);
  }

  async waitForCommit(timeoutMs: number, abort?: AbortSignal, waiter: Waiter = CHANGES): Promise<void> {
    const { clock } = this.options;
    const deadline = clock.monotonic() + timeoutMs;
    while (!abort?.aborted && clock.monotonic() < deadline) {
      const looks = this.looks.get(waiter) ?? 0;
      const most = LOOK_MS[looks] ?? LOOK_MS.at(-1) ?? 0;
      this.looks.set(waiter, looks + 1);
      await clock.sleep(Math.min(most, Math.max(0, deadline - clock.monotonic())), abort);
      if (await this.somethingWaits(waiter)) {
        this.looks.delete(waiter);
        return;
      }
    }
  }

  private async somethingWaits(waiter: Waiter): Promise<boolean> {
    try {
      return (await this.read.all(waiter.until())).length > 0;
    } catch {
      // Whoever waits looks for himself, and says what is wrong.
      return false;
    }
  }

  /** Nobody waits for hive's whole transactions, only for rows: there is no budget to share. */
  async othersCommitted(): Promise<number> {
    return 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    for (const one of this.out) {
      one.broken ??= new Error("The database was closed.");
      one.release();
    }
    const stop = new AbortController();
    const ended = Promise.all([this.readers, this.writers, this.signs].map((pool) => pool.end()));
    // A server that does not answer is not waited for.
    await Promise.race([ended, this.options.clock.sleep(GOODBYE_MS, stop.signal)]);
    stop.abort();
    this.context.disable();
  }
}

/** A connection that is in use. */
interface Checkout {
  readonly client: pg.PoolClient;
  /** Why it cannot be used again. */
  broken: Error | undefined;
  release(): void;
}

/** How soon the server notices that the machine of a connection is gone, and lets its locks go. */
const SESSION_SETTINGS: readonly (readonly [string, string])[] = [
  ["tcp_keepalives_idle", "15"],
  ["tcp_keepalives_interval", "5"],
  ["tcp_keepalives_count", "3"],
];

/** Each query on whichever connection is free: it sees the latest commit. */
class Reading implements Session {
  readonly dialect = dialect;
  private readonly store: PostgresStore;

  constructor(store: PostgresStore) {
    this.store = store;
  }

  all(query: Sql): Promise<Row[]> {
    return this.store.reading((connection) => connection.all(query));
  }

  tuples(query: Sql): Promise<Tuple[]> {
    return this.store.reading((connection) => connection.tuples(query));
  }

  tuplesWithin(query: Sql, maxBytes: number): Promise<Portion> {
    return this.store.reading((connection) => connection.tuplesWithin(query, maxBytes), true);
  }

  run(query: Sql): Promise<number> {
    return this.store.reading((connection) => connection.run(query));
  }
}

function known(error: unknown): unknown {
  return error instanceof HiveError ? error.details.postgres : undefined;
}

/** The second number of an advisory lock; 0 and 1 have another meaning. Two locks may have the same token. */
function lifeOf({ name, token }: Lease): number {
  return 2 + (numberOf(`${name} ${token}`) % 2_000_000_000);
}

/** 48 bits of a hash: for telling texts apart as numbers. */
function numberOf(text: string): number {
  return createHash("sha256").update(text).digest().readUIntBE(0, 6);
}
