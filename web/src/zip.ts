// The one byte-exact zip encoding of a Bundle, read by ranges so that only what is used is fetched.
// The same rules as src/catflap/artifacts/bundle.py: the headers are rebuilt and compared.

import { Damaged } from "./errors";

/** Bytes that can be read in ranges: a file of the user's, or one on a server. */
export interface Source {
  readonly size: number;
  read(start: number, end: number): Promise<Uint8Array>;
}

export interface Member {
  readonly name: string;
  readonly crc: number;
  readonly size: number;
  readonly offset: number; // of its local header
}

const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(\/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}){0,3}$/;
const MAX_MEMBERS = 1000;
const MAX_BYTES = 2 ** 31 - 1; // no zip64
const DATE = (1 << 5) | 1; // 1980-01-01, 00:00
const LOCAL = 30;
const CENTRAL = 46;
const END = 22;

/** The members of a Bundle in their order, from its central directory; Damaged when it is not exact. */
export async function readDirectory(source: Source): Promise<Map<string, Member>> {
  if (source.size < END || source.size > MAX_BYTES) throw new Damaged("its size is not that of one");
  const end = view(await source.read(source.size - END, source.size));
  if (end.getUint32(0, true) !== 0x06054b50) throw new Damaged("it does not end like one");
  const length = end.getUint32(12, true);
  const start = end.getUint32(16, true);
  if (start + length + END !== source.size) throw new Damaged("its directory is not where it should be");
  const stored = await source.read(start, source.size);
  const members = walk(view(stored), length);
  const rebuilt = directory(members);
  if (rebuilt.length !== stored.length || rebuilt.some((byte, place) => byte !== stored[place])) {
    throw new Damaged("its directory differs from the one of its members");
  }
  return new Map(members.map((member) => [member.name, member]));
}

/** The bytes of one member; its local header and checksum are compared with the directory. */
export async function readMember(source: Source, member: Member): Promise<Uint8Array> {
  const start = LOCAL + member.name.length;
  const stored = await source.read(member.offset, member.offset + start + member.size);
  const header = local(member);
  if (stored.length !== start + member.size || header.some((byte, place) => byte !== stored[place])) {
    throw new Damaged(`the header of ${member.name} is not exact`);
  }
  const data = stored.subarray(start);
  if (crc32(data) !== member.crc) throw new Damaged(`the checksum of ${member.name} is wrong`);
  return data;
}

function walk(table: DataView, length: number): Member[] {
  const members: Member[] = [];
  const names = new Set<string>();
  let offset = 0;
  for (let place = 0; place < length; ) {
    if (place + CENTRAL > length) throw new Damaged("its directory is cut short");
    const [crc, size, nameLength] = [16, 24, 28].map((at) =>
      at === 28 ? table.getUint16(place + at, true) : table.getUint32(place + at, true),
    );
    if (place + CENTRAL + nameLength > length) throw new Damaged("its directory is cut short");
    let name = "";
    for (let k = 0; k < nameLength; k++) name += String.fromCharCode(table.getUint8(place + CENTRAL + k));
    if (!NAME.test(name)) throw new Damaged(`the member name ${JSON.stringify(name.slice(0, 40))} is not allowed`);
    if (names.has(name) || members.length >= MAX_MEMBERS) {
      throw new Damaged(`the member ${name} is there twice or one too many`);
    }
    names.add(name);
    members.push({ name, crc, size, offset });
    offset += LOCAL + nameLength + size;
    place += CENTRAL + nameLength;
  }
  if (!members.length) throw new Damaged("it has no members");
  const both = members.find(({ name }) => members.some((other) => other.name.startsWith(`${name}/`)));
  if (both) throw new Damaged(`the member ${both.name} is a folder of others too`);
  return members;
}

/** The central directory and the end record that these members must have. */
function directory(members: Member[]): Uint8Array {
  const length = members.reduce((sum, member) => sum + CENTRAL + member.name.length, 0);
  const bytes = new Uint8Array(length + END);
  const out = view(bytes);
  let place = 0;
  for (const member of members) {
    out.setUint32(place, 0x02014b50, true);
    out.setUint16(place + 4, 20, true);
    common(out, place + 6, member);
    out.setUint32(place + 42, member.offset, true);
    bytes.set(ascii(member.name), place + CENTRAL);
    place += CENTRAL + member.name.length;
  }
  const last = members[members.length - 1];
  out.setUint32(place, 0x06054b50, true);
  out.setUint16(place + 8, members.length, true);
  out.setUint16(place + 10, members.length, true);
  out.setUint32(place + 12, length, true);
  out.setUint32(place + 16, last.offset + LOCAL + last.name.length + last.size, true);
  return bytes;
}

function local(member: Member): Uint8Array {
  const bytes = new Uint8Array(LOCAL + member.name.length);
  const out = view(bytes);
  out.setUint32(0, 0x04034b50, true);
  common(out, 4, member);
  bytes.set(ascii(member.name), LOCAL);
  return bytes;
}

/** What a local header and a directory entry share. */
function common(out: DataView, place: number, member: Member): void {
  out.setUint16(place, 20, true);
  out.setUint16(place + 8, DATE, true);
  out.setUint32(place + 10, member.crc, true);
  out.setUint32(place + 14, member.size, true);
  out.setUint32(place + 18, member.size, true);
  out.setUint16(place + 22, member.name.length, true);
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}

// Four bytes a step, each through a table of its own ("slicing by 4", Kounavis and Berry 2005).
const CRC = Array.from({ length: 4 }, () => new Int32Array(256));
for (let value = 0; value < 256; value++) {
  let crc = value;
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  CRC[0][value] = crc;
}
for (let value = 0; value < 256; value++) {
  for (let k = 1; k < 4; k++) CRC[k][value] = (CRC[k - 1][value] >>> 8) ^ CRC[0][CRC[k - 1][value] & 255];
}

/** CRC-32 as in zip, unsigned. */
export function crc32(data: Uint8Array): number {
  const [t0, t1, t2, t3] = CRC;
  let crc = -1;
  let i = 0;
  for (const end = data.length - 3; i < end; i += 4) {
    crc ^= data[i] | (data[i + 1] << 8) | (data[i + 2] << 16) | (data[i + 3] << 24);
    crc = t3[crc & 255] ^ t2[(crc >>> 8) & 255] ^ t1[(crc >>> 16) & 255] ^ t0[crc >>> 24];
  }
  for (; i < data.length; i++) crc = t0[(crc ^ data[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}
