import { createHash } from "node:crypto";
import { isoTime } from "../clock.ts";
import type { Context } from "../context.ts";
import {
  canonicalType,
  decodeEvent,
  type EventRow,
  eventRules,
  isInvalid,
  type ReadyEvent,
  readTime,
} from "../events/event.ts";
import { appendReady, putAsideAlone, readEvents, sequence } from "../events/outbox.ts";
import type { Session, Transaction, Value } from "../storage/port.ts";
import { among, id, ids, sql } from "../storage/sql.ts";
import { keyValues } from "./aggregates.ts";
import { type AddedEvent, consume, stillThere } from "./changes.ts";
import { type DataRow, type EventBridge, keyText, setColumn } from "./mapping.ts";
import { bridgedAgents, readAdapters } from "./telling.ts";

/**
 * Events that agents write into a table of the platform's own, as unified events: each row once, in the order in which
 * they were written. Its id follows from the row's key.
 */

/** A row of the log, and what it becomes: null where its agent is not asked about, or it is gone by now. */
interface Crossing {
  readonly seq: number;
  readonly event: Omit<ReadyEvent, "correlationId"> | null;
  readonly correlationId: string | null;
  readonly valid: boolean;
}

/** What the rows that were added are as events; to be done with {@link crossOver}. */
export async function judgeAdded(
  context: Context,
  session: Session,
  added: readonly AddedEvent[],
): Promise<readonly Crossing[]> {
  const { mapping, store } = context;
  const bridge = mapping.events?.bridge;
  if (added.length === 0) return [];
  const { on } = await readAdapters(context, session);
  const bridged = new Set([...bridgedAgents(context)].filter((agent) => on.has(agent)));
  const table = bridge && bridged.size > 0 ? await store.table(bridge.table, session) : null;
  if (!bridge || !table) return added.map(({ seq }) => ({ seq, event: null, correlationId: null, valid: true }));
  const keys = added
    .flatMap((one) => (one.table === bridge.table ? [keyText(one.key)] : []))
    .filter((key) => key !== null);
  const columns = [...new Set([bridge.key, ...bridge.columns])].filter((name) =>
    table.columns.some((column) => column.name === name),
  );
  const type = table.columns.find((column) => column.name === bridge.key)?.type ?? "text";
  const rows = new Map<string, DataRow>();
  const wanted = keyValues(keys, type);
  if (wanted.length > 0) {
    const found = await session.tuples(
      sql`SELECT ${ids(columns)} FROM ${id(bridge.table)} WHERE ${id(bridge.key)} IN ${among(wanted)}`,
    );
    for (const tuple of found) {
      const row: { [column: string]: Value } = {};
      for (const name of bridge.columns) setColumn(row, name, tuple[columns.indexOf(name)] ?? null);
      const key = keyText(tuple[columns.indexOf(bridge.key)]);
      if (key !== null) rows.set(key, row);
    }
  }
  const rules = await eventRules(mapping);
  return added.map(({ seq, key }): Crossing => {
    const name = keyText(key);
    const row = name === null ? undefined : rows.get(name);
    const agent = row && bridge.agent(row);
    if (!row || !agent || name === null || !bridged.has(agent)) {
      return { seq, event: null, correlationId: null, valid: true };
    }
    const { event, correlationId } = eventOf(context, bridge, row, name, agent);
    return { seq, event, correlationId, valid: !isInvalid(decodeEvent(asRow(event, correlationId), rules)) };
  });
}

function eventOf(context: Context, bridge: EventBridge, row: DataRow, key: string, agent: string) {
  const raw = bridge.event(row);
  const text = (value: Value) => (typeof value === "string" ? value : (keyText(value) ?? null));
  const meant = typeof raw.type === "string" ? canonicalType(context.mapping, raw.type) : null;
  const payload = text(raw.payload);
  const event = {
    id: eventId(bridge.table, key),
    type: meant?.type ?? text(raw.type) ?? "",
    sourceAgent: agent,
    causationId: null,
    subject: text(raw.subject),
    // Only where the name says more is the text not kept as it is.
    payload: (meant?.payload && payload !== null ? joined(meant.payload, payload) : payload) ?? "",
    metadata: text(raw.metadata),
    occurredAt: readTime(raw.occurredAt) ?? text(raw.occurredAt) ?? isoTime(context.clock),
  };
  return { event, correlationId: text(raw.correlationId) };
}

function joined(more: object, payload: string): string {
  try {
    const given: unknown = JSON.parse(payload);
    if (typeof given !== "object" || given === null || Array.isArray(given)) return payload;
    return JSON.stringify({ ...more, ...given });
  } catch {
    return payload;
  }
}

/** Always the same for the same row. */
export function eventId(table: string, key: string): string {
  const hex = createHash("sha256").update(`${table}\n${key}`).digest("hex");
  const variant = ((Number.parseInt(hex.slice(16, 17), 16) & 3) | 8).toString(16);
  // Version 8 of RFC 9562: made by a rule of one's own.
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

function asRow(event: Omit<ReadyEvent, "correlationId">, correlationId: string | null): EventRow {
  const { payload, metadata, occurredAt } = event;
  return {
    ...event,
    ...{ seq: 0, correlationId, occurredAt, recordedAt: occurredAt },
    ...{ payload, payloadBytes: Buffer.byteLength(payload) },
    ...{ metadata, metadataBytes: metadata === null ? null : Buffer.byteLength(metadata) },
  };
}

/**
 * Inside a write transaction: appends what was judged and takes it off the log. What somebody else did in between is
 * left. Gives the ids of those that are no valid events: to be put aside with {@link putInvalidAside}.
 */
export async function crossOver(
  tx: Transaction,
  context: Context,
  crossings: readonly Crossing[],
): Promise<readonly string[]> {
  if (crossings.length === 0) return [];
  if (!tx.dialect.singleWriter) await tx.serialize(["bridged events"]);
  const seqs = crossings.map(({ seq }) => seq);
  const there = await stillThere(tx, seqs);
  const left = crossings.filter(({ seq }) => there.has(seq));
  const named = left.flatMap(({ event }) => (event ? [event.id] : []));
  const known = await tx.all(sql`SELECT id FROM hive_events WHERE id IN ${among(named)}`);
  const told = new Set(known.map((row) => String(row.id)));
  const fresh: ReadyEvent[] = [];
  const invalid: string[] = [];
  for (const { event, correlationId, valid } of left) {
    // A row that was put in the place of another one with its key.
    if (!event || told.has(event.id)) continue;
    told.add(event.id);
    fresh.push({ ...event, correlationId: correlationId ?? event.id });
    if (!valid) invalid.push(event.id);
  }
  await appendReady(tx, fresh, isoTime(context.clock));
  await consume(tx, seqs);
  return invalid;
}

/** After the transaction: what cannot be read goes to the dead letters, with the reason. */
export async function putInvalidAside(context: Context, invalid: readonly string[]): Promise<void> {
  if (invalid.length === 0) return;
  const { store } = context;
  await sequence(store);
  const rows = await store.read.all(sql`SELECT seq FROM hive_events WHERE id IN ${among(invalid)} AND seq IS NOT NULL`);
  for (const { seq } of rows) {
    const page = await readEvents(store.read, context, { after: Number(seq) - 1, limit: 1 });
    await putAsideAlone(context, page.invalid);
  }
}
