import type { StatusResult } from "../../index.ts";
import { defineCommand } from "../command.ts";
import { type Cell, duration, plural, thousands, type Ui } from "../render.ts";

export const status = defineCommand<StatusResult>({
  name: "status",
  summary: "where the migration stands, and what to do next",
  run: async (_, scope) => (await scope.hive()).status(),
  async human(result, ui) {
    const { database, migrations } = result;
    const phase = result.phase === "none" ? result.phaseName : `${result.phase} (${result.phaseName})`;
    const schema = [
      migrations.current ?? "none",
      migrations.head ? " (head)" : "",
      migrations.pending > 0 ? `, ${plural(migrations.pending, "migration")} pending` : "",
    ].join("");
    const facts: Cell[][] = [
      ["database", database.touched ? database.location : `${database.location} (hive has never touched it)`],
      ["phase", { text: phase, style: "strong" }],
      ["schema", schema],
      ...(result.quarantine > 0
        ? [["quarantine", { text: thousands(result.quarantine), style: "warn" as const }]]
        : []),
    ];
    facts.push(...now(result), ...lastHour(result));
    const sections = [await ui.table(facts)];
    if (result.agents.length > 0) sections.push(await agentTable(result, ui));
    const problems = [...migrations.problems.filter((one) => !result.problems.includes(one)), ...result.problems];
    if (problems.length > 0) {
      sections.push(
        list(
          "Problems",
          problems.map((one) => `${ui.paint("bad", "!")} ${ui.text(one)}`),
          ui,
        ),
      );
    }
    if (result.next.length > 0) {
      const steps = result.next.map(
        (one) => `  → ${ui.paint("strong", one.command)}\n${ui.wrap(`    ${ui.text(one.why)}`, 4)}`,
      );
      sections.push(["Next", ...steps].join("\n"));
    }
    return sections.join("\n\n");
  },
});

/** What happens now; nothing where nothing is captured and hive has done nothing lately. */
function now(result: StatusResult): Cell[][] {
  const { database, capture, lag, sync, work, events, conflicts, mismatches } = result;
  const { dialect } = database;
  const rows: Cell[][] = [];
  const sides = [capture.needed.legacy ? "legacy" : "", capture.needed.unified ? "unified" : ""].filter(Boolean);
  if (sides.length > 0) {
    const wrong = capture.broken.length + capture.gaps.length;
    const text = `${plural(capture.captured, "table")} (${sides.join(" and ")})`;
    rows.push([
      "capture",
      { text: wrong > 0 ? `${text}, ${wrong} not well` : text, style: wrong > 0 ? "bad" : "good" },
    ]);
    const waiting = lag.changes === 0 ? "nothing waits" : `${plural(lag.changes, "change")} waiting`;
    const oldest = lag.oldestMs === null ? "" : `, the oldest for ${duration(lag.oldestMs)}`;
    rows.push(["sync", `${sync.running ? "running" : "not running"}: ${waiting}${oldest}`]);
  }
  if (work.byOperation.length > 0) {
    const share = `${(work.lockShare * 100).toFixed(2)} % of the time`;
    const commits = `${work.commitsPerSecond.toFixed(1)} commits/s`;
    rows.push([
      dialect === "sqlite" ? "write lock" : "writing",
      `${share}, ${commits}, longest ${work.longestMs.toFixed(1)} ms (10 min)`,
    ]);
  }
  if (events !== null) rows.push(["events", eventsNow(events)]);
  if (conflicts > 0)
    rows.push(["conflicts", { text: `${thousands(conflicts)} in 24 h (hive kept list)`, style: "warn" }]);
  if (mismatches > 0) rows.push(["mismatches", { text: `${thousands(mismatches)} kinds, in reads`, style: "warn" }]);
  return rows;
}

/** What was measured in the last hour; nothing where nothing was. */
function lastHour({ measured }: StatusResult): Cell[][] {
  if (measured === null) return [];
  const { writes, events, delivery, tasks, health } = measured;
  const rows: Cell[][] = [];
  const both = ({ p50Ms, p99Ms }: { p50Ms: number; p99Ms: number }) => `p50 ${ms(p50Ms)} ms, p99 ${ms(p99Ms)} ms`;
  if (writes !== null) {
    const back = `${(writes.rollbackRate * 100).toFixed(1)} % rolled back`;
    rows.push(["writes (1 h)", warning(`${thousands(writes.committed)}, ${back}`, writes.rolledBack)]);
    if (writes.legacy !== null) rows.push(["  legacy", both(writes.legacy)]);
    if (writes.unified !== null) rows.push(["  unified", both(writes.unified)]);
  }
  if (events !== null) rows.push(["events (1 h)", `${thousands(events.perMinute)} per minute`]);
  if (delivery !== null) {
    const failed = delivery.errors === 0 ? "" : `, ${plural(delivery.errors, "error")}`;
    rows.push(["delivery (1 h)", warning(`${both(delivery)}${failed}`, delivery.errors)]);
  }
  if (tasks !== null) {
    rows.push([
      "tasks (1 h)",
      warning(`${thousands(tasks.count)}, ${both(tasks)}, ${thousands(tasks.failed)} failed`, tasks.failed),
    ]);
  }
  if (health !== null) {
    const share = `${(health.healthyRate * 100).toFixed(0)} % of ${plural(health.checks, "check")}`;
    rows.push(["health (1 h)", warning(share, health.healthyRate < 1 ? 1 : 0)]);
  }
  return rows;
}

function warning(text: string, count: number): Cell {
  return count === 0 ? text : { text, style: "warn" };
}

function ms(value: number): string {
  return value < 10 ? value.toFixed(1) : thousands(Math.round(value));
}

function eventsNow({ newest, perMinute, deadLetters, subscribers }: NonNullable<StatusResult["events"]>): Cell {
  const expired = subscribers.filter((one) => one.expired).length;
  const slowest = Math.max(0, ...subscribers.filter((one) => !one.expired).map(({ lagMs }) => lagMs ?? 0));
  const parts = [
    newest === null
      ? "none kept"
      : `newest ${newest.ageMs === null ? newest.type : ago(newest.ageMs)}, ${thousands(perMinute)}/min`,
    ...(subscribers.length > 0 ? [plural(subscribers.length, "subscriber")] : []),
    ...(expired > 0 ? [`${thousands(expired)} expired`] : []),
    ...(slowest > 1_000 ? [`${duration(slowest)} behind`] : []),
    ...(deadLetters > 0 ? [plural(deadLetters, "dead letter")] : []),
  ];
  return { text: parts.join(", "), style: expired > 0 || deadLetters > 0 || slowest > 60_000 ? "warn" : "good" };
}

function list(title: string, items: readonly string[], ui: Ui): string {
  return [title, ...items.map((item) => ui.wrap(`  ${item}`, 4))].join("\n");
}

function agentTable(result: StatusResult, ui: Ui): Promise<string> {
  const quarantine = result.quarantine > 0;
  return ui.table(
    result.agents.map((one): Cell[] => [
      one.agent,
      { text: one.stage, style: one.stage === "off" ? "quiet" : "strong" },
      one.authority,
      one.events ? { text: "on", style: "good" } : { text: "off", style: "quiet" },
      { text: one.backfill, style: BACKFILL[one.backfill] },
      lastCheck(one.lastCheck),
      ...(quarantine
        ? [{ text: thousands(one.quarantined), style: one.quarantined > 0 ? "warn" : "quiet" } as const]
        : []),
    ]),
    {
      head: ["agent", "stage", "authority", "events", "backfill", "check", ...(quarantine ? ["quarantined"] : [])],
      shrink: 0,
    },
  );
}

const BACKFILL = { none: "quiet", running: "warn", finished: "good", stale: "bad" } as const;

/** In one unit: the table is wide enough as it is. */
function ago(ms: number): string {
  if (ms < 1_000) return "just now";
  const unit = [3_600_000, 60_000, 1_000].find((one) => ms >= one) ?? 1;
  return `${duration(Math.floor(ms / unit) * unit)} ago`;
}

function lastCheck(check: StatusResult["agents"][number]["lastCheck"]): Cell {
  if (check === null) return { text: "never", style: "quiet" };
  const age = ago(check.ageMs);
  if (!check.consistent) return { text: `${thousands(check.drift)} drifted, ${age}`, style: "bad" };
  return check.fresh ? { text: `ok, ${age}`, style: "good" } : { text: `ok but old, ${age}`, style: "warn" };
}
