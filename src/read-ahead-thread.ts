import { parentPort, workerData } from "node:worker_threads";
import type { Settings } from "./config.ts";
import { openHive } from "./hive.ts";
import type { Value } from "./storage/port.ts";
import { pageSource } from "./sync/backfill.ts";

/**
 * The thread behind `Context.startReadAhead`: reads and judges pages of a backfill with connections and a mapping of
 * its own. It only reads; what it found is written by the other thread, which knows whether it is still true.
 */

export interface ThreadData {
  settings: Settings;
  agents: readonly string[];
}

export type Request = { mapping: string; stamp: number; from?: Value } | "close";
export type Answer = { page: unknown } | { error: { code: string; message: string } };

const port = parentPort;
if (port) {
  const { settings, agents } = workerData as ThreadData;
  const opening = openHive(settings, { readAhead: false }).then(async (hive) => ({
    hive,
    page: await pageSource(hive.context, agents),
  }));
  // One after the other: each page begins where the one before it ended.
  let queue = Promise.resolve();
  port.on("message", (request: Request) => {
    queue = queue.then(() => answer(request));
  });
  const answer = async (request: Request) => {
    try {
      const { hive, page } = await opening;
      if (request === "close") {
        await hive[Symbol.asyncDispose]();
        port.close();
        return;
      }
      port.postMessage({ page: await page(request.mapping, request.stamp, request.from) } satisfies Answer);
    } catch (error) {
      if (request === "close") port.close();
      else port.postMessage({ error: asPlain(error) } satisfies Answer);
    }
  };
}

function asPlain(error: unknown): { code: string; message: string } {
  const code = error instanceof Error && "code" in error ? String(error.code) : "INTERNAL";
  return { code, message: error instanceof Error ? error.message : String(error) };
}
