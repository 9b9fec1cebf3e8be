import { h, icon, setAttribute, setHidden, setText } from "../shared/dom";
import { plain, sentence } from "../shared/format";
import type { Context, Part } from "./context";
import { createMore } from "./more";
import { createPicker } from "./picker";
import { createQueue } from "./queue";
import { chosenModel, currentJob, isCancelling, unfinished } from "./state";

const IS_MAC = /Mac|iP(hone|ad)/.test(globalThis.navigator?.platform ?? "");

/** The form. */
export function createPanel(ctx: Context): Part {
  const prompt = createTextField(ctx, "prompt", "Prompt", "Describe a picture");
  const negative = createNegative(ctx);
  const buttons = createButtons(ctx);
  const parts = [
    prompt,
    buttons,
    createErrorNote(ctx),
    createQueue(ctx),
    negative,
    createPicker(ctx),
    createMore(ctx),
  ];
  const element = h("div", { class: "panel" }, ...parts.map((part) => part.element));
  const update = () => {
    for (const part of parts) part.update();
  };
  return { element, update };
}

/** A text field that grows with its text. */
function createTextField(
  ctx: Context,
  name: "prompt" | "negative_prompt",
  label: string,
  placeholder: string,
): Part {
  const area = h("textarea", {
    rows: name === "prompt" ? 3 : 1,
    placeholder,
    spellcheck: "true",
    oninput: () => {
      ctx.set(name, area.value);
      grow();
    },
  });
  const grow = () => {
    area.style.height = "auto";
    if (area.scrollHeight > 0) area.style.height = `${Math.min(area.scrollHeight + 2, 240)}px`;
  };
  const element = h("label", { class: `field words ${name}` }, h("span", { class: "label" }, label), area);
  const update = () => {
    const text = ctx.host.get(name);
    if (area.value !== text) {
      area.value = text;
      grow();
    }
  };
  return { element, update };
}

/** Collapsed unless it has text or the model uses it. */
function createNegative(ctx: Context): Part {
  const words = createTextField(ctx, "negative_prompt", "Negative prompt", "things to avoid");
  const note = h("p", { class: "note" }, "This model runs without guidance and ignores it.");
  let touched = false;
  let wasFilled = false;
  const details = h(
    "details",
    { class: "fold" },
    h(
      "summary",
      {
        onclick: () => {
          touched = true;
        },
      },
      icon("chevron"),
      "Negative prompt",
    ),
    words.element,
    note,
  );
  const update = () => {
    words.update();
    const filled = ctx.host.get("negative_prompt") !== "";
    if (filled) touched = true;
    const model = chosenModel(ctx.host.get("models"), ctx.host.get("model"), ctx.host.get("engine"));
    if (filled && !wasFilled) details.open = true;
    else if (!touched) details.open = model?.uses_negative_prompt === true;
    wasFilled = filled;
    setHidden(note, model === null || model.uses_negative_prompt);
  };
  return { element: details, update };
}

/** Why the last request was refused, beside the form that it concerns; the stage keeps its picture. */
function createErrorNote(ctx: Context): Part {
  const what = h("p", { class: "what" });
  const hint = h("p", { class: "hint" });
  const element = h("div", { class: "error-note", hidden: true }, icon("warning"), h("div", {}, what, hint));
  const update = () => {
    const { error } = ctx.view;
    setHidden(element, error === null);
    setText(what, sentence(plain(error?.message ?? "")));
    setText(hint, sentence(plain(error?.hint ?? "")));
  };
  return { element, update };
}

/** Imagine, which becomes Cancel while a job runs; a second button then adds to the queue. */
function createButtons(ctx: Context): Part {
  const label = h("span", {}, "Imagine");
  const keys = h("kbd", { "aria-hidden": "true" }, IS_MAC ? "⌘ ↵" : "Ctrl ↵");
  const spark = icon("spark");
  const stop = icon("stop");
  const primary = h(
    "button",
    {
      type: "button",
      class: "primary",
      "aria-keyshortcuts": "Control+Enter Meta+Enter",
      onclick: () => {
        if (isBusy()) ctx.actions.cancelCurrent();
        else ctx.actions.imagine();
      },
    },
    spark,
    stop,
    label,
    keys,
  );
  const next = h(
    "button",
    {
      type: "button",
      class: "secondary next",
      title: "Add to queue",
      onclick: () => ctx.actions.imagine(),
    },
    icon("plus"),
    h("span", {}, "Add to queue"),
  );
  const element = h("div", { class: "buttons" }, primary, next);
  const isBusy = () => unfinished(ctx.host.get("jobs")).length + ctx.view.pending.length > 0;

  const update = () => {
    const busy = isBusy();
    const job = currentJob(ctx.host.get("jobs"), ctx.view);
    const stopping = job !== null && isCancelling(job, ctx.view);
    setText(label, busy ? (stopping ? "Cancelling…" : "Cancel") : "Imagine");
    setAttribute(primary, "data-busy", busy);
    setAttribute(primary, "aria-disabled", (busy && stopping) || ctx.view.disconnected ? "true" : null);
    spark.toggleAttribute("hidden", busy);
    stop.toggleAttribute("hidden", !busy);
    setHidden(keys, busy);
    setHidden(next, !busy);
  };
  return { element, update };
}
