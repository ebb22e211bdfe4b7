-- Events: the outbox, who reads it and how far, and what is measured. Times are ISO UTC text, JSON is text.

-- migrate:up

CREATE FUNCTION hive.hive_uuid7() RETURNS TEXT LANGUAGE sql VOLATILE AS $$
  SELECT substr(hex, 1, 8) || '-' || substr(hex, 9, 4) || '-7' || substr(random, 2, 3) || '-'
    || substr('89ab', 1 + (get_byte(decode(substr(random, 5, 2), 'hex'), 0) & 3), 1) || substr(random, 8, 3) || '-'
    || substr(random, 13, 12)
  FROM (SELECT lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') AS hex,
    replace(gen_random_uuid()::text, '-', '') AS random) AS parts
$$;

CREATE FUNCTION hive.hive_now() RETURNS TEXT LANGUAGE sql VOLATILE AS $$
  SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- A contract for programs in any language, kept stable: INSERT INTO hive.hive_events (event_type, source_agent,
-- correlation_id, subject, payload) VALUES (…), in the transaction whose deed it tells. Nothing of this table can fail
-- that statement: what does not fit is put aside later, with the reason. `n` is given when the row is inserted and has
-- gaps; `seq` when the event can be seen by all, without gaps, in the order of `n` among those seen at once.
CREATE TABLE hive.hive_events (
  n BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  seq BIGINT UNIQUE,
  -- A UUIDv7.
  id TEXT UNIQUE DEFAULT hive.hive_uuid7(),
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
  occurred_at TEXT DEFAULT hive.hive_now(),
  recorded_at TEXT DEFAULT hive.hive_now()
);
CREATE INDEX ix_hive_events_correlation ON hive.hive_events USING hash (correlation_id);
-- Of those that name a cause only: the others pay nothing for it.
CREATE INDEX ix_hive_events_causation ON hive.hive_events USING hash (causation_id) WHERE causation_id IS NOT NULL;
CREATE INDEX ix_hive_events_new ON hive.hive_events (n) WHERE seq IS NULL;

-- The last number that was given.
CREATE TABLE hive.hive_event_numbers (
  last BIGINT NOT NULL
);
INSERT INTO hive.hive_event_numbers (last) VALUES (0);

-- Durable readers of events.
CREATE TABLE hive.hive_subscribers (
  name TEXT PRIMARY KEY NOT NULL,
  -- A JSON list.
  patterns TEXT NOT NULL,
  -- All events up to this number were dealt with, but for those in hive_deliveries.
  checkpoint BIGINT NOT NULL,
  -- Grows with each replay and redrive: whoever delivers looks anew.
  epoch BIGINT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('active', 'expired')),
  created_at TEXT NOT NULL,
  seen_at TEXT NOT NULL,
  delivered BIGINT NOT NULL,
  failed BIGINT NOT NULL
);

-- Events at or below a checkpoint that are not done: one that failed and is tried again, and those of the same subject
-- that wait behind it.
CREATE TABLE hive.hive_deliveries (
  subscriber TEXT NOT NULL,
  seq BIGINT NOT NULL,
  subject TEXT,
  state TEXT NOT NULL CHECK (state IN ('failed', 'waiting')),
  attempts INTEGER NOT NULL,
  -- Not before: milliseconds since the epoch.
  next_at BIGINT NOT NULL,
  error TEXT,
  PRIMARY KEY (subscriber, seq)
);
CREATE INDEX ix_hive_deliveries_subject ON hive.hive_deliveries (subscriber, subject, seq);

-- Events that a subscriber could not deal with, or, with subscriber '', that are no valid events at all.
CREATE TABLE hive.hive_dead_letters (
  subscriber TEXT NOT NULL,
  seq BIGINT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('dead', 'dropped')),
  at TEXT NOT NULL,
  reason TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  -- A copy, as JSON: it outlives the event.
  event TEXT NOT NULL,
  PRIMARY KEY (subscriber, seq)
);

-- How agents are.
CREATE TABLE hive.hive_agent_health (
  agent_id TEXT PRIMARY KEY NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('healthy', 'unhealthy', 'unknown')),
  checked_at TEXT,
  latency_ms DOUBLE PRECISION,
  detail TEXT,
  last_heartbeat_at TEXT
);

-- What agents' aggregates looked like when events were last derived from them.
CREATE TABLE hive.hive_event_states (
  source TEXT NOT NULL,
  key TEXT NOT NULL,
  agent TEXT NOT NULL,
  state TEXT NOT NULL,
  PRIMARY KEY (source, key)
);

-- What is measured, by the minute; many processes add to it.
CREATE TABLE hive.hive_metrics (
  minute TEXT NOT NULL,
  metric TEXT NOT NULL,
  label TEXT NOT NULL,
  count BIGINT NOT NULL,
  sum DOUBLE PRECISION NOT NULL,
  -- A histogram: JSON, counts by the number of the bucket.
  buckets TEXT NOT NULL,
  PRIMARY KEY (minute, metric, label)
);

-- All agents of the mapping, whether they have a registration or not.
CREATE TABLE hive.hive_rollout (
  agent TEXT PRIMARY KEY NOT NULL
);

-- For programs in any language: one row for every agent and flag, `on`, `off`, or what an agent reads.
CREATE VIEW hive.hive_flag_values AS
  SELECT a.agent AS agent, f.flag AS flag, coalesce(v.value, f.otherwise) AS value
  FROM hive.hive_rollout AS a
  CROSS JOIN (SELECT 'unified-events' AS flag, 'off' AS otherwise UNION ALL SELECT 'dual-write', 'off'
    UNION ALL SELECT 'agent-adapters', 'off' UNION ALL SELECT 'reads', 'legacy') AS f
  LEFT JOIN hive.hive_flags AS v ON v.agent = a.agent AND v.flag = f.flag;

-- migrate:down

DROP VIEW hive.hive_flag_values;
DROP TABLE hive.hive_rollout;
DROP TABLE hive.hive_metrics;
DROP TABLE hive.hive_event_states;
DROP TABLE hive.hive_agent_health;
DROP TABLE hive.hive_dead_letters;
DROP TABLE hive.hive_deliveries;
DROP TABLE hive.hive_subscribers;
DROP TABLE hive.hive_event_numbers;
DROP TABLE hive.hive_events;
DROP FUNCTION hive.hive_now();
DROP FUNCTION hive.hive_uuid7();
