import type { Job, Picture } from "../contract";
import { h, type IconName, icon, setAttribute, setChildren, setHidden, setText } from "../shared/dom";
import type { Context, Part } from "./context";
import { pictureOf, versionsOf } from "./state";
import { TEXT } from "./strings";

function createAction(text: string, name: IconName, title: string, action: () => void) {
  const label = h("span", {}, text);
  const element = h("button", { type: "button", class: "action", title, onclick: action }, icon(name), label);
  return { element, label };
}

/** What can be done with the picture on the stage, or with a job that was not finished. */
export function createPictureActions(ctx: Context): Part {
  const shown = () => pictureOf(ctx.scene);
  const act = (text: string, name: IconName, title: string, action: (picture: Picture) => void) =>
    createAction(text, name, title, () => {
      const picture = shown();
      if (picture !== null) action(picture);
    });
  const compare = act(TEXT.compare, "compare", TEXT.compareHint, () =>
    ctx.actions.compareWith(ctx.scene.kind === "compare" ? null : true),
  );
  const vary = act(TEXT.vary, "vary", TEXT.varyHint, (picture) => ctx.actions.vary(picture));
  const favorite = act(TEXT.favorite, "star", TEXT.favorite, (picture) => ctx.actions.favorite(picture));
  const remove = act(TEXT.delete, "trash", TEXT.delete, (picture) => ctx.actions.remove(picture));
  const all = createAction("", "vary", "", () => ctx.actions.follow());
  const save = act(TEXT.save, "save", TEXT.saveHint, (picture) => ctx.actions.save(picture));
  const copy = act(TEXT.copyCell, "copy", TEXT.copyHint, (picture) => ctx.actions.copy(picture));
  const edit = act(TEXT.edit, "edit", TEXT.editHint, (picture) => ctx.actions.edit(picture));
  const steer = act(TEXT.useAsControl, "control", TEXT.useAsControlHint, (picture) =>
    ctx.actions.followPicture(picture),
  );
  const icons = [save, copy, favorite, remove];
  const named = [
    edit,
    steer,
    vary,
    act(TEXT.remix, "remix", TEXT.remixHint, (picture) => ctx.actions.remix(picture)),
    act(TEXT.upscale, "large", TEXT.upscaleHint, (picture) => ctx.actions.upscale(picture)),
    act(TEXT.reuse, "reuse", TEXT.reuseHint, (picture) => ctx.actions.reuse(picture)),
    compare,
    all,
  ];
  const ofPicture = [...named, ...icons];
  const retry = createAction("", "remix", TEXT.retry, () => {
    const job = unfinishedJob(ctx);
    if (job !== null) ctx.actions.retry(job);
  });
  const element = h(
    "div",
    { class: "actions", role: "group", "aria-label": TEXT.thisPicture },
    ...named.map((one) => one.element),
    retry.element,
    h("span", { class: "icons" }, ...icons.map((one) => one.element)), // they wrap together
  );
  for (const one of icons) one.element.classList.add("icon-only");
  for (const one of [edit, all, retry]) one.element.classList.add("keeps-text");

  const update = () => {
    const picture = shown();
    const job = unfinishedJob(ctx);
    setHidden(element, picture === null && job === null);
    for (const one of ofPicture) setHidden(one.element, picture === null);
    setHidden(retry.element, job === null || ctx.view.disconnected);
    if (job !== null) setText(retry.label, retryText(job));
    if (picture === null) return;
    setHidden(steer.element, ctx.model?.takes_controls !== true);
    const comparing = ctx.scene.kind === "compare";
    setAttribute(compare.element, "aria-pressed", comparing ? "true" : "false");
    setText(compare.label, comparing ? TEXT.done : TEXT.compare);
    setHidden(compare.element, ctx.host.get("pictures").length < 2);
    setAttribute(favorite.element, "aria-pressed", picture.favorite ? "true" : "false");
    const isAsked = ctx.view.deleting === picture.id;
    setText(remove.label, isAsked ? TEXT.deleteSure : TEXT.delete);
    setAttribute(remove.element, "data-asking", isAsked);
    const last = ctx.host.get("jobs").at(-1);
    const isOfBatch = last !== undefined && last.count > 1 && last.picture_ids.includes(picture.id);
    setHidden(all.element, !isOfBatch || comparing);
    setText(all.label, TEXT.all(last?.count ?? 0));
  };
  return { element, update };
}

/** The job on the stage, when it ended without all its pictures. */
function unfinishedJob(ctx: Context): Job | null {
  const { scene } = ctx;
  if (scene.kind === "cancelled" || scene.kind === "failed") return scene.job;
  return scene.kind === "tiles" && scene.job.state !== "done" ? scene.job : null;
}

function retryText(job: Job): string {
  const made = job.picture_ids.length;
  return made === 0 ? TEXT.retry : TEXT.resume(job.count - made);
}

/** The chain of edits that the picture is part of: what it was made from, and what was made of it. */
export function createVersions(ctx: Context): Part {
  const list = h("ol", { class: "chain", "aria-label": TEXT.versions });
  const before = h(
    "button",
    {
      type: "button",
      class: "action",
      onclick: () => {
        const picture = pictureOf(ctx.scene);
        const parent = ctx.host.get("pictures").find((one) => one.id === picture?.parent);
        if (parent !== undefined) ctx.actions.compareWith(parent);
      },
    },
    icon("compare"),
    h("span", {}, TEXT.beforeAfter),
  );
  const element = h("div", { class: "versions" }, h("span", { class: "label" }, TEXT.versions), list, before);
  const rows = new Map<string, ReturnType<typeof createVersion>>();
  const update = () => {
    const picture = pictureOf(ctx.scene);
    const pictures = ctx.host.get("pictures");
    const chain = picture === null ? [] : versionsOf(picture, pictures);
    setHidden(element, chain.length < 2);
    if (chain.length < 2) return;
    const ids = new Set(chain.map((one) => one.id));
    for (const id of [...rows.keys()]) if (!ids.has(id)) rows.delete(id);
    setChildren(
      list,
      chain.map((one, index) => {
        const row = rows.get(one.id) ?? createVersion(ctx, one);
        rows.set(one.id, row);
        row.update(index + 1, one.id === picture?.id);
        return row.element;
      }),
    );
    setHidden(before, !pictures.some((one) => one.id === picture?.parent) || ctx.scene.kind === "compare");
  };
  return { element, update };
}

function createVersion(ctx: Context, picture: Picture) {
  const image = h("img", { alt: "", draggable: "false" });
  const button = h(
    "button",
    { type: "button", class: "thumb", title: picture.prompt, onclick: () => ctx.actions.show(picture) },
    image,
  );
  const element = h("li", {}, button);
  const update = (number: number, isShown: boolean) => {
    const url = ctx.pictures.url(picture.id, "thumbnail");
    if (url !== null && image.getAttribute("src") !== url) image.src = url;
    setAttribute(button, "aria-label", `${TEXT.version(number)}: ${picture.prompt}`);
    setAttribute(button, "aria-current", isShown ? "true" : null);
  };
  return { element, update };
}
