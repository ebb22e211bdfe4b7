import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Clock, Signal } from "../../src/clock.ts";
import type { Settings } from "../../src/config.ts";
import type { Context } from "../../src/context.ts";
import { STAGES, type Stage, settingBetween, valueText } from "../../src/flags/stages.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import type { DataRow, PlatformMapping } from "../../src/sync/mapping.ts";
import { type Backend, sqlite } from "./backends.ts";
import { temporaryDirectory, testContext } from "./context.ts";

/**
 * A shop that has nothing to do with any platform: customers with orders, and tickets. `sales` and `support` own rows,
 * `auditor` owns none; the first two are registered.
 */
const owner = (rows: readonly DataRow[] = []) => (rows[0]?.kind === "support" ? "support" : "sales");

export const shopMapping: PlatformMapping = {
  name: "shop",
  aggregates: [
    {
      name: "customers",
      legacy: {
        root: { table: "customers", key: "id", columns: ["name", "kind", "score"] },
        related: [
          { table: "orders", foreignKey: "customer_id", key: ["id"], columns: ["amount"], orderBy: ["id"] },
          {
            table: "wishes",
            foreignKey: "customer_id",
            key: ["id"],
            columns: ["text"],
            orderBy: ["id"],
            optional: true,
          },
        ],
      },
      unified: {
        root: { table: "parties", key: "id", columns: { id: "text", name: "text", kind: "text" } },
        related: [
          {
            table: "party_orders",
            foreignKey: "party_id",
            key: ["id"],
            columns: { id: "integer", party_id: "text", amount: "integer" },
          },
        ],
      },
      agent: ({ customers }) => owner(customers),
      unifiedAgent: ({ parties }) => owner(parties),
      owns: () => true,
      up: ({ customers = [], orders = [] }) => ({
        parties: customers.map((row) => ({ id: row.id ?? null, name: row.name ?? null, kind: row.kind ?? null })),
        party_orders: orders.map((row) => ({
          id: row.id ?? null,
          party_id: row.customer_id ?? null,
          amount: row.amount ?? null,
        })),
      }),
      down: ({ parties = [] }) => ({
        customers: parties.map((row) => ({ id: row.id ?? null, name: row.name ?? null, kind: row.kind ?? null })),
      }),
    },
    {
      name: "tickets",
      legacy: { root: { table: "tickets", key: "id", columns: ["text"] }, related: [] },
      unified: { root: { table: "cases", key: "id", columns: { id: "text", text: "text" } }, related: [] },
      agent: () => "support",
      unifiedAgent: () => "support",
      owns: () => true,
      up: ({ tickets = [] }) => ({ cases: tickets.map((row) => ({ id: row.id ?? null, text: row.text ?? null })) }),
      down: ({ cases = [] }) => ({ tickets: cases.map((row) => ({ id: row.id ?? null, text: row.text ?? null })) }),
    },
  ],
  agents: [
    {
      name: "sales",
      registration: { agentId: "sales-1", agentType: "seller", capabilities: ["sell"], emits: ["sold"] },
    },
    {
      name: "support",
      registration: { agentId: "support-1", agentType: "helper", capabilities: ["help", "sell"], emits: [] },
    },
    { name: "auditor" },
  ],
  eventTypes: ["sold", "helped"],
};

const LEGACY = `
  CREATE TABLE customers (id TEXT PRIMARY KEY, name TEXT, kind TEXT);
  CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id TEXT NOT NULL, amount INTEGER);
  CREATE TABLE tickets (id TEXT PRIMARY KEY, text TEXT);
  INSERT INTO customers VALUES ('c1', 'Ada', 'sales'), ('c2', 'Bob', 'support');
  INSERT INTO orders VALUES (1, 'c1', 10), (2, 'c1', 20);
  INSERT INTO tickets VALUES ('t1', 'help');
`;

const UNIFIED = `-- migrate:up
CREATE TABLE parties (id TEXT PRIMARY KEY NOT NULL, name TEXT, kind TEXT);
CREATE TABLE party_orders (id INTEGER PRIMARY KEY NOT NULL, party_id TEXT NOT NULL, amount INTEGER);
CREATE TABLE cases (id TEXT PRIMARY KEY NOT NULL, text TEXT);
-- migrate:down
DROP TABLE cases;
DROP TABLE party_orders;
DROP TABLE parties;
`;

export const START = Date.parse("2026-11-23T12:00:00.000Z");

/** A clock that stands still until it is told to go on. */
export class ManualClock implements Clock {
  time = START;
  private ids = 0;

  now(): number {
    return this.time;
  }
  monotonic(): number {
    return performance.now();
  }
  random(): number {
    return 0.5;
  }
  id(): string {
    this.ids += 1;
    return `id-${this.ids}`;
  }
  async sleep(): Promise<void> {
    this.time += 100;
  }
  minutes(count: number): void {
    this.time += count * 60_000;
  }
  iso(): string {
    return new Date(this.time).toISOString();
  }
}

export interface ShopOptions {
  /** Default: SQLite. */
  readonly backend?: Backend;
  /** False leaves it as hive has never touched it. */
  readonly migrated?: boolean;
  readonly signal?: Signal;
}

export interface Shop extends AsyncDisposable {
  readonly url: string;
  /** Where its mapping's `migrations` are. */
  readonly directory: string;
  readonly clock: ManualClock;
  readonly context: Context;
  /** Another context on the same database. */
  open(options?: {
    signal?: Signal;
    settings?: Partial<Settings>;
    mapping?: PlatformMapping;
  }): Context & AsyncDisposable;
  /** As any other process would write: plain SQL, past hive. */
  sql(text: string): void;
  all(text: string): Record<string, unknown>[];
  /** The facts that the guards ask for, as a backfill and a check that found this much drift leave them. */
  finishBackfill(agent: string, state?: string): void;
  check(agent: string, drift?: number): void;
  /** Flags as SQL writes them, past the guards. */
  place(agent: string, stage: Stage): void;
  stage(agent: string): string;
}

/** The shop's database, with its migrations in a folder of the running test. */
export async function openShop({ backend = sqlite, migrated = true, signal }: ShopOptions = {}): Promise<Shop> {
  const directory = temporaryDirectory();
  const migrations = join(directory, "migrations");
  mkdirSync(migrations);
  writeFileSync(join(migrations, "0001_shop.sql"), UNIFIED);
  const mapping: PlatformMapping = { ...shopMapping, migrations };
  const clock = new ManualClock();
  // Where that takes long, it is done once.
  const copied = migrated && signal === undefined && backend.name === "postgres";
  const place = await backend.create({
    rows: LEGACY,
    ...(copied && {
      prepare: {
        name: "shop",
        make: async (url) => {
          await using first = testContext(url, { mapping, clock: new ManualClock() });
          await migrateUp(first);
        },
      },
    }),
  });
  const open: Shop["open"] = (more = {}) => testContext(place.url, { mapping, clock, ...more });
  const context = open(signal ? { signal } : {});
  if (migrated && !copied) await migrateUp(context);
  /** A row of hive's, or other values for the one of this key. */
  const put = (table: string, key: readonly string[], row: Readonly<Record<string, string | number | null>>) => {
    const columns = Object.keys(row);
    const values = Object.values(row).map((value) => (typeof value === "string" ? `'${value}'` : String(value)));
    const set = columns.map((column) => `${column} = excluded.${column}`);
    place.execute(`INSERT INTO ${table} (${columns.join(", ")}) VALUES (${values.join(", ")})
      ON CONFLICT (${key.join(", ")}) DO UPDATE SET ${set.join(", ")}`);
  };
  return {
    url: place.url,
    directory,
    clock,
    context,
    open,
    sql: place.execute,
    all: place.select,
    finishBackfill: (agent, state = "finished") => {
      for (const { name } of mapping.aggregates) {
        const times = { started_at: clock.iso(), finished_at: state === "running" ? null : clock.iso() };
        const counts = { written: 1, unchanged: 0, quarantined: 0 };
        put("hive_backfill", ["agent", "mapping"], { agent, mapping: name, state, cursor: null, ...times, ...counts });
      }
    },
    check: (agent, drift = 0) => {
      const counts = { compared: 10, identical: 10 - drift, missing: drift, extra: 0, different: 0 };
      put("hive_checks", ["agent"], { agent, at: clock.iso(), ...counts, in_flight: 0, quarantined: 0 });
    },
    place: (agent, stage) => {
      for (const one of STAGES.slice(1, STAGES.indexOf(stage) + 1)) {
        const { flag, value } = settingBetween(STAGES[STAGES.indexOf(one) - 1] ?? "off", one);
        put("hive_flags", ["agent", "flag"], { agent, flag, value: valueText(value), changed_at: clock.iso() });
      }
    },
    stage: (agent) =>
      place
        .select(
          `SELECT flag || '=' || value AS setting FROM hive_flags
           WHERE agent = '${agent}' AND flag IN ('dual-write', 'reads') ORDER BY flag`,
        )
        .map(({ setting }) => setting)
        .join(" "),
    [Symbol.asyncDispose]: () => context.store[Symbol.asyncDispose](),
  };
}
