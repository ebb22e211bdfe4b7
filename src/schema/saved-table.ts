import { type FileHandle, open, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { HiveError } from "../errors.ts";
import type { Session } from "../storage/port.ts";
import { id, sql } from "../storage/sql.ts";

const PAGE = 1_000;

/**
 * A table of the ledger (with a growing `seq`) as JSON lines in a file of its own, safe on disk before the table is
 * dropped. Memory does not grow with the table.
 */
export class SavedTable {
  readonly path: string;
  private readonly table: string;
  private readonly file: FileHandle;
  private last = 0;
  /** What stays when a transaction that added rows is begun again. */
  private settled = { last: 0, bytes: 0 };

  private constructor(table: string, path: string, file: FileHandle) {
    this.table = table;
    this.path = path;
    this.file = file;
  }

  /**
   * A new file `BASE.jsonl`; an existing one is left alone and `BASE-2.jsonl` is taken.
   * @throws DATABASE_READ_ONLY, DISK_FULL
   */
  static async create(table: string, base: string): Promise<SavedTable> {
    for (let n = 1; ; n++) {
      const path = n === 1 ? `${base}.jsonl` : `${base}-${n}.jsonl`;
      try {
        return new SavedTable(table, path, await open(path, "ax", 0o600));
      } catch (error) {
        if (codeOf(error) !== "EEXIST") throw unwritable(path, error);
      }
    }
  }

  /** Adds the rows that came after those saved already, and waits until they are on disk. */
  async append(session: Session): Promise<void> {
    await this.add(session);
    this.settled = { last: this.last, bytes: (await this.file.stat()).size };
  }

  /**
   * As `append`, inside a transaction that may have to be begun again: rows that an earlier attempt added, and that were
   * rolled back with it, are taken away first.
   */
  async appendLast(tx: Session): Promise<void> {
    await this.file.truncate(this.settled.bytes);
    this.last = this.settled.last;
    await this.add(tx);
  }

  private async add(session: Session): Promise<void> {
    try {
      for (;;) {
        const rows = await session.all(
          sql`SELECT * FROM ${id(this.table)} WHERE seq > ${this.last} ORDER BY seq LIMIT ${PAGE}`,
        );
        const last = rows.at(-1);
        if (!last) break;
        await this.file.appendFile(rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
        this.last = Number(last.seq);
      }
      await this.file.sync();
      // The file's name is only safe when its folder is.
      const folder = await open(dirname(this.path), "r");
      try {
        await folder.sync();
      } finally {
        await folder.close();
      }
    } catch (error) {
      throw error instanceof HiveError ? error : unwritable(this.path, error);
    }
  }

  async close(): Promise<string> {
    await this.file.close();
    return this.path;
  }

  /** The table was not dropped after all. */
  async discard(): Promise<void> {
    await this.file.close().catch(() => undefined);
    await rm(this.path, { force: true });
  }
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && "code" in error ? error.code : undefined;
}

function unwritable(path: string, cause: unknown): HiveError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new HiveError(
    codeOf(cause) === "ENOSPC" ? "DISK_FULL" : "DATABASE_READ_ONLY",
    `${path} cannot be written: ${reason}.`,
    {
      hint: "The ledger is saved there before it is dropped. Nothing was dropped; make the folder writable and run the command again.",
      details: { path },
      cause,
    },
  );
}
