/** The image of a message: its binary buffer, or base64 where the host cannot carry one. */
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

const FADE_OUT_MS = 2000;

/** One object URL for each key; a replaced URL is revoked once it has faded out. */
export class ObjectUrls {
  private urls = new Map<string, string>();

  get(key: string): string | null {
    return this.urls.get(key) ?? null;
  }

  set(key: string, blob: Blob): void {
    this.delete(key);
    this.urls.set(key, URL.createObjectURL(blob));
  }

  keys(): string[] {
    return [...this.urls.keys()];
  }

  delete(key: string): void {
    const url = this.urls.get(key);
    this.urls.delete(key);
    if (url !== undefined) setTimeout(() => URL.revokeObjectURL(url), FADE_OUT_MS);
  }

  clear(): void {
    for (const url of this.urls.values()) URL.revokeObjectURL(url);
    this.urls.clear();
  }
}
