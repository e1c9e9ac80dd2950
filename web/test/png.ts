// Just enough of a PNG reader for the golden vectors: 8-bit RGB, not interlaced.

import { inflateSync } from "node:zlib";

export function readPng(file: Buffer): { data: Uint8Array; width: number; height: number } {
  const [width, height] = [file.readUInt32BE(16), file.readUInt32BE(20)];
  if (file[24] !== 8 || file[25] !== 2 || file[28] !== 0) throw new Error("not a plain RGB PNG");
  const parts: Buffer[] = [];
  for (let place = 8; place < file.length; ) {
    const length = file.readUInt32BE(place);
    if (file.toString("latin1", place + 4, place + 8) === "IDAT") parts.push(file.subarray(place + 8, place + 8 + length));
    place += 12 + length;
  }
  const raw = inflateSync(Buffer.concat(parts));
  const stride = 3 * width;
  const data = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const filter = raw[y * (stride + 1)];
    for (let x = 0; x < stride; x++) {
      const left = x >= 3 ? data[y * stride + x - 3] : 0;
      const up = y ? data[(y - 1) * stride + x] : 0;
      const corner = x >= 3 && y ? data[(y - 1) * stride + x - 3] : 0;
      const guess = [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter];
      data[y * stride + x] = raw[y * (stride + 1) + 1 + x] + guess;
    }
  }
  return { data, width, height };
}

function paeth(a: number, b: number, c: number): number {
  const [pa, pb, pc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
  if (pa <= pb && pa <= pc) return a;
  return pb <= pc ? b : c;
}
