import type { Download } from "../contract";
import { h, setHidden, setText } from "../shared/dom";
import {
  formatBytes,
  formatBytesOf,
  formatDuration,
  formatRemaining,
  plain,
  sentence,
} from "../shared/format";
import { createProgressBar } from "../shared/progress";
import type { Context } from "./context";
import { TEXT } from "./strings";

/** What a model or a ControlNet still needs, and the button for it. */
export function createOffer(ctx: Context) {
  let shown: Download | null = null;
  const what = h("p", { class: "what" });
  const how = h("p", { class: "how" });
  const bar = createProgressBar(TEXT.download);
  const send = (kind: "download" | "cancel_download") => () => {
    ctx.view.error = null;
    if (shown !== null) ctx.host.send({ kind, model: shown.id });
    ctx.invalidate();
  };
  const start = h("button", { type: "button", class: "secondary", onclick: send("download") });
  const stop = h("button", { type: "button", class: "secondary", onclick: send("cancel_download") });
  stop.append(TEXT.cancelDownload);
  // A download that failed says so where its button is.
  const failed = h("p", { class: "failed", role: "alert" });
  const element = h("div", { class: "offer", hidden: true }, what, bar.element, how, failed, start, stop);

  const show = (model: Download | null) => {
    shown = model;
    setHidden(element, model === null || model.state === "ready" || model.state === "cloud");
    if (model === null || element.hidden) return;
    const { error } = ctx.view;
    const isOfThis = error !== null && error.model === model.id;
    setText(
      failed,
      isOfThis ? [error.message, error.hint].map((part) => sentence(plain(part))).join(". ") : "",
    );
    setHidden(failed, !isOfThis);
    const loading = model.state === "downloading";
    const missing = model.state === "download";
    setHidden(bar.element, !loading);
    setHidden(stop, !loading);
    setHidden(start, !missing);
    setText(start, TEXT.downloadOf(formatBytes(model.size_bytes)));
    setText(what, offerText(model));
    setText(how, loading ? downloadTimes(model) : model.hint);
    const fraction = model.total_bytes > 0 ? model.done_bytes / model.total_bytes : 0;
    bar.update(loading ? { fraction } : null, offerText(model));
  };
  return { element, show };
}

function offerText(model: Download): string {
  if (model.state === "downloading") return formatBytesOf(model.done_bytes, model.total_bytes);
  if (model.state === "download") {
    const disk = model.free_disk_bytes > 0 ? ` ${TEXT.freeDisk(formatBytes(model.free_disk_bytes))}` : "";
    return `${TEXT.notDownloaded(model.name)}${disk}`;
  }
  if (model.state === "cloud_missing") return TEXT.needsToken(model.name);
  return `${model.name}: ${model.state_text}.`;
}

function downloadTimes(model: Download): string {
  return [
    model.bytes_per_s > 0 ? `${formatBytes(model.bytes_per_s)}/s` : "",
    model.remaining_s === null ? "" : formatRemaining(model.remaining_s),
    TEXT.elapsed(formatDuration(Math.floor(model.elapsed_s))),
  ]
    .filter((part) => part !== "")
    .join(" · ");
}
