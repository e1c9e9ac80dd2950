// What the header of a JPEG says that decides about its pixels: how it is turned and subsampled.

export interface JpegHead {
  readonly orientation: number; // EXIF tag 0x0112, 1 when absent
  readonly subsampling: readonly [number, number] | undefined; // of chroma, across and down; undefined if grey
}

const UNTOLD: JpegHead = { orientation: 1, subsampling: undefined };

/** Read the head of a JPEG; undefined when the bytes are none. */
export function readJpegHead(bytes: Uint8Array): JpegHead | undefined {
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let orientation = 1;
  for (let place = 2; place + 4 <= bytes.length; ) {
    if (bytes[place] !== 0xff) return { ...UNTOLD, orientation };
    const marker = bytes[place + 1];
    if (marker === 0xff) {
      place++;
      continue;
    }
    const length = view.getUint16(place + 2);
    const body = bytes.subarray(place + 4, place + 2 + length);
    if (marker === 0xe1 && orientation === 1) orientation = exifOrientation(body);
    const isFrame = marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc;
    if (isFrame) return { orientation, subsampling: chromaSubsampling(body) };
    if (marker === 0xda || marker === 0xd9) break;
    place += 2 + length;
  }
  return { ...UNTOLD, orientation };
}

/** How often chroma is sampled less than luma, from the body of a start-of-frame segment. */
function chromaSubsampling(body: Uint8Array): readonly [number, number] | undefined {
  if (body[5] !== 3) return undefined;
  const [luma, blue] = [body[7], body[10]];
  return [(luma >> 4) / (blue >> 4), (luma & 15) / (blue & 15)];
}

function exifOrientation(body: Uint8Array): number {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  try {
    if (view.getUint32(0) !== 0x45786966 || view.getUint16(4) !== 0) return 1; // "Exif"
    const little = view.getUint16(6) === 0x4949;
    const table = 6 + view.getUint32(10, little);
    for (let entry = 0, count = view.getUint16(table, little); entry < count; entry++) {
      const place = table + 2 + 12 * entry;
      if (view.getUint16(place, little) !== 0x0112) continue;
      const value = view.getUint16(place + 8, little);
      return value >= 1 && value <= 8 ? value : 1;
    }
  } catch {
    return 1; // EXIF that is cut short spoils no pixels
  }
  return 1;
}
