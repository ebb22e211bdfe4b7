import { createHash } from "node:crypto";
import { accessSync, chmodSync, constants, mkdirSync, mkdtempSync, readdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Clock } from "../clock.ts";
import { HiveError } from "../errors.ts";
import { initConfig } from "../init.ts";
import * as live from "../presets/hive/demo-agents.ts";
import { type SamplePlatform, samplePlatform } from "../presets/hive/sample.ts";
import * as story from "../presets/hive/sample-story.ts";
import type { DemoResult } from "../results.ts";
import * as schemas from "../results.ts";
import type { Store, Transaction, Value } from "../storage/port.ts";
import { id, script, sql } from "../storage/sql.ts";
import { AgentFailure, Agents, type Work } from "./agents.ts";

/** Shows the journey to whoever watches, and types hive's commands for them. */
export interface Presenter {
  title(text: string): void;
  /** A paragraph between commands. */
  say(text: string): void;
  /** A command line that is none of hive's, only shown. */
  shell(line: string): void;
  /** Runs a command line of hive in this folder and shows both; `result` is null where there is none. */
  hive(argv: readonly string[], folder: string): Promise<{ exit: number; result: unknown }>;
  /** Starts a command line of hive that stays, as if in another terminal. Comes back when it has begun its work. */
  watch(argv: readonly string[], folder: string): Promise<Watching>;
  /** A line about how the agents fare. */
  agents(text: string): void;
  /** A statement that somebody types into the database, and the rows that it gives. */
  sql(text: string, rows?: readonly (readonly Value[])[], head?: readonly string[]): Promise<void>;
  /** Time to read; none where nobody reads. */
  pause(): Promise<void>;
}

/** A command that stays. */
export interface Watching {
  /** When it ends, by itself or not. */
  readonly ended: Promise<{ exit: number; result: unknown }>;
  /** As Ctrl-C does; shows how it ended. */
  stop(): Promise<{ exit: number; result: unknown }>;
}

export interface DemoOptions {
  presenter: Presenter;
  /** Must be empty or not exist. Default: a new folder among the temporary ones. */
  directory?: string | undefined;
  /** The URL of a PostgreSQL database without tables, for the platform. Default: a SQLite file in the folder. */
  database?: string | undefined;
  /** Rows of the largest table. Default 1,000; at least 200. */
  tasks?: number | undefined;
  seed?: number | undefined;
  abort?: AbortSignal | undefined;
  /** Where the agents find python3. Default: the environment of this process. */
  env?: Readonly<Record<string, string | undefined>> | undefined;
}

/** What the demo gets besides. */
export interface DemoTools {
  /** By the path of a SQLite file, or the URL of a PostgreSQL database. */
  openStore(database: string): Promise<Store>;
  clock: Clock;
}

export const DEMO_TASKS = 1_000;
const FEWEST_TASKS = 200;
const DATABASE = "platform.db";
/** What the agents send: their programs read it from there. */
const WORK = "agents.json";
/** Of each agent, before hive is called for the first time. */
const STATEMENTS_BEFORE = 15;
const LOOK_EVERY_MS = 50;
const ENDED_BY_ITSELF = "hive sync --watch has ended by itself";

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
const ms = (value: number): string => (value < 10 ? value.toFixed(1) : String(Math.round(value)));

/**
 * Builds a sample platform, lets agents write to it, and walks through its migration and back, every step judged by what
 * it should come to. The database and a config stay where they are; the agents end with the journey. A step that fails
 * ends it: it is the last one, with `ok` false.
 * @throws USAGE where the folder cannot be used; GUARD_REFUSED where the database has tables; INTERRUPTED, saying where
 *   the data is
 */
export async function demo(options: DemoOptions, tools: DemoTools): Promise<DemoResult> {
  const location = options.database === undefined ? undefined : await emptyDatabase(options.database, tools);
  const directory = folderFor(options.directory);
  const journey = new Journey(directory, location, options, tools);
  const begun = tools.clock.monotonic();
  try {
    await journey.walk();
  } catch (error) {
    if (!(error instanceof Unexpected)) throw error;
  } finally {
    await journey.end();
  }
  return {
    directory,
    database: journey.database,
    steps: journey.steps,
    agents: journey.agentsResult(),
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
    accessSync(directory, constants.W_OK);
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

/** What people may see of its URL. */
async function emptyDatabase(database: string, { openStore }: DemoTools): Promise<string> {
  if (!/^postgres(ql)?:/.test(database)) {
    throw new HiveError("USAGE", "The demo makes a SQLite database of its own; only a PostgreSQL one can be named.", {
      hint: "Name a folder for it, or --database postgres://USER@HOST/DATABASE with a database that has no tables.",
    });
  }
  await using store = await openStore(database);
  const there = await store.read.all(
    sql`SELECT n.nspname AS schema, c.relname AS name FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND n.nspname <> 'information_schema' AND NOT starts_with(n.nspname, 'pg_')
          AND NOT EXISTS (SELECT FROM pg_depend AS d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
        ORDER BY n.nspname, c.relname LIMIT 20`,
  );
  if (there.length === 0) return store.location;
  const tables = there.map((row) => `${row.schema}.${row.name}`);
  throw new HiveError("GUARD_REFUSED", `${store.location} is not empty: it has ${tables[0]}. Nothing was written.`, {
    hint: "The demo makes a platform's tables: name a database that has none, made for it with CREATE DATABASE.",
    details: { tables },
  });
}

class Journey {
  /** A path, or a URL without its password. */
  readonly database: string;
  /** The same, with all that it takes to open it. */
  private readonly target: string;
  private readonly onPostgres: boolean;
  readonly steps: DemoResult["steps"] = [];
  private readonly directory: string;
  private readonly options: DemoOptions;
  private readonly tools: DemoTools;
  private readonly presenter: Presenter;
  private readonly sample: SamplePlatform;
  private agents: Agents | undefined;
  /** Whether they write now. */
  private live = false;
  private watching: Watching | undefined;
  private watchEnded = false;

  constructor(directory: string, location: string | undefined, options: DemoOptions, tools: DemoTools) {
    this.directory = directory;
    this.database = location ?? join(directory, DATABASE);
    this.target = options.database ?? this.database;
    this.onPostgres = options.database !== undefined;
    this.options = options;
    this.tools = tools;
    this.presenter = options.presenter;
    const tasks = Math.max(FEWEST_TASKS, options.tasks ?? DEMO_TASKS);
    const database = this.onPostgres ? "postgres" : "sqlite";
    this.sample = samplePlatform({ tasks, seed: options.seed ?? 1, dirt: true, database });
  }

  async walk(): Promise<void> {
    const { AGENT } = story;
    this.presenter.title("A platform in its legacy shape");
    const { waiting, finished } = await this.step("build", () => this.build());
    const before = await this.fingerprint(waiting);
    this.presenter.say(
      `${this.onPostgres ? `The platform's database is ${this.database}. ` : ""}In ${this.directory} is ` +
        `${this.onPostgres ? "" : "the platform's database and "}a hive.config.json that names it, so that hive, called ` +
        "there, needs no options.",
    );
    this.presenter.shell(`cd ${this.directory}`);
    await this.step("agents at work", async () => {
      const { versions, pids } = await this.startAgents();
      const names = pids.map(({ name, pid }) => `${name} (process ${pid})`).join(", ");
      this.presenter.say(
        `Its agents are at work: ${names}. They are programs of their own (${versions}) that write plain SQL and know ` +
          "nothing of hive. Nobody stops them, whatever follows. How they fare stands below each step:",
      );
      return `${pids.length} processes, ${versions}`;
    });
    await this.step("status of a database that hive has never touched", async () => {
      const status = await this.hive(["status"], schemas.status);
      expect(!status.database.touched && status.phase === "none", "hive says that it has touched the database");
      return "reads only, and says what to do next";
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
    this.presenter.say(
      "From here on, triggers note the key of whatever an agent changes, and sync carries it over. In another terminal:",
    );
    await this.step("sync --watch", async () => {
      this.watching = await this.presenter.watch(["sync", "--watch"], this.directory);
      void this.watching.ended.then(() => {
        this.watchEnded = true;
      });
      await this.tools.clock.sleep(0);
      expect(!this.watchEnded, ENDED_BY_ITSELF);
      return "stays, and carries over what agents write";
    });
    this.presenter.say("The others may follow at once: as long as the legacy side leads, nothing can come of it.");
    await this.step("flags enable --all", async () => {
      const { changed } = await this.hive(["flags", "enable", "--all", "--flag", "dual-write"], schemas.flagsChange);
      expect(changed.length > 0 && changed.every(({ agent }) => agent !== AGENT), "not the flags of the others");
      return `dual-write is on for ${changed.length} more`;
    });
    await this.presenter.pause();

    this.presenter.title("Backfill: what existed before");
    this.presenter.say(
      "It takes its time on purpose: while others write, hive keeps to its lock budget and lets them go first.",
    );
    const aside = await this.step("backfill", async () => {
      const { aggregates, resumed } = await this.hive(["backfill"], schemas.backfill);
      const { written, unchanged, quarantined, total } = aggregates;
      expect(!resumed && written + unchanged + quarantined === total, "some aggregates were passed over");
      // Sync may have been there first, but only where agents write.
      await this.agents?.ask();
      expect(unchanged <= this.rowsOfAgents(), `${unchanged} were there already`);
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
      const { written } = (await this.hive(["backfill"], schemas.backfill)).aggregates;
      await this.agents?.ask();
      expect(written <= this.rowsOfAgents(), `${written} were written a second time`);
      const what = written === 0 ? "0 written" : `only ${written} written, of the agents' newest`;
      return `${what}: it can be run again at any time`;
    });
    await this.presenter.pause();

    this.presenter.title("Check: are both sides the same?");
    this.presenter.say("What an agent has written this moment, and sync has not carried over yet, is counted apart:");
    await this.step("check", async () => {
      const found = await this.hive(["check"], schemas.check);
      const { identical, inFlight, quarantined, compared } = found;
      expect(found.consistent && identical + inFlight + quarantined === compared, "there is drift");
      expect(quarantined === aside, `${quarantined} quarantined, not ${aside}`);
      return `${count(identical)} identical, ${inFlight} awaiting sync, ${quarantined} quarantined, no drift`;
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
      return `${all}, and nothing of what the agents write; exit code 3, for scripts`;
    });
    this.presenter.say("The legacy side still has the authority over all rows, so repair goes by it:");
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
    await this.step("the agents' writes are on both sides", async () => {
      await this.agents?.ask();
      const written = new Map(this.agents?.written);
      const unified = new Map([...written].filter(([key]) => live.hasUnifiedPlace(key)));
      expect(await this.hasWrites(written, live.AGENTS_LEGACY_ROWS), "an acknowledged write is not on the legacy side");
      await this.until(() => this.hasWrites(unified, live.AGENTS_UNIFIED_ROWS));
      this.presenter.say(
        `The old programs notice nothing: they still write ${AGENT}'s rows on the legacy side, and sync carries that over ` +
          `too. Of the ${count(written.size)} rows that the agents have written so far, every one is where it belongs, ` +
          `${count(unified.size)} on both sides.`,
      );
      return `${count(written.size)} rows on the legacy side, ${count(unified.size)} of them on both`;
    });
    await this.presenter.pause();

    this.presenter.title("Work goes on, and then: back");
    this.presenter.say("Somebody new writes on the unified side: decides a review, scores it and opens another one.");
    await this.step("written on the unified side", async () => {
      await this.typed(story.liveWrites(waiting));
      return "a review decided and scored, a new one opened";
    });
    const question = story.afterwards(waiting);
    const isThere = (rows: readonly (readonly Value[])[]) =>
      rows.length === 2 && rows.some(([key, , status]) => key === waiting && status === "approved");
    this.presenter.say("Programs that only know the legacy side see it too, for sync goes both ways now:");
    await this.step("sync carries it to the legacy side", async () => {
      let rows: Value[][] = [];
      await this.until(async () => {
        rows = await this.ask(question);
        return isThere(rows);
      });
      await this.presenter.sql(question.query, rows, question.head);
      return "the decided review and the new one are in the legacy tables";
    });
    this.presenter.say(
      "Then somebody has a doubt. Going back is one command, for one agent or for all, at any stage, and nothing may be lost:",
    );
    await this.step("rollback", async () => {
      const command = ["rollback", "--yes", "--reason", "in doubt about the scores"];
      const { stage, kept } = await this.hive(command, schemas.rollback);
      expect(stage === "off", `at ${stage}`);
      expect(kept > 0, "the score, for which the legacy tables have no column, was not kept");
      return `back at off; ${kept} kept whole in hive_kept, since legacy has no column for a score`;
    });
    await this.step("nothing was lost", async () => {
      expect(isThere(await this.ask(question)), "what was written on the unified side is not on the legacy side");
      this.presenter.say("Both reviews are still in the legacy tables, and the agents go on as ever:");
      return "what was written while the unified side led is in the legacy tables";
    });
    this.presenter.say("In the other terminal, Ctrl-C:");
    await this.step("sync --watch ends", async () => {
      const ended = await this.watching?.stop();
      expect(ended?.exit === 0, `it ended with ${ended?.exit}`);
      const { applied, conflicts, quarantined, remaining } = schemas.sync.parse(ended.result);
      expect(applied > 0 && conflicts + quarantined + remaining === 0, "not everything was carried over");
      return `${count(applied)} changes carried over, no conflict, none left`;
    });
    await this.presenter.pause();

    this.presenter.title("Proof");
    await this.step("audit log", async () => {
      const { ok, entries } = await this.hive(["audit", "verify"], schemas.auditVerify);
      expect(ok && entries > 0, "the audit log is not whole");
      return `${entries} entries, each chained to the one before`;
    });
    await this.step("every write of the agents is there", async () => {
      this.live = false;
      await this.agents?.stop();
      const written = new Map(this.agents?.written);
      const found = await this.marks(live.AGENTS_LEGACY_ROWS);
      const expected = [...written].filter(([, mark]) => mark !== null);
      const wrong = expected.find(([key, mark]) => found.get(key) !== mark);
      expect(wrong === undefined, `${wrong?.[0]} is not as it was written last`);
      expect(found.size === expected.length, "a row is there that was deleted, or that nobody wrote");
      const { statements } = this.agents?.during ?? { statements: 0 };
      return `${count(statements)} statements, 0 failed; ${count(expected.length)} rows as they were written last, ${count(written.size - expected.length)} deleted`;
    });
    await this.step("all else on the legacy side is untouched", async () => {
      const after = await this.fingerprint(waiting);
      expect(after.schema === before.schema, "the shape of a legacy table has changed");
      expect(after.rows === before.rows, "the number of rows has changed");
      expect(after.hash === before.hash, "a row has changed");
      return `${count(after.rows)} other legacy rows, every value as before (sha256 ${after.hash.slice(0, 12)}…)`;
    });
  }

  private rowsOfAgents(): number {
    return this.agents?.written.size ?? 0;
  }

  /** Notes how a step came out; one that did not come out as it should ends the journey. */
  private step(name: string, work: () => Promise<string>): Promise<undefined>;
  private step<T>(name: string, work: () => Promise<readonly [string, T]>): Promise<T>;
  private async step<T>(name: string, work: () => Promise<string | readonly [string, T]>): Promise<T | undefined> {
    this.assertNotInterrupted();
    const { clock } = this.tools;
    const begun = clock.monotonic();
    let agents: Work | null = null;
    const note = (ok: boolean, detail: string) => {
      this.steps.push({ step: name, ok, detail, durationMs: Math.round(clock.monotonic() - begun), agents });
    };
    try {
      if (this.live) await this.agents?.restart();
      const outcome = await work();
      agents = await this.howTheyFare();
      if (typeof outcome === "string") {
        note(true, outcome);
        return undefined;
      }
      note(true, outcome[0]);
      return outcome[1];
    } catch (error) {
      if (!(error instanceof Unexpected || error instanceof AgentFailure)) throw error;
      note(false, error.message);
      this.presenter.say(`That is not what should have come out: ${error.message}.`);
      throw new Unexpected(error.message);
    }
  }

  /** Since the step began; said, and judged: none of their statements may have failed. */
  private async howTheyFare(): Promise<Work | null> {
    const { agents } = this;
    if (!agents || !this.live) return null;
    const { abort } = this.options;
    const { before } = agents;
    const now = await (before === null ? agents.measureBefore(STATEMENTS_BEFORE, abort) : agents.sinceRestart(abort));
    this.assertNotInterrupted();
    const { perSecond, failures, p50Ms, p95Ms } = now;
    const compared = before === null ? "before hive" : `before: ${ms(before.p50Ms)}, ${ms(before.p95Ms)}`;
    this.presenter.agents(
      `agents: ${Math.round(perSecond)} statements/s, ${failures} failed, p50 ${ms(p50Ms)} ms, p95 ${ms(p95Ms)} ms (${compared})`,
    );
    const { failed } = agents;
    expect(failed.length === 0, `a statement of an agent failed: ${failed[0]}`);
    return now;
  }

  /** Waits for what does not depend on this process alone. */
  private async until(holds: () => Promise<boolean>): Promise<void> {
    while (!(await holds())) {
      this.assertNotInterrupted();
      expect(!this.watchEnded, ENDED_BY_ITSELF);
      await this.tools.clock.sleep(LOOK_EVERY_MS);
    }
  }

  private async startAgents(): Promise<Agents> {
    const work = join(this.directory, WORK);
    writeFileSync(
      work,
      `${JSON.stringify(Object.fromEntries(live.DEMO_AGENTS.map((one) => [one.name, one])), null, 2)}\n`,
    );
    this.agents = await Agents.start({
      names: live.DEMO_AGENTS.map(({ name }) => name),
      database: this.target,
      work,
      env: this.options.env ?? process.env,
      clock: this.tools.clock,
    });
    this.live = true;
    return this.agents;
  }

  /** Whatever happened. */
  async end(): Promise<void> {
    this.live = false;
    await this.agents?.[Symbol.asyncDispose]();
    if (!this.watchEnded) await this.watching?.stop();
  }

  agentsResult(): DemoResult["agents"] {
    const { agents } = this;
    if (!agents) return null;
    const { language, versions, pids, written, before, during } = agents;
    return { language, versions, processes: pids, rows: written.size, before, during };
  }

  /** Keys and marks of the agents' rows, by a query that gives keys and texts. */
  private async marks(query: string): Promise<Map<string, number>> {
    const rows = await this.ask({ query, head: [] });
    return new Map(rows.map(([key, text]) => [String(key), markOf(text ?? null)]));
  }

  /**
   * Whether every write that the agents were told is done by now is in what this query gives, or a later one of the same row.
   */
  private async hasWrites(expected: ReadonlyMap<string, number | null>, query: string): Promise<boolean> {
    const found = await this.marks(query);
    // After that: a row that is not there any more was deleted before, and that has been acknowledged by now.
    await this.agents?.ask();
    return [...expected].every(([key, mark]) => {
      const there = found.get(key);
      if (there === undefined) return mark === null || this.agents?.written.get(key) === null;
      return mark !== null && there >= mark;
    });
  }

  private async hive<T>(argv: readonly string[], shape: Shape<T>, exit = 0): Promise<T> {
    const ended = await this.presenter.hive(argv, this.directory);
    this.assertNotInterrupted(ended.exit);
    expect(ended.exit === exit, `hive ${argv.join(" ")} ended with ${ended.exit}, not ${exit}`);
    return shape.parse(ended.result);
  }

  private async build() {
    const file = join(this.directory, "hive.config.json");
    if (!this.onPostgres) writeFileSync(this.database, "", { flag: "wx" });
    await initConfig({
      file,
      database: this.onPostgres ? this.target : `sqlite:./${DATABASE}`,
      mapping: "hive",
      cwd: this.directory,
    });
    // The URL may have a password in it.
    if (this.onPostgres) chmodSync(file, 0o600);
    const { schema, setup, tables } = this.sample;
    await using store = await this.tools.openStore(this.target);
    let refused = 0;
    await store.transaction(
      "demo build",
      async (tx) => {
        refused = 0;
        for (const statement of schema) await tx.script(statement);
        for (const { table, columns, chunks } of tables) {
          for (const rows of chunks()) {
            this.assertNotInterrupted();
            refused += await insertWhatFits(tx, table, columns, rows);
          }
        }
      },
      setup === "" ? {} : { before: (session) => session.script(setup) },
    );
    expect(this.onPostgres || refused === 0, `${refused} rows of the sample were refused`);
    const answer = async ({ query }: story.Question) => store.read.tuples(script(query));
    const [counts = []] = await answer(story.COUNTS);
    const [waiting] = (await answer(story.WAITING)).map(([key]) => String(key));
    const finished = (await answer(story.FINISHED)).map(([key]) => String(key));
    expect(waiting !== undefined && finished.length === 2, "the sample has too few reviews for the demo");
    const held = story.COUNTS.head.map((table, i) => `${count(Number(counts[i]))} ${table}`).join(", ");
    const dirt = this.onPostgres
      ? `Some rows are odd, but no more than PostgreSQL's types and foreign keys let in: they refused ${refused} more.`
      : "dirt of every kind that was ever seen.";
    this.presenter.say(`Built: ${held}${this.onPostgres ? ". " : ", and "}${dirt}`);
    return [held, { waiting, finished }] as const;
  }

  /** Statements past hive, as somebody at a prompt would type them. */
  private async typed({ statements }: story.Typed): Promise<void> {
    await using store = await this.tools.openStore(this.target);
    for (const statement of statements) {
      await this.presenter.sql(statement);
      await store.transaction("demo", (tx) => tx.script(statement));
    }
  }

  private async ask({ query }: story.Question): Promise<Value[][]> {
    await using store = await this.tools.openStore(this.target);
    // Before the store is closed.
    return await store.read.tuples(script(query));
  }

  /** Of all legacy rows but those that the demo changes on purpose, and of the tables' shapes. In no order. */
  private async fingerprint(changed: string): Promise<{ rows: number; hash: string; schema: string }> {
    await using store = await this.tools.openStore(this.target);
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
      hint: `Look around in it: cd ${this.directory}, then hive status. Or delete the folder${this.onPostgres ? " and drop the database" : ""}.`,
      details: { directory: this.directory, database: this.database },
    });
  }
}

/** All that the table takes, each row for itself if need be; the number of those that it refuses. */
async function insertWhatFits(
  tx: Transaction,
  table: string,
  columns: readonly string[],
  rows: readonly Value[][],
): Promise<number> {
  try {
    await tx.attempt(() => tx.insert(table, columns, rows));
    return 0;
  } catch (error) {
    if (!(error instanceof HiveError) || error.code !== "CONSTRAINT") throw error;
  }
  if (rows.length === 1) return 1;
  const half = Math.ceil(rows.length / 2);
  const first = await insertWhatFits(tx, table, columns, rows.slice(0, half));
  return first + (await insertWhatFits(tx, table, columns, rows.slice(half)));
}

/** Values by their type: 1, 1.0 and '1' are three things. */
function digest(table: string, row: readonly Value[]): string {
  const typed = row.map((value) => (typeof value === "bigint" ? `i${value}` : value === null ? null : [value]));
  return createHash("sha256")
    .update(`${table} ${JSON.stringify(typed)}`)
    .digest("hex");
}

/** What an agent marked a row with when it wrote it; NaN where it did not. */
function markOf(text: Value): number {
  return Number(/#(\d+)/.exec(String(text))?.[1] ?? Number.NaN);
}
