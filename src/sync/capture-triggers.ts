import type { UniqueColumn } from "../storage/port.ts";

/** A table whose changes are captured. */
export interface CapturedTable {
  readonly name: string;
  /** What the log says of its rows. Of events, only those that are added are noted. */
  readonly side: "legacy" | "unified" | "event";
  /** Columns that hold the key of an aggregate, and the unified root table that the aggregate belongs to. */
  readonly keys: readonly CapturedKey[];
  /** Its columns as declared: kept in a trigger, so that a table which was altered since is told from one that was not. */
  readonly shape: string;
  /** The table of the mapping that it holds rows of, where it is a part of that one. */
  readonly partOf?: string;
  /** Sets of columns by which a new row can take the place of another one. */
  readonly unique: readonly (readonly UniqueColumn[])[];
}

export interface CapturedKey {
  readonly source: string;
  readonly column: string;
  /** Whether the table has the aggregate's root row: a related row without a key belongs to nothing. */
  readonly root: boolean;
}

/** A trigger as it should be. */
export interface TriggerSpec {
  readonly name: string;
  readonly table: string;
  /** As the database gives it back. */
  readonly definition: string;
  readonly create: readonly string[];
  readonly drop: string;
}

/** Whether two definitions differ in the shape of the table only: the older one notes the same. */
export function sameButShape(a: string, b: string): boolean {
  const withoutShape = (definition: string) => definition.replace(/\/\* .*? \*\//s, "");
  return withoutShape(a) === withoutShape(b);
}
