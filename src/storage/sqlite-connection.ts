import Database from "better-sqlite3";
import { HiveError } from "../errors.ts";
import { type Dialect, type Portion, type Row, type Transaction, type Tuple, tupleSize, type Writes } from "./port.ts";
import { type Compiler, compile, id, ids, join, type Sql, sql, type Value } from "./sql.ts";

export const dialect: Dialect = {
  name: "sqlite",
  singleWriter: true,
  temporaryTables: true,
  julianNow: sql`julianday('now')`,
  ledger: sql``,
  markTable: "hive_applying",
  beforeLedger: [],
  afterLedger: [],
  tidyCapture: [],
};

const compiler: Compiler = {
  quote: (path) => path.map((name) => `"${name.replaceAll('"', '""')}"`).join("."),
  placeholder: () => "?",
  none: "()",
};

/** Parameters of one statement: SQLite's limit is 32,766; beyond a few thousand nothing is gained. */
const MAX_INSERT_PARAMS = 2_000;
const STATEMENTS_KEPT = 200;
const CHECKPOINT_BYTES = 4_000_000;

/** One connection of the driver. Synchronous inside; the port's promises cost one microtask. */
export class Connection implements Transaction {
  readonly dialect = dialect;
  private readonly db: Database.Database;
  private readonly path: string;
  private readonly readonly: boolean;
  /** Bytes since the last checkpoint, roughly. */
  private inserted = 0;
  private readonly statements = {
    plain: new Map<string, Database.Statement>(),
    exact: new Map<string, Database.Statement>(),
  };

  /** `waitMs`: for a file that is locked as a whole. The driver blocks while it waits, so not for long. */
  constructor(path: string, readonly: boolean, waitMs: number) {
    this.path = path;
    this.readonly = readonly;
    this.db = this.translate(
      () => new Database(path, { readonly, fileMustExist: true, timeout: readonly ? waitMs : 0 }),
    );
  }

  async all(query: Sql): Promise<Row[]> {
    return this.allSync(query);
  }

  allSync(query: Sql): Row[] {
    const { text, params } = compile(query, compiler);
    return this.translate(() => this.prepare(text, false).all(params.map(toDriver)) as Row[], text);
  }

  async tuples(query: Sql): Promise<Tuple[]> {
    const { text, params } = compile(query, compiler);
    return this.translate(() => this.prepare(text, true).all(params.map(toDriver)) as Tuple[], text);
  }

  async tuplesWithin(query: Sql, maxBytes: number): Promise<Portion> {
    const { text, params } = compile(query, compiler);
    return this.translate(() => {
      const rows: Tuple[] = [];
      let size = 0;
      // Leaving the loop closes the iterator: until then, the connection could do nothing else.
      for (const row of this.prepare(text, true).iterate(params.map(toDriver)) as Iterable<Tuple>) {
        if (size > maxBytes) return { rows, complete: false };
        rows.push(row);
        size += tupleSize(row);
      }
      return { rows, complete: true };
    }, text);
  }

  async run(query: Sql): Promise<number> {
    return this.runSync(query);
  }

  runSync(query: Sql): number {
    const { text, params } = compile(query, compiler);
    return this.translate(() => this.prepare(text, false).run(params.map(toDriver)).changes, text);
  }

  async script(text: string): Promise<void> {
    this.exec(text);
  }

  async prepared(work: (later: Writes) => Promise<void>): Promise<() => Promise<void>> {
    const steps: (() => void)[] = [];
    const step = (text: string, params: Value[]) => {
      const statement = this.translate(() => this.prepare(text, false), text);
      steps.push(() => this.translate(() => statement.run(params), text));
    };
    await work({
      dialect,
      run: async (query) => {
        const { text, params } = compile(query, compiler);
        step(text, params.map(toDriver));
        return 0;
      },
      insert: async (table, columns, rows) => {
        this.inserts(table, columns, rows, step);
        return 0;
      },
      upsert: async (table, columns, rows, key, set) => {
        const text = upsertText(table, columns, key, set);
        for (const row of rows) step(text, [...row]);
        return 0;
      },
    });
    return async () => {
      for (const run of steps) run();
    };
  }

  async insert(table: string, columns: readonly string[], rows: readonly Tuple[]): Promise<number> {
    this.inserts(table, columns, rows, (text, params) =>
      this.translate(() => this.prepare(text, false).run(params), text),
    );
    return rows.length;
  }

  private inserts(
    table: string,
    columns: readonly string[],
    rows: readonly Tuple[],
    step: (text: string, params: Value[]) => void,
  ): void {
    // Powers of two, so that few statements serve all numbers of rows.
    let perStatement = 2 ** Math.floor(Math.log2(Math.max(1, MAX_INSERT_PARAMS / columns.length)));
    for (let start = 0; start < rows.length; start += perStatement) {
      while (perStatement > rows.length - start) perStatement /= 2;
      const chunk = rows.slice(start, start + perStatement);
      const text = insertText(table, columns, chunk.length);
      const params: Value[] = [];
      for (const row of chunk) {
        for (const value of row) {
          params.push(value);
          if (typeof value === "string" || value instanceof Uint8Array) this.inserted += value.length;
        }
      }
      step(text, params);
    }
  }

  async attempt<T>(work: () => Promise<T>): Promise<T> {
    this.exec("SAVEPOINT hive_attempt");
    try {
      const result = await work();
      this.exec("RELEASE hive_attempt");
      return result;
    } catch (error) {
      // A full disk may have ended the whole transaction: then there is nothing left to go back to.
      if (this.db.inTransaction) {
        this.exec("ROLLBACK TO hive_attempt");
        this.exec("RELEASE hive_attempt");
      }
      throw error;
    }
  }

  /** Set while a transaction has not taken the write lock yet. */
  takeLock: (() => Promise<void>) | null = null;

  async writes(): Promise<void> {
    await this.takeLock?.();
  }

  async marked<T>(work: () => Promise<T>): Promise<T> {
    this.runSync(sql`INSERT INTO hive_applying (active) VALUES (1)`);
    // Not in a `finally`: after an error the transaction is rolled back, and the mark with it.
    const result = await work();
    // Only the own one: a mark that somebody left behind has to be noticed.
    this.runSync(sql`DELETE FROM hive_applying WHERE rowid = (SELECT max(rowid) FROM hive_applying)`);
    return result;
  }

  /** The transaction is the only one that writes. */
  async lockRows(): Promise<null> {
    return null;
  }

  async serialize(): Promise<boolean> {
    return true;
  }

  async upsert(
    table: string,
    columns: readonly string[],
    rows: readonly Tuple[],
    key: string,
    set: readonly string[],
  ): Promise<number> {
    const text = upsertText(table, columns, key, set);
    for (const row of rows) this.translate(() => this.prepare(text, false).run(row), text);
    return rows.length;
  }

  exec(text: string): void {
    this.translate(() => this.db.exec(text), text);
  }

  pragma(text: string): unknown {
    return this.translate(() => this.db.pragma(text, { simple: true }), `PRAGMA ${text}`);
  }

  /** Also where SQLite has rolled back by itself (a full disk): then there is nothing left to do. */
  rollback(): void {
    if (this.db.inTransaction) this.exec("ROLLBACK");
  }

  /**
   * Moves what was committed into the database file once enough has come together. SQLite would do it inside a COMMIT
   * by itself, where it would count, and be waited for, as time under the lock.
   */
  checkpoint(): void {
    if (this.inserted < CHECKPOINT_BYTES) return;
    this.inserted = 0;
    this.pragma("wal_checkpoint(PASSIVE)");
  }

  endRead(): void {
    if (this.db.inTransaction) this.exec("COMMIT");
  }

  close(): void {
    this.db.close();
  }

  private prepare(text: string, exact: boolean): Database.Statement {
    const statements = exact ? this.statements.exact : this.statements.plain;
    let statement = statements.get(text);
    if (statement) {
      statements.delete(text);
    } else {
      statement = this.db.prepare(text);
      if (exact) statement.raw(true).safeIntegers(true);
      if (statements.size >= STATEMENTS_KEPT) {
        const oldest = statements.keys().next();
        if (!oldest.done) statements.delete(oldest.value);
      }
    }
    statements.set(text, statement);
    return statement;
  }

  private translate<T>(work: () => T, statement?: string): T {
    try {
      return work();
    } catch (error) {
      throw translated(error, this.path, statement, this.readonly);
    }
  }
}

/** By the list of columns that a layout keeps, table and number of rows: put together once. */
const insertTexts = new WeakMap<readonly string[], Map<string, Map<number, string>>>();

function insertText(table: string, columns: readonly string[], rows: number): string {
  const tables = insertTexts.get(columns) ?? new Map<string, Map<number, string>>();
  insertTexts.set(columns, tables);
  const texts = tables.get(table) ?? new Map<number, string>();
  tables.set(table, texts);
  let text = texts.get(rows);
  if (text === undefined) {
    const head = compile(sql`INSERT INTO ${id(table)} (${ids(columns)}) VALUES `, compiler).text;
    const one = `(${columns.map(() => "?").join(",")})`;
    text = head + new Array(rows).fill(one).join(",");
    texts.set(rows, text);
  }
  return text;
}

function upsertText(table: string, columns: readonly string[], key: string, set: readonly string[]): string {
  const update = set.map((column) => sql`${id(column)} = ${id("excluded", column)}`);
  const otherwise = update.length > 0 ? sql`UPDATE SET ${join(update)}` : sql`NOTHING`;
  const { text } = compile(
    sql`INSERT INTO ${id(table)} (${ids(columns)}) VALUES (${join(columns.map(() => sql`${null}`))})
      ON CONFLICT (${id(key)}) DO ${otherwise}`,
    compiler,
  );
  return text;
}

/** The driver binds every `number` as REAL; in hive's own statements an integral one means INTEGER. */
function toDriver(value: Value): Value {
  return typeof value === "number" && Number.isSafeInteger(value) ? BigInt(value) : value;
}

/** `reading`: on a connection that cannot write anyway. */
function translated(error: unknown, path: string, statement: string | undefined, reading: boolean): unknown {
  if (!(error instanceof Error) || !("code" in error) || typeof error.code !== "string") return error;
  const code = error.code;
  const details = statement === undefined ? { sqlite: code } : { sqlite: code, statement: statement.slice(0, 300) };
  // It lies with the file, not with the statement that happened to meet it first.
  const because = (hint: string) => ({ hint, details: { sqlite: code }, cause: error });
  if (code.startsWith("SQLITE_BUSY") || code.startsWith("SQLITE_LOCKED")) {
    return new HiveError(
      "DATABASE_BUSY",
      `${path} is locked by another process${reading ? ", even for reading" : ""}.`,
      because("Wait for it to end or commit, and run the command again. Nothing was written."),
    );
  }
  if (code === "SQLITE_NOTADB") {
    return new HiveError(
      "NOT_A_DATABASE",
      `${path} is not a SQLite database.`,
      because("Check the path: --database, HIVE_DATABASE or the config has to name the database file."),
    );
  }
  if (code.startsWith("SQLITE_CORRUPT")) {
    return new HiveError(
      "DATABASE_CORRUPT",
      `${path} is damaged: ${error.message}.`,
      because(
        "Restore it from a backup, or recover what can be read with sqlite3's `.recover`; PRAGMA integrity_check says more. The damage is not of this command, which has stopped.",
      ),
    );
  }
  if (code.startsWith("SQLITE_READONLY") || code === "SQLITE_CANTOPEN") {
    return new HiveError(
      "DATABASE_READ_ONLY",
      `${path} cannot be ${reading ? "read" : "written"}: ${error.message}.`,
      because(
        reading
          ? "Check the permissions of the file and of its folder. A database that hive has migrated is in WAL mode: even for reading, SQLite has to write its -wal and -shm files beside it. A copy in a folder that can be written will do."
          : "Check the permissions of the file and of its folder (SQLite keeps -wal and -shm files beside it). Nothing was written.",
      ),
    );
  }
  if (code === "SQLITE_FULL" || code === "SQLITE_IOERR_WRITE") {
    return new HiveError(
      "DISK_FULL",
      `The disk that holds ${path} is full.`,
      because("Free some space and run the command again; what was committed is kept, the rest was rolled back."),
    );
  }
  if (code.startsWith("SQLITE_CONSTRAINT"))
    return new HiveError("CONSTRAINT", error.message, {
      hint: "A constraint or a trigger of the database refuses this. Nothing of this step was written.",
      details,
      cause: error,
    });
  return new HiveError("DATABASE_FAILED", `${path}: ${error.message}`, {
    hint: "Nothing of this step was written. `hive verify` says whether every table is as it should be.",
    details,
    cause: error,
  });
}
