import { expect, test } from "vitest";
import { progressText, timesText } from "../src/shared/progress";
import { differences } from "../src/widget/compare";
import { job, picture } from "./fake_model";

test("progress names the stage, the picture of several, and the step or the detail", () => {
  expect(progressText(job())).toBe("Drawing · step 7 of 20");
  expect(progressText(job({ count: 4, image_index: 1 }))).toBe("Drawing · picture 2 of 4 · step 7 of 20");
  expect(progressText(job({ stage: "loading model", step: 0, detail: "2.1 of 6.9 GB" }))).toBe(
    "Loading model · 2.1 of 6.9 GB",
  );
  expect(progressText(job({ stage: "", step: 0 }))).toBe("Starting");
  expect(progressText(job({ cancelling: true }))).toBe("Cancelling after this step…");
});

test("times count on between two reports and show at least a second left, and nothing once it has passed", () => {
  const progress = job({ elapsed_s: 3, remaining_s: 90 });
  expect(timesText(progress, 3)).toBe("3 s · about 1 min 30 s left");
  expect(timesText(progress, 13.4)).toBe("13 s · about 1 min 20 s left");
  expect(timesText(progress, 92.6)).toBe("1 min 32 s · about 1 s left");
  expect(timesText(progress, 93)).toBe("1 min 33 s");
  expect(timesText(job({ remaining_s: null }), 3.9)).toBe("3 s");
});

test("a comparison is labeled with the settings that differ", () => {
  expect(differences(picture({ steps: 8, seed: 7 }), picture({ steps: 16, seed: 7 }))).toEqual([
    "8 steps",
    "16 steps",
  ]);
  expect(differences(picture({ prompt: "a castle" }), picture({ prompt: "a parrot", seed: 9 }))).toEqual([
    "a castle · seed 7",
    "a parrot · seed 9",
  ]);
  expect(differences(picture(), picture({ id: "2" }))).toEqual(["first", "second"]);
});
