declare module "*?assembly" {
  const bytes: Uint8Array<ArrayBuffer>;
  export default bytes;
}
