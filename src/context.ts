import type { Clock, Signal } from "./clock.ts";
import type { Settings } from "./config.ts";
import type { LockHolder, Store } from "./storage/port.ts";
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
