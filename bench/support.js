import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import Database from "better-sqlite3";
import { samplePlatform } from "../dist/presets/hive/sample.js";

const OPERATION = fileURLToPath(new URL("./operation.js", import.meta.url));

/** A folder that is removed when the benchmark ends. */
export function workFolder() {
  const folder = mkdtempSync(join(process.env.HIVE_BENCH_DIR ?? tmpdir(), "hive-bench-"));
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Opens a database with the settings that hive's own writer has, so that both sides of a ratio pay the same. */
export function open(path) {
  const db = new Database(path);
  db.pragma("journal_mode = WAL");
  db.pragma("synchronous = NORMAL");
  db.pragma("cache_size = -16384");
  db.pragma("temp_store = MEMORY");
  return db;
}

/** A platform of `tasks` tasks with their runs, plans and events; without dirt, so that every row can be moved. */
export function createPlatform(path, tasks) {
  writeFileSync(path, "");
  const db = open(path);
  db.pragma("synchronous = OFF");
  const platform = samplePlatform({ tasks });
  for (const statement of platform.schema) db.exec(statement);
  let rows = 0;
  for (const table of platform.tables) {
    const marks = table.columns.map(() => "?").join(",");
    const insert = db.prepare(`INSERT INTO "${table.table}" (${table.columns.join(",")}) VALUES (${marks})`);
    db.exec("BEGIN");
    for (const chunk of table.chunks()) {
      for (const row of chunk) insert.run(row);
      rows += chunk.length;
    }
    db.exec("COMMIT");
  }
  db.pragma("wal_checkpoint(TRUNCATE)");
  db.close();
  return rows;
}

/** Runs one operation of the library in a process of its own: `{seconds, result, maxRssMb}`. */
export function operation(database, name, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [OPERATION, database, name, JSON.stringify(options)], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let output = "";
    child.stdout.on("data", (data) => {
      output += data;
    });
    child.once("close", (code) => {
      if (code === 0) resolve(JSON.parse(output));
      else reject(new Error(`${name} ended with code ${code}`));
    });
  });
}

export function timed(work) {
  const began = performance.now();
  work();
  return (performance.now() - began) / 1000;
}

export function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}
