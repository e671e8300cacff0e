// The slider's 0..100 as a score: each step multiplies, since scores of photographs are small.

const LOWEST = 0.0005;
const HIGHEST = 0.9;

export function fromSlider(position) {
  return Number((LOWEST * (HIGHEST / LOWEST) ** (position / 100)).toFixed(4));
}

export function toSlider(score) {
  return Math.round((100 * Math.log(score / LOWEST)) / Math.log(HIGHEST / LOWEST));
}
