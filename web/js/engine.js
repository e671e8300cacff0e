// Runs the exported graphs over one picture: frame, text, network, instances.
//
// Knows nothing of the page. The runtime (`ort`) and the loading of files come from outside, so that
// the same code runs in a worker and in tests.

import { UserError } from "./errors.js";
import { makeFrame, toInput } from "./frame.js";
import { Answer } from "./instances.js";
import { NameTable } from "./names.js";
import { resizeRgb } from "./resample.js";
import { WordPiece } from "./wordpiece.js";

export const SIZES = [192, 256, 320, 416, 512, 640];
const decoder = new TextDecoder();

export class Engine {
  // `load(path)` resolves to the bytes of a file of assets/; `report(text)` says what is going on;
  // `clock()` gives milliseconds.
  constructor({ ort, load, report = () => {}, clock = () => performance.now() }) {
    Object.assign(this, { ort, load, report, clock });
    this.once = new Map(); // path or role -> promise of what was made of it
    this.vectors = new Map();
    this.picture = null;
    this.answer = null;
  }

  // RGBA bytes of the picture that the next runs are about.
  setPicture(rgba, height, width) {
    this.picture = { rgba, height, width, inputs: new Map() };
    this.answer = null;
  }

  // Look for names at an operating point; the result of `instances`, and milliseconds by stage.
  async run({ names, point, size, threshold }) {
    if (!this.picture) throw new UserError("Choose a picture first.");
    if (!SIZES.includes(size)) throw new UserError(`The input size ${size} is not allowed.`);
    const { session, model } = await this.keep(point, () => this.openPoint(point));
    const times = {};
    const measure = async (stage, work) => {
      const start = this.clock();
      const result = await work();
      times[stage] = this.clock() - start;
      return result;
    };
    await this.prepareText(names);
    const text = await measure("text", () => this.encode(names, model.text_dim));
    const { picture } = this;
    const { frame, input } = await measure("resize", () => this.input(size));
    this.report("Looking…");
    const output = await measure("network", () => this.infer(session, frame, input, text));
    if (picture !== this.picture) throw new Superseded();
    const instances = await measure("postprocess", () => {
      this.answer = new Answer(output, frame, model, names);
      return this.answer.instances(threshold);
    });
    return { instances, times };
  }

  // The last run's instances at another threshold, without another run.
  instances(threshold) {
    return this.answer ? this.answer.instances(threshold) : [];
  }

  // What is made once and shared; a failure is forgotten, so that it can be tried again.
  keep(key, make) {
    if (!this.once.has(key)) {
      const made = make();
      made.catch(() => this.once.delete(key));
      this.once.set(key, made);
    }
    return this.once.get(key);
  }

  async openPoint(point) {
    const description = await this.load(`${point}/model.json`);
    const model = JSON.parse(decoder.decode(description));
    if (model.format !== 1) throw new UserError("assets/ are of another version; run make web.");
    return { session: await this.open(`${point}/model.onnx`), model };
  }

  async open(path) {
    const bytes = await this.load(path);
    this.report("Preparing the network…");
    return this.ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  }

  // Everything that the names' vectors need, so that its loading does not count as encoding.
  async prepareText(names) {
    const table = await this.keep("names", async () => {
      const [list, values] = await Promise.all([this.load("names.json"), this.load("names.f16")]);
      const buffer = values.buffer.slice(values.byteOffset, values.byteOffset + values.byteLength);
      return new NameTable(JSON.parse(decoder.decode(list)), buffer);
    });
    for (const name of names) {
      const vector = this.vectors.has(name) ? undefined : table.vector(name);
      if (vector) this.vectors.set(name, vector);
    }
    if (names.every((name) => this.vectors.has(name))) return;
    await this.keep("encoder", async () => ({
      tokenizer: new WordPiece(JSON.parse(decoder.decode(await this.load("tokenizer.json")))),
      session: await this.open("text_encoder.onnx"),
    }));
  }

  // Vectors of the names, float32 [K, dim].
  async encode(names, dim) {
    const missing = names.filter((name) => !this.vectors.has(name));
    if (missing.length) {
      const { tokenizer, session } = await this.once.get("encoder");
      const { ids, mask, dims } = tokenizer.encodeBatch(missing);
      const feed = {
        input_ids: new this.ort.Tensor("int64", ids, dims),
        attention_mask: new this.ort.Tensor("int64", mask, dims),
      };
      const { text } = await session.run(feed);
      missing.forEach((name, k) => this.vectors.set(name, text.data.slice(k * dim, (k + 1) * dim)));
      text.dispose?.();
    }
    const table = new Float32Array(names.length * dim);
    names.forEach((name, k) => table.set(this.vectors.get(name), k * dim));
    return new this.ort.Tensor("float32", table, [names.length, dim]);
  }

  // The picture as the graph takes it, kept for other names and operating points.
  input(size) {
    const { rgba, height, width, inputs } = this.picture;
    if (!inputs.has(size)) {
      const frame = makeFrame(height, width, size);
      const pixels = resizeRgb(rgba, frame.original, frame.resized);
      inputs.set(size, { frame, input: toInput(pixels, frame) });
    }
    return inputs.get(size);
  }

  async infer(session, frame, input, text) {
    const image = new this.ort.Tensor("float32", input, [1, 3, ...frame.padded]);
    const found = await session.run({ image, text }, ["scores", "boxes", "masks"]);
    return Object.fromEntries(
      Object.entries(found).map(([key, { data, dims }]) => [key, { data, dims: dims.slice(1) }]),
    );
  }
}

// Another picture came while this one was looked at: the result is of no use.
export class Superseded extends Error {}
