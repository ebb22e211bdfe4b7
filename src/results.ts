import { z } from "zod";

/**
 * The result of every command: the types are inferred from these schemas, and `docs/schemas` is generated from them.
 * Names are the CLI's; times are ISO UTC strings; `…Ms` are milliseconds.
 */

const time = z.string();
const stage = z.enum(["off", "dualwrite", "shadow", "live", "rampdown", "complete"]);
const side = z.enum(["legacy", "unified"]);
const value = z.union([z.null(), z.string(), z.number(), z.boolean()]);

/** How the database file keeps its journal: changed for good by the first `migrate up`, and put back by the last down. */
const journalMode = z.object({ from: z.string(), to: z.string() });

export const migrateUp = z.object({
  applied: z.array(z.object({ name: z.string(), durationMs: z.number() })),
  adopted: z.array(z.string()),
  pending: z.array(z.string()),
  /** Only where it is changed. */
  journalMode: journalMode.optional(),
  /** With --dry-run: the SQL that would run. */
  sql: z.array(z.object({ name: z.string(), sql: z.string() })).optional(),
});

export const migrateDown = z.object({
  reverted: z.array(z.object({ name: z.string(), durationMs: z.number() })),
  current: z.string().nullable(),
  sql: z.array(z.object({ name: z.string(), sql: z.string() })).optional(),
  /** Where the audit log was saved before the ledger was dropped. */
  auditSavedTo: z.string().optional(),
  /** Where the aggregates of hive_kept were saved, if there were any. */
  keptSavedTo: z.string().optional(),
  /** Only where it is to be put back; `to` equals `from` where it could not, since others have the file open. */
  journalMode: journalMode.optional(),
});

export const migrateStatus = z.object({
  current: z.string().nullable(),
  head: z.boolean(),
  applied: z.array(
    z.object({ name: z.string(), appliedAt: time, state: z.enum(["ok", "altered", "missing"]), adopted: z.boolean() }),
  ),
  pending: z.array(z.string()),
  outOfOrder: z.array(z.string()),
  /** Of those missing: hive's own, of a newer hive than this one. */
  newer: z.array(z.string()),
});

export const migrateCreate = z.object({
  files: z.array(z.string()),
  /** The folder, as it would have to stand in the config's `migrations` for \`migrate up\` to read it; null if it does. */
  addFolder: z.string().nullable(),
});

export const verify = z.object({
  ok: z.boolean(),
  checks: z.array(z.object({ name: z.string(), ok: z.boolean(), detail: z.string() })),
  agents: z.number(),
  agentTypes: z.number(),
  capabilities: z.number(),
  eventTypes: z.number(),
  tables: z.array(z.string()),
});

const flags = z.object({
  "unified-events": z.boolean(),
  "dual-write": z.boolean(),
  "agent-adapters": z.boolean(),
  reads: z.enum(["legacy", "shadow", "live", "unified"]),
});

export const flagsList = z.object({
  agents: z.array(z.object({ agent: z.string(), stage, authority: side, flags })),
});

export const flagsChange = z.object({
  changed: z.array(z.object({ agent: z.string(), flag: z.string(), from: z.string(), to: z.string() })),
  /** Soft guards that --force overrode. */
  forced: z.array(z.object({ agent: z.string(), missing: z.string() })),
  dryRun: z.boolean(),
});

export const flagsHistory = z.object({
  entries: z.array(
    z.object({
      at: time,
      actor: z.string(),
      agent: z.string(),
      flag: z.string(),
      from: z.string(),
      to: z.string(),
      reason: z.string().nullable(),
    }),
  ),
});

export const backfill = z.object({
  agents: z.array(z.string()),
  aggregates: z.object({
    written: z.number(),
    unchanged: z.number(),
    quarantined: z.number(),
    total: z.number(),
  }),
  seconds: z.number(),
  perSecond: z.number(),
  resumed: z.boolean(),
  /** Columns that the mapping reads and the legacy tables lack: they read as NULL. */
  missingColumns: z.array(z.string()),
  dryRun: z.boolean(),
});

export const drift = z.object({
  mapping: z.string(),
  key: z.string(),
  agent: z.string(),
  kind: z.enum(["missing", "extra", "different"]),
  columns: z.array(
    z.object({
      table: z.string(),
      column: z.string(),
      /** Which row, of a table that can have several for one aggregate: `order_no=A-1002`. */
      row: z.string().optional(),
      legacy: value,
      unified: value,
    }),
  ),
});

export const check = z.object({
  consistent: z.boolean(),
  agents: z.array(z.string()),
  compared: z.number(),
  identical: z.number(),
  missing: z.number(),
  extra: z.number(),
  different: z.number(),
  inFlight: z.number(),
  quarantined: z.number(),
  /** The first 100. */
  drift: z.array(drift),
  repaired: z.number(),
  /** With --repair: what could not be mended, and why. */
  unrepaired: z.array(z.object({ mapping: z.string(), key: z.string(), reason: z.string() })),
  /** Whether the verdict was noted for the guards of the stages. */
  recorded: z.boolean(),
  /** Why it was not; null if it was. */
  unrecorded: z.string().nullable(),
  note: z.string().nullable(),
  dryRun: z.boolean(),
});

export const quarantineEntry = z.object({
  mapping: z.string(),
  key: z.string(),
  agent: z.string(),
  direction: z.enum(["up", "down"]),
  reason: z.string(),
  state: z.enum(["quarantined", "discarded"]),
  at: time,
  attempts: z.number(),
});
export const quarantineList = z.object({ entries: z.array(quarantineEntry) });
export const quarantineRetry = z.object({
  retried: z.number(),
  released: z.number(),
  /** Those that are still in quarantine; with --dry-run those that would be tried. */
  entries: z.array(quarantineEntry),
  dryRun: z.boolean(),
});
export const quarantineDiscard = z.object({
  discarded: z.number(),
  entries: z.array(quarantineEntry),
  dryRun: z.boolean(),
});

export const keptEntry = z.object({
  seq: z.number(),
  at: time,
  mapping: z.string(),
  key: z.string(),
  /** Empty for rows that belonged to no aggregate any more. */
  agent: z.string(),
  side,
  reason: z.string(),
  /** Rows by table. What JSON has no value for is tagged: $int, $real, $blob. */
  aggregate: z.unknown(),
});
export const keptList = z.object({
  entries: z.array(keptEntry),
  /** How many there are on all pages. */
  total: z.number(),
  /** Where the next page begins (--after); null on the last one. */
  next: z.number().nullable(),
});

export const mappingTest = z.object({
  samples: z.array(
    z.object({
      mapping: z.string(),
      key: z.string(),
      agent: z.string(),
      outcome: z.enum(["mapped", "quarantined"]),
      reason: z.string().nullable(),
      legacy: z.record(z.string(), z.array(z.record(z.string(), value))),
      unified: z.record(z.string(), z.array(z.record(z.string(), value))).nullable(),
      /** What the unified rows become on the way back, and whether that is exactly what was there. */
      back: z.record(z.string(), z.array(z.record(z.string(), value))).nullable(),
      roundTrip: z.boolean(),
    }),
  ),
  missingColumns: z.array(z.string()),
});

export const rollback = z.object({
  steps: z.array(z.object({ action: z.string(), agent: z.string(), from: z.string(), to: z.string() })),
  /** Where the agents are now (with --dry-run: would be). */
  stage: stage,
  projectedDown: z.number(),
  /** Aggregates with values that the legacy tables cannot hold: kept whole in hive_kept. */
  kept: z.number(),
  quarantined: z.number(),
  dryRun: z.boolean(),
});

export const auditEntry = z.object({
  seq: z.number(),
  at: time,
  actor: z.string(),
  action: z.string(),
  agent: z.string().nullable(),
  reason: z.string().nullable(),
  before: z.unknown(),
  after: z.unknown(),
  hash: z.string(),
});
export const auditList = z.object({ entries: z.array(auditEntry) });
export const auditVerify = z.object({
  ok: z.boolean(),
  entries: z.number(),
  /** The first entry that does not fit. */
  brokenAt: z.number().nullable(),
  detail: z.string(),
});

export const status = z.object({
  phase: z.enum(["none", "A", "B", "C", "D"]),
  phaseName: z.string(),
  database: z.object({ location: z.string(), dialect: z.string(), touched: z.boolean() }),
  migrations: z.object({
    current: z.string().nullable(),
    head: z.boolean(),
    pending: z.number(),
    problems: z.array(z.string()),
  }),
  agents: z.array(
    z.object({
      agent: z.string(),
      stage,
      authority: side,
      events: z.boolean(),
      backfill: z.enum(["none", "running", "finished", "stale"]),
      lastCheck: z
        .object({ at: time, consistent: z.boolean(), drift: z.number(), ageMs: z.number(), fresh: z.boolean() })
        .nullable(),
      quarantined: z.number(),
    }),
  ),
  quarantine: z.number(),
  /** What is wrong, worst first. */
  problems: z.array(z.string()),
  /** What to do now: a command and why. */
  next: z.array(z.object({ command: z.string(), why: z.string() })),
});

export const config = z.object({
  file: z.string().nullable(),
  values: z.array(z.object({ key: z.string(), value: z.unknown(), origin: z.string() })),
});
export const init = z.object({ file: z.string(), written: z.boolean() });

export const demo = z.object({
  directory: z.string(),
  database: z.string(),
  steps: z.array(z.object({ step: z.string(), ok: z.boolean(), detail: z.string(), durationMs: z.number() })),
  seconds: z.number(),
});

/** By command, as `--json` names it. */
export const RESULTS = {
  "migrate up": migrateUp,
  "migrate down": migrateDown,
  "migrate status": migrateStatus,
  "migrate create": migrateCreate,
  verify,
  "flags list": flagsList,
  "flags enable": flagsChange,
  "flags disable": flagsChange,
  "flags set": flagsChange,
  "flags history": flagsHistory,
  backfill,
  check,
  "quarantine list": quarantineList,
  "quarantine retry": quarantineRetry,
  "quarantine discard": quarantineDiscard,
  "kept list": keptList,
  "mapping test": mappingTest,
  rollback,
  "audit list": auditList,
  "audit verify": auditVerify,
  status,
  config,
  init,
  demo,
} as const;

export type MigrateUpResult = z.infer<typeof migrateUp>;
export type MigrateDownResult = z.infer<typeof migrateDown>;
export type MigrateStatusResult = z.infer<typeof migrateStatus>;
export type MigrateCreateResult = z.infer<typeof migrateCreate>;
export type VerifyResult = z.infer<typeof verify>;
export type FlagsListResult = z.infer<typeof flagsList>;
export type FlagsChangeResult = z.infer<typeof flagsChange>;
export type FlagsHistoryResult = z.infer<typeof flagsHistory>;
export type BackfillResult = z.infer<typeof backfill>;
export type Drift = z.infer<typeof drift>;
export type CheckResult = z.infer<typeof check>;
export type QuarantineEntry = z.infer<typeof quarantineEntry>;
export type QuarantineListResult = z.infer<typeof quarantineList>;
export type QuarantineRetryResult = z.infer<typeof quarantineRetry>;
export type QuarantineDiscardResult = z.infer<typeof quarantineDiscard>;
export type KeptEntry = z.infer<typeof keptEntry>;
export type KeptListResult = z.infer<typeof keptList>;
export type MappingTestResult = z.infer<typeof mappingTest>;
export type RollbackResult = z.infer<typeof rollback>;
export type AuditEntry = z.infer<typeof auditEntry>;
export type AuditListResult = z.infer<typeof auditList>;
export type AuditVerifyResult = z.infer<typeof auditVerify>;
export type StatusResult = z.infer<typeof status>;
export type ConfigResult = z.infer<typeof config>;
export type InitResult = z.infer<typeof init>;
export type DemoResult = z.infer<typeof demo>;
