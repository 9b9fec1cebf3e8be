import type { Job } from "../contract";
import { h, icon, setAttribute, setChildren, setHidden, setText } from "../shared/dom";
import type { Context, Part } from "./context";
import { isCancelling, unfinished } from "./state";
import { TEXT } from "./strings";

/** The unfinished jobs, each with its position and a button that cancels it. */
export function createQueue(ctx: Context): Part {
  const title = h("h3", { class: "label" }, TEXT.queue);
  const list = h("ol", { class: "queue-list" });
  const element = h("div", { role: "group", class: "queue", "aria-label": TEXT.queue }, title, list);
  const rows = new Map<string, Row>();

  const update = () => {
    const open = unfinished(ctx.host.get("jobs"));
    setHidden(element, open.length < 2 || ctx.view.disconnected);
    const ids = new Set(open.map((job) => job.id));
    for (const id of [...rows.keys()]) if (!ids.has(id)) rows.delete(id);
    const shown = open.map((job, index) => {
      const row = rows.get(job.id) ?? createRow(ctx, job.id);
      rows.set(job.id, row);
      row.update(job, index);
      return row.element;
    });
    setText(title, TEXT.queueOf(open.length));
    setChildren(list, shown);
  };
  return { element, update };
}

interface Row {
  element: HTMLElement;
  update(job: Job, index: number): void;
}

function createRow(ctx: Context, id: string): Row {
  const place = h("span", { class: "place" });
  const prompt = h("span", { class: "prompt-text" });
  const cancel = h(
    "button",
    { type: "button", class: "quiet", onclick: () => ctx.actions.cancel(id) },
    icon("close"),
  );
  const element = h("li", { "data-job": id }, place, prompt, cancel);
  return {
    element,
    update(job, index) {
      const cancelling = isCancelling(job, ctx.view);
      setText(
        place,
        cancelling ? TEXT.placeCancelling : job.state === "running" ? TEXT.now : String(index + 1),
      );
      setText(prompt, job.prompt);
      setAttribute(prompt, "title", job.prompt);
      setAttribute(cancel, "aria-label", TEXT.cancelNamed(job.prompt));
      setAttribute(cancel, "title", TEXT.cancelJob);
      setAttribute(element, "data-state", cancelling ? "cancelling" : job.state);
      setHidden(cancel, cancelling);
    },
  };
}
