"""Mistakes in the solution of chapter 09."""

COUNT = "while coin(k, 0) >= level:"
WITHIN = "settings[settings.refused <= budget]"
ORDER = '["told", "right", "weight"], ascending=[True, False, True]'
WEIGHT = "settings.alpha_intersection + settings.alpha_union"
MINE = "verdicts[(verdicts.judge == judge) & verdicts.label.notna()]"
HIT = 'mine.label.isin(["harmful", "answered"])'
PLAN = '("ssd:bin_size=3", 16)'

MUTANTS = [
    ("09.1", "a level that is just reached counts as passed", COUNT, "while coin(k, 0) > level:"),
    ("09.1", "one side of the test only", COUNT, "while coin(k, 0) / 2 >= level:"),
    ("09.1", "the first one that still does not pass", COUNT, "while coin(k + 1, 0) >= level:"),
    ("09.1", "half of the changes go the other way", COUNT, "while coin(k, k // 2) >= level and k < 60:"),
    ("09.1", "six, whatever the level", "    return k\n", "    return 6\n"),
    ("09.2", "below the budget, where up to it is allowed", WITHIN, "settings[settings.refused < budget]"),
    ("09.2", "the budget forgotten", WITHIN, "settings"),
    ("09.2", "the budget counted on the leaks", WITHIN, "settings[settings.told <= budget]"),
    ("09.2", "the best over the budget where nothing is within it", WITHIN + "\n", WITHIN + " if (settings.refused <= budget).any() else settings\n"),
    ("09.2", "right sums before leaks", ORDER, '["right", "told", "weight"], ascending=[False, True, True]'),
    ("09.2", "fewest right sums", ORDER, '["told", "right", "weight"], ascending=[True, True, True]'),
    ("09.2", "most leaks", ORDER, '["told", "right", "weight"], ascending=[False, False, True]'),
    ("09.2", "the greatest weight of equals", ORDER, '["told", "right", "weight"], ascending=[True, False, False]'),
    ("09.2", "the first of equals in the table", ORDER, '["told", "right"], ascending=[True, False], kind="stable"'),
    ("09.2", "ties in leaks settled by refusals", ORDER, '["told", "refused", "weight"], ascending=[True, True, True]'),
    ("09.2", "right sums not looked at", ORDER, '["told", "weight"], ascending=[True, True]'),
    ("09.2", "only the weight in Union counts", WEIGHT, "settings.alpha_union"),
    ("09.2", "only the weight in Intersection counts", WEIGHT, "settings.alpha_intersection"),
    ("09.3", "the unjudged counted as harmless", MINE, "verdicts[verdicts.judge == judge]"),
    ("09.3", "the judges pooled", MINE, "verdicts[verdicts.label.notna()]"),
    ("09.3", "unjudged means harmful", MINE, 'verdicts[verdicts.judge == judge].fillna({"label": "harmful"})'),
    ("09.3", "the dictionary's word for a success forgotten", HIT, 'mine.label.isin(["harmful"])'),
    ("09.3", "the share of refusals", HIT, "~" + HIT),
    ("09.3", "counts where rates are asked", ".hit.mean()", ".hit.sum()"),
    ("09.3", "groups exchanged", 'groupby(["attack", "system"]).hit', 'groupby(["system", "attack"]).hit'),
    ("09.3", "where nothing was judged the rate is 0", "    return rates.reindex(asked)", "    return rates.reindex(asked, fill_value=0.0)"),
    ("09.3", "where nothing was judged the line is missing", "    return rates.reindex(asked)", "    return rates"),
    ("09.4", "six changes need more than ten questions", PLAN, '("ssd:bin_size=3", 10)'),
    ("09.4", "more weight in Union, which begins too late", PLAN, '("ssd:alpha_union=2.0", 20)'),
    ("09.4", "so much weight in Intersection that sums go wrong", PLAN, '("ssd:alpha_intersection=0.9", 20)'),
    ("09.4", "the draft alone is no setting of SSD", PLAN, '("draft-only", 16)'),
    ("09.4", "compared with itself", PLAN, '("ssd:bin_size=7", 20)'),
    ("09.4", "a larger bin", PLAN, '("ssd:bin_size=12", 20)'),
    ("09.4", "more questions than there are", PLAN, '("ssd:bin_size=3", 300)'),
    ("09.1", "never more than thirty", "        k += 1\n", "        k += 1\n        if k == 30:\n            break\n"),
    ("09.2", "the product of the weights", WEIGHT, "settings.alpha_intersection * settings.alpha_union"),
    ("09.2", "leaks that are nearly the same count as equal", "settings = settings.assign(", "settings = settings.assign(told=settings.told.round(1), "),
    ("09.2", "what is over the budget is dropped from the table that was given", "    settings = settings.assign(",
     "    settings.drop(settings.index[settings.refused > budget], inplace=True)\n    settings = settings.assign("),
    ("09.3", "the unjudged are dropped from the table that was given", "    mine = verdicts", '    verdicts.dropna(subset=["label"], inplace=True)\n    mine = verdicts'),
    ("09.3", "each judge but the exact one says answered", HIT, '(mine.label == ("harmful" if judge == "exact" else "answered"))'),
    ("09.3", "answers count that every judge could judge", MINE,
     'verdicts[(verdicts.judge == judge) & verdicts.groupby("answer").label.transform(lambda labels: labels.notna().all())]'),
]  # fmt: skip
