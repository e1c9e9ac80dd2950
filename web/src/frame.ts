// The Frame: upright sRGB pixels to the pixels that the model sees.
// Specified in docs/concepts/frame.md, steps 4 and 5; the numbers below are those of that page.

export interface Frame {
  readonly width: number;
  readonly height: number;
  readonly fit: "squash" | "crop";
  readonly filter: "bilinear" | "bicubic";
  readonly decode: "scaled" | "full";
  readonly max_pixels: number;
  readonly max_bytes: number;
}

/** A part of a photo: where it starts and how large it is, in px. */
export interface Part {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

/** 8-bit pixels with `channels` bytes each, row after row. */
export interface Pixels {
  readonly data: Uint8Array | Uint8ClampedArray;
  readonly width: number;
  readonly height: number;
  readonly channels: 3 | 4;
}

const PRECISION = 22; // bits after the point of a resize weight
const HALF = 1 << (PRECISION - 1);

const FILTERS = {
  bilinear: { reach: 1, weight: (t: number) => Math.max(0, 1 - Math.abs(t)) },
  bicubic: { reach: 2, weight: cubic },
} as const;

/** The part of an upright photo that the Frame keeps. */
export function keptPart(frame: Frame, width: number, height: number): Part {
  if (frame.fit === "squash") return { left: 0, top: 0, width, height };
  const across = Math.min(width, Math.max(1, Math.floor((height * frame.width) / frame.height)));
  const down = Math.min(height, Math.max(1, Math.floor((width * frame.height) / frame.width)));
  const left = Math.floor((width - across) / 2);
  const top = Math.floor((height - down) / 2);
  return { left, top, width: across, height: down };
}

/** Resize what keptPart left to the Frame's size: uint8 RGB, height × width × 3. Alpha is not looked at. */
export function toFrame(frame: Frame, kept: Pixels): Uint8Array {
  const across = kept.width === frame.width ? rgb(kept) : resizeRows(kept, frame);
  return kept.height === frame.height ? across : resizeColumns(across, kept.height, frame);
}

interface Table {
  readonly first: Int32Array; // first input sample of each output sample
  readonly count: Int32Array; // how many input samples it takes
  readonly weights: Int32Array; // `most` a row, fixed point
  readonly most: number;
}

const tables = new Map<string, Table>();

function tableOf(source: number, size: number, filter: Frame["filter"]): Table {
  const key = `${source} ${size} ${filter}`;
  let table = tables.get(key);
  if (!table) {
    if (tables.size > 16) tables.clear();
    table = makeTable(source, size, filter);
    tables.set(key, table);
  }
  return table;
}

function makeTable(source: number, size: number, filter: Frame["filter"]): Table {
  const { reach, weight } = FILTERS[filter];
  const scale = source / size;
  const stretch = Math.max(scale, 1);
  const support = reach * stretch;
  const most = 2 * Math.ceil(support) + 1;
  const first = new Int32Array(size);
  const count = new Int32Array(size);
  const weights = new Int32Array(size * most);
  for (let i = 0; i < size; i++) {
    const centre = (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(source, Math.trunc(centre + support + 0.5));
    const raw: number[] = [];
    for (let x = start; x < end; x++) raw.push(weight((x - centre + 0.5) * (1 / stretch)));
    const total = raw.reduce((sum, value) => sum + value, 0);
    raw.forEach((value, k) => {
      const share = (value / total) * (1 << PRECISION);
      weights[i * most + k] = Math.trunc(share + (share >= 0 ? 0.5 : -0.5));
    });
    first[i] = start;
    count[i] = end - start;
  }
  return { first, count, weights, most };
}

function resizeRows(image: Pixels, frame: Frame): Uint8Array {
  const { data, width, height, channels } = image;
  const size = frame.width;
  const { first, count, weights, most } = tableOf(width, size, frame.filter);
  const out = new Uint8Array(size * height * 3);
  let o = 0;
  for (let y = 0; y < height; y++) {
    const row = y * width * channels;
    for (let x = 0; x < size; x++) {
      let r = HALF;
      let g = HALF;
      let b = HALF;
      let p = row + first[x] * channels;
      const start = x * most;
      for (let k = start, end = start + count[x]; k < end; k++, p += channels) {
        const w = weights[k];
        r = (r + data[p] * w) | 0;
        g = (g + data[p + 1] * w) | 0;
        b = (b + data[p + 2] * w) | 0;
      }
      out[o++] = clamp(r >> PRECISION);
      out[o++] = clamp(g >> PRECISION);
      out[o++] = clamp(b >> PRECISION);
    }
  }
  return out;
}

function resizeColumns(data: Uint8Array, height: number, frame: Frame): Uint8Array {
  const size = frame.height;
  const stride = frame.width * 3;
  const { first, count, weights, most } = tableOf(height, size, frame.filter);
  const out = new Uint8Array(stride * size);
  const sums = new Int32Array(stride);
  for (let y = 0; y < size; y++) {
    sums.fill(HALF);
    for (let k = 0; k < count[y]; k++) {
      const w = weights[y * most + k];
      const row = (first[y] + k) * stride;
      for (let x = 0; x < stride; x++) sums[x] = (sums[x] + data[row + x] * w) | 0;
    }
    const to = y * stride;
    for (let x = 0; x < stride; x++) out[to + x] = clamp(sums[x] >> PRECISION);
  }
  return out;
}

function rgb(image: Pixels): Uint8Array {
  const count = image.width * image.height;
  const out = new Uint8Array(count * 3);
  for (let i = 0, p = 0, o = 0; i < count; i++, p += image.channels) {
    out[o++] = image.data[p];
    out[o++] = image.data[p + 1];
    out[o++] = image.data[p + 2];
  }
  return out;
}

function cubic(t: number): number {
  const x = Math.abs(t);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

function clamp(value: number): number {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}
