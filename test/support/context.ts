import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { onTestFinished } from "vitest";
import { type Clock, type Signal, systemClock } from "../../src/clock.ts";
import { CONFIG_DEFAULTS, type Settings } from "../../src/config.ts";
import type { Context } from "../../src/context.ts";
import { postgresAt } from "../../src/storage/postgres.ts";
import { openSqlite } from "../../src/storage/sqlite.ts";
import type { PlatformMapping } from "../../src/sync/mapping.ts";

/** Two agents, one of them registered; one table into one; no migrations of its own. */
export const tinyMapping: PlatformMapping = {
  name: "tiny",
  aggregates: [
    {
      name: "notes",
      legacy: { root: { table: "notes", key: "id", columns: ["body"] }, related: [] },
      unified: { root: { table: "unified_notes", key: "id", columns: { id: "text", text: "text" } }, related: [] },
      agent: () => "writer",
      unifiedAgent: () => "writer",
      owns: () => true,
      up: ({ notes = [] }) => ({ unified_notes: notes.map((row) => ({ id: row.id ?? null, text: row.body ?? null })) }),
      down: ({ unified_notes: notes = [] }) => ({
        notes: notes.map((row) => ({ id: row.id ?? null, body: row.text ?? null })),
      }),
    },
  ],
  agents: [
    {
      name: "writer",
      registration: { agentId: "writer-1", agentType: "writer", capabilities: ["write"], emits: ["note.written"] },
    },
    { name: "reader" },
  ],
  eventTypes: ["note.written", "note.read"],
};

export interface TestContextOptions {
  mapping?: PlatformMapping;
  signal?: Signal;
  clock?: Clock;
  settings?: Partial<Settings>;
  leaseMs?: number;
}

/** A context on an existing SQLite file or PostgreSQL database. `await using context = testContext(path)` closes it. */
export function testContext(path: string, options: TestContextOptions = {}): Context & AsyncDisposable {
  const clock = options.clock ?? systemClock;
  const remote = /^postgres(ql)?:/.test(path);
  const baseDirectory = options.settings?.baseDirectory ?? (remote ? temporaryDirectory() : dirname(path));
  const settings: Settings = { ...CONFIG_DEFAULTS, database: path, ...options.settings, baseDirectory };
  const { busyTimeoutMs } = settings;
  const storeOptions = { busyTimeoutMs, leaseMs: options.leaseMs ?? 15_000, clock, signal: options.signal };
  const store = remote ? postgresAt(path, storeOptions) : openSqlite(path, storeOptions);
  return {
    store,
    mapping: options.mapping ?? tinyMapping,
    settings,
    clock,
    actor: "test@localhost",
    signal: options.signal,
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  };
}

/** An empty folder for the running test, removed when it passed. When it failed, its path is printed and it is kept. */
export function temporaryDirectory(): string {
  const path = mkdtempSync(join(tmpdir(), "hive-test-"));
  onTestFinished(({ task }) => {
    if (task.result?.state === "fail") console.error(`The files of "${task.name}" are kept in ${path}`);
    else rmSync(path, { recursive: true, force: true });
  });
  return path;
}
