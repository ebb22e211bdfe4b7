import { existsSync, readFileSync } from "node:fs";
import { hostname } from "node:os";
import { type Clock, isoTime } from "../clock.ts";
import { HiveError } from "../errors.ts";
import type { Lease, LockHolder, LockOptions, Row, Session } from "./port.ts";
import { type Sql, sql } from "./sql.ts";

/** What an adapter gives for its locks. */
export interface LeaseStorage {
  readonly read: Session;
  /** One write transaction of its own, ahead of all others, that asks for no lease. */
  write<T>(label: string, work: (tx: Session) => Promise<T>): Promise<T>;
  hasTable(session: Session): Promise<boolean>;
  /** Put behind a SELECT of the fence: keeps others from taking the lock over while the transaction runs. */
  readonly share?: Sql;
  /**
   * A condition for the UPDATE that prolongs a lease: not while another transaction of the holder keeps the row, which it
   * would wait for. That one, or the next sign of life, prolongs it then.
   */
  readonly unshared?: (name: string) => Sql;
  /** Statements that make the table `hive_locks` where it is missing. */
  readonly createTable: readonly Sql[];
  /**
   * A sign of life that ends with the process or its connection, whatever the lease says; undefined where there is none.
   * `show` keeps it up until the result is called.
   */
  readonly signOfLife?: {
    show(lease: Lease): Promise<() => Promise<void>>;
    isShown(lease: Lease): Promise<boolean>;
  };
}

/**
 * Locks among processes: a row for each name with a token that grows with every change of holder. A transaction of the
 * holder asks for its token, so that one which was stopped for too long can write no more: the fence.
 */
export class Leases {
  private readonly storage: LeaseStorage;
  private readonly clock: Clock;
  private readonly leaseMs: number;

  constructor(storage: LeaseStorage, clock: Clock, leaseMs: number) {
    this.storage = storage;
    this.clock = clock;
    this.leaseMs = leaseMs;
  }

  async withLock<T>(name: string, options: LockOptions, work: (lease: Lease) => Promise<T>): Promise<T> {
    const lease = await this.acquire(name, options);
    let hide: (() => Promise<void>) | undefined;
    try {
      hide = await this.storage.signOfLife?.show(lease);
      return await this.beating(lease, work);
    } finally {
      // The work is done, or its own error is the one to report; a lock that cannot be given back runs out.
      await this.release(lease).catch(() => undefined);
      await hide?.().catch(() => undefined);
    }
  }

  private async beating<T>(lease: Lease, work: (lease: Lease) => Promise<T>): Promise<T> {
    const beat = setInterval(() => {
      // The next transaction of the holder finds out for itself and reports it.
      void this.storage.write("heartbeat", (tx) => this.assertHeld(tx, lease)).catch(() => undefined);
    }, this.leaseMs / 3);
    try {
      return await work(lease);
    } finally {
      clearInterval(beat);
    }
  }

  private async acquire(name: string, options: LockOptions): Promise<Lease> {
    const { clock } = this;
    const deadline = clock.monotonic() + (options.timeoutMs ?? 0);
    let told = false;
    for (;;) {
      const holder = await this.holderOf(name);
      if (holder === null || !(await this.isAlive(holder))) {
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

  async lockHolder(name: string): Promise<LockHolder | null> {
    const known = await this.holderOf(name);
    if (known === null || !(await this.isAlive(known))) return null;
    const { holder, pid, host, since } = known;
    return { name, holder, pid, host, since };
  }

  private async holderOf(name: string): Promise<Held | null> {
    const session = this.storage.read;
    if (!(await this.storage.hasTable(session))) return null;
    try {
      const rows = await session.all(sql`SELECT * FROM hive_locks WHERE name = ${name} AND holder IS NOT NULL`);
      return rows[0] ? heldBy(name, rows[0]) : null;
    } catch (error) {
      // Migrating all the way down drops the table, perhaps just now.
      if (await this.storage.hasTable(session)) throw error;
      return null;
    }
  }

  async holders(): Promise<number> {
    const session = this.storage.read;
    if (!(await this.storage.hasTable(session))) return 0;
    const rows = await session.all(
      sql`SELECT count(DISTINCT host || ' ' || pid) AS n FROM hive_locks
          WHERE holder IS NOT NULL AND expires_at > ${this.clock.now()}`,
    );
    return Number(rows[0]?.n);
  }

  /** A killed process on this machine is known at once; one that froze, or is elsewhere, when its lease is over. */
  private async isAlive(
    held: Pick<Held, "name" | "pid" | "host" | "started" | "expiresAt" | "token">,
  ): Promise<boolean> {
    if (held.host === hostname() && processStart(held.pid) !== held.started) return false;
    if (held.expiresAt <= this.clock.now()) return false;
    const { signOfLife } = this.storage;
    // Just taken, and not shown yet: it counts as alive for a moment.
    const young = held.expiresAt > this.clock.now() + this.leaseMs * 0.9;
    return signOfLife === undefined || young || (await signOfLife.isShown(held));
  }

  /** Null when another process was quicker. */
  private take(name: string, purpose: string): Promise<Lease | null> {
    const { clock, leaseMs } = this;
    return this.storage.write(`lock ${name}`, async (tx) => {
      if (!(await this.storage.hasTable(tx))) for (const statement of this.storage.createTable) await tx.run(statement);
      const row = (await tx.all(sql`SELECT * FROM hive_locks WHERE name = ${name}`))[0];
      if (row && row.holder !== null && (await this.isAlive(heldBy(name, row)))) return null;
      // Starts at the time, not at 1: the table may have been dropped since an older holder froze.
      const token = row ? Number(row.token) + 1 : clock.now();
      // A transaction of the holder may have prolonged it while this one waited for the row.
      const taken =
        await tx.run(sql`INSERT INTO hive_locks (name, token, holder, pid, host, process_started, since, expires_at)
        VALUES (${name}, ${token}, ${purpose}, ${process.pid}, ${hostname()}, ${processStart(process.pid)}, ${isoTime(clock)}, ${clock.now() + leaseMs})
        ON CONFLICT (name) DO UPDATE SET token = excluded.token, holder = excluded.holder, pid = excluded.pid,
          host = excluded.host, process_started = excluded.process_started, since = excluded.since, expires_at = excluded.expires_at
        WHERE hive_locks.token = ${row?.token ?? null} AND hive_locks.expires_at = ${row?.expires_at ?? null}`);
      return taken > 0 ? { name, token } : null;
    });
  }

  /** Inside a write transaction: the fence. Nobody else can take the lock over before this transaction ends. */
  async assertHeld(tx: Session, lease: Lease): Promise<void> {
    if (!(await this.renew(tx, lease))) throw lost(lease);
  }

  /**
   * As `assertHeld`, but it only reads: until when it is held (milliseconds since the epoch), as far as {@link keep} has
   * not prolonged it.
   */
  async held(tx: Session, lease: Lease): Promise<number> {
    try {
      const expires = await this.expiry(tx, lease);
      if (expires !== null) return expires;
    } catch (error) {
      if (await this.storage.hasTable(this.storage.read)) throw error;
    }
    throw lost(lease);
  }

  /** Inside a write transaction, after `held`: prolongs what would soon be over. */
  async keep(tx: Session, lease: Lease, expires: number): Promise<void> {
    if (!this.isFresh(expires)) await this.prolong(tx, lease);
  }

  /** As `assertHeld`, in one query: where a transaction that fails in it is of no more use anyway. */
  async fence(tx: Session, lease: Lease): Promise<void> {
    let held: boolean;
    try {
      held = await this.renewKnown(tx, lease);
    } catch (error) {
      if (await this.storage.hasTable(this.storage.read)) throw error;
      held = false;
    }
    if (!held) throw lost(lease);
  }

  /** False if somebody else holds it, or if the table is gone: migrating all the way down drops it. */
  async renew(tx: Session, lease: Lease): Promise<boolean> {
    if (!(await this.storage.hasTable(tx))) return false;
    return this.renewKnown(tx, lease);
  }

  /** As `renew`, where the table is there. */
  private async renewKnown(tx: Session, lease: Lease): Promise<boolean> {
    const expires = await this.expiry(tx, lease);
    if (expires === null || this.isFresh(expires)) return expires !== null;
    return (await this.prolong(tx, lease)) || this.storage.unshared !== undefined;
  }

  /** Null where somebody else holds it. */
  private async expiry(tx: Session, { name, token }: Lease): Promise<number | null> {
    const [held] = await tx.all(
      sql`SELECT expires_at FROM hive_locks WHERE name = ${name} AND token = ${token}${this.storage.share ?? sql``}`,
    );
    return held === undefined ? null : Number(held.expires_at);
  }

  /** Nothing is written while most of it is left: every page written is lock time. */
  private isFresh(expires: number): boolean {
    return expires > this.clock.now() + this.leaseMs * 0.7;
  }

  private async prolong(tx: Session, { name, token }: Lease): Promise<boolean> {
    const { clock, leaseMs, storage } = this;
    const unshared = storage.unshared?.(name) ?? sql``;
    const renewed = await tx.run(
      sql`UPDATE hive_locks SET expires_at = ${clock.now() + leaseMs} WHERE name = ${name} AND token = ${token}${unshared}`,
    );
    return renewed > 0;
  }

  private async release(lease: Lease): Promise<void> {
    await this.storage.write(`unlock ${lease.name}`, async (tx) => {
      // Migrating all the way down drops the table together with the lock.
      if (!(await this.storage.hasTable(tx))) return;
      await tx.run(
        sql`UPDATE hive_locks SET holder = NULL, expires_at = 0 WHERE name = ${lease.name} AND token = ${lease.token}`,
      );
    });
  }
}

function lost(lease: Lease): HiveError {
  return new HiveError("LOCK_LOST", `Another process has taken over the lock "${lease.name}" from this one.`, {
    hint: "This process was stopped for too long. Nothing of its last step was written; run the command again.",
    details: { lock: lease.name },
  });
}

interface Held extends LockHolder {
  token: number;
  expiresAt: number;
  started: string;
}

function heldBy(name: string, row: Row): Held {
  return {
    name,
    token: Number(row.token),
    holder: String(row.holder),
    pid: Number(row.pid),
    host: String(row.host),
    since: String(row.since),
    started: String(row.process_started),
    expiresAt: Number(row.expires_at),
  };
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
