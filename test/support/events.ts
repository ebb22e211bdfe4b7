import type { Context } from "../../src/context.ts";
import type { HiveEvent } from "../../src/events/event.ts";
import { type SubscribeOptions, type Subscription, subscribe } from "../../src/events/subscriptions.ts";
import { migrateUp } from "../../src/schema/migrator.ts";
import type { Backend, Place } from "./backends.ts";
import { type TestContextOptions, testContext, tinyMapping } from "./context.ts";

/** Databases with events and those who read them, for tests. */

export const TYPE = "note.written";

type Given = Distributed<SubscribeOptions>;
type Distributed<T> = T extends SubscribeOptions ? Omit<T, "name" | "patterns"> & Partial<T> : never;

export interface EventPlace extends AsyncDisposable {
  readonly place: Place;
  readonly context: Context;
  /** By plain SQL, all in one transaction. */
  emit(...events: readonly { subject?: string | null; n: number; type?: string; at?: string }[]): void;
  /** As "s", to everything from the start, where nothing else is said. */
  subscribe(options: Given): Promise<Subscription>;
  other(options?: TestContextOptions): Context & AsyncDisposable;
}

export async function eventPlace(backend: Backend, options: TestContextOptions = {}): Promise<EventPlace> {
  const place = await backend.create();
  const opened: AsyncDisposable[] = [];
  const other = (more: TestContextOptions = {}) => {
    const context = testContext(place.url, { mapping: tinyMapping, ...options, ...more });
    opened.push(context);
    return context;
  };
  const context = other();
  await migrateUp(context);
  const subscriptions: Subscription[] = [];
  return {
    place,
    context,
    other,
    emit: (...events) => place.execute(insertion(events)),
    subscribe: async (wanted) => {
      const given = { name: "s", patterns: ["*"], from: "start", ...wanted } as SubscribeOptions;
      const subscription = await subscribe(context, given);
      subscriptions.push(subscription);
      return subscription;
    },
    [Symbol.asyncDispose]: async () => {
      await Promise.allSettled(subscriptions.map((one) => one.stop()));
      for (const one of opened.reverse()) await one[Symbol.asyncDispose]();
    },
  };
}

export function insertion(
  events: readonly { subject?: string | null; n: number; type?: string; at?: string }[],
): string {
  const text = (value: string | null | undefined) => (value == null ? "NULL" : `'${value.replaceAll("'", "''")}'`);
  return events
    .map(({ subject, n, type = TYPE, at }) => {
      const [column, value] = at === undefined ? ["", ""] : [", recorded_at", `, ${text(at)}`];
      return `INSERT INTO hive_events (event_type, source_agent, subject, payload${column})
        VALUES (${text(type)}, 'writer', ${text(subject)}, '{"n":${n}}'${value})`;
    })
    .join(";\n");
}

export const numberOf = (event: HiveEvent): number => Number(event.payload.n);

/** Something that is waited for: how a fact becomes known. */
export function gate<T = void>(): { promise: Promise<T>; open(value: T): void } {
  let open: (value: T) => void = () => undefined;
  const promise = new Promise<T>((resolve) => {
    open = resolve;
  });
  return { promise, open };
}

/** Waits until the database says so. */
export async function until(fact: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await fact())) await new Promise((resolve) => setTimeout(resolve, 5));
}
