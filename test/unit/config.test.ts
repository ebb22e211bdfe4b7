import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { CONFIG_DEFAULTS, describeConfig, isConfigFile, loadConfig, readConfig } from "../../src/config.ts";
import { configProblems, configSchema } from "../../src/config-schema.ts";
import { HiveError } from "../../src/errors.ts";
import { databasePath } from "../../src/hive.ts";
import { temporaryDirectory } from "../support/context.ts";

function folderWith(files: Record<string, unknown>): string {
  const folder = temporaryDirectory();
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(join(folder, name, ".."), { recursive: true });
    writeFileSync(join(folder, name), typeof content === "string" ? content : JSON.stringify(content));
  }
  return folder;
}

async function refusal(work: Promise<unknown>): Promise<HiveError> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof HiveError)) throw new Error(`expected a HiveError, got ${String(error)}`);
  return error;
}

describe("the plain rules and the schema", () => {
  test("have the same defaults", () => {
    expect({ ...CONFIG_DEFAULTS }).toEqual({ database: undefined, ...configSchema.parse({}) });
  });

  test("accept the same values", () => {
    const ms = fc.constantFrom(undefined, 0, 1, 1.5, 86_400_000, 86_400_001, "1", null);
    const command = fc.constantFrom(undefined, [], ["a"], ["a", ""], ["a", "b\u0000"], "a", null, [1]);
    const url = fc.constantFrom(
      ...[undefined, null, "", "x", "http://a", "https://a/b?c", "ftp://a", "http://u:p@a", "http://", 7],
    );
    const place = { command, url, timeoutMs: ms };
    const health = fc.record({ ...place, heartbeatTimeoutMs: ms, wave: ms }, { requiredKeys: [] });
    const agent = fc.record(
      { ...place, health: fc.option(health), wave: ms, heartbeatTimeoutMs: ms },
      { requiredKeys: [] },
    );
    const value = fc.oneof(
      fc.string({ maxLength: 3 }),
      fc.double(),
      fc.integer({ min: -2, max: 3 }),
      fc.constantFrom(0, 1, 0.5, -0, 1e21, Number.NaN, Number.POSITIVE_INFINITY, null, true, undefined),
      fc.array(fc.oneof(fc.string({ maxLength: 2 }), fc.integer()), { maxLength: 2 }),
      fc.dictionary(
        fc.string({ maxLength: 3 }),
        fc.oneof(
          fc.record({ wave: fc.oneof(fc.integer({ min: -1, max: 3 }), fc.double(), fc.constant(undefined)) }),
          fc.record({ waev: fc.constant(1) }),
          agent,
          fc.record({ events: fc.constantFrom("bridge", "derive", 1, undefined) }),
          fc.constantFrom({}, null, []),
        ),
        { maxKeys: 2 },
      ),
    );
    const keys = [...Object.keys(configSchema.shape), "databse"];
    const config = fc.oneof(value, fc.dictionary(fc.constantFrom(...keys), value, { maxKeys: 3 }));
    fc.assert(
      fc.property(config, (candidate) => {
        expect([candidate, isConfigFile(candidate)]).toEqual([candidate, configSchema.safeParse(candidate).success]);
      }),
      { numRuns: 5_000 },
    );
  });

  test.each([
    [{ command: "python3 a.py" }, "command", "expected a list, received a text", null],
    [{ command: ["a"], url: "http://a" }, "", "has both a `command` and a `url`: give one of them", null],
    [
      { health: { command: ["a"], url: "http://a" } },
      "health",
      "has both a `command` and a `url`: give one of them",
      null,
    ],
    [{ url: "http://me:secret@a" }, "url", "is no http:// or https:// address without user and password", null],
    [{ comand: ["a"] }, "comand", "there is no such setting", "command"],
    [{ health: { timeoutMS: 1 } }, "health.timeoutMS", "there is no such setting", "timeoutMs"],
    [{ timeoutMs: 0 }, "timeoutMs", "expected a number to be >=1", null],
  ])("what is wrong with the agent %j is said in plain words", (agent, key, what, nearest) => {
    const place = key === "" ? "agents.x" : `agents.x.${key}`;
    expect(configProblems({ agents: { x: agent } })).toEqual([{ key: place, what, nearest }]);
  });

  test("a refused value always comes with a problem", () => {
    expect(configProblems({ mapping: 5 })).toEqual([
      { key: "mapping", what: "expected a text, received a number", nearest: null },
    ]);
    expect(configProblems({ mapping: "hive" })).toEqual([]);
  });
});

describe("precedence", () => {
  test("flag, then environment, then file, then default, each with its origin", async () => {
    const cwd = folderWith({ "hive.config.json": { database: "sqlite:./file.db", lockBudget: 0.05 } });
    const env = { HIVE_DATABASE: "sqlite:./env.db", HIVE_BUSY_TIMEOUT_MS: "250" };
    const file = join(cwd, "hive.config.json");

    const all = await loadConfig({ flags: { database: "flag.db" }, env, cwd });
    expect(all.settings).toEqual({
      ...CONFIG_DEFAULTS,
      database: "flag.db",
      lockBudget: 0.05,
      busyTimeoutMs: 250,
      baseDirectory: cwd,
    });
    expect(all.file).toBe(file);
    expect(all.origins).toMatchObject({
      database: "flag --database",
      busyTimeoutMs: "environment HIVE_BUSY_TIMEOUT_MS",
      lockBudget: file,
      mapping: "default",
    });

    expect((await loadConfig({ env, cwd })).settings.database).toBe("sqlite:./env.db");
    expect((await loadConfig({ env: {}, cwd })).settings.database).toBe("sqlite:./file.db");
  });

  test("an empty environment variable counts as not set", async () => {
    const cwd = folderWith({ "hive.config.json": { database: "file.db" } });
    const { settings } = await loadConfig({ env: { HIVE_DATABASE: "", HIVE_CONFIG: "" }, cwd });
    expect(settings.database).toBe("file.db");
  });

  test("every setting of the environment is read", async () => {
    const env = {
      HIVE_DATABASE: "e.db",
      HIVE_MAPPING: "./m.js",
      HIVE_LOCK_BUDGET: "0.5",
      HIVE_BUSY_TIMEOUT_MS: "1",
      HIVE_LOCK_TIMEOUT_SECONDS: "2.5",
      HIVE_CHECK_MAX_AGE_MINUTES: "3",
    };
    const { settings } = await loadConfig({ env, cwd: temporaryDirectory() });
    expect(settings).toMatchObject({
      database: "e.db",
      mapping: "./m.js",
      lockBudget: 0.5,
      busyTimeoutMs: 1,
      lockTimeoutSeconds: 2.5,
      checkMaxAgeMinutes: 3,
    });
  });
});

describe("paths", () => {
  test("of a file are relative to its folder, of flags and environment to the working folder", async () => {
    const top = folderWith({
      "etc/hive.config.json": { database: "sqlite:./data/hive.db", mapping: "./mapping.js", migrations: ["mine"] },
    });
    const flags = { config: "etc/hive.config.json" };
    const fromFile = await loadConfig({ flags, env: {}, cwd: top });
    expect(fromFile.settings).toMatchObject({ mapping: "./mapping.js", baseDirectory: join(top, "etc") });
    expect(databasePath(fromFile.settings)).toBe(join(top, "etc/data/hive.db"));

    const overridden = await loadConfig({
      flags: { ...flags, database: "sqlite:./here.db" },
      env: { HIVE_MAPPING: "other.js" },
      cwd: top,
    });
    expect(databasePath(overridden.settings)).toBe(join(top, "here.db"));
    expect(overridden.settings.mapping).toBe(join(top, "other.js"));
    const preset = await loadConfig({ flags, env: { HIVE_MAPPING: "hive" }, cwd: top });
    expect(preset.settings.mapping).toBe("hive");
  });
});

describe("the search", () => {
  test.each([
    ["hive.config.json", { database: "a.db" }],
    [".hiverc", "database: a.db\n"],
    [".hiverc", '{"database": "a.db"}'],
    [".hiverc.json", { database: "a.db" }],
    [".hiverc.yaml", "database: a.db\n"],
    ["package.json", { name: "x", hive: { database: "a.db" } }],
  ])("finds %s in a folder above", async (name, content) => {
    const top = folderWith({ [name]: content, "a/b/keep": "", "a/package.json": { name: "no key here" } });
    const found = await loadConfig({ env: {}, cwd: join(top, "a/b") });
    expect(found.file).toBe(join(top, name));
    expect(databasePath(found.settings)).toBe(join(top, "a.db"));
  });

  test("the nearest folder counts", async () => {
    const top = folderWith({ "hive.config.json": { database: "far.db" }, "a/.hiverc": "database: near.db" });
    expect((await loadConfig({ env: {}, cwd: join(top, "a") })).settings.database).toBe("near.db");
  });

  test("a file that was named must exist", async () => {
    const error = await refusal(loadConfig({ env: { HIVE_CONFIG: "nope.json" }, cwd: temporaryDirectory() }));
    expect(error).toMatchObject({ code: "CONFIG_INVALID", message: expect.stringContaining("nope.json") });
    expect(error.hint).toContain("HIVE_CONFIG");
  });
});

describe("what is refused", () => {
  test("no database anywhere, with what to do", async () => {
    const error = await refusal(loadConfig({ env: {}, cwd: temporaryDirectory() }));
    expect(error).toMatchObject({ code: "CONFIG_INVALID", message: "No database is named." });
    expect(error.hint).toContain("hive init");
  });

  test("an unknown key, naming it, the nearest one and the file", async () => {
    const cwd = folderWith({ "hive.config.json": { databse: "x.db" } });
    const error = await refusal(loadConfig({ env: {}, cwd }));
    expect(error.code).toBe("CONFIG_INVALID");
    expect(error.message).toBe(
      `${join(cwd, "hive.config.json")}: databse: there is no such setting; did you mean "database"?`,
    );
    expect(error.details).toMatchObject({ key: "databse", nearest: "database" });
  });

  test("an unknown key of an agent", async () => {
    const cwd = folderWith({ "hive.config.json": { agents: { "ai-reviewer": { waev: 1 } } } });
    const error = await refusal(loadConfig({ env: {}, cwd }));
    expect(error.message).toContain('agents.ai-reviewer.waev: there is no such setting; did you mean "wave"?');
  });

  test("a wrong type: which key, and what was expected", async () => {
    const cwd = folderWith({ "hive.config.json": { lockBudget: "1 %" } });
    const error = await refusal(loadConfig({ env: {}, cwd }));
    expect(error.message).toContain("lockBudget: expected a number, received a text");
  });

  test("a value out of range in the environment, naming the variable", async () => {
    const cwd = temporaryDirectory();
    const high = await refusal(loadConfig({ env: { HIVE_LOCK_BUDGET: "2" }, cwd }));
    expect(high.message).toContain("environment HIVE_LOCK_BUDGET: lockBudget: expected a number to be <=1");
    const text = await refusal(loadConfig({ env: { HIVE_BUSY_TIMEOUT_MS: "soon" }, cwd }));
    expect(text.message).toContain("HIVE_BUSY_TIMEOUT_MS: busyTimeoutMs: expected a number, received a text");
  });

  test("broken JSON and YAML: where", async () => {
    const json = folderWith({ "hive.config.json": '{\n  "database": "x.db",\n}\n' });
    const error = await refusal(loadConfig({ env: {}, cwd: json }));
    expect(error.code).toBe("CONFIG_INVALID");
    expect(error.message).toMatch(/hive\.config\.json.*line 3/s);
    const yaml = folderWith({ ".hiverc.yaml": "database: x.db\n  mapping: [\n" });
    expect((await refusal(loadConfig({ env: {}, cwd: yaml }))).message).toMatch(/\.hiverc\.yaml.*2/s);
  });

  test("a module instead of data: nothing is executed", async () => {
    const cwd = folderWith({ "hive.config.js": "throw new Error('ran')" });
    const error = await refusal(loadConfig({ flags: { config: "hive.config.js" }, env: {}, cwd }));
    expect(error.message).toContain("a config is JSON or YAML, not .js");
  });

  test("a package.json that was named and has no settings", async () => {
    const cwd = folderWith({ "package.json": { name: "x" } });
    const error = await refusal(loadConfig({ flags: { config: "package.json" }, env: {}, cwd }));
    expect(error.message).toContain('has no key "hive"');
  });
});

test("what is shown: every value, its origin, and no password", async () => {
  const cwd = temporaryDirectory();
  const config = await readConfig({ flags: { database: "postgres://hive:sec@ret@db/x" }, env: {}, cwd });
  expect(describeConfig(config)).toEqual({
    file: null,
    values: [
      { key: "database", value: "postgres://hive@db/x", origin: "flag --database" },
      { key: "mapping", value: "hive", origin: "default" },
      { key: "migrations", value: [], origin: "default" },
      { key: "agents", value: {}, origin: "default" },
      { key: "lockBudget", value: 0.01, origin: "default" },
      { key: "busyTimeoutMs", value: 10_000, origin: "default" },
      { key: "lockTimeoutSeconds", value: 60, origin: "default" },
      { key: "checkMaxAgeMinutes", value: 60, origin: "default" },
      { key: "events", value: { retentionDays: 30, subscriberTimeoutHours: 168 }, origin: "default" },
    ],
  });
});
