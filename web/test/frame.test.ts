// The Frame against the golden vectors of tests/image/golden that are stored without loss.

import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { keptPart, toFrame, type Frame } from "../src/frame";
import { readPng } from "./png";

interface Vector {
  photo: string;
  frame: Frame;
  pixels: string;
  tolerance: number;
}

const FOLDER = new URL("../../tests/image/golden/", import.meta.url);
const VECTORS: Vector[] = JSON.parse(readFileSync(new URL("vectors.json", FOLDER), "utf8"));
// Upright RGB without alpha or a profile: what the Frame itself has to do, without a decoder's help.
const PLAIN = /^(squash|crop|bicubic|enlarge)/;

describe("toFrame", () => {
  const plain = VECTORS.filter(({ photo }) => PLAIN.test(photo));

  it("has vectors to be held to", () => {
    expect(plain.length).toBeGreaterThanOrEqual(9);
    expect(readdirSync(FOLDER)).toEqual(expect.arrayContaining(plain.map(({ pixels }) => pixels)));
  });

  it.each(plain)("makes of $photo the pixels of Pillow", ({ photo, frame, pixels }) => {
    const stored = readPng(readFileSync(new URL(photo, FOLDER)));
    const expected = readPng(readFileSync(new URL(pixels, FOLDER)));
    const part = keptPart(frame, stored.width, stored.height);
    const got = toFrame(frame, cut(stored, part));
    expect([expected.width, expected.height]).toEqual([frame.width, frame.height]);
    expect(Array.from(got)).toEqual(Array.from(expected.data));
  });

  it("reads RGBA like RGB", () => {
    const stored = readPng(readFileSync(new URL("bicubic_down.png", FOLDER)));
    const rgba = new Uint8Array(stored.width * stored.height * 4);
    for (let i = 0; i < stored.width * stored.height; i++) rgba.set(stored.data.subarray(3 * i, 3 * i + 3), 4 * i);
    const frame = { ...VECTORS[0].frame, filter: "bicubic" as const };
    expect(toFrame(frame, { ...stored, data: rgba, channels: 4 })).toEqual(toFrame(frame, stored));
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

function cut(image: ReturnType<typeof readPng>, part: ReturnType<typeof keptPart>): ReturnType<typeof readPng> {
  const data = new Uint8Array(part.width * part.height * 3);
  for (let y = 0; y < part.height; y++) {
    const start = 3 * ((part.top + y) * image.width + part.left);
    data.set(image.data.subarray(start, start + 3 * part.width), 3 * y * part.width);
  }
  return { data, width: part.width, height: part.height, channels: 3 };
}
