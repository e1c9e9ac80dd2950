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
