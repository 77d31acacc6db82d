"""The contract in plain Python: lists, sets, full forwards, one token at a time. Shares no code with ssd_lib.

It follows shared/algorithm.md literally: each token is a function of the prefix and the switching state, so there are
no rounds and no lookahead here.
"""

import torch


def probabilities(model, ids):
    with torch.no_grad():
        return torch.softmax(model(torch.tensor([ids])).logits[0, -1].float(), -1).tolist()


def top(probs, k):
    """The k likeliest tokens, ties to the lower id."""
    return sorted(range(len(probs)), key=lambda token: (-probs[token], token))[:k]


def best(space, score):
    return min(space, key=lambda token: (-score[token], token))


def decode(target, draft, prompt, draft_prompt, config, max_new_tokens, eos):
    """Returns the answer's ids, what happened, a list of (scheme, matched, insisted, k, threshold, alpha_i), and the
    narrowest decision: below rounding error, which of two tokens is likelier is not defined by the contract."""
    narrowest = 1.0
    union, threshold, alpha_i = config.start_scheme == "union", config.threshold, config.alpha_intersection
    answer, events, matches = [], [], []
    while len(answer) < max_new_tokens:
        p_target, p_draft = probabilities(target, prompt + answer), probabilities(draft, draft_prompt + answer)
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
        events.append(("union" if union else "intersection", matched, insisted, k, threshold, alpha_i))
        answer.append(token)
        matches.append(matched)
        if token in eos:
            break
        if len(matches) % config.bin_size == 0:
            beta = sum(matches[-config.bin_size :]) / config.bin_size
            next_union = beta < threshold
            if next_union == union:
                threshold = max(threshold - config.threshold_decay, 0)
                if not union:
                    alpha_i = min(alpha_i, max(alpha_i - config.alpha_decay, config.alpha_floor))
            else:
                threshold, alpha_i = config.threshold, config.alpha_intersection
            union = next_union
    return answer, events, narrowest
