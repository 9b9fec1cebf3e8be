import type { Connection } from "./connection";
import type { Actions, Context } from "./context";
import type { Picture, Settings } from "./contract";
import { chosenModel, currentJob, settingsOf } from "./state";

/** What the buttons and keys do. */
export function createActions(
  ctx: Context,
  connection: Connection,
  toast: (text: string) => void,
  flush: () => void,
): Actions {
  const { host, view } = ctx;
  const form = (): Settings => ({
    prompt: host.get("prompt"),
    negative_prompt: host.get("negative_prompt"),
    model: host.get("model"),
    engine: host.get("engine"),
    width: host.get("width"),
    height: host.get("height"),
    steps: host.get("steps"),
    guidance_scale: host.get("guidance_scale"),
    seed: host.get("seed"),
    count: host.get("count"),
  });
  const refuse = (message: string, hint: string) => {
    view.refusal = { message, hint };
    ctx.announce(`${message}. ${hint}`);
    ctx.invalidate();
  };
  const fill = (settings: Settings) => {
    for (const [name, value] of Object.entries(settings)) ctx.set(name as "prompt", value as string);
  };

  return {
    imagine(settings = form()) {
      if (view.gone) return;
      view.refusal = null;
      if (settings.prompt.trim() === "") return refuse("There is no prompt yet", "Say what to draw.");
      const model = chosenModel(host.get("models"), settings.model, settings.engine);
      if (model !== null && (model.state === "download" || model.state === "downloading"))
        return refuse(
          `${model.name} is not on this machine yet`,
          "Download it first, or choose another model.",
        );
      flush();
      const request_id = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
      view.pending.push({ request_id, prompt: settings.prompt });
      view.following = true;
      view.compared = null;
      connection.send({ kind: "generate", request_id, settings });
      ctx.invalidate();
    },
    cancel(jobId) {
      if (view.cancelled.has(jobId)) return;
      view.cancelled.add(jobId);
      connection.send({ kind: "cancel", job_id: jobId, request_id: "" });
      ctx.invalidate();
    },
    cancelCurrent() {
      const job = currentJob(host.get("jobs"), view);
      const waiting = view.pending[0];
      if (job !== null) this.cancel(job.id);
      else if (waiting !== undefined) {
        connection.send({ kind: "cancel", job_id: "", request_id: waiting.request_id });
        ctx.announce("Cancelling");
      }
    },
    follow() {
      view.following = true;
      view.compared = null;
      view.refusal = null;
      ctx.invalidate();
    },
    show(picture) {
      view.refusal = null;
      if (ctx.scene.kind === "compare") {
        if (picture.id !== view.selected) view.compared = picture.id;
      } else {
        view.following = false;
        view.selected = picture.id;
      }
      ctx.invalidate();
    },
    compareWith(picture) {
      const shown = ctx.scene.kind === "picture" || ctx.scene.kind === "compare" ? ctx.scene.picture : null;
      if (picture === null || shown === null) view.compared = null;
      else {
        view.following = false;
        view.selected = shown.id;
        view.compared = neighbor(host.get("pictures"), shown.id);
      }
      ctx.invalidate();
    },
    reuse(picture) {
      fill(settingsOf(picture, picture.seed));
      toast("The form holds this picture's settings, seed included");
    },
    remix(picture) {
      const settings = settingsOf(picture, null);
      fill(settings);
      this.imagine(settings);
    },
    save(picture) {
      connection.send({ kind: "save", picture_id: picture.id });
    },
    copy(picture) {
      copyText(picture.cell).then(
        () => toast("Copied: paste it into a cell"),
        () => toast("This browser does not allow copying here"),
      );
    },
  };
}

/** The picture made before `id`, or the one after it when it is the first. */
function neighbor(pictures: Picture[], id: string): string | null {
  const at = pictures.findIndex((one) => one.id === id);
  return (pictures[at - 1] ?? pictures[at + 1])?.id ?? null;
}

async function copyText(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages without a secure origin, and some webviews, have no clipboard but still know this.
    const area = document.createElement("textarea");
    area.value = text;
    area.style.position = "fixed";
    area.style.opacity = "0";
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    if (!copied) throw new Error("no clipboard");
  }
}
