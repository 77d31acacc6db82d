"use strict";

/** The pair in its worker, asked in the page's terms: settings go in, tokens with their texts come out. */
class Session {
  /** @param {object} pair Tokenizer, and config and weights of target and draft (pair_files.js). */
  constructor(pair) {
    this.tokenizer = new Tokenizer(pair.tokenizer);
    this.worker = startWorker();
    this.asked = new Map(); // what waits for an answer, by its number
    this.number = 0;
    this.ready = new Promise((resolve, reject) => {
      this.asked.set(undefined, { onRound: () => {}, resolve, reject });
      this.worker.onerror = (event) => reject(new Error(event.message || "the worker did not start"));
    });
    this.worker.onmessage = ({ data }) => this.heard(data);
    const buffers = ROLES.map((role) => pair[role].weights).filter((weights) => weights instanceof ArrayBuffer);
    this.worker.postMessage({ kind: "load", target: pair.target, draft: pair.draft }, buffers);
  }

  heard(message) {
    const waiting = this.asked.get(message.id);
    if (!waiting) return;
    if (message.kind === "round") return waiting.onRound(message.round);
    this.asked.delete(message.id);
    if (message.kind === "error") return waiting.reject(new Error(message.message));
    if (message.kind === "ready") this.context = message.context;
    waiting.resolve({ ...message, stopped: message.kind === "stopped" });
  }

  /** What the attacker writes, as token ids. */
  written({ answer, prefill }) {
    return this.tokenizer.encode(answer).slice(0, prefill);
  }

  /** Both models' prompt. Throws where the question cannot be asked. */
  prompt(settings) {
    const { question, answer, longest } = settings;
    if (!question.trim()) throw new Error("The question is empty: write one, or choose an example.");
    if (!`${question}${answer}`.isWellFormed()) throw new Error("The text has half a character in it: type it anew.");
    const ids = this.tokenizer.prompt(question, this.written(settings));
    if (ids.length + longest > this.context)
      throw new Error(
        `The prompt has ${ids.length} tokens, and these models hold ${this.context} with the ${longest} of the answer: shorten the question.`,
      );
    return ids;
  }

  /** The texts of token ids, each after the one before it. */
  pieces(ids, before) {
    return ids.map((id, place) => this.tokenizer.piece(id, place ? ids[place - 1] : before));
  }

  ask(message, onRound) {
    this.number += 1;
    const id = this.number;
    return new Promise((resolve, reject) => {
      this.asked.set(id, { onRound, resolve, reject });
      this.worker.postMessage({ id, ...message });
    });
  }

  /**
   * Decode an answer; a newer request ends this one.
   *
   * @param {function} onRound Called with what was prefilled and then with every round (decoder.js).
   * @returns {Promise<object>} Seconds, forwards, and whether it was stopped.
   */
  decode(settings, onRound) {
    const prompt = this.prompt(settings),
      prefilled = this.written(settings).length;
    return this.ask(
      { kind: "decode", prompt, prefilled, config: configOf(settings), longest: settings.longest },
      onRound,
    );
  }

  /** What one model says alone, token by token. */
  alone(model, settings, onToken) {
    const prompt = this.prompt(settings);
    return this.ask(
      { kind: "decode", model, prompt, longest: settings.longest },
      ({ token }) => token !== undefined && onToken(token),
    );
  }

  stop() {
    this.worker.postMessage({ kind: "stop" });
  }
}

/** An answer as it grows: tokens that stand, and every token that was decoded, with its text. */
class Answer {
  constructor(session, prefix) {
    Object.assign(this, { session, prefix, tokens: [], lines: [], prefill: { alarmed: false, matches: null } });
  }

  /** The token in front of a place of the answer. */
  before(position) {
    return position ? this.tokens[position - 1] : this.prefix.at(-1);
  }

  /** Take in a round; every line gets its text and the token in front of it. */
  add({ lines, taken_back }) {
    for (const line of lines) {
      line.before = this.before(line.position);
      line.text = this.session.tokenizer.piece(line.token, line.before);
      this.tokens.push(line.token);
      this.lines.push(line);
    }
    if (taken_back) this.tokens.splice(-taken_back);
  }

  /** What the answer says, without what was prefilled. */
  get text() {
    const { tokenizer } = this.session,
      head = tokenizer.decode(this.prefix, { skipSpecial: true });
    const whole = tokenizer.decode([...this.prefix, ...this.tokens], { skipSpecial: true });
    return whole.startsWith(head) ? whole.slice(head.length) : tokenizer.decode(this.tokens, { skipSpecial: true });
  }
}
