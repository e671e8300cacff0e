// From mask logits to masks in the picture's size, as src/mobius_seg/postprocess.py does it.
//
// A mask is { height, width, edges, area, box }: `edges` holds starts and ends of its runs, row by
// row, as positions in the flat picture, ascending; `box` is [x0, y0, x1, y1], ends excluded.

const MASK_STRIDE = 4;

// How original pixels read the logits: two cells along either axis, and the weight of the second.
export function makeSampling(frame, [rows, columns]) {
  return { y: positions(frame, 0, rows), x: positions(frame, 1, columns) };
}

function positions(frame, axis, cells) {
  const count = frame.original[axis];
  const scale = frame.resized[axis] / count;
  const low = new Int32Array(count);
  const high = new Int32Array(count);
  const weight = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const centre = Math.min(Math.max(((i + 0.5) * scale) / MASK_STRIDE - 0.5, 0), cells - 1);
    low[i] = Math.floor(centre);
    high[i] = Math.min(low[i] + 1, cells - 1);
    weight[i] = centre - low[i];
  }
  return { low, high, weight };
}

// First and one past the last cell whose centre lies in the box enlarged by the margin.
function window(centre, side, cells, margin) {
  if (!(margin > 0)) return [0, cells];
  const reach = Math.fround((side * cells * margin) / 2 + 1);
  const inside = [];
  for (let i = 0; i < cells; i++) {
    if (Math.abs(i + 0.5 - centre * cells) <= reach) inside.push(i);
  }
  return inside.length ? [inside[0], inside[inside.length - 1] + 1] : [0, 0];
}

// Logits [rows, columns] that are certainly off outside of the enlarged box (cx, cy, w, h in 0..1).
export function cropLogits(logits, [rows, columns], box, margin) {
  const [left, right] = window(box[0], box[2], columns, margin);
  const [top, bottom] = window(box[1], box[3], rows, margin);
  const cropped = new Float32Array(rows * columns).fill(-10);
  for (let y = top; y < bottom; y++) {
    const row = logits.subarray(y * columns + left, y * columns + right);
    cropped.set(row, y * columns + left);
  }
  return cropped;
}

// First and one past the last original pixel that reads a positive cell; null if none does.
function span(positive, { low, high }) {
  const touched = (i) => positive[low[i]] || positive[high[i]];
  let first = 0;
  while (first < low.length && !touched(first)) first++;
  if (first === low.length) return null;
  let end = low.length;
  while (!touched(end - 1)) end--;
  return [first, end];
}

// A mask from logits [rows, columns], bilinear at the centre of every original pixel, or null where
// it is empty. Only the pixels that read a positive cell are computed.
export function encodeMask(logits, [rows, columns], sampling, [height, width]) {
  const inRow = new Uint8Array(rows);
  const inColumn = new Uint8Array(columns);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      if (logits[y * columns + x] > 0) inRow[y] = inColumn[x] = 1;
    }
  }
  const spanY = span(inRow, sampling.y);
  const spanX = span(inColumn, sampling.x);
  if (!spanY || !spanX) return null;
  const edges = [];
  const line = new Float32Array(columns);
  for (let y = spanY[0]; y < spanY[1]; y++) {
    blendRows(logits, columns, sampling.y, y, line);
    addRuns(line, sampling.x, spanX, y * width, edges);
  }
  return edges.length ? describe(edges, height, width) : null;
}

// The logits of one original row, still at the resolution of the columns' cells.
function blendRows(logits, columns, { low, high, weight }, y, line) {
  const above = low[y] * columns;
  const below = high[y] * columns;
  const share = weight[y];
  for (let x = 0; x < columns; x++) {
    line[x] = logits[above + x] * (1 - share) + logits[below + x] * share;
  }
}

function addRuns(line, { low, high, weight }, [left, right], offset, edges) {
  let inside = false;
  for (let x = left; x < right; x++) {
    const positive = line[low[x]] * (1 - weight[x]) + line[high[x]] * weight[x] > 0;
    if (positive !== inside) edges.push(offset + x);
    inside = positive;
  }
  if (inside) edges.push(offset + right);
}

function describe(edges, height, width) {
  let [x0, x1, area] = [width, 0, 0];
  for (let i = 0; i < edges.length; i += 2) {
    const start = edges[i] % width;
    const length = edges[i + 1] - edges[i];
    x0 = Math.min(x0, start);
    x1 = Math.max(x1, start + length);
    area += length;
  }
  const y0 = Math.floor(edges[0] / width);
  const y1 = Math.floor(edges[edges.length - 2] / width) + 1;
  return { height, width, edges: Uint32Array.from(edges), area, box: [x0, y0, x1, y1] };
}

// Pixels that two masks of one picture share.
export function intersection(a, b) {
  const [ax0, ay0, ax1, ay1] = a.box;
  const [bx0, by0, bx1, by1] = b.box;
  if (ax1 <= bx0 || bx1 <= ax0 || ay1 <= by0 || by1 <= ay0) return 0;
  let shared = 0;
  for (let i = 0, j = 0; i < a.edges.length && j < b.edges.length; ) {
    const end = Math.min(a.edges[i + 1], b.edges[j + 1]);
    shared += Math.max(0, end - Math.max(a.edges[i], b.edges[j]));
    if (a.edges[i + 1] <= end) i += 2;
    if (b.edges[j + 1] <= end) j += 2;
  }
  return shared;
}

export function maskIou(a, b) {
  const shared = intersection(a, b);
  return shared / (a.area + b.area - shared);
}

// Whether a pixel lies in a mask.
export function covers(mask, x, y) {
  const at = y * mask.width + x;
  let low = 0;
  let high = mask.edges.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (mask.edges[middle] <= at) low = middle + 1;
    else high = middle;
  }
  return low % 2 === 1;
}
