import { h, icon, setAttribute, setChildren, setHidden, setText } from "../shared/dom";
import { plain, sentence } from "../shared/format";
import { createLayers } from "../shared/layers";
import { createCompare } from "./compare";
import type { Context, Part } from "./context";
import { chosenModel, isCancelling } from "./state";

const SMALL_SIDE = 256;

/** The large picture, or a message in its place; its size does not change. */
export function createStage(ctx: Context): Part {
  const layers = createLayers("layers");
  const compare = createCompare(ctx);
  const badge = h("div", { class: "badge" });
  const frame = h("div", { class: "frame" }, layers.element, compare.element, badge);
  const message = h("div", { class: "message" });
  const element = h("div", { class: "stage" }, frame, message);

  const shape = (width: number, height: number, scale: number) => {
    const [w, tall] = width > 0 && height > 0 ? [width, height] : [1, 1];
    frame.style.setProperty("--ratio", String(w / tall));
    // Tiny pictures are enlarged only so far: they would be blurred.
    const enlarged = Math.max(w, tall) < SMALL_SIDE ? Math.max(w, tall) * Math.max(scale, 6) : 4096;
    frame.style.setProperty("--longest", `${enlarged}px`);
  };
  const scaleOf = (model: string) =>
    ctx.host.get("models").find((one) => one.id === model)?.display_scale ?? 1;

  const showMessage = (...children: HTMLElement[]) => {
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
        showMessage(parts.welcome());
        break;
      case "failed":
        layers.show(null, "");
        showMessage(parts.failure(scene.message, scene.hint));
        break;
      case "pending":
        layers.show(null, "");
        showMessage(parts.stage("Sending", ""));
        break;
      case "running": {
        const { job } = scene;
        const url = view.previews.get(job.id);
        shape(job.width, job.height, scaleOf(job.model));
        layers.show(url, `Preview of ${job.prompt}`);
        const left = job.steps > 0 ? 1 - job.step / job.steps : 0;
        frame.style.setProperty("--unfinished", left.toFixed(3));
        const stageText = job.state === "queued" ? "Waiting in the queue" : sentence(job.stage);
        showMessage(
          ...(url === null
            ? [parts.stage(isCancelling(job, view) ? "Cancelling" : stageText, job.detail)]
            : []),
        );
        break;
      }
      case "cancelled": {
        const { job } = scene;
        const url = view.previews.get(job.id);
        const text = job.steps > 0 ? `Cancelled at ${job.step} of ${job.steps}` : "Cancelled";
        shape(job.width, job.height, scaleOf(job.model));
        layers.show(url, `Unfinished: ${job.prompt}`);
        setHidden(badge, url === null);
        setText(badge, text);
        showMessage(...(url === null ? [parts.stage(text, "")] : []));
        break;
      }
      case "picture":
      case "compare": {
        const { picture } = scene;
        shape(picture.width, picture.height, scaleOf(picture.model));
        // Until it arrives the last preview stays, so that the picture fades in over it.
        const url = ctx.pictures.url(picture.id, "full");
        if (url !== null) layers.show(url, picture.prompt);
        showMessage();
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
  const instruction = h("p", { class: "instruction" }, "Describe a picture, then press Imagine.");
  const examples = h("div", { class: "examples" });
  const welcome = h("div", { class: "welcome" }, icon("spark"), instruction, examples);
  const what = h("p", { class: "what" });
  const hint = h("p", { class: "hint" });
  const failure = h("div", { class: "failure" }, icon("warning"), what, hint);
  let shown = "";

  return {
    stage(text: string, more: string) {
      setText(name, text);
      setText(detail, more);
      return busy;
    },
    failure(text: string, more: string) {
      setText(what, sentence(plain(text)));
      setText(hint, sentence(plain(more)));
      return failure;
    },
    welcome() {
      const model = chosenModel(ctx.host.get("models"), ctx.host.get("model"), ctx.host.get("engine"));
      const prompts = model?.examples ?? [];
      if (prompts.join("\n") !== shown) {
        shown = prompts.join("\n");
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
