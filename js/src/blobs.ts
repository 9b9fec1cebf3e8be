import type { Host, Report } from "./contract";

type Size = "full" | "thumbnail";
const KEPT = { full: 8, thumbnail: 5000 };

/** A message's picture: its binary buffer, or base64 where the host cannot carry one. */
export function blobOf(report: { media_type: string; data?: string }, buffers: unknown): Blob | null {
  const type = report.media_type;
  if (report.data !== undefined) {
    const bytes = Uint8Array.from(atob(report.data), (character) => character.charCodeAt(0));
    return new Blob([bytes], { type });
  }
  const buffer: unknown = Array.isArray(buffers) ? buffers[0] : undefined;
  if (buffer instanceof ArrayBuffer) return new Blob([buffer], { type });
  // A copy, because a view may sit on memory that the host shares or reuses.
  if (ArrayBuffer.isView(buffer))
    return new Blob([new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength).slice()], { type });
  return null;
}

/** Pictures fetched from the kernel on demand, as object URLs; the oldest are let go. */
export class PictureCache {
  private urls = { full: new Map<string, string>(), thumbnail: new Map<string, string>() };
  private asked = new Map<string, number>();

  constructor(
    private host: Host,
    private changed: () => void,
  ) {}

  /** The picture's URL, or null while it is fetched; `changed` is called when it came. */
  url(id: string, size: Size): string | null {
    const urls = this.urls[size];
    const found = urls.get(id);
    if (found !== undefined) {
      urls.delete(id);
      urls.set(id, found);
      return found;
    }
    this.ask(id, size);
    return null;
  }

  accept(report: Extract<Report, { kind: "picture" }>, buffers: unknown): void {
    const blob = blobOf(report, buffers);
    const urls = this.urls[report.size];
    this.asked.delete(`${report.size} ${report.picture_id}`);
    if (blob === null || urls.has(report.picture_id)) return;
    urls.set(report.picture_id, URL.createObjectURL(blob));
    for (const [id, url] of urls) {
      if (urls.size <= KEPT[report.size]) break;
      URL.revokeObjectURL(url);
      urls.delete(id);
    }
    this.changed();
  }

  /** Asks again for what was lost with a broken connection. */
  forgetQuestions(): void {
    this.asked.clear();
  }

  clear(): void {
    for (const urls of Object.values(this.urls)) {
      for (const url of urls.values()) URL.revokeObjectURL(url);
      urls.clear();
    }
  }

  private ask(id: string, size: Size): void {
    const key = `${size} ${id}`;
    const now = performance.now();
    if (now - (this.asked.get(key) ?? Number.NEGATIVE_INFINITY) < 5000) return;
    this.asked.set(key, now);
    this.host.send({ kind: "picture", picture_id: id, size });
  }
}
