import { h, icon, setAttribute, setChildren, setHidden, setText } from "../shared/dom";
import { plain, sentence } from "../shared/format";
import { createLayers } from "../shared/layers";
import { acceptDrops } from "./choosing";
import { createCompare } from "./compare";
import type { Context, Part } from "./context";
import { createMask } from "./mask";
import { isCancelling, pictureOf } from "./state";
import { TEXT } from "./strings";
import { createTiles } from "./tiles";

// A small picture is enlarged only so far: beyond, it would be a blur.
const MAX_ENLARGEMENT = 3;
const LARGEST_SMALL_SIDE = 512;

/** The large picture, or a message in its place; its size does not change. */
export function createStage(ctx: Context): Part & { tools: HTMLElement } {
  const layers = createLayers("layers");
  const compare = createCompare(ctx);
  const mask = createMask(ctx);
  const tiles = createTiles(ctx);
  const badge = h("div", { class: "badge" });
  const enlarge = h(
    "button",
    {
      type: "button",
      class: "quiet enlarge",
      "aria-label": TEXT.showLarge,
      title: TEXT.showLarge,
      onclick: () => ctx.actions.showLarge(pictureOf(ctx.scene)),
    },
    icon("large"),
  );
  const frame = h("div", { class: "frame" }, layers.element, compare.element, mask.element, badge, enlarge);
  const message = h("div", { class: "message" });
  const element = h("div", { class: "stage" }, frame, tiles.element, message);
  acceptDrops(ctx, element, "image");
  layers.element.addEventListener("dblclick", () => ctx.actions.showLarge(pictureOf(ctx.scene)));

  const shape = (width: number, height: number) => {
    const [across, down] = width > 0 && height > 0 ? [width, height] : [1, 1];
    const longest = Math.max(across, down);
    frame.style.setProperty("--ratio", String(across / down));
    const limit = longest < LARGEST_SMALL_SIDE ? longest * MAX_ENLARGEMENT : 4096;
    frame.style.setProperty("--longest", `${limit}px`);
  };
  const showMessage = (...children: HTMLElement[]) => {
    setHidden(message, children.length === 0);
    setChildren(message, children);
  };
  const parts = createMessages(ctx);

  const update = () => {
    const { scene, view } = ctx;
    const batch =
      scene.kind === "tiles" || (scene.kind === "running" && scene.job.count > 1) ? scene.job : null;
    setAttribute(element, "data-scene", scene.kind);
    setHidden(badge, true);
    setHidden(frame, batch !== null);
    setHidden(compare.element, scene.kind !== "compare");
    setHidden(enlarge, scene.kind !== "picture");
    tiles.show(batch);
    mask.update();
    frame.style.setProperty("--unfinished", "0");
    switch (scene.kind) {
      case "empty":
        layers.show(null, "");
        showMessage(parts.welcome());
        break;
      case "start":
        shape(scene.input.width, scene.input.height);
        layers.show(
          ctx.pictures.url(scene.input.id, "full") ?? ctx.pictures.url(scene.input.id, "thumbnail"),
          TEXT.startShown,
        );
        showMessage();
        break;
      case "failed":
        layers.show(null, "");
        showMessage(parts.failure(scene.message, scene.hint));
        break;
      case "pending":
        layers.show(null, "");
        showMessage(parts.stage(TEXT.sending, ""));
        break;
      case "tiles":
        layers.show(null, "");
        showMessage();
        break;
      case "running": {
        const { job } = scene;
        const url = batch === null ? view.previews.get(job.id) : null;
        shape(job.width, job.height);
        layers.show(url, TEXT.previewOf(job.prompt));
        const left = job.steps > 0 ? 1 - job.step / job.steps : 0;
        frame.style.setProperty("--unfinished", left.toFixed(3));
        const stageText = job.state === "queued" ? TEXT.waitingInQueue : sentence(job.stage);
        const text = isCancelling(job, view) ? TEXT.cancelling : stageText;
        showMessage(...(url === null && batch === null ? [parts.stage(text, job.detail)] : []));
        break;
      }
      case "cancelled": {
        const { job } = scene;
        const url = view.previews.get(job.id);
        const text = job.steps > 0 ? TEXT.cancelledAt(job.step, job.steps) : TEXT.cancelled;
        shape(job.width, job.height);
        layers.show(url, TEXT.unfinished(job.prompt));
        setHidden(badge, url === null);
        setText(badge, text);
        showMessage(...(url === null ? [parts.stage(text, "")] : []));
        break;
      }
      case "picture":
      case "compare": {
        const { picture } = scene;
        shape(picture.width, picture.height);
        // Until it arrives the last preview stays, so that the picture fades in over it.
        const url = ctx.pictures.url(picture.id, "full");
        if (url !== null) layers.show(url, picture.prompt);
        showMessage();
        if (scene.kind === "compare") compare.update();
        break;
      }
    }
  };
  return { element, tools: mask.tools, update, dispose: () => mask.dispose?.() };
}

function createMessages(ctx: Context) {
  const name = h("p", { class: "stage-name" });
  const detail = h("p", { class: "stage-detail" });
  const busy = h("div", { class: "busy" }, h("span", { class: "pulse" }), name, detail);
  const instruction = h("p", { class: "instruction" }, TEXT.instruction);
  const invitation = h("p", { class: "invitation" }, TEXT.dropInvitation);
  const examples = h("div", { class: "examples" });
  const welcome = h("div", { class: "welcome" }, icon("spark"), instruction, examples, invitation);
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
      const own = ctx.model?.examples ?? [];
      const prompts = own.length > 0 ? own : TEXT.examples;
      setHidden(invitation, ctx.model?.takes_image === false);
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
