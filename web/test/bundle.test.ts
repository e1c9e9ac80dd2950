// Opening a Bundle: the schema, the names in it, and the hash of every member.

import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { openBundle, type Files } from "../src/bundle";
import { Damaged } from "../src/errors";

const MODEL = new TextEncoder().encode("a model");
const sha256 = (data: Uint8Array) => createHash("sha256").update(data).digest("hex");

function makeHead(): Record<string, any> {
  const variant = {
    file: "int8.onnx",
    runtime: "onnxruntime",
    precision: "int8",
    temperature: 0.8,
    tolerance: 0.1,
    metrics: { accuracy: { value: 0.9, low: 0.8, high: 0.95 } },
    fidelity: { photos: 9, flips: 0, flip_rate: 0, max_probability_difference: 0 },
    decision: { threshold: 0.4, error_rate: 0.01, photos: 9 },
  };
  return {
    catflap_bundle: "1.0",
    name: "cat",
    labels: ["cat", "not_cat"],
    frame: { width: 8, height: 8, fit: "squash", filter: "bilinear", decode: "full", max_pixels: 1000, max_bytes: 1000 },
    input: { name: "pixels", dtype: "uint8", layout: "NHWC" },
    output: { name: "logits", dtype: "float32" },
    default_variant: "int8",
    variants: { int8: variant },
    prior: { cat: 0.4, not_cat: 0.6 },
    golden: { file: "golden.npz", cases: 1, pixel_tolerance: 3 },
    files: {
      "int8.onnx": { sha256: sha256(MODEL), bytes: MODEL.length },
      "golden.npz": { sha256: sha256(MODEL), bytes: MODEL.length },
    },
    ancestors: {},
    licences: {},
    versions: {},
  };
}

const CURVE = {
  threshold: 0.7,
  error_rate: 0.03,
  photos: 9,
  rule: "top",
  curve: [
    { error_rate: 0.01, threshold: 0.9, unsure: 0.4 },
    { error_rate: 0.03, threshold: 0.7, unsure: 0.1 },
  ],
};

/** Lists within each other. */
function nested(depth: number): unknown {
  let value: unknown = 0;
  for (let level = 0; level < depth; level++) value = [value];
  return value;
}

function filesOf(head: unknown, model = MODEL, isZip = false): Files {
  const bytes = new TextEncoder().encode(typeof head === "string" ? head : JSON.stringify(head));
  const all = new Map([["bundle.json", bytes], ["int8.onnx", model], ["golden.npz", model]]);
  const sizes = isZip ? { sizes: new Map([...all].map(([name, data]) => [name, data.length])) } : {};
  return { ...sizes, read: async (name) => all.get(name) ?? Promise.reject(new Error(name)) };
}

describe("openBundle", () => {
  it.each([true, false])("opens a good one and gives its members (zip: %s)", async (isZip) => {
    const bundle = await openBundle(filesOf(makeHead(), MODEL, isZip));
    expect(bundle.head.labels).toEqual(["cat", "not_cat"]);
    expect(await bundle.member("int8.onnx")).toEqual(MODEL);
  });

  it("opens one with a curve of error rates", async () => {
    const head = makeHead();
    (head.variants.int8 as { decision: unknown }).decision = CURVE;
    expect((await openBundle(filesOf(head))).head.variants.int8.decision).toEqual(CURVE);
  });

  it("refuses a member with other bytes", async () => {
    const bundle = await openBundle(filesOf(makeHead(), new TextEncoder().encode("b model")));
    await expect(bundle.member("int8.onnx")).rejects.toThrow(Damaged);
    await expect(openBundle(filesOf(makeHead(), new TextEncoder().encode("b model"), true))).rejects.toThrow(Damaged);
  });

  it("never trusts what was kept without its hash", async () => {
    const shelf = { get: async () => new TextEncoder().encode("c model"), put: async () => undefined };
    expect(await (await openBundle(filesOf(makeHead()), shelf)).member("int8.onnx")).toEqual(MODEL);
  });

  it("refuses a zip with a member more than it lists", async () => {
    const files = filesOf(makeHead(), MODEL, true);
    (files.sizes as Map<string, number>).set("more", 1);
    await expect(openBundle(files)).rejects.toThrow(Damaged);
  });

  const broken: [string, (head: Record<string, any>) => void][] = [
    ["another major version", (head) => (head.catflap_bundle = "2.0")],
    ["no labels", (head) => delete head.labels],
    ["one label", (head) => (head.labels = ["cat"])],
    ["a label twice", (head) => (head.labels = ["cat", "cat"])],
    ["an unknown frame field", (head) => (head.frame.mean = 0.5)],
    ["a frame that is too large", (head) => (head.frame.width = 4096)],
    ["a curve of error rates that descends", (head) => (head.variants.int8.decision = { ...CURVE, curve: [...CURVE.curve].reverse() })],
    ["a curve without the decision's own rate", (head) => (head.variants.int8.decision = { ...CURVE, error_rate: 0.02 })],
    ["an unknown decision rule", (head) => (head.variants.int8.decision = { ...CURVE, rule: "only" })],
    ["an unknown filter", (head) => (head.frame.filter = "lanczos")],
    ["a temperature of zero", (head) => (head.variants.int8.temperature = 0)],
    ["a file that is not listed", (head) => (head.variants.int8.file = "../secret")],
    ["a default variant that is not there", (head) => (head.default_variant = "fp32")],
    ["a prior of another label", (head) => (head.prior = { cat: 0.4, dog: 0.6 })],
    ["a prior that does not add up to 1", (head) => (head.prior = { cat: 0.4, not_cat: 0.7 })],
    ["an unknown field that is nested too deep", (head) => (head.extra = nested(64))],
    ["an unknown field that is nested 3,000 deep", (head) => (head.extra = nested(3000))],
    ["a prototype's name as the default", (head) => (head.default_variant = "toString")],
  ];

  it.each(broken)("refuses %s", async (_, damage) => {
    const head = makeHead();
    damage(head);
    await expect(openBundle(filesOf(head))).rejects.toThrow(Damaged);
  });

  it("reads past an unknown field that is nested as deep as may be", async () => {
    await openBundle(filesOf({ ...makeHead(), extra: nested(63) }));
  });

  it.each([`\ufeff${JSON.stringify(makeHead())}`, "", "{", "[]", "null", "3", "\"1.0\""])("refuses %j as bundle.json", async (head) => {
    await expect(openBundle(filesOf(head))).rejects.toThrow(Damaged);
  });
});
