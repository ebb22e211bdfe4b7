import { isoTime } from "../clock.ts";
import { type Context, lockOptions, type SecondThread } from "../context.ts";
import { HiveError } from "../errors.ts";
import { listFlags } from "../flags/facts.ts";
import type { BackfillOptions } from "../hive.ts";
import type { BackfillResult } from "../results.ts";
import { audit } from "../rollout/audit.ts";
import { requireLedger } from "../schema/ledger.ts";
import type { Session, Transaction, Value } from "../storage/port.ts";
import { among, sql } from "../storage/sql.ts";
import { keyIn, type Loaded, missingColumns } from "./aggregates.ts";
import { hold, insertNew, moveStaged, stage, type UnifiedWrite } from "./apply.ts";
import { captureState } from "./capture.ts";
import {
  type LogPoint,
  logPoint,
  nameOf,
  older,
  pendingAmong,
  START_OF_LOG,
  unnotedTables,
  Window,
} from "./changes.ts";
import { type AggregateMapping, resolveAgents } from "./mapping.ts";
import { Meter } from "./meter.ts";
import { Pace } from "./pace.ts";
import {
  countRoots,
  flagsChanged,
  introspectAll,
  isUnnamed,
  type Page,
  type Pager,
  PageSize,
  pagersOf,
  SECOND_THREAD_FROM,
  Who,
} from "./page.ts";
import { type Quarantined, quarantine, release } from "./quarantine.ts";
import { keepLosses } from "./settle.ts";

interface FullBackfillOptions extends BackfillOptions {
  /** Keep unified aggregates, before they are written over, that hold what the legacy ones would not give back. */
  readonly keepLosses?: boolean;
}

interface Counts {
  written: number;
  unchanged: number;
  quarantined: number;
}

/** What is to become of some aggregates. */
interface Verdicts {
  readonly writes: readonly (UnifiedWrite & { readonly agent: string })[];
  readonly quarantined: readonly Quarantined[];
  readonly unchanged: readonly { readonly key: string; readonly agent: string }[];
  /** Keys that leave the quarantine. */
  readonly solved: readonly string[];
}

/** A page, read and judged, on this thread or on another one. */
interface Judged extends Verdicts {
  /** What {@link Pace.observe} gave before the page was read. */
  readonly stamp: number;
  /** How far the change log went in the view in which the page was read: a {@link Window} begins there. */
  readonly point: LogPoint;
  /** As it was read; empty where that was on another thread. */
  readonly read: readonly Loaded[];
  /** How many legacy aggregates were looked at. */
  readonly rows: number;
  /** The last key: noted when the page is done. */
  readonly cursor: string | null;
  /** Where the next page begins, if there is more. */
  readonly after: Value;
  readonly more: boolean;
}

const EMPTY = {
  point: START_OF_LOG,
  writes: [],
  quarantined: [],
  unchanged: [],
  solved: [],
  read: [],
  rows: 0,
  cursor: null,
  after: null,
  more: false,
} as const;

const PAGES_AHEAD = 4;

/** How often a slice is judged again because others committed, before that is settled under the lock. */
const MOST_ATTEMPTS = 5;

const NONE: ReadonlySet<string> = new Set();

/** How often the place is noted while there is nothing to write. */
const NOTE_EVERY_MS = 1_000;

/**
 * Brings the unified side up to what the legacy side holds, for agents whose legacy side leads. Writes only what
 * differs. Goes on where an interrupted run of the same agents ended. An aggregate that cannot be mapped or written
 * is quarantined and does not stop the rest. Never writes what was read before another process changed it.
 *
 * @throws NOT_MIGRATED, UNKNOWN_AGENT, GUARD_REFUSED (the unified side of an agent leads; flags changed meanwhile),
 * LOCK_HELD, INTERRUPTED
 */
export async function backfill(context: Context, options: FullBackfillOptions = {}): Promise<BackfillResult> {
  const { store } = context;
  await requireLedger(store);
  await agentsLedByLegacy(context, options.agents ?? []);
  const run = async () => {
    // Once more: while this one waited for the lock, the unified side may have come to lead for some.
    const agents = await agentsLedByLegacy(context, options.agents ?? []);
    const who = await Who.of(context, agents);
    if (agents.some((agent) => who.leads(agent) === "unified")) throw flagsChanged();
    return new Backfill(context, who, options).run();
  };
  if (options.dryRun) return run();
  return store.withLock("backfill", lockOptions(context, options, "hive backfill"), run);
}

/** Naming an agent whose unified side leads is refused; where none is named they are left out. */
async function agentsLedByLegacy(context: Context, names: readonly string[]): Promise<string[]> {
  const wanted = resolveAgents(context.mapping, names);
  const { agents } = await listFlags(context, wanted);
  const unified = agents.filter((agent) => agent.authority === "unified");
  if (names.length > 0 && unified.length > 0) {
    const list = unified.map((agent) => `${agent.agent} (${agent.stage})`).join(", ");
    throw new HiveError(
      "GUARD_REFUSED",
      `The unified side leads for ${list}: a backfill would write old values over new ones.`,
      {
        hint: "Compare with `hive check`, or go back first with `hive rollback --agent NAME --to shadow`.",
        details: { agents: unified.map((agent) => agent.agent) },
      },
    );
  }
  const other = new Set(unified.map((agent) => agent.agent));
  return wanted.filter((agent) => !other.has(agent));
}

class Backfill {
  private readonly context: Context;
  private readonly who: Who;
  private readonly options: FullBackfillOptions;
  private readonly pace: Pace;
  private readonly meter: Meter;
  private readonly counts = new Map<string, Counts>();
  /** Counted, but not yet noted in hive_backfill. */
  private readonly unsaved = new Map<string, Counts>();
  private notedAt = Number.NEGATIVE_INFINITY;
  private resumed = false;
  private thread: SecondThread | undefined;
  /** While all that agents write is captured: the version of the schema with these triggers. */
  private capturedAt: number | null = null;
  /** How often in a row agents' transactions held some of the rows. */
  private heldTimes = 0;
  private window: { readonly from: LogPoint; readonly window: Window } | undefined;

  constructor(context: Context, who: Who, options: FullBackfillOptions) {
    this.context = context;
    this.who = who;
    this.options = options;
    this.pace = new Pace(context.store, context.clock, context.settings.lockBudget, "backfill");
    this.meter = new Meter("backfill", context.clock, options.onProgress);
  }

  async run(): Promise<BackfillResult> {
    if (!this.options.dryRun) await this.lookForCapture();
    const layouts = await introspectAll(this.context);
    this.meter.total = await countRoots(this.context, layouts);
    const cursors = await this.begin();
    // Without the change log, what was read has to be compared with what there is: the other thread does not send it.
    const useful = this.capturedAt !== null || this.context.store.dialect.singleWriter;
    if (useful && this.meter.total >= SECOND_THREAD_FROM)
      this.thread = await this.context.startSecondThread?.(this.who.agents);
    try {
      for (const pager of pagersOf(layouts, this.who, true)) {
        const cursor = cursors.get(pager.layout.mapping.name);
        if (cursor !== undefined) await this.pass(pager, cursor);
      }
    } finally {
      await this.thread?.close();
    }
    const sum: Counts = { written: 0, unchanged: 0, quarantined: 0 };
    for (const counts of this.counts.values()) {
      sum.written += counts.written;
      sum.unchanged += counts.unchanged;
      sum.quarantined += counts.quarantined;
    }
    const total = sum.written + sum.unchanged + sum.quarantined;
    const seconds = this.meter.seconds();
    return {
      agents: [...this.who.agents],
      aggregates: { ...sum, total },
      seconds,
      perSecond: seconds > 0 ? Math.round(total / seconds) : 0,
      resumed: this.resumed,
      missingColumns: [...new Set(layouts.flatMap(missingColumns))],
      dryRun: this.options.dryRun === true,
    };
  }

  private async lookForCapture(): Promise<void> {
    const { store } = this.context;
    this.capturedAt = await store.snapshot(async (session) => {
      const { needed, broken, blind } = await captureState(this.context, session);
      const gaps = await unnotedTables(session);
      const whole = needed.legacy && broken.length === 0 && !blind && gaps.length === 0;
      return whole ? store.schemaVersion(session) : null;
    });
  }

  /**
   * Where each mapping starts: at null from the beginning; a mapping that an interrupted run had finished is left out.
   * A run is continued only where all the agents stopped at the same place; otherwise it starts over, which costs time
   * but writes nothing twice.
   */
  private async begin(): Promise<Map<string, string | null>> {
    const { store, mapping } = this.context;
    const { agents } = this.who;
    const rows = await store.read.all(sql`SELECT agent, mapping, state, cursor FROM hive_backfill`);
    const cursors = new Map<string, string | null>();
    for (const { name } of mapping.aggregates) {
      const own = rows.filter((row) => row.mapping === name && agents.includes(String(row.agent)));
      const places = new Set(own.map((row) => JSON.stringify([row.state, row.cursor])));
      const state = own[0]?.state;
      if (own.length !== agents.length || places.size !== 1 || state === "stale") return this.startOver();
      const cursor = own[0]?.cursor;
      if (state === "running") cursors.set(name, typeof cursor === "string" ? cursor : null);
    }
    if (cursors.size === 0) return this.startOver();
    this.resumed = cursors.size < mapping.aggregates.length || [...cursors.values()].some((cursor) => cursor !== null);
    return cursors;
  }

  private async startOver(): Promise<Map<string, string | null>> {
    const { store, mapping, clock } = this.context;
    const cursors = new Map<string, string | null>(mapping.aggregates.map(({ name }) => [name, null]));
    if (this.options.dryRun) return cursors;
    await store.transaction("backfill begin", async (tx) => {
      for (const agent of this.who.agents) {
        for (const { name } of mapping.aggregates) {
          await tx.run(sql`INSERT INTO hive_backfill
              (agent, mapping, state, cursor, started_at, finished_at, written, unchanged, quarantined)
            VALUES (${agent}, ${name}, 'running', NULL, ${isoTime(clock)}, NULL, 0, 0, 0)
            ON CONFLICT (agent, mapping) DO UPDATE SET state = 'running', cursor = NULL,
              started_at = excluded.started_at, finished_at = NULL, written = 0, unchanged = 0, quarantined = 0`);
        }
      }
    });
    return cursors;
  }

  private async pass(pager: Pager, start: string | null): Promise<void> {
    const { layout } = pager;
    const reader = new PageReader(this.context, pager, this.who);
    if (start === null) {
      const quarantined = await this.context.store.snapshot((session) => pager.withoutKey(session));
      await this.write(pager, { ...EMPTY, stamp: await this.stamp(), quarantined });
      this.meter.add(quarantined.length);
    }
    for await (const judged of this.pages(pager, reader, start === null ? null : keyIn(layout.legacy.root, start))) {
      this.assertNotAborted();
      await this.settle(pager, judged);
      this.meter.add(judged.rows);
    }
    if (!this.options.dryRun) await this.finish(layout.mapping);
  }

  /** The pages of one mapping in their order: from the other thread while nobody else writes, else read here. */
  private async *pages(pager: Pager, reader: PageReader, start: Value): AsyncGenerator<Judged> {
    let last: Pick<Judged, "after" | "more"> = { after: start, more: true };
    while (last.more) {
      const stamp = await this.stamp();
      if (this.thread && !this.pace.contended) {
        for await (const judged of this.ahead(this.thread, pager.layout.mapping.name, last.after)) {
          last = judged;
          yield judged;
        }
      } else {
        const judged: Judged = { ...(await reader.next(last.after, stamp)), stamp };
        last = judged;
        yield judged;
      }
    }
  }

  /** A dry run does not look for others: looking needs the writing connection, and nothing is written. */
  private async stamp(): Promise<number> {
    return this.options.dryRun ? 0 : this.pace.observe();
  }

  /** Keeps the other thread some pages ahead, so that neither waits when the other one is slow for a moment. */
  private async *ahead(thread: SecondThread, mapping: string, start: Value): AsyncGenerator<Judged> {
    const asked: Promise<Judged>[] = [];
    const ask = async (from?: Value) => {
      // Taken before the page is read: what is committed after it makes the page count as old.
      const stamp = await this.stamp();
      const page = thread.next(mapping, stamp, from).then((judged) => ({ ...(judged as Judged), stamp }));
      // A failure is met when it is this page's turn, not as an unhandled rejection.
      page.catch(() => undefined);
      asked.push(page);
    };
    await ask(start);
    for (let page = asked.shift(); page; page = asked.shift()) {
      while (asked.length < PAGES_AHEAD && !this.pace.contended) await ask();
      const judged = await page;
      yield judged;
      if (!judged.more) return;
    }
  }

  /** Everything that a page needs, in slices; its last key is noted with the last of them. */
  private async settle(pager: Pager, judged: Judged): Promise<void> {
    await this.context.signal?.("backfill:judged");
    let rest = judged;
    while (rest.writes.length > this.pace.slice) {
      const [some, others] = split(rest, this.pace.slice);
      await this.write(pager, some);
      rest = others;
    }
    await this.write(pager, rest);
  }

  /**
   * One transaction, or none where there is nothing to write and the place was noted a moment ago. With `insist` it is
   * not judged again first, since what the database said of it would be forgotten.
   */
  private async write(pager: Pager, judged: Judged, insist = false): Promise<void> {
    const { writes, quarantined, solved } = judged;
    const { clock } = this.context;
    const idle = writes.length + quarantined.length + solved.length === 0;
    if (this.options.dryRun || (idle && clock.monotonic() - this.notedAt < NOTE_EVERY_MS)) {
      for (const counts of [this.counts, this.unsaved]) addUp(counts, judged);
      return;
    }
    this.assertNotAborted();
    await this.pace.ready(this.options.abort);
    if (this.capturedAt !== null) {
      // Outside of the lock, so that little is left to look through under it.
      const window = this.windowFrom(judged.point);
      await this.context.store.snapshot((session) => window.look(session));
    }
    let current = judged;
    let moved: ReadonlySet<string> | null = null;
    try {
      for (let attempt = 1; moved === null; attempt++) {
        // Outside of the lock, and as often as it takes: reading again under it would keep others waiting.
        const keys = keysAtStake(current);
        const others = this.context.store.dialect.singleWriter && (await this.pace.observe()) !== current.stamp;
        if (!insist && keys.size > 0 && others && this.capturedAt === null) {
          current = await this.judgeAgain(pager, current, keys);
        }
        moved = await this.tryWrite(pager, current, insist || attempt >= MOST_ATTEMPTS);
      }
    } catch (error) {
      if (!(error instanceof HiveError) || error.code !== "CONSTRAINT" || current.writes.length === 0) throw error;
      return this.writeApart(pager, current, error);
    }
    this.notedAt = clock.monotonic();
    this.unsaved.clear();
    addUp(this.counts, without(current, moved));
    if (current.writes.length > 0) this.pace.done(current.writes.length);
    if (moved.size === 0) return;
    // Rows that an agent's transaction holds are met again when it has ended.
    if (this.heldTimes > 0) await clock.sleep(Math.min(500, 5 * 2 ** this.heldTimes), this.options.abort);
    const left = { ...EMPTY, stamp: current.stamp, cursor: judged.cursor };
    await this.settle(pager, await this.judgeAgain(pager, left, moved));
  }

  /** The same with these keys as both sides are now. A legacy row that is gone is left out. */
  private async judgeAgain(pager: Pager, judged: Judged, keys: ReadonlySet<string>): Promise<Judged> {
    const stamp = await this.pace.observe();
    const { page, point, now } = await this.context.store.snapshot(async (session) => {
      const point = await logPoint(session);
      const page = await pager.some(session, [...keys]);
      return { point, page, now: await judgeSettled(session, pager, page, this.who) };
    });
    const rest = without(judged, keys);
    return {
      ...rest,
      stamp,
      // What was read before is as old as it was.
      point: rest.writes.length > 0 ? older(rest.point, point) : point,
      read: page.legacy,
      writes: [...rest.writes, ...now.writes],
      quarantined: [...rest.quarantined, ...now.quarantined],
      unchanged: [...rest.unchanged, ...now.unchanged],
      solved: [...rest.solved, ...now.solved],
    };
  }

  /**
   * One transaction. The keys of which nothing was done since their aggregates were changed after they were read; null
   * where others have committed since, and nothing was done. With `insist` it finds out under the lock which keys
   * those are, instead of giving up.
   */
  private async tryWrite(pager: Pager, judged: Judged, insist: boolean): Promise<ReadonlySet<string> | null> {
    const { layout } = pager;
    const { writes } = judged;
    // While others write, everything that can be done without the lock is done before it is taken.
    const staged = writes.length > 0 && this.pace.contended;
    return this.context.store.transaction(
      "backfill",
      async (tx) => {
        await this.who.assertUnchanged(tx, this.context);
        const keys = keysAtStake(judged);
        const moved = keys.size === 0 ? NONE : await this.movedMeanwhile(tx, pager, judged, keys, insist);
        if (moved === null) return null;
        await tx.marked(async () => {
          if (this.options.keepLosses) {
            const over = writes.filter((write) => write.exists && !moved.has(write.key)).map((write) => write.key);
            await keepLosses(tx, this.context, pager, over);
          }
          if (!staged && moved.size === 0 && writes.every((write) => !write.exists)) {
            await insertNew(tx, layout, writes);
          } else if (writes.length > 0) {
            if (!staged) await stage(tx, layout, writes);
            await moveStaged(tx, layout, writes, moved);
          }
        });
        await this.context.signal?.("backfill:moved");
        const done = without(judged, moved);
        for (const entry of done.quarantined) await quarantine(tx, this.context, entry);
        if (done.solved.length > 0) await release(tx, layout.mapping.name, done.solved);
        await this.note(tx, layout.mapping.name, done, moved.size === 0 ? judged.cursor : null);
        await this.pace.record(tx);
        return moved;
      },
      staged ? { before: (tx) => stage(tx, layout, writes) } : {},
    );
  }

  /**
   * Of these keys, those that somebody wrote after they were read. Where all is captured, the change log says so;
   * else what the database says about others' commits, and the rows themselves: null where they have to be read again
   * outside of the lock first.
   */
  private async movedMeanwhile(
    tx: Transaction,
    pager: Pager,
    judged: Judged,
    keys: ReadonlySet<string>,
    insist: boolean,
  ): Promise<ReadonlySet<string> | null> {
    const { singleWriter } = this.context.store.dialect;
    const others = !singleWriter || (await this.pace.observe()) !== judged.stamp;
    const taken = await hold(tx, pager.layout, [...keys], "skip");
    this.heldTimes = taken.size > 0 ? this.heldTimes + 1 : 0;
    if (this.capturedAt !== null && (await this.context.store.schemaVersion(tx)) === this.capturedAt) {
      const window = this.windowFrom(judged.point);
      const moved = await window.look(tx);
      const source = pager.layout.unified.root.table;
      if (!window.unnoted) {
        if (moved.size + taken.size === 0) return NONE;
        return new Set([...keys].filter((key) => taken.has(key) || moved.has(nameOf(source, key))));
      }
    }
    // Triggers came or went, or could not note what was changed: from here on without them.
    this.capturedAt = null;
    if (!others) return NONE;
    if (!insist && singleWriter) return null;
    const changed = await pager.changedSince(tx, judged.read, keys);
    return taken.size === 0 ? changed : new Set([...changed, ...taken]);
  }

  /** The slices of a page share one. */
  private windowFrom(point: LogPoint): Window {
    if (this.window?.from !== point) this.window = { from: point, window: new Window(point, true) };
    return this.window.window;
  }

  /** One row that the database refuses must not keep back the others: halves, until it stands alone. */
  private async writeApart(pager: Pager, judged: Judged, error: HiveError): Promise<void> {
    const { writes } = judged;
    const [only] = writes;
    if (writes.length === 1 && only && !only.exists) {
      // Related rows can outlive their root when somebody deletes it by hand; if they were in the way, they go.
      const replacing = { ...only, exists: true, related: only.related.map(() => true) };
      return this.write(pager, { ...judged, writes: [replacing] }, true);
    }
    if (writes.length === 1 && only) {
      const entry: Quarantined = {
        mapping: pager.layout.mapping.name,
        key: only.key,
        agent: only.agent,
        direction: "up",
        reason: `the database refuses the unified row: ${error.message}`,
      };
      const solved = judged.solved.filter((key) => key !== only.key);
      return this.write(pager, { ...judged, writes: [], solved, quarantined: [...judged.quarantined, entry] }, true);
    }
    const [some, others] = split(judged, Math.ceil(writes.length / 2));
    await this.write(pager, some);
    await this.write(pager, others);
  }

  /** The counts since the last note, and how far it is. */
  private async note(tx: Transaction, mapping: string, verdicts: Verdicts, cursor: string | null): Promise<void> {
    const delta = new Map([...this.unsaved].map(([agent, counts]) => [agent, { ...counts }]));
    addUp(delta, verdicts);
    for (const [agent, counts] of delta) {
      await tx.run(sql`UPDATE hive_backfill SET written = written + ${counts.written},
        unchanged = unchanged + ${counts.unchanged}, quarantined = quarantined + ${counts.quarantined}
        WHERE agent = ${agent} AND mapping = ${mapping}`);
    }
    if (cursor === null) return;
    await tx.run(
      sql`UPDATE hive_backfill SET cursor = ${cursor} WHERE mapping = ${mapping} AND agent IN ${among(this.who.agents)}`,
    );
  }

  private async finish(mapping: AggregateMapping): Promise<void> {
    const { store, clock } = this.context;
    const last = this.context.mapping.aggregates.at(-1)?.name === mapping.name;
    await store.transaction("backfill finish", async (tx) => {
      await this.who.assertUnchanged(tx, this.context);
      await this.note(tx, mapping.name, EMPTY, null);
      await this.pace.record(tx, true);
      const finished = await tx.run(sql`UPDATE hive_backfill SET state = 'finished', finished_at = ${isoTime(clock)}
        WHERE mapping = ${mapping.name} AND state = 'running' AND agent IN ${among(this.who.agents)}`);
      // A flag was changed after the last write: what was written meanwhile may have been missed.
      if (finished < this.who.agents.length) throw flagsChanged();
      // Whatever could not be moved was entered again by this run; the rest is gone, or has another key now.
      await tx.run(sql`DELETE FROM hive_quarantine WHERE mapping = ${mapping.name} AND direction = 'up'
        AND state = 'quarantined' AND agent IN ${among(this.who.agents)} AND at < (SELECT started_at FROM hive_backfill
          WHERE hive_backfill.agent = hive_quarantine.agent AND hive_backfill.mapping = hive_quarantine.mapping)`);
      if (!last) return;
      for (const agent of this.who.agents) {
        const after = this.counts.get(agent) ?? { written: 0, unchanged: 0, quarantined: 0 };
        await audit(tx, this.context, { action: "backfill", agent, reason: this.options.reason, after });
      }
    });
    this.unsaved.clear();
  }

  private assertNotAborted(): void {
    if (!this.options.abort?.aborted) return;
    throw new HiveError("INTERRUPTED", "The backfill was interrupted.", {
      hint: "What was written is kept. Run the same command again: it goes on from there.",
    });
  }
}

/** Reads and judges the legacy aggregates of one mapping, page by page. */
class PageReader {
  private readonly context: Context;
  private readonly pager: Pager;
  private readonly who: Who;
  private readonly size = new PageSize();

  constructor(context: Context, pager: Pager, who: Who) {
    this.context = context;
    this.pager = pager;
    this.who = who;
  }

  async next(after: Value, stamp: number): Promise<Omit<Judged, "stamp">> {
    const limit = this.size.rows;
    const { point, page, verdicts } = await this.context.store.snapshot(async (session) => {
      const point = await logPoint(session);
      const page = await this.pager.next(session, after, limit, stamp);
      return { point, page, verdicts: await judgeSettled(session, this.pager, page, this.who) };
    });
    this.size.learn(page);
    const last = page.legacy.at(-1);
    return {
      ...verdicts,
      point,
      read: page.legacy,
      rows: page.legacy.length,
      cursor: last?.key ?? null,
      after: last?.keyValue ?? null,
      more: page.more,
    };
  }
}

/** The other end of {@link SecondThread}: gives what a backfill's own reading would have given, to be sent to it. */
export async function pageSource(context: Context, agents: readonly string[]): Promise<SecondThread["next"]> {
  const who = await Who.of(context, agents);
  const layouts = await introspectAll(context);
  const readers = new Map(
    pagersOf(layouts, who, true).map((pager) => [pager.layout.mapping.name, new PageReader(context, pager, who)]),
  );
  let place: { after: Value; more: boolean } = { after: null, more: false };
  return async (mapping, stamp, from) => {
    if (from !== undefined) place = { after: from, more: true };
    const reader = readers.get(mapping);
    if (!reader || !place.more) return { ...EMPTY };
    const judged = await reader.next(place.after, stamp);
    place = judged;
    return { ...judged, read: [] };
  };
}

/** Whatever would be wrong if somebody changed its aggregate meanwhile. Rows without a key cannot be looked for. */
function keysAtStake({ writes, quarantined, solved }: Verdicts): Set<string> {
  const keys = new Set(solved);
  for (const { key } of writes) keys.add(key);
  for (const { key } of quarantined) if (!isUnnamed(key)) keys.add(key);
  return keys;
}

/**
 * The first writes alone, and all else. What a write would take out of quarantine goes with it: released with others,
 * one that the database has just refused again would be nowhere.
 */
function split(judged: Judged, count: number): [Judged, Judged] {
  const { stamp, point, read, writes, solved } = judged;
  const first = writes.slice(0, count);
  const keys = new Set(first.map(({ key }) => key));
  return [
    { ...EMPTY, stamp, point, read, writes: first, solved: solved.filter((key) => keys.has(key)) },
    { ...judged, writes: writes.slice(count), solved: solved.filter((key) => !keys.has(key)) },
  ];
}

function without<T extends Verdicts>(judged: T, keys: ReadonlySet<string>): T {
  if (keys.size === 0) return judged;
  const other = ({ key }: { readonly key: string }) => !keys.has(key);
  return {
    ...judged,
    writes: judged.writes.filter(other),
    quarantined: judged.quarantined.filter(other),
    unchanged: judged.unchanged.filter(other),
    solved: judged.solved.filter((key) => !keys.has(key)),
  };
}

/**
 * Without what was written on the unified side and waits in the log: both sides may have changed, and that is for a
 * sync to decide.
 */
async function judgeSettled(session: Session, pager: Pager, page: Page, who: Who): Promise<Verdicts> {
  const verdicts = judgeAll(pager, page);
  const keys = keysAtStake(verdicts);
  if (!who.someLeadUnified || keys.size === 0) return verdicts;
  const pending = await pendingAmong(session, pager.layout.unified.root.table, [...keys]);
  return without(verdicts, new Set([...pending].filter(([, { unified }]) => unified).map(([key]) => key)));
}

function judgeAll(pager: Pager, page: Page): Verdicts {
  const writes: (UnifiedWrite & { agent: string })[] = [];
  const quarantined: Quarantined[] = [];
  const unchanged: { key: string; agent: string }[] = [];
  const solved: string[] = [];
  for (const one of page.legacy) {
    const judgement = pager.judge(page, one);
    if (judgement === null) continue;
    const { key, agent } = judgement;
    if (judgement.kind === "up") writes.push({ key, agent, ...judgement.write });
    else if (judgement.kind === "same") unchanged.push({ key, agent });
    else if (judgement.kind === "quarantined") quarantined.push(judgement.entry);
    // What could not go down stays listed: it is kept elsewhere, and somebody has to look at it.
    const settled = judgement.kind === "up" || judgement.kind === "same";
    if (settled && page.inQuarantine.get(key) === "up") solved.push(key);
  }
  return { writes, quarantined, unchanged, solved };
}

function addUp(sums: Map<string, Counts>, verdicts: Verdicts): void {
  const add = (agent: string, what: keyof Counts) => {
    let own = sums.get(agent);
    if (!own) {
      own = { written: 0, unchanged: 0, quarantined: 0 };
      sums.set(agent, own);
    }
    own[what] += 1;
  };
  for (const write of verdicts.writes) add(write.agent, "written");
  for (const entry of verdicts.quarantined) add(entry.agent, "quarantined");
  for (const one of verdicts.unchanged) add(one.agent, "unchanged");
}
