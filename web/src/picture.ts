// Pictures: the camera's latest, in the form that costs least, and a photo that can be shown.

export const AS_RGBA = { format: "RGBA" } as const;
const SAFE = ["I420", "NV12", "RGBA", "RGBX"]; // one that ignores AS_RGBA gives more or fewer bytes, or the same

/**
 * The picture that a video shows, to be handed to the worker. A VideoFrame costs nothing until it is copied;
 * a bitmap is drawn here. Where a browser cannot copy it as RGBA, or where it is turned or cut, it is a bitmap.
 */
export async function latestPicture(video: HTMLVideoElement): Promise<VideoFrame | ImageBitmap> {
  if ("VideoFrame" in window) {
    const frame = new VideoFrame(video);
    if (isPlain(frame, video.videoWidth, video.videoHeight)) return frame;
    frame.close();
  }
  return createImageBitmap(video);
}

/** An image that is ready to be shown, so that picture and answer change together. */
export async function decoded(file: Blob): Promise<HTMLImageElement> {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  await image.decode();
  return image;
}

function isPlain(frame: VideoFrame, width: number, height: number): boolean {
  const { rotation, flip } = frame as { rotation?: number; flip?: boolean };
  const { visibleRect: seen, displayWidth, displayHeight, format } = frame;
  const isWhole = seen?.width === width && seen.height === height && displayWidth === width && displayHeight === height;
  if (!isWhole || rotation || flip || !SAFE.includes(format ?? "")) return false;
  return frame.allocationSize(AS_RGBA) === 4 * width * height;
}
