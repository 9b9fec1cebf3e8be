import type { Job, Picture } from "../contract";
import { h, icon, setAttribute, setHidden, setText } from "../shared/dom";
import { formatElapsed } from "../shared/format";
import { createClock, createProgressBar, progressText, timesText } from "../shared/progress";
import type { Context, Part } from "./context";
import { createPictureActions, createVersions } from "./picture_actions";
import { currentJob, isBusy, isCancelling, pictureOf } from "./state";
import { TEXT } from "./strings";

const TICK_MS = 500;

/** Under the stage: progress and Cancel while a job runs, else the recipe and what can be done with it. */
export function createCaption(ctx: Context): Part {
  const bar = createProgressBar(TEXT.progress);
  const first = h("p", { class: "first", dir: "auto" });
  const second = h("p", { class: "second" });
  const cancel = createCancel(ctx);
  const actions = createPictureActions(ctx);
  const versions = createVersions(ctx);
  const texts = h("div", { class: "texts" }, h("div", { class: "lines" }, first, second), cancel.element);
  const element = h("div", { class: "caption" }, bar.element, texts, actions.element, versions.element);
  const clock = createClock();
  const timer = setInterval(() => tick(), TICK_MS);

  const tick = () => {
    if (ctx.scene.kind !== "running") return;
    const { job } = ctx.scene;
    const isRunning = job.state === "running" && !ctx.view.disconnected;
    setText(second, isRunning ? timesText(job, clock(job, isRunning)) : job.prompt);
  };
  const show = (text: string, more: string) => {
    setText(first, text);
    setText(second, more);
  };
  const update = () => {
    const { scene } = ctx;
    for (const part of [cancel, actions, versions]) part.update();
    setAttribute(element, "data-scene", scene.kind);
    const job = scene.kind === "running" ? scene.job : null;
    const text = job === null ? "" : headline(job, ctx);
    bar.update(ctx.view.disconnected ? null : job, text);
    setAttribute(element, "data-step", job === null ? null : String(job.step));
    switch (scene.kind) {
      case "running":
        setText(first, ctx.view.disconnected ? TEXT.lastUpdate(text) : text);
        tick();
        break;
      case "start":
        show(TEXT.startShown, TEXT.startHint);
        break;
      case "pending":
        show(TEXT.sendingNow, scene.prompt);
        break;
      case "cancelled":
        show(scene.job.prompt, cancelledText(scene.job));
        break;
      case "failed":
        show(scene.job.prompt, "");
        break;
      case "tiles":
        show(scene.job.prompt, tilesText(scene.job));
        break;
      case "picture":
        show(scene.picture.prompt, recipeText(scene.picture, ctx));
        break;
      case "compare":
        show(TEXT.comparing, scene.picture.prompt);
        break;
      case "empty":
        show("", TEXT.yourPictures);
        break;
    }
    first.title = pictureOf(scene)?.prompt ?? "";
  };
  return { element, update, dispose: () => clearInterval(timer) };
}

/** Cancel, beside the progress: never where Imagine is. */
function createCancel(ctx: Context): Part {
  const label = h("span", {}, TEXT.cancel);
  const element = h(
    "button",
    { type: "button", class: "secondary cancel", hidden: true, onclick: () => ctx.actions.cancelCurrent() },
    icon("stop"),
    label,
  );
  const update = () => {
    const jobs = ctx.host.get("jobs");
    const job = currentJob(jobs, ctx.view);
    const stopping = job !== null && isCancelling(job, ctx.view);
    setHidden(element, !isBusy(jobs, ctx.view) || ctx.view.disconnected);
    setText(label, stopping ? TEXT.cancelling : TEXT.cancel);
    setAttribute(element, "aria-disabled", stopping ? "true" : null);
  };
  return { element, update };
}

/** "Drawing · step 7 of 20". */
export function headline(job: Job, ctx: Pick<Context, "view">): string {
  const cancelling = isCancelling(job, ctx.view);
  if (job.state !== "queued" || cancelling) return progressText({ ...job, cancelling });
  return job.place > 0 ? TEXT.waitingAt(job.place) : TEXT.waiting;
}

// The badge over the preview says where it stopped.
function cancelledText(job: Job): string {
  const kept = job.count > 1 ? TEXT.kept(job.picture_ids.length, job.count) : "";
  const after =
    job.elapsed_s > 0 ? `${TEXT.cancelled} ${TEXT.after(formatElapsed(job.elapsed_s))}` : TEXT.cancelled;
  return [after, kept].filter((part) => part !== "").join(" · ");
}

function tilesText(job: Job): string {
  const time = job.elapsed_s > 0 ? formatElapsed(job.elapsed_s) : "";
  const isWhole = job.picture_ids.length === job.count;
  const kept = isWhole ? TEXT.readyAll(job.count) : TEXT.kept(job.picture_ids.length, job.count);
  return [
    job.state === "cancelled" ? TEXT.cancelled : "",
    kept,
    time,
    job.state === "failed" ? job.message : "",
  ]
    .filter((part) => part !== "")
    .join(" · ");
}

/** "Emoji mini · 64 × 64 · 16 steps · guidance 2.5 · seed 7 · 1.9 s". */
export function recipeText(picture: Picture, ctx: Pick<Context, "host">): string {
  const model = ctx.host.get("models").find((one) => one.id === picture.model);
  const { steps, guidance_scale, seed, strength, elapsed_s } = picture;
  return [
    model?.name ?? picture.model,
    `${picture.width} × ${picture.height}`,
    steps === null ? "" : steps === 1 ? TEXT.oneStep : TEXT.stepCount(steps),
    guidance_scale === null || guidance_scale === 0 ? "" : TEXT.guidanceOf(guidance_scale),
    seed === null ? "" : TEXT.seedOf(seed),
    strength === null ? "" : TEXT.changedBy(strength),
    picture.outpaint === "" ? "" : TEXT.continued(picture.outpaint),
    ...picture.controls.map(TEXT.follows),
    picture.hires === null ? "" : TEXT.hiresOf(picture.hires),
    picture.upscale === null ? "" : TEXT.enlargedBy(picture.upscale),
    ...picture.loras.map((one) => `${TEXT.lora} ${one.source}`),
    elapsed_s === null ? "" : formatElapsed(elapsed_s),
    picture.negative_prompt === "" ? "" : TEXT.negativeOf(picture.negative_prompt),
    ...picture.notes,
  ]
    .filter((part) => part !== "")
    .join(" · ");
}
