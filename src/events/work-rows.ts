import type { Context } from "../context.ts";
import type { Session, Table, Tuple } from "../storage/port.ts";
import { among, id, join, type Sql, sql } from "../storage/sql.ts";
import { keyText, keyValue, type WorkTable } from "../sync/mapping.ts";
import { readTime } from "./event.ts";

/** What the unified tables say of a piece of work. */

export interface WorkRow {
  readonly table: string;
  readonly key: string;
  readonly correlationId: string | null;
  readonly status: string;
  /** Nothing more happens to it. */
  readonly final: boolean;
  readonly agent: string | null;
  readonly kind: string | null;
  readonly changedAt: string | null;
}

interface Place {
  readonly spec: WorkTable;
  readonly key: string;
  readonly table: Table;
}

const AT_ONCE = 256;

/** The tables that are there and can be looked into by an index. */
async function places({ store, mapping }: Context, session: Session): Promise<Place[]> {
  const found: Place[] = [];
  for (const spec of mapping.events?.trace?.work ?? []) {
    const root = mapping.aggregates.find((one) => one.unified.root.table === spec.table)?.unified.root;
    const table = root ? await store.table(spec.table, session) : null;
    if (!root || !table) continue;
    const columns = new Set(table.columns.map(({ name }) => name));
    const needed = [root.key, spec.correlation, spec.status];
    if (!needed.every((name) => columns.has(name))) continue;
    // Without an index every trace would read the whole table.
    if (table.indexes.some((one) => one.columns[0] === spec.correlation)) found.push({ spec, key: root.key, table });
  }
  return found;
}

function values({ table }: Place, column: string, texts: readonly string[]) {
  const type = table.columns.find(({ name }) => name === column)?.type ?? "text";
  return [...new Set(texts)].map((text) => keyValue(text, type)).filter((value) => value !== null);
}

/** The keys of what belongs to these pieces of work, each with the one that it belongs to. */
export async function keysOfWork(
  session: Session,
  context: Context,
  correlationIds: readonly string[],
  most: number,
): Promise<{ readonly key: string; readonly from: string | null }[]> {
  const rows = await workOf(session, context, correlationIds, [], most);
  return rows.map(({ key, correlationId }) => ({ key, from: correlationId }));
}

/** The rows that belong to these pieces of work, and those with these keys; at most so many of each table. */
export async function workOf(
  session: Session,
  context: Context,
  correlationIds: readonly string[],
  keys: readonly string[],
  most: number,
): Promise<WorkRow[]> {
  const found = new Map<string, WorkRow>();
  for (const place of await places(context, session)) {
    const { spec } = place;
    const optional = (column: string | undefined) => (column === undefined ? sql`NULL` : id(column));
    const columns = [id(place.key), id(spec.correlation), id(spec.status)];
    columns.push(...[spec.agent, spec.kind, spec.changedAt].map(optional));
    let room = most;
    const look = async (column: string, texts: readonly string[]) => {
      const wanted = values(place, column, texts);
      for (let at = 0; at < wanted.length && room > 0; at += AT_ONCE) {
        const where: Sql = sql`${id(column)} IN ${among(wanted.slice(at, at + AT_ONCE))}`;
        const rows = await session.tuples(
          sql`SELECT ${join(columns)} FROM ${id(spec.table)} WHERE ${where} LIMIT ${room}`,
        );
        for (const row of rows) {
          const one = decoded(spec, row);
          if (one === null || found.has(`${spec.table}\u0000${one.key}`)) continue;
          found.set(`${spec.table}\u0000${one.key}`, one);
          room -= 1;
        }
      }
    };
    await look(spec.correlation, correlationIds);
    await look(place.key, keys);
  }
  return [...found.values()];
}

function decoded(spec: WorkTable, row: Tuple): WorkRow | null {
  const key = keyText(row[0]);
  if (key === null) return null;
  const text = (i: number) => (row[i] === null || row[i] === undefined ? null : String(row[i]));
  const status = text(2) ?? "";
  return {
    table: spec.table,
    key,
    correlationId: text(1),
    status,
    final: spec.final.includes(status),
    agent: text(3),
    kind: text(4),
    changedAt: readTime(text(5)),
  };
}
