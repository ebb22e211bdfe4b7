import type { Context } from "../context.ts";
import { HiveError } from "../errors.ts";
import { eventRules, type NewEvent } from "../events/event.ts";
import { appendEvents, type EmittedEvent, emitAlone, emittingAgents, prepareEvents } from "../events/outbox.ts";
import type { Stage } from "../flags/stages.ts";
import { Histogram, type Percentiles } from "../observe/histogram.ts";
import { type Metrics, metricsOf } from "../observe/metrics.ts";
import type { Row, Transaction, TransactionOptions, Tuple, Value } from "../storage/port.ts";
import { among, id, join, type Sql, sql } from "../storage/sql.ts";
import { keyValues, type Layout, type Loaded, loadKeys, loadRoots, toAggregate } from "./aggregates.ts";
import { absentName, deleteLegacy, deleteUnified, insertNew } from "./apply.ts";
import { baseOf, writeBase } from "./bases.ts";
import { addChanges, noteWritten } from "./changes.ts";
import { MappingError, type RecordCodec, resolveAgents, sameValue } from "./mapping.ts";
import { compareDown, mappingReason, projectUp, type Rows, withChanges } from "./projection.ts";
import { type Quarantined, quarantine, release } from "./quarantine.ts";
import { Reconciler } from "./reconcile.ts";
import { columnsNotStored, laterTime, nothing, type RowsRecord, rowsCodec, sameTime, toLoaded } from "./records.ts";
import { jsonValue, keep, writeDown } from "./settle.ts";
import { type ComparisonStats, type ShadowReadOptions, ShadowReads } from "./shadow-reads.ts";
import {
  currentOf,
  loadedOf,
  NEW,
  NOT_FOUND,
  ownerOf,
  ruling,
  type Schema,
  type Stages,
  type Standing,
  View,
} from "./writer-view.ts";

export interface WriterOptions extends ShadowReadOptions {
  /** The unified root table of the records. Needed where the mapping has several, and no codec says which. */
  table?: string;
}

/** Some fields of a record; of its parts too. Null removes a part or empties a field. */
export type Changes<R> = { readonly [F in keyof R]?: PartOf<R[F]> | null };
type PartOf<T> = T extends readonly unknown[] | string | number | bigint | boolean | null | undefined ? T : Partial<T>;

/** What became of a write. */
export interface Deleted {
  readonly key: string;
  /** The agent whose row it is, and the stage by which it was routed. */
  readonly agent: string;
  readonly stage: Stage;
  /** Why the side that follows could not be written: the aggregate is in quarantine. Null where all is well. */
  readonly quarantined: string | null;
}
export interface Written<R> extends Deleted {
  /** As it is stored. */
  readonly record: R;
  /** Unified columns, as `table.column`, that were asked for and that the side which leads cannot hold. */
  readonly notStored: readonly string[];
}

export interface ChangeCondition {
  /** The `updatedAt` that the record must still have. RECORD_CHANGED, and nothing written, where it has another. */
  expectedUpdatedAt?: string;
}

export interface ListOptions {
  /** Default 100. */
  limit?: number;
  /** The `next` of the page before. */
  after?: string;
}

/** Fields and the values that they have to have. */
export type RecordFilter = { readonly [field: string]: null | string | number | bigint | boolean };

export interface RecordPage<R> {
  readonly records: readonly R[];
  /** For the page after this one; null where there is none. */
  readonly next: string | null;
  /** Rows that the mapping cannot express, and so are no records. */
  readonly unreadable: readonly { readonly key: string; readonly reason: string }[];
}

/** An event of the writer's agent. */
export type WriterEvent = Omit<NewEvent, "sourceAgent">;

/** Both sides of one write transaction, and whatever else the caller writes in it. */
export interface WriterTransaction<R> {
  create(record: Changes<R>): Promise<Written<R>>;
  update(key: string, changes: Changes<R>, condition?: ChangeCondition): Promise<Written<R>>;
  delete(key: string, condition?: ChangeCondition): Promise<Deleted>;
  /** Sees what this transaction has written. */
  get(key: string): Promise<R | null>;
  /** As {@link Writer.emit}, in this transaction: the events are there if it commits. */
  emit(events: WriterEvent | readonly WriterEvent[]): Promise<readonly EmittedEvent[]>;
  /** A statement of the caller's own; the number of rows it changed. */
  run(statement: Sql): Promise<number>;
  all(query: Sql): Promise<Row[]>;
}

export interface OperationStats {
  readonly count: number;
  readonly failed: number;
  /** Milliseconds: on the side that leads, on the side that follows, and from the call to the answer. */
  readonly leading: Percentiles;
  readonly following: Percentiles;
  readonly total: Percentiles;
}

export interface WriterStats {
  readonly operations: { readonly [operation in Operation]: OperationStats };
  readonly comparisons: ComparisonStats;
}

const OPERATIONS = ["create", "update", "delete", "get", "list", "transaction"] as const;
export type Operation = (typeof OPERATIONS)[number];

/**
 * Writes and reads records on both schemas as the stage of the agent whose row it is asks for: any agent's writer may
 * write any row. The flags are read inside each transaction: none that began under an old stage commits after a flip,
 * and a flip needs no restart. Both sides commit or neither does. While the legacy side leads, what it cannot hold is
 * not stored, and the result names it. A side that follows and fails never fails the call: the aggregate goes into
 * quarantine.
 *
 * Errors: RECORD_INVALID (a field or value that is none, or that the leading schema cannot hold), RECORD_EXISTS,
 * RECORD_MISSING, RECORD_CHANGED, RECORD_UNREADABLE (a legacy row that the mapping cannot express), CONSTRAINT (the
 * leading side refuses the row), DATABASE_BUSY.
 */
export interface Writer<R> extends AsyncDisposable {
  readonly agent: string;
  /** With a new key where the record names none. */
  create(record: Changes<R>): Promise<Written<R>>;
  update(key: string, changes: Changes<R>, condition?: ChangeCondition): Promise<Written<R>>;
  delete(key: string, condition?: ChangeCondition): Promise<Deleted>;
  /** Null where the side that leads has no such record. */
  get(key: string): Promise<R | null>;
  /**
   * Records in the order of their keys. While the legacy side leads for any row, every row is projected to be looked
   * at: a page may read far more than it gives.
   */
  list(filter?: RecordFilter, options?: ListOptions): Promise<RecordPage<R>>;
  /** One transaction for everything in `work`, and for both sides. An error undoes all of it. */
  transaction<T>(work: (tx: WriterTransaction<R>) => Promise<T>): Promise<T>;
  /**
   * Appends events of this agent; what was appended comes back. None while the agent's flag `unified-events` is off, which
   * costs next to nothing: then they are not even looked at. A change of the flag counts within a second.
   * @throws UNKNOWN_NAME (type), RECORD_INVALID, CONSTRAINT (an id that there is already), NOT_MIGRATED
   */
  emit(events: WriterEvent | readonly WriterEvent[]): Promise<readonly EmittedEvent[]>;
  stats(): WriterStats;
  /** Waits for comparisons that are running. */
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * A writer for this agent.
 * @throws UNKNOWN_AGENT, USAGE (several tables, none named), UNKNOWN_NAME (no such table)
 */
export function openWriter<R = RowsRecord>(context: Context, agent: string, options: WriterOptions = {}): Writer<R> {
  const [name = agent] = resolveAgents(context.mapping, [agent]);
  const codec = codecOf(context, options.table);
  // What a record is, is the mapping's word: the caller names the type that goes with it.
  const typed = (record: object) => record as R;
  return new DualWriter(context, name, codec, typed, options);
}

function codecOf({ mapping }: Context, wanted: string | undefined): RecordCodec {
  const tables = [...new Set(mapping.aggregates.map(({ unified }) => unified.root.table))];
  const table = wanted ?? mapping.records?.table ?? (tables.length === 1 ? tables[0] : undefined);
  if (table === undefined) {
    throw new HiveError("USAGE", "The mapping has several kinds of records.", {
      hint: `Name one: hive.writer(agent, { table }), with ${tables.join(" or ")}.`,
      details: { tables },
    });
  }
  if (!tables.includes(table)) {
    throw new HiveError("UNKNOWN_NAME", `The mapping has no unified root table "${table}".`, {
      hint: `Its root tables are: ${tables.join(", ")}.`,
      details: { table, known: tables },
    });
  }
  return mapping.records?.table === table ? mapping.records : rowsCodec(mapping.aggregates, table);
}

/** Milliseconds spent on each side by one call; undefined: nothing was written there. */
interface Times {
  leading: number;
  following: number;
  legacy?: number;
  unified?: number;
}

/** `side` null: nothing is written there. */
function spent(times: Times, role: "leading" | "following", side: "legacy" | "unified" | null, ms: number): void {
  times[role] += ms;
  if (side !== null) times[side] = (times[side] ?? 0) + ms;
}

interface Timing {
  failed: number;
  readonly leading: Histogram;
  readonly following: Histogram;
  readonly total: Histogram;
}

class DualWriter<R> implements Writer<R> {
  readonly agent: string;
  private readonly context: Context;
  private readonly codec: RecordCodec;
  private readonly typed: (record: object) => R;
  private readonly view: View;
  private readonly shadowReads: ShadowReads;
  private readonly timings: { readonly [operation in Operation]: Timing };
  private readonly metrics: Metrics;

  constructor(
    context: Context,
    agent: string,
    codec: RecordCodec,
    typed: (record: object) => R,
    options: ShadowReadOptions,
  ) {
    this.context = context;
    this.agent = agent;
    this.metrics = metricsOf(context);
    this.codec = codec;
    this.typed = typed;
    this.view = new View(context, codec);
    this.shadowReads = new ShadowReads(context, (key) => this.view.compare(key), options);
    const timing = (): Timing => ({
      failed: 0,
      leading: new Histogram(),
      following: new Histogram(),
      total: new Histogram(),
    });
    const [create, update, remove] = [timing(), timing(), timing()];
    this.timings = { create, update, delete: remove, get: timing(), list: timing(), transaction: timing() };
  }

  create(record: Changes<R>): Promise<Written<R>> {
    return this.timed("create", (times) =>
      this.creating(() => this.transact(times, (call) => this.put(call, null, record, {}))),
    );
  }

  update(key: string, changes: Changes<R>, condition: ChangeCondition = {}): Promise<Written<R>> {
    return this.timed("update", (times) => this.transact(times, (call) => this.put(call, key, changes, condition)));
  }

  delete(key: string, condition: ChangeCondition = {}): Promise<Deleted> {
    return this.timed("delete", (times) => this.transact(times, (call) => this.remove(call, key, condition)));
  }

  async transaction<T>(work: (tx: WriterTransaction<R>) => Promise<T>): Promise<T> {
    // Loaded ahead of the transaction: others wait for it.
    if ((await emittingAgents(this.context)).has(this.agent)) await eventRules(this.context.mapping);
    return this.timed("transaction", (times) =>
      this.transact(times, (call) => this.several(call, work), { once: true }),
    );
  }

  async emit(events: WriterEvent | readonly WriterEvent[]): Promise<readonly EmittedEvent[]> {
    if (!(await emittingAgents(this.context)).has(this.agent)) return [];
    return emitAlone(this.context, this.own(events));
  }

  private own(events: WriterEvent | readonly WriterEvent[]): readonly NewEvent[] {
    return [events].flat().map((event) => ({ ...event, sourceAgent: this.agent }));
  }

  async get(key: string): Promise<R | null> {
    return this.timed("get", async (times) => {
      const begun = this.context.clock.monotonic();
      const found = await this.context.store.snapshot((session) => this.view.read(session, key));
      times.leading += this.context.clock.monotonic() - begun;
      if (found === null) return null;
      if (found.stage === "shadow" || found.stage === "live") this.shadowReads.offer(key);
      return this.typed(found.record);
    });
  }

  async list(filter: RecordFilter = {}, options: ListOptions = {}): Promise<RecordPage<R>> {
    return this.timed("list", (times) => this.page(filter, options, times));
  }

  stats(): WriterStats {
    const of = ({ failed, leading, following, total }: Timing): OperationStats => ({
      count: total.count,
      failed,
      leading: leading.percentiles(),
      following: following.percentiles(),
      total: total.percentiles(),
    });
    const { create, update, get, list, transaction } = this.timings;
    return {
      operations: {
        create: of(create),
        update: of(update),
        delete: of(this.timings.delete),
        get: of(get),
        list: of(list),
        transaction: of(transaction),
      },
      comparisons: this.shadowReads.stats(),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.shadowReads.finish();
  }

  private async timed<T>(operation: Operation, work: (times: Times) => Promise<T>): Promise<T> {
    const { clock } = this.context;
    const timing = this.timings[operation];
    const begun = clock.monotonic();
    const times: Times = { leading: 0, following: 0 };
    const writes = operation !== "get" && operation !== "list";
    try {
      const result = await work(times);
      timing.leading.add(times.leading);
      timing.following.add(times.following);
      if (writes) {
        this.metrics.committed(operation, clock.monotonic() - begun);
        if (times.legacy !== undefined) this.metrics.wrote("legacy", times.legacy);
        if (times.unified !== undefined) this.metrics.wrote("unified", times.unified);
      }
      return result;
    } catch (error) {
      timing.failed += 1;
      if (writes) this.metrics.rolledBack(error);
      throw error;
    } finally {
      timing.total.add(clock.monotonic() - begun);
    }
  }

  private transact<T>(
    times: Times,
    work: (call: Call) => Promise<T>,
    options: Pick<TransactionOptions, "once"> = {},
  ): Promise<T> {
    const settled = new Set<string>();
    const written = this.metrics.transaction(
      "write",
      async (tx) => {
        const schema = await this.view.currentSchema(tx);
        const stages = await this.view.readStages(tx, schema);
        return work({ tx, schema, stages, times, settled });
      },
      options,
    );
    return written.catch(async (error: unknown) => {
      const changed = error instanceof HiveError && error.code === "RECORD_CHANGED";
      // What others wrote and this call carried over was undone with it: the caller would read the same again for ever.
      if (changed && settled.size > 0) await this.settleApart([...settled]);
      throw error;
    });
  }

  private settleApart(keys: readonly string[]): Promise<void> {
    return this.context.store.transaction("write", async (tx) => {
      const schema = await this.view.currentSchema(tx);
      const stages = await this.view.readStages(tx, schema);
      for (const key of keys) {
        await this.view.hold(tx, schema, stages, key);
        const reconciler = await Reconciler.of(this.context, tx, schema.all);
        await reconciler.settleNow(tx, this.codec.table, [key]);
      }
    });
  }

  private async several<T>(call: Call, work: (tx: WriterTransaction<R>) => Promise<T>): Promise<T> {
    const { tx, schema, stages } = call;
    let ended = false;
    let queue: Promise<unknown> = Promise.resolve();
    // The caller may catch an error and go on: then nothing of the call, its mark least of all, may be left. Calls that
    // the caller does not wait for come one after the other: marks and savepoints must not cross.
    const whole = <U>(step: () => Promise<U>): Promise<U> => {
      if (ended) return Promise.reject(transactionEnded());
      const result = queue.then(() => tx.attempt(step));
      queue = result.catch(() => undefined);
      return result;
    };
    const result = await work({
      create: (record) => this.creating(() => whole(() => this.put(call, null, record, {}))),
      update: (key, changes, condition = {}) => whole(() => this.put(call, key, changes, condition)),
      delete: (key, condition = {}) => whole(() => this.remove(call, key, condition)),
      get: (key) =>
        whole(async () => {
          const found = await this.view.read(tx, key, { schema, stages });
          return found && this.typed(found.record);
        }),
      emit: async (events) => {
        if (!stages.emits(this.agent)) return [];
        return whole(async () => appendEvents(tx, this.context, await prepareEvents(this.context, this.own(events))));
      },
      run: (statement) => whole(() => tx.run(statement)),
      all: (query) => whole(() => tx.all(query)),
    });
    await queue;
    ended = true;
    return result;
  }

  /** Where others write meanwhile, an agent can insert the key after it was looked for: then it is found. */
  private async creating<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      const { singleWriter } = this.context.store.dialect;
      if (singleWriter || !(error instanceof HiveError) || error.code !== "CONSTRAINT") throw error;
      return work();
    }
  }

  /**
   * What is known of an aggregate that is locked from here on. Carries over first what others wrote by SQL and nobody has
   * seen yet: it must not be written over unseen.
   */
  private async settled(call: Call, key: string, isNew: boolean): Promise<Standing> {
    const { tx, schema, stages } = call;
    const { view, codec } = this;
    if (isNew && !tx.dialect.singleWriter) {
      await tx.serialize([absentName(codec.table, key)]);
      const standing = await view.standing(tx, schema, key, true);
      if (!standing.taken && !standing.pending) return standing;
    }
    await view.hold(tx, schema, stages, key);
    const standing = await view.standing(tx, schema, key, isNew);
    if (!standing.pending) return standing;
    call.settled.add(key);
    const reconciler = await Reconciler.of(this.context, tx, schema.all);
    await reconciler.settleNow(tx, codec.table, [key]);
    return { ...(await view.standing(tx, schema, key, isNew)), pending: false };
  }

  private async put(
    call: Call,
    asked: string | null,
    changes: object,
    { expectedUpdatedAt }: ChangeCondition,
  ): Promise<Written<R>> {
    const { tx, schema, stages, times } = call;
    const { context, codec } = this;
    const { clock } = context;
    let begun = clock.monotonic();
    const named = asked ?? refusing(null, () => codec.key(changes));
    const key = named ?? clock.id();
    // Nobody else knows a key that was made up just now.
    const standing = named === null ? NEW : await this.settled(call, key, asked === null);
    const found = standing.taken ? await this.view.find(tx, schema, stages, key, "write") : NOT_FOUND;
    const present = asked === null ? null : currentOf(found, key);
    if (asked === null && (found.legacy || (found.unified && found.lead === "unified"))) throw alreadyThere(key);
    if (asked !== null && !present) throw notThere(key);
    const before = present && found.layout ? toAggregate(found.layout.unified, present) : null;
    const previous = before && codec.updatedAt ? before[codec.table]?.[0]?.[codec.updatedAt] : undefined;
    this.assertExpected(key, expectedUpdatedAt, previous);
    const now = laterTime(clock.now(), previous);
    const { layout, wanted } = refusing(key, () => {
      const aggregate = codec.toAggregate(changes, before, key, now);
      const layout = found.layout ?? schema.layouts.find(({ mapping }) => mapping.owns(aggregate));
      if (!layout) throw new MappingError("no mapping has a place for such a record");
      return { layout, wanted: toLoaded(layout.unified, aggregate, key) };
    });

    const { mapping } = layout;
    const down = compareDown(layout, wanted, found.legacy);
    const owners = [ownerOf(layout, wanted)];
    if (down.kind !== "quarantined") {
      const next = withChanges(layout.legacy, key, found.legacy, down.kind === "write" ? down.changes : []);
      owners.unshift(mapping.agent(toAggregate(layout.legacy, next)));
    }
    const stranger = owners.find((owner) => !stages.isKnown(owner));
    if (stranger !== undefined)
      throw invalid(key, `it would belong to the agent "${stranger}", which the mapping lacks`);
    const leading = owners.filter((owner) => stages.leadsUnified(owner));
    const agent = leading.at(-1) ?? owners[0] ?? this.agent;
    const stage = stages.of(agent);
    const both = [...owners, ...found.owners].some((owner) => stages.of(owner) !== "off");
    const own = [codec.updatedAt, Reflect.has(changes, "createdAt") ? undefined : codec.createdAt];
    const result = (stored: Loaded, entry: Quarantined | null): Written<R> =>
      new Stored(key, agent, stage, entry?.reason ?? null, {
        record: () => this.typed(codec.fromAggregate(toAggregate(layout.unified, stored))),
        notStored: () =>
          stored === wanted ? [] : columnsNotStored(layout, present ?? nothing(layout), wanted, stored, own),
      });
    const entry = (direction: "up" | "down", reason: string): Quarantined => ({
      mapping: mapping.name,
      key,
      agent,
      direction,
      reason,
    });

    if (leading.length === 0) {
      if (down.kind === "quarantined") throw invalid(key, `the legacy schema cannot hold it: ${down.reason}`);
      const lead = async () => {
        if (down.kind === "write") await writeDown(tx, context, { layout }, key, agent, down.changes);
        // Nothing refers yet to a key that was made up just now.
        const { root } = layout.legacy;
        const alone =
          named === null &&
          !schema.triggered &&
          down.kind === "write" &&
          down.changes.every(({ table }) => table === root.table);
        const [legacy] = await (alone ? loadRoots : loadKeys)(tx, layout.legacy, [key]);
        if (!legacy) throw invalid(key, "the legacy side did not keep it");
        spent(times, "leading", "legacy", clock.monotonic() - begun);
        return projectUp(layout, legacy, toAggregate(layout.legacy, legacy));
      };
      // As any other program would write: nobody asks for the other side.
      if (!both) {
        const projected = await lead();
        if ("reason" in projected) throw invalid(key, `it could not be read again: ${projected.reason}`);
        return result(loadedOf(layout, key, projected.rows), null);
      }
      return this.bothSides(call, key, layout, standing, async () => {
        const projected = await lead();
        await context.signal?.("writer:led");
        begun = clock.monotonic();
        const failed =
          "reason" in projected
            ? entry("up", projected.reason)
            : await this.follow(tx, "up", entry, async () => {
                // Read here: where the unified side cannot even be read, the call must not fail.
                const unified =
                  found.unified ?? (standing.taken ? (await loadKeys(tx, layout.unified, [key]))[0] : undefined);
                if (unified && asked === null) {
                  const reason = "a new record took the place of a unified aggregate that the legacy side did not have";
                  await keep(tx, context, { layout }, unified, agent, "unified", reason);
                }
                await putUnified(tx, layout, key, unified, projected.rows);
              });
        await forgetBehind(tx, codec.table, key, standing);
        spent(times, "following", "unified", clock.monotonic() - begun);
        const stored = "reason" in projected ? wanted : loadedOf(layout, key, projected.rows);
        return { entry: failed, answer: result(stored, failed) };
      });
    }

    return this.bothSides(call, key, layout, standing, async () => {
      if (found.legacy && standing.quarantined.includes(mapping.name)) {
        const reason = "it could not be carried over, and the unified side leads";
        await keep(tx, context, { layout }, found.legacy, agent, "legacy", reason);
      }
      await putUnified(tx, layout, key, found.unified, wanted);
      // Where a column gives back JSON as it likes to write it, that is what the legacy side is to say.
      const kept = tx.dialect.singleWriter ? wanted : ((await loadKeys(tx, layout.unified, [key]))[0] ?? wanted);
      spent(times, "leading", "unified", clock.monotonic() - begun);
      await context.signal?.("writer:led");
      begun = clock.monotonic();
      let failed: Quarantined | null = null;
      const complete = leading.every((owner) => stages.of(owner) === "complete");
      if (complete) {
        await noteBehind(tx, codec.table, key, standing);
      } else {
        const carried = kept === wanted ? down : compareDown(layout, kept, found.legacy);
        if (carried.kind === "quarantined") failed = entry("down", carried.reason);
        else if (carried.kind === "write") {
          failed = await this.follow(tx, "down", entry, () =>
            writeDown(tx, context, { layout }, key, agent, carried.changes),
          );
        }
        if (!failed) {
          const changes = carried.kind === "write" ? carried.changes : [];
          const base = baseOf(layout, withChanges(layout.legacy, key, found.legacy, changes), kept);
          await writeBase(tx, codec.table, key, agent, base);
          await forgetBehind(tx, codec.table, key, standing);
        }
      }
      spent(times, "following", complete ? null : "legacy", clock.monotonic() - begun);
      return { entry: failed, answer: result(wanted, failed) };
    });
  }

  private async remove(call: Call, key: string, { expectedUpdatedAt }: ChangeCondition): Promise<Deleted> {
    const { tx, schema, stages, times } = call;
    const { context, codec } = this;
    const { clock } = context;
    let begun = clock.monotonic();
    const standing = await this.settled(call, key, false);
    const found = await this.view.find(tx, schema, stages, key, "write");
    const { layout, legacy, owners } = found;
    if (!layout || !(found.lead === "legacy" ? legacy : found.unified)) throw notThere(key);
    if (expectedUpdatedAt !== undefined) {
      const present = currentOf(found, key);
      const row = present && toAggregate(layout.unified, present)[codec.table]?.[0];
      this.assertExpected(key, expectedUpdatedAt, codec.updatedAt ? row?.[codec.updatedAt] : undefined);
    }
    const agent = ruling(found, stages);
    const stage = stages.of(agent);
    const entry = (direction: "up" | "down", reason: string): Quarantined => ({
      mapping: layout.mapping.name,
      key,
      agent,
      direction,
      reason,
    });
    const result = (failed: Quarantined | null): Deleted => ({
      key,
      agent,
      stage,
      quarantined: failed?.reason ?? null,
    });
    if (found.lead === "legacy" && owners.every((owner) => stages.of(owner) === "off")) {
      await deleteLegacy(tx, layout, [key]);
      spent(times, "leading", "legacy", clock.monotonic() - begun);
      return result(null);
    }
    return this.bothSides(call, key, layout, standing, async () => {
      let failed: Quarantined | null = null;
      let follows: "legacy" | "unified" | null = "unified";
      if (found.lead === "legacy") {
        await deleteLegacy(tx, layout, [key]);
        spent(times, "leading", "legacy", clock.monotonic() - begun);
        await context.signal?.("writer:led");
        begun = clock.monotonic();
        failed = await this.follow(tx, "up", entry, () => deleteUnified(tx, layout, [key]));
      } else {
        await deleteUnified(tx, layout, [key]);
        spent(times, "leading", "unified", clock.monotonic() - begun);
        await context.signal?.("writer:led");
        begun = clock.monotonic();
        const leading = owners.filter((owner) => stages.leadsUnified(owner));
        follows = leading.every((owner) => stages.of(owner) === "complete") ? null : "legacy";
        if (follows === null) await noteBehind(tx, codec.table, key, standing);
        else {
          if (legacy) {
            // What belongs to it and has no unified home goes with it.
            const reason = "it was deleted on the unified side, which leads";
            await keep(tx, context, { layout }, legacy, agent, "legacy", reason);
            failed = await this.follow(tx, "down", entry, () => deleteLegacy(tx, layout, [key]));
          }
          if (!failed) {
            await writeBase(tx, codec.table, key, agent, null);
            await forgetBehind(tx, codec.table, key, standing);
          }
        }
      }
      spent(times, "following", follows, clock.monotonic() - begun);
      await this.requeueShadowed(tx, schema, layout, key);
      return { entry: failed, answer: result(failed) };
    });
  }

  /** A row of a mapping that comes later and has the same key is no longer in its way. */
  private async requeueShadowed(tx: Transaction, schema: Schema, layout: Layout, key: string): Promise<void> {
    for (const other of schema.layouts.slice(schema.layouts.indexOf(layout) + 1)) {
      if ((await loadKeys(tx, other.legacy, [key])).length > 0) await addChanges(tx, "legacy", this.codec.table, [key]);
    }
  }

  private assertExpected(key: string, expected: string | undefined, actual: Value | undefined): void {
    if (expected === undefined) return;
    if (this.codec.updatedAt === undefined) {
      throw new HiveError("USAGE", "These records have no time of their last change: expectedUpdatedAt says nothing.", {
        hint: "The mapping's `records` has to name the column, as `updatedAt`.",
      });
    }
    if (sameTime(expected, actual)) return;
    throw new HiveError("RECORD_CHANGED", `The record "${key}" was changed by somebody else.`, {
      hint: "Nothing was written. Read it again and decide anew.",
      details: { key, expected, updatedAt: actual === undefined ? null : jsonValue(actual) },
    });
  }

  /** Runs what is not to be noted by triggers, then writes down what has to be known of it. */
  private async bothSides<T>(
    { tx, stages }: Call,
    key: string,
    layout: Layout,
    standing: Standing,
    work: () => Promise<{ entry: Quarantined | null; answer: T }>,
  ): Promise<T> {
    const { name } = layout.mapping;
    const { entry, answer } = await tx.marked(work);
    await this.context.signal?.("writer:followed");
    if (entry) await quarantine(tx, this.context, entry);
    else if (standing.quarantined.includes(name)) await release(tx, name, [key]);
    await noteWritten(tx, this.codec.table, [key]);
    // What follows from it, a sync tells: so it is told once and in order, whoever wrote.
    if (stages.tells) await addChanges(tx, "state", this.codec.table, [key]);
    return answer;
  }

  /** The side that follows: what fails there is undone and named, and nothing else. */
  private async follow(
    tx: Transaction,
    direction: "up" | "down",
    entry: (direction: "up" | "down", reason: string) => Quarantined,
    work: () => Promise<unknown>,
  ): Promise<Quarantined | null> {
    try {
      await tx.attempt(work);
      return null;
    } catch (error) {
      // A disk that is full, or a lock that was lost, is no fault of this aggregate.
      if (!(error instanceof HiveError) || !OF_ONE_SIDE.includes(error.code)) throw error;
      return entry(direction, `the database refuses the row: ${error.message}`);
    }
  }

  private async page(filter: RecordFilter, options: ListOptions, times: Times): Promise<RecordPage<R>> {
    const { store } = this.context;
    const limit = options.limit ?? 100;
    if (!Number.isInteger(limit) || limit < 1) {
      throw new HiveError("USAGE", `A page cannot have ${limit} records.`, { hint: "Give a limit of 1 or more." });
    }
    const wanted = this.view.conditions(filter);
    const records: R[] = [];
    const unreadable: { key: string; reason: string }[] = [];
    let after = options.after === undefined ? null : parseCursor(options.after);
    for (;;) {
      const from: Value = after;
      const begun = this.context.clock.monotonic();
      const part = await store.snapshot((session) => this.view.part(session, wanted, from));
      times.leading += this.context.clock.monotonic() - begun;
      for (const [i, one] of part.items.entries()) {
        if ("reason" in one) unreadable.push({ key: one.key, reason: one.reason });
        else if (one.record) {
          records.push(this.typed(one.record));
          if (one.stage === "shadow" || one.stage === "live") this.shadowReads.offer(one.key);
        }
        const more = part.more || i < part.items.length - 1;
        if (records.length === limit) return { records, unreadable, next: more ? cursorOf(one.at) : null };
      }
      if (!part.more) return { records, unreadable, next: null };
      after = part.last;
      // Reading is synchronous: without this, nothing else would run before the end.
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
}

/** What one side can fail with while the other is well. */
const OF_ONE_SIDE: readonly string[] = ["CONSTRAINT", "DATABASE_FAILED", "DATABASE_READ_ONLY"];

/** Many callers look at neither: what was stored is put together when it is asked for, and once. */
class Stored<R> implements Written<R> {
  readonly key: string;
  readonly agent: string;
  readonly stage: Stage;
  readonly quarantined: string | null;
  private readonly make: { record(): R; notStored(): readonly string[] };
  private made: { record?: R; notStored?: readonly string[] } = {};

  constructor(key: string, agent: string, stage: Stage, quarantined: string | null, make: Stored<R>["make"]) {
    this.key = key;
    this.agent = agent;
    this.stage = stage;
    this.quarantined = quarantined;
    this.make = make;
  }

  get record(): R {
    this.made.record ??= this.make.record();
    return this.made.record;
  }

  get notStored(): readonly string[] {
    this.made.notStored ??= this.make.notStored();
    return this.made.notStored;
  }

  toJSON(): Written<R> {
    const { key, agent, stage, quarantined, record, notStored } = this;
    return { key, agent, stage, quarantined, record, notStored };
  }
}

interface Call {
  readonly tx: Transaction;
  readonly schema: Schema;
  readonly stages: Stages;
  readonly times: Times;
  /** Aggregates of which something was carried over that others had written. */
  readonly settled: Set<string>;
}

/** Makes the unified rows of one aggregate these: only what differs is written. */
async function putUnified(
  tx: Transaction,
  layout: Layout,
  key: string,
  current: Loaded | undefined,
  rows: Rows,
): Promise<void> {
  const { root, related } = layout.unified;
  if (!current) {
    const write = { key, rows, exists: false, related: related.map(() => true) };
    const insert = () => insertNew(tx, layout, [write]);
    try {
      // Elsewhere, a statement that fails ends the whole transaction.
      await (tx.dialect.singleWriter ? insert() : tx.attempt(insert));
    } catch (error) {
      if (!(error instanceof HiveError) || error.code !== "CONSTRAINT") throw error;
      // Related rows can outlive their root when somebody deletes it by hand.
      await deleteUnified(tx, layout, [key]);
      await insertNew(tx, layout, [write]);
    }
    return;
  }
  const assignments: Sql[] = [];
  for (const [i, column] of root.columns.entries()) {
    const value = rows.root[i] ?? null;
    if (!sameValue(value, current.root[i])) assignments.push(sql`${id(column)} = ${exactly(value)}`);
  }
  if (assignments.length > 0) {
    await tx.run(sql`UPDATE ${id(root.table)} SET ${join(assignments)} WHERE ${id(root.key)} = ${current.keyValue}`);
  }
  const differ = related.some((_, i) => !sameRows(rows.related[i] ?? [], current.related[i] ?? []));
  if (!differ) return;
  // All of them: a row of one may refer to a row of another.
  for (const [i, table] of [...related.entries()].reverse()) {
    if ((current.related[i] ?? []).length === 0) continue;
    const values = keyValues([key], table.keyType);
    const gone = await tx.run(sql`DELETE FROM ${id(table.table)} WHERE ${id(table.key)} IN ${among(values)}`);
    if (!tx.dialect.singleWriter && gone !== current.related[i]?.length) throw movedMeanwhile(key);
  }
  for (const [i, table] of related.entries()) {
    const some = rows.related[i] ?? [];
    if (some.length > 0) await tx.insert(table.table, table.columns, [...some]);
  }
}

function sameRows(a: readonly Tuple[], b: readonly Tuple[]): boolean {
  return a.length === b.length && a.every((row, i) => row.every((value, at) => sameValue(value, b[i]?.[at])));
}

/** In a statement of hive's a whole number means INTEGER; here it is a REAL. */
function exactly(value: Value): Sql {
  return typeof value === "number" ? sql`CAST(${value} AS REAL)` : sql`${value}`;
}

/** Of an agent that no longer writes the legacy side: for when it goes back. */
async function noteBehind(tx: Transaction, source: string, key: string, { behind }: Standing): Promise<void> {
  if (behind) return;
  await tx.run(sql`INSERT INTO hive_behind (source, key) VALUES (${source}, ${key}) ON CONFLICT DO NOTHING`);
}

async function forgetBehind(tx: Transaction, source: string, key: string, { behind }: Standing): Promise<void> {
  if (behind) await tx.run(sql`DELETE FROM hive_behind WHERE source = ${source} AND key = ${key}`);
}

function cursorOf(value: Value): string {
  return typeof value === "bigint" ? value.toString() : JSON.stringify(value);
}

function parseCursor(text: string): Value {
  if (/^-?\d{1,19}$/.test(text)) return BigInt(text);
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "string") return value;
  } catch {
    // Told below.
  }
  throw new HiveError("USAGE", "`after` is no place in a list.", { hint: "Give the `next` of the page before." });
}

function refusing<T>(key: string | null, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof HiveError) throw error;
    throw invalid(key, mappingReason(error, "records"));
  }
}

function invalid(key: string | null, reason: string): HiveError {
  return new HiveError("RECORD_INVALID", `The record${key === null ? "" : ` "${key}"`} is refused: ${reason}`, {
    hint: "Nothing was written. Correct the record.",
    details: { key, reason },
  });
}

function alreadyThere(key: string): HiveError {
  return new HiveError("RECORD_EXISTS", `There is a record "${key}" already.`, {
    hint: "Nothing was written. Update it, or leave the key out to get a new one.",
    details: { key },
  });
}

function notThere(key: string): HiveError {
  return new HiveError("RECORD_MISSING", `There is no record "${key}".`, {
    hint: "Nothing was written. Somebody may have deleted it; create it if it is wanted.",
    details: { key },
  });
}

/** Rows that come cannot be locked before they are there: begun again, the transaction sees them. */
function movedMeanwhile(key: string): HiveError {
  return new HiveError("DATABASE_BUSY", `Somebody added rows to the record "${key}" meanwhile.`, {
    hint: "Nothing was written. Do it again.",
    details: { key },
  });
}

function transactionEnded(): HiveError {
  return new HiveError("USAGE", "The transaction has ended.", {
    hint: "Wait for everything that is done in it before `work` comes back.",
  });
}
