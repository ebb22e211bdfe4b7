import type { Command as Commander, CommanderError } from "commander";
import { HiveError, nearest } from "../index.ts";
import type { Command, Input, Parameter, Raw } from "./command.ts";
import { type Entry, registry } from "./registry.ts";
import { thousands } from "./render.ts";

/** What stands before any command's own options: they may be typed before or after the command. */
export interface Globals {
  config: string | undefined;
  database: string | undefined;
  json: boolean;
  input: boolean;
  yes: boolean;
  verbose: boolean;
}

const GLOBAL_OPTIONS: readonly { syntax: string; summary: string }[] = [
  {
    syntax: "--config <file>",
    summary: "config file (default: hive.config.json or .hiverc, here or in a folder above)",
  },
  {
    syntax: "--database <url>",
    summary: "the database: sqlite:PATH or postgres://… (default: HIVE_DATABASE, else the config)",
  },
  { syntax: "--json", summary: "one JSON object on stdout, also for errors" },
  { syntax: "--no-input", summary: "never ask; what needs an answer fails" },
  { syntax: "-y, --yes", summary: "answer every question with yes" },
  { syntax: "--verbose", summary: "with errors, also the stack" },
];
const TAKES_VALUE = ["--config", "--database"];

/** What a command line asks for. */
export type Request =
  | { kind: "help"; text: string; exit: number }
  | { kind: "version" }
  | { kind: "command"; entry: Entry; rest: readonly string[] };

/** Whether the answer has to be JSON: asked before anything is understood, since errors are answered in JSON too. */
export function wantsJson(argv: readonly string[]): boolean {
  const end = argv.indexOf("--");
  return (end < 0 ? argv : argv.slice(0, end)).includes("--json");
}

/**
 * Finds the command's words among the global options.
 * @throws USAGE for a command that there is none of
 */
export function locate(argv: readonly string[], entries: readonly Entry[] = registry): Request {
  const words: string[] = [];
  const rest: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    const token = argv[i] ?? "";
    if (token === "--") break;
    if (token.startsWith("-") && token !== "-") {
      rest.push(token);
      const value = argv[i + 1];
      if (TAKES_VALUE.includes(token) && value !== undefined) {
        rest.push(value);
        i += 1;
      }
      continue;
    }
    words.push(token);
    if (words[0] === "help") continue;
    const name = words.join(" ");
    const entry = entries.find((one) => one.name === name);
    if (entry) return { kind: "command", entry, rest: [...rest, ...argv.slice(i + 1)] };
    if (!isGroup(name, entries)) throw unknownCommand(words, entries, argv[i + 1]);
  }
  return withoutCommand(words, rest, entries);
}

function withoutCommand(words: readonly string[], rest: readonly string[], entries: readonly Entry[]): Request {
  if (words[0] === "help") {
    const asked = words.slice(1);
    const entry = entries.find((one) => one.name === asked.join(" "));
    if (entry) return { kind: "command", entry, rest: ["--help"] };
    if (asked.length === 0) return { kind: "help", text: overview(undefined, entries), exit: 0 };
    const group = asked.join(" ");
    if (!isGroup(group, entries)) throw unknownCommand(asked, entries);
    return { kind: "help", text: overview(group, entries), exit: 0 };
  }
  if (rest.includes("--version") || rest.includes("-V")) return { kind: "version" };
  const group = words.length === 0 ? undefined : words.join(" ");
  if (rest.includes("--help") || rest.includes("-h")) return { kind: "help", text: overview(group, entries), exit: 0 };
  const known = GLOBAL_OPTIONS.flatMap(({ syntax }) => syntax.split(/[ ,]+/).filter((part) => part.startsWith("-")));
  const unknown = rest.find((token, i) => {
    const isValue = TAKES_VALUE.includes(rest[i - 1] ?? "");
    return !isValue && !known.includes(token.split("=")[0] ?? token);
  });
  if (unknown !== undefined) {
    const guess = nearest(unknown, [...known, "--help", "--version"]);
    throw new HiveError("USAGE", `There is no option ${unknown}${guess ? `; did you mean ${guess}?` : "."}`, {
      hint: "Options of a command stand after it; `hive --help` lists the commands.",
      details: { option: unknown, nearest: guess ?? null },
    });
  }
  if (group !== undefined) {
    const members = entries.filter((one) => one.name.startsWith(`${group} `)).map((one) => one.name);
    throw new HiveError("USAGE", `"hive ${group}" needs a subcommand.`, {
      hint: `It is one of: ${members.map((name) => `hive ${name}`).join(", ")}.`,
      details: { command: group, commands: members },
    });
  }
  return { kind: "help", text: overview(undefined, entries), exit: 2 };
}

function isGroup(word: string, entries: readonly Entry[]): boolean {
  return entries.some((one) => one.name.startsWith(`${word} `));
}

function unknownCommand(words: readonly string[], entries: readonly Entry[], next?: string): HiveError {
  const typed = words.join(" ");
  const group = words.slice(0, Math.max(1, words.length - 1)).join(" ");
  const members = entries.filter((one) => one.name.startsWith(`${group} `)).map((one) => one.name);
  const all = entries.map((one) => one.name);
  const groups = all.map((name) => name.split(" ")[0] ?? name);
  // "migrat up": what follows says which of the group was meant.
  const longer = next === undefined || words.length > 1 ? undefined : nearest(`${typed} ${next}`, all);
  const guess = members.length > 0 ? nearest(typed, members) : (longer ?? nearest(typed, [...all, ...groups]));
  return new HiveError(
    "USAGE",
    `There is no command "hive ${typed}"${guess ? `; did you mean "hive ${guess}"?` : "."}`,
    {
      hint:
        members.length > 0
          ? `It is one of: ${members.map((name) => `hive ${name}`).join(", ")}.`
          : "`hive --help` lists the commands.",
      details: { command: typed, nearest: guess ?? null },
    },
  );
}

/** The help of hive itself, or of a group of commands. */
export function overview(group?: string, entries: readonly Entry[] = registry): string {
  const shown = group === undefined ? entries : entries.filter((one) => one.name.startsWith(`${group} `));
  const width = Math.max(...shown.map((one) => one.name.length), ...GLOBAL_OPTIONS.map((one) => one.syntax.length));
  const line = (left: string, right: string) => fold(`  ${left.padEnd(width)}  ${right}`, width + 4);
  return [
    group === undefined
      ? fold("hive moves a live system from its legacy database schema to a unified one, and back.", 0)
      : `hive ${group}: ${thousands(shown.length)} commands.`,
    "",
    `Usage: hive [options] ${group === undefined ? "COMMAND" : `${group} COMMAND`}`,
    "",
    "Commands:",
    ...shown.map((one) => line(one.name, one.summary)),
    "",
    "Options (before or after the command):",
    ...GLOBAL_OPTIONS.map((one) => line(one.syntax, one.summary)),
    line("-V, --version", "print the version"),
    line("-h, --help", "help on hive or on a command"),
    "",
    group === undefined
      ? "Begin with: hive init, then hive status, which says what to do next."
      : `Options of each command: hive ${group} COMMAND --help`,
    "",
  ].join("\n");
}

const HELP_WIDTH = 80;

function fold(text: string, indent: number): string {
  if (text.length <= HELP_WIDTH) return text;
  const cut = text.lastIndexOf(" ", HELP_WIDTH);
  if (cut <= indent) return text;
  return `${text.slice(0, cut)}\n${fold(" ".repeat(indent) + text.slice(cut + 1), indent)}`;
}

export type Parsed = { kind: "help"; text: string } | { kind: "input"; input: Input; globals: Globals };

/**
 * Reads a command's options and arguments.
 * @throws USAGE
 */
export async function parse(command: Command, rest: readonly string[]): Promise<Parsed> {
  // Only here: the overview and the version go without it.
  const { Command: Parser, CommanderError: ParseError, Option } = await import("commander");
  const commander = new Parser(`hive ${command.name}`);
  let help = "";
  commander
    .description(command.description ?? `${command.summary[0]?.toUpperCase()}${command.summary.slice(1)}.`)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => {
        help += text;
      },
      writeErr: () => undefined,
    })
    .configureHelp({ helpWidth: HELP_WIDTH })
    .helpOption("-h, --help", "this help")
    .action(() => undefined);
  const names = new Map<Parameter<unknown>, string>();
  const positions = new Map<Parameter<unknown>, number>();
  for (const parameter of command.parameters ?? []) {
    if (parameter.kind === "argument") {
      positions.set(parameter, positions.size);
      commander.argument(parameter.syntax, parameter.summary);
      continue;
    }
    const option = new Option(parameter.syntax, parameter.summary);
    if (parameter.repeatable) {
      option.argParser((value: string, previous: readonly string[] | undefined) => [...(previous ?? []), value]);
    }
    names.set(parameter, option.attributeName());
    commander.addOption(option);
  }
  for (const { syntax, summary } of GLOBAL_OPTIONS) {
    commander.addOption(new Option(syntax, summary).helpGroup("Options of all commands:"));
  }
  if (command.examples) {
    commander.addHelpText("after", `\nExamples:\n${command.examples.map((example) => `  ${example}`).join("\n")}`);
  }
  try {
    commander.parse(rest, { from: "user" });
  } catch (error) {
    if (!(error instanceof ParseError)) throw error;
    if (error.code === "commander.helpDisplayed" || error.code === "commander.help")
      return { kind: "help", text: help };
    throw usage(error, command.name);
  }
  const { input, globals } = read(commander, names, positions);
  // A value that makes no sense is refused before anything is opened.
  for (const parameter of command.parameters ?? []) input.get(parameter);
  return { kind: "input", input, globals };
}

function read(
  commander: Commander,
  names: ReadonlyMap<Parameter<unknown>, string>,
  positions: ReadonlyMap<Parameter<unknown>, number>,
): { input: Input; globals: Globals } {
  const options = commander.opts<Record<string, Raw>>();
  const args: readonly Raw[] = commander.processedArgs;
  const optional = (name: string) => {
    const value = options[name];
    return typeof value === "string" ? value : undefined;
  };
  const input: Input = {
    get(parameter) {
      const name = names.get(parameter);
      const position = positions.get(parameter);
      if (name !== undefined) return parameter.read(options[name]);
      if (position !== undefined) return parameter.read(args[position]);
      throw new HiveError("INTERNAL", `The command does not declare ${parameter.syntax}.`);
    },
  };
  const globals: Globals = {
    config: optional("config"),
    database: optional("database"),
    json: options.json === true,
    input: options.input !== false,
    yes: options.yes === true,
    verbose: options.verbose === true,
  };
  return { input, globals };
}

/** commander says what is wrong, with a suggestion on a line of its own. */
function usage(error: CommanderError, name: string): HiveError {
  const said = error.message.replace(/^error: /, "").replace(/\s*\n\s*/g, " ");
  const message = `${said[0]?.toUpperCase() ?? ""}${said.slice(1)}`;
  return new HiveError("USAGE", /[.?)]$/.test(message) ? message : `${message}.`, {
    hint: `\`hive ${name} --help\` lists what it takes.`,
    details: { command: name },
  });
}
