// An agent that knows nothing of hive, for tests: plain SQL, one short transaction after the other, as long as it is
// told to. Lines on stdin: {"start": {path, name, seed, led, everyMs}} and {"stop": true}; on stdout one line when the
// first write of a start was acknowledged, and one when it stopped, with everything that was acknowledged.
//
// `led`: it reads the agent's flags in the transaction in which it writes, and writes the side that leads. Otherwise it
// only knows the legacy side. Each writer has keys of its own, and each write raises the version in the title by one: a
// version that is not the last one acknowledged was lost, revived or written over by something older.
import { createInterface } from "node:readline";
import Database from "better-sqlite3";

const KINDS = [
  { type: "backend", agent: "hive-coder", unified: "code" },
  { type: "review", agent: "ai-reviewer", unified: "review" },
  { type: "deployment", agent: "ai-deployer", unified: "deploy" },
  { type: "analysis", agent: "ai-planner", unified: "plan" },
];

/** Mulberry32: the same writes for the same seed, as far as nobody comes in between. */
function randomFrom(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

class Writer {
  constructor({ path, name, seed, led = false, everyMs = 4, keys = 24, model = {} }) {
    Object.assign(this, { name, led, everyMs, keys, model });
    this.random = randomFrom(seed);
    this.db = new Database(path, { timeout: 20_000 });
    this.db.pragma(`foreign_keys = ${this.random() < 0.5 ? "ON" : "OFF"}`);
    this.anomalies = [];
    this.statements = 0;
    this.sides = { legacy: 0, unified: 0 };
    this.runs = 0;
  }

  write() {
    const number = Math.floor(this.random() * this.keys);
    const kind = KINDS[number % KINDS.length];
    const key = `w-${this.name}-${number}`;
    const { db } = this;
    db.exec("BEGIN IMMEDIATE");
    let next;
    try {
      const side = this.led && this.leads(kind.agent) ? "unified" : "legacy";
      const before = this.model[key] ?? null;
      const found = side === "unified" ? this.unifiedVersion(key) : this.legacyVersion(key);
      const expected = before?.gone ? null : (before?.version ?? null);
      if (found !== expected) this.anomalies.push({ key, side, expected, found, after: this.statements });
      const version = (before?.version ?? 0) + 1;
      const gone = found !== null && this.random() < 0.12;
      this[side](key, kind, version, found !== null, gone);
      this.sides[side] += 1;
      next = { version, gone };
      db.exec("COMMIT");
    } catch (error) {
      if (db.inTransaction) db.exec("ROLLBACK");
      throw error;
    }
    // Only now was it acknowledged.
    this.model[key] = next;
    this.statements += 1;
  }

  leads(agent) {
    const reads = this.db.prepare("SELECT value FROM hive_flags WHERE agent = ? AND flag = 'reads'").pluck().get(agent);
    return reads === "live" || reads === "unified";
  }

  legacyVersion(key) {
    return versionIn(this.db.prepare("SELECT title FROM tasks WHERE id = ?").pluck().get(key));
  }

  unifiedVersion(key) {
    const title = "SELECT json_extract(input_data, '$.title') FROM unified_tasks WHERE id = ?";
    return versionIn(this.db.prepare(title).pluck().get(key));
  }

  legacy(key, { type }, version, exists, gone) {
    const run = (sql, ...values) => this.db.prepare(sql).run(...values);
    const title = `v${version}`;
    if (gone) {
      run("DELETE FROM runs WHERE task_id = ?", key);
      run("DELETE FROM deployment_events WHERE task_id = ?", key);
      run("DELETE FROM tasks WHERE id = ?", key);
      return;
    }
    const way = this.random();
    if (!exists || way < 0.2) {
      const how = exists || way < 0.5 ? "INSERT OR REPLACE" : "INSERT";
      run(
        `${how} INTO tasks (id, title, task_type, status, payload) VALUES (?, ?, ?, 'queued', '{"files":["a.py"]}')`,
        key,
        title,
        type,
      );
    } else {
      const status = ["in_progress", "completed", "failed", "queued"][Math.floor(way * 40) % 4];
      run("UPDATE tasks SET title = ?, status = ?, updated_at = CURRENT_TIMESTAMP WHERE id = ?", title, status, key);
    }
    if (this.random() < 0.3) {
      run("INSERT OR IGNORE INTO workers (id, role) VALUES ('w-worker', 'test')");
      this.runs += 1;
      run(
        `INSERT OR REPLACE INTO runs (id, task_id, worker_id, run_number, status, result_data)
         VALUES (?, ?, 'w-worker', ?, 'success', ?)`,
        `${this.name}-${this.runs % 40}`,
        key,
        this.runs,
        JSON.stringify({ title }),
      );
    }
  }

  unified(key, { unified, agent }, version, exists, gone) {
    const run = (sql, ...values) => this.db.prepare(sql).run(...values);
    const now = new Date().toISOString();
    if (gone) {
      for (const table of ["unified_review_tasks", "unified_workflow_tasks", "unified_deployment_tasks"]) {
        run(`DELETE FROM ${table} WHERE task_id = ?`, key);
      }
      run("DELETE FROM unified_tasks WHERE id = ?", key);
    } else if (exists) {
      const change =
        "UPDATE unified_tasks SET input_data = json_set(input_data, '$.title', ?), updated_at = ? WHERE id = ?";
      run(change, `v${version}`, now, key);
    } else {
      run(
        `INSERT INTO unified_tasks (id, correlation_id, task_type, status, agent_type, priority, input_data, created_at, updated_at)
         VALUES (?, ?, ?, 'queued', ?, 5, ?, ?, ?)`,
        ...[
          key,
          key,
          unified,
          agent,
          JSON.stringify({ title: `v${version}`, description: null, payload: null }),
          now,
          now,
        ],
      );
    }
  }

  close() {
    this.db.close();
    const { model, anomalies, statements, sides } = this;
    return { event: "stopped", model, anomalies, statements, sides };
  }
}

function versionIn(title) {
  return typeof title === "string" && /^v\d+$/.test(title) ? Number(title.slice(1)) : null;
}

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);
let writers = [];
let timer;

function round() {
  try {
    for (const writer of writers) {
      writer.write();
      if (writer.statements === 1) say({ event: "writing", name: writer.name });
    }
  } catch (error) {
    say({ event: "failed", message: String(error?.message ?? error) });
    process.exit(1);
  }
  timer = setTimeout(round, writers[0]?.everyMs ?? 4);
}

createInterface({ input: process.stdin }).on("line", (line) => {
  const { start, stop } = JSON.parse(line);
  if (start) {
    writers = start.map((one) => new Writer(one));
    round();
  }
  if (stop) {
    clearTimeout(timer);
    for (const writer of writers) say(writer.close());
    writers = [];
  }
});
