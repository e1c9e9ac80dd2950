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
