import type { CellHost, CellReport, CellRequest, Progress } from "../contract";
import { blobOf, ObjectUrls } from "../shared/binary";
import { Connection, kernelOf } from "../shared/connection";
import { h, setHidden, setText } from "../shared/dom";
import { createLayers } from "../shared/layers";
import { createClock, createProgressBar, progressText, timesText } from "../shared/progress";
import { CELL_TEXT as TEXT } from "../shared/strings";
import { followTone } from "../shared/tone";

const TICK_MS = 200;
const INTERRUPT_AFTER_MS = 1000;
const ANNOUNCE_INTERVAL_MS = 5000;
const PREVIEW = "preview";
const BESIDE_PX = 340; // a notebook's bars, the cell's input and the words and buttons of this view
const STARTING: Progress = {
  stage: "",
  detail: "",
  step: 0,
  steps: 0,
  image_index: 0,
  count: 1,
  fraction: 0,
  elapsed_s: 0,
  remaining_s: null,
  cancelling: false,
};

/** The view of a running cell: preview, progress, Cancel. Returns a function that removes it. */
export function createCellView(model: CellHost, element: HTMLElement): () => void {
  const layers = createLayers("swiftai-cell__layers");
  const stage = h("div", { class: "swiftai-cell__stage" }, layers.element);
  stage.style.width = `${model.get("width")}px`;
  stage.style.aspectRatio = `${model.get("width")} / ${model.get("height")}`;
  // Its height leaves room for what stands below it, so that Cancel is in the window, too.
  const ratio = model.get("width") / model.get("height");
  stage.style.maxWidth = `min(100%, max(220px, 100vh - ${BESIDE_PX}px) * ${ratio})`;
  const stageName = h("span", { class: "swiftai-cell__stagename" });
  const times = h("span", { class: "swiftai-cell__times" });
  const bar = createProgressBar(TEXT.progress, "swiftai-cell__");
  const button = h("button", { type: "button", class: "swiftai-cell__cancel", onclick: cancel }, TEXT.cancel);
  const hint = h("span", { class: "swiftai-cell__hint" }, model.get("blocking") ? TEXT.orPressStop : "");
  const actions = h("div", { class: "swiftai-cell__actions" }, button, hint);
  const status = h("div", { class: "swiftai-cell__status", role: "status", "aria-live": "polite" });
  const panel = h(
    "div",
    { class: "swiftai-cell__panel", role: "group", "aria-label": TEXT.pictureInProgress },
    h("div", { class: "swiftai-cell__prompt" }, model.get("prompt")),
    h("div", { class: "swiftai-cell__row" }, stageName, times),
    bar.element,
    actions,
    status,
  );
  const root = h("div", { class: "swiftai-cell" }, stage, panel);
  const previews = new ObjectUrls();
  const clock = createClock();
  let cancelRequested = false;
  let disconnected = false;
  let announcedAt_ms = Number.NEGATIVE_INFINITY;
  let announcedStage = "";
  let progress = STARTING;
  let interrupting: ReturnType<typeof setTimeout> | undefined;

  const connection = new Connection<CellRequest>(
    model,
    { kind: "init", job_id: model.get("job_id") },
    (connected) => {
      if (disconnected === !connected) return;
      disconnected = !connected;
      update();
    },
    // A kernel that executes the cell itself cannot reply.
    () => !model.get("blocking"),
  );

  function tick(): void {
    setText(times, disconnected ? "" : timesText(progress, clock(progress, progress.stage !== "queued")));
  }

  function onStatus(): void {
    const received = model.get("status");
    progress = "stage" in received ? (received as Progress) : STARTING;
    if (progress.cancelling) clearTimeout(interrupting);
    connection.received();
    update();
  }

  function update(): void {
    const cancelling = cancelRequested || progress.cancelling;
    const text = disconnected ? TEXT.disconnected : progressText({ ...progress, cancelling });
    setText(stageName, text);
    bar.update(disconnected ? null : progress, text);
    button.disabled = cancelling;
    setHidden(actions, disconnected);
    root.classList.toggle("is-cancelling", cancelling);
    root.classList.toggle("is-disconnected", disconnected);
    root.dataset.step = String(progress.step);
    announce(text, disconnected ? "disconnected" : cancelling ? "cancelling" : progress.stage);
    tick();
  }

  /** Announces a new stage at once, further progress only now and then. */
  function announce(text: string, stageKey: string): void {
    const now_ms = performance.now();
    if (stageKey === announcedStage && now_ms - announcedAt_ms < ANNOUNCE_INTERVAL_MS) return;
    announcedAt_ms = now_ms;
    announcedStage = stageKey;
    setText(status, text);
  }

  function cancel(): void {
    if (cancelRequested || disconnected) return;
    cancelRequested = true;
    connection.send({ kind: "cancel", job_id: model.get("job_id") });
    update();
    // Only while the cell itself waits: otherwise the interrupt would stop another cell.
    const kernel = model.get("blocking") ? kernelOf(model) : null;
    if (kernel !== null) interrupting = setTimeout(() => kernel.interrupt(), INTERRUPT_AFTER_MS);
  }

  function onReport(report: CellReport, buffers?: unknown): void {
    connection.received();
    if (report.kind !== "preview") return;
    const blob = blobOf(report, buffers);
    if (blob === null) return;
    previews.set(PREVIEW, blob);
    layers.show(previews.get(PREVIEW), TEXT.previewOf(model.get("prompt"), report.step));
    stage.classList.add("has-preview");
  }

  const timer = setInterval(tick, TICK_MS);
  model.on("change:status", onStatus);
  model.on("msg:custom", onReport);
  element.append(root);
  const stopFollowingTone = followTone(root);
  const received = model.get("status");
  if ("stage" in received) progress = received as Progress;
  update();
  connection.send({ kind: "init", job_id: model.get("job_id") });

  let disposed = false;
  return () => {
    if (disposed) return;
    disposed = true;
    clearInterval(timer);
    clearTimeout(interrupting);
    model.off("change:status", onStatus);
    model.off("msg:custom", onReport);
    connection.dispose();
    stopFollowingTone();
    previews.clear();
    root.remove();
  };
}
