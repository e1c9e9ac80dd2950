// The worker: opens the Bundle, turns pictures into frames and runs the network, away from the page's thread.

import { openBundle, zipFiles, type Bundle } from "./bundle";
import { Damaged } from "./errors";
import { largestDifference, readGolden, type Golden } from "./golden";
import { keepOnly, shelf, webFiles } from "./kept";
import type { Answer, CaseResult, Op, Opened, Reply, Request, Requests } from "./messages";
import { openModel, usableVariants, type Model } from "./model";
import { readPhoto, readPicture } from "./photo";

let bundle: Bundle | undefined;
let model: Model | undefined;
let golden: Promise<Golden> | undefined;

/** Open a Bundle with the first variant that loads; the one before stays until the new one is ready. */
async function open({ from, threads }: Requests["open"]["args"]): Promise<Opened> {
  const files = "file" in from ? await zipFiles(fromBlob(from.file)) : webFiles(from.folder);
  const opened = await openBundle(files, "file" in from ? undefined : shelf());
  const variants = usableVariants(opened.head);
  if (!variants.length) throw new Damaged("no variant of it can run in a browser");
  const loaded = await useFirst(opened, variants, threads);
  bundle = opened;
  golden = undefined;
  if (!("file" in from)) void keepOnly(Object.values(opened.head.files).map(({ sha256 }) => sha256));
  return { head: opened.head, variants, ...loaded };
}

/** Load the first variant that this browser can; `why` says what is wrong with the first of all. */
async function useFirst(opened: Bundle, variants: string[], threads: number): Promise<{ variant: string; why: string }> {
  const errors: Error[] = [];
  for (const variant of variants) {
    const bytes = opened.member(opened.head.variants[variant].file);
    try {
      await use(opened, variant, bytes, threads);
      return { variant, why: errors[0]?.message ?? "" };
    } catch (error) {
      await bytes; // a bundle that is not whole is refused, whatever else it holds
      errors.push(error as Error);
    }
  }
  throw errors[0];
}

async function load({ variant, threads }: Requests["load"]["args"]): Promise<void> {
  const { head, member } = theBundle();
  await use(theBundle(), variant, member(head.variants[variant].file), threads);
}

async function use({ head }: Bundle, variant: string, bytes: Promise<Uint8Array>, threads: number): Promise<void> {
  const next = await openModel(head.variants[variant], { bytes, head, threads });
  await model?.close();
  model = next;
}

async function picture({ picture }: Requests["picture"]["args"]): Promise<Answer> {
  const start = performance.now();
  try {
    return await answer(await readPicture(picture, theBundle().head.frame), start);
  } finally {
    picture.close();
  }
}

async function photo({ file }: Requests["photo"]["args"]): Promise<Answer> {
  const start = performance.now();
  return answer(await readPhoto(file, theBundle().head.frame), start);
}

async function golden_({ index, variant }: Requests["golden"]["args"]): Promise<CaseResult> {
  const opened = theBundle();
  golden ??= readGolden(opened);
  const { photos, frames, logits } = await golden;
  const expected = logits[variant][index];
  const network = theModel();
  const answered = largestDifference(await network.run(frames[index]), expected);
  const frame = await readPhoto(new Blob([photos[index] as BlobPart]), opened.head.frame).catch(() => undefined);
  if (!frame) return { pixels: undefined, logits: answered, fromPhoto: undefined };
  const pixels = largestDifference(frame, frames[index]);
  return { pixels, logits: answered, fromPhoto: largestDifference(await network.run(frame), expected) };
}

async function answer(frame: Uint8Array, start: number): Promise<Answer> {
  const ready = performance.now();
  const logits = Array.from(await theModel().run(frame));
  return { logits, pixelsMs: ready - start, networkMs: performance.now() - ready };
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

const OPS: { [K in Op]: (args: Requests[K]["args"]) => Promise<Requests[K]["answer"]> } = {
  open,
  load,
  picture,
  photo,
  golden: golden_,
};

// One request at a time, in order: a variant is never replaced under a picture that it judges.
let last: Promise<void> = Promise.resolve();

self.addEventListener("message", ({ data }: MessageEvent<Request>) => {
  last = last.then(async () => {
    let reply: Reply;
    try {
      reply = { id: data.id, answer: await OPS[data.op](data.args as never) };
    } catch (error) {
      const { name, message } = error as Error;
      reply = { id: data.id, error: { name, why: message } };
    }
    self.postMessage(reply);
  });
});
