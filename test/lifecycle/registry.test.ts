import { fork } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Settings } from "../../src/config.ts";
import { HiveError } from "../../src/errors.ts";
import { verify } from "../../src/observe/verify.ts";
import { functionProbe, type HealthProbe } from "../../src/registry/adapters.ts";
import { StandardAgent } from "../../src/registry/agent.ts";
import { Agents } from "../../src/registry/agents.ts";
import { healthCheckAll, standingOf } from "../../src/registry/health.ts";
import { AgentRegistry, heartbeatsOf, noteHeartbeats } from "../../src/registry/registry.ts";
import * as schemas from "../../src/results.ts";
import { listAudit } from "../../src/rollout/audit.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { BACKENDS } from "../support/backends.ts";
import { openShop, type Shop, START } from "../support/shop.ts";

const DIST = resolve(process.env.HIVE_TEST_DIST ?? fileURLToPath(new URL("../../dist", import.meta.url)));
const CHILD = fileURLToPath(new URL("../support/agents-child.mjs", import.meta.url));

/** A hive of its own, in a process of its own, on this database. */
async function elsewhere<T>(shop: Shop, request: object): Promise<T> {
  expect(existsSync(join(DIST, "index.js")), "npm run build").toBe(true);
  const child = fork(CHILD, [DIST, JSON.stringify({ database: shop.url, directory: shop.directory, ...request })]);
  const [answer] = await once(child, "message");
  await once(child, "exit");
  if (answer.error) throw new Error(answer.error);
  return answer.result;
}

async function refusal(work: Promise<unknown>): Promise<HiveError> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof HiveError)) throw new Error(`expected a HiveError, got ${String(error)}`);
  return error;
}

const MINUTE = 60_000;
const untold = async () => null;
const agentsOf = (shop: Shop, settings: Settings["agents"] = {}) =>
  new Agents({ ...shop.context, settings: { ...shop.context.settings, agents: settings } }, untold);

const COURIER = {
  agent: "courier",
  agentId: "courier-1",
  agentType: "carrier",
  capabilities: ["carry", "sell"],
  emits: ["sold"],
};

describe.each(BACKENDS)("$name", (backend) => {
  const open = (migrated = true) => openShop({ backend, migrated });

  describe("the registry", () => {
    test("has the mapping's agents after migrate up, and those that others register; every process sees them", async () => {
      await using shop = await open();
      const registry = new AgentRegistry(shop.context);
      expect((await registry.list()).map(({ agent }) => agent)).toEqual(["sales", "support"]);
      expect(await registry.register(COURIER, { reason: "new" })).toMatchObject({ ...COURIER, status: "unknown" });

      type Listed = { agents: { agent: string }[] };
      const seen = await elsewhere<Listed>(shop, { action: "list" });
      // Under another mapping there: those that it does not know come by name.
      expect(seen.agents.map(({ agent }) => agent)).toEqual(["courier", "sales", "support"]);
      await elsewhere(shop, { action: "register", registration: { ...COURIER, agent: "walker", agentId: "walker-1" } });
      expect((await registry.get("walker-1")).agent).toBe("walker");
      await elsewhere(shop, { action: "heartbeat", agent: "walker" });
      expect((await registry.get("walker")).lastHeartbeatAt).not.toBeNull();
      await elsewhere(shop, { action: "unregister", agent: "courier" });
      expect((await registry.list()).map(({ agent }) => agent)).toEqual(["sales", "support", "walker"]);
    });

    test("finds by name, id, type and capability", async () => {
      await using shop = await open();
      const registry = new AgentRegistry(shop.context);
      await registry.register(COURIER);
      const names = async (found: Promise<{ agent: string }[]>) => (await found).map(({ agent }) => agent);
      expect((await registry.get("sales-1")).agent).toBe("sales");
      expect(await names(registry.byType("carrier"))).toEqual(["courier"]);
      expect(await names(registry.byCapability("sell"))).toEqual(["sales", "support", "courier"]);
      expect(await names(registry.byCapability("se"))).toEqual([]);
      expect(await names(registry.list({ agentType: "helper", capability: "sell" }))).toEqual(["support"]);
      expect(await refusal(registry.get("curier"))).toMatchObject({
        code: "UNKNOWN_AGENT",
        details: { nearest: "courier" },
      });
      expect(await registry.stats()).toEqual({
        agents: 3,
        healthy: 0,
        unhealthy: 0,
        unknown: 3,
        byType: { carrier: 1, helper: 1, seller: 1 },
        byCapability: { carry: 1, help: 1, sell: 3 },
      });
    });

    test("says in the audit log who was registered and taken out; what is so already is not written again", async () => {
      await using shop = await open();
      const registry = new AgentRegistry(shop.context);
      const log = async () =>
        (await listAudit(shop.context.store.read)).entries
          .filter(({ action }) => action.endsWith("agent"))
          .map(({ action, agent, reason, before, after }) => ({ action, agent, reason, before, after }));
      await registry.register(COURIER, { reason: "new" });
      await registry.register(COURIER, { reason: "again" });
      const more = { ...COURIER, agentId: "courier-2", capabilities: ["carry"] };
      await registry.register(more);
      await registry.unregister("courier-2", { reason: "gone" });
      expect(await log()).toEqual([
        { action: "register agent", agent: "courier", reason: "new", before: null, after: COURIER },
        { action: "register agent", agent: "courier", reason: null, before: COURIER, after: more },
        { action: "unregister agent", agent: "courier", reason: "gone", before: more, after: null },
      ]);
    });

    test("refuses an id that another agent has, and an agent without one", async () => {
      await using shop = await open();
      const registry = new AgentRegistry(shop.context);
      const taken = { ...COURIER, agentId: "sales-1" };
      expect(await refusal(registry.register(taken))).toMatchObject({
        code: "RECORD_EXISTS",
        details: { agent: "sales" },
      });
      expect(await refusal(registry.register({ ...COURIER, agentId: " " }))).toMatchObject({ code: "USAGE" });
      expect(await refusal(registry.unregister("nobody"))).toMatchObject({ code: "UNKNOWN_AGENT" });
      expect(await refusal(registry.heartbeat("nobody"))).toMatchObject({ code: "UNKNOWN_AGENT" });
      expect((await registry.list()).length).toBe(2);
    });

    test("registered by several at once, it is there once, and the audit log is whole", async () => {
      await using shop = await open();
      const registrations = Array.from({ length: 8 }, (_, i) => ({
        ...COURIER,
        agent: "courier",
        agentId: `c-${i % 2}`,
      }));
      await Promise.all(
        registrations.map((one) => new AgentRegistry(shop.context).register(one).catch(() => undefined)),
      );
      expect((await new AgentRegistry(shop.context).list()).length).toBe(3);
      expect((await verify(shop.context)).ok).toBe(true);
    });

    test("an agent of the mapping that was taken out fails verify, and comes back with migrate up", async () => {
      await using shop = await open();
      const registry = new AgentRegistry(shop.context);
      await registry.unregister("sales");
      const check = (await verify(shop.context)).checks.find(({ name }) => name === "agents");
      expect(check).toMatchObject({ ok: false, detail: expect.stringContaining("sales") });
      await migrateUp(shop.context);
      expect((await registry.get("sales")).agentId).toBe("sales-1");
    });

    test("before migrate up there is none", async () => {
      await using shop = await open(false);
      const agents = agentsOf(shop);
      expect(await refusal(agents.list())).toMatchObject({ code: "NOT_MIGRATED" });
      expect(await refusal(agents.health())).toMatchObject({ code: "NOT_MIGRATED" });
      expect(await refusal(agents.registry.heartbeat("sales"))).toMatchObject({ code: "NOT_MIGRATED" });
      expect(await refusal(agents.registry.register(COURIER))).toMatchObject({ code: "NOT_MIGRATED" });
    });
  });

  describe("heartbeats", () => {
    test("keep an agent healthy; when they stop it is unhealthy; another agent's say nothing of it", async () => {
      await using shop = await open();
      const registry = new AgentRegistry(shop.context);
      const status = async () => (await registry.list()).map((one) => one.status);
      expect(await status()).toEqual(["unknown", "unknown"]);
      await registry.heartbeat("sales-1");
      expect(await status()).toEqual(["healthy", "unknown"]);
      shop.clock.minutes(2);
      expect(await status()).toEqual(["healthy", "unknown"]);
      shop.clock.minutes(0.1);
      expect(await status()).toEqual(["unhealthy", "unknown"]);
      expect((await registry.get("sales")).detail).toBe("no heartbeat for 126 s");
      await registry.heartbeat("sales");
      expect(await status()).toEqual(["healthy", "unknown"]);
    });

    test("come as events, by name or id; the last one counts, none of the future, none of strangers", async () => {
      await using shop = await open();
      const { context, clock } = shop;
      const event = (sourceAgent: string, minutes: number, type = "alive") => ({
        type,
        sourceAgent,
        recordedAt: new Date(START + minutes * MINUTE).toISOString(),
      });
      const take = (events: ReturnType<typeof event>[]) =>
        context.store.transaction("intake", (tx) =>
          noteHeartbeats(tx, heartbeatsOf({ heartbeatEvent: "alive" }, events), clock.iso()),
        );
      const known = async () => (await new AgentRegistry(context).list()).map((one) => one.lastHeartbeatAt);
      clock.minutes(10);
      expect(
        await take([event("sales", 3), event("sales", 5), event("sales", 4), event("support-1", 2), event("x", 1)]),
      ).toBe(2);
      expect(await known()).toEqual([event("", 5).recordedAt, event("", 2).recordedAt]);
      await take([event("sales", 1), event("support", 9, "sold")]);
      expect(await known()).toEqual([event("", 5).recordedAt, event("", 2).recordedAt]);
      await take([event("sales", 1e6)]);
      await take([{ ...event("support", 0), recordedAt: "9999" }]);
      expect(await known()).toEqual([clock.iso(), clock.iso()]);
      expect(heartbeatsOf({}, [event("sales", 1)])).toEqual([]);
    });
  });

  describe("a health check of all", () => {
    const agent = (shop: Shop, name: string, probe?: HealthProbe) => {
      const spec = shop.context.mapping.agents.find((one) => one.name === name);
      const registration = spec?.registration ?? { agentId: name, agentType: name, capabilities: [], emits: [] };
      return new StandardAgent({ spec: { name, registration }, emit: untold, clock: shop.clock, probe });
    };

    test("one that hangs holds up none of the others; what they said is seen by all", async () => {
      await using shop = await open();
      let release: () => void = () => undefined;
      const order: string[] = [];
      const hangs: HealthProbe = {
        kind: "function",
        ask: () => {
          order.push("sales asked");
          return new Promise((done) => {
            release = () => done({ status: "healthy", detail: null });
          });
        },
      };
      const answers = functionProbe(() => {
        order.push("support answered");
        // The first one is still being waited for.
        release();
        return { status: "sick", detail: "no\u0000 memory" };
      });
      const agents = [agent(shop, "sales", hangs), agent(shop, "support", answers), agent(shop, "stranger", answers)];
      const reports = await healthCheckAll(shop.context, agents, { timeoutMs: 10_000, concurrency: 2 });
      expect(order.slice(0, 2)).toEqual(["sales asked", "support answered"]);
      expect([...reports].map(([id, { status }]) => [id, status]).sort()).toEqual([
        ["sales-1", "healthy"],
        ["stranger", "unhealthy"],
        ["support-1", "unhealthy"],
      ]);
      expect((await new AgentRegistry(shop.context).list()).map(({ status, detail }) => [status, detail])).toEqual([
        ["healthy", null],
        ["unhealthy", "no memory"],
      ]);
      expect(shop.all("SELECT agent_id FROM hive_agent_health ORDER BY agent_id").length).toBe(2);
    });

    test("no more at a time than were asked for, and each of them once", async () => {
      await using shop = await open();
      let [running, most, asked] = [0, 0, 0];
      const probe: HealthProbe = {
        kind: "function",
        ask: async () => {
          asked += 1;
          running += 1;
          most = Math.max(most, running);
          await new Promise((done) => setImmediate(done));
          running -= 1;
          return { status: "healthy", detail: null };
        },
      };
      const many = Array.from({ length: 50 }, (_, i) => agent(shop, `a${i}`, probe));
      expect((await healthCheckAll(shop.context, many, { concurrency: 4 })).size).toBe(50);
      expect([most, asked]).toEqual([4, 50]);
    });

    test("an old check is no sign of health; a bad one stays bad until a better one", async () => {
      await using shop = await open();
      const registry = new AgentRegistry(shop.context);
      let sick = false;
      const ask = () =>
        healthCheckAll(shop.context, [
          agent(
            shop,
            "sales",
            functionProbe(() => !sick),
          ),
        ]);
      const status = async () => (await registry.get("sales")).status;
      await ask();
      expect(await status()).toBe("healthy");
      shop.clock.minutes(3);
      expect(await status()).toBe("unknown");
      sick = true;
      await ask();
      expect(await status()).toBe("unhealthy");
      shop.clock.minutes(60);
      expect(await status()).toBe("unhealthy");
      await registry.heartbeat("sales");
      expect(await status()).toBe("unhealthy");
      sick = false;
      await ask();
      expect(await status()).toBe("healthy");
    });

    test("from the config: a command, a URL that nobody serves, an agent that nothing can ask", async () => {
      await using shop = await open();
      const agents = agentsOf(shop, {
        sales: { health: { command: [process.execPath, "-e", "process.exit(0)"], heartbeatTimeoutMs: 1_000 } },
        "support-1": { url: "http://127.0.0.1:9/x", health: { url: "http://127.0.0.1:9/x", timeoutMs: 5_000 } },
      });
      await agents.registry.register(COURIER);
      const dry = await agents.health({ dryRun: true });
      const statuses = [
        ["sales", "healthy", true],
        ["support", "unhealthy", true],
        ["courier", "unknown", false],
      ];
      const shown = (result: typeof dry) => result.agents.map((one) => [one.agent, one.status, one.checked]);
      expect([dry.healthy, shown(dry)]).toEqual([false, statuses]);
      expect(shop.all("SELECT * FROM hive_agent_health")).toEqual([]);
      const result = await agents.health();
      schemas.agentsHealth.parse(result);
      expect(shown(result)).toEqual(statuses);
      expect(await agents.health({ agents: ["sales-1"] })).toMatchObject({ healthy: true });
      expect(await refusal(agents.health({ agents: ["nobody"] }))).toMatchObject({ code: "UNKNOWN_AGENT" });
      const show = await agents.show("support");
      schemas.agentsShow.parse(show);
      expect(show).toMatchObject({ adapter: "url", healthCheck: "url", status: "unhealthy", emits: [] });
      expect(await agents.show("courier")).toMatchObject({ adapter: null, healthCheck: null });
      // A heartbeat that is too old outweighs a check that found it well.
      await agents.registry.heartbeat("sales");
      shop.clock.time += 1_500;
      expect((await agents.health({ agents: ["sales"] })).agents).toMatchObject([
        { status: "unhealthy", checked: true },
      ]);
    });

    test("one that was opened in this process answers for itself", async () => {
      await using shop = await open();
      await using agents = agentsOf(shop);
      await agents.open("sales", { run: () => ({ sold: 1 }), check: () => ({ status: "ok" }) });
      expect((await agents.health({ agents: ["sales"] })).healthy).toBe(true);
      expect(await agents.show("sales")).toMatchObject({ adapter: "function", healthCheck: "function" });
      const sales = await agents.open("sales", { run: (input: { n: number }) => input.n + 1 });
      expect((await sales.execute({ input: { n: 1 } })).output).toBe(2);
    });
  });
});

describe("how an agent is, by what is known", () => {
  const time = (ms: number) => new Date(START + ms).toISOString();
  const known = fc.record({
    status: fc.constantFrom(null, "healthy", "unhealthy", "unknown", "", "fine"),
    detail: fc.constantFrom(null, "why"),
    checkedAt: fc.oneof(fc.constantFrom(null, "", "soon"), fc.integer({ min: -500, max: 500 }).map(time)),
    lastHeartbeatAt: fc.oneof(fc.constantFrom(null, "", "9999"), fc.integer({ min: -500, max: 500 }).map(time)),
  });

  test("healthy only with a good sign that is no older than the timeout; with nothing, unknown", () => {
    fc.assert(
      fc.property(known, fc.integer({ min: 1, max: 300 }), (health, timeoutMs) => {
        const { status, detail } = standingOf(health, START, timeoutMs);
        const recent = (at: string | null) => Math.abs(Date.parse(at ?? "") - START) <= timeoutMs;
        const late = START - Date.parse(health.lastHeartbeatAt ?? "") > timeoutMs;
        if (status === "healthy") {
          expect(late).toBe(false);
          expect((health.status === "healthy" && recent(health.checkedAt)) || recent(health.lastHeartbeatAt)).toBe(
            true,
          );
        }
        if (late) expect(status).toBe("unhealthy");
        const nothing = [health.checkedAt, health.lastHeartbeatAt].every((at) => Number.isNaN(Date.parse(at ?? "")));
        if (nothing) expect(status).toBe("unknown");
        expect(detail === null).toBe(status === "healthy");
      }),
      { numRuns: 2_000 },
    );
  });
});
