import { type Picture, type Request, SETTINGS, type Settings } from "../contract";
import type { Connection } from "../shared/connection";
import type { Actions, Context } from "./context";
import { chosenModel, currentJob, settingsOf } from "./state";

/** The actions of buttons and keys. */
export function createActions(
  ctx: Context,
  connection: Connection<Request>,
  toast: (text: string) => void,
  flush: () => void,
): Actions {
  const { host, view } = ctx;
  const form = () =>
    Object.fromEntries(SETTINGS.map((name) => [name, host.get(name)])) as unknown as Settings;
  const showError = (message: string, hint: string) => {
    view.error = { message, hint, field: "", fixes: [], model: "" };
    ctx.announce([message, hint].filter((text) => text !== "").join(". "));
    ctx.invalidate();
  };
  const fill = (settings: Settings) => {
    for (const [name, value] of Object.entries(settings)) ctx.set(name as "prompt", value as string);
  };

  return {
    imagine(settings = form()) {
      if (view.disconnected) return;
      view.error = null;
      if (settings.prompt.trim() === "") return showError("Enter a prompt first", "");
      const model = chosenModel(host.get("models"), settings.model, settings.engine);
      if (model !== null && (model.state === "download" || model.state === "downloading"))
        return showError(`${model.name} is not downloaded`, "Download it first, or choose another model.");
      flush();
      const request_id = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
      view.pending.push({ request_id, prompt: settings.prompt });
      view.following = true;
      view.compared = null;
      connection.send({ kind: "generate", request_id, settings });
      connection.expectReply();
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
      const pending = view.pending[0];
      if (job !== null) this.cancel(job.id);
      else if (pending !== undefined) {
        connection.send({ kind: "cancel", job_id: "", request_id: pending.request_id });
        ctx.announce("Cancelling");
      }
    },
    follow() {
      view.following = true;
      view.compared = null;
      view.error = null;
      ctx.invalidate();
    },
    show(picture) {
      view.error = null;
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
      toast("Settings copied to the form (including the seed)");
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
        () => toast("Copied. Paste it into a cell."),
        () => toast("This browser blocks copying"),
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
