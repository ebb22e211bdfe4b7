import { spawn, spawnSync } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const SCRIPT = fileURLToPath(new URL("../../scripts/simulate.js", import.meta.url));

export interface Summary {
  readonly ran: number;
  readonly turns: number;
  readonly acknowledged: number;
  readonly seconds: number;
  /** Of the trace of the last seed. */
  readonly hash: string;
  readonly seen: { readonly [what: string]: number };
  readonly failed: readonly { readonly seed: number; readonly problem: string; readonly database: string | null }[];
}

/** Compiles the sources and the simulation into this folder: the engine is in its `src`. */
export function buildSimulation(folder: string): void {
  const { status, stderr } = spawnSync(process.execPath, [SCRIPT, "--build", folder], { encoding: "utf8" });
  if (status !== 0) throw new Error(`The simulation was not built: ${stderr}`);
}

/** Runs seeds in a process of their own. `arguments_` as of main.ts. */
export function simulate(folder: string, ...options: string[]): Promise<Summary> {
  const child = spawn(process.execPath, [join(folder, "test", "simulation", "main.js"), "--json", ...options], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let out = "";
  let err = "";
  child.stdout.on("data", (piece) => {
    out += String(piece);
  });
  child.stderr.on("data", (piece) => {
    err += String(piece);
  });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => {
      try {
        const summary: Summary = JSON.parse(out);
        resolve(summary);
      } catch {
        reject(new Error(`The simulation ended with ${code} and said: ${out.slice(0, 500)}${err.slice(0, 2_000)}`));
      }
    });
  });
}
