import { readFileSync } from "node:fs";
import { asHiveError, type Hive, HiveError, loadConfig, openHive, systemClock } from "../index.ts";
import type { Command, Input, Io, Outcome, Scope } from "./command.ts";
import type { Globals } from "./parse.ts";
import { createProgress, type ProgressLine, silent } from "./progress.ts";
import { createUi, errorText, type Ui } from "./render.ts";

export type { Io } from "./command.ts";

/**
 * Runs one command line and gives its exit code. Everything it reads and writes is in `io`, so that it runs in
 * process in tests; it never throws.
 */
export async function main(argv: readonly string[], io: Io): Promise<number> {
  const { locate, parse, wantsJson } = await import("./parse.ts");
  const json = wantsJson(argv);
  let name: string | null = null;
  let globals: Globals | undefined;
  try {
    const request = locate(argv);
    if (request.kind === "version") return answer(io, json, "version", { version: version() }, `hive ${version()}\n`);
    if (request.kind === "help") {
      if (request.exit === 0) return answer(io, json, "help", { text: request.text }, request.text);
      if (!json) {
        io.stderr.write(request.text);
        return request.exit;
      }
      throw new HiveError("USAGE", "No command was given.", { hint: "`hive --help` lists the commands." });
    }
    name = request.entry.name;
    const command = await request.entry.load();
    const parsed = await parse(command, request.rest);
    if (parsed.kind === "help") return answer(io, json, "help", { text: parsed.text }, parsed.text);
    globals = parsed.globals;
    const outcome = await perform(command, parsed.input, globals, io);
    io.onResult?.(outcome.result);
    if (command.streams) return outcome.exit;
    if (json) io.stdout.write(toJson({ ok: true, command: name, result: outcome.result }));
    else io.stdout.write(ended(await outcome.human(await uiFor(io, "stdout"))));
    return outcome.exit;
  } catch (thrown) {
    const error = advised(
      io.abort.aborted && !(thrown instanceof HiveError) ? interrupted(thrown) : asHiveError(thrown),
      name,
    );
    await report(error, { io, json, name, verbose: globals?.verbose ?? argv.includes("--verbose") });
    return error.exitCode;
  }
}

/** Opens what the command asks for, and closes it whatever happens; the first error is the one that counts. */
async function perform(command: Command, input: Input, globals: Globals, io: Io): Promise<Outcome> {
  const clock = io.clock ?? systemClock;
  const progress: ProgressLine = globals.json ? silent : createProgress(io, clock);
  const sources = { flags: { config: globals.config, database: globals.database }, env: io.env, cwd: io.cwd };
  let opened: Promise<Hive> | undefined;
  const scope: Scope = {
    io,
    sources,
    yes: globals.yes,
    json: globals.json,
    interactive: io.prompt !== undefined && globals.input && !globals.json,
    ui: await uiFor(io, "stderr"),
    hive() {
      opened ??= loadConfig(sources).then(({ settings }) =>
        openHive(settings, { clock, actor: io.env.HIVE_ACTOR || undefined }),
      );
      return opened;
    },
    onProgress: progress.onProgress,
    onWait: progress.onWait,
  };
  let outcome: Outcome;
  try {
    outcome = await leaving(io.abort, command.abortable === true, async () => {
      await confirmed(command, input, scope);
      return command.start(input, scope);
    });
  } catch (error) {
    progress.end();
    await opened?.then((hive) => hive[Symbol.asyncDispose]()).catch(() => undefined);
    throw error;
  }
  progress.end();
  const hive = await opened;
  await hive?.[Symbol.asyncDispose]();
  return outcome;
}

/** A command that only reads is left where it stands when it is interrupted; one that writes ends by itself. */
async function leaving<T>(abort: AbortSignal, abortable: boolean, work: () => Promise<T>): Promise<T> {
  if (abort.aborted) throw interrupted(abort.reason);
  if (abortable) return work();
  let leave: (() => void) | undefined;
  const left = new Promise<never>((_, reject) => {
    leave = () => reject(interrupted(abort.reason));
    abort.addEventListener("abort", leave);
  });
  try {
    return await Promise.race([work(), left]);
  } finally {
    if (leave) abort.removeEventListener("abort", leave);
  }
}

async function confirmed(command: Command, input: Input, scope: Scope): Promise<void> {
  if (!command.confirm || (scope.yes && !scope.interactive)) return;
  const question = await command.confirm(input, scope);
  if (question === null) return;
  const { io, ui } = scope;
  if (scope.yes || scope.interactive) {
    if (question.plan !== undefined) io.stderr.write(ended(question.plan));
    if (scope.yes) return;
    const { confirm } = await import("./prompt.ts");
    if (await confirm(io, ui.text(question.question))) return;
    throw new HiveError("CONFIRMATION_NEEDED", "Not confirmed: nothing was changed.", {
      hint: "Run it again and answer with yes, or give --yes.",
      details: question.details,
    });
  }
  throw new HiveError(
    "CONFIRMATION_NEEDED",
    `"${question.question}" needs a yes, and there is nobody to ask. Nothing was changed.`,
    {
      hint: `Look at what \`hive ${command.name} --dry-run\` says, then run it with --yes.`,
      details: question.details,
    },
  );
}

function interrupted(cause: unknown): HiveError {
  return new HiveError("INTERRUPTED", "Interrupted.", {
    hint: "Nothing is half done: run the command again to go on.",
    cause,
  });
}

/** A usage error without a hint of its own points to the help. */
function advised(error: HiveError, name: string | null): HiveError {
  if (error.code !== "USAGE" || error.hint !== undefined) return error;
  const hint = `\`hive ${name === null ? "" : `${name} `}--help\` lists what it takes.`;
  return new HiveError(error.code, error.message, { hint, details: error.details, cause: error.cause });
}

interface Report {
  io: Io;
  json: boolean;
  name: string | null;
  verbose: boolean;
}

async function report(error: HiveError, { io, json, name, verbose }: Report): Promise<void> {
  if (json) {
    const { code, message, hint, details } = error;
    io.stdout.write(toJson({ ok: false, command: name, error: { code, message, hint: hint ?? null, details } }));
  } else {
    io.stderr.write(errorText(error, await uiFor(io, "stderr")));
  }
  if (!verbose) return;
  for (let cause: unknown = error, depth = 0; cause instanceof Error && depth < 10; cause = cause.cause, depth++) {
    io.stderr.write(`${depth === 0 ? "" : "caused by: "}${cause.stack ?? cause.message}\n`);
  }
}

function answer(io: Io, json: boolean, command: string, result: object, text: string): number {
  io.stdout.write(json ? toJson({ ok: true, command, result }) : text);
  return 0;
}

/** Without a terminal, prose is not broken into lines: somebody may be searching in it. */
export function uiFor(io: Io, stream: "stdout" | "stderr"): Promise<Ui> {
  const colour = io.tty[stream] && !io.env.NO_COLOR && io.env.TERM !== "dumb";
  return createUi({ columns: io.columns, prose: io.tty[stream], colour });
}

/** JSON has no big integers: one that slipped into the details becomes text. */
function toJson(value: unknown): string {
  return `${JSON.stringify(value, (_, item: unknown) => (typeof item === "bigint" ? item.toString() : item))}\n`;
}

function ended(text: string): string {
  return text === "" || text.endsWith("\n") ? text : `${text}\n`;
}

function version(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));
  if (typeof manifest === "object" && manifest !== null && "version" in manifest) return String(manifest.version);
  throw new HiveError("INTERNAL", "package.json has no version.");
}
