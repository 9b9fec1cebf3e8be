import { type Model, type Picture, type Request, SETTINGS, type Settings } from "../contract";
import type { Connection } from "../shared/connection";
import type { Actions, Context } from "./context";
import { missingControlNets } from "./controls";
import { base64Of, readPicture } from "./files";
import { chosenModel, currentJob, pictureOf, settingsOf } from "./state";
import { TEXT } from "./strings";

const VARIATIONS = 4;
const VARIATION_STRENGTH = 0.5;
/** Settings that belong to a model: what was copied of them does not outlive it. */
const OF_A_MODEL = ["width", "height", "steps", "guidance_scale", "scheduler", "loras"] as const;

/** The actions of buttons and keys. */
export function createActions(ctx: Context, connection: Connection<Request>, flush: () => void): Actions {
  const { host, view } = ctx;
  const form = (): Settings => {
    const settings = Object.fromEntries(
      SETTINGS.map((name) => [name, host.get(name)]),
    ) as unknown as Settings;
    const isElsewhere = settings.engine !== "local" && settings.model === "";
    // What the picker shows is what is asked for.
    return isElsewhere ? { ...settings, model: ctx.model?.id ?? "" } : settings;
  };
  const fill = (settings: Partial<Settings>) => {
    for (const [name, value] of Object.entries(settings)) ctx.set(name as "prompt", value as string);
  };
  const modelOf = (picture: Picture) => chosenModel(host.get("models"), picture.model, picture.engine);
  const copy = (picture: Picture, seed: number | null) => {
    const settings = settingsOf(picture, seed, modelOf(picture));
    fill(settings);
    view.copied = new Set(OF_A_MODEL);
    return settings;
  };
  const needsDownload = (model: Model | null) =>
    model !== null && (model.state === "download" || model.state === "downloading");
  const stage = (
    changes: Partial<Pick<typeof view, "following" | "selected" | "compared" | "showsStart">>,
  ) => {
    Object.assign(view, { compared: null, showsStart: false, error: null, asking: null, ...changes });
    ctx.invalidate();
  };

  return {
    imagine(settings = form(), from, of) {
      if (view.disconnected) return;
      view.error = null;
      if (settings.prompt.trim() === "") return this.fail({ message: TEXT.enterPrompt, field: "prompt" });
      const model = chosenModel(host.get("models"), settings.model, settings.engine);
      if (needsDownload(model))
        return this.fail({
          message: TEXT.notDownloadedYet(model?.name ?? ""),
          hint: TEXT.downloadFirst,
          field: "model",
        });
      const [net] = of === undefined && from === undefined ? missingControlNets(ctx) : [];
      if (net !== undefined && model?.takes_controls === true)
        return this.fail({
          message: TEXT.notDownloadedYet(net.name),
          hint: TEXT.downloadControlNet,
          field: "controls",
        });
      const { plan } = view;
      const confirmed = view.asking !== null;
      if (from === undefined && plan !== null && "asks" in plan && plan.asks && !confirmed) {
        view.asking = { settings, from, of };
        ctx.invalidate();
        return;
      }
      const painting = ctx.settle();
      if (painting !== null) return void painting.then(() => this.imagine(settings, from, of));
      flush();
      ctx.toast("");
      const request_id = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
      view.pending.push({ request_id, settings, from, of, changed: new Set() });
      stage({ following: true });
      connection.send({
        ...{ kind: "generate", request_id, settings, confirmed },
        ...(from === undefined ? {} : { picture_id: from }),
        ...(of === undefined ? {} : { of }),
      });
      connection.expectReply();
    },
    confirm() {
      const { asking } = view;
      if (asking !== null) this.imagine(asking.settings, asking.from, asking.of);
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
        ctx.announce(TEXT.cancelling);
      }
    },
    retry(job) {
      stage({ following: true });
      connection.send({ kind: "retry", job_id: job.id });
    },
    upscale(picture) {
      stage({ following: true });
      connection.send({ kind: "upscale", picture_id: picture.id });
    },
    follow: () => stage({ following: true }),
    show(picture) {
      if (ctx.scene.kind === "compare") {
        if (picture.id !== view.selected) view.compared = picture.id;
        ctx.invalidate();
      } else stage({ following: false, selected: picture.id });
    },
    showLarge(picture) {
      view.large = picture?.id ?? null;
      ctx.invalidate();
    },
    showStart: () => stage({ showsStart: true }),
    compareWith(picture) {
      const shown = pictureOf(ctx.scene);
      if (picture === null || shown === null) view.compared = null;
      else {
        view.following = false;
        view.selected = shown.id;
        view.compared = picture === true ? neighbor(host.get("pictures"), shown.id) : picture.id;
      }
      ctx.invalidate();
    },
    reuse(picture) {
      copy(picture, picture.seed);
      connection.send({ kind: "reuse", picture_id: picture.id });
      ctx.toast(TEXT.settingsCopied);
    },
    remix(picture) {
      const from = picture.strength === null ? "" : picture.parent;
      // A picture made from one that is not known any more is made from what the form has.
      this.imagine(
        copy(picture, null),
        from === "" && picture.strength !== null ? undefined : from,
        picture.id,
      );
    },
    vary(picture) {
      const canStart = modelOf(picture)?.takes_image === true;
      const settings = settingsOf(picture, null, modelOf(picture));
      const near = {
        ...settings,
        count: VARIATIONS,
        strength: canStart ? VARIATION_STRENGTH : null,
        outpaint: "",
      };
      this.imagine(near, canStart ? picture.id : "", picture.id);
    },
    edit(picture) {
      const role = (ctx.model?.max_references ?? 0) > 0 ? "reference" : "image";
      if (role === "image" && ctx.model?.takes_image === false)
        return this.fail({ message: TEXT.noStart(ctx.model.name), field: "model" });
      connection.send({ kind: "set_input", role, picture_id: picture.id });
      if (role === "image") stage({ showsStart: true });
      ctx.toast(TEXT.editing);
    },
    followPicture(picture) {
      connection.send({ kind: "set_input", role: "control", picture_id: picture.id });
      ctx.toast(TEXT.editing);
    },
    save(picture) {
      connection.send({ kind: "save", picture_id: picture.id });
    },
    copy(picture) {
      copyText(picture.cell).then(
        () => ctx.toast(TEXT.copied),
        () => ctx.toast(TEXT.copyBlocked),
      );
    },
    favorite(picture) {
      connection.send({ kind: "favorite", picture_id: picture.id, favorite: !picture.favorite });
    },
    remove(picture) {
      if (view.deleting === picture.id) {
        view.deleting = null;
        connection.send({ kind: "delete_picture", picture_id: picture.id });
      } else {
        view.deleting = picture.id;
        ctx.toast(TEXT.deleteAgain); // its end takes the question back
      }
      ctx.invalidate();
    },
    chooseModel(model) {
      view.error = null;
      const isOther = model.id !== ctx.model?.id || model.engine !== ctx.model.engine;
      const copied = isOther ? OF_A_MODEL.filter((name) => view.copied.has(name)) : [];
      ctx.set("engine", model.engine);
      ctx.set("model", model.id);
      for (const name of copied)
        ctx.set(name as "steps", (name === "scheduler" ? "" : name === "loras" ? [] : null) as null);
    },
    async addInput(role, file) {
      try {
        const buffer = role === "mask" ? await file.arrayBuffer() : await readPicture(file);
        if (role === "image") stage({ showsStart: true });
        const request = { kind: "set_input", role } as const;
        // Colab's page has no binary buffers.
        if ((globalThis as { google?: { colab?: unknown } }).google?.colab !== undefined)
          connection.send({ ...request, data: base64Of(buffer) });
        else connection.send(request, buffer);
      } catch (error) {
        this.fail({ message: (error as Error).message, hint: TEXT.chooseAnother, field: "inputs" });
      }
    },
    removeInput(id) {
      view.error = null;
      connection.send({ kind: "remove_input", input_id: id });
      ctx.invalidate();
    },
    applyPreset(name) {
      fill(host.get("choices").presets[name] ?? {});
    },
    savePreset(name) {
      view.error = null;
      connection.send({ kind: "save_preset", name, settings: form() });
    },
    deletePreset(name) {
      connection.send({ kind: "delete_preset", name });
    },
    plan(request_id) {
      connection.send({ kind: "plan", request_id, settings: form() });
    },
    fail(failure) {
      view.error = { message: "", hint: "", field: "", fixes: [], model: "", ...failure };
      ctx.announce([view.error.message, view.error.hint].filter((text) => text !== "").join(". "));
      ctx.invalidate();
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
