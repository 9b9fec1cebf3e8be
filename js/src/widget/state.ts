import type {
  Control,
  Engine,
  Failure,
  InputPicture,
  Job,
  Model,
  Picture,
  Plan,
  Settings,
  Traits,
} from "../contract";
import { ObjectUrls } from "../shared/binary";

/** The state of one view, beside the traits. */
export interface ViewState {
  /** Whether the stage follows the running job, or stays with `selected`. */
  following: boolean;
  /** The picture on the stage when it does not follow. */
  selected: string | null;
  /** The picture compared with the one on the stage. */
  compared: string | null;
  /** Whether the stage shows the start picture, to paint its mask. */
  showsStart: boolean;
  /** The picture in the large view. */
  large: string | null;
  /** The picture whose deletion was asked for once. */
  deleting: string | null;
  /** Requests without a job yet. */
  pending: Pending[];
  /** Jobs whose cancel this view has sent. */
  cancelled: Set<string>;
  /** The last error, until the next request. */
  error: Failure | null;
  /** What the form would take, or why it would be refused; null until the kernel has said. */
  plan: Plan | Failure | null;
  /** The request that takes so long that the page asks first. */
  asking: Asked | null;
  /** Settings that were copied from a picture: they go with its model. */
  copied: Set<keyof Settings>;
  /** Changes of control pictures, by their id, that the kernel has not confirmed yet. */
  unconfirmed: Map<string, Partial<Control>>;
  /** The kernel that created this widget does not reply. */
  disconnected: boolean;
  /** The newest preview of each unfinished or cancelled job, as an object URL. */
  previews: ObjectUrls;
}

/** What `Actions.imagine` was called with. */
export interface Asked {
  settings: Settings;
  from: string | undefined;
  of: string | undefined;
}

export interface Pending extends Asked {
  request_id: string;
  /** The settings that were changed since: what is said of them is outdated. */
  changed: Set<string>;
}

export type Scene =
  | { kind: "empty" }
  | { kind: "start"; input: InputPicture; mask: InputPicture | null }
  | { kind: "pending"; prompt: string }
  | { kind: "running"; job: Job }
  | { kind: "cancelled"; job: Job }
  | { kind: "failed"; message: string; hint: string; job: Job }
  | { kind: "tiles"; job: Job }
  | { kind: "picture"; picture: Picture }
  | { kind: "compare"; picture: Picture; other: Picture };

type Snapshots = Pick<Traits, "jobs" | "pictures" | "inputs">;

export function newViewState(): ViewState {
  return {
    following: true,
    selected: null,
    compared: null,
    showsStart: false,
    large: null,
    deleting: null,
    pending: [],
    cancelled: new Set(),
    error: null,
    plan: null,
    asking: null,
    copied: new Set(),
    unconfirmed: new Map(),
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

/** Whether something is being made, or was asked for. */
export function isBusy(jobs: Job[], view: ViewState): boolean {
  return unfinished(jobs).length + view.pending.length > 0;
}

/** The job that Cancel is for: the first one that is not cancelling yet. */
export function currentJob(jobs: Job[], view: ViewState): Job | null {
  const open = unfinished(jobs);
  const live = open.filter((job) => !isCancelling(job, view));
  return live.find((job) => job.state === "running") ?? live[0] ?? open[0] ?? null;
}

export function inputOf(inputs: InputPicture[], role: InputPicture["role"]): InputPicture | null {
  return inputs.find((one) => one.role === role) ?? null;
}

/** What the stage shows. */
export function sceneOf({ jobs, pictures, inputs }: Snapshots, view: ViewState): Scene {
  const input = view.showsStart ? inputOf(inputs, "image") : null;
  if (input !== null) return { kind: "start", input, mask: inputOf(inputs, "mask") };
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
  if (pending !== undefined) return { kind: "pending", prompt: pending.settings.prompt };
  const last = jobs[jobs.length - 1];
  const made = last?.picture_ids.filter((id) => pictures.some((one) => one.id === id)).length ?? 0;
  if (last !== undefined && last.count > 1 && made > (last.state === "done" ? 1 : 0))
    return { kind: "tiles", job: last };
  if (last?.state === "cancelled") return { kind: "cancelled", job: last };
  if (last?.state === "failed") return { kind: "failed", message: last.message, hint: last.hint, job: last };
  const newest = pictures[pictures.length - 1];
  return newest === undefined ? { kind: "empty" } : { kind: "picture", picture: newest };
}

/** The picture on the stage, if there is one. */
export function pictureOf(scene: Scene): Picture | null {
  return scene.kind === "picture" || scene.kind === "compare" ? scene.picture : null;
}

/** The chosen entry; the first ready one when none is named. */
export function chosenModel(models: Model[], id: string, engine: Engine): Model | null {
  const local = models.find((one) => one.engine === "local" && one.state === "ready");
  const remote = models.find((one) => one.engine === engine);
  const fallback = (engine === "local" ? (local ?? models[0]) : remote) ?? null;
  return models.find((one) => one.id === id && one.engine === engine) ?? (id === "" ? fallback : null);
}

/**
 * The settings that reproduce `picture`; `seed` null means a random one. What is the model's own stays open,
 * so that another model brings its own.
 */
export function settingsOf(picture: Picture, seed: number | null, model: Model | null = null): Settings {
  const { prompt, negative_prompt, engine, scheduler, loras, strength, outpaint } = picture;
  const { hires, hires_strength, upscale, upscaler } = picture;
  const width = picture.drawn_width ?? picture.width;
  const height = picture.drawn_height ?? picture.height;
  // A picture that is continued has its start picture's size.
  const isOpen = outpaint !== "" || (width === model?.width && height === model?.height);
  const unless = (own: number | undefined, value: number | null) => (value === own ? null : value);
  return {
    prompt,
    negative_prompt,
    model: picture.model,
    engine,
    width: isOpen ? null : width,
    height: isOpen ? null : height,
    steps: unless(model?.steps, picture.steps),
    guidance_scale: unless(model?.guidance_scale, picture.guidance_scale),
    seed,
    count: 1,
    aspect_ratio: "",
    scheduler,
    style: "",
    loras,
    strength,
    outpaint,
    hires,
    hires_strength,
    hires_steps: unless(picture.steps ?? undefined, picture.hires_steps),
    upscale,
    upscaler,
  };
}

/** The picture's ancestors, itself, and the newest of what was made of it, oldest first. */
export function versionsOf(picture: Picture, pictures: Picture[]): Picture[] {
  const byId = new Map(pictures.map((one) => [one.id, one]));
  const chain = [picture];
  for (let at = byId.get(picture.parent); at !== undefined && !chain.includes(at); at = byId.get(at.parent))
    chain.unshift(at);
  const newestChild = (parent: Picture) =>
    [...pictures].reverse().find((one) => one.parent === parent.id && !chain.includes(one));
  for (let at = newestChild(picture); at !== undefined; at = newestChild(at)) chain.push(at);
  return chain;
}

/** Whether a setting is a text that is still being typed when the form's plan is made. */
export function isPrompt(name: string): boolean {
  return name === "prompt" || name === "negative_prompt";
}

/**
 * What is wrong with the form: what a request was refused for, else what the plan would be. Plans are made before the
 * prompts are complete, and not again for each letter: what they say of them does not count.
 */
export function failureOf(view: ViewState): Failure | null {
  if (view.error !== null) return view.error;
  return view.plan !== null && "message" in view.plan && !isPrompt(view.plan.field) ? view.plan : null;
}

/** A seed that fits JavaScript, JSON and NumPy alike. */
export function randomSeed(): number {
  return Math.floor(Math.random() * 2 ** 32);
}
