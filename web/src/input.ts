// The ways in which a person hands over a photo or a bundle: choose, drop, paste.

import { element } from "./view";

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
