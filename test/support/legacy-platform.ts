import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import Database from "better-sqlite3";
import { type Clock, systemClock } from "../../src/clock.ts";
import type { Context } from "../../src/context.ts";
import { changeFlags } from "../../src/flags/flags.ts";
import { STAGES, type Stage, settingBetween, valueText } from "../../src/flags/stages.ts";
import { hivePreset } from "../../src/presets/hive/index.ts";
import { samplePlatform } from "../../src/presets/hive/sample.ts";
import { LEGACY_SCHEMA } from "../../src/presets/hive/sample-schema.ts";
import { type TestContextOptions, temporaryDirectory, testContext } from "./context.ts";
import { fillPostgres } from "./legacy-postgres.ts";
import { isPostgres } from "./postgres.ts";
import { executeSync, type LeftOut, selectSync } from "./sync-postgres.ts";

/** The platform's databases for tests, in folders of the running test. */

/** A writable copy. */
export function copyOf(path: string): string {
  const copy = join(temporaryDirectory(), "legacy.db");
  copyFileSync(path, copy);
  execute(copy, "PRAGMA journal_mode = WAL");
  return copy;
}

/** The legacy schema with generated rows; `tasks: 0` leaves it empty. */
export function sampleDatabase(options: { tasks: number; dirt?: boolean; seed?: number }): string {
  const path = join(temporaryDirectory(), "sample.db");
  fillSample(path, options);
  return path;
}

/** Tables and generated rows; on PostgreSQL only the rows. Returns what the tables there cannot hold. */
export function fillSample(path: string, options: { tasks: number; dirt?: boolean; seed?: number }): LeftOut[] {
  if (isPostgres(path)) return fillPostgres(path, options);
  const db = new Database(path);
  db.pragma("journal_mode = WAL");
  db.pragma("foreign_keys = OFF");
  const platform = samplePlatform(options);
  db.transaction(() => {
    for (const statement of platform.schema) db.exec(statement);
    for (const { table, columns, chunks } of platform.tables) {
      const insert = db.prepare(
        `INSERT INTO ${table} (${columns.join(", ")}) VALUES (${columns.map(() => "?").join(", ")})`,
      );
      for (const rows of chunks()) for (const row of rows) insert.run(row);
    }
  })();
  db.close();
  return [];
}

/** As any other process would write: plain SQL, past hive, foreign keys off as in some of the agents. */
export function execute(path: string, text: string): void {
  if (isPostgres(path)) {
    executeSync(path, findingHive(text));
    return;
  }
  const db = new Database(path);
  db.pragma("foreign_keys = OFF");
  db.exec(text);
  db.close();
}

export function select(path: string, text: string): Record<string, unknown>[] {
  if (isPostgres(path)) return selectSync(path, findingHive(text));
  const db = new Database(path, { readonly: true });
  const rows: unknown[] = db.prepare(text).all();
  db.close();
  return rows.map((row) => Object.fromEntries(Object.entries(row ?? {})));
}

/** hive's tables have a schema of their own there, which no agent has on its path. */
const findingHive = (text: string) => (/\bhive_/.test(text) ? `SET search_path = public, hive; ${text}` : text);

export function integrity(path: string): unknown {
  const db = new Database(path);
  const answer = db.pragma("integrity_check", { simple: true });
  db.close();
  return answer;
}

/** The system's clock, but whoever sleeps finds that the time has passed: what others' commits make hive wait for. */
export function hastyClock(): Clock {
  let skipped = 0;
  return {
    ...systemClock,
    now: () => Date.now() + Math.round(skipped),
    monotonic: () => performance.now() + skipped,
    sleep: async (ms) => {
      skipped += ms;
      await nextTurn();
    },
  };
}

export const platformContext = (path: string, options: TestContextOptions = {}) =>
  testContext(path, { mapping: hivePreset, ...options });

/** Moves agents forward, stage by stage, through the guards; `before` does what the next stage asks for. */
export async function advance(
  context: Context,
  agents: readonly string[],
  to: Stage,
  before: (stage: Stage) => Promise<unknown> = async () => undefined,
): Promise<void> {
  for (const stage of STAGES.slice(1, STAGES.indexOf(to) + 1)) {
    await before(stage);
    const { flag, value } = settingBetween(STAGES[STAGES.indexOf(stage) - 1] ?? "off", stage);
    await changeFlags(
      context,
      agents.map((agent) => ({ agent, flag, value: valueText(value) })),
    );
  }
}

/** As {@link execute}, unseen by the triggers: what makes two sides differ that hive believes to be equal. */
export function executeUnseen(path: string, text: string): void {
  const [begin, end] = isPostgres(path)
    ? ["SET LOCAL hive.applying = 'on'", "SET LOCAL hive.applying = ''"]
    : ["INSERT INTO hive_applying VALUES (1)", "DELETE FROM hive_applying"];
  execute(path, `BEGIN; ${begin}; ${text}; ${end}; COMMIT;`);
}

/** Flags as SQL writes them, past the guards; of one agent, or of all. */
export function place(path: string, agents: string | readonly string[], stage: Stage): void {
  const statements = STAGES.slice(1, STAGES.indexOf(stage) + 1).flatMap((one) => {
    const { flag, value } = settingBetween(STAGES[STAGES.indexOf(one) - 1] ?? "off", one);
    return [agents].flat().map(
      (agent) => `INSERT INTO hive_flags VALUES ('${agent}', '${flag}', '${valueText(value)}', '')
          ON CONFLICT (agent, flag) DO UPDATE SET value = excluded.value;`,
    );
  });
  execute(path, `BEGIN; ${statements.join("\n")} COMMIT;`);
}

/** The legacy schema with these rows only. */
export function legacyFile(rows: string): string {
  const path = join(temporaryDirectory(), "legacy.db");
  execute(path, `PRAGMA journal_mode = WAL; ${LEGACY_SCHEMA.join(";\n")};\n${rows}`);
  return path;
}
