-- What was written and is not on the other side yet, and what hive needs to follow it.

-- migrate:up

-- One row for each time a trigger saw an aggregate change: which side, which unified root table it belongs to, and its
-- key. Triggers only ever append: no constraint of this table can fail an agent's statement, and a hash index has no
-- longest key. Of several transactions any may commit first: `xid` tells what a view has seen.
CREATE TABLE hive.hive_changes (
  seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  side TEXT,
  source TEXT,
  key TEXT,
  -- A Julian day, UTC.
  at DOUBLE PRECISION,
  xid XID8 DEFAULT pg_current_xact_id()
);
CREATE INDEX ix_hive_changes_xid ON hive.hive_changes (xid);
CREATE INDEX ix_hive_changes_key ON hive.hive_changes USING hash (key);
-- Where a trigger could not note which rows were changed.
CREATE INDEX ix_hive_changes_gap ON hive.hive_changes (source) WHERE side = 'gap';

-- Keys that hive wrote outside of a backfill: what a backfill in progress must not write over, and what
-- `check --changed` looks at.
CREATE TABLE hive.hive_written (
  seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  source TEXT NOT NULL,
  key TEXT NOT NULL,
  xid XID8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX ix_hive_written_xid ON hive.hive_written (xid);

-- Before which transaction the last full check of an agent saw all that was written, if it found no drift:
-- `check --changed` goes on from there.
CREATE TABLE hive.hive_checked (
  agent TEXT PRIMARY KEY NOT NULL,
  at TEXT NOT NULL,
  -- The agent's flags and the tables as they were; under others nothing follows from it.
  basis TEXT NOT NULL,
  written BIGINT NOT NULL
);

-- Aggregates of agents at `complete` that were written on the unified side only.
CREATE TABLE hive.hive_behind (
  source TEXT NOT NULL,
  key TEXT NOT NULL,
  PRIMARY KEY (source, key)
);

-- Aggregates whose unified side leads and holds what the legacy side cannot: the unified rows (as JSON) that the legacy
-- ones said when both were last carried over. A later legacy change is told from what was written above by them.
CREATE TABLE hive.hive_bases (
  source TEXT NOT NULL,
  key TEXT NOT NULL,
  agent TEXT NOT NULL,
  base TEXT NOT NULL,
  -- 1: a copy of the unified rows, as they are, is in hive_kept.
  kept INTEGER NOT NULL,
  PRIMARY KEY (source, key)
);

-- Tables whose triggers went missing while they were needed: what was written meanwhile is looked for key by key.
CREATE TABLE hive.hive_gaps (
  table_name TEXT PRIMARY KEY NOT NULL,
  noticed_at TEXT NOT NULL,
  -- The last key that was looked at, as JSON; NULL before the first.
  cursor TEXT
);

-- Differences that reads of both sides met, each kind once.
CREATE TABLE hive.hive_mismatches (
  mapping TEXT NOT NULL,
  agent TEXT NOT NULL,
  difference TEXT NOT NULL,
  times INTEGER NOT NULL,
  first_at TEXT NOT NULL,
  last_at TEXT NOT NULL,
  -- An example.
  key TEXT NOT NULL,
  legacy TEXT,
  unified TEXT,
  PRIMARY KEY (mapping, agent, difference)
);

-- How long the transactions took in which hive wrote, minute by minute.
CREATE TABLE hive.hive_work (
  minute TEXT NOT NULL,
  operation TEXT NOT NULL,
  commits INTEGER NOT NULL,
  held_ms DOUBLE PRECISION NOT NULL,
  longest_ms DOUBLE PRECISION NOT NULL,
  aggregates INTEGER NOT NULL,
  PRIMARY KEY (minute, operation)
);

-- migrate:down

DROP TABLE hive.hive_work;
DROP TABLE hive.hive_mismatches;
DROP TABLE hive.hive_gaps;
DROP TABLE hive.hive_bases;
DROP TABLE hive.hive_behind;
DROP TABLE hive.hive_checked;
DROP TABLE hive.hive_written;
DROP TABLE hive.hive_changes;
