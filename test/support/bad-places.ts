import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import { temporaryDirectory } from "./context.ts";

/** Every file below a folder with a hash of its content: what a command that was refused must leave as it is. */
export function filesOf(folder: string): Record<string, string> {
  const files: Record<string, string> = {};
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (!entry.isFile()) continue;
    // Shared memory of the readers, and a log in which nothing stands.
    if (path.endsWith("-shm") || (path.endsWith("-wal") && statSync(path).size === 0)) continue;
    files[path] = createHash("sha256").update(readFileSync(path)).digest("hex");
  }
  return files;
}

/** A small file system of its own for the running test, or the reason why there can be none. */
export type Disk = { folder: string; resize(kilobytes: number): void; readOnly(): void } | { reason: string };

export function disk(kilobytes: number): Disk {
  if (process.getuid?.() !== 0) return { reason: "only root can mount a file system" };
  const folder = join(temporaryDirectory(), "disk");
  mkdirSync(folder);
  const mount = (options: string) =>
    spawnSync("mount", ["-t", "tmpfs", "-o", options, "tmpfs", folder], { encoding: "utf8" });
  const made = mount(`size=${kilobytes}k`);
  if (made.status !== 0) return { reason: `mount: ${made.error?.message ?? made.stderr.trim()}` };
  onTestFinished(() => {
    spawnSync("umount", ["--lazy", folder]);
  });
  const remount = (option: string) => {
    const done = spawnSync("mount", ["-o", `remount,${option}`, folder], { encoding: "utf8" });
    if (done.status !== 0) throw new Error(done.stderr);
  };
  return { folder, resize: (size) => remount(`size=${size}k`), readOnly: () => remount("ro") };
}

/** How to run a command as a user who owns nothing, or the reason why it cannot be done. */
export function asNobody(): { command: readonly string[] } | { reason: string } {
  if (process.getuid?.() !== 0) return { reason: "only root can become another user" };
  const command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
  const tried = spawnSync("setpriv", [...command.slice(1), process.execPath, "--version"], { encoding: "utf8" });
  return tried.status === 0 ? { command } : { reason: `setpriv: ${tried.error?.message ?? tried.stderr.trim()}` };
}

/** Another process that runs `statements` on the database and then just sits there, until the test ends or `end()`. */
export async function holdDatabase(path: string, statements: string): Promise<{ end(): Promise<void> }> {
  const script = `
    import Database from "better-sqlite3";
    globalThis.db = new Database(${JSON.stringify(path)}, { timeout: 5000 });
    globalThis.db.exec(${JSON.stringify(statements)});
    process.stdout.write("held");
    setInterval(() => undefined, 1000);`;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", script], {
    cwd: import.meta.dirname,
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout, "data");
  const end = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGKILL");
    await once(child, "close");
  };
  onTestFinished(end);
  return { end };
}

/** The exit code, or the signal that ended it. */
export async function ended(child: ChildProcess): Promise<number | string> {
  if (child.exitCode === null && child.signalCode === null) await once(child, "close");
  return child.exitCode ?? child.signalCode ?? -1;
}
