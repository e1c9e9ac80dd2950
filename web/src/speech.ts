// What a screen reader says: the latest sentence, never so often that it cannot end one.

const BETWEEN = 3000; // ms

/** Gives a function that says a sentence at once, or when the one before has had its time; "" is silence, at once. */
export function speaker(write: (sentence: string) => void): (sentence: string) => void {
  let next = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  function begin(sentence: string): void {
    next = performance.now() + BETWEEN;
    write(sentence);
  }
  return (sentence) => {
    clearTimeout(timer);
    const wait = next - performance.now();
    if (!sentence) write("");
    else if (wait <= 0) begin(sentence);
    else timer = setTimeout(begin, wait, sentence);
  };
}
