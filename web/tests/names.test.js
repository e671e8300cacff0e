import assert from "node:assert/strict";
import { test } from "node:test";

import { fromHalf, MOST_NAMES, NameTable, plain, readNames } from "../js/names.js";

test("the names box", () => {
  assert.deepEqual(readNames("cat, cup ,, spoon\nred car; cat"), ["cat", "cup", "spoon", "red car"]);
  assert.throws(() => readNames(" , ;\n"), /at least one name/);
  const many = Array.from({ length: MOST_NAMES + 1 }, (_, i) => `n${i}`).join();
  assert.throws(() => readNames(many), /too many/);
  assert.throws(() => readNames("x".repeat(501)), /too long/);
});

test("float16", () => {
  const cases = [[0x3c00, 1], [0xc000, -2], [0x3555, 0.333251953125], [0, 0], [1, 2 ** -24]];
  for (const [bits, value] of cases) assert.equal(fromHalf(bits), value);
  assert.equal(fromHalf(0x7c00), Infinity);
  assert.ok(Number.isNaN(fromHalf(0x7e00)));
});

test("vectors of known names", () => {
  const buffer = Uint16Array.from([0x4200, 0x4400, 0, 0x3c00]).buffer; // 3, 4 and 0, 1
  const table = new NameTable({ names: ["cat", "red cup"], dim: 2 }, buffer);
  const [x, y] = table.vector(" CAT ");
  assert.ok(Math.abs(x - 0.6) < 1e-7 && Math.abs(y - 0.8) < 1e-7);
  assert.deepEqual([...table.vector("Red  Cup")], [0, 1]);
  assert.equal(table.vector("dog"), undefined);
  assert.equal(plain(" A \t b "), "a b");
  assert.throws(() => new NameTable({ names: ["cat"], dim: 2 }, buffer), /do not fit/);
});
