/**
 * What the agents of the demo send to the sample platform, as its agents do today: plain SQL on the legacy tables, which
 * every database understands. The programs that send it are in examples/agents. Each agent does one job after the other, and a job is its `work`, statement by
 * statement. A job has rows of its own: `:task`, `:run`, `:request`, `:plan` and `:event` are their keys, `:worker` is
 * the agent's. What an agent writes into a row carries a mark, `#1`, `#2`, …: so it can be told what was acknowledged last.
 * `:text` is such a text, `:json` a JSON object around it.
 */

export interface AgentStatement {
  readonly sql: string;
  /** The row that it writes, and the mark that its text carries; at `job` that is the job's number. */
  readonly writes?: { readonly row: string; readonly mark: number | "job" };
  /** The row whose text it must give back, exactly as this agent has left it. */
  readonly reads?: string;
  /** The rows that it deletes, and their job: so many before this one. */
  readonly ends?: { readonly rows: readonly string[]; readonly jobsAgo: number };
}

export interface DemoAgent {
  readonly name: string;
  /** What a job is called, in its rows. */
  readonly title: string;
  /** Sent once, before the first job. */
  readonly hello: readonly AgentStatement[];
  readonly work: readonly AgentStatement[];
}

/** With these begin the keys of all rows that agents of the demo write, and no others. */
export const AGENT_PREFIX = "live-";

const KEPT_JOBS = 5;

const hello = (role: string): AgentStatement[] => [
  {
    sql: `INSERT INTO workers (id, role, status, metadata) VALUES (:worker, '${role}', 'active', :text)`,
    writes: { row: "worker", mark: 0 },
  },
];

const HEARTBEAT: AgentStatement = {
  sql: "UPDATE workers SET last_heartbeat = CURRENT_TIMESTAMP, metadata = :text WHERE id = :worker",
  writes: { row: "worker", mark: "job" },
};

const event = (type: string): AgentStatement => ({
  sql: `INSERT INTO events (event_id, event_type, timestamp, source_agent, payload, metadata)
    VALUES (:event, '${type}', CURRENT_TIMESTAMP, :worker, :json, '{}')`,
  writes: { row: "event", mark: 1 },
});

/** A task from its beginning to its end, with one run. */
function tasks(type: string, statuses: readonly [string, string, string], result: string): AgentStatement[] {
  const [first, during, last] = statuses;
  return [
    {
      sql: `INSERT INTO tasks (id, title, task_type, priority, status, payload)
        VALUES (:task, :text, '${type}', 3, '${first}', '{"requested_by": "a colleague"}')`,
      writes: { row: "task", mark: 1 },
    },
    HEARTBEAT,
    { sql: "SELECT id, title FROM tasks WHERE status = 'queued' ORDER BY priority DESC LIMIT 5" },
    {
      sql: `UPDATE tasks SET title = :text, status = '${during}', assigned_worker = :worker,
        started_at = CURRENT_TIMESTAMP, updated_at = CURRENT_TIMESTAMP WHERE id = :task`,
      writes: { row: "task", mark: 2 },
    },
    {
      sql: `INSERT INTO runs (id, task_id, worker_id, run_number, status, output_log)
        VALUES (:run, :task, :worker, 1, 'running', :text)`,
      writes: { row: "run", mark: 1 },
    },
    { sql: "SELECT title FROM tasks WHERE id = :task", reads: "task" },
    {
      sql: `UPDATE runs SET status = 'success', completed_at = CURRENT_TIMESTAMP, output_log = :text,
        result_data = '${result}' WHERE id = :run`,
      writes: { row: "run", mark: 2 },
    },
    {
      sql: `UPDATE tasks SET title = :text, status = '${last}', updated_at = CURRENT_TIMESTAMP WHERE id = :task`,
      writes: { row: "task", mark: 3 },
    },
    event("task.completed"),
    // The run goes with it, by its foreign key.
    { sql: "DELETE FROM tasks WHERE id = :task", ends: { rows: ["task", "run"], jobsAgo: KEPT_JOBS } },
  ];
}

const PLANS: AgentStatement[] = [
  {
    sql: "INSERT INTO planning_queue (id, task_description, requestor) VALUES (:request, :text, 'a colleague')",
    writes: { row: "request", mark: 1 },
  },
  HEARTBEAT,
  { sql: "SELECT id, task_description FROM planning_queue WHERE status = 'pending' ORDER BY priority DESC LIMIT 5" },
  {
    sql: `UPDATE planning_queue SET task_description = :text, status = 'assigned', assigned_agent = :worker,
      assigned_at = CURRENT_TIMESTAMP WHERE id = :request`,
    writes: { row: "request", mark: 2 },
  },
  {
    sql: `INSERT INTO execution_plans (id, planning_task_id, plan_data, subtask_count)
      VALUES (:plan, :request, :json, 2)`,
    writes: { row: "plan", mark: 1 },
  },
  { sql: "SELECT task_description FROM planning_queue WHERE id = :request", reads: "request" },
  {
    sql: "UPDATE execution_plans SET plan_data = :json, status = 'generated' WHERE id = :plan",
    writes: { row: "plan", mark: 2 },
  },
  {
    sql: `UPDATE planning_queue SET task_description = :text, status = 'planned', completed_at = CURRENT_TIMESTAMP
      WHERE id = :request`,
    writes: { row: "request", mark: 3 },
  },
  event("workflow.plan_generated"),
  {
    sql: "DELETE FROM planning_queue WHERE id = :request",
    ends: { rows: ["request", "plan"], jobsAgo: KEPT_JOBS },
  },
];

const INSPECTION = '{"inspection_report": {"summary": {"quality_score": 91.5}, "issues": []}}';

export const DEMO_AGENTS: readonly DemoAgent[] = [
  {
    name: "reviewer",
    title: "Review PR",
    hello: hello("reviewer"),
    work: tasks("review", ["review_pending", "review_in_progress", "approved"], INSPECTION),
  },
  { name: "planner", title: "Plan release", hello: hello("planner"), work: PLANS },
  {
    name: "coder",
    title: "Implement story",
    hello: hello("backend"),
    work: tasks("backend", ["assigned", "in_progress", "completed"], '{"files_modified": 3}'),
  },
  {
    name: "deployer",
    title: "Deploy build",
    hello: hello("deployer"),
    work: tasks("deployment", ["deployment_pending", "deploying", "deployed"], '{"status": "healthy"}'),
  },
];

const OWN = `LIKE '${AGENT_PREFIX}%'`;

/** Key and text of every row of theirs on the legacy side … */
export const AGENTS_LEGACY_ROWS = `SELECT id, title FROM tasks WHERE id ${OWN}
  UNION ALL SELECT id, output_log FROM runs WHERE id ${OWN}
  UNION ALL SELECT id, metadata FROM workers WHERE id ${OWN}
  UNION ALL SELECT id, task_description FROM planning_queue WHERE id ${OWN}
  UNION ALL SELECT id, CAST(plan_data AS text) FROM execution_plans WHERE id ${OWN}
  UNION ALL SELECT event_id, CAST(payload AS text) FROM events WHERE event_id ${OWN}`;

/** … and on the unified one, … */
export const AGENTS_UNIFIED_ROWS = `SELECT id, CAST(input_data AS text) FROM unified_tasks WHERE id ${OWN}`;

/** … where only some of them have a place. */
export function hasUnifiedPlace(key: string): boolean {
  return /-(task|request|plan)-\d+$/.test(key);
}
