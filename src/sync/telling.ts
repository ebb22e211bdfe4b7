import { isoTime } from "../clock.ts";
import type { Context } from "../context.ts";
import { HiveError } from "../errors.ts";
import { type EventRules, eventRules, type ReadyEvent, readyEvent, uuid7 } from "../events/event.ts";
import { appendReady } from "../events/outbox.ts";
import type { Session, Writes } from "../storage/port.ts";
import { among, join, type Sql, sql } from "../storage/sql.ts";
import type { Aggregate, DerivationRules, DerivedEvent, PlatformMapping } from "./mapping.ts";

/**
 * Events of agents that do not tell them: derived by sync from what it carries over, in the transaction that takes the
 * change off the log. hive_event_states has what each aggregate looked like when it was last looked at, also those of
 * agents whose events are not derived: one that is handed over has not just appeared. The row with an empty source says
 * whether all are there (`done`), or how far the first look at them has come.
 */

export const DONE = "done";
/** Of an aggregate that was there before, but could not be expressed: nothing is known of it, and it is not new. */
const UNREADABLE = "";

/** What an aggregate looked like, and whose it was. */
export interface Known {
  readonly agent: string;
  readonly state: string;
}

/** What became of one aggregate, as far as events go. */
export interface Told {
  readonly source: string;
  readonly key: string;
  readonly agent: string;
  readonly before: Known | undefined;
  /** Null where it is gone. */
  readonly state: string | null;
  readonly events: readonly ReadyEvent[];
}

/** The aggregate as the side that leads has it. */
export interface Truth {
  readonly agent: string;
  /** Null where it is gone; undefined where it cannot be expressed. */
  readonly unified: Aggregate | null | undefined;
}

/** When, and by how many rows of the log, it was changed. */
export interface Occasion {
  readonly rows: number;
  /** Milliseconds since the epoch. */
  readonly at: number | undefined;
}

/** Agents whose events are taken from the table that they write. */
export function bridgedAgents({ mapping, settings }: Pick<Context, "mapping" | "settings">): ReadonlySet<string> {
  if (mapping.events?.bridge === undefined) return NONE;
  return new Set(Object.keys(settings.agents).filter((name) => settings.agents[name]?.events === "bridge"));
}

const NONE: ReadonlySet<string> = new Set();

/** Whether there is anything to derive or to bridge on this platform. */
export function tellsAnything({ events }: PlatformMapping): boolean {
  return events?.derived !== undefined || events?.bridge !== undefined;
}

/** What the ledger says of this: the agents with `agent-adapters` on, and how far the states are. */
export interface Adapters {
  readonly on: ReadonlySet<string>;
  /** Null: there are none. */
  readonly states: string | null;
  readonly text: string;
}

const NO_ADAPTERS: Adapters = { on: NONE, states: null, text: "" };

/** On a database that has no tables for events yet, nothing is on. */
export async function readAdapters(
  context: Pick<Context, "mapping" | "store">,
  session: Session,
  known = false,
): Promise<Adapters> {
  if (!tellsAnything(context.mapping)) return NO_ADAPTERS;
  // Under the lock, where every question counts, not asked again of a table that was there.
  if (!known && (await context.store.table("hive_event_states", session)) === null) return NO_ADAPTERS;
  const rows = await session.tuples(sql`SELECT agent, '' FROM hive_flags WHERE flag = 'agent-adapters' AND value = 'on'
    UNION ALL SELECT '', state FROM hive_event_states WHERE source = '' ORDER BY 1`);
  const states = rows.find(([agent]) => agent === "")?.[1];
  // Not how far the first look has come: it changes with every page.
  const parts = rows.map(([agent, state]) => (agent === "" ? (state === DONE ? DONE : "…") : agent));
  return {
    on: new Set(rows.flatMap(([agent]) => (typeof agent === "string" && agent !== "" ? [agent] : []))),
    states: typeof states === "string" ? states : null,
    text: JSON.stringify(parts),
  };
}

/** Derives events. As the flags were when it was made; {@link isCurrent} tells whether they still are. */
export class Teller {
  private readonly context: Context;
  private readonly adapters: Adapters;
  private readonly bridged: ReadonlySet<string>;
  private readonly rules: EventRules | undefined;

  private constructor(context: Context, adapters: Adapters, rules: EventRules | undefined) {
    this.context = context;
    this.adapters = adapters;
    this.rules = rules;
    this.bridged = bridgedAgents(context);
  }

  static async of(context: Context, session: Session): Promise<Teller> {
    const adapters = await readAdapters(context, session);
    return new Teller(context, adapters, adapters.states === null ? undefined : await eventRules(context.mapping));
  }

  async isCurrent(session: Session): Promise<boolean> {
    const { text } = this.adapters;
    return text === "" || (await readAdapters(this.context, session, true)).text === text;
  }

  /** Whether states are kept at all. */
  get keeps(): boolean {
    return this.adapters.states !== null;
  }

  /** The states of these aggregates, with the agents whose they were. */
  async states(session: Session, source: string, keys: readonly string[]): Promise<ReadonlyMap<string, Known>> {
    if (!this.keeps || keys.length === 0) return NO_STATES;
    const rows = await session.tuples(
      sql`SELECT key, agent, state FROM hive_event_states WHERE source = ${source} AND key IN ${among(keys)}`,
    );
    return new Map(rows.map(([key, agent, state]) => [String(key), { agent: String(agent), state: String(state) }]));
  }

  /** Whether somebody waits for the events of this agent's aggregates. */
  private listensTo(agent: string): boolean {
    const { on, states } = this.adapters;
    return states === DONE && on.has(agent) && !this.bridged.has(agent);
  }

  /** What there is to be written of an aggregate that may have changed; undefined where there is nothing. */
  tell(
    mapping: string,
    source: string,
    key: string,
    { agent, unified }: Truth,
    before: Known | undefined,
    occasion: Occasion,
  ): Told | undefined {
    const rules = this.context.mapping.events?.derived;
    const own = rules && Object.hasOwn(rules, mapping) ? rules[mapping] : undefined;
    if (!this.keeps || own === undefined) return undefined;
    const was = before?.state ?? null;
    const whose = unified === null ? (before?.agent ?? agent) : agent;
    const told = (state: string | null, events: readonly ReadyEvent[]): Told | undefined =>
      state === was && events.length === 0 ? undefined : { source, key, agent: whose, before, state, events };
    if (unified === undefined) {
      // Nothing is known of it: what is known is what was.
      return this.adapters.states === DONE ? undefined : told(was ?? UNREADABLE, []);
    }
    const judged = this.judge(own, was, unified, this.listensTo(whose) && was !== UNREADABLE);
    if ("reason" in judged) {
      const reason = `(events.derived of "${mapping}" failed: ${judged.reason})`;
      return told(judged.state ?? was, [this.ready({ type: reason.slice(0, 500) }, key, whose, occasion)]);
    }
    const wanted = judged.events.filter(
      ({ sourceAgent = whose }) => !this.bridged.has(sourceAgent) || !this.adapters.on.has(sourceAgent),
    );
    return told(
      judged.state,
      wanted.map((event) => this.ready(event, key, whose, occasion)),
    );
  }

  /** What the rules say. One that fails leaves no event that anybody is given, but one among the dead letters. */
  private judge(rules: DerivationRules, was: string | null, unified: Aggregate | null, listens: boolean): Judged {
    let state: string | null | undefined;
    try {
      state = unified === null ? null : String(rules.state(unified));
      if (!listens || state === was) return { state, events: [] };
      return { state, events: [...rules.transitions(was, state, unified)] };
    } catch (error) {
      return { state, reason: error instanceof Error ? error.message : String(error) };
    }
  }

  private ready(event: DerivedEvent, key: string, agent: string, { rows, at }: Occasion): ReadyEvent {
    const { clock, mapping } = this.context;
    const now = clock.now();
    const source = event.sourceAgent ?? agent;
    const metadata = { derived: true, ...(rows > 1 && { coalesced: true, skipped: rows - 1 }) };
    const occurredAt = new Date(at === undefined || !Number.isFinite(at) ? now : Math.round(at)).toISOString();
    const id = uuid7(now, clock.id());
    try {
      if (this.rules === undefined || !mapping.agents.some(({ name }) => name === source)) throw new TypeError(source);
      const { correlationId = key, subject = key } = event;
      const whole = { ...event, sourceAgent: source, correlationId, subject, metadata, occurredAt, id };
      return readyEvent(whole, this.rules, source, now, id);
    } catch (error) {
      if (!(error instanceof HiveError) && !(error instanceof TypeError)) throw error;
      // As it is: whoever reads it puts it aside, with the reason.
      return {
        ...{ id, type: String(event.type), sourceAgent: source, correlationId: event.correlationId ?? key },
        ...{ causationId: null, subject: event.subject ?? key, payload: jsonText(event.payload) },
        ...{ metadata: JSON.stringify(metadata), occurredAt },
      };
    }
  }
}

type Judged =
  | { readonly state: string | null; readonly events: readonly DerivedEvent[] }
  | { readonly state: string | null | undefined; readonly reason: string };

function jsonText(payload: unknown): string {
  try {
    return JSON.stringify(payload ?? {}) ?? "{}";
  } catch {
    return "";
  }
}

const NO_STATES: ReadonlyMap<string, Known> = new Map();
const AT_ONCE = 200;

/** Writes what was told, in the transaction that takes the changes off the log. */
export async function tellAll(tx: Writes, context: Context, told: readonly Told[]): Promise<void> {
  if (told.length === 0) return;
  const kept = told.filter(({ state, before }) => state !== null && state !== before?.state);
  for (let start = 0; start < kept.length; start += AT_ONCE) {
    const rows = kept
      .slice(start, start + AT_ONCE)
      .map(({ source, key, agent, state }): Sql => sql`(${source}, ${key}, ${agent}, ${state})`);
    await tx.run(sql`INSERT INTO hive_event_states (source, key, agent, state) VALUES ${join(rows)}
      ON CONFLICT (source, key) DO UPDATE SET agent = excluded.agent, state = excluded.state`);
  }
  const gone = new Map<string, string[]>();
  for (const { source, key, state } of told) {
    if (state !== null) continue;
    const some = gone.get(source);
    if (some) some.push(key);
    else gone.set(source, [key]);
  }
  for (const [source, keys] of gone) {
    await tx.run(sql`DELETE FROM hive_event_states WHERE source = ${source} AND key IN ${among(keys)}`);
  }
  await appendReady(
    tx,
    told.flatMap(({ events }) => events),
    isoTime(context.clock),
  );
}
