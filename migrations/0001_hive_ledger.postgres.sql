-- hive's own tables. In a schema of their own. Times are ISO UTC text, JSON is text.

-- migrate:up

CREATE TABLE hive.hive_agents (
  agent TEXT PRIMARY KEY NOT NULL,
  agent_id TEXT NOT NULL UNIQUE,
  agent_type TEXT NOT NULL,
  capabilities TEXT NOT NULL,
  emits TEXT NOT NULL,
  registered_at TEXT NOT NULL
);

CREATE TABLE hive.hive_event_types (
  event_type TEXT PRIMARY KEY NOT NULL,
  registered_at TEXT NOT NULL
);

CREATE TABLE hive.hive_flags (
  agent TEXT NOT NULL,
  flag TEXT NOT NULL CHECK (flag IN ('unified-events', 'dual-write', 'agent-adapters', 'reads')),
  value TEXT NOT NULL CHECK (value IN ('on', 'off', 'legacy', 'shadow', 'live', 'unified')),
  changed_at TEXT NOT NULL,
  PRIMARY KEY (agent, flag)
);

CREATE TABLE hive.hive_audit (
  seq BIGINT PRIMARY KEY NOT NULL,
  at TEXT NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  agent TEXT,
  reason TEXT,
  before TEXT,
  after TEXT,
  previous_hash TEXT NOT NULL,
  hash TEXT NOT NULL
);
CREATE INDEX ix_hive_audit_action ON hive.hive_audit (action, agent);

CREATE TABLE hive.hive_backfill (
  agent TEXT NOT NULL,
  mapping TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('running', 'finished', 'stale')),
  -- The last key that was dealt with; NULL before the first.
  cursor TEXT,
  started_at TEXT NOT NULL,
  finished_at TEXT,
  written INTEGER NOT NULL,
  unchanged INTEGER NOT NULL,
  quarantined INTEGER NOT NULL,
  PRIMARY KEY (agent, mapping)
);

CREATE TABLE hive.hive_quarantine (
  mapping TEXT NOT NULL,
  key TEXT NOT NULL,
  agent TEXT NOT NULL,
  direction TEXT NOT NULL CHECK (direction IN ('up', 'down')),
  reason TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('quarantined', 'discarded')),
  at TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  PRIMARY KEY (mapping, key)
);

-- The last finished check of each agent: what the guards of the stages look at.
CREATE TABLE hive.hive_checks (
  agent TEXT PRIMARY KEY NOT NULL,
  at TEXT NOT NULL,
  compared INTEGER NOT NULL,
  identical INTEGER NOT NULL,
  missing INTEGER NOT NULL,
  extra INTEGER NOT NULL,
  different INTEGER NOT NULL,
  in_flight INTEGER NOT NULL,
  quarantined INTEGER NOT NULL
);

-- What hive took away or wrote over and what the other schema could not hold: whole aggregates as JSON.
CREATE TABLE hive.hive_kept (
  seq BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  at TEXT NOT NULL,
  mapping TEXT NOT NULL,
  key TEXT NOT NULL,
  agent TEXT NOT NULL,
  side TEXT NOT NULL CHECK (side IN ('legacy', 'unified')),
  reason TEXT NOT NULL,
  aggregate TEXT NOT NULL
);
CREATE INDEX ix_hive_kept_key ON hive.hive_kept (mapping, key);

-- migrate:down

DROP TABLE hive.hive_kept;
DROP TABLE hive.hive_checks;
DROP TABLE hive.hive_quarantine;
DROP TABLE hive.hive_backfill;
DROP TABLE hive.hive_audit;
DROP TABLE hive.hive_flags;
DROP TABLE hive.hive_event_types;
DROP TABLE hive.hive_agents;
