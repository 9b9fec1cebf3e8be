import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createCellView } from "../src/cell/view";
import type { CellReport, CellRequest, CellTraits, Progress } from "../src/contract";
import { FakeModel, job } from "./fake_model";
import { alive } from "./setup_urls";

const JPEG = [new Uint8Array([255, 216, 255]).buffer];
const removals: (() => void)[] = [];

class FakeCell extends FakeModel<CellTraits, Record<never, never>, CellRequest, CellReport> {}

/** A kernel connection as JupyterLab's widget manager gives it. */
class FakeKernel {
  interrupts = 0;
  callbacks = new Set<(sender: unknown, status: string) => void>();
  statusChanged = {
    connect: (callback: (sender: unknown, status: string) => void) => void this.callbacks.add(callback),
    disconnect: (callback: (sender: unknown, status: string) => void) => void this.callbacks.delete(callback),
  };
  async interrupt(): Promise<void> {
    this.interrupts += 1;
  }
  change(status: string): void {
    for (const callback of this.callbacks) callback(null, status);
  }
}

const progress = (changes: Partial<Progress> = {}): Progress => {
  const { stage, detail, step, steps, image_index, count, fraction, elapsed_s, remaining_s, cancelling } =
    job();
  const all = {
    stage,
    detail,
    step,
    steps,
    image_index,
    count,
    fraction,
    elapsed_s,
    remaining_s,
    cancelling,
  };
  return { ...all, ...changes };
};

const preview = (changes: Partial<Extract<CellReport, { kind: "preview" }>> = {}): CellReport => ({
  kind: "preview",
  job_id: "job-1",
  step: 7,
  media_type: "image/jpeg",
  ...changes,
});

function mount(traits: Partial<CellTraits> = {}, kernel?: FakeKernel) {
  const model = new FakeCell({
    job_id: "job-1",
    prompt: "a fox",
    width: 256,
    height: 128,
    blocking: true,
    status: {},
    ...traits,
  });
  model.widget_manager = kernel === undefined ? undefined : { kernel };
  const root = document.createElement("div");
  document.body.append(root);
  const dispose = createCellView(model, root);
  removals.push(dispose);
  const find = <T extends HTMLElement = HTMLElement>(name: string) =>
    root.querySelector<T>(`.swiftai-cell__${name}`) as T;
  const images = () => [...root.querySelectorAll("img")];
  return { model, root, dispose, find, images, cancel: () => find<HTMLButtonElement>("cancel").click() };
}

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  for (const remove of removals.splice(0)) remove();
  vi.useRealTimers();
  document.body.replaceChildren();
});

test("the stage has the size of the result, and the prompt is shown before the first report", () => {
  const cell = mount();
  expect(cell.find("stage").style.width).toBe("256px");
  expect(cell.find("stage").style.aspectRatio).toBe("256 / 128");
  expect(cell.find("prompt").textContent).toBe("a fox");
  expect(cell.find("stagename").textContent).toBe("Starting");
  expect(cell.find("bar").dataset.state).toBe("waiting");
  expect(cell.find("hint").textContent).toBe("or press ■");
  expect(cell.model.sentOf("init")).toEqual([{ kind: "init", job_id: "job-1" }]);
});

test("a report moves the bar, names the step, and the clock continues between reports", async () => {
  const cell = mount();
  await cell.model.push({ status: progress({ elapsed_s: 3, remaining_s: 70 }) });
  expect(cell.find("stagename").textContent).toBe("Drawing · step 7 of 20");
  expect(cell.find("bar").getAttribute("aria-valuenow")).toBe("35");
  expect(cell.find("times").textContent).toBe("3 s · about 1 min 10 s left");
  expect(cell.root.querySelector<HTMLElement>(".swiftai-cell")?.dataset.step).toBe("7");
  vi.advanceTimersByTime(10_000);
  expect(cell.find("times").textContent).toBe("13 s · about 1 min left");
});

test("the clock of queued work stands still", async () => {
  const cell = mount();
  await cell.model.push({ status: progress({ stage: "queued", step: 0, elapsed_s: 0, remaining_s: null }) });
  vi.advanceTimersByTime(10_000);
  expect(cell.find("times").textContent).toBe("0 s");
});

test("a view that is opened later shows the status that is there", () => {
  const cell = mount({ status: progress() });
  expect(cell.find("stagename").textContent).toBe("Drawing · step 7 of 20");
});

test("previews arrive as binary buffers or base64, and replace each other", async () => {
  const cell = mount();
  const before = alive.size;
  await cell.model.report(preview(), JPEG);
  await cell.model.report(preview({ step: 8, data: "aGk=" }));
  expect(cell.images().at(-1)?.alt).toBe("a fox (preview, step 8)");
  vi.advanceTimersByTime(3000);
  expect(cell.images()).toHaveLength(1);
  expect(alive.size - before).toBe(1);
});

test("Cancel is sent once, shows at once, and interrupts a kernel that does not react", async () => {
  const kernel = new FakeKernel();
  const cell = mount({}, kernel);
  cell.cancel();
  cell.cancel();
  expect(cell.model.sentOf("cancel")).toEqual([{ kind: "cancel", job_id: "job-1" }]);
  expect(cell.find("stagename").textContent).toBe("Cancelling after this step…");
  expect(cell.find<HTMLButtonElement>("cancel").disabled).toBe(true);
  vi.advanceTimersByTime(900);
  expect(kernel.interrupts).toBe(0);
  vi.advanceTimersByTime(200);
  expect(kernel.interrupts).toBe(1);
});

test("a kernel that confirms the cancel is not interrupted", async () => {
  const kernel = new FakeKernel();
  const cell = mount({}, kernel);
  cell.cancel();
  await cell.model.push({ status: progress({ cancelling: true }) });
  vi.advanceTimersByTime(5000);
  expect(kernel.interrupts).toBe(0);
});

test("background work never interrupts the kernel: another cell may be running", () => {
  const kernel = new FakeKernel();
  const cell = mount({ blocking: false }, kernel);
  expect(cell.find("hint").textContent).toBe("");
  cell.cancel();
  vi.advanceTimersByTime(5000);
  expect(kernel.interrupts).toBe(0);
});

test("a restarted kernel stops the clock and takes Cancel away", async () => {
  const kernel = new FakeKernel();
  const cell = mount({}, kernel);
  await cell.model.push({ status: progress({ elapsed_s: 14 }) });
  kernel.change("busy");
  expect(cell.find("actions").hidden).toBe(false);
  kernel.change("restarting");
  const times = cell.find("times").textContent;
  vi.advanceTimersByTime(10_000);
  expect(cell.find("stagename").textContent).toContain("The kernel was restarted");
  expect(cell.find("times").textContent).toBe(times);
  expect(cell.find("actions").hidden).toBe(true);
  expect(cell.find("bar").dataset.state).toBe("off");
  expect(cell.find("status").textContent).toContain("Run the cell again");
});

test("no reply after a change of the comm means a lost kernel; a reply or report takes it back", async () => {
  const cell = mount();
  await cell.model.push({ status: progress() });
  cell.model.emit("comm_live_update");
  expect(cell.model.sentOf("init")).toHaveLength(2);
  vi.advanceTimersByTime(2000);
  expect(cell.find("stagename").textContent).toContain("Run the cell again");
  await cell.model.report({ kind: "ready" });
  expect(cell.find("stagename").textContent).toBe("Drawing · step 7 of 20");
  expect(cell.find("actions").hidden).toBe(false);
});

test("a new stage is announced at once, further steps only now and then", async () => {
  const cell = mount();
  const announced = new Set<string | null>();
  for (let step = 1; step <= 20; step += 1) {
    await cell.model.push({ status: progress({ step }) });
    announced.add(cell.find("status").textContent);
    vi.advanceTimersByTime(100);
  }
  expect([...announced]).toEqual(["Drawing · step 1 of 20"]);
  vi.advanceTimersByTime(5000);
  await cell.model.push({ status: progress({ step: 20 }) });
  expect(cell.find("status").textContent).toBe("Drawing · step 20 of 20");
});

test("a removed view leaves no listener, timer, element or URL", async () => {
  const kernel = new FakeKernel();
  const before = alive.size;
  const cell = mount({}, kernel);
  await cell.model.report(preview(), JPEG);
  cell.cancel();
  cell.dispose();
  cell.dispose();
  vi.advanceTimersByTime(10_000);
  expect(cell.model.listenerCount).toBe(0);
  expect(kernel.callbacks.size).toBe(0);
  expect(kernel.interrupts).toBe(0);
  expect(cell.root.childElementCount).toBe(0);
  expect(alive.size).toBe(before);
});
