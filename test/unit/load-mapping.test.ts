import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { presets } from "../../src/presets/index.ts";
import { loadPlatformMapping, mappingProblems } from "../../src/sync/load-mapping.ts";
import type { PlatformMapping } from "../../src/sync/mapping.ts";
import { temporaryDirectory, tinyMapping } from "../support/context.ts";

const invalid = (message: RegExp, details: object = {}) =>
  expect.objectContaining({
    code: "MAPPING_INVALID",
    message: expect.stringMatching(message),
    details: expect.objectContaining(details),
  });

/** A mapping module, as plain JavaScript. */
const MODULE = `{
  name: "own",
  aggregates: [{
    name: "notes",
    legacy: { root: { table: "notes", key: "id", columns: ["body"] }, related: [] },
    unified: { root: { table: "unified_notes", key: "id", columns: { id: "text" } }, related: [] },
    agent: () => "a", unifiedAgent: () => "a", owns: () => true, up: () => ({}), down: () => ({}),
  }],
  agents: [{ name: "a" }],
  eventTypes: [],
  migrations: "./sql",
}`;

function load(files: Record<string, string>, mapping: string): Promise<PlatformMapping> {
  const baseDirectory = temporaryDirectory();
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(join(baseDirectory, name, ".."), { recursive: true });
    writeFileSync(join(baseDirectory, name), text);
  }
  return loadPlatformMapping({ mapping, baseDirectory }, presets);
}

describe("loading", () => {
  test("a preset, with an absolute folder of migrations", async () => {
    const mapping = await load({}, "hive");
    expect(mapping.name).toBe("hive");
    expect(mapping.migrations).toMatch(/^\/.*\/migrations\/hive\/?$/);
  });

  test("a module's default export, or its export `mapping`", async () => {
    for (const start of ["export default", "export const mapping ="]) {
      const mapping = await load({ "maps/own.mjs": `${start} ${MODULE}` }, "./maps/own.mjs");
      expect(mapping.name).toBe("own");
      expect(mapping.migrations).toMatch(/\/maps\/sql$/);
    }
  });

  test.each<[string, Record<string, string>, string, RegExp, object]>([
    ["a misspelt preset", {}, "hvie", /no mapping "hvie"/, { nearest: "hive", presets: ["hive"] }],
    ["a word of JavaScript", {}, "constructor", /no mapping "constructor"/, {}],
    ["a missing module", {}, "./none.mjs", /module at .*none\.mjs/, { nearest: null }],
    ["a folder", { "m/x.mjs": "" }, "./m", /no mapping/, {}],
    ["a module that throws", { "m.mjs": "throw new TypeError('oh no')" }, "m.mjs", /TypeError: oh no/, {}],
    ["a module with a mistake", { "m.mjs": "export default {" }, "m.mjs", /cannot be loaded/, {}],
    ["a module that misses another", { "m.mjs": "import './x.mjs'" }, "m.mjs", /cannot be loaded: .*x\.mjs/, {}],
    ["a module that exports nothing", { "m.mjs": "" }, "m.mjs", /default export: has to be an object, is missing/, {}],
    ["a function", { "m.mjs": "export default () => 1" }, "m.mjs", /is a function: export the mapping itself/, {}],
    ["nonsense", { "m.mjs": "export default { name: 3 }" }, "m.mjs", /name: has to be a text, is a number/, {}],
  ])("%s is refused", async (_, files, mapping, message, details) => {
    await expect(load(files, mapping)).rejects.toEqual(invalid(message, details));
  });

  test("the error of a module that throws is kept as the cause", async () => {
    const error: unknown = await load({ "m.mjs": "throw new TypeError('oh no')" }, "m.mjs").catch((e: unknown) => e);
    expect(error).toMatchObject({ cause: { name: "TypeError", message: "oh no" } });
  });
});

const agent = () => null;
const rules = { state: () => "", transitions: () => [] };
const _events = (part: object) => ({ ...tinyMapping, events: part });

describe("structure", () => {
  const [notes] = tinyMapping.aggregates;
  const aggregate = (changes: object) => ({ ...tinyMapping, aggregates: [{ ...notes, ...changes }] });
  const root = (changes: object) =>
    aggregate({ unified: { root: { ...notes?.unified.root, ...changes }, related: [] } });

  test("the mappings at hand have no problem", async () => {
    expect(mappingProblems(tinyMapping)).toEqual([]);
    for (const preset of Object.values(presets)) expect(mappingProblems(await preset())).toEqual([]);
  });

  const events = (part: object) => ({ ...tinyMapping, events: part });
  test("events may be told of in parts", () => {
    const names = { "note.done": { type: "note.gone", payload: { final: true } } };
    const part = { extensionTypes: ["note.gone"], payloads: async () => ({}), spelling: (name: string) => name, names };
    expect(mappingProblems(events(part))).toEqual([]);
    expect(mappingProblems(events({}))).toEqual([]);
  });

  test.each<[string, unknown, string]>([
    ["a list", [], "default export"],
    ["no aggregates", { ...tinyMapping, aggregates: [] }, "aggregates"],
    ["no agents", { ...tinyMapping, agents: [] }, "agents"],
    ["events of no aggregate", events({ derived: { none: rules } }), "events.derived.none"],
    ["events without rules", events({ derived: { notes: { ...rules, state: 1 } } }), "events.derived.notes.state"],
    [
      "a bridge from nowhere",
      events({ bridge: { key: "id", columns: [], agent, event: agent } }),
      "events.bridge.table",
    ],
    [
      "a bridge that reads nothing",
      events({ bridge: { table: "t", key: "id", columns: [], agent } }),
      "events.bridge.event",
    ],
    ["a text for a list", { ...tinyMapping, eventTypes: "x" }, "eventTypes"],
    ["an event type of null", { ...tinyMapping, eventTypes: ["x", null] }, "eventTypes[1]"],
    ["events that are none", { ...tinyMapping, events: [] }, "events"],
    ["an extension that is standard", events({ extensionTypes: ["x", "note.read"] }), "events.extensionTypes[1]"],
    ["payloads that are no function", events({ payloads: {} }), "events.payloads"],
    ["a spelling that is no function", events({ spelling: "lower" }), "events.spelling"],
    ["a name that means nothing", events({ names: { x: {} } }), "events.names.x.type"],
    ["a name that means no type", events({ names: { x: { type: "y" } } }), "events.names.x.type"],
    [
      "a name with a payload that is none",
      events({ names: { x: { type: "note.read", payload: 1 } } }),
      "events.names.x.payload",
    ],
    ["two aggregates of one name", { ...tinyMapping, aggregates: [notes, notes] }, "aggregates"],
    ["two agents of one name", { ...tinyMapping, agents: [{ name: "a" }, { name: "a" }] }, "agents"],
    ["up is no function", aggregate({ up: 1 }), "aggregates[0].up"],
    ["no unifiedAgent", aggregate({ unifiedAgent: undefined }), "aggregates[0].unifiedAgent"],
    ["no legacy", aggregate({ legacy: undefined }), "aggregates[0].legacy"],
    ["a column kind that is none", root({ columns: { id: "varchar" } }), "aggregates[0].unified.root.columns.id"],
    ["a key that is no column", root({ columns: { text: "text" } }), "aggregates[0].unified.root.columns.id"],
    ["migrations of a wrong type", { ...tinyMapping, migrations: 1 }, "migrations"],
    ["adopting without migrations", { ...tinyMapping, adopts: [] }, "adopts"],
    [
      "an adoption without tables",
      {
        ...tinyMapping,
        migrations: "x",
        adopts: [{ migration: "m", table: "t", column: "c", version: "v", tables: [] }],
      },
      "adopts[0].tables",
    ],
    [
      "a registration without an id",
      { ...tinyMapping, agents: [{ name: "a", registration: {} }] },
      "agents[0].registration.agentId",
    ],
    [
      "a unified table that is declared in two ways",
      {
        ...tinyMapping,
        aggregates: [notes, { ...root({ columns: { id: "text", text: "json" } }).aggregates[0], name: "other" }],
      },
      "aggregates[1].unified.root",
    ],
  ])("%s: the field is named", (_, value, field) => {
    expect(mappingProblems(value).map((one) => one.field)).toContain(field);
  });
});

test("what a mapping says of its agents' tasks and heartbeats has to fit what they are registered for", () => {
  const [writer, ...others] = tinyMapping.agents;
  const events = { started: "note.written", completed: "note.written", failed: "note.written" };
  const withTasks = (tasks: unknown) => ({ ...tinyMapping, agents: [{ ...writer, tasks }, ...others] });
  const at = "agents[0].tasks";
  expect(mappingProblems(withTasks({ events, payload: () => ({}) }))).toEqual([]);
  expect(mappingProblems({ ...tinyMapping, heartbeatEvent: "note.read" })).toEqual([]);
  expect(mappingProblems(withTasks({ events: { ...events, failed: "note.lost" }, schemas: 7 }))).toEqual([
    { field: `${at}.events.failed`, problem: "is not among what the agent emits: note.written" },
    { field: `${at}.schemas`, problem: "has to be a function, is a number" },
  ]);
  expect(mappingProblems(withTasks({})).map(({ field }) => field)).toEqual([`${at}.events`]);
  expect(mappingProblems({ ...tinyMapping, agents: [{ name: "x", tasks: { events } }] })).toEqual([
    { field: at, problem: "goes with a registration, which is missing" },
  ]);
  expect(mappingProblems({ ...tinyMapping, heartbeatEvent: "alive" })).toEqual([
    { field: "heartbeatEvent", problem: "is not among the eventTypes" },
  ]);
});
