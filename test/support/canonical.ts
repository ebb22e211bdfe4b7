/** Values of two databases in one form, so that what is equal looks the same: for tests that compare them. */

const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const TIME = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?(Z|[+-]\d\d:\d\d)?$/;

/**
 * JSON as a value: keys sorted, the last of equal keys, numbers exact. With `natural`, texts within it that are times or
 * JSON themselves are values too. Throws on what is no JSON.
 */
export function canonical(text: string, natural = false): unknown {
  const exact = text.replace(TOKEN, (token) => (token.startsWith('"') ? token : `{"$number":"${exactNumber(token)}"}`));
  return sorted(JSON.parse(exact), natural);
}

/** Undefined for what is no JSON. */
export function canonicalJson(value: unknown): unknown {
  try {
    return typeof value === "string" ? canonical(value) : undefined;
  } catch {
    return undefined;
  }
}

/** A time as `…THH:MM:SS.ffffffZ`; without an offset it is UTC. What is none stays as it is. */
export function instant(value: unknown): unknown {
  const [, day, time, fraction = "", zone = "Z"] = TIME.exec(String(value)) ?? [];
  if (day === undefined) return value;
  const at = new Date(`${day}T${time}${zone}`);
  return `${at.toISOString().slice(0, 19)}.${fraction.padEnd(6, "0")}Z`;
}

function sorted(value: unknown, natural: boolean): unknown {
  if (typeof value === "string" && natural) return canonicalObject(value) ?? instant(value);
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map((one) => sorted(one, natural));
  const entries = Object.entries(value).map(([key, one]) => [key, sorted(one, natural)] as const);
  return entries.sort(([a], [b]) => (a < b ? -1 : 1));
}

function canonicalObject(text: string): unknown {
  if (!/^\s*[[{]/.test(text)) return undefined;
  try {
    return canonical(text, true);
  } catch {
    return undefined;
  }
}

/** `-12.50e3` as `-125e2`. */
function exactNumber(token: string): string {
  const [, sign = "", whole = "", fraction = "", exponent = "0"] =
    /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(token) ?? [];
  const digits = `${whole}${fraction}`.replace(/^0+/, "");
  const kept = digits.replace(/0+$/, "");
  const power = BigInt(exponent) - BigInt(fraction.length) + BigInt(digits.length - kept.length);
  return kept === "" ? "0" : `${sign}${kept}e${power}`;
}
