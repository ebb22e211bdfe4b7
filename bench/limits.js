// What the same work would cost at the least, and what a user would do instead. On the same data, in the same run.
import { copyFileSync } from "node:fs";
import { hivePreset } from "../dist/presets/hive/index.js";
import { open, timed } from "./support.js";

const UNIFIED = ["unified_tasks", "unified_review_tasks", "unified_workflow_tasks", "unified_deployment_tasks"];

/** What the preset's mappings read. */
const LEGACY_READS = [
  "SELECT * FROM main.tasks",
  `SELECT id, task_id, run_number, phase, status, started_at, completed_at, result_data, error_message FROM main.runs`,
  "SELECT id, task_id, event_type, details, timestamp FROM main.deployment_events",
  "SELECT * FROM main.planning_queue",
  "SELECT * FROM main.execution_plans",
];

/**
 * The limit of a backfill: every legacy row read once with the driver, and one INSERT … SELECT of the very bytes that
 * the backfill of `filled` wrote, into the same tables with the same indexes.
 */
export function backfillLimit(legacy, filled, path) {
  copyFileSync(legacy, path);
  const db = open(path);
  createUnified(db, filled);
  const read = timed(() => readAll(db, LEGACY_READS));
  const insert = timed(() => {
    for (const table of UNIFIED) db.exec(`INSERT INTO main.${table} SELECT * FROM filled.${table}`);
  });
  db.close();
  return { read, insert, seconds: read + insert };
}

/** The limit of a check: every row of both sides read once with the driver. */
export function checkLimit(filled) {
  const db = open(filled);
  const seconds = timed(() => readAll(db, [...LEGACY_READS, ...UNIFIED.map((table) => `SELECT * FROM main.${table}`)]));
  db.close();
  return { seconds };
}

function readAll(db, queries) {
  let rows = 0;
  // The quickest way that the driver has, and the one that hive reads in.
  for (const query of queries) for (const _ of db.prepare(query).raw(true).safeIntegers(true).iterate()) rows += 1;
  return rows;
}

/**
 * The script that one would write by hand: row by row, each aggregate with its related rows, mapped and written in a
 * transaction of its own, so that agents are not kept waiting. The mapping is the preset's own, so that the bytes are
 * the same. Only every `nth` aggregate of each kind: the rate is what counts.
 */
export function byHand(legacy, filled, path, nth) {
  copyFileSync(legacy, path);
  const db = open(path);
  createUnified(db, filled);
  const relatedTo = {
    tasks: {
      runs: db.prepare(`${LEGACY_READS[1]} WHERE task_id = ? ORDER BY run_number, id`).safeIntegers(),
      deployment_events: db.prepare(`${LEGACY_READS[2]} WHERE task_id = ? ORDER BY id`).safeIntegers(),
    },
  };
  const inserts = new Map();
  const insertFor = (table, columns) => {
    let insert = inserts.get(table);
    if (!insert) {
      insert = db.prepare(`INSERT INTO ${table} (${columns.join(",")}) VALUES (${columns.map(() => "?").join(",")})`);
      inserts.set(table, insert);
    }
    return insert;
  };
  const move = db.transaction((mapping, root) => {
    const aggregate = { [mapping.name]: [root] };
    for (const [table, query] of Object.entries(relatedTo[mapping.name] ?? {})) aggregate[table] = query.all(root.id);
    for (const [table, rows] of Object.entries(mapping.up(aggregate))) {
      for (const row of rows) {
        const columns = Object.keys(row);
        insertFor(table, columns).run(columns.map((column) => row[column]));
      }
    }
  });
  let rows = 0;
  const seconds = timed(() => {
    for (const mapping of hivePreset.aggregates) {
      const some = db.prepare(`SELECT * FROM ${mapping.name} WHERE rowid % ? = 0`).safeIntegers().all(nth);
      for (const root of some) move(mapping, root);
      rows += some.length;
    }
  });
  db.close();
  return { seconds, rows };
}

function createUnified(db, filled) {
  db.exec(`ATTACH '${filled}' AS filled`);
  const schema = db
    .prepare(
      "SELECT sql FROM filled.sqlite_schema WHERE tbl_name LIKE 'unified_%' AND sql IS NOT NULL ORDER BY type DESC",
    )
    .all();
  for (const { sql } of schema) db.exec(sql);
}
