import { parentPort, workerData } from "node:worker_threads";
import type { Settings } from "./config.ts";
import { asHiveError, type ErrorCode } from "./errors.ts";
import { openHive } from "./hive.ts";
import type { Value } from "./storage/port.ts";
import { pageSource } from "./sync/backfill.ts";
import { comparer } from "./sync/check.ts";

/**
 * The other side of `Context.startSecondThread`: reads and judges with connections and a mapping of its own. It only
 * reads; what it found is written by the first thread, which knows whether it is still true.
 */

export interface ThreadData {
  settings: Settings;
  agents: readonly string[];
  /** 1: nobody waits for answers any more. */
  closing: Int32Array;
}

export type Request =
  | { do: "next"; mapping: string; stamp: number; from?: Value }
  | { do: "openView" }
  | { do: "compare"; mapping: string; from: Value }
  | { do: "end" };

/** An error as it can be posted: with all that a person is told. */
interface PlainError {
  code: ErrorCode;
  message: string;
  hint: string | undefined;
  details: Record<string, unknown>;
}

export type Answer = { result: unknown } | { error: PlainError };

const port = parentPort;
if (port) {
  const { settings, agents, closing } = workerData as ThreadData;
  const opening = openHive(settings, { secondThread: false }).then(async (hive) => ({
    hive,
    next: await pageSource(hive.context, agents),
    view: await comparer(hive.context, agents),
  }));
  const answer = async (request: Request): Promise<unknown> => {
    const { hive, next, view } = await opening;
    switch (request.do) {
      case "next":
        return next(request.mapping, request.stamp, request.from);
      case "openView":
        return view.open();
      case "compare":
        return view.compare(request.mapping, request.from);
      case "end":
        return hive[Symbol.asyncDispose]();
    }
  };
  // One after the other: each page begins where the one before it ended.
  let queue = Promise.resolve();
  port.on("message", (request: Request) => {
    queue = queue.then(async () => {
      if (request.do === "end") {
        await answer(request).catch(() => undefined);
        return port.close();
      }
      if (Atomics.load(closing, 0) === 1) return;
      try {
        const result = await answer(request);
        port.postMessage({ result } satisfies Answer);
      } catch (error) {
        port.postMessage({ error: asPlain(error) } satisfies Answer);
      }
    });
  });
}

function asPlain(error: unknown): PlainError {
  const { code, message, hint, details } = asHiveError(error);
  return { code, message, hint, details };
}
