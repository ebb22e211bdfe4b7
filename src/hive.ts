import { hostname, userInfo } from "node:os";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { type Clock, type Signal, systemClock } from "./clock.ts";
import type { Settings } from "./config.ts";
import type { ChangeOptions, Context } from "./context.ts";
import type { DemoOptions } from "./demo/demo.ts";
import { HiveError } from "./errors.ts";
import type { DeadLetterChange, DeadLetterFilter } from "./events/dead-letters.ts";
import type { HiveEvent, NewEvent } from "./events/event.ts";
import type { EventListFilter, TailOptions } from "./events/listing.ts";
import type { EmittedEvent } from "./events/outbox.ts";
import type { ReplayOptions } from "./events/subscribers.ts";
import type { SubscribeOptions, Subscription } from "./events/subscriptions.ts";
import type { TraceOptions } from "./events/trace.ts";
import type { FlagChange } from "./flags/flags.ts";
import type { Stage } from "./flags/stages.ts";
import { metricsOf } from "./observe/metrics.ts";
import type { Emit, StandardAgent } from "./registry/agent.ts";
import type { AgentHealthOptions, Agents } from "./registry/agents.ts";
import type { OpenAgentOptions } from "./registry/open.ts";
import type { AgentFilter, RegisteredAgent, Registration, RegistryOptions } from "./registry/registry.ts";
import type * as results from "./results.ts";
import type { AuditFilter } from "./rollout/audit.ts";
import type { Store, Transaction } from "./storage/port.ts";
import { type PlatformMapping, resolveAgents } from "./sync/mapping.ts";
import type { RowsRecord } from "./sync/records.ts";
import type { SyncOptions } from "./sync/sync.ts";
import type { CheckEvent } from "./sync/watch-check.ts";
import type { Writer, WriterOptions } from "./sync/writer.ts";

export interface OpenOptions {
  clock?: Clock;
  /** Who acts, for the audit log. Default: HIVE_ACTOR, else user@host. */
  actor?: string;
  /** For tests: called at named points of the engine. */
  signal?: Signal;
  /** Whether large backfills and checks may use a second thread. Default: yes. */
  secondThread?: boolean;
  /** Milliseconds after which a lock whose holder froze is taken over. Default: 15,000. */
  leaseMs?: number;
  /** What keeps the events that agents' adapters tell. */
  emit?: Emit;
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
  /** Only what was written since the last full check that found no drift. Not with `keys`. */
  changed?: boolean;
  /** Keep comparing, at a bounded cost, until aborted. Not with `keys`, `changed` or `repair`. */
  watch?: boolean;
  /** With `watch`: how far apart rounds begin, at least. Default: 60,000. */
  intervalMs?: number;
  /** With `watch`: aggregates a second, at most. Default: as `cpuShare` allows. */
  rate?: number;
  /** With `watch`: the share of one processor, at most: from above 0 to 1. Default: 0.05. */
  cpuShare?: number;
  /** With `watch`: told of drift when it is found, and of each round. */
  onEvent?: (event: CheckEvent) => void;
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

export interface EmitOptions {
  /** A write transaction of this hive's store, in which the events are to stand. Default: one of their own. */
  tx?: Transaction;
  /** Judge the events and write nothing. */
  dryRun?: boolean;
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
  readonly events: {
    /**
     * Appends an event, or several, in the transaction `tx`. Those of an agent whose `unified-events` flag is off are left
     * out, which costs next to nothing; a change of the flag counts within a second.
     * @returns what was appended
     * @throws UNKNOWN_NAME (type), UNKNOWN_AGENT (source), RECORD_INVALID (a member that is refused), CONSTRAINT (an id
     * that there is already), NOT_MIGRATED
     */
    emit(events: NewEvent | readonly NewEvent[], options?: EmitOptions): Promise<readonly EmittedEvent[]>;
    /** In the order of their numbers: the newest so many, or those that come after one. */
    list(filter?: EventListFilter): Promise<results.EventsListResult>;
    /** Events as they come, until aborted; without `after`, those from the first `next()` on. */
    tail(options?: TailOptions): AsyncIterable<HiveEvent>;
    /** The types that the mapping knows. */
    types(): Promise<results.EventsTypesResult>;
    /**
     * Delivers events to a handler, at least once and in the order of each subject; see {@link SubscribeOptions}. Stopped
     * with the hive.
     * @throws NOT_MIGRATED, USAGE, GUARD_REFUSED (expired, and events that it had not read are deleted)
     */
    subscribe(options: SubscribeOptions): Promise<Subscription>;
    subscribers(): Promise<results.EventsSubscribersResult>;
    /** Takes a subscriber away for good. @throws NOT_MIGRATED, UNKNOWN_NAME */
    unsubscribe(name: string, options?: ChangeOptions): Promise<results.EventsUnsubscribeResult>;
    /** Has a subscriber begin again at an event that it has passed. @throws NOT_MIGRATED, UNKNOWN_NAME, USAGE */
    replay(name: string, options: ReplayOptions): Promise<results.EventsReplayResult>;
    /** Deletes old events that every live subscriber is done with, and has subscribers expire. @throws NOT_MIGRATED */
    prune(options?: ChangeOptions): Promise<results.EventsPruneResult>;
    readonly deadLetters: {
      list(filter?: DeadLetterFilter): Promise<results.EventsDeadLettersListResult>;
      /** `subscriber`: "" for what is no valid event. @throws NOT_MIGRATED, UNKNOWN_NAME */
      show(subscriber: string, seq: number): Promise<results.EventsDeadLettersShowResult>;
      /** Delivers them again. @throws NOT_MIGRATED, UNKNOWN_NAME */
      redrive(options?: DeadLetterChange): Promise<results.EventsDeadLettersRedriveResult>;
      /** Gives them up. @throws NOT_MIGRATED, UNKNOWN_NAME */
      drop(options?: DeadLetterChange): Promise<results.EventsDeadLettersDropResult>;
    };
  };
  /** The agents of the platform's registry: in the ledger, so that every process sees the same. */
  readonly agents: {
    list(filter?: AgentFilter): Promise<results.AgentsListResult>;
    show(agent: string): Promise<results.AgentsShowResult>;
    /** Asks the agents how they are, and writes it down. */
    health(options?: AgentHealthOptions): Promise<results.AgentsHealthResult>;
    stats(): Promise<results.AgentsStatsResult>;
    register(registration: Registration, options?: RegistryOptions): Promise<RegisteredAgent>;
    unregister(agent: string, options?: RegistryOptions): Promise<void>;
    heartbeat(agent: string): Promise<void>;
    /** A registered agent that executes tasks: what `run` is, or what the config names. `health` then asks this one. */
    open<I = never>(agent: string, options?: OpenAgentOptions<I>): Promise<StandardAgent>;
  };
  readonly audit: {
    list(filter?: AuditFilter): Promise<results.AuditListResult>;
    verify(): Promise<results.AuditVerifyResult>;
  };
  /**
   * What happened to one piece of work, across all agents: a causal tree of its events and of the work that it led to,
   * durations, and what is still running. Costs what is found, however many events there are.
   * @throws UNKNOWN_NAME (nothing has this correlation id), NOT_MIGRATED, USAGE
   */
  trace(correlationId: string, options?: TraceOptions): Promise<results.TraceResult>;
  verify(): Promise<results.VerifyResult>;
  status(): Promise<results.StatusResult>;
  backfill(options?: BackfillOptions): Promise<results.BackfillResult>;
  sync(options?: SyncOptions): Promise<results.SyncResult>;
  check(options?: CheckOptions): Promise<results.CheckResult>;
  rollback(options?: RollbackOptions): Promise<results.RollbackResult>;
  testMapping(options?: MappingTestOptions): Promise<results.MappingTestResult>;
  /**
   * Writes and reads records on both schemas, for an agent that adopts hive. Name the type of the mapping's records:
   * `hive.writer<HiveTask>("ai-reviewer")`; without a codec a record is its rows by table.
   * @throws UNKNOWN_AGENT, USAGE, UNKNOWN_NAME
   */
  writer<R = RowsRecord>(agent: string, options?: WriterOptions): Promise<Writer<R>>;
}

/**
 * Opens the database of the settings and loads the mapping. Writes nothing.
 * @throws DATABASE_NOT_FOUND, NOT_A_DATABASE, MAPPING_INVALID, CONFIG_INVALID
 */
export async function openHive(settings: Settings, options: OpenOptions = {}): Promise<Hive> {
  const clock = options.clock ?? systemClock;
  const mapping = await loadMapping(settings);
  checkAgents(settings, mapping);
  const store = await openStore(settings, clock, options);
  const context: Context = {
    store,
    mapping,
    settings,
    clock,
    actor: options.actor ?? (process.env.HIVE_ACTOR || defaultActor()),
    signal: options.signal,
    ...(options.secondThread === false ? {} : { startSecondThread: secondThread(settings) }),
  };
  const writers = new Set<AsyncDisposable>();
  const emitOne: Emit = async (event) =>
    (await (await import("./events/outbox.ts")).emitAlone(context, event))[0] ?? null;
  let registry: Promise<Agents> | undefined;
  const agents = () => {
    registry ??= import("./registry/agents.ts").then(({ Agents }) => new Agents(context, options.emit ?? emitOne));
    return registry;
  };
  const subscriptions = new Set<Subscription>();
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
    events: {
      emit: async (events, { tx, dryRun } = {}) => {
        const { emit, emitAlone, emitNothing } = await import("./events/outbox.ts");
        if (dryRun) return emitNothing(context, events);
        return tx ? emit(tx, context, events) : emitAlone(context, events);
      },
      list: async (filter) => (await import("./events/listing.ts")).listEvents(context, filter),
      tail: async function* (options) {
        yield* (await import("./events/listing.ts")).tailEvents(context, options);
      },
      types: async () => (await import("./events/listing.ts")).listEventTypes(context),
      subscribe: async (o) => {
        const subscription = await (await import("./events/subscriptions.ts")).subscribe(context, o);
        subscriptions.add(subscription);
        const over = () => subscriptions.delete(subscription);
        subscription.ended.then(over, over);
        return subscription;
      },
      subscribers: async () => (await import("./events/subscribers.ts")).listSubscribers(context),
      unsubscribe: async (name, o) => (await import("./events/subscribers.ts")).unsubscribe(context, name, o),
      replay: async (name, o) => (await import("./events/subscribers.ts")).replay(context, name, o),
      prune: async (o) => (await import("./events/retention.ts")).prune(context, o),
      deadLetters: {
        list: async (filter) => (await import("./events/dead-letters.ts")).listDeadLetters(context, filter),
        show: async (name, seq) => (await import("./events/dead-letters.ts")).showDeadLetter(context, name, seq),
        redrive: async (o) => (await import("./events/dead-letters.ts")).redriveDeadLetters(context, o),
        drop: async (o) => (await import("./events/dead-letters.ts")).dropDeadLetters(context, o),
      },
    },
    agents: {
      list: async (filter) => (await agents()).list(filter),
      show: async (agent) => (await agents()).show(agent),
      health: async (o) => (await agents()).health(o),
      stats: async () => (await agents()).stats(),
      register: async (registration, o) => (await agents()).registry.register(registration, o),
      unregister: async (agent, o) => (await agents()).registry.unregister(agent, o),
      heartbeat: async (agent) => (await agents()).registry.heartbeat(agent),
      open: async (agent, o) => (await agents()).open(agent, o),
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
    trace: async (correlationId, o) => (await import("./events/trace.ts")).trace(context, correlationId, o),
    verify: async () => (await import("./observe/verify.ts")).verify(context),
    status: async () => (await import("./observe/status.ts")).status(context),
    backfill: async (o) => (await import("./sync/backfill.ts")).backfill(context, o),
    sync: async (o) => (await import("./sync/sync.ts")).sync(context, o),
    check: async (o) => (await import("./sync/check.ts")).check(context, o),
    rollback: async (o) => (await import("./rollout/rollback.ts")).rollback(context, o),
    testMapping: async (o) => (await import("./sync/preview.ts")).testMapping(context, o),
    writer: async <R = RowsRecord>(agent: string, o?: WriterOptions) => {
      const writer = (await import("./sync/writer.ts")).openWriter<R>(context, agent, o);
      writers.add(writer);
      return writer;
    },
    [Symbol.asyncDispose]: async () => {
      // What ended one of them was told to whoever has it.
      await Promise.allSettled([...subscriptions].map((subscription) => subscription.stop()));
      // They compare in the background, and need the database for it.
      for (const writer of writers) await writer[Symbol.asyncDispose]();
      await (await registry)?.[Symbol.asyncDispose]();
      await metricsOf(context).finish();
      await store[Symbol.asyncDispose]();
    },
  };
}

function secondThread(settings: Settings) {
  return async (agents: readonly string[]) => (await import("./thread.ts")).startThread(settings, agents);
}

/**
 * Builds a sample platform and walks through its migration and back before the presenter's audience. Leaves the
 * database and a config in the folder, or the database that the options name.
 * @throws USAGE, GUARD_REFUSED, INTERRUPTED
 */
export async function runDemo(options: DemoOptions & { clock?: Clock }): Promise<results.DemoResult> {
  const { demo } = await import("./demo/demo.ts");
  const clock = options.clock ?? systemClock;
  const storeOptions = { busyTimeoutMs: 10_000, leaseMs: LEASE_MS, clock };
  const openStore = async (database: string) =>
    isPostgres(database)
      ? (await import("./storage/postgres.ts")).openPostgres(database, storeOptions)
      : (await import("./storage/sqlite.ts")).openSqlite(database, storeOptions);
  return demo(options, { openStore, clock });
}

async function ledger(context: Context) {
  const { requireLedger } = await import("./schema/ledger.ts");
  await requireLedger(context.store);
  return context.store.read;
}

async function openStore(settings: Settings, clock: Clock, options: OpenOptions): Promise<Store> {
  const { database } = settings;
  const storeOptions = {
    busyTimeoutMs: settings.busyTimeoutMs,
    leaseMs: options.leaseMs ?? LEASE_MS,
    clock,
    signal: options.signal,
  };
  if (isPostgres(database)) return (await import("./storage/postgres.ts")).openPostgres(database, storeOptions);
  const [, scheme] = /^([a-z][a-z0-9+.-]+):\/\//i.exec(database) ?? [];
  if (scheme !== undefined && scheme !== "sqlite") {
    throw new HiveError("CONFIG_INVALID", `${scheme}: databases are not supported.`, {
      hint: "Use sqlite:PATH or postgres://USER@HOST/DATABASE.",
    });
  }
  const { openSqlite } = await import("./storage/sqlite.ts");
  return openSqlite(databasePath(settings), storeOptions);
}

/** Whether this names a PostgreSQL database. */
export function isPostgres(database: string): boolean {
  return /^postgres(ql)?:/.test(database);
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
