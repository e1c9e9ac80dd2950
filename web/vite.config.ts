import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { defineConfig, type Plugin } from "vite";
import { assembly } from "./assembly.ts";
import { text } from "./src/text.ts";

/** Fill the words of text.ts into index.html and the manifest, so that they stand in one file only. */
function words(): Plugin {
  const fill = (page: string) =>
    page.replace(/\{\{(\w+)\}\}/g, (_, name: string) => {
      const word = (text as Record<string, unknown>)[name];
      if (typeof word !== "string") throw new Error(`text.ts has no word ${name}`);
      return word;
    });
  return {
    name: "words",
    transformIndexHtml: { order: "pre", handler: fill },
    generateBundle() {
      const source = fill(readFileSync("manifest.webmanifest", "utf8"));
      this.emitFile({ type: "asset", fileName: "manifest.webmanifest", source });
    },
  };
}

/** The content security policy, which stands in index.html. */
function policy(): string {
  const found = /http-equiv="Content-Security-Policy"\s+content="([^"]+)"/.exec(readFileSync("index.html", "utf8"));
  if (!found) throw new Error("index.html has no content security policy");
  return found[1];
}

/**
 * Tell the service worker which files the page is made of, a version that changes with them, its content
 * security policy, and which files come only where they are needed: of each runtime, and of LiteRT's two
 * builds, a browser uses one.
 */
function precache(): Plugin {
  return {
    name: "precache",
    enforce: "post",
    generateBundle: {
      order: "post",
      handler(_, bundle) {
        const worker = bundle["sw.js"];
        if (worker?.type !== "chunk") throw new Error("there is no sw.js");
        const isLater = (name: string) => /\.wasm$|litert_wasm/.test(name);
        const files = Object.keys(bundle).filter((name) => name !== "sw.js" && !isLater(name));
        const version = createHash("sha256");
        for (const name of files.sort()) {
          const file = bundle[name];
          version.update(name).update(file.type === "chunk" ? file.code : file.source);
        }
        const list = [...files.map((name) => `./${name.replace(/^index\.html$/, "")}`), "./icon.svg", "./icon-192.png"];
        worker.code = worker.code
          .replace("__FILES__", JSON.stringify(list))
          .replace("__POLICY__", JSON.stringify(policy()))
          .replace("__LATER__", JSON.stringify(Object.keys(bundle).filter(isLater)))
          .replace("__VERSION__", JSON.stringify(version.digest("hex").slice(0, 12)));
      },
    },
  };
}

export default defineConfig({
  base: "./",
  plugins: [assembly(), words(), precache()],
  build: {
    outDir: "../src/catflap/serving/static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 1000,
    modulePreload: false,
    rollupOptions: {
      input: { page: "index.html", sw: "src/sw.ts" },
      output: { entryFileNames: (chunk) => (chunk.name === "sw" ? "sw.js" : "assets/[name]-[hash].js") },
    },
  },
  worker: { format: "iife", plugins: () => [assembly()] },
  server: { fs: { allow: [".."] } },
});
