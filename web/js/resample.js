// Shrinking and enlarging pictures as Pillow's bilinear filter does: a triangle as wide as the
// pixels that it averages over, weights in fixed point, rounded to bytes after either direction.
// The same bytes as in Python are what makes results comparable.

const BITS = 22;

// RGBA bytes [height, width] to RGB bytes of another size; alpha is left out.
export function resizeRgb(rgba, [height, width], [toHeight, toWidth]) {
  let rows = withoutAlpha(rgba, height * width);
  if (width !== toWidth) rows = alongRows(rows, height, width, toWidth);
  if (height !== toHeight) rows = alongColumns(rows, height, toWidth, toHeight);
  return rows;
}

function withoutAlpha(rgba, pixels) {
  const rgb = new Uint8Array(pixels * 3);
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
  return rgb;
}

// For each target pixel: its first source pixel and the fixed-point weights from there on.
function kernels(size, toSize) {
  const scale = size / toSize;
  const reach = Math.max(1, scale);
  return Array.from({ length: toSize }, (_, target) => {
    const centre = (target + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(size, Math.trunc(centre + reach + 0.5));
    const weights = [];
    for (let source = first; source < end; source++) {
      weights.push(Math.max(0, 1 - Math.abs((source - centre + 0.5) / reach)));
    }
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((w) => Math.trunc(0.5 + (w / sum) * (1 << BITS))) };
  });
}

function alongRows(rgb, height, width, toWidth) {
  const out = new Uint8ClampedArray(height * toWidth * 3);
  const plan = kernels(width, toWidth);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < toWidth; x++) {
      const { first, weights } = plan[x];
      blend(rgb, 3 * (y * width + first), 3, weights, out, 3 * (y * toWidth + x));
    }
  }
  return out;
}

function alongColumns(rgb, height, width, toHeight) {
  const out = new Uint8ClampedArray(toHeight * width * 3);
  const plan = kernels(height, toHeight);
  for (let y = 0; y < toHeight; y++) {
    const { first, weights } = plan[y];
    for (let x = 0; x < width; x++) {
      blend(rgb, 3 * (first * width + x), 3 * width, weights, out, 3 * (y * width + x));
    }
  }
  return out;
}

// Weighted sum of one run of source pixels into one target pixel, all three channels.
function blend(from, at, step, weights, to, target) {
  let red = 1 << (BITS - 1);
  let green = red;
  let blue = red;
  for (let i = 0; i < weights.length; i++, at += step) {
    red += from[at] * weights[i];
    green += from[at + 1] * weights[i];
    blue += from[at + 2] * weights[i];
  }
  to[target] = red >> BITS;
  to[target + 1] = green >> BITS;
  to[target + 2] = blue >> BITS;
}
