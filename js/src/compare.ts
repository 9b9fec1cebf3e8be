import type { Context, Part } from "./context";
import { h, setAttribute, setText } from "./dom";

/** A second picture over the one on the stage, uncovered by a slider. */
export function createCompare(ctx: Context): Part {
  const over = h("img", { class: "over", alt: "", draggable: "false" });
  const left = h("span", { class: "side left" });
  const right = h("span", { class: "side right" });
  const line = h("span", { class: "line" });
  const slider = h("input", {
    type: "range",
    class: "slider",
    min: 0,
    max: 100,
    step: 1,
    value: 50,
    "aria-label": "How much of the first picture to show",
    oninput: () => place(),
  });
  const element = h("div", { class: "compare", hidden: true }, over, line, left, right, slider);
  const place = () => {
    element.style.setProperty("--at", `${slider.value}%`);
    setAttribute(slider, "aria-valuetext", `${slider.value} % of the first picture`);
  };
  place();

  const update = () => {
    if (ctx.scene.kind !== "compare") return;
    const { picture, other } = ctx.scene;
    const url = ctx.pictures.url(other.id, "full") ?? ctx.pictures.url(other.id, "thumbnail");
    if (url !== null && over.getAttribute("src") !== url) over.src = url;
    setAttribute(over, "alt", `Compared with: ${other.prompt}`);
    setText(left, picture.seed === null ? "first" : `seed ${picture.seed}`);
    setText(right, other.seed === null ? "second" : `seed ${other.seed}`);
  };
  return { element, update };
}
