// Where the network found a label: class activation maps, as src/catflap/runtime/activation_maps.py reads them.

/** Class activation maps of one frame: for each label, row by row, how much each place adds to its logit. */
export interface Maps {
  readonly values: Float32Array; // labels × height × width
  readonly height: number;
  readonly width: number;
}

/** Where a frame speaks for a label: 0 to 1, row by row. */
export interface Heat {
  readonly values: number[];
  readonly height: number;
  readonly width: number;
}

/** How much more each place adds to the label's logit than to the others' on average; the strongest place is 1. */
export function heatOf({ values, height, width }: Maps, label: number): Heat {
  const places = height * width;
  const labels = values.length / places;
  const speaks = Array.from({ length: places }, (_, place) => {
    let others = 0;
    for (let other = 0; other < labels; other++) if (other !== label) others += values[other * places + place];
    return Math.max(0, values[label * places + place] - others / Math.max(1, labels - 1));
  });
  const most = Math.max(...speaks, 1e-9);
  return { values: speaks.map((value) => value / most), height, width };
}

/** Maps from LiteRT's order, height × width × labels. */
export function fromLastAxis(given: Float32Array, [height, width, labels]: readonly number[]): Maps {
  const values = new Float32Array(given.length);
  const places = height * width;
  given.forEach((value, at) => (values[(at % labels) * places + Math.floor(at / labels)] = value));
  return { values, height, width };
}
