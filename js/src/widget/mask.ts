import type { InputPicture } from "../contract";
import { h, type IconName, icon, setAttribute } from "../shared/dom";
import type { Context, Part } from "./context";
import { TEXT } from "./strings";

const MAX_SIDE = 1024;
const SEND_MS = 300;
const ECHO_MS = 4000;
const COLOR = "#e8336d";

type Point = { x: number; y: number };
type Operation =
  | { kind: "stroke"; points: Point[]; radius: number; erases: boolean }
  | { kind: "invert" }
  | { kind: "clear" }
  | { kind: "load"; image: HTMLImageElement };

/**
 * Paints a mask over the start picture. What is painted is kept as operations in units of the canvas, so that
 * undo is a repetition without the last one; the kernel gets a PNG, white where it was painted.
 */
export function createMask(ctx: Context): Part & { tools: HTMLElement } {
  const canvas = h("canvas", {
    class: "mask",
    tabindex: 0,
    role: "img",
    "aria-label": `${TEXT.mask}. ${TEXT.maskKeys}`,
    onkeydown: (event: KeyboardEvent) => onKey(event),
    onpointerdown: (event: PointerEvent) => onDown(event),
    onpointermove: (event: PointerEvent) => onMove(event),
    onpointerup: () => endStroke(),
    onpointercancel: () => endStroke(),
    onpointerleave: () => place(null),
    onblur: () => place(null),
  });
  const ring = h("span", { class: "ring", "aria-hidden": "true", hidden: true });
  const size = h("input", {
    type: "range",
    min: 1,
    max: 50,
    value: 12,
    "aria-label": TEXT.brushSize,
    title: TEXT.brushSize,
    oninput: () => place(cursor),
  });
  const tool = (name: IconName, label: string, action: () => void) =>
    h(
      "button",
      { type: "button", class: "quiet", "aria-label": label, title: label, onclick: action },
      icon(name),
    );
  const brush = tool("brush", TEXT.brush, () => choose(false));
  const eraser = tool("eraser", TEXT.eraser, () => choose(true));
  const undoButton = tool("undo", TEXT.undo, () => undo());
  const clear = tool("trash", TEXT.clear, () => apply({ kind: "clear" }));
  const tools = h(
    "div",
    { class: "mask-tools", role: "toolbar", "aria-label": TEXT.mask, hidden: true },
    brush,
    eraser,
    size,
    undoButton,
    tool("invert", TEXT.invert, () => apply({ kind: "invert" })),
    clear,
    h("button", { type: "button", class: "secondary", onclick: () => ctx.actions.follow() }, TEXT.done),
  );
  const element = h("div", { class: "mask-layer", hidden: true }, canvas, ring);
  let operations: Operation[] = [];
  let stroke: Extract<Operation, { kind: "stroke" }> | null = null;
  let erases = false;
  let cursor: Point | null = null;
  /** The start picture that the operations are for, and the kernel's mask that they have led to. */
  let picture = "";
  let loaded = "";
  let isChanged = false;
  let sending: Promise<void> | null = null;
  let sentAt_ms = Number.NEGATIVE_INFINITY;
  let timer: ReturnType<typeof setTimeout> | undefined;

  // A mask that was loaded is where undoing ends: it would be gone at once.
  const canUndo = () => operations.length > 0 && operations.at(-1)?.kind !== "load";
  const radius = () => (Number(size.value) / 100) * Math.min(canvas.width, canvas.height);

  function choose(isEraser: boolean): void {
    erases = isEraser;
    setAttribute(brush, "aria-pressed", erases ? "false" : "true");
    setAttribute(eraser, "aria-pressed", erases ? "true" : "false");
  }

  function draw(operation: Operation): void {
    const pen = canvas.getContext("2d");
    if (pen === null) return;
    const { width, height } = canvas;
    pen.globalCompositeOperation = "source-over";
    if (operation.kind === "clear") pen.clearRect(0, 0, width, height);
    else if (operation.kind === "invert") {
      pen.globalCompositeOperation = "xor";
      pen.fillStyle = COLOR;
      pen.fillRect(0, 0, width, height);
    } else if (operation.kind === "load") {
      pen.clearRect(0, 0, width, height);
      pen.drawImage(operation.image, 0, 0, width, height);
      const pixels = pen.getImageData(0, 0, width, height);
      // A mask's white becomes opaque; its gray levels stay as opacity.
      for (let at = 0; at < pixels.data.length; at += 4) {
        const level = pixels.data[at] ?? 0;
        pixels.data.set([232, 51, 109, level], at);
      }
      pen.putImageData(pixels, 0, 0);
    } else {
      pen.globalCompositeOperation = operation.erases ? "destination-out" : "source-over";
      pen.strokeStyle = pen.fillStyle = COLOR;
      pen.lineCap = pen.lineJoin = "round";
      pen.lineWidth = 2 * operation.radius;
      pen.beginPath();
      const [first, ...rest] = operation.points;
      if (first === undefined) return;
      pen.moveTo(first.x, first.y);
      for (const point of rest.length > 0 ? rest : [first]) pen.lineTo(point.x, point.y + 0.01);
      pen.stroke();
    }
  }

  function redraw(): void {
    draw({ kind: "clear" });
    for (const operation of operations) draw(operation);
  }

  function apply(operation: Operation): void {
    operations.push(operation);
    draw(operation);
    changed();
  }

  function undo(): void {
    if (!canUndo()) return;
    operations.pop();
    redraw();
    changed();
  }

  function changed(): void {
    isChanged = true;
    setAttribute(undoButton, "aria-disabled", canUndo() ? null : "true");
    clearTimeout(timer);
    timer = setTimeout(() => void send(), SEND_MS);
  }

  /** Sends the mask as it is, nothing painted is no mask; null where there is nothing to wait for. */
  function send(): Promise<void> | null {
    clearTimeout(timer);
    if (!isChanged) return sending;
    isChanged = false;
    const pen = canvas.getContext("2d");
    const painted = pen?.getImageData(0, 0, canvas.width, canvas.height);
    if (painted === undefined) return null;
    let any = false;
    for (let at = 0; at < painted.data.length; at += 4) {
      const level = painted.data[at + 3] ?? 0;
      any ||= level > 0;
      painted.data.set([level, level, level, 255], at);
    }
    const present = ctx.host.get("inputs").find((one) => one.role === "mask");
    if (!any) {
      if (present !== undefined) ctx.actions.removeInput(present.id);
      return null;
    }
    const sheet = document.createElement("canvas");
    sheet.width = canvas.width;
    sheet.height = canvas.height;
    sheet.getContext("2d")?.putImageData(painted, 0, 0);
    sentAt_ms = performance.now();
    sending = new Promise<Blob | null>((resolve) => sheet.toBlob(resolve, "image/png"))
      .then((blob) => (blob === null ? undefined : ctx.actions.addInput("mask", blob)))
      .then(() => {
        sending = null;
      });
    return sending;
  }

  function pointOf(event: PointerEvent): Point {
    const box = canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * canvas.width,
      y: ((event.clientY - box.top) / box.height) * canvas.height,
    };
  }

  function onDown(event: PointerEvent): void {
    if (event.button !== 0) return;
    event.preventDefault();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture?.(event.pointerId);
    startStroke(pointOf(event));
  }

  function onMove(event: PointerEvent): void {
    const points = event.getCoalescedEvents?.() ?? [];
    for (const one of points.length > 0 ? points : [event]) moveTo(pointOf(one));
  }

  function startStroke(point: Point): void {
    stroke = { kind: "stroke", points: [point], radius: radius(), erases };
    operations.push(stroke);
    draw(stroke);
  }

  function moveTo(point: Point): void {
    place(point);
    if (stroke === null) return;
    const last = stroke.points.at(-1) ?? point;
    stroke.points.push(point);
    draw({ ...stroke, points: [last, point] });
  }

  function endStroke(): void {
    if (stroke === null) return;
    stroke = null;
    changed();
  }

  /** Shows where the brush is, with its size. */
  function place(point: Point | null): void {
    cursor = point;
    ring.hidden = point === null;
    if (point === null) return;
    ring.style.left = `${(100 * point.x) / canvas.width}%`;
    ring.style.top = `${(100 * point.y) / canvas.height}%`;
    ring.style.width = `${(200 * radius()) / canvas.width}%`;
  }

  function onKey(event: KeyboardEvent): void {
    const at = cursor ?? { x: canvas.width / 2, y: canvas.height / 2 };
    const far = Math.max(1, radius() / (event.shiftKey ? 0.25 : 1));
    const moves: Record<string, Point> = {
      ArrowLeft: { x: -far, y: 0 },
      ArrowRight: { x: far, y: 0 },
      ArrowUp: { x: 0, y: -far },
      ArrowDown: { x: 0, y: far },
    };
    const move = moves[event.key];
    const key = event.key.toLowerCase();
    if (move !== undefined) {
      const within = (value: number, limit: number) => Math.max(0, Math.min(limit, value));
      moveTo({ x: within(at.x + move.x, canvas.width), y: within(at.y + move.y, canvas.height) });
    } else if (key === " ") {
      // Space begins a stroke that arrow keys continue, and ends it.
      if (stroke === null) {
        place(at);
        startStroke(at);
      } else endStroke();
    } else if (key === "[" || key === "]") {
      size.value = String(Number(size.value) + (key === "]" ? 2 : -2));
      place(at);
    } else if (key === "e") choose(!erases);
    else if (key === "u" || (key === "z" && (event.ctrlKey || event.metaKey))) undo();
    else if (key === "i") apply({ kind: "invert" });
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** The kernel's mask, when it is not the one that was painted here: after a reload, or from another view. */
  function load(mask: InputPicture): void {
    const url = ctx.pictures.url(mask.id, "full");
    if (url === null) return;
    loaded = mask.id;
    const image = new Image();
    image.src = url;
    image
      .decode()
      .then(() => {
        if (loaded !== mask.id) return;
        operations = [{ kind: "load", image }];
        redraw();
      })
      .catch(() => undefined); // the mask stays where it is, with the kernel
  }

  choose(false);
  ctx.settle = () => {
    endStroke();
    return send();
  };
  const update = () => {
    const { scene } = ctx;
    element.hidden = tools.hidden = scene.kind !== "start";
    if (scene.kind !== "start") {
      endStroke();
      void send();
      return;
    }
    const { input, mask } = scene;
    if (picture !== input.id) {
      picture = input.id;
      operations = [];
      loaded = "";
      const scale = Math.min(1, MAX_SIDE / Math.max(input.width, input.height));
      canvas.width = Math.max(1, Math.round(input.width * scale));
      canvas.height = Math.max(1, Math.round(input.height * scale));
    }
    setAttribute(undoButton, "aria-disabled", canUndo() ? null : "true");
    if (mask === null || mask.id === loaded || isChanged || sending !== null || stroke !== null) return;
    // What comes back soon is what was painted here.
    if (performance.now() - sentAt_ms < ECHO_MS) loaded = mask.id;
    else load(mask);
  };
  return {
    element,
    tools,
    update,
    dispose() {
      void send();
      clearTimeout(timer);
    },
  };
}
