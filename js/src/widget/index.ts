import type { Host } from "../contract";
import { createView } from "./view";

interface RenderProps {
  model: Host;
  el: HTMLElement;
  signal?: AbortSignal;
}

export default {
  render({ model, el, signal }: RenderProps): () => void {
    const dispose = createView(model, el);
    signal?.addEventListener("abort", dispose, { once: true });
    return dispose;
  },
};
