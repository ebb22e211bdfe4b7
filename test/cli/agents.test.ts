import { existsSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { BACKENDS } from "../support/backends.ts";
import { hiveInProcess, hiveOnTerminal, plain, runHive } from "../support/cli.ts";
import { smallPlatform, smallPlatformOn } from "../support/small-platform.ts";

/** Healthy while this file is there. */
const WELL = ["sh", "-c", "test -e well || { echo no file >&2; exit 1; }"];
const ALL = ["ai-reviewer", "ai-planner", "ai-deployer", "hive-coder", "guardian"];

async function platform(agents: object = Object.fromEntries(ALL.map((name) => [name, { health: { command: WELL } }]))) {
  const cwd = smallPlatform({ config: false });
  writeFileSync(join(cwd, "hive.config.json"), JSON.stringify({ database: "sqlite:./hive.db", agents }));
  writeFileSync(join(cwd, "well"), "");
  expect((await hiveInProcess(["migrate", "up"], { cwd })).code).toBe(0);
  return cwd;
}

const json = async (cwd: string, ...args: string[]) => {
  const run = await hiveInProcess([...args, "--json"], { cwd });
  return { ...run, answer: JSON.parse(run.stdout) };
};

test.each(BACKENDS)("on $name: five agents, of whom nobody knows how they are until somebody asks", async (backend) => {
  const { cwd } = await smallPlatformOn(backend);
  expect((await hiveInProcess(["agents", "list"], { cwd })).stderr).toContain("hive migrate up");
  expect((await json(cwd, "agents", "list")).code).toBe(4);
  await hiveInProcess(["migrate", "up"], { cwd });
  const { answer } = await json(cwd, "agents", "list");
  expect(answer.result.agents[0]).toEqual({
    agent: "ai-reviewer",
    agentId: "ai-reviewer-adapter",
    agentType: "ai-reviewer",
    capabilities: ["review"],
    status: "unknown",
    detail: "no health check and no heartbeat yet",
    lastHeartbeatAt: null,
  });
  expect(answer.result.agents.map((one: { agent: string }) => one.agent)).toEqual(ALL);
  expect((await json(cwd, "agents", "list", "--type", "guardian")).answer.result.agents).toHaveLength(1);
  expect((await hiveInProcess(["agents", "list", "--capability", "fly"], { cwd })).stdout).toContain("No such agent");
  const health = await json(cwd, "agents", "health");
  expect([health.code, health.answer.ok, health.answer.result.healthy]).toEqual([3, true, false]);
  expect((await json(cwd, "verify")).answer.result).toMatchObject({ ok: true, agents: 5, eventTypes: 28 });
});

test("health: what the agents say, for people and programs; the exit code is the verdict", async () => {
  const cwd = await platform();
  const good = await hiveInProcess(["agents", "health"], { cwd });
  expect([good.code, good.stdout.trimEnd().split("\n").at(-1)]).toEqual([0, "All agents are healthy."]);
  rmSync(join(cwd, "well"));
  const dry = await hiveInProcess(["agents", "health", "--dry-run"], { cwd });
  expect(dry.code).toBe(3);
  expect((await json(cwd, "agents", "list")).answer.result.agents[0].status).toBe("healthy");
  const bad = await hiveInProcess(["agents", "health", "ai-planner", "guardian-adapter"], { cwd });
  expect(bad.code).toBe(3);
  expect(bad.stdout).toContain("ai-planner: the health command ended with 1: no file\n");
  expect(bad.stdout).toContain("2 of 2 agents are not healthy.");
  const list = await hiveInProcess(["agents", "list"], { cwd });
  expect(list.code).toBe(0);
  expect(list.stdout).toMatch(/ai-planner +plan +unhealthy +never +the health command/);
  expect(list.stdout).toMatch(/ai-reviewer +review +healthy/);
  const show = await hiveInProcess(["agents", "show", "ai-planner"], { cwd });
  expect(show.stdout).toMatch(/emits +plan.requested, plan.generated, agent.error/);
  expect(show.stdout).toMatch(/adapter +none: nothing in the config/);
  expect((await json(cwd, "agents", "show", "ai-planer")).answer.error).toMatchObject({
    code: "UNKNOWN_AGENT",
    details: { nearest: "ai-planner" },
  });
  expect((await json(cwd, "agents", "health", "--interval", "1")).answer.error.code).toBe("USAGE");
  expect((await hiveInProcess(["status"], { cwd })).stdout).toMatch(/health \(1 h\) +42 % of 12 checks/);
});

test("an agent that hangs is given up after the time that was asked for", async () => {
  const cwd = await platform({ guardian: { health: { command: ["sleep", "100"], timeoutMs: 60_000 } } });
  const { answer } = await json(cwd, "agents", "health", "guardian", "--timeout", "0.2");
  expect(answer.result.agents).toMatchObject([{ status: "unhealthy", detail: "no answer within 200 ms" }]);
});

describe("--watch", () => {
  /** Goes on when so many lines were written, and ends after as many as there are steps. */
  async function watching(cwd: string, args: string[], steps: readonly (() => void)[]) {
    let lines = 0;
    const run = await runHive(["agents", "health", "--watch", "--interval", "0.1", ...args], {
      cwd,
      onStart: (child) => {
        child.stdout?.on("data", (text: Buffer) => {
          for (const _ of text.toString().matchAll(/\n/g)) {
            const step = steps[lines];
            lines += 1;
            if (step) step();
            if (lines === steps.length) child.kill("SIGTERM");
          }
        });
      },
    });
    return { ...run, lines: run.stdout.trimEnd().split("\n") };
  }

  test("without a terminal: a line when something changes, and by whom; the exit code is that of the last round", async () => {
    const cwd = await platform();
    const well = join(cwd, "well");
    const run = await watching(cwd, [], [() => rmSync(well), () => undefined]);
    expect(run.lines[0]).toMatch(/^\d{4}-\S+Z 5 of 5 healthy$/);
    expect(run.lines[1]).toMatch(/Z \d of 5 healthy; .*is unhealthy \(the health command ended with 1: no file\)/);
    expect(run.code).toBe(3);
    expect(existsSync(well)).toBe(false);
  });

  test("--json: one object a line, of the same form throughout; the last one is the result", async () => {
    const cwd = await platform();
    const run = await watching(cwd, ["--json"], [() => undefined, () => undefined, () => undefined]);
    expect(run.code).toBe(0);
    expect(run.lines.length).toBeGreaterThanOrEqual(4);
    for (const line of run.lines) {
      const answer = JSON.parse(line);
      expect(answer).toMatchObject({ ok: true, command: "agents health", result: { healthy: true } });
      expect(answer.result.agents).toHaveLength(5);
    }
  });

  test("on a terminal it redraws in place, and Ctrl-C leaves the last state", async () => {
    const cwd = await platform();
    const { code, screen } = await hiveOnTerminal(
      ["agents", "health", "--watch", "--interval", "0.1"],
      [
        { expect: "Ctrl-C ends it", type: "" },
        { expect: "Ctrl-C ends it", type: "\u0003" },
      ],
      { cwd },
    );
    expect(code).toBe(0);
    expect(screen).toContain("\u001b[7A");
    expect(plain(screen).trimEnd().split("\n").at(-1)).toBe("All agents are healthy.");
  });
});
