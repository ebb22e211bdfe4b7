import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** The files that take longest, longest first: begun last, one of them would be waited for by an idle worker. */
const LONGEST = [
  "simulation/simulation",
  "simulation/mutants",
  "lifecycle/postgres-concurrency",
  "lifecycle/both-databases",
  "lifecycle/writer",
  "lifecycle/flags",
  "fault/postgres-kill",
  "fault/writer",
  "fault/live-kill",
  "fault/kill",
  "live/live-agents",
  "cli/bad-input",
  "lifecycle/migrate",
  "lifecycle/check",
  "lifecycle/rollback-live",
  "lifecycle/sync",
  "lifecycle/check-live",
  "test/readme",
];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification) => {
      const at = LONGEST.findIndex((name) => moduleId.endsWith(`${name}.test.ts`));
      return at < 0 ? LONGEST.length : at;
    };
    return (await super.sort(files)).sort((a, b) => rank(a) - rank(b));
  }
}

/**
 * Where the tests make their databases: in memory, where there is enough and programs may be run from there. They kill
 * processes, not machines, and would wait for a disk thousands of times, each time a database is closed.
 */
function temporaryFolder(): string {
  const memory = "/dev/shm";
  try {
    const { bavail, bsize } = statfsSync(memory);
    if (bavail * bsize < 4e9) return tmpdir();
    const folder = mkdtempSync(join(memory, "hive-test-"));
    const program = join(folder, "program");
    writeFileSync(program, "#!/bin/sh\n", { mode: 0o755 });
    const { status } = spawnSync(program);
    rmSync(folder, { recursive: true });
    return status === 0 ? memory : tmpdir();
  } catch {
    return tmpdir();
  }
}

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: "test/support/postgres-setup.ts",
    // Real databases, processes and terminals: each file gets a process of its own.
    pool: "forks",
    maxWorkers: 2,
    sequence: { sequencer: LongestFirst },
    env: { TMPDIR: process.env.TMPDIR ?? temporaryFolder() },
    testTimeout: 60_000,
    hookTimeout: 60_000,
    dangerouslyIgnoreUnhandledErrors: false,
    passWithNoTests: false,
  },
});
