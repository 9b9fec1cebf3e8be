import type { Failure, Host, InputRole, Job, Model, Picture, Settings } from "../contract";
import type { PictureCache } from "./pictures";
import type { Scene, ViewState } from "./state";

/** What every part of the card uses. */
export interface Context {
  host: Host;
  view: ViewState;
  pictures: PictureCache;
  /** What the stage shows; computed once per update. */
  scene: Scene;
  /** The chosen model; null when it is not in the list. */
  readonly model: Model | null;
  /** Asks for an update of the whole card in the next frame. */
  invalidate(): void;
  /** Announces a text to screen readers. */
  announce(text: string): void;
  /** Shows a text for some seconds; "" ends the one that is shown. */
  toast(text: string): void;
  /** Sets one trait: at once in the page, shortly after in the kernel. */
  set<K extends keyof Settings>(name: K, value: Settings[K]): void;
  actions: Actions;
  /** The id of the last request for a plan; the answers to earlier ones are outdated. */
  planId: string;
  /** Sends what is painted but not sent; null where there is nothing to wait for. */
  settle(): Promise<void> | null;
}

/** What a user can do; all are safe to call at any time. */
export interface Actions {
  /**
   * Makes pictures as the form says, or with these settings from that picture of the history ("": none),
   * steered as the picture `of` was.
   */
  imagine(settings?: Settings, from?: string, of?: string): void;
  /** Makes what the page has asked about. */
  confirm(): void;
  cancel(jobId: string): void;
  cancelCurrent(): void;
  /** Makes the pictures that a cancelled or failed job has not made. */
  retry(job: Job): void;
  /** Makes a picture twice as large. */
  upscale(picture: Picture): void;
  follow(): void;
  show(picture: Picture): void;
  /** Opens the large view, or closes it. */
  showLarge(picture: Picture | null): void;
  showStart(): void;
  /** Compares with that picture; true chooses one, null ends it. */
  compareWith(picture: Picture | true | null): void;
  reuse(picture: Picture): void;
  remix(picture: Picture): void;
  vary(picture: Picture): void;
  edit(picture: Picture): void;
  /** Lets new pictures follow this one. */
  followPicture(picture: Picture): void;
  save(picture: Picture): void;
  copy(picture: Picture): void;
  favorite(picture: Picture): void;
  /** Deletes at the second call. */
  remove(picture: Picture): void;
  chooseModel(model: Model): void;
  /** Takes a file or a painted mask as a picture in. */
  addInput(role: InputRole, file: Blob): Promise<void>;
  removeInput(id: string): void;
  applyPreset(name: string): void;
  savePreset(name: string): void;
  deletePreset(name: string): void;
  /** Asks the kernel what the form would take. */
  plan(requestId: string): void;
  fail(failure: Partial<Failure>): void;
}

/** A part of the card: its element, and how to update it. */
export interface Part {
  element: HTMLElement;
  update(): void;
  dispose?(): void;
}
