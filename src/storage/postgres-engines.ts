import { HiveError } from "../errors.ts";

/** What hive needs of a server, by the names that docs/scaling.md explains. */
const NEEDS = {
  transitionTables: "transition tables of triggers",
  truncateTriggers: "triggers for TRUNCATE",
  snapshotFunctions: "pg_current_snapshot() and its like for the whole database",
  transactionalDdl: "DDL in transactions",
  advisoryLocks: "advisory locks",
  skipLocked: "SKIP LOCKED on every table",
} as const;

type Need = keyof typeof NEEDS;

/** What a server says of itself. */
export interface ServerFacts {
  /** `version()`. */
  readonly version: string;
  /** `server_version`. */
  readonly serverVersion: string;
  /** `server_version_num`. */
  readonly number: number;
  readonly extensions: readonly string[];
}

interface Engine {
  readonly name: string;
  readonly lacks: readonly Need[];
  is(facts: ServerFacts): boolean;
}

/** Servers that speak PostgreSQL and on which hive does not work: the first that fits. Their sources: docs/scaling.md. */
const ENGINES: readonly Engine[] = [
  {
    name: "CockroachDB",
    is: ({ version }) => version.startsWith("CockroachDB"),
    lacks: ["transitionTables", "truncateTriggers", "snapshotFunctions", "transactionalDdl", "advisoryLocks"],
  },
  {
    name: "YugabyteDB",
    is: ({ version, serverVersion }) => version.includes("-YB-") || serverVersion.includes("-YB-"),
    lacks: ["transitionTables", "truncateTriggers", "snapshotFunctions", "transactionalDdl", "advisoryLocks"],
  },
  {
    name: "Citus",
    is: ({ extensions }) => extensions.includes("citus"),
    lacks: [
      ...(["transitionTables", "truncateTriggers", "snapshotFunctions"] as const),
      ...(["transactionalDdl", "advisoryLocks", "skipLocked"] as const),
    ],
  },
  {
    name: "PostgreSQL before 13",
    is: ({ number }) => number < 130_000,
    lacks: ["snapshotFunctions"],
  },
];

/** Why hive does not work on this server; null where it does. */
export function unsupported(facts: ServerFacts, location: string): HiveError | null {
  const engine = ENGINES.find((one) => one.is(facts));
  if (engine === undefined) return null;
  const lacks = engine.lacks.map((need) => NEEDS[need]).join(", ");
  return new HiveError(
    "CONFIG_INVALID",
    `${location} is ${engine.name} (${facts.version}), on which hive does not work: it lacks ${lacks}.`,
    {
      hint: "hive works on PostgreSQL 13 and later, and on SQLite. Nothing was written.",
      details: { engine: engine.name, version: facts.version, lacks: [...engine.lacks] },
    },
  );
}
