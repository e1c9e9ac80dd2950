// A photo file as it is stored: how its pixels are to be turned, and the same file without what says so, for a
// browser that turns some photos and not others is given none that it could turn.

import { BadPhoto } from "./errors";
import { readJpegHead, segmentsOf, type JpegHead, type Size } from "./jpeg";
import { lettersOf, orientationOf } from "./orientation";

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
const KEPT = [0xe0, 0xe2, 0xee]; // of a JPEG's APP segments those that decide about colours: JFIF, ICC, Adobe
const RAW_EXIF = "Raw profile type exif"; // as ImageMagick writes it
const XMP = "XML:com.adobe.xmp";
const MOST_TEXT = 1 << 20;

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
  const isLeftOut = (marker: number) => marker >= 0xe0 && marker <= 0xef && !KEPT.includes(marker);
  return Array.from(segmentsOf(bytes)).filter(({ marker }) => isLeftOut(marker));
}

async function readPng(photo: Blob, bytes: Uint8Array): Promise<Stored> {
  const view = new DataView(bytes.buffer);
  const told = new Map<string, Uint8Array>();
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
    if (name === "eXIf") told.set(name, body);
    else await readText(name, body, told);
  }
  const exif = told.get("eXIf") ?? rawExif(told.get(RAW_EXIF));
  const xmp = told.get(XMP);
  const orientation = orientationOf(exif, xmp && lettersOf(xmp));
  const size = bytes.length < 24 ? undefined : { width: view.getUint32(16), height: view.getUint32(20) };
  return { size, orientation, jpeg: undefined, unturned: changed(photo, changes) };
}

/** Keep the text of a PNG chunk if it may hold EXIF or XMP. */
async function readText(name: string, body: Uint8Array, told: Map<string, Uint8Array>): Promise<void> {
  const key = lettersOf(body.subarray(0, 80)).split("\0", 1)[0];
  if (key !== RAW_EXIF && key !== XMP) return;
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
  if (unpacked) told.set(key, unpacked);
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
    if (size > MOST_TEXT) throw new BadPhoto("unreadable");
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
