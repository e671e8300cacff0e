// BERT's tokenizer (WordPiece), from the exported tokenizer.json alone.
//
// The order of steps is that of the library tokenizers: special tokens of the text are set apart,
// then cleaning, spaces around Chinese characters, accents, lower case, splitting at spaces and
// punctuation, and the longest pieces that the vocabulary knows.

import { UserError } from "./errors.js";

const CHINESE = [
  [0x4e00, 0x9fff], [0x3400, 0x4dbf], [0x20000, 0x2a6df], [0x2a700, 0x2b73f],
  [0x2b740, 0x2b81f], [0x2b920, 0x2ceaf], [0xf900, 0xfaff], [0x2f800, 0x2fa1f],
];
const SPACE = /^[\p{White_Space}]$/u;
const OTHER = /^\p{C}$/u;
const PUNCTUATION = /^[!-/:-@[-`{-~\p{P}]$/u;

export class WordPiece {
  // `json`: the content of tokenizer.json, parsed.
  constructor(json) {
    const { model, normalizer, pre_tokenizer: pre, truncation } = json;
    if (model?.type !== "WordPiece" || normalizer?.type !== "BertNormalizer" ||
        pre?.type !== "BertPreTokenizer") {
      throw new UserError("assets/tokenizer.json is of a kind that this page does not read.");
    }
    this.vocabulary = new Map(Object.entries(model.vocab));
    this.prefix = model.continuing_subword_prefix;
    this.unknown = this.vocabulary.get(model.unk_token);
    this.longest = model.max_input_chars_per_word;
    this.rules = normalizer;
    this.accents = normalizer.strip_accents ?? normalizer.lowercase;
    this.most = truncation?.max_length ?? Infinity;
    this.first = this.vocabulary.get("[CLS]");
    this.last = this.vocabulary.get("[SEP]");
    this.special = new Map(json.added_tokens.map((token) => [token.content, token.id]));
  }

  // Ids of one text, with the tokens that begin and end every text.
  encode(text) {
    const ids = [];
    for (const part of this.parts(text)) {
      if (this.special.has(part)) ids.push(this.special.get(part));
      else for (const word of split(this.normalize(part))) ids.push(...this.pieces(word));
    }
    return [this.first, ...ids.slice(0, this.most - 2), this.last];
  }

  // Ids and which of them are real, of texts padded to the longest: BigInt64Array [K, T] each.
  encodeBatch(texts) {
    const rows = texts.map((text) => this.encode(text));
    const width = Math.max(...rows.map((row) => row.length));
    const ids = new BigInt64Array(rows.length * width);
    const mask = new BigInt64Array(rows.length * width);
    rows.forEach((row, k) => {
      row.forEach((id, t) => {
        ids[k * width + t] = BigInt(id);
        mask[k * width + t] = 1n;
      });
    });
    return { ids, mask, dims: [rows.length, width] };
  }

  // The text with special tokens set apart.
  parts(text) {
    const escaped = [...this.special.keys()].map((s) => s.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
    if (!escaped.length) return [text];
    return text.split(new RegExp(`(${escaped.join("|")})`)).filter((part) => part);
  }

  normalize(text) {
    let characters = [...text];
    if (this.rules.clean_text) characters = clean(characters);
    if (this.rules.handle_chinese_chars) {
      characters = characters.flatMap((c) => (isChinese(c) ? [" ", c, " "] : [c]));
    }
    if (this.accents) {
      characters = [...characters.join("").normalize("NFD")].filter((c) => !/^\p{Mn}$/u.test(c));
    }
    // One at a time: a whole word's lower case knows a final sigma, the tokenizer's does not.
    if (this.rules.lowercase) characters = characters.map((c) => c.toLowerCase());
    return characters.join("");
  }

  // Ids of one word: the longest known beginning, then the longest that continues it.
  pieces(word) {
    const characters = [...word];
    if (characters.length > this.longest) return [this.unknown];
    const ids = [];
    for (let start = 0; start < characters.length; ) {
      let end = characters.length;
      let id;
      for (; end > start; end--) {
        const piece = characters.slice(start, end).join("");
        id = this.vocabulary.get(start ? this.prefix + piece : piece);
        if (id !== undefined) break;
      }
      if (id === undefined) return [this.unknown];
      ids.push(id);
      start = end;
    }
    return ids;
  }
}

// Without control characters, every kind of space a plain one.
function clean(characters) {
  return characters
    .filter((c) => {
      if (c === "\t" || c === "\n" || c === "\r") return true;
      return c !== "\0" && c !== "\ufffd" && !OTHER.test(c);
    })
    .map((c) => (SPACE.test(c) ? " " : c));
}

function isChinese(character) {
  const code = character.codePointAt(0);
  return CHINESE.some(([first, last]) => code >= first && code <= last);
}

// Words and single punctuation marks.
function split(text) {
  const words = [];
  let word = "";
  const finish = () => {
    if (word) words.push(word);
    word = "";
  };
  for (const character of text) {
    if (SPACE.test(character)) finish();
    else if (PUNCTUATION.test(character)) {
      finish();
      words.push(character);
    } else word += character;
  }
  finish();
  return words;
}
