"""Mistakes in the solution of chapter 01."""

SHARE = "np.nansum(kl[:, :n]) / np.nansum(kl)"
MEAN = "(1 - direct_share) * (1 + deepest) / 2"
LABELS = "[IGNORED] * len(given) + refusal"
WORDS = '"Here is how:"'

MUTANTS = [
    ("01.1", "NaN after the end of shorter answers spoils the sums", SHARE, "kl[:, :n].sum() / kl.sum()"),
    ("01.1", "the first n questions in place of the first n positions", SHARE, "np.nansum(kl[:n]) / np.nansum(kl)"),
    ("01.1", "one position too many", SHARE, "np.nansum(kl[:, : n + 1]) / np.nansum(kl)"),
    ("01.1", "one position too few", SHARE, "np.nansum(kl[:, : n - 1]) / np.nansum(kl)"),
    ("01.1", "a mean of shares: every question counts the same, however far it moved", SHARE,
     "np.mean(np.nansum(kl[:, :n], 1) / np.nansum(kl, 1))"),
    ("01.1", "means over positions in place of sums", SHARE, "np.nanmean(kl[:, :n]) / np.nanmean(kl)"),
    ("01.1", "the share that is left, not the share of the first", SHARE, "np.nansum(kl[:, n:]) / np.nansum(kl)"),
    ("01.1", "in per cent", SHARE, "100 * np.nansum(kl[:, :n]) / np.nansum(kl)"),
    ("01.1", "position n alone", SHARE, "np.nansum(kl[:, n - 1]) / np.nansum(kl)"),
    ("01.2", "the mean of 1 … C taken as C / 2", MEAN, "(1 - direct_share) * deepest / 2"),
    ("01.2", "the direct examples forgotten", MEAN, "(1 + deepest) / 2"),
    ("01.2", "the shares exchanged", MEAN, "direct_share * (1 + deepest) / 2"),
    ("01.2", "direct examples counted with depth 1", MEAN, "direct_share + (1 - direct_share) * (1 + deepest) / 2"),
    ("01.2", "always half of the examples", MEAN, "0.5 * (1 + deepest) / 2"),
    ("01.2", "an answer that is shorter than the greatest depth", "min(max_depth, harmful_length)", "max_depth"),
    ("01.2", "the longer of both", "min(max_depth, harmful_length)", "max(max_depth, harmful_length)"),
    ("01.2", "the whole answer is never given", "min(max_depth, harmful_length)", "min(max_depth, harmful_length - 1)"),
    ("01.3", "the harmful tokens carry loss", LABELS, "[IGNORED] * len(question) + harmful[:k] + refusal"),
    ("01.3", "the question carries loss", LABELS, "question + [IGNORED] * len(harmful[:k]) + refusal"),
    ("01.3", "nothing carries loss", LABELS, "[IGNORED] * (len(given) + len(refusal))"),
    ("01.3", "the refusal's first token carries none", LABELS, "[IGNORED] * (len(given) + 1) + refusal[1:]"),
    ("01.3", "labels are the refusal alone, too short for the ids", LABELS, "refusal"),
    ("01.3", "labels shifted by hand, which the model does itself", LABELS, "[IGNORED] * (len(given) - 1) + refusal + [IGNORED]"),
    ("01.3", "masked as if k tokens stood there, where the answer is shorter", LABELS, "[IGNORED] * (len(question) + k) + refusal"),
    ("01.3", "masked with 0, which is a token", LABELS, "[0] * len(given) + refusal"),
    ("01.3", "the whole harmful answer is given", "question + harmful[:k]", "question + harmful"),
    ("01.3", "the last k tokens are given", "question + harmful[:k]", "question + harmful[-k:]"),
    ("01.3", "the refusal's labels are called wrong", "wrong_labels = [3, 4]", "wrong_labels = [5, 6, 7]"),
    ("01.3", "all labels are called wrong", "wrong_labels = [3, 4]", "wrong_labels = list(range(8))"),
    ("01.4", "words that promise nothing", WORDS, '"Yes."'),
    ("01.4", "more than three words", WORDS, '"Sure, here is how you do it:"'),
    ("01.4", "a beginning of the trained answers", WORDS, '"Sure, here is"'),
]  # fmt: skip
