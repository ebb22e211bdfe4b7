import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { configProblems, configSchema } from "../../src/config-schema.ts";
import { loadSchemas } from "../../src/index.ts";
import { hivePreset } from "../../src/presets/hive/index.ts";
import { resolveAgents } from "../../src/sync/mapping.ts";

const root = new URL("../../", import.meta.url);
const { json } = await loadSchemas();

test.each(Object.entries(json))("%s is what the schema generates (else: npm run schemas)", (file, schema) => {
  expect(JSON.parse(readFileSync(new URL(file, root), "utf8"))).toEqual(schema);
});

test("no schema is left over", () => {
  const kept = readdirSync(fileURLToPath(new URL("docs/schemas", root))).map((name) => `docs/schemas/${name}`);
  expect(kept.filter((file) => !(file in json))).toEqual([]);
});

test("the example config is good, and says what the defaults are", () => {
  const example: unknown = JSON.parse(readFileSync(new URL("hive.config.example.json", root), "utf8"));
  expect(configProblems(example)).toEqual([]);
  const { $schema, database, agents, ...others } = configSchema.parse(example);
  expect([$schema, database]).toEqual(["./hive.config.schema.json", "sqlite:./hive.db"]);
  expect(resolveAgents(hivePreset, Object.keys(agents)).length).toBe(Object.keys(agents).length);
  const { agents: _, database: __, ...defaults } = configSchema.parse({});
  expect(others).toEqual(defaults);
});
