import type { MappingTestResult } from "../../index.ts";
import { defineCommand, keys, mappingOption, number, some } from "../command.ts";
import { type Cell, plural, type Ui } from "../render.ts";

const sample = number("--sample <n>", "how many of each kind, when no key is named", { integer: true, min: 1 });

export const test = defineCommand<MappingTestResult>({
  name: "mapping test",
  summary: "show what becomes of some aggregates, without writing",
  description:
    "Maps some aggregates to the unified schema and back, and shows both. Nothing is written. Exits with 3 if one " +
    "does not come back as it was.",
  parameters: [keys, mappingOption, sample],
  examples: ["hive mapping test --key task-17", "hive mapping test --mapping tasks --sample 5"],
  run: async (input, scope) =>
    (await scope.hive()).testMapping({
      keys: some(input.get(keys)),
      mapping: input.get(mappingOption),
      sample: input.get(sample),
    }),
  async human(result, ui) {
    if (result.samples.length === 0) return "No such aggregate.";
    const blocks = await Promise.all(result.samples.map((one) => sampleText(one, ui)));
    const lost = result.samples.filter((one) => one.outcome === "quarantined").length;
    const changed = result.samples.filter(isBroken).length;
    const verdict = `${plural(result.samples.length, "aggregate")}: ${lost} would be quarantined, ${changed} would not come back unchanged.`;
    const missing = result.missingColumns.map(ui.text).join(", ");
    return [
      ...blocks,
      ...(missing === "" ? [] : [ui.wrap(`Columns that the legacy tables lack (read as NULL): ${missing}`, 2)]),
      ui.wrap(changed > 0 ? ui.paint("bad", verdict) : verdict),
    ].join("\n");
  },
  exit: (result) => (result.samples.some(isBroken) ? 3 : 0),
});

type Sample = MappingTestResult["samples"][number];
type Tables = Sample["legacy"];

function isBroken(one: Sample): boolean {
  return one.outcome === "mapped" && !one.roundTrip;
}

async function sampleText(one: Sample, ui: Ui): Promise<string> {
  const title = ui.paint("strong", `${one.mapping} ${one.key} (${one.agent})`);
  if (one.outcome === "quarantined") {
    return `${title}\n${ui.wrap(`  ${ui.paint("bad", "quarantined:")} ${ui.text(one.reason ?? "")}`, 4)}\n`;
  }
  const rows = [...side("legacy", one.legacy), ...side("unified", one.unified ?? {})];
  const changed = one.roundTrip ? [] : side("back", one.back ?? {});
  const verdict = one.roundTrip
    ? ui.paint("good", "  comes back unchanged")
    : ui.paint("bad", "  does not come back unchanged");
  return `${title}\n${await ui.table([...rows, ...changed], { indent: 2 })}\n${verdict}\n`;
}

function side(name: string, tables: Tables): Cell[][] {
  return Object.entries(tables).flatMap(([table, rows]) =>
    rows.flatMap((row) =>
      Object.entries(row)
        .filter(([, value]) => value !== null)
        .map(([column, value]): Cell[] => [{ text: name, style: "quiet" }, `${table}.${column}`, String(value)]),
    ),
  );
}
