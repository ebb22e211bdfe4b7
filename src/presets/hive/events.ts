import type { EventSpec } from "../../sync/mapping.ts";
import { agents } from "./agents.ts";
import { legacyEvent, legacySource, planEvents, queueEvents, taskEvents } from "./derived-events.ts";
import { trace } from "./trace.ts";

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
export const LEGACY_EVENT_NAMES: NonNullable<EventSpec["names"]> = {
  "task.review_requested": { type: "review.requested" },
  "task.review_completed": { type: "review.completed" },
  "task.escalated": { type: "review.requested", payload: { requires_human: true } },
  "workflow.plan_generated": { type: "plan.generated" },
};

export const events: EventSpec = {
  extensionTypes: EXTENSION_EVENT_TYPES,
  payloads: async () => (await import("./event-payloads.ts")).PAYLOADS,
  // `TaskEventType.COMPLETED`: how Python prints the member of an enumeration.
  spelling(name) {
    const [, group, type] = /^(\w+?)EventType\.(\w+)$/.exec(name) ?? [];
    return group === undefined || type === undefined ? name : `${group}.${type}`.toLowerCase();
  },
  names: LEGACY_EVENT_NAMES,
  trace,
  derived: { tasks: taskEvents, planning_queue: queueEvents, execution_plans: planEvents },
  bridge: {
    table: "events",
    key: "event_id",
    columns: [
      "event_id",
      "event_type",
      "timestamp",
      "source_agent",
      "correlation_id",
      "payload",
      "metadata",
      "created_at",
    ],
    agent: (row) => legacySource(row.source_agent, NAMES),
    event: legacyEvent,
  },
};

const NAMES: ReadonlySet<string> = new Set(agents.map(({ name }) => name));
