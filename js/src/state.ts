import type { Engine, Job, Model, Picture, Settings, Traits } from "./contract";

/** What one view of the widget knows beyond the traits. */
export interface ViewState {
  /** Whether the stage follows the running job, or stays with `selected`. */
  following: boolean;
  /** The picture on the stage when it does not follow. */
  selected: string | null;
  /** The picture compared with the one on the stage. */
  compared: string | null;
  /** Requests sent that the kernel has not answered with a job yet. */
  pending: Pending[];
  /** Jobs whose cancel was sent from here. */
  cancelled: Set<string>;
  /** The last refusal, until the next request. */
  refusal: { message: string; hint: string } | null;
  /** The kernel that made this widget is gone. */
  gone: boolean;
  /** The newest preview of each unfinished or cancelled job, as an object URL. */
  previews: Map<string, string>;
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
    refusal: null,
    gone: false,
    previews: new Map(),
  };
}

export function isFinal(job: Job): boolean {
  return job.state !== "queued" && job.state !== "running";
}

/** Unfinished jobs in the order they will be worked off. */
export function unfinished(jobs: Job[]): Job[] {
  return jobs.filter((job) => !isFinal(job));
}

export function isCancelling(job: Job, view: ViewState): boolean {
  return !isFinal(job) && (job.cancelling || view.cancelled.has(job.id));
}

/** The job that the primary button's Cancel means: the first one not yet told to stop. */
export function currentJob(jobs: Job[], view: ViewState): Job | null {
  const open = unfinished(jobs);
  const live = open.filter((job) => !isCancelling(job, view));
  return live.find((job) => job.state === "running") ?? live[0] ?? open[0] ?? null;
}

/** What the stage shows now. */
export function sceneOf({ jobs, pictures }: Snapshots, view: ViewState): Scene {
  if (view.refusal !== null) return { kind: "failed", ...view.refusal };
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
  const waiting = view.pending[0];
  if (waiting !== undefined) return { kind: "pending", prompt: waiting.prompt };
  const last = jobs[jobs.length - 1];
  if (last?.state === "cancelled") return { kind: "cancelled", job: last };
  if (last?.state === "failed") return { kind: "failed", message: last.message, hint: last.hint };
  const newest = pictures[pictures.length - 1];
  return newest === undefined ? { kind: "empty" } : { kind: "picture", picture: newest };
}

/** The entry that the settings choose; the first ready one when they name none. */
export function chosenModel(models: Model[], id: string, engine: Engine): Model | null {
  const local = models.find((one) => one.engine === "local" && one.state === "ready");
  const cloud = models.find((one) => one.engine === "cloud");
  const fallback = (engine === "cloud" ? cloud : local) ?? models[0] ?? null;
  return models.find((one) => one.id === id && one.engine === engine) ?? (id === "" ? fallback : null);
}

/** The settings that ask for `picture` again; `seed` null draws a new one. */
export function settingsOf(picture: Picture, seed: number | null): Settings {
  const { prompt, negative_prompt, model, engine, width, height, steps, guidance_scale } = picture;
  return {
    prompt,
    negative_prompt,
    model,
    engine,
    width,
    height,
    steps,
    guidance_scale,
    seed,
    count: 1,
  };
}

/** A seed that fits JavaScript, JSON and NumPy alike. */
export function randomSeed(): number {
  return Math.floor(Math.random() * 2 ** 32);
}
