// What the header of a JPEG says that decides about its pixels: how it is turned and subsampled.

import { lettersOf, orientationOf } from "./orientation";

export interface Size {
  readonly width: number;
  readonly height: number;
}

export interface JpegHead {
  readonly size: Size | undefined; // as it is stored
  readonly orientation: number; // 1 when it is not told
  readonly subsampling: readonly [number, number] | undefined; // of chroma, across and down; undefined if grey
}

/** A part of the header, from its marker to its end. */
export interface Segment {
  readonly marker: number;
  readonly start: number;
  readonly end: number;
  readonly body: Uint8Array;
}

const XMP = "http://ns.adobe.com/xap/1.0/\0";

/** Read the head of a JPEG; undefined when the bytes are none. */
export function readJpegHead(bytes: Uint8Array): JpegHead | undefined {
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return undefined;
  const exif: number[] = [];
  let xmp: string | undefined;
  let subsampling: JpegHead["subsampling"];
  let size: Size | undefined;
  for (const { marker, body } of segmentsOf(bytes)) {
    if (marker === 0xe1) {
      const letters = lettersOf(body.subarray(0, XMP.length));
      if (letters === XMP) xmp = lettersOf(body.subarray(XMP.length));
      if (letters.startsWith("Exif\0\0")) for (const byte of body.subarray(exif.length && 6)) exif.push(byte); // in parts
    }
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      subsampling = chromaSubsampling(body);
      size = { width: 256 * body[3] + body[4], height: 256 * body[1] + body[2] };
    }
  }
  return { size, orientation: orientationOf(Uint8Array.from(exif), xmp), subsampling };
}

/** The segments before the first pixels; what a decoder passes over is passed over. */
export function* segmentsOf(bytes: Uint8Array): Generator<Segment> {
  for (let start = 2; start + 4 <= bytes.length; ) {
    const marker = bytes[start + 1];
    if (bytes[start] !== 0xff || marker === 0xff) {
      start++;
    } else if (marker <= 1 || (marker >= 0xd0 && marker <= 0xd8)) {
      start += 2;
    } else if (marker === 0xda || marker === 0xd9) {
      return;
    } else {
      const end = start + 2 + Math.max(2, 256 * bytes[start + 2] + bytes[start + 3]);
      yield { marker, start, end, body: bytes.subarray(start + 4, end) };
      start = end;
    }
  }
}

/** How often chroma is sampled less than luma, from the body of a start-of-frame segment. */
function chromaSubsampling(body: Uint8Array): readonly [number, number] | undefined {
  if (body[5] !== 3) return undefined;
  const [luma, blue] = [body[7], body[10]];
  return [(luma >> 4) / (blue >> 4), (luma & 15) / (blue & 15)];
}
