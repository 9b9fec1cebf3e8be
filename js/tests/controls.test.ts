import { afterEach, expect, test } from "vitest";
import type { Control, ControlNet, InputPicture } from "../src/contract";
import { marginsOf, outpaintText } from "../src/widget/outpaint";
import { type Mounted, model, mount as mountView, picture, settled } from "./fake_model";

const mounted: Mounted[] = [];
const canny = { kind: "canny", model: "", scale: 1, start: 0, end: 1, is_guess: false };
const start: InputPicture = {
  ...{ id: "input-1", role: "image", width: 64, height: 48, origin: "", control: null },
};
const net: ControlNet = {
  ...{
    kinds: ["canny"],
    id: "sd-1.5-canny",
    name: "ControlNet canny",
    size_bytes: 723e6,
    license: "openrail",
  },
  ...{ state: "download", state_text: "download 723 MB", hint: "License openrail: free to use." },
  ...{ free_disk_bytes: 80e9, done_bytes: 0, total_bytes: 723e6, bytes_per_s: 0 },
  ...{ remaining_s: null, elapsed_s: 0 },
};
const able = model({ id: "sd", name: "SD 1.5", takes_controls: true });

function mount(...values: Parameters<typeof mountView>): Mounted {
  const card = mountView(...values);
  mounted.push(card);
  return card;
}

function control(changes: Partial<Control> = {}, id = "input-control-1"): InputPicture {
  const preview = changes.preview ?? `${id}-canny`;
  return {
    id,
    role: "control",
    width: 64,
    height: 48,
    origin: "",
    control: { ...canny, ...changes, preview },
  };
}

async function set(card: Mounted, selector: string, value: string): Promise<void> {
  const field = card.find<HTMLInputElement>(selector);
  field.value = value;
  field.dispatchEvent(new Event("change"));
  await settled();
}

afterEach(() => {
  for (const card of mounted.splice(0)) card.dispose();
  document.body.replaceChildren();
});

test("control pictures are offered for models that can, and what is left of them is explained", async () => {
  const card = mount({ models: [model()] });
  expect(card.find(".controls").hidden).toBe(true);
  await card.host.push({ inputs: [control()], models: [model(), able] });
  expect(card.find(".controls").hidden).toBe(false);
  expect(card.find(".tray .warn").textContent).toBe("Emoji mini cannot follow pictures; SD 1.5 can.");
  await card.host.push({ models: [able], model: "sd" });
  expect(card.find<HTMLElement>(".tray .warn").hidden).toBe(true);
  expect(card.button("Follow a picture")).toBeTruthy();
});

test("a control shows its picture, what is made of it, and its numbers; changes are sent one by one", async () => {
  const card = mount({ models: [able], inputs: [control({ scale: 0.8, end: 0.6 })] });
  const wanted = card.host.sentOf("picture").map((one) => one.picture_id);
  expect(wanted).toEqual(expect.arrayContaining(["input-control-1", "input-control-1-canny"]));
  const numbers = card.all(".amounts input").map((one) => (one as HTMLInputElement).value);
  expect(numbers).toEqual(["0.8", "0", "0.6"]);
  await set(card, ".amounts input", "0.5");
  await set(card, ".follow select", "tile");
  expect(card.host.sentOf("set_control")).toEqual([
    { kind: "set_control", input_id: "input-control-1", scale: 0.5 },
    { kind: "set_control", input_id: "input-control-1", scale: 0.5, source: "tile" },
  ]);
  await set(card, ".amounts input", "11");
  expect(card.find(".amounts input").getAttribute("aria-invalid")).toBe("true");
  expect(card.host.sentOf("set_control")).toHaveLength(2);
  await card.click("Remove: control 1");
  expect(card.host.sentOf("remove_input")).toEqual([{ kind: "remove_input", input_id: "input-control-1" }]);
});

test("a refused change stands at the controls and is taken back", async () => {
  const card = mount({ models: [able], inputs: [control()] });
  await set(card, ".amounts label:nth-child(3) input", "0");
  const message = "a control acts from 0 to 0 of the steps";
  await card.host.report({
    ...{ kind: "error", request_id: "", message, hint: "give a start below the end" },
    ...{ field: "controls", fixes: [], model: "" },
  });
  expect(card.find(".controls + .error-note").textContent).toContain("A control acts from 0 to 0");
  expect(card.find<HTMLInputElement>(".amounts label:nth-child(3) input").value).toBe("1");
});

test("depth and pose say that the picture has to be brought, and show no second one", async () => {
  const card = mount({ models: [able], inputs: [control({ kind: "depth", preview: "" })] });
  expect(card.find(".control .note").textContent).toContain("Bring a depth map");
  expect(card.all(".map").map((one) => one.hidden)).toEqual([false, true]);
});

test("a ControlNet that is missing is offered with size and license, and refused before it is sent", async () => {
  const card = mount({ models: [able], controlnets: [net], inputs: [control()] });
  const offer = card.find(".control .offer");
  expect(offer.textContent).toContain("ControlNet canny is not downloaded. 80.0 GB free on disk.");
  expect(offer.textContent).toContain("License openrail");
  await card.click("Imagine");
  expect(card.host.sentOf("generate")).toEqual([]);
  expect(card.find(".controls + .error-note").textContent).toContain("ControlNet canny is not downloaded");
  await card.click("Download 723 MB");
  expect(card.host.sentOf("download")).toEqual([{ kind: "download", model: "sd-1.5-canny" }]);
  await card.host.push({ controlnets: [{ ...net, state: "ready" }] });
  expect(offer.hidden).toBe(true);
  await card.click("Imagine");
  expect(card.host.sentOf("generate")).toHaveLength(1);
});

test("a ControlNet of one's own needs a name before anything is sent", async () => {
  const card = mount({ models: [able], controlnets: [net], inputs: [control()] });
  await set(card, ".follow select", "");
  expect(card.host.sentOf("set_control")).toEqual([]);
  expect(card.find<HTMLDetailsElement>(".control details").open).toBe(true);
  expect(card.find(".control .note").textContent).toContain("as it is");
  await set(card, ".control input[type=text]", "/nets/mine");
  expect(card.host.sentOf("set_control").at(-1)?.source).toBe("/nets/mine");
  await set(card, ".follow select", "canny");
  expect(card.host.sentOf("set_control").at(-1)?.source).toBe("canny@/nets/mine");
});

test("a picture of the strip becomes a control, and a pasted one where the focus is there", async () => {
  const card = mount({ models: [able], pictures: [picture()] });
  await card.click("Use as control");
  expect(card.host.sentOf("set_input")).toEqual([{ kind: "set_input", role: "control", picture_id: "1" }]);
  const plain = mount({ pictures: [picture()] });
  expect(() => plain.button("Use as control")).toThrow();
});

test("Remix and Variations name the picture that steered, Reuse asks for its pictures in", async () => {
  const followed = picture({ outpaint: "left=64", strength: 1, parent: "0", controls: ["canny at 0.8"] });
  const card = mount({ models: [model({ takes_controls: true })], pictures: [followed] });
  expect(card.find(".caption .second").textContent).toContain("continued left 64 · follows canny at 0.8");
  await card.click("Remix");
  expect(card.host.sentOf("generate")[0]).toMatchObject({
    ...{ picture_id: "0", of: "1", settings: { outpaint: "left=64", width: null, height: null } },
  });
  card.host.traits.jobs = [];
  await card.click("a fox, seed 7");
  await card.click("Variations");
  expect(card.host.sentOf("generate")[1]).toMatchObject({
    picture_id: "1",
    of: "1",
    settings: { outpaint: "" },
  });
  await card.click("a fox, seed 7");
  await card.click("Reuse");
  expect(card.host.sentOf("reuse")).toEqual([{ kind: "reuse", picture_id: "1" }]);
});

test("Reuse of an enlarged picture asks for the size that was drawn, and for the enlargement", async () => {
  const enlarged = picture({
    ...{ width: 256, height: 192, drawn_width: 128, drawn_height: 96, hires: 1.5, hires_strength: 0.3 },
    ...{ hires_steps: 16, upscale: 2, upscaler: "lanczos" },
  });
  const card = mount({ pictures: [enlarged] });
  await card.click("Reuse");
  expect(card.host.traits).toMatchObject({
    ...{ width: 128, height: 96, hires: 1.5, hires_strength: 0.3, hires_steps: null },
    ...{ upscale: 2, upscaler: "lanczos" },
  });
});

test("a hires pass shows what belongs to it, and limits are the kernel's", async () => {
  const card = mount();
  expect(card.find(".hires_strength").hidden).toBe(true);
  await card.type(".hires input", "1.5");
  expect(card.host.traits.hires).toBe(1.5);
  expect(card.find(".hires_strength").hidden).toBe(false);
  expect(card.find(".upscaler").hidden).toBe(false);
  await card.type(".upscale input", "9");
  expect(card.host.traits.upscale).toBe(9);
  await card.type(".hires input", "");
  expect(card.host.traits.hires).toBeNull();
});

test("margins are one text for all sides, shown with the start picture alone", async () => {
  expect(marginsOf("left=128, top=64")).toEqual({ left: 128, top: 64, right: 0, bottom: 0 });
  expect(marginsOf("32")).toEqual({ left: 32, top: 32, right: 32, bottom: 32 });
  expect(outpaintText({ left: 0, top: 64, right: 8, bottom: 0 })).toBe("top=64,right=8");
  const card = mount();
  expect(card.find(".outpaint").hidden).toBe(true);
  await card.host.push({ inputs: [start] });
  await card.type(".outpaint label:nth-child(1) input", "128");
  await card.type(".outpaint label:nth-child(4) input", "5000");
  expect(card.host.traits.outpaint).toBe("left=128");
  await card.type(".outpaint label:nth-child(1) input", "");
  expect(card.host.traits.outpaint).toBe("");
});
