import { HiveError } from "../errors.ts";
import { byNumber, LEDGER_SET, type MigrationFile, type MigrationSet, migrationNumber } from "./migration-files.ts";

/** A row of hive_migrations. */
export interface MigrationRecord {
  name: string;
  set: string;
  checksum: string;
  appliedAt: string;
  adopted: boolean;
  seq: number;
  /** Of an adopted one: what reverting it has to know. */
  detail: AdoptionDetail | null;
}

export interface AdoptionDetail {
  tables: string[];
  /** Made by hive, since they were missing. */
  indexes: string[];
  /** Tables that had rows before hive came. */
  filled: string[];
}

export type AppliedMigration = MigrationRecord &
  ({ state: "ok"; file: MigrationFile } | { state: "altered"; file: MigrationFile } | { state: "missing" });

export interface History {
  /** In the order in which they were applied. */
  applied: AppliedMigration[];
  /** In the order in which they would be applied. */
  pending: MigrationFile[];
  /** Names of those pending that come before an applied one of their set. */
  outOfOrder: Set<string>;
  /** Names of hive's own that only a newer hive knows. */
  tooNew: string[];
}

/** What the files and the records say together. */
export function examine(sets: readonly MigrationSet[], records: readonly MigrationRecord[]): History {
  const files = new Map(sets.flatMap((set) => set.migrations).map((file) => [file.name, file]));
  const applied = [...records]
    .sort((a, b) => a.seq - b.seq)
    .map((record): AppliedMigration => {
      const file = files.get(record.name);
      if (!file) return { ...record, state: "missing" };
      return { ...record, state: file.checksum === record.checksum ? "ok" : "altered", file };
    });
  const done = new Set(records.map((record) => record.name));
  const outOfOrder = new Set<string>();
  for (const set of sets) {
    const last = set.migrations.filter((file) => done.has(file.name)).at(-1);
    for (const file of set.migrations) {
      if (last && !done.has(file.name) && byNumber(file.name, last.name) < 0) outOfOrder.add(file.name);
    }
  }
  const ledger = sets.find((set) => set.name === LEDGER_SET);
  return {
    applied,
    pending: [...files.values()].filter((file) => !done.has(file.name)),
    outOfOrder,
    tooNew: newerThan(
      ledger?.migrations.map((file) => file.name) ?? [],
      records.filter((record) => record.set === LEDGER_SET).map((record) => record.name),
    ),
  };
}

/** The recorded names that are beyond all known ones. */
export function newerThan(known: readonly string[], recorded: readonly string[]): string[] {
  const highest = Math.max(0, ...known.map(migrationNumber));
  return recorded.filter((name) => !known.includes(name) && migrationNumber(name) > highest);
}

export function ledgerTooNew(location: string, names: readonly string[]): HiveError {
  return new HiveError("LEDGER_TOO_NEW", `A newer hive has been at ${location}: it applied ${names.join(", ")}.`, {
    hint: "Upgrade this hive (npm install hive-migrate@latest); it does not touch what it does not know.",
    details: { migrations: [...names] },
  });
}

/**
 * @throws LEDGER_TOO_NEW, HISTORY_ALTERED (listing every migration that was altered or is missing)
 */
export function refuseBroken(history: History, location: string): void {
  if (history.tooNew.length > 0) throw ledgerTooNew(location, history.tooNew);
  const altered = history.applied.flatMap((one) => (one.state === "altered" ? [one] : []));
  const missing = history.applied.filter((one) => one.state === "missing");
  if (altered.length + missing.length === 0) return;
  const list = [
    ...altered.map((one) => `${one.name} was altered after it was applied (${one.file.path})`),
    ...missing.map((one) => `${one.name} was applied and is now missing (from ${one.set})`),
  ];
  throw new HiveError("HISTORY_ALTERED", `The history of ${location} is not what was applied: ${list.join("; ")}.`, {
    hint: "Restore the files as they were, or the mapping and folders that the config named; a change to the schema belongs in a new migration.",
    details: { altered: altered.map((one) => one.name), missing: missing.map((one) => one.name) },
  });
}
