import type { TraceSpec } from "../../sync/mapping.ts";

/** What takes time on the platform, and how one piece of work leads to another. */
export const trace: TraceSpec = {
  spans: [
    {
      name: "queue",
      opens: ["task.created"],
      closes: {
        "task.started": "done",
        "task.completed": "done",
        "task.failed": "failed",
        "task.cancelled": "cancelled",
        "review.requested": "done",
        "workflow.started": "done",
        "deployment.requested": "done",
        "deployment.completed": "done",
        "deployment.failed": "failed",
      },
      waits: true,
    },
    {
      name: "task",
      opens: ["task.started"],
      // A coder's work ends where its review begins.
      closes: {
        "task.completed": "done",
        "task.failed": "failed",
        "task.cancelled": "cancelled",
        "review.requested": "done",
      },
    },
    {
      name: "review",
      opens: ["review.requested"],
      closes: {
        "review.completed": "done",
        "review.approved": "done",
        "review.rejected": "done",
        "task.failed": "failed",
        "task.cancelled": "cancelled",
      },
    },
    {
      name: "workflow",
      opens: ["workflow.started"],
      closes: { "workflow.completed": "done", "workflow.failed": "failed", "task.cancelled": "cancelled" },
    },
    {
      name: "deployment",
      opens: ["deployment.requested"],
      closes: {
        "deployment.completed": "done",
        "deployment.failed": "failed",
        "deployment.rolled_back": "failed",
        "task.cancelled": "cancelled",
      },
    },
    {
      name: "planning",
      opens: ["plan.requested"],
      closes: { "plan.generated": "done", "task.failed": "failed", "task.cancelled": "cancelled" },
    },
    {
      name: "execution",
      opens: ["plan.execution_started"],
      closes: { "plan.execution_completed": "done", "task.failed": "failed", "task.cancelled": "cancelled" },
    },
  ],
  work: [
    {
      table: "unified_tasks",
      correlation: "correlation_id",
      status: "status",
      final: ["completed", "failed", "cancelled"],
      agent: "agent_type",
      kind: "task_type",
      changedAt: "updated_at",
    },
  ],
  leadsTo: [
    // A plan's tasks have its id as their correlation id; a task's events have its own where nobody named another.
    { types: ["plan.*", "workflow.*"], subject: true, members: ["plan_id"] },
    { types: ["task.*", "review.*", "deployment.*"], subject: true },
  ],
  alarming: ["*.failed", "*.error", "*.rolled_back", "*.rejected", "*.cancelled"],
  tells: ["error", "error_message", "reason", "message", "summary", "description", "title", "status"],
};
