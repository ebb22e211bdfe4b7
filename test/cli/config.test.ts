import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { describe, expect, test } from "vitest";
import { configSchema } from "../../src/config-schema.ts";
import { config as configResult, init as initResult } from "../../src/results.ts";
import { hiveInProcess, hiveOnTerminal, plain } from "../support/cli.ts";
import { temporaryDirectory } from "../support/context.ts";

function emptyDatabase(path: string): void {
  const database = new Database(path);
  database.exec("CREATE TABLE tasks (id TEXT PRIMARY KEY, title TEXT)");
  database.close();
}

function written(folder: string): unknown {
  return JSON.parse(readFileSync(join(folder, "hive.config.json"), "utf8"));
}

describe("hive config", () => {
  test("shows every value and its origin, globals before or after", async () => {
    const cwd = temporaryDirectory();
    const env = { HIVE_LOCK_BUDGET: "0.02" };
    const before = await hiveInProcess(["--database", "x.db", "--json", "config"], { cwd, env });
    const after = await hiveInProcess(["config", "--json", "--database=x.db"], { cwd, env });
    expect(after).toEqual(before);
    expect(before).toMatchObject({ code: 0, stderr: "" });
    const { ok, command, result } = JSON.parse(before.stdout);
    expect([ok, command]).toEqual([true, "config"]);
    expect(configResult.strict().parse(result).values).toContainEqual({
      key: "lockBudget",
      value: 0.02,
      origin: "environment HIVE_LOCK_BUDGET",
    });
  });

  test("for people: not set is said, and it fits", async () => {
    const run = await hiveInProcess(["config"], { cwd: temporaryDirectory() });
    expect(run.code).toBe(0);
    expect(run.stdout).toMatch(/database +not set +default/);
    expect(run.stdout).toContain("no config file");
    for (const line of run.stdout.split("\n")) expect(line.length).toBeLessThanOrEqual(80);
  });

  test("a config that is wrong is an error with its code, for people and as JSON", async () => {
    const cwd = temporaryDirectory();
    writeFileSync(join(cwd, ".hiverc"), "databse: x.db\n");
    const run = await hiveInProcess(["config"], { cwd });
    expect(run).toMatchObject({ code: 2, stdout: "" });
    expect(run.stderr).toContain('did you mean "database"?');
    const json = JSON.parse((await hiveInProcess(["status", "--json"], { cwd })).stdout);
    expect(json).toMatchObject({ ok: false, command: "status", error: { code: "CONFIG_INVALID" } });
  });
});

describe("hive init", () => {
  test("--yes takes the defaults: the one database there is", async () => {
    const cwd = temporaryDirectory();
    emptyDatabase(join(cwd, "legacy.sqlite"));
    const run = await hiveInProcess(["init", "--yes", "--json"], { cwd });
    expect(run.code).toBe(0);
    const file = join(cwd, "hive.config.json");
    expect(initResult.strict().parse(JSON.parse(run.stdout).result)).toEqual({ file, written: true });
    expect(configSchema.parse(written(cwd))).toMatchObject({ database: "sqlite:./legacy.sqlite", mapping: "hive" });
  });

  test("of several databases none is guessed", async () => {
    const cwd = temporaryDirectory();
    emptyDatabase(join(cwd, "a.db"));
    emptyDatabase(join(cwd, "b.db"));
    expect((await hiveInProcess(["init", "--yes"], { cwd })).code).toBe(0);
    expect(written(cwd)).toMatchObject({ database: "sqlite:./hive.db" });
  });

  test("what is named is written relative to the file", async () => {
    const cwd = temporaryDirectory();
    const args = [
      "init",
      "--yes",
      "--config",
      "etc/hive.config.json",
      "--database",
      "sqlite:x.db",
      "--mapping",
      "./m.js",
    ];
    expect((await hiveInProcess(args, { cwd })).code).toBe(0);
    expect(JSON.parse(readFileSync(join(cwd, "etc/hive.config.json"), "utf8"))).toEqual({
      database: "sqlite:../x.db",
      mapping: "../m.js",
    });
  });

  test.each([[[]], [["--no-input"]], [["--json"]]])("without an answer nothing is written: %j", async (extra) => {
    const cwd = temporaryDirectory();
    const run = await hiveInProcess(["init", ...extra], { cwd });
    expect(run.code).toBe(2);
    expect(run.stdout + run.stderr).toContain("There is nobody to ask");
    if (extra.includes("--json")) expect(JSON.parse(run.stdout).error.code).toBe("CONFIRMATION_NEEDED");
    expect(() => written(cwd)).toThrow();
  });

  test("a config that is there is only replaced with --force", async () => {
    const cwd = temporaryDirectory();
    writeFileSync(join(cwd, "hive.config.json"), '{"database":"mine.db"}');
    const refused = await hiveInProcess(["init", "--yes"], { cwd });
    expect(refused.code).toBe(2);
    expect(refused.stderr).toContain("--force");
    expect(written(cwd)).toEqual({ database: "mine.db" });
    expect((await hiveInProcess(["init", "--yes", "--force"], { cwd })).code).toBe(0);
    expect(written(cwd)).toEqual({ database: "sqlite:./hive.db", mapping: "hive" });
  });

  test("on a terminal it asks, and takes what is typed", async () => {
    const cwd = temporaryDirectory();
    emptyDatabase(join(cwd, "found.db"));
    const { code, screen } = await hiveOnTerminal(
      ["init"],
      [
        { expect: "Database", type: "\r" },
        { expect: "Mapping", type: "./mine.js\r" },
      ],
      { cwd },
    );
    expect(plain(screen)).toContain("found.db");
    expect(plain(screen)).toContain("Wrote");
    expect(code).toBe(0);
    expect(written(cwd)).toEqual({ database: "sqlite:./found.db", mapping: "./mine.js" });
  });

  test("on a terminal: no to replacing, and Ctrl-C, leave everything as it is", async () => {
    const cwd = temporaryDirectory();
    writeFileSync(join(cwd, "hive.config.json"), '{"database":"mine.db"}');
    const no = await hiveOnTerminal(["init"], [{ expect: "Replace it?", type: "n\r" }], { cwd });
    expect(no.code).toBe(0);
    expect(plain(no.screen)).toContain("was left as it is");
    const interrupted = await hiveOnTerminal(["init"], [{ expect: "Replace it?", type: "\u0003" }], { cwd });
    expect(interrupted.code).toBe(130);
    expect(plain(interrupted.screen)).toContain("Interrupted");
    expect(written(cwd)).toEqual({ database: "mine.db" });
  });

  test("on a terminal with --no-input nothing is asked", async () => {
    const { code, screen } = await hiveOnTerminal(["init", "--no-input"], [], { cwd: temporaryDirectory() });
    expect(code).toBe(2);
    expect(plain(screen)).toContain("nobody to ask");
  });
});
