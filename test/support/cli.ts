import { type ChildProcess, spawn as spawnProcess } from "node:child_process";
import { fileURLToPath } from "node:url";
import { spawn as spawnTerminal } from "node-pty";
import { type Io, main } from "../../src/cli/main.ts";

export const LAUNCHER = fileURLToPath(new URL("../../bin/hive.js", import.meta.url));

export interface Run {
  code: number;
  stdout: string;
  stderr: string;
}

export interface IoOptions {
  cwd: string;
  env?: Record<string, string>;
  tty?: boolean;
  columns?: number;
  abort?: AbortSignal;
  clock?: Io["clock"];
}

/** Runs one command line in this process with captured output. Nobody is there to be asked. */
export async function hiveInProcess(args: readonly string[], options: IoOptions): Promise<Run> {
  const run: Run = { code: -1, stdout: "", stderr: "" };
  const tty = options.tty ?? false;
  run.code = await main(args, {
    stdout: {
      write: (text) => {
        run.stdout += text;
      },
    },
    stderr: {
      write: (text) => {
        run.stderr += text;
      },
    },
    env: { HIVE_ACTOR: "tester@cli", ...options.env },
    cwd: options.cwd,
    tty: { stdout: tty, stderr: tty },
    columns: options.columns ?? 80,
    abort: options.abort ?? new AbortController().signal,
    clock: options.clock,
  });
  return run;
}

export interface ProcessOptions {
  cwd: string;
  env?: Record<string, string>;
  /** A command that runs it, e.g. as another user. */
  through?: readonly string[];
  /** Called with the process as soon as there is one. */
  onStart?: (child: ChildProcess) => void;
  /** Called with each piece of stderr, to act while the command runs. */
  onStderr?: (text: string, kill: (signal: NodeJS.Signals) => void) => void;
}

/** The environment of a child: this one's without what would configure hive or colour its output. */
function childEnv(extra: Record<string, string> = {}): Record<string, string> {
  const env: Record<string, string> = {};
  for (const [name, value] of Object.entries(process.env)) {
    if (value !== undefined && !/^(HIVE_|NO_COLOR|FORCE_COLOR|VITEST|NODE_OPTIONS)/.test(name)) env[name] = value;
  }
  return { ...env, HIVE_ACTOR: "tester@cli", ...extra };
}

/** Runs the built hive as a process of its own: `npm test` builds it first. */
export function runHive(args: readonly string[], options: ProcessOptions): Promise<Run & { signal: string | null }> {
  return new Promise((resolve, reject) => {
    const [command = process.execPath, ...words] = [...(options.through ?? []), process.execPath, LAUNCHER, ...args];
    const child = spawnProcess(command, words, {
      cwd: options.cwd,
      env: childEnv(options.env),
      stdio: ["ignore", "pipe", "pipe"],
    });
    options.onStart?.(child);
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
      options.onStderr?.(text, (signal) => child.kill(signal));
    });
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code: code ?? -1, stdout, stderr, signal }));
  });
}

export interface Dialogue {
  /** What has to appear on the screen … */
  expect: string;
  /** … before this is typed. */
  type: string;
}

/** Runs the built hive on a terminal of its own and answers what it asks. */
export function hiveOnTerminal(
  args: readonly string[],
  dialogue: readonly Dialogue[],
  options: { cwd: string; env?: Record<string, string>; columns?: number },
): Promise<{ code: number; screen: string }> {
  return new Promise((resolve) => {
    const terminal = spawnTerminal(process.execPath, [LAUNCHER, ...args], {
      cols: options.columns ?? 80,
      rows: 40,
      cwd: options.cwd,
      env: childEnv({ TERM: "xterm-256color", ...options.env }),
    });
    let screen = "";
    let since = 0;
    let next = 0;
    terminal.onData((data) => {
      screen += data;
      const step = dialogue[next];
      const at = step === undefined ? -1 : screen.indexOf(step.expect, since);
      if (step === undefined || at < 0) return;
      next += 1;
      since = at + step.expect.length;
      terminal.write(step.type);
    });
    terminal.onExit(({ exitCode }) => resolve({ code: exitCode, screen }));
  });
}

/** A terminal's output without colours and cursor movements. */
export function plain(screen: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences begin with one
  return screen.replace(/\u001b\[[0-9;?]*[A-Za-z]/g, "").replaceAll("\r", "");
}
