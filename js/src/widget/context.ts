import type { Host, Picture, Settings } from "../contract";
import type { PictureCache } from "./pictures";
import type { Scene, ViewState } from "./state";

/** What every part of the card uses. */
export interface Context {
  host: Host;
  view: ViewState;
  pictures: PictureCache;
  /** What the stage shows; computed once per update. */
  scene: Scene;
  /** Asks for an update of the whole card in the next frame. */
  invalidate(): void;
  /** Announces a text to screen readers. */
  announce(text: string): void;
  /** Sets one trait: at once in the page, shortly after in the kernel. */
  set<K extends keyof Settings>(name: K, value: Settings[K]): void;
  actions: Actions;
}

/** What a user can do; all are safe to call at any time. */
export interface Actions {
  imagine(settings?: Settings): void;
  cancel(jobId: string): void;
  cancelCurrent(): void;
  follow(): void;
  show(picture: Picture): void;
  compareWith(picture: Picture | null): void;
  reuse(picture: Picture): void;
  remix(picture: Picture): void;
  save(picture: Picture): void;
  copy(picture: Picture): void;
}

/** A part of the card: its element, and how to update it. */
export interface Part {
  element: HTMLElement;
  update(): void;
  dispose?(): void;
}
