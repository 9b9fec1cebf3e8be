import { h, setAttribute } from "./dom";

const FADE_MS = 320;

/** Shows one image; the next one fades in over it once it is decoded, so the element is never empty. */
export function createLayers(className: string): {
  element: HTMLElement;
  show(url: string | null, alt: string): void;
} {
  const element = h("div", { class: className });
  let current: string | null = null;
  const show = (url: string | null, alt: string) => {
    const top = element.lastElementChild as HTMLImageElement | null;
    if (url === current) {
      if (top !== null && url !== null) setAttribute(top, "alt", alt);
      return;
    }
    current = url;
    if (url === null) {
      element.replaceChildren();
      return;
    }
    const next = h("img", { alt, class: "entering", draggable: "false" });
    next.src = url;
    const enter = () => {
      if (current !== url) return;
      for (const old of [...element.children].slice(0, -1)) old.remove();
      top?.setAttribute("alt", "");
      element.append(next);
      next.getBoundingClientRect();
      next.classList.remove("entering");
      setTimeout(() => {
        if (next.isConnected && top !== next) top?.remove();
      }, FADE_MS);
    };
    if (typeof next.decode === "function") next.decode().then(enter, enter);
    else enter();
  };
  return { element, show };
}
