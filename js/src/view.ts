import { createActions } from "./actions";
import { createAnnouncer } from "./announcer";
import { blobOf, PictureCache } from "./blobs";
import { createCaption } from "./caption";
import { Connection } from "./connection";
import type { Context, Part } from "./context";
import { type Host, type Report, SETTINGS, SNAPSHOTS } from "./contract";
import { h, setHidden, setText } from "./dom";
import { createFilmstrip } from "./filmstrip";
import { hideKeepsake } from "./keepsake";
import { createPanel } from "./panel";
import { createStage } from "./stage";
import { isFinal, newViewState, sceneOf } from "./state";
import { followTone } from "./tone";

const SAVE_SETTINGS_MS = 200;
const TOAST_MS = 4500;
const GONE =
  "No kernel answers: it is busy, or was restarted. When it is idle, run this cell again to go on.";

/** One view of the widget; returns what takes it away again. */
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
      connection.hello(0);
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
  // A page that is left at once takes the last words typed with it, unless they are sent now.
  const onLeave = () => {
    if (saving !== undefined) flush();
  };
  const connection = new Connection(host, (alive) => {
    if (view.gone === !alive) return;
    view.gone = !alive;
    if (alive) ctx.pictures.forgetQuestions();
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
  const keepsake = hideKeepsake(root, () => host.get("keepsake"));

  function update(): void {
    queued = false;
    if (disposed) return;
    const jobs = host.get("jobs");
    forgetEnded(host, view);
    ctx.scene = sceneOf({ jobs, pictures: host.get("pictures") }, view);
    setHidden(notice, !view.gone);
    setText(notice, view.gone ? GONE : "");
    for (const part of parts) part.update();
    keepsake.update();
    const words = announce(ctx.scene, view);
    if (words !== null) ctx.announce(words);
  }

  function onKey(event: KeyboardEvent): void {
    if (event.key === "Enter" && (event.metaKey || event.ctrlKey)) {
      event.preventDefault();
      ctx.actions.imagine();
    } else if (event.key === "Escape" && ctx.scene.kind === "compare") ctx.actions.compareWith(null);
    // The notebook's own shortcuts must not fire for keys meant for this card.
    event.stopPropagation();
  }

  function onReport(report: Report, buffers?: unknown): void {
    connection.heard();
    switch (report.kind) {
      case "preview": {
        const blob = blobOf(report, buffers);
        if (blob !== null) replacePreview(report.job_id, URL.createObjectURL(blob));
        break;
      }
      case "picture":
        ctx.pictures.accept(report, buffers);
        break;
      case "saved":
        showToast(`Saved as ${report.path}`);
        break;
      case "refused":
        view.pending = view.pending.filter((one) => one.request_id !== report.request_id);
        view.refusal = { message: report.message, hint: report.hint };
        ctx.announce(`${report.message}. ${report.hint}`);
        break;
    }
    ctx.invalidate();
  }

  function replacePreview(jobId: string, url: string): void {
    const old = view.previews.get(jobId);
    view.previews.set(jobId, url);
    // The old one may still be fading out.
    if (old !== undefined) setTimeout(() => URL.revokeObjectURL(old), 2000);
  }

  const onChange = () => {
    ctx.invalidate();
  };
  const onJobs = () => {
    connection.heard();
    ctx.invalidate();
  };
  for (const name of SETTINGS) host.on(`change:${name}`, onChange);
  for (const name of SNAPSHOTS) host.on(`change:${name}`, name === "jobs" ? onJobs : onChange);
  host.on("msg:custom", onReport);
  window.addEventListener("pagehide", onLeave);
  connection.hello();
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
    keepsake.dispose();
    ctx.pictures.clear();
    for (const url of view.previews.values()) URL.revokeObjectURL(url);
    root.remove();
  };
}

/** Lets go of what belonged to jobs that have ended. */
function forgetEnded(host: Host, view: ReturnType<typeof newViewState>): void {
  const jobs = host.get("jobs");
  const known = new Set(jobs.map((job) => job.id));
  const answered = new Set(jobs.map((job) => job.request_id));
  view.pending = view.pending.filter((one) => !answered.has(one.request_id));
  for (const id of view.cancelled) {
    const job = jobs.find((one) => one.id === id);
    if (job === undefined || isFinal(job)) view.cancelled.delete(id);
  }
  for (const [id, url] of view.previews) {
    if (known.has(id)) continue;
    view.previews.delete(id);
    setTimeout(() => URL.revokeObjectURL(url), 2000);
  }
}
