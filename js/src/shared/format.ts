import { PROGRESS_TEXT as TEXT } from "./strings";

const UNITS = ["B", "kB", "MB", "GB"];

/** In decimal units: "6.9 GB", "44 MB", "512 B"; as Python's `format_bytes`. */
export function formatBytes(size_bytes: number): string {
  let rest = size_bytes;
  for (const unit of ["B", "kB", "MB"]) {
    if (rest < 999.5) return `${unit === "B" || rest >= 99.5 ? Math.round(rest) : rest.toFixed(1)} ${unit}`;
    rest /= 1000;
  }
  return `${(rest + 1e-9).toFixed(1)} GB`;
}

/** "2.1 of 6.9 GB": both in the unit of the whole. */
export function formatBytesOf(done: number, total: number): string {
  const whole = formatBytes(total);
  const unit = UNITS.indexOf(whole.split(" ")[1] ?? "B");
  const part = done / 1000 ** unit;
  return TEXT.of(String(unit === 0 ? Math.round(part) : part.toFixed(1)), whole);
}

/** "8 s", "8 min 12 s", "2 h 4 min"; as Python's `format_duration`. */
export function formatDuration(duration_s: number): string {
  const whole_s = Math.max(0, Math.round(duration_s));
  if (whole_s < 60) return `${whole_s} s`;
  const [large, small, units] =
    whole_s < 3600
      ? [Math.floor(whole_s / 60), whole_s % 60, ["min", "s"]]
      : [Math.floor(whole_s / 3600), Math.floor((whole_s % 3600) / 60), ["h", "min"]];
  return small === 0 ? `${large} ${units[0]}` : `${large} ${units[0]} ${small} ${units[1]}`;
}

/** As `formatDuration`, with tenths of a second up to ten: "0.8 s". */
export function formatElapsed(elapsed_s: number): string {
  return elapsed_s < 9.95 ? `${elapsed_s.toFixed(1)} s` : formatDuration(elapsed_s);
}

/** "about 8 min 12 s left", at least one second. */
export function formatRemaining(remaining_s: number): string {
  return TEXT.remaining(formatDuration(Math.max(1, Math.ceil(remaining_s))));
}

/** With a capital first letter, unless it begins with a name such as "sdxl-turbo". */
export function sentence(text: string): string {
  const isName = /^\S*[-\d_./]\S/.test(text);
  return isName ? text : text.charAt(0).toUpperCase() + text.slice(1);
}

/** Without the backticks that mark code in messages. */
export function plain(text: string): string {
  return text.replaceAll("`", "");
}

/** 41 from 0.4135. */
export function percent(done: number, total: number): number {
  return total > 0 ? Math.min(100, Math.floor((100 * done) / total)) : 0;
}
