import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { buildSimulation, simulate } from "./harness.ts";

const SEEDS = 2_000;
/** Processes at once. */
const PROCESSES = 2;

const folder = mkdtempSync(join(tmpdir(), "hive-simulation-"));
beforeAll(() => buildSimulation(folder));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("a seed replays exactly", async () => {
  for (const seed of [3, 17, 60, 196]) {
    const [first, second] = await Promise.all([
      simulate(folder, "--seed", String(seed)),
      simulate(folder, "--seed", String(seed)),
    ]);
    expect(first.turns).toBeGreaterThan(10);
    expect({ hash: second.hash, turns: second.turns }).toEqual({ hash: first.hash, turns: first.turns });
  }
});

test(`the guarantees hold in ${SEEDS} seeds`, { timeout: 600_000 }, async () => {
  const each = SEEDS / PROCESSES;
  const parts = await Promise.all(
    Array.from({ length: PROCESSES }, (_, i) =>
      simulate(folder, "--seeds", String(each), "--from", String(1 + i * each)),
    ),
  );
  const failed = parts.flatMap((part) => part.failed);
  expect(failed.map(({ seed, problem }) => `npm run simulate -- --seed ${seed}: ${problem}`)).toEqual([]);
  // What never happened has not been tested.
  const seen = (what: string) => parts.reduce((sum, part) => sum + (part.seen[what] ?? 0), 0);
  for (const what of ["sync", "backfill", "check --repair", "rollback", "crashes", "conflicts", "to complete"]) {
    expect(seen(what), what).toBeGreaterThan(SEEDS / 10);
  }
  expect(seen("back from complete")).toBeGreaterThan(SEEDS / 50);
});
