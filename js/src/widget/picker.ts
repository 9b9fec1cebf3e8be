import type { Model } from "../contract";
import { h, icon, setAttribute, setChildren, setHidden, setText } from "../shared/dom";
import { formatBytes, formatBytesOf, formatDuration, formatRemaining, percent } from "../shared/format";
import { createProgressBar } from "../shared/progress";
import type { Context, Part } from "./context";
import { chosenModel } from "./state";

/** The models with their sizes and states; one is chosen. */
export function createPicker(ctx: Context): Part {
  const name = h("span", { class: "name" });
  const state = h("span", { class: "state" });
  const button = h(
    "button",
    { type: "button", class: "model-button", "aria-expanded": "false", onclick: () => toggle() },
    h("span", { class: "label" }, "Model"),
    name,
    state,
    icon("chevron"),
  );
  const list = h("ul", { class: "models", hidden: true, "aria-label": "Models", onkeydown: onKey });
  const offer = createOffer(ctx);
  const element = h(
    "div",
    { role: "group", class: "picker", "aria-label": "Model" },
    button,
    list,
    offer.element,
  );
  const rows = new Map<string, ReturnType<typeof createRow>>();

  function toggle(open = list.hidden): void {
    setHidden(list, !open);
    setAttribute(button, "aria-expanded", open ? "true" : "false");
  }
  function choose(model: Model): void {
    ctx.view.error = null;
    ctx.set("engine", model.engine);
    ctx.set("model", model.id);
    toggle(false);
    button.focus();
  }
  function onKey(event: KeyboardEvent): void {
    const choices = [...list.querySelectorAll<HTMLElement>("button.choice")];
    const at = choices.indexOf(
      (event.target as Element).closest("li")?.querySelector("button.choice") as never,
    );
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: choices.length - 1 }[event.key];
    if (event.key === "Escape") {
      toggle(false);
      button.focus();
    } else if (to === undefined) return;
    else choices[Math.max(0, Math.min(choices.length - 1, to))]?.focus();
    event.preventDefault();
    event.stopPropagation();
  }

  const update = () => {
    const models = ctx.host.get("models");
    const chosen = chosenModel(models, ctx.host.get("model"), ctx.host.get("engine"));
    setText(name, chosen?.name ?? (ctx.host.get("model") || "none"));
    setText(state, chosen === null ? "" : stateText(chosen));
    setAttribute(state, "data-state", chosen?.state ?? null);
    const keys = new Set(models.map(keyOf));
    for (const key of [...rows.keys()]) if (!keys.has(key)) rows.delete(key);
    setChildren(
      list,
      models.map((model) => {
        const row = rows.get(keyOf(model)) ?? createRow(ctx, choose);
        rows.set(keyOf(model), row);
        row.update(model, model === chosen);
        return row.element;
      }),
    );
    offer.show(chosen);
  };
  return { element, update };
}

function keyOf(model: Model): string {
  return `${model.engine} ${model.id}`;
}

/** "download 6.9 GB", "downloading 41 %"; the kernel formats the rest. */
function stateText(model: Model): string {
  if (model.state === "downloading") return `downloading ${percent(model.done_bytes, model.total_bytes)} %`;
  return model.state_text;
}

function createRow(ctx: Context, choose: (model: Model) => void) {
  let shown: Model | null = null;
  const name = h("span", { class: "name" });
  const state = h("span", { class: "state" });
  const description = h("span", { class: "description" });
  const facts = h("span", { class: "facts" });
  const choice = h(
    "button",
    { type: "button", class: "choice", onclick: () => shown !== null && choose(shown) },
    h("span", { class: "top" }, name, state),
    description,
    facts,
  );
  const remove = createDelete(ctx, () => shown);
  const element = h("li", {}, choice, remove.element);
  const update = (model: Model, chosen: boolean) => {
    shown = model;
    setText(name, model.name);
    setText(state, stateText(model));
    setAttribute(state, "data-state", model.state);
    setText(description, model.description);
    // The state has the size of what is not downloaded yet.
    const size = model.size_bytes > 0 && model.state !== "download" ? formatBytes(model.size_bytes) : "";
    const memory = model.memory_bytes > 0 ? `needs ${Math.round(model.memory_bytes / 1e9)} GB of memory` : "";
    const license = model.license === "" ? "" : `license ${model.license}`;
    setText(facts, [size, memory, license].filter((fact) => fact !== "").join(" · "));
    setAttribute(choice, "aria-current", chosen ? "true" : null);
    remove.update(model);
  };
  return { element, update };
}

/** Deleting needs a second click, on the same button. */
function createDelete(ctx: Context, model: () => Model | null) {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const label = h("span", {}, "");
  const element = h("button", { type: "button", class: "quiet delete" }, icon("trash"), label);
  const confirm = (asking: boolean) => {
    setAttribute(element, "data-asking", asking);
    setText(label, asking ? "Delete?" : "");
    clearTimeout(timer);
    if (asking) timer = setTimeout(() => confirm(false), 4000);
  };
  element.addEventListener("click", () => {
    const target = model();
    if (element.hasAttribute("data-asking") && target !== null) {
      ctx.host.send({ kind: "delete_model", model: target.id });
      confirm(false);
    } else confirm(true);
  });
  const update = (shown: Model) => {
    setHidden(element, !shown.can_delete);
    setAttribute(element, "aria-label", `Delete ${shown.name} from disk`);
    setAttribute(element, "title", "Delete from disk");
  };
  return { element, update };
}

/** What the chosen model still needs, and the button for it. */
function createOffer(ctx: Context) {
  let shown: Model | null = null;
  const what = h("p", { class: "what" });
  const how = h("p", { class: "how" });
  const bar = createProgressBar("Download");
  const send = (kind: "download" | "cancel_download") => () => {
    ctx.view.error = null;
    if (shown !== null) ctx.host.send({ kind, model: shown.id });
    ctx.invalidate();
  };
  const start = h("button", { type: "button", class: "secondary", onclick: send("download") });
  const stop = h("button", { type: "button", class: "secondary", onclick: send("cancel_download") });
  stop.append("Cancel download");
  const element = h("div", { class: "offer", hidden: true }, what, bar.element, how, start, stop);

  const show = (model: Model | null) => {
    shown = model;
    setHidden(element, model === null || model.state === "ready" || model.state === "cloud");
    if (model === null || element.hidden) return;
    const loading = model.state === "downloading";
    const missing = model.state === "download";
    setHidden(bar.element, !loading);
    setHidden(stop, !loading);
    setHidden(start, !missing);
    setText(start, `Download ${formatBytes(model.size_bytes)}`);
    setText(what, offerText(model));
    setText(how, loading ? downloadTimes(model) : model.hint);
    const fraction = model.total_bytes > 0 ? model.done_bytes / model.total_bytes : 0;
    bar.update(loading ? { fraction } : null, offerText(model));
  };
  return { element, show };
}

function offerText(model: Model): string {
  if (model.state === "downloading") return formatBytesOf(model.done_bytes, model.total_bytes);
  if (model.state === "download") {
    const disk = model.free_disk_bytes > 0 ? ` ${formatBytes(model.free_disk_bytes)} free on disk.` : "";
    return `Not downloaded.${disk}`;
  }
  if (model.state === "cloud_missing")
    return `${model.name} runs in the cloud and needs a Hugging Face token.`;
  return `${model.name}: ${model.state_text}.`;
}

function downloadTimes(model: Model): string {
  return [
    model.bytes_per_s > 0 ? `${formatBytes(model.bytes_per_s)}/s` : "",
    model.remaining_s === null ? "" : formatRemaining(model.remaining_s),
    `${formatDuration(Math.floor(model.elapsed_s))} elapsed`,
  ]
    .filter((part) => part !== "")
    .join(" · ");
}
