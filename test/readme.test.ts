import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { registry } from "../src/cli/registry.ts";
import { CONFIG_DEFAULTS, ENVIRONMENT, ERROR_CODES } from "../src/index.ts";
import { postgres } from "./support/backends.ts";
import { LAUNCHER } from "./support/cli.ts";
import { temporaryDirectory } from "./support/context.ts";
import { smallPlatform } from "./support/small-platform.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const read = (name: string) => readFileSync(join(root, name), "utf8");
const readme = read("README.md");
const blocks = [...readme.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, body]) => body ?? "");

/**
 * `npx hive` is the hive built here, and `npm ci` has been run already: it would take away the modules that the other
 * tests are using. The demo is asked to hurry.
 */
function tools(): string {
  const folder = join(temporaryDirectory(), "bin");
  mkdirSync(folder);
  const npx = `#!/bin/sh
[ "$1" = hive ] || { echo "npx $1?" >&2; exit 1; }
shift
[ "$1" = demo ] && set -- "$@" --fast
exec "${process.execPath}" "${LAUNCHER}" "$@"
`;
  const npm = `#!/bin/sh
[ "$*" = ci ] || { echo "npm $*?" >&2; exit 1; }
`;
  writeFileSync(join(folder, "npx"), npx, { mode: 0o755 });
  writeFileSync(join(folder, "npm"), npm, { mode: 0o755 });
  return folder;
}

// The demo's agents write at their own pace.
test("the README's commands work as they stand, one after the other", { timeout: 300_000 }, async () => {
  const { url } = await postgres.create({ legacy: "natural", sample: { tasks: 60 } });
  expect(blocks.filter((block) => block.includes("$PLATFORM"))).toHaveLength(1);
  expect(blocks.length).toBeGreaterThan(2);
  const cwd = smallPlatform({ config: false });
  const path = `${tools()}${delimiter}${process.env.PATH ?? ""}`;
  for (const command of blocks.join("").split("\n").filter(Boolean)) {
    const run = spawnSync("sh", ["-c", command], {
      cwd,
      env: { ...process.env, PATH: path, PLATFORM: url },
      encoding: "utf8",
    });
    expect(run.status, `${command}\n${run.stdout}\n${run.stderr}`).toBe(0);
  }
});

test("every command that the documents name exists", () => {
  const names = registry.map((entry) => entry.name);
  const pages = readdirSync(join(root, "docs")).filter((name) => name.endsWith(".md"));
  const others = [
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "examples/customers/README.md",
    ...pages.map((name) => `docs/${name}`),
  ];
  const named = [readme, ...others.map(read)].flatMap((text) =>
    [...text.matchAll(/\bhive ([a-z]+)(?: ([a-z-]+))?(?: ([a-z]+))?/g)]
      .filter(({ index }) => text[index - 1] === "`" || text.slice(0, index).endsWith("npx "))
      .map(([, first, second, third]) => [first ?? "", `${first} ${second}`, `${first} ${second} ${third}`]),
  );
  expect(named.length).toBeGreaterThan(10);
  expect(named.filter((candidates) => !candidates.some((one) => names.includes(one)))).toEqual([]);
});

test("every variable, exit code, script and link that the documents name exists", () => {
  const variables = new Set([...readme.matchAll(/`(HIVE_[A-Z_]+)`/g)].map(([, name]) => name));
  expect(variables).toEqual(new Set([...Object.values(ENVIRONMENT), "HIVE_CONFIG", "HIVE_ACTOR"]));
  for (const setting of Object.keys(ENVIRONMENT)) expect(Object.keys(CONFIG_DEFAULTS)).toContain(setting);

  const codes = [...readme.matchAll(/^\| (\d+) +\|/gm)].map(([, code]) => Number(code));
  expect(new Set(codes)).toEqual(new Set([0, 3, ...Object.values(ERROR_CODES).map((one) => one.exit)]));

  const { scripts }: { scripts: Record<string, string> } = JSON.parse(read("package.json"));
  for (const [, script] of read("CONTRIBUTING.md").matchAll(/npm run ([a-z]+)/g))
    expect(Object.keys(scripts)).toContain(script);
  for (const [, target] of readme.matchAll(/\]\(([^)]+)\)/g))
    expect(existsSync(join(root, target ?? "")), target).toBe(true);
});
