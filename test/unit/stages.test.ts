import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  ALL_OFF,
  authorityOf,
  commandFor,
  type Decision,
  decide,
  effectiveStage,
  type Facts,
  FLAGS,
  type FlagSetting,
  type FlagState,
  isFresh,
  isPossible,
  nextStage,
  parseSetting,
  previousStage,
  READS,
  type Reads,
  rank,
  STAGES,
  type Stage,
  settingBetween,
  stageOf,
} from "../../src/flags/stages.ts";

const NOW = Date.parse("2026-11-23T12:00:00.000Z");
const MINUTE = 60_000;

/** Everything that any gate asks for. */
const open: Facts = {
  ledger: true,
  missingUnified: [],
  missingLegacy: [],
  backfill: { state: "finished", finishedAt: NOW - 30 * MINUTE },
  check: { at: NOW - 10 * MINUTE, drift: 0 },
  stageSince: NOW - 20 * MINUTE,
  now: NOW,
  checkMaxAgeMs: 60 * MINUTE,
};
/** Nothing but the schema: what is so right after `hive migrate up`. */
const bare: Facts = { ...open, backfill: { state: "none" }, check: null };
const untouched: Facts = { ...bare, ledger: false, missingUnified: ["wide"] };

function at(stage: Stage): FlagState {
  let state = ALL_OFF;
  for (const one of STAGES.slice(1, rank(stage) + 1)) {
    const setting = settingBetween(previousStage(one) ?? "off", one);
    state = { ...state, [setting.flag]: setting.value };
  }
  return state;
}

const dual = (value: boolean): FlagSetting => ({ flag: "dual-write", value });
const reads = (value: Reads): FlagSetting => ({ flag: "reads", value });

function ask(state: FlagState, settings: FlagSetting[], facts: Facts = open, force = false): Decision {
  return decide({ agent: "alpha", settings, force }, state, facts);
}

function stages(decision: Decision): string[] {
  return decision.ok ? decision.changes.map((step) => `${step.stageBefore}→${step.stageAfter}`) : ["refused"];
}

describe("stages", () => {
  it.each<[boolean, Reads, Stage | null]>([
    [false, "legacy", "off"],
    [true, "legacy", "dualwrite"],
    [true, "shadow", "shadow"],
    [true, "live", "live"],
    [true, "unified", "rampdown"],
    [false, "unified", "complete"],
    [false, "shadow", null],
    [false, "live", null],
  ])("dual-write %s, reads %s is %s", (dualWrite, value, stage) => {
    expect(stageOf(dualWrite, value)).toBe(stage);
  });

  it("have an authority: legacy up to shadow, unified from live on", () => {
    expect(STAGES.map(authorityOf)).toEqual(["legacy", "legacy", "legacy", "unified", "unified", "unified"]);
  });

  it("have neighbours, which differ in one flag", () => {
    expect(STAGES.map(nextStage)).toEqual([...STAGES.slice(1), null]);
    expect(STAGES.map(previousStage)).toEqual([null, ...STAGES.slice(0, -1)]);
    for (const stage of STAGES) expect(effectiveStage(at(stage))).toBe(stage);
  });

  it("take an impossible pair as the stage that its reads names", () => {
    expect(effectiveStage({ ...ALL_OFF, reads: "shadow" })).toBe("shadow");
    expect(effectiveStage({ ...ALL_OFF, reads: "live" })).toBe("live");
    expect(isPossible({ ...ALL_OFF, reads: "live" })).toBe(false);
  });
});

describe("settings", () => {
  it("are read from text", () => {
    expect(parseSetting("reads", "Shadow")).toEqual(reads("shadow"));
    expect(parseSetting("dual-write", "true")).toEqual(dual(true));
    expect(parseSetting("unified-events", "off")).toEqual({ flag: "unified-events", value: false });
  });

  it("name the nearest flag and the possible values", () => {
    expect(() => parseSetting("dual_write", "on")).toThrow(expect.objectContaining({ code: "UNKNOWN_NAME" }));
    expect(() => parseSetting("dual_write", "on")).toThrow(/did you mean "dual-write"/);
    expect(() => parseSetting("reads", "on")).toThrow(expect.objectContaining({ code: "USAGE" }));
    expect(() => parseSetting("dual-write", "shadow")).toThrow(expect.objectContaining({ code: "USAGE" }));
  });

  it("have a command", () => {
    expect(commandFor("alpha", dual(true))).toBe("hive flags enable alpha --flag dual-write");
    expect(commandFor("alpha", dual(false))).toBe("hive flags disable alpha --flag dual-write");
    expect(commandFor("alpha", reads("live"))).toBe("hive flags set alpha reads=live");
  });
});

describe("going forward with every fact", () => {
  it.each(STAGES.slice(0, -1).map((stage) => [stage, nextStage(stage) ?? stage] as const))("%s → %s", (from, to) => {
    expect(stages(ask(at(from), [settingBetween(from, to)]))).toEqual([`${from}→${to}`]);
  });
});

describe("going back with no fact but the legacy tables", () => {
  it.each(STAGES.slice(1).map((stage) => [stage, previousStage(stage) ?? stage] as const))("%s → %s", (from, to) => {
    expect(stages(ask(at(from), [settingBetween(from, to)], bare))).toEqual([`${from}→${to}`]);
  });

  it.each(STAGES.slice(1).map((stage) => [stage, previousStage(stage) ?? stage] as const))(
    "%s → %s is refused, also by force, when they do not stand",
    (from, to) => {
      for (const missingLegacy of [["wide"], null]) {
        const decision = ask(at(from), [settingBetween(from, to)], { ...open, missingLegacy }, true);
        expect(decision).toMatchObject({ ok: false, refusals: [{ kind: "hard", remedy: "hive verify" }] });
      }
    },
  );
});

describe("guards", () => {
  const old = { at: NOW - 61 * MINUTE, drift: 0 };
  it.each<readonly [string, Stage, FlagSetting, Partial<Facts>, "hard" | "soft", RegExp, string]>([
    ["no ledger", "off", dual(true), { ledger: false }, "hard", /hive's own tables/, "hive migrate up"],
    [
      "no ledger",
      "off",
      { flag: "unified-events", value: true },
      { ledger: false },
      "hard",
      /own tables/,
      "hive migrate up",
    ],
    ["no unified table", "off", dual(true), { missingUnified: ["wide"] }, "hard", /missing: wide/, "hive migrate up"],
    ["unified tables unknown", "off", dual(true), { missingUnified: null }, "hard", /not known/, "hive migrate up"],
    [
      "no backfill",
      "dualwrite",
      reads("shadow"),
      { backfill: { state: "none" } },
      "soft",
      /never run/,
      "hive backfill alpha",
    ],
    [
      "running backfill",
      "dualwrite",
      reads("shadow"),
      { backfill: { state: "running" } },
      "soft",
      /not finished/,
      "hive backfill alpha",
    ],
    [
      "stale backfill",
      "dualwrite",
      reads("shadow"),
      { backfill: { state: "stale" } },
      "soft",
      /writes only what differs/,
      "hive backfill alpha",
    ],
    [
      "stale backfill",
      "shadow",
      reads("live"),
      { backfill: { state: "stale" } },
      "soft",
      /stale/,
      "hive backfill alpha",
    ],
    ["no check", "shadow", reads("live"), { check: null }, "soft", /never checked/, "hive check alpha"],
    [
      "drift",
      "shadow",
      reads("live"),
      { check: { at: NOW, drift: 3 } },
      "soft",
      /drift in 3 aggregates/,
      "hive check alpha --repair",
    ],
    ["old check", "shadow", reads("live"), { check: old }, "soft", /61 minutes old \(at most 60/, "hive check alpha"],
    [
      "check before the backfill's end",
      "shadow",
      reads("live"),
      { backfill: { state: "finished", finishedAt: NOW - 5 * MINUTE } },
      "soft",
      /older than the end/,
      "hive check alpha",
    ],
    [
      "check of the future",
      "shadow",
      reads("live"),
      { check: { at: NOW + 1, drift: 0 } },
      "soft",
      /relied on/,
      "hive check alpha",
    ],
    [
      "unreadable time of the check",
      "shadow",
      reads("live"),
      { check: { at: Number.NaN, drift: 0 } },
      "soft",
      /relied on/,
      "hive check alpha",
    ],
    [
      "unreadable result of the check",
      "shadow",
      reads("live"),
      { check: { at: NOW, drift: Number.NaN } },
      "soft",
      /relied on/,
      "hive check alpha",
    ],
    [
      "unreadable end of the backfill",
      "shadow",
      reads("live"),
      { backfill: { state: "finished", finishedAt: Number.NaN } },
      "soft",
      /older than the end/,
      "hive check alpha",
    ],
    ...(["shadow", "live", "rampdown"] as const).flatMap((stage) => {
      const next = settingBetween(stage, nextStage(stage) ?? stage);
      const because = [/from an earlier stage/, "hive check alpha"] as const;
      return [
        ["a check of an earlier stage", stage, next, { stageSince: NOW - 9 * MINUTE }, "soft", ...because] as const,
        ["an unreadable begin of the stage", stage, next, { stageSince: Number.NaN }, "soft", ...because] as const,
      ];
    }),
    ["old check", "live", reads("unified"), { check: old }, "soft", /61 minutes/, "hive check alpha"],
    [
      "drift",
      "live",
      reads("unified"),
      { check: { at: NOW, drift: 1 } },
      "soft",
      /in 1 aggregate$/,
      "hive check alpha --repair",
    ],
    ["old check", "rampdown", dual(false), { check: old }, "soft", /61 minutes/, "hive check alpha"],
    ["no check", "rampdown", dual(false), { check: null }, "soft", /never checked/, "hive check alpha"],
  ])("%s keeps %s from going on", (_, stage, setting, facts, kind, missing, remedy) => {
    const decision = ask(at(stage), [setting], { ...open, ...facts });
    expect(decision).toEqual({
      ok: false,
      refusals: [{ kind, code: "GUARD_REFUSED", missing: expect.stringMatching(missing), remedy }],
    });
    const forced = ask(at(stage), [setting], { ...open, ...facts }, true);
    expect(forced.ok).toBe(kind === "soft");
    if (forced.ok) expect(forced.forced).toEqual(decision.ok ? [] : decision.refusals);
  });

  it("take a check of the millisecond in which the stage began, and of an agent whose flags never changed", () => {
    for (const stageSince of [NOW - 10 * MINUTE, Number.NEGATIVE_INFINITY]) {
      expect(stages(ask(at("shadow"), [reads("live")], { ...open, stageSince }))).toEqual(["shadow→live"]);
    }
  });

  it("name everything that is missing at once", () => {
    const decision = ask(at("shadow"), [reads("live")], bare);
    expect(decision.ok ? [] : decision.refusals.map((one) => one.remedy)).toEqual([
      "hive backfill alpha",
      "hive check alpha",
    ]);
  });

  it("do not ask for a backfill where it would write old values over authoritative ones", () => {
    expect(stages(ask(at("live"), [reads("unified")], { ...open, backfill: { state: "stale" } }))).toEqual([
      "live→rampdown",
    ]);
  });

  it("leave the other flags alone, which need the ledger only", () => {
    for (const flag of ["unified-events", "agent-adapters"] as const) {
      expect(ask(ALL_OFF, [{ flag, value: true }], { ...bare, missingUnified: ["wide"] })).toMatchObject({
        ok: true,
        changes: [
          { from: "off", to: "on", stageBefore: "off", stageAfter: "off", projectDown: false, stalesBackfill: false },
        ],
      });
    }
  });

  it("tell a fresh check from one that says nothing any more, whatever it found", () => {
    expect(isFresh(open)).toBe(true);
    expect(isFresh({ ...open, check: { at: NOW, drift: 9 } })).toBe(true);
    expect(isFresh({ ...open, check: old })).toBe(false);
    expect(isFresh({ ...open, check: null })).toBe(false);
    expect(isFresh({ ...open, stageSince: NOW - 9 * MINUTE })).toBe(false);
    expect(isFresh({ ...open, check: { at: NOW - 31 * MINUTE, drift: 0 } })).toBe(false);
  });
});

describe("skipping", () => {
  it.each<[Stage, FlagSetting[], RegExp, string]>([
    ["off", [reads("unified")], /at off, and the next stage is dualwrite/, "hive flags enable alpha --flag dual-write"],
    ["dualwrite", [reads("live")], /next stage is shadow/, "hive flags set alpha reads=shadow"],
    ["dualwrite", [reads("unified")], /next stage is shadow/, "hive flags set alpha reads=shadow"],
    ["shadow", [reads("unified")], /next stage is live/, "hive flags set alpha reads=live"],
    ["live", [reads("legacy")], /next stage back is shadow/, "hive rollback --agent alpha --to dualwrite"],
    ["rampdown", [reads("legacy")], /next stage back is live/, "hive rollback --agent alpha --to dualwrite"],
    ["complete", [reads("legacy")], /next stage back is rampdown/, "hive rollback --agent alpha --to off"],
  ])("from %s is refused, naming the next stage, also by force", (stage, settings, missing, remedy) => {
    for (const force of [false, true]) {
      expect(ask(at(stage), settings, open, force)).toEqual({
        ok: false,
        refusals: [{ kind: "hard", code: "GUARD_REFUSED", missing: expect.stringMatching(missing), remedy }],
      });
    }
  });
});

describe("impossible pairs", () => {
  it.each<[Stage, FlagSetting[], string]>([
    ["off", [reads("shadow")], "hive flags enable alpha --flag dual-write"],
    ["off", [reads("live")], "hive flags enable alpha --flag dual-write"],
    ["shadow", [dual(false)], "hive flags set alpha reads=legacy"],
    ["live", [dual(false)], "hive flags set alpha reads=shadow"],
    ["complete", [reads("live")], "hive flags enable alpha --flag dual-write"],
    ["complete", [reads("shadow")], "hive flags enable alpha --flag dual-write"],
  ])("from %s are refused, also by force, with the command that comes first", (stage, settings, remedy) => {
    for (const force of [false, true]) {
      expect(ask(at(stage), settings, open, force)).toMatchObject({
        ok: false,
        refusals: [{ kind: "hard", code: "STAGE_IMPOSSIBLE", remedy }],
      });
    }
  });

  it.each(["shadow", "live"] as const)("that SQL made (reads %s) lead back to off", (value) => {
    const state = { ...ALL_OFF, reads: value };
    expect(ask(state, [reads("legacy")], bare)).toMatchObject({
      ok: true,
      changes: [{ stageBefore: value, stageAfter: "off", projectDown: value === "live", stalesBackfill: true }],
    });
    expect(ask(state, [reads("unified")], open, true)).toMatchObject({ ok: false });
    expect(ask(state, [dual(true)], open)).toMatchObject({ ok: false, refusals: [{ kind: "soft" }] });
    expect(stages(ask(state, [dual(true)], open, true))).toEqual([`${value}→${value}`]);
    expect(stages(ask(state, [dual(true), reads("legacy")], open))).toEqual([`${value}→off`, "off→dualwrite"]);
  });
});

describe("several flags at once", () => {
  it.each<[Stage, FlagSetting[], string[]]>([
    ["off", [reads("shadow"), dual(true)], ["off→dualwrite", "dualwrite→shadow"]],
    ["live", [dual(false), reads("unified")], ["live→rampdown", "rampdown→complete"]],
    ["shadow", [dual(false), reads("legacy")], ["shadow→dualwrite", "dualwrite→off"]],
    ["complete", [reads("live"), dual(true)], ["complete→rampdown", "rampdown→live"]],
  ])("go from %s in the order that keeps to the stages", (stage, settings, expected) => {
    for (const order of [settings, [...settings].reverse()]) {
      expect(stages(ask(at(stage), order, open, true))).toEqual(expected);
    }
  });

  it("do not open a gate with a backfill from before dual-write", () => {
    expect(ask(ALL_OFF, [dual(true), reads("shadow")], open)).toMatchObject({
      ok: false,
      refusals: [{ kind: "soft", remedy: "hive backfill alpha" }],
    });
  });

  it("do not open a second gate with the check that opened the first", () => {
    expect(ask(at("live"), [dual(false), reads("unified")], open)).toMatchObject({
      ok: false,
      refusals: [{ kind: "soft", missing: expect.stringMatching(/earlier stage/), remedy: "hive check alpha" }],
    });
  });

  it("that are so already change nothing, whatever is missing", () => {
    expect(ask(at("live"), [reads("live"), dual(true)], { ...untouched, missingLegacy: null })).toMatchObject({
      ok: true,
      changes: [],
    });
  });
});

describe("what a step brings with it", () => {
  it.each<[Stage, FlagSetting, { projectDown: boolean; stalesBackfill: boolean }]>([
    ["off", dual(true), { projectDown: false, stalesBackfill: true }],
    ["dualwrite", dual(false), { projectDown: false, stalesBackfill: true }],
    ["dualwrite", reads("shadow"), { projectDown: false, stalesBackfill: false }],
    ["shadow", reads("legacy"), { projectDown: false, stalesBackfill: false }],
    ["live", reads("shadow"), { projectDown: true, stalesBackfill: true }],
    ["rampdown", reads("live"), { projectDown: false, stalesBackfill: false }],
    ["rampdown", dual(false), { projectDown: false, stalesBackfill: false }],
    ["complete", dual(true), { projectDown: true, stalesBackfill: false }],
  ])("%s %o", (stage, setting, expected) => {
    const decision = ask(at(stage), [setting]);
    expect(decision.ok && decision.changes[0]).toMatchObject(expected);
  });
});

describe("for any sequence of commands", () => {
  const setting: fc.Arbitrary<FlagSetting> = fc.oneof(
    fc.record({ flag: fc.constant("reads" as const), value: fc.constantFrom(...READS) }),
    fc.record({
      flag: fc.constantFrom("unified-events" as const, "dual-write" as const, "agent-adapters" as const),
      value: fc.boolean(),
    }),
  );
  const settings = fc.uniqueArray(setting, { selector: (one) => one.flag, minLength: 1, maxLength: FLAGS.length });
  const missing = fc.oneof(fc.constant(null), fc.constant([]), fc.constant(["wide"]));
  const time = fc.oneof(fc.integer({ min: NOW - 120 * MINUTE, max: NOW + MINUTE }), fc.constant(Number.NaN));
  const facts: fc.Arbitrary<Facts> = fc.record({
    ledger: fc.boolean(),
    missingUnified: missing,
    missingLegacy: missing,
    backfill: fc.oneof(
      fc.record({ state: fc.constantFrom("none" as const, "running" as const, "stale" as const) }),
      fc.record({ state: fc.constant("finished" as const), finishedAt: time }),
    ),
    check: fc.oneof(fc.constant(null), fc.record({ at: time, drift: fc.constantFrom(0, 1, Number.NaN) })),
    stageSince: fc.oneof(time, fc.constant(Number.NEGATIVE_INFINITY)),
    now: fc.constant(NOW),
    checkMaxAgeMs: fc.constant(60 * MINUTE),
  });
  const command = fc.record({ settings, force: fc.boolean(), facts });

  it("the agent is always at one of the six stages, and every step leads to a neighbour or stays", () => {
    fc.assert(
      fc.property(fc.constantFrom(...STAGES), fc.array(command, { maxLength: 12 }), (start, commands) => {
        let state = at(start);
        for (const { settings, force, facts } of commands) {
          const decision = decide({ agent: "alpha", settings, force }, state, facts);
          if (!decision.ok) {
            expect(decision.refusals.length).toBeGreaterThan(0);
            continue;
          }
          let stage = effectiveStage(state);
          for (const step of decision.changes) {
            expect(step.stageBefore).toBe(stage);
            expect(Math.abs(rank(step.stageAfter) - rank(stage))).toBeLessThanOrEqual(1);
            stage = step.stageAfter;
          }
          state = decision.state;
          expect(effectiveStage(state)).toBe(stage);
          expect(isPossible(state)).toBe(true);
          for (const { flag, value } of settings) expect(state[flag]).toBe(value);
        }
      }),
      { numRuns: 2_000 },
    );
  });

  it("a soft guard without its facts never opens", () => {
    fc.assert(
      fc.property(fc.constantFrom(...STAGES), settings, facts, (start, wanted, known) => {
        const decision = decide({ agent: "alpha", settings: wanted, force: false }, at(start), known);
        if (!decision.ok) return;
        expect(decision.forced).toEqual([]);
        const entered = decision.changes.filter((step) => rank(step.stageAfter) > rank(step.stageBefore));
        for (const { stageAfter } of entered) {
          expect(known.ledger).toBe(true);
          if (stageAfter === "dualwrite") expect(known.missingUnified).toEqual([]);
          if (stageAfter === "shadow" || stageAfter === "live") expect(known.backfill.state).toBe("finished");
          if (rank(stageAfter) < rank("live")) continue;
          expect(known.check?.drift).toBe(0);
          expect(NOW - (known.check?.at ?? Number.NaN)).toBeLessThanOrEqual(known.checkMaxAgeMs);
          expect(NOW - (known.check?.at ?? Number.NaN)).toBeGreaterThanOrEqual(0);
          expect(known.check?.at).toBeGreaterThanOrEqual(known.stageSince);
          if (known.backfill.state === "finished") {
            expect(known.check?.at).toBeGreaterThanOrEqual(known.backfill.finishedAt);
          }
        }
      }),
      { numRuns: 5_000 },
    );
  });

  it("going back one stage is always allowed while the legacy tables stand", () => {
    fc.assert(
      fc.property(fc.constantFrom(...STAGES.slice(1)), facts, (stage, known) => {
        const back = settingBetween(stage, previousStage(stage) ?? "off");
        expect(ask(at(stage), [back], { ...known, missingLegacy: [] }).ok).toBe(true);
      }),
    );
  });
});
