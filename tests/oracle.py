"""The contract in plain Python: lists, sets, full forwards, one token at a time. Shares no code with ssd_lib.

It follows docs/contract.md literally: each token is a function of the prefix and the switching state, so there are
no rounds and no lookahead here.
"""

import torch


def probabilities(model, ids, processors=None, context=None):
    """processors: transformers' own, in view of `context`: the target's prompt and the answer."""
    with torch.no_grad():
        scores = model(torch.tensor([ids])).logits[:, -1].float()
    if processors:
        scores = processors(torch.tensor([context]), scores)
    return torch.softmax(scores[0], -1).tolist()


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


def decode(target, draft, prompt, draft_prompt, config, max_new_tokens, eos, prefilled=0, processors=None):
    """Hardened switching included: an event's last entry says whether its token was taken back.

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
            probabilities(model, ids + answer, processors, prompt + answer)
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
        if config.fixed_scheme or not (
            in_bin == config.bin_size or (config.retract and (ended or certain) and in_bin >= config.tail_tokens)
        ):
            continue
        before, union = union, sum(matches[-in_bin:]) / in_bin < threshold
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
