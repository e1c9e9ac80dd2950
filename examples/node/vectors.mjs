// Holds this client's pixels to the vectors of the Frame: a line of JSON for each, then how many passed.
//
//   node vectors.mjs ../../docs/reference/vectors

import { readFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import { toFrame } from "./frame.mjs";
import { decode } from "./photo.mjs";

const [folder] = process.argv.slice(2);
const { format, version, vectors } = JSON.parse(readFileSync(join(folder, "vectors.json"), "utf8"));
if (format !== "catflap frame vectors" || version !== 1) throw new Error(`${folder} holds no vectors of version 1`);

let failed = 0;
for (const vector of vectors) {
  const result = vector.refused ? await refusal(vector) : await difference(vector);
  failed += result.pass ? 0 : 1;
  console.log(JSON.stringify({ photo: vector.photo, ...result }));
}
console.log(JSON.stringify({ vectors: vectors.length, failed }));
process.exitCode = failed ? 1 : 0;

/** Is the photo's greatest difference from its stored pixels within the tolerance? */
async function difference({ photo, frame, pixels, tolerance }) {
  try {
    const got = toFrame(await decode(readFileSync(join(folder, photo)), frame), frame);
    const { data, info } = await sharp(join(folder, pixels)).raw().toBuffer({ resolveWithObject: true });
    const fits = got.length === data.length && info.width === frame.width && info.height === frame.height;
    const value = fits ? data.reduce((worst, byte, n) => Math.max(worst, Math.abs(byte - got[n])), 0) : 255;
    return { pass: value <= tolerance, value, limit: tolerance };
  } catch (error) {
    return { pass: false, error: error.message };
  }
}

/** Is it refused? */
async function refusal({ photo, frame, refused }) {
  try {
    await decode(readFileSync(join(folder, photo)), frame);
    return { pass: false, error: `it must be refused: ${refused}` };
  } catch (error) {
    return { pass: true, error: error.message };
  }
}
