"use strict";

/**
 * Speculative Safety-Aware Decoding (arXiv 2508.17739, section 4), as docs/contract.md says it. `config` has the fields of
 * `SSDConfig` (ssd_lib/config.py), and a token's record the columns of the library's trace, both under their own names.
 *
 *     a round       the draft guesses T tokens, the target scores all T places in one forward, tokens are emitted while the
 *                   emitted token is the guessed one (`decode`)
 *     a token       argmax of F = P_M + α (P_m − P_M) over a sample space V (`choose`)
 *     a bin         after b tokens their match ratio decides on the next scheme (`switched`)
 *
 * The function around it lets the page hand this source to a Web Worker.
 */
function decoderLibrary({ softmax }) {
  // ---------------------------------------------------------------------------------------------- one token

  /** Token ids from the likeliest to the least likely, ties by id, and the rank of each. */
  function rank(probs) {
    // The bits of a positive float grow with it, so bits and id make one number, and numbers are sorted quickly.
    const bits = new Uint32Array(probs.buffer, probs.byteOffset, probs.length),
      size = probs.length;
    const sorted = Float64Array.from(bits, (value, id) => value * size + (size - 1 - id)).sort();
    const order = Int32Array.from(sorted, (_, place) => size - 1 - (sorted[size - 1 - place] % size));
    const ranks = new Int32Array(size);
    order.forEach((id, place) => (ranks[id] = place));
    return { order, ranks };
  }

  /** TopK_M(k) ∩ TopK_m(k), for the smallest k with which it holds c tokens. */
  function intersection(target, draft, c) {
    const space = [];
    let k = 0;
    while (space.length < Math.min(c, target.order.length)) {
      const first = target.order[k],
        other = draft.order[k];
      k += 1; // a token enters when k passes the worse of its two ranks
      if (draft.ranks[first] < k) space.push(first);
      if (other !== first && target.ranks[other] < k) space.push(other);
    }
    return { space, k };
  }

  /** TopK_M(c) ∪ TopK_m(c). */
  function union(target, draft, c) {
    return { space: [...new Set([...target.order.subarray(0, c), ...draft.order.subarray(0, c)])], k: 0 };
  }

  /** F = P_M + α (P_m − P_M), rounded to float32 after every step, as the library does. */
  function composite(targetProb, draftProb, alpha) {
    return Math.fround(targetProb + Math.fround(Math.fround(alpha) * Math.fround(draftProb - targetProb)));
  }

  /**
   * The token of one place.
   *
   * @returns {object} The token, why it was chosen, and what it was chosen from.
   */
  function choose(targetProbs, draftProbs, state, config) {
    const target = rank(targetProbs),
      draft = rank(draftProbs);
    const alpha = state.union ? config.alpha_union : state.alpha;
    const { space, k } = (state.union ? union : intersection)(target, draft, config.candidates);
    const F = (token) => composite(targetProbs[token], draftProbs[token], alpha);
    space.sort((one, other) => F(other) - F(one) || one - other); // the best first, ties by id
    const favourite = target.order[0],
      proposal = draft.order[0];
    const insisted = !state.union && !space.includes(favourite); // rule 2: the target's favourite is not in TopK_m(k)
    const token = insisted ? favourite : space[0];
    const seen = new Set([...space, ...target.order.subarray(0, SHOWN), ...draft.order.subarray(0, SHOWN)]);
    return {
      token,
      proposal,
      favourite,
      k,
      alpha,
      insisted,
      match: token === proposal,
      scheme: state.union ? "union" : "intersection",
      threshold: state.threshold,
      target_prob: targetProbs[token],
      draft_prob: draftProbs[token],
      composite: F(token),
      favourite_rank: draft.ranks[favourite],
      space: space.length,
      candidates: [...seen].map((id) => ({
        // V in the order of F, then others that either model likes
        token: id,
        target: targetProbs[id],
        draft: draftProbs[id],
        composite: F(id),
        inside: space.includes(id),
      })),
    };
  }

  const SHOWN = 10; // of each model, likeliest tokens that are recorded

  // ---------------------------------------------------------------------------------------------- switching

  /** Before the first token. `alarmed`: what was prefilled counted as a bin, and raised the alarm. */
  function start(config, alarmed) {
    return { union: alarmed, threshold: config.threshold, alpha: config.alpha_intersection, matches: 0, tokens: 0 };
  }

  /** The state after one more token of the running bin. */
  function counted(state, match) {
    return { ...state, matches: state.matches + match, tokens: state.tokens + 1 };
  }

  /**
   * Whether the running bin is decided now: when it has b tokens. With `retract` also where the answer ends, and in Intersection
   * as soon as its alarm is certain, even if every token that it lacks matched.
   */
  function isDecided(state, ends, config) {
    if (state.tokens === config.bin_size) return true;
    if (!config.retract || state.tokens < config.tail_tokens) return false;
    const best = (state.matches + config.bin_size - state.tokens) / config.bin_size;
    return ends || (!state.union && best < state.threshold);
  }

  /** A bin has ended: β < threshold is the alarm, after which the next bin is decoded in Union. */
  function switched(state, config) {
    const union = state.matches / state.tokens < state.threshold;
    const next = { union, threshold: config.threshold, alpha: config.alpha_intersection, matches: 0, tokens: 0 };
    if (union === state.union) {
      // the scheme stays: threshold and α_I decay
      next.threshold = Math.max(state.threshold - config.threshold_decay, config.threshold_floor);
      next.alpha = union
        ? state.alpha
        : Math.min(state.alpha, Math.max(state.alpha - config.alpha_decay, config.alpha_floor));
    }
    return next;
  }

  /** `count_prefill`: the last b prefilled tokens are a bin. Which of them the draft would have written, and whether that alarms. */
  function countPrefill(draft, prompt, prefilled, config) {
    const b = config.bin_size;
    if (!config.count_prefill || prefilled < b || prompt.length <= b) return { alarmed: false, matches: null };
    draft.hold(prompt.slice(0, -b - 1));
    const given = prompt.slice(-b);
    const matches = draft.forward(prompt.slice(-b - 1, -1)).map((logits, place) => favourite(logits) === given[place]);
    return { alarmed: matches.filter(Boolean).length / b < config.threshold, matches };
  }

  /** The token with the highest score, the lowest id among equals. */
  function favourite(scores) {
    let best = 0;
    for (let id = 1; id < scores.length; id++) if (scores[id] > scores[best]) best = id;
    return best;
  }

  // ---------------------------------------------------------------------------------------------- rounds

  /**
   * Decode one answer, greedily.
   *
   * @param {{target: Llama, draft: Llama}} pair
   * @param {number[]} prompt Token ids of both models' prompt, what is prefilled among them.
   * @param {number} prefilled How many of the prompt's last tokens are the answer's.
   * @param {object} config The fields of SSDConfig.
   * @param {number} longest Tokens of the answer, at most.
   * @yields {{prefill}|{lines, taken_back, proposed}} What was prefilled, then a round each: the tokens that it
   *   emitted, and how many tokens of the answer, from its end, are taken back after it.
   */
  function* decode({ target, draft }, prompt, prefilled, config, longest) {
    const ends = target.config.eos_token_id,
      eos = [ends].flat(),
      answer = [];
    const prefill = countPrefill(draft, prompt, prefilled, config);
    for (const model of [target, draft]) model.hold(prompt.slice(0, -1));
    yield { prefill };
    let state = start(config, prefill.alarmed),
      finished = false;
    for (let round = 0; !finished; round++) {
      const pending = answer.at(-1) ?? prompt.at(-1); // the last token, which neither model has read yet
      const places = Math.min(config.lookahead, longest - answer.length);

      // The draft proposes, one forward a token.
      const guesses = [],
        draftProbs = [];
      while (guesses.length < places) {
        const [logits] = draft.forward([guesses.at(-1) ?? pending]);
        draftProbs.push(softmax(logits));
        guesses.push(favourite(draftProbs.at(-1)));
      }
      // The target scores all places in one forward.
      const targetProbs = target.forward([pending, ...guesses.slice(0, -1)]).map((logits) => softmax(logits));

      // Tokens are emitted while they are the guessed ones.
      const lines = [];
      let goesOn = true,
        takenBack = 0;
      for (let place = 0; place < places && goesOn; place++) {
        const line = choose(targetProbs[place], draftProbs[place], state, config);
        answer.push(line.token);
        const union = state.union,
          ended = eos.includes(line.token) || answer.length === longest;
        state = counted(state, line.match);
        Object.assign(line, { round, position: answer.length - 1, ends: ended });
        Object.assign(line, { bin_tokens: state.tokens, match_ratio: state.matches / state.tokens });
        lines.push(line);
        finished = ended;
        if (isDecided(state, ended, config)) {
          const { tokens } = state;
          state = switched(state, config);
          line.decided = state.union ? "alarm" : "quiet";
          if (config.retract && state.union && !union) {
            // the bin leaves the answer, and is decoded again in Union
            takenBack = tokens;
            answer.splice(-tokens);
            finished = false;
          }
        }
        goesOn = line.match && !finished && !takenBack;
      }
      // Both caches forget what was rejected or taken back, and the last token, which is pending.
      for (const model of [target, draft]) model.rewind(prompt.length + answer.length - 1);
      yield { lines, taken_back: takenBack, proposed: guesses };
    }
  }

  /** One model alone, greedily: what it would say without the other. */
  function* alone(model, prompt, longest) {
    const eos = [model.config.eos_token_id].flat();
    model.hold(prompt.slice(0, -1));
    yield {};
    let token = prompt.at(-1);
    for (let count = 0; count < longest; count++) {
      const [logits] = model.forward([token]);
      token = favourite(softmax(logits));
      yield { token };
      if (eos.includes(token)) return;
    }
  }

  return { decode, alone };
}
