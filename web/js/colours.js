// One colour an instance: hues a golden angle apart, so that neighbours in the list differ.

const GOLDEN = 0.618034;

export function colourOf(index) {
  const hue = Math.round(((0.58 + index * GOLDEN) % 1) * 360);
  const light = [52, 46, 60][index % 3];
  return `hsl(${hue} 88% ${light}%)`;
}
