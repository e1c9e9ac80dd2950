// The numbers here are those of src/catflap/runtime/ood.py for the same baseline.

import { describe, expect, it } from "vitest";
import type { Variant } from "../src/bundle";
import { predict } from "../src/decisions";
import { refusesAsRecorded } from "../src/golden";
import { embeddingModels, oodScore } from "../src/ood";

const base64 = (...values: number[]) => btoa(String.fromCharCode(...values.map((value) => value & 255)));
const cat = { mean: base64(127, 0, 0, 0), length: 0.8, axes: base64(0, 127, 0, 0, 0, 0, -127, 0), limit: 0.5 };
const variant = { baseline: { labels: { cat: { embedding: cat }, dog: {} } } } as unknown as Variant;

describe("oodScore", () => {
  const [model, none] = embeddingModels(variant, ["cat", "dog"]);

  it("reads mean and axes, and leaves out labels without them", () => {
    expect(none).toBeUndefined();
    expect(Array.from(model!.mean)).toEqual([expect.closeTo(0.8), 0, 0, 0]);
    expect(model!.axes.map((axis) => Array.from(axis))).toEqual([[0, 1, 0, 0], [0, 0, -1, 0]]);
  });

  it("is the length of what mean and axes leave unexplained, in units of the limit", () => {
    expect(oodScore(Float32Array.of(2, 0, 0, 0), model!)).toBeCloseTo(0.4, 5);
    expect(oodScore(Float32Array.of(0, 0, 0, 3), model!)).toBeCloseTo(Math.hypot(0.8, 1) / 0.5, 5);
    expect(oodScore(Float32Array.of(3, 4, 0, 0), model!)).toBeCloseTo(0.4, 5); // 4/5 lie along an axis
  });
});

describe("unknown", () => {
  it("comes before label and unsure", () => {
    const rule = { threshold: 0.8, top: true };
    expect(predict([0.9, 0.1], ["cat", "dog"], rule, true)).toMatchObject({ label: "cat", decision: "unknown" });
    expect(predict([0.9, 0.1], ["cat", "dog"], rule).decision).toBe("cat");
  });

  it("is checked with golden cases: another threshold, another score", () => {
    const recorded = { scores: [0.5, 1.4, 1.001, 0.999], unknown: [0, 1, 1, 0] };
    expect(refusesAsRecorded(1, recorded, 0, 0.55)).toBe(true);
    expect(refusesAsRecorded(1, recorded, 1, 1.2)).toBe(false);
    expect(refusesAsRecorded(1, recorded, 1, undefined)).toBe(false);
    expect(refusesAsRecorded(1.01, recorded, 0, 0.5)).toBe(false);
    expect(refusesAsRecorded(0, recorded, 0, 0.5)).toBe(false);
  });
});
