// Reads a Catflap bundle as docs/reference/bundle.md specifies it, and refuses whatever differs.

import { createHash } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { crc32, inflateRawSync } from "node:zlib";
import { parseHead } from "./head.mjs";

const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(\/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}){0,3}$/;
const MOST_BYTES = 2 ** 31 - 1;
const MOST_HEAD = 16 << 20;
const MOST_GOLDEN = 256 << 20;
const PROBES = 2; // logits a variant, on either side of its decision threshold

export class Damaged extends Error {}

/** The head (bundle.json) and the members of a bundle, after every byte was checked. */
export function readBundle(path) {
  if (statSync(path).size > MOST_BYTES) throw new Damaged("it is larger than a bundle can be");
  const members = exactZip(readFileSync(path));
  const [[first, json]] = members;
  if (first !== "bundle.json") throw new Damaged("bundle.json is not its first member");
  if (json.length > MOST_HEAD) throw new Damaged("bundle.json has more than 16 MiB");
  const { head, fault } = parseHead(json);
  if (fault) throw new Damaged(fault);
  const listed = Object.entries(head.files);
  if (listed.length !== members.size - 1) throw new Damaged("it holds other files than it lists");
  for (const [name, { sha256, bytes }] of listed) {
    const data = members.get(name);
    if (data?.length !== bytes || createHash("sha256").update(data).digest("hex") !== sha256) {
      throw new Damaged(`${name} is not what was exported`);
    }
  }
  return { head, members };
}

/**
 * The golden cases as typed arrays with a shape: photos as files, frames, and by the variant's name its logits
 * and, since format 1.1, its probes, probabilities and decisions, OOD scores and whether these are unknown.
 */
export function readGolden({ head, members }) {
  const { golden, frame, labels, variants } = head;
  const { photos, ends, frames, ...rest } = npz(members.get(golden.file));
  const fits = (array, Type, ...shape) => array?.data instanceof Type && array.shape.join() === shape.join();
  const fitsAll = (array, ...shape) => fits(array, Float32Array, ...shape) && array.data.every(Number.isFinite);
  const names = Object.keys(variants);
  const decided = names.filter((name) => `decisions.${name}` in rest);
  const refusing = names.filter((name) => variants[name].unknown && `unknown.${name}` in rest);
  const rows = golden.cases + PROBES;
  if (
    !fits(photos, Uint8Array, photos?.data.length) ||
    !fits(ends, BigInt64Array, golden.cases) ||
    !fits(frames, Uint8Array, golden.cases, frame.height, frame.width, 3) ||
    !names.every((name) => fitsAll(rest[`logits.${name}`], golden.cases, labels.length)) ||
    !decided.every((name) => fitsAll(rest[`probes.${name}`], PROBES, labels.length)) ||
    !decided.every((name) => fitsAll(rest[`probabilities.${name}`], rows, labels.length)) ||
    !decided.every((name) => fits(rest[`decisions.${name}`], Int32Array, rows)) ||
    !refusing.every((name) => fitsAll(rest[`ood.${name}`], rows) && fits(rest[`unknown.${name}`], Uint8Array, rows))
  ) {
    throw new Damaged("the golden cases do not fit it");
  }
  const stops = Array.from(ends.data, Number);
  const rising = stops.every((stop, n) => stop >= (stops[n - 1] ?? 0));
  if (!rising || stops.at(-1) !== photos.data.length) throw new Damaged("the golden photos do not end where they should");
  const files = stops.map((stop, n) => photos.data.subarray(n ? stops[n - 1] : 0, stop));
  const of = (kind, names) => Object.fromEntries(names.map((name) => [name, rest[`${kind}.${name}`]]));
  return {
    photos: files,
    frames,
    logits: of("logits", names),
    probes: of("probes", decided),
    probabilities: of("probabilities", decided),
    decisions: of("decisions", decided),
    ood: of("ood", refusing),
    unknown: of("unknown", refusing),
  };
}

/** The members of a zip in the one encoding that a bundle may have: headers are rebuilt and compared. */
function exactZip(bytes) {
  const members = new Map();
  const central = [];
  let at = 0;
  while (bytes.length - at >= 30 && bytes.readUInt32LE(at) === 0x04034b50) {
    const size = bytes.readUInt32LE(at + 22);
    const start = at + 30 + bytes.readUInt16LE(at + 26);
    const name = bytes.toString("latin1", at + 30, start);
    if (!NAME.test(name) || members.has(name) || start + size > bytes.length) throw new Damaged("a member is damaged");
    const data = bytes.subarray(start, start + size);
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(33, 8);
    common.writeUInt32LE(crc32(data), 10);
    common.writeUInt32LE(size, 14);
    common.writeUInt32LE(size, 18);
    common.writeUInt16LE(name.length, 22);
    if (!bytes.subarray(at + 4, at + 30).equals(common)) throw new Damaged(`the header of ${name} is damaged`);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(at, 10);
    central.push(Buffer.from([0x50, 0x4b, 1, 2, 20, 0]), common, tail, Buffer.from(name, "latin1"));
    members.set(name, data);
    at = start + size;
  }
  const directory = Buffer.concat(central);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(members.size, 8);
  end.writeUInt16LE(members.size, 10);
  end.writeUInt32LE(directory.length, 12);
  end.writeUInt32LE(at, 16);
  if (!members.size || !bytes.subarray(at).equals(Buffer.concat([directory, end]))) throw new Damaged("it is not whole");
  const names = [...members.keys()];
  const both = names.find((name) => names.some((other) => other.startsWith(`${name}/`)));
  if (both) throw new Damaged(`the member ${both} is a folder of others too`);
  return members;
}

/** The arrays of an .npz: a zip of .npy files, by its central directory. */
function npz(bytes) {
  const end = bytes.length - 22;
  if (end < 0 || bytes.readUInt32LE(end) !== 0x06054b50) throw new Damaged("the golden cases are damaged");
  const arrays = {};
  let unpacked = 0;
  for (let n = bytes.readUInt16LE(end + 10), at = bytes.readUInt32LE(end + 16); n > 0; n--) {
    const [method, packed, size] = [bytes.readUInt16LE(at + 10), bytes.readUInt32LE(at + 20), bytes.readUInt32LE(at + 24)];
    const [length, extra, comment] = [28, 30, 32].map((place) => bytes.readUInt16LE(at + place));
    const local = bytes.readUInt32LE(at + 42);
    const start = local + 30 + bytes.readUInt16LE(local + 26) + bytes.readUInt16LE(local + 28);
    unpacked += size;
    if (unpacked > MOST_GOLDEN) throw new Damaged("the golden cases unpack to too many bytes");
    const data = bytes.subarray(start, start + packed);
    const name = bytes.toString("latin1", at + 46, at + 46 + length).replace(/\.npy$/, "");
    arrays[name] = npy(method ? inflateRawSync(data, { maxOutputLength: size }) : data);
    at += 46 + length + extra + comment;
  }
  return arrays;
}

const TYPES = { "|u1": Uint8Array, "|b1": Uint8Array, "<f4": Float32Array, "<i4": Int32Array, "<i8": BigInt64Array };

/** One array, .npy format 1.0: its values in C order and its shape. */
function npy(bytes) {
  const length = bytes.readUInt16LE(8);
  const about = bytes.toString("latin1", 10, 10 + length);
  const Type = TYPES[/'descr': '([^']*)'/.exec(about)?.[1]];
  if (!Type || !about.includes("'fortran_order': False")) throw new Damaged("an array is of another type");
  const shape = /'shape': \(([^)]*)\)/.exec(about)[1].split(",").filter((part) => part.trim()).map(Number);
  const data = bytes.subarray(10 + length);
  const items = shape.reduce((product, side) => product * side, 1);
  if (data.length !== items * Type.BYTES_PER_ELEMENT) throw new Damaged("an array is cut short");
  return { data: new Type(Uint8Array.from(data).buffer), shape };
}
