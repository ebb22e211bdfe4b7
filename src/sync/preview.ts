import type { Context } from "../context.ts";
import { HiveError } from "../errors.ts";
import type { MappingTestOptions } from "../hive.ts";
import type { MappingTestResult } from "../results.ts";
import type { Session, Tuple, Value } from "../storage/port.ts";
import {
  introspect,
  type Layout,
  type Loaded,
  loadKeys,
  loadPage,
  loadWithoutKey,
  missingColumns,
  type SideLayout,
  type TableLayout,
  toAggregate,
} from "./aggregates.ts";
import {
  type Aggregate,
  type AggregateMapping,
  type ColumnKind,
  type DataRow,
  resolveAggregate,
  sameValue,
} from "./mapping.ts";
import { takenKeys, takenReason } from "./page.ts";
import { mappingReason, projectUp, type Rows, shaped } from "./projection.ts";
import { jsonValue } from "./settle.ts";

type Sample = MappingTestResult["samples"][number];

const DEFAULT_SAMPLE = 3;
const MAX_SAMPLE = 1_000;

/**
 * What would become of some aggregates, both ways, without writing anything: those of the named keys, else a sample
 * of each mapping. Needs only the legacy tables.
 *
 * @throws UNKNOWN_NAME for a mapping or a key that does not exist
 */
export async function testMapping(context: Context, options: MappingTestOptions = {}): Promise<MappingTestResult> {
  const { store } = context;
  const { mapping: all } = context;
  const mappings = options.mapping === undefined ? all.aggregates : [resolveAggregate(all, options.mapping)];
  const samples: Sample[] = [];
  const missing = new Set<string>();
  await store.snapshot(async (session) => {
    for (const mapping of mappings) {
      const layout = await introspect(store, mapping, session, { unifiedMayBeMissing: true });
      for (const column of missingColumns(layout)) missing.add(column);
      const limit = Math.min(options.sample ?? DEFAULT_SAMPLE, MAX_SAMPLE);
      const loaded = options.keys?.length
        ? (await loadKeys(session, layout.legacy, options.keys)).sort(inOrderOfKeys)
        : [...(await firstRows(session, layout.legacy, limit)), ...(await loadWithoutKey(session, layout.legacy, 1))];
      const earlier = await earlierLayouts(context, mapping, session);
      const keys = loaded.flatMap(({ key }) => (key === null ? [] : [key]));
      const taken = await takenKeys(session, earlier, keys);
      for (const one of loaded) samples.push(sample(layout, one, taken));
    }
  });
  const found = new Set(samples.map((one) => one.key));
  const unknown = (options.keys ?? []).filter((key) => !found.has(key));
  if (unknown.length > 0) {
    throw new HiveError("UNKNOWN_NAME", `No legacy row has the key ${unknown.map((key) => `"${key}"`).join(", ")}.`, {
      hint: `Looked in: ${mappings.map((mapping) => mapping.legacy.root.table).join(", ")}.`,
      details: { keys: unknown },
    });
  }
  return { samples, missingColumns: [...missing] };
}

/** As {@link firstRows} gives them: of named keys, each database gives the rows in an order of its own. */
function inOrderOfKeys({ keyValue: a }: Loaded, { keyValue: b }: Loaded): number {
  if (a === null || b === null) return Number(b === null) - Number(a === null);
  return Number(a > b) - Number(a < b);
}

/** The first aggregates in the order of their keys, read in pages. */
async function firstRows(session: Session, side: SideLayout, limit: number): Promise<Loaded[]> {
  const all: Loaded[] = [];
  let after: Value = null;
  while (all.length < limit) {
    const { loaded, more } = await loadPage(session, side, after, limit - all.length);
    all.push(...loaded);
    if (!more) break;
    after = loaded.at(-1)?.keyValue ?? null;
  }
  return all;
}

/** Of the mappings that come before this one and write the same unified table: they give a key first. */
async function earlierLayouts(context: Context, mapping: AggregateMapping, session: Session): Promise<Layout[]> {
  const { aggregates } = context.mapping;
  const earlier = aggregates
    .slice(0, aggregates.indexOf(mapping))
    .filter((other) => other.unified.root.table === mapping.unified.root.table);
  const layouts: Layout[] = [];
  for (const other of earlier) {
    layouts.push(await introspect(context.store, other, session, { unifiedMayBeMissing: true }));
  }
  return layouts;
}

/** `taken`: keys that another mapping gives first, and its name. */
function sample(layout: Layout, loaded: Loaded, taken: ReadonlyMap<string, string>): Sample {
  const { mapping } = layout;
  const legacy = toAggregate(layout.legacy, loaded);
  const outcome: Sample = {
    mapping: mapping.name,
    key: loaded.key ?? "(NULL key)",
    agent: mapping.agent(legacy),
    outcome: "quarantined",
    reason: null,
    legacy: readable(legacy),
    unified: null,
    back: null,
    roundTrip: false,
  };
  const other = loaded.key === null ? undefined : taken.get(loaded.key);
  if (other !== undefined) return { ...outcome, reason: takenReason(outcome.key, other) };
  const projected = projectUp(layout, loaded, legacy);
  if ("reason" in projected) return { ...outcome, reason: projected.reason };
  const unified = stored(layout.unified, mapping.unified, projected.rows);
  outcome.unified = readable(unified);
  try {
    const back = shaped(mapping.down(unified, null), "down");
    outcome.back = readable(back);
    outcome.roundTrip = sameAggregate(back, legacy);
    outcome.outcome = "mapped";
  } catch (error) {
    outcome.reason = mappingReason(error, mapping.name);
  }
  return outcome;
}

/** The rows as they will be read again: only declared columns, in the order of their key, with whole numbers exact. */
function stored(side: SideLayout, kinds: AggregateMapping["unified"], rows: Rows): Aggregate {
  const exact = (table: TableLayout, columns: Readonly<Record<string, ColumnKind>>, row: Tuple): Tuple =>
    row.map((value, i) => {
      const whole = typeof value === "number" && Number.isSafeInteger(value);
      return whole && columns[table.columns[i] ?? ""] === "integer" ? BigInt(value) : value;
    });
  return toAggregate(side, {
    key: null,
    keyValue: null,
    root: exact(side.root, kinds.root.columns, rows.root),
    related: side.related.map((table, i) =>
      (rows.related[i] ?? []).map((row) => exact(table, kinds.related[i]?.columns ?? {}, row)),
    ),
  });
}

/** Whether every row that the way back gives is exactly one that was there; tables it does not give keep theirs. */
function sameAggregate(back: Aggregate, legacy: Aggregate): boolean {
  return Object.entries(back).every(([table, rows]) => {
    const before = legacy[table] ?? [];
    return rows.length === before.length && rows.every((row, i) => sameRow(row, before[i] ?? {}));
  });
}

function sameRow(row: DataRow, before: DataRow): boolean {
  return Object.keys({ ...row, ...before }).every((column) => sameValue(row[column], before[column]));
}

function readable(aggregate: Aggregate): Sample["legacy"] {
  return Object.fromEntries(
    Object.entries(aggregate)
      .filter(([, rows]) => rows.length > 0)
      .map(([table, rows]) => [
        table,
        rows.map((row) => Object.fromEntries(Object.entries(row).map(([name, value]) => [name, jsonValue(value)]))),
      ]),
  );
}
