// What is kept for a visit without a network: a full disk does no harm, and nothing is kept for ever.

import { afterEach, describe, expect, it, vi } from "vitest";
import { Lost } from "../src/errors";
import { keepOnly, webFiles } from "../src/offline_cache";

const at = (path: string) => `https://here.example/page/assets/${path}`;

/** Cache Storage that keeps these addresses, of which there is no room for more. */
function fullDisk(...urls: string[]): Set<string> {
  const kept = new Set(urls);
  const cache = {
    match: async () => undefined,
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
    const files = webFiles("https://here.example/page/bundle/");
    expect(new TextDecoder().decode(await files.read("bundle.json"))).toBe("{}");
    await files.keepHead?.();
  });

  it("keeps a head only when it is told that it is good", async () => {
    const put = vi.fn(async () => undefined);
    vi.stubGlobal("caches", { open: async () => ({ match: async () => undefined, put }) });
    vi.stubGlobal("fetch", async () => new Response("<html>log in</html>"));
    const files = webFiles("https://here.example/page/bundle/");
    await files.read("bundle.json");
    expect(put).not.toHaveBeenCalled();
    await files.keepHead?.();
    expect(put).toHaveBeenCalledOnce();
  });

  it("takes the copy of a head when the network hangs, and says what else did not come", async () => {
    vi.stubGlobal("caches", { open: async () => ({ match: async () => new Response("kept") }) });
    const hang = (_: string, { signal }: RequestInit) =>
      new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));
    vi.stubGlobal("fetch", hang);
    const files = webFiles("https://here.example/page/bundle/");
    expect(new TextDecoder().decode(await files.read("bundle.json"))).toBe("kept");
    vi.stubGlobal("fetch", async () => Promise.reject(new TypeError("no network")));
    await expect(files.read("golden.npz")).rejects.toThrow(Lost);
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
