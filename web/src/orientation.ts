// How the stored pixels of a photo are to be turned, 1 to 8: step 3 of docs/concepts/frame.md, read from the
// file's own bytes, because browsers do not agree on where it may stand.

const TAG = 0x0112;
const SIZES = [0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8]; // bytes of one value of each TIFF type; 0: unknown
const HEADS = ["MM\0*", "II*\0", "MM*\0", "II\0*", "MM\0+"];
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
  if (bytes.length < 8 || !HEADS.includes(head)) return 1;
  const little = head[0] === "I";
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const table = view.getUint32(4, little);
  if (table + 2 > bytes.length) return undefined;
  let elsewhere = 0; // bytes that do not fit into their entries
  for (let n = view.getUint16(table, little), entry = table + 2; n > 0 && entry + 12 <= bytes.length; n--, entry += 12) {
    const type = view.getUint16(entry + 2, little);
    const size = (SIZES[type] ?? 0) * view.getUint32(entry + 4, little);
    let place = entry + 8;
    if (size > 4) {
      elsewhere += size;
      if (elsewhere > bytes.length) continue;
      place = view.getUint32(place, little);
      if (place + size > bytes.length) return undefined;
    }
    if (size && view.getUint16(entry, little) === TAG) return wholeNumber(view, place, type, little);
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
