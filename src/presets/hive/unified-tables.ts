import type { UnifiedRelated, UnifiedRoot } from "../../sync/mapping.ts";

/** The four tables of the unified schema (Alembic revision f97f94fd1a27). */

export const UNIFIED_TASKS: UnifiedRoot = {
  table: "unified_tasks",
  key: "id",
  columns: {
    id: "text",
    correlation_id: "text",
    task_type: "text",
    status: "text",
    agent_type: "text",
    priority: "integer",
    input_data: "json",
    output_data: "json",
    task_metadata: "json",
    created_at: "time",
    updated_at: "time",
    started_at: "time",
    completed_at: "time",
    error_message: "text",
    retry_count: "integer",
    max_retries: "integer",
  },
  notes: { task_metadata: ["legacy", "from_runs", "flags", "requires_human"] },
};

export const UNIFIED_REVIEW_TASKS: UnifiedRelated = {
  table: "unified_review_tasks",
  foreignKey: "task_id",
  key: ["task_id"],
  columns: {
    task_id: "text",
    correlation_id: "text",
    code_path: "text",
    pr_id: "text",
    review_score: "integer",
    review_result: "json",
    violations: "json",
    suggestions: "json",
    auto_fix_enabled: "integer",
    auto_fix_attempts: "integer",
    auto_fix_result: "json",
    created_at: "time",
    reviewed_at: "time",
  },
};

export const UNIFIED_WORKFLOW_TASKS: UnifiedRelated = {
  table: "unified_workflow_tasks",
  foreignKey: "task_id",
  key: ["task_id"],
  columns: {
    task_id: "text",
    correlation_id: "text",
    workflow_type: "text",
    current_phase: "text",
    total_phases: "integer",
    phases_completed: "integer",
    phase_history: "json",
    workflow_config: "json",
    workflow_result: "json",
    created_at: "time",
    workflow_started_at: "time",
    workflow_completed_at: "time",
  },
};

export const UNIFIED_DEPLOYMENT_TASKS: UnifiedRelated = {
  table: "unified_deployment_tasks",
  foreignKey: "task_id",
  key: ["task_id"],
  columns: {
    task_id: "text",
    correlation_id: "text",
    service_name: "text",
    environment: "text",
    commit_sha: "text",
    strategy: "text",
    deployment_config: "json",
    deployment_url: "text",
    deployment_status: "text",
    deployment_logs: "json",
    health_check_url: "text",
    health_status: "text",
    created_at: "time",
    deployed_at: "time",
    validated_at: "time",
  },
};
