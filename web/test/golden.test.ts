// The npz reader, against files that NumPy 2 wrote.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { Damaged } from "../src/errors";
import type { Head } from "../src/bundle";
import { decidesAsRecorded, numbers, readNpz } from "../src/golden";

const file = (name: string) => Uint8Array.from(readFileSync(new URL(name, import.meta.url)));

describe("readNpz", () => {
  it("reads deflated arrays of every type that golden.npz has", async () => {
    const arrays = await readNpz(file("arrays.npz"));
    expect([...arrays.keys()]).toEqual(["bytes", "floats", "longs", "empty"]);
    expect(arrays.get("bytes")).toMatchObject({ dtype: "|u1", shape: [2, 3, 4] });
    expect(Array.from(arrays.get("bytes")!.data)).toEqual(Array.from({ length: 24 }, (_, place) => place));
    expect(numbers(arrays.get("floats")!)).toEqual([1.5, -2.25, Math.fround(3e-5), 7]);
    expect(numbers(arrays.get("longs")!)).toEqual([1, 2 ** 40]);
    expect(arrays.get("empty")!.shape).toEqual([0, 3]);
  });

  it("reads stored arrays", async () => {
    expect(numbers((await readNpz(file("stored.npz"))).get("doubles")!)).toEqual([0.1, -1e300]);
  });

  it("refuses arrays in Fortran order and arrays of objects", async () => {
    await expect(readNpz(file("fortran.npz"))).rejects.toThrow(Damaged);
    const objects = file("stored.npz");
    const place = Buffer.from(objects).indexOf("<f8");
    objects.set(Buffer.from("|O8"), place);
    await expect(readNpz(objects)).rejects.toThrow(Damaged);
  });

  it("refuses damaged files and never hangs", async () => {
    const good = file("arrays.npz");
    for (let length = 0; length < good.length; length += 7) {
      await expect(readNpz(good.slice(0, length))).rejects.toThrow();
    }
    const bomb = good.slice();
    const view = new DataView(bomb.buffer);
    view.setUint32(view.getUint32(bomb.length - 6, true) + 24, 2 ** 31, true);
    await expect(readNpz(bomb)).rejects.toThrow(Damaged);
  });
});

describe("decidesAsRecorded", () => {
  const decision = { threshold: 0.7, error_rate: 0.02, rule: "top" };
  const head = (temperature = 1, changed = {}, labels = ["cat", "dog"]) =>
    ({ labels, variants: { int8: { temperature, decision: { ...decision, ...changed } } } }) as unknown as Head;
  const recorded = {
    logits: [[2, 0], [0.1, 0], [0, 3]],
    probabilities: [[0.880797, 0.119203], [0.524979, 0.475021], [0.047426, 0.952574]],
    decisions: [0, -1, 1],
  };

  it("accepts what was exported", () => expect(decidesAsRecorded(head(), "int8", recorded)).toBe(true));

  it("notices another temperature, threshold, rule and order of labels", () => {
    expect(decidesAsRecorded(head(1.01), "int8", recorded)).toBe(false);
    expect(decidesAsRecorded(head(1, { threshold: 0 }), "int8", recorded)).toBe(false);
    expect(decidesAsRecorded(head(1, { threshold: 1 }), "int8", recorded)).toBe(false);
    expect(decidesAsRecorded(head(1, { threshold: 0.5, rule: undefined }), "int8", recorded)).toBe(false);
    expect(decidesAsRecorded(head(), "int8", { ...recorded, decisions: [1, -1, 0] })).toBe(false);
  });
});
