import { type CheckEvent, type CheckResult, HiveError } from "../../index.ts";
import { agents, change, changing, defineCommand, flag, type Input, keys, number, some } from "../command.ts";
import { type Cell, duration, plural, thousands, type Ui } from "../render.ts";

const repair = flag("--repair", "mend what still differs when it is looked at again");
const changed = flag("--changed", "only what was written since the last full check without drift");
const watch = flag("--watch", "stay, and keep checking a part at a time, at a bounded cost");
const interval = number("--interval <seconds>", "with --watch: rounds begin at least so far apart (default: 60)");
const rate = number("--rate <n>", "with --watch: at most so many aggregates a second", { min: 1 });
const cpu = number("--cpu <percent>", "with --watch: at most this share of one processor (default: 5)", { min: 0.1 });

export const check = defineCommand<CheckResult>({
  name: "check",
  summary: "compare both schemas, and mend the differences",
  description:
    "Compares both schemas in one snapshot: the agents with dual-write on, or those named. What awaits sync and what " +
    "is quarantined is counted apart. Exits with 3 if there is drift. --repair mends it from the side that has the " +
    "authority, and never overwrites anything newer; two repairs never run at once. --changed costs what was written " +
    "and not what there is; it sees only what was captured, opens no gate, and says so (exit 4) where only a full check " +
    "can tell. --watch ends on Ctrl-C or SIGTERM, notes the verdict of each round, and then exits with 3 if the last " +
    "round or what was compared since has found drift.",
  parameters: [agents, keys, repair, changed, watch, interval, rate, cpu, ...changing],
  examples: [
    "hive check",
    "hive check ai-reviewer --repair",
    "hive check --key task-17",
    "hive check --changed",
    "hive check --watch --interval 600",
  ],
  abortable: true,
  run: async (input, scope) =>
    (await scope.hive()).check({
      ...change(input, scope),
      agents: some(input.get(agents)),
      keys: some(input.get(keys)),
      repair: input.get(repair),
      changed: input.get(changed),
      ...watching(input),
      // A line that rewrites itself would stand in the way of the rounds.
      onProgress: input.get(watch) ? undefined : scope.onProgress,
      onEvent: (event) => scope.io.stderr.write(`${scope.ui.text(sentence(event))}\n`),
    }),
  async human(result, ui) {
    if (result.agents.length === 0) {
      return ui.wrap("Nothing was compared: no agent has dual-write on. → Name agents: hive check AGENT", 2);
    }
    if (!result.consistent && result.compared === 0 && result.note !== null) {
      return ui.wrap(`${ui.paint("bad", "Nothing was compared:")} ${ui.text(result.note)}`, 2);
    }
    const found = result.missing + result.extra + result.different;
    // The counts are of what was found; once all of it is mended, they would say what is no longer so.
    const mended = result.consistent && found > 0 && !result.dryRun;
    const rows: Cell[][] = [
      ["identical", mended ? result.identical + result.missing + result.different : result.identical],
      ["missing", mended ? 0 : result.missing],
      ["extra", mended ? 0 : result.extra],
      ["different", mended ? 0 : result.different],
      ["awaiting sync", result.inFlight],
      ["quarantined", result.quarantined],
    ];
    const shown = rows.filter(([name, count]) => name === "identical" || count !== 0);
    const compared = `${plural(result.compared, "aggregate")} of ${result.agents.map(ui.text).join(", ")} compared`;
    const lines = [ui.wrap(compared, 2)];
    if (result.since !== null) lines.push(ui.wrap(`(what was written since the full check of ${result.since})`, 2));
    if (result.rounds !== null) lines.push(ui.wrap(`(${roundsText(result.rounds)})`, 2));
    if (result.note !== null) lines.push(ui.wrap(`(${ui.text(result.note)})`, 2));
    lines.push(await ui.table(shown, { indent: 2 }));
    if (mended) lines.push(`Drift found: ${foundText(result)}.`);
    else if (found > 0 || result.drift.length > 0) lines.push(await driftText(result, ui));
    if (result.repaired > 0)
      lines.push(`${thousands(result.repaired)} ${result.dryRun ? "would be repaired" : "repaired"}.`);
    for (const one of result.unrepaired) {
      lines.push(ui.wrap(ui.paint("bad", `not repaired: ${one.mapping} ${one.key}: ${one.reason}`), 2));
    }
    if (result.unrecorded !== null) {
      lines.push(ui.wrap(`The verdict was not recorded, so that it opens no gate: ${ui.text(result.unrecorded)}.`, 2));
    }
    if (result.consistent) lines.push(ui.paint("good", "Consistent."));
    else lines.push(`${ui.paint("bad", "Not consistent.")} → hive check --repair mends it, hive status says more`);
    return lines.join("\n");
  },
  exit: (result) => (result.consistent ? 0 : 3),
});

/** What only a check that stays can use is refused without --watch, rather than passed over. */
function watching(input: Input) {
  const stays = input.get(watch);
  const seconds = input.get(interval);
  const percent = input.get(cpu);
  const perSecond = input.get(rate);
  if (!stays && (seconds !== undefined || percent !== undefined || perSecond !== undefined)) {
    throw new HiveError("USAGE", "--interval, --rate and --cpu go with --watch.", { hint: "Add --watch." });
  }
  if (percent !== undefined && percent > 100) {
    throw new HiveError("USAGE", `--cpu takes a share of at most 100, not "${percent}".`);
  }
  return {
    watch: stays,
    ...(seconds === undefined ? {} : { intervalMs: seconds * 1_000 }),
    ...(percent === undefined ? {} : { cpuShare: percent / 100 }),
    ...(perSecond === undefined ? {} : { rate: perSecond }),
  };
}

function sentence(event: CheckEvent): string {
  switch (event.kind) {
    case "drift": {
      const { mapping, key, kind } = event.drift;
      return `Drift: ${mapping} ${key === "" ? '""' : key} is ${kind}.`;
    }
    case "round": {
      const { compared, drift, inFlight, seconds, unrecorded } = event;
      const found = drift === 0 ? "no drift" : `${thousands(drift)} drifted`;
      const noted = unrecorded === null ? "" : `; not recorded: ${unrecorded}`;
      return `Round: ${plural(compared, "aggregate")}, ${found}, ${thousands(inFlight)} awaiting sync, ${duration(seconds * 1_000)}${noted}.`;
    }
    case "started over":
      return `Started over: ${event.why}.`;
  }
}

function roundsText(rounds: number): string {
  if (rounds === 0) return "no round was finished";
  return rounds === 1 ? "one round was finished" : `the last of ${thousands(rounds)} rounds`;
}

/** "30 missing, 1 different" */
function foundText({ missing, extra, different }: CheckResult): string {
  const parts: [number, string][] = [
    [missing, "missing"],
    [different, "different"],
    [extra, "extra"],
  ];
  return parts.flatMap(([count, what]) => (count > 0 ? [`${thousands(count)} ${what}`] : [])).join(", ");
}

const SHOWN = 10;

async function driftText(result: CheckResult, ui: Ui): Promise<string> {
  const rows = result.drift.slice(0, SHOWN).flatMap((one): Cell[][] => {
    const head: Cell[] = [{ text: one.kind, style: "bad" }, one.mapping, one.key === "" ? '""' : one.key, ""];
    const columns = one.columns
      .slice(0, 3)
      .map((column): Cell[] => [
        "",
        "",
        `${column.table}.${column.column}${column.row === undefined ? "" : ` (${column.row})`}`,
        `${show(column.legacy)} | ${show(column.unified)}`,
      ]);
    return [head, ...columns];
  });
  const total = Math.max(result.missing + result.extra + result.different, result.drift.length);
  const more = total - Math.min(total, SHOWN, result.drift.length);
  const table = await ui.table(rows, { head: ["drift", "mapping", "key / column", "legacy | unified"] });
  return more > 0 ? `${table}\nand ${thousands(more)} more (the first 100 with --json)` : table;
}

function show(value: string | number | boolean | null): string {
  if (value === null) return "NULL";
  return typeof value === "string" && value.length > 24 ? `${value.slice(0, 23)}…` : String(value);
}
