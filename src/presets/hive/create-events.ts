import type { NewEvent } from "../../events/event.ts";

/** Events as the platform's agents make them: of a task, of its workflow, of its deployment. */

type TaskEvent =
  | `task.${"created" | "assigned" | "started" | "completed" | "failed" | "cancelled" | "progress"}`
  | `review.${"requested" | "completed" | "approved" | "rejected" | "auto_fix_applied" | "in_progress"}`
  | `plan.${"requested" | "generated" | "approved" | "execution_started" | "execution_completed"}`;
type WorkflowEvent = `workflow.${"started" | "phase_completed" | "completed" | "failed" | "checkpoint"}`;
type DeploymentEvent =
  `deployment.${"requested" | "completed" | "validated" | "failed" | "rolled_back" | "in_progress"}`;

interface Of<T extends string> extends Omit<NewEvent, "type" | "subject"> {
  readonly type: T;
  /** What the event is about: its subject, and `task_id` of its payload. */
  readonly taskId: string;
}

export type TaskEventInput = Of<TaskEvent>;
export type WorkflowEventInput = Of<WorkflowEvent>;
export type DeploymentEventInput = Of<DeploymentEvent>;

/** An event about a task, its review or its plan. Its correlation id is the task's id where none is named. */
export function createTaskEvent(event: TaskEventInput): NewEvent {
  return about(event);
}

/** As {@link createTaskEvent}, about the workflow of a task. */
export function createWorkflowEvent(event: WorkflowEventInput): NewEvent {
  return about(event);
}

/** As {@link createTaskEvent}, about the deployment that a task asks for. */
export function createDeploymentEvent(event: DeploymentEventInput): NewEvent {
  return about(event);
}

function about({ taskId, ...event }: Of<string>): NewEvent {
  return {
    ...event,
    subject: taskId,
    correlationId: event.correlationId ?? taskId,
    payload: { task_id: taskId, ...event.payload },
  };
}
