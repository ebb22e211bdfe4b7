// The dual writer's create against what it cannot do without: inserting the same two rows, ready made, in one
// transaction, into a file without triggers.
import { rmSync } from "node:fs";
import Database from "better-sqlite3";
import { open } from "./support.js";

export async function measure(hive, database, operations) {
  const copy = `${database}.bare`;
  const read = new Database(database);
  read.exec(`VACUUM INTO '${copy.replaceAll("'", "''")}'`);
  const bareDb = open(copy);
  for (const name of bareDb.prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger'").pluck().all()) {
    bareDb.exec(`DROP TRIGGER "${name}"`);
  }
  const rowOf = (table) => read.prepare(`SELECT * FROM ${table} WHERE id = ?`);
  const insertInto = (table) => {
    const names = bareDb.prepare("SELECT name FROM pragma_table_info(?)").pluck().all(table);
    return bareDb.prepare(`INSERT INTO ${table} (${names}) VALUES (${names.map((name) => `@${name}`)})`);
  };
  const tables = ["tasks", "unified_tasks"].map((name) => [rowOf(name), insertInto(name)]);
  const writer = await hive.writer("hive-coder");
  const dual = [];
  const bare = [];
  for (let i = -200; i < operations; i++) {
    const began = performance.now();
    const { record } = await writer.create({
      taskType: "code",
      status: "queued",
      priority: 6,
      inputData: { title: `task ${i}`, description: "d", payload: { files: ["a.py"], note: "x".repeat(200) } },
    });
    const took = performance.now() - began;
    const rows = tables.map(([row, insert]) => [row.get(record.id), insert]);
    const bareBegan = performance.now();
    bareDb.exec("BEGIN IMMEDIATE");
    for (const [row, insert] of rows) insert.run(row);
    bareDb.exec("COMMIT");
    if (i < 0) continue;
    dual.push(took);
    bare.push(performance.now() - bareBegan);
  }
  await writer[Symbol.asyncDispose]();
  read.close();
  bareDb.close();
  for (const suffix of ["", "-wal", "-shm"]) rmSync(copy + suffix, { force: true });
  return { dual, bare };
}
