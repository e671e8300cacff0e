// What Python says about small cases (tests/expected.py), repeated in JavaScript.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";

import { mapScore } from "../js/calibration.js";
import { makeFrame, toInput } from "../js/frame.js";
import { Answer } from "../js/instances.js";
import { resizeRgb } from "../js/resample.js";

const expected = JSON.parse(readFileSync(new URL("data/expected.json", import.meta.url), "utf8"));

// Runs that touch across a row's end are one in Python's flat picture.
function joined(edges) {
  const runs = [];
  for (const edge of edges) {
    if (runs.length && runs.length % 2 === 0 && runs.at(-1) === edge) runs.pop();
    else runs.push(edge);
  }
  return runs;
}

test("frames", () => {
  for (const { size, ...frame } of expected.frames) {
    assert.deepEqual(makeFrame(...frame.original, size), frame);
  }
});

test("resizing gives Pillow's bytes", () => {
  for (const { from, to, pixels, result } of expected.resized) {
    const rgba = new Uint8Array(from[0] * from[1] * 4);
    for (let i = 0; i < from[0] * from[1]; i++) rgba.set(pixels.slice(3 * i, 3 * i + 3), 4 * i);
    assert.deepEqual([...resizeRgb(rgba, from, to)], result);
  }
});

test("the input is padded with grey at the bottom and the right", () => {
  const frame = makeFrame(2, 3, 33);
  assert.deepEqual(frame.padded, [32, 64]);
  const pixels = new Uint8Array(22 * 33 * 3).fill(255);
  const input = toInput(pixels, frame);
  assert.equal(input.length, 3 * 32 * 64);
  assert.equal(input[0], 1);
  assert.equal(input[33], Math.fround(114 / 255));
  assert.equal(input[22 * 64], Math.fround(114 / 255));
});

test("score maps", () => {
  for (const { map, scores, values } of expected.maps) {
    scores.forEach((score, i) => {
      assert.ok(Math.abs(mapScore(score, map) - values[i]) < 1e-12, `${score} ${values[i]}`);
    });
  }
  assert.equal(mapScore(0.3, undefined), 0.3);
});

describe("instances", () => {
  for (const [index, given] of expected.instances.entries()) {
    const [queries, columns, rows, cells] = given.dims;
    const output = {
      scores: { data: Float32Array.from(given.scores), dims: [queries, columns] },
      boxes: { data: Float32Array.from(given.boxes), dims: [queries, 4] },
      masks: { data: Float32Array.from(given.masks), dims: [queries, rows, cells] },
    };
    const answer = () => new Answer(output, given.frame, given.model, ["a", "b", "c"]);

    test(`case ${index} equals Python's`, () => {
      const found = answer().instances(given.threshold);
      assert.deepEqual(found.map(({ name }) => name), given.found.map(({ name }) => name));
      found.forEach(({ score, mask }, i) => {
        assert.equal(score, Math.fround(given.found[i].score));
        assert.deepEqual(joined(mask.edges), given.found[i].runs);
      });
    });

    test(`case ${index} after another threshold`, () => {
      const one = answer();
      const key = ({ id, name, score }) => `${id} ${name} ${score}`;
      const low = one.instances(0).map(key);
      assert.deepEqual(one.instances(given.threshold).map(key),
        answer().instances(given.threshold).map(key));
      assert.deepEqual(answer().instances(0).map(key), low);
      assert.equal(one.instances(0, 2).length, 2);
      assert.deepEqual(one.instances(1), []);
    });
  }
});
