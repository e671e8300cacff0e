// Which queries are kept, under which name, as `choose` in src/mobius_seg/postprocess.py.

import { mapScore } from "./calibration.js";

// Every query under its best name, best raw score first; equal scores keep their order.
// `scores` is float32 [queries, columns]; mapped scores are rounded to float32 as in Python.
export function rank(scores, queries, columns, map) {
  const ranked = [];
  for (let query = 0; query < queries; query++) {
    let column = 0;
    for (let k = 1; k < columns; k++) {
      if (scores[query * columns + k] > scores[query * columns + column]) column = k;
    }
    const raw = scores[query * columns + column];
    ranked.push({ query, column, raw, score: Math.fround(mapScore(raw, map)) });
  }
  return ranked.sort((a, b) => b.raw - a.raw || a.query - b.query);
}

// The pairs at or above a threshold; a float32 score stays at the threshold of its own value.
export function atLeast(ranked, threshold) {
  const limit = Math.fround(threshold);
  return ranked.filter((pair) => pair.score >= limit);
}
