import {
  type AgentsHealthResult,
  type AgentsListResult,
  type AgentsShowResult,
  type Hive,
  HiveError,
} from "../../index.ts";
import { agents, defineCommand, dryRun, flag, number, required, type Scope, some, text } from "../command.ts";
import { type Cell, duration, type Style, type Ui } from "../render.ts";

const type = text("--type <name>", "only agents of this type");
const capability = text("--capability <name>", "only agents that can do this, e.g. review");
const name = required("<agent>", "an agent, by name or id");
const watch = flag("--watch", "stay, and ask again and again");
const interval = number("--interval <seconds>", "with --watch: how long between two rounds (default: 5)", { min: 0.1 });
const timeout = number("--timeout <seconds>", "how long an agent may take to answer (default: the config's)", {
  min: 0.001,
});

const INTERVAL_SECONDS = 5;

export const list = defineCommand<AgentsListResult>({
  name: "agents list",
  summary: "show the registered agents and how they are",
  description:
    "Shows the agents of the registry and what is known of their health. It asks nobody: hive agents health does. " +
    "Without a recent check or heartbeat an agent's status is unknown.",
  parameters: [type, capability],
  run: async (input, scope) => {
    const [agentType, able] = [input.get(type), input.get(capability)];
    return (await scope.hive()).agents.list({
      ...(agentType === undefined ? {} : { agentType }),
      ...(able === undefined ? {} : { capability: able }),
    });
  },
  human: async (result, ui) =>
    result.agents.length === 0
      ? "No such agent is registered. → hive migrate up registers the mapping's"
      : agentTable(result.agents, ui),
});

export const show = defineCommand<AgentsShowResult>({
  name: "agents show",
  summary: "show all that is known of one agent",
  parameters: [name],
  run: async (input, scope) => (await scope.hive()).agents.show(input.get(name)),
  async human(result, ui) {
    const rows: Cell[][] = [
      ["agent", { text: result.agent, style: "strong" }],
      ["id", result.agentId],
      ["type", result.agentType],
      ["can", result.capabilities.join(", ")],
      ["emits", result.emits.join(", ")],
      ["status", { text: result.status, style: STYLES[result.status] }],
      ...(result.detail === null ? [] : [["", result.detail]]),
      ["checked", checked(result)],
      ["heartbeat", result.lastHeartbeatAt ?? "never"],
      ["adapter", result.adapter ?? "none: nothing in the config says how to reach it"],
      ["asked by", result.healthCheck ?? "nothing: no health check in the config"],
      ["registered", result.registeredAt],
    ];
    return ui.table(rows);
  },
});

export const health = defineCommand<AgentsHealthResult>({
  name: "agents health",
  summary: "ask the agents how they are",
  description:
    "Asks all agents at once, or those named, and writes down what they say. Exits with 3 if one is not healthy: it said " +
    "so, it did not answer in time, its last heartbeat is too old, or nothing is known of it. --watch stays until Ctrl-C " +
    "and exits by the last round; with --json each round is a line of its own.",
  parameters: [agents, watch, interval, timeout, dryRun],
  examples: [
    "hive agents health",
    "hive agents health ai-reviewer --timeout 2",
    "hive agents health --watch --interval 30",
  ],
  abortable: true,
  run: async (input, scope) => {
    const stays = input.get(watch);
    const seconds = input.get(interval);
    if (!stays && seconds !== undefined) {
      throw new HiveError("USAGE", "--interval goes with --watch.", { hint: "Add --watch." });
    }
    const limit = input.get(timeout);
    const options = {
      ...(some(input.get(agents)) && { agents: input.get(agents) }),
      ...(limit === undefined ? {} : { timeoutMs: Math.max(1, Math.round(limit * 1_000)) }),
      dryRun: input.get(dryRun),
    };
    const hive = await scope.hive();
    if (!stays) return hive.agents.health(options);
    return watched(hive, scope, () => hive.agents.health(options), (seconds ?? INTERVAL_SECONDS) * 1_000);
  },
  async human(result, ui) {
    const verdict = result.healthy
      ? ui.paint("good", "All agents are healthy.")
      : result.agents.length === 0
        ? ui.paint("bad", "No agent is registered.")
        : ui.paint("bad", `${sick(result).length} of ${result.agents.length} agents are not healthy.`);
    if (result.agents.length === 0) return verdict;
    // The table may have cut what is wrong.
    const why = sick(result).map((one) =>
      ui.wrap(`${ui.paint("bad", `${one.agent}:`)} ${ui.text(one.detail ?? one.status)}`, 2),
    );
    return [await agentTable(result.agents, ui), "", ...why, verdict].join("\n");
  },
  exit: (result) => (result.healthy ? 0 : 3),
});

/** Round after round until it is aborted; the last one is the result, which main shows. */
async function watched(
  hive: Hive,
  scope: Scope,
  ask: () => Promise<AgentsHealthResult>,
  intervalMs: number,
): Promise<AgentsHealthResult> {
  const { io, json, ui } = scope;
  const { clock } = hive.context;
  let before: string | undefined;
  let drawn = 0;
  const clear = () => (drawn > 0 ? `\u001b[${drawn}A\u001b[J` : "");
  for (;;) {
    const result = await round(ask, scope);
    if (result && !io.abort.aborted) {
      if (json) io.stdout.write(`${JSON.stringify({ ok: true, command: "agents health", result })}\n`);
      else if (io.tty.stdout) {
        const note = ui.paint("quiet", `${result.at}, every ${duration(intervalMs)}: Ctrl-C ends it`);
        const text = `${await agentTable(result.agents, ui)}\n${note}\n`;
        io.stdout.write(`${clear()}${text}`);
        drawn = text.split("\n").length - 1;
      } else {
        const line = sentence(result, ui);
        if (line !== before) io.stdout.write(`${result.at} ${line}\n`);
        before = line;
      }
      await clock.sleep(intervalMs, io.abort);
    }
    if (!io.abort.aborted) continue;
    io.stdout.write(clear());
    return result ?? ask();
  }
}

/** Undefined where the database was busy: it waits a moment, and says so. */
async function round(ask: () => Promise<AgentsHealthResult>, scope: Scope): Promise<AgentsHealthResult | undefined> {
  try {
    return await ask();
  } catch (error) {
    if (!(error instanceof HiveError) || !error.retryable || scope.io.abort.aborted) throw error;
    scope.io.stderr.write(`${scope.ui.text(`It has to wait: ${error.message} It tries again.`)}\n`);
    const hive = await scope.hive();
    await hive.context.clock.sleep(1_000, scope.io.abort);
    return undefined;
  }
}

type Shown = AgentsListResult["agents"][number];

const STYLES: { readonly [status in Shown["status"]]: Style } = { healthy: "good", unhealthy: "bad", unknown: "warn" };

function sick(result: AgentsHealthResult) {
  return result.agents.filter(({ status }) => status !== "healthy");
}

function sentence(result: AgentsHealthResult, ui: Ui): string {
  const wrong = sick(result).map(
    (one) => `${one.agent} is ${one.status}${one.detail === null ? "" : ` (${one.detail})`}`,
  );
  const healthy = `${result.agents.length - wrong.length} of ${result.agents.length} healthy`;
  return ui.text([healthy, ...wrong].join("; "));
}

function agentTable(shown: readonly Shown[], ui: Ui): Promise<string> {
  return ui.table(
    shown.map((one): Cell[] => [
      one.agent,
      one.capabilities.join(", "),
      { text: one.status, style: STYLES[one.status] },
      one.lastHeartbeatAt?.replace(/\.\d+Z$/, "Z") ?? { text: "never", style: "quiet" },
      one.detail ?? "",
    ]),
    { head: ["agent", "can", "status", "heartbeat", ""] },
  );
}

function checked({ checkedAt, latencyMs }: AgentsShowResult): string {
  if (checkedAt === null) return "never";
  return latencyMs === null ? checkedAt : `${checkedAt}, in ${duration(latencyMs)}`;
}
