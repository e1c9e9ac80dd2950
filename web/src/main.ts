// The page: pictures in, the answer on the screen. See docs/guides/camera-page.md.

import "./style.css";
import { bindCamera, isAllowed, latestPicture, listCameras, nextPicture, type Camera } from "./camera";
import { startWorker } from "./client";
import { bindAdjust, bindInput, priorOf, trainedPrior, type Adjustment } from "./controls";
import { correctPrior, predict, softmax, type Prediction, type Rule } from "./decisions";
import { cameraReason, Lost, Overtaken, reasonOf } from "./errors";
import type { Answer, CaseResult, Opened } from "./messages";
import { text } from "./text";
import {
  addEntry,
  clearEntries,
  decoded,
  differs,
  element,
  removeEntries,
  showAnswer,
  showCases,
  showFacts,
  showHeat,
  showNotice,
  showOutline,
  showMessage,
  showUnchecked,
  showWaiting,
  speaker,
  spoken,
} from "./view";

const BUNDLE = new URL("bundle/", document.baseURI).href;
const STEADY = 600; // ms for which a decision must be stable before it is listed
const MEASURE = "catflap answer";
const BETWEEN_CASES = 400; // ms for camera pictures between two golden cases
const LOST_AFTER = 5000; // ms until failed downloads of golden cases are retried
const STALE = 2000; // ms after which a camera answer is cleared if no new one follows
const THREADS = crossOriginIsolated ? Math.max(1, Math.min(4, navigator.hardwareConcurrency >> 1)) : 1;

const client = startWorker();
const video = element<HTMLVideoElement>("video");
const still = element<HTMLImageElement>("still");
const live = bindCamera(video, { starting, began, lost, muted });
const say = speaker((sentence) => (element("spoken").textContent = sentence));
const adjustment: Adjustment = { threshold: undefined, prior: undefined };

let opened: Opened | undefined;
let variant = "";
let showing: "nothing" | "camera" | "photo" = "nothing";
let latest: Answer | undefined;
let photo: { file: Blob; image: HTMLImageElement } | undefined; // the one on the screen
let noted = ""; // the last camera decision in the history
let since = { decision: "", time: 0 };
let cases: CaseResult[] = [];
let untrusted = ""; // why nothing is decided: golden cases differ here
let notice = ""; // the notice after it
const early: File[] = []; // photos received before a bundle was open
let actions: Promise<void> = Promise.resolve(); // the user's actions, one after another
let turn = 0; // increases with each bundle or variant, so that work for an earlier one stops
let stale: ReturnType<typeof setTimeout> | undefined;
let withHeat = false; // whether the picture shows where the network looked

const showAdjust = bindAdjust(
  adjustment,
  () => opened && { head: opened.head, decision: opened.head.variants[variant].decision },
  () => latest && render(latest),
);

/** Open a Bundle, from the server or a file; when it is not fit, the one before stays. */
async function open(from: { folder: string } | { file: Blob }): Promise<void> {
  turn++;
  if (!opened) showWaiting(text.loading);
  try {
    opened = await client.ask("open", { from, threads: THREADS });
  } catch (error) {
    if (error instanceof Overtaken) return;
    if (opened) report(error);
    else showMessage(reasonOf(error));
    void check(); // of the one before, which was stopped
    return;
  }
  turn++;
  variant = opened.variant;
  adjustment.threshold = adjustment.prior = undefined;
  untrusted = "";
  notify([notice, opened.why && text.otherVariant(opened.variants[0], variant, opened.why)].filter(Boolean).join(" "));
  clearEntries();
  showFacts(opened, variant);
  showAdjust();
  showCrop();
  forget();
  if (showing === "photo" && photo) await judgePhoto(photo.file);
  void check();
}

async function changeVariant(name: string): Promise<void> {
  turn++;
  notify("");
  try {
    await client.ask("load", { variant: name, threads: THREADS });
    variant = name;
    adjustment.threshold = undefined;
    untrusted = "";
    notify(notice);
    forget(); // it was the other network's answer
  } catch (error) {
    report(error);
  }
  turn++;
  element<HTMLSelectElement>("variant").value = variant;
  showAdjust();
  if (showing === "photo" && photo) await judgePhoto(photo.file);
  void check();
}

/** While the bundle loads: the camera where it is allowed already, else the welcome. */
async function begin(): Promise<void> {
  if (!navigator.mediaDevices) notify(isSecureContext ? text.errorAbsent : text.errorInsecure);
  element("start").hidden = !navigator.mediaDevices;
  if (navigator.mediaDevices && (await isAllowed()) && (await listCameras()).length) live.start();
}

function starting(): void {
  notify("");
  if (showing === "camera") forget();
}

function began(camera: Camera): void {
  setPaused(false);
  element("light").setAttribute("aria-pressed", "false");
  show("camera");
  showCameras().catch(report);
  void watch(camera);
}

function lost(error?: Error): void {
  if (showing === "camera") {
    show("nothing");
    forget();
  }
  notify(error ? cameraReason(error) : text.cameraLost);
}

function muted(on: boolean): void {
  if (on) forget();
  if (on || notice === text.cameraMuted) notify(on ? text.cameraMuted : "");
}

/** Clear the answer, because its picture is gone. */
function forget(): void {
  latest = undefined;
  say("");
  element("heat").hidden = true;
  if (opened && untrusted) showMessage(text.untrusted);
  else if (opened) showWaiting(text.ready, opened.head.labels);
}

/** Classify the camera's latest picture again and again, until another camera or a photo replaces it. */
async function watch(mine: Camera): Promise<void> {
  const isBlind = () => live.camera !== mine || live.paused || mine.track.muted;
  let next = nextPicture(video);
  while (live.camera === mine) {
    await next;
    next = nextPicture(video); // one that comes while this one is judged needs not be waited for
    if (!opened || isBlind() || !video.videoWidth) continue;
    const bundle = turn;
    try {
      const start = performance.now();
      const picture = await latestPicture(video);
      const answer = await client.ask("picture", { picture, withHeat }, [picture]);
      if (isBlind() || bundle !== turn) continue;
      note(render(answer));
      expect(performance.now() - start);
      showSpeed(start, answer, `${video.videoWidth}×${video.videoHeight}`);
    } catch (error) {
      if (live.camera !== mine) return; // its picture went with it
      report(error);
      await new Promise((resolve) => setTimeout(resolve, 1000)); // and then look again
    }
  }
}

/** Clear the camera's answer when no new one follows, for example during a download. */
function expect(took = 0): void {
  clearTimeout(stale);
  stale = setTimeout(() => showing === "camera" && !live.paused && forget(), Math.max(STALE, 3 * took));
}

/** The user's photos: each is classified and listed once there is a bundle; the last one stays on the screen. */
async function take(files: File[]): Promise<void> {
  notify("");
  const isBundle = ({ name }: File) => name.toLowerCase().endsWith(".catflap");
  const bundle = files.find(isBundle);
  if (bundle) await open({ file: bundle });
  early.push(...files.filter((file) => !isBundle(file)));
  await judgeEarly();
}

async function judgeEarly(): Promise<void> {
  if (!opened) return;
  const photos = early.splice(0);
  for (const file of photos) await judgePhoto(file, photos.length > 1 ? file.name : "");
}

/** Run the user's actions one after another. */
function inTurn(work: () => Promise<void>): Promise<void> {
  return (actions = actions.then(work).catch(report));
}

/** Classify a photo; `name` is for the error message if it is one of several. */
async function judgePhoto(file: Blob, name = ""): Promise<void> {
  if (!opened) return;
  const start = performance.now();
  const isNew = photo?.file !== file;
  try {
    const answer = await client.ask("photo", { file, withHeat });
    const image = photo && !isNew ? photo.image : await decoded(file);
    if (isNew) {
      URL.revokeObjectURL(still.src);
      still.src = image.src;
      photo = { file, image };
      show("photo");
    } else if (showing !== "photo") return; // but the camera again
    const prediction = render(answer);
    showSpeed(start, answer, `${image.naturalWidth}×${image.naturalHeight}`);
    if (!isNew) return;
    if (!untrusted) addEntry(prediction, variant, image, image.naturalWidth, image.naturalHeight);
    say(spoken(prediction, !untrusted));
  } catch (error) {
    notify(name ? text.errorOneOf(name, reasonOf(error)) : reasonOf(error));
  }
}

function render(answer: Answer): Prediction {
  latest = answer;
  const prediction = judge(answer);
  showAnswer(prediction, rule(), !untrusted);
  element("where").hidden = !answer.hasMaps;
  showHeat(untrusted || !withHeat ? undefined : answer.heat, (opened as Opened).head.frame, ...pictureSides());
  return prediction;
}

function judge({ logits, ood }: Answer): Prediction {
  const { head } = opened as Opened;
  const { temperature, unknown } = head.variants[variant];
  const prior = priorOf(head, adjustment);
  const plain = softmax(logits, temperature);
  return predict(prior ? correctPrior(plain, trainedPrior(head), prior) : plain, head.labels, rule(), !!unknown && ood !== undefined && ood > unknown.threshold);
}

function rule(): Rule {
  const decision = (opened as Opened).head.variants[variant].decision;
  return { threshold: adjustment.threshold ?? decision.threshold, top: decision.rule === "top" };
}

/** List and announce a decision about the camera's picture once it has been stable for a moment. */
function note(prediction: Prediction): void {
  if (untrusted) return;
  const now = performance.now();
  if (since.decision !== prediction.decision) since = { decision: prediction.decision, time: now };
  if (prediction.decision === noted || now - since.time < STEADY) return;
  noted = prediction.decision;
  addEntry(prediction, variant, video, video.videoWidth, video.videoHeight);
  say(spoken(prediction, !untrusted));
}

/** Run the golden cases, one at a time between camera pictures, and show the verdict. */
async function check(): Promise<void> {
  if (!opened) return;
  const mine = turn;
  const { golden, variants } = opened.head;
  const { tolerance } = variants[variant];
  cases = [];
  try {
    for (let index = 0; index < golden.cases; index++) {
      showCases(cases, golden.cases, golden.pixel_tolerance, tolerance);
      if (showing === "camera") await new Promise((resolve) => setTimeout(resolve, BETWEEN_CASES));
      if (mine !== turn) return;
      const result = await client.ask("golden", { index, variant });
      if (mine !== turn) return;
      cases.push(result);
      if (differs(cases, tolerance)) trustNot(text.checkFailLong);
    }
    showCases(cases, golden.cases, golden.pixel_tolerance, tolerance);
    if (!differs(cases, tolerance)) trustNot("");
  } catch (error) {
    if (mine !== turn) return;
    const why = text.checkUnrunLong(reasonOf(error));
    showUnchecked(why);
    trustNot(why);
    if (error instanceof Lost) setTimeout(() => mine === turn && void check(), LOST_AFTER);
  }
}

/** Stop deciding, and show why; "" resumes. The variant's earlier decisions are removed from the history. */
function trustNot(why: string): void {
  if (untrusted === why) return;
  untrusted = why;
  noted = "";
  notify(notice);
  if (why) {
    removeEntries(variant);
    say("");
  }
  if (latest) render(latest);
  else forget();
}

function show(what: typeof showing): void {
  if (what === "photo") live.stop();
  showing = what;
  noted = "";
  since = { decision: "", time: 0 };
  element("welcome").hidden = what !== "nothing";
  element("heat").hidden = true;
  if (what === "nothing") element("where").hidden = true;
  video.hidden = what !== "camera";
  still.hidden = what !== "photo";
  element("live").hidden = what !== "photo" || !navigator.mediaDevices;
  element("pause").hidden = what !== "camera";
  element("light").hidden = what !== "camera" || !live.camera?.hasLight;
  showCrop();
}

/** Outline the part of the picture that the Frame keeps. */
function showCrop(): void {
  showOutline(showing === "nothing" ? undefined : opened?.head.frame, ...pictureSides());
  if (opened) showHeat(untrusted || !withHeat ? undefined : latest?.heat, opened.head.frame, ...pictureSides());
}

/** Width and height of the picture on the stage, px; 0 where there is none. */
function pictureSides(): [number, number] {
  if (showing === "camera") return [video.videoWidth, video.videoHeight];
  return showing === "photo" ? [photo?.image.naturalWidth ?? 0, photo?.image.naturalHeight ?? 0] : [0, 0];
}

/** Show where the network looked, or stop it; a photo is judged again for it. */
async function switchHeat(): Promise<void> {
  if (element("where").hidden) return;
  withHeat = !withHeat;
  element("where").setAttribute("aria-pressed", String(withHeat));
  if (!withHeat) element("heat").hidden = true;
  else if (showing === "photo" && photo) await judgePhoto(photo.file);
}

async function showCameras(): Promise<void> {
  const found = await listCameras();
  element("next").hidden = found.length < 2;
  element("camera-field").hidden = found.length < 2;
  const options = found.map((device, index) => new Option(device.label || text.cameraNumber(index + 1), device.deviceId));
  element("camera-choice").replaceChildren(...options);
  element<HTMLSelectElement>("camera-choice").value = live.id ?? "";
}

/** Show how long an answer took, on the page and as a User Timing measure for tools. */
function showSpeed(start: number, { pixelsMs, networkMs }: Answer, size: string): void {
  performance.clearMeasures(MEASURE);
  const { duration } = performance.measure(MEASURE, { start, detail: { pixelsMs, networkMs, variant } });
  element("speed").textContent = text.speed(duration.toFixed(duration < 10 ? 1 : 0), variant, size);
}

function setPaused(on: boolean): void {
  live.pause(on);
  expect();
  const button = element("pause");
  button.classList.toggle("on", on);
  (button.querySelector("span") as HTMLElement).textContent = on ? text.resume : text.pause;
}

async function switchLight(): Promise<void> {
  const button = element("light");
  const on = button.getAttribute("aria-pressed") !== "true";
  await live.camera?.setLight(on).then(() => button.setAttribute("aria-pressed", String(on)), report);
}

async function nextCamera(): Promise<void> {
  const found = await listCameras();
  const place = found.findIndex(({ deviceId }) => deviceId === live.id);
  live.start(found[(place + 1) % found.length]?.deviceId);
}

/** Show a notice; the reason for not deciding stays before it. */
function notify(sentence: string): void {
  notice = sentence;
  showNotice([untrusted, notice].filter(Boolean).join(" "));
}

function report(error: unknown): void {
  notify(reasonOf(error));
}

bindInput((files) => void inTurn(() => take(files)));
element("start").addEventListener("click", () => live.start());
element("live").addEventListener("click", () => live.start(live.id));
element("pause").addEventListener("click", () => setPaused(!live.paused));
element("next").addEventListener("click", () => void nextCamera());
element("light").addEventListener("click", () => void switchLight());
element("where").addEventListener("click", () => void inTurn(switchHeat));
for (const picture of [video, still]) picture.addEventListener("click", () => void inTurn(switchHeat));
element("clear").addEventListener("click", clearEntries);
element("check-again").addEventListener("click", () => {
  turn++;
  void check();
});
element("variant").addEventListener("change", ({ target }) => void inTurn(() => changeVariant((target as HTMLSelectElement).value)));
element("camera-choice").addEventListener("change", ({ target }) => live.start((target as HTMLSelectElement).value));
video.addEventListener("resize", showCrop);
new ResizeObserver(showCrop).observe(element("stage"));
void begin();
const first = open({ folder: BUNDLE }).catch(report); // not in turn: where it hangs, a person's own bundle opens
void first.then(() => inTurn(judgeEarly));
void first.then(() => {
  // What it fetches for the next visit must not be in the way of this one's first answer.
  if (!("serviceWorker" in navigator) || !import.meta.env.PROD) return;
  navigator.serviceWorker.register("./sw.js").catch(() => undefined); // as behind a certificate that is not trusted
});
