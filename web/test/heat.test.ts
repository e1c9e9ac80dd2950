// Where the network looked: as src/catflap/runtime/activation_maps.py reads class activation maps.

import { expect, it } from "vitest";
import { fromLastAxis, heatOf } from "../src/heat";

it("is what speaks for the label more than for the others", () => {
  const maps = { values: Float32Array.from([4, 0, 1, 1, 0, 2, 3, 1, 2, 0, 1, 1]), height: 2, width: 2 };
  expect(heatOf(maps, 0)).toEqual({ values: [1, 0, 0, 0], height: 2, width: 2 });
  expect(heatOf(maps, 1).values).toEqual([0, 1, 1, 0]);
});

it("reads LiteRT's order, labels last", () => {
  const { values } = fromLastAxis(Float32Array.from([0, 10, 1, 11, 2, 12]), [1, 3, 2]);
  expect(Array.from(values)).toEqual([0, 1, 2, 10, 11, 12]);
});
