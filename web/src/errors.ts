// Errors, and their messages for people.

import { text } from "./text";

/** The file is not a valid Catflap bundle; `why` is a clause. */
export class Damaged extends Error {
  constructor(readonly why: string) {
    super(why);
    this.name = "Damaged";
  }
}

/** A photo that cannot be read; `why` is a reason code. */
export class BadPhoto extends Error {
  constructor(readonly why: string) {
    super(why);
    this.name = "BadPhoto";
  }
}

/** The camera started, but the browser does not play its video; `why` is a clause. */
export class NoPicture extends Error {
  constructor(readonly why: string) {
    super(why);
    this.name = "NoPicture";
  }
}

/** The server offers no bundle, or there is no network and none in the cache. */
export class NoBundle extends Error {
  constructor(readonly why: string) {
    super(why);
    this.name = "NoBundle";
  }
}

/** A download failed; a retry may succeed. `why` is a clause. */
export class Lost extends Error {
  constructor(readonly why: string) {
    super(why);
    this.name = "Lost";
  }
}

/** Another bundle was opened in the meantime. */
export class Overtaken extends Error {
  constructor(readonly why = "another bundle was opened meanwhile") {
    super(why);
    this.name = "Overtaken";
  }
}

/** The browser's WebAssembly has no SIMD, which the page needs. */
export class NoSimd extends Error {}

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
