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

export const sync = z.object({
  /** Aggregates that were looked at and are equal on both sides now, as far as they can be. */
  applied: z.number(),
  /** Of these: changed on both sides since they were equal. Both versions are in hive_kept. */
  conflicts: z.number(),
  quarantined: z.number(),
  /** Changes that still wait. */
  remaining: z.number(),
  /** How old the oldest change is that waits; where none does, how old the last one was when it was carried over. */
  lagMs: z.number(),
  /** Tables whose triggers were missing or altered, and were put up again. */
  renewed: z.array(z.string()),
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
  /** They differ, and await sync: no drift. */
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
  /** With --changed: when the full check began that looked at everything before; null without. */
  since: time.nullable(),
  /** With --watch: how many rounds were finished; null without. */
  rounds: z.number().nullable(),
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

/** Milliseconds, as they are counted: at most 9 % above the true ones. */
const latency = z.object({ count: z.number(), p50Ms: z.number(), p99Ms: z.number() });

/** What all processes together measured in the last 60 minutes; a part is null where there was nothing to measure. */
export const measured = z.object({
  /** Writes of the dual writer, side by side. */
  writes: z
    .object({
      committed: z.number(),
      /** Without those that were refused because of what they asked for. */
      rolledBack: z.number(),
      refused: z.number(),
      /** From 0 to 1: of those that were not refused. */
      rollbackRate: z.number(),
      legacy: latency.nullable(),
      unified: latency.nullable(),
    })
    .nullable(),
  events: z
    .object({
      emitted: z.number(),
      /** Of the minutes since the first of them. */
      perMinute: z.number(),
      byAgent: z.array(z.object({ type: z.string(), agent: z.string(), emitted: z.number() })),
    })
    .nullable(),
  /** From when an event was recorded to when a subscriber was done with it. */
  delivery: latency.extend({ errors: z.number() }).nullable(),
  /** Tasks that the agents' adapters executed. */
  tasks: latency.extend({ failed: z.number() }).nullable(),
  health: z
    .object({
      checks: z.number(),
      /** From 0 to 1. */
      healthyRate: z.number(),
    })
    .nullable(),
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
  capture: z.object({
    /** The sides whose changes the flags ask to be noted. */
    needed: z.object({ legacy: z.boolean(), unified: z.boolean() }),
    /** How many tables are captured as they should be. */
    captured: z.number(),
    /** Tables whose triggers are missing or do not fit the table as it is: writes to them may go unnoticed. */
    broken: z.array(z.string()),
    /** Tables that were without fitting triggers for a while: their aggregates are being looked at one by one. */
    gaps: z.array(z.string()),
  }),
  /** What waits to be carried over, and for how long the oldest has. */
  lag: z.object({ changes: z.number(), oldestMs: z.number().nullable() }),
  /** Whether a sync is at work now, and whose. */
  sync: z.object({ running: z.boolean(), holder: z.string().nullable(), since: time.nullable() }),
  /** What hive did with the write lock in the last ten minutes. */
  work: z.object({
    /** From 0 to 1: of the minutes in which it wrote. */
    lockShare: z.number(),
    commitsPerSecond: z.number(),
    longestMs: z.number(),
    byOperation: z.array(
      z.object({
        operation: z.string(),
        commits: z.number(),
        heldMs: z.number(),
        longestMs: z.number(),
        aggregates: z.number(),
      }),
    ),
  }),
  /** Null where there are none. */
  events: z
    .object({
      /** The number of the newest one. */
      last: z.number(),
      newest: z.object({ type: z.string(), ageMs: z.number().nullable() }).nullable(),
      /** In the last ten minutes, about. */
      perMinute: z.number(),
      /** At most 10,000 are counted. */
      deadLetters: z.number(),
      subscribers: z.array(
        z.object({
          name: z.string(),
          expired: z.boolean(),
          /** Events that it has not looked at, and for how long the oldest of them has been there. */
          behind: z.number(),
          lagMs: z.number().nullable(),
        }),
      ),
    })
    .nullable(),
  /** Aggregates that both sides changed between two syncs, in the last 24 hours. */
  conflicts: z.number(),
  /** Kinds of differences that reads of both sides met. */
  mismatches: z.number(),
  /** Null where nothing was measured in the last hour. */
  measured: measured.nullable(),
  /** What is wrong, worst first. */
  problems: z.array(z.string()),
  /** What to do now: a command and why. */
  next: z.array(z.object({ command: z.string(), why: z.string() })),
});

/** Never `healthy` without a recent sign of it: no check and no heartbeat, or old ones, are `unknown`. */
const health = z.enum(["healthy", "unhealthy", "unknown"]);
const registeredAgent = z.object({
  /** The unit of rollout; the registry's own id is `agentId`. */
  agent: z.string(),
  agentId: z.string(),
  agentType: z.string(),
  capabilities: z.array(z.string()),
  status: health,
  /** Why it is not healthy; null where it is. */
  detail: z.string().nullable(),
  lastHeartbeatAt: time.nullable(),
});

export const agentsList = z.object({ agents: z.array(registeredAgent) });
export const agentsShow = registeredAgent.extend({
  emits: z.array(z.string()),
  registeredAt: time,
  checkedAt: time.nullable(),
  /** How long the last check took. */
  latencyMs: z.number().nullable(),
  /** How hive reaches it, and how it asks how it is, as the config says. */
  adapter: z.enum(["function", "command", "url"]).nullable(),
  healthCheck: z.enum(["function", "command", "url"]).nullable(),
});
export const agentsHealth = z.object({
  /** Every agent is healthy, and there is one. */
  healthy: z.boolean(),
  at: time,
  agents: z.array(registeredAgent.extend({ checked: z.boolean(), latencyMs: z.number().nullable() })),
  dryRun: z.boolean(),
});
export const agentsStats = z.object({
  agents: z.number(),
  healthy: z.number(),
  unhealthy: z.number(),
  unknown: z.number(),
  byType: z.record(z.string(), z.number()),
  byCapability: z.record(z.string(), z.number()),
});

export const config = z.object({
  file: z.string().nullable(),
  values: z.array(z.object({ key: z.string(), value: z.unknown(), origin: z.string() })),
});
export const init = z.object({ file: z.string(), written: z.boolean() });

const subscriber = z.object({
  name: z.string(),
  patterns: z.array(z.string()),
  state: z.enum(["active", "expired"]),
  /** A process delivers to it. */
  running: z.boolean(),
  holder: z.string().nullable(),
  /** All events up to this number were dealt with, but for those that are retried or wait. */
  checkpoint: z.number(),
  /** Events, of any type, that came after its checkpoint. */
  behind: z.number(),
  /** Events that failed and are tried again. */
  retrying: z.number(),
  /** Events that wait behind these, for the sake of their subject's order. */
  waiting: z.number(),
  deadLetters: z.number(),
  /** Since it was made. */
  delivered: z.number(),
  /** Attempts, since it was made. */
  failed: z.number(),
  createdAt: time,
  /** When it last showed that it is alive: about once a minute. */
  seenAt: time,
});

export const eventsSubscribers = z.object({ subscribers: z.array(subscriber) });

export const eventsUnsubscribe = z.object({
  subscriber: z.string(),
  unread: z.number(),
  deadLetters: z.number(),
  dryRun: z.boolean(),
});

export const eventsReplay = z.object({
  subscriber: z.string(),
  /** The first event that it gets again. */
  from: z.number(),
  /** Where it was. */
  checkpoint: z.number(),
  /** Events, of any type, from there on. */
  events: z.number(),
  dryRun: z.boolean(),
});

export const eventsPrune = z.object({
  /** Events. */
  deleted: z.number(),
  /** Dead letters that were dropped long ago. */
  letters: z.number(),
  expired: z.array(z.object({ name: z.string(), seenAt: time, unread: z.number() })),
  /** The live subscriber because of which older events had to be kept. */
  heldBy: z.object({ name: z.string(), checkpoint: z.number() }).nullable(),
  dryRun: z.boolean(),
});

const deadLetter = z.object({
  /** Empty: no valid event at all, for any subscriber. */
  subscriber: z.string(),
  seq: z.number(),
  state: z.enum(["dead", "dropped"]),
  at: time,
  reason: z.string(),
  attempts: z.number(),
  type: z.string().nullable(),
  subject: z.string().nullable(),
});

export const eventsDeadLettersList = z.object({ entries: z.array(deadLetter), total: z.number() });

/** The event, as it was when it was given up; of what is no valid event, the row. */
export const eventsDeadLettersShow = deadLetter.extend({ event: z.unknown() });

export const eventsDeadLettersRedrive = z.object({
  redriven: z.number(),
  /** Those that are no valid events, still. */
  left: z.array(deadLetter),
  dryRun: z.boolean(),
});

export const eventsDeadLettersDrop = z.object({ dropped: z.number(), dryRun: z.boolean() });

/** What agents sent to the database in some time, and how long a statement took. */
const agentsWork = z.object({
  statements: z.number(),
  failures: z.number(),
  perSecond: z.number(),
  p50Ms: z.number(),
  p95Ms: z.number(),
  maxMs: z.number(),
});

export const demo = z.object({
  directory: z.string(),
  database: z.string(),
  steps: z.array(
    z.object({
      step: z.string(),
      ok: z.boolean(),
      detail: z.string(),
      durationMs: z.number(),
      /** Since the step began; null while no agents run. */
      agents: agentsWork.nullable(),
    }),
  ),
  /** Programs that know nothing of hive and write throughout; null if they never started. */
  agents: z
    .object({
      language: z.enum(["python", "node"]),
      versions: z.string(),
      processes: z.array(z.object({ name: z.string(), pid: z.number() })),
      /** Rows that they wrote, those they deleted again included. */
      rows: z.number(),
      /** Before hive did anything … */
      before: agentsWork.nullable(),
      /** … and from then on. */
      during: agentsWork,
    })
    .nullable(),
  seconds: z.number(),
});

/** By command, as `--json` names it. */
const json = z.record(z.string(), z.json());

const event = z.object({
  /** Its place in the order of all events: from 1, without gaps. */
  seq: z.number(),
  id: z.string(),
  type: z.string(),
  sourceAgent: z.string(),
  correlationId: z.string(),
  causationId: z.string().nullable(),
  subject: z.string().nullable(),
  occurredAt: time,
  recordedAt: time,
  payload: json,
  metadata: json.nullable(),
});

export const eventsList = z.object({
  events: z.array(event),
  /** Rows that were met and are no valid events: they are among the dead letters, and delivered to nobody. */
  invalid: z.array(z.object({ seq: z.number(), reason: z.string() })),
});

/** With --json, `events tail` writes the events themselves, one object per line, and not this. */
export const eventsTail = z.object({ events: z.number() });

export const eventsEmit = z.object({
  /** False where the agent's flag `unified-events` is off: then nothing was written. */
  emitted: z.boolean(),
  event: event.omit({ seq: true }).nullable(),
  dryRun: z.boolean(),
});

export const eventsTypes = z.object({
  types: z.array(
    z.object({
      type: z.string(),
      extension: z.boolean(),
      /** Agents that are registered as emitting it. */
      agents: z.array(z.string()),
    }),
  ),
  standard: z.number(),
  extensions: z.number(),
  /** Other names that mean one of them. */
  names: z.array(z.object({ name: z.string(), type: z.string() })),
});

export const trace = z.object({
  correlationId: z.string(),
  /** When it was looked at: what is running has run until then. */
  at: time,
  /** Whom it concerns: the sources of its events. */
  agents: z.array(z.string()),
  firstAt: time.nullable(),
  lastAt: time.nullable(),
  durationMs: z.number().nullable(),
  /** Spans that are open, those that wait included, and spans that failed. */
  running: z.number(),
  failed: z.number(),
  /** What this is a part of itself. */
  partOf: z.array(z.object({ correlationId: z.string(), by: z.enum(["cause", "work"]), name: z.string() })),
  /** The work that was followed, the one that was asked for first. */
  works: z.array(
    z.object({
      correlationId: z.string(),
      /** 0 for the one that was asked for. */
      depth: z.number(),
      events: z.number(),
      /** The event that it hangs below: one that named it, or the first one of its own that was caused by another work. */
      from: z.number().nullable(),
    }),
  ),
  /** As a tree from the top down: each event after the one that it hangs below. */
  events: z.array(
    z.object({
      seq: z.number(),
      /** The event that it hangs below. */
      parent: z.number().nullable(),
      /** 0 for one that hangs below none. */
      depth: z.number(),
      /** Why it hangs there: caused by it, about the same subject, or the beginning of work that it led to. */
      link: z.enum(["cause", "subject", "work"]).nullable(),
      id: z.string(),
      /** As it was written where it is none of the known types. */
      type: z.string(),
      sourceAgent: z.string(),
      correlationId: z.string(),
      causationId: z.string().nullable(),
      subject: z.string().nullable(),
      occurredAt: time.nullable(),
      recordedAt: time.nullable(),
      /** The member of its payload that says most, shortened. `hive events list` has payloads whole. */
      says: z.object({ member: z.string(), text: z.string() }).nullable(),
      payloadBytes: z.number(),
      /** It tells of something that went wrong. */
      alarm: z.boolean(),
      /** What it opened. */
      spans: z.array(
        z.object({
          name: z.string(),
          /** Something waited to be begun. */
          waits: z.boolean(),
          /**
           * `running`: nothing closed it. `again`: it was begun anew. `ended`: no event closed it, but the row of the work
           * says that it is over. `unknown`: the trace was cut off before it could be seen.
           */
          state: z.enum(["done", "failed", "cancelled", "running", "again", "ended", "unknown"]),
          /** The event that closed it or began it anew. */
          closedBy: z.number().nullable(),
          /** Of what is running: until now. */
          durationMs: z.number().nullable(),
        }),
      ),
      /** Where it could not be delivered; the subscriber is empty where it is no valid event at all. */
      deadLetters: z.array(z.object({ subscriber: z.string(), reason: z.string() })),
    }),
  ),
  /** What the unified tables say now. */
  work: z.array(
    z.object({
      table: z.string(),
      key: z.string(),
      correlationId: z.string().nullable(),
      status: z.string(),
      /** Nothing more happens to it. */
      final: z.boolean(),
      agent: z.string().nullable(),
      kind: z.string().nullable(),
      changedAt: time.nullable(),
      ageMs: z.number().nullable(),
    }),
  ),
  /** Why this is not everything; empty where it is. */
  cutOff: z.array(z.string()),
});

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
  sync,
  check,
  "quarantine list": quarantineList,
  "quarantine retry": quarantineRetry,
  "quarantine discard": quarantineDiscard,
  "kept list": keptList,
  "mapping test": mappingTest,
  rollback,
  "events list": eventsList,
  "events tail": eventsTail,
  "events emit": eventsEmit,
  "events types": eventsTypes,
  trace,
  "audit list": auditList,
  "audit verify": auditVerify,
  status,
  "agents list": agentsList,
  "agents show": agentsShow,
  "agents health": agentsHealth,
  "events subscribers": eventsSubscribers,
  "events unsubscribe": eventsUnsubscribe,
  "events replay": eventsReplay,
  "events prune": eventsPrune,
  "events dead-letters list": eventsDeadLettersList,
  "events dead-letters show": eventsDeadLettersShow,
  "events dead-letters redrive": eventsDeadLettersRedrive,
  "events dead-letters drop": eventsDeadLettersDrop,
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
export type SyncResult = z.infer<typeof sync>;
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
export type EventsListResult = z.infer<typeof eventsList>;
export type EventsTailResult = z.infer<typeof eventsTail>;
export type EventsEmitResult = z.infer<typeof eventsEmit>;
export type EventsTypesResult = z.infer<typeof eventsTypes>;
export type TraceResult = z.infer<typeof trace>;
export type AuditEntry = z.infer<typeof auditEntry>;
export type AuditListResult = z.infer<typeof auditList>;
export type AuditVerifyResult = z.infer<typeof auditVerify>;
export type MeasuredResult = z.infer<typeof measured>;
export type StatusResult = z.infer<typeof status>;
export type AgentsListResult = z.infer<typeof agentsList>;
export type AgentsShowResult = z.infer<typeof agentsShow>;
export type AgentsHealthResult = z.infer<typeof agentsHealth>;
export type AgentsStatsResult = z.infer<typeof agentsStats>;
export type SubscriberEntry = z.infer<typeof subscriber>;
export type EventsSubscribersResult = z.infer<typeof eventsSubscribers>;
export type EventsUnsubscribeResult = z.infer<typeof eventsUnsubscribe>;
export type EventsReplayResult = z.infer<typeof eventsReplay>;
export type EventsPruneResult = z.infer<typeof eventsPrune>;
export type DeadLetterEntry = z.infer<typeof deadLetter>;
export type EventsDeadLettersListResult = z.infer<typeof eventsDeadLettersList>;
export type EventsDeadLettersShowResult = z.infer<typeof eventsDeadLettersShow>;
export type EventsDeadLettersRedriveResult = z.infer<typeof eventsDeadLettersRedrive>;
export type EventsDeadLettersDropResult = z.infer<typeof eventsDeadLettersDrop>;
export type ConfigResult = z.infer<typeof config>;
export type InitResult = z.infer<typeof init>;
export type DemoResult = z.infer<typeof demo>;
