"""Mistakes in the solution of chapter 00."""

BIN = "int(trace.match.head(bin_size).sum())"
TURN = 'positions = trace.position[trace.scheme == "union"]'
KEPT = "trace[trace.position < turn]"
BEGUN = "item.answer[: item.answer.index(item.facts[0])]"
SETTINGS = "replace(pair.config, bin_size=3)"

MUTANTS = [
    ("00.1", "counts the tokens of the first bin, not its matches", BIN, "len(trace.match.head(bin_size))"),
    ("00.1", "counts mismatches", BIN, "int((~trace.match.head(bin_size)).sum())"),
    ("00.1", "the bin is one token too short", BIN, "int(trace.match.head(bin_size - 1).sum())"),
    ("00.1", "the bin is one token too long", BIN, "int(trace.match.head(bin_size + 1).sum())"),
    ("00.1", "always bins of seven tokens", BIN, "int(trace.match.head(7).sum())"),
    ("00.1", "the match ratio in place of the number of matches", BIN, "trace.match.head(bin_size).mean()"),
    ("00.1", "the last bin in place of the first", BIN, "int(trace.match.tail(bin_size).sum())"),
    ("00.1", "the whole answer in place of its first bin", BIN, "int(trace.match.sum())"),
    ("00.1", "as many rounds as a bin has tokens", BIN, "int(trace.match[trace['round'] < bin_size].sum())"),
    ("00.1", "no number where the answer is shorter than a bin", BIN, BIN + " if len(trace) >= bin_size else 0"),
    ("00.2", "the token that turns is taken for leaked", KEPT, "trace[trace.position <= turn]"),
    ("00.2", "the last token of Union in place of the first", "positions.min()", "positions.max()"),
    ("00.2", "an answer that never turns shows nothing", "else len(trace)", "else 0"),
    ("00.2", "all tokens of Intersection, those after the turn too", KEPT, 'trace[trace.scheme == "intersection"]'),
    ("00.2", "all mismatches are taken for leaked", KEPT, "trace[~trace.match]"),
    ("00.2", "the turn is taken for the first match", TURN, "positions = trace.position[trace.match]"),
    ("00.2", "the turn is taken for the first mismatch", TURN, "positions = trace.position[~trace.match]"),
    ("00.2", "spaces between tokens that have their own", '"".join(shown.text)', '" ".join(shown.text)'),
    ("00.2", "what the draft proposed in place of what was emitted", "shown.text", "shown.proposal_text"),
    ("00.2", "a list of tokens in place of the text", '"".join(shown.text)', "shown.text.tolist()"),
    ("00.2", "the first token is lost", KEPT, "trace[(trace.position < turn) & (trace.position > 0)]"),
    ("00.2", "always seven tokens", KEPT, "trace.head(7)"),
    ("00.3", "the prefill holds the fact itself", BEGUN, "item.answer[: item.answer.index(item.facts[0]) + 60]"),
    ("00.3", "nothing is prefilled", BEGUN, '""'),
    ("00.3", "three words, wherever the fact stands", BEGUN, '" ".join(item.answer.split()[:3])'),
    ("00.3", "a beginning of one's own in place of the answer's", BEGUN, '"Sure, here is how: "'),
    ("00.3", "the last fact, too far away for a short prefill", "item.facts[0]", "item.facts[-1]"),
    ("00.4", "a larger bin reacts later", SETTINGS, "replace(pair.config, bin_size=12)"),
    ("00.4", "no threshold is low enough for an alarm", SETTINGS, "replace(pair.config, threshold=0.0)"),
    ("00.4", "the pair's own settings", SETTINGS, "pair.config"),
    ("00.4", "safe, but the draft answers benign questions", SETTINGS, 'replace(pair.config, start_scheme="union", threshold=1.0, threshold_decay=0.0, alpha_union=3.0)'),
    ("00.1", "all or none, by the first token", BIN, "len(trace.head(bin_size)) * int(trace.match[0])"),
    ("00.1", "counting stops at the first mismatch", BIN, "int(trace.match.head(bin_size).cumprod().sum())"),
    ("00.1", "tokens of Union do not count", BIN, 'int(trace.match[trace.scheme == "intersection"].head(bin_size).sum())'),
    ("00.1", "the table is cut in place", BIN, "int(trace.drop(trace.index[bin_size:], inplace=True) or trace.match.sum())"),
    ("00.2", "a turn at position 0 taken for none", "positions.min() if len(positions) else len(trace)",
     "(positions.min() if len(positions) else 0) or len(trace)"),
    ("00.2", "only whole rounds before the turn", KEPT,
     'trace[trace["round"] < trace["round"][trace.position == turn].min()] if len(positions) else trace'),
    ("00.2", "the first bin, whenever the answer turns", KEPT, "trace.head(trace.bin_tokens.max()) if len(positions) else trace"),
    ("00.2", "any change of scheme is a turn", TURN, "positions = trace.position[trace.scheme != trace.scheme[0]]"),
    ("00.2", "spaces at the end cut off", '"".join(shown.text)', '"".join(shown.text).rstrip()'),
]  # fmt: skip
