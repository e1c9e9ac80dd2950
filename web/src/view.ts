// What the page shows and says: the answer, the history, the checks and what a screen reader announces.

import { reaches, UNKNOWN, UNSURE, type Prediction, type Rule } from "./decisions";
import { keptPart, type Frame } from "./frame";
import type { Heat } from "./heat";
import type { CaseResult, Opened } from "./messages";
import { text } from "./text";

const MAX_BARS = 4;
const MAX_ENTRIES = 50;
const THUMBNAIL = 96;
const HEAT = [255, 120, 0]; // red, green, blue

const percents = new Intl.NumberFormat(text.language, { style: "percent", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** An element of the page that is there by its id. */
export function element<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

/** A share as a percentage; one that rounds to 100 % or 0 % is shown with > or <. */
export function percent(share: number): string {
  if (share > 0.9995 && share < 1) return `> ${percents.format(0.999)}`;
  return share < 0.0005 && share > 0 ? `< ${percents.format(0.001)}` : percents.format(share);
}

/** An image that is ready to be shown, so that picture and answer change together. */
export async function decoded(file: Blob): Promise<HTMLImageElement> {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  await image.decode();
  return image;
}

/** A label as people read it. */
export function shown(label: string): string {
  return label.replaceAll("_", " ");
}

/** A decision as a sentence. */
export function spoken({ decision, label, probability }: Prediction, trusted: boolean): string {
  const sure = { [UNSURE]: text.decidedUnsure, [UNKNOWN]: text.decidedUnknown }[decision] ?? text.decided;
  const say = trusted ? sure : text.decidedUntrusted;
  return say(shown(label), percent(probability));
}

/** Show an answer; one that is not `trusted` shows no decision. */
export function showAnswer(prediction: Prediction, rule: Rule, trusted: boolean): void {
  const { decision, label, probability, probabilities } = prediction;
  const state = !trusted ? "untrusted" : decision === UNSURE || decision === UNKNOWN ? decision : "sure";
  const [name, share] = [shown(label), percent(probability)];
  const [words, detail] = {
    sure: [shown(decision), text.sure(share)],
    unsure: [text.unsure, text.mostLikely(name, share)],
    unknown: [text.unknown, text.mostLikely(name, share)],
    untrusted: [text.untrusted, text.untrustedAnswer(name, share)],
  }[state];
  // For tools that look at the page: the same answer in full digits.
  Object.assign(element("answer").dataset, { state, label, probability });
  write(element("label"), words);
  write(element("detail"), detail);
  write(element("sheet-answer"), spoken(prediction, trusted));
  let rows = Object.entries(probabilities);
  if (rows.length > MAX_BARS) rows = rows.sort((a, b) => b[1] - a[1]).slice(0, MAX_BARS);
  const list = element("bars");
  while (list.children.length > rows.length) list.lastElementChild?.remove();
  while (list.children.length < rows.length) list.append(makeBar());
  rows.forEach(([name, share], index) => {
    const row = list.children[index] as HTMLElement;
    fillBar(row, name, share, rule.threshold);
    row.classList.toggle("reached", trusted && reaches(share, rule));
  });
}

/** One word instead of an answer, with the bars of the labels where they will be. */
export function showWaiting(word: string, labels: string[] = []): void {
  const answer = element("answer");
  answer.dataset.state = "waiting";
  delete answer.dataset.label;
  delete answer.dataset.probability;
  write(element("label"), word);
  write(element("detail"), "\u00a0");
  write(element("sheet-answer"), "");
  const bars = labels.slice(0, MAX_BARS).map((label) => {
    const row = makeBar();
    write(row.children[0] as HTMLElement, shown(label));
    return row;
  });
  element("bars").replaceChildren(...bars);
}

/** Sentences instead of an answer: why there is none. */
export function showMessage(sentences: string): void {
  showWaiting(sentences);
  element("answer").dataset.state = "message";
}

export function showNotice(sentence: string): void {
  const notice = element("notice");
  notice.hidden = !sentence;
  write(notice, sentence);
}

/** What is open: its variants, the one that is used, and where it comes from. */
export function showFacts({ head, variants }: Opened, variant: string): void {
  element("variant").replaceChildren(...variants.map((name) => new Option(name, name)));
  element<HTMLSelectElement>("variant").value = variant;
  element("variant-field").hidden = variants.length < 2;
  const facts = [[text.source, head.name], ...Object.entries(head.licences).map(([part, licence]) => [`${text.licences}: ${part}`, licence])];
  element("facts").replaceChildren(
    ...facts.flatMap(([name, value]) => {
      const [term, detail] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = shown(name);
      detail.textContent = value;
      return [term, detail];
    }),
  );
}

/** Outline the part that a Frame keeps of the picture on the stage, which has this size. */
export function showOutline(frame: Frame | undefined, width: number, height: number): void {
  const outline = element("crop");
  outline.hidden = frame?.fit !== "crop" || !width;
  if (frame && !outline.hidden) cover(outline, frame, width, height);
}

/** Lay an element over the part that a Frame keeps of the picture on the stage, which has this size. */
function cover(over: HTMLElement, frame: Frame, width: number, height: number): void {
  const stage = element("stage");
  const scale = Math.min(stage.clientWidth / width, stage.clientHeight / height);
  const part = keptPart(frame, width, height);
  over.style.left = `${(stage.clientWidth - width * scale) / 2 + part.left * scale}px`;
  over.style.top = `${(stage.clientHeight - height * scale) / 2 + part.top * scale}px`;
  over.style.width = `${part.width * scale}px`;
  over.style.height = `${part.height * scale}px`;
}

/** Show over the picture on the stage, which has this size, where the network found its label; undefined hides it. */
export function showHeat(heat: Heat | undefined, frame: Frame, width: number, height: number): void {
  const canvas = element<HTMLCanvasElement>("heat");
  canvas.hidden = !heat || !width;
  if (!heat || !width) return;
  cover(canvas, frame, width, height);
  [canvas.width, canvas.height] = [heat.width, heat.height];
  const pixels = new ImageData(heat.width, heat.height);
  heat.values.forEach((value, place) => pixels.data.set([...HEAT, Math.round(190 * value)], 4 * place));
  canvas.getContext("2d")?.putImageData(pixels, 0, 0);
}

/** Put a variant's decision at the top of the history, with a small picture of what was judged. */
export function addEntry(prediction: Prediction, variant: string, picture: CanvasImageSource, width: number, height: number): void {
  const row = document.createElement("li");
  row.dataset.variant = variant;
  row.append(thumbnail(picture, width, height));
  const words = document.createElement("span");
  words.className = "what";
  const { decision } = prediction;
  words.textContent = { [UNSURE]: text.unsure, [UNKNOWN]: text.unknown }[decision] ?? shown(decision);
  const how = document.createElement("span");
  how.className = "how";
  how.textContent = `${percent(prediction.probability)} · ${clock.format(new Date())}`;
  row.append(words, how);
  const list = element("entries");
  list.prepend(row);
  while (list.children.length > MAX_ENTRIES) list.lastElementChild?.remove();
  showHistoryState();
}

export function clearEntries(): void {
  element("entries").replaceChildren();
  showHistoryState();
}

/** Take a variant's decisions out of the history. */
export function removeEntries(variant: string): void {
  for (const row of Array.from(element("entries").children) as HTMLElement[]) {
    if (row.dataset.variant === variant) row.remove();
  }
  showHistoryState();
}

/** Whether a golden case's logits differ from the tested ones by more than the limit, or its decision does. */
export function differs(results: CaseResult[], limit: number): boolean {
  return results.some(({ logits, decided }) => !(logits <= limit && decided));
}

/** The golden cases so far, and what they say. */
export function showCases(results: CaseResult[], total: number, pixelLimit: number, limit: number): void {
  const badPixels = results.filter(({ pixels }) => pixels === undefined || pixels > pixelLimit).length;
  const badLogits = differs(results, limit);
  const done = results.length === total;
  const verdict = element("verdict");
  verdict.dataset.state = badLogits ? "fail" : done ? (badPixels ? "part" : "pass") : "running";
  const running = text.checkRunning(results.length, total);
  let [short, long]: [string, string] = [running, running];
  if (badLogits) [short, long] = [text.checkFail, text.checkFailLong];
  else if (done && badPixels) [short, long] = [text.checkPart(badPixels, total), text.checkPixelsLong(badPixels, total)];
  else if (done) [short, long] = [text.checkPass, text.checkPassLong(total)];
  write(verdict, short);
  write(element("check-text"), long);
  write(element("case-limits"), text.caseLimits(pixelLimit, limit.toPrecision(2)));
  element("cases").hidden = results.length === 0;
  const body = element("cases").querySelector("tbody") as HTMLElement;
  body.replaceChildren(...results.map((result, index) => caseRow(result, index, pixelLimit, limit)));
}

/** Show that the golden cases could not run, which is a failure. */
export function showUnchecked(why: string): void {
  element("verdict").dataset.state = "fail";
  write(element("verdict"), text.checkFail);
  write(element("check-text"), why);
}

function caseRow({ pixels, logits, fromPhoto }: CaseResult, index: number, pixelLimit: number, limit: number): HTMLElement {
  const row = document.createElement("tr");
  const cells: [string, boolean][] = [
    [String(index + 1), true],
    [pixels === undefined ? text.caseUnread : String(pixels), pixels !== undefined && pixels <= pixelLimit],
    [logits.toPrecision(2), logits <= limit],
    [fromPhoto === undefined ? "–" : fromPhoto.toPrecision(2), true],
  ];
  for (const [words, fine] of cells) {
    const cell = document.createElement("td");
    cell.textContent = words;
    if (!fine) cell.className = "off";
    row.append(cell);
  }
  return row;
}

function makeBar(): HTMLElement {
  const row = document.createElement("li");
  row.innerHTML = '<span class="name"></span><span class="value">\u00a0</span><span class="bar"><i></i><b></b></span>';
  return row;
}

function fillBar(row: HTMLElement, label: string, share: number, threshold: number): void {
  const [name, value, bar] = row.children as unknown as HTMLElement[];
  write(name, shown(label));
  write(value, percent(share));
  bar.setAttribute("aria-hidden", "true");
  (bar.children[0] as HTMLElement).style.transform = `scaleX(${share})`;
  (bar.children[1] as HTMLElement).style.left = `${100 * threshold}%`;
}

function thumbnail(picture: CanvasImageSource, width: number, height: number): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = THUMBNAIL;
  const side = Math.min(width, height);
  const [left, top] = [(width - side) / 2, (height - side) / 2];
  canvas.getContext("2d")?.drawImage(picture, left, top, side, side, 0, 0, THUMBNAIL, THUMBNAIL);
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}

function showHistoryState(): void {
  const empty = element("entries").children.length === 0;
  element("history-empty").hidden = !empty;
  element("entries").hidden = empty;
  element("clear").hidden = empty;
}

/** Set a text only if it differs, to spare screen readers and layout. */
function write(target: HTMLElement, words: string): void {
  if (target.textContent !== words) target.textContent = words;
}

const BETWEEN = 3000; // ms

/** A function that announces a sentence at once, or BETWEEN ms after the previous one; "" silences at once. */
export function speaker(write: (sentence: string) => void): (sentence: string) => void {
  let next = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  function begin(sentence: string): void {
    next = performance.now() + BETWEEN;
    write(sentence);
  }
  return (sentence) => {
    clearTimeout(timer);
    const wait = next - performance.now();
    if (!sentence) write("");
    else if (wait <= 0) begin(sentence);
    else timer = setTimeout(begin, wait, sentence);
  };
}
