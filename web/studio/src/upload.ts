// Dropped and chosen files to the server: the label of each by its folder, four at a time.
import { ask, type Added } from "./api.ts";

export interface Found {
  path: string;
  file: File;
}

const AT_ONCE = 4;

/** Every file of a drop, also in folders, with its path. */
export async function filesOf(items: DataTransferItemList): Promise<Found[]> {
  const entries = [...items].map((item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
  return (await Promise.all(entries.map((entry) => walk(entry, "")))).flat();
}

async function walk(entry: FileSystemEntry, above: string): Promise<Found[]> {
  const path = `${above}${entry.name}`;
  if (entry.name.startsWith(".")) return [];
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    return [{ path, file }];
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const found: Found[] = [];
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found;
    for (const one of some) found.push(...(await walk(one, `${path}/`)));
  }
}

const EVERY = 0.5; // seconds between two frames of a video
const MOST = 400; // frames of one

/** Videos replaced by their frames as photos; the browser decodes them. */
export async function withFrames(files: Found[]): Promise<Found[]> {
  const all = await Promise.all(files.map((found) => (found.file.type.startsWith("video/") ? framesOf(found) : [found])));
  return all.flat();
}

async function framesOf({ path, file }: Found): Promise<Found[]> {
  const video = document.createElement("video");
  video.muted = true;
  video.src = URL.createObjectURL(file);
  const canvas = document.createElement("canvas");
  const frames: Found[] = [];
  try {
    await until(video, "loadeddata");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    const step = Math.max(EVERY, video.duration / MOST);
    for (let at = 0; at < video.duration; at += step) {
      video.currentTime = at;
      await until(video, "seeked");
      canvas.getContext("2d")!.drawImage(video, 0, 0);
      const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
      if (blob) frames.push({ path: `${path} ${at.toFixed(1)} s.jpg`, file: new File([blob], file.name) });
    }
    return frames;
  } catch {
    return [{ path, file }]; // the server says what it is
  } finally {
    URL.revokeObjectURL(video.src);
  }
}

function until(video: HTMLVideoElement, event: string): Promise<void> {
  return new Promise((resolve, reject) => {
    video.addEventListener(event, () => resolve(), { once: true });
    video.addEventListener("error", () => reject(new Error("this browser cannot decode it")), { once: true });
  });
}

/** Send files; `label` is for all of them, else the folder of each says it. */
export async function send(
  files: Found[],
  label: string,
  progress: (done: number, total: number, sum: Added) => void,
): Promise<Added> {
  const sum: Added = { added: 0, known: 0, refused: [], two_labels: [] };
  let labels = files.map(() => label);
  if (!label && files.some((found) => found.path.includes("/"))) {
    const answer = await ask<{ labels: string[] }>("POST", "/api/folders", { paths: files.map((found) => found.path) });
    labels = answer.labels;
  }
  let next = 0;
  let done = 0;
  const work = async () => {
    while (next < files.length) {
      const at = next++;
      const query = new URLSearchParams({ name: files[at].path.split("/").slice(-2).join("/"), label: labels[at] });
      const answer = await ask<Added>("POST", `/api/upload?${query}`, files[at].file);
      sum.added += answer.added;
      sum.known += answer.known;
      sum.refused.push(...answer.refused);
      sum.two_labels.push(...answer.two_labels);
      progress(++done, files.length, sum);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  await ask("POST", "/api/stack", {});
  return sum;
}
