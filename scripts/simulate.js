// `npm run simulate -- [--seeds N] [--from S] [--seed N] [--trace] [--watch KEY]`: compiles the sources with the simulation
// (test/simulation) into a folder of its own and runs seeds. `--build FOLDER` only compiles, for tests.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

function build(folder) {
  mkdirSync(folder, { recursive: true });
  for (const name of ["migrations", "node_modules", "package.json"]) {
    if (!existsSync(join(folder, name))) symlinkSync(join(ROOT, name), join(folder, name));
  }
  const compiler = join(ROOT, "node_modules", ".bin", "tsc");
  const project = join(ROOT, "test", "simulation", "tsconfig.json");
  const { stdout } = spawnSync(compiler, ["-p", project, "--outDir", folder], { encoding: "utf8" });
  // Types are checked by `npm run types`; here it only matters that there is something to run.
  if (!existsSync(join(folder, "test", "simulation", "main.js"))) throw new Error(`Nothing was compiled:\n${stdout}`);
}

const args = process.argv.slice(2);
if (args[0] === "--build") {
  build(args[1]);
} else {
  const folder = mkdtempSync(join(tmpdir(), "hive-simulate-"));
  try {
    build(folder);
    const main = join(folder, "test", "simulation", "main.js");
    process.exitCode = spawnSync(process.execPath, [main, ...args], { stdio: "inherit" }).status ?? 1;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
