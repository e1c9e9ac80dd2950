// What the headers of a photo file say: size, orientation, chroma subsampling; and the file without its orientation.
// Browsers disagree on which photos they turn: step 3 of docs/concepts/frame.md.

import { BadPhoto } from "./errors";

export interface Stored {
  readonly size?: Size | undefined; // as the header of a JPEG or PNG tells it, before anybody decodes
  readonly orientation: number;
  readonly jpeg: JpegHead | undefined;
  readonly unturned: Blob; // decodes to the pixels as they are stored
}

/** Bytes that are left out, or others in their place. */
interface Change {
  readonly start: number;
  readonly end: number;
  readonly by?: Uint8Array;
}

const PNG = "PNG\r\n\x1a\n"; // after a byte that is no letter
const COLOUR_SEGMENTS = [0xe0, 0xe2, 0xee]; // of a JPEG's APP segments those that decide about colours: JFIF, ICC, Adobe
const RAW_EXIF = "Raw profile type exif"; // as ImageMagick writes it
const PNG_XMP = "XML:com.adobe.xmp";
const MAX_TEXT = 1 << 20;

/** Read how a photo is stored; BadPhoto where nobody could be sure how the browser turns it. */
export async function readStored(photo: Blob): Promise<Stored> {
  const bytes = new Uint8Array(await photo.arrayBuffer());
  const head = lettersOf(bytes.subarray(0, 16));
  const jpeg = readJpegHead(bytes);
  if (jpeg) return { size: jpeg.size, orientation: jpeg.orientation, jpeg, unturned: changed(photo, jpegChanges(bytes)) };
  if (head.startsWith(PNG, 1)) return readPng(photo, bytes);
  if (head.startsWith("RIFF") && head.slice(8, 12) === "WEBP") return readWebp(photo, bytes);
  // GIF and BMP are never turned; AVIF says how in boxes that every decoder has to obey.
  const isSure = /^(GIF8|BM)/.test(head) || head.slice(4, 8) === "ftyp";
  if (!isSure) throw new BadPhoto("unreadable");
  return { orientation: 1, jpeg: undefined, unturned: photo };
}

function changed(photo: Blob, changes: readonly Change[]): Blob {
  const parts: BlobPart[] = [];
  let place = 0;
  for (const { start, end, by } of changes) {
    parts.push(photo.slice(place, start));
    if (by) parts.push(by as BlobPart);
    place = end;
  }
  return place ? new Blob([...parts, photo.slice(place)]) : photo;
}

function jpegChanges(bytes: Uint8Array): Change[] {
  const isLeftOut = (marker: number) => marker >= 0xe0 && marker <= 0xef && !COLOUR_SEGMENTS.includes(marker);
  return Array.from(segmentsOf(bytes)).filter(({ marker }) => isLeftOut(marker));
}

async function readPng(photo: Blob, bytes: Uint8Array): Promise<Stored> {
  const view = new DataView(bytes.buffer);
  const texts = new Map<string, Uint8Array>();
  const changes: Change[] = [];
  let isAnimated = false;
  let hasPixels = false;
  let isFirst = true; // what follows the second picture of an animation is about that
  for (let start = 8, end = 0; start + 12 <= bytes.length; start = end) {
    end = start + 12 + view.getUint32(start);
    const name = lettersOf(bytes.subarray(start + 4, start + 8));
    const body = bytes.subarray(start + 8, end - 4);
    if (name === "IEND" || end > bytes.length) break;
    if (name === "IDAT") hasPixels = true;
    if (name === "acTL") isAnimated = true;
    if (name === "fcTL" && isAnimated && hasPixels) isFirst = false;
    if (!["eXIf", "tEXt", "zTXt", "iTXt"].includes(name)) continue;
    changes.push({ start, end });
    if (!isFirst) continue;
    if (name === "eXIf") texts.set(name, body);
    else await readText(name, body, texts);
  }
  const exif = texts.get("eXIf") ?? rawExif(texts.get(RAW_EXIF));
  const xmp = texts.get(PNG_XMP);
  const orientation = orientationOf(exif, xmp && lettersOf(xmp));
  const size = bytes.length < 24 ? undefined : { width: view.getUint32(16), height: view.getUint32(20) };
  return { size, orientation, jpeg: undefined, unturned: changed(photo, changes) };
}

/** Keep the text of a PNG chunk if it may hold EXIF or XMP. */
async function readText(name: string, body: Uint8Array, texts: Map<string, Uint8Array>): Promise<void> {
  const key = lettersOf(body.subarray(0, 80)).split("\0", 1)[0];
  if (key !== RAW_EXIF && key !== PNG_XMP) return;
  let text = body.subarray(key.length + 1);
  let isPacked = name === "zTXt";
  if (isPacked) text = text.subarray(1); // the method, which is always deflate
  if (name === "iTXt") {
    isPacked = text[0] !== 0;
    for (let zeros = 0, start = 2; zeros < 2; zeros++) {
      const end = text.indexOf(0, start);
      if (end < 0) return;
      start = end + 1;
      if (zeros) text = text.subarray(start);
    }
  }
  const unpacked = isPacked ? await inflate(text) : text;
  if (unpacked) texts.set(key, unpacked);
}

/** EXIF as ImageMagick writes it into a text: two lines of heading, then hexadecimal digits. */
function rawExif(text: Uint8Array | undefined): Uint8Array | undefined {
  if (!text) return undefined;
  const digits = lettersOf(text).split("\n").slice(3).join("").replace(/\s/g, "");
  if (!/^([0-9a-f]{2})*$/i.test(digits)) return Uint8Array.of(0); // damaged
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

async function inflate(packed: Uint8Array): Promise<Uint8Array | undefined> {
  const stream = new Blob([packed as BlobPart]).stream().pipeThrough(new DecompressionStream("deflate"));
  const reader = stream.getReader();
  const parts: Uint8Array[] = [];
  for (let size = 0; ; ) {
    const read = await reader.read().catch(() => undefined);
    if (!read) return undefined;
    if (read.done) return new Uint8Array(await new Blob(parts as BlobPart[]).arrayBuffer());
    size += read.value.length;
    if (size > MAX_TEXT) throw new BadPhoto("unreadable");
    parts.push(read.value);
  }
}

function readWebp(photo: Blob, bytes: Uint8Array): Stored {
  const view = new DataView(bytes.buffer);
  const changes: Change[] = [];
  let flags = 0;
  let exif: Uint8Array | undefined;
  let xmp: Uint8Array | undefined;
  for (let start = 12; start + 8 <= bytes.length; ) {
    const name = lettersOf(bytes.subarray(start, start + 4));
    const length = view.getUint32(start + 4, true);
    const body = bytes.subarray(start + 8, start + 8 + length);
    if (name === "VP8X" && start === 12) {
      flags = bytes[20];
      changes.push({ start: 20, end: 21, by: Uint8Array.of(flags & ~0x0c) });
    } else if (name === "EXIF" || name === "XMP ") {
      const by = new Uint8Array(8 + body.length); // a chunk of an unknown name, as long and empty
      by.set([...new TextEncoder().encode("none"), ...bytes.subarray(start + 4, start + 8)]);
      changes.push({ start, end: start + by.length, by });
      if (name === "EXIF" && flags & 8) exif ??= body;
      if (name === "XMP " && flags & 4) xmp ??= body;
    }
    start += 8 + length + (length & 1);
  }
  const orientation = orientationOf(exif, xmp && lettersOf(xmp));
  return { orientation, jpeg: undefined, unturned: changed(photo, changes) };
}

export interface Size {
  readonly width: number;
  readonly height: number;
}

export interface JpegHead {
  readonly size: Size | undefined; // as it is stored
  readonly orientation: number; // 1 when none is stated
  readonly subsampling: readonly [number, number] | undefined; // of chroma, across and down; undefined if grey
}

/** A part of the header, from its marker to its end. */
export interface Segment {
  readonly marker: number;
  readonly start: number;
  readonly end: number;
  readonly body: Uint8Array;
}

const JPEG_XMP = "http://ns.adobe.com/xap/1.0/\0";

/** Read the head of a JPEG; undefined when the bytes are none. */
export function readJpegHead(bytes: Uint8Array): JpegHead | undefined {
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return undefined;
  const exif: number[] = [];
  let xmp: string | undefined;
  let subsampling: JpegHead["subsampling"];
  let size: Size | undefined;
  for (const { marker, body } of segmentsOf(bytes)) {
    if (marker === 0xe1) {
      const letters = lettersOf(body.subarray(0, JPEG_XMP.length));
      if (letters === JPEG_XMP) xmp = lettersOf(body.subarray(JPEG_XMP.length));
      if (letters.startsWith("Exif\0\0")) for (const byte of body.subarray(exif.length && 6)) exif.push(byte); // in parts
    }
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      subsampling = chromaSubsampling(body);
      size = { width: 256 * body[3] + body[4], height: 256 * body[1] + body[2] };
    }
  }
  return { size, orientation: orientationOf(Uint8Array.from(exif), xmp), subsampling };
}

/** The segments before the first pixels; what a decoder passes over is passed over. */
export function* segmentsOf(bytes: Uint8Array): Generator<Segment> {
  for (let start = 2; start + 4 <= bytes.length; ) {
    const marker = bytes[start + 1];
    if (bytes[start] !== 0xff || marker === 0xff) {
      start++;
    } else if (marker <= 1 || (marker >= 0xd0 && marker <= 0xd8)) {
      start += 2;
    } else if (marker === 0xda || marker === 0xd9) {
      return;
    } else {
      const end = start + 2 + Math.max(2, 256 * bytes[start + 2] + bytes[start + 3]);
      yield { marker, start, end, body: bytes.subarray(start + 4, end) };
      start = end;
    }
  }
}

/** How often chroma is sampled less than luma, from the body of a start-of-frame segment. */
function chromaSubsampling(body: Uint8Array): readonly [number, number] | undefined {
  if (body[5] !== 3) return undefined;
  const [luma, blue] = [body[7], body[10]];
  return [(luma >> 4) / (blue >> 4), (luma & 15) / (blue & 15)];
}

const ORIENTATION = 0x0112;
const TYPE_SIZES = [0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8]; // bytes of one value of each TIFF type; 0: unknown
const TIFF_HEADS = ["MM\0*", "II*\0", "MM*\0", "II\0*", "MM\0+"];
const EXIF = "Exif\0\0";

/** What EXIF says; what XMP says where EXIF has no such tag; 1 where neither does. */
export function orientationOf(exif: Uint8Array | undefined, xmp: string | undefined): number {
  const value = (exif && exifTag(exif)) ?? Number(/tiff:Orientation(?:="|>)([0-9])/.exec(xmp ?? "")?.[1] ?? 1);
  return value >= 1 && value <= 8 ? value : 1;
}

/** Bytes as text, a letter each. */
export function lettersOf(bytes: Uint8Array): string {
  return new TextDecoder("latin1").decode(bytes);
}

/** The tag in the first directory of a TIFF head; undefined where it is absent, 1 where it means nothing. */
function exifTag(bytes: Uint8Array): number | undefined {
  for (let twice = 0; twice < 2 && lettersOf(bytes.subarray(0, 6)) === EXIF; twice++) bytes = bytes.subarray(6);
  if (!bytes.length) return undefined;
  const head = lettersOf(bytes.subarray(0, 4));
  if (bytes.length < 8 || !TIFF_HEADS.includes(head)) return 1;
  const little = head[0] === "I";
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const table = view.getUint32(4, little);
  if (table + 2 > bytes.length) return undefined;
  let elsewhere = 0; // bytes that do not fit into their entries
  for (let n = view.getUint16(table, little), entry = table + 2; n > 0 && entry + 12 <= bytes.length; n--, entry += 12) {
    const type = view.getUint16(entry + 2, little);
    const size = (TYPE_SIZES[type] ?? 0) * view.getUint32(entry + 4, little);
    let place = entry + 8;
    if (size > 4) {
      elsewhere += size;
      if (elsewhere > bytes.length) continue;
      place = view.getUint32(place, little);
      if (place + size > bytes.length) return undefined;
    }
    if (size && view.getUint16(entry, little) === ORIENTATION) return wholeNumber(view, place, type, little);
  }
  return undefined;
}

/** The value at a place if its type is one of whole numbers, else 1. */
function wholeNumber(view: DataView, place: number, type: number, little: boolean): number {
  if (type === 3) return view.getUint16(place, little);
  if (type === 4 || type === 13) return view.getUint32(place, little);
  if (type === 6) return view.getInt8(place);
  if (type === 8) return view.getInt16(place, little);
  if (type === 9) return view.getInt32(place, little);
  return type === 16 ? Number(view.getBigUint64(place, little)) : 1;
}
