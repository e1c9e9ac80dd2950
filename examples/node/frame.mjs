// Upright pixels to a frame: crop and resize, steps 4 and 5 of docs/concepts/frame.md, in plain JavaScript.

const ONE = 2 ** 22; // weights are whole numbers, in units of 1 / ONE
const FILTERS = {
  bilinear: [1, (t) => Math.max(0, 1 - t)],
  bicubic: [2, (t) => (t < 1 ? (1.5 * t - 2.5) * t * t + 1 : t < 2 ? ((-0.5 * t + 2.5) * t - 4) * t + 2 : 0)],
};

/** The frame, uint8 RGB (frame.height, frame.width, 3), of a picture, uint8 RGB (height, width, 3). */
export function toFrame(picture, frame) {
  const across = resized(cropped(picture, frame), frame.width, frame.filter, true);
  return resized(across, frame.height, frame.filter, false).data;
}

function cropped({ data, width, height }, frame) {
  if (frame.fit === "squash") return { data, width, height };
  const w = Math.min(width, Math.max(1, Math.floor((height * frame.width) / frame.height)));
  const h = Math.min(height, Math.max(1, Math.floor((width * frame.height) / frame.width)));
  const [left, top] = [Math.floor((width - w) / 2), Math.floor((height - h) / 2)];
  const part = new Uint8Array(w * h * 3);
  for (let y = 0; y < h; y++) {
    const start = ((top + y) * width + left) * 3;
    part.set(data.subarray(start, start + w * 3), y * w * 3);
  }
  return { data: part, width: w, height: h };
}

/** One pass to `size` samples, along the rows or along the columns. */
function resized({ data, width, height }, size, filter, along) {
  const [n, lines, step, jump] = along ? [width, height, 3, width * 3] : [height, width, width * 3, 3];
  if (n === size) return { data, width, height };
  const [w, h] = along ? [size, height] : [width, size];
  const [outStep, outJump] = along ? [3, w * 3] : [w * 3, 3];
  const out = new Uint8Array(w * h * 3);
  weights(n, size, filter).forEach(({ first, whole }, i) => {
    for (let line = 0; line < lines; line++) {
      for (let c = 0; c < 3; c++) {
        let sum = ONE / 2;
        whole.forEach((weight, k) => (sum += data[line * jump + (first + k) * step + c] * weight));
        out[line * outJump + i * outStep + c] = Math.min(255, Math.max(0, Math.floor(sum / ONE)));
      }
    }
  });
  return { data: out, width: w, height: h };
}

/** For each of m samples the first of the n that it is made of, and their weights. */
function weights(n, m, filter) {
  const [radius, f] = FILTERS[filter];
  const scale = n / m;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: m }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - radius * stretch + 0.5));
    const last = Math.min(n, Math.trunc(centre + radius * stretch + 0.5));
    const parts = Array.from({ length: last - first }, (_, k) => f(Math.abs((first + k - centre + 0.5) * (1 / stretch))));
    const total = parts.reduce((sum, part) => sum + part, 0);
    const whole = parts.map((part) => Math.trunc((part / total) * ONE + (part < 0 ? -0.5 : 0.5)));
    return { first, whole };
  });
}
