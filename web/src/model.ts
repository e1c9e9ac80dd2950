// What runs a variant here: the interface of a network, and which variants this page can run.

import type { Head } from "./bundle";
import type { Maps } from "./heat";

/** The answer of a network, with the features before its head and activation maps where it gives them. */
export interface Output {
  readonly logits: Float32Array;
  readonly embedding: Float32Array | undefined;
  readonly hasMaps: boolean;
  readonly maps: Maps | undefined; // where they were asked for
}

/** A network that is ready: one frame in, uint8 RGB height × width × 3. */
export interface Model {
  run(frame: Uint8Array, withMaps?: boolean): Promise<Output>;
  close(): Promise<void>;
}

/** What a runtime (onnx.ts, litert.ts) opens. */
export interface Network {
  readonly bytes: Promise<Uint8Array>; // a promise, so that the runtime can load meanwhile
  readonly head: Head;
  readonly threads: number;
}

export type Runtime = "litert" | "onnxruntime";
const RUNTIMES: readonly string[] = ["litert", "onnxruntime"] satisfies Runtime[];

/**
 * The variants that this page can run, the fastest first: LiteRT's in int8, its others, then fp32,
 * because ONNX Runtime's WebAssembly is slower in int8 (docs/guides/camera-page.md).
 */
export function usableVariants(head: Head): string[] {
  const rank = (name: string) => {
    const { runtime, precision } = head.variants[name];
    if (runtime === "litert") return precision === "int8" ? 0 : 1;
    return precision === "fp32" ? 2 : 3;
  };
  const usable = Object.keys(head.variants).filter((name) => RUNTIMES.includes(head.variants[name].runtime));
  return usable.sort((a, b) => rank(a) - rank(b));
}
