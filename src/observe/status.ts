import type { Context } from "../context.ts";
import { HiveError } from "../errors.ts";
import {
  type MappingTables,
  mappingTables,
  readFlags,
  readStanding,
  type StoredFlag,
  wrongFlags,
} from "../flags/facts.ts";
import {
  ALL_OFF,
  authorityOf,
  commandFor,
  effectiveStage,
  entryRefusals,
  type Facts,
  type FlagState,
  isFresh,
  isPossible,
  nextStage,
  rank,
  type Stage,
  settingBetween,
} from "../flags/stages.ts";
import type { StatusResult } from "../results.ts";
import { examine } from "../schema/history.ts";
import { hasLedger, migrationRecords } from "../schema/ledger.ts";
import { loadMigrations } from "../schema/migration-files.ts";
import type { Session } from "../storage/port.ts";
import { countQuarantine } from "../sync/quarantine.ts";

type Suggestion = StatusResult["next"][number];

/** What is wrong, and what mends it. */
interface Problem {
  readonly what: string;
  readonly mend?: Suggestion;
}

interface AgentStanding {
  readonly agent: string;
  readonly state: FlagState;
  readonly facts: Facts;
  readonly stage: Stage;
}

const PHASE_NAMES: { readonly [phase in StatusResult["phase"]]: string } = {
  none: "not expanded: the unified schema is not there",
  A: "expanded: the unified schema is there, no agent uses it",
  B: "events: agents emit unified events",
  C: "dual-write: agents are moving, one stage at a time",
  D: "every agent is on the unified schema",
};

/**
 * Where the migration stands: phase, agents, what is wrong (worst first) and what to do now. Reads hive's own tables
 * and the catalogue, never the rows of a table that is migrated, so that it costs the same on any database; one
 * snapshot; writes nothing. Works on a database that hive has never touched.
 */
export async function status(context: Context): Promise<StatusResult> {
  const { store, mapping } = context;
  return store.snapshot(async (session) => {
    const touched = await hasLedger(store, session);
    const migrations = await migrationStatus(context, session);
    const tables = await mappingTables(context, session);
    const names = mapping.agents.map((agent) => agent.name);
    const { states, facts } = await readStanding(context, session, names);
    const quarantined = touched ? await countQuarantine(session) : new Map<string, number>();
    const agents: AgentStanding[] = [];
    for (const agent of names) {
      const state = states.get(agent) ?? ALL_OFF;
      const known = facts.get(agent);
      if (known) agents.push({ agent, state, facts: known, stage: effectiveStage(state) });
    }
    const expanded = touched && tables.missingUnified.length === 0;
    const phase = phaseOf(expanded, agents);
    const problems: Problem[] = [
      ...migrations.problems.map((what) => ({
        what,
        mend: { command: "hive migrate status", why: "the schema's history is not what was applied" },
      })),
      ...tableProblems(tables, migrations, agents),
      ...(touched ? flagProblems(context, await readFlags(session)) : []),
      ...driftProblems(agents),
      ...backfillProblems(agents),
      ...quarantineProblems(quarantined),
    ];
    return {
      phase,
      phaseName: PHASE_NAMES[phase],
      database: { location: store.location, dialect: store.dialect.name, touched },
      migrations,
      agents: agents.map((one) => agentResult(one, quarantined.get(one.agent) ?? 0)),
      quarantine: sum(quarantined),
      problems: problems.map(({ what }) => what),
      next: suggestions(context, tables, expanded, migrations, problems, agents),
    };
  });
}

function sum(counts: ReadonlyMap<string, number>): number {
  return [...counts.values()].reduce((total, count) => total + count, 0);
}

async function migrationStatus(context: Context, session: Session): Promise<StatusResult["migrations"]> {
  const records = await migrationRecords(context.store, session);
  const current = records.at(-1)?.name ?? null;
  try {
    const history = examine(loadMigrations(context), records);
    const problems = history.applied.flatMap(({ name, state }) => {
      if (history.tooNew.includes(name)) return [`migration ${name} is of a newer hive: upgrade this one`];
      if (state === "altered") return [`migration ${name} was altered after it was applied`];
      return state === "missing" ? [`migration ${name} was applied and its file is missing`] : [];
    });
    problems.push(
      ...[...history.outOfOrder].map((name) => `migration ${name} is pending and comes before one that is applied`),
    );
    const pending = history.pending.length;
    return { current, head: current !== null && pending === 0, pending, problems };
  } catch (error) {
    // A folder or file that cannot be used is what status is there to show, not a reason to show nothing.
    if (!(error instanceof HiveError)) throw error;
    return { current, head: false, pending: 0, problems: [error.message] };
  }
}

function phaseOf(expanded: boolean, agents: readonly AgentStanding[]): StatusResult["phase"] {
  if (!expanded) return "none";
  if (agents.length > 0 && agents.every(({ stage }) => stage === "complete")) return "D";
  if (agents.some(({ stage }) => stage !== "off")) return "C";
  return agents.some(({ state }) => state["unified-events"]) ? "B" : "A";
}

function tableProblems(
  tables: MappingTables,
  migrations: StatusResult["migrations"],
  agents: readonly AgentStanding[],
): Problem[] {
  const problems: Problem[] = [];
  if (tables.missingLegacy.length > 0) {
    problems.push({
      what: `the legacy side is not complete: ${tables.missingLegacy.join(", ")} missing`,
      mend: { command: "hive verify", why: "the database and the mapping do not fit together" },
    });
  }
  const needed = migrations.head || agents.some(({ stage }) => stage !== "off");
  if (needed && tables.missingUnified.length > 0) {
    problems.push({
      what: `the unified side is not complete: ${tables.missingUnified.join(", ")} missing`,
      mend: { command: "hive verify", why: "the migrations are applied, yet the unified schema is not complete" },
    });
  }
  return problems;
}

function flagProblems(context: Context, stored: readonly StoredFlag[]): Problem[] {
  const known = new Set(context.mapping.agents.map((agent) => agent.name));
  const strangers = [...new Set(stored.map(({ agent }) => agent))].filter((agent) => !known.has(agent));
  return [
    ...wrongFlags(context, stored).map(({ agent, problem }) => ({
      what: problem,
      mend: known.has(agent)
        ? { command: `hive rollback --agent ${agent}`, why: `the flags of ${agent} were written past the guards` }
        : { command: "hive verify", why: "there are flags that hive did not write" },
    })),
    ...strangers.map((agent) => ({
      what: `there are flags of ${agent}, which the mapping does not know`,
      mend: { command: "hive verify", why: "there are flags that hive did not write" },
    })),
  ];
}

function driftProblems(agents: readonly AgentStanding[]): Problem[] {
  return agents.flatMap(({ agent, state, facts }) => {
    const drift = facts.check?.drift ?? 0;
    if (drift === 0 || !state["dual-write"]) return [];
    return [
      {
        what: `${agent} has drifted: ${drift} ${drift === 1 ? "aggregate differs" : "aggregates differ"} between the schemas`,
        mend: { command: `hive check ${agent} --repair`, why: `the last check of ${agent} found drift` },
      },
    ];
  });
}

function backfillProblems(agents: readonly AgentStanding[]): Problem[] {
  return agents.flatMap(({ agent, state, stage, facts }) => {
    // From live on the unified side is authoritative: a backfill would write old values over it.
    if (stage !== "shadow" || !isPossible(state) || facts.backfill.state === "finished") return [];
    const how = { none: "was never run", running: "has not finished", stale: "is stale" }[facts.backfill.state];
    return [
      {
        what: `${agent} is at ${stage}, and its backfill ${how}`,
        mend: { command: `hive backfill ${agent}`, why: `not everything of ${agent} is on the unified side` },
      },
    ];
  });
}

function quarantineProblems(quarantined: ReadonlyMap<string, number>): Problem[] {
  const total = sum(quarantined);
  if (total === 0) return [];
  const which = [...quarantined].map(([agent, count]) => `${agent} ${count}`).join(", ");
  return [
    {
      what: `${total} ${total === 1 ? "aggregate is" : "aggregates are"} in quarantine (${which})`,
      mend: { command: "hive quarantine list", why: "each has its reason; mend and retry, or discard" },
    },
  ];
}

function agentResult(
  { agent, state, facts, stage }: AgentStanding,
  quarantined: number,
): StatusResult["agents"][number] {
  const { check, backfill, now } = facts;
  const at = check && Number.isFinite(check.at) ? check.at : null;
  return {
    agent,
    stage,
    authority: authorityOf(stage),
    events: state["unified-events"],
    backfill: backfill.state,
    lastCheck:
      check && at !== null
        ? {
            at: new Date(at).toISOString(),
            consistent: check.drift === 0,
            drift: check.drift,
            ageMs: now - at,
            fresh: isFresh(facts),
          }
        : null,
    quarantined,
  };
}

/** What mends the problems, worst first, then the next step of the journey. */
function suggestions(
  context: Context,
  tables: MappingTables,
  expanded: boolean,
  migrations: StatusResult["migrations"],
  problems: readonly Problem[],
  agents: readonly AgentStanding[],
): Suggestion[] {
  const wanted = problems.flatMap(({ mend }) => (mend ? [mend] : []));
  // Where what is to be migrated is not there, this is most likely the wrong database.
  const wrong = tables.legacy.length === 0 && migrations.current === null;
  if (wrong) return wanted;
  if (migrations.problems.length === 0 && migrations.pending > 0) {
    const why =
      migrations.current === null ? "make the unified schema beside the legacy one" : "migrations are pending";
    wanted.push({ command: "hive migrate up", why });
  } else if (expanded) {
    wanted.push(...journey(context, agents));
  }
  const seen = new Set<string>();
  return wanted.filter(({ command }) => !seen.has(command) && seen.add(command));
}

/** The next step of the agent whose turn it is. */
function journey(context: Context, agents: readonly AgentStanding[]): Suggestion[] {
  const turn = nextInTurn(context, agents);
  if (!turn) {
    return agents.length === 0
      ? []
      : [
          {
            command: "hive verify",
            why: "every agent is complete; the legacy tables stand, so each can still go back",
          },
        ];
  }
  const { agent, stage, facts } = turn;
  const begun = agents.some((one) => one.stage !== "off");
  const first: Suggestion[] = begun ? [] : [{ command: "hive verify", why: "make sure that everything is in place" }];
  const next = nextStage(stage);
  if (next === null) return first;
  // Nothing demands a check before shadow, but drift is cheaper found before it than in it.
  const [missing] = entryRefusals(agent, next === "shadow" ? "live" : next, facts);
  if (missing) return [...first, { command: missing.remedy, why: `${agent} is at ${stage}: ${missing.missing}` }];
  return [...first, { command: commandFor(agent, settingBetween(stage, next)), why: WHY[next](agent) }];
}

const WHY: { readonly [stage in Stage]: (agent: string) => string } = {
  off: (agent) => `${agent} goes back`,
  dualwrite: (agent) => `${agent} is next: write both schemas, read the legacy one`,
  shadow: (agent) => `${agent} is backfilled and consistent: compare its reads on both sides`,
  live: (agent) => `${agent} is consistent: make the unified schema its authority, still comparing`,
  rampdown: (agent) => `${agent} is consistent: read the unified schema only`,
  complete: (agent) => `${agent} is consistent: stop writing the legacy schema`,
};

/**
 * Agents of one wave advance together, so the one that lags is next; agents without a wave come after them, one at a
 * time in the mapping's order. Agents with impossible flags are no part of it: they have to be put right first.
 */
function nextInTurn(context: Context, agents: readonly AgentStanding[]): AgentStanding | undefined {
  const waveOf = ({ agent }: AgentStanding) => context.settings.agents[agent]?.wave ?? Number.POSITIVE_INFINITY;
  const moving = agents.filter(({ stage, state }) => stage !== "complete" && isPossible(state));
  const wave = Math.min(...moving.map(waveOf));
  const turn = moving.filter((one) => waveOf(one) === wave);
  if (wave === Number.POSITIVE_INFINITY) return turn[0];
  return turn.sort((a, b) => rank(a.stage) - rank(b.stage))[0];
}
