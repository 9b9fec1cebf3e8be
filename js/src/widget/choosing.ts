import type { InputRole } from "../contract";
import { h, type IconName, icon, setAttribute } from "../shared/dom";
import type { Context } from "./context";
import { hasFiles, picturesOf } from "./files";
import { TEXT } from "./strings";

/** Roles that are chosen or dropped; masks are painted. */
export type GivenRole = Exclude<InputRole, "mask">;

const WAYS: Record<GivenRole, { icon: IconName; text: string; label: string; drop: string }> = {
  image: { icon: "image", text: TEXT.startPicture, label: TEXT.addStart, drop: TEXT.dropHere },
  reference: { icon: "plus", text: TEXT.reference, label: TEXT.addReference, drop: TEXT.dropReference },
  control: { icon: "control", text: TEXT.control, label: TEXT.addControl, drop: TEXT.dropControl },
};

/** The models that take references, for a message. */
export function editors(ctx: Context): string {
  return ctx.host
    .get("models")
    .filter((one) => one.max_references > 0)
    .map((one) => one.name)
    .slice(0, 2)
    .join(" or ");
}

/** A button that opens the browser's file dialog. */
export function createChooser(ctx: Context, role: GivenRole) {
  const { text, label, icon: name } = WAYS[role];
  const file = h("input", {
    type: "file",
    accept: "image/*",
    multiple: role !== "image",
    hidden: true,
    tabindex: -1,
    "aria-hidden": "true",
    onchange: () => {
      for (const one of file.files ?? []) void ctx.actions.addInput(role, one);
      file.value = "";
    },
  });
  const choose = () => {
    if (role === "reference" && ctx.model !== null && ctx.model.max_references === 0)
      ctx.actions.fail({ message: TEXT.noReferences(ctx.model.name, editors(ctx)), field: "inputs" });
    else file.click();
  };
  const element = h(
    "button",
    { type: "button", class: "secondary add-input", title: label, "aria-label": label, onclick: choose },
    icon(name),
    h("span", {}, text),
  );
  element.append(file);
  file.addEventListener("click", (event) => event.stopPropagation());
  return { element };
}

/**
 * Pictures dropped on `target` become what `role` says; a reference that the model does not take becomes the
 * start picture.
 */
export function acceptDrops(ctx: Context, target: HTMLElement, role: GivenRole): void {
  let depth = 0;
  const mark = (isOver: boolean) => setAttribute(target, "data-drop", isOver);
  const roleNow = () => (role === "reference" && (ctx.model?.max_references ?? 0) === 0 ? "image" : role);
  const handle = (event: DragEvent, act: () => void) => {
    if (!hasFiles(event.dataTransfer)) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  };
  target.addEventListener("dragenter", (event) =>
    handle(event, () => {
      depth += 1;
      setAttribute(target, "data-drop-text", WAYS[roleNow()].drop);
      mark(true);
    }),
  );
  target.addEventListener("dragover", (event) => handle(event, () => mark(true)));
  target.addEventListener("dragleave", (event) =>
    handle(event, () => {
      depth = Math.max(0, depth - 1);
      if (depth === 0) mark(false);
    }),
  );
  target.addEventListener("drop", (event) =>
    handle(event, () => {
      depth = 0;
      mark(false);
      const files = picturesOf(event.dataTransfer);
      if (files.length === 0)
        ctx.actions.fail({ message: TEXT.notAPicture, hint: TEXT.chooseAnother, field: "inputs" });
      for (const file of roleNow() === "image" ? files.slice(0, 1) : files)
        void ctx.actions.addInput(roleNow(), file);
    }),
  );
}
