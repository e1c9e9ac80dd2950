// The Frame's resize, as docs/concepts/frame.md, step 5, specifies it; the numbers are those of that page.
// A pass that would not change its size has the weight 1 for one sample and is run all the same.

import resize from "../wasm/resize.ts?assembly";
import type { Frame } from "./frame";

/** Pixels that are read in strips of rows, at most `atOnce` of them: RGBA, of which alpha is not looked at. */
export interface Rows {
  readonly width: number;
  readonly height: number;
  readonly pitch?: number; // px from the start of a row to that of the next; the width where it is not said
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
