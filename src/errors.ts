/**
 * Every failure that hive reports is a `HiveError` with one of these codes. Code that decides looks at `code`
 * and `retryable`, never at the message.
 */
export const ERROR_CODES = {
  // failed: exit 1
  INTERNAL: { exit: 1, retryable: false },
  DATABASE_FAILED: { exit: 1, retryable: false },
  DATABASE_BUSY: { exit: 1, retryable: true },
  DATABASE_UNREACHABLE: { exit: 1, retryable: true },
  DATABASE_READ_ONLY: { exit: 1, retryable: false },
  DATABASE_CORRUPT: { exit: 1, retryable: false },
  DISK_FULL: { exit: 1, retryable: false },
  CONSTRAINT: { exit: 1, retryable: false },
  MIGRATION_FAILED: { exit: 1, retryable: false },
  RECORD_UNREADABLE: { exit: 1, retryable: false },
  LOCK_LOST: { exit: 1, retryable: true },
  AGENT_FAILED: { exit: 1, retryable: false },
  AGENT_UNAVAILABLE: { exit: 1, retryable: true },
  // usage or configuration: exit 2
  USAGE: { exit: 2, retryable: false },
  CONFIG_INVALID: { exit: 2, retryable: false },
  CONFIRMATION_NEEDED: { exit: 2, retryable: false },
  DATABASE_NOT_FOUND: { exit: 2, retryable: false },
  NOT_A_DATABASE: { exit: 2, retryable: false },
  MAPPING_INVALID: { exit: 2, retryable: false },
  MIGRATION_INVALID: { exit: 2, retryable: false },
  UNKNOWN_AGENT: { exit: 2, retryable: false },
  UNKNOWN_NAME: { exit: 2, retryable: false },
  RECORD_INVALID: { exit: 2, retryable: false },
  TASK_INVALID: { exit: 2, retryable: false },
  // refused in this state: exit 4
  NOT_MIGRATED: { exit: 4, retryable: false },
  LEDGER_TOO_NEW: { exit: 4, retryable: false },
  HISTORY_ALTERED: { exit: 4, retryable: false },
  NO_DOWN: { exit: 4, retryable: false },
  SCHEMA_MISMATCH: { exit: 4, retryable: false },
  STILL_IN_USE: { exit: 4, retryable: false },
  GUARD_REFUSED: { exit: 4, retryable: false },
  STAGE_IMPOSSIBLE: { exit: 4, retryable: false },
  RECORD_EXISTS: { exit: 4, retryable: false },
  RECORD_MISSING: { exit: 4, retryable: false },
  RECORD_CHANGED: { exit: 4, retryable: false },
  // lock held: exit 5
  LOCK_HELD: { exit: 5, retryable: true },
  // interrupted: exit 130
  INTERRUPTED: { exit: 130, retryable: true },
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

export interface HiveErrorOptions {
  /** What to do now: a sentence, naming the command where there is one. */
  hint?: string;
  /** Facts for machines: plain JSON values only. */
  details?: Record<string, unknown>;
  cause?: unknown;
}

/** What went wrong, why, and what to do now. */
export class HiveError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly details: Record<string, unknown>;

  constructor(code: ErrorCode, message: string, options: HiveErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "HiveError";
    this.code = code;
    this.hint = options.hint;
    this.details = options.details ?? {};
  }

  /** Whether the same call may succeed if it is simply made again. */
  get retryable(): boolean {
    return ERROR_CODES[this.code].retryable;
  }

  /** The process exit code of the CLI contract. */
  get exitCode(): number {
    return ERROR_CODES[this.code].exit;
  }
}

/** `value` as a HiveError; anything unknown becomes INTERNAL with its cause kept. */
export function asHiveError(value: unknown): HiveError {
  if (value instanceof HiveError) return value;
  const message = value instanceof Error ? value.message : String(value);
  return new HiveError("INTERNAL", message, {
    hint: "This is a defect in hive: run the command again with --verbose and report the stack.",
    cause: value,
  });
}

/** The candidate nearest to `name` by edit distance, if one is near enough to be what was meant. */
export function nearest(name: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(name.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** Levenshtein, "Binary codes capable of correcting deletions, insertions, and reversals" (1966), in two rows. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(substitution, (previous[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1));
    }
    previous = row;
  }
  return previous[b.length] ?? 0;
}
