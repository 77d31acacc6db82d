"""Mistakes in chapter 05's solutions: (exercise, the mistake, old text, new text)."""

DECIDES = """            if len(answer) % config.bin_size == 0:
                ratio = sum(matches[-config.bin_size :]) / config.bin_size
                scheme, threshold, alpha = decide(scheme, threshold, alpha, ratio, config)
            if token in eos or len(answer) == max_new_tokens:
                return answer, states
            if token != proposed:
                break
"""
AFTER_THE_ROUND = """            if token in eos or len(answer) == max_new_tokens:
                return answer, states
            if token != proposed:
                break
        if len(answer) // config.bin_size > (len(answer) - t - 1) // config.bin_size:
            full = len(answer) // config.bin_size * config.bin_size
            ratio = sum(matches[full - config.bin_size : full]) / config.bin_size
            scheme, threshold, alpha = decide(scheme, threshold, alpha, ratio, config)
"""

MUTANTS = [
    # the scheduler
    ("05.1", "the scheme is fixed for a whole round", DECIDES, AFTER_THE_ROUND),
    (
        "05.1",
        "nothing is reset when the scheme changes",
        "return following, config.threshold, config.alpha_intersection",
        "return following, threshold, alpha",
    ),
    (
        "05.1",
        "the threshold is not reset when the scheme changes",
        "return following, config.threshold, config.alpha_intersection",
        "return following, threshold, config.alpha_intersection",
    ),
    (
        "05.1",
        "α_I is not reset when the scheme changes",
        "return following, config.threshold, config.alpha_intersection",
        "return following, config.threshold, alpha",
    ),
    (
        "05.1",
        "β ≤ threshold raises the alarm, not β < threshold",
        "if ratio < threshold else",
        "if ratio <= threshold else",
    ),
    (
        "05.1",
        "the floor raises an α_I that starts below it",
        "alpha = min(alpha, max(alpha - config.alpha_decay, config.alpha_floor))",
        "alpha = max(alpha - config.alpha_decay, config.alpha_floor)",
    ),
    (
        "05.1",
        "α_I has no floor",
        "alpha = min(alpha, max(alpha - config.alpha_decay, config.alpha_floor))",
        "alpha = max(alpha - config.alpha_decay, 0)",
    ),
    (
        "05.1",
        "α_I never decays",
        "alpha = min(alpha, max(alpha - config.alpha_decay, config.alpha_floor))",
        "pass",
    ),
    (
        "05.1",
        "the threshold never decays",
        "return scheme, max(threshold - config.threshold_decay, 0), alpha",
        "return scheme, threshold, alpha",
    ),
    (
        "05.1",
        "the threshold decays in Intersection only",
        "return scheme, max(threshold - config.threshold_decay, 0), alpha",
        'return scheme, max(threshold - config.threshold_decay * (scheme == "intersection"), 0), alpha',
    ),
    (
        "05.1",
        "the threshold may fall below 0",
        "return scheme, max(threshold - config.threshold_decay, 0), alpha",
        "return scheme, threshold - config.threshold_decay, alpha",
    ),
    (
        "05.1",
        "a scheme once left is never entered again: no way out of Union",
        'following = "union" if ratio < threshold else "intersection"',
        'following = "union" if ratio < threshold or scheme == "union" else "intersection"',
    ),
    (
        "05.1",
        "the match ratio runs over the whole answer, not the last bin",
        "ratio = sum(matches[-config.bin_size :]) / config.bin_size",
        "ratio = sum(matches) / len(matches)",
    ),
    (
        "05.1",
        "the bin is decided before its last token is counted",
        "            if len(answer) % config.bin_size == 0:\n",
        "            if len(answer) % config.bin_size == config.bin_size - 1:\n",
    ),
    (
        "05.1",
        "β is asked after every token, not after every bin",
        "            if len(answer) % config.bin_size == 0:\n",
        "            if len(answer) >= config.bin_size:\n",
    ),
    (
        "05.1",
        "it starts in Union",
        'scheme, threshold, alpha = "intersection", ',
        'scheme, threshold, alpha = "union", ',
    ),
    # one token
    (
        "05.1",
        "α_I is used in both schemes",
        'weight = config.alpha_union if scheme == "union" else alpha',
        "weight = alpha",
    ),
    (
        "05.1",
        "the fixed α_I of the settings is used, not the annealed one",
        'weight = config.alpha_union if scheme == "union" else alpha',
        'weight = config.alpha_union if scheme == "union" else config.alpha_intersection',
    ),
    (
        "05.1",
        "α weighs the target instead of the draft",
        "score = target + alpha * (draft - target)",
        "score = draft + alpha * (target - draft)",
    ),
    (
        "05.1",
        "Union takes the target's candidates only",
        "space = set(top_k(target, c)) | set(top_k(draft, c))",
        "space = set(top_k(target, c))",
    ),
    (
        "05.1",
        "Union is the intersection of the top c",
        "space = set(top_k(target, c)) | set(top_k(draft, c))",
        "space = (set(top_k(target, c)) & set(top_k(draft, c))) or {top_k(target, 1)[0]}",
    ),
    ("05.1", "k is one too large", "for token in places[0])[c - 1]", "for token in places[0])[c]"),
    (
        "05.1",
        "where the target insists, the draft's favourite is emitted",
        "            return favourite\n",
        "            return top_k(draft, 1)[0]\n",
    ),
    (
        "05.1",
        "the target's fallback is forgotten",
        "        if favourite not in top_k(draft, k):\n            return favourite\n",
        "",
    ),
    (
        "05.1",
        "the target insists where its favourite is outside the draft's top c",
        "if favourite not in top_k(draft, k):",
        "if favourite not in top_k(draft, c):",
    ),
    (
        "05.1",
        "ties go to the higher id",
        "key=lambda token: (-float(score[token]), token))",
        "key=lambda token: (-float(score[token]), -token))",
    ),
    # rounds and ends
    ("05.1", "the round goes on after a mismatch", "            if token != proposed:\n                break\n", ""),
    (
        "05.1",
        "the proposal is emitted in place of the best F where both are likely",
        "            answer.append(token)\n",
        "            answer.append(proposed if t == 0 else token)\n",
    ),
    (
        "05.1",
        "the draft reads the target's prompt",
        "proposals = propose(draft, draft_prompt + answer, config.lookahead)",
        "proposals = propose(draft, prompt + answer, config.lookahead)",
    ),
    (
        "05.1",
        "the draft's opinions are asked after the target's prompt",
        "draft_probs = probs_after(draft, draft_prompt + read, config.lookahead)",
        "draft_probs = probs_after(draft, prompt + read, config.lookahead)",
    ),
    (
        "05.1",
        "opinions are those after the proposals, one place too late",
        "        read = answer + proposals[:-1]\n",
        "        read = answer + proposals\n",
    ),
    (
        "05.1",
        "the draft guesses every token from the same prefix",
        "int(probs_after(draft, ids + proposals, 1)[0].argmax())",
        "int(probs_after(draft, ids, 1)[0].argmax())",
    ),
    ("05.1", "only one of the end-of-sequence tokens ends the answer", "if token in eos or", "if token == min(eos) or"),
    (
        "05.1",
        "the end-of-sequence token is left out of the answer",
        "                return answer, states\n",
        "                return [each for each in answer if each not in eos], states\n",
    ),
    ("05.1", "the answer is one token too long", "len(answer) == max_new_tokens:", "len(answer) > max_new_tokens:"),
    # the number of rounds
    ("05.2", "the last, unfinished round is not counted", "return rounds + (in_round > 0)", "return rounds"),
    (
        "05.2",
        "a last round is counted even where nothing is left",
        "return rounds + (in_round > 0)",
        "return rounds + 1",
    ),
    (
        "05.2",
        "full rounds are forgotten: only mismatches end one",
        "if not match or in_round == lookahead:",
        "if not match:",
    ),
    (
        "05.2",
        "mismatches are forgotten: every round is full",
        "if not match or in_round == lookahead:",
        "if in_round == lookahead:",
    ),
    (
        "05.2",
        "a round has T + 1 tokens, as where the target adds one of its own",
        "if not match or in_round == lookahead:",
        "if not match or in_round == lookahead + 1:",
    ),
    (
        "05.2",
        "tokens over T: as if nothing were ever rejected",
        "    rounds, in_round = 0, 0\n",
        "    return -(-len(matches) // lookahead)\n    rounds, in_round = 0, 0\n",
    ),
    # the suspect
    (
        "05.3",
        "a history is given, but at the default α_I, which never moves",
        'changes = {"alpha_intersection": 0.6}',
        "changes = {}",
    ),
    (
        "05.3",
        "only the alarm, without a good bin that lowers α_I first",
        "history = [True] * 7 + [False] * 7",
        "history = [False] * 14",
    ),
    (
        "05.3",
        "the second bin is one token short",
        "history = [True] * 7 + [False] * 7",
        "history = [True] * 7 + [False] * 6",
    ),
    (
        "05.3",
        "no alarm: β stays above the lowered threshold",
        "history = [True] * 7 + [False] * 7",
        "history = [True] * 11 + [False] * 3",
    ),
    (
        "05.3",
        "another field is changed, and α_I stays at its floor",
        'changes = {"alpha_intersection": 0.6}',
        'changes = {"threshold": 0.9}',
    ),
    # settings that leak less
    (
        "05.4",
        "the alarm is made more sensitive, which decides no earlier",
        "replace(pair.config, alpha_intersection=0.6)",
        "replace(pair.config, threshold=0.9)",
    ),
    (
        "05.4",
        "shorter bins, which were excluded",
        "replace(pair.config, alpha_intersection=0.6)",
        "replace(pair.config, bin_size=4)",
    ),
    (
        "05.4",
        "the draft decides everything, benign answers, too",
        "replace(pair.config, alpha_intersection=0.6)",
        "replace(pair.config, alpha_intersection=1.0, alpha_floor=1.0)",
    ),
    (
        "05.4",
        "Union is made stronger, which comes after the leak",
        "replace(pair.config, alpha_intersection=0.6)",
        "replace(pair.config, alpha_union=2.0)",
    ),
    (
        "05.4",
        "the start in Union, which was excluded",
        "replace(pair.config, alpha_intersection=0.6)",
        'replace(pair.config, start_scheme="union")',
    ),
    ("05.1", "an end at the first token is overlooked", "if token in eos or", "if token in eos and len(answer) > 1 or"),
    ("05.1", "45 tokens, whatever max_new_tokens", "len(answer) == max_new_tokens:", "len(answer) == 45:"),
    (
        "05.1",
        "an answer has at least two tokens",
        "len(answer) == max_new_tokens:",
        "len(answer) >= max(2, max_new_tokens):",
    ),
    (
        "05.1",
        "the draft's prompt grows with the answer",
        "            answer.append(token)\n",
        "            answer.append(token)\n            draft_prompt.append(token) if len(answer) == max_new_tokens else None\n",
    ),
    (
        "05.1",
        "tokens match where the target's favourite is emitted",
        "matches.append(token == proposed)",
        "matches.append(token == int(target_probs[t].argmax()))",
    ),
    (
        "05.2",
        "an empty answer takes a round",
        "    rounds, in_round = 0, 0\n",
        "    if not matches:\n        return 1\n    rounds, in_round = 0, 0\n",
    ),
    (
        "05.2",
        "rounds have four tokens at most",
        "    rounds, in_round = 0, 0\n",
        "    rounds, in_round, lookahead = 0, 0, min(4, lookahead)\n",
    ),
    (
        "05.2",
        "the matches that were given are used up",
        "for match in matches:",
        "for match in iter(lambda: matches.pop(0) if matches else None, None):",
    ),
    (
        "05.3",
        "another start, which `switch` does not know",
        'changes = {"alpha_intersection": 0.6}',
        'changes = {"start_scheme": "union"}',
    ),
    (
        "05.3",
        "a floor of the threshold, which `switch` does not know",
        'changes = {"alpha_intersection": 0.6}',
        'changes = {"threshold_floor": 0.55}',
    ),
]
