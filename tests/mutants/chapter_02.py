"""Mistakes in the solution of chapter 02."""

AVERAGE = "1 + 0.8 + 0.8**2"
SECONDS = "lookahead * d + v[lookahead]"
COUNT = "sum(beta**t for t in range(lookahead))"
ALONE = "return best if speed(best) > 1 / v[1] else 0"
EMITS = "accepted + (1 - accepted.sum()) * p"
GROW = "return min(16, 2 * last)"
SHRINK = "return max(2, accepted + 1)"

MUTANTS = [
    ("02.1", "a bonus token after the last position", AVERAGE, "1 + 0.8 + 0.8**2 + 0.8**3"),
    ("02.1", "accepted proposals in place of emitted tokens", AVERAGE, "0.8 + 0.8**2 + 0.8**3"),
    ("02.1", "T times β", AVERAGE, "3 * 0.8"),
    ("02.1", "positions taken as independent: none has to be reached", AVERAGE, "1 + 2 * 0.8"),
    ("02.1", "the limit for long rounds", AVERAGE, "1 / (1 - 0.8)"),
    ("02.1", "rounds in which all are accepted", AVERAGE, "0.8**3"),
    ("02.2", "T − 1 draft forwards a round", SECONDS, "(lookahead - 1) * d + v[lookahead]"),
    ("02.2", "one draft forward a round", SECONDS, "d + v[lookahead]"),
    ("02.2", "draft forwards cost nothing", SECONDS, "v[lookahead]"),
    ("02.2", "the target takes as long over T positions as over one", SECONDS, "lookahead * d + v[1]"),
    ("02.2", "the target reads its positions one by one", SECONDS, "lookahead * (d + v[1])"),
    ("02.2", "T + 1 tokens where all are accepted", COUNT, "sum(beta**t for t in range(lookahead + 1))"),
    ("02.2", "every position emits a token", COUNT, "lookahead"),
    ("02.2", "β = 1 divides by zero", COUNT, "(1 - beta**lookahead) / (1 - beta)"),
    ("02.2", "speculates where the target alone is quicker", ALONE, "return best"),
    ("02.2", "compares with a speculating round of one", ALONE, "return best if speed(best) > speed(1) else 0"),
    ("02.2", "the speed, not the T", ALONE, "return speed(best) if speed(best) > 1 / v[1] else 0"),
    ("02.2", "the longest is left out", "best = max(v, key=speed)", "best = max(list(v)[:-1], key=speed)"),
    ("02.2", "T = 1 where the target alone is quicker", ALONE, "return best if speed(best) > 1 / v[1] else 1"),
    ("02.3", "what the right sampler emits", EMITS, "p"),
    ("02.3", "corrections as from the draft", EMITS, "accepted + (1 - accepted.sum()) * q"),
    ("02.3", "accepted mass and no corrections", EMITS, "accepted"),
    ("02.3", "accepted mass made to sum to 1", EMITS, "accepted / accepted.sum()"),
    ("02.3", "corrections come with the acceptance's probability", EMITS, "accepted + accepted.sum() * p"),
    ("02.3", "half and half", EMITS, "(p + q) / 2"),
    ("02.3", "a token's own rejection in place of any", EMITS, "accepted + (q - accepted) * p / ((q - accepted) * p).sum() * (1 - accepted.sum())"),
    ("02.3", "acceptance takes the larger of both", "torch.minimum(p, q)", "torch.maximum(p, q)"),
    ("02.4", "always the published T", GROW, "return 3"),
    ("02.4", "never longer than two", GROW, "return 2"),
    ("02.4", "as long as it gets, whatever happens", SHRINK, "return 16"),
    ("02.4", "grows after a rejection, too", SHRINK, "return min(16, last + 1)"),
    ("02.4", "as many as were accepted last, which may be none", SHRINK, "return accepted"),
    ("02.4", "the other way round: short after success", GROW, "return max(1, last // 2)"),
    ("02.4", "grows without an end", GROW, "return 2 * last"),
    ("02.2", "speculates where the target alone is as quick", ALONE, "return best if speed(best) >= 1 / v[1] else 0"),
    ("02.2", "the costs that were given lose their first line", ALONE, "return best if speed(best) > 1 / v.pop(1) else 0"),
    ("02.3", "0 / 0 where neither has a token", "torch.minimum(p, q)", "q * (p / q).clamp(max=1)"),
    ("02.3", "corrections only where p leaves no token out", EMITS, "accepted + (1 - accepted.sum()) * p if p.min() > 0 else p"),
]  # fmt: skip
