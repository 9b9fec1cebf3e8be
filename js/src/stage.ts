import { createCompare } from "./compare";
import type { Context, Part } from "./context";
import { h, icon, setAttribute, setChildren, setHidden, setText } from "./dom";
import { sentence } from "./format";
import { chosenModel, isCancelling } from "./state";

const FADE_MS = 320;
const SMALL_SIDE = 256;

/** Two layers that fade into each other; the picture below stays until the one above is there. */
function createLayers(): { element: HTMLElement; show(url: string | null, alt: string): void } {
  const element = h("div", { class: "layers" });
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

/** The large picture, or what stands in for it. It keeps its size whatever it shows. */
export function createStage(ctx: Context): Part {
  const layers = createLayers();
  const compare = createCompare(ctx);
  const badge = h("div", { class: "badge" });
  const frame = h("div", { class: "frame" }, layers.element, compare.element, badge);
  const message = h("div", { class: "message" });
  const element = h("div", { class: "stage" }, frame, message);

  const shape = (width: number, height: number, scale: number) => {
    const [w, tall] = width > 0 && height > 0 ? [width, height] : [1, 1];
    frame.style.setProperty("--ratio", String(w / tall));
    // Tiny pictures are enlarged only so far: a thumbnail blown up to a wall is not kind to it.
    const enlarged = Math.max(w, tall) < SMALL_SIDE ? Math.max(w, tall) * Math.max(scale, 6) : 4096;
    frame.style.setProperty("--longest", `${enlarged}px`);
  };
  const scaleOf = (model: string) =>
    ctx.host.get("models").find((one) => one.id === model)?.display_scale ?? 1;

  const say = (...children: HTMLElement[]) => {
    setHidden(message, children.length === 0);
    setChildren(message, children);
  };
  const parts = createMessages(ctx);

  const update = () => {
    const { scene, view } = ctx;
    setAttribute(element, "data-scene", scene.kind);
    setHidden(badge, true);
    setHidden(compare.element, scene.kind !== "compare");
    frame.style.setProperty("--unfinished", "0");
    switch (scene.kind) {
      case "empty":
        layers.show(null, "");
        say(parts.welcome());
        break;
      case "failed":
        layers.show(null, "");
        say(parts.failure(scene.message, scene.hint));
        break;
      case "pending":
        layers.show(null, "");
        say(parts.stage("Sending", ""));
        break;
      case "running": {
        const { job } = scene;
        const url = view.previews.get(job.id) ?? null;
        shape(job.width, job.height, scaleOf(job.model));
        layers.show(url, `Preview of ${job.prompt}`);
        const left = job.steps > 0 ? 1 - job.step / job.steps : 0;
        frame.style.setProperty("--unfinished", left.toFixed(3));
        const waits = job.state === "queued" ? "Waiting its turn" : sentence(job.stage);
        say(
          ...(url === null ? [parts.stage(isCancelling(job, view) ? "Cancelling" : waits, job.detail)] : []),
        );
        break;
      }
      case "cancelled": {
        const { job } = scene;
        const url = view.previews.get(job.id) ?? null;
        const words = job.steps > 0 ? `Cancelled at ${job.step} of ${job.steps}` : "Cancelled";
        shape(job.width, job.height, scaleOf(job.model));
        layers.show(url, `Unfinished: ${job.prompt}`);
        setHidden(badge, url === null);
        setText(badge, words);
        say(...(url === null ? [parts.stage(words, "")] : []));
        break;
      }
      case "picture":
      case "compare": {
        const { picture } = scene;
        shape(picture.width, picture.height, scaleOf(picture.model));
        // Until it came, the last preview stays: the picture then fades in from it.
        const url = ctx.pictures.url(picture.id, "full");
        if (url !== null) layers.show(url, picture.prompt);
        say();
        if (scene.kind === "compare") compare.update();
        break;
      }
    }
  };
  return { element, update };
}

function createMessages(ctx: Context) {
  const name = h("p", { class: "stage-name" });
  const detail = h("p", { class: "stage-detail" });
  const busy = h("div", { class: "busy" }, h("span", { class: "pulse" }), name, detail);
  const invitation = h("p", { class: "invitation" }, "Describe a picture, then press Imagine.");
  const examples = h("div", { class: "examples" });
  const welcome = h("div", { class: "welcome" }, icon("spark"), invitation, examples);
  const what = h("p", { class: "what" });
  const hint = h("p", { class: "hint" });
  const failure = h("div", { class: "failure" }, icon("warning"), what, hint);
  let offered = "";

  return {
    stage(text: string, more: string) {
      setText(name, text);
      setText(detail, more);
      return busy;
    },
    failure(text: string, more: string) {
      setText(what, text);
      setText(hint, sentence(more));
      return failure;
    },
    welcome() {
      const model = chosenModel(ctx.host.get("models"), ctx.host.get("model"), ctx.host.get("engine"));
      const prompts = model?.examples ?? [];
      if (prompts.join("\n") !== offered) {
        offered = prompts.join("\n");
        setChildren(
          examples,
          prompts.map((prompt) =>
            h("button", { type: "button", class: "chip", onclick: () => ctx.set("prompt", prompt) }, prompt),
          ),
        );
      }
      return welcome;
    },
  };
}
