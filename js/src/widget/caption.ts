import type { Job, Picture } from "../contract";
import { h, type IconName, icon, setAttribute, setHidden, setText } from "../shared/dom";
import { formatElapsed } from "../shared/format";
import { createClock, createProgressBar, progressText, timesText } from "../shared/progress";
import type { Context, Part } from "./context";
import { isCancelling } from "./state";

const TICK_MS = 500;

/** Under the stage: progress while a job runs, else the recipe and what can be done with it. */
export function createCaption(ctx: Context): Part {
  const bar = createProgressBar("Progress");
  const first = h("p", { class: "first" });
  const second = h("p", { class: "second" });
  const actions = createPictureActions(ctx);
  const element = h("div", { class: "caption" }, bar.element, first, second, actions.element);
  const clock = createClock();
  const timer = setInterval(() => tick(), TICK_MS);

  const tick = () => {
    if (ctx.scene.kind !== "running" || ctx.view.disconnected) return;
    const { job } = ctx.scene;
    const isRunning = job.state === "running";
    setText(second, isRunning ? timesText(job, clock(job, isRunning)) : job.prompt);
  };
  const update = () => {
    const { scene } = ctx;
    const picture = scene.kind === "picture" || scene.kind === "compare" ? scene.picture : null;
    actions.show(picture);
    setAttribute(element, "data-scene", scene.kind);
    const job = scene.kind === "running" ? scene.job : null;
    bar.update(job, job === null ? "" : headline(job, ctx));
    setAttribute(element, "data-step", job === null ? null : String(job.step));
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
        setText(second, cancelledText(scene.job));
        break;
      case "picture":
        setText(first, scene.picture.prompt);
        setText(second, recipeText(scene.picture, ctx));
        break;
      case "compare":
        setText(first, "Comparing: drag the handle, or choose another picture below");
        setText(second, scene.picture.prompt);
        break;
      case "empty":
        setText(first, "");
        setText(second, "Your pictures will appear here.");
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
  const cancelling = isCancelling(job, ctx.view);
  if (job.state !== "queued" || cancelling) return progressText({ ...job, cancelling });
  return job.place > 0 ? `Waiting · position ${job.place} in the queue` : "Waiting…";
}

function cancelledText(job: Job): string {
  const at = job.steps > 0 ? `Cancelled at ${job.step} of ${job.steps}` : "Cancelled";
  return job.elapsed_s > 0 ? `${at} · after ${formatElapsed(job.elapsed_s)}` : at;
}

/** "Emoji mini · 64 × 64 · 16 steps · guidance 2.5 · seed 7 · 1.9 s". */
function recipeText(picture: Picture, ctx: Pick<Context, "host">): string {
  const model = ctx.host.get("models").find((one) => one.id === picture.model);
  return [
    model?.name ?? picture.model,
    `${picture.width} × ${picture.height}`,
    picture.steps === null ? "" : picture.steps === 1 ? "1 step" : `${picture.steps} steps`,
    picture.guidance_scale === null || picture.guidance_scale === 0
      ? ""
      : `guidance ${picture.guidance_scale}`,
    picture.seed === null ? "" : `seed ${picture.seed}`,
    picture.elapsed_s === null ? "" : formatElapsed(picture.elapsed_s),
    picture.negative_prompt === "" ? "" : `negative prompt: ${picture.negative_prompt}`,
    ...picture.notes,
  ]
    .filter((part) => part !== "")
    .join(" · ");
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
  const compare = act("Compare", "compare", "Compare with another picture", (picture) =>
    ctx.actions.compareWith(ctx.scene.kind === "compare" ? null : picture),
  );
  const element = h(
    "div",
    { class: "actions", role: "group", "aria-label": "This picture" },
    act("Reuse", "reuse", "Fill the form with these settings", (picture) => ctx.actions.reuse(picture)),
    act("Remix", "remix", "Generate again with a new seed", (picture) => ctx.actions.remix(picture)),
    act("Save", "save", "Save next to the notebook", (picture) => ctx.actions.save(picture)),
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
