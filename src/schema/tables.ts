import type { Session, Store, Table } from "../storage/port.ts";

type Tables = Pick<Store, "table">;

/**
 * The tables as this session sees them now, for those who ask for many: over a network each costs round trips, so they
 * are read once for each version of the schema. Not for a transaction that alters tables itself.
 */
export async function tablesIn(store: Store, session: Session): Promise<Tables> {
  if (store.dialect.singleWriter) return store;
  // From before they are read: where somebody comes in between, nobody will ever ask for this version again.
  const version = await store.schemaVersion(session);
  let known = latest.get(store);
  if (known?.version !== version) {
    known = { version, tables: new Map() };
    latest.set(store, known);
  }
  const { tables } = known;
  return {
    table: async (name) => {
      const found = tables.get(name);
      if (found !== undefined) return found;
      const table = await store.table(name, session);
      tables.set(name, table);
      return table;
    },
  };
}

const latest = new WeakMap<Store, { readonly version: number; readonly tables: Map<string, Table | null> }>();
