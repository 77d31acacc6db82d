"""Mistakes in the solution of chapter 07."""

ENOUGH = "np.mean(harmless > value) <= share"
CAUGHT = "np.mean(attacked > threshold)"
FIRST = "max(space, key=lambda token: target[token])"
GAIN = "(expert[token] - target[token]) - (expert[first] - target[first])"
CROSSING = "(target[first] - target[token]) / gain"
HALF = "2 * sum(refused) >= len(refused)"
WITH = "if no == refuse"
GATE = "opinion if refuses(opinion.text) else reply"

MUTANTS = [
    ("07.1", "no threshold below the median", ENOUGH, "np.mean(harmless > value) < share + 1e-9 and value > np.median(harmless)"),
    ("07.1", "refused already at the threshold", ENOUGH, "np.mean(harmless >= value) <= share"),
    ("07.1", "the share that passes in place of the share refused", ENOUGH, "np.mean(harmless <= value) >= share"),
    ("07.1", "fitted on the attacked questions", ENOUGH, "np.mean(attacked > value) <= share"),
    ("07.1", "a number of questions in place of a share", ENOUGH, "np.sum(harmless > value) <= share"),
    ("07.1", "the largest threshold that will do, which refuses least", "threshold = min(", "threshold = max("),
    ("07.1", "the share of the attacked ones that passes", CAUGHT, "np.mean(attacked <= threshold)"),
    ("07.1", "a number in place of the share of the attacked", CAUGHT, "np.sum(attacked > threshold)"),
    ("07.1", "attacked questions at the threshold are refused, too", CAUGHT, "np.mean(attacked >= threshold)"),
    ("07.1", "the harmless questions' share in place of the attacked ones'", CAUGHT, "np.mean(harmless > threshold)"),
    ("07.2", "the target's favourite of the whole vocabulary, not of V", FIRST, "int(np.argmax(target))"),
    ("07.2", "the expert's favourite as the one to beat", FIRST, "max(space, key=lambda token: expert[token])"),
    ("07.2", "the favourite's own change forgotten", GAIN, "expert[token] - target[token]"),
    ("07.2", "the experts' probabilities compared, not the differences", GAIN, "expert[token] - expert[first]"),
    ("07.2", "the sign of the change", GAIN, "(target[token] - expert[token]) - (target[first] - expert[first])"),
    ("07.2", "a mean of the two, (1 − α) forgotten", CROSSING, "(target[first] - target[token]) / max(expert[token], 1e-9)"),
    ("07.2", "the crossing upside down", CROSSING, "gain / max(target[first] - target[token], 1e-9)"),
    ("07.2", "the last token to cross, not the first", "min(crossings, default", "max(crossings, default"),
    ("07.2", "0 where no token ever takes the lead", "default=math.inf", "default=0.0"),
    ("07.2", "tokens outside of V take the lead", "for token in space:", "for token in range(len(target)):"),
    ("07.2", "it stops at the published α = 3", "return min(crossings, default=math.inf)", "return min(3.0, min(crossings, default=math.inf))"),
    ("07.3", "half of an odd number, rounded down", HALF, "sum(refused) >= len(refused) // 2"),
    ("07.3", "a refusal needs more than half", HALF, "2 * sum(refused) > len(refused)"),
    ("07.3", "a single refusal is enough", HALF, "any(refused)"),
    ("07.3", "all have to refuse", HALF, "all(refused)"),
    ("07.3", "half of an odd number, to the nearest even one", HALF, "sum(refused) >= round(len(refused) / 2 - 0.1)"),
    ("07.3", "an answer of the minority", WITH, "if no != refuse"),
    ("07.3", "always the first copy's answer", WITH, "if True"),
    ("07.3", "the last of the majority in place of the first", "zip(answers, refused, strict=True)", "zip(answers[::-1], refused[::-1], strict=True)"),
    ("07.4", "the draft is asked, but nothing follows from it", GATE, "reply"),
    ("07.4", "the two answers exchanged", GATE, "reply if refuses(opinion.text) else opinion"),
    ("07.4", "what is prefilled is thrown away, and no question is checked", "return [opinion if",
     "return DEFENDERS['none'].run(pair, bare, None) or [opinion if"),
    ("07.4", "the draft is trusted when it does not refuse", GATE, "reply if refuses(reply.text) else opinion"),
    ("07.4", "everything is refused", GATE, "opinions[0]"),
    ("07.1", "the smallest value is no threshold", "for value in harmless if", "for value in np.sort(harmless)[min(1, len(harmless) - 1) :] if"),
    ("07.1", "equal values are counted once", ENOUGH, "np.mean(np.unique(harmless) > value) <= share"),
    ("07.1", "an interpolated quantile", "threshold = min(", "threshold = np.quantile(harmless, 1 - share); _ = min("),
    ("07.1", "the values that were given are sorted in place", "    threshold = min(", "    harmless.sort()\n    threshold = min("),
    ("07.2", "a V of one token is an error", "    crossings = []\n", "    _, _ = sorted(space)[:2]\n    crossings = []\n"),
    ("07.2", "beyond α = 10 counts as never", "return min(crossings, default=math.inf)", "return min([each for each in crossings if each < 10], default=math.inf)"),
    ("07.2", "the favourite is taken out of the V that was given", "    crossings = []\n", "    space.remove(first)\n    crossings = []\n"),
    ("07.2", "a second favourite is no rival", "        if gain > 0:\n", "        if gain > 0 and target[token] < target[first]:\n"),
    ("07.3", "right up to five copies", HALF, "sum(refused) >= {1: 1, 2: 1, 3: 2, 4: 2, 5: 3}.get(len(refused), 3)"),
    ("07.3", "the first answer of the majority by the alphabet", "return next(text for", "return min(text for"),
    ("07.3", "the answers that were given are used up", "    return next(", "    while refused[0] != refuse:\n        answers.pop(0), refused.pop(0)\n    return next("),
]  # fmt: skip
