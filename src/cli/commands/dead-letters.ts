import {
  type DeadLetterEntry,
  type DeadLetterFilter,
  type EventsDeadLettersDropResult,
  type EventsDeadLettersListResult,
  type EventsDeadLettersRedriveResult,
  type EventsDeadLettersShowResult,
  HiveError,
} from "../../index.ts";
import {
  change,
  changing,
  defineCommand,
  dryRun,
  flag,
  type Input,
  list as listOf,
  number,
  some,
  text,
} from "../command.ts";
import { plural, thousands, type Ui } from "../render.ts";

const subscriber = text("--subscriber <name>", "only those of this subscriber");
const invalid = flag("--invalid", "only what is no valid event, for any subscriber");
const seq = listOf("--seq <number>", "only this event (may be given several times)");
const type = listOf("--type <pattern>", "only this type, or a pattern (may be given several times)");
const withDropped = flag("--all", "also those that were dropped");
const everything = flag("--all", "everything that could not be dealt with");
const limit = number("--limit <n>", "at most so many (default 100)", { integer: true, min: 1 });
const which = [subscriber, invalid, seq, type];

function filter(input: Input): DeadLetterFilter {
  return { ...whose(input), types: some(input.get(type)) };
}

function whose(input: Input): Pick<DeadLetterFilter, "subscriber" | "seqs"> {
  const name = input.get(subscriber);
  if (name !== undefined && input.get(invalid)) {
    throw new HiveError("USAGE", "--invalid is about no subscriber: leave --subscriber out, or it.");
  }
  const seqs = some(input.get(seq))?.map(whole);
  return { subscriber: input.get(invalid) ? "" : name, seqs };
}

function whole(typed: string): number {
  if (/^\d+$/.test(typed) && Number.isSafeInteger(Number(typed))) return Number(typed);
  throw new HiveError("USAGE", `--seq takes the number of an event, not "${typed}".`, {
    details: { option: "--seq", value: typed },
  });
}

export const list = defineCommand<EventsDeadLettersListResult>({
  name: "events dead-letters list",
  summary: "show events that could not be dealt with, and why",
  description:
    "Shows events that a subscriber gave up after its last attempt, and what is no valid event at all and was " +
    "delivered to nobody; the oldest come first.",
  parameters: [...which, withDropped, limit],
  run: async (input, scope) =>
    (await scope.hive()).events.deadLetters.list({
      ...filter(input),
      all: input.get(withDropped),
      limit: input.get(limit),
    }),
  human(result, ui) {
    if (result.entries.length === 0) return "There is no dead letter.";
    const lines = [entriesText(result.entries, ui), ""];
    if (result.total > result.entries.length) lines.push(`${thousands(result.total)} in all.`);
    lines.push(ui.wrap("→ hive events dead-letters show --seq N shows one whole; once mended: redrive, or drop", 2));
    return lines.join("\n");
  },
});

/** The reason is what matters here, so it is never cut. */
function entriesText(entries: readonly DeadLetterEntry[], ui: Ui): string {
  return entries
    .map((one) => {
      const owner = one.subscriber === "" ? "no valid event" : `${one.subscriber}, ${plural(one.attempts, "attempt")}`;
      const where = [owner, ...(one.state === "dropped" ? ["dropped"] : []), one.at.replace(/\.\d+Z$/, "Z")];
      const about = one.subject === null ? "" : ` ${ui.text(one.subject)}`;
      const name = ui.paint("strong", `${one.seq} ${ui.text(one.type ?? "(no type)")}${about}`);
      return `${name}  ${ui.paint("quiet", where.join(", "))}\n${ui.wrap(`  ${ui.text(one.reason)}`, 2)}`;
    })
    .join("\n");
}

export const show = defineCommand<EventsDeadLettersShowResult>({
  name: "events dead-letters show",
  summary: "show one of them whole",
  description:
    "Shows one dead letter with its event, as it was when it was given up. Where several subscribers gave up the same " +
    "event, --subscriber says whose.",
  parameters: [subscriber, invalid, seq],
  examples: ["hive events dead-letters show --subscriber billing --seq 1200"],
  async run(input, scope) {
    const { subscriber: named, seqs = [] } = whose(input);
    const [one] = seqs;
    if (seqs.length !== 1 || one === undefined) {
      throw new HiveError("USAGE", "Name the one to show.", {
        hint: "Give --seq N; `hive events dead-letters list` shows them.",
      });
    }
    const { deadLetters } = (await scope.hive()).events;
    if (named !== undefined) return deadLetters.show(named, one);
    const { entries } = await deadLetters.list({ seqs: [one], all: true });
    if (entries.length > 1) {
      throw new HiveError("USAGE", `Several subscribers gave up event ${one}.`, {
        hint: `Say whose: --subscriber ${entries.map((entry) => entry.subscriber || "(--invalid)").join(" or ")}.`,
      });
    }
    return deadLetters.show(entries[0]?.subscriber ?? "", one);
  },
  human: (result, ui) => `${entriesText([result], ui)}\n${ui.text(JSON.stringify(result.event, null, 2))}`,
});

export const redrive = defineCommand<EventsDeadLettersRedriveResult>({
  name: "events dead-letters redrive",
  summary: "deliver them again",
  description:
    "Delivers dead letters again to the subscriber that gave them up, before what still waits of the same subject; what " +
    "is no valid event is judged once more, and delivered if it has become one. Takes --subscriber, --invalid, --seq, " +
    "--type or --all.",
  parameters: [...which, everything, ...changing],
  examples: ["hive events dead-letters redrive --subscriber billing"],
  abortable: true,
  async run(input, scope) {
    named(input);
    return (await scope.hive()).events.deadLetters.redrive({ ...filter(input), ...change(input, scope) });
  },
  human(result, ui) {
    const lines = [
      `${plural(result.redriven, "dead letter")} ${result.dryRun ? "would be delivered again; nothing was written" : "delivered again"}.`,
    ];
    if (result.left.length > 0) lines.push("Still no valid events:", entriesText(result.left, ui));
    return lines.join("\n");
  },
});

export const drop = defineCommand<EventsDeadLettersDropResult>({
  name: "events dead-letters drop",
  summary: "give up on them",
  description:
    "Gives up on dead letters: they no longer count as a problem, and go when they are older than events.retentionDays. " +
    "Takes --subscriber, --invalid, --seq, --type or --all; asks before it does so.",
  parameters: [...which, everything, ...changing],
  examples: ['hive events dead-letters drop --invalid --reason "a test of the old agent"'],
  abortable: true,
  async confirm(input, scope) {
    named(input);
    if (input.get(dryRun)) return null;
    const { entries, total } = await (await scope.hive()).events.deadLetters.list(filter(input));
    if (total === 0) return null;
    return {
      plan: entriesText(entries, scope.ui),
      question: `Drop ${plural(total, "dead letter")}?`,
      details: { count: total },
    };
  },
  async run(input, scope) {
    named(input);
    return (await scope.hive()).events.deadLetters.drop({ ...filter(input), ...change(input, scope) });
  },
  human: (result) =>
    `${plural(result.dropped, "dead letter")} ${result.dryRun ? "would be dropped; nothing was written" : "dropped"}.`,
});

/** Nothing named must not mean everything here. */
function named(input: Input): void {
  const { subscriber: name, seqs, types } = filter(input);
  const narrowed = name !== undefined || seqs !== undefined || types !== undefined;
  if (narrowed !== input.get(everything)) return;
  throw new HiveError("USAGE", narrowed ? "Name some or give --all, not both." : "No dead letters were named.", {
    hint: "Give --subscriber, --invalid, --seq or --type, or --all for everything; `hive events dead-letters list` shows them.",
  });
}
