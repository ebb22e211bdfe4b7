import { type ChangeOptions, type Context, lockOptions } from "../context.ts";
import { HiveError } from "../errors.ts";
import { requireEvents } from "../events/outbox.ts";
import type { Session, Transaction, Value } from "../storage/port.ts";
import { sql } from "../storage/sql.ts";
import { pageOfKeys } from "./aggregates.ts";
import { addChanges } from "./changes.ts";
import { Pace } from "./pace.ts";
import { introspectAll } from "./page.ts";
import { drainBefore } from "./sync.ts";
import { bridgedAgents, DONE, readAdapters } from "./telling.ts";

/**
 * Before events are derived for the first agent: what every aggregate looks like now, so that nothing is told that was
 * before. Its keys are put into the log page by page, and a sync looks at them like at all others.
 */

type Options = Pick<ChangeOptions, "reason" | "abort" | "onProgress" | "lockTimeoutMs" | "onWait">;
type Flip = <T>(label: string, work: (tx: Transaction) => Promise<T>) => Promise<T>;

const KEYS_AT_ONCE = 500;
/** So many wait in the log at once, at most. */
const PAGES_AT_ONCE = 20;
const GONE_AT_ONCE = 2_000;

/** Whether the states of these agents have to be known: not of those that tell themselves. */
export function needsStates(context: Context, agents: readonly string[]): boolean {
  const bridged = bridgedAgents(context);
  return context.mapping.events?.derived !== undefined && agents.some((agent) => !bridged.has(agent));
}

/** Whether the first look at all aggregates has come to its end. */
export async function statesAreKnown(context: Context, session: Session): Promise<boolean> {
  return (await readAdapters(context, session)).states === DONE;
}

/**
 * Looks at every aggregate once, within the lock budget; goes on where an interrupted run ended. At once where that was
 * done. `flip`: one transaction in which the triggers follow.
 * @throws NOT_MIGRATED, LOCK_HELD, INTERRUPTED
 */
export async function learnStates(context: Context, options: Options, flip: Flip): Promise<void> {
  const { store, clock, settings } = context;
  await requireEvents(store);
  if (await statesAreKnown(context, store.read)) return;
  await store.withLock("event states", lockOptions(context, options, "hive flags"), async () => {
    let { states } = await readAdapters(context, store.read);
    if (states === DONE) return;
    if (states === null) {
      await forgetStates(context, options);
      await flip("event states", (tx) => mark(tx, START));
      states = START;
    }
    const pace = new Pace(store, clock, settings.lockBudget, "event states");
    const roots = rootsOf(await introspectAll(context));
    let { position, after } = parse(states);
    let pages = 0;
    while (position < roots.length) {
      assertNotAborted(options);
      await pace.observe();
      await pace.ready(options.abort);
      const table = roots[position];
      if (!table) break;
      const from = after;
      const keys = await store.snapshot((session) => pageOfKeys(session, table.root, from, KEYS_AT_ONCE));
      const more = keys.length === KEYS_AT_ONCE;
      position = more ? position : position + 1;
      after = more ? (keys.at(-1) ?? null) : null;
      const cursor = JSON.stringify({ position, after: typeof after === "bigint" ? { int: String(after) } : after });
      await store.transaction("event states", async (tx) => {
        await addChanges(tx, "state", table.source, keys);
        await mark(tx, cursor);
        await pace.record(tx);
      });
      pace.done(keys.length);
      await context.signal?.("states:page");
      pages += 1;
      if (pages % PAGES_AT_ONCE === 0) await drainBefore(context, options);
    }
    await drainBefore(context, options);
    assertNotAborted(options);
    await store.transaction("event states", (tx) => mark(tx, DONE));
    await pace.finish();
  });
}

/**
 * Inside the transaction in which flags change: where no agent's events are derived any more, nothing has to be known.
 * True where that is so.
 */
export async function leaveStates(tx: Transaction, context: Context): Promise<boolean> {
  if (!(await couldLeave(context, tx))) return false;
  await tx.run(sql`DELETE FROM hive_event_states WHERE source = ''`);
  return true;
}

export async function couldLeave(context: Context, session: Session): Promise<boolean> {
  const { on, states } = await readAdapters(context, session);
  return states !== null && !needsStates(context, [...on]);
}

/** Removes states that nobody keeps up any more, within the lock budget. */
export async function forgetStates(context: Context, options: Options): Promise<void> {
  const { store, clock, settings } = context;
  const pace = new Pace(store, clock, settings.lockBudget, "event states");
  for (let count = GONE_AT_ONCE; count >= GONE_AT_ONCE && !options.abort?.aborted; ) {
    const some = await store.read.all(sql`SELECT 1 AS one FROM hive_event_states WHERE source <> '' LIMIT 1`);
    if (some.length === 0) break;
    await pace.observe();
    await pace.ready(options.abort);
    count = await store.transaction("event states", async (tx) => {
      // Somebody may have begun to keep them again.
      if ((await readAdapters(context, tx)).states !== null) return 0;
      await pace.record(tx);
      return tx.run(sql`DELETE FROM hive_event_states WHERE (source, key) IN
        (SELECT source, key FROM hive_event_states WHERE source <> '' LIMIT ${GONE_AT_ONCE})`);
    });
    pace.done(count);
  }
  await pace.finish();
}

const START = JSON.stringify({ position: 0, after: null });

async function mark(tx: Transaction, state: string): Promise<void> {
  await tx.run(sql`INSERT INTO hive_event_states (source, key, agent, state) VALUES ('', '', '', ${state})
    ON CONFLICT (source, key) DO UPDATE SET state = excluded.state`);
}

function parse(text: string): { position: number; after: Value } {
  const { position, after }: { position: number; after: string | { int: string } | null } = JSON.parse(text);
  return { position, after: typeof after === "object" && after !== null ? BigInt(after.int) : after };
}

/** The root tables of both sides, each once. */
function rootsOf(layouts: Awaited<ReturnType<typeof introspectAll>>) {
  const found = new Map<string, { source: string; root: (typeof layouts)[number]["legacy"]["root"] }>();
  for (const { legacy, unified } of layouts) {
    for (const root of [legacy.root, unified.root]) {
      if (!found.has(root.table)) found.set(root.table, { source: unified.root.table, root });
    }
  }
  return [...found.values()];
}

function assertNotAborted({ abort }: Options): void {
  if (!abort?.aborted) return;
  throw new HiveError("INTERRUPTED", "The first look at what there is was interrupted.", {
    hint: "No flag was changed. Run the command again: it goes on from there.",
  });
}
