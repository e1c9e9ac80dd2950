// The page's modules import each other in one direction only.

import { readdirSync, readFileSync } from "node:fs";
import { expect, it } from "vitest";

const folder = new URL("../src/", import.meta.url);

/** The modules that a module imports from this folder: its types, and what it loads when it needs it, too. */
function importsOf(name: string): string[] {
  const code = readFileSync(new URL(`${name}.ts`, folder), "utf8");
  return Array.from(code.matchAll(/(?:from|import\(|import) ?"\.\/([\w-]+)"/g), ([, other]) => other);
}

function findCycle(graph: Map<string, string[]>): string[] | undefined {
  const done = new Set<string>();
  const visit = (name: string, path: string[]): string[] | undefined => {
    if (path.includes(name)) return [...path.slice(path.indexOf(name)), name];
    if (done.has(name)) return undefined;
    for (const other of graph.get(name) ?? []) {
      const cycle = visit(other, [...path, name]);
      if (cycle) return cycle;
    }
    done.add(name);
    return undefined;
  };
  for (const name of graph.keys()) {
    const cycle = visit(name, []);
    if (cycle) return cycle;
  }
  return undefined;
}

it("has no import cycle", () => {
  const names = readdirSync(folder).flatMap((file) => /^(\w+)\.ts$/.exec(file)?.slice(1) ?? []);
  const graph = new Map(names.map((name) => [name, importsOf(name)]));
  expect(graph.get("main")).toContain("client");
  expect(graph.get("worker")).toContain("litert"); // by import("./litert")
  expect(findCycle(graph)).toBeUndefined();
  graph.get("frame")?.push("main"); // such a cycle would be found
  expect(findCycle(graph)).toBeDefined();
});
