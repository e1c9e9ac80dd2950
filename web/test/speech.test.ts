// A screen reader hears the latest sentence, and no two within three seconds.

import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { speaker } from "../src/view";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

it("says the first at once and of those that follow the latest, in time", () => {
  const said: string[] = [];
  const say = speaker((sentence) => said.push(sentence));
  vi.advanceTimersByTime(10);
  for (const sentence of ["a cat", "no cat", "a cat again"]) say(sentence);
  expect(said).toEqual(["a cat"]);
  vi.advanceTimersByTime(2990);
  expect(said).toEqual(["a cat"]);
  vi.advanceTimersByTime(20);
  expect(said).toEqual(["a cat", "a cat again"]);
  say("no cat");
  say(""); // what it was about is gone
  vi.advanceTimersByTime(10_000);
  expect(said).toEqual(["a cat", "a cat again", ""]);
});
