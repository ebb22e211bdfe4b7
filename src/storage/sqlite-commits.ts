import { type FSWatcher, watch } from "node:fs";
import { basename, dirname } from "node:path";
import type { Clock } from "../clock.ts";

/** Without word from the file system (a network drive, no watches left) a commit is noticed after this time. */
const LOOK_EVERY_MS = 250;

/**
 * A commit writes to the -wal file, which is heard, then waits for the disk, and only then can be seen, which is not
 * heard: after a hint it is looked again so many milliseconds later.
 */
const LOOK_AGAIN_MS = [2, 5, 10, 20, 50, 100, 250, 500];

/**
 * Hears of commits to a database file through the file system: a commit writes to the -wal file, or to the file itself.
 * The folder is watched, since the -wal file comes and goes.
 */
export class CommitHints {
  private watcher: FSWatcher | undefined;
  /** How many hints there were: each who waits knows how many it has had. */
  private hints = 1;
  private readonly wakes = new Set<() => void>();
  private readonly waiters = new WeakMap<object, { hints: number; looks: number }>();

  constructor(path: string) {
    const name = basename(path);
    try {
      this.watcher = watch(dirname(path), { persistent: false }, (_event, file) => {
        if (file === null || file === name || file === `${name}-wal` || file === `${name}-journal`) this.hear();
      });
      this.watcher.on("error", () => this.close());
    } catch {
      this.watcher = undefined;
    }
  }

  async wait(timeoutMs: number, clock: Clock, abort?: AbortSignal, waiter: object = this): Promise<void> {
    // How often was waited since the last hint.
    const known = this.waiters.get(waiter) ?? { hints: 0, looks: 0 };
    this.waiters.set(waiter, known);
    if (known.hints === this.hints && !abort?.aborted) {
      let wake = () => {};
      const woken = new Promise<void>((resolve) => {
        wake = resolve;
      });
      this.wakes.add(wake);
      abort?.addEventListener("abort", wake, { once: true });
      const most = Math.min(timeoutMs, this.watcher ? (LOOK_AGAIN_MS[known.looks] ?? timeoutMs) : LOOK_EVERY_MS);
      known.looks += 1;
      const timer = new AbortController();
      await Promise.race([woken, clock.sleep(most, timer.signal)]);
      timer.abort();
      abort?.removeEventListener("abort", wake);
      this.wakes.delete(wake);
    }
    if (known.hints !== this.hints) known.looks = 0;
    known.hints = this.hints;
  }

  close(): void {
    this.watcher?.close();
    this.watcher = undefined;
    this.hear();
  }

  private hear(): void {
    this.hints += 1;
    for (const wake of this.wakes) wake();
  }
}
