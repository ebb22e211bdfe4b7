import type { Context } from "../context.ts";
import { HiveError } from "../errors.ts";
import { expiredText, readSubscribers } from "../events/subscribers.ts";
import { type MappingTables, mappingTables, readFlags, wrongFlags } from "../flags/facts.ts";
import type { VerifyResult } from "../results.ts";
import { verifyAudit } from "../rollout/audit.ts";
import { examine } from "../schema/history.ts";
import { migrationRecords } from "../schema/ledger.ts";
import { loadMigrations } from "../schema/migration-files.ts";
import { unregistered } from "../schema/registration.ts";
import type { Dialect, Row, Session } from "../storage/port.ts";
import { sql } from "../storage/sql.ts";
import { captureState } from "../sync/capture.ts";

const LEDGER_TABLES: readonly string[] = [
  "hive_migrations",
  "hive_agents",
  "hive_event_types",
  "hive_flags",
  "hive_audit",
  "hive_backfill",
  "hive_quarantine",
  "hive_checks",
  "hive_kept",
  "hive_changes",
  "hive_written",
  "hive_checked",
  "hive_behind",
  "hive_bases",
  "hive_gaps",
  "hive_mismatches",
  "hive_work",
  "hive_events",
  "hive_subscribers",
  "hive_deliveries",
  "hive_dead_letters",
  "hive_agent_health",
  "hive_event_states",
  "hive_metrics",
  "hive_rollout",
];

/** hive's own tables that the migrations make; `hive_locks` comes and goes with the locks. */
export function ledgerTables({
  markTable,
  singleWriter,
}: Pick<Dialect, "markTable" | "singleWriter">): readonly string[] {
  return [
    ...LEDGER_TABLES,
    // Where events do not get their numbers in the order in which they can be seen.
    ...(singleWriter ? [] : ["hive_event_numbers"]),
    ...(markTable === null ? [] : [markTable]),
  ];
}

const MIGRATE = "run `hive migrate up`";

/** What one check found: a sentence without its full stop, and whether it is as it should be. */
interface Finding {
  readonly ok: boolean;
  readonly detail: string;
}

/**
 * Whether everything that hive needs is in place: schema history, tables and columns, registrations, flags, config and
 * the audit log. Says of each what it found; `ok` only if all are. Reads one snapshot and writes nothing. On a database
 * that hive has never touched `ok` is false and the details say what to run. `agents`, `agentTypes`, `capabilities` and
 * `eventTypes` count what is registered in the database.
 */
export async function verify(context: Context): Promise<VerifyResult> {
  const { store } = context;
  return store.snapshot(async (session) => {
    const existing = new Set(await store.tables(session));
    const tables = await mappingTables(context, session);
    const agents = existing.has("hive_agents")
      ? await session.all(sql`SELECT agent, agent_type, capabilities FROM hive_agents`)
      : [];
    const eventTypes = existing.has("hive_event_types")
      ? await session.all(sql`SELECT event_type FROM hive_event_types`)
      : [];
    const work: readonly (readonly [string, () => Finding | Promise<Finding>])[] = [
      ["database", () => good(`${store.location} (${store.dialect.name}), ${counted(existing.size, "table")}`)],
      ["migrations", () => migrations(context, session)],
      ["ledger", () => ledger(ledgerTables(store.dialect), existing)],
      ["unified tables", () => unifiedTables(tables)],
      ["legacy tables", () => legacyTables(tables)],
      ["agents", () => registeredAgents(context, session, agents, existing)],
      ["event types", () => registeredEventTypes(context, session, eventTypes.length, existing)],
      ["subscribers", () => subscribers(context, session, existing)],
      ["config", () => config(context, session, existing)],
      ["flags", () => flags(context, session, existing)],
      ["capture", () => capture(context, session, existing)],
      ["audit", () => auditLog(session, existing)],
    ];
    const checks: VerifyResult["checks"] = [];
    for (const [name, look] of work) checks.push({ name, ...(await finding(look)) });
    return {
      ok: checks.every((check) => check.ok),
      checks,
      agents: agents.length,
      agentTypes: new Set(agents.map((row) => String(row.agent_type))).size,
      capabilities: new Set(agents.flatMap(capabilitiesOf)).size,
      eventTypes: eventTypes.length,
      tables: [...tables.unified, ...ledgerTables(store.dialect).filter((table) => existing.has(table))],
    };
  });
}

/** One thing that cannot even be looked at must not hide what the other checks find. */
async function finding(look: () => Finding | Promise<Finding>): Promise<Finding> {
  try {
    return await look();
  } catch (error) {
    if (error instanceof HiveError) return bad(error.hint ? `${error.message} ${error.hint}` : error.message);
    throw error;
  }
}

function counted(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

function good(detail: string): Finding {
  return { ok: true, detail };
}

function bad(detail: string): Finding {
  return { ok: false, detail };
}

async function migrations(context: Context, session: Session): Promise<Finding> {
  const records = await migrationRecords(context.store, session);
  const history = examine(loadMigrations(context), records);
  const named = (state: string) => history.applied.filter((one) => one.state === state).map((one) => one.name);
  const wrong = [
    ...history.tooNew.map((name) => `${name} is of a newer hive: upgrade this one`),
    ...named("altered").map((name) => `${name} was altered after it was applied`),
    ...named("missing")
      .filter((name) => !history.tooNew.includes(name))
      .map((name) => `${name} was applied and its file is missing`),
    ...[...history.outOfOrder].map((name) => `${name} is pending and comes before one that is applied`),
  ];
  if (wrong.length > 0) return bad(wrong.join("; "));
  const current = history.applied.at(-1)?.name;
  if (current === undefined) return bad(`none of ${history.pending.length} is applied: ${MIGRATE}`);
  const pending = history.pending.map((file) => file.name);
  if (pending.length > 0) return bad(`at ${current}, pending: ${pending.join(", ")}: ${MIGRATE}`);
  return good(`${history.applied.length} applied, at ${current} (head)`);
}

function ledger(tables: readonly string[], existing: ReadonlySet<string>): Finding {
  const missing = tables.filter((table) => !existing.has(table));
  if (missing.length === 0) return good(`${tables.length} tables of hive's own`);
  if (missing.length === tables.length) return bad(`hive has never touched this database: ${MIGRATE}`);
  return bad(`missing: ${missing.join(", ")}`);
}

function unifiedTables(tables: MappingTables): Finding {
  const { unified, missingUnified } = tables;
  if (missingUnified.length > 0) return bad(`missing: ${missingUnified.join(", ")}: ${MIGRATE}`);
  return good(`${counted(unified.length, "table")} with all columns: ${unified.join(", ")}`);
}

function legacyTables(tables: MappingTables): Finding {
  const { legacy, missingLegacy, nullLegacy, absentLegacy } = tables;
  if (missingLegacy.length > 0) {
    return bad(`missing: ${missingLegacy.join(", ")}: check that --database and the mapping belong together`);
  }
  const notes = [
    `${counted(legacy.length, "table")}: ${legacy.join(", ")}`,
    ...(absentLegacy.length > 0 ? [`not there, which is allowed: ${absentLegacy.join(", ")}`] : []),
    ...(nullLegacy.length > 0 ? [`columns that are not there and read as NULL: ${nullLegacy.join(", ")}`] : []),
  ];
  return good(notes.join("; "));
}

async function registeredAgents(
  context: Context,
  session: Session,
  rows: readonly Row[],
  existing: ReadonlySet<string>,
): Promise<Finding> {
  if (!existing.has("hive_agents")) return bad(`none is registered: ${MIGRATE}`);
  const { agents, rollout } = await unregistered(context.store, session, context.mapping);
  const missing = agents.map(({ name }) => name);
  if (missing.length > 0) return bad(`not registered as the mapping says: ${missing.join(", ")}: ${MIGRATE}`);
  if (rollout.length > 0) return bad(`programs cannot read the flags of: ${rollout.join(", ")}: ${MIGRATE}`);
  const ours = new Set(context.mapping.agents.filter((agent) => agent.registration).map((agent) => agent.name));
  const others = rows.map((row) => String(row.agent)).filter((agent) => !ours.has(agent));
  const own = rows.filter((row) => ours.has(String(row.agent)));
  const types = new Set(own.map((row) => String(row.agent_type)));
  const capabilities = new Set(own.flatMap(capabilitiesOf));
  return good(
    `${counted(own.length, "agent")}, ${counted(types.size, "type")}, ${counted(capabilities.size, "capability", "capabilities")}${others.length > 0 ? `; registered by others: ${others.join(", ")}` : ""}`,
  );
}

async function registeredEventTypes(
  context: Context,
  session: Session,
  count: number,
  existing: ReadonlySet<string>,
): Promise<Finding> {
  if (!existing.has("hive_event_types")) return bad(`none is registered: ${MIGRATE}`);
  const missing = (await unregistered(context.store, session, context.mapping)).eventTypes;
  if (missing.length > 0) return bad(`not registered: ${missing.join(", ")}: ${MIGRATE}`);
  return good(`${count} registered`);
}

/** A subscriber that lives says so far more often, whether there are events or not. */
const SUBSCRIBER_SILENT_MS = 5 * 60_000;

/** Whether those that read events are alive: what they have not read is kept for them until they are given up. */
async function subscribers(context: Context, session: Session, existing: ReadonlySet<string>): Promise<Finding> {
  const all = existing.has("hive_subscribers") ? await readSubscribers(session) : [];
  const expired = all.filter(({ state }) => state === "expired");
  const now = context.clock.now();
  // One that cannot be read is no sign of life.
  const silent = all.filter(
    ({ state, seenAt }) => state !== "expired" && !(now - Date.parse(seenAt) <= SUBSCRIBER_SILENT_MS),
  );
  const wrong = [
    ...(expired.length > 0 ? [expiredText(expired)] : []),
    ...silent.map(({ name, seenAt }) => `${name} was last seen at ${seenAt}: start it again, or take it away`),
  ];
  if (wrong.length > 0) return bad(`${wrong.join("; ")}; run \`hive events subscribers\``);
  return good(all.length === 0 ? "there are none" : `${counted(all.length, "subscriber")}, all alive`);
}

async function config(context: Context, session: Session, existing: ReadonlySet<string>): Promise<Finding> {
  const { mapping, settings } = context;
  const known = new Set(mapping.agents.map((agent) => agent.name));
  const configured = Object.keys(settings.agents).filter((agent) => !known.has(agent));
  const stored = existing.has("hive_flags") ? await readFlags(session) : [];
  const flagged = [...new Set(stored.map((flag) => flag.agent))].filter((agent) => !known.has(agent));
  const wrong = [
    ...(configured.length > 0
      ? [`the config has agents that the mapping does not know: ${configured.join(", ")}`]
      : []),
    ...(flagged.length > 0 ? [`there are flags of agents that the mapping does not know: ${flagged.join(", ")}`] : []),
  ];
  if (wrong.length > 0) return bad(`${wrong.join("; ")} (it knows ${[...known].join(", ")})`);
  return good(`mapping "${mapping.name}" with ${counted(known.size, "agent")}`);
}

async function flags(context: Context, session: Session, existing: ReadonlySet<string>): Promise<Finding> {
  if (!existing.has("hive_flags")) return good("all off");
  const stored = await readFlags(session);
  const wrong = wrongFlags(context, stored);
  return wrong.length > 0
    ? bad(wrong.map(({ problem }) => problem).join("; "))
    : good(`${stored.length} set, each agent at a stage`);
}

/** Whether what agents write is noted where the flags ask for it, and only there. */
async function capture(context: Context, session: Session, existing: ReadonlySet<string>): Promise<Finding> {
  const { markTable } = context.store.dialect;
  const lacking = ["hive_changes", ...(markTable === null ? [] : [markTable]), "hive_gaps"].filter(
    (table) => !existing.has(table),
  );
  if (lacking.length > 0) return bad(`nothing can be noted without ${lacking.join(", ")}: ${MIGRATE}`);
  const { needed, captured, broken, needless, blind } = await captureState(context, session);
  const gaps = await session.all(sql`SELECT table_name FROM hive_gaps ORDER BY table_name`);
  const wrong = [
    ...(blind ? ["a mark was left in hive_applying, so that no trigger notes anything"] : []),
    ...(broken.length > 0 ? [`triggers are missing or do not fit the table: ${broken.join(", ")}`] : []),
    ...(gaps.length > 0
      ? [`without fitting triggers for a while: ${gaps.map((row) => row.table_name).join(", ")}`]
      : []),
    ...(needless.length > 0 ? [`triggers that nobody needs: ${needless.join(", ")}`] : []),
  ];
  if (wrong.length > 0) return bad(`${wrong.join("; ")}: run \`hive sync\``);
  const sides = [needed.legacy ? "legacy" : "", needed.unified ? "unified" : ""].filter((side) => side !== "");
  if (sides.length === 0) return good("nothing is to be captured: every agent is off");
  return good(`${counted(captured.length, "table")} captured (${sides.join(" and ")})`);
}

async function auditLog(session: Session, existing: ReadonlySet<string>): Promise<Finding> {
  if (!existing.has("hive_audit")) return bad(`there is none: ${MIGRATE}`);
  const { ok, detail } = await verifyAudit(session);
  return { ok, detail };
}

function capabilitiesOf(row: Row): string[] {
  try {
    const parsed: unknown = JSON.parse(String(row.capabilities));
    return Array.isArray(parsed) ? parsed.map(String) : [];
  } catch {
    return [];
  }
}
