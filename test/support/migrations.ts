/** The first of hive's own: it makes the ledger, and going down drops that last. */
export const LEDGER = "0001_hive_ledger";
/** hive's own, in the order in which they are applied; the mapping's and the user's come after them. */
export const OWN = [LEDGER, "0003_hive_capture", "0004_hive_events"] as const;
/** The platform's mapping has this one. */
export const UNIFIED = "0002_unified_schema";
/** What `up` applies for the platform's mapping, in its order. */
export const PLATFORM = [...OWN, UNIFIED] as const;
