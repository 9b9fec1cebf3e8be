const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** Decimal units, as disks are sold: "6.9 GB". */
export function bytes(value: number): string {
  let rest = value;
  let unit = 0;
  while (rest >= 999.5 && unit < UNITS.length - 1) {
    rest /= 1000;
    unit += 1;
  }
  return `${unit === 0 || rest >= 99.5 ? Math.round(rest) : rest.toFixed(1)} ${UNITS[unit]}`;
}

/** "2.1 of 6.9 GB": both in the unit of the whole. */
export function bytesOf(done: number, total: number): string {
  const whole = bytes(total);
  const unit = UNITS.indexOf(whole.split(" ")[1] ?? "B");
  const part = done / 1000 ** unit;
  return `${unit === 0 ? Math.round(part) : part.toFixed(1)} of ${whole}`;
}

/** "0.8 s", "12 s", "3 min 5 s", "2 h 4 min". */
export function seconds(value: number): string {
  if (value < 9.95) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** A running clock: whole seconds, so that it does not flicker. */
export function clock(value: number): string {
  return value < 60 ? `${Math.floor(value)} s` : seconds(Math.floor(value));
}

/** "about 6 s left". */
export function remaining(value: number): string {
  return `about ${value < 60 ? `${Math.max(1, Math.ceil(value))} s` : seconds(value)} left`;
}

/** The first letter large. */
export function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** 41 from 0.4135. */
export function percent(done: number, total: number): number {
  return total > 0 ? Math.min(100, Math.floor((100 * done) / total)) : 0;
}
