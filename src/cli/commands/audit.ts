import type { AuditListResult, AuditVerifyResult } from "../../index.ts";
import { defineCommand, number, text } from "../command.ts";
import type { Cell } from "../render.ts";

const agent = text("--agent <name>", "only this agent");
const action = text("--action <name>", "only this action, e.g. flag or backfill");
const limit = number("--limit <n>", "the newest so many (default 100)", { integer: true, min: 1 });

export const list = defineCommand<AuditListResult>({
  name: "audit list",
  summary: "show who did what, when and why",
  description: "Shows who did what, when and why; the newest comes last. With --json also what was before and after.",
  parameters: [agent, action, limit],
  run: async (input, scope) =>
    (await scope.hive()).audit.list({
      agent: input.get(agent),
      action: input.get(action),
      limit: input.get(limit) ?? 100,
    }),
  human: async (result, ui) =>
    result.entries.length === 0
      ? "The audit log has no such entry."
      : ui.table(
          result.entries.map((one): Cell[] => [
            one.seq,
            one.at.replace(/\.\d+Z$/, "Z"),
            one.actor,
            one.action,
            one.agent ?? "",
            one.reason ?? "",
          ]),
          { head: ["#", "at", "who", "action", "agent", "why"] },
        ),
});

export const verify = defineCommand<AuditVerifyResult>({
  name: "audit verify",
  summary: "check that nobody changed the audit log",
  description:
    "Checks that every entry of the audit log is what it was when it was written, and that none is missing in " +
    "between. Exits with 3 if not.",
  run: async (_, scope) => (await scope.hive()).audit.verify(),
  human: (result, ui) =>
    result.ok
      ? `${ui.paint("good", "ok:")} ${ui.text(result.detail)}`
      : `${ui.paint("bad", "BROKEN:")} ${ui.text(result.detail)}`,
  exit: (result) => (result.ok ? 0 : 3),
});
