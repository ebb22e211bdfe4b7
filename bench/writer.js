// An agent that changes `rate` different tasks a second, for so many seconds: node writer.js DATABASE RATE SECONDS
import { setTimeout as delay } from "node:timers/promises";
import Database from "better-sqlite3";

const [path, rate, seconds] = process.argv.slice(2);
const db = new Database(path, { timeout: 10_000 });
db.pragma("synchronous = NORMAL");
const keys = db.prepare("SELECT id FROM tasks ORDER BY id").pluck().all();
const update = db.prepare("UPDATE tasks SET status = ?, updated_at = CURRENT_TIMESTAMP WHERE id = ?");
const began = performance.now();
let done = 0;
for (;;) {
  const elapsed = (performance.now() - began) / 1000;
  if (elapsed >= Number(seconds)) break;
  for (const due = Math.floor(elapsed * Number(rate)); done < due; done++) {
    update.run(Math.floor(done / keys.length) % 2 ? "queued" : "running", keys[(done * 7919) % keys.length]);
  }
  await delay(1);
}
db.close();
