// What a threshold, and how common each label is in the field, would mean for the test photos: pure functions.

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

export const UNSURE = "unsure";

/** The probabilities if the labels were as common as `field` says, and not as `trained`. */
export function shifted(
  probabilities: Record<string, number>,
  trained: Record<string, number>,
  field: Record<string, number>,
): Record<string, number> {
  const weighted = Object.entries(probabilities).map(([label, share]): [string, number] => [
    label,
    share * ((field[label] ?? 0) / Math.max(trained[label] ?? 1, 1e-9)),
  ]);
  const sum = weighted.reduce((total, [, share]) => total + share, 0) || 1;
  return Object.fromEntries(weighted.map(([label, share]) => [label, share / sum]));
}

/** The decision about a photo at a threshold; without one, the decision that the bundle made. */
export function decisionOf(
  photo: Judged,
  threshold: number | null,
  trained: Record<string, number>,
  field: Record<string, number> | null,
): string {
  if (threshold === null && field === null) return photo.decision;
  const shares = field ? shifted(photo.probabilities, trained, field) : photo.probabilities;
  const [label, share] = Object.entries(shares).reduce((best, one) => (one[1] > best[1] ? one : best));
  return share >= (threshold ?? 0) ? label : UNSURE;
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
      const kind = decision === truth ? "right" : decision === UNSURE || decision === "unknown" ? "unsure" : "wrong";
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
