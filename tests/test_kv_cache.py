"""The cache: continuing, rewinding and ragged rows give what full forwards give."""

import pytest
import torch
from conftest import micro_llama

from ssd_lib.decoding.kv_cache import VISIBLE_STEP, CachedModel, RowCache


def full(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float()


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.inference_mode()
def test_ragged_rows_continue_and_rewind_like_full_forwards(kv_heads, attention):
    model = micro_llama(0, layers=2, kv_heads=kv_heads)
    model.set_attn_implementation(attention)
    rows = [[3, 4, 5, 6, 7], [8, 9]]
    cached = CachedModel(model, rows, 40)
    cached.cache.show_up_to(12)
    cached.forward(torch.tensor([[7, 11, 12], [9, 13, 14]]))
    cached.cache.advance(3)
    cached.cache.rewind(torch.tensor([2, 1]))  # keeps 7 | 9 13
    logits = cached.forward(torch.tensor([[15, 16], [17, 18]]))
    torch.testing.assert_close(logits[0], full(model, [*rows[0], 15, 16])[-2:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits[1], full(model, [*rows[1], 13, 17, 18])[-2:], atol=1e-5, rtol=1e-4)


def test_the_mask_shows_each_token_its_own_past():
    cache = RowCache(1, 2, 8, "cpu")
    cache.advance(torch.tensor([3, 1]))
    mask = cache.mask(cache.positions(2))
    assert mask.shape == (2, 1, 2, 8)
    assert mask[0, 0].sum(-1).tolist() == [4, 5] and mask[1, 0].sum(-1).tolist() == [2, 3]


def test_the_visible_part_grows_in_steps_and_never_beyond_the_slots():
    cache = RowCache(1, 1, 100, "cpu")
    cache.show_up_to(1)
    assert cache.visible == VISIBLE_STEP
    cache.show_up_to(99)
    assert cache.visible == 100
