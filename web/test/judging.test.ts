// What Studio's sliders make of the test photos.

import { expect, test } from "vitest";
import { confusion, decisionOf, perThousand, type Judged } from "../studio/src/judging.ts";

const photo = (truth: string, cat: number, decision: string): Judged => ({
  photo: 0,
  truth,
  label: cat > 0.5 ? "cat" : "dog",
  decision,
  probabilities: { cat, dog: 1 - cat },
});
const trained = { cat: 0.5, dog: 0.5 };

test("a threshold decides anew, and an unknown photo stays unknown", () => {
  expect(decisionOf(photo("cat", 0.8, "cat"), 0.9, trained, null)).toBe("unsure");
  expect(decisionOf(photo("cat", 0.8, "unsure"), 0.7, trained, null)).toBe("cat");
  expect(decisionOf(photo("cat", 0.99, "unknown"), 0.7, trained, null)).toBe("unknown");
  expect(decisionOf(photo("cat", 0.99, "unknown"), null, trained, { cat: 0.1, dog: 0.9 })).toBe("unknown");
});

test("labels that are rare in the field need more", () => {
  const seldom = { cat: 0.1, dog: 0.9 }; // odds of 4 become odds of 4 / 9
  expect(decisionOf(photo("cat", 0.8, "cat"), 0.5, trained, seldom)).toBe("dog");
  expect(decisionOf(photo("cat", 0.8, "cat"), null, trained, null)).toBe("cat");
});

test("unknown and unsure photos count as not decided", () => {
  const photos = [photo("cat", 0.9, "cat"), photo("cat", 0.9, "unknown"), photo("dog", 0.9, "cat"), photo("dog", 0.4, "unsure")];
  const rows = confusion(photos, photos.map((one) => one.decision));
  expect(perThousand(rows, trained)).toEqual({ decided: 500, right: 250, wrong: 250, unsure: 500 });
});
