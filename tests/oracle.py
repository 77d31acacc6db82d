"""The contract in plain Python: lists, sets, full forwards, one token at a time. Shares no code with ssd_lib.

It follows docs/contract.md literally: each token is a function of the prefix and the switching state, so there are
no rounds and no lookahead here.
"""

import torch


def probabilities(model, ids, processors=None, context=None, temperature=1.0):
    """processors: transformers' own, in view of `context`: the target's prompt and the answer."""
    with torch.no_grad():
        scores = model(torch.tensor([ids])).logits[:, -1].float()
    if processors:
        scores = processors(torch.tensor([context]), scores)
    return torch.softmax(scores[0] / temperature, -1).tolist()


def top(probs, k):
    """The k likeliest tokens, ties to the lower id."""
    return sorted(range(len(probs)), key=lambda token: (-probs[token], token))[:k]


def best(space, score):
    return min(space, key=lambda token: (-score[token], token))


def prefill_alarm(draft, prompt, draft_prompt, config, prefilled, processors=None):
    """`count_prefill`: whether the last b given tokens are so unlike the draft that the first bin is decoded in Union."""
    b = config.bin_size
    if not config.count_prefill or prefilled < b or len(draft_prompt) <= b or config.fixed_scheme:
        return False
    likes = [
        top(probabilities(draft, draft_prompt[:-n], processors, prompt[:-n]), 1)[0] == draft_prompt[-n]
        for n in range(1, b + 1)
    ]
    return sum(likes) / b < config.threshold


class Drawn:
    """A sampled answer to follow: its tokens, taken-back ones included, whether each was accepted, and how likely that was.

    `chances` holds, for every token, how likely each of 2 · vocabulary outcomes was: the draft's proposal x is accepted, and x
    is drawn after a rejection.
    """

    def __init__(self, tokens, accepted):
        self.left, self.outcomes, self.chances = list(zip(tokens, accepted, strict=True)), [], []

    def next(self, f_plus, p_draft):
        """The next token and whether it was accepted."""
        token, accepted = self.left.pop(0)
        self.outcomes.append(token + (0 if accepted else len(f_plus)))
        accepting = [min(wanted, proposed) for wanted, proposed in zip(f_plus, p_draft, strict=True)]
        self.chances.append(accepting + [wanted - kept for wanted, kept in zip(f_plus, accepting, strict=True)])
        return token, accepted


def composite_distribution(space, score, p_target, insisted, config):
    """F⁺: what a sampled token is distributed as."""
    if insisted:
        values = p_target
    else:
        values = [max(value, 0.0) if token in space else 0.0 for token, value in enumerate(score)]
        if not any(values):
            values = [float(token == best(space, score)) for token in range(len(score))]
    values = normalised(values)
    ranked = top(values, len(values))
    if config.top_k:
        values = normalised([value if token in ranked[: config.top_k] else 0.0 for token, value in enumerate(values)])
    if config.top_p < 1:
        kept, mass = [], 0.0
        for token in ranked:
            if mass >= config.top_p:
                break
            kept.append(token)
            mass += values[token]
        values = normalised([value if token in kept else 0.0 for token, value in enumerate(values)])
    return values


def normalised(values):
    return [value / sum(values) for value in values]


def decode(target, draft, prompt, draft_prompt, config, max_new_tokens, eos, prefilled=0, processors=None, drawn=None):
    """Hardened switching included: an event's last entry says whether its token was taken back.

    drawn: A sampled answer, whose draws are followed (`Drawn`); without it the answer is greedy.
    Returns the answer's ids, what happened, a list of (scheme, matched, insisted, k, threshold, alpha_i, retracted), and the
    narrowest decision: below rounding error, which of two tokens is likelier is not defined by the contract."""
    narrowest = 1.0
    threshold, alpha_i = config.threshold, config.alpha_intersection
    union = (config.fixed_scheme or config.start_scheme) == "union" or prefill_alarm(
        draft, prompt, draft_prompt, config, prefilled, processors
    )
    answer, events, matches, standing = [], [], [], []
    while len(answer) < max_new_tokens and not (answer and answer[-1] in eos):
        p_target, p_draft = (
            probabilities(model, ids + answer, processors, prompt + answer, config.temperature if drawn else 1.0)
            for model, ids in ((target, prompt), (draft, draft_prompt))
        )
        vocabulary = len(p_target)
        alpha = config.alpha_union if union else alpha_i
        # The library keeps F in fp32; so does this line, to compare equal candidates equally.
        score = (
            torch.tensor(p_target) + torch.tensor(alpha).float() * (torch.tensor(p_draft) - torch.tensor(p_target))
        ).tolist()
        insisted, k, space = False, None, set()
        if union:
            space = set(top(p_target, config.candidates)) | set(top(p_draft, config.candidates))
            token = best(space, score)
        else:
            k = 1
            while len(set(top(p_target, k)) & set(top(p_draft, k))) < min(config.candidates, vocabulary):
                k += 1
            favourite = top(p_target, 1)[0]
            insisted = favourite not in top(p_draft, k)
            space = set(top(p_target, k)) & set(top(p_draft, k))
            token = favourite if insisted else best(space, score)
        matched = token == top(p_draft, 1)[0]
        if drawn:
            f_plus = composite_distribution(space, score, p_target, insisted, config)
            token, matched = drawn.next(f_plus, p_draft)
        ordered = [
            sorted((values[x] for x in tokens), reverse=True)
            for values, tokens in ((p_draft, range(vocabulary)), (p_target, range(vocabulary)), (score, space))
        ]
        narrowest = min([narrowest, *(values[0] - values[1] for values in ordered if len(values) > 1)])
        standing.append(len(events))
        events.append(["union" if union else "intersection", matched, insisted, k, threshold, alpha_i, False])
        answer.append(token)
        matches.append(matched)
        in_bin = (len(matches) - 1) % config.bin_size + 1
        ended = token in eos or len(answer) == max_new_tokens
        certain = not union and (sum(matches[-in_bin:]) + config.bin_size - in_bin) / config.bin_size < threshold
        early = config.retract and not config.fixed_scheme and (ended or certain) and in_bin >= config.tail_tokens
        if not (in_bin == config.bin_size or early):
            continue
        before, union = union, union if config.fixed_scheme else sum(matches[-in_bin:]) / in_bin < threshold
        if union == before:
            threshold = max(threshold - config.threshold_decay, config.threshold_floor)
            if not union:
                alpha_i = min(alpha_i, max(alpha_i - config.alpha_decay, config.alpha_floor))
            continue
        threshold, alpha_i = config.threshold, config.alpha_intersection
        if config.retract and union:
            for place in standing[-in_bin:]:
                events[place][-1] = True
            del answer[-in_bin:], matches[-in_bin:], standing[-in_bin:]
    return answer, events, narrowest
