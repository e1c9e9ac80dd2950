// How the stored pixels of a photo are to be turned, 1 to 8: step 3 of docs/concepts/frame.md.

import { inflateSync } from "node:zlib";

const [TAG, TIFF_XMP] = [0x0112, 700];
const SIZES = [0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8]; // bytes of one value of each TIFF type; 0: unknown
const HEADS = ["MM\0*", "II*\0", "MM*\0", "II\0*", "MM\0+"];
const PNG = "\x89PNG\r\n\x1a\n";
const [RAW_EXIF, PNG_XMP] = ["Raw profile type exif", "XML:com.adobe.xmp"];
const JPEG_XMP = "http://ns.adobe.com/xap/1.0/\0";
const MOST_TEXT = 2 ** 20;

/** What the EXIF of a photo says, a Buffer; what its XMP says where EXIF has no such tag; 1 where neither does. */
export function orientationOf(photo) {
  const head = photo.toString("latin1", 0, 12);
  let found = {};
  if (head.startsWith("\xff\xd8")) found = inJpeg(photo);
  else if (head.startsWith(PNG)) found = inPng(photo);
  else if (head.startsWith("RIFF") && head.endsWith("WEBP")) found = inWebp(photo);
  else if (HEADS.includes(head.slice(0, 4))) found = inTiff(photo);
  // AVIF says it in boxes that its decoder obeys; the others are never turned.
  const xmp = /tiff:Orientation(?:="|>)([0-9])/.exec(found.xmp?.toString("latin1") ?? "")?.[1];
  const value = (found.exif && exifTag(found.exif)) ?? Number(xmp ?? 1);
  return value >= 1 && value <= 8 ? value : 1;
}

/** The tag in EXIF; undefined where it is absent, 1 where it means nothing. */
function exifTag(exif) {
  for (let twice = 0; twice < 2 && exif.toString("latin1", 0, 6) === "Exif\0\0"; twice++) exif = exif.subarray(6);
  if (!exif.length) return undefined;
  if (exif.length < 8 || !HEADS.includes(exif.toString("latin1", 0, 4))) return 1;
  const found = entryOf(exif, TAG);
  return found && wholeNumber(exif, found);
}

/** Where the value of a tag stands in the first directory of a TIFF, and its type; undefined where it is absent. */
function entryOf(tiff, tag) {
  const order = tiff[0] === 0x49 ? "LE" : "BE";
  const short = (place) => tiff[`readUInt16${order}`](place);
  const long = (place) => tiff[`readUInt32${order}`](place);
  const table = long(4);
  if (table + 2 > tiff.length) return undefined;
  let elsewhere = 0; // bytes that do not fit into their entries
  for (let n = short(table), entry = table + 2; n > 0 && entry + 12 <= tiff.length; n--, entry += 12) {
    const size = (SIZES[short(entry + 2)] ?? 0) * long(entry + 4);
    let place = entry + 8;
    if (size > 4) {
      elsewhere += size;
      if (elsewhere > tiff.length) continue;
      place = long(place);
      if (place + size > tiff.length) return undefined;
    }
    if (size && short(entry) === tag) return { type: short(entry + 2), place, size, order };
  }
  return undefined;
}

/** The value at a place if its type is one of whole numbers, else 1. */
function wholeNumber(exif, { type, place, order }) {
  const kinds = { 3: "UInt16", 4: "UInt32", 6: "Int8", 8: "Int16", 9: "Int32", 13: "UInt32", 16: "BigUInt64" };
  const kind = kinds[type];
  return kind ? Number(exif[`read${kind}${kind === "Int8" ? "" : order}`](place)) : 1;
}

/** A TIFF is what EXIF is made of. */
function inTiff(photo) {
  const xmp = photo.length < 8 ? undefined : entryOf(photo, TIFF_XMP);
  return { exif: photo, xmp: xmp && photo.subarray(xmp.place, xmp.place + xmp.size) };
}

/** The segments before the first pixels; EXIF may come in parts. */
function inJpeg(photo) {
  const exif = [];
  let xmp;
  for (let at = 2; at + 4 <= photo.length; ) {
    const marker = photo[at + 1];
    if (photo[at] !== 0xff || marker === 0xff) at++;
    else if (marker <= 1 || (marker >= 0xd0 && marker <= 0xd8)) at += 2;
    else if (marker === 0xda || marker === 0xd9) break;
    else {
      const end = at + 2 + Math.max(2, photo.readUInt16BE(at + 2));
      const body = photo.subarray(at + 4, end);
      const name = marker === 0xe1 ? body.toString("latin1", 0, JPEG_XMP.length) : "";
      if (name === JPEG_XMP) xmp = body.subarray(JPEG_XMP.length);
      if (name.startsWith("Exif\0\0")) exif.push(body.subarray(exif.length && 6));
      at = end;
    }
  }
  return { exif: Buffer.concat(exif), xmp };
}

/** The chunks before and after the pixels, but of an animation none from its second picture on. */
function inPng(photo) {
  const found = {};
  let [animated, pixels] = [false, false];
  for (let at = 8, end = 0; at + 12 <= photo.length; at = end) {
    end = at + 12 + photo.readUInt32BE(at);
    const name = photo.toString("latin1", at + 4, at + 8);
    if (name === "IEND" || end > photo.length || (name === "fcTL" && animated && pixels)) break;
    animated ||= name === "acTL";
    pixels ||= name === "IDAT";
    const body = photo.subarray(at + 8, end - 4);
    if (name === "eXIf") found.exif = body;
    else if (["tEXt", "zTXt", "iTXt"].includes(name)) Object.assign(found, inText(name, body));
  }
  return { exif: found.exif ?? rawExif(found[RAW_EXIF]), xmp: found[PNG_XMP] };
}

function inText(name, body) {
  const key = body.toString("latin1", 0, 80).split("\0", 1)[0];
  if (key !== RAW_EXIF && key !== PNG_XMP) return {};
  let text = body.subarray(key.length + 1);
  let packed = name === "zTXt";
  if (packed) text = text.subarray(1); // the method, which is always deflate
  if (name === "iTXt") {
    packed = text[0] !== 0;
    const language = text.indexOf(0, 2);
    const translated = text.indexOf(0, language + 1);
    if (language < 0 || translated < 0) return {};
    text = text.subarray(translated + 1);
  }
  const unpacked = packed ? inflated(text) : text;
  return unpacked ? { [key]: unpacked } : {};
}

function inflated(text) {
  try {
    return inflateSync(text, { maxOutputLength: MOST_TEXT });
  } catch (error) {
    if (error.code === "ERR_BUFFER_TOO_LARGE") throw new Error("A text in the PNG is too long.");
    return undefined; // damaged
  }
}

/** EXIF as ImageMagick writes it into a text: two lines of heading, then hexadecimal digits. */
function rawExif(text) {
  const digits = text?.toString("latin1").split("\n").slice(3).join("").replace(/\s/g, "");
  if (digits === undefined) return undefined;
  return /^([0-9a-f]{2})*$/i.test(digits) ? Buffer.from(digits, "hex") : Buffer.of(0); // damaged
}

function inWebp(photo) {
  const found = {};
  const flags = photo.toString("latin1", 12, 16) === "VP8X" ? photo[20] : 0;
  for (let at = 12; at + 8 <= photo.length; ) {
    const name = photo.toString("latin1", at, at + 4);
    const length = photo.readUInt32LE(at + 4);
    const body = photo.subarray(at + 8, at + 8 + length);
    if (name === "EXIF" && flags & 8) found.exif ??= body;
    if (name === "XMP " && flags & 4) found.xmp ??= body;
    at += 8 + length + (length & 1);
  }
  return found;
}
