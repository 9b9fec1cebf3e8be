import type { Context, Part } from "./context";
import type { Job, Picture } from "./contract";
import { h, type IconName, icon, setAttribute, setHidden, setText } from "./dom";
import { clock, percent, remaining, seconds, sentence } from "./format";
import { isCancelling } from "./state";

const TICK_MS = 500;

/** Under the stage: progress while a job runs, else the recipe and what can be done with it. */
export function createCaption(ctx: Context): Part {
  const fill = h("div", { class: "fill" });
  const bar = h("div", { class: "bar", role: "progressbar", "aria-label": "Progress of the picture" }, fill);
  const first = h("p", { class: "first" });
  const second = h("p", { class: "second" });
  const actions = createPictureActions(ctx);
  const element = h("div", { class: "caption" }, bar, first, second, actions.element);
  const clockOf = createClock();
  const timer = setInterval(() => tick(), TICK_MS);

  const tick = () => {
    if (ctx.scene.kind === "running") setText(second, times(ctx.scene.job, clockOf(ctx.scene.job)));
  };

  const progress = (job: Job | null) => {
    const known = job !== null && job.step > 0;
    setAttribute(bar, "data-state", job === null ? "off" : known ? "on" : "waiting");
    setAttribute(bar, "aria-hidden", job === null ? "true" : null);
    setAttribute(bar, "aria-valuemin", known ? "0" : null);
    setAttribute(bar, "aria-valuemax", known ? String(job.steps) : null);
    setAttribute(bar, "aria-valuenow", known ? String(job.step) : null);
    if (job !== null) setAttribute(bar, "aria-valuetext", headline(job, ctx));
    fill.style.width = known ? `${percent(job.step, job.steps)}%` : "";
  };

  const update = () => {
    const { scene } = ctx;
    const picture = scene.kind === "picture" || scene.kind === "compare" ? scene.picture : null;
    actions.show(picture);
    setAttribute(element, "data-scene", scene.kind);
    progress(scene.kind === "running" ? scene.job : null);
    switch (scene.kind) {
      case "running":
        setText(first, headline(scene.job, ctx));
        tick();
        break;
      case "pending":
        setText(first, "Sending…");
        setText(second, scene.prompt);
        break;
      case "cancelled":
        setText(first, scene.job.prompt);
        setText(second, cancelledWords(scene.job));
        break;
      case "picture":
        setText(first, scene.picture.prompt);
        setText(second, recipeWords(scene.picture, ctx));
        break;
      case "compare":
        setText(first, "Comparing: drag the handle, or choose another picture below");
        setText(second, scene.picture.prompt);
        break;
      case "empty":
        setText(first, "");
        setText(second, "The pictures of this session will gather here below.");
        break;
      default:
        setText(first, "");
        setText(second, "");
    }
    first.title = picture === null ? "" : picture.prompt;
  };
  return { element, update, dispose: () => clearInterval(timer) };
}

/** "Drawing · step 7 of 20". */
export function headline(job: Job, ctx: Pick<Context, "view">): string {
  if (isCancelling(job, ctx.view)) return "Cancelling after this step…";
  if (job.state === "queued") return job.place > 0 ? `Waiting · place ${job.place} in the queue` : "Waiting…";
  const which = job.count > 1 ? `Picture ${job.image_index + 1} of ${job.count} · ` : "";
  const step = job.step > 0 ? ` · step ${job.step} of ${job.steps}` : "";
  const detail = job.detail === "" || job.step > 0 ? "" : ` · ${job.detail}`;
  return `${which}${sentence(job.stage)}${step}${detail}`;
}

function times(job: Job, elapsed_s: number): string {
  if (job.state === "queued") return job.prompt;
  const passed = elapsed_s - job.elapsed_s;
  const left = job.remaining_s === null || job.step === 0 ? null : Math.max(0, job.remaining_s - passed);
  return [clock(elapsed_s), ...(left === null ? [] : [remaining(left)])].join(" · ");
}

function cancelledWords(job: Job): string {
  const at = job.steps > 0 ? `Cancelled at ${job.step} of ${job.steps}` : "Cancelled";
  return job.elapsed_s > 0 ? `${at} · after ${seconds(job.elapsed_s)}` : at;
}

/** "Emoji mini · 64 × 64 · 16 steps · guidance 2.5 · seed 7 · 1.9 s". */
export function recipeWords(picture: Picture, ctx: Pick<Context, "host">): string {
  const model = ctx.host.get("models").find((one) => one.id === picture.model);
  return [
    model?.name ?? picture.model,
    `${picture.width} × ${picture.height}`,
    picture.steps === null ? "" : picture.steps === 1 ? "1 step" : `${picture.steps} steps`,
    picture.guidance_scale === null || picture.guidance_scale === 0
      ? ""
      : `guidance ${picture.guidance_scale}`,
    picture.seed === null ? "" : `seed ${picture.seed}`,
    picture.elapsed_s === null ? "" : seconds(picture.elapsed_s),
    picture.negative_prompt === "" ? "" : `without ${picture.negative_prompt}`,
    ...picture.notes,
  ]
    .filter((word) => word !== "")
    .join(" · ");
}

/** Seconds since the job began, also between two reports. */
function createClock(): (job: Job) => number {
  let seen: Job | null = null;
  let at = 0;
  return (job) => {
    if (seen !== job) {
      seen = job;
      at = performance.now();
    }
    return job.state === "running" ? job.elapsed_s + (performance.now() - at) / 1000 : job.elapsed_s;
  };
}

function createPictureActions(ctx: Context) {
  let shown: Picture | null = null;
  const act = (text: string, name: IconName, title: string, action: (picture: Picture) => void) =>
    h(
      "button",
      { type: "button", class: "action", title, onclick: () => shown !== null && action(shown) },
      icon(name),
      h("span", {}, text),
    );
  const compare = act("Compare", "compare", "Lay another picture over this one", (picture) =>
    ctx.actions.compareWith(ctx.scene.kind === "compare" ? null : picture),
  );
  const element = h(
    "div",
    { class: "actions", role: "group", "aria-label": "This picture" },
    act("Reuse", "reuse", "Fill the form with these settings", (picture) => ctx.actions.reuse(picture)),
    act("Remix", "remix", "The same settings with a new seed", (picture) => ctx.actions.remix(picture)),
    act("Save", "save", "Save beside the notebook", (picture) => ctx.actions.save(picture)),
    compare,
    act("Copy cell", "copy", "Copy as a %%imagine cell", (picture) => ctx.actions.copy(picture)),
  );
  const show = (picture: Picture | null) => {
    shown = picture;
    setHidden(element, picture === null);
    const comparing = ctx.scene.kind === "compare";
    setAttribute(compare, "aria-pressed", comparing ? "true" : "false");
    setText(compare.querySelector("span") as Element, comparing ? "Done" : "Compare");
    setHidden(compare, ctx.host.get("pictures").length < 2);
  };
  return { element, show };
}
