// What `hive trace` costs with very many events, against a bare SELECT of the same rows by the same index; and what the
// index by cause costs those who emit.
import { join } from "node:path";
import { openHive } from "../dist/hive.js";
import { CONFIG_DEFAULTS } from "../dist/index.js";
import { createPlatform, median, open } from "./support.js";

const EVENTS_OF_PLAN = 40;
const TASKS_OF_PLAN = 4;

/** One plan: asked for, made, and its tasks. What caused what is told by half of them. */
function planEvents(plan) {
  const [queue, id] = [`queue-${plan}`, `plan-${plan}`];
  const events = [];
  const add = (type, subject, correlation, cause, payload) => {
    const own = `0190-${plan}-${events.length}`;
    events.push([own, type, "hive-coder", correlation, cause, subject, payload]);
    return own;
  };
  const asked = add("plan.requested", queue, queue, null, `{"description":"plan ${plan}"}`);
  add("plan.generated", queue, queue, asked, `{"plan_id":"${id}"}`);
  add("plan.execution_started", id, id, null, "{}");
  for (let task = 0; events.length < EVENTS_OF_PLAN; task = (task + 1) % TASKS_OF_PLAN) {
    const subject = `task-${plan}-${task}`;
    const first = events.length < 3 + TASKS_OF_PLAN;
    const type = first
      ? "task.started"
      : events.length >= EVENTS_OF_PLAN - TASKS_OF_PLAN
        ? "task.completed"
        : "task.progress";
    const cause = events.length % 2 ? `0190-${plan}-${first ? 2 : 3 + task}` : null;
    add(type, subject, id, cause, `{"task_id":"${subject}","progress_percent":${events.length}}`);
  }
  return events;
}

const INSERT =
  "INSERT INTO hive_events (id, event_type, source_agent, correlation_id, causation_id, subject, payload) VALUES (?,?,?,?,?,?,?)";

function fill(path, events) {
  const db = open(path);
  db.pragma("synchronous = OFF");
  db.pragma("cache_size = -262144");
  db.pragma("wal_autocheckpoint = 20000");
  const insert = db.prepare(INSERT);
  const plans = Math.floor(events / EVENTS_OF_PLAN);
  for (let plan = 0; plan < plans; ) {
    db.exec("BEGIN");
    for (const end = Math.min(plans, plan + 5_000); plan < end; plan++)
      for (const row of planEvents(plan)) insert.run(row);
    db.exec("COMMIT");
  }
  db.pragma("wal_checkpoint(TRUNCATE)");
  db.close();
  return plans;
}

export async function trace({ folder, figure, events }) {
  const opened = (path) => openHive({ ...CONFIG_DEFAULTS, database: path, baseDirectory: folder });
  const migrated = async (name) => {
    const path = join(folder, name);
    createPlatform(path, 100);
    const hive = await opened(path);
    await hive.migrations.up();
    await hive[Symbol.asyncDispose]();
    return path;
  };
  const path = await migrated("trace.db");
  const hive = await opened(path);
  const began = performance.now();
  const plans = fill(path, events);
  const filled = ((performance.now() - began) / 1_000).toFixed(0);

  const db = open(path);
  const bare = db.prepare("SELECT * FROM hive_events WHERE correlation_id = ?");
  const [traces, selects] = [[], []];
  const rounds = 60;
  for (let round = 0; round < rounds; round++) {
    // Anywhere among them: nothing of it has been read before.
    const plan = Math.floor((plans * ((round * 7_919) % rounds)) / rounds);
    const ids = [`queue-${plan}`, `plan-${plan}`];
    // Whoever comes second finds the pages in memory: they take turns.
    const measure = {
      select() {
        const start = performance.now();
        const rows = ids.flatMap((id) => bare.all(id));
        selects.push(performance.now() - start);
        if (rows.length !== EVENTS_OF_PLAN) throw new Error(`${rows.length} rows`);
      },
      async trace() {
        const start = performance.now();
        const result = await hive.trace(`queue-${plan}`);
        traces.push(performance.now() - start);
        if (result.events.length !== EVENTS_OF_PLAN || result.cutOff.length > 0) throw new Error("not all was found");
      },
    };
    if (round % 2) measure.select();
    await measure.trace();
    if (round % 2 === 0) measure.select();
  }
  const ms = (list) => `${median(list).toFixed(2)} ms`;
  figure(
    `trace of ${EVENTS_OF_PLAN} events among ${plans * EVENTS_OF_PLAN}, against a bare SELECT of them (time)`,
    median(traces) / median(selects),
    null,
    "lower",
    `${ms(traces)} (slowest ${Math.max(...traces).toFixed(0)} ms), SELECT ${ms(selects)}; filled in ${filled} s`,
  );

  db.close();
  await hive[Symbol.asyncDispose]();

  // Two that are alike but for the index, in turn.
  const [withIndex, without] = [await migrated("with.db"), await migrated("without.db")].map(open);
  without.exec("DROP INDEX ix_hive_events_causation");
  let n = 0;
  const write = (into, cause) => {
    const insert = into.prepare(INSERT);
    const start = performance.now();
    for (let i = 0; i < 2_000; i++, n++) {
      into.exec("BEGIN IMMEDIATE");
      insert.run(`bench-${n}`, "task.progress", "hive-coder", `bench-${n}`, cause ? `bench-${n - 7}` : null, "s", "{}");
      into.exec("COMMIT");
    }
    return performance.now() - start;
  };
  const shares = { plain: [], plainWithout: [], caused: [], causedWithout: [] };
  for (let round = 0; round < 15; round++) {
    shares.plain.push(write(withIndex, false));
    shares.plainWithout.push(write(without, false));
    shares.caused.push(write(withIndex, true));
    shares.causedWithout.push(write(without, true));
  }
  const rate = (list) => `${Math.round(2_000_000 / median(list))}/s`;
  figure(
    "an event that names no cause: with the index by cause against without it (time)",
    median(shares.plain) / median(shares.plainWithout),
    null,
    "lower",
    `${rate(shares.plain)}, without the index ${rate(shares.plainWithout)}, each event in a transaction of its own`,
  );
  figure(
    "an event that names a cause: with the index by cause against without it (time)",
    median(shares.caused) / median(shares.causedWithout),
    null,
    "lower",
    `${rate(shares.caused)}, without the index ${rate(shares.causedWithout)}`,
  );
  withIndex.close();
  without.close();
}
