import { statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { Settings } from "../config.ts";
import { HiveError, nearest } from "../errors.ts";
import type { Aggregate, AggregateMapping, PlatformMapping } from "./mapping.ts";

type Presets = { readonly [name: string]: () => Promise<PlatformMapping> };

/**
 * The mapping that the settings name: a preset, or the default export (or the export `mapping`) of a module, whose path
 * is relative to the config. Its structure has been checked, and `migrations` is an absolute path.
 * @throws MAPPING_INVALID: no such preset or module (with the nearest preset), a module that throws (its error is the
 * cause), or one that exports something else (`details.problems` names each field)
 */
export async function loadPlatformMapping(
  settings: Pick<Settings, "mapping" | "baseDirectory">,
  presets: Presets,
): Promise<PlatformMapping> {
  const preset = Object.hasOwn(presets, settings.mapping) ? presets[settings.mapping] : undefined;
  if (preset) return withMigrationsFrom(settings.baseDirectory, checked(await preset(), `preset ${settings.mapping}`));
  const path = modulePath(settings, Object.keys(presets));
  let exports: Record<string, unknown>;
  try {
    exports = await import(pathToFileURL(path).href);
  } catch (cause) {
    const reason = cause instanceof Error ? `${cause.name}: ${cause.message}` : String(cause);
    throw new HiveError("MAPPING_INVALID", `The mapping ${path} cannot be loaded: ${reason}`, {
      hint: "Correct the module: `node` has to be able to import it.",
      details: { path },
      cause,
    });
  }
  const mapping = checked(exports.default ?? exports.mapping, path);
  return withMigrationsFrom(dirname(path), { ...mapping, aggregates: mapping.aggregates.map(blamed) });
}

/**
 * `up` and `down` may refuse a row; the others have to answer for each. What they throw, or give instead of an answer,
 * would be taken for a failure of hive.
 */
function blamed(aggregate: AggregateMapping): AggregateMapping {
  const guard = <T>(method: string, type: "string" | "boolean", ask: (rows: Aggregate) => T) => ({
    enumerable: true,
    value: (rows: Aggregate): T => {
      let answer: T;
      try {
        answer = ask(rows);
      } catch (cause) {
        const reason = cause instanceof Error ? `${cause.name}: ${cause.message}` : String(cause);
        throw unanswered(`failed: ${reason}`, method, rows, cause);
      }
      const kind: string = typeof answer;
      if (kind === type) return answer;
      // Nobody waits for it: if it fails later, that must not end the process.
      if (answer instanceof Promise) answer.catch(() => undefined);
      const wanted = type === "string" ? "the name of an agent" : "true or false";
      throw unanswered(`gave ${describe(answer).replace(/^missing$/, "nothing")}, not ${wanted}`, method, rows);
    },
  });
  const unanswered = (what: string, method: string, rows: Aggregate, cause?: unknown) =>
    new HiveError("MAPPING_INVALID", `\`${method}\` of the mapping "${aggregate.name}" ${what}`, {
      hint: "It has to answer for every row, however dirty: only `up` and `down` may refuse one.",
      details: { mapping: aggregate.name, method, tables: Object.keys(rows) },
      cause,
    });
  return Object.create(aggregate, {
    agent: guard("agent", "string", (rows) => aggregate.agent(rows)),
    unifiedAgent: guard("unifiedAgent", "string", (rows) => aggregate.unifiedAgent(rows)),
    owns: guard("owns", "boolean", (rows) => aggregate.owns(rows)),
  });
}

function modulePath(settings: Pick<Settings, "mapping" | "baseDirectory">, presets: readonly string[]): string {
  const { mapping } = settings;
  const path = mapping.startsWith("file:") ? fileURLToPath(mapping) : resolve(settings.baseDirectory, mapping);
  if (statSync(path, { throwIfNoEntry: false })?.isFile()) return path;
  const guess = nearest(mapping, presets);
  throw new HiveError(
    "MAPPING_INVALID",
    `There is no mapping "${mapping}": neither a preset of this name nor a module at ${path}.`,
    {
      hint: guess
        ? `Did you mean the preset "${guess}"?`
        : `Set \`mapping\` in the config to a preset (${presets.join(", ")}) or to the path of a module.`,
      details: { mapping, path, nearest: guess ?? null, presets: [...presets] },
    },
  );
}

function withMigrationsFrom(folder: string, mapping: PlatformMapping): PlatformMapping {
  const { migrations } = mapping;
  if (migrations === undefined) return mapping;
  return {
    ...mapping,
    migrations: migrations.startsWith("file:") ? fileURLToPath(migrations) : resolve(folder, migrations),
  };
}

function checked(value: unknown, source: string): PlatformMapping {
  const problems = mappingProblems(value);
  if (problems.length === 0 && isMapping(value)) return value;
  const list = problems.slice(0, 10).map((one) => `\n  ${one.field}: ${one.problem}`);
  if (problems.length > 10) list.push(`\n  and ${problems.length - 10} more`);
  throw new HiveError("MAPPING_INVALID", `${source} is not a mapping:${list.join("")}`, {
    hint: "Its default export has to be what `defineMapping({…})` takes: see docs, Use hive for your own tables.",
    details: { source, problems },
  });
}

/** Asked after `mappingProblems` found none. */
function isMapping(value: unknown): value is PlatformMapping {
  return isObject(value);
}

export interface MappingProblem {
  /** `aggregates[0].unified.root.columns.id` */
  field: string;
  problem: string;
}

const KINDS = ["text", "integer", "real", "json", "time"];

/** Everything that keeps `value` from being a mapping, field by field. Checks the structure; calls nothing. */
export function mappingProblems(value: unknown): MappingProblem[] {
  const problems: MappingProblem[] = [];
  const report = (field: string, problem: string) => {
    problems.push({ field, problem });
  };
  const object = (field: string, one: unknown): Record<string, unknown> | undefined => {
    if (isObject(one)) return one;
    report(field, `has to be an object, is ${describe(one)}`);
    return undefined;
  };
  const text = (field: string, one: unknown): string | undefined => {
    if (typeof one === "string" && one !== "") return one;
    report(field, `has to be a text, is ${describe(one)}`);
    return undefined;
  };
  const list = (field: string, one: unknown): unknown[] => {
    if (Array.isArray(one)) return one;
    report(field, `has to be a list, is ${describe(one)}`);
    return [];
  };
  const texts = (field: string, one: unknown): string[] =>
    list(field, one).flatMap((item, i) => text(`${field}[${i}]`, item) ?? []);
  const unique = (field: string, names: readonly (string | undefined)[], what: string) => {
    names.forEach((name, i) => {
      if (name !== undefined && names.indexOf(name) < i) report(field, `two ${what} are called "${name}"`);
    });
  };
  const functions = (field: string, one: Record<string, unknown> | undefined, methods: readonly string[]) => {
    for (const method of one ? methods : []) {
      if (typeof one?.[method] !== "function") {
        report(`${field}.${method}`, `has to be a function, is ${describe(one?.[method])}`);
      }
    }
  };
  const kinds = (field: string, one: unknown, needed: readonly unknown[]): Record<string, unknown> => {
    const columns = object(field, one) ?? {};
    for (const [column, kind] of Object.entries(columns)) {
      if (typeof kind !== "string" || !KINDS.includes(kind)) {
        report(`${field}.${column}`, `has to be one of ${KINDS.join(", ")}, is ${describe(kind)}`);
      }
    }
    for (const column of needed) {
      if (typeof column === "string" && column !== "" && !Object.hasOwn(columns, column)) {
        report(`${field}.${column}`, "is missing: the key columns have to be among the columns");
      }
    }
    return columns;
  };

  const unifiedTables = new Map<string, { field: string; shape: string }>();
  const unifiedRoots = new Map<string, ReadonlySet<string>>();
  const sameEverywhere = (field: string, table: unknown, key: unknown, columns: Record<string, unknown>) => {
    if (typeof table !== "string") return;
    const shape = JSON.stringify([key, Object.entries(columns).sort(([a], [b]) => (a < b ? -1 : 1))]);
    const other = unifiedTables.get(table);
    if (!other) unifiedTables.set(table, { field, shape });
    else if (other.shape !== shape) {
      report(field, `declares the key or the columns of ${table} otherwise than ${other.field} does`);
    }
  };

  const aggregate = (field: string, one: unknown): string | undefined => {
    const mapping = object(field, one);
    if (!mapping) return undefined;
    const name = text(`${field}.name`, mapping.name);
    for (const method of ["agent", "unifiedAgent", "owns", "up", "down"]) {
      if (typeof mapping[method] !== "function") {
        report(`${field}.${method}`, `has to be a function, is ${describe(mapping[method])}`);
      }
    }
    const legacy = object(`${field}.legacy`, mapping.legacy);
    if (legacy) {
      const root = object(`${field}.legacy.root`, legacy.root);
      if (root) {
        text(`${field}.legacy.root.table`, root.table);
        text(`${field}.legacy.root.key`, root.key);
        texts(`${field}.legacy.root.columns`, root.columns);
      }
      const names = list(`${field}.legacy.related`, legacy.related).map((item, i) => {
        const at = `${field}.legacy.related[${i}]`;
        const related = object(at, item);
        if (!related) return undefined;
        text(`${at}.foreignKey`, related.foreignKey);
        texts(`${at}.key`, related.key);
        texts(`${at}.columns`, related.columns);
        texts(`${at}.orderBy`, related.orderBy);
        if (related.optional !== undefined && typeof related.optional !== "boolean") {
          report(`${at}.optional`, `has to be true or false, is ${describe(related.optional)}`);
        }
        return text(`${at}.table`, related.table);
      });
      const rootTable = typeof root?.table === "string" ? root.table : undefined;
      unique(`${field}.legacy.related`, [rootTable, ...names], "tables");
    }
    const unified = object(`${field}.unified`, mapping.unified);
    if (unified) {
      const at = `${field}.unified.root`;
      const root = object(at, unified.root);
      if (root) {
        text(`${at}.table`, root.table);
        text(`${at}.key`, root.key);
        const columns = kinds(`${at}.columns`, root.columns, [root.key]);
        sameEverywhere(at, root.table, root.key, columns);
        if (typeof root.table === "string") unifiedRoots.set(root.table, new Set(Object.keys(columns)));
      }
      const names = list(`${field}.unified.related`, unified.related).map((item, i) => {
        const at = `${field}.unified.related[${i}]`;
        const related = object(at, item);
        if (!related) return undefined;
        text(`${at}.foreignKey`, related.foreignKey);
        const key = texts(`${at}.key`, related.key);
        const columns = kinds(`${at}.columns`, related.columns, [related.foreignKey, ...key]);
        sameEverywhere(at, related.table, [related.foreignKey, key], columns);
        return text(`${at}.table`, related.table);
      });
      const rootTable = typeof root?.table === "string" ? root.table : undefined;
      unique(`${field}.unified.related`, [rootTable, ...names], "tables");
    }
    return name;
  };

  if (typeof value === "function") {
    report("default export", "is a function: export the mapping itself");
    return problems;
  }
  const platform = object("default export", value);
  if (!platform) return problems;
  text("name", platform.name);
  const aggregates = list("aggregates", platform.aggregates);
  if (Array.isArray(platform.aggregates) && aggregates.length === 0)
    report("aggregates", "is empty: there is nothing to map");
  unique(
    "aggregates",
    aggregates.map((one, i) => aggregate(`aggregates[${i}]`, one)),
    "aggregates",
  );

  const agents = list("agents", platform.agents).map((one, i) => object(`agents[${i}]`, one));
  if (Array.isArray(platform.agents) && agents.length === 0)
    report("agents", "is empty: every aggregate belongs to an agent");
  unique(
    "agents",
    agents.map((agent, i) => agent && text(`agents[${i}].name`, agent.name)),
    "agents",
  );
  const ids = agents.map((agent, i) => {
    const tasks = agent?.tasks === undefined ? undefined : object(`agents[${i}].tasks`, agent.tasks);
    if (agent?.registration === undefined) {
      if (tasks) report(`agents[${i}].tasks`, "goes with a registration, which is missing");
      return undefined;
    }
    const at = `agents[${i}].registration`;
    const registration = object(at, agent.registration);
    if (!registration) return undefined;
    text(`${at}.agentType`, registration.agentType);
    texts(`${at}.capabilities`, registration.capabilities);
    const emits = texts(`${at}.emits`, registration.emits);
    if (tasks) {
      const events = object(`agents[${i}].tasks.events`, tasks.events);
      for (const moment of ["started", "completed", "failed"]) {
        const type = events && text(`agents[${i}].tasks.events.${moment}`, events[moment]);
        if (type !== undefined && !emits.includes(type))
          report(`agents[${i}].tasks.events.${moment}`, `is not among what the agent emits: ${emits.join(", ")}`);
      }
      for (const method of ["payload", "schemas"]) {
        if (tasks[method] !== undefined && typeof tasks[method] !== "function")
          report(`agents[${i}].tasks.${method}`, `has to be a function, is ${describe(tasks[method])}`);
      }
    }
    return text(`${at}.agentId`, registration.agentId);
  });
  unique("agents", ids, "registered agents");

  if (platform.records !== undefined) {
    const records = object("records", platform.records);
    if (records) {
      const columns = unifiedRoots.get(text("records.table", records.table) ?? "");
      if (typeof records.table === "string" && records.table !== "" && columns === undefined)
        report("records.table", `has to be a unified root table, is ${describe(records.table)}`);
      const column = (field: string, one: unknown) => {
        const name = text(field, one);
        if (name !== undefined && columns && !columns.has(name)) report(field, `is no column of ${records.table}`);
      };
      for (const [name, one] of Object.entries(object("records.filters", records.filters) ?? {})) {
        column(`records.filters.${name}`, one);
      }
      for (const name of ["createdAt", "updatedAt"]) {
        if (records[name] !== undefined) column(`records.${name}`, records[name]);
      }
      for (const method of ["key", "fromAggregate", "toAggregate"]) {
        if (typeof records[method] !== "function") {
          report(`records.${method}`, `has to be a function, is ${describe(records[method])}`);
        }
      }
    }
  }
  const eventTypes = texts("eventTypes", platform.eventTypes);
  if (platform.events !== undefined) {
    const events = object("events", platform.events);
    if (events) {
      const more = events.extensionTypes === undefined ? [] : texts("events.extensionTypes", events.extensionTypes);
      more.forEach((type, i) => {
        if (eventTypes.includes(type))
          report(`events.extensionTypes[${i}]`, `"${type}" is one of the eventTypes already`);
      });
      for (const method of ["payloads", "spelling"]) {
        if (events[method] !== undefined && typeof events[method] !== "function") {
          report(`events.${method}`, `has to be a function, is ${describe(events[method])}`);
        }
      }
      const names = events.names === undefined ? {} : (object("events.names", events.names) ?? {});
      for (const [name, one] of Object.entries(names)) {
        const meant = object(`events.names.${name}`, one);
        if (!meant) continue;
        const type = text(`events.names.${name}.type`, meant.type);
        if (type !== undefined && !eventTypes.includes(type) && !more.includes(type)) {
          report(`events.names.${name}.type`, `"${type}" is neither one of the eventTypes nor of the extensionTypes`);
        }
        if (meant.payload !== undefined) object(`events.names.${name}.payload`, meant.payload);
      }
      const known = aggregates.map((one) => (isObject(one) ? one.name : undefined));
      const derived = events.derived === undefined ? {} : (object("events.derived", events.derived) ?? {});
      for (const [name, one] of Object.entries(derived)) {
        const at = `events.derived.${name}`;
        if (!known.includes(name)) report(at, "is the name of none of the aggregates");
        functions(at, object(at, one), ["state", "transitions"]);
      }
      if (events.bridge !== undefined) {
        const bridge = object("events.bridge", events.bridge);
        if (bridge) {
          for (const name of ["table", "key"]) text(`events.bridge.${name}`, bridge[name]);
          texts("events.bridge.columns", bridge.columns);
          functions("events.bridge", bridge, ["agent", "event"]);
        }
      }
    }
  }
  if (platform.heartbeatEvent !== undefined) {
    const type = text("heartbeatEvent", platform.heartbeatEvent);
    if (type !== undefined && !eventTypes.includes(type)) report("heartbeatEvent", "is not among the eventTypes");
  }
  if (platform.migrations !== undefined) text("migrations", platform.migrations);
  if (platform.adopts !== undefined) {
    list("adopts", platform.adopts).forEach((one, i) => {
      const at = `adopts[${i}]`;
      const adoption = object(at, one);
      if (!adoption) return;
      for (const key of ["migration", "table", "column", "version"]) text(`${at}.${key}`, adoption[key]);
      if (texts(`${at}.tables`, adoption.tables).length === 0) report(`${at}.tables`, "names no table");
    });
    if (platform.migrations === undefined) report("adopts", "needs `migrations`: the folder with what is adopted");
  }
  return problems;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function describe(value: unknown): string {
  if (value === undefined) return "missing";
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "string") return value === "" ? "empty" : JSON.stringify(value.slice(0, 40));
  if (typeof value === "object") return "an object";
  return `a ${typeof value}`;
}
