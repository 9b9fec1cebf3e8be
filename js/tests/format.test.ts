import { expect, test } from "vitest";
import { bytes, bytesOf, clock, percent, remaining, seconds } from "../src/format";
import { parseColor } from "../src/tone";

test.each([
  [0, "0 B"],
  [999, "999 B"],
  [18_300_000, "18.3 MB"],
  [123_400_000, "123 MB"],
  [999_600_000, "1.0 GB"],
  [6_940_000_000, "6.9 GB"],
])("%d bytes are %s", (value, words) => {
  expect(bytes(value)).toBe(words);
});

test("a part is told in the unit of the whole", () => {
  expect(bytesOf(2_100_000_000, 6_940_000_000)).toBe("2.1 of 6.9 GB");
  expect(bytesOf(0, 6_940_000_000)).toBe("0.0 of 6.9 GB");
});

test("times are words that do not flicker", () => {
  expect([0.84, 12.2, 185, 7440].map(seconds)).toEqual(["0.8 s", "12 s", "3 min 5 s", "2 h 4 min"]);
  expect([0.9, 59.9, 61].map(clock)).toEqual(["0 s", "59 s", "1 min 1 s"]);
  expect([0.2, 5.1, 90].map(remaining)).toEqual([
    "about 1 s left",
    "about 6 s left",
    "about 1 min 30 s left",
  ]);
});

test("a percentage is rounded down and never above 100", () => {
  expect([percent(0, 0), percent(995, 1000), percent(12, 10)]).toEqual([0, 99, 100]);
});

test("colors are read in the spellings of browsers", () => {
  expect(parseColor("rgb(17, 17, 17)")).toEqual({ r: 17, g: 17, b: 17, a: 1 });
  expect(parseColor("rgba(0, 0, 0, 0)")?.a).toBe(0);
  expect(parseColor("color(srgb 1 1 1 / 0.5)")).toEqual({ r: 255, g: 255, b: 255, a: 0.5 });
  expect(parseColor("transparent")).toBeNull();
});
