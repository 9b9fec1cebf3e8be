import type { PictureCache } from "./blobs";
import type { Host, Picture, Settings } from "./contract";
import type { Scene, ViewState } from "./state";

/** What every part of the card works with. */
export interface Context {
  host: Host;
  view: ViewState;
  pictures: PictureCache;
  /** What the stage shows; computed once per update. */
  scene: Scene;
  /** Asks for an update of the whole card in the next frame. */
  invalidate(): void;
  /** Says something to screen readers. */
  announce(text: string): void;
  /** Writes one setting, at once for the page and soon for the kernel. */
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

/** A piece of the card: its element, and how it follows the state. */
export interface Part {
  element: HTMLElement;
  update(): void;
  dispose?(): void;
}
