import type pg from "pg";
import { HiveError } from "../errors.ts";
import {
  type ColumnType,
  type Dialect,
  type Portion,
  type Row,
  type Transaction,
  type Tuple,
  tupleSize,
  type Writes,
} from "./port.ts";
import { type Compiler, compile, id, ids, join, type Sql, script, sql, type Value } from "./sql.ts";

export const LEDGER_SCHEMA = "hive";

export const dialect: Dialect = {
  name: "postgres",
  singleWriter: false,
  temporaryTables: false,
  julianNow: sql`(extract(epoch FROM clock_timestamp()) / 86400 + 2440587.5)::double precision`,
  ledger: sql`${id(LEDGER_SCHEMA)}.`,
  markTable: null,
  beforeLedger: [sql`CREATE SCHEMA IF NOT EXISTS ${id(LEDGER_SCHEMA)}`],
  // Not with what others may have put there.
  afterLedger: [
    sql`DO $$ BEGIN DROP SCHEMA IF EXISTS hive RESTRICT; EXCEPTION WHEN dependent_objects_still_exist THEN NULL; END $$`,
  ],
  tidyCapture: [
    sql`DO $$ DECLARE routine regprocedure; BEGIN
      FOR routine IN SELECT p.oid::regprocedure FROM pg_proc AS p
        WHERE p.pronamespace = to_regnamespace('hive') AND starts_with(p.proname, 'hive_capture_')
          AND NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgfoid = p.oid)
      LOOP EXECUTE 'DROP FUNCTION ' || routine; END LOOP; END $$`,
  ],
};

const compiler: Compiler = {
  quote: (path) => path.map(quoted).join("."),
  placeholder: (n) => `$${n}`,
  // Of any type, unlike a query without rows. Not after NOT IN.
  none: "(NULL)",
};

export function quoted(name: string): string {
  // In the protocol it ends the statement.
  if (name.includes("\u0000")) throw unsuitable("A name has the character U+0000 in it.");
  return `"${name.replaceAll('"', '""')}"`;
}

/**
 * The first of the two numbers of all advisory locks of hive's. The second one is 0 for the gate of all write
 * transactions, 1 for those of the locks, anything else for a sign of life.
 */
export const ADVISORY = 0x68697665;
/** The same for `serialize`: the hash of a name may be any number. */
const ADVISORY_NAMES = ADVISORY + 1;

/** How many rows a cursor gives at first. */
const FETCH = 64;

/** One client of the driver: a session that reads, or a transaction that writes. */
export class Connection implements Transaction {
  readonly dialect = dialect;
  readonly client: pg.ClientBase;
  private readonly shapes: Shapes;
  private readonly location: string;
  private savepoints = 0;
  private cursors = 0;
  private failure: unknown;

  constructor(client: pg.ClientBase, shapes: Shapes, location: string) {
    this.client = client;
    this.shapes = shapes;
    this.location = location;
  }

  async all(query: Sql): Promise<Row[]> {
    const { fields, rows } = await this.query(query);
    const convert = fields.map(({ dataTypeID }) => plainValue(dataTypeID));
    return rows.map((row) => {
      const named: Row = {};
      fields.forEach(({ name }, i) => {
        named[name] = convert[i]?.(row[i] ?? null) ?? null;
      });
      return named;
    });
  }

  async tuples(query: Sql): Promise<Tuple[]> {
    return exact(await this.query(query));
  }

  async tuplesWithin(query: Sql, maxBytes: number): Promise<Portion> {
    // Two at once on one connection: their names must differ.
    const cursor = `hive_cursor_${this.cursors++}`;
    const name = id(cursor);
    await this.query(sql`DECLARE ${name} NO SCROLL CURSOR FOR ${query}`);
    const fetch = (count: number) => this.send(`FETCH FORWARD ${count} FROM ${quoted(cursor)}`, [], false);
    const rows: Tuple[] = [];
    let size = 0;
    let complete = false;
    for (let count = FETCH; !complete && size <= maxBytes; ) {
      const some = exact(await fetch(count));
      complete = some.length < count;
      for (const row of some) {
        if (size > maxBytes) {
          complete = false;
          break;
        }
        rows.push(row);
        size += tupleSize(row);
      }
      // As many as are likely to fit, so that a long row is not followed by many more of its kind.
      const average = Math.max(size / Math.max(rows.length, 1), 1);
      count = Math.max(1, Math.min(count * 4, Math.ceil((maxBytes - size) / average)));
    }
    this.cursors -= 1;
    await this.exec(`CLOSE ${quoted(cursor)}`);
    return { rows, complete };
  }

  /** Ends the transaction. A COMMIT after a failed statement that somebody passed over fails with what was passed over. */
  async finish(end: string): Promise<void> {
    const tag = await this.exec(end);
    if (end !== "COMMIT" || tag === "COMMIT") return;
    throw this.failure ?? new HiveError("INTERNAL", "A transaction was rolled back where it was to be committed.");
  }

  async run(query: Sql): Promise<number> {
    return (await this.query(query)).rowCount ?? 0;
  }

  async script(text: string): Promise<void> {
    await this.exec(text);
  }

  async prepared(work: (later: Writes) => Promise<void>): Promise<() => Promise<void>> {
    const steps: (() => Promise<unknown>)[] = [];
    const later = async (step: () => Promise<unknown>) => {
      steps.push(step);
      return 0;
    };
    await work({
      dialect,
      run: (query) => later(() => this.run(query)),
      insert: (table, columns, rows) => later(() => this.insert(table, columns, rows)),
      upsert: (...upsert) => later(() => this.upsert(...upsert)),
    });
    return async () => {
      for (const step of steps) await step();
    };
  }

  async insert(table: string, columns: readonly string[], rows: readonly Tuple[]): Promise<number> {
    return this.write(table, columns, rows, sql``);
  }

  async upsert(
    table: string,
    columns: readonly string[],
    rows: readonly Tuple[],
    key: string,
    set: readonly string[],
  ): Promise<number> {
    const update = set.map((column) => sql`${id(column)} = ${id("excluded", column)}`);
    const otherwise = update.length > 0 ? sql`UPDATE SET ${join(update)}` : sql`NOTHING`;
    return this.write(table, columns, rows, sql` ON CONFLICT (${id(key)}) DO ${otherwise}`);
  }

  /** All rows in one statement: an array of texts for each column, which the database turns into the column's type. */
  private async write(table: string, columns: readonly string[], rows: readonly Tuple[], end: Sql): Promise<number> {
    if (rows.length === 0) return 0;
    if (columns.length === 0) return this.run(sql`INSERT INTO ${id(table)} DEFAULT VALUES`);
    const names = columns.map((_, i) => id(`c${i}`));
    const arrays = columns.map((_, i) => script(`$${i + 1}::text[]`));
    const params = columns.map((_, i) => rows.map((row) => textOf(row[i] ?? null)));
    return this.shaped(table, async (types) => {
      const values = columns.map((column, i) => sql`${id(`c${i}`)}::${script(types.get(column) ?? "text")}`);
      const { text } = compile(
        sql`INSERT INTO ${id(table)} (${ids(columns)}) OVERRIDING SYSTEM VALUE
        SELECT ${join(values)} FROM unnest(${join(arrays)}) WITH ORDINALITY AS given (${join(names)}, ordinal) ORDER BY ordinal${end}`,
        compiler,
      );
      return (await this.send(text, params)).rowCount ?? 0;
    });
  }

  /** Runs `work` with the types of the table's columns; where they are outdated the transaction may be begun again. */
  private async shaped<T>(table: string, work: (types: ReadonlyMap<string, string>) => Promise<T>): Promise<T> {
    const fresh = !this.shapes.knows(table);
    const types = await this.shapes.of(this, table);
    try {
      return await work(types);
    } catch (error) {
      this.shapes.forget(table);
      const mismatch = error instanceof HiveError && error.details.postgres === MISMATCH;
      if (fresh || !mismatch) throw error;
      throw this.failed(
        new HiveError("DATABASE_BUSY", error.message, {
          hint: "The table was altered just now. Nothing of this step was written; run the command again.",
          details: error.details,
          cause: error,
        }),
      );
    }
  }

  /** Nobody waits for the database as a whole. */
  async writes(): Promise<void> {}

  async attempt<T>(work: () => Promise<T>): Promise<T> {
    const name = quoted(`hive_attempt_${this.savepoints++}`);
    await this.exec(`SAVEPOINT ${name}`);
    try {
      const result = await work();
      await this.exec(`RELEASE SAVEPOINT ${name}`);
      return result;
    } catch (error) {
      // Where the connection is gone there is nothing left to go back to.
      await this.exec(`ROLLBACK TO SAVEPOINT ${name}; RELEASE SAVEPOINT ${name}`).catch(() => undefined);
      throw error;
    }
  }

  async marked<T>(work: () => Promise<T>): Promise<T> {
    await this.exec("SELECT set_config('hive.applying', 'on', true)");
    // Not in a `finally`: after an error the transaction is rolled back, and the mark with it.
    const result = await work();
    await this.exec("SELECT set_config('hive.applying', '', true)");
    return result;
  }

  async lockRows(table: string, column: string, values: readonly Value[], patience: "wait" | "skip"): Promise<Tuple[]> {
    if (values.length === 0) return [];
    const how = patience === "skip" ? " SKIP LOCKED" : "";
    const name = quoted(column);
    const texts = values.map(textOf);
    return this.shaped(table, async (types) => {
      const type = types.get(column) ?? "text";
      // In one order for everybody, so that two of hive's transactions cannot wait for each other.
      const text = `SELECT ${name} FROM ${quoted(table)} WHERE ${name} = ANY ($1::text[]::${type}[]) ORDER BY ${name} FOR NO KEY UPDATE${how}`;
      return exact(await this.send(text, [texts]));
    });
  }

  async serialize(names: readonly string[], patience: "wait" | "skip" = "wait"): Promise<boolean> {
    const lock = patience === "skip" ? "pg_try_advisory_xact_lock" : "pg_advisory_xact_lock";
    const { rows } = await this.send(
      `SELECT count(*) FILTER (WHERE held::text = 'false') FROM (
         SELECT ${lock}(${ADVISORY_NAMES}, hash) AS held FROM (
           SELECT DISTINCT hashtext(name) AS hash FROM unnest($1::text[]) AS name ORDER BY 1 OFFSET 0) AS hashes) AS locks`,
      // A text has no U+0000 there.
      [names.map((name) => name.replaceAll("\u0000", "\u0001"))],
    );
    return rows[0]?.[0] === "0";
  }

  async query(query: Sql): Promise<pg.QueryArrayResult<(string | null)[]>> {
    const { text, params } = compile(query, compiler);
    return this.send(text, params.map(parameter));
  }

  private async send(
    text: string,
    values: unknown[],
    prepared = true,
  ): Promise<pg.QueryArrayResult<(string | null)[]>> {
    try {
      const name = prepared ? this.shapes.nameOf(text) : undefined;
      return await this.client.query<(string | null)[]>({ name, text, values, rowMode: "array", types: RAW });
    } catch (error) {
      throw this.failed(error, text);
    }
  }

  /** Statements without parameters, several of them in one round trip; what the last one says that it did. */
  async exec(text: string): Promise<string> {
    if (text.includes("\u0000")) throw unsuitable("A statement has the character U+0000 in it.");
    try {
      const results: pg.QueryResult | pg.QueryResult[] = await this.client.query(text);
      return (Array.isArray(results) ? results.at(-1) : results)?.command ?? "";
    } catch (error) {
      throw this.failed(error, text);
    }
  }

  private failed(error: unknown, text?: string): unknown {
    this.failure = translated(error, this.location, text);
    return this.failure;
  }
}

function unsuitable(message: string): HiveError {
  return new HiveError("CONSTRAINT", message, {
    hint: "PostgreSQL keeps neither U+0000 nor half of a surrogate pair. Nothing of this step was written.",
  });
}

/** So many texts of statements are planned once for each connection. */
const MOST_NAMES = 500;

/** What is known of the database: the types of tables' columns, read once and again where a statement failed. */
export class Shapes {
  private readonly names: Map<string, string> | null;

  /** `prepares`: whether a statement that was prepared on a connection is there the next time. */
  constructor(prepares: boolean) {
    this.names = prepares ? new Map() : null;
  }

  /** Under which name a statement is prepared; undefined: under none. */
  nameOf(text: string): string | undefined {
    const known = this.names?.get(text);
    if (known !== undefined || this.names === null || this.names.size >= MOST_NAMES) return known;
    const name = `hive_${this.names.size}`;
    this.names.set(text, name);
    return name;
  }

  private readonly known = new Map<string, ReadonlyMap<string, string>>();

  async of(session: Connection, table: string): Promise<ReadonlyMap<string, string>> {
    const known = this.known.get(table);
    if (known) return known;
    // Without the length of a varchar, also where a domain hides it: a cast to it would cut off what an assignment refuses.
    const rows = await session.all(
      sql`WITH RECURSIVE type (name, oid) AS (
            SELECT attname, atttypid FROM pg_attribute
              WHERE attrelid = to_regclass(${quoted(table)}) AND attnum > 0 AND NOT attisdropped
            UNION ALL SELECT type.name, d.typbasetype FROM type JOIN pg_type AS d USING (oid) WHERE d.typtype = 'd')
          SELECT type.name, quote_ident(n.nspname) || '.' || quote_ident(t.typname) AS type
          FROM type JOIN pg_type AS t USING (oid) JOIN pg_namespace AS n ON n.oid = t.typnamespace WHERE t.typtype <> 'd'`,
    );
    const types = new Map(rows.map((row) => [String(row.name), String(row.type)]));
    if (types.size > 0) this.known.set(table, types);
    return types;
  }

  knows(table: string): boolean {
    return this.known.has(table);
  }

  forget(table: string): void {
    this.known.delete(table);
  }
}

/** The driver gives every value as the text that the server sent. */
const RAW = { getTypeParser: () => (text: unknown) => text } as unknown as pg.CustomTypesConfig;

function exact({ fields, rows }: pg.QueryArrayResult<(string | null)[]>): Tuple[] {
  const convert = fields.map(({ dataTypeID }) => exactValue(dataTypeID));
  return rows.map((row) => row.map((text, i) => convert[i]?.(text) ?? null));
}

const INTEGERS: ReadonlySet<number> = new Set([20, 21, 23, 26]);
const REALS: ReadonlySet<number> = new Set([700, 701]);
const [BOOL, BYTEA, NUMERIC, TIMESTAMPTZ, XID8] = [16, 17, 1700, 1184, 5069];

type Convert = (text: string | null) => Value;

const asIs: Convert = (text) => text;
const nullOr =
  (convert: (text: string) => Value): Convert =>
  (text) =>
    text === null ? null : convert(text);

/** As `Session.tuples` gives it. */
function exactValue(type: number): Convert {
  if (INTEGERS.has(type)) return nullOr(BigInt);
  if (REALS.has(type)) return nullOr(Number);
  if (type === BOOL) return nullOr((text) => (text === "t" ? 1n : 0n));
  return otherValue(type);
}

/** As `Session.all` gives it. */
function plainValue(type: number): Convert {
  if (INTEGERS.has(type) || REALS.has(type) || type === NUMERIC || type === XID8) return nullOr(Number);
  if (type === BOOL) return nullOr((text) => (text === "t" ? 1 : 0));
  return otherValue(type);
}

function otherValue(type: number): Convert {
  if (type === NUMERIC) return nullOr(numericValue);
  if (type === BYTEA) return nullOr((text) => new Uint8Array(Buffer.from(text.slice(2), "hex")));
  if (type === TIMESTAMPTZ) return nullOr(isoText);
  return asIs;
}

/** A whole number as `bigint`, any other as `number`; as text where a number would not be the same. */
function numericValue(text: string): Value {
  if (/^-?\d+$/.test(text)) return BigInt.asIntN(64, BigInt(text)) === BigInt(text) ? BigInt(text) : text;
  const number = Number(text);
  const digits = text.replace(/^-?0*\.?0*/, "").replace(".", "");
  return Number.isFinite(number) && digits.length <= 15 ? number : text;
}

const TIME = /^(\d{4,})-(\d\d)-(\d\d) (\d\d:\d\d:\d\d)(?:\.(\d+))?\+00$/;

/** `2025-10-02 10:11:12.5+00` as `2025-10-02T10:11:12.500Z`; microseconds only where there are some. */
function isoText(text: string): string {
  const match = TIME.exec(text);
  // Before Christ, and infinity.
  if (!match) return text;
  const [, year, month, day, time, fraction = ""] = match;
  const digits = fraction.padEnd(3, "0");
  return `${year}-${month}-${day}T${time}.${digits.length > 3 ? digits.padEnd(6, "0") : digits}Z`;
}

/** For a parameter: text, whose type the server finds out from where it stands. */
function parameter(value: Value): string | Buffer | null {
  return value instanceof Uint8Array ? Buffer.from(value) : textOf(value);
}

function textOf(value: Value): string | null {
  if (value === null) return value;
  if (typeof value === "string") {
    // The encoder would write something else in the place of a lone surrogate.
    if (/\p{Surrogate}/u.test(value)) throw unsuitable("A text has half of a surrogate pair in it.");
    if (value.includes("\u0000")) throw unsuitable("A text has the character U+0000 in it.");
    return value;
  }
  if (value instanceof Uint8Array) return `\\x${Buffer.from(value).toString("hex")}`;
  return Object.is(value, -0) ? "-0" : String(value);
}

/** How a type of the server treats what is written, by the name of its base type. */
export function columnType(name: string): ColumnType {
  switch (name) {
    case "int2":
    case "int4":
    case "int8":
    case "oid":
    case "bool":
      return "integer";
    case "float4":
    case "float8":
      return "real";
    case "numeric":
      return "numeric";
    case "bytea":
      return "blob";
    case "uuid":
      return "uuid";
    case "timestamptz":
      return "time";
    case "timestamp":
      return "timestamp";
    case "date":
      return "date";
    case "jsonb":
      return "json";
    default:
      return "text";
  }
}

/** A column is of another type than the expression for it. */
const MISMATCH = "42804";
/** A statement was prepared for a table that was altered since. */
export const OUTDATED = "0A000";
const BUSY: ReadonlySet<string> = new Set(["40001", "40P01", "55P03", "57014", OUTDATED]);
const GONE: ReadonlySet<string> = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "EPIPE",
  "ENOTFOUND",
  "EAI_AGAIN",
  "ETIMEDOUT",
  "EHOSTUNREACH",
  "57P01",
  "57P02",
  "57P03",
  "57P05",
  "53300",
  // The server ended a transaction, or a session, that did nothing for too long.
  "25P03",
  "25P04",
]);
/** TLS asked for and not there, or a certificate that is not trusted. */
const TLS = /^(ERR_TLS|ERR_SSL|CERT_|EPROTO|SELF_SIGNED|DEPTH_ZERO|UNABLE_TO|HOSTNAME_MISMATCH|ERR_OSSL)/;
/** A prepared statement that is not there, or is there already: another connection than the one it was prepared on. */
const POOLED: ReadonlySet<string> = new Set(["26000", "42P05"]);

/** The driver's and the server's errors as hive's, by code. Never with the password: the location has none. */
export function translated(error: unknown, location: string, statement?: string): unknown {
  if (error instanceof HiveError || !(error instanceof Error)) return error;
  const code = "code" in error && typeof error.code === "string" ? error.code : "";
  const state = code === "" ? {} : { postgres: code };
  const details = statement === undefined ? state : { ...state, statement: statement.slice(0, 300) };
  const because = (hint: string) => ({ hint, details: state, cause: error });
  // The driver has no codes for these.
  if (error.message.startsWith("timeout exceeded")) {
    return new HiveError(
      "DATABASE_BUSY",
      `All of this process's connections to ${location} are in use.`,
      because("Fewer things at once in one process, or run the command again."),
    );
  }
  if (TLS.test(code) || error.message.startsWith("The server does not support SSL")) {
    return new HiveError(
      "CONFIG_INVALID",
      `${location} and hive do not agree on TLS: ${error.message}.`,
      because("Check sslmode, sslrootcert, sslcert and sslkey of the URL: they mean what they mean for psql."),
    );
  }
  if (POOLED.has(code)) {
    return new HiveError(
      "CONFIG_INVALID",
      `${location} gives hive another connection for each transaction: ${error.message}.`,
      because(
        "Is there a pooler in between? Then add ?pooler=transaction to the URL. Nothing of this step was written.",
      ),
    );
  }
  const lost = /^(Connection terminated|Client has encountered a connection error|Client was closed)/.test(
    error.message,
  );
  if (lost || GONE.has(code) || code.startsWith("08")) {
    return new HiveError(
      "DATABASE_UNREACHABLE",
      `${location} cannot be reached: ${error.message || code}.`,
      because("Look whether the server runs and takes connections. What was committed is kept: run the command again."),
    );
  }
  if (BUSY.has(code)) {
    return new HiveError(
      "DATABASE_BUSY",
      `${location}: another transaction was in the way: ${error.message}.`,
      because("Nothing of this step was written. Run the command again once it has ended."),
    );
  }
  if (code === "3D000") {
    return new HiveError(
      "DATABASE_NOT_FOUND",
      `There is no database at ${location}: ${error.message}.`,
      because("Name an existing one with --database postgres://…, HIVE_DATABASE or the config. Nothing was created."),
    );
  }
  if (code.startsWith("28") || error.message.startsWith("SASL")) {
    return new HiveError(
      "CONFIG_INVALID",
      `${location} refuses the login: ${error.message}.`,
      because("Check user and password of the URL, or PGUSER and PGPASSWORD in the environment."),
    );
  }
  // A certificate that the URL names.
  if (code === "ENOENT" || code === "EACCES" || code === "EISDIR") {
    return new HiveError(
      "CONFIG_INVALID",
      `${location} names a file that cannot be read: ${error.message}.`,
      because("Correct sslrootcert, sslcert or sslkey of the URL."),
    );
  }
  if (code === "25006" || code === "42501") {
    return new HiveError(
      "DATABASE_READ_ONLY",
      `${location} cannot be written: ${error.message}.`,
      because("Use a role that owns the tables, and a server that is no standby. Nothing was written."),
    );
  }
  if (code === "53100") {
    return new HiveError(
      "DISK_FULL",
      `The disk of ${location} is full.`,
      because("Free some space and run the command again; what was committed is kept, the rest was rolled back."),
    );
  }
  if (code.startsWith("XX00") && code !== "XX000") {
    return new HiveError(
      "DATABASE_CORRUPT",
      `${location} is damaged: ${error.message}.`,
      because("Restore it from a backup. The damage is not of this command, which has stopped."),
    );
  }
  // A value that its column cannot hold (22), a constraint (23, 44), a trigger of the database (P0001).
  if (/^(22|23|44|P0)/.test(code)) {
    return new HiveError("CONSTRAINT", error.message, {
      hint: "A constraint, a type or a trigger of the database refuses this. Nothing of this step was written.",
      details,
      cause: error,
    });
  }
  return new HiveError("DATABASE_FAILED", `${location}: ${error.message}`, {
    hint: "Nothing of this step was written. `hive verify` says whether every table is as it should be.",
    details,
    cause: error,
  });
}
