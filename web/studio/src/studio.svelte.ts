// The state that every screen shows, kept up to date by the server's events.
import { ask, Refused, type Problem, type State } from "./api.ts";

export const SCREENS = ["collect", "label", "train", "judge", "try", "deliver", "explain"] as const;
export type Screen = (typeof SCREENS)[number];

interface Page {
  state: State | null;
  screen: Screen;
  problem: Problem | null;
  announced: string;
  isGone: boolean;
}

export const page: Page = $state({ state: null, screen: screenOf(location.hash), problem: null, announced: "", isGone: false });

function screenOf(hash: string): Screen {
  const name = hash.replace(/^#/, "") as Screen;
  return SCREENS.includes(name) ? name : "collect";
}

/** Run something that asks the server, and show what it refuses; if nobody asked for it, the end of an earlier problem is not its to say. */
export async function attempt<T>(work: () => Promise<T>, isBackground = false): Promise<T | undefined> {
  try {
    const answer = await work();
    if (!isBackground) page.problem = null;
    return answer;
  } catch (error) {
    page.problem =
      error instanceof Refused ? error.problem : { what: "The page has a fault.", fix: `Reload it. (${String(error)})` };
    return undefined;
  }
}

/** Say something to the eye and to a screen reader. */
export function say(text: string): void {
  page.announced = text;
}

let isAsking = false;
let isStale = false;

export async function refresh(): Promise<void> {
  isStale = true;
  if (isAsking) return;
  isAsking = true;
  while (isStale) {
    isStale = false;
    try {
      page.state = await ask<State>("GET", "/api/state");
      page.isGone = false;
    } catch (error) {
      page.isGone = true;
      if (error instanceof Refused) page.problem = error.problem;
    }
  }
  isAsking = false;
}

export function listen(): void {
  const events = new EventSource("/api/events");
  events.onmessage = () => {
    if (page.isGone) page.problem = null;
    void refresh();
  };
  events.onerror = () => {
    page.isGone = true;
  };
  addEventListener("hashchange", () => (page.screen = screenOf(location.hash)));
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) void refresh(); // a tab that slept may have missed events
  });
}
