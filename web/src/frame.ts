// The Frame of bundle.json, and which part of a photo it keeps (docs/concepts/frame.md, step 4); the rest is in photo.ts.

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

/** How camera pictures are copied out of a VideoFrame. */
export const AS_RGBA = { format: "RGBA" } as const;
