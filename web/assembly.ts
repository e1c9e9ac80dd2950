// A Vite plugin: `import bytes from "….ts?assembly"` gives the WebAssembly of an AssemblyScript file.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import asc from "assemblyscript/asc";
import type { Plugin } from "vite";

const QUERY = "?assembly";
const { version } = createRequire(import.meta.url)("assemblyscript/package.json");

export function assembly(): Plugin {
  return {
    name: `assemblyscript ${version}`,
    enforce: "pre",
    async load(id) {
      if (!id.endsWith(QUERY)) return undefined;
      const source = await readFile(id.slice(0, -QUERY.length), "utf8");
      const made = new Map<string, Uint8Array>();
      const { error, stderr } = await asc.main(
        ["module.ts", "--outFile", "module.wasm", "--runtime", "stub", "-O3", "--noAssert", "--enable", "simd"],
        {
          readFile: (name) => (name === "module.ts" ? source : null),
          writeFile: (name, contents) => void made.set(name, contents as Uint8Array),
          listFiles: () => [],
        },
      );
      if (error) throw new Error(stderr.toString());
      const text = Buffer.from(made.get("module.wasm") as Uint8Array).toString("base64");
      return `export default Uint8Array.from(atob("${text}"), (letter) => letter.charCodeAt(0));`;
    },
  };
}
