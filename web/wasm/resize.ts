// The two passes of the Frame's resize in AssemblyScript: four channels at once, in whole numbers.
// src/resize.ts works out the tables; a table holds, for each of `size` results, the first input sample
// and how many there are (i32 each), then `most` weights of 22 bits after the point for each.

const PRECISION: i32 = 22;
const HALF: i32 = 1 << (PRECISION - 1);

/** Resize `height` rows of RGBA pixels, `pitch` px apart, across to `size`; those of the result are `stride` bytes apart. */
export function rows(from: usize, to: usize, pitch: i32, height: i32, table: usize, size: i32, most: i32, stride: i32): void {
  const counts: usize = table + 4 * size;
  const weights: usize = counts + 4 * size;
  for (let y: i32 = 0; y < height; y++) {
    const row: usize = from + y * pitch * 4;
    const result: usize = to + y * stride;
    for (let x: i32 = 0; x < size; x++) {
      let pixel: usize = row + 4 * load<i32>(table + 4 * x);
      let weight: usize = weights + 4 * x * most;
      const end: usize = weight + 4 * load<i32>(counts + 4 * x);
      let sum: v128 = i32x4.splat(HALF);
      for (; weight < end; weight += 4, pixel += 4) {
        const wide: v128 = i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(v128.load32_zero(pixel)));
        sum = i32x4.add(sum, i32x4.mul(wide, v128.load32_splat(weight)));
      }
      const short: v128 = i16x8.narrow_i32x4_s(i32x4.shr_s(sum, PRECISION), sum);
      v128.store32_lane(result + 4 * x, i8x16.narrow_i16x8_u(short, short), 0);
    }
  }
}

/** Resize rows of `stride` bytes, a multiple of 16, down to `size` rows. */
export function columns(from: usize, to: usize, stride: i32, table: usize, size: i32, most: i32): void {
  const counts: usize = table + 4 * size;
  const weights: usize = counts + 4 * size;
  for (let y: i32 = 0; y < size; y++) {
    const first: usize = from + stride * load<i32>(table + 4 * y);
    const start: usize = weights + 4 * y * most;
    const end: usize = start + 4 * load<i32>(counts + 4 * y);
    for (let x: i32 = 0; x < stride; x += 16) {
      let a: v128 = i32x4.splat(HALF);
      let b: v128 = a;
      let c: v128 = a;
      let d: v128 = a;
      let pixels: usize = first + x;
      for (let weight: usize = start; weight < end; weight += 4, pixels += stride) {
        const bytes: v128 = v128.load(pixels);
        const low: v128 = i16x8.extend_low_i8x16_u(bytes);
        const high: v128 = i16x8.extend_high_i8x16_u(bytes);
        const factor: v128 = v128.load32_splat(weight);
        a = i32x4.add(a, i32x4.mul(i32x4.extend_low_i16x8_u(low), factor));
        b = i32x4.add(b, i32x4.mul(i32x4.extend_high_i16x8_u(low), factor));
        c = i32x4.add(c, i32x4.mul(i32x4.extend_low_i16x8_u(high), factor));
        d = i32x4.add(d, i32x4.mul(i32x4.extend_high_i16x8_u(high), factor));
      }
      const left: v128 = i16x8.narrow_i32x4_s(i32x4.shr_s(a, PRECISION), i32x4.shr_s(b, PRECISION));
      const right: v128 = i16x8.narrow_i32x4_s(i32x4.shr_s(c, PRECISION), i32x4.shr_s(d, PRECISION));
      v128.store(to + y * stride + x, i8x16.narrow_i16x8_u(left, right));
    }
  }
}
