"""Mistakes in the solution of chapter 15."""

CERTAIN = "(bin_size - n) / bin_size < threshold"
LATER = "max(certain, tail_tokens)"
SETTLED = 'line.scheme == "union" or kept % bin_size == 0 or ended'
RATIO = "good / n < threshold"
DECIDED = "ends or n == bin_size or best < threshold"
ASK = "call(known, 1)"
MINE = "replace(hardened, threshold=0.4)"

MUTANTS = [
    ("15.1", "at the threshold is taken for below it", CERTAIN, "(bin_size - n) / bin_size <= threshold"),
    ("15.1", "the share of matches among the tokens so far", CERTAIN, "(bin_size - n) / n < threshold"),
    ("15.1", "mismatches compared with the threshold", CERTAIN, "n / bin_size >= threshold"),
    ("15.1", "the bin's end is waited for", CERTAIN, "n == bin_size"),
    ("15.1", "one mismatch is an alarm", CERTAIN, "n == 1"),
    ("15.1", "a formula that floats round down", CERTAIN, "n == min(bin_size, int(bin_size * (1 - threshold)) + 1)"),
    ("15.1", "tail_tokens forgotten", LATER, "certain"),
    ("15.1", "tail_tokens waited for in addition", LATER, "certain + tail_tokens - 1"),
    ("15.1", "the smaller of both", LATER, "min(certain, tail_tokens)"),
    ("15.1", "one token too late", LATER, "max(certain, tail_tokens) + 1"),
    ("15.2", "a token is shown as soon as it is decoded", SETTLED, "True"),
    ("15.2", "tokens of Union held back", SETTLED, "kept % bin_size == 0 or ended"),
    ("15.2", "the incomplete last bin never shown", SETTLED, 'line.scheme == "union" or kept % bin_size == 0'),
    ("15.2", "only Union is shown", SETTLED, 'line.scheme == "union" or ended'),
    ("15.2", "nothing before the end", SETTLED, "ended"),
    ("15.2", "the schemes exchanged", SETTLED, 'line.scheme == "intersection" or kept % bin_size == 0 or ended'),
    ("15.2", "bins counted over taken-back tokens, too", SETTLED, 'line.scheme == "union" or (place + 1) % bin_size == 0 or ended'),
    ("15.2", "bins of seven, whatever bin_size", SETTLED, 'line.scheme == "union" or kept % 7 == 0 or ended'),
    ("15.2", "taken-back tokens are counted", "kept += not line.retracted", "kept += 1"),
    ("15.2", "taken-back tokens are counted alone", "kept += not line.retracted", "kept += line.retracted"),
    ("15.2", "a number for each kept token only", "seen.append(shown)", "seen += [shown] * (not line.retracted)"),
    ("15.2", "the number kept, not the number shown", "seen.append(shown)", "seen.append(kept)"),
    ("15.3", "the short bin still divided by the whole size", RATIO, "good / bin_size < threshold"),
    ("15.3", "what the bin lacks counted as matches at its end", RATIO, "best < threshold"),
    ("15.3", "at the threshold is an alarm", RATIO, "good / n <= threshold"),
    ("15.3", "the last bin is not decided at all", DECIDED, "n == bin_size or best < threshold"),
    ("15.3", "the alarm waits for the bin's end", DECIDED, "ends or n == bin_size"),
    ("15.3", "decided after each token", DECIDED, "True"),
    ("15.3", "a bin of Union taken back", "not union and decided", "decided"),
    ("15.3", "the whole bin, though it has fewer tokens", "        return n\n", "        return bin_size\n"),
    ("15.4", "whole bins are asked for", ASK, "call(known, 7)"),
    ("15.4", "as many tokens as are decided", ASK, "call(known, 3)"),
    ("15.4", "the last piece alone is returned", "return known", "return call(known, 1)"),
    ("15.4", "a single call", "range(21)", "range(1)"),
    ("15.4", "what was got is not appended", "range(21):\n        known += " + ASK, "range(2):\n        " + ASK),
    ("15.4", "the facts are written by the attacker", "known += " + ASK, "known += " + ASK + ' + " and"'),
    ("15.5", "the published settings: nothing is taken back", MINE, "pair.config"),
    ("15.5", "hardened SSD as it is", MINE, "hardened"),
    ("15.5", "the threshold lowered, `retract` forgotten", MINE, "replace(hardened, threshold=0.4, retract=False)"),
    ("15.1", "a bin of one token is never taken back", "range(1, bin_size + 1)", "range(1, bin_size)"),
    ("15.1", "always a threshold of 0.6", CERTAIN, "(bin_size - n) / bin_size < 0.6"),
    ("15.2", "shown one line too late", "seen.append(shown)", "seen.append(seen[-1] if seen and not ended else shown)"),
    ("15.3", "a bin's first token is never an alarm", DECIDED, "ends or n == bin_size or (best < threshold and n > 1)"),
    ("15.3", "always bins of seven", "    n, good = ", "    bin_size = 7\n    n, good = "),
    ("15.3", "the matches that were given are used up", "sum(matches)\n", "sum(matches.pop() for _ in range(len(matches)))\n"),
    ("15.3", "only the mismatches are taken back", "        return n\n", "        return n - good\n"),
]  # fmt: skip
