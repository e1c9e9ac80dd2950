// The camera that is on, one at most: it is started, paused, woken, lost and stopped here.

import { openCamera, type Camera } from "./camera";

/** What the page hears of its camera. */
export interface Heard {
  /** It is asked for: what was said of the one before is past. */
  starting(): void;
  /** It shows its picture. */
  began(camera: Camera): void;
  /** It is gone or could not be started; then there is an error. */
  lost(error?: Error): void;
  /** It gives no picture for a while, or does again. */
  muted(on: boolean): void;
}

export interface Live {
  readonly camera: Camera | undefined; // the one that is on
  readonly id: string | undefined; // its own, or that of the one before it was stopped
  readonly paused: boolean;
  start(id?: string): void;
  stop(): void;
  pause(on: boolean): void;
}

export function bindCamera(video: HTMLVideoElement, heard: Heard): Live {
  const live = { camera: undefined as Camera | undefined, id: undefined as string | undefined, paused: false };
  let wish = 0; // counts starts and stops, so that a camera which comes late is let go
  let last: Promise<void> = Promise.resolve(); // some phones give one camera at a time: so one start at a time

  function start(id?: string): void {
    stop();
    heard.starting();
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
      if (mine === wish) heard.began(camera);
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
      track.addEventListener(event, () => live.camera === camera && heard.muted(track.muted));
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
    heard.lost(error);
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
