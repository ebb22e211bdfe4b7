// One operation of the library in a process of its own, so that its time and its peak memory are its own.
import { CONFIG_DEFAULTS, openHive } from "../dist/index.js";

const [database, name, json] = process.argv.slice(2);
const hive = await openHive({ ...CONFIG_DEFAULTS, database, baseDirectory: "/" });
const operations = {
  up: () => hive.migrations.up(),
  backfill: (options) => hive.backfill(options),
  check: (options) => hive.check(options),
  sync: (options) => hive.sync(options),
  dualWriteOn: async () => {
    const { agents } = await hive.flags.list();
    return hive.flags.change(agents.map(({ agent }) => ({ agent, flag: "dual-write", value: "on" })));
  },
  dualWriter: async ({ operations }) => (await import("./dual-writer.js")).measure(hive, database, operations),
};
const began = performance.now();
const result = await operations[name](JSON.parse(json));
const seconds = (performance.now() - began) / 1000;
await hive[Symbol.asyncDispose]();
const maxRssMb = process.resourceUsage().maxRSS / 1024;
process.stdout.write(JSON.stringify({ seconds, result, maxRssMb }));
