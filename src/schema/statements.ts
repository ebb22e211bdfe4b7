import { HiveError } from "../errors.ts";

/**
 * Reads the SQL of migration files just far enough to tell statements, comments and names apart. Nothing here changes
 * a user's SQL.
 */

export interface Token {
  kind: "word" | "name" | "string" | "comment" | "symbol";
  /** As written; of a quoted name (kind `name`) what is inside the quotes. */
  text: string;
  start: number;
  end: number;
}

export interface Statement {
  /** As written, with its semicolon. */
  text: string;
  /** Without the comments. */
  tokens: Token[];
  line: number;
}

const WORD = /[\p{L}\p{N}_$]+/uy;
const ESCAPED = /(?:[^'\\]|\\[\s\S]|'')*'/uy;
const DOLLAR_QUOTE = /\$(?:[\p{L}_][\p{L}\p{N}_]*)?\$/uy;

/**
 * The tokens of `text`. Knows '…', "…", `…`, […], $tag$…$tag$ and both kinds of comments.
 * @throws MIGRATION_INVALID for a string or comment without an end; `file` is named in the message
 */
export function tokenize(text: string, file: string): Token[] {
  const tokens: Token[] = [];
  let at = 0;
  const add = (kind: Token["kind"], end: number, inner?: string) => {
    tokens.push({ kind, text: inner ?? text.slice(at, end), start: at, end });
    at = end;
  };
  const closing = (mark: string, from: number): number => {
    const found = text.indexOf(mark, from);
    if (found >= 0) return found + mark.length;
    throw invalid(file, lineAt(text, at), `what begins with ${text.slice(at, at + 20).trim()} has no end`);
  };
  const quoted = (mark: string): number => {
    let end = closing(mark, at + 1);
    while (text.startsWith(mark, end)) end = closing(mark, end + 1);
    return end;
  };
  /** PostgreSQL's E'…', in which a backslash keeps a quote from ending it. */
  const escaped = (from: number): number => {
    const end = matchAt(ESCAPED, text, from);
    if (end === undefined)
      throw invalid(file, lineAt(text, at), `what begins with ${text.slice(at, at + 20).trim()} has no end`);
    return from + end.length;
  };
  while (at < text.length) {
    const char = text.charAt(at);
    if (/\s/.test(char)) at += 1;
    else if (text.startsWith("--", at)) {
      const newline = text.indexOf("\n", at);
      add("comment", newline < 0 ? text.length : newline);
    } else if (text.startsWith("/*", at)) add("comment", closing("*/", at + 2));
    else if (char === "'") add("string", quoted("'"));
    else if (/^[eE]'/.test(text.slice(at, at + 2))) add("string", escaped(at + 2));
    else if (char === '"' || char === "`") {
      const end = quoted(char);
      add("name", end, text.slice(at + 1, end - 1).replaceAll(char + char, char));
    } else if (char === "[") {
      const end = closing("]", at + 1);
      add("name", end, text.slice(at + 1, end - 1));
    } else {
      const tag = char === "$" ? matchAt(DOLLAR_QUOTE, text, at) : undefined;
      if (tag !== undefined) add("string", closing(tag, at + tag.length));
      else add(matchAt(WORD, text, at) === undefined ? "symbol" : "word", at + (matchAt(WORD, text, at)?.length ?? 1));
    }
  }
  return tokens;
}

function matchAt(pattern: RegExp, text: string, at: number): string | undefined {
  pattern.lastIndex = at;
  return pattern.exec(text)?.[0];
}

/** Whether the token is this keyword (or symbol). A quoted name never is. */
export function is(token: Token | undefined, ...words: string[]): boolean {
  return (
    token !== undefined &&
    (token.kind === "word" || token.kind === "symbol") &&
    words.includes(token.text.toUpperCase())
  );
}

/**
 * The statements of `text`. The semicolons in the body of a trigger do not end it, nor those of a PostgreSQL function's
 * (`BEGIN ATOMIC`): as in SQLite's own sqlite3_complete(), it ends with `; END ;`.
 */
export function statements(text: string, file: string, firstLine = 1): Statement[] {
  const found: Statement[] = [];
  let tokens: Token[] = [];
  const finish = () => {
    const first = tokens[0];
    const last = tokens.at(-1);
    if (first && last && !(tokens.length === 1 && is(first, ";"))) {
      found.push({
        text: text.slice(first.start, last.end),
        tokens,
        line: firstLine + lineAt(text, first.start) - 1,
      });
    }
    tokens = [];
  };
  for (const token of tokenize(text, file)) {
    if (token.kind === "comment") continue;
    tokens.push(token);
    if (is(token, ";") && !insideBody(tokens)) finish();
  }
  finish();
  return found;
}

function insideBody(tokens: readonly Token[]): boolean {
  if (!is(tokens[0], "CREATE")) return false;
  const begin = tokens.findIndex((token) => is(token, "BEGIN"));
  if (begin < 0) return false;
  const trigger = is(tokens[is(tokens[1], "TEMP", "TEMPORARY") ? 2 : 1], "TRIGGER");
  if (!trigger && !is(tokens[begin + 1], "ATOMIC")) return false;
  return !(is(tokens.at(-2), "END") && is(tokens.at(-3), ";"));
}

export function lineAt(text: string, position: number): number {
  let line = 1;
  for (let at = text.indexOf("\n"); at >= 0 && at < position; at = text.indexOf("\n", at + 1)) line += 1;
  return line;
}

export function invalid(file: string, line: number, what: string, hint = "Correct the file there."): HiveError {
  return new HiveError("MIGRATION_INVALID", `${file}, line ${line}: ${what}.`, { hint, details: { file, line } });
}
