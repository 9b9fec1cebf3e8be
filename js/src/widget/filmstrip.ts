import type { Picture } from "../contract";
import { h, setAttribute, setChildren, setHidden, setText } from "../shared/dom";
import { sentence } from "../shared/format";
import type { Context, Part } from "./context";
import { unfinished } from "./state";

interface Tile {
  element: HTMLElement;
  update(): void;
}

/** Every picture of this session, newest first, after the one in progress. */
export function createFilmstrip(ctx: Context): Part {
  const strip = h("ul", { class: "strip", "aria-label": "Pictures of this session", onkeydown: onKey });
  const element = h("div", { class: "filmstrip" }, strip);
  const tiles = new Map<string, Tile>();
  const live = createLiveTile(ctx);
  const loadMore = h(
    "li",
    {},
    h(
      "button",
      { type: "button", class: "tile load-more", onclick: () => ctx.host.send({ kind: "load_more" }) },
      "Load more",
    ),
  );
  let first = "";

  function onKey(event: KeyboardEvent): void {
    const buttons = [...strip.querySelectorAll<HTMLElement>("button")];
    const at = buttons.indexOf(event.target as HTMLElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    buttons[Math.max(0, Math.min(buttons.length - 1, to))]?.focus();
    event.preventDefault();
    event.stopPropagation();
  }

  const update = () => {
    const pictures = ctx.host.get("pictures");
    const ids = new Set(pictures.map((picture) => picture.id));
    for (const id of [...tiles.keys()]) if (!ids.has(id)) tiles.delete(id);
    const shown = [...pictures].reverse().map((picture) => {
      const tile = tiles.get(picture.id) ?? createTile(ctx, picture);
      tiles.set(picture.id, tile);
      tile.update();
      return tile.element;
    });
    const running = live.update();
    const more = ctx.host.get("picture_count") > pictures.length;
    setChildren(strip, [...(running ? [live.element] : []), ...shown, ...(more ? [loadMore] : [])]);
    setHidden(element, shown.length === 0 && !running);
    const newest = pictures.at(-1)?.id ?? "";
    if (newest !== first) {
      first = newest;
      strip.scrollTo?.({ left: 0 });
    }
  };
  return { element, update };
}

function createTile(ctx: Context, picture: Picture): Tile {
  const image = h("img", { alt: "", draggable: "false" });
  const label = picture.seed === null ? picture.prompt : `${picture.prompt}, seed ${picture.seed}`;
  const button = h(
    "button",
    {
      type: "button",
      class: "tile",
      "aria-label": label,
      title: label,
      onclick: () => ctx.actions.show(picture),
    },
    image,
  );
  const element = h("li", { "data-picture": picture.id }, button);
  const update = () => {
    const url = ctx.pictures.url(picture.id, "thumbnail");
    if (url !== null && image.getAttribute("src") !== url) image.src = url;
    const { scene } = ctx;
    const onStage = scene.kind === "picture" || scene.kind === "compare" ? scene.picture.id : null;
    setAttribute(button, "aria-current", onStage === picture.id ? "true" : null);
    setAttribute(
      button,
      "data-compared",
      scene.kind === "compare" && scene.other.id === picture.id ? "true" : null,
    );
  };
  return { element, update };
}

function createLiveTile(ctx: Context) {
  const image = h("img", { alt: "", draggable: "false" });
  const label = h("span", { class: "percent" });
  const button = h(
    "button",
    { type: "button", class: "tile live", onclick: () => ctx.actions.follow() },
    image,
    label,
  );
  const element = h("li", {}, button);
  const update = (): boolean => {
    const open = unfinished(ctx.host.get("jobs"));
    const job = open.find((one) => one.state === "running") ?? open[0];
    if (job === undefined) return false;
    const url = ctx.view.previews.get(job.id) ?? null;
    setHidden(image, url === null);
    if (url !== null && image.getAttribute("src") !== url) image.src = url;
    setText(label, job.fraction > 0 ? `${Math.round(100 * job.fraction)} %` : "…");
    setAttribute(button, "aria-label", `In progress: ${job.prompt}`);
    setAttribute(button, "title", sentence(job.stage));
    setAttribute(button, "aria-current", ctx.scene.kind === "running" ? "true" : null);
    return true;
  };
  return { element, update };
}
