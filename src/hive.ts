import { hostname, userInfo } from "node:os";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { type Clock, type Signal, systemClock } from "./clock.ts";
import type { Settings } from "./config.ts";
import type { ChangeOptions, Context } from "./context.ts";
import type { DemoOptions } from "./demo/demo.ts";
import { HiveError } from "./errors.ts";
import type { FlagChange } from "./flags/flags.ts";
import type { Stage } from "./flags/stages.ts";
import type * as results from "./results.ts";
import type { AuditFilter } from "./rollout/audit.ts";
import type { Store } from "./storage/port.ts";
import { type PlatformMapping, resolveAgents } from "./sync/mapping.ts";

export interface OpenOptions {
  clock?: Clock;
  /** Who acts, for the audit log. Default: HIVE_ACTOR, else user@host. */
  actor?: string;
  /** For tests: called at named points of the engine. */
  signal?: Signal;
  /** Whether large backfills and checks may use a second thread. Default: yes. */
  secondThread?: boolean;
}

export interface MigrateUpOptions extends ChangeOptions {
  to?: string;
  step?: number;
  allowOutOfOrder?: boolean;
}

export interface MigrateDownOptions extends ChangeOptions {
  /** Inclusive; "0" is everything. */
  to?: string;
  step?: number;
  force?: boolean;
}

export interface BackfillOptions extends ChangeOptions {
  agents?: readonly string[];
}

export interface CheckOptions extends Omit<ChangeOptions, "lockTimeoutMs"> {
  /** Default: the agents with dual-write on. */
  agents?: readonly string[];
  repair?: boolean;
  /** Only the aggregates of these keys. */
  keys?: readonly string[];
  lockTimeoutMs?: number;
}

export interface FlagOptions extends ChangeOptions {
  /** Override soft guards; needs a reason. */
  force?: boolean;
}

export interface RollbackOptions extends ChangeOptions {
  /** Default: all agents that are not at the target stage already. */
  agents?: readonly string[];
  /** Default: off. */
  to?: Stage;
}

export interface QuarantineFilter {
  agents?: readonly string[];
  mapping?: string;
  keys?: readonly string[];
  /** Also those that were discarded. */
  all?: boolean;
}

export interface KeptFilter {
  agents?: readonly string[];
  mapping?: string;
  keys?: readonly string[];
  /** At most so many. Default: 100. */
  limit?: number;
  /** Those that come after this `seq`: the `next` of the page before. */
  after?: number;
}

export interface MappingTestOptions {
  keys?: readonly string[];
  mapping?: string;
  /** How many of each mapping when no key is named. */
  sample?: number;
}

/**
 * One opened database with its mapping: what the CLI is made of. Every operation can be run again after any
 * interruption. `await using hive = await openHive(settings)`.
 */
export interface Hive extends AsyncDisposable {
  readonly context: Context;
  readonly migrations: {
    up(options?: MigrateUpOptions): Promise<results.MigrateUpResult>;
    down(options?: MigrateDownOptions): Promise<results.MigrateDownResult>;
    status(): Promise<results.MigrateStatusResult>;
    create(name: string, folder?: string): Promise<results.MigrateCreateResult>;
  };
  readonly flags: {
    list(agents?: readonly string[]): Promise<results.FlagsListResult>;
    change(changes: readonly FlagChange[], options?: FlagOptions): Promise<results.FlagsChangeResult>;
    history(agent?: string): Promise<results.FlagsHistoryResult>;
  };
  readonly quarantine: {
    list(filter?: QuarantineFilter): Promise<results.QuarantineListResult>;
    retry(filter?: QuarantineFilter & ChangeOptions): Promise<results.QuarantineRetryResult>;
    discard(filter?: QuarantineFilter & ChangeOptions): Promise<results.QuarantineDiscardResult>;
  };
  /** Whole aggregates that hive kept before it took them away. */
  readonly kept: {
    list(filter?: KeptFilter): Promise<results.KeptListResult>;
  };
  readonly audit: {
    list(filter?: AuditFilter): Promise<results.AuditListResult>;
    verify(): Promise<results.AuditVerifyResult>;
  };
  verify(): Promise<results.VerifyResult>;
  status(): Promise<results.StatusResult>;
  backfill(options?: BackfillOptions): Promise<results.BackfillResult>;
  check(options?: CheckOptions): Promise<results.CheckResult>;
  rollback(options?: RollbackOptions): Promise<results.RollbackResult>;
  testMapping(options?: MappingTestOptions): Promise<results.MappingTestResult>;
}

/**
 * Opens the database of the settings and loads the mapping. Writes nothing.
 * @throws DATABASE_NOT_FOUND, NOT_A_DATABASE, MAPPING_INVALID, CONFIG_INVALID
 */
export async function openHive(settings: Settings, options: OpenOptions = {}): Promise<Hive> {
  const clock = options.clock ?? systemClock;
  const mapping = await loadMapping(settings);
  checkAgents(settings, mapping);
  const store = await openStore(settings, clock, options.signal);
  const context: Context = {
    store,
    mapping,
    settings,
    clock,
    actor: options.actor ?? (process.env.HIVE_ACTOR || defaultActor()),
    signal: options.signal,
    ...(options.secondThread === false ? {} : { startSecondThread: secondThread(settings) }),
  };
  // Each operation loads its module when it is first used: `hive status` must not pay for the migrator.
  return {
    context,
    migrations: {
      up: async (o) => {
        const { migrateUp, refuseStrangeDatabase } = await import("./schema/migrator.ts");
        await refuseStrangeDatabase(context);
        return migrateUp(context, o);
      },
      down: async (o) => (await import("./schema/migrator.ts")).migrateDown(context, o),
      status: async () => (await import("./schema/migrator.ts")).migrateStatus(context),
      create: async (name, folder) => (await import("./schema/migrator.ts")).migrateCreate(context, name, folder),
    },
    flags: {
      list: async (agents) => (await import("./flags/facts.ts")).listFlags(context, agents),
      change: async (changes, o) => (await import("./flags/flags.ts")).changeFlags(context, changes, o),
      history: async (agent) => (await import("./flags/flags.ts")).flagHistory(context, agent),
    },
    quarantine: {
      list: async (filter) => (await import("./sync/quarantine.ts")).listQuarantine(context, filter),
      retry: async (o) => (await import("./sync/quarantine.ts")).retryQuarantine(context, o),
      discard: async (o) => (await import("./sync/quarantine.ts")).discardQuarantine(context, o),
    },
    kept: {
      list: async (filter) => (await import("./sync/kept.ts")).listKept(context, filter),
    },
    audit: {
      list: async (filter) => {
        const { listAudit } = await import("./rollout/audit.ts");
        const session = await ledger(context);
        const found = await listAudit(session, filter);
        if (filter?.agent === undefined || found.entries.length > 0) return found;
        // The log also keeps agents that the mapping no longer has; one that neither knows was misspelt.
        const [agent] = resolveAgents(mapping, [filter.agent]);
        return listAudit(session, { ...filter, ...(agent === undefined ? {} : { agent }) });
      },
      verify: async () => (await import("./rollout/audit.ts")).verifyAudit(await ledger(context)),
    },
    verify: async () => (await import("./observe/verify.ts")).verify(context),
    status: async () => (await import("./observe/status.ts")).status(context),
    backfill: async (o) => (await import("./sync/backfill.ts")).backfill(context, o),
    check: async (o) => (await import("./sync/check.ts")).check(context, o),
    rollback: async (o) => (await import("./rollout/rollback.ts")).rollback(context, o),
    testMapping: async (o) => (await import("./sync/preview.ts")).testMapping(context, o),
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  };
}

function secondThread(settings: Settings) {
  return async (agents: readonly string[]) => (await import("./thread.ts")).startThread(settings, agents);
}

/**
 * Builds a sample platform and walks through its migration and back before the presenter's audience. Leaves the
 * database and a config in the folder.
 * @throws USAGE, INTERRUPTED
 */
export async function runDemo(options: DemoOptions & { clock?: Clock }): Promise<results.DemoResult> {
  const { demo } = await import("./demo/demo.ts");
  const { openSqlite } = await import("./storage/sqlite.ts");
  const clock = options.clock ?? systemClock;
  const openStore = (path: string) => openSqlite(path, { busyTimeoutMs: 10_000, leaseMs: LEASE_MS, clock });
  return demo(options, { openStore, clock });
}

async function ledger(context: Context) {
  const { requireLedger } = await import("./schema/ledger.ts");
  await requireLedger(context.store);
  return context.store.read;
}

async function openStore(settings: Settings, clock: Clock, signal: Signal | undefined): Promise<Store> {
  const { database } = settings;
  if (/^postgres(ql)?:/.test(database)) {
    throw new HiveError("CONFIG_INVALID", "PostgreSQL is not supported yet.", {
      hint: "Use a SQLite database: --database sqlite:PATH.",
    });
  }
  const [, scheme] = /^([a-z][a-z0-9+.-]+):\/\//i.exec(database) ?? [];
  if (scheme !== undefined && scheme !== "sqlite") {
    throw new HiveError("CONFIG_INVALID", `${scheme}: databases are not supported.`, {
      hint: "Use a SQLite database: --database sqlite:PATH.",
    });
  }
  const { openSqlite } = await import("./storage/sqlite.ts");
  return openSqlite(databasePath(settings), {
    busyTimeoutMs: settings.busyTimeoutMs,
    leaseMs: LEASE_MS,
    clock,
    signal,
  });
}

const LEASE_MS = 15_000;

/** The file of a `sqlite:` URL or plain path. */
export function databasePath(settings: Pick<Settings, "database" | "baseDirectory">): string {
  const path = settings.database.startsWith("sqlite:") ? settings.database.slice("sqlite:".length) : settings.database;
  return resolve(settings.baseDirectory, path.startsWith("///") ? fileURLToPath(`file:${path}`) : path);
}

async function loadMapping(settings: Settings): Promise<PlatformMapping> {
  const { presets } = await import("./presets/index.ts");
  const { loadPlatformMapping } = await import("./sync/load-mapping.ts");
  return loadPlatformMapping(settings, presets);
}

/** An agent that the config names has to be one of the mapping: a misspelt one would silently have no settings. */
function checkAgents(settings: Settings, mapping: PlatformMapping): void {
  try {
    resolveAgents(mapping, Object.keys(settings.agents));
  } catch (error) {
    if (!(error instanceof HiveError)) throw error;
    const { message, hint, details } = error;
    throw new HiveError("CONFIG_INVALID", `agents in the config: ${message}`, { hint, details, cause: error });
  }
}

function defaultActor(): string {
  try {
    return `${userInfo().username}@${hostname()}`;
  } catch {
    // A user id without an entry in the password file, as in many containers.
    return `uid ${process.getuid?.() ?? "?"}@${hostname()}`;
  }
}
