// From logits to a decision, as src/catflap/runtime/decisions.py and classifier.py do it.

export const UNSURE = "unsure";
export const UNKNOWN = "unknown";

export interface Prediction {
  readonly label: string;
  readonly probability: number;
  readonly probabilities: Record<string, number>;
  readonly decision: string; // a label, "unsure" or "unknown"
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

/** When a label is decided: with `top` if it is the likeliest and reaches the threshold, else if it alone does. */
export interface Rule {
  readonly threshold: number;
  readonly top: boolean; // false in bundles before format 1.1
}

/** Whether a probability reaches the threshold; before format 1.1 also one that is a hundred-thousandth below. */
export function reaches(probability: number, { threshold, top }: Rule): boolean {
  return probability >= (top ? threshold : threshold * (1 - 1e-5));
}

/** The label that the rule decides, else "unsure". */
export function decide(probabilities: number[], labels: readonly string[], rule: Rule): string {
  const reached = labels.filter((_, index) => reaches(probabilities[index], rule));
  const isDecided = rule.top ? reached.length > 0 : reached.length === 1;
  return isDecided ? labels[probabilities.indexOf(Math.max(...probabilities))] : UNSURE;
}

/** One row of probabilities as a Prediction; `isUnknown` where the OOD score is above its threshold. */
export function predict(probabilities: number[], labels: readonly string[], rule: Rule, isUnknown = false): Prediction {
  const best = probabilities.indexOf(Math.max(...probabilities));
  return {
    label: labels[best],
    probability: probabilities[best],
    probabilities: Object.fromEntries(labels.map((label, index) => [label, probabilities[index]])),
    decision: isUnknown ? UNKNOWN : decide(probabilities, labels, rule),
  };
}

function sum(values: number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
