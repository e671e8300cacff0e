// The names box, and the vectors of common names that come with the page.

import { UserError } from "./errors.js";

export const MOST_NAMES = 200;
const MOST_CHARACTERS = 500;

// Names separated by commas or line ends; blank ones are left out, repeated ones count once.
export function readNames(text) {
  const names = text
    .split(/[,;\n]/)
    .map((name) => name.trim())
    .filter((name) => name);
  const once = [...new Set(names)];
  if (!once.length) throw new UserError("Type at least one name, for example: cat, cup, spoon.");
  if (once.length > MOST_NAMES) {
    throw new UserError(`${once.length} names are too many; at most ${MOST_NAMES} are allowed.`);
  }
  const long = once.find((name) => name.length > MOST_CHARACTERS);
  if (long) throw new UserError(`The name "${long.slice(0, 30)}…" is too long.`);
  return once;
}

// What the text encoder's tokenizer makes of a name anyway: lower case, single spaces.
export function plain(name) {
  return name.toLowerCase().split(/\s+/).filter(Boolean).join(" ");
}

// Bits of a float16 to its number.
export function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// Vectors of the bundled names, each of length one.
export class NameTable {
  // `names` and `dim` of names.json; `buffer` is names.f16.
  constructor({ names, dim }, buffer) {
    if (buffer.byteLength !== names.length * dim * 2) {
      throw new UserError("assets/names.f16 and assets/names.json do not fit; run make web again.");
    }
    this.names = names;
    this.dim = dim;
    this.view = new DataView(buffer);
    this.rows = new Map(names.map((name, row) => [name, row]));
  }

  // float32 [dim], or undefined where the name is not in the table.
  vector(name) {
    const row = this.rows.get(plain(name));
    if (row === undefined) return undefined;
    const values = new Float32Array(this.dim);
    let squares = 0;
    for (let i = 0; i < this.dim; i++) {
      values[i] = fromHalf(this.view.getUint16((row * this.dim + i) * 2, true));
      squares += values[i] * values[i];
    }
    const length = Math.sqrt(squares);
    return values.map((value) => value / length);
  }
}
