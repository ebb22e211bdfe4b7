import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Clock } from "../clock.ts";

/** An agent did not start, ended by itself, or makes no sense. */
export class AgentFailure extends Error {}

/** What agents did between two questions. */
export interface Work {
  readonly statements: number;
  readonly failures: number;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p95Ms: number;
  readonly maxMs: number;
}

/** By key: the mark that was acknowledged last, and null once the row was deleted. */
export type Written = ReadonlyMap<string, number | null>;

interface Report {
  readonly seconds: number;
  readonly statements: number;
  readonly failures: number;
  readonly errors: readonly string[];
  readonly ms: readonly number[];
  readonly written: Readonly<Record<string, number | null>>;
}

interface Ready {
  readonly ready: string;
  readonly pid: number;
}

interface StartOptions {
  readonly names: readonly string[];
  /** A file, or the URL of a PostgreSQL database. */
  readonly database: string;
  /** The file with what they send. */
  readonly work: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly clock: Clock;
}

const PROGRAMS = fileURLToPath(new URL("../../examples/agents", import.meta.url));

const LANGUAGES = [
  { language: "python", command: "python3", program: join(PROGRAMS, "agent.py") },
  { language: "node", command: process.execPath, program: join(PROGRAMS, "agent.mjs") },
] as const;

/**
 * Python has no driver for PostgreSQL of its own. Everybody on the machine can read a command line: a password goes into
 * the environment.
 */
function startOf(database: string, env: StartOptions["env"]) {
  if (!/^postgres(ql)?:/.test(database)) return { languages: LANGUAGES, address: database, env };
  const url = new URL(database);
  const password = decodeURIComponent(url.password);
  url.password = "";
  url.searchParams.delete("pooler");
  return {
    languages: LANGUAGES.filter(({ language }) => language === "node"),
    address: url.href,
    env: password === "" ? env : { ...env, PGPASSWORD: password },
  };
}

/** Of each agent: enough to say something about a short moment. */
const FEW_STATEMENTS = 3;

/**
 * Agents that write to the database while hive works, each a process of its own. They end when this process does,
 * whatever it dies of, since their stdin ends with it.
 */
export class Agents implements AsyncDisposable {
  readonly language: "python" | "node";
  /** As they name themselves: language and database, with versions. */
  readonly versions: string;
  /** The file that each of them runs. */
  readonly program: string;
  private readonly processes: readonly Agent[];
  private readonly clock: Clock;
  private readonly marks = new Map<string, number | null>();
  private total = tally();
  private window = tally();
  private baseline: Work | null = null;
  private readonly errors: string[] = [];

  private constructor(language: "python" | "node", program: string, processes: readonly Agent[], clock: Clock) {
    this.language = language;
    this.program = program;
    this.processes = processes;
    this.clock = clock;
    this.versions = processes[0]?.ready?.ready ?? "";
  }

  /**
   * In Python where that works, else (and on PostgreSQL) in Node.js. Comes back when each of them writes.
   * @throws AgentFailure, with what it said, where one does not start in either language
   */
  static async start({ names, database, work, clock, ...options }: StartOptions): Promise<Agents> {
    const { languages, address, env } = startOf(database, options.env);
    let failure: unknown;
    for (const { language, command, program } of languages) {
      const processes = names.map((name) => new Agent(name, command, [program, address, work, name], env));
      const started = await Promise.allSettled(processes.map((agent) => agent.begin()));
      const failed = started.find((one) => one.status === "rejected");
      if (!failed) return new Agents(language, program, processes, clock);
      failure = failed.reason;
      await Promise.all(processes.map((agent) => agent.kill()));
    }
    throw failure;
  }

  get pids(): { name: string; pid: number }[] {
    return this.processes.map(({ name, ready }) => ({ name, pid: ready?.pid ?? 0 }));
  }

  get written(): Written {
    return this.marks;
  }

  /** Null before {@link measureBefore}. */
  get before(): Work | null {
    return this.baseline;
  }

  /** From then on. */
  get during(): Work {
    return summary(this.total);
  }

  /** What went wrong, from the beginning. */
  get failed(): readonly string[] {
    return this.errors;
  }

  /** What they do when nobody else is there; each of them so many statements. */
  async measureBefore(statements: number, abort?: AbortSignal): Promise<Work> {
    await this.restart();
    this.baseline = await this.sinceRestart(abort, statements);
    this.total = tally();
    return this.baseline;
  }

  /** A new moment begins. */
  async restart(): Promise<void> {
    await this.ask();
    this.window = tally();
  }

  /** What they did since; waits until that is enough to say something about it. */
  async sinceRestart(abort?: AbortSignal, few = FEW_STATEMENTS): Promise<Work> {
    await this.ask();
    while (this.window.statements < few * this.processes.length && !abort?.aborted) {
      await this.clock.sleep(50);
      await this.ask();
    }
    return summary(this.window);
  }

  /** Brings {@link written} up to date: what was acknowledged before this is in it. */
  async ask(): Promise<void> {
    this.note(await Promise.all(this.processes.map((agent) => agent.ask())));
  }

  /** Ends them, each between two statements; {@link written} is final then. */
  async stop(): Promise<void> {
    this.note(await Promise.all(this.processes.map((agent) => agent.end())));
  }

  /** At once, if they still run. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.processes.map((agent) => agent.kill()));
  }

  private note(reports: readonly Report[]): void {
    const longest = Math.max(...reports.map(({ seconds }) => seconds));
    for (const sum of [this.total, this.window]) {
      sum.seconds += longest;
      for (const report of reports) {
        sum.statements += report.statements;
        sum.failures += report.failures;
        sum.ms.push(...report.ms);
      }
    }
    for (const { written, errors } of reports) {
      for (const [key, mark] of Object.entries(written)) this.marks.set(key, mark);
      this.errors.push(...errors);
    }
  }
}

class Agent {
  readonly name: string;
  ready: Ready | undefined;
  private readonly child: ChildProcess;
  private readonly exited: Promise<void>;
  private readonly lines: string[] = [];
  private said = "";
  private over = false;
  private wake: (() => void) | undefined;

  constructor(name: string, command: string, args: readonly string[], env: StartOptions["env"]) {
    this.name = name;
    this.child = spawn(command, args, { env, stdio: ["pipe", "pipe", "pipe"] });
    let partial = "";
    this.child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      const lines = (partial + text).split("\n");
      partial = lines.pop() ?? "";
      this.lines.push(...lines);
      this.wake?.();
    });
    this.child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.said = (this.said + text).slice(-1_000);
    });
    // A question to one that has just died: its silence says so.
    this.child.stdin?.on("error", () => undefined);
    this.exited = new Promise((resolve) => {
      const ended = () => {
        this.over = true;
        this.wake?.();
        resolve();
      };
      this.child.on("error", (error) => {
        this.said ||= error.message;
        // One that never came to be does not close.
        if (this.child.pid === undefined) ended();
      });
      this.child.on("close", ended);
    });
  }

  async begin(): Promise<void> {
    const message = await this.next();
    if (!isReady(message)) throw this.strange(message);
    this.ready = message;
  }

  async ask(): Promise<Report> {
    this.child.stdin?.write("\n");
    return this.report();
  }

  async end(): Promise<Report> {
    this.child.stdin?.end();
    const last = await this.report();
    await this.exited;
    return last;
  }

  async kill(): Promise<void> {
    this.child.stdin?.destroy();
    this.child.kill("SIGKILL");
    await this.exited;
  }

  private async report(): Promise<Report> {
    const message = await this.next();
    if (!isReport(message)) throw this.strange(message);
    return message;
  }

  private async next(): Promise<unknown> {
    for (;;) {
      const line = this.lines.shift();
      if (line !== undefined) return JSON.parse(line);
      if (this.over) {
        throw new AgentFailure(`the agent ${this.name} ended by itself: ${this.said.trim() || "it said nothing"}`);
      }
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
  }

  private strange(message: unknown): AgentFailure {
    return new AgentFailure(`the agent ${this.name} says what makes no sense: ${JSON.stringify(message)}`);
  }
}

function isReady(message: unknown): message is Ready {
  return typeof message === "object" && message !== null && "ready" in message && "pid" in message;
}

function isReport(message: unknown): message is Report {
  return typeof message === "object" && message !== null && "statements" in message && "written" in message;
}

interface Tally {
  seconds: number;
  statements: number;
  failures: number;
  readonly ms: number[];
}

function tally(): Tally {
  return { seconds: 0, statements: 0, failures: 0, ms: [] };
}

function summary({ seconds, statements, failures, ms }: Tally): Work {
  const sorted = [...ms].sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
  return {
    statements,
    failures,
    perSecond: seconds > 0 ? Math.round((statements / seconds) * 10) / 10 : 0,
    p50Ms: at(0.5),
    p95Ms: at(0.95),
    maxMs: at(1),
  };
}
