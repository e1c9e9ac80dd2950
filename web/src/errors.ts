// What went wrong, as a sentence of text.ts can tell it.

/** The file is no whole Catflap bundle; `why` is a clause. */
export class Damaged extends Error {
  constructor(readonly why: string) {
    super(why);
    this.name = "Damaged";
  }
}

/** A photo that cannot be used; `why` is a clause. */
export class BadPhoto extends Error {
  constructor(readonly why: string) {
    super(why);
    this.name = "BadPhoto";
  }
}

/** The browser has a camera but does not show its picture; `why` is a clause. */
export class NoPicture extends Error {
  constructor(readonly why: string) {
    super(why);
    this.name = "NoPicture";
  }
}

/** The server offers no bundle, or there is no network and none was kept. */
export class NoBundle extends Error {
  constructor(readonly why: string) {
    super(why);
    this.name = "NoBundle";
  }
}

/** A file of the bundle or of the page that did not come; it may come later. `why` is a clause. */
export class Lost extends Error {
  constructor(readonly why: string) {
    super(why);
    this.name = "Lost";
  }
}

/** Another bundle was opened meanwhile. */
export class Overtaken extends Error {
  constructor(readonly why = "another bundle was opened meanwhile") {
    super(why);
    this.name = "Overtaken";
  }
}

/** The browser's WebAssembly has no SIMD, without which nothing runs here. */
export class NoSimd extends Error {}
