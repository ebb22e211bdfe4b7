import { isoTime } from "../clock.ts";
import type { Context } from "../context.ts";
import type { Session, Transaction, Tuple } from "../storage/port.ts";
import { among, sql } from "../storage/sql.ts";
import type { InvalidEvent } from "./event.ts";
import { putAside } from "./outbox.ts";

/** The first event of a subject that a subscriber is not done with: the others of this subject wait for it. */
export interface Head {
  readonly subject: string | null;
  readonly seq: number;
  /** Not before: milliseconds since the epoch. */
  readonly nextAt: number;
}

export interface DeadLetter {
  readonly seq: number;
  readonly reason: string;
  readonly attempts: number;
  /** JSON. */
  readonly event: string;
}

interface Undone {
  readonly seq: number;
  readonly subject: string | null;
  readonly state: "failed" | "waiting";
  readonly attempts: number;
  readonly nextAt: number;
  readonly error: string | null;
}

/** Events of one subject come one after the other; one without a subject is alone. */
export function lane(subject: string | null, seq: number): string {
  return subject === null ? `#${seq}` : `=${subject}`;
}

/** A subscriber's row is not as it was when it was read: it was replayed, redriven, expired or removed. */
export class Moved extends Error {}

/** What became of some events of a subscriber, to be written in one transaction. */
export class Outcome {
  /** All events up to this one were passed. */
  checkpoint: number;
  delivered = 0;
  failed = 0;
  /** Events that were looked at. */
  passed = 0;
  /** What is to be delivered later. */
  private readonly undone = new Map<number, Undone>();
  /** What was, and is settled now. */
  private readonly settled: number[] = [];
  private readonly dead: DeadLetter[] = [];
  private readonly invalid: InvalidEvent[] = [];
  /** Lanes in which one failed: what follows waits. */
  readonly stopped = new Set<string>();
  /** Lanes that begin or end to wait. */
  private readonly heads = new Map<string, Head | null>();
  private readonly known: ReadonlyMap<string, Head>;

  constructor(known: ReadonlyMap<string, Head>, checkpoint: number) {
    this.known = known;
    this.checkpoint = checkpoint;
  }

  get isEmpty(): boolean {
    return this.passed === 0;
  }

  pass(seq: number): void {
    this.passed += 1;
    this.checkpoint = Math.max(this.checkpoint, seq);
  }

  isBlocked(key: string): boolean {
    const own = this.heads.get(key);
    return own === undefined ? this.known.has(key) : own !== null;
  }

  wait(seq: number, subject: string | null): void {
    this.undone.set(seq, { seq, subject, state: "waiting", attempts: 0, nextAt: 0, error: null });
  }

  done(): void {
    this.delivered += 1;
  }

  /** It waited among the undone, and does so no more; `then` stands first in its lane now, or nothing. */
  settle(seq: number, key: string, then: Head | null): void {
    this.passed += 1;
    this.settled.push(seq);
    this.heads.set(key, then);
  }

  retry(event: Omit<Undone, "state">): void {
    this.failed += 1;
    this.undone.set(event.seq, { ...event, state: "failed" });
    const key = lane(event.subject, event.seq);
    this.heads.set(key, event);
    this.stopped.add(key);
  }

  /** Given up. */
  bury(letter: DeadLetter): void {
    this.failed += 1;
    this.dead.push(letter);
  }

  /** No event at all, for any subscriber. */
  refuse(event: InvalidEvent): void {
    this.invalid.push(event);
  }

  /** Once it is certain to be written: what blocks the lanes after it. */
  mergeInto(heads: Map<string, Head>, stopped: Set<string>): void {
    for (const key of this.stopped) stopped.add(key);
    for (const [key, head] of this.heads) {
      if (head === null) heads.delete(key);
      else heads.set(key, head);
    }
  }

  /** @throws Moved where somebody else has changed where the subscriber stands; nothing is to be kept then */
  async write(tx: Transaction, context: Context, name: string, epoch: number): Promise<void> {
    const kept =
      await tx.run(sql`UPDATE hive_subscribers SET checkpoint = ${this.checkpoint}, seen_at = ${isoTime(context.clock)},
        delivered = delivered + ${this.delivered}, failed = failed + ${this.failed}
      WHERE name = ${name} AND epoch = ${epoch} AND state = 'active'`);
    if (kept === 0) throw new Moved();
    await deleteUndone(tx, name, [...this.settled, ...this.undone.keys()]);
    const rows: Tuple[] = [];
    for (const one of this.undone.values()) {
      const { seq, subject, state, attempts, nextAt, error } = one;
      rows.push([name, BigInt(seq), subject, state, BigInt(attempts), BigInt(nextAt), error]);
    }
    if (rows.length > 0) {
      await tx.insert(
        "hive_deliveries",
        ["subscriber", "seq", "subject", "state", "attempts", "next_at", "error"],
        rows,
      );
    }
    for (const letter of this.dead) await writeDeadLetter(tx, context, name, letter);
    await putAside(tx, context, this.invalid);
  }
}

async function writeDeadLetter(tx: Session, { clock }: Context, subscriber: string, letter: DeadLetter): Promise<void> {
  await tx.run(sql`INSERT INTO hive_dead_letters (subscriber, seq, state, at, reason, attempts, event)
    VALUES (${subscriber}, ${letter.seq}, 'dead', ${isoTime(clock)}, ${letter.reason}, ${letter.attempts}, ${letter.event})
    ON CONFLICT (subscriber, seq) DO UPDATE SET state = excluded.state, at = excluded.at, reason = excluded.reason,
      attempts = excluded.attempts, event = excluded.event`);
}

const KEYS_PER_STATEMENT = 500;

export async function deleteUndone(tx: Session, subscriber: string, seqs: readonly number[]): Promise<void> {
  for (let start = 0; start < seqs.length; start += KEYS_PER_STATEMENT) {
    const some = seqs.slice(start, start + KEYS_PER_STATEMENT);
    await tx.run(sql`DELETE FROM hive_deliveries WHERE subscriber = ${subscriber} AND seq IN ${among(some)}`);
  }
}

/** The lanes of this subscriber in which something waits. */
export async function readHeads(session: Session, subscriber: string): Promise<Map<string, Head>> {
  const rows = await session.all(sql`SELECT d.seq AS seq, d.subject AS subject, d.next_at AS next_at
    FROM hive_deliveries AS d JOIN (
      SELECT min(seq) AS seq FROM hive_deliveries WHERE subscriber = ${subscriber} AND subject IS NOT NULL GROUP BY subject
      UNION ALL SELECT seq FROM hive_deliveries WHERE subscriber = ${subscriber} AND subject IS NULL
    ) AS first ON first.seq = d.seq WHERE d.subscriber = ${subscriber}`);
  const heads = new Map<string, Head>();
  for (const row of rows) {
    const subject = row.subject === null ? null : String(row.subject);
    const seq = Number(row.seq);
    heads.set(lane(subject, seq), { subject, seq, nextAt: Number(row.next_at) });
  }
  return heads;
}

/** What waits in one lane, in its order. */
export async function readLane(
  session: Session,
  subscriber: string,
  { subject, seq }: Head,
  limit: number,
): Promise<{ seq: number; attempts: number }[]> {
  const where = subject === null ? sql`seq = ${seq}` : sql`subject = ${subject}`;
  const rows = await session.all(sql`SELECT seq, attempts FROM hive_deliveries
    WHERE subscriber = ${subscriber} AND ${where} ORDER BY seq LIMIT ${limit}`);
  return rows.map((row) => ({ seq: Number(row.seq), attempts: Number(row.attempts) }));
}
