import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import Database from "better-sqlite3";

/** SQL as agents run it: by the driver that hive itself uses, and by Python with the SQLite that it brings along. */

export interface Step {
  readonly sql: string;
  /** "@path" stands for the path of the database. */
  readonly params?: readonly (string | number | null)[];
  /** Several sets of parameters, as `executemany` takes them. */
  readonly many?: readonly (readonly (string | number | null)[])[];
}

export interface Job {
  readonly path: string;
  readonly steps: readonly Step[];
  /** The connection's own database is another one, in memory. */
  readonly attached?: boolean;
}

/** What a statement gave to the agent. */
export type Answer =
  | { readonly error: string }
  | {
      readonly rows: readonly unknown[] | null;
      readonly rowcount: number;
      readonly changes: number;
      /** Of an INSERT that added a row. After one that failed, SQLite itself says different things with any trigger. */
      readonly lastrowid: number | null;
    };

export interface Engine {
  readonly name: string;
  /** Each job on a connection of its own, which is closed without a commit. */
  run(jobs: readonly Job[]): Answer[][];
}

export const driver: Engine = {
  name: "better-sqlite3",
  run: (jobs) =>
    jobs.map(({ path, steps, attached }) => {
      const db = new Database(attached ? ":memory:" : path);
      db.pragma("foreign_keys = OFF");
      try {
        return steps.map((step) => runStep(db, path, step));
      } finally {
        db.close();
      }
    }),
};

function runStep(db: Database.Database, path: string, { sql, params = [], many }: Step): Answer {
  try {
    const statement = db.prepare<unknown[]>(sql);
    let rows: unknown[] | null = null;
    let rowcount = -1;
    for (const values of many ?? [params.map((value) => (value === "@path" ? path : value))]) {
      if (statement.reader) rows = statement.raw().all(...values);
      else rowcount = Math.max(rowcount, 0) + statement.run(...values).changes;
    }
    const counts: unknown = db.prepare("SELECT changes(), last_insert_rowid()").raw().get();
    const [changes, lastrowid] = Array.isArray(counts) ? counts.map(Number) : [];
    const inserted = /^\s*(INSERT|REPLACE)\b/i.test(sql) && changes !== 0;
    return { rows, rowcount, changes: changes ?? 0, lastrowid: inserted ? (lastrowid ?? 0) : null };
  } catch (error) {
    if (!(error instanceof Database.SqliteError)) throw error;
    return { error: error.message };
  }
}

const PYTHON = fileURLToPath(new URL("./writers/statements.py", import.meta.url));

/** Null where there is no Python with SQLite; the reason goes to stderr, and its tests are skipped. */
export function python(): Engine | null {
  const { status, error, stdout } = spawnSync("python3", [PYTHON, "version"], { encoding: "utf8" });
  if (status !== 0) {
    process.stderr.write(`skipped: what Python's sqlite3 does: ${error?.message ?? `python3 ended with ${status}`}\n`);
    return null;
  }
  return {
    name: `python with SQLite ${stdout.trim()}`,
    run: (jobs) => {
      const child = spawnSync("python3", [PYTHON], {
        input: JSON.stringify(jobs),
        encoding: "utf8",
        maxBuffer: 100_000_000,
      });
      if (child.status !== 0) throw new Error(`python3 failed: ${child.error?.message ?? child.stderr}`);
      return JSON.parse(child.stdout);
    },
  };
}
