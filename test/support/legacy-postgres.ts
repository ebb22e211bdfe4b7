import { samplePlatform } from "../../src/presets/hive/sample.ts";
import { AS_TEXT, legacySchema, NATURAL } from "../../src/presets/hive/sample-schema-postgres.ts";
import { executeSync, insertSync, type LeftOut } from "./sync-postgres.ts";

export { AS_TEXT, type LegacyTypes, legacySchema, NATURAL } from "../../src/presets/hive/sample-schema-postgres.ts";

export const naturalLegacySchema = legacySchema(NATURAL);
export const textLegacySchema = legacySchema(AS_TEXT);

/** Fills tables of any of these shapes with generated rows. Returns those that they cannot hold. */
export function fillPostgres(url: string, options: { tasks: number; dirt?: boolean; seed?: number }): LeftOut[] {
  const leftOut: LeftOut[] = [];
  for (const { table, columns, chunks } of samplePlatform(options).tables) {
    for (const rows of chunks()) leftOut.push(...insertSync(url, table, columns, rows));
  }
  executeSync(
    url,
    "SELECT setval(pg_get_serial_sequence('deployment_events', 'id'), max(id)) FROM deployment_events HAVING max(id) > 0",
  );
  return leftOut;
}
