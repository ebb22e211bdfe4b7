import { mkdir, writeFile } from "node:fs/promises";
import { isAbsolute, join, relative, sep } from "node:path";
import { isoTime } from "../clock.ts";
import { type Context, lockOptions } from "../context.ts";
import { HiveError, nearest } from "../errors.ts";
import type { MigrateDownOptions, MigrateUpOptions } from "../hive.ts";
import type { MigrateCreateResult, MigrateDownResult, MigrateStatusResult, MigrateUpResult } from "../results.ts";
import { audit, listAudit } from "../rollout/audit.ts";
import type { Session, Transaction } from "../storage/port.ts";
import { id, sql } from "../storage/sql.ts";
import type { Adoption } from "../sync/mapping.ts";
import { type AdoptionDecision, decideAdoption } from "./adoption.ts";
import { type AdoptionDetail, type AppliedMigration, examine, type History, refuseBroken } from "./history.ts";
import { createMigrationsTable, migrationRecords } from "./ledger.ts";
import {
  folderPath,
  LEDGER_SET,
  loadMigrations,
  type MigrationFile,
  type MigrationSet,
  nextNumber,
  type Sections,
  sectionsOf,
} from "./migration-files.ts";
import { isRegistered, register, summary, unregistered } from "./registration.ts";
import { SavedTable } from "./saved-table.ts";

const LOCK = "migrate";
/** The migration of hive's own that makes the table of events. */
const EVENTS = "0004_hive_events";
const MANY = 1_000;

/**
 * What was applied and what would be. Reads only, also on a database that hive has never touched.
 * @throws CONFIG_INVALID, MAPPING_INVALID, MIGRATION_INVALID (names only: no file is parsed)
 */
export async function migrateStatus(context: Context): Promise<MigrateStatusResult> {
  const sets = loadMigrations(context);
  const records = await context.store.snapshot((session) => migrationRecords(context.store, session));
  const history = examine(sets, records);
  return {
    current: currentOf(history),
    head: history.applied.length > 0 && history.pending.length === 0,
    applied: history.applied.map(({ name, appliedAt, state, adopted }) => ({ name, appliedAt, state, adopted })),
    pending: history.pending.map((file) => file.name),
    outOfOrder: [...history.outOfOrder],
    newer: [...history.tooNew],
  };
}

function currentOf(history: History): string | null {
  return history.applied.at(-1)?.name ?? null;
}

// ---------------------------------------------------------------------------------------------------------------- up

interface UpStep {
  file: MigrationFile;
  sections: Sections;
  adoption: Adoption | undefined;
  /** As the database was when this was planned; decided again when it is applied. */
  decision: AdoptionDecision;
}

interface UpPlan {
  history: History;
  steps: UpStep[];
}

/**
 * Applies the pending migrations in order: hive's own, the mapping's, the user's. Each is one transaction that also
 * holds its record and its audit entry: after any interruption it is there with its record, or not at all. Everything
 * that can be refused is refused before anything is written. Also registers the mapping's agents and event types
 * where the ledger does not have them yet. With nothing to do it writes nothing and takes no lock.
 * @throws USAGE, UNKNOWN_NAME, MIGRATION_INVALID, HISTORY_ALTERED (also out of order), LEDGER_TOO_NEW, SCHEMA_MISMATCH,
 * MIGRATION_FAILED with `details.applied` and `details.pending`, LOCK_HELD, INTERRUPTED
 */
export async function migrateUp(context: Context, options: MigrateUpOptions = {}): Promise<MigrateUpResult> {
  const { store } = context;
  checkSteps(options);
  const sets = loadMigrations(context);
  const plan = () => store.snapshot((session) => planUp(context, session, sets, options));
  const preview = await plan();
  if (options.dryRun) {
    return {
      applied: [],
      adopted: preview.steps.filter((step) => step.decision.kind === "adopt").map((step) => step.file.name),
      pending: preview.history.pending.map((file) => file.name),
      sql: preview.steps.map((step) => ({ name: step.file.name, sql: upSql(step) })),
    };
  }
  if (preview.steps.length === 0 && isRegistered(await unregistered(store, store.read, context.mapping))) {
    return { applied: [], adopted: [], pending: preview.history.pending.map((file) => file.name) };
  }
  const journalBefore = await store.journalMode();
  return store.withLock(LOCK, lockOptions(context, options, "hive migrate up"), async () => {
    const journal = changed(journalBefore, await store.journalMode());
    // Another hive may have done it while this one waited.
    const { history, steps } = await plan();
    const result: MigrateUpResult = { applied: [], adopted: [], pending: [] };
    await runInOrder(context, "up", sets, steps, options, async (step) => {
      const begun = context.clock.monotonic();
      const first = result.applied.length + result.adopted.length === 0;
      const adopted = await applyOne(context, step, options, first ? journal : null);
      if (adopted) result.adopted.push(step.file.name);
      else result.applied.push({ name: step.file.name, durationMs: since(context, begun) });
    });
    await registerRest(context, options);
    const done = new Set(steps.map((step) => step.file.name));
    result.pending = history.pending.map((file) => file.name).filter((name) => !done.has(name));
    if (journal) result.journalMode = journal;
    return result;
  });
}

async function planUp(
  context: Context,
  session: Session,
  sets: readonly MigrationSet[],
  options: MigrateUpOptions,
): Promise<UpPlan> {
  const { store, mapping } = context;
  const history = examine(sets, await migrationRecords(store, session));
  refuseBroken(history, store.location);
  let files = history.pending;
  if (options.to !== undefined) {
    const order = sets.flatMap((set) => set.migrations).map((file) => file.name);
    const last = order.indexOf(known(options.to, order));
    files = files.filter((file) => order.indexOf(file.name) <= last);
  }
  if (options.step !== undefined) files = files.slice(0, options.step);
  const late = files.map((file) => file.name).filter((name) => history.outOfOrder.has(name));
  if (late.length > 0 && options.allowOutOfOrder !== true) {
    throw new HiveError(
      "HISTORY_ALTERED",
      `Out of order: ${late.join(", ")} would be applied after migrations that were written to come later.`,
      {
        hint: "Give the file a number beyond the last applied one, or apply it all the same with --allow-out-of-order.",
        details: { outOfOrder: late, current: currentOf(history) },
      },
    );
  }
  const adoptions = new Map((mapping.adopts ?? []).map((adoption) => [adoption.migration, adoption]));
  for (const name of adoptions.keys()) {
    if (!sets.some((set) => set.kind === "mapping" && set.migrations.some((file) => file.name === name))) {
      throw new HiveError("MAPPING_INVALID", `The mapping adopts migration ${name}, which its folder does not have.`, {
        hint: "Correct `adopts[].migration` of the mapping.",
        details: { migration: name },
      });
    }
  }
  const steps: UpStep[] = [];
  for (const file of files) {
    const sections = sectionsOf(file);
    const adoption = adoptions.get(file.name);
    const decision: AdoptionDecision = adoption
      ? await decideAdoption(store, session, adoption, file, sections)
      : { kind: "run" };
    steps.push({ file, sections, adoption, decision });
  }
  return { history, steps };
}

/**
 * A database that hive has never touched and that has nothing of what the mapping reads is most likely not the one that
 * was meant: hive's tables would be made in somebody else's.
 * @throws SCHEMA_MISMATCH
 */
export async function refuseStrangeDatabase({ store, mapping }: Context): Promise<void> {
  const session = store.read;
  if ((await store.table("hive_migrations", session)) !== null) return;
  const wanted = mapping.aggregates.map(({ legacy }) => legacy.root.table);
  for (const table of wanted) if ((await store.table(table, session)) !== null) return;
  const there = await store.tables(session);
  throw new HiveError(
    "SCHEMA_MISMATCH",
    there.length === 0
      ? `${store.location} has no tables: there is nothing to migrate.`
      : `${store.location} has none of the tables that the mapping "${mapping.name}" reads: ${wanted.join(", ")}.`,
    {
      hint: "Check that --database names the right database, and that the mapping is the one for it. Nothing was written.",
      details: { wanted, tables: there.slice(0, 20) },
    },
  );
}

function upSql(step: UpStep): string {
  if (step.decision.kind === "run") return step.sections.up;
  const { missingIndexes } = step.decision;
  return [
    `-- adopted: the tables are there already (${step.adoption?.table} ${step.adoption?.version})`,
    ...missingIndexes.map((index) => index.statement),
  ].join("\n");
}

type JournalChange = NonNullable<MigrateUpResult["journalMode"]>;

function changed(from: string | null, to: string | null): JournalChange | null {
  return from === null || to === null || from === to ? null : { from, to };
}

/** The mode that the file had before hive came, if the audit log says that hive changed it. */
async function journalBeforeHive({ store }: Context): Promise<string | null> {
  if ((await store.table("hive_audit")) === null) return null;
  for (const { after } of (await listAudit(store.read, { action: "migrate up" })).entries) {
    if (typeof after !== "object" || after === null || !("journalMode" in after)) continue;
    const { journalMode } = after;
    if (typeof journalMode !== "object" || journalMode === null || !("from" in journalMode)) continue;
    return typeof journalMode.from === "string" ? journalMode.from : null;
  }
  return null;
}

/** Whether it was adopted. */
async function applyOne(
  context: Context,
  step: UpStep,
  options: MigrateUpOptions,
  journal: JournalChange | null,
): Promise<boolean> {
  const { store, clock } = context;
  const { file, sections, adoption } = step;
  return store.transaction(
    `migrate up ${file.name}`,
    async (tx) => {
      const begun = clock.monotonic();
      await createMigrationsTable(tx);
      const decision: AdoptionDecision = adoption
        ? await decideAdoption(store, tx, adoption, file, sections)
        : { kind: "run" };
      let detail: AdoptionDetail | null = null;
      if (decision.kind === "run") await tx.script(sections.up);
      else {
        for (const index of decision.missingIndexes) await tx.script(index.statement);
        detail = {
          tables: [...(adoption?.tables ?? [])],
          indexes: decision.missingIndexes.map((index) => index.name),
          filled: decision.filled,
        };
      }
      const last = (await tx.all(sql`SELECT name, seq FROM hive_migrations ORDER BY seq DESC LIMIT 1`))[0];
      await tx.run(sql`INSERT INTO hive_migrations (name, set_name, checksum, applied_at, duration_ms, adopted, seq, detail)
      VALUES (${file.name}, ${file.set}, ${file.checksum}, ${isoTime(clock)}, ${Math.round(clock.monotonic() - begun)},
              ${detail !== null}, ${Number(last?.seq ?? 0) + 1}, ${detail === null ? null : JSON.stringify(detail)})`);
      const missing = await unregistered(store, tx, context.mapping);
      await register(tx, context, missing);
      if ((await store.table("hive_audit", tx)) !== null) {
        await audit(tx, context, {
          action: "migrate up",
          reason: options.reason,
          before: { current: last?.name ?? null },
          after: {
            current: file.name,
            set: file.set,
            checksum: file.checksum,
            ...(detail === null ? {} : { adopted: detail }),
            ...(isRegistered(missing) ? {} : { registered: summary(missing) }),
            ...(journal && { journalMode: journal }),
          },
        });
      }
      return detail !== null;
    },
    { exclusive: true },
  );
}

/** A mapping that has more agents or event types than when the ledger was made. */
async function registerRest(context: Context, options: MigrateUpOptions): Promise<void> {
  const { store, mapping } = context;
  if (isRegistered(await unregistered(store, store.read, mapping))) return;
  await store.transaction("migrate up registrations", async (tx) => {
    const missing = await unregistered(store, tx, mapping);
    await register(tx, context, missing);
    await audit(tx, context, { action: "register", reason: options.reason, after: summary(missing) });
  });
}

// -------------------------------------------------------------------------------------------------------------- down

interface DownStep {
  file: MigrationFile;
  record: AppliedMigration;
  /** Null for an adopted one: its tables are emptied instead. */
  down: string | null;
}

interface DownPlan {
  history: History;
  steps: DownStep[];
}

/**
 * Reverts the newest migration; `step` of them; all down to `to`, inclusive; or everything (`to: "0"`), after which
 * nothing of hive's is left in the database. No legacy row is touched. Each is one transaction that also removes its
 * record. Tables that another tool made (an adopted migration) are emptied and stay.
 *
 * Before the ledger goes, its audit log is saved beside the database file, on PostgreSQL beside the config
 * (`auditSavedTo`, JSON lines of the table's columns), and so is whatever `hive_kept` holds (`keptSavedTo`). After it, the database file keeps its journal again
 * as it did before hive came, unless others have it open (`journalMode`).
 * @throws STILL_IN_USE while an agent's stage is not off, unless only the user's own migrations are reverted;
 * GUARD_REFUSED (`force` with a reason overrides it) while rows would be lost that exist nowhere else; NO_DOWN,
 * HISTORY_ALTERED, LEDGER_TOO_NEW, UNKNOWN_NAME, USAGE, MIGRATION_FAILED, LOCK_HELD, INTERRUPTED
 */
export async function migrateDown(context: Context, options: MigrateDownOptions = {}): Promise<MigrateDownResult> {
  const { store } = context;
  checkSteps(options);
  if (options.force && !options.reason?.trim()) {
    throw new HiveError("USAGE", "--force needs a reason.", { hint: "Add --reason TEXT: it goes into the audit log." });
  }
  const sets = loadMigrations(context);
  const plan = () => store.snapshot((session) => planDown(context, session, sets, options));
  const preview = await plan();
  if (options.dryRun) {
    return {
      reverted: [],
      current: currentOf(preview.history),
      sql: preview.steps.map((step) => ({ name: step.record.name, sql: downSql(step) })),
    };
  }
  if (preview.steps.length === 0 && !(await hasRemains(context, preview.history))) {
    return { reverted: [], current: currentOf(preview.history) };
  }
  const { result, former } = await store.withLock(
    LOCK,
    lockOptions(context, options, "hive migrate down"),
    async () => {
      const { history, steps } = await plan();
      const former = await journalBeforeHive(context);
      const result: MigrateDownResult = { reverted: [], current: currentOf(history) };
      await runInOrder(context, "down", sets, steps, options, async (step) => {
        const begun = context.clock.monotonic();
        const previous = history.applied[history.applied.indexOf(step.record) - 1]?.name ?? null;
        const saved = await revertOne(context, step, previous, options);
        result.reverted.push({ name: step.record.name, durationMs: since(context, begun) });
        result.current = previous;
        Object.assign(result, saved);
      });
      if (history.applied.length === 0)
        await store.transaction("migrate down remains", dropOwnTables, { exclusive: true });
      return { result, former };
    },
  );
  if (former === null || result.current !== null) return result;
  const now = await store.journalMode();
  if (now === null || now === former) return result;
  return { ...result, journalMode: { from: now, to: (await store.restoreJournalMode(former)) ?? now } };
}

/** Left by a `migrate up` that ended before its first migration did. */
async function hasRemains({ store }: Context, history: History): Promise<boolean> {
  if (history.applied.length > 0) return false;
  return (await store.table("hive_locks")) !== null || (await store.table("hive_migrations")) !== null;
}

async function planDown(
  context: Context,
  session: Session,
  sets: readonly MigrationSet[],
  options: MigrateDownOptions,
): Promise<DownPlan> {
  const { store } = context;
  const history = examine(sets, await migrationRecords(store, session));
  refuseBroken(history, store.location);
  const newestFirst = history.applied.toReversed();
  let records = newestFirst.slice(0, options.step ?? (options.to === undefined ? 1 : undefined));
  if (options.to !== undefined && options.to !== "0") {
    const names = [...sets.flatMap((set) => set.migrations).map((file) => file.name), "0"];
    const last = newestFirst.findIndex((record) => record.name === known(options.to ?? "", names));
    records = newestFirst.slice(0, last + 1);
  }
  const steps: DownStep[] = [];
  const stuck: string[] = [];
  for (const record of records) {
    if (record.state !== "ok") continue;
    const { down } = sectionsOf(record.file);
    if (down === null && record.detail === null) stuck.push(record.name);
    steps.push({ file: record.file, record, down: record.detail === null ? down : null });
  }
  if (stuck.length > 0) {
    throw new HiveError(
      "NO_DOWN",
      `${stuck.join(", ")} cannot be reverted: no \`-- migrate:down\` section with a statement.`,
      {
        hint: "Nothing was reverted. Write a new migration that undoes it, or go down only to the one after it with --to.",
        details: { migrations: stuck },
      },
    );
  }
  await refuseLoss(context, session, steps, steps.length === history.applied.length, options);
  return { history, steps };
}

/**
 * Asked when planned and again inside each transaction, since a flag may change in between.
 * @throws STILL_IN_USE, GUARD_REFUSED
 */
async function refuseLoss(
  context: Context,
  session: Session,
  steps: readonly DownStep[],
  dropsLedger: boolean,
  options: MigrateDownOptions,
): Promise<void> {
  const { store } = context;
  if (steps.every((step) => step.file.kind === "user")) return;
  if ((await store.table("hive_flags", session)) !== null) {
    const rows = await session.all(sql`SELECT agent, flag, value FROM hive_flags
      WHERE (flag = 'dual-write' AND value = 'on') OR (flag = 'reads' AND value <> 'legacy') ORDER BY agent, flag`);
    const agents = new Map<string, string>();
    for (const row of rows) {
      const before = agents.get(String(row.agent));
      agents.set(String(row.agent), `${before === undefined ? "" : `${before}, `}${row.flag} ${row.value}`);
    }
    if (agents.size > 0) {
      const list = [...agents].map(([agent, flags]) => `${agent} (${flags})`);
      throw new HiveError("STILL_IN_USE", `The unified tables are still in use by ${list.join("; ")}.`, {
        hint: "Run `hive rollback` first: it takes the agents back to stage off without losing what they wrote.",
        details: { agents: [...agents.keys()] },
      });
    }
  }
  if (options.force) return;
  const lost: { what: string; hint: string }[] = [];
  const filled = steps.flatMap((step) =>
    (step.record.detail?.filled ?? []).map((table) => `${table} (${step.record.name})`),
  );
  if (filled.length > 0) {
    lost.push({
      what: `Rows that were there before hive came would be deleted: ${filled.join(", ")}.`,
      hint: "Reverting an adopted migration empties its tables.",
    });
  }
  let kept = 0;
  if (dropsLedger && (await store.table("hive_kept", session)) !== null) {
    kept = Number((await session.all(sql`SELECT count(*) AS n FROM hive_kept`))[0]?.n ?? 0);
  }
  if (kept > 0) {
    lost.push({
      what: `hive_kept holds ${kept} ${kept === 1 ? "aggregate" : "aggregates"} that no other table has.`,
      hint: "Look at them with `hive kept list`; they would be saved to a file and dropped.",
    });
  }
  let events = 0;
  if (steps.some((step) => step.record.name === EVENTS) && (await store.table("hive_events", session)) !== null) {
    // Counted no further than it takes to say that there are many.
    const most = sql`SELECT 1 AS one FROM hive_events LIMIT ${MANY}`;
    events = Number((await session.all(sql`SELECT count(*) AS n FROM (${most}) AS found`))[0]?.n ?? 0);
  }
  if (events > 0) {
    const count = events === MANY ? `${MANY} or more events` : events === 1 ? "1 event" : `${events} events`;
    lost.push({
      what: `hive_events holds ${count} that no other table has.`,
      hint: "Look at them with `hive events list`; with `--json` they can be saved. They would be dropped.",
    });
  }
  if (lost.length === 0) return;
  throw new HiveError("GUARD_REFUSED", lost.map(({ what }) => what).join(" "), {
    hint: `${lost.map(({ hint }) => hint).join(" ")} If they may go, add --force --reason TEXT.`,
    details: { ...(filled.length > 0 && { tables: filled }), ...(kept > 0 && { kept }), ...(events > 0 && { events }) },
  });
}

function downSql(step: DownStep): string {
  if (step.down !== null) return step.down;
  const { tables = [], indexes = [] } = step.record.detail ?? {};
  return [
    "-- adopted: the tables are another tool's and stay",
    ...tables.map((table) => `DELETE FROM ${table};`),
    ...indexes.map((index) => `DROP INDEX ${index};`),
  ].join("\n");
}

async function revertOne(
  context: Context,
  step: DownStep,
  previous: string | null,
  options: MigrateDownOptions,
): Promise<Pick<MigrateDownResult, "auditSavedTo" | "keptSavedTo">> {
  const { store } = context;
  const { record } = step;
  // What there is so far is saved ahead of the transaction, which then only has to add the last entries.
  const saved = previous === null ? await saveLedger(context) : [];
  try {
    await store.transaction(
      `migrate down ${record.name}`,
      async (tx) => {
        await refuseLoss(context, tx, [step], previous === null, options);
        if ((await store.table("hive_audit", tx)) !== null) {
          await audit(tx, context, {
            action: "migrate down",
            reason: options.reason,
            before: { current: record.name },
            after: {
              current: previous,
              ...(record.detail === null
                ? {}
                : { emptied: record.detail.tables, droppedIndexes: record.detail.indexes }),
            },
          });
        }
        for (const table of saved) await table.appendLast(tx);
        // Without the tables that they write to, triggers would fail every statement of the agents.
        if (record.set === LEDGER_SET) {
          const { dropTrigger, PREFIX } = await import("../storage/triggers.ts");
          for (const trigger of await store.triggers(PREFIX, tx)) await tx.script(dropTrigger(store.dialect, trigger));
          for (const statement of store.dialect.tidyCapture) await tx.run(statement);
        }
        if (step.down !== null) await tx.script(step.down);
        else {
          for (const table of record.detail?.tables ?? []) await tx.run(sql`DELETE FROM ${id(table)}`);
          for (const index of record.detail?.indexes ?? []) await tx.run(sql`DROP INDEX ${id(index)}`);
        }
        await tx.run(sql`DELETE FROM hive_migrations WHERE name = ${record.name}`);
        if (previous === null) await dropOwnTables(tx);
      },
      { exclusive: true },
    );
  } catch (error) {
    // Not if it was committed all the same: then the file is all there is.
    if ((await store.table("hive_audit")) !== null) for (const table of saved) await table.discard();
    throw error;
  }
  const [auditLog, kept] = saved;
  return {
    ...(auditLog ? { auditSavedTo: await auditLog.close() } : {}),
    ...(kept ? { keptSavedTo: await kept.close() } : {}),
  };
}

/** The audit log, and what was kept if there is anything. */
async function saveLedger(context: Context): Promise<SavedTable[]> {
  const { store, clock, settings } = context;
  if ((await store.table("hive_audit")) === null) return [];
  const beside = store.dialect.name === "sqlite" ? store.location : join(settings.baseDirectory, databaseName(store));
  const stamp = isoTime(clock).replace(/[-:]|\.\d+/g, "");
  const saved = [await SavedTable.create("hive_audit", `${beside}.hive-audit-${stamp}`)];
  try {
    await saved[0]?.append(store.read);
    if ((await store.table("hive_kept")) !== null) {
      if ((await store.read.all(sql`SELECT 1 AS one FROM hive_kept LIMIT 1`)).length > 0) {
        const kept = await SavedTable.create("hive_kept", `${beside}.hive-kept-${stamp}`);
        saved.push(kept);
        await kept.append(store.read);
      }
    }
    return saved;
  } catch (error) {
    for (const table of saved) await table.discard();
    throw error;
  }
}

/** Of a server's database, as a part of a file's name. */
function databaseName({ location }: Context["store"]): string {
  return new URL(location).pathname.slice(1).replaceAll(/[^\w.-]/g, "_") || "database";
}

async function dropOwnTables(tx: Transaction): Promise<void> {
  await tx.run(sql`DROP TABLE IF EXISTS hive_migrations`);
  await tx.run(sql`DROP TABLE IF EXISTS hive_locks`);
  for (const statement of tx.dialect.afterLedger) await tx.run(statement);
}

// ------------------------------------------------------------------------------------------------------------ create

const TEMPLATE = `-- migrate:up
-- The change. hive runs this section in one transaction together with its record: leave out BEGIN and COMMIT.


-- migrate:down
-- What undoes it. Without a statement here the migration cannot be reverted.

`;

/**
 * Writes a new migration file, numbered after the last one of the folder: `folder`, else the first of the config's
 * `migrations`, else ./migrations (relative to the config). Makes the folder if need be, and never overwrites a file.
 * @throws USAGE for a name that is none
 */
export async function migrateCreate(context: Context, name: string, folder?: string): Promise<MigrateCreateResult> {
  if (!/^[a-z][a-z0-9_]*$/.test(name)) {
    throw new HiveError("USAGE", `"${name}" cannot be the name of a migration.`, {
      hint: "Use lower-case letters, digits and _, beginning with a letter: add_customer_email.",
      details: { name },
    });
  }
  const { settings, store } = context;
  const path = folderPath(folder ?? settings.migrations[0] ?? "migrations", settings.baseDirectory);
  await mkdir(path, { recursive: true });
  for (;;) {
    const file = join(path, `${nextNumber(path)}_${name}.${store.dialect.name}.sql`);
    try {
      await writeFile(file, TEMPLATE, { flag: "wx" });
      return { files: [file], addFolder: isRead(context, path) ? null : fromBase(settings.baseDirectory, path) };
    } catch (error) {
      // Somebody else took the number: the next round sees their file.
      if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) throw error;
    }
  }
}

/** Whether `migrate up` looks into this folder. */
function isRead({ settings, mapping }: Context, path: string): boolean {
  const folders = [...settings.migrations, ...(mapping.migrations === undefined ? [] : [mapping.migrations])];
  return folders.some((folder) => folderPath(folder, settings.baseDirectory) === path);
}

/** As a config beside it would say it. */
function fromBase(base: string, path: string): string {
  const way = relative(base, path).split(sep).join("/");
  return way.startsWith("../") || isAbsolute(way) ? way : `./${way}`;
}

// ------------------------------------------------------------------------------------------------------------ common

/**
 * Runs the steps through umzug, which keeps their order and refuses what was done already. Its records are
 * hive_migrations, which each step writes in its own transaction.
 */
async function runInOrder<Step extends { file: MigrationFile }>(
  context: Context,
  direction: "up" | "down",
  sets: readonly MigrationSet[],
  steps: readonly Step[],
  options: MigrateUpOptions | MigrateDownOptions,
  run: (step: Step) => Promise<void>,
): Promise<void> {
  if (steps.length === 0) return;
  const { Umzug } = await import("umzug");
  const { store, clock } = context;
  const begun = clock.monotonic();
  const names = steps.map((step) => step.file.name);
  const done: string[] = [];
  let failure: unknown;
  const migrations = sets
    .flatMap((set) => set.migrations)
    .map(({ name }) => {
      const step = steps.find((one) => one.file.name === name);
      const change = async () => {
        try {
          if (!step) throw new HiveError("INTERNAL", `${name} is not part of the plan.`);
          if (options.abort?.aborted) {
            throw new HiveError("INTERRUPTED", `Interrupted before ${name}.`, {
              hint: "Run the command again to go on.",
            });
          }
          await run(step);
        } catch (error) {
          // umzug wraps errors: the first one is kept here.
          failure = explain(error, direction, name, done, names.slice(done.length));
          throw error;
        }
        done.push(name);
        const seconds = (clock.monotonic() - begun) / 1000;
        options.onProgress?.({
          operation: `migrate ${direction}`,
          done: done.length,
          total: names.length,
          perSecond: seconds > 0 ? done.length / seconds : 0,
          etaSeconds: (seconds / done.length) * (names.length - done.length),
          note: name,
        });
      };
      return { name, up: change, down: change };
    });
  const umzug = new Umzug({
    migrations,
    logger: undefined,
    storage: {
      executed: async () => (await migrationRecords(store)).map((record) => record.name),
      logMigration: async () => undefined,
      unlogMigration: async () => undefined,
    },
  });
  try {
    await umzug[direction]({ migrations: names });
  } catch (error) {
    throw failure ?? error;
  }
}

/** The error of one migration with what was done before it and what is left. */
function explain(
  error: unknown,
  direction: "up" | "down",
  name: string,
  done: readonly string[],
  left: readonly string[],
): unknown {
  if (!(error instanceof HiveError)) return error;
  const details = {
    ...error.details,
    migration: name,
    ...(direction === "up" ? { applied: [...done], pending: left } : { reverted: [...done], remaining: left }),
  };
  if (error.code === "DATABASE_FAILED" || error.code === "CONSTRAINT") {
    const before = done.length > 0 ? ` ${done.join(", ")} before it ${done.length > 1 ? "are" : "is"} done.` : "";
    return new HiveError("MIGRATION_FAILED", `Migration ${name} failed on the way ${direction}: ${error.message}`, {
      hint: `Nothing of it was written.${before} Correct it and run the command again.`,
      details,
      cause: error,
    });
  }
  return new HiveError(error.code, error.message, {
    ...(error.hint === undefined ? {} : { hint: error.hint }),
    details,
    cause: error,
  });
}

function checkSteps(options: { to?: string; step?: number }): void {
  if (options.step === undefined) return;
  if (options.to !== undefined) throw new HiveError("USAGE", "Use either --to or --step.");
  if (!Number.isSafeInteger(options.step) || options.step < 1) {
    throw new HiveError("USAGE", `--step ${options.step} is not a number from 1.`);
  }
}

/** @throws UNKNOWN_NAME with the nearest name */
function known(name: string, names: readonly string[]): string {
  if (names.includes(name)) return name;
  const guess = nearest(name, names);
  throw new HiveError("UNKNOWN_NAME", `There is no migration "${name}"${guess ? `; did you mean "${guess}"?` : "."}`, {
    hint: `The migrations are: ${names.filter((one) => one !== "0").join(", ")}.`,
    details: { name, nearest: guess ?? null },
  });
}

function since(context: Context, begun: number): number {
  return Math.round((context.clock.monotonic() - begun) * 10) / 10;
}
