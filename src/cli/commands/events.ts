import {
  type EventsEmitResult,
  type EventsListResult,
  type EventsTailResult,
  type EventsTypesResult,
  HiveError,
} from "../../index.ts";
import { defineCommand, dryRun, type Input, list as listOf, number, required, some, text } from "../command.ts";
import { type Cell, cells, thousands } from "../render.ts";

const type = listOf(
  "--type <pattern>",
  "only this type, or a pattern: task.*, *.completed (may be given several times)",
);
const agent = text("--agent <name>", "only events of this agent");
const correlation = text("--correlation <id>", "only what belongs to this piece of work");
const after = number("--after <seq>", "those that come after this one", { integer: true });

const filter = (input: Input) => ({
  types: some(input.get(type)),
  agent: input.get(agent),
  correlationId: input.get(correlation),
  after: input.get(after),
});

type ListedEvent = EventsListResult["events"][number];

const limit = number("--limit <n>", "at most so many (default 100)", { integer: true, min: 1 });

export const list = defineCommand<EventsListResult>({
  name: "events list",
  summary: "show events in their order",
  description:
    "Shows events in their order: the newest, or with --after those that come next. With --json whole, with their " +
    "payloads. Rows that are no valid events are left out and told of; hive events dead-letters keeps them.",
  parameters: [type, agent, correlation, after, limit],
  examples: ["hive events list --type 'review.*'", "hive events list --correlation task-17 --json"],
  run: async (input, scope) => (await scope.hive()).events.list({ ...filter(input), limit: input.get(limit) }),
  async human(result, ui) {
    const lines: string[] = [];
    if (result.events.length === 0) lines.push("There is no such event.");
    else {
      const rows = result.events.map((one): Cell[] => [
        one.seq,
        one.recordedAt.replace(/\.\d+Z$/, "Z"),
        one.type,
        one.sourceAgent,
        one.subject ?? "",
        brief(one),
      ]);
      lines.push(await ui.table(rows, { head: ["#", "recorded", "type", "agent", "about", "payload"] }));
    }
    for (const { seq, reason } of result.invalid.slice(-3)) {
      lines.push(ui.wrap(ui.paint("warn", `${thousands(seq)} is no valid event: ${ui.text(reason)}`), 2));
    }
    const more = result.invalid.length - 3;
    if (more > 0) lines.push(`and ${thousands(more)} more that are not valid`);
    return lines.join("\n");
  },
});

const most = number("--limit <n>", "end after so many", { integer: true, min: 1 });

export const tail = defineCommand<EventsTailResult>({
  name: "events tail",
  summary: "show events as they come",
  description:
    "Shows events as they come, until Ctrl-C or SIGTERM: from now on, or with --after from that one on. With --json it " +
    "writes one JSON object per line, the event itself, and none for the command, unless it fails.",
  parameters: [type, agent, correlation, after, most],
  examples: ["hive events tail", "hive events tail --type '*.failed' --json"],
  abortable: true,
  streams: true,
  async run(input, scope) {
    const { io, ui, json } = scope;
    const abort = io.gone ? AbortSignal.any([io.abort, io.gone]) : io.abort;
    let events = 0;
    for await (const event of (await scope.hive()).events.tail({ ...filter(input), limit: input.get(most), abort })) {
      events += 1;
      io.stdout.write(json ? `${JSON.stringify(event)}\n` : `${line(event, ui.columns, ui.text)}\n`);
    }
    return { events };
  },
  human: () => "",
});

/** In columns that hold from line to line: nobody knows what comes. */
function line(event: ListedEvent, columns: number, safe: (text: string) => string): string {
  const time = event.recordedAt.slice(11, 19);
  const parts = [
    String(event.seq).padStart(6),
    time,
    event.type.padEnd(20),
    event.sourceAgent.padEnd(11),
    event.subject ?? "-",
    brief(event),
  ];
  const whole = safe(parts.join("  "));
  if (cells(whole) <= columns) return whole;
  let cut = "";
  let width = 1;
  for (const character of whole) {
    width += cells(character);
    if (width > columns) break;
    cut += character;
  }
  return `${cut}…`;
}

function brief({ payload }: ListedEvent): string {
  const written = JSON.stringify(payload);
  return written.length > 200 ? `${written.slice(0, 200)}…` : written;
}

const emittedType = required("<type>", "the event's type, e.g. task.completed");
const source = text("--agent <name>", "the agent that tells it");
const subject = text("--subject <id>", "what it is about: events of one subject are delivered in order");
const work = text("--correlation <id>", "the piece of work that it belongs to (default: only itself)");
const cause = text("--causation <id>", "the id of the event that led to it");
const payload = text("--payload <json>", "what it says: a JSON object (default: {})");

export const emit = defineCommand<EventsEmitResult>({
  name: "events emit",
  summary: "write an event",
  description:
    "Writes an event as if the agent had told it. Where the agent's flag unified-events is off, nothing is written and " +
    "it exits with 3.",
  parameters: [emittedType, source, subject, work, cause, payload, dryRun],
  examples: [`hive events emit task.failed --agent hive-coder --payload '{"error":"no"}'`],
  async run(input, scope) {
    const sourceAgent = input.get(source);
    if (sourceAgent === undefined) {
      throw new HiveError("USAGE", "It has to be told whose event it is.", { hint: "Add --agent NAME." });
    }
    const event = {
      type: input.get(emittedType),
      sourceAgent,
      subject: input.get(subject),
      correlationId: input.get(work),
      causationId: input.get(cause),
      payload: parsed(input.get(payload) ?? "{}"),
    };
    const [emitted] = await (await scope.hive()).events.emit(event, { dryRun: input.get(dryRun) });
    if (!emitted) return { emitted: false, event: null, dryRun: input.get(dryRun) };
    return {
      emitted: true,
      event: { ...emitted, payload: parsed(emitted.payload), metadata: null },
      dryRun: input.get(dryRun),
    };
  },
  human(result, ui) {
    const { event } = result;
    if (event === null) {
      return ui.wrap(
        `${ui.paint("warn", "Not written:")} the agent's flag unified-events is off. → hive flags enable AGENT switches it on`,
        2,
      );
    }
    if (result.dryRun) return `${ui.text(event.type)} would be written. Nothing was.`;
    return ui.wrap(`${ui.text(event.type)} was written, with the id ${ui.text(event.id)}.`, 2);
  },
  exit: (result) => (result.emitted ? 0 : 3),
});

function parsed(given: string): ListedEvent["payload"] {
  try {
    return JSON.parse(given);
  } catch (cause) {
    throw new HiveError("USAGE", `--payload is no JSON: ${given.length > 60 ? `${given.slice(0, 60)}…` : given}`, {
      hint: `Give an object, quoted for the shell: --payload '{"status":"done"}'.`,
      cause,
    });
  }
}

export const types = defineCommand<EventsTypesResult>({
  name: "events types",
  summary: "show the types of events, and who emits them",
  description:
    "Shows the types of events, which agents are registered as emitting them, and other names that are read as one of " +
    "them. Extensions are accepted besides the standard types, and counted apart.",
  run: async (_, scope) => (await scope.hive()).events.types(),
  async human(result, ui) {
    const rows = result.types.map((one): Cell[] => [
      one.type,
      one.extension ? { text: "extension", style: "quiet" } : "standard",
      one.agents.join(", "),
    ]);
    const lines = rows.length === 0 ? ["The mapping has no types of events."] : [await ui.table(rows)];
    lines.push(`${thousands(result.standard)} standard, ${thousands(result.extensions)} extensions`);
    if (result.names.length > 0) {
      lines.push(
        "",
        "also read:",
        await ui.table(
          result.names.map((one): Cell[] => [one.name, `→ ${one.type}`]),
          { indent: 2 },
        ),
      );
    }
    return lines.join("\n");
  },
});
