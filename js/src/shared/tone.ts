/** Detects dark and light pages in any host, by the color that is behind the widget. */

type Color = { r: number; g: number; b: number; a: number };

export function parseColor(text: string): Color | null {
  const srgb = /^color\(srgb\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)(?:\s*\/\s*([\d.]+))?/.exec(text);
  const found = srgb ?? /^rgba?\(\s*([\d.]+)[,\s]+([\d.]+)[,\s]+([\d.]+)(?:[,/\s]+([\d.]+))?/.exec(text);
  if (found === null) return null;
  const scale = srgb === null ? 1 : 255;
  const [r, g, b] = [found[1], found[2], found[3]].map((part) => Number(part) * scale);
  return { r: r ?? 0, g: g ?? 0, b: b ?? 0, a: found[4] === undefined ? 1 : Number(found[4]) };
}

function parentOf(element: Element): Element | null {
  if (element.parentElement !== null) return element.parentElement;
  const root = element.getRootNode();
  return root instanceof ShadowRoot ? root.host : null;
}

/** "dark" or "light": the first opaque background above `element`, else what the system prefers. */
export function toneBehind(element: Element): "dark" | "light" {
  for (let at: Element | null = element; at !== null; at = parentOf(at)) {
    const color = parseColor(getComputedStyle(at).backgroundColor);
    if (color !== null && color.a > 0.5)
      return 0.2126 * color.r + 0.7152 * color.g + 0.0722 * color.b < 128 ? "dark" : "light";
  }
  return globalThis.matchMedia?.("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/** Keeps `card`'s data-tone up to date; returns a function that ends this. */
export function followTone(card: HTMLElement): () => void {
  const read = () => {
    const parent = parentOf(card);
    const tone = toneBehind(parent ?? card);
    if (card.dataset.tone !== tone) card.dataset.tone = tone;
  };
  // Themes load their style sheets after they set the attribute, hence the second reading.
  let later: ReturnType<typeof setTimeout> | undefined;
  const observer = new MutationObserver(() => {
    read();
    clearTimeout(later);
    later = setTimeout(read, 300);
  });
  const options = { attributes: true, attributeFilter: ["class", "style", "data-jp-theme-name", "theme"] };
  observer.observe(document.documentElement, options);
  if (document.body !== null) observer.observe(document.body, options);
  const preference = globalThis.matchMedia?.("(prefers-color-scheme: dark)");
  preference?.addEventListener?.("change", read);
  requestAnimationFrame(read);
  read();
  return () => {
    observer.disconnect();
    clearTimeout(later);
    preference?.removeEventListener?.("change", read);
  };
}
