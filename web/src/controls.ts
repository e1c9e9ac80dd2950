// Controls: the sheet with threshold, prior, network and camera; and choosing, dropping or pasting files.

import type { Decision, Head } from "./bundle";
import { fieldPrior } from "./decisions";
import { text } from "./text";
import { element, percent, shown } from "./view";

export interface Adjustment {
  threshold: number | undefined; // undefined: as exported
  prior: { label: number; share: number } | undefined; // undefined: as trained
}

const STEEPNESS = 9.21 / 1000; // the ends of the prior slider are 1 and 9,999 in 10,000
const number = new Intl.NumberFormat(text.language, { maximumSignificantDigits: 2 });

/** The stated prior of every label; undefined: as in training. */
export function priorOf(head: Head, { prior }: Adjustment): number[] | undefined {
  return prior && fieldPrior(trainedPrior(head), prior.label, prior.share);
}

export function trainedPrior(head: Head): number[] {
  return head.labels.map((label) => head.prior[label]);
}

/** Bind the sheet's controls; `changed` is called when the answer must be rendered again. */
export function bindAdjust(adjustment: Adjustment, current: () => { head: Head; decision: Decision } | undefined, changed: () => void): () => void {
  const sheet = element<HTMLDialogElement>("adjust");
  const threshold = element<HTMLInputElement>("threshold");
  const prior = element<HTMLInputElement>("prior");
  const label = element<HTMLSelectElement>("prior-label");
  const rate = element<HTMLSelectElement>("error-rate");
  threshold.step = "5";
  prior.step = "10";

  function show(): void {
    const opened = current();
    if (!opened) return;
    const { head, decision } = opened;
    const limit = adjustment.threshold ?? decision.threshold;
    const curve = decision.curve ?? [];
    rate.hidden = curve.length < 2;
    rate.replaceChildren(
      ...curve.map((point) => new Option(text.errorRate(percent(point.error_rate), percent(point.unsure)), String(point.threshold))),
    );
    rate.selectedIndex = curve.findIndex((point) => point.threshold === limit); // -1: between them
    threshold.value = String(Math.round(1000 * limit));
    describe("threshold", percent(limit));
    element("threshold-reset").hidden = adjustment.threshold === undefined;
    const listed = Array.from(label.options, ({ value }) => value);
    if (JSON.stringify(listed) !== JSON.stringify(head.labels)) {
      label.replaceChildren(...head.labels.map((name) => new Option(shown(name), name)));
    }
    const chosen = adjustment.prior?.label ?? label.selectedIndex;
    label.selectedIndex = chosen;
    const share = adjustment.prior?.share ?? head.prior[head.labels[chosen]];
    prior.value = String(Math.round(Math.log(share / (1 - share)) / STEEPNESS));
    describe("prior", share < 0.1 ? text.oneIn(number.format(1 / share)) : text.share(percent(share)));
    element("prior-reset").hidden = adjustment.prior === undefined;
  }

  function describe(id: string, words: string): void {
    element(`${id}-value`).textContent = words;
    element(id).setAttribute("aria-valuetext", words);
  }

  function change(update: () => void): () => void {
    return () => {
      update();
      show();
      changed();
    };
  }

  const setPrior = () => {
    const share = 1 / (1 + Math.exp(-Number(prior.value) * STEEPNESS));
    adjustment.prior = { label: label.selectedIndex, share };
  };
  threshold.addEventListener("input", change(() => (adjustment.threshold = Number(threshold.value) / 1000)));
  rate.addEventListener("change", change(() => (adjustment.threshold = Number(rate.value))));
  prior.addEventListener("input", change(setPrior));
  label.addEventListener("change", change(() => (adjustment.prior = undefined)));
  element("threshold-reset").addEventListener("click", change(() => (adjustment.threshold = undefined)));
  element("prior-reset").addEventListener("click", change(() => (adjustment.prior = undefined)));
  const open = () => {
    show();
    sheet.showModal();
  };
  element("open-adjust").addEventListener("click", open);
  element("verdict").addEventListener("click", open);
  element("close").addEventListener("click", () => sheet.close());
  sheet.addEventListener("click", (event) => {
    if (event.target === sheet) sheet.close(); // a click beside the sheet
  });
  return show;
}

/** Call `take` with the files that a person chooses, drops or pastes. */
export function bindInput(take: (files: File[]) => void): void {
  const chooser = element<HTMLInputElement>("file");
  const choose = () => chooser.click();
  element("choose").addEventListener("click", choose);
  element("open-bundle").addEventListener("click", choose);
  chooser.addEventListener("change", () => {
    hand(chooser.files);
    chooser.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => hand(event.clipboardData?.files));

  let over = 0; // entering a child comes before leaving its parent
  const mark = (by: number) => document.body.classList.toggle("dropping", (over = Math.max(0, over + by)) > 0);
  document.addEventListener("dragenter", () => mark(1));
  document.addEventListener("dragleave", () => mark(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    mark(-over);
    hand(event.dataTransfer?.files);
  });

  function hand(files: FileList | null | undefined): void {
    if (!files?.length) return;
    element<HTMLDialogElement>("adjust").close();
    take([...files]);
  }
}
