// The Bundle: bundle.json, checked against the schema, and its members, checked by SHA-256 when they are read.

import schema from "../../src/catflap/artifacts/bundle.schema.json";
import { Damaged } from "./errors";
import type { Frame } from "./frame";
import { readDirectory, readMember, type Member, type Source } from "./zip";

const FORMAT = "1";
const HEAD = "bundle.json";
const MAX_HEAD = 16 << 20;
const MAX_DEPTH = 64; // of nested objects and lists

/** The calibrated threshold, and those for other error rates with the share of photos left unsure. */
export interface Decision {
  readonly threshold: number;
  readonly error_rate: number;
  readonly rule?: "top"; // absent before format 1.1
  readonly curve?: { readonly error_rate: number; readonly threshold: number; readonly unsure: number }[];
}

export interface Variant {
  readonly file: string;
  readonly runtime: string;
  readonly precision: string;
  readonly temperature: number;
  readonly tolerance: number;
  readonly decision: Decision;
  readonly metrics: Record<string, unknown>;
  readonly unknown?: { readonly rate: number; readonly threshold: number };
  readonly baseline?: { readonly labels: Record<string, { readonly embedding?: Described }> };
}

/** How a label's embeddings are distributed: base64 of int8, see docs/reference/bundle.md. */
export interface Described {
  readonly mean: string;
  readonly length: number;
  readonly axes: string;
  readonly limit: number;
}

export interface Head {
  readonly name: string;
  readonly labels: string[];
  readonly frame: Frame;
  readonly input: { readonly name: string };
  readonly output: { readonly name: string };
  readonly default_variant: string;
  readonly variants: Record<string, Variant>;
  readonly untested?: Record<string, { readonly file: string }>;
  readonly prior: Record<string, number>;
  readonly golden: { readonly file: string; readonly cases: number; readonly pixel_tolerance: number };
  readonly files: Record<string, { readonly sha256: string; readonly bytes: number }>;
  readonly licences: Record<string, string>;
}

export interface Bundle {
  readonly head: Head;
  /** The bytes of a member; Damaged when its hash is wrong. */
  member(name: string): Promise<Uint8Array>;
}

/** The files of a Bundle: in a .catflap file, whose names are known, or unpacked on a server. */
export interface Files {
  readonly sizes?: ReadonlyMap<string, number>;
  read(name: string): Promise<Uint8Array>;
  /** Cache the head for offline use; called once the Bundle is known to be valid. */
  keepHead?(): Promise<void>;
}

/** A cache of verified members between visits, by hash. */
export interface Shelf {
  get(sha256: string): Promise<Uint8Array | undefined>;
  put(sha256: string, data: Uint8Array): Promise<void>;
}

/** Open a Bundle. A local file is checked at once and whole; a server's members are checked when they are read. */
export async function openBundle(files: Files, shelf?: Shelf): Promise<Bundle> {
  const { sizes } = files;
  const headSize = sizes && (sizes.get(HEAD) ?? Infinity);
  if (headSize !== undefined && headSize > MAX_HEAD) throw new Damaged(`it has no ${HEAD}`);
  const head = parseHead(await files.read(HEAD));
  const listed = Object.entries(head.files);
  const isListed = listed.every(([name, { bytes }]) => name !== HEAD && (!sizes || sizes.get(name) === bytes));
  if (!isListed || (sizes && sizes.size !== listed.length + 1)) throw new Damaged("it holds other files than it lists");
  async function member(name: string): Promise<Uint8Array> {
    const hash = head.files[name].sha256;
    const kept = await shelf?.get(hash);
    if (kept && (await sha256(kept)) === hash) return kept;
    const data = await files.read(name);
    if (data.length !== head.files[name].bytes || (await sha256(data)) !== hash) {
      const advice = sizes ? "" : "; if it was replaced on the server, reload the page";
      throw new Damaged(`${name} is not what was exported${advice}`);
    }
    void shelf?.put(hash, data);
    return data;
  }
  if (sizes) for (const [name] of listed) await member(name); // a local file is checked at once
  return { head, member };
}

/** The files of a .catflap file, whose encoding is checked byte for byte. */
export async function zipFiles(source: Source): Promise<Files> {
  const members = await readDirectory(source);
  const sizes = new Map([...members].map(([name, { size }]) => [name, size]));
  return { sizes, read: (name) => readMember(source, members.get(name) as Member) };
}

function parseHead(bytes: Uint8Array): Head {
  let head: unknown;
  try {
    head = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch {
    throw new Damaged(`${HEAD} is not JSON`);
  }
  const version = (head as { catflap_bundle?: unknown } | null)?.catflap_bundle;
  if (typeof version !== "string" || version.split(".")[0] !== FORMAT) {
    throw new Damaged(`it is of the format ${String(version)}, and this page reads ${FORMAT}`);
  }
  if (!isShallow(head)) throw new Damaged(`${HEAD} is nested more than ${MAX_DEPTH} deep`);
  const found = fault(head, schema as Schema) ?? contradiction(head as Head);
  if (found) throw new Damaged(`${HEAD} is not valid: ${found}`);
  return head as Head;
}

/** Whether it is nested little enough for recursive code, such as structured clone. */
function isShallow(value: unknown): boolean {
  let level: unknown[] = [value];
  for (let depth = 0; depth <= MAX_DEPTH; depth++) {
    level = level.filter((each) => typeof each === "object" && each !== null);
    if (!level.length) return true;
    level = level.flatMap((each) => Object.values(each as object));
  }
  return false;
}

/** What the schema cannot express: the names in a head must match each other. */
function contradiction(head: Head): string | undefined {
  const forms = [...Object.values(head.variants), ...Object.values(head.untested ?? {})];
  const named = [...forms.map((form) => form.file), head.golden.file];
  const absent = named.find((file) => !Object.hasOwn(head.files, file));
  if (absent) return `${absent} is named but not listed`;
  if (!Object.hasOwn(head.variants, head.default_variant)) return "the default variant is not there";
  if (!Object.values(head.variants).every(({ decision }) => isRiskCurve(decision))) {
    return "a curve of error rates is not ascending, or does not hold the decision's own";
  }
  const labels = new Set(head.labels);
  const priors = Object.keys(head.prior);
  if (priors.length !== labels.size || !priors.every((label) => labels.has(label))) {
    return "the prior does not name every label";
  }
  const total = Object.values(head.prior).reduce((sum, share) => sum + share, 0);
  if (Math.abs(total - 1) > 1e-3) return "the prior does not add up to 1";
  return undefined;
}

export interface Schema {
  $ref?: string;
  $defs?: Record<string, Schema>;
  type?: string | string[];
  enum?: unknown[];
  pattern?: string;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  items?: Schema;
  minItems?: number;
  maxItems?: number;
  uniqueItems?: boolean;
  required?: string[];
  properties?: Record<string, Schema>;
  additionalProperties?: boolean | Schema;
  minProperties?: number;
}

function isRiskCurve({ curve, error_rate: rate, threshold }: Decision): boolean {
  if (!curve) return true;
  const ascends = curve.every(
    (point, n) => !n || (point.error_rate > curve[n - 1].error_rate && point.threshold <= curve[n - 1].threshold),
  );
  return ascends && curve.some((point) => point.error_rate === rate && point.threshold === threshold);
}

/** The first thing that is wrong with a value, with its place; undefined when it conforms. */
export function fault(value: unknown, given: Schema, place = "$", root = given): string | undefined {
  const schema = given.$ref ? root.$defs?.[given.$ref.replace("#/$defs/", "")] : given;
  if (!schema) return `${place} has no schema`;
  const types = schema.type === undefined ? [] : [schema.type].flat();
  if (types.length && !types.some((type) => isOf(value, type))) {
    return `${place} is not of the type ${types.join(" or ")}`;
  }
  if (schema.enum && !schema.enum.includes(value)) return `${place} is none of ${schema.enum.join(", ")}`;
  if (typeof value === "string" && schema.pattern && !new RegExp(schema.pattern, "u").test(value)) {
    return `${place} does not match ${schema.pattern}`;
  }
  if (typeof value === "number") return numberFault(value, schema, place);
  if (Array.isArray(value)) return arrayFault(value, schema, place, root);
  if (isOf(value, "object")) {
    return objectFault(value as Record<string, unknown>, schema, place, root);
  }
  return undefined;
}

function isOf(value: unknown, type: string): boolean {
  switch (type) {
    case "object":
      return typeof value === "object" && value !== null && !Array.isArray(value);
    case "array":
      return Array.isArray(value);
    case "integer":
      return Number.isInteger(value);
    case "null":
      return value === null;
    default:
      return typeof value === type;
  }
}

function numberFault(value: number, schema: Schema, place: string): string | undefined {
  const { minimum = -Infinity, maximum = Infinity, exclusiveMinimum = -Infinity } = schema;
  const inside = value >= minimum && value <= maximum && value > exclusiveMinimum && Number.isFinite(value);
  return inside ? undefined : `${place} is out of range`;
}

function arrayFault(value: unknown[], schema: Schema, place: string, root: Schema): string | undefined {
  if (value.length < (schema.minItems ?? 0) || value.length > (schema.maxItems ?? value.length)) {
    return `${place} has ${value.length} items`;
  }
  if (schema.uniqueItems && new Set(value.map((item) => JSON.stringify(item))).size < value.length) {
    return `${place} has an item twice`;
  }
  return first(value, (item, index) => fault(item, schema.items ?? {}, `${place}[${index}]`, root));
}

function objectFault(
  value: Record<string, unknown>,
  schema: Schema,
  place: string,
  root: Schema,
): string | undefined {
  const missing = schema.required?.find((name) => !Object.hasOwn(value, name));
  if (missing) return `${place}.${missing} is missing`;
  const entries = Object.entries(value);
  if (entries.length < (schema.minProperties ?? 0)) return `${place} is empty`;
  return first(entries, ([name, item]) => {
    const known = schema.properties && Object.hasOwn(schema.properties, name) && schema.properties[name];
    if (known) return fault(item, known, `${place}.${name}`, root);
    if (schema.additionalProperties === false) return `${place}.${name} is unknown`;
    if (typeof schema.additionalProperties !== "object") return undefined;
    return fault(item, schema.additionalProperties, `${place}.${name}`, root);
  });
}

function first<T>(items: T[], check: (item: T, index: number) => string | undefined): string | undefined {
  for (let index = 0; index < items.length; index++) {
    const found = check(items[index], index);
    if (found) return found;
  }
  return undefined;
}

/** SHA-256 as hexadecimal: by WebCrypto, or without it (FIPS 180-4) on pages that plain http serves. */
export async function sha256(data: Uint8Array): Promise<string> {
  if (globalThis.crypto?.subtle) return hex(new Uint8Array(await crypto.subtle.digest("SHA-256", data as BufferSource)));
  return sha256Plain(data);
}

const PRIMES: number[] = [];
for (let n = 2; PRIMES.length < 64; n++) if (PRIMES.every((prime) => n % prime)) PRIMES.push(n);
const fraction = (value: number) => ((value - Math.floor(value)) * 2 ** 32) | 0;
const K = Int32Array.from(PRIMES, (prime) => fraction(Math.cbrt(prime)));
const START = PRIMES.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));

/** The same without WebCrypto. */
export function sha256Plain(data: Uint8Array): string {
  const state = Int32Array.from(START);
  const words = new Int32Array(64);
  const whole = data.length & ~63;
  for (let place = 0; place < whole; place += 64) block(state, words, data, place);
  const tail = new Uint8Array(data.length - whole < 56 ? 64 : 128);
  tail.set(data.subarray(whole));
  tail[data.length - whole] = 0x80;
  const length = new DataView(tail.buffer, tail.length - 8);
  length.setUint32(0, Math.floor(data.length / 2 ** 29));
  length.setUint32(4, (data.length << 3) >>> 0);
  for (let place = 0; place < tail.length; place += 64) block(state, words, tail, place);
  const out = new DataView(new ArrayBuffer(32));
  state.forEach((word, index) => out.setInt32(4 * index, word));
  return hex(new Uint8Array(out.buffer));
}

function block(state: Int32Array, w: Int32Array, data: Uint8Array, place: number): void {
  for (let t = 0, p = place; t < 16; t++, p += 4) {
    w[t] = (data[p] << 24) | (data[p + 1] << 16) | (data[p + 2] << 8) | data[p + 3];
  }
  for (let t = 16; t < 64; t++) {
    const low = turn(w[t - 15], 7) ^ turn(w[t - 15], 18) ^ (w[t - 15] >>> 3);
    const high = turn(w[t - 2], 17) ^ turn(w[t - 2], 19) ^ (w[t - 2] >>> 10);
    w[t] = (w[t - 16] + low + w[t - 7] + high) | 0;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let t = 0; t < 64; t++) {
    const first = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + K[t] + w[t]) | 0;
    const second = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
  }
  [a, b, c, d, e, f, g, h].forEach((word, index) => (state[index] = (state[index] + word) | 0));
}

function turn(word: number, by: number): number {
  return (word >>> by) | (word << (32 - by));
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
