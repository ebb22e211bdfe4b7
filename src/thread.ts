import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import type { Settings } from "./config.ts";
import type { SecondThread } from "./context.ts";
import { HiveError } from "./errors.ts";
import type { Value } from "./storage/port.ts";
import type { Answer, Request, ThreadData } from "./thread-worker.ts";

/** A second thread, or undefined where it could not help: one processor, or nothing built for it to run. */
export function startThread(settings: Settings, agents: readonly string[]): SecondThread | undefined {
  // Under a test runner the sources run as TypeScript, which a thread of its own cannot load.
  if (availableParallelism() < 2 || import.meta.url.endsWith(".ts")) return undefined;
  return new Thread({ settings, agents });
}

const MOMENT_MS = 1_000;

class Thread implements SecondThread {
  private readonly worker: Worker;
  /** Shared with the thread, which sees it before it looks at its messages. */
  private readonly closing: Int32Array;
  /** In the order in which they were asked, which is the order of the answers. */
  private readonly waiting: { resolve: (result: unknown) => void; reject: (error: Error) => void }[] = [];
  private failed: Error | undefined;

  constructor(data: Omit<ThreadData, "closing">) {
    this.closing = new Int32Array(new SharedArrayBuffer(4));
    const workerData: ThreadData = { ...data, closing: this.closing };
    this.worker = new Worker(new URL("./thread-worker.js", import.meta.url), { workerData });
    this.worker.once("exit", () => this.fail(new HiveError("INTERNAL", "The second thread ended unexpectedly.")));
    this.worker.on("error", (error) => this.fail(error));
    this.worker.on("message", (answer: Answer) => {
      const first = this.waiting.shift();
      if ("result" in answer) first?.resolve(answer.result);
      else {
        const { code, message, hint, details } = answer.error;
        first?.reject(new HiveError(code, message, { ...(hint === undefined ? {} : { hint }), details }));
      }
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

  /**
   * What was asked and is not answered yet is dropped. The thread gets a moment to end by itself: one that is terminated
   * while its driver is about to throw takes the whole process with it.
   */
  async close(): Promise<void> {
    if (this.failed) return;
    const ended = new Promise<void>((resolve) => this.worker.once("exit", () => resolve()));
    Atomics.store(this.closing, 0, 1);
    this.worker.postMessage({ do: "end" } satisfies Request);
    const late = setTimeout(() => void this.worker.terminate(), MOMENT_MS);
    await ended;
    clearTimeout(late);
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
