// The engine in a worker of its own, so that the page answers while the network runs.
//
// In: { id, kind: "picture" | "run" | "threshold", ... }. Out: { id, result } or { id, error,
// expected }, and { progress } in between.

import { Engine, Superseded } from "./engine.js";
import { UserError } from "./errors.js";
import { makeLoader } from "./files.js";

const MOST_THREADS = 4;
const base = new URL("../assets/", import.meta.url);
const report = (progress) => postMessage({ progress });
let engine;

async function start() {
  let ort;
  try {
    ort = await import(new URL("ort/ort.wasm.min.mjs", base));
  } catch {
    throw new UserError("assets/ort/ is not there. Run make web first.");
  }
  ort.env.wasm.wasmPaths = new URL("ort/", base).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated
    ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1)
    : 1;
  return new Engine({ ort, load: makeLoader(base, report), report });
}

const kinds = {
  async picture({ rgba, height, width }) {
    (await engine).setPicture(new Uint8Array(rgba), height, width);
    return {};
  },
  async run(request) {
    const found = await (await engine).run(request);
    return { ...found, threads: (await engine).ort.env.wasm.numThreads };
  },
  async threshold({ threshold }) {
    return { instances: (await engine).instances(threshold) };
  },
};

// One request after the other; those about a threshold slip in while a run waits for files.
self.onmessage = async ({ data }) => {
  try {
    engine ??= start().catch((error) => {
      engine = undefined;
      throw error;
    });
    await engine;
    postMessage({ id: data.id, result: await kinds[data.kind](data) });
  } catch (error) {
    if (error instanceof Superseded) postMessage({ id: data.id, superseded: true });
    else {
      const expected = error instanceof UserError;
      postMessage({ id: data.id, error: String(error?.message ?? error), expected });
    }
  }
};
