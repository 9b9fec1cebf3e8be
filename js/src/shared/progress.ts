import type { Progress } from "../contract";
import { h, setAttribute } from "./dom";
import { formatDuration, formatRemaining, sentence } from "./format";
import { PROGRESS_TEXT as TEXT } from "./strings";

/** "Drawing · picture 2 of 4 · step 7 of 20". */
export function progressText(progress: Progress): string {
  if (progress.cancelling) return TEXT.cancellingAfterStep;
  const { stage, detail, step, steps, image_index, count } = progress;
  return [
    sentence(stage || TEXT.starting),
    count > 1 ? TEXT.pictureOf(image_index + 1, count) : "",
    steps > 0 && step > 0 ? TEXT.stepOf(step, steps) : detail,
  ]
    .filter((part) => part !== "")
    .join(" · ");
}

/** "12 s · about 1 min 30 s left". */
export function timesText(progress: Progress, elapsed_s: number): string {
  const { remaining_s } = progress;
  const left_s = remaining_s === null ? null : remaining_s - (elapsed_s - progress.elapsed_s);
  const elapsed = formatDuration(Math.floor(elapsed_s));
  return left_s === null || left_s <= 0 ? elapsed : `${elapsed} · ${formatRemaining(left_s)}`;
}

/** A clock that continues between two reports: the seconds since the work began. */
export function createClock(): (progress: Progress, isRunning: boolean) => number {
  let seen: Progress | null = null;
  let seenAt_ms = 0;
  return (progress, isRunning) => {
    if (seen !== progress) {
      seen = progress;
      seenAt_ms = performance.now();
    }
    return isRunning ? progress.elapsed_s + (performance.now() - seenAt_ms) / 1000 : progress.elapsed_s;
  };
}

/** A bar over the whole work; `data-state` is "off", "on" or, while nothing is known, "waiting". */
export function createProgressBar(
  label: string,
  prefix = "",
): { element: HTMLElement; update(progress: Pick<Progress, "fraction"> | null, text: string): void } {
  const fill = h("div", { class: `${prefix}fill` });
  const element = h("div", { class: `${prefix}bar`, role: "progressbar", "aria-label": label }, fill);
  const update = (progress: Pick<Progress, "fraction"> | null, text: string) => {
    const percent = progress === null ? 0 : Math.round(100 * progress.fraction);
    const known = progress !== null && progress.fraction > 0;
    setAttribute(element, "data-state", progress === null ? "off" : known ? "on" : "waiting");
    setAttribute(element, "aria-hidden", progress === null ? "true" : null);
    setAttribute(element, "aria-valuemin", known ? "0" : null);
    setAttribute(element, "aria-valuemax", known ? "100" : null);
    setAttribute(element, "aria-valuenow", known ? String(percent) : null);
    setAttribute(element, "aria-valuetext", progress === null ? null : text);
    fill.style.width = known ? `${percent}%` : "";
  };
  return { element, update };
}
