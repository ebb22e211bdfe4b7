import { HiveError } from "../errors.ts";
import type { Session, Store } from "../storage/port.ts";
import { sql } from "../storage/sql.ts";
import { ledgerTooNew, type MigrationRecord, newerThan } from "./history.ts";
import { LEDGER_SET, ledgerNames } from "./migration-files.ts";

/** Made by the migrator itself: the first migration is recorded in it. */
export async function createMigrationsTable(tx: Session): Promise<void> {
  for (const statement of tx.dialect.beforeLedger) await tx.run(statement);
  await tx.run(sql`CREATE TABLE IF NOT EXISTS ${tx.dialect.ledger}hive_migrations (
    name TEXT PRIMARY KEY NOT NULL,
    set_name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at TEXT NOT NULL,
    duration_ms INTEGER NOT NULL,
    adopted INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    detail TEXT
  )`);
}

/** Whether hive's own tables are there. */
export async function hasLedger(store: Store, session: Session = store.read): Promise<boolean> {
  return (await store.table("hive_audit", session)) !== null;
}

/**
 * @throws NOT_MIGRATED before `hive migrate up`, LEDGER_TOO_NEW when a newer hive has been at the database
 */
export async function requireLedger(store: Store, session: Session = store.read): Promise<void> {
  if (await hasLedger(store, session)) {
    await assertLedgerKnown(store, session);
    if ((await store.table("hive_changes", session)) !== null) return;
    throw new HiveError("NOT_MIGRATED", `hive's own tables in ${store.location} are those of an older hive.`, {
      hint: "Run `hive migrate up` first: it adds what is missing and changes nothing else.",
    });
  }
  throw new HiveError("NOT_MIGRATED", `${store.location} has no hive tables yet.`, {
    hint: "Run `hive migrate up` first.",
  });
}

/**
 * This hive knows every migration of hive's own tables that the database has. Cheap: reads no file.
 * @throws LEDGER_TOO_NEW
 */
export async function assertLedgerKnown(store: Store, session: Session = store.read): Promise<void> {
  if ((await store.table("hive_migrations", session)) === null) return;
  const rows = await session.all(sql`SELECT name FROM hive_migrations WHERE set_name = ${LEDGER_SET}`);
  const newer = newerThan(
    ledgerNames(store.dialect.name),
    rows.map((row) => String(row.name)),
  );
  if (newer.length > 0) throw ledgerTooNew(store.location, newer);
}

/** The records of the applied migrations, oldest first; none on a database that hive has never touched. */
export async function migrationRecords(store: Store, session: Session = store.read): Promise<MigrationRecord[]> {
  if ((await store.table("hive_migrations", session)) === null) return [];
  const rows = await session.all(sql`SELECT * FROM hive_migrations ORDER BY seq`);
  return rows.map((row) => ({
    name: String(row.name),
    set: String(row.set_name),
    checksum: String(row.checksum),
    appliedAt: String(row.applied_at),
    adopted: Number(row.adopted) === 1,
    seq: Number(row.seq),
    detail: row.detail === null || row.detail === undefined ? null : JSON.parse(String(row.detail)),
  }));
}
