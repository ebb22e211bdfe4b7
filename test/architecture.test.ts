import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

/**
 * The floors of DESIGN.md, "Layout". Each rule is a function over source files, so that it can be shown to fire.
 *
 * From the ground up; a module imports from its own floor and from those below it. Types may come from anywhere:
 * they are gone when the code runs. What decides (mapping, stages) lies deeper than the folder it belongs to, and so
 * do the audit log, which everything that writes appends to, and what measures.
 */
const FLOORS: readonly (readonly string[])[] = [
  ["errors.ts", "clock.ts", "context.ts", "results.ts", "config.ts", "config-schema.ts", "schemas.ts", "init.ts"],
  ["storage/port.ts", "storage/sql.ts", "storage/triggers.ts"],
  ["sync/mapping.ts", "flags/stages.ts", "presets/"],
  ["events/event.ts", "events/topics.ts", "events/cloudevents.ts", "events/causal-tree.ts"],
  // What keeps to the lock budget is needed by all that writes in the background.
  ["rollout/audit.ts", "observe/histogram.ts", "sync/pace.ts"],
  // Whatever writes, emits or executes is measured.
  ["observe/metrics.ts"],
  ["schema/"],
  ["flags/facts.ts"],
  // The writer and sync emit.
  ["events/"],
  ["registry/"],
  ["sync/"],
  ["flags/"],
  ["rollout/"],
  ["observe/"],
  ["demo/"],
  ["storage/"],
  // The second thread opens a hive of its own.
  ["hive.ts", "thread.ts", "thread-worker.ts"],
  ["index.ts"],
  ["cli/", "server/"],
];

interface Source {
  /** Relative to src/. */
  path: string;
  text: string;
}

interface Import {
  specifier: string;
  /** Relative to src/, for a file of ours. */
  target: string | null;
  typeOnly: boolean;
}

const root = fileURLToPath(new URL("..", import.meta.url));

function filesUnder(folder: string, ending: string): Source[] {
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(ending))
    .map((entry) => join(entry.parentPath, entry.name))
    .map((path) => ({ path: relative(join(root, folder), path), text: readFileSync(path, "utf8") }));
}

function importsOf({ path, text }: Source): Import[] {
  const found: Import[] = [];
  const add = (specifier: string | undefined, typeOnly: boolean) => {
    if (specifier === undefined) return;
    const target = specifier.startsWith(".") ? normalize(join(dirname(path), specifier)) : null;
    found.push({ specifier, target, typeOnly });
  };
  // `import { type A }` is no type import: with verbatimModuleSyntax the module is loaded all the same.
  for (const [, keyword, specifier] of text.matchAll(
    /^(import type|export type|import|export)\b[^;"'`]*?\bfrom "([^"]+)"/gm,
  )) {
    add(specifier, keyword?.endsWith("type") === true);
  }
  for (const [, specifier] of text.matchAll(/^import "([^"]+)"/gm)) add(specifier, false);
  for (const [, before, specifier] of text.matchAll(/(typeof )?\bimport\("([^"]+)"\)/g))
    add(specifier, before !== undefined);
  return found;
}

function floorOf(path: string): number {
  const floor = FLOORS.findIndex((names) =>
    names.some((name) => (name.endsWith("/") ? path.startsWith(name) : path === name)),
  );
  return floor;
}

/** A file of an adapter, which may consist of several. */
const isAdapter = (path: string) => /^storage\/(?!port|sql\.|triggers)/.test(path);
const PURE = (path: string) =>
  path === "sync/mapping.ts" ||
  path === "flags/stages.ts" ||
  path === "storage/sql.ts" ||
  path.startsWith("presets/") ||
  /^events\/(event|topics|cloudevents|causal-tree)\.ts$/.test(path);
const UI_PACKAGES = ["chalk", "cli-table3", "commander", "@inquirer/prompts"];
const CLI_BUILTINS = ["node:fs", "node:path", "node:stream"];
const PLATFORM_TABLES =
  /\b(unified_(review_|workflow_|deployment_)?tasks|planning_queue|execution_plans|plan_execution|deployment_events|event_subscriptions)\b/;

type Rule = (files: readonly Source[]) => string[];

const imports =
  (broken: (from: string, one: Import) => boolean): Rule =>
  (files) =>
    files.flatMap((file) =>
      importsOf(file)
        .filter((one) => broken(file.path, one))
        .map((one) => `${file.path} imports ${one.specifier}`),
    );

const contains =
  (concerns: (path: string) => boolean, pattern: RegExp): Rule =>
  (files) =>
    files
      .filter(({ path }) => concerns(path))
      .flatMap(({ path, text }) => {
        const match = pattern.exec(text);
        return match ? [`${path} has ${match[0]}`] : [];
      });

interface Guard {
  rule: Rule;
  /** Files that make it fire. */
  fires: Source[];
}

const guards: { readonly [name: string]: Guard } = {
  "every file has a floor": {
    rule: (files) => files.filter(({ path }) => floorOf(path) < 0).map(({ path }) => `${path} is on no floor`),
    fires: [{ path: "helpers/misc.ts", text: "" }],
  },
  "nothing is imported from a floor above": {
    rule: imports((from, { target, typeOnly }) => !typeOnly && target !== null && floorOf(target) > floorOf(from)),
    fires: [
      { path: "schema/x.ts", text: 'import { a } from "../sync/backfill.ts";' },
      { path: "sync/x.ts", text: 'const a = await import("../flags/flags.ts");' },
      { path: "errors.ts", text: 'import {\n  type A,\n} from "./hive.ts";' },
    ],
  },
  "cli and server import the index, their own files and the UI packages": {
    rule: imports((from, { specifier, target }) => {
      const folder = /^(cli|server)\//.exec(from)?.[0];
      if (folder === undefined) return false;
      if (target !== null) return target !== "index.ts" && !target.startsWith(folder);
      return !UI_PACKAGES.includes(specifier) && !CLI_BUILTINS.includes(specifier);
    }),
    fires: [
      { path: "cli/commands/x.ts", text: 'import type { Settings } from "../../config.ts";' },
      { path: "cli/x.ts", text: 'import Database from "better-sqlite3";' },
      { path: "server/x.ts", text: 'import { main } from "../cli/main.ts";' },
    ],
  },
  "only hive.ts knows the adapters": {
    rule: imports((from, { target, typeOnly: _ }) => isAdapter(target ?? "") && from !== "hive.ts" && !isAdapter(from)),
    fires: [
      { path: "sync/x.ts", text: 'import type { SqliteOptions } from "../storage/sqlite.ts";' },
      { path: "storage/port.ts", text: 'import type { Connection } from "./sqlite-connection.ts";' },
    ],
  },
  "only the adapters know the drivers": {
    rule: imports((from, { specifier }) => /^(better-sqlite3|pg)$/.test(specifier) && !from.startsWith("storage/")),
    fires: [{ path: "schema/x.ts", text: 'import Database from "better-sqlite3";' }],
  },
  "what decides is pure: it imports nothing that does something": {
    // Schemas decide too: what a preset takes and what it refuses.
    rule: imports(
      (from, { specifier, target, typeOnly }) =>
        PURE(from) &&
        !typeOnly &&
        !(target === "errors.ts" || PURE(target ?? "") || (specifier === "zod" && from.startsWith("presets/"))),
    ),
    fires: [
      { path: "presets/hive/x.ts", text: 'import { readFileSync } from "node:fs";' },
      { path: "flags/stages.ts", text: 'import { isoTime } from "../clock.ts";' },
    ],
  },
  "what decides is pure: no clock, no randomness, no process": {
    rule: contains(PURE, /\b(Date\.now|new Date\(\)|Math\.random|randomUUID|process\.|performance\.now|setTimeout)/),
    fires: [{ path: "presets/hive/x.ts", text: "const now = new Date();" }],
  },
  "the index loads nothing heavy": {
    rule: (files) => {
      const heavy = /^(zod|cosmiconfig|umzug|better-sqlite3|pg|commander|chalk|cli-table3|@inquirer\/.*)$/;
      const reached = new Set<string>(["index.ts"]);
      const broken: string[] = [];
      for (const path of reached) {
        const file = files.find((one) => one.path === path);
        // Without import(): that is how heavy things are put off.
        const now = file ? { path, text: file.text.replace(/\bimport\(/g, "later(") } : { path, text: "" };
        for (const { specifier, target, typeOnly } of importsOf(now)) {
          if (typeOnly) continue;
          if (target !== null) reached.add(target);
          else if (heavy.test(specifier)) broken.push(`index.ts loads ${specifier} by way of ${path}`);
        }
      }
      return broken;
    },
    fires: [
      { path: "index.ts", text: 'export { a } from "./a.ts";' },
      { path: "a.ts", text: 'import { z } from "zod";' },
    ],
  },
  "the terminal and the process belong to bin/hive.js": {
    rule: contains(
      () => true,
      /\bprocess\.(exit\b|exitCode|stdout|stderr|stdin|argv|on\()|\bconsole\.(log|error|warn|info)\(/,
    ),
    fires: [{ path: "cli/commands/x.ts", text: "process.exit(1)" }],
  },
  "only the preset names a table of the platform": {
    rule: contains((path) => !path.startsWith("presets/hive/"), PLATFORM_TABLES),
    fires: [{ path: "sync/x.ts", text: "sql`SELECT * FROM unified_tasks`" }],
  },
};

const sources = filesUnder("src", ".ts");

describe.each(Object.entries(guards))("%s", (_, { rule, fires }) => {
  test("holds", () => {
    expect(rule(sources)).toEqual([]);
  });

  test("would be noticed if it did not", () => {
    const broken = rule(fires);
    expect(broken.length).toBeGreaterThan(0);
  });
});

test("no migration of hive's own names a table of the platform", () => {
  const own = filesUnder("migrations", ".sql").filter(({ path }) => !path.startsWith("hive/"));
  expect(own.length).toBeGreaterThan(0);
  expect(contains(() => true, PLATFORM_TABLES)(own)).toEqual([]);
});

test("the imports are really seen", () => {
  const seen = sources.flatMap(importsOf);
  expect(seen.filter((one) => one.target === "hive.ts").length).toBeGreaterThan(0);
  expect(seen.some((one) => one.specifier === "zod")).toBe(true);
  expect(seen.some((one) => one.target === "storage/sqlite.ts" && !one.typeOnly)).toBe(true);
  const targets = new Set(sources.map(({ path }) => path));
  expect(seen.filter((one) => one.target !== null && !targets.has(one.target))).toEqual([]);
});
