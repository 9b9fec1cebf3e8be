const SMALLEST_ROOM = 300;
const MARGIN = 24;
/** The share of the window that is left to the code above the card. */
const ABOVE_SHARE = 0.15;
/** A narrower card has one column, and needs all the room. */
const TWO_COLUMNS = 600;

/**
 * Keeps `--room` of `root` at the height of what is visible of the notebook, less a short input above it, so that
 * the card is never taller than the window; returns a function that ends this.
 */
export function followRoom(root: HTMLElement): () => void {
  let area: Element | null = null;
  const measure = () => {
    const found = scrollerOf(root);
    if (found !== area) {
      if (area !== null) observer?.unobserve(area);
      area = found;
      if (area !== null) observer?.observe(area);
    }
    const visible = Math.min(area?.clientHeight || window.innerHeight, window.innerHeight);
    const input = root.closest(".jp-Cell")?.querySelector(".jp-Cell-inputWrapper")?.clientHeight ?? 0;
    const above = MARGIN + (root.clientWidth < TWO_COLUMNS ? 0 : Math.min(input, visible * ABOVE_SHARE));
    root.style.setProperty("--room", `${Math.max(SMALLEST_ROOM, visible - above)}px`);
  };
  const observer = typeof ResizeObserver === "function" ? new ResizeObserver(measure) : null;
  window.addEventListener("resize", measure);
  const first = requestAnimationFrame(measure);
  measure();
  return () => {
    observer?.disconnect();
    cancelAnimationFrame(first);
    window.removeEventListener("resize", measure);
  };
}

/** The outermost ancestor that scrolls: the notebook. Those further in may be as tall as the card itself. */
function scrollerOf(element: HTMLElement): Element | null {
  let found: Element | null = null;
  for (let at = element.parentElement; at !== null && at !== document.body; at = at.parentElement) {
    const { overflowY } = getComputedStyle(at);
    if ((overflowY === "auto" || overflowY === "scroll") && at.clientHeight > 0) found = at;
  }
  return found;
}
