import { z } from "zod";

/** What the platform's agents are asked and answer, by capability. Loads zod. Fields of their own are let through. */

const text = z.string().min(1);
const object = z.looseObject;

export const TASK_SCHEMAS = {
  review: {
    input: object({
      code_path: text,
      pr_id: z.union([z.string(), z.number().int()]).nullish(),
      auto_fix: z.boolean().nullish(),
    }),
    output: object({
      review_score: z.number().min(0).max(100),
      violations: z.array(z.unknown()).nullish(),
      suggestions: z.array(z.unknown()).nullish(),
      auto_fix_result: z.record(z.string(), z.unknown()).nullish(),
    }),
  },
  plan: {
    input: object({ description: text }),
    output: object({
      plan: z.union([z.record(z.string(), z.unknown()), z.array(z.unknown())]),
      phases: z.array(z.unknown()),
    }),
  },
  deploy: {
    input: object({ service_name: text, environment: text }),
    output: object({ deployment_id: text, status: text }),
  },
  code: {
    input: object({ description: text }),
    output: object({ files_modified: z.array(z.string()), status: text }),
  },
  monitor: {
    input: object({ target: text }),
    output: object({ status: text, alerts: z.array(z.unknown()) }),
  },
} as const;
