// What a threshold, and how common each label is in the field, would mean for the test photos: pure functions.

import { correctPrior, UNKNOWN, UNSURE } from "../../src/decisions.ts";

export interface Judged {
  photo: number;
  truth: string | null;
  label: string;
  decision: string;
  probabilities: Record<string, number>;
}

export interface Rates {
  decided: number;
  right: number;
  wrong: number;
  unsure: number;
}

/** The decision about a photo at a threshold; without one, the decision that the bundle made. No threshold makes
 * an unknown photo known. `field` is how common the labels are where the photos come from, not as `trained`. */
export function decisionOf(
  photo: Judged,
  threshold: number | null,
  trained: Record<string, number>,
  field: Record<string, number> | null,
): string {
  if (photo.decision === UNKNOWN || (threshold === null && field === null)) return photo.decision;
  const labels = Object.keys(photo.probabilities);
  const stated = Object.values(photo.probabilities);
  const from = labels.map((label) => Math.max(trained[label] ?? 1, 1e-9));
  const shares = field ? correctPrior(stated, from, labels.map((label) => field[label] ?? 0)) : stated;
  const most = Math.max(...shares);
  return most >= (threshold ?? 0) ? labels[shares.indexOf(most)] : UNSURE;
}

/** How many photos of each true label got each decision. */
export function confusion(photos: Judged[], decisions: string[]): Map<string, Map<string, number[]>> {
  const rows = new Map<string, Map<string, number[]>>();
  photos.forEach((photo, at) => {
    if (photo.truth === null) return;
    const row = rows.get(photo.truth) ?? new Map<string, number[]>();
    row.set(decisions[at], [...(row.get(decisions[at]) ?? []), photo.photo]);
    rows.set(photo.truth, row);
  });
  return rows;
}

/** Of 1,000 photos in the field, in which each label is as common as `field` says: what becomes of them. */
export function perThousand(rows: Map<string, Map<string, number[]>>, field: Record<string, number>): Rates {
  const rates = { decided: 0, right: 0, wrong: 0, unsure: 0 };
  const known = [...rows].filter(([label]) => (field[label] ?? 0) > 0);
  const total = known.reduce((sum, [label]) => sum + field[label], 0) || 1;
  for (const [truth, row] of known) {
    const count = [...row.values()].reduce((sum, photos) => sum + photos.length, 0);
    const weight = (1000 * field[truth]) / total / count;
    for (const [decision, photos] of row) {
      const kind = decision === truth ? "right" : decision === UNSURE || decision === UNKNOWN ? "unsure" : "wrong";
      rates[kind] += weight * photos.length;
    }
  }
  rates.decided = rates.right + rates.wrong;
  return rates;
}

/** How common each label is among the photos of a build. */
export function sharesOf(counts: Record<string, number>): Record<string, number> {
  const total = Object.values(counts).reduce((sum, count) => sum + count, 0) || 1;
  return Object.fromEntries(Object.entries(counts).map(([label, count]) => [label, count / total]));
}
