import type { AgentSpec } from "../../sync/mapping.ts";

function registered(name: string, capability: string, emits: readonly string[]): AgentSpec {
  return { name, registration: { agentId: `${name}-adapter`, agentType: name, capabilities: [capability], emits } };
}

const TASK_EVENTS = ["task.started", "task.completed", "task.failed"];

/** The five of the platform's registry, then two that own rows but have no adapter yet. */
export const agents: readonly AgentSpec[] = [
  registered("ai-reviewer", "review", ["review.requested", "review.completed", "agent.error"]),
  registered("ai-planner", "plan", ["plan.requested", "plan.generated", "agent.error"]),
  registered("ai-deployer", "deploy", ["deployment.requested", "deployment.completed", "deployment.failed"]),
  registered("hive-coder", "code", TASK_EVENTS),
  registered("guardian", "monitor", TASK_EVENTS),
  { name: "orchestrator" },
  { name: "qa-agent" },
];
