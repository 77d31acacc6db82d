"""Mistakes in the solution of chapter 13."""

LOWER = "max(threshold - decay, floor)"
QUIET = "matches / bin_size < threshold"
NEVER = "lower == threshold"
CHANCE = "1 - comb(tries - c, n) / comb(tries, n)"
ALARM = "sum(running) / bin_size < threshold"
HANDED = "pair.tokenizer.decode(ids[:6])"
MINE = "replace(pair.config, threshold_floor=0.2)"

MUTANTS = [
    ("13.1", "the floor forgotten", LOWER, "max(threshold - decay, 0)"),
    ("13.1", "the lower of both", LOWER, "min(threshold - decay, floor)"),
    ("13.1", "counted as on paper, not in floats", LOWER, "round(max(threshold - decay, floor), 6)"),
    ("13.1", "the threshold halves", LOWER, "max(threshold / 2, floor)"),
    ("13.1", "β at the threshold is an alarm", QUIET, "matches / bin_size <= threshold"),
    ("13.1", "a bin without any match", QUIET, "0 < threshold"),
    ("13.1", "matches, not their share", QUIET, "matches < threshold"),
    ("13.1", "bins in place of tokens", "return bin_size * bins", "return bins"),
    ("13.1", "the bin itself counted as well", "return bin_size * bins", "return bin_size * (bins + 1)"),
    ("13.1", "a number where nothing ever passes", "return None", "return bin_size * bins"),
    ("13.2", "tries drawn with replacement", CHANCE, "1 - (1 - c / tries) ** n"),
    ("13.2", "n times the rate of one try", CHANCE, "min(1, n * c / tries)"),
    ("13.2", "the rate of one try", CHANCE, "c / tries"),
    ("13.2", "the chance that no try leaks", CHANCE, "comb(tries - c, n) / comb(tries, n)"),
    ("13.2", "the chance that all tries leak", CHANCE, "comb(c, n) / comb(tries, n)"),
    ("13.2", "any of all tries, whatever n", CHANCE, "float(c > 0)"),
    ("13.2", "questions summed, not averaged", "np.mean(chances)", "np.sum(chances)"),
    ("13.2", "the median question", "np.mean(chances)", "np.median(chances)"),
    ("13.2", "leaks counted over questions, not over tries", "leaks.sum(axis=1)", "leaks.sum(axis=0)"),
    ("13.3", "the running bin is forgotten between calls", "    union, schemes, running = False, [], []\n    for matches in calls:\n",
     "    union, schemes = False, []\n    for matches in calls:\n        running = []\n"),
    ("13.3", "the scheme is forgotten between calls", "        schemes.append(union)\n", "        schemes.append(union)\n        union = False\n"),
    ("13.3", "the scheme after the call", "        schemes.append(union)\n        for match in matches:\n            running.append(match)\n",
     "        for match in matches:\n            running.append(match)\n        schemes.append(union)\n        for match in []:\n"),
    ("13.3", "at the threshold is an alarm", ALARM, "sum(running) / bin_size <= threshold"),
    ("13.3", "the last b tokens again and again, no bins", "                running = []\n", "                running = running[1:]\n"),
    ("13.3", "once in Union, always in Union", ALARM, "union or sum(running) / bin_size < threshold"),
    ("13.3", "decided at each call's end", "if len(running) == bin_size:", "if len(running) >= min(bin_size, len(matches)):"),
    ("13.4", "all of it, which counts as a bin", HANDED, "begin"),
    ("13.4", "nothing", HANDED, '""'),
    ("13.4", "a whole bin, which counts", HANDED, "pair.tokenizer.decode(ids[:7])"),
    ("13.4", "too little for the answer to come soon", HANDED, "pair.tokenizer.decode(ids[:2])"),
    ("13.4", "words of one's own", HANDED, '"Sure, here is how:"'),
    ("13.5", "as published", MINE, "pair.config"),
    ("13.5", "a floor below one match in seven", MINE, "replace(pair.config, threshold_floor=0.1)"),
    ("13.5", "always Union", MINE, 'replace(pair.config, fixed_scheme="union")'),
    ("13.5", "a start in Union, the decay left as it is", MINE, 'replace(pair.config, start_scheme="union")'),
    ("13.5", "a threshold that sends harmless bins to Union", MINE, "replace(pair.config, threshold=1.0, threshold_floor=1.0)"),
    ("13.1", "never more than ten bins", "    while matches / bin_size < threshold:\n", "    while matches / bin_size < threshold:\n        if bins > 10:\n            return None\n"),
    ("13.2", "no number where no try leaks", "np.mean(chances)", "np.mean(chances) * (leaks.sum() / leaks.sum() if not leaks.any() else 1)"),
    ("13.2", "questions that never leak left out", "for c in leaks.sum(axis=1).tolist()]", "for c in leaks.sum(axis=1).tolist() if c or not leaks.any()]"),
    ("13.2", "the table that was given is sorted", "    tries = leaks", "    leaks.sort(axis=1)\n    tries = leaks"),
    ("13.3", "always a threshold of 0.6", ALARM, "sum(running) / bin_size < 0.6"),
    ("13.3", "a call without a token is left out", "        schemes.append(union)\n", "        if not matches:\n            continue\n        schemes.append(union)\n"),
    ("13.3", "the calls that were given are used up", "        for match in matches:\n", "        for match in iter(lambda: matches.pop(0) if matches else None, None):\n"),
]  # fmt: skip
