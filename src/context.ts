import type { Clock, Signal } from "./clock.ts";
import type { Settings } from "./config.ts";
import type { LockHolder, LockOptions, Store, Value } from "./storage/port.ts";
import type { PlatformMapping } from "./sync/mapping.ts";

/** What every operation works with. */
export interface Context {
  readonly store: Store;
  readonly mapping: PlatformMapping;
  readonly settings: Settings;
  readonly clock: Clock;
  /** Who acts, for the audit log: `user@host`, or HIVE_ACTOR. */
  readonly actor: string;
  readonly signal: Signal | undefined;
  /** Starts a thread that reads and judges besides this one; undefined where there can be none. */
  readonly startSecondThread?: (agents: readonly string[]) => Promise<SecondThread | undefined>;
}

/** A second thread with connections and a mapping of its own. It only reads. The answers are the engine's business. */
export interface SecondThread {
  /**
   * The next page of this mapping, from `from` on where it is given. May be called again before the last answer has
   * come: the answers keep the order. `stamp`: equal ones promise that nobody else has committed in between.
   */
  next(mapping: string, stamp: number, from?: Value): Promise<unknown>;
  /** Takes a read view of the database as it is now, for {@link compare}, in place of the one it has. */
  openView(): Promise<void>;
  /** Checks the legacy aggregates of this mapping whose key is greater than `from`, in the view. */
  compare(mapping: string, from: Value): Promise<unknown>;
  close(): Promise<void>;
}

/** What a long operation tells while it runs. */
export interface Progress {
  readonly operation: string;
  readonly done: number;
  /** Null while it is not known. */
  readonly total: number | null;
  readonly perSecond: number;
  /** Seconds. Null while it cannot be told. */
  readonly etaSeconds: number | null;
  readonly note?: string;
}

/** Options that every operation which changes the database takes. */
export interface ChangeOptions {
  /** Tell what would happen and write nothing. */
  dryRun?: boolean;
  /** Goes into the audit log. */
  reason?: string;
  /** Ends the operation cleanly between two steps: it fails with INTERRUPTED and can be run again. */
  abort?: AbortSignal;
  onProgress?: (progress: Progress) => void;
  /** Told once when another hive is being waited for. */
  onWait?: (holder: LockHolder) => void;
  /** Overrides the setting lockTimeoutSeconds. */
  lockTimeoutMs?: number;
}

/** How an operation waits for another one that holds the lock it needs. */
export function lockOptions(context: Context, options: ChangeOptions, purpose: string): LockOptions {
  return {
    timeoutMs: options.lockTimeoutMs ?? context.settings.lockTimeoutSeconds * 1000,
    purpose,
    ...(options.onWait && { onWait: options.onWait }),
    ...(options.abort && { abort: options.abort }),
  };
}
