import { isoTime } from "../clock.ts";
import { type ChangeOptions, type Context, lockOptions } from "../context.ts";
import { HiveError } from "../errors.ts";
import type { FlagOptions } from "../hive.ts";
import type { FlagsChangeResult, FlagsHistoryResult } from "../results.ts";
import { audit, listAudit } from "../rollout/audit.ts";
import { assertLedgerKnown, hasLedger, requireLedger } from "../schema/ledger.ts";
import type { Session, Transaction } from "../storage/port.ts";
import { sql } from "../storage/sql.ts";
import { resolveAgents } from "../sync/mapping.ts";
import type { ProjectDownResult } from "../sync/project.ts";
import type { Reconciled } from "../sync/reconcile.ts";
import { tellsAnything } from "../sync/telling.ts";
import { listFlags, markBackfillStale, readStanding, writeFlag } from "./facts.ts";
import {
  ALL_OFF,
  authorityOf,
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
  if (!options.dryRun && (await hasLedger(store))) await requireLedger(store);
  const adapters = (value: boolean) =>
    commands
      .filter(({ settings }) => settings.some((one) => one.flag === "agent-adapters" && one.value === value))
      .map(({ agent }) => agent);
  const plan = (session: Session) => decideAll(context, session, commands, force);
  const planned = await store.snapshot(plan);
  if (options.dryRun) return resultOf(planned, options);
  const telling = await import("../sync/event-states.ts");
  const learns = telling.needsStates(context, adapters(true));
  const leaves = tellsAnything(context.mapping) && adapters(false).length > 0;
  if (learns) {
    await telling.learnStates(context, options, (label, work) => flipAtLast(context, label, work, options));
  }
  if (planned.every(({ changes }) => changes.length === 0)) {
    // Of a run that was killed before it flipped the flag.
    if (leaves && (await store.table("hive_event_states")) !== null) {
      const left = await store.snapshot((session) => telling.couldLeave(context, session));
      if (left) await flipAtLast(context, "event states", (tx) => telling.leaveStates(tx, context), options);
      await telling.forgetStates(context, options);
    }
    const named = commands.map(({ agent }) => agent);
    await levelUnified(context, await interruptedGivingBack(context, named), options);
    return resultOf(planned, options);
  }

  const apply = (projected: readonly string[], carried?: CarriedDown) => {
    const work = async (tx: Transaction) => {
      // Somebody may have moved an agent since the plan was made: what counts is what is so now.
      const decided = await plan(tx);
      for (const { agent, changes, forced } of decided) {
        if (changes.some((step) => step.projectDown) && !projected.includes(agent)) throw movedMeanwhile(agent);
        await applySteps(tx, context, agent, changes, {
          action: "flag",
          reason: options.reason,
          forced,
          projection: carried?.projection,
        });
      }
      const [first = ""] = adapters(true);
      if (learns && !(await telling.statesAreKnown(context, tx))) throw movedMeanwhile(first);
      if (leaves) await telling.leaveStates(tx, context);
      return resultOf(decided, options);
    };
    return flip(context, "flags", work, projected.length > 0);
  };

  const applyNow = async () => {
    // Independent flags, and those of a database that is not captured yet, have nothing to wait for.
    const result = await untilCaughtUp(context, options, () => apply([]));
    if (leaves && (await store.table("hive_event_states")) !== null) await telling.forgetStates(context, options);
    return result;
  };
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
}

/** So often is everything carried over again because agents wrote more than one transaction should settle. */
const MOST_PASSES = 20;

/**
 * One transaction in which flags change. Everything that was captured before is carried over first, under the flags
 * that it was written under: outside of the transaction as far as it goes, the last of it inside; and the triggers
 * follow the flags. Null, and nothing done, where too much waits to be carried over.
 */
export async function flip<T>(
  context: Context,
  label: string,
  work: (tx: Transaction, rest: Reconciled) => Promise<T>,
  givesBack = false,
): Promise<T | null> {
  const { store } = context;
  const { adjustCapture, areAny, neededSides } = await import("../sync/capture.ts");
  const { NOTHING } = await import("../sync/reconcile.ts");
  const { knowTables, settleRest } = await import("../sync/sync.ts");
  const { Pace } = await import("../sync/pace.ts");
  const captured = areAny(await neededSides(context, store.read));
  const known = captured ? await knowTables(context) : { version: Number.NaN, layouts: [] };
  const result = await store.transaction(
    label,
    async (tx) => {
      // Agents that asked for these by SQL (FOR SHARE) have written by then, and what they wrote is settled below.
      await tx.lockRows("hive_flags", "flag", ["reads"], "wait");
      const before = await neededSides(context, tx);
      const rest = areAny(before) ? await settleRest(tx, context, known, givesBack) : NOTHING;
      if (rest === null) return null;
      const done = await work(tx, rest);
      await adjustCapture(tx, context, before);
      return done;
    },
    { exclusive: true },
  );
  if (captured) {
    const pace = new Pace(store, context.clock, context.settings.lockBudget, label);
    pace.done(1);
    await pace.finish();
  }
  return result;
}

/** Tries again as long as too much waits to be carried over. */
async function untilCaughtUp<T>(
  context: Context,
  options: Pick<ChangeOptions, "abort" | "onProgress">,
  attempt: () => Promise<T | null>,
): Promise<T> {
  for (let pass = 1; pass <= MOST_PASSES; pass++) {
    const result = await attempt();
    if (result !== null) return result;
    await drain(context, options);
  }
  throw neverCaughtUp();
}

async function flipAtLast<T>(
  context: Context,
  label: string,
  work: (tx: Transaction) => Promise<T>,
  options: Pick<ChangeOptions, "abort" | "onProgress">,
): Promise<T> {
  const done = await untilCaughtUp(context, options, () =>
    flip(context, label, async (tx) => ({ is: await work(tx) })),
  );
  return done.is;
}

/**
 * What a sync carried over ahead of a flip counts like what was carried down for it. What cannot go down is counted
 * where every aggregate is looked at, once.
 */
function withRest(projection: ProjectDownResult, { down }: Reconciled): ProjectDownResult {
  return { ...projection, projected: projection.projected + down };
}

async function drain(context: Context, options: Pick<ChangeOptions, "abort" | "onProgress">): Promise<Reconciled> {
  const { drainBefore } = await import("../sync/sync.ts");
  return drainBefore(context, options);
}

function neverCaughtUp(): HiveError {
  return new HiveError("DATABASE_BUSY", "More is being written than hive can carry over within its lock budget.", {
    hint: "Nothing was changed. Run `hive sync` until nothing remains, then this command again; or raise lockBudget.",
  });
}

/**
 * Carries down what these agents wrote on the unified side, then flips. A flip that finds too much that was written in
 * between gives null, and what waits is carried over before it is tried again.
 */
export async function carryDownAnd<T>(
  context: Context,
  agents: readonly string[],
  options: Pick<ChangeOptions, "reason" | "abort" | "onProgress">,
  flip: (carried: CarriedDown) => Promise<T | null>,
): Promise<T> {
  const { reason, abort, onProgress } = options;
  const { projectDown } = await import("../sync/project.ts");
  const before = await drain(context, options);
  let projection = withRest(await projectDown(context, { agents, reason, abort, onProgress }), before);
  for (let pass = 1; pass <= MOST_PASSES; pass++) {
    const result = await flip({ projection });
    if (result !== null) return result;
    projection = withRest(projection, await drain(context, options));
  }
  throw neverCaughtUp();
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
 * Of these agents (default: all), those that gave the authority back in a run that was killed before the unified side
 * said again what the legacy one says.
 */
export async function interruptedGivingBack(context: Context, names?: readonly string[]): Promise<string[]> {
  const { store, mapping } = context;
  return store.snapshot(async (session) => {
    if (!(await hasLedger(store, session))) return [];
    const rows = await session.all(sql`SELECT b.agent AS agent, a.after AS after FROM hive_backfill AS b
      JOIN hive_audit AS a ON a.agent = b.agent AND a.action IN ('flag', 'rollback')
      WHERE b.state = 'stale' AND a.at >= coalesce(b.finished_at, b.started_at)`);
    const gaveBack = rows.filter((row) => JSON.parse(String(row.after ?? "null"))?.projectedDown !== undefined);
    const stale = new Set(gaveBack.map((row) => String(row.agent)));
    return resolveAgents(mapping, names).filter((agent) => stale.has(agent));
  });
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
  tx: Transaction,
  context: Context,
  agent: string,
  steps: readonly FlagStep[],
  record: StepRecord,
): Promise<void> {
  const forced = record.forced?.map(({ missing }) => missing) ?? [];
  for (const step of steps) {
    const { flag } = step.setting;
    await writeFlag(tx, agent, step.setting, isoTime(context.clock));
    if (authorityOf(step.stageBefore) !== authorityOf(step.stageAfter)) {
      await tx.run(sql`DELETE FROM hive_bases WHERE agent = ${agent}`);
    }
    if (step.stageBefore === "complete") {
      const { requeueBehind } = await import("../sync/reconcile.ts");
      await requeueBehind(tx);
    }
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
