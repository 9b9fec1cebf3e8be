/**
 * Names and shapes that are sent between kernel and page, for both entries of the bundle.
 * `swiftai_nb/notebook/wire.py` is the other half; `tests/notebook/test_wire.py` compares them.
 */

/** Traits of `ImagineWidget` that both sides write: the form. */
export const SETTINGS = [
  "prompt",
  "negative_prompt",
  "model",
  "engine",
  "width",
  "height",
  "steps",
  "guidance_scale",
  "seed",
  "count",
  "aspect_ratio",
  "scheduler",
  "style",
  "loras",
  "strength",
  "outpaint",
  "hires",
  "hires_strength",
  "hires_steps",
  "upscale",
  "upscaler",
] as const;

/** Traits of `ImagineWidget` that only the kernel writes. */
export const SNAPSHOTS = [
  "models",
  "controlnets",
  "jobs",
  "pictures",
  "picture_count",
  "inputs",
  "choices",
  "static_output_tail",
] as const;

/** Messages from the page to `ImagineWidget` (`kind`). */
export const REQUESTS = [
  "init",
  "generate",
  "plan",
  "cancel",
  "retry",
  "upscale",
  "picture",
  "load_more",
  "save",
  "favorite",
  "delete_picture",
  "set_input",
  "remove_input",
  "set_control",
  "reuse",
  "save_preset",
  "delete_preset",
  "download",
  "cancel_download",
  "delete_model",
] as const;

/** Messages from `ImagineWidget` to the page (`kind`). */
export const REPORTS = ["ready", "preview", "picture", "saved", "upscaled", "plan", "error"] as const;

/** What a picture can be followed by; see `core/control.py`. */
export const CONTROL_KINDS = ["canny", "lineart", "scribble", "tile", "depth", "pose"] as const;

/** Traits of a running cell's widget; only the kernel writes them. */
export const CELL_TRAITS = ["job_id", "prompt", "width", "height", "blocking", "status"] as const;

/** Messages from the page to a running cell's widget (`kind`). */
export const CELL_REQUESTS = ["init", "cancel"] as const;

/** Messages from a running cell's widget to the page (`kind`). */
export const CELL_REPORTS = ["ready", "preview"] as const;

export type Engine = "local" | "cloud" | "openai";
export type JobState = "queued" | "running" | "done" | "failed" | "cancelled";
export type ModelState =
  | "ready"
  | "download"
  | "downloading"
  | "too_large"
  | "unavailable"
  | "cloud"
  | "cloud_missing";

export interface Lora {
  source: string;
  scale: number;
}

export interface Settings {
  prompt: string;
  negative_prompt: string;
  model: string;
  engine: Engine;
  width: number | null;
  height: number | null;
  steps: number | null;
  guidance_scale: number | null;
  seed: number | null;
  count: number;
  /** "3:4"; it replaces width and height. Empty: those, or the model's own. */
  aspect_ratio: string;
  /** Empty: the model's own. */
  scheduler: string;
  style: string;
  loras: Lora[];
  /** How much the start picture may change, 0 to 1. */
  strength: number | null;
  /** Pixels that continue the start picture: "left=128,top=64"; empty for none. */
  outpaint: string;
  /** How many times larger it is drawn a second time. */
  hires: number | null;
  hires_strength: number | null;
  hires_steps: number | null;
  /** How many times the finished picture is enlarged. */
  upscale: number | null;
  /** Of both; empty: an installed one, else Lanczos' filter. */
  upscaler: string;
}

/** Progress of running work, whether a job of the widget or the work of a cell. */
export interface Progress {
  stage: string;
  detail: string;
  /** Of the current image; `steps` is 0 when unknown. */
  step: number;
  steps: number;
  /** The current image, from 0. */
  image_index: number;
  count: number;
  /** Of the whole work, 0 to 1. */
  fraction: number;
  elapsed_s: number;
  /** Until the end of the whole work; null when unknown. */
  remaining_s: number | null;
  cancelling: boolean;
}

export interface Job extends Progress {
  id: string;
  request_id: string;
  prompt: string;
  model: string;
  state: JobState;
  place: number;
  message: string;
  hint: string;
  width: number;
  height: number;
  /** Its finished pictures, in their order. */
  picture_ids: string[];
}

export type InputRole = "image" | "mask" | "reference" | "control";

/** How a picture steers. */
export interface Control {
  /** One of `CONTROL_KINDS`; empty: the picture is used as it is, by `model`. */
  kind: string;
  /** The ControlNet, a name, folder or file; empty: the catalog's. */
  model: string;
  scale: number;
  /** Shares of the steps in which it acts. */
  start: number;
  end: number;
  is_guess: boolean;
  /** The picture that is made of it; empty where it is used as it is. */
  preview: string;
}

/** A picture in: to start from, its mask, one that the prompt refers to, or one that steers. */
export interface InputPicture {
  id: string;
  role: InputRole;
  width: number;
  height: number;
  /** Its id in the history, or empty. */
  origin: string;
  control: Control | null;
}

/** What the lists of the form offer. */
export interface Choices {
  /** By the kind of model. */
  samplers: Record<string, string[]>;
  styles: string[];
  loras: string[];
  upscalers: string[];
  presets: Record<string, Partial<Settings>>;
}

export interface Picture {
  id: string;
  prompt: string;
  negative_prompt: string;
  model: string;
  engine: Engine;
  width: number;
  height: number;
  steps: number | null;
  guidance_scale: number | null;
  seed: number | null;
  scheduler: string;
  strength: number | null;
  loras: Lora[];
  /** Pixels before enlarging; null where they follow from its start picture. */
  drawn_width: number | null;
  drawn_height: number | null;
  outpaint: string;
  hires: number | null;
  hires_strength: number | null;
  hires_steps: number | null;
  upscale: number | null;
  upscaler: string;
  /** How it was steered, as text. */
  controls: string[];
  elapsed_s: number | null;
  notes: string[];
  cell: string;
  /** The picture that it was made from, or empty. */
  parent: string;
  favorite: boolean;
}

export interface Model {
  id: string;
  engine: Engine;
  name: string;
  description: string;
  size_bytes: number;
  /** Of the smallest machine that runs it; 0 when it runs elsewhere. */
  memory_bytes: number;
  license: string;
  state: ModelState;
  state_text: string;
  hint: string;
  width: number;
  height: number;
  steps: number;
  guidance_scale: number;
  display_scale: number;
  uses_negative_prompt: boolean;
  takes_image: boolean;
  max_references: number;
  /** Whether ControlNets can steer it. */
  takes_controls: boolean;
  /** Its samplers are those of this kind in `Choices`; empty without any. */
  sampler_kind: string;
  can_delete: boolean;
  free_disk_bytes: number;
  done_bytes: number;
  total_bytes: number;
  bytes_per_s: number;
  remaining_s: number | null;
  elapsed_s: number;
  /** Prompts that it is good at; empty: any. */
  examples: string[];
}

/** What can be downloaded, and what that needs. */
export type Download = Pick<
  Model,
  | "id"
  | "name"
  | "size_bytes"
  | "license"
  | "state"
  | "state_text"
  | "hint"
  | "free_disk_bytes"
  | "done_bytes"
  | "total_bytes"
  | "bytes_per_s"
  | "remaining_s"
  | "elapsed_s"
>;

/** A ControlNet of the catalog for the chosen model. */
export interface ControlNet extends Download {
  /** What it follows. */
  kinds: string[];
}

export interface Traits extends Settings {
  models: Model[];
  controlnets: ControlNet[];
  jobs: Job[];
  pictures: Picture[];
  /** How many the history holds; `pictures` are the newest of them. */
  picture_count: number;
  inputs: InputPicture[];
  choices: Choices;
  /** The end of the base64 text of the static output under the widget; empty without one. */
  static_output_tail: string;
}

export interface CellTraits {
  job_id: string;
  prompt: string;
  /** CSS pixels of the stage. */
  width: number;
  height: number;
  /** Whether the cell waits for the work, so that the page may interrupt the kernel. */
  blocking: boolean;
  /** Empty until the first report. */
  status: Progress | Record<string, never>;
}

/** A JPEG; `data` is base64, where the host cannot carry binary buffers. */
export interface Preview {
  kind: "preview";
  job_id: string;
  step: number;
  media_type: string;
  data?: string;
}

export type Request =
  | { kind: "init" | "load_more" }
  /**
   * With `picture_id` it starts from that picture instead of the form's pictures in ("": from none). It is
   * steered as the picture `of` was, and has its references and mask unless it starts from that one.
   */
  | {
      kind: "generate";
      request_id: string;
      settings: Settings;
      picture_id?: string;
      of?: string;
      confirmed: boolean;
    }
  | { kind: "plan"; request_id: string; settings: Settings }
  | { kind: "cancel"; job_id: string; request_id: string }
  | { kind: "retry"; job_id: string }
  | { kind: "picture"; picture_id: string; size: "full" | "thumbnail" }
  | { kind: "save" | "delete_picture" | "upscale"; picture_id: string }
  | { kind: "favorite"; picture_id: string; favorite: boolean }
  /** From the history by `picture_id`, else from the message's buffer, or from base64 in `data`. */
  | { kind: "set_input"; role: InputRole; picture_id?: string; data?: string }
  | { kind: "remove_input"; input_id: string }
  /** How a control picture steers: what is left out stays. */
  | ({ kind: "set_control"; input_id: string; source?: string } & Partial<
      Pick<Control, "scale" | "start" | "end" | "is_guess">
    >)
  /** Takes the pictures in from a picture: its controls, and its others where the form has none. */
  | { kind: "reuse"; picture_id: string }
  | { kind: "save_preset"; name: string; settings: Settings }
  | { kind: "delete_preset"; name: string }
  | { kind: "download" | "cancel_download" | "delete_model"; model: string };

/** An error; `field` is the setting that it is about, `fixes` are values that would do. */
export interface Failure {
  message: string;
  hint: string;
  field: string;
  fixes: number[];
  /** Of a download or a deletion. */
  model: string;
}

/** What the form would take; times are of all its pictures. */
export interface Plan {
  estimated_s: number | null;
  device: string;
  memory: string;
  width: number;
  height: number;
  steps: number | null;
  notes: string[];
  /** Whether it takes so long that the page asks first; then `generate` is answered by this, too. */
  asks: boolean;
}

export type Report =
  | { kind: "ready" }
  | Preview
  | { kind: "picture"; picture_id: string; size: "full" | "thumbnail"; media_type: string; data?: string }
  | { kind: "saved"; picture_id: string; path: string }
  /** A picture that was enlarged without a job, by the filter that `note` names. */
  | { kind: "upscaled"; picture_id: string; note: string }
  | ({ kind: "plan"; request_id: string } & (Plan | Failure))
  | ({ kind: "error"; request_id: string } & Failure);

export type CellRequest = { kind: "init" | "cancel"; job_id: string };
export type CellReport = { kind: "ready" } | Preview;

/** What every host gives to `render`: anywidget's model. */
export interface AnyModel<Traits, Writable, Sent> {
  get<K extends keyof Traits>(name: K): Traits[K];
  set<K extends keyof Writable>(name: K, value: Writable[K]): void;
  save_changes(): void;
  // biome-ignore lint/suspicious/noExplicitAny: hosts pass what they like to callbacks
  on(event: string, callback: (...values: any[]) => void): void;
  // biome-ignore lint/suspicious/noExplicitAny: as above
  off(event: string, callback: (...values: any[]) => void): void;
  send(content: Sent, callbacks?: unknown, buffers?: ArrayBuffer[]): void;
  /** The host's own; its members differ. */
  widget_manager?: unknown;
}

export type Host = AnyModel<Traits, Settings, Request>;
export type CellHost = AnyModel<CellTraits, Record<never, never>, CellRequest>;
