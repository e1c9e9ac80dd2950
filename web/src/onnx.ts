// Variants that run on ONNX Runtime's WebAssembly; the one file that owns onnxruntime-web.

import * as ort from "onnxruntime-web/wasm";
import glue from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import wasm from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import { Damaged } from "./errors";
import { fetched, keep } from "./offline_cache";
import type { Model, Network } from "./model";

const [EMBEDDING, CAM] = ["embedding", "cam"]; // the names of a graph's further outputs

// ORT has its WebAssembly. It would ask for that itself, but never again once it did not come.
let isReady = false;

export async function open({ bytes, head, threads }: Network): Promise<Model> {
  const files = { mjs: absolute(glue), wasm: absolute(wasm) };
  ort.env.wasm.wasmPaths = files;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  const [model, code] = await Promise.all([bytes, isReady ? undefined : fetched(files.wasm)]);
  if (code) ort.env.wasm.wasmBinary = code;
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] }).catch((error: unknown) => {
    throw new Damaged(`ONNX Runtime refuses the model (${String(error)})`);
  });
  isReady = true;
  delete ort.env.wasm.wasmBinary; // its own copy is enough
  void keep(files.wasm);
  const { frame, input, output } = head;
  const wanted = [output.name, ...session.outputNames.filter((name) => name === EMBEDDING && name !== output.name)];
  const hasMaps = session.outputNames.includes(CAM);
  const shape = [1, frame.height, frame.width, 3];
  return {
    async run(pixels, withMaps) {
      const asked = withMaps && hasMaps ? [...wanted, CAM] : wanted;
      const answer = await session.run({ [input.name]: new ort.Tensor("uint8", pixels, shape) }, asked);
      const data = (name: string) => answer[name]?.data as Float32Array;
      const [, , height, width] = answer[CAM]?.dims ?? [];
      const maps = answer[CAM] && { values: data(CAM), height, width };
      return { logits: data(output.name), embedding: wanted.length > 1 ? data(EMBEDDING) : undefined, hasMaps, maps };
    },
    close: () => session.release(),
  };
}

function absolute(url: string): string {
  return new URL(url, self.location.href).href;
}
