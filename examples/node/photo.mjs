// A photo file to upright sRGB pixels at full or scaled size: steps 1 to 3 of docs/concepts/frame.md.
// Steps 4 and 5, crop and resize, are inside the graph of the variant onnx-frame, and in frame.mjs.

import sharp from "sharp";
import { orientationOf } from "./orientation.mjs";

const FORMATS = ["jpeg", "png", "webp", "heif", "gif", "tiff", "ppm", "jp2"]; // of the Frame; sharp reads others, too
const MOST_SIDE = 65_535; // px

/** uint8 RGB (height, width, 3) of a photo; an Error for what this small client does not decode. */
export async function decode(data, frame) {
  if (data.length > frame.max_bytes) throw new Error("The photo has too many bytes.");
  const about = await sharp(data).metadata();
  const isHeic = about.format === "heif" && about.compression !== "av1";
  if (!FORMATS.includes(about.format) || isHeic) throw new Error("Its format is none of the Frame's.");
  if (Math.max(about.width, about.height) > MOST_SIDE) throw new Error("The photo has too many pixels.");
  if (!["uchar", "ushort"].includes(about.depth)) throw new Error("Its pixels are not of 8 or 16 bits.");
  if (about.space === "cmyk") throw new Error("This client does not decode CMYK.");
  const { data: pixels, info } = await sharp(data, { limitInputPixels: frame.max_pixels, failOn: "truncated" })
    .flatten({ background: "#ffffff" })
    .toColourspace("srgb")
    .removeAlpha()
    .raw()
    .toBuffer({ resolveWithObject: true });
  const orientation = orientationOf(data);
  const whole = { data: pixels, width: info.width, height: info.height };
  const scale = about.format === "jpeg" && frame.decode === "scaled" ? reduction(whole, frame, orientation) : 1;
  return upright(scale > 1 ? boxed(whole, scale) : whole, orientation);
}

/** At which 1/s the Frame decodes a JPEG of this stored size: at least twice the frame remains. */
function reduction({ width, height }, frame, orientation) {
  const [across, down] = orientation >= 5 ? [frame.height, frame.width] : [frame.width, frame.height];
  return [8, 4, 2].find((s) => Math.floor(width / (2 * across)) >= s && Math.floor(height / (2 * down)) >= s) ?? 1;
}

/** Means of s × s pixels, which is what libjpeg's scaled decode gives, to a few levels. */
function boxed({ data, width, height }, s) {
  const [w, h] = [Math.ceil(width / s), Math.ceil(height / s)];
  const small = new Uint8Array(w * h * 3);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      const [right, bottom] = [Math.min(width, (x + 1) * s), Math.min(height, (y + 1) * s)];
      const count = (right - x * s) * (bottom - y * s);
      for (let c = 0; c < 3; c++) {
        let sum = count / 2;
        for (let v = y * s; v < bottom; v++) for (let u = x * s; u < right; u++) sum += data[(v * width + u) * 3 + c];
        small[(y * w + x) * 3 + c] = sum / count;
      }
    }
  }
  return { data: small, width: w, height: h };
}

/** Turned as EXIF says: from where in the stored picture each upright pixel comes. */
function upright({ data, width, height }, orientation) {
  if (orientation === 1) return { data, width, height };
  const [w, h] = orientation >= 5 ? [height, width] : [width, height];
  const turned = new Uint8Array(data.length);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      let [u, v] = orientation >= 5 ? [y, x] : [x, y];
      if ([2, 3, 7, 8].includes(orientation)) u = width - 1 - u;
      if ([3, 4, 6, 7].includes(orientation)) v = height - 1 - v;
      for (let c = 0; c < 3; c++) turned[(y * w + x) * 3 + c] = data[(v * width + u) * 3 + c];
    }
  }
  return { data: turned, width: w, height: h };
}
