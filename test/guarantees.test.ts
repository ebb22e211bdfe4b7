import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

const file = (path: string) => readFileSync(fileURLToPath(new URL(`../${path}`, import.meta.url)), "utf8");

/** A line with the name of a test: its call, the end of a table of cases before the name, the name alone, or a case's. */
const NAMING = /\b(test|it)(\.\w+)*\(|^\s*\].*\)\(["'`]|^\s*["'`]|^\s*(name|title): "/;

/** `path`: name, as the page has them. */
function testsNamedIn(page: string): { path: string; name: string }[] {
  return [...page.matchAll(/`(test\/[^`]+)`: ([^·|\n]+)/g)].map(([, path = "", name = ""]) => ({
    path,
    name: name.trim(),
  }));
}

function missingTests(page: string): string[] {
  return testsNamedIn(page)
    .filter(({ path, name }) => {
      const text = file(path);
      return !text.split("\n").some((line) => NAMING.test(line) && line.includes(name));
    })
    .map(({ path, name }) => `${path}: ${name}`);
}

describe("docs/guarantees.md", () => {
  const page = file("docs/guarantees.md");

  test("names a test for each of the ten guarantees", () => {
    const rows = page.split("\n").filter((line) => /^\| \d+ \|/.test(line));
    expect(rows.map((row) => Number(row.split("|")[1]))).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    for (const row of rows) expect(testsNamedIn(row), row).not.toEqual([]);
  });

  test("names only tests that exist", () => {
    expect(missingTests(page)).toEqual([]);
    const invented = ["flies", "to", "the", "moon"].join(" ");
    expect(missingTests(`\`test/guarantees.test.ts\`: ${invented}`)).toEqual([`test/guarantees.test.ts: ${invented}`]);
  });
});
