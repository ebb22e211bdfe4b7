import Database from "better-sqlite3";
import type { History } from "./model.ts";
import { AGENTS, ITEM_KEYS, JOB_KEYS, RegisterReader, type Registers, TAGS } from "./platform.ts";
import type { Actor, Random, Scheduler } from "./scheduler.ts";

/** What the programs of a simulated platform share. */
export interface World {
  readonly path: string;
  readonly scheduler: Scheduler;
  readonly history: History;
  /** Keys that are written more often than others; none in some runs. */
  readonly hot: readonly string[];
}

/** One of these keys: those that are hot more often. */
export function pickKey({ hot }: World, random: Random, keys: readonly string[]): string {
  const some = keys.filter((key) => hot.includes(key));
  return some.length > 0 && random.chance(0.6) ? random.pick(some) : random.pick(keys);
}

/** SQL with its values. */
interface Statement {
  readonly text: string;
  readonly values: readonly (string | number | null)[];
}

function statement(text: string, ...values: (string | number | null)[]): Statement {
  return { text, values };
}

/** A program's own connection, with which it never waits for a lock. Closed when the actor crashes. */
export class Connection {
  readonly db: Database.Database;
  readonly registers: RegisterReader;
  private readonly prepared = new Map<string, Database.Statement>();

  constructor(actor: Actor, path: string) {
    this.db = new Database(path, { timeout: 0 });
    this.db.pragma("synchronous = OFF");
    this.registers = new RegisterReader(this.db);
    actor.onCrash.push(() => this.db.close());
  }

  run({ text, values }: Statement): void {
    this.prepare(text).run(...values);
  }

  pluck(text: string, ...values: (string | number)[]): unknown[] {
    return this.prepare(text)
      .pluck()
      .all(...values);
  }

  rollback(): void {
    if (this.db.inTransaction) this.db.exec("ROLLBACK");
  }

  private prepare(text: string): Database.Statement {
    let found = this.prepared.get(text);
    if (!found) {
      found = this.db.prepare(text);
      this.prepared.set(text, found);
    }
    return found;
  }
}

type Mode = "single statements" | "BEGIN" | "BEGIN IMMEDIATE";

/**
 * Runs statements as a program would, with scheduling points between them, and enters what was acknowledged. A lock
 * that somebody holds and a constraint of the platform's own are the program's business: it gives up.
 */
async function perform(
  world: World,
  actor: Actor,
  connection: Connection,
  side: "legacy" | "unified",
  mode: Mode,
  statementsOf: (now: Registers) => readonly Statement[],
): Promise<void> {
  const { scheduler, history } = world;
  const { db, registers } = connection;
  try {
    if (mode !== "single statements") {
      db.exec(mode);
      await scheduler.point(actor, mode);
    }
    let before = registers.read(side);
    for (const [i, one] of statementsOf(before).entries()) {
      if (i > 0) {
        await scheduler.point(actor, "between statements");
        if (mode === "single statements") before = registers.read(side);
      }
      scheduler.note(actor.name, `${one.text} ${JSON.stringify(one.values)}`);
      connection.run(one);
      if (mode === "single statements") history.commit(actor.name, before, registers.read(side));
    }
    if (mode === "single statements") return;
    const after = registers.read(side);
    await scheduler.point(actor, "before COMMIT");
    db.exec("COMMIT");
    history.commit(actor.name, before, after);
    scheduler.note(actor.name, "committed");
  } catch (error) {
    connection.rollback();
    if (!isOwnBusiness(error)) throw error;
    scheduler.note(actor.name, error.code);
  }
}

function isOwnBusiness(error: unknown): error is Error & { code: string } {
  if (!(error instanceof Error) || !("code" in error) || typeof error.code !== "string") return false;
  return (
    error.code.startsWith("SQLITE_BUSY") || (error.code.startsWith("SQLITE_CONSTRAINT") && !/hive/.test(error.message))
  );
}

/** An agent that knows nothing of hive: legacy SQL of every kind. */
export async function legacyAgent(world: World, actor: Actor, operations: number): Promise<void> {
  const { random } = actor;
  const connection = new Connection(actor, world.path);
  connection.db.pragma(`foreign_keys = ${random.chance(0.8) ? "ON" : "OFF"}`);
  if (random.chance(0.1)) connection.db.pragma("recursive_triggers = ON");
  for (let i = 0; i < operations; i++) {
    await world.scheduler.point(actor, "next operation", random.next() * 60);
    const mode = random.pick<Mode>(["single statements", "single statements", "BEGIN", "BEGIN IMMEDIATE"]);
    const count = mode === "single statements" ? 1 : 1 + random.below(3);
    await perform(world, actor, connection, "legacy", mode, (now) => {
      const statements: Statement[] = [];
      for (let n = 0; n < count; n++) statements.push(...legacyStatements(world, actor, now));
      return statements;
    });
  }
}

function legacyStatements(world: World, { random }: Actor, now: Registers): readonly Statement[] {
  const { history } = world;
  const mark = () => history.mark();
  const item = pickKey(world, random, ITEM_KEYS);
  const job = pickKey(world, random, JOB_KEYS);
  const owner = () => `${random.pick(AGENTS)}:${mark()}`;
  const keepOwner = random.chance(0.7);
  const has = (register: string) => now.has(register);
  switch (random.below(26)) {
    case 22:
      // What the unified side cannot hold.
      return [statement("UPDATE items SET a = ? WHERE id = ?", -mark(), item)];
    case 0:
    case 1:
    case 2:
      return [statement(`UPDATE items SET ${random.pick(["a", "b"])} = ? WHERE id = ?`, mark(), item)];
    case 3:
      return [statement("UPDATE items SET owner = ?, a = ? WHERE id = ?", owner(), mark(), item)];
    case 4:
      return [
        statement(
          "INSERT INTO items (id, owner, a, b) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET a = excluded.a, b = excluded.b",
          item,
          owner(),
          mark(),
          mark(),
        ),
      ];
    case 5:
    case 6:
      return [
        statement(
          "INSERT OR REPLACE INTO items (id, owner, a, b, tag) VALUES (?, ?, ?, ?, ?)",
          item,
          owner(),
          mark(),
          mark(),
          random.chance(0.7) ? random.pick(TAGS) : null,
        ),
      ];
    case 7:
      return [statement("UPDATE OR REPLACE items SET tag = ?, b = ? WHERE id = ?", random.pick(TAGS), mark(), item)];
    case 8:
    case 9:
      return [statement("DELETE FROM items WHERE id = ?", item)];
    case 10:
      return [statement("DELETE FROM items WHERE id LIKE 'k%' AND a % 3 = ?", random.below(3))];
    case 11:
      return [
        statement(
          "UPDATE items SET b = ? + rowid % 90 WHERE id LIKE 'k%' AND a % 2 = ?",
          history.range(90),
          random.below(2),
        ),
      ];
    case 12:
    case 23:
    case 24:
      return rekeyed(random.pick(ITEM_KEYS), mark(), item);
    case 13: {
      const pos = 1 + random.below(3);
      if (has(`items|${item}|part ${pos}`)) {
        return [statement("UPDATE item_parts SET v = ? WHERE item_id = ? AND pos = ?", mark(), item, pos)];
      }
      // Nothing but the program itself keeps two parts out of one place.
      return [
        statement(
          "INSERT INTO item_parts (item_id, pos, v) SELECT ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM item_parts WHERE item_id = ? AND pos = ?)",
          item,
          pos,
          mark(),
          item,
          pos,
        ),
      ];
    }
    case 14:
      return [statement("DELETE FROM item_parts WHERE item_id = ?", item)];
    case 15:
    case 25: {
      const target = random.pick(ITEM_KEYS);
      return [
        statement(
          "UPDATE item_parts SET item_id = ? WHERE item_id = ? AND NOT EXISTS (SELECT 1 FROM item_parts AS p WHERE p.item_id = ? AND p.pos = item_parts.pos)",
          target,
          item,
          target,
        ),
      ];
    }
    case 16:
      return [
        statement(
          "INSERT INTO item_notes VALUES (?, ?, ?) ON CONFLICT (item_id, no) DO UPDATE SET v = excluded.v",
          item,
          1 + random.below(2),
          mark(),
        ),
      ];
    case 17:
      return [
        statement("DELETE FROM item_notes WHERE item_id = ?", item),
        ...(random.chance(0.5) ? [statement("DELETE FROM items WHERE id = ?", item)] : []),
      ];
    case 18:
      return [statement("UPDATE jobs SET a = ? WHERE id = ?", mark(), job)];
    case 19:
      return [
        statement(
          keepOwner
            ? "INSERT INTO jobs (id, owner, a) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET a = excluded.a"
            : "INSERT OR REPLACE INTO jobs (id, owner, a) VALUES (?, ?, ?)",
          job,
          owner(),
          mark(),
        ),
      ];
    case 20:
      return [statement("DELETE FROM jobs WHERE id = ?", job)];
    default:
      return [
        statement("DELETE FROM items WHERE id = ?", item),
        statement("INSERT INTO items (id, owner, a, b) VALUES (?, ?, ?, ?)", item, owner(), mark(), mark()),
      ];
  }
}

/** Not onto parts that outlived another row: the platform itself would then have two in one place. */
function rekeyed(to: string, mark: number, from: string): Statement[] {
  return [
    statement(
      "UPDATE items SET id = ?, a = ? WHERE id = ? AND NOT EXISTS (SELECT 1 FROM item_parts WHERE item_id = ?)",
      to,
      mark,
      from,
      to,
    ),
  ];
}

/** A program that writes the unified tables with SQL: only rows of agents whose unified side leads at that moment. */
export async function unifiedAgent(world: World, actor: Actor, operations: number): Promise<void> {
  const { random } = actor;
  const { history } = world;
  const mark = () => history.mark();
  const connection = new Connection(actor, world.path);
  connection.db.pragma("foreign_keys = ON");
  for (let i = 0; i < operations; i++) {
    await world.scheduler.point(actor, "next operation", random.next() * 60);
    await perform(world, actor, connection, "unified", "BEGIN IMMEDIATE", (now) => {
      const leading = connection
        .pluck("SELECT agent FROM hive_flags WHERE flag = 'reads' AND value IN ('live', 'unified') ORDER BY agent")
        .map(String);
      if (leading.length === 0) return [];
      const owner = () => `${random.pick(leading)}:${mark()}`;
      const mine = [...now]
        .filter(([name, content]) => name.endsWith("|owner") && leading.includes(String(content).split(":")[0] ?? ""))
        // Which of two legacy rows with one key a unified one stands for, only hive could tell.
        .filter(([name]) => name.startsWith("items|") || !ITEM_KEYS.some((key) => name === `jobs|${key}|owner`))
        .map(([name]) => name.split("|")[1] ?? "")
        .filter((key) => !key.startsWith("s"));
      const fresh = random.pick(ITEM_KEYS);
      const taken = now.has(`items|${fresh}|owner`) || now.has(`jobs|${fresh}|owner`);
      if (!taken && random.chance(0.3)) {
        return [
          statement(
            "INSERT INTO things (id, kind, owner, a, b, extra) VALUES (?, 'item', ?, ?, ?, ?)",
            fresh,
            owner(),
            mark(),
            mark(),
            random.chance(0.5) ? mark() : null,
          ),
          ...(random.chance(0.5) ? [statement("INSERT INTO thing_parts VALUES (?, 1, ?)", fresh, mark())] : []),
        ];
      }
      if (mine.length === 0) return [];
      const key = pickKey(world, random, mine);
      const isItem = now.has(`items|${key}|owner`);
      switch (random.below(8)) {
        case 0:
        case 1:
          return [statement("UPDATE things SET a = ? WHERE id = ?", mark(), key)];
        case 2:
          return [statement("UPDATE things SET extra = ? WHERE id = ?", mark(), key)];
        case 3:
          return [
            statement(
              "UPDATE things SET owner = ?, a = ? WHERE id = ?",
              `${random.pick(AGENTS)}:${mark()}`,
              mark(),
              key,
            ),
          ];
        case 4:
          return [
            statement("DELETE FROM thing_notes WHERE thing_id = ?", key),
            statement("DELETE FROM things WHERE id = ?", key),
          ];
        case 5:
          if (!isItem) return [];
          return [
            statement(
              "INSERT INTO thing_parts VALUES (?, ?, ?) ON CONFLICT (thing_id, pos) DO UPDATE SET v = excluded.v",
              key,
              1 + random.below(3),
              mark(),
            ),
          ];
        case 6:
          if (!isItem) return [];
          return [statement("DELETE FROM thing_parts WHERE thing_id = ? AND pos = ?", key, 1 + random.below(3))];
        default:
          return [
            statement(
              isItem
                ? "UPDATE things SET a = ?, b = ? WHERE id = ?"
                : "UPDATE things SET a = ?, extra = ? WHERE id = ?",
              mark(),
              mark(),
              key,
            ),
          ];
      }
    });
  }
}

/** Does to tables what some migration of an agent would do: triggers go with the table. */
export async function vandal(world: World, actor: Actor): Promise<void> {
  const { random } = actor;
  const connection = new Connection(actor, world.path);
  const { db } = connection;
  await world.scheduler.point(actor, "later", 50 + random.next() * 600);
  try {
    if (random.chance(0.5)) {
      const table = random.pick(["items", "items", "jobs", "item_parts"]);
      const names = connection.pluck(
        "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ? ORDER BY name",
        table,
      );
      const gone = names.length > 0 && random.chance(0.3) ? [random.pick(names)] : names;
      if (gone.length > 0) {
        const text = gone.map((name) => `DROP TRIGGER "${String(name)}";`).join(" ");
        world.scheduler.note(actor.name, text);
        db.exec(`BEGIN IMMEDIATE; ${text} COMMIT;`);
      }
    } else {
      db.pragma("foreign_keys = OFF");
      db.pragma("legacy_alter_table = ON");
      db.exec("BEGIN IMMEDIATE");
      await world.scheduler.point(actor, "recreates jobs");
      db.exec(`CREATE TABLE jobs_new (id TEXT PRIMARY KEY, owner TEXT NOT NULL, a INTEGER, misc);
        INSERT INTO jobs_new SELECT * FROM jobs; DROP TABLE jobs; ALTER TABLE jobs_new RENAME TO jobs;`);
      await world.scheduler.point(actor, "before COMMIT");
      db.exec("COMMIT");
    }
  } catch (error) {
    connection.rollback();
    if (!isOwnBusiness(error)) throw error;
  }
}
