// The worker's other end: what is asked of a worker that stopped is refused, before and afterwards.

import { afterEach, expect, it, vi } from "vitest";
import { startWorker } from "../src/client";

class StoppingWorker extends EventTarget {
  static last: StoppingWorker;
  asked = 0;
  isTerminated = false;
  constructor() {
    super();
    StoppingWorker.last = this;
  }
  postMessage(): void {
    this.asked++;
  }
  terminate(): void {
    this.isTerminated = true;
  }
}

afterEach(() => void vi.unstubAllGlobals());

it("refuses what was asked and what is asked later", async () => {
  vi.stubGlobal("Worker", StoppingWorker);
  const client = startWorker();
  const before = client.ask("load", { variant: "fp32", threads: 1 });
  StoppingWorker.last.dispatchEvent(Object.assign(new Event("error"), { message: "out of memory" }));
  await expect(before).rejects.toThrow("out of memory");
  await expect(client.ask("load", { variant: "fp32", threads: 1 })).rejects.toThrow("out of memory");
  expect(StoppingWorker.last).toMatchObject({ asked: 1, isTerminated: true });
});
