import type { AgentSpec, TaskFacts, TaskMoment, TaskSpec } from "../../sync/mapping.ts";

type Capability = "review" | "plan" | "deploy" | "code" | "monitor";

/** What it emits is what is told of its tasks: when one begins, ends well, fails. */
function registered(name: string, capability: Capability, emits: readonly [string, string, string]): AgentSpec {
  const [started, completed, failed] = emits;
  const tasks: TaskSpec = {
    events: { started, completed, failed },
    payload: (moment, task) => payload(TASK_FIELDS[capability], moment, task),
    schemas: async () => (await import("./task-schemas.ts")).TASK_SCHEMAS[capability],
  };
  return {
    name,
    registration: { agentId: `${name}-adapter`, agentType: name, capabilities: [capability], emits },
    tasks,
  };
}

const TASK_EVENTS = ["task.started", "task.completed", "task.failed"] as const;

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

/** What each kind of task takes and gives. */
const TASK_FIELDS: { readonly [capability in Capability]: TaskFields } = {
  review: {
    input: ["code_path", "pr_id", "auto_fix"],
    output: ["review_score", "violations", "suggestions", "auto_fix_result"],
  },
  plan: { input: ["description"], output: ["plan", "phases"] },
  deploy: { input: ["service_name", "environment"], output: ["deployment_id", "status"] },
  code: { input: ["description"], output: ["files_modified", "status"] },
  monitor: { input: ["target"], output: ["status", "alerts"] },
};

interface TaskFields {
  readonly input: readonly string[];
  readonly output: readonly string[];
}

/** What was asked for, and what came of it: whatever else an agent says is its own and the caller's business. */
function payload(fields: TaskFields, moment: TaskMoment, { taskId, agentId, input, output, error }: TaskFacts): object {
  const asked = { task_id: taskId, agent_id: agentId, ...only(fields.input, input) };
  if (moment === "completed") return { ...asked, ...only(fields.output, output) };
  return moment === "failed" ? { ...asked, error } : asked;
}

function only(names: readonly string[], value: unknown): object {
  if (typeof value !== "object" || value === null) return {};
  return Object.fromEntries(Object.entries(value).filter(([name]) => names.includes(name)));
}
