// The running cell: preview, progress, Cancel. Plain ES module, no build step.

const TICK_MS = 100;
const ANSWER_MS = 1000; // how long the kernel may take to hear a click before the page interrupts it
const SAY_MS = 5000; // at most one spoken progress line in this time

/** @param {string} tag @param {string} name @param {Record<string, string>} [attributes] */
function element(tag, name, attributes = {}) {
  const node = document.createElement(tag);
  node.className = `swiftai-cell__${name}`;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

/** @param {number} seconds */
function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${whole % 60}s`;
  return `${Math.floor(whole / 3600)}h ${Math.floor((whole % 3600) / 60)}m`;
}

function stageOf(status) {
  const parts = [];
  if (status.pictures > 1) parts.push(`picture ${status.picture} of ${status.pictures}`);
  if (status.steps > 0 && status.step > 0) parts.push(`step ${status.step} of ${status.steps}`);
  if (status.detail) parts.push(status.detail);
  return [status.stage || "starting", ...parts].join(" · ");
}

function build(model) {
  const root = document.createElement("div");
  root.className = "swiftai-cell";
  const stage = element("div", "stage");
  stage.style.width = `${model.get("width")}px`;
  stage.style.aspectRatio = `${model.get("width")} / ${model.get("height")}`;
  const panel = element("div", "panel", { role: "group", "aria-label": "Picture in progress" });
  const prompt = element("div", "prompt");
  prompt.textContent = model.get("prompt");
  const row = element("div", "row");
  const stageName = element("span", "stagename");
  const times = element("span", "times");
  row.append(stageName, times);
  const bar = element("div", "bar", { role: "progressbar", "aria-label": "Progress", "aria-valuemin": "0", "aria-valuemax": "100" });
  const fill = element("div", "fill");
  bar.append(fill);
  const actions = element("div", "actions");
  const cancel = /** @type {HTMLButtonElement} */ (element("button", "cancel", { type: "button" }));
  cancel.textContent = "Cancel";
  const hint = element("span", "hint");
  hint.textContent = model.get("blocking") ? "or press ■" : "";
  actions.append(cancel, hint);
  const said = element("div", "said", { role: "status", "aria-live": "polite" });
  panel.append(prompt, row, bar, actions, said);
  root.append(stage, panel);
  return { root, stage, stageName, times, bar, fill, cancel, hint, said };
}

/** Shows each preview once it is decoded, fading over the one before: never an empty stage. */
function previewer(stage, alt) {
  /** @type {HTMLImageElement | null} */
  let shown = null;
  const urls = new Set();
  return {
    show(source, step) {
      const image = new Image();
      image.alt = `${alt} (preview, step ${step})`;
      image.onload = () => {
        stage.append(image);
        stage.classList.add("has-preview");
        stage.dataset.step = String(step);
        requestAnimationFrame(() => image.classList.add("is-shown"));
        const before = shown;
        shown = image;
        setTimeout(() => {
          if (before === null) return;
          before.remove();
          urls.delete(before.src);
          URL.revokeObjectURL(before.src);
        }, 250);
      };
      if (source.startsWith("blob:")) urls.add(source);
      image.src = source;
    },
    dispose() {
      for (const url of urls) URL.revokeObjectURL(url);
    },
  };
}

/** The front end's own connection to the kernel, where the widget can reach it. */
function kernelOf(model) {
  const kernel = model.widget_manager?.kernel;
  return kernel && typeof kernel.interrupt === "function" ? kernel : null;
}

function render({ model, el, signal }) {
  const view = build(model);
  const previews = previewer(view.stage, model.get("prompt"));
  let received = performance.now();
  let asked = false;
  let lastSaid = 0;
  let lastStage = "";
  let patience = 0;

  const status = () => model.get("status") || {};

  function tick() {
    const now = status();
    const since = (performance.now() - received) / 1000;
    const elapsed = (now.elapsed_s || 0) + (now.stage === "queued" ? 0 : since);
    const left = now.remaining_s == null ? null : now.remaining_s - since;
    view.times.textContent = `${elapsed.toFixed(1)} s` + (left !== null && left >= 1 ? ` · ~${duration(left)} left` : "");
  }

  function say(text, urgent) {
    const now = performance.now();
    if (!urgent && now - lastSaid < SAY_MS) return;
    lastSaid = now;
    view.said.textContent = text;
  }

  function paint() {
    received = performance.now();
    const now = status();
    if (now.cancelling) clearTimeout(patience);
    const cancelling = asked || now.cancelling;
    const text = cancelling ? "Cancelling after this step…" : stageOf(now);
    view.stageName.textContent = text;
    const percent = Math.round(100 * (now.fraction || 0));
    const vague = !cancelling && !(now.steps > 0 && now.step > 0) && percent === 0;
    view.bar.classList.toggle("is-indeterminate", vague);
    view.fill.style.width = vague ? "" : `${percent}%`;
    if (vague) view.bar.removeAttribute("aria-valuenow");
    else view.bar.setAttribute("aria-valuenow", String(percent));
    view.bar.setAttribute("aria-valuetext", text);
    view.cancel.disabled = Boolean(cancelling);
    view.root.classList.toggle("is-cancelling", Boolean(cancelling));
    view.root.dataset.step = String(now.step || 0);
    const stage = cancelling ? "cancelling" : String(now.stage);
    say(text, stage !== lastStage);
    lastStage = stage;
    tick();
  }

  function cancel() {
    if (asked) return;
    asked = true;
    model.send({ kind: "cancel", job: model.get("job_id") });
    paint();
    // Only while the cell itself waits: an interrupt would hit whatever else the kernel is doing.
    const kernel = model.get("blocking") ? kernelOf(model) : null;
    if (kernel) patience = setTimeout(() => kernel.interrupt(), ANSWER_MS);
  }

  function onMessage(content, buffers) {
    if (content.kind !== "preview") return;
    const source = content.base64
      ? `data:${content.type};base64,${content.base64}`
      : URL.createObjectURL(new Blob([buffers[0]], { type: content.type }));
    previews.show(source, content.step);
  }

  const timer = setInterval(tick, TICK_MS);
  view.cancel.addEventListener("click", cancel);
  model.on("change:status", paint);
  model.on("msg:custom", onMessage);
  el.append(view.root);
  paint();
  model.send({ kind: "ready", job: model.get("job_id") });

  let ended = false;
  function dispose() {
    if (ended) return;
    ended = true;
    clearInterval(timer);
    clearTimeout(patience);
    model.off("change:status", paint);
    model.off("msg:custom", onMessage);
    previews.dispose();
  }
  signal?.addEventListener("abort", dispose);
  return dispose;
}

export default { render };
