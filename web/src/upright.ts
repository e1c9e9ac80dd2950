// A decoded photo, of which parts are read as it stands upright.

import { BadPhoto } from "./errors";
import type { Part } from "./frame";

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
