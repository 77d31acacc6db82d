"""Mistakes in the solution of chapter 10."""

VAIN = "1 - tokens / positions"
NONE = "if passes > lookahead:"
PASSES = "passes = 1 + steps * draft_cost"
HALVE = "sum(middle**i for i in range(lookahead)) < passes"
SPEED = "speed(ours) / speed(theirs)"
RATE = "sum(tokens for tokens, _ in runs[1:]) / sum(seconds for _, seconds in runs[1:])"
RULE = "len(confidences) < (7 if held[-1:] == [True] else 2)"

MUTANTS = [
    ("10.1", "the share that was not in vain", VAIN, "tokens / positions"),
    ("10.1", "positions in vain for each token, not for each position", VAIN, "(positions - tokens) / tokens"),
    ("10.1", "the number in place of the share", VAIN, "positions - tokens"),
    ("10.1", "in per cent", VAIN, "100 * (1 - tokens / positions)"),
    ("10.1", "the mean of the rounds' shares: short rounds count as much as long ones", VAIN,
     "sum(1 - n / p for p, _, n in schedule) / len(schedule)"),
    ("10.1", "draft steps in vain in place of positions", VAIN, "1 - tokens / sum(steps for _, steps, _ in schedule)"),
    ("10.1", "the share of rounds that emitted less than they scored", VAIN,
     "sum(n < p for p, _, n in schedule) / len(schedule)"),
    ("10.1", "the last round only", VAIN, "1 - schedule[-1][2] / schedule[-1][0]"),
    ("10.1", "rounds without any loss left out", VAIN,
     "1 - sum(n for p, _, n in schedule if n < p) / max(sum(p for p, _, n in schedule if n < p), 1)"),
    ("10.2", "a match ratio of 1 where none is enough", "        return math.inf", "        return 1.0"),
    ("10.2", "only T = 1 cannot break even", NONE, "if lookahead == 1:"),
    ("10.2", "infinite already where the round costs two passes", NONE, "if passes >= 2:"),
    ("10.2", "the target's own pass is free", PASSES, "passes = steps * draft_cost"),
    ("10.2", "T draft steps, whatever is given", PASSES, "passes = 1 + lookahead * draft_cost"),
    ("10.2", "T − 1 draft steps, whatever is given", PASSES, "passes = 1 + (lookahead - 1) * draft_cost"),
    ("10.2", "one draft step a round", PASSES, "passes = 1 + draft_cost"),
    ("10.2", "a bonus token: T + 1 terms", HALVE, "sum(middle**i for i in range(lookahead + 1)) < passes"),
    ("10.2", "the last position is forgotten", HALVE, "sum(middle**i for i in range(lookahead - 1)) < passes"),
    ("10.2", "the certain token is forgotten", HALVE, "sum(middle**i for i in range(1, lookahead)) < passes"),
    ("10.2", "every guess counts m, as if a miss did not end the round", HALVE,
     "1 + (lookahead - 1) * middle < passes"),
    ("10.2", "the wrong half is kept", HALVE, "sum(middle**i for i in range(lookahead)) > passes"),
    ("10.2", "too few halvings", "range(40)", "range(6)"),
    ("10.3", "seconds are compared, though the answers differ in length", SPEED,
     "sum(s for _, s in theirs[1:]) / sum(s for _, s in ours[1:])"),
    ("10.3", "the ratio upside down", SPEED, "speed(theirs) / speed(ours)"),
    ("10.3", "the difference in place of the ratio", SPEED, "speed(ours) - speed(theirs)"),
    ("10.3", "the warm-up is counted", RATE, "sum(t for t, _ in runs) / sum(s for _, s in runs)"),
    ("10.3", "the last run is dropped, not the first", RATE, "sum(t for t, _ in runs[:-1]) / sum(s for _, s in runs[:-1])"),
    ("10.3", "the mean of the runs' speeds: a short answer counts as much as a long one", RATE,
     "sum(t / s for t, s in runs[1:]) / len(runs[1:])"),
    ("10.3", "seconds a token in place of tokens a second", RATE, "sum(s for _, s in runs[1:]) / sum(t for t, _ in runs[1:])"),
    ("10.3", "the quickest run in place of all", RATE, "max(t / s for t, s in runs[1:])"),
    ("10.4", "a fixed T = 3", RULE, "len(confidences) < 2"),
    ("10.4", "the draft's confidence alone", RULE, "not confidences or min(confidences) > 0.8"),
    ("10.4", "it never stops", RULE, "True"),
    ("10.4", "it never guesses", RULE, "False"),
    ("10.4", "longest after a miss", RULE, "len(confidences) < (2 if held[-1:] == [True] else 7)"),
    ("10.1", "the rounds that were given are used up", "    positions = ", "    schedule, given = list(schedule), schedule\n    given.clear()\n    positions = "),
    ("10.2", "just enough is not enough", NONE, "if passes >= lookahead:"),
    ("10.2", "a round of one position never breaks even", NONE, "if passes > lookahead or lookahead == 1:"),
    ("10.2", "a free draft taken for none", NONE, "if passes > lookahead or passes == 1:"),
    ("10.3", "as many runs as the shorter list has", "    def speed(runs):\n", "    n = min(len(ours), len(theirs))\n\n    def speed(runs):\n        runs = runs[:n]\n"),
    ("10.3", "the first runs are taken out of the lists that were given", SPEED, "speed([ours.pop(0), *ours]) / speed([theirs.pop(0), *theirs])"),
]  # fmt: skip
