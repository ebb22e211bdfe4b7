/** The 28 standard event types. */
export const EVENT_TYPES: readonly string[] = [
  "task.created",
  "task.assigned",
  "task.started",
  "task.completed",
  "task.failed",
  "task.cancelled",
  "review.requested",
  "review.completed",
  "review.approved",
  "review.rejected",
  "review.auto_fix_applied",
  "workflow.started",
  "workflow.phase_completed",
  "workflow.completed",
  "workflow.failed",
  "deployment.requested",
  "deployment.completed",
  "deployment.validated",
  "deployment.failed",
  "deployment.rolled_back",
  "plan.requested",
  "plan.generated",
  "plan.approved",
  "plan.execution_started",
  "plan.execution_completed",
  "agent.registered",
  "agent.heartbeat",
  "agent.error",
];

/** Types that live agents send besides: accepted, counted apart. */
export const EXTENSION_EVENT_TYPES: readonly string[] = [
  "task.progress",
  "review.in_progress",
  "workflow.checkpoint",
  "deployment.in_progress",
  "system.error",
];

/** Legacy event names that the standard calls otherwise. */
export const LEGACY_EVENT_NAMES: {
  readonly [name: string]: { readonly eventType: string; readonly requiresHuman?: true };
} = {
  "task.review_requested": { eventType: "review.requested" },
  "task.review_completed": { eventType: "review.completed" },
  "task.escalated": { eventType: "review.requested", requiresHuman: true },
  "workflow.plan_generated": { eventType: "plan.generated" },
};
