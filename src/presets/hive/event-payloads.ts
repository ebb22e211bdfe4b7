import { z } from "zod";

/**
 * What the platform's events say, by type. Agents may say more than is listed, and may leave out or send null for
 * anything: but what they say under a name that is listed here is of its type.
 */

const text = z.string().nullish();
const number = z.number().nullish();
const count = z.number().int().nullish();
const yesOrNo = z.boolean().nullish();
const list = z.array(z.unknown()).nullish();
const texts = z.array(z.string()).nullish();
const object = z.record(z.string(), z.unknown()).nullish();
/** Most tables have texts as ids, some have numbers. */
const id = z.union([z.string(), z.number().int()]).nullish();

const task = { task_id: id, task_type: text, agent_type: text, status: text };
const failure = { error: text, error_message: text, retry_count: count };
// Of what each agent takes and gives.
const review = { code_path: text, pr_id: id, auto_fix: yesOrNo, requires_human: yesOrNo };
const reviewed = {
  review_score: z.number().min(0).max(100).nullish(),
  violations: list,
  suggestions: list,
  auto_fix_result: object,
};
const workflow = { workflow_type: text, current_phase: text, total_phases: count, phases_completed: count };
const deployment = {
  service_name: text,
  environment: z.union([z.string(), z.record(z.string(), z.unknown())]).nullish(),
  strategy: text,
  commit_sha: text,
  deployment_id: id,
  deployment_url: text,
};
const plan = {
  plan_id: id,
  description: text,
  plan: z.union([z.record(z.string(), z.unknown()), z.array(z.unknown())]).nullish(),
  phases: list,
  subtask_count: count,
};
const agent = { agent_id: id, agent_type: text, capabilities: texts, status: text, alerts: list };

const saying = (...members: z.ZodRawShape[]) => z.looseObject(Object.assign({}, task, ...members));

export const PAYLOADS = {
  "task.created": saying({ title: text, description: text, priority: number, requestor: text }),
  "task.assigned": saying({ assigned_to: text, worker_id: id, assigned_at: text }),
  "task.started": saying({ description: text, target: text, worker_id: id, phase: text }),
  "task.completed": saying({ files_modified: texts, alerts: list, summary: text, duration_ms: number }),
  "task.failed": saying(failure, { phase: text }),
  "task.cancelled": saying({ reason: text, cancelled_by: text }),
  "task.progress": saying({ progress_percent: number, phase: text, message: text }),

  "review.requested": saying(review),
  "review.completed": saying(review, reviewed),
  "review.approved": saying(review, reviewed, { approved_by: text }),
  "review.rejected": saying(review, reviewed, { reason: text }),
  "review.auto_fix_applied": saying(review, reviewed, { auto_fix_attempts: count, files_modified: texts }),
  "review.in_progress": saying(review, { progress_percent: number }),

  "workflow.started": saying(workflow),
  "workflow.phase_completed": saying(workflow, { phase: text, duration_ms: number }),
  "workflow.completed": saying(workflow, { workflow_result: object, duration_ms: number }),
  "workflow.failed": saying(workflow, failure),
  "workflow.checkpoint": saying(workflow, { checkpoint: text }),

  "deployment.requested": saying(deployment),
  "deployment.completed": saying(deployment, { duration_ms: number }),
  "deployment.validated": saying(deployment, { health_check_url: text, health_status: text }),
  "deployment.failed": saying(deployment, failure),
  "deployment.rolled_back": saying(deployment, { reason: text }),
  "deployment.in_progress": saying(deployment, { progress_percent: number }),

  "plan.requested": saying(plan, { requestor: text, priority: number }),
  "plan.generated": saying(plan, { estimated_duration: number, estimated_complexity: text }),
  "plan.approved": saying(plan, { approved_by: text }),
  "plan.execution_started": saying(plan),
  "plan.execution_completed": saying(plan, { completed_subtasks: count, failed_subtasks: count }),

  "agent.registered": saying(agent),
  "agent.heartbeat": saying(agent, { current_task_id: id, uptime_seconds: number }),
  "agent.error": saying(agent, failure, { component: text }),
  "system.error": saying(failure, { component: text }),
} satisfies { readonly [type: string]: z.ZodType };
