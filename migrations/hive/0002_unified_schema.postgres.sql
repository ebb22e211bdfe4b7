-- The unified schema. Alembic knows it as revision f97f94fd1a27. JSON is jsonb, times are timestamptz.

-- migrate:up

CREATE TABLE unified_tasks (
  id TEXT NOT NULL PRIMARY KEY,
  correlation_id TEXT NOT NULL,
  task_type TEXT NOT NULL,
  status TEXT NOT NULL,
  agent_type TEXT NOT NULL,
  priority INTEGER,
  input_data JSONB NOT NULL,
  output_data JSONB,
  task_metadata JSONB,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL,
  started_at TIMESTAMPTZ,
  completed_at TIMESTAMPTZ,
  error_message TEXT,
  retry_count INTEGER,
  max_retries INTEGER
);
CREATE INDEX ix_unified_tasks_correlation_id ON unified_tasks (correlation_id);
CREATE INDEX ix_unified_tasks_status ON unified_tasks (status);
CREATE INDEX ix_unified_tasks_task_type ON unified_tasks (task_type);

CREATE TABLE unified_review_tasks (
  task_id TEXT NOT NULL PRIMARY KEY,
  correlation_id TEXT NOT NULL,
  code_path TEXT NOT NULL,
  pr_id TEXT,
  review_score INTEGER,
  review_result JSONB,
  violations JSONB,
  suggestions JSONB,
  auto_fix_enabled INTEGER,
  auto_fix_attempts INTEGER,
  auto_fix_result JSONB,
  created_at TIMESTAMPTZ NOT NULL,
  reviewed_at TIMESTAMPTZ
);
CREATE INDEX ix_unified_review_tasks_correlation_id ON unified_review_tasks (correlation_id);

CREATE TABLE unified_workflow_tasks (
  task_id TEXT NOT NULL PRIMARY KEY,
  correlation_id TEXT NOT NULL,
  workflow_type TEXT NOT NULL,
  current_phase TEXT NOT NULL,
  total_phases INTEGER NOT NULL,
  phases_completed INTEGER,
  phase_history JSONB,
  workflow_config JSONB,
  workflow_result JSONB,
  created_at TIMESTAMPTZ NOT NULL,
  workflow_started_at TIMESTAMPTZ,
  workflow_completed_at TIMESTAMPTZ
);
CREATE INDEX ix_unified_workflow_tasks_correlation_id ON unified_workflow_tasks (correlation_id);

CREATE TABLE unified_deployment_tasks (
  task_id TEXT NOT NULL PRIMARY KEY,
  correlation_id TEXT NOT NULL,
  service_name TEXT NOT NULL,
  environment TEXT NOT NULL,
  commit_sha TEXT,
  strategy TEXT NOT NULL,
  deployment_config JSONB,
  deployment_url TEXT,
  deployment_status TEXT,
  deployment_logs JSONB,
  health_check_url TEXT,
  health_status TEXT,
  created_at TIMESTAMPTZ NOT NULL,
  deployed_at TIMESTAMPTZ,
  validated_at TIMESTAMPTZ
);
CREATE INDEX ix_unified_deployment_tasks_correlation_id ON unified_deployment_tasks (correlation_id);

-- migrate:down

DROP TABLE unified_deployment_tasks;
DROP TABLE unified_workflow_tasks;
DROP TABLE unified_review_tasks;
DROP TABLE unified_tasks;
