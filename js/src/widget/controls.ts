import { CONTROL_KINDS, type Control, type ControlNet, type InputPicture } from "../contract";
import { h, icon, setAttribute, setChildren, setHidden, setText } from "../shared/dom";
import { acceptDrops, createChooser } from "./choosing";
import type { Context, Part } from "./context";
import { createOffer } from "./offer";
import { TEXT } from "./strings";

type Amount = "scale" | "start" | "end";
const AMOUNTS: Record<Amount, { label: string; min: number; max: number; step: number; hint: string }> = {
  scale: { label: TEXT.controlScale, min: -10, max: 10, step: 0.1, hint: TEXT.controlScale },
  start: { label: TEXT.controlStart, min: 0, max: 1, step: 0.05, hint: TEXT.shareHint },
  end: { label: TEXT.controlEnd, min: 0, max: 1, step: 0.05, hint: TEXT.shareHint },
};

/** The catalog's ControlNet that a control needs; null where the user named one, or where there is none. */
export function controlNetOf(ctx: Context, control: Control): ControlNet | null {
  if (control.model !== "") return null;
  return ctx.host.get("controlnets").find((net) => net.kinds.includes(control.kind)) ?? null;
}

/** The ControlNets that the form's control pictures need and that are not on this disk. */
export function missingControlNets(ctx: Context): ControlNet[] {
  const nets = ctx.host
    .get("inputs")
    .map(({ id, control }) =>
      control === null ? null : controlNetOf(ctx, { ...control, ...ctx.view.unconfirmed.get(id) }),
    );
  return nets.filter(
    (net): net is ControlNet => net !== null && (net.state === "download" || net.state === "downloading"),
  );
}

/** Pictures that steer, each with what is made of it and how strongly it acts; drop, paste or choose them. */
export function createControls(ctx: Context): Part {
  const list = h("div", {});
  const rows = new Map<string, ReturnType<typeof createControl>>();
  const add = createChooser(ctx, "control");
  const element = h(
    "div",
    { class: "controls", role: "group", "aria-label": TEXT.controls },
    list,
    add.element,
  );
  acceptDrops(ctx, element, "control");
  const update = () => {
    const inputs = ctx.host.get("inputs").filter((one) => one.role === "control");
    const ids = new Set(inputs.map((one) => one.id));
    for (const id of [...rows.keys()]) if (!ids.has(id)) rows.delete(id);
    setChildren(
      list,
      inputs.map((input, index) => {
        const row = rows.get(input.id) ?? createControl(ctx, input.id);
        rows.set(input.id, row);
        row.update(input, TEXT.controlNumber(index + 1));
        return row.element;
      }),
    );
    const canSteer = ctx.model?.takes_controls === true;
    setHidden(list, inputs.length === 0);
    setHidden(add.element, !canSteer);
    setHidden(element, !canSteer && inputs.length === 0);
  };
  return { element, update };
}

function createControl(ctx: Context, id: string) {
  let control: Control | null = null;
  let confirmed = "";
  let failure: unknown = null;
  let namesOwn = false;
  const change = (changes: Partial<Control>) => {
    const sent = { ...ctx.view.unconfirmed.get(id), ...changes };
    ctx.view.unconfirmed.set(id, sent);
    const { kind, model, preview: _, ...amounts } = sent;
    const now = { ...(control as Control), ...sent };
    const source = [now.kind, now.model].filter((part) => part !== "").join("@");
    const isSource = kind !== undefined || model !== undefined;
    if (isSource && source === "") return; // its name is still to be typed
    if (ctx.view.error?.field === "controls") ctx.view.error = null;
    failure = ctx.view.error;
    ctx.host.send({ kind: "set_control", input_id: id, ...amounts, ...(isSource ? { source } : {}) });
    ctx.invalidate();
  };
  const photo = h("img", { alt: "", draggable: "false" });
  const made = h("img", { alt: "", draggable: "false" });
  const madeFrame = h("span", { class: "map" }, made);
  const remove = h(
    "button",
    { type: "button", class: "quiet", onclick: () => ctx.actions.removeInput(id) },
    icon("close"),
  );
  const kind = h(
    "select",
    {
      onchange: () => {
        namesOwn = kind.value === "";
        if (namesOwn) more.open = true;
        change({ kind: kind.value });
        if (namesOwn && control?.model === "") model.focus();
        ctx.invalidate();
      },
    },
    ...CONTROL_KINDS.map((one) => h("option", { value: one }, TEXT.controlKinds[one] ?? one)),
    h("option", { value: "" }, TEXT.ownControlNet),
  );
  const amounts = (Object.keys(AMOUNTS) as Amount[]).map((name) => {
    const { label, hint, ...limits } = AMOUNTS[name];
    const input = h("input", {
      type: "number",
      inputmode: "decimal",
      ...limits,
      step: "any",
      title: hint,
      onchange: () => {
        const value = Number(input.value);
        const isRefused = input.value === "" || !(value >= limits.min && value <= limits.max);
        setAttribute(input, "aria-invalid", isRefused ? "true" : null);
        if (!isRefused) change({ [name]: value });
      },
      onblur: () => ctx.invalidate(),
    });
    return {
      name,
      input,
      element: h("label", { class: "field" }, h("span", { class: "label" }, label), input),
    };
  });
  const note = h("p", { class: "note" });
  const offer = createOffer(ctx);
  const model = h("input", {
    type: "text",
    maxlength: 400,
    placeholder: TEXT.controlNetPlaceholder,
    onchange: () => change({ kind: kind.value, model: model.value.trim() }),
  });
  const guess = h("input", { type: "checkbox", onchange: () => change({ is_guess: guess.checked }) });
  const more = h(
    "details",
    { class: "fold" },
    h("summary", {}, icon("chevron"), TEXT.controlMore),
    h("label", { class: "field" }, h("span", { class: "label" }, TEXT.controlNet), model),
    h("label", { class: "check" }, guess, TEXT.guess),
  );
  const element = h(
    "div",
    { class: "control", role: "group" },
    h("div", { class: "maps" }, h("span", { class: "map" }, photo), madeFrame, remove),
    h("label", { class: "field follow" }, h("span", { class: "label" }, TEXT.follow), kind),
    h("div", { class: "amounts" }, ...amounts.map((one) => one.element)),
    note,
    offer.element,
    more,
  );

  const update = (input: InputPicture, name: string) => {
    const text = JSON.stringify(input.control);
    // A refused change is taken back together with its error.
    if (text !== confirmed || ctx.view.error !== failure) ctx.view.unconfirmed.delete(id);
    confirmed = text;
    failure = ctx.view.error;
    control = input.control;
    if (control === null) return;
    const now = { ...control, ...ctx.view.unconfirmed.get(id) };
    const shownKind = namesOwn ? "" : now.kind;
    setAttribute(element, "aria-label", name);
    setAttribute(remove, "aria-label", TEXT.removePicture(name));
    setAttribute(remove, "title", TEXT.removePicture(name));
    show(photo, ctx.pictures.url(input.id, "full"));
    setHidden(madeFrame, control.preview === "");
    if (control.preview !== "") show(made, ctx.pictures.url(control.preview, "full"));
    setAttribute(photo, "alt", name);
    setAttribute(made, "alt", TEXT.madeOf(TEXT.controlKinds[control.kind] ?? control.kind));
    if (kind.value !== shownKind) kind.value = shownKind;
    for (const { name: amount, input: field } of amounts) {
      const isShown = field.value !== "" && Number(field.value) === now[amount];
      if (field.matches(":focus") || isShown) continue;
      field.value = String(now[amount]);
      setAttribute(field, "aria-invalid", null);
    }
    if (!model.matches(":focus") && model.value !== now.model) model.value = now.model;
    if (guess.checked !== now.is_guess) guess.checked = now.is_guess;
    const bring = TEXT.bring[shownKind] ?? "";
    setText(note, bring);
    setHidden(note, bring === "");
    offer.show(ctx.model?.takes_controls === true ? controlNetOf(ctx, { ...now, kind: shownKind }) : null);
  };
  return { element, update };
}

function show(image: HTMLImageElement, url: string | null): void {
  if (url !== null && image.getAttribute("src") !== url) image.src = url;
}
