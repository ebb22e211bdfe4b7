// Writes hive.config.schema.json and docs/schemas from the zod schemas: `npm run schemas`.
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { loadSchemas } from "../dist/index.js";

const { json } = await loadSchemas();
for (const [file, schema] of Object.entries(json)) {
  const path = fileURLToPath(new URL(`../${file}`, import.meta.url));
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `${JSON.stringify(schema, null, 2)}\n`);
}
console.log(`wrote ${Object.keys(json).length} schemas`);
