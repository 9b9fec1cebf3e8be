import { h, icon, setAttribute, setText } from "../shared/dom";
import { recipeText } from "./caption";
import type { Context, Part } from "./context";
import { TEXT } from "./strings";

/** One picture over the whole page; arrow keys go through all of them. */
export function createLarge(ctx: Context, shownPictures: () => string[]): Part {
  const image = h("img", { alt: "", draggable: "false" });
  const prompt = h("p", { class: "first", dir: "auto" });
  const recipe = h("p", { class: "second" });
  const button = (name: Parameters<typeof icon>[0], label: string, action: () => void) =>
    h(
      "button",
      { type: "button", class: "quiet", "aria-label": label, title: label, onclick: action },
      icon(name),
    );
  const previous = button("left", TEXT.previous, () => go(-1));
  const next = button("right", TEXT.next, () => go(1));
  const favorite = button("star", TEXT.favorite, () => {
    const picture = shown();
    if (picture !== undefined) ctx.actions.favorite(picture);
  });
  const actual = h(
    "button",
    { type: "button", class: "secondary", "aria-pressed": "false", onclick: () => setActual(!isActual) },
    TEXT.actualPixels,
  );
  const element = h(
    "dialog",
    {
      class: "large",
      "aria-label": TEXT.large,
      onkeydown: (event: KeyboardEvent) => onKey(event),
      onclose: () => ctx.actions.showLarge(null),
      onclick: (event: MouseEvent) => event.target === element && close(),
    },
    h("div", { class: "large-picture" }, previous, h("div", { class: "large-frame" }, image), next),
    h(
      "div",
      { class: "large-caption" },
      h("div", { class: "lines" }, prompt, recipe),
      actual,
      favorite,
      button("close", TEXT.close, () => close()),
    ),
  );
  let isActual = false;

  function setActual(value: boolean): void {
    isActual = value;
    setAttribute(actual, "aria-pressed", value ? "true" : "false");
    setAttribute(element, "data-actual", value);
  }
  const shown = () => ctx.host.get("pictures").find((one) => one.id === ctx.view.large);
  const close = () => {
    if (element.open && typeof element.close === "function") element.close();
    else ctx.actions.showLarge(null);
  };
  /** Through the pictures as the strip has them, newest first. */
  function go(by: number): void {
    const ids = shownPictures();
    const id = ids[ids.indexOf(ctx.view.large ?? "") + by];
    const picture = ctx.host.get("pictures").find((one) => one.id === id);
    if (picture === undefined) return;
    ctx.actions.show(picture);
    ctx.actions.showLarge(picture);
  }
  function onKey(event: KeyboardEvent): void {
    const to = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (to !== undefined) go(to);
    else if (event.key === "Escape") close();
    else if (event.key.toLowerCase() === "f") favorite.click();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
  const update = () => {
    const picture = shown();
    if (picture === undefined) {
      if (element.open) close();
      return;
    }
    if (!element.open) {
      if (typeof element.showModal === "function") element.showModal();
      else element.setAttribute("open", "");
    }
    const url = ctx.pictures.url(picture.id, "full") ?? ctx.pictures.url(picture.id, "thumbnail");
    if (url !== null && image.getAttribute("src") !== url) image.src = url;
    setAttribute(image, "alt", picture.prompt);
    element.style.setProperty("--ratio", String(picture.width / Math.max(1, picture.height)));
    setText(prompt, picture.prompt);
    setText(recipe, recipeText(picture, ctx));
    setAttribute(favorite, "aria-pressed", picture.favorite ? "true" : "false");
    const ids = shownPictures();
    const at = ids.indexOf(picture.id);
    setAttribute(previous, "aria-disabled", at <= 0 ? "true" : null);
    setAttribute(next, "aria-disabled", at < 0 || at >= ids.length - 1 ? "true" : null);
  };
  return { element, update };
}
