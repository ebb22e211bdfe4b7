import { type Context, lockOptions } from "../context.ts";
import { HiveError } from "../errors.ts";
import { readStanding } from "../flags/facts.ts";
import {
  applySteps,
  type CarriedDown,
  carryDownAnd,
  flip,
  interruptedGivingBack,
  levelUnified,
  movedMeanwhile,
  refusal,
} from "../flags/flags.ts";
import {
  ALL_OFF,
  decide,
  effectiveStage,
  type FlagSetting,
  type FlagState,
  type FlagStep,
  isPossible,
  previousStage,
  type Refusal,
  rank,
  STAGES,
  type Stage,
  settingBetween,
} from "../flags/stages.ts";
import type { RollbackOptions } from "../hive.ts";
import type { RollbackResult } from "../results.ts";
import { assertLedgerKnown } from "../schema/ledger.ts";
import type { Session, Transaction } from "../storage/port.ts";
import { resolveAgents } from "../sync/mapping.ts";
import type { ProjectDownResult } from "../sync/project.ts";

/**
 * Takes agents back to a stage, one stage at a time: the most advanced go first, until all are where they should be.
 * Each step is one transaction with its audit entry; before a step that gives the authority back to the legacy side,
 * and before complete → rampdown, what was written on the unified side is carried down; where both sides stay in use,
 * the unified one is then brought up to the legacy one by a backfill. Killed in the middle, the next
 * run goes on from where the agents then stand. The flags unified-events and agent-adapters are no part of a stage and
 * stay as they are: events were there before dual-write (phase B) and outlive it.
 *
 * Without `agents`: all that are ahead of the target. An agent whose flags are a pair that is no stage goes back to
 * off, whatever the target is: no other way back leads out of there.
 * @throws UNKNOWN_AGENT; USAGE where a named agent is behind the target; GUARD_REFUSED where legacy tables do not
 *   stand, or where somebody else moved an agent meanwhile; LOCK_HELD; INTERRUPTED
 */
export async function rollback(context: Context, options: RollbackOptions = {}): Promise<RollbackResult> {
  const to = targetOf(options.to);
  const { store } = context;
  await assertLedgerKnown(store);
  const planned = await store.snapshot((session) => plan(context, session, to, options.agents));
  if (planned.steps.length === 0) {
    if (!options.dryRun) await levelUnified(context, await interruptedGivingBack(context, options.agents), options);
    return resultOf(planned, none, options);
  }
  if (options.dryRun) {
    const crossing = planned.steps.filter(({ change }) => change.projectDown).map(({ agent }) => agent);
    return resultOf(planned, await carryDown(context, crossing, options), options);
  }
  return store.withLock("rollout", lockOptions(context, options, "hive rollback"), async () => {
    // While this one waited, another rollback may have done some of it, or all.
    const current = await store.snapshot((session) => plan(context, session, to, options.agents));
    let carried = none;
    for (const stage of [...STAGES].reverse()) {
      const steps = current.steps.filter(({ change }) => change.stageBefore === stage);
      const crossing = steps.filter(({ change }) => change.projectDown);
      if (crossing.length > 0) {
        const left = new Set(crossing);
        const projection = await carryDownAnd(
          context,
          crossing.map(({ agent }) => agent),
          options,
          async (down) => {
            for (const step of left) {
              if (!(await stepBack(context, step.agent, step.change, options, down))) return null;
              left.delete(step);
            }
            return down.projection;
          },
        );
        carried = {
          projected: carried.projected + projection.projected,
          unchanged: projection.unchanged,
          // The second pass, from live, meets again what the first one, from complete, could not carry.
          kept: Math.max(carried.kept, projection.kept),
          quarantined: Math.max(carried.quarantined, projection.quarantined),
        };
      }
      for (const { agent, change } of steps) {
        if (change.projectDown) continue;
        const { projected } = await carryDownAnd(context, [], options, async ({ projection }) =>
          (await stepBack(context, agent, change, options)) === null ? null : projection,
        );
        carried = { ...carried, projected: carried.projected + projected };
      }
    }
    const gaveBack = current.steps.filter(({ change }) => change.projectDown).map(({ agent }) => agent);
    gaveBack.push(...(await interruptedGivingBack(context, options.agents)));
    await levelUnified(context, [...new Set(gaveBack)], options);
    return resultOf(current, carried, options);
  });
}

const none: ProjectDownResult = { projected: 0, unchanged: 0, kept: 0, quarantined: 0 };

interface Step {
  readonly agent: string;
  readonly change: FlagStep;
}

interface Plan {
  readonly steps: readonly Step[];
  /** The most advanced stage among the agents afterwards. */
  readonly stage: Stage;
}

function targetOf(to: string | undefined): Stage {
  const target = STAGES.find((stage) => stage === (to ?? "off"));
  if (target !== undefined) return target;
  throw new HiveError("USAGE", `There is no stage "${to}".`, { hint: `The stages are: ${STAGES.join(", ")}.` });
}

/** Every step from where the agents are to the target, most advanced first. */
async function plan(context: Context, session: Session, to: Stage, names: readonly string[] = []): Promise<Plan> {
  const agents = resolveAgents(context.mapping, names);
  const { states, facts } = await readStanding(context, session, agents);
  const steps: Step[] = [];
  const refused: { agent: string; refusals: readonly Refusal[] }[] = [];
  const behind: { agent: string; stage: Stage }[] = [];
  let highest: Stage = "off";
  for (const agent of agents) {
    let state = states.get(agent) ?? ALL_OFF;
    const known = facts.get(agent);
    if (!known) throw new HiveError("INTERNAL", `No facts were read about ${agent}.`);
    if (rank(effectiveStage(state)) < rank(to)) behind.push({ agent, stage: effectiveStage(state) });
    while (rank(effectiveStage(state)) > rank(to)) {
      const setting = settingBack(state);
      const decision = decide({ agent, settings: [setting], force: false }, state, known);
      if (!decision.ok) {
        refused.push({ agent, refusals: decision.refusals });
        break;
      }
      const [change] = decision.changes;
      if (!change) break;
      steps.push({ agent, change });
      state = decision.state;
    }
    if (rank(effectiveStage(state)) > rank(highest)) highest = effectiveStage(state);
  }
  if (names.length > 0 && behind.length > 0) throw ahead(to, behind);
  if (refused.length > 0) throw refusal(refused);
  steps.sort((a, b) => rank(b.change.stageBefore) - rank(a.change.stageBefore));
  return { steps, stage: highest };
}

function settingBack(state: FlagState): FlagSetting {
  if (!isPossible(state)) return { flag: "reads", value: "legacy" };
  const stage = effectiveStage(state);
  return settingBetween(stage, previousStage(stage) ?? "off");
}

/** Null, and nothing done, where too much of what agents wrote meanwhile waits to be carried over. */
async function stepBack(
  context: Context,
  agent: string,
  planned: FlagStep,
  options: RollbackOptions,
  carried?: CarriedDown,
): Promise<true | null> {
  if (options.abort?.aborted) throw interrupted();
  const work = async (tx: Transaction) => {
    const { states, facts } = await readStanding(context, tx, [agent]);
    const state = states.get(agent) ?? ALL_OFF;
    const known = facts.get(agent);
    // Flags are also written by others, and by SQL: a step that was planned for another stage must not be taken.
    if (!known || effectiveStage(state) !== planned.stageBefore) throw movedMeanwhile(agent);
    const decision = decide({ agent, settings: [planned.setting], force: false }, state, known);
    if (!decision.ok) throw refusal([{ agent, refusals: decision.refusals }]);
    const projection = carried?.projection;
    await applySteps(tx, context, agent, decision.changes, { action: "rollback", reason: options.reason, projection });
    return true as const;
  };
  return flip(context, "rollback", work, planned.projectDown);
}

async function carryDown(
  context: Context,
  agents: readonly string[],
  options: RollbackOptions,
): Promise<ProjectDownResult> {
  if (agents.length === 0) return none;
  const { projectDown } = await import("../sync/project.ts");
  const { reason, abort, onProgress, dryRun } = options;
  return projectDown(context, { agents: [...new Set(agents)], reason, abort, onProgress, dryRun });
}

function ahead(to: Stage, behind: readonly { agent: string; stage: Stage }[]): HiveError {
  const which = behind.map(({ agent, stage }) => `${agent} is at ${stage}`).join(", ");
  return new HiveError("USAGE", `A rollback to ${to} would go forward: ${which}.`, {
    hint: "Go forward with `hive flags`; `hive status` shows the next step.",
    details: { to, agents: behind },
  });
}

function interrupted(): HiveError {
  return new HiveError("INTERRUPTED", "The rollback was interrupted between two steps.", {
    hint: "Every step that was made stands. Run the command again to go on.",
  });
}

function resultOf(planned: Plan, carried: ProjectDownResult, options: RollbackOptions): RollbackResult {
  return {
    steps: planned.steps.map(({ agent, change }) => ({
      action: `${change.projectDown ? "project down, " : ""}${change.setting.flag}=${change.to}`,
      agent,
      from: change.stageBefore,
      to: change.stageAfter,
    })),
    stage: planned.stage,
    projectedDown: carried.projected,
    kept: carried.kept,
    quarantined: carried.quarantined,
    dryRun: options.dryRun === true,
  };
}
