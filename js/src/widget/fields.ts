import type { Settings } from "../contract";
import { h, icon, setAttribute } from "../shared/dom";
import type { Context, Part } from "./context";
import { failureOf, pictureOf, randomSeed } from "./state";
import { TEXT } from "./strings";

/** Of a whole number in JavaScript, and of a seed. */
const LARGEST = Number.MAX_SAFE_INTEGER;
const FRACTIONS = ["guidance_scale", "hires", "hires_strength", "upscale"] as const;
export type NumberName =
  | "width"
  | "height"
  | "steps"
  | "seed"
  | "count"
  | "hires_steps"
  | (typeof FRACTIONS)[number];

export interface NumberField {
  element: HTMLElement;
  update(placeholder: string): void;
}

/** Marks the field that an error is about, and takes the mark away with it. */
export function markInvalid(ctx: Context, name: string, input: HTMLElement): void {
  setAttribute(input, "aria-invalid", failureOf(ctx.view)?.field === name ? "true" : null);
}

/** A number field; empty is null (1 for the count). The kernel says which numbers it refuses, and what would do. */
export function createNumber(
  ctx: Context,
  name: NumberName,
  label: string,
  { min, max, step }: { min: number; max: number; step: number },
): NumberField {
  const isWhole = !(FRACTIONS as readonly string[]).includes(name);
  const input = h("input", {
    type: "number",
    min,
    max,
    step: isWhole ? step : "any",
    inputmode: "decimal",
    oninput: () => {
      const value = input.value === "" ? null : Math.min(LARGEST, Math.max(-LARGEST, Number(input.value)));
      if (name === "count") ctx.set("count", value === null ? 1 : Math.round(value));
      else ctx.set(name, value === null || !isWhole ? value : Math.round(value));
    },
  });
  const write = () => {
    const value = ctx.host.get(name);
    input.value = value === null ? "" : String(value);
  };
  const element = h("label", { class: `field ${name}` }, h("span", { class: "label" }, label), input);
  const update = (placeholder: string) => {
    setAttribute(input, "placeholder", placeholder);
    const value = ctx.host.get(name);
    // The user's spelling ("7." or "07") stays while it means the same number.
    const typed = input.value === "" ? null : Number(input.value);
    if (typed !== value) write();
    markInvalid(ctx, name, input);
  };
  return { element, update };
}

/** The seed: empty means a random one each time, a number stays until it is unlocked. */
export function createSeed(ctx: Context): Part {
  const number = createNumber(ctx, "seed", TEXT.seed, { min: 0, max: LARGEST, step: 1 });
  const open = icon("unlock");
  const shut = icon("lock");
  const lock = h("button", { type: "button", class: "quiet", onclick: () => toggle() }, open, shut);
  const dice = h(
    "button",
    {
      type: "button",
      class: "quiet",
      "aria-label": TEXT.randomSeed,
      title: TEXT.randomSeed,
      onclick: () => ctx.set("seed", randomSeed()),
    },
    icon("dice"),
  );
  const toggle = () => {
    if (ctx.host.get("seed") !== null) return ctx.set("seed", null);
    const newest = ctx.host.get("pictures").at(-1);
    ctx.set("seed", (pictureOf(ctx.scene) ?? newest)?.seed ?? randomSeed());
  };
  const element = h("div", { class: "seed-row wide" }, number.element, lock, dice);
  const update = () => {
    const locked = ctx.host.get("seed") !== null;
    number.update(TEXT.random);
    setAttribute(lock, "aria-pressed", locked ? "true" : "false");
    setAttribute(lock, "aria-label", TEXT.lockSeed);
    setAttribute(lock, "title", locked ? TEXT.unlockHint : TEXT.lockHint);
    open.toggleAttribute("hidden", locked);
    shut.toggleAttribute("hidden", !locked);
  };
  return { element, update };
}

export type SelectName = "scheduler" | "style" | "upscaler";

/** A list; the empty value is the first entry, and a value that is not in it is added. */
export function createSelect(
  ctx: Context,
  name: SelectName,
  label: string,
  { empty, values }: { empty: string; values: () => string[] },
): Part {
  const select = h("select", { onchange: () => ctx.set(name, select.value) });
  const element = h("label", { class: `field ${name}` }, h("span", { class: "label" }, label), select);
  let shown = "";
  const update = () => {
    const value = ctx.host.get(name);
    const listed = values();
    const all = value === "" || listed.includes(value) ? listed : [...listed, value];
    if (all.join("\n") !== shown || select.options.length === 0) {
      shown = all.join("\n");
      select.replaceChildren(
        h("option", { value: "" }, empty),
        ...all.map((one) => h("option", { value: one }, one)),
      );
    }
    if (select.value !== value) select.value = value;
    markInvalid(ctx, name, select);
  };
  return { element, update };
}

const RATIOS = ["1:1", "3:4", "4:3", "16:9"] as const;

/** The format: the model's own, a ratio of the model's own number of pixels, or a size in pixels. */
export function createFormat(ctx: Context, limits: { min: number; max: number; step: number }): Part {
  const width = createNumber(ctx, "width", TEXT.width, limits);
  const height = createNumber(ctx, "height", TEXT.height, limits);
  let isCustom = false;
  const choose = (value: string) => {
    isCustom = value === "custom";
    ctx.set("aspect_ratio", isCustom ? "" : value);
    if (!isCustom) for (const name of ["width", "height"] as const) ctx.set(name, null as Settings["width"]);
    ctx.invalidate();
  };
  const buttons = ["", ...RATIOS, "custom"].map((value) => {
    const text = value === "" ? TEXT.aspectAuto : value === "custom" ? TEXT.aspectCustom : value;
    const shape = h("i", { class: "shape", "aria-hidden": "true" });
    if (value.includes(":")) shape.style.aspectRatio = value.replace(":", " / ");
    const button = h(
      "button",
      { type: "button", class: "chip", onclick: () => choose(value) },
      ...(value.includes(":") ? [shape] : []),
      text,
    );
    return { value, button };
  });
  const group = h(
    "div",
    { class: "formats", role: "group", "aria-label": TEXT.aspect },
    ...buttons.map(({ button }) => button),
  );
  const pixels = h("div", { class: "pixels" }, width.element, height.element);
  const element = h("div", { class: "wide" }, h("span", { class: "label" }, TEXT.aspect), group, pixels);
  const update = () => {
    const { host, model } = ctx;
    const ratio = host.get("aspect_ratio");
    const hasSize = host.get("width") !== null || host.get("height") !== null;
    if (ratio !== "") isCustom = false;
    const chosen = ratio !== "" ? ratio : hasSize || isCustom ? "custom" : "";
    for (const { value, button } of buttons)
      setAttribute(button, "aria-pressed", value === chosen ? "true" : "false");
    pixels.hidden = chosen !== "custom";
    width.update(String(model?.width || TEXT.auto));
    height.update(String(model?.height || TEXT.auto));
  };
  return { element, update };
}
