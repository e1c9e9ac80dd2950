// The OOD score of an embedding, as src/catflap/runtime/ood.py computes it: how far it is from its label's photos.

import type { Variant } from "./bundle";

/** A label's embeddings: unit vectors around `mean`, spread along `axes`; 1 in 100 is farther away than `limit`. */
export interface EmbeddingModel {
  readonly mean: Float32Array;
  readonly axes: readonly Float32Array[];
  readonly limit: number;
}

/** The model of each label, undefined for a label without one. */
export function embeddingModels({ baseline }: Variant, labels: readonly string[]): (EmbeddingModel | undefined)[] {
  return labels.map((label) => {
    const entry = baseline?.labels[label]?.embedding;
    if (!entry) return undefined;
    const mean = unit(fromBase64(entry.mean)).map((value) => value * entry.length);
    const flat = fromBase64(entry.axes);
    const count = flat.length / mean.length;
    const axes = Array.from({ length: count }, (_, row) => unit(flat.slice(row * mean.length, (row + 1) * mean.length)));
    return { mean, axes, limit: entry.limit };
  });
}

/** 0 for a typical embedding; above 1 for one farther away than 99 in 100 calibration photos. */
export function oodScore(embedding: Float32Array, { mean, axes, limit }: EmbeddingModel): number {
  const away = unit(embedding).map((value, place) => value - mean[place]);
  const left = Float32Array.from(away);
  for (const axis of axes) {
    const along = dot(away, axis);
    axis.forEach((value, place) => (left[place] -= along * value));
  }
  return Math.sqrt(dot(left, left)) / limit;
}

function unit(values: Float32Array): Float32Array {
  const length = Math.sqrt(dot(values, values)) || 1;
  return values.map((value) => value / length);
}

function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let place = 0; place < a.length; place++) sum += a[place] * b[place];
  return sum;
}

function fromBase64(text: string): Float32Array {
  return Float32Array.from(Int8Array.from(atob(text), (character) => character.charCodeAt(0)));
}
