// What is wrong with a bundle.json, of all that this client uses: docs/reference/bundle.md says every MUST.

const DEEPEST = 64; // objects and lists within each other
const FRAME = {
  decode: (value) => ["scaled", "full"].includes(value),
  filter: (value) => ["bilinear", "bicubic"].includes(value),
  fit: (value) => ["squash", "crop"].includes(value),
  height: (value) => isWhole(value, 8, 2048),
  max_bytes: (value) => isWhole(value, 1, 2 ** 30),
  max_pixels: (value) => isWhole(value, 1, 89_000_000),
  width: (value) => isWhole(value, 8, 2048),
};

/** The parsed bundle.json and the first thing that is wrong with it, as a clause; undefined where nothing is. */
export function parseHead(bytes) {
  let text, head;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    head = JSON.parse(text);
  } catch {
    return { head, fault: "bundle.json is not JSON" };
  }
  if (hasNameTwice(text)) return { head, fault: "a name stands twice in one object of bundle.json" };
  if (!isShallow(head)) return { head, fault: `bundle.json is nested more than ${DEEPEST} deep` };
  return { head, fault: faultOf(head) };
}

function faultOf(head) {
  if (!isObject(head)) return "bundle.json is no object";
  const { catflap_bundle: format, labels, frame, files, golden, variants, input, output } = head;
  if (!isText(format) || !/^1\.[0-9]{1,4}$/.test(format)) return `it is of the format ${format}`;
  if (!Array.isArray(labels) || labels.length < 2 || !labels.every(isText) || new Set(labels).size < labels.length) {
    return "its labels are not two or more different texts";
  }
  if (!isObject(frame) || Object.keys(frame).sort().join() !== Object.keys(FRAME).join()) return "its frame has other fields";
  const odd = Object.keys(FRAME).find((field) => !FRAME[field](frame[field]));
  if (odd) return `the ${odd} of its frame is not allowed`;
  const isFile = (file) => isObject(file) && isText(file.sha256) && isWhole(file.bytes, 0, 2 ** 31 - 1);
  if (!isObject(files) || !Object.values(files).every(isFile)) return "it does not list its files";
  if (!isText(input?.name) || !isText(output?.name)) return "its input or its output has no name";
  const isListed = (name) => isText(name) && Object.hasOwn(files, name);
  if (!isListed(golden?.file) || !isWhole(golden.cases, 1, 1000)) return "it does not list its golden cases";
  if (!isObject(variants) || !Object.keys(variants).length) return "it has no variants";
  for (const [name, variant] of Object.entries(variants)) {
    if (!isText(variant?.runtime) || !isListed(variant.file)) return `the variant ${name} has no runtime or no file that is listed`;
    if (!(isWithin(variant.tolerance, 0, 1e6) && variant.tolerance > 0)) return `the tolerance of ${name} is no number above 0`;
    if (!isWithin(variant.decision?.threshold, 0, 1)) return `the threshold of ${name} is no number from 0 to 1`;
    if (![undefined, "top"].includes(variant.decision.rule)) return `the decision rule of ${name} is unknown`;
    if (!variant.unknown) continue;
    if (!isWithin(variant.unknown.threshold, 0, 1e6)) return `the OOD threshold of ${name} is no number above 0`;
    const described = isObject(variant.baseline?.labels) ? Object.values(variant.baseline.labels) : [undefined];
    if (!described.every(isDescribed)) return `${name} refuses unknown photos without a baseline to measure them by`;
  }
}

/** Whether the entry of a label has no embedding, or one that an OOD score can be computed from. */
function isDescribed(entry) {
  if (!isObject(entry)) return false;
  const { embedding } = entry;
  const isWhole = isObject(embedding) && isText(embedding.mean) && isText(embedding.axes);
  return embedding === undefined || (isWhole && embedding.limit > 0 && typeof embedding.length === "number");
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isText(value) {
  return typeof value === "string";
}

function isWithin(value, least, most) {
  return typeof value === "number" && value >= least && value <= most;
}

function isWhole(value, least, most) {
  return Number.isInteger(value) && isWithin(value, least, most);
}

function isShallow(value) {
  let level = [value];
  for (let depth = 0; depth <= DEEPEST; depth++) {
    level = level.filter((each) => typeof each === "object" && each !== null);
    if (!level.length) return true;
    level = level.flatMap((each) => Object.values(each));
  }
  return false;
}

/** JSON.parse takes the last of two equal names; another reader might take the first. */
function hasNameTwice(json) {
  const open = [];
  for (const [token, string, colon] of json.matchAll(/("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?|[{}]/g)) {
    if (token === "{") open.push(new Set());
    else if (token === "}") open.pop();
    else if (colon) {
      const [names, name] = [open.at(-1), JSON.parse(string)];
      if (names.has(name)) return true;
      names.add(name);
    }
  }
  return false;
}
