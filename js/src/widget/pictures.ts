import type { Host, Report } from "../contract";
import { blobOf } from "../shared/binary";

type Size = "full" | "thumbnail";
const MAX_CACHED = { full: 8, thumbnail: 5000 };
const RETRY_MS = 5000;

/** Pictures requested from the kernel when they are shown, as object URLs; the oldest are revoked. */
export class PictureCache {
  private urls = { full: new Map<string, string>(), thumbnail: new Map<string, string>() };
  private requested = new Map<string, number>();

  constructor(
    private host: Host,
    private changed: () => void,
  ) {}

  /** The picture's URL, or null while it is requested; `changed` is called when it arrives. */
  url(id: string, size: Size): string | null {
    const urls = this.urls[size];
    const found = urls.get(id);
    if (found !== undefined) {
      urls.delete(id);
      urls.set(id, found);
      return found;
    }
    this.request(id, size);
    return null;
  }

  accept(report: Extract<Report, { kind: "picture" }>, buffers: unknown): void {
    const blob = blobOf(report, buffers);
    const urls = this.urls[report.size];
    this.requested.delete(`${report.size} ${report.picture_id}`);
    if (blob === null || urls.has(report.picture_id)) return;
    urls.set(report.picture_id, URL.createObjectURL(blob));
    for (const [id, url] of urls) {
      if (urls.size <= MAX_CACHED[report.size]) break;
      URL.revokeObjectURL(url);
      urls.delete(id);
    }
    this.changed();
  }

  /** Allows what was lost with a connection to be requested again. */
  retryPending(): void {
    this.requested.clear();
  }

  clear(): void {
    for (const urls of Object.values(this.urls)) {
      for (const url of urls.values()) URL.revokeObjectURL(url);
      urls.clear();
    }
  }

  private request(id: string, size: Size): void {
    const key = `${size} ${id}`;
    const now = performance.now();
    if (now - (this.requested.get(key) ?? Number.NEGATIVE_INFINITY) < RETRY_MS) return;
    this.requested.set(key, now);
    this.host.send({ kind: "picture", picture_id: id, size });
  }
}
