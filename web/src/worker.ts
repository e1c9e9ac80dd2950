// The worker: opens the Bundle, turns pictures into frames and runs the network, away from the page's thread.

import { openBundle, zipFiles, type Bundle, type Variant } from "./bundle";
import { Damaged, Overtaken } from "./errors";
import { decidesAsRecorded, largestDifference, readGolden, refusesAsRecorded, type Golden } from "./golden";
import { heatOf } from "./heat";
import { keepOnly, shelf, webFiles } from "./offline_cache";
import type { Answer, CaseResult, Op, Reply, Request, Requests } from "./messages";
import { usableVariants, type Model, type Network, type Runtime } from "./model";
import { embeddingModels, oodScore, type EmbeddingModel } from "./ood";
import { readPhoto, readPicture } from "./photo";

// One file for each runtime, loaded when a variant needs it.
const RUNTIMES: Record<Runtime, () => Promise<{ open(network: Network): Promise<Model> }>> = {
  litert: () => import("./litert"),
  onnxruntime: () => import("./onnx"),
};

/** The part of a request that runs in turn; its downloads are done before. */
type Work<K extends Op> = () => Promise<Requests[K]["answer"]>;

let bundle: Bundle | undefined;
let model: Model | undefined;
let described: (EmbeddingModel | undefined)[] = []; // of the loaded variant, where it refuses unknown photos
let golden: Promise<Golden> | undefined;
let asked = 0; // number of bundles requested
let newest = 0; // number of the latest one that opened

/** Open a Bundle with the first variant that loads; the one before stays until the new one is ready. */
async function open({ from, threads }: Requests["open"]["args"]): Promise<Work<"open">> {
  const mine = ++asked;
  const files = "file" in from ? await zipFiles(fromBlob(from.file)) : webFiles(from.folder);
  const opened = await openBundle(files, "file" in from ? undefined : shelf());
  const variants = usableVariants(opened.head);
  if (!variants.length) throw new Damaged("no variant of it can run in a browser");
  const { network, ...loaded } = await loadFirst(opened, variants, threads);
  return async () => {
    if (mine < newest) {
      await network.close();
      throw new Overtaken();
    }
    newest = mine;
    await use(network, opened, loaded.variant);
    bundle = opened;
    golden = undefined;
    void files.keepHead?.();
    if (!("file" in from)) void keepOnly(Object.values(opened.head.files).map(({ sha256 }) => sha256));
    return { head: opened.head, variants, ...loaded };
  };
}

interface Loaded {
  readonly network: Model;
  readonly variant: string;
  readonly why: string; // what is wrong with the first of all; empty where that is the one
}

async function openModel(variant: Variant, network: Network): Promise<Model> {
  const runtime = await RUNTIMES[variant.runtime as Runtime]();
  return runtime.open(network);
}

/** Load the first variant that this browser can. */
async function loadFirst(opened: Bundle, variants: string[], threads: number): Promise<Loaded> {
  const errors: Error[] = [];
  for (const variant of variants) {
    const bytes = opened.member(opened.head.variants[variant].file);
    try {
      const network = await openModel(opened.head.variants[variant], { bytes, head: opened.head, threads });
      return { network, variant, why: errors[0]?.message ?? "" };
    } catch (error) {
      await bytes; // a damaged bundle is refused, even if another variant would load
      errors.push(error as Error);
    }
  }
  throw errors[0];
}

async function load({ variant, threads }: Requests["load"]["args"]): Promise<Work<"load">> {
  const opened = theBundle();
  const { head, member } = opened;
  const about = head.variants[variant];
  const network = await openModel(about, { bytes: member(about.file), head, threads });
  return () => use(network, opened, variant);
}

async function use(next: Model, { head }: Bundle, name: string): Promise<void> {
  await model?.close();
  model = next;
  const variant = head.variants[name];
  described = variant.unknown ? embeddingModels(variant, head.labels) : [];
}

/** The OOD score for the label with this number; undefined where the variant or the label has none. */
function score(embedding: Float32Array | undefined, label: number): number | undefined {
  const fitted = described[label];
  return embedding && fitted && oodScore(embedding, fitted);
}

function likeliest(logits: ArrayLike<number>): number {
  return Array.from(logits).indexOf(Math.max(...Array.from(logits)));
}

async function picture({ picture, withHeat }: Requests["picture"]["args"]): Promise<Work<"picture">> {
  return async () => {
    const start = performance.now();
    try {
      return await answer(await readPicture(picture, theBundle().head.frame), start, withHeat);
    } finally {
      picture.close();
    }
  };
}

async function photo({ file, withHeat }: Requests["photo"]["args"]): Promise<Work<"photo">> {
  return async () => {
    const start = performance.now();
    return answer(await readPhoto(file, theBundle().head.frame), start, withHeat);
  };
}

async function golden_({ index, variant }: Requests["golden"]["args"]): Promise<Work<"golden">> {
  const opened = theBundle();
  golden ??= readGolden(opened).catch((error: unknown) => {
    golden = undefined; // so that the next call retries
    throw error;
  });
  const { photos, frames, logits, recorded, refused } = await golden;
  return async (): Promise<CaseResult> => {
    const expected = logits[variant][index];
    const network = theModel();
    const output = await network.run(frames[index]);
    const answered = largestDifference(output.logits, expected);
    const { unknown } = opened.head.variants[variant];
    const ood = score(output.embedding, likeliest(expected));
    const decided =
      (!recorded[variant] || decidesAsRecorded(opened.head, variant, recorded[variant])) &&
      (!unknown || refusesAsRecorded(unknown.threshold, refused[variant], index, ood));
    const frame = await readPhoto(new Blob([photos[index] as BlobPart]), opened.head.frame).catch(() => undefined);
    if (!frame) return { pixels: undefined, logits: answered, decided, fromPhoto: undefined };
    const pixels = largestDifference(frame, frames[index]);
    return { pixels, logits: answered, decided, fromPhoto: largestDifference((await network.run(frame)).logits, expected) };
  };
}

async function answer(frame: Uint8Array, start: number, withHeat: boolean): Promise<Answer> {
  const ready = performance.now();
  const { hasMaps, maps, ...output } = await theModel().run(frame, withHeat);
  const logits = Array.from(output.logits);
  const ood = score(output.embedding, likeliest(logits));
  const heat = maps && heatOf(maps, likeliest(logits));
  return { logits, ood, hasMaps, heat, pixelsMs: ready - start, networkMs: performance.now() - ready };
}

function theBundle(): Bundle {
  if (!bundle) throw new Error("no bundle is open");
  return bundle;
}

function theModel(): Model {
  if (!model) throw new Error("no variant is loaded");
  return model;
}

function fromBlob(blob: Blob) {
  const read = async (start: number, end: number) => new Uint8Array(await blob.slice(start, end).arrayBuffer());
  return { size: blob.size, read };
}

const OPS: { [K in Op]: (args: Requests[K]["args"]) => Promise<Work<K>> } = {
  open,
  load,
  picture,
  photo,
  golden: golden_,
};

// One request at a time, in order: a variant is never replaced while it classifies a picture.
let last: Promise<void> = Promise.resolve();

self.addEventListener("message", ({ data: { id, op, args } }: MessageEvent<Request>) => {
  OPS[op](args as never).then(
    (work) => (last = last.then(() => reply(id, work))),
    (error: unknown) => fail(id, error),
  );
});

async function reply(id: number, work: Work<Op>): Promise<void> {
  try {
    self.postMessage({ id, answer: await work() } satisfies Reply);
  } catch (error) {
    fail(id, error);
  }
}

function fail(id: number, error: unknown): void {
  const { name, message } = error instanceof Error ? error : new Error(String(error));
  self.postMessage({ id, error: { name, why: message } } satisfies Reply);
}
