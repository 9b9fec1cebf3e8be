import type { CellHost } from "../contract";
import { createCellView } from "./view";

interface RenderProps {
  model: CellHost;
  el: HTMLElement;
  signal?: AbortSignal;
}

export default {
  render({ model, el, signal }: RenderProps): () => void {
    const dispose = createCellView(model, el);
    signal?.addEventListener("abort", dispose, { once: true });
    return dispose;
  },
};
