// From logits to a decision, as src/catflap/runtime/decisions.py and classifier.py do it.

export const UNSURE = "unsure";

export interface Prediction {
  readonly label: string;
  readonly probability: number;
  readonly probabilities: Record<string, number>;
  readonly decision: string; // a label, or "unsure"
}

/** Calibrated probabilities of one photo's logits. */
export function softmax(logits: ArrayLike<number>, temperature: number): number[] {
  const scaled = Array.from(logits, (logit) => logit / temperature);
  const most = Math.max(...scaled);
  const powers = scaled.map((value) => Math.exp(value - most));
  const total = sum(powers);
  return powers.map((power) => power / total);
}

/** Probabilities where labels are as frequent as `field` says (Saerens et al. 2002, equation 2.4). */
export function correctPrior(probabilities: number[], trained: number[], field: number[]): number[] {
  const weighted = probabilities.map((probability, index) => probability * (field[index] / trained[index]));
  const total = sum(weighted);
  return weighted.map((value) => value / total);
}

/** The whole prior when one label has a stated share; the others share the rest as in training. */
export function fieldPrior(trained: number[], label: number, share: number): number[] {
  const rest = sum(trained) - trained[label];
  return trained.map((was, index) => (index === label ? share : was * ((1 - share) / rest)));
}

/** Whether a probability reaches the threshold, or is a hundred-thousandth below it: answers come in steps. */
export function reaches(probability: number, threshold: number): boolean {
  return probability >= threshold * (1 - 1e-5);
}

/** The label that alone reaches the threshold, else "unsure". */
export function decide(probabilities: number[], labels: readonly string[], threshold: number): string {
  const reached = labels.filter((_, index) => reaches(probabilities[index], threshold));
  return reached.length === 1 ? reached[0] : UNSURE;
}

/** One row of probabilities as a Prediction. */
export function predict(probabilities: number[], labels: readonly string[], threshold: number): Prediction {
  const best = probabilities.indexOf(Math.max(...probabilities));
  return {
    label: labels[best],
    probability: probabilities[best],
    probabilities: Object.fromEntries(labels.map((label, index) => [label, probabilities[index]])),
    decision: decide(probabilities, labels, threshold),
  };
}

function sum(values: number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
