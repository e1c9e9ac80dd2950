// The messages between the page and its worker.

import type { Head } from "./bundle";
import type { Heat } from "./heat";

export interface Opened {
  readonly head: Head;
  readonly variants: string[]; // that can run here, the fastest first
  readonly variant: string; // the one that is loaded
  readonly why: string; // why that is not the first; empty where it is
}

/** The logits of one picture and where its time went. */
export interface Answer {
  readonly logits: number[];
  readonly ood: number | undefined; // OOD score, where the variant refuses unknown photos
  readonly hasMaps: boolean; // whether the network can show where it looked
  readonly heat: Heat | undefined; // where it found the likeliest label, if that was asked for
  readonly pixelsMs: number;
  readonly networkMs: number;
}

/** What became of one golden case here. */
export interface CaseResult {
  readonly pixels: number | undefined; // largest difference in grey levels; undefined: the browser cannot read it
  readonly logits: number; // largest difference of the answer to the golden frame
  readonly decided: boolean; // whether recorded logits are decided as at export
  readonly fromPhoto: number | undefined; // the same for the photo as this browser reads it
}

export interface Requests {
  open: { args: { from: { folder: string } | { file: Blob }; threads: number }; answer: Opened };
  load: { args: { variant: string; threads: number }; answer: void };
  picture: { args: { picture: VideoFrame | ImageBitmap; withHeat: boolean }; answer: Answer };
  photo: { args: { file: Blob; withHeat: boolean }; answer: Answer };
  golden: { args: { index: number; variant: string }; answer: CaseResult };
}

export type Op = keyof Requests;

export type Request = { [K in Op]: { id: number; op: K; args: Requests[K]["args"] } }[Op];

export type Reply =
  | { id: number; answer: Requests[Op]["answer"] }
  | { id: number; error: { name: string; why: string } };
