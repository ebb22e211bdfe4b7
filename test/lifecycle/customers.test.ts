import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import Database from "better-sqlite3";
import { expect, test } from "vitest";
import { CONFIG_DEFAULTS } from "../../src/config.ts";
import { type Hive, openHive } from "../../src/hive.ts";
import { LAUNCHER } from "../support/cli.ts";
import { temporaryDirectory } from "../support/context.ts";
import { OWN } from "../support/migrations.ts";

/** The example `examples/customers`, as its README walks through it and through the library. */

const EXAMPLE = fileURLToPath(new URL("../../examples/customers/", import.meta.url));
const PACKAGE = fileURLToPath(new URL("../../", import.meta.url));
const REFUSED = ["12", "13", "14", "15", "16", "17", "18"];

class Shop {
  readonly path = join(temporaryDirectory(), "shop.db");
  private readonly db: Database.Database;

  constructor() {
    this.db = new Database(this.path);
    this.db.pragma("journal_mode = WAL");
    this.db.exec(readFileSync(join(EXAMPLE, "seed.sql"), "utf8"));
  }

  open(): Promise<Hive> {
    const mapping = join(EXAMPLE, "mapping.js");
    return openHive(
      { ...CONFIG_DEFAULTS, database: this.path, mapping, baseDirectory: PACKAGE },
      { actor: "test@localhost" },
    );
  }

  run(sql: string): void {
    this.db.exec(sql);
  }

  /** Unseen by the triggers: what makes the sides differ that hive believes to be equal. */
  runUnseen(sql: string): void {
    this.run(`BEGIN; INSERT INTO hive_applying VALUES (1); ${sql}; DELETE FROM hive_applying; COMMIT`);
  }

  all(sql: string): unknown[] {
    return this.db.prepare(sql).raw().all();
  }

  one(sql: string): Record<string, unknown> {
    return Object.fromEntries(Object.entries(this.db.prepare(sql).get() ?? {}));
  }

  /** Over every legacy row (but those of these ids), with the type of each value. */
  hash(except: readonly number[] = []): string {
    const columns = this.all("SELECT name FROM pragma_table_info('clients')").flat();
    const quoted = columns.map((column) => `typeof("${column}"), quote("${column}")`).join(", ");
    const rows = this.all(`SELECT ${quoted} FROM clients WHERE id NOT IN (${except.join(", ")}) ORDER BY id`);
    return createHash("sha256").update(JSON.stringify(rows)).digest("hex");
  }

  schema(): unknown[] {
    return this.all("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name");
  }

  close(): void {
    this.db.close();
  }
}

async function moved(hive: Hive): Promise<void> {
  await hive.migrations.up();
  await hive.flags.change([{ agent: "shop", flag: "dual-write", value: "on" }]);
  await hive.backfill();
}

async function live(hive: Hive): Promise<void> {
  await moved(hive);
  await hive.flags.change([{ agent: "shop", flag: "reads", value: "shadow" }]);
  expect(await hive.check()).toMatchObject({ consistent: true, recorded: true });
  await hive.flags.change([{ agent: "shop", flag: "reads", value: "live" }]);
}

test("up, backfill and check; a second backfill writes nothing; what cannot be mapped has its reason", async () => {
  const shop = new Shop();
  const before = shop.hash();
  await using hive = await shop.open();
  expect(await hive.status()).toMatchObject({ phase: "none" });
  expect((await hive.migrations.up()).applied.map((one) => one.name)).toEqual([...OWN, "0001_customers"]);
  expect(await hive.verify()).toMatchObject({ ok: true, agents: 0, eventTypes: 0 });
  await hive.flags.change([{ agent: "shop", flag: "dual-write", value: "on" }]);
  expect(await hive.backfill()).toMatchObject({
    agents: ["shop"],
    aggregates: { written: 23, unchanged: 0, quarantined: 7, total: 30 },
    missingColumns: [],
  });
  expect(await hive.check()).toMatchObject({
    consistent: true,
    compared: 30,
    identical: 23,
    quarantined: 7,
    drift: [],
  });
  expect(await hive.backfill()).toMatchObject({ aggregates: { written: 0, unchanged: 23, quarantined: 7, total: 30 } });

  const { entries } = await hive.quarantine.list();
  expect(entries.map((entry) => entry.key)).toEqual(REFUSED);
  expect(entries.map((entry) => entry.reason)).toEqual([
    'the total of order A-1013 is "ask Jim": no amount of money',
    'orders is no JSON: "see the blue folder"',
    'order A-1014 was placed on "31/02/2019": no day',
    "two orders have the number A-1015",
    "full_name is empty: a customer needs a name",
    'vip is "maybe": neither Y nor N',
    'order A-1017 has a member "coupon", and crm_orders has no column for it',
  ]);
  expect(shop.one("SELECT * FROM crm_customers WHERE id = 3")).toMatchObject({
    first_name: "Alan",
    last_name: "Turing",
    emails: '["alan@example.org"]',
    phone: "+49305550199",
    vip: 0,
  });
  expect(shop.all("SELECT * FROM crm_orders WHERE customer_id = 5 ORDER BY order_no")).toEqual([
    [5, "A-1004", 890, "EUR", "2019-05-04"],
    [5, "A-1007", 9900, "EUR", "2019-05-05"],
  ]);
  expect(shop.all("SELECT kind, street, zip FROM crm_addresses WHERE customer_id = 22 ORDER BY kind")).toEqual([
    ["billing", "Basic Str. 10", "64289"],
    ["shipping", "Konvent", null],
  ]);
  expect(shop.hash()).toBe(before);
  shop.close();
});

test("`mapping test` shows that every row comes back as it was, before anything is there", async () => {
  const shop = new Shop();
  const before = shop.schema();
  await using hive = await shop.open();
  const { samples } = await hive.testMapping({ sample: 100 });
  expect(samples.filter((one) => one.outcome === "quarantined").map((one) => one.key)).toEqual(REFUSED);
  expect(samples.filter((one) => one.outcome === "mapped" && one.roundTrip)).toHaveLength(23);
  expect(shop.schema()).toEqual(before);
  shop.close();
});

test("legacy columns that a database lacks read as NULL, and stay as they are", async () => {
  const shop = new Shop();
  shop.run(
    "DROP INDEX ix_clients_full_name; ALTER TABLE clients DROP COLUMN vip; ALTER TABLE clients DROP COLUMN phone",
  );
  const before = shop.hash();
  await using hive = await shop.open();
  await moved(hive);
  expect(await hive.backfill()).toMatchObject({
    aggregates: { written: 0, unchanged: 24 },
    missingColumns: ["clients.phone", "clients.vip"],
  });
  await live(hive);
  expect(await hive.check()).toMatchObject({ consistent: true, identical: 24 });
  await hive.rollback();
  expect(shop.hash()).toBe(before);
  shop.close();
});

const DRIFT = [
  {
    name: "a column of the root",
    sql: "UPDATE crm_customers SET phone = '+4930999999' WHERE id = 3",
    columns: [{ table: "crm_customers", column: "phone", legacy: "+49305550199", unified: "+4930999999" }],
  },
  {
    name: "a column of one of several addresses",
    sql: "UPDATE crm_addresses SET city = 'X', zip = NULL WHERE customer_id = 2 AND kind = 'shipping'",
    columns: [
      { table: "crm_addresses", column: "zip", row: "kind=shipping", legacy: "20457", unified: null },
      { table: "crm_addresses", column: "city", row: "kind=shipping", legacy: "Hamburg", unified: "X" },
    ],
  },
  {
    name: "an address that is gone",
    sql: "DELETE FROM crm_addresses WHERE customer_id = 2 AND kind = 'billing'",
    columns: [{ table: "crm_addresses", column: "kind", legacy: "billing", unified: null }],
  },
  {
    name: "a column of one of several orders",
    sql: "UPDATE crm_orders SET total_cents = 1 WHERE customer_id = 1 AND order_no = 'A-1002'",
    columns: [{ table: "crm_orders", column: "total_cents", row: "order_no=A-1002", legacy: 123400, unified: 1 }],
  },
  {
    name: "an order too many, before the others",
    sql: "INSERT INTO crm_orders VALUES (10, 'A-0001', 1, 'EUR', '2020-01-01')",
    columns: [{ table: "crm_orders", column: "order_no", legacy: null, unified: "A-0001" }],
  },
  {
    name: "the first order gone",
    sql: "DELETE FROM crm_orders WHERE order_no = 'A-1010'",
    columns: [{ table: "crm_orders", column: "order_no", legacy: "A-1010", unified: null }],
  },
  {
    name: "an order of somebody else",
    sql: "UPDATE crm_orders SET customer_id = 28 WHERE order_no = 'A-1003'",
    keys: ["2", "28"],
    columns: [{ table: "crm_orders", column: "order_no", legacy: "A-1003", unified: null }],
  },
];

test("drift in each of the three tables is found with its columns, and repaired", async () => {
  const shop = new Shop();
  await using hive = await shop.open();
  await moved(hive);
  const tables = ["crm_customers", "crm_addresses", "crm_orders"];
  const contents = () => tables.map((table) => shop.all(`SELECT * FROM ${table} ORDER BY 1, 2`));
  const right = contents();
  for (const { name, sql, columns, keys } of DRIFT) {
    shop.run(sql);
    const found = await hive.check();
    expect(found, name).toMatchObject({ consistent: false, different: keys?.length ?? 1, missing: 0, extra: 0 });
    expect(
      found.drift.map((one) => one.key),
      name,
    ).toEqual(keys ?? [expect.anything()]);
    expect(found.drift[0]?.columns, name).toEqual(columns);
    expect(await hive.check({ repair: true }), name).toMatchObject({ consistent: true, repaired: keys?.length ?? 1 });
    expect(contents(), name).toEqual(right);
  }
  shop.run("DELETE FROM crm_orders WHERE customer_id = 29; DELETE FROM crm_addresses WHERE customer_id = 29");
  shop.run(
    "DELETE FROM crm_customers WHERE id = 29; INSERT INTO crm_customers VALUES (77, 'A', 'B', '[]', NULL, 0, NULL, NULL, NULL)",
  );
  expect((await hive.check()).drift.map(({ key, kind }) => [key, kind])).toEqual([
    ["29", "missing"],
    ["77", "extra"],
  ]);
  expect(await hive.check({ repair: true })).toMatchObject({ consistent: true, repaired: 2 });
  expect(contents()).toEqual(right);
  shop.close();
});

test("rows of related tables without their customer are found and removed, also those whose customer is NULL", async () => {
  const shop = new Shop();
  await using hive = await shop.open();
  await moved(hive);
  // As another program, without foreign keys, would leave it.
  shop.run(`PRAGMA foreign_keys = OFF; DROP TABLE crm_orders;
    CREATE TABLE crm_orders (customer_id INTEGER, order_no TEXT, total_cents INTEGER, currency TEXT, placed_on TEXT);
    INSERT INTO crm_orders VALUES (500, 'X', 1, 'EUR', '2020-01-01'), (NULL, 'Y', 1, 'EUR', '2020-01-01')`);
  expect(await hive.backfill()).toMatchObject({ aggregates: { written: 13 } });
  const found = await hive.check();
  expect(found.drift.map(({ key, kind, columns }) => `${kind} ${columns[0]?.table} ${key}`).sort()).toEqual([
    "extra crm_orders (NULL key)",
    "extra crm_orders 500",
  ]);
  expect(await hive.check({ repair: true })).toMatchObject({ consistent: true, repaired: 2 });
  expect(await hive.check()).toMatchObject({ consistent: true, extra: 0 });
  shop.close();
});

test("what was written on the unified side while it led is there on the legacy side after a rollback", async () => {
  const shop = new Shop();
  const written = [2, 5, 8, 31];
  const before = shop.hash(written);
  const schema = shop.schema();
  const hive = await shop.open();
  await live(hive);
  shop.run(`
    UPDATE crm_addresses SET street = 'Alsterufer 9' WHERE customer_id = 2 AND kind = 'shipping';
    INSERT INTO crm_orders VALUES (2, 'A-2001', 4200, 'EUR', '2020-02-29');
    UPDATE crm_orders SET total_cents = 100 WHERE order_no = 'A-1004';
    UPDATE crm_customers SET vip = 0, phone = '+4930111222' WHERE id = 5;
    DELETE FROM crm_addresses WHERE customer_id = 8 AND kind = 'shipping';
    INSERT INTO crm_customers
      VALUES (31, 'Katherine', 'Johnson', '["k@example.org"]', '+493012345678', 1, 'new', '2020-02-29T08:00:00.000Z', NULL);
    INSERT INTO crm_addresses VALUES (31, 'billing', 'Orbit 1', '1', 'Hampton');
    INSERT INTO crm_orders VALUES (31, 'A-2002', 100, 'USD', '2020-03-01');
  `);
  expect(await hive.check()).toMatchObject({ consistent: true, inFlight: 4, drift: [] });
  expect(await hive.rollback({ dryRun: true })).toMatchObject({ projectedDown: 4, quarantined: 0 });
  expect(await hive.rollback({ to: "shadow" })).toMatchObject({ stage: "shadow", projectedDown: 4, kept: 0 });
  // Both sides are the same now that the legacy side leads, the mapping's notes included.
  expect(await hive.check()).toMatchObject({ consistent: true, identical: 24, quarantined: 7 });
  expect(await hive.rollback()).toMatchObject({ stage: "off", projectedDown: 0 });

  expect(shop.hash(written)).toBe(before);
  expect(shop.one("SELECT * FROM clients WHERE id = 2")).toMatchObject({
    phone: "030 / 765 43-21",
    emails: "grace@example.org; Grace.Hopper@Navy.example",
    ship_street: "Alsterufer 9",
    ship_city: "Hamburg",
    orders:
      '[{"no":"A-1003","total":"1.299,00 €","placed":"2/5/2019"},{"no":"A-2001","total":"42,00 €","placed":"29/02/2020"}]',
    loyalty_no: 1001,
  });
  expect(shop.one("SELECT * FROM clients WHERE id = 5")).toMatchObject({
    full_name: "Hedy Lamarr",
    vip: "N",
    phone: "+4930111222",
    orders:
      '[{"no":"A-1007","total":"99 €","placed":"05/05/2019"},{"no":"A-1004","total":"1,00 €","placed":"04/05/2019"}]',
  });
  expect(shop.one("SELECT * FROM clients WHERE id = 8")).toMatchObject({
    ship_street: null,
    ship_zip: null,
    ship_city: null,
  });
  expect(shop.one("SELECT * FROM clients WHERE id = 31")).toEqual({
    id: 31,
    full_name: "Katherine Johnson",
    emails: "k@example.org",
    phone: "+493012345678",
    bill_street: "Orbit 1",
    bill_zip: "1",
    bill_city: "Hampton",
    ship_street: null,
    ship_zip: null,
    ship_city: null,
    orders: '[{"no":"A-2002","total":"1,00 USD","placed":"01/03/2020"}]',
    remarks: "new",
    vip: "Y",
    created: 1582963200,
    loyalty_no: null,
  });
  await hive.migrations.down({ to: "0" });
  await hive[Symbol.asyncDispose]();
  expect(shop.schema()).toEqual(schema);
  expect(shop.hash(written)).toBe(before);
  shop.close();
});

test("while the unified side leads, a repair mends the legacy row, but takes none away", async () => {
  const shop = new Shop();
  await using hive = await shop.open();
  await live(hive);
  shop.runUnseen(`
    UPDATE clients SET bill_city = 'nowhere' WHERE id = 1;
    DELETE FROM crm_orders WHERE customer_id = 30; DELETE FROM crm_addresses WHERE customer_id = 30;
    DELETE FROM crm_customers WHERE id = 30`);
  expect(await hive.check({ repair: true })).toMatchObject({
    ...{ consistent: false, repaired: 1, different: 1, extra: 1 },
    unrepaired: [{ key: "30", reason: expect.stringMatching(/hive never deletes legacy rows/) }],
  });
  expect(shop.one("SELECT bill_city FROM clients WHERE id = 1")).toEqual({ bill_city: "Berlin" });
  expect(shop.all("SELECT id FROM clients WHERE id = 30")).toEqual([[30]]);
  // What the repair wrote over; nothing was taken away.
  expect(shop.all("SELECT key, side FROM hive_kept")).toEqual([["1", "legacy"]]);
  // What was never moved is no deletion.
  expect(shop.all(`SELECT count(*) FROM clients WHERE id IN (${REFUSED.join(", ")})`)).toEqual([[7]]);
  shop.close();
});

test("what the legacy table cannot hold is kept whole, and what cannot be mapped down is quarantined", async () => {
  const shop = new Shop();
  await using hive = await shop.open();
  await live(hive);
  const before = shop.hash([4]);
  shop.runUnseen(`
    UPDATE crm_customers SET created_at = '2020-01-01T00:00:00.500Z' WHERE id = 4;
    UPDATE crm_customers SET emails = 'x@y' WHERE id = 6`);
  expect(await hive.check()).toMatchObject({ consistent: false, different: 1, quarantined: 8 });
  const listed = async () => (await hive.quarantine.list({ keys: ["6"] })).entries;
  expect(await listed()).toEqual([]);
  expect(await hive.check({ repair: true })).toMatchObject({ consistent: true, repaired: 1, quarantined: 8 });
  const reason = 'emails is "x@y": a JSON list of texts was expected';
  expect(await listed()).toMatchObject([{ direction: "down", reason }]);
  expect(await hive.rollback({ to: "shadow" })).toMatchObject({ projectedDown: 0, kept: 2, quarantined: 1 });
  // What could not go down is kept whole as well, and stays listed until somebody has looked at it.
  expect(shop.one("SELECT reason FROM hive_kept WHERE key = '6'")).toEqual({ reason });
  expect(await listed()).toMatchObject([{ direction: "down", reason }]);
  expect(shop.one("SELECT created FROM clients WHERE id = 4")).toEqual({ created: 1577836800 });
  const kept = shop.one("SELECT reason, aggregate FROM hive_kept WHERE key = '4' AND side = 'unified'");
  expect(kept.reason).toBe("the legacy tables cannot hold crm_customers.created_at");
  expect(JSON.parse(String(kept.aggregate)).crm_customers[0].created_at).toBe("2020-01-01T00:00:00.500Z");
  expect(shop.hash([4])).toBe(before);
  shop.close();
});

/** Code blocks of a README in their order: commands, and what has to be seen after them. */
function blocks(readme: string): { kind: string; text: string }[] {
  return [...readme.matchAll(/^```(sh|text)\n(.*?)^```/gms)].map(([, kind = "", text = ""]) => ({ kind, text }));
}

interface Finished {
  output: string;
  code: number | null;
}

/** `npx hive` is this hive. Ends at the first command whose exit code is not what its comment says (else 0). */
function runScript(text: string, cwd: string): Promise<Finished> {
  const checked = text
    .replaceAll(/^(npx hive.*?)(?: # exit code (\d+))?$/gm, (_, command, code) => `${command}; expect ${code ?? 0}`)
    .replaceAll(/^node sql\.js shop\.db .*"$/gm, (command) => `${command} || exit`);
  const script = `
    npx() { shift; "${process.execPath}" "${LAUNCHER}" "$@"; }
    expect() { local code=$?; [ $code = $1 ] || { echo "exit code $code, not $1"; exit 99; }; }
    ${checked}`;
  return new Promise((resolve, reject) => {
    const env = { PATH: process.env.PATH, HOME: process.env.HOME, HIVE_ACTOR: "test@localhost" };
    const child = spawn("bash", ["-c", script], { cwd, env });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (data: string) => {
        output += data;
      });
    }
    child.on("error", reject);
    child.on("close", (code) => resolve({ output, code }));
  });
}

test("the README's walkthrough does what it says, in a project that has hive installed", async () => {
  const directory = temporaryDirectory();
  mkdirSync(join(directory, "node_modules"));
  symlinkSync(PACKAGE, join(directory, "node_modules/hive-migrate"), "dir");
  symlinkSync(join(PACKAGE, "node_modules/better-sqlite3"), join(directory, "node_modules/better-sqlite3"), "dir");
  writeFileSync(join(directory, "package.json"), '{"private":true,"type":"module"}');
  cpSync(EXAMPLE, directory, { recursive: true });
  const found = blocks(readFileSync(join(EXAMPLE, "README.md"), "utf8"));
  expect(found.length).toBeGreaterThan(15);
  let output = "";
  for (const { kind, text } of found) {
    if (kind === "sh") {
      const run = await runScript(text, directory);
      expect(run.code, `${text}\n${run.output}`).toBe(0);
      output = run.output;
    } else {
      for (const line of text.trim().split("\n")) expect(output).toContain(line.trim());
    }
  }
});
