import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";

/** The one source of time, randomness and ids, so that every test is repeatable. */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number;
  /** Milliseconds from a monotonic source, for durations. */
  monotonic(): number;
  /** From 0 (inclusive) to 1 (exclusive). */
  random(): number;
  id(): string;
  /** Ends early, without an error, when `abort` is aborted. */
  sleep(ms: number, abort?: AbortSignal): Promise<void>;
}

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  random: () => Math.random(),
  id: () => randomUUID(),
  sleep: async (ms, abort) => {
    await delay(ms, undefined, abort ? { signal: abort } : {}).catch((error: unknown) => {
      if (!abort?.aborted) throw error;
    });
  },
};

/** `2026-11-23T03:00:00.000Z` */
export function isoTime(clock: Clock): string {
  return new Date(clock.now()).toISOString();
}

/**
 * Called by the engine at named points ("tx:backfill:begun"). Tests kill the process or hold it there; nothing else
 * uses it.
 */
export type Signal = (point: string) => void | Promise<void>;
