// The page's end of the worker: one promise a request.

import { BadPhoto, Damaged, NoBundle } from "./errors";
import type { Op, Reply, Requests } from "./messages";

export interface Client {
  ask<K extends Op>(op: K, args: Requests[K]["args"], transfer?: Transferable[]): Promise<Requests[K]["answer"]>;
}

const ERRORS: Record<string, new (why: string) => Error> = { Damaged, BadPhoto, NoBundle };

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
    stopped = new Error(event.message || "the worker stopped");
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
