import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { cells } from "../../src/cli/render.ts";
import { loadSchemas } from "../../src/index.ts";
import { hiveInProcess, hiveOnTerminal } from "../support/cli.ts";
import { execute } from "../support/legacy-platform.ts";
import { smallPlatform } from "../support/small-platform.ts";

const { results } = await loadSchemas();

/** A plan of three tasks: one done, one failed, one running; what they say would steer a terminal. */
async function planned(): Promise<string> {
  const cwd = smallPlatform();
  expect((await hiveInProcess(["migrate", "up"], { cwd })).code).toBe(0);
  const at = (second: number) =>
    `'2026-11-24T02:${String(Math.floor(second / 60)).padStart(2, "0")}:${String(second % 60).padStart(2, "0")}.000Z'`;
  const rows: [second: number, type: string, agent: string, correlation: string, subject: string, payload?: object][] =
    [
      [0, "plan.requested", "ai-planner", "queue-7", "queue-7"],
      [12, "plan.generated", "ai-planner", "queue-7", "queue-7", { plan_id: "plan-7" }],
      [15, "plan.execution_started", "ai-planner", "plan-7", "plan-7"],
      [15, "task.created", "hive-coder", "plan-7", "login-api"],
      [15, "task.created", "hive-coder", "plan-7", "login-form"],
      [
        15,
        "task.created",
        "hive-coder",
        "plan-7",
        "a-task-whose-name-is-far-too-long-for-any-terminal-\u001b[2J-of-80-columns",
      ],
      [20, "task.started", "hive-coder", "plan-7", "login-api"],
      ...Array.from({ length: 40 }, (_, i): (typeof rows)[number] => [
        21 + i,
        "task.progress",
        "hive-coder",
        "plan-7",
        "login-api",
      ]),
      [65, "review.requested", "hive-coder", "plan-7", "login-api"],
      [90, "review.approved", "ai-reviewer", "plan-7", "login-api"],
      [91, "task.started", "hive-coder", "plan-7", "login-form"],
      [391, "task.failed", "hive-coder", "plan-7", "login-form", { error: `npm ERR! \u001b[2J${"x".repeat(900_000)}` }],
      [
        392,
        "task.failed",
        "hive-coder",
        "plan-7",
        "login-form",
        { error: "npm ERR! \u001b[31m missing script: build" },
      ],
      [400, "deployment.requested", "ai-deployer", "plan-7", "login-api"],
    ];
  const values = rows.map(
    ([second, type, agent, correlation, subject, payload = {}]) =>
      `('${type}', '${agent}', '${correlation}', '${subject}', '${JSON.stringify(payload)}', ${at(second)}, ${at(second)})`,
  );
  execute(
    join(cwd, "hive.db"),
    `INSERT INTO hive_events (event_type, source_agent, correlation_id, subject, payload, occurred_at, recorded_at)
       VALUES ${values.join(",")};
     INSERT INTO unified_tasks (id, correlation_id, task_type, status, agent_type, input_data, created_at, updated_at)
       VALUES ('login-form', 'plan-7', 'code', 'failed', 'hive-coder', '{}', '', '2026-11-24T02:06:31.000Z'),
              ('login-api', 'plan-7', 'deploy', 'running', 'ai-deployer', '{}', '', '2026-11-24T02:06:40.000Z');`,
  );
  return cwd;
}

describe("hive trace", () => {
  test("fits a terminal, shows what failed and what runs, and lets nothing steer it", async () => {
    const cwd = await planned();
    const run = await hiveInProcess(["trace", "queue-7"], { cwd, tty: true, env: { NO_COLOR: "1" } });
    expect([run.code, run.stderr]).toEqual([0, ""]);
    for (const line of run.stdout.split("\n")) expect(cells(line), line).toBeLessThanOrEqual(80);
    expect(run.stdout).not.toContain("\u001b");
    expect(run.stdout).toContain("queue-7: 53 events of 4 agents");
    expect(run.stdout).toMatch(/02:00:21 {2}.*task\.progress ×40/);
    expect(run.stdout).toMatch(/task\.started.*failed after 5 min\n/);
    expect(run.stdout).toContain("! error: npm ERR! \\x1b[31m missing script");
    expect(run.stdout).toMatch(/deployment\.requested.*RUNNING /);
    expect(run.stdout).toMatch(/login-api +deploy +running +ai-deployer +for /);
    for (const columns of [40, 60, 120]) {
      const other = await hiveInProcess(["trace", "queue-7"], { cwd, tty: true, columns, env: { NO_COLOR: "1" } });
      for (const line of other.stdout.split("\n")) expect(cells(line), line).toBeLessThanOrEqual(columns);
    }
  });

  test("answers with JSON as its schema says, without payloads", async () => {
    const cwd = await planned();
    const run = await hiveInProcess(["trace", "queue-7", "--json"], { cwd });
    const { ok, command, result } = JSON.parse(run.stdout);
    expect([run.code, ok, command]).toEqual([0, true, "trace"]);
    expect(results.trace.strict().safeParse(result).error).toBeUndefined();
    expect(result).toMatchObject({ running: 3, failed: 1, cutOff: [] });
    expect(run.stdout.length).toBeLessThan(60_000);
  });

  test("has colours on a terminal only, and says what an unknown id is", async () => {
    const cwd = await planned();
    const { screen, code } = await hiveOnTerminal(["trace", "queue-7"], [], { cwd });
    expect(code).toBe(0);
    expect(screen).toContain("\u001b[31m");
    expect((await hiveInProcess(["trace", "queue-7"], { cwd })).stdout).not.toContain("\u001b");
    const none = await hiveInProcess(["trace", "login-api"], { cwd });
    expect([none.code, none.stdout]).toEqual([2, ""]);
    expect(none.stderr).toMatch(/Nothing has the correlation id "login-api"[\s\S]*hive trace plan-7/);
    expect((await hiveInProcess(["trace", "queue-7", "--limit", "2"], { cwd })).stdout).toContain(
      "Not everything: more than 2 events",
    );
    expect((await hiveInProcess(["trace"], { cwd })).code).toBe(2);
  });
});

describe("hive status", () => {
  const line = (text: string) =>
    text.split("\n").filter((one) => /^(events|.*dead letter|.*expired|.*behind)/.test(one));

  test("says what matters of events, where there are any", async () => {
    const cwd = smallPlatform();
    const path = join(cwd, "hive.db");
    const status = async () => (await hiveInProcess(["status"], { cwd })).stdout;
    await hiveInProcess(["migrate", "up"], { cwd });
    expect(line(await status())).toEqual([]);
    execute(
      path,
      `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
         INSERT INTO hive_events (event_type, source_agent, recorded_at)
         SELECT 'task.progress', 'hive-coder', CASE WHEN i <= 4000 THEN '2026-11-01T00:00:00.000Z'
           ELSE strftime('%Y-%m-%dT%H:%M:%fZ', 'now') END FROM n`,
    );
    const quiet = await status();
    expect(line(quiet)).toEqual([expect.stringMatching(/^events +newest (just now|\d+ s ago), 100\/min$/)]);
    expect(quiet).not.toContain("Problems");
    execute(
      path,
      `INSERT INTO hive_subscribers VALUES ('mail', '["*"]', 3990, 0, 'active', '', '', 0, 0),
         ('log', '["*"]', 5000, 0, 'active', '', '', 0, 0), ('old', '["*"]', 0, 0, 'expired', '', '', 0, 0);
       INSERT INTO hive_dead_letters VALUES ('log', 17, 'dead', '', 'why', 5, '{}'), ('log', 18, 'dropped', '', 'why', 5, '{}')`,
    );
    const loud = await status();
    expect(loud).toMatch(/^events +newest.*3 subscribers, 1 expired.*behind/m);
    expect(loud).toContain("more than a minute behind with events: mail");
    expect(loud).toContain("1 event is a dead letter");
    const { result } = JSON.parse((await hiveInProcess(["status", "--json"], { cwd })).stdout);
    expect(results.status.strict().safeParse(result).error).toBeUndefined();
    expect(result.events).toMatchObject({ last: 5_000, perMinute: 100, deadLetters: 1 });
  });
});
