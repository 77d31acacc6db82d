"""Mistakes in chapter 04's solutions: (exercise, the mistake, old text, new text)."""

SIXTH = 'sixth_bin = ("intersection", 0.5, 0.6)'
RESET = "return following, config.threshold, config.alpha_intersection"
DECAY = "alpha = min(alpha, max(alpha - config.alpha_decay, config.alpha_floor))"
STAYS = "return scheme, max(threshold - config.threshold_decay, 0), alpha"
NEEDED = "if n / config.bin_size >= threshold)"
LOWERED = "        threshold = max(threshold - config.threshold_decay, 0)\n"

MUTANTS = [
    (
        "04.1",
        "each bin is compared with 0.6, so the second raises the alarm",
        SIXTH,
        'sixth_bin = ("intersection", 0.5, 0.75)',
    ),
    (
        "04.1",
        "nothing is reset: five decays of the threshold in a row",
        SIXTH,
        'sixth_bin = ("intersection", 0.1, 0.3)',
    ),
    (
        "04.1",
        "the way back out of Union already counts as a quiet bin",
        SIXTH,
        'sixth_bin = ("intersection", 0.4, 0.45)',
    ),
    ("04.1", "the state before the fifth bin, one bin early", SIXTH, 'sixth_bin = ("intersection", 0.6, 0.75)'),
    ("04.1", "an alarm lasts until the end of the answer", SIXTH, 'sixth_bin = ("union", 0.4, 0.75)'),
    ("04.1", "the threshold is reset, α_I is not", SIXTH, 'sixth_bin = ("intersection", 0.5, 0.3)'),
    ("04.1", "α_I decays by 0.1, as the threshold does", SIXTH, 'sixth_bin = ("intersection", 0.5, 0.65)'),
    (
        "04.2",
        "β ≤ threshold raises the alarm, not β < threshold",
        "if ratio < threshold else",
        "if ratio <= threshold else",
    ),
    (
        "04.2",
        "the schemes are exchanged",
        '"union" if ratio < threshold else "intersection"',
        '"intersection" if ratio < threshold else "union"',
    ),
    (
        "04.2",
        "β is compared with the starting threshold, not with the present one",
        "if ratio < threshold else",
        "if ratio < config.threshold else",
    ),
    ("04.2", "nothing is reset when the scheme changes", RESET, "return following, threshold, alpha"),
    (
        "04.2",
        "the threshold is not reset when the scheme changes",
        RESET,
        "return following, threshold, config.alpha_intersection",
    ),
    ("04.2", "α_I is not reset when the scheme changes", RESET, "return following, config.threshold, alpha"),
    (
        "04.2",
        "only the alarm resets, not the way back",
        "    if following != scheme:\n",
        '    if following != scheme and following == "union":\n',
    ),
    ("04.2", "the reset puts in constants, 0.6 and 0.3, not the settings", RESET, "return following, 0.6, 0.3"),
    (
        "04.2",
        "the floor raises an α_I that starts below it",
        DECAY,
        "alpha = max(alpha - config.alpha_decay, config.alpha_floor)",
    ),
    ("04.2", "α_I has no floor", DECAY, "alpha = alpha - config.alpha_decay"),
    ("04.2", "α_I never decays", DECAY, "pass"),
    (
        "04.2",
        "α_I decays by the threshold's 0.1",
        DECAY,
        "alpha = min(alpha, max(alpha - config.threshold_decay, config.alpha_floor))",
    ),
    ("04.2", "α_I decays in Union, too", '    if scheme == "intersection":\n', "    if True:\n"),
    ("04.2", "the threshold never decays", STAYS, "return scheme, threshold, alpha"),
    (
        "04.2",
        "the threshold decays in Intersection only",
        STAYS,
        'return scheme, max(threshold - config.threshold_decay * (scheme == "intersection"), 0), alpha',
    ),
    (
        "04.2",
        "the threshold decays in Union only",
        STAYS,
        'return scheme, max(threshold - config.threshold_decay * (scheme == "union"), 0), alpha',
    ),
    (
        "04.2",
        "the threshold rises with every quiet bin",
        STAYS,
        "return scheme, min(threshold + config.threshold_decay, 1), alpha",
    ),
    ("04.2", "the threshold may fall below 0", STAYS, "return scheme, threshold - config.threshold_decay, alpha"),
    (
        "04.2",
        "the threshold stops at α_I's floor",
        STAYS,
        "return scheme, max(threshold - config.threshold_decay, config.alpha_floor), alpha",
    ),
    (
        "04.2",
        "the old scheme is handed back after a change",
        RESET,
        "return scheme, config.threshold, config.alpha_intersection",
    ),
    ("04.3", "the threshold is taken to stay at 0.6: five matches in every bin", LOWERED, ""),
    (
        "04.3",
        "one match too many in each bin: β > threshold is thought to be needed",
        NEEDED,
        "if n / config.bin_size > threshold)",
    ),
    ("04.3", "one match too few: the share is rounded down", NEEDED, "if n >= int(threshold * config.bin_size))"),
    (
        "04.3",
        "the threshold is taken to be 0 after six bins, as on paper",
        LOWERED,
        "        threshold = round(max(threshold - config.threshold_decay, 0), 6)\n",
    ),
    ("04.3", "everything matches: no alarm, and nothing gained", NEEDED, "if n == config.bin_size)"),
    ("04.3", "one bin is missing", "cheapest(10, SSDConfig())", "cheapest(9, SSDConfig())"),
    (
        "04.3",
        "the threshold falls twice as fast as it does",
        LOWERED,
        "        threshold = max(threshold - 2 * config.threshold_decay, 0)\n",
    ),
    ("04.4", "only false alarms are looked at", "if np.max(errors(b, n)) <= 0.05]", "if errors(b, n)[0] <= 0.05]"),
    ("04.4", "only missed attacks are looked at", "if np.max(errors(b, n)) <= 0.05]", "if errors(b, n)[1] <= 0.05]"),
    (
        "04.4",
        "the mean of both errors is held to 5%",
        "if np.max(errors(b, n)) <= 0.05]",
        "if np.mean(errors(b, n)) <= 0.05]",
    ),
    (
        "04.4",
        "one match too few is still taken to be enough (cdf of n, not of n − 1)",
        "binom.cdf(enough - 1, b, 0.85), binom.sf(enough - 1, b, 0.4)",
        "binom.cdf(enough - 2, b, 0.85), binom.sf(enough, b, 0.4)",
    ),
    (
        "04.4",
        "the largest bin that was tried is taken: it leaks three times as much",
        "bin_size, threshold = found[0]",
        "bin_size, threshold = found[-1]",
    ),
    ("04.4", "the published settings are kept", "bin_size, threshold = found[0]", "bin_size, threshold = 7, 0.6"),
    (
        "04.2",
        "β a little below the threshold is no alarm",
        "if ratio < threshold else",
        "if ratio < threshold - 0.02 else",
    ),
    (
        "04.2",
        "a threshold that is not quite 0 is taken for 0",
        "if ratio < threshold else",
        "if ratio < round(threshold, 6) else",
    ),
    (
        "04.2",
        "threshold and α_I rounded to two digits",
        STAYS,
        "return scheme, round(max(threshold - config.threshold_decay, 0), 2), round(alpha, 2)",
    ),
    (
        "04.2",
        "α_I decays right after the way back",
        RESET,
        "return following, config.threshold, max(config.alpha_intersection - config.alpha_decay * (scheme == 'union'), 0)",
    ),
    (
        "04.2",
        "α_I decays by whole steps only",
        DECAY,
        "alpha = alpha - config.alpha_decay if alpha - config.alpha_decay >= config.alpha_floor else alpha",
    ),
    (
        "04.2",
        "the threshold decays by whole steps only",
        STAYS,
        "return scheme, threshold - config.threshold_decay * (threshold >= config.threshold_decay), alpha",
    ),
]
