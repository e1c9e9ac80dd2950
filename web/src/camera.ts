// The camera: start, pause, switch and lose it, and grab its latest picture.

import { NoPicture } from "./errors";
import { AS_RGBA } from "./frame";

/** Callbacks for what happens to the camera. */
export interface CameraEvents {
  /** It was requested; messages about the previous one are out of date. */
  starting(): void;
  /** Its video plays. */
  began(camera: Camera): void;
  /** It stopped, or could not be started; in that case with an error. */
  lost(error?: Error): void;
  /** Its track is muted or unmuted. */
  muted(on: boolean): void;
}

export interface Live {
  readonly camera: Camera | undefined; // the running one
  readonly id: string | undefined; // of the running camera, or of the last one
  readonly paused: boolean;
  start(id?: string): void;
  stop(): void;
  pause(on: boolean): void;
}

export function bindCamera(video: HTMLVideoElement, events: CameraEvents): Live {
  const live = { camera: undefined as Camera | undefined, id: undefined as string | undefined, paused: false };
  let wish = 0; // counts starts and stops, so that a camera which comes late is let go
  let last: Promise<void> = Promise.resolve(); // some phones give one camera at a time: so one start at a time

  function start(id?: string): void {
    stop();
    events.starting();
    const mine = wish;
    last = last.then(() => (mine === wish ? begin(mine, id) : undefined));
  }

  async function begin(mine: number, id?: string): Promise<void> {
    try {
      const camera = await openCamera(id);
      if (mine !== wish) return camera.stop();
      live.camera = camera;
      live.id = camera.id;
      listen(camera);
      await camera.show(video);
      if (mine === wish) events.began(camera);
    } catch (error) {
      if (mine === wish) lose(error as Error);
    }
  }

  function listen(camera: Camera): void {
    const { track } = camera;
    track.addEventListener("ended", () => {
      if (live.camera === camera && !document.hidden) lose();
    });
    for (const event of ["mute", "unmute"]) {
      track.addEventListener(event, () => live.camera === camera && events.muted(track.muted));
    }
  }

  function stop(): void {
    wish++;
    live.camera?.stop();
    live.camera = undefined;
    live.paused = false;
    video.srcObject = null;
  }

  function lose(error?: Error): void {
    stop();
    live.id = undefined; // it may have been pulled out
    events.lost(error);
  }

  function pause(on: boolean): void {
    live.paused = on;
    if (on) video.pause();
    else if (live.camera) video.play().catch(() => undefined); // a pause or another camera came in between
  }

  /** A phone takes the camera away, or pauses the video, while the page is not seen. */
  function wake(): void {
    if (document.hidden || !live.camera) return;
    if (live.camera.track.readyState === "live") pause(live.paused);
    else if (live.paused) lose();
    else start(live.camera.id);
  }

  document.addEventListener("visibilitychange", wake);
  return Object.assign(live, { start, stop, pause });
}

export interface Camera {
  readonly track: MediaStreamTrack;
  readonly id: string;
  /** Whether there is a light that can be switched. */
  readonly hasLight: boolean;
  setLight(on: boolean): Promise<void>;
  /** Show its picture; NoPicture where the browser does not. */
  show(video: HTMLVideoElement): Promise<void>;
  stop(): void;
}

const WANTED = { width: { ideal: 1280 }, height: { ideal: 720 } };

/** Open a camera, the one at the back unless one is named. */
export async function openCamera(id?: string): Promise<Camera> {
  const which = id ? { deviceId: { exact: id } } : { facingMode: { ideal: "environment" } };
  const asked = navigator.mediaDevices.getUserMedia({ audio: false, video: { ...WANTED, ...which } });
  const stream = await asked.catch((error: Error) => {
    if (id && ["NotFoundError", "OverconstrainedError"].includes(error.name)) return undefined; // it was pulled out
    throw error;
  });
  if (!stream) return openCamera();
  const [track] = stream.getVideoTracks();
  const capabilities = (track.getCapabilities?.() ?? {}) as { torch?: boolean };
  return {
    track,
    id: track.getSettings().deviceId ?? "",
    hasLight: capabilities.torch === true,
    setLight: (on) => track.applyConstraints({ advanced: [{ torch: on } as MediaTrackConstraintSet] }),
    async show(video) {
      video.srcObject = stream;
      await video.play().catch(({ message }: Error) => {
        throw new NoPicture(message); // not a NotAllowedError: the camera was allowed
      });
    },
    stop: () => track.stop(),
  };
}

/** The cameras of this device; their names are empty until one was allowed. */
export async function listCameras(): Promise<MediaDeviceInfo[]> {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  return devices.filter((device) => device.kind === "videoinput");
}

/** Whether the camera may be started without asking. */
export async function isAllowed(): Promise<boolean> {
  const status = await navigator.permissions?.query({ name: "camera" as PermissionName }).catch(() => undefined);
  return status?.state === "granted";
}

/** Wait until the video shows a picture that it did not show before. */
export function nextPicture(video: HTMLVideoElement): Promise<void> {
  return new Promise((resolve) => {
    if ("requestVideoFrameCallback" in video) video.requestVideoFrameCallback(() => resolve());
    else requestAnimationFrame(() => resolve());
  });
}

// Formats whose size in bytes as RGBA is known: a browser that ignores AS_RGBA gives more or fewer bytes.
const SAFE = ["I420", "NV12", "RGBA", "RGBX"];

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

function isPlain(frame: VideoFrame, width: number, height: number): boolean {
  const { rotation, flip } = frame as { rotation?: number; flip?: boolean };
  const { visibleRect: seen, displayWidth, displayHeight, format } = frame;
  const isWhole = seen?.width === width && seen.height === height && displayWidth === width && displayHeight === height;
  if (!isWhole || rotation || flip || !SAFE.includes(format ?? "")) return false;
  return frame.allocationSize(AS_RGBA) === 4 * width * height;
}
