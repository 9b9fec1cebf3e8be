import type { Job, Picture } from "../contract";
import { h, setAttribute, setChildren, setHidden, setText } from "../shared/dom";
import type { Context } from "./context";
import { isFinal } from "./state";
import { TEXT } from "./strings";

const LARGE_TILES = 4;
const MAX_TILES = 36;

/** The pictures of one job side by side: each appears as it is finished, the current one with its preview. */
export function createTiles(ctx: Context): { element: HTMLElement; show(job: Job | null): void } {
  const element = h("div", { class: "tiles", role: "group", "aria-label": TEXT.tiles, hidden: true });
  const tiles: ReturnType<typeof createTile>[] = [];
  const show = (job: Job | null) => {
    setHidden(element, job === null);
    if (job === null) return;
    const byId = new Map(ctx.host.get("pictures").map((one) => [one.id, one]));
    const count = Math.min(job.count, MAX_TILES);
    while (tiles.length < count) tiles.push(createTile(ctx));
    // The number of columns that makes the tiles largest on a square stage.
    const ratio = job.width > 0 && job.height > 0 ? job.width / job.height : 1;
    const columns = Math.min(count, Math.max(1, Math.round(Math.sqrt(count / ratio))));
    element.style.setProperty("--columns", String(columns));
    element.style.setProperty("--rows", String(Math.ceil(count / columns)));
    element.style.setProperty("--ratio", String(ratio));
    setChildren(
      element,
      tiles.slice(0, count).map((tile, index) => {
        const picture = byId.get(job.picture_ids[index] ?? "") ?? null;
        const isCurrent = index === job.picture_ids.length && !isFinal(job);
        tile.update(picture, isCurrent ? job : null, index, job.count);
        return tile.element;
      }),
    );
  };
  return { element, show };
}

function createTile(ctx: Context) {
  let shown: Picture | null = null;
  const image = h("img", { alt: "", draggable: "false" });
  const percent = h("span", { class: "percent" });
  const element = h(
    "button",
    { type: "button", class: "stage-tile", onclick: () => shown !== null && ctx.actions.show(shown) },
    image,
    percent,
  );
  const update = (picture: Picture | null, job: Job | null, index: number, count: number) => {
    shown = picture;
    const size = count <= LARGE_TILES ? "full" : "thumbnail";
    let url: string | null = null;
    if (picture !== null)
      url = ctx.pictures.url(picture.id, size) ?? ctx.pictures.url(picture.id, "thumbnail");
    else if (job !== null) url = ctx.view.previews.get(job.id);
    if (url === null) image.removeAttribute("src");
    else if (image.getAttribute("src") !== url) image.src = url;
    setHidden(image, url === null);
    setHidden(percent, job === null);
    setText(percent, job !== null && job.steps > 0 ? `${Math.round((100 * job.step) / job.steps)} %` : "…");
    const state = picture !== null ? "done" : job !== null ? "current" : "waiting";
    setAttribute(element, "data-state", state);
    setAttribute(element, "aria-disabled", picture === null ? "true" : null);
    const names = { done: TEXT.tile, current: TEXT.tileInProgress, waiting: TEXT.tileWaiting };
    setAttribute(element, "aria-label", names[state](index + 1, count));
  };
  return { element, update };
}
