import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import type { Settings } from "./config.ts";
import type { ReadAhead } from "./context.ts";
import { ERROR_CODES, type ErrorCode, HiveError } from "./errors.ts";
import type { Answer, Request, ThreadData } from "./read-ahead-thread.ts";
import type { Value } from "./storage/port.ts";

/** A second thread for backfills, or undefined where it could not help: one processor, or no built thread to run. */
export function readAheadStarter(settings: Settings): ((agents: readonly string[]) => ReadAhead) | undefined {
  // Under a test runner the sources run as TypeScript, which a thread of its own cannot load.
  if (availableParallelism() < 2 || import.meta.url.endsWith(".ts")) return undefined;
  return (agents) => new Thread({ settings, agents });
}

class Thread implements ReadAhead {
  private readonly worker: Worker;
  private readonly ended: Promise<void>;
  /** In the order in which they were asked, which is the order of the answers. */
  private readonly waiting: { resolve: (page: unknown) => void; reject: (error: Error) => void }[] = [];
  private failed: Error | undefined;

  constructor(data: ThreadData) {
    this.worker = new Worker(new URL("./read-ahead-thread.js", import.meta.url), { workerData: data });
    this.ended = new Promise((resolve) => {
      this.worker.once("exit", () => {
        this.fail(new HiveError("INTERNAL", "The thread that reads ahead ended unexpectedly."));
        resolve();
      });
    });
    this.worker.on("error", (error) => this.fail(error));
    this.worker.on("message", (answer: Answer) => {
      const first = this.waiting.shift();
      if ("page" in answer) first?.resolve(answer.page);
      else first?.reject(new HiveError(codeOf(answer.error.code), answer.error.message));
    });
  }

  next(mapping: string, stamp: number, from?: Value): Promise<unknown> {
    if (this.failed) return Promise.reject(this.failed);
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
      this.worker.postMessage({ mapping, stamp, from } satisfies Request);
    });
  }

  async close(): Promise<void> {
    this.worker.postMessage("close" satisfies Request);
    await this.ended;
  }

  private fail(error: Error): void {
    this.failed ??= error;
    for (const { reject } of this.waiting.splice(0)) reject(error);
  }
}

function codeOf(code: string): ErrorCode {
  return code in ERROR_CODES ? (code as ErrorCode) : "INTERNAL";
}
