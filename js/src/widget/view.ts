import { type Host, type Report, type Request, SETTINGS, SNAPSHOTS } from "../contract";
import { blobOf } from "../shared/binary";
import { Connection } from "../shared/connection";
import { h, setHidden, setText } from "../shared/dom";
import { followTone } from "../shared/tone";
import { createActions } from "./actions";
import { createAnnouncer } from "./announcer";
import { createCaption } from "./caption";
import type { Context, Part } from "./context";
import { createFilmstrip } from "./filmstrip";
import { createPanel } from "./panel";
import { PictureCache } from "./pictures";
import { createStage } from "./stage";
import { isFinal, newViewState, sceneOf } from "./state";
import { hideStaticOutput } from "./static_output";

const SAVE_SETTINGS_MS = 200;
const TOAST_MS = 4500;
const DISCONNECTED = "Kernel not responding (busy or restarted). Run this cell again once it's idle.";

/** Creates one view of the widget; returns a function that removes it. */
export function createView(host: Host, element: HTMLElement): () => void {
  const view = newViewState();
  const status = h("div", { class: "sr-only", role: "status", "aria-live": "polite" });
  const notice = h("div", { class: "notice", role: "alert", hidden: true });
  const toast = h("div", { class: "toast", hidden: true });
  let queued = false;
  let disposed = false;
  let saving: ReturnType<typeof setTimeout> | undefined;
  let fading: ReturnType<typeof setTimeout> | undefined;

  const flush = () => {
    clearTimeout(saving);
    saving = undefined;
    try {
      host.save_changes();
    } catch {
      connection.init(0);
    }
  };
  const ctx: Context = {
    host,
    view,
    pictures: new PictureCache(host, () => ctx.invalidate()),
    scene: { kind: "empty" },
    actions: undefined as never,
    announce: (text) => setText(status, text),
    invalidate() {
      if (queued || disposed) return;
      queued = true;
      queueMicrotask(update);
    },
    set(name, value) {
      host.set(name, value);
      clearTimeout(saving);
      saving = setTimeout(flush, SAVE_SETTINGS_MS);
      ctx.invalidate();
    },
  };
  // What was typed last is not lost when the page is closed at once.
  const onLeave = () => {
    if (saving !== undefined) flush();
  };
  const connection = new Connection<Request>(host, { kind: "init" }, (connected) => {
    if (view.disconnected === !connected) return;
    view.disconnected = !connected;
    if (connected) ctx.pictures.retryPending();
    else view.pending = [];
    ctx.invalidate();
  });
  const showToast = (text: string) => {
    setText(toast, text);
    setHidden(toast, false);
    ctx.announce(text);
    clearTimeout(fading);
    fading = setTimeout(() => setHidden(toast, true), TOAST_MS);
  };
  ctx.actions = createActions(ctx, connection, showToast, flush);

  const stage = createStage(ctx);
  const parts: Part[] = [stage, createCaption(ctx), createPanel(ctx), createFilmstrip(ctx)];
  const [picture, caption, panel, filmstrip] = parts.map((part) => part.element) as [
    HTMLElement,
    HTMLElement,
    HTMLElement,
    HTMLElement,
  ];
  picture.append(toast);
  const card = h(
    "div",
    {
      role: "group",
      class: "card",
      "aria-label": "Imagine",
      "data-lm-suppress-shortcuts": "true",
      onkeydown: onKey,
    },
    notice,
    h("div", { class: "work" }, h("div", { class: "left" }, picture, caption), panel),
    filmstrip,
    status,
  );
  const root = h("div", { class: "swiftai-nb" }, card);
  element.append(root);

  const announce = createAnnouncer();
  const stopFollowingTone = followTone(root);
  const staticOutput = hideStaticOutput(root, () => host.get("static_output_tail"));

  function update(): void {
    queued = false;
    if (disposed) return;
    const jobs = host.get("jobs");
    forgetEnded(host, view);
    ctx.scene = sceneOf({ jobs, pictures: host.get("pictures") }, view);
    setHidden(notice, !view.disconnected);
    setText(notice, view.disconnected ? DISCONNECTED : "");
    for (const part of parts) part.update();
    staticOutput.update();
    const text = announce(ctx.scene, view);
    if (text !== null) ctx.announce(text);
  }

  function onKey(event: KeyboardEvent): void {
    if (event.key === "Enter" && (event.metaKey || event.ctrlKey)) {
      event.preventDefault();
      ctx.actions.imagine();
    } else if (event.key === "Escape" && ctx.scene.kind === "compare") ctx.actions.compareWith(null);
    // The notebook's shortcuts must not act on keys that are meant for this card.
    event.stopPropagation();
  }

  function onReport(report: Report, buffers?: unknown): void {
    connection.received();
    switch (report.kind) {
      case "preview": {
        const blob = blobOf(report, buffers);
        if (blob !== null) view.previews.set(report.job_id, blob);
        break;
      }
      case "picture":
        ctx.pictures.accept(report, buffers);
        break;
      case "saved":
        showToast(`Saved as ${report.path}`);
        break;
      case "error":
        view.pending = view.pending.filter((one) => one.request_id !== report.request_id);
        view.error = report;
        ctx.announce([report.message, report.hint].filter((text) => text !== "").join(". "));
        break;
    }
    ctx.invalidate();
  }

  const onChange = () => {
    ctx.invalidate();
  };
  const onJobs = () => {
    connection.received();
    ctx.invalidate();
  };
  for (const name of SETTINGS) host.on(`change:${name}`, onChange);
  for (const name of SNAPSHOTS) host.on(`change:${name}`, name === "jobs" ? onJobs : onChange);
  host.on("msg:custom", onReport);
  window.addEventListener("pagehide", onLeave);
  connection.init();
  update();

  return () => {
    disposed = true;
    window.removeEventListener("pagehide", onLeave);
    onLeave();
    clearTimeout(fading);
    for (const name of [...SETTINGS, ...SNAPSHOTS])
      host.off(`change:${name}`, name === "jobs" ? onJobs : onChange);
    host.off("msg:custom", onReport);
    for (const part of parts) part.dispose?.();
    connection.dispose();
    stopFollowingTone();
    staticOutput.dispose();
    ctx.pictures.clear();
    view.previews.clear();
    root.remove();
  };
}

/** Drops the state of jobs that have ended. */
function forgetEnded(host: Host, view: ReturnType<typeof newViewState>): void {
  const jobs = host.get("jobs");
  const known = new Set(jobs.map((job) => job.id));
  const answered = new Set(jobs.map((job) => job.request_id));
  view.pending = view.pending.filter((one) => !answered.has(one.request_id));
  for (const id of view.cancelled) {
    const job = jobs.find((one) => one.id === id);
    if (job === undefined || isFinal(job)) view.cancelled.delete(id);
  }
  for (const id of view.previews.keys()) if (!known.has(id)) view.previews.delete(id);
}
