import { describe, expect, test } from "vitest";
import { createProgress, progressText } from "../../src/cli/progress.ts";
import { cells, createUi, duration, errorText, plural, thousands, visible, wrap } from "../../src/cli/render.ts";
import { HiveError, systemClock } from "../../src/index.ts";
import { plain } from "../support/cli.ts";

const ui = (columns = 80, colour = false) => createUi({ columns, prose: true, colour });

describe("what comes out of a database", () => {
  test.each([
    ["a\u001b[2Jb", "a\\x1b[2Jb"],
    ["line\r\nline\ttab", "line\\r\\nline\\ttab"],
    ["\u009b31m", "\\x9b31m"],
    ["abc\u202edcb", "abc\\u202edcb"],
    ["zero\u200bwidth", "zero\\u200bwidth"],
    ["half \ud83d of a pair", "half \\ud83d of a pair"],
    ["größe 日本 🐝", "größe 日本 🐝"],
  ])("cannot steer the terminal: %j", async (typed, shown) => {
    expect(visible(typed)).toBe(shown);
    expect((await ui()).paint("bad", typed)).toBe(shown);
    expect(await (await ui()).table([[typed, "x"]])).toContain(shown);
  });

  test("not through an error either", async () => {
    const error = new HiveError("CONSTRAINT", "bad \u001b]0;title\u0007", { details: { key: "\u001b[2J" } });
    expect(errorText(error, await ui())).not.toContain("\u001b");
  });
});

describe("tables", () => {
  const rows = [
    ["tasks", "x".repeat(300), 5],
    ["planning_queue", "日本語".repeat(40), 12_345],
  ];

  test.each([40, 80, 132])("fit %i columns; what is too long ends with …", async (columns) => {
    const drawn = await (await ui(columns)).table(rows, { head: ["mapping", "key", "count"], shrink: 1, indent: 2 });
    const lines = drawn.split("\n");
    expect(lines).toHaveLength(3);
    for (const line of lines) expect(cells(line)).toBeLessThanOrEqual(columns);
    expect(lines[1]).toMatch(/^ {2}tasks {11}x+… +5$/);
    expect(lines[2]).toMatch(/… +12,345$/);
  });

  test("colours do not move the columns", async () => {
    const styled = [
      [{ text: "ok", style: "good" as const }, "one"],
      [{ text: "FAILED", style: "bad" as const }, "two"],
    ];
    const coloured = await (await ui(80, true)).table(styled);
    expect(coloured).toContain("\u001b[31m");
    expect(plain(coloured)).toBe(await (await ui()).table(styled));
  });

  test("of nothing is nothing", async () => {
    expect(await (await ui()).table([])).toBe("");
  });
});

test("errors: what, the facts that were not said yet, what to do now", async () => {
  const error = new HiveError("SCHEMA_MISMATCH", "unified_notes has another shape.", {
    hint: "Rename it.",
    details: { table: "unified_notes", version: null, differences: ["column a is missing", "column b is text"] },
  });
  expect(errorText(error, await ui())).toBe(
    [
      "error: unified_notes has another shape.",
      "  differences:",
      "    - column a is missing",
      "    - column b is text",
      "→ Rename it.",
      "",
    ].join("\n"),
  );
});

test("numbers, durations, plurals, lines", () => {
  expect([0, 999, 1000, 1234567.84, 0.26].map(thousands)).toEqual(["0", "999", "1,000", "1,234,567.8", "0.3"]);
  expect([12, 999.9, 5400, 90_000, 3_600_000, 200_000_000].map(duration)).toEqual([
    "12 ms",
    "1 s",
    "5 s",
    "1 min 30 s",
    "1 h",
    "2 days",
  ]);
  expect([plural(1, "agent"), plural(0, "agent"), plural(2, "entry", "entries")]).toEqual([
    "1 agent",
    "0 agents",
    "2 entries",
  ]);
  expect(wrap("one two three four", 9, 2)).toBe("one two\n  three\n  four");
});

describe("progress", () => {
  const progress = { operation: "backfill", done: 1234, total: 5288, perSecond: 812.4, etaSeconds: 5 };

  function recorder(terminal: boolean) {
    let now = 0;
    let written = "";
    const write = (text: string) => {
      written += text;
    };
    const io = { stderr: { write }, tty: { stdout: terminal, stderr: terminal }, columns: 40 };
    const line = createProgress(io, { ...systemClock, monotonic: () => now });
    return {
      line,
      written: () => written,
      advance: (ms: number) => {
        now += ms;
      },
    };
  }

  test("says how far, how fast, how long", () => {
    expect(progressText(progress)).toBe("backfill  1,234/5,288  23 %  812/s  5 s left");
    expect(progressText({ ...progress, total: null, etaSeconds: null })).toBe("backfill  1,234  812/s");
  });

  test("on a terminal: one line that rewrites itself, cut to its width, and goes away", () => {
    const { line, written, advance } = recorder(true);
    line.onProgress(progress);
    line.onProgress(progress);
    advance(200);
    line.onProgress(progress);
    line.end();
    line.end();
    const once = "\r\u001b[2Kbackfill  1,234/5,288  23 %  812/s  5 s";
    expect(written()).toBe(`${once}${once}\r\u001b[2K`);
    expect(written()).not.toContain("\n");
  });

  test("without one: a plain line every ten seconds at most", () => {
    const { line, written, advance } = recorder(false);
    for (let i = 0; i < 250; i++) {
      line.onProgress(progress);
      advance(100);
    }
    line.end();
    expect(written()).toBe("backfill  1,234/5,288  23 %  812/s  5 s left\n".repeat(2));
  });

  test("names whom it waits for", () => {
    const { line, written } = recorder(false);
    line.onWait({
      name: "migrate",
      holder: "hive migrate up",
      pid: 7,
      host: "db\u001b1",
      since: "2026-01-01T00:00:00Z",
    });
    expect(written()).toBe("waiting for hive migrate up (process 7 on db\\x1b1, since 2026-01-01T00:00:00Z) …\n");
  });
});
