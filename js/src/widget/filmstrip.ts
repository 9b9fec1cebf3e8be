import type { Picture } from "../contract";
import { h, icon, setAttribute, setChildren, setHidden, setText } from "../shared/dom";
import { sentence } from "../shared/format";
import type { Context, Part } from "./context";
import { pictureOf, unfinished } from "./state";
import { TEXT } from "./strings";

/** From so many pictures on there is something to search in. */
const SEARCH_FROM = 4;

interface Tile {
  element: HTMLElement;
  update(picture: Picture): void;
}

/** Every picture of this session, newest first, after the one in progress. */
export function createFilmstrip(ctx: Context): Part & { shown(): string[] } {
  const strip = h("ul", { class: "strip", "aria-label": TEXT.strip, onkeydown: onKey });
  const words = h("input", {
    type: "search",
    class: "search",
    "aria-label": TEXT.filter,
    placeholder: TEXT.filter,
    oninput: () => update(),
  });
  const favorites = h(
    "button",
    {
      type: "button",
      class: "quiet",
      "aria-label": TEXT.favoritesOnly,
      title: TEXT.favoritesOnly,
      "aria-pressed": "false",
      onclick: () => {
        const isOn = favorites.getAttribute("aria-pressed") !== "true";
        setAttribute(favorites, "aria-pressed", isOn ? "true" : "false");
        update();
      },
    },
    icon("star"),
  );
  const nothing = h("p", { class: "note" });
  const bar = h("div", { class: "strip-bar" }, icon("search"), words, favorites, nothing);
  const element = h("div", { class: "filmstrip" }, bar, strip);
  const tiles = new Map<string, Tile>();
  const live = createLiveTile(ctx);
  const loadMore = h(
    "li",
    {},
    h(
      "button",
      { type: "button", class: "tile load-more", onclick: () => ctx.host.send({ kind: "load_more" }) },
      TEXT.loadMore,
    ),
  );
  let first = "";
  let visible: Picture[] = [];

  function onKey(event: KeyboardEvent): void {
    const buttons = [...strip.querySelectorAll<HTMLElement>("button")];
    const at = buttons.indexOf(event.target as HTMLElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    const id = (event.target as HTMLElement).closest<HTMLElement>("[data-picture]")?.dataset.picture;
    const picture = visible.find((one) => one.id === id);
    if (to !== undefined && at >= 0) buttons[Math.max(0, Math.min(buttons.length - 1, to))]?.focus();
    else if (picture !== undefined && event.key.toLowerCase() === "f" && !event.ctrlKey && !event.metaKey)
      ctx.actions.favorite(picture);
    else if (picture !== undefined && ["Delete", "Backspace"].includes(event.key)) {
      ctx.actions.remove(picture);
      // Its tile is gone when it is deleted; the keyboard stays in the strip.
      if (ctx.view.deleting === null) (buttons[at + 1] ?? buttons[at - 1])?.focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function update(): void {
    const pictures = ctx.host.get("pictures");
    const isSearchable = pictures.length >= SEARCH_FROM;
    const wanted = isSearchable ? words.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
    const onlyFavorites = isSearchable && favorites.getAttribute("aria-pressed") === "true";
    visible = [...pictures].reverse().filter((one) => {
      const text = `${one.prompt} ${one.negative_prompt} ${one.model} ${one.seed ?? ""}`.toLowerCase();
      return (!onlyFavorites || one.favorite) && wanted.every((word) => text.includes(word));
    });
    const ids = new Set(pictures.map((picture) => picture.id));
    for (const id of [...tiles.keys()]) if (!ids.has(id)) tiles.delete(id);
    const shown = visible.map((picture) => {
      const tile = tiles.get(picture.id) ?? createTile(ctx, picture);
      tiles.set(picture.id, tile);
      tile.update(picture);
      return tile.element;
    });
    const running = live.update();
    const more = ctx.host.get("picture_count") > pictures.length;
    setChildren(strip, [...(running ? [live.element] : []), ...shown, ...(more ? [loadMore] : [])]);
    setHidden(bar, !isSearchable);
    setText(nothing, isSearchable && shown.length === 0 ? TEXT.nothingFound : "");
    setHidden(element, pictures.length === 0 && !running);
    const newest = pictures.at(-1)?.id ?? "";
    if (newest !== first) {
      first = newest;
      strip.scrollTo?.({ left: 0 });
    }
  }
  return { element, update, shown: () => visible.map((one) => one.id) };
}

function createTile(ctx: Context, made: Picture): Tile {
  let picture = made;
  const image = h("img", { alt: "", draggable: "false" });
  const star = h("span", { class: "star" }, icon("star"));
  const button = h(
    "button",
    {
      type: "button",
      class: "tile",
      onclick: () => ctx.actions.show(picture),
      ondblclick: () => ctx.actions.showLarge(picture),
    },
    image,
    star,
  );
  const element = h("li", { "data-picture": picture.id }, button);
  const update = (now: Picture) => {
    picture = now;
    const url = ctx.pictures.url(picture.id, "thumbnail");
    if (url !== null && image.getAttribute("src") !== url) image.src = url;
    const { scene } = ctx;
    const seed = picture.seed === null ? "" : `, ${TEXT.seedOf(picture.seed)}`;
    const label = `${picture.prompt}${seed}${picture.favorite ? `, ${TEXT.isFavorite}` : ""}`;
    setAttribute(button, "aria-label", label);
    setAttribute(button, "title", label);
    setHidden(star, !picture.favorite);
    setAttribute(button, "aria-current", pictureOf(scene)?.id === picture.id ? "true" : null);
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
    setAttribute(button, "aria-label", TEXT.inProgress(job.prompt));
    setAttribute(button, "title", sentence(job.stage));
    setAttribute(button, "aria-current", ctx.scene.kind === "running" ? "true" : null);
    return true;
  };
  return { element, update };
}
