// A variant that runs: one file a runtime, chosen by what bundle.json says of the variant.

import type { Head, Variant } from "./bundle";

/** A network that is ready: one frame in, uint8 RGB height × width × 3; its logits out. */
export interface Model {
  run(frame: Uint8Array): Promise<Float32Array>;
  close(): Promise<void>;
}

export interface Network {
  readonly bytes: Promise<Uint8Array>; // so that a runtime can begin to load meanwhile
  readonly head: Head;
  readonly threads: number;
}

const RUNTIMES: Record<string, () => Promise<{ open(network: Network): Promise<Model> }>> = {
  onnxruntime: () => import("./onnx"),
  litert: () => import("./litert"),
};

/**
 * The variants that this page can run, the fastest here first: LiteRT's in int8, its others, then fp32,
 * for ONNX Runtime's WebAssembly is slower in int8 (docs/guides/camera-page.md).
 */
export function usableVariants(head: Head): string[] {
  const rank = (name: string) => {
    const { runtime, precision } = head.variants[name];
    if (runtime === "litert") return precision === "int8" ? 0 : 1;
    return precision === "fp32" ? 2 : 3;
  };
  const usable = Object.keys(head.variants).filter((name) => Object.hasOwn(RUNTIMES, head.variants[name].runtime));
  return usable.sort((a, b) => rank(a) - rank(b));
}

/** Make a variant ready to run. */
export async function openModel(variant: Variant, network: Network): Promise<Model> {
  const runtime = await RUNTIMES[variant.runtime]();
  return runtime.open(network);
}
