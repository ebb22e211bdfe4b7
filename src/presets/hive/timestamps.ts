import type { Value } from "../../sync/mapping.ts";

/** What a timestamp that must be there becomes when it cannot be read; the row is flagged. */
export const UNREADABLE_TIME = "1970-01-01T00:00:00.000Z";

const DAYS = [0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
const [ZERO, NINE, DASH, COLON, SPACE, DOT, PLUS, T, Z] = [48, 57, 45, 58, 32, 46, 43, 84, 90];

/** Two digits at `at`, or a number above every limit. */
function two(text: string, at: number): number {
  const a = text.charCodeAt(at) - 48;
  const b = text.charCodeAt(at + 1) - 48;
  return a >= 0 && a <= 9 && b >= 0 && b <= 9 ? a * 10 + b : 100;
}

/** Minutes east of UTC of `Z`, `±HH`, `±HHMM` or `±HH:MM` from `at` to the end; NaN for anything else. */
function offsetMinutes(text: string, at: number): number {
  const sign = text.charCodeAt(at);
  const rest = text.length - at - 1;
  if (sign === Z) return rest === 0 ? 0 : Number.NaN;
  if (sign !== PLUS && sign !== DASH) return Number.NaN;
  const hours = two(text, at + 1);
  let minutes = 0;
  if (rest === 5 && text.charCodeAt(at + 3) === COLON) minutes = two(text, at + 4);
  else if (rest === 4) minutes = two(text, at + 3);
  else if (rest !== 2) return Number.NaN;
  if (hours > 23 || minutes > 59) return Number.NaN;
  return (sign === DASH ? -1 : 1) * (hours * 60 + minutes);
}

/**
 * A legacy timestamp as `YYYY-MM-DDTHH:MM:SS.sssZ`; null for what is no timestamp or cannot be (February 30, hour 25,
 * year 0). Read are `YYYY-MM-DD`, and that with `HH:MM:SS` after a space or `T`, a fraction of any length (cut to
 * milliseconds) and an offset. No offset means UTC, a date alone midnight.
 */
export function utc(value: Value | undefined): string | null {
  if (typeof value !== "string" || value.length < 10) return null;
  const century = two(value, 0);
  const years = two(value, 2);
  const month = two(value, 5);
  const day = two(value, 8);
  if (century > 99 || years > 99 || month === 0 || month > 12 || day === 0) return null;
  if (value.charCodeAt(4) !== DASH || value.charCodeAt(7) !== DASH) return null;
  const year = century * 100 + years;
  const leap = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
  if (year === 0 || day > (month === 2 && leap ? 29 : (DAYS[month] ?? 0))) return null;
  const date = value.slice(0, 10);
  if (value.length === 10) return `${date}T00:00:00.000Z`;

  const separator = value.charCodeAt(10);
  if ((separator !== SPACE && separator !== T) || value.length < 19) return null;
  if (value.charCodeAt(13) !== COLON || value.charCodeAt(16) !== COLON) return null;
  if (two(value, 11) > 23 || two(value, 14) > 59 || two(value, 17) > 59) return null;
  const time = value.slice(11, 19);
  if (value.length === 19) return `${date}T${time}.000Z`;

  let at = 19;
  let fraction = "000";
  if (value.charCodeAt(at) === DOT) {
    const start = ++at;
    while (value.charCodeAt(at) >= ZERO && value.charCodeAt(at) <= NINE) at++;
    if (at === start) return null;
    fraction = at - start >= 3 ? value.slice(start, start + 3) : value.slice(start, at).padEnd(3, "0");
  }
  const here = `${date}T${time}.${fraction}Z`;
  if (at === value.length) return here;
  const offset = offsetMinutes(value, at);
  if (offset === 0) return here;
  if (Number.isNaN(offset)) return null;
  const shifted = new Date(Date.parse(here) - offset * 60_000).toISOString();
  // An offset can push a date out of the years 1 to 9999, which neither database nor Python can hold.
  return shifted.length === 24 && !shifted.startsWith("0000") ? shifted : null;
}

/** Whether a unified time (as any database gives it back) is still the one that `expected` says. */
function sameTime(unified: Value | undefined, expected: string | null): boolean {
  return (unified ?? null) === expected || (expected !== null && utc(unified) === expected);
}

/** The raw time if the unified one still says what `up` made of it (`expected`), else the unified one. */
export function timeDown(unified: string | null, raw: Value | undefined, expected: string | null): Value {
  if (raw !== undefined && sameTime(unified, expected)) return raw;
  return unified === null ? null : (utc(unified) ?? unified);
}
