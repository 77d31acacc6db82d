"use strict";

/**
 * Text to token ids and back, as `tokenizer.json` of the embedded pair says: byte-level BPE (GPT-2's) in which every digit
 * stands alone. tests/test_live.py holds it equal to the `tokenizers` library on thousands of texts. The library's own
 * port to JavaScript was tried: it takes other characters for white space than the original does.
 */

// What a word is: GPT-2's pattern, within pieces that single digits have cut out. \s of JavaScript is not Unicode's.
const WORDS =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;
const DIGITS = /\p{N}|\P{N}+/gu;

/** GPT-2's alphabet: a printable character for each of the 256 bytes; those that have none of their own get one above 255. */
function byteAlphabet() {
  const own = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let extra = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(own(byte) ? byte : extra++));
}

class Tokenizer {
  /** @param {object} file What tokenizer.json holds. */
  constructor(file) {
    this.vocabulary = new Map(Object.entries(file.model.vocab));
    this.ranks = new Map(file.model.merges.map((pair, rank) => [pair.join(" "), rank]));
    this.special = new Map(file.added_tokens.map((token) => [token.content, token.id]));
    this.tokens = []; // by id
    for (const [token, id] of [...this.vocabulary, ...this.special]) this.tokens[id] = token;
    this.letters = byteAlphabet();
    this.bytes = new Map(this.letters.map((letter, byte) => [letter, byte]));
    this.known = new Map(); // words that were seen before
  }

  /** Token ids of a text. Special tokens inside it are found, as the library does: see `disarm`. */
  encode(text) {
    const ids = [];
    for (const part of splitAt(text, [...this.special.keys()])) {
      if (this.special.has(part)) ids.push(this.special.get(part));
      else
        for (const piece of part.match(DIGITS) ?? [])
          for (const word of piece.match(WORDS) ?? []) ids.push(...this.word(word));
    }
    return ids;
  }

  /** BPE of one word: of all neighbours, those whose merge was learned first are merged first. */
  word(text) {
    if (this.known.has(text)) return this.known.get(text);
    const parts = Array.from(new TextEncoder().encode(text), (byte) => this.letters[byte]);
    for (;;) {
      let best = Infinity,
        at = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) break;
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
    const ids = parts.map((part) => this.vocabulary.get(part));
    this.known.set(text, ids);
    return ids;
  }

  /** The text of token ids. Bytes that make no character become "\uFFFD". */
  decode(ids, { skipSpecial = false } = {}) {
    const bytes = [];
    for (const id of ids) {
      const token = this.tokens[id];
      if (skipSpecial && this.special.has(token)) continue;
      for (const letter of token) bytes.push(this.bytes.get(letter));
    }
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
  }

  /** The visible text of a token as it stands after the token before it. */
  piece(id, before) {
    const head = before === undefined ? "" : this.decode([before]);
    const whole = before === undefined ? "" : this.decode([before, id]);
    return visible(before !== undefined && whole.startsWith(head) ? whole.slice(head.length) : this.decode([id]));
  }

  /** Questions are untrusted: a special token's string inside one is broken by a space, and stays text. */
  disarm(text) {
    const control = [...this.special.keys()].sort((one, other) => other.length - one.length);
    for (let round = 0; round < 8 && control.some((token) => text.includes(token)); round++)
      for (const token of control) text = text.replaceAll(token, `${token[0]} ${token.slice(1)}`);
    return text;
  }

  /** The prompt of both models (`chat_template.jinja`): <|bos|><|user|>question<|assistant|>, then what is prefilled. */
  prompt(question, prefill) {
    const [bos, user, assistant] = ["<|bos|>", "<|user|>", "<|assistant|>"].map((token) => this.special.get(token));
    return [bos, user, ...this.encode(this.disarm(question)), assistant, ...prefill];
  }
}

/** A text, cut at each of these strings, which become parts of their own. */
function splitAt(text, strings) {
  const escaped = strings.map((each) => each.replace(/[|\\{}()[\]^$+*?.]/g, "\\$&"));
  return text.split(new RegExp(`(${escaped.join("|")})`)).filter(Boolean);
}

/** Control and direction marks made visible, so that no token can change what stands around it (ssd_lib.method.trace). */
function visible(text) {
  const shown = text
    .replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}]/gu, (mark) =>
      mark === "\n" ? mark : `⟨U+${mark.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`,
    )
    .replaceAll("\n", "⏎");
  return /^\p{M}/u.test(shown) ? `◌${shown}` : shown;
}
