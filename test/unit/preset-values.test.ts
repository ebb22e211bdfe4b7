import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { members, parseJson, quote, sameJson } from "../../src/presets/hive/json.ts";
import { decode, encode } from "../../src/presets/hive/legacy-values.ts";
import { utc } from "../../src/presets/hive/timestamps.ts";
import { sameValue, type Value } from "../../src/sync/mapping.ts";

describe("timestamps", () => {
  test.each([
    ["2025-09-21 08:45:28", "2025-09-21T08:45:28.000Z"],
    ["2025-09-21T08:45:28", "2025-09-21T08:45:28.000Z"],
    ["2025-10-01T00:00:00Z", "2025-10-01T00:00:00.000Z"],
    ["2025-10-01T00:00:00.5Z", "2025-10-01T00:00:00.500Z"],
    ["2025-09-20T03:06:51.147999+00:00", "2025-09-20T03:06:51.147Z"],
    ["2025-09-20T03:06:51.1234567890123", "2025-09-20T03:06:51.123Z"],
    ["2025-10-01T02:00:00+02:00", "2025-10-01T00:00:00.000Z"],
    ["2025-10-01 02:00:00.25+0230", "2025-09-30T23:30:00.250Z"],
    ["2025-12-31T23:00:00-05", "2026-01-01T04:00:00.000Z"],
    ["2025-10-31", "2025-10-31T00:00:00.000Z"],
    ["2024-02-29 12:00:00", "2024-02-29T12:00:00.000Z"],
    ["2000-02-29", "2000-02-29T00:00:00.000Z"],
    ["1969-12-31T23:59:59.999+01:00", "1969-12-31T22:59:59.999Z"],
    ["0050-03-01T00:30:00+01:00", "0050-02-28T23:30:00.000Z"],
    ["0001-01-01", "0001-01-01T00:00:00.000Z"],
    ["9999-12-31 23:59:59", "9999-12-31T23:59:59.000Z"],
  ])("%s is %s", (text, expected) => {
    expect(utc(text)).toBe(expected);
  });
  test.each([
    "",
    "now",
    "2025",
    "2025-02-29",
    "1900-02-29",
    "2025-02-30 00:00:00",
    "2025-04-31",
    "2025-13-01",
    "2025-00-01",
    "2025-01-00",
    "0000-01-01",
    "2025-01-01 24:00:00",
    "2025-01-01 25:00:00",
    "2025-01-01 23:60:00",
    "2025-01-01 23:59:60",
    "2025-01-01T10:00",
    "2025-01-01T10:00:00.",
    "2025-01-01T10:00:00.5z",
    "2025-01-01T10:00:00+24:00",
    "2025-01-01T10:00:00+02:60",
    "2025-01-01T10:00:00+2",
    "2025-01-01T10:00:00Zulu",
    "2025-01-01_10:00:00",
    " 2025-01-01",
    "2025-01-01Z",
    "2025-1-1 10:00:00",
    "0001-01-01T00:00:00+01:00",
    "9999-12-31T23:59:59-01:00",
    "1758444328",
    "-001-01-01",
    "２025-01-01",
  ])("%s cannot be read", (text) => {
    expect(utc(text)).toBeNull();
  });
  test("what is no text cannot be read", () => {
    for (const value of [null, undefined, 5n, 1.5, new Uint8Array(19)]) expect(utc(value)).toBeNull();
  });
  test("any instant with any offset is that instant", () => {
    const instant = fc.integer({ min: Date.UTC(1800, 0, 1), max: Date.UTC(2200, 0, 1) });
    fc.assert(
      fc.property(instant, fc.integer({ min: -1439, max: 1439 }), (ms, offset) => {
        const local = new Date(ms + offset * 60_000).toISOString().slice(0, -1);
        const pad = (n: number) => String(n).padStart(2, "0");
        const zone = `${offset < 0 ? "-" : "+"}${pad(Math.floor(Math.abs(offset) / 60))}:${pad(Math.abs(offset) % 60)}`;
        expect(utc(local + zone)).toBe(new Date(ms).toISOString());
      }),
    );
  });
});

const value: fc.Arbitrary<Value> = fc.oneof(
  fc.constant(null),
  fc.string({ unit: "binary" }),
  fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  fc.double({ noNaN: true }),
  fc.constantFrom<Value>(
    -0,
    5,
    1e300,
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
    2n ** 53n,
    -(2n ** 53n) + 1n,
  ),
  fc.uint8Array({ maxLength: 40 }),
);

test("every value survives encoding, of the same kind", () => {
  fc.assert(
    fc.property(value, (original) => {
      expect(decode(JSON.parse(encode(original)))).toStrictEqual(original);
    }),
  );
  const big = new Uint8Array(1 << 20).map((_, i) => i * 7);
  expect(sameValue(decode(JSON.parse(encode(big))), big)).toBe(true);
});

test("what was never encoded is not decoded", () => {
  for (const json of [true, [], {}, { $int: "x" }, { $blob: "*" }, { $other: "1" }]) {
    expect(decode(json)).toBeUndefined();
  }
});

test("quoting is JSON.stringify", () => {
  fc.assert(fc.property(fc.string({ unit: "binary", maxLength: 80 }), (text) => quote(text) === JSON.stringify(text)));
  expect(quote("\ud800 \u0000 é \u2028")).toBe(JSON.stringify("\ud800 \u0000 é \u2028"));
});

describe("JSON as text", () => {
  test("the members of an object are those of JSON.parse", () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.string({ unit: "binary" }), fc.jsonValue()),
        fc.constantFrom(0, 2),
        (object, indent) => {
          const text = JSON.stringify(object, null, indent);
          const parsed: { [key: string]: unknown } = JSON.parse(text);
          const found = members(text);
          expect([...found.keys()].sort()).toEqual(Object.keys(parsed).sort());
          for (const [key, json] of found) expect(JSON.parse(json)).toEqual(parsed[key]);
        },
      ),
    );
    expect([...members('{"a" :1 , "a":[{"]":"}"}],"\\u0062":"\\\\"}')]).toEqual([
      ["a", '[{"]":"}"}]'],
      ["b", '"\\\\"'],
    ]);
    expect(members("[1]").size).toBe(0);
  });
  test("the same JSON, written otherwise", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (json) => sameJson(JSON.stringify(json), ` ${JSON.stringify(json, null, 3)}`)),
    );
    expect(sameJson('{"a":1,"b":2}', '{"b":2.0,"a":1e0}')).toBe(true);
    expect(sameJson('{"a":1,"a":2}', '{"a":2}')).toBe(true);
    expect(sameJson('"\\u00e9"', '"é"')).toBe(true);
    expect(
      sameJson('{"a":"9007199254740993","n":9007199254740993}', '{"n":9007199254740993.0, "a":"9007199254740993"}'),
    ).toBe(true);
    expect(sameJson("1e20", "100000000000000000000")).toBe(true);
  });
  test.each([
    ["9007199254740993", "9007199254740992"],
    ['{"n":9007199254740993}', '{"n":"9007199254740993"}'],
    ["123456.789012345678", "123456.789012345679"],
    ["[1,2]", "[2,1]"],
    ["[]", "{}"],
    ["{}", "null"],
    ['{"a":null}', "{}"],
    ['{"a":1}', '{"b":1}'],
    ['{"__proto__":1}', "{}"],
    ['{"toString":1}', '{"valueOf":1}'],
    ["1e999", "1e998"],
    ["broken", '"broken"'],
    ['"5"', "5"],
  ])("%s is not %s", (a, b) => {
    expect(sameJson(a, b)).toBe(false);
  });
  test("nesting has no limit of its own", () => {
    const deep = `${"[".repeat(100_000)}${"]".repeat(100_000)}`;
    expect(sameJson(deep, ` ${deep}`)).toBe(true);
    expect(parseJson("{")).toBeUndefined();
  });
});
