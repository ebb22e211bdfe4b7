import {
  HiveError,
  type QuarantineDiscardResult,
  type QuarantineEntry,
  type QuarantineFilter,
  type QuarantineListResult,
  type QuarantineRetryResult,
} from "../../index.ts";
import {
  agentOption,
  change,
  changing,
  defineCommand,
  dryRun,
  flag,
  type Input,
  keys,
  mappingOption,
  some,
} from "../command.ts";
import { plural, thousands, type Ui } from "../render.ts";

const withDiscarded = flag("--all", "also those that were discarded");
const everything = flag("--all", "everything that is quarantined");
const which = [keys, agentOption, mappingOption];

function filter(input: Input): QuarantineFilter {
  return { agents: some(input.get(agentOption)), keys: some(input.get(keys)), mapping: input.get(mappingOption) };
}

export const list = defineCommand<QuarantineListResult>({
  name: "quarantine list",
  summary: "show what could not be mapped, and why",
  parameters: [...which, withDiscarded],
  run: async (input, scope) =>
    (await scope.hive()).quarantine.list({ ...filter(input), all: input.get(withDiscarded) }),
  human(result, ui) {
    if (result.entries.length === 0) return "Nothing is quarantined.";
    const lines = [entriesText(result.entries, ui), ""];
    lines.push(ui.wrap("→ hive mapping test --key KEY shows one closely; once mended: hive quarantine retry", 2));
    return lines.join("\n");
  },
});

/** The reason is what matters here, so it is never cut. */
function entriesText(entries: readonly QuarantineEntry[], ui: Ui): string {
  return entries
    .map((one) => {
      const way = one.state === "discarded" ? "discarded" : `on the way ${one.direction}`;
      const key = one.key.length > KEY_SHOWN ? `${one.key.slice(0, KEY_SHOWN - 1)}…` : one.key;
      return `${ui.paint("strong", `${one.mapping} ${key}`)}  ${ui.paint("quiet", `${one.agent}, ${way}`)}\n${ui.wrap(`  ${ui.text(one.reason)}`, 2)}`;
    })
    .join("\n");
}

const KEY_SHOWN = 48;

export const retry = defineCommand<QuarantineRetryResult>({
  name: "quarantine retry",
  summary: "try again what could not be mapped",
  description:
    "Tries again what could not be mapped: everything, or what is named; with --all also what was discarded. What " +
    "succeeds leaves the quarantine.",
  parameters: [...which, withDiscarded, ...changing],
  abortable: true,
  run: async (input, scope) =>
    (await scope.hive()).quarantine.retry({
      ...filter(input),
      ...change(input, scope),
      all: input.get(withDiscarded),
    }),
  human(result, ui) {
    if (result.dryRun) {
      const would = `${plural(result.retried, "aggregate")} would be tried again; nothing was written.`;
      return result.entries.length === 0 ? would : [would, entriesText(result.entries, ui)].join("\n");
    }
    const lines = [`${thousands(result.retried)} tried again, ${thousands(result.released)} released.`];
    if (result.entries.length > 0) lines.push("Still quarantined:", entriesText(result.entries, ui));
    return lines.join("\n");
  },
});

export const discard = defineCommand<QuarantineDiscardResult>({
  name: "quarantine discard",
  summary: "give up on what could not be mapped",
  description:
    "Gives up on what could not be mapped: it stays where it is and no longer counts as a problem. Takes --key, " +
    "--agent, --mapping or --all; asks before it does so.",
  parameters: [...which, everything, ...changing],
  examples: ['hive quarantine discard --key task-17 --reason "test row"'],
  abortable: true,
  async confirm(input, scope) {
    named(input);
    if (input.get(dryRun)) return null;
    const { entries } = await (await scope.hive()).quarantine.list(filter(input));
    if (entries.length === 0) return null;
    return {
      plan: entriesText(entries, scope.ui),
      question: `Discard ${plural(entries.length, "quarantined aggregate")}?`,
      details: { count: entries.length },
    };
  },
  run: async (input, scope) => {
    named(input);
    return (await scope.hive()).quarantine.discard({ ...filter(input), ...change(input, scope) });
  },
  human: (result) =>
    `${plural(result.discarded, "aggregate")} ${result.dryRun ? "would be discarded; nothing was written" : "discarded"}.`,
});

/** Nothing named must not mean everything here. */
function named(input: Input): void {
  const { agents, keys: wanted, mapping } = filter(input);
  const narrowed = agents !== undefined || wanted !== undefined || mapping !== undefined;
  if (narrowed !== input.get(everything)) return;
  throw new HiveError("USAGE", narrowed ? "Name some or give --all, not both." : "Nothing to discard was named.", {
    hint: "Give --key, --agent or --mapping, or --all for everything; `hive quarantine list` shows them.",
  });
}
