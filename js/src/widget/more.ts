import { h, icon, setAttribute, setText } from "../shared/dom";
import type { Context, Part } from "./context";
import { chosenModel, randomSeed } from "./state";

const MAX_SEED = 2 ** 53 - 1;
type NumberName = "width" | "height" | "steps" | "guidance_scale" | "seed" | "count";

interface NumberField {
  element: HTMLElement;
  input: HTMLInputElement;
  update(placeholder: string): void;
}

/** Size, steps, guidance, seed and count, collapsed. An empty field means the model's default. */
export function createMore(ctx: Context): Part {
  const width = createNumber(ctx, "width", "Width", { min: 16, max: 4096, step: 8 });
  const height = createNumber(ctx, "height", "Height", { min: 16, max: 4096, step: 8 });
  const steps = createNumber(ctx, "steps", "Steps", { min: 1, max: 1000, step: 1 });
  const guidance = createNumber(ctx, "guidance_scale", "Guidance", { min: 0, max: 100, step: 0.5 });
  const count = createNumber(ctx, "count", "Pictures", { min: 1, max: 100, step: 1 });
  const seed = createSeed(ctx);
  const summary = h("span", { class: "summary-text" });
  const element = h(
    "details",
    { class: "fold more" },
    h("summary", {}, icon("chevron"), "More", summary),
    h(
      "div",
      { class: "grid" },
      width.element,
      height.element,
      steps.element,
      guidance.element,
      seed.element,
      count.element,
    ),
  );
  const update = () => {
    const { host } = ctx;
    const model = chosenModel(host.get("models"), host.get("model"), host.get("engine"));
    const shown = (value: number | undefined) =>
      value === undefined || value === 0 ? "auto" : String(value);
    width.update(shown(model?.width));
    height.update(shown(model?.height));
    steps.update(shown(model?.steps));
    guidance.update(model === null ? "auto" : String(model.guidance_scale));
    count.update("1");
    seed.update();
    const size = `${host.get("width") ?? shown(model?.width)} × ${host.get("height") ?? shown(model?.height)}`;
    const locked = host.get("seed") === null ? "" : " · seed locked";
    setText(summary, `${size} · ${host.get("steps") ?? shown(model?.steps)} steps${locked}`);
  };
  return { element, update };
}

/** A number field; empty is null (1 for the count), and an invalid number is not sent. */
function createNumber(
  ctx: Context,
  name: NumberName,
  label: string,
  { min, max, step }: { min: number; max: number; step: number },
): NumberField {
  const input = h("input", {
    type: "number",
    min,
    max,
    step: name === "guidance_scale" ? "any" : step,
    inputmode: "decimal",
    oninput: () => {
      const value = input.value === "" ? null : Number(input.value);
      const isValid = value === null || (Number.isFinite(value) && value >= min && value <= max);
      setAttribute(input, "aria-invalid", isValid ? null : "true");
      if (!isValid) return;
      if (name === "count") ctx.set("count", value === null ? 1 : Math.round(value));
      else ctx.set(name, value === null || name === "guidance_scale" ? value : Math.round(value));
    },
    onblur: () => {
      if (input.getAttribute("aria-invalid") === "true") write();
    },
  });
  const write = () => {
    const value = ctx.host.get(name);
    input.value = value === null ? "" : String(value);
    setAttribute(input, "aria-invalid", null);
  };
  const element = h("label", { class: `field ${name}` }, h("span", { class: "label" }, label), input);
  const update = (placeholder: string) => {
    setAttribute(input, "placeholder", placeholder);
    const value = ctx.host.get(name);
    // The user's spelling ("7." or "07") stays while it means the same number.
    const typed = input.value === "" ? null : Number(input.value);
    const typing = document.activeElement === input || input.matches(":focus");
    if (typed !== value && !(typing && input.getAttribute("aria-invalid") === "true")) write();
  };
  return { element, input, update };
}

/** The seed: empty means a random one each time, a number stays until it is unlocked. */
function createSeed(ctx: Context): Part {
  const number = createNumber(ctx, "seed", "Seed", { min: 0, max: MAX_SEED, step: 1 });
  const open = icon("unlock");
  const shut = icon("lock");
  const lock = h("button", { type: "button", class: "quiet", onclick: () => toggle() }, open, shut);
  const dice = h(
    "button",
    {
      type: "button",
      class: "quiet",
      "aria-label": "Random seed",
      title: "Random seed",
      onclick: () => ctx.set("seed", randomSeed()),
    },
    icon("dice"),
  );
  const toggle = () => {
    if (ctx.host.get("seed") !== null) return ctx.set("seed", null);
    const onStage = ctx.scene.kind === "picture" || ctx.scene.kind === "compare" ? ctx.scene.picture : null;
    const newest = ctx.host.get("pictures").at(-1);
    ctx.set("seed", (onStage ?? newest)?.seed ?? randomSeed());
  };
  const element = h("div", { class: "seed-row" }, number.element, lock, dice);
  const update = () => {
    const locked = ctx.host.get("seed") !== null;
    number.update("random");
    setAttribute(lock, "aria-pressed", locked ? "true" : "false");
    setAttribute(lock, "aria-label", "Lock the seed");
    setAttribute(lock, "title", locked ? "Use a random seed each time" : "Use the seed of this picture");
    open.toggleAttribute("hidden", locked);
    shut.toggleAttribute("hidden", !locked);
  };
  return { element, update };
}
