import { isoTime } from "../clock.ts";
import type { Context } from "../context.ts";
import type { CheckOptions } from "../hive.ts";
import type { CheckResult, Drift } from "../results.ts";
import { hasLedger } from "../schema/ledger.ts";
import { hasChangeLog } from "./changes.ts";
import { agentsToCheck, emptyResult } from "./check.ts";
import { Comparison, driftOf, total } from "./compare.ts";
import { Meter } from "./meter.ts";
import { introspectAll, pagersOf, Who } from "./page.ts";
import { type Point, readPoint, recordVerdict } from "./verdict.ts";

export type CheckEvent =
  | { readonly kind: "drift"; readonly drift: Drift }
  | {
      readonly kind: "round";
      /** When it began: what was written later may be no part of it. */
      readonly at: string;
      readonly compared: number;
      readonly drift: number;
      readonly inFlight: number;
      readonly seconds: number;
      /** Why the verdict was not noted; null if it was. */
      readonly unrecorded: string | null;
    }
  | { readonly kind: "started over"; readonly why: string };

const DEFAULT_INTERVAL_MS = 60_000;
const DEFAULT_CPU_SHARE = 0.05;
/** Rows of a related table that one step looks at. */
const PAGE_ROWS = 2_000;
const MOST_DRIFT = 100;

interface Round {
  readonly at: string;
  readonly began: number;
  readonly who: Who;
  readonly note: string | null;
  readonly comparison: Comparison;
  readonly point: Point | null;
}

/**
 * Keeps comparing until aborted: everything, portion by portion, each exact in a short view of its own, so that no view
 * keeps the journal from being emptied. Works at most `cpuShare` of the time (one processor; default 0.05) and at most
 * `rate` aggregates a second. After each round the verdict is noted, as of its beginning, if no flag and no table was
 * changed during it; else it starts over. Rounds begin at least `intervalMs` apart (default a minute).
 *
 * The counts of the result are those of the last finished round (of the first one, if that was not finished); it is
 * consistent if neither that round nor anything compared since has found drift.
 */
export async function watchCheck(context: Context, options: CheckOptions): Promise<CheckResult> {
  const { clock } = context;
  const { abort } = options;
  let finished: { round: Round; unrecorded: string | null } | undefined;
  let rounds = 0;
  /** Found since the last finished round. */
  let since: Drift[] = [];
  let current: Round | undefined;
  while (!abort?.aborted) {
    const round = await begin(context, options, (drift) => since.length < MOST_DRIFT && since.push(drift));
    current = round;
    const changed = await goThrough(context, options, round);
    if (abort?.aborted && changed !== null) break;
    if (changed !== null) {
      options.onEvent?.({ kind: "started over", why: changed });
      continue;
    }
    const unrecorded = await record(context, options, round);
    const sum = total(round.comparison.counts.values());
    const seconds = Math.round(clock.monotonic() - round.began) / 1000;
    const { compared, inFlight } = sum;
    finished = { round, unrecorded };
    since = [];
    rounds += 1;
    options.onEvent?.({ kind: "round", at: round.at, compared, drift: driftOf(sum), inFlight, seconds, unrecorded });
    await context.signal?.("check:round");
    const left = (options.intervalMs ?? DEFAULT_INTERVAL_MS) - (clock.monotonic() - round.began);
    if (left > 0 && !abort?.aborted) await clock.sleep(left, abort);
  }
  const shown = finished?.round ?? current;
  if (!shown) return emptyResult((await agentsToCheck(context, options.agents ?? [], [])).agents);
  const sum = total(shown.comparison.counts.values());
  const earlier = finished?.round.comparison.drift ?? [];
  const known = new Set(earlier.map(nameOf));
  return {
    ...emptyResult(shown.who.agents),
    ...sum,
    consistent: (finished === undefined || driftOf(sum) === 0) && since.length === 0,
    drift: [...earlier, ...since.filter((one) => !known.has(nameOf(one)))].slice(0, MOST_DRIFT),
    recorded: finished?.unrecorded === null,
    unrecorded: finished === undefined ? "no round was finished" : finished.unrecorded,
    rounds,
    note: shown.note,
    dryRun: options.dryRun === true,
  };
}

function nameOf({ mapping, key }: Drift): string {
  return JSON.stringify([mapping, key]);
}

async function begin(context: Context, options: CheckOptions, found: (drift: Drift) => void): Promise<Round> {
  const { store, clock } = context;
  const { agents, note } = await agentsToCheck(context, options.agents ?? [], []);
  const at = isoTime(clock);
  const began = clock.monotonic();
  const log = await hasChangeLog(store);
  const { who, point } = await store.snapshot(async (session) => {
    const seen = await Who.of(context, agents, session);
    return { who: seen, point: log ? await readPoint(context, session, seen) : null };
  });
  const comparison = new Comparison(context, who, log, {
    onDrift: (drift) => {
      found(drift);
      options.onEvent?.({ kind: "drift", drift });
    },
  });
  return { at, began, who, note, comparison, point };
}

/** Null when it came to its end; else why it did not. */
async function goThrough(context: Context, options: CheckOptions, round: Round): Promise<string | null> {
  const { store, clock } = context;
  const { abort } = options;
  const { who, comparison } = round;
  const schema = await store.schemaVersion();
  const layouts = await introspectAll(context);
  const pagers = pagersOf(layouts, who, await hasLedger(store));
  const meter = new Meter("check", clock, options.onProgress);
  let before = 0;
  for (const step of comparison.everything(layouts, pagers, PAGE_ROWS)) {
    if (abort?.aborted) return "it was ended";
    const began = clock.monotonic();
    const version = await store.version();
    const changed = await store.snapshot(async (session) => {
      if ((await store.schemaVersion(session)) !== schema) return "a table was altered";
      if (!(await who.isUnchanged(session, context))) return "flags were changed";
      // Where somebody came in between, nothing is known to be as it was at the last step.
      await step(session, (await store.version()) === version ? version : Number.NaN);
      return null;
    });
    if (changed !== null) return changed;
    const { compared } = total(comparison.counts.values());
    meter.add(compared - before, `round since ${round.at}`);
    await context.signal?.("check:compared");
    const worked = clock.monotonic() - began;
    const share = options.cpuShare ?? DEFAULT_CPU_SHARE;
    const pace = options.rate === undefined ? 0 : ((compared - before) / options.rate) * 1000;
    before = compared;
    const pause = Math.max(worked * (1 / share - 1), pace - worked);
    if (pause > 0 && !abort?.aborted) await clock.sleep(pause, abort);
  }
  return null;
}

async function record(context: Context, options: CheckOptions, { at, who, comparison, point }: Round) {
  if (options.dryRun) return "this was a dry run";
  if (!(await hasLedger(context.store))) return "hive's own tables are not there yet";
  return recordVerdict(context, who, { at, counts: comparison.counts, point });
}
