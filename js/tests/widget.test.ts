import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Failure, Plan } from "../src/contract";
import { job, type Mounted, model, mount as mountView, picture, settled } from "./fake_model";
import { alive } from "./setup_urls";

const PNG = [new Uint8Array([137, 80, 78, 71]).buffer];
const mounted: Mounted[] = [];
const NOWHERE = { field: "", fixes: [], model: "" };

function mount(...values: Parameters<typeof mountView>): Mounted {
  const card = mountView(...values);
  mounted.push(card);
  return card;
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "setInterval", "clearInterval"] });
});
afterEach(() => {
  for (const card of mounted.splice(0)) card.dispose();
  vi.useRealTimers();
  document.body.replaceChildren();
});

const caption = (card: Mounted) => card.find(".caption .first").textContent;
const times = (card: Mounted) => card.find(".caption .second").textContent;

test("Imagine sends the whole form under a request id and becomes Cancel at once", async () => {
  const card = mount({ steps: 8, seed: 7, count: 2 });
  await card.click("Imagine");
  const [request] = card.host.sentOf("generate");
  expect(request?.settings).toEqual({
    prompt: "a fox",
    negative_prompt: "",
    model: "",
    engine: "local",
    width: null,
    height: null,
    steps: 8,
    guidance_scale: null,
    seed: 7,
    count: 2,
    aspect_ratio: "",
    scheduler: "",
    style: "",
    loras: [],
    strength: null,
    outpaint: "",
    hires: null,
    hires_strength: null,
    hires_steps: null,
    upscale: null,
    upscaler: "",
  });
  expect(request?.request_id).not.toBe("");
  expect(card.button("Cancel")).toBeTruthy();
  expect(card.button("Add to queue")).toBeTruthy();
});

test("an empty prompt is refused on the page and nothing is sent", async () => {
  const card = mount({ prompt: "  " });
  await card.click("Imagine");
  expect(card.host.sentOf("generate")).toEqual([]);
  expect(card.find(".error-note").textContent).toContain("Enter a prompt first");
});

test("the stage names what is done before the first step, then step, bar and times", async () => {
  const card = mount();
  await card.host.push({
    jobs: [job({ stage: "loading model", detail: "2.1 of 6.9 GB", step: 0, steps: 20 })],
  });
  expect(card.find(".stage-name").textContent).toBe("Loading model");
  expect(card.find(".stage-detail").textContent).toBe("2.1 of 6.9 GB");
  expect(caption(card)).toBe("Loading model · 2.1 of 6.9 GB");
  await card.host.push({ jobs: [job()] });
  expect(caption(card)).toBe("Drawing · step 7 of 20");
  expect(times(card)).toBe("3 s · about 6 s left");
  const bar = card.find("[role=progressbar]");
  expect(bar.getAttribute("aria-valuenow")).toBe("35");
  expect(bar.getAttribute("aria-valuemax")).toBe("100");
});

test("a provider without steps gets an indeterminate bar and no invented step", async () => {
  const card = mount();
  await card.host.push({
    jobs: [job({ stage: "waiting for the provider", step: 0, steps: 0, remaining_s: 4 })],
  });
  expect(caption(card)).toBe("Waiting for the provider");
  expect(card.find("[role=progressbar]").hasAttribute("aria-valuenow")).toBe(false);
});

test("previews replace each other and their URLs are revoked", async () => {
  const card = mount({ jobs: [job()] });
  const before = alive.size;
  for (let step = 1; step <= 5; step += 1) {
    await card.host.report({ kind: "preview", job_id: "job-1", step, media_type: "image/jpeg" }, PNG);
  }
  expect(card.all(".layers img").at(-1)?.getAttribute("src")).toMatch(/^blob:/);
  vi.advanceTimersByTime(3000);
  expect(alive.size - before).toBe(1);
  expect(card.all(".layers img")).toHaveLength(1);
});

test("a preview may come as base64 where buffers do not travel", async () => {
  const card = mount({ jobs: [job()] });
  await card.host.report({
    kind: "preview",
    job_id: "job-1",
    step: 1,
    media_type: "image/jpeg",
    data: "aGk=",
  });
  expect(card.all(".layers img")).toHaveLength(1);
});

test("Cancel names the job, shows at once, and is sent once", async () => {
  const card = mount({ jobs: [job()] });
  await card.click("Cancel");
  expect(card.host.sentOf("cancel")).toEqual([{ kind: "cancel", job_id: "job-1", request_id: "" }]);
  expect(caption(card)).toBe("Cancelling after this step…");
  expect(card.button("Cancelling…").getAttribute("aria-disabled")).toBe("true");
  card.button("Cancelling…").click();
  expect(card.host.sentOf("cancel")).toHaveLength(1);
});

test("Cancel before the kernel named the job goes by the request id", async () => {
  const card = mount();
  await card.click("Imagine");
  await card.click("Cancel");
  const [generate] = card.host.sentOf("generate");
  expect(card.host.sentOf("cancel")).toEqual([
    { kind: "cancel", job_id: "", request_id: generate?.request_id },
  ]);
});

test("a cancelled job keeps its last preview and says where it stopped", async () => {
  const card = mount({ jobs: [job()] });
  await card.host.report({ kind: "preview", job_id: "job-1", step: 7, media_type: "image/jpeg" }, PNG);
  await card.host.push({
    jobs: [job({ state: "cancelled", step: 7, message: "Cancelled at step 7 of 20" })],
  });
  expect(card.find(".badge").textContent).toBe("Cancelled at 7 of 20");
  expect(card.find(".badge").hidden).toBe(false);
  expect(card.all(".layers img")).toHaveLength(1);
  expect(card.button("Imagine")).toBeTruthy();
});

test("a queue of three shows places, and the middle one is cancelled alone", async () => {
  const jobs = [
    job(),
    job({ id: "job-2", prompt: "a cat", state: "queued", place: 1 }),
    job({ id: "job-3", prompt: "a dog", state: "queued", place: 2 }),
  ];
  const card = mount({ jobs });
  expect(card.all(".queue li .place").map((one) => one.textContent)).toEqual(["now", "2", "3"]);
  await card.click("Cancel: a cat");
  expect(card.host.sentOf("cancel")).toEqual([{ kind: "cancel", job_id: "job-2", request_id: "" }]);
  expect(caption(card)).toBe("Drawing · step 7 of 20");
  await card.host.push({ jobs: [jobs[0] as never, jobs[2] as never] });
  expect(card.all(".queue li .prompt-text").map((one) => one.textContent)).toEqual(["a fox", "a dog"]);
});

test("Ctrl+Enter queues another picture while one is made, and the host's shortcuts never see it", async () => {
  const card = mount({ jobs: [job()] });
  const outside = vi.fn();
  document.body.addEventListener("keydown", outside);
  const press = (init: KeyboardEventInit) =>
    card.find(".prompt textarea").dispatchEvent(new KeyboardEvent("keydown", { bubbles: true, ...init }));
  press({ key: "Enter" });
  press({ key: "Enter", ctrlKey: true });
  press({ key: "Enter", metaKey: true });
  expect(card.host.sentOf("generate")).toHaveLength(2);
  expect(outside).not.toHaveBeenCalled();
});

test("what is typed reaches the kernel soon, in one save", async () => {
  const card = mount();
  await card.type(".prompt textarea", "a c");
  await card.type(".prompt textarea", "a cat");
  expect(card.host.traits.prompt).toBe("a cat");
  expect(card.host.saves).toBe(0);
  vi.advanceTimersByTime(500);
  expect(card.host.saves).toBe(1);
});

test("what was typed last is saved when the page is left", async () => {
  const card = mount();
  await card.type(".prompt textarea", "a cat");
  window.dispatchEvent(new Event("pagehide"));
  expect(card.host.saves).toBe(1);
  vi.advanceTimersByTime(500);
  expect(card.host.saves).toBe(1);
});

test("an empty number is the model's default, and one outside the limits is the kernel's to refuse", async () => {
  const card = mount();
  await card.type(".steps input", "12");
  expect(card.host.traits.steps).toBe(12);
  await card.type(".steps input", "5000");
  expect(card.host.traits.steps, "nothing else is drawn than what the field shows").toBe(5000);
  await answer(card, {
    message: "steps must be between 1 and 1000 (got 5000)",
    hint: "",
    field: "steps",
    fixes: [1000],
    model: "",
    asks: undefined,
  });
  expect(card.find(".steps input").getAttribute("aria-invalid")).toBe("true");
  expect(card.find<HTMLInputElement>(".steps input").value).toBe("5000");
  await card.click("Use 1000");
  expect(card.host.traits.steps).toBe(1000);
  await card.type(".seed input", "1e30");
  expect(card.host.traits.seed).toBe(Number.MAX_SAFE_INTEGER);
  await card.type(".steps input", "");
  expect(card.host.traits.steps).toBeNull();
  expect(card.find(".steps input").getAttribute("placeholder")).toBe("16");
});

test("the lock keeps the seed of the picture on the stage, and lets it go again", async () => {
  const card = mount({ pictures: [picture({ seed: 99 })] });
  await card.click("Lock the seed");
  expect(card.host.traits.seed).toBe(99);
  expect(card.button("Lock the seed").getAttribute("aria-pressed")).toBe("true");
  await card.click("Lock the seed");
  expect(card.host.traits.seed).toBeNull();
  await card.click("Random seed");
  expect(card.host.traits.seed).toBeGreaterThanOrEqual(0);
  expect(Number.isSafeInteger(card.host.traits.seed)).toBe(true);
});

test("the filmstrip recalls a picture with its recipe, newest first", async () => {
  const card = mount({ pictures: [picture(), picture({ id: "2", prompt: "a cat", seed: 8 })] });
  expect(card.all(".tile").map((one) => one.getAttribute("aria-label"))).toEqual([
    "a cat, seed 8",
    "a fox, seed 7",
  ]);
  await card.click("a fox, seed 7");
  expect(caption(card)).toBe("a fox");
  expect(times(card)).toBe("Emoji mini · 64 × 64 · 16 steps · guidance 2.5 · seed 7 · 1.9 s");
  expect(card.host.sentOf("picture")).toContainEqual({ kind: "picture", picture_id: "1", size: "full" });
});

test("a recalled picture stays while another is made; the live tile goes back to it", async () => {
  const card = mount({ pictures: [picture()] });
  await card.click("a fox, seed 7");
  await card.host.push({ jobs: [job({ prompt: "a dog" })] });
  expect(caption(card)).toBe("a fox");
  await card.click("In progress: a dog");
  expect(caption(card)).toBe("Drawing · step 7 of 20");
});

test("Reuse fills the form, seed included; Remix draws a new seed and starts", async () => {
  const card = mount({ prompt: "", pictures: [picture({ negative_prompt: "blur", steps: 4 })] });
  await card.click("Reuse");
  expect(card.host.traits).toMatchObject({
    prompt: "a fox",
    negative_prompt: "blur",
    model: "emoji-mini",
    steps: 4,
    seed: 7,
  });
  expect(card.host.sentOf("generate")).toEqual([]);
  await card.click("Remix");
  expect(card.host.sentOf("generate")[0]?.settings).toMatchObject({ prompt: "a fox", seed: null, count: 1 });
});

test("Save asks the kernel and says where the file is", async () => {
  const card = mount({ pictures: [picture()] });
  await card.click("Save");
  expect(card.host.sentOf("save")).toEqual([{ kind: "save", picture_id: "1" }]);
  await card.host.report({ kind: "saved", picture_id: "1", path: "a-fox-7.png" });
  expect(card.find(".toast").textContent).toBe("Saved as a-fox-7.png");
});

test("Copy cell copies the text that the kernel wrote", async () => {
  const writeText = vi.fn().mockResolvedValue(undefined);
  Object.defineProperty(navigator, "clipboard", { value: { writeText }, configurable: true });
  const card = mount({ pictures: [picture()] });
  await card.click("Copy cell");
  expect(writeText).toHaveBeenCalledWith("%%imagine --seed 7\na fox");
});

test("Compare lays the neighbor over the picture; the strip changes it, Escape ends it", async () => {
  const pictures = [picture(), picture({ id: "2", seed: 8 }), picture({ id: "3", seed: 9 })];
  const card = mount({ pictures });
  await card.click("Compare");
  const slider = card.find<HTMLInputElement>(".compare .slider");
  slider.value = "20";
  slider.dispatchEvent(new Event("input"));
  expect(card.find(".compare").style.getPropertyValue("--at")).toBe("20%");
  expect(card.find(".side.left").textContent).toBe("seed 9");
  expect(card.find(".side.right").textContent).toBe("seed 8");
  await card.click("a fox, seed 7");
  expect(card.find(".side.right").textContent).toBe("seed 7");
  slider.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
  await settled();
  expect(card.find(".compare").hidden).toBe(true);
});

test("more pictures are requested where the history holds more than the strip", async () => {
  const card = mount({ pictures: [picture()], picture_count: 61 });
  await card.click("Load more");
  expect(card.host.sentOf("load_more")).toHaveLength(1);
  await card.host.push({ picture_count: 1 });
  expect(card.all(".load-more")).toHaveLength(0);
});

test("the negative prompt is open for a model that uses it, folded for one that does not", async () => {
  const fold = (card: Mounted) => card.find<HTMLDetailsElement>(".form > details.fold:not(.more)");
  expect(fold(mount()).open).toBe(true);
  const without = mount({ models: [model({ uses_negative_prompt: false })] });
  expect(fold(without).open).toBe(false);
  without.host.set("negative_prompt", "blur");
  await settled();
  expect(fold(without).open).toBe(true);
});

test("arrow keys walk the filmstrip", async () => {
  const card = mount({ pictures: [picture(), picture({ id: "2", seed: 8 })] });
  card.button("a fox, seed 8").focus();
  const press = (key: string) =>
    document.activeElement?.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  press("ArrowRight");
  expect(document.activeElement?.getAttribute("aria-label")).toBe("a fox, seed 7");
  press("Home");
  expect(document.activeElement?.getAttribute("aria-label")).toBe("a fox, seed 8");
});

test("an error is shown beside the form until the next request, and the stage keeps its picture", async () => {
  const card = mount({ pictures: [picture()] });
  await card.click("Imagine");
  await refuse(card, { message: "steps 0 is below", hint: "use 1 to 1000" });
  expect(card.find(".error-note").textContent).toBe("Steps 0 is belowUse 1 to 1000");
  expect(caption(card)).toBe("a fox");
  expect(card.find(".error-note").hidden).toBe(false);
  expect(card.button("Imagine")).toBeTruthy();
  await card.click("Imagine");
  expect(card.host.sentOf("generate")).toHaveLength(2);
  expect(card.find(".error-note").hidden).toBe(true);
});

test("no reply for some seconds shows a notice; a reply hides it", async () => {
  const card = mount();
  await card.host.report({ kind: "ready" });
  vi.advanceTimersByTime(20_000);
  await settled();
  expect(card.find(".notice").hidden).toBe(true);
  card.host.emit("comm_live_update");
  vi.advanceTimersByTime(2000);
  await settled();
  expect(card.find(".notice").hidden).toBe(false);
  expect(card.find(".notice").textContent).toContain("Run this cell again");
  await card.host.report({ kind: "ready" });
  expect(card.find(".notice").hidden).toBe(true);
});

test("a comm that throws shows the notice", async () => {
  const card = mount();
  await card.host.report({ kind: "ready" });
  card.host.broken = true;
  await card.click("Imagine");
  expect(card.find(".notice").hidden).toBe(false);
});

test("a second view follows the same model and has its own stage", async () => {
  const first = mount({ pictures: [picture(), picture({ id: "2", seed: 8 })] });
  const second = mount({}, first.host);
  await first.click("a fox, seed 7");
  await first.type(".prompt textarea", "a whale");
  expect(second.find<HTMLTextAreaElement>(".prompt textarea").value).toBe("a whale");
  expect(times(first)).toContain("seed 7");
  expect(times(second)).toContain("seed 8");
});

test("a removed view leaves no listener, timer, element or URL", async () => {
  const card = mount({ jobs: [job()], pictures: [picture()] });
  await card.host.report({ kind: "preview", job_id: "job-1", step: 1, media_type: "image/jpeg" }, PNG);
  await card.host.report(
    { kind: "picture", picture_id: "1", size: "thumbnail", media_type: "image/jpeg" },
    PNG,
  );
  card.dispose();
  vi.advanceTimersByTime(10_000);
  expect(card.host.listenerCount).toBe(0);
  expect(card.root.childElementCount).toBe(0);
  expect(alive.size).toBe(0);
  expect(vi.getTimerCount()).toBe(0);
});

test("progress is announced by quarters, and the end once", async () => {
  const card = mount();
  const said: string[] = [];
  const status = card.find("[role=status]");
  const listen = () => {
    if (status.textContent !== said.at(-1)) said.push(status.textContent ?? "");
  };
  for (let step = 1; step <= 20; step += 1) {
    await card.host.push({ jobs: [job({ step })] });
    listen();
  }
  expect(said.length).toBeLessThanOrEqual(5);
  await card.host.push({ jobs: [job({ state: "done" })], pictures: [picture()] });
  expect(status.textContent).toBe("The picture is ready: a fox");
});

test("a model that is not here offers its download, with size and free disk", async () => {
  const turbo = model({
    id: "sdxl-turbo",
    name: "SDXL Turbo",
    size_bytes: 6.94e9,
    total_bytes: 6.94e9,
    state: "download",
    state_text: "download 6.9 GB",
  });
  const card = mount({ models: [model(), turbo], model: "sdxl-turbo" });
  expect(card.find(".offer").textContent).toContain("80.0 GB free on disk");
  card.find(".offer button:not([hidden])").click();
  expect(card.host.sentOf("download")).toEqual([{ kind: "download", model: "sdxl-turbo" }]);
  await card.click("Imagine");
  expect(card.host.sentOf("generate")).toEqual([]);
  const loading = { ...turbo, state: "downloading" as const, done_bytes: 2.87e9, bytes_per_s: 34e6 };
  await card.host.push({ models: [model(), { ...loading, remaining_s: 120, elapsed_s: 84 }] });
  expect(card.find(".model-button .state").textContent).toBe("downloading 41 %");
  expect(card.find(".offer .what").textContent).toBe("2.9 of 6.9 GB");
  expect(card.find(".offer .how").textContent).toBe("34.0 MB/s · about 2 min left · 1 min 24 s elapsed");
  await card.click("Cancel download");
  expect(card.host.sentOf("cancel_download")).toEqual([{ kind: "cancel_download", model: "sdxl-turbo" }]);
});

test("deleting a model asks once more", async () => {
  const card = mount({ models: [model({ can_delete: true })] });
  card.find(".model-button").click();
  await settled();
  await card.click("Delete Emoji mini from disk");
  expect(card.host.sentOf("delete_model")).toEqual([]);
  await card.click("Delete Emoji mini from disk");
  expect(card.host.sentOf("delete_model")).toEqual([{ kind: "delete_model", model: "emoji-mini" }]);
});

test("choosing a cloud model says what is missing and how to give it", async () => {
  const cloud = model({
    id: "owner/flux",
    engine: "cloud",
    name: "FLUX",
    state: "cloud_missing",
    state_text: "cloud, needs a token",
    hint: "Set HF_TOKEN.",
  });
  const card = mount({ models: [model(), cloud] });
  card.find(".model-button").click();
  card.all("button.choice")[1]?.click();
  await settled();
  expect(card.host.traits).toMatchObject({ model: "owner/flux", engine: "cloud" });
  expect(card.find(".offer").textContent).toContain("Set HF_TOKEN.");
  expect(card.find(".models").hidden).toBe(true);
});

const turbo = () =>
  model({ id: "sdxl-turbo", name: "SDXL Turbo", width: 512, height: 512, steps: 4, guidance_scale: 0 });
const start = { id: "input-1", role: "image" as const, width: 64, height: 64, origin: "", control: null };
const reference = { ...start, id: "input-2", role: "reference" as const };
const plan = {
  estimated_s: 12,
  device: "cpu",
  memory: "about 0.2 GB of 17 GB free",
  width: 64,
  height: 64,
  steps: 16,
  notes: [] as string[],
  asks: false,
};

/** What the kernel answers to the newest request for a plan. */
async function answer(card: Mounted, content: object): Promise<void> {
  await reportPlan(card, { ...plan, ...content });
}

/** The same when it would refuse the form. */
async function refusePlan(card: Mounted, failure: object): Promise<void> {
  await reportPlan(card, { message: "", hint: "", ...NOWHERE, ...failure });
}

async function reportPlan(card: Mounted, content: Plan | Failure): Promise<void> {
  vi.advanceTimersByTime(600);
  await settled();
  const request_id = card.host.sentOf("plan").at(-1)?.request_id ?? "";
  await card.host.report({ kind: "plan", request_id, ...content });
}

/** What the kernel answers to the first request for pictures when it refuses it. */
async function refuse(card: Mounted, failure: object): Promise<void> {
  const request_id = card.host.sentOf("generate")[0]?.request_id ?? "";
  await card.host.report({ kind: "error", request_id, message: "", hint: "", ...NOWHERE, ...failure });
}

async function chooseModel(card: Mounted, index: number): Promise<void> {
  card.find(".model-button").click();
  card.all("button.choice")[index]?.click();
  await settled();
}

test("another model resets what was copied from a picture, and keeps what the user set", async () => {
  const made = picture({ width: 128, height: 64, steps: 9, guidance_scale: 1.7, scheduler: "euler" });
  const card = mount({ models: [model(), turbo()], pictures: [made] });
  await card.click("Reuse");
  expect(card.host.traits).toMatchObject({ width: 128, steps: 9, guidance_scale: 1.7, scheduler: "euler" });
  await card.type(".steps input", "7");
  await chooseModel(card, 1);
  expect(card.host.traits).toMatchObject({
    model: "sdxl-turbo",
    width: null,
    height: null,
    steps: 7,
    guidance_scale: null,
    scheduler: "",
    seed: 7,
  });
  expect(card.find(".steps input").getAttribute("placeholder")).toBe("4");
});

test("Reuse leaves open what was the model's own", async () => {
  const card = mount({ pictures: [picture()] });
  await card.click("Reuse");
  expect(card.host.traits).toMatchObject({ width: null, height: null, steps: null, guidance_scale: null });
});

test("an error marks its field and offers values that mend it", async () => {
  const card = mount({ pictures: [picture()], width: 100 });
  await refusePlan(card, {
    message: "width 100 is not a multiple of 16",
    hint: "use 96 or 112",
    field: "width",
    fixes: [96, 112],
  });
  expect(card.find(".buttons").nextElementSibling).toBe(card.find(".error-note"));
  card.find<HTMLDetailsElement>("details.more").open = true;
  await card.host.push({});
  card.host.emit("change:width");
  await settled();
  expect(card.find(".width input").getAttribute("aria-invalid")).toBe("true");
  expect(card.find(".pixels").nextElementSibling).toBe(card.find(".error-note"));
  expect(caption(card)).toBe("a fox");
  await card.click("Use 96");
  expect(card.host.traits.width).toBe(96);
  await answer(card, {});
  expect(card.find(".error-note").hidden).toBe(true);
  expect(card.find(".width input").hasAttribute("aria-invalid")).toBe(false);
});

test("a refusal that comes after its field was mended is not shown", async () => {
  const card = mount();
  await card.click("Imagine");
  await refusePlan(card, { message: "width 100 is not a multiple of 16", field: "width", fixes: [96] });
  await card.click("Use 96");
  await answer(card, {});
  await refuse(card, { message: "width 100", field: "width" });
  expect(card.find(".error-note").hidden).toBe(true);
  expect(card.button("Imagine")).toBeTruthy();
});

test("a refused request opens the fold in which its field is", async () => {
  const card = mount();
  await card.host.report({
    kind: "error",
    request_id: "",
    message: "steps must be …",
    hint: "",
    ...NOWHERE,
    field: "steps",
  });
  expect(card.find<HTMLDetailsElement>("details.more").open).toBe(true);
});

test("the estimate stands below the button before it is pressed", async () => {
  const card = mount();
  expect(card.find(".estimate").textContent).toBe("Estimating…");
  await answer(card, {});
  expect(card.find(".estimate").textContent).toBe(
    "About 12 s on this machine's CPU · about 0.2 GB of 17 GB free",
  );
  await card.type(".steps input", "12");
  expect(card.find(".estimate").hasAttribute("data-outdated")).toBe(true);
  expect(card.host.sentOf("plan")).toHaveLength(1);
  vi.advanceTimersByTime(600);
  expect(card.host.sentOf("plan")).toHaveLength(2);
});

test.each([0, 600])("an answer that is outdated by another form is not shown, %i ms later", async (later) => {
  const card = mount();
  vi.advanceTimersByTime(600);
  const first = card.host.sentOf("plan")[0]?.request_id ?? "";
  await card.type(".steps input", "12");
  vi.advanceTimersByTime(later);
  await card.host.report({ kind: "plan", request_id: first, ...plan });
  expect(card.find(".estimate").textContent).toBe("Estimating…");
});

test.each(["steps", "guidance_scale", "seed", "count"])(
  "a plan's refusal of %s ends with its cause",
  async (name) => {
    const card = mount();
    card.find<HTMLDetailsElement>("details.more").open = true;
    await card.type(`.${name} input`, "-3");
    await refusePlan(card, { message: `${name} must be …`, field: name, fixes: [1] });
    expect(card.find(".error-note").hidden).toBe(false);
    await card.click("Use 1");
    expect(card.find(".error-note").hidden).toBe(true);
    expect(card.find(`.${name} input`).hasAttribute("aria-invalid")).toBe(false);
  },
);

test.each(["prompt", "negative_prompt"])(
  "a plan says nothing of the %s, which is still being typed",
  async (name) => {
    const card = mount();
    await refusePlan(card, { message: "more than …", field: name });
    expect(card.find(".error-note").hidden).toBe(true);
  },
);

test("a refused form keeps the line of the estimate, so that the fields below it do not move", async () => {
  const card = mount();
  await answer(card, {});
  await card.type(".steps input", "9");
  await refusePlan(card, { message: "steps must be …", field: "steps" });
  expect(card.find(".estimate").textContent).toBe("No estimate");
  await card.type(".steps input", "12");
  expect(card.find(".estimate").textContent).toBe("No estimate");
  await answer(card, {});
  expect(card.find(".estimate").textContent).toContain("About 12 s");
});

test("more than a minute on the CPU is asked about; a second press starts", async () => {
  const card = mount();
  await answer(card, { estimated_s: 900, asks: true });
  await card.click("Imagine");
  expect(card.host.sentOf("generate")).toEqual([]);
  expect(card.find(".question").textContent).toContain("about 15 min");
  await card.click("Not now");
  expect(card.find(".question").hidden).toBe(true);
  await card.click("Imagine");
  await card.click("Start anyway");
  expect(card.host.sentOf("generate")).toHaveLength(1);
  expect(card.host.sentOf("generate")[0]?.confirmed).toBe(true);
  expect(card.find(".question").hidden).toBe(true);
});

test("a long job that was sent before its time was known is asked about, with its own settings", async () => {
  const card = mount({ pictures: [picture({ steps: 900 })], prompt: "something else" });
  await card.click("Variations");
  const request_id = card.host.sentOf("generate")[0]?.request_id ?? "";
  await card.host.report({ kind: "plan", request_id, ...plan, estimated_s: 900, asks: true });
  expect(card.find(".question").hidden).toBe(false);
  expect(card.button("Imagine")).toBeTruthy();
  await card.click("Start anyway");
  expect(card.host.sentOf("generate")[1]).toMatchObject({
    picture_id: "1",
    confirmed: true,
    settings: { prompt: "a fox", steps: 900 },
  });
});

test("Imagine and Cancel are never under the same click", async () => {
  const card = mount();
  const imagine = card.button("Imagine");
  imagine.click();
  imagine.dispatchEvent(new MouseEvent("click", { bubbles: true, detail: 2 }));
  await settled();
  expect(card.host.sentOf("generate")).toHaveLength(1);
  expect(card.button("Add to queue")).toBe(imagine);
  expect(card.button("Cancel")).not.toBe(imagine);
});

test("the pictures of one job are tiles that fill, and open when they are pressed", async () => {
  const batch = { count: 4, image_index: 1, picture_ids: ["1"] };
  const card = mount({ pictures: [picture()], jobs: [job(batch)] });
  const states = () => card.all(".stage-tile").map((one) => one.dataset.state);
  expect(states()).toEqual(["done", "current", "waiting", "waiting"]);
  expect(card.all(".stage-tile").map((one) => one.getAttribute("aria-label"))).toEqual([
    "Picture 1 of 4",
    "Picture 2 of 4, in progress",
    "Picture 3 of 4, waiting",
    "Picture 4 of 4, waiting",
  ]);
  const pictures = ["1", "2", "3", "4"].map((id) => picture({ id, seed: Number(id) }));
  const ended = { state: "done" as const, picture_ids: ["1", "2", "3", "4"] };
  await card.host.push({ pictures, jobs: [job({ ...batch, ...ended })] });
  expect(states()).toEqual(["done", "done", "done", "done"]);
  await card.click("Picture 3 of 4");
  expect(times(card)).toContain("seed 3");
  await card.click("All 4");
  expect(card.all(".stage-tile")).toHaveLength(4);
});

test("a cancelled job is tried again, a cancelled batch is completed", async () => {
  const card = mount({ jobs: [job({ state: "cancelled" })] });
  await card.click("Try again");
  expect(card.host.sentOf("retry")).toEqual([{ kind: "retry", job_id: "job-1" }]);
  await card.host.push({
    pictures: [picture()],
    jobs: [job({ id: "job-2", state: "cancelled", count: 3, picture_ids: ["1"] })],
  });
  await card.click("Make the missing 2");
  expect(card.host.sentOf("retry")[1]).toEqual({ kind: "retry", job_id: "job-2" });
});

test("Edit this makes the picture the start picture, or a reference where the model takes them", async () => {
  const card = mount({ pictures: [picture()] });
  await card.click("Edit this");
  expect(card.host.sentOf("set_input")).toEqual([{ kind: "set_input", role: "image", picture_id: "1" }]);
  await card.host.push({ inputs: [{ ...start, origin: "1" }] });
  expect(caption(card)).toBe("Start picture");
  const klein = mount({ pictures: [picture()], models: [model({ max_references: 4 })] });
  await klein.click("Edit this");
  expect(klein.host.sentOf("set_input")[0]?.role).toBe("reference");
});

test("pictures in stand in the tray until they are removed", async () => {
  const card = mount({ inputs: [start, reference], models: [model({ max_references: 4 })] });
  expect(card.all(".inputs li").map((one) => one.dataset.role)).toEqual(["image", "reference"]);
  expect(card.find(".strength").hidden).toBe(false);
  await card.click("Remove: reference 1");
  expect(card.host.sentOf("remove_input")).toEqual([{ kind: "remove_input", input_id: "input-2" }]);
  await card.click("Show the start picture");
  expect(card.find(".stage").dataset.scene).toBe("start");
  await card.click("Imagine");
  expect(card.find(".stage").dataset.scene).toBe("pending");
});

test("a model without references says which takes them", async () => {
  const klein = model({ id: "klein", name: "FLUX.2 klein 4B", max_references: 4, state: "download" });
  const card = mount({ models: [model(), klein], inputs: [reference] });
  const text = "Emoji mini makes pictures from text and takes no references; FLUX.2 klein 4B does.";
  expect(card.find(".tray .warn").textContent).toBe(text);
  await card.host.push({ inputs: [] });
  await card.click("Add a reference picture");
  expect(card.find(".error-note .what").textContent).toBe(text);
});

test("a dropped file is sent as it is, a file that is no picture is refused", async () => {
  const card = mount();
  const drop = async (...files: File[]) => {
    const event = new Event("drop", { bubbles: true, cancelable: true });
    Object.assign(event, { dataTransfer: { files, types: ["Files"] } });
    card.find(".stage").dispatchEvent(event);
    for (let turn = 0; turn < 20; turn += 1) await settled();
  };
  await drop(new File(["x"], "notes.txt", { type: "text/plain" }));
  expect(card.find(".error-note .what").textContent).toBe(
    "This file is not a picture that the browser can read",
  );
  const fox = new File([new Uint8Array([137, 80])], "fox.png", { type: "image/png" });
  await drop(Object.assign(fox, { arrayBuffer: async () => new ArrayBuffer(2) })); // jsdom has none
  await vi.waitFor(() =>
    expect(card.host.sentOf("set_input")).toEqual([{ kind: "set_input", role: "image" }]),
  );
});

test("text that was copied with a picture of it is pasted as text", async () => {
  const card = mount();
  const paste = async (text: string) => {
    const event = new Event("paste", { bubbles: true, cancelable: true });
    const fox = Object.assign(new File(["x"], "fox.png", { type: "image/png" }), {
      arrayBuffer: async () => new ArrayBuffer(2),
    });
    Object.assign(event, { clipboardData: { files: [fox], types: ["Files"], getData: () => text } });
    card.find(".prompt textarea").dispatchEvent(event);
    for (let turn = 0; turn < 20; turn += 1) await settled();
    return event.defaultPrevented;
  };
  expect(await paste("a fox")).toBe(false);
  expect(card.host.sentOf("set_input")).toEqual([]);
  expect(await paste("")).toBe(true);
  expect(card.host.sentOf("set_input")).toHaveLength(1);
});

test("a chain of edits is shown as versions, with before and after", async () => {
  const pictures = [
    picture(),
    picture({ id: "2", parent: "1", prompt: "a fox with a scarf" }),
    picture({ id: "3", parent: "2", prompt: "a blue scarf" }),
  ];
  const card = mount({ pictures });
  const versions = () => card.all(".chain .thumb").map((one) => one.getAttribute("aria-label"));
  expect(versions()).toEqual([
    "Version 1: a fox",
    "Version 2: a fox with a scarf",
    "Version 3: a blue scarf",
  ]);
  card.find(".versions .action").click();
  await settled();
  expect(card.find(".side.left").textContent).toBe("a blue scarf");
  expect(card.find(".side.right").textContent).toBe("a fox with a scarf");
});

test("a circle of parents is no endless chain", () => {
  const card = mount({ pictures: [picture({ parent: "2" }), picture({ id: "2", parent: "1" })] });
  expect(card.all(".chain .thumb")).toHaveLength(2);
});

test("Variations starts four pictures from this one and leaves the form alone", async () => {
  const card = mount({ pictures: [picture({ seed: 9 })], prompt: "something else" });
  await card.click("Variations");
  const [request] = card.host.sentOf("generate");
  expect(request).toMatchObject({ picture_id: "1", settings: { prompt: "a fox", count: 4, strength: 0.5 } });
  expect(card.host.traits.prompt).toBe("something else");
});

test("Remix starts from what the picture was made from, never from another start picture", async () => {
  const child = picture({ id: "2", parent: "1", strength: 0.4 });
  const card = mount({ pictures: [picture(), child], inputs: [start] });
  await card.click("Remix");
  expect(card.host.sentOf("generate")[0]).toMatchObject({ picture_id: "1", settings: { strength: 0.4 } });
  await card.click("a fox, seed 7");
  card.host.traits.jobs = [];
  const plainPicture = mount({ pictures: [picture()], inputs: [start] });
  await plainPicture.click("Remix");
  expect(plainPicture.host.sentOf("generate")[0]?.picture_id).toBe("");
});

test("favorites are marked, filtered and searched; Delete asks once more", async () => {
  const names = ["a fox", "a cat", "a fox at night", "a dog"];
  const pictures = names.map((prompt, at) =>
    picture({ id: String(at), prompt, seed: at, favorite: at === 1 }),
  );
  const card = mount({ pictures });
  const shown = () => card.all(".tile").map((one) => one.getAttribute("aria-label"));
  expect(shown()[2]).toBe("a cat, seed 1, favorite");
  await card.type(".search", "FOX night");
  expect(shown()).toEqual(["a fox at night, seed 2"]);
  await card.type(".search", "");
  await card.click("Favorites only");
  expect(shown()).toEqual(["a cat, seed 1, favorite"]);
  await card.click("Favorites only");
  await card.click("Favorite");
  expect(card.host.sentOf("favorite")).toEqual([{ kind: "favorite", picture_id: "3", favorite: true }]);
  await card.click("Delete");
  expect(card.host.sentOf("delete_picture")).toEqual([]);
  await card.click("Delete?");
  expect(card.host.sentOf("delete_picture")).toEqual([{ kind: "delete_picture", picture_id: "3" }]);
});

test("Enlarge asks for a larger picture, and shows one that was made without a job", async () => {
  const card = mount({ pictures: [picture({ id: "1" }), picture({ id: "2" })] });
  await card.click("Enlarge");
  expect(card.host.sentOf("upscale")).toEqual([{ kind: "upscale", picture_id: "2" }]);
  await card.host.report({ kind: "upscaled", picture_id: "1", note: "enlarged by Lanczos' filter" });
  expect(card.find(".toast").textContent).toBe("enlarged by Lanczos' filter");
  await card.click("Enlarge");
  expect(card.host.sentOf("upscale")[1]).toEqual({ kind: "upscale", picture_id: "1" });
});

test("a question about deleting is taken back after some seconds", async () => {
  const card = mount({ pictures: [picture()] });
  await card.click("Delete");
  vi.advanceTimersByTime(5000);
  await settled();
  await card.click("Delete");
  expect(card.host.sentOf("delete_picture")).toEqual([]);
});

test("the up arrow brings back earlier prompts, the down arrow the draft", async () => {
  const pictures = ["a cat", "a dog", "a cat"].map((prompt, at) => picture({ id: String(at), prompt }));
  const card = mount({ prompt: "", pictures });
  const area = card.find<HTMLTextAreaElement>(".prompt textarea");
  const press = (key: string) =>
    area.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  for (const [key, text] of [
    ["ArrowUp", "a cat"],
    ["ArrowUp", "a dog"],
    ["ArrowUp", "a dog"],
    ["ArrowDown", "a cat"],
    ["ArrowDown", ""],
  ]) {
    press(key as string);
    await settled();
    expect(area.value).toBe(text);
  }
  await card.type(".prompt textarea", "a whale");
  area.setSelectionRange(3, 3);
  press("ArrowUp");
  expect(area.value).toBe("a whale");
});

test("arrow keys go through the pictures of the large view", async () => {
  const card = mount({ pictures: [picture(), picture({ id: "2", prompt: "a cat" })] });
  await card.click("Show large");
  const large = card.find<HTMLDialogElement>("dialog.large");
  const press = (key: string) => large.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  expect(large.querySelector(".first")?.textContent).toBe("a cat");
  press("ArrowRight");
  await settled();
  expect(large.querySelector(".first")?.textContent).toBe("a fox");
  press("ArrowRight");
  press("f");
  expect(card.host.sentOf("favorite")).toEqual([{ kind: "favorite", picture_id: "1", favorite: true }]);
});

test("a format replaces the size; Custom opens width and height", async () => {
  const card = mount({ width: 128, height: 64 });
  expect(card.button("Custom").getAttribute("aria-pressed")).toBe("true");
  await card.click("3:4");
  expect(card.host.traits).toMatchObject({ aspect_ratio: "3:4", width: null, height: null });
  expect(card.find(".pixels").hidden).toBe(true);
  await card.click("Custom");
  expect(card.find(".pixels").hidden).toBe(false);
  await card.type(".width input", "96");
  expect(card.host.traits).toMatchObject({ aspect_ratio: "", width: 96 });
  await card.click("Use the model's settings");
  expect(card.host.traits.width).toBeNull();
});

test("sampler, style, LoRAs and presets are chosen in More", async () => {
  const samplers = { noise: ["euler"] };
  const choices = {
    samplers,
    styles: ["ink"],
    loras: ["owner/pixel"],
    upscalers: ["lanczos"],
    presets: { mine: { style: "ink", steps: 3 } },
  };
  const card = mount({ choices });
  const select = async (selector: string, value: string) => {
    card.find<HTMLSelectElement>(selector).value = value;
    card.find(selector).dispatchEvent(new Event("change"));
    await settled();
  };
  await select(".scheduler select", "euler");
  await select(".style select", "ink");
  expect(card.host.traits).toMatchObject({ scheduler: "euler", style: "ink" });
  await card.type(".lora-field input[type=text]", "owner/pixel");
  await card.click("Add");
  expect(card.host.traits.loras).toEqual([{ source: "owner/pixel", scale: 1 }]);
  await card.click("Remove the LoRA owner/pixel");
  expect(card.host.traits.loras).toEqual([]);
  await select(".presets select", "mine");
  expect(card.host.traits.steps).toBe(3);
  await card.type(".presets input", " better ");
  await card.click("Save preset");
  expect(card.host.sentOf("save_preset")[0]).toMatchObject({ name: "better", settings: { style: "ink" } });
  await card.click("Delete preset");
  expect(card.host.sentOf("delete_preset")).toEqual([{ kind: "delete_preset", name: "mine" }]);
});

test("a failed download is told where its button is", async () => {
  const missing = model({ id: "tiny", name: "Tiny", state: "download" });
  const card = mount({ models: [model(), missing], model: "tiny" });
  const failure = { message: "the connection failed", hint: "check your connection", field: "", fixes: [] };
  await card.host.report({ kind: "error", request_id: "", ...failure, model: "tiny" });
  expect(card.find(".offer .failed").textContent).toBe("The connection failed. Check your connection");
  expect(card.find(".error-note").hidden).toBe(true);
});

test("a kernel that was restarted from elsewhere is noticed when it does not know the widget", async () => {
  let tell = (_sender: unknown, _status: string) => {};
  const statusChanged = {
    connect: (callback: typeof tell) => {
      tell = callback;
    },
    disconnect: () => {},
  };
  const { host } = mount();
  host.widget_manager = { kernel: { interrupt: async () => {}, statusChanged } };
  const card = mount({}, host);
  await host.report({ kind: "ready" });
  tell(null, "starting");
  await host.report({ kind: "ready" });
  vi.advanceTimersByTime(5000);
  await settled();
  expect(card.find(".notice").hidden).toBe(true);
  tell(null, "starting");
  vi.advanceTimersByTime(5000);
  await settled();
  expect(card.find(".notice").hidden).toBe(false);
});

test("a kernel of which nothing is heard while it has work is asked for a sign of life", async () => {
  const card = mount({ jobs: [job()] });
  await card.host.report({ kind: "ready" });
  vi.advanceTimersByTime(9_000);
  await card.host.push({ jobs: [job({ step: 3 })] });
  vi.advanceTimersByTime(9_000);
  expect(card.host.sentOf("init")).toHaveLength(1);
  vi.advanceTimersByTime(2_000);
  expect(card.host.sentOf("init")).toHaveLength(2);
  vi.advanceTimersByTime(7_000);
  await settled();
  expect(card.find(".notice").hidden).toBe(false);
  await card.host.report({ kind: "ready" });
  expect(card.find(".notice").hidden).toBe(true);
});

test("the echo of an earlier prompt does not undo what was typed since", async () => {
  const card = mount();
  await card.type(".prompt textarea", "a cat");
  await card.click("Imagine");
  await card.type(".prompt textarea", "a dog");
  await card.host.push({ prompt: "a cat" });
  expect(card.find<HTMLTextAreaElement>(".prompt textarea").value).toBe("a dog");
  await card.click("Add to queue");
  expect(card.host.sentOf("generate").map((one) => one.settings.prompt)).toEqual(["a cat", "a dog"]);
});
