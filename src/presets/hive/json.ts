/**
 * JSON as text. Legacy JSON is never parsed and written again: integers beyond 2^53, `1.0`, duplicate keys and the
 * order of integer-like keys would not survive. It is parsed to be looked at and copied as it stands.
 */

export type Json = null | boolean | number | string | Json[] | JsonObject;
export interface JsonObject {
  [key: string]: Json | undefined;
}

/** The value of a JSON text; undefined for what is not JSON. */
export function parseJson(text: string): Json | undefined {
  try {
    const value: Json = JSON.parse(text);
    return value;
  } catch {
    return undefined;
  }
}

export function asObject(value: Json | undefined): JsonObject | null {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? value : null;
}

/** Text that is not empty; null for anything else. */
export function textOf(value: Json | undefined): string | null {
  return typeof value === "string" && value !== "" ? value : null;
}

const SHORT = 48;

/** `text` as a JSON string. */
export function quote(text: string): string {
  if (text.length > SHORT) return JSON.stringify(text);
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code < 32 || code === 34 || code === 92 || code > 0xd7ff) return JSON.stringify(text);
  }
  return `"${text}"`;
}

function skipSpace(text: string, from: number): number {
  let at = from;
  for (;;) {
    const code = text.charCodeAt(at);
    if (code !== 32 && code !== 10 && code !== 13 && code !== 9) return at;
    at++;
  }
}

/** The position after the string that opens at `from`; -1 if it never ends. */
export function endOfString(text: string, from: number): number {
  let at = from;
  for (;;) {
    at = text.indexOf('"', at + 1);
    if (at < 0) return -1;
    let slashes = 0;
    while (text.charCodeAt(at - 1 - slashes) === 92) slashes++;
    if (slashes % 2 === 0) return at + 1;
  }
}

/** The position after the value that begins at `from`, in valid JSON. */
function endOfValue(text: string, from: number): number {
  let at = from;
  let depth = 0;
  while (at < text.length) {
    const code = text.charCodeAt(at);
    if (code === 34) {
      at = endOfString(text, at);
      if (depth === 0) return at;
      continue;
    }
    if (code === 123 || code === 91) depth++;
    else if (code === 125 || code === 93) {
      if (depth === 0) return at;
      if (--depth === 0) return at + 1;
    } else if (depth === 0 && (code === 44 || code <= 32)) return at;
    at++;
  }
  return at;
}

/**
 * The members of the object that `text` (valid JSON) holds, in the order of the text, each value as its own text; the
 * last of equal keys wins, as in JSON.parse. Empty when it holds no object.
 */
export function members(text: string): Map<string, string> {
  const found = new Map<string, string>();
  let at = skipSpace(text, 0);
  if (text.charCodeAt(at) !== 123) return found;
  at = skipSpace(text, at + 1);
  while (text.charCodeAt(at) === 34) {
    const keyEnd = endOfString(text, at);
    const key: string = JSON.parse(text.slice(at, keyEnd));
    const start = skipSpace(text, skipSpace(text, keyEnd) + 1);
    const end = endOfValue(text, start);
    found.set(key, text.slice(start, end));
    at = skipSpace(text, end);
    if (text.charCodeAt(at) === 44) at = skipSpace(text, at + 1);
  }
  return found;
}

/**
 * The three member values of `{"a":…,"b":…,"c":…}`, written with no white space between, if the first two are strings or
 * null; null for any other text. The text is not validated: only a comparison may trust the third.
 */
export function splitThree(text: string, names: readonly [string, string, string]): [string, string, string] | null {
  const open = `{"${names[0]}":`;
  if (!text.startsWith(open)) return null;
  const firstEnd = endOfSimple(text, open.length);
  const second = `,"${names[1]}":`;
  if (firstEnd < 0 || !text.startsWith(second, firstEnd)) return null;
  const secondStart = firstEnd + second.length;
  const secondEnd = endOfSimple(text, secondStart);
  const third = `,"${names[2]}":`;
  if (secondEnd < 0 || !text.startsWith(third, secondEnd) || !text.endsWith("}")) return null;
  return [
    text.slice(open.length, firstEnd),
    text.slice(secondStart, secondEnd),
    text.slice(secondEnd + third.length, -1),
  ];
}

function endOfSimple(text: string, from: number): number {
  if (text.charCodeAt(from) === 34) return endOfString(text, from);
  return text.startsWith("null", from) ? from + 4 : -1;
}

/** Whether two JSON texts mean the same: white space, key order, escapes and notation of numbers apart. */
export function sameJson(a: string, b: string): boolean {
  if (a === b) return true;
  let left = parseJson(a);
  let right = parseJson(b);
  if (left === undefined || right === undefined) return false;
  // 2^53 and its neighbour parse to one number: a change there would be taken for none and lost.
  if (LONG_NUMBER.test(a) || LONG_NUMBER.test(b)) {
    left = parseJson(exactNumbers(a));
    right = parseJson(exactNumbers(b));
  }
  return equal(left ?? null, right ?? null);
}

const LONG_NUMBER = /[\d.]{16}/;

/** Iterative: 100,000 levels of nesting are valid JSON and would overflow the stack. */
function equal(a: Json, b: Json): boolean {
  const open: [Json, Json][] = [[a, b]];
  for (let pair = open.pop(); pair !== undefined; pair = open.pop()) {
    const [left, right] = pair;
    if (left === right && left !== Number.POSITIVE_INFINITY && left !== Number.NEGATIVE_INFINITY) continue;
    if (Array.isArray(left)) {
      if (!Array.isArray(right) || left.length !== right.length) return false;
      for (let i = 0; i < left.length; i++) open.push([left[i] ?? null, right[i] ?? null]);
      continue;
    }
    const leftObject = asObject(left);
    const rightObject = asObject(right);
    if (leftObject === null || rightObject === null) return false;
    const keys = Object.keys(leftObject);
    if (keys.length !== Object.keys(rightObject).length) return false;
    for (const key of keys) {
      if (!Object.hasOwn(rightObject, key)) return false;
      open.push([leftObject[key] ?? null, rightObject[key] ?? null]);
    }
  }
  return true;
}

/** Valid JSON with each number replaced by a text that is the same for the same number, however it is written. */
function exactNumbers(text: string): string {
  let result = "";
  let at = 0;
  while (at < text.length) {
    const code = text.charCodeAt(at);
    let end = at + 1;
    if (code === 34) {
      end = endOfString(text, at);
      // Marked, so that no string can be taken for a number.
      result += `"s${text.slice(at + 1, end)}`;
    } else if (code === 45 || (code >= 48 && code <= 57)) {
      while (end < text.length && "0123456789+-.eE".includes(text.charAt(end))) end++;
      result += `"n${exactNumber(text.slice(at, end))}"`;
    } else {
      result += text.charAt(at);
    }
    at = end;
  }
  return result;
}

/** `-1.50e3` as `-15e2`: the digits without outer zeros, times a power of ten. */
function exactNumber(token: string): string {
  const [mantissa = "", exponent = "0"] = token.toLowerCase().split("e");
  const negative = mantissa.startsWith("-");
  const [whole = "", fraction = ""] = (negative ? mantissa.slice(1) : mantissa).split(".");
  const digits = whole + fraction;
  let start = 0;
  let end = digits.length;
  while (start < end && digits.charCodeAt(start) === 48) start++;
  while (end > start && digits.charCodeAt(end - 1) === 48) end--;
  if (start === end) return "0";
  const power = BigInt(exponent) - BigInt(fraction.length) + BigInt(digits.length - end);
  return `${negative ? "-" : ""}${digits.slice(start, end)}e${power}`;
}
