import type { Context } from "../context.ts";
import { lastSeq } from "../events/outbox.ts";
import type { StatusResult } from "../results.ts";
import type { Row, Session } from "../storage/port.ts";
import { among, sql } from "../storage/sql.ts";

type EventState = NonNullable<StatusResult["events"]>;

const MINUTE_MS = 60_000;
const LATELY_MS = 10 * MINUTE_MS;
const MOST_DEAD_LETTERS = 10_000;
const MOST_SUBSCRIBERS = 1_000;

/** What matters of events; null where there are none. Only look-ups by number, however many there are. */
export async function eventState({ store, clock }: Context, session: Session): Promise<EventState | null> {
  if ((await store.table("hive_events", session)) === null) return null;
  const now = clock.now();
  const place = placeOf(session);
  const [newest] = await session.all(sql`SELECT ${place} AS place, substr(event_type, 1, 100) AS type,
    substr(recorded_at, 1, 40) AS at FROM hive_events ORDER BY ${place} DESC LIMIT 1`);
  const [dead] = await session.all(sql`SELECT count(*) AS count FROM
    (SELECT 1 FROM hive_dead_letters WHERE state = 'dead' LIMIT ${MOST_DEAD_LETTERS}) AS letters`);
  const rows = await session.all(
    sql`SELECT name, state, checkpoint FROM hive_subscribers ORDER BY name LIMIT ${MOST_SUBSCRIBERS}`,
  );
  const deadLetters = Number(dead?.count ?? 0);
  if (!newest && deadLetters === 0 && rows.length === 0) return null;
  const last = await lastSeq(session);
  const [unnumbered] = session.dialect.singleWriter
    ? []
    : await session.all(
        sql`SELECT substr(recorded_at, 1, 40) AS at FROM hive_events WHERE seq IS NULL ORDER BY n LIMIT 1`,
      );
  const age = (row: Row | undefined): number | null => {
    const ms = row ? now - Date.parse(String(row.at)) : Number.NaN;
    return Number.isFinite(ms) ? Math.max(0, ms) : null;
  };
  const subscribers: EventState["subscribers"] = [];
  for (const row of rows) {
    const checkpoint = Number(row.checkpoint);
    const [first] = await session.all(
      sql`SELECT substr(recorded_at, 1, 40) AS at FROM hive_events WHERE seq > ${checkpoint} ORDER BY seq LIMIT 1`,
    );
    subscribers.push({
      name: String(row.name),
      expired: row.state !== "active",
      behind: Math.max(0, last - checkpoint),
      lagMs: age(first ?? unnumbered),
    });
  }
  return {
    last,
    newest: newest ? { type: String(newest.type), ageMs: age(newest) } : null,
    perMinute: newest
      ? Math.round((await recent(session, Number(newest.place), now - LATELY_MS)) / (LATELY_MS / MINUTE_MS))
      : 0,
    deadLetters,
    subscribers,
  };
}

const PROBES = 32;

/** What events have in the order in which they came, also those that have no number yet. */
const placeOf = (session: Session) => (session.dialect.singleWriter ? sql`seq` : sql`n`);

/** About how many events are newer than this: their places hardly have gaps, so that looking at a few of them tells. */
async function recent(session: Session, last: number, since: number): Promise<number> {
  const place = placeOf(session);
  const newer = async (numbers: readonly number[]): Promise<ReadonlySet<number>> => {
    const rows = await session.all(
      sql`SELECT ${place} AS place, substr(recorded_at, 1, 40) AS at FROM hive_events WHERE ${place} IN ${among(numbers)}`,
    );
    return new Set(rows.filter(({ at }) => Date.parse(String(at)) >= since).map((row) => Number(row.place)));
  };
  // Of these numbers the first is newer, the last is not: what was pruned is old.
  let [inside, outside] = [last + 1, 0];
  for (let round = 0; round < 4 && inside - outside > 1; round++) {
    const step = Math.max(1, (inside - outside) / PROBES);
    const numbers = Array.from({ length: PROBES }, (_, i) => Math.floor(inside - 1 - step * i)).filter(
      (n) => n > outside,
    );
    const found = await newer(numbers);
    for (const number of numbers) {
      if (!found.has(number)) {
        outside = number;
        break;
      }
      inside = number;
    }
  }
  return last + 1 - inside;
}
