// Errors as the sentences that people read.

import { BadPhoto, Damaged, Lost, NoBundle, NoSimd } from "./errors";
import { text } from "./text";

export function reasonOf(error: unknown): string {
  if (error instanceof BadPhoto) {
    if (error.why === "too_many_bytes") return text.errorPhotoBytes;
    return error.why === "too_many_pixels" ? text.errorPhotoPixels : text.errorPhoto;
  }
  if (error instanceof NoBundle) return text.noBundle;
  if (error instanceof NoSimd) return text.errorSimd;
  if (error instanceof Lost) return text.errorLost(error.why);
  if (error instanceof Damaged) return text.errorBundle(error.why);
  return text.errorOther(error instanceof Error ? error.message : String(error));
}

/** Why a camera does not start. */
export function cameraReason({ name, message }: Error): string {
  const known: Record<string, string> = {
    NotAllowedError: text.errorDenied,
    NotFoundError: text.errorAbsent,
    OverconstrainedError: text.errorAbsent,
    NotReadableError: text.errorBusy,
    NoPicture: text.errorPlay,
  };
  return known[name] ?? text.errorOther(message || name);
}
