import type { ChangeOptions, Clock, LockHolder, Progress } from "../index.ts";
import type { Io } from "./command.ts";
import { duration, thousands, visible } from "./render.ts";

const TERMINAL_MS = 100;
const PLAIN_MS = 10_000;

/** Tells on stderr how far a long operation is: one line that rewrites itself, or now and then a plain one. */
export interface ProgressLine {
  onProgress: NonNullable<ChangeOptions["onProgress"]>;
  onWait: NonNullable<ChangeOptions["onWait"]>;
  /** Clears the line, before anything else is written. */
  end(): void;
}

export const silent: ProgressLine = { onProgress: () => undefined, onWait: () => undefined, end: () => undefined };

export function createProgress(io: Pick<Io, "stderr" | "tty" | "columns">, clock: Clock): ProgressLine {
  let shown = false;
  // Without a terminal the first line comes after ten seconds: a short run says nothing.
  let last = io.tty.stderr ? Number.NEGATIVE_INFINITY : clock.monotonic();
  const end = () => {
    if (shown) io.stderr.write("\r\u001b[2K");
    shown = false;
  };
  return {
    onProgress(progress) {
      const now = clock.monotonic();
      if (now - last < (io.tty.stderr ? TERMINAL_MS : PLAIN_MS)) return;
      last = now;
      if (!io.tty.stderr) {
        io.stderr.write(`${progressText(progress)}\n`);
        return;
      }
      const text = [...progressText(progress)].slice(0, Math.max(io.columns - 1, 1)).join("");
      io.stderr.write(`\r\u001b[2K${text}`);
      shown = true;
    },
    onWait(holder) {
      end();
      io.stderr.write(`${waitText(holder)}\n`);
    },
    end,
  };
}

export function progressText(progress: Progress): string {
  const { done, total } = progress;
  const parts = [progress.operation, total === null ? thousands(done) : `${thousands(done)}/${thousands(total)}`];
  if (total !== null && total > 0) parts.push(`${Math.floor((done / total) * 100)} %`);
  if (progress.perSecond > 0) parts.push(`${thousands(Math.round(progress.perSecond))}/s`);
  if (progress.etaSeconds !== null) parts.push(`${duration(progress.etaSeconds * 1000)} left`);
  if (progress.note !== undefined) parts.push(progress.note);
  return visible(parts.join("  "));
}

function waitText(holder: LockHolder): string {
  const since = visible(holder.since);
  return `waiting for ${visible(holder.holder)} (process ${holder.pid} on ${visible(holder.host)}, since ${since}) …`;
}
