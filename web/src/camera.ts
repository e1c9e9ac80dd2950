// A camera: which one, its light, and its latest picture.

import { NoPicture } from "./errors";

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
