import { writeFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { type Backend, type Place, placeAt } from "./backends.ts";
import { temporaryDirectory } from "./context.ts";
import { NATURAL } from "./legacy-postgres.ts";

/**
 * A folder with `hive.db`, a small platform: titles that would steer a terminal, and a row that cannot be mapped. With
 * a config, unless told otherwise.
 */
export function smallPlatform(options: { config?: boolean } = {}): string {
  const cwd = temporaryDirectory();
  const database = new Database(join(cwd, "hive.db"));
  database.exec(`
    CREATE TABLE tasks (id TEXT PRIMARY KEY, title TEXT NOT NULL, description TEXT, task_type TEXT NOT NULL,
      priority INTEGER DEFAULT 1, status TEXT NOT NULL DEFAULT 'queued', current_phase TEXT NOT NULL DEFAULT 'start',
      workflow TEXT, payload TEXT, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
      updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, assigned_worker TEXT, due_date TIMESTAMP,
      max_retries INTEGER DEFAULT 3, tags TEXT);
    CREATE TABLE workers (id TEXT PRIMARY KEY, role TEXT NOT NULL);
    CREATE TABLE runs (id TEXT PRIMARY KEY, task_id TEXT NOT NULL REFERENCES tasks(id) ON DELETE CASCADE,
      worker_id TEXT NOT NULL, run_number INTEGER NOT NULL, status TEXT DEFAULT 'pending', phase TEXT,
      started_at TIMESTAMP, completed_at TIMESTAMP, result_data TEXT, error_message TEXT, output_log TEXT,
      transcript TEXT, UNIQUE(task_id, run_number));
    CREATE TABLE planning_queue (id TEXT PRIMARY KEY, task_description TEXT NOT NULL, priority INTEGER DEFAULT 50,
      requestor TEXT, context_data TEXT, status TEXT DEFAULT 'pending', complexity_estimate TEXT,
      created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, assigned_at TIMESTAMP, completed_at TIMESTAMP, assigned_agent TEXT);
    CREATE TABLE execution_plans (id TEXT PRIMARY KEY, planning_task_id TEXT NOT NULL, plan_data TEXT NOT NULL,
      estimated_duration INTEGER, estimated_complexity TEXT DEFAULT 'medium', generated_workflow TEXT,
      subtask_count INTEGER DEFAULT 0, dependency_count INTEGER DEFAULT 0,
      generated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, status TEXT DEFAULT 'draft');
    CREATE TABLE deployment_events (id INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL,
      event_type TEXT NOT NULL, details TEXT, timestamp TIMESTAMP NOT NULL);
  `);
  const insert = database.prepare("INSERT INTO tasks (id, title, task_type, status, payload) VALUES (?, ?, ?, ?, ?)");
  for (let i = 0; i < 30; i++) {
    insert.run(`task-${i}`, `title ${i} \u001b[2J`, i % 3 === 0 ? "review" : "backend", "queued", '{"files":["a.py"]}');
  }
  insert.run(null, "no id", "backend", "queued", null);
  database.close();
  if (options.config !== false) writeFileSync(join(cwd, "hive.config.json"), '{"database":"sqlite:./hive.db"}');
  return cwd;
}

export interface SmallPlatform {
  /** With `hive.config.json`. */
  readonly cwd: string;
  readonly place: Place;
}

/** The same on either database: on PostgreSQL with types of its own. */
export async function smallPlatformOn(backend: Backend): Promise<SmallPlatform> {
  if (backend.name === "sqlite") {
    const cwd = smallPlatform();
    return { cwd, place: placeAt(join(cwd, "hive.db")) };
  }
  const cwd = temporaryDirectory();
  const rows = Array.from({ length: 30 }, (_, i) => {
    const type = i % 3 === 0 ? "review" : "backend";
    return `('task-${i}', 'title ${i} \u001b[2J', '${type}', 'queued', '{"files":["a.py"]}')`;
  });
  rows.push("(NULL, 'no id', 'backend', 'queued', NULL)");
  const place = await backend.create({
    legacy: { ...NATURAL, unique: "UNIQUE" },
    rows: `INSERT INTO tasks (id, title, task_type, status, payload) VALUES ${rows.join(", ")}`,
  });
  writeFileSync(join(cwd, "hive.config.json"), JSON.stringify({ database: place.url }));
  return { cwd, place };
}
