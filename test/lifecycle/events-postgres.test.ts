import pg from "pg";
import { describe, expect, test } from "vitest";
import { listEvents, tailEvents } from "../../src/events/listing.ts";
import { emitAlone, lastSeq, sequence } from "../../src/events/outbox.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import { postgres } from "../support/backends.ts";
import { platformContext } from "../support/legacy-platform.ts";

/** Where transactions commit in any order, an event has its number once it can be seen. */
describe.skipIf(process.env.HIVE_TEST_BACKEND === "sqlite")("the numbers of events on PostgreSQL", () => {
  async function platform() {
    const place = await postgres.create({ legacy: "text" });
    const context = platformContext(place.url);
    await migrateUp(context);
    const clients: pg.Client[] = [];
    return {
      context,
      place,
      /** An agent with a connection of its own. */
      async agent() {
        const client = new pg.Client({ connectionString: place.url });
        await client.connect();
        clients.push(client);
        const tell = (subject: string) =>
          client.query(
            "INSERT INTO hive.hive_events (event_type, source_agent, subject) VALUES ('task.started', 'a', $1)",
            [subject],
          );
        return { tell, run: (text: string) => client.query(text) };
      },
      order: async () => (await listEvents(context, { limit: 1_000 })).events.map(({ seq, subject }) => [seq, subject]),
      async [Symbol.asyncDispose]() {
        for (const client of clients) await client.end();
        await context[Symbol.asyncDispose]();
      },
    };
  }

  test("follow the commits, not the inserts, and nobody's waits for a long transaction", async () => {
    await using p = await platform();
    const [long, first, second] = [await p.agent(), await p.agent(), await p.agent()];
    await long.run("BEGIN");
    await long.tell("long");
    await first.run("BEGIN");
    await first.tell("first");
    await second.run("BEGIN");
    await second.tell("second");
    await second.run("COMMIT");
    expect(await p.order()).toEqual([[1, "second"]]);
    await first.run("COMMIT");
    await second.tell("third");
    expect(await p.order()).toEqual([
      [1, "second"],
      [2, "first"],
      [3, "third"],
    ]);
    await second.run("BEGIN");
    await second.tell("never");
    await second.run("ROLLBACK");
    await long.run("COMMIT");
    await second.tell("last");
    expect((await p.order()).slice(3)).toEqual([
      [4, "long"],
      [5, "last"],
    ]);
    expect(await lastSeq(p.context.store.read)).toBe(5);
  });

  test("have no gaps and no doubles while many commit and many number", async () => {
    await using p = await platform();
    const others = [platformContext(p.place.url), platformContext(p.place.url), p.context];
    const agents = await Promise.all(Array.from({ length: 4 }, () => p.agent()));
    let done = false;
    const each = 60;
    const telling = agents.map(async (agent, n) => {
      for (let i = 0; i < each; i++) {
        await agent.run("BEGIN");
        await agent.tell(`${n}-${i}`);
        await agent.run(i % 5 === 4 ? "ROLLBACK" : "COMMIT");
      }
    });
    const numbering = others.map(async ({ store }) => {
      while (!done) await sequence(store);
    });
    const seen: string[] = [];
    const stop = new AbortController();
    const following = (async () => {
      const wanted = agents.length * each * 0.8;
      for await (const event of tailEvents(p.context, { after: 0, limit: wanted, abort: stop.signal })) {
        expect(event.seq).toBe(seen.push(event.subject ?? ""));
      }
    })();
    await Promise.all(telling);
    await following;
    done = true;
    await Promise.all(numbering);
    for (const other of others) if (other !== p.context) await other[Symbol.asyncDispose]();
    expect(seen.length).toBe(192);
    expect(new Set(seen).size).toBe(192);
    // One agent's events keep its order.
    for (const [n] of agents.entries()) {
      const own = seen.filter((one) => one.startsWith(`${n}-`)).map((one) => Number(one.slice(2)));
      expect(own).toEqual([...own].sort((a, b) => a - b));
    }
  });

  test("are given a thousand at a time", async () => {
    await using p = await platform();
    p.place.execute(`INSERT INTO hive_flags VALUES ('hive-coder', 'unified-events', 'on', '');
      INSERT INTO hive_events (event_type, source_agent) SELECT 'task.started', 'a' FROM generate_series(1, 2500)`);
    const { commits } = p.context.store.stats;
    await sequence(p.context.store);
    expect(p.context.store.stats.commits).toBe(commits + 3);
    await sequence(p.context.store);
    expect(p.context.store.stats.commits).toBe(commits + 3);
    await emitAlone(p.context, { type: "task.started", sourceAgent: "hive-coder", subject: "s" });
    expect((await listEvents(p.context, { limit: 1 })).events).toMatchObject([{ seq: 2501, subject: "s" }]);
  });
});
