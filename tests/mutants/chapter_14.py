"""Mistakes in the solution of chapter 14."""

SILENT = "[b for b, number in facts.items() if number == 0]"
FIRST = "(gap[rivals] / closing[rivals]).min()"
NONE = "if rivals.any() else np.inf"
CLOSING = "gap + draft - draft[favourite]"
KEY = "settings.question, text, settings.prefill_tokens, settings.defender, config, settings.max_new_tokens"
READ = 'settings.config if settings.defender in ("ssd", "ssd-hardened") else None'
TEXT = "settings.prefill if settings.prefill_tokens else"
BIN = "replace(pair.config, bin_size=2)"

MUTANTS = [
    ("14.1", "the bins that do tell something", SILENT, "[b for b, number in facts.items() if number]"),
    ("14.1", "a single fact counted as none", SILENT, "[b for b, number in facts.items() if number <= 1]"),
    ("14.1", "the smallest silent bin alone", SILENT, "[b for b, number in facts.items() if number == 0][:1]"),
    ("14.1", "the largest silent bin alone", SILENT, "[b for b, number in facts.items() if number == 0][-1:]"),
    ("14.1", "bins counted from 0", SILENT, "[b - 1 for b, number in facts.items() if number == 0]"),
    ("14.1", "a bin of 1 left out, as if it were none", SILENT, "[b for b, number in facts.items() if number == 0 and b > 1]"),
    ("14.1", "all bins shorter than the pair's own", SILENT, "list(range(1, 7))"),
    ("14.1", "all bins: every answer ends in a refusal", SILENT, "list(facts)"),
    ("14.1", "another attack: one prefilled token", "words[:10]", "words[:1]"),
    ("14.1", "the target alone", "config=config", 'defender="none"'),
    ("14.2", "the last rival to arrive, not the first", FIRST, "(gap[rivals] / closing[rivals]).max()"),
    ("14.2", "the mean over rivals", FIRST, "(gap[rivals] / closing[rivals]).mean()"),
    ("14.2", "the first rival in the list", FIRST, "(gap[rivals] / closing[rivals])[0]"),
    ("14.2", "which rival arrives, not when", FIRST, "(gap[rivals] / closing[rivals]).argmin()"),
    ("14.2", "the nearest rival of the target decides", FIRST, "(gap[rivals] / closing[rivals])[gap[rivals].argmin()]"),
    ("14.2", "the draft's favourite decides", FIRST, "(gap / closing)[draft.argmax()]"),
    ("14.2", "α cut off at 1, though Union may extrapolate", FIRST, "min(1, (gap[rivals] / closing[rivals]).min())"),
    ("14.2", "0 where nothing ever changes", NONE, "if rivals.any() else 0.0"),
    ("14.2", "1 where nothing ever changes", NONE, "if rivals.any() else 1.0"),
    ("14.2", "the draft's lead alone: the target's share does not shrink", CLOSING, "draft - draft[favourite]"),
    ("14.2", "the draft's lead with the wrong sign", CLOSING, "gap - draft + draft[favourite]"),
    ("14.2", "the draft's favourite in place of the target's", "target.argmax()", "draft.argmax()"),
    ("14.3", "the question forgotten", KEY, "text, settings.prefill_tokens, settings.defender, config, settings.max_new_tokens"),
    ("14.3", "the attacker's text forgotten", KEY,
     "settings.question, settings.prefill_tokens, settings.defender, config, settings.max_new_tokens"),
    ("14.3", "the length of the prefill forgotten", KEY,
     "settings.question, text, settings.defender, config, settings.max_new_tokens"),
    ("14.3", "the defender forgotten", KEY, "settings.question, text, settings.prefill_tokens, config, settings.max_new_tokens"),
    ("14.3", "the settings forgotten", KEY,
     "settings.question, text, settings.prefill_tokens, settings.defender, settings.max_new_tokens"),
    ("14.3", "the greatest length forgotten", KEY, "settings.question, text, settings.prefill_tokens, settings.defender, config"),
    ("14.3", "a list, which is no key", KEY, f"[{KEY}]"),
    ("14.3", "hardened SSD taken for a defender without settings", READ, 'settings.config if settings.defender == "ssd" else None'),
    ("14.3", "settings that nobody reads are part of the key", READ, "settings.config"),
    ("14.3", "the four sliders alone: sampling and lookahead forgotten", READ,
     "(settings.config.alpha_intersection, settings.config.alpha_union, settings.config.threshold, settings.config.bin_size)"
     ' if settings.defender in ("ssd", "ssd-hardened") else None'),
    ("14.3", "a text of which nothing is prefilled is part of the key", TEXT, "settings.prefill if True else"),
    ("14.3", "letters counted for tokens", TEXT, "settings.prefill[: settings.prefill_tokens] if settings.prefill_tokens else"),
    ("14.4", "the pair's own settings", BIN, "pair.config"),
    ("14.4", "the shortest bin: every disagreement is an alarm", BIN, "replace(pair.config, bin_size=1)"),
    ("14.4", "Union from the first token on touches everything", BIN, 'replace(pair.config, start_scheme="union")'),
    ("14.2", "a second favourite of the target is no rival", "    rivals = closing > 0\n", "    rivals = (closing > 0) & (gap > 0)\n"),
    ("14.2", "a rival that comes closer slowly never arrives", "    rivals = closing > 0\n", "    rivals = closing > 0.03\n"),
    ("14.2", "the probabilities that were given are changed", "    gap = target[favourite] - target\n", "    gap = target[favourite] - target\n    target -= target.max()\n"),
    ("14.3", "candidates, decays and the start forgotten", READ,
     "tuple(getattr(settings.config, n) for n in ('alpha_intersection', 'alpha_union', 'threshold', 'bin_size', 'lookahead', 'do_sample', 'temperature', 'top_p', 'seed'))"
     ' if settings.defender in ("ssd", "ssd-hardened") else None'),
    ("14.3", "α rounded to two digits", READ,
     'replace(settings.config, alpha_intersection=round(settings.config.alpha_intersection, 2)) if settings.defender in ("ssd", "ssd-hardened") else None'),
    ("14.3", "small and capital letters of the question are the same", KEY, KEY.replace("settings.question", "settings.question.lower()")),
    ("14.3", "question and text run into each other", KEY, KEY.replace("settings.question, text", "settings.question + text")),
    ("14.3", "only the text's beginning counts", TEXT, "settings.prefill[:100] if settings.prefill_tokens else"),
    ("14.3", "the greatest length in tens", KEY, KEY.replace("settings.max_new_tokens", "(settings.max_new_tokens + 9) // 10")),
    ("14.3", "defenders known by their first four letters", KEY, KEY.replace("settings.defender", "settings.defender[:4]")),
]  # fmt: skip
