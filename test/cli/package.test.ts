import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { temporaryDirectory } from "../support/context.ts";
import { OWN } from "../support/migrations.ts";
import { smallPlatform } from "../support/small-platform.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

function run(cwd: string, command: string, ...args: string[]): string {
  const result = spawnSync(command, args, { cwd, encoding: "utf8" });
  expect(result.status, `${command} ${args.join(" ")}\n${result.stdout}\n${result.stderr}`).toBe(0);
  return result.stdout;
}

/** The tarball that `npm pack` makes, in this folder: its file name. */
function pack(app: string): string {
  const said = run(root, "npm", "pack", "--ignore-scripts", "--silent", "--pack-destination", app);
  return said.trim().split("\n").at(-1) ?? "";
}

/**
 * What `npm install` of the tarball gives, without a network: the tarball's files, links for its commands, and this
 * folder's copies of what it depends on. Nothing of the working folder itself is in reach.
 */
function link(app: string): void {
  const tarball = join(app, pack(app));
  const modules = join(app, "node_modules");
  mkdirSync(join(modules, ".bin"), { recursive: true });
  run(app, "tar", "-xzf", tarball);
  run(app, "mv", "package", "node_modules/hive-migrate");
  for (const name of readdirSync(join(root, "node_modules"))) {
    if (!name.startsWith(".")) symlinkSync(join(root, "node_modules", name), join(modules, name));
  }
  const { bin }: { bin: Record<string, string> } = JSON.parse(
    readFileSync(join(modules, "hive-migrate/package.json"), "utf8"),
  );
  for (const [name, target] of Object.entries(bin))
    symlinkSync(join("../hive-migrate", target), join(modules, ".bin", name));
  writeFileSync(join(app, "package.json"), '{"private":true,"type":"module"}');
}

/** Hive as it was installed in this folder does its work, as a command and as a library. */
function works(app: string): void {
  expect(run(app, "npx", "--no-install", "hive", "--version")).toMatch(/^hive \d/);
  expect(run(app, "npx", "--no-install", "hive-migrate", "--version")).toMatch(/^hive \d/);
  const hive = join(app, "node_modules/.bin/hive");
  run(app, hive, "init", "--yes");
  expect(JSON.parse(readFileSync(join(app, "hive.config.json"), "utf8"))).toEqual({
    $schema: "./node_modules/hive-migrate/hive.config.schema.json",
    database: "sqlite:./hive.db",
    mapping: "hive",
  });
  run(app, hive, "migrate", "up");
  run(app, hive, "verify");
  run(app, hive, "backfill");

  writeFileSync(
    join(app, "use.js"),
    `import { loadConfig, openHive } from "hive-migrate";
const { settings } = await loadConfig();
const hive = await openHive(settings);
console.log((await hive.migrations.status()).head);
await hive[Symbol.asyncDispose]();
`,
  );
  expect(run(app, process.execPath, "use.js")).toBe("true\n");
}

test("the tarball holds everything hive needs, and nothing else", () => {
  const app = temporaryDirectory();
  const files = run(app, "tar", "-tzf", pack(app)).split("\n");
  for (const file of [
    "bin/hive.js",
    "dist/index.d.ts",
    ...OWN.map((name) => `migrations/${name}.sqlite.sql`),
    "hive.config.schema.json",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
  ]) {
    expect(files).toContain(`package/${file}`);
  }
  expect(files.filter((file) => /^package\/(src|test|bench|\.ci)\//.test(file))).toEqual([]);
});

test("it works from where it was unpacked, with this folder's dependencies", () => {
  const app = smallPlatform({ config: false });
  link(app);
  works(app);
});

const REAL = process.env.CI === "true" || process.env.HIVE_TEST_INSTALL === "1";
const WHY_NOT = "a real `npm install` of the tarball needs a network: set HIVE_TEST_INSTALL=1 (CI does it always)";
if (!REAL) process.stderr.write(`skipped: ${WHY_NOT}\n`);

/** The driver's binary, which takes minutes to compile: this folder's, where it is of the version that was installed. */
function giveBinary(app: string): void {
  const driver = "node_modules/better-sqlite3";
  const version = (folder: string) => JSON.parse(readFileSync(join(folder, driver, "package.json"), "utf8")).version;
  if (version(app) !== version(root)) {
    run(app, "npm", "rebuild", "better-sqlite3");
    return;
  }
  const binary = join(driver, "build/Release/better_sqlite3.node");
  mkdirSync(dirname(join(app, binary)), { recursive: true });
  copyFileSync(join(root, binary), join(app, binary));
}

test.skipIf(!REAL)("npm install of the tarball into an empty project, and npx hive", { timeout: 600_000 }, () => {
  const app = smallPlatform({ config: false });
  // As for anybody who does not let every package run scripts at installation: the driver's is the only one needed.
  writeFileSync(
    join(app, "package.json"),
    '{"private":true,"type":"module","allowScripts":{"better-sqlite3":true,"hive-migrate":false}}',
  );
  run(app, "npm", "install", `./${pack(app)}`, "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund");
  giveBinary(app);
  works(app);
});
