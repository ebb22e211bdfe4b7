import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from "node:worker_threads";

/**
 * PostgreSQL for tests that must not wait: as any other process would write, while nothing of this one goes on. A
 * statement that waits five seconds for a lock fails: this process may hold it, and could never let go.
 */

export type SyncRow = Record<string, unknown>;

export interface LeftOut {
  readonly table: string;
  readonly row: readonly unknown[];
  readonly reason: string;
}

type Request =
  | { readonly do: "query"; readonly url: string; readonly text: string }
  | {
      readonly do: "insert";
      readonly url: string;
      readonly table: string;
      readonly columns: readonly string[];
      readonly rows: readonly (readonly unknown[])[];
    }
  | { readonly do: "close"; readonly url: string };

type Answer =
  | { readonly rows: SyncRow[]; readonly leftOut: LeftOut[] }
  | { readonly error: { readonly message: string; readonly code?: string; readonly detail?: string } };

/** What the server said. */
export class SyncPostgresError extends Error {
  override readonly name = "SyncPostgresError";
  /** Its SQLSTATE. */
  readonly code: string | undefined;
  readonly detail: string | undefined;
  constructor({ message, code, detail }: { message: string; code?: string; detail?: string }) {
    super(message);
    this.code = code;
    this.detail = detail;
  }
}

/** Longer than any statement may take there. */
const PATIENCE_MS = 120_000;

interface Thread {
  readonly worker: Worker;
  readonly port: MessagePort;
  readonly flag: Int32Array<SharedArrayBuffer>;
}

let thread: Thread | undefined;

/** Runs a script of statements. A transaction that it leaves open is rolled back, and no setting of it stays. */
export function executeSync(url: string, text: string): void {
  ask({ do: "query", url, text });
}

/**
 * The rows of the last statement. Integers and numeric as numbers (bigint beyond 2^53), json as its text, timestamptz
 * as ISO text in UTC with the digits that it has, any other time as PostgreSQL writes it.
 */
export function selectSync(url: string, text: string): SyncRow[] {
  return ask({ do: "query", url, text }).rows;
}

/**
 * Inserts in one transaction, with foreign keys and triggers off and UTC for what names no zone. Returns the rows that
 * PostgreSQL does not take, each with its reason.
 */
export function insertSync(
  url: string,
  table: string,
  columns: readonly string[],
  rows: readonly (readonly unknown[])[],
): LeftOut[] {
  return ask({ do: "insert", url, table, columns, rows }).leftOut;
}

/** Closes this process's connection, where there is one. */
export function closeSync(url: string): void {
  if (thread) ask({ do: "close", url });
}

function ask(request: Request): { rows: SyncRow[]; leftOut: LeftOut[] } {
  thread ??= startThread();
  const { port, flag, worker } = thread;
  Atomics.store(flag, 0, 0);
  port.postMessage(request);
  const woken = Atomics.wait(flag, 0, 0, PATIENCE_MS);
  const answer: Answer | undefined = receiveMessageOnPort(port)?.message;
  if (answer === undefined) {
    thread = undefined;
    void worker.terminate();
    throw new Error(`no answer of PostgreSQL (${woken}): ${JSON.stringify(request).slice(0, 500)}`);
  }
  if ("error" in answer) throw new SyncPostgresError(answer.error);
  return answer;
}

function startThread(): Thread {
  const { port1, port2 } = new MessageChannel();
  const flag = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(new URL("./sync-postgres-worker.mjs", import.meta.url), {
    workerData: { port: port2, flag },
    transferList: [port2],
    // Without what vitest's own processes are started with.
    execArgv: [],
  });
  // Its connections end with this process, and must not keep it.
  worker.unref();
  port1.unref();
  return { worker, port: port1, flag };
}
