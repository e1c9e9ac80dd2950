// What the server answers, and asking it: src/catflap/studio/routes.py.

export interface Label {
  name: string;
  photos: number;
  stacks: number;
}

export interface Point {
  photos: number;
  accuracy: number;
  low: number;
  high: number;
}

export interface Curve {
  points: Point[];
  labels: { label: string; photos: number; recall: number; low: number; high: number }[];
  next: Point | null;
}

export interface Step {
  step: string;
  done: number;
  total: number;
  seconds: number;
}

export interface Job {
  number: number;
  kind: string;
  state: "running" | "stopped" | "failed" | "done";
  settings: { minutes?: number | null; build?: number; photo?: number | null };
  started: number;
  ended: number | null;
  answer: { error: Problem } | null;
  progress: Step[];
  left: { share: number; seconds: number; at_most: number | null; words: string; at: number } | null;
}

/** The entries of a training's history so far, by their step: src/catflap/studio/job_progress.py. */
export interface Training {
  trial: {
    backbone: string; size: number; fit: string; fp32_ms: number; int8_mb: number;
    share: number; validation_accuracy: number; fits: boolean; picked: boolean;
  }[];
  head: { validation_accuracy: number; judged_by: number; chosen: boolean }[];
  curve: { photos: number; right: number; judged_by: number }[];
  steps: { last: number; loss: number }[];
  finetune: { epoch: number; validation_accuracy?: number }[];
}

export interface State {
  name: string;
  version: number;
  labels: Label[];
  photos: number;
  open: number;
  aside: number;
  field: number;
  refused: Record<string, number>;
  undo: string | null;
  redo: string | null;
  revision: number;
  learner: {
    done: number;
    total: number;
    ms: number;
    revision: number;
    labels: string[];
    problem: Problem | null;
    curve: Curve | null;
    suspects: number;
  };
  phone: string;
  importing: { source: string; done: number; total: number } | null;
  jobs: Job[];
}

export interface Details {
  n: number;
  label: string | null;
  name: string;
  width: number;
  height: number;
  remarks: string;
  stack: number;
  alike: number;
  suggested?: string;
  probability?: number;
  suspect?: string;
}

export interface Added {
  added: number;
  known: number;
  refused: { name: string; reason: string }[];
  two_labels: string[];
}

export interface Problem {
  what: string;
  fix: string;
}

export class Refused extends Error {
  constructor(readonly problem: Problem) {
    super(`${problem.what} ${problem.fix}`);
  }
}

const GONE: Problem = { what: "Studio does not answer.", fix: "Start it again; this page goes on by itself." };
const CLOSED: Problem = { what: "Studio does not know this browser.", fix: "Open the address that its terminal shows." };

/** The JSON of an answer; throws Refused with what the server says. */
export async function ask<T>(method: string, path: string, body?: unknown): Promise<T> {
  const isRaw = body instanceof Blob;
  let answer: Response;
  try {
    const init: RequestInit = { method };
    if (body !== undefined) init.body = isRaw ? body : JSON.stringify(body);
    answer = await fetch(path, init);
  } catch {
    throw new Refused(GONE);
  }
  if (answer.status === 401) throw new Refused(CLOSED);
  const fields = await answer.json().catch(() => ({ error: GONE }));
  if (!answer.ok) throw new Refused(fields.error ?? GONE);
  return fields as T;
}

/** A name by which the server knows a decision that is sent twice. */
export function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Send a decision until it is answered: a server that starts again must not lose it, nor count it twice. */
export async function decide(photos: number[], label: string | null): Promise<void> {
  const body = { photos, label, key: newKey() };
  for (let attempt = 0; ; attempt++) {
    try {
      await ask("POST", "/api/decide", body);
      return;
    } catch (error) {
      if (!(error instanceof Refused) || error.problem !== GONE || attempt > 20) throw error;
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }
}
