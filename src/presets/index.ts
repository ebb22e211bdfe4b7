import type { PlatformMapping } from "../sync/mapping.ts";

/** The mappings that come with hive, by the name that the config uses. Loaded when chosen. */
export const presets: { readonly [name: string]: () => Promise<PlatformMapping> } = {
  hive: async () => (await import("./hive/index.ts")).hivePreset,
};
