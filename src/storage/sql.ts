/**
 * The only way to build a query. Interpolated values become parameters, identifiers are quoted by the dialect.
 *
 *     sql`SELECT ${id("title")} FROM ${id("tasks")} WHERE id = ${key}`
 */

/** INTEGER is `bigint` or an integral `number`, REAL a `number`, TEXT a `string`, BLOB a `Uint8Array`. */
export type Value = null | string | number | bigint | Uint8Array;

class Identifier {
  readonly path: readonly string[];
  constructor(path: readonly string[]) {
    this.path = path;
  }
}

class In {
  readonly values: readonly Value[];
  constructor(values: readonly Value[]) {
    this.values = values;
  }
}

type Part = string | { readonly value: Value } | Identifier | In;

/** A query or a piece of one: made by {@link sql}, {@link id}, {@link among} or {@link join}, compiled by an adapter. */
export class Sql {
  readonly parts: readonly Part[];
  constructor(parts: readonly Part[]) {
    this.parts = parts;
  }
}

export type Interpolation = Value | boolean | Sql;

export function sql(strings: TemplateStringsArray, ...values: Interpolation[]): Sql {
  const parts: Part[] = [];
  strings.forEach((text, i) => {
    if (text !== "") parts.push(text);
    if (i >= values.length) return;
    const value = values[i];
    if (value instanceof Sql) parts.push(...value.parts);
    else if (typeof value === "boolean") parts.push({ value: value ? 1 : 0 });
    else parts.push({ value: value ?? null });
  });
  return new Sql(parts);
}

/** A quoted identifier; several names make a qualified one (`temp.stage`). */
export function id(...path: string[]): Sql {
  return new Sql([new Identifier(path)]);
}

/** `(v1, v2, …)` after `column IN`: written `${column} IN ${among(keys)}`; the adapter picks the fastest form. */
export function among(values: readonly Value[]): Sql {
  return new Sql([new In(values)]);
}

/** Pieces with `separator` (literal SQL of this code, never data) between them. */
export function join(pieces: readonly Sql[], separator = ", "): Sql {
  const parts: Part[] = [];
  pieces.forEach((piece, i) => {
    if (i > 0) parts.push(separator);
    parts.push(...piece.parts);
  });
  return new Sql(parts);
}

/** Quoted identifiers separated by commas. */
export function ids(names: readonly string[]): Sql {
  return join(names.map((name) => id(name)));
}

/** The text of a migration file, or of a statement that a migration file holds: the user's SQL, never edited. */
export function script(text: string): Sql {
  return new Sql([text]);
}

/** What an adapter needs to turn a query into the driver's text and parameters. */
export interface Compiler {
  quote(path: readonly string[]): string;
  /** The placeholder of the n-th parameter, counted from 1. */
  placeholder(n: number): string;
  /** The list without a value in it. */
  readonly none: string;
}

export interface Compiled {
  text: string;
  params: Value[];
}

/** The smallest one that is not less than `count`; 0 for 0. */
function powerOfTwo(count: number): number {
  return count === 0 ? 0 : 2 ** Math.ceil(Math.log2(count));
}

/** What the beginning of a query has been compiled to. */
interface Step {
  /** The whole text up to here. */
  readonly text: string;
  readonly texts: Map<string, Step>;
  readonly names: Map<string, Step>;
  value: Step | undefined;
}

/**
 * The statements of one program are few and come again and again: their texts are put together once, and each time the
 * same string is given, which a map of prepared statements finds without reading it.
 */
const known = new WeakMap<Compiler, { first: Step; steps: number }>();
const MOST_STEPS = 20_000;

function step(text: string): Step {
  return { text, texts: new Map(), names: new Map(), value: undefined };
}

export function compile(query: Sql, compiler: Compiler): Compiled {
  let cache = known.get(compiler);
  if (cache === undefined || cache.steps > MOST_STEPS) {
    cache = { first: step(""), steps: 0 };
    known.set(compiler, cache);
  }
  const { parts } = query;
  const params: Value[] = [];
  let at = cache.first;
  for (let i = 0; i < parts.length; i++) {
    const part = parts[i];
    if (part === undefined) continue;
    let next: Step | undefined;
    if (typeof part === "string") {
      next = at.texts.get(part);
      if (next === undefined) {
        next = step(at.text + part);
        at.texts.set(part, next);
        cache.steps += 1;
      }
    } else if (part instanceof Identifier) {
      const name = part.path.length === 1 ? (part.path[0] ?? "") : part.path.join("\u0000");
      next = at.names.get(name);
      if (next === undefined) {
        next = step(at.text + compiler.quote(part.path));
        at.names.set(name, next);
        cache.steps += 1;
      }
    } else if (part instanceof In) {
      // Filled up with the last value: lists of every length would each be a statement of its own to prepare and keep.
      const count = powerOfTwo(part.values.length);
      const name = `\u0000${count}`;
      next = at.names.get(name);
      if (next === undefined) {
        const places = Array.from({ length: count }, (_, n) => compiler.placeholder(params.length + n + 1));
        next = step(`${at.text}${count === 0 ? compiler.none : `(${places.join(",")})`}`);
        at.names.set(name, next);
        cache.steps += 1;
      }
      for (let n = 0; n < count; n++) params.push(part.values[Math.min(n, part.values.length - 1)] ?? null);
    } else {
      params.push(part.value);
      next = at.value;
      if (next === undefined) {
        next = step(at.text + compiler.placeholder(params.length));
        at.value = next;
        cache.steps += 1;
      }
    }
    at = next;
  }
  return { text: at.text, params };
}
