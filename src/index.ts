/**
 * The public API. Everything heavy (zod, the migrator, a database driver) is loaded when it is first used, so that
 * importing this costs next to nothing.
 */
export { type Clock, isoTime, type Signal, systemClock } from "./clock.ts";
export {
  CONFIG_DEFAULTS,
  CONFIG_PLACES,
  type Config,
  type ConfigFile,
  type ConfigSources,
  describeConfig,
  ENVIRONMENT,
  type LoadedConfig,
  loadConfig,
  readConfig,
  type SettingKey,
  type Settings,
} from "./config.ts";
export type { ChangeOptions, Context, Progress } from "./context.ts";
export type { DemoOptions, Presenter, Watching } from "./demo/demo.ts";
export {
  asHiveError,
  ERROR_CODES,
  type ErrorCode,
  HiveError,
  type HiveErrorOptions,
  nearest,
} from "./errors.ts";
export { type CloudEvent, type FromCloudEvent, fromCloudEvent, toCloudEvent } from "./events/cloudevents.ts";
export type { DeadLetterChange, DeadLetterFilter } from "./events/dead-letters.ts";
export type { HiveEvent, InvalidEvent, Json, JsonObject, NewEvent } from "./events/event.ts";
export type { EventListFilter, TailOptions } from "./events/listing.ts";
export type { EmittedEvent, EventFilter } from "./events/outbox.ts";
export type { ReplayOptions } from "./events/subscribers.ts";
export type { Backoff, Delivery, SubscribeOptions, Subscription, SubscriptionEvent } from "./events/subscriptions.ts";
export { type Handler, matches, TopicRegistry } from "./events/topics.ts";
export type { TraceOptions } from "./events/trace.ts";
export type { FlagChange } from "./flags/flags.ts";
export { FLAGS, type Flag, READS, type Reads, STAGES, type Stage } from "./flags/stages.ts";
export {
  type BackfillOptions,
  type CheckOptions,
  databasePath,
  type EmitOptions,
  type FlagOptions,
  type Hive,
  type KeptFilter,
  type MappingTestOptions,
  type MigrateDownOptions,
  type MigrateUpOptions,
  type OpenOptions,
  openHive,
  type QuarantineFilter,
  type RollbackOptions,
  runDemo,
} from "./hive.ts";
export { type InitOptions, initConfig, suggestConfig } from "./init.ts";
export type { Percentiles } from "./observe/histogram.ts";
export {
  createDeploymentEvent,
  createTaskEvent,
  createWorkflowEvent,
  type DeploymentEventInput,
  type TaskEventInput,
  type WorkflowEventInput,
} from "./presets/hive/create-events.ts";
export type {
  HiveDeployment,
  HiveReview,
  HiveTask,
  HiveWorkflow,
  JsonValue,
} from "./presets/hive/records.ts";
export type { HealthAnswer, HealthStatus, Request as AgentRequest } from "./registry/adapters.ts";
export type { AgentEvent, AgentTask, Emit, HealthReport, StandardAgent, TaskResult } from "./registry/agent.ts";
export type { AgentHealthOptions } from "./registry/agents.ts";
export type { OpenAgentOptions } from "./registry/open.ts";
export type { AgentFilter, RegisteredAgent, Registration, RegistryOptions } from "./registry/registry.ts";
export type * from "./results.ts";
export type { AuditFilter } from "./rollout/audit.ts";
export type { LockHolder, Row, Store, Transaction } from "./storage/port.ts";
export { type Sql, sql, type Value } from "./storage/sql.ts";
export {
  type Adoption,
  type AgentSpec,
  type Aggregate,
  type AggregateMapping,
  type ColumnKind,
  type DataRow,
  defineMapping,
  type EventSpec,
  type LegacyRelated,
  type LegacyRoot,
  MappingError,
  type PayloadSchema,
  type PlatformMapping,
  type RecordCodec,
  type RelatedTable,
  type RootTable,
  type SpanSpec,
  type TaskFacts,
  type TaskMoment,
  type TaskSchema,
  type TaskSpec,
  type TraceSpec,
  type UnifiedRelated,
  type UnifiedRoot,
  type WorkTable,
} from "./sync/mapping.ts";
export type { PlainRow, PlainValue, RowsRecord } from "./sync/records.ts";
export type { ComparisonStats, ShadowReadOptions } from "./sync/shadow-reads.ts";
export type { SyncEvent, SyncOptions } from "./sync/sync.ts";
export type { CheckEvent } from "./sync/watch-check.ts";
export type {
  ChangeCondition,
  Changes,
  Deleted,
  ListOptions,
  Operation,
  OperationStats,
  RecordFilter,
  RecordPage,
  Writer,
  WriterEvent,
  WriterOptions,
  WriterStats,
  WriterTransaction,
  Written,
} from "./sync/writer.ts";

/**
 * The zod schemas of the config and of every result (by command), and all of them as JSON Schemas by the file that
 * each is kept in. Loads zod.
 */
export async function loadSchemas() {
  const { configSchema, jsonSchemas, RESULTS } = await import("./schemas.ts");
  return { config: configSchema, results: RESULTS, json: jsonSchemas() };
}
