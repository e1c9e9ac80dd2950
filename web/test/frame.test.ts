// The Frame against the golden vectors of docs/reference/vectors that are stored without loss.

import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { keptPart, type Frame, type Part } from "../src/frame";
import { toFrame, type Rows } from "../src/photo";
import { readPng } from "./png";

interface Vector {
  photo: string;
  plain: boolean;
  frame: Frame;
  pixels: string;
  tolerance: number;
}

const FOLDER = new URL("../../docs/reference/vectors/", import.meta.url);
const VECTORS: Vector[] = JSON.parse(readFileSync(new URL("vectors.json", FOLDER), "utf8")).vectors;

describe("toFrame", () => {
  const plain = VECTORS.filter(({ plain }) => plain); // what the Frame itself has to do, without a decoder's help

  it("has vectors to be held to", () => {
    expect(plain.length).toBeGreaterThanOrEqual(9);
    expect(readdirSync(FOLDER)).toEqual(expect.arrayContaining(plain.map(({ pixels }) => pixels)));
  });

  it.each(plain)("makes of $photo the pixels of Pillow", ({ photo, frame, pixels }) => {
    const stored = readPng(readFileSync(new URL(photo, FOLDER)));
    const expected = readPng(readFileSync(new URL(pixels, FOLDER)));
    const part = keptPart(frame, stored.width, stored.height);
    const got = toFrame(frame, rowsOf(stored, part));
    expect([expected.width, expected.height]).toEqual([frame.width, frame.height]);
    expect(Array.from(got)).toEqual(Array.from(expected.data));
  });

  it.each([1, 7, 1000])("gives the same in strips of %i rows", (atOnce) => {
    const stored = readPng(readFileSync(new URL("bicubic_down.png", FOLDER)));
    const frame = { ...VECTORS[0].frame, width: 7, height: 5, filter: "bicubic" as const };
    const rows = rowsOf(stored, { left: 0, top: 0, width: stored.width, height: stored.height });
    expect(toFrame(frame, { ...rows, atOnce })).toEqual(toFrame(frame, rows));
  });
});

describe("keptPart", () => {
  it("rounds like the specification", () => {
    const frame = { ...VECTORS[0].frame, width: 17, height: 13, fit: "crop" as const };
    expect(keptPart(frame, 37, 31)).toEqual({ left: 0, top: 1, width: 37, height: 28 });
    expect(keptPart(frame, 1000, 1)).toEqual({ left: 499, top: 0, width: 1, height: 1 });
    expect(keptPart({ ...frame, fit: "squash" }, 37, 31)).toEqual({ left: 0, top: 0, width: 37, height: 31 });
  });
});

/** A part of an RGB image as rows of RGBA. */
function rowsOf(image: ReturnType<typeof readPng>, part: Part): Rows {
  return {
    width: part.width,
    height: part.height,
    atOnce: part.height,
    read(row, count) {
      const out = new Uint8Array(4 * part.width * count);
      for (let i = 0; i < part.width * count; i++) {
        const y = part.top + row + Math.floor(i / part.width);
        const start = 3 * (y * image.width + part.left + (i % part.width));
        out.set(image.data.subarray(start, start + 3), 4 * i);
      }
      return out;
    },
  };
}
