// The service worker: the page without a network, and the two headers that let WebAssembly use several threads.
// It adds these also where a plain file server sends none.

declare const self: ServiceWorkerGlobalScope;
declare const __FILES__: string[];
declare const __LATER__: string[];
declare const __VERSION__: string;
declare const __POLICY__: string; // what index.html forbids; a worker hears of it by a header only

const PREFIX = "catflap-page-";
const CACHE = PREFIX + __VERSION__;
const KEPT = "catflap-kept"; // the cache of offline_cache.ts
const PATIENCE = 4000; // ms to wait for the network where there is a cached copy

self.addEventListener("install", (event) => {
  event.waitUntil(fill().then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(sweep().then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || !request.url.startsWith(self.registration.scope)) return;
  const path = request.url.slice(self.registration.scope.length).split(/[?#]/)[0];
  if (request.mode === "navigate" && (path === "" || path === "index.html")) event.respondWith(page(request));
  else if (path.startsWith("assets/") || path.startsWith("icon")) event.respondWith(asset(request));
});

async function fill(): Promise<void> {
  const cache = await caches.open(CACHE);
  await cache.addAll(__FILES__.map((file) => new Request(file, { cache: "reload" })));
}

/** Delete the files of earlier versions of the page, and those that the worker kept for them. */
async function sweep(): Promise<void> {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name.startsWith(PREFIX) && name !== CACHE).map((name) => caches.delete(name)));
  const kept = await caches.open(KEPT);
  for (const { url } of await kept.keys()) {
    const path = url.replace(self.registration.scope, "");
    if (/^assets\/[^/]+$/.test(path) && !__LATER__.includes(path)) await kept.delete(url);
  }
}

async function page(request: Request): Promise<Response> {
  const kept = await caches.match(self.registration.scope);
  const coming = fetch(request).catch(() => undefined);
  const late = new Promise<undefined>((resolve) => kept && setTimeout(resolve, PATIENCE));
  const fresh = await Promise.race([coming, late]);
  if (fresh?.type === "opaqueredirect") return fresh; // such as to a page where one logs in
  const found = fresh?.ok ? fresh : kept;
  return isolated(found ?? fresh ?? Response.error());
}

async function asset(request: Request): Promise<Response> {
  return isolated((await caches.match(request)) ?? (await fetch(request)));
}

function isolated(response: Response): Response {
  if (response.type === "error" || response.type === "opaque" || response.status === 304) return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.append("Content-Security-Policy", __POLICY__); // one that the server sends holds, too
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
export {};
