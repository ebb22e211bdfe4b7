import { resolve } from "node:path";
import { type DemoResult, type Presenter, runDemo, systemClock, type Watching } from "../../index.ts";
import { defineCommand, flag, type Scope, text } from "../command.ts";
import { duration, thousands, type Ui, visible, wrap } from "../render.ts";

const directory = text("[dir]", "an empty folder, or one to be made (default: a temporary one)");
const fast = flag("--fast", "a small platform and no pauses");

const FAST_TASKS = 200;
/** Reading time after each part, … */
const PAUSE_MS = 2_500;
/** … unless this much has gone by: on a slow machine, the work itself leaves time to read. */
const NO_PAUSE_AFTER_MS = 35_000;
const WIDTH = 80;

export const demo = defineCommand<DemoResult>({
  name: "demo",
  summary: "walk through the whole journey on a sample platform",
  description:
    "Builds a sample platform in its legacy shape and walks through its migration before your eyes, while agents, " +
    "programs that know nothing of hive, keep writing to it. Every command is one that you would type, and every step " +
    "is checked: the platform goes up, has an accident, is mended, goes live and comes back, and no statement of an " +
    "agent fails. The database stays, to look around in: a SQLite file in the folder, or with --database a PostgreSQL one, " +
    "which has to be without tables. Exits with 1 if a step did not come out as it should.",
  parameters: [directory, fast],
  examples: ["hive demo", "hive demo ./try --fast", "hive demo --database postgres://localhost/hive_demo"],
  abortable: true,
  async run(input, scope) {
    const quick = input.get(fast);
    const named = input.get(directory);
    return runDemo({
      presenter: scope.json ? silent(scope) : await onStage(scope, quick || !scope.io.tty.stdout ? 0 : PAUSE_MS),
      database: scope.sources.flags?.database,
      directory: named === undefined ? undefined : resolve(scope.io.cwd, named),
      tasks: quick ? FAST_TASKS : undefined,
      abort: scope.io.abort,
      env: scope.io.env,
      clock: scope.io.clock,
    });
  },
  human(result, ui) {
    const failed = result.steps.some((one) => !one.ok);
    return [
      heading(`What was shown, in ${duration(result.seconds * 1000)}`, ui),
      ...result.steps.map((one) => {
        const verdict = one.ok ? ui.paint("good", "ok") : ui.paint("bad", "FAILED");
        return wrap(`${verdict}  ${ui.paint("strong", one.step)}: ${visible(one.detail)}`, prose(ui), 4);
      }),
      "",
      ...(result.agents === null ? [] : [wrap(meanwhile(result.agents), prose(ui)), ""]),
      failed
        ? ui.paint("bad", "A step did not come out as it should. Please report it, with the database.")
        : ui.paint("good", "Everything came out as it should."),
      heading("What to try next", ui),
      ...next(result).map(([command, why]) => `${visible(why)}\n  ${ui.paint("strong", command)}`),
    ].join("\n");
  },
  exit: (result) => (result.steps.every((one) => one.ok) ? 0 : 1),
});

function meanwhile({ processes, versions, before, during }: NonNullable<DemoResult["agents"]>): string {
  const took = ({ p50Ms, p95Ms }: typeof during) => `p50 ${p50Ms.toFixed(1)} ms, p95 ${p95Ms.toFixed(1)} ms`;
  return (
    `Meanwhile, ${processes.length} agents (${versions}) sent ${thousands(during.statements)} statements, of which ` +
    `${thousands(during.failures)} failed: ${took(during)}` +
    `${before === null ? "" : `, and before hive: ${took(before)}`}.`
  );
}

function next({ database, directory }: DemoResult): [command: string, why: string][] {
  const onPostgres = /^postgres(ql)?:/.test(database);
  // The URL that is shown lacks its password: the config has it.
  const [option, value] = onPostgres ? ["--config", `${directory}/hive.config.json`] : ["--database", database];
  const on = (command: string) => `hive ${command} ${option} ${/[^\w./:-]/.test(value) ? `'${value}'` : value}`;
  return [
    [on("status"), "Where it stands, and what hive would do next:"],
    [on(`mapping test --key edge-json-${onPostgres ? "int-keys" : "nan"}`), "What becomes of a single row, both ways:"],
    [on("backfill ai-reviewer"), "Go up again; only what differs is written:"],
    [on("kept list"), "What hive kept, since legacy has no column for it:"],
    [on("audit list"), "Who did what, when and why:"],
    [
      on('migrate down --to 0 --force --yes --reason "demo over"'),
      "Be rid of hive again; what legacy cannot hold is saved to a file first:",
    ],
  ];
}

/** Shows everything on stdout, commands and their output as they would stand in a terminal. */
async function onStage(scope: Scope, pauseMs: number): Promise<Presenter> {
  const { io } = scope;
  const { main, uiFor } = await import("../main.ts");
  const ui = await uiFor(io, "stdout");
  const clock = io.clock ?? systemClock;
  const begun = clock.monotonic();
  const write = (lines: string) => {
    io.stdout.write(`${lines}\n`);
  };
  return {
    title: (words) => write(heading(words, ui)),
    say: (words) => write(`\n${wrap(visible(words), prose(ui))}`),
    shell: (line) => write(`\n${ui.paint("strong", `$ ${line}`)}`),
    async hive(argv, folder) {
      write(`\n${ui.paint("strong", `$ hive ${argv.map(quoted).join(" ")}`)}`);
      // One stream for everything: elsewhere a refusal goes to stderr, and would be missing in `hive demo > file`.
      const tty = { stdout: io.tty.stdout, stderr: io.tty.stdout };
      return perform(main, argv, { ...innerIo(scope, folder), stdout: io.stdout, stderr: io.stdout, tty });
    },
    async watch(argv, folder) {
      write(`\n${ui.paint("strong", `$ hive ${argv.join(" ")}`)}`);
      return stayOn(main, argv, innerIo(scope, folder), write);
    },
    agents: (words) => write(`\n${ui.paint("quiet", wrap(words, prose(ui), 8))}`),
    async sql(statement, rows, head) {
      const [first = "", ...more] = `${statement};`.split("\n").map(visible);
      write(
        ["", ui.paint("warn", `sql> ${first}`), ...more.map((line) => ui.paint("warn", `     ${line}`))].join("\n"),
      );
      if (rows !== undefined)
        write(
          await ui.table(
            rows.map((row) => row.map((value) => String(value ?? "NULL"))),
            { head: head ?? [] },
          ),
        );
    },
    async pause() {
      const now = clock.monotonic();
      const end = Math.min(now + pauseMs, begun + NO_PAUSE_AFTER_MS);
      while (!io.abort.aborted && clock.monotonic() < end) await clock.sleep(50);
    },
  };
}

/** For --json: the same commands, unseen. */
function silent(scope: Scope): Presenter {
  const nowhere = { write: () => undefined };
  return {
    title: () => undefined,
    say: () => undefined,
    shell: () => undefined,
    agents: () => undefined,
    async watch(argv, folder) {
      const { main } = await import("../main.ts");
      return stayOn(main, argv, innerIo(scope, folder), () => undefined);
    },
    sql: async () => undefined,
    pause: async () => undefined,
    async hive(argv, folder) {
      const { main } = await import("../main.ts");
      const tty = { stdout: false, stderr: false };
      return perform(main, argv, { ...innerIo(scope, folder), stdout: nowhere, stderr: nowhere, tty });
    },
  };
}

type Main = typeof import("../main.ts").main;
type Io = Parameters<Main>[1];

/** In the demo's folder, with its config alone, and nobody to ask. */
function innerIo({ io }: Scope, folder: string) {
  const env = Object.fromEntries(
    Object.entries(io.env).filter(([name]) => !name.startsWith("HIVE_") || name === "HIVE_ACTOR"),
  );
  return { env, cwd: folder, columns: io.columns, abort: io.abort, clock: io.clock };
}

async function perform(main: Main, argv: readonly string[], io: Io): Promise<{ exit: number; result: unknown }> {
  let result: unknown = null;
  const onResult = (found: unknown) => {
    result = found;
  };
  const exit = await main(argv, { ...io, onResult });
  return { exit, result };
}

/**
 * A command that stays, in this process: its first line is shown when it comes, and what it says in the end when it is
 * stopped. What it says in between would stand in the middle of other commands' output.
 */
async function stayOn(
  main: Main,
  argv: readonly string[],
  io: ReturnType<typeof innerIo>,
  write: (lines: string) => void,
): Promise<Watching> {
  const own = new AbortController();
  let last = "";
  let begin: (() => void) | undefined;
  const begun = new Promise<void>((resolve) => {
    begin = resolve;
  });
  const ended = perform(main, argv, {
    ...io,
    abort: AbortSignal.any([io.abort, own.signal]),
    tty: { stdout: false, stderr: false },
    stdout: {
      write: (text) => {
        last = text.trimEnd();
      },
    },
    stderr: {
      write: (text) => {
        if (begin) write(text.trimEnd());
        begin?.();
        begin = undefined;
      },
    },
  });
  await Promise.race([begun, ended]);
  return {
    ended,
    async stop() {
      own.abort(new Error("SIGINT"));
      const end = await ended;
      if (last !== "") write(`\n${last}`);
      return end;
    },
  };
}

function quoted(word: string): string {
  return /\s/.test(word) ? `"${word}"` : word;
}

function prose(ui: Ui): number {
  return Math.min(ui.columns, WIDTH);
}

function heading(words: string, ui: Ui): string {
  return `\n${ui.paint("strong", `── ${words} ${"─".repeat(Math.max(0, prose(ui) - words.length - 4))}`)}`;
}
