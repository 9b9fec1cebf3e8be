import type { AnyModel, Job, Model, Picture, Report, Request, Settings, Traits } from "../src/contract";
import { createView } from "../src/widget/view";

type Callback = (...values: unknown[]) => void;

/** anywidget's model without a kernel: records what is sent, plays what a kernel would report. */
export class FakeModel<T extends object, W, Sent extends { kind: string }, Received>
  implements AnyModel<T, W, Sent>
{
  sent: Sent[] = [];
  saves = 0;
  broken = false;
  listeners = new Map<string, Set<Callback>>();
  widget_manager?: unknown;

  constructor(public traits: T) {}

  get<K extends keyof T>(name: K): T[K] {
    return this.traits[name];
  }
  set<K extends keyof W>(name: K, value: W[K]): void {
    Object.assign(this.traits, { [name]: value });
    this.emit(`change:${String(name)}`);
  }
  save_changes(): void {
    this.saves += 1;
  }
  on(event: string, callback: Callback): void {
    this.listeners.set(event, (this.listeners.get(event) ?? new Set()).add(callback));
  }
  off(event: string, callback: Callback): void {
    this.listeners.get(event)?.delete(callback);
  }
  send(content: Sent): void {
    if (this.broken) throw new Error("the comm is closed");
    this.sent.push(content);
  }

  emit(event: string, ...values: unknown[]): void {
    for (const callback of [...(this.listeners.get(event) ?? [])]) callback(...values);
  }
  /** As the kernel: sets traits and notifies. */
  async push(traits: Partial<T>): Promise<void> {
    Object.assign(this.traits, traits);
    for (const name of Object.keys(traits)) this.emit(`change:${name}`);
    await settled();
  }
  async report(content: Received, buffers: unknown[] = []): Promise<void> {
    this.emit("msg:custom", content, buffers);
    await settled();
  }
  sentOf<K extends Sent["kind"]>(kind: K): Extract<Sent, { kind: K }>[] {
    return this.sent.filter((one): one is Extract<Sent, { kind: K }> => one.kind === kind);
  }
  get listenerCount(): number {
    return [...this.listeners.values()].reduce((sum, set) => sum + set.size, 0);
  }
}

export class FakeHost extends FakeModel<Traits, Settings, Request, Report> {}

export const settled = async (): Promise<void> => {
  for (let turn = 0; turn < 5; turn += 1) await Promise.resolve();
};

export function model(changes: Partial<Model> = {}): Model {
  return {
    id: "emoji-mini",
    engine: "local",
    name: "Emoji mini",
    description: "Small pictures",
    size_bytes: 18_300_000,
    memory_bytes: 4e9,
    license: "mit",
    state: "ready",
    state_text: "ready",
    hint: "",
    width: 64,
    height: 64,
    steps: 16,
    guidance_scale: 2.5,
    display_scale: 4,
    uses_negative_prompt: true,
    takes_image: true,
    max_references: 0,
    takes_controls: false,
    sampler_kind: "noise",
    can_delete: false,
    free_disk_bytes: 80e9,
    done_bytes: 0,
    total_bytes: 18_300_000,
    bytes_per_s: 0,
    remaining_s: null,
    elapsed_s: 0,
    examples: ["a fox in the snow", "a sunflower"],
    ...changes,
  };
}

export function job(changes: Partial<Job> = {}): Job {
  return {
    id: "job-1",
    request_id: "",
    prompt: "a fox",
    model: "emoji-mini",
    state: "running",
    stage: "drawing",
    detail: "",
    step: 7,
    steps: 20,
    image_index: 0,
    count: 1,
    place: 0,
    elapsed_s: 3,
    remaining_s: 6,
    cancelling: false,
    message: "",
    hint: "",
    width: 64,
    height: 64,
    picture_ids: [],
    fraction: (changes.step ?? 7) / (changes.steps || 20),
    ...changes,
  };
}

export function picture(changes: Partial<Picture> = {}): Picture {
  return {
    id: "1",
    prompt: "a fox",
    negative_prompt: "",
    model: "emoji-mini",
    engine: "local",
    width: 64,
    height: 64,
    steps: 16,
    guidance_scale: 2.5,
    seed: 7,
    scheduler: "ddim",
    strength: null,
    loras: [],
    drawn_width: null,
    drawn_height: null,
    outpaint: "",
    hires: null,
    hires_strength: null,
    hires_steps: null,
    upscale: null,
    upscaler: "",
    controls: [],
    elapsed_s: 1.9,
    notes: [],
    cell: "%%imagine --seed 7\na fox",
    parent: "",
    favorite: false,
    ...changes,
  };
}

export interface Mounted {
  host: FakeHost;
  root: HTMLElement;
  dispose(): void;
  find<T extends HTMLElement = HTMLElement>(selector: string): T;
  all(selector: string): HTMLElement[];
  button(name: string): HTMLButtonElement;
  click(name: string): Promise<void>;
  type(selector: string, text: string): Promise<void>;
}

export function mount(traits: Partial<Traits> = {}, host?: FakeHost): Mounted {
  const kernel =
    host ??
    new FakeHost({
      prompt: "a fox",
      negative_prompt: "",
      model: "",
      engine: "local",
      width: null,
      height: null,
      steps: null,
      guidance_scale: null,
      seed: null,
      count: 1,
      aspect_ratio: "",
      scheduler: "",
      style: "",
      loras: [],
      strength: null,
      outpaint: "",
      hires: null,
      hires_strength: null,
      hires_steps: null,
      upscale: null,
      upscaler: "",
      controlnets: [],
      inputs: [],
      choices: {
        samplers: { noise: ["ddim", "euler"] },
        styles: ["ink", "oil"],
        loras: [],
        upscalers: ["lanczos"],
        presets: {},
      },
      models: [model()],
      jobs: [],
      pictures: [],
      picture_count: traits.pictures?.length ?? 0,
      static_output_tail: "",
      ...traits,
    });
  const root = document.createElement("div");
  document.body.append(root);
  const dispose = createView(kernel, root);
  const find = <T extends HTMLElement = HTMLElement>(selector: string): T => {
    const found = root.querySelector<T>(selector);
    if (found === null) throw new Error(`nothing matches ${selector}`);
    return found;
  };
  const all = (selector: string) => [...root.querySelectorAll<HTMLElement>(selector)];
  const button = (name: string) => {
    const visible = all("button").filter((one) => one.closest("[hidden]") === null);
    const label = (one: HTMLElement) =>
      one.getAttribute("aria-label") ?? one.querySelector("span:not(.label)")?.textContent ?? one.textContent;
    const found = visible.find((one) => label(one) === name);
    if (found === undefined) throw new Error(`no button ${name}; there are ${visible.map(label).join(", ")}`);
    return found as HTMLButtonElement;
  };
  return {
    host: kernel,
    root,
    dispose,
    find,
    all,
    button,
    async click(name) {
      button(name).click();
      await settled();
    },
    async type(selector, text) {
      const input = find<HTMLInputElement>(selector);
      input.value = text;
      input.dispatchEvent(new Event("input", { bubbles: true }));
      await settled();
    },
  };
}
