import { expect, test } from "vitest";
import {
  formatBytes,
  formatBytesOf,
  formatDuration,
  formatElapsed,
  formatRemaining,
  percent,
  plain,
} from "../src/shared/format";
import { parseColor } from "../src/shared/tone";

test.each([
  [0, "0 B"],
  [999, "999 B"],
  [18_300_000, "18.3 MB"],
  [123_400_000, "123 MB"],
  [999_600_000, "1.0 GB"],
  [6_940_000_000, "6.9 GB"],
])("%d bytes are %s", (value, words) => {
  expect(formatBytes(value)).toBe(words);
});

test("a part is told in the unit of the whole", () => {
  expect(formatBytesOf(2_100_000_000, 6_940_000_000)).toBe("2.1 of 6.9 GB");
  expect(formatBytesOf(0, 6_940_000_000)).toBe("0.0 of 6.9 GB");
});

test("durations have one format in the page and in Python", () => {
  expect([0, 5, 59.4, 60, 185, 3600, 7440].map(formatDuration)).toEqual([
    "0 s",
    "5 s",
    "59 s",
    "1 min",
    "3 min 5 s",
    "1 h",
    "2 h 4 min",
  ]);
  expect([0.84, 9.94, 12.2, 84].map(formatElapsed)).toEqual(["0.8 s", "9.9 s", "12 s", "1 min 24 s"]);
  expect([0.2, 5.1, 89.5].map(formatRemaining)).toEqual([
    "about 1 s left",
    "about 6 s left",
    "about 1 min 30 s left",
  ]);
});

test("messages are shown without the backticks that mark code", () => {
  expect(plain("run `hf auth login`")).toBe("run hf auth login");
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
