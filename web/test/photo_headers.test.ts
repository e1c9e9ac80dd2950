// What a photo file says about how it is turned, and the same file without it.

import { readFileSync } from "node:fs";
import { deflateSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { orientationOf } from "../src/photo_headers";
import { readStored } from "../src/photo_headers";

const vector = (name: string) => readFileSync(new URL(`../../docs/reference/vectors/${name}`, import.meta.url));
const stored = (bytes: Uint8Array) => readStored(new Blob([bytes as BlobPart]));
const TURNED = ["png_exif_last_6.png", "png_xmp_8.png", "png_xmp_last_3.png", "png_raw_profile_5.png", "webp_exif_7.webp"];
const ALSO = ["webp_exif_lossy_4.webp", "webp_xmp_2.webp", "jpeg_xmp_8.jpg", "jpeg_exif_long_3.jpg", "orientation_7.png"];

/** A PNG with one more chunk before its end; nobody here looks at checksums. */
function withChunk(name: string, body: Uint8Array): Uint8Array {
  const png = vector("grey.png");
  const head = Buffer.alloc(8);
  head.writeUInt32BE(body.length);
  head.write(name, 4, "latin1");
  return Buffer.concat([png.subarray(0, -12), head, body, Buffer.alloc(4), png.subarray(-12)]);
}

/** EXIF with one entry of a type, a count and four bytes. */
function exif(type: number, count: number, ...value: number[]): Uint8Array {
  const head = Buffer.from("MM\0*\0\0\0\x08\0\x01\x01\x12", "latin1");
  const about = Buffer.alloc(6);
  about.writeUInt16BE(type);
  about.writeUInt32BE(count, 2);
  return Uint8Array.from([...head, ...about, ...value, 0, 0, 0, 0]);
}

describe("readStored", () => {
  it.each([...TURNED, ...ALSO])("reads and takes away the orientation of %s", async (name) => {
    const { orientation, unturned } = await stored(vector(name));
    expect(orientation).toBe(Number(/\d/.exec(name)?.[0]));
    const left = Buffer.from(await unturned.arrayBuffer()).toString("latin1");
    expect(left).not.toMatch(/Exif|eXIf|EXIF|XMP |tiff:Orientation|Raw profile/);
    expect((await readStored(unturned)).orientation).toBe(1);
  });

  it("leaves a file alone that says nothing", async () => {
    for (const name of ["grey.png", "jpeg.jpg", "webp_lossless.webp", "gif.gif", "bmp.bmp"]) {
      const photo = new Blob([vector(name) as BlobPart]);
      const { orientation, unturned } = await readStored(photo);
      expect([orientation, unturned.size]).toEqual([1, photo.size]);
    }
  });

  it("reads packed texts, and none that unpacks to too much", async () => {
    const text = (xmp: string) => Buffer.concat([Buffer.from("XML:com.adobe.xmp\0\x01\0\0\0"), deflateSync(xmp)]);
    expect((await stored(withChunk("iTXt", text('tiff:Orientation="6"')))).orientation).toBe(6);
    expect((await stored(withChunk("iTXt", Buffer.from("XML:com.adobe.xmp\0\x01\0\0\0no zlib")))).orientation).toBe(1);
    await expect(stored(withChunk("iTXt", text(" ".repeat(2 ** 20 + 1))))).rejects.toThrow("unreadable");
  });

  it("refuses what a browser might turn unseen", async () => {
    for (const name of ["tiff_cmyk.tiff", "refused_noise.png", "refused_empty.jpg", "refused_page.jpg"]) {
      await expect(stored(vector(name))).rejects.toThrow("unreadable");
    }
  });

  it("survives files that are cut anywhere", async () => {
    for (const name of [...TURNED, ...ALSO]) {
      const whole = vector(name);
      for (let length = 16; length < whole.length; length += 5) {
        expect((await stored(whole.subarray(0, length))).orientation).toBeLessThanOrEqual(8);
      }
    }
  });
});

describe("orientationOf", () => {
  it("takes whole numbers of any size and no others", () => {
    expect(orientationOf(exif(3, 1, 0, 6, 0, 0), undefined)).toBe(6);
    expect(orientationOf(exif(3, 2, 0, 6, 0, 8), undefined)).toBe(6);
    expect(orientationOf(exif(4, 1, 0, 0, 0, 6), undefined)).toBe(6);
    expect(orientationOf(exif(6, 1, 6, 0, 0, 0), undefined)).toBe(6);
    expect(orientationOf(exif(9, 1, 0, 0, 0, 6), undefined)).toBe(6);
    for (const type of [1, 2, 7, 11]) expect(orientationOf(exif(type, 1, 6, 6, 6, 6), "tiff:Orientation>8")).toBe(1);
    for (const value of [0, 9, 255]) expect(orientationOf(exif(3, 1, 0, value, 0, 0), undefined)).toBe(1);
  });

  it("asks XMP where EXIF has no such tag", () => {
    const xmp = '<rdf:Description tiff:Orientation="8"/>';
    expect(orientationOf(undefined, xmp)).toBe(8);
    expect(orientationOf(exif(3, 0, 0, 6, 0, 0), xmp)).toBe(8);
    expect(orientationOf(exif(99, 1, 0, 6, 0, 0), xmp)).toBe(8);
    expect(orientationOf(exif(3, 1, 0, 6, 0, 0), xmp)).toBe(6);
    expect(orientationOf(Uint8Array.of(1, 2, 3), xmp)).toBe(1);
  });
});
