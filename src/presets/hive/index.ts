import { defineMapping, type PlatformMapping } from "../../sync/mapping.ts";
import { agents } from "./agents.ts";
import { EVENT_TYPES, events } from "./events.ts";
import { executionPlans, planningQueue } from "./plans.ts";
import { records } from "./records.ts";
import { tasks } from "./tasks.ts";

export { EVENT_TYPES, EXTENSION_EVENT_TYPES, LEGACY_EVENT_NAMES } from "./events.ts";
export { UNIFIED_STATUSES, UNIFIED_TASK_TYPES, type UnifiedStatus, type UnifiedTaskType } from "./vocabulary.ts";

/** The platform that `hive` was made for: its tasks, planning queue and plans, its agents and event types. */
export const hivePreset: PlatformMapping = defineMapping({
  name: "hive",
  aggregates: [tasks, planningQueue, executionPlans],
  agents,
  eventTypes: EVENT_TYPES,
  events,
  heartbeatEvent: "agent.heartbeat",
  records,
  // The same from src/, from dist/ and in an installed package.
  migrations: new URL("../../../migrations/hive/", import.meta.url).href,
  adopts: [
    {
      migration: "0002_unified_schema",
      table: "alembic_version",
      column: "version_num",
      version: "f97f94fd1a27",
      tables: ["unified_tasks", "unified_review_tasks", "unified_workflow_tasks", "unified_deployment_tasks"],
    },
  ],
});

export default hivePreset;
