import { type Host, type Report, type Request, SETTINGS, type Settings, SNAPSHOTS } from "../contract";
import { blobOf } from "../shared/binary";
import { Connection } from "../shared/connection";
import { h, setAttribute, setHidden, setText } from "../shared/dom";
import { followTone } from "../shared/tone";
import { createActions } from "./actions";
import { createAnnouncer } from "./announcer";
import { createCaption } from "./caption";
import type { Context } from "./context";
import { picturesOf } from "./files";
import { createFilmstrip } from "./filmstrip";
import { createLarge } from "./large";
import { createPanel } from "./panel";
import { PictureCache } from "./pictures";
import { followRoom } from "./room";
import { createStage } from "./stage";
import { chosenModel, isBusy, isFinal, newViewState, type Pending, sceneOf, type ViewState } from "./state";
import { hideStaticOutput } from "./static_output";
import { TEXT } from "./strings";

const SAVE_SETTINGS_MS = 200;
const TOAST_MS = 4500;

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
  /** What was set here since the last save. */
  const unsaved = new Map<keyof Settings, unknown>();

  const flush = () => {
    clearTimeout(saving);
    saving = undefined;
    unsaved.clear();
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
    planId: "",
    settle: () => null,
    get model() {
      return chosenModel(host.get("models"), host.get("model"), host.get("engine"));
    },
    announce: (text) => setText(status, text),
    toast(text) {
      setText(toast, text);
      setHidden(toast, text === "");
      clearTimeout(fading);
      if (text === "") {
        view.deleting = null;
        return;
      }
      ctx.announce(text);
      fading = setTimeout(() => {
        setHidden(toast, true);
        view.deleting = null;
        ctx.invalidate();
      }, TOAST_MS);
    },
    invalidate() {
      if (queued || disposed) return;
      queued = true;
      queueMicrotask(update);
    },
    set(name, value) {
      unsaved.set(name, value);
      host.set(name, value);
      view.copied.delete(name);
      if (view.error?.field === name) view.error = null;
      for (const one of view.pending) one.changed.add(name);
      clearTimeout(saving);
      saving = setTimeout(flush, SAVE_SETTINGS_MS);
      ctx.invalidate();
    },
  };
  // What was typed last is not lost when the page is closed at once.
  const onLeave = () => {
    void ctx.settle();
    if (saving !== undefined) flush();
  };
  const connection = new Connection<Request>(
    host,
    { kind: "init" },
    (connected) => {
      if (view.disconnected === !connected) return;
      view.disconnected = !connected;
      if (connected) ctx.pictures.retryPending();
      else Object.assign(view, { pending: [], asking: null });
      ctx.invalidate();
    },
    () => isBusy(host.get("jobs"), view),
  );
  ctx.actions = createActions(ctx, connection, flush);

  const stage = createStage(ctx);
  const caption = createCaption(ctx);
  const panel = createPanel(ctx);
  const filmstrip = createFilmstrip(ctx);
  const large = createLarge(ctx, filmstrip.shown);
  const parts = [stage, caption, panel, filmstrip, large];
  stage.element.append(toast);
  const card = h(
    "div",
    {
      role: "group",
      class: "card",
      "aria-label": TEXT.card,
      "data-lm-suppress-shortcuts": "true",
      onkeydown: onKey,
      onpaste: onPaste,
    },
    notice,
    h(
      "div",
      { class: "work" },
      h("div", { class: "left" }, stage.element, stage.tools, caption.element),
      panel.element,
    ),
    filmstrip.element,
    status,
    large.element,
  );
  const root = h("div", { class: "swiftai-nb" }, card);
  element.append(root);

  const announce = createAnnouncer();
  const stopFollowingTone = followTone(root);
  const stopFollowingRoom = followRoom(root);
  const staticOutput = hideStaticOutput(root, () => host.get("static_output_tail"));

  function update(): void {
    queued = false;
    if (disposed) return;
    forgetEnded(host, view);
    const [jobs, pictures, inputs] = [host.get("jobs"), host.get("pictures"), host.get("inputs")];
    ctx.scene = sceneOf({ jobs, pictures, inputs }, view);
    setAttribute(card, "data-disconnected", view.disconnected);
    setHidden(notice, !view.disconnected);
    setText(notice, view.disconnected ? TEXT.disconnected : "");
    for (const part of parts) part.update();
    staticOutput.update();
    const text = announce(ctx.scene, view);
    if (text !== null) ctx.announce(text);
  }

  function onKey(event: KeyboardEvent): void {
    if (event.key === "Enter" && (event.metaKey || event.ctrlKey)) {
      event.preventDefault();
      if (!event.repeat) ctx.actions.imagine();
    } else if (event.key === "Escape" && view.asking !== null) {
      view.asking = null;
      ctx.invalidate();
    } else if (event.key === "Escape" && ctx.scene.kind === "compare") ctx.actions.compareWith(null);
    else if (event.key === "Escape" && ctx.scene.kind === "start") ctx.actions.follow();
    // The notebook's shortcuts must not act on keys that are meant for this card.
    event.stopPropagation();
  }

  function onPaste(event: ClipboardEvent): void {
    const [picture] = picturesOf(event.clipboardData);
    const isText = event.target instanceof HTMLTextAreaElement || event.target instanceof HTMLInputElement;
    // Office programs copy text with a picture of it.
    if (picture === undefined || (isText && event.clipboardData?.getData("text/plain"))) return;
    event.preventDefault();
    event.stopPropagation();
    const isIn = (part: string) => (event.target as Element).closest?.(part) != null;
    const isReference = isIn(".tray") && (ctx.model?.max_references ?? 0) > 0;
    const role = isIn(".controls") ? "control" : isReference ? "reference" : "image";
    void ctx.actions.addInput(role, picture);
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
        ctx.toast(TEXT.savedAs(report.path));
        break;
      case "upscaled":
        Object.assign(view, { following: false, selected: report.picture_id });
        if (report.note !== "") ctx.toast(report.note);
        ctx.invalidate();
        break;
      case "plan": {
        const asked = takePending(view, report.request_id);
        if (asked !== undefined) view.asking = asked;
        if (asked !== undefined || report.request_id === ctx.planId) view.plan = report;
        break;
      }
      case "error": {
        const refused = takePending(view, report.request_id);
        // The plan may have told the user first, who has mended it meanwhile.
        if (refused?.changed.has(report.field) !== true) ctx.actions.fail(report);
        break;
      }
    }
    ctx.invalidate();
  }

  const onChange = () => {
    // Kernels echo what was saved: that must not undo what was typed meanwhile.
    for (const [name, value] of unsaved) if (host.get(name) !== value) host.set(name, value as never);
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
    onLeave();
    disposed = true;
    window.removeEventListener("pagehide", onLeave);
    clearTimeout(fading);
    for (const name of [...SETTINGS, ...SNAPSHOTS])
      host.off(`change:${name}`, name === "jobs" ? onJobs : onChange);
    host.off("msg:custom", onReport);
    for (const part of parts) part.dispose?.();
    connection.dispose();
    stopFollowingTone();
    stopFollowingRoom();
    staticOutput.dispose();
    ctx.pictures.clear();
    view.previews.clear();
    root.remove();
  };
}

/** Removes the request with this id, if it waits for an answer, and returns it. */
function takePending(view: ViewState, request_id: string): Pending | undefined {
  const found = view.pending.find((one) => one.request_id === request_id);
  view.pending = view.pending.filter((one) => one !== found);
  return found;
}

/** Drops the state of jobs that have ended. */
function forgetEnded(host: Host, view: ViewState): void {
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
