// biome-ignore-all lint/suspicious/noTemplateCurlyInString: pieces of built code, as they stand there
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { buildSimulation, simulate } from "./harness.ts";

/**
 * Deliberate faults in the engine as it is built. Each has to be caught by the simulation within some hundred seeds, on which the engine as it is does nothing wrong: a
 * simulation that finds nothing proves nothing.
 */

interface Fault {
  readonly name: string;
  /** A seed that catches it. */
  readonly known: number;
  /** Of the built sources. */
  readonly file: string;
  /** Has to be there exactly once. */
  readonly search: string;
  readonly replacement: string;
}

const FAULTS: readonly Fault[] = [
  {
    name: "capture is put up when the flip has committed",
    known: 146,
    file: "flags/flags.js",
    search: `        await adjustCapture(tx, context, before);
        return done;
    }, { exclusive: true });
`,
    replacement: `        globalThis.late = before;
        return done;
    }, { exclusive: true });
    if (result !== null) {
        const { late } = globalThis;
        await context.clock.sleep(150);
        await store.transaction("capture", (tx) => adjustCapture(tx, context, late));
    }
`,
  },
  {
    name: "the unified side is not captured while it leads",
    known: 4,
    file: "sync/capture.js",
    search: 'unified: stages.some((stage) => authorityOf(stage) === "unified"),',
    replacement: "unified: false,",
  },
  {
    name: "the mark of hive's own writes is left behind",
    known: 1,
    file: "storage/sqlite-connection.js",
    search: "this.runSync(sql `DELETE FROM hive_applying WHERE rowid = (SELECT max(rowid) FROM hive_applying)`);",
    replacement: "",
  },
  {
    name: "sync applies what has moved since it was decided",
    known: 19,
    file: "sync/reconcile.js",
    search: "const still = !moved.has(nameOf(source, key)) && !plan.window.unnoted;",
    replacement: "const still = true;",
  },
  {
    name: "what was read before the lock was taken is not read again where others have written since",
    known: 253,
    file: "storage/sqlite.js",
    search: "takeWriteLock(connection);\n            ",
    replacement: 'connection.exec("COMMIT"); connection.exec("BEGIN IMMEDIATE");\n',
  },
  {
    name: "changes are taken out of the log that were not applied",
    known: 19,
    file: "sync/reconcile.js",
    search: "await consume(later, [...valid.flatMap(({ change }) => change.seqs), ...plan.settled]);",
    replacement: "await consume(later, [...plan.decisions.flatMap(({ change }) => change.seqs), ...plan.settled]);",
  },
  {
    name: "the newest number of the log is given again",
    known: 75,
    file: "sync/changes.js",
    search:
      "await tx.run(sql `UPDATE hive_changes SET side = NULL WHERE seq = (SELECT max(seq) FROM hive_changes) AND seq IN ${among(some)}`);",
    replacement: "await tx.run(sql `DELETE FROM hive_changes WHERE seq IN ${among(some)}`);",
  },
  {
    name: "a flip does not settle what waits (the fence is removed)",
    known: 1,
    file: "flags/flags.js",
    search: "const rest = areAny(before) ? await settleRest(tx, context, known, givesBack) : NOTHING;",
    replacement: "const rest = NOTHING;",
  },
  {
    name: "rows that a REPLACE takes away are not captured",
    known: 4,
    file: "sync/capture-sqlite.js",
    search: 'add("replace", "BEFORE INSERT", replaced(() => []));',
    replacement: "",
  },
  {
    name: "of a key that changes, only the new one is captured",
    known: 106,
    file: "sync/capture-sqlite.js",
    search: 'return [note(key, after, "", []), note(key, before, "", [`${before} COLLATE BINARY IS NOT ${after}`])];',
    replacement: 'return [note(key, after, "", [])];',
  },
  {
    name: "deletes are not captured",
    known: 2,
    file: "sync/capture-sqlite.js",
    search: 'add("delete", "AFTER DELETE", keys.map((key) => note(key, `OLD.${quoted(key.column)}`, "", [])));',
    replacement: "",
  },
  {
    name: "a conflict is decided for the side that follows",
    known: 4,
    file: "sync/reconcile.js",
    search: "if (leading.length === 0) {",
    replacement: "if (leading.length === 0 || (change.legacy && change.unified)) {",
  },
  {
    name: "of a conflict, nothing is kept",
    known: 4,
    file: "sync/reconcile.js",
    search: "for (const { side, loaded, reason } of keeping)",
    replacement: "for (const { side, loaded, reason } of [])",
  },
  {
    name: "what was written at complete is not carried down when the agent goes back",
    known: 41,
    file: "sync/reconcile.js",
    search: "SELECT 'unified', source, key, ${tx.dialect.julianNow} FROM hive_behind",
    replacement: "SELECT 'unified', source, key, ${tx.dialect.julianNow} FROM hive_behind WHERE false",
  },
  {
    name: "what was written while triggers were missing is not looked for",
    known: 777,
    file: "sync/sync.js",
    search: "const table = keyTables(this.layouts, name)[position];",
    replacement: "const table = undefined;",
  },
  {
    name: "going back does not keep what the legacy side cannot hold",
    known: 4,
    file: "sync/settle.js",
    search: 'kept += await keep(tx, context, pager, unified, agent, "unified", reason);',
    replacement: "kept += 0;",
  },
  {
    name: "what is stuck under one mapping of a key is forgotten when another one has the key",
    known: 840,
    file: "sync/reconcile.js",
    search: "unified: change.unified || behind || stuck.length > 0,",
    replacement: 'unified: change.unified || behind || page.inQuarantine.get(key) === "down",',
  },
  {
    name: "rows that outlived their root are taken for those of a new one",
    known: 36,
    file: "sync/settle.js",
    search: 'if (changes.some(({ table, action }) => table === root.table && action === "insert")) {',
    replacement: "if (false) {",
  },
];

const MOST_SEEDS = 150;
/** Each has a process of its own. */
vi.setConfig({ maxConcurrency: 2 });

const folder = mkdtempSync(join(tmpdir(), "hive-mutants-"));
beforeAll(() => buildSimulation(folder));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const run = (...options: string[]) => simulate(folder, ...options);

describe.concurrent("the simulation catches it when", () => {
  for (const [number, { name, known, file, search, replacement }] of FAULTS.entries()) {
    test(name, { timeout: 600_000 }, async () => {
      const place = join(folder, `fault-${number}`);
      cpSync(join(folder, "src"), join(place, "src"), { recursive: true });
      for (const link of ["migrations", "node_modules", "package.json"]) {
        symlinkSync(join(folder, link), join(place, link));
      }
      const path = join(place, "src", file);
      const parts = readFileSync(path, "utf8").split(search);
      expect(parts, `${file} has to have this once: ${search}`).toHaveLength(2);
      writeFileSync(path, parts.join(replacement));
      const engine = ["--engine", join(place, "src")];
      // After edits of the simulation, it may be another seed: those after it are tried too.
      const { failed } = await run(...engine, "--from", String(known), "--seeds", String(MOST_SEEDS), "--stop");
      const [caught] = failed;
      if (!caught) throw new Error(`Not caught in ${MOST_SEEDS} seeds from ${known} on.`);
      // Otherwise it was something else that was caught.
      const sound = await run("--seed", String(caught.seed));
      expect(sound.failed.map(({ seed, problem }) => `${seed}: ${problem}`)).toEqual([]);
      rmSync(place, { recursive: true, force: true });
    });
  }
});
