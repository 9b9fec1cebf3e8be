import { TEXT } from "./strings";

const MAX_FILE_BYTES = 100e6;
// Jupyter's server closes a connection on a message above 10 MiB.
const MAX_SENT_BYTES = 6e6;
const MAX_SIDE = 2048;
const SENT_AS_THEY_ARE = new Set(["image/png", "image/jpeg", "image/webp"]);

/**
 * The bytes of a picture as they are sent: the file's own where the kernel reads them, else redrawn, and
 * scaled down until they fit into one message.
 *
 * @throws Error with a text for the user, when it is no picture.
 */
export async function readPicture(file: Blob): Promise<ArrayBuffer> {
  if (file.size > MAX_FILE_BYTES) throw new Error(TEXT.tooLarge);
  if (SENT_AS_THEY_ARE.has(file.type) && file.size <= MAX_SENT_BYTES) return file.arrayBuffer();
  let picture: ImageBitmap;
  try {
    picture = await createImageBitmap(file);
  } catch {
    throw new Error(TEXT.notAPicture);
  }
  try {
    for (let side = MAX_SIDE; side >= 256; side /= 2) {
      const blob = await redrawn(picture, side);
      if (blob !== null && blob.size <= MAX_SENT_BYTES) return blob.arrayBuffer();
    }
  } finally {
    picture.close();
  }
  throw new Error(TEXT.notAPicture);
}

function redrawn(picture: ImageBitmap, maxSide: number): Promise<Blob | null> {
  const scale = Math.min(1, maxSide / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  canvas.getContext("2d")?.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** The pictures among dropped or pasted files. */
export function picturesOf(data: DataTransfer | null): File[] {
  return [...(data?.files ?? [])].filter((file) => file.type.startsWith("image/"));
}

/** Whether something dragged holds files; their types are known only when they are dropped. */
export function hasFiles(data: DataTransfer | null): boolean {
  return [...(data?.types ?? [])].includes("Files");
}

/** Base64 of a buffer, for hosts that carry none. */
export function base64Of(buffer: ArrayBuffer): string {
  let text = "";
  const bytes = new Uint8Array(buffer);
  for (let at = 0; at < bytes.length; at += 32_768)
    text += String.fromCharCode(...bytes.subarray(at, at + 32_768));
  return btoa(text);
}
