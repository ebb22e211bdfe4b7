import type { Clock } from "../../src/clock.ts";

/** Numbers that follow from a seed and a name, and from nothing else (mulberry32 over an FNV hash). */
export class Random {
  private state: number;

  constructor(seed: number, name = "") {
    this.state = hashText(`${seed}/${name}`);
  }

  /** From 0 (inclusive) to 1 (exclusive). */
  next(): number {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  }

  /** From 0 to `count` - 1. */
  below(count: number): number {
    return Math.floor(this.next() * count);
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  pick<T>(list: readonly T[]): T {
    const one = list[this.below(list.length)];
    if (one === undefined) throw new Error("Nothing to pick from.");
    return one;
  }
}

export function hashText(text: string, from = 0x811c9dc5): number {
  let hash = from;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

const START = Date.parse("2026-11-23T12:00:00.000Z");

/** One thing that runs by itself, as a process would. */
export class Actor {
  readonly name: string;
  readonly random: Random;
  /** What the kernel does when the process is killed: closes what it had open. */
  readonly onCrash: (() => void)[] = [];
  /** Locks of hive that it holds: they outlive it until their lease is over. */
  readonly leases = new Set<object>();
  waiting: { readonly point: string; readonly wakeAt: number; readonly resume: () => void } | undefined;
  ended = false;
  settled: () => void = () => {};

  constructor(name: string, random: Random) {
    this.name = name;
    this.random = random;
  }
}

/**
 * Lets actors run one at a time, in an order that follows from the seed: an actor that was given a turn runs until its
 * next scheduling point, or to its end, before anybody else does. Time is simulated: it moves with the turns, and to the
 * next wake-up when all sleep.
 */
export class Scheduler {
  readonly random: Random;
  readonly trace: string[] = [];
  time = START;
  /** How many turns were given. */
  turns = 0;
  hash = hashText("");
  /** Called after each turn with the actor and the point at which it is now (null: it has ended). */
  afterTurn: (actor: Actor, point: string | null) => void = () => {};
  private readonly seed: number;
  readonly all: Actor[] = [];
  private last: Actor | undefined;
  private readonly stay: number;
  private failure: unknown;

  constructor(seed: number) {
    this.seed = seed;
    this.random = new Random(seed, "scheduler");
    // Some runs change hands at every point, others seldom: both find what the other does not.
    this.stay = this.random.pick([0, 0.3, 0.6, 0.85]);
  }

  /** Adds an actor; it begins when it is first given a turn. An error of it fails the run. */
  start(name: string, work: (actor: Actor) => Promise<void>): Actor {
    const actor = new Actor(name, new Random(this.seed, name));
    this.all.push(actor);
    const run = async () => {
      await this.point(actor, "start");
      await work(actor);
    };
    run()
      .catch((error: unknown) => {
        this.failure ??= error;
      })
      .finally(() => {
        actor.ended = true;
        actor.settled();
      });
    return actor;
  }

  /** A scheduling point: comes back when the actor is given its next turn, not before `ms` of simulated time. */
  point(actor: Actor, point: string, ms = 0): Promise<void> {
    return new Promise((resolve) => {
      actor.waiting = { point, wakeAt: this.time + ms, resume: resolve };
      actor.settled();
    });
  }

  clockOf(actor: Actor): Clock {
    let ids = 0;
    return {
      now: () => Math.floor(this.time),
      monotonic: () => this.time,
      random: () => actor.random.next(),
      id: () => {
        ids += 1;
        return `${actor.name}-${ids}`;
      },
      sleep: (ms) => this.point(actor, "sleep", ms),
    };
  }

  get running(): readonly Actor[] {
    return this.all.filter((actor) => actor.waiting !== undefined);
  }

  /** Gives turns until nobody is left. Throws what an actor threw, and what `afterTurn` throws. */
  async run(): Promise<void> {
    for (;;) {
      const actor = this.choose();
      if (!actor) return;
      await this.turn(actor);
      if (this.failure !== undefined) throw this.failure;
      this.afterTurn(actor, actor.waiting?.point ?? null);
    }
  }

  private choose(): Actor | undefined {
    const running = this.running;
    if (running.length === 0) return undefined;
    if (this.last?.waiting && this.last.waiting.wakeAt <= this.time && this.random.chance(this.stay)) return this.last;
    const awake = running.filter((actor) => actor.waiting !== undefined && actor.waiting.wakeAt <= this.time);
    if (awake.length > 0) return this.random.pick(awake);
    return running.reduce((a, b) => ((b.waiting?.wakeAt ?? 0) < (a.waiting?.wakeAt ?? 0) ? b : a));
  }

  private async turn(actor: Actor): Promise<void> {
    const { waiting } = actor;
    if (!waiting) return;
    this.time = Math.max(this.time, waiting.wakeAt) + this.random.next() * 2;
    this.turns += 1;
    this.note(actor.name, waiting.point);
    this.last = actor;
    actor.waiting = undefined;
    const settled = new Promise<void>((resolve) => {
      actor.settled = resolve;
    });
    waiting.resume();
    await settled;
  }

  /** The actor never runs again, and what it had open is closed in the middle of what it did. */
  crash(actor: Actor): void {
    this.note(actor.name, `killed at ${actor.waiting?.point ?? "?"}`);
    actor.waiting = undefined;
    for (const close of actor.onCrash.splice(0)) close();
    // All actors are one process to hive: a dead holder is known by its lease alone.
    if (actor.leases.size > 0) this.time += 16_000;
  }

  note(who: string, what: string): void {
    const line = `${who}: ${what}`;
    this.trace.push(line);
    this.hash = hashText(line, this.hash);
  }
}
