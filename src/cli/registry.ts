import type { Command } from "./command.ts";

export interface Entry {
  readonly name: string;
  /** For the list of commands; the command's own help says more. */
  readonly summary: string;
  load(): Promise<Command>;
}

/** Every command, in the order in which one comes to need them. A command's module is loaded when it is called. */
export const registry: readonly Entry[] = [
  {
    name: "demo",
    summary: "walk through the whole journey on a sample platform",
    load: async () => (await import("./commands/demo.ts")).demo,
  },
  {
    name: "init",
    summary: "write a config file",
    load: async () => (await import("./commands/init.ts")).init,
  },
  {
    name: "config",
    summary: "show every setting and where it comes from",
    load: async () => (await import("./commands/config.ts")).config,
  },
  {
    name: "status",
    summary: "where the migration stands, and what to do next",
    load: async () => (await import("./commands/status.ts")).status,
  },
  {
    name: "verify",
    summary: "check that hive's tables, agents and event types are all there",
    load: async () => (await import("./commands/verify.ts")).verify,
  },
  {
    name: "migrate up",
    summary: "apply pending schema migrations",
    load: async () => (await import("./commands/migrate.ts")).up,
  },
  {
    name: "migrate down",
    summary: "revert schema migrations",
    load: async () => (await import("./commands/migrate.ts")).down,
  },
  {
    name: "migrate status",
    summary: "list applied and pending migrations",
    load: async () => (await import("./commands/migrate.ts")).status,
  },
  {
    name: "migrate create",
    summary: "write an empty migration of your own",
    load: async () => (await import("./commands/migrate.ts")).create,
  },
  {
    name: "mapping test",
    summary: "show what becomes of some aggregates, without writing",
    load: async () => (await import("./commands/mapping.ts")).test,
  },
  {
    name: "flags list",
    summary: "show the flags and the stage of each agent",
    load: async () => (await import("./commands/flags.ts")).list,
  },
  {
    name: "flags enable",
    summary: "switch a flag on for some agents",
    load: async () => (await import("./commands/flags.ts")).enable,
  },
  {
    name: "flags disable",
    summary: "switch a flag off for some agents",
    load: async () => (await import("./commands/flags.ts")).disable,
  },
  {
    name: "flags set",
    summary: "set flags of one agent: reads=shadow",
    load: async () => (await import("./commands/flags.ts")).set,
  },
  {
    name: "flags history",
    summary: "show who changed which flag, when and why",
    load: async () => (await import("./commands/flags.ts")).history,
  },
  {
    name: "backfill",
    summary: "bring what existed before into the unified schema",
    load: async () => (await import("./commands/backfill.ts")).backfill,
  },
  {
    name: "sync",
    summary: "carry over what agents have changed since",
    load: async () => (await import("./commands/sync.ts")).sync,
  },
  {
    name: "check",
    summary: "compare both schemas, and mend the differences",
    load: async () => (await import("./commands/check.ts")).check,
  },
  {
    name: "quarantine list",
    summary: "show what could not be mapped, and why",
    load: async () => (await import("./commands/quarantine.ts")).list,
  },
  {
    name: "quarantine retry",
    summary: "try again what could not be mapped",
    load: async () => (await import("./commands/quarantine.ts")).retry,
  },
  {
    name: "quarantine discard",
    summary: "give up on what could not be mapped",
    load: async () => (await import("./commands/quarantine.ts")).discard,
  },
  {
    name: "kept list",
    summary: "show what hive kept before it took it away",
    load: async () => (await import("./commands/kept.ts")).list,
  },
  {
    name: "events list",
    summary: "show events in their order",
    load: async () => (await import("./commands/events.ts")).list,
  },
  {
    name: "events tail",
    summary: "show events as they come",
    load: async () => (await import("./commands/events.ts")).tail,
  },
  {
    name: "events emit",
    summary: "write an event",
    load: async () => (await import("./commands/events.ts")).emit,
  },
  {
    name: "events types",
    summary: "show the types of events, and who emits them",
    load: async () => (await import("./commands/events.ts")).types,
  },
  {
    name: "agents list",
    summary: "show the registered agents and how they are",
    load: async () => (await import("./commands/agents.ts")).list,
  },
  {
    name: "agents show",
    summary: "show all that is known of one agent",
    load: async () => (await import("./commands/agents.ts")).show,
  },
  {
    name: "agents health",
    summary: "ask the agents how they are",
    load: async () => (await import("./commands/agents.ts")).health,
  },
  {
    name: "events subscribers",
    summary: "show who reads events, and how far each is",
    load: async () => (await import("./commands/subscribers.ts")).list,
  },
  {
    name: "events replay",
    summary: "have a subscriber begin again at an earlier event",
    load: async () => (await import("./commands/subscribers.ts")).replay,
  },
  {
    name: "events unsubscribe",
    summary: "take a subscriber away for good",
    load: async () => (await import("./commands/subscribers.ts")).unsubscribe,
  },
  {
    name: "events prune",
    summary: "delete old events that everybody has read",
    load: async () => (await import("./commands/subscribers.ts")).prune,
  },
  {
    name: "events dead-letters list",
    summary: "show events that could not be dealt with, and why",
    load: async () => (await import("./commands/dead-letters.ts")).list,
  },
  {
    name: "events dead-letters show",
    summary: "show one of them whole",
    load: async () => (await import("./commands/dead-letters.ts")).show,
  },
  {
    name: "events dead-letters redrive",
    summary: "deliver them again",
    load: async () => (await import("./commands/dead-letters.ts")).redrive,
  },
  {
    name: "events dead-letters drop",
    summary: "give up on them",
    load: async () => (await import("./commands/dead-letters.ts")).drop,
  },
  {
    name: "trace",
    summary: "show what happened to one piece of work, across all agents",
    load: async () => (await import("./commands/trace.ts")).trace,
  },
  {
    name: "rollback",
    summary: "take agents back to an earlier stage, losing nothing",
    load: async () => (await import("./commands/rollback.ts")).rollback,
  },
  {
    name: "audit list",
    summary: "show who did what, when and why",
    load: async () => (await import("./commands/audit.ts")).list,
  },
  {
    name: "audit verify",
    summary: "check that nobody changed the audit log",
    load: async () => (await import("./commands/audit.ts")).verify,
  },
];
