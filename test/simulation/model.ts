import { markOf, type Registers, splitRegister } from "./platform.ts";

interface Write {
  readonly register: string;
  readonly by: string;
  /** The value, or null where it was removed. */
  readonly content: string | number | null;
  /** What the writer wrote over: as its own side was, in the same transaction. */
  readonly over: number[];
  /** Position in the order of commits. */
  readonly at: number;
}

export interface BothSides {
  readonly legacy: Registers;
  readonly unified: Registers;
}

export interface Unaccounted extends Write {
  readonly mark: number;
}

/**
 * Every write that was acknowledged, and what it was written over. When all has come to rest, each must be accounted for:
 * it is there, or something that is there (or was kept) was written over it, directly or through others. So a write that
 * was lost, that came back after its deletion, or gave way to something older is found without knowing how both sides
 * were carried over.
 */
export class History {
  private readonly writes = new Map<number, Write>();
  private readonly removals = new Map<string, number[]>();
  private readonly extras = new Map<string, number[]>();
  private commits = 0;
  private marks: number;

  constructor(firstMark: number) {
    this.marks = firstMark;
  }

  /** A number that nobody has written before. */
  mark(): number {
    this.marks += 1;
    return this.marks;
  }

  /** `count` numbers that nobody has written before: this one and those after it. */
  range(count: number): number {
    const first = this.marks + 1;
    this.marks += count;
    return first;
  }

  get acknowledged(): number {
    return this.commits;
  }

  /** A transaction that was committed, by what it changed on its side. */
  commit(by: string, before: Registers, after: Registers): void {
    this.commits += 1;
    for (const [register, content] of after) {
      const old = before.get(register);
      if (old === content || splitRegister(register).column === "tag") continue;
      const over = old === undefined ? [...(this.removals.get(register) ?? [])] : [markOf(old)];
      const mark = markOf(content);
      const known = this.writes.get(mark);
      // The same value in another place: a key was changed, or a part moved.
      if (known) known.over.push(...over);
      else this.writes.set(mark, { register, by, content, over, at: this.commits });
      if (splitRegister(register).column === "extra") this.list(this.extras, aggregateOf(register)).push(mark);
    }
    for (const [register, old] of before) {
      const { column } = splitRegister(register);
      if (after.has(register) || column === "tag") continue;
      const its = aggregateOf(register);
      const whole = !after.has(`${its}|owner`) && before.has(`${its}|owner`);
      // Rows that outlive their root come back with it: only the root's own removal says that they were meant to go.
      if (whole && /^(part|note)/.test(column)) continue;
      const over = [markOf(old)];
      if (column === "a") {
        // Whoever deletes a row means all of it, also what its own side does not show.
        over.push(...(this.extras.get(its) ?? []));
        for (const [other, content] of before) {
          if (aggregateOf(other) === its && !after.has(other) && whole) over.push(markOf(content));
        }
      }
      const mark = this.mark();
      this.writes.set(mark, { register, by, content: null, over, at: this.commits });
      this.list(this.removals, register).push(mark);
    }
  }

  /**
   * A transaction of a dual writer about one key: it looks at both sides and writes both, so what it writes is written
   * over whatever either side said.
   */
  commitBoth(by: string, key: string, before: BothSides, after: BothSides): void {
    this.commits += 1;
    const names = [before.legacy, before.unified, after.legacy, after.unified].flatMap((side) => [...side.keys()]);
    for (const register of new Set(names)) {
      const { key: its, column } = splitRegister(register);
      if (its !== key || column === "tag") continue;
      const over = [before.legacy.get(register), before.unified.get(register)].flatMap((old) =>
        old === undefined ? [] : [markOf(old)],
      );
      let wrote = false;
      for (const content of [after.legacy.get(register), after.unified.get(register)]) {
        if (content === undefined || this.writes.has(markOf(content))) continue;
        wrote = true;
        const mark = markOf(content);
        const removals = this.removals.get(register) ?? [];
        this.writes.set(mark, { register, by, content, over: [...over, ...removals], at: this.commits });
        if (column === "extra") this.list(this.extras, aggregateOf(register)).push(mark);
      }
      const gone = (["legacy", "unified"] as const).some(
        (side) => before[side].has(register) && !after[side].has(register),
      );
      if (!gone || wrote) continue;
      if (column === "a") over.push(...(this.extras.get(aggregateOf(register)) ?? []));
      const mark = this.mark();
      this.writes.set(mark, { register, by, content: null, over, at: this.commits });
      this.list(this.removals, register).push(mark);
    }
  }

  private list(lists: Map<string, number[]>, name: string): number[] {
    const known = lists.get(name);
    if (known) return known;
    const list: number[] = [];
    lists.set(name, list);
    return list;
  }

  /**
   * The acknowledged writes for which neither what is there now, nor copies that were kept, nor a conflict about their
   * key (of which a removal leaves no copy) account.
   */
  unaccounted(now: Registers, kept: Iterable<number>, conflicts: ReadonlySet<string>): Unaccounted[] {
    const seen = new Set<number>();
    const next: number[] = [...kept];
    for (const content of now.values()) {
      const mark = markOf(content);
      if (!Number.isNaN(mark)) next.push(mark);
    }
    for (const [register, removals] of this.removals) {
      // Rows that outlived their root are nobody's.
      const isThere = now.has(register) && now.has(`${aggregateOf(register)}|owner`);
      if (!isThere || conflicts.has(splitRegister(register).key)) next.push(...removals);
    }
    for (let mark = next.pop(); mark !== undefined; mark = next.pop()) {
      if (seen.has(mark)) continue;
      seen.add(mark);
      next.push(...(this.writes.get(mark)?.over ?? []));
    }
    return [...this.writes].filter(([mark]) => !seen.has(mark)).map(([mark, write]) => ({ mark, ...write }));
  }
}

function aggregateOf(register: string): string {
  const { kind, key } = splitRegister(register);
  return `${kind}|${key}`;
}
