import { HiveError, nearest } from "../errors.ts";

/** From the legacy schema to the unified one. Agents move between neighbours only. */
export const STAGES = ["off", "dualwrite", "shadow", "live", "rampdown", "complete"] as const;
export type Stage = (typeof STAGES)[number];

export const READS = ["legacy", "shadow", "live", "unified"] as const;
export type Reads = (typeof READS)[number];

export const FLAGS = ["unified-events", "dual-write", "agent-adapters", "reads"] as const;
export type Flag = (typeof FLAGS)[number];
export type Switch = Exclude<Flag, "reads">;

/** The flags of one agent. */
export interface FlagState {
  readonly "unified-events": boolean;
  readonly "dual-write": boolean;
  readonly "agent-adapters": boolean;
  readonly reads: Reads;
}

/** One flag and the value it is to have. */
export type FlagSetting =
  | { readonly flag: "reads"; readonly value: Reads }
  | { readonly flag: Switch; readonly value: boolean };

export const ALL_OFF: FlagState = {
  "unified-events": false,
  "dual-write": false,
  "agent-adapters": false,
  reads: "legacy",
};

const PAIRS: { readonly [stage in Stage]: { readonly dualWrite: boolean; readonly reads: Reads } } = {
  off: { dualWrite: false, reads: "legacy" },
  dualwrite: { dualWrite: true, reads: "legacy" },
  shadow: { dualWrite: true, reads: "shadow" },
  live: { dualWrite: true, reads: "live" },
  rampdown: { dualWrite: true, reads: "unified" },
  complete: { dualWrite: false, reads: "unified" },
};

/** The stage that this pair of flags is; null for the two pairs that none is (off+shadow, off+live). */
export function stageOf(dualWrite: boolean, reads: Reads): Stage | null {
  return STAGES.find((stage) => PAIRS[stage].dualWrite === dualWrite && PAIRS[stage].reads === reads) ?? null;
}

/**
 * The stage an agent counts as. An impossible pair (written by SQL, past the guards) counts as the stage that its
 * reads names: writing both sides and trusting the side that was read loses nothing, whichever flag was the mistake.
 */
export function effectiveStage(state: FlagState): Stage {
  return stageOf(state["dual-write"], state.reads) ?? stageOf(true, state.reads) ?? "off";
}

export function isPossible(state: FlagState): boolean {
  return stageOf(state["dual-write"], state.reads) !== null;
}

/** Which schema wins for the rows of an agent at this stage. */
export function authorityOf(stage: Stage): "legacy" | "unified" {
  return rank(stage) >= rank("live") ? "unified" : "legacy";
}

/** Position in the order of stages, from 0 (off). */
export function rank(stage: Stage): number {
  return STAGES.indexOf(stage);
}

export function nextStage(stage: Stage): Stage | null {
  return STAGES[rank(stage) + 1] ?? null;
}

export function previousStage(stage: Stage): Stage | null {
  return STAGES[rank(stage) - 1] ?? null;
}

/** The one flag that differs between two neighbouring stages, with its value in `to`. */
export function settingBetween(from: Stage, to: Stage): FlagSetting {
  const { dualWrite, reads } = PAIRS[to];
  return PAIRS[from].dualWrite === dualWrite
    ? { flag: "reads", value: reads }
    : { flag: "dual-write", value: dualWrite };
}

/** The command that makes a setting. */
export function commandFor(agent: string, setting: FlagSetting): string {
  if (setting.flag === "reads") return `hive flags set ${agent} reads=${setting.value}`;
  return `hive flags ${setting.value ? "enable" : "disable"} ${agent} --flag ${setting.flag}`;
}

/** The value of a flag as the ledger and the command line write it. */
export function valueText(value: boolean | Reads): string {
  return typeof value === "string" ? value : value ? "on" : "off";
}

/** Null where `value` is none of this flag's values. */
export function readSetting(flag: Flag, value: string): FlagSetting | null {
  if (flag === "reads") {
    const reads = READS.find((one) => one === value);
    return reads === undefined ? null : { flag, value: reads };
  }
  return value === "on" || value === "off" ? { flag, value: value === "on" } : null;
}

/**
 * A flag and its value as a person gave them; `true` and `false` are understood too.
 * @throws UNKNOWN_NAME for the flag, USAGE for the value
 */
export function parseSetting(flag: string, value: string): FlagSetting {
  const known = FLAGS.find((one) => one === flag);
  if (known === undefined) {
    const guess = nearest(flag, FLAGS);
    throw new HiveError("UNKNOWN_NAME", `There is no flag "${flag}"${guess ? `; did you mean "${guess}"?` : "."}`, {
      hint: `The flags are: ${FLAGS.join(", ")}.`,
      details: { flag, nearest: guess ?? null, known: [...FLAGS] },
    });
  }
  const text = value.trim().toLowerCase();
  const setting = readSetting(known, text === "true" ? "on" : text === "false" ? "off" : text);
  if (setting) return setting;
  const values = known === "reads" ? READS : ["on", "off"];
  throw new HiveError("USAGE", `The flag ${known} cannot be "${value}".`, {
    hint: `Its values are: ${values.join(", ")}.`,
    details: { flag: known, value, values: [...values] },
  });
}

/** What the guards look at. What is not known is null, and a gate that needs it stays closed. */
export interface Facts {
  readonly ledger: boolean;
  /** Unified tables, or columns of them as `table.column`, that the mapping needs and the database lacks. */
  readonly missingUnified: readonly string[] | null;
  /** The same on the legacy side; tables only. */
  readonly missingLegacy: readonly string[] | null;
  readonly backfill: BackfillFact;
  readonly check: CheckFact | null;
  /** When dual-write or reads last changed, in milliseconds since the epoch; -Infinity where they never did. */
  readonly stageSince: number;
  /** Milliseconds since the epoch. */
  readonly now: number;
  readonly checkMaxAgeMs: number;
}

/** An agent's backfill over all mappings: `running` also where it was interrupted, `none` where it was never begun. */
export type BackfillFact =
  | { readonly state: "none" | "running" | "stale" }
  /** Milliseconds since the epoch: the end of the last of its mappings. */
  | { readonly state: "finished"; readonly finishedAt: number };

export interface CheckFact {
  /** Milliseconds since the epoch. */
  readonly at: number;
  /** Aggregates that are missing, extra or different. */
  readonly drift: number;
}

/** A fact that stands in the way. Soft ones can be overridden with a reason, hard ones never. */
export interface Refusal {
  readonly kind: "hard" | "soft";
  readonly code: "GUARD_REFUSED" | "STAGE_IMPOSSIBLE";
  /** A sentence without its full stop. */
  readonly missing: string;
  /** The command that provides it. */
  readonly remedy: string;
}

/** A flag of the agent that changes, and what that brings with it. */
export interface FlagStep {
  readonly setting: FlagSetting;
  readonly from: string;
  readonly to: string;
  readonly stageBefore: Stage;
  readonly stageAfter: Stage;
  /** What was written on the unified side only has to be carried down to the legacy side first. */
  readonly projectDown: boolean;
  /** Writes go, or went, unseen on the legacy side: the agent's backfill covers them no longer. */
  readonly stalesBackfill: boolean;
}

export interface FlagCommand {
  readonly agent: string;
  readonly settings: readonly FlagSetting[];
  /** Override soft refusals. */
  readonly force: boolean;
}

export type Decision =
  | {
      readonly ok: true;
      readonly changes: readonly FlagStep[];
      readonly forced: readonly Refusal[];
      readonly state: FlagState;
    }
  | { readonly ok: false; readonly refusals: readonly Refusal[] };

/**
 * What a command does to an agent in this state, given these facts: the changes in the order in which they are to be
 * made, or everything that stands in the way. Each change moves the agent to a neighbouring stage or to none.
 * No command leads to an impossible pair, not even by force.
 */
export function decide(command: FlagCommand, state: FlagState, facts: Facts): Decision {
  const wanted = command.settings.filter((setting) => state[setting.flag] !== setting.value);
  const independent = wanted.filter(({ flag }) => flag !== "dual-write" && flag !== "reads");
  const moving = [
    ...wanted.filter(({ flag }) => flag === "dual-write"),
    ...wanted.filter(({ flag }) => flag === "reads"),
  ];
  // Which of the two flags has to go first depends on the direction: the order that meets the least resistance is it.
  const outcomes = [moving, [...moving].reverse()].map((order) =>
    walk(command.agent, [...independent, ...order], state, facts),
  );
  const [first, second] = outcomes;
  const best = first && second && resistance(second) < resistance(first) ? second : first;
  if (!best) return { ok: true, changes: [], forced: [], state };
  const hard = best.refusals.filter((refusal) => refusal.kind === "hard");
  if (hard.length > 0 || (best.refusals.length > 0 && !command.force)) return { ok: false, refusals: best.refusals };
  return { ok: true, changes: best.steps, forced: best.refusals, state: best.state };
}

interface Walk {
  readonly steps: readonly FlagStep[];
  readonly refusals: readonly Refusal[];
  readonly state: FlagState;
}

function resistance(walked: Walk): number {
  return walked.refusals.reduce((sum, refusal) => sum + (refusal.kind === "hard" ? 1_000 : 1), 0);
}

/** One setting after the other; a hard refusal ends the walk, since there is no state after it. */
function walk(agent: string, settings: readonly FlagSetting[], state: FlagState, facts: Facts): Walk {
  const steps: FlagStep[] = [];
  const refusals: Refusal[] = [];
  let now = state;
  let known = facts;
  for (const setting of settings) {
    const step = stepOf(now, setting);
    const found = refusalsOf(agent, now, step, known);
    refusals.push(...found.filter((one) => !refusals.some((other) => other.missing === one.missing)));
    if (found.some((refusal) => refusal.kind === "hard")) break;
    steps.push(step);
    now = applied(now, setting);
    if (step.stalesBackfill && known.backfill.state !== "none") known = { ...known, backfill: { state: "stale" } };
    // No check can have come between two steps of one command.
    if (step.stageAfter !== step.stageBefore) known = { ...known, stageSince: Number.POSITIVE_INFINITY };
  }
  return { steps, refusals, state: now };
}

function applied(state: FlagState, setting: FlagSetting): FlagState {
  return setting.flag === "reads" ? { ...state, reads: setting.value } : { ...state, [setting.flag]: setting.value };
}

function stepOf(state: FlagState, setting: FlagSetting): FlagStep {
  const after = applied(state, setting);
  const stageBefore = effectiveStage(state);
  const stageAfter = effectiveStage(after);
  const givesBack = authorityOf(stageBefore) === "unified" && authorityOf(stageAfter) === "legacy";
  return {
    setting,
    from: valueText(state[setting.flag]),
    to: valueText(setting.value),
    stageBefore,
    stageAfter,
    projectDown: givesBack || (stageBefore === "complete" && stageAfter === "rampdown"),
    // Between rampdown and complete nothing is written on the legacy side that the unified side does not have. Where
    // the legacy side leads again, the unified side may hold what that cannot: only a backfill makes them equal.
    stalesBackfill:
      givesBack ||
      (setting.flag === "dual-write" && state.reads !== "unified") ||
      (setting.flag === "reads" && stageAfter === "off"),
  };
}

function refusalsOf(agent: string, state: FlagState, step: FlagStep, facts: Facts): Refusal[] {
  const { setting, stageBefore, stageAfter } = step;
  if (setting.flag === "unified-events" || setting.flag === "agent-adapters") {
    return setting.value ? withoutLedger(facts) : [];
  }
  const after = applied(state, setting);
  if (!isPossible(state)) return refusalsFromImpossible(agent, state, after, facts);
  if (!isPossible(after)) return [impossible(agent, state, after)];
  const distance = rank(stageAfter) - rank(stageBefore);
  if (Math.abs(distance) !== 1) return [skipped(agent, stageBefore, stageAfter)];
  return distance > 0 ? entryRefusals(agent, stageAfter, facts) : withoutLegacy(facts);
}

/** Out of a pair that none but SQL can have made, only two ways lead: back to off, or dual-write on. */
function refusalsFromImpossible(agent: string, state: FlagState, after: FlagState, facts: Facts): Refusal[] {
  const back: FlagSetting = { flag: "reads", value: "legacy" };
  const pair = `dual-write=off with reads=${state.reads}`;
  if (after.reads === "legacy") return withoutLegacy(facts);
  if (!isPossible(after) || !after["dual-write"]) {
    return [
      {
        kind: "hard",
        code: "STAGE_IMPOSSIBLE",
        missing: `its flags are ${pair}, which no stage is; they have to be put right first`,
        remedy: commandFor(agent, back),
      },
    ];
  }
  return [
    ...withoutTables(facts),
    {
      kind: "soft",
      code: "GUARD_REFUSED",
      missing: `its flags are ${pair}: what was written meanwhile is on one side only, so it has to start again from off`,
      remedy: commandFor(agent, back),
    },
  ];
}

/** What has to be so before an agent may go forward into `stage`. */
export function entryRefusals(agent: string, stage: Stage, facts: Facts): Refusal[] {
  switch (stage) {
    case "off":
      return [];
    case "dualwrite":
      return withoutTables(facts);
    case "shadow":
      return [...withoutLedger(facts), ...withoutBackfill(agent, facts)];
    case "live":
      return [...withoutLedger(facts), ...withoutBackfill(agent, facts), ...withoutCheck(agent, facts)];
    case "rampdown":
    case "complete":
      // A backfill would now write old values over authoritative ones: the check alone says whether the sides agree.
      return [...withoutLedger(facts), ...withoutCheck(agent, facts)];
  }
}

function withoutLedger(facts: Facts): Refusal[] {
  if (facts.ledger) return [];
  return [
    { kind: "hard", code: "GUARD_REFUSED", missing: "hive's own tables are not there yet", remedy: "hive migrate up" },
  ];
}

function withoutTables(facts: Facts): Refusal[] {
  const ledger = withoutLedger(facts);
  if (ledger.length > 0 || facts.missingUnified?.length === 0) return ledger;
  const which = facts.missingUnified === null ? "it is not known which" : facts.missingUnified.join(", ");
  return [
    {
      kind: "hard",
      code: "GUARD_REFUSED",
      missing: `the unified schema is not complete (missing: ${which})`,
      remedy: "hive migrate up",
    },
  ];
}

function withoutLegacy(facts: Facts): Refusal[] {
  if (facts.missingLegacy?.length === 0) return [];
  const which = facts.missingLegacy === null ? "it is not known which" : facts.missingLegacy.join(", ");
  return [
    {
      kind: "hard",
      code: "GUARD_REFUSED",
      missing: `the legacy tables it would go back to do not stand (missing: ${which})`,
      remedy: "hive verify",
    },
  ];
}

function withoutBackfill(agent: string, facts: Facts): Refusal[] {
  const missing = {
    none: "its backfill was never run",
    running: "its backfill has not finished",
    stale:
      "its backfill is stale: what was written while dual-write was off was not captured (another run writes only what differs)",
    finished: null,
  }[facts.backfill.state];
  return missing === null ? [] : [{ kind: "soft", code: "GUARD_REFUSED", missing, remedy: `hive backfill ${agent}` }];
}

function withoutCheck(agent: string, facts: Facts): Refusal[] {
  const refused = (missing: string, remedy = `hive check ${agent}`): Refusal[] => [
    { kind: "soft", code: "GUARD_REFUSED", missing, remedy },
  ];
  const { check } = facts;
  if (!check) return refused("it was never checked");
  if (check.drift > 0) {
    const found = `${check.drift} ${check.drift === 1 ? "aggregate" : "aggregates"}`;
    return refused(`its last check found drift in ${found}`, `hive check ${agent} --repair`);
  }
  // Written so that NaN, from a time that cannot be read, closes the gate like any other missing fact.
  if (!(check.drift === 0) || !(check.at <= facts.now)) return refused("its last check cannot be relied on");
  if (!(facts.now - check.at <= facts.checkMaxAgeMs)) {
    const minutes = (ms: number) => Math.floor(ms / 60_000);
    return refused(
      `its last check is ${minutes(facts.now - check.at)} minutes old (at most ${minutes(facts.checkMaxAgeMs)} are allowed)`,
    );
  }
  if (facts.backfill.state === "finished" && !(check.at >= facts.backfill.finishedAt)) {
    return refused("its last check is older than the end of its backfill");
  }
  // What was so under other flags, when other sides were written and another one led, says nothing about this stage.
  // Not older is enough: a check may follow the flag within the millisecond.
  if (!(check.at >= facts.stageSince)) return refused("its last check is from an earlier stage");
  return [];
}

/** Whether the last check still says something about now; not what it says. */
export function isFresh(facts: Facts): boolean {
  return facts.check !== null && withoutCheck("", { ...facts, check: { ...facts.check, drift: 0 } }).length === 0;
}

function impossible(agent: string, before: FlagState, after: FlagState): Refusal {
  const stage = effectiveStage(before);
  const pair = `dual-write=off with reads=${after.reads}`;
  // From complete, too, dual-write comes first: it leads to rampdown.
  const turnsOff = before["dual-write"] && !after["dual-write"];
  const first: FlagSetting = turnsOff
    ? settingBetween(stage, previousStage(stage) ?? "off")
    : { flag: "dual-write", value: true };
  return {
    kind: "hard",
    code: "STAGE_IMPOSSIBLE",
    missing: turnsOff
      ? `${pair} is no stage: its reads have to go back first`
      : `${pair} is no stage: dual-write has to be on first`,
    remedy: commandFor(agent, first),
  };
}

function skipped(agent: string, from: Stage, to: Stage): Refusal {
  if (rank(to) < rank(from)) {
    return {
      kind: "hard",
      code: "GUARD_REFUSED",
      missing: `it is at ${from}, and the next stage back is ${previousStage(from)}, not ${to}`,
      remedy: `hive rollback --agent ${agent} --to ${to}`,
    };
  }
  const next = nextStage(from) ?? from;
  return {
    kind: "hard",
    code: "GUARD_REFUSED",
    missing: `it is at ${from}, and the next stage is ${next}, not ${to}`,
    remedy: commandFor(agent, settingBetween(from, next)),
  };
}
