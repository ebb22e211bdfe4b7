import { describe, expect, test } from "vitest";
import { BACKENDS } from "../support/backends.ts";
import { AS_TEXT } from "../support/legacy-postgres.ts";

/** What the tests that run on every database rely on. */

const TABLES = [
  ...["deployment_events", "event_subscriptions", "events", "execution_plans", "plan_execution"],
  ...["planning_queue", "runs", "tasks", "workers"],
];

describe.each(BACKENDS)("$name", ({ name, create, dialect }) => {
  const names = (rows: Record<string, unknown>[]) => rows.map((row) => row.name);

  test("an empty place, and legacy tables of either kind", async () => {
    expect(names((await create()).select(dialect.tables))).toEqual([]);
    for (const legacy of ["natural", "text"] as const) {
      const place = await create({
        legacy,
        rows: "INSERT INTO tasks (id, title, task_type) VALUES ('a', 'A', 'test')",
      });
      expect(names(place.select(dialect.tables))).toEqual(TABLES);
      expect(place.select("SELECT id, priority, status, max_retries, created_at IS NULL AS none FROM tasks")).toEqual([
        { id: "a", priority: 1, status: "queued", max_retries: 3, none: name === "sqlite" ? 0 : false },
      ]);
    }
  });

  test("natural types hold every clean row", async () => {
    const place = await create({ legacy: "natural", sample: { tasks: 60 } });
    expect(place.leftOut).toEqual([]);
    expect(place.select("SELECT count(*) AS n FROM tasks")).toEqual([{ n: 60 }]);
    place.execute(
      "INSERT INTO deployment_events (task_id, event_type, timestamp) SELECT id, 'x', created_at FROM tasks",
    );
  });

  test("text holds the dirty ones, up to what no PostgreSQL takes", async () => {
    const sample = { tasks: 10, dirt: true };
    const place = await create({ legacy: "text", sample });
    const reasons = new Set(place.leftOut.map(({ reason }) => reason.replace(/".*?"/g, "…")));
    expect([...reasons].sort()).toEqual(
      name === "sqlite"
        ? []
        : [
            "invalid input syntax for type bigint: …",
            "null value in column … of relation … violates not-null constraint",
          ],
    );
    const nullable = await create({ legacy: { ...AS_TEXT, unique: "UNIQUE" }, sample });
    expect(nullable.select("SELECT count(*) AS n FROM tasks WHERE id IS NULL")).toEqual([{ n: 1 }]);
  });

  test("the dialect's words", async () => {
    const place = await create({
      rows: `CREATE TABLE notes (id text, data ${name === "sqlite" ? "text" : "jsonb"});
        INSERT INTO notes VALUES ('a', '{"b": {"c": "x"}}')`,
    });
    const read = () =>
      place.select(`SELECT ${dialect.at("data", "b", "c")} AS c, ${dialect.at("data", "d")} AS d FROM notes`);
    place.execute(`UPDATE notes SET data = ${dialect.put("data", "d", "it's")}`);
    expect(read()).toEqual([{ c: "x", d: "it's" }]);
    place.execute(dialect.refuse("notes", "INSERT", "NEW.id LIKE 'bad%'", "not here, it's bad"));
    expect(names(place.select(dialect.triggers))).toEqual(["refuse_notes"]);
    expect(() => place.execute("INSERT INTO notes VALUES ('bad1', NULL)")).toThrow("not here, it's bad");
    place.execute("INSERT INTO notes VALUES ('good', NULL)");
    place.execute(dialect.accept("notes"));
    place.execute("INSERT INTO notes VALUES ('bad1', NULL)");
    expect(place.select("SELECT id FROM notes")).toHaveLength(3);
  });
});
