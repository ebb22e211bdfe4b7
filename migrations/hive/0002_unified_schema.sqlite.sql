-- The unified schema. Alembic knows it as revision f97f94fd1a27. JSON and times (ISO UTC) are text.

-- migrate:up

CREATE TABLE unified_tasks (
  id TEXT NOT NULL PRIMARY KEY,
  correlation_id TEXT NOT NULL,
  task_type TEXT NOT NULL,
  status TEXT NOT NULL,
  agent_type TEXT NOT NULL,
  priority INTEGER,
  input_data TEXT NOT NULL,
  output_data TEXT,
  task_metadata TEXT,
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL,
  started_at TEXT,
  completed_at TEXT,
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
  review_result TEXT,
  violations TEXT,
  suggestions TEXT,
  auto_fix_enabled INTEGER,
  auto_fix_attempts INTEGER,
  auto_fix_result TEXT,
  created_at TEXT NOT NULL,
  reviewed_at TEXT
);
CREATE INDEX ix_unified_review_tasks_correlation_id ON unified_review_tasks (correlation_id);

CREATE TABLE unified_workflow_tasks (
  task_id TEXT NOT NULL PRIMARY KEY,
  correlation_id TEXT NOT NULL,
  workflow_type TEXT NOT NULL,
  current_phase TEXT NOT NULL,
  total_phases INTEGER NOT NULL,
  phases_completed INTEGER,
  phase_history TEXT,
  workflow_config TEXT,
  workflow_result TEXT,
  created_at TEXT NOT NULL,
  workflow_started_at TEXT,
  workflow_completed_at TEXT
);
CREATE INDEX ix_unified_workflow_tasks_correlation_id ON unified_workflow_tasks (correlation_id);

CREATE TABLE unified_deployment_tasks (
  task_id TEXT NOT NULL PRIMARY KEY,
  correlation_id TEXT NOT NULL,
  service_name TEXT NOT NULL,
  environment TEXT NOT NULL,
  commit_sha TEXT,
  strategy TEXT NOT NULL,
  deployment_config TEXT,
  deployment_url TEXT,
  deployment_status TEXT,
  deployment_logs TEXT,
  health_check_url TEXT,
  health_status TEXT,
  created_at TEXT NOT NULL,
  deployed_at TEXT,
  validated_at TEXT
);
CREATE INDEX ix_unified_deployment_tasks_correlation_id ON unified_deployment_tasks (correlation_id);

-- migrate:down

DROP TABLE unified_deployment_tasks;
DROP TABLE unified_workflow_tasks;
DROP TABLE unified_review_tasks;
DROP TABLE unified_tasks;
