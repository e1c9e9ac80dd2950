// Golden cases: photos, the frames they must become, each variant's logits and decisions; read from golden.npz.

import type { Bundle, Head } from "./bundle";
import { decide, softmax } from "./decisions";
import { Damaged } from "./errors";

export interface Golden {
  readonly photos: Uint8Array[];
  readonly frames: Uint8Array[];
  readonly logits: Record<string, number[][]>;
  readonly recorded: Record<string, Recorded>; // by variant; absent before format 1.1
  readonly refused: Record<string, Refused>; // by variant, where it refuses unknown photos
}

/** What the logits of the cases, and then of the probes, were answered with at export. */
export interface Recorded {
  readonly logits: number[][];
  readonly probabilities: number[][];
  readonly decisions: number[]; // the label's number, or -1 for no label
}

/** OOD scores of the cases and of two numbers on either side of the threshold; whether each is unknown. */
export interface Refused {
  readonly scores: number[];
  readonly unknown: number[];
}

const PROBES = 2; // logits a variant, on either side of its decision threshold
const PROBABILITY_TOLERANCE = 1e-4;

/** The golden cases of a Bundle; Damaged when they do not fit it. */
export async function readGolden(bundle: Bundle): Promise<Golden> {
  const { frame, golden, labels, variants } = bundle.head;
  const arrays = await readNpz(await bundle.member(golden.file));
  const get = (name: string) => {
    const array = arrays.get(name);
    if (!array) throw new Damaged(`the golden cases have no ${name}`);
    return array;
  };
  const frames = get("frames");
  const ends = numbers(get("ends"));
  const flat = get("photos").data;
  const sides = [golden.cases, frame.height, frame.width, 3];
  if (frames.dtype !== "|u1" || frames.shape.join() !== sides.join() || ends.length !== golden.cases) {
    throw new Damaged("the golden cases do not fit it");
  }
  const size = frame.height * frame.width * 3;
  const rows = (name: string, count: number) => {
    const values = numbers(get(name));
    if (values.length !== count * labels.length) throw new Damaged("the golden cases do not fit it");
    return Array.from({ length: count }, (_, row) => values.slice(row * labels.length, (row + 1) * labels.length));
  };
  const logits: Record<string, number[][]> = {};
  const recorded: Record<string, Recorded> = {};
  const refused: Record<string, Refused> = {};
  for (const name of Object.keys(variants)) {
    logits[name] = rows(`logits.${name}`, golden.cases);
    if (variants[name].unknown) {
      refused[name] = { scores: numbers(get(`ood.${name}`)), unknown: numbers(get(`unknown.${name}`)) };
      const counts = [refused[name].scores.length, refused[name].unknown.length];
      if (counts.some((count) => count !== golden.cases + PROBES)) throw new Damaged("the golden cases do not fit it");
    }
    if (!arrays.has(`decisions.${name}`)) continue;
    const probabilities = rows(`probabilities.${name}`, golden.cases + PROBES);
    const decisions = numbers(get(`decisions.${name}`));
    if (decisions.length !== golden.cases + PROBES) throw new Damaged("the golden cases do not fit it");
    recorded[name] = { logits: [...logits[name], ...rows(`probes.${name}`, PROBES)], probabilities, decisions };
  }
  return {
    photos: ends.map((end, index) => flat.subarray(index ? ends[index - 1] : 0, end)),
    frames: ends.map((_, index) => frames.data.subarray(index * size, (index + 1) * size)),
    logits,
    recorded,
    refused,
  };
}

const OOD_TOLERANCE = 0.1;

/** Whether the threshold refuses what was refused at export, and this case has the recorded OOD score. */
export function refusesAsRecorded(threshold: number, { scores, unknown }: Refused, index: number, ood: number | undefined): boolean {
  const isSame = scores.every((score, place) => Number(score > threshold) === unknown[place]);
  return isSame && Math.abs((ood ?? 0) - scores[index]) <= OOD_TOLERANCE;
}

/** Whether this page's temperature, threshold and rule make of recorded logits what was recorded at export. */
export function decidesAsRecorded({ labels, variants }: Head, variant: string, recorded: Recorded): boolean {
  const { temperature, decision } = variants[variant];
  const rule = { threshold: decision.threshold, top: decision.rule === "top" };
  return recorded.logits.every((row, place) => {
    const probabilities = softmax(row, temperature);
    const label = labels.indexOf(decide(probabilities, labels, rule));
    const off = largestDifference(probabilities, recorded.probabilities[place]);
    return label === recorded.decisions[place] && off <= PROBABILITY_TOLERANCE;
  });
}

/** The largest difference between two rows of numbers; Infinity when one is not finite. */
export function largestDifference(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  let most = got.length === expected.length ? 0 : Infinity;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(got[i] - expected[i]);
    if (!(difference <= most)) most = Number.isFinite(difference) ? difference : Infinity;
  }
  return most;
}

export interface NpyArray {
  readonly dtype: string; // as NumPy writes it, for example "<f4"
  readonly shape: readonly number[];
  readonly data: Uint8Array; // its raw bytes, C order
}

const MAX_BYTES = 256 << 20;

/** The arrays of an .npz by name; Damaged when a member is not a plain little-endian C-order array. */
export async function readNpz(bytes: Uint8Array): Promise<Map<string, NpyArray>> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = bytes.length - 22;
  if (end < 0 || view.getUint32(end, true) !== 0x06054b50) throw new Damaged("golden.npz has no directory");
  const arrays = new Map<string, NpyArray>();
  let place = view.getUint32(end + 16, true);
  let total = 0;
  for (let count = view.getUint16(end + 10, true); count > 0; count--) {
    if (place + 46 > end || view.getUint32(place, true) !== 0x02014b50) throw new Damaged("golden.npz is cut short");
    const method = view.getUint16(place + 10, true);
    const packed = view.getUint32(place + 20, true);
    const size = view.getUint32(place + 24, true);
    const nameLength = view.getUint16(place + 28, true);
    const header = view.getUint32(place + 42, true);
    const name = String.fromCharCode(...bytes.subarray(place + 46, place + 46 + nameLength));
    total += size;
    if (total > MAX_BYTES || header + 30 > end) throw new Damaged("golden.npz unpacks to too many bytes");
    const start = header + 30 + view.getUint16(header + 26, true) + view.getUint16(header + 28, true);
    const raw = bytes.subarray(start, start + packed);
    const npy = method === 0 ? raw : await inflate(raw, size);
    if (npy.length !== size) throw new Damaged(`${name} in golden.npz is cut short`);
    arrays.set(name.replace(/\.npy$/, ""), parseNpy(npy));
    place += 46 + nameLength + view.getUint16(place + 30, true) + view.getUint16(place + 32, true);
  }
  return arrays;
}

/** The values of a numeric array as floats or integers that fit a double. */
export function numbers(array: NpyArray): number[] {
  const { data, dtype } = array;
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const read: Record<string, [number, (at: number) => number]> = {
    "<f4": [4, (at) => view.getFloat32(at, true)],
    "<f8": [8, (at) => view.getFloat64(at, true)],
    "<i4": [4, (at) => view.getInt32(at, true)],
    "<i8": [8, (at) => Number(view.getBigInt64(at, true))],
    "|u1": [1, (at) => view.getUint8(at)],
    "|b1": [1, (at) => view.getUint8(at)],
  };
  const reader = read[dtype];
  if (!reader) throw new Damaged(`golden.npz has an array of the type ${dtype}`);
  const [width, value] = reader;
  return Array.from({ length: data.length / width }, (_, place) => value(place * width));
}

function parseNpy(bytes: Uint8Array): NpyArray {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const wide = bytes[6] >= 2;
  const start = wide ? 12 : 10;
  const length = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const head = new TextDecoder("latin1").decode(bytes.subarray(start, start + length));
  const dtype = /'descr': '([<|][a-z]\d+)'/.exec(head)?.[1];
  const shape = /'shape': \(([\d, ]*)\)/.exec(head)?.[1];
  if (bytes[0] !== 0x93 || !dtype || shape === undefined || !head.includes("'fortran_order': False")) {
    throw new Damaged("golden.npz holds something that is not a plain array");
  }
  const sides = shape.split(",").map((side) => side.trim()).filter(Boolean).map(Number);
  const data = bytes.subarray(start + length);
  const items = sides.reduce((product, side) => product * side, 1);
  if (data.length !== items * Number(/\d+$/.exec(dtype)?.[0])) throw new Damaged("an array of golden.npz is cut short");
  return { dtype, shape: sides, data };
}

async function inflate(packed: Uint8Array, size: number): Promise<Uint8Array> {
  const out = new Uint8Array(size);
  const stream = new Blob([packed as BlobPart]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const reader = stream.getReader();
  for (let place = 0; ; ) {
    const { done, value } = await reader.read().catch(() => {
      throw new Damaged("golden.npz cannot be unpacked");
    });
    if (done) return place === size ? out : out.subarray(0, place);
    if (place + value.length > size) throw new Damaged("golden.npz unpacks to too many bytes");
    out.set(value, place);
    place += value.length;
  }
}
