import type {
  EventsPruneResult,
  EventsReplayResult,
  EventsSubscribersResult,
  EventsUnsubscribeResult,
} from "../../index.ts";
import { change, changing, defineCommand, dryRun, required, text } from "../command.ts";
import { type Cell, plural, thousands } from "../render.ts";

export const list = defineCommand<EventsSubscribersResult>({
  name: "events subscribers",
  summary: "show who reads events, and how far each is",
  description:
    "Shows the durable subscribers: whether a process delivers to each, how many events came after its checkpoint, what " +
    "failed and is tried again (with what waits behind it), and its dead letters.",
  run: async (_, scope) => (await scope.hive()).events.subscribers(),
  async human(result, ui) {
    if (result.subscribers.length === 0) return "There is no subscriber.";
    const rows = result.subscribers.map((one): Cell[] => [
      one.name,
      one.state === "expired" ? ui.paint("bad", "expired") : one.running ? ui.paint("good", "running") : "not running",
      one.patterns.join(" "),
      one.checkpoint,
      one.behind,
      one.retrying + one.waiting,
      one.deadLetters,
      one.seenAt.replace(/\.\d+Z$/, "Z"),
    ]);
    const head = ["name", "state", "reads", "at", "behind", "retried", "dead", "seen"];
    const lines = [await ui.table(rows, { head })];
    if (result.subscribers.some(({ deadLetters }) => deadLetters > 0)) lines.push("→ hive events dead-letters list");
    const expired = result.subscribers.find(({ state }) => state === "expired");
    if (expired) {
      const { name } = expired;
      lines.push(ui.wrap(`→ hive events replay ${name} --from start, or hive events unsubscribe ${name}`, 2));
    }
    return lines.join("\n");
  },
});

const name = required("<subscriber>", "a subscriber, by name");
const from = text("--from <event>", "the first event: its number, a time (2026-11-23T03:00:00Z), or start");

export const replay = defineCommand<EventsReplayResult>({
  name: "events replay",
  summary: "have a subscriber begin again at an earlier event",
  description:
    "Has a subscriber begin again at an event that it has passed: it gets that one and all later ones once more, in " +
    "their order, also what became a dead letter since. One that runs follows at once. Asks before it does so, since " +
    "handlers see events twice.",
  parameters: [name, from, ...changing],
  examples: ["hive events replay billing --from 1200", 'hive events replay billing --from start --reason "new index"'],
  abortable: true,
  async confirm(input, scope) {
    if (input.get(dryRun)) return null;
    const { events } = await scope.hive();
    const plan = await events.replay(input.get(name), { from: place(input.get(from)), dryRun: true });
    return {
      question: `Deliver ${plural(plan.events, "event")} to "${plan.subscriber}" again, from number ${thousands(plan.from)} on?`,
      details: { ...plan },
    };
  },
  run: async (input, scope) =>
    (await scope.hive()).events.replay(input.get(name), { ...change(input, scope), from: place(input.get(from)) }),
  human: (result) =>
    `${result.subscriber} ${result.dryRun ? "would begin" : "begins"} again at ${thousands(result.from)}: ${plural(result.events, "event")}` +
    `${result.dryRun ? "; nothing was written" : ""}.`,
});

/** What names no place is refused by the operation, which says what would. */
function place(typed: string | undefined): string {
  return typed ?? "";
}

export const unsubscribe = defineCommand<EventsUnsubscribeResult>({
  name: "events unsubscribe",
  summary: "take a subscriber away for good",
  description:
    "Takes a subscriber away, with what waits for it and its dead letters: it keeps no events from being deleted any " +
    "more. A process that delivers to it ends with an error. Asks before it does so.",
  parameters: [name, ...changing],
  abortable: true,
  async confirm(input, scope) {
    if (input.get(dryRun)) return null;
    const plan = await (await scope.hive()).events.unsubscribe(input.get(name), { dryRun: true });
    const lost = `${plural(plan.unread, "event")} that it has not read, ${plural(plan.deadLetters, "dead letter")}`;
    return { question: `Take "${plan.subscriber}" away (${lost})?`, details: { ...plan } };
  },
  run: async (input, scope) => (await scope.hive()).events.unsubscribe(input.get(name), change(input, scope)),
  human: (result) =>
    `${result.subscriber} ${result.dryRun ? "would be taken away; nothing was written" : "is taken away"}: ` +
    `${plural(result.unread, "event")} unread, ${plural(result.deadLetters, "dead letter")}.`,
});

export const prune = defineCommand<EventsPruneResult>({
  name: "events prune",
  summary: "delete old events that everybody has read",
  description:
    "Deletes events that are older than events.retentionDays of the config, never what a live subscriber has not read. " +
    "A subscriber that nobody has run for events.subscriberTimeoutHours expires first: it is told by status and the " +
    "audit log, and keeps nothing any more. hive sync --watch does the same now and then.",
  parameters: changing,
  abortable: true,
  run: async (input, scope) => (await scope.hive()).events.prune(change(input, scope)),
  human(result, ui) {
    const lines = [
      `${plural(result.deleted, "event")} ${result.dryRun ? "would be deleted; nothing was written" : "deleted"}.`,
    ];
    if (result.letters > 0) lines.push(`${plural(result.letters, "dropped dead letter")} too.`);
    for (const one of result.expired) {
      const what = `${one.name} ${result.dryRun ? "would expire" : "has expired"}: nobody has run it since ${one.seenAt}; ${plural(one.unread, "event")} unread`;
      lines.push(ui.wrap(ui.paint("warn", what), 2));
    }
    if (result.heldBy) {
      lines.push(
        ui.wrap(
          `Older events are kept for ${result.heldBy.name}, which is at ${thousands(result.heldBy.checkpoint)}.`,
          2,
        ),
      );
    }
    return lines.join("\n");
  },
});
