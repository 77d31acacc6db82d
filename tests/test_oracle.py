"""That the comparison with the oracle can fail: each rule is broken in turn."""

from dataclasses import replace

import pytest
import torch

from ssd_lib.decoding import decoder
from ssd_lib.method import switching
from tests.reliability import answers, oracle

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shapes_unchecked")]


def test_a_wrong_acceptance_rule_is_seen(monkeypatch):
    def accepts_all_of_the_space(wanted, draft_probs, proposal, generator):
        token, accepted = right(wanted, draft_probs, proposal, generator)
        inside = wanted.gather(-1, proposal.unsqueeze(-1)).squeeze(-1) > 0
        return torch.where(inside, proposal, token), accepted | inside

    right, config = decoder.accept_or_resample, answers.random_config
    monkeypatch.setattr(decoder, "accept_or_resample", accepts_all_of_the_space)
    monkeypatch.setattr(answers, "random_config", lambda rng: replace(config(rng), do_sample=True))
    found = oracle.run(100).failures
    assert any("sampled tokens are not distributed" in line for line in found)
    assert any("accepted proposals are not distributed" in line for line in found)


def test_a_threshold_that_does_not_decay_is_seen(monkeypatch):
    def stays(state, active, config, ends=None):
        return right(state, active, replace(config, threshold_decay=0.0), ends)

    right = switching.decide
    monkeypatch.setattr(switching, "decide", stays)
    found = oracle.run(30).failures
    assert len(found) > 5 and "seed" in found[0]
    seed = int(found[0].split()[1].rstrip(","))
    assert answers.one_case(seed).failures == found[:1]
    monkeypatch.undo()
    assert not answers.one_case(seed).failures
