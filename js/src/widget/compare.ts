import type { Picture } from "../contract";
import { h, setAttribute, setText } from "../shared/dom";
import type { Context, Part } from "./context";
import { TEXT } from "./strings";

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
    "aria-label": TEXT.compareSlider,
    oninput: () => place(),
  });
  const element = h("div", { class: "compare", hidden: true }, over, line, left, right, slider);
  const place = () => {
    element.style.setProperty("--at", `${slider.value}%`);
    setAttribute(slider, "aria-valuetext", TEXT.comparedShare(slider.value));
  };
  place();

  const update = () => {
    if (ctx.scene.kind !== "compare") return;
    const { picture, other } = ctx.scene;
    const url = ctx.pictures.url(other.id, "full") ?? ctx.pictures.url(other.id, "thumbnail");
    if (url !== null && over.getAttribute("src") !== url) over.src = url;
    setAttribute(over, "alt", TEXT.comparedWith(other.prompt));
    const [leftText, rightText] = differences(picture, other);
    setText(left, leftText);
    setText(right, rightText);
  };
  return { element, update };
}

/** The settings in which two pictures differ, as the labels of both: ["8 steps", "16 steps"]. */
export function differences(first: Picture, second: Picture): [string, string] {
  const texts: ((picture: Picture) => string)[] = [
    (picture) => picture.prompt,
    (picture) => (picture.negative_prompt === "" ? "" : TEXT.negativeOf(picture.negative_prompt)),
    (picture) => picture.model,
    (picture) => `${picture.width} × ${picture.height}`,
    (picture) => (picture.steps === null ? "" : TEXT.stepCount(picture.steps)),
    (picture) => (picture.guidance_scale === null ? "" : TEXT.guidanceOf(picture.guidance_scale)),
    (picture) => picture.scheduler,
    (picture) => (picture.strength === null ? "" : TEXT.changedBy(picture.strength)),
    (picture) => picture.loras.map((one) => `${TEXT.lora} ${one.source} ${one.scale}`).join(", "),
    (picture) => (picture.seed === null ? "" : TEXT.seedOf(picture.seed)),
  ];
  const differing = texts.filter((text) => text(first) !== text(second));
  const labels = [first, second].map((picture) =>
    differing
      .map((text) => text(picture))
      .filter((text) => text !== "")
      .join(" · "),
  );
  return [labels[0] || TEXT.first, labels[1] || TEXT.second];
}
