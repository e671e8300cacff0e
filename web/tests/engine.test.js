// The engine with a runtime and files of the test's own.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Engine } from "../js/engine.js";
import { UserError } from "../js/errors.js";
import { fromSlider, toSlider } from "../js/threshold.js";

const bytes = (value) => new TextEncoder().encode(JSON.stringify(value));
const model = {
  format: 1, text_dim: 2, nms_iou: 0.7, mask_margin: 0, calibration: {},
};
const files = {
  "full/model.json": bytes(model),
  "full/model.onnx": new Uint8Array(1),
  "names.json": bytes({ names: ["cat", "cup"], dim: 2 }),
  "names.f16": new Uint8Array(Uint16Array.from([0x3c00, 0, 0, 0x3c00]).buffer),
};

// A runtime whose network sees two things: the first name on the left, the last on the right.
function makeEngine(seen = {}, broken = new Set()) {
  class Tensor {
    constructor(type, data, dims) {
      Object.assign(this, { type, data, dims });
    }
  }
  const session = {
    async run({ image, text }) {
      Object.assign(seen, { image, text, runs: (seen.runs ?? 0) + 1 });
      const [h, w] = [image.dims[2] / 4, image.dims[3] / 4];
      const names = text.dims[0];
      const scores = new Float32Array(2 * names);
      scores[0] = 0.9;
      scores[2 * names - 1] = 0.4;
      const masks = Float32Array.from({ length: 2 * h * w }, (_, i) =>
        (i % w < w / 2) === i < h * w ? 1 : -1);
      return {
        scores: { data: scores, dims: [1, 2, names] },
        boxes: { data: new Float32Array(8), dims: [1, 2, 4] },
        masks: { data: masks, dims: [1, 2, h, w] },
      };
    },
  };
  const load = async (path) => {
    seen.loaded = [...(seen.loaded ?? []), path];
    if (broken.has(path) || !files[path]) throw new UserError(`no ${path}`);
    return files[path];
  };
  const ort = { Tensor, InferenceSession: { create: async () => session } };
  return new Engine({ ort, load });
}

const ask = { names: ["cat", "cup"], point: "full", size: 192, threshold: 0.3 };

test("a run and another threshold", async () => {
  const seen = {};
  const engine = makeEngine(seen);
  engine.setPicture(new Uint8Array(64 * 64 * 4).fill(255), 64, 64);
  const { instances, times } = await engine.run(ask);
  assert.deepEqual(instances.map(({ name }) => name), ["cat", "cup"]);
  assert.deepEqual(instances[0].mask.box, [0, 0, 32, 64]);
  assert.deepEqual(instances[1].mask.box, [32, 0, 64, 64]);
  assert.deepEqual(Object.keys(times).sort(), ["network", "postprocess", "resize", "text"]);
  assert.deepEqual([...seen.text.data], [1, 0, 0, 1]);
  assert.deepEqual(seen.image.dims, [1, 3, 192, 192]);
  assert.equal(engine.instances(0.5).length, 1);
  assert.equal(seen.runs, 1);
});

test("graphs are loaded once, when first asked for", async () => {
  const seen = {};
  const engine = makeEngine(seen);
  engine.setPicture(new Uint8Array(16), 2, 2);
  assert.equal(seen.loaded, undefined);
  await engine.run(ask);
  await engine.run(ask);
  assert.equal(seen.loaded.filter((path) => path === "full/model.onnx").length, 1);
  assert.equal(seen.loaded.includes("text_encoder.onnx"), false);
});

test("a file that was missing is tried again", async () => {
  const broken = new Set(["full/model.onnx"]);
  const engine = makeEngine({}, broken);
  engine.setPicture(new Uint8Array(16), 2, 2);
  await assert.rejects(engine.run(ask), /no full\/model.onnx/);
  broken.clear();
  assert.equal((await engine.run(ask)).instances.length, 2);
});

test("what cannot be done is said", async () => {
  const engine = makeEngine();
  await assert.rejects(engine.run(ask), /Choose a picture/);
  engine.setPicture(new Uint8Array(16), 2, 2);
  await assert.rejects(engine.run({ ...ask, size: 100 }), /not allowed/);
  await assert.rejects(engine.run({ ...ask, names: ["zebra"] }), /no tokenizer.json/);
  assert.deepEqual(engine.instances(0), []);
});

test("the slider", () => {
  assert.equal(fromSlider(0), 0.0005);
  assert.equal(fromSlider(100), 0.9);
  assert.ok(Math.abs(fromSlider(toSlider(0.01)) - 0.01) < 0.001);
});
