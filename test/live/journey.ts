import { type ChildProcess, spawn } from "node:child_process";
import { dirname } from "node:path";

/** hive's way from nothing to `unified` and back, by its command line, beside agents that go on writing. */

export interface Answer {
  /** As typed, without the options that every command has here. */
  command: string;
  code: number;
  seconds: number;
  /** The `result` of the JSON; null where there is none. */
  result: unknown;
  stdout: string;
  stderr: string;
}

export interface HiveProcesses {
  run(...args: string[]): Promise<Answer>;
  /** Starts `sync --watch`. */
  watch(): Watcher;
}

export interface Watcher {
  readonly process: ChildProcess;
  /** SIGTERM; what it said in the end. */
  stop(): Promise<Answer>;
}

/**
 * Runs the built hive of this launcher on this database, each command a process; one that takes too long is killed.
 * `lockBudget`: default as users have it.
 */
export function hiveProcesses(
  launcher: string,
  database: string,
  limitSeconds = 120,
  lockBudget?: number,
): HiveProcesses {
  const start = (args: string[], limited: boolean): { process: ChildProcess; ended: Promise<Answer> } => {
    const env: NodeJS.ProcessEnv = { HIVE_ACTOR: "tester@live" };
    for (const [name, value] of Object.entries(process.env)) {
      if (!/^(HIVE_|NO_COLOR|FORCE_COLOR|VITEST|NODE_OPTIONS)/.test(name)) env[name] = value;
    }
    if (lockBudget !== undefined) env.HIVE_LOCK_BUDGET = String(lockBudget);
    const words = [launcher, "--database", `sqlite:${database}`, "--no-input", "--yes", "--json", ...args];
    const began = performance.now();
    const child = spawn(process.execPath, words, { cwd: dirname(database), env, stdio: ["ignore", "pipe", "pipe"] });
    const ended = new Promise<Answer>((resolve, reject) => {
      let [stdout, stderr] = ["", ""];
      const kill = () => {
        stderr += `killed: it took more than ${limitSeconds} s`;
        child.kill("SIGKILL");
      };
      const timer = limited ? setTimeout(kill, limitSeconds * 1000) : undefined;
      child.stdout.setEncoding("utf8").on("data", (text: string) => {
        stdout += text;
      });
      child.stderr.setEncoding("utf8").on("data", (text: string) => {
        stderr += text;
      });
      child.once("error", reject);
      child.once("close", (code) => {
        clearTimeout(timer);
        const seconds = (performance.now() - began) / 1000;
        let result = null;
        try {
          result = JSON.parse(stdout).result ?? null;
        } catch {
          // Not one JSON object: the caller sees what it was.
        }
        resolve({ command: args.join(" "), code: code ?? -1, seconds, result, stdout, stderr });
      });
    });
    ended.catch(() => undefined);
    return { process: child, ended };
  };
  return {
    run: (...args) => start(args, true).ended,
    watch: () => {
      const { process: child, ended } = start(["sync", "--watch"], false);
      return {
        process: child,
        stop: () => {
          child.kill("SIGTERM");
          return ended;
        },
      };
    },
  };
}

export interface JourneyOptions {
  hive: HiveProcesses;
  agents: readonly string[];
  /** After each command, before its exit code is looked at. */
  onStep?: (answer: Answer) => void;
  /**
   * Called when all agents have come to a stage and the check there has been run. `settle` drains what was captured and
   * checks once more, with no watcher running meanwhile: where nobody writes, nothing may be in flight then.
   */
  atStage?: (stage: "dualwrite" | "shadow" | "live" | "rampdown", settle: () => Promise<Answer>) => Promise<void>;
}

/**
 * From a database that hive has never touched to `unified` and back to off, with `sync --watch` running from the first
 * flag on. Every command has to end with exit code 0; the watcher is stopped at the end, whatever happens.
 */
export async function journey({ hive, agents, onStep, atStage }: JourneyOptions): Promise<Answer[]> {
  const answers: Answer[] = [];
  const note = (answer: Answer): Answer => {
    answers.push(answer);
    onStep?.(answer);
    if (answer.code === 0) return answer;
    const said = `${answer.stdout.slice(0, 4000)}\n${answer.stderr.slice(0, 2000)}`;
    throw new Error(`hive ${answer.command} ended with ${answer.code}\n${said}`);
  };
  const step = async (...args: string[]) => note(await hive.run(...args));
  await step("migrate", "up");
  await step("flags", "enable", "--all", "--flag", "dual-write");
  let watcher: Watcher | null = hive.watch();
  const unwatch = async () => {
    const last = await watcher?.stop();
    watcher = null;
    if (last) note(last);
  };
  const settle = async () => {
    await unwatch();
    await step("sync");
    const check = await step("check");
    watcher = hive.watch();
    return check;
  };
  try {
    await step("backfill");
    await step("check");
    await atStage?.("dualwrite", settle);
    for (const [reads, stage] of [
      ["shadow", "shadow"],
      ["live", "live"],
      ["unified", "rampdown"],
    ] as const) {
      for (const agent of agents) await step("flags", "set", agent, `reads=${reads}`);
      await step("check");
      await atStage?.(stage, settle);
    }
    await step("rollback", "--to", "off", "--reason", "end of the test");
    await unwatch();
  } finally {
    // Still there only where something failed, and that is what is told.
    await watcher?.stop();
  }
  return answers;
}
