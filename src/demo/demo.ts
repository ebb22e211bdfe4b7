import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Clock } from "../clock.ts";
import { HiveError } from "../errors.ts";
import { initConfig } from "../init.ts";
import { type SamplePlatform, samplePlatform } from "../presets/hive/sample.ts";
import * as story from "../presets/hive/sample-story.ts";
import type { DemoResult } from "../results.ts";
import * as schemas from "../results.ts";
import type { Store, Value } from "../storage/port.ts";
import { id, script, sql } from "../storage/sql.ts";

/** Shows the journey to whoever watches, and types hive's commands for them. */
export interface Presenter {
  title(text: string): void;
  /** A paragraph between commands. */
  say(text: string): void;
  /** A command line that is none of hive's, only shown. */
  shell(line: string): void;
  /** Runs a command line of hive in this folder and shows both; `result` is null where there is none. */
  hive(argv: readonly string[], folder: string): Promise<{ exit: number; result: unknown }>;
  /** A statement that somebody types into the database, and the rows that it gives. */
  sql(text: string, rows?: readonly (readonly Value[])[], head?: readonly string[]): Promise<void>;
  /** Time to read; none where nobody reads. */
  pause(): Promise<void>;
}

export interface DemoOptions {
  presenter: Presenter;
  /** Must be empty or not exist. Default: a new folder among the temporary ones. */
  directory?: string | undefined;
  /** Rows of the largest table. Default 3,000; at least 500. */
  tasks?: number | undefined;
  seed?: number | undefined;
  abort?: AbortSignal | undefined;
}

/** What the demo gets besides. */
export interface DemoTools {
  openStore(path: string): Store;
  clock: Clock;
}

export const DEMO_TASKS = 3_000;
const FEWEST_TASKS = 500;
const DATABASE = "platform.db";

/** A step did not come out as it should: the journey ends there. */
class Unexpected extends Error {}

function expect(holds: boolean, otherwise: string): asserts holds {
  if (!holds) throw new Unexpected(otherwise);
}

/** The shape of a result, to read it with. */
interface Shape<T> {
  parse(value: unknown): T;
}

const count = (value: number): string => String(value).replace(/\B(?=(\d{3})+$)/g, ",");

/**
 * Builds a sample platform and walks through its migration and back, every step judged by what it should come to. The
 * database and a config stay where they are. A step that fails ends the journey: it is the last one, with `ok` false.
 * @throws USAGE where the folder cannot be used; INTERRUPTED, saying where the data is
 */
export async function demo(options: DemoOptions, tools: DemoTools): Promise<DemoResult> {
  const directory = folderFor(options.directory);
  const journey = new Journey(directory, options, tools);
  const begun = tools.clock.monotonic();
  try {
    await journey.walk();
  } catch (error) {
    if (!(error instanceof Unexpected)) throw error;
  }
  return {
    directory,
    database: journey.database,
    steps: journey.steps,
    seconds: Math.round(tools.clock.monotonic() - begun) / 1000,
  };
}

function folderFor(named: string | undefined): string {
  if (named === undefined) return mkdtempSync(join(tmpdir(), "hive-demo-"));
  const directory = resolve(named);
  let entries: string[];
  try {
    mkdirSync(directory, { recursive: true });
    entries = readdirSync(directory);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new HiveError("USAGE", `${directory} cannot be used for the demo: ${why}.`, { cause: error });
  }
  if (entries.length === 0) return directory;
  throw new HiveError("USAGE", `${directory} is not empty; nothing was written.`, {
    hint: "Name an empty folder or a new one, or none: then the demo makes one.",
    details: { directory },
  });
}

class Journey {
  readonly database: string;
  readonly steps: DemoResult["steps"] = [];
  private readonly directory: string;
  private readonly options: DemoOptions;
  private readonly tools: DemoTools;
  private readonly presenter: Presenter;
  private readonly sample: SamplePlatform;

  constructor(directory: string, options: DemoOptions, tools: DemoTools) {
    this.directory = directory;
    this.database = join(directory, DATABASE);
    this.options = options;
    this.tools = tools;
    this.presenter = options.presenter;
    const tasks = Math.max(FEWEST_TASKS, options.tasks ?? DEMO_TASKS);
    this.sample = samplePlatform({ tasks, seed: options.seed ?? 1, dirt: true });
  }

  async walk(): Promise<void> {
    const { AGENT } = story;
    this.presenter.title("A platform in its legacy shape");
    const { waiting, finished } = await this.step("build", () => this.build());
    const before = await this.fingerprint(waiting);
    this.presenter.say(
      `Its agents are programs that write plain SQL. In ${this.directory} is the platform's database and a ` +
        "hive.config.json that names it, so that hive, called there, needs no options.",
    );
    this.presenter.shell(`cd ${this.directory}`);
    const others = await this.step("status of a database that hive has never touched", async () => {
      const status = await this.hive(["status"], schemas.status);
      expect(!status.database.touched && status.phase === "none", "hive says that it has touched the database");
      const names = status.agents.map(({ agent }) => agent).filter((agent) => agent !== AGENT);
      return ["reads only, and says what to do next", names] as const;
    });
    await this.presenter.pause();

    this.presenter.title("Expand: the new tables, beside the old ones");
    await this.step("migrate up", async () => {
      const { applied, pending } = await this.hive(["migrate", "up"], schemas.migrateUp);
      expect(applied.length > 0 && pending.length === 0, "not every migration was applied");
      return `${applied.length} migrations applied`;
    });
    await this.step("verify", async () => {
      const verified = await this.hive(["verify"], schemas.verify);
      expect(verified.ok, "a check failed");
      return `${verified.checks.length} checks, all ok`;
    });
    await this.presenter.pause();

    this.presenter.title("Flags: one agent at a time");
    this.presenter.say(
      `Every agent has flags, and they make its stage. We begin with ${AGENT}: first its events, then dual-write. ` +
        "Nobody else is touched.",
    );
    await this.step("flags enable", async () => {
      const events = await this.hive(["flags", "enable", AGENT], schemas.flagsChange);
      const written = await this.hive(["flags", "enable", AGENT, "--flag", "dual-write"], schemas.flagsChange);
      expect(events.changed.length === 1 && written.changed.length === 1, "a flag was not changed");
      return `${AGENT}: unified-events and dual-write are on`;
    });
    this.presenter.say("Too eager? Each step is guarded by facts, and a refusal says which one is missing:");
    await this.step("a step that is not safe yet is refused", async () => {
      const refused = await this.presenter.hive(["flags", "set", AGENT, "reads=shadow"], this.directory);
      this.assertNotInterrupted(refused.exit);
      expect(refused.exit === 4, `it ended with ${refused.exit}, not 4`);
      return "reads=shadow before a backfill: exit code 4, nothing changed";
    });
    await this.presenter.pause();

    this.presenter.title("Backfill: what existed before");
    const aside = await this.step("backfill", async () => {
      const { aggregates, resumed } = await this.hive(["backfill"], schemas.backfill);
      const { written, quarantined, total } = aggregates;
      expect(!resumed && written + quarantined === total, "some aggregates were passed over");
      return [
        `${count(written)} of ${count(total)} aggregates written, ${quarantined} quarantined`,
        quarantined,
      ] as const;
    });
    this.presenter.say("One bad row never stops the rest. What cannot be moved is set aside, with its reason:");
    await this.step("quarantine list", async () => {
      const { entries } = await this.hive(["quarantine", "list"], schemas.quarantineList);
      expect(entries.length === aside, `${entries.length} entries, not ${aside}`);
      expect(entries.length > 0 && entries.every(({ reason }) => reason !== ""), "an entry has no reason");
      return `${entries.length} entries, each with its reason`;
    });
    await this.step("backfill again", async () => {
      const { aggregates } = await this.hive(["backfill"], schemas.backfill);
      expect(aggregates.written === 0, `${aggregates.written} were written a second time`);
      return "0 written: it can be run again at any time";
    });
    await this.presenter.pause();

    this.presenter.title("Check: are both sides the same?");
    await this.step("check", async () => {
      const found = await this.hive(["check"], schemas.check);
      expect(found.consistent && found.identical > 0, "there is drift");
      return `${count(found.identical)} identical, no drift`;
    });
    this.presenter.say("Those who write on one side only are compared when they are named:");
    await this.step("check of all the others", async () => {
      const found = await this.hive(["check", ...others], schemas.check);
      expect(found.consistent && found.identical + found.quarantined === found.compared, "there is drift");
      expect(found.quarantined === aside, `${found.quarantined} quarantined, not ${aside}`);
      return `${count(found.identical)} identical, ${found.quarantined} quarantined, no drift`;
    });
    await this.presenter.pause();

    this.presenter.title("An accident");
    this.presenter.say("Somebody tidies up by hand, on the unified side, past hive:");
    const [changed = "", deleted = ""] = finished;
    const accident = story.carelessHands(changed, deleted);
    await this.step("drift is made by hand", async () => {
      await this.typed(accident);
      return "a value changed, a row deleted, a row made up";
    });
    await this.step("check finds the drift", async () => {
      const found = await this.hive(["check"], schemas.check, 3);
      const { different, missing, extra } = found;
      const all = `${different} different, ${missing} missing, ${extra} extra`;
      expect(different === 1 && missing === 1 && extra === 1, all);
      const keys = found.drift.map(({ key }) => key).sort();
      expect(String(keys) === String([changed, deleted, story.HAND_MADE].sort()), `the drift is of ${keys.join(", ")}`);
      return `${all}; exit code 3, for scripts`;
    });
    this.presenter.say(`The legacy side still has the authority over ${AGENT}'s rows, so repair goes by it:`);
    await this.step("check --repair mends it", async () => {
      const found = await this.hive(["check", "--repair"], schemas.check);
      expect(found.consistent && found.repaired === 3, `${found.repaired} repaired, not 3`);
      return "3 repaired from the legacy side";
    });
    await this.presenter.pause();

    this.presenter.title("Stages: shadow, then live");
    this.presenter.say(
      "In shadow, both sides are read and compared, and legacy answers. In live, the unified side answers and has " +
        "the authority; it needs a finished backfill and a fresh, consistent check, made in shadow.",
    );
    await this.step("stages shadow and live", async () => {
      await this.hive(["flags", "set", AGENT, "reads=shadow"], schemas.flagsChange);
      await this.hive(["check", AGENT], schemas.check);
      await this.hive(["flags", "set", AGENT, "reads=live"], schemas.flagsChange);
      const { agents } = await this.hive(["status"], schemas.status);
      const stage = agents.find(({ agent }) => agent === AGENT)?.stage;
      expect(stage === "live", `${AGENT} is at ${stage}`);
      return `${AGENT} is at live; the others stayed where they were`;
    });
    await this.presenter.pause();

    this.presenter.title("Work goes on, and then: back");
    this.presenter.say(`${AGENT}, now writing on the unified side, decides a review, scores it and opens another one:`);
    await this.step("written on the unified side", async () => {
      await this.typed(story.liveWrites(waiting));
      return "a review decided and scored, a new one opened";
    });
    this.presenter.say("Then somebody has a doubt. Going back is one command, at any stage, and nothing may be lost:");
    await this.step("rollback", async () => {
      const command = ["rollback", "--agent", AGENT, "--yes", "--reason", "in doubt about the scores"];
      const { stage, projectedDown, kept } = await this.hive(command, schemas.rollback);
      expect(stage === "off" && projectedDown === 2, `at ${stage}, ${projectedDown} written back`);
      expect(kept > 0, "the score, for which the legacy tables have no column, was not kept");
      return `back at off; ${projectedDown} reviews written back, ${kept} kept whole in hive_kept`;
    });
    this.presenter.say("The legacy side has what was written while the unified side led:");
    await this.step("nothing was lost", async () => {
      const question = story.afterwards(waiting);
      const rows = await this.ask(question);
      await this.presenter.sql(question.query, rows, question.head);
      expect(rows.length === 2, `the legacy side has ${rows.length} of the 2 reviews`);
      const status = rows.find(([key]) => key === waiting)?.[2];
      expect(status === "approved", `the review that was decided is ${String(status)}`);
      return "the decided review and the new one are in the legacy tables";
    });
    await this.presenter.pause();

    this.presenter.title("Proof");
    await this.step("audit log", async () => {
      const { ok, entries } = await this.hive(["audit", "verify"], schemas.auditVerify);
      expect(ok && entries > 0, "the audit log is not whole");
      return `${entries} entries, each chained to the one before`;
    });
    await this.step("the legacy side is untouched", async () => {
      const after = await this.fingerprint(waiting);
      expect(after.schema === before.schema, "the shape of a legacy table has changed");
      expect(after.rows === before.rows, "the number of rows has changed");
      expect(after.hash === before.hash, "a row has changed");
      return `${count(after.rows)} other legacy rows, every value as before (sha256 ${after.hash.slice(0, 12)}…)`;
    });
  }

  /** Notes how a step came out; one that did not come out as it should ends the journey. */
  private step(name: string, work: () => Promise<string>): Promise<undefined>;
  private step<T>(name: string, work: () => Promise<readonly [string, T]>): Promise<T>;
  private async step<T>(name: string, work: () => Promise<string | readonly [string, T]>): Promise<T | undefined> {
    this.assertNotInterrupted();
    const { clock } = this.tools;
    const begun = clock.monotonic();
    const note = (ok: boolean, detail: string) => {
      this.steps.push({ step: name, ok, detail, durationMs: Math.round(clock.monotonic() - begun) });
    };
    try {
      const outcome = await work();
      if (typeof outcome === "string") {
        note(true, outcome);
        return undefined;
      }
      note(true, outcome[0]);
      return outcome[1];
    } catch (error) {
      if (!(error instanceof Unexpected)) throw error;
      note(false, error.message);
      this.presenter.say(`That is not what should have come out: ${error.message}.`);
      throw error;
    }
  }

  private async hive<T>(argv: readonly string[], shape: Shape<T>, exit = 0): Promise<T> {
    const ended = await this.presenter.hive(argv, this.directory);
    this.assertNotInterrupted(ended.exit);
    expect(ended.exit === exit, `hive ${argv.join(" ")} ended with ${ended.exit}, not ${exit}`);
    return shape.parse(ended.result);
  }

  private async build() {
    writeFileSync(this.database, "", { flag: "wx" });
    await initConfig({
      file: join(this.directory, "hive.config.json"),
      database: `sqlite:./${DATABASE}`,
      mapping: "hive",
      cwd: this.directory,
    });
    const { sample } = this;
    await using store = this.tools.openStore(this.database);
    await store.transaction(
      "demo build",
      async (tx) => {
        for (const statement of sample.schema) await tx.script(statement);
        for (const { table, columns, chunks } of sample.tables) {
          for (const rows of chunks()) {
            this.assertNotInterrupted();
            await tx.insert(table, columns, rows);
          }
        }
      },
      { before: (session) => session.script(sample.setup) },
    );
    const answer = async ({ query }: story.Question) => store.read.tuples(script(query));
    const [counts = []] = await answer(story.COUNTS);
    const [waiting] = (await answer(story.WAITING)).map(([key]) => String(key));
    const finished = (await answer(story.FINISHED)).map(([key]) => String(key));
    expect(waiting !== undefined && finished.length === 2, "the sample has too few reviews for the demo");
    const held = story.COUNTS.head.map((table, i) => `${count(Number(counts[i]))} ${table}`).join(", ");
    this.presenter.say(`Built: ${held}, and dirt of every kind that was ever seen.`);
    return [held, { waiting, finished }] as const;
  }

  /** Statements past hive, as somebody at a prompt would type them. */
  private async typed({ statements }: story.Typed): Promise<void> {
    await using store = this.tools.openStore(this.database);
    for (const statement of statements) {
      await this.presenter.sql(statement);
      await store.transaction("demo", (tx) => tx.script(statement));
    }
  }

  private async ask({ query }: story.Question): Promise<Value[][]> {
    await using store = this.tools.openStore(this.database);
    return store.read.tuples(script(query));
  }

  /** Of all legacy rows but those that the demo changes on purpose, and of the tables' shapes. In no order. */
  private async fingerprint(changed: string): Promise<{ rows: number; hash: string; schema: string }> {
    await using store = this.tools.openStore(this.database);
    const shapes: string[] = [];
    const digests: string[] = [];
    for (const { table } of this.sample.tables) {
      shapes.push(JSON.stringify(await store.table(table)));
      for (const row of await store.read.tuples(sql`SELECT * FROM ${id(table)}`)) {
        if (!story.changedOnPurpose(table, row, changed)) digests.push(digest(table, row));
      }
    }
    const hash = createHash("sha256");
    for (const one of digests.sort()) hash.update(one);
    return { rows: digests.length, hash: hash.digest("hex"), schema: shapes.join("\n") };
  }

  /** After a command that was interrupted, and between two steps. */
  private assertNotInterrupted(exit = 0): void {
    if (exit !== 130 && !this.options.abort?.aborted) return;
    throw new HiveError("INTERRUPTED", `The demo was interrupted. Its database is ${this.database}.`, {
      hint: `Look around in it: cd ${this.directory}, then hive status. Or delete the folder.`,
      details: { directory: this.directory, database: this.database },
    });
  }
}

/** Values by their type: 1, 1.0 and '1' are three things. */
function digest(table: string, row: readonly Value[]): string {
  const typed = row.map((value) => (typeof value === "bigint" ? `i${value}` : value === null ? null : [value]));
  return createHash("sha256")
    .update(`${table} ${JSON.stringify(typed)}`)
    .digest("hex");
}
