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
  private waiting: { resolve: (page: unknown) => void; reject: (error: Error) => void } | undefined;
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
      const { waiting } = this;
      this.waiting = undefined;
      if ("page" in answer) waiting?.resolve(answer.page);
      else waiting?.reject(new HiveError(codeOf(answer.error.code), answer.error.message));
    });
  }

  /** One request at a time: the caller awaits each answer. */
  next(mapping: string, after: Value, stamp: number): Promise<unknown> {
    if (this.failed) return Promise.reject(this.failed);
    return new Promise((resolve, reject) => {
      this.waiting = { resolve, reject };
      this.worker.postMessage({ mapping, after, stamp } satisfies Request);
    });
  }

  async close(): Promise<void> {
    this.waiting = undefined;
    this.worker.postMessage("close" satisfies Request);
    await this.ended;
  }

  private fail(error: Error): void {
    this.failed ??= error;
    this.waiting?.reject(error);
    this.waiting = undefined;
  }
}

function codeOf(code: string): ErrorCode {
  return code in ERROR_CODES ? (code as ErrorCode) : "INTERNAL";
}
