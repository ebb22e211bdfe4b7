import { isoTime } from "../clock.ts";
import { type ChangeOptions, type Context, lockOptions } from "../context.ts";
import { HiveError } from "../errors.ts";
import type { FlagOptions } from "../hive.ts";
import type { FlagsChangeResult, FlagsHistoryResult } from "../results.ts";
import { audit, listAudit } from "../rollout/audit.ts";
import { assertLedgerKnown, hasLedger } from "../schema/ledger.ts";
import type { Session } from "../storage/port.ts";
import { resolveAgents } from "../sync/mapping.ts";
import type { ProjectDownResult } from "../sync/project.ts";
import { listFlags, markBackfillStale, readStanding, writeFlag } from "./facts.ts";
import {
  ALL_OFF,
  type Decision,
  decide,
  type Flag,
  type FlagSetting,
  type FlagStep,
  parseSetting,
  type Refusal,
} from "./stages.ts";

export interface FlagChange {
  /** The agent's name, or its id in the platform's registry. */
  agent: string;
  flag: Flag;
  /** `on` or `off`; of `reads`: `legacy`, `shadow`, `live` or `unified`. */
  value: string;
}

/**
 * Changes flags: all of them in one transaction that looks at the facts again, or none. Each change that is made is
 * in the audit log with the guards that were overridden. A step back over the authority boundary (live → shadow), or
 * from complete to rampdown, first carries down what was written on the unified side.
 * @throws UNKNOWN_AGENT, UNKNOWN_NAME, USAGE; GUARD_REFUSED and STAGE_IMPOSSIBLE with
 *   `details.refusals[{agent, kind, missing, remedy}]`
 */
export async function changeFlags(
  context: Context,
  changes: readonly FlagChange[],
  options: FlagOptions = {},
): Promise<FlagsChangeResult> {
  const commands = commandsOf(context, changes);
  const force = options.force === true;
  if (force && !options.reason?.trim()) {
    throw new HiveError("USAGE", "Overriding a guard needs a reason.", {
      hint: "Add --reason TEXT: it goes into the audit log.",
    });
  }
  const { store } = context;
  await assertLedgerKnown(store);
  const plan = (session: Session) => decideAll(context, session, commands, force);
  const planned = await store.snapshot(plan);
  if (options.dryRun || planned.every(({ changes }) => changes.length === 0)) return resultOf(planned, options);

  const apply = (projected: readonly string[], carried?: CarriedDown) =>
    store.transaction("flags", async (tx) => {
      if (carried && !(await carried.isStillAll())) return null;
      const projection = carried?.projection;
      // Somebody may have moved an agent since the plan was made: what counts is what is so now.
      const decided = await plan(tx);
      for (const { agent, changes, forced } of decided) {
        if (changes.some((step) => step.projectDown) && !projected.includes(agent)) throw movedMeanwhile(agent);
        await applySteps(tx, context, agent, changes, { action: "flag", reason: options.reason, forced, projection });
      }
      return resultOf(decided, options);
    });

  const applyNow = async () => (await apply([])) ?? resultOf(planned, options);
  if (projecting(planned).length === 0) return applyNow();
  return store.withLock("rollout", lockOptions(context, options, "hive flags"), async () => {
    const agents = projecting(await store.snapshot(plan));
    if (agents.length === 0) return applyNow();
    const result = await carryDownAnd(context, agents, options, (carried) => apply(agents, carried));
    await levelUnified(context, agents, options);
    return result;
  });
}

export interface CarriedDown {
  readonly projection: ProjectDownResult;
  /** Inside the transaction that flips: whether nobody has committed since the carrying began. */
  isStillAll(): Promise<boolean>;
}

/** Among writers that never pause there is no moment without a commit; what they write meanwhile is kept later. */
const MOST_PASSES = 4;

/**
 * Carries down what these agents wrote on the unified side, then flips. A flip that finds that others have committed
 * in between gives null, and all is done again: what they wrote would have been left behind.
 */
export async function carryDownAnd<T>(
  context: Context,
  agents: readonly string[],
  options: Pick<ChangeOptions, "reason" | "abort" | "onProgress">,
  flip: (carried: CarriedDown) => Promise<T | null>,
): Promise<T> {
  const { store } = context;
  const { reason, abort, onProgress } = options;
  const { projectDown } = await import("../sync/project.ts");
  const sum: ProjectDownResult = { projected: 0, unchanged: 0, kept: 0, quarantined: 0 };
  for (let pass = 1; ; pass++) {
    const before = await store.othersCommitted();
    const found = await projectDown(context, { agents, reason, abort, onProgress });
    sum.projected += found.projected;
    sum.kept += found.kept;
    sum.unchanged = found.unchanged;
    sum.quarantined = found.quarantined;
    const result = await flip({
      projection: { ...sum },
      isStillAll: async () => pass >= MOST_PASSES || (await store.othersCommitted()) === before,
    });
    if (result !== null) return result;
  }
}

/**
 * After agents went back to a stage at which both sides are written and the legacy side leads: makes the unified side
 * say what the legacy side says. What it held besides was kept on the way down, or is kept now.
 */
export async function levelUnified(
  context: Context,
  agents: readonly string[],
  options: Pick<ChangeOptions, "reason" | "abort" | "onProgress" | "lockTimeoutMs" | "onWait">,
): Promise<void> {
  if (agents.length === 0) return;
  const listed = (await listFlags(context, agents)).agents;
  const level = listed.filter(({ stage }) => stage === "shadow" || stage === "dualwrite").map(({ agent }) => agent);
  if (level.length === 0) return;
  const { reason, abort, onProgress, lockTimeoutMs, onWait } = options;
  const { backfill } = await import("../sync/backfill.ts");
  await backfill(context, { agents: level, reason, abort, onProgress, lockTimeoutMs, onWait, keepLosses: true });
}

/**
 * Every change of a flag that hive made, oldest first; of one agent, or of all. Empty on a database that hive has
 * never touched.
 * @throws UNKNOWN_AGENT for an agent that neither the mapping nor the log knows
 */
export async function flagHistory(context: Context, agent?: string): Promise<FlagsHistoryResult> {
  const { store, mapping } = context;
  return store.snapshot(async (session) => {
    if (!(await hasLedger(store, session))) {
      if (agent !== undefined) resolveAgents(mapping, [agent]);
      return { entries: [] };
    }
    const logged = [];
    for (const action of FLAG_ACTIONS) logged.push(...(await listAudit(session, { action })).entries);
    logged.sort((a, b) => a.seq - b.seq);
    let wanted = logged;
    if (agent !== undefined) {
      wanted = logged.filter((entry) => entry.agent === agent);
      // The log also keeps agents that the mapping no longer has.
      if (wanted.length === 0) {
        const [known] = resolveAgents(mapping, [agent]);
        wanted = logged.filter((entry) => entry.agent === known);
      }
    }
    return {
      entries: wanted.map((entry) => ({
        at: entry.at,
        actor: entry.actor,
        agent: entry.agent ?? "",
        flag: fieldOf(entry.after, "flag"),
        from: fieldOf(entry.before, "value"),
        to: fieldOf(entry.after, "value"),
        reason: entry.reason,
      })),
    };
  });
}

/** The actions in the audit log under which flags change. */
const FLAG_ACTIONS = ["flag", "rollback"] as const;

function fieldOf(value: unknown, field: string): string {
  if (typeof value !== "object" || value === null) return "";
  const found: unknown = Object.entries(value).find(([name]) => name === field)?.[1];
  return typeof found === "string" ? found : "";
}

export interface StepRecord {
  readonly action: (typeof FLAG_ACTIONS)[number];
  readonly reason: string | undefined;
  readonly forced?: readonly Refusal[];
  readonly projection?: ProjectDownResult | undefined;
}

/** Makes decided changes of one agent, with what they bring with them and an audit entry each. */
export async function applySteps(
  tx: Session,
  context: Context,
  agent: string,
  steps: readonly FlagStep[],
  record: StepRecord,
): Promise<void> {
  const forced = record.forced?.map(({ missing }) => missing) ?? [];
  for (const step of steps) {
    const { flag } = step.setting;
    await writeFlag(tx, agent, step.setting, isoTime(context.clock));
    if (step.stalesBackfill) await markBackfillStale(tx, [agent]);
    await audit(tx, context, {
      action: record.action,
      agent,
      reason: record.reason,
      before: { flag, value: step.from, stage: step.stageBefore },
      after: {
        flag,
        value: step.to,
        stage: step.stageAfter,
        ...(forced.length > 0 && { forced }),
        ...(step.projectDown && record.projection && { projectedDown: record.projection }),
      },
    });
  }
}

/** @throws GUARD_REFUSED for an agent whose stage is not the one that the plan was made for */
export function movedMeanwhile(agent: string): HiveError {
  return new HiveError("GUARD_REFUSED", `Somebody else changed the flags of ${agent} in the meantime.`, {
    hint: "Look at `hive flags list`, then run the command again.",
    details: { agent },
  });
}

interface AgentCommand {
  readonly agent: string;
  readonly settings: readonly FlagSetting[];
}

function commandsOf(context: Context, changes: readonly FlagChange[]): AgentCommand[] {
  if (changes.length === 0) {
    throw new HiveError("USAGE", "No change of a flag is named.", {
      hint: "For example: `hive flags enable AGENT --flag dual-write`, or `hive flags set AGENT reads=shadow`.",
    });
  }
  const commands = new Map<string, FlagSetting[]>();
  for (const change of changes) {
    const setting = parseSetting(change.flag, change.value);
    for (const agent of resolveAgents(context.mapping, [change.agent])) {
      const settings = commands.get(agent) ?? [];
      const other = settings.find((one) => one.flag === setting.flag);
      if (other && other.value !== setting.value) {
        throw new HiveError("USAGE", `${agent} is given two values of ${setting.flag} at once.`, {
          details: { agent, flag: setting.flag },
        });
      }
      if (!other) settings.push(setting);
      commands.set(agent, settings);
    }
  }
  return [...commands].map(([agent, settings]) => ({ agent, settings }));
}

interface Decided {
  readonly agent: string;
  readonly changes: readonly FlagStep[];
  readonly forced: readonly Refusal[];
}

async function decideAll(
  context: Context,
  session: Session,
  commands: readonly AgentCommand[],
  force: boolean,
): Promise<Decided[]> {
  const agents = commands.map(({ agent }) => agent);
  const { states, facts } = await readStanding(context, session, agents);
  const decided: Decided[] = [];
  const refused: { agent: string; refusals: readonly Refusal[] }[] = [];
  for (const { agent, settings } of commands) {
    const known = facts.get(agent);
    if (!known) throw new HiveError("INTERNAL", `No facts were read about ${agent}.`);
    const decision: Decision = decide({ agent, settings, force }, states.get(agent) ?? ALL_OFF, known);
    if (decision.ok) decided.push({ agent, changes: decision.changes, forced: decision.forced });
    else refused.push({ agent, refusals: decision.refusals });
  }
  if (refused.length > 0) throw refusal(refused);
  return decided;
}

function projecting(decided: readonly Decided[]): string[] {
  return decided.filter(({ changes }) => changes.some((step) => step.projectDown)).map(({ agent }) => agent);
}

/** Refusals as the error that a command ends with. */
export function refusal(refused: readonly { agent: string; refusals: readonly Refusal[] }[]): HiveError {
  const all = refused.flatMap(({ agent, refusals }) => refusals.map((one) => ({ agent, ...one })));
  const remedies = [...new Set(all.map(({ remedy }) => `\`${remedy}\``))];
  const soft = all.every(({ kind }) => kind === "soft");
  const impossible = all.some(({ code }) => code === "STAGE_IMPOSSIBLE");
  return new HiveError(
    impossible ? "STAGE_IMPOSSIBLE" : "GUARD_REFUSED",
    `Refused: ${all.map(({ agent, missing }) => `${agent}: ${missing}`).join("; ")}.`,
    {
      hint: `Run ${remedies.join(", then ")}${soft ? ", or override with --force --reason TEXT" : ""}.`,
      details: { refusals: all.map(({ agent, kind, missing, remedy }) => ({ agent, kind, missing, remedy })) },
    },
  );
}

function resultOf(decided: readonly Decided[], options: FlagOptions): FlagsChangeResult {
  return {
    changed: decided.flatMap(({ agent, changes }) =>
      changes.map(({ setting, from, to }) => ({ agent, flag: setting.flag, from, to })),
    ),
    forced: decided.flatMap(({ agent, forced }) => forced.map(({ missing }) => ({ agent, missing }))),
    dryRun: options.dryRun === true,
  };
}
