import type { Value } from "../../sync/mapping.ts";

/**
 * The words of both schemas and what becomes of them: tables only. Statuses and types are cleaned before they are
 * looked up; the raw text is what is kept.
 */

export type UnifiedStatus =
  | "pending"
  | "queued"
  | "running"
  | "review_pending"
  | "review_approved"
  | "review_rejected"
  | "rework_needed"
  | "completed"
  | "failed"
  | "cancelled";

export type UnifiedTaskType = "review" | "plan" | "code" | "deploy" | "test" | "workflow";

export const UNIFIED_STATUSES: readonly UnifiedStatus[] = [
  "pending",
  "queued",
  "running",
  "review_pending",
  "review_approved",
  "review_rejected",
  "rework_needed",
  "completed",
  "failed",
  "cancelled",
];

export const UNIFIED_TASK_TYPES: readonly UnifiedTaskType[] = ["review", "plan", "code", "deploy", "test", "workflow"];

/** `text` trimmed, in lower case, without an enum prefix (`TaskStatus.APPROVED`); '' for what is not text. */
export function cleanWord(value: Value | undefined): string {
  if (typeof value !== "string") return "";
  const text = value.trim().toLowerCase();
  const dot = text.lastIndexOf(".");
  return dot > 0 ? text.slice(dot + 1) : text;
}

const TASK_STATUS_UP: ReadonlyMap<string, UnifiedStatus> = new Map<string, UnifiedStatus>([
  ["queued", "queued"],
  ["pending", "pending"],
  ["assigned", "running"],
  ["in_progress", "running"],
  ["running", "running"],
  ["deploying", "running"],
  ["planning_in_progress", "running"],
  ["review_pending", "review_pending"],
  ["review_in_progress", "review_pending"],
  ["escalated", "review_pending"],
  ["approved", "review_approved"],
  ["review_approved", "review_approved"],
  ["rejected", "review_rejected"],
  ["review_rejected", "review_rejected"],
  ["rework_needed", "rework_needed"],
  ["deployment_pending", "queued"],
  ["deployed", "completed"],
  ["deployment_failed", "failed"],
  ["rolled_back", "failed"],
  ["planning_failed", "failed"],
  ["review_failed", "failed"],
  ["planned", "pending"],
  ["completed", "completed"],
  ["failed", "failed"],
  ["cancelled", "cancelled"],
]);

const QUEUE_STATUS_UP: ReadonlyMap<string, UnifiedStatus> = new Map<string, UnifiedStatus>([
  ["pending", "pending"],
  ["assigned", "running"],
  ["in_progress", "running"],
  ["planned", "completed"],
  ["completed", "completed"],
  ["failed", "failed"],
  ["cancelled", "cancelled"],
]);

const PLAN_STATUS_UP: ReadonlyMap<string, UnifiedStatus> = new Map<string, UnifiedStatus>([
  ["draft", "review_pending"],
  ["generated", "review_pending"],
  ["approved", "queued"],
  ["executing", "running"],
  ["in_progress", "running"],
  ["pending", "pending"],
  ["completed", "completed"],
  ["failed", "failed"],
  ["cancelled", "cancelled"],
]);

/** The unified status of a cleaned legacy one, by the kind of row; undefined is "anything else". */
export const STATUS_UP = { task: TASK_STATUS_UP, queue: QUEUE_STATUS_UP, plan: PLAN_STATUS_UP } as const;

const TASK_STATUS_DOWN: ReadonlyMap<string, string> = new Map([
  ["pending", "queued"],
  ["running", "in_progress"],
  ["review_approved", "approved"],
  ["review_rejected", "rejected"],
]);

const DEPLOY_STATUS_DOWN: ReadonlyMap<string, string> = new Map([
  ["queued", "deployment_pending"],
  ["running", "deploying"],
  ["completed", "deployed"],
  ["failed", "deployment_failed"],
]);

/** The legacy status of a task whose unified status has changed; a word without a translation stays what it is. */
export function taskStatusDown(status: string, type: string): string {
  return (type === "deploy" ? DEPLOY_STATUS_DOWN.get(status) : undefined) ?? TASK_STATUS_DOWN.get(status) ?? status;
}

/** The legacy status of a planning_queue row; a unified status that is missing here leaves the raw one. */
export const QUEUE_STATUS_DOWN: ReadonlyMap<string, string> = new Map([
  ["pending", "pending"],
  ["running", "assigned"],
  ["completed", "planned"],
  ["failed", "failed"],
]);

/** The same for execution_plans. */
export const PLAN_STATUS_DOWN: ReadonlyMap<string, string> = new Map([
  ["review_pending", "draft"],
  ["queued", "approved"],
  ["running", "executing"],
  ["completed", "completed"],
  ["failed", "failed"],
]);

/** Statuses in which a unified task has ended: only these have a completed_at. */
export const ENDED: ReadonlySet<string> = new Set(["completed", "failed", "cancelled"]);

/** Run statuses (cleaned) that have no result yet. */
export const UNFINISHED_RUN: ReadonlySet<string> = new Set(["pending", "running"]);

/** Legacy statuses (cleaned) that make a review row whatever the task's type. */
export const REVIEW_STATUSES: ReadonlySet<string> = new Set([
  "review_pending",
  "review_in_progress",
  "approved",
  "review_approved",
  "rejected",
  "review_rejected",
  "rework_needed",
  "review_failed",
  "escalated",
]);

/** Legacy statuses (cleaned) that only the deployer writes: they make a deploy task whatever its type. */
export const DEPLOYER_STATUSES: ReadonlySet<string> = new Set([
  "deployment_pending",
  "deploying",
  "deployed",
  "deployment_failed",
  "rolled_back",
]);

const TYPE_UP: ReadonlyMap<string, UnifiedTaskType> = new Map<string, UnifiedTaskType>([
  ["chimera_workflow", "workflow"],
  ["qa_workflow", "workflow"],
  ["workflow", "workflow"],
  ["deployment", "deploy"],
  ["deploy", "deploy"],
  ["review", "review"],
  ["analysis", "plan"],
  ["plan", "plan"],
  ["test", "test"],
  ["verification", "test"],
  ["qa_golden_rules", "test"],
]);

/** The unified type of a task, from its cleaned type and status. */
export function taskTypeUp(type: string, status: string): UnifiedTaskType {
  const known = TYPE_UP.get(type);
  if (known === "workflow") return known;
  if (known === "deploy" || DEPLOYER_STATUSES.has(status)) return "deploy";
  return known ?? (type.startsWith("test_") ? "test" : "code");
}

const TYPE_DOWN: ReadonlyMap<string, string> = new Map([
  ["workflow", "chimera_workflow"],
  ["deploy", "deployment"],
  ["review", "review"],
  ["plan", "analysis"],
  ["test", "test"],
  ["code", "backend"],
]);

/** The legacy type of a task that has none of its own; legacy types are free text, so a foreign word stays. */
export function taskTypeDown(type: string): string {
  return TYPE_DOWN.get(type) ?? type;
}

export const AGENT_OF_TYPE: { readonly [type in UnifiedTaskType]: string } = {
  workflow: "orchestrator",
  review: "ai-reviewer",
  plan: "ai-planner",
  deploy: "ai-deployer",
  test: "qa-agent",
  code: "hive-coder",
};

const AGENT_OF_ANY_TYPE: ReadonlyMap<string, string> = new Map(Object.entries(AGENT_OF_TYPE));
const OWNERS: ReadonlySet<string> = new Set([...Object.values(AGENT_OF_TYPE), "guardian"]);

/** The agent that owns a unified row: the one it names if the platform knows it, else the one of its type. */
export function ownerOf(agentType: Value | undefined, taskType: Value | undefined): string {
  if (typeof agentType === "string" && OWNERS.has(agentType)) return agentType;
  return (typeof taskType === "string" ? AGENT_OF_ANY_TYPE.get(taskType) : undefined) ?? AGENT_OF_TYPE.code;
}
