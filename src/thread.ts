import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import type { Settings } from "./config.ts";
import type { SecondThread } from "./context.ts";
import { ERROR_CODES, type ErrorCode, HiveError } from "./errors.ts";
import type { Value } from "./storage/port.ts";
import type { Answer, Request, ThreadData } from "./thread-worker.ts";

/** A second thread, or undefined where it could not help: one processor, or nothing built for it to run. */
export function startThread(settings: Settings, agents: readonly string[]): SecondThread | undefined {
  // Under a test runner the sources run as TypeScript, which a thread of its own cannot load.
  if (availableParallelism() < 2 || import.meta.url.endsWith(".ts")) return undefined;
  return new Thread({ settings, agents });
}

class Thread implements SecondThread {
  private readonly worker: Worker;
  /** In the order in which they were asked, which is the order of the answers. */
  private readonly waiting: { resolve: (result: unknown) => void; reject: (error: Error) => void }[] = [];
  private failed: Error | undefined;

  constructor(data: ThreadData) {
    this.worker = new Worker(new URL("./thread-worker.js", import.meta.url), { workerData: data });
    this.worker.once("exit", () => this.fail(new HiveError("INTERNAL", "The second thread ended unexpectedly.")));
    this.worker.on("error", (error) => this.fail(error));
    this.worker.on("message", (answer: Answer) => {
      const first = this.waiting.shift();
      if ("result" in answer) first?.resolve(answer.result);
      else first?.reject(new HiveError(codeOf(answer.error.code), answer.error.message));
    });
  }

  next(mapping: string, stamp: number, from?: Value): Promise<unknown> {
    return this.ask({ do: "next", mapping, stamp, from });
  }

  async openView(): Promise<void> {
    await this.ask({ do: "openView" });
  }

  compare(mapping: string, from: Value): Promise<unknown> {
    return this.ask({ do: "compare", mapping, from });
  }

  /** At once, also in the middle of an answer: it only reads. */
  async close(): Promise<void> {
    await this.worker.terminate();
  }

  private ask(request: Request): Promise<unknown> {
    if (this.failed) return Promise.reject(this.failed);
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
      this.worker.postMessage(request);
    });
  }

  private fail(error: Error): void {
    this.failed ??= error;
    for (const { reject } of this.waiting.splice(0)) reject(error);
  }
}

function codeOf(code: string): ErrorCode {
  return code in ERROR_CODES ? (code as ErrorCode) : "INTERNAL";
}
