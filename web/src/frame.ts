// The Frame: how upright sRGB pixels become the pixels that the model sees.
// Specified in docs/concepts/frame.md; step 4 is here, step 5 in resize.ts.

export interface Frame {
  readonly width: number;
  readonly height: number;
  readonly fit: "squash" | "crop";
  readonly filter: "bilinear" | "bicubic";
  readonly decode: "scaled" | "full";
  readonly max_pixels: number;
  readonly max_bytes: number;
}

/** A part of a photo: where it starts and how large it is, in px. */
export interface Part {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

/** The part of an upright photo that the Frame keeps. */
export function keptPart(frame: Frame, width: number, height: number): Part {
  if (frame.fit === "squash") return { left: 0, top: 0, width, height };
  const across = Math.min(width, Math.max(1, Math.floor((height * frame.width) / frame.height)));
  const down = Math.min(height, Math.max(1, Math.floor((width * frame.height) / frame.width)));
  const left = Math.floor((width - across) / 2);
  const top = Math.floor((height - down) / 2);
  return { left, top, width: across, height: down };
}
