import { h, icon, setHidden, setText } from "../shared/dom";
import type { Context, Part } from "./context";
import { createFormat, createNumber, createSeed, createSelect } from "./fields";
import { failureOf } from "./state";
import { TEXT } from "./strings";

const SIZE = { min: 16, max: 4096, step: 8 };
const OWN = ["width", "height", "steps", "guidance_scale", "strength"] as const;
const IN_MORE = [
  "width",
  "height",
  "steps",
  "guidance_scale",
  "seed",
  "count",
  "scheduler",
  "style",
  "loras",
  "hires",
  "hires_strength",
  "hires_steps",
  "upscale",
  "upscaler",
];

/** Format, steps, guidance, seed and the rest, collapsed. An empty field means the model's default. */
export function createMore(ctx: Context): Part {
  const format = createFormat(ctx, SIZE);
  const steps = createNumber(ctx, "steps", TEXT.steps, { min: 1, max: 1000, step: 1 });
  const guidance = createNumber(ctx, "guidance_scale", TEXT.guidance, { min: 0, max: 100, step: 0.5 });
  const count = createNumber(ctx, "count", TEXT.pictures, { min: 1, max: 100, step: 1 });
  const seed = createSeed(ctx);
  const sampler = createSelect(ctx, "scheduler", TEXT.sampler, {
    empty: TEXT.modelsOwn,
    values: () => ctx.host.get("choices").samplers[ctx.model?.sampler_kind ?? ""] ?? [],
  });
  const style = createSelect(ctx, "style", TEXT.style, {
    empty: TEXT.none,
    values: () => ctx.host.get("choices").styles,
  });
  const loras = createLoras(ctx);
  const larger = createLarger(ctx);
  const presets = createPresets(ctx);
  const defaults = h(
    "button",
    { type: "button", class: "secondary wide", onclick: () => useDefaults() },
    TEXT.useDefaults,
  );
  const summary = h("span", { class: "summary-text" });
  const element = h(
    "details",
    { class: "fold more", ontoggle: () => ctx.invalidate() },
    h("summary", {}, icon("chevron"), TEXT.more, summary),
    h(
      "div",
      { class: "grid" },
      format.element,
      steps.element,
      guidance.element,
      seed.element,
      count.element,
      sampler.element,
      style.element,
      loras.element,
      ...larger.elements,
      presets.element,
      defaults,
    ),
  );
  const useDefaults = () => {
    for (const name of OWN) ctx.set(name, null);
    ctx.set("aspect_ratio", "");
    ctx.set("scheduler", "");
  };
  let opened: unknown = null;
  const update = () => {
    const { host, model, view } = ctx;
    const shown = (value: number | undefined) =>
      value === undefined || value === 0 ? TEXT.auto : String(value);
    const parts = [format, seed, sampler, style, loras, larger, presets];
    for (const part of parts) part.update();
    steps.update(shown(model?.steps));
    guidance.update(model === null ? TEXT.auto : String(model.guidance_scale));
    count.update("1");
    setHidden(
      defaults,
      OWN.every((name) => host.get(name) === null) &&
        `${host.get("aspect_ratio")}${host.get("scheduler")}` === "",
    );
    const ratio = host.get("aspect_ratio");
    const size = `${host.get("width") ?? shown(model?.width)} × ${host.get("height") ?? shown(model?.height)}`;
    const locked = host.get("seed") === null ? "" : ` · ${TEXT.seedLocked}`;
    const stepCount = host.get("steps") ?? shown(model?.steps);
    setText(summary, `${ratio === "" ? size : ratio} · ${TEXT.stepCount(stepCount)}${locked}`);
    // A refused request opens what it was refused for, once.
    if (view.error !== opened) {
      opened = view.error;
      if (view.error !== null && IN_MORE.includes(failureOf(view)?.field ?? "")) element.open = true;
    }
  };
  return { element, update };
}

/** A second, larger pass, and enlarging the finished picture. */
function createLarger(ctx: Context) {
  const hires = createNumber(ctx, "hires", TEXT.hires, { min: 1, max: 4, step: 0.25 });
  const upscale = createNumber(ctx, "upscale", TEXT.upscaleAfter, { min: 1, max: 8, step: 0.5 });
  const strength = createNumber(ctx, "hires_strength", TEXT.hiresStrength, { min: 0, max: 1, step: 0.05 });
  const steps = createNumber(ctx, "hires_steps", TEXT.hiresSteps, { min: 1, max: 1000, step: 1 });
  const upscaler = createSelect(ctx, "upscaler", TEXT.upscaler, {
    empty: TEXT.installedOne,
    values: () => ctx.host.get("choices").upscalers,
  });
  hires.element.title = TEXT.hiresHint;
  upscale.element.title = TEXT.upscaleAfterHint;
  upscaler.element.classList.add("wide");
  const update = () => {
    const { host, model } = ctx;
    const isHires = host.get("hires") !== null;
    hires.update(TEXT.off);
    upscale.update(TEXT.off);
    strength.update("0.4");
    steps.update(String(host.get("steps") ?? (model?.steps || TEXT.auto)));
    upscaler.update();
    for (const part of [strength, steps]) setHidden(part.element, !isHires);
    setHidden(upscaler.element, !isHires && host.get("upscale") === null);
  };
  const elements = [hires, upscale, strength, steps, upscaler].map((part) => part.element);
  return { elements, update };
}

/** LoRAs by file or Hub name, each with its scale. */
function createLoras(ctx: Context): Part {
  const list = h("ul", { class: "loras" });
  const known = h("datalist", { id: `swiftai-nb-loras-${Math.random().toString(36).slice(2)}` });
  const source = h("input", {
    type: "text",
    list: known.id,
    placeholder: TEXT.loraPlaceholder,
    "aria-label": TEXT.lora,
    maxlength: 500,
    onkeydown: (event: KeyboardEvent) => {
      if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) add();
    },
  });
  const button = h("button", { type: "button", class: "secondary", onclick: () => add() }, TEXT.addLora);
  const add = () => {
    const name = source.value.trim();
    const present = ctx.host.get("loras");
    source.value = "";
    if (name !== "" && !present.some((one) => one.source === name))
      ctx.set("loras", [...present, { source: name, scale: 1 }]);
  };
  const element = h(
    "div",
    { class: "wide lora-field" },
    h("span", { class: "label" }, TEXT.lora),
    list,
    h("div", { class: "row" }, source, button, known),
  );
  let shown = "";
  const row = (name: string, scale: number) => {
    const others = () => ctx.host.get("loras").filter((one) => one.source !== name);
    const amount = h("input", {
      type: "number",
      min: -10,
      max: 10,
      step: 0.1,
      value: scale,
      "aria-label": `${TEXT.loraScale} ${name}`,
      onchange: () => {
        const value = Number(amount.value);
        if (amount.value !== "" && Math.abs(value) <= 10)
          ctx.set(
            "loras",
            ctx.host.get("loras").map((one) => (one.source === name ? { ...one, scale: value } : one)),
          );
      },
    });
    const remove = h(
      "button",
      {
        type: "button",
        class: "quiet",
        "aria-label": TEXT.removeLora(name),
        onclick: () => ctx.set("loras", others()),
      },
      icon("close"),
    );
    return h("li", {}, h("span", { class: "name", title: name }, name), amount, remove);
  };
  const update = () => {
    const values = ctx.host.get("loras");
    const { loras } = ctx.host.get("choices");
    const text = JSON.stringify([values, loras]);
    if (text === shown) return;
    shown = text;
    list.replaceChildren(...values.map((one) => row(one.source, one.scale)));
    known.replaceChildren(...loras.map((value) => h("option", { value })));
  };
  return { element, update };
}

/** Forms by name. */
function createPresets(ctx: Context): Part {
  const select = h("select", {
    "aria-label": TEXT.preset,
    onchange: () => {
      if (select.value !== "") ctx.actions.applyPreset(select.value);
      ctx.invalidate();
    },
  });
  const name = h("input", {
    type: "text",
    "aria-label": TEXT.presetName,
    placeholder: TEXT.presetName,
    maxlength: 60,
    onkeydown: (event: KeyboardEvent) => {
      if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) save();
    },
  });
  const save = () => {
    const chosen = name.value.trim();
    if (chosen === "") return name.focus();
    ctx.actions.savePreset(chosen);
    name.value = "";
  };
  const remove = h(
    "button",
    {
      type: "button",
      class: "quiet",
      "aria-label": TEXT.deletePreset,
      title: TEXT.deletePreset,
      onclick: () => {
        ctx.actions.deletePreset(select.value);
        select.value = "";
        ctx.invalidate();
      },
    },
    icon("trash"),
  );
  const element = h(
    "div",
    { class: "wide presets" },
    h("span", { class: "label" }, TEXT.preset),
    h("div", { class: "row" }, select, remove),
    h(
      "div",
      { class: "row" },
      name,
      h("button", { type: "button", class: "secondary", onclick: save }, TEXT.savePreset),
    ),
  );
  let shown: string | null = null;
  const update = () => {
    const names = Object.keys(ctx.host.get("choices").presets).sort();
    if (names.join("\n") !== shown) {
      shown = names.join("\n");
      const { value } = select;
      select.replaceChildren(
        h("option", { value: "" }, TEXT.choosePreset),
        ...names.map((one) => h("option", { value: one }, one)),
      );
      select.value = names.includes(value) ? value : "";
      setHidden(select.parentElement as HTMLElement, names.length === 0);
    }
    setHidden(remove, select.value === "");
  };
  return { element, update };
}
