// Where a picture lies in the network's input, as src/mobius_seg/preprocess.py has it.

import { UserError } from "./errors.js";

export const PAD_VALUE = 114;
const STRIDE = 32;

// Round to the nearest whole number, halves to the even one.
export function roundHalfEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

// A picture of height x width in an input whose longest side is `size`: sizes as [height, width].
export function makeFrame(height, width, size) {
  if (!(height >= 1 && width >= 1)) throw new UserError("The picture has no pixels.");
  const scale = size / Math.max(height, width);
  const resized = [height, width].map((side) => Math.max(1, roundHalfEven(side * scale)));
  const padded = resized.map((side) => Math.ceil(side / STRIDE) * STRIDE);
  return { original: [height, width], resized, padded };
}

// RGB bytes of the resized picture to the graph's input, float32 [1, 3, H, W] in 0..1.
export function toInput(pixels, frame) {
  const [height, width] = frame.resized;
  const [rows, columns] = frame.padded;
  const plane = rows * columns;
  const input = new Float32Array(3 * plane).fill(PAD_VALUE / 255);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = 3 * (y * width + x);
      const to = y * columns + x;
      for (let channel = 0; channel < 3; channel++) {
        input[channel * plane + to] = pixels[from + channel] / 255;
      }
    }
  }
  return input;
}
