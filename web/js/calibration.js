// The map that turns a score into the quality to expect, as src/mobius_seg/posthoc.py applies it.

// A score in 0..1 under { temperature, knots: [[x, y], ...] }; without a map the score itself.
export function mapScore(score, map) {
  if (!map) return score;
  const { temperature, knots } = map;
  if (temperature === 1 && knots.length === 2 && knots[0][1] === 0 && knots[1][1] === 1) {
    return score;
  }
  const at = sigmoid(Math.log(score / (1 - score)) / temperature);
  const right = Math.min(Math.max(firstAbove(knots, at), 1), knots.length - 1);
  const [x0, y0] = knots[right - 1];
  const [x1, y1] = knots[right];
  const value = y0 + (at - x0) * ((y1 - y0) / (x1 - x0));
  return Math.min(Math.max(value, 0), 1);
}

function sigmoid(logit) {
  return 1 / (1 + Math.exp(-logit));
}

// Index of the first knot that lies right of a value.
function firstAbove(knots, value) {
  let low = 0;
  let high = knots.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (knots[middle][0] <= value) low = middle + 1;
    else high = middle;
  }
  return low;
}
