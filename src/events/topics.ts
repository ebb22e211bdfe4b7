import { HiveError } from "../errors.ts";

/**
 * Whether a pattern names this event type: exactly, or with `*` for any characters, dots too. So `task.*`, `*.completed`
 * and `*`, and also `*.auto_*`. Takes time in proportion to both lengths at worst, whatever the pattern.
 */
export function matches(pattern: string, type: string): boolean {
  let at = 0;
  let star = -1;
  let from = 0;
  let i = 0;
  // The last star is the only one that ever has to be tried again: what was matched before it stays matched.
  while (i < type.length) {
    if (at < pattern.length && pattern[at] === "*") {
      star = at;
      from = i;
      at += 1;
    } else if (at < pattern.length && pattern[at] === type[i]) {
      at += 1;
      i += 1;
    } else if (star >= 0) {
      from += 1;
      i = from;
      at = star + 1;
    } else return false;
  }
  while (pattern[at] === "*") at += 1;
  return at === pattern.length;
}

/** Whether one of the patterns names this type. */
export function matchesAny(patterns: readonly string[], type: string): boolean {
  return patterns.some((pattern) => matches(pattern, type));
}

export type Handler<E> = (event: E) => unknown;

interface Registration<E> {
  readonly pattern: string;
  readonly handler: Handler<E>;
}

/**
 * Handlers by topic pattern, in this process: `registry.register("task.*", handler)`. For durable subscribers see
 * `hive.events.subscribe`.
 */
export class TopicRegistry<E extends { readonly type: string }> {
  private registrations: readonly Registration<E>[] = [];

  /**
   * Has `handler` called for every event whose type the pattern names; comes back with a function that ends this
   * registration and no other.
   * @throws USAGE for an empty pattern
   */
  register(pattern: string, handler: Handler<E>): () => void {
    if (pattern === "") {
      throw new HiveError("USAGE", "A topic pattern cannot be empty.", {
        hint: "Give a type, or a pattern like `task.*`, `*.completed` or `*`.",
      });
    }
    const registration = { pattern, handler };
    // A new list each time: a handler may register others while an event is being dispatched.
    this.registrations = [...this.registrations, registration];
    return () => {
      this.registrations = this.registrations.filter((one) => one !== registration);
    };
  }

  /** The handlers for this type in the order of their registration, each once however many patterns name it. */
  handlers(type: string): readonly Handler<E>[] {
    return [
      ...new Set(this.registrations.filter(({ pattern }) => matches(pattern, type)).map(({ handler }) => handler)),
    ];
  }

  /**
   * Calls the handlers for this event one after the other; one that fails keeps none of the others from being called.
   * @returns how many were called
   * @throws what a handler threw; an AggregateError where several did
   */
  async dispatch(event: E): Promise<number> {
    const handlers = this.handlers(event.type);
    const errors: unknown[] = [];
    for (const handler of handlers) {
      try {
        await handler(event);
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 1) throw new AggregateError(errors, `${errors.length} handlers of ${event.type} failed.`);
    if (errors.length === 1) throw errors[0];
    return handlers.length;
  }
}
