import { readdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

/** The modules of hive that a run works with: of the sources, of a build, or of a build with a deliberate fault. */
export interface Engine {
  readonly CONFIG_DEFAULTS: typeof import("../../src/config.ts").CONFIG_DEFAULTS;
  readonly openSqlite: typeof import("../../src/storage/sqlite.ts").openSqlite;
  readonly migrateUp: typeof import("../../src/schema/migrator.ts").migrateUp;
  readonly changeFlags: typeof import("../../src/flags/flags.ts").changeFlags;
  readonly rollback: typeof import("../../src/rollout/rollback.ts").rollback;
  readonly backfill: typeof import("../../src/sync/backfill.ts").backfill;
  readonly sync: typeof import("../../src/sync/sync.ts").sync;
  readonly check: typeof import("../../src/sync/check.ts").check;
  readonly retryQuarantine: typeof import("../../src/sync/quarantine.ts").retryQuarantine;
  readonly openWriter: typeof import("../../src/sync/writer.ts").openWriter;
  readonly verifyAudit: typeof import("../../src/rollout/audit.ts").verifyAudit;
}

/** Everything that is loaded later by the engine is loaded here: an import in the middle of a run is no turn of anybody. */
export async function loadEngine(directory: string): Promise<Engine> {
  const extension = readdirSync(directory).includes("hive.ts") ? "ts" : "js";
  const load = (name: string) => import(/* @vite-ignore */ pathToFileURL(join(directory, `${name}.${extension}`)).href);
  const config: typeof import("../../src/config.ts") = await load("config");
  const sqlite: typeof import("../../src/storage/sqlite.ts") = await load("storage/sqlite");
  const migrator: typeof import("../../src/schema/migrator.ts") = await load("schema/migrator");
  const flags: typeof import("../../src/flags/flags.ts") = await load("flags/flags");
  const rollback: typeof import("../../src/rollout/rollback.ts") = await load("rollout/rollback");
  const backfill: typeof import("../../src/sync/backfill.ts") = await load("sync/backfill");
  const sync: typeof import("../../src/sync/sync.ts") = await load("sync/sync");
  const check: typeof import("../../src/sync/check.ts") = await load("sync/check");
  const quarantine: typeof import("../../src/sync/quarantine.ts") = await load("sync/quarantine");
  const writer: typeof import("../../src/sync/writer.ts") = await load("sync/writer");
  const audit: typeof import("../../src/rollout/audit.ts") = await load("rollout/audit");
  await Promise.all(["sync/capture", "sync/project", "sync/reconcile", "sync/settle"].map(load));
  return {
    CONFIG_DEFAULTS: config.CONFIG_DEFAULTS,
    openSqlite: sqlite.openSqlite,
    migrateUp: migrator.migrateUp,
    changeFlags: flags.changeFlags,
    rollback: rollback.rollback,
    backfill: backfill.backfill,
    sync: sync.sync,
    check: check.check,
    retryQuarantine: quarantine.retryQuarantine,
    openWriter: writer.openWriter,
    verifyAudit: audit.verifyAudit,
  };
}
