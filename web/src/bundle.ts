// The Bundle: its head, checked against the schema, and its members, checked by hash when they are read.

import schema from "../../src/catflap/artifacts/bundle.schema.json";
import { Damaged } from "./errors";
import type { Frame } from "./frame";
import { fault, type Schema } from "./schema";
import { sha256 } from "./sha256";
import { readDirectory, readMember, type Member, type Source } from "./zip";

const FORMAT = "1";
const HEAD = "bundle.json";
const MAX_HEAD = 16 << 20;
const DEEPEST = 64; // objects and lists within each other

export interface Variant {
  readonly file: string;
  readonly runtime: string;
  readonly precision: string;
  readonly temperature: number;
  readonly tolerance: number;
  readonly decision: { readonly threshold: number; readonly error_rate: number };
  readonly metrics: Record<string, unknown>;
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
  /** The bytes of a member; Damaged when they are not what was exported. */
  member(name: string): Promise<Uint8Array>;
}

/** The files of a Bundle: in a .catflap file, whose names are known, or unpacked on a server. */
export interface Files {
  readonly sizes?: ReadonlyMap<string, number>;
  read(name: string): Promise<Uint8Array>;
  /** Keep the head for when there is no network; called once the Bundle is known to be good. */
  keepHead?(): Promise<void>;
}

/** Where verified members are kept between visits, by their hash. */
export interface Shelf {
  get(sha256: string): Promise<Uint8Array | undefined>;
  put(sha256: string, data: Uint8Array): Promise<void>;
}

/** Open a Bundle. A file is checked whole; what a server offers is checked when it is read. */
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
  if (sizes) for (const [name] of listed) await member(name); // a file at hand is checked whole, at once
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
  if (!isShallow(head)) throw new Damaged(`${HEAD} is nested more than ${DEEPEST} deep`);
  const found = fault(head, schema as Schema) ?? contradiction(head as Head);
  if (found) throw new Damaged(`${HEAD} is not valid: ${found}`);
  return head as Head;
}

/** Whether it can be walked through, and posted to the page, by calls within calls. */
function isShallow(value: unknown): boolean {
  let level: unknown[] = [value];
  for (let depth = 0; depth <= DEEPEST; depth++) {
    level = level.filter((each) => typeof each === "object" && each !== null);
    if (!level.length) return true;
    level = level.flatMap((each) => Object.values(each as object));
  }
  return false;
}

/** What the schema cannot say: the names in a head must fit each other. */
function contradiction(head: Head): string | undefined {
  const forms = [...Object.values(head.variants), ...Object.values(head.untested ?? {})];
  const named = [...forms.map((form) => form.file), head.golden.file];
  const absent = named.find((file) => !Object.hasOwn(head.files, file));
  if (absent) return `${absent} is named but not listed`;
  if (!Object.hasOwn(head.variants, head.default_variant)) return "the default variant is not there";
  const labels = new Set(head.labels);
  const priors = Object.keys(head.prior);
  if (priors.length !== labels.size || !priors.every((label) => labels.has(label))) {
    return "the prior does not name every label";
  }
  const total = Object.values(head.prior).reduce((sum, share) => sum + share, 0);
  if (Math.abs(total - 1) > 1e-3) return "the prior does not add up to 1";
  return undefined;
}
