import { copyFileSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import type { Clock } from "../../src/clock.ts";
import type { Context } from "../../src/context.ts";
import type { Stage } from "../../src/flags/stages.ts";
import type { CheckResult } from "../../src/results.ts";
import type { Table } from "../../src/storage/port.ts";
import { legacyAgent, pickKey, unifiedAgent, vandal, type World } from "./agents.ts";
import type { Engine } from "./engine.ts";
import { type BothSides, History } from "./model.ts";
import {
  AGENTS,
  type Agent,
  FIRST_MARK,
  ITEM_KEYS,
  JOB_KEYS,
  LEGACY_ROWS,
  LEGACY_SCHEMA,
  makeMapping,
  markOf,
  RegisterReader,
  type Registers,
  STILL_KEYS,
  splitRegister,
} from "./platform.ts";
import { type Actor, Scheduler } from "./scheduler.ts";

/** A guarantee that did not hold. The message says which, and of what. */
export class Violation extends Error {
  override readonly name = "Violation";
}

const STAGES: readonly Stage[] = ["off", "dualwrite", "shadow", "live", "rampdown", "complete"];
const LEADING: readonly string[] = ["live", "rampdown", "complete"];
const FOLLOWING: readonly string[] = ["dualwrite", "shadow"];

/** The stages at which a run begins, by agent. */
const BEGINNINGS = {
  off: ["off", "off", "off"],
  dualwrite: ["dualwrite", "dualwrite", "off"],
  shadow: ["shadow", "dualwrite", "shadow"],
  live: ["live", "live", "live"],
  mixed: ["complete", "live", "shadow"],
  complete: ["complete", "complete", "rampdown"],
} as const satisfies Record<string, readonly [Stage, Stage, Stage]>;
type Beginning = keyof typeof BEGINNINGS;

export interface Outcome {
  readonly seed: number;
  readonly turns: number;
  readonly acknowledged: number;
  readonly hash: string;
  /** Null where all guarantees held. */
  readonly problem: string | null;
  readonly trace: readonly string[];
  /** The database, where a guarantee did not hold. */
  readonly database: string | null;
  readonly seen: { readonly [what: string]: number };
}

/** Runs seeds over copies of databases that are prepared once. */
export class Simulation {
  private readonly engine: Engine;
  private readonly folder: string;
  private readonly mapping: ReturnType<typeof makeMapping>;
  private readonly tables = new Map<string, Table>();

  private constructor(engine: Engine, folder: string) {
    this.engine = engine;
    this.folder = folder;
    this.mapping = makeMapping(folder);
  }

  static async prepare(engine: Engine, folder: string): Promise<Simulation> {
    mkdirSync(folder, { recursive: true });
    const simulation = new Simulation(engine, folder);
    const path = simulation.pathOf("off");
    rmSync(path, { force: true });
    const db = new Database(path);
    db.pragma("journal_mode = WAL");
    db.exec(LEGACY_SCHEMA + LEGACY_ROWS);
    db.close();
    const context = simulation.context(path, new QuietClock(), undefined);
    await engine.migrateUp(context);
    await context.store[Symbol.asyncDispose]();
    simulation.tables.clear();
    for (const name of Object.keys(BEGINNINGS)) if (name !== "off") await simulation.prepareOne(name as Beginning);
    return simulation;
  }

  private pathOf(beginning: Beginning): string {
    return join(this.folder, `begin-${beginning}.db`);
  }

  private async prepareOne(name: Beginning): Promise<void> {
    const { engine } = this;
    copyFileSync(this.pathOf("off"), this.pathOf(name));
    const context = this.context(this.pathOf(name), new QuietClock(), undefined);
    const order: readonly Stage[] = BEGINNINGS[name];
    for (const [i, stage] of STAGES.entries()) {
      for (const agent of AGENTS.filter((_, at) => STAGES.indexOf(order[at] ?? "off") >= i && i > 0)) {
        if (stage === "shadow") await engine.backfill(context, { agents: [agent] });
        if (i > 2) await engine.check(context, {});
        await engine.changeFlags(context, [forward(agent, stage)]);
      }
    }
    for (const [at, stage] of order.entries()) {
      if (stage === "dualwrite") await engine.backfill(context, { agents: [AGENTS[at] ?? "ann"] });
    }
    await engine.sync(context);
    await context.store[Symbol.asyncDispose]();
  }

  /** A context; without `signal`, of somebody who is alone. */
  context(path: string, clock: Clock, signal: Context["signal"]): Context {
    const settings = {
      ...this.engine.CONFIG_DEFAULTS,
      database: path,
      baseDirectory: this.folder,
      busyTimeoutMs: 2_000,
      lockTimeoutSeconds: 1,
      lockBudget: 0.5,
    };
    const store = this.engine.openSqlite(path, { busyTimeoutMs: 2_000, leaseMs: 15_000, clock, signal });
    // Node would follow each promise of the process for each store: half as slow again.
    Reflect.set(store, "context", new OneChain());
    const { table } = store;
    // Most of the time of a run went into reading the same catalogue: no table ever changes its columns here.
    store.table = async (name, session) => {
      const known = this.tables.get(name);
      if (known) return known;
      const found = await table.call(store, name, session);
      if (found) this.tables.set(name, found);
      return found;
    };
    return {
      store,
      mapping: this.mapping,
      settings,
      clock,
      actor: "simulation",
      signal,
    };
  }

  /** `watch`: a key; what both sides say of it, and the log, is in the trace wherever it changes. */
  async run(seed: number, watch?: string): Promise<Outcome> {
    const path = join(this.folder, `seed-${seed}.db`);
    for (const suffix of ["", "-wal", "-shm"]) rmSync(path + suffix, { force: true });
    const run = new Run(this, this.engine, seed, path, watch);
    copyFileSync(this.pathOf(run.beginning), path);
    let problem: string | null = null;
    // A heartbeat in real time would be a turn that nobody gave; leases run in simulated time.
    const { setInterval, clearInterval } = globalThis;
    Object.assign(globalThis, { setInterval: () => 0, clearInterval: () => {} });
    try {
      await run.all();
    } catch (error) {
      problem =
        error instanceof Violation ? error.message : error instanceof Error ? (error.stack ?? "") : String(error);
      const code = error instanceof Error && "code" in error ? ` (${String(error.code)})` : "";
      problem += code;
    } finally {
      Object.assign(globalThis, { setInterval, clearInterval });
      run.close();
    }
    if (problem === null) for (const suffix of ["", "-wal", "-shm"]) rmSync(path + suffix, { force: true });
    return {
      seed,
      turns: run.scheduler.turns,
      acknowledged: run.history.acknowledged,
      hash: run.scheduler.hash.toString(16),
      problem,
      trace: run.scheduler.trace,
      database: problem === null ? null : path,
      seen: run.seen,
    };
  }
}

class QuietClock implements Clock {
  private time: number;
  private ids = 0;

  constructor(time = Date.parse("2026-11-23T11:00:00.000Z")) {
    this.time = time;
  }

  now(): number {
    this.time += 0.01;
    return Math.floor(this.time);
  }
  monotonic(): number {
    this.time += 0.01;
    return this.time;
  }
  random(): number {
    return 0.5;
  }
  id(): string {
    this.ids += 1;
    return `quiet-${this.ids}`;
  }
  async sleep(ms: number): Promise<void> {
    this.time += ms;
  }
}

/** What an operator meets every day; anything else that a command throws is a defect. */
const EXPECTED: readonly string[] = [
  "DATABASE_BUSY",
  "LOCK_HELD",
  "LOCK_LOST",
  "GUARD_REFUSED",
  "STAGE_IMPOSSIBLE",
  // What a dual writer is told.
  "RECORD_EXISTS",
  "RECORD_MISSING",
  "RECORD_CHANGED",
  "RECORD_UNREADABLE",
  "RECORD_INVALID",
  "CONSTRAINT",
  // A rollback that comes to its turn when another one has gone further back.
  "USAGE",
];

function forward(agent: Agent, to: Stage): Parameters<Engine["changeFlags"]>[1][number] {
  if (to === "dualwrite") return { agent, flag: "dual-write", value: "on" };
  if (to === "complete") return { agent, flag: "dual-write", value: "off" };
  return { agent, flag: "reads", value: to === "rampdown" ? "unified" : to };
}

function back(agent: Agent, from: Stage): Parameters<Engine["changeFlags"]>[1][number] {
  if (from === "dualwrite") return { agent, flag: "dual-write", value: "off" };
  if (from === "complete") return { agent, flag: "dual-write", value: "on" };
  return { agent, flag: "reads", value: from === "shadow" ? "legacy" : from === "live" ? "shadow" : "live" };
}

/** How likely it is that a process is held up at this point, in the middle of what it does. */
function slowAt(point: string): number {
  if (point === "backfill:judged") return 0.6;
  if (/judged$|^tx:(flags|rollback):committed$/.test(point)) return 0.3;
  return 0;
}

class Run {
  readonly scheduler: Scheduler;
  readonly history = new History(FIRST_MARK);
  readonly beginning: Beginning;
  readonly seen: Record<string, number> = {};
  private readonly simulation: Simulation;
  private readonly engine: Engine;
  private readonly path: string;
  private readonly world: World;
  private watcherDb: Database.Database | undefined;
  private reader: RegisterReader | undefined;
  private before: Registers = new Map();
  private still = "";
  private lastAudit = 0;
  private lastKept = 0;
  private stages = new Map<string, Stage>();
  private readonly conflicts = new Set<string>();
  /** Agents that were at off at some time: of rows that were deleted then, hive knows nothing before a check. */
  private readonly wereOff = new Set<string>();
  /** Agents whose rows are still to be backfilled, since this entry of the audit log. */
  private readonly stale = new Map<string, number>();
  private respawned = 0;
  private readonly crashRate: number;
  private readonly watch: string | undefined;
  private watched = "";

  constructor(simulation: Simulation, engine: Engine, seed: number, path: string, watch: string | undefined) {
    this.simulation = simulation;
    this.watch = watch;
    this.engine = engine;
    this.path = path;
    this.scheduler = new Scheduler(seed);
    const { random } = this.scheduler;
    const hot = random.chance(0.6) ? [random.pick(ITEM_KEYS), random.pick(ITEM_KEYS), random.pick(JOB_KEYS)] : [];
    this.world = { path, scheduler: this.scheduler, history: this.history, hot };
    this.beginning = random.pick([...(Object.keys(BEGINNINGS) as Beginning[]), "off", "shadow"]);
    this.crashRate = random.pick([0, 0.003, 0.01]);
  }

  close(): void {
    for (const actor of this.scheduler.all) for (const close of actor.onCrash.splice(0)) close();
    this.watcherDb?.close();
    this.watcherDb = undefined;
  }

  /** The connection of the test itself. It keeps the -wal file open, as the programs of a real platform do. */
  private get db(): Database.Database {
    this.watcherDb ??= new Database(this.path, { timeout: 0 });
    return this.watcherDb;
  }

  private read(side: "legacy" | "unified"): Registers {
    this.reader ??= new RegisterReader(this.db);
    return this.reader.read(side);
  }

  private count(what: string, by = 1): void {
    this.seen[what] = (this.seen[what] ?? 0) + by;
  }

  async all(): Promise<void> {
    const { scheduler } = this;
    const { random } = scheduler;
    scheduler.note("set up", `begins at ${this.beginning}`);
    this.before = this.read("legacy");
    this.still = this.stillRows();
    this.lastAudit = Number(this.db.prepare("SELECT max(seq) FROM hive_audit").pluck().get() ?? 0);
    this.lastKept = Number(this.db.prepare("SELECT max(seq) FROM hive_kept").pluck().get() ?? 0);
    for (const [i, stage] of BEGINNINGS[this.beginning].entries()) {
      this.stages.set(AGENTS[i] ?? "", stage);
      if (stage === "off") this.wereOff.add(AGENTS[i] ?? "");
    }
    // What was there before anybody wrote has to be accounted for as well.
    this.history.commit("beginning", new Map(), this.before);

    for (let i = 0; i < 1 + random.below(3); i++) {
      scheduler.start(`legacy${i + 1}`, (actor) => legacyAgent(this.world, actor, 3 + random.below(7)));
    }
    for (let i = 0; i < random.below(3); i++) {
      scheduler.start(`unified${i + 1}`, (actor) => unifiedAgent(this.world, actor, 3 + random.below(7)));
    }
    for (let i = 0; i < 1 + random.below(2); i++) this.operator(`operator${i + 1}`);
    for (let i = 0; i < random.below(3); i++) this.syncer(`sync${i + 1}`);
    if (random.chance(0.3)) this.checker("checker");
    for (let i = 0; i < random.below(3) - 1 + random.below(2); i++) this.dualWriter(`writer${i + 1}`);
    if (random.chance(0.2)) scheduler.start("vandal", (actor) => vandal(this.world, actor));
    scheduler.afterTurn = (actor, point) => this.afterTurn(actor, point);
    await scheduler.run();
    this.observe();
    await this.comeToRest();
  }

  private afterTurn(actor: Actor, point: string | null): void {
    if (this.watch !== undefined) this.look(this.watch);
    // A dual writer goes on writing in the transaction that settles a conflict.
    if (point === null || point.endsWith(":committed")) this.observe(!actor.name.startsWith("writer"));
    if (point !== null && point !== "start" && this.scheduler.random.chance(this.crashRate)) {
      this.count("crashes");
      this.scheduler.crash(actor);
      // Somebody starts it again.
      const again = this.again.get(actor);
      this.respawned += 1;
      if (again && this.respawned < 5) again(`${actor.name.replace(/'\d+$/, "")}'${this.respawned}`);
    }
  }

  /** What flags that change had to find carried over: the newest change when their transaction began. */
  private readonly due = new Map<Actor, { readonly seq: number; readonly audited: number }>();

  /** What was captured under the flags before has to be carried over under them: in the transaction that changes them. */
  private fence(actor: Actor, point: string): void {
    const one = (text: string) => Number(this.db.prepare(text).pluck().get());
    const audited = () => one("SELECT max(seq) FROM hive_audit");
    if (/^tx:(flags|rollback):begun$/.test(point)) {
      this.due.set(actor, { seq: one("SELECT max(seq) FROM hive_changes"), audited: audited() });
    } else if (/^tx:(flags|rollback):committed$/.test(point)) {
      const due = this.due.get(actor);
      if (!due || audited() === due.audited) return;
      const left = one(`SELECT count(*) FROM hive_changes WHERE side IS NOT NULL AND seq <= ${due.seq}`);
      if (left > 0) throw new Violation(`Flags were changed, and ${left} changes from before are still in the log.`);
    }
  }

  private look(key: string): void {
    const of = (registers: Registers) => {
      const some = [...registers].filter(([register]) => splitRegister(register).key === key);
      return text(new Map(some.map(([register, content]) => [register.replace(`|${key}|`, "."), content])));
    };
    const log = this.db.prepare("SELECT group_concat(side, ' ') FROM hive_changes WHERE key = ?").pluck().get(key);
    const listed = this.db
      .prepare("SELECT group_concat(mapping || ' ' || direction, ', ') FROM hive_quarantine WHERE key = ?")
      .pluck()
      .get(key);
    const now = `  legacy: ${of(this.read("legacy"))}\n  unified: ${of(this.read("unified"))}\n  log: ${String(log)}\n  quarantine: ${String(listed)}`;
    if (now === this.watched) return;
    this.watched = now;
    this.scheduler.trace.push(now);
  }

  /** Told what an actor signals, at once. */
  private readonly hooks = new Map<Actor, (point: string) => void>();
  private readonly processes = new Map<Actor, Context>();
  private readonly again = new Map<Actor, (name: string) => void>();

  private operator(name: string): void {
    const actor = this.scheduler.start(name, async (self) => {
      for (let i = 0; i < 3 + self.random.below(4); i++) {
        await this.scheduler.point(self, "next command", self.random.next() * 80);
        await this.command(self);
      }
    });
    this.again.set(actor, (next) => this.operator(next));
  }

  private syncer(name: string): void {
    const actor = this.scheduler.start(name, async (self) => {
      for (let i = 0; i < 4; i++) {
        await this.scheduler.point(self, "next sync", self.random.next() * 150);
        await this.hive(self, "sync", (context) => this.engine.sync(context));
      }
    });
    this.again.set(actor, (next) => this.syncer(next));
  }

  private checker(name: string): void {
    const actor = this.scheduler.start(name, async (self) => {
      for (let i = 0; i < 2; i++) {
        await this.scheduler.point(self, "next check", self.random.next() * 200);
        const repair = self.random.chance(0.5);
        await this.hive(self, repair ? "check --repair" : "check", (context) => this.engine.check(context, { repair }));
      }
    });
    this.again.set(actor, (next) => this.checker(next));
  }

  /** A program that has adopted the library. */
  private dualWriter(name: string): void {
    const actor = this.scheduler.start(name, async (self) => {
      const { random } = self;
      for (let i = 0; i < 3 + random.below(4); i++) {
        await this.scheduler.point(self, "next record", random.next() * 60);
        await this.write(self);
      }
    });
    this.again.set(actor, (next) => this.dualWriter(next));
  }

  private async write(self: Actor): Promise<void> {
    const { random } = self;
    const { history } = this;
    // Which of two legacy rows with one key it writes is the mapping's precedence: nothing to be learnt from here.
    const keys = ITEM_KEYS.filter((one) => !JOB_KEYS.some((other) => other === one));
    const key = pickKey(this.world, random, keys);
    const mark = () => history.mark();
    const both = (): BothSides => ({ legacy: this.read("legacy"), unified: this.read("unified") });
    let before = both();
    this.hooks.set(self, (point) => {
      if (point === "tx:write:begun") before = both();
      if (point === "tx:write:committed") history.commitBoth(self.name, key, before, both());
    });
    const agent = random.pick(AGENTS);
    const owner = () => `${agent}:${mark()}`;
    await this.hive(self, `writer ${key}`, async (context) => {
      const writer = this.engine.openWriter(context, agent);
      switch (random.below(6)) {
        case 0:
          return writer.create({
            things: [{ id: key, kind: "item", owner: owner(), a: mark(), b: mark() }],
            thing_parts: [{ pos: 1, v: mark() }],
          });
        case 1:
          return writer.delete(key);
        case 2:
          return writer.update(key, { things: [{ owner: owner(), a: mark() }] });
        case 3:
          return writer.update(key, { things: [{ extra: mark(), b: mark() }] });
        case 4:
          return writer.update(key, { thing_parts: [{ pos: 1 + random.below(3), v: mark() }] });
        default:
          return writer.update(key, { things: [{ a: mark() }] });
      }
    });
  }

  private stageOf(agent: Agent): Stage {
    const get = this.db.prepare("SELECT value FROM hive_flags WHERE agent = ? AND flag = ?").pluck();
    const dualWrite = get.get(agent, "dual-write") === "on";
    const reads = String(get.get(agent, "reads") ?? "legacy");
    if (reads === "unified") return dualWrite ? "rampdown" : "complete";
    if (reads === "legacy") return dualWrite ? "dualwrite" : "off";
    return reads === "live" ? "live" : "shadow";
  }

  private async backfill(self: Actor, agents?: readonly Agent[]): Promise<void> {
    const before = new Map(this.stale);
    const done = await this.hive(self, "backfill", (context) =>
      this.engine.backfill(context, agents === undefined ? {} : { agents }),
    );
    if (done === null) return;
    for (const [agent, since] of before) {
      if ((agents ?? AGENTS).some((one) => one === agent) && this.stale.get(agent) === since) this.stale.delete(agent);
    }
  }

  /** What an operator might do next. */
  private async command(self: Actor): Promise<void> {
    const { engine } = this;
    const { random } = self;
    const agent = random.pick(AGENTS);
    const stage = this.stageOf(agent);
    const choice = random.next();
    if (choice < 0.5) {
      const next = STAGES[STAGES.indexOf(stage) + 1];
      if (next === undefined) return;
      if (next === "shadow") await this.backfill(self, [agent]);
      if (STAGES.indexOf(next) > 2) {
        await this.hive(self, "check", (context) => engine.check(context, { repair: random.chance(0.2) }));
      }
      await this.hive(self, `${agent} to ${next}`, (context) => engine.changeFlags(context, [forward(agent, next)]));
    } else if (choice < 0.65) {
      if (stage === "off") return;
      await this.hive(self, `${agent} back from ${stage}`, (context) =>
        engine.changeFlags(context, [back(agent, stage)]),
      );
    } else if (choice < 0.75) {
      const to = random.pick(STAGES.slice(0, 4));
      const agents = random.chance(0.5) && STAGES.indexOf(to) < STAGES.indexOf(stage) ? { agents: [agent] } : {};
      await this.hive(self, `rollback to ${to}`, (context) => engine.rollback(context, { to, ...agents }));
    } else if (choice < 0.85) {
      await this.backfill(self);
    } else if (choice < 0.9) {
      await this.hive(self, "quarantine retry", (context) => engine.retryQuarantine(context));
    } else {
      await this.hive(self, "check --repair", (context) => engine.check(context, { repair: true }));
    }
  }

  /** The context of an actor: as a process that runs one command after the other would have it. */
  private process(actor: Actor): Context {
    const known = this.processes.get(actor);
    if (known) return known;
    const { scheduler } = this;
    const context = this.simulation.context(this.path, scheduler.clockOf(actor), (point) => {
      this.hooks.get(actor)?.(point);
      this.fence(actor, point);
      // Whatever was decided and not yet done is what others have to come in between.
      const slow = actor.random.chance(slowAt(point));
      return scheduler.point(actor, point, slow ? actor.random.next() * 120 : 0);
    });
    const { store } = context;
    const { withLock, snapshot } = store;
    store.withLock = <T>(...[lock, options, held]: Parameters<typeof withLock<T>>) =>
      withLock.call<typeof store, Parameters<typeof withLock<T>>, Promise<T>>(store, lock, options, async (lease) => {
        actor.leases.add(lease);
        try {
          return await held(lease);
        } finally {
          actor.leases.delete(lease);
        }
      });
    store.snapshot = async <T>(read: Parameters<typeof snapshot<T>>[0]) => {
      const result = await snapshot.call<typeof store, Parameters<typeof snapshot<T>>, Promise<T>>(store, read);
      await scheduler.point(actor, "looked", actor.random.chance(0.05) ? actor.random.next() * 80 : 0);
      return result;
    };
    this.processes.set(actor, context);
    actor.onCrash.push(() => end(context));
    return context;
  }

  /** One command. Null where it was refused, or failed as it may. */
  private async hive<T>(actor: Actor, name: string, work: (context: Context) => Promise<T>): Promise<T | null> {
    const { scheduler } = this;
    scheduler.note(actor.name, `hive ${name}`);
    this.count(/^(rollback|writer)/.exec(name)?.[0] ?? name.replace(/^(ann|bob|cy) /, ""));
    try {
      const result = await work(this.process(actor));
      scheduler.note(actor.name, `${name}: done`);
      return result;
    } catch (error) {
      const code = error instanceof Error && "code" in error ? String(error.code) : "";
      if (!EXPECTED.includes(code)) throw error;
      scheduler.note(actor.name, `${name}: ${code}`);
      this.count(code);
      return null;
    }
  }

  /** Looks at what was committed just now, before anybody else writes: who won a conflict has to be who leads. */
  private observe(assert = true): void {
    const entries: unknown[] = this.db
      .prepare("SELECT seq, action, agent, after FROM hive_audit WHERE seq > ? ORDER BY seq")
      .all(this.lastAudit);
    if (entries.length === 0) return;
    const kept: unknown[] = this.db
      .prepare("SELECT seq, mapping, key, side, aggregate FROM hive_kept WHERE seq > ? ORDER BY seq")
      .all(this.lastKept);
    for (const entry of entries) {
      const { seq, action, agent, after } = fields(entry);
      this.lastAudit = Number(seq);
      const details: Record<string, unknown> = fields(JSON.parse(String(after ?? "{}")));
      if (action === "flag" || action === "rollback") {
        const stage = STAGES.find((one) => one === details.stage);
        const from = this.stages.get(String(agent)) ?? "off";
        if (stage && FOLLOWING.includes(stage) && !FOLLOWING.includes(from)) this.stale.set(String(agent), Number(seq));
        if (stage) this.stages.set(String(agent), stage);
        if (stage === "off") this.wereOff.add(String(agent));
      }
      if (action !== "conflict") continue;
      this.count("conflicts");
      const name = `${String(details.mapping)}|${String(details.key)}`;
      this.conflicts.add(String(details.key));
      const copies = kept.map(fields).filter((one) => `${one.mapping}|${one.key}` === name);
      if (assert) this.assertWinner(name, copies);
    }
    for (const one of kept) this.lastKept = Number(fields(one).seq);
  }

  private assertWinner(name: string, copies: readonly Record<string, unknown>[]): void {
    const last = (side: string) => copies.filter((one) => one.side === side).at(-1);
    const owners: string[] = [];
    for (const one of [last("legacy"), last("unified")]) {
      const owner = /"owner":"(\w+):/.exec(String(one?.aggregate ?? ""))?.[1];
      if (owner !== undefined) owners.push(owner);
    }
    const stages = owners.map((owner) => this.stages.get(owner) ?? "off");
    const leads = stages.some((stage) => LEADING.includes(stage)) ? "unified" : "legacy";
    if (owners.length === 0 || stages.includes("complete")) return;
    const wanted = marksOf(String(last(leads)?.aggregate ?? "{}"));
    const other = leads === "legacy" ? "unified" : "legacy";
    const now = [...this.read(other)].filter(
      ([register]) => register.startsWith(`${name}|`) && !register.endsWith("|tag"),
    );
    const wrong = now.find(([, content]) => !wanted.has(markOf(content)));
    const quarantined = this.db.prepare("SELECT 1 FROM hive_quarantine WHERE mapping || '|' || key = ?").get(name);
    if (wrong && !quarantined && now.some(([register]) => register.endsWith("|owner"))) {
      throw new Violation(
        `Conflict about ${name}: the ${leads} side leads, and the ${other} side has ${wrong.join(" = ")}.`,
      );
    }
  }

  /** As an operator would: what was interrupted is run again, until nothing is left to do. Then everything must be right. */
  private async comeToRest(): Promise<void> {
    const clock = new QuietClock(this.scheduler.time + 20_000);
    const context = this.simulation.context(this.path, clock, undefined);
    try {
      await this.restWith(context);
    } finally {
      end(context);
    }
  }

  private async restWith(context: Context): Promise<void> {
    const { engine } = this;
    await this.drain(context);
    this.observe();
    // Only of these: a backfill of the others would put right what something else did wrong.
    const stale = AGENTS.filter((agent) => FOLLOWING.includes(this.stageOf(agent)) && this.stale.has(agent));
    if (stale.length > 0) await engine.backfill(context, { agents: stale });
    await this.drain(context);
    this.observe();
    await engine.retryQuarantine(context);
    this.assertClean("at rest");
    const leftOver = this.assertEqual();
    if (leftOver.length > 0) {
      this.count("left over from off", leftOver.length);
      await engine.check(context, { repair: true, keys: leftOver });
      if (this.assertEqual().length > 0) throw new Violation(`A repair left ${leftOver.join(", ")} as they were.`);
    }
    await this.assertCheckAgrees(context);
    await this.drain(context);
    await engine.rollback(context, { to: "off" });
    this.observe();
    this.assertClean("after going back to off");
    this.assertNothingLost();
    const still = this.stillRows();
    if (still !== this.still)
      throw new Violation(`Rows that nobody changed are not as they were:\n${this.still}\n${still}`);
    const triggers = this.db.prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger'").pluck().all();
    if (triggers.length > 0)
      throw new Violation(`All agents are at off, and there are triggers: ${triggers.join(", ")}`);
    const verified = await engine.verifyAudit(context.store.read);
    if (!verified.ok) throw new Violation(`The audit log does not verify: ${JSON.stringify(verified)}`);
    const damage = this.db.pragma("integrity_check", { simple: true });
    if (damage !== "ok") throw new Violation(`The database is damaged: ${String(damage)}`);
  }

  private async drain(context: Context): Promise<void> {
    for (let i = 0; i < 10; i++) if ((await this.engine.sync(context)).remaining === 0) return;
    throw new Violation("Nobody writes, and sync leaves changes behind.");
  }

  private assertClean(when: string): void {
    const one = (text: string) => Number(this.db.prepare(text).pluck().get());
    const marks = one("SELECT count(*) FROM hive_applying");
    if (marks > 0) throw new Violation(`A mark was left in hive_applying ${when}.`);
    const waiting = one("SELECT count(*) FROM hive_changes WHERE side IS NOT NULL");
    if (waiting > 0) throw new Violation(`${waiting} changes are in the log ${when}.`);
    const gaps = one("SELECT count(*) FROM hive_gaps");
    if (gaps > 0) throw new Violation(`hive_gaps has ${gaps} entries ${when}.`);
  }

  /**
   * Both sides as they are, value by value, for every aggregate of an agent beyond off. Independent of hive's check.
   * Gives the keys of unified rows whose legacy rows may have gone while nobody was asked to look.
   */
  private assertEqual(): string[] {
    const leftOver: string[] = [];
    const legacy = byAggregate(this.read("legacy"));
    const unified = byAggregate(this.read("unified"));
    const behind = new Set(this.db.prepare("SELECT key FROM hive_behind").pluck().all().map(String));
    const quarantined = new Set(
      this.db.prepare("SELECT mapping || '|' || key FROM hive_quarantine").pluck().all().map(String),
    );
    // Rows without a root are nobody's; of two legacy aggregates with one key, the item is the one that counts.
    for (const [name, registers] of legacy) {
      const isShadowed = name.startsWith("jobs|") && legacy.get(name.replace("jobs|", "items|"))?.has("owner");
      if (!registers.has("owner") || isShadowed) legacy.delete(name);
    }
    for (const name of new Set([...legacy.keys(), ...unified.keys()])) {
      const [up, down] = [legacy.get(name), unified.get(name)];
      const owners = [up, down].flatMap((one) => String(one?.get("owner") ?? "").split(":")[0] ?? "");
      const stages = owners.filter((owner) => owner !== "").map((owner) => this.stageOf(owner as Agent));
      if (stages.length > 0 && stages.every((stage) => stage === "off")) continue;
      if (stages.includes("complete") && behind.has(name.split("|")[1] ?? "")) continue;
      const others = name.replace(/^\w+/, name.startsWith("items") ? "jobs" : "items");
      if (quarantined.has(name) || quarantined.has(others)) {
        this.count("quarantined at rest");
        continue;
      }
      const left = text(up);
      const right = text(down);
      if (left !== right && !up && owners.every((owner) => owner === "" || this.wereOff.has(owner))) {
        leftOver.push(name.split("|")[1] ?? "");
      } else if (left !== right) {
        throw new Violation(`${name} (${stages.join(", ")}) differs at rest.\n  legacy:  ${left}\n  unified: ${right}`);
      }
    }
    return leftOver;
  }

  private async assertCheckAgrees(context: Context): Promise<void> {
    const result: CheckResult = await this.engine.check(context, {});
    if (AGENTS.every((agent) => this.stageOf(agent) === "off")) return;
    const { missing, extra, different, inFlight, drift } = result;
    // An agent at complete has no dual-write: its rows are not asked about where nobody else is beyond off.
    if (result.note !== null) return;
    if (missing + extra + different > 0) {
      throw new Violation(`Both sides are equal, and check finds drift: ${JSON.stringify(drift)}`);
    }
    // What is behind at complete counts as in flight for as long as it is.
    const behind = Number(this.db.prepare("SELECT count(*) FROM hive_behind").pluck().get());
    if (inFlight > behind) throw new Violation(`Nothing waits, and check counts ${inFlight} aggregates in flight.`);
  }

  private assertNothingLost(): void {
    const kept = new Set<number>();
    // A copy that was kept also shows what had been removed from it.
    const settled = new Set(this.conflicts);
    for (const row of this.db.prepare("SELECT key, aggregate FROM hive_kept").all()) {
      const { key, aggregate } = fields(row);
      settled.add(String(key));
      for (const mark of marksOf(String(aggregate))) kept.add(mark);
    }
    const now = this.read("legacy");
    const lost = this.history.unaccounted(now, kept, settled);
    if (lost.length > 0) {
      const lines = lost.map(
        ({ mark, register, by, content, at }) =>
          `  ${register} ${content === null ? "removed" : `= ${content}`} by ${by} (write ${mark}, commit ${at})`,
      );
      throw new Violation(`${lost.length} acknowledged writes are lost:\n${lines.join("\n")}`);
    }
  }

  /** The rows that nobody touches, with the type of each value. */
  private stillRows(): string {
    const keys = STILL_KEYS.map((key) => `'${key}'`).join(", ");
    const rows: unknown[] = [];
    for (const [table, key, columns] of [
      ["items", "id", ["id", "owner", "a", "b", "tag", "misc"]],
      ["item_parts", "item_id", ["id", "item_id", "pos", "v"]],
      ["item_notes", "item_id", ["item_id", "no", "v"]],
      ["jobs", "id", ["id", "owner", "a", "misc"]],
    ] as const) {
      const exact = columns.map((column) => `typeof(${column}) || ' ' || quote(${column})`).join(", ");
      rows.push(
        this.db.prepare(`SELECT ${exact} FROM ${table} WHERE ${key} IN (${keys}) ORDER BY 1, 2, 3`).raw().all(),
      );
    }
    return JSON.stringify(rows);
  }
}

/** Ends a process as the kernel does: what its store has open is closed, whatever it is doing. */
function end({ store }: Context): void {
  const opened: unknown = Reflect.get(store, "opened");
  if (opened instanceof Set) for (const connection of opened.values()) connection.close();
}

/** What a store uses of AsyncLocalStorage, for an actor: it does one thing after the other. */
class OneChain<T> {
  private now: T | undefined;

  getStore(): T | undefined {
    return this.now;
  }

  async run<R>(value: T, work: () => Promise<R>): Promise<R> {
    const before = this.now;
    this.now = value;
    try {
      return await work();
    } finally {
      this.now = before;
    }
  }

  disable(): void {}
}

function fields(row: unknown): Record<string, unknown> {
  return Object.fromEntries(Object.entries(row ?? {}));
}

/** Every mark in a copy that was kept. */
function marksOf(aggregate: string): Set<number> {
  const marks = new Set<number>();
  const walk = (value: unknown, name: string): void => {
    if (typeof value === "object" && value !== null) {
      for (const [key, one] of Object.entries(value)) walk(one, key);
    } else if (name === "owner" || typeof value === "number")
      marks.add(markOf(typeof value === "number" ? value : String(value)));
  };
  walk(JSON.parse(aggregate), "");
  return marks;
}

function byAggregate(registers: Registers): Map<string, Map<string, string | number>> {
  const found = new Map<string, Map<string, string | number>>();
  for (const [register, content] of registers) {
    const { kind, key, column } = splitRegister(register);
    if (column === "extra") continue;
    const name = `${kind}|${key}`;
    const one = found.get(name) ?? new Map<string, string | number>();
    one.set(column, content);
    found.set(name, one);
  }
  return found;
}

function text(registers: ReadonlyMap<string, string | number> | undefined): string {
  if (!registers) return "(absent)";
  return [...registers]
    .map(([column, content]) => `${column}=${content}`)
    .sort()
    .join(" ");
}
