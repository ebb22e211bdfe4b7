import { isoTime } from "../clock.ts";
import type { Context } from "../context.ts";
import { lastSeq, putAsideAlone, readEvents, sequence } from "../events/outbox.ts";
import { metricsOf } from "../observe/metrics.ts";
import { heartbeatsOf, noteHeartbeats } from "../registry/registry.ts";

/** Heartbeats are looked for so far back when it begins; what is counted is only what comes from then on. */
const LOOK_BACK = 2_000;
const AT_ONCE = 500;

/**
 * Looks at each event once, whoever wrote it, by SQL or through the library: counts it, notes heartbeats, and puts aside
 * what is no valid event. For a process that runs all the time, and of which there is one.
 */
export class Intake {
  private readonly context: Context;
  /** Up to here everything was looked at; undefined before the first look. */
  private position: number | undefined;
  private countFrom = 0;

  constructor(context: Context) {
    this.context = context;
  }

  async take(): Promise<void> {
    const { context } = this;
    const { store, mapping, clock } = context;
    if ((await store.table("hive_events")) === null) return;
    await sequence(store);
    if (this.position === undefined) {
      this.countFrom = await lastSeq(store.read);
      this.position = Math.max(0, this.countFrom - LOOK_BACK);
    }
    const metrics = metricsOf(context);
    for (;;) {
      const { events, invalid, last, complete } = await readEvents(store.read, context, {
        after: this.position,
        limit: AT_ONCE,
      });
      await putAsideAlone(context, invalid);
      const heartbeats = heartbeatsOf(mapping, events);
      if (heartbeats.length > 0) {
        await metrics.transaction("heartbeats", (tx) => noteHeartbeats(tx, heartbeats, isoTime(clock)));
      }
      for (const { seq, type, sourceAgent } of events) if (seq > this.countFrom) metrics.emitted(type, sourceAgent);
      this.position = Math.max(this.position, last ?? 0);
      if (complete) return;
    }
  }
}
