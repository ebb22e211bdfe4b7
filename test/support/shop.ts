import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import type { Clock, Signal } from "../../src/clock.ts";
import type { Settings } from "../../src/config.ts";
import type { Context } from "../../src/context.ts";
import { STAGES, type Stage, settingBetween, valueText } from "../../src/flags/stages.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import type { DataRow, PlatformMapping } from "../../src/sync/mapping.ts";
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

export interface Shop extends AsyncDisposable {
  readonly path: string;
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

/** The shop's database in a folder of the running test; `migrated: false` leaves it as hive has never touched it. */
export async function openShop(options: { migrated?: boolean; signal?: Signal } = {}): Promise<Shop> {
  const directory = temporaryDirectory();
  const path = join(directory, "shop.db");
  const legacy = new Database(path);
  legacy.pragma("journal_mode = WAL");
  legacy.exec(LEGACY);
  legacy.close();
  const migrations = join(directory, "migrations");
  mkdirSync(migrations);
  writeFileSync(join(migrations, "0001_shop.sqlite.sql"), UNIFIED);
  const mapping: PlatformMapping = { ...shopMapping, migrations };
  const clock = new ManualClock();
  const open: Shop["open"] = (more = {}) => testContext(path, { mapping, clock, ...more });
  const context = open(options.signal ? { signal: options.signal } : {});
  if (options.migrated !== false) await migrateUp(context);
  const db = new Database(path);
  const shop: Shop = {
    path,
    directory,
    clock,
    context,
    open,
    sql: (text) => {
      db.exec(text);
    },
    all: (text) => {
      const rows: unknown[] = db.prepare(text).all();
      return rows.map((row) => Object.fromEntries(Object.entries(row ?? {})));
    },
    finishBackfill: (agent, state = "finished") => {
      for (const { name } of mapping.aggregates) {
        db.prepare("INSERT OR REPLACE INTO hive_backfill VALUES (?, ?, ?, NULL, ?, ?, 1, 0, 0)").run(
          agent,
          name,
          state,
          clock.iso(),
          state === "running" ? null : clock.iso(),
        );
      }
    },
    check: (agent, drift = 0) => {
      db.prepare("INSERT OR REPLACE INTO hive_checks VALUES (?, ?, 10, ?, ?, 0, 0, 0, 0)").run(
        agent,
        clock.iso(),
        10 - drift,
        drift,
      );
    },
    place: (agent, stage) => {
      for (const one of STAGES.slice(1, STAGES.indexOf(stage) + 1)) {
        const { flag, value } = settingBetween(STAGES[STAGES.indexOf(one) - 1] ?? "off", one);
        db.prepare("INSERT OR REPLACE INTO hive_flags VALUES (?, ?, ?, ?)").run(
          agent,
          flag,
          valueText(value),
          clock.iso(),
        );
      }
    },
    stage: (agent) => {
      const rows: unknown[] = db
        .prepare(
          "SELECT flag || '=' || value FROM hive_flags WHERE agent = ? AND flag IN ('dual-write', 'reads') ORDER BY flag",
        )
        .pluck()
        .all(agent);
      return rows.join(" ");
    },
    [Symbol.asyncDispose]: async () => {
      db.close();
      await context.store[Symbol.asyncDispose]();
    },
  };
  return shop;
}
