// A hive of its own on the database of a test: node agents-child.mjs DIST '{"database", "directory", "action", …}'.
// Sends one message: {result} or {error}.
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [dist = "", request = "{}"] = process.argv.slice(2);
const { database, directory, action, ...more } = JSON.parse(request);
const { CONFIG_DEFAULTS, openHive } = await import(pathToFileURL(join(dist, "index.js")).href);
const { metricsOf } = await import(pathToFileURL(join(dist, "observe/metrics.js")).href);

const hive = await openHive({ ...CONFIG_DEFAULTS, database, baseDirectory: directory }, { actor: "child" });
const actions = {
  list: () => hive.agents.list(),
  register: () => hive.agents.register(more.registration),
  unregister: () => hive.agents.unregister(more.agent),
  heartbeat: () => hive.agents.heartbeat(more.agent),
  /** So many of each, in rounds that are flushed one by one. */
  measure: async () => {
    const metrics = metricsOf(hive.context);
    for (let round = 0; round < more.rounds; round++) {
      for (let i = 0; i < more.each; i++) metrics.delivered("reader", more.ms);
      metrics.emitted("sold", "sales");
      await metrics.flush();
    }
    metrics.deliveryFailed("reader");
  },
};
let answer;
try {
  answer = { result: (await actions[action]()) ?? null };
} catch (error) {
  answer = { error: String(error.stack) };
}
await hive[Symbol.asyncDispose]();
process.send(answer, () => process.disconnect());
