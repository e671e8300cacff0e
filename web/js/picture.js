// A file that the user hands over, as an upright RGB picture.

import { UserError } from "./errors.js";

const MOST_BYTES = 60e6;
const MOST_PIXELS = 16e6; // larger ones are shrunk: phones stop drawing canvases not far above

// Decode a blob: { canvas, rgba, height, width, shrunk }. Orientation is applied, colour profiles
// are not, transparency is put on white, as in the package.
export async function decodePicture(blob) {
  if (!blob.size) throw new UserError("The file is empty.");
  if (blob.size > MOST_BYTES) {
    throw new UserError(`The file has ${Math.round(blob.size / 1e6)} MB; at most 60 are allowed.`);
  }
  const bitmap = await decode(blob);
  const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (bitmap.width * bitmap.height)));
  const width = Math.max(1, Math.floor(bitmap.width * scale));
  const height = Math.max(1, Math.floor(bitmap.height * scale));
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new UserError("The browser has no memory left for a picture of this size.");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  return { canvas, rgba, height, width, shrunk: scale < 1 };
}

async function decode(blob) {
  try {
    return await createImageBitmap(blob, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
    });
  } catch {
    const kind = blob.type && !blob.type.startsWith("image/") ? ` (${blob.type})` : "";
    throw new UserError(`This file is not a picture that the browser can read${kind}.`);
  }
}
