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
import { sql } from "../storage/sql.ts";
import { type CaptureState, captureState, NO_SIDES } from "../sync/capture.ts";
import { backlog, hasChangeLog } from "../sync/changes.ts";
import { countQuarantine } from "../sync/quarantine.ts";
import { eventState } from "./event-state.ts";
import { recentlyMeasured } from "./metrics.ts";

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
    const live = await liveState(context, session);
    const events = touched ? await eventState(context, session) : null;
    const expanded = touched && tables.missingUnified.length === 0;
    const phase = phaseOf(expanded, agents);
    const unnoted = captureProblems(live);
    const problems: Problem[] = [
      ...migrations.problems.map((what) => ({
        what,
        mend: { command: "hive migrate status", why: "the schema's history is not what was applied" },
      })),
      ...tableProblems(tables, migrations, agents),
      ...unnoted,
      ...(touched ? flagProblems(context, await readFlags(session)) : []),
      ...driftProblems(agents),
      ...lagProblems(live),
      ...backfillProblems(agents, live.backfillRuns),
      ...quarantineProblems(quarantined),
      ...eventProblems(events),
    ];
    return {
      phase,
      phaseName: PHASE_NAMES[phase],
      database: { location: store.location, dialect: store.dialect.name, touched },
      migrations,
      agents: agents.map((one) => agentResult(one, quarantined.get(one.agent) ?? 0)),
      quarantine: sum(quarantined),
      capture: {
        needed: { ...live.capture.needed },
        captured: live.capture.captured.length,
        broken: [...live.capture.broken],
        gaps: live.gaps,
      },
      lag: live.lag,
      sync: live.sync,
      work: live.work,
      events,
      conflicts: live.conflicts,
      mismatches: live.mismatches,
      measured: touched ? await recentlyMeasured(store, session, context.clock.now()) : null,
      problems: problems.map(({ what }) => what),
      next: suggestions(context, tables, expanded && unnoted.length === 0, migrations, problems, agents),
    };
  });
}

/** What happens now, or did a moment ago. */
interface LiveState extends Pick<StatusResult, "lag" | "sync" | "work" | "conflicts" | "mismatches"> {
  readonly capture: CaptureState;
  readonly gaps: string[];
  readonly backfillRuns: boolean;
}

const NOTHING_CAPTURED: CaptureState = {
  needed: NO_SIDES,
  captured: [],
  broken: [],
  altered: [],
  needless: [],
  blind: false,
};
const CONFLICTS_OF_MS = 24 * 3_600_000;
/** Entries of the audit log that are looked at for conflicts: it grows for ever. */
const LATEST_ENTRIES = 10_000;

async function liveState(context: Context, session: Session): Promise<LiveState> {
  const { store, clock } = context;
  const holder = await store.lockHolder("sync");
  const sync = { running: holder !== null, holder: holder?.holder ?? null, since: holder?.since ?? null };
  const backfillRuns = (await store.lockHolder("backfill")) !== null;
  if (!(await hasChangeLog(store, session))) {
    const lag = { changes: 0, oldestMs: null };
    const work = { lockShare: 0, commitsPerSecond: 0, longestMs: 0, byOperation: [] };
    return { capture: NOTHING_CAPTURED, gaps: [], lag, sync, work, conflicts: 0, mismatches: 0, backfillRuns };
  }
  const gaps = await session.all(sql`SELECT table_name FROM hive_gaps ORDER BY table_name`);
  const from = new Date(clock.now() - CONFLICTS_OF_MS).toISOString();
  const [counted] = await session.all(sql`SELECT (SELECT count(*) FROM hive_mismatches) AS mismatches,
    (SELECT count(DISTINCT after) FROM (SELECT action, at, after FROM hive_audit ORDER BY seq DESC LIMIT ${LATEST_ENTRIES})
       AS latest WHERE action = 'conflict' AND at >= ${from}) AS conflicts`);
  return {
    capture: await captureState(context, session),
    gaps: gaps.map((row) => String(row.table_name)),
    lag: await backlog(session, clock.now()),
    sync,
    work: await recentWork(session, clock.now()),
    conflicts: Number(counted?.conflicts),
    mismatches: Number(counted?.mismatches),
    backfillRuns,
  };
}

const MINUTE_MS = 60_000;
const WORK_OF_MS = 10 * MINUTE_MS;

/** The share is that of the minutes in which hive wrote: an idle hour must not hide a busy minute. */
async function recentWork(session: Session, now: number): Promise<StatusResult["work"]> {
  const oldest = `${new Date(now - WORK_OF_MS).toISOString().slice(0, 16)}Z`;
  const rows = await session.all(sql`SELECT minute, operation, commits, held_ms, longest_ms, aggregates FROM hive_work
    WHERE minute >= ${oldest} ORDER BY operation`);
  const operations = new Map<string, StatusResult["work"]["byOperation"][number]>();
  let [heldMs, commits, longestMs] = [0, 0, 0];
  for (const row of rows) {
    const operation = String(row.operation);
    const known = operations.get(operation) ?? { operation, commits: 0, heldMs: 0, longestMs: 0, aggregates: 0 };
    operations.set(operation, {
      operation,
      commits: known.commits + Number(row.commits),
      heldMs: rounded(known.heldMs + Number(row.held_ms)),
      longestMs: rounded(Math.max(known.longestMs, Number(row.longest_ms))),
      aggregates: known.aggregates + Number(row.aggregates),
    });
    heldMs += Number(row.held_ms);
    commits += Number(row.commits);
    longestMs = Math.max(longestMs, Number(row.longest_ms));
  }
  let coveredMs = 0;
  for (const minute of new Set(rows.map((row) => Date.parse(String(row.minute))))) {
    // Of the minute that runs, what is over; a second of it at least.
    coveredMs += Math.min(MINUTE_MS, Math.max(1_000, now - minute));
  }
  return {
    lockShare: coveredMs === 0 ? 0 : Math.min(1, heldMs / coveredMs),
    commitsPerSecond: coveredMs === 0 ? 0 : rounded(commits / (coveredMs / 1_000)),
    longestMs: rounded(longestMs),
    byOperation: [...operations.values()],
  };
}

function rounded(value: number): number {
  return Math.round(value * 1_000) / 1_000;
}

/** What agents write and nobody notes comes first: it is lost to the other side until somebody looks. */
function captureProblems({ capture, gaps, sync }: LiveState): Problem[] {
  const problems: Problem[] = [];
  const mend = { command: "hive sync", why: "put the triggers right, and look for what was written meanwhile" };
  if (capture.blind && (capture.needed.legacy || capture.needed.unified)) {
    problems.push({ what: "a mark was left in hive_applying: no trigger notes what agents write", mend });
  }
  const { altered } = capture;
  const missed = capture.broken.filter((table) => !altered.includes(table));
  if (missed.length > 0) {
    const which = missed.join(", ");
    problems.push({ what: `triggers are missing or do not fit the table: writes to ${which} may go unnoticed`, mend });
  }
  if (altered.length > 0) {
    const which = `${altered.join(", ")} ${altered.length === 1 ? "was" : "were"}`;
    problems.push({
      what: `${which} altered: writes are noted, what the alteration did to the rows is not`,
      mend: { command: "hive sync", why: "make the triggers fit, and look for what was altered" },
    });
  }
  if (gaps.length > 0) {
    problems.push({
      what: `${gaps.join(", ")} had no fitting triggers for a while: each aggregate is to be looked at once`,
      mend: sync.running ? { command: "hive status", why: "a sync is at it: look again before you go on" } : mend,
    });
  }
  return problems;
}

const LONG_LAG_MS = 60_000;

function lagProblems({ lag, sync }: LiveState): Problem[] {
  const { changes, oldestMs } = lag;
  if (changes === 0) return [];
  const waiting = `${changes} ${changes === 1 ? "change waits" : "changes wait"}`;
  if (!sync.running) {
    const why = "changes of the agents wait to be carried over";
    return [{ what: `${waiting} and no sync is running`, mend: { command: "hive sync --watch", why } }];
  }
  if (oldestMs === null || oldestMs <= LONG_LAG_MS) return [];
  const behind = `sync is ${Math.round(oldestMs / 1_000)} s behind (${waiting})`;
  return [{ what: `${behind}: see what it says, or raise lockBudget in the config` }];
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

function backfillProblems(agents: readonly AgentStanding[], runs: boolean): Problem[] {
  return agents.flatMap(({ agent, state, stage, facts }) => {
    // From live on the unified side is authoritative: a backfill would write old values over it.
    if (!(stage === "shadow" || stage === "dualwrite") || !isPossible(state)) return [];
    const found = facts.backfill.state;
    // Before shadow, only what was begun has to be ended.
    if (found === "finished" || (stage === "dualwrite" && (found !== "running" || runs))) return [];
    const interrupted = stage === "dualwrite" ? "was interrupted" : "has not finished";
    const how = { none: "was never run", running: interrupted, stale: "is stale" }[found];
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

function eventProblems(events: StatusResult["events"]): Problem[] {
  if (events === null) return [];
  const problems: Problem[] = [];
  const names = (subscribers: NonNullable<typeof events>["subscribers"]) =>
    subscribers.map(({ name }) => name).join(", ");
  const expired = events.subscribers.filter((one) => one.expired);
  const lagging = events.subscribers.filter(({ expired, lagMs }) => !expired && (lagMs ?? 0) > LONG_LAG_MS);
  const mend = { command: "hive events subscribers", why: "see who reads events, and how far" };
  if (expired.length > 0) {
    problems.push({ what: `expired, so that events are no longer kept for them: ${names(expired)}`, mend });
  }
  if (lagging.length > 0) problems.push({ what: `more than a minute behind with events: ${names(lagging)}`, mend });
  if (events.deadLetters > 0) {
    const which =
      events.deadLetters === 1 ? "1 event is a dead letter" : `${events.deadLetters} events are dead letters`;
    problems.push({
      what: which,
      mend: { command: "hive events dead-letters list", why: "each has its reason; mend and redrive, or drop" },
    });
  }
  return problems;
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

/** What mends the problems, worst first, then the next step of the journey, if it `goesOn`. */
function suggestions(
  context: Context,
  tables: MappingTables,
  goesOn: boolean,
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
  } else if (goesOn) {
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
