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
}

export interface Compiled {
  text: string;
  params: Value[];
}

/** The smallest one that is not less than `count`; 0 for 0. */
function powerOfTwo(count: number): number {
  return count === 0 ? 0 : 2 ** Math.ceil(Math.log2(count));
}

export function compile(query: Sql, compiler: Compiler): Compiled {
  let text = "";
  const params: Value[] = [];
  const add = (value: Value) => {
    params.push(value);
    text += compiler.placeholder(params.length);
  };
  for (const part of query.parts) {
    if (typeof part === "string") text += part;
    else if (part instanceof Identifier) text += compiler.quote(part.path);
    else if (part instanceof In) {
      text += "(";
      // Filled up with the last value: lists of every length would each be a statement of its own to prepare and keep.
      const count = powerOfTwo(part.values.length);
      for (let i = 0; i < count; i++) {
        if (i > 0) text += ",";
        add(part.values[Math.min(i, part.values.length - 1)] ?? null);
      }
      text += ")";
    } else add(part.value);
  }
  return { text, params };
}
