import { once } from "node:events";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, onTestFinished, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import { HiveError } from "../../src/errors.ts";
import { hivePreset } from "../../src/presets/hive/index.ts";
import {
  type Adapter,
  commandAdapter,
  commandProbe,
  functionAdapter,
  functionProbe,
  urlAdapter,
  urlProbe,
} from "../../src/registry/adapters.ts";
import { type AgentEvent, type AgentOptions, StandardAgent } from "../../src/registry/agent.ts";
import { temporaryDirectory } from "../support/context.ts";

/** An agent of the platform, and what it told. */
function agentOf(name: string, options: Partial<AgentOptions> = {}) {
  const spec = hivePreset.agents.find((one) => one.name === name);
  if (!spec?.registration) throw new Error(`no agent ${name}`);
  const told: AgentEvent[] = [];
  const emit = async (event: AgentEvent) => {
    told.push(event);
    return { id: `event-${told.length}` };
  };
  const agent = new StandardAgent({
    spec: { ...spec, registration: spec.registration },
    emit,
    clock: systemClock,
    ...options,
  });
  onTestFinished(() => agent[Symbol.asyncDispose]());
  return { agent, told };
}

async function refusal(work: Promise<unknown>): Promise<HiveError> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof HiveError)) throw new Error(`expected a HiveError, got ${String(error)}`);
  return error;
}

/** A program in JavaScript. */
function program(text: string, ...args: string[]) {
  const cwd = temporaryDirectory();
  writeFileSync(join(cwd, "agent.cjs"), text);
  return { command: [process.execPath, "agent.cjs", ...args], cwd };
}
const READ = 'const input = JSON.parse(require("node:fs").readFileSync(0, "utf8"));';
const GOOD = `{ files_modified: ["a.ts"], status: "done" }`;
const TASK = { id: "t1", input: { description: "do it" } };

async function server(listener: RequestListener): Promise<string> {
  const http = createServer(listener).listen(0, "127.0.0.1");
  await once(http, "listening");
  onTestFinished(() => {
    http.closeAllConnections();
    http.close();
  });
  return `http://127.0.0.1:${(http.address() as AddressInfo).port}/run`;
}

const alive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    // A zombie has ended; nobody has asked for its end yet.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
};
async function until(fact: () => boolean): Promise<void> {
  while (!fact()) await delay(5);
}

describe("what is told of a task", () => {
  test.each([
    [
      "ai-reviewer",
      { code_path: "a.py" },
      { review_score: 91, violations: [] },
      "review.requested",
      "review.completed",
      "agent.error",
    ],
    ["ai-planner", { description: "x" }, { plan: {}, phases: [] }, "plan.requested", "plan.generated", "agent.error"],
    [
      "ai-deployer",
      { service_name: "s", environment: "e" },
      { deployment_id: "d", status: "ok" },
      "deployment.requested",
      "deployment.completed",
      "deployment.failed",
    ],
    [
      "hive-coder",
      { description: "x" },
      { files_modified: [], status: "ok" },
      "task.started",
      "task.completed",
      "task.failed",
    ],
    ["guardian", { target: "x" }, { status: "ok", alerts: [] }, "task.started", "task.completed", "task.failed"],
  ])(
    "%s: begins, and ends well or not, each caused by the one before",
    async (name, input, output, started, completed, failed) => {
      const { agent, told } = agentOf(name, { adapter: functionAdapter(() => ({ ...output, more: 1 })) });
      const task = { id: "t1", correlationId: "c1", causationId: "before", input };
      expect(await agent.execute(task)).toMatchObject({ taskId: "t1", correlationId: "c1", output, untold: null });
      const shared = { sourceAgent: name, correlationId: "c1", subject: "t1" };
      const asked = { task_id: "t1", agent_id: `${name}-adapter`, ...input };
      expect(told).toEqual([
        { ...shared, type: started, causationId: "before", payload: asked },
        { ...shared, type: completed, causationId: "event-1", payload: { ...asked, ...output } },
      ]);
      const sick = agentOf(name, {
        adapter: functionAdapter(() => {
          throw new Error("no memory");
        }),
      });
      expect(await refusal(sick.agent.execute(task))).toMatchObject({ code: "AGENT_FAILED" });
      expect(sick.told).toMatchObject([
        { type: started },
        { type: failed, causationId: "event-1", payload: { ...asked, error: expect.stringContaining("no memory") } },
      ]);
      // Whatever it tells, it is registered for.
      const emits = hivePreset.agents.find((one) => one.name === name)?.registration?.emits;
      for (const { type } of [...told, ...sick.told]) expect(emits).toContain(type);
    },
  );

  test("an input that does not fit is refused before anything is told or done", async () => {
    let asked = 0;
    const adapter = functionAdapter(() => {
      asked += 1;
    });
    const { agent, told } = agentOf("ai-reviewer", { adapter });
    for (const input of [{}, { code_path: 7 }, { code_path: "" }, null, "a.py", { code_path: "a", pr_id: 1.5 }]) {
      const error = await refusal(agent.execute({ input }));
      expect(error).toMatchObject({ code: "TASK_INVALID", exitCode: 2 });
    }
    expect((await refusal(agent.execute({ input: {} }))).message).toContain("code_path");
    expect([asked, told]).toEqual([0, []]);
  });

  test("an answer that does not fit is a failure", async () => {
    const { agent, told } = agentOf("ai-reviewer", { adapter: functionAdapter(() => ({ review_score: 101 })) });
    const error = await refusal(agent.execute({ input: { code_path: "a.py" } }));
    expect(error).toMatchObject({ code: "AGENT_FAILED", message: expect.stringContaining("review_score") });
    expect(told.map(({ type }) => type)).toEqual(["review.requested", "agent.error"]);
  });

  test("nothing is begun that cannot be told; what is done stays done when its end cannot be told", async () => {
    let asked = 0;
    const adapter = functionAdapter(() => {
      asked += 1;
      return { files_modified: [], status: "ok" };
    });
    const failingAt = (n: number) => {
      let calls = 0;
      return async () => {
        calls += 1;
        if (calls >= n) throw new HiveError("DATABASE_BUSY", "the database is busy");
        return { id: "e" };
      };
    };
    const first = agentOf("hive-coder", { adapter, emit: failingAt(1) });
    expect(await refusal(first.agent.execute(TASK))).toMatchObject({ code: "DATABASE_BUSY" });
    expect(asked).toBe(0);
    const second = agentOf("hive-coder", { adapter, emit: failingAt(2) });
    expect(await second.agent.execute(TASK)).toMatchObject({
      untold: "the database is busy",
      output: { status: "ok" },
    });
    const third = agentOf("hive-coder", {
      adapter: functionAdapter(() => Promise.reject(new Error("x"))),
      emit: failingAt(2),
    });
    expect(await refusal(third.agent.execute(TASK))).toMatchObject({
      code: "AGENT_FAILED",
      details: { untold: "the database is busy" },
    });
  });

  test("where the agent's events are off, the cause is the one that the task came with", async () => {
    const causes: (string | null)[] = [];
    const emit = async ({ causationId }: AgentEvent) => {
      causes.push(causationId);
      return null;
    };
    const { agent } = agentOf("hive-coder", {
      adapter: functionAdapter(() => ({ files_modified: [], status: "ok" })),
      emit,
    });
    await agent.execute({ ...TASK, causationId: "before" });
    expect(causes).toEqual(["before", "before"]);
  });

  test("an agent without an adapter says what it lacks", async () => {
    const { agent, told } = agentOf("hive-coder");
    expect(await refusal(agent.execute(TASK))).toMatchObject({
      code: "USAGE",
      hint: expect.stringContaining("agents.hive-coder"),
    });
    expect(told).toEqual([]);
  });
});

describe("a command", () => {
  const run = (text: string, options: Partial<AgentOptions> = {}, task: object = {}) => {
    const { agent, told } = agentOf("hive-coder", { adapter: commandAdapter(program(text)), ...options });
    return { result: agent.execute({ ...TASK, ...task }), told };
  };

  test("takes JSON from stdin, and gives JSON; it is told which task it is", async () => {
    const text = `${READ} const { HIVE_TASK_ID: task, HIVE_CORRELATION_ID: work, HIVE_AGENT_ID: agent } = process.env;
      console.log(JSON.stringify({ ...${GOOD}, input, task, work, agent, cwd: process.cwd() }));`;
    const { result } = run(text, {}, { correlationId: "c\u00e4" });
    expect((await result).output).toMatchObject({
      input: TASK.input,
      task: "t1",
      work: "c\u00e4",
      agent: "hive-coder-adapter",
    });
  });

  test("a large input that is never read, and a large answer, pass", async () => {
    const text = `console.log(JSON.stringify({ ...${GOOD}, big: "x".repeat(4e6) }));`;
    const { result } = run(text, {}, { input: { description: "y".repeat(4e6) } });
    expect((await result).output).toHaveProperty("big.length", 4e6);
  });

  test.each([
    [
      "ends with a code",
      'console.error("first"); console.error("no memory"); process.exit(7)',
      "ended with 7: no memory",
    ],
    ["is killed", 'process.kill(process.pid, "SIGKILL")', "killed by SIGKILL"],
    ["says nothing", "", "answered nothing"],
    ["says garbage", 'console.log("Traceback: {")', "no JSON: Traceback"],
    ["says two things", `console.log("{}"); console.log("{}")`, "no JSON"],
    ["says it in another encoding", "process.stdout.write(Buffer.from([0x22, 0xff, 0x22]))", "no JSON"],
    ["says too much", 'for (let i = 0; i < 40; i++) process.stdout.write("x".repeat(1e6))', "more than 16777216 bytes"],
    ["lacks a part of the answer", 'console.log("{}")', "files_modified"],
  ])("that %s has failed", async (_, text, reason) => {
    const { result, told } = run(text);
    const error = await refusal(result);
    expect(error).toMatchObject({ code: "AGENT_FAILED", retryable: false });
    expect(error.message).toContain(reason);
    expect(told.map(({ type }) => type)).toEqual(["task.started", "task.failed"]);
  });

  test("what it says on stderr is kept, but not all of it", async () => {
    const error = await refusal(run('console.error("a".repeat(1e6) + "\\nthe end"); process.exitCode = 1').result);
    expect(String(error.details.stderr).length).toBeLessThanOrEqual(2_000);
    expect(error.message.endsWith("the end")).toBe(true);
    expect(
      (await refusal(run('console.error("b".repeat(1e6)); process.exitCode = 1').result)).message.length,
    ).toBeLessThan(500);
  });

  test("that is not there, or may not be executed", async () => {
    const cwd = temporaryDirectory();
    writeFileSync(join(cwd, "plain"), "no program");
    for (const command of [["./nowhere"], ["./plain"]]) {
      const { agent } = agentOf("hive-coder", { adapter: commandAdapter({ command, cwd }) });
      const error = await refusal(agent.execute(TASK));
      expect(error).toMatchObject({ code: "AGENT_FAILED", hint: expect.stringContaining("command") });
      expect(error.message).toContain("cannot be started");
    }
  });

  const HANGS = (log: string) => `
    process.on("SIGTERM", () => {});
    const child = require("node:child_process").spawn(process.execPath,
      ["-e", "process.on('SIGTERM', () => {}); setInterval(() => {}, 1000)"], { stdio: "inherit" });
    require("node:fs").writeFileSync(${JSON.stringify(log)}, process.pid + " " + child.pid);
    setInterval(() => {}, 1000);`;
  const pids = (log: string) => readFileSync(log, "utf8").split(" ").map(Number);

  test("that hangs and heeds no SIGTERM is ended in time, and all that it has started", async () => {
    const log = join(temporaryDirectory(), "pids");
    const { result, told } = run(HANGS(log), {}, { timeoutMs: 1_500 });
    const error = await refusal(result);
    expect(error).toMatchObject({
      code: "AGENT_UNAVAILABLE",
      retryable: true,
      message: expect.stringContaining("1500 ms"),
    });
    expect(told.at(-1)?.type).toBe("task.failed");
    for (const pid of pids(log)) await until(() => !alive(pid));
  });

  test("is ended when the caller aborts, and when the agent is closed", async () => {
    for (const how of ["abort", "close"]) {
      const log = join(temporaryDirectory(), "pids");
      const { agent } = agentOf("hive-coder", { adapter: commandAdapter(program(HANGS(log))) });
      const abort = new AbortController();
      const ended = refusal(agent.execute({ ...TASK, abort: abort.signal }));
      await until(() => existsSync(log) && pids(log).length === 2);
      if (how === "abort") abort.abort();
      else await agent[Symbol.asyncDispose]();
      expect(await ended).toMatchObject({ code: "INTERRUPTED" });
      for (const pid of pids(log)) await until(() => !alive(pid));
    }
  });

  test("one who aborted before it began gets nothing done", async () => {
    const log = join(temporaryDirectory(), "pids");
    const { result } = run(HANGS(log), {}, { abort: AbortSignal.abort() });
    expect(await refusal(result)).toMatchObject({ code: "INTERRUPTED" });
    expect(existsSync(log)).toBe(false);
  });

  test("whose child keeps its output open is not waited for; what it left behind goes on", async () => {
    const log = join(temporaryDirectory(), "pid");
    const { result } = run(`
      const child = require("node:child_process").spawn("sleep", ["100"], { stdio: "inherit" });
      require("node:fs").writeFileSync(${JSON.stringify(log)}, String(child.pid));
      console.log(JSON.stringify(${GOOD}));
      process.exit(0);`);
    expect((await result).output).toMatchObject({ status: "done" });
    const pid = Number(readFileSync(log, "utf8"));
    expect(alive(pid)).toBe(true);
    process.kill(pid, "SIGKILL");
  });

  test("that is killed from outside has failed", async () => {
    const log = join(temporaryDirectory(), "pids");
    const { result } = run(HANGS(log));
    const ended = refusal(result);
    await until(() => existsSync(log) && pids(log).length === 2);
    const [first = 0, second = 0] = pids(log);
    process.kill(first, "SIGKILL");
    expect(await ended).toMatchObject({ code: "AGENT_FAILED", message: expect.stringContaining("SIGKILL") });
    process.kill(second, "SIGKILL");
  });
});

describe("an endpoint", () => {
  const run = async (listener: RequestListener, task: object = {}, options: Partial<AgentOptions> = {}) => {
    const { agent, told } = agentOf("hive-coder", { adapter: urlAdapter(await server(listener)), ...options });
    return { result: agent.execute({ ...TASK, ...task }), told };
  };

  test("takes JSON by POST, and gives JSON; it is told which task it is", async () => {
    const { result } = await run(
      async (request, response) => {
        const chunks: Buffer[] = [];
        for await (const chunk of request) chunks.push(chunk);
        const input: unknown = JSON.parse(Buffer.concat(chunks).toString());
        const { "content-type": type, "hive-task-id": id, "hive-correlation-id": work } = request.headers;
        response.end(
          JSON.stringify({ files_modified: [], status: "ok", input, type, id, work, method: request.method }),
        );
      },
      { correlationId: "c\u00e4" },
    );
    expect((await result).output).toMatchObject({
      input: TASK.input,
      method: "POST",
      type: "application/json",
      id: "t1",
      work: encodeURIComponent("c\u00e4"),
    });
  });

  test.each<[string, number, string, string, "AGENT_FAILED" | "AGENT_UNAVAILABLE"]>([
    ["an error", 500, "no memory", "500: no memory", "AGENT_FAILED"],
    ["that it is not there", 404, "", "answered 404", "AGENT_FAILED"],
    ["that it is busy", 503, "later", "503: later", "AGENT_UNAVAILABLE"],
    ["that it is asked too often", 429, "", "429", "AGENT_UNAVAILABLE"],
    ["garbage", 200, "<html>", "no JSON: <html>", "AGENT_FAILED"],
    ["nothing", 200, "", "nothing", "AGENT_FAILED"],
    ["something else", 200, "[]", "expected object", "AGENT_FAILED"],
    ["another place", 302, "", "302", "AGENT_FAILED"],
  ])("that answers %s has failed", async (_, status, body, reason, code) => {
    const { result, told } = await run((_request, response) => {
      response.writeHead(status, { location: "/elsewhere" }).end(body);
    });
    const error = await refusal(result);
    expect(error.code).toBe(code);
    expect(error.message).toContain(reason);
    expect(told.map(({ type }) => type)).toEqual(["task.started", "task.failed"]);
  });

  test("that hangs, before its answer or in it, is given up in time", async () => {
    for (const begins of [false, true]) {
      const { result } = await run(
        (_request, response) => {
          if (begins) response.writeHead(200).write('{"files_modified"');
        },
        { timeoutMs: 100 },
      );
      expect(await refusal(result)).toMatchObject({
        code: "AGENT_UNAVAILABLE",
        message: expect.stringContaining("100 ms"),
      });
    }
  });

  test("that breaks off, or that nobody serves, was not reached", async () => {
    const { result } = await run((request) => {
      request.socket.destroy();
    });
    expect(await refusal(result)).toMatchObject({ code: "AGENT_UNAVAILABLE", retryable: true });
    const http = createServer().listen(0, "127.0.0.1");
    await once(http, "listening");
    const url = `http://127.0.0.1:${(http.address() as AddressInfo).port}/x?token=secret`;
    await new Promise((resolve) => http.close(resolve));
    const { agent } = agentOf("hive-coder", { adapter: urlAdapter(url) });
    const error = await refusal(agent.execute(TASK));
    expect(error).toMatchObject({ code: "AGENT_UNAVAILABLE", message: expect.stringContaining("ECONNREFUSED") });
    expect(error.message).not.toContain("secret");
  });

  test("that never ends its answer is cut off", async () => {
    const { result } = await run((_request, response) => {
      const more = () => {
        while (!response.destroyed && response.write("x".repeat(1e6)));
      };
      response.on("drain", more);
      more();
    });
    expect(await refusal(result)).toMatchObject({ code: "AGENT_FAILED", message: expect.stringContaining("bytes") });
  });
});

describe("a function", () => {
  test("that does not heed the time is left alone, and its answer is dropped", async () => {
    let release: (value: unknown) => void = () => undefined;
    const adapter: Adapter = functionAdapter(() => new Promise((resolve) => (release = resolve)));
    const { agent, told } = agentOf("hive-coder", { adapter });
    expect(await refusal(agent.execute({ ...TASK, timeoutMs: 50 }))).toMatchObject({ code: "AGENT_UNAVAILABLE" });
    release({ files_modified: [], status: "ok" });
    await delay(1);
    expect(told.map(({ type }) => type)).toEqual(["task.started", "task.failed"]);
  });

  test("may fail with an error of hive's own, which stays what it is", async () => {
    const adapter = functionAdapter(() => Promise.reject(new HiveError("GUARD_REFUSED", "not now")));
    expect(await refusal(agentOf("hive-coder", { adapter }).agent.execute(TASK))).toMatchObject({
      code: "GUARD_REFUSED",
    });
  });
});

describe("how an agent is", () => {
  const check = (probe: AgentOptions["probe"], healthTimeoutMs = 5_000) =>
    agentOf("guardian", { probe, healthTimeoutMs }).agent.healthCheck();
  const command = (text: string) => commandProbe("guardian-adapter", program(text));

  test.each<[string, unknown, string, string | null]>([
    ["true", true, "healthy", null],
    ["nothing", undefined, "healthy", null],
    ["ok", { status: "ok" }, "healthy", null],
    ["UP, with more", { status: "UP", detail: "12 tasks" }, "healthy", null],
    ["something without a status", { version: 7 }, "healthy", null],
    ["false", false, "unhealthy", "it says that it is not healthy"],
    ["not healthy", { healthy: false, detail: "no memory" }, "unhealthy", "no memory"],
    ["degraded", { status: "degraded" }, "unhealthy", "it says: degraded"],
    ["a status that is none", { status: 7, detail: { disk: 0 } }, "unhealthy", '{"disk":0}'],
  ])("a function that says %s", async (_, answer, status, detail) => {
    expect(await check(functionProbe(() => answer))).toEqual({ status, detail, latencyMs: expect.any(Number) });
  });

  test("a command: its exit code, and what it says", async () => {
    expect(await check(command(""))).toMatchObject({ status: "healthy" });
    expect(await check(command('console.log("all is well")'))).toMatchObject({ status: "healthy" });
    expect(await check(command(`console.log('{"status":"sick","detail":"no disk"}')`))).toMatchObject({
      status: "unhealthy",
      detail: "no disk",
    });
    expect(await check(command('console.error("no memory"); process.exit(3)'))).toMatchObject({
      status: "unhealthy",
      detail: "the health command ended with 3: no memory",
    });
    expect(await check(command('process.kill(process.pid, "SIGKILL")'))).toMatchObject({
      status: "unhealthy",
      detail: "the health command was killed by SIGKILL",
    });
    expect(await check(command("setInterval(() => {}, 1000)"), 200)).toMatchObject({
      status: "unhealthy",
      detail: "no answer within 200 ms",
    });
    expect(
      (await check(commandProbe("guardian-adapter", { command: ["./nowhere"], cwd: temporaryDirectory() }))).detail,
    ).toContain("cannot be started");
  });

  test("an endpoint: its status, and what it says", async () => {
    const at = async (listener: RequestListener) => urlProbe("guardian-adapter", await server(listener));
    expect(await check(await at((_, response) => response.end("fine")))).toMatchObject({ status: "healthy" });
    expect(await check(await at((_, response) => response.end('{"status":"DOWN"}')))).toMatchObject({
      status: "unhealthy",
      detail: "it says: DOWN",
    });
    const sick = await check(await at((_, response) => response.writeHead(503).end("starting")));
    expect(sick).toMatchObject({ status: "unhealthy", detail: expect.stringContaining("503: starting") });
    expect(await check(await at(() => undefined), 100)).toMatchObject({
      status: "unhealthy",
      detail: "no answer within 100 ms",
    });
  });

  test("without anything to ask, nobody knows", async () => {
    expect(await check(undefined)).toMatchObject({ status: "unknown", latencyMs: null });
  });
});
