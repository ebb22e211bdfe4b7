import type { Readable } from "node:stream";
import { type ChangeOptions, type Clock, type ConfigSources, type Hive, HiveError, nearest } from "../index.ts";
import type { Ui } from "./render.ts";

/** The terminal and everything else that the CLI takes from its process: the launcher gives the real one. */
export interface Io {
  readonly stdout: { write(text: string): unknown };
  readonly stderr: { write(text: string): unknown };
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  /** Which streams are terminals. */
  readonly tty: { readonly stdout: boolean; readonly stderr: boolean };
  /** Width of the terminal. */
  readonly columns: number;
  /** Where a person can be asked; undefined where nobody is there to answer. */
  readonly prompt?: { readonly input: Readable; readonly output: NodeJS.WritableStream } | undefined;
  /** Aborted by the first SIGINT or SIGTERM. */
  readonly abort: AbortSignal;
  /** Aborted when nobody reads stdout any more: for a command that writes until it is stopped. */
  readonly gone?: AbortSignal | undefined;
  readonly clock?: Clock | undefined;
  /** Told what a command came to, besides what is printed: for a command that runs others. */
  readonly onResult?: ((result: unknown) => void) | undefined;
}

/** A value of the command line as it was typed: commander's words. */
export type Raw = string | readonly string[] | boolean | undefined;

/** An option (`--to <name>`) or argument (`[agents...]`) and what its text means. */
export interface Parameter<T> {
  readonly kind: "option" | "argument";
  readonly syntax: string;
  readonly summary: string;
  /** Given several times, it is a list. */
  readonly repeatable: boolean;
  /** @throws USAGE */
  read(raw: Raw): T;
}

/** What was typed, by parameter. */
export interface Input {
  get<T>(parameter: Parameter<T>): T;
}

/** What a command gets besides its input. */
export interface Scope {
  readonly io: Io;
  /** For `loadConfig`: the flags, environment and folder of this call. */
  readonly sources: ConfigSources & { readonly cwd: string };
  /** --yes */
  readonly yes: boolean;
  /** --json: nothing but the result may go to stdout. */
  readonly json: boolean;
  /** A person can be asked: there is a terminal, and neither --no-input nor --json was given. */
  readonly interactive: boolean;
  /** Renders to stderr what a question is about. */
  readonly ui: Ui;
  /** Opened when it is first asked for, closed by main. */
  hive(): Promise<Hive>;
  onProgress: NonNullable<ChangeOptions["onProgress"]>;
  onWait: NonNullable<ChangeOptions["onWait"]>;
}

/** A question that has to be answered with yes before the command runs. */
export interface Question {
  /** What is going to happen, shown before the question. */
  plan?: string;
  question: string;
  details: Record<string, unknown>;
}

export interface CommandSpec<R> {
  readonly name: string;
  readonly summary: string;
  /** More than the summary says, for `--help`. */
  readonly description?: string;
  readonly parameters?: readonly Parameter<unknown>[];
  readonly examples?: readonly string[];
  /** Ends by itself when it is aborted; other commands only read and are simply left. */
  readonly abortable?: boolean;
  /** Writes its result itself as it comes, with --json one object per line: none is written for the command. */
  readonly streams?: boolean;
  /** Null: nothing has to be asked. */
  confirm?(input: Input, scope: Scope): Promise<Question | null>;
  run(input: Input, scope: Scope): Promise<R>;
  human(result: R, ui: Ui): string | Promise<string>;
  /** The exit code of a verdict. Default 0. */
  exit?(result: R): number;
}

export interface Outcome {
  readonly result: unknown;
  readonly exit: number;
  human(ui: Ui): string | Promise<string>;
}

/** A command whose result type is its own business. */
export interface Command extends Omit<CommandSpec<unknown>, "run" | "human" | "exit"> {
  start(input: Input, scope: Scope): Promise<Outcome>;
}

export function defineCommand<R>({ run, human, exit, ...rest }: CommandSpec<R>): Command {
  return {
    ...rest,
    async start(input, scope) {
      const result = await run(input, scope);
      return { result, exit: exit?.(result) ?? 0, human: (ui) => human(result, ui) };
    },
  };
}

function parameter<T>(syntax: string, summary: string, read: (raw: Raw) => T, repeatable = false): Parameter<T> {
  return { kind: syntax.startsWith("-") ? "option" : "argument", syntax, summary, repeatable, read };
}

const asText = (raw: Raw): string | undefined => (typeof raw === "string" ? raw : undefined);

export const flag = (syntax: string, summary: string) => parameter(syntax, summary, (raw) => raw === true);

export const text = (syntax: string, summary: string) => parameter(syntax, summary, asText);

/** An argument that commander insists on. */
export const required = (syntax: string, summary: string) => parameter(syntax, summary, (raw) => asText(raw) ?? "");

export const list = (syntax: string, summary: string): Parameter<readonly string[]> =>
  parameter(syntax, summary, (raw) => (typeof raw === "object" ? raw : []), syntax.startsWith("-"));

export function number(
  syntax: string,
  summary: string,
  { integer = false, min = 0 }: { integer?: boolean; min?: number } = {},
): Parameter<number | undefined> {
  return parameter(syntax, summary, (raw) => {
    const typed = asText(raw);
    if (typed === undefined) return undefined;
    const value = Number(typed);
    if (typed.trim() === "" || !Number.isFinite(value) || value < min || (integer && !Number.isSafeInteger(value))) {
      throw new HiveError(
        "USAGE",
        `${syntax.split(" ")[0]} takes ${integer ? "a whole number" : "a number"} of at least ${min}, not "${typed}".`,
        { details: { option: syntax.split(" ")[0], value: typed } },
      );
    }
    return value;
  });
}

export function choice<T extends string>(
  syntax: string,
  summary: string,
  choices: readonly T[],
): Parameter<T | undefined> {
  return parameter(syntax, `${summary}: ${choices.join(", ")}`, (raw) => {
    const typed = asText(raw);
    return typed === undefined ? undefined : oneOf(typed, choices, syntax.split(" ")[0] ?? syntax);
  });
}

/** @throws USAGE with the nearest choice */
export function oneOf<T extends string>(typed: string, choices: readonly T[], what: string): T {
  const found = choices.find((one) => one === typed);
  if (found !== undefined) return found;
  const guess = nearest(typed, choices);
  throw new HiveError("USAGE", `${what} cannot be "${typed}"${guess ? `; did you mean "${guess}"?` : "."}`, {
    hint: `It is one of: ${choices.join(", ")}.`,
    details: { value: typed, nearest: guess ?? null, choices: [...choices] },
  });
}

// Options that several commands have, so that they mean the same everywhere.

export const dryRun = flag("--dry-run", "tell what would happen, write nothing");
export const reason = text("--reason <text>", "why: goes into the audit log");
export const lockTimeout = number(
  "--lock-timeout <seconds>",
  "how long to wait for another hive (default: the config's)",
);
export const force = flag("--force", "override what can be overridden; needs --reason");
export const agents = list("[agents...]", "agents, by name");
export const agentOption = list("--agent <name>", "only this agent (may be given several times)");
export const keys = list("--key <key>", "only this aggregate (may be given several times)");
export const mappingOption = text("--mapping <name>", "only this part of the mapping, e.g. tasks");

/** The parameters of everything that changes the database, for {@link change}. */
export const changing: readonly Parameter<unknown>[] = [dryRun, reason, lockTimeout];

export function change(input: Input, scope: Scope): ChangeOptions {
  const seconds = input.get(lockTimeout);
  return {
    dryRun: input.get(dryRun),
    reason: input.get(reason),
    abort: scope.io.abort,
    onProgress: scope.onProgress,
    onWait: scope.onWait,
    lockTimeoutMs: seconds === undefined ? undefined : seconds * 1000,
  };
}

/** --force, which is audited and therefore needs a reason. */
export function forced(input: Input): boolean {
  const given = input.get(force);
  if (given && !input.get(reason)?.trim()) {
    throw new HiveError("USAGE", "--force needs a reason.", {
      hint: 'Add --reason "why": it goes into the audit log.',
    });
  }
  return given;
}

/** Undefined where nothing is named: the operation's own default applies. */
export function some(names: readonly string[]): readonly string[] | undefined {
  return names.length === 0 ? undefined : names;
}
