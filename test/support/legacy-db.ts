import { spawnSync } from "node:child_process";
import { chmodSync, closeSync, existsSync, mkdirSync, openSync, renameSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const PACKED = fileURLToPath(new URL("../../../shared/data/legacy-hive.db.xz", import.meta.url));

/**
 * The path of the platform's real legacy database, unpacked once into the temporary folder and read-only: copy it
 * before opening it (it is in WAL mode). Null where it cannot be had; the reason goes to stderr, and the test is skipped.
 */
export function legacyDatabase(): string | null {
  if (!existsSync(PACKED)) return missing(`there is no ${PACKED}`);
  const { size, mtimeMs } = statSync(PACKED);
  const folder = join(tmpdir(), `hive-legacy-${size}-${Math.floor(mtimeMs)}`);
  const path = join(folder, "legacy.db");
  if (existsSync(path)) return path;
  mkdirSync(folder, { recursive: true });
  // Renamed when it is whole: several test processes may be at it at once.
  const partial = `${path}.${process.pid}.partial`;
  const output = openSync(partial, "w");
  const result = spawnSync("xz", ["--decompress", "--stdout", PACKED], { stdio: ["ignore", output, "pipe"] });
  closeSync(output);
  if (result.status !== 0) {
    rmSync(partial, { force: true });
    return missing(`xz failed: ${result.error?.message ?? result.stderr.toString().trim()}`);
  }
  chmodSync(partial, 0o444);
  renameSync(partial, path);
  return path;
}

function missing(reason: string): null {
  process.stderr.write(`skipped: the tests on the real legacy database cannot run: ${reason}\n`);
  return null;
}
