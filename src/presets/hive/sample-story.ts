import type { Value } from "../../sync/mapping.ts";
import { AGENT_PREFIX } from "./demo-agents.ts";

/**
 * What people and agents type on the sample platform while the demo runs: plain SQL, past hive. Only here, and not in
 * the demo itself, are the platform's tables known by name.
 */

/** Statements that a person types, and how they come to. */
export interface Typed {
  readonly statements: readonly string[];
}

/** A query and what its columns are called. */
export interface Question {
  readonly query: string;
  readonly head: readonly string[];
}

/** The agent that the demo moves. */
export const AGENT = "ai-reviewer";

const REVIEWS = "task_type = 'review'";

/** One key: a review that waits for its verdict. */
export const WAITING: Question = {
  query: `SELECT id FROM tasks WHERE ${REVIEWS} AND status IN ('review_pending', 'review_in_progress', 'escalated', 'queued')
    ORDER BY id LIMIT 1`,
  head: ["id"],
};

/** Two keys: reviews that are done with. */
export const FINISHED: Question = {
  query: `SELECT id FROM tasks WHERE ${REVIEWS} AND status IN ('completed', 'approved', 'rejected') ORDER BY id LIMIT 2`,
  head: ["id"],
};

/** What is there, by table. */
export const COUNTS: Question = {
  query: `SELECT (SELECT count(*) FROM tasks), (SELECT count(*) FROM runs), (SELECT count(*) FROM planning_queue),
    (SELECT count(*) FROM execution_plans), (SELECT count(*) FROM events)`,
  head: ["tasks", "runs", "planning_queue", "execution_plans", "events"],
};

export const HAND_MADE = "review-made-by-hand";
export const WRITTEN_LIVE = "review-written-live";

function literal(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

function newReview(id: string, title: string, status: string, at: string): string {
  return [
    "INSERT INTO unified_tasks (id, correlation_id, task_type, status,",
    "    agent_type, priority, input_data, retry_count, max_retries,",
    "    created_at, updated_at)",
    `  VALUES (${literal(id)}, ${literal(id)}, 'review',`,
    `    ${literal(status)}, ${literal(AGENT)}, 3,`,
    `    '{"title": ${JSON.stringify(title)}, "description": null, "payload": null}',`,
    `    0, 3, ${literal(at)}, ${literal(at)})`,
  ].join("\n");
}

/** A value changed, a review deleted with all its rows, and one made up, on the side that only follows. */
export function carelessHands(changed: string, deleted: string): Typed {
  return {
    statements: [
      `UPDATE unified_tasks SET status = 'cancelled'\n  WHERE id = ${literal(changed)}`,
      `DELETE FROM unified_review_tasks\n  WHERE task_id = ${literal(deleted)}`,
      `DELETE FROM unified_tasks\n  WHERE id = ${literal(deleted)}`,
      newReview(HAND_MADE, "made by hand", "queued", "2025-10-05T08:00:00.000Z"),
    ],
  };
}

/** The agent at work while the unified side leads: it decides a review, and opens another one. */
export function liveWrites(key: string): Typed {
  return {
    statements: [
      `UPDATE unified_tasks\n  SET status = 'review_approved', updated_at = '2025-10-05T09:00:00.000Z'\n  WHERE id = ${literal(key)}`,
      `UPDATE unified_review_tasks SET review_score = 96\n  WHERE task_id = ${literal(key)}`,
      newReview(WRITTEN_LIVE, "Review PR #2048", "review_pending", "2025-10-05T09:00:00.000Z"),
    ],
  };
}

/** What the legacy side has of the two reviews that were written live. */
export function afterwards(key: string): Question {
  return {
    query: `SELECT id, title, status FROM tasks\n  WHERE id IN (${literal(key)},\n    ${literal(WRITTEN_LIVE)})`,
    head: ["id", "title", "status"],
  };
}

/** The legacy rows that the demo and its agents write on purpose. Every table's key stands first. */
export function changedOnPurpose(table: string, row: readonly Value[], key: string): boolean {
  const own = row[0];
  if (typeof own === "string" && own.startsWith(AGENT_PREFIX)) return true;
  return table === "tasks" && (own === key || own === WRITTEN_LIVE);
}
