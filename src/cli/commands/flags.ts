import {
  FLAGS,
  type FlagChange,
  type FlagsChangeResult,
  type FlagsHistoryResult,
  type FlagsListResult,
  type Hive,
  HiveError,
  READS,
} from "../../index.ts";
import {
  agents,
  change,
  changing,
  choice,
  defineCommand,
  flag,
  force,
  forced,
  type Input,
  list as listOf,
  oneOf,
  required,
  type Scope,
  some,
  text,
} from "../command.ts";
import type { Cell, Ui } from "../render.ts";

const SWITCHES = FLAGS.filter((name) => name !== "reads");

const all = flag("--all", "all agents");
const flagNames = listOf("--flag <name>", `the flag (may be given several times): ${SWITCHES.join(", ")}`);
const agent = required("<agent>", "the agent, by name");
const oneAgent = text("[agent]", "only this agent");
const settings = listOf("<settings...>", "FLAG=VALUE, e.g. reads=shadow or dual-write=on");

export const list = defineCommand<FlagsListResult>({
  name: "flags list",
  summary: "show the flags and the stage of each agent",
  parameters: [agents],
  run: async (input, scope) => (await scope.hive()).flags.list(some(input.get(agents))),
  human: (result, ui) =>
    ui.table(
      result.agents.map((one): Cell[] => [
        one.agent,
        { text: one.stage, style: one.stage === "off" ? "quiet" : "strong" },
        one.authority,
        onOff(one.flags["unified-events"]),
        onOff(one.flags["dual-write"]),
        onOff(one.flags["agent-adapters"]),
        one.flags.reads,
      ]),
      { head: ["agent", "stage", "authority", "events", "dual-write", "adapters", "reads"], shrink: 0 },
    ),
});

function onOff(on: boolean): Cell {
  return on ? { text: "on", style: "good" } : { text: "off", style: "quiet" };
}

const switchParameters = [agents, all, flagNames, force, ...changing];

export const enable = defineCommand<FlagsChangeResult>({
  name: "flags enable",
  summary: "switch a flag on for some agents",
  description:
    "Switches flags on, by default unified-events. A step that is not safe yet is refused, with the fact that is " +
    "missing and the command that provides it.",
  parameters: switchParameters,
  examples: ["hive flags enable ai-reviewer", "hive flags enable --all --flag dual-write"],
  abortable: true,
  run: (input, scope) => toggle(input, scope, "on"),
  human: changeText,
});

export const disable = defineCommand<FlagsChangeResult>({
  name: "flags disable",
  summary: "switch a flag off for some agents",
  description: "Switches flags off, by default unified-events. Without dual-write an agent's backfill becomes stale.",
  parameters: switchParameters,
  examples: ["hive flags disable ai-reviewer --flag dual-write"],
  abortable: true,
  run: (input, scope) => toggle(input, scope, "off"),
  human: changeText,
});

async function toggle(input: Input, scope: Scope, value: "on" | "off"): Promise<FlagsChangeResult> {
  const named = input.get(agents);
  const everyone = input.get(all);
  if (everyone === named.length > 0) {
    throw new HiveError("USAGE", everyone ? "Name agents or give --all, not both." : "No agent is named.", {
      hint: "Name the agents, or give --all; `hive flags list` lists them.",
    });
  }
  const given = input.get(flagNames).map((name) => oneOf(name, SWITCHES, "--flag"));
  const flags = given.length === 0 ? (["unified-events"] as const) : given;
  return apply(input, scope, (hive) =>
    (everyone ? hive.context.mapping.agents.map((one) => one.name) : named).flatMap((name) =>
      flags.map((one) => ({ agent: name, flag: one, value })),
    ),
  );
}

export const set = defineCommand<FlagsChangeResult>({
  name: "flags set",
  summary: "set flags of one agent: reads=shadow",
  description:
    "Sets flags of one agent. An agent moves between neighbouring stages only: off, dualwrite, shadow, live, " +
    "rampdown, complete. Going back is always allowed.",
  parameters: [agent, settings, force, ...changing],
  examples: ["hive flags set ai-reviewer dual-write=on", "hive flags set ai-reviewer reads=shadow"],
  abortable: true,
  run: async (input, scope) => {
    const name = input.get(agent);
    const changes = input.get(settings).map((one) => setting(name, one));
    return apply(input, scope, () => changes);
  },
  human: changeText,
});

function setting(name: string, typed: string): FlagChange {
  const [flagName = "", value, ...more] = typed.split("=");
  if (value === undefined || more.length > 0) {
    throw new HiveError("USAGE", `"${typed}" is not FLAG=VALUE.`, { hint: `The flags are: ${FLAGS.join(", ")}.` });
  }
  const known = oneOf(flagName, FLAGS, "The flag");
  return { agent: name, flag: known, value: oneOf(value, known === "reads" ? READS : ["on", "off"], known) };
}

async function apply(
  input: Input,
  scope: Scope,
  changes: (hive: Hive) => readonly FlagChange[],
): Promise<FlagsChangeResult> {
  const override = forced(input);
  const hive = await scope.hive();
  return hive.flags.change(changes(hive), { ...change(input, scope), force: override });
}

async function changeText(result: FlagsChangeResult, ui: Ui): Promise<string> {
  if (result.changed.length === 0) return "Nothing to change.";
  const rows = result.changed.map((one): Cell[] => [
    one.agent,
    one.flag,
    one.from,
    "→",
    { text: one.to, style: "strong" },
  ]);
  return [
    ...(result.dryRun ? ["Would change (nothing was written):"] : []),
    await ui.table(rows, { shrink: 0 }),
    ...result.forced.map((one) => ui.wrap(ui.paint("warn", `forced for ${one.agent}: ${one.missing}`), 2)),
  ].join("\n");
}

const historyFlag = choice("--flag <name>", "only this flag", FLAGS);

export const history = defineCommand<FlagsHistoryResult>({
  name: "flags history",
  summary: "show who changed which flag, when and why",
  parameters: [oneAgent, historyFlag],
  run: async (input, scope) => {
    const only = input.get(historyFlag);
    const { entries } = await (await scope.hive()).flags.history(input.get(oneAgent));
    return { entries: only === undefined ? entries : entries.filter((one) => one.flag === only) };
  },
  human: async (result, ui) =>
    result.entries.length === 0
      ? "No flag was ever changed."
      : ui.table(
          result.entries.map((one): Cell[] => [
            one.at.replace(/\.\d+Z$/, "Z"),
            one.actor,
            one.agent,
            one.flag,
            `${one.from} → ${one.to}`,
            one.reason ?? "",
          ]),
          { head: ["at", "who", "agent", "flag", "change", "why"] },
        ),
});
