// The picture with its instances, drawn on a canvas at the screen's own resolution.

import { colourOf } from "./colours.js";
import { covers } from "./masks.js";

const OPACITY = 0.42;
const FAINT = 0.14;
const STEPS = 12; // directions in which a silhouette is shifted to make its outline

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.picture = null;
    this.instances = [];
    this.options = { names: true, boxes: false };
    this.chosen = null;
    this.shapes = new Map(); // id -> silhouette of the mask, in the mask's own box
  }

  setPicture(picture) {
    this.picture = picture;
    this.canvas.hidden = false;
    this.setInstances([], true);
  }

  // `fresh`: another run, ids mean other masks.
  setInstances(instances, fresh) {
    if (fresh) this.shapes.clear();
    this.instances = instances;
    if (!instances.some(({ id }) => id === this.chosen)) this.chosen = null;
    this.draw();
  }

  // Draw at the size that the layout gives, in device pixels.
  draw() {
    if (!this.picture) return;
    const { width, height } = this.picture;
    const room = this.canvas.parentElement.clientWidth;
    const tall = Math.max(240, window.innerHeight * (room < 700 ? 0.6 : 0.76));
    const shown = Math.min(room / width, tall / height, 4);
    const ratio = window.devicePixelRatio || 1;
    this.canvas.style.width = `${Math.round(width * shown)}px`;
    this.canvas.style.height = "auto";
    this.paint(this.canvas, shown * ratio, ratio);
  }

  // The picture as a file, at its own resolution (small ones enlarged, for the labels' sake).
  async toBlob() {
    const { width, height } = this.picture;
    const canvas = document.createElement("canvas");
    const scale = Math.max(1, 900 / Math.max(width, height));
    this.paint(canvas, scale, (Math.max(width, height) * scale) / 900);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  // `scale`: canvas pixels per picture pixel; `unit`: canvas pixels of one layout pixel.
  paint(canvas, scale, unit) {
    const { width, height } = this.picture;
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture.canvas, 0, 0, canvas.width, canvas.height);
    const order = this.instances
      .map((instance, index) => ({ ...instance, index, colour: colourOf(index) }))
      .sort((a, b) => b.mask.area - a.mask.area);
    for (const instance of order) this.paintMask(context, instance, scale, unit);
    for (const instance of order) {
      if (this.options.boxes) paintBox(context, instance, scale, unit);
    }
    const labelled = order.filter(({ id }) => this.chosen === null || this.chosen === id);
    const taken = [];
    for (const instance of this.options.names ? labelled.reverse() : []) {
      paintLabel(context, instance, scale, unit, taken);
    }
  }

  paintMask(context, { id, mask, colour }, scale, unit) {
    const [x0, y0, x1, y1] = mask.box.map((side) => side * scale);
    const shape = this.shape(id, mask, colour);
    const faint = this.chosen !== null && this.chosen !== id;
    context.globalAlpha = faint ? FAINT : OPACITY;
    context.drawImage(shape, x0, y0, x1 - x0, y1 - y0);
    context.globalAlpha = faint ? FAINT * 2 : 1;
    const line = Math.max(1, 1.8 * unit);
    const rim = outline(shape, x1 - x0, y1 - y0, line);
    context.drawImage(rim, x0 - line, y0 - line);
    context.globalAlpha = 1;
  }

  shape(id, mask, colour) {
    const known = this.shapes.get(id);
    if (known?.colour === colour) return known.canvas;
    const canvas = silhouette(mask, colour);
    this.shapes.set(id, { canvas, colour });
    return canvas;
  }

  // The smallest instance under a pointer, or null.
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * this.picture.width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * this.picture.height);
    const under = this.instances.filter(({ mask }) => covers(mask, x, y));
    return under.sort((a, b) => a.mask.area - b.mask.area)[0]?.id ?? null;
  }

  choose(id) {
    if (id === this.chosen) return;
    this.chosen = id;
    this.draw();
  }
}

function makeCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.ceil(width));
  canvas.height = Math.max(1, Math.ceil(height));
  return canvas;
}

// The mask in one colour, in its own box.
function silhouette({ box: [x0, y0, x1, y1], edges, width }, colour) {
  const canvas = makeCanvas(x1 - x0, y1 - y0);
  const context = canvas.getContext("2d");
  context.fillStyle = colour;
  for (let i = 0; i < edges.length; i += 2) {
    const y = Math.floor(edges[i] / width);
    context.fillRect(edges[i] - y * width - x0, y - y0, edges[i + 1] - edges[i], 1);
  }
  return canvas;
}

// A line around a silhouette: its copies shifted all around, less itself.
function outline(shape, width, height, line) {
  const canvas = makeCanvas(width + 2 * line, height + 2 * line);
  const context = canvas.getContext("2d");
  for (let step = 0; step < STEPS; step++) {
    const angle = (2 * Math.PI * step) / STEPS;
    const [dx, dy] = [Math.cos(angle) * line, Math.sin(angle) * line];
    context.drawImage(shape, line + dx, line + dy, width, height);
  }
  context.globalCompositeOperation = "destination-out";
  context.drawImage(shape, line, line, width, height);
  return canvas;
}

function paintBox(context, { mask, colour }, scale, unit) {
  const [x0, y0, x1, y1] = mask.box.map((side) => side * scale);
  context.strokeStyle = colour;
  context.lineWidth = Math.max(1, 1.5 * unit);
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
}

// Name and score on a plate at the top of the mask, moved where another one stands already.
function paintLabel(context, { name, score, mask, colour }, scale, unit, taken) {
  const size = 13 * unit;
  const text = `${name.length > 28 ? `${name.slice(0, 27)}…` : name} ${formatScore(score)}`;
  context.font = `600 ${size}px system-ui, sans-serif`;
  const [pad, height] = [6 * unit, 21 * unit];
  const width = context.measureText(text).width + 2 * pad;
  const { width: right, height: bottom } = context.canvas;
  const x = Math.max(0, Math.min(mask.box[0] * scale, right - width));
  let y = Math.max(0, Math.min(mask.box[1] * scale - height / 2, bottom - height));
  const hits = (t) => x < t.x + t.width && t.x < x + width && y < t.y + height && t.y < y + height;
  while (taken.some(hits) && y + 2 * height <= bottom) y += height + unit;
  taken.push({ x, y, width });
  context.fillStyle = "rgb(12 18 28 / 86%)";
  context.beginPath();
  context.roundRect(x, y, width, height, 5 * unit);
  context.fill();
  context.fillStyle = colour;
  context.fillRect(x, y + 3 * unit, 3 * unit, height - 6 * unit);
  context.fillStyle = "#fff";
  context.textBaseline = "middle";
  context.fillText(text, x + pad, y + height / 2 + unit);
}

export function formatScore(score) {
  return score >= 0.1 ? score.toFixed(2) : score.toFixed(3);
}
