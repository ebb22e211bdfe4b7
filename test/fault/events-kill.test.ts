import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, onTestFinished, test } from "vitest";
import { listSubscribers } from "../../src/events/subscribers.ts";
import { subscribe } from "../../src/events/subscriptions.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { sql } from "../../src/storage/sql.ts";
import { BACKENDS, type Place } from "../support/backends.ts";
import { gate, until } from "../support/events.ts";
import { platformContext } from "../support/legacy-platform.ts";
import { DIST, isBuilt } from "../support/live.ts";

const KILLS = Number(process.env.HIVE_FAULT_EVENT_KILLS ?? 60);
const SEED = Number(process.env.HIVE_FAULT_SEED ?? 20_261_123);
const CHILD = fileURLToPath(new URL("events-child.mjs", import.meta.url));
const EMITTER = fileURLToPath(new URL("emitter.mjs", import.meta.url));
const PYTHON = fileURLToPath(new URL("emitter.py", import.meta.url));
const hasPython = spawnSync("python3", ["-c", "import sqlite3"]).status === 0;

/** Mulberry32. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface Message {
  readonly event?: string;
  readonly [field: string]: unknown;
}

interface Child {
  readonly process: ChildProcess;
  /** What it said before it died. */
  readonly ended: Promise<{ signal: string | null; stderr: string }>;
}

function start(program: string, args: readonly string[], hear: (message: Message) => void): Child {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
  let [partial, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    const lines = (partial + text).split("\n");
    partial = lines.pop() ?? "";
    for (const line of lines) hear(JSON.parse(line));
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  const ended = new Promise<{ signal: string | null; stderr: string }>((resolve) => {
    child.on("close", (_, signal) => resolve({ signal, stderr }));
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  return { process: child, ended };
}

const hiveChild = (request: object, hear: (message: Message) => void) =>
  start(process.execPath, [CHILD, DIST, JSON.stringify(request)], hear);

describe.each(BACKENDS)("on $name", (backend) => {
  const kills = Math.ceil(KILLS / BACKENDS.length);

  async function prepared(): Promise<Place> {
    expect(isBuilt(), `${DIST} is not built: npm run build`).toBe(true);
    const made = await backend.create({ legacy: "text" });
    await using context = platformContext(made.url);
    await migrateUp(context);
    made.execute("INSERT INTO hive_flags VALUES ('hive-coder', 'unified-events', 'on', '')");
    const place =
      backend.name === "sqlite" ? "INTEGER PRIMARY KEY AUTOINCREMENT" : "BIGINT GENERATED ALWAYS AS IDENTITY";
    made.execute(`CREATE TABLE effects (place ${place}, seq INTEGER NOT NULL, subject TEXT)`);
    return made;
  }

  test(`${kills} SIGKILLs over emitters and subscribers: nothing is lost, nothing is done twice, nothing overtakes (HIVE_FAULT_SEED=${SEED})`, {
    timeout: 60_000 + kills * 2_000,
  }, async () => {
    const { url, select } = await prepared();
    const random = randomFrom(SEED);
    const acknowledged: string[] = [];
    const handled: { seq: number; subject: string }[] = [];
    const points = new Map<string, number>();
    let killed = 0;
    let number = 0;
    let over = false;
    const failures: string[] = [];
    const hear = (message: Message) => {
      if (message.event === "acknowledged" || message.event === undefined)
        acknowledged.push(`${message.name} ${message.n}`);
      if (message.event === "handled") handled.push({ seq: Number(message.seq), subject: String(message.subject) });
      const { point } = message;
      if (typeof point === "string") points.set(point, (points.get(point) ?? 0) + 1);
    };
    const running = new Set<Child>();
    /** Begun again whenever it was killed, until there were enough. */
    const keep = async (begin: (name: string) => Child) => {
      while (!over) {
        number += 1;
        const child = begin(`${number}`);
        running.add(child);
        const { signal, stderr } = await child.ended;
        running.delete(child);
        if (signal !== "SIGKILL" || stderr !== "") {
          over = true;
          failures.push(`${signal}: ${stderr}`);
        } else if (!over) killed += 1;
        if (killed >= kills) over = true;
      }
      for (const one of running) one.process.kill("SIGKILL");
    };
    const killAt = (most: number) => 1 + Math.floor(random() * most);
    const bySql = (name: string) => {
      let left = killAt(25);
      const [program, args] =
        backend.name === "sqlite" && hasPython
          ? ["python3", [PYTHON, url, name]]
          : [process.execPath, [EMITTER, url, name]];
      const child: Child = start(program, args, (message) => {
        hear(message);
        left -= 1;
        if (left === 0) child.process.kill("SIGKILL");
      });
      return child;
    };
    const byLibrary = (role: string, most: number) => (name: string) =>
      hiveChild({ path: url, role, name, killAt: killAt(most) }, hear);
    await Promise.all([
      keep(bySql),
      keep(byLibrary("emit", 90)),
      keep(byLibrary("effects", 60)),
      keep(byLibrary("effects", 60)),
      keep(byLibrary("told", 60)),
    ]);

    expect(failures).toEqual([]);

    // What is left, in this process.
    await using context = platformContext(url);
    const common = { from: "start" as const, backoff: { firstMs: 5 }, maxAttempts: 1_000 };
    const effects = await subscribe(context, {
      ...common,
      name: "effects",
      patterns: ["task.*"],
      handler: async ({ seq, subject }, tx) => {
        await tx.run(sql`INSERT INTO effects (seq, subject) VALUES (${seq}, ${subject})`);
      },
    });
    const told = await subscribe(context, {
      ...common,
      name: "told",
      patterns: ["*.completed"],
      handler: ({ seq, subject }) => handled.push({ seq, subject: String(subject) }),
    });
    await until(async () => {
      const { subscribers } = await listSubscribers(context);
      return subscribers.every(({ behind, retrying, waiting }) => behind + retrying + waiting === 0);
    });
    await Promise.all([effects.stop(), told.stop()]);

    const stored = select("SELECT seq, subject, payload FROM hive_events ORDER BY seq").map((row) => {
      const { name, n } = JSON.parse(String(row.payload));
      return { seq: Number(row.seq), subject: String(row.subject), id: `${name} ${n}` };
    });
    const ids = new Set(stored.map(({ id }) => id));
    expect(ids.size).toBe(stored.length);
    expect(stored.map(({ seq }) => seq)).toEqual(stored.map((_, i) => i + 1));
    expect(acknowledged.filter((id) => !ids.has(id))).toEqual([]);
    expect(select("SELECT * FROM hive_dead_letters")).toEqual([]);

    const done = select("SELECT seq, subject FROM effects ORDER BY place").map((row) => ({
      seq: Number(row.seq),
      subject: String(row.subject),
    }));
    const inOrder = (some: readonly { seq: number }[]) => some.map(({ seq }) => seq).sort((a, b) => a - b);
    // Each once.
    expect(inOrder(done)).toEqual(inOrder(stored));
    const firsts = handled.filter(({ seq }, i) => handled.findIndex((one) => one.seq === seq) === i);
    expect(inOrder(firsts)).toEqual(inOrder(stored));
    for (const subject of new Set(stored.map((one) => one.subject))) {
      for (const list of [done, firsts]) {
        const own = list.filter((one) => one.subject === subject);
        expect(own.map(({ seq }) => seq)).toEqual(inOrder(own));
      }
    }
    expect(killed).toBe(kills);
    const at = [...points].map(([point, times]) => `${point} ${times}`).sort();
    process.stderr.write(
      `${backend.name}: ${killed} killed (${at.join(", ")}); ${stored.length} events, ${acknowledged.length} acknowledged, ` +
        `${handled.length - firsts.length} handled again\n`,
    );
  });

  test("a process that was stopped cannot acknowledge once another one has taken over", async () => {
    const place = await prepared();
    for (let n = 1; n <= 6; n++) {
      place.execute(`INSERT INTO hive_events (event_type, source_agent, subject, payload)
        VALUES ('task.completed', 'hive-coder', 'a', '{"n":${n}}')`);
    }
    const messages: Message[] = [];
    const lost = gate();
    const stopping = gate();
    const first = hiveChild({ path: place.url, role: "told", name: "first", stopAt: 3, leaseMs: 400 }, (message) => {
      messages.push(message);
      if (message.event === "stopping") stopping.open();
      if (message.event === "standing by") lost.open();
    });
    await stopping.promise;
    await using context = platformContext(place.url, { leaseMs: 60_000 });
    const seen: number[] = [];
    const second = await subscribe(context, {
      name: "told",
      patterns: ["*"],
      handler: ({ seq }) => seen.push(seq),
    });
    await until(async () => (await listSubscribers(context)).subscribers[0]?.checkpoint === 6);
    const before = place.select("SELECT * FROM hive_subscribers");
    first.process.kill("SIGCONT");
    // It has found out, and is the next in line.
    await lost.promise;
    expect(place.select("SELECT * FROM hive_subscribers")).toEqual(before);
    expect(messages.filter(({ event }) => event === "handled")).toHaveLength(3);
    // Again what the first one had not acknowledged, at least the third.
    expect(seen).toEqual([1, 2, 3, 4, 5, 6].slice(-seen.length));
    expect(seen).toContain(3);
    await second.stop();
    place.execute(
      `INSERT INTO hive_events (event_type, source_agent, payload) VALUES ('task.completed', 'hive-coder', '{}')`,
    );
    await until(() => messages.filter(({ event }) => event === "handled").length === 4);
    first.process.kill("SIGKILL");
    await first.ended;
  });
});
