import { describe, expect, test } from "vitest";
import { registry } from "../../src/cli/registry.ts";
import { ERROR_CODES, loadSchemas } from "../../src/index.ts";
import { hiveInProcess } from "../support/cli.ts";
import { temporaryDirectory } from "../support/context.ts";

const cwd = () => temporaryDirectory();

describe("help", () => {
  test("hive --help lists every command and exits with 0", async () => {
    const run = await hiveInProcess(["--help"], { cwd: cwd() });
    expect(run.code).toBe(0);
    expect(run.stderr).toBe("");
    for (const { name, summary } of registry) {
      expect(run.stdout).toContain(name);
      expect(run.stdout.replace(/\s+/g, " ")).toContain(summary);
    }
  });

  test("hive alone prints the same help, as a usage error", async () => {
    const run = await hiveInProcess([], { cwd: cwd() });
    expect(run).toMatchObject({ code: 2, stdout: "" });
    expect(run.stderr).toContain("Usage: hive");
  });

  test.each(registry.map((entry) => entry.name))("hive %s --help: fits 80 columns, in either order", async (name) => {
    const run = await hiveInProcess([...name.split(" "), "--help"], { cwd: cwd() });
    expect(run).toMatchObject({ code: 0, stderr: "" });
    expect(run.stdout).toContain(`Usage: hive ${name}`);
    for (const line of run.stdout.split("\n")) expect(line.length).toBeLessThanOrEqual(80);
    expect(await hiveInProcess(["help", ...name.split(" ")], { cwd: cwd() })).toEqual(run);
  });

  test.each(registry.map((entry) => [entry.name, entry] as const))(
    "hive %s is what the list says",
    async (_, entry) => {
      const command = await entry.load();
      expect([command.name, command.summary]).toEqual([entry.name, entry.summary]);
    },
  );

  test("a group lists its commands", async () => {
    const run = await hiveInProcess(["quarantine", "--help"], { cwd: cwd() });
    expect(run.code).toBe(0);
    expect(run.stdout).toContain("quarantine discard");
    expect(run.stdout).not.toContain("backfill");
  });

  test("--version", async () => {
    expect(await hiveInProcess(["--version"], { cwd: cwd() })).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^hive \d+\.\d+\.\d+\n$/),
    });
    expect(JSON.parse((await hiveInProcess(["--version", "--json"], { cwd: cwd() })).stdout)).toMatchObject({
      ok: true,
      result: { version: expect.stringMatching(/^\d/) },
    });
  });
});

describe("what was mistyped is answered with exit code 2 and the nearest name", () => {
  test.each([
    [["statsu"], 'did you mean "hive status"?'],
    [["migrat", "up"], 'did you mean "hive migrate up"?'],
    [["migrate", "upp"], 'did you mean "hive migrate up"?'],
    [["migrate"], '"hive migrate" needs a subcommand'],
    [["nonsense-of-some-length"], 'There is no command "hive nonsense-of-some-length".'],
    [["help", "statsu"], 'did you mean "hive status"?'],
    [["--jsn", "status"], "Unknown option '--jsn' (Did you mean --json?)"],
    [["--jsn"], "did you mean --json?"],
    [["status", "--verbos"], "Did you mean --verbose?"],
    [["migrate", "up", "--dryrun"], "Did you mean --dry-run?"],
    [["migrate", "up", "--to"], "'--to <name>' argument missing"],
    [["migrate", "up", "--step", "0"], "--step takes a whole number of at least 1"],
    [["migrate", "up", "--step", "1.5"], "--step takes a whole number"],
    [["backfill", "--lock-timeout", "soon"], "--lock-timeout takes a number"],
    [["migrate", "create"], "Missing required argument 'name'"],
    [["verify", "extra"], "Too many arguments"],
    [["rollback", "--to", "shadwo"], 'did you mean "shadow"?'],
    [["flags", "set", "ai-reviewer", "reads"], '"reads" is not FLAG=VALUE'],
    [["flags", "set", "ai-reviewer", "raeds=live"], 'did you mean "reads"?'],
    [["flags", "set", "ai-reviewer", "reads=lvie"], 'did you mean "live"?'],
    [["flags", "set", "ai-reviewer", "dual-write=yes"], "on, off"],
    [["flags", "enable"], "No agent is named"],
    [["flags", "enable", "ai-reviewer", "--all"], "not both"],
    [["flags", "enable", "ai-reviewer", "--flag", "dual-wirte"], 'did you mean "dual-write"?'],
    [["flags", "enable", "ai-reviewer", "--force"], "--force needs a reason"],
    [["flags", "set", "ai-reviewer", "reads=live", "--force", "--reason", " "], "--force needs a reason"],
    [["migrate", "down", "--force"], "--force needs a reason"],
    [["quarantine", "discard"], "Nothing to discard was named"],
    [["quarantine", "discard", "--all", "--key", "x"], "not both"],
  ])("hive %j", async (args, message) => {
    const run = await hiveInProcess(args, { cwd: cwd() });
    expect(run.code).toBe(2);
    expect(run.stdout).toBe("");
    expect(run.stderr).toMatch(/^error: /);
    expect(run.stderr).toContain(message);

    const json = await hiveInProcess([...args, "--json"], { cwd: cwd() });
    expect(json.code).toBe(2);
    expect(json.stderr).toBe("");
    // A value that is missing at the end takes --json for itself, as every option parser has it.
    if (!args.includes("--to") || args.length > 3) {
      const { ok, error } = JSON.parse(json.stdout);
      expect([ok, error.code]).toEqual([false, "USAGE"]);
    }
  });

  test("no command with --json", async () => {
    const run = await hiveInProcess(["--json"], { cwd: cwd() });
    expect(run).toMatchObject({ code: 2, stderr: "" });
    expect(JSON.parse(run.stdout)).toEqual({
      ok: false,
      command: null,
      error: {
        code: "USAGE",
        message: "No command was given.",
        hint: "`hive --help` lists the commands.",
        details: {},
      },
    });
  });

  test("after -- nothing is an option", async () => {
    const run = await hiveInProcess(["migrate", "up", "--", "--json"], { cwd: cwd() });
    expect(run.stdout).toBe("");
    expect(run.stderr).toContain("Too many arguments");
  });
});

describe("the contract", () => {
  test("every code has one of the exit codes", () => {
    expect(new Set(Object.values(ERROR_CODES).map((one) => one.exit))).toEqual(new Set([1, 2, 4, 5, 130]));
  });

  test("every command has a result schema and every schema's command exists", async () => {
    const { results } = await loadSchemas();
    const names = registry.map((entry) => entry.name);
    for (const name of names) expect(Object.keys(results)).toContain(name);
    expect(Object.keys(results).filter((name) => !names.includes(name) && name !== "demo")).toEqual([]);
  });
});
