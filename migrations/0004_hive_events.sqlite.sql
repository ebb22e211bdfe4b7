-- Events: the outbox, who reads it and how far, and what is measured. Times are ISO UTC text, JSON is text.

-- migrate:up

-- A contract for programs in any language, kept stable: INSERT INTO hive_events (event_type, source_agent,
-- correlation_id, subject, payload) VALUES (…), in the transaction whose deed it tells. Nothing of this table can fail
-- that statement: what does not fit is put aside later, with the reason. Numbers are given by commit order, and never
-- twice as long as the newest event stays: whoever prunes leaves it. (AUTOINCREMENT would leave a table behind for good,
-- and a gap where an insert does nothing since there is such an id already.)
CREATE TABLE hive_events (
  seq INTEGER PRIMARY KEY,
  -- A UUIDv7.
  id TEXT UNIQUE DEFAULT (
    printf('%08x-%04x-7', CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) >> 16,
      CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) & 65535)
    || substr(lower(hex(randomblob(2))), 2) || '-' || substr('89ab', 1 + (random() & 3), 1)
    || substr(lower(hex(randomblob(2))), 2) || '-' || lower(hex(randomblob(6)))),
  event_type TEXT,
  source_agent TEXT,
  -- The work that it belongs to; NULL: only itself.
  correlation_id TEXT,
  -- The id of the event that led to it.
  causation_id TEXT,
  -- What it is about: events of one subject are delivered in order.
  subject TEXT,
  payload TEXT DEFAULT '{}',
  metadata TEXT,
  occurred_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  recorded_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
CREATE INDEX ix_hive_events_correlation ON hive_events (correlation_id);
-- Of those that name a cause only: the others pay nothing for it.
CREATE INDEX ix_hive_events_causation ON hive_events (causation_id) WHERE causation_id IS NOT NULL;

-- Durable readers of events.
CREATE TABLE hive_subscribers (
  name TEXT PRIMARY KEY NOT NULL,
  -- A JSON list.
  patterns TEXT NOT NULL,
  -- All events up to this number were dealt with, but for those in hive_deliveries.
  checkpoint INTEGER NOT NULL,
  -- Grows with each replay and redrive: whoever delivers looks anew.
  epoch INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('active', 'expired')),
  created_at TEXT NOT NULL,
  seen_at TEXT NOT NULL,
  delivered INTEGER NOT NULL,
  failed INTEGER NOT NULL
);

-- Events at or below a checkpoint that are not done: one that failed and is tried again, and those of the same subject
-- that wait behind it.
CREATE TABLE hive_deliveries (
  subscriber TEXT NOT NULL,
  seq INTEGER NOT NULL,
  subject TEXT,
  state TEXT NOT NULL CHECK (state IN ('failed', 'waiting')),
  attempts INTEGER NOT NULL,
  -- Not before: milliseconds since the epoch.
  next_at INTEGER NOT NULL,
  error TEXT,
  PRIMARY KEY (subscriber, seq)
);
CREATE INDEX ix_hive_deliveries_subject ON hive_deliveries (subscriber, subject, seq);

-- Events that a subscriber could not deal with, or, with subscriber '', that are no valid events at all.
CREATE TABLE hive_dead_letters (
  subscriber TEXT NOT NULL,
  seq INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('dead', 'dropped')),
  at TEXT NOT NULL,
  reason TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  -- A copy, as JSON: it outlives the event.
  event TEXT NOT NULL,
  PRIMARY KEY (subscriber, seq)
);

-- How agents are.
CREATE TABLE hive_agent_health (
  agent_id TEXT PRIMARY KEY NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('healthy', 'unhealthy', 'unknown')),
  checked_at TEXT,
  latency_ms REAL,
  detail TEXT,
  last_heartbeat_at TEXT
);

-- What agents' aggregates looked like when events were last derived from them.
CREATE TABLE hive_event_states (
  source TEXT NOT NULL,
  key TEXT NOT NULL,
  agent TEXT NOT NULL,
  state TEXT NOT NULL,
  PRIMARY KEY (source, key)
);

-- What is measured, by the minute; many processes add to it.
CREATE TABLE hive_metrics (
  minute TEXT NOT NULL,
  metric TEXT NOT NULL,
  label TEXT NOT NULL,
  count INTEGER NOT NULL,
  sum REAL NOT NULL,
  -- A histogram: JSON, counts by the number of the bucket.
  buckets TEXT NOT NULL,
  PRIMARY KEY (minute, metric, label)
);

-- All agents of the mapping, whether they have a registration or not.
CREATE TABLE hive_rollout (
  agent TEXT PRIMARY KEY NOT NULL
);

-- For programs in any language: one row for every agent and flag, `on`, `off`, or what an agent reads.
CREATE VIEW hive_flag_values AS
  SELECT a.agent AS agent, f.flag AS flag, coalesce(v.value, f.otherwise) AS value
  FROM hive_rollout AS a
  CROSS JOIN (SELECT 'unified-events' AS flag, 'off' AS otherwise UNION ALL SELECT 'dual-write', 'off'
    UNION ALL SELECT 'agent-adapters', 'off' UNION ALL SELECT 'reads', 'legacy') AS f
  LEFT JOIN hive_flags AS v ON v.agent = a.agent AND v.flag = f.flag;

-- migrate:down

DROP VIEW hive_flag_values;
DROP TABLE hive_rollout;
DROP TABLE hive_metrics;
DROP TABLE hive_event_states;
DROP TABLE hive_agent_health;
DROP TABLE hive_dead_letters;
DROP TABLE hive_deliveries;
DROP TABLE hive_subscribers;
DROP TABLE hive_events;
