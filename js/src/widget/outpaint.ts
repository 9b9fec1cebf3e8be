import { h, icon, setAttribute, setHidden, setText } from "../shared/dom";
import type { Context, Part } from "./context";
import { failureOf, inputOf } from "./state";
import { TEXT } from "./strings";

const SIDES = ["left", "top", "right", "bottom"] as const;
const MAX_MARGIN = 4096;
type Margins = Record<(typeof SIDES)[number], number>;

/** The margins in a text such as "left=128,top=64"; one number is that of all sides. */
export function marginsOf(text: string): Margins {
  const all = /^\s*\d+\s*$/.test(text) ? Number(text) : 0;
  const margins: Margins = { left: all, top: all, right: all, bottom: all };
  for (const part of text.split(",")) {
    const [name, value] = part.split("=").map((piece) => piece.trim().toLowerCase());
    if (name !== undefined && name in margins) margins[name as keyof Margins] = Number(value) || 0;
  }
  return margins;
}

/** The text of margins; empty when all are 0. */
export function outpaintText(margins: Margins): string {
  return SIDES.filter((side) => margins[side] > 0)
    .map((side) => `${side}=${margins[side]}`)
    .join(",");
}

/** How far the start picture is continued beyond its edges, collapsed while it is not. */
export function createOutpaint(ctx: Context): Part {
  const fields = SIDES.map((side) => {
    const input = h("input", {
      type: "number",
      min: 0,
      max: MAX_MARGIN,
      step: 8,
      inputmode: "numeric",
      placeholder: "0",
      oninput: () => {
        const value = Number(input.value);
        const isRefused = !(Number.isInteger(value) && value >= 0 && value <= MAX_MARGIN);
        setAttribute(input, "aria-invalid", isRefused ? "true" : null);
        if (isRefused) return;
        ctx.set("outpaint", outpaintText({ ...marginsOf(ctx.host.get("outpaint")), [side]: value }));
      },
      onblur: () => update(),
    });
    const label = h("span", { class: "label" }, TEXT.sides[side] ?? side);
    return { side, input, element: h("label", { class: "field" }, label, input) };
  });
  const summary = h("span", { class: "summary-text" });
  const element = h(
    "details",
    { class: "fold outpaint" },
    h("summary", {}, icon("chevron"), TEXT.outpaint, summary),
    h("div", { class: "sides" }, ...fields.map((one) => one.element)),
    h("p", { class: "note" }, TEXT.outpaintHint),
  );
  let shown = "";
  const update = () => {
    setHidden(element, inputOf(ctx.host.get("inputs"), "image") === null);
    const text = ctx.host.get("outpaint");
    if (text !== "" && text !== shown) element.open = true;
    shown = text;
    const margins = marginsOf(text);
    const isFailed = failureOf(ctx.view)?.field === "outpaint";
    for (const { side, input } of fields) {
      const isTyping = document.activeElement === input || input.matches(":focus");
      if (!isTyping && Number(input.value) !== margins[side])
        input.value = margins[side] ? String(margins[side]) : "";
      if (!isTyping) setAttribute(input, "aria-invalid", isFailed && margins[side] > 0 ? "true" : null);
    }
    setText(summary, text.replaceAll("=", " ").replaceAll(",", ", "));
  };
  return { element, update };
}
