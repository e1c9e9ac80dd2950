// What is kept on the device so that the page works offline: in Cache Storage, which only secure pages have.

import type { Files, Shelf } from "./bundle";
import { NoBundle } from "./errors";

const CACHE = "catflap-kept";
const HEAD = "bundle.json";

/** Keep a file of the page that the service worker does not fetch beforehand. */
export async function keep(url: string): Promise<void> {
  const cache = await open();
  if (cache && !(await cache.match(url))) await cache.add(url).catch(() => undefined);
}

/** The files of a Bundle that a server offers unpacked; its head is kept for when there is no network. */
export function webFiles(folder: string): Files {
  return {
    async read(name) {
      const url = folder + name;
      const cache = name === HEAD ? await open() : undefined;
      const response = await fetch(url, { cache: "no-cache" }).catch(() => undefined);
      if (response?.ok) await cache?.put(url, response.clone()).catch(() => undefined); // a full disk
      const found = response?.ok ? response : await cache?.match(url);
      if (!found) throw new NoBundle(`${url}: ${response?.status ?? "no network"}`);
      return new Uint8Array(await found.arrayBuffer());
    },
  };
}

/** Members of Bundles by their hash. */
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

/** Let go of the members of the Bundles that this server offered before. */
export async function keepOnly(hashes: string[]): Promise<void> {
  const cache = await open();
  const named = new Set(hashes.map(key));
  for (const { url } of (await cache?.keys().catch(() => undefined)) ?? []) {
    if (url.startsWith(key("")) && !named.has(url)) await cache?.delete(url).catch(() => undefined);
  }
}

/** Where a member is kept: below the page's own folder, for another page may share its origin. */
function key(sha256: string): string {
  return new URL(`kept/${sha256}`, self.location.href).href;
}

async function open(): Promise<Cache | undefined> {
  return globalThis.caches?.open(CACHE).catch(() => undefined);
}
