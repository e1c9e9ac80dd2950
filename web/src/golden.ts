// Golden cases: photos, the frames they must become, and the logits each variant must answer.

import type { Bundle } from "./bundle";
import { Damaged } from "./errors";
import { numbers, readNpz } from "./npz";

export interface Golden {
  readonly photos: Uint8Array[];
  readonly frames: Uint8Array[];
  readonly logits: Record<string, number[][]>;
}

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
  const logits: Record<string, number[][]> = {};
  for (const name of Object.keys(variants)) {
    const values = numbers(get(`logits.${name}`));
    if (values.length !== golden.cases * labels.length) throw new Damaged("the golden cases do not fit it");
    logits[name] = ends.map((_, row) => values.slice(row * labels.length, (row + 1) * labels.length));
  }
  return {
    photos: ends.map((end, index) => flat.subarray(index ? ends[index - 1] : 0, end)),
    frames: ends.map((_, index) => frames.data.subarray(index * size, (index + 1) * size)),
    logits,
  };
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
