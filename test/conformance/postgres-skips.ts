const rowLocks = "transactions write side by side: rows are locked, not the database. postgres.test.ts";
const noTriggerText = "triggers are written in another language: its own test is in postgres.test.ts";

/** What PostgreSQL cannot do of the common suite, and why. */
export const POSTGRES_SKIPS: Readonly<Record<string, string>> = {
  "values come back exactly, and of the kind they were":
    "no column holds any kind of value: postgres.test.ts has the types",
  "by which columns a row can take the place of another one": "no statement puts a row in the place of another one",
  "triggers by the beginning of their name, and a version that changes with every change": noTriggerText,
  "a commit by anybody wakes who waits for one; an abort, and the time, do too":
    "only what is captured can be seen at no cost for agents: postgres.test.ts",
  "a reader sees what others committed, and the number for it grows once": "there is no lock budget to share",
  "transactions of one store come one after the other": rowLocks,
  "waits for another process's transaction, up to its time": rowLocks,
  "what runs before the transaction takes no lock and cannot be seen by others": "dialect.temporaryTables is false",
  "references are enforced, except where a transaction says so":
    "switching them off asks for a superuser: what is brought back is refused instead",
};
