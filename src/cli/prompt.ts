import { HiveError } from "../index.ts";
import type { Io } from "./command.ts";

/** Asks yes or no on the terminal; no is the default. */
export async function confirm(io: Io, message: string): Promise<boolean> {
  return ask(io, async (prompts, context) => prompts.confirm({ message, default: false }, context));
}

/** Asks for a line of text. `validate` says what is wrong, or true. */
export async function input(
  io: Io,
  message: string,
  suggestion: string,
  validate: (value: string) => true | string,
): Promise<string> {
  return ask(io, async (prompts, context) => prompts.input({ message, default: suggestion, validate }, context));
}

type Prompts = typeof import("@inquirer/prompts");
interface PromptContext {
  input: NonNullable<Io["prompt"]>["input"];
  output: NonNullable<Io["prompt"]>["output"];
  signal: AbortSignal;
}

async function ask<T>(io: Io, question: (prompts: Prompts, context: PromptContext) => Promise<T>): Promise<T> {
  if (!io.prompt) throw new HiveError("CONFIRMATION_NEEDED", "There is nobody to ask.");
  const prompts = await import("@inquirer/prompts");
  try {
    return await question(prompts, { ...io.prompt, signal: io.abort });
  } catch (error) {
    // What the prompts throw on Ctrl-C, and when the signal aborts them.
    if (error instanceof Error && (error.name === "ExitPromptError" || error.name === "AbortPromptError")) {
      throw new HiveError("INTERRUPTED", "Interrupted: nothing was changed.", { cause: error });
    }
    throw error;
  }
}
