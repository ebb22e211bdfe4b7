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
export type { DemoOptions, Presenter } from "./demo/demo.ts";
export {
  asHiveError,
  ERROR_CODES,
  type ErrorCode,
  HiveError,
  type HiveErrorOptions,
  nearest,
} from "./errors.ts";
export type { FlagChange } from "./flags/flags.ts";
export { FLAGS, type Flag, READS, type Reads, STAGES, type Stage } from "./flags/stages.ts";
export {
  type BackfillOptions,
  type CheckOptions,
  databasePath,
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
export type * from "./results.ts";
export type { AuditFilter } from "./rollout/audit.ts";
export type { LockHolder, Store } from "./storage/port.ts";
export type { Value } from "./storage/sql.ts";
export {
  type Adoption,
  type AgentSpec,
  type Aggregate,
  type AggregateMapping,
  type ColumnKind,
  type DataRow,
  defineMapping,
  type LegacyRelated,
  type LegacyRoot,
  MappingError,
  type PlatformMapping,
  type RelatedTable,
  type RootTable,
  type UnifiedRelated,
  type UnifiedRoot,
} from "./sync/mapping.ts";

/**
 * The zod schemas of the config and of every result (by command), and all of them as JSON Schemas by the file that
 * each is kept in. Loads zod.
 */
export async function loadSchemas() {
  const { configSchema, jsonSchemas, RESULTS } = await import("./schemas.ts");
  return { config: configSchema, results: RESULTS, json: jsonSchemas() };
}
