import { afterEach, beforeEach, expect, test, vi } from "vitest";
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

test("an empty number is the model's default, and one outside the limits never reaches the kernel", async () => {
  const card = mount();
  await card.type(".steps input", "12");
  expect(card.host.traits.steps).toBe(12);
  await card.type(".steps input", "5000");
  expect(card.host.traits.steps).toBe(12);
  expect(card.find(".steps input").getAttribute("aria-invalid")).toBe("true");
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
  const fold = (card: Mounted) => card.find<HTMLDetailsElement>("details.fold:not(.more)");
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
  const request_id = card.host.sentOf("generate")[0]?.request_id ?? "";
  await card.host.report({
    kind: "error",
    request_id,
    message: "steps 0 is below",
    hint: "use 1 to 1000",
    ...NOWHERE,
  });
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
