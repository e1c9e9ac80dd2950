// The offline cache: files and bundle members in Cache Storage, which only secure pages (https, localhost) have.

import type { Files, Shelf } from "./bundle";
import { Lost, NoBundle } from "./errors";

const CACHE = "catflap-kept";
const HEAD = "bundle.json";
const PATIENCE = 4000; // ms to wait for the network where there is a cached copy

/** Cache a file of the page that the service worker does not precache. */
export async function keep(url: string): Promise<void> {
  const cache = await open();
  if (cache && !(await cache.match(url))) await cache.add(url).catch(() => undefined);
}

/** Download a file; Lost when that fails. */
export async function fetched(url: string, how: RequestInit = {}): Promise<Uint8Array<ArrayBuffer>> {
  try {
    const response = await fetch(url, how);
    if (response.ok) return new Uint8Array(await response.arrayBuffer());
  } catch {
    // no network, or not for the whole of it
  }
  throw new Lost(`${url.split("/").at(-1)} did not come`);
}

/** The files of a Bundle that a server offers unpacked; its head is cached for offline use. */
export function webFiles(folder: string): Files {
  let fresh: Uint8Array | undefined; // a head that came by the network
  return {
    async read(name) {
      const url = folder + name;
      if (name !== HEAD) return fetched(url, { cache: "no-cache" });
      const kept = await (await open())?.match(url);
      const signal = kept ? AbortSignal.timeout(PATIENCE) : null;
      fresh = await fetched(url, { cache: "no-cache", signal }).catch(() => undefined);
      if (!fresh && !kept) throw new NoBundle(url);
      return fresh ?? new Uint8Array(await (kept as Response).arrayBuffer());
    },
    async keepHead() {
      if (!fresh) return;
      await (await open())?.put(folder + HEAD, new Response(fresh as BodyInit)).catch(() => undefined); // a full disk
    },
  };
}

/** The cache of Bundle members by hash. */
export function shelf(): Shelf {
  return {
    async get(sha256) {
      const found = await (await open())?.match(key(sha256));
      return found && new Uint8Array(await found.arrayBuffer());
    },
    async put(sha256, data) {
      // A full disk spoils only the next visit without a network.
      await (await open())?.put(key(sha256), new Response(data as BodyInit)).catch(() => undefined);
    },
  };
}

/** Delete cached members that are not among these hashes. */
export async function keepOnly(hashes: string[]): Promise<void> {
  const cache = await open();
  const named = new Set(hashes.map(key));
  for (const { url } of (await cache?.keys().catch(() => undefined)) ?? []) {
    if (url.startsWith(key("")) && !named.has(url)) await cache?.delete(url).catch(() => undefined);
  }
}

/** A member's cache key: below the page's own folder, because another page may share its origin. */
function key(sha256: string): string {
  return new URL(`kept/${sha256}`, self.location.href).href;
}

async function open(): Promise<Cache | undefined> {
  return globalThis.caches?.open(CACHE).catch(() => undefined);
}
