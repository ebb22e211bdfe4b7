import { spawn } from "node:child_process";
import { HiveError } from "../errors.ts";

/** What an adapter hands to the agent that it wraps. */
export interface Request {
  readonly agentId: string;
  readonly taskId: string;
  readonly correlationId: string;
  /** JSON. */
  readonly input: unknown;
  /** Aborted when nobody waits for the answer any more. */
  readonly abort: AbortSignal;
}

/**
 * Reaches a real agent: gives its answer, as JSON.
 * @throws AGENT_FAILED (it says so, or what it says is no answer), AGENT_UNAVAILABLE (it was not reached)
 */
export interface Adapter {
  readonly kind: "function" | "command" | "url";
  call(request: Request): Promise<unknown>;
}

/** Longer answers are refused: they would not fit into an event either. */
const MOST_BYTES = 16 * 1024 * 1024;
/** What is shown of what an agent said. */
const SHOWN = 300;
const STDERR_KEPT = 2_000;
/** From SIGTERM to SIGKILL. */
const GRACE_MS = 1_000;
/** What a program has written is in the pipe when it ends; another one that it left behind may hold the pipe open. */
const DRAIN_MS = 500;

/** An agent in this process. An `abort` that it does not heed leaves it running, and its answer is dropped. */
export function functionAdapter<I>(run: (input: I, request: Request) => unknown): Adapter {
  return {
    kind: "function",
    call: async (request) => {
      try {
        // What it takes is what the mapping's schema lets through.
        return (await run(request.input as I, request)) ?? null;
      } catch (error) {
        if (error instanceof HiveError) throw error;
        throw failed(request, error instanceof Error ? error.message : String(error), {}, error);
      }
    },
  };
}

export interface CommandOptions {
  /** The program and its arguments: no shell is in between. */
  readonly command: readonly string[];
  readonly cwd: string;
  /** Default: this process's. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

/**
 * A program that reads its input as JSON from stdin, writes its answer as JSON to stdout, and ends with 0. It gets a
 * process group of its own; when it is aborted all of it is ended, by SIGTERM and a second later by SIGKILL.
 */
export function commandAdapter({ command, cwd, env = process.env }: CommandOptions): Adapter {
  return {
    kind: "command",
    call: async (request) => {
      const { code, signal, stdout, stderr } = await runProgram(command, cwd, env, request);
      if (signal !== null) throw failed(request, `its command was killed by ${signal}`, { signal, stderr });
      if (code !== 0) {
        const said = lastLine(stderr);
        throw failed(request, `its command ended with ${code}${said === "" ? "" : `: ${said}`}`, {
          exitCode: code,
          stderr,
        });
      }
      return parsed(request, stdout, { stderr });
    },
  };
}

/** Takes the input as JSON by POST, and answers with 2xx and JSON. Redirects are not followed. */
export function urlAdapter(url: string): Adapter {
  return {
    kind: "url",
    call: async (request) => {
      const { status, body } = await send(request, url, {
        method: "POST",
        headers: { "content-type": "application/json", ...aboutTask(request) },
        body: JSON.stringify(request.input),
      });
      return parsed(request, body, { status });
    },
  };
}

export type HealthStatus = "healthy" | "unhealthy" | "unknown";

export interface HealthAnswer {
  readonly status: HealthStatus;
  readonly detail: string | null;
}

/** Asks an agent how it is. Throws where it does not say so. */
export interface HealthProbe {
  readonly kind: "function" | "command" | "url";
  ask(abort: AbortSignal): Promise<HealthAnswer>;
}

export function functionProbe(check: () => unknown): HealthProbe {
  return { kind: "function", ask: async () => answered(await check()) };
}

/** Healthy: it ends with 0, and does not say otherwise as JSON: `{"status": "unhealthy", "detail": …}`. */
export function commandProbe(agentId: string, options: CommandOptions): HealthProbe {
  const { command, cwd, env = process.env } = options;
  return {
    kind: "command",
    ask: async (abort) => {
      const request = { agentId, taskId: "", correlationId: "", input: null, abort };
      const { code, signal, stdout, stderr } = await runProgram(command, cwd, env, request);
      if (signal !== null) return unhealthy(`the health command was killed by ${signal}`);
      const said = lastLine(stderr);
      if (code !== 0) return unhealthy(`the health command ended with ${code}${said === "" ? "" : `: ${said}`}`);
      return answered(jsonOr(stdout.toString("utf8")));
    },
  };
}

/** Healthy: it answers 2xx to a GET, and does not say otherwise as JSON. */
export function urlProbe(agentId: string, url: string): HealthProbe {
  return {
    kind: "url",
    ask: async (abort) => {
      const request = { agentId, taskId: "", correlationId: "", input: null, abort };
      const { body } = await send(request, url, { method: "GET" });
      return answered(jsonOr(body.toString("utf8")));
    },
  };
}

const GOOD: readonly unknown[] = ["healthy", "ok", "up", "pass"];

/** What was said of the health: true or nothing at all is healthy, and so is what has no `status`. */
function answered(value: unknown): HealthAnswer {
  if (value === false) return unhealthy("it says that it is not healthy");
  if (typeof value !== "object" || value === null) return { status: "healthy", detail: null };
  const status = "status" in value ? value.status : "healthy" in value ? (value.healthy ? "ok" : "not healthy") : "ok";
  const said = "detail" in value ? value.detail : undefined;
  const detail =
    said === undefined || said === null ? null : shown(typeof said === "string" ? said : JSON.stringify(said));
  const good = GOOD.includes(typeof status === "string" ? status.toLowerCase() : status);
  return good ? { status: "healthy", detail } : unhealthy(detail ?? `it says: ${shown(String(status))}`);
}

function unhealthy(detail: string): HealthAnswer {
  return { status: "unhealthy", detail };
}

function jsonOr(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

interface Ended {
  readonly code: number | null;
  readonly signal: string | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

function runProgram(
  command: readonly string[],
  cwd: string,
  env: Readonly<Record<string, string | undefined>>,
  request: Request,
): Promise<Ended> {
  const { abort } = request;
  const [program = "", ...args] = command;
  return new Promise((resolve, reject) => {
    if (abort.aborted) return reject(asError(abort.reason));
    const child = spawn(program, args, {
      cwd,
      env: {
        ...env,
        HIVE_AGENT_ID: request.agentId,
        // An environment has no U+0000.
        HIVE_TASK_ID: request.taskId.replaceAll("\u0000", ""),
        HIVE_CORRELATION_ID: request.correlationId.replaceAll("\u0000", ""),
      },
      stdio: ["pipe", "pipe", "pipe"],
      // A process group of its own, so that whatever it starts can be ended with it.
      detached: true,
    });
    const chunks: Buffer[] = [];
    let size = 0;
    let stderr = "";
    let refused: HiveError | undefined;
    let timer: NodeJS.Timeout | undefined;
    const end = (signal: NodeJS.Signals) => {
      if (child.pid === undefined) return;
      try {
        process.kill(-child.pid, signal);
      } catch {
        // It has ended.
      }
    };
    const stop = () => {
      end("SIGTERM");
      // Also where the program has ended by then: what it started may not have.
      timer ??= setTimeout(() => end("SIGKILL"), GRACE_MS);
    };
    const settle = (work: () => void) => {
      abort.removeEventListener("abort", stop);
      work();
    };
    child.once("error", (error) => {
      const reason = `its command cannot be started: ${error.message}`;
      const hint = "Check `command` in the config: the program has to be there, and may be executed.";
      settle(() =>
        reject(
          new HiveError("AGENT_FAILED", sentence(request, reason), {
            hint,
            details: { command: program },
            cause: error,
          }),
        ),
      );
    });
    // A program that does not read its input is free not to.
    child.stdin.on("error", () => undefined);
    child.stdin.end(JSON.stringify(request.input));
    child.stdout.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size <= MOST_BYTES) chunks.push(chunk);
      else if (!refused) {
        refused = failed(request, `its command wrote more than ${MOST_BYTES} bytes`, {});
        stop();
      }
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr = `${stderr}${text}`.slice(-STDERR_KEPT);
    });
    abort.addEventListener("abort", stop);
    child.once("exit", (code, signal) => {
      const drained = setTimeout(() => {
        child.stdout.destroy();
        child.stderr.destroy();
      }, DRAIN_MS);
      child.once("close", () => {
        clearTimeout(drained);
        if (timer !== undefined) {
          clearTimeout(timer);
          end("SIGKILL");
        }
        settle(() => {
          if (abort.aborted) reject(asError(abort.reason));
          else if (refused) reject(refused);
          else resolve({ code, signal, stdout: Buffer.concat(chunks), stderr });
        });
      });
    });
  });
}

async function send(request: Request, url: string, init: RequestInit): Promise<{ status: number; body: Buffer }> {
  let response: Response;
  let body: Buffer;
  try {
    response = await fetch(url, { ...init, redirect: "manual", signal: request.abort });
    body = await bodyOf(request, response);
  } catch (error) {
    if (request.abort.aborted) throw asError(request.abort.reason);
    if (error instanceof HiveError) throw error;
    throw new HiveError("AGENT_UNAVAILABLE", sentence(request, `${shownUrl(url)} was not reached: ${causeOf(error)}`), {
      hint: "Check that the agent runs, and `url` in the config.",
      details: { url: shownUrl(url) },
      cause: error,
    });
  }
  if (response.ok) return { status: response.status, body };
  const said = shown(body.toString("utf8").trim());
  const reason = `${shownUrl(url)} answered ${response.status}${said === "" ? "" : `: ${said}`}`;
  if (!PASSING.includes(response.status)) throw failed(request, reason, { status: response.status });
  throw new HiveError("AGENT_UNAVAILABLE", sentence(request, reason), {
    hint: "It may pass: try again later.",
    details: { status: response.status },
  });
}

const PASSING: readonly number[] = [408, 425, 429, 502, 503, 504];

async function bodyOf(request: Request, response: Response): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of response.body ?? []) {
    size += chunk.length;
    if (size > MOST_BYTES) throw failed(request, `it answered more than ${MOST_BYTES} bytes`, {});
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function parsed(request: Request, bytes: Buffer, details: Record<string, unknown>): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    const said = shown(bytes.toString("utf8").trim());
    throw failed(request, said === "" ? "it answered nothing" : `it answered no JSON: ${said}`, details, error);
  }
}

/** An HTTP header has no room for everything. */
function aboutTask({ agentId, taskId, correlationId }: Request): Record<string, string> {
  return {
    "hive-agent-id": encodeURIComponent(agentId),
    "hive-task-id": encodeURIComponent(taskId),
    "hive-correlation-id": encodeURIComponent(correlationId),
  };
}

function sentence({ agentId }: Request, reason: string): string {
  return `The agent ${agentId} failed: ${reason}`;
}

function failed(request: Request, reason: string, details: Record<string, unknown>, cause?: unknown): HiveError {
  return new HiveError("AGENT_FAILED", sentence(request, reason), {
    hint: "See what the agent itself says of it.",
    details: { agentId: request.agentId, ...details },
    cause,
  });
}

function lastLine(text: string): string {
  return shown(text.trim().split("\n").at(-1) ?? "");
}

function shown(text: string): string {
  return text.length > SHOWN ? `${text.slice(0, SHOWN)}…` : text;
}

/** What follows the path may be a secret. */
function shownUrl(url: string): string {
  const { origin, pathname } = new URL(url);
  return `${origin}${pathname}`;
}

/** `fetch failed` says nothing; what it failed with does. */
function causeOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error.cause instanceof AggregateError) return causeOf(error.cause.errors[0]);
  return error.cause instanceof Error ? error.cause.message : error.message;
}

function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error(String(reason));
}
