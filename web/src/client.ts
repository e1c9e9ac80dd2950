// The page's side of the worker: one promise per request.

import { BadPhoto, Damaged, Lost, NoBundle, NoSimd, Overtaken } from "./errors";
import type { Op, Reply, Requests } from "./messages";

export interface Client {
  ask<K extends Op>(op: K, args: Requests[K]["args"], transfer?: Transferable[]): Promise<Requests[K]["answer"]>;
}

const ERRORS: Record<string, new (why: string) => Error> = { Damaged, BadPhoto, Lost, NoBundle, Overtaken };
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

export function startWorker(): Client {
  const worker = new Worker(new URL("./worker.ts", import.meta.url), { name: "catflap" });
  const waiting = new Map<number, { resolve(answer: never): void; reject(error: Error): void }>();
  let asked = 0;
  let stopped: Error | undefined;
  worker.addEventListener("message", ({ data }: MessageEvent<Reply>) => {
    const caller = waiting.get(data.id);
    waiting.delete(data.id);
    if ("answer" in data) caller?.resolve(data.answer as never);
    else caller?.reject(new (ERRORS[data.error.name] ?? Error)(data.error.why));
  });
  worker.addEventListener("error", (event) => {
    const hasSimd = WebAssembly.validate(Uint8Array.from(SIMD));
    stopped = hasSimd ? new Error(event.message || "the worker stopped") : new NoSimd();
    worker.terminate(); // half a worker answers some and others never
    for (const { reject } of waiting.values()) reject(stopped);
    waiting.clear();
  });
  return {
    ask: (op, args, transfer = []) =>
      new Promise((resolve, reject) => {
        if (stopped) throw stopped;
        const id = asked++;
        waiting.set(id, { resolve: resolve as (answer: never) => void, reject });
        worker.postMessage({ id, op, args }, transfer);
      }),
  };
}
