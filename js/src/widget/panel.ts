import { SETTINGS } from "../contract";
import { h, icon, setAttribute, setHidden, setText } from "../shared/dom";
import { formatDuration, plain, sentence } from "../shared/format";
import type { Context, Part } from "./context";
import { missingControlNets } from "./controls";
import { markInvalid } from "./fields";
import { createMore } from "./more";
import { createPicker } from "./picker";
import { createQueue } from "./queue";
import { failureOf, isBusy, isPrompt } from "./state";
import { TEXT } from "./strings";
import { createTray } from "./tray";

const IS_MAC = /Mac|iP(hone|ad)/.test(globalThis.navigator?.platform ?? "");
const PLAN_MS = 500;

/** The form, in two parts: what is asked for, which stands first in a narrow card, and how it is made. */
export function createPanel(ctx: Context): Part {
  const prompt = createTextField(ctx, "prompt", TEXT.prompt, TEXT.promptPlaceholder);
  const estimate = createEstimate(ctx);
  const ask = [prompt, createButtons(ctx), estimate, createTray(ctx)];
  const form = [createQueue(ctx), createNegative(ctx), createPicker(ctx), createMore(ctx)];
  const note = createErrorNote(ctx);
  const element = h(
    "div",
    { class: "panel" },
    h("div", { class: "ask" }, ...ask.map((part) => part.element)),
    h("div", { class: "form" }, ...form.map((part) => part.element)),
  );
  // Each error stands below the field that it is about.
  const fieldOf: Record<string, string> = {
    model: ".picker",
    inputs: ".tray",
    strength: ".tray",
    outpaint: ".outpaint",
    controls: ".controls",
    loras: ".lora-field",
  };
  let noted = "";
  const place = () => {
    const field = failureOf(ctx.view)?.field ?? "";
    const named = field === "" ? null : element.querySelector(fieldOf[field] ?? `.field.${field}`);
    const found = named?.closest("details:not([open])") ? null : named;
    const at = found?.closest(".pixels, .seed-row") ?? found ?? element.querySelector(".buttons");
    if (at !== null && at.nextElementSibling !== note.element) at.after(note.element);
    const shown = note.element.hidden ? "" : `${field} ${note.element.textContent}`;
    if (shown !== "" && shown !== noted) {
      note.element.scrollIntoView?.({ block: "nearest" });
      if (field === "prompt") named?.querySelector("textarea")?.focus();
    }
    noted = shown;
  };
  const update = () => {
    for (const part of [...ask, ...form, note]) part.update();
    place();
  };
  return { element, update, dispose: () => estimate.dispose?.() };
}

/** A text field that grows with its text; in an empty prompt, the up arrow brings back earlier ones. */
function createTextField(
  ctx: Context,
  name: "prompt" | "negative_prompt",
  label: string,
  placeholder: string,
): Part {
  let recalled = -1;
  let draft = "";
  const write = (text: string) => {
    ctx.set(name, text);
    area.value = text;
    area.setSelectionRange(0, 0);
    grow();
  };
  const recall = (by: number): boolean => {
    const prompts = [...new Set([...ctx.host.get("pictures")].reverse().map((one) => one.prompt))];
    const to = recalled + by;
    const isAtStart = area.selectionStart === 0 && area.selectionEnd === 0;
    if (!isAtStart || to < -1 || to >= prompts.length || (by < 0 && recalled < 0)) return false;
    if (recalled < 0) draft = area.value;
    recalled = to;
    write(prompts[to] ?? draft);
    return true;
  };
  const area = h("textarea", {
    rows: name === "prompt" ? 3 : 1,
    placeholder,
    spellcheck: "true",
    dir: "auto",
    oninput: () => {
      recalled = -1;
      ctx.set(name, area.value);
      grow();
    },
    onkeydown: (event: KeyboardEvent) => {
      const by = { ArrowUp: 1, ArrowDown: -1 }[event.key];
      const isPlain = !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
      if (name === "prompt" && by !== undefined && isPlain && recall(by)) event.preventDefault();
    },
  });
  const grow = () => {
    area.style.height = "auto";
    if (area.scrollHeight > 0) area.style.height = `${Math.min(area.scrollHeight + 2, 240)}px`;
  };
  const element = h("label", { class: `field words ${name}` }, h("span", { class: "label" }, label), area);
  const update = () => {
    const text = ctx.host.get(name);
    markInvalid(ctx, name, area);
    if (area.value !== text) {
      area.value = text;
      grow();
    }
  };
  return { element, update };
}

/** Collapsed unless it has text or the model uses it. */
function createNegative(ctx: Context): Part {
  const words = createTextField(ctx, "negative_prompt", TEXT.negativePrompt, TEXT.negativePlaceholder);
  const note = h("p", { class: "note" }, TEXT.negativeIgnored);
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
      TEXT.negativePrompt,
    ),
    words.element,
    note,
  );
  const update = () => {
    words.update();
    const { model } = ctx;
    const filled = ctx.host.get("negative_prompt") !== "";
    if (filled) touched = true;
    if (filled && !wasFilled) details.open = true;
    else if (!touched) details.open = model?.uses_negative_prompt === true;
    wasFilled = filled;
    setHidden(note, model === null || model.uses_negative_prompt);
  };
  return { element: details, update };
}

/** Why a request was or would be refused, with values that would do; the stage keeps its picture. */
function createErrorNote(ctx: Context): Part {
  const what = h("p", { class: "what" });
  const hint = h("p", { class: "hint" });
  const fixes = h("div", { class: "fixes" });
  const element = h(
    "div",
    { class: "error-note", hidden: true },
    icon("warning"),
    h("div", {}, what, hint, fixes),
  );
  let shown = "";
  const update = () => {
    const failure = failureOf(ctx.view);
    // The picker says itself what its model still needs, and a control picture what it does.
    const isMissing = failure?.field === "controls" && missingControlNets(ctx).length > 0;
    const isOffered = ctx.view.error === null && (failure?.field === "model" || isMissing);
    setHidden(element, failure === null || isOffered || failure.model !== "");
    // A setting's name, such as guidance_scale, as words.
    const message = plain(failure?.message ?? "").replace(/^[a-z]+_[a-z]+ /, (name) =>
      name.replace("_", " "),
    );
    setText(what, sentence(message));
    setText(hint, failure === null || failure.fixes.length > 0 ? "" : sentence(plain(failure.hint)));
    const key = JSON.stringify([failure?.field, failure?.fixes]);
    if (key === shown) return;
    shown = key;
    const set = (value: number) => {
      ctx.view.error = null;
      ctx.set(failure?.field as "steps", value);
    };
    fixes.replaceChildren(
      ...(failure?.fixes ?? []).map((value) =>
        h(
          "button",
          { type: "button", class: "chip", onclick: () => set(value) },
          TEXT.useInstead(String(value)),
        ),
      ),
    );
  };
  return { element, update };
}

/** Imagine; while a job runs the same button adds to the queue. */
function createButtons(ctx: Context): Part {
  const label = h("span", {}, TEXT.imagine);
  const keys = h("kbd", { "aria-hidden": "true" }, IS_MAC ? "⌘ ↵" : "Ctrl ↵");
  const spark = icon("spark");
  const plus = icon("plus");
  const primary = h(
    "button",
    {
      type: "button",
      class: "primary",
      "aria-keyshortcuts": "Control+Enter Meta+Enter",
      // The second click of a double click is not a second request.
      onclick: (event: MouseEvent) => event.detail <= 1 && ctx.actions.imagine(),
    },
    spark,
    plus,
    label,
    keys,
  );
  const element = h("div", { class: "buttons" }, primary);
  const update = () => {
    const busy = isBusy(ctx.host.get("jobs"), ctx.view) && !ctx.view.disconnected;
    setText(label, busy ? TEXT.addToQueue : TEXT.imagine);
    setAttribute(primary, "data-busy", busy);
    setAttribute(primary, "aria-disabled", ctx.view.disconnected ? "true" : null);
    spark.toggleAttribute("hidden", busy);
    plus.toggleAttribute("hidden", !busy);
  };
  return { element, update };
}

/** What the form would take, asked of the kernel when the form has changed, and a question before long jobs. */
function createEstimate(ctx: Context): Part {
  const text = h("p", { class: "note estimate" });
  const question = h("p", { class: "what" });
  const start = h(
    "button",
    { type: "button", class: "secondary", onclick: () => ctx.actions.confirm() },
    TEXT.startAnyway,
  );
  const wait = h("button", { type: "button", class: "secondary", onclick: () => end() }, TEXT.notNow);
  const ask = h(
    "div",
    { class: "question", role: "alertdialog", "aria-label": TEXT.imagine, hidden: true },
    question,
    start,
    wait,
  );
  const element = h("div", { class: "takes" }, text, ask);
  let asked = "";
  let timer: ReturnType<typeof setTimeout> | undefined;
  let number = 0;
  const end = () => {
    ctx.view.asking = null;
    ctx.invalidate();
  };
  const request = () => {
    number += 1;
    ctx.planId = `plan-${number}`;
    ctx.actions.plan(ctx.planId);
  };
  const update = () => {
    const { host, view, model } = ctx;
    const isReady = model?.state === "ready" || model?.state === "cloud";
    const form = SETTINGS.filter((name) => !isPrompt(name)).map((name) => host.get(name));
    // The number of pictures changes what is known about times.
    const made = host.get("pictures").length;
    const missing = missingControlNets(ctx).map((net) => net.id);
    const key = JSON.stringify([form, host.get("inputs"), made, isReady, missing]);
    if (key !== asked && !view.disconnected) {
      asked = key;
      ctx.planId = ""; // an answer that is on its way is about what the form was
      view.plan = null;
      view.asking = null;
      clearTimeout(timer);
      if (isReady) timer = setTimeout(request, PLAN_MS);
    }
    const plan = view.plan !== null && "asks" in view.plan ? view.plan : null;
    const time = plan?.estimated_s == null ? "" : formatDuration(Math.max(1, plan.estimated_s));
    const where = TEXT.onDevice[plan?.device as "cpu"] ?? "";
    const known = [time === "" ? TEXT.unknownTime : `${TEXT.estimate(time)} ${where}`, plan?.memory ?? ""];
    // The line is there before the first answer, and the last answer stays until the next: nothing below it moves.
    if (plan !== null) setText(text, [...known, ...plan.notes].filter((part) => part !== "").join(" · "));
    else if (!isReady) setText(text, "");
    else if (view.plan !== null) setText(text, TEXT.noEstimate);
    else if (text.textContent === "") setText(text, TEXT.estimating);
    setAttribute(text, "data-outdated", plan === null);
    const isAsking = view.asking !== null && plan !== null;
    setHidden(ask, !isAsking);
    setText(question, TEXT.ask(time));
    if (isAsking && !ask.hasAttribute("data-shown")) start.focus({ preventScroll: true });
    setAttribute(ask, "data-shown", isAsking);
  };
  return { element, update, dispose: () => clearTimeout(timer) };
}
