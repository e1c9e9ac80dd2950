// Variants that run on LiteRT's WebAssembly; the one file that owns @litertjs/core.
// Such a model takes float32 pixels, 0 to 255, 1 × height × width × 3: LiteRT.js refuses 8-bit ends.

import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";
import glue from "@litertjs/core/wasm/litert_wasm_internal.js?url";
import wasm from "@litertjs/core/wasm/litert_wasm_internal.wasm?url";
import { Damaged } from "./errors";
import { keep } from "./kept";
import type { Model, Network } from "./model";

type Instantiation = [imports: WebAssembly.Imports, done: (...made: unknown[]) => void];

let ready: Promise<unknown> | undefined;

export async function open({ bytes, head }: Network): Promise<Model> {
  ready ??= load();
  const [data] = await Promise.all([bytes, ready]);
  const model = await loadAndCompile(data, { accelerator: "wasm" }).catch((error: unknown) => {
    throw new Damaged(`LiteRT refuses the model (${String(error)})`);
  });
  const { frame } = head;
  const floats = new Float32Array(frame.height * frame.width * 3);
  return {
    async run(pixels) {
      floats.set(pixels);
      const input = new Tensor(floats, [1, frame.height, frame.width, 3]);
      const [output] = await model.run(input);
      const logits = Float32Array.from(output.toTypedArray() as Float32Array);
      input.delete();
      output.delete();
      return logits;
    },
    async close() {
      model.delete();
    },
  };
}

async function load(): Promise<void> {
  const at = (url: string) => new URL(url, self.location.href).href;
  // Emscripten would ask for the WebAssembly only when its glue has come, and by a name without a hash.
  const asked = new Promise<Instantiation>((resolve) => {
    const instantiateWasm = (...args: Instantiation) => (resolve(args), {});
    Object.assign(self, { Module: { instantiateWasm } });
  });
  const made = Promise.all([compile(at(wasm)), asked]).then(async ([module, [imports, done]]) => {
    done(await WebAssembly.instantiate(module, imports), module);
  });
  await Promise.all([made, loadLiteRt(at(glue))]);
  void Promise.all([at(glue), at(wasm)].map(keep));
}

async function compile(url: string): Promise<WebAssembly.Module> {
  const response = await fetch(url);
  const isTyped = response.headers.get("Content-Type") === "application/wasm"; // not by every file server
  return isTyped ? WebAssembly.compileStreaming(response) : WebAssembly.compile(await response.arrayBuffer());
}
