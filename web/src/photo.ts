// A photo or a camera picture to the pixels that the model sees. The browser decodes and converts to sRGB;
// what turns a photo is read and done by us (stored.ts, upright.ts), for browsers miss some of it, and so is
// everything after that (resize.ts), because a canvas resizes differently.

import { BadPhoto } from "./errors";
import { keptPart, type Frame, type Part } from "./frame";
import type { JpegHead, Size } from "./jpeg";
import { AS_RGBA } from "./picture";
import { toFrame, type Rows } from "./resize";
import { readStored } from "./stored";
import { pixelsOf, upright, type Upright } from "./upright";

const MOST_SIDE = 65_535; // px
const STRIP = 1 << 22; // px that are read from a canvas at a time; phones refuse much larger ones

/** The pixels of a photo file at the frame size, uint8 RGB; BadPhoto when the browser cannot read it. */
export async function readPhoto(photo: Blob, frame: Frame): Promise<Uint8Array> {
  if (photo.size > frame.max_bytes) throw new BadPhoto("too_many_bytes");
  const { size, orientation, jpeg, unturned } = await readStored(photo);
  if (size) checkSize(size, frame); // a browser may refuse to decode it, without saying why
  const bitmap = await createImageBitmap(unturned).catch(() => {
    throw new BadPhoto("unreadable");
  });
  try {
    checkSize(bitmap, frame);
    const whole = upright(bitmap, orientation);
    const scale = jpeg && frame.decode === "scaled" ? jpegScale(frame, whole.width, whole.height) : 1;
    return jpeg && scale > 1 ? toFrame(frame, scaledRows(whole, frame, scale, jpeg)) : readWhole(whole, frame);
  } finally {
    bitmap.close();
  }
}

function checkSize({ width, height }: Size, frame: Frame): void {
  if (width * height > frame.max_pixels || Math.max(width, height) > MOST_SIDE) throw new BadPhoto("too_many_pixels");
}

/** The pixels of a picture of the camera at the frame size, uint8 RGB. */
export async function readPicture(picture: VideoFrame | ImageBitmap, frame: Frame): Promise<Uint8Array> {
  if (!("copyTo" in picture)) return readWhole(upright(picture, 1), frame);
  const { displayWidth: whole, displayHeight } = picture;
  if (copied.length !== 4 * whole * displayHeight) copied = new Uint8Array(4 * whole * displayHeight);
  await picture.copyTo(copied, AS_RGBA);
  const { left, top, width, height } = keptPart(frame, whole, displayHeight);
  const start = (row: number) => 4 * ((top + row) * whole + left);
  const read = (row: number, count: number) => copied.subarray(start(row), start(row + count - 1) + 4 * width);
  return toFrame(frame, { width, height, pitch: whole, atOnce: height, read });
}

let copied = new Uint8Array(); // the camera's latest picture, RGBA; the next one takes its place

function readWhole(photo: Upright, frame: Frame): Uint8Array {
  const { left, top, width, height } = keptPart(frame, photo.width, photo.height);
  const read = (row: number, count: number) => pixelsOf(photo, { left, top: top + row, width, height: count });
  return toFrame(frame, { width, height, atOnce: Math.floor(STRIP / width), read });
}

/** The s of a scaled decode at 1/s: at least twice the frame remains. */
export function jpegScale(frame: Frame, width: number, height: number): number {
  const room = Math.min(Math.floor(width / (2 * frame.width)), Math.floor(height / (2 * frame.height)));
  return [8, 4, 2].find((scale) => room >= scale) ?? 1;
}

/**
 * What a decode at 1/s would give: the mean of each s × s pixels, counted from the stored corner.
 * Chroma that is stored at half the size would be decoded without upsampling, so at 1/2, where that
 * shows, the browser's upsampling is undone.
 */
function scaledRows(photo: Upright, frame: Frame, scale: number, head: JpegHead): Rows {
  const width = Math.ceil(photo.width / scale);
  const height = Math.ceil(photo.height / scale);
  const part = keptPart(frame, width, height);
  // Stored pixels begin at a corner that turning may have moved; only there are the blocks whole.
  const left = [2, 3, 6, 7].includes(head.orientation) ? photo.width - width * scale : 0;
  const top = [3, 4, 7, 8].includes(head.orientation) ? photo.height - height * scale : 0;
  const reduce = scale === 2 && head.subsampling?.join() === "2,2" ? meanAndChroma : meanOfBlocks;
  function read(row: number, count: number): Uint8ClampedArray {
    const from = { left: left + part.left * scale, top: top + (part.top + row) * scale };
    return reduce(windowOn(photo, { ...from, width: part.width * scale, height: count * scale }), scale);
  }
  return { ...part, atOnce: Math.floor(STRIP / (part.width * scale * scale)), read };
}

/** Pixels of a strip and one more on each side; outside the photo its edge is repeated. */
interface Window {
  readonly data: Uint8ClampedArray;
  readonly columns: Int32Array; // byte offset in a row of each column from -1 to width
  readonly rows: Int32Array; // byte offset of each row from -1 to height
}

function windowOn(photo: Upright, strip: Part): Window {
  const left = Math.max(0, strip.left - 1);
  const top = Math.max(0, strip.top - 1);
  const width = Math.min(photo.width, strip.left + strip.width + 1) - left;
  const height = Math.min(photo.height, strip.top + strip.height + 1) - top;
  const data = pixelsOf(photo, { left, top, width, height });
  const columns = Int32Array.from({ length: strip.width + 2 }, (_, x) => 4 * within(strip.left - 1 + x - left, width));
  const rows = Int32Array.from({ length: strip.height + 2 }, (_, y) => 4 * width * within(strip.top - 1 + y - top, height));
  return { data, columns, rows };
}

function meanOfBlocks({ data, columns, rows }: Window, scale: number): Uint8ClampedArray {
  const shift = 2 * Math.log2(scale);
  const sums = new Int32Array((4 * (columns.length - 2)) / scale);
  const out = new Uint8ClampedArray((sums.length * (rows.length - 2)) / scale);
  for (let y = 1, o = 0; y < rows.length - 1; y += scale) {
    sums.fill(1 << (shift - 1));
    for (let k = 0; k < scale; k++) {
      for (let x = 1; x < columns.length - 1; x++) {
        const p = rows[y + k] + columns[x];
        const s = 4 * (((x - 1) / scale) | 0);
        sums[s] += data[p];
        sums[s + 1] += data[p + 1];
        sums[s + 2] += data[p + 2];
      }
    }
    for (let s = 0; s < sums.length; s++) out[o++] = sums[s] >> shift;
  }
  return out;
}

// Halves of libjpeg's triangle filter and their neighbours, back to the stored sample: (-a + 3b + 3c - d) / 4.
const UNBLUR = [-1, 3, 3, -1];

/** Luma is the mean of 2 × 2 pixels, chroma the sample that the upsampling of those pixels came from. */
function meanAndChroma({ data, columns, rows }: Window): Uint8ClampedArray {
  const out = new Uint8ClampedArray((columns.length - 2) * (rows.length - 2));
  for (let y = 0, o = 0; y < rows.length - 2; y += 2) {
    for (let x = 0; x < columns.length - 2; x += 2, o += 4) {
      const mean = [0, 0, 0];
      const stored = [0, 0, 0];
      for (let j = 0; j < 4; j++) {
        for (let i = 0; i < 4; i++) {
          const p = rows[y + j] + columns[x + i];
          const inner = (j === 1 || j === 2) && (i === 1 || i === 2);
          for (let c = 0; c < 3; c++) {
            stored[c] += UNBLUR[j] * UNBLUR[i] * data[p + c];
            if (inner) mean[c] += 4 * data[p + c];
          }
        }
      }
      const [r, g, b] = stored.map((value, c) => value - mean[c]);
      const luma = 0.299 * r + 0.587 * g + 0.114 * b;
      for (let c = 0; c < 3; c++) out[o + c] = Math.round((stored[c] - luma) / 16);
    }
  }
  return out;
}

function within(place: number, size: number): number {
  return place < 0 ? 0 : place < size ? place : size - 1;
}
