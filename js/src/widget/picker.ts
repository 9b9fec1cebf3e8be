import type { Model } from "../contract";
import { h, icon, setAttribute, setChildren, setHidden, setText } from "../shared/dom";
import { formatBytes, percent } from "../shared/format";
import type { Context, Part } from "./context";
import { createOffer } from "./offer";
import { TEXT } from "./strings";

/** The models with their sizes and states; one is chosen. */
export function createPicker(ctx: Context): Part {
  const name = h("span", { class: "name" });
  const state = h("span", { class: "state" });
  const button = h(
    "button",
    { type: "button", class: "model-button", "aria-expanded": "false", onclick: () => toggle() },
    h("span", { class: "label" }, TEXT.model),
    name,
    state,
    icon("chevron"),
  );
  const list = h("ul", { class: "models", hidden: true, "aria-label": TEXT.models, onkeydown: onKey });
  const offer = createOffer(ctx);
  const element = h(
    "div",
    { role: "group", class: "picker", "aria-label": TEXT.model },
    button,
    list,
    offer.element,
  );
  const rows = new Map<string, ReturnType<typeof createRow>>();

  function toggle(open = list.hidden): void {
    setHidden(list, !open);
    setAttribute(button, "aria-expanded", open ? "true" : "false");
    if (open) list.scrollIntoView?.({ block: "nearest" });
  }
  function choose(model: Model): void {
    ctx.actions.chooseModel(model);
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
    const chosen = ctx.model;
    setText(name, chosen?.name ?? (ctx.host.get("model") || TEXT.none));
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
  if (model.state === "downloading")
    return TEXT.downloadingState(percent(model.done_bytes, model.total_bytes));
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
    const memory = model.memory_bytes > 0 ? TEXT.needsMemory(Math.round(model.memory_bytes / 1e9)) : "";
    const license = model.license === "" ? "" : TEXT.licensed(model.license);
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
    setText(label, asking ? TEXT.deleteSure : "");
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
    setAttribute(element, "aria-label", TEXT.deleteModel(shown.name));
    setAttribute(element, "title", TEXT.deleteFromDisk);
  };
  return { element, update };
}
