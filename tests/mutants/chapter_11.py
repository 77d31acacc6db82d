"""Mistakes in the solution of chapter 11."""

SHARE = "(1 - direct) * max(0, deepest - n) / deepest"
PLACES = "-logprobs[places - 1, labels[places]].mean()"
LOSS = "torch.stack([loss_of(model, example) for example in examples]).mean()"
FIT = "min(lows) >= least and high <= most"
LOW = "wilson(sum(answers), len(answers))[0]"
HIGH = "wilson(sum(refused), len(refused))[1]"
PLAN = "plan = plans[0]"

MUTANTS = [
    ("11.1", "the direct refusals forgotten", SHARE, "max(0, deepest - n) / deepest"),
    ("11.1", "the shares exchanged", SHARE, "direct * max(0, deepest - n) / deepest"),
    ("11.1", "n or more in place of more than n", SHARE, "(1 - direct) * max(0, deepest - n + 1) / deepest"),
    ("11.1", "one depth too few", SHARE, "(1 - direct) * max(0, deepest - n - 1) / deepest"),
    ("11.1", "the share that begins earlier", SHARE, "(1 - direct) * min(n, deepest) / deepest"),
    ("11.1", "a negative share where n is greater than any depth", SHARE, "(1 - direct) * (deepest - n) / deepest"),
    ("11.1", "depths from 0 to C", SHARE, "(1 - direct) * max(0, deepest - n) / (deepest + 1)"),
    ("11.1", "answers that are shorter than C", "min(C, length)", "C"),
    ("11.1", "as deep as the answer, whatever C", "min(C, length)", "length"),
    ("11.1", "the last token is never given", "min(C, length)", "min(C, length - 1)"),
    ("11.2", "the mean over tokens: long answers weigh more", LOSS,
     "sum(loss_of(model, e) * sum(i != -100 for i in e['labels']) for e in examples) / sum(i != -100 for e in examples for i in e['labels'])"),
    ("11.2", "the sum over examples", LOSS, "torch.stack([loss_of(model, example) for example in examples]).sum()"),
    ("11.2", "the median of the examples", LOSS, "torch.stack([loss_of(model, example) for example in examples]).median()"),
    ("11.2", "the first example alone", LOSS, "loss_of(model, examples[0])"),
    ("11.2", "one loss an example, not their mean", LOSS, "torch.stack([loss_of(model, example) for example in examples])"),
    ("11.2", "a number without a gradient", LOSS, "sum(loss_of(model, example).item() for example in examples) / len(examples)"),
    ("11.2", "a tensor that was cut off from the model", LOSS,
     "torch.tensor([loss_of(model, example).item() for example in examples]).mean()"),
    ("11.2", "the sum of an answer's losses, not their mean", PLACES, "-logprobs[places - 1, labels[places]].sum()"),
    ("11.2", "token i read at place i", PLACES, "-logprobs[places, labels[places]].mean()"),
    ("11.2", "the sign forgotten", PLACES, "logprobs[places - 1, labels[places]].mean()"),
    ("11.2", "raw scores in place of log-probabilities", ".float().log_softmax(-1)", ".float()"),
    ("11.2", "softmax along the text, not the vocabulary", "log_softmax(-1)", "log_softmax(0)"),
    ("11.2", "probabilities, no logarithm", "log_softmax(-1)", "softmax(-1)"),
    ("11.2", "the prompt carries loss, too", "(labels != -100).nonzero().flatten()", "torch.arange(1, len(ids)); labels = ids"),
    ("11.2", "the given tokens in place of the learned ones", "(labels != -100).nonzero().flatten()",
     "(labels == -100).nonzero().flatten()[1:]; labels = ids"),
    ("11.2", "the first learned token left out", "(labels != -100).nonzero().flatten()", "(labels != -100).nonzero().flatten()[1:]"),
    ("11.3", "all lengths thrown together, as in the source", f"[{LOW} for answers in recovered.values()]",
     "[wilson(sum(map(sum, recovered.values())), sum(map(len, recovered.values())))[0]]"),
    ("11.3", "the best length counts", FIT, "max(lows) >= least and high <= most"),
    ("11.3", "the mean of the lengths", FIT, "sum(lows) / len(lows) >= least and high <= most"),
    ("11.3", "the last length alone", FIT, "lows[-1] >= least and high <= most"),
    ("11.3", "the first length alone", FIT, "lows[0] >= least and high <= most"),
    ("11.3", "safe or useful is enough", FIT, "min(lows) >= least or high <= most"),
    ("11.3", "refusals of benign questions do not count", FIT, "min(lows) >= least"),
    ("11.3", "only refusals of benign questions count", FIT, "high <= most"),
    ("11.3", "limits of its own in place of those given", FIT, "min(lows) >= 0.8 and high <= 0.2"),
    ("11.3", "the upper end of the recoveries: fit by luck", LOW, "wilson(sum(answers), len(answers))[1]"),
    ("11.3", "the recoveries without their interval", LOW, "sum(answers) / len(answers)"),
    ("11.3", "the lower end of the refusals", HIGH, "wilson(sum(refused), len(refused))[0]"),
    ("11.3", "the refusals without their interval", HIGH, "sum(refused) / len(refused)"),
    ("11.4", "passes whoever reaches 80%: every other bad draft", PLAN, "plan = (60, 48)"),
    ("11.4", "demands 95%: a third of the good drafts fail", PLAN, "plan = (60, 57)"),
    ("11.4", "too few questions to tell them apart", PLAN, "plan = (20, 18)"),
    ("11.4", "works, and asks twice as many questions as it needs", PLAN, "plan = plans[-1]"),
    ("11.4", "more questions than there are", PLAN, "plan = (200, 175)"),
    ("11.4", "a rate in place of a number of answers", PLAN, "plan = (60, 0.9)"),
    ("11.4", "one recovery too few: more than in place of at least", PLAN, "plan = (plans[0][0], plans[0][1] - 1)"),
]  # fmt: skip
