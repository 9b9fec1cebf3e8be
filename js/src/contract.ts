/** Names that cross the wire. `tests/notebook/test_widget_contract.py` holds them against Python's. */

/** Traits that both sides write: the form. */
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
] as const;

/** Traits that only the kernel writes. */
export const SNAPSHOTS = ["models", "jobs", "pictures", "picture_count", "keepsake"] as const;

/** Messages from the page to the kernel (`kind`). */
export const REQUESTS = [
  "hello",
  "generate",
  "cancel",
  "picture",
  "older",
  "save",
  "download",
  "cancel_download",
  "delete_model",
] as const;

/** Messages from the kernel to the page (`kind`). */
export const REPORTS = ["welcome", "preview", "picture", "saved", "refused"] as const;

export type Engine = "local" | "cloud";
export type JobState = "queued" | "running" | "done" | "failed" | "cancelled";
export type ModelState =
  | "ready"
  | "download"
  | "downloading"
  | "too_large"
  | "unavailable"
  | "cloud"
  | "cloud_missing";

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
}

export interface Job {
  id: string;
  request_id: string;
  prompt: string;
  model: string;
  state: JobState;
  stage: string;
  detail: string;
  step: number;
  steps: number;
  image_index: number;
  count: number;
  place: number;
  elapsed_s: number;
  remaining_s: number | null;
  cancelling: boolean;
  message: string;
  hint: string;
  width: number;
  height: number;
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
  elapsed_s: number | null;
  notes: string[];
  cell: string;
}

export interface Model {
  id: string;
  engine: Engine;
  name: string;
  description: string;
  size_bytes: number;
  license: string;
  state: ModelState;
  state_text: string;
  how: string;
  width: number;
  height: number;
  steps: number;
  guidance_scale: number;
  display_scale: number;
  uses_negative_prompt: boolean;
  can_delete: boolean;
  free_disk_bytes: number;
  done_bytes: number;
  total_bytes: number;
  bytes_per_s: number;
  remaining_s: number | null;
  elapsed_s: number;
  examples: string[];
}

export interface Traits extends Settings {
  models: Model[];
  jobs: Job[];
  pictures: Picture[];
  /** How many the history holds; `pictures` are the newest of them. */
  picture_count: number;
  /** The end of the base64 text of the saved copy that lies under the widget; empty without one. */
  keepsake: string;
}

export type Request =
  | { kind: "hello" | "older" }
  | { kind: "generate"; request_id: string; settings: Settings }
  | { kind: "cancel"; job_id: string; request_id: string }
  | { kind: "picture"; picture_id: string; size: "full" | "thumbnail" }
  | { kind: "save"; picture_id: string }
  | { kind: "download" | "cancel_download" | "delete_model"; model: string };

/** `data` is base64, where the host cannot carry binary buffers. */
export type Report =
  | { kind: "welcome" }
  | { kind: "preview"; job_id: string; step: number; media_type: string; data?: string }
  | { kind: "picture"; picture_id: string; size: "full" | "thumbnail"; media_type: string; data?: string }
  | { kind: "saved"; picture_id: string; path: string }
  | { kind: "refused"; request_id: string; message: string; hint: string };

/** What every host gives to `render`. */
export interface Host {
  get<K extends keyof Traits>(name: K): Traits[K];
  set<K extends keyof Settings>(name: K, value: Settings[K]): void;
  save_changes(): void;
  // biome-ignore lint/suspicious/noExplicitAny: hosts pass what they like to callbacks
  on(event: string, callback: (...values: any[]) => void): void;
  // biome-ignore lint/suspicious/noExplicitAny: as above
  off(event: string, callback: (...values: any[]) => void): void;
  send(content: Request, callbacks?: unknown, buffers?: ArrayBuffer[]): void;
}
