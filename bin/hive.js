#!/usr/bin/env node
// The only place that knows the process: its streams, its signals and its exit code.
import { existsSync, readFileSync } from "node:fs";

const argv = process.argv.slice(2);

if (argv.length === 1 && (argv[0] === "--version" || argv[0] === "-V")) {
  // Answered without loading anything.
  const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
  process.stdout.write(`hive ${version}\n`);
} else if (!existsSync(new URL("../dist/cli/main.js", import.meta.url))) {
  process.stderr.write("error: hive is not built.\n→ Run `npm run build` in its folder.\n");
  process.exitCode = 1;
} else {
  await run();
}

async function run() {
  // A reader that went away (`hive … | head`) is no failure of ours.
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error) => {
      if (error.code !== "EPIPE") throw error;
    });
  }
  const abort = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.on(signal, () => {
      if (abort.signal.aborted) {
        process.removeAllListeners(signal);
        process.kill(process.pid, signal);
      }
      abort.abort(new Error(signal));
    });
  }
  const { main } = await import("../dist/cli/main.js");
  process.exitCode = await main(argv, {
    stdout: process.stdout,
    stderr: process.stderr,
    env: process.env,
    cwd: process.cwd(),
    tty: { stdout: process.stdout.isTTY === true, stderr: process.stderr.isTTY === true },
    columns: process.stdout.columns ?? process.stderr.columns ?? 80,
    prompt: process.stdin.isTTY && process.stderr.isTTY ? { input: process.stdin, output: process.stderr } : undefined,
    abort: abort.signal,
  });
}
