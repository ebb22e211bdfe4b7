-- What was written and is not on the other side yet, and what hive needs to follow it.

-- migrate:up

-- One row for each time a trigger saw an aggregate change: which side, which unified root table it belongs to, and its
-- key. Triggers only ever append: no constraint of this table can fail an agent's statement. The newest row is never
-- removed (its side becomes NULL), so that no number is given twice.
CREATE TABLE hive_changes (
  seq INTEGER PRIMARY KEY,
  side TEXT,
  source TEXT,
  key,
  -- A Julian day, UTC.
  at REAL
);

-- Has a row only inside hive's own transactions, where nobody else sees it: triggers then note nothing.
CREATE TABLE hive_applying (
  active INTEGER
);

-- Keys that hive wrote outside of a backfill, newest last: what a backfill in progress must not write over, and what
-- `check --changed` looks at. The newest row is never removed.
CREATE TABLE hive_written (
  seq INTEGER PRIMARY KEY,
  source TEXT NOT NULL,
  key TEXT NOT NULL
);

-- Up to which row of hive_written the last full check of an agent saw, if it found no drift: `check --changed` goes on
-- from there.
CREATE TABLE hive_checked (
  agent TEXT PRIMARY KEY NOT NULL,
  at TEXT NOT NULL,
  -- The agent's flags and the tables as they were; under others nothing follows from it.
  basis TEXT NOT NULL,
  written INTEGER NOT NULL
);

-- Aggregates of agents at `complete` that were written on the unified side only.
CREATE TABLE hive_behind (
  source TEXT NOT NULL,
  key TEXT NOT NULL,
  PRIMARY KEY (source, key)
);

-- Aggregates whose unified side leads and holds what the legacy side cannot: the unified rows (as JSON) that the legacy
-- ones said when both were last carried over. A later legacy change is told from what was written above by them.
CREATE TABLE hive_bases (
  source TEXT NOT NULL,
  key TEXT NOT NULL,
  agent TEXT NOT NULL,
  base TEXT NOT NULL,
  -- 1: a copy of the unified rows, as they are, is in hive_kept.
  kept INTEGER NOT NULL,
  PRIMARY KEY (source, key)
);

-- Tables whose triggers went missing while they were needed: what was written meanwhile is looked for key by key.
CREATE TABLE hive_gaps (
  table_name TEXT PRIMARY KEY NOT NULL,
  noticed_at TEXT NOT NULL,
  -- The last key that was looked at, as JSON; NULL before the first.
  cursor TEXT
);

-- Differences that reads of both sides met, each kind once.
CREATE TABLE hive_mismatches (
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

-- How long hive held the write lock, minute by minute.
CREATE TABLE hive_work (
  minute TEXT NOT NULL,
  operation TEXT NOT NULL,
  commits INTEGER NOT NULL,
  held_ms REAL NOT NULL,
  longest_ms REAL NOT NULL,
  aggregates INTEGER NOT NULL,
  PRIMARY KEY (minute, operation)
);

-- migrate:down

DROP TABLE hive_work;
DROP TABLE hive_mismatches;
DROP TABLE hive_gaps;
DROP TABLE hive_bases;
DROP TABLE hive_behind;
DROP TABLE hive_checked;
DROP TABLE hive_written;
DROP TABLE hive_applying;
DROP TABLE hive_changes;
