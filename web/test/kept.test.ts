// What is kept for a visit without a network: a full disk does no harm, and nothing is kept for ever.

import { afterEach, describe, expect, it, vi } from "vitest";
import { keepOnly, webFiles } from "../src/kept";

const at = (path: string) => `https://here.example/page/assets/${path}`;

/** Cache Storage that keeps these addresses, of which there is no room for more. */
function fullDisk(...urls: string[]): Set<string> {
  const kept = new Set(urls);
  const cache = {
    put: async () => Promise.reject(new DOMException("no room", "QuotaExceededError")),
    keys: async () => [...kept].map((url) => ({ url })),
    delete: async (url: string) => kept.delete(url),
  };
  vi.stubGlobal("caches", { open: async () => cache });
  vi.stubGlobal("self", { location: { href: at("worker-1.js") } });
  return kept;
}

afterEach(() => void vi.unstubAllGlobals());

describe("webFiles", () => {
  it("gives a head that cannot be kept", async () => {
    fullDisk();
    vi.stubGlobal("fetch", async () => new Response("{}"));
    const bytes = await webFiles("https://here.example/page/bundle/").read("bundle.json");
    expect(new TextDecoder().decode(bytes)).toBe("{}");
  });
});

describe("keepOnly", () => {
  it("lets go of the members of earlier bundles, and of nothing else", async () => {
    const others = ["https://here.example/other/assets/kept/a", at("litert.wasm"), "https://here.example/page/bundle/bundle.json"];
    const kept = fullDisk(at("kept/a"), at("kept/b"), at("kept/c"), ...others);
    await keepOnly(["b", "d"]);
    expect([...kept]).toEqual([at("kept/b"), ...others]);
  });

  it("does nothing where nothing can be kept", async () => {
    vi.stubGlobal("caches", undefined);
    vi.stubGlobal("self", { location: { href: at("worker-1.js") } });
    await keepOnly(["a"]);
  });
});
