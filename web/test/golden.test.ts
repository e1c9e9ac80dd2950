// The npz reader, against files that NumPy 2 wrote.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { Damaged } from "../src/errors";
import { numbers, readNpz } from "../src/golden";

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
