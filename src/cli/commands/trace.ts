import type { TraceResult } from "../../index.ts";
import { defineCommand, number, required } from "../command.ts";
import { type Cell, cells, duration, plural, type Style, thousands, type Ui } from "../render.ts";

const correlation = required("<correlation-id>", "the piece of work: the correlation id of its events");
const limit = number("--limit <n>", "at most so many events (default 1,000)", { integer: true, min: 1 });
const depth = number("--depth <n>", "follow work to the work it led to at most so many times (default 16)", {
  integer: true,
});

type Event = TraceResult["events"][number];

export const trace = defineCommand<TraceResult>({
  name: "trace",
  summary: "show what happened to one piece of work, across all agents",
  description:
    "Shows all events of one piece of work as a tree of what led to what, with how long things took, and what is still " +
    "running. It goes on to the work that it led to: the tasks of a plan. Costs what it shows, however many events there " +
    "are. Events without a cause hang below the first event about the same thing.",
  parameters: [correlation, limit, depth],
  examples: ["hive trace plan-17", "hive trace plan-17 --json"],
  run: async (input, scope) =>
    (await scope.hive()).trace(input.get(correlation), { limit: input.get(limit), depth: input.get(depth) }),
  async human(result, ui) {
    const sections = [heading(result, ui)];
    if (result.events.length > 0) sections.push(tree(result, ui));
    const rows = await work(result, ui);
    if (rows !== null) sections.push(rows);
    const notes = result.cutOff.map((why) => ui.wrap(ui.paint("warn", `Not everything: ${why}`), 2));
    if (notes.length > 0) sections.push(notes.join("\n"));
    return sections.join("\n\n");
  },
});

function heading(
  { correlationId, events, agents, firstAt, lastAt, durationMs, running, failed, partOf }: TraceResult,
  ui: Ui,
) {
  const parts = [
    events.length === 0 ? "no events" : `${plural(events.length, "event")} of ${plural(agents.length, "agent")}`,
  ];
  if (firstAt !== null && lastAt !== null) {
    parts.push(
      `${second(firstAt)} to ${second(firstAt).slice(0, 10) === second(lastAt).slice(0, 10) ? second(lastAt).slice(11) : second(lastAt)} UTC`,
    );
    parts.push(duration(durationMs ?? 0));
  }
  const lines = [ui.wrap(`${ui.paint("strong", correlationId)}: ${parts.join(", ")}`, 2)];
  const states = [
    ...(failed > 0 ? [ui.paint("bad", `${thousands(failed)} failed`)] : []),
    ...(running > 0 ? [ui.paint("warn", `${thousands(running)} still running or waiting`)] : []),
  ];
  if (events.length > 0)
    lines.push(`  ${states.length > 0 ? states.join(", ") : ui.paint("good", "nothing failed, nothing is running")}`);
  for (const one of partOf) {
    const why = one.by === "cause" ? `began with a ${one.name} of it` : `so says its row in ${one.name}`;
    lines.push(
      ui.wrap(
        `  part of ${ui.text(one.correlationId)} (${ui.text(why)}) → hive trace ${ui.text(one.correlationId)}`,
        4,
      ),
    );
  }
  return lines.join("\n");
}

const second = (time: string) => time.slice(0, 19).replace("T", " ");

interface Line {
  readonly left: string;
  readonly mark: string;
  readonly style: Style;
  /** On lines of their own. */
  readonly below: readonly { readonly indent: number; readonly text: string }[];
}

/** Deeper ones are not indented any further: a number says how deep they are. */
const DEEPEST = 8;

function tree(result: TraceResult, ui: Ui): string {
  const days = new Set(result.events.map(({ occurredAt }) => occurredAt?.slice(0, 10)));
  const groups = grouped(result.events);
  const last = lastOfParent(groups);
  const trunk: boolean[] = [];
  const subjects = new Map<number, string | null>();
  const works = new Map<number, string>();
  const lines: Line[] = [];
  for (const group of groups) {
    const { event, count } = group;
    const isLast = last.has(event.seq);
    trunk[event.depth] = !isLast;
    trunk.length = event.depth + 1;
    subjects.set(event.seq, event.subject);
    works.set(event.seq, event.correlationId);
    const rails = trunk.slice(1, event.depth).map((goesOn) => (goesOn ? "│ " : "  "));
    const hidden = Math.max(0, rails.length - DEEPEST);
    const branch = event.depth === 0 ? "" : isLast ? "└ " : "├ ";
    const before = `${hidden > 0 ? `(${event.depth}) ` : ""}${rails.slice(hidden).join("")}${branch}`;
    const above = event.parent === null ? null : (subjects.get(event.parent) ?? null);
    const workAbove = event.parent === null ? result.correlationId : works.get(event.parent);
    const told = [event.type];
    if (count > 1) told.push(`×${thousands(count)}`);
    if (event.subject !== null && event.subject !== above) told.push(short(event.subject));
    if (event.correlationId !== workAbove && event.correlationId !== event.subject)
      told.push(`[${short(event.correlationId)}]`);
    told.push(` ${short(event.sourceAgent)}`);
    const time =
      event.occurredAt === null ? "(no time)" : event.occurredAt.slice(days.size > 1 ? 5 : 11, 19).replace("T", " ");
    const left = `${time.padEnd(days.size > 1 ? 14 : 8)}  ${before}${told.join(" ")}`;
    const indent = (days.size > 1 ? 14 : 8) + 2 + cells(before) + 2;
    const letters = event.deadLetters.map(({ subscriber, reason }) =>
      subscriber === "" ? `no valid event: ${reason}` : `not delivered to ${subscriber}: ${reason}`,
    );
    const [mark, style] = markOf(event);
    const said = event.says !== null && event.alarm ? [`${event.says.member}: ${event.says.text}`] : [];
    lines.push({ left, mark, style, below: [...said, ...letters].map((text) => ({ indent, text })) });
  }
  const widest = Math.max(0, ...lines.map(({ mark }) => cells(mark)));
  const room = Math.max(20, ui.columns - (widest === 0 ? 0 : widest + 2));
  const used = Math.min(room, Math.max(...lines.map(({ left }) => cells(ui.text(left)))));
  return lines
    .flatMap(({ left, mark, style, below }) => {
      const safe = fitted(ui.text(left), used);
      const gap = " ".repeat(Math.max(0, used - cells(safe)) + 2);
      const line = mark === "" ? safe : `${safe}${gap}${ui.paint(style, mark)}`;
      return [
        line,
        ...below.map(({ indent, text }) =>
          ui.paint("bad", fitted(`${" ".repeat(indent)}! ${ui.text(text)}`, ui.columns)),
        ),
      ];
    })
    .join("\n");
}

interface Group {
  readonly event: Event;
  readonly count: number;
}

/** One line for what is told over and over: progress, heartbeats. */
function grouped(events: readonly Event[]): Group[] {
  const parents = new Set(events.map(({ parent }) => parent));
  const plainLeaf = (event: Event) =>
    !event.alarm && event.spans.length === 0 && event.deadLetters.length === 0 && !parents.has(event.seq);
  const groups: { event: Event; count: number }[] = [];
  for (const event of events) {
    const before = groups.at(-1);
    const same =
      before &&
      plainLeaf(before.event) &&
      plainLeaf(event) &&
      (["parent", "type", "subject", "sourceAgent", "correlationId"] as const).every(
        (name) => before.event[name] === event[name],
      );
    if (same) before.count += 1;
    else groups.push({ event, count: 1 });
  }
  return groups;
}

function lastOfParent(groups: readonly Group[]): ReadonlySet<number> {
  const last = new Map<number | null, number>();
  for (const { event } of groups) last.set(event.parent, event.seq);
  return new Set(last.values());
}

/** The state that matters most, of all that the event opened. */
function markOf({ spans }: Event): [string, Style] {
  const [most] = [...spans].sort((a, b) => WEIGHT[b.state] - WEIGHT[a.state]);
  if (!most) return ["", "quiet"];
  const { state, waits, durationMs } = most;
  const took = durationMs === null ? "" : ` ${duration(durationMs)}`;
  const after = took === "" ? "" : ` after${took}`;
  switch (state) {
    case "running":
      return [`${waits ? "WAITING" : "RUNNING"}${took}`, "warn"];
    case "failed":
      return [`failed${after}`, "bad"];
    case "again":
      return [`again${after}`, "warn"];
    case "unknown":
      return ["end not looked for", "quiet"];
    case "ended":
      return ["over, end not told", "quiet"];
    case "cancelled":
      return [`cancelled${after}`, "quiet"];
    case "done":
      return [waits ? `waited${took}` : took.trim(), "quiet"];
  }
}

const WEIGHT = { running: 6, failed: 5, again: 4, unknown: 3, ended: 2, cancelled: 1, done: 0 } as const;

const short = (text: string) => (text.length > 40 ? `${text.slice(0, 39)}…` : text);

function fitted(text: string, width: number): string {
  if (cells(text) <= width) return text;
  let cut = "";
  let used = 1;
  for (const character of text) {
    used += cells(character);
    if (used > width) break;
    cut += character;
  }
  return `${cut}…`;
}

const ROWS_SHOWN = 20;

async function work({ work: rows, at }: TraceResult, ui: Ui): Promise<string | null> {
  if (rows.length === 0) return null;
  const open = rows.filter(({ final }) => !final);
  const counts = new Map<string, number>();
  for (const { status, final } of rows) if (final) counts.set(status, (counts.get(status) ?? 0) + 1);
  const finished = [...counts].map(([status, count]) => `${thousands(count)} ${ui.text(status)}`).join(", ");
  if (open.length === 0) return ui.wrap(`The unified tables say: ${finished}.`, 2);
  const oldest = [...open].sort((a, b) => (b.ageMs ?? 0) - (a.ageMs ?? 0));
  const table = await ui.table(
    oldest
      .slice(0, ROWS_SHOWN)
      .map((row): Cell[] => [
        row.key,
        row.kind ?? "",
        { text: row.status, style: "warn" },
        row.agent ?? "",
        row.ageMs === null ? "" : `for ${duration(row.ageMs)}`,
      ]),
    { indent: 2, shrink: 0 },
  );
  const more = open.length > ROWS_SHOWN ? [`  and ${thousands(open.length - ROWS_SHOWN)} more`] : [];
  const head = ui.wrap(`Not finished, as the unified tables say at ${at.slice(11, 19)} UTC:`, 2);
  return [head, table, ...more, ...(finished === "" ? [] : [ui.wrap(`  besides: ${finished}`, 4)])].join("\n");
}
