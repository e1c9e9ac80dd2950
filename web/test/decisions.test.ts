// The numbers here are those of src/catflap/runtime/decisions.py and classifier.py for the same input.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { correctPrior, decide, fieldPrior, predict, softmax } from "../src/decisions";
import { readJpegHead } from "../src/photo_headers";
import { sha256, sha256Plain } from "../src/bundle";

describe("decisions", () => {
  it("turns logits into calibrated probabilities", () => {
    const got = softmax([1.5, -0.5, 0.25], 0.8);
    [0.774175736, 0.063548214, 0.16227605].forEach((value, index) => expect(got[index]).toBeCloseTo(value, 8));
    expect(softmax([1000, 0], 1)).toEqual([1, 0]);
  });

  it("moves a probability to another prior", () => {
    const [cat] = correctPrior([0.9, 0.1], [0.5, 0.5], [0.001, 0.999]);
    expect(cat).toBeCloseTo(0.9 * 0.002 / (0.9 * 0.002 + 0.1 * 1.998), 12);
  });

  it("lets the labels that were not named share the rest", () => {
    expect(fieldPrior([0.2, 0.3, 0.5], 0, 0.6)).toEqual([0.6, expect.closeTo(0.15), expect.closeTo(0.25)]);
  });

  it("decides only when one label alone reaches the threshold, before format 1.1", () => {
    const only = (threshold: number) => ({ threshold, top: false });
    expect(decide([0.7, 0.3], ["cat", "dog"], only(0.4))).toBe("cat");
    expect(decide([0.55, 0.45], ["cat", "dog"], only(0.4))).toBe("unsure");
    expect(decide([0.55, 0.45], ["cat", "dog"], only(0.8))).toBe("unsure");
    const tie = 0.45;
    expect(decide([0.55, tie * (1 - 1e-6)], ["cat", "dog"], only(tie))).toBe("unsure");
    expect(decide([0.55, tie * (1 - 1e-4)], ["cat", "dog"], only(tie))).toBe("cat");
    const expected = { label: "dog", probability: 0.7, decision: "dog" };
    expect(predict([0.3, 0.7], ["cat", "dog"], only(0.5))).toMatchObject(expected);
  });

  it("decides the likeliest label when it reaches the threshold, since format 1.1", () => {
    const top = (threshold: number) => ({ threshold, top: true });
    const labels = ["cat", "dog", "fox"];
    expect(decide([0.4, 0.35, 0.25], labels, top(0.34))).toBe("cat");
    expect(decide([0.2, 0.35, 0.45], labels, top(0.45))).toBe("fox");
    expect(decide([0.2, 0.35, 0.45], labels, top(0.45 * (1 + 1e-6)))).toBe("unsure");
    expect(decide([0.5, 0.5], ["cat", "dog"], top(0.50025))).toBe("unsure");
  });
});

describe("sha256", () => {
  it.each([0, 1, 55, 56, 63, 64, 65, 119, 120, 1000])("agrees with OpenSSL on %i bytes", async (length) => {
    const data = Uint8Array.from({ length }, (_, place) => (place * 7 + 3) & 255);
    const expected = createHash("sha256").update(data).digest("hex");
    expect(sha256Plain(data)).toBe(expected);
    expect(await sha256(data)).toBe(expected);
  });
});

describe("readJpegHead", () => {
  const read = (name: string) => readJpegHead(readFileSync(new URL(`../../docs/reference/vectors/${name}`, import.meta.url)));

  it("tells size, orientation and subsampling", () => {
    const size = { width: 30, height: 20 };
    expect(read("jpeg.jpg")).toEqual({ size, orientation: 1, subsampling: [2, 2] });
    expect(read("jpeg_444.jpg")).toEqual({ size, orientation: 1, subsampling: [1, 1] });
    expect(read("jpeg_grey.jpg")).toEqual({ size, orientation: 1, subsampling: undefined });
    expect(read("jpeg_quarter_orientation_8.jpg")).toEqual({ size: expect.anything(), orientation: 8, subsampling: [2, 2] });
    expect(read("gif.gif")).toBeUndefined();
  });

  it("survives a file that is cut anywhere", () => {
    const whole = readFileSync(new URL("../../docs/reference/vectors/jpeg_quarter_orientation_8.jpg", import.meta.url));
    for (let length = 2; length < 700; length++) {
      expect(readJpegHead(Uint8Array.from(whole.subarray(0, length)))?.orientation).toBeLessThanOrEqual(8);
    }
  });
});
