/**
 * Below the widget the kernel displays the newest picture as an ordinary output, so that a saved notebook
 * shows it without a kernel. While the widget is displayed, that output is hidden.
 */
export function hideStaticOutput(card: HTMLElement, tail: () => string): { update(): void; dispose(): void } {
  let area: Element | null = null;
  const hidden = new Set<HTMLElement>();
  const observer = new MutationObserver(() => hide());

  const hide = () => {
    const end = tail();
    if (area === null || end === "") return;
    for (const image of area.querySelectorAll<HTMLImageElement>("img[src^='data:image/png']")) {
      if (card.contains(image) || !image.src.trimEnd().endsWith(end)) continue;
      const output = image.closest<HTMLElement>(".jp-OutputArea-child") ?? image;
      output.style.display = "none";
      hidden.add(output);
    }
  };
  const update = () => {
    const found = card.closest(".jp-OutputArea, .cell-output-ipywidget-background, .output_container");
    if (found !== null && found !== area) {
      area = found;
      observer.disconnect();
      observer.observe(area, { childList: true, subtree: true, attributes: true, attributeFilter: ["src"] });
    }
    hide();
  };
  const dispose = () => {
    observer.disconnect();
    for (const output of hidden) output.style.display = "";
  };
  return { update, dispose };
}
