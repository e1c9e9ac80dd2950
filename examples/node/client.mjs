// A small conforming client: it checks a bundle, runs its golden cases, and judges photos.
//
//   npm install --ignore-scripts
//   node client.mjs all.catflap                  does it answer here as it was tested?
//   node client.mjs all.catflap photo.jpg …      a line of JSON a photo, through the variant onnx-frame

import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";
import { Damaged, readBundle, readGolden } from "./bundle.mjs";
import { decode } from "./photo.mjs";

const FRAMED = "onnxruntime-frame";
// On x86-64 without VNNI the fast int8 sums are cut off at 16 bits; the option makes them exact, and slower.
const EXACT = { extra: { session: { x64quantprecision: "1" } } };
const OPTIONS = { intraOpNumThreads: 1, logSeverityLevel: 3, ...EXACT };
const TIE = 1e-5; // how far below the threshold a probability may be, as a share of it, before format 1.1
const PROBABILITY_TOLERANCE = 1e-4;
const OOD_TOLERANCE = 0.1;
const EMBEDDING = "embedding"; // the second output of a graph that gives the features before its head

const [path, ...photos] = process.argv.slice(2);
try {
  const bundle = readBundle(path);
  process.exitCode = (await (photos.length ? judge(bundle, photos) : verify(bundle))) ? 0 : 1;
} catch (error) {
  console.log(JSON.stringify({ error: `${path}: ${error.message}` }));
  process.exitCode = error instanceof Damaged ? 1 : 2;
}

/**
 * Every variant that ONNX Runtime runs, on the golden frames: is each logit within its tolerance, and do the
 * recorded logits give the recorded probabilities and decisions?
 */
async function verify(bundle) {
  const golden = readGolden(bundle);
  const { frames, logits } = golden;
  const [count, height, width] = frames.shape;
  const labels = bundle.head.labels.length;
  const checks = [];
  for (const [name, variant] of Object.entries(bundle.head.variants)) {
    if (!["onnxruntime", FRAMED].includes(variant.runtime)) continue;
    const session = await ort.InferenceSession.create(bundle.members.get(variant.file), OPTIONS);
    const embeddings = [];
    let worst = 0;
    for (let n = 0; n < count; n++) {
      const size = height * width * 3;
      const frame = frames.data.subarray(n * size, (n + 1) * size);
      const input =
        variant.runtime === FRAMED
          ? { photo: new ort.Tensor("uint8", frame, [height, width, 3]) }
          : { [bundle.head.input.name]: new ort.Tensor("uint8", frame, [1, height, width, 3]) };
      const outputs = await session.run(input);
      const answer = outputs[bundle.head.output.name].data;
      embeddings.push(outputs[EMBEDDING]?.data);
      const expected = logits[name].data.subarray(n * labels, (n + 1) * labels);
      worst = Math.max(worst, largestDifference(answer, expected));
    }
    const value = Number.isFinite(worst) ? worst : "not one finite number a label";
    checks.push({ name: `golden:${name}`, pass: worst <= variant.tolerance, value, limit: variant.tolerance });
    if (variant.unknown) checks.push(checkUnknown(name, variant, bundle.head.labels, golden, embeddings));
    if (name in golden.decisions) checks.push(checkDecisions(name, variant, bundle.head.labels, golden));
  }
  const pass = checks.length > 0 && checks.every((check) => check.pass);
  console.log(JSON.stringify({ verdict: pass ? "pass" : "fail", checks }));
  return pass;
}

/** Has each case the recorded OOD score here, and does the threshold refuse what was refused at export? */
function checkUnknown(name, { baseline, unknown }, labels, { logits, ood, unknown: refused }, embeddings) {
  const check = (pass, value) => ({ name: `unknown:${name}`, pass, value, limit: OOD_TOLERANCE });
  if (!(name in refused)) return check(false, "no golden OOD scores were recorded");
  const changed = ood[name].data.filter((score, n) => Number(score > unknown.threshold) !== refused[name].data[n]).length;
  if (changed) return check(false, `${changed} of ${ood[name].data.length} refusals differ`);
  const scores = embeddings.map((embedding, n) => {
    const row = Array.from(logits[name].data.subarray(n * labels.length, (n + 1) * labels.length));
    return scoreFor(row, embedding, labels, baseline);
  });
  const worst = largestDifference(scores, ood[name].data.subarray(0, scores.length));
  return check(worst <= OOD_TOLERANCE, Number.isFinite(worst) ? worst : "embeddings that do not fit");
}

/** The OOD score for the likeliest label, whose logit or probability is the greatest; 0 for a label without one. */
function scoreFor(answer, embedding, labels, baseline) {
  const described = baseline.labels[labels[answer.indexOf(Math.max(...answer))]]?.embedding;
  return described ? oodScore(embedding ?? [], described) : 0;
}

/** How far an embedding is from its label's mean and axes, in units of the limit: docs/reference/bundle.md, step 6. */
function oodScore(embedding, { mean, length, axes, limit }) {
  const middle = unit(Array.from(new Int8Array(Buffer.from(mean, "base64")))).map((value) => value * length);
  if (embedding.length !== middle.length) return NaN;
  const flat = Array.from(new Int8Array(Buffer.from(axes, "base64")));
  const away = unit(Array.from(embedding)).map((value, n) => value - middle[n]);
  const left = away.slice();
  for (let start = 0; start < flat.length; start += middle.length) {
    const axis = unit(flat.slice(start, start + middle.length));
    const along = dot(away, axis);
    axis.forEach((value, n) => (left[n] -= along * value));
  }
  return Math.sqrt(dot(left, left)) / limit;
}

function unit(values) {
  const length = Math.sqrt(dot(values, values)) || 1;
  return values.map((value) => value / length);
}

function dot(a, b) {
  return a.reduce((sum, value, n) => sum + value * b[n], 0);
}

/** Do temperature, threshold and rule make of the logits of cases and probes what was recorded at export? */
function checkDecisions(name, variant, labels, { logits, probes, probabilities, decisions }) {
  const rows = [...logits[name].data, ...probes[name].data];
  let [worst, changed] = [0, 0];
  for (const [n, expected] of decisions[name].data.entries()) {
    const [start, end] = [n * labels.length, (n + 1) * labels.length];
    const answer = softmax(rows.slice(start, end), variant.temperature);
    worst = Math.max(worst, largestDifference(answer, probabilities[name].data.subarray(start, end)));
    if (labels.indexOf(decided(answer, labels, variant).decision) !== expected) changed++;
  }
  const value = changed ? `${changed} of ${decisions[name].data.length} decisions differ` : worst;
  const pass = changed === 0 && worst <= PROBABILITY_TOLERANCE;
  return { name: `decisions:${name}`, pass, value, limit: PROBABILITY_TOLERANCE };
}

function softmax(logits, temperature) {
  const greatest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp((logit - greatest) / temperature));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

/** Infinity when the two are not of one length, or one number is not finite. */
function largestDifference(got, expected) {
  let worst = got.length === expected.length ? 0 : Infinity;
  for (let n = 0; n < expected.length; n++) {
    const off = Math.abs(got[n] - expected[n]);
    if (!(off <= worst)) worst = Number.isFinite(off) ? off : Infinity;
  }
  return worst;
}

/** The label, the probabilities and the decision for each photo. */
async function judge({ head, members }, paths) {
  const variant = Object.values(head.variants).find(({ runtime }) => runtime === FRAMED);
  if (!variant) throw new Error("it has no variant onnx-frame; export it with --variants onnx-frame");
  const session = await ort.InferenceSession.create(members.get(variant.file), OPTIONS);
  let all = true;
  for (const path of paths) {
    try {
      const { data, width, height } = await decode(readFileSync(path), head.frame);
      const answer = await session.run({ photo: new ort.Tensor("uint8", data, [height, width, 3]) });
      const probabilities = Array.from(answer.probabilities.data);
      console.log(JSON.stringify({ path, ...decided(probabilities, head.labels, variant, answer[EMBEDDING]?.data ?? []) }));
    } catch (error) {
      console.log(JSON.stringify({ path, error: error.message }));
      all = false;
    }
  }
  return all;
}

/** The label, its probability, and the decision: a label, "unsure", or "unknown" where an embedding is given. */
function decided(probabilities, labels, { decision: { threshold, rule }, unknown, baseline }, embedding) {
  if (probabilities.length !== labels.length || !probabilities.every(Number.isFinite)) {
    throw new Error("The network's answer is not one finite number a label; verify the bundle.");
  }
  const best = probabilities.indexOf(Math.max(...probabilities));
  const reached = probabilities.filter((probability) => probability >= threshold * (1 - TIE)).length;
  const isDecided = rule === "top" ? probabilities[best] >= threshold : reached === 1;
  const score = unknown && embedding ? scoreFor(probabilities, embedding, labels, baseline) : 0;
  if (!Number.isFinite(score)) throw new Error("The network's embedding does not fit the bundle; verify it.");
  const isUnknown = unknown && score > unknown.threshold;
  return {
    label: labels[best],
    probability: probabilities[best],
    probabilities: Object.fromEntries(labels.map((label, n) => [label, probabilities[n]])),
    decision: isUnknown ? "unknown" : isDecided ? labels[best] : "unsure",
  };
}
