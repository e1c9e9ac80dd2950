// Variants that run on LiteRT's WebAssembly; the one file that owns @litertjs/core.
// Such a model takes float32 pixels, 0 to 255, 1 × height × width × 3: LiteRT.js refuses 8-bit ends.

import { loadAndCompile, loadLiteRt, supportsFeature, Tensor } from "@litertjs/core";
import compatGlue from "@litertjs/core/wasm/litert_wasm_compat_internal.js?url";
import compatWasm from "@litertjs/core/wasm/litert_wasm_compat_internal.wasm?url";
import glue from "@litertjs/core/wasm/litert_wasm_internal.js?url";
import wasm from "@litertjs/core/wasm/litert_wasm_internal.wasm?url";
import { Damaged } from "./errors";
import { fromLastAxis } from "./heat";
import { keep } from "./offline_cache";
import type { Model, Network } from "./model";

type Instantiation = [imports: WebAssembly.Imports, done: (...made: unknown[]) => void];

/** Emscripten's glue: it asks for its WebAssembly, and waits for that also through downloads that fail. */
interface Glue {
  readonly asked: Promise<Instantiation>;
  readonly loaded: Promise<unknown>;
}

let begun: Glue | undefined;
let ready: Promise<void> | undefined;

export async function open({ bytes, head }: Network): Promise<Model> {
  ready ??= load().catch((error: unknown) => {
    ready = undefined; // so that the next call retries
    throw error;
  });
  const [data] = await Promise.all([bytes, ready]);
  const model = await loadAndCompile(data, { accelerator: "wasm" }).catch((error: unknown) => {
    throw new Damaged(`LiteRT refuses the model (${String(error)})`);
  });
  const { frame } = head;
  const floats = new Float32Array(frame.height * frame.width * 3);
  return {
    async run(pixels, withMaps) {
      floats.set(pixels);
      const input = new Tensor(floats, [1, frame.height, frame.width, 3]);
      const outputs = await model.run(input); // the logits, and perhaps the embedding and activation maps
      const read = (output: Tensor | undefined) => output && Float32Array.from(output.toTypedArray() as Float32Array);
      const sides = outputs.map((output) => Array.from(output.type.layout.dimensions));
      const logits = read(outputs[0]) as Float32Array;
      const embedding = read(outputs.find((_, at) => at > 0 && sides[at].length === 2));
      const at = sides.findIndex((side) => side.length === 4);
      const maps = withMaps && at > 0 ? fromLastAxis(read(outputs[at]) as Float32Array, sides[at].slice(1)) : undefined;
      for (const tensor of [input, ...outputs]) tensor.delete();
      return { logits, embedding, hasMaps: at > 0, maps };
    },
    async close() {
      model.delete();
    },
  };
}

async function load(): Promise<void> {
  const isRelaxed = await supportsFeature("relaxedSimd"); // Safari got it late
  const pair = isRelaxed ? [glue, wasm] : [compatGlue, compatWasm];
  const [script, code] = pair.map((url) => new URL(url, self.location.href).href);
  begun ??= begin(script);
  const made = Promise.all([compile(code), begun.asked]).then(async ([module, [imports, done]]) => {
    done(await WebAssembly.instantiate(module, imports), module);
  });
  await Promise.all([made, begun.loaded]);
  void Promise.all([script, code].map(keep));
}

function begin(script: string): Glue {
  // Emscripten would ask for the WebAssembly only when its glue has come, and by a name without a hash.
  const asked = new Promise<Instantiation>((resolve) => {
    const instantiateWasm = (...args: Instantiation) => (resolve(args), {});
    Object.assign(self, { Module: { instantiateWasm } });
  });
  const loaded = loadLiteRt(script);
  loaded.catch(() => (begun = undefined));
  return { asked, loaded };
}

async function compile(url: string): Promise<WebAssembly.Module> {
  const response = await fetch(url);
  const isTyped = response.headers.get("Content-Type") === "application/wasm"; // not by every file server
  return isTyped ? WebAssembly.compileStreaming(response) : WebAssembly.compile(await response.arrayBuffer());
}
