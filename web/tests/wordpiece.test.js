// The tokenizer against the library tokenizers, over tests/data/expected.json.
//
// The vocabulary (half a megabyte) is not committed: it comes from assets/, which make web writes.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { WordPiece } from "../js/wordpiece.js";

const file = process.env.MOBIUS_TOKENIZER ?? new URL("../assets/tokenizer.json", import.meta.url);
const skip = existsSync(file) ? false : "assets/tokenizer.json is not there; run make web";
const read = (path) => JSON.parse(readFileSync(path, "utf8"));

test("ids are those of the library", { skip }, () => {
  const tokenizer = new WordPiece(read(file));
  const { tokens } = read(new URL("data/expected.json", import.meta.url));
  tokenizer.most = 256;
  assert.ok(tokens.length > 40);
  for (const { text, ids } of tokens) assert.deepEqual(tokenizer.encode(text), ids, text);
});

test("a batch is padded to its longest", { skip }, () => {
  const { ids, mask, dims } = new WordPiece(read(file)).encodeBatch(["cat", "a long name"]);
  assert.deepEqual(dims, [2, 5]);
  assert.deepEqual([...mask], [1n, 1n, 1n, 0n, 0n, 1n, 1n, 1n, 1n, 1n]);
  assert.deepEqual([ids[0], ids[2], ids[3]], [101n, 102n, 0n]);
});

test("other tokenizers are refused", () => {
  assert.throws(() => new WordPiece({ model: { type: "BPE" } }), /does not read/);
});
