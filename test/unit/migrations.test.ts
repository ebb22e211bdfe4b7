import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { ErrorCode } from "../../src/errors.ts";
import { compareTable, expectedTables } from "../../src/schema/adoption.ts";
import { examine, type MigrationRecord, newerThan } from "../../src/schema/history.ts";
import {
  byNumber,
  checksum,
  ledgerNames,
  loadMigrations,
  type MigrationFile,
  type MigrationSet,
  parseSections,
} from "../../src/schema/migration-files.ts";
import { statements, tokenize } from "../../src/schema/statements.ts";
import type { Dialect, Table } from "../../src/storage/port.ts";
import { temporaryDirectory, tinyMapping } from "../support/context.ts";

const refused = (code: ErrorCode, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) });

describe("statements", () => {
  const split = (text: string) => statements(text, "f.sql").map((one) => one.text);

  test("are split at semicolons outside of strings, names, comments and trigger bodies", () => {
    expect(split("SELECT 1; SELECT 2")).toEqual(["SELECT 1;", "SELECT 2"]);
    expect(split("SELECT ';''' ; SELECT 2;")).toEqual(["SELECT ';''' ;", "SELECT 2;"]);
    expect(split('SELECT ";""" ; SELECT `;`, [;];')).toEqual(['SELECT ";""" ;', "SELECT `;`, [;];"]);
    expect(split("-- a;b\nSELECT /* ; */ 1; /* ; */ ;;")).toEqual(["SELECT /* ; */ 1;"]);
    expect(split("SELECT $$a;'b$$; SELECT $x$;$$;$x$;")).toEqual(["SELECT $$a;'b$$;", "SELECT $x$;$$;$x$;"]);
    const trigger = `CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN
      SELECT CASE WHEN 1 THEN 'END;' END; -- END;
      UPDATE a SET b = 1;
    END;`;
    expect(split(`${trigger} DROP TABLE a;`)).toEqual([trigger, "DROP TABLE a;"]);
    expect(split("CREATE TRIGGER t BEFORE UPDATE ON a EXECUTE FUNCTION f(); SELECT 1;")).toHaveLength(2);
  });

  test("know their lines", () => {
    expect(statements("\n\nSELECT 1;\n-- x\n  SELECT 2;", "f.sql", 10).map((one) => one.line)).toEqual([12, 14]);
  });

  test("what has no end is refused with its line", () => {
    expect(() => tokenize("SELECT 1;\nSELECT 'abc", "f.sql")).toThrow(refused("MIGRATION_INVALID", /f\.sql, line 2/));
    expect(() => tokenize("/* abc", "f.sql")).toThrow(refused("MIGRATION_INVALID", /line 1/));
  });
});

describe("sections", () => {
  const parse = (text: string) => parseSections(text, "f.sql");

  test("are handed over as they stand", () => {
    const { up, down } = parse(
      "-- a comment\n/* more */\n-- migrate:up\n\nSELECT 1;  -- x\n--migrate:down  \nSELECT 2;\n",
    );
    expect(up).toBe("SELECT 1;  -- x");
    expect(down).toBe("SELECT 2;");
  });

  test("Windows line endings make no difference", () => {
    const { up, down } = parse("-- migrate:up\r\nSELECT 1;\r\n-- migrate:down\r\nSELECT 2;\r\n");
    expect([up, down]).toEqual(["SELECT 1;", "SELECT 2;"]);
  });

  test("a marker inside a string or a block comment is none", () => {
    const { up, down } = parse("-- migrate:up\nSELECT '\n-- migrate:down\n' /*\n-- migrate:down\n*/;");
    expect(up).toContain("-- migrate:down");
    expect(down).toBeNull();
  });

  test("no down section, or one without a statement, is no way back", () => {
    expect(parse("-- migrate:up\nSELECT 1;").down).toBeNull();
    expect(parse("-- migrate:up\nSELECT 1;\n-- migrate:down\n-- later\n;").down).toBeNull();
  });

  test.each([
    ["SQL ahead of the first section", "SELECT 1;\n-- migrate:up\nSELECT 1;", /line 1: there is SQL ahead/],
    ["no section", "-- nothing\n", /no section `-- migrate:up`/],
    ["an empty up section", "-- migrate:up\n-- later\n", /no statement under/],
    ["down first", "-- migrate:down\nSELECT 1;", /line 1: "-- migrate:down" where `-- migrate:up`/],
    ["two up sections", "-- migrate:up\nSELECT 1;\n-- migrate:up\n", /line 3: .* where `-- migrate:down`/],
    [
      "two down sections",
      "-- migrate:up\nSELECT 1;\n-- migrate:down\n-- migrate:down",
      /line 4: .* one section too many/,
    ],
    ["an unknown section", "-- migrate:upp\nSELECT 1;", /"-- migrate:upp"/],
    ["a marker behind a statement", "-- migrate:up\nSELECT 1; -- migrate:down\n", /line 2: .* line of its own/],
    ["a transaction", "-- migrate:up\nSELECT 1;\n/* x */ begin immediate;\nSELECT 1; COMMIT;", /line 3: BEGIN cannot/],
    ["COMMIT in down", "-- migrate:up\nSELECT 1;\n-- migrate:down\n\nCOMMIT;", /line 5: COMMIT cannot/],
    ["END", "-- migrate:up\nEND TRANSACTION;", /END cannot/],
    ["ROLLBACK", "-- migrate:up\nROLLBACK", /ROLLBACK cannot/],
    ["SAVEPOINT", "-- migrate:up\nSAVEPOINT a;", /SAVEPOINT cannot/],
    ["VACUUM", "-- migrate:up\nvacuum;", /VACUUM cannot/],
    ["ATTACH", "-- migrate:up\nATTACH 'x' AS y;", /ATTACH cannot/],
    [
      "COMMIT behind a trigger",
      "-- migrate:up\nCREATE TRIGGER t AFTER DELETE ON a BEGIN SELECT 1; END; COMMIT;",
      /COMMIT cannot/,
    ],
    ["PRAGMA foreign_keys", "-- migrate:up\nPRAGMA main.foreign_keys = OFF;", /does nothing inside a transaction/],
  ])("%s is refused", (_, text, message) => {
    expect(() => parse(text)).toThrow(refused("MIGRATION_INVALID", message));
  });

  test("words that only look forbidden are not", () => {
    const text = `-- migrate:up
      CREATE TABLE a (b TEXT UNIQUE ON CONFLICT ROLLBACK, "commit" TEXT, c TEXT DEFAULT 'BEGIN;');
      -- COMMIT;
      CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT RAISE(ROLLBACK, 'no'); END;
      PRAGMA defer_foreign_keys = ON;`;
    expect(parse(text).upStatements).toHaveLength(3);
  });
});

describe("checksums", () => {
  test("do not depend on line endings and blank lines at the end", () => {
    expect(checksum("a\r\nb\r\n\r\n  \n")).toBe(checksum("a\nb"));
  });
  test("depend on everything else", () => {
    expect(checksum("a\nb")).not.toBe(checksum("a\n b"));
    expect(checksum("a\nb")).not.toBe(checksum("\na\nb"));
  });
});

describe("files", () => {
  const context = (folders: Record<string, Record<string, string>>, dialect: Dialect["name"] = "sqlite") => {
    const baseDirectory = temporaryDirectory();
    for (const [folder, files] of Object.entries(folders)) {
      mkdirSync(join(baseDirectory, folder));
      for (const [name, text] of Object.entries(files)) writeFileSync(join(baseDirectory, folder, name), text);
    }
    return {
      mapping: tinyMapping,
      settings: { baseDirectory, migrations: Object.keys(folders) },
      store: { dialect: { name: dialect } },
    };
  };
  const load = (...args: Parameters<typeof context>) => loadMigrations(context(...args));

  test("are loaded set by set, by number, for the dialect at hand", () => {
    const folders = {
      b: { "0002_b.sql": "x", "0010_c.sqlite.sql": "x", "00009_d.sql": "x", "README.md": "x" },
      a: { "0001_a.sqlite.sql": "x", "0001_a.postgres.sql": "y", "0003_pg.postgres.sql": "y" },
    };
    const names = (sets: MigrationSet[]) =>
      sets.slice(1).map((set) => [set.name, set.migrations.map((one) => one.name)]);
    expect(names(load(folders))).toEqual([
      ["user:b", ["0002_b", "00009_d", "0010_c"]],
      ["user:a", ["0001_a"]],
    ]);
    expect(load(folders)[0]?.migrations.map((one) => one.name)).toEqual(ledgerNames("sqlite"));
    expect(ledgerNames("sqlite")[0]).toBe("0001_hive_ledger");
  });

  test.each<[string, Record<string, Record<string, string>>, ErrorCode, RegExp]>([
    [
      "a name in two folders",
      { a: { "0001_x.sql": "" }, b: { "0001_x.sql": "" } },
      "MIGRATION_INVALID",
      /Two migrations/,
    ],
    ["a name of hive's own", { a: { "0001_hive_ledger.sql": "" } }, "MIGRATION_INVALID", /Two migrations/],
    ["two files for one dialect", { a: { "0001_x.sql": "", "0001_x.sqlite.sql": "" } }, "MIGRATION_INVALID", /Both/],
    ["a name without a number", { a: { "add_x.sql": "" } }, "MIGRATION_INVALID", /not called/],
    ["an unknown dialect", { a: { "0001_x.mysql.sql": "" } }, "MIGRATION_INVALID", /not called/],
  ])("%s is refused", (_, folders, code, message) => {
    expect(() => load(folders)).toThrow(refused(code, message));
  });

  test("a folder that is not there is refused", () => {
    const { settings, ...others } = context({});
    const load = () => loadMigrations({ ...others, settings: { ...settings, migrations: ["none"] } });
    expect(load).toThrow(refused("CONFIG_INVALID", /none cannot be read/));
  });
});

describe("history", () => {
  const file = (name: string, set = "user:a"): MigrationFile => ({
    name,
    set,
    kind: set === "hive" ? "hive" : "user",
    path: `${name}.sql`,
    text: "",
    checksum: name,
  });
  const set = (name: string, ...names: string[]): MigrationSet => ({
    name,
    kind: name === "hive" ? "hive" : "user",
    folder: "",
    migrations: names.map((one) => file(one, name)),
  });
  const record = (name: string, seq: number, set = "user:a", checksum = name): MigrationRecord => ({
    name,
    set,
    checksum,
    appliedAt: "",
    adopted: false,
    seq,
    detail: null,
  });

  test("tells ok, altered and missing apart", () => {
    const records = [record("0003_c", 3), record("0001_a", 1), record("0002_b", 2, "user:a", "other")];
    const history = examine([set("user:a", "0001_a", "0002_b")], records);
    expect(history.applied.map((one) => [one.name, one.state])).toEqual([
      ["0001_a", "ok"],
      ["0002_b", "altered"],
      ["0003_c", "missing"],
    ]);
  });

  test("order is judged within a set only", () => {
    const sets = [set("hive", "0001_h", "0009_h"), set("user:a", "0001_a", "0002_a", "0003_a")];
    const history = examine(sets, [record("0001_h", 1, "hive"), record("0002_a", 2)]);
    expect(history.pending.map((one) => one.name)).toEqual(["0009_h", "0001_a", "0003_a"]);
    expect([...history.outOfOrder]).toEqual(["0001_a"]);
  });

  test("a migration of hive's own beyond all known ones is a newer hive's", () => {
    expect(newerThan(["0001_h", "0003_h"], ["0001_h", "0002_x", "0004_y"])).toEqual(["0004_y"]);
    expect(examine([set("hive", "0001_h")], [record("0002_h", 1, "hive"), record("0005_a", 2)]).tooNew).toEqual([
      "0002_h",
    ]);
  });

  test("numbers are compared as numbers", () => {
    expect(["0010_a", "0009_b", "00010_a", "0010_"].sort(byNumber)).toEqual(["0009_b", "00010_a", "0010_", "0010_a"]);
  });
});

describe("expected shape", () => {
  const text = `CREATE TABLE IF NOT EXISTS main."a b" (
      id VARCHAR(36) NOT NULL,
      "not null" TEXT DEFAULT (1, 2), -- , x
      n INTEGER CHECK (n IN (1, 2)) NOT NULL,
      k DOUBLE PRECISION REFERENCES other (id, x),
      CONSTRAINT pk PRIMARY KEY (n, id),
      UNIQUE (k), FOREIGN KEY (k) REFERENCES z (y)
    );
    CREATE UNIQUE INDEX IF NOT EXISTS i ON "a b" (k, lower(id));
    INSERT INTO "a b" VALUES (1);`;

  test("is read from the migration", () => {
    const table = expectedTables(statements(text, "f.sql")).get("a b");
    expect(table?.columns).toEqual([
      { name: "id", type: "VARCHAR ( 36 )", notNull: true, primaryKey: 2 },
      { name: "not null", type: "TEXT", notNull: false, primaryKey: 0 },
      { name: "n", type: "INTEGER", notNull: true, primaryKey: 1 },
      { name: "k", type: "DOUBLE PRECISION", notNull: false, primaryKey: 0 },
    ]);
    expect(table?.indexes.map(({ name, columns, unique }) => ({ name, columns, unique }))).toEqual([
      { name: "i", columns: ["k", null], unique: true },
    ]);
  });

  const expected = expectedTables(
    statements("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, n INTEGER, j TEXT NOT NULL);", "f.sql"),
  ).get("t");
  const actual = (
    changes: Partial<Table["columns"][number]> & { name: string },
    indexes: Table["indexes"] = [],
  ): Table => {
    const column = (name: string, declared: string, notNull: boolean, primaryKey = 0) => ({
      ...{ name, declared, type: "text" as const, notNull, default: null, primaryKey },
      ...(changes.name === name ? changes : {}),
    });
    const columns = [column("id", "VARCHAR", true, 1), column("n", "BIGINT", false), column("j", "JSON", true)];
    if (!columns.some((one) => one.name === changes.name)) columns.push(column(changes.name, "TEXT", false));
    return { name: "t", columns, foreignKeys: [], indexes, unique: [], parts: [] };
  };
  const differences = (...args: Parameters<typeof actual>) =>
    expected
      ? compareTable(expected, actual(...args), "sqlite").map((one) => `${one.column}: ${one.expected} / ${one.actual}`)
      : [];

  test("Alembic's types and additional nullable columns match", () => {
    expect(differences({ name: "id" })).toEqual([]);
    expect(differences({ name: "more" })).toEqual([]);
    expect(differences({ name: "more", notNull: true, default: "0" })).toEqual([]);
    expect(differences({ name: "j", declared: "DATETIME" })).toEqual([]);
    expect(differences({ name: "id" }, [{ name: "pk", columns: ["id"], unique: true }])).toEqual([]);
    expect(differences({ name: "id" }, [{ name: "i", columns: ["j"], unique: false }])).toEqual([]);
  });

  test("every other difference is listed", () => {
    expect(differences({ name: "n", declared: "TEXT" })).toEqual(["n: INTEGER / TEXT"]);
    expect(differences({ name: "n", notNull: true })).toEqual(["n: INTEGER / BIGINT NOT NULL"]);
    expect(differences({ name: "j", notNull: false })).toEqual(["j: TEXT NOT NULL / JSON"]);
    expect(differences({ name: "id", primaryKey: 0 })).toEqual(["id: TEXT NOT NULL PRIMARY KEY / VARCHAR NOT NULL"]);
    expect(differences({ name: "more", notNull: true })).toEqual(["more: no such column / TEXT NOT NULL"]);
    expect(differences({ name: "id" }, [{ name: "u", columns: ["j"], unique: true }])).toEqual([
      "null: no further unique index / unique u (j)",
    ]);
  });
});
