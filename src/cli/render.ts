import type { HiveError } from "../index.ts";

export type Style = "good" | "bad" | "warn" | "quiet" | "strong";
export type Cell = string | number | { readonly text: string; readonly style: Style };

export interface TableOptions {
  head?: readonly string[];
  /** The column that gives way where the table is too wide; default the last. */
  shrink?: number;
  indent?: number;
}

/** How a result becomes text for people. Whatever comes out of a database has to go through here. */
export interface Ui {
  readonly columns: number;
  /** Control characters become visible escapes: a title must not be able to steer the terminal. */
  text(value: string): string;
  paint(style: Style, value: string): string;
  /** Columns without borders, cut to the terminal's width. */
  table(rows: readonly (readonly Cell[])[], options?: TableOptions): Promise<string>;
  /** Broken between words to the terminal's width; later lines are indented. */
  wrap(value: string, indent?: number): string;
}

export interface UiOptions {
  columns: number;
  /** Break prose into lines as well; tables always fit. */
  prose: boolean;
  colour: boolean;
}

/** Loads the colour library only where there is colour. */
export async function createUi({ columns, prose, colour }: UiOptions): Promise<Ui> {
  const paint = colour ? await painter() : (_: Style, value: string) => value;
  const width = Math.max(columns, 20);
  return {
    columns: width,
    text: visible,
    paint: (style, value) => paint(style, visible(value)),
    table: (rows, options) => table(rows, options ?? {}, width, paint),
    wrap: (value, indent = 0) => (prose ? wrap(value, width, indent) : value),
  };
}

type Painter = (style: Style, value: string) => string;

async function painter(): Promise<Painter> {
  const { Chalk } = await import("chalk");
  const chalk = new Chalk({ level: 1 });
  const styles: { readonly [S in Style]: (value: string) => string } = {
    good: chalk.green,
    bad: chalk.red,
    warn: chalk.yellow,
    quiet: chalk.dim,
    strong: chalk.bold,
  };
  return (style, value) => styles[style](value);
}

/** C0 and C1 controls, and the marks that reorder or hide what follows. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters that must not reach the terminal
const UNSAFE = /[\u0000-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]|\p{Surrogate}/gu;

export function visible(value: string): string {
  return value.replace(UNSAFE, (character) => {
    if (character === "\n") return "\\n";
    if (character === "\t") return "\\t";
    if (character === "\r") return "\\r";
    const code = character.charCodeAt(0);
    return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: a colour begins with one
const COLOUR = /\u001b\[\d*m/g;

/** Terminal cells of a text: East Asian wide characters and emoji take two, combining marks and colours none. */
export function cells(value: string): number {
  let total = 0;
  for (const character of value.replace(COLOUR, "")) {
    if (/\p{Mark}/u.test(character)) continue;
    total += WIDE.test(character) ? 2 : 1;
  }
  return total;
}
const WIDE =
  /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|[\u{1f300}-\u{1faff}]|[\u{20000}-\u{3fffd}]/u;

async function table(
  rows: readonly (readonly Cell[])[],
  options: TableOptions,
  columns: number,
  paint: Painter,
): Promise<string> {
  const head = (options.head ?? []).map((name): Cell => ({ text: name, style: "quiet" }));
  const plain = [...(head.length > 0 ? [head] : []), ...rows].map((row) => row.map(toPlain));
  const count = Math.max(0, ...plain.map((row) => row.length));
  if (count === 0) return "";
  const indent = options.indent ?? 0;
  const widths = Array.from({ length: count }, (_, i) => Math.max(1, ...plain.map((row) => cells(row[i]?.text ?? ""))));
  squeeze(widths, options.shrink ?? count - 1, columns - indent - GAP * (count - 1));

  const { default: Table } = await import("cli-table3");
  const edges = ["top", "top-mid", "top-left", "top-right", "bottom", "bottom-mid", "bottom-left", "bottom-right"];
  const inner = ["left", "left-mid", "mid", "mid-mid", "right", "right-mid"];
  const drawn = new Table({
    chars: Object.fromEntries([...edges, ...inner, "middle"].map((name) => [name, ""])),
    style: { "padding-left": 0, "padding-right": GAP, head: [], border: [], compact: true },
    colWidths: widths.map((width) => width + GAP),
    colAligns: widths.map((_, i) =>
      rows.length > 0 && rows.every((row) => typeof row[i] === "number") ? "right" : "left",
    ),
    truncate: "…",
    wordWrap: false,
  });
  for (const row of plain) {
    drawn.push(
      Array.from({ length: count }, (_, i) => {
        const cell = row[i] ?? { text: "", style: null };
        return cell.style === null ? cell.text : paint(cell.style, cell.text);
      }),
    );
  }
  return drawn
    .toString()
    .split("\n")
    .map((line) => " ".repeat(indent) + line.trimEnd())
    .join("\n");
}

const GAP = 2;
const NARROWEST = 8;

/** Takes what is too much from the column that may shrink, then from the widest ones. */
function squeeze(widths: number[], shrink: number, available: number): void {
  const total = () => widths.reduce((sum, width) => sum + width, 0);
  const own = widths[shrink];
  if (own !== undefined && total() > available) {
    widths[shrink] = Math.max(Math.min(own, NARROWEST), own - (total() - available));
  }
  while (total() > available) {
    const widest = widths.indexOf(Math.max(...widths));
    const width = widths[widest] ?? 0;
    if (width <= 2) return;
    widths[widest] = width - 1;
  }
}

function toPlain(cell: Cell): { text: string; style: Style | null } {
  if (typeof cell === "number") return { text: thousands(cell), style: null };
  if (typeof cell === "string") return { text: visible(cell), style: null };
  return { text: visible(cell.text), style: cell.style };
}

export function wrap(value: string, columns: number, indent = 0): string {
  const [margin = ""] = /^ */.exec(value) ?? [];
  const [first = "", ...words] = value.slice(margin.length).split(" ");
  const lines: string[] = [];
  let line = margin + first;
  for (const word of words) {
    if (cells(line) + 1 + cells(word) > columns) {
      lines.push(line);
      line = " ".repeat(indent) + word;
    } else {
      line += ` ${word}`;
    }
  }
  return [...lines, line].join("\n");
}

/** 12345.678 → "12,345.7" */
export function thousands(value: number): string {
  const [whole = "", fraction] = String(Math.round(value * 10) / 10).split(".");
  return whole.replace(/\B(?=(\d{3})+$)/g, ",") + (fraction === undefined ? "" : `.${fraction}`);
}

/** "1 agent", "3 agents", "2 entries" */
export function plural(count: number, one: string, many = `${one}s`): string {
  return `${thousands(count)} ${count === 1 ? one : many}`;
}

/** 90_000 → "1 min 30 s" */
export function duration(ms: number): string {
  if (Math.round(ms) < 1000) return `${Math.round(ms)} ms`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return seconds % 60 === 0 ? `${minutes} min` : `${minutes} min ${seconds % 60} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 === 0 ? `${hours} h` : `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} days`;
}

const DETAILS_SHOWN = 20;

/** What went wrong, the facts that the message does not have already, and what to do now. */
export function errorText(error: HiveError, ui: Ui): string {
  const lines = [ui.wrap(`${ui.paint("bad", "error:")} ${sentence(error.message)}`, 2)];
  const said = `${error.message} ${error.hint ?? ""}`;
  for (const [name, value] of Object.entries(error.details)) {
    const items = (Array.isArray(value) ? value : [value])
      .filter((item) => !isSaid(item, said))
      .map(detail)
      .filter((item) => item !== "");
    if (items.length === 0) continue;
    if (!Array.isArray(value)) lines.push(ui.wrap(`  ${visible(name)}: ${items[0]}`, 4));
    else {
      lines.push(`  ${visible(name)}:`, ...items.slice(0, DETAILS_SHOWN).map((item) => ui.wrap(`    - ${item}`, 6)));
      if (items.length > DETAILS_SHOWN)
        lines.push(`    and ${items.length - DETAILS_SHOWN} more (all of them with --json)`);
    }
  }
  if (error.hint !== undefined) lines.push(ui.wrap(`→ ${sentence(error.hint)}`, 2));
  return `${lines.join("\n")}\n`;
}

/** Line breaks of a message (a parser's picture of the place) stay; everything else is made visible. */
function sentence(value: string): string {
  return value.split("\n").map(visible).join("\n");
}

/** Details are for machines: what message and hint say already is not said twice. `kind` only sorts. */
function isSaid(value: unknown, said: string): boolean {
  if (typeof value !== "object" || value === null) return said.includes(String(value ?? ""));
  return Object.entries(value).every(([name, item]) => name === "kind" || isSaid(item, said));
}

function detail(value: unknown): string {
  if (value === null || value === undefined) return "";
  if (typeof value === "object" && !Array.isArray(value)) {
    return Object.entries(value)
      .flatMap(([name, item]) => (detail(item) === "" ? [] : [`${visible(name)} ${detail(item)}`]))
      .join(", ");
  }
  if (typeof value === "object") return visible(JSON.stringify(value));
  return visible(String(value));
}
