import type { InputPicture } from "../contract";
import { h, icon, setAttribute, setChildren, setHidden, setText } from "../shared/dom";
import { acceptDrops, createChooser, editors } from "./choosing";
import type { Context, Part } from "./context";
import { createControls } from "./controls";
import { createOutpaint } from "./outpaint";
import { inputOf } from "./state";
import { TEXT } from "./strings";

/** The pictures in: the start picture, the references, and what steers; drop, paste or choose them. */
export function createTray(ctx: Context): Part {
  const list = h("ul", { class: "inputs" });
  const rows = new Map<string, ReturnType<typeof createThumb>>();
  const start = createChooser(ctx, "image");
  const reference = createChooser(ctx, "reference");
  const strength = createStrength(ctx);
  const outpaint = createOutpaint(ctx);
  const controls = createControls(ctx);
  const note = h("p", { class: "note warn", hidden: true });
  const element = h(
    "div",
    { class: "tray", role: "group", "aria-label": TEXT.picturesIn },
    h("div", { class: "row" }, list, start.element, reference.element),
    strength.element,
    outpaint.element,
    note,
    controls.element,
  );
  acceptDrops(ctx, element, "reference");

  const update = () => {
    const inputs = ctx.host.get("inputs");
    const shown = inputs.filter((one) => one.role === "image" || one.role === "reference");
    const ids = new Set(shown.map(keyOf));
    for (const key of [...rows.keys()]) if (!ids.has(key)) rows.delete(key);
    let number = 0;
    setChildren(
      list,
      shown.map((input) => {
        const row = rows.get(keyOf(input)) ?? createThumb(ctx, input);
        rows.set(keyOf(input), row);
        if (input.role === "reference") number += 1;
        row.update(input.role === "reference" ? TEXT.referenceNumber(number) : TEXT.startPicture);
        return row.element;
      }),
    );
    setHidden(list, shown.length === 0);
    setHidden(start.element, inputOf(inputs, "image") !== null);
    setAttribute(reference.element, "data-unused", (ctx.model?.max_references ?? 0) === 0);
    for (const part of [strength, outpaint, controls]) part.update();
    const text = problem(ctx, inputs);
    setText(note, text);
    setHidden(note, text === "");
  };
  return { element, update };
}

function keyOf(input: InputPicture): string {
  return `${input.role} ${input.id}`;
}

/** Why the chosen model cannot use the pictures that are there. */
function problem(ctx: Context, inputs: InputPicture[]): string {
  const { model } = ctx;
  if (model === null) return "";
  const references = inputs.filter((one) => one.role === "reference").length;
  if (references > 0 && model.max_references === 0) return TEXT.noReferences(model.name, editors(ctx));
  const steering = inputs.some((one) => one.role === "control");
  if (steering && !model.takes_controls) return TEXT.noControls(model.name, steered(ctx));
  if (references > model.max_references) return TEXT.tooManyReferences(model.name, model.max_references);
  return inputOf(inputs, "image") !== null && !model.takes_image ? TEXT.noStart(model.name) : "";
}

/** The models that pictures can steer, those that are ready first. */
function steered(ctx: Context): string {
  const able = ctx.host.get("models").filter((one) => one.takes_controls);
  const ready = able.filter((one) => one.state === "ready");
  return [...ready, ...able.filter((one) => !ready.includes(one))]
    .map((one) => one.name)
    .slice(0, 2)
    .join(" or ");
}

function createThumb(ctx: Context, input: InputPicture) {
  const image = h("img", { alt: "", draggable: "false" });
  const show = h("button", { type: "button", class: "thumb", onclick: () => ctx.actions.showStart() }, image);
  const still = h("span", { class: "thumb" });
  const remove = h(
    "button",
    { type: "button", class: "quiet", onclick: () => ctx.actions.removeInput(input.id) },
    icon("close"),
  );
  const isStart = input.role === "image";
  if (!isStart) still.append(image);
  const element = h("li", { "data-role": input.role }, isStart ? show : still, remove);
  const update = (name: string) => {
    const url = ctx.pictures.url(input.id, "thumbnail");
    if (url !== null && image.getAttribute("src") !== url) image.src = url;
    setAttribute(image, "alt", isStart ? "" : name);
    setAttribute(show, "aria-label", TEXT.showStart);
    setAttribute(show, "title", TEXT.showStart);
    setAttribute(show, "aria-current", ctx.scene.kind === "start" ? "true" : null);
    setAttribute(remove, "aria-label", TEXT.removePicture(name));
    setAttribute(remove, "title", TEXT.removePicture(name));
  };
  return { element, update };
}

const DEFAULT_STRENGTH = 0.8;

/** How much the start picture may change, and the way to its mask. */
function createStrength(ctx: Context): Part {
  const value = h("output", {});
  const slider = h("input", {
    type: "range",
    min: 0.05,
    max: 1,
    step: 0.05,
    title: TEXT.changeHint,
    oninput: () => ctx.set("strength", Number(slider.value)),
  });
  const paint = h(
    "button",
    { type: "button", class: "secondary", onclick: () => ctx.actions.showStart() },
    icon("brush"),
  );
  const label = h("span", {}, TEXT.paintMask);
  paint.append(label);
  const element = h(
    "div",
    { class: "strength" },
    h("label", { class: "row" }, h("span", { class: "label" }, TEXT.change), slider, value),
    paint,
  );
  const update = () => {
    const inputs = ctx.host.get("inputs");
    setHidden(element, inputOf(inputs, "image") === null);
    // Beyond an edge is nothing to keep.
    const usual = ctx.host.get("outpaint") === "" ? DEFAULT_STRENGTH : 1;
    const strength = ctx.host.get("strength") ?? usual;
    if (Number(slider.value) !== strength) slider.value = String(strength);
    setText(value, String(Math.round(strength * 100) / 100));
    const hasMask = inputOf(inputs, "mask") !== null;
    setText(label, hasMask ? TEXT.maskPainted : TEXT.paintMask);
    setHidden(paint, ctx.scene.kind === "start");
  };
  return { element, update };
}
