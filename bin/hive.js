#!/usr/bin/env node
// The only place that knows the process: its streams, its signals and its exit code.
import { existsSync, readFileSync, writeSync } from "node:fs";

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
  let answered = false;
  // What can only come from outside of main: a module of the user's that throws later, waits for ever or exits.
  const fail = (message, hint) => {
    process.exitCode = 1;
    if (answered) return;
    answered = true;
    const error = { code: "INTERNAL", message, hint, details: {} };
    const json = argv.slice(0, argv.includes("--") ? argv.indexOf("--") : argv.length).includes("--json");
    try {
      if (json) writeSync(1, `${JSON.stringify({ ok: false, command: null, error })}\n`);
      else writeSync(2, `error: ${message}\n→ ${hint}\n`);
    } catch {
      // Nobody is left to be told.
    }
  };
  const again =
    "What was committed is kept. Run the command again with --verbose; if it is no module of yours, report it.";
  const unexpected = (error) => {
    if (argv.includes("--verbose")) process.stderr.write(`${error?.stack ?? error}\n`);
    fail(`Something failed outside of the command: ${error?.message ?? error}`, again);
    process.exit(1);
  };
  process.on("uncaughtException", unexpected);
  process.on("unhandledRejection", unexpected);
  process.on("exit", () => {
    if (!answered)
      fail("The process ended before the command did: a module called process.exit() or waits for ever.", again);
  });
  const gone = new AbortController();
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error) => {
      // A reader that went away (`hive … | head`) is no failure of ours.
      if (error.code === "EPIPE") {
        if (stream === process.stdout) gone.abort();
        return;
      }
      answered = false;
      fail(`The output cannot be written: ${error.message}`, "The command itself has ended; see `hive status`.");
      process.exit(1);
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
  const exitCode = await main(argv, {
    stdout: process.stdout,
    stderr: process.stderr,
    env: process.env,
    cwd: process.cwd(),
    tty: { stdout: process.stdout.isTTY === true, stderr: process.stderr.isTTY === true },
    columns: process.stdout.columns ?? process.stderr.columns ?? 80,
    prompt: process.stdin.isTTY && process.stderr.isTTY ? { input: process.stdin, output: process.stderr } : undefined,
    abort: abort.signal,
    gone: gone.signal,
  });
  answered = true;
  process.exitCode = exitCode;
}
