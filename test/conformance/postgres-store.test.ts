import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { systemClock } from "../../src/clock.ts";
import { postgresAt } from "../../src/storage/postgres.ts";
import { postgresDatabase } from "../support/postgres.ts";
import { executeSync } from "../support/sync-postgres.ts";
import { POSTGRES_SKIPS } from "./postgres-skips.ts";
import { describeStore } from "./store.ts";

const DIST = resolve(process.env.HIVE_TEST_DIST ?? fileURLToPath(new URL("../../dist", import.meta.url)));
const CHILD = fileURLToPath(new URL("./child.mjs", import.meta.url));

describeStore({
  name: "postgres",
  dialect: "postgres",
  skips: POSTGRES_SKIPS,
  create: async () => {
    const path = await postgresDatabase();
    return {
      open: (options) => postgresAt(path, { busyTimeoutMs: 10_000, leaseMs: 15_000, clock: systemClock, ...options }),
      execute: async (text) => executeSync(path, text),
      child: (request) => [process.execPath, CHILD, DIST, JSON.stringify({ path, ...request })],
    };
  },
});
