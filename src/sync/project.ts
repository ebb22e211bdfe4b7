import type { ChangeOptions, Context } from "../context.ts";
import { HiveError } from "../errors.ts";
import { requireLedger } from "../schema/ledger.ts";
import type { Session, Value } from "../storage/port.ts";
import { existingKeys, pageOfKeys, toAggregate } from "./aggregates.ts";
import { keyText, resolveAgents } from "./mapping.ts";
import { Meter } from "./meter.ts";
import { Pace } from "./pace.ts";
import { introspectAll, type Page, type Pager, pagersOf, Who } from "./page.ts";
import { type WayBack, wayBack } from "./projection.ts";
import { type Settled, settle, wouldKeep } from "./settle.ts";

export interface ProjectDownOptions extends ChangeOptions {
  readonly agents: readonly string[];
}

export interface ProjectDownResult {
  /** Aggregates that were written on the legacy side. */
  projected: number;
  unchanged: number;
  /** Aggregates whose unified rows hold what the legacy tables cannot: whole copies were put into hive_kept. */
  kept: number;
  quarantined: number;
}

const KEYS_PER_PAGE = 250;

/**
 * Carries what these agents wrote on the unified side down to the legacy side, before they go back to it. Only
 * agents whose unified side leads; others need nothing. A legacy aggregate without a unified one is left alone: it
 * may never have been moved. Can be run again after any interruption.
 *
 * @throws NOT_MIGRATED, UNKNOWN_AGENT, GUARD_REFUSED (flags changed meanwhile), INTERRUPTED
 */
export async function projectDown(context: Context, options: ProjectDownOptions): Promise<ProjectDownResult> {
  const { store, clock, settings } = context;
  await requireLedger(store);
  const named = options.agents.length === 0 ? [] : resolveAgents(context.mapping, options.agents);
  const everybody = await Who.of(context, named);
  const agents = named.filter((agent) => everybody.leads(agent) === "unified");
  const result: ProjectDownResult = { projected: 0, unchanged: 0, kept: 0, quarantined: 0 };
  if (agents.length === 0) return result;
  const who = await Who.of(context, agents);
  const layouts = await introspectAll(context);
  const pagers = pagersOf(layouts, who, true);
  const meter = new Meter("project down", clock, options.onProgress);
  const pace = new Pace(store, clock, settings.lockBudget, "project down");

  for (const table of new Set(layouts.map((layout) => layout.unified.root.table))) {
    const own = pagers.filter((pager) => pager.layout.unified.root.table === table);
    const root = own[0]?.layout.unified.root;
    if (!root) continue;
    let after: Value = null;
    for (;;) {
      if (!options.dryRun) await pace.observe();
      const from: Value = after;
      const page = await store.snapshot(async (session) => {
        const values = await pageOfKeys(session, root, from, KEYS_PER_PAGE);
        return { values, work: await workOf(session, own, values, options.dryRun === true) };
      });
      for (const { pager, keys, differing, unchanged, lossy, quarantined } of page.work) {
        result.unchanged += unchanged;
        if (options.dryRun) {
          result.projected += differing;
          result.unchanged += keys.length - differing - quarantined;
          result.kept += lossy;
          result.quarantined += quarantined;
          continue;
        }
        let done = 0;
        while (done < keys.length) {
          assertNotAborted(options);
          await pace.ready(options.abort);
          const slice = keys.slice(done, done + pace.slice);
          const settled = await settle(context, pager, who, slice, {
            label: "project down",
            reason: options.reason,
            keepLosses: true,
          });
          pace.done(slice.length);
          add(result, settled);
          done += slice.length;
        }
      }
      meter.add(page.values.length);
      if (page.values.length < KEYS_PER_PAGE) break;
      after = page.values.at(-1) ?? null;
      assertNotAborted(options);
    }
  }
  return result;
}

function add(result: ProjectDownResult, settled: Settled): void {
  result.projected += settled.mended.length;
  result.unchanged += settled.same.length;
  result.kept += settled.kept;
  result.quarantined += settled.quarantined.length;
}

interface Work {
  readonly pager: Pager;
  /** What has to be written, kept or quarantined. */
  readonly keys: readonly string[];
  /** Of these: what has to be written on the legacy side. */
  readonly differing: number;
  readonly unchanged: number;
  /** In a dry run: of which a copy would be kept. */
  readonly lossy: number;
  readonly quarantined: number;
}

/** Whose these unified aggregates are, and which of them the legacy side does not hold as they are. */
async function workOf(
  session: Session,
  pagers: readonly Pager[],
  values: readonly Value[],
  dryRun: boolean,
): Promise<Work[]> {
  const left = new Set<string>();
  for (const value of values) {
    const key = keyText(value);
    if (key !== null) left.add(key);
  }
  const owned = new Map<Pager, Set<string>>(pagers.map((pager) => [pager, new Set()]));
  for (const pager of pagers) {
    for (const key of await existingKeys(session, pager.layout.legacy.root, [...left])) {
      owned.get(pager)?.add(key);
      left.delete(key);
    }
  }
  const work: Work[] = [];
  for (const [pager, some] of owned) {
    for await (const page of pager.portions(session, [...some, ...left])) {
      work.push(await workOfPage(session, pager, page, left, dryRun));
    }
  }
  return work;
}

/** `left`: keys that no legacy row has; those that are this mapping's are taken out. */
async function workOfPage(
  session: Session,
  pager: Pager,
  page: Page,
  left: Set<string>,
  dryRun: boolean,
): Promise<Work> {
  const legacy = new Map(page.legacy.map((one) => [one.key, one]));
  const keys: string[] = [];
  let differing = 0;
  let unchanged = 0;
  let lossy = 0;
  let quarantined = 0;
  for (const [key, unified] of page.unified) {
    const one = legacy.get(key);
    if (left.has(key)) {
      if (!pager.layout.mapping.owns(toAggregate(pager.layout.unified, unified))) continue;
      left.delete(key);
    }
    const judgement = one ? pager.judge(page, one) : pager.judgeAlone(unified);
    if (judgement === null) continue;
    if (judgement.kind === "quarantined") quarantined += 1;
    if (judgement.kind === "down") differing += 1;
    if (judgement.kind === "same" && one && isSettled(wayBack(pager.layout, one, unified))) unchanged += 1;
    else keys.push(key);
    if (!dryRun || (judgement.kind !== "same" && judgement.kind !== "down")) continue;
    const changes = judgement.kind === "down" ? judgement.write.changes : [];
    if (await wouldKeep(session, pager, unified, one, changes)) lossy += 1;
  }
  return { pager, keys, differing, unchanged, lossy, quarantined };
}

function isSettled({ losses, renewed }: WayBack): boolean {
  return losses.length === 0 && renewed === null;
}

function assertNotAborted(options: ChangeOptions): void {
  if (!options.abort?.aborted) return;
  throw new HiveError("INTERRUPTED", "Carrying changes down to the legacy side was interrupted.", {
    hint: "What was written is kept. Run the same command again.",
  });
}
