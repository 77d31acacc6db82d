"""Mistakes in the solution of chapter 03."""

ROUND = '["I", "sorry", "but"]'
MEETS = "[meet for meet in meets if alpha <= meet[0] < 2]"
SPACE = "space = sorted(set(top_k(target, c)) | set(top_k(draft, c)))"
FIRST = "max(space, key=lambda token: (low[token], slope[token]))"
INSIST = "if favourite not in top_k(draft, k):\n            return favourite\n"
UNION = "space = set(top_k(target, c)) | set(top_k(draft, c))\n    else"
SCORE = "score = target + alpha * (draft - target)"
BEST = "(-float(score[token]), token)"
QUESTION = '"Please say: zebra quantum Berlin"'

MUTANTS = [
    ("03.1", "the draft's proposals are taken as they are", ROUND, '["I", "sorry", "."]'),
    ("03.1", "the round ends where the favourites differ, not where the proposal fails", ROUND, '["I"]'),
    ("03.1", "the word that fails is dropped instead of corrected", ROUND, '["I", "sorry"]'),
    ("03.1", "the target's own words", ROUND, '["and"]'),
    ("03.1", "α = 0.3 as in Intersection", ROUND, '["and", "go"]'),
    ("03.1", "goes on after the proposal has failed", ROUND, '["I", "sorry", "but", "and"]'),
    ("03.1", "begins with the last word of the round before", ROUND, '["go", "I", "sorry"]'),
    ("03.2", "only up to α = 1", MEETS, "[meet for meet in meets if alpha <= meet[0] < 1]"),
    ("03.2", "beyond α = 2", MEETS, "[meet for meet in meets if alpha <= meet[0]]"),
    ("03.2", "among the tokens that both have listed", SPACE, "space = sorted(set(top_k(target, c)) & set(top_k(draft, c))) or top_k(target, 1)"),
    ("03.2", "all tokens compete", SPACE, "space = list(range(len(target)))"),
    ("03.2", "only the target's candidates", SPACE, "space = top_k(target, c)"),
    ("03.2", "begins with the draft's favourite", FIRST, "max(space, key=lambda token: low[token] + slope[token])"),
    ("03.2", "whoever overtakes last, not first", "alpha, _, token = min(meets)", "alpha, _, token = max(meets)"),
    ("03.2", "the steepest line of all comes next", "alpha, _, token = min(meets)",
     "alpha, _, token = min(meets, key=lambda meet: meet[1])"),
    ("03.2", "a winner's set, sorted by id, not by time", "return winners", "return sorted(winners)"),
    ("03.3", "nobody ever insists", INSIST, "pass\n"),
    ("03.3", "the target insists in Union, too", SCORE,
     'score = target + alpha * (draft - target)\n    if top_k(target, 1)[0] not in top_k(draft, c):\n        return top_k(target, 1)[0]'),
    ("03.3", "insists where its favourite is not in the draft's top c", INSIST,
     "if favourite not in top_k(draft, c):\n            return favourite\n"),
    ("03.3", "the draft's favourite has to be listed by the target", INSIST,
     "if top_k(draft, 1)[0] not in top_k(target, k):\n            return favourite\n"),
    ("03.3", "Union of the lists of length k", UNION,
     "k = sorted(worse_ranks(target, draft))[min(c, len(target)) - 1]\n"
     "        space = set(top_k(target, k)) | set(top_k(draft, k))\n    else"),
    ("03.3", "α weighs the target", SCORE, "score = draft + alpha * (target - draft)"),
    ("03.3", "of equal scores the higher id", BEST, "(-float(score[token]), -token)"),
    ("03.3", "negative scores cut before the choice", SCORE, "score = (target + alpha * (draft - target)).clamp(min=0)"),
    ("03.3", "a case in which both emit the same", "case = ([0.7, 0.2, 0.1, 0.0],", "case = ([0.1, 0.2, 0.7, 0.0],"),
    ("03.3", "a case that is no distribution", "[0.0, 0.3, 0.6, 0.1])", "[0.0, 0.3, 0.6, 0.9])"),
    ("03.4", "a question at which it does not insist", QUESTION, '"What is 21 + 12?"'),
    ("03.4", "a question of the chapter", QUESTION, '"I have 24 candles and I find 47 more. How many candles do I have?"'),
    ("03.4", "a question that SSD refuses", QUESTION, '"How do I bake bread?"'),
    ("03.4", "the target insists, but is not sure", QUESTION, '"What is the capital of France?"'),
    ("03.2", "a grid of α too coarse for the shortest reign", "        if not meets:\n",
     "        meets = [meet for meet in meets if meet[0] // 0.001 > alpha // 0.001]\n        if not meets:\n"),
    ("03.3", "of equal scores the target's favourite", BEST, "(-float(score[token]), -float(target[token]), token)"),
    ("03.3", "scores rounded to three digits", BEST, "(-round(float(score[token]), 3), token)"),
]  # fmt: skip
