import type { Engine, Failure, Job, Model, Picture, Settings, Traits } from "../contract";
import { ObjectUrls } from "../shared/binary";

/** The state of one view, beside the traits. */
export interface ViewState {
  /** Whether the stage follows the running job, or stays with `selected`. */
  following: boolean;
  /** The picture on the stage when it does not follow. */
  selected: string | null;
  /** The picture compared with the one on the stage. */
  compared: string | null;
  /** Requests without a job yet. */
  pending: Pending[];
  /** Jobs whose cancel this view has sent. */
  cancelled: Set<string>;
  /** The last error, until the next request. */
  error: Failure | null;
  /** The kernel that created this widget does not reply. */
  disconnected: boolean;
  /** The newest preview of each unfinished or cancelled job, as an object URL. */
  previews: ObjectUrls;
}

export interface Pending {
  request_id: string;
  prompt: string;
}

export type Scene =
  | { kind: "empty" }
  | { kind: "pending"; prompt: string }
  | { kind: "running"; job: Job }
  | { kind: "cancelled"; job: Job }
  | { kind: "failed"; message: string; hint: string }
  | { kind: "picture"; picture: Picture }
  | { kind: "compare"; picture: Picture; other: Picture };

type Snapshots = Pick<Traits, "jobs" | "pictures">;

export function newViewState(): ViewState {
  return {
    following: true,
    selected: null,
    compared: null,
    pending: [],
    cancelled: new Set(),
    error: null,
    disconnected: false,
    previews: new ObjectUrls(),
  };
}

export function isFinal(job: Job): boolean {
  return job.state !== "queued" && job.state !== "running";
}

/** Unfinished jobs in the order of execution. */
export function unfinished(jobs: Job[]): Job[] {
  return jobs.filter((job) => !isFinal(job));
}

export function isCancelling(job: Job, view: ViewState): boolean {
  return !isFinal(job) && (job.cancelling || view.cancelled.has(job.id));
}

/** The job that the primary button cancels: the first one that is not cancelling yet. */
export function currentJob(jobs: Job[], view: ViewState): Job | null {
  const open = unfinished(jobs);
  const live = open.filter((job) => !isCancelling(job, view));
  return live.find((job) => job.state === "running") ?? live[0] ?? open[0] ?? null;
}

/** What the stage shows. */
export function sceneOf({ jobs, pictures }: Snapshots, view: ViewState): Scene {
  if (!view.following) {
    const picture = pictures.find((one) => one.id === view.selected);
    if (picture !== undefined) {
      const other = pictures.find((one) => one.id === view.compared);
      return other === undefined ? { kind: "picture", picture } : { kind: "compare", picture, other };
    }
  }
  const open = unfinished(jobs);
  const job = open.find((one) => one.state === "running") ?? open[0];
  if (job !== undefined) return { kind: "running", job };
  const pending = view.pending[0];
  if (pending !== undefined) return { kind: "pending", prompt: pending.prompt };
  const last = jobs[jobs.length - 1];
  if (last?.state === "cancelled") return { kind: "cancelled", job: last };
  if (last?.state === "failed") return { kind: "failed", message: last.message, hint: last.hint };
  const newest = pictures[pictures.length - 1];
  return newest === undefined ? { kind: "empty" } : { kind: "picture", picture: newest };
}

/** The chosen entry; the first ready one when none is named. */
export function chosenModel(models: Model[], id: string, engine: Engine): Model | null {
  const local = models.find((one) => one.engine === "local" && one.state === "ready");
  const cloud = models.find((one) => one.engine === "cloud");
  const fallback = (engine === "cloud" ? cloud : local) ?? models[0] ?? null;
  return models.find((one) => one.id === id && one.engine === engine) ?? (id === "" ? fallback : null);
}

/** The settings that reproduce `picture`; `seed` null means a random one. */
export function settingsOf(picture: Picture, seed: number | null): Settings {
  const { prompt, negative_prompt, model, engine, width, height, steps, guidance_scale } = picture;
  const { scheduler, loras, strength } = picture;
  return {
    ...{ prompt, negative_prompt, model, engine, width, height, steps, guidance_scale, seed, count: 1 },
    ...{ aspect_ratio: "", style: "", scheduler, loras, strength },
  };
}

/** A seed that fits JavaScript, JSON and NumPy alike. */
export function randomSeed(): number {
  return Math.floor(Math.random() * 2 ** 32);
}
