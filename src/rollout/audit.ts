import { createHash } from "node:crypto";
import { isoTime } from "../clock.ts";
import type { Context } from "../context.ts";
import type { AuditEntry, AuditListResult, AuditVerifyResult } from "../results.ts";
import type { Row, Session, Transaction } from "../storage/port.ts";
import { sql } from "../storage/sql.ts";

export interface AuditRecord {
  /** What was done: `migrate up`, `flag`, `backfill`, `repair`, … */
  action: string;
  agent?: string | undefined;
  reason?: string | undefined;
  before?: unknown;
  after?: unknown;
}

const GENESIS = "0".repeat(64);

/**
 * Appends to the audit log in the transaction that makes the change, so that neither exists without the other.
 * Each entry is hashed (SHA-256) over its content and the hash of the one before it.
 */
export async function audit(tx: Transaction, context: Context, record: AuditRecord): Promise<void> {
  // Each entry is hashed over the one before it: one after the other.
  await tx.serialize(["hive_audit"]);
  const last = (await tx.all(sql`SELECT seq, hash FROM hive_audit ORDER BY seq DESC LIMIT 1`))[0];
  const entry = {
    seq: Number(last?.seq ?? 0) + 1,
    at: isoTime(context.clock),
    actor: context.actor,
    action: record.action,
    agent: record.agent ?? null,
    reason: record.reason ?? null,
    before: record.before === undefined ? null : JSON.stringify(record.before),
    after: record.after === undefined ? null : JSON.stringify(record.after),
    previous_hash: last ? String(last.hash) : GENESIS,
  };
  await tx.run(sql`INSERT INTO hive_audit (seq, at, actor, action, agent, reason, before, after, previous_hash, hash)
    VALUES (${entry.seq}, ${entry.at}, ${entry.actor}, ${entry.action}, ${entry.agent}, ${entry.reason},
            ${entry.before}, ${entry.after}, ${entry.previous_hash}, ${hashOf(entry)})`);
}

function hashOf(row: Row | Record<string, string | number | null>): string {
  const fields = ["seq", "at", "actor", "action", "agent", "reason", "before", "after", "previous_hash"];
  return createHash("sha256")
    .update(JSON.stringify(fields.map((field) => (row[field] === undefined ? null : row[field]))))
    .digest("hex");
}

export interface AuditFilter {
  agent?: string;
  action?: string;
  /** The newest so many. */
  limit?: number;
}

/** Newest last. */
export async function listAudit(session: Session, filter: AuditFilter = {}): Promise<AuditListResult> {
  const rows = await session.all(sql`SELECT * FROM (
      SELECT * FROM hive_audit
      WHERE ${filter.agent === undefined ? sql`1 = 1` : sql`agent = ${filter.agent}`}
        AND ${filter.action === undefined ? sql`1 = 1` : sql`action = ${filter.action}`}
      ORDER BY seq DESC LIMIT ${filter.limit ?? 1_000_000_000}) AS newest ORDER BY seq`);
  return { entries: rows.map(toEntry) };
}

function toEntry(row: Row): AuditEntry {
  return {
    seq: Number(row.seq),
    at: String(row.at),
    actor: String(row.actor),
    action: String(row.action),
    agent: row.agent === null ? null : String(row.agent),
    reason: row.reason === null ? null : String(row.reason),
    before: parsed(row.before),
    after: parsed(row.after),
    hash: String(row.hash),
  };
}

/** JSON of the ledger. What somebody made of it by hand is shown as it is, rather than nothing at all. */
export function parsed(value: unknown): unknown {
  if (value === null || value === undefined) return null;
  try {
    return JSON.parse(String(value));
  } catch {
    return String(value);
  }
}

const VERIFY_PAGE = 1_000;

/** Whether every entry still is what it was when it was written, and none is missing in between. */
export async function verifyAudit(session: Session): Promise<AuditVerifyResult> {
  let previous = GENESIS;
  let seq = 0;
  for (;;) {
    const rows = await session.all(sql`SELECT * FROM hive_audit WHERE seq > ${seq} ORDER BY seq LIMIT ${VERIFY_PAGE}`);
    if (rows.length === 0) return { ok: true, entries: seq, brokenAt: null, detail: `${seq} entries, unbroken` };
    for (const row of rows) {
      seq += 1;
      const broken = (detail: string): AuditVerifyResult => ({ ok: false, entries: seq, brokenAt: seq, detail });
      if (Number(row.seq) !== seq) return broken(`entry ${seq} is missing`);
      if (row.previous_hash !== previous) return broken(`entry ${seq} does not follow on the one before it`);
      if (row.hash !== hashOf(row)) return broken(`entry ${seq} was changed after it was written`);
      previous = String(row.hash);
    }
  }
}
