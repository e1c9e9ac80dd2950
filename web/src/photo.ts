// A photo or camera picture to the pixels that the model sees: decode, turn, crop, resize (docs/concepts/frame.md).
// The browser decodes and converts to sRGB. Everything else is done here, because browsers read orientations and
// resize differently.

import resize from "../wasm/resize.ts?assembly";
import { BadPhoto } from "./errors";
import { AS_RGBA, keptPart, type Frame, type Part } from "./frame";
import { readStored, type JpegHead, type Size } from "./photo_headers";

const MAX_SIDE = 65_535; // px
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
  if (width * height > frame.max_pixels || Math.max(width, height) > MAX_SIDE) throw new BadPhoto("too_many_pixels");
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

/** A decoded picture and how it is turned; the size is that of the upright one. */
export interface Upright {
  readonly bitmap: ImageBitmap;
  readonly orientation: number; // 1 to 8, as EXIF counts
  readonly width: number;
  readonly height: number;
}

export function upright(bitmap: ImageBitmap, orientation: number): Upright {
  const { width, height } = bitmap;
  return orientation >= 5 ? { bitmap, orientation, width: height, height: width } : { bitmap, orientation, width, height };
}

/** A part of an upright photo at its own size, RGBA, laid on white. */
export function pixelsOf({ bitmap, orientation }: Upright, part: Part): Uint8ClampedArray {
  if (orientation === 1) return storedPixels(bitmap, part);
  const { left: x, top: y, width: across, height: down } = part;
  const lies = orientation >= 5; // its rows are stored as columns
  const [left, top, width, height] = lies ? [y, x, down, across] : [x, y, across, down];
  const fromRight = [2, 3, 7, 8].includes(orientation);
  const fromBottom = [3, 4, 6, 7].includes(orientation);
  const stored = storedPixels(bitmap, {
    left: fromRight ? bitmap.width - left - width : left,
    top: fromBottom ? bitmap.height - top - height : top,
    width,
    height,
  });
  const first = (fromRight ? width - 1 : 0) + (fromBottom ? (height - 1) * width : 0);
  const steps = [fromRight ? -1 : 1, fromBottom ? -width : width];
  const [stepX, stepY] = lies ? [steps[1], steps[0]] : steps;
  const from = new Uint32Array(stored.buffer, stored.byteOffset, width * height);
  const out = new Uint32Array(width * height);
  for (let row = 0, o = 0; row < down; row++) {
    for (let column = 0, place = first + row * stepY; column < across; column++, place += stepX) out[o++] = from[place];
  }
  return new Uint8ClampedArray(out.buffer);
}

let canvas: OffscreenCanvas | undefined;
let context: OffscreenCanvasRenderingContext2D | null = null;

function storedPixels(bitmap: ImageBitmap, { left, top, width, height }: Part): Uint8ClampedArray {
  if (!canvas || canvas.width !== width || canvas.height < height) {
    canvas = new OffscreenCanvas(width, height);
    context = canvas.getContext("2d", { willReadFrequently: true, alpha: false });
  }
  if (!context) throw new BadPhoto("unreadable");
  context.imageSmoothingEnabled = false;
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, left, top, width, height, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

// Resizing (docs/concepts/frame.md, step 5). A pass that does not change the size runs, too, with one weight of 1.

/** Pixels that are read in strips of rows, at most `atOnce` of them: RGBA, of which alpha is not looked at. */
export interface Rows {
  readonly width: number;
  readonly height: number;
  readonly pitch?: number; // px from the start of a row to that of the next; the width if absent
  readonly atOnce: number;
  read(row: number, count: number): Uint8Array | Uint8ClampedArray;
}

const PRECISION = 22; // bits after the point of a resize weight

const FILTERS = {
  bilinear: { reach: 1, weight: (t: number) => Math.max(0, 1 - Math.abs(t)) },
  bicubic: { reach: 2, weight: cubic },
} as const;

/** Resize what keptPart left to the Frame's size: uint8 RGB, height × width × 3. */
export function toFrame(frame: Frame, kept: Rows): Uint8Array {
  const across = tableOf(kept.width, frame.width, frame.filter);
  const down = tableOf(kept.height, frame.height, frame.filter);
  const stride = (4 * frame.width + 15) & ~15;
  const pitch = kept.pitch ?? kept.width;
  const strip = Math.min(kept.height, Math.max(1, kept.atOnce));
  const [source, middle, result, tableAcross, tableDown] = places(
    4 * pitch * strip,
    stride * kept.height,
    stride * frame.height,
    across.byteLength,
    down.byteLength,
  );
  const bytes = new Uint8Array(memory.buffer);
  bytes.set(new Uint8Array(across.buffer), tableAcross);
  bytes.set(new Uint8Array(down.buffer), tableDown);
  const mostAcross = across.length / frame.width - 2;
  for (let row = 0; row < kept.height; row += strip) {
    const count = Math.min(strip, kept.height - row);
    bytes.set(kept.read(row, count), source);
    rows(source, middle + row * stride, pitch, count, tableAcross, frame.width, mostAcross, stride);
  }
  columns(middle, result, stride, tableDown, frame.height, down.length / frame.height - 2);
  return withoutAlpha(bytes.subarray(result), frame, stride);
}

interface Assembly {
  readonly memory: WebAssembly.Memory;
  rows(from: number, to: number, pitch: number, height: number, table: number, size: number, most: number, stride: number): void;
  columns(from: number, to: number, stride: number, table: number, size: number, most: number): void;
}

const instance = new WebAssembly.Instance(new WebAssembly.Module(resize));
const { memory, rows, columns } = instance.exports as unknown as Assembly;
const START = 1024; // below lies what AssemblyScript keeps for itself
const PAGE = 1 << 16;

/** Where in the memory blocks of these sizes can lie, one after the other; it grows when they need more. */
function places(...sizes: number[]): number[] {
  let end = START;
  const starts = sizes.map((size) => {
    const start = end;
    end += (size + 15) & ~15;
    return start;
  });
  if (end > memory.buffer.byteLength) memory.grow(Math.ceil((end - memory.buffer.byteLength) / PAGE));
  return starts;
}

function withoutAlpha(rgba: Uint8Array, frame: Frame, stride: number): Uint8Array {
  const out = new Uint8Array(frame.width * frame.height * 3);
  for (let y = 0, o = 0; y < frame.height; y++) {
    for (let p = y * stride, end = p + 4 * frame.width; p < end; p += 4) {
      out[o++] = rgba[p];
      out[o++] = rgba[p + 1];
      out[o++] = rgba[p + 2];
    }
  }
  return out;
}

const tables = new Map<string, Int32Array>();

function tableOf(source: number, size: number, filter: Frame["filter"]): Int32Array {
  const key = `${source} ${size} ${filter}`;
  let table = tables.get(key);
  if (!table) {
    if (tables.size > 16) tables.clear();
    table = makeTable(source, size, filter);
    tables.set(key, table);
  }
  return table;
}

/** The weights of a pass as wasm/resize.ts reads them. */
function makeTable(source: number, size: number, filter: Frame["filter"]): Int32Array {
  const { reach, weight } = FILTERS[filter];
  const scale = source / size;
  const stretch = Math.max(scale, 1);
  const support = reach * stretch;
  const most = 2 * Math.ceil(support) + 1;
  const table = new Int32Array(size * (2 + most));
  for (let i = 0; i < size; i++) {
    const centre = (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(source, Math.trunc(centre + support + 0.5));
    const raw: number[] = [];
    for (let x = start; x < end; x++) raw.push(weight((x - centre + 0.5) * (1 / stretch)));
    const total = raw.reduce((sum, value) => sum + value, 0);
    raw.forEach((value, k) => {
      const share = (value / total) * (1 << PRECISION);
      table[2 * size + i * most + k] = Math.trunc(share + (share >= 0 ? 0.5 : -0.5));
    });
    table[i] = start;
    table[size + i] = end - start;
  }
  return table;
}

function cubic(t: number): number {
  const x = Math.abs(t);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}
