"""Mistakes in the solution of chapter 06."""

LAYER = 'f"{BEFORE} {nest(question, layers - 1)} {AFTER}"'
CHANGE = "gradient - gradient[places, suffix][:, None]"
PAIRS = "(int(i) // change.shape[1], int(i) % change.shape[1])"
STEP = "min(possible, key=loss, default=current)"
POSSIBLE = "[copy for copy in copies if typed(copy)]"
WORDS = 'f"{story} In the last story somebody asks: {question} What is the answer?"'

MUTANTS = [
    ("06.1", "one layer, however many are asked for", LAYER, 'f"{BEFORE} {question} {AFTER}"'),
    ("06.1", "no layer is one layer", "if layers == 0:", "if layers == -1:"),
    ("06.1", "the first layer is left out", "if layers == 0:", "if layers <= 1:"),
    ("06.1", "what comes after the question is said once only", LAYER, 'f"{BEFORE} " * layers + f"{question} {AFTER}"'),
    ("06.1", "layers pile up before the question", LAYER, 'f"{BEFORE} {AFTER} {nest(question, layers - 1)}"'),
    ("06.1", "no space between the sentences", LAYER, 'f"{BEFORE}{nest(question, layers - 1)}{AFTER}"'),
    ("06.1", "the two sentences exchanged", LAYER, 'f"{AFTER} {nest(question, layers - 1)} {BEFORE}"'),
    ("06.1", "a space too many at the end", LAYER, 'f"{BEFORE} {nest(question, layers - 1)} {AFTER} "'),
    ("06.2", "the gradient at the new token taken for the change", CHANGE, "gradient.copy()"),
    ("06.2", "the sign of the change turned round", CHANGE, "gradient[places, suffix][:, None] - gradient"),
    ("06.2", "the row's mean subtracted, not the entry of the token that stands there", CHANGE,
     "gradient - gradient.mean(1, keepdims=True)"),
    ("06.2", "ranked by how much changes, up or down", CHANGE, "-np.abs(gradient - gradient[places, suffix][:, None])"),
    ("06.2", "the suffix's first token taken for every place", CHANGE, "gradient - gradient[:, suffix[0]][:, None]"),
    ("06.2", "banned tokens are proposed", "change[:, banned] = np.inf", "pass"),
    ("06.2", "only the tokens that are not banned are thrown out", "change[:, banned] = np.inf", "change[:, ~banned] = np.inf"),
    ("06.2", "banned tokens get 0 and still win", "change[:, banned] = np.inf", "change[:, banned] = 0"),
    ("06.2", "the token that stands there counts as a swap", "change[places, suffix] = np.inf", "pass"),
    ("06.2", "the current tokens are left out at every place", "change[places, suffix] = np.inf", "change[:, suffix] = np.inf"),
    ("06.2", "the highest change first", "change.ravel().argsort()[:count]", "(-change).ravel().argsort()[:count]"),
    ("06.2", "the last of the ranking, not its beginning", "change.ravel().argsort()[:count]", "change.ravel().argsort()[-count:]"),
    ("06.2", "one swap too few", "change.ravel().argsort()[:count]", "change.ravel().argsort()[: count - 1]"),
    ("06.2", "flattened in the wrong order", "change.ravel().argsort()[:count]", "change.T.ravel().argsort()[:count]"),
    ("06.2", "the right swaps, not ordered", "change.ravel().argsort()[:count]", "sorted(change.ravel().argsort()[:count])"),
    ("06.2", "(token, place)", PAIRS, "(int(i) % change.shape[1], int(i) // change.shape[1])"),
    ("06.2", "divided by the number of places", PAIRS, "(int(i) // len(suffix), int(i) % len(suffix))"),
    ("06.2", "one swap for each place", PAIRS + " for i in first", "(j, int(change[j].argmin())) for j in range(len(suffix))"),
    ("06.3", "any copy, typed or not", POSSIBLE, "list(copies)"),
    ("06.3", "the copies that cannot be typed", POSSIBLE, "[copy for copy in copies if not typed(copy)]"),
    ("06.3", "only the first copy is looked at", POSSIBLE, "[copy for copy in copies[:1] if typed(copy)]"),
    ("06.3", "the highest loss", STEP, "max(possible, key=loss, default=current)"),
    ("06.3", "stays where every copy is worse", STEP, "min([current, *possible], key=loss)"),
    ("06.3", "the last of equal losses", STEP, "min(possible[::-1], key=loss, default=current)"),
    ("06.3", "the first copy that can be typed, whatever its loss", STEP, "next(iter(possible), current)"),
    ("06.3", "nothing where no copy can be typed", STEP, "min(possible, key=loss, default=None)"),
    ("06.3", "an error where no copy can be typed", STEP, "min(possible, key=loss)"),
    ("06.3", "the smallest token ids, not the smallest loss", STEP, "min(possible, default=current)"),
    ("06.4", "no words at all", WORDS, "question"),
    ("06.4", "a promise in the user's turn, where it is no beginning of the answer", WORDS, 'f"{question} Sure, here is how:"'),
    ("06.4", "the question left out", WORDS, 'f"{story} In the last story somebody asks: What is the answer?"'),
    ("06.4", "words that depend on the question", WORDS, 'f"{story} {question} {len(question)}"'),
    ("06.4", "too long", WORDS, 'f"{story * 5} {question}"'),
]  # fmt: skip
